"""A queue of bounded length between event loops in different threads: one wake-up for what goes in or comes out."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")
_Waiting = tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]


class Crossing(Generic[T]):
    """At most `depth` items on their way, in order. Any number of tasks of any loops may wait at either end."""

    def __init__(self, depth: int) -> None:
        self._depth, self._items = depth, deque[T]()
        self._lock = threading.Lock()
        self._givers, self._takers = deque[_Waiting](), deque[_Waiting]()
        self._end: Exception | None = None

    async def put(self, item: T) -> None:
        """Waits for room. After the end of the queue items are dropped."""
        while (waiting := self._offered(item)) is not None:
            await self._until(waiting, self._givers)

    async def get(self) -> T:
        """The next item; raises what the queue was ended with once nothing is left."""
        while True:
            with self._lock:
                if self._items:
                    item = self._items.popleft()
                    _wake(self._givers)
                    return item
                if self._end is not None:
                    raise self._end
                waiting = _waiting(self._takers)
            await self._until(waiting, self._takers)

    def end(self, error: Exception) -> None:
        """What is in it can still be taken, then `get` raises this error; the first one counts. `put` waits no more."""
        with self._lock:
            self._end = self._end or error
            self._wake_all()

    def drop(self) -> None:
        """Forgets what is in it."""
        with self._lock:
            self._items.clear()
            self._wake_all()

    def _offered(self, item: T) -> _Waiting | None:
        with self._lock:
            if self._end is not None:
                return None
            if len(self._items) >= self._depth:
                return _waiting(self._givers)
            self._items.append(item)
            _wake(self._takers)
            return None

    async def _until(self, waiting: _Waiting, line: deque[_Waiting]) -> None:
        try:
            await waiting[1]
        except asyncio.CancelledError:
            with self._lock:
                if waiting in line:
                    line.remove(waiting)
                else:
                    # It had been woken for an item or for room that it now leaves to the next one.
                    _wake(line)
            raise

    def _wake_all(self) -> None:
        for line in (self._givers, self._takers):
            while line:
                _wake(line)


def _waiting(line: deque[_Waiting]) -> _Waiting:
    loop = asyncio.get_running_loop()
    line.append((loop, loop.create_future()))
    return line[-1]


def _wake(line: deque[_Waiting]) -> None:
    """Wakes who has waited longest, if anybody does."""
    while line:
        loop, future = line.popleft()
        with contextlib.suppress(RuntimeError):  # its loop has ended, and with it the task
            loop.call_soon_threadsafe(_set, future)
            return


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
