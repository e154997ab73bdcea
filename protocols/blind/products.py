"""The two blind products: a matrix of the media times a secret vector of the brand.

    rows      X w    brand -> Enc(w_j), a constant for each column
                     media -> Enc(sum_j w_j X_j + added), one for each block of 8192 rows
    columns   X' v   brand -> Enc(v), one for each block
                     media -> a sum that opens to X'v + added and to nothing else, one for each column

Both work modulo T on integers, so masks are exact; |result| must stay below T/2, which is the caller's business.
In `rows` every row's value is the brand's to learn, so what it must not learn exactly (or at all) is in `added`: blur
noise, or a uniform mask.

Work that falls apart into items is spread over threads. What is drawn at random for an item comes from a stream of its
own, whose seed is drawn in order, so that neither results nor bytes depend on the number of threads.

Learns: brand the n values of X w + added, or the d values of X'v + added; media nothing but the sizes.
Assumes: semi-honest; RLWE at 128 bits; the brand's key well made. The media cannot see what it multiplies with: a
brand that sends Enc(e_i) for v reads row i. Sizes are checked, contents cannot be (docs/protocols/blind.md).
"""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..channel import MIB, Channel, Message, PeerError
from ..primitives.bfv import (
    PUBLIC_KEY_BYTES,
    RESULT_BYTES,
    SUM_BYTES,
    UPLOAD_BYTES,
    BrandKey,
    Ciphertext,
    Plaintext,
    PublicKey,
    engine,
)
from ..primitives.fixed_point import IntArray, T, UInt64Array, centred, modulo
from ..primitives.packing import SLOTS, block_count, blocks, slots
from ..primitives.randomness import Randomness

Item = TypeVar("Item")
Found = TypeVar("Found")

_BATCH = 4
_AT_ONCE = 8
_MOST_THREADS = 8
_POOL_NAME = "spread"
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


@dataclass(frozen=True)
class Sums(Message):
    """Some of the sums that open to one number each, in order."""

    MAX_BYTES = _BATCH * (SUM_BYTES + 8) + 64
    parts: tuple[bytes, ...]


class Rows(Protocol):
    """An integer matrix that need not lie in memory as a whole: a column of some rows is made when it is asked for."""

    @property
    def shape(self) -> tuple[int, int]: ...
    def __getitem__(self, where: tuple[slice, int], /) -> NDArray[Any]: ...


def spread(function: Callable[[Item], Found], items: Iterable[Item], threads: int | None = None) -> Iterator[Found]:
    """function(item) for each item, in order, computed by threads a few items ahead of the caller.

    Without a number of threads: one for each core where the engine computes outside the interpreter's lock, else the
    calling one. Items are taken by the caller's thread alone.
    """
    workers = _threads() if threads is None else threads
    if workers < 2 or threading.current_thread().name.startswith(_POOL_NAME):
        yield from map(function, items)
        return
    pool = _pool(workers)
    waiting: deque[Future[Found]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for each in waiting:
            each.cancel()


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """One for the process. A pool for each call would have to be ended where a generator is left unfinished, and the
    interpreter may clear that away in any thread, also in one that another pool waits for as it starts it."""
    return ThreadPoolExecutor(workers, thread_name_prefix=_POOL_NAME)


def _threads() -> int:
    return min(_MOST_THREADS, os.cpu_count() or 1) if engine() == "native" else 1


def streams(randomness: Randomness) -> Iterator[Randomness]:
    """A stream for each item of some work, without end. One draw from `randomness`, however many are taken."""
    seeds = Randomness(randomness.bytes(32))
    while True:
        yield Randomness(seeds.bytes(32))


async def open_brand(channel: Channel, randomness: Randomness) -> BrandKey:
    """A fresh key, its public half sent to the media. One per run."""
    key = BrandKey(randomness)
    await channel.send(Key(key.public_bytes()))
    return key


async def open_media(channel: Channel) -> PublicKey:
    """The brand's public key. Raises PeerError for what is none."""
    return PublicKey((await channel.recv(Key)).data)


class Columns:
    """The media's integer matrix (n, d) as BFV factors, one per block and column, kept if they fit into 1 GiB.

    100,000 rows of 330 columns fit, and 1,000,000 of 40; what does not is encoded again each time it is used.
    """

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

    def integers(self, block: int) -> NDArray[Any]:
        """The rows of one block."""
        rows: NDArray[Any] = self._x[block * SLOTS : (block + 1) * SLOTS]
        return rows

    def row_sums(self, block: int, weights: list[Ciphertext]) -> Ciphertext | None:
        """Enc(sum_j w_j X_j) for the rows of one block."""
        return self._public.combine(weights, [self.factor(block, column) for column in range(self.columns)])

    def add_column_sums(self, sums: list[Ciphertext | None], block: int, vectors: Sequence[Ciphertext]) -> None:
        """sums[j] += Enc(v X_j, slot by slot) for v of one block and those after it."""
        near = range(block, block + len(vectors))

        def added(column: int) -> Ciphertext | None:
            return self._public.combine(vectors, [self.factor(number, column) for number in near], sums[column])

        sums[:] = spread(added, range(self.columns))


def dots(x: NDArray[Any], residues: UInt64Array) -> list[int]:
    """X'v modulo T for a block of rows, exactly: x (n, d) with |x| < 2^16, n <= 8192, residues (n,) modulo T.

    In floating point, which is exact here: residues are split into 23 low and 22 high bits, so that no sum reaches
    2^16 * 2^23 * 2^13 = 2^52.
    """
    halves = np.stack([residues & np.uint64(2**23 - 1), residues >> np.uint64(23)], axis=1).astype(np.float64)
    return [(int(low) + (int(high) << 23)) % T for low, high in x.astype(np.float64).T @ halves]


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


async def send_sums(channel: Channel, sums: Iterable[bytes]) -> None:
    await _send(channel, Sums, sums)


async def receive_sums(channel: Channel, key: BrandKey, count: int) -> AsyncIterator[int]:
    """What exactly `count` sums open to, modulo T. Raises PeerError where the messages hold another number."""
    async for part in _receive(channel, Sums, count):
        yield key.decrypt_sum(part)


async def load_uploads(channel: Channel, public: PublicKey, count: int) -> AsyncIterator[Ciphertext]:
    """`receive_uploads`, loaded. Raises PeerError for what is no upload too."""
    missing = count
    while missing:
        parts = (await channel.recv(Uploads)).parts
        missing -= _expected(parts, missing)
        for loaded in spread(public.load, parts):
            yield loaded


async def _send(channel: Channel, kind: Callable[[tuple[bytes, ...]], Message], parts: Iterable[bytes]) -> None:
    waiting: list[bytes] = []
    for part in parts:
        waiting.append(part)
        if len(waiting) == _BATCH:
            await channel.send(kind(tuple(waiting)))
            waiting = []
    if waiting:
        await channel.send(kind(tuple(waiting)))


async def _receive(channel: Channel, kind: type[Uploads | Results | Sums], count: int) -> AsyncIterator[bytes]:
    missing = count
    while missing:
        parts = (await channel.recv(kind)).parts
        missing -= _expected(parts, missing)
        for part in parts:
            yield part


def _expected(parts: tuple[bytes, ...], missing: int) -> int:
    if len(parts) != min(missing, _BATCH):
        raise PeerError(f"{len(parts)} ciphertexts came in one message, {min(missing, _BATCH)} were expected")
    return len(parts)


async def rows_brand(channel: Channel, key: BrandKey, w: IntArray, n: int) -> IntArray:
    """X w + added, centred, (n,). w is (d,)."""
    if len(w) == 0 or n == 0:
        raise ValueError("the rows product needs at least one row and one column")
    await send_uploads(channel, key.encrypt_constants(modulo(w), spread))
    opened = [key.decrypt(result) async for result in receive_results(channel, block_count(n))]
    return centred(np.concatenate(opened)[:n])


async def rows_media(
    channel: Channel, public: PublicKey, x: NDArray[Any], *, randomness: Randomness, added: NDArray[Any] | None = None
) -> None:
    """Answers one `rows_brand`. x is (n, d) of small integers; `added` (n,) goes onto every row's value, modulo T."""
    if x.ndim != 2 or 0 in x.shape or x.dtype.kind not in "iu":
        raise ValueError("a matrix of integers with at least one row and one column is needed")
    n, d = x.shape
    weights = [weight async for weight in load_uploads(channel, public, d)]
    extra = np.zeros(n, np.uint64) if added is None else modulo(added)
    if len(extra) != n:
        raise ValueError(f"{len(extra)} values to add came for {n} rows")

    def result(item: tuple[slice, Randomness]) -> bytes:
        rows, stream = item
        factors = [public.encode(slots(column)) for column in x[rows].T]
        # Slots behind the last row are the brand's weights on zeros, so 0: nothing to hide in them.
        return public.sanitise(public.combine(weights, factors), slots(extra[rows]), stream)

    await send_results(channel, spread(result, zip(blocks(n), streams(randomness), strict=False)))


async def columns_brand(channel: Channel, key: BrandKey, v: IntArray, d: int) -> IntArray:
    """X'v + added, centred, of the shape of v with d in the place of its rows. v is (n,), or (n, k) for k vectors."""
    if len(v) == 0 or d == 0:
        raise ValueError("the columns product needs at least one row and one column")
    residues = modulo(v).reshape(len(v), -1)
    await send_uploads(
        channel, key.encrypt((slots(each) for rows in blocks(len(v)) for each in residues[rows].T), spread)
    )
    sums = [opened async for opened in receive_sums(channel, key, d * residues.shape[1])]
    return centred(np.array(sums, np.uint64)).reshape(d, *v.shape[1:])


async def columns_media(
    channel: Channel,
    public: PublicKey,
    x: NDArray[Any] | Rows,
    *,
    randomness: Randomness,
    added: NDArray[Any] | None = None,
    vectors: int = 1,
) -> None:
    """Answers one `columns_brand` of so many vectors. x is (n, d) of small integers.

    `added` (d,) or (d, vectors) goes onto the sums, modulo T. What is held in memory does not grow with n: a sum of
    400 kB for each column and vector, and 8 blocks of uploads.
    """
    n, d = x.shape
    if 0 in (n, d, vectors) or (isinstance(x, np.ndarray) and x.dtype.kind not in "iu"):
        raise ValueError("a matrix of integers with at least one row and one column is needed, and a vector")
    extra = np.zeros(d * vectors, np.uint64) if added is None else modulo(added).reshape(-1)
    if len(extra) != d * vectors:
        raise ValueError(f"{len(extra)} values to add came for {d} columns and {vectors} vectors")
    sums: list[list[Ciphertext | None]] = [[None] * vectors for _ in range(d)]
    parts = list(blocks(n))
    uploads = load_uploads(channel, public, vectors * len(parts))
    for at in range(0, len(parts), _AT_ONCE):
        near = parts[at : at + _AT_ONCE]
        held = [[await anext(uploads) for _ in range(vectors)] for _ in near]

        def with_more(column: int, near: list[slice] = near, held: list[list[Ciphertext]] = held) -> list[Any]:
            factors = [public.encode(slots(x[rows, column])) for rows in near]
            return [
                public.combine(list(vector), factors, sum_)
                for vector, sum_ in zip(zip(*held, strict=True), sums[column], strict=True)
            ]

        sums[:] = spread(with_more, range(d))
    flat = (sum_ for of_column in sums for sum_ in of_column)
    await send_sums(channel, sanitised_sums(public, flat, (int(value) for value in extra), randomness))


def sanitised_sums(
    public: PublicKey, sums: Iterable[Ciphertext | None], added: Iterable[int], randomness: Randomness
) -> Iterator[bytes]:
    """What opens to the total of each sum's slots plus what is added, modulo T, and to nothing else."""

    def sanitised(item: tuple[Ciphertext | None, int, Randomness]) -> bytes:
        sum_, value, stream = item
        return public.sanitise_sum(sum_, value % T, stream)

    return spread(sanitised, zip(sums, added, streams(randomness), strict=False))
