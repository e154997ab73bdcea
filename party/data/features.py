"""A table's columns as a matrix a linear model likes: clipped, standardised, one-hot.

Everything that is learned from the data is learned from the rows given to `fit` (the training part of the matched
rows) and kept in a `Recipe`, so that held-out rows and other people are treated alike.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidegate.protocols.channel import ConfigError

from .table import RELEASE_ROWS, FloatArray, categories, coded, column, kind, numbers

IntArray = NDArray[np.int64]

CLIP_SD = 5.0
MAX_FEATURES = 400
"""What a party may enter into a training, after categories and missing values have become columns of their own."""


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

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table that it was fitted to, those that said nothing among them."""
        return tuple(dict.fromkeys([*(feature.column for feature in self.features), *self.dropped]))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        raw = json.loads(text)
        return cls(tuple(Feature(**feature) for feature in raw["features"]), tuple(raw["dropped"]))


def fit(table: pa.Table, columns: Sequence[str], rows: IntArray) -> Recipe:
    """The recipe for `columns` out of `rows`. Raises ConfigError for a column that is no feature, and for too many.

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
    _check_count(features)
    return Recipe(tuple(features), tuple(dropped))


def _check_count(features: Sequence[Feature]) -> None:
    if len(features) <= MAX_FEATURES:
        return
    most = [f"{name!r} ({count})" for name, count in Counter(each.column for each in features).most_common(3)]
    raise ConfigError(
        f"the columns make {len(features)} features, one for each category of 100 rows or more and for missing values; "
        f"at most {MAX_FEATURES} can be trained on",
        f"leave columns out of [features], or merge categories; most come from {', '.join(most)}",
    )


def check_fits(recipe: Recipe, table: pa.Table) -> None:
    """Raises ConfigError unless the table has every column that the recipe was fitted to, of the kind it had then.

    A column without a single value fits either way. Categories that the recipe does not know count as the one it left
    out, missing values as a number's mean.
    """
    gone = [name for name in recipe.columns if name not in table.column_names]
    if gone:
        listed = ", ".join(map(repr, gone[:5])) + (f" and {len(gone) - 5} more" if len(gone) > 5 else "")
        raise ConfigError(
            f"the data set lacks columns that the model was trained on: {listed}",
            "register a data set with the same columns, or train a model on the columns of this one",
        )
    for name, was_text in _texts_of(recipe).items():
        values = column(table, name)
        if values.null_count < len(values) and _is_text(values) != was_text:
            then, now = ("categories", "numbers") if was_text else ("numbers", "texts")
            raise ConfigError(
                f"the column {name!r} held {then} when the model was trained and holds {now} in this data set",
                "write it as it was then, or train a model on this data set",
            )


def rare(recipe: Recipe, table: pa.Table, rows: IntArray) -> NDArray[np.bool_]:
    """Which features of a recipe that was fitted elsewhere stand for 1 to 99 of these rows: (features,).

    A sum over a column that so few people are in would tell of them; who trains on these rows enters zeros instead.
    Checks as `check_fits`.
    """
    check_fits(recipe, table)
    found = np.zeros(len(recipe.features), np.bool_)
    for j, feature, values in _each(recipe, table, rows):
        if feature.category is not None or feature.missing:
            found[j] = 0 < values.of(feature.category, feature.missing).sum() < RELEASE_ROWS
    return found


def _texts_of(recipe: Recipe) -> dict[str, bool]:
    """Of each column of which the recipe makes more than an indicator of missing values whether it held texts."""
    return {each.column: each.category is not None for each in recipe.features if not each.missing}


def _is_text(values: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_boolean(values.type) or pa.types.is_large_string(values.type))


def _each(recipe: Recipe, table: pa.Table, rows: IntArray) -> Iterator[tuple[int, Feature, _Values]]:
    """Every feature with its place and the values of its column, which are decoded once."""
    taken, values = "", None
    for j, feature in enumerate(recipe.features):
        if values is None or feature.column != taken:
            taken, values = feature.column, _Values(table, feature.column, rows)
        yield j, feature, values


def rescaled(recipe: Recipe, table: pa.Table, rows: IntArray) -> Recipe:
    """The same features, with the mean and standard deviation that they have over other rows.

    A feature that does not vary there keeps its standard deviation, and is 0 in them all.
    """
    found: list[Feature] = []
    for _, feature, values in _each(recipe, table, rows):
        there = values.of(feature.category, feature.missing)
        there = there[~np.isnan(there)]
        made = _fit_feature(feature.column, feature.category, feature.missing, there)
        constant = replace(feature, mean=float(there[0])) if len(there) else feature
        found.append(made or constant)
    return Recipe(tuple(found), recipe.dropped)


def apply(recipe: Recipe, table: pa.Table, rows: IntArray) -> FloatArray:
    """(len(rows), features) matrix of the rows, in that order; every value lies in -5..5. Checks as `check_fits`."""
    check_fits(recipe, table)
    matrix = np.empty((len(rows), len(recipe.features)), dtype=np.float64, order="F")
    for j, feature, values in _each(recipe, table, rows):
        column_values = values.of(feature.category, feature.missing)
        if feature.category is None and not feature.missing:
            column_values = np.where(np.isnan(column_values), feature.mean, column_values)
        matrix[:, j] = np.clip((column_values - feature.mean) / feature.sd, -CLIP_SD, CLIP_SD)
    return matrix


class _Values:
    """The values of one column in some rows, decoded once however many features are made of it.

    Texts are kept as numbers in order of first appearance; either way a missing value is NaN.
    """

    def __init__(self, table: pa.Table, name: str, rows: IntArray) -> None:
        values = column(table, name)
        self.is_text = _is_text(values)
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
