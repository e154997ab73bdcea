"""Workers as their starter sees them: one that waits takes the next order, and none outlives what it waits for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.real_parties import is_alive, until, workers
from tidegate.wire.spawn import Starter

MODULE = "tidegate.party.worker"
STAND_IN = """#!/bin/sh
# Says its process id and its order, and ends.
read -r order && echo "{\\"pid\\": $$, \\"order\\": $order}"
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "worker"
    program.write_text(STAND_IN)
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))


async def said(starter: Starter, order: str) -> dict[str, Any]:
    heard: dict[str, Any] = {}
    assert await starter.words(order, heard.update) == 0
    return heard


def the_waiting() -> int:
    (waiting,) = workers(os.getpid())
    return waiting


@pytest.mark.usefixtures("stand_in")
def test_the_worker_that_waits_takes_the_next_order_and_no_other() -> None:
    async def check() -> None:
        starter = Starter(MODULE)
        await starter.keep_one(True)
        waiting = the_waiting()
        await starter.keep_one(True)
        assert the_waiting() == waiting
        assert await said(starter, "1") == {"pid": waiting, "order": 1}
        assert not workers(os.getpid())
        second = await said(starter, "2")
        assert second["order"] == 2
        assert second["pid"] != waiting

    asyncio.run(check())


@pytest.mark.usefixtures("stand_in")
def test_a_waiting_worker_that_has_died_costs_nobody_a_step() -> None:
    async def check() -> None:
        starter = Starter(MODULE)
        await starter.keep_one(True)
        dead = await killed(starter)
        await starter.keep_one(True)
        assert not workers(os.getpid()), "what died once may die again, and nobody would be told why"
        assert (await said(starter, "1"))["pid"] != dead
        await starter.keep_one(True)
        assert the_waiting() != dead
        await starter.keep_one(False)

    asyncio.run(check())


async def killed(starter: Starter) -> int:
    """The process id of the waiting worker, which is dead and known to be."""
    dead = the_waiting()
    os.kill(dead, signal.SIGKILL)
    while starter._waiting is not None and starter._waiting.returncode is None:
        await asyncio.sleep(0.01)
    return dead


@pytest.mark.usefixtures("stand_in")
def test_no_worker_waits_where_none_is_wanted() -> None:
    async def check() -> None:
        starter = Starter(MODULE)
        await starter.keep_one(False)
        await starter.keep_one(True)
        waiting = the_waiting()
        await starter.keep_one(False)
        assert not is_alive(waiting)
        assert not workers(os.getpid())

    asyncio.run(check())


def test_where_no_worker_can_be_started_only_the_order_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))

    async def check() -> None:
        starter = Starter(MODULE)
        await starter.keep_one(True)
        with pytest.raises(OSError, match="nothing"):
            await starter.words("1", lambda _word: None)

    asyncio.run(check())


STARTER = f"""
import asyncio, time
from tidegate.wire.spawn import Starter

async def main():
    await Starter({MODULE!r}).keep_one(True)
    print(flush=True)
    time.sleep(600)

asyncio.run(main())
"""


def test_a_worker_that_waits_ends_with_its_starter() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (waiting,) = workers(process.pid)
        assert is_alive(waiting)
        process.kill()
    until("the worker ends", lambda: not is_alive(waiting), 30)
