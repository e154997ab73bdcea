"""What became of a column, in counts and in the shapes of what was refused; never a value."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .column import Texts, before, buffers, from_buffers, matches

SHAPES = 5
SHAPE_ROWS = 10
"""A shape that fewer rows have could identify one of them, and is counted as OTHER only."""
OTHER = "other"
_LONGEST = 80
_HEX = "[0-9a-fA-F]"
# Letters and digits of these fall in no pattern, so as any other text each of them would have a shape of its own.
_DIGESTS = {
    f"^{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}$": "x{8}-x{4}-x{4}-x{4}-x{12}",
    f"^{_HEX}{{32}}$": "x{32}",
    f"^{_HEX}{{40}}$": "x{40}",
    f"^{_HEX}{{64}}$": "x{64}",
    "^[0-9A-Za-z+/_-]{43}=$": "b{43}=",
    "^[0-9A-Za-z+/_-]{22}==$": "b{22}==",
}


@dataclass(frozen=True)
class Validity:
    """What became of a column, in rows: they add up to its length, but for duplicates, which are among the valid.

    valid: became identifiers. invalid: were something else. missing: held nothing (or the digest of nothing).
    duplicates: repeat the identifier of an earlier row. shapes: the most frequent shapes of the invalid with the number
    of rows that have each, then OTHER with the rest. A shape writes a and A for letters, 9 for digits, u for characters
    beyond ASCII, c for control characters, punctuation as it is, and a{n} for n of them; x for the hexadecimal digits
    of a UUID or a digest, b for the letters of a digest in base64.
    """

    valid: int
    invalid: int
    missing: int
    duplicates: int
    shapes: tuple[tuple[str, int], ...] = ()

    @property
    def rows(self) -> int:
        return self.valid + self.invalid + self.missing

    @property
    def share_valid(self) -> float:
        """The valid among all rows, 0 to 1; of no rows, 0."""
        return self.valid / self.rows if self.rows else 0.0

    def __add__(self, other: Validity) -> Validity:
        """Of two blocks of one column. Duplicates across them are not counted; count them with `repeats`."""
        counts: Counter[str] = Counter(dict(self.shapes))
        counts.update(dict(other.shapes))
        rest = counts.pop(OTHER, 0)
        return Validity(
            self.valid + other.valid,
            self.invalid + other.invalid,
            self.missing + other.missing,
            self.duplicates + other.duplicates,
            _ranked(counts, rest),
        )


def shapes(texts: Texts, unreadable: int = 0) -> tuple[tuple[str, int], ...]:
    """The most frequent shapes of these texts, as `Validity` has them, with so many more that no one could read."""
    counts: Counter[str] = Counter()
    rest = unreadable
    for pattern, shape in _DIGESTS.items():
        found = matches(texts, pattern)
        rows = int(found.sum())
        if rows >= SHAPE_ROWS:
            counts[shape] = rows
            texts = texts.filter(pa.array(~found))
    if len(texts) == 0:
        return _ranked(counts, rest)
    # One class letter per character: how UTF-8 continues a character (10xxxxxx) is left out.
    data, offsets = buffers(texts)
    kept = (data & 0xC0) != 0x80
    classes = from_buffers(_CLASS[data[kept]], before(kept)[offsets].astype(np.int64))
    counted = pc.value_counts(classes)
    often = counted.filter(pc.greater_equal(counted.field("counts"), SHAPE_ROWS))
    rest += len(texts)
    for pair in often.to_pylist():
        counts[_collapsed(pair["values"])] += pair["counts"]
        rest -= pair["counts"]
    return _ranked(counts, rest)


def _ranked(counts: Counter[str], rest: int) -> tuple[tuple[str, int], ...]:
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    rest += sum(rows for _, rows in ranked[SHAPES:])
    return (*ranked[:SHAPES], (OTHER, rest)) if rest else tuple(ranked)


def _collapsed(classes: str) -> str:
    shape = re.sub(r"(.)\1+", lambda run: f"{run[1]}{{{len(run[0])}}}", classes)
    return shape if len(shape) <= _LONGEST else shape[: _LONGEST - 3] + "..."


def _class_table() -> Any:
    table = np.arange(256, dtype=np.uint8)
    table[[*range(0x20), 0x7F]] = ord("c")
    table[ord("0") : ord("9") + 1] = ord("9")
    table[ord("a") : ord("z") + 1] = ord("a")
    table[ord("A") : ord("Z") + 1] = ord("A")
    table[0x80:] = ord("u")
    return table


_CLASS = _class_table()
