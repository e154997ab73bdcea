"""K-means over the rows of many holders: pooled Lloyd from the same start, and no small cluster.

    holder i (rows x_i in -1..1 by the declared ranges)                              coordinator
                                                       <-- moments? --
      count, sum of x, sum of x^2                      --  answer  -->  mean and scale of each column over all rows
    C_0: points spread over the declared ranges, drawn from a seed all know
    round t = 0, 1, ..:
                                                       <--   C_t    --
      rows, inertia, rows nearest to each centroid     --  answer  -->  which clusters have `floor` rows over all
                                                       <-- C_t, those --
      sum of x over the rows of each of those          --  answer  -->  C_t+1: their means
    until nothing moves; then clusters under the floor are left out, the smallest first, and their rows go elsewhere

The sum of a cluster is asked only when its count over all holders has reached the floor, so a row far from all others
never becomes a centroid on its own, neither in the model nor at the coordinator. Where sums are secure every holder
checks that from the counts. Its centroid is moved halfway to the largest cluster's, which pooled Lloyd, where such a
cluster has no rows at all, does in one way or another too.

Distances are Euclidean over standardised columns. What comes out has 3 significant digits in the columns' own units.

Reference: [Lloyd82]; the start is farthest-point packing of draws from a box that holds no row.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..channel import ConfigError, PeerError, PolicyError
from ..primitives.fixed_point import FloatArray, IntArray
from ..primitives.packing import blocks
from ..primitives.randomness import Randomness
from .task import LEAST_ROWS, Course, Model, Outcome, Question, numbers_of, scaled

MOST_COLUMNS = 300
MOST_CLUSTERS = 32
MOST_ROUNDS = 20
FLOOR = 100
_REACH = 2.0
_WIDTH = 2.0
_DRAWS = 512
_LARGEST = 1e6
_STILL = 1e-6


@dataclass(frozen=True)
class Settings:
    """k clusters of at least `floor` rows over all holders, in at most `rounds` rounds."""

    columns: int
    k: int = 3
    rounds: int = MOST_ROUNDS
    secure: bool = True
    least_rows: int = LEAST_ROWS
    floor: int = FLOOR
    name: str = "kmeans@1"

    def __post_init__(self) -> None:
        if not (1 <= self.columns <= MOST_COLUMNS and 2 <= self.k <= MOST_CLUSTERS and 1 <= self.rounds <= MOST_ROUNDS):
            raise ConfigError(
                f"K-means takes 1..{MOST_COLUMNS} columns, 2..{MOST_CLUSTERS} clusters and 1..{MOST_ROUNDS} rounds"
            )
        if self.least_rows < 2 or self.floor < 2:
            raise ConfigError("least_rows and the floor are at least 2")

    @property
    def numbers(self) -> tuple[int, ...]:
        return (self.columns, self.k, self.rounds, int(self.secure), self.least_rows, self.floor)

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Settings:
        """From `numbers`. ConfigError for what is out of bounds."""
        columns, k, rounds, secure, least_rows, floor = numbers
        return cls(columns, k, rounds, bool(secure), least_rows, floor)

    @property
    def widest(self) -> int:
        return 1 + max(2, self.k) * self.columns + self.k

    @property
    def questions(self) -> int:
        return 1 + 2 * self.rounds + self.k

    @property
    def robust(self) -> int:
        """Centroids are sums; a median of them would be of no cluster."""
        return 0

    def course(self, seed: bytes) -> Course:
        return _course(self, seed)


@dataclass(frozen=True)
class Clusters:
    """Centroids (k, d) in the columns' own units and 3 significant digits, and what a column's unit of distance is."""

    centroids: FloatArray
    scale: FloatArray
    ranges: FloatArray

    def assign(self, x: ArrayLike) -> IntArray:
        """The nearest centroid of each row, (n,) in 0..k-1."""
        low, high = self.ranges.T
        points = np.clip(np.asarray(x, np.float64), low, high)
        return _closest(points, self.centroids, self.scale)


def clusters(model: Model, ranges: ArrayLike) -> Clusters:
    """What may leave the run: the model in the columns' own units, rounded."""
    low, high = np.asarray(ranges, np.float64).T
    half = (high - low) / 2
    centroids = (low + high) / 2 + model["centroids"] * half
    return Clusters(rounded(centroids), model["scale"] * half, np.stack([low, high], axis=1))


def rounded(values: FloatArray, digits: int = 3) -> FloatArray:
    """To so many significant digits."""
    size = np.floor(np.log10(np.where(values == 0, 1.0, np.abs(values))))
    unit = 10.0 ** (digits - 1 - size)
    return np.asarray(np.rint(values * unit) / unit)


class Holder:
    """One holder's rows x (n, d) as they are; ranges (d, 2) as the contract declares them."""

    def __init__(self, x: ArrayLike, *, ranges: ArrayLike, settings: Settings) -> None:
        self._x, self._settings = scaled(x, ranges), settings
        if self._x.shape[1] != settings.columns:
            raise ConfigError(
                f"the data set has {self._x.shape[1]} columns, {settings.columns} are what the contract names"
            )

    @property
    def rows(self) -> int:
        return len(self._x)

    def answer(self, question: Question) -> FloatArray:
        """As the figure says. PeerError for a model of another shape or of numbers beyond reason."""
        if question.kind == "train.moments":
            return np.concatenate([[self.rows], self._x.sum(axis=0), (self._x**2).sum(axis=0)])
        centroids, scale = self._points(question.model)
        k, d = centroids.shape
        if question.kind == "evaluate":
            # A row counts at most one unit of inertia, so that no answer is larger than the rows it is made of.
            inertia, counts = 0.0, np.zeros(k)
            for rows in blocks(len(self._x)):
                nearest, distance = _nearest(self._x[rows], centroids, scale)
                inertia += float(np.minimum(distance / _unit(scale), 1.0).sum())
                counts += np.bincount(nearest, minlength=k)
            return np.concatenate([[self.rows, inertia], counts])
        if question.kind == "train":
            asked = numbers_of(question.model, "asked", (k,), 1.0)
            sums = np.zeros((k, d))
            for rows in blocks(len(self._x)):
                nearest = _closest(self._x[rows], centroids, scale)
                sums += (nearest == np.arange(k)[:, None]).astype(np.float64) @ self._x[rows]
            return np.concatenate([[self.rows], (sums * (asked > 0)[:, None]).ravel()])
        raise PeerError("the coordinator asks for what K-means does not answer")

    def verify(self, model: Model) -> None:
        """Refuses a model of another shape; how good clusters are is no number that one holder can judge."""
        self._points(model)

    def _points(self, model: Model) -> tuple[FloatArray, FloatArray]:
        k, d = len(model.get("centroids", ())), self._settings.columns
        if not 1 <= k <= self._settings.k:
            raise PeerError(f"the coordinator's model has {k} centroids, 1..{self._settings.k} are allowed")
        scale = numbers_of(model, "scale", (d,), _LARGEST)
        if (scale <= 0).any():
            raise PeerError("the coordinator's model has a column without a scale")
        return numbers_of(model, "centroids", (k, d), 1.0 + 1e-9), scale


def _unit(scale: FloatArray) -> float:
    """The largest squared distance of two points in the box of side 2."""
    return float(((_WIDTH / scale) ** 2).sum())


def _closest(points: FloatArray, centroids: FloatArray, scale: FloatArray) -> IntArray:
    """Of each point (n, d): the index of the closest centroid, (n,), by |x - c|^2 without |x|^2."""
    return np.asarray((((centroids / scale) ** 2).sum(axis=1) - points @ (2 * centroids / scale**2).T).argmin(axis=1))


def _nearest(points: FloatArray, centroids: FloatArray, scale: FloatArray) -> tuple[IntArray, FloatArray]:
    """The same, and the squared distance to it over standardised columns."""
    nearest = _closest(points, centroids, scale)
    return nearest, (((points - centroids[nearest]) / scale) ** 2).sum(axis=1)


def starting(k: int, mean: FloatArray, scale: FloatArray, seed: bytes) -> FloatArray:
    """k points within two standard deviations of the mean and within the ranges, far from each other; (k, d).

    Drawn uniformly, then each the one farthest from those before it: from a seed and two moments, never from rows.
    """
    fractions = Randomness(seed).integers(2**32, _DRAWS * len(mean)).reshape(_DRAWS, -1) / 2.0**32
    low, high = np.maximum(mean - _REACH * scale, -1.0), np.minimum(mean + _REACH * scale, 1.0)
    draws = low + fractions * (high - low)
    points = draws[:1]
    while len(points) < k:
        points = np.vstack([points, draws[_nearest(draws, points, scale)[1].argmax()]])
    return np.asarray(points)


def _course(settings: Settings, seed: bytes) -> Generator[Question, FloatArray, Outcome]:
    d = settings.columns
    sums = yield Question("train.moments", {}, 1 + 2 * d)
    count = max(float(sums[0]), 1.0)
    mean = sums[1 : 1 + d] / count
    scale = np.sqrt(np.maximum(sums[1 + d :] / count - mean**2, 0.0))
    # A column that never changes tells no clusters apart, whatever its scale.
    scale[scale < 1e-9] = 1.0
    centroids = starting(settings.k, mean, scale, seed)
    inertias: list[float] = []
    sizes, converged = np.zeros(settings.k), False

    def counted(told: dict[str, float]) -> Generator[Question, FloatArray, FloatArray]:
        answers = yield Question("evaluate", {"centroids": centroids, "scale": scale}, 2 + len(centroids), told)
        inertias.append(float(answers[1]) * _unit(scale))
        return answers[2:]

    sizes = yield from counted({})
    for _ in range(settings.rounds):
        asked = (sizes >= settings.floor).astype(np.float64)
        if not asked.any():
            break
        model = {"centroids": centroids, "scale": scale, "asked": asked}
        sums = yield Question("train", model, 1 + settings.k * d, {"inertia": inertias[-1]})
        means = sums[1:].reshape(settings.k, d) / np.maximum(sizes, 1.0)[:, None]
        # A centroid that too few rows are near starts anew, halfway to the one that most are near.
        moved = np.where(asked[:, None] > 0, np.clip(means, -1.0, 1.0), (centroids + means[sizes.argmax()]) / 2)
        step = float(np.abs((moved - centroids) / scale).max())
        centroids = moved
        sizes = yield from counted({"step": step})
        if converged := step < _STILL:
            break
    while sizes.min() < settings.floor:
        if len(centroids) == 1:
            raise PolicyError(f"all holders together have fewer rows than the {settings.floor} of one cluster")
        centroids = np.delete(centroids, sizes.argmin(), axis=0)
        sizes = yield from counted({"inertia": inertias[-1]})
    return Outcome(
        {"centroids": centroids, "scale": scale, "sizes": rounded(sizes)}, {"inertia": tuple(inertias)}, converged
    )
