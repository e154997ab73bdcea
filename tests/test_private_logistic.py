"""Logistic regression with noise: what one row or one client can move, what the noise is worth, what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tests.clients import Clients
from tests.shops import write_tables
from tidegate.party.privacy import campaign_micro
from tidegate.protocols.channel import ConfigError, PeerError, PolicyError
from tidegate.protocols.horizontal.clipping import sensitivity
from tidegate.protocols.horizontal.private_logistic import CLIENT, ROW, Holder, Settings, multiplier_milli
from tidegate.protocols.horizontal.task import FRACTION_BITS, Outcome, Question, digits, is_same
from tidegate.protocols.primitives.fixed_point import FloatArray
from tidegate.wire.contract import Privacy

PRIVATE = "federate.private-logistic@1"
D = 3
RANGES = np.array([[-1.0, 1.0]] * D)
TRAIN = ("train.spreads", "train.moments", "train")


def settings(**changed: int) -> Settings:
    given = {"columns": D, "rounds": 5, "l2_milli": 1000, "clip_milli": 1000, "unit": ROW, "multiplier_milli": 3000}
    return Settings(**{**given, "clients": 5, "least_rows": 2, **changed})


def holder(x: FloatArray, y: FloatArray, of: Settings, held_out: int = 2) -> Holder:
    cut = len(x) - held_out
    return Holder(x[:cut], y[:cut], x[cut:], y[cut:], ranges=RANGES, settings=of)


def people(n: int, seed: int = 1) -> tuple[FloatArray, FloatArray]:
    """Rows in -1..1 with spreads and correlations that differ, and who bought."""
    drawn = np.random.default_rng(seed)
    common = drawn.normal(size=n)
    x = np.stack([0.1 * common + 0.3, 0.08 * (common + drawn.normal(size=n)) - 0.5, 0.4 * drawn.normal(size=n)], axis=1)
    x = np.clip(x, -1, 1)
    z = 8 * (x[:, 0] - 0.3) - 6 * (x[:, 1] + 0.5) + 2 * x[:, 2] - 0.8
    return x, (drawn.random(n) < 1 / (1 + np.exp(-z))).astype(np.float64)


def play(holders: list[Holder], of: Settings, noise: Callable[[int], FloatArray]) -> tuple[list[Question], Outcome]:
    """The course, with the sum of all answers and of so much noise a holder; its questions and what came out."""
    course = of.course(bytes(32))
    asked = [next(course)]
    while True:
        question = asked[-1]
        shares = sum((question.noise * noise(question.size) for _ in holders), np.zeros(question.size))
        try:
            answers = [each.answer(question) for each in holders]
            asked.append(course.send(np.sum(answers, axis=0) + shares / 2.0**FRACTION_BITS))
        except StopIteration as stop:
            return asked, stop.value


def gaussian(seed: int) -> Callable[[int], FloatArray]:
    drawn = np.random.default_rng(seed)
    return lambda size: drawn.normal(size=size)


def dealt(n: int, of: Settings, rows: int = 20_000, seed: int = 1) -> tuple[list[Holder], FloatArray, FloatArray]:
    x, y = people(rows, seed)
    parts = np.array_split(np.arange(rows), n)
    return [holder(x[part], y[part], of, len(part) // 5) for part in parts], x, y


# What one row, or one client, can move.

MATRICES = arrays(np.float64, (D + 1, D + 1), elements=st.floats(-1e6, 1e6))
THETAS = arrays(np.float64, D + 1, elements=st.floats(-1e6, 1e6))
ROWS = arrays(np.float64, (6, D), elements=st.floats(-5, 5))
LABELS = arrays(np.float64, 6, elements=st.sampled_from([0.0, 1.0]))


@given(
    ROWS, LABELS, MATRICES, arrays(np.float64, D + 1, elements=st.floats(-1e6, 1e6)), st.sampled_from([1, 300, 5000])
)
def test_no_row_moves_an_answer_by_more_than_1_whatever_is_asked(
    x: FloatArray, y: FloatArray, matrix: FloatArray, theta: FloatArray, clip: int
) -> None:
    of = settings(clip_milli=clip)
    whole, fewer = holder(x, y, of), holder(x[1:], y[1:], of)
    model = {"to_scales": matrix, "to_white": matrix, "theta": theta}
    for kind in TRAIN:
        moved = whole.answer(Question(kind, model, 0)) - fewer.answer(Question(kind, model, 0))
        assert np.linalg.norm(moved) <= 1 + 1e-6
    held_out = holder(x, y, of, 2).answer(Question("evaluate", model, 0)) - holder(x[:-1], y[:-1], of, 1).answer(
        Question("evaluate", model, 0)
    )
    assert np.linalg.norm(held_out) <= 1 + 1e-9


@given(ROWS, LABELS, MATRICES, THETAS)
def test_no_client_moves_an_answer_by_more_than_1(
    x: FloatArray, y: FloatArray, matrix: FloatArray, theta: FloatArray
) -> None:
    model = {"to_scales": matrix, "to_white": matrix, "theta": theta}
    for kind in (*TRAIN, "evaluate"):
        answer = holder(x, y, settings(unit=CLIENT)).answer(Question(kind, model, 0))
        assert np.linalg.norm(answer) <= 1 + 1e-6


def test_held_out_rows_are_in_no_sum_of_the_training() -> None:
    x, y = people(50)
    other = x.copy()
    other[-10:] = 0.9
    for kind in TRAIN:
        model = {"to_scales": np.eye(D + 1), "to_white": np.eye(D + 1), "theta": np.zeros(D + 1)}
        ours, theirs = (holder(each, y, settings(), 10).answer(Question(kind, model, 0)) for each in (x, other))
        np.testing.assert_array_equal(ours, theirs)


# What the noise is worth.


def _multiplier(question: Question, of: Settings) -> float:
    """Of the noise that all but one client add to an answer."""
    return question.noise * math.sqrt(of.clients - 1) / sensitivity(1.0, question.size, FRACTION_BITS)


@pytest.mark.parametrize(("unit", "clients", "epsilon"), [(ROW, 5, 2.0), (CLIENT, 100, 20.0)])
@pytest.mark.parametrize("rounds", [1, 30])
def test_all_answers_together_have_the_declared_epsilon(unit: int, clients: int, epsilon: float, rounds: int) -> None:
    import dp_accounting  # type: ignore[import-untyped]  # ships no types
    from dp_accounting import rdp

    of = settings(unit=unit, rounds=rounds, clients=clients, multiplier_milli=multiplier_milli(epsilon, 1e-6))
    asked, _ = play(dealt(clients, of, 2000)[0], of, gaussian(1))
    assert [question.kind for question in asked] == [*TRAIN[:2], *["train"] * rounds, "evaluate"]
    trained, held_out = asked[:-1], asked[-1:]
    # One row is in one of the two, one client in both.
    for together in (trained, held_out) if unit == ROW else (asked,):
        accountant = rdp.RdpAccountant([1 + x / 10 for x in range(1, 2000)])
        for question in together:
            accountant.compose(dp_accounting.GaussianDpEvent(_multiplier(question, of)))
        assert 0.98 * epsilon < accountant.get_epsilon(1e-6) < 1.0005 * epsilon


@given(st.integers(1, 300), st.integers(1, 100), st.integers(50, 10**6), st.integers(3, 100))
def test_the_noise_of_any_settings_fits_the_ring(columns: int, rounds: int, multiplier: int, clients: int) -> None:
    of = settings(columns=columns, rounds=rounds, multiplier_milli=multiplier, clients=clients)
    noise = of.share(0.7 / rounds, of.widest)
    assert noise >= 16
    digits(clients, noise)


def test_more_epsilon_is_less_noise() -> None:
    multipliers = [multiplier_milli(epsilon, 1e-6) for epsilon in (0.1, 1.0, 4.0, 20.0)]
    assert multipliers == sorted(multipliers, reverse=True)


# What comes out.


def _auc(outcome: Outcome, x: FloatArray, y: FloatArray) -> float:
    theta = outcome.model["theta"]
    return float(roc_auc_score(y, theta[0] + x @ theta[1:]))


def test_with_hardly_any_noise_the_model_is_the_pooled_one() -> None:
    of = settings(multiplier_milli=1, clip_milli=10_000, rounds=40)
    holders, x, y = dealt(5, of)
    _, outcome = play(holders, of, gaussian(2))
    pooled = LogisticRegression(C=1.0, tol=1e-10).fit(x, y)
    clear = float(roc_auc_score(y, pooled.decision_function(x)))
    assert _auc(outcome, x, y) == pytest.approx(clear, abs=1e-3)
    assert outcome.curves["auc"][0] == pytest.approx(clear, abs=0.02)
    assert len(outcome.curves["step"]) == 40


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 4.0])
def test_a_row_of_20_000_is_hidden_at_little_cost(epsilon: float) -> None:
    of = settings(multiplier_milli=multiplier_milli(epsilon, 1e-6), rounds=8)
    holders, x, y = dealt(5, of)
    clear = float(roc_auc_score(y, LogisticRegression(C=1.0).fit(x, y).decision_function(x)))
    assert min(_auc(play(holders, of, gaussian(seed))[1], x, y) for seed in range(5)) > clear - 0.01


def test_who_has_the_same_sums_asks_the_same_questions() -> None:
    of = settings()
    first, _ = play(dealt(5, of, 500)[0], of, gaussian(3))
    second, _ = play(dealt(5, of, 500)[0], of, gaussian(3))
    other, _ = play(dealt(5, of, 500)[0], of, gaussian(4))
    assert all(is_same(a, b) for a, b in zip(first, second, strict=True))
    assert not all(is_same(a, b) for a, b in zip(first, other, strict=True))


def test_noise_that_drowns_all_rows_ends_the_run() -> None:
    of = settings(multiplier_milli=multiplier_milli(0.5, 1e-6))
    with pytest.raises(PolicyError, match="the noise is larger than all that the clients could say"):
        play(dealt(5, of, 100)[0], of, gaussian(5))


# What cannot be.


@pytest.mark.parametrize(
    "changed",
    [{"columns": 301}, {"rounds": 0}, {"l2_milli": 0}, {"clip_milli": 0}, {"unit": 3}, {"multiplier_milli": 0},
     {"clients": 2}, {"least_rows": 1}],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_settings_out_of_bounds_are_refused(changed: dict[str, int]) -> None:
    assert Settings.of(settings().numbers) == settings()
    with pytest.raises(ConfigError):
        settings(**changed)


@pytest.mark.parametrize("kind", ["train", "train.moments", "evaluate"])
@pytest.mark.parametrize("wrong", [np.zeros(2), np.full((D + 1, D + 1), np.nan), np.full(D + 1, np.inf)])
def test_a_model_of_another_shape_or_beyond_reason_is_refused(kind: str, wrong: FloatArray) -> None:
    x, y = people(20)
    with pytest.raises(PeerError, match="the coordinator's model has"):
        holder(x, y, settings()).answer(Question(kind, dict.fromkeys(("theta", "to_scales", "to_white"), wrong), 0))


def test_what_the_app_does_not_answer_is_refused() -> None:
    x, y = people(20)
    with pytest.raises(PeerError, match="does not answer"):
        holder(x, y, settings()).answer(Question("query.rows", {"theta": np.zeros(D + 1)}, 0))


# The client's role.


@pytest.fixture
def there(tmp_path: Path) -> Clients:
    return Clients.of(tmp_path / "run", write_tables(tmp_path, 3))


def _contract(there: Clients, **changed: int):
    return there.contract(PRIVATE, changed, privacy=Privacy(2000, 6))


def test_clients_train_with_noise_and_pay_for_it_once(there: Clients) -> None:
    contract = _contract(there)
    facts = there.play(contract)
    micro = campaign_micro(contract.privacy)
    assert sorted(charge[:3] for charge in there.charged) == [(name, "privacy", micro) for name in there.tables]
    for name in there.tables:
        assert facts[name]["privacy"] == {"epsilon": 2.0, "delta": 1e-6, "spent": 0.0, "unit": "row"}
        assert facts[name]["own"]["auc"] > facts[name]["own"]["auc_alone"] - 0.05
        assert there.model(name) == there.model("shop-a")
    first = there.model("shop-a")["weights"]
    there.play(contract)
    assert there.model("shop-a")["weights"] != first


def test_nothing_leaves_that_was_not_paid_for(there: Clients) -> None:
    contract = _contract(there)

    def no_budget(_kind: str, _amount: int, _limit: int) -> None:
        raise PolicyError("the budget is spent")

    job = there.job("shop-b", contract)
    object.__setattr__(job, "charge", no_budget)
    ended = there.play(contract, jobs={"shop-b": job})
    assert isinstance(ended["shop-b"], PolicyError)
    # Its terms and the end: no answer.
    assert len(there.lines["shop-b"][0].sent) <= 2
    assert all(isinstance(ended[name], Exception) for name in there.tables)


def test_one_of_three_clients_cannot_be_hidden_and_nothing_is_sent_or_paid(there: Clients) -> None:
    ended = there.play(_contract(there, unit=CLIENT))
    assert "hide a row and not a client" in ended["coordinator"].hint
    assert all(isinstance(ended[name], Exception) for name in there.tables)
    assert there.charged == []
