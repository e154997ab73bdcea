"""Robust sums: wrong members move the middle little, and who sends nothing of its own is found. Attacks F4."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tidegate.protocols.channel import PeerError, PolicyError
from tidegate.protocols.horizontal.robust import FEWEST, checked, drawn_in, findings, median, trimmed_mean
from tidegate.protocols.primitives.fixed_point import FloatArray

SIZE = 12
RULES = {"median": median, "trimmed mean": trimmed_mean}


def honest(n: int, seed: int = 1, noise: float = 0.5) -> dict[str, FloatArray]:
    """What members with rows of one distribution send: one direction, and an own part of half its length."""
    drawn = np.random.default_rng(seed)
    common = drawn.normal(size=SIZE)
    return {f"shop-{i:02d}": common + noise * drawn.normal(size=SIZE) for i in range(n)}


# The middle.


@given(st.integers(5, 12).flatmap(lambda n: arrays(np.float64, (n, 3), elements=st.floats(-1e6, 1e6))))
def test_the_middle_is_that_of_each_coordinate(values: FloatArray) -> None:
    updates = {str(i): row for i, row in enumerate(values)}
    np.testing.assert_allclose(median(updates), np.median(values, axis=0))
    cut = (len(values) - 1) // 4
    by_hand = [np.mean(sorted(column)[cut : len(values) - cut]) for column in values.T]
    np.testing.assert_allclose(trimmed_mean(updates), by_hand, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [0, 1, 4])
def test_fewer_than_five_members_are_refused_with_the_reason(rule: str, n: int) -> None:
    assert FEWEST == 5
    with pytest.raises(PolicyError, match=f"the middle of {n} updates is one of them: robust sums need 5 members"):
        RULES[rule](honest(n))


@pytest.mark.parametrize("rule", RULES)
@given(wrong=arrays(np.float64, SIZE, elements=st.floats(-1e12, 1e12)), n=st.sampled_from([5, 9, 13]))
def test_a_quarter_of_wrong_members_cannot_leave_the_range_of_the_others(rule: str, wrong: FloatArray, n: int) -> None:
    updates = honest(n)
    good = np.stack(list(updates.values())[(n - 1) // 4 :])
    poisoned = updates | dict.fromkeys(list(updates)[: (n - 1) // 4], wrong)
    result = RULES[rule](poisoned)
    assert (result >= good.min(axis=0) - 1e-9).all()
    assert (result <= good.max(axis=0) + 1e-9).all()


@pytest.mark.parametrize("rule", RULES)
def test_a_poisoned_update_turns_the_mean_and_not_the_middle(rule: str) -> None:
    updates = honest(5)
    clear = np.mean(list(updates.values()), axis=0)
    poisoned = updates | {"shop-02": -100 * clear}
    assert np.mean(list(poisoned.values()), axis=0) @ clear < 0
    result = RULES[rule](poisoned)
    assert result @ clear > 0.9 * np.linalg.norm(result) * np.linalg.norm(clear)


# Lengths.


def test_a_long_update_is_drawn_in_to_twice_the_middle_length_and_named() -> None:
    updates = honest(5) | {"shop-03": 1e9 * np.ones(SIZE)}
    shorter, longer = drawn_in(updates)
    assert longer == ("shop-03",)
    middle = np.median([np.linalg.norm(update) for update in updates.values()])
    assert np.linalg.norm(shorter["shop-03"]) == pytest.approx(2 * middle)
    for name in set(updates) - {"shop-03"}:
        np.testing.assert_array_equal(shorter[name], updates[name])


def test_honest_updates_are_left_as_they_are() -> None:
    assert all(drawn_in(honest(5, seed))[1] == () for seed in range(100))


# Free riders.

STEP = np.random.default_rng(9).normal(size=SIZE)
RIDERS = {
    "nothing": (lambda _: np.zeros(SIZE), "nothing: the model came back as it was given"),
    "nothing but rounding": (lambda d: 1e-9 * d.normal(size=SIZE), "nothing: the model came back as it was given"),
    "the last step": (lambda _: STEP, "a multiple of the step that was taken before"),
    "a part of the last step": (lambda d: STEP * d.uniform(-2, 2), "a multiple of the step that was taken before"),
    "the last step, disguised": (
        lambda d: STEP * d.uniform(0.1, 2) * (1 + 1e-4 * d.normal(size=SIZE)),
        "a multiple of the step that was taken before",
    ),
    "a constant": (lambda d: np.full(SIZE, d.normal()), "one number in all places"),
}


@pytest.mark.parametrize("kind", RIDERS)
def test_free_riders_are_found_in_at_least_95_of_100_runs(kind: str) -> None:
    rides, what = RIDERS[kind]
    found = 0
    for seed in range(100):
        updates = honest(5, seed) | {"shop-04": rides(np.random.default_rng(1000 + seed))}
        named = findings(updates, STEP)
        assert {finding.name for finding in named} <= {"shop-04"}
        found += [finding.what for finding in named] == [what]
    assert found >= 95


def test_two_that_send_the_same_are_both_named() -> None:
    updates = honest(5)
    updates["shop-04"] = updates["shop-01"] * (1 + 1e-6)
    assert [(finding.name, finding.what) for finding in findings(updates)] == [
        ("shop-01", "the same as shop-04's"),
        ("shop-04", "the same as shop-01's"),
    ]


def test_two_that_send_nothing_are_named_once_each() -> None:
    named = findings(honest(6) | dict.fromkeys(("shop-00", "shop-03"), np.zeros(SIZE)))
    assert [(finding.name, finding.what) for finding in named] == [
        (name, "nothing: the model came back as it was given") for name in ("shop-00", "shop-03")
    ]


def test_who_trains_is_not_called_a_free_rider() -> None:
    for seed in range(300):
        assert findings(honest(5, seed, noise=0.05), STEP) == ()


def test_an_honest_descent_close_to_its_end_is_not_called_free_riding() -> None:
    """Gradient steps of members with much the same rows: short, alike, and along the last step."""
    drawn = np.random.default_rng(4)
    optimum = drawn.normal(size=SIZE)
    own = {f"shop-{i:02d}": optimum + 0.05 * drawn.normal(size=SIZE) for i in range(5)}
    weights, last = np.zeros(SIZE), None
    for _ in range(30):
        updates = {name: 0.5 * (theirs - weights) for name, theirs in own.items()}
        assert findings(updates, last) == ()
        last = np.mean(list(updates.values()), axis=0)
        weights = weights + last


def test_updates_of_two_numbers_are_no_multiples_of_anything() -> None:
    updates = {str(i): np.array([1.0, 1.0 + i]) for i in range(5)}
    assert findings(updates, np.array([1.0, 1.0])) == ()


# What cannot be an update.


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300])
def test_what_cannot_be_measured_is_refused_by_name(wrong: float) -> None:
    update = np.zeros(SIZE)
    update[3] = wrong
    with pytest.raises(PeerError, match="shop-02 sent an update with numbers that are not finite"):
        checked("shop-02", update, SIZE)


@pytest.mark.parametrize("shape", [(), (SIZE - 1,), (SIZE, 1)])
def test_another_shape_is_refused_by_name(shape: tuple[int, ...]) -> None:
    with pytest.raises(PeerError, match="shop-02 sent an update of the shape"):
        checked("shop-02", np.zeros(shape), SIZE)


def test_an_update_is_taken_as_it_is() -> None:
    np.testing.assert_array_equal(checked("shop-02", STEP, SIZE), STEP)
