"""What a party enters in a round: the identifiers of some of its rows and, where a number is to stay, strangers.

A stranger is 32 random bytes in the place of an identifier. It equals nothing, and after blinding or hashing to a token
nobody but its maker can tell it from an identifier.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..ids import Identifiers, join_blocks
from ..primitives.randomness import Randomness

BoolArray = NDArray[np.bool_]
Rows = NDArray[np.uint32] | NDArray[np.int64]

STRANGER_BYTES = 32
NO_ROW = -1


class Column(Protocol):
    """Different identifiers of one kind and the rows they belong to; `protocols.ids.Identifiers` is one."""

    @property
    def rows(self) -> Rows:
        """(n,) rising: the row of each identifier."""

    def __len__(self) -> int:
        """How many there are."""

    def blocks(self, size: int) -> Iterator[Identifiers]:
        """All of them, in the same order each time, in blocks of `size` and a last one of what is left."""


class Entries:
    """The identifiers of `column` where keep (n,) is true, then `strangers` strangers. keep None keeps all."""

    def __init__(
        self, column: Column, keep: BoolArray | None = None, strangers: int = 0, seed: bytes = bytes(32)
    ) -> None:
        self._column, self._strangers, self._seed = column, strangers, seed
        self._keep = None if keep is None or keep.all() else keep
        self.rows = column.rows if self._keep is None else column.rows[self._keep]

    def __len__(self) -> int:
        return len(self.rows) + self._strangers

    def blocks(self, size: int) -> Iterator[Identifiers]:
        """All entries in blocks of `size` and a last one of what is left; strangers belong to NO_ROW."""
        if self._keep is None and not self._strangers:
            return self._column.blocks(size)
        return regrouped(self._pieces(size), size)

    def _pieces(self, size: int) -> Iterator[Identifiers]:
        at = 0
        for block in self._column.blocks(size):
            yield block if self._keep is None else block.take(self._keep[at : at + len(block)])
            at += len(block)
        drawn = Randomness(self._seed)
        for begin in range(0, self._strangers, size):
            n = min(size, self._strangers - begin)
            offsets = np.arange(n + 1, dtype=np.int64) * STRANGER_BYTES
            yield Identifiers(drawn.bytes(n * STRANGER_BYTES), offsets, np.full(n, NO_ROW, np.int64))


def regrouped(pieces: Iterable[Identifiers], size: int) -> Iterator[Identifiers]:
    """The same identifiers in blocks of `size` and a last one of what is left, however the pieces are cut."""
    held: list[Identifiers] = []
    n = 0
    for piece in pieces:
        held.append(piece)
        n += len(piece)
        if n >= size:
            *full, last = join_blocks(held).blocks(size)
            yield from full
            held, n = [last], len(last)
    if n:
        yield join_blocks(held)
