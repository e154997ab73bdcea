"""A brand and two media in one campaign: each matched apart, what both know, and what one media learns of the other."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests import recording_coordinator
from tests.canaries import Needles
from tests.real_parties import until
from tests.two_parties import Counter, Party, Town, introduce, make_party, make_town, media_rows, write_csv
from tidegate.party import campaign, dataset, mail, node, overlap, policy, screen
from tidegate.party.config import Home
from tidegate.party.demo.loopback import DataSet, Loopback, loopback, register, wait_for_port
from tidegate.party.demo.records import fiction_phones
from tidegate.party.node import Node, admit
from tidegate.party.store import FINAL, Campaign, Store
from tidegate.protocols.channel import CarrierError, ConfigError, PolicyError
from tidegate.wire.contract import Contract, signed_bytes
from tidegate.wire.relay_pb2 import CampaignState, Docket, Start

# Three real processes and their workers, whom a busy machine keeps waiting.
pytestmark = pytest.mark.timeout(1200)

NAMES = ("shop", "alpha", "beta")
PLACES = {"shop": "brand", "alpha": "alpha", "beta": "beta"}
PEOPLE = 3000
ROWS = {"shop": 1800, "alpha": 1500, "beta": 1600}


@dataclass(frozen=True)
class People:
    """Who is at which party, and the clear-text join: by media the shop's rows it knows, by which key."""

    files: dict[str, Path]
    emails: dict[str, list[str]]
    joined: dict[str, dict[str, set[int]]]

    def known_to(self, media: str) -> set[int]:
        return set().union(*self.joined[media].values())


def write_people(folder: Path, *, seed: int, rows: dict[str, int] | None = None) -> People:
    """A table for each party, drawn from the same people: some without a telephone, some without an e-mail address."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    phones = fiction_phones(PEOPLE)
    mails = [f"canary.{seed}.{rng.integers(10**12)}@example.com" for _ in phones]
    at = {name: rng.permutation(len(phones))[: (rows or ROWS)[name]] for name in NAMES}
    has = {name: rng.random((len(phones), 2)) > 0.2 for name in NAMES}
    for name in NAMES:
        has[name][~has[name].any(axis=1), 0] = True
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["mobile", "contact", "note"])
            for i in at[name]:
                writer.writerow([phones[i] if has[name][i, 0] else "", mails[i] if has[name][i, 1] else "", "same"])
    joined: dict[str, dict[str, set[int]]] = {}
    for media in NAMES[1:]:
        both = {row: has["shop"][i] & has[media][i] for row, i in enumerate(at["shop"]) if i in set(at[media].tolist())}
        by_phone = {row for row, keys in both.items() if keys[0]}
        joined[media] = {"phone": by_phone, "email": {row for row, keys in both.items() if keys[1]} - by_phone}
    files = {name: folder / f"{name}.csv" for name in NAMES}
    return People(files, {name: [mails[i] for i in at[name] if has[name][i, 1]] for name in NAMES}, joined)


def campaign_text(name: str, mode: str = "both") -> str:
    return f"""\
[campaign]
name = "{name}"

[parties]
brand = "shop"
media = ["alpha", "beta"]

[data]
brand = "people"
media = {{alpha = "people", beta = "people"}}

[match]
keys = ["phone", "email"]
mode = "{mode}"

[steps.match]
"""


@dataclass
class Three:
    """A coordinator that keeps a copy of all it sees, and the three parties' processes and stores."""

    stage: Loopback
    stores: dict[str, Store]
    heard: Path

    def propose(self, name: str, people: People, mode: str = "both") -> None:
        for party, data in data_sets(people).items():
            register(self.stage, party, data)
        for media in NAMES[1:]:
            self.stage.party(media, "data", "offer", "people", "--to", "shop")
        file = self.stage.folder / f"{name}.toml"
        file.write_text(campaign_text(name, mode))
        self.stage.campaign("shop", "propose", str(file), "--yes")

    def approve(self, name: str) -> None:
        for media in NAMES[1:]:
            self.stage.party(media, "approve", name, "--yes")

    def up(self, *names: str) -> None:
        for name in names or NAMES:
            if name not in self.stage.processes:
                self.stage.start_node(name)

    def kill(self, name: str) -> None:
        process = self.stage.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(60)

    def campaign(self, party: str, name: str) -> Campaign:
        return self.stores[party].campaign(name)

    def committed(self, party: str, name: str) -> dict[int, bytes]:
        runs = self.stores[party].runs(self.campaign(party, name).hash)
        return {run.step: run.run for run in runs if run.state == "committed"}

    def until_committed(self, party: str, name: str, steps: set[int]) -> None:
        def over() -> bool:
            return self.campaign(party, name).state in FINAL or set(self.committed(party, name)) >= steps

        until("its steps are committed", over, 400)
        assert set(self.committed(party, name)) == steps, self.stores[party].runs(self.campaign(party, name).hash)

    def until_over(self, name: str, state: str = "done", parties: tuple[str, ...] = NAMES) -> None:
        until("the campaign ends", lambda: all(self.campaign(each, name).state in FINAL for each in parties), 400)
        found = {each: (self.campaign(each, name).state, self.campaign(each, name).reason) for each in parties}
        assert {each for each, _ in found.values()} == {state}, found

    def results(self, party: str, name: str) -> Path:
        return self.stage.home(party).campaign(self.campaign(party, name).short)

    def facts(self, party: str, name: str, step: str) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.results(party, name) / step / "facts.json").read_text())
        return facts


def data_sets(people: People) -> dict[str, DataSet]:
    keys = {"phone": "mobile", "email": "contact"}
    return {name: DataSet("people", people.files[name], keys, "US") for name in NAMES}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    folder = tmp_path_factory.mktemp("three")
    data = {PLACES[name]: each for name, each in data_sets(write_people(folder / "first", seed=1)).items()}
    with loopback(folder / "stage", data, NAMES) as stage:
        stage.stop("coordinator")
        heard, log = folder / "heard", (stage.folder / "coordinator.log").open("ab")
        program = [sys.executable, recording_coordinator.__file__, str(heard)]
        with log:
            stage.processes["coordinator"] = subprocess.Popen(
                [*program, "--home", str(stage.folder / "coordinator"), "up"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for_port(stage, int(stage.home("shop").coordinator().address.rpartition(":")[2]))
        stores = {name: Store(stage.home(name).store_db) for name in NAMES}
        yield Three(stage, stores, heard)
        for store in stores.values():
            store.close()


def check_apart(there: Three, name: str, people: People) -> None:
    """Each media has its own match and nothing else; the counts are those of the clear-text join."""
    for media in NAMES[1:]:
        step = f"match-{media}"
        assert [folder.name for folder in there.results(media, name).iterdir()] == [step]
        assert set(there.committed(media, name)) == {NAMES.index(media) - 1}
        facts = there.facts("shop", name, step)
        assert facts["by_key"] == {kind: len(rows) for kind, rows in people.joined[media].items()}
        assert facts["size"] == len(people.known_to(media))
        rows = np.fromfile(there.results("shop", name) / step / "rows.i64", "<i8")
        assert set(rows.tolist()) == people.known_to(media)
    assert there.committed("shop", name) == there.committed("alpha", name) | there.committed("beta", name)


def check_together(there: Three, name: str, people: People) -> None:
    """The brand's table of who is known to whom is the clear text's, and so are the figures."""
    (path,) = there.results("shop", name).glob("*/known.parquet")
    facts = there.facts("shop", name, path.parent.name)["together"]
    alpha, beta = people.known_to("alpha"), people.known_to("beta")
    assert facts == {
        "rows": ROWS["shop"],
        "known_to": {"alpha": len(alpha), "beta": len(beta)},
        "any": len(alpha | beta),
        "all": len(alpha & beta),
        "floor": 100,
    }
    table = pq.read_table(path).to_pydict()
    with people.files["shop"].open() as file:
        own = list(csv.DictReader(file))
    assert table["row"] == sorted(alpha | beta)
    for index, row in enumerate(table["row"]):
        assert [table[f"known_to_{media}"][index] for media in NAMES[1:]] == [row in alpha, row in beta]
        assert table["known_to"][index] == (row in alpha) + (row in beta)
        assert [table[key][index] or "" for key in ("mobile", "contact")] == [own[row]["mobile"], own[row]["contact"]]


# Whole campaigns


def test_each_media_is_matched_apart_and_the_brand_knows_who_is_known_to_all_and_to_any(
    there: Three, tmp_path: Path
) -> None:
    people = write_people(tmp_path, seed=2)
    there.propose("apart", people)
    there.approve("apart")
    there.up()
    there.until_over("apart")
    check_apart(there, "apart", people)
    check_together(there, "apart", people)
    assert "known to all of them" in there.stage.party("shop", "results", "apart", "--export", str(tmp_path / "shop"))
    there.stage.party("alpha", "results", "apart", "--export", str(tmp_path / "alpha"))
    assert "match-beta" not in there.stage.campaign("alpha", "status", "apart")
    report = json.loads((tmp_path / "shop" / "report.json").read_text())
    assert {media: each["match"]["size"] for media, each in report["media"].items()} == {
        media: len(people.known_to(media)) for media in NAMES[1:]
    }
    page = (tmp_path / "shop" / "report.html").read_text()
    for number in (len(people.known_to("alpha") | people.known_to("beta")), len(people.known_to("beta"))):
        assert f">{number:,}<" in page
    check_nothing_of_beta_is_with_alpha(there, people, tmp_path / "alpha")


def check_nothing_of_beta_is_with_alpha(there: Three, people: People, exported: Path) -> None:
    """Nor with the coordinator, which saw every letter and frame of all three."""
    beta = Needles()
    for email in sorted(set(people.emails["beta"]) - set(people.emails["alpha"])):
        beta.add_text(email)
    assert len(beta) > 3000
    assert beta.in_files(people.files["beta"])
    assert beta.in_files(there.results("shop", "apart"))  # those the brand has too, in its own table
    alpha, folder = there.stage.home("alpha").path, there.stage.folder
    assert not beta.in_files(alpha, exported, folder / "alpha.log", folder / "coordinator", there.heard)
    # Runs of the other media are not known by their numbers either.
    runs = Needles()
    run = there.committed("beta", "apart")[1]
    runs.add([run, run.hex().encode()])
    assert runs.in_files(there.stage.home("shop").path)
    assert not runs.in_files(alpha, exported)
    assert b"match-beta" in there.heard.read_bytes()  # what the coordinator is told: who has which step


def test_a_media_that_is_away_holds_up_its_own_match_alone_and_where_the_brand_alone_learns_it_has_both(
    there: Three, tmp_path: Path
) -> None:
    people = write_people(tmp_path, seed=3)
    there.up()
    there.kill("alpha")
    there.propose("away", people, "brand")
    there.approve("away")
    there.until_committed("shop", "away", {1})
    for party in ("shop", "beta"):
        until("it waits", lambda party=party: there.campaign(party, "away").state == "waiting", 90)  # type: ignore[misc]
    there.up("alpha")
    there.until_over("away")
    for media in NAMES[1:]:
        assert not (there.results(media, "away") / f"match-{media}" / "rows.i64").exists()
    check_together(there, "away", people)


def test_kill_9_at_a_media_during_its_match_loses_nothing_of_the_others(there: Three, tmp_path: Path) -> None:
    people = write_people(tmp_path, seed=4)
    there.up()
    there.propose("killed", people)
    there.approve("killed")
    contract = there.campaign("alpha", "killed").hash
    until("alpha's match starts", lambda: "started" in [run.state for run in there.stores["alpha"].runs(contract)], 300)
    there.kill("alpha")
    for party in ("shop", "beta"):
        there.until_committed(party, "killed", {1})
    before = there.committed("beta", "killed")
    there.up("alpha")
    there.until_over("killed")
    assert there.committed("beta", "killed") == before
    check_apart(there, "killed", people)
    check_together(there, "killed", people)


def test_a_match_under_the_floor_ends_the_campaign_by_name_and_leaves_what_is_committed(
    there: Three, tmp_path: Path
) -> None:
    people = write_people(tmp_path, seed=5, rows={**ROWS, "beta": 60})
    there.up()
    there.kill("beta")
    there.propose("few", people)
    there.approve("few")
    there.until_committed("shop", "few", {0})
    there.up("beta")
    there.until_over("few", "failed")
    assert there.committed("shop", "few") == there.committed("alpha", "few")
    assert set(there.committed("alpha", "few")) == {0}
    assert there.facts("shop", "few", "match-alpha")["size"] == len(people.known_to("alpha"))
    assert not list(there.results("shop", "few").glob("*/known.parquet"))
    for party in NAMES:
        assert there.campaign(party, "few").by in ("shop", "beta")
    # What went wrong between the other two, alpha is not told.
    assert there.campaign("alpha", "few").reason == "a rule forbids it"


def test_a_media_that_refuses_ends_the_campaign_for_all(there: Three, tmp_path: Path) -> None:
    people = write_people(tmp_path, seed=6)
    there.propose("refused", people)
    there.up()
    there.stage.party("beta", "refuse", "refused", "--reason", "not this month")
    there.until_over("refused", "refused", ("shop", "beta"))
    assert there.campaign("shop", "refused").by == "beta"
    with pytest.raises(PolicyError, match="is over"):
        there.stage.party("alpha", "approve", "refused", "--yes")


# One node


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """acme and feed with a second media, `rest`, whose card both trust and which offers its people to acme."""
    made = make_town(tmp_path)
    rest = make_party(tmp_path, "rest")
    for other in (made.acme, made.feed):
        introduce(rest, other)
    file = write_csv(tmp_path / "rest.csv", media_rows(800))
    dataset.register(rest.store, "people", file, {"email": "email"}, "", "refuse")
    made.office.online(rest.home, lambda relay: mail.offer(rest.home, rest.store, relay, "people", "acme"))
    made.collect(made.acme)
    rest.store.close()
    yield made
    made.close()


def contract_of(town: Town) -> Contract:
    text = campaign_text("several").replace('"shop"', '"acme"').replace('["phone", "email"]', '["email"]')
    text = text.replace('["alpha", "beta"]', '["feed", "rest"]').replace('brand = "people"', 'brand = "customers"')
    text = text.replace('{alpha = "people", beta = "people"}', '{feed = "people", rest = "people"}')
    checked = campaign.check(town.campaign_file(text), town.acme.home, town.acme.store, time.time())
    assert checked.contract is not None, checked.mistakes
    return checked.contract


def signed(town: Town) -> Contract:
    """The contract as acme's and feed's stores have it when all three have signed."""
    contract = contract_of(town)
    for party in (town.acme, town.feed):
        party.store.put_campaign(contract, "acme")
        for folder in ("acme", "feed", "rest"):
            identity = Home(town.folder / folder).load_identity()
            party.store.add_signature(contract.hash, identity.name, identity.sign(signed_bytes(contract.hash)))
    return contract


def node_of(party: Party) -> Node:
    async def made() -> Node:
        return Node(party.home, party.store, lambda _line: None, party.identity.name)

    return asyncio.run(made())


def test_a_media_refuses_a_start_of_a_step_in_which_it_takes_no_part(town: Town) -> None:
    contract = signed(town)
    at = node_of(town.feed)
    with pytest.raises(ConfigError, match="match-rest, in which feed takes no part"):
        admit(at, Start(contract=contract.hash, step=1, run=bytes(16), attempt=1))
    _, order = admit(at, Start(contract=contract.hash, step=0, run=bytes(16), attempt=1))
    assert order.step == 0


def test_a_step_waits_for_the_earlier_ones_with_the_same_media_and_for_no_others(town: Town) -> None:
    contract = signed(town)
    at = node_of(town.acme)
    for index in (0, 1):
        _, order = admit(at, Start(contract=contract.hash, step=index, run=bytes(16), attempt=1))
        assert (order.step, order.earlier) == (index, {})


def test_a_new_start_leaves_what_is_prepared_of_another_step(town: Town) -> None:
    contract = signed(town)
    at, run, other = node_of(town.acme), bytes(16), bytes([1]) * 16
    town.acme.store.start_run(contract.hash, 0, run, 1)
    town.acme.store.end_run(run, "prepared", receipt=b"receipt")
    town.acme.home.staging(run).mkdir()
    town.acme.store.start_run(contract.hash, 1, other, 1)

    async def restarted() -> None:
        with contextlib.suppress(CarrierError):  # letters cannot be fetched: nobody listens
            await node._start(at, Unreachable(), Start(contract=contract.hash, step=1, run=bytes([2]) * 16, attempt=2))  # type: ignore[arg-type]

    asyncio.run(restarted())
    states = {known.run: known.state for known in town.acme.store.runs(contract.hash)}
    assert (states[run], states[other]) == ("prepared", "failed")
    assert town.acme.home.staging(run).exists()
    asyncio.run(node._stop(at, contract.hash, run, "given up"))
    assert not town.acme.home.staging(run).exists()


class Unreachable:
    """A line to no coordinator."""

    async def Collect(self, *_arguments: object, **_options: object) -> None:  # noqa: N802 - the name of the call
        raise CarrierError("the coordinator cannot be reached")


def test_done_is_believed_when_a_medias_own_steps_are(town: Town) -> None:
    contract = signed(town)
    store, run = town.feed.store, bytes(16)
    done = CampaignState(contract=contract.hash, state="done")
    mail.note_state(store, done, "feed")
    assert store.campaign(contract.hash).state == "signing"
    store.start_run(contract.hash, 0, run, 1)
    store.end_run(run, "prepared", receipt=b"receipt")
    store.end_run(run, "committed")
    mail.note_state(store, done, "feed")
    assert store.campaign(contract.hash).state == "done"


def test_a_media_offers_nothing_to_another_and_is_told_what_the_contract_shows_it_of_them(town: Town) -> None:
    contract = contract_of(town)
    assert not policy.problems(town.feed.home, town.feed.store, contract, time.time())
    for media in ("feed", "rest"):
        assert policy.OF_OTHER_MEDIA in contract.learns[media]
    assert policy.OF_OTHER_MEDIA not in contract.learns["acme"]
    silent = replace(contract, learns={**contract.learns, "feed": contract.learns["feed"][:-1]})
    problems = policy.problems(town.feed.home, town.feed.store, silent, time.time())
    assert "does not say truly what feed learns" in problems[0].text


def test_the_docket_names_who_is_in_each_step_and_the_screen_with_whom_it_is(
    town: Town, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contract, filed = contract_of(town), list[Docket]()
    file = Counter.File

    async def noted(self: Counter, request: Docket, timeout: float) -> CampaignState:
        filed.append(request)
        return await file(self, request, timeout)

    monkeypatch.setattr(Counter, "File", noted)
    town.office.online(town.acme.home, lambda relay: mail.propose(town.acme.home, town.acme.store, relay, contract))
    (docket,) = filed
    assert list(docket.steps) == ["match-feed", "match-rest"]
    assert [list(members.parties) for members in docket.members] == [["acme", "feed"], ["acme", "rest"]]
    screen.contract(town.acme.store, town.acme.store.campaign(contract.hash), "acme", [])
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "between acme and feed" in shown
    assert "between acme and rest" in shown


# Figures


@given(st.integers(2, 4).flatmap(lambda media: st.lists(st.integers(0, 6), min_size=2**media, max_size=2**media)))
@example([3, 0, 0, 3, 0, 3, 3, 3])  # nobody is known to exactly one of three
@example([3, 3, 3, 0, 3, 0, 0, 3])
def test_no_group_under_the_floor_follows_from_the_figures(people: list[int]) -> None:
    """Every union of cells whose number of people the figures decide has the floor or more, or was told before.

    A cell is who is known to exactly one set of media. What is decided: its indicator is a combination of those of the
    figures. The number of rows and of those known to each media are told anyway, by the matches.
    """
    floor, cells, size = 3, np.array(people), len(people)
    media = size.bit_length() - 1
    masks = np.arange(size)
    of_media = np.array([(masks >> index) & 1 for index in range(media)])
    by_times = np.bincount(of_media.sum(axis=0), weights=cells, minlength=media + 1).astype(np.int64)
    told = overlap.figures(by_times, [int(cells @ each) for each in of_media], floor)
    before = np.vstack([np.ones(size, int), of_media])
    shown = [(masks > 0).astype(int)] * (told.any is not None) + [(masks == size - 1).astype(int)] * (
        told.all is not None
    )
    assert told.any in (None, int(cells[1:].sum()))
    assert told.all in (None, int(cells[-1]))
    groups = ((np.arange(1, 2**size)[:, None] >> masks) & 1) if media < 4 else _nested(of_media, masks)
    for group in groups:
        if _follows(group, [*before, *shown]) and not _follows(group, before):
            assert cells @ group >= floor, group


def _nested(of_media: Any, masks: Any) -> list[Any]:
    """Groups that people would think of, where all of them are too many to go through."""
    anyone, everyone = (masks > 0).astype(int), (masks == masks[-1]).astype(int)
    differences = [each for one in of_media for each in (anyone - one, one - everyone)]
    return [anyone, everyone, 1 - anyone, anyone - everyone, *differences]


def _follows(group: Any, figures: Any) -> bool:
    matrix = np.array(figures, float)
    return bool(np.linalg.matrix_rank(np.vstack([matrix, group])) == np.linalg.matrix_rank(matrix))


def test_figures_that_tell_of_enough_people_are_told() -> None:
    assert overlap.figures(np.array([500, 900, 300]), [700, 800], 100) == overlap.Together(1200, 300)
    assert overlap.figures(np.array([500, 900, 99]), [499, 599], 100) == overlap.Together(None, None)
    assert overlap.figures(np.array([500, 400, 200, 99]), [400, 400, 300], 100).any == 699
