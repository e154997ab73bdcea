"""How both sides together come from their columns to segments that are large enough to stay.

    how many    where the contract leaves it open: for each k each half of a common sample is clustered, and the other
                half assigned by its centroids; choice.py says which k that speaks for
    starts      several over all people, from corners of the declared ranges; the one of least joint inertia is kept
    merging     while a segment has fewer people than the floor: the smallest's centroid is left out and everybody
                assigned anew. The centroids that stay are not moved, so they never learn of those people

Both sides run the same lines and decide by labels and inertias that both have, so nothing is said about decisions.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.protocols.channel import Channel, PolicyError
from tidegate.protocols.clustering import choice, kmeans
from tidegate.protocols.clustering.box import Box, starting
from tidegate.protocols.primitives.randomness import Randomness

from .budget import SAMPLE_ITERATIONS, SAMPLE_STARTS

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SAMPLE_ROWS = 20_000


@dataclass(frozen=True)
class Side:
    """One party's part of a clustering: its lines, its declared box, and whether it leads."""

    helper: Channel
    peers: Mapping[str, Channel]
    box: Box
    randomness: Randomness
    lead: bool

    async def start(self, x: FloatArray, k: int, iterations: int) -> kmeans.Clustered:
        """One start from corners of the box."""
        return await kmeans.member(
            self.helper,
            self.peers,
            x,
            starting(k, self.box, self.randomness),
            box=self.box,
            settings=kmeans.Settings(k, iterations),
            randomness=self.randomness,
            lead=self.lead,
        )

    async def nearest(self, x: FloatArray, centroids: FloatArray) -> IntArray:
        """Each row's place among the centroids, of which there may be but one."""
        if len(centroids) == 1:
            return np.zeros(len(x), np.int64)
        return await kmeans.assign(
            self.helper,
            self.peers,
            x,
            # A mean of equal values can lie outside of them by a rounding.
            np.clip(centroids, self.box.low, self.box.high),
            box=self.box,
            randomness=self.randomness,
            lead=self.lead,
        )


@dataclass(frozen=True)
class Start:
    """What is told of one start. agreement: adjusted Rand index with the start that was kept."""

    inertia: float
    iterations: int
    converged: bool
    agreement: float


@dataclass(frozen=True)
class Formed:
    """Segments in the order of their sizes: labels (n,) 0..k-1, the party's own columns of the centroids (k, d).

    asked: how many were looked for, before those under the floor were left out. rule: what chose that: "contract",
    "strength" or "elbow". stability: mean adjusted Rand index of all pairs of starts, None of a single one.
    """

    labels: IntArray
    centroids: FloatArray
    asked: int
    rule: str
    curve: tuple[choice.Point, ...]
    starts: tuple[Start, ...]
    inertia: float
    stability: float | None

    @property
    def sizes(self) -> IntArray:
        return np.bincount(self.labels, minlength=len(self.centroids))


async def formed(
    side: Side, x: FloatArray, *, k: int, most_k: int, starts: int, iterations: int, floor: int, order: IntArray
) -> Formed:
    """Segments of the rows x (n, d), n >= 2 * floor; k = 0 lets the people choose. order (n,): the same at all parties.

    PolicyError where fewer than two segments would reach the floor.
    """
    rule, points = "contract", list[choice.Point]()
    if k == 0:
        halves = choice.sample(order, SAMPLE_ROWS)
        for each in range(2, min(most_k, len(x) // floor) + 1):
            points.append(await _point(side, x[halves[0]], x[halves[1]], each, starts, iterations))
        k, rule = choice.choose_k(points)
    found = [await side.start(x, k, iterations) for _ in range(starts)]
    best = min(found, key=lambda one: one.inertia)
    # After the last iteration allowed the centroids have moved on from the labels.
    labels = best.labels if best.converged else await side.nearest(x, best.centroids)
    labels, kept = await merged(side, x, labels, best.centroids, floor=floor, least=2)
    ranks = choice.by_size(np.bincount(labels, minlength=len(kept)))
    agreements = [kmeans.adjusted_rand(one.labels, two.labels) for one, two in itertools.combinations(found, 2)]
    told = (Start(one.inertia, one.iterations, one.converged, _agreement(one, best)) for one in found)
    return Formed(
        labels=np.argsort(ranks)[labels].astype(np.int64),
        centroids=best.centroids[kept][ranks],
        asked=k,
        rule=rule,
        curve=tuple(points),
        starts=tuple(told),
        inertia=best.inertia,
        stability=float(np.mean(agreements)) if agreements else None,
    )


async def merged(
    side: Side, x: FloatArray, labels: IntArray, centroids: FloatArray, *, floor: int, least: int
) -> tuple[IntArray, IntArray]:
    """Labels without segments under the floor, 0.. in the order of the centroids kept, and which those are.

    PolicyError where fewer than `least` are left.
    """
    kept = np.arange(len(centroids))
    while out := choice.left_out(sizes := np.bincount(labels, minlength=len(kept)), floor):
        stay = np.setdiff1d(np.arange(len(kept)), out)
        if len(stay) < least:
            raise PolicyError(
                f"fewer than {least} segments reach the {floor} people that each needs",
                "ask for fewer segments, or for more starts, match more people, or enter columns that tell them apart",
            )
        kept = kept[stay]
        if sizes[out].sum() == 0:
            labels = np.searchsorted(stay, labels)
        else:
            labels = await side.nearest(x, centroids[kept])
    return labels, kept


async def _point(side: Side, a: FloatArray, b: FloatArray, k: int, starts: int, iterations: int) -> choice.Point:
    """What two halves say of one k."""
    halves, bests = (a, b), []
    for half in halves:
        found = [
            await side.start(half, k, min(iterations, SAMPLE_ITERATIONS)) for _ in range(min(starts, SAMPLE_STARTS))
        ]
        bests.append(min(found, key=lambda one: one.inertia))
    strengths, stabilities = [], []
    for half, own, other in zip(halves, bests, reversed(bests), strict=True):
        predicted = await side.nearest(half, other.centroids)
        strengths.append(choice.prediction_strength(own.labels, predicted))
        stabilities.append(kmeans.adjusted_rand(own.labels, predicted))
    return choice.Point(k, sum(one.inertia for one in bests), float(np.mean(strengths)), float(np.mean(stabilities)))


def _agreement(one: kmeans.Clustered, best: kmeans.Clustered) -> float:
    return 1.0 if one is best else kmeans.adjusted_rand(one.labels, best.labels)
