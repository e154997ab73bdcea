"""The effect of a campaign: intervals that hold the truth as often as they say, lift found where it was planted."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tidegate.party.effect import Effect, Estimate, effect, facts
from tidegate.protocols.blind.measure import Arm, Measured


def _play(
    rng: np.random.Generator,
    people: tuple[int, int],
    rates: tuple[float, float],
    *,
    noise_sd: int,
    cap: int = 0,
    spend: float = 0.0,
) -> Measured:
    """Draws two arms as a campaign would leave them, with the noise of the protocol; buyers spend `spend` on average,
    log-normally, in units."""
    arms = []
    for n, rate in zip(people, rates, strict=True):
        bought = int(rng.binomial(n, rate))
        noise = np.rint(rng.normal(size=4) * noise_sd).astype(np.int64)
        if not cap:
            arms.append(Arm(n + int(noise[0]), bought + int(noise[1]), None, None))
            continue
        spends = np.minimum(np.rint(rng.lognormal(np.log(spend) - 0.32, 0.8, bought)), cap).astype(np.int64)
        money, squares = int(spends.sum()), int((spends**2).sum())
        arms.append(
            Arm(
                n + int(noise[0]),
                bought + int(noise[1]),
                money + int(noise[2]) * cap,
                squares + int(noise[3]) * cap**2,
            )
        )
    return Measured(*arms)


def _mean_spend(spend: float, cap: int) -> float:
    draws = np.random.default_rng(0).lognormal(np.log(spend) - 0.32, 0.8, 400_000)
    return float(np.minimum(np.rint(draws), cap).mean())


def _found(measured: Measured, noise_sd: int, cap: int = 0) -> Effect:
    found = effect(measured, noise_sd=noise_sd, cap=cap)
    assert found is not None
    return found


def _covered(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in (each.interval for each in estimates)]))


CASES = [
    ((20_000, 2_000), (0.05, 0.04), 10),
    ((20_000, 2_000), (0.05, 0.04), 0),
    ((5_000, 500), (0.01, 0.01), 10),
    ((2_000, 1_000), (0.002, 0.001), 1),
    ((900_000, 100_000), (0.003, 0.002), 10),
    ((400, 200), (0.5, 0.3), 5),
]


@pytest.mark.parametrize(("people", "rates", "noise_sd"), CASES)
def test_the_intervals_of_rates_and_customers_hold_the_truth_19_times_in_20(
    people: tuple[int, int], rates: tuple[float, float], noise_sd: int
) -> None:
    rng = np.random.default_rng(7)
    found = [_found(_play(rng, people, rates, noise_sd=noise_sd), noise_sd) for _ in range(3000)]
    # 3000 draws tell .95 to within .004 (one standard deviation).
    assert 0.935 < _covered([each.lift for each in found], rates[0] - rates[1]) < 0.99
    assert 0.935 < _covered([each.customers for each in found], people[0] * (rates[0] - rates[1])) < 0.99
    told = [each.relative for each in found if each.relative is not None]
    if len(told) == len(found):
        assert 0.93 < _covered(told, rates[0] / rates[1] - 1) < 0.99


@pytest.mark.parametrize(
    ("people", "rates", "noise_sd", "cap"),
    [
        ((20_000, 2_000), (0.05, 0.04), 10, 500),
        ((20_000, 2_000), (0.05, 0.04), 0, 500),
        ((20_000, 20_000), (0.02, 0.02), 2, 5_000),
        ((3_000, 1_000), (0.3, 0.2), 10, 200),
        ((3_000, 1_000), (0.3, 0.2), 1, 100_000),
    ],
)
def test_the_interval_of_sales_holds_the_truth_19_times_in_20(
    people: tuple[int, int], rates: tuple[float, float], noise_sd: int, cap: int
) -> None:
    rng = np.random.default_rng(11)
    mean = _mean_spend(100, cap)
    found = []
    for _ in range(2000):
        sales = _found(_play(rng, people, rates, noise_sd=noise_sd, cap=cap, spend=100), noise_sd, cap).sales
        assert sales is not None
        found.append(sales)
    assert 0.93 < _covered(found, people[0] * mean * (rates[0] - rates[1])) < 0.985


def test_a_planted_lift_is_found_and_counted() -> None:
    rng = np.random.default_rng(3)
    found = _found(_play(rng, (50_000, 10_000), (0.06, 0.04), noise_sd=10, cap=500, spend=100), noise_sd=10, cap=500)
    assert found.lift.verdict == "more"
    assert found.lift.value == pytest.approx(0.02, abs=0.006)
    assert found.relative is not None
    assert found.relative.value == pytest.approx(0.5, abs=0.2)
    assert found.customers.value == pytest.approx(1000, abs=300)
    assert found.sales is not None
    assert found.sales.verdict == "more"
    cost = found.cost_of_customer(20_000)
    assert cost is not None
    assert cost.value == pytest.approx(20_000 / found.customers.value)
    assert cost.interval[0] < cost.value < cost.interval[1]


def test_where_there_is_no_lift_none_is_claimed_but_one_time_in_twenty() -> None:
    rng = np.random.default_rng(4)
    found = [_found(_play(rng, (20_000, 2_000), (0.04, 0.04), noise_sd=10), 10) for _ in range(1000)]
    assert sum(each.lift.verdict != "none" for each in found) < 70
    silent = next(each for each in found if each.lift.verdict == "none")
    assert silent.cost_of_customer(1000) is None
    assert facts(silent, unit=1, cost=1000)["cost_of_customer"] is None


def test_a_campaign_that_drives_people_away_is_told_so() -> None:
    found = _found(_play(np.random.default_rng(5), (20_000, 5_000), (0.02, 0.05), noise_sd=10), 10)
    assert found.lift.verdict == "less"
    assert found.cost_of_customer(1000) is None


def test_the_relative_lift_covers_0_exactly_where_the_difference_does() -> None:
    rng = np.random.default_rng(6)
    for _ in range(500):
        rate = float(rng.uniform(0.001, 0.2))
        found = _found(_play(rng, (5_000, 1_000), (rate * float(rng.uniform(0.5, 2)), rate), noise_sd=5), 5)
        if found.relative is not None:
            assert found.relative.verdict == found.lift.verdict
            assert found.relative.interval[0] <= found.relative.value <= found.relative.interval[1]


def test_noise_makes_intervals_wider_and_never_shorter() -> None:
    def width(noise_sd: int) -> float:
        low, high = _found(Measured(Arm(5000, 250, None, None), Arm(1000, 40, None, None)), noise_sd).lift.interval
        return high - low

    widths = [width(noise_sd) for noise_sd in (0, 1, 10, 50)]
    assert widths == sorted(widths)
    assert widths[2] > 1.1 * widths[0]


@pytest.mark.parametrize(
    ("exposed", "control"),
    [((5000, -20), (1000, -30)), ((5000, 5020), (1000, 1030)), ((5000, 0), (1000, 0)), ((5000, 12), (1000, -8))],
)
def test_counts_that_noise_has_driven_beyond_the_possible_give_finite_intervals(
    exposed: tuple[int, int], control: tuple[int, int]
) -> None:
    measured = Measured(Arm(*exposed, -900, -5), Arm(*control, 10**6, 10**13))
    found = _found(measured, 10, 1000)
    assert found.sales is not None
    for estimate in (found.lift, found.customers, found.sales):
        assert np.isfinite([estimate.value, *estimate.interval]).all()
        assert estimate.interval[0] < estimate.interval[1]


@pytest.mark.parametrize("people", [(99, 5000), (5000, 99), (-3, 5000)])
def test_of_an_arm_that_drowns_in_noise_nothing_is_told(people: tuple[int, int]) -> None:
    found = effect(Measured(*(Arm(n, 5, None, None) for n in people)), noise_sd=10, cap=0)
    assert found is None
    assert facts(found, unit=1, cost=0) == {"verdict": "untold"}


def test_facts_are_in_the_columns_own_unit() -> None:
    arms = [Arm(10_000, 500, 5_000_000, 10**11), Arm(10_000, 300, 3_000_000, 10**11)]
    shown = facts(effect(Measured(*arms), noise_sd=0, cap=10**5), unit=100, cost=100_000)
    assert shown["means"] == [5.0, 3.0]
    assert shown["sales"]["value"] == pytest.approx(20_000)
    assert (shown["cost"], shown["cost_of_customer"]["value"]) == (1000, pytest.approx(5.0))
    assert shown["verdict"] == shown["sales_verdict"] == "more"


def test_the_intervals_agree_with_the_textbooks_where_there_is_no_noise() -> None:
    """Welch's interval against its formula by scipy, on drawn spends."""
    from scipy import stats

    rng = np.random.default_rng(8)
    samples: list[NDArray[np.int64]] = [rng.integers(0, 90, 60), rng.integers(0, 60, 80)]
    arms = [Arm(len(x), int((x > 0).sum()), int(x.sum()), int((x**2).sum())) for x in samples]
    found = _found(Measured(*arms), 0, 100)
    right = stats.ttest_ind(*samples, equal_var=False).confidence_interval()
    assert found.sales is not None
    np.testing.assert_allclose(found.sales.interval, (60 * right.low, 60 * right.high), rtol=1e-3)
