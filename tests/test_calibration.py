"""Rates promised by scores, against people whose labels are known."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.party import calibration
from tidegate.protocols.channel import ConfigError

rated = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=120).filter(
    lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
)


def sample(n: int, seed: int = 1, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.1).astype(int)
    return y, rng.normal(size=n) + shift * y


def top_rate(rates: np.ndarray, percent: int) -> float:
    """Mean of the highest `percent` of rates."""
    return float(np.sort(rates)[-(len(rates) * percent // 100) :].mean())


def test_calibrated_rates_average_to_the_base_rate_and_keep_the_order() -> None:
    y, s = sample(5000)
    rates = calibration.calibrate(y, s).rates(s)
    assert rates.mean() == pytest.approx(y.mean(), abs=1e-4)
    assert top_rate(rates, 5) > top_rate(rates, 20) > top_rate(rates, 100)
    assert top_rate(rates, 100) == pytest.approx(rates.mean())


def test_expected_rate_of_an_audience_matches_what_other_people_turn_out_to_be() -> None:
    y, s = sample(20_000, seed=5)
    others, scores = sample(20_000, seed=6)
    blur = 3.0
    blurred = scores + np.random.default_rng(9).uniform(-blur / 2, blur / 2, scores.size)
    top = np.argsort(-blurred)[: scores.size // 10]
    expected = top_rate(calibration.calibrate(y, s, blur=blur).rates(blurred), 10)
    promised_without_blur = top_rate(calibration.calibrate(y, s).rates(blurred), 10)
    assert expected == pytest.approx(others[top].mean(), abs=0.03)
    assert promised_without_blur > expected + 0.05


def test_calibration_stays_finite_when_perfectly_apart_or_constant() -> None:
    apart = calibration.calibrate([0, 0, 1, 1], [0, 1, 2, 3])
    assert np.isfinite(apart.rates([-1e6, 1e6])).all()
    assert calibration.calibrate([0, 0, 0, 1], [2, 2, 2, 2]).rates([2, 50]).tolist() == pytest.approx([0.25, 0.25])


@pytest.mark.parametrize(
    ("labels", "scores", "says"),
    [
        ([0, 0, 0], [1, 2, 3], "no good customer"),
        ([1, 1], [1, 2], "only good customers"),
        ([], [], "no rows"),
        ([0, 1], [1, 2, 3], "2 labels came with 3 scores"),
        ([0, 1], [1, float("nan")], "finite"),
        ([0, 1], [0.1, 0.2], "one row of a kind"),
    ],
)
def test_what_cannot_be_calibrated_is_a_configuration_error(labels: list[int], scores: list[float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        calibration.crossed_rates(labels, scores)


@settings(max_examples=100, deadline=None)
@given(rated, st.integers(1, 40), st.integers(1, 10))
def test_bins_hold_the_floor_and_everybody_and_never_part_equal_rates(
    rows: list[tuple[bool, int]], floor: int, most: int
) -> None:
    y, r = np.array(rows).T
    rates = r / 12
    table = calibration.reliability(y, rates, floor=floor, most=most)
    sizes = [each.people for each in table.bins]
    assert sum(sizes) == (len(rows) if len(rows) >= floor else 0)
    assert len(sizes) <= most
    assert min(sizes, default=floor) >= floor
    order = np.argsort(rates, kind="stable")
    parts = np.split(order, np.cumsum(sizes)[:-1]) if sizes else []
    for part, after in itertools.pairwise(parts):
        assert rates[part].max() < rates[after].min()
    for part, each in zip(parts, table.bins, strict=True):
        assert (each.expected, each.observed) == pytest.approx((rates[part].mean(), y[part].mean()))
        assert 0 <= each.interval[0] <= each.observed <= each.interval[1] <= 1
    if sizes:
        off = sum(len(part) * abs(y[part].mean() - rates[part].mean()) for part in parts) / len(rows)
        assert table.error == pytest.approx(off)
    else:
        assert table.error is table.by_chance is None


def test_error_of_rates_that_hold_is_what_chance_makes() -> None:
    rng = np.random.default_rng(4)
    errors, chances = [], []
    for _ in range(200):
        rates = rng.uniform(0.02, 0.4, 1000)
        table = calibration.reliability(rng.random(1000) < rates, rates, floor=50)
        assert table.error is not None
        assert table.by_chance is not None
        errors.append(table.error)
        chances.append(table.by_chance)
    assert np.mean(errors) == pytest.approx(np.mean(chances), rel=0.1)


def test_rates_that_promise_double_are_found_out() -> None:
    rng = np.random.default_rng(5)
    rates = rng.uniform(0.02, 0.4, 4000)
    table = calibration.reliability(rng.random(4000) < rates, np.minimum(2 * rates, 1), floor=100)
    assert table.error == pytest.approx(rates.mean(), rel=0.1)
    assert table.error is not None
    assert table.by_chance is not None
    assert table.error > 5 * table.by_chance
    assert all(each.interval[1] < each.expected for each in table.bins[3:])


def test_interval_of_a_rate_is_wilsons() -> None:
    y = np.zeros(40)
    y[:3] = 1
    [only] = calibration.reliability(y, np.full(40, 0.1), floor=40).bins
    assert only.interval == pytest.approx((0.025838, 0.198644), abs=1e-5)


def test_a_row_is_judged_by_a_calibration_that_has_not_seen_it() -> None:
    y, s = sample(400)
    rates = calibration.crossed_rates(y, s)
    good = np.flatnonzero(y)
    for fold in range(5):
        out = np.concatenate([good[fold::5], np.flatnonzero(y == 0)[fold::5]])
        inside = np.setdiff1d(np.arange(400), out)
        assert np.array_equal(rates[out], calibration.calibrate(y[inside], s[inside]).rates(s[out]))
    assert not np.array_equal(rates, calibration.calibrate(y, s).rates(s))


def test_facts_are_json_and_judge_what_they_promise() -> None:
    y, s = sample(3000)
    facts = json.loads(json.dumps(calibration.facts(y, 2.5 * s - 1, floor=100)))
    assert set(facts) == {"intercept", "slope", "bins", "error", "error_by_chance"}
    assert len(facts["bins"]) == 10
    assert facts["error"] < 2 * facts["error_by_chance"]
    assert facts["slope"] == pytest.approx(calibration.calibrate(y, s).slope / 2.5)
    assert calibration.facts([0, 0, 1], [1, 2, 3], floor=1)["bins"] == []
    assert calibration.facts(y[:90], s[:90], floor=100)["error"] is None


@pytest.mark.parametrize(("rates", "floor", "says"), [([0.5, 1.5], 1, "between 0 and 1"), ([0.5, 0.5], 0, "1 person")])
def test_what_is_no_rate_and_no_floor_is_refused(rates: list[float], floor: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        calibration.reliability([0, 1], rates, floor=floor)
