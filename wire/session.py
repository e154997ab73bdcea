"""A session: the channel between two workers of one run, sealed end to end, over any line of frames.

A message goes out as a head (its kind, its length, the first of its bytes) and as many further frames as it needs. The
receiver knows which kind comes next and how large it may be, and refuses before it keeps. Both sides hash all that
they say; when a role has ended they compare, and the digest goes into their receipts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Protocol, TypeVar

import rfc8785

from tidegate.protocols.channel import CarrierError, DisagreementError, M, Message, PeerError, TidegateError

from .identity import Identity
from .seal import MAX_FRAME_BYTES, TAG_BYTES, Handshake, Sealed, Terms, plain

IDLE_S = 600.0
ABORT_S = 5.0
MAX_CONTENT_BYTES = MAX_FRAME_BYTES - TAG_BYTES
_CONFIRM, _HEAD, _MORE, _END, _ABORT = range(5)
_LENGTH = struct.Struct("<Q")

T = TypeVar("T")


def contents(kind: str, data: bytes) -> Iterator[bytes]:
    """What the frames hold that carry a message: a head with its kind, its length and first bytes, then the rest."""
    head = bytes([_HEAD, len(kind)]) + kind.encode("ascii") + _LENGTH.pack(len(data))
    at = MAX_CONTENT_BYTES - len(head)
    # A view, so that each byte is copied once.
    view = memoryview(data)
    yield head + view[:at]
    while at < len(data):
        yield bytes([_MORE]) + view[at : at + MAX_CONTENT_BYTES - 1]
        at += MAX_CONTENT_BYTES - 1


class Transcript:
    """The hash of all that one side of a session says and hears, bound to the handshake.

    first: whether this side's name comes before the other's, so that both sides hash in one order.
    """

    def __init__(self, handshake: bytes, first: bool) -> None:
        self._handshake, self._first = handshake, first
        self._said, self._heard = hashlib.sha256(), hashlib.sha256()

    def say(self, kind: str, data: bytes) -> None:
        for content in contents(kind, data):
            self.said(content)

    def hear(self, kind: str, data: bytes) -> None:
        for content in contents(kind, data):
            self.heard(content)

    def said(self, content: bytes) -> None:
        self._said.update(_LENGTH.pack(len(content)))
        self._said.update(content)

    def heard(self, content: bytes) -> None:
        self._heard.update(_LENGTH.pack(len(content)))
        self._heard.update(content)

    def digest(self) -> bytes:
        said, heard = self._said.digest(), self._heard.digest()
        both = said + heard if self._first else heard + said
        return hashlib.sha256(b"tidegate transcript v1" + self._handshake + both).digest()


class Frames(Protocol):
    """What carries a session. `wire.line.Line` is one; a pair of queues in a test is another."""

    async def send(self, frame: bytes) -> None:
        """Hands a frame of at most 1 MiB over; raises CarrierError once the line is broken."""

    async def recv(self) -> bytes:
        """The next frame; raises CarrierError once the line is broken."""


async def open_session(
    line: Frames,
    *,
    me: Identity,
    peer_identity: bytes,
    contract_hash: bytes,
    run: bytes,
    step: int,
    my_name: str,
    peer_name: str,
    inputs: Mapping[str, str],
    software: str,
    on_message: Callable[[str, str, int], None] | None = None,
    idle_s: float = IDLE_S,
) -> Session:
    """Shakes hands with the other worker and gives the channel to it.

    peer_identity is the pinned key; inputs name the runs of earlier steps whose results are used (step -> run, hex);
    on_message is told ("sent" or "received", kind, bytes) after each message. Raises CarrierError, DisagreementError.
    """
    terms = Terms(contract_hash, run, step, software, my_name, peer_name)
    handshake = Handshake(me, peer_identity, terms)
    hello = handshake.hello()
    await _within(idle_s, line.send(hello), peer_name)
    peer_hello = await _within(idle_s, line.recv(), peer_name)
    answer = handshake.answer(peer_hello)
    await _within(idle_s, line.send(answer), peer_name)
    peer_answer = await _within(idle_s, line.recv(), peer_name)
    session = Session(line, handshake.finish(peer_answer), terms, on_message, idle_s)
    session.bytes_sent = len(hello) + len(answer)
    session.bytes_received = len(peer_hello) + len(peer_answer)
    await session.confirm(inputs)
    return session


async def _within(idle_s: float, waiting: Awaitable[T], peer: str) -> T:
    try:
        async with asyncio.timeout(idle_s):
            return await waiting
    except TimeoutError:
        raise CarrierError(
            f"nothing moved on the line to {peer} for {idle_s:g} s", "the step starts again by itself"
        ) from None


class Session:
    """The channel to the other worker; made by `open_session`, ended by `finish` or `abort`.

    Once anything has failed, every later call fails in the same way: a run never resumes. The line is closed by who
    opened it.
    """

    def __init__(
        self,
        line: Frames,
        sealed: Sealed,
        terms: Terms,
        on_message: Callable[[str, str, int], None] | None,
        idle_s: float,
    ) -> None:
        self._line, self._sealed, self._peer, self._idle_s = line, sealed, terms.peer_name, idle_s
        self._on_message = on_message or (lambda _direction, _kind, _size: None)
        self.handshake = sealed.transcript
        self._transcript = Transcript(sealed.transcript, terms.my_name < terms.peer_name)
        self._sending, self._receiving = asyncio.Lock(), asyncio.Lock()
        self._failed: TidegateError | None = None
        self._aborted: TidegateError | None = None
        self._torn = False
        self.bytes_sent = self.bytes_received = 0

    async def send(self, message: Message) -> None:
        """Hands the message over; waits while the other side is slower than we are."""
        kind, data = type(message).__name__, message.to_bytes()
        if len(data) > message.MAX_BYTES:
            raise ValueError(f"{kind} has {len(data)} bytes, at most {message.MAX_BYTES} are allowed")
        async with self._sending:
            for content in contents(kind, data):
                await self._send_frame(content)
        self._on_message("sent", kind, len(data))

    async def recv(self, kind: type[M]) -> M:
        """The next message, which must be of this kind. Raises PeerError or CarrierError."""
        async with self._receiving:
            try:
                data = await self._message(kind)
                message = kind.from_bytes(data)
            except TidegateError as error:
                self._failed = self._failed or error
                raise
        self._on_message("received", kind.__name__, len(data))
        return message

    async def confirm(self, inputs: Mapping[str, str]) -> None:
        """Proves that both hold the keys, and that both build on the results of the same earlier runs."""
        await self._send_frame(bytes([_CONFIRM]) + rfc8785.dumps(dict(inputs)))
        frame = await self._frame()
        if frame[0] != _CONFIRM:
            raise self._fail(PeerError(f"{self._peer} did not begin by confirming its inputs"))
        try:
            theirs = json.loads(frame[1:])
        except (ValueError, RecursionError):
            theirs = None
        if not isinstance(theirs, dict):
            raise self._fail(PeerError(f"{self._peer}'s inputs cannot be read"))
        differing = sorted(step for step in {*inputs, *theirs} if inputs.get(step) != theirs.get(step))
        if differing:
            named = plain(", ".join(differing), 100)
            raise self._fail(DisagreementError(f"{self._peer} builds on another run of {named} than we do"))

    async def finish(self) -> bytes:
        """Ends the session when the role has ended; gives the digest of all that was said, the same at both sides."""
        digest = self._transcript.digest()
        await self._send_frame(bytes([_END]) + digest)
        frame = await self._frame()
        if frame[0] != _END:
            raise self._fail(PeerError(f"{self._peer} goes on after the protocol has ended"))
        if frame[1:] != digest:
            raise self._fail(PeerError(f"{self._peer} ended at another point of the protocol than we did"))
        self._failed = PeerError("the session has ended")
        return digest

    async def abort(self, reason: str, *, again: bool = False) -> None:
        """Tells the other side, if it can be told, that this one stops and why; `again` if a new run may help."""
        if not self._torn and not self._sending.locked():
            content = bytes([_ABORT, again]) + plain(reason).encode()
            sealed = self._sealed.outgoing.seal(content)
            with contextlib.suppress(CarrierError):
                await _within(min(ABORT_S, self._idle_s), self._line.send(sealed), self._peer)
        self._torn = True
        self._failed = self._failed or CarrierError("the session was aborted")

    def _fail(self, error: TidegateError) -> TidegateError:
        self._failed = error
        return error

    async def _send_frame(self, content: bytes) -> None:
        if self._failed is not None:
            raise self._failed
        if content[0] in (_HEAD, _MORE):
            self._transcript.said(content)
        sealed = self._sealed.outgoing.seal(content)
        # Between here and the end of the wait nobody knows whether the frame left: nothing can follow it if we are
        # interrupted.
        self._torn = True
        try:
            await _within(self._idle_s, self._line.send(sealed), self._peer)
        except CarrierError as error:
            raise self._fail(await self._last_words(error)) from None
        self._torn = False
        self.bytes_sent += len(sealed)

    async def _last_words(self, error: TidegateError) -> TidegateError:
        """Why the other side stopped, if it said so before the line broke; a role that only sends has not read it."""
        if self._receiving.locked():
            return error
        async with self._receiving:
            try:
                async with asyncio.timeout(ABORT_S):
                    while True:
                        await self._frame()
            except (TimeoutError, TidegateError):
                return self._aborted or error

    async def _message(self, kind: type[Message]) -> bytes:
        frame = await self._frame()
        name = kind.__name__
        if frame[0] == _END:
            raise PeerError(f"{self._peer} ended its role, {name} was expected")
        length_at = 2 + frame[1] if len(frame) > 1 else 0
        if frame[0] != _HEAD or len(frame) < length_at + _LENGTH.size:
            raise PeerError(f"{self._peer} sent no message where {name} was expected")
        came = frame[2:length_at].decode("ascii", "replace")
        if came != name:
            raise PeerError(f"{self._peer} sent {plain(came, 60)}, {name} was expected")
        (length,) = _LENGTH.unpack_from(frame, length_at)
        if length > kind.MAX_BYTES:
            raise PeerError(f"{self._peer} sent a {name} of {length} bytes, at most {kind.MAX_BYTES} are allowed")
        body = memoryview(frame)[length_at + _LENGTH.size :]
        if len(body) == length:
            return bytes(body)
        data = bytearray(body)
        while len(data) < length:
            more = await self._frame()
            if more[0] != _MORE or len(more) == 1:
                raise PeerError(f"{self._peer} broke off a {name} after {len(data)} of {length} bytes")
            data += memoryview(more)[1:]
        if len(data) > length:
            raise PeerError(f"{self._peer} sent {len(data)} bytes of a {name} of {length}")
        return bytes(data)

    async def _frame(self) -> bytes:
        """The other side's next frame, opened; its reason, raised, if it aborts."""
        if self._failed is not None:
            raise self._failed
        try:
            sealed = await _within(self._idle_s, self._line.recv(), self._peer)
            self.bytes_received += len(sealed)
            frame = self._sealed.incoming.open(sealed)
        except CarrierError as error:
            raise self._fail(error) from None
        if not frame:
            raise self._fail(PeerError(f"{self._peer} sent a frame without content"))
        if frame[0] == _ABORT:
            again = len(frame) > 1 and frame[1] == 1
            text = f"{self._peer} stopped: {plain(frame[2:].decode(errors='replace'))}"
            self._aborted = CarrierError(text) if again else PeerError(text)
            raise self._fail(self._aborted)
        if frame[0] in (_HEAD, _MORE):
            self._transcript.heard(frame)
        return frame
