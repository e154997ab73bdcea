"""A real coordinator on the loopback for tests: in this process and event loop, or in a process of its own.

async with running(tmp_path / "coordinator") as coordinator:
    brand = await coordinator.join("brand")
    await brand.relay.Look(LookRequest())
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from tidegate import __version__
from tidegate.coordinator import members
from tidegate.coordinator.cli import set_up
from tidegate.coordinator.config import Home
from tidegate.coordinator.server import Coordinator
from tidegate.coordinator.store import Store
from tidegate.wire import relay_pb2 as pb
from tidegate.wire.contract import signed_bytes
from tidegate.wire.identity import Identity
from tidegate.wire.invite import (
    Endpoint,
    Invite,
    certificate_request,
    join_signed_bytes,
    new_tls_key,
    pem_certificate,
    verify_certificate,
)
from tidegate.wire.line import dial_async
from tidegate.wire.relay_pb2_grpc import RelayStub

if TYPE_CHECKING:
    from tidegate.wire.relay_pb2_grpc import RelayAsyncStub


_held: deque[socket.socket] = deque()
_MOST_HELD = 200


def free_port() -> int:
    """A port of the loopback to listen on, which is held: the system gives it to nobody who asks for any free one.

    It is bound and not listening, so who names it and sets SO_REUSEADDR, as servers do, gets it.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    _held.append(held)
    if len(_held) > _MOST_HELD:
        _held.popleft().close()
    return int(held.getsockname()[1])


def prepare(path: Path) -> Home:
    """A coordinator's folder whose address is a free port of the loopback."""
    home = Home(path)
    set_up(home, f"127.0.0.1:{free_port()}")
    return home


def invite(home: Home, party: str, *, hours: float = 1.0, now_s: int | None = None) -> Invite:
    store = Store(home.store)
    try:
        now_s = int(time.time()) if now_s is None else now_s
        authority = members.Authority.load(home)
        identity = Identity.load(home.identity).public
        return members.invite(store, authority, home.settings().address, identity, party, hours=hours, now_s=now_s)
    finally:
        store.close()


def join_request(made: Invite, identity: Identity, key: bytes) -> pb.JoinRequest:
    csr = certificate_request(identity, key)
    return pb.JoinRequest(
        secret=made.secret,
        party=made.party,
        identity=identity.public,
        csr=csr,
        signature=identity.sign(join_signed_bytes(made.secret, csr)),
        software=__version__,
    )


async def join(made: Invite, identity: Identity | None = None) -> Caller:
    """Joins with an invite as a party does, and stays connected."""
    identity = identity or Identity.generate(made.party)
    key = new_tls_key()
    async with dial_async(made.endpoint) as channel:
        reply = await RelayStub(channel).Join(join_request(made, identity, key), timeout=20)
    authority = pem_certificate(made.ca)
    verify_certificate(reply.certificate, key, authority, made.party)
    return Caller(identity, Endpoint(made.address, authority, pem_certificate(reply.certificate), key))


@dataclass
class Caller:
    """A party that has joined: its keys, and a stub that calls as this party."""

    identity: Identity
    endpoint: Endpoint
    channel: grpc.aio.Channel = field(init=False)
    relay: RelayAsyncStub = field(init=False)

    def __post_init__(self) -> None:
        self.channel = dial_async(self.endpoint)
        self.relay = RelayStub(self.channel)

    @property
    def name(self) -> str:
        return self.identity.name

    def signature(self, contract: bytes) -> bytes:
        return self.identity.sign(signed_bytes(contract))

    async def close(self) -> None:
        await self.channel.close()


@dataclass
class Running:
    """A coordinator that is up in this event loop."""

    home: Home
    wall: Callable[[], float] = time.time
    coordinator: Coordinator = field(init=False)
    callers: list[Caller] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.home.settings().address

    def invite(self, party: str, *, hours: float = 1.0, now_s: int | None = None) -> Invite:
        return invite(self.home, party, hours=hours, now_s=now_s)

    async def join(self, party: str) -> Caller:
        caller = await join(self.invite(party))
        self.callers.append(caller)
        return caller

    async def start(self) -> None:
        self.coordinator = Coordinator(self.home, wall=self.wall)
        await self.coordinator.start(self.address)

    async def stop(self) -> None:
        await self.coordinator.stop()

    async def restart(self) -> None:
        await self.stop()
        await self.start()


@contextlib.asynccontextmanager
async def running(path: Path, *, wall: Callable[[], float] = time.time) -> AsyncIterator[Running]:
    """A coordinator in this event loop, stopped at the end. `wall` is its clock for expiry."""
    up = Running(prepare(path), wall)
    await up.start()
    try:
        yield up
    finally:
        for caller in up.callers:
            await caller.close()
        await up.stop()


@contextlib.contextmanager
def process(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """A coordinator in a process of its own, as the command starts it; killed at the end if it is still there."""
    program = "from tidegate.coordinator.cli import app; app()"
    command = [sys.executable, "-c", program, "--home", str(home.path), "up"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    try:
        if child.stdout is None or b"Listening" not in child.stdout.readline():
            raise RuntimeError("the coordinator did not start")
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits until the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
