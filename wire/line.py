"""The line to the coordinator: gRPC over mutual TLS, and a worker's stream of sealed frames through it.

A worker computes for seconds at a time. Its lines therefore live in a thread and an event loop of their own, which
keeps sending and receiving meanwhile, at most `DEPTH` frames ahead each way.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, wait
from typing import Any, ClassVar

import grpc
import grpc.aio

from tidegate.protocols.channel import CarrierError, ConfigError, DisagreementError, TidegateError

from .crossing import Crossing
from .invite import SERVER_NAME, Endpoint
from .relay_pb2 import Frame
from .relay_pb2_grpc import RelayStub
from .seal import MAX_FRAME_BYTES
from .seal import plain as plain

DEPTH = 8
CLOSE_S = 5.0

# A peer that is dead or frozen is noticed after two of these, within 30 seconds with room to spare.
KEEPALIVE_OPTIONS = (
    ("grpc.keepalive_time_ms", 8000),
    ("grpc.keepalive_timeout_ms", 8000),
    ("grpc.http2.ping_timeout_ms", 8000),  # this is the one that the present gRPC waits for; it would be a minute
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


def _options(address: str) -> tuple[tuple[str, str | int], ...]:
    options: tuple[tuple[str, str | int], ...] = (
        *KEEPALIVE_OPTIONS,
        ("grpc.ssl_target_name_override", SERVER_NAME),
        ("grpc.max_reconnect_backoff_ms", 5000),
    )
    if address.rpartition(":")[0] in ("127.0.0.1", "localhost", "[::1]"):
        options += (("grpc.enable_http_proxy", 0),)  # a company's proxy cannot reach our loopback
    return options


def _credentials(endpoint: Endpoint) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(endpoint.ca, endpoint.key, endpoint.certificate)


@contextlib.contextmanager
def dial(endpoint: Endpoint) -> Iterator[RelayStub]:
    """A stub for calls that wait; what they raise leaves the block as a TidegateError. Give each call a timeout."""
    with grpc.secure_channel(endpoint.address, _credentials(endpoint), _options(endpoint.address)) as channel:
        try:
            yield RelayStub(channel)
        except grpc.RpcError as error:
            raise explain(error, endpoint.address) from None


def dial_async(endpoint: Endpoint) -> grpc.aio.Channel:
    """A channel for the running event loop; pass what its calls raise to `explain`."""
    return grpc.aio.secure_channel(endpoint.address, _credentials(endpoint), _options(endpoint.address))


_OTHER_COORDINATOR = (
    "the server at {address} is not the coordinator that the invite named",
    "check the address; if the coordinator was set up anew, ask it for a new invite and join again",
)
_CLOSED = (
    "the server at {address} closes the connection at once",
    "if it is the coordinator, our certificate may have expired: ask it for a new invite and join again",
)
_UNREACHABLE = (
    "the coordinator at {address} cannot be reached",
    "is it running, and may this machine connect to that address? `tidegate doctor` looks closer",
)


def explain(error: grpc.RpcError, address: str) -> TidegateError:
    """What a failed call means: the coordinator is away, refuses this party, or refuses what was asked."""
    code = error.code() if isinstance(error, grpc.aio.AioRpcError | grpc.Call) else grpc.StatusCode.UNKNOWN
    details = plain((error.details() if isinstance(error, grpc.aio.AioRpcError | grpc.Call) else None) or "")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        # gRPC tells these apart in words alone; a server that refuses our certificate closes the connection.
        text, hint = _UNREACHABLE
        if "handshake failed" in details:
            text, hint = _OTHER_COORDINATOR
        elif "failed to connect" in details and "Socket closed" in details:
            text, hint = _CLOSED
        return CarrierError(text.format(address=address), hint)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return ConfigError(f"the coordinator refuses: {details}", "ask whoever runs the coordinator")
    if code in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
    ):
        hint = "if you did not expect that, ask whoever runs the coordinator"
        return DisagreementError(f"the coordinator refuses: {details}", hint)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return DisagreementError(
            "the coordinator does not know this call", "do both sides run the same version of tidegate?"
        )
    return CarrierError(f"the coordinator at {address} failed: {details or code.name.lower()}", "try again")


async def open_line(endpoint: Endpoint, run: bytes, peer: str) -> Line:
    """A line for one run to one other party, to be closed by the caller. What is wrong with it, `recv` tells."""
    return Line(endpoint, run, peer)


class _Thread:
    """The thread and event loop of all lines of this process: there from the first line that is opened to the last."""

    _lock = threading.Lock()
    _here: ClassVar[_Thread | None] = None

    def __init__(self) -> None:
        self._lines = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lines", daemon=True)
        self._thread.start()

    @classmethod
    def enter(cls) -> _Thread:
        """The thread, for one more line; `leave` it when that line is over."""
        with cls._lock:
            cls._here = cls._here or cls()
            cls._here._lines += 1
            return cls._here

    def run(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, function: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(function)

    def leave(self) -> None:
        """The last line to leave ends the thread and waits for that."""
        with self._lock:
            self._lines -= 1
            if self._lines:
                return
            type(self)._here = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Line:
    """Frames of one run to and from one other party; made by `open_line`, usable from any event loop."""

    def __init__(self, endpoint: Endpoint, run: bytes, peer: str) -> None:
        self._endpoint, self._run_id, self._peer = endpoint, run, peer
        self._outgoing: Crossing[bytes | None] = Crossing(DEPTH)
        self._incoming: Crossing[bytes] = Crossing(DEPTH)
        self._broken: TidegateError | None = None
        self._closed = False
        self._closing, self._over = asyncio.Event(), asyncio.Event()
        self._thread = _Thread.enter()
        self._serving = self._thread.run(self._work())

    async def send(self, frame: bytes) -> None:
        """Queues a frame; waits while DEPTH of them are on their way. Raises CarrierError once the line is broken."""
        if len(frame) > MAX_FRAME_BYTES:
            raise ValueError(f"a frame has at most {MAX_FRAME_BYTES} bytes, this one {len(frame)}")
        if self._broken is None:
            await self._outgoing.put(frame)
        if self._broken is not None:
            raise self._broken

    async def recv(self) -> bytes:
        """The next frame. Raises CarrierError when the other worker or the coordinator has gone, and ever after."""
        return await self._incoming.get()

    async def close(self) -> None:
        """Sends what is queued, waits at most CLOSE_S for it, and ends the thread. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._thread.call(self._closing.set)
        await asyncio.to_thread(self._leave)

    def _leave(self) -> None:
        wait([self._serving])
        self._thread.leave()

    async def _work(self) -> None:
        """Serves the line until `close`, then leaves nothing behind."""
        try:
            await self._serve()
        finally:
            self._end(CarrierError("the line is closed"))

    def _end(self, reason: TidegateError) -> None:
        """Nothing more goes in or out; what has come can still be taken. The first reason counts."""
        self._broken = self._broken or reason
        # Senders that wait for room must not wait for ever.
        self._outgoing.end(reason)
        self._outgoing.drop()
        self._incoming.end(self._broken)

    async def _serve(self) -> None:
        async with dial_async(self._endpoint) as channel:
            call = RelayStub(channel).Forward()
            reader = asyncio.create_task(self._read(call))
            writer = asyncio.create_task(self._write(call))
            closing, over = asyncio.create_task(self._closing.wait()), asyncio.create_task(self._over.wait())
            await asyncio.wait([closing, over], return_when=asyncio.FIRST_COMPLETED)
            if not over.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await self._flush(writer, reader)
            writer.cancel()
            await closing
            call.cancel()

    async def _flush(self, writer: asyncio.Task[None], reader: asyncio.Task[None]) -> None:
        """What is queued still goes out; the coordinator ends the stream when it has read all of it."""
        await self._outgoing.put(None)
        await writer
        while not reader.done():
            self._incoming.drop()
            await asyncio.wait([reader], timeout=0.02)

    async def _write(self, call: grpc.aio.StreamStreamCall[Frame, Frame]) -> None:
        # When the stream is over a write fails; why it is over, the reader learns.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TidegateError):
            # Opens the stream at the coordinator; it is not forwarded.
            await call.write(Frame(run=self._run_id, peer=self._peer))
            while (sealed := await self._outgoing.get()) is not None:
                await call.write(Frame(run=self._run_id, peer=self._peer, sealed=sealed))
            await call.done_writing()

    async def _read(self, call: grpc.aio.StreamStreamCall[Frame, Frame]) -> None:
        reason: TidegateError = CarrierError(
            f"the coordinator ended the line to {self._peer}", "the step starts again by itself"
        )
        try:
            while isinstance(frame := await call.read(), Frame):
                if frame.end:
                    reason = CarrierError(f"{self._peer}'s worker went away", "the step starts again when it is back")
                    break
                if frame.sealed:
                    await self._incoming.put(frame.sealed)
        except grpc.aio.AioRpcError as error:
            told = explain(error, self._endpoint.address)
            reason = CarrierError(told.text, told.hint)
        self._end(reason)
        self._over.set()
