"""Starts and ends the workers by which the coordinator plays its own part in runs: to the scheduler one more node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from tidegate.wire import relay_pb2 as pb
from tidegate.wire.ending import describe, outline
from tidegate.wire.pairs import COORDINATOR

from .order import Order


class Helper:
    """The coordinator as a party of runs: it is told what nodes are told and says how its runs ended.

    order: what its worker needs for a start; ended: called with each run's end.
    """

    def __init__(self, order: Callable[[pb.Start], Order], ended: Callable[[pb.Ended], None]) -> None:
        self._order, self._ended = order, ended
        self._workers: dict[bytes, asyncio.Task[None]] = {}

    def tell(self, message: pb.ToNode) -> None:
        kind = message.WhichOneof("kind")
        if kind == "start":
            run = bytes(message.start.run)
            self._workers[run] = asyncio.create_task(self._work(message.start))
        elif kind == "stop" and (task := self._workers.get(bytes(message.stop.run))) is not None:
            task.cancel()

    async def stop(self) -> None:
        """Ends all workers."""
        tasks = list(self._workers.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, start: pb.Start) -> None:
        ended = pb.Ended(contract=start.contract, step=start.step, run=start.run)
        try:
            said = await _outcome(self._order(start))
        except OSError as error:
            said = {"error": describe(error)}
        finally:
            self._workers.pop(bytes(start.run), None)
        if "prepared" in said:
            ended.prepared, ended.receipt = True, bytes.fromhex(said["prepared"])
        else:
            kind = said.get("error", {"kind": "carrier"})["kind"]
            ended.error, ended.reason = kind, outline(kind, COORDINATOR)
        self._ended(ended)


async def _outcome(order: Order) -> dict[str, Any]:
    """A worker's last word, empty if it died without one. Its process is gone when this returns or is cancelled."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # modules come from the installation, never from the folder that the coordinator was started in
        "-m",
        "tidegate.coordinator.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=None if os.environ.get("TIDEGATE_DEBUG") else asyncio.subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the worker was started without pipes")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(order.to_json().encode() + b"\n")
            await process.stdin.drain()
        said = await process.stdout.readline()
        await process.wait()
        return dict(json.loads(said)) if said.endswith(b"\n") else {}
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
