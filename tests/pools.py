"""Shops with rows of their own and a coordinator, over lines in memory: what the tests of horizontal training play on.

there = Pool.of(logistic_parts(...), settings)
outcome, outcomes = there.play()
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.broken_line import BrokenChannel
from tidegate.protocols.channel import Channel, TidegateError
from tidegate.protocols.horizontal import kmeans, logistic, pooling
from tidegate.protocols.horizontal.secure_sum import Cohort, Member
from tidegate.protocols.horizontal.task import Outcome, Part, Site, Task, terms_of
from tidegate.protocols.primitives.fixed_point import FloatArray, IntArray
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import MemoryChannel, memory_line

Hold = Callable[[Channel, Site], Awaitable[Outcome]]
Coordinate = Callable[[Mapping[str, Channel]], Awaitable[Outcome]]


def names_of(n: int) -> tuple[str, ...]:
    return tuple(f"shop-{i:02d}" for i in range(n))


def key_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def people(n: int, d: int = 4, seed: int = 0) -> tuple[FloatArray, FloatArray, FloatArray]:
    """x (n, d), y (n,) that depends on it, and ranges (d, 2) that hold x."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1) + np.arange(d)
    z = (x - x.mean(axis=0)) / x.std(axis=0) @ np.linspace(1, -0.5, d) - 1
    y = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(np.float64)
    return x, y, np.stack([x.min(axis=0) - 1, x.max(axis=0) + 1], axis=1)


def dealt(n: int, shops: int, by: FloatArray | None = None) -> list[IntArray]:
    """The rows of each shop: at random, or by ascending values of `by`, so that no two shops have the same kind."""
    order = np.random.default_rng(3).permutation(n) if by is None else np.argsort(by, kind="stable")
    return [np.sort(rows) for rows in np.array_split(order, shops)]


def held_out(rows: IntArray) -> tuple[IntArray, IntArray]:
    """Four fifths to train with, one fifth held out."""
    mixed = np.random.default_rng(4).permutation(rows)
    return mixed[len(rows) // 5 :], mixed[: len(rows) // 5]


@dataclass
class Pool:
    """One site a shop; `sent` has what each line carried to and from the coordinator in the last play."""

    sites: dict[str, Site]
    at_coordinator: dict[str, MemoryChannel] = field(default_factory=dict)
    at_shops: dict[str, MemoryChannel] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Sequence[Part], task: Task, ranges: FloatArray, *, keys: bool = True, run: int = 0) -> Pool:
        names = names_of(len(parts))
        terms = terms_of(bytes(32), names, task, ranges)
        coordinator = key_of("coordinator").public_key().public_bytes_raw()
        member: Callable[[str], Member | None] = lambda _name: None  # noqa: E731  # the two kinds side by side
        if keys:
            identities = {name: key_of(name).public_key().public_bytes_raw() for name in names}
            cohort = Cohort(bytes(32), run.to_bytes(16, "little"), identities, coordinator)

            def member(name: str) -> Member | None:
                drawn = Randomness(hashlib.sha256(f"{name}/{run}".encode()).digest())
                return Member(name, cohort, sign=key_of(name).sign, randomness=drawn)

        made = zip(names, parts, strict=True)
        return cls({name: Site(name, names, task, part, terms, member(name)) for name, part in made})

    def change(self, name: str, **fields: Any) -> None:
        self.sites[name] = replace(self.sites[name], **fields)

    def play(
        self, *, hold: Mapping[str, Hold] | None = None, coordinate: Coordinate = pooling.coordinate
    ) -> tuple[Outcome, dict[str, Outcome]]:
        """What came out at the coordinator and at each shop; raises the first error, TimeoutError for a hang."""
        ended = self.play_out(hold=hold, coordinate=coordinate)
        for each in ended.values():
            if isinstance(each, BaseException):
                raise each
        return ended.pop(""), ended

    def play_out(
        self,
        *,
        hold: Mapping[str, Hold] | None = None,
        coordinate: Coordinate = pooling.coordinate,
        broken: tuple[str, int, str, int] | None = None,
    ) -> dict[str, Any]:
        """How it ended for each shop and, as "", for the coordinator: an outcome or an error. TimeoutError for a hang.

        As nodes do, whoever ends closes its lines. broken: the shop whose line does something wrong, the side that it
        does it to (0 the coordinator's, 1 the shop's), one of FAULTS, and the number of the message.
        """
        return asyncio.run(self._play_out(hold or {}, coordinate, broken))

    async def _play_out(
        self, hold: Mapping[str, Hold], coordinate: Coordinate, broken: tuple[str, int, str, int] | None
    ) -> dict[str, Any]:
        lines: dict[str, tuple[MemoryChannel, MemoryChannel]] = {name: memory_line() for name in self.sites}
        if broken is not None:
            name, side, fault, at = broken
            forth: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
            back: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
            ends = BrokenChannel(forth, back), BrokenChannel(back, forth)
            ends[side].fault, ends[side].at = fault, at
            lines[name] = ends
        self.at_coordinator = {name: line[0] for name, line in lines.items()}
        self.at_shops = {name: line[1] for name, line in lines.items()}

        async def until_done(role: Awaitable[Outcome], ends: Sequence[MemoryChannel]) -> Any:
            try:
                return await role
            except TidegateError as error:
                return error
            finally:
                for end in ends:
                    await end.close()

        roles = {
            name: until_done(hold.get(name, pooling.hold)(self.at_shops[name], site), [self.at_shops[name]])
            for name, site in self.sites.items()
        }
        roles[""] = until_done(coordinate(self.at_coordinator), list(self.at_coordinator.values()))
        async with asyncio.timeout(120):
            return dict(zip(roles, await asyncio.gather(*roles.values()), strict=True))


def logistic_pool(
    x: FloatArray,
    y: FloatArray,
    ranges: FloatArray,
    rows: Sequence[IntArray],
    *,
    keys: bool = True,
    run: int = 0,
    **settings: Any,
) -> Pool:
    task = logistic.Settings(x.shape[1], **{"least_rows": 50, **settings})
    parts = []
    for each in rows:
        train, test = held_out(each)
        parts.append(logistic.Holder(x[train], y[train], x[test], y[test], ranges=ranges, settings=task))
    return Pool.of(parts, task, ranges, keys=keys, run=run)


def kmeans_pool(
    x: FloatArray, ranges: FloatArray, rows: Sequence[IntArray], *, keys: bool = True, run: int = 0, **settings: Any
) -> Pool:
    task = kmeans.Settings(x.shape[1], **{"least_rows": 50, **settings})
    return Pool.of(
        [kmeans.Holder(x[each], ranges=ranges, settings=task) for each in rows], task, ranges, keys=keys, run=run
    )
