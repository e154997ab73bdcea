"""A party's node: keeps one line to the coordinator, starts a worker for each run, commits what its parties have.

The coordinator says when; this node decides whether. It starts a run only for a contract that every party has signed
with the key pinned here, of a step in which it takes part, in the order of its steps with that peer, once per step.
What a coordinator sends is otherwise a rumour: it is shown to people, never acted upon.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from tidegate import __version__
from tidegate.protocols.channel import CarrierError, ConfigError, TidegateError
from tidegate.wire import pairs, receipt, spawn
from tidegate.wire.ending import describe, outline
from tidegate.wire.line import dial_async, explain, plain
from tidegate.wire.relay_pb2 import CampaignState, Commit, Ended, FromNode, Held, Here, Start, ToNode
from tidegate.wire.relay_pb2_grpc import RelayStub

if TYPE_CHECKING:
    from tidegate.wire.contract import Contract, Step
    from tidegate.wire.relay_pb2_grpc import RelayAsyncStub

from . import mail, policy
from .config import Home
from .order import Order, is_result_of
from .store import FINAL, Campaign, Store

RETRY_S = (0.5, 5.0)
STOP_WORKER_S = 5.0
# A line that broke without a word is noticed at the coordinator within this time; until then our place is taken.
PLACE_TAKEN_S = 40.0
# When the other side stops, its worker says why over the sealed line: so long ours may take to read it.
LAST_WORDS_S = 2.0
# A command that signs tells the coordinator first and notes it here at once afterwards.
SIGNED_WITHIN_S = 5.0
Log = Callable[[str], None]


@dataclass
class Node:
    """What a node holds while it is up: its home and store, and the worker of each contract that runs."""

    home: Home
    store: Store
    log: Log
    name: str
    workers: dict[bytes, asyncio.Task[None]] = field(default_factory=dict)
    starter: spawn.Starter = field(default_factory=lambda: spawn.Starter("tidegate.party.worker"))
    outgoing: asyncio.Queue[FromNode] = field(default_factory=asyncio.Queue)
    renewals: int = 0
    # Set when what a worker's task did could not be kept: the node ends with that error.
    broken: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


def run(home: Home, log: Log) -> int:
    """Runs the node until it is stopped; the exit status. `log` gets one readable line per event."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its memory holds keys
    home.require()
    store = Store(home.store_db)
    with _only_one(home):
        clean_up(home, store)
        return asyncio.run(_until_stopped(home, store, log))


@contextlib.contextmanager
def _only_one(home: Home) -> Any:
    with (home.path / "node.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"a node is already running for {home.path}", "stop it first, or name another folder with --home"
            ) from None
        yield


def clean_up(home: Home, store: Store) -> None:
    """After a crash: a run that was cut short is failed, and staged files that no prepared run owns are deleted."""
    kept = set()
    for run in store.runs():
        if run.state == "started":
            store.end_run(run.run, "failed", error="carrier", reason="this node was stopped")
        elif run.state == "prepared":
            kept.add(run.run.hex())
    if (home.path / "staging").is_dir():
        for folder in (home.path / "staging").iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)


async def _until_stopped(home: Home, store: Store, log: Log) -> int:
    """Attends until a signal comes; the exit status. Raises what makes it impossible to go on."""
    node = Node(home, store, log, home.name())
    loop, attending = asyncio.get_running_loop(), asyncio.create_task(_attend_for_ever(node))
    told: asyncio.Future[int] = loop.create_future()

    def stop(status: int) -> None:
        if not told.done():
            told.set_result(status)

    loop.add_signal_handler(signal.SIGINT, stop, 130)
    loop.add_signal_handler(signal.SIGTERM, stop, 0)
    ends: set[asyncio.Future[Any]] = {told, attending, node.broken}
    try:
        ended, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ended - {told}:
            end.result()
        return told.result()
    finally:
        attending.cancel()
        for task in node.workers.values():
            task.cancel()
        await asyncio.gather(attending, *node.workers.values(), return_exceptions=True)
        await node.starter.keep_one(False)
        node.log("Stopped. Nothing is lost: campaigns go on when the node is started again with `tidegate party up`.")


async def _attend_for_ever(node: Node) -> None:
    """Keeps the line to the coordinator; when it breaks, tries again with growing, jittered pauses."""
    endpoint = node.home.coordinator()
    pause_s, told, taken_s = RETRY_S[0], False, 0.0
    while True:
        started = time.monotonic()
        try:
            async with dial_async(endpoint) as channel:
                await _attend(node, RelayStub(channel))
            reason = "the coordinator closed the line"
        except grpc.aio.AioRpcError as error:
            why = explain(error, endpoint.address)
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                taken_s = taken_s or started
                if time.monotonic() - taken_s > PLACE_TAKEN_S:
                    raise why from None
            elif not isinstance(why, CarrierError):
                raise why from None
            else:
                taken_s = 0.0
            reason = why.text
        await _stop_workers(node)
        if time.monotonic() - started > RETRY_S[1]:
            pause_s, told = RETRY_S[0], False
        if not told:
            node.log(f"{reason[:1].upper()}{reason[1:]}; trying again until it can be.")
            told = True
        await asyncio.sleep(pause_s * (0.7 + secrets.randbelow(600) / 1000))
        pause_s = min(pause_s * 2, RETRY_S[1])


async def _attend(node: Node, relay: RelayAsyncStub) -> None:
    # A new queue for each line: what still waits at the old one would take the first word of the new.
    node.outgoing = asyncio.Queue()
    node.outgoing.put_nowait(FromNode(here=here(node.store)))
    node.renewals = node.store.renewals()
    stream = relay.Attend(_said(node.outgoing))
    welcomed = False
    ticker = asyncio.create_task(_tick(node))
    try:
        async for message in stream:
            if not welcomed:
                welcomed = True
                node.log(f"{node.name} is here: connected to the coordinator.")
                await mail.collect(node.home, node.store, relay)
            await _handle(node, relay, message)
    finally:
        ticker.cancel()


async def _said(outgoing: asyncio.Queue[FromNode]) -> AsyncIterator[FromNode]:
    while True:
        yield await outgoing.get()


async def _tick(node: Node) -> None:
    """Looks now and then at what people decided here: further attempts of a step, or that a campaign is over.

    While a campaign has further steps a worker waits for the next. Whoever cancels need not rely on the coordinator to
    pass it on: the worker of a campaign that is over here ends.
    """
    while True:
        await asyncio.sleep(1)
        for contract, task in list(node.workers.items()):
            if (campaign := node.store.campaign(contract)).state not in FINAL:
                continue
            if task.done():
                node.workers.pop(contract, None)
                continue
            for known in node.store.runs(contract):
                if known.state == "started":
                    await _stop(node, contract, known.run, f"the campaign is over here: {campaign.state}")
                    _tell_ended(node, contract, known.step, known.run, "config")
        await node.starter.keep_one(any(_is_to_go_on(node, contract) for contract in node.workers))
        renewals = node.store.renewals()
        if renewals != node.renewals:
            node.renewals = renewals
            node.outgoing.put_nowait(FromNode(here=here(node.store)))


def _is_to_go_on(node: Node, contract: bytes) -> bool:
    """Whether a campaign that runs has a step of ours after the one that it has come to."""
    campaign = node.store.campaign(contract)
    if campaign.state != "running":
        return False
    come_to = max((run.step for run in node.store.runs(contract) if run.state != "failed"), default=-1)
    return any(campaign.contract.takes_part(node.name, step) for step in campaign.contract.steps[come_to + 1 :])


def here(store: Store) -> Here:
    """What this node holds, with receipts: every prepared run, and the committed ones of campaigns that go on."""
    held = []
    for campaign in store.campaigns():
        for run in store.runs(campaign.hash):
            committed = run.state == "committed"
            if run.state == "prepared" or (committed and campaign.state not in FINAL):
                held.append(
                    Held(contract=campaign.hash, step=run.step, run=run.run, receipt=run.receipt, committed=committed)
                )
    return Here(software=__version__, held=held)


async def _handle(node: Node, relay: RelayAsyncStub, message: ToNode) -> None:
    kind = message.WhichOneof("kind")
    if kind == "start":
        await _start(node, relay, message.start)
    elif kind == "stop":
        stopped, task = node.store.run(bytes(message.stop.run)), node.workers.get(bytes(message.stop.contract))
        if task is not None and stopped is not None and stopped.state == "started":
            await asyncio.wait({task}, timeout=LAST_WORDS_S)
        await _stop(node, message.stop.contract, message.stop.run, plain(message.stop.reason))
    elif kind == "commit":
        commit(node, message.commit)
    elif kind == "state":
        _note_state(node, message.state)
    elif kind == "mail":
        for line in await mail.collect(node.home, node.store, relay):
            node.log(line)


async def _start(node: Node, relay: RelayAsyncStub, start: Start) -> None:
    contract, step, run = bytes(start.contract), start.step, bytes(start.run)
    # What is prepared of another step stays: it may be committed yet.
    for known in node.store.runs(contract):
        if known.state == "started" or (known.state == "prepared" and known.step == step):
            await _stop(node, contract, known.run, "the coordinator started the step again")
    # The last approval may still lie at the coordinator.
    for line in await mail.collect(node.home, node.store, relay):
        node.log(line)
    await _until_signed_here(node, contract)
    try:
        campaign, order = admit(node, start)
    except TidegateError as error:
        described = describe(error)
        node.log(f"A run was refused: {error.text}")
        if node.store.run(run) is None:
            with contextlib.suppress(ConfigError):  # a contract that nobody here knows
                name = node.store.campaign(contract).name
                node.store.start_run(contract, step, run, start.attempt)
                node.store.end_run(run, "failed", error=described["kind"], reason=_sentence(described))
                node.store.add_event(contract, step, f"{name}: a run was refused: {_sentence(described)}")
        _tell_ended(node, contract, step, run, described["kind"])
        return
    node.store.start_run(contract, step, run, start.attempt)
    name = campaign.contract.steps[step].name
    again = f" (attempt {start.attempt})" if start.attempt > 1 else ""
    node.store.add_event(contract, step, f"{name} started{again}")
    node.log(f"{campaign.name}: {name} started{again}.")
    task = node.workers[contract] = asyncio.create_task(_work(node, campaign, order))
    task.add_done_callback(lambda done: _look_after(node, done))


async def _until_signed_here(node: Node, contract: bytes) -> None:
    """Waits a moment for our own signature: the command that signs may be about to note it."""
    deadline = time.monotonic() + SIGNED_WITHIN_S
    while node.name not in node.store.signatures(contract) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


def _look_after(node: Node, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None and not node.broken.done():
        node.broken.set_exception(error)


def admit(node: Node, start: Start) -> tuple[Campaign, Order]:
    """The order for a worker, if this run may start here. Raises a TidegateError that says why not."""
    contract, step = bytes(start.contract), start.step
    campaign = node.store.campaign(contract)
    steps = campaign.contract.steps
    if campaign.state in FINAL:
        raise ConfigError(f"the campaign {campaign.name} is over here: {campaign.state}", "propose it again")
    if step >= len(steps) or len(start.run) != 16:
        raise ConfigError("the coordinator asked for a run that cannot be", "ask its operator")
    if not campaign.contract.takes_part(node.name, steps[step]):
        text = f"the coordinator asked for the step {steps[step].name}, in which {node.name} takes no part"
        raise ConfigError(text, "ask its operator, and the proposer what the docket says")
    policy.check_runnable(node.home, node.store, campaign, time.time())
    earlier: dict[str, str] = {}
    for index, before in enumerate(steps[:step]):
        # Others may have earlier steps of which this party, or everybody that it now talks to, knows nothing.
        if not _builds_on(campaign.contract, node.name, steps[step], before):
            continue
        run = node.store.committed_run(contract, index)
        if run is None:
            raise ConfigError(f"the step {before.name} is not done here", "wait until the coordinator starts it")
        earlier[before.name] = run.hex()
    if node.store.committed_run(contract, step) is not None:
        raise ConfigError(f"the step {steps[step].name} is done here already", "its result is released once")
    if node.store.run(bytes(start.run)) is not None:
        raise ConfigError("the coordinator used a run number twice", "ask its operator")
    return campaign, Order(node.home, contract, step, bytes(start.run), earlier)


def _builds_on(contract: Contract, me: str, step: Step, before: Step) -> bool:
    common = {party.name for party in contract.members(step)} & {party.name for party in contract.members(before)}
    return me in common and len(common) > 1


async def _work(node: Node, campaign: Campaign, order: Order) -> None:
    """Runs a worker to its end and tells the coordinator how it went."""
    try:
        outcome = await _outcome(node, order)
    except OSError as error:
        outcome = {"error": describe(error)}
    if "prepared" in outcome:
        _prepared(node, order, outcome["prepared"])
    else:
        _failed(node, campaign, order, outcome["error"])


async def _outcome(node: Node, order: Order) -> dict[str, Any]:
    """A worker's last word. Its process is gone when this returns or is cancelled."""
    outcome: dict[str, Any] = {}

    def heard(said: dict[str, Any]) -> None:
        if "progress" in said:
            node.store.add_event(order.contract, order.step, said["progress"])
        else:
            outcome.update(said)

    status = await node.starter.words(order.to_json(), heard)
    died = {
        "kind": "carrier",
        "text": f"the worker was ended by the system (status {status})",
        "hint": "the step starts again by itself; if it happens again, see the system's log",
    }
    return outcome or {"error": died}


def _prepared(node: Node, order: Order, outcome: dict[str, Any]) -> None:
    made = bytes.fromhex(outcome["receipt"])
    figures = {name: outcome[name] for name in ("seconds", "sent", "received")}
    node.store.end_run(order.run, "prepared", receipt=made, **figures)
    ended = Ended(contract=order.contract, step=order.step, run=order.run, prepared=True, receipt=made)
    node.outgoing.put_nowait(FromNode(ended=ended))


def _failed(node: Node, campaign: Campaign, order: Order, error: dict[str, str]) -> None:
    node.store.end_run(order.run, "failed", error=error["kind"], reason=_sentence(error))
    shutil.rmtree(node.home.staging(order.run), ignore_errors=True)
    step = campaign.contract.steps[order.step].name
    node.store.add_event(order.contract, order.step, f"{step} ended early: {_sentence(error)}")
    node.log(f"{campaign.name}: {step} ended early: {_sentence(error)}")
    _tell_ended(node, order.contract, order.step, order.run, error["kind"])


def _tell_ended(node: Node, contract: bytes, step: int, run: bytes, kind: str) -> None:
    ended = Ended(contract=contract, step=step, run=run, prepared=False, error=kind)
    ended.reason = outline(kind, node.name)
    node.outgoing.put_nowait(FromNode(ended=ended))


def _sentence(error: dict[str, str]) -> str:
    return f"{error['text']}. Hint: {error['hint']}" if error["hint"] else error["text"]


async def _stop(node: Node, contract: bytes, run: bytes, reason: str) -> None:
    """Ends a run of a contract that goes on or is prepared, and its worker."""
    known = node.store.run(run)
    if known is None or known.contract != contract or known.state not in ("started", "prepared"):
        return
    # The worker of a contract is that of its latest run; the one of a run that is prepared has ended.
    if known.state == "started" and (task := node.workers.pop(contract, None)) is not None and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=STOP_WORKER_S)
    # Also a prepared run: the coordinator says so only of one that nobody was or will be told to commit.
    if node.store.end_run(run, "failed", error="carrier", reason=reason):
        step = node.store.campaign(contract).contract.steps[known.step].name
        node.store.add_event(contract, known.step, f"{step} ended early: {reason or 'it was stopped'}")
    shutil.rmtree(node.home.staging(run), ignore_errors=True)


async def _stop_workers(node: Node) -> None:
    for contract in list(node.workers):
        for known in node.store.runs(contract):
            if known.state == "started":
                reason = "the line to the coordinator broke. Hint: the step starts again when the coordinator is back"
                await _stop(node, contract, known.run, reason)


def commit(node: Node, message: Commit) -> None:
    """Moves a staged result to its place once the receipts of all parties say that they hold the same transcripts."""
    contract, run = bytes(message.contract), bytes(message.run)
    known = node.store.run(run)
    if known is None or known.contract != contract or known.state != "prepared":
        return
    campaign = node.store.campaign(contract)
    mine = receipt.verify(known.receipt, node.home.load_identity().public, contract, known.step, run)
    step = campaign.contract.steps[known.step]
    digests: dict[str, bytes] = {}
    for name in campaign.contract.on_line(step):
        public = campaign.contract.key_of(name)
        signed = [_digests(item, public, contract, known.step, run) for item in message.receipts]
        digests[name] = next(filter(None, signed), b"")
    if digests[node.name] != mine or not pairs.agree(list(digests), digests):
        node.log(f"{campaign.name}: a commit without the receipts of all for the same transcripts was ignored.")
        return
    if node.store.committed_run(contract, known.step) is not None:
        node.log(f"{campaign.name}: a second commit of {step.name} was ignored.")
        return
    try:
        place(node.home.staging(run), node.home.results(campaign.short, step.name), run)
    except ConfigError as error:
        described = describe(error)
        node.store.end_run(run, "failed", error=described["kind"], reason=_sentence(described))
        node.log(f"{campaign.name}: {error.text}")
        _tell_ended(node, contract, known.step, run, described["kind"])
        return
    if node.store.end_run(run, "committed"):
        node.store.add_event(contract, known.step, f"{step.name} done")
        node.log(f"{campaign.name}: {step.name} done in {known.seconds:.1f} s.")


def _digests(item: bytes, public: bytes, contract: bytes, step: int, run: bytes) -> bytes:
    """The digests of a receipt by the key `public` for this run, empty if it is none."""
    try:
        return receipt.verify(item, public, contract, step, run)
    except TidegateError:
        return b""


def place(staged: Path, results: Path, run: bytes) -> None:
    """Renames the staged folder into place; done before, it does nothing (a crash between the rename and the note)."""
    if not staged.is_dir():
        if not is_result_of(results, run.hex()):
            raise ConfigError("the staged result is gone: somebody deleted it", "propose the campaign again")
        return
    results.parent.mkdir(parents=True, exist_ok=True)
    if results.is_dir():
        shutil.rmtree(results)
    staged.rename(results)
    for folder in (results.parent, results.parent.parent):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _note_state(node: Node, state: CampaignState) -> None:
    before = {campaign.hash: campaign.state for campaign in node.store.campaigns()}.get(state.contract)
    mail.note_state(node.store, state, node.name)
    if before is None or before in FINAL:
        return
    campaign = node.store.campaign(bytes(state.contract))
    if campaign.state in FINAL:
        node.log(f"{campaign.name}: {campaign.state}{f' ({campaign.reason})' if campaign.reason else ''}.")
