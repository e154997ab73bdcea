"""The engine "oprf": equal identifiers by an oblivious pseudo-random function on ristretto255.   RFC 9497, mode OPRF

X are the receiver's identifiers, Y the sender's, H the hash to the group and T the hash to tokens:

    receiver (X)                                        sender (Y)
      blinding scalar b                                   key k, seed
      b H(x) for each x          -- Blinded -->           refuses bad and repeated elements
                                 <-- Evaluated --         k b H(x), in the order drawn from the seed
      T(b^-1 k b H(x))           <-- Tokens --            T(k H(y)), in the sender's order
      positions: of its tokens among the sender's
                                 <-- Opened --            the seed, if the round is opened
      places: undoes the order

Why. k, b and the seed are fresh in every round and known to one side each. Under the decisional Diffie-Hellman
assumption in ristretto255, with H and T as random oracles, the blinded elements are as random ones to the sender, and
to the receiver so are the evaluated ones and the tokens, but for the ones they have in common; in their secret order
the evaluated ones cannot be laid back to the rows. No element of one round meets another again, so runs cannot be
laid over each other.

Assumption: both follow the protocol. A sender that answers under several keys spoils the result; a receiver that
blinds under several scalars to find its rows again learns which rows match before they are opened. What can be checked
is: elements, repetitions, counts.

A token has 12 bytes or more, so many that a false match in a run stays under 2^-40.

Reference: [RFC9497] mode OPRF without the input in the final hash, since the receiver hashes before it knows which
input an element belongs to; [HFH99] Huberman, Franklin, Hogg, "Enhancing privacy and trust in electronic
communities", for the Diffie-Hellman intersection that the order makes a size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from ..channel import Channel, Message, PeerError
from ..primitives.group import ELEMENT_BYTES, Scalar, digests, hash_multiply, multiply
from ..primitives.randomness import Randomness
from .engine import Items, Places
from .join import KEY_BYTES, equal_places, has_repeats
from .oprf import HASH_TO_GROUP

Bytes = NDArray[np.uint8]

BLOCK = 2**14
TOKENS = 2**16
SEED_BYTES = 32
_TOKEN_LABEL = b"tidegate match token v1\0"
_FALSE_MATCH_BITS = 40


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
    """Up to TOKENS tokens of the sender."""

    tokens: bytes


@dataclass(frozen=True)
class Opened(Message):
    """The seed of the order in which the evaluated elements went."""

    seed: bytes


@dataclass(frozen=True)
class Compared:
    """The receiver's tokens among the sender's; `shown` are the places of the evaluated elements that gave them."""

    positions: Places
    shown: Places
    items: int

    async def opened(self, channel: Channel) -> Places:
        seed = _exactly((await channel.recv(Opened)).seed, SEED_BYTES, "the seed")
        return _order(seed, self.items)[self.shown]


@dataclass(frozen=True)
class Answered:
    """The order in which the sender has given the evaluated elements, as a seed that it can still open."""

    seed: bytes

    def __repr__(self) -> str:
        return "Answered(...)"

    async def open(self, channel: Channel) -> None:
        await channel.send(Opened(self.seed))


async def compare(channel: Channel, items: Items, *, kind: str, theirs: int, randomness: Randomness) -> Compared:
    """Plays the receiver; see `engine.Engine`."""
    blinding = Scalar.random(randomness)
    for block in items.blocks(BLOCK):
        await channel.send(Blinded(hash_multiply(block.data, block.offsets, HASH_TO_GROUP, blinding)))
    unblinding = blinding.inverse()
    width = token_bytes(len(items), theirs)
    own, peer = np.empty((len(items), width), np.uint8), np.empty((theirs, width), np.uint8)
    for span in _spans(len(own), BLOCK):
        evaluated = _exactly((await channel.recv(Evaluated)).elements, len(own[span]) * ELEMENT_BYTES, "evaluated")
        own[span] = _tokens(kind, multiply(evaluated, unblinding), width)
    for span in _spans(theirs, TOKENS):
        peer[span] = _matrix(_exactly((await channel.recv(Tokens)).tokens, peer[span].size, "tokens"), width)
    shown, positions = equal_places(own, peer, randomness.bytes(KEY_BYTES))
    return Compared(positions, shown, len(items))


async def answer(
    channel: Channel, items: Items, *, kind: str, theirs: int, order: Places, randomness: Randomness
) -> Answered:
    """Plays the sender; see `engine.Engine`."""
    key, seed = Scalar.random(randomness), randomness.bytes(SEED_BYTES)
    shown = _order(seed, theirs)
    evaluated = np.empty((theirs, ELEMENT_BYTES), np.uint8)
    for span in _spans(theirs, BLOCK):
        blinded = _exactly((await channel.recv(Blinded)).elements, evaluated[span].size, "blinded elements")
        evaluated[span] = _matrix(multiply(blinded, key), ELEMENT_BYTES)
    # Two blinded elements are equal if and only if the evaluated ones are.
    if has_repeats(evaluated, randomness.bytes(KEY_BYTES)):
        raise PeerError("the receiver sent a blinded element twice")
    tokens = np.empty((len(items), token_bytes(theirs, len(items))), np.uint8)
    own = zip(_spans(len(items), BLOCK), items.blocks(BLOCK), strict=True)
    # One block out, one of our own: we compute while the receiver does.
    for theirs_span, ours in zip_longest(_spans(theirs, BLOCK), own):
        if theirs_span is not None:
            await channel.send(Evaluated(np.take(evaluated, shown[theirs_span], axis=0).tobytes()))
        if ours is not None:
            span, block = ours
            elements = hash_multiply(block.data, block.offsets, HASH_TO_GROUP, key)
            tokens[span] = _tokens(kind, elements, tokens.shape[1])
    del evaluated, shown
    for span in _spans(len(items), TOKENS):
        await channel.send(Tokens(np.take(tokens, order[span], axis=0).tobytes()))
    return Answered(seed)


def token_bytes(receiver_rows: int, sender_rows: int) -> int:
    """Bytes of a token so that a false match among all pairs has probability under 2^-40; at least 12."""
    pairs = max(receiver_rows, 1) * max(sender_rows, 1)
    return max(12, -(-(_FALSE_MATCH_BITS + 1 + pairs.bit_length()) // 8))


def _order(seed: bytes, n: int) -> Places:
    return Randomness(seed).permutation(n).astype(np.uint32)


def _spans(n: int, size: int) -> Iterator[slice]:
    return (slice(begin, min(begin + size, n)) for begin in range(0, n, size))


def _exactly(data: bytes, n: int, what: str) -> bytes:
    if len(data) != n:
        raise PeerError(f"{what}: {n} bytes were expected, {len(data)} came")
    return data


def _matrix(data: bytes, width: int) -> Bytes:
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def _tokens(kind: str, elements: bytes, width: int) -> Bytes:
    return _matrix(digests(elements, _TOKEN_LABEL + kind.encode() + b"\0", width), width)
