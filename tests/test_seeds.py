"""Training from good customers alone: the brand's people against people drawn among the media's others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

from tests.two_tables import BRAND, MEDIA, TRAIN, Tables
from tidegate.party import quality, report, training
from tidegate.party.aligned import drawn_out
from tidegate.party.calibration import Calibration, calibrate
from tidegate.party.data import features
from tidegate.protocols.blind.logistic import Opening
from tidegate.protocols.channel import PolicyError
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire.contract import Label

SEEDS = "train.fourier-lr-seeds@1"
SETTINGS = {**TRAIN, "steps": 6, "others_per_seed": 3}
LABEL = Label("", "", seeds=True)


def world(folder: Path, people: int = 4000, seeds: int = 500, *, seed: int = 1) -> Tables:
    """A media whose people differ in two tastes; the brand's are drawn from them by both."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(people, 3))
    pull = np.exp(1.2 * taste[:, 0] - 0.8 * taste[:, 1])
    chosen = rng.choice(people, seeds, replace=False, p=pull / pull.sum())
    paper = {
        "id": [f"p{i}" for i in range(people)],
        "visits": taste[:, 0] + 0.3 * rng.normal(size=people),
        "device": np.where(taste[:, 1] + 0.3 * rng.normal(size=people) > 0.5, "tv", "phone"),
        "noise": taste[:, 2],
    }
    shop = {"id": [f"p{i}" for i in chosen]}
    return Tables.of(folder, shop, paper, [(row, int(at)) for row, at in enumerate(chosen)])


def contract_of(there: Tables, settings: dict[str, int] | None = None, **steps: Any) -> Any:
    protocols = {SEEDS: {**SETTINGS, **(settings or {})}, **{f"{name}.rows@1": each for name, each in steps.items()}}
    return there.contract(protocols, label=LABEL, features={BRAND: (), MEDIA: there.columns(MEDIA)})


def test_the_model_ranks_as_scikit_learn_on_the_same_rows(tmp_path: Path) -> None:
    there = world(tmp_path)
    contract = contract_of(there)
    ours, theirs = there.play(contract)
    assert ours["others"] == theirs["others"] == {"pool": 3500, "drawn": 1500}
    matched = there.matched[:, 1]
    others = np.setdiff1d(np.arange(4000), matched)
    chosen = others[Randomness(MEDIA.encode().ljust(32, b".")).permutation(len(others))[:1500]]
    rows = np.concatenate([matched, chosen])
    y = np.repeat([1, 0], [500, 1500])
    held = drawn_out(there.job(BRAND, contract, 0), 2000)
    recipe = features.fit(there.rows[MEDIA], there.columns(MEDIA), rows[~held])
    x = features.apply(recipe, there.rows[MEDIA], rows)
    clear = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-8, max_iter=1000).fit(x[~held], y[~held])
    assert ours["auc"]["media_only"] == pytest.approx(quality.auc(y[held], clear.decision_function(x[held])), abs=1e-3)
    assert ours["auc"]["media_only"] > 0.75
    assert there.charged == [
        *[("train_steps", 1)] * 6,
        ("scores of matched people", 1),
        ("scores of other people", 1),
    ]


def test_the_brand_enters_no_column_and_names_nobody(tmp_path: Path) -> None:
    there = world(tmp_path)
    there.play(contract_of(there, {"steps": 1}))
    kinds = [kind for kind, _ in there.sent[BRAND]]
    assert kinds[0] == "Opening"
    assert Opening.from_bytes(there.sent[BRAND][0][1]).columns == 0
    assert "Split" not in kinds


def test_others_are_drawn_at_random_up_to_all_there_are(tmp_path: Path) -> None:
    there = world(tmp_path, 1400, 300)
    ours, theirs = there.play(contract_of(there, {"steps": 1, "others_per_seed": 100}))
    assert ours["others"] == theirs["others"] == {"pool": 1100, "drawn": 1100}


def test_too_few_others_are_refused_by_both_before_a_word(tmp_path: Path) -> None:
    there = world(tmp_path, 480, 400)
    with pytest.raises(PolicyError, match="fewer than 100 other people"):
        there.play(contract_of(there))
    assert there.sent == {BRAND: [], MEDIA: []}


def test_rates_are_those_among_all_of_the_media_s_people(tmp_path: Path) -> None:
    """Three others for each of the brand's people stand for seven: rates in the sample are too high by that."""
    there = world(tmp_path)
    contract = contract_of(there)
    there.play(contract)
    kept, basis = there.model(BRAND, contract)["lookalike"], there.model(MEDIA, contract)["lookalike"]["basis"]
    recipe = features.Recipe.from_json(there.model(MEDIA, contract)["recipe"])
    x = features.apply(recipe, there.rows[MEDIA], np.arange(4000)) @ np.array(basis)
    z = kept["intercept"] + x @ kept["media_weights"]
    share = 500 / 4000
    assert (1 / (1 + np.exp(-z))).mean() == pytest.approx(share, abs=0.02)
    rates = Calibration(**kept["calibration"]).rates(z)
    assert rates.mean() == pytest.approx(share, abs=0.03)
    # The odds of the hold-out, in which the others are three sevenths of what they are.
    odds = kept["odds"]
    assert odds == pytest.approx(np.log(1500 / 3500))
    scores, labels = np.array(kept["holdout_scores"]) + kept["intercept"] - odds, kept["holdout_labels"]
    sampled = calibrate(labels, scores, training.blur_of(tuple(kept["window"]), 20)).rates(z - odds)
    np.testing.assert_allclose(np.log(rates / (1 - rates)), np.log(sampled / (1 - sampled)) + odds, atol=1e-6)


def test_expand_and_score_use_the_model_of_the_seeds(tmp_path: Path) -> None:
    there = world(tmp_path)
    contract = contract_of(there, expand={"sizes": [10], "control_percent": 0}, score={})
    there.play(contract)
    found, at_media = there.play(contract, 1)
    assert found["sizes"][0]["people"] == at_media["sizes"][0]["people"] == 350
    assert found["sizes"][0]["expected_lift"] > 1.5
    of_all = found["sizes"][0]["expected_rate"] / found["sizes"][0]["expected_lift"]
    assert of_all < 500 / 4000, "rates are those of the media's people, not of the sample"
    audience = pq.read_table(next((tmp_path / "paper-campaigns").glob("*/expand/audience_*.parquet")))["row"]
    others = np.setdiff1d(np.arange(4000), there.matched[:, 1])
    assert set(audience.to_pylist()) <= set(others.tolist())
    visits = np.array(there.rows[MEDIA]["visits"])
    assert visits[audience.to_numpy()].mean() > visits[others].mean() + 0.8
    scored, _ = there.play(contract, 2)
    assert scored["rows"] == 500
    for party, says in ((BRAND, "Your people told from paper"), (MEDIA, "with shop")):
        written = report.build(there.results(party, contract), contract, party, tmp_path / f"{party}-report")
        assert says in written.read_text()


def test_a_model_of_seeds_goes_on_from_an_earlier_one(tmp_path: Path) -> None:
    there = world(tmp_path)
    first = contract_of(there)
    before, _ = there.play(first)
    later = replace(contract_of(there, {"steps": 1}), model=first.short)
    after, _ = there.play(later)
    assert after["started_from"] == first.short
    assert after["auc"]["media_only"] == pytest.approx(before["auc"]["media_only"], abs=0.05)
    kept, was = there.model(BRAND, later)["lookalike"], there.model(BRAND, first)["lookalike"]
    assert kept["intercept"] == pytest.approx(was["intercept"], abs=0.2)
