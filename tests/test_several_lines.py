"""A run of three parties: a line for each two that talk; to scheduler, relay and receipts they are one run."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode as Status
from hypothesis import given
from hypothesis import strategies as st

from tests.coordinator_fixture import Caller, Running, prepare, running
from tests.test_campaigns import CONTRACT, THREE, World
from tests.test_coordinator import CONTRACT as FILED
from tests.test_coordinator import Node, docket, opened, refused
from tidegate.coordinator.campaigns import HEARD_WITHIN_S, OPEN_WITHIN_S, REPORT_WITHIN_S
from tidegate.protocols.channel import MIB, CarrierError
from tidegate.wire import pairs, receipt
from tidegate.wire import relay_pb2 as pb
from tidegate.wire.identity import Identity

STEPS = (("match-alpha", ("brand", "alpha")), ("match-beta", ("brand", "beta")), ("train", THREE))
MEMBERS = [pb.Members(parties=parties) for _, parties in STEPS]


# Numbers and digests


def test_everybody_talks_to_the_brand_and_to_the_media_that_leads() -> None:
    four = ("brand", "alpha", "beta", "gamma")
    assert pairs.pairs(four) == [
        ("brand", "alpha"),
        ("brand", "beta"),
        ("brand", "gamma"),
        ("alpha", "beta"),
        ("alpha", "gamma"),
    ]
    assert pairs.peers(four, "alpha") == ["brand", "beta", "gamma"]
    assert pairs.peers(four, "gamma") == ["brand", "alpha"]


def test_a_run_of_two_has_one_line_under_its_own_number() -> None:
    run = bytes(range(16))
    assert pairs.lines(run, ("brand", "media")) == {run: ("brand", "media")}


def test_each_line_of_each_run_has_a_number_of_its_own_that_either_end_derives() -> None:
    run, other = bytes(range(16)), bytes(16)
    numbers = [*pairs.lines(run, THREE), *pairs.lines(other, THREE)]
    assert len(set(numbers)) == 6
    assert not {run, other} & set(numbers)
    assert {len(number) for number in numbers} == {16}
    assert pairs.line_number(run, THREE, "brand", "beta") == pairs.line_number(run, THREE, "beta", "brand")
    # Where one name ends and the next begins matters.
    odd = ("a", "bc", "ab", "c")
    assert pairs.line_number(run, odd, "a", "bc") != pairs.line_number(run, odd, "ab", "c")


def digests_of(parties: tuple[str, ...], said: dict[frozenset[str], bytes]) -> dict[str, bytes]:
    return {one: b"".join(said[frozenset((one, peer))] for peer in pairs.peers(parties, one)) for one in parties}


@given(st.integers(2, 6), st.integers(0, 2**16), st.integers(0, 31))
def test_parties_agree_if_and_only_if_each_two_that_talked_say_the_same(count: int, which: int, at: int) -> None:
    parties = tuple(f"party{number}" for number in range(count))
    said = {frozenset(pair): bytes([number]) * 32 for number, pair in enumerate(pairs.pairs(parties))}
    told = digests_of(parties, said)
    assert pairs.agree(parties, told)
    liar = parties[which % count]
    changed = bytearray(told[liar])
    changed[which % len(changed) // 32 * 32 + at] ^= 1
    assert not pairs.agree(parties, {**told, liar: bytes(changed)})
    assert not pairs.agree(parties, {**told, liar: b""})
    assert not pairs.agree(parties, {**told, liar: told[liar] + bytes(32)})


def test_a_receipt_holds_the_digest_of_each_line_and_stands_as_before_for_one() -> None:
    acme, contract, run = Identity.generate("acme"), bytes(32), bytes(16)
    one = receipt.make(acme, contract, 3, run, b"d" * 32)
    assert one == b"d" * 32 + acme.sign(b"tidegate receipt v1" + contract + b"\3" + bytes(7) + run + b"d" * 32)
    two = receipt.make(acme, contract, 3, run, b"d" * 32 + b"e" * 32)
    assert receipt.verify(two, acme.public, contract, 3, run) == b"d" * 32 + b"e" * 32
    for bad in (two[32:], two[:32] + two[64:], two[32:64] + two[:32] + two[64:], two[:-64], b"", two + bytes(32 * 14)):
        with pytest.raises(CarrierError):
            receipt.verify(bad, acme.public, contract, 3, run)


# The scheduler


def joint() -> World:
    """A world in which both matches are committed and the joint step has started."""
    world = World(THREE)
    made = pb.Docket(contract=CONTRACT, parties=THREE, steps=[name for name, _ in STEPS], members=MEMBERS)
    made.expires_s = int(world.at.wall_s) + 86_400
    world.do(world.scheduler.file("brand", made, world.at))
    for media in THREE[1:]:
        world.sign(media)
    world.here()
    for step, (_, parties) in enumerate(STEPS[:2]):
        run = started(world, *parties)
        for party in parties:
            world.prepared(party, run, step)
    return world


def started(world: World, *parties: str) -> bytes:
    (run,) = {message.start.run for party in parties for message in world.heard(party, "start")}
    return run


def joint_receipts(run: bytes) -> dict[str, bytes]:
    """What the fake reader of `World` takes for good: it looks at the end alone, and takes all of it for digests."""
    return digests_of(THREE, {frozenset(pair): bytes([number]) + run for number, pair in enumerate(pairs.pairs(THREE))})


def test_a_joint_step_waits_for_the_steps_of_any_two_of_its_parties_and_starts_with_all() -> None:
    world = World(THREE)
    made = pb.Docket(contract=CONTRACT, parties=THREE, steps=[name for name, _ in STEPS], members=MEMBERS)
    made.expires_s = int(world.at.wall_s) + 86_400
    world.do(world.scheduler.file("brand", made, world.at))
    for media in THREE[1:]:
        world.sign(media)
    world.here("brand", "beta")
    run = started(world, "brand", "beta")
    for party in ("brand", "beta"):
        world.prepared(party, run, 1)
    assert not world.heard("brand", "start")
    world.here("alpha")
    run = started(world, "brand", "alpha")
    for party in ("brand", "alpha"):
        world.prepared(party, run, 0)
    run = started(world, *THREE)
    assert world.lines[-1] == (run, THREE)


def test_a_joint_run_is_committed_by_the_receipts_of_all() -> None:
    world = joint()
    run = started(world, *THREE)
    for party in THREE:
        assert world.state.state == "running"
        world.prepared(party, run, 2, receipt=joint_receipts(run)[party])
    assert world.state.state == "done"
    for party in THREE:
        assert len(world.heard(party, "commit")[-1].commit.receipts) == 3


def test_a_party_has_opened_when_both_of_its_lines_are() -> None:
    world = joint()
    run = started(world, *THREE)
    lines = pairs.lines(run, THREE)
    for number, pair in lines.items():
        for party in pair:
            if (pair, party) != (("alpha", "beta"), "beta"):
                world.scheduler.line_opened(number, party)
    world.wait(OPEN_WITHIN_S - 1)
    assert world.state.state == "running"
    world.wait(1)
    world.wait(HEARD_WITHIN_S)
    assert (world.state.state, world.state.by) == ("waiting", "beta")
    assert world.state.reason == "beta's worker opened no line"


@pytest.mark.parametrize("pair", pairs.pairs(THREE))
def test_a_line_that_is_lost_ends_the_run_for_all_and_the_step_starts_again(pair: tuple[str, str]) -> None:
    world = joint()
    run = started(world, *THREE)
    number = pairs.line_number(run, THREE, *pair)
    world.do(world.scheduler.line_lost(number, pair[1], world.at))
    world.wait(REPORT_WITHIN_S)
    assert (run, None) in world.lines
    world.wait(HEARD_WITHIN_S)
    assert world.state.by == pair[1]
    world.wait(1)
    assert started(world, *THREE) != run


def test_a_line_of_another_run_says_nothing_of_this_one() -> None:
    world = joint()
    run = started(world, *THREE)
    for number in (run, *pairs.lines(bytes(16), THREE)):
        world.do(world.scheduler.line_lost(number, "alpha", world.at))
        world.do(world.scheduler.overrun(number, "alpha", 1, world.at))
    world.wait(REPORT_WITHIN_S)
    assert world.state.state == "running"


def test_too_many_bytes_on_one_line_end_the_campaign() -> None:
    world = joint()
    run = started(world, *THREE)
    world.do(world.scheduler.overrun(pairs.line_number(run, THREE, "alpha", "beta"), "beta", 10, world.at))
    assert (world.state.state, world.state.by) == ("failed", "beta")


def test_a_refusal_of_one_ends_the_run_for_all_by_its_name() -> None:
    world = joint()
    run = started(world, *THREE)
    world.failed("brand", run, "peer")
    world.failed("beta", run, "policy", "a rule forbids it")
    world.failed("alpha", run, "peer")
    assert (world.state.state, world.state.by) == ("failed", "beta")


@pytest.mark.parametrize("line", [0, 1])
def test_receipts_that_differ_on_one_line_end_the_campaign(line: int) -> None:
    world = joint()
    run = started(world, *THREE)
    receipts = joint_receipts(run)
    other = bytearray(receipts["beta"])
    other[line * 17] ^= 1
    for party, made in {**receipts, "beta": bytes(other)}.items():
        world.prepared(party, run, 2, receipt=made)
    assert world.state.state == "failed"
    assert "different transcripts" in world.state.reason


# The coordinator


async def a_joint_run(coordinator: Running) -> tuple[dict[str, Node], bytes]:
    callers = [await coordinator.join(name) for name in THREE]
    nodes = {caller.name: Node(caller) for caller in callers}
    for node in nodes.values():
        await node.attend()
    made = docket(callers[0], THREE, steps=("train",), members=[pb.Members(parties=THREE)])
    await callers[0].relay.File(made)
    for media in callers[1:]:
        await media.relay.Sign(pb.Signature(contract=FILED, signature=media.signature(FILED)))
    (run,) = {(await node.hear("start")).run for node in nodes.values()}
    return nodes, run


async def ends(nodes: dict[str, Node], run: bytes) -> dict[tuple[str, str], Any]:
    """Each party's end of each line, by who it is and to whom; all are surely open."""
    callers: dict[str, Caller] = {name: node.caller for name, node in nodes.items()}
    found = {}
    for number, (one, other) in pairs.lines(run, THREE).items():
        for party, peer in ((one, other), (other, one)):
            found[party, peer] = await opened(callers[party], number)
            await found[party, peer].write(pb.Frame(run=number, peer=peer, sealed=f"{party} to {peer}".encode()))
    for (party, peer), line in found.items():
        assert (await line.read()).sealed == f"{peer} to {party}".encode()
    return found


def test_each_two_have_a_line_that_no_third_can_open_or_write_to(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path / "coordinator") as coordinator:
            nodes, run = await a_joint_run(coordinator)
            theirs = pairs.line_number(run, THREE, "alpha", "beta")
            for number in (theirs, run):
                async with refused(Status.NOT_FOUND, "no run of this number"):
                    await (await opened(nodes["brand"].caller, number)).read()
            lines = await ends(nodes, run)
            await lines["brand", "alpha"].write(pb.Frame(peer="beta", sealed=b"x"))
            async with refused(Status.INVALID_ARGUMENT, "another party of its run"):
                await lines["brand", "alpha"].read()
            async with asyncio.timeout(5):
                assert (await lines["alpha", "brand"].read()).end

    asyncio.run(scenario())


def test_a_lost_line_ends_all_lines_of_the_run_and_a_commit_comes_with_three_receipts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path / "coordinator") as coordinator:
            nodes, run = await a_joint_run(coordinator)
            lines = await ends(nodes, run)
            began = time.monotonic()
            lines["beta", "alpha"].cancel()
            assert (await lines["alpha", "beta"].read()).end
            await nodes["beta"].ended(run, error="carrier")
            for one, other in (("brand", "alpha"), ("alpha", "brand"), ("brand", "beta"), ("beta", "brand")):
                async with asyncio.timeout(10):
                    while isinstance(await lines[one, other].read(), pb.Frame):
                        pass
            assert time.monotonic() - began < 5
            for name in ("brand", "alpha"):
                assert (await nodes[name].hear("stop")).run == run
                await nodes[name].ended(run, error="carrier")
            (again,) = {(await node.hear("start")).run for node in nodes.values()}
            assert again != run
            said = {frozenset(pair): bytes([number]) * 32 for number, pair in enumerate(pairs.pairs(THREE))}
            for name, digest in digests_of(THREE, said).items():
                await nodes[name].ended(again, digest=digest)
            for node in nodes.values():
                assert len((await node.hear("commit")).receipts) == 3

    asyncio.run(scenario())


def test_the_lines_of_a_run_move_no_more_bytes_together_than_the_settings_allow(tmp_path: Path) -> None:
    async def scenario() -> None:
        home = prepare(tmp_path / "coordinator")
        home.settings_file.write_text(home.settings_file.read_text().replace("100_000_000_000", str(2 * MIB)))
        coordinator = Running(home)
        await coordinator.start()
        nodes, run = await a_joint_run(coordinator)
        lines = await ends(nodes, run)
        for one, other in pairs.pairs(THREE):
            await lines[one, other].write(pb.Frame(peer=other, sealed=bytes(MIB - MIB // 8)))
        for name in ("alpha", "beta"):
            assert (await nodes[name].hear("stop")).run == run
        (state,) = (await nodes["brand"].caller.relay.Look(pb.LookRequest())).campaigns
        assert (state.state, "more than" in state.reason) == ("failed", True)
        for caller in coordinator.callers:
            await caller.close()
        await coordinator.stop()

    asyncio.run(scenario())
