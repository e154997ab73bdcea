"""A worker's line over real gRPC with mutual TLS, through a relay of a few lines."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import queue
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tidegate.protocols.channel import CarrierError, ConfigError, DisagreementError
from tidegate.wire import line as line_module
from tidegate.wire.identity import Identity
from tidegate.wire.invite import SERVER_NAME, Endpoint
from tidegate.wire.line import DEPTH, Line, dial, open_line
from tidegate.wire.relay_pb2 import CollectRequest, Frame, LookRequest, PostRequest
from tidegate.wire.relay_pb2_grpc import RelayServicer, add_RelayServicer_to_server
from tidegate.wire.seal import MAX_FRAME_BYTES
from tidegate.wire.session import open_session

RUN = bytes(range(16))


class Authority:
    """Certificates for the test's server and its clients."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.pem, _ = self.issue("authority", self.key)

    def issue(self, name: str, key: ec.EllipticCurvePrivateKey | None = None) -> tuple[bytes, bytes]:
        """A certificate and its key, PEM; for the authority itself when its key is given."""
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        own = key or ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(SERVER_NAME), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder(issuer, subject, own.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=key is not None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        pem = own.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM), pem


AUTHORITY = Authority()


class Relay(RelayServicer):
    """Forwards frames between the two callers of a run; keeps at most 4 a direction."""

    def __init__(self) -> None:
        self.inboxes: dict[str, queue.Queue[Frame | None]] = {name: queue.Queue(4) for name in ("brand", "media")}
        self.taken = dict.fromkeys(self.inboxes, 0)
        self.stalled, self.gone = threading.Event(), threading.Event()

    def Forward(self, request_iterator: Any, context: Any) -> Iterator[Frame]:  # type: ignore[override]  # noqa: N802
        caller = context.auth_context()["x509_common_name"][0].decode()
        peer = next(iter(request_iterator)).peer

        def take() -> None:
            try:
                for frame in request_iterator:
                    self.taken[caller] += 1
                    self.inboxes[peer].put(Frame(run=frame.run, peer=caller, sealed=frame.sealed))
                    while self.stalled.is_set():
                        time.sleep(0.01)
            except grpc.RpcError:
                pass
            if not self.gone.is_set():
                self.inboxes[peer].put(Frame(run=RUN, peer=caller, end=True))
            self.inboxes[caller].put(None)

        threading.Thread(target=take, daemon=True).start()
        while (frame := self.inboxes[caller].get()) is not None:
            yield frame

    def Post(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.NOT_FOUND, "there is no party\x1b called nobody")

    def Collect(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "join first")


class Serving:
    """A running server with this relay."""

    def __init__(self, authority: Authority = AUTHORITY) -> None:
        # A test of another file that ran in this process may have left some.
        self.lines_before = open_lines()
        self.relay = Relay()
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        add_RelayServicer_to_server(self.relay, self.server)  # type: ignore[arg-type]
        certificate, key = authority.issue("server")
        credentials = grpc.ssl_server_credentials([(key, certificate)], AUTHORITY.pem, require_client_auth=True)
        self.address = f"127.0.0.1:{self.server.add_secure_port('127.0.0.1:0', credentials)}"
        self.server.start()

    def endpoint(self, name: str) -> Endpoint:
        return Endpoint(self.address, AUTHORITY.pem, *AUTHORITY.issue(name))

    def stop(self) -> None:
        """Goes away, and has nothing to say of that any more."""
        self.relay.gone.set()
        self.server.stop(0).wait()


@pytest.fixture
def serving() -> Iterator[Serving]:
    running = Serving()
    yield running
    running.relay.stalled.clear()
    running.stop()


async def lines(serving: Serving) -> tuple[Line, Line]:
    brand = await open_line(serving.endpoint("brand"), RUN, "media")
    return brand, await open_line(serving.endpoint("media"), RUN, "brand")


def open_lines() -> int:
    """How many lines of this process are open; with the last one their thread ends."""
    here = line_module._Thread._here
    assert (here is not None) == any(thread.name == "lines" for thread in threading.enumerate())
    return here._lines if here is not None else 0


def test_a_line_goes_on_when_another_of_the_same_process_is_closed(serving: Serving) -> None:
    async def run() -> None:
        brand, media = await lines(serving)
        other = await open_line(Endpoint("127.0.0.1:1", AUTHORITY.pem, *AUTHORITY.issue("brand")), RUN, "media")
        await other.close()
        await other.close()
        await brand.send(b"still here")
        assert await asyncio.wait_for(media.recv(), 60) == b"still here"
        await brand.close()
        await media.close()

    asyncio.run(run())
    assert open_lines() == serving.lines_before


def test_frames_arrive_whole_and_in_order_and_no_thread_is_left(serving: Serving) -> None:
    async def run() -> list[bytes]:
        brand, media = await lines(serving)
        frames = [bytes([n]) * MAX_FRAME_BYTES for n in range(20)]

        async def pour() -> None:
            for frame in frames:
                await brand.send(frame)
            await brand.close()

        pouring = asyncio.create_task(pour())
        got = [await media.recv() for _ in frames]
        await pouring
        await media.close()
        assert got == frames
        return got

    asyncio.run(asyncio.wait_for(run(), 120))
    assert open_lines() == serving.lines_before


def test_what_was_queued_before_close_still_arrives_and_then_the_end(serving: Serving) -> None:
    async def run() -> None:
        brand, media = await lines(serving)
        for n in range(3):
            await brand.send(bytes([n]))
        await brand.close()
        assert [await media.recv() for _ in range(3)] == [b"\0", b"\1", b"\2"]
        for _ in range(2):
            with pytest.raises(CarrierError, match="brand's worker went away"):
                await media.recv()
        with pytest.raises(CarrierError):
            await media.send(b"too late")
        await media.close()
        await media.close()
        for call in (media.recv(), brand.send(b"x")):
            with pytest.raises(CarrierError):
                await call

    asyncio.run(asyncio.wait_for(run(), 60))
    assert open_lines() == serving.lines_before


def test_a_worker_that_computes_does_not_hold_up_its_line(serving: Serving) -> None:
    """Frames reach the other side while the sender's own event loop is busy."""

    async def run() -> bool:
        brand, media = await lines(serving)
        await media.send(b"warm")
        await brand.recv()
        for _ in range(DEPTH):
            await brand.send(bytes(1000))

        def listen() -> None:
            async def take() -> None:
                for _ in range(DEPTH):
                    await media.recv()

            asyncio.run(take())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        thread.join(30)  # the computation, which ends when the frames are there
        arrived = not thread.is_alive()
        await brand.close()
        await media.close()
        return arrived

    assert asyncio.run(asyncio.wait_for(run(), 60))


def test_a_slow_reader_slows_the_sender_down(serving: Serving) -> None:
    async def run() -> int:
        brand, media = await lines(serving)
        sent = 0

        async def pour() -> None:
            nonlocal sent
            while sent < 200:
                await brand.send(bytes(MAX_FRAME_BYTES))
                sent += 1

        pouring, stalled_at = asyncio.create_task(pour()), -1
        while sent > stalled_at:
            stalled_at = sent
            await asyncio.sleep(1)
        for _ in range(200):
            await media.recv()
        await pouring
        await brand.close()
        await media.close()
        return stalled_at

    # Both lines' queues, the relay's, and what gRPC has in flight on two connections: as much as it finds them to bear.
    assert 2 * DEPTH <= asyncio.run(asyncio.wait_for(run(), 240)) < 150


def test_a_coordinator_that_goes_away_ends_the_line_with_its_address(serving: Serving) -> None:
    async def run() -> str:
        brand, media = await lines(serving)
        await brand.send(b"x")
        assert await media.recv() == b"x"
        await asyncio.to_thread(serving.stop)
        with pytest.raises(CarrierError) as caught:
            await brand.recv()
        await asyncio.gather(brand.close(), media.close())
        return caught.value.text

    assert serving.address in asyncio.run(asyncio.wait_for(run(), 60))
    assert open_lines() == serving.lines_before


def test_a_sender_that_waits_for_room_is_told_when_the_other_side_goes(serving: Serving) -> None:
    serving.relay.stalled.set()

    async def run() -> None:
        brand, media = await lines(serving)

        async def pour() -> None:
            while True:
                await brand.send(bytes(MAX_FRAME_BYTES))

        pouring = asyncio.create_task(pour())
        await asyncio.sleep(0.5)
        assert not pouring.done()
        await media.close()
        with pytest.raises(CarrierError, match="media's worker went away"):
            await pouring
        serving.relay.stalled.clear()
        await brand.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken, so that nobody else can come to listen on it, and at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


def test_nobody_at_the_address_is_said_at_once(closed_port: int) -> None:
    endpoint = Endpoint(f"127.0.0.1:{closed_port}", AUTHORITY.pem, *AUTHORITY.issue("brand"))

    async def run() -> None:
        line = await open_line(endpoint, RUN, "media")
        with pytest.raises(CarrierError, match="cannot be reached"):
            await line.recv()
        await line.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    with pytest.raises(CarrierError, match="cannot be reached") as caught, dial(endpoint) as relay:
        relay.Look(LookRequest(), timeout=30)
    assert "is it running" in caught.value.hint


def test_a_server_that_is_not_the_invites_coordinator_is_refused() -> None:
    impostor = Serving(Authority())
    try:
        with pytest.raises(CarrierError, match="not the coordinator"), dial(impostor.endpoint("brand")) as relay:
            relay.Look(LookRequest(), timeout=30)
    finally:
        impostor.stop()


def test_a_client_without_the_coordinators_certificate_is_not_let_in(serving: Serving) -> None:
    certificate, key = Authority().issue("brand")
    endpoint = Endpoint(serving.address, AUTHORITY.pem, certificate, key)
    with pytest.raises(CarrierError, match="closes the connection"), dial(endpoint) as relay:
        relay.Look(LookRequest(), timeout=30)


def test_what_the_coordinator_refuses_becomes_a_typed_error(serving: Serving) -> None:
    endpoint = serving.endpoint("brand")
    with pytest.raises(DisagreementError, match="there is no party called nobody"), dial(endpoint) as relay:
        relay.Post(PostRequest(), timeout=30)
    with pytest.raises(ConfigError, match="join first"), dial(endpoint) as relay:
        relay.Collect(CollectRequest(), timeout=30)
    with pytest.raises(DisagreementError, match="does not know this call"), dial(endpoint) as relay:
        relay.Look(LookRequest(), timeout=30)


def test_a_session_runs_over_the_line(serving: Serving) -> None:
    brand_identity, media_identity = Identity.generate("brand"), Identity.generate("media")
    terms: dict[str, Any] = {"contract_hash": bytes(32), "run": RUN, "step": 0, "inputs": {}, "software": "1"}

    async def side(name: str, peer: str, me: Identity, them: Identity) -> bytes:
        line = await open_line(serving.endpoint(name), RUN, peer)
        try:
            session = await open_session(
                line, me=me, peer_identity=them.public, my_name=name, peer_name=peer, **terms
            )
            return await session.finish()
        finally:
            await line.close()

    async def run() -> list[bytes]:
        return list(
            await asyncio.gather(
                side("brand", "media", brand_identity, media_identity),
                side("media", "brand", media_identity, brand_identity),
            )
        )

    brand, media = asyncio.run(asyncio.wait_for(run(), 60))
    assert brand == media
    assert open_lines() == serving.lines_before
