"""A table's columns as a matrix a linear model likes: clipped, standardised, one-hot.

Everything that is learned from the data is learned from the rows given to `fit` (the training part of the matched
rows) and kept in a `Recipe`, so that held-out rows and other people are treated alike.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidegate.protocols.channel import ConfigError

from .table import RELEASE_ROWS, FloatArray, categories, coded, column, kind, numbers

IntArray = NDArray[np.int64]

CLIP_SD = 5.0


@dataclass(frozen=True)
class Feature:
    """One column of the matrix, out of one column of the table.

    With `category` None and `missing` False it is the number itself; otherwise 1 in the rows that hold the category,
    or no value at all. It is then scaled to (value - mean) / sd and clipped to 5.
    """

    column: str
    category: str | None
    missing: bool
    mean: float
    sd: float

    @property
    def name(self) -> str:
        if self.missing:
            return f"{self.column} missing"
        return self.column if self.category is None else f"{self.column}={self.category}"


@dataclass(frozen=True)
class Recipe:
    """How to make the matrix, and which of the columns asked for say nothing in the rows it was fitted on."""

    features: tuple[Feature, ...]
    dropped: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        raw = json.loads(text)
        return cls(tuple(Feature(**feature) for feature in raw["features"]), tuple(raw["dropped"]))


def fit(table: pa.Table, columns: Sequence[str], rows: IntArray) -> Recipe:
    """The recipe for `columns` out of `rows`. Raises ConfigError for a column that is no feature.

    A category, or missing values, become a column of their own from 100 of the rows on; the most frequent category is
    the one left out, and rarer ones count as it. Columns that do not vary over `rows` are dropped.
    """
    if len(set(columns)) != len(columns):
        raise ConfigError("a feature is named twice", "name each column once")
    features: list[Feature] = []
    dropped: list[str] = []
    for name in columns:
        if kind(table, name) == "text" and column(table, name).null_count < table.num_rows:
            raise ConfigError(
                f"the column {name!r} is free text, not a feature",
                f"expected numbers, or 50 different values at most with {RELEASE_ROWS} rows for one of them",
            )
        made = _fit_column(table, name, rows)
        features += made
        if not made:
            dropped.append(name)
    return Recipe(tuple(features), tuple(dropped))


def apply(recipe: Recipe, table: pa.Table, rows: IntArray) -> FloatArray:
    """(len(rows), features) matrix of the rows, in that order; every value lies in -5..5."""
    matrix = np.empty((len(rows), len(recipe.features)), dtype=np.float64, order="F")
    taken: dict[str, _Values] = {}
    for j, feature in enumerate(recipe.features):
        if feature.column not in taken:
            taken = {feature.column: _Values(table, feature.column, rows)}
        values = taken[feature.column].of(feature.category, feature.missing)
        if feature.category is None and not feature.missing:
            values = np.where(np.isnan(values), feature.mean, values)
        matrix[:, j] = np.clip((values - feature.mean) / feature.sd, -CLIP_SD, CLIP_SD)
    return matrix


class _Values:
    """The values of one column in some rows, decoded once however many features are made of it.

    Texts are kept as numbers in order of first appearance; either way a missing value is NaN.
    """

    def __init__(self, table: pa.Table, name: str, rows: IntArray) -> None:
        values = column(table, name)
        self.is_text = kind(table, name) == "category"
        self._numbers_of: dict[str, int] = {}
        if values.null_count == len(values):
            self._values: FloatArray = np.full(len(rows), np.nan)
        elif self.is_text:
            codes, written = coded(table, name, rows)
            self._numbers_of = {text: i for i, text in enumerate(written)}
            self._values = np.where(codes < 0, np.nan, codes)
        else:
            self._values = numbers(table, name)[rows]

    def of(self, category: str | None, missing: bool) -> FloatArray:
        if missing:
            return np.isnan(self._values).astype(np.float64)
        if category is None:
            return self._values
        return np.where(self._values == self._numbers_of.get(category, -1), 1.0, 0.0)


def _fit_column(table: pa.Table, name: str, rows: IntArray) -> list[Feature]:
    values = _Values(table, name, rows)
    made: list[Feature | None] = []
    if not values.is_text:
        made.append(_fit_feature(name, None, False, values.of(None, False)))
    else:
        kept = categories(column(table, name).take(pa.array(rows)), RELEASE_ROWS)
        counts = {category: float(values.of(category, False).sum()) for category in kept}
        most_frequent = max(counts, key=lambda category: counts[category], default=None)
        made += [_fit_feature(name, c, False, values.of(c, False)) for c in kept if c != most_frequent]
    absent = values.of(None, True)
    if absent.sum() >= RELEASE_ROWS:
        made.append(_fit_feature(name, None, True, absent))
    return [feature for feature in made if feature is not None]


def _fit_feature(name: str, category: str | None, missing: bool, values: FloatArray) -> Feature | None:
    """The feature with mean and standard deviation of the values that are there; None where they do not vary."""
    there = values[~np.isnan(values)]
    if len(there) == 0:
        return None
    mean, sd = float(there.mean()), float(there.std())
    # Equal numbers whose mean is rounded have a tiny spread that is no variation.
    return Feature(name, category, missing, mean, sd) if sd > abs(mean) * 1e-12 else None
