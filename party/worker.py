"""One attempt at one step, in a process of its own: `python -m tidegate.party.worker`, started by the node.

The job comes as one line of JSON on standard input. The worker ends itself when that closes, so that no worker
outlives its node. What it tells the node is one JSON object a line on standard output: {"progress": ...} while it runs,
and at the end {"prepared": ...} or {"error": ...}. Everything that a peer sent is parsed here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tidegate import __version__
from tidegate.protocols.channel import TidegateError
from tidegate.protocols.primitives import bfv
from tidegate.wire import pairs, receipt, spawn
from tidegate.wire.contract import Contract
from tidegate.wire.ending import PASSING, PersonError, describe, public_reason, together
from tidegate.wire.line import Line, open_line
from tidegate.wire.session import Session, open_session

from . import models, overlap, policy, retrace
from .config import Home
from .data import table
from .job import Job
from .noise import discrete_gaussian
from .order import Order, is_result_of
from .pacing import Pacing
from .progress import Progress
from .segments import budget
from .steps import play
from .store import Store


def main() -> int:
    order = Order.from_json(spawn.begin(_prepare))
    try:
        spawn.say({"prepared": asyncio.run(attempt(order))})
    except Exception as error:
        spawn.say({"error": describe(error)})
        return 1
    return 0


def _prepare() -> None:
    """What most steps need and take some tenths of a second to have; whoever cannot have it is told in such a step."""
    with contextlib.suppress(TidegateError):
        bfv.engine()
    importlib.import_module("sklearn.linear_model")


async def attempt(order: Order) -> dict[str, Any]:
    """Opens a session with each peer, plays the step, writes facts.json and returns the receipt and the counters."""
    home = order.home.require()
    store = Store(home.store_db)
    contract = store.campaign(order.contract).contract
    me = contract.party(home.name())
    step = contract.steps[order.step]
    members = contract.on_line(step)
    peers = pairs.peers(members, me.name)
    partners = budget.partners(contract, me.name, step)
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
        for partner in partners:
            store.charge(registered.digest, partner, kind, amount, limit, order.contract, order.run)

    def reserve(kind: str, amount: int, limit: int) -> None:
        for partner in partners:
            store.check_room(registered.digest, partner, kind, amount, limit, order.contract, order.step)

    def spent(kind: str) -> int:
        return max(store.spent(registered.digest, partner, kind) for partner in partners)

    started = time.monotonic()
    staging = order.home.staging(order.run)
    staging.mkdir(parents=True, mode=0o700)
    progress, pacing = Progress(contract, step, spawn.say), Pacing(step, me, contract.members(step)[1].data.rows)

    def on_message(direction: str, kind: str, size: int) -> None:
        progress.on_message(direction, kind, size)
        pacing.on_message(direction)

    lines: list[Line] = []
    try:
        for peer in peers:
            number = pairs.line_number(order.run, members, me.name, peer)
            lines.append(await open_line(home.coordinator(), number, peer))

        async def session_with(peer: str, line: Line) -> Session:
            return await open_session(
                line,
                me=identity,
                peer_identity=contract.key_of(peer),
                contract_hash=order.contract,
                run=order.run,
                step=order.step,
                my_name=me.name,
                peer_name=peer,
                inputs=_known_to(contract, peer, order.earlier, models.run_used(store, contract)),
                software=__version__,
                on_message=on_message,
            )

        keeping = retrace.Keeping(contract, step, me.role, staging)
        sessions = await together(*(session_with(peer, line) for peer, line in zip(peers, lines, strict=True)))
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
                peer: keeping.channel(session, peer) for peer, session in zip(peers, sessions, strict=True)
            },
            reserve=reserve,
            spent=spent,
            max_epsilon=policy.load(home).max_epsilon,
            run=order.run,
            sign=identity.sign,
        )
        try:
            facts = await play(job, job.channels[peers[0]])
            keeping.finish()
            # When a step ends is not to tell the media how much there was to write.
            await asyncio.sleep(pacing.wait_s())
            digests = await together(*(session.finish() for session in sessions))
        except Exception as error:
            again = describe(error)["kind"] in PASSING
            await together(*(session.abort(public_reason(error, me.name), again=again) for session in sessions))
            raise
    finally:
        await together(*(line.close() for line in lines))
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


def _known_to(contract: Contract, peer: str, earlier: dict[str, str], used: dict[str, str]) -> dict[str, str]:
    """Of the runs that this party builds on, those in which the peer took part, and which model is used."""
    if peer == pairs.COORDINATOR:
        return {}
    steps = {step.name: step for step in contract.steps}
    return {name: run for name, run in earlier.items() if contract.takes_part(peer, steps[name])} | used


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
