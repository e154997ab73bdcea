"""K-means over the columns of several parties: each row's group, and nobody learns another's columns.   [Lloyd82]

Parties P hold X_P (n, d_P), the same rows in the same order, and their own columns of the k centroids, C_P. One of
them leads (L); C is the comparator of comparator.py, who belongs to none of them.

    P -> L   Ready(rows, k, iterations, reach)     no squared distance in P's declared box is more than 2^reach
    L -> P   Terms(rows, k, iterations, f), the two keys of comparator.py
    each iteration
       P     a_c = round(2^f (|c|^2 - 2 <x, c>)), x and c taken from the middle of P's box
       P,C   y = the least of the sums of a_c over all parties, by the blind comparator
       P     the same labels twice: done.   c = the mean of its columns over the rows with label c
             a cluster without rows: c = a corner of P's box, half as large each time
    P,C      the inertia, by one hidden sum of everybody's part in units of 2^-f
    P -> L   Labels: a digest                      L -> P   its own: C has answered all alike

    assign   the same with centroids that stay, and one iteration

f is the largest, at most 24, for which k times 2^f times the sum of all 2^reach, with room for each party's rounding,
is at most 2^29. Labels are those of Lloyd's algorithm over pooled columns, except where the two least squared
distances are within 2^-f times the number of parties.

Learns. Each party: n, k, every row's label in every iteration, unnamed, hence sizes and the number of iterations;
the inertia, from which two parties have each other's part. L also each 2^reach, of declared ranges alone. C: in
comparator.py.
Assumes: semi-honest parties; C does not collude with any.

[Lloyd82] S. P. Lloyd, Least squares quantization in PCM, IEEE Trans. Inf. Theory 28 (1982).
[HA85] L. Hubert, P. Arabie, Comparing partitions, J. Classification 2 (1985).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..channel import Channel, ConfigError, DisagreementError, Message, PeerError
from ..primitives.fixed_point import FloatArray, IntArray
from ..primitives.randomness import Randomness
from .box import MOST_REACH_BITS, Box, Columns
from .comparator import (
    KEY_BYTES,
    LARGEST,
    LEAST_K,
    MAX_ROWS,
    MOST_K,
    MOST_PARTIES,
    Bytes,
    Veil,
    added,
    least,
)

MOST_ITERATIONS = 300
MOST_FRACTION_BITS = 24
# After so many halvings a box is a point; who has no rows then is left without.
_MOST_CORNERS = 6
_ROWS_AT_ONCE = 2**14


@dataclass(frozen=True)
class Settings:
    """What all parties have in common. k: 2..10 clusters; at most 1..300 iterations. Raises ConfigError."""

    k: int
    iterations: int

    def __post_init__(self) -> None:
        if not LEAST_K <= self.k <= MOST_K:
            raise ConfigError(f"there are {LEAST_K} to {MOST_K} clusters, not {self.k}")
        if not 1 <= self.iterations <= MOST_ITERATIONS:
            raise ConfigError(f"there are 1 to {MOST_ITERATIONS} iterations, not {self.iterations}")


@dataclass(frozen=True)
class Ready(Message):
    """What a party is about to do, and how far apart two points of its declared box can be."""

    MAX_BYTES: ClassVar[int] = 64
    rows: int
    k: int
    iterations: int
    reach_bits: int


@dataclass(frozen=True, repr=False)
class Terms(Message):
    """What the lead is about to do, and what it has drawn for the receiver."""

    MAX_BYTES: ClassVar[int] = 256
    rows: int
    k: int
    iterations: int
    fraction_bits: int
    shared: bytes
    masks: bytes


@dataclass(frozen=True)
class Labels(Message):
    """SHA-256 of all labels, one byte each."""

    MAX_BYTES: ClassVar[int] = 64
    digest: bytes


@dataclass(frozen=True)
class Clustered:
    """What a party holds after one start.

    labels (n,) 0..k-1; centroids (k, d), its own columns, each the mean over the cluster's rows; sizes (k,), which may
    be 0; iterations run; inertia: the sum over all parties of squared distances to the centroids; converged: the last
    two iterations gave the same labels; step: two distances nearer than this times the parties count as equal.
    """

    labels: IntArray
    centroids: FloatArray
    sizes: IntArray
    iterations: int
    inertia: float
    converged: bool
    step: float


# Pure steps.


def fraction_bits(k: int, reach_bits: list[int]) -> int:
    """f for parties whose boxes have these reaches. Raises ConfigError where no f >= 0 fits."""
    # A party's two a_c are each rounded by a half, and computed in floating point within far less than a half.
    slack = 2 * len(reach_bits) + 1
    for f in range(MOST_FRACTION_BITS, -1, -1):
        if k * (sum(2 ** (f + bits) for bits in reach_bits) + slack) <= LARGEST:
            return f
    text = "the declared ranges of all parties together are too wide for distances to fit"
    raise ConfigError(text, "scale the columns, or give groups of many columns less weight")


def partial_distances(x: Columns, centroids: FloatArray, middle: FloatArray, f: int) -> NDArray[np.int32]:
    """a_c for each row: x (n, d), centroids (k, d) -> (n, k). Squared distances less the row's own |x|^2."""
    centred = centroids - middle
    scaled, constants = -(2.0 ** (f + 1)) * centred.T, 2.0**f * (centred**2).sum(axis=1)
    distances = np.empty((len(x), len(centroids)), np.int32)
    for at in range(0, len(x), _ROWS_AT_ONCE):
        part = slice(at, at + _ROWS_AT_ONCE)
        # Taken from the middle, no product is larger than what the box can hold, wherever the box lies.
        distances[part] = np.rint((x[part] - middle) @ scaled + constants)
    return distances


def cluster_sums(x: Columns, labels: Bytes, k: int) -> FloatArray:
    """The sum of each cluster's rows: (k, d)."""
    sums = np.zeros((k, x.shape[1]))
    indices = np.arange(k, dtype=np.uint8)[:, None]
    for at in range(0, len(x), _ROWS_AT_ONCE):
        part = slice(at, at + _ROWS_AT_ONCE)
        sums += (labels[part] == indices).astype(np.float64) @ x[part]
    return sums


def means(sums: FloatArray, sizes: IntArray, otherwise: FloatArray) -> FloatArray:
    """The centroids behind sums and sizes; where a size is 0, what stands in `otherwise`."""
    return np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], otherwise)


def partial_inertia(x: Columns, labels: Bytes, centroids: FloatArray) -> float:
    """The sum of squared distances of rows (n, d) to their centroids (k, d), in these columns."""
    return sum(
        float(((x[at : at + _ROWS_AT_ONCE] - centroids[labels[at : at + _ROWS_AT_ONCE]]) ** 2).sum())
        for at in range(0, len(x), _ROWS_AT_ONCE)
    )


def adjusted_rand(a: NDArray[np.integer], b: NDArray[np.integer]) -> float:
    """How much two groupings (n,) of the same rows agree: 1 for the same groups, about 0 by chance.   [HA85]"""
    first, second = np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]
    table = np.bincount(first * (int(second.max()) + 1) + second)
    together, in_first, in_second, all_pairs = (
        float((counts * (counts - 1) // 2).sum())
        for counts in (table, np.bincount(first), np.bincount(second), np.array([len(first)]))
    )
    by_chance = in_first * in_second / all_pairs if all_pairs else 0.0
    most = (in_first + in_second) / 2
    return 1.0 if most == by_chance else (together - by_chance) / (most - by_chance)


# Roles.


@dataclass(frozen=True, repr=False)
class _Run:
    """What the parties agreed on, and the lines it was agreed over."""

    helper: Channel
    peers: Mapping[str, Channel]
    veil: Veil
    fraction_bits: int

    async def nearest(self, turn: int, x: Columns, centroids: FloatArray, box: Box, noise: Randomness) -> Bytes:
        parts = partial_distances(x, centroids, box.middle, self.fraction_bits)
        return await least(self.helper, self.veil, struct.pack("<Q", turn), parts, noise)

    async def total(self, part: float) -> float:
        units = 2.0**self.fraction_bits
        return await added(self.helper, self.veil, b"inertia", round(part * units)) / units

    async def compare(self, labels: Bytes) -> None:
        """Raises DisagreementError where the comparator has not answered all parties alike."""
        digest = hashlib.sha256(labels.tobytes()).digest()
        if self.veil.lead:
            theirs = [(await peer.recv(Labels)).digest for peer in self.peers.values()]
        for peer in self.peers.values():
            await peer.send(Labels(digest))
        if not self.veil.lead:
            theirs = [(await peer.recv(Labels)).digest for peer in self.peers.values()]
        if any(each != digest for each in theirs):
            raise DisagreementError("the parties hold different labels: the comparator has not answered all alike")


async def _agree(
    helper: Channel,
    peers: Mapping[str, Channel],
    settings: Settings,
    rows: int,
    reach_bits: int,
    randomness: Randomness,
    lead: bool,
) -> _Run:
    if not 1 <= rows <= MAX_ROWS:
        raise ConfigError(f"a clustering has 1 to {MAX_ROWS} rows, not {rows}")
    if not 1 <= len(peers) < MOST_PARTIES or (not lead and len(peers) != 1):
        raise ConfigError(f"the lead has a line to each of 1 to {MOST_PARTIES - 1} others, the others one to the lead")
    mine = (rows, settings.k, settings.iterations)
    if lead:
        ready = {name: await peer.recv(Ready) for name, peer in peers.items()}
        for name, each in ready.items():
            _same(name, (each.rows, each.k, each.iterations), mine)
            if each.reach_bits > MOST_REACH_BITS:
                raise PeerError(f"{name} declares ranges wider than 2^{MOST_REACH_BITS}")
        f = fraction_bits(settings.k, [reach_bits, *(each.reach_bits for each in ready.values())])
        shared, masks = randomness.bytes(KEY_BYTES), tuple(randomness.bytes(KEY_BYTES) for _ in peers)
        for peer, mask in zip(peers.values(), masks, strict=True):
            await peer.send(Terms(*mine, f, shared, mask))
        return _Run(helper, peers, Veil(shared, masks, lead=True), f)
    ((name, peer),) = peers.items()
    await peer.send(Ready(*mine, reach_bits))
    terms = await peer.recv(Terms)
    _same(name, (terms.rows, terms.k, terms.iterations), mine)
    if len(terms.shared) != KEY_BYTES or len(terms.masks) != KEY_BYTES:
        raise PeerError(f"{name} sent keys that do not have {KEY_BYTES} bytes")
    # Larger, and our own values would leave the range that the comparator can compare.
    if terms.fraction_bits > fraction_bits(settings.k, [reach_bits]):
        raise PeerError(f"{name} asks for more fraction bits than our declared ranges leave room for")
    return _Run(helper, peers, Veil(terms.shared, (terms.masks,), lead=False), terms.fraction_bits)


def _same(name: str, theirs: tuple[int, int, int], ours: tuple[int, int, int]) -> None:
    for what, their, our in zip(("rows", "clusters", "iterations"), theirs, ours, strict=True):
        if their != our:
            raise DisagreementError(f"{name} means {their} {what}, we {our}", "the parties need the same contract")


async def member(
    helper: Channel,
    peers: Mapping[str, Channel],
    x: Columns,
    initial: FloatArray,
    *,
    box: Box,
    settings: Settings,
    randomness: Randomness,
    lead: bool,
) -> Clustered:
    """One start: clusters rows x (n, d) from initial centroids (k, d), both inside the declared box.

    helper: the line to the comparator. peers: the lead's lines to all other parties by name; another's to the lead.
    Raises ConfigError before anything is sent, DisagreementError where the parties do not mean the same.
    """
    x, centroids = box.checked(x, "the columns"), np.asarray(box.checked(initial, "the initial centroids"), np.float64)
    if len(initial) != settings.k:
        raise ConfigError(f"{len(initial)} initial centroids came for {settings.k} clusters")
    run = await _agree(helper, peers, settings, len(x), box.reach_bits, randomness, lead)
    labels, sizes = np.full(len(x), 255, np.uint8), np.zeros(settings.k, np.int64)
    corners = np.zeros(settings.k, np.int64)
    iterations, converged = 0, False
    while iterations < settings.iterations and not converged:
        before, labels = labels, await run.nearest(iterations, x, centroids, box, randomness)
        iterations += 1
        sizes = np.bincount(labels, minlength=settings.k)
        # The labels decide, and all parties have the same.
        again = (sizes == 0) & (corners < _MOST_CORNERS)
        corners += again
        converged = not again.any() and np.array_equal(labels, before)
        otherwise = centroids.copy()
        for cluster in np.flatnonzero(again).tolist():
            otherwise[cluster] = box.corners(1, randomness, 0.5 ** int(corners[cluster]))[0]
        centroids = means(cluster_sums(x, labels, settings.k), sizes, otherwise)
    inertia = await run.total(partial_inertia(x, labels, centroids))
    await run.compare(labels)
    step = 2.0**-run.fraction_bits
    return Clustered(labels.astype(np.int64), centroids, sizes, iterations, inertia, converged, step)


async def assign(
    helper: Channel,
    peers: Mapping[str, Channel],
    x: Columns,
    centroids: FloatArray,
    *,
    box: Box,
    randomness: Randomness,
    lead: bool,
) -> IntArray:
    """The nearest of centroids (k, d) for each row x (n, d), both inside the declared box: (n,)."""
    x, centroids = box.checked(x, "the columns"), np.asarray(box.checked(centroids, "the centroids"), np.float64)
    settings = Settings(len(centroids), 1)
    run = await _agree(helper, peers, settings, len(x), box.reach_bits, randomness, lead)
    labels = await run.nearest(0, x, centroids, box, randomness)
    await run.compare(labels)
    return labels.astype(np.int64)
