"""A bounded queue between event loops in different threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tidegate.protocols.channel import CarrierError
from tidegate.wire.crossing import Crossing


def in_a_thread(work: Callable[[], Awaitable[Any]]) -> tuple[threading.Thread, list[Any]]:
    """Runs the work in an event loop of another thread; what it gave is in the list once the thread has ended."""
    given: list[Any] = []

    async def run() -> None:
        try:
            given.append(await work())
        except CarrierError as error:
            given.append(error)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    return thread, given


def test_items_cross_in_order_and_never_more_than_the_depth_are_on_their_way() -> None:
    crossing: Crossing[int] = Crossing(3)
    put = 0

    async def pour() -> None:
        nonlocal put
        for number in range(2000):
            await crossing.put(number)
            put = number + 1

    async def take() -> None:
        for number in range(2000):
            assert await crossing.get() == number
            assert put <= number + 1 + 3

    thread, _ = in_a_thread(pour)
    asyncio.run(asyncio.wait_for(take(), 30))
    thread.join(10)
    assert not thread.is_alive()


def test_what_is_in_it_can_be_taken_after_the_end_and_then_the_reason_comes_for_ever() -> None:
    async def run() -> None:
        crossing: Crossing[int] = Crossing(3)
        await crossing.put(1)
        crossing.end(CarrierError("gone"))
        crossing.end(CarrierError("gone again"))
        await crossing.put(2)
        assert await crossing.get() == 1
        for _ in range(2):
            with pytest.raises(CarrierError, match=r"^gone$"):
                await crossing.get()

    asyncio.run(run())


@pytest.mark.parametrize("end", ["giver", "taker"])
def test_the_end_wakes_whoever_waits_in_another_thread(end: str) -> None:
    crossing: Crossing[int] = Crossing(1)

    async def fill() -> None:
        await crossing.put(1)
        await crossing.put(2)

    thread, given = in_a_thread(fill if end == "giver" else crossing.get)
    while not (crossing._givers or crossing._takers):
        thread.join(0.001)
    crossing.end(CarrierError("gone"))
    thread.join(10)
    assert not thread.is_alive()
    assert given[0] is None if end == "giver" else isinstance(given[0], CarrierError)


def test_a_taker_that_gives_up_leaves_its_item_to_the_next_one() -> None:
    async def run() -> None:
        crossing: Crossing[int] = Crossing(1)
        first, second = asyncio.create_task(crossing.get()), asyncio.create_task(crossing.get())
        await asyncio.sleep(0)
        await crossing.put(7)  # wakes the first, which is cancelled before it runs
        first.cancel()
        assert await asyncio.wait_for(second, 10) == 7

    asyncio.run(run())


def test_a_giver_that_gives_up_leaves_its_room_to_the_next_one() -> None:
    async def run() -> None:
        crossing: Crossing[int] = Crossing(1)
        await crossing.put(1)
        first, second = asyncio.create_task(crossing.put(2)), asyncio.create_task(crossing.put(3))
        await asyncio.sleep(0)
        assert await crossing.get() == 1
        first.cancel()
        await asyncio.wait_for(second, 10)
        assert await crossing.get() == 3

    asyncio.run(run())


def test_waiting_in_a_loop_that_has_ended_stops_nobody() -> None:
    crossing: Crossing[int] = Crossing(1)

    async def give_up() -> None:
        taking = asyncio.ensure_future(crossing.get())
        await asyncio.sleep(0)
        crossing._takers.append(crossing._takers[0])  # as if it had not been cleaned up
        taking.cancel()

    asyncio.run(give_up())

    async def run() -> int:
        await crossing.put(5)
        return await crossing.get()

    assert asyncio.run(asyncio.wait_for(run(), 10)) == 5
