"""A brand and two media train and score together: three nodes, each with its own columns of the same people."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from tests import recording_coordinator
from tests.canaries import Needles
from tests.real_parties import until
from tests.test_several_media import NAMES, PLACES, Three
from tidegate.party import quality
from tidegate.party.data import features, table
from tidegate.party.demo.loopback import DataSet, loopback, register, wait_for_port
from tidegate.party.store import Store

COLUMNS = {"shop": ["age", "plan"], "alpha": ["visits", "device"], "beta": ["clicks", "region"]}
PEOPLE = 2600
ROWS = {"shop": 2300, "alpha": 2200, "beta": 2250}

CAMPAIGN = """\
[campaign]
name = "NAME"

[parties]
brand = "shop"
media = ["alpha", "beta"]

[data]
brand = "people"
media = {alpha = "people", beta = "people"}

[match]
keys = ["email"]

[label]
column = "bought"
positive = "yes"

[features]
brand = "all"
media = "all"

[holdout]
HOLDOUT

[steps.match]
[steps.train]
l2 = 2
steps = 8
[steps.score]
"""


@dataclass(frozen=True)
class People:
    """Each party's file, and the rows of those whom all three know: (n, 3), shop's, alpha's, beta's."""

    files: dict[str, Path]
    common: NDArray[np.int64]


def write_people(folder: Path, *, seed: int, rows: dict[str, int] | None = None) -> People:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    taste = rng.standard_normal((PEOPLE, 3))
    good = rng.random(PEOPLE) < 1 / (1 + np.exp(0.5 - taste @ [0.7, 1.0, 1.1]))
    mails = [f"canary.{seed}.{rng.integers(10**12)}@example.com" for _ in range(PEOPLE)]
    at = {name: rng.permutation(PEOPLE)[: (rows or ROWS)[name]] for name in NAMES}
    columns: dict[str, dict[str, Any]] = {
        "shop": {
            "age": np.where(rng.random(PEOPLE) < 0.1, "", (45 + 12 * taste[:, 0]).astype(int).astype(str)),
            "plan": np.array(["basic", "plus", "pro"])[np.digitize(taste[:, 0] + rng.standard_normal(PEOPLE), [-1, 1])],
            "bought": np.where(good, "yes", "no"),
            "split": np.where(rng.random(PEOPLE) < 0.3, "test", "train"),
        },
        "alpha": {
            "visits": np.round(np.exp(1.5 + 0.6 * taste[:, 1] + 0.3 * rng.standard_normal(PEOPLE)), 3),
            "device": np.array(["phone", "desktop"])[(taste[:, 1] + rng.standard_normal(PEOPLE) > 0).astype(int)],
        },
        "beta": {
            "clicks": [f"{10 + 3 * at + 2 * rng.standard_normal():.9f}" for at in taste[:, 2]],
            "region": np.array(["north", "south", "west"])[rng.integers(0, 3, PEOPLE)],
        },
    }
    for name in NAMES:
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["contact", *columns[name]])
            for i in at[name]:
                writer.writerow([mails[i], *(values[i] for values in columns[name].values())])
    row_of = {name: {int(i): row for row, i in enumerate(at[name])} for name in NAMES}
    everybody = sorted(set.intersection(*(set(each) for each in row_of.values())))
    common = np.array([[row_of[name][i] for name in NAMES] for i in everybody], np.int64)
    return People({name: folder / f"{name}.csv" for name in NAMES}, common)


def data_sets(people: People) -> dict[str, DataSet]:
    return {name: DataSet("people", people.files[name], {"email": "contact"}, "US") for name in NAMES}


def propose(there: Three, name: str, people: People, holdout: str = 'column = "split"\nvalue = "test"') -> None:
    for party, data in data_sets(people).items():
        register(there.stage, party, data)
    for media in NAMES[1:]:
        there.stage.party(media, "data", "offer", "people", "--to", "shop")
    file = there.stage.folder / f"{name}.toml"
    file.write_text(CAMPAIGN.replace("NAME", name).replace("HOLDOUT", holdout))
    there.stage.campaign("shop", "propose", str(file), "--yes")
    there.approve(name)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    folder = tmp_path_factory.mktemp("together")
    data = {PLACES[name]: each for name, each in data_sets(write_people(folder / "first", seed=1)).items()}
    with loopback(folder / "stage", data, NAMES) as stage:
        stores = {name: Store(stage.home(name).store_db) for name in NAMES}
        made = Three(stage, stores, folder / "heard")
        start_coordinator(made)
        yield made
        for store in stores.values():
            store.close()


def start_coordinator(there: Three) -> None:
    """Anew, with a copy of all that it sees."""
    there.stage.stop("coordinator")
    with (there.stage.folder / "coordinator.log").open("ab") as log:
        there.stage.processes["coordinator"] = subprocess.Popen(
            [
                *(sys.executable, recording_coordinator.__file__, str(there.heard)),
                *("--home", str(there.stage.folder / "coordinator"), "up"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    wait_for_port(there.stage, int(there.stage.home("shop").coordinator().address.rpartition(":")[2]))


def pooled(people: People) -> tuple[float, NDArray[np.float64], NDArray[np.int64]]:
    """AUC on the hold-out of scikit-learn's model on the clear-text join; logits of all in common, by shop's row."""
    tables = {name: table.read(path) for name, path in people.files.items()}
    test = np.array(table.texts(tables["shop"], "split"), dtype=object)[people.common[:, 0]] == "test"
    y = (np.array(table.texts(tables["shop"], "bought"), dtype=object)[people.common[:, 0]] == "yes").astype(np.int64)
    x = np.hstack(
        [
            features.apply(features.fit(tables[name], COLUMNS[name], rows[~test]), tables[name], rows)
            for name, rows in zip(NAMES, people.common.T, strict=True)
        ]
    )
    model = LogisticRegression(C=1 / 2, max_iter=10_000, tol=1e-8).fit(x[~test], y[~test])
    logits = model.decision_function(x)
    return quality.auc(y[test], logits[test]), logits, people.common[:, 0]


def check(there: Three, name: str, people: People) -> dict[str, Any]:
    """The model is the pooled one, and so are the scores but for their blur; each media has the rows all know."""
    facts = there.facts("shop", name, "train")
    auc, logits, rows = pooled(people)
    assert facts["rows"]["train"] + facts["rows"]["holdout"] == len(people.common)
    assert abs(facts["auc"]["joint"] - auc) < 2e-3
    assert facts["auc"]["joint"] > facts["auc"]["brand_only"] + 0.05
    scores = pq.read_table(there.results("shop", name) / "score" / "scores.parquet").to_pydict()
    assert sorted(scores["row"]) == sorted(rows.tolist())
    clear = dict(zip(rows.tolist(), logits, strict=True))
    ours = np.log(np.array(scores["score"]) / (1 - np.array(scores["score"])))
    truth = np.array([clear[row] for row in scores["row"]])
    assert np.corrcoef(ours, truth)[0, 1] > 0.97
    for at, media in enumerate(NAMES[1:], 1):
        held = np.fromfile(there.results(media, name) / "train" / "rows.i64", "<i8")
        assert sorted(held.tolist()) == sorted(people.common[:, at].tolist())
        assert {folder.name for folder in there.results(media, name).iterdir()} == {
            f"match-{media}",
            "train",
            "score",
        }
    return facts


def test_three_nodes_train_and_score_the_pooled_model_and_nobody_sees_more(there: Three, tmp_path: Path) -> None:
    people = write_people(tmp_path, seed=2)
    there.up()
    propose(there, "pooled", people)
    there.until_over("pooled")
    facts = check(there, "pooled", people)
    assert facts["gain_shown"]
    assert set(facts["media_columns"]) == {"alpha", "beta"}
    for media in NAMES[1:]:
        store = there.stores[media]
        digest = store.dataset("people").digest
        assert store.spent(digest, "shop", "train_steps") == 8
        assert store.spent(digest, "shop", "scores of matched people") == 2
    check_what_is_where(there, people)
    there.stage.party("shop", "results", "pooled", "--export", str(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["train"]["auc"]["joint"] == facts["auc"]["joint"]


def check_what_is_where(there: Three, people: People) -> None:
    """Neither the coordinator nor another party has a media's values, and the coordinator no mail address."""
    values, mails = Needles(), Needles()
    with people.files["beta"].open() as file:
        for row in list(csv.DictReader(file))[:500]:
            values.add_text(row["clicks"])
            mails.add_text(row["contact"])
    for needles in (values, mails):
        assert needles.in_files(people.files["beta"])
        assert not needles.in_files(there.heard)
    for other in NAMES[:2]:
        assert not values.in_files(there.results(other, "pooled"))


def test_kill_9_at_a_media_and_a_restart_of_the_coordinator_amid_the_training_lose_nothing(
    there: Three, tmp_path: Path
) -> None:
    people = write_people(tmp_path, seed=3)
    there.up()
    propose(there, "killed", people)
    contract = there.campaign("beta", "killed").hash

    def training(party: str) -> list[bytes]:
        runs = there.stores[party].runs(contract)
        return [run.run for run in runs if (run.step, run.state) == (2, "started")]

    until("the training starts", lambda: training("beta"))
    first = training("beta")
    there.kill("beta")
    there.up("beta")
    until("it starts again", lambda: training("beta") and training("beta") != first)
    start_coordinator(there)
    there.until_over("killed")
    check(there, "killed", people)
    for party in NAMES:
        committed = there.committed(party, "killed")
        assert committed[2] == there.committed("shop", "killed")[2]
        assert not list((there.stage.home(party).path / "staging").iterdir())


def test_too_few_in_common_end_the_campaign_with_a_sentence(there: Three, tmp_path: Path) -> None:
    people = write_people(tmp_path, seed=4, rows={"shop": 450, "alpha": 1000, "beta": 1000})
    assert len(people.common) < 100
    there.up()
    propose(there, "few", people)
    there.until_over("few", "failed")
    assert set(there.committed("shop", "few")) == {0, 1}
    events = [event.text for event in there.stores["shop"].events(there.campaign("shop", "few").hash)]
    assert any("fewer than 100 people are known to the brand and to all media" in text for text in events)


def test_a_share_is_held_out_as_the_leading_media_draws_it(there: Three, tmp_path: Path) -> None:
    people = write_people(tmp_path, seed=5)
    there.up()
    propose(there, "drawn", people, "share = 40")
    there.until_over("drawn")
    facts = there.facts("shop", "drawn", "train")
    assert 0.33 < facts["rows"]["holdout"] / len(people.common) < 0.47
