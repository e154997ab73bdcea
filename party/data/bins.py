"""Columns cut into bins that people can name, none of them with fewer people than the floor.

Merged and never left out: a bin that is missing from a complete list could be told by subtraction.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidegate.protocols.blind.products import spread
from tidegate.protocols.channel import ConfigError

from .table import FloatArray, coded, column, each_of, kind, numbers

IntArray = NDArray[np.int64]

MAX_BINS = 10
_SAMPLE = 100_000


@dataclass(frozen=True)
class FeatureBins:
    """The bins of one column. Every value falls into exactly one of `labels`.

    Numbers: bin i holds edges[i-1] <= x < edges[i], without end below the first edge and above the last. Texts: bin i
    holds the values in groups[i]. Whatever else there is falls into bin `rest`: missing values, and texts that none
    of the rows had on which the bins were fitted.
    """

    name: str
    labels: tuple[str, ...]
    ordered: bool
    edges: tuple[float, ...]
    groups: tuple[tuple[str, ...], ...]
    rest: int


def binned(
    path: Path, columns: Sequence[str], rows: IntArray, floor: int
) -> tuple[list[FeatureBins], NDArray[np.uint8]]:
    """`fit_bins` and `assign` for columns of a file: of a Parquet file only a few of them are in memory at a time."""

    def one(item: tuple[str, pa.ChunkedArray]) -> tuple[FeatureBins, NDArray[np.uint8]] | None:
        name, values = item
        table = pa.table([values], names=[name])
        made = fit_bins(table, [name], rows, floor)
        return (made[0], assign(table, made, rows)[:, 0].astype(np.uint8)) if made else None

    # NumPy and Arrow sort and search outside the interpreter's lock.
    kept = [found for found in spread(one, each_of(path, columns), threads=os.cpu_count() or 1) if found is not None]
    codes = np.empty((len(rows), len(kept)), np.uint8, order="F")
    for j, (_, column_codes) in enumerate(kept):
        codes[:, j] = column_codes
    return [feature for feature, _ in kept], codes


def fit_bins(table: pa.Table, columns: Sequence[str], rows: IntArray, floor: int) -> list[FeatureBins]:
    """Bins with at least `floor` of `rows` in each, at most 10 a column (and one for missing values).

    Columns that end in a single bin say nothing and are left out. Raises ConfigError for free text.
    """
    made = []
    for name in columns:
        if kind(table, name) == "text" and column(table, name).null_count < table.num_rows:
            raise ConfigError(f"the column {name!r} is free text and has no bins", "leave it out of the features")
        is_number = kind(table, name) == "number"
        bins = _fit_numbers(table, name, rows, floor) if is_number else _fit_texts(table, name, rows, floor)
        if bins is not None and len(bins.labels) > 1:
            made.append(bins)
    return made


def assign(table: pa.Table, bins: Sequence[FeatureBins], rows: IntArray) -> IntArray:
    """(len(rows), len(bins)) numbers of the bins, 0..len(labels)-1, that each row falls into."""
    codes = np.empty((len(rows), len(bins)), dtype=np.int64, order="F")
    for j, feature in enumerate(bins):
        if feature.groups:
            where = {value: i for i, group in enumerate(feature.groups) for value in group}
            found, written = coded(table, feature.name, rows)
            # The bin of each text, and behind them the one of missing values, which -1 points at.
            codes[:, j] = np.array([*(where.get(text, feature.rest) for text in written), feature.rest])[found]
        else:
            numbers_ = numbers(table, feature.name)[rows]
            found = np.searchsorted(np.array(feature.edges), numbers_, side="right")
            codes[:, j] = np.where(np.isnan(numbers_), feature.rest, found)
    return codes


def _fit_numbers(table: pa.Table, name: str, rows: IntArray, floor: int) -> FeatureBins | None:
    values = numbers(table, name)[rows]
    there = values[~np.isnan(values)]
    if len(there) < floor:
        return None
    type_ = column(table, name).type
    # Sorting a million values to learn that they are not few, or where their tenths end, would take most of the time.
    distinct = np.unique(there) if len(np.unique(there[:_SAMPLE])) <= MAX_BINS else there
    if len(distinct) <= MAX_BINS:
        edges = distinct[1:]
    else:
        sample = there[:: -(-len(there) // _SAMPLE)]
        quantiles = np.quantile(sample, np.arange(1, MAX_BINS) / MAX_BINS)
        edges = np.unique(_rounded(quantiles, type_))
        if pa.types.is_integer(type_):
            # A number that many share (no purchases at all, say) ends a bin: the next one starts another.
            edges = np.union1d(edges, quantiles[:-1][np.diff(quantiles) == 0] + 1)
    edges, counts = _merged(edges, there, floor)
    exact = distinct if len(distinct) <= MAX_BINS else None
    labels = _number_labels(edges, exact, type_)
    absent = len(values) - len(there)
    if absent >= floor:
        return FeatureBins(name, (*labels, "missing"), True, tuple(edges.tolist()), (), len(labels))
    rest = counts.index(min(counts))
    if absent:
        labels = tuple(f"{label} or missing" if i == rest else label for i, label in enumerate(labels))
    return FeatureBins(name, labels, True, tuple(edges.tolist()), (), rest)


def _merged(edges: FloatArray, values: FloatArray, floor: int) -> tuple[FloatArray, list[int]]:
    """The edges without those that leave a bin under `floor` values, and how many values each bin then has.

    The smallest bin joins its smaller neighbour.
    """
    kept = edges.tolist()
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(kept) + 1).tolist()
    while kept:
        smallest = counts.index(min(counts))
        if counts[smallest] >= floor:
            break
        upper_is_smaller = smallest < len(kept) and (smallest == 0 or counts[smallest + 1] < counts[smallest - 1])
        edge = smallest if upper_is_smaller else smallest - 1
        kept.pop(edge)
        counts[edge] += counts.pop(edge + 1)
    return np.array(kept, dtype=np.float64), counts


def _rounded(edges: FloatArray, type_: pa.DataType) -> FloatArray:
    """Edges a person would choose, nobody's own value: months for dates, else a twentieth of their spread."""
    if pa.types.is_temporal(type_):
        days = np.floor(edges).astype("datetime64[D]")
        return days.astype("datetime64[M]").astype("datetime64[D]").astype(np.float64)
    spread = float(np.ptp(edges)) or 1.0
    size = 10.0 ** np.floor(np.log10(spread / 20))
    step = max(size * nice for nice in (1, 2, 5) if nice == 1 or size * nice <= spread / 20)
    # Rounded once more in decimal: 7 * 0.1 is not quite 0.7, and the label would show it.
    return np.array([float(f"{value:.12g}") for value in np.round(edges / step) * step])


def _number_labels(edges: FloatArray, exact: FloatArray | None, type_: pa.DataType) -> tuple[str, ...]:
    """One label a bin: "under 20", "20 to 29" ("20 to under 30" where numbers have fractions), "30 or more".

    `exact` are the column's values where they are few: a bin that holds one of them is called by it. The ends
    of the range are never shown, they may be one person's.
    """
    is_whole = pa.types.is_integer(type_) and bool(np.all((np.abs(edges) < 2**53) & (edges == np.round(edges))))
    bounds = [-np.inf, *edges.tolist(), np.inf]
    labels = []
    for low, high in itertools.pairwise(bounds):
        inside = [] if exact is None else [value for value in exact.tolist() if low <= value < high]
        if len(inside) == 1:
            labels.append(_text(inside[0], type_))
        elif low == -np.inf:
            labels.append("any" if high == np.inf else f"under {_text(high, type_)}")
        elif high == np.inf:
            labels.append(f"{_text(low, type_)} or more")
        elif is_whole:
            last = _text(high - 1, type_)
            labels.append(last if low == high - 1 else f"{_text(low, type_)} to {last}")
        else:
            labels.append(f"{_text(low, type_)} to under {_text(high, type_)}")
    return tuple(labels)


def _text(value: float, type_: pa.DataType) -> str:
    if pa.types.is_temporal(type_):
        return str(np.datetime64(int(np.floor(value)), "D"))
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"


def _fit_texts(table: pa.Table, name: str, rows: IntArray, floor: int) -> FeatureBins | None:
    codes, written = coded(table, name, rows)
    absent = int((codes < 0).sum())
    counts = dict(zip(written, np.bincount(codes[codes >= 0], minlength=len(written)).tolist(), strict=True))
    # Most frequent first; the tenth bin is "other" where there are more.
    ranked = sorted(counts, key=lambda value: (-counts[value], value))
    large = [value for value in ranked if counts[value] >= floor]
    kept = large if len(large) == len(ranked) <= MAX_BINS else large[: MAX_BINS - 1]
    if not kept:
        return None
    labels = list(kept)
    groups: list[tuple[str, ...]] = [(value,) for value in kept]
    others = tuple(ranked[len(kept) :])
    if sum(counts[value] for value in others) >= floor:
        labels.append("other")
        groups.append(others)
    elif others:
        labels[-1] += ", other"
        groups[-1] += others
    if absent >= floor:
        labels.append("missing")
        groups.append(())
    elif absent:
        labels[-1] += ", missing"
    return FeatureBins(name, tuple(labels), False, (), tuple(groups), len(labels) - 1)
