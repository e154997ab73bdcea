"""Columns as a matrix: what a recipe keeps, drops and does to rows it has not seen."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.party.data.features import Recipe, apply, fit, rescaled
from tidegate.protocols.channel import ConfigError


def _texts(*counts: tuple[str | None, int]) -> pa.Array:
    return pa.array([value for value, count in counts for _ in range(count)], pa.large_string())


def _all(table: pa.Table) -> np.ndarray:
    return np.arange(table.num_rows)


def test_numbers_are_standardised_on_the_rows_fitted_and_clipped_at_five() -> None:
    values = np.random.default_rng(1).normal(10, 3, 500)
    values[400:] += 1000
    table = pa.table({"x": values})
    recipe = fit(table, ["x"], np.arange(400))
    matrix = apply(recipe, table, _all(table))
    np.testing.assert_allclose(
        matrix[:400, 0], np.clip((values[:400] - values[:400].mean()) / values[:400].std(), -5, 5)
    )
    assert (matrix[400:] == 5).all()


def test_rows_come_back_in_the_order_asked_for() -> None:
    table = pa.table({"x": [1.0, 2.0, 3.0], "f": pa.array([True, False, True])})
    recipe = fit(table, ["x"], _all(table))
    order = np.array([2, 0, 0, 1])
    np.testing.assert_array_equal(apply(recipe, table, order), apply(recipe, table, _all(table))[order])


def test_a_recipe_rescaled_to_other_rows_has_the_same_features_and_scales_as_one_fitted_there() -> None:
    rng = np.random.default_rng(2)
    table = pa.table(
        {
            "x": rng.normal(10, 3, 600),
            "flag": pa.array(["a"] * 200 + ["b"] * 200 + ["c"] * 50 + ["a"] * 150, pa.large_string()),
            "constant later": pa.array([1.0, 2.0] * 150 + [7.0] * 300),
        }
    )
    recipe, rows = fit(table, ["x", "flag", "constant later"], _all(table)), np.arange(300, 600)
    moved, there = rescaled(recipe, table, rows), fit(table, ["x", "flag"], rows)
    assert moved.names == recipe.names == ("x", "flag=b", "constant later")
    np.testing.assert_allclose(apply(moved, table, rows)[:, :2], apply(there, table, rows))
    assert (apply(moved, table, rows)[:, 2] == 0).all()


def test_missing_numbers_become_the_mean_and_from_100_on_a_column_of_their_own() -> None:
    few = pa.array([None] * 99 + [0.0, 2.0] * 200)
    many = pa.array([None] * 100 + [0.0, 2.0] * 199 + [None])
    table = pa.table({"few": few, "many": many})
    recipe = fit(table, ["few", "many"], _all(table))
    assert recipe.names == ("few", "many", "many missing")
    matrix = apply(recipe, table, _all(table))
    assert (matrix[:99, 0] == 0).all()
    assert len(np.unique(matrix[:, 2])) == 2
    assert np.isfinite(matrix).all()


def test_categories_with_100_rows_become_columns_but_for_the_most_frequent() -> None:
    table = pa.table({"job": _texts(("clerk", 300), ("retired", 100), ("astronaut", 99), (None, 120))})
    recipe = fit(table, ["job"], _all(table))
    assert recipe.names == ("job=retired", "job missing")
    retired = apply(recipe, table, _all(table))[:, 0] > 0
    np.testing.assert_array_equal(np.flatnonzero(retired), np.arange(300, 400))


def test_a_category_is_counted_over_the_rows_fitted_alone() -> None:
    table = pa.table({"job": _texts(("clerk", 300), ("retired", 150))})
    assert fit(table, ["job"], np.arange(390)).names == ()
    assert fit(table, ["job"], np.arange(400)).names == ("job=retired",)


def test_booleans_are_categories() -> None:
    table = pa.table({"member": pa.array([True] * 150 + [False] * 100)})
    assert fit(table, ["member"], _all(table)).names == ("member=false",)


def test_columns_that_do_not_vary_are_dropped_and_named() -> None:
    n = 300
    table = pa.table({
        "x": np.arange(float(n)),
        "same": np.full(n, 0.1),
        "empty": pa.nulls(n, pa.float64()),
        "void": pa.nulls(n, pa.large_string()),
        "one": _texts(("a", n)),
        "late": np.where(np.arange(n) < 200, 0.0, 1.0),
    })  # fmt: skip
    recipe = fit(table, table.column_names, np.arange(200))
    assert recipe.names == ("x",)
    assert recipe.dropped == ("same", "empty", "void", "one", "late")
    assert fit(table, [], _all(table)) == Recipe((), ())
    assert apply(Recipe((), ()), table, _all(table)).shape == (n, 0)


def test_huge_numbers_stay_finite() -> None:
    table = pa.table({"x": [1e308, -1e308, 1.0, None], "y": [2**63 - 1, -(2**63), 0, 1]})
    matrix = apply(fit(table, ["x", "y"], _all(table)), table, _all(table))
    assert np.isfinite(matrix).all()


@pytest.mark.parametrize(
    ("columns", "says"), [(["note"], "free text"), (["gone"], "no column 'gone'"), (["x", "x"], "named twice")]
)
def test_what_is_no_feature_is_refused(columns: list[str], says: str) -> None:
    table = pa.table({"x": np.arange(200.0), "note": pa.array([f"n{i}" for i in range(200)], pa.large_string())})
    with pytest.raises(ConfigError, match=says) as caught:
        fit(table, columns, _all(table))
    assert caught.value.hint


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False, width=32)), min_size=1, max_size=300))
def test_any_numbers_give_a_matrix_in_bounds_and_a_recipe_that_survives_json(values: list[float | None]) -> None:
    table = pa.table({"x": pa.array(values, pa.float64())})
    recipe = fit(table, ["x"], _all(table))
    assert Recipe.from_json(recipe.to_json()) == recipe
    matrix = apply(recipe, table, _all(table))
    assert matrix.shape == (len(values), len(recipe.names))
    assert (np.abs(matrix) <= 5).all()
