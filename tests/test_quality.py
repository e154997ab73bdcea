"""The figures of merit against clear-text one-liners, and the corners where a figure cannot be told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from tidegate.party import quality
from tidegate.protocols.channel import ConfigError

labelled = st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5)), min_size=4, max_size=60).filter(
    lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
)


def sample(n: int, seed: int = 1, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.1).astype(int)
    return y, rng.normal(size=n) + shift * y


@settings(max_examples=60, deadline=None)
@given(labelled)
def test_auc_and_log_loss_are_those_of_scikit_learn_with_ties(rows: list[tuple[int, int]]) -> None:
    y, s = np.array(rows).T
    assert quality.auc(y, s) == pytest.approx(metrics.roc_auc_score(y, s), abs=1e-12)
    assert quality.log_loss(y, s) == pytest.approx(metrics.log_loss(y, 1 / (1 + np.exp(-s.astype(float)))), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(labelled, st.randoms(use_true_random=False))
def test_no_figure_depends_on_the_order_of_rows(rows: list[tuple[int, int]], random) -> None:
    y, s = np.array(rows).T
    random.shuffle(rows)
    y2, s2 = np.array(rows).T
    for figure in (quality.auc, quality.gains_curve, lambda a, b: quality.lift(a, b, 10)):
        assert np.allclose(figure(y, s), figure(y2, s2))


def pair_by_pair(y: np.ndarray, s: np.ndarray) -> np.ndarray:
    good, other = s[y == 1], s[y == 0]
    return np.asarray((good[:, None] > other) + 0.5 * (good[:, None] == other))


def welch(wins: np.ndarray) -> float:
    """Half of the interval of the mean over pairs, by scipy."""
    parts = wins.mean(1).var(ddof=1) / wins.shape[0], wins.mean(0).var(ddof=1) / wins.shape[1]
    freedom = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, wins.shape, strict=True))
    return float(stats.t.ppf(0.975, freedom) * np.sqrt(sum(parts)))


@pytest.mark.parametrize("n", [40, 300])
def test_intervals_agree_with_delong_computed_pair_by_pair(n: int) -> None:
    y, s = sample(n)
    better = np.round(s + 0.3 * y + np.random.default_rng(2).normal(size=n), 1)
    wins, won = pair_by_pair(y, s), pair_by_pair(y, better)
    area = wins.mean()
    low, high = quality.auc_interval(y, s)  # type: ignore[misc]
    reach = welch(wins) / (area * (1 - area))
    assert np.log(low / (1 - low)) == pytest.approx(np.log(area / (1 - area)) - reach, abs=1e-3)
    assert low < area < high
    gain, interval = quality.auc_gain(y, s, better)
    assert gain == pytest.approx((won - wins).mean())
    assert interval == pytest.approx((gain - welch(won - wins), gain + welch(won - wins)), abs=1e-4)


@pytest.mark.parametrize("freedom", [1, 1.5, 2, 4.2, 17, 240.5, 5000, 1e6])
def test_quantile_of_students_t_is_that_of_scipy(freedom: float) -> None:
    assert quality.student_95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-4)


@pytest.mark.parametrize("good", [3, 10, 40])
def test_two_models_as_good_as_each_other_show_a_gain_1_time_in_40_at_most(good: int) -> None:
    rng, shown = np.random.default_rng(good), 0
    y = np.arange(400) < good
    for _ in range(500):
        shared = rng.normal(size=400) + 0.7 * y
        before, after = shared + 0.6 * rng.normal(size=(2, 400))
        shown += bool(quality.is_gain_shown(quality.auc_gain(y, before, after)[1]))
    # Three standard deviations of the count above the promise.
    assert shown <= 500 / 40 + 3 * np.sqrt(500 / 40)


def test_interval_of_the_gain_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(7)
    covered, n = 0, 300
    big_y = (rng.random(200_000) < 0.2).astype(int)
    shared = rng.normal(size=big_y.size)
    before, after = shared + 0.7 * big_y, shared + rng.normal(size=big_y.size) * 0.5 + 1.0 * big_y
    truth = quality.auc(big_y, after) - quality.auc(big_y, before)
    for start in range(0, 400 * n, n):
        rows = slice(start, start + n)
        _, interval = quality.auc_gain(big_y[rows], before[rows], after[rows])
        assert interval is not None
        covered += interval[0] <= truth <= interval[1]
    assert 0.92 <= covered / 400 <= 0.98


@settings(max_examples=60, deadline=None)
@given(labelled, st.integers(1, 100))
def test_lift_is_what_a_random_order_of_equal_scores_finds_on_average(
    rows: list[tuple[int, int]], percent: int
) -> None:
    y, s = np.array(rows).T
    taken = percent / 100 * y.size
    above = np.array([(s > own).sum() for own in s])
    share = np.clip((taken - above) / np.array([(s == own).sum() for own in s]), 0, 1)
    assert quality.lift(y, s, percent) == pytest.approx((y * share).sum() / y.sum() / (percent / 100))


@settings(max_examples=60, deadline=None)
@given(labelled)
def test_gains_curve_without_ties_is_a_cumulative_sum(rows: list[tuple[int, int]]) -> None:
    y = np.array([label for label, _ in rows])
    found = np.concatenate(([0], np.cumsum(y) / y.sum()))
    assert np.allclose(quality.gains_curve(y, -np.arange(y.size)), np.stack([np.arange(y.size + 1) / y.size, found], 1))


@pytest.mark.parametrize("good", [1, 2, 999])
def test_figures_of_tiny_classes_are_finite_and_say_where_no_interval_is(good: int) -> None:
    y = np.zeros(1000, int)
    y[:good] = 1
    s = np.random.default_rng(good).normal(size=1000)
    facts = quality.compare(y, {"brand_only": np.zeros(1000), "joint": s})
    untold = good in (1, 999)
    assert (facts["gain_interval"] is None) == untold
    assert facts["gain_shown"] is (None if untold else facts["gain_interval"][0] > 0)
    assert np.isfinite([facts["gain"], *facts["log_loss"].values(), *facts["lift_at"]["1"].values()]).all()


def fitted(x: np.ndarray, y: np.ndarray, others: np.ndarray) -> np.ndarray:
    model = LogisticRegression(C=1.0, solver="newton-cholesky").fit(x, y)
    return np.asarray(model.decision_function(others))


def test_no_gain_is_claimed_more_often_than_1_time_in_40_from_columns_that_are_noise() -> None:
    claimed, runs = 0, 120
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        own, noise = rng.normal(size=(1200, 3)), rng.normal(size=(1200, 8))
        y = (rng.random(1200) < 1 / (1 + np.exp(2 - own @ [0.8, -0.5, 0.3]))).astype(int)
        both = np.hstack([own, noise])
        alone, joint = (fitted(x[:600], y[:600], x[600:]) for x in (own, both))
        claimed += bool(quality.compare(y[600:], {"brand_only": alone, "joint": joint})["gain_shown"])
    # 1 in 40 is what the interval promises where joining neither helps nor harms; noise harms a little.
    assert claimed <= runs / 40


def test_gain_of_columns_that_count_is_shown() -> None:
    rng = np.random.default_rng(1)
    own, other = rng.normal(size=(2, 3000, 3))
    y = (rng.random(3000) < 1 / (1 + np.exp(2 - own[:, 0] - other[:, 0]))).astype(int)
    both = np.hstack([own, other])
    alone, joint = (fitted(x[:1500], y[:1500], x[1500:]) for x in (own, both))
    assert quality.compare(y[1500:], {"brand_only": alone, "joint": joint})["gain_shown"] is True


def test_paired_interval_is_shorter_than_the_two_apart() -> None:
    y, s = sample(2000)
    better = s + 0.2 * y + np.random.default_rng(3).normal(size=y.size) * 0.1
    gain, interval = quality.auc_gain(y, s, better)
    apart = quality.auc_interval(y, s)
    assert interval is not None
    assert apart is not None
    assert gain > 0
    assert interval[1] - interval[0] < 0.5 * (apart[1] - apart[0])


def test_same_scores_gain_exactly_nothing() -> None:
    y, s = sample(200)
    assert quality.auc_gain(y, s, 3 * s + 1) == (0.0, (0.0, 0.0))


def test_intervals_that_rows_cannot_tell_are_none() -> None:
    assert quality.auc_interval([1, 0, 0, 0], [3, 1, 2, 0]) is None, "one good row has no spread"
    assert quality.auc_interval([1, 1, 0, 0], [4, 3, 2, 1]) is None, "perfectly apart"
    assert quality.auc_gain([1, 0, 0], [1, 2, 3], [3, 2, 1]) == (1.0, None)
    assert quality.auc_gain([1, 1, 0, 0], [1, 1, 1, 1], [4, 3, 2, 1]) == (0.5, None), "every row moved by as much"


def test_constant_scores_rank_like_a_coin() -> None:
    y, _ = sample(500)
    assert quality.auc(y, np.zeros(500)) == 0.5
    assert quality.lift(y, np.zeros(500), 5) == pytest.approx(1.0)
    assert np.allclose(np.diff(np.array(quality.gains_curve(y, np.zeros(500))), axis=1), 0)


@pytest.mark.parametrize(
    ("labels", "scores", "says"),
    [
        ([0, 0, 0], [1, 2, 3], "no good customer"),
        ([1, 1], [1, 2], "only good customers"),
        ([], [], "no rows"),
        ([0, 1, 2], [1, 2, 3], "not all 0 or 1"),
        ([0, 1], [1, 2, 3], "2 labels came with 3 scores"),
        ([0, 1], [1, float("nan")], "finite"),
        ([0, 1], [1, float("inf")], "finite"),
    ],
)
def test_what_cannot_be_measured_is_a_configuration_error(labels: list[int], scores: list[float], says: str) -> None:
    if len(labels) == len(scores) and np.isfinite(scores).all():
        with pytest.raises(ConfigError, match=says):
            quality.check_holdout(labels)
    for figure in (quality.auc, quality.log_loss, quality.gains_curve):
        with pytest.raises(ConfigError, match=says):
            figure(labels, scores)


def test_lift_counts_the_best_scored_share_and_ties_pro_rata() -> None:
    y = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 1])
    s = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0])
    assert quality.lift(y, s, 20) == pytest.approx((2 / 3) / 0.2)
    assert quality.lift([1, 0, 0, 0], [1, 1, 0, 0], 25) == pytest.approx(2.0)
    with pytest.raises(ConfigError):
        quality.lift(y, s, 0)


def test_gains_curve_rises_from_nothing_to_all_in_at_most_101_points() -> None:
    y, s = sample(3000)
    curve = np.array(quality.gains_curve(y, s))
    assert curve.shape == (101, 2)
    assert curve[0].tolist() == [0, 0]
    assert curve[-1].tolist() == [1, 1]
    assert (np.diff(curve, axis=0) >= 0).all()
    assert curve[10, 1] == pytest.approx(quality.lift(y, s, 10) * 0.1)
    assert len(quality.gains_curve([0, 1, 0], [1, 2, 3])) == 4


def test_histogram_counts_every_score() -> None:
    _, s = sample(1000)
    counted = quality.histogram(s, bins=20)
    assert 0 < counted["edges"][0] < counted["edges"][-1] < 1
    assert sum(counted["counts"]) == 1000
    assert len(counted["edges"]) == 21
    assert quality.histogram([]) == {"edges": [0.0, 1.0], "counts": [0]}
    assert sum(quality.histogram([1.0, 1.0])["counts"]) == 2


def test_compare_gives_the_facts_of_the_train_step() -> None:
    y, s = sample(800)
    facts = quality.compare(y, {"brand_only": np.full(800, -2.2), "joint": s - 2.5, "media_only": s / 2})
    assert set(facts["auc"]) == {"brand_only", "joint", "media_only"}
    assert facts["auc"]["brand_only"] == 0.5
    assert facts["auc_interval"]["brand_only"] == [0.5, 0.5]
    assert facts["gain"] == pytest.approx(facts["auc"]["joint"] - 0.5)
    assert facts["gain_interval"][0] > 0
    assert facts["gain_shown"] is True
    assert set(facts["lift_at"]) == {"1", "5", "10"}
    assert facts["lift_at"]["10"]["joint"] > 1
    assert len(facts["gains_curve"]["joint"]) == 101
