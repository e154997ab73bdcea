"""Training from good customers alone: the brand's people against people drawn among the media's others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.two_tables import BRAND, MEDIA, TRAIN, Tables
from tidegate.party import quality
from tidegate.party.aligned import drawn_out
from tidegate.party.data import features
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


def test_the_model_ranks_as_scikit_learn_on_the_same_rows(tmp_path: Path) -> None:
    there = world(tmp_path)
    contract = there.contract({SEEDS: SETTINGS}, label=LABEL, features={BRAND: (), MEDIA: there.columns(MEDIA)})
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
