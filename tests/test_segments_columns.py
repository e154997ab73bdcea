"""What people are clustered by: columns of all kinds with gaps, each side weighing what the contract says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.party.segments import columns
from tidegate.protocols.channel import ConfigError
from tidegate.protocols.clustering.box import Box

FLOOR = 100


def made(values: dict[str, Any]) -> pa.Table:
    """A table of the types that the house knows."""
    found = pa.table(values)
    return found.cast(
        pa.schema([(f.name, pa.large_string() if pa.types.is_string(f.type) else f.type) for f in found.schema])
    )


def fitted(table: pa.Table, ranges: dict[str, tuple[float, float]] | None = None, **more: Any) -> columns.Recipe:
    rows = np.arange(table.num_rows)
    return columns.fit(table, table.column_names, rows, ranges or {}, **{"floor": FLOOR, "weight": 1.0, **more})


def matrix(table: pa.Table, recipe: columns.Recipe) -> np.ndarray:
    return columns.apply(recipe, table, np.arange(table.num_rows))


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.floats(0.001, 100), st.booleans())
def test_a_side_s_variance_is_its_weight_and_its_rows_lie_in_its_box(
    seed: int, width: int, weight: float, declared: bool
) -> None:
    rng = np.random.default_rng(seed)
    n = 500
    values: dict[str, Any] = {f"n{i}": np.exp(rng.normal(size=n) * rng.uniform(0.1, 3)) for i in range(width)}
    values["gaps"] = [None if each < 0.1 else each for each in rng.random(n)]
    values["kind"] = rng.choice(["a", "b", "c", "rare"], n, p=[0.4, 0.3, 0.28, 0.02])
    table = made(values)
    recipe = fitted(table, {"n0": (0.5, 2.0), "gaps": (0.3, 0.9)} if declared else {}, weight=weight)
    x = matrix(table, recipe)
    assert x.var(axis=0).sum() == pytest.approx(weight)
    Box(*recipe.box()).checked(x, "rows")
    assert np.array_equal(matrix(table, columns.Recipe.from_json(recipe.to_json())), x)


def test_three_hundred_columns_do_not_drown_ten() -> None:
    rng = np.random.default_rng(0)
    few = made({f"b{i}": rng.normal(size=400) for i in range(10)})
    many = made({f"m{i}": rng.normal(size=400) for i in range(300)})
    spread = [matrix(table, fitted(table)).var(axis=0).sum() for table in (few, many)]
    assert spread == [pytest.approx(1.0), pytest.approx(1.0)]


def test_numbers_are_standardised_and_missing_ones_are_the_mean() -> None:
    table = made({"age": [20.0, 40.0] * 150 + [30.0] * 100 + [None] * 50})
    x = matrix(table, fitted(table))[:, 0]
    assert x[0] == -x[1] != 0
    assert x[300:] == pytest.approx(0, abs=1e-12)


def test_a_category_is_one_column_however_many_texts_it_has() -> None:
    rng = np.random.default_rng(1)
    table = made({"n": rng.normal(size=4000), "kind": rng.choice([f"k{i}" for i in range(10)], 4000)})
    spread = matrix(table, fitted(table)).var(axis=0)
    assert len(spread) == 11
    assert spread[1:].sum() == pytest.approx(spread[0], rel=0.05)


def test_two_equal_halves_are_as_far_apart_as_a_number_s() -> None:
    table = made({"a": [0.0, 1.0] * 200, "b": ["x", "y"] * 200})
    x = matrix(table, fitted(table))
    assert np.square(x[0, :2] - x[1, :2]).sum() == pytest.approx(np.square(x[0, 2:] - x[1, 2:]).sum())


def test_a_rare_text_is_no_farther_away_than_a_half() -> None:
    even = made({"n": [0.0, 5.0, 1.0] * 400, "kind": ["x", "y"] * 600})
    rare = made({"n": [0.0, 5.0, 1.0] * 400, "kind": (["x"] * 11 + ["y"]) * 100})
    distance = []
    for table in (even, rare):
        recipe = fitted(table)
        kind = next(each for each in recipe.columns if each.name == "kind")
        distance.append(kind.scale / recipe.columns[0].scale * recipe.columns[0].sd)
    assert distance[1] == pytest.approx(distance[0], rel=1e-9)


def test_texts_under_the_floor_count_together_if_they_reach_it() -> None:
    texts = ["x"] * 200 + ["y"] * 200 + ["p"] * 60 + ["q"] * 60
    recipe = fitted(made({"kind": texts}))
    assert columns.labels_of(recipe.columns[0]) == ("x", "y", "other")
    few = made({"kind": texts[:430]})
    recipe = fitted(few)
    assert columns.labels_of(recipe.columns[0]) == ("x", "y")
    assert not matrix(few, recipe)[400:].any(), "too few to count: they stand at the mean"
    assert "p" not in recipe.to_json().replace("dropped", "")


def test_columns_in_which_few_people_differ_are_dropped() -> None:
    table = made({
        "same": [1.0] * 500,
        "few": [1.0] * 420 + [float(i) for i in range(80)],
        "rare": ["x"] * 420 + ["y"] * 80,
        "empty": [None] * 450 + [1.5, 2.5] * 25,
        "good": [1.0, 2.0, 3.0, 4.0] * 125,
    })  # fmt: skip
    recipe = fitted(table)
    assert recipe.names == ("good",)
    assert recipe.dropped == ("same", "few", "rare", "empty")


@given(st.integers(1, FLOOR - 1), st.floats(1e3, 1e100), st.integers(250, 3000))
def test_values_of_fewer_than_the_floor_say_nothing(few: int, huge: float, n: int) -> None:
    values = np.random.default_rng(few).normal(size=n)
    plain = np.sort(values)
    values[:few] = huge
    (column,) = fitted(made({"n": values})).columns
    assert column.high <= plain[-1]
    assert abs(column.mean) < 3


def test_a_declared_range_cuts_values_and_is_where_starts_come_from() -> None:
    rng = np.random.default_rng(3)
    table = made({"n": rng.uniform(0, 10, 1000)})
    recipe = fitted(table, {"n": (2.0, 6.0)})
    (column,) = recipe.columns
    low, high = recipe.box()
    x = matrix(table, recipe)
    assert (column.low, column.high) == (2.0, 6.0)
    assert (x.min(), x.max()) == (low[0], high[0])


def test_texts_that_begin_with_numbers_have_an_order_where_a_range_says_so() -> None:
    table = made({"band": ["18-24", "25-34", "65+"] * 200})
    recipe = fitted(table, {"band": (18.0, 70.0)})
    x = matrix(table, recipe)
    assert x.shape == (600, 1)
    assert x[0] < x[1] < x[2]
    assert columns.labels_of(recipe.columns[0]) == ("18-24", "25-34", "65+")
    assert matrix(table, fitted(table)).shape == (600, 3)
    with pytest.raises(ConfigError, match="do not begin with a number"):
        fitted(made({"band": ["18-24", "young"] * 200}), {"band": (18.0, 70.0)})


def test_two_values_are_a_category_whatever_they_are() -> None:
    table = made({"yes": [0, 1] * 200, "flag": [True, False] * 200, "half": [0.5, 1.5] * 200})
    recipe = fitted(table)
    assert [column.categories for column in recipe.columns] == [("0", "1"), ("false", "true"), ("0.5", "1.5")]
    codes = columns.codes_of(recipe.columns[2], table, np.arange(4))
    assert codes.tolist() == [0, 1, 0, 1]


def test_new_texts_and_new_missing_values_stand_at_the_mean() -> None:
    recipe = fitted(made({"kind": ["x", "y"] * 400, "n": [1.0, 2.0, 3.0, 4.0] * 200}))
    new = made({"kind": ["new", None, "x"], "n": [None, 2.5, 900.0]})
    x = matrix(new, recipe)
    assert not x[0].any()
    assert x[1] == pytest.approx(0, abs=1e-12)
    assert x[2, 2] == pytest.approx((4.0 - 2.5) / recipe.columns[1].sd * recipe.columns[1].scale)


@pytest.mark.parametrize(("was", "is_now"), [(["x", "y"] * 200, [1.0] * 3), ([1.0, 2.0, 3.0, 4.0] * 100, ["x"] * 3)])
def test_a_column_of_another_kind_is_refused_later(was: list[Any], is_now: list[Any]) -> None:
    recipe = fitted(made({"c": was}))
    with pytest.raises(ConfigError, match="when the segments were made"):
        matrix(made({"c": is_now}), recipe)
    with pytest.raises(ConfigError, match="no column 'c'"):
        matrix(made({"d": [1.0]}), recipe)


def test_free_text_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'note' is free text"):
        fitted(made({"note": [f"text {i}" for i in range(400)]}))
