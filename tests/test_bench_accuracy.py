"""`tidegate bench accuracy` and `naive`: what they measure is what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from tidegate.party.bench import accuracy, naive
from tidegate.party.bench.cli import bench_app
from tidegate.protocols.channel import ConfigError


def write_credit(folder: Path, rows: int = 2400) -> None:
    """A made-up set under the names of default_credit, of which each party's columns show a part; hosts in disorder."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((rows, 6))
    y = (rng.random(rows) < 1 / (1 + np.exp(1.5 - x @ [0.8, -0.5, 0.2, 0.9, 0.4, -0.3]))).astype(np.int64)
    order = rng.permutation(rows)
    host = {"id": order} | {f"x{j}": x[order, 3 + j] for j in range(3)}
    guest = {"id": np.arange(rows), "y": y} | {f"x{j}": x[:, j] for j in range(3)}
    pq.write_table(pa.table(host), folder / "default_credit_host.parquet")
    pq.write_table(pa.table(guest), folder / "default_credit_guest.parquet")


@pytest.mark.parametrize("hidden", [False, True])
def test_blind_models_stand_beside_pooled_ones_and_a_control_without_a_gain(tmp_path: Path, hidden: bool) -> None:
    write_credit(tmp_path)
    asked = ["accuracy", "--data", str(tmp_path), "--splits", "2", "--json", *(["--hidden"] if hidden else [])]
    ran = CliRunner().invoke(bench_app, asked)
    assert ran.exit_code == 0, ran.output
    figures = json.loads(ran.output)
    [measured] = figures["sets"]
    assert figures["met"] == measured["met"]
    assert figures["hidden"] == hidden
    differences = [split["auc"]["blind"] - split["auc"]["pooled"] for split in measured["splits"]]
    assert measured["mean_difference"]["auc"] == pytest.approx(np.mean(np.abs(differences)))
    assert measured["worst_difference"]["auc"] in differences
    assert max(map(abs, differences)) < 2e-3
    for split in measured["splits"]:
        assert split["rows"] == {"train": 1680, "test": 720, "media": 2400 if hidden else 1680}
        assert split["gain_shown"]
        assert split["auc"]["blind"] > split["auc"]["brand_only"] + 0.02
        # Blind training rounds: figures that are the same to the last bit were not trained blind.
        assert split["log_loss"]["blind"] != split["log_loss"]["pooled"]
    assert measured["control"]["gains_shown"] == 0
    assert measured["control"]["largest_gain"] < 0.015 < min(split["gain"] for split in measured["splits"])
    assert len(accuracy.lines(figures)) == 4


def test_differential_privacy_costs_accuracy_and_more_of_it_costs_more(tmp_path: Path) -> None:
    write_credit(tmp_path)
    [records] = accuracy.load(tmp_path)
    [(train, test)] = accuracy.divisions(records, 1)
    lost = []
    for epsilon in (0.1, 50.0):
        terms = accuracy.Terms(steps=3, epsilon=epsilon)
        # The library takes no seed for its noise: one draw may be next to none, three of them are not.
        splits = [accuracy.compared(records, train, test, seed=0, terms=terms) for _ in range(3)]
        lost.append(sum(split["log_loss"]["blind"] - split["log_loss"]["pooled"] for split in splits))
    assert lost[0] > 10 * abs(lost[1])


def test_pooled_yardstick_is_scikit_learn_on_standardised_columns_with_the_same_l2(tmp_path: Path) -> None:
    write_credit(tmp_path, 1200)
    [records] = accuracy.load(tmp_path)
    train, test = np.arange(800), np.arange(800, 1200)
    split = accuracy.compared(records, train, test, seed=0, terms=accuracy.Terms())
    x = np.hstack([np.stack([part[name] for name in part.column_names], 1) for part in (records.brand, records.media)])
    z = np.clip((x - x[train].mean(0)) / x[train].std(0), -5, 5)
    model = LogisticRegression(C=1.0, tol=1e-8).fit(z[train], records.y[train])
    assert split["auc"]["pooled"] == pytest.approx(roc_auc_score(records.y[test], model.decision_function(z[test])))


def test_first_split_of_the_demos_records_is_the_published_one() -> None:
    [records] = accuracy.load(None)
    (train, test), (other, rest) = accuracy.divisions(records, 2)
    assert (len(train), len(test)) == (5822, 4000)
    assert records.y[test].sum() == 238
    assert len(np.intersect1d(other, rest)) == 0
    assert len(other) + len(rest) == 9822
    assert records.y[other].mean() == pytest.approx(records.y[rest].mean(), abs=1e-3), "stratified"
    assert not set(records.media.column_names) & {"protestant", "split", "bought_caravan"}


def test_folder_without_data_or_with_other_people_on_each_side_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without a data set"):
        accuracy.load(tmp_path)
    write_credit(tmp_path, 1200)
    host = pq.read_table(tmp_path / "default_credit_host.parquet")
    pq.write_table(host.slice(1), tmp_path / "default_credit_host.parquet")
    with pytest.raises(ConfigError, match="the same people"):
        accuracy.load(tmp_path)


def test_naive_loops_get_our_scores_and_say_what_was_extrapolated() -> None:
    figures = naive.bench(1000, 5, loop_s=0.1)
    ours, ckks, bfv, paillier = figures["engines"]
    assert not ours["extrapolated"]
    assert ours["measured_rows"] == 1000
    # Values are rounded to 1/64: by at most 1/128 each, times the weights.
    assert ours["largest_error"] < 5 * 3 / 128
    assert ckks["largest_error"] < 1e-4
    assert bfv["largest_error"] < 5 * 2e-3
    for loop in (ckks, bfv):
        assert loop["extrapolated"]
        assert naive.LEAST_ROWS <= loop["measured_rows"] < 1000
        assert loop["bytes_per_row"] > 100 * ours["bytes_per_row"]
        assert loop["times_ours"] == round(loop["seconds"] / max(ours["seconds"], 1e-3))
    assert "pip install phe" in paillier["absent"] if "absent" in paillier else paillier["largest_error"] < 1e-9
