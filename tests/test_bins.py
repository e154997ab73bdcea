"""Bins: every row in exactly one, none under the floor, labels that give nobody away."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.party.data.bins import MAX_BINS, FeatureBins, assign, fit_bins
from tidegate.protocols.channel import ConfigError


def _only(table: pa.Table, floor: int = 100) -> tuple[FeatureBins, list[int]]:
    rows = np.arange(table.num_rows)
    (bins,) = fit_bins(table, table.column_names, rows, floor)
    counts = np.bincount(assign(table, [bins], rows)[:, 0], minlength=len(bins.labels))
    return bins, counts.tolist()


def test_many_numbers_are_cut_at_round_edges() -> None:
    bins, counts = _only(pa.table({"age": np.random.default_rng(0).integers(18, 90, 5000)}))
    assert bins.labels[0] == "under 24"
    assert bins.labels[1] == "24 to 31"
    assert bins.labels[-1].endswith(" or more")
    assert len(counts) == MAX_BINS
    assert min(counts) > 400


def test_few_numbers_are_their_own_bins_and_the_rare_join_a_neighbour() -> None:
    values = np.repeat([0, 1, 2, 3, 9], [500, 300, 50, 200, 20])
    bins, counts = _only(pa.table({"cars": values}))
    assert bins.labels == ("0", "1", "2 or more")
    assert counts == [500, 300, 270]
    assert bins.ordered


def test_a_value_that_most_share_keeps_a_bin() -> None:
    values = np.concatenate([np.zeros(800), np.arange(1, 201)]).astype(np.int64)
    bins, counts = _only(pa.table({"orders": values}))
    assert bins.labels[0] == "under 1"
    assert counts[0] == 800
    assert sum(counts) == 1000


def test_fractions_and_dates_have_labels_people_read() -> None:
    rng = np.random.default_rng(0)
    bins, _ = _only(pa.table({"share": rng.random(2000)}))
    assert bins.labels[1] == "0.1 to under 0.2"
    days = [dt.date(2020, 1, 1) + dt.timedelta(days=int(d)) for d in rng.integers(0, 1500, 2000)]
    bins, _ = _only(pa.table({"since": pa.array(days)}))
    assert bins.labels[0] == "under 2020-05-01"
    assert bins.labels[-1].endswith("-01 or more")


def test_missing_is_a_bin_at_the_floor_and_joins_the_smallest_below_it() -> None:
    values = [0.0] * 300 + [1.0] * 200
    bins, counts = _only(pa.table({"x": pa.array(values + [None] * 100)}))
    assert bins.labels == ("0", "1", "missing")
    assert counts == [300, 200, 100]
    bins, counts = _only(pa.table({"x": pa.array(values + [None] * 99)}))
    assert bins.labels == ("0", "1 or missing")
    assert counts == [300, 299]


def test_texts_keep_the_frequent_and_gather_the_others() -> None:
    def column(*counts: tuple[str | None, int]) -> pa.Table:
        return pa.table({"job": pa.array([v for v, n in counts for _ in range(n)], pa.large_string())})

    bins, counts = _only(column(("a", 300), ("b", 200), ("c", 60), ("d", 50), (None, 100)))
    assert bins.labels == ("a", "b", "other", "missing")
    assert counts == [300, 200, 110, 100]
    bins, counts = _only(column(("a", 300), ("b", 200), ("c", 60), (None, 120)))
    assert bins.labels == ("a", "b, other", "missing")
    assert counts == [300, 260, 120]
    bins, counts = _only(column(("a", 300), ("b", 200), ("c", 60), (None, 10)))
    assert bins.labels == ("a", "b, other, missing")
    assert counts == [300, 270]


def test_columns_with_a_single_bin_are_left_out() -> None:
    n = 300
    table = pa.table({
        "same": np.ones(n),
        "rare": np.repeat([0.0, 1.0], [n - 50, 50]),
        "void": pa.nulls(n, pa.float64()),
        "empty": pa.nulls(n, pa.large_string()),
        "text": pa.array(["a"] * (n - 1) + ["b"], pa.large_string()),
    })  # fmt: skip
    assert fit_bins(table, table.column_names, np.arange(n), 100) == []


def test_huge_numbers_are_binned() -> None:
    values = np.concatenate([np.linspace(-1e308, 1e307, 500), [1e308] * 500])
    _, counts = _only(pa.table({"x": values}))
    assert sum(counts) == 1000


def test_free_text_is_refused() -> None:
    table = pa.table({"note": pa.array([f"n{i}" for i in range(200)], pa.large_string())})
    with pytest.raises(ConfigError, match="free text"):
        fit_bins(table, ["note"], np.arange(200), 100)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.lists(st.one_of(st.none(), st.integers(-20, 20).map(float), st.floats(-1e9, 1e9)), min_size=1, max_size=400),
        st.lists(st.one_of(st.none(), st.sampled_from("abcdefghijklmn")), min_size=100, max_size=600),
    ),
    st.integers(1, 60),
    st.integers(0, 2**32),
)
def test_no_bin_is_under_the_floor_whatever_the_values(values: list[float | str | None], floor: int, seed: int) -> None:
    is_text = any(isinstance(value, str) for value in values)
    column = pa.array(values, pa.large_string() if is_text else pa.float64())
    table = pa.table({"x": pa.concat_arrays([column, column, column]) if is_text else column})
    rows = np.flatnonzero(np.random.default_rng(seed).random(table.num_rows) < 0.7)
    try:
        made = fit_bins(table, ["x"], rows, floor)
    except ConfigError:
        return
    for j, bins in enumerate(made):
        counts = np.bincount(assign(table, made, rows)[:, j], minlength=len(bins.labels))
        assert len(counts) == len(bins.labels) <= MAX_BINS + 1
        assert counts.min() >= floor
        assert len(set(bins.labels)) == len(bins.labels)
