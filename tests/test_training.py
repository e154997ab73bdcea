"""The step train, both parties' roles over a line in memory: what is fitted, what is sent, what is charged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.two_tables import BRAND, MEDIA, TRAIN, Tables
from tidegate.party import quality, training
from tidegate.party.aligned import drawn_out
from tidegate.party.data import features
from tidegate.protocols.channel import ConfigError, PolicyError, TidegateError
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire.contract import Label

SHOWN, HIDDEN = "train.fourier-lr@1", "train.fourier-lr-hidden@1"


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


def test_the_joint_model_is_the_pooled_one(tmp_path: Path) -> None:
    there = world(tmp_path)
    contract = there.contract({SHOWN: TRAIN})
    ours, theirs = there.play(contract)
    x, y, x_held, y_held = prepared(there, contract)
    clear = LogisticRegression(C=0.1, tol=1e-8, max_iter=2000).fit(x, y)
    z = clear.decision_function(x_held)
    assert ours["auc"]["joint"] == pytest.approx(quality.auc(y_held, z), abs=1e-3)
    assert ours["log_loss"]["joint"] == pytest.approx(quality.log_loss(y_held, z), abs=1e-3)
    assert ours["rows"] == theirs["rows"] == {"train": len(y), "holdout": len(y_held)}
    assert there.charged == [("train_steps", 1)] * 8 + [("scores of matched people", 1)]


def run(there: Tables, protocol: str = SHOWN, settings: dict[str, int] | None = None, **more: Any) -> Any:
    contract = there.contract({protocol: {**TRAIN, **(settings or {})}}, **more)
    return contract, *there.play(contract)
