"""Starts and ends the workers by which the coordinator plays its own part in runs: to the scheduler one more node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tidegate.protocols.channel import TidegateError
from tidegate.wire import relay_pb2 as pb
from tidegate.wire import spawn
from tidegate.wire.ending import describe, outline
from tidegate.wire.pairs import COORDINATOR

from .order import Order

# When a run is stopped its lines end, and its worker with them: so long it may take to say why.
LAST_WORDS_S = 2.0


class Helper:
    """The coordinator as a party of runs: it is told what nodes are told and says how its runs ended.

    order: what its worker needs for a start; ended: called with each run's end; broken: with what none of them expects.
    """

    def __init__(
        self,
        order: Callable[[pb.Start], Order],
        ended: Callable[[pb.Ended], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self._order, self._ended, self._broken = order, ended, broken
        self._workers: dict[bytes, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def tell(self, message: pb.ToNode) -> None:
        kind = message.WhichOneof("kind")
        if kind == "start":
            run = bytes(message.start.run)
            task = self._workers[run] = asyncio.create_task(self._work(message.start))
            task.add_done_callback(self._look_after)
        elif kind == "stop" and (running := self._workers.get(bytes(message.stop.run))) is not None:
            ending = asyncio.create_task(_end(running))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def stop(self) -> None:
        """Ends all workers."""
        tasks = [*self._workers.values(), *self._ending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, start: pb.Start) -> None:
        ended = pb.Ended(contract=start.contract, step=start.step, run=start.run)
        try:
            said = await _outcome(self._order(start))
        except (OSError, TidegateError) as error:
            said = {"error": describe(error)}
        finally:
            self._workers.pop(bytes(start.run), None)
        if "prepared" in said:
            ended.prepared, ended.receipt = True, bytes.fromhex(said["prepared"])
        else:
            kind = said.get("error", {"kind": "carrier"})["kind"]
            ended.error, ended.reason = kind, outline(kind, COORDINATOR)
        self._ended(ended)

    def _look_after(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken(error)


async def _end(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task}, timeout=LAST_WORDS_S)
    task.cancel()


async def _outcome(order: Order) -> dict[str, Any]:
    """A worker's last word, empty if it died without one. Its process is gone when this returns or is cancelled."""
    outcome: dict[str, Any] = {}
    await spawn.Starter("tidegate.coordinator.worker").words(order.to_json(), outcome.update)
    return outcome
