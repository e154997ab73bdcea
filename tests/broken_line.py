"""A line in memory that does one wrong thing to one message, for the tests of the protocols.

What a sealed line detects by itself (a flipped bit, a frame that never comes) ends the run there; here it is what a
peer's program or a line without seals could still do: repeat, swap, cut short, close.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tidegate.protocols.channel import CarrierError, Channel, M, Message
from tidegate.protocols.simulate import MemoryChannel

A = TypeVar("A")
B = TypeVar("B")

FAULTS = ("repeat", "swap", "shorten", "close")


class BrokenChannel(MemoryChannel):
    """Does `fault` to the message with number `at`, counted from 0 in this direction."""

    fault, at = "", -1
    held: tuple[str, bytes] | None = None

    async def send(self, message: Message) -> None:
        item = (type(message).__name__, message.to_bytes())
        hit = len(self.sent) == self.at
        self.sent.append(item)
        if hit and self.fault == "close":
            await self.close()
            raise CarrierError("the line is closed")
        if hit and self.fault == "swap":
            self.held = item
            return
        if hit and self.fault == "shorten":
            item = (item[0], item[1][:-1])
        for _ in range(2 if hit and self.fault == "repeat" else 1):
            await self._outgoing.put(item)
        await self._release()

    async def recv(self, kind: type[M]) -> M:
        await self._release()
        return await super().recv(kind)

    async def _release(self) -> None:
        if self.held is not None:
            item, self.held = self.held, None
            await self._outgoing.put(item)


def play_broken(
    first: Callable[[Channel], Awaitable[A]],
    second: Callable[[Channel], Awaitable[B]],
    fault: str,
    side: int,
    at: int,
) -> tuple[A, B]:
    """`simulate` with one fault in what role `side` (0 or 1) sends; raises TimeoutError where the roles hang."""
    try:
        return asyncio.run(_play(first, second, fault, side, at))
    except* Exception as group:
        raise group.exceptions[0] from None


async def _play(
    first: Callable[[Channel], Awaitable[A]],
    second: Callable[[Channel], Awaitable[B]],
    fault: str,
    side: int,
    at: int,
) -> tuple[A, B]:
    forth: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
    back: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
    ends = BrokenChannel(forth, back), BrokenChannel(back, forth)
    ends[side].fault, ends[side].at = fault, at
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        left = group.create_task(_until_done(first, ends[0]))
        right = group.create_task(_until_done(second, ends[1]))
    return left.result(), right.result()


async def _until_done(role: Callable[[Channel], Awaitable[A]], channel: BrokenChannel) -> A:
    try:
        return await role(channel)
    finally:
        await channel.close()
