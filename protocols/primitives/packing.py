"""Rows into plaintext slots: row i of a block stands in slot i, 8192 rows a block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .fixed_point import UInt64Array, modulo

SLOTS = 8192


def block_count(rows: int) -> int:
    return -(-rows // SLOTS)


def blocks(rows: int) -> Iterator[slice]:
    """The rows of each block, in order; the last one may be short."""
    for at in range(0, rows, SLOTS):
        yield slice(at, min(at + SLOTS, rows))


def slots(values: np.typing.ArrayLike) -> UInt64Array:
    """At most 8192 integers as the residues of one block, zeros behind them."""
    residues = modulo(values)
    if len(residues) == SLOTS:
        return residues
    padded = np.zeros(SLOTS, np.uint64)
    padded[: len(residues)] = residues
    return padded
