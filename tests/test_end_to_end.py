"""Whole campaigns between real processes on the loopback: what comes out, and what kill -9, a freeze and Ctrl-C do."""

from __future__ import annotations

import csv
import os
import re
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.real_parties import (
    DATA,
    EVERYBODY,
    NAMES,
    PAPER,
    SHOP,
    Tables,
    Town,
    is_alive,
    pooled_auc,
    town,
    until,
    workers,
    write_tables,
)
from tidegate.party.store import Run

HOLDOUT = "scores of matched people"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("town")) as made:
        yield made


def test_a_whole_campaign_gives_what_the_pooled_clear_text_gives(there: Town, tmp_path: Path) -> None:
    tables = write_tables(tmp_path, seed=2)
    there.propose("spring", tables)
    there.up()
    waiting: list[int] = []
    until("a worker waits beside the one at work", lambda: waiting.extend(workers(there.pid(SHOP))[1:]) or waiting)
    until("it plays a later step", lambda: there.worker(SHOP) == waiting[0])
    there.until_over("spring")
    until("no worker waits where no step is left", lambda: not any(workers(there.pid(party)) for party in NAMES))
    matched = there.facts(SHOP, "spring", "match")
    assert matched["size"] == len(tables.joined) == there.facts(PAPER, "spring", "match")["size"]
    rows = {party: (there.results(party, "spring") / "match" / "rows.i64").read_bytes() for party in NAMES}
    pairs = zip(*(memoryview(rows[party]).cast("q") for party in NAMES), strict=True)
    assert sorted(pairs) == sorted(map(tuple, tables.joined.tolist()))
    trained = there.facts(SHOP, "spring", "train")
    assert trained["auc"]["joint"] == pytest.approx(pooled_auc(tables), abs=0.002)
    assert trained["auc"]["joint"] > trained["auc"]["brand_only"] + 0.02
    scores = pq.read_table(there.results(SHOP, "spring") / "score" / "scores.parquet")
    assert scores.num_rows == len(tables.joined)
    with tables.shop.open() as file:
        contacts = [row["contact"].strip() for row in csv.DictReader(file)]
    for row, contact in zip(scores["row"].to_pylist(), scores["contact"].to_pylist(), strict=True):
        assert (contact or "") == contacts[row]
    others = set(range(2400)) - set(tables.joined[:, 1].tolist())
    for size in there.facts(PAPER, "spring", "expand")["sizes"]:
        path = there.results(PAPER, "spring") / "expand" / f"audience_{size['percent']}_percent.parquet"
        assert set(pq.read_table(path)["row"].to_pylist()) <= others
    assert not there.leftovers()
    insight = {feature["name"] for feature in there.facts(SHOP, "spring", "insight")["features"]}
    assert {"visits", "device", "clicks", "since"} >= insight >= {"visits", "device"}
    assert {"currency", "country"}.isdisjoint(weight["name"] for weight in trained["weights"])


def check_trained_once(there: Town, name: str, tables: Tables) -> None:
    """The campaign has its results, each of them once, and the budget was spent once."""
    for party in NAMES:
        runs = there.runs(party, name)
        committed = [(run.step, run.run) for run in runs if run.state == "committed"]
        assert [step for step, _ in committed] == [0, 1], runs
        assert committed == [(run.step, run.run) for run in there.runs(SHOP, name) if run.state == "committed"]
        assert not [run for run in runs if run.state in ("started", "prepared")]
        digest = there.stores[party].dataset(DATA[party]).digest
        charges = {each.kind: each.amount for each in there.stores[party].charges() if each.digest == digest}
        assert charges == ({"match": 1} if party == SHOP else {"match": 1, "train_steps": 8, HOLDOUT: 1})
    assert there.facts(SHOP, name, "match")["size"] == len(tables.joined)
    assert there.facts(SHOP, name, "train")["auc"]["joint"] == pytest.approx(pooled_auc(tables), abs=0.002)
    assert not there.leftovers()


def in_the_middle_of_training(there: Town, name: str, tables: Tables) -> dict[str, Run]:
    """Proposes a campaign and waits until both workers train; their runs, by party."""
    there.propose(name, tables, ("match", "train"))
    there.up()
    until("both train", lambda: all(there.has_event(party, name, "training blindly") for party in NAMES))
    runs = {party: there.runs(party, name)[-1] for party in NAMES}
    assert {run.state for run in runs.values()} == {"started"}, "training was over too soon for this test"
    return runs


def has_failed(there: Town, party: str, run: Run) -> bool:
    now = there.stores[party].run(run.run)
    return now is not None and now.state == "failed"


PROCESSES = (SHOP, PAPER, "coordinator", "worker of shop", "worker of paper")


def process(there: Town, victim: str) -> int:
    return there.pid(victim) if victim in EVERYBODY else there.pid_of_worker(victim.removeprefix("worker of "))


def others(victim: str) -> list[str]:
    return [party for party in NAMES if party != victim]


@pytest.mark.parametrize("victim", PROCESSES)
def test_kill_9_ends_the_run_at_the_others_and_the_step_starts_again(there: Town, tmp_path: Path, victim: str) -> None:
    tables = write_tables(tmp_path, seed=10 + PROCESSES.index(victim))
    name = f"killed-{victim.replace(' ', '-')}"
    runs = in_the_middle_of_training(there, name, tables)
    workers = [there.pid_of_worker(party) for party in NAMES]
    os.kill(process(there, victim), signal.SIGKILL)
    for party in others(victim):
        until(f"{party} notices", partial(has_failed, there, party, runs[party]))
        until("it is told why", partial(there.has_event, party, name, "train ended early: "))
    until("the workers of the run end", lambda: not [pid for pid in workers if is_alive(pid)])
    there.up()
    there.until_over(name)
    check_trained_once(there, name, tables)


def has_noticed(there: Town, party: str, name: str, run: Run) -> bool:
    """The run has failed; or, where its worker had ended before that, the campaign waits and says for whom."""
    if there.has_event(party, name, "train ended early: "):
        return has_failed(there, party, run)
    campaign = there.campaign(party, name)
    return campaign.state == "waiting" and "broke" in campaign.reason


@pytest.mark.parametrize("victim", [PAPER, "coordinator", "worker of shop"])
def test_a_frozen_process_is_noticed_within_30_seconds(there: Town, tmp_path: Path, victim: str) -> None:
    tables = write_tables(tmp_path, seed=20 + PROCESSES.index(victim))
    name = f"frozen-{victim.replace(' ', '-')}"
    runs = in_the_middle_of_training(there, name, tables)
    frozen = process(there, victim)
    os.kill(frozen, signal.SIGSTOP)
    deadline = time.monotonic() + 30
    for party in others(victim):
        left = deadline - time.monotonic()
        until(f"{party} notices", partial(has_noticed, there, party, name, runs[party]), left)
    if victim in EVERYBODY:
        os.kill(frozen, signal.SIGCONT)
    there.until_over(name)
    if victim not in EVERYBODY:
        assert not is_alive(frozen)
    check_trained_once(there, name, tables)


def test_ctrl_c_in_each_of_the_three_leaves_nothing_running_and_loses_nothing(there: Town, tmp_path: Path) -> None:
    tables = write_tables(tmp_path, seed=30)
    in_the_middle_of_training(there, "interrupted", tables)
    workers = [there.pid_of_worker(party) for party in NAMES]
    for one in EVERYBODY:
        there.said(one)
        assert there.kill(one, signal.SIGINT) == 130
        last = there.said(one).strip().splitlines()[-1]
        assert re.search("Stopped.*go on when", last), last
    assert not [pid for pid in workers if is_alive(pid)]
    there.up()
    there.until_over("interrupted")
    check_trained_once(there, "interrupted", tables)


# What runs in place of a function of one of the three, which dies there as by kill -9.
DEATHS = {
    "the receipts are here, nothing is kept": (
        "coordinator",
        "from tidegate.coordinator.campaigns import Scheduler as place; name = '_commit_or_fail'; done = False",
    ),
    "the commit is kept, nobody is told": (
        "coordinator",
        "from tidegate.coordinator.campaigns import Effects; from tidegate.coordinator.server import Coordinator\n"
        "before = Coordinator._tell\n"
        "def tell(self, party, message): os._exit(9) if message.HasField('commit') else before(self, party, message)\n"
        "Coordinator._tell = tell; place = None",
    ),
    "a node was told, nothing is in its place": (
        SHOP,
        "import tidegate.party.node as place; name = 'place'; done = False",
    ),
    "the result is in its place, which is not noted": (
        PAPER,
        "import tidegate.party.node as place; name = 'place'; done = True",
    ),
}
DOCTORED = """\
import os
{death}
if place:
    original = getattr(place, name)
    def die(*arguments):
        if done:
            original(*arguments)
        os._exit(9)
    setattr(place, name, die)
from tidegate.__main__ import main
main()
"""


@pytest.mark.parametrize("moment", DEATHS)
def test_a_death_at_the_commit_neither_loses_nor_repeats_the_step(there: Town, tmp_path: Path, moment: str) -> None:
    victim, death = DEATHS[moment]
    name = f"commit-{list(DEATHS).index(moment)}"
    tables = write_tables(tmp_path, seed=31 + list(DEATHS).index(moment))
    there.up()
    there.up_doctored(victim, DOCTORED.format(death=death))
    there.propose(name, tables, ("match",))
    until("it dies", lambda: there.stage.processes[victim].poll() == 9)
    there.up()
    there.until_over(name)
    committed = [[run.run for run in there.runs(party, name) if run.state == "committed"] for party in NAMES]
    assert len(committed[0]) == 1
    assert committed[0] == committed[1]
    assert [run.attempt for party in NAMES for run in there.runs(party, name)] == [1, 1]
    assert there.facts(SHOP, name, "match")["size"] == there.facts(PAPER, name, "match")["size"] == len(tables.joined)
    assert not there.leftovers()
