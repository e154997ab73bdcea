"""The identifiers of a key column, streamed: spelled once, kept in a scratch file, read again block by block.

A column of ten million addresses is a few hundred megabytes that a step needs once or twice, in order. What is kept in
memory is four bytes a row. The scratch file holds this party's own identifiers in the clear, as the registered file
does. It has no name in any folder, so it is in no result, and it is gone with the process, however that ends.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidegate.protocols.channel import ConfigError
from tidegate.protocols.ids import Identifiers, Validity, join_blocks, normalise, repeats
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.psi.entries import regrouped
from tidegate.protocols.psi.join import KEY_BYTES, fingerprints
from tidegate.wire.contract import Key

from . import table

Rows = NDArray[np.uint32]
BoolArray = NDArray[np.bool_]

READ_ROWS = 2**16
COMPARED_AT_ONCE = 2**20
MOST_ROWS = 2**32 - 1


@dataclass(frozen=True)
class _Piece:
    """Where in the scratch file the lengths and the bytes of n identifiers stand."""

    n: int
    at: int
    size: int


class KeyColumn:
    """The different identifiers of one column, of equal ones the first; made by `open_column`. Never prints them.

    rows (n,) rising: the row of each. validity: what became of the column.
    """

    def __init__(self, descriptor: int, pieces: list[_Piece], rows: Rows, validity: Validity) -> None:
        self._descriptor, self._pieces = descriptor, pieces
        self._keep: BoolArray | None = None
        self.rows, self.validity = rows, validity
        weakref.finalize(self, os.close, descriptor)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"KeyColumn({len(self)} rows)"

    def blocks(self, size: int) -> Iterator[Identifiers]:
        """All identifiers in blocks of `size` and a last one of what is left."""
        return regrouped(self._kept(), size)

    def keep_first(self, key: bytes) -> None:
        """Leaves out each identifier that an earlier row has, and counts them; key: KEY_BYTES random bytes."""
        prints = np.empty(len(self), np.uint64)
        for piece in self._stored():
            prints[piece.rows] = fingerprints(piece, key)
        repeated = self._repeated(prints)
        if repeated is not None:
            self._keep, self.rows = ~repeated, self.rows[~repeated]
            self.validity = replace(self.validity, duplicates=int(np.count_nonzero(repeated)))

    def _repeated(self, prints: NDArray[np.uint64]) -> BoolArray | None:
        """(n,): whether an earlier row has the same identifier; None if nowhere.

        Equal identifiers have equal prints, so only those that share theirs are compared, whole.
        """
        ordered = np.sort(prints)
        shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        del ordered
        if not len(shared):
            return None
        suspects = np.isin(prints, shared)
        repeated = np.zeros(len(prints), np.bool_)
        parts = -(-int(np.count_nonzero(suspects)) // COMPARED_AT_ONCE)
        for part in range(parts):
            here = suspects & (prints % np.uint64(parts) == part)
            repeated[here] = repeats(join_blocks(piece.take(here[piece.rows]) for piece in self._stored()))
        return repeated

    def _kept(self) -> Iterator[Identifiers]:
        at = 0
        for piece in self._stored():
            kept = piece if self._keep is None else piece.take(self._keep[piece.rows])
            yield Identifiers(kept.data, kept.offsets, self.rows[at : at + len(kept)].astype(np.int64))
            at += len(kept)

    def _stored(self) -> Iterator[Identifiers]:
        """What was written, piece by piece; in the place of a row its place among all that was written."""
        begin = 0
        for piece in self._pieces:
            offsets = np.zeros(piece.n + 1, np.int64)
            np.cumsum(np.frombuffer(os.pread(self._descriptor, 4 * piece.n, piece.at), np.uint32), out=offsets[1:])
            data = os.pread(self._descriptor, piece.size, piece.at + 4 * piece.n)
            yield Identifiers(data, offsets, np.arange(begin, begin + piece.n, dtype=np.int64))
            begin += piece.n


def open_column(
    path: Path,
    column: str,
    key: Key,
    region: str | None,
    *,
    given: str,
    scratch: Path,
    randomness: Randomness,
) -> KeyColumn:
    """The identifiers of a registered file's column. scratch: a folder of this party's own on a disk with room.

    given: the form in which the column holds them. Raises ConfigError for a column that is not there or cannot be
    entered in the form that the contract names.
    """
    with tempfile.TemporaryFile(dir=scratch) as file:
        pieces: list[_Piece] = []
        rows: list[Rows] = [np.empty(0, np.uint32)]
        validity = Validity(0, 0, 0, 0)
        seen = 0
        for values in table.text_blocks(path, column, READ_ROWS):
            if seen + len(values) > MOST_ROWS:
                raise ConfigError(f"{path} has more than {MOST_ROWS} rows", "split it")
            ids, found = normalise(key.kind, values, region, profile=key.profile, given=given, form=key.form)
            lengths = np.diff(ids.offsets).astype(np.uint32)
            pieces.append(_Piece(len(ids), file.tell(), len(ids.data)))
            file.write(lengths.tobytes())
            file.write(ids.data)
            rows.append((ids.rows + seen).astype(np.uint32))
            validity, seen = validity + found, seen + len(values)
        file.flush()
        made = KeyColumn(os.dup(file.fileno()), pieces, np.concatenate(rows), replace(validity, duplicates=0))
    made.keep_first(randomness.bytes(KEY_BYTES))
    return made
