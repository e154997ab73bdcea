"""Finds what must not be there: identifiers and feature values, however they are spelled, in bytes and in files.

A needle is a byte string of 8 or more. All of them are looked for at once: a table of the needles' first 8 bytes is
held against every position of the haystack, and what it lets through is compared whole.

Files hold thousands of numbers that are nobody's and other in each run: among the digits of those a telephone number
of 10 digits, or a value to 9, is met by chance. So numbers are compared to 12 digits, and in a file digits alone count
where they are no part of a longer number.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

HASHES = ("sha256", "sha1", "md5")
_TOLD_FROM_CHANCE = 12
_MIXER = np.uint64(0x9E3779B97F4A7C15)
_TABLE_BITS = 24


def base64_inside(data: bytes) -> Iterator[bytes]:
    """The characters of base64 that `data` decides wherever it stands in a longer text: at each of three offsets."""
    for offset in range(3):
        whole = base64.b64encode(bytes(offset) + data)
        inside = whole[-(-8 * offset // 6) : 8 * (offset + len(data)) // 6]
        yield inside
        yield inside.translate(bytes.maketrans(b"+/", b"-_"))


def encodings(data: bytes) -> Iterator[bytes]:
    """As it is, in hex and in base64."""
    yield data
    yield data.hex().encode()
    yield data.hex().upper().encode()
    yield from base64_inside(data)


def text_needles(text: str) -> Iterator[bytes]:
    """A text in both usual encodings, in hex, in base64, and as three kinds of hash, each in every encoding."""
    data = text.encode()
    yield from encodings(data)
    yield text.encode("utf-16-le")
    for name in HASHES:
        yield from encodings(hashlib.new(name, data).digest())


def number_needles(value: float) -> Iterator[bytes]:
    """A float64 as bytes of either order, and its first 12 digits as text, cut off and rounded."""
    for order in "<>":
        yield from encodings(struct.pack(f"{order}d", value))
    written = repr(abs(value))
    if "e" not in written:
        yield written[: 13 + len(written.split(".")[0] if value < 1 else "")].encode()
        yield f"{abs(value):.12g}".encode()


def single_precision_needles(values: NDArray[np.float64]) -> Iterator[bytes]:
    """Neighbours in a row or column (n, d) as float32: one alone has 4 bytes, which chance finds in any ciphertext."""
    for order in "<>":
        narrow = values.astype(f"{order}f4")
        for along in (narrow, narrow.T):
            for line in along:
                data = np.ascontiguousarray(line).tobytes()
                yield from (data[at : at + 8] for at in range(0, len(data) - 7, 4))


@dataclass
class Needles:
    """What is looked for: byte strings, and numbers to which no number that is found may be equal."""

    heads: dict[int, list[bytes]] = field(default_factory=dict)
    numbers: list[float] = field(default_factory=list)
    _table: NDArray[np.bool_] | None = None

    def add(self, needles: Iterable[bytes]) -> None:
        self._table = None
        for needle in needles:
            if len(needle) < 8:
                raise ValueError(f"{needle!r} is too short to be told from chance")
            (head,) = struct.unpack_from("<Q", needle)
            known = self.heads.setdefault(head, [])
            if needle not in known:
                known.append(needle)

    def add_text(self, text: str) -> None:
        self.add(text_needles(text))

    def add_numbers(self, values: NDArray[np.float64]) -> None:
        """A matrix (n, d), of which every value is looked for."""
        self.numbers += values.ravel().tolist()
        for value in values.ravel().tolist():
            self.add(number_needles(value))
        self.add(single_precision_needles(values))

    def __len__(self) -> int:
        return sum(map(len, self.heads.values()))

    def within(self, haystack: bytes, *, numbers_whole: bool = False) -> set[bytes]:
        """The needles that the haystack holds; with `numbers_whole` not those few digits inside a longer number."""
        if self._table is None:
            self._table = np.zeros(1 << _TABLE_BITS, np.bool_)
            self._table[_place(np.fromiter(self.heads, np.uint64, len(self.heads)))] = True
        found: set[bytes] = set()
        for start in range(min(8, max(0, len(haystack) - 7))):
            words = np.frombuffer(haystack, "<u8", (len(haystack) - start) // 8, start)
            for i in np.flatnonzero(self._table[_place(words)]).tolist():
                at = start + 8 * i
                for needle in self.heads.get(int(words[i]), ()):
                    if haystack.startswith(needle, at) and not (
                        numbers_whole and _is_part_of_a_number(haystack, at, needle)
                    ):
                        found.add(needle)
        return found

    def among(self, numbers: Iterable[float]) -> set[float]:
        """The numbers that are one of ours, or its negative, to 12 digits."""
        found = np.abs(np.fromiter(numbers, np.float64))
        ours = np.sort(np.abs(np.array(self.numbers)))
        if not len(found) or not len(ours):
            return set()
        at = np.searchsorted(ours, found)
        near = np.zeros(len(found), np.bool_)
        for neighbour in (np.clip(at - 1, 0, len(ours) - 1), np.clip(at, 0, len(ours) - 1)):
            near |= np.abs(ours[neighbour] - found) <= 1e-12 * ours[neighbour]
        return set(found[near].tolist())

    def in_files(self, *roots: Path) -> dict[str, int]:
        """Path -> how many needles and numbers are in it, for each file under `roots` that holds any."""
        hits: dict[str, int] = {}
        for root in roots:
            for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
                if path.is_file():
                    data, numbers = read(path)
                    number = len(self.within(data, numbers_whole=True)) + len(self.among(numbers))
                    if number:
                        hits[str(path)] = number
        return hits


def _is_part_of_a_number(haystack: bytes, at: int, needle: bytes) -> bool:
    """Whether these few digits stand in a longer decimal or hexadecimal number."""
    if not needle.isdigit() or len(needle) >= _TOLD_FROM_CHANCE:
        return False
    beside = haystack[max(0, at - 1) : at] + haystack[at + len(needle) : at + len(needle) + 1]
    return any(byte in b".0123456789abcdefABCDEF" for byte in beside)


def _place(heads: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        placed: NDArray[np.uint64] = (heads * _MIXER) >> np.uint64(64 - _TABLE_BITS)
    return placed


def read(path: Path) -> tuple[bytes, list[float]]:
    """A file's bytes with what it holds in other forms (tables, databases), and the numbers in it."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        more, numbers = _values(pq.read_table(path))
        return data + more, numbers
    if path.suffix == ".json":
        return data, list(_json_numbers(json.loads(data)))
    if data.startswith(b"SQLite format 3\0"):
        more, numbers = _rows(path)
        return data + more, numbers
    return data, []


def _values(table: pa.Table) -> tuple[bytes, list[float]]:
    texts: list[str] = []
    numbers: list[float] = []
    for column in table.columns:
        for value in column.to_pylist():
            if isinstance(value, float):
                numbers.append(value)
            elif value is not None:
                texts.append(str(value))
    return "\n".join(texts).encode(), numbers


def _rows(path: Path) -> tuple[bytes, list[float]]:
    parts: list[bytes] = []
    numbers: list[float] = []
    with closing(sqlite3.connect(path)) as db:
        for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in db.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - the names are those of our own schema
                for value in row:
                    if isinstance(value, float):
                        numbers.append(value)
                    elif value is not None:
                        parts.append(value if isinstance(value, bytes) else str(value).encode())
                        if isinstance(value, str) and value.startswith(("{", "[")):
                            numbers += _json_numbers(json.loads(value))
    return b"\n".join(parts), numbers


def _json_numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, str) and value.startswith(("{", "[")):
        try:
            yield from _json_numbers(json.loads(value))
        except ValueError:
            return
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _json_numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _json_numbers(inner)
