"""Each guard is taken out once, to show that a test would notice.

A guard is a line of a module and what it becomes when it is gone. Its check passes with the module as it is and fails
with a copy of the module in which that one line is replaced. Where a line was rewritten, this table is to be, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests import test_attacks as attacks
from tests.coordinator_fixture import invite, join_request, prepare
from tests.test_attacks import CAMPAIGN, approved, changed, contract_of, node_of, prepared, proposed, start_of, written
from tests.two_parties import Town, make_town
from tidegate.coordinator.members import Authority
from tidegate.coordinator.refusal import RefusedError
from tidegate.coordinator.store import Store as CoordinatorStore
from tidegate.party.data.bins import FeatureBins
from tidegate.protocols.blind.products import Key, Results, Uploads
from tidegate.protocols.channel import (
    CarrierError,
    Channel,
    ConfigError,
    DisagreementError,
    M,
    Message,
    PeerError,
    PolicyError,
    TidegateError,
)
from tidegate.protocols.ids import Identifiers, normalise
from tidegate.protocols.primitives.bfv import BrandKey
from tidegate.protocols.primitives.fixed_point import T
from tidegate.protocols.primitives.group import GENERATOR, Scalar, multiply
from tidegate.protocols.primitives.packing import SLOTS
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.psi import match, oprf_match, private_sum
from tidegate.protocols.simulate import simulate
from tidegate.wire import letter as wire_letter
from tidegate.wire import receipt, xwing
from tidegate.wire.contract import Contract, signed_bytes
from tidegate.wire.identity import Card, Identity
from tidegate.wire.invite import new_tls_key, pem_certificate
from tidegate.wire.letter import seal_letter
from tidegate.wire.relay_pb2 import Commit, Frame, Letter

Check = Callable[[ModuleType, Town], None]


@dataclass(frozen=True)
class Guard:
    """A line of a module, what stands there instead once the guard is gone, and the check that notices."""

    module: str
    line: str
    gone: str
    check: Check

    def __str__(self) -> str:
        return f"{self.check.__name__} ({self.module})"


GUARDS: list[Guard] = []


def guard(module: str, line: str, gone: str = "if False:") -> Callable[[Check], Check]:
    def note(check: Check) -> Check:
        GUARDS.append(Guard(module, line, gone, check))
        return check

    return note


def without(each: Guard, folder: Path) -> ModuleType:
    """A copy of the module in which the guard is gone. The module itself stays as it is."""
    real = importlib.import_module(f"tidegate.{each.module}")
    source = Path(str(real.__file__)).read_text()
    assert source.count(each.line) == 1, f"{each.line!r} is not a line of {each.module} any more"
    path = folder / "without.py"
    path.write_text(source.replace(each.line, each.gone))
    spec = importlib.util.spec_from_file_location(real.__name__, path)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def ends_with(error: type[TidegateError], call: Callable[[], object]) -> None:
    """Fails unless the call ends with this error, also where it ends with another one of ours."""
    with pytest.raises(TidegateError) as raised:
        call()
    assert isinstance(raised.value, error), raised.value


# Contracts


def _document(town: Town) -> Any:
    return json.loads(contract_of(town).to_bytes())


@guard("wire.contract", "if canonical != data:")
def a_contract_has_one_spelling(module: ModuleType, town: Town) -> None:
    data = contract_of(town).to_bytes()
    ends_with(DisagreementError, lambda: module.Contract.from_bytes(data.replace(b'","', b'", "', 1)))


@guard("wire.contract", "if not value.isprintable():")
def a_contract_cannot_steer_a_screen(module: ModuleType, town: Town) -> None:
    data = changed(_document(town), ("label", "column"), "a\x1b[2J")
    ends_with(DisagreementError, lambda: module.Contract.from_bytes(data))


@guard("wire.contract", '"guards.floor", 50,', '"guards.floor", 1,')
def the_hard_floor_is_50(module: ModuleType, town: Town) -> None:
    ends_with(DisagreementError, lambda: module.Contract.from_bytes(changed(_document(town), ("guards", "floor"), 49)))


@guard("wire.contract", "if missing or step.step in before:")
def steps_come_after_what_they_need_and_once(module: ModuleType, town: Town) -> None:
    document = _document(town)
    for order in ([1, 0, 2, 3, 4], [0, 0]):
        data = changed(document, ("steps",), [document["steps"][i] for i in order])
        ends_with(DisagreementError, partial(module.Contract.from_bytes, data))


@guard("wire.contract", "if (step.media not in media) if several and step.step in _WITH_EACH else step.media:")
def a_step_names_its_media_where_there_are_several_and_only_there(module: ModuleType, town: Town) -> None:
    document = _document(town)
    named = [{**step, "media": document["parties"][1]["name"]} for step in document["steps"]]
    ends_with(DisagreementError, partial(module.Contract.from_bytes, changed(document, ("steps",), named)))


# Seals


def _handshakes(module: ModuleType, **differing: Any) -> tuple[Any, Any, Identity, Identity]:
    acme, feed = Identity.generate("acme"), Identity.generate("feed")
    terms = {"contract_hash": b"c" * 32, "run": b"r" * 16, "step": 0, "software": "1"}
    first = module.Handshake(acme, feed.public, module.Terms(**terms, my_name="acme", peer_name="feed"))
    second = module.Handshake(feed, acme.public, module.Terms(**(terms | differing), my_name="feed", peer_name="acme"))
    return first, second, acme, feed


@guard("wire.seal", "return number + bytes(4), self._bound + number", "return number + bytes(4), number")
def a_frame_is_bound_to_its_run(module: ModuleType, town: Town) -> None:
    sealed = module.Lane(b"k" * 32, b"one run").seal(b"text")
    ends_with(CarrierError, lambda: module.Lane(b"k" * 32, b"another").open(sealed))


@guard("wire.seal", "self._number += 1", "self._number += 0")
def a_frame_opens_once(module: ModuleType, town: Town) -> None:
    lane = module.Lane(b"k" * 32, b"run")
    sealed = module.Lane(b"k" * 32, b"run").seal(b"text")
    assert lane.open(sealed) == b"text"
    ends_with(CarrierError, lambda: lane.open(sealed))


@guard("wire.seal", "if ours != theirs:")
def both_mean_the_same_contract_run_step_and_version(module: ModuleType, town: Town) -> None:
    for name, other in (("contract_hash", b"d" * 32), ("run", b"q" * 16), ("step", 1), ("software", "2")):
        first, second, _, _ = _handshakes(module, **{name: other})
        first.hello()
        hello = second.hello()
        ends_with(DisagreementError, partial(first.answer, hello))


@guard(
    "wire.seal",
    "verify_signature(self._peer_identity, signed, answer.signature",
    "(lambda *_: None)(self._peer_identity, signed, answer.signature",
)
def an_answer_is_signed_by_the_pinned_key(module: ModuleType, town: Town) -> None:
    first, second, _, _ = _handshakes(module)
    first.hello()
    first.answer(second.hello())
    # All that the coordinator needs for an answer of its own went over its wires, but for the signature.
    sealed = xwing.seal(first._ephemeral.public, b"s" * 32, first._info(from_first=False))
    signature = Identity.generate("eve").sign(first._answer_signed(sealed, from_first=False))
    ends_with(CarrierError, lambda: first.finish(module._Answer(sealed, signature).to_bytes()))


# Receipts, letters, cards, keys


@guard("wire.receipt", 'verify_signature(public, signed, receipt[size:], "the receipt")', "pass")
def a_receipt_is_signed_by_its_party(module: ModuleType, town: Town) -> None:
    made = module.make(Identity.generate("eve"), b"c" * 32, 0, b"r" * 16, b"d" * 32)
    public = Identity.generate("acme").public
    ends_with(CarrierError, lambda: module.verify(made, public, b"c" * 32, 0, b"r" * 16))


@guard("wire.receipt", "+ run + digest", "+ digest")
def a_receipt_is_for_one_run(module: ModuleType, town: Town) -> None:
    acme = Identity.generate("acme")
    made = module.make(acme, b"c" * 32, 0, b"r" * 16, b"d" * 32)
    ends_with(CarrierError, lambda: module.verify(made, acme.public, b"c" * 32, 0, b"q" * 16))


@guard("wire.letter", "if (written.letter_id, written.sender, written.recipient, written.keys) != meant:")
def a_letter_cannot_be_passed_on(module: ModuleType, town: Town) -> None:
    acme, feed, eve = town.acme.identity, town.feed.identity, Identity.generate("eve")
    meant_for_eve = seal_letter(acme, eve.card, "offer", {}, now_s=0)
    opened = eve.sealing.open(meant_for_eve.sealed, wire_letter._info(meant_for_eve.id, "acme", "eve"))
    sealed = xwing.seal(feed.card.sealing, opened, wire_letter._info(meant_for_eve.id, "acme", "feed"))
    passed_on = Letter(id=meant_for_eve.id, sender="acme", recipient="feed", sealed=sealed)
    ends_with(CarrierError, lambda: module.open_letter(feed, acme.card, passed_on))


@guard(
    "wire.letter",
    "verify_signature(sender.identity, written.signed_bytes()",
    "(lambda *_: None)(sender.identity, written.signed_bytes()",
)
def a_letter_is_signed_by_its_sender(module: ModuleType, town: Town) -> None:
    letter = written(Identity.generate("acme"), town.feed, "offer", b"{}")
    ends_with(CarrierError, lambda: module.open_letter(town.feed.identity, town.acme.identity.card, letter))


@guard("wire.identity", "if mode & 0o077:")
def keys_that_others_may_read_are_refused(module: ModuleType, town: Town) -> None:
    path = town.folder / "key"
    path.write_bytes(b"secret")
    path.chmod(0o640)
    ends_with(ConfigError, lambda: module.read_private(path))


@guard(
    "wire.identity",
    'verify_signature(card.identity, card.signed_bytes(), card.signature, "the card")',
    "pass",
)
def a_card_is_signed_by_itself(module: ModuleType, town: Town) -> None:
    own = town.acme.identity.card
    mixed = Card(own.name, own.identity, Identity.generate("eve").card.sealing, own.signature)
    ends_with(ConfigError, lambda: module.Card.parse(mixed.to_text()))


# What a party remembers


@contextlib.contextmanager
def _store(module: ModuleType, town: Town) -> Iterator[Any]:
    store = module.Store(town.folder / f"{os.urandom(4).hex()}.db")
    try:
        yield store
    finally:
        store.close()


def _runs(store: Any, made: Contract, number: int) -> list[bytes]:
    store.put_campaign(made, "acme")
    runs = [bytes([i]) * 16 for i in range(number)]
    for run in runs:
        store.start_run(made.hash, 0, run, 1)
    return runs


@guard("party.store", "if total > limit:")
def a_budget_cannot_be_passed(module: ModuleType, town: Town) -> None:
    made = contract_of(town)
    with _store(module, town) as store:
        (run,) = _runs(store, made, 1)
        ends_with(PolicyError, lambda: store.charge("d", "acme", "scores", 5, 4, made.hash, run))


@guard("party.store", "if len(attempts) > ATTEMPTS", "if len(attempts) > 10**9 and ATTEMPTS")
def after_three_answers_a_person_is_asked(module: ModuleType, town: Town) -> None:
    made = contract_of(town)
    with _store(module, town) as store:
        runs = _runs(store, made, 4)
        for run in runs[:3]:
            store.charge("d", "acme", "scores", 1, 4, made.hash, run)
        ends_with(module.PersonError, lambda: store.charge("d", "acme", "scores", 1, 4, made.hash, runs[3]))


@guard("party.store", "row.state in FINAL or", "")
def a_campaign_that_is_over_stays_over(module: ModuleType, town: Town) -> None:
    made = contract_of(town)
    with _store(module, town) as store:
        store.put_campaign(made, "acme")
        store.set_state(made.hash, "cancelled")
        store.set_state(made.hash, "running")
        assert store.campaign(made.hash).state == "cancelled"


@guard("party.store", "if known is not None and bytes(known) != identity:")
def a_partners_key_is_not_replaced_in_silence(module: ModuleType, town: Town) -> None:
    with _store(module, town) as store:
        store.trust("acme", b"1" * 32, b"card")
        ends_with(ConfigError, lambda: store.trust("acme", b"2" * 32, b"card"))


@guard("party.store", "if any(other.hex().startswith(contract.short)", "if False and any(other.hex().startswith('')")
def two_campaigns_do_not_share_a_folder(module: ModuleType, town: Town) -> None:
    first, second = contract_of(town), contract_of(town)
    short = first.short
    with _store(module, town) as store, pytest.MonkeyPatch.context() as patch:
        store.put_campaign(first, "acme")
        patch.setattr(Contract, "short", property(lambda self: short))
        ends_with(DisagreementError, lambda: store.put_campaign(second, "acme"))


@guard("party.store", "found = still_open if len(still_open) > 1 else named[:1]", "found = named[:1]")
def a_name_that_two_open_campaigns_have_names_none(module: ModuleType, town: Town) -> None:
    with _store(module, town) as store:
        for made in (contract_of(town), contract_of(town)):
            store.put_campaign(made, "acme")
        ends_with(ConfigError, lambda: store.campaign("lookalike"))


# Consent


def _problems(module: ModuleType, town: Town, made: Contract) -> list[TidegateError]:
    found: list[TidegateError] = module.problems(town.feed.home, town.feed.store, made, time.time())
    return found


@guard(
    "party.policy",
    "if party.name not in signatures:",
    "if party.name not in signatures:\n            continue\n        if False:",
)
def a_run_needs_everybodys_signature(module: ModuleType, town: Town) -> None:
    campaign = proposed(town)
    ends_with(PolicyError, lambda: module.check_runnable(town.feed.home, town.feed.store, campaign, time.time()))


@guard("party.policy", "now_s > contract.expires_s + CLOCK_SLACK_S", "now_s > contract.expires_s + 10**9")
def an_expired_contract_is_refused(module: ModuleType, town: Town) -> None:
    now_s = int(time.time())
    assert _problems(module, town, replace(contract_of(town), created_s=now_s - 200, expires_s=now_s - 100))


@guard("party.policy", "if (value < rule) if at_least else (value > rule):")
def our_rules_may_be_stricter(module: ModuleType, town: Town) -> None:
    town.feed.home.policy_toml.write_text("[guards]\nfloor = 500\n")
    assert _problems(module, town, contract_of(town))


@guard("party.policy", "if set(contract.learns.get(name, ())) != set(lines):")
def a_contract_says_what_everybody_learns(module: ModuleType, town: Town) -> None:
    made = contract_of(town)
    assert _problems(module, town, replace(made, learns={**made.learns, "acme": ("nothing",)}))


@guard("party.policy", "if pinned.identity.hex() != party.identity:")
def a_contract_names_the_pinned_keys(module: ModuleType, town: Town) -> None:
    made = contract_of(town)
    eve = Identity.generate("acme").public.hex()
    parties = tuple(replace(each, identity=eve) if each.name == "acme" else each for each in made.parties)
    assert _problems(module, town, replace(made, parties=parties))


@guard("party.policy", "{*contract.features.get(me.name, ()), *_total_column(contract, me), *label} - shown", "set()")
def only_offered_columns_can_be_asked_for(module: ModuleType, town: Town) -> None:
    made = contract_of(town)
    offer = town.feed.store.offer("acme", "people", sent=True)
    assert offer is not None
    town.feed.store.put_offer(replace(offer, columns=offer.columns[:1]), sent=True)
    assert _problems(module, town, made)


@guard("party.policy", "if column in policy.hidden_columns:")
def hidden_columns_stay_hidden(module: ModuleType, town: Town) -> None:
    made = contract_of(town)
    town.feed.home.policy_toml.write_text('hidden_columns = ["visits"]\n')
    assert _problems(module, town, made)


@guard("party.policy", "and not loosened(contract.guards)", "")
def looser_guards_need_a_person(module: ModuleType, town: Town) -> None:
    town.feed.home.policy_toml.write_text(
        '[auto_approve]\npartners = ["acme"]\ndatasets = ["people"]\nper_day = 9\n'
        'steps = ["match", "insight", "train", "score", "expand"]\n'
    )
    campaign = proposed(town, CAMPAIGN + "[guards]\nfloor = 60\n")
    assert not module.is_auto_approved(town.feed.home, town.feed.store, campaign, time.time())


# The node


@guard("party.node", "policy.check_runnable(", "(lambda *_: None)(")
def a_node_starts_only_what_it_may(module: ModuleType, town: Town) -> None:
    campaign = proposed(town)
    ends_with(PolicyError, lambda: module.admit(node_of(town.feed), start_of(campaign.contract)))


@guard("party.node", "if run is None:", 'run = run or b"0" * 16\n        if False:')
def steps_start_in_order(module: ModuleType, town: Town) -> None:
    made = approved(town)
    ends_with(ConfigError, lambda: module.admit(node_of(town.feed), start_of(made, step=1)))


@guard(
    "party.node",
    "if node.store.committed_run(contract, step) is not None:\n        raise ConfigError(",
    "if False:\n        raise ConfigError(",
)
def a_step_is_done_once(module: ModuleType, town: Town) -> None:
    made = approved(town)
    attacks.commit_run(town.feed.store, made, 0, b"1" * 16)
    ends_with(ConfigError, lambda: module.admit(node_of(town.feed), start_of(made)))


@guard("party.node", "if node.store.run(bytes(start.run)) is not None:")
def a_run_number_is_used_once(module: ModuleType, town: Town) -> None:
    made = approved(town)
    town.feed.store.start_run(made.hash, 0, b"1" * 16, 1)
    ends_with(ConfigError, lambda: module.admit(node_of(town.feed), start_of(made, run_id=b"1" * 16)))


@guard("party.node", "or not pairs.agree(", "or False and not pairs.agree(")
def a_result_is_released_for_everybodys_receipt(module: ModuleType, town: Town) -> None:
    made = approved(town)
    feed, receipts = prepared(town, made)
    other = receipt.make(town.acme.identity, made.hash, 0, b"r" * 16, b"e" * 32)
    module.commit(feed, Commit(contract=made.hash, step=0, run=b"r" * 16, receipts=[receipts["feed"], other]))
    assert not town.feed.home.results(made.short, "match").exists()


# Letters, as a party acts on them


@guard("party.mail", "if named.identity != card.identity.hex():")
def a_proposal_is_signed_by_the_key_that_it_names(module: ModuleType, town: Town) -> None:
    made = contract_of(town)
    eve = Identity.generate("acme").public.hex()
    made = replace(made, parties=tuple(replace(p, identity=eve) if p.name == "acme" else p for p in made.parties))
    body = {"contract": made.to_bytes().decode(), "signature": town.acme.identity.sign(signed_bytes(made.hash)).hex()}
    letter = seal_letter(town.acme.identity, town.feed.identity.card, "proposal", body, now_s=0)
    module.file_letter(town.feed.store, town.feed.identity, letter)
    assert town.feed.store.campaigns() == []


@guard("party.mail", "earlier.at_s > note.sent_s", "earlier.at_s > 10**12")
def an_older_offer_does_not_replace_a_newer_one(module: ModuleType, town: Town) -> None:
    for rows, at_s in ((2, 200), (1, 100)):
        body = attacks.an_offer(rows=rows)
        letter = seal_letter(town.acme.identity, town.feed.identity.card, "offer", body, now_s=at_s)
        module.file_letter(town.feed.store, town.feed.identity, letter)
    assert [offer.rows for offer in town.feed.store.offers(sent=False)] == [2]


@guard("party.mail", "if store.has_letter(letter.id) or", "if")
def a_letter_counts_once(module: ModuleType, town: Town) -> None:
    letter = seal_letter(town.acme.identity, town.feed.identity.card, "offer", attacks.an_offer(), now_s=1)
    assert module.file_letter(town.feed.store, town.feed.identity, letter)
    assert module.file_letter(town.feed.store, town.feed.identity, letter) == []


@guard("party.mail", "except (ValueError, OverflowError):", "except ZeroDivisionError:")
def a_value_that_cannot_be_kept_stops_nothing(module: ModuleType, town: Town) -> None:
    body = b'{"contract": "\\ud800", "signature": "' + b"00" * 64 + b'"}'
    letter = written(town.acme.identity, town.feed, "proposal", body)
    try:
        module.file_letter(town.feed.store, town.feed.identity, letter)
    except ValueError:
        raise AssertionError("it stopped the node") from None


# What roles hold each other to


class Sink:
    """A channel to nowhere that keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, message: Message) -> None:
        self.sent.append(type(message).__name__)

    async def recv(self, kind: type[Any]) -> Any:
        raise CarrierError("nobody is there")


@guard("party.job", "self._charge()", "pass")
def a_budget_is_charged_before_the_answer_leaves(module: ModuleType, town: Town) -> None:
    sink = Sink()

    def refuse() -> None:
        raise PolicyError("spent")

    with contextlib.suppress(PolicyError):
        asyncio.run(module.Charged(sink, refuse).send(match.Size(1)))
    assert sink.sent == []


@guard("party.training", "held_out & ~drawn", "held_out & False")
def a_brand_does_not_choose_who_is_scored_exactly(module: ModuleType, town: Town) -> None:
    text = CAMPAIGN.replace('[holdout]\ncolumn = "split"\nvalue = "test"', "[holdout]\nshare = 30")
    made = approved(town, holdout=contract_of(town, text).holdout)
    drawn = Randomness(made.hash).integers(100, 1000) < np.uint64(30)
    one = np.arange(1000) == int(np.flatnonzero(~drawn)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attacks, "training", module)
        try:
            attacks._media_alone(town, made, town.folder / "job", ~drawn & ~one, drawn | one)
        except attacks._Enough:
            raise AssertionError("it went on to train") from None
        except PeerError:
            return


def _people(first: int, last: int) -> dict[str, Identifiers]:
    return {"email": normalise("email", [f"p{i}@example.com" for i in range(first, last)])[0]}


def _play(receiver: Callable[[Channel], Any], sender: Callable[[Channel], Any]) -> None:
    simulate(receiver, sender)


def _role(role: Any, first: int, last: int, max_rows: int = 1000) -> Callable[[Channel], Any]:
    return lambda channel: role(
        channel,
        _people(first, last),
        engine=oprf_match,
        mode="both",
        kinds=("email",),
        floor=100,
        max_rows=max_rows,
        randomness=Randomness.system(),
    )


@guard("protocols.psi.match", "if size < floor:")
def below_the_floor_the_receiver_answers_nothing_found(module: ModuleType, town: Town) -> None:
    ends_with(PolicyError, lambda: _play(_role(module.receiver, 0, 150), _role(match.sender, 51, 200)))


@guard("protocols.psi.match", "if size.rows > max_rows:")
def nobody_enters_more_rows_than_the_contract_has(module: ModuleType, town: Town) -> None:
    ends_with(PeerError, lambda: _play(_role(match.receiver, 0, 150), _role(module.sender, 0, 150, max_rows=149)))


@guard("protocols.psi.oprf_match", "if has_repeats(evaluated, randomness.bytes(KEY_BYTES)):")
def no_element_is_blinded_twice(module: ModuleType, town: Town) -> None:
    async def lying(channel: Channel) -> None:
        await channel.send(oprf_match.Blinded(multiply(GENERATOR, Scalar(7)) * 100))
        await channel.recv(oprf_match.Evaluated)

    async def answering(channel: Channel) -> None:
        order = np.arange(150, dtype=np.uint32)
        entries = _people(0, 150)["email"]
        await module.answer(channel, entries, kind="email", theirs=100, order=order, randomness=Randomness.system())

    ends_with(PeerError, lambda: _play(lying, answering))


@guard("protocols.psi.match", "if not floor <= size <= most:")
def the_sender_opens_nothing_below_the_floor(module: ModuleType, town: Town) -> None:
    opened: list[bytes] = []

    async def lying(channel: Channel) -> None:
        await channel.send(match.Size(100))
        await channel.recv(match.Size)
        elements = b"".join(multiply(GENERATOR, Scalar(i + 1)) for i in range(100))
        await channel.send(oprf_match.Blinded(elements))
        await channel.recv(oprf_match.Evaluated)
        await channel.recv(oprf_match.Tokens)
        await channel.send(match.Found(1))
        await channel.send(match.Positions(np.packbits(np.arange(150) == 0, bitorder="little").tobytes()))
        opened.append((await channel.recv(oprf_match.Opened)).seed)

    with contextlib.suppress(PeerError):
        _play(lying, _role(module.sender, 0, 150))
    assert opened == []


@guard("protocols.blind.insight", "if people.min() < floor:")
def the_media_counts_no_small_bin(module: ModuleType, town: Town) -> None:
    codes = (np.arange(500) < 99).astype(np.int64)[:, None]
    bins = [FeatureBins("age", ("young", "old"), True, (30.0,), (), -1)]
    sink = Sink()

    def none(n: int) -> Any:
        return np.zeros(n, np.int64)

    counted = module.media(sink, codes, bins, floor=100, noise=none, noise_sd=10, randomness=Randomness.system())
    with contextlib.suppress(PolicyError, CarrierError):
        asyncio.run(counted)
    assert sink.sent == []


@guard("protocols.blind.scoring", "if count < floor:")
def no_audience_is_under_the_floor(module: ModuleType, town: Town) -> None:
    ends_with(PolicyError, lambda: module.Sizes("sizes", (1,)).verify([50], 5000, 100))


@guard("protocols.blind.scoring", "min(control, count - control) < floor", "False")
def no_control_group_is_under_the_floor(module: ModuleType, town: Town) -> None:
    ends_with(PolicyError, lambda: module.Sizes("sizes", (10,), 10).verify([500], 5000, 100))


@guard("protocols.blind.scoring", "if people[0] < floor:")
def no_threshold_tells_of_few_people(module: ModuleType, town: Town) -> None:
    sizes = module.Sizes("threshold_milli", (500,))

    async def brand(channel: Channel) -> None:
        with pytest.raises(PolicyError) as caught:
            await module.brand_expand(
                channel, np.ones(1), sizes=sizes, floor=100, levels=20, max_rows=500,
                rates=lambda scores: np.where(np.arange(len(scores)) < 3, 1.0, 0.0), randomness=Randomness.system(),
            )  # fmt: skip
        assert "fewer than 100" in caught.value.text, "the brand's worker told how many reach the threshold"
        raise caught.value

    async def media(channel: Channel) -> None:
        await module.media_expand(
            channel, np.zeros((500, 1)), sizes=sizes, floor=100, levels=20, randomness=Randomness.system()
        )

    ends_with(PolicyError, lambda: simulate(brand, media))


@guard("protocols.blind.measure", "if min(people) < terms.floor:")
def no_arm_under_the_floor_is_measured(module: ModuleType, town: Town) -> None:
    sink = Sink()
    terms = module.Terms(floor=100, noise_sd=0, cap=0, max_rows=500)
    arms = np.ones(500, np.int8)
    noise = {"noise": lambda _sd, n: np.zeros(n, np.int64), "randomness": Randomness.system()}
    with contextlib.suppress(PolicyError, CarrierError):
        asyncio.run(module.media(sink, arms, (500, 99), terms=terms, **noise))
    assert sink.sent == []


@guard("protocols.blind.scoring", "people is not None and found != people", "False")
def audiences_have_the_sizes_that_the_contract_names(module: ModuleType, town: Town) -> None:
    from tidegate.protocols.blind import scoring

    async def lying(channel: Channel) -> None:
        pool = (await channel.recv(scoring.Pool)).rows
        await scoring.brand_scores(channel, np.ones(2), pool, levels=20, randomness=Randomness.system())
        await channel.send(scoring.Tiers(bytes([1]) * 3 + bytes(pool - 3)))

    async def media(channel: Channel) -> None:
        x = np.zeros((1500, 2))
        sizes = module.Sizes("sizes", (10,))
        await module.media_expand(channel, x, sizes=sizes, floor=2, levels=20, randomness=Randomness.system())

    ends_with(PeerError, lambda: simulate(lying, media))


@guard("protocols.primitives.group", "if element[-1] & 0x80 or element == _IDENTITY:")
def an_alias_of_an_element_is_none(module: ModuleType, town: Town) -> None:
    alias = GENERATOR[:-1] + bytes([GENERATOR[-1] | 0x80])
    ends_with(PeerError, lambda: module._sodium_multiply(alias, Scalar(5).to_bytes()))


@dataclass
class Liar:
    """A channel that sends `told` in place of a message of its kind."""

    channel: Channel
    told: Message

    async def send(self, message: Message) -> None:
        await self.channel.send(self.told if isinstance(message, type(self.told)) else message)

    async def recv(self, kind: type[M]) -> M:
        return await self.channel.recv(kind)


def _sum(counting: ModuleType, holding: ModuleType, told: Message, first: int = 0) -> None:
    """A sum over people `first` to 150, of value 1 each, in which `told` is told by whoever sends its kind."""
    terms = private_sum.Terms(kind="email", floor=100, max_rows=1000, cap=1, noise_sd=0)
    common: dict[str, Any] = {"engine": oprf_match, "randomness": Randomness.system()}
    others, own, ones = _people(first, first + 150)["email"], _people(0, 150)["email"], np.ones(150, np.int64)
    zeros = partial(np.zeros, dtype=np.int64)
    _play(
        lambda channel: counting.counter(Liar(channel, told), others, terms, noise=None, **common),
        lambda channel: holding.holder(Liar(channel, told), own, ones, terms, noise=zeros, **common),
    )


@guard("protocols.psi.private_sum", "if size < terms.floor:")
def below_the_floor_nothing_is_added_up(module: ModuleType, town: Town) -> None:
    ends_with(PolicyError, lambda: _sum(module, private_sum, private_sum.Noised(bytes(8)), first=51))


@guard("protocols.psi.private_sum", "if not terms.floor <= size <= (most if noise is None else terms.floor):")
def the_holder_adds_nothing_up_below_the_floor(module: ModuleType, town: Town) -> None:
    ends_with(PeerError, lambda: _sum(private_sum, module, private_sum.Found(99)))


@guard("protocols.psi.private_sum", "_checked_total(joined(opened, moduli), size, terms)", "joined(opened, moduli)")
def a_sum_that_nobody_can_have_is_refused(module: ModuleType, town: Town) -> None:
    ends_with(PeerError, lambda: _sum(module, private_sum, private_sum.Noised(bytes(8))))


@guard("protocols.psi.private_sum", "mask = randomness.integers(modulus, SLOTS)", "mask = np.zeros(SLOTS, np.uint64)")
def the_holder_opens_a_masked_sum(module: ModuleType, town: Town) -> None:
    key = BrandKey(Randomness.system())

    async def holding(channel: Channel) -> None:
        await channel.send(Key(key.public_bytes()))
        await channel.send(Uploads(tuple(key.encrypt([np.ones(SLOTS, np.uint64)]))))
        assert np.unique(key.decrypt((await channel.recv(Results)).parts[0])).size == SLOTS

    found = np.ones(10, np.bool_)
    # Of as many numbers drawn from 45 bits two are equal once in a million times.
    drawn = Randomness(b"a mask without repeats".ljust(32))
    _play(lambda channel: module._multiply(channel, found, None, T, drawn), holding)


@guard("protocols.primitives.bfv", "if (residues >= moduli).any():")
def residues_are_below_their_prime(module: ModuleType, town: Town) -> None:
    data = np.full(2 * 1 * 8192, 97, "<u8").tobytes()
    ends_with(PeerError, lambda: module._checked(data, len(data), np.array([[97]], np.uint64), "a result"))


# The coordinator


@contextlib.contextmanager
def _members(town: Town) -> Iterator[tuple[Any, CoordinatorStore, Authority]]:
    home = prepare(town.folder / os.urandom(4).hex())
    store = CoordinatorStore(home.store)
    try:
        yield home, store, Authority.load(home)
    finally:
        store.close()


@guard("coordinator.members", "if now_s >= expires_s:")
def an_expired_invite_lets_nobody_in(module: ModuleType, town: Town) -> None:
    with _members(town) as (home, store, authority):
        request = join_request(invite(home, "brand"), Identity.generate("brand"), new_tls_key())
        ends_with(RefusedError, lambda: module.join(store, authority, request, int(time.time()) + 10**6))


@guard("coordinator.members", "if request.party != party:")
def an_invite_is_for_one_name(module: ModuleType, town: Town) -> None:
    with _members(town) as (home, store, authority):
        request = join_request(invite(home, "brand"), Identity.generate("brand"), new_tls_key())
        request.party = "media"
        ends_with(RefusedError, lambda: module.join(store, authority, request, int(time.time())))


@guard("coordinator.members", "member.certificate != presented", "False")
def only_the_present_certificate_calls(module: ModuleType, town: Town) -> None:
    with _members(town) as (home, store, authority):
        request = join_request(invite(home, "brand"), Identity.generate("brand"), new_tls_key())
        module.join(store, authority, request, int(time.time()))
        stolen = authority.client_certificate("brand", module._requested_key(request.csr))
        ends_with(RefusedError, lambda: module.caller(store, pem_certificate(stolen)))


def _forward(module: ModuleType, frame: Frame) -> None:
    async def scenario() -> None:
        relay = module.Relay(10**9)
        relay.start(b"r" * 16, ("brand", "media"))
        line = relay.open(b"r" * 16, "brand")
        async with asyncio.timeout(5):
            await line.forward(frame)

    asyncio.run(scenario())


@guard("coordinator.relay", "if len(sealed) > MAX_FRAME_BYTES:")
def a_frame_has_at_most_a_mebibyte(module: ModuleType, town: Town) -> None:
    ends_with(RefusedError, lambda: _forward(module, Frame(peer="media", sealed=bytes(2**20 + 1))))


@guard("coordinator.relay", "if inbox is None or frame.peer == self._party:", "if inbox is None:")
def no_frame_comes_back_to_its_sender(module: ModuleType, town: Town) -> None:
    # Its own inbox knows no such sender: without the guard the line breaks in another way.
    try:
        _forward(module, Frame(peer="brand", sealed=b"frame"))
    except KeyError:
        raise AssertionError("it was about to be queued") from None
    except RefusedError:
        return


# The screen


@guard("party.report.markup", "html.escape(printable, quote=True)", "printable")
def what_is_in_the_data_is_no_markup(module: ModuleType, town: Town) -> None:
    assert "<" not in module.text("<script>alert(1)</script>")
    assert '"' not in module.text('" onload="alert(1)')


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = make_town(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("each", GUARDS, ids=str)
def test_without_its_guard_an_attack_would_be_noticed(each: Guard, town: Town, tmp_path: Path) -> None:
    copy = without(each, tmp_path)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        each.check(copy, town)


@pytest.mark.parametrize("each", GUARDS, ids=str)
def test_a_guard_answers_its_attack(each: Guard, town: Town, tmp_path: Path) -> None:
    # A copy too, so that it is the missing line that the other test notices and not the copying.
    each.check(without(replace(each, gone=each.line), tmp_path), town)
