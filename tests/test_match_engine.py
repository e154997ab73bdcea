"""Matching over another engine: what the rounds, floors and modes do does not hang on how a round is compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.test_match import ids, people
from tidegate.protocols.channel import Channel, ConfigError, Message, PeerError, PolicyError
from tidegate.protocols.ids import Identifiers
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.psi import match
from tidegate.protocols.psi.engine import Engine, Items, Places
from tidegate.protocols.psi.entries import Entries, regrouped
from tidegate.protocols.psi.match import ENGINES, MODES, Matched
from tidegate.protocols.simulate import simulate


@dataclass(frozen=True)
class Everything(Message):
    """All items of a side, one after another: an engine for tests has nothing to hide."""

    items: tuple[bytes, ...]


@dataclass(frozen=True)
class Asked(Message):
    rows: int


@dataclass
class Clear:
    """An engine that sends the sender's items in its order as they are."""

    seen: list[tuple[str, list[bytes]]] = field(default_factory=list)
    shown: list[list[bytes]] = field(default_factory=list)
    opened: int = 0

    async def compare(
        self, channel: Channel, items: Items, *, kind: str, theirs: int, randomness: Randomness
    ) -> _ClearCompared:
        own = [item for block in items.blocks(7) for item in block]
        self.seen.append((kind, own))
        place = {item: i for i, item in enumerate(own)}
        await channel.send(Asked(len(own)))
        came = (await channel.recv(Everything)).items
        assert len(came) == theirs
        found = [(at, place[item]) for at, item in enumerate(came) if item in place]
        positions, places = (np.array([pair[i] for pair in found], np.uint32) for i in (0, 1))
        return _ClearCompared(positions, places)

    async def answer(
        self, channel: Channel, items: Items, *, kind: str, theirs: int, order: Places, randomness: Randomness
    ) -> _ClearAnswered:
        own = [item for block in items.blocks(7) for item in block]
        self.seen.append((kind, own))
        assert (await channel.recv(Asked)).rows == theirs
        self.shown.append([own[place] for place in order])
        await channel.send(Everything(tuple(self.shown[-1])))
        return _ClearAnswered(self)


@dataclass(frozen=True)
class _ClearCompared:
    positions: Places
    places: Places

    async def opened(self, channel: Channel) -> Places:
        await channel.recv(Asked)
        return self.places


@dataclass(frozen=True)
class _ClearAnswered:
    engine: Clear

    async def open(self, channel: Channel) -> None:
        self.engine.opened += 1
        await channel.send(Asked(0))


def run(
    brand: dict[str, Any], media: dict[str, Any], *, mode: str, engines: tuple[Engine, Engine], floor: int = 2
) -> tuple[Matched, Matched]:
    def settings(i: int) -> dict[str, Any]:
        drawn = Randomness(bytes([i]) * 32)
        return {"engine": engines[i], "mode": mode, "kinds": tuple(brand), "floor": floor, "randomness": drawn}

    return simulate(
        lambda channel: match.receiver(channel, brand, max_rows=1000, **settings(0)),
        lambda channel: match.sender(channel, media, max_rows=1000, **settings(1)),
    )


SIDES = (
    ids(phone=[f"+316{10**7 + i}" if i % 2 else None for i in range(40)], email=[f"p{i}@x.nl" for i in range(40)]),
    ids(phone=[f"+316{10**7 + i}" for i in range(30, 60)], email=[f"p{i}@x.nl" if i % 3 else None for i in range(60)]),
)


@pytest.mark.parametrize("mode", MODES)
def test_every_engine_gives_the_same_result_in_every_mode(mode: str) -> None:
    sides = [{"email": side["email"]} for side in SIDES] if mode == "size" else SIDES
    told = [run(*sides, mode=mode, engines=(engine, engine)) for engine in (ENGINES["oprf"], Clear())]
    for mine, theirs in zip(*told, strict=True):
        assert np.sort(mine.rows).tolist() == np.sort(theirs.rows).tolist()
        assert (mine.own, mine.peer, mine.by_key, mine.reached) == (
            theirs.own,
            theirs.peer,
            theirs.by_key,
            theirs.reached,
        )
    assert told[0][0].size > 20


@pytest.mark.parametrize(("mode", "opened"), [("both", 2), ("brand", 2), ("size", 0)])
def test_an_engine_is_asked_to_open_where_the_mode_tells_rows_and_the_floor_is_reached(mode: str, opened: int) -> None:
    sides = [{"email": side["email"]} for side in SIDES] if mode == "size" else SIDES
    engines = Clear(), Clear()
    run(*sides, mode=mode, engines=engines)
    assert engines[1].opened == opened
    engines = Clear(), Clear()
    with pytest.raises(PolicyError):
        run(*sides, mode=mode, engines=engines, floor=30)
    assert engines[1].opened == 0


def test_in_mode_both_matched_rows_leave_the_later_rounds() -> None:
    engines = Clear(), Clear()
    told = run(*SIDES, mode="both", engines=engines)
    assert told[0].by_key["phone"] == 5
    for engine, side, own in zip(engines, SIDES, told, strict=True):
        column, matched = side["email"], own.rows[:5]
        left = column.take(~np.isin(column.rows, matched))
        assert set(engine.seen[1][1]) == set(left)
        assert len(left) < len(column)


def test_in_mode_brand_matched_rows_enter_later_rounds_as_strangers() -> None:
    """An element of their own would tell the brand which keys of them the media holds, and their absence the media."""
    engines = Clear(), Clear()
    run(*SIDES, mode="brand", engines=engines)
    entered, known = engines[0].seen[1][1], set(SIDES[0]["email"])
    matched = {b"email\0p%d@x.nl" % row for row in (31, 33, 35, 37, 39)}
    assert len(entered) == 40
    assert known & set(entered) == known - matched
    assert all(len(item) == 32 for item in set(entered) - known)


def test_in_mode_brand_the_media_enters_every_row_in_every_round() -> None:
    engines = Clear(), Clear()
    run(*SIDES, mode="brand", engines=engines)
    (_, phones), (_, emails) = engines[1].seen
    assert len(phones) == len(emails) == len({*SIDES[1]["phone"].rows.tolist(), *SIDES[1]["email"].rows.tolist()})
    assert set(SIDES[1]["phone"]) < set(phones)
    assert set(SIDES[1]["email"]) < set(emails)
    assert len(set(phones + emails)) == len(phones) + len(emails)


def test_in_mode_brand_a_position_stands_for_one_row_in_all_rounds_and_its_order_is_not_that_of_the_rows() -> None:
    engines = Clear(), Clear()
    run(*SIDES, mode="brand", engines=engines)
    rows = [
        [dict(zip(SIDES[1][kind], SIDES[1][kind].rows.tolist(), strict=True)).get(item) for item in shown]
        for (kind, _), shown in zip(engines[1].seen, engines[1].shown, strict=True)
    ]
    assert all(a == b for a, b in zip(*rows, strict=True) if a is not None and b is not None)
    known = [a if b is None else b for a, b in zip(*rows, strict=True)]
    assert sorted(known) == sorted({*SIDES[1]["phone"].rows.tolist(), *SIDES[1]["email"].rows.tolist()})  # type: ignore[type-var]  # each has one
    assert sum(a == b for a, b in zip(known, sorted(known), strict=True)) < 10  # type: ignore[type-var]  # as above


@pytest.mark.parametrize("mode", ["both", "size"])
def test_the_order_of_a_round_is_drawn_anew_and_not_that_of_the_rows(mode: str) -> None:
    engines = Clear(), Clear()
    sides = [{"email": side["email"]} for side in SIDES]
    run(*sides, mode=mode, engines=engines)
    shown, entered = engines[1].shown[0], engines[1].seen[0][1]
    assert sorted(shown) == sorted(entered)
    assert sum(a == b for a, b in zip(shown, entered, strict=True)) < 10


def test_an_engine_that_finds_a_stranger_is_not_believed() -> None:
    class Wrong(Clear):
        async def compare(self, channel: Channel, items: Items, **told: Any) -> _ClearCompared:
            compared = await super().compare(channel, items, **told)
            return _ClearCompared(compared.positions, np.full(len(compared.positions), len(items) - 1, np.uint32))

    with pytest.raises(PeerError, match="belongs to nobody"):
        run(*SIDES, mode="brand", engines=(Wrong(), Clear()))


@pytest.mark.parametrize(("mode", "kinds"), [("size", ("phone", "email")), ("none", ("email",))])
def test_a_mode_that_does_not_go_with_the_keys_is_a_configuration_error(mode: str, kinds: tuple[str, ...]) -> None:
    sides = [{kind: side[kind] for kind in kinds} for side in SIDES]
    with pytest.raises(ConfigError, match="cannot run in mode"):
        run(*sides, mode=mode, engines=(Clear(), Clear()))


@pytest.mark.parametrize("size", [1, 3, 64, 1000])
def test_blocks_are_of_the_size_asked_for_however_the_pieces_are_cut(size: int) -> None:
    column = ids(text=people(0, 200))["text"]

    def pieces() -> Iterator[Identifiers]:
        yield from column.blocks(70)
        yield column.take(np.zeros(200, np.bool_))

    blocks = list(regrouped(pieces(), size))
    assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    assert [item for block in blocks for item in block] == list(column)
    assert np.concatenate([block.rows for block in blocks]).tolist() == column.rows.tolist()


def test_entries_leave_rows_out_and_put_strangers_behind() -> None:
    column = ids(text=people(0, 100))["text"]
    keep = np.arange(100) % 3 != 0
    entries = Entries(column, keep, 50, b"s" * 32)
    twice = [[item for block in entries.blocks(size) for item in block] for size in (16, 1000)]
    assert len(entries) == len(twice[0]) == 116
    assert twice[0][:66] == [item for item, kept in zip(column, keep, strict=True) if kept]
    assert len(set(twice[0])) == 116
    assert twice[0] == twice[1]
    assert entries.rows.tolist() == np.flatnonzero(keep).tolist()
