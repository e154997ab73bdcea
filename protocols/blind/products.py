"""The two blind products: a matrix of the media times a secret vector of the brand.

    rows      X w    brand -> Enc(w_j), a constant for each column
                     media -> Enc(sum_j w_j X_j + added), one for each block of 8192 rows
    columns   X' v   brand -> Enc(v), one for each block
                     media -> Enc(slots that add up to X'v + added), one for each column

Both work modulo T on integers, so masks are exact; |result| must stay below T/2, which is the caller's business.
In `columns` the slots of a sum are masked with residues that are uniform but for their total: the brand adds the
slots up and learns nothing else. In `rows` every row's value is the brand's to learn, so what it must not learn exactly
(or at all) is in `added`: blur noise, or a uniform mask.

Learns: brand the n values of X w + added, or the d values of X'v + added; media nothing but the sizes.
Assumes: semi-honest; RLWE at 128 bits; the brand's key well made. The media cannot see what it multiplies with: a
brand that sends Enc(e_i) for v reads row i. Sizes are checked, contents cannot be (docs/protocols/blind.md).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..channel import MIB, Channel, Message, PeerError
from ..primitives.bfv import PUBLIC_KEY_BYTES, RESULT_BYTES, UPLOAD_BYTES, BrandKey, Ciphertext, Plaintext, PublicKey
from ..primitives.fixed_point import IntArray, T, UInt64Array, centred, modulo, total
from ..primitives.packing import SLOTS, block_count, blocks, slots
from ..primitives.randomness import Randomness

_BATCH = 4
_CACHED_BYTES = 1024 * MIB
_ENCODED_BYTES = 3 * 8 * SLOTS


@dataclass(frozen=True)
class Key(Message):
    """The brand's public key for this run."""

    MAX_BYTES = PUBLIC_KEY_BYTES + 64
    data: bytes


@dataclass(frozen=True)
class Uploads(Message):
    """Some of the ciphertexts the brand sends, in order."""

    MAX_BYTES = _BATCH * (UPLOAD_BYTES + 8) + 64
    parts: tuple[bytes, ...]


@dataclass(frozen=True)
class Results(Message):
    """Some of the sanitised ciphertexts the media sends back, in order."""

    MAX_BYTES = _BATCH * (RESULT_BYTES + 8) + 64
    parts: tuple[bytes, ...]


async def open_brand(channel: Channel, randomness: Randomness) -> BrandKey:
    """A fresh key, its public half sent to the media. One per run."""
    key = BrandKey(randomness)
    await channel.send(Key(key.public_bytes()))
    return key


async def open_media(channel: Channel) -> PublicKey:
    """The brand's public key. Raises PeerError for what is none."""
    return PublicKey((await channel.recv(Key)).data)


class Columns:
    """The media's integer matrix (n, d) as BFV factors, one per block and column, kept if they fit into 1 GiB."""

    def __init__(self, public: PublicKey, x: NDArray[Any]) -> None:
        if x.ndim != 2 or 0 in x.shape or x.dtype.kind not in "iu":
            raise ValueError("a matrix of integers with at least one row and one column is needed")
        self._public, self._x = public, x
        self.rows, self.columns = x.shape
        self._keep = block_count(self.rows) * self.columns * _ENCODED_BYTES <= _CACHED_BYTES
        self._kept: dict[tuple[int, int], Plaintext | None] = {}

    def factor(self, block: int, column: int) -> Plaintext | None:
        if (block, column) in self._kept:
            return self._kept[block, column]
        encoded = self._public.encode(slots(self._x[block * SLOTS : (block + 1) * SLOTS, column]))
        if self._keep:
            self._kept[block, column] = encoded
        return encoded

    def integers(self) -> Iterator[IntArray]:
        """The columns themselves."""
        for column in range(self.columns):
            yield self._x[:, column].astype(np.int64)

    def row_sums(self, block: int, weights: list[Ciphertext]) -> Ciphertext | None:
        """Enc(sum_j w_j X_j) for the rows of one block."""
        sum_: Ciphertext | None = None
        for column, weight in enumerate(weights):
            sum_ = self._public.add_product(sum_, weight, self.factor(block, column))
        return sum_

    def add_column_sums(self, sums: list[Ciphertext | None], block: int, vector: Ciphertext) -> None:
        """sums[j] += Enc(v X_j, slot by slot) for one block."""
        for column in range(self.columns):
            sums[column] = self._public.add_product(sums[column], vector, self.factor(block, column))


async def send_uploads(channel: Channel, uploads: Iterable[bytes]) -> None:
    await _send(channel, Uploads, uploads)


async def receive_uploads(channel: Channel, count: int) -> AsyncIterator[bytes]:
    """Exactly `count` ciphertexts. Raises PeerError where the messages hold another number."""
    async for part in _receive(channel, Uploads, count):
        yield part


async def send_results(channel: Channel, results: Iterable[bytes]) -> None:
    await _send(channel, Results, results)


async def receive_results(channel: Channel, count: int) -> AsyncIterator[bytes]:
    """Exactly `count` results. Raises PeerError where the messages hold another number."""
    async for part in _receive(channel, Results, count):
        yield part


async def _send(channel: Channel, kind: Callable[[tuple[bytes, ...]], Message], parts: Iterable[bytes]) -> None:
    waiting: list[bytes] = []
    for part in parts:
        waiting.append(part)
        if len(waiting) == _BATCH:
            await channel.send(kind(tuple(waiting)))
            waiting = []
    if waiting:
        await channel.send(kind(tuple(waiting)))


async def _receive(channel: Channel, kind: type[Uploads] | type[Results], count: int) -> AsyncIterator[bytes]:
    missing = count
    while missing:
        parts = (await channel.recv(kind)).parts
        if len(parts) != min(missing, _BATCH):
            raise PeerError(f"{len(parts)} ciphertexts came in one message, {min(missing, _BATCH)} were expected")
        missing -= len(parts)
        for part in parts:
            yield part


def masked_total(value: int, randomness: Randomness) -> UInt64Array:
    """8192 residues, uniform among those that add up to `value` modulo T."""
    mask = randomness.integers(T, SLOTS)
    mask[0] = (value - total(mask[1:])) % T
    return mask


async def rows_brand(channel: Channel, key: BrandKey, w: IntArray, n: int) -> IntArray:
    """X w + added, centred, (n,). w is (d,)."""
    if len(w) == 0 or n == 0:
        raise ValueError("the rows product needs at least one row and one column")
    await send_uploads(channel, key.encrypt_constants(modulo(w)))
    opened = [key.decrypt(result) async for result in receive_results(channel, block_count(n))]
    return centred(np.concatenate(opened)[:n])


async def rows_media(
    channel: Channel, public: PublicKey, x: NDArray[Any], *, randomness: Randomness, added: NDArray[Any] | None = None
) -> None:
    """Answers one `rows_brand`. x is (n, d) of small integers; `added` (n,) goes onto every row's value, modulo T."""
    columns = Columns(public, x)
    weights = [public.load(upload) async for upload in receive_uploads(channel, columns.columns)]
    extra = np.zeros(columns.rows, np.uint64) if added is None else modulo(added)
    if len(extra) != columns.rows:
        raise ValueError(f"{len(extra)} values to add came for {columns.rows} rows")

    def results() -> Iterable[bytes]:
        for number, rows in enumerate(blocks(columns.rows)):
            # Slots behind the last row are the brand's weights on zeros, so 0: nothing to hide in them.
            yield public.sanitise(columns.row_sums(number, weights), slots(extra[rows]), randomness)

    await send_results(channel, results())


async def columns_brand(channel: Channel, key: BrandKey, v: IntArray, d: int) -> IntArray:
    """X'v + added, centred, (d,). v is (n,)."""
    if len(v) == 0 or d == 0:
        raise ValueError("the columns product needs at least one row and one column")
    residues = modulo(v)
    await send_uploads(channel, key.encrypt(slots(residues[rows]) for rows in blocks(len(v))))
    sums = [total(key.decrypt(result)) async for result in receive_results(channel, d)]
    return centred(np.array(sums, np.uint64))


async def columns_media(
    channel: Channel, public: PublicKey, x: NDArray[Any], *, randomness: Randomness, added: NDArray[Any] | None = None
) -> None:
    """Answers one `columns_brand`. x is (n, d) of small integers; `added` (d,) goes onto the sums, modulo T."""
    columns = Columns(public, x)
    extra = np.zeros(columns.columns, np.uint64) if added is None else modulo(added)
    if len(extra) != columns.columns:
        raise ValueError(f"{len(extra)} values to add came for {columns.columns} columns")
    sums: list[Ciphertext | None] = [None] * columns.columns
    number = 0
    async for upload in receive_uploads(channel, block_count(columns.rows)):
        columns.add_column_sums(sums, number, public.load(upload))
        number += 1
    await send_results(
        channel,
        (
            public.sanitise(sum_, masked_total(int(value), randomness), randomness)
            for sum_, value in zip(sums, extra, strict=True)
        ),
    )
