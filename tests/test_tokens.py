"""Tokens on disk: what a build leaves, also one that was killed; what a partner may ask; what is kept and destroyed."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.canaries import Needles
from tests.real_parties import (
    NAMES,
    PAPER,
    SHOP,
    Tables,
    Town,
    campaign_text,
    command,
    town,
    until,
    write_tables,
)
from tests.two_parties import Party, introduce, make_party, make_town, media_rows, write_csv
from tidegate.party import campaign, dataset, mail, policy, steps
from tidegate.party.aligned import read_rows
from tidegate.party.cli import party_app
from tidegate.party.job import Job
from tidegate.party.tokens import build as building
from tidegate.party.tokens import folders, held, own
from tidegate.party.tokens.build import Built
from tidegate.protocols.channel import ConfigError, DisagreementError, PolicyError
from tidegate.protocols.ids import normalise
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.psi import epoch
from tidegate.protocols.psi.token_lists import digest, is_rising, places
from tidegate.protocols.simulate import simulate
from tidegate.wire.contract import Contract, Key
from tidegate.wire.ending import PersonError

TEXT = (Key("text"),)


class Media:
    """A media with one data set of people; `build` makes its tokens for `acme` and the epoch q4."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.party = make_party(folder, "feed")
        introduce(self.party, make_party(folder, "acme"))
        self.tokens = folders.own_folder(self.party.home.tokens, "people", "acme", "q4")

    def people(self, *numbers: int | None, duplicates: str = "refuse") -> None:
        """Registers a file of these people, row by row."""
        texts = [None if number is None else f"some person {number}" for number in numbers]
        path = self.folder / "people.parquet"
        pq.write_table(pa.table({"who": texts, "visits": list(range(len(texts)))}), path, row_group_size=100)
        dataset.register(self.party.store, "people", path, {"text": "who"}, "", duplicates)

    def build(self, folder: Path | None = None, **settings: Any) -> Built:
        return building.build(
            folder or self.tokens,
            self.party.store.dataset("people"),
            settings.pop("keys", TEXT),
            **{
                "for_rows": 1000,
                "queries": None,
                "randomness": Randomness.system(),
                "say": lambda *_: None,
                "block_rows": 64,
                **settings,
            },
        )

    def opened(self) -> own.OwnEpoch:
        found = own.open_epoch(self.tokens, ("text",))
        assert found is not None
        return found

    def matches(self, *numbers: int) -> dict[int, int]:
        """Person -> row, of those of these people whose tokens are there."""
        found = self.opened()
        ids, _ = normalise("text", [f"some person {number}" for number in numbers])
        tokens = epoch.tokens_of(ids, found.key)
        rows = {}
        for number, token in zip(numbers, tokens, strict=True):
            (at,) = places(token[None], found.sets["text"].tokens).tolist()
            if at >= 0:
                rows[number] = int(found.sets["text"].rows[at])
        return rows


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Media]:
    monkeypatch.setattr(building, "MERGE_ROWS", 50)
    made = Media(tmp_path)
    yield made
    made.party.store.close()


def lists(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".tokens", ".rows", ".names")}


# Building.


def test_a_build_has_the_token_of_every_identifier_sorted_with_its_row(media: Media) -> None:
    media.people(*range(300), None, *range(301, 500))
    built = media.build()
    assert built == Built({"text": 499}, 499, 0)
    some = media.opened().sets["text"]
    assert is_rising(np.asarray(some.tokens))
    assert some.version == digest(some.tokens)
    assert media.matches(*range(600)) == {i: i for i in range(500) if i != 300}
    assert media.build() == Built({"text": 499}, 0, 500)


def test_a_csv_gives_the_same_tokens_as_parquet(media: Media) -> None:
    media.people(*range(150))
    media.build()
    tokens = np.array(media.opened().sets["text"].tokens)
    path = write_csv(media.folder / "people.csv", [{"who": f"some person {i}", "visits": i} for i in range(150)])
    dataset.register(media.party.store, "people", path, {"text": "who"}, "", "refuse")
    assert media.build().evaluated == 0
    assert np.array_equal(media.opened().sets["text"].tokens, tokens)


def test_of_repeated_identifiers_the_first_row_counts_where_that_was_said(
    media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    media.people(1, 2, *range(100, 200), 1, 2, 3, duplicates="keep-first")
    media.build()
    assert media.matches(1, 2, 3) == {1: 0, 2: 1, 3: 104}
    changed = replace(media.party.store.dataset("people"), duplicates="refuse", commitment="other")
    monkeypatch.setattr(building, "is_unchanged", lambda _: True)
    with pytest.raises(ConfigError, match="2 duplicate identifiers"):
        building.build(
            media.tokens, changed, TEXT, for_rows=9, queries=None, randomness=Randomness.system(), say=lambda *_: None
        )


@pytest.mark.parametrize("after", [1, 2, 5, 8])
def test_a_build_that_is_killed_goes_on_where_it_was(media: Media, after: int) -> None:
    media.people(*range(500))
    program = f"""
import os, signal
from pathlib import Path
from tests.test_tokens import TEXT
from tidegate.party.store import Store
from tidegate.party.tokens.build import build
from tidegate.protocols.primitives.randomness import Randomness
blocks = 0
def say(*_):
    global blocks
    blocks += 1
    if blocks == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
store = Store(Path({str(media.party.home.store_db)!r}))
build(Path({str(media.tokens)!r}), store.dataset("people"), TEXT, for_rows=1000, queries=None,
      randomness=Randomness.system(), say=say, block_rows=64)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parent.parent)
    assert ended.returncode == -signal.SIGKILL
    assert own.open_epoch(media.tokens, ("text",)) is None
    whole = media.folder / "whole"
    shutil.copytree(media.tokens, whole)
    shutil.rmtree(whole / "blocks")
    evaluated = media.build().evaluated
    assert evaluated == max(0, 500 - after * 64)
    assert media.build(whole).evaluated == 500
    assert lists(media.tokens) == lists(whole)
    assert not (media.tokens / "blocks").exists()


def test_an_end_at_any_write_leaves_the_tokens_before_or_after(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    media.people(*range(200))
    media.build()
    before = media.opened().commitment
    media.people(*range(20, 220))
    real, writes, ends = folders.File.sync, 0, 0

    def cut(self: folders.File) -> None:
        nonlocal writes
        writes += 1
        if writes > ends:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(folders.File, "sync", cut)
    while True:
        writes = 0
        try:
            media.build()
            break
        except KeyboardInterrupt:
            assert media.opened().commitment == before
            assert media.matches(0, 210) == {0: 0}
            ends += 1
    assert ends == 6
    assert media.matches(0, 210) == {210: 190}
    assert len(list(media.tokens.glob("text-1.*"))) == 0


def test_tokens_of_a_file_that_changed_are_not_made(media: Media) -> None:
    media.people(*range(100))
    data = media.party.store.dataset("people")
    data.path.write_bytes(data.path.read_bytes() + b"more")
    with pytest.raises(ConfigError, match="has changed since it was registered"):
        media.build()


def test_two_builds_at_a_time_are_refused(media: Media) -> None:
    media.people(*range(100))
    folders.make(media.tokens)
    with folders.locked(media.tokens, "build.lock"), pytest.raises(ConfigError, match="being built already"):
        media.build()


def test_other_rules_of_spelling_need_another_epoch(media: Media) -> None:
    media.people(*range(100))
    media.build()
    with pytest.raises(ConfigError, match="profile plain and form clear"):
        media.build(keys=(Key("text", "plain", "sha256"),))


def test_a_partner_too_large_for_the_tokens_needs_another_epoch(media: Media) -> None:
    media.people(*range(100))
    media.build()
    with pytest.raises(ConfigError, match="too few for"):
        media.build(for_rows=10**18)


# Differences.


def test_a_new_state_costs_its_new_people_alone_and_the_changes_are_known(media: Media) -> None:
    states = [range(300), range(10, 320), range(5, 300), range(5, 300), [*range(50, 400), 0]]
    versions, tokens = [], []
    for i, state in enumerate(states):
        media.people(*state)
        fresh = len(set(state) - set(states[i - 1])) if i else len(state)
        assert media.build(block_rows=64 + i).evaluated == fresh
        some = media.opened().sets["text"]
        versions.append(some.version)
        tokens.append({token.tobytes() for token in np.array(some.tokens)})
        for version, earlier in zip(versions, tokens, strict=True):
            if version == some.version:
                continue
            change = some.since(version)
            assert change is not None
            added, removed = ({token.tobytes() for token in part} for part in change)
            assert (added, removed) == (tokens[-1] - earlier, earlier - tokens[-1])
            assert all(is_rising(np.asarray(part)) for part in change)
    assert some.since(b"never") is None


def test_only_so_many_states_are_remembered(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "REMEMBERED", 2)
    versions = []
    for i in range(4):
        media.people(*range(i, 100 + i))
        media.build()
        versions.append(media.opened().sets["text"].version)
    some = media.opened().sets["text"]
    assert [some.since(version) is not None for version in versions[:3]] == [False, True, True]
    assert sorted(path.suffix for path in media.tokens.glob("text-2.*")) == []


# Keys and budgets.


def test_two_partners_or_epochs_share_no_key_token_or_pseudonym(media: Media) -> None:
    media.people(*range(200))
    seen: list[dict[str, Any]] = []
    for partner, name in (("acme", "q4"), ("other", "q4"), ("acme", "q5")):
        folder = folders.own_folder(media.party.home.tokens, "people", partner, name)
        media.build(folder)
        found = own.open_epoch(folder, ("text",))
        assert found is not None
        names = folders.mapped(folder / "text-1.heads", 8)
        seen.append(
            {
                "key": {found.key.scalar.to_bytes()},
                "name": {found.key.name},
                "tokens": {token.tobytes() for token in np.array(found.sets["text"].tokens)},
                "pseudonyms": {head.tobytes() for head in np.array(names)},
            }
        )
    for what, size in (("key", 1), ("name", 1), ("tokens", 200), ("pseudonyms", 200)):
        assert len(set.union(*(each[what] for each in seen))) == 3 * size


def test_files_are_for_their_owner_and_hold_no_identifier(media: Media) -> None:
    media.people(*range(200))
    needles = Needles()
    for i in range(200):
        needles.add_text(f"some person {i}")
    with pytest.raises(KeyboardInterrupt):
        media.build(say=interrupt)
    assert needles.in_files(media.folder / "people.parquet")
    assert list((media.tokens / "blocks").iterdir())
    for _ in range(2):
        assert not needles.in_files(media.party.home.tokens)
        for path in media.party.home.tokens.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        media.build()


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_budget_counts_over_runs_and_refuses_before_it_is_passed(media: Media) -> None:
    media.people(*range(100))
    media.build(queries=100)
    media.opened().charge(60)
    with pytest.raises(PolicyError, match="asked for 60 identifiers in this epoch and asks for 41 more"):
        media.opened().charge(41)
    media.opened().charge(40)
    assert own.spent(media.tokens) == 100
    media.build(queries=101)
    media.opened().charge(1)
    media.people(*range(101))
    media.build()
    with pytest.raises(PolicyError):
        media.opened().charge(1)


def test_no_budget_is_larger_than_one_key_bears(media: Media) -> None:
    media.people(*range(100))
    with pytest.raises(PolicyError, match="more than one key bears"):
        media.build(queries=2**30 + 1)


def test_destroying_takes_the_key_and_all_files(media: Media) -> None:
    media.people(*range(100))
    media.build()
    with folders.locked(media.tokens, shared=True), pytest.raises(ConfigError, match="just now"):
        folders.destroy(media.tokens)
    # A hard link sees what happens to the bytes of the key.
    os.link(media.tokens / "key", media.folder / "same")
    folders.destroy(media.tokens)
    assert (media.folder / "same").read_bytes() == bytes(64)
    assert folders.kept(media.party.home.tokens) == []
    first = media.build()
    assert first.evaluated == 100


# What a brand keeps.


def test_what_is_held_comes_back_and_what_is_not_named_goes(tmp_path: Path) -> None:
    folder = folders.held_folder(tmp_path, "feed", "people", "q4")
    memory = held.load(folder, ("text",), Randomness(b"1" * 32))
    ids, _ = normalise("text", [f"some person {i}" for i in range(50)])
    one = memory["text"]
    one.begin(b"an epoch's name.", 12)
    tokens = np.arange(600, dtype=np.uint8).reshape(50, 12)
    one.add(ids, tokens)
    sink = held.FileSink(folder, 12)
    sink.append(tokens[:3])
    one.tokens, one.version, one.part = sink.whole(), b"v" * 32, np.ones(1, np.bool_)
    held.save(folder, memory)
    held.FileSink(folder, 12).append(tokens)  # a run that was killed in the middle of a list
    again = held.load(folder, ("text",), Randomness(b"2" * 32))["text"]
    assert (again.key, again.version, again.secret) == (one.key, one.version, one.secret)
    assert np.array_equal(again.tokens, tokens[:3])
    known, found = again.find(ids)
    assert known.all()
    assert np.array_equal(found, tokens)
    assert len([path for path in folder.iterdir() if path.name.startswith("tokens-")]) == 1
    held.save(folder, {"text": again})
    assert np.array_equal(held.load(folder, ("text",), Randomness(b"2" * 32))["text"].tokens, tokens[:3])
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_damaged_folder_is_a_sentence(media: Media) -> None:
    media.people(*range(100))
    media.build()
    (media.tokens / "text-1.tokens").write_bytes(b"x" * 13)
    with pytest.raises(ConfigError, match="cut short"):
        media.opened()
    (media.tokens / "epoch.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        media.opened()


# The commands.


def test_commands_build_list_and_delete(media: Media) -> None:
    media.people(*range(120))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(
            party_app, ["--home", str(media.party.home.path), "tokens", *arguments], env={"COLUMNS": "200"}
        )

    assert "No tokens are here" in run("list").output
    stranger = run("build", "people", "--partner", "nobody", "--epoch", "q4")
    assert isinstance(stranger.exception, ConfigError)
    built = run("build", "people", "--partner", "acme", "--epoch", "q4", "--for-rows", "500")
    assert built.exit_code == 0, built.output
    assert "120 by text" in built.output
    listed = run("list").output
    assert "0 of 1,000" in listed
    assert "built" in listed
    media.people(*range(121))
    assert "an earlier state" in run("list").output
    assert run("delete", "people", "--partner", "acme").exit_code == 0
    assert isinstance(run("delete", "people", "--partner", "acme").exception, ConfigError)
    events = [entry.event for entry in media.party.store.audit_trail()]
    assert events[-3:] == ["tokens built", "data set registered", "tokens destroyed"]


# Campaign files.

IN_A_FILE = """\
[campaign]
name = "lookalike"
[parties]
brand = "acme"
media = "feed"
[data]
brand = "customers"
media = "people"
[match]
keys = ["email"]
mode = "epoch"
epoch = "q4"
[steps.match]
"""


def test_a_campaign_file_may_ask_for_shards_by_prefix_in_epoch_mode_alone(tmp_path: Path) -> None:
    there = make_town(tmp_path)

    def checked(text: str) -> campaign.Checked:
        return campaign.check(there.campaign_file(text), there.acme.home, there.acme.store, 1_800_000_000)

    for text, bits in ((IN_A_FILE, 0), (IN_A_FILE + "prefix_bits = 1\n", 1)):
        contract = checked(text).contract
        assert contract is not None
        (step,) = contract.steps
        assert (step.protocol, step.settings, contract.epoch) == ("match.oprf-epoch@1", {"prefix_bits": bits}, "q4")
        policy.check_contract(there.acme.home, there.acme.store, contract, 1_800_000_000)
        wild = replace(contract, steps=(replace(step, settings={"prefix_bits": 21}),))
        with pytest.raises(DisagreementError, match="prefix_bits is not a whole number"):
            policy.check_contract(there.acme.home, there.acme.store, wild, 1_800_000_000)
    # The media's 2,000 rows are 500 under each of 4 prefixes.
    (few,) = checked(IN_A_FILE + "prefix_bits = 2\n").mistakes
    assert "1000 of feed's 2000 rows" in str(few)
    (unknown,) = checked(IN_A_FILE.replace('mode = "epoch"\nepoch = "q4"\n', "") + "prefix_bits = 0\n").mistakes
    assert "prefix_bits" in str(unknown)
    there.close()


# The step, between two parties in one process.


def job(party: Party, made: Contract, spent: list[str]) -> Job:
    me = made.party(party.identity.name)
    registered = party.store.dataset(me.data.name)
    staging = party.home.path / "staging" / "run"
    staging.mkdir(exist_ok=True)
    return Job(
        contract=made,
        step=made.steps[0],
        party=me.name,
        path=registered.path,
        keys=registered.keys,
        given=registered.given,
        region=None,
        duplicates=registered.duplicates,
        earlier={},
        staging=staging,
        randomness=Randomness.system(),
        count_noise=lambda n: np.zeros(n, np.int64),
        charge=lambda kind, amount, limit: spent.append(f"{me.name} {kind} {amount} of {limit}"),
        tokens=party.home.tokens,
    )


def test_the_media_takes_part_with_tokens_of_the_contracts_data_spelling_and_epoch_alone(tmp_path: Path) -> None:
    there = make_town(tmp_path)

    def contract(text: str = IN_A_FILE) -> Contract:
        made = campaign.check(there.campaign_file(text), there.acme.home, there.acme.store, 1_800_000_000).contract
        assert made is not None
        return made

    def build(profile: str = "plain") -> None:
        building.build(
            folders.own_folder(there.feed.home.tokens, "people", "acme", "q4"),
            there.feed.store.dataset("people"),
            (Key("email", profile),),
            for_rows=1500,
            queries=None,
            randomness=Randomness.system(),
            say=lambda *_: None,
        )

    spent: list[str] = []

    def play(made: Contract) -> tuple[dict[str, Any], dict[str, Any]]:
        spent.clear()
        return simulate(
            lambda channel: steps.play(job(there.acme, made, spent), channel),
            lambda channel: steps.play(job(there.feed, made, spent), channel),
        )

    with pytest.raises(PersonError, match="no email tokens of data set people are built for acme and epoch q4") as told:
        play(contract())
    assert "tidegate party tokens build people --partner acme --epoch q4" in told.value.hint
    assert spent == []
    build()
    brand, media = play(contract())
    assert brand["size"] == media["size"] == 1000
    assert sorted(spent) == ["acme match 1 of 12", "feed match 1 of 12"]
    rows = [read_rows(party.home.path / "staging" / "run") for party in (there.acme, there.feed)]
    assert (rows[0] - rows[1] == 500).all()
    with pytest.raises(DisagreementError, match="built as plain and clear, the contract says google and clear"):
        play(contract(IN_A_FILE.replace('mode = "epoch"', 'mode = "epoch"\nprofile = "google"')))
    with pytest.raises(PersonError, match="epoch q5"):
        play(contract(IN_A_FILE.replace("q4", "q5")))
    path = write_csv(tmp_path / "media.csv", media_rows(2100))
    dataset.register(there.feed.store, "people", path, {"email": "email"}, "", "refuse")
    there.office.online(
        there.feed.home, lambda relay: mail.offer(there.feed.home, there.feed.store, relay, "people", "acme")
    )
    there.collect(there.acme)
    with pytest.raises(PersonError, match="of another state of data set people"):
        play(contract())
    build()
    brand, _ = play(contract())
    assert (brand["asked_by_key"], brand["added_by_key"]) == ({"email": 0}, {"email": 100})
    there.close()


# Whole campaigns.

MATCH = 'keys = ["phone", "email"]\nmode = "epoch"\nepoch = "q4"'


def propose(there: Town, name: str, tables: Tables) -> None:
    there.register(tables)
    there.stage.campaign(SHOP, "propose", str(there.file(campaign_text(name, ("match",), match=MATCH))), "--yes")
    there.stage.party(PAPER, "approve", name, "--yes")


def build(there: Town, *more: str) -> str:
    home = str(there.home(PAPER).path)
    made = command("party", "--home", home, "tokens", "build", "readers", "--partner", SHOP, "--epoch", "q4", *more)
    assert made.returncode == 0, made.stderr
    return made.stdout


def pairs_of(there: Town, name: str) -> list[list[int]]:
    rows = [read_rows(there.results(party, name) / "match") for party in NAMES]
    return sorted(np.stack(rows, 1).tolist())


def with_fewer_rows(tables: Tables, folder: Path, shop: int, paper: int) -> Tables:
    """The same tables without the last rows: who was there stays in its row."""
    folder.mkdir()
    for path, rows in ((tables.shop, shop), (tables.paper, paper)):
        (folder / path.name).write_text("\n".join(path.read_text().splitlines()[: rows + 1]) + "\n")
    kept = (tables.joined[:, 0] < shop) & (tables.joined[:, 1] < paper)
    return Tables(folder / "shop.csv", folder / "paper.csv", tables.joined[kept])


def test_two_campaigns_of_an_epoch_match_right_and_the_second_costs_only_the_difference(tmp_path: Path) -> None:
    whole = write_tables(tmp_path / "whole")
    first = with_fewer_rows(whole, tmp_path / "smaller", 1380, 2350)
    with town(tmp_path) as there:
        propose(there, "autumn", first)
        there.up()
        until("the media is told what to do", lambda: "tokens build readers" in there.state_line(PAPER, "autumn"))
        assert "tokens build" not in there.state_line(SHOP, "autumn")
        build(there)
        there.kill(PAPER)
        there.up()
        there.until_over("autumn")
        assert pairs_of(there, "autumn") == sorted(first.joined.tolist())
        propose(there, "winter", whole)
        assert "of an earlier state" in command("party", "--home", str(there.home(PAPER).path), "tokens", "list").stdout
        # A run that began with the new tokens would be killed below, and the next one have less to ask.
        until("the media is told again", lambda: "tokens build readers" in there.state_line(PAPER, "winter"))
        assert "readers for shop" in build(there)
        there.kill(PAPER)
        there.up()
        there.until_over("winter")
        assert pairs_of(there, "winter") == sorted(whole.joined.tolist())
        autumn, winter = (there.facts(SHOP, name, "match") for name in ("autumn", "winter"))
        assert 0 < sum(winter["asked_by_key"].values()) <= 40 < sum(autumn["asked_by_key"].values())
        assert 0 < sum(winter["added_by_key"].values()) <= 100 < sum(autumn["added_by_key"].values())
        assert winter["sent"] + winter["received"] < (autumn["sent"] + autumn["received"]) / 5
        needles = Needles()
        for line in (whole.shop.read_text() + whole.paper.read_text()).lower().splitlines():
            for field in line.split(","):
                if "@" in field:
                    needles.add_text(field.strip())
        assert not needles.in_files(*(there.home(party).tokens for party in NAMES))


def test_a_budget_that_is_spent_ends_the_campaign_with_a_sentence(tmp_path: Path) -> None:
    tables = write_tables(tmp_path / "tables")
    with town(tmp_path) as there:
        propose(there, "autumn", tables)
        build(there, "--queries", "100")
        there.up()
        there.until_over("autumn", "failed")
        assert "the budget of its key is 100" in there.state_line(PAPER, "autumn")
