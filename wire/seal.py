"""Sealing between two workers of one run: a handshake, then numbered frames. No input or output here: bytes in and out.

    first (the lower name)                              second
      ephemeral X-Wing key e1                             ephemeral X-Wing key e2
      -- Hello1: terms, e1, signed ->                     refuse unless signed by the pinned key and our terms
                                      <- Hello2: terms, e2, signed --
      -- Answer1: HPKE(e2, r1), signed over both hellos ->
                                      <- Answer2: HPKE(e1, r2), signed over both hellos --
      keys = HKDF-SHA256(r1 || r2, salt = contract, info = all four)  -> one AES-256-GCM key per direction

Terms are contract hash, run, step, software version, both names. The hellos may cross, and so may the answers. The
ephemeral keys are forgotten with the handshake, so what was recorded stays closed when identity keys are stolen later.
A frame's nonce is its number, its associated data contract, run, direction and number: one that is altered, repeated,
left out, reflected, or moved from elsewhere does not open.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tidegate.protocols.channel import MIB, CarrierError, DisagreementError, Message, PeerError

from . import xwing
from .identity import Identity, verify_signature

MAX_FRAME_BYTES = MIB
TAG_BYTES = 16
MAX_FRAMES = 2**32
_HELLO = b"tidegate hello v1"
_ANSWER = b"tidegate answer v1"
_SESSION = b"tidegate session v1"
_TAMPERED = "the coordinator or the network altered, dropped, repeated or reordered it; the step starts again by itself"


@dataclass(frozen=True)
class Terms:
    """What both sides must mean before they talk."""

    contract_hash: bytes
    run: bytes
    step: int
    software: str
    my_name: str
    peer_name: str


@dataclass(frozen=True)
class _Hello(Message):
    MAX_BYTES: ClassVar[int] = 4096

    contract_hash: bytes
    run: bytes
    step: int
    software: str
    sender: str
    recipient: str
    identity: bytes
    ephemeral: bytes
    signature: bytes

    def signed_bytes(self) -> bytes:
        return _HELLO + replace(self, signature=b"").to_bytes()


@dataclass(frozen=True)
class _Answer(Message):
    MAX_BYTES: ClassVar[int] = 4096

    sealed: bytes
    signature: bytes


class Lane:
    """One direction of a session: one side seals on it, the other opens, in the same order."""

    def __init__(self, key: bytes, bound: bytes) -> None:
        self._cipher, self._bound, self._number = AESGCM(key), bound, 0

    def _next(self) -> tuple[bytes, bytes]:
        if self._number >= MAX_FRAMES:
            raise CarrierError(f"a run has at most {MAX_FRAMES} frames a direction", "split the data set")
        number = struct.pack("<Q", self._number)
        self._number += 1
        return number + bytes(4), self._bound + number

    def seal(self, plaintext: bytes) -> bytes:
        nonce, associated = self._next()
        return self._cipher.encrypt(nonce, plaintext, associated)

    def open(self, sealed: bytes) -> bytes:
        """Raises CarrierError for anything but the other side's next frame."""
        number = self._number
        nonce, associated = self._next()
        try:
            return self._cipher.decrypt(nonce, sealed, associated)
        except InvalidTag:
            raise CarrierError(f"frame {number} is not the one that the other side sealed", _TAMPERED) from None


@dataclass(frozen=True)
class Sealed:
    """What a handshake ends with. `transcript` is the hash of its four messages, the same at both sides."""

    outgoing: Lane
    incoming: Lane
    transcript: bytes


class Handshake:
    """One side. Send `hello()`; give what comes to `answer` and send that; give what comes to `finish`."""

    def __init__(self, me: Identity, peer_identity: bytes, terms: Terms) -> None:
        if terms.my_name == terms.peer_name or len(terms.contract_hash) != 32 or len(terms.run) != 16:
            raise ValueError("terms name two parties, a contract hash of 32 bytes and a run of 16")
        self._me, self._peer_identity, self._terms = me, peer_identity, terms
        self._first = terms.my_name < terms.peer_name
        self._ephemeral = xwing.SealingKey.generate()
        self._secret = os.urandom(32)
        self._hello = self._answer = self._hellos = b""

    def hello(self) -> bytes:
        terms = self._terms
        hello = _Hello(
            terms.contract_hash,
            terms.run,
            terms.step,
            terms.software,
            terms.my_name,
            terms.peer_name,
            self._me.public,
            self._ephemeral.public,
            signature=b"",
        )
        self._hello = _HELLO + replace(hello, signature=self._me.sign(hello.signed_bytes())).to_bytes()
        return self._hello

    def answer(self, peer_hello: bytes) -> bytes:
        """Raises CarrierError for a hello that is not the peer's, DisagreementError if it is and means other terms."""
        hello = self._checked(peer_hello)
        self._hellos = hashlib.sha256(self._in_order(self._hello, peer_hello)).digest()
        sealed = xwing.seal(hello.ephemeral, self._secret, self._info(from_first=self._first))
        signature = self._me.sign(self._answer_signed(sealed, from_first=self._first))
        self._answer = _Answer(sealed, signature).to_bytes()
        return self._answer

    def finish(self, peer_answer: bytes) -> Sealed:
        """Raises CarrierError unless it is the peer's answer to exactly these two hellos."""
        peer = self._terms.peer_name
        try:
            answer = _Answer.from_bytes(peer_answer)
        except PeerError:
            raise CarrierError(f"{peer}'s answer to the handshake cannot be read", _TAMPERED) from None
        signed = self._answer_signed(answer.sealed, from_first=not self._first)
        verify_signature(self._peer_identity, signed, answer.signature, f"{peer}'s answer to the handshake")
        secret = self._ephemeral.open(answer.sealed, self._info(from_first=not self._first))
        if len(secret) != 32:
            raise CarrierError(f"{peer}'s answer to the handshake holds {len(secret)} bytes, 32 were expected")
        transcript = hashlib.sha256(self._hellos + self._in_order(self._answer, peer_answer)).digest()
        keys = HKDF(SHA256(), 64, self._terms.contract_hash, _SESSION + transcript).derive(
            self._in_order(self._secret, secret)
        )
        bound = self._terms.contract_hash + self._terms.run
        lanes = Lane(keys[:32], bound + b"\0"), Lane(keys[32:], bound + b"\1")
        outgoing, incoming = lanes if self._first else lanes[::-1]
        return Sealed(outgoing, incoming, transcript)

    def _checked(self, peer_hello: bytes) -> _Hello:
        terms = self._terms
        peer = terms.peer_name
        if peer_hello == self._hello:
            raise CarrierError("our own hello came back instead of the other side's", _TAMPERED)
        try:
            if not peer_hello.startswith(_HELLO):
                raise PeerError("no hello")
            hello = _Hello.from_bytes(peer_hello.removeprefix(_HELLO))
        except PeerError:
            raise CarrierError(f"{peer}'s hello cannot be read", _TAMPERED) from None
        try:
            verify_signature(self._peer_identity, hello.signed_bytes(), hello.signature, f"{peer}'s hello")
        except CarrierError:
            self._tell_other_key(hello)
            raise
        key = self._peer_identity
        expected = (terms.contract_hash, terms.run, terms.step, terms.software, peer, terms.my_name, key)
        shown = tuple(getattr(hello, field.name) for field in fields(hello)[:7])
        words = ("contract", "run", "step", "version of tidegate", "sender", "recipient", "identity")
        for word, ours, theirs in zip(words, expected, shown, strict=True):
            if ours != theirs:
                hint = "install the same version at both sides" if word == words[3] else ""
                text = f"{peer} means another {word} than we do: {_short(theirs)}, we mean {_short(ours)}"
                raise DisagreementError(text, hint or "compare what both sides see of the campaign")
        return hello

    def _tell_other_key(self, hello: _Hello) -> None:
        """Raises DisagreementError if a key other than the pinned one signed this hello in its owner's own name."""
        if hello.identity in (self._peer_identity, self._me.public):
            return
        verify_signature(hello.identity, hello.signed_bytes(), hello.signature, f"{self._terms.peer_name}'s hello")
        raise DisagreementError(
            f"{self._terms.peer_name} uses another identity key than the one you trust",
            "ask for its card, compare fingerprints by telephone, and trust it again only if they agree",
        )

    def _answer_signed(self, sealed: bytes, *, from_first: bool) -> bytes:
        return _ANSWER + self._hellos + bytes([not from_first]) + sealed

    def _info(self, *, from_first: bool) -> bytes:
        return _SESSION + self._terms.contract_hash + self._hellos + bytes([not from_first])

    def _in_order(self, ours: bytes, theirs: bytes) -> bytes:
        """The first side's bytes before the second's, with the length of what could be of any length."""
        parts = (ours, theirs) if self._first else (theirs, ours)
        return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def plain(text: str, longest: int = 400) -> str:
    """Another machine's text, fit to be shown to a person: one line, no control characters, not endless."""
    kept = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * longest])
    kept = " ".join(kept.split())
    return kept if len(kept) <= longest else kept[: longest - 3] + "..."


def _short(value: object) -> str:
    return value.hex()[:12] if isinstance(value, bytes) else plain(str(value), 60)
