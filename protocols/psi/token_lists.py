"""Sorted lists of tokens: bytes (n, w) of which no two are equal, by rising value.

The first 8 bytes decide nearly every comparison, so they are compared as numbers and only ties are looked at whole.
Lists may be maps of files: what is walked over, is walked over in pieces.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..primitives import group
from ..primitives.group import Offsets

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
UInt64Array = NDArray[np.uint64]

DIGEST_BYTES = 32
PIECE = 2**18
_FALSE_MATCH_BITS = 40
_LABEL = b"tidegate epoch tokens v1\0"


def token_bytes(receiver_rows: int, sender_rows: int) -> int:
    """Bytes of a token so that a false match among all pairs has probability under 2^-40; at least 12."""
    pairs = max(receiver_rows, 1) * max(sender_rows, 1)
    return max(12, -(-(_FALSE_MATCH_BITS + 1 + pairs.bit_length()) // 8))


def no_tokens(width: int) -> Bytes:
    return np.empty((0, width), np.uint8)


def heads(items: Bytes) -> UInt64Array:
    """The first 8 bytes of each item (n, w >= 8), as numbers (n,) that sort as the bytes do."""
    return np.ascontiguousarray(items[:, :8]).view(">u8").ravel().astype(np.uint64)


def rising_order(items: Bytes) -> IntArray:
    """The places of the items by rising value; of equal ones the earlier place comes first."""
    numbers = heads(items)
    order = np.argsort(numbers)
    numbers = numbers[order]
    tied = np.zeros(len(items) + 1, np.bool_)
    tied[1:-1] = numbers[1:] == numbers[:-1]
    begins, ends = np.flatnonzero(tied[1:] & ~tied[:-1]), np.flatnonzero(tied[:-1] & ~tied[1:]) + 1
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        run = order[begin:end].tolist()
        order[begin:end] = sorted(run, key=lambda i: (items[i].tobytes(), i))
    return order


def is_rising(tokens: Bytes) -> bool:
    """Whether each token is greater than the one before it."""
    numbers = heads(tokens)
    if np.any(numbers[1:] < numbers[:-1]):
        return False
    ties = np.flatnonzero(numbers[1:] == numbers[:-1]).tolist()
    return all(tokens[i].tobytes() < tokens[i + 1].tobytes() for i in ties)


def places(wanted: Bytes, tokens: Bytes) -> IntArray:
    """Where each of some items (m, w) stands in a list (n, w), -1 if it does not; both are sorted."""
    found = np.full(len(wanted), -1, np.int64)
    numbers = heads(wanted)
    for i, piece in enumerate(pieces(tokens)):
        piece_heads = heads(piece)
        first = int(np.searchsorted(numbers, piece_heads[0], "left"))
        last = int(np.searchsorted(numbers, piece_heads[-1], "right"))
        at = search(wanted[first:last], numbers[first:last], piece, piece_heads)
        # Of two pieces that share a head only one has the item.
        found[first:last] = np.where(at >= 0, i * PIECE + at, found[first:last])
    return found


def search(wanted: Bytes, wanted_heads: UInt64Array, items: Bytes, item_heads: UInt64Array) -> IntArray:
    """Where each wanted item (m, w) is in items (n, w) with rising heads (n,), -1 if it is not there."""
    found = np.full(len(wanted), -1, np.int64)
    left, at = np.arange(len(wanted)), np.searchsorted(item_heads, wanted_heads)
    while len(left):
        # A place past the end, or one with another head, ends the search for an item; ties go on to the next place.
        left, at = left[at < len(items)], at[at < len(items)]
        near = item_heads[at] == wanted_heads[left]
        left, at = left[near], at[near]
        equal = np.all(items[at] == wanted[left], axis=1)
        found[left[equal]] = at[equal]
        left, at = left[~equal], at[~equal] + 1
    return found


def count_up_to(tokens: Bytes, token: Bytes) -> int:
    """How many of a sorted list are the token (w,) or less."""
    value = token.tobytes()
    return bisect.bisect_right(range(len(tokens)), value, key=lambda i: tokens[i].tobytes())


def prefixes(tokens: Bytes, bits: int) -> IntArray:
    """The first `bits` (0 to 32) bits of each token, as a number (n,)."""
    if bits == 0:
        return np.zeros(len(tokens), np.int64)
    return (heads(tokens) >> np.uint64(64 - bits)).astype(np.int64)


def digest(tokens: Bytes) -> bytes:
    """The name of a list: equal lists have equal ones and no others are known to."""
    hashed = Digest()
    for piece in pieces(tokens):
        hashed.update(piece)
    return hashed.value()


def pieces(tokens: Bytes) -> Iterator[Bytes]:
    return (np.asarray(tokens[begin : begin + PIECE]) for begin in range(0, len(tokens), PIECE))


class Digest:
    """`digest` of a list that comes piece by piece."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(_LABEL)

    def update(self, tokens: Bytes) -> None:
        self._hash.update(np.ascontiguousarray(tokens).data)

    def value(self) -> bytes:
        return self._hash.digest()


def pseudonyms(data: bytes, offsets: Offsets, secret: bytes) -> Bytes:
    """16 bytes (n, 16) for each input of `hash_multiply`: nobody without the secret can lay them to each other."""
    # 64 bytes for a secret of 32, one block of SHA-256, which is hashed once for all.
    prefix = b"tidegate local pseudonym v1".ljust(32, b"\0") + secret
    if group._native is None:
        start, bounds = hashlib.sha256(prefix), offsets.tolist()
        names = []
        for begin, end in pairwise(bounds):
            state = start.copy()
            state.update(data[begin:end])
            names.append(state.digest()[:16])
        joined = b"".join(names)
    else:
        rising = np.ascontiguousarray(offsets, "<i8").tobytes()
        joined = group._native.prefixed_digests(data, rising, prefix, 16)
    return np.frombuffer(joined, np.uint8).reshape(-1, 16)
