"""The least of k sums for each row, by a comparator that learns neither the sums nor which one it is.

Parties P, one of whom leads (L), each hold for every row the integers a_1..a_k; the least of the sums over all parties
counts, the lower index of equal ones. C compares. All arithmetic of messages is modulo 2^48.

    L -> P   two keys of 32 bytes: one that all parties share, one for this party's masks, over a line that C is not on
    each pass, with streams under HKDF(key, pass):
             the parties shuffle the rows; per row they permute the k, and per row and pair u < v of places they
             draw a scale r, log-uniform over 18 bits; A = k a, L adds the index: no two sums are equal
    P -> C   Masked   r (A_u - A_v) + m, per row and pair      the masks of the others are m, L's is minus their sum
                      L also adds e, uniform in 0..r-1         the sign stays, r does not divide what C sees
    C -> P   Positions   per row the place u that wins against all others
             the parties take permutation and shuffle back
    sums     P -> C   Part of a number + m      C -> P   Total, which is the sum plus an offset that C does not know

Sizes. |sum of A_u - A_v| < k (S + 1) where no two sums differ by more than S; times r <= 2^18 it must stay under 2^47
in size: k (S + 1) <= 2^29 (`LARGEST`), which who calls this has to see to. r |A| + e < r (|A| + 1) is what is bounded.

Learns. Parties: each row's index. C: rows, k, passes; per row and pair of places one difference at a scale of its own,
for rows that it cannot tell from the last pass's; its order of the k is one of k!, all equally likely.
Assumes: C does not collude with a party. With L it has every party's a, with another the sum over all others.
A dishonest C can answer wrongly; one that answers two parties differently is found out where they compare (kmeans.py).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray

from ..channel import MIB, Channel, DisagreementError, Message, PeerError
from ..primitives.fixed_point import IntArray, UInt64Array
from ..primitives.randomness import Randomness

MAX_ROWS = 10**7
LEAST_K, MOST_K = 2, 10
MOST_PARTIES = 16
MOST_PASSES = 20_000
KEY_BYTES = 32
LARGEST = 2**29

_SCALE_BITS = 18
_TABLE_BITS = 16
_VALUE_BYTES = 6
# A message of so much and its head fill one frame of the wire.
_BODY = MIB - 1024
_ROWS_AT_MOST = 2**15
_NAME_BYTES = 16
_END, _PASS, _SUM = 0, 1, 2

Bytes: TypeAlias = NDArray[np.uint8]
Parts: TypeAlias = NDArray[np.int32]


@dataclass(frozen=True)
class Ask(Message):
    """What comes next: nothing, a pass over so many rows, or a sum. name: of this turn, the same from all parties."""

    MAX_BYTES: ClassVar[int] = 128
    what: int
    rows: int
    k: int
    name: bytes


@dataclass(frozen=True)
class Masked(Message):
    """The rows from `first` on: for each pair, for each row, the low 4 bytes of a value; then the high 2 of all."""

    MAX_BYTES: ClassVar[int] = MIB
    first: int
    values: bytes


@dataclass(frozen=True)
class Positions(Message):
    """For each of at most 2^20 - 1024 rows from `first` on, in the shuffled order, the place that won: 1 byte."""

    MAX_BYTES: ClassVar[int] = MIB
    first: int
    positions: bytes


@dataclass(frozen=True)
class Part(Message):
    """One party's masked part of a sum, modulo 2^64."""

    value: int


@dataclass(frozen=True)
class Total(Message):
    """The sum of all parts, modulo 2^64."""

    value: int


@dataclass(frozen=True)
class Seen:
    """What the comparator did: how many passes, of how many rows in all, and how many sums."""

    passes: int
    rows: int
    sums: int


# Pure steps of the parties.


@functools.cache
def scales() -> IntArray:
    """2^16 scales from 1 to 2^18, each as often as its neighbours in the logarithm.

    Parties must have the same to the last bit, so no exponential of some machine's makes them: every second one is the
    geometric mean of its neighbours, by integer square roots.
    """
    low = 64
    powers = [1 << low, 1 << (_SCALE_BITS + low)]
    for _ in range(_TABLE_BITS):
        means = [math.isqrt(a * b) for a, b in itertools.pairwise(powers)]
        powers = [*itertools.chain.from_iterable(zip(powers, means, strict=False)), powers[-1]]
    return np.array([power >> low for power in powers[1:]], np.int64)


def pairs(k: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(k), 2))


def block_rows(k: int) -> int:
    """How many rows' values one message holds."""
    return min(_ROWS_AT_MOST, _BODY // (_VALUE_BYTES * len(pairs(k))))


def _blocks(rows: int, size: int) -> Iterator[slice]:
    for at in range(0, rows, size):
        yield slice(at, min(at + size, rows))


@dataclass(frozen=True, repr=False)
class Veil:
    """What one party hides its values with: the key that all parties share, and the keys of masks.

    The lead has one key of masks for each other party and takes their masks off, another party has its own.
    """

    shared: bytes
    masks: tuple[bytes, ...]
    lead: bool

    def name(self, turn: bytes) -> bytes:
        """What shows to the comparator that all parties mean the same turn."""
        return _derived(self.shared, b"name", turn)[:_NAME_BYTES]

    def stream(self, purpose: bytes, turn: bytes) -> Randomness:
        return Randomness(_derived(self.shared, purpose, turn))

    def mask_streams(self, turn: bytes) -> list[Randomness]:
        return [Randomness(_derived(key, b"mask", turn)) for key in self.masks]

    def mask(self, streams: Sequence[Randomness], count: int) -> UInt64Array:
        """What this party adds: its own mask, or the lead's minus the sum of all."""
        drawn = [np.frombuffer(stream.bytes(8 * count), "<u8") for stream in streams]
        return np.negative(functools.reduce(np.add, drawn)) if self.lead else drawn[0]


def _derived(key: bytes, purpose: bytes, turn: bytes) -> bytes:
    return HKDFExpand(SHA256(), KEY_BYTES, b"tidegate comparator v1 " + purpose + b" " + turn).derive(key)


def permutations(k: int, rows: int, stream: Randomness) -> Bytes:
    """A uniform permutation of 0..k-1 for each row, the ranks of drawn numbers: (k, rows)."""
    drawn = np.frombuffer(stream.bytes(8 * k * rows), "<u8").reshape(k, rows)
    ranks = np.zeros((k, rows), np.uint8)
    for u, v in pairs(k):
        greater = drawn[u] > drawn[v]
        ranks[u] += greater
        ranks[v] += ~greater
    return ranks


def drawn_scales(stream: Randomness, k: int, rows: int) -> IntArray:
    """An independent scale for each pair and row: (pairs, rows)."""
    return scales().take(np.frombuffer(stream.bytes(2 * len(pairs(k)) * rows), "<u2").reshape(-1, rows))


def packed(values: IntArray) -> bytes:
    """Integers modulo 2^48, the low 4 bytes of all before the high 2 of all."""
    return values.astype("<u4").tobytes() + (values >> 32).astype("<u2").tobytes()


class Turn:
    """One pass of one party: what it sends, block after block, and how it reads the answer."""

    def __init__(self, veil: Veil, turn: bytes, rows: int, k: int, noise: Randomness) -> None:
        self.k, self.rows, self._veil, self._noise = k, rows, veil, noise
        self.order = veil.stream(b"rows", turn).permutation(rows)
        self._places = np.empty((k, rows), np.uint8)
        self._clusters, self._scales = veil.stream(b"clusters", turn), veil.stream(b"scales", turn)
        self._masks = veil.mask_streams(turn)

    def messages(self, parts: Parts) -> Iterator[Masked]:
        """parts (rows, k): this party's part of each of the k sums."""
        for block in _blocks(self.rows, block_rows(self.k)):
            places = permutations(self.k, block.stop - block.start, self._clusters)
            self._places[:, block] = places
            yield Masked(block.start, packed(self._hidden(parts.take(self.order[block], axis=0), places)))

    def _hidden(self, parts: Parts, places: Bytes) -> IntArray:
        sums = parts.T * np.int64(self.k)
        if self._veil.lead:
            sums += np.arange(self.k)[:, None]
        placed = np.take_along_axis(sums, places.astype(np.intp), axis=0)
        scale = drawn_scales(self._scales, self.k, len(parts))
        values = np.empty(scale.shape, np.int64)
        for (u, v), value in zip(pairs(self.k), values, strict=True):
            np.subtract(placed[u], placed[v], out=value)
        values *= scale
        if self._veil.lead:
            scale *= np.frombuffer(self._noise.bytes(2 * scale.size), "<u2").reshape(scale.shape)
            scale >>= 16
            values += scale
        values.view(np.uint64)[...] += self._veil.mask(self._masks, values.size).reshape(values.shape)
        return values

    def answered(self, positions: Bytes) -> Bytes:
        """Each row's index, in the rows' own order. Raises PeerError for a place that there is not."""
        if positions.max(initial=0) >= self.k:
            raise PeerError(f"the comparator answered with a place that is not among the {self.k}")
        labels = np.empty(self.rows, np.uint8)
        labels[self.order] = np.take_along_axis(self._places, positions[None].astype(np.intp), axis=0)[0]
        return labels


# Pure steps of the comparator.


def winners(messages: Mapping[str, Masked], k: int, first: int, rows: int) -> Bytes:
    """The place that wins, for each of `rows` rows from `first` on. messages: by party.

    Raises PeerError where it is another block, sizes are wrong or no place wins.
    """
    count = len(pairs(k)) * rows
    low, high = np.zeros(count, "<u4"), np.zeros(count, "<u2")
    for party, message in messages.items():
        if (message.first, len(message.values)) != (first, _VALUE_BYTES * count):
            came = f"{len(message.values)} bytes from row {message.first}"
            raise PeerError(f"{party} sent {came}, expected were {_VALUE_BYTES * count} from row {first}")
        low += (more := np.frombuffer(message.values, "<u4", count))
        high += low < more
        high += np.frombuffer(message.values, "<u2", count, 4 * count)
    # A value whose highest bit is set is negative: the first of its pair is less.
    less = (high >> 15).astype(np.bool_).reshape(-1, rows)
    wins = np.ones((k, rows), np.bool_)
    for (u, v), u_is_less in zip(pairs(k), less, strict=True):
        wins[u] &= u_is_less
        wins[v] &= ~u_is_less
    if np.count_nonzero(wins) != rows:
        raise PeerError("the parties' values of a row have no least one: a party sent something else than agreed")
    return functools.reduce(np.add, [np.uint8(place) * wins[place] for place in range(k)])


def _same(asked: Mapping[str, Ask]) -> Ask:
    """What all parties ask. Raises DisagreementError, or PeerError for what is out of bounds."""
    first = next(iter(asked.values()))
    for party, ask in asked.items():
        if ask != first:
            text = f"{party} asks for another turn than {next(iter(asked))}: rows, k, settings or keys differ"
            raise DisagreementError(text, "the parties must hold the same contract and the same rows")
    if first.what not in (_END, _PASS, _SUM) or len(first.name) != _NAME_BYTES:
        raise PeerError("the parties ask for a turn that there is not")
    if first.what == _PASS and not (1 <= first.rows <= MAX_ROWS and LEAST_K <= first.k <= MOST_K):
        text = f"a pass has 1 to {MAX_ROWS} rows and {LEAST_K} to {MOST_K} clusters, asked were {first.rows}, {first.k}"
        raise PeerError(text)
    return first


# Roles.


async def comparator(channels: Mapping[str, Channel]) -> Seen:
    """Serves the parties, by name, until they end. Raises PeerError, DisagreementError."""
    if not 2 <= len(channels) <= MOST_PARTIES:
        raise PeerError(f"a comparator serves 2 to {MOST_PARTIES} parties, not {len(channels)}")
    passes = rows = sums = 0
    while passes + sums <= MOST_PASSES:
        ask = _same({party: await channel.recv(Ask) for party, channel in channels.items()})
        if ask.what == _END:
            return Seen(passes, rows, sums)
        if ask.what == _SUM:
            await _add(channels)
            sums += 1
            continue
        answer = np.empty(ask.rows, np.uint8)
        for block in _blocks(ask.rows, block_rows(ask.k)):
            received = {party: await channel.recv(Masked) for party, channel in channels.items()}
            answer[block] = winners(received, ask.k, block.start, block.stop - block.start)
        # Only now: while the parties send they do not listen, and no line holds everything.
        for block in _blocks(ask.rows, _BODY):
            for channel in channels.values():
                await channel.send(Positions(block.start, answer[block].tobytes()))
        passes += 1
        rows += ask.rows
    raise PeerError(f"the parties ask for more than {MOST_PASSES} turns")


async def _add(channels: Mapping[str, Channel]) -> None:
    parts = [(await channel.recv(Part)).value for channel in channels.values()]
    for channel in channels.values():
        await channel.send(Total(sum(parts) % 2**64))


async def least(helper: Channel, veil: Veil, turn: bytes, parts: Parts, noise: Randomness) -> Bytes:
    """For each row the index, 0..k-1, of the least of the k sums over all parties: (rows,).

    parts (rows, k): this party's part of each sum. noise: the lead's own randomness.
    """
    rows, k = parts.shape
    await helper.send(Ask(_PASS, rows, k, veil.name(turn)))
    mine = Turn(veil, turn, rows, k, noise)
    for message in mine.messages(parts):
        await helper.send(message)
    positions = np.empty(rows, np.uint8)
    for block in _blocks(rows, _BODY):
        part = await helper.recv(Positions)
        if (part.first, len(part.positions)) != (block.start, block.stop - block.start):
            came = f"{len(part.positions)} rows from {part.first}"
            raise PeerError(
                f"the comparator answered {came}, expected were {block.stop - block.start} from {block.start}"
            )
        positions[block] = np.frombuffer(part.positions, np.uint8)
    return mine.answered(positions)


async def added(helper: Channel, veil: Veil, turn: bytes, part: int) -> int:
    """The sum over all parties of a number each, which nobody learns but the parties; |sum| < 2^63."""
    await helper.send(Ask(_SUM, 0, 0, veil.name(turn)))
    (offset,) = np.frombuffer(veil.stream(b"offset", turn).bytes(8), "<u8").tolist()
    (mask,) = veil.mask(veil.mask_streams(turn), 1).tolist()
    await helper.send(Part((part + mask + (offset if veil.lead else 0)) % 2**64))
    total: int = ((await helper.recv(Total)).value - offset) % 2**64
    return total - 2**64 if total >= 2**63 else total


async def end(helper: Channel) -> None:
    """Tells the comparator that this party asks for nothing more."""
    await helper.send(Ask(_END, 0, 0, bytes(_NAME_BYTES)))
