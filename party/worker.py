"""One attempt at one step, in a process of its own: `python -m tidegate.party.worker`, started by the node.

The job comes as one line of JSON on standard input. The worker ends itself when that closes, so that no worker
outlives its node. What it tells the node is one JSON object a line on standard output: {"progress": ...} while it runs,
and at the end {"prepared": ...} or {"error": ...}. Everything that a peer sent is parsed here and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

from tidegate import __version__
from tidegate.protocols.channel import DisagreementError, PeerError, PolicyError
from tidegate.wire import pairs, receipt
from tidegate.wire.contract import Contract, ContractParty
from tidegate.wire.line import Line, open_line
from tidegate.wire.session import Session, open_session

from . import models, overlap, policy, retrace
from .config import Home
from .data import table
from .job import Job
from .noise import discrete_gaussian
from .order import PASSING, Order, describe, is_result_of, outline
from .pacing import Pacing
from .progress import Progress
from .steps import play
from .store import PersonError, Store

MEMORY_LIMIT_BYTES = 16 * 2**30

T = TypeVar("T")


def main() -> int:
    # Results are for their owner, whatever the shell that started the node allows to others.
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    order = Order.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_the_node, daemon=True).start()
    try:
        say({"prepared": asyncio.run(attempt(order))})
    except Exception as error:
        say({"error": describe(error)})
        return 1
    return 0


def _end_with_the_node() -> None:
    sys.stdin.read()
    os._exit(3)


def say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def attempt(order: Order) -> dict[str, Any]:
    """Opens a session with each peer, plays the step, writes facts.json and returns the receipt and the counters."""
    home = order.home.require()
    store = Store(home.store_db)
    contract = store.campaign(order.contract).contract
    me = contract.party(home.name())
    step = contract.steps[order.step]
    members = [party.name for party in contract.members(step)]
    peers = [contract.party(name) for name in pairs.peers(members, me.name)]
    identity = home.load_identity()
    registered = store.dataset(me.data.name)
    if table.commitment(registered.path, registered.salt) != me.data.commitment:
        raise PersonError(
            f"the file of data set {registered.name} is no longer the one that the contract names",
            "put the file back as it was, then start the node again",
        )
    for name, run in order.earlier.items():
        _check_result(home.results(contract.short, name), name, run)

    def charge(kind: str, amount: int, limit: int) -> None:
        store.charge(registered.digest, peers[0].name, kind, amount, limit, order.contract, order.run)

    def reserve(kind: str, amount: int, limit: int) -> None:
        store.check_room(registered.digest, peers[0].name, kind, amount, limit, order.contract, order.step)

    def spent(kind: str) -> int:
        return store.spent(registered.digest, peers[0].name, kind)

    started = time.monotonic()
    staging = order.home.staging(order.run)
    staging.mkdir(parents=True, mode=0o700)
    progress, pacing = Progress(contract, step, say), Pacing(step, me, contract.role("media").data.rows)

    def on_message(direction: str, kind: str, size: int) -> None:
        progress.on_message(direction, kind, size)
        pacing.on_message(direction)

    lines: list[Line] = []
    try:
        for peer in peers:
            number = pairs.line_number(order.run, members, me.name, peer.name)
            lines.append(await open_line(home.coordinator(), number, peer.name))

        async def session_with(peer: ContractParty, line: Line) -> Session:
            return await open_session(
                line,
                me=identity,
                peer_identity=bytes.fromhex(peer.identity),
                contract_hash=order.contract,
                run=order.run,
                step=order.step,
                my_name=me.name,
                peer_name=peer.name,
                inputs=_known_to(contract, peer, order.earlier) | models.run_used(store, contract),
                software=__version__,
                on_message=on_message,
            )

        keeping = retrace.Keeping(contract, step, me.role, staging)
        sessions = await _together(*(session_with(peer, line) for peer, line in zip(peers, lines, strict=True)))
        job = Job(
            contract=contract,
            step=step,
            party=me.name,
            path=registered.path,
            keys=registered.keys,
            given=registered.given,
            region=registered.region or None,
            duplicates=registered.duplicates,
            earlier={name: home.results(contract.short, name) for name in order.earlier},
            staging=staging,
            randomness=keeping.randomness(),
            count_noise=discrete_gaussian(contract.guards.count_noise),
            charge=charge,
            tokens=home.tokens,
            campaigns=home.path / "campaigns",
            cache=home.cache,
            channels={
                peer.name: keeping.channel(session, peer.name) for peer, session in zip(peers, sessions, strict=True)
            },
            reserve=reserve,
            spent=spent,
            max_epsilon=policy.load(home).max_epsilon,
        )
        try:
            facts = await play(job, job.channels[peers[0].name])
            keeping.finish()
            # When a step ends is not to tell the media how much there was to write.
            await asyncio.sleep(pacing.wait_s())
            digests = await _together(*(session.finish() for session in sessions))
        except Exception as error:
            again = describe(error)["kind"] in PASSING
            await _together(*(session.abort(public_reason(error, me.name), again=again) for session in sessions))
            raise
    finally:
        await _together(*(line.close() for line in lines))
    if step.step == "match" and me.role == "brand":
        facts |= overlap.leave(job, _matched_before(home, store, contract, order))
    seconds = round(time.monotonic() - started, 3)
    moved = {
        "sent": sum(session.bytes_sent for session in sessions),
        "received": sum(session.bytes_received for session in sessions),
    }
    figures = {"seconds": seconds, **moved}
    (staging / "facts.json").write_text(json.dumps({**facts, "run": order.run.hex(), **figures}, allow_nan=False))
    if keeping.wanted:
        flush(keeping.folder)
    flush(staging)
    made = receipt.make(identity, order.contract, order.step, order.run, b"".join(digests))
    return {"receipt": made.hex(), **figures}


async def _together(*work: Awaitable[T]) -> list[T]:
    """The results of all of it, in order; the first error ends the rest."""

    async def done(each: Awaitable[T]) -> T:
        return await each

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(done(each)) for each in work]
    except* Exception as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def _known_to(contract: Contract, peer: ContractParty, earlier: dict[str, str]) -> dict[str, str]:
    """Of the runs that this party builds on, those in which the peer took part."""
    steps = {step.name: step for step in contract.steps}
    return {name: run for name, run in earlier.items() if contract.takes_part(peer.name, steps[name])}


def _matched_before(home: Home, store: Store, contract: Contract, order: Order) -> dict[str, Path]:
    """By media the results of the other match steps that are committed here."""
    found = {}
    for index, step in enumerate(contract.steps):
        run = store.committed_run(order.contract, index)
        if step.step == "match" and run is not None:
            found[step.media] = home.results(contract.short, step.name)
            _check_result(found[step.media], step.name, run.hex())
    return found


def _check_result(results: Path, name: str, run: str) -> None:
    if not is_result_of(results, run):
        raise PersonError(
            f"the result of step {name} here is not the one that the parties agreed on",
            "restore the folder campaigns from a backup, then start the node again",
        )


def public_reason(error: BaseException, name: str) -> str:
    """What the peer's people are told: our own sentences about rules and settings, else only the kind of failure."""
    if isinstance(error, (PolicyError, DisagreementError, PeerError)):
        return f"{error.text} ({error.hint})" if error.hint else error.text
    return outline(describe(error)["kind"], name)


def flush(folder: Path) -> None:
    """Every file of the folder, and the folder, on disk before anybody is told that the result is there."""
    for path in (*folder.iterdir(), folder, folder.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
