"""Clipping and noise of horizontal sums: one unit moves a sum by what is declared; the noise is worth its epsilon."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.test_secure_sum import answered, members
from tidegate.party import accountant
from tidegate.party.noise import discrete_gaussian
from tidegate.protocols.channel import ConfigError, PolicyError
from tidegate.protocols.horizontal.clipping import (
    clipped,
    clipped_sum,
    epsilon_of,
    multiplier_against,
    noise_multiplier,
    sensitivity,
    share_of,
)
from tidegate.protocols.horizontal.secure_sum import FixedPoint, add
from tidegate.protocols.primitives.fixed_point import FloatArray

DELTA = 1e-6
VECTORS = arrays(np.float64, 4, elements=st.floats(-1e6, 1e6))


# Drawing in.


@given(VECTORS, st.floats(1e-3, 1e3))
def test_an_update_is_drawn_in_to_its_length_and_keeps_its_direction(update: FloatArray, most: float) -> None:
    length = float(np.linalg.norm(update))
    drawn = clipped(update, most)
    if length <= most:
        np.testing.assert_array_equal(drawn, update)
    else:
        assert np.linalg.norm(drawn) == pytest.approx(most)
        np.testing.assert_allclose(drawn * length, update * most, rtol=1e-9, atol=1e-200)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e200])
def test_an_update_without_a_length_is_not_sent(wrong: float) -> None:
    with pytest.raises(PolicyError, match="not finite"):
        clipped(np.array([1.0, wrong]), 1.0)


def test_a_row_without_a_length_is_not_sent() -> None:
    with pytest.raises(PolicyError, match="not finite"):
        clipped_sum(np.array([[1.0, np.nan]]), np.array([0.5]), 1.0)


@given(arrays(np.float64, (5, 3), elements=st.floats(-9, 9)), arrays(np.float64, 5, elements=st.floats(-1, 1)))
def test_a_clipped_sum_is_that_of_its_rows_drawn_in_one_by_one(x: FloatArray, residuals: FloatArray) -> None:
    one_by_one = sum((clipped(r * row, 2.0) for r, row in zip(residuals, x, strict=True)), np.zeros(3))
    np.testing.assert_allclose(clipped_sum(x, residuals, 2.0), one_by_one, atol=1e-9)


@given(
    arrays(np.float64, (6, 3), elements=st.floats(-1e5, 1e5)),
    arrays(np.float64, 6, elements=st.floats(-1, 1)),
    st.sampled_from([2, 8, 24]),
)
def test_one_row_moves_the_integers_by_no_more_than_declared(x: FloatArray, residuals: FloatArray, bits: int) -> None:
    scale = FixedPoint(3, 100.0, bits)
    there = scale.encode(clipped_sum(x, residuals, 1.5), 3).view(np.int64)
    gone = scale.encode(clipped_sum(x[1:], residuals[1:], 1.5), 3).view(np.int64)
    assert np.linalg.norm((there - gone).astype(float)) <= sensitivity(1.5, 3, bits) * (1 + 1e-9)


@given(VECTORS, st.sampled_from([2, 8, 24]))
def test_one_member_moves_the_integers_by_no_more_than_declared(update: FloatArray, bits: int) -> None:
    moved = FixedPoint(3, 100.0, bits).encode(clipped(update, 1.5), 4).view(np.int64)
    assert np.linalg.norm(moved.astype(float)) <= sensitivity(1.5, 4, bits) * (1 + 1e-9)


# What the noise is worth.


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("rounds", [1, 20, 200])
def test_the_noise_has_the_epsilon_and_hardly_less_would(epsilon: float, rounds: int) -> None:
    z = noise_multiplier(epsilon, DELTA, rounds)
    assert epsilon_of(z, DELTA, rounds) <= epsilon
    assert epsilon_of(z * 0.999, DELTA, rounds) > epsilon


@pytest.mark.parametrize("z", [1.0, 3.0, 20.0, 100.0])
@pytest.mark.parametrize("rounds", [1, 20])
def test_two_accountants_agree(z: float, rounds: int) -> None:
    """dp-accounting searches a grid of orders, the ledger's closed form all of them: never below it, 0.1 % above."""
    ours = accountant.epsilon_of(rounds / (2 * z**2), DELTA)
    assert ours * (1 - 1e-9) <= epsilon_of(z, DELTA, rounds) <= ours * 1.001


def test_the_exact_loss_of_continuous_noise_is_a_little_less() -> None:
    from dp_accounting import get_epsilon_gaussian  # type: ignore[import-untyped]  # ships no types

    exact = get_epsilon_gaussian(10.0 / math.sqrt(20), DELTA)
    assert 0.9 * epsilon_of(10.0, DELTA, 20) < exact < epsilon_of(10.0, DELTA, 20)


@given(st.integers(1, 100))
@settings(max_examples=20)
def test_rounds_add_up(rounds: int) -> None:
    assert epsilon_of(3.0 * math.sqrt(rounds), DELTA, rounds) == pytest.approx(epsilon_of(3.0, DELTA, 1))


def test_colluding_members_take_their_shares_off() -> None:
    z = noise_multiplier(2.0, DELTA, 20)
    against = [epsilon_of(multiplier_against(z, 5, c), DELTA, 20) for c in range(5)]
    assert against == pytest.approx([1.77, 2.00, 2.34, 2.92, 4.29], abs=0.01)
    assert multiplier_against(z, 5, 5) == 0
    assert multiplier_against(z, 5, 3, declared=3) == z


@pytest.mark.parametrize("colluding", [0, 1, 3])
def test_the_shares_add_up_to_the_declared_deviation(colluding: int) -> None:
    share = share_of(7.0, sensitivity(1.0, 8, 24), members=5, colluding=colluding)
    assert math.sqrt(5 - colluding) * share == pytest.approx(7.0 * sensitivity(1.0, 8, 24), rel=1e-4)


def test_the_sum_of_masked_noise_has_the_declared_deviation() -> None:
    made, size = members(5), 4000
    declared = 3.0 * sensitivity(0.5, size, 16)
    share = share_of(3.0, sensitivity(0.5, size, 16), members=5, colluding=0)
    scale = FixedPoint(5, 1.0, 16, noise_sd=share)
    values = {name: scale.encode(np.full(size, 0.25), size, discrete_gaussian(share)(size)) for name in made}
    total = scale.integers(add(answered(made, values)[0], made, size)) - 5 * 2**14
    # 4000 draws: both lie within six standard errors but once in 10^8 runs.
    assert np.std(total) == pytest.approx(declared, rel=6 / math.sqrt(2 * size))
    assert abs(np.mean(total)) < 6 * declared / math.sqrt(size)


def test_whoever_tells_a_row_from_its_absence_stays_under_epsilon() -> None:
    """The best test there is on one number, a threshold: its errors obey epsilon and delta, and reach half."""
    moved = sensitivity(1.0, 1, 16)
    share = share_of(noise_multiplier(1.0, 1e-3, 1), moved, members=3)
    # Of the three shares, the other member knows one.
    unknown = np.random.default_rng(5).normal(scale=share, size=(2, 200_000)).sum(axis=0)
    reached = 0.0
    for threshold in np.linspace(0, 4 * moved, 40):
        false = np.mean(unknown > threshold)
        true = np.mean(unknown + moved > threshold)
        if false > 1e-3:
            reached = max(reached, math.log((true - 1e-3) / false))
    assert 0.5 < reached < 1.0


# What cannot be.


@pytest.mark.parametrize(
    ("epsilon", "delta", "rounds"), [(0, 1e-6, 1), (101, 1e-6, 1), (1, 0, 1), (1, 1, 1), (1, 1e-6, 0)]
)
def test_an_impossible_budget_is_refused(epsilon: float, delta: float, rounds: int) -> None:
    with pytest.raises(ConfigError, match="epsilon of up to 100"):
        noise_multiplier(epsilon, delta, rounds)


def test_without_the_accountant_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match="needs dp-accounting") as caught:
        noise_multiplier(1.0, DELTA, 1)
    assert "tidegate[horizontal]" in caught.value.hint


@pytest.mark.parametrize("colluding", [-1, 2, 3])
def test_two_members_must_be_left_that_do_not_collude(colluding: int) -> None:
    with pytest.raises(ConfigError, match="two others must be left"):
        share_of(1.0, 1e6, members=3, colluding=colluding)


def test_units_too_coarse_for_the_noise_are_refused() -> None:
    assert share_of(1.0, sensitivity(1.0, 2, 8), members=5) >= 16
    with pytest.raises(ConfigError, match="too little to add up") as caught:
        share_of(1.0, sensitivity(1.0, 2, 2), members=5)
    assert "more bits of fraction" in caught.value.hint


def test_noise_counts_towards_what_could_wrap() -> None:
    FixedPoint(5, 1.0, bits=50, noise_sd=0)
    with pytest.raises(ConfigError, match="could wrap"):
        FixedPoint(5, 1.0, bits=50, noise_sd=2**55)
