"""Names that people give segments: from both sides' cards, in words, no two the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.party.segments import naming
from tidegate.protocols.clustering.cards import Trait


def number(name: str, *deviations: float, kind: str = "number", means: tuple[float, ...] = ()) -> Trait:
    k = len(deviations)
    values = np.array([0.0, *(means or [0.5] * k)])[:, None]
    return Trait(name, kind, (), values, np.zeros((k + 1, 1), np.bool_), np.array(deviations)[:, None])


def category(name: str, labels: tuple[str, ...], *deviations: tuple[float, ...]) -> Trait:
    k, m = len(deviations), len(labels)
    return Trait(
        name, "category", labels, np.full((k + 1, m), 50.0), np.zeros((k + 1, m), np.bool_), np.array(deviations)
    )


def test_the_three_strongest_make_a_name() -> None:
    own = [number("age", -1.5, 1.0), number("income", 0.1, 0.6)]
    theirs = [
        category("area", ("rural", "urban"), (-1.0, 1.0), (0.9, -0.9)),
        number("cars", 0.8, 0.0, kind="whole", means=(2.1, 1.0)),
    ]
    assert naming.names([own, theirs], 2) == ["younger, urban, two cars", "older, rural, high income"]


@pytest.mark.parametrize(
    ("trait", "words"),
    [
        (number("age_years", -1.0), "younger"),
        (number("customer_age", -1.0), "younger"),
        (number("HouseholdIncome", 1.0), "high income"),
        (number("n_orders", 1.0, kind="whole", means=(17.0,)), "many orders"),
        (number("num_children", -1.0, kind="whole", means=(0.1,)), "no children"),
        (number("cars", 1.0, kind="whole", means=(1.1,)), "one car"),
        (number("order_count", -1.0, kind="whole", means=(4.4,)), "few orders"),
        (number("signup", 1.0, kind="date", means=(19000.0,)), "late signup"),
        (number("tenure", -1.0), "new"),
        (category("newsletter", ("0", "1"), (-1.0, 1.0)), "newsletter"),
        (category("newsletter", ("no", "yes"), (1.0, -1.0)), "no newsletter"),
        (category("bought", ("no", "yes"), (1.0, -1.0)), "not bought"),
        (category("is_member", ("false", "true"), (1.0, -1.0)), "not member"),
        (category("has_car", ("0", "1"), (-1.0, 1.0)), "car"),
        (category("has_car", ("0", "1"), (1.0, -1.0)), "no car"),
        (category("plan", ("a", "b"), (1.0, -1.0)), "plan: a"),
        (category("cars", ("0", "1", "2"), (-0.5, -0.5, 1.0)), "two cars"),
        (category("area", ("other", "urban"), (1.0, -1.0)), naming.AVERAGE),
        (number("age", 0.1), naming.AVERAGE),
        (number("age", np.nan), naming.AVERAGE),
    ],
)
def test_words_for_what_sets_a_segment_apart(trait: Trait, words: str) -> None:
    assert naming.names([[trait], []], 1) == [words]


def test_a_text_that_two_columns_have_needs_its_column() -> None:
    labels, far = ("low", "mid"), ((1.0, -1.0),)
    assert naming.names([[category("rent", labels, *far), category("debt", labels, *far)], []], 1) == [
        "debt: low, rent: low"
    ]


def test_a_side_with_something_to_say_has_a_word() -> None:
    own = [number(name, 2.0) for name in "abcd"]
    assert naming.names([own, [number("e", 0.5)]], 1) == ["high a, high b, high e"]


def test_segments_that_look_alike_are_told_apart_by_more_words_or_a_number() -> None:
    own = [number(name, 2.0, 2.0) for name in "abc"]
    assert naming.names([own, [number("e", 0.3, 0.5), number("f", 1.0, 1.0)]], 2) == [
        "high a, high b, high f",
        "high a, high b, high c, high f",
    ]
    assert naming.names([[number("a", 1.0, 1.0, 1.0)], []], 3) == ["high a", "high a (2)", "high a (3)"]


NAMES = st.text(min_size=1, max_size=12)


@given(
    st.lists(
        st.tuples(
            NAMES, st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.sampled_from(["number", "whole", "date"])
        ),
        max_size=6,
        unique_by=lambda each: each[0],
    ),
    st.lists(
        st.tuples(NAMES, st.lists(NAMES, min_size=1, max_size=4, unique=True)), max_size=4, unique_by=lambda e: e[0]
    ),
    st.randoms(use_true_random=False),
)
def test_whatever_the_cards_all_names_differ_and_name_no_column_twice(
    numbers: list[tuple[str, list[float], str]], texts: list[tuple[str, list[str]]], chance: object
) -> None:
    rng = np.random.default_rng(len(numbers) * 7 + len(texts))
    own = [number(name, *deviations, kind=kind) for name, deviations, kind in numbers]
    theirs = [
        category(name, tuple(labels), *(tuple(row) for row in rng.normal(size=(4, len(labels)))))
        for name, labels in texts
    ]
    found = naming.names([own, theirs], 4)
    assert len(set(found)) == 4
    assert all(found)
    for j in range(4):
        phrases = naming._one_a_column(naming._phrases([own, theirs], j))
        assert len({(each.side, each.column) for each in phrases}) == len(phrases)


def test_columns_that_say_the_same_under_kindred_names_are_said_once() -> None:
    own = [
        number("car_policies", 1.0, -0.8, 0.0),
        number("car_premium", 0.95, -0.8, 0.05),
        number("no_car", -0.97, 0.8, 0.0),
        number("fire_policies", 0.6, 0.7, -0.9),
        number("tenure", 0.5, 0.5, 0.5),
    ]
    first, second, _ = naming.names([own], 3)
    assert first == "high car policies, high fire policies, long-standing"
    assert second == "low car policies, high fire policies, long-standing"
