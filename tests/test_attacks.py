"""What a partner, a coordinator or a neighbour on the machine may try, each with what answers it.

Crypto, matching and relaying have their lying peers in their own tests; here is what lies between them: contracts,
letters, consent, the node's decisions, files, screens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
import rfc8785
from typer.testing import CliRunner

from tests.coordinator_fixture import invite, join_request, prepare
from tests.two_parties import CAMPAIGN, Party, Town, make_party, make_town
from tidegate.coordinator import members
from tidegate.coordinator.cli import app as coordinator_app
from tidegate.coordinator.refusal import RefusedError
from tidegate.coordinator.store import Member
from tidegate.coordinator.store import Store as CoordinatorStore
from tidegate.party import campaign as campaign_file
from tidegate.party import mail, node, policy, screen, steps, training, worker
from tidegate.party.cli import campaign_app, party_app
from tidegate.party.data import table
from tidegate.party.job import Job
from tidegate.party.order import Order
from tidegate.party.store import Campaign, Dataset, Store
from tidegate.protocols.blind.logistic import Opening
from tidegate.protocols.blind.split import send_split
from tidegate.protocols.channel import (
    Channel,
    ConfigError,
    DisagreementError,
    M,
    Message,
    PeerError,
    PolicyError,
    TidegateError,
)
from tidegate.protocols.ids import normalise
from tidegate.protocols.primitives.bfv import BrandKey
from tidegate.protocols.primitives.group import Scalar
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import simulate
from tidegate.wire import letter as wire_letter
from tidegate.wire import receipt
from tidegate.wire.contract import Contract, signed_bytes
from tidegate.wire.ending import PersonError
from tidegate.wire.identity import Identity
from tidegate.wire.invite import Endpoint, Invite, new_tls_key
from tidegate.wire.letter import seal_letter
from tidegate.wire.relay_pb2 import CampaignState, CollectReply, Commit, Letter, Signature, Start, Stop, ToNode
from tidegate.wire.seal import Handshake, Terms
from tidegate.wire.xwing import SealingKey, seal

CONTROLS = ["\x1b[2J", "\x1b]0;owned\x07", "a\nb", "a\rb", "\x9b31m", "\u202e", "\u2028", "\0", "\u200b"]


def contract_of(town: Town, text: str = CAMPAIGN, now_s: float | None = None) -> Contract:
    at_s = time.time() if now_s is None else now_s
    checked = campaign_file.check(town.campaign_file(text), town.acme.home, town.acme.store, at_s)
    assert checked.contract is not None, checked.mistakes
    return checked.contract


@pytest.fixture(scope="module")
def shared_town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    made = make_town(tmp_path_factory.mktemp("town"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def contract(shared_town: Town) -> Contract:
    return contract_of(shared_town)


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    made = make_town(tmp_path)
    monkeypatch.setattr(mail, "online", made.office.online)
    yield made
    made.close()


# Contracts


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value of a JSON document that is neither a list nor an object."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    else:
        yield path


def changed(document: Any, path: tuple[Any, ...], value: Any) -> bytes:
    """The document in canonical bytes with one value replaced."""
    copy = json.loads(json.dumps(document))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return rfc8785.dumps(copy)


def test_no_field_of_a_signed_contract_can_be_changed(contract: Contract) -> None:
    document = json.loads(contract.to_bytes())
    paths = list(leaves(document))
    assert len(paths) > 60
    for path in paths:
        value: Any = document
        for key in path:
            value = value[key]
        other = value + 1 if isinstance(value, int) else value[:-1] + ("0" if value[-1:] != "0" else "1")
        data = changed(document, path, other)
        with contextlib.suppress(DisagreementError):
            # One that can be read at all is another contract, which nobody has signed.
            assert Contract.from_bytes(data).hash != contract.hash, path


def test_a_contract_has_one_spelling(contract: Contract) -> None:
    data = contract.to_bytes()
    text = data.decode()
    document = json.loads(text)
    spellings = {
        "blank": data.replace(b'","', b'", "', 1),
        "line end": data + b"\n",
        "byte order mark": b"\xef\xbb\xbf" + data,
        "utf-16": text.encode("utf-16"),
        "escape": data.replace(b'"campaign":"l', b'"campaign":"\\u006c', 1),
        "order": json.dumps(dict(reversed(document.items())), separators=(",", ":")).encode(),
        "twice": data.replace(b'"version":4', b'"version":4,"version":4', 1),
        "last wins": data.replace(b'"floor":100', b'"floor":50,"floor":100', 1),
        "float": data.replace(b'"version":4', b'"version":4.0', 1),
        "exponent": data.replace(b'"floor":100', b'"floor":1e2', 1),
        "true": data.replace(b'"version":4', b'"version":true', 1),
        "minus zero": data.replace(b'"percent":0', b'"percent":-0', 1),
        "nan": data.replace(b'"floor":100', b'"floor":NaN', 1),
        "more": changed(document, ("url",), "http://example.com"),
        "less": rfc8785.dumps({key: value for key, value in document.items() if key != "guards"}),
        "surrogate": data.replace(b'"campaign":"', b'"campaign":"\\ud800', 1),
        "deep": b"[" * 100_000,
        "long number": data.replace(b'"floor":100', b'"floor":' + b"9" * 5000, 1),
        "nothing": b"",
        "null": b"null",
        "large": data + b" " * 2**20,
    }
    for name, spelled in spellings.items():
        assert spelled != data, name
        with pytest.raises(DisagreementError):
            Contract.from_bytes(spelled)
    assert Contract.from_bytes(data) == contract


@pytest.mark.parametrize("hostile", [*CONTROLS, "\ud800"], ids=ascii)
def test_no_text_in_a_contract_can_steer_a_screen(contract: Contract, hostile: str) -> None:
    document = json.loads(contract.to_bytes())
    texts = [path for path in leaves(document) if isinstance(path[-1], str | int) and _at(document, path) != ""]
    for path in texts:
        if isinstance(_at(document, path), str):
            copy = json.loads(json.dumps(document))
            inner = _at(copy, path[:-1])
            inner[path[-1]] = f"x{hostile}"
            with pytest.raises(DisagreementError):
                Contract.from_bytes(json.dumps(copy, ensure_ascii=hostile == "\ud800").encode())
    document["steps"][0]["settings"][f"x{hostile}"] = 1
    with pytest.raises(DisagreementError):
        Contract.from_bytes(json.dumps(document).encode())


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        "",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "a b",
        "A",
        "é",
        "a\0",
        "a\n",
        "-a",
        "_a",
        "x" * 64,
        "x" * 4096,
    ],
    ids=lambda name: ascii(name[:12]),
)
def test_no_name_is_a_path(contract: Contract, town: Town, name: str) -> None:
    document = json.loads(contract.to_bytes())
    for path in (("campaign",), ("parties", 0, "name"), ("parties", 1, "data", "name"), ("steps", 0, "step")):
        with pytest.raises(DisagreementError):
            Contract.from_bytes(changed(document, path, name))
    with pytest.raises(ConfigError):
        make_party(town.folder / "other", name)
    result = CliRunner().invoke(
        party_app, ["--home", str(town.feed.home.path), "data", "add", "--key", "email=email", "--", name, "media.csv"]
    )
    assert result.exit_code != 0
    assert len(town.feed.store.datasets()) == 1


def test_a_contract_names_no_date_that_no_calendar_has(contract: Contract) -> None:
    document = json.loads(contract.to_bytes())
    for field in ("created_s", "expires_s"):
        with pytest.raises(DisagreementError):
            Contract.from_bytes(changed(document, (field,), 2**40))
        made = Contract.from_bytes(changed(document, (field,), 253_402_300_799))
        assert screen.day(getattr(made, field)) == "9999-12-31 23:59 UTC"


# Letters


def post(town: Town, letter: Letter) -> None:
    town.office.letters.setdefault(letter.recipient, []).append(letter)


def written(
    sender: Identity, to: Party, kind: str, body: bytes, *, sent_s: int | None = None, letter_id: bytes = b""
) -> Letter:
    """A letter by a program that checks nothing of what it writes."""
    card = to.identity.card
    letter_id = letter_id or os.urandom(16)
    at_s = int(time.time()) if sent_s is None else sent_s
    made = wire_letter._Written(letter_id, sender.name, card.name, wire_letter._keys(card), kind, at_s, body, b"")
    made = replace(made, signature=sender.sign(made.signed_bytes()))
    sealed = seal(card.sealing, made.to_bytes(), wire_letter._info(letter_id, sender.name, card.name))
    return Letter(id=letter_id, sender=sender.name, recipient=card.name, sealed=sealed)


def an_offer(**changes: Any) -> dict[str, Any]:
    column = {
        "name": "a",
        "kind": "number",
        "low": 0,
        "high": 1,
        "categories": [],
        "missing_percent": 0,
        "constant": False,
    }
    column |= changes.pop("column", {})
    body = {"dataset": "x", "rows": 10, "commitment": "0" * 64, "keys": ["email"], "columns": [column]}
    return body | changes


HOSTILE_BODIES: dict[str, tuple[str, bytes]] = {
    "not json": ("offer", b"\xff\xfe"),
    "deep": ("offer", b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "a list": ("offer", b"[]"),
    "surrogate contract": ("proposal", b'{"contract": "\\ud800", "signature": "' + b"00" * 64 + b'"}'),
    "surrogate reason": ("refusal", b'{"contract": "' + b"00" * 32 + b'", "reason": "\\ud800"}'),
    "contract of brackets": ("proposal", json.dumps({"contract": "[" * 200_000, "signature": "00" * 64}).encode()),
    "nan": ("offer", json.dumps(an_offer(column={"low": float("nan")})).encode()),
    "infinite": ("offer", json.dumps(an_offer(column={"high": float("inf")})).encode()),
    "long number": ("offer", json.dumps(an_offer(column={"high": 10**4000})).encode()),
    "percent": ("offer", json.dumps(an_offer(column={"missing_percent": 10**4000})).encode()),
    "rows": ("offer", json.dumps(an_offer(rows=True)).encode()),
    "rows of text": ("offer", json.dumps(an_offer(rows="1")).encode()),
    "keys": ("offer", json.dumps(an_offer(keys=["email"] * 100_000)).encode()),
    "keys of lists": ("offer", json.dumps(an_offer(keys=[[]])).encode()),
    "given a list": ("offer", json.dumps(an_offer(given=["email"])).encode()),
    "given of a key it has not": ("offer", json.dumps(an_offer(given={"phone": "sha256"})).encode()),
    "given an unknown form": ("offer", json.dumps(an_offer(given={"email": "\x1b[2J"})).encode()),
    "given a list as form": ("offer", json.dumps(an_offer(given={"email": []})).encode()),
    "escape": ("offer", json.dumps(an_offer(column={"name": "\x1b[2J"})).encode()),
    "direction": ("offer", json.dumps(an_offer(column={"name": "a\u202eb"})).encode()),
    "surrogate name": ("offer", b'{"columns": [{"name": "\\ud800"}]}'),
    "kind": ("offer", json.dumps(an_offer(column={"kind": "key"})).encode()),
    "columns": ("offer", json.dumps(an_offer(columns=[{}] * 5000)).encode()),
    "path": ("offer", json.dumps(an_offer(dataset="../../etc")).encode()),
    "commitment": ("offer", json.dumps(an_offer(commitment="\u0660" * 64)).encode()),
    "setting": ("proposal", json.dumps({"contract": json.dumps({"\x1b[2J": 1}), "signature": "00" * 64}).encode()),
}


@pytest.mark.parametrize("name", HOSTILE_BODIES)
def test_a_hostile_letter_neither_stops_the_others_nor_steers_the_screen(town: Town, name: str) -> None:
    kind, body = HOSTILE_BODIES[name]
    post(town, written(town.acme.identity, town.feed, kind, body))
    good = an_offer(dataset="good")
    post(town, seal_letter(town.acme.identity, town.feed.identity.card, "offer", good, now_s=int(time.time())))
    lines = town.collect(town.feed)
    assert all(line.isprintable() and len(line) < 1000 for line in lines), lines
    assert [offer.dataset for offer in town.feed.store.offers(sent=False)] == ["good"]
    assert town.feed.store.campaigns() == []
    assert town.collect(town.feed) == []


def test_a_letter_from_a_time_that_is_not_yet_is_not_filed(town: Town) -> None:
    now_s = int(time.time())
    for at_s in (now_s + 2 * 86400, now_s + 2**40, 2**64 - 1):
        post(town, written(town.acme.identity, town.feed, "offer", json.dumps(an_offer()).encode(), sent_s=at_s))
        assert "comes from the future" in town.collect(town.feed)[0]
    assert town.feed.store.offers(sent=False) == []


def test_the_largest_offer_is_shown_and_a_larger_one_is_not_sent(town: Town) -> None:
    columns = [an_offer(column={"name": f"column {i:04} {'x' * 100}"})["columns"][0] for i in range(4096)]
    body = an_offer(columns=columns)
    post(town, seal_letter(town.acme.identity, town.feed.identity.card, "offer", body, now_s=int(time.time())))
    assert "4096 columns" in town.collect(town.feed)[0]
    shown = CliRunner().invoke(party_app, ["--home", str(town.feed.home.path), "data", "offers"])
    assert shown.exit_code == 0
    assert "column 4095" in shown.output
    longer = [{**column, "name": column["name"] + "y" * 60} for column in columns]
    with pytest.raises(ConfigError, match="at most"):
        seal_letter(town.acme.identity, town.feed.identity.card, "offer", an_offer(columns=longer), now_s=0)


def test_a_coordinator_cannot_repeat_redirect_or_reorder_letters(town: Town) -> None:
    acme, feed = town.acme, town.feed
    now_s = int(time.time())
    first = seal_letter(acme.identity, feed.identity.card, "offer", an_offer(rows=1), now_s=now_s)
    second = seal_letter(acme.identity, feed.identity.card, "offer", an_offer(rows=2), now_s=now_s + 1)
    post(town, second)
    post(town, first)
    town.collect(feed)
    assert [offer.rows for offer in feed.store.offers(sent=False)] == [2]
    third = seal_letter(acme.identity, feed.identity.card, "offer", an_offer(rows=3), now_s=now_s + 2)
    post(town, third)
    town.collect(feed)
    for repeated in (first, second, third):
        post(town, repeated)
        assert town.collect(feed) == []
    eve = make_party(town.folder, "eve")
    card = eve.identity.card
    feed.store.trust("eve", card.identity, card.to_text().encode())
    for redirected in (
        Letter(id=os.urandom(16), sender="acme", recipient="feed", sealed=third.sealed),
        Letter(id=third.id[::-1], sender="acme", recipient="feed", sealed=third.sealed),
        Letter(id=os.urandom(16), sender="eve", recipient="feed", sealed=third.sealed),
    ):
        post(town, redirected)
        assert "set aside" in town.collect(feed)[0]
    assert [offer.rows for offer in feed.store.offers(sent=False)] == [3]
    eve.store.close()


def proposed(town: Town, text: str = CAMPAIGN) -> Campaign:
    """A contract by acme that feed has received."""
    made = contract_of(town, text)
    town.office.online(town.acme.home, lambda relay: mail.propose(town.acme.home, town.acme.store, relay, made))
    town.collect(town.feed)
    return town.feed.store.campaign(made.hash)


def test_letters_may_overtake_each_other(town: Town) -> None:
    acme, feed = town.acme, town.feed
    made = contract_of(town)
    signature = acme.identity.sign(signed_bytes(made.hash))
    proposal = {"contract": made.to_bytes().decode(), "signature": signature.hex()}
    cancellation = {"contract": made.hash.hex(), "reason": "never mind"}
    now_s = int(time.time())
    post(town, seal_letter(acme.identity, feed.identity.card, "cancellation", cancellation, now_s=now_s))
    assert "waits for the campaign" in town.collect(feed)[0]
    post(town, seal_letter(acme.identity, feed.identity.card, "proposal", proposal, now_s=now_s))
    town.collect(feed)
    assert feed.store.campaign(made.hash).state == "cancelled"
    # An approval that is quicker than the command that proposes.
    other = contract_of(town)
    approval = {"contract": other.hash.hex(), "signature": feed.identity.sign(signed_bytes(other.hash)).hex()}
    post(town, seal_letter(feed.identity, acme.identity.card, "approval", approval, now_s=now_s))
    town.collect(acme)
    town.office.online(acme.home, lambda relay: mail.propose(acme.home, acme.store, relay, other))
    assert set(acme.store.signatures(other.hash)) == {"acme", "feed"}


def test_a_proposal_for_one_party_is_none_for_another(town: Town) -> None:
    eve = make_party(town.folder, "eve")
    for one, other in ((eve, town.acme), (town.acme, eve)):
        card = other.identity.card
        one.store.trust(card.name, card.identity, card.to_text().encode())
    made = contract_of(town)
    body = {"contract": made.to_bytes().decode(), "signature": town.acme.identity.sign(signed_bytes(made.hash)).hex()}
    post(town, seal_letter(town.acme.identity, eve.identity.card, "proposal", body, now_s=int(time.time())))
    lines = town.collect(eve)
    assert "was not filed" in lines[0]
    assert eve.store.campaigns() == []
    # Nor can eve pass on to feed, as its own, what acme signed.
    card = eve.identity.card
    town.feed.store.trust("eve", card.identity, card.to_text().encode())
    post(town, seal_letter(eve.identity, town.feed.identity.card, "proposal", body, now_s=int(time.time())))
    assert "was not filed" in town.collect(town.feed)[0]
    assert town.feed.store.campaigns() == []
    eve.store.close()


# Consent


def run(who: Party, *arguments: str, answer: str = "") -> Any:
    app = campaign_app if arguments[0] in ("check", "propose", "status", "watch", "cancel") else party_app
    return CliRunner().invoke(app, ["--home", str(who.home.path), *arguments], input=answer)


def test_a_second_campaign_cannot_be_taken_for_the_one_a_person_read(town: Town) -> None:
    honest = proposed(town)
    # One that has the honest one's number for its name, and one that has its name.
    lure = proposed(town, CAMPAIGN.replace('name = "lookalike"', f'name = "{honest.short}"'))
    for name in (honest.short, "lookalike"):
        if name == "lookalike":
            proposed(town)
        ended = run(town.feed, "approve", name, "--yes")
        assert isinstance(ended.exception, ConfigError), ended.output
        assert "may be any of 2 campaigns" in ended.exception.text
    assert all("feed" not in town.feed.store.signatures(one.hash) for one in town.feed.store.campaigns())
    assert run(town.feed, "approve", honest.hash.hex(), "--yes").exit_code == 0
    assert "feed" in town.feed.store.signatures(honest.hash)
    assert "feed" not in town.feed.store.signatures(lure.hash)


def test_two_contracts_do_not_share_a_folder(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    # A proposer can search for two hashes with the same 12 digits; here they are given.
    monkeypatch.setattr(Contract, "short", property(lambda self: proposed_short))
    first = contract_of(town)
    proposed_short = first.hash.hex()[:12]
    town.feed.store.put_campaign(first, "acme")
    with pytest.raises(DisagreementError, match="that of another campaign"):
        town.feed.store.put_campaign(contract_of(town), "acme")


def test_nothing_a_partner_wrote_reaches_the_screen_but_printable_text(town: Town) -> None:
    hostile = "nothing\x1b[2J\x1b[1;1Happroved\u202e by \x9b1m all\r\n# "
    made = proposed(town)
    body = {"contract": made.hash.hex(), "reason": hostile}
    post(town, written(town.acme.identity, town.feed, "cancellation", json.dumps(body).encode()))
    state = CampaignState(contract=made.hash, state="failed", reason=hostile, by="acme\x1b[2J")
    town.office.states[made.hash] = state
    town.office.parties[made.hash] = ["acme", "feed"]
    printed = ""
    for command in (["campaigns"], ["show", made.short], ["status", made.short], ["data", "offers"], ["audit"]):
        printed += run(town.feed, *command).output
    assert "cancelled by acme: nothing" in " ".join(printed.split())
    assert all(letter.isprintable() or letter == "\n" for letter in printed)


def test_what_a_member_calls_its_software_is_no_markup(tmp_path: Path) -> None:
    home = prepare(tmp_path / "coordinator")
    store = CoordinatorStore(home.store)
    store.add_invite(b"s" * 32, "brand", 2**33)
    store.use_invite(b"s" * 32, Member("brand", b"i" * 32, b"c" * 32, "0.1.[/][red]", 1, 1, False))
    store.close()
    shown = CliRunner().invoke(coordinator_app, ["--home", str(home.path), "parties"])
    assert shown.exit_code == 0, shown.exception
    assert "0.1.[/][red]" in shown.output


def test_an_older_invite_does_not_take_a_members_place(tmp_path: Path) -> None:
    home = prepare(tmp_path / "coordinator")
    first, second = invite(home, "brand"), invite(home, "brand")
    store, authority = CoordinatorStore(home.store), members.Authority.load(home)
    try:
        members.join(store, authority, join_request(first, Identity.generate("brand"), new_tls_key()), int(time.time()))
        thief = join_request(second, Identity.generate("brand"), new_tls_key())
        with pytest.raises(RefusedError, match="used already"):
            members.join(store, authority, thief, int(time.time()))
    finally:
        store.close()


def test_a_standing_approval_that_fails_does_not_keep_other_letters_from_being_read(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.feed.home.policy_toml.write_text(
        '[auto_approve]\npartners = ["acme"]\ndatasets = ["people"]\nper_day = 9\n'
        'steps = ["match", "insight", "train", "score", "expand"]\n'
    )

    async def sign(self: Any, request: Signature, timeout: float) -> CampaignState:
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), details="never filed"
        )

    monkeypatch.setattr("tests.two_parties.Counter.Sign", sign)
    made = contract_of(town)
    town.office.online(town.acme.home, lambda relay: mail.propose(town.acme.home, town.acme.store, relay, made))
    lines = town.collect(town.feed)
    assert "could not be approved" in lines[-1]
    assert "feed" not in town.feed.store.signatures(made.hash)


# The node, when the coordinator lies


def approved(town: Town, **changes: Any) -> Contract:
    """A contract that both have signed, as both stores know it."""
    made = replace(contract_of(town), **changes)
    for party in (town.acme, town.feed):
        party.store.put_campaign(made, "acme")
        for signer in (town.acme, town.feed):
            party.store.add_signature(made.hash, signer.identity.name, signer.identity.sign(signed_bytes(made.hash)))
    return made


def start_of(made: Contract, step: int = 0, run_id: bytes = b"r" * 16) -> Start:
    return Start(contract=made.hash, step=step, run=run_id, attempt=1)


def node_of(party: Party) -> node.Node:
    async def make() -> node.Node:
        return node.Node(party.home, party.store, lambda line: None, party.identity.name)

    return asyncio.run(make())


def commit_run(store: Store, made: Contract, step: int, run_id: bytes) -> None:
    store.start_run(made.hash, step, run_id, 1)
    store.end_run(run_id, "prepared", receipt=b"x")
    store.end_run(run_id, "committed")


def test_a_run_starts_only_as_the_contract_has_it(town: Town) -> None:
    made = approved(town)
    feed = node_of(town.feed)
    assert node.admit(feed, start_of(made))[1].earlier == {}

    def refused(start: Start, text: str) -> None:
        with pytest.raises(TidegateError, match=text):
            node.admit(feed, start)

    refused(Start(contract=b"?" * 32, run=b"r" * 16), "no campaign")
    refused(Start(contract=b"", run=b"r" * 16), "no campaign")
    refused(start_of(made, step=5), "cannot be")
    refused(start_of(made, step=2**32 - 1), "cannot be")
    for run_id in (b"", b"r" * 15, b"r" * 17, b"../../../../etc/"[:15]):
        refused(start_of(made, run_id=run_id), "cannot be")
    refused(start_of(made, step=1), "match is not done here")
    commit_run(town.feed.store, made, 0, b"1" * 16)
    refused(start_of(made, step=2), "insight is not done here")
    refused(start_of(made, step=0), "match is done here already")
    assert node.admit(feed, start_of(made, step=1))[1].earlier == {"match": (b"1" * 16).hex()}
    refused(start_of(made, step=1, run_id=b"1" * 16), "used a run number twice")
    town.feed.store.start_run(made.hash, 1, b"2" * 16, 1)
    town.feed.store.end_run(b"2" * 16, "failed", error="carrier")
    refused(start_of(made, step=1, run_id=b"2" * 16), "used a run number twice")
    town.feed.store.set_state(made.hash, "cancelled", by="feed")
    refused(start_of(made, step=1), "is over here: cancelled")


@pytest.mark.parametrize("missing", ["acme", "feed", "both"])
def test_a_run_needs_every_signature_in_our_own_store(town: Town, missing: str) -> None:
    made = contract_of(town)
    town.feed.store.put_campaign(made, "acme")
    for party in (town.acme, town.feed):
        if missing not in ("both", party.identity.name):
            town.feed.store.add_signature(made.hash, party.identity.name, party.identity.sign(signed_bytes(made.hash)))
    with pytest.raises(PolicyError, match="has not approved"):
        node.admit(node_of(town.feed), start_of(made))


@pytest.mark.parametrize("by", ["another key", "another contract", "another text"])
def test_a_signature_by_another_key_or_over_something_else_is_none(town: Town, by: str) -> None:
    made, other = contract_of(town), contract_of(town)
    mine = town.feed.identity.sign(signed_bytes(made.hash))
    theirs = {
        "another key": Identity.generate("acme").sign(signed_bytes(made.hash)),
        "another contract": town.acme.identity.sign(signed_bytes(other.hash)),
        "another text": town.acme.identity.sign(made.hash),
    }[by]
    town.feed.store.put_campaign(made, "acme")
    town.feed.store.add_signature(made.hash, "feed", mine)
    town.feed.store.add_signature(made.hash, "acme", theirs)
    with pytest.raises(TidegateError, match="not signed by the key"):
        node.admit(node_of(town.feed), start_of(made))


def test_an_expired_contract_and_one_whose_partner_is_no_longer_trusted_start_nothing(town: Town) -> None:
    old = approved(town, created_s=int(time.time()) - 200_000, expires_s=int(time.time()) - 100)
    with pytest.raises(PolicyError, match="has expired"):
        node.admit(node_of(town.feed), start_of(old))
    made = approved(town)
    town.feed.store.distrust("acme")
    with pytest.raises(PolicyError, match="not trusted"):
        node.admit(node_of(town.feed), start_of(made))


def prepared(town: Town, made: Contract, run_id: bytes = b"r" * 16) -> tuple[node.Node, dict[str, bytes]]:
    """A run at feed whose result is staged, and both parties' right receipts."""
    digest = b"d" * 32
    receipts = {
        party.identity.name: receipt.make(party.identity, made.hash, 0, run_id, digest)
        for party in (town.acme, town.feed)
    }
    town.feed.store.start_run(made.hash, 0, run_id, 1)
    staging = town.feed.home.staging(run_id)
    staging.mkdir(parents=True)
    (staging / "facts.json").write_text(json.dumps({"run": run_id.hex()}))
    town.feed.store.end_run(run_id, "prepared", receipt=receipts["feed"])
    return node_of(town.feed), receipts


def test_a_result_is_released_only_for_the_receipts_of_all_over_the_same_transcript(town: Town) -> None:
    made, other = approved(town), approved(town)
    run_id = b"r" * 16
    feed, receipts = prepared(town, made)
    acme, eve = town.acme.identity, Identity.generate("acme")
    mine, right = receipts["feed"], receipts["acme"]
    lies = {
        "none": [],
        "ours alone": [mine],
        "ours twice": [mine, mine],
        "another transcript": [mine, receipt.make(acme, made.hash, 0, run_id, b"e" * 32)],
        "another step": [mine, receipt.make(acme, made.hash, 1, run_id, b"d" * 32)],
        "another run": [mine, receipt.make(acme, made.hash, 0, b"q" * 16, b"d" * 32)],
        "another contract": [mine, receipt.make(acme, other.hash, 0, run_id, b"d" * 32)],
        "another key": [mine, receipt.make(eve, made.hash, 0, run_id, b"d" * 32)],
        "a swapped digest": [mine, b"e" * 32 + right[32:]],
        "cut": [mine, right[:-1]],
        "long": [mine, right + b"\0"],
        "theirs alone": [right],
    }
    results = town.feed.home.results(made.short, "match")
    for name, given in lies.items():
        node.commit(feed, Commit(contract=made.hash, step=0, run=run_id, receipts=given))
        assert not results.exists(), name
        assert town.feed.store.committed_run(made.hash, 0) is None, name
    node.commit(feed, Commit(contract=other.hash, step=0, run=run_id, receipts=[mine, right]))
    node.commit(feed, Commit(contract=made.hash, step=0, run=b"q" * 16, receipts=[mine, right]))
    assert not results.exists()
    # The step that the coordinator names counts for nothing: ours is in the store.
    node.commit(feed, Commit(contract=made.hash, step=3, run=run_id, receipts=[right, mine]))
    assert (results / "facts.json").is_file()
    assert town.feed.store.committed_run(made.hash, 0) == run_id
    node.commit(feed, Commit(contract=made.hash, step=0, run=run_id, receipts=[right, mine]))
    assert town.feed.store.committed_run(made.hash, 3) is None


def test_what_a_coordinator_says_of_a_campaign_ends_nothing_well(town: Town) -> None:
    made = approved(town)
    for state in ("done", "won", "", "signing\x1b[2J"):
        mail.note_state(town.feed.store, CampaignState(contract=made.hash, state=state), "feed")
        assert town.feed.store.campaign(made.hash).state == "signing"
    mail.note_state(town.feed.store, CampaignState(contract=b"?" * 32, state="done"), "feed")
    mail.note_state(town.feed.store, CampaignState(contract=made.hash, state="cancelled", by="acme"), "feed")
    mail.note_state(town.feed.store, CampaignState(contract=made.hash, state="running"), "feed")
    assert town.feed.store.campaign(made.hash).state == "cancelled"


def test_the_coordinator_hears_how_a_run_ended_and_not_why(town: Town) -> None:
    made = approved(town)
    feed = node_of(town.feed)
    order = Order(town.feed.home, made.hash, 0, b"r" * 16, {})
    town.feed.store.start_run(made.hash, 0, order.run, 1)
    secret = {"kind": "policy", "text": "17 people in column income of /srv/people.csv", "hint": "look at row 5"}
    node._failed(feed, town.feed.store.campaign(made.hash), order, secret)
    # Without the contract's hash, whose 32 bytes may spell anything short.
    said = feed.outgoing.get_nowait().SerializeToString().replace(made.hash, b"")
    for word in (b"17", b"income", b"/srv", b"row"):
        assert word not in said
    assert (
        town.feed.store.runs(made.hash)[-1].reason
        == "17 people in column income of /srv/people.csv. Hint: look at row 5"
    )


def test_whoever_cancels_need_not_rely_on_the_coordinator(town: Town) -> None:
    made = approved(town)

    async def scenario() -> None:
        feed = node.Node(town.feed.home, town.feed.store, lambda line: None, "feed")
        town.feed.store.start_run(made.hash, 0, b"r" * 16, 1)
        working = feed.workers[made.hash] = asyncio.create_task(asyncio.sleep(600))
        ticker = asyncio.create_task(node._tick(feed))
        await asyncio.sleep(1.2)
        assert not working.done()
        town.feed.store.set_state(made.hash, "cancelled", by="feed")
        async with asyncio.timeout(40):
            await asyncio.wait({working})
        assert working.cancelled()
        ticker.cancel()

    asyncio.run(scenario())


def test_nothing_a_coordinator_says_ends_a_node(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    made = approved(town)
    run_id = b"r" * 16

    async def scenario() -> None:
        feed = node.Node(town.feed.home, town.feed.store, lambda line: None, "feed")
        relay: Any = _Silent()
        for message in (
            ToNode(),
            ToNode(start=Start()),
            ToNode(start=Start(contract=made.hash, step=2**32 - 1, run=run_id, attempt=2**32 - 1)),
            ToNode(stop=Stop()),
            ToNode(stop=Stop(contract=made.hash, run=run_id, reason="\x1b[2J" * 100_000)),
            ToNode(commit=Commit()),
            ToNode(commit=Commit(contract=made.hash, run=run_id, receipts=[b""] * 1000)),
            ToNode(state=CampaignState()),
            ToNode(
                state=CampaignState(contract=made.hash, state="failed", step=2**32 - 1, reason="x" * 10**6, by="\0")
            ),
            ToNode(mail={}),
        ):
            await node._handle(feed, relay, message)
        assert not feed.workers

    monkeypatch.setattr(node, "SIGNED_WITHIN_S", 0.1)
    asyncio.run(scenario())


class _Silent:
    """A relay at which no letter waits."""

    async def Collect(self, request: Any, timeout: float) -> Any:  # noqa: N802 - the name of the call
        return CollectReply()


# The worker


def test_a_worker_runs_no_code_from_the_folder_that_the_node_was_started_in(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tidegate", "numpy", "rfc8785", "sqlalchemy", "sitecustomize"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    made = approved(town)
    order = Order(town.feed.home, made.hash, 0, b"r" * 16, {})
    outcome = asyncio.run(asyncio.wait_for(node._outcome(node_of(town.feed), order), 120))
    assert "error" in outcome
    assert not (tmp_path / "owned").exists()


def test_a_worker_builds_only_on_the_run_that_was_agreed(town: Town) -> None:
    made = approved(town)
    results = town.feed.home.results(made.short, "match")
    results.mkdir(parents=True)
    order = Order(town.feed.home, made.hash, 1, b"r" * 16, {"match": (b"1" * 16).hex()})
    for facts in ('{"run": "' + (b"2" * 16).hex() + '"}', "{}", "no json", None):
        (results / "facts.json").unlink(missing_ok=True)
        if facts is not None:
            (results / "facts.json").write_text(facts)
        with pytest.raises(PersonError, match="not the one that the parties agreed on"):
            asyncio.run(worker.attempt(order))


def test_a_worker_refuses_a_file_that_is_not_the_contracts(town: Town) -> None:
    made = approved(town)
    file = town.folder / "media.csv"
    file.write_text(file.read_text().replace("ios", "pda", 1))
    with pytest.raises(PersonError, match="no longer the one"):
        asyncio.run(worker.attempt(Order(town.feed.home, made.hash, 0, b"r" * 16, {})))


def test_a_worker_ends_with_its_node(town: Town) -> None:
    made = approved(town)
    order = Order(town.feed.home, made.hash, 0, b"r" * 16, {})
    command = [sys.executable, "-P", "-m", "tidegate.party.worker"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(order.to_json().encode() + b"\n")
    child.stdin.close()
    assert child.wait(120) != 0
    child.stdout.close()


# Budgets and what one party holds the other to


class Eavesdropper:
    """A channel that notes what was sent before it was told to stop."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.sent: list[str] = []

    async def send(self, message: Message) -> None:
        self.sent.append(type(message).__name__)
        await self._channel.send(message)

    async def recv(self, kind: type[M]) -> M:
        return await self._channel.recv(kind)


def job_of(town: Town, made: Contract, step: str, party: Party, folder: Path, charge: Callable[..., None]) -> Job:
    me = made.party(party.identity.name)
    registered = party.store.dataset(me.data.name)
    folder.mkdir(parents=True, exist_ok=True)
    matched = folder / "match"
    matched.mkdir(exist_ok=True)
    # Person i of the media is person 500 + i of the brand.
    rows = np.arange(500, 1500) if me.role == "brand" else np.arange(1000)
    (matched / "rows.i64").write_bytes(rows.astype("<i8").tobytes())
    return Job(
        contract=made,
        step=next(each for each in made.steps if each.step == step),
        party=me.name,
        path=registered.path,
        keys=registered.keys,
        given=registered.given,
        region=None,
        duplicates="refuse",
        earlier={"match": matched, "train": folder / "train"},
        staging=folder,
        randomness=Randomness.system(),
        count_noise=lambda n: np.zeros(n, np.int64),
        charge=charge,
    )


@pytest.mark.parametrize("step", ["match", "insight", "train"])
def test_a_budget_is_charged_before_the_first_answer_leaves(town: Town, tmp_path: Path, step: str) -> None:
    made = approved(town)
    heard: list[Eavesdropper] = []

    def refuse(kind: str, amount: int, limit: int) -> None:
        raise PolicyError(f"the budget for {kind} is spent")

    async def media(channel: Channel) -> None:
        heard.append(Eavesdropper(channel))
        await steps.play(job_of(town, made, step, town.feed, tmp_path / "feed", refuse), heard[0])

    async def brand(channel: Channel) -> None:
        await steps.play(job_of(town, made, step, town.acme, tmp_path / "acme", lambda *_: None), channel)

    with pytest.raises(PolicyError, match="is spent"):
        simulate(brand, media)
    assert heard[0].sent == []


def test_the_media_holds_a_brand_to_the_hold_out_that_the_contract_draws(town: Town, tmp_path: Path) -> None:
    text = CAMPAIGN.replace('[holdout]\ncolumn = "split"\nvalue = "test"', "[holdout]\nshare = 30")
    made = approved(town, **{"holdout": contract_of(town, text).holdout})
    drawn = Randomness(made.hash).integers(100, 1000) < np.uint64(30)
    none = np.zeros(1000, np.bool_)
    one = np.arange(1000) == int(np.flatnonzero(~drawn)[0])
    for train, held_out in ((~drawn & ~one, drawn | one), (none, ~none), (~none, none), (~drawn | drawn, none)):
        with pytest.raises(PeerError, match="does not hold out the rows"):
            _media_alone(town, made, tmp_path, train, held_out)
    # Rows without a label are in neither part, which the media cannot tell.
    some = np.arange(1000) % 7 != 0
    with pytest.raises(_Enough):
        _media_alone(town, made, tmp_path, ~drawn & some, drawn & some)


class _Enough(Exception):  # noqa: N818 - no error, the end of a test
    pass


def _media_alone(town: Town, made: Contract, folder: Path, train: Any, held_out: Any) -> None:
    """The media's training up to what it charges first."""

    def charge(kind: str, amount: int, limit: int) -> None:
        raise _Enough

    async def brand(channel: Channel) -> None:
        await send_split(channel, train, held_out)
        await asyncio.sleep(30)

    async def media(channel: Channel) -> None:
        await training.media(job_of(town, made, "train", town.feed, folder, charge), Opened(channel))

    simulate(brand, media)


class Opened(Eavesdropper):
    """Ends when the media goes on to the training proper."""

    async def recv(self, kind: type[M]) -> M:
        if kind is Opening:
            raise _Enough
        return await super().recv(kind)


# Files, screens, secrets


def test_secrets_never_print() -> None:
    identity = Identity.generate("acme")
    terms = Terms(b"c" * 32, b"r" * 16, 0, "0.1.0", "acme", "feed")
    randomness = Randomness(b"s" * 32)
    key = BrandKey(randomness)
    ids, _ = normalise("email", ["someone@example.com"])
    dataset = Dataset("x", Path("people.csv"), {}, "", "refuse", 1, "d1" * 32, b"salty" * 6, "c0" * 32, [], 0)
    invite = Invite("h:1", b"ca", "acme", b"hidden-secret-32-bytes-long-here", 1, b"cert", b"hidden-key", bytes(32))
    endpoint = Endpoint("h:1", b"ca", b"certificate", b"hidden-key")
    handshake = Handshake(identity, identity.public, terms)
    shown = " ".join(
        text
        for each in (
            identity,
            identity.sealing,
            randomness,
            key,
            Scalar(1234567890),
            ids,
            dataset,
            invite,
            endpoint,
            handshake,
        )
        for text in (repr(each), str(each), f"{each}")
    )
    # None so short that the hex digits of an object's address may spell it.
    for secret in (
        identity.sealing.to_bytes().hex()[:12],
        repr(identity.sealing.to_bytes())[2:12],
        "1234567890",
        "someone",
        "d1d1d1d1",
        "salty",
        "hidden",
    ):
        assert secret not in shown
    assert "SealingKey" in repr(SealingKey.generate())


def test_an_invite_need_not_be_typed_where_others_see_it(town: Town) -> None:
    ended = run(town.feed, "join", "-", answer="tidegate-invite-2.nonsense\n")
    assert isinstance(ended.exception, ConfigError)
    assert "invite is damaged" in ended.exception.text


def test_no_code_of_ours_names_a_shared_temporary_folder() -> None:
    root = Path(node.__file__).resolve().parent.parent
    for folder in ("party", "coordinator", "protocols", "wire"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text()
            assert '"/tmp' not in text, path
            assert "/dev/shm" not in text, path  # noqa: S108
            assert "shell=True" not in text, path


def test_results_go_where_no_link_leads_away(town: Town, tmp_path: Path) -> None:
    """The run's number comes from the coordinator; whatever it is, the staging folder is a new one inside staging."""
    for run_id in (b"../../../../../.", b"\0" * 16, b"/etc/cron.daily/"):
        folder = town.feed.home.staging(run_id)
        assert folder.parent == town.feed.home.path / "staging"
        assert folder.name == run_id.hex()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    made = approved(town)
    planted = town.feed.home.staging(b"r" * 16)
    planted.symlink_to(elsewhere)
    with pytest.raises(FileExistsError):
        asyncio.run(worker.attempt(Order(town.feed.home, made.hash, 0, b"r" * 16, {})))
    assert list(elsewhere.iterdir()) == []


def test_policy_is_asked_again_before_every_run(town: Town) -> None:
    made = approved(town)
    feed = node_of(town.feed)
    node.admit(feed, start_of(made))
    for rule in ("allowed_partners = []", 'hidden_columns = ["visits"]', "[guards]\nfloor = 500", "nonsense ="):
        town.feed.home.policy_toml.write_text(rule)
        with pytest.raises((PolicyError, ConfigError)):
            node.admit(feed, start_of(made))
    town.feed.home.policy_toml.unlink()
    node.admit(feed, start_of(made))
    assert policy.load(town.feed.home).allowed_partners is None


def test_tables_with_hostile_names_are_refused_when_they_are_registered(tmp_path: Path) -> None:
    for hostile in CONTROLS:
        path = tmp_path / "people.parquet"
        pa.parquet.write_table(pa.table({f"x{hostile}": [1]}), path)
        with pytest.raises(ConfigError, match="printable"):
            table.read(path)
