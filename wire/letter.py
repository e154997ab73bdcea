"""Letters: what one party tells another outside a run, through a coordinator that stores but cannot read them.

The JSON body is signed by the sender's identity together with both names, the recipient's keys, the kind, the id and
the time, then sealed to the recipient's card. So a letter cannot be read, altered, attributed to somebody else, or
passed on to a third party as if meant for them. It can come twice: the receiver keeps the ids that it has seen.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import rfc8785

from tidegate.protocols.channel import MIB, CarrierError, ConfigError, Message, PeerError

from . import xwing
from .identity import Card, Identity, verify_signature
from .relay_pb2 import Letter

MAX_LETTER_BYTES = MIB
ID_BYTES = 16


@dataclass(frozen=True)
class _Written(Message):
    MAX_BYTES: ClassVar[int] = MAX_LETTER_BYTES

    letter_id: bytes
    sender: str
    recipient: str
    keys: bytes  # SHA-256 of the recipient's public keys
    kind: str
    sent_s: int
    body: bytes
    signature: bytes

    def signed_bytes(self) -> bytes:
        return b"tidegate letter v1" + replace(self, signature=b"").to_bytes()


@dataclass(frozen=True)
class Note:
    """An opened letter: from whom, what about, when (Unix seconds, the sender's clock), and its JSON body."""

    id: bytes
    sender: str
    kind: str
    sent_s: int
    body: dict[str, Any]


def seal_letter(me: Identity, to: Card, kind: str, body: dict[str, Any], *, now_s: int) -> Letter:
    """A letter ready to be posted. Raises ConfigError if the body is too large to be sent."""
    letter_id = os.urandom(ID_BYTES)
    unsigned = _Written(letter_id, me.name, to.name, _keys(to), kind, now_s, rfc8785.dumps(body), signature=b"")
    written = replace(unsigned, signature=me.sign(unsigned.signed_bytes())).to_bytes()
    if len(written) + xwing.SEAL_OVERHEAD > MAX_LETTER_BYTES:
        size = f"a letter has at most {MAX_LETTER_BYTES} bytes, this one {len(written)}"
        raise ConfigError(size, "name fewer columns")
    sealed = xwing.seal(to.sealing, written, _info(letter_id, me.name, to.name))
    return Letter(id=letter_id, sender=me.name, recipient=to.name, sealed=sealed)


def open_letter(me: Identity, sender: Card, letter: Letter) -> Note:
    """Opens a letter by the party that `sender` pins.

    Raises CarrierError if it is not by that party, not for us, or was altered; PeerError if its body is no JSON object.
    """
    if len(letter.sealed) > MAX_LETTER_BYTES:
        raise CarrierError(f"a letter has at most {MAX_LETTER_BYTES} bytes, {len(letter.sealed)} came")
    try:
        opened = me.sealing.open(letter.sealed, _info(letter.id, letter.sender, letter.recipient))
        written = _Written.from_bytes(opened)
    except (CarrierError, PeerError):
        raise CarrierError(f"a letter from {sender.name} cannot be opened: it was altered, or is not for us") from None
    verify_signature(sender.identity, written.signed_bytes(), written.signature, f"a letter from {sender.name}")
    meant = (letter.id, sender.name, me.name, _keys(me.card))
    if (written.letter_id, written.sender, written.recipient, written.keys) != meant:
        raise CarrierError(f"a letter from {sender.name} was written to somebody else or by somebody else")
    try:
        body = json.loads(written.body)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise PeerError(f"a letter from {sender.name} is not a JSON object", "does it run this version of tidegate?")
    return Note(written.letter_id, written.sender, written.kind, written.sent_s, body)


def _keys(card: Card) -> bytes:
    return hashlib.sha256(card.identity + card.sealing).digest()


def _info(letter_id: bytes, sender: str, recipient: str) -> bytes:
    """Bound by HPKE. Names hold no '|', so the parts cannot run into each other."""
    return b"tidegate letter v1|" + f"{sender}|{recipient}|".encode() + letter_id
