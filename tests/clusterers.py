"""Parties that cluster together and their comparator, over lines in memory: what tests of protocols/clustering play."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.broken_line import BrokenChannel
from tidegate.protocols.channel import Channel
from tidegate.protocols.clustering.box import Box
from tidegate.protocols.clustering.comparator import Seen, comparator, end
from tidegate.protocols.clustering.kmeans import Clustered, Settings, member
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import MemoryChannel, memory_line

FloatArray = NDArray[np.float64]
Part = Callable[[Channel, Mapping[str, Channel]], Awaitable[Any]]


def seeded(seed: int) -> Randomness:
    return Randomness(seed.to_bytes(32, "little"))


@dataclass
class Lines:
    """The lines between parties 0, 1, .. of whom 0 leads, and from each of them to the comparator."""

    parties: int
    helpers: list[MemoryChannel] = field(default_factory=list)
    there: dict[str, MemoryChannel] = field(default_factory=dict)
    peers: list[dict[str, MemoryChannel]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.peers = [{} for _ in range(self.parties)]
        for number in range(self.parties):
            mine, there = memory_line()
            self.helpers.append(mine)
            self.there[str(number)] = there
            if number:
                self.peers[0][str(number)], self.peers[number]["0"] = memory_line()

    def of(self, number: int) -> list[MemoryChannel]:
        return [self.helpers[number], *self.peers[number].values()]

    def break_(self, direction: str, fault: str, at: int) -> None:
        """Does `fault` to message `at` of one direction: of party 1 to or from the comparator, or to or from 0."""
        ends: dict[str, tuple[dict[str, MemoryChannel], str]] = {
            "from the comparator": (self.there, "1"),
            "to the lead": (self.peers[1], "0"),
            "from the lead": (self.peers[0], "1"),
        }
        if direction == "to the comparator":
            self.helpers[1] = _broken(self.helpers[1], fault, at)
        else:
            lines, name = ends[direction]
            lines[name] = _broken(lines[name], fault, at)


def _broken(whole: MemoryChannel, fault: str, at: int) -> BrokenChannel:
    channel = BrokenChannel(whole._outgoing, whole._incoming)
    channel.fault, channel.at = fault, at
    return channel


async def _play(lines: Lines, parts: Sequence[Part], helper: Callable[..., Awaitable[Any]]) -> list[Any]:
    """What each party ended with, and the comparator last; whoever ends closes its lines; errors are results."""

    async def outcome(role: Awaitable[Any], channels: Sequence[MemoryChannel]) -> Any:
        try:
            return await role
        except Exception as error:
            return error
        finally:
            for channel in channels:
                await channel.close()

    roles = [outcome(part(lines.helpers[i], lines.peers[i]), lines.of(i)) for i, part in enumerate(parts)]
    there = outcome(helper(lines.there), list(lines.there.values()))
    return await asyncio.wait_for(asyncio.gather(*roles, there), 120)


def played(
    parts: Sequence[Part],
    helper: Callable[..., Awaitable[Any]] = comparator,
    lines: Lines | None = None,
) -> list[Any]:
    """The outcomes of parts that end by themselves, and the comparator's; an error is an outcome."""
    return asyncio.run(_play(lines or Lines(len(parts)), parts, helper))


def box_of(x: FloatArray) -> Box:
    """A box that holds all rows, with room; in production it is declared."""
    return Box(np.floor(x.min(axis=0)) - 1, np.ceil(x.max(axis=0)) + 1)


def starts(
    x: FloatArray, initial: FloatArray, settings: Settings, number: int, box: Box | None = None, seed: int = 1
) -> Part:
    """Party `number` for one start, which then tells the comparator that it is done."""

    async def part(helper: Channel, peers: Mapping[str, Channel]) -> Clustered:
        drawn = seeded(100 * seed + number)
        found = await member(
            helper,
            peers,
            x,
            initial,
            box=box or box_of(np.vstack([x, initial])),
            settings=settings,
            randomness=drawn,
            lead=number == 0,
        )
        await end(helper)
        return found

    return part


def cluster(
    columns: Sequence[FloatArray],
    initial: Sequence[FloatArray],
    iterations: int,
    *,
    boxes: Sequence[Box] | None = None,
    lines: Lines | None = None,
    seed: int = 1,
) -> tuple[list[Clustered], Seen]:
    """One start of as many parties as there are tables of columns; raises the first error."""
    settings = Settings(len(initial[0]), iterations)
    parts = [
        starts(x, c, settings, i, boxes[i] if boxes else None, seed)
        for i, (x, c) in enumerate(zip(columns, initial, strict=True))
    ]
    *found, seen = played(parts, lines=lines)
    for each in (*found, seen):
        if isinstance(each, Exception):
            raise each
    return found, seen
