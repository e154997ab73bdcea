"""`tidegate bench privacy`: the simulation it sweeps with is the training it stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tidegate.party import privacy
from tidegate.party.bench import accuracy, price


@pytest.fixture
def records() -> accuracy.Records:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(3000, 6))
    y = (rng.random(3000) < 1 / (1 + np.exp(1.5 - x @ [0.8, 0.3, -0.4, 0.9, -0.6, 0.2]))).astype(np.int64)
    columns = [pa.array(column) for column in x.T]
    brand, media = pa.table(columns[:3], names=list("abc")), pa.table(columns[3:], names=list("def"))
    return accuracy.Records("made up", brand, media, y, l2=1.0)


def test_a_larger_budget_costs_less_and_the_protocol_agrees(
    records: accuracy.Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(price, "load", lambda _folder: [records])
    # opendp takes no seed, and of what training loses to its noise one run in some thousands is far from the mean.
    rng = np.random.default_rng(1)
    monkeypatch.setattr(privacy, "discrete_gaussian", lambda sd: lambda n: np.rint(rng.normal(0, sd, n)).astype(int))
    said: list[str] = []
    figures = price.bench(tmp_path, 6, said.append)
    (found,) = figures["sets"]
    lost = {(row["steps"], row["epsilon"]): row["lost"] for row in found["rows"]}
    assert set(lost) == {(steps, epsilon) for steps in price.STEPS for epsilon in price.EPSILONS}
    assert lost[3, 0.5] > lost[3, 2.0] > lost[3, 8.0] > -0.002
    assert found["auc"]["joint"] == pytest.approx(found["auc"]["pooled"], abs=1e-3)
    # One draw of the protocol against the mean of six, whose spread is known.
    spread = next(row["sd"] for row in found["rows"] if (row["epsilon"], row["steps"]) == price.CONFIRMED)
    assert abs(found["protocol"]["lost"] - lost[3, 2.0]) < 6 * spread + 0.01
    assert said == ["made up", "made up, by the protocol"]
    assert len(price.lines(figures)) == len(lost)
