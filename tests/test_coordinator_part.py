"""A run in which the coordinator itself plays a part: its worker, its receipt, and who may not pass for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.coordinator_fixture import Caller, Running, invite, prepare, process, until
from tests.real_parties import is_alive
from tests.test_campaigns import World
from tests.test_coordinator import CONTRACT, Node, command, docket, opened, outside, play, refused
from tidegate import __version__
from tidegate.coordinator import members
from tidegate.coordinator.config import Home
from tidegate.coordinator.order import Order
from tidegate.coordinator.server import Coordinator
from tidegate.protocols.channel import ConfigError, DisagreementError, TidegateError
from tidegate.protocols.clustering.box import Box
from tidegate.protocols.clustering.comparator import Ask, Positions, end
from tidegate.protocols.clustering.kmeans import Clustered, Settings, member
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire import pairs, receipt
from tidegate.wire import relay_pb2 as pb
from tidegate.wire.identity import Identity
from tidegate.wire.invite import Endpoint, Invite, pem_certificate
from tidegate.wire.line import Line, dial_async, open_line
from tidegate.wire.relay_pb2_grpc import RelayStub
from tidegate.wire.session import Session, open_session

Status = grpc.StatusCode
MEMBERS = ("brand", "media", "coordinator")


def children(pid: int) -> list[int]:
    """The coordinator's workers below a process."""
    with contextlib.suppress(OSError):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(each) for each in found if is_worker(int(each))]
    return []


def is_worker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"tidegate.coordinator.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


async def the_worker(coordinator: int) -> int:
    await until(lambda: len(children(coordinator)) == 1)
    return children(coordinator)[0]


def identity_of(home: Home) -> bytes:
    return Identity.load(home.identity).public


async def started(coordinator: Running, step: str = "segment") -> tuple[dict[str, Node], bytes]:
    """Two nodes that attend, and the run of one step with the coordinator that they were just told to start."""
    callers = {name: await coordinator.join(name) for name in MEMBERS[:2]}
    nodes = {name: Node(caller) for name, caller in callers.items()}
    for node in nodes.values():
        await node.attend()
    made = docket(callers["brand"], steps=(step,), members=[pb.Members(parties=MEMBERS)])
    await callers["brand"].relay.File(made)
    media = callers["media"]
    await media.relay.Sign(pb.Signature(contract=CONTRACT, signature=media.signature(CONTRACT)))
    return nodes, await same_start(nodes)


async def same_start(nodes: dict[str, Node], attempt: int = 1) -> bytes:
    starts = [await node.hear("start") for node in nodes.values()]
    assert starts[0] == starts[1]
    assert starts[0].attempt == attempt
    return bytes(starts[0].run)


@dataclass
class Worker:
    """A party's worker in a test: its lines to the other two and the sessions on them."""

    lines: list[Line]
    sessions: dict[str, Session]

    @classmethod
    async def open(cls, caller: Caller, run: bytes, identities: dict[str, bytes]) -> Worker:
        peers = pairs.peers(MEMBERS, caller.name)
        numbers = [pairs.line_number(run, MEMBERS, caller.name, peer) for peer in peers]
        lines = [await open_line(caller.endpoint, number, peer) for number, peer in zip(numbers, peers, strict=True)]
        try:
            sessions = await asyncio.gather(
                *(
                    open_session(
                        line,
                        me=caller.identity,
                        peer_identity=identities[peer],
                        contract_hash=CONTRACT,
                        run=run,
                        step=0,
                        my_name=caller.name,
                        peer_name=peer,
                        inputs={},
                        software=__version__,
                    )
                    for line, peer in zip(lines, peers, strict=True)
                )
            )
        except TidegateError:
            await asyncio.gather(*(line.close() for line in lines))
            raise
        return cls(lines, dict(zip(peers, sessions, strict=True)))

    async def finish(self) -> bytes:
        """All digests, one after the other."""
        return b"".join(await asyncio.gather(*(session.finish() for session in self.sessions.values())))

    async def close(self) -> None:
        await asyncio.gather(*(line.close() for line in self.lines))


async def workers(
    nodes: dict[str, Node], run: bytes, coordinator: bytes, **changed: dict[str, bytes]
) -> dict[str, Worker]:
    """Both parties' workers; `changed`: by party, which other keys than the true ones it has pinned."""
    keys = {"coordinator": coordinator, **{name: node.caller.identity.public for name, node in nodes.items()}}
    made = await asyncio.gather(
        *(Worker.open(node.caller, run, {**keys, **changed.get(name, {})}) for name, node in nodes.items())
    )
    return dict(zip(nodes, made, strict=True))


def clusters(parties: dict[str, Worker], x: np.ndarray) -> Any:
    """Both parties' K-means over two columns each of x (n, 4), with three clusters."""
    box = Box(np.full(2, -20.0), np.full(2, 20.0))

    async def part(name: str, worker: Worker, columns: np.ndarray) -> Clustered:
        others = {peer: session for peer, session in worker.sessions.items() if peer != "coordinator"}
        helper = worker.sessions["coordinator"]
        found = await member(
            helper,
            others,
            columns,
            columns[:3],
            box=box,
            settings=Settings(3, 5),
            randomness=Randomness.system(),
            lead=name == "brand",
        )
        await end(helper)
        return found

    return asyncio.gather(
        *(part(name, worker, half) for (name, worker), half in zip(parties.items(), (x[:, :2], x[:, 2:]), strict=True))
    )


def people(rows: int = 300) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.normal(size=(rows, 4)) + 4 * rng.integers(-1, 2, (rows, 1))


async def ends_well(nodes: dict[str, Node], run: bytes, home: Home) -> pb.Commit:
    """Plays the run to its end at both parties; the commit that both were told of."""
    parties = await workers(nodes, run, identity_of(home))
    first, second = await clusters(parties, people())
    assert np.array_equal(first.labels, second.labels)
    digests = await asyncio.gather(*(worker.finish() for worker in parties.values()))
    for worker in parties.values():
        await worker.close()
    for node, digest in zip(nodes.values(), digests, strict=True):
        await node.ended(run, digest=digest)
    commits: list[pb.Commit] = [await node.hear("commit") for node in nodes.values()]
    assert commits[0] == commits[1]
    return commits[0]


def test_a_run_with_the_coordinator_is_committed_with_the_receipts_of_all_three(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        nodes, run = await started(coordinator)
        worker = await the_worker(os.getpid())
        commit = await ends_well(nodes, run, coordinator.home)
        assert commit.run == run
        own = identity_of(coordinator.home)
        keys = [nodes["brand"].caller.identity.public, nodes["media"].caller.identity.public, own]
        read = [receipt.verify(each, key, CONTRACT, 0, run) for each, key in zip(commit.receipts, keys, strict=True)]
        assert pairs.agree(MEMBERS, dict(zip(MEMBERS, read, strict=True)))
        assert not is_alive(worker)
        (state,) = (await nodes["brand"].caller.relay.Look(pb.LookRequest())).campaigns
        assert state.state == "done"

    play(tmp_path, scenario)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_when_its_worker_is_killed_or_freezes_the_step_starts_again_and_ends_well(
    tmp_path: Path, how: signal.Signals
) -> None:
    async def scenario(coordinator: Running) -> None:
        nodes, run = await started(coordinator)
        parties = await workers(nodes, run, identity_of(coordinator.home))
        victim = await the_worker(os.getpid())
        os.kill(victim, how)
        if how == signal.SIGKILL:
            # Both hear of it on their line, before anybody has told their nodes.
            for worker in parties.values():
                with pytest.raises(TidegateError):
                    await worker.sessions["coordinator"].recv(Positions)
        for node, worker in zip(nodes.values(), parties.values(), strict=True):
            await worker.close()
            await node.ended(run, error="carrier")
        again = await same_start(nodes, attempt=2)
        assert again != run
        await until(lambda: not is_alive(victim))
        assert (await ends_well(nodes, again, coordinator.home)).run == again

    play(tmp_path, scenario)


def test_when_a_partys_worker_dies_the_coordinators_ends_and_the_step_starts_again(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        nodes, run = await started(coordinator)
        parties = await workers(nodes, run, identity_of(coordinator.home))
        worker = await the_worker(os.getpid())
        await parties["brand"].close()
        await nodes["brand"].ended(run, error="carrier")
        assert (await nodes["media"].hear("stop")).run == run
        await parties["media"].close()
        await nodes["media"].ended(run, error="carrier")
        await until(lambda: not is_alive(worker))
        again = await same_start(nodes, attempt=2)
        assert (await ends_well(nodes, again, coordinator.home)).run == again

    play(tmp_path, scenario)


def test_parties_that_mean_different_things_are_told_so_by_the_coordinator(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        nodes, run = await started(coordinator)
        parties = await workers(nodes, run, identity_of(coordinator.home))
        await parties["brand"].sessions["coordinator"].send(Ask(1, 300, 3, bytes(16)))
        await parties["media"].sessions["coordinator"].send(Ask(1, 301, 3, bytes(16)))
        # Both are told before either has gone: with the first that says how it ended, everybody's lines do.
        for worker in parties.values():
            with pytest.raises(TidegateError, match="media asks for another turn than brand"):
                await worker.sessions["coordinator"].recv(Positions)
        for name, worker in parties.items():
            await worker.close()
            await nodes[name].ended(run, error="carrier")
        await until(lambda: state_of(coordinator) == ("failed", "coordinator"))

    play(tmp_path, scenario)


def test_a_step_in_which_it_plays_no_part_fails_with_a_sentence(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        nodes, run = await started(coordinator, "match")
        parties = await workers(nodes, run, identity_of(coordinator.home))
        with pytest.raises(TidegateError, match="the coordinator plays no part in a step match"):
            await parties["media"].sessions["coordinator"].recv(Positions)
        for name, worker in parties.items():
            await worker.close()
            await nodes[name].ended(run, error="carrier")
        await until(lambda: state_of(coordinator) == ("failed", "coordinator"))

    play(tmp_path, scenario)


def state_of(coordinator: Running) -> tuple[str, str]:
    (campaign,) = coordinator.coordinator.store.campaigns()
    return campaign.state, campaign.by


def test_a_party_that_has_pinned_another_key_refuses_to_talk_to_it(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        nodes, run = await started(coordinator)
        other = Identity.generate("coordinator").public
        with pytest.raises(DisagreementError, match="coordinator uses another identity key than the one you trust"):
            await workers(nodes, run, other)

    play(tmp_path, scenario)


def test_a_member_opens_no_line_as_the_coordinator_nor_one_that_is_not_its_own(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        nodes, run = await started(coordinator)
        others = pairs.line_number(run, MEMBERS, "media", "coordinator")
        async with refused(Status.NOT_FOUND, "no run of this number"):
            await (await opened(nodes["brand"].caller, others)).read()
        # Of the authority itself, in the coordinator's name, and yet not the one that its workers are given.
        key = ec.generate_private_key(ec.SECP256R1())
        made = members.Authority.load(coordinator.home).client_certificate("coordinator", key.public_key())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        known = nodes["brand"].caller.endpoint
        forged = Endpoint(known.address, known.ca, pem_certificate(made), pem)
        async with dial_async(forged) as channel, refused(Status.UNAUTHENTICATED, "no member's present one"):
            line = RelayStub(channel).Forward()
            await line.write(pb.Frame(run=others))
            await line.read()

    play(tmp_path, scenario)


def test_nobody_joins_under_the_coordinators_name(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        with pytest.raises(ConfigError, match="no party can be called 'coordinator'"):
            coordinator.invite("coordinator")

    play(tmp_path, scenario)


def test_the_certificate_of_its_workers_opens_lines_and_nothing_else(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        nodes, run = await started(coordinator)
        worker = await the_worker(os.getpid())
        up = coordinator.coordinator
        endpoint = Endpoint(coordinator.address, up._authority.pem, pem_certificate(up._own_certificate), up._own_key)
        async with dial_async(endpoint) as channel:
            relay = RelayStub(channel)
            for call in (
                relay.Look(pb.LookRequest()),
                relay.Post(pb.PostRequest()),
                relay.Collect(pb.CollectRequest()),
                relay.File(pb.Docket()),
                relay.Sign(pb.Signature()),
                relay.Withdraw(pb.Withdrawal()),
            ):
                async with refused(Status.UNAUTHENTICATED, "no member's present one"):
                    await call
            async with refused(Status.UNAUTHENTICATED, "no member's present one"):
                await relay.Attend().read()
        assert is_alive(worker)
        assert run
        assert nodes

    play(tmp_path, scenario)


def test_its_worker_is_told_who_takes_part_and_the_contracts_hash_and_nothing_of_what_it_says(tmp_path: Path) -> None:
    orders: list[Order] = []

    async def scenario(coordinator: Running) -> None:
        up = coordinator.coordinator
        given = up._helper._order
        up._helper._order = lambda start: orders.append(made := given(start)) or made  # type: ignore[func-returns-value]
        await started(coordinator)
        await the_worker(os.getpid())

    play(tmp_path, scenario)
    (order,) = orders
    told = {field.name for field in fields(order)}
    assert told == {"home", "address", "ca", "certificate", "key", "contract", "step", "kind", "run", "members"} | {
        "identities"
    }
    assert (order.contract, order.step, order.kind) == (CONTRACT.hex(), 0, "segment")
    assert (tuple(order.members), set(order.identities)) == (MEMBERS, set(MEMBERS))
    assert Order.from_json(order.to_json()) == order


def test_nothing_of_a_run_is_left_in_the_coordinators_folder_but_its_state(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        nodes, run = await started(coordinator)
        before = {path.name for path in coordinator.home.path.rglob("*")}
        await ends_well(nodes, run, coordinator.home)
        assert {path.name for path in coordinator.home.path.rglob("*")} == before

    play(tmp_path, scenario)


def test_no_worker_outlives_its_coordinator(tmp_path: Path) -> None:
    """Neither one that is stopped nor one that is killed."""

    async def stopped(coordinator: Running) -> None:
        await started(coordinator)
        worker = await the_worker(os.getpid())
        await coordinator.stop()
        assert not is_alive(worker)
        await coordinator.start()

    async def killed(home: Home, child: subprocess.Popen[bytes]) -> None:
        there = await outside(home)
        nodes, run = await started(there)
        await workers(nodes, run, identity_of(home))
        worker = await the_worker(child.pid)
        child.kill()
        await until(lambda: not is_alive(worker))
        for caller in there.callers:
            await caller.close()

    play(tmp_path, stopped)
    home = prepare(tmp_path / "killed")
    with process(home) as child:
        asyncio.run(killed(home, child))


def test_the_step_starts_again_after_a_restart_of_the_coordinator(tmp_path: Path) -> None:
    async def scenario(coordinator: Running) -> None:
        nodes, _ = await started(coordinator)
        await the_worker(os.getpid())
        await coordinator.restart()
        nodes = {name: Node(node.caller) for name, node in nodes.items()}
        for node in nodes.values():
            await node.attend()
        again = await same_start(nodes, attempt=2)
        assert (await ends_well(nodes, again, coordinator.home)).run == again

    play(tmp_path, scenario)


def test_a_folder_without_the_coordinators_identity_is_said_in_a_sentence(tmp_path: Path) -> None:
    home = prepare(tmp_path / "coordinator")
    home.identity.unlink()

    async def up() -> None:
        Coordinator(home)

    with pytest.raises(ConfigError, match=r"has no identity of its own: an earlier version set it up") as caught:
        asyncio.run(up())
    assert "invite every party again" in caught.value.hint
    for arguments in (("up",), ("invite", "brand")):
        said = command("--home", str(home.path), *arguments)
        assert said.exit_code == 1
        assert "has no identity of its own" in said.stderr
        assert "Traceback" not in said.stderr


def test_an_invite_tells_whose_key_the_coordinator_has(tmp_path: Path) -> None:
    home = prepare(tmp_path / "coordinator")
    made = invite(home, "brand")
    assert Invite.parse(made.to_text()).identity == identity_of(home)


def test_its_places_are_not_used_up_by_the_runs_that_one_party_may_have() -> None:
    world = World(("a", "b", "c", "d", "e", "f"), runs_per_party=1, own_runs=2)
    world.here(*world.parties, "coordinator")

    def file(first: str, second: str) -> bytes:
        contract = os.urandom(32)
        made = pb.Docket(contract=contract, parties=(first, second), steps=["segment"], signature=b"s")
        made.members.append(pb.Members(parties=(first, second, "coordinator")))
        made.expires_s = int(world.at.wall_s) + 86_400
        world.do(world.scheduler.file(first, made, world.at))
        world.do(world.scheduler.sign(second, contract, b"s", world.at))
        return contract

    def going() -> set[bytes]:
        return {contract for contract, kept in world.disk.items() if kept.state == "running"}

    first, again, second, third = file("a", "b"), file("a", "b"), file("c", "d"), file("e", "f")
    # a and b have one place each, and the coordinator two.
    assert going() == {first, second}
    run = world.heard("a", "start")[0].start.run
    for party in ("a", "b", "coordinator"):
        ended = pb.Ended(contract=first, step=0, run=run, error="policy")
        world.do(world.scheduler.ended(party, ended, world.at))
    assert going() == {second, again}
    assert third not in going()
