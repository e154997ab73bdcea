"""The coordinator's port over real gRPC with mutual TLS, on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from tests.coordinator_fixture import (
    Caller,
    Running,
    free_port,
    invite,
    join,
    join_request,
    prepare,
    process,
    running,
    until,
)
from tidegate import __version__
from tidegate.coordinator import relay as forwarding
from tidegate.coordinator.campaigns import Campaign, Commit, Step
from tidegate.coordinator.cli import app
from tidegate.coordinator.config import Home
from tidegate.coordinator.store import Store
from tidegate.protocols.channel import MIB, ConfigError
from tidegate.wire import receipt
from tidegate.wire import relay_pb2 as pb
from tidegate.wire.identity import Identity
from tidegate.wire.invite import Endpoint, Invite, new_tls_key
from tidegate.wire.line import dial_async
from tidegate.wire.relay_pb2_grpc import RelayStub

CONTRACT = hashlib.sha256(b"a contract").digest()
Status = grpc.StatusCode
Scenario = Callable[[Running], Coroutine[Any, Any, None]]


def play(tmp_path: Path, scenario: Scenario) -> None:
    """Plays a scenario against a coordinator that is stopped afterwards."""

    async def whole() -> None:
        async with running(tmp_path / "coordinator") as coordinator:
            await scenario(coordinator)

    asyncio.run(whole())


@contextlib.asynccontextmanager
async def refused(status: grpc.StatusCode, text: str) -> AsyncIterator[None]:
    """The call inside is refused with this status, in a sentence that holds `text`."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert (caught.value.code(), text in (caught.value.details() or "")) == (status, True), caught.value.details()


def letter(sender: str, recipient: str, sealed: bytes = b"sealed", letter_id: bytes | None = None) -> pb.Letter:
    return pb.Letter(id=letter_id or os.urandom(16), sender=sender, recipient=recipient, sealed=sealed)


def docket(proposer: Caller, parties: tuple[str, ...] = ("brand", "media"), **changes: Any) -> pb.Docket:
    fields: dict[str, Any] = {
        "contract": CONTRACT,
        "parties": parties,
        "steps": ("match", "train"),
        "expires_s": int(time.time()) + 3600,
        "signature": proposer.signature(CONTRACT),
    }
    return pb.Docket(**(fields | changes))


class Node:
    """A party's node in a test: its line, and what it has been told."""

    def __init__(self, caller: Caller, *, software: str = __version__) -> None:
        self.caller = caller
        self.software = software
        self.call = caller.relay.Attend(wait_for_ready=True)

    async def attend(self, *held: pb.Held) -> None:
        await self.call.write(pb.FromNode(here=pb.Here(software=self.software, held=held)))

    async def hear(self, kind: str) -> Any:
        """The next message of this kind; others are skipped."""
        async with asyncio.timeout(15):
            while isinstance(message := await self.call.read(), pb.ToNode):
                if message.WhichOneof("kind") == kind:
                    return getattr(message, kind)
        raise AssertionError(f"the line ended before a {kind} came: {await self.call.details()}")

    async def ended(self, run: bytes, step: int = 0, digest: bytes = bytes(32), error: str = "") -> None:
        ended = pb.Ended(contract=CONTRACT, step=step, run=run, error=error, prepared=not error)
        if not error:
            ended.receipt = receipt.make(self.caller.identity, CONTRACT, step, run, digest)
        await self.call.write(pb.FromNode(ended=ended))


async def two_parties(coordinator: Running) -> tuple[Caller, Caller]:
    return await coordinator.join("brand"), await coordinator.join("media")


async def a_run(coordinator: Running) -> tuple[Node, Node, bytes]:
    """Two nodes that attend, and the run that they were just told to start."""
    brand, media = await two_parties(coordinator)
    nodes = Node(brand), Node(media)
    for node in nodes:
        await node.attend()
    await brand.relay.File(docket(brand))
    await media.relay.Sign(pb.Signature(contract=CONTRACT, signature=media.signature(CONTRACT)))
    starts = [await node.hear("start") for node in nodes]
    assert starts[0] == starts[1]
    return *nodes, starts[0].run


# Joining


def test_an_invite_lets_its_party_in_and_its_certificate_calls(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand = await coordinator.join("brand")
        assert not (await brand.relay.Look(pb.LookRequest())).campaigns
        (member,) = coordinator.coordinator.store.members()
        assert (member.party, member.identity, member.software) == ("brand", brand.identity.public, __version__)

    play(tmp_path, scenario)


def test_an_invite_survives_being_pasted_and_its_secret_is_kept_as_a_hash(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        made = coordinator.invite("brand")
        await join(Invite.parse("  " + made.to_text()[:100] + "\n" + made.to_text()[100:]))
        for file in coordinator.home.path.iterdir():
            assert made.secret not in file.read_bytes()
            assert file.stat().st_mode & 0o077 == 0, file

    play(tmp_path, scenario)


def test_a_wrong_a_used_and_an_expired_invite_let_nobody_in(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        made = coordinator.invite("brand")
        async with refused(Status.PERMISSION_DENIED, "is not known here"):
            await join(replace(made, secret=bytes(32)))
        async with refused(Status.PERMISSION_DENIED, "is for brand, not for media"):
            await join(replace(made, party="media"))
        first = await join(made)
        async with refused(Status.PERMISSION_DENIED, "has been used already"):
            await join(made)
        await first.relay.Look(pb.LookRequest())
        late = coordinator.invite("media", hours=1, now_s=int(time.time()) - 3700)
        async with refused(Status.PERMISSION_DENIED, "has expired"):
            await join(late)
        await first.close()

    play(tmp_path, scenario)


def test_two_that_join_at_once_with_one_invite_do_not_both_get_in(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        made = coordinator.invite("brand")
        outcomes = await asyncio.gather(*(join(made) for _ in range(5)), return_exceptions=True)
        joined = [each for each in outcomes if isinstance(each, Caller)]
        assert len(joined) == 1
        await joined[0].close()

    play(tmp_path, scenario)


def test_a_request_to_join_must_be_signed_and_ask_for_a_p256_key(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        made = coordinator.invite("brand")
        good = join_request(made, Identity.generate("brand"), new_tls_key())
        async with dial_async(made.endpoint) as channel:
            relay = RelayStub(channel)
            for field, value, status, text in (
                ("identity", Identity.generate("brand").public, Status.PERMISSION_DENIED, "is not signed"),
                ("signature", bytes(64), Status.PERMISSION_DENIED, "is not signed"),
                ("csr", good.csr[:-1], Status.INVALID_ARGUMENT, "P-256"),
                ("csr", b"\x30" * 10_000, Status.INVALID_ARGUMENT, "P-256"),
                ("secret", b"", Status.INVALID_ARGUMENT, "32 bytes"),
                ("identity", b"", Status.INVALID_ARGUMENT, "32 bytes"),
            ):
                bad = pb.JoinRequest()
                bad.CopyFrom(good)
                setattr(bad, field, value)
                async with refused(status, text):
                    await relay.Join(bad)
            await relay.Join(good)

    play(tmp_path, scenario)


def test_impostors_are_refused_at_every_call(tmp_path: Path) -> None:
    """The certificate of an invite, one that was replaced, and one from another coordinator."""

    async def scenario(coordinator: Running) -> None:
        made = coordinator.invite("brand")
        brand = await join(made)
        store = coordinator.coordinator.store
        member = store.member("brand")
        assert member is not None
        store.add_invite(b"again", "brand", 2**40)
        store.use_invite(b"again", replace(member, certificate=bytes(32)))
        other_home = prepare(tmp_path / "other")
        foreign = invite(other_home, "brand")
        for endpoint in (made.endpoint, brand.endpoint, replace(foreign.endpoint, ca=brand.endpoint.ca)):
            endpoint = replace(endpoint, address=coordinator.address)
            expected = Status.UNAVAILABLE if endpoint.key == foreign.endpoint.key else Status.UNAUTHENTICATED
            async with dial_async(endpoint) as channel:
                relay = RelayStub(channel)
                calls = (
                    relay.Look(pb.LookRequest()),
                    relay.Post(pb.PostRequest(letters=[letter("brand", "brand")])),
                    relay.Collect(pb.CollectRequest()),
                    relay.File(pb.Docket()),
                    relay.Sign(pb.Signature()),
                    relay.Withdraw(pb.Withdrawal()),
                )
                for call in calls:
                    async with refused(expected, ""):
                        await call
                for stream in (relay.Attend(), relay.Forward()):
                    async with refused(expected, ""):
                        await stream.read()
        await brand.close()

    play(tmp_path, scenario)


def test_without_a_certificate_or_with_a_party_posing_as_the_server_no_line_opens(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand = await coordinator.join("brand")
        credentials = grpc.ssl_channel_credentials(brand.endpoint.ca)
        options = (("grpc.ssl_target_name_override", "coordinator.tidegate"),)
        bare = grpc.aio.secure_channel(coordinator.address, credentials, options)
        async with bare as channel, refused(Status.UNAVAILABLE, ""):
            await RelayStub(channel).Look(pb.LookRequest())
        async with grpc.aio.insecure_channel(coordinator.address) as channel, refused(Status.UNAVAILABLE, ""):
            await RelayStub(channel).Look(pb.LookRequest())

        posing = grpc.aio.server()
        pair = (brand.endpoint.key, brand.endpoint.certificate)
        port = posing.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await posing.start()
        deceived = dial_async(replace(brand.endpoint, address=f"127.0.0.1:{port}"))
        async with deceived as channel, refused(Status.UNAVAILABLE, ""):
            await RelayStub(channel).Look(pb.LookRequest())
        await posing.stop(None)

    play(tmp_path, scenario)


# Letters


def test_letters_wait_until_their_recipient_keeps_them_also_over_a_restart(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, media = await two_parties(coordinator)
        sent = [letter("brand", "media", bytes([i]) * 10) for i in range(3)]
        await brand.relay.Post(pb.PostRequest(letters=sent))
        await brand.relay.Post(pb.PostRequest(letters=sent[:1]))
        await coordinator.restart()
        got = (await media.relay.Collect(pb.CollectRequest(), wait_for_ready=True)).letters
        assert list(got) == sent
        assert not (await brand.relay.Collect(pb.CollectRequest(kept=[sent[0].id]), wait_for_ready=True)).letters
        rest = (await media.relay.Collect(pb.CollectRequest(kept=[sent[0].id, sent[2].id]))).letters
        assert list(rest) == [sent[1]]

    play(tmp_path, scenario)


def test_letters_are_from_the_caller_to_a_member_and_of_bounded_size_and_number(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, media = await two_parties(coordinator)
        for bad, status, text in (
            (letter("media", "brand"), Status.PERMISSION_DENIED, "posted by brand is from brand"),
            (letter("brand", "stranger"), Status.NOT_FOUND, "stranger has not joined"),
            (letter("brand", "media", b""), Status.INVALID_ARGUMENT, "a letter has 1 to"),
            (letter("brand", "media", bytes(MIB + 1)), Status.INVALID_ARGUMENT, "a letter has 1 to"),
            (letter("brand", "media", letter_id=b"short"), Status.INVALID_ARGUMENT, "16 bytes"),
        ):
            async with refused(status, text):
                await brand.relay.Post(pb.PostRequest(letters=[letter("brand", "media"), bad]))
        await brand.relay.Post(pb.PostRequest(letters=[letter("brand", "media") for _ in range(1000)]))
        async with refused(Status.RESOURCE_EXHAUSTED, "1000 letters from brand wait for media"):
            await brand.relay.Post(pb.PostRequest(letters=[letter("brand", "media")]))
        # One sender cannot shut a box to the others.
        await media.relay.Post(pb.PostRequest(letters=[letter("media", "media")]))
        await brand.relay.Post(pb.PostRequest(letters=[letter("brand", "brand")]))

    play(tmp_path, scenario)


def test_many_large_letters_are_collected_in_several_replies(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, media = await two_parties(coordinator)
        for _ in range(7):
            await brand.relay.Post(pb.PostRequest(letters=[letter("brand", "media", bytes(MIB))]))
        kept: list[bytes] = []
        while got := (await media.relay.Collect(pb.CollectRequest(kept=kept[-10:]))).letters:
            kept += [each.id for each in got]
        assert len(set(kept)) == len(kept) == 7

    play(tmp_path, scenario)


def test_a_node_is_told_that_letters_wait(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, media = await two_parties(coordinator)
        await brand.relay.Post(pb.PostRequest(letters=[letter("brand", "media")]))
        node = Node(media)
        await node.attend()
        await node.hear("mail")
        await brand.relay.Post(pb.PostRequest(letters=[letter("brand", "media")]))
        await node.hear("mail")

    play(tmp_path, scenario)


# Campaigns


def test_a_campaign_is_signed_run_and_committed(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, media, run = await a_run(coordinator)
        for step in range(2):
            for node in (brand, media):
                await node.ended(run, step)
            commits = [await node.hear("commit") for node in (brand, media)]
            assert commits[0] == commits[1]
            assert commits[0].run == run
            if step == 0:
                run = (await brand.hear("start")).run
                await media.hear("start")
        (state,) = (await brand.caller.relay.Look(pb.LookRequest())).campaigns
        assert (state.state, state.step) == ("done", 2)

    play(tmp_path, scenario)


def test_signatures_that_are_not_the_callers_are_refused(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, media = await two_parties(coordinator)
        async with refused(Status.INVALID_ARGUMENT, "not by the identity with which brand joined"):
            await brand.relay.File(docket(brand, signature=media.signature(CONTRACT)))
        async with refused(Status.NOT_FOUND, "stranger has not joined"):
            await brand.relay.File(docket(brand, ("brand", "stranger")))
        async with refused(Status.PERMISSION_DENIED, "first party"):
            await media.relay.File(docket(media))
        await brand.relay.File(docket(brand))
        async with refused(Status.INVALID_ARGUMENT, "not by the identity with which media joined"):
            await media.relay.Sign(pb.Signature(contract=CONTRACT, signature=brand.signature(CONTRACT)))
        stranger = await coordinator.join("stranger")
        async with refused(Status.NOT_FOUND, "no campaign with this contract"):
            await stranger.relay.Sign(pb.Signature(contract=CONTRACT, signature=stranger.signature(CONTRACT)))
        assert not (await stranger.relay.Look(pb.LookRequest())).campaigns

    play(tmp_path, scenario)


def test_a_receipt_by_another_key_ends_the_campaign(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, media, run = await a_run(coordinator)
        await brand.ended(run)
        forged = receipt.make(brand.caller.identity, CONTRACT, 0, run, bytes(32))
        ended = pb.Ended(contract=CONTRACT, step=0, run=run, prepared=True, receipt=forged)
        await media.call.write(pb.FromNode(ended=ended))
        await brand.hear("stop")
        (state,) = (await brand.caller.relay.Look(pb.LookRequest())).campaigns
        assert (state.state, state.by) == ("failed", "media")

    play(tmp_path, scenario)


def test_a_campaign_goes_on_after_the_coordinator_was_restarted(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, media, run = await a_run(coordinator)
        await coordinator.restart()
        held = pb.Held(
            contract=CONTRACT, run=run, receipt=receipt.make(brand.caller.identity, CONTRACT, 0, run, bytes(32))
        )
        brand, media = Node(brand.caller), Node(media.caller)
        await brand.attend(held)
        await media.attend()
        assert (await brand.hear("stop")).run == run
        again = await media.hear("start")
        assert (again.step, again.attempt, again.run != run) == (0, 2, True)

    play(tmp_path, scenario)


def test_a_media_has_no_part_in_the_run_of_another_also_after_a_restart(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, alpha, beta = [await coordinator.join(name) for name in ("brand", "alpha", "beta")]
        members = [pb.Members(parties=["brand", "alpha"]), pb.Members(parties=["brand", "beta"])]
        made = docket(brand, ("brand", "alpha", "beta"), steps=("match-alpha", "match-beta"), members=members)
        await brand.relay.File(made)
        for media in (alpha, beta):
            await media.relay.Sign(pb.Signature(contract=CONTRACT, signature=media.signature(CONTRACT)))
        nodes = {caller.name: Node(caller) for caller in (brand, alpha, beta)}
        # The brand's comes last: with a media that is not here yet, the step of the other would start first.
        for name in ("beta", "alpha"):
            await nodes[name].attend()
        await until(lambda: sum(member.here for member in coordinator.coordinator.store.members()) == 2)
        await nodes["brand"].attend()
        start = await nodes["brand"].hear("start")
        assert (start.step, await nodes["alpha"].hear("start")) == (0, start)
        async with refused(Status.NOT_FOUND, "no run of this number"):
            await (await opened(beta, start.run)).read()
        # Neither its word nor its receipt counts in a run of which it is no party.
        for error in ("policy", ""):
            await nodes["beta"].ended(start.run, error=error)
        for name in ("brand", "alpha"):
            await nodes[name].ended(start.run)
        commit = await nodes["brand"].hear("commit")
        assert len(commit.receipts) == 2
        second = await nodes["beta"].hear("start")
        assert second.step == 1
        await coordinator.restart()
        (state,) = (await brand.relay.Look(pb.LookRequest(), wait_for_ready=True)).campaigns
        assert (state.state, state.step, state.attempt, list(state.missing)) == ("waiting", 1, 1, ["brand", "beta"])
        nodes = {name: Node(node.caller) for name, node in nodes.items()}
        for name in ("brand", "beta"):
            await nodes[name].attend()
        again = await nodes["beta"].hear("start")
        assert (again.step, again.attempt) == (1, 2)
        for name in ("brand", "beta"):
            await nodes[name].ended(again.run, 1)
        await nodes["beta"].hear("commit")
        (state,) = (await alpha.relay.Look(pb.LookRequest())).campaigns
        assert state.state == "done"

    play(tmp_path, scenario)


def test_a_file_of_an_earlier_version_is_read_as_if_all_took_part_in_every_step(tmp_path: Path) -> None:
    path, receipts = tmp_path / "store.db", {"brand": b"r1", "media": b"r2"}
    steps = (Step("match", ("brand", "media"), 2, Commit(bytes(16), receipts)), Step("train", ("brand", "media"), 3))
    made = Campaign(
        CONTRACT, ("brand", "media"), steps, 2_000_000_000, 1.0, 2.0, "waiting", 1, "the line broke", "media"
    )
    store = Store(path)
    store.save([made])
    (kept,) = store.campaigns()
    store.close()
    assert (kept.steps[0], kept.current.attempt, kept.current.reason) == (steps[0], 3, "the line broke")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE steps")
        db.commit()
    store = Store(path)
    (older,) = store.campaigns()
    store.close()
    assert [(step.name, step.parties) for step in older.steps] == [(step.name, step.parties) for step in steps]
    assert (older.steps[0].commit, older.current.attempt) == (steps[0].commit, 3)


def test_a_node_of_another_version_a_second_one_and_a_silent_one_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(coordinator: Running) -> None:
        brand = await coordinator.join("brand")
        other = Node(brand, software="99.1.0")
        await other.attend()
        async with refused(Status.FAILED_PRECONDITION, "install the same version"):
            await other.call.read()
        first = Node(brand)
        await first.attend()
        await until(lambda: coordinator.coordinator.store.members()[0].here)
        second = Node(brand)
        await second.attend()
        async with refused(Status.ALREADY_EXISTS, "another node of brand is here"):
            await second.call.read()
        first.call.cancel()
        await until(lambda: not coordinator.coordinator.store.members()[0].here)
        third = Node(brand)
        await third.attend()
        await until(lambda: coordinator.coordinator.store.members()[0].here)
        monkeypatch.setattr("tidegate.coordinator.server.FIRST_WORD_WITHIN_S", 0.1)
        silent = Node(brand)
        async with refused(Status.INVALID_ARGUMENT, "begins with what the node holds"):
            await silent.call.read()

    play(tmp_path, scenario)


@contextlib.asynccontextmanager
async def freezing_line(address: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A TCP line to `address` over which, once the event is set, nothing passes any more and nothing is closed."""
    frozen = asyncio.Event()
    ends: list[asyncio.StreamWriter] = []
    pumps: list[asyncio.Task[None]] = []
    host, _, port = address.rpartition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                if frozen.is_set():
                    await asyncio.sleep(60)
                writer.write(data)
                await writer.drain()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        ends.extend((writer, far_writer))
        pumps.append(asyncio.create_task(pump(reader, far_writer)))
        pumps.append(asyncio.create_task(pump(far_reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", frozen
    finally:
        server.close()
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for end in ends:
            end.transport.abort()
        await asyncio.sleep(0)


def test_a_frozen_peer_is_noticed_at_both_ends_of_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every waiting time of 8 s cut to 2 s: the options are the right ones, and no longer one is waited for."""
    for name in ("coordinator.server._OPTIONS", "wire.line.KEEPALIVE_OPTIONS"):
        module, _, table = f"tidegate.{name}".rpartition(".")
        options = getattr(sys.modules[module], table)
        assert options.count(("grpc.keepalive_time_ms", 8000)) == 1
        quick = [(option, 2000 if value in (8000, 5000) else value) for option, value in options]
        monkeypatch.setattr(f"tidegate.{name}", type(options)(quick))

    async def scenario(coordinator: Running) -> None:
        brand = await coordinator.join("brand")
        async with freezing_line(coordinator.address) as (address, frozen):
            far = Caller(brand.identity, replace(brand.endpoint, address=address))
            node = Node(far)
            await node.attend()
            await until(lambda: coordinator.coordinator.store.members()[0].here)
            assert (await node.call.read()).WhichOneof("kind") == "mail"  # a node is greeted, even in vain
            frozen.set()
            async with asyncio.timeout(30), refused(Status.UNAVAILABLE, "ping timeout"):
                await node.call.read()
            await until(lambda: not coordinator.coordinator.store.members()[0].here)
            await far.close()

    play(tmp_path, scenario)


# Forwarding


async def opened(caller: Caller, run: bytes) -> Any:
    line = caller.relay.Forward()
    await line.write(pb.Frame(run=run))
    return line


async def both_open(one: Node, other: Node, run: bytes) -> tuple[Any, Any]:
    """Both parties' lines, each of which the coordinator has surely opened."""
    lines = await opened(one.caller, run), await opened(other.caller, run)
    for line, peer in zip(lines, (other.caller.name, one.caller.name), strict=True):
        await line.write(pb.Frame(run=run, peer=peer, sealed=b"hello"))
    for line in lines:
        assert (await line.read()).sealed == b"hello"
    return lines


def test_frames_reach_the_other_party_of_the_run_in_order(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, media, run = await a_run(coordinator)
        sender = await opened(brand.caller, run)
        for i in range(5):  # fewer than DEPTH: they wait for the other line to be opened
            await sender.write(pb.Frame(run=run, peer="media", sealed=bytes([i])))
        receiver = await opened(media.caller, run)
        for i in range(5):
            assert await receiver.read() == pb.Frame(run=run, peer="brand", sealed=bytes([i]))
        await receiver.write(pb.Frame(peer="brand", sealed=b"back"))
        assert await sender.read() == pb.Frame(run=run, peer="media", sealed=b"back")
        await sender.done_writing()
        assert await sender.read() == grpc.aio.EOF
        assert await receiver.read() == pb.Frame(run=run, peer="brand", end=True)
        await receiver.done_writing()
        assert await receiver.code() == Status.OK

    play(tmp_path, scenario)


def test_only_the_parties_of_a_run_that_goes_on_open_a_line_and_each_opens_one(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, media, run = await a_run(coordinator)
        stranger = await coordinator.join("stranger")
        for caller, asked in ((stranger, run), (brand.caller, bytes(16))):
            async with refused(Status.NOT_FOUND, "no run of this number"):
                await (await opened(caller, asked)).read()
        async with refused(Status.INVALID_ARGUMENT, "names its run"):
            await (await opened(brand.caller, b"")).read()
        first, second = await both_open(brand, media, run)
        async with refused(Status.ALREADY_EXISTS, "opened its line in this run already"):
            await (await opened(brand.caller, run)).read()
        for line in (first, second):
            line.cancel()

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("bad", "status", "text"),
    [
        (pb.Frame(peer="media", sealed=bytes(MIB + 1)), Status.INVALID_ARGUMENT, f"at most {MIB} bytes"),
        (pb.Frame(peer="media", sealed=bytes(5 * MIB)), Status.RESOURCE_EXHAUSTED, ""),
        (pb.Frame(peer="brand", sealed=b"x"), Status.INVALID_ARGUMENT, "another party of its run"),
        (pb.Frame(peer="stranger", sealed=b"x"), Status.INVALID_ARGUMENT, "another party of its run"),
        (pb.Frame(run=bytes(16), peer="media", sealed=b"x"), Status.INVALID_ARGUMENT, "is of another"),
        (pb.Frame(peer="media", end=True), Status.INVALID_ARGUMENT, "only the coordinator"),
    ],
)
def test_a_frame_that_cannot_be_ends_the_line_at_both(
    tmp_path: Path, bad: pb.Frame, status: grpc.StatusCode, text: str
) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, media, run = await a_run(coordinator)
        sender, receiver = await both_open(brand, media, run)
        await sender.write(bad)
        async with refused(status, text):
            await sender.read()
        async with asyncio.timeout(15):
            assert await receiver.read() == pb.Frame(run=run, peer="brand", end=True)

    play(tmp_path, scenario)


def test_a_lost_line_ends_the_run_at_the_other_at_once_and_the_step_starts_again(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, media, run = await a_run(coordinator)
        sender, receiver = await both_open(brand, media, run)
        await sender.write(pb.Frame(run=run, peer="media", sealed=b"last words"))
        assert (await receiver.read()).sealed == b"last words"
        began = time.monotonic()
        sender.cancel()
        assert (await receiver.read()).end
        assert time.monotonic() - began < 6, "a line that nobody answers on is given up after 8 s"
        await brand.ended(run, error="carrier")
        assert (await media.hear("stop")).run == run
        await media.ended(run, error="carrier")
        again = await media.hear("start")
        assert (again.attempt, again.run != run) == (2, True)

    play(tmp_path, scenario)


def test_a_lost_node_ends_the_run_at_the_other_at_once(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        brand, media, run = await a_run(coordinator)
        sender, receiver = await both_open(brand, media, run)
        began = time.monotonic()
        brand.call.cancel()
        assert (await media.hear("stop")).run == run
        assert (await receiver.read()).end
        assert (await receiver.read()) == grpc.aio.EOF
        assert time.monotonic() - began < 6, "a line that nobody answers on is given up after 8 s"
        sender.cancel()

    play(tmp_path, scenario)


def test_a_run_moves_no_more_bytes_than_the_settings_allow(tmp_path: Path) -> None:
    async def whole() -> None:
        home = prepare(tmp_path / "coordinator")
        home.settings_file.write_text(home.settings_file.read_text().replace("100_000_000_000", str(2 * MIB)))
        coordinator = Running(home)
        await coordinator.start()
        brand, media, run = await a_run(coordinator)
        sender, receiver = await opened(brand.caller, run), await opened(media.caller, run)
        for _ in range(3):
            await sender.write(pb.Frame(run=run, peer="media", sealed=bytes(MIB)))
        async with refused(Status.RESOURCE_EXHAUSTED, "may move"):
            await sender.read()
        while not (await receiver.read()).end:
            pass
        assert (await media.hear("stop")).run == run
        (state,) = (await brand.caller.relay.Look(pb.LookRequest())).campaigns
        assert state.state == "failed"
        for caller in coordinator.callers:
            await caller.close()
        await coordinator.stop()

    asyncio.run(whole())


def memory_mib(pid: int, figure: str = "VmRSS") -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(figure)) / 1024


async def outside(home: Home) -> Running:
    """For tests whose coordinator is another process: who joins, and nothing else."""
    return Running(home)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's memory from /proc")
def test_50_mib_pass_a_slow_reader_in_bounded_memory(tmp_path: Path) -> None:
    frames = 50

    async def scenario(home: Home, pid: int) -> None:
        brand, media, run = await a_run(coordinator := await outside(home))
        sender, receiver = await opened(brand.caller, run), await opened(media.caller, run)
        before, sent, got = memory_mib(pid), 0, 0
        digests = [hashlib.sha256(), hashlib.sha256()]

        async def send() -> None:
            nonlocal sent
            for _ in range(frames):
                sealed = os.urandom(MIB)
                digests[0].update(sealed)
                await sender.write(pb.Frame(run=run, peer="media", sealed=sealed))
                sent += 1
            await sender.done_writing()

        writing = asyncio.create_task(send())
        await asyncio.sleep(2)
        # The reader has taken nothing yet: the sender waits, and what is under way is bounded.
        assert sent <= 2 * forwarding.DEPTH + 8
        stalled = memory_mib(pid) - before
        while not (frame := await receiver.read()).end:
            digests[1].update(frame.sealed)
            got += 1
            await asyncio.sleep(0.02)
        await writing
        assert got == frames
        assert digests[0].digest() == digests[1].digest()
        grown = memory_mib(pid, "VmHWM") - before
        assert max(stalled, grown) < 40, (stalled, grown)
        for caller in coordinator.callers:
            await caller.close()

    home = prepare(tmp_path / "coordinator")
    with process(home) as child:
        asyncio.run(scenario(home, child.pid))


# The process


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_the_process_within_ten_seconds_with_a_node_on_the_line(
    tmp_path: Path, sign: signal.Signals, status: int
) -> None:
    async def scenario(home: Home, child: subprocess.Popen[bytes]) -> None:
        brand, media, run = await a_run(coordinator := await outside(home))
        line, _ = await both_open(media, brand, run)
        began = time.monotonic()
        child.send_signal(sign)
        assert (await line.read()).end
        async with refused(Status.UNAVAILABLE, "stopping"):
            while await brand.call.read():
                pass
        assert await asyncio.to_thread(child.wait, 10) == status
        assert time.monotonic() - began < 10
        for caller in coordinator.callers:
            await caller.close()

    home = prepare(tmp_path / "coordinator")
    with process(home) as child:
        asyncio.run(scenario(home, child))


def test_nothing_that_was_answered_is_lost_by_kill_9(tmp_path: Path) -> None:
    async def before(home: Home, child: subprocess.Popen[bytes]) -> tuple[Endpoint, Identity, pb.Letter]:
        brand, media = await two_parties(coordinator := await outside(home))
        await brand.relay.File(docket(brand))
        await media.relay.Sign(pb.Signature(contract=CONTRACT, signature=media.signature(CONTRACT)))
        sent = letter("brand", "media")
        await brand.relay.Post(pb.PostRequest(letters=[sent]))
        child.kill()
        for caller in coordinator.callers:
            await caller.close()
        return media.endpoint, media.identity, sent

    async def after(endpoint: Endpoint, identity: Identity, sent: pb.Letter) -> None:
        media = Caller(identity, endpoint)
        (state,) = (await media.relay.Look(pb.LookRequest())).campaigns
        assert (state.contract, state.state) == (CONTRACT, "waiting")
        assert list((await media.relay.Collect(pb.CollectRequest())).letters) == [sent]
        await media.close()

    home = prepare(tmp_path / "coordinator")
    with process(home) as child:
        kept = asyncio.run(before(home, child))
    with process(home):
        asyncio.run(after(*kept))


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_the_commands_explain_what_is_wrong_in_one_sentence_and_a_hint(tmp_path: Path) -> None:
    home = str(tmp_path / "coordinator")
    (tmp_path / "file").write_text("")
    port = free_port()
    for arguments, text in (
        (("--home", home, "up"), "there is no coordinator in"),
        (("--home", home, "init", "--address", "nowhere"), "expected an address"),
        (("--home", str(tmp_path / "file" / "x"), "init", "--address", "localhost:1"), "cannot make the folder"),
    ):
        said = command(*arguments)
        assert said.exit_code == 1
        assert said.stderr.startswith("error: ")
        assert text in said.stderr
        assert "\nhint: " in said.stderr
        assert "Traceback" not in said.stderr
    assert command("--home", home, "init", "--address", f"127.0.0.1:{port}").exit_code == 0
    again = command("--home", home, "init", "--address", f"127.0.0.1:{port}")
    assert "there is a coordinator in" in again.stderr
    made = command("--home", home, "invite", "brand")
    assert Invite.parse(made.stdout).party == "brand"
    assert "brand" in command("--home", home, "parties").stdout
    assert "No campaign" in command("--home", home, "campaigns").stdout
    with process(Home(Path(home))):
        assert "is up in" in command("--home", home, "up").stderr
        other = str(tmp_path / "other")
        command("--home", other, "init", "--address", f"127.0.0.1:{port}")
        assert "the port is in use" in command("--home", other, "up").stderr


def test_a_disk_that_takes_no_more_ends_the_coordinator_with_a_sentence(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path / "coordinator") as coordinator:
            brand = await coordinator.join("brand")
            engine = coordinator.coordinator.store._engine
            with engine.connect() as connection:
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
                connection.commit()
            async with refused(Status.UNAVAILABLE, "disk is full or broken"):
                await brand.relay.Post(pb.PostRequest(letters=[letter("brand", "brand", bytes(MIB))]))
            with pytest.raises(ConfigError, match=r"cannot write to .* full"):
                await coordinator.coordinator.failed

    asyncio.run(scenario())
