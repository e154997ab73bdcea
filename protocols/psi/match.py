"""Which rows two parties have in common: rounds by kind of identifier, size first, over any engine.

For each kind of identifier, in order of priority, one round:

    receiver (brand)                                    sender (media)
                                 -- Size -->
                                 <-- Size --               the round ends here if either is under the floor
      an engine compares, the sender's list in an order that it draws: see `engine`
      counts the positions it has found
                                 -- Found -->              0 for anything under the floor, which ends the round
      mode both                  -- Positions -->          one bit for each position of the sender's order
      modes both and brand       <- engine opens -         which of its rows the receiver has found

The mode says who is told what once a round reaches the floor:

    both    both: how many match, and which of their own rows they are; in the order of the sender's list, which it
            shuffled, so a place in it says nothing about where the other party keeps the row
    brand   the receiver: how many and which of its rows; the sender: that the floor is reached, for Found says no more
    size    both: how many; nothing is opened, so nobody can tell which

Below the floor only the receiver ever holds a number: it answers 0, forgets it, and no output depends on it.

Rounds after the first. A row that matches by one kind is not tried by another. In mode both each party leaves its
matched rows out, so the number of rows that enter also says how many of those matched before have no identifier of
the next kind. In mode brand neither side may show how many those are. So the receiver enters a stranger (see
`entries`) for each row that has matched, and the sender, which does not know them, enters one secret order of all
its rows with an identifier of any kind in every round, a stranger for each row that has none of this kind. A position
stands for the same row in every round then: the receiver drops a match at a position that it has taken before. What it
learns by that is which positions it finds in several rounds: of the people that it knows to be matched, which also
have under another kind the identifier of a row of its own that had not matched yet; of which row, it cannot tell while
that kind's round stays under the floor. With one kind there are no such links. Both sides keep that order, each with
its own rows in it: steps that hide from the sender who matched run over all of it. Mode size has one kind, since it
opens no match by which a row could leave.

Assumption: both follow the protocol and enter their own rows. A receiver that claims a size it did not see learns
which rows match below the floor. What can be checked is: counts, positions, bounds, and that mode brand's sender
enters as many rows in each round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..channel import Channel, ConfigError, Message, PeerError, PolicyError
from ..primitives.randomness import Randomness
from . import oprf_match
from .engine import Engine, Places
from .entries import NO_ROW, BoolArray, Column, Entries

IntArray = NDArray[np.int64]

ENGINES: dict[str, Engine] = {"oprf": oprf_match}
MODES = ("both", "brand", "size")
POSITIONS = 2**20


@dataclass(frozen=True)
class Size(Message):
    """How many rows this party enters in the round."""

    rows: int


@dataclass(frozen=True)
class Found(Message):
    """How many rows the receiver has found, the floor itself in mode brand; 0 when they are under the floor."""

    rows: int


@dataclass(frozen=True)
class Positions(Message):
    """One bit for each of up to POSITIONS positions, the first in the lowest bit: set if the receiver has the row."""

    bits: bytes


@dataclass
class Matched:
    """What a party is told, by kind of identifier where it is a mapping.

    rows (m,): this party's matched rows; in mode both in an order that both parties share, at mode brand's receiver
    rising, else empty. order (n,), in mode brand alone: the row of this party at each position of the sender's one
    order of its n people with an identifier, -1 where the receiver has none. own, peer: how many rows this party and
    the other entered. by_key: how many matched, 0 under the floor; empty at mode brand's sender. reached: the kinds
    whose round reached the floor.
    """

    rows: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    order: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    own: dict[str, int] = field(default_factory=dict)
    peer: dict[str, int] = field(default_factory=dict)
    by_key: dict[str, int] = field(default_factory=dict)
    reached: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(self.by_key.values())


async def receiver(
    channel: Channel,
    ids: Mapping[str, Column],
    *,
    engine: Engine,
    mode: str,
    kinds: tuple[str, ...],
    floor: int,
    max_rows: int,
    randomness: Randomness,
) -> Matched:
    """Plays the brand. Identifiers of a kind are all different; the peer may enter at most `max_rows` in a round.

    Raises PeerError when the sender leaves the protocol, PolicyError when no round reaches the floor.
    """
    told = Matched(by_key=dict.fromkeys(kinds, 0))
    mine = _Rows(ids, kinds, mode)
    for kind in kinds:
        entries = mine.instead(kind, randomness) if mode == "brand" else mine.left(kind)
        await channel.send(Size(len(entries)))
        theirs = checked_size(await channel.recv(Size), max_rows)
        if mode == "brand" and told.peer and theirs not in told.peer.values():
            raise PeerError(f"the peer enters {theirs} rows, in mode brand it must be as many in each round")
        told.own[kind], told.peer[kind] = len(entries), theirs
        if min(len(entries), theirs) < floor:
            continue
        compared = await engine.compare(channel, entries, kind=kind, theirs=theirs, randomness=randomness)
        found = np.ones(len(compared.positions), np.bool_)
        if mode == "brand":
            told.order = told.order if len(told.order) else np.full(theirs, NO_ROW, np.int64)
            found = told.order[compared.positions] == NO_ROW
        size = int(np.count_nonzero(found))
        if size < floor:
            await channel.send(Found(0))
            continue
        await channel.send(Found(floor if mode == "brand" else size))
        if mode == "both":
            await _send_positions(channel, compared.positions, theirs)
        if mode != "size":
            places = await compared.opened(channel)
            rows = mine.matched(entries, places[found])
        if mode == "brand":
            told.order[compared.positions[found]] = rows
        told.by_key[kind] = size
        told.reached += (kind,)
    told.rows = np.sort(mine.rows()) if mode == "brand" else mine.rows()
    return _reaching(told, floor)


async def sender(
    channel: Channel,
    ids: Mapping[str, Column],
    *,
    engine: Engine,
    mode: str,
    kinds: tuple[str, ...],
    floor: int,
    max_rows: int,
    randomness: Randomness,
) -> Matched:
    """Plays the media; see `receiver`."""
    told = Matched(by_key={} if mode == "brand" else dict.fromkeys(kinds, 0))
    mine = _Rows(ids, kinds, mode)
    everybody = mine.everybody(randomness) if mode == "brand" else np.empty(0, np.uint32)
    for kind in kinds:
        if mode == "brand":
            entries, order = mine.among(everybody, kind, randomness)
        else:
            entries = mine.left(kind)
            order = randomness.permutation(len(entries)).astype(np.uint32)
        theirs = checked_size(await channel.recv(Size), max_rows)
        await channel.send(Size(len(entries)))
        told.own[kind], told.peer[kind] = len(entries), theirs
        if min(len(entries), theirs) < floor:
            continue
        answered = await engine.answer(channel, entries, kind=kind, theirs=theirs, order=order, randomness=randomness)
        size = (await channel.recv(Found)).rows
        if size == 0:
            continue
        most = floor if mode == "brand" else min(len(entries), theirs)
        if not floor <= size <= most:
            raise PeerError(f"the receiver found {size} rows, 0 or {floor} to {most} were possible")
        if mode == "both":
            positions = await _positions(channel, len(entries), size)
            mine.matched(entries, order[positions])
        if mode != "size":
            await answered.open(channel)
        if mode != "brand":
            told.by_key[kind] = size
        told.reached += (kind,)
    told.rows, told.order = mine.rows(), everybody.astype(np.int64)
    return _reaching(told, floor)


async def _send_positions(channel: Channel, positions: Places, n: int) -> None:
    marked = np.zeros(n, np.bool_)
    marked[positions] = True
    for begin in range(0, n, POSITIONS):
        await channel.send(Positions(np.packbits(marked[begin : begin + POSITIONS], bitorder="little").tobytes()))


async def _positions(channel: Channel, n: int, size: int) -> IntArray:
    """The `size` positions below n that the receiver marks."""
    marked = np.empty(n, np.bool_)
    for begin in range(0, n, POSITIONS):
        here = marked[begin : begin + POSITIONS]
        bits = (await channel.recv(Positions)).bits
        if len(bits) != -(-len(here) // 8):
            raise PeerError(f"positions: {-(-len(here) // 8)} bytes were expected, {len(bits)} came")
        unpacked = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
        if np.any(unpacked[len(here) :]):
            raise PeerError("the receiver marked a position after the last one")
        here[:] = unpacked[: len(here)]
    if np.count_nonzero(marked) != size:
        raise PeerError(f"the receiver found {size} rows and marked {np.count_nonzero(marked)}")
    return np.flatnonzero(marked)


def checked_size(size: Size, max_rows: int) -> int:
    """How many rows the peer enters. Raises PeerError when that is more than the contract names."""
    if size.rows > max_rows:
        raise PeerError(f"the peer enters {size.rows} rows, its data set has {max_rows} by the contract")
    return size.rows


def _reaching(told: Matched, floor: int) -> Matched:
    # The same text for every size under the floor, at both parties.
    if not told.reached:
        raise PolicyError(
            f"fewer than {floor} people matched, so nothing was opened",
            "check that both sides have the right keys and countries, or enter more people",
        )
    return told


class _Rows:
    """A party's rows over the rounds: which have matched, and what they enter next."""

    def __init__(self, ids: Mapping[str, Column], kinds: tuple[str, ...], mode: str) -> None:
        if mode not in MODES or (mode == "size" and len(kinds) != 1):
            raise ConfigError(
                f"matching cannot run in mode {mode!r} with the keys {', '.join(kinds)}",
                f"the modes are {', '.join(MODES)}; size takes one key",
            )
        for kind in kinds:
            if kind not in ids:
                hint = "register the data set with a key of that kind"
                raise ConfigError(f"no identifiers of kind {kind!r} are at hand", hint)
        self._ids = ids
        self._kinds = kinds
        self._table = 1 + max((int(ids[kind].rows.max()) for kind in kinds if len(ids[kind])), default=-1)
        self._done = np.zeros(self._table, np.bool_)
        self._rounds: list[IntArray] = []

    def left(self, kind: str) -> Entries:
        """The rows that have not matched."""
        return Entries(self._ids[kind], self._unmatched(kind))

    def instead(self, kind: str, randomness: Randomness) -> Entries:
        """The rows that have not matched, and a stranger for each that has."""
        keep = self._unmatched(kind)
        strangers = 0 if keep is None else int(np.count_nonzero(~keep))
        return Entries(self._ids[kind], keep, strangers, randomness.bytes(32))

    def everybody(self, randomness: Randomness) -> Places:
        """All rows that have an identifier of any kind, in a random order."""
        known = np.zeros(self._table, np.bool_)
        for kind in self._kinds:
            known[self._ids[kind].rows] = True
        rows = np.flatnonzero(known).astype(np.uint32)
        return rows[randomness.permutation(len(rows))]

    def among(self, everybody: Places, kind: str, randomness: Randomness) -> tuple[Entries, Places]:
        """The rows of this kind with a stranger for each other one, and which entry stands at each position."""
        column = self._ids[kind]
        entries = Entries(column, None, len(everybody) - len(column), randomness.bytes(32))
        place = np.full(self._table, len(column), np.uint32)
        place[column.rows] = np.arange(len(column), dtype=np.uint32)
        order = place[everybody]
        strangers = order == len(column)
        order[strangers] += np.arange(np.count_nonzero(strangers), dtype=np.uint32)
        return entries, order

    def matched(self, entries: Entries, places: Places | IntArray) -> IntArray:
        """The rows of these entries, which are noted as matched, in this order."""
        if len(places) and int(places.max()) >= len(entries.rows):
            raise PeerError("the peer has matched an entry that belongs to nobody")
        rows = entries.rows[places].astype(np.int64)
        self._done[rows] = True
        self._rounds.append(rows)
        return rows

    def rows(self) -> IntArray:
        """The matched rows so far."""
        return np.concatenate([np.empty(0, np.int64), *self._rounds])

    def _unmatched(self, kind: str) -> BoolArray | None:
        return ~self._done[self._ids[kind].rows] if self._rounds else None
