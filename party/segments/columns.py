"""A table's columns as the matrix that people are clustered by: clipped, standardised, one-hot, weighted.

    number      clipped to its declared range, else to the value that the floor of rows has beyond it at either end, or
                0.5 % of them if that is more: so no few people's values say anything. Standardised over the rows that
                it is fitted on; clipped to 3 standard deviations either way
    category    a column of its own, less its share, for each text with the floor of rows; the others together are one
                more if they reach the floor. Stretched so that all of them have the variance of one number, but never
                more than two equal halves would need: what few people have is not to tear segments apart
    ordinal     a category column with a declared range is the number that each of its texts begins with
    two values  a column of numbers with two different ones is a category

A missing value, or a category too rare to count, is the mean: it draws nobody to any segment. Columns that do not vary
then are dropped. The matrix of a party is scaled as a whole, so that its variance is its weight, however many columns
it enters. What is learned from the rows is kept in a `Recipe`, so that other people are treated alike later.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidegate.protocols.channel import ConfigError

from ..data import table
from ..data.table import FloatArray

IntArray = NDArray[np.int64]

CLIP_SD = 3.0
OUTER = 0.005
"""The least share of the rows beyond either end of a range that nobody has declared."""
MAX_COLUMNS = 400
OTHER = "other"
_LEADING = re.compile(r"\s*(-?\d+(?:[.,]\d+)?)")


@dataclass(frozen=True)
class Column:
    """How one column of the table becomes one of the matrix, or one for each category.

    kind: "number", "whole", "date" or "category". A number is clipped to low..high, and (value - mean) / sd times
    `scale`; categories are 1 or 0, less their `shares`, times `scale`. ordinal: of texts that begin with numbers.
    folded: rarer texts have a column together, the last. box: the standardised range that starting points come from.
    """

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    sd: float = 1.0
    box: tuple[float, float] = (-CLIP_SD, CLIP_SD)
    categories: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    folded: bool = False
    ordinal: bool = False
    scale: float = 1.0

    @property
    def width(self) -> int:
        return len(self.shares) if self.kind == "category" and not self.ordinal else 1


@dataclass(frozen=True)
class Recipe:
    """How to make the matrix, and which of the columns asked for say nothing in the rows that it was fitted on."""

    columns: tuple[Column, ...]
    dropped: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def width(self) -> int:
        return sum(column.width for column in self.columns)

    def box(self) -> tuple[FloatArray, FloatArray]:
        """The least and the greatest value of each column of the matrix by declared ranges, (width,) each."""
        low, high = [], []
        for column in self.columns:
            if column.kind == "category" and not column.ordinal:
                low += [-share * column.scale for share in column.shares]
                high += [(1 - share) * column.scale for share in column.shares]
            else:
                low.append(column.box[0] * column.scale)
                high.append(column.box[1] * column.scale)
        return np.array(low, np.float64), np.array(high, np.float64)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        raw = json.loads(text)
        columns: list[Column] = []
        for each in raw["columns"]:
            listed: dict[str, Any] = {name: tuple(each[name]) for name in ("box", "categories", "shares")}
            columns.append(Column(**{**each, **listed}))
        return cls(tuple(columns), tuple(raw["dropped"]))


def fit(
    rows_of: pa.Table,
    names: Sequence[str],
    rows: IntArray,
    ranges: Mapping[str, tuple[float, float]],
    *,
    floor: int,
    weight: float,
) -> Recipe:
    """The recipe for the columns `names` out of `rows`; `weight` is what their variances add up to.

    Raises ConfigError for free text, for a range declared of texts that begin with no number, and where nothing varies.
    """
    made: list[Column] = []
    dropped: list[str] = []
    total = 0.0
    for name in names:
        found = _fit_column(rows_of, name, rows, ranges.get(name), floor)
        if found is None:
            dropped.append(name)
            continue
        made.append(found)
        total += _variance(found, rows_of, rows)
    if not made:
        raise ConfigError(
            "no column of this party varies among the matched people, so none can tell segments apart",
            f"enter columns in [features] that {floor} or more of them differ in; of few people numbers need [ranges]",
        )
    if sum(column.width for column in made) > MAX_COLUMNS:
        raise ConfigError(
            f"the columns make more than {MAX_COLUMNS} with one for each category",
            "leave columns out of [features], or merge categories",
        )
    stretch = math.sqrt(weight / total)
    return Recipe(tuple(replace(each, scale=each.scale * stretch) for each in made), tuple(dropped))


def apply(recipe: Recipe, rows_of: pa.Table, rows: IntArray) -> FloatArray:
    """(len(rows), width) matrix of the rows, in that order. Raises ConfigError where the table lacks a column."""
    matrix = np.empty((len(rows), recipe.width), np.float64)
    at = 0
    for column in recipe.columns:
        matrix[:, at : at + column.width] = _matrix(column, rows_of, rows)
        at += column.width
    return matrix


def values_of(column: Column, rows_of: pa.Table, rows: IntArray) -> FloatArray:
    """A number's values in its own unit, clipped to its range; NaN where they are missing: (len(rows),)."""
    values = _ordinal(rows_of, column.name, rows) if column.ordinal else table.numbers(rows_of, column.name)[rows]
    return np.clip(values, column.low, column.high)


def codes_of(column: Column, rows_of: pa.Table, rows: IntArray) -> IntArray:
    """Which of a category's columns each row falls into, -1 for none: (len(rows),)."""
    rest = len(column.categories) if column.folded else -1
    if _is_text(rows_of, column.name):
        codes, texts = table.coded(rows_of, column.name, rows)
        place = {text: i for i, text in enumerate(column.categories)}
        # The last entry is where the code of a missing value, -1, points at.
        return np.array([*(place.get(text, rest) for text in texts), -1], np.int64)[codes]
    values = table.numbers(rows_of, column.name)[rows]
    found = np.where(np.isnan(values), -1, rest)
    for i, text in enumerate(column.categories):
        found[values == float(text)] = i
    return found.astype(np.int64)


def labels_of(column: Column) -> tuple[str, ...]:
    """What a category's columns are called."""
    return (*column.categories, OTHER) if column.folded else column.categories


def _matrix(column: Column, rows_of: pa.Table, rows: IntArray) -> FloatArray:
    """The column's part of the matrix: (len(rows), width)."""
    _check(column, rows_of)
    if column.kind == "category" and not column.ordinal:
        codes = codes_of(column, rows_of, rows)
        table_of = np.eye(column.width + 1)[:, : column.width] - np.array(column.shares)
        # The last row of the table is that of code -1, no category: 0 everywhere.
        table_of[-1] = 0.0
        found: FloatArray = table_of[codes] * column.scale
        return found
    z = (values_of(column, rows_of, rows) - column.mean) / column.sd
    return np.nan_to_num(np.clip(z, -CLIP_SD, CLIP_SD), nan=0.0)[:, None] * column.scale


def _variance(column: Column, rows_of: pa.Table, rows: IntArray) -> float:
    """Of all of the column's part of the matrix together."""
    if column.kind != "category" or column.ordinal:
        return float(_matrix(column, rows_of, rows).var())
    shares = np.array(column.shares)
    known = float(np.mean(codes_of(column, rows_of, rows) >= 0))
    return known * (1 - float(shares @ shares)) * column.scale**2


def _check(column: Column, rows_of: pa.Table) -> None:
    """Raises ConfigError unless the table still has the column, holding what it held when the recipe was made."""
    values = table.column(rows_of, column.name)
    was_text = column.ordinal or (column.kind == "category" and not _all_numbers(column.categories))
    if values.null_count < len(values) and was_text and not _is_text(rows_of, column.name):
        raise ConfigError(
            f"the column {column.name!r} held texts when the segments were made, and holds numbers in this data set",
            "write it as it was then",
        )
    if column.kind != "category" and not column.ordinal and _is_text(rows_of, column.name):
        raise ConfigError(
            f"the column {column.name!r} held numbers when the segments were made, and holds texts in this data set",
            "write it as it was then",
        )


def _fit_column(
    rows_of: pa.Table, name: str, rows: IntArray, declared: tuple[float, float] | None, floor: int
) -> Column | None:
    """The column unscaled; None where it does not vary, or where fewer than the floor differ from all others."""
    whole = table.column(rows_of, name)
    if whole.null_count == len(whole):
        return None
    if not _is_text(rows_of, name):
        values = table.numbers(rows_of, name)[rows]
        there = values[~np.isnan(values)]
        few = np.unique(there[:1000])
        if len(few) <= 2 and len(np.unique(there)) == 2 and not _is_date(whole.type):
            texts = [_text(value) for value in np.unique(there).tolist()]
            return _fit_category(rows_of, name, rows, texts, floor)
        kind = "date" if _is_date(whole.type) else "whole" if pa.types.is_integer(whole.type) else "number"
        return _fit_number(name, kind, values, declared, floor)
    if table.kind(rows_of, name) == "text":
        raise ConfigError(
            f"the column {name!r} is free text, not a feature",
            f"expected numbers, or {table.MAX_CATEGORIES} different values at most",
        )
    if declared is not None:
        found = _fit_number(name, "category", _ordinal(rows_of, name, rows), declared, floor)
        kept = _fit_category(rows_of, name, rows, None, floor)
        if found is None or kept is None:
            return None
        return replace(found, ordinal=True, categories=kept.categories, folded=kept.folded)
    return _fit_category(rows_of, name, rows, None, floor)


def _fit_number(
    name: str, kind: str, values: FloatArray, declared: tuple[float, float] | None, floor: int
) -> Column | None:
    there = values[~np.isnan(values)]
    if len(there) < floor:
        return None
    outer = min(max(floor / len(there), OUTER), 0.5)
    low, high = declared if declared is not None else np.quantile(there, (outer, 1 - outer), method="nearest").tolist()
    clipped = np.clip(there, low, high)
    mean, sd = float(clipped.mean()), float(clipped.std())
    # A value that more than half have is the median.
    if np.count_nonzero(clipped != np.median(clipped)) < floor or sd <= abs(mean) * 1e-12:
        return None
    box = (-CLIP_SD, CLIP_SD)
    if declared is not None:
        box = (max(-CLIP_SD, (low - mean) / sd), min(CLIP_SD, (high - mean) / sd))
    return Column(name, kind, low=float(low), high=float(high), mean=mean, sd=sd, box=box)


def _fit_category(rows_of: pa.Table, name: str, rows: IntArray, texts: list[str] | None, floor: int) -> Column | None:
    """texts: the values of a column of numbers; else they are looked up."""
    if texts is None:
        _, texts = table.coded(rows_of, name, rows)
    every = Column(name, "category", categories=tuple(sorted(texts)), shares=(0.0,) * len(texts))
    codes = codes_of(every, rows_of, rows)
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    kept = [i for i in range(len(texts)) if counts[i] >= floor]
    others = int(counts.sum() - counts[kept].sum())
    folded = others >= floor
    found = [int(counts[i]) for i in kept] + ([others] if folded else [])
    if len(found) < 2:
        return None
    shares = np.array(found) / sum(found)
    scale = 1 / math.sqrt(max(1 - float(shares @ shares), 0.5))
    return Column(
        name,
        "category",
        categories=tuple(every.categories[i] for i in kept),
        shares=tuple(shares.tolist()),
        folded=folded,
        scale=scale,
    )


def _ordinal(rows_of: pa.Table, name: str, rows: IntArray) -> FloatArray:
    """The number that each text of a column begins with."""
    codes, texts = table.coded(rows_of, name, rows)
    found = [_LEADING.match(text) for text in texts]
    if not all(found):
        raise ConfigError(
            f"the column {name!r} has a declared range, and texts that do not begin with a number",
            "write each as 18-24 or 3 cars, or declare no range: then every text counts for itself",
        )
    numbers = [float(each.group(1).replace(",", ".")) for each in found if each is not None]
    values: FloatArray = np.array([*numbers, np.nan])[codes]
    return values


def _is_text(rows_of: pa.Table, name: str) -> bool:
    type_ = table.column(rows_of, name).type
    return bool(pa.types.is_boolean(type_) or pa.types.is_large_string(type_))


def _is_date(type_: pa.DataType) -> bool:
    return bool(pa.types.is_date(type_) or pa.types.is_timestamp(type_))


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)


def _all_numbers(texts: Sequence[str]) -> bool:
    try:
        return bool([float(text) for text in texts])
    except ValueError:
        return False
