"""A worker as a process of its own, started the same way by nodes and by the coordinator; its order, and its words."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import select
import sys
import threading
from collections.abc import Callable
from typing import Any

_OURS = {
    # The threads of numpy's linear algebra wait in a loop. Beside another busy process that takes seconds, and what
    # they have to do here takes milliseconds.
    "OPENBLAS_NUM_THREADS": "1",
    # Frames and blocks of rows are about 1 MiB each. By default the C library gives such memory back at every turn and
    # takes page faults to get it again, which costs a receiver a third of its time. So much of it is kept instead.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
}
_MEMORY_LIMIT_BYTES = 16 * 2**30
_STARTER_GONE = 3


class Starter:
    """Starts workers of one module, one for each order, and has one wait for its order while that is asked for.

    A worker imports what it needs before it reads its order, which takes longer than many a step: one that waits has
    that behind it.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._waiting: asyncio.subprocess.Process | None = None

    async def keep_one(self, wanted: bool) -> None:
        """Has one worker wait, or none. One that dies is not replaced: the next order finds out why, and says so."""
        if wanted and self._waiting is None:
            with contextlib.suppress(OSError):
                self._waiting = await _start(self._module)
        elif not wanted and self._waiting is not None:
            process, self._waiting = self._waiting, None
            await _end(process)

    async def words(self, order: str, heard: Callable[[dict[str, Any]], None]) -> int:
        """Gives a worker its order (one line of JSON) and hands each of its words to `heard`.

        Its exit status. Its process is gone when this returns or is cancelled. Raises OSError if none can be started.
        """
        process, self._waiting = self._waiting, None
        if process is None or process.returncode is not None:
            process = await _start(self._module)
        try:
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("the worker was started without pipes")
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died at once, which its status tells
                process.stdin.write(order.encode() + b"\n")
                await process.stdin.drain()
            async for line in process.stdout:
                if not line.endswith(b"\n"):
                    break  # it was killed in the middle of a word
                heard(json.loads(line))
            return await process.wait()
        finally:
            await _end(process)


async def _start(module: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # modules come from the installation, never from the folder that the starter was started in
        "-m",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # A traceback may quote the data: it is shown only to a developer who asks for it.
        stderr=None if os.environ.get("TIDEGATE_DEBUG") else asyncio.subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **_OURS},
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def begin(prepare: Callable[[], None] | None = None) -> str:
    """What a worker does first; its order. From then on it ends when its starter does, so that none is left behind.

    prepare: what one that has to wait for its order does before it waits.
    """
    # Results are for their owner, whatever the shell of the starter allows to others.
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
    if prepare is not None and not select.select([sys.stdin], [], [], 0)[0]:
        prepare()
    order = sys.stdin.readline()
    if not order:
        sys.exit(_STARTER_GONE)
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    return order


def _end_with_the_starter() -> None:
    sys.stdin.read()
    os._exit(_STARTER_GONE)


def say(word: dict[str, Any]) -> None:
    """A worker's word to its starter."""
    sys.stdout.write(json.dumps(word) + "\n")
    sys.stdout.flush()
