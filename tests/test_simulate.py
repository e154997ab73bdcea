"""Playing roles in one process: for scripts, notebooks and tests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from tidegate.protocols.channel import CarrierError, Channel, Message, PeerError
from tidegate.protocols.simulate import simulate


@dataclass(frozen=True)
class Ping(Message):
    number: int


@dataclass(frozen=True)
class Pong(Message):
    number: int


async def _asks(channel: Channel) -> int:
    await channel.send(Ping(20))
    return (await channel.recv(Pong)).number


async def _answers(channel: Channel) -> str:
    ping = await channel.recv(Ping)
    await channel.send(Pong(ping.number + 1))
    return "answered"


async def _leaves(channel: Channel) -> None:
    await channel.recv(Ping)


async def _says_something_else(channel: Channel) -> None:
    await channel.send(Ping(1))


def test_both_results_come_back() -> None:
    assert simulate(_asks, _answers) == (21, "answered")


def test_works_where_an_event_loop_runs_already_as_in_a_notebook() -> None:
    async def cell() -> tuple[int, str]:
        return simulate(_asks, _answers)

    assert asyncio.run(cell()) == (21, "answered")


def test_a_role_that_leaves_ends_the_other() -> None:
    with pytest.raises(CarrierError, match="ended before"):
        simulate(_asks, _leaves)


def test_a_message_of_another_kind_is_refused() -> None:
    with pytest.raises(PeerError, match="Pong was expected, Ping came"):
        simulate(_asks, _says_something_else)
