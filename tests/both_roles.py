"""Two roles over a line in memory, each played to its own end: what tests of lying and broken peers look at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tidegate.protocols.channel import TidegateError
from tidegate.protocols.simulate import MemoryChannel, memory_line

Role = Callable[[Any], Awaitable[Any]]


async def spoken(first: Role, second: Role) -> tuple[Any, Any, MemoryChannel, MemoryChannel]:
    """What each role ended with, its result or its error, and the channels with all they sent."""
    a, b = memory_line()

    async def outcome(role: Role, channel: MemoryChannel) -> Any:
        try:
            return await role(channel)
        except TidegateError as error:
            return error
        finally:
            await channel.close()

    left, right = await asyncio.wait_for(asyncio.gather(outcome(first, a), outcome(second, b)), 120)
    return left, right, a, b
