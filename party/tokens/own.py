"""What a media has of an epoch: the key, a data set's tokens as they are now, what has changed, the budget."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.protocols.channel import ConfigError, PolicyError
from tidegate.protocols.primitives.group import Scalar
from tidegate.protocols.psi import epoch
from tidegate.protocols.psi.epoch import Rows
from tidegate.protocols.psi.token_lists import Bytes, no_tokens, places, rising_order

from ..config import write_file
from .folders import locked, mapped, read_json

# As many earlier states of a data set can be refreshed by difference.
REMEMBERED = 16
ROW_BYTES = 4


@dataclass(frozen=True)
class Secrets:
    """The epoch's key and the secret of the pseudonyms in the same folder."""

    scalar: Scalar
    local: bytes = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> Secrets:
        try:
            data = (folder / "key").read_bytes()
            return cls(Scalar.from_bytes(data[:32]), data[32:])
        except (OSError, ValueError):
            raise ConfigError(
                f"{folder / 'key'} cannot be read", "delete these tokens and build them anew, for another epoch"
            ) from None

    def write(self, folder: Path) -> None:
        write_file(folder / "key", self.scalar.to_bytes() + self.local)


@dataclass(frozen=True)
class Changes:
    """The tokens of one kind that came and went from one build to the next, each sorted."""

    added: Bytes
    removed: Bytes


@dataclass(frozen=True)
class OwnSet:
    """A data set's tokens of one kind as the last build left them: a `TokenSet` of the protocol.

    versions: the lists of earlier builds, the oldest first; changes[i] leads from versions[i] to the one after.
    """

    tokens: Bytes
    rows: Rows
    version: bytes
    versions: tuple[bytes, ...]
    changes: tuple[Changes, ...]

    def since(self, version: bytes) -> tuple[Bytes, Bytes] | None:
        if version not in self.versions:
            return None
        width = self.tokens.shape[1]
        added, removed = no_tokens(width), no_tokens(width)
        for change in self.changes[self.versions.index(version) :]:
            added, removed = (
                _union(_without(added, change.removed), _without(change.added, removed)),
                _union(_without(removed, change.added), _without(change.removed, added)),
            )
        return added, removed


@dataclass(frozen=True)
class OwnEpoch:
    """What the media brings to a run. commitment: of the data set's state that the tokens were made from."""

    folder: Path
    key: epoch.Key
    commitment: str
    keys: dict[str, tuple[str, str]]
    queries: int
    sets: dict[str, OwnSet]

    def charge(self, amount: int) -> None:
        """Spends `amount` evaluations of the key, before they are made. PolicyError when that would pass the budget."""
        with locked(self.folder, "spent.lock"):
            total = spent(self.folder) + amount
            if total > self.queries:
                raise PolicyError(
                    f"the partner has asked for {total - amount} identifiers in this epoch and asks for {amount} more, "
                    f"the budget of its key is {self.queries}",
                    "the media allows more with `tidegate party tokens build ... --queries N`, or begins a new epoch",
                )
            write_file(self.folder / "spent", json.dumps(total).encode())


def spent(folder: Path) -> int:
    """How many identifiers were evaluated under the key so far."""
    try:
        return int(json.loads((folder / "spent").read_bytes()))
    except FileNotFoundError:
        return 0


def open_epoch(folder: Path, kinds: tuple[str, ...]) -> OwnEpoch | None:
    """The tokens of these kinds; None where no build of all of them has ended. Later builds do not change it."""
    if not folder.is_dir():
        return None
    with locked(folder, shared=True):
        says = read_json(folder)
        if says is None or any(kind not in says["sets"] for kind in kinds):
            return None
        key = epoch.Key(bytes.fromhex(says["name"]), Secrets.read(folder).scalar, says["width"])
        return OwnEpoch(
            folder=folder,
            key=key,
            commitment=says["commitment"],
            keys={kind: (profile, form) for kind, (profile, form) in says["keys"].items()},
            queries=says["queries"],
            sets={kind: open_set(folder, says, kind) for kind in kinds},
        )


def open_set(folder: Path, says: dict[str, Any], kind: str) -> OwnSet:
    """The tokens of one kind that epoch.json names."""
    width, state = says["width"], says["sets"][kind]
    changes = [
        Changes(
            mapped(list_file(folder, kind, build, "added"), width),
            mapped(list_file(folder, kind, build, "removed"), width),
        )
        for _, build in state["versions"]
    ]
    rows = mapped(list_file(folder, kind, says["build"], "rows"), ROW_BYTES).view("<u4").ravel()
    tokens = mapped(list_file(folder, kind, says["build"], "tokens"), width)
    if len(tokens) != len(rows) or len(tokens) != state["tokens"]:
        raise ConfigError(f"the tokens in {folder} are not whole", "delete them and build them anew")
    earlier = tuple(bytes.fromhex(version) for version, _ in state["versions"])
    return OwnSet(tokens, rows, bytes.fromhex(state["version"]), earlier, tuple(changes))


def list_file(folder: Path, kind: str, build: int, what: str) -> Path:
    """The file with the tokens, rows, pseudonyms or differences that a build made."""
    return folder / f"{kind}-{build}.{what}"


def _without(some: Bytes, others: Bytes) -> Bytes:
    return np.asarray(some[places(some, others) < 0])


def _union(some: Bytes, others: Bytes) -> Bytes:
    both = np.concatenate([some, others])
    return both[rising_order(both)]
