"""Matching against the join in the clear over random sizes, duplicates and hostile strings, in every mode.

TIDEGATE_LONG=1 plays all 200 pairs of sizes up to 100,000 (some minutes); without it, smaller ones of the same kind.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.test_match import pairs, roles
from tidegate.protocols.channel import PolicyError
from tidegate.protocols.ids import Identifiers, keep_first, normalise
from tidegate.protocols.psi.match import MODES
from tidegate.protocols.simulate import simulate

IS_LONG = os.environ.get("TIDEGATE_LONG") == "1"
PAIRS, LARGEST = (200, 100_000) if IS_LONG else (40, 3_000)
FLOOR = 3

# Ends that differ in what some programs fold, cut or drop.
ENDS = [
    "",
    "\0",
    "\0\0",
    "é",
    "e\u0301",
    "É",
    "ß",
    "ss",
    "\u200d",
    "ﬁ",
    "'--",
    '"',
    "\\",
    "%00",
    "\U0001f9d1",
    "\ufffd",
    "\x7f",
]


def texts(rng: np.random.Generator, n: int, among: int) -> list[str | None]:
    """n values of a column: some missing, some twice, of people who are drawn from `among`."""
    people = rng.integers(0, max(1, among), n)
    ends = rng.integers(0, 4 * len(ENDS), n)
    missing = rng.random(n) < 0.03
    return [
        None if gone else f"person {who}{ENDS[end] if end < len(ENDS) else ''}"
        for who, end, gone in zip(people.tolist(), ends.tolist(), missing.tolist(), strict=True)
    ]


def first_rows(ids: Identifiers) -> dict[bytes, int]:
    return dict(reversed([*zip(ids, ids.rows.tolist(), strict=True)]))


def in_the_clear(
    brand: dict[str, Identifiers], media: dict[str, Identifiers]
) -> tuple[list[tuple[int, int]], dict[str, int]]:
    found: list[tuple[int, int]] = []
    by_key = dict.fromkeys(brand, 0)
    for kind in brand:
        own, peer = first_rows(brand[kind]), first_rows(media[kind])
        gone, taken = {pair[0] for pair in found}, {pair[1] for pair in found}
        common = [(own[name], peer[name]) for name in own.keys() & peer.keys()]
        new = [pair for pair in common if pair[0] not in gone and pair[1] not in taken]
        if len(new) >= FLOOR:
            found += new
            by_key[kind] = len(new)
    return sorted(found), by_key


def sizes(number: int, rng: np.random.Generator) -> tuple[int, int]:
    """Nothing, one row, the largest, and in between every order of magnitude as often as the others."""
    edges = [(0, 0), (0, 7), (7, 0), (1, 1), (LARGEST, 1), (LARGEST, LARGEST)]
    if number < len(edges):
        return edges[number]
    drawn = np.exp(rng.uniform(0, np.log(LARGEST), 2)).astype(int)
    return int(drawn[0]), int(drawn[1])


@pytest.mark.parametrize("number", range(PAIRS))
def test_matching_is_the_join_in_the_clear(number: int) -> None:
    rng = np.random.default_rng(number)
    mode = MODES[number % len(MODES)]
    n, m = sizes(number, rng)
    among = int((n + m) * rng.uniform(0.4, 1.5))
    kinds = ("text",) if mode == "size" or number % 2 else ("text", "email")
    sides = []
    for rows in (n, m):
        columns = {"text": texts(rng, rows, among)}
        if "email" in kinds:
            columns["email"] = [f"P{who}@Example.com " for who in rng.integers(0, max(1, among), rows)]
        sides.append({kind: keep_first(normalise(kind, column)[0]) for kind, column in columns.items()})
    expected, by_key = in_the_clear(*sides)
    if not expected:
        with pytest.raises(PolicyError):
            simulate(*roles(*sides, floor=FLOOR, mode=mode))
        return
    brand, media = simulate(*roles(*sides, floor=FLOOR, mode=mode))
    assert brand.by_key == by_key
    assert media.by_key == ({} if mode == "brand" else by_key)
    if mode == "both":
        assert pairs(brand, media) == expected
    else:
        assert brand.rows.tolist() == ([pair[0] for pair in expected] if mode == "brand" else [])
        assert media.rows.tolist() == []
