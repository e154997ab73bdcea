"""Which rows two parties have in common: OPRF-based private set intersection in fresh-key mode, size first.

For each kind of identifier, in order of priority, one round over the rows that no earlier round has matched.
X are the receiver's identifiers, Y the sender's, H the hash to the group and T the hash to tokens:

    receiver (brand: X)                                 sender (media: Y)
                                 -- Size -->
                                 <-- Size --                   the round ends here if either is under the floor
      blinding scalar b, once                                  key k, order of Y, seed: all fresh
      b H(x) for each x          -- Blinded -->                refuses bad and repeated elements
                                 <-- Evaluated --              k b H(x), in the order drawn from the seed
                                 <-- Tokens --                 T(k H(y)), in the order of Y
      T(b^-1 k b H(x))
      counts those among the tokens
                                 -- Found -->                  how many: 0 for anything under the floor, the end
                                 -- Positions -->              one bit per token
                                 <-- Opened --                 the seed
      undoes the order

What each learns. Both: how many rows enter each round. The receiver: how many match, and at the floor or above
which of its rows they are. The sender: whether the floor is reached, and if so how many match and which of its rows
they are. Rows come out in the order of the tokens, which the sender shuffled, so a place in it says nothing about
where the other party keeps the row. From the second round on, the number of rows that enter also says how many
of those matched before have no identifier of the next kind; a row that matches by one kind is not tried by another.

Why. k and b are fresh in every round and known to one side each. Under the decisional Diffie-Hellman assumption in
ristretto255, with H and T as random oracles, the blinded elements are as random ones to the sender, and to the receiver
so are the evaluated ones and the tokens, but for the ones they have in common; in their secret order the evaluated
ones cannot be laid back to the rows. So what the receiver holds before the seed is open is a number. Below the
floor only the receiver ever holds it: it answers 0, forgets it, and no output depends on it. No element of one run or
round meets another again, so runs cannot be laid over each other.

Assumption: both follow the protocol and enter their own rows. A sender that answers under several keys spoils the
result; a receiver that claims a size it did not see, or blinds under several scalars to find its rows again, learns
which rows matched below the floor. Values that can be checked are: elements, repetitions, counts, bounds.

A token has 12 bytes or more, so many that a false match in a run stays under 2^-40.

Reference: [RFC9497] mode OPRF without the input in the final hash, since the receiver hashes before it knows which
input an element belongs to; [HFH99] Huberman, Franklin, Hogg, "Enhancing privacy and trust in electronic
communities", for the Diffie-Hellman intersection that the order makes a size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..channel import Channel, ConfigError, Message, PeerError, PolicyError
from ..ids import Identifiers, repeats
from ..primitives.group import ELEMENT_BYTES, Scalar, digests, hash_multiply, multiply
from ..primitives.randomness import Randomness
from .oprf import HASH_TO_GROUP

IntArray = NDArray[np.int64]
Bytes = NDArray[np.uint8]

BLOCK = 8192
POSITIONS = 2**20
SEED_BYTES = 32
_TOKEN_LABEL = b"tidegate match token v1\0"
_FALSE_MATCH_BITS = 40


@dataclass(frozen=True)
class Size(Message):
    """How many rows this party enters in the round."""

    rows: int


@dataclass(frozen=True)
class Blinded(Message):
    """Up to BLOCK elements b H(x)."""

    elements: bytes


@dataclass(frozen=True)
class Evaluated(Message):
    """Up to BLOCK elements k b H(x), in the order drawn from the seed."""

    elements: bytes


@dataclass(frozen=True)
class Tokens(Message):
    """Up to BLOCK tokens of the sender."""

    tokens: bytes


@dataclass(frozen=True)
class Found(Message):
    """How many tokens the receiver has in common with the sender; 0 when they are under the floor."""

    rows: int


@dataclass(frozen=True)
class Positions(Message):
    """One bit for each of up to POSITIONS tokens, the first in the lowest bit: set if the receiver has it too."""

    bits: bytes


@dataclass(frozen=True)
class Opened(Message):
    """The seed of the order in which the evaluated elements went."""

    seed: bytes


@dataclass(frozen=True)
class Alignment:
    """The matched people, in an order both parties share.

    rows (m,): this party's row numbers. By kind of identifier: how many rows this party and its peer entered in
    that round, and how many of them matched and were opened (0 under the floor).
    """

    rows: IntArray
    own: dict[str, int]
    peer: dict[str, int]
    matched: dict[str, int]


async def receiver(
    channel: Channel,
    ids: Mapping[str, Identifiers],
    *,
    kinds: tuple[str, ...],
    floor: int,
    max_rows: int,
    randomness: Randomness,
) -> Alignment:
    """Plays the brand. Identifiers of a kind are all different; the peer may enter at most `max_rows` in a round.

    Raises PeerError when the sender leaves the protocol, PolicyError when no round reaches the floor.
    """
    rounds = _Rounds(ids, kinds, floor)
    for kind in kinds:
        mine = rounds.remaining(kind)
        await channel.send(Size(len(mine)))
        theirs = _checked_size(await channel.recv(Size), max_rows)
        if not rounds.enters(kind, len(mine), theirs):
            continue
        blinding = Scalar.random(randomness)
        for block in mine.blocks(BLOCK):
            await channel.send(Blinded(hash_multiply(block.data, block.offsets, HASH_TO_GROUP, blinding)))
        unblinding = blinding.inverse()
        length = token_bytes(len(mine), theirs)
        tokens = np.empty((len(mine) + theirs, length), np.uint8)
        own_tokens, peer_tokens = tokens[: len(mine)], tokens[len(mine) :]
        for span in _spans(len(mine)):
            evaluated = (await channel.recv(Evaluated)).elements
            _exactly(evaluated, len(own_tokens[span]) * ELEMENT_BYTES, "evaluated elements")
            own_tokens[span] = _tokens(kind, multiply(evaluated, unblinding), length)
        for span in _spans(theirs):
            came = (await channel.recv(Tokens)).tokens
            peer_tokens[span] = _matrix(_exactly(came, peer_tokens[span].size, "tokens"), length)
        evaluated_at, token_at = common(tokens, len(mine))
        del tokens, own_tokens, peer_tokens
        if len(token_at) < floor:
            await channel.send(Found(0))
            continue
        await channel.send(Found(len(token_at)))
        found = np.zeros(theirs, np.bool_)
        found[token_at] = True
        for span in _spans(theirs, POSITIONS):
            await channel.send(Positions(np.packbits(found[span], bitorder="little").tobytes()))
        seed = _exactly((await channel.recv(Opened)).seed, SEED_BYTES, "the seed")
        order = Randomness(seed).permutation(len(mine))
        rounds.add(kind, mine.rows[order[evaluated_at]])
    return rounds.alignment()


async def sender(
    channel: Channel,
    ids: Mapping[str, Identifiers],
    *,
    kinds: tuple[str, ...],
    floor: int,
    max_rows: int,
    randomness: Randomness,
) -> Alignment:
    """Plays the media; see `receiver`."""
    rounds = _Rounds(ids, kinds, floor)
    for kind in kinds:
        mine = rounds.remaining(kind)
        theirs = _checked_size(await channel.recv(Size), max_rows)
        await channel.send(Size(len(mine)))
        if not rounds.enters(kind, len(mine), theirs):
            continue
        key, seed = Scalar.random(randomness), randomness.bytes(SEED_BYTES)
        evaluated = np.empty((theirs, ELEMENT_BYTES), np.uint8)
        for span in _spans(theirs):
            blinded = _exactly((await channel.recv(Blinded)).elements, evaluated[span].size, "blinded elements")
            evaluated[span] = _matrix(multiply(blinded, key), ELEMENT_BYTES)
        # Two blinded elements are equal if and only if the evaluated ones are.
        if len(equal_pairs(evaluated)[0]):
            raise PeerError("the receiver sent a blinded element twice")
        order = Randomness(seed).permutation(theirs)
        for span in _spans(theirs):
            await channel.send(Evaluated(evaluated[order[span]].tobytes()))
        del evaluated, order
        tokens = np.empty((len(mine), token_bytes(theirs, len(mine))), np.uint8)
        for span, block in zip(_spans(len(mine)), mine.blocks(BLOCK), strict=True):
            elements = hash_multiply(block.data, block.offsets, HASH_TO_GROUP, key)
            tokens[span] = _tokens(kind, elements, tokens.shape[1])
        shuffled = randomness.permutation(len(mine))
        for span in _spans(len(mine)):
            await channel.send(Tokens(tokens[shuffled[span]].tobytes()))
        del tokens
        size, most = (await channel.recv(Found)).rows, min(len(mine), theirs)
        if size == 0:
            continue
        if not floor <= size <= most:
            raise PeerError(f"the receiver found {size} rows, 0 or {floor} to {most} were possible")
        found = np.empty(len(mine), np.bool_)
        for span in _spans(len(mine), POSITIONS):
            bits = _exactly((await channel.recv(Positions)).bits, -(-len(found[span]) // 8), "positions")
            unpacked = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
            if np.any(unpacked[len(found[span]) :]):
                raise PeerError("the receiver marked a position after the last token")
            found[span] = unpacked[: len(found[span])]
        if np.count_nonzero(found) != size:
            raise PeerError(f"the receiver found {size} rows and marked {np.count_nonzero(found)}")
        await channel.send(Opened(seed))
        rounds.add(kind, mine.rows[shuffled[found]])
    return rounds.alignment()


def token_bytes(receiver_rows: int, sender_rows: int) -> int:
    """Bytes of a token so that a false match among all pairs has probability under 2^-40; at least 12."""
    pairs = max(receiver_rows, 1) * max(sender_rows, 1)
    return max(12, -(-(_FALSE_MATCH_BITS + 1 + pairs.bit_length()) // 8))


def equal_pairs(items: Bytes) -> tuple[IntArray, IntArray]:
    """Index pairs (i, j), i < j, of items that are equal bytes; of k equal ones the k - 1 neighbours.

    items (n, w) with w >= 8.
    """
    heads = np.ascontiguousarray(items[:, :8]).view("<u8").ravel()
    order = np.argsort(heads)
    heads = heads[order]
    near = np.zeros(len(items) + 1, np.bool_)
    near[1:-1] = heads[1:] == heads[:-1]
    # Only items that share their first 8 bytes with another are compared whole.
    suspects = np.sort(order[near[:-1] | near[1:]])
    del heads, order
    padded = np.zeros((len(suspects), -(-items.shape[1] // 8) * 8), np.uint8)
    padded[:, : items.shape[1]] = items[suspects]
    words = padded.view("<u8")
    order = np.lexsort(words.T)
    equal = np.all(words[order[1:]] == words[order[:-1]], axis=1)
    return suspects[order[:-1][equal]], suspects[order[1:][equal]]


def common(tokens: Bytes, own: int) -> tuple[IntArray, IntArray]:
    """Of tokens (n, w), the first `own` of which are ours and the others the peer's: places of equal ones.

    The places are counted from 0 on each side and come by rising place on the peer's. Raises PeerError when a token
    occurs twice on one side: the peer had its hand in both, and honest ones are all different.
    """
    first, second = equal_pairs(tokens)
    if np.any(first >= own) or np.any(second < own):
        raise PeerError("the sender sent an element or a token twice")
    by_token = np.argsort(second)
    return first[by_token], second[by_token] - own


class _Rounds:
    """What the rounds so far have matched: rows leave the next rounds, counts and rows make the result."""

    def __init__(self, ids: Mapping[str, Identifiers], kinds: tuple[str, ...], floor: int) -> None:
        self._ids, self._floor = ids, floor
        self._own: dict[str, int] = {}
        self._peer: dict[str, int] = {}
        self._matched: dict[str, int] = dict.fromkeys(kinds, 0)
        self._rows = np.empty(0, np.int64)

    def remaining(self, kind: str) -> Identifiers:
        """The identifiers of this kind whose rows no round has matched yet."""
        if kind not in self._ids:
            raise ConfigError(
                f"no identifiers of kind {kind!r} are at hand", "register the data set with a key of that kind"
            )
        ids = self._ids[kind]
        if repeats(ids).any():
            raise ConfigError(f"two rows have the same {kind}", "keep the first of each, or one row per person")
        return ids.take(~np.isin(ids.rows, self._rows)) if len(self._rows) else ids

    def enters(self, kind: str, own: int, peer: int) -> bool:
        """Notes the sizes of a round; false when they cannot reach the floor."""
        self._own[kind], self._peer[kind] = own, peer
        return min(own, peer) >= self._floor

    def add(self, kind: str, rows: IntArray) -> None:
        self._matched[kind] = len(rows)
        self._rows = np.concatenate([self._rows, rows])

    def alignment(self) -> Alignment:
        # The same text for every size under the floor, at both parties.
        if not len(self._rows):
            raise PolicyError(
                f"fewer than {self._floor} people matched, so nothing was opened",
                "check that both sides have the right keys and countries, or enter more people",
            )
        return Alignment(self._rows, self._own, self._peer, self._matched)


def _checked_size(size: Size, max_rows: int) -> int:
    if size.rows > max_rows:
        raise PeerError(f"the peer enters {size.rows} rows, its data set has {max_rows} by the contract")
    return size.rows


def _spans(n: int, size: int = BLOCK) -> Iterator[slice]:
    return (slice(begin, min(begin + size, n)) for begin in range(0, n, size))


def _exactly(data: bytes, n: int, what: str) -> bytes:
    if len(data) != n:
        raise PeerError(f"{what}: {n} bytes were expected, {len(data)} came")
    return data


def _matrix(data: bytes, width: int) -> Bytes:
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def _tokens(kind: str, elements: bytes, length: int) -> Bytes:
    return _matrix(digests(elements, _TOKEN_LABEL + kind.encode() + b"\0", length), length)
