"""Plays the roles of a protocol in one process: for scripts, notebooks and tests.

brand_view, media_view = simulate(lambda ch: receiver(ch, ...), lambda ch: sender(ch, ...))
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .channel import CarrierError, Channel, M, Message, PeerError

A = TypeVar("A")
B = TypeVar("B")


class MemoryChannel:
    """One end of a line in memory. Every message goes through its bytes, as on the wire."""

    def __init__(
        self,
        outgoing: asyncio.Queue[tuple[str, bytes] | None],
        incoming: asyncio.Queue[tuple[str, bytes] | None],
    ) -> None:
        self._outgoing, self._incoming = outgoing, incoming
        self.sent: list[tuple[str, bytes]] = []

    async def send(self, message: Message) -> None:
        item = (type(message).__name__, message.to_bytes())
        self.sent.append(item)
        await self._outgoing.put(item)

    async def recv(self, kind: type[M]) -> M:
        item = await self._incoming.get()
        if item is None:
            raise CarrierError("the other role ended before the protocol did")
        name, data = item
        if name != kind.__name__:
            raise PeerError(f"{kind.__name__} was expected, {name} came")
        return kind.from_bytes(data)

    async def close(self) -> None:
        await self._outgoing.put(None)


def memory_line(depth: int = 16) -> tuple[MemoryChannel, MemoryChannel]:
    """The two ends of a line in memory that holds at most `depth` messages a direction."""
    forth: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(depth)
    back: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(depth)
    return MemoryChannel(forth, back), MemoryChannel(back, forth)


async def play(first: Callable[[Channel], Awaitable[A]], second: Callable[[Channel], Awaitable[B]]) -> tuple[A, B]:
    """Runs two roles against each other and gives both results; the first error ends both."""
    a, b = memory_line()
    async with asyncio.TaskGroup() as group:
        left = group.create_task(_until_done(first, a))
        right = group.create_task(_until_done(second, b))
    return left.result(), right.result()


async def _until_done(role: Callable[[Channel], Awaitable[A]], channel: MemoryChannel) -> A:
    try:
        return await role(channel)
    finally:
        await channel.close()


def simulate(first: Callable[[Channel], Awaitable[A]], second: Callable[[Channel], Awaitable[B]]) -> tuple[A, B]:
    """`play` for scripts and notebooks. Raises the error of the role that failed first."""
    # A notebook has an event loop in this thread already, so the roles get a thread of their own.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(_run, first, second).result()


def _run(first: Callable[[Channel], Awaitable[A]], second: Callable[[Channel], Awaitable[B]]) -> tuple[A, B]:
    try:
        return asyncio.run(play(first, second))
    except* Exception as group:
        raise group.exceptions[0] from None
