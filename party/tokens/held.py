"""What a brand keeps of a partner's tokens within an epoch, so that the next run asks only for what is new."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.psi.epoch import NAME_BYTES, SECRET_BYTES, Held
from tidegate.protocols.psi.token_lists import Bytes

from ..config import write_file
from .folders import File, make, mapped, read_json, sync, write_json


class FileSink:
    """Takes a list of tokens into a file of the folder."""

    def __init__(self, folder: Path, width: int) -> None:
        self._file, self._width = File(folder / _fresh_name("tokens")), width

    def append(self, tokens: Bytes) -> None:
        self._file.append(tokens)

    def whole(self) -> Bytes:
        self._file.sync()
        return mapped(self._file.path, self._width)


def load(folder: Path, kinds: tuple[str, ...], randomness: Randomness) -> dict[str, Held]:
    """What is kept there of each kind; nothing yet, for a new folder. The caller holds the folder's lock."""
    make(folder)
    says = read_json(folder)
    if says is None:
        if not (folder / "key").exists():
            write_file(folder / "key", randomness.bytes(SECRET_BYTES))
        says = {"sets": {}}
    _forget(folder, says)
    secret = (folder / "key").read_bytes()
    return {kind: _held(folder, secret, says["sets"].get(kind)) for kind in kinds}


def save(folder: Path, held: dict[str, Held]) -> None:
    """Keeps what a run has learnt for the next one. Kinds that are not given stay as they were."""
    says = read_json(folder) or {"sets": {}}
    for kind, one in held.items():
        state = {
            "key": one.key.hex(),
            "width": one.evaluated.shape[1],
            "version": one.version.hex(),
            "bits": len(one.part).bit_length() - 1,
            "people": len(one.names),
            "tokens": len(one.tokens),
        }
        if one.key:
            files = {"part": one.part.astype(np.uint8), "names": one.names, "evaluated": one.evaluated}
            state |= {f"{what}_file": _written(folder, what, items) for what, items in files.items()}
            state["tokens_file"] = _written(folder, "tokens", one.tokens)
            says["sets"][kind] = state
    sync(folder)
    write_json(folder, says)
    _forget(folder, says)


def _held(folder: Path, secret: bytes, state: dict[str, Any] | None) -> Held:
    if state is None:
        return Held(secret)
    width = state["width"]
    return Held(
        secret=secret,
        key=bytes.fromhex(state["key"]),
        names=np.array(mapped(folder / state["names_file"], NAME_BYTES)),
        evaluated=np.array(mapped(folder / state["evaluated_file"], width)),
        tokens=mapped(folder / state["tokens_file"], width),
        version=bytes.fromhex(state["version"]),
        part=np.array(mapped(folder / state["part_file"], 1)).ravel().astype(np.bool_),
    )


def _written(folder: Path, what: str, items: Any) -> str:
    """The name of a file in the folder with these items: the one that they are a map of, or a new one."""
    if isinstance(items, np.memmap) and items.filename is not None:
        return Path(items.filename).name
    file = File(folder / _fresh_name(what))
    file.append(items)
    file.sync()
    return file.path.name


def _fresh_name(what: str) -> str:
    return f"{what}-{secrets.token_hex(8)}"


def _forget(folder: Path, says: dict[str, Any]) -> None:
    """Removes the files that epoch.json does not name: of earlier runs, or of one that was killed."""
    named = {state[name] for state in says["sets"].values() for name in state if name.endswith("_file")}
    for path in folder.iterdir():
        if path.name not in named | {"epoch.json", "key", "lock", "build.lock"}:
            path.unlink()
