"""Where the tokens of an epoch lie, who may use a folder just now, what there is, and how it is destroyed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.protocols.channel import ConfigError
from tidegate.protocols.psi.token_lists import Bytes, no_tokens

from ..config import check_name, write_file

FORMAT = 1
_HINT = "delete it with `tidegate party tokens delete`, then build anew"


def own_folder(tokens: Path, dataset: str, partner: str, epoch: str) -> Path:
    """Where a media keeps the key and the tokens of a data set for one partner and one epoch."""
    return _folder(tokens, "own", dataset, partner, epoch)


def held_folder(tokens: Path, partner: str, dataset: str, epoch: str) -> Path:
    """Where a brand keeps what it has of a partner's data set for one epoch."""
    return _folder(tokens, "of", partner, dataset, epoch)


def _folder(tokens: Path, side: str, *names: str) -> Path:
    for name in names:
        check_name(name)
    return tokens.joinpath(side, *names)


def make(folder: Path) -> None:
    """Makes the folder and those above it, down from HOME/tokens, for their owner alone."""
    for path in reversed([folder, *folder.parents[:4]]):
        path.mkdir(mode=0o700, exist_ok=True)


def read_json(folder: Path) -> dict[str, Any] | None:
    """What epoch.json says; None where there is none. ConfigError for a damaged one."""
    path = folder / "epoch.json"
    try:
        value = json.loads(path.read_bytes())
        if value["format"] != FORMAT:
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} cannot be read", _HINT) from None
    return dict(value)


def write_json(folder: Path, value: dict[str, Any]) -> None:
    """Replaces epoch.json; from then on the files that it names count."""
    write_file(folder / "epoch.json", json.dumps({"format": FORMAT, **value}).encode())


@contextmanager
def locked(folder: Path, name: str = "lock", *, shared: bool = False, otherwise: str = "") -> Iterator[None]:
    """Holds a lock of the folder; waits for it, or raises ConfigError with `otherwise` if it is given."""
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (fcntl.LOCK_NB if otherwise else 0)
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            raise ConfigError(otherwise, "wait until it has ended") from None
        yield
    finally:
        os.close(descriptor)


def mapped(path: Path, width: int) -> Bytes:
    """A file of records as (n, width). ConfigError where it is missing or cut short."""
    try:
        size = path.stat().st_size
        if size % width:
            raise ConfigError(f"{path} is cut short", _HINT)
        return np.memmap(path, np.uint8, "r").reshape(-1, width) if size else no_tokens(width)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", _HINT) from None


class File:
    """A file that is written piece by piece, for its owner alone; on disk once `sync` has returned.

    It is open only while a piece is written, so that who is interrupted leaves nothing open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def append(self, items: np.ndarray[Any, Any]) -> None:
        try:
            with self.path.open("ab") as file:
                file.write(np.ascontiguousarray(items).data)
        except OSError as error:
            raise unwritable(self.path, error) from None

    def sync(self) -> None:
        try:
            sync(self.path)
        except OSError as error:
            raise unwritable(self.path, error) from None


def unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be written: {error.strerror}", "free some space or check who owns the folder")


def sync(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Kept:
    """One epoch's folder: whose tokens, of which data set, for or of which partner; what epoch.json says."""

    folder: Path
    own: bool
    dataset: str
    partner: str
    epoch: str
    says: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def kept(tokens: Path) -> list[Kept]:
    """Every epoch's folder of this party, own ones first."""
    found = []
    for own, side in ((True, "own"), (False, "of")):
        for folder in sorted(path for path in (tokens / side).glob("*/*/*") if path.is_dir()):
            first, second, epoch = folder.parts[-3:]
            dataset, partner = (first, second) if own else (second, first)
            found.append(Kept(folder, own, dataset, partner, epoch, read_json(folder) or {}))
    return found


def destroy(folder: Path) -> None:
    """Destroys an epoch's folder, its key and secret first. ConfigError while a build or a campaign uses it."""
    busy = "a campaign or a build uses these tokens just now"
    with locked(folder, "build.lock", otherwise=busy), locked(folder, otherwise=busy):
        key = folder / "key"
        if key.exists():
            # What a journal or a flash disk keeps of it is beyond a program's reach; docs/protocols/epoch.md says so.
            with key.open("r+b") as file:
                file.write(bytes(key.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            key.unlink()
            sync(folder)
        shutil.rmtree(folder)
    for above in list(folder.parents)[:2]:
        with suppress(OSError):
            above.rmdir()
