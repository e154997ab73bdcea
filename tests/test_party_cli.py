"""The commands as a person types them: what they print, what they refuse, what they leave behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.coordinator_fixture import invite, prepare, process
from tests.two_parties import (
    CAMPAIGN,
    Party,
    Town,
    brand_rows,
    introduce,
    make_party,
    make_town,
    media_rows,
    write_csv,
)
from tidegate.party import dataset, mail
from tidegate.party.cli import campaign_app, party_app
from tidegate.party.config import Home
from tidegate.party.store import Store
from tidegate.protocols.channel import CarrierError, ConfigError, PolicyError, TidegateError
from tidegate.wire.ending import PersonError
from tidegate.wire.identity import Identity
from tidegate.wire.letter import seal_letter
from tidegate.wire.relay_pb2 import CampaignState, PostRequest


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    made = make_town(tmp_path)
    monkeypatch.setattr(mail, "online", made.office.online)
    yield made
    made.close()


def run(who: Party | Home, *arguments: str, answer: str = "") -> Result:
    home = who if isinstance(who, Home) else who.home
    app = campaign_app if arguments[0] in ("check", "propose", "status", "watch", "cancel") else party_app
    return CliRunner().invoke(app, ["--home", str(home.path), *arguments], input=answer)


def told(who: Party | Home, *arguments: str, answer: str = "") -> str:
    result = run(who, *arguments, answer=answer)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refused(who: Party | Home, *arguments: str, answer: str = "") -> TidegateError:
    result = run(who, *arguments, answer=answer)
    assert isinstance(result.exception, TidegateError), result.output
    assert result.exception.hint
    return result.exception


def propose(town: Town, text: str = CAMPAIGN) -> str:
    printed = told(town.acme, "propose", str(town.campaign_file(text)), "--yes")
    match = re.search(r"Proposed lookalike \(([0-9a-f]{12})\): waits for the approval of feed", printed)
    assert match, printed
    return match[1]


def test_a_party_is_made_once_and_its_keys_are_private(tmp_path: Path) -> None:
    home = Home(tmp_path / "acme")
    printed = told(home, "init", "acme")
    assert re.search(r"Fingerprint: ([A-Z2-7]{4} ){6}[A-Z2-7]{4}", printed)
    for path in (home.identity_key, home.store_db, home.party_toml):
        assert path.stat().st_mode & 0o077 == 0
    assert "already holds the party acme" in refused(home, "init", "acme").text
    assert home.load_identity().name == "acme"


@pytest.mark.parametrize("name", ["Acme", "../x", "", "a b", "coordinator", "invite", "x" * 64])
def test_a_name_that_cannot_be_a_partys_makes_nothing(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path / "acme")
    refused(home, "init", name)
    assert not home.path.exists()


def test_every_command_says_where_there_is_no_party(tmp_path: Path) -> None:
    for arguments in (["partners"], ["campaigns"], ["show", "x"], ["data", "list"], ["up"], ["status", "x"], ["audit"]):
        assert "there is no party at" in refused(Home(tmp_path / "none"), *arguments).text


def test_the_home_comes_from_the_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "acme"))
    assert CliRunner().invoke(party_app, ["init", "acme"]).exit_code == 0
    assert "BEGIN TIDEGATE CARD" in CliRunner().invoke(party_app, ["card"]).output


def test_cards_are_trusted_after_the_fingerprint_was_compared(tmp_path: Path) -> None:
    acme, feed = make_party(tmp_path, "acme"), make_party(tmp_path, "feed")
    card = tmp_path / "feed.card"
    told(feed, "card", "--out", str(card))
    fingerprint = feed.identity.card.fingerprint
    assert "not the one that feed told you" in refused(acme, "trust", str(card), "--fingerprint", "AAAA BBBB").text
    assert run(acme, "trust", str(card), answer="n\n").exit_code == 1
    assert acme.store.partner("feed") is None
    assert "feed is trusted now" in told(acme, "trust", str(card), "--fingerprint", fingerprint.lower())
    assert fingerprint in told(acme, "partners")
    assert "name of this party itself" in refused(feed, "trust", str(card), "--yes").text
    assert "no readable card" in refused(acme, "trust", str(tmp_path / "none"), "--yes").text
    told(acme, "distrust", "feed")
    assert "No card is trusted yet" in told(acme, "partners")
    assert "cannot be asked about" in refused(acme, "trust", "-", answer=card.read_text()).text
    assert "feed is trusted now" in told(acme, "trust", "-", "--fingerprint", fingerprint, answer=card.read_text())
    for party in (acme, feed):
        party.store.close()


def test_a_card_with_another_key_under_a_known_name_is_refused(tmp_path: Path) -> None:
    acme, feed = make_party(tmp_path, "acme"), make_party(tmp_path, "feed")
    introduce(acme, feed)
    impostor = Identity.generate("feed").card.to_text()
    assert "another identity key" in refused(acme, "trust", "-", "--yes", answer=impostor).text
    for party in (acme, feed):
        party.store.close()


@pytest.mark.parametrize(
    "text", ["hello", "tidegate-invite-2.AAAA", "tidegate-invite-2." + "A" * 4000, "tidegate-invite-1.x"]
)
def test_a_wrong_invite_is_a_sentence(tmp_path: Path, text: str) -> None:
    party = make_party(tmp_path, "acme")
    assert "invite" in refused(party, "join", text).text
    party.store.close()


def test_a_data_set_is_checked_before_it_is_registered(tmp_path: Path) -> None:
    party = make_party(tmp_path, "feed")
    rows = media_rows(300)
    path = write_csv(tmp_path / "media.csv", rows)
    twice = write_csv(tmp_path / "twice.csv", [*rows, rows[0] | {"email": " P500@Example.com"}])
    (tmp_path / "empty.csv").write_text("")
    mistakes: list[tuple[list[str], str]] = [
        (["people", str(tmp_path / "none.csv"), "--key", "email=email"], "there is no file"),
        (["people", str(tmp_path / "empty.csv"), "--key", "email=email"], "is empty"),
        (["people", str(path), "--key", "email=mail"], "no column 'mail'"),
        (["people", str(path), "--key", "mail=email"], "expected KIND=COLUMN"),
        (["people", str(path), "--key", "email=email", "--key", "text=email"], "can be given once"),
        (["people", str(path), "--key", "email=visits"], "is a valid email"),
        (["../people", str(path), "--key", "email=email"], "cannot be a name"),
        (["people", str(twice), "--key", "email=email"], "1 identifiers that an earlier row has"),
        (["people", str(path), "--key", "email=email", "--duplicates", "all"], "refuse or keep-first"),
    ]
    for arguments, said in mistakes:
        assert said in refused(party, "data", "add", *arguments).text
    assert "No data set is registered yet" in told(party, "data", "list")
    printed = told(party, "data", "add", "people", str(twice), "--key", "email=email", "--duplicates", "keep-first")
    assert "301 rows, 3 columns that can be features, 1 of free text" in printed
    assert re.search(r"email +email +clear +301 \(100 %\) +0 +0 +1", printed)
    assert "email=email" in told(party, "data", "list")
    party.store.close()


def test_an_offer_shows_columns_and_never_rows(town: Town) -> None:
    printed = told(town.acme, "data", "offers")
    assert "visits" in printed
    assert "android, ios" in printed
    for secret in ("p500@example.com", "free text", "note"):
        assert secret not in printed
    assert "No partner has offered" in told(town.feed, "data", "offer")
    assert "card of eve is not trusted" in refused(town.feed, "data", "offer", "people", "--to", "eve").text
    assert "to whom" in refused(town.feed, "data", "offer", "people").text


def test_a_campaign_is_checked_proposed_shown_and_approved(town: Town) -> None:
    file = str(town.campaign_file())
    assert "campaign.toml is right" in told(town.acme, "check", file)
    number = propose(town)
    listed = told(town.feed, "campaigns")
    assert "acme proposes the campaign lookalike" in listed
    assert "waits for the approval of feed" in listed
    shown = told(town.feed, "show", number)
    assert "which matched rows are in the training part" in shown
    assert f"`tidegate party approve {number}` signs it" in shown
    assert run(town.feed, "approve", number, answer="n\n").exit_code == 1
    assert set(town.feed.store.signatures(town.feed.store.campaign(number).hash)) == {"acme"}
    assert "feed approved lookalike" in told(town.feed, "approve", "lookalike", "--yes")
    assert "was approved here before" in told(town.feed, "approve", "lookalike", "--yes")
    assert "feed approved lookalike" in told(town.acme, "campaigns")
    assert status(town.acme, file)["signed_by"] == ["acme", "feed"]
    assert status(town.feed, number)["state"] == "waiting"


def status(who: Party, ref: str) -> dict[str, object]:
    # Notices go to standard error, so that standard output is JSON alone.
    found: dict[str, object] = json.loads(run(who, "status", ref, "--json").stdout)
    return found


def test_mistakes_are_printed_one_a_line_and_the_status_is_1(town: Town) -> None:
    file = town.campaign_file(CAMPAIGN.replace('"bought"', '"bougth"').replace("steps = 8", "steps = 40"))
    result = run(town.acme, "check", str(file))
    assert isinstance(result.exception, ConfigError)
    assert result.exception.text == "campaign.toml has 2 mistakes"
    assert "campaign.toml:17: label.column: expected a column of customers" in result.stderr
    refused(town.acme, "propose", str(file), "--yes")
    assert town.acme.store.campaigns() == []


def test_a_refusal_reaches_the_brand_with_its_reason(town: Town) -> None:
    number = propose(town)
    told(town.feed, "campaigns")
    told(town.feed, "refuse", number, "--reason", "not [this] month\x1b[31m")
    printed = told(town.acme, "campaigns")
    assert "feed refused lookalike" in printed
    assert "not [this] month" in printed
    assert "\x1b[31m" not in printed
    assert status(town.acme, number)["state"] == "refused"
    assert "is over: refused by feed" in refused(town.feed, "approve", number).text
    assert run(town.acme, "watch", number).exit_code == 1


def test_a_cancelled_campaign_is_over_at_both(town: Town) -> None:
    number = propose(town)
    told(town.feed, "approve", number, "--yes")
    assert "was approved here" in refused(town.feed, "refuse", number).text
    told(town.acme, "cancel", str(town.folder / "campaign.toml"), "--reason", "wrong label")
    told(town.feed, "campaigns")
    assert [status(who, number)["state"] for who in (town.acme, town.feed)] == ["cancelled", "cancelled"]
    propose(town)


def test_a_name_that_is_in_use_is_not_proposed_again(town: Town) -> None:
    propose(town)
    assert "is not over yet" in refused(town.acme, "propose", str(town.folder / "campaign.toml"), "--yes").text


def test_when_the_coordinator_is_away_nothing_is_recorded(town: Town) -> None:
    file = str(town.campaign_file())
    town.office.away = True
    assert isinstance(run(town.acme, "propose", file, "--yes").exception, CarrierError)
    assert town.acme.store.campaigns() == []
    assert "this is what is known here" in told(town.acme, "campaigns")
    town.office.away = False
    number = propose(town)
    told(town.feed, "campaigns")
    town.office.away = True
    assert isinstance(run(town.feed, "approve", number, "--yes").exception, CarrierError)
    assert list(town.feed.store.signatures(town.feed.store.campaign(number).hash)) == ["acme"]


def test_approve_refuses_what_changed_since_it_was_proposed(town: Town) -> None:
    number = propose(town)
    with (town.folder / "media.csv").open("a") as file:
        file.write("x@example.com,1,1,ios,text\n")
    assert "has changed since it was registered" in refused(town.feed, "approve", number, "--yes").text
    assert "Not acceptable here" in told(town.feed, "show", number)


def test_a_letter_from_a_stranger_waits_until_its_card_is_trusted(town: Town) -> None:
    town.feed.store.distrust("acme")
    propose(town)
    assert "a letter from acme waits: trust its card first" in told(town.feed, "campaigns")
    assert town.feed.store.campaigns() == []
    printed = told(town.feed, "trust", "-", "--yes", answer=town.acme.identity.card.to_text())
    assert "acme proposes the campaign lookalike" in printed
    assert len(town.feed.store.campaigns()) == 1
    assert town.feed.store.letters_aside() == []


def test_a_letter_that_our_disk_did_not_take_is_there_the_next_time(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, an approval was dropped so: the campaign then failed for want of it."""
    number = propose(town)

    def full(*_arguments: object) -> None:
        raise PersonError("the disk takes no more", "free some space")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add_signature", full)
        with pytest.raises(PersonError):
            town.collect(town.feed)
    town.collect(town.feed)
    assert list(town.feed.store.signatures(town.feed.store.campaign(number).hash)) == ["acme"]


def test_a_letter_that_somebody_else_wrote_changes_nothing(town: Town) -> None:
    impostor = Identity.generate("acme")
    number = propose(town)
    told(town.feed, "campaigns")
    found = town.feed.store.campaign(number)
    letter = seal_letter(
        impostor, town.feed.identity.card, "cancellation", {"contract": found.hash.hex(), "reason": ""}, now_s=1
    )
    town.office.letters["feed"].append(letter)
    assert "was set aside" in told(town.feed, "campaigns")
    assert town.feed.store.campaign(number).state == "signing"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("offer", {}),
        ("offer", {"dataset": "../x", "rows": 1, "commitment": "0" * 64, "keys": [], "columns": []}),
        ("offer", {"dataset": "x", "rows": 1, "commitment": "0" * 64, "keys": [], "columns": [{"name": "a"}]}),
        ("proposal", {"contract": "{}", "signature": "00" * 64}),
        ("proposal", {"contract": 5}),
        ("approval", {"contract": "0" * 64, "signature": "00" * 64}),
        ("approval", {"contract": "zz", "signature": ""}),
        ("refusal", {}),
        ("greeting", {"hello": 1}),
    ],
)
def test_a_partners_letter_that_makes_no_sense_is_told_and_dropped(
    town: Town, kind: str, body: dict[str, object]
) -> None:
    before = town.feed.store.offers(sent=False)
    letter = seal_letter(town.acme.identity, town.feed.identity.card, kind, body, now_s=1)
    town.office.online(town.acme.home, lambda relay: relay.Post(PostRequest(letters=[letter]), timeout=1))
    lines = town.collect(town.feed)
    told = "waits for the campaign" if body == {"contract": "0" * 64, "signature": "00" * 64} else "was not filed"
    assert lines == [] if kind == "greeting" else told in lines[0]
    assert town.collect(town.feed) == []
    assert town.feed.store.offers(sent=False) == before
    assert town.feed.store.campaigns() == []


def test_a_letter_that_comes_twice_counts_once(town: Town) -> None:
    number = propose(town)
    letters = list(town.office.letters["feed"])
    told(town.feed, "campaigns")
    town.office.letters["feed"] = letters
    assert town.collect(town.feed) == []
    assert len(town.feed.store.campaigns()) == 1
    assert town.feed.store.campaigns()[0].short == number


def test_a_letter_that_is_being_filed_does_not_undo_a_newer_one(
    town: Town, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offer_anew(rows: int) -> None:
        path = write_csv(tmp_path / f"{rows}.csv", media_rows(rows))
        store = Store(town.feed.home.store_db)
        dataset.register(store, "people", path, {"email": "email"}, "", "refuse")
        town.office.online(town.feed.home, lambda relay: mail.offer(town.feed.home, store, relay, "people", "acme"))
        store.close()

    def command() -> None:
        offer_anew(1900)
        store = Store(town.acme.home.store_db)
        town.office.online(town.acme.home, lambda relay: mail.collect(town.acme.home, store, relay))
        store.close()

    beside: list[threading.Thread] = []
    real = mail.open_letter

    def slowly(*given: Any) -> Any:
        if not beside:
            # Our node holds the first letter; the second comes, and a command of ours fetches both.
            beside.append(threading.Thread(target=command))
            beside[0].start()
            beside[0].join(2)
        return real(*given)

    offer_anew(1800)
    monkeypatch.setattr(mail, "open_letter", slowly)
    town.collect(town.acme)
    beside[0].join(60)
    offer = town.acme.store.offer("feed", "people", sent=False)
    assert offer is not None
    assert offer.rows == 1900


def test_the_standing_policy_approves_and_says_so(town: Town) -> None:
    steps = '["match", "insight", "train", "score", "expand"]'
    town.feed.home.policy_toml.write_text(
        f'[auto_approve]\npartners = ["acme"]\nsteps = {steps}\ndatasets = ["people"]\n'
    )
    number = propose(town)
    assert "was approved by the standing policy" in told(town.feed, "campaigns")
    assert status(town.feed, number)["signed_by"] == ["acme", "feed"]


def test_a_coordinator_that_says_done_is_not_believed_without_results(town: Town) -> None:
    number = propose(town)
    found = town.acme.store.campaign(number)
    mail.note_state(town.acme.store, CampaignState(contract=found.hash, state="done"), "acme")
    mail.note_state(town.acme.store, CampaignState(contract=found.hash, state="nonsense"), "acme")
    assert town.acme.store.campaign(number).state == "signing"


def finish(party: Party, ref: str, facts: dict[str, dict[str, object]]) -> None:
    """Leaves committed results as a node would."""
    found = party.store.campaign(ref)
    for index, step in enumerate(found.contract.steps):
        run_id = os.urandom(16)
        party.store.start_run(found.hash, index, run_id, 1)
        party.store.end_run(run_id, "prepared", seconds=1.0, sent=1000, received=2000)
        party.store.end_run(run_id, "committed")
        folder = party.home.results(found.short, step.step)
        folder.mkdir(parents=True)
        learned = list(found.contract.learns[party.identity.name])
        whole = {"step": step.step, "run": run_id.hex(), "seconds": 1.0, "sent": 1000, "received": 2000}
        (folder / "facts.json").write_text(json.dumps({**whole, "learned": learned, **facts[step.step]}))
    party.store.set_state(found.hash, "done")


MATCHED = {
    "brand_rows": 1500,
    "media_rows": 2000,
    "size": 1000,
    "by_key": {"email": 1000},
    "own_by_key": {"email": 1500},
    "peer_by_key": {"email": 2000},
    "floor": 100,
}
MATCH_ONLY = CAMPAIGN.split("[label]")[0] + "[features]\nbrand = []\n[steps.match]\n"


def test_results_are_shown_and_exported_whole(town: Town) -> None:
    number = propose(town, MATCH_ONLY)
    assert "no results here yet" in refused(town.acme, "results", number).text
    told(town.feed, "approve", number, "--yes")
    finish(town.acme, number, {"match": MATCHED})
    printed = told(town.acme, "results", number)
    assert "1,000 people matched (1,000 by email)" in printed
    assert "What this party learned" in printed
    out = town.folder / "export"
    assert "open report.html" in told(town.acme, "results", number, "--export", str(out))
    assert (out / "report.html").stat().st_size > 1000
    assert json.loads((out / "report.json").read_text())["match"]["size"] == 1000
    assert (out / "match" / "facts.json").is_file()
    assert "is not empty" in refused(town.acme, "results", number, "--export", str(out)).text
    assert sorted(path.name for path in town.folder.iterdir() if "export" in path.name) == ["export"]
    assert run(town.acme, "watch", number).exit_code == 0


def test_the_audit_trail_and_the_budgets_are_printed(town: Town) -> None:
    number = propose(town)
    printed = told(town.acme, "audit")
    assert "offer received" in printed
    assert "The trail is whole" in printed
    head = printed.split()[-1]
    told(town.acme, "cancel", number)
    told(town.acme, "audit", "--expect", head)
    assert "does not pass through" in refused(town.acme, "audit", "--expect", "0" * 63 + "1").text
    assert "Nothing was spent yet" in told(town.feed, "budget")
    digest = town.feed.store.dataset("people").digest
    town.feed.store.charge(digest, "acme", "train_steps", 8, 12, b"c" * 32, b"r" * 16)
    assert "train_steps" in told(town.feed, "budget")


def test_a_person_allows_further_attempts(town: Town) -> None:
    number = propose(town)
    assert "three more times" in told(town.acme, "retry", number)
    assert town.acme.store.renewals() == 1
    told(town.acme, "cancel", number)
    assert isinstance(refused(town.acme, "retry", number), PolicyError)


@pytest.mark.parametrize("app", [party_app, campaign_app])
def test_help_is_there_for_every_command(app: Callable[..., object]) -> None:
    printed = CliRunner().invoke(app, ["--help"]).output  # type: ignore[arg-type]  # both are typer apps
    names = re.findall(r"^│ (\w+) ", printed, re.MULTILINE)
    assert len(names) >= 5
    for name in names:
        result = CliRunner().invoke(app, [name, "--help"])  # type: ignore[arg-type]  # as above
        assert result.exit_code == 0
        assert "Usage" in result.output


def test_the_program_ends_with_a_sentence_a_hint_and_status_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tidegate", "party", "--home", str(tmp_path / "none"), "partners"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error == f"error: there is no party at {tmp_path / 'none'}"
    assert hint.startswith("hint: ")


def test_ctrl_c_stops_watching_and_not_the_campaign(town: Town) -> None:
    number = propose(town)
    command = [sys.executable, "-m", "tidegate", "campaign", "--home", str(town.acme.home.path), "watch", number]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "proposed to feed\n"
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert "Stopped watching. The campaign goes on" in said
    assert "Traceback" not in said
    assert town.acme.store.campaign(number).state == "signing"


def test_over_a_real_coordinator_an_invite_lets_in_once_and_letters_arrive(tmp_path: Path) -> None:
    coordinator = prepare(tmp_path / "coordinator")
    acme, feed = Home(tmp_path / "acme"), Home(tmp_path / "feed")
    with process(coordinator):
        for home in (acme, feed):
            told(home, "init", home.path.name)
            expired = invite(coordinator, home.path.name, now_s=1000).to_text()
            assert "has expired" in refused(home, "join", expired).text
            invite_text = invite(coordinator, home.path.name).to_text()
            assert "has joined the coordinator" in told(home, "join", invite_text)
            told(home, "card", "--out", str(tmp_path / f"{home.path.name}.card"))
        assert "the invite is for a party called feed" in refused(acme, "join", invite_text).text
        assert isinstance(run(feed, "join", invite_text).exception, TidegateError)
        told(acme, "trust", str(tmp_path / "feed.card"), "--yes")
        told(feed, "trust", str(tmp_path / "acme.card"), "--yes")
        brand, media = write_csv(tmp_path / "b.csv", brand_rows()), write_csv(tmp_path / "m.csv", media_rows())
        told(acme, "data", "add", "customers", str(brand), "--key", "email=mail")
        told(feed, "data", "add", "people", str(media), "--key", "email=email")
        told(feed, "data", "offer", "people", "--to", "acme")
        file = tmp_path / "campaign.toml"
        file.write_text(CAMPAIGN)
        told(acme, "propose", str(file), "--yes")
        told(feed, "approve", "lookalike", "--yes")
        assert "feed approved lookalike" in told(acme, "campaigns")
    assert "cannot be reached" in told(acme, "campaigns")
    assert isinstance(run(acme, "cancel", "lookalike").exception, CarrierError)
