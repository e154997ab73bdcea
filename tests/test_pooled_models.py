"""What horizontal training gives is what pooled rows give: logistic regression's optimum, Lloyd's clusters."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tests.pools import dealt, held_out, kmeans_pool, logistic_pool, people
from tidegate.protocols.channel import ConfigError, PeerError
from tidegate.protocols.horizontal import kmeans, logistic
from tidegate.protocols.horizontal.task import Outcome, Question, Task
from tidegate.protocols.primitives.fixed_point import FloatArray, IntArray

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data for measuring is not beside this checkout")


def _pooled_auc(x: FloatArray, y: FloatArray, rows: list[IntArray], l2: float) -> tuple[float, FloatArray, IntArray]:
    train = np.concatenate([held_out(each)[0] for each in rows])
    test = np.concatenate([held_out(each)[1] for each in rows])
    mean, scale = x[train].mean(axis=0), x[train].std(axis=0)
    fitted = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=5000).fit((x[train] - mean) / scale, y[train])
    scores = fitted.decision_function((x[test] - mean) / scale)
    return float(roc_auc_score(y[test], scores)), scores, test


def _run_alone(task: Task, part: Any, seed: bytes = bytes(32)) -> tuple[list[tuple[Question, FloatArray]], Outcome]:
    """A course answered by one part that has all rows: the pooled run."""
    course, asked = task.course(seed), []
    question = next(course)
    try:
        while True:
            answer = part.answer(question)
            assert answer.shape == (question.size,)
            assert np.abs(answer).max() <= part.rows
            asked.append((question, answer))
            question = course.send(answer)
    except StopIteration as stop:
        assert len(asked) <= task.questions
        return asked, stop.value


# Logistic regression


@settings(max_examples=8, deadline=None)
@given(
    shops=st.integers(3, 6),
    d=st.integers(1, 6),
    by=st.sampled_from(["chance", "label", "column"]),
    secure=st.booleans(),
    l2=st.sampled_from([1, 30]),
    seed=st.integers(0, 99),
)
def test_the_model_is_the_pooled_optimum_however_rows_are_dealt(
    shops: int, d: int, by: str, secure: bool, l2: int, seed: int
) -> None:
    x, y, ranges = people(900, d, seed)
    rows = dealt(len(x), shops, {"chance": None, "label": y, "column": x[:, 0]}[by])
    there = logistic_pool(x, y, ranges, rows, secure=secure, l2_milli=1000 * l2, rounds=60)
    outcome = there.play_out()[""]
    # A holder with one kind of row may find its own model better: what came out is the coordinator's then.
    if not isinstance(outcome, Outcome):
        assert "own hold-out" in getattr(outcome, "text", "") or "ended" in getattr(outcome, "text", "")
        return
    auc, scores, test = _pooled_auc(x, y, rows, l2)
    ours = logistic.LogisticModel(outcome.model["theta"], ranges).score(x[test])
    assert np.abs(ours - scores).max() < 1e-3
    assert abs(roc_auc_score(y[test], ours) - auc) < 1e-3
    assert abs(outcome.curves["auc"][-1] - auc) < 5e-3


@needs_data
@pytest.mark.parametrize("by", ["chance", "label", "column"])
def test_default_credit_dealt_to_five_is_within_a_thousandth_of_pooled(by: str) -> None:
    guest, host = (pq.read_table(DATA / f"default_credit_{part}.parquet") for part in ("guest", "host"))
    order = [np.argsort(table["id"].to_numpy()) for table in (guest, host)]
    sides = [(guest, order[0]), (host, order[1])]
    x = np.column_stack([t[c].to_numpy()[o] for t, o in sides for c in t.column_names if c not in ("id", "y")])
    y = guest["y"].to_numpy()[order[0]].astype(np.float64)
    ranges = np.stack([x.min(axis=0), x.max(axis=0)], axis=1)
    rows = dealt(len(x), 5, {"chance": None, "label": y, "column": x[:, 0]}[by])
    outcome, _ = logistic_pool(x, y, ranges, rows, least_rows=1000).play()
    auc, _scores, test = _pooled_auc(x, y, rows, 1.0)
    ours = roc_auc_score(y[test], logistic.LogisticModel(outcome.model["theta"], ranges).score(x[test]))
    assert abs(ours - auc) < 1e-3
    assert abs(outcome.curves["auc"][-1] - auc) < 1e-3


def test_a_column_that_never_changes_and_two_that_are_the_same_do_no_harm() -> None:
    x, y, ranges = people(900, 3)
    x = np.column_stack([x, x[:, 0], np.full(len(x), 2.0)])
    ranges = np.vstack([ranges, ranges[:1], [[0.0, 4.0]]])
    rows = dealt(len(x), 3)
    outcome, _ = logistic_pool(x, y, ranges, rows, rounds=60).play()
    train, test = (np.concatenate([held_out(each)[part] for each in rows]) for part in (0, 1))
    u = (x - x[train].mean(axis=0)) / np.maximum(x[train].std(axis=0), 1e-9)
    fitted = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(u[train], y[train])
    ours = logistic.LogisticModel(outcome.model["theta"], ranges).score(x[test])
    assert np.abs(ours - fitted.decision_function(u[test])).max() < 1e-3


def test_a_step_that_leads_uphill_is_halved_until_the_optimum_is_reached() -> None:
    uphill = 0
    for seed in (44, 45, 46, 55, 57):
        rng = np.random.default_rng(seed)
        x = np.exp(2 * rng.normal(size=(400, 3)))
        z = (x > np.quantile(x, 0.9, axis=0)) @ np.array([3.0, 2.0, -3.0]) - 4
        y = (rng.random(400) < 1 / (1 + np.exp(-z))).astype(np.float64)
        ranges = np.stack([x.min(axis=0) - 1, x.max(axis=0) + 1], axis=1)
        task = logistic.Settings(3, rounds=60, l2_milli=10, least_rows=2)
        _, outcome = _run_alone(task, logistic.Holder(x, y, x[:50], y[:50], ranges=ranges, settings=task))
        losses = np.array(outcome.curves["loss"])
        uphill += int((np.diff(losses) > 1e-9).sum())
        assert outcome.converged
        u = (x - x.mean(axis=0)) / x.std(axis=0)
        fitted = LogisticRegression(C=100, tol=1e-10, max_iter=10_000).fit(u, y)
        least = np.logaddexp(0.0, fitted.decision_function(u)) - y * fitted.decision_function(u)
        assert losses[-1] == pytest.approx(least.mean() + 0.005 * float((fitted.coef_**2).sum()) / 400, rel=1e-5)
    assert uphill >= 5


def test_what_lies_outside_its_range_is_clipped() -> None:
    x, y, ranges = people(300, 2)
    far = x.copy()
    far[0] = [1e12, -1e12]
    near = np.clip(far, *ranges.T)
    task = logistic.Settings(2, least_rows=2)
    one, other = (logistic.Holder(each, y, each, y, ranges=ranges, settings=task) for each in (far, near))
    question = Question("train", {"theta": np.array([0.1, 0.2, 0.3])}, 0)
    assert np.array_equal(one.answer(question), other.answer(question))


def test_one_label_in_all_rows_is_refused() -> None:
    x, _y, ranges = people(300, 2)
    ended = logistic_pool(x, np.ones(300), ranges, dealt(300, 3)).play_out()
    assert "both labels" in ended[""].text


@pytest.mark.parametrize("wrong", [{"columns": 0}, {"rounds": 101}, {"l2_milli": 0}, {"robust": 3}, {"least_rows": 1}])
def test_settings_of_logistic_regression_out_of_bounds_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        logistic.Settings(**{"columns": 3, **wrong})  # type: ignore[arg-type]


def test_the_area_under_a_curve_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    score, y = np.round(rng.normal(size=500), 1), (rng.random(500) < 0.3).astype(np.float64)
    assert logistic.auc(score, y) == pytest.approx(roc_auc_score(y, score), abs=1e-12)


# K-means


def _lloyd(points: FloatArray, centroids: FloatArray, rounds: int) -> list[float]:
    """Inertia of pooled Lloyd at the start and after each round."""
    inertias = []
    for _ in range(rounds + 1):
        distance = ((points[:, None] - centroids[None]) ** 2).sum(axis=2)
        nearest = distance.argmin(axis=1)
        inertias.append(float(distance.min(axis=1).sum()))
        means = [points[nearest == j].mean(axis=0) for j in range(len(centroids))]
        centroids = np.stack(means)
    return inertias


def _groups(n: int = 3000, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0, 1.0], [4.0, 1.0, 0.0], [0.0, 5.0, 3.0]])
    x = centres[rng.integers(0, 3, n)] + rng.normal(size=(n, 3))
    return x, np.stack([x.min(axis=0) - 1, x.max(axis=0) + 1], axis=1)


@pytest.mark.parametrize("secure", [True, False], ids=["hidden", "in the clear"])
@pytest.mark.parametrize("by", ["chance", "column"])
def test_clusters_are_pooled_lloyds_from_the_same_start(by: str, secure: bool) -> None:
    x, ranges = _groups()
    there = kmeans_pool(x, ranges, dealt(len(x), 5, x[:, 0] if by == "column" else None), k=3, secure=secure)
    outcome, at_shops = there.play()
    site = there.sites["shop-00"]
    start = next(
        q.model for q, _ in _run_alone(site.task, _all_rows(x, ranges), site.terms)[0] if "centroids" in q.model
    )
    points = (x - ranges.mean(axis=1)) / ((ranges[:, 1] - ranges[:, 0]) / 2)
    theirs = _lloyd(points / start["scale"], start["centroids"] / start["scale"], outcome.rounds - 1)
    assert np.allclose(outcome.curves["inertia"], theirs, rtol=1e-6)
    assert all(np.allclose(each.model["centroids"], outcome.model["centroids"]) for each in at_shops.values())


def _all_rows(x: FloatArray, ranges: FloatArray, **settings: Any) -> kmeans.Holder:
    return kmeans.Holder(x, ranges=ranges, settings=kmeans.Settings(x.shape[1], **settings))


@needs_data
def test_cdnow_in_five_shops_is_pooled_lloyd_and_as_good_as_scikit_learn() -> None:
    x, ranges = _cdnow()
    there = kmeans_pool(x, ranges, dealt(len(x), 5), k=3, least_rows=1000)
    outcome, _ = there.play()
    site = there.sites["shop-00"]
    alone = _run_alone(site.task, _all_rows(x, ranges), site.terms)
    assert np.allclose(outcome.curves["inertia"], alone[1].curves["inertia"], rtol=1e-6)
    start = next(question.model for question, _ in alone[0] if "centroids" in question.model)
    points = (x - ranges.mean(axis=1)) / ((ranges[:, 1] - ranges[:, 0]) / 2) / start["scale"]
    fitted = KMeans(3, init=start["centroids"] / start["scale"], n_init=1, max_iter=20, tol=0, algorithm="lloyd").fit(
        points
    )
    assert outcome.curves["inertia"][-1] == pytest.approx(fitted.inertia_, rel=1e-3)
    released = kmeans.clusters(outcome.model, ranges)
    agreeing = (released.assign(x) == fitted.predict(points)).mean()
    assert agreeing > 0.99


def _cdnow() -> tuple[FloatArray, FloatArray]:
    """Recency in days, log frequency and log money of each customer; declared ranges."""
    table = pq.read_table(DATA / "cdnow.parquet")
    _, customer = np.unique(table["customer"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    days = table["date"].to_numpy().astype("datetime64[D]").astype(np.int64)
    money = np.bincount(customer, weights=table["dollars"].to_numpy(zero_copy_only=False).astype(np.float64))
    last = np.zeros(customer.max() + 1, np.int64)
    np.maximum.at(last, customer, days)
    x = np.column_stack([days.max() - last, np.log1p(np.bincount(customer)), np.log1p(money)]).astype(np.float64)
    return x, np.array([[0.0, 546.0], [0.0, 6.0], [0.0, 10.0]])


def test_planted_outliers_never_become_a_centroid_and_their_sum_is_never_asked() -> None:
    x, ranges = _groups()
    ranges = ranges + [[-60.0, 60.0]] * 3
    outliers = np.array([[-55.0, 55.0, -55.0], [55.0, -55.0, 55.0]])
    x = np.vstack([x, np.repeat(outliers, 3, axis=0)])
    for seed in range(12):
        asked, outcome = _run_alone(kmeans.Settings(3, k=5), _all_rows(x, ranges, k=5), bytes([seed]) * 32)
        released = kmeans.clusters(outcome.model, ranges)
        distance = np.abs(released.centroids[:, None] - outliers[None]).max(axis=2)
        assert distance.min() > 20
        assert outcome.model["sizes"].min() >= 100
        for (_, counted), (question, answer) in itertools.pairwise(asked):
            if question.kind == "train":
                sums = answer[1:].reshape(5, 3)
                assert not sums[counted[2:] < 100].any()


def test_starts_are_drawn_from_the_box_and_are_no_rows() -> None:
    x, ranges = _groups()
    asked, _ = _run_alone(kmeans.Settings(3, k=8), _all_rows(x, ranges, k=8))
    start = next(question.model["centroids"] for question, _ in asked if "centroids" in question.model)
    points = (x - ranges.mean(axis=1)) / ((ranges[:, 1] - ranges[:, 0]) / 2)
    assert np.abs(start).max() <= 1
    assert np.abs(start[:, None] - points[None]).max(axis=2).min() > 1e-9
    assert len(np.unique(start, axis=0)) == 8


def test_what_is_released_has_three_digits_and_no_small_cluster() -> None:
    x, ranges = _groups(400)
    outcome, _ = kmeans_pool(x, ranges, dealt(len(x), 4), k=8).play()
    released = kmeans.clusters(outcome.model, ranges)
    assert len(released.centroids) < 8
    assert outcome.model["sizes"].min() >= 100
    for value in released.centroids.ravel():
        assert float(f"{value:.3g}") == pytest.approx(value, rel=1e-12)


def test_rows_too_few_for_one_cluster_are_refused() -> None:
    x, ranges = _groups(150)
    ended = kmeans_pool(x[:90], ranges, dealt(90, 3), k=2, least_rows=20).play_out()
    assert "fewer rows than the 100" in ended[""].text


def test_a_model_of_more_clusters_than_the_contract_names_is_refused() -> None:
    x, ranges = _groups()
    holder = _all_rows(x, ranges, k=2)
    model = {"centroids": np.zeros((3, 3)), "scale": np.ones(3)}
    with pytest.raises(PeerError):
        holder.answer(Question("evaluate", model, 0))
    with pytest.raises(PeerError):
        holder.answer(Question("evaluate", {"centroids": np.zeros((2, 3)), "scale": np.zeros(3)}, 0))


@pytest.mark.parametrize("wrong", [{"k": 1}, {"k": 33}, {"rounds": 21}, {"rounds": 0}, {"columns": 0}, {"floor": 1}])
def test_settings_of_kmeans_out_of_bounds_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        kmeans.Settings(**{"columns": 3, **wrong})  # type: ignore[arg-type]
