"""What parties tell one another outside a run: offers, proposals, approvals, refusals, cancellations.

Each is a letter, signed by its sender and sealed to the recipient's card; the coordinator carries it unread. A letter
counts only if it verifies by the card trusted here. What goes out is recorded here after the coordinator has taken it,
so a call that fails leaves nothing behind and can be made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import grpc.aio

from tidegate import __version__
from tidegate.protocols.channel import CarrierError, ConfigError, DisagreementError, PolicyError, TidegateError
from tidegate.wire.contract import KEY_FORMS, KEY_KINDS, NAME, Contract, signed_bytes
from tidegate.wire.ending import PersonError
from tidegate.wire.identity import Card, Identity, verify_signature
from tidegate.wire.invite import (
    Invite,
    certificate_request,
    join_signed_bytes,
    new_tls_key,
    pem_certificate,
    verify_certificate,
)
from tidegate.wire.letter import Note, open_letter, seal_letter
from tidegate.wire.line import dial, dial_async, explain, plain
from tidegate.wire.relay_pb2 import (
    CampaignState,
    CollectRequest,
    Docket,
    JoinRequest,
    Letter,
    LookRequest,
    Members,
    PostRequest,
    Signature,
    Withdrawal,
)
from tidegate.wire.relay_pb2_grpc import RelayStub

from . import policy
from .config import Home
from .store import FINAL, STATES, Campaign, Offer, Store

if TYPE_CHECKING:
    from tidegate.wire.relay_pb2_grpc import RelayAsyncStub

TIMEOUT_S = 15
MAX_ASIDE = 200
MAX_REASON = 300
MAX_AHEAD_S = 86400  # how far another party's clock may be before ours
_FURTHEST = 1e101  # no number in a table lies beyond

T = TypeVar("T")


def online(home: Home, work: Callable[[RelayAsyncStub], Awaitable[T]]) -> T:
    """Runs `work` with a line to the coordinator, from code that has no event loop. Raises a TidegateError."""
    endpoint = home.coordinator()

    async def connected() -> T:
        async with dial_async(endpoint) as channel:
            try:
                return await work(RelayStub(channel))
            except grpc.aio.AioRpcError as error:
                raise explain(error, endpoint.address) from None

    return asyncio.run(connected())


def join(home: Home, invite_text: str) -> str:
    """Lets this party in at the coordinator of an invite; its address. Nothing is kept unless all of it worked."""
    invite, identity = Invite.parse(invite_text), home.load_identity()
    if invite.party != identity.name:
        raise ConfigError(
            f"the invite is for a party called {invite.party}, this one is {identity.name}",
            f"ask for an invite for {identity.name}, or make the party {invite.party} with another --home",
        )
    if time.time() > invite.expires_s + policy.CLOCK_SLACK_S:
        raise ConfigError("the invite has expired", "ask the coordinator for a new one")
    key = new_tls_key()
    request = certificate_request(identity, key)
    endpoint = invite.endpoint
    with dial(endpoint) as relay:
        reply = relay.Join(
            JoinRequest(
                secret=invite.secret,
                party=identity.name,
                identity=identity.public,
                csr=request,
                signature=identity.sign(join_signed_bytes(invite.secret, request)),
                software=__version__,
            ),
            timeout=TIMEOUT_S,
        )
    verify_certificate(reply.certificate, key, endpoint.ca, identity.name)
    home.join(type(endpoint)(endpoint.address, endpoint.ca, pem_certificate(reply.certificate), key), invite.identity)
    return endpoint.address


async def offer(home: Home, store: Store, relay: RelayAsyncStub, dataset: str, partner: str) -> Offer:
    """Shows a trusted partner what columns a data set has: names, kinds and ranges, never rows."""
    data, card, rules = store.dataset(dataset), trusted(store, partner), policy.load(home)
    if rules.allowed_partners is not None and partner not in rules.allowed_partners:
        raise PolicyError(f"our policy does not allow {partner} as a partner", "see allowed_partners in policy.toml")
    usable = set(policy.usable_features(data.columns)) - set(rules.hidden_columns)
    columns = [column for column in data.columns if column["name"] in usable]
    now_s = int(time.time())
    shown = Offer(partner, data.name, data.rows, data.commitment, sorted(data.keys), columns, now_s, data.given)
    body = {
        "dataset": shown.dataset,
        "rows": shown.rows,
        "commitment": shown.commitment,
        "keys": shown.keys,
        "given": shown.given,
        "columns": shown.columns,
    }
    await _post(home.load_identity(), relay, [card], "offer", body)
    store.put_offer(shown, sent=True)
    return shown


async def propose(home: Home, store: Store, relay: RelayAsyncStub, contract: Contract) -> Campaign:
    """Signs a contract that this party made, sends it to the others and files it at the coordinator."""
    identity = home.load_identity()
    policy.check_contract(home, store, contract, time.time())
    others = [party.name for party in contract.parties if party.name != identity.name]
    signature = identity.sign(signed_bytes(contract.hash))
    docket = Docket(
        contract=contract.hash,
        parties=[identity.name, *others],
        steps=[step.name for step in contract.steps],
        expires_s=contract.expires_s,
        signature=signature,
        members=[Members(parties=contract.on_line(step)) for step in contract.steps],
    )
    await relay.File(docket, timeout=TIMEOUT_S)
    body = {"contract": contract.to_bytes().decode(), "signature": signature.hex()}
    await _post(identity, relay, [trusted(store, name) for name in others], "proposal", body)
    store.put_campaign(contract, identity.name)
    store.add_signature(contract.hash, identity.name, signature)
    store.add_event(contract.hash, 0, f"proposed to {', '.join(others)}")
    for name in others:
        # An approval can be quicker than the lines above.
        file_letters_aside(store, identity, name, "early")
    return store.campaign(contract.hash)


async def approve(home: Home, store: Store, relay: RelayAsyncStub, campaign: Campaign) -> None:
    """Signs a contract that another party proposed. Raises where our rules or our data do not allow it."""
    identity, contract = home.load_identity(), campaign.contract
    if campaign.state in FINAL:
        raise PolicyError(f"the campaign {campaign.name} is over: {campaign.state}", "have it proposed again")
    policy.check_contract(home, store, contract, time.time())
    signature = identity.sign(signed_bytes(campaign.hash))
    body = {"contract": campaign.hash.hex(), "signature": signature.hex()}
    await _post(identity, relay, _others(store, identity, contract), "approval", body)
    state = await relay.Sign(Signature(contract=campaign.hash, signature=signature), timeout=TIMEOUT_S)
    store.add_signature(campaign.hash, identity.name, signature)
    store.add_event(campaign.hash, 0, f"{identity.name} approved")
    note_state(store, state, home.name())


async def refuse(home: Home, store: Store, relay: RelayAsyncStub, campaign: Campaign, reason: str) -> None:
    """Says no to a proposal; the reason goes to the other parties."""
    if home.name() in store.signatures(campaign.hash):
        raise PolicyError(
            f"the campaign {campaign.name} was approved here", f"`tidegate campaign cancel {campaign.short}` stops it"
        )
    await _withdraw(home, store, relay, campaign, "refusal", reason)


async def cancel(home: Home, store: Store, relay: RelayAsyncStub, campaign: Campaign, reason: str) -> None:
    """Stops a campaign that this party signed. What was released stays released."""
    await _withdraw(home, store, relay, campaign, "cancellation", reason)


async def _withdraw(
    home: Home, store: Store, relay: RelayAsyncStub, campaign: Campaign, kind: str, reason: str
) -> None:
    identity = home.load_identity()
    if campaign.state in FINAL:
        raise PolicyError(f"the campaign {campaign.name} is over: {campaign.state}", "there is nothing left to stop")
    body = {"contract": campaign.hash.hex(), "reason": plain(reason, MAX_REASON)}
    await _post(identity, relay, _others(store, identity, campaign.contract), kind, body)
    await relay.Withdraw(Withdrawal(contract=campaign.hash, refused=kind == "refusal"), timeout=TIMEOUT_S)
    state = "refused" if kind == "refusal" else "cancelled"
    store.set_state(campaign.hash, state, plain(reason, MAX_REASON), identity.name)


async def collect(home: Home, store: Store, relay: RelayAsyncStub) -> list[str]:
    """Fetches and files what waits at the coordinator; one readable line for each letter that says something new."""
    identity, lines = home.load_identity(), list[str]()
    kept: list[bytes] = []
    while True:
        reply = await relay.Collect(CollectRequest(kept=kept), timeout=TIMEOUT_S)
        new = [letter for letter in reply.letters if letter.id not in kept]
        if not new:
            break
        # A letter is forgotten by the coordinator with the next call, when it is on our disk.
        kept = [bytes(letter.id) for letter in new]
        async with _only_one_files(home):
            lines += [line for letter in new for line in file_letter(store, identity, letter)]
    lines += await _approve_standing(home, store, relay)
    return lines


@contextlib.asynccontextmanager
async def _only_one_files(home: Home) -> AsyncIterator[None]:
    """Keeps the node and commands from filing at the same time: a letter that one of them has begun to file would else
    come after a newer one that the other has filed meanwhile, and an old offer would replace the new."""
    lock = os.open(home.path / "mail.lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await asyncio.sleep(0.02)
        yield
    finally:
        os.close(lock)


async def _approve_standing(home: Home, store: Store, relay: RelayAsyncStub) -> list[str]:
    lines = []
    for campaign in store.campaigns():
        if campaign.state != "signing" or home.name() in store.signatures(campaign.hash):
            continue
        if policy.is_auto_approved(home, store, campaign, time.time()):
            try:
                await approve(home, store, relay, campaign)
            except grpc.aio.AioRpcError as error:
                why = explain(error, home.coordinator().address)
                if isinstance(why, CarrierError):
                    raise
                # Its proposer may have filed nothing there, or cancelled: no reason to stop reading letters.
                lines.append(f"{campaign.name} ({campaign.short}) could not be approved: {why.text}")
                continue
            store.audit("approved by the standing policy", campaign.hash)
            lines.append(f"{campaign.name} ({campaign.short}) was approved by the standing policy in policy.toml")
    return lines


async def look(home: Home, store: Store, relay: RelayAsyncStub) -> dict[bytes, CampaignState]:
    """Notes what the coordinator says of this party's campaigns, and gives it by contract hash."""
    reply = await relay.Look(LookRequest(), timeout=TIMEOUT_S)
    for state in reply.campaigns:
        note_state(store, state, home.name())
    return {bytes(state.contract): state for state in reply.campaigns}


def note_state(store: Store, state: CampaignState, me: str) -> None:
    """Keeps what the coordinator says of a campaign that is known here; `done` only if all steps of `me` are."""
    known = [campaign for campaign in store.campaigns() if campaign.hash == state.contract]
    if not known or known[0].state in FINAL or state.state not in STATES:
        return
    if state.state == "done":
        made = known[0].contract
        own = [index for index, step in enumerate(made.steps) if made.takes_part(me, step)]
        if not all(store.committed_run(known[0].hash, index) for index in own):
            return
    reason = plain(state.reason)
    if state.state in ("waiting", "failed"):
        # Of a run that failed here our own worker said more than the coordinator may know.
        runs = store.runs(known[0].hash)
        if runs and runs[-1].state == "failed" and runs[-1].error != "carrier":
            reason = runs[-1].reason
    store.set_state(known[0].hash, state.state, reason, plain(state.by, 63))


def file_letter(store: Store, identity: Identity, letter: Letter) -> list[str]:
    """Acts on one letter, once; what a person should be told about it."""
    if store.has_letter(letter.id) or len(letter.id) != 16 or not NAME.fullmatch(letter.sender):
        return []
    return _act_on(store, identity, letter)


def _act_on(store: Store, identity: Identity, letter: Letter) -> list[str]:
    partner = store.partner(letter.sender)
    if partner is None:
        return _set_aside(store, letter, "untrusted", f"a letter from {letter.sender} waits: trust its card first")
    try:
        note = open_letter(identity, _card(partner.card), letter)
    except TidegateError as error:
        return _set_aside(store, letter, "unverified", f"a letter was set aside: {error.text}")
    try:
        if note.sent_s > time.time() + MAX_AHEAD_S:
            raise DisagreementError("it comes from the future: compare clocks")
        lines = _READERS[note.kind](store, identity, note) if note.kind in _READERS else []
    except _EarlyError:
        return _set_aside(store, letter, "early", f"a letter from {note.sender} waits for the campaign it is about")
    except PersonError:
        raise  # our store takes nothing: the letter stays at the coordinator
    except TidegateError as error:
        lines = [f"a letter from {note.sender} was not filed: {plain(error.text)}"]
    except (ValueError, OverflowError):
        # Text and numbers that JSON can write and nothing else can hold: one letter must not stop the others.
        lines = [f"a letter from {note.sender} was not filed: it holds a value that cannot be kept"]
    store.file_letter(letter.id, letter.sender)
    return lines


class _EarlyError(ConfigError):
    """The letter is about a campaign that is not known here yet: letters may overtake each other."""


def file_letters_aside(store: Store, identity: Identity, sender: str, note: str = "untrusted") -> list[str]:
    """Files the letters that waited for the sender's card to be trusted, or ("early") for a campaign to be known."""
    lines = []
    for kept in store.letters_aside():
        if kept.sender == sender and kept.note == note:
            letter = Letter(id=kept.id, sender=sender, recipient=identity.name, sealed=kept.sealed)
            lines += _act_on(store, identity, letter)
    return lines


def trusted(store: Store, name: str) -> Card:
    """The card of a partner. PolicyError before it is trusted here."""
    partner = store.partner(name)
    if partner is None:
        raise PolicyError(
            f"the card of {name} is not trusted here",
            f"ask {name} for the output of `tidegate party card`, then `tidegate party trust FILE`",
        )
    return _card(partner.card)


def _card(text: bytes) -> Card:
    return Card.parse(text.decode())


def _others(store: Store, identity: Identity, contract: Contract) -> list[Card]:
    return [trusted(store, party.name) for party in contract.parties if party.name != identity.name]


async def _post(identity: Identity, relay: RelayAsyncStub, cards: list[Card], kind: str, body: dict[str, Any]) -> None:
    now_s = int(time.time())
    letters = [seal_letter(identity, card, kind, body, now_s=now_s) for card in cards]
    await relay.Post(PostRequest(letters=letters), timeout=TIMEOUT_S)


def _set_aside(store: Store, letter: Letter, note: str, line: str) -> list[str]:
    if len(store.letters_aside()) >= MAX_ASIDE:
        return [f"a letter from {letter.sender} was dropped: {MAX_ASIDE} letters wait already"]
    store.set_letter_aside(letter.id, letter.sender, letter.sealed, note)
    return [line]


_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def _hex(note: Note, key: str, size: int) -> bytes:
    value = note.body.get(key)
    if not isinstance(value, str) or len(value) != 2 * size or not _HEX.fullmatch(value):
        raise DisagreementError(f"its {key} is not {size} bytes in hex")
    return bytes.fromhex(value)


def _reason(note: Note) -> str:
    value = note.body.get("reason", "")
    return plain(value, MAX_REASON) if isinstance(value, str) else ""


def _read_offer(store: Store, identity: Identity, note: Note) -> list[str]:
    body = note.body
    dataset, rows, keys, columns = (body.get(name) for name in ("dataset", "rows", "keys", "columns"))
    commitment = _hex(note, "commitment", 32).hex()
    given = body.get("given", {})  # a partner of an older version says nothing: its columns are clear
    if (
        not isinstance(dataset, str)
        or not NAME.fullmatch(dataset)
        or not isinstance(rows, int)
        or isinstance(rows, bool)
        or not 1 <= rows <= 10**9
        or not isinstance(keys, list)
        or len(keys) > len(KEY_KINDS)
        or not all(key in KEY_KINDS for key in keys)
        or not isinstance(given, dict)
        or not all(key in keys and form in KEY_FORMS for key, form in given.items())
        or not isinstance(columns, list)
        or len(columns) > 4096
    ):
        raise DisagreementError("it is no offer of a data set")
    earlier = store.offer(note.sender, dataset, sent=False)
    if earlier is not None and earlier.at_s > note.sent_s:
        return []
    shown = [_column(column) for column in columns]
    store.put_offer(Offer(note.sender, dataset, rows, commitment, keys, shown, note.sent_s, given), sent=False)
    return [f"{note.sender} offers the data set {dataset}: {rows:,} rows, {len(shown)} columns"]


def _column(raw: object) -> dict[str, Any]:
    """A column of an offer, checked field by field: it will be shown and compared."""
    column = raw if isinstance(raw, dict) else {}
    name, kind = column.get("name"), column.get("kind")
    categories, missing = column.get("categories"), column.get("missing_percent")
    ends = (column.get("low"), column.get("high"))
    if (
        not isinstance(name, str)
        or not 1 <= len(name) <= 200
        or not name.isprintable()
        or kind not in ("number", "category")
        or not isinstance(categories, list)
        or len(categories) > 1000
        or not all(isinstance(text, str) and len(text) <= 1000 for text in categories)
        or not isinstance(missing, int)
        or not 0 <= missing <= 100
        or not isinstance(column.get("constant"), bool)
        or not all(end is None or _is_number(end) for end in ends)
    ):
        raise DisagreementError("it is no offer of a data set")
    shown = [plain(text, 200) for text in categories]
    return {
        "name": name,
        "kind": kind,
        "low": ends[0],
        "high": ends[1],
        "categories": shown,
        "missing_percent": missing,
        "constant": column["constant"],
    }


def _is_number(value: object) -> bool:
    # JSON as Python reads it has NaN, infinities and integers of thousands of digits.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _FURTHEST


def _read_proposal(store: Store, identity: Identity, note: Note) -> list[str]:
    text = note.body.get("contract")
    if not isinstance(text, str):
        raise DisagreementError("it is no proposal")
    contract = Contract.from_bytes(text.encode())
    signature = _hex(note, "signature", 64)
    _check_signer(store, contract, note, signature)
    if contract.party(identity.name).identity != identity.public.hex():
        raise DisagreementError("the proposal names another key for this party")
    if contract.is_horizontal and contract.parties[0].name != note.sender:
        # To the first client all others have offered their columns, and it alone needs no offer of its own.
        raise DisagreementError("the proposal comes from another client than the first that it names")
    new = store.put_campaign(contract, note.sender)
    store.add_signature(contract.hash, note.sender, signature)
    if not new:
        return []
    store.add_event(contract.hash, 0, f"proposed by {note.sender}")
    look_at = f"look at it with `tidegate party show {contract.short}`"
    lines = [f"{note.sender} proposes the campaign {contract.campaign} ({contract.short}): {look_at}"]
    for party in contract.parties:
        lines += file_letters_aside(store, identity, party.name, "early")
    return lines


def _known(store: Store, note: Note) -> Campaign:
    contract = _hex(note, "contract", 32)
    try:
        return store.campaign(contract)
    except ConfigError as error:
        raise _EarlyError(error.text, error.hint) from None


def _read_approval(store: Store, identity: Identity, note: Note) -> list[str]:
    campaign = _known(store, note)
    signature = _hex(note, "signature", 64)
    _check_signer(store, campaign.contract, note, signature)
    if note.sender in store.signatures(campaign.hash):
        return []
    store.add_signature(campaign.hash, note.sender, signature)
    store.add_event(campaign.hash, 0, f"{note.sender} approved")
    return [f"{note.sender} approved {campaign.name} ({campaign.short})"]


def _read_refusal(store: Store, identity: Identity, note: Note) -> list[str]:
    return _read_end(store, note, "refused")


def _read_cancellation(store: Store, identity: Identity, note: Note) -> list[str]:
    return _read_end(store, note, "cancelled")


def _read_end(store: Store, note: Note, state: str) -> list[str]:
    campaign = _known(store, note)
    campaign.contract.party(note.sender)
    reason = _reason(note)
    if not store.set_state(campaign.hash, state, reason, note.sender):
        return []
    return [f"{note.sender} {state} {campaign.name} ({campaign.short}){f': {reason}' if reason else ''}"]


def _check_signer(store: Store, contract: Contract, note: Note, signature: bytes) -> None:
    """The sender is a party of the contract, under the key trusted here, and signed it."""
    card, named = trusted(store, note.sender), contract.party(note.sender)
    if named.identity != card.identity.hex():
        raise DisagreementError(f"the contract names another key for {note.sender} than the card trusted here")
    verify_signature(card.identity, signed_bytes(contract.hash), signature, "the contract")


_READERS: dict[str, Callable[[Store, Identity, Note], list[str]]] = {
    "offer": _read_offer,
    "proposal": _read_proposal,
    "approval": _read_approval,
    "refusal": _read_refusal,
    "cancellation": _read_cancellation,
}
