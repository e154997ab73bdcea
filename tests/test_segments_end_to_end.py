"""Segments between real processes: match, segment, and later people assigned; deaths in between; what is left where.

The coordinator compares. What its worker sees is recorded in plain, and must not depend on anybody's data.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tests.canaries import Needles
from tests.real_parties import (
    EVERYBODY,
    FEATURES,
    NAMES,
    PAPER,
    SHOP,
    Tables,
    Town,
    campaign_text,
    is_alive,
    town,
    until,
    write_csv,
    write_tables,
)
from tidegate.party.data import table
from tidegate.party.demo.records import fiction_phones
from tidegate.party.segments import columns
from tidegate.party.store import Run
from tidegate.protocols.channel import TidegateError
from tidegate.protocols.clustering.comparator import Masked, Positions, pairs
from tidegate.protocols.clustering.kmeans import adjusted_rand
from tidegate.wire.identity import Identity

WORKER = Path(__file__).with_name("recording_worker.py")
RECORDER = Path(__file__).with_name("recording_coordinator.py")
RECORDED = """\
import runpy, sys
from tidegate.coordinator import helper
started = helper.asyncio.create_subprocess_exec
helper.asyncio.create_subprocess_exec = lambda python, *_, **more: started(python, {worker!r}, {seen!r}, **more)
sys.argv = [{recorder!r}, {heard!r}, *sys.argv[2:]]
runpy.run_path({recorder!r}, run_name="__main__")
"""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("town")) as made:
        yield made


def features_of(shop: list[str], paper: list[str]) -> str:
    return f"brand = {json.dumps(shop)}\nmedia = {json.dumps(paper)}"


def propose(there: Town, name: str, tables: Tables, text: str) -> None:
    there.register(tables)
    there.stage.campaign(SHOP, "propose", str(there.file(text)), "--yes")
    there.stage.party(PAPER, "approve", name, "--yes")


def segment_text(name: str, settings: str, **replaced: str) -> str:
    """A campaign that matches and segments."""
    tables = {"features": features_of(FEATURES[SHOP], FEATURES[PAPER]), **replaced}
    text = campaign_text(name, ("match", "segment"), **tables).replace(
        "[steps.segment]", f"[steps.segment]\n{settings}"
    )
    return without(text, "label", "holdout")


def assign_text(name: str, model: str) -> str:
    text = campaign_text(name, ("match", "assign"), model=f'campaign = "{model}"')
    return without(text, "label", "holdout", "features")


def without(text: str, *titles: str) -> str:
    return "\n\n".join(part for part in text.split("\n\n") if not part.startswith(tuple(f"[{t}]" for t in titles)))


def rows_of(there: Town, name: str) -> dict[str, NDArray[np.int64]]:
    """Each party's row numbers of the people that both have, in one order."""
    read = {party: (there.results(party, name) / "match" / "rows.i64").read_bytes() for party in NAMES}
    return {party: np.frombuffer(data, np.int64) for party, data in read.items()}


def nearest(there: Town, model: str, name: str, tables: Tables) -> NDArray[np.int64]:
    """The segment, from 1, of each matched person by the clear text: what nobody but this test can join."""
    parts = []
    rows = rows_of(there, name)
    for party, path in ((SHOP, tables.shop), (PAPER, tables.paper)):
        kept = json.loads((there.results(party, model) / "segment" / "model.json").read_text())["segments"]
        recipe, own = columns.Recipe.from_json(kept["recipe"]), table.read(path)
        parts.append((columns.apply(recipe, own, rows[party]), np.array(kept["centroids"])))
    x, centroids = (np.hstack([part[i] for part in parts]) for i in (0, 1))
    found: NDArray[np.int64] = np.argmin(((x[:, None] - centroids) ** 2).sum(axis=2), axis=1) + 1
    return found


def assigned(there: Town, name: str, step: str) -> NDArray[np.int64]:
    """The segment of each matched person, in the order of the match, by what the brand was given."""
    found = pq.read_table(there.results(SHOP, name) / step / "segments.parquet")
    by_row = dict(zip(found["row"].to_pylist(), found["segment"].to_pylist(), strict=True))
    return np.array([by_row[row] for row in rows_of(there, name)[SHOP].tolist()])


def test_later_people_are_put_into_the_segments_that_an_earlier_campaign_has_found(there: Town, tmp_path: Path) -> None:
    tables = write_tables(tmp_path / "then", seed=40)
    there.up()
    propose(there, "groups", tables, segment_text("groups", "k = 3\nstarts = 2\niterations = 20"))
    there.until_over("groups")
    facts = {party: there.facts(party, "groups", "segment") for party in NAMES}
    assert facts[SHOP]["rows"] == len(tables.joined)
    sizes = [[segment["size"] for segment in facts[party]["segments"]] for party in NAMES]
    assert sizes[0] == sizes[1]
    ours = assigned(there, "groups", "segment")
    assert np.bincount(ours)[1:].tolist() == sizes[0]
    # Of those that lie between two segments one or the other may be the nearer by a rounding.
    assert adjusted_rand(ours, nearest(there, "groups", "groups", tables)) > 0.98

    later = write_tables(tmp_path / "later", seed=41, common=900)
    model = there.campaign(SHOP, "groups").short
    propose(there, "later", later, assign_text("later", model))
    there.until_over("later")
    wanted = nearest(there, "groups", "later", later)
    assert len(wanted) == len(later.joined) != len(tables.joined)
    if not there.facts(SHOP, "later", "assign")["left_out"]:
        assert np.mean(assigned(there, "later", "assign") == wanted) > 0.995
    for name, step in (("groups", "segment"), ("later", "assign")):
        assert not list((there.results(PAPER, name) / step).glob("*.parquet")), "who is in which is for the brand"
        receipts = [run.receipt for party in NAMES for run in there.runs(party, name) if run.state == "committed"]
        assert len(receipts) == 4
    assert not there.leftovers()


# Another coordinator's key


def test_a_media_that_knows_another_key_of_the_coordinator_does_not_sign(there: Town, tmp_path: Path) -> None:
    there.up()
    there.register(write_tables(tmp_path, seed=42))
    file = there.file(segment_text("unsigned", "k = 3"))
    there.stage.campaign(SHOP, "propose", str(file), "--yes")
    pinned = there.home(PAPER).coordinator_key_file
    known = pinned.read_text()
    pinned.write_text(Identity.generate("coordinator").public.hex())
    try:
        with pytest.raises(TidegateError, match="another key for the coordinator than the one this party joined with"):
            there.stage.party(PAPER, "approve", "unsigned", "--yes")
    finally:
        pinned.write_text(known)
    there.stage.campaign(SHOP, "cancel", "unsigned")


def test_a_coordinator_with_another_key_than_the_parties_know_gets_no_line(there: Town, tmp_path: Path) -> None:
    tables = write_tables(tmp_path, seed=43)
    there.up()
    there.kill("coordinator")
    own = there.stage.folder / "coordinator" / "identity.key"
    kept = own.rename(own.with_name("kept.key"))
    Identity.generate("coordinator").save(own)
    try:
        there.up()
        propose(there, "posing", tables, segment_text("posing", "k = 3"))
        there.until_over("posing", "failed")
        words = "coordinator uses another identity key than the one you trust"
        assert any(there.has_event(party, "posing", words) for party in NAMES)
        assert not any((there.results(party, "posing") / "segment").exists() for party in NAMES)
    finally:
        there.kill("coordinator")
        kept.replace(own)
        there.up()


# Deaths

PLACES = (SHOP, PAPER, "coordinator", "worker of shop", "worker of paper", "worker of coordinator")


def process_of(there: Town, victim: str) -> int:
    return there.pid(victim) if victim in EVERYBODY else there.pid_of_worker(victim.removeprefix("worker of "))


def has_failed(there: Town, party: str, run: Run) -> bool:
    now = there.stores[party].run(run.run)
    return now is not None and now.state == "failed"


def in_the_middle(there: Town, name: str, tables: Tables) -> dict[str, Run]:
    """Proposes a campaign and waits until both workers look for groups; their runs, by party."""
    there.up()
    propose(there, name, tables, segment_text(name, "k = 6\nstarts = 10\niterations = 20"))
    doing = "finding groups blindly"
    until("both find groups", lambda: all(there.has_event(party, name, doing) for party in NAMES), 90)
    runs = {party: there.runs(party, name)[-1] for party in NAMES}
    assert {run.state for run in runs.values()} == {"started"}, "it was over too soon for this test"
    return runs


@pytest.mark.parametrize("victim", PLACES)
def test_after_kill_9_anywhere_the_step_starts_again_and_ends_well(there: Town, tmp_path: Path, victim: str) -> None:
    name = f"killed-{victim.replace(' ', '-')}"
    tables = write_tables(tmp_path, seed=50 + PLACES.index(victim))
    runs = in_the_middle(there, name, tables)
    workers = [there.pid_of_worker(one) for one in EVERYBODY]
    os.kill(process_of(there, victim), signal.SIGKILL)
    for party in NAMES:
        if party != victim:
            until(f"{party} notices", partial(has_failed, there, party, runs[party]), 30)
    until("the workers of the run end", lambda: not [pid for pid in workers if is_alive(pid)], 30)
    there.up()
    there.until_over(name)
    committed = [[(r.step, r.run) for r in there.runs(party, name) if r.state == "committed"] for party in NAMES]
    assert committed[0] == committed[1]
    assert [step for step, _ in committed[0]] == [0, 1]
    assert there.facts(SHOP, name, "segment")["rows"] == len(tables.joined)
    assert len({json.dumps(there.facts(party, name, "segment")["starts"]) for party in NAMES}) == 1
    assert not there.leftovers()


def test_a_frozen_worker_of_the_coordinator_is_noticed_within_30_seconds(there: Town, tmp_path: Path) -> None:
    tables = write_tables(tmp_path, seed=60)
    runs = in_the_middle(there, "frozen", tables)
    frozen = there.pid_of_worker("coordinator")
    os.kill(frozen, signal.SIGSTOP)
    deadline = time.monotonic() + 30
    for party in NAMES:
        until(f"{party} notices", partial(has_failed, there, party, runs[party]), deadline - time.monotonic())
    there.until_over("frozen")
    assert not is_alive(frozen)
    assert there.facts(SHOP, "frozen", "segment")["rows"] == len(tables.joined)


# What is left


@dataclass
class Canaries:
    """Tables whose every value is unlike any other, and the needles that find them."""

    tables: Tables
    needles: Needles


def canaries(folder: Path, people: int, seed: int) -> Canaries:
    """The same people at both, in different orders; numbers of many digits in two columns of each party."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    emails = [f"{secrets.token_hex(8)}@mail{i % 5}.example" for i in range(people)]
    phones = fiction_phones(people)
    values = {party: rng.uniform(1, 99, (people, 2)) for party in NAMES}
    order = rng.permutation(people)
    write_csv(
        folder / "shop.csv",
        [
            {"tel": phones[i], "contact": emails[i], "age": values[SHOP][i, 0], "spend": values[SHOP][i, 1]}
            for i in range(people)
        ],
    )
    write_csv(
        folder / "paper.csv",
        [
            {"mobile": phones[i], "e_mail": emails[i], "visits": values[PAPER][i, 0], "clicks": values[PAPER][i, 1]}
            for i in order
        ],
    )
    needles = Needles()
    for text in (*emails, *phones):
        needles.add_text(text)
    for each in values.values():
        needles.add_numbers(each)
    return Canaries(Tables(folder / "shop.csv", folder / "paper.csv", np.empty((0, 2), np.int64)), needles)


@dataclass
class Recorded:
    """Two campaigns over as many people with other data: what the coordinator and its worker saw of each."""

    town: Town
    canaries: list[Canaries]
    seen: list[list[dict[str, Any]]]
    heard: bytes
    log: bytes


PEOPLE, GROUPS = 640, 2


@pytest.fixture(scope="module")
def recorded(there: Town, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("recorded")
    heard, made, seen = folder / "heard", [], []
    there.up()
    log = there.stage.folder / "coordinator.log"
    at = log.stat().st_size
    for number in (1, 2):
        file, name = folder / f"seen-{number}", f"canaries-{number}"
        program = RECORDED.format(worker=str(WORKER), seen=str(file), recorder=str(RECORDER), heard=str(heard))
        there.up_doctored("coordinator", program)
        made.append(canaries(folder / name, PEOPLE, number))
        features = features_of(["age", "spend"], ["visits", "clicks"])
        text = segment_text(
            name,
            f"k = {GROUPS}\nstarts = 2\niterations = 3",
            match='keys = ["email"]',
            features=features,
            ranges="".join(f"\n[ranges.{p}]\n{a} = [0, 100]\n{b} = [0, 100]" for p, a, b in RANGES),
        )
        propose(there, name, made[-1].tables, text)
        there.until_over(name)
        seen.append([json.loads(line) for line in file.read_text().splitlines()])
    yield Recorded(there, made, seen, heard.read_bytes(), log.read_bytes()[at:])
    there.kill("coordinator")


RANGES = ((SHOP, "age", "spend"), (PAPER, "visits", "clicks"))


def expected(facts: dict[str, Any], people: int, k: int) -> list[tuple[str, str, int]]:
    """What the coordinator's worker hears and says on each line, by the catalogue: of people, k and iterations."""
    block = len(Masked(0, bytes(6 * len(pairs(k)) * people)).to_bytes())
    one_pass = [("received", "Ask"), ("received", "Masked"), ("sent", "Positions")]
    one_sum = [("received", "Ask"), ("received", "Part"), ("sent", "Total")]
    starts = facts["starts"]
    best = min(range(len(starts)), key=lambda at: starts[at]["inertia"])
    said = [each for start in starts for each in one_pass * start["iterations"] + one_sum]
    said += [] if starts[best]["converged"] else one_pass
    said += [("received", "Ask")]
    lengths = {
        "Masked": block,
        "Positions": len(Positions(0, bytes(people)).to_bytes()),
        "Part": 8,
        "Total": 8,
        "Ask": 0,
    }
    return [(way, kind, lengths[kind]) for way, kind in said]


def test_what_the_coordinator_sees_depends_on_people_segments_and_iterations_alone(recorded: Recorded) -> None:
    for number, seen in enumerate(recorded.seen, 1):
        facts = recorded.town.facts(SHOP, f"canaries-{number}", "segment")
        assert facts["left_out"] == 0
        wanted = expected(facts, PEOPLE, GROUPS)
        for peer in NAMES:
            mine = [(each["way"], each["kind"], each["size"]) for each in seen if each["peer"] == peer]
            shown = [(way, kind, 0 if kind == "Ask" else size) for way, kind, size in mine]
            assert shown == wanted
            assert len({size for _, kind, size in mine if kind == "Ask"}) <= 2
        # All that it says is the same to both.
        said = [[each["hex"] for each in seen if (each["peer"], each["way"]) == (peer, "sent")] for peer in NAMES]
        assert said[0] == said[1]


def test_the_coordinator_holds_nothing_of_anybodys_data(recorded: Recorded) -> None:
    stage = recorded.town.stage
    for made, seen in zip(recorded.canaries, recorded.seen, strict=True):
        assert len(made.needles) > 1000
        assert made.needles.in_files(made.tables.shop), "the search finds what is there"
        plain = b"\0".join(bytes.fromhex(each["hex"]) for each in seen)
        assert len(plain) > 10_000
        assert not made.needles.within(plain)
        assert not made.needles.within(recorded.heard)
        assert not made.needles.within(recorded.log)
        assert not made.needles.in_files(stage.folder / "coordinator")
        assert not made.needles.in_files(*(stage.folder / f"{name}.log" for name in EVERYBODY))


def test_masked_values_of_the_same_rows_never_look_alike(recorded: Recorded) -> None:
    for seen in recorded.seen:
        masked = [bytes.fromhex(each["hex"]) for each in seen if each["kind"] == "Masked"]
        words = [frozenset(data[at : at + 4] for at in range(64, len(data) - 4, 4)) for data in masked]
        # Of two random sets of 4-byte words hardly one is in both.
        for at, one in enumerate(words):
            assert all(len(one & other) < 5 for other in words[at + 1 :])


def test_what_a_partys_files_hold_is_its_own(recorded: Recorded) -> None:
    """The other's values are in none of its folders; of people it is told numbers and segments alone."""
    for number, made in enumerate(recorded.canaries, 1):
        for party, path in ((SHOP, made.tables.paper), (PAPER, made.tables.shop)):
            others = Needles()
            own = table.read(path)
            names = FEATURES[PAPER if party == SHOP else SHOP]
            held = [name for name in names if name in own.column_names]
            others.add_numbers(np.stack([own[name].to_numpy() for name in held], axis=1))
            assert not others.in_files(recorded.town.results(party, f"canaries-{number}"))
