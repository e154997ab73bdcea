"""One identifier per row, in one piece of memory, and which of them repeat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .column import BoolArray, IntArray, buffers, ends, from_buffers


@dataclass(frozen=True)
class Identifiers:
    """One identifier per row, for the rows that have a valid one. Never prints what it holds.

    Identifier i is data[offsets[i]:offsets[i + 1]] and belongs to row rows[i] of the table. The bytes start with the
    kind (and what else `normalise` was told), so that a phone number is never equal to a free text of the same digits.
    """

    data: bytes
    offsets: IntArray
    rows: IntArray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> bytes:
        return self.data[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[bytes]:
        bounds = self.offsets.tolist()
        return (self.data[begin:end] for begin, end in pairwise(bounds))

    def __repr__(self) -> str:
        return f"Identifiers({len(self)} rows)"

    def take(self, keep: BoolArray) -> Self:
        """Those where keep (n,) is true."""
        data, offsets = buffers(self.as_arrow().filter(pa.array(keep, pa.bool_())))
        return type(self)(data.tobytes(), offsets, self.rows[keep])

    def blocks(self, size: int) -> Iterator[Self]:
        """The same in pieces of at most `size` identifiers."""
        for begin in range(0, len(self), size):
            offsets = self.offsets[begin : begin + size + 1]
            data = self.data[offsets[0] : offsets[-1]]
            yield type(self)(data, offsets - offsets[0], self.rows[begin : begin + size])

    def shifted(self, by: int) -> Self:
        """The same for rows that come `by` rows later in a larger table."""
        return type(self)(self.data, self.offsets, self.rows + by)

    def as_arrow(self) -> Any:
        """The identifiers as a pyarrow LargeBinaryArray over the same memory."""
        return from_buffers(self.data, self.offsets, pa.large_binary())


def join_blocks(blocks: Iterable[Identifiers]) -> Identifiers:
    """The identifiers of all blocks, in their order. Rows stay as they are: see `Identifiers.shifted`."""
    pieces = list(blocks)
    lengths = [np.diff(piece.offsets) for piece in pieces]
    return Identifiers(
        b"".join(piece.data for piece in pieces),
        ends(np.concatenate([np.empty(0, np.int64), *lengths])),
        np.concatenate([np.empty(0, np.int64), *(piece.rows for piece in pieces)]),
    )


def repeats(ids: Identifiers) -> BoolArray:
    """(n,): whether an identifier occurs at an earlier place too."""
    # Equal bytes have equal hashes, so only rows that share one are compared: little memory, and exact.
    hashes = np.empty(len(ids), np.uint64)
    at = 0
    for block in ids.blocks(_BLOCK):
        hashes[at : at + len(block)] = _hashes(block)
        at += len(block)
    order = np.argsort(hashes)
    hashes = hashes[order]
    same = np.zeros(len(ids) + 1, np.bool_)
    same[1:-1] = hashes[1:] == hashes[:-1]
    near = np.zeros(len(ids), np.bool_)
    near[order] = same[:-1] | same[1:]
    repeated = np.zeros(len(ids), np.bool_)
    if near.any():
        # Arrow numbers values by their first appearance, so a number that is no new maximum was there before.
        numbers = ids.take(near).as_arrow().dictionary_encode().indices.to_numpy().astype(np.int64)
        highest = np.maximum.accumulate(numbers)
        repeated[near] = numbers <= np.concatenate([[-1], highest[:-1]])
    return repeated


def keep_first(ids: Identifiers) -> Identifiers:
    """Of rows with the same identifier the first one."""
    repeated = repeats(ids)
    return ids.take(~repeated) if repeated.any() else ids


_BLOCK = 2**16
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def _hashes(ids: Identifiers) -> NDArray[np.uint64]:
    """A hash (n,) of each identifier, eight bytes at a time. Nothing hangs on it: `repeats` compares what it joins."""
    padded = ids.data + bytes(8)
    words = np.ndarray(len(padded) - 7, "<u8", padded, strides=(1,))
    left = np.diff(ids.offsets)
    at = ids.offsets[:-1].copy()
    hashes = left.astype(np.uint64) * _SPREAD
    rows = np.arange(len(ids))
    while len(rows):
        spare = np.maximum(8 - left[rows], 0).astype(np.uint64) * np.uint64(8)
        word = np.where(spare < 64, words[at[rows]] & (~np.uint64(0) >> np.minimum(spare, np.uint64(63))), 0)
        mixed = (hashes[rows] ^ word.astype(np.uint64)) * _SPREAD
        hashes[rows] = mixed ^ (mixed >> np.uint64(32))
        at[rows] += 8
        left[rows] -= 8
        rows = rows[left[rows] > 0]
    return hashes
