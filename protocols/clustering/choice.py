"""How many segments there should be, and which of them are too small to stay.

k is chosen on a sample that is cut into halves. Each half is clustered for every k, and the other half assigned by its
centroids. Where a segmentation is there in the people and not in the algorithm's luck, both agree about who belongs
together; where k is too large they cut the same crowd in different places.

    strength(k)   prediction strength [TW05]: of the pairs that a cluster of one half holds, the share that the other
                  half's centroids keep together, in the worst cluster; the mean of both directions
    chosen k      the largest with a strength of 0.8 or more, as [TW05] advise; where none has, there are no clear
                  segments, and the k at the elbow of the inertia is taken [Satopaa11]

Every party computes it from labels and inertias that all of them have, and so comes to the same k.

[TW05] R. Tibshirani, G. Walther, Cluster validation by prediction strength, J. Comput. Graph. Statist. 14 (2005).
[Satopaa11] V. Satopaa, J. Albrecht, D. Irwin, B. Raghavan, Finding a "kneedle" in a haystack, ICDCS workshops (2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

STRONG = 0.8


@dataclass(frozen=True)
class Point:
    """What the sample says of one k: inertia over both halves together, strength and stability as means of both ways.

    stability: adjusted Rand index between the labels that a half found and those that the other's centroids give it.
    """

    k: int
    inertia: float
    strength: float
    stability: float


def prediction_strength(found: IntArray, predicted: IntArray) -> float:
    """The share of pairs in the worst cluster of `found` that `predicted` keeps together: 0..1. [TW05] (2.1)

    found, predicted (n,) labels of the same rows. A cluster of a single row says nothing and is passed over.
    """
    table = np.zeros((int(found.max(initial=0)) + 1, int(predicted.max(initial=0)) + 1))
    np.add.at(table, (found, predicted), 1.0)
    sizes = table.sum(axis=1)
    told = sizes >= 2
    if not told.any():
        return 0.0
    together = (table * (table - 1)).sum(axis=1)[told] / (sizes * (sizes - 1))[told]
    return float(together.min())


def choose_k(curve: Sequence[Point]) -> tuple[int, str]:
    """The k to take, and the rule that chose it: "strength" or "elbow". The curve has rising k."""
    strong = [point.k for point in curve if point.strength >= STRONG]
    return (max(strong), "strength") if strong else (elbow(curve), "elbow")


def elbow(curve: Sequence[Point]) -> int:
    """The k whose inertia lies farthest below the straight line between the ends of the curve. [Satopaa11]

    Of two or one there is no elbow: the smaller k.
    """
    first, last = curve[0], curve[-1]
    drop, steps = first.inertia - last.inertia, last.k - first.k
    if len(curve) < 3 or drop <= 0:
        return first.k

    def below(point: Point) -> float:
        return (first.inertia - point.inertia) / drop - (point.k - first.k) / steps

    return max(curve, key=lambda point: (below(point), -point.k)).k


def left_out(sizes: IntArray, floor: int) -> list[int]:
    """The clusters whose centroids are left out before the next assignment: empty where all are large enough.

    Clusters without anybody all at once, since nobody moves for them; else the smallest alone, the first of equals:
    who was in it may make another one large enough.
    """
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        return [int(each) for each in empty]
    smallest = int(np.argmin(sizes))
    return [smallest] if sizes[smallest] < floor else []


def by_size(sizes: IntArray) -> IntArray:
    """The clusters in the order in which people count them: the largest first, the first of equals."""
    return np.argsort(-sizes, kind="stable").astype(np.int64)


def sample(order: IntArray, most: int) -> tuple[IntArray, IntArray]:
    """Two halves, as large as each other, of at most `most` rows: the first of an order that all parties share."""
    half = min(len(order), most) // 2
    return order[:half], order[half : 2 * half]
