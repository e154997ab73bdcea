"""What bad input gets: one sentence, a hint, an exit status, and nothing half-written, with the real processes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.coordinator_fixture import invite
from tests.real_parties import NAMES, PAPER, SHOP, Tables, Town, campaign_text, is_alive, town, until, write_tables
from tidegate import __main__
from tidegate.coordinator.config import Home as CoordinatorHome
from tidegate.party.node import here
from tidegate.wire.contract import signed_bytes
from tidegate.wire.line import dial_async
from tidegate.wire.relay_pb2 import Frame, FromNode
from tidegate.wire.relay_pb2_grpc import RelayStub


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("town")) as made:
        yield made


class Terminal:
    """`tidegate ...` as somebody types it at a party, in this process."""

    def __init__(self, there: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.there, self._capsys, self._monkeypatch = there, capsys, monkeypatch

    def home(self, party: str) -> Path:
        return self.there.home(party).path if party in NAMES else self.there.stage.folder / party

    def type(self, party: str, group: str, *arguments: str) -> tuple[int, str]:
        """The exit status and what was said on stderr."""
        self._monkeypatch.setattr("sys.argv", ["tidegate", group, "--home", str(self.home(party)), *arguments])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            __main__.main()
        return int(ended.value.code or 0), self._capsys.readouterr().err

    def refused(self, party: str, group: str, *arguments: str) -> str:
        """Checks that a command ends with status 1, one sentence and one hint; gives what it said on stderr."""
        status, said = self.type(party, group, *arguments)
        assert status == 1, said
        assert is_sentence_and_hint(said), said
        return said


def is_sentence_and_hint(said: str) -> bool:
    labels = [line.split(":")[0] for line in said.splitlines() if line.startswith(("error:", "hint:", "Traceback"))]
    return labels == ["error", "hint"]


@pytest.fixture
def terminal(there: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(there, capsys, monkeypatch)


# Files and campaign files

HEADER = "tel,contact,age\n"
BAD_FILES = {
    "": "is empty",
    HEADER: "no rows",
    HEADER + "(201) 555-0100,a@example.com,30\n(201) 555-0100,b@example.com,31\n": "1 identifiers that an earlier row",
    "phone,contact\n(201) 555-0100,a@example.com\n": "no column 'tel'",
    HEADER + "nobody,a@example.com,30\n": "is a valid phone",
    HEADER + "(201) 555-0100,a@example.com\n": "has 2 fields",
}


@pytest.mark.parametrize("content", BAD_FILES)
def test_a_bad_file_is_not_registered(terminal: Terminal, tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.csv").write_text(content)
    before = terminal.there.stores[SHOP].datasets()
    keys = ("--key", "phone=tel", "--key", "email=contact", "--region", "US")
    said = terminal.refused(SHOP, "party", "data", "add", "buyers", str(tmp_path / "bad.csv"), *keys)
    assert BAD_FILES[content] in said
    assert terminal.there.stores[SHOP].datasets() == before


BAD_CAMPAIGNS = {
    "unknown label": ({"label": 'column = "bougth"\npositive = "yes"'}, 'did you mean "bought"'),
    "unknown feature": ({"features": 'brand = ["age", "income"]'}, "income"),
    "feature that was not offered": ({"features": 'media = ["visits", "income"]'}, "income"),
    "constant feature of the brand": ({"features": 'brand = ["age", "currency"]'}, "currency"),
    "constant feature of the media": ({"features": 'media = ["visits", "country"]'}, "country"),
    "label with three values": ({"label": 'column = "plan"\npositive = "pro"'}, "plan"),
    "label without such a value": ({"label": 'column = "bought"\npositive = "1"'}, '"1"'),
    "stranger": ({"parties": 'brand = "shop"\nmedia = "radio"'}, "radio"),
}


@pytest.mark.parametrize("mistake", BAD_CAMPAIGNS)
def test_a_bad_campaign_file_is_explained_and_proposes_nothing(terminal: Terminal, mistake: str) -> None:
    there = terminal.there
    tables, words = BAD_CAMPAIGNS[mistake]
    file = there.file(campaign_text("mistaken", **tables))
    for command in ("check", "propose"):
        said = terminal.refused(SHOP, "campaign", command, str(file))
        assert words in said
        assert re.search(r"^campaign\.toml:\d+: .*: expected .*, found ", said, re.MULTILINE), said
    assert "mistaken" not in [campaign.name for campaign in there.stores[SHOP].campaigns()]


# Consent


def test_without_trusted_cards_nobody_proposes_or_approves(terminal: Terminal) -> None:
    there = terminal.there
    card = {party: str(there.stage.folder / f"{party}.card") for party in NAMES}
    there.stage.party(SHOP, "distrust", PAPER)
    file = there.file(campaign_text("strangers", ("match",)))
    assert "trust its card first" in terminal.refused(SHOP, "campaign", "propose", str(file), "--yes")
    there.stage.party(SHOP, "trust", card[PAPER], "--yes")
    there.stage.party(PAPER, "data", "offer", "readers", "--to", SHOP)
    there.stage.party(PAPER, "distrust", SHOP)
    there.stage.campaign(SHOP, "propose", str(file), "--yes")
    said = terminal.refused(PAPER, "party", "approve", "strangers", "--yes")
    assert "a letter from shop waits: trust its card first" in said
    there.stage.party(PAPER, "trust", card[SHOP], "--yes")
    there.stage.campaign(SHOP, "cancel", "strangers")
    there.stage.party(PAPER, "data", "offer", "readers", "--to", SHOP)


def test_a_refusal_ends_the_campaign_at_the_brand_with_its_reason(terminal: Terminal, tmp_path: Path) -> None:
    there = terminal.there
    there.propose("unwanted", write_tables(tmp_path, seed=40), ("match",), approve=False)
    there.stage.party(PAPER, "refuse", "unwanted", "--reason", "not before Easter")
    for command in ("watch", "status"):
        assert "refused by paper: not before Easter" in terminal.refused(SHOP, "campaign", command, "unwanted")
    assert "is over" in terminal.refused(PAPER, "party", "approve", "unwanted", "--yes")


def test_invites_that_are_wrong_used_or_expired_let_nobody_in(terminal: Terminal) -> None:
    home = CoordinatorHome(terminal.there.stage.folder / "coordinator")
    assert terminal.type("radio", "party", "init", "radio")[0] == 0
    good = invite(home, "radio")
    for made, words in (
        ("hello", "not"),
        (good.to_text()[:-9], "damaged"),
        (invite(home, "cinema").to_text(), "for a party called cinema"),
        (replace(good, secret=bytes(32)).to_text(), "refuses"),
        (invite(home, "radio", now_s=int(time.time()) - 7200).to_text(), "expired"),
    ):
        assert words in terminal.refused("radio", "party", "join", made)
        assert "has not joined" in terminal.refused("radio", "party", "up")
    good = invite(home, "radio")
    assert terminal.type("radio", "party", "join", good.to_text())[0] == 0
    assert "refuses" in terminal.refused("radio", "party", "join", good.to_text())


def test_a_contract_that_expired_or_is_of_another_version_is_not_signed(terminal: Terminal, tmp_path: Path) -> None:
    there = terminal.there
    there.propose("template", write_tables(tmp_path, seed=41), ("match",), approve=False)
    there.stage.campaign(SHOP, "cancel", "template")
    contract, day_s = there.campaign(SHOP, "template").contract, 86400
    old = replace(contract, created_s=contract.created_s - 9 * day_s, expires_s=contract.expires_s - 9 * day_s)
    for name, changed, words in (
        ("old", old, "the contract has expired"),
        ("newer", replace(contract, software="9.9.9"), "was made with tidegate 9.9.9"),
    ):
        made = replace(changed, campaign=name)
        there.stores[PAPER].put_campaign(made, SHOP)
        there.stores[PAPER].add_signature(
            made.hash, SHOP, there.home(SHOP).load_identity().sign(signed_bytes(made.hash))
        )
        assert words in terminal.refused(PAPER, "party", "approve", name, "--yes")
        assert PAPER not in there.stores[PAPER].signatures(made.hash)


def test_a_contract_that_was_changed_in_the_store_is_neither_signed_nor_run(terminal: Terminal, tmp_path: Path) -> None:
    there = terminal.there
    there.propose("tampered", write_tables(tmp_path, seed=42), ("match",), approve=False)
    there.stage.party(PAPER, "campaigns")
    original = there.campaign(PAPER, "tampered").contract_bytes
    change_contract(there, original, original.replace(b'"floor":100', b'"floor":50'))
    assert "is not the one that was signed" in terminal.refused(PAPER, "party", "approve", "tampered", "--yes")
    change_contract(there, original.replace(b'"floor":100', b'"floor":50'), original)
    there.stage.party(PAPER, "approve", "tampered", "--yes")
    change_contract(there, original, original.replace(b'"floor":100', b'"floor":50'))
    there.up()
    until("the campaign ends", lambda: there.campaign(SHOP, "tampered").state == "failed")
    assert "failed at paper: the parties disagree" in terminal.refused(SHOP, "campaign", "watch", "tampered")
    assert "is not the one that was signed" in there.said(PAPER)
    assert not there.leftovers()


def change_contract(there: Town, before: bytes, after: bytes) -> None:
    with sqlite3.connect(there.home(PAPER).store_db) as db:
        db.execute("UPDATE campaigns SET contract = ? WHERE contract = ?", (after, before))
    db.close()


# Runs


def test_no_overlap_and_too_small_a_one_end_alike_at_both_parties(terminal: Terminal, tmp_path: Path) -> None:
    there = terminal.there
    drawn = (write_tables(tmp_path / "few", common=103, seed=seed) for seed in range(49, 200))
    few = next(tables for tables in drawn if len(tables.joined) == 99)
    none = write_tables(tmp_path / "none", common=0, seed=44)
    there.up()
    for name, tables in (("ninety-nine", few), ("zero", none)):
        there.propose(name, tables, ("match", "train"))
        there.until_over(name, "failed")
    for party in NAMES:
        seen = [outcome(there, terminal, party, name) for name in ("ninety-nine", "zero")]
        assert seen[0] == seen[1]
        assert "fewer than 100 people" in seen[0]["said"]
        assert not there.results(party, "ninety-nine").exists()
    assert not there.leftovers()


def outcome(there: Town, terminal: Terminal, party: str, name: str) -> dict[str, str]:
    """What a party's people can see of how a campaign ended, without its own name and number."""
    found = there.campaign(party, name)
    said = terminal.refused(party, "campaign", "watch", name) + terminal.refused(party, "party", "results", name)
    lines = [there.state_line(party, name), *there.events(party, name), said]
    clean = [line.replace(name, "NAME").replace(found.short, "NUMBER") for line in lines]
    # Progress tells megabytes, which depend on how many rows come in, not on how many match.
    return {"said": clean[-1], "events": "\n".join(line for line in clean[1:-1] if " MB" not in line), "line": clean[0]}


def test_too_few_good_customers_end_the_campaign_at_both(terminal: Terminal, tmp_path: Path) -> None:
    there = terminal.there
    tables = write_tables(tmp_path, seed=45)
    rows = tables.shop.read_text().splitlines(keepends=True)
    for row in tables.joined[60:, 0] + 1:
        rows[row] = rows[row].replace(",yes,", ",no,")
    tables.shop.write_text("".join(rows))
    there.propose("coarse", tables, ("match", "train"))
    there.up()
    there.until_over("coarse", "failed")
    for party in NAMES:
        assert "fewer than 100 matched good customers" in terminal.refused(party, "campaign", "status", "coarse")
        assert not (there.results(party, "coarse") / "train").exists()
    assert not there.leftovers()


def test_a_file_that_changed_stops_the_step_until_it_is_back(terminal: Terminal, tmp_path: Path) -> None:
    there = terminal.there
    tables = write_tables(tmp_path, seed=46)
    there.propose("edited", tables, ("match",))
    original = tables.paper.read_bytes()
    tables.paper.write_bytes(original + original.splitlines(keepends=True)[-1])
    there.up()
    until("paper waits", lambda: "is no longer the one" in there.campaign(PAPER, "edited").reason)
    until("shop waits", lambda: "somebody at paper" in there.campaign(SHOP, "edited").reason)
    assert {there.campaign(party, "edited").state for party in NAMES} == {"waiting"}
    assert not there.leftovers()
    tables.paper.write_bytes(original)
    there.kill(PAPER, signal.SIGTERM)
    there.up()
    there.until_over("edited")


def test_a_cancelled_campaign_stops_in_the_middle_of_a_step(terminal: Terminal, tmp_path: Path) -> None:
    there = terminal.there
    there.propose("regretted", write_tables(tmp_path, seed=47), ("match", "train"))
    there.up()
    until("both train", lambda: all(there.has_event(party, "regretted", "training blindly") for party in NAMES))
    workers = [there.pid_of_worker(party) for party in NAMES]
    there.stage.party(PAPER, "campaigns")
    there.stage.campaign(PAPER, "cancel", "regretted", "--reason", "the wrong data")
    there.until_over("regretted", "cancelled")
    until("the workers are gone", lambda: not [pid for pid in workers if is_alive(pid)])
    until("nothing staged is left", lambda: not there.leftovers())
    assert "cancelled by paper: the wrong data" in terminal.refused(SHOP, "campaign", "watch", "regretted")


def test_a_node_of_another_version_says_so_and_ends(there: Town) -> None:
    there.up()
    program = "import tidegate; tidegate.__version__ = '9.9.9'\nfrom tidegate.__main__ import main\nmain()"
    there.up_doctored(PAPER, program)
    assert there.stage.processes[PAPER].wait(120) == 1
    said = there.said(PAPER)
    assert "the node 9.9.9" in said
    assert is_sentence_and_hint(said), said
    there.up()


# A full disk

# A file may have so many bytes: enough for the log that this test reads, too few for any page of the store.
SMALL = 4096


def test_a_node_whose_disk_is_full_ends_with_a_sentence_and_goes_on_later(there: Town, tmp_path: Path) -> None:
    tables = write_tables(tmp_path, seed=48)
    there.up()
    until("paper is here", lambda: "paper is here" in there.said(PAPER))
    resource.prlimit(there.pid(PAPER), resource.RLIMIT_FSIZE, (SMALL, resource.RLIM_INFINITY))
    there.propose("full", tables, ("match",))
    assert there.stage.processes[PAPER].wait(120) == 1
    said = there.said(PAPER)
    assert "the disk takes no more" in said
    assert is_sentence_and_hint(said), said
    assert not there.leftovers()
    there.up()
    there.until_over("full")
    assert there.facts(PAPER, "full", "match")["size"] == len(tables.joined)


def test_a_worker_whose_disk_is_full_lets_the_campaign_wait_for_a_person(there: Town, tmp_path: Path) -> None:
    tables = write_tables(tmp_path, seed=49)
    there.up()
    there.propose("crammed", tables, ("match",))
    until("a worker starts", lambda: there.worker(SHOP))
    resource.prlimit(there.pid_of_worker(SHOP), resource.RLIMIT_FSIZE, (SMALL, resource.RLIM_INFINITY))
    until("shop waits", lambda: "the disk" in there.campaign(SHOP, "crammed").reason)
    until("paper waits", lambda: "somebody at shop" in there.campaign(PAPER, "crammed").reason)
    until("nothing staged is left", lambda: not there.leftovers())
    there.kill(SHOP, signal.SIGTERM)
    there.up()
    there.until_over("crammed")
    assert there.facts(SHOP, "crammed", "match")["size"] == len(tables.joined)


# A peer that hangs


IMPATIENT = """\
#!/bin/sh
exec {python} -c 'import sys
from tidegate.party import worker
worker.open_session.__kwdefaults__["idle_s"] = 2.0
sys.exit(worker.main())'
"""


def test_a_peer_that_takes_the_line_and_says_nothing_ends_the_run(there: Town, tmp_path: Path) -> None:
    """The idle limit is ten minutes; here it is two seconds."""
    python = tmp_path / "python"
    python.write_text(IMPATIENT.format(python=sys.executable))
    python.chmod(0o700)
    there.up()
    there.up_doctored(SHOP, f"import sys; sys.executable = {str(python)!r}; from tidegate.__main__ import main; main()")
    there.propose("silent", write_tables(tmp_path, seed=50), ("match",))
    there.kill(PAPER, signal.SIGTERM)
    asyncio.run(take_the_line(there, lambda: there.has_event(SHOP, "silent", "nothing moved on the line to paper")))
    there.stage.campaign(SHOP, "cancel", "silent")
    until("nothing staged is left", lambda: not there.leftovers())


async def take_the_line(there: Town, done: Callable[[], bool]) -> None:
    """Attends as paper and opens a worker's line in each run, on which nothing is said, until it is done."""
    held = here(there.stores[PAPER])

    async def said() -> AsyncIterator[FromNode]:
        yield FromNode(here=held)
        await asyncio.sleep(150)

    async def nothing(run: bytes) -> AsyncIterator[Frame]:
        yield Frame(run=run, peer=SHOP)
        await asyncio.sleep(150)

    async with asyncio.timeout(120), dial_async(there.home(PAPER).coordinator()) as channel:
        relay, calls = RelayStub(channel), []
        attending = relay.Attend(said())
        async for message in attending:
            if message.WhichOneof("kind") == "start":
                calls.append(relay.Forward(nothing(message.start.run)))
            if done():
                break
        for call in (attending, *calls):
            call.cancel()


# The demo


DEMO_KEYS = """
[demo.brand]
phone = "tel"
email = "contact"

[demo.media]
phone = "mobile"
email = "e_mail"
"""


def demo_command(folder: Path, tables: Tables) -> list[str]:
    """`tidegate demo` on a folder of its own, which leaves everything under folder / "out"."""
    tables.shop.rename(folder / "brand.csv")
    tables.paper.rename(folder / "media.csv")
    (folder / "campaign.toml").write_text(campaign_text("shown", ("match", "train")) + DEMO_KEYS)
    return [sys.executable, "-m", "tidegate", "demo", "--data", str(folder), "--out", str(folder / "out")]


def still_running(folder: Path) -> list[str]:
    """Processes whose command line names the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if f"{folder}/" in words:
                found.append(words)
    return found


def test_a_demo_that_cannot_end_well_says_why_and_leaves_nothing_running(tmp_path: Path) -> None:
    command = demo_command(tmp_path, write_tables(tmp_path, seed=51, common=20))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 1
    assert "fewer than 100 people matched" in ended.stderr
    assert is_sentence_and_hint(ended.stderr), ended.stderr
    assert not still_running(tmp_path)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_nothing_running(tmp_path: Path, how: signal.Signals) -> None:
    command = demo_command(tmp_path, write_tables(tmp_path, seed=52))
    demo = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    staging = tmp_path / "out" / "media" / "staging"
    until("a step runs", lambda: staging.is_dir() and list(staging.iterdir()))
    demo.send_signal(how)
    _, said = demo.communicate(timeout=120)
    assert demo.returncode == 128 + how
    assert how == signal.SIGTERM or is_sentence_and_hint(said), said
    assert not still_running(tmp_path)
