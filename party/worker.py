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
from pathlib import Path
from typing import Any

from tidegate import __version__
from tidegate.protocols.channel import DisagreementError, PeerError, PolicyError
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire import receipt
from tidegate.wire.contract import Contract
from tidegate.wire.line import open_line
from tidegate.wire.session import open_session

from . import overlap
from .config import Home
from .data import table
from .job import Job
from .noise import discrete_gaussian
from .order import PASSING, Order, describe, is_result_of, outline
from .progress import Progress
from .steps import play
from .store import PersonError, Store

MEMORY_LIMIT_BYTES = 16 * 2**30


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
    """Opens the session, plays the step, writes facts.json and returns the receipt and the counters."""
    home = order.home.require()
    store = Store(home.store_db)
    contract = store.campaign(order.contract).contract
    me = contract.party(home.name())
    step = contract.steps[order.step]
    peer = contract.peer(me.name, step)
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
        store.charge(registered.digest, peer.name, kind, amount, limit, order.contract, order.run)

    started = time.monotonic()
    staging = order.home.staging(order.run)
    staging.mkdir(parents=True, mode=0o700)
    progress = Progress(contract, step, say)
    line = await open_line(home.coordinator(), order.run, peer.name)
    try:
        session = await open_session(
            line,
            me=identity,
            peer_identity=bytes.fromhex(peer.identity),
            contract_hash=order.contract,
            run=order.run,
            step=order.step,
            my_name=me.name,
            peer_name=peer.name,
            inputs=order.earlier,
            software=__version__,
            on_message=progress.on_message,
        )
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
            randomness=Randomness.system(),
            count_noise=discrete_gaussian(contract.guards.count_noise),
            charge=charge,
            tokens=home.tokens,
        )
        try:
            facts = await play(job, session)
            digest = await session.finish()
        except Exception as error:
            await session.abort(public_reason(error, me.name), again=describe(error)["kind"] in PASSING)
            raise
    finally:
        await line.close()
    if step.step == "match" and me.role == "brand":
        facts |= overlap.leave(job, _matched_before(home, store, contract, order))
    seconds = round(time.monotonic() - started, 3)
    figures = {"seconds": seconds, "sent": session.bytes_sent, "received": session.bytes_received}
    (staging / "facts.json").write_text(json.dumps({**facts, "run": order.run.hex(), **figures}, allow_nan=False))
    flush(staging)
    made = receipt.make(identity, order.contract, order.step, order.run, digest)
    return {"receipt": made.hex(), **figures}


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
