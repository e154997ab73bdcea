"""The step train, both parties' roles over a line in memory: what is fitted, what is sent, what is charged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from tests.two_tables import BRAND, MEDIA, TRAIN, Tables
from tidegate.party import quality, report, training
from tidegate.party.data import features
from tidegate.protocols.channel import ConfigError, PolicyError, TidegateError
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire.contract import Label, Privacy

SHOWN = "train.fourier-lr@1"


def world(folder: Path, n: int = 2000, *, seed: int = 0, rate: float = 0.35, hidden: bool = False) -> Tables:
    """People with two tastes: the shop sees one and its echo, the paper the other; the label needs both."""
    rng = np.random.default_rng(seed)
    a, b, c = rng.normal(size=(3, n + 600))
    z = 0.9 * a + 1.3 * b - 0.7 * c
    good = z + rng.logistic(size=len(z)) > np.quantile(z, 1 - rate)
    shop = {
        "id": [f"p{i}" for i in range(n)],
        "y": np.where(good[:n], "1", "0"),
        "w": np.where(a[:n] > 0, 3.0, 0.5),
        "age": a[:n] + 0.3 * rng.normal(size=n),
        "spend": np.exp(a[:n] + rng.normal(size=n)),
    }
    paper_of = rng.permutation(n + 600)
    paper = {
        "id": [f"p{i}" for i in paper_of],
        "visits": b[paper_of] + 0.2 * rng.normal(size=n + 600),
        "clicks": (b + c)[paper_of] + 0.5 * rng.normal(size=n + 600),
        "device": np.where(c[paper_of] > 0.3, "tv", "phone"),
    }
    rows_at = np.argsort(paper_of)
    matched = [(i, rows_at[i]) for i in range(0, n, 1)]
    return Tables.of(folder, shop, paper, matched, hidden=hidden)


def prepared(there: Tables, contract: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both sides' columns side by side as scikit-learn gets them: x and y to train on, x and y held out."""
    n = len(there.matched)
    held = Randomness(contract.hash).integers(100, n) < 30
    parts = []
    for side, party in enumerate((BRAND, MEDIA)):
        rows = there.matched[:, side]
        recipe = features.fit(there.rows[party], there.columns(party), rows[~held])
        parts.append(features.apply(recipe, there.rows[party], rows))
    x = np.hstack(parts)
    y = (np.array(there.rows[BRAND]["y"].to_pylist())[there.matched[:, 0]] == "1").astype(int)
    return x[~held], y[~held], x[held], y[held]


def run(there: Tables, settings: dict[str, int] | None = None, protocol: str = SHOWN, **more: Any) -> Any:
    contract = there.contract({protocol: {**TRAIN, **(settings or {})}}, **more)
    return contract, *there.play(contract)


def fitted(x: np.ndarray, y: np.ndarray, l2: float = 10.0, **more: Any) -> LogisticRegression:
    weights = more.pop("sample_weight", None)
    return LogisticRegression(C=1 / l2, tol=1e-8, max_iter=5000, **more).fit(x, y, sample_weight=weights)


def test_the_joint_model_is_the_pooled_one(tmp_path: Path) -> None:
    there = world(tmp_path)
    contract, ours, theirs = run(there)
    x, y, x_held, y_held = prepared(there, contract)
    z = fitted(x, y).decision_function(x_held)
    assert ours["auc"]["joint"] == pytest.approx(quality.auc(y_held, z), abs=1e-3)
    assert ours["log_loss"]["joint"] == pytest.approx(quality.log_loss(y_held, z), abs=1e-3)
    assert ours["rows"] == theirs["rows"] == {"train": len(y), "holdout": len(y_held)}
    assert there.charged == [("train_steps", 1)] * 8 + [("scores of matched people", 1)]


def test_rows_count_as_much_as_the_weights_say(tmp_path: Path) -> None:
    there = world(tmp_path, 1200)
    contract, ours, _ = run(there, label=Label("y", "1", weight="w"))
    x, y, x_held, y_held = prepared(there, contract)
    held = Randomness(contract.hash).integers(100, len(there.matched)) < 30
    weights = np.array(there.rows[BRAND]["w"])[there.matched[~held, 0]]
    weighted, plain = fitted(x, y, sample_weight=weights), fitted(x, y)
    own = np.array([each["weight"] for each in ours["weights"]])
    assert np.abs(own - weighted.coef_[0][:2]).max() < 0.02 < np.abs(own - plain.coef_[0][:2]).max()
    assert ours["log_loss"]["joint"] == pytest.approx(
        quality.log_loss(y_held, weighted.decision_function(x_held)), abs=2e-3
    )


def test_a_weight_that_is_missing_or_not_above_0_ends_the_step(tmp_path: Path) -> None:
    there = world(tmp_path, 600)
    columns = {name: there.rows[BRAND][name].to_pylist() for name in there.rows[BRAND].column_names}
    for value in (0.0, None):
        there.replace(BRAND, {**columns, "w": [value] * 50 + columns["w"][50:]})
        with pytest.raises(ConfigError, match="not above 0 in every row"):
            run(there, label=Label("y", "1", weight="w"))
        assert there.sent[BRAND] == []


def test_balanced_classes_rank_as_scikit_learn_s_and_promise_the_true_rate(tmp_path: Path) -> None:
    there = world(tmp_path, 2500, rate=0.12)
    contract, ours, _ = run(there, {"balance": 1})
    x, y, x_held, y_held = prepared(there, contract)
    clear = fitted(x, y, class_weight="balanced")
    own = np.array([each["weight"] for each in ours["weights"]])
    assert np.abs(own - clear.coef_[0][:2]).max() < 0.03
    assert ours["auc"]["joint"] == pytest.approx(quality.auc(y_held, clear.decision_function(x_held)), abs=2e-3)
    kept = there.model(BRAND, contract)["joint"]
    assert kept["intercept"] == pytest.approx(clear.intercept_[0] - np.log((1 - y.mean()) / y.mean()), abs=0.05)
    # Balanced odds would promise half of everybody; these are near what a model of the rows as they are promises.
    assert ours["log_loss"]["joint"] == pytest.approx(
        quality.log_loss(y_held, fitted(x, y).decision_function(x_held)), abs=0.01
    )


def test_the_brand_chooses_its_penalty_and_the_media_sees_nothing_of_it(tmp_path: Path) -> None:
    there = world(tmp_path, 1000)
    run(there, {"steps": 5})
    said = [(kind, len(data)) for kind, data in there.sent[BRAND]]
    contract, ours, _ = run(there, {"l2_milli": 0, "steps": 5})
    assert [(kind, len(data)) for kind, data in there.sent[BRAND]] == said
    assert ours["l2"] == min(ours["l2_tried"], key=lambda each: each["log_loss"])["l2"]
    assert [each["l2"] for each in ours["l2_tried"]] == list(training.L2_TRIED)
    x, y, x_held, y_held = prepared(there, contract)
    z = fitted(x, y, ours["l2"]).decision_function(x_held)
    assert ours["auc"]["joint"] == pytest.approx(quality.auc(y_held, z), abs=2e-3)
    assert ours["log_loss"]["joint"] == pytest.approx(quality.log_loss(y_held, z), abs=2e-3)


@pytest.mark.parametrize("milli", [0, 5000])
def test_both_sides_reckon_with_the_same_ridge_whatever_the_brand_chose(tmp_path: Path, milli: int) -> None:
    there = world(tmp_path, 300)
    contract = there.contract({SHOWN: {**TRAIN, "l2_milli": milli}})
    ours, theirs = (there.job(party, contract, 0) for party in (BRAND, MEDIA))
    chosen = 300.0 if milli == 0 else training.agreed_l2(ours)
    brand = training.settings(ours, 4, chosen, MEDIA)
    media = training.settings(theirs, 4, training.agreed_l2(theirs), MEDIA)
    assert brand.ridge_l2 == media.ridge_l2
    assert brand.l2 == chosen


def test_the_penalty_follows_the_columns() -> None:
    """Few rows and much noise call for a strong one, a clear label for a weak one."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 40))
    here = np.ones(400, np.bool_)

    def chosen(z: np.ndarray) -> float:
        y = (z + rng.logistic(size=400) > 0).astype(float)
        taught = training.Lesson(x, y, np.ones(400), 0.0, here)
        return training.chosen_l2(taught, Randomness(bytes(32)))[0]

    assert chosen(np.zeros(400)) >= 100 > 10 >= chosen(6 * x[:, 0])
    alone = training.Lesson(np.empty((400, 0)), (x[:, 0] > 0).astype(float), np.ones(400), 0.0, here)
    assert training.chosen_l2(alone, Randomness(bytes(32))) == (training.PUBLIC_L2, [])


def test_a_training_that_came_to_rest_is_charged_for_its_steps_alone(tmp_path: Path) -> None:
    there = world(tmp_path, 1500)
    _, ours, theirs = run(there, {"early_stop": 1, "steps": 12})
    assert ours["stopped"]
    assert ours["steps"] == theirs["steps"] == there.charged.count(("train_steps", 1)) < 12


def test_a_training_that_does_not_fit_the_ledger_is_refused_before_the_media_says_a_word(tmp_path: Path) -> None:
    there = world(tmp_path, 600)
    there.left["train_steps"] = 7
    with pytest.raises(PolicyError, match="7 are left"):
        run(there)
    assert there.sent[MEDIA] == []
    assert there.charged == []


def test_each_step_is_charged_before_it_is_answered(tmp_path: Path) -> None:
    there = world(tmp_path, 600)
    there.limit["train_steps"] = 3
    with pytest.raises(PolicyError, match="spent"):
        run(there)
    assert there.charged == [("train_steps", 1)] * 3
    answers = [kind for kind, _ in there.sent[MEDIA] if kind == "ResidualSum"]
    assert len(answers) == 3


def test_training_goes_on_from_an_earlier_model(tmp_path: Path) -> None:
    there = world(tmp_path, 1500)
    first, _, _ = run(there)
    spring = there.rows
    later = world(tmp_path, 1500, seed=9)
    later.folder = there.folder
    contract, ours, theirs = run(later, {"steps": 2}, model=first.short)
    assert ours["started_from"] == theirs["started_from"] == first.short
    assert spring[BRAND] != later.rows[BRAND]
    y = (np.array(later.rows[BRAND]["y"].to_pylist())[later.matched[:, 0]] == "1").astype(int)
    held = Randomness(contract.hash).integers(100, len(y)) < 30
    # The rows are prepared as the earlier model had them, so that its weights mean the same.
    parts = []
    for side, party in enumerate((BRAND, MEDIA)):
        recipe = features.Recipe.from_json(later.model(party, first)["recipe"])
        parts.append(features.apply(recipe, later.rows[party], later.matched[:, side]))
    x = np.hstack(parts)
    z = fitted(x[~held], y[~held]).decision_function(x[held])
    assert ours["log_loss"]["joint"] == pytest.approx(quality.log_loss(y[held], z), abs=2e-3)
    assert ours["auc"]["joint"] == pytest.approx(quality.auc(y[held], z), abs=2e-3)


def test_training_goes_on_from_a_balanced_model(tmp_path: Path) -> None:
    there = world(tmp_path, 1500, rate=0.15)
    first, _, _ = run(there, {"balance": 1})
    contract, ours, _ = run(there, {"steps": 2}, model=first.short)
    x, y, x_held, y_held = prepared(there, contract)
    z = fitted(x, y).decision_function(x_held)
    assert ours["log_loss"]["joint"] == pytest.approx(quality.log_loss(y_held, z), abs=4e-3)


def test_a_start_whose_column_is_gone_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    there = world(tmp_path, 600)
    first, _, _ = run(there, {"steps": 1})
    for party, column in ((MEDIA, "clicks"), (BRAND, "age")):
        names = [name for name in there.rows[party].column_names if name != column]
        there.replace(party, {name: there.rows[party][name] for name in names})
        with pytest.raises(ConfigError, match=f"lacks columns that the model was trained on: '{column}'"):
            run(there, {"steps": 1}, model=first.short)
        assert there.sent[party] == []


def test_differential_privacy_is_charged_step_by_step(tmp_path: Path) -> None:
    there = world(tmp_path, 1000)
    _, ours, theirs = run(there, {"steps": 3}, privacy=Privacy(4000, 6))
    assert [kind for kind, _ in there.charged].count("privacy") == 3
    assert 0.5 < ours["auc"]["joint"] < 1
    assert theirs["privacy"]["epsilon"] == 4


def test_what_the_media_s_columns_count_is_said_only_where_the_contract_grants_it(tmp_path: Path) -> None:
    there = world(tmp_path, 1200)
    contract, ours, theirs = run(there, {"importance": 1})
    x, y, _, _ = prepared(there, contract)
    clear = fitted(x, y).coef_[0][2:]
    assert [each["name"] for each in ours["media_weights"]] == ["visits", "clicks", "device"]
    assert [each["name"] for each in theirs["weights"]] == ["visits", "clicks", "device=tv"]
    for side in (ours["media_weights"], theirs["weights"]):
        np.testing.assert_allclose([each["weight"] for each in side], clear, atol=0.03)
    for party, says in ((BRAND, "What the columns of paper count"), (MEDIA, "What your columns count")):
        written = report.build(there.results(party, contract), contract, party, tmp_path / f"{party}-report")
        assert says in written.read_text()
    there.charged.clear()
    _, ours, theirs = run(there, {"steps": 1})
    assert ours["media_weights"] == theirs["weights"] == []
    assert not {"Model", "Importance"} & {kind for party in (BRAND, MEDIA) for kind, _ in there.sent[party]}


def test_standard_errors_are_those_of_logistic_regression_where_the_media_adds_nothing() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3000, 3))
    z = x @ [1.0, -0.5, 0.0] - 1
    y = (z + rng.logistic(size=3000) > 0).astype(float)
    taught = training.Lesson(x, y, np.ones(3000), 0.0, np.ones(3000, np.bool_))
    errors = training.standard_errors(taught, taught.alone(1e-6), 1e-6)
    ones = np.hstack([np.ones((3000, 1)), x])
    p = 1 / (1 + np.exp(-z))
    classical = np.sqrt(np.diag(np.linalg.inv(ones.T @ (ones * (p * (1 - p))[:, None]))))[1:]
    np.testing.assert_allclose(errors, classical, rtol=0.05)
    named = training.weighed(("a", "b", "c"), taught.alone(1e-6), errors)
    assert [each["sign"] for each in named] == [1, -1, 0]


def test_a_constant_or_collinear_column_does_no_harm(tmp_path: Path) -> None:
    there = world(tmp_path, 800)
    for party in (BRAND, MEDIA):
        columns = {name: there.rows[party][name] for name in there.rows[party].column_names}
        n, first = there.rows[party].num_rows, there.columns(party)[0]
        twice = np.array(columns[first]) * 2 + 1
        there.replace(party, {**columns, "same": np.full(n, 7.0), "twice": twice, "none": pa.nulls(n, pa.float64())})
    contract, ours, theirs = run(there)
    x, y, x_held, y_held = prepared(there, contract)
    z = fitted(x, y).decision_function(x_held)
    assert ours["auc"]["joint"] == pytest.approx(quality.auc(y_held, z), abs=2e-3)
    assert theirs["features"] == 4


def test_good_customers_alone_in_the_hold_out_end_the_step_at_both(tmp_path: Path) -> None:
    there = world(tmp_path, 600)
    columns = {name: there.rows[BRAND][name].to_pylist() for name in there.rows[BRAND].column_names}
    there.replace(BRAND, {**columns, "y": ["0", *["1"] * 599]})
    with pytest.raises(TidegateError, match=r"only good customers|no good customer"):
        run(there, {"steps": 1})
    assert there.sent[BRAND] == []
