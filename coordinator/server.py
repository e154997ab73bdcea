"""The coordinator's port: gRPC over mutual TLS. Checks who calls, then asks the scheduler, the store and the relay.

Everything runs on one event loop. An event goes to the scheduler, what it changed goes to disk, and only then is
anybody told. A disk that takes no more ends the coordinator with a sentence rather than let it promise what it forgets.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import grpc.aio

from tidegate import __version__
from tidegate.protocols.channel import MIB, CarrierError, ConfigError, TidegateError
from tidegate.wire import receipt
from tidegate.wire import relay_pb2 as pb
from tidegate.wire.contract import signed_bytes
from tidegate.wire.identity import verify_signature
from tidegate.wire.invite import pem_certificate
from tidegate.wire.line import KEEPALIVE_OPTIONS
from tidegate.wire.pairs import COORDINATOR
from tidegate.wire.relay_pb2_grpc import RelayServicer, add_RelayServicer_to_server

from . import members
from .campaigns import MOST_PARTIES, Effects, Moment, Scheduler
from .config import Home, split_address
from .helper import Helper
from .order import Order
from .refusal import RefusedError, printable
from .relay import Line, Relay
from .store import Letter, Member, Store

MAX_LETTER_BYTES = MIB
MAX_WAITING_LETTERS = 1000
MAX_REPLY_BYTES = 3 * MIB
FIRST_WORD_WITHIN_S = 10.0
TICK_S = 0.25
STOP_WITHIN_S = 3.0
_MAX_UNREAD = 4096
_CANNOT_KEEP = "the coordinator can keep nothing: its disk is full or broken"

_OPTIONS: list[tuple[str, int]] = [
    *KEEPALIVE_OPTIONS,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", 4 * MIB),
    ("grpc.so_reuseport", 0),  # else a second coordinator on the same port would start and take half of the calls
    ("grpc.http2.bdp_probe", 0),  # else a fast line to a slow reader is given many MiB of buffer
]

_log = logging.getLogger("tidegate.coordinator")
_Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")


@dataclass
class _Node:
    """A node that attends, and what it is still to be told."""

    outgoing: asyncio.Queue[pb.ToNode | None] = field(default_factory=lambda: asyncio.Queue(_MAX_UNREAD))


class Coordinator(RelayServicer):
    """Make it in its event loop, `start` it, wait for `failed` (which never succeeds), `stop` it."""

    def __init__(self, home: Home, *, wall: Callable[[], float] = time.time) -> None:
        settings = home.settings()
        self._wall = wall
        self._address = settings.address
        self._authority = members.Authority.load(home)
        self.store = Store(home.store)
        self._relay = Relay(settings.bytes_per_run)
        self._scheduler = Scheduler(
            self.store.campaigns(),
            read_receipt=self._read_receipt,
            new_run=lambda: os.urandom(16),
            runs_per_party=settings.runs_per_party,
            own_runs=settings.own_runs,
        )
        self._nodes: dict[str, _Node] = {}
        self._identity = members.own_identity(home)
        self._home, self._own_address = home, ""
        self._own_key, self._own_certificate = self._authority.own_certificate()
        self._helper = Helper(self._order, self._helper_ended, self._fail)
        self._calls: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._server: grpc.aio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # Up and down

    async def start(self, listen: str) -> int:
        """Listens on HOST:PORT (port 0: any free one) and gives the port. Raises ConfigError if it cannot."""
        _check_bindable(listen)
        self.store.nobody_is_here()
        self._apply(self._scheduler.resume(self._now()))
        self._apply(self._scheduler.here(COORDINATOR, (), self._now()))
        key, certificate = self._authority.server_certificate(self._address)
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], root_certificates=self._authority.pem, require_client_auth=True
        )
        self._server = grpc.aio.server(options=_OPTIONS)
        add_RelayServicer_to_server(self, self._server)
        try:
            port = self._server.add_secure_port(listen, credentials)
        except RuntimeError:
            port = 0
        if port == 0:
            raise ConfigError(f"cannot listen on {listen}", "choose another address with --listen")
        await self._server.start()
        self._ticker = asyncio.create_task(self._tick())
        self._own_address = f"{_reached_at(listen)}:{port}"
        return port

    async def stop(self) -> None:
        """Ends every line with a word to whoever is on it. What was going on starts again after the next `start`."""
        self._stopping = True
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for node in self._nodes.values():
            self._drop(node)
        await self._helper.stop()
        self._relay.end_all()
        if self._server is not None:
            await self._server.stop(grace=STOP_WITHIN_S)
        if self._calls:
            await asyncio.wait(self._calls, timeout=STOP_WITHIN_S)
        with contextlib.suppress(ConfigError):
            self.store.nobody_is_here()
        self.store.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._apply(self._scheduler.tick(self._now()))
            except TidegateError:
                return
            except Exception as error:  # a defect: better to end and be started again than to be up and deaf
                self._fail(error)
                raise

    def _now(self) -> Moment:
        return Moment(self._wall(), time.monotonic())

    def _fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    def _apply(self, effects: Effects) -> None:
        """Keeps what changed, then does the rest. If it cannot be kept, nobody is told and the coordinator ends."""
        if effects.changed:
            try:
                self.store.save(effects.changed.values())
            except TidegateError as error:
                self._fail(error)
                raise
        for run, parties in effects.lines:
            if parties is None:
                self._relay.end(run)
            else:
                self._relay.start(run, parties)
        for party, message in effects.tells:
            self._tell(party, message)
        for note in effects.notes:
            _log.info(note)

    def _tell(self, party: str, message: pb.ToNode) -> None:
        if party == COORDINATOR:
            self._helper.tell(message)
            return
        node = self._nodes.get(party)
        if node is not None:
            with contextlib.suppress(asyncio.QueueFull):
                node.outgoing.put_nowait(message)
                return
            # It has not read thousands of messages: its line ends, and it learns what it missed when it is back.
            while not node.outgoing.empty():
                node.outgoing.get_nowait()
            self._drop(node)

    def _keep(self, work: Callable[[], T]) -> T:
        """Runs a transaction of the store; a disk that takes no more ends the coordinator."""
        try:
            return work()
        except RefusedError:
            raise
        except TidegateError as error:
            self._fail(error)
            raise

    # The coordinator's own part in runs

    def _order(self, start: pb.Start) -> Order:
        """What the coordinator's worker needs for a run."""
        step = self._scheduler.step(start.contract, start.step)
        return Order(
            home=str(self._home.path),
            address=self._own_address,
            ca=self._authority.pem.decode(),
            certificate=pem_certificate(self._own_certificate).decode(),
            key=self._own_key.decode(),
            contract=start.contract.hex(),
            step=start.step,
            kind=step.name,
            run=start.run.hex(),
            members=list(step.parties),
            identities={party: self._identity_of(party).hex() for party in step.parties},
        )

    def _helper_ended(self, ended: pb.Ended) -> None:
        with contextlib.suppress(TidegateError):  # then the coordinator is about to end with that error
            self._apply(self._scheduler.ended(COORDINATOR, ended, self._now()))

    # Who calls

    def _caller(self, context: _Context) -> Member:
        if self._stopping:
            raise RefusedError("UNAVAILABLE", "the coordinator is stopping")
        presented = _certificate(context)
        return self._keep(lambda: members.caller(self.store, presented))

    def _worker(self, context: _Context) -> str:
        """Whose worker calls: a member's, or the coordinator's own."""
        presented = ssl.PEM_cert_to_DER_cert(_certificate(context).decode())
        if hmac.compare_digest(presented, self._own_certificate) and not self._stopping:
            return COORDINATOR
        return self._caller(context).party

    def _identity_of(self, party: str) -> bytes:
        if party == COORDINATOR:
            return self._identity.public
        member = self._keep(lambda: self.store.member(party))
        if member is None:
            raise RefusedError("NOT_FOUND", f"{printable(party, 64)} has not joined this coordinator")
        return member.identity

    def _read_receipt(self, party: str, contract: bytes, step: int, run: bytes, made: bytes) -> bytes:
        return receipt.verify(made, self._identity_of(party), contract, step, run)

    def _check_signature(self, member: Member, contract: bytes, signature: bytes) -> None:
        if len(contract) != 32:
            raise RefusedError("INVALID_ARGUMENT", f"a contract hash has 32 bytes, this one {len(contract)}")
        try:
            verify_signature(member.identity, signed_bytes(contract), signature, "the contract")
        except CarrierError:
            text = f"the signature is not by the identity with which {member.party} joined"
            raise RefusedError("INVALID_ARGUMENT", text) from None

    # Calls with one answer

    async def Join(self, request: pb.JoinRequest, context: _Context) -> pb.JoinReply:  # noqa: N802 - the .proto's name
        async with self._answering(context):
            if self._stopping:
                raise RefusedError("UNAVAILABLE", "the coordinator is stopping")
            certificate = self._keep(lambda: members.join(self.store, self._authority, request, int(self._wall())))
            _log.info("%s joined", request.party)
            if (node := self._nodes.get(request.party)) is not None:
                self._drop(node)
            return pb.JoinReply(certificate=certificate)

    async def Post(self, request: pb.PostRequest, context: _Context) -> pb.PostReply:  # noqa: N802
        async with self._answering(context):
            party = self._caller(context).party
            letters = [self._checked_letter(party, letter) for letter in request.letters]
            full = self._keep(lambda: self.store.post(letters, MAX_WAITING_LETTERS))
            if full:
                text = f"{MAX_WAITING_LETTERS} letters from {party} wait for {full}: no more before it collects them"
                raise RefusedError("RESOURCE_EXHAUSTED", text)
            for recipient in dict.fromkeys(letter.recipient for letter in letters):
                self._tell(recipient, pb.ToNode(mail=pb.Mail()))
            return pb.PostReply()

    def _checked_letter(self, party: str, letter: pb.Letter) -> Letter:
        if letter.sender != party:
            raise RefusedError("PERMISSION_DENIED", f"a letter posted by {party} is from {party} and from nobody else")
        if len(letter.id) != 16:
            raise RefusedError("INVALID_ARGUMENT", f"a letter's id has 16 bytes, this one {len(letter.id)}")
        if not 0 < len(letter.sealed) <= MAX_LETTER_BYTES:
            text = f"a letter has 1 to {MAX_LETTER_BYTES} bytes, this one {len(letter.sealed)}"
            raise RefusedError("INVALID_ARGUMENT", text)
        self._identity_of(letter.recipient)
        return Letter(letter.id, party, letter.recipient, letter.sealed)

    async def Collect(self, request: pb.CollectRequest, context: _Context) -> pb.CollectReply:  # noqa: N802
        async with self._answering(context):
            party = self._caller(context).party
            if len(request.kept) > MAX_WAITING_LETTERS:
                raise RefusedError("INVALID_ARGUMENT", f"at most {MAX_WAITING_LETTERS} letters are forgotten at a time")
            letters = self._keep(lambda: self.store.collect(party, list(request.kept), MAX_REPLY_BYTES))
            return pb.CollectReply(
                letters=[
                    pb.Letter(id=each.id, sender=each.sender, recipient=each.recipient, sealed=each.sealed)
                    for each in letters
                ]
            )

    async def File(self, request: pb.Docket, context: _Context) -> pb.CampaignState:  # noqa: N802
        async with self._answering(context):
            member = self._caller(context)
            self._check_signature(member, request.contract, request.signature)
            if len(request.parties) <= MOST_PARTIES:
                for party in request.parties:
                    self._identity_of(party)
            self._apply(self._scheduler.file(member.party, request, self._now()))
            return self._scheduler.look(member.party, request.contract)[0]

    async def Sign(self, request: pb.Signature, context: _Context) -> pb.CampaignState:  # noqa: N802
        async with self._answering(context):
            member = self._caller(context)
            self._check_signature(member, request.contract, request.signature)
            self._apply(self._scheduler.sign(member.party, request.contract, request.signature, self._now()))
            return self._scheduler.look(member.party, request.contract)[0]

    async def Withdraw(self, request: pb.Withdrawal, context: _Context) -> pb.CampaignState:  # noqa: N802
        async with self._answering(context):
            party = self._caller(context).party
            self._apply(self._scheduler.withdraw(party, request.contract, request.refused, self._now()))
            return self._scheduler.look(party, request.contract)[0]

    async def Look(self, request: pb.LookRequest, context: _Context) -> pb.LookReply:  # noqa: N802
        async with self._answering(context):
            party = self._caller(context).party
            return pb.LookReply(campaigns=self._scheduler.look(party, request.contract))

    @contextlib.asynccontextmanager
    async def _answering(self, context: _Context) -> AsyncIterator[None]:
        """Turns what goes wrong in a call into its status and a sentence."""
        try:
            yield
        except RefusedError as error:
            await context.abort(grpc.StatusCode[error.code], error.text)
        except TidegateError as error:
            # The disk: what exactly is wrong with it is the operator's business.
            _log.error(error.text)
            await context.abort(grpc.StatusCode.UNAVAILABLE, _CANNOT_KEEP)

    # A node's line

    # Both streams write by `context.write` instead of yielding: a generator that is suspended when its call is
    # cancelled would clean up at some later time.
    async def Attend(  # type: ignore[override]  # noqa: N802 - the reason above
        self, request_iterator: AsyncIterator[pb.FromNode], context: _Context
    ) -> None:
        with self._counted():
            async with self._answering(context):
                member = self._caller(context)
                party = member.party
                first = await _first(request_iterator)
                if first is None or first.WhichOneof("kind") != "here":
                    raise RefusedError("INVALID_ARGUMENT", "a node's line begins with what the node holds")
                _check_version(first.here.software)
                if party in self._nodes:
                    text = f"another node of {party} is here; if it has just gone, its place is free within 20 seconds"
                    raise RefusedError("ALREADY_EXISTS", text)
                node = self._nodes[party] = _Node()
                listener: asyncio.Task[None] | None = None
                try:
                    software = printable(first.here.software, 32)
                    self._keep(lambda: self.store.set_here(party, True, software, int(self._wall())))
                    _log.info("%s is here (tidegate %s)", party, software)
                    self._apply(self._scheduler.here(party, first.here.held, self._now()))
                    # A node knows by the first word that it is attended; asking for letters in vain costs it nothing.
                    if self._keep(lambda: self.store.has_letters(party)) or node.outgoing.empty():
                        node.outgoing.put_nowait(pb.ToNode(mail=pb.Mail()))
                    listener = asyncio.create_task(self._listen(party, node, request_iterator))
                    while (message := await node.outgoing.get()) is not None:
                        await context.write(message)
                    if listener.done():
                        listener.result()
                    if self._stopping:
                        raise RefusedError("UNAVAILABLE", "the coordinator is stopping")
                finally:
                    if listener is not None:
                        listener.cancel()
                    del self._nodes[party]
                    self._left(party)

    async def _listen(self, party: str, node: _Node, said: AsyncIterator[pb.FromNode]) -> None:
        """Takes in what a node says until it has no more to say."""
        try:
            async for message in said:
                kind = message.WhichOneof("kind")
                if kind == "here":
                    self._apply(self._scheduler.here(party, message.here.held, self._now()))
                elif kind == "ended":
                    self._apply(self._scheduler.ended(party, message.ended, self._now()))
                else:
                    raise RefusedError("INVALID_ARGUMENT", "a node says what it holds or how a run ended")
        finally:
            self._drop(node)

    def _drop(self, node: _Node) -> None:
        """Ends a node's line once it has been told what it was to be told."""
        with contextlib.suppress(asyncio.QueueFull):
            node.outgoing.put_nowait(None)
            return
        node.outgoing.get_nowait()
        node.outgoing.put_nowait(None)

    def _left(self, party: str) -> None:
        if self._stopping:
            return  # its runs are noted as ended at the next start
        _log.info("%s is gone", party)
        with contextlib.suppress(TidegateError):  # then the coordinator is about to end with that error
            self._keep(lambda: self.store.set_here(party, False, "", int(self._wall())))
            self._apply(self._scheduler.gone(party, self._now()))

    # A worker's line

    async def Forward(  # type: ignore[override]  # noqa: N802 - as Attend
        self, request_iterator: AsyncIterator[pb.Frame], context: _Context
    ) -> None:
        with self._counted():
            async with self._answering(context):
                party = self._worker(context)
                first = await _first(request_iterator)
                if first is None or len(first.run) != 16:
                    raise RefusedError("INVALID_ARGUMENT", "a worker's line begins with a frame that names its run")
                line = self._relay.open(first.run, party)
                number, clean = first.run, False
                reader = asyncio.create_task(self._forward(line, number, party, first, request_iterator))
                try:
                    async for frame in line.frames():
                        await context.write(frame)
                    clean = True
                finally:
                    reader.cancel()
                    line.close()
                    if not clean and not self._stopping:
                        with contextlib.suppress(TidegateError):
                            self._apply(self._scheduler.line_lost(number, party, self._now()))

    async def _forward(
        self, line: Line, number: bytes, party: str, first: pb.Frame, frames: AsyncIterator[pb.Frame]
    ) -> None:
        """Passes on what a worker sends until it has no more to send; then its line ends."""
        self._scheduler.line_opened(number, party)
        refusal: RefusedError | None = None
        try:
            going_on = await line.forward(first)
            while going_on and (frame := await anext(frames, None)) is not None:
                going_on = await line.forward(frame)
            if not going_on:
                limit = self._relay.bytes_per_run
                refusal = RefusedError("RESOURCE_EXHAUSTED", f"a run may move {limit:,} bytes here, and has moved them")
                self._apply(self._scheduler.overrun(number, party, limit, self._now()))
        except RefusedError as error:
            refusal = error
        except TidegateError:
            refusal = RefusedError("UNAVAILABLE", _CANNOT_KEEP)
        finally:
            line.close(refusal)

    @contextlib.contextmanager
    def _counted(self) -> Any:
        """Lets `stop` wait until the streams have cleaned up."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call is served outside a task")
        self._calls.add(task)
        try:
            yield
        finally:
            self._calls.discard(task)


async def _first(said: AsyncIterator[T]) -> T | None:
    """The first message of a stream, or None if none comes in time."""
    try:
        async with asyncio.timeout(FIRST_WORD_WITHIN_S):
            return await anext(said, None)
    except TimeoutError:
        return None


def _certificate(context: _Context) -> bytes:
    presented = list(context.auth_context().get("x509_pem_cert", []))
    if len(presented) != 1:
        raise RefusedError("UNAUTHENTICATED", "a call needs a client certificate")
    return bytes(presented[0])


def _series(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _check_version(software: str) -> None:
    if _series(software) != _series(__version__):
        text = f"this coordinator runs tidegate {__version__}, the node {printable(software, 32) or 'none'}"
        raise RefusedError("FAILED_PRECONDITION", f"{text}: install the same version at both")


def _reached_at(listen: str) -> str:
    """The host by which this machine itself reaches what listens there."""
    host = listen.rpartition(":")[0]
    return {"0.0.0.0": "127.0.0.1", "[::]": "localhost", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - dialled, not bound


def _check_bindable(listen: str) -> None:
    """Says why an address cannot be listened on, which gRPC does not. Raises ConfigError."""
    host, _, port = listen.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        raise ConfigError(f"cannot listen on {listen}: there is no such host", "choose another with --listen") from None
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            hint = "stop what listens there, or choose another port with --listen"
            raise ConfigError(f"cannot listen on {listen}: the port is in use", hint) from None
        why = error.strerror if isinstance(error, OSError) else "it is no HOST:PORT"
        raise ConfigError(f"cannot listen on {listen}: {why}", "choose another address with --listen") from None


def default_listen(address: str) -> str:
    """Where a coordinator listens whose parties dial `address`: everywhere, or on the loopback if they dial that."""
    host, port = split_address(address)
    if host in ("localhost", "127.0.0.1"):
        return f"127.0.0.1:{port}"
    return f"[::1]:{port}" if host == "::1" else f"0.0.0.0:{port}"
