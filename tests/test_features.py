"""Columns as a matrix: what a recipe keeps, drops and does to rows it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.party.data.features import MAX_FEATURES, Recipe, apply, check_fits, fit, rare, rescaled
from tidegate.party.data.table import read
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


# What training meets in people's files: each is either handled or refused with a sentence.


def _read(folder: Path, text: str) -> pa.Table:
    path = folder / "people.csv"
    path.write_text(text)
    return read(path)


def test_infinity_nan_and_words_for_nothing_are_missing_values(tmp_path: Path) -> None:
    lines = ["x", *["inf", "-inf", "nan", "n/a", ""] * 30, *[str(i) for i in range(150)]]
    table = _read(tmp_path, "\n".join(f"{line},1" for line in lines))
    recipe = fit(table, ["x"], _all(table))
    assert recipe.names == ("x", "x missing")
    matrix = apply(recipe, table, _all(table))
    assert np.isfinite(matrix).all()
    assert (matrix[:150, 0] == matrix[0, 0]).all()


def test_numbers_with_a_word_among_them_are_text_and_refused_as_a_feature(tmp_path: Path) -> None:
    table = _read(tmp_path, "x,y\n" + "\n".join(f"{i},1" for i in range(200)) + "\nunknown,1\n")
    with pytest.raises(ConfigError, match="'x' is free text"):
        fit(table, ["x"], _all(table))


def test_a_row_with_a_field_too_many_is_refused_by_its_number(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="row 3 has 3 fields, the header has 2"):
        _read(tmp_path, "x,y\n1,2\n1,2,3\n")


def test_dates_count_in_days_and_booleans_as_categories(tmp_path: Path) -> None:
    days = [f"2024-{1 + i % 12:02d}-{1 + i % 28:02d},{'true' if i % 2 else 'false'}" for i in range(400)]
    table = _read(tmp_path, "since,member\n" + "\n".join(days))
    recipe = fit(table, ["since", "member"], _all(table))
    assert recipe.names == ("since", "member=true")
    first, second = apply(recipe, table, np.array([0, 29]))[:, 0]
    assert first != second


def test_a_column_of_huge_numbers_says_no_more_than_who_is_far_out() -> None:
    values = np.concatenate([np.random.default_rng(1).normal(size=400), [1e300, -1e300]])
    table = pa.table({"x": values})
    matrix = apply(fit(table, ["x"], _all(table)), table, _all(table))
    assert np.isfinite(matrix).all()
    assert np.abs(matrix).max() == 5


def test_collinear_columns_are_kept_as_they_are() -> None:
    x = np.random.default_rng(2).normal(size=300)
    table = pa.table({"x": x, "twice": 2 * x, "x again": x})
    matrix = apply(fit(table, table.column_names, _all(table)), table, _all(table))
    np.testing.assert_allclose(matrix[:, 0], matrix[:, 1])
    np.testing.assert_allclose(matrix[:, 0], matrix[:, 2])


def _wide(columns: int) -> pa.Table:
    rng = np.random.default_rng(3)
    return pa.table({f"c{i}": rng.normal(size=120) for i in range(columns)})


def test_400_features_are_taken_and_one_more_is_refused_with_the_columns_that_make_most() -> None:
    table = _wide(MAX_FEATURES)
    assert len(fit(table, table.column_names, _all(table)).names) == MAX_FEATURES
    city = _texts(*((f"city {i}", 100) for i in range(50)))
    rows = len(city)
    many = pa.table({"city": city, **{f"c{i}": np.arange(float(rows)) + i for i in range(352)}})
    with pytest.raises(ConfigError, match="401 features") as caught:
        fit(many, many.column_names, _all(many))
    assert "'city' (49)" in caught.value.hint


# A recipe that was fitted last week.


def test_another_table_is_prepared_as_the_first_was() -> None:
    table = pa.table({"x": np.arange(300.0), "job": _texts(("clerk", 180), ("retired", 120))})
    recipe = fit(table, ["x", "job"], _all(table))
    week = pa.table({"job": _texts(("retired", 2), ("astronaut", 2), (None, 1)), "x": [10.0, None, 1e9, 3.0, 4.0]})
    matrix = apply(recipe, week, _all(week))
    x, job = apply(recipe, table, np.array([10, 0, 299]))[0, 0], apply(recipe, table, np.array([0, 299]))[:, 1]
    assert (matrix[0, 0], matrix[2, 0]) == (x, 5)
    assert matrix[1, 0] == 0, "a missing number is the mean"
    np.testing.assert_array_equal(matrix[:, 1], job[[1, 1, 0, 0, 0]])


def test_a_table_that_lacks_columns_of_the_model_is_refused_with_their_names() -> None:
    table = pa.table({f"c{i}": np.arange(200.0) * i for i in range(1, 9)})
    recipe = fit(table, table.column_names, _all(table))
    with pytest.raises(ConfigError, match="'c2', 'c3', 'c4', 'c5', 'c6' and 2 more") as caught:
        check_fits(recipe, table.select(["c1"]))
    assert "train a model on the columns of this one" in caught.value.hint


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        (np.arange(200.0), _texts(("a", 200)), "held numbers when the model was trained and holds texts"),
        (_texts(("a", 100), ("b", 100)), np.arange(200.0), "held categories .* holds numbers"),
        (pa.array([True, False] * 100), np.tile([1, 0], 100), "held categories .* holds numbers"),
    ],
)
def test_a_column_of_another_kind_than_the_model_knows_is_refused(then: Any, now: Any, says: str) -> None:
    before, after = pa.table({"x": then}), pa.table({"x": now})
    recipe = fit(before, ["x"], _all(before))
    with pytest.raises(ConfigError, match=says):
        apply(recipe, after, _all(after))


def test_a_column_without_a_single_value_fits_any_recipe() -> None:
    before = pa.table({"x": np.arange(200.0), "job": _texts(("a", 100), ("b", 100))})
    recipe = fit(before, ["x", "job"], _all(before))
    after = pa.table({"x": pa.nulls(3, pa.large_string()), "job": pa.nulls(3, pa.float64())})
    assert np.isfinite(apply(recipe, after, _all(after))).all()


def test_what_stands_for_1_to_99_rows_of_another_table_is_rare() -> None:
    before = pa.table({"x": np.arange(300.0), "job": _texts(("a", 100), ("b", 100), ("c", 100))})
    recipe = fit(before, ["x", "job"], _all(before))
    after = pa.table({"x": np.arange(300.0), "job": _texts(("a", 150), ("b", 99), ("d", 51))})
    counts = {name: int((apply(recipe, after, _all(after))[:, j] > 0).sum()) for j, name in enumerate(recipe.names)}
    found = dict(zip(recipe.names, rare(recipe, after, _all(after)).tolist(), strict=True))
    assert found == {name: name != "x" and 0 < counts[name] < 100 for name in recipe.names}
    assert any(found.values())
