"""The declared box of one party's columns: what a value may be, and where clusters start. It is never read off rows.

[Su17] D. Su, J. Cao, N. Li, E. Bertino, M. Lyu, H. Jin, Differentially private k-means clustering and a hybrid approach
to private optimization, ACM TOPS 20 (2017): sphere packing.
[DHK25] A. Diaa, T. Humphries, F. Kerschbaum, FastLloyd, USENIX Security 2025.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..channel import ConfigError
from ..primitives.fixed_point import FloatArray
from ..primitives.randomness import Randomness

MOST_REACH_BITS = 25
_CANDIDATES = 64
_ROWS_AT_ONCE = 2**16

Columns: TypeAlias = NDArray[np.float64] | NDArray[np.float32]


@dataclass(frozen=True)
class Box:
    """The lowest and highest value of each column (d,), scaled and weighted as the columns are.

    Raises ConfigError for one that holds nothing or is so wide that distances would not fit: the squared diagonal is
    at most 2^25.
    """

    low: FloatArray
    high: FloatArray

    def __post_init__(self) -> None:
        if self.low.ndim != 1 or self.low.shape != self.high.shape or not len(self.low):
            raise ConfigError(
                "the declared ranges are one lowest and one highest value for each of at least one column"
            )
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all() and (self.low <= self.high).all()):
            raise ConfigError("a declared range is not two finite numbers, the lower one first")
        # A product of huge numbers is infinite, which is too wide as well.
        with np.errstate(over="ignore"):
            widest = float(((self.high - self.low) ** 2).sum())
        if not widest <= 2.0**MOST_REACH_BITS:
            text = f"the declared ranges are too wide: their squares add up to more than 2^{MOST_REACH_BITS}"
            raise ConfigError(text, "scale the columns, for example to a standard deviation of 1")

    @property
    def columns(self) -> int:
        return len(self.low)

    @property
    def middle(self) -> FloatArray:
        return (self.low + self.high) / 2

    @property
    def reach_bits(self) -> int:
        """No two points of the box have a squared distance of more than 2^reach_bits; 0..25."""
        squared = float(((self.high - self.low) ** 2).sum())
        return max(0, math.ceil(math.log2(squared))) if squared else 0

    def checked(self, points: Columns, what: str) -> Columns:
        """The points (n, d) as they came. Raises ConfigError where one is not in the box, or is no number at all."""
        if points.ndim != 2 or not len(points) or points.shape[1] != self.columns:
            raise ConfigError(f"{what} make a table of {points.shape}, ranges are declared for {self.columns} columns")
        for at in range(0, len(points), _ROWS_AT_ONCE):
            part = points[at : at + _ROWS_AT_ONCE]
            # A value that is no number compares as false.
            if not ((part >= self.low) & (part <= self.high)).all():
                text = f"of {what} a value is outside its declared range, or no number"
                raise ConfigError(text, "fill in missing values and clip the columns to the declared ranges")
        return points

    def corners(self, count: int, randomness: Randomness, times: float = 1.0) -> FloatArray:
        """`count` drawn corners (count, d), far from each other, of a box `times` as large inside this one.

        They lie around 0 where 0 is inside, else around the middle, at equal distances from it: of centroids that
        are all equally far from the middle of the rows, none is the nearest to most of them.   [Su17], [DHK25]
        """
        centre: FloatArray = np.where((self.low < 0) & (self.high > 0), 0.0, self.middle)
        half = times * np.minimum(centre - self.low, self.high - centre)
        signs = np.empty((count, self.columns))
        for at in range(count):
            drawn = _signs(_CANDIDATES, self.columns, randomness)
            # The nearest of those we have, as the sum of half^2 over the columns of unequal sign.
            shared = (drawn * half**2) @ signs[:at].T
            signs[at] = drawn[np.argmin(shared.max(axis=1))] if at else drawn[0]
        corners: FloatArray = np.clip(centre + half * signs, self.low, self.high)
        return corners


def _signs(count: int, columns: int, randomness: Randomness) -> FloatArray:
    bits = np.frombuffer(randomness.bytes(count * columns), np.uint8) & 1
    return 2 * bits.reshape(count, columns).astype(np.float64) - 1


def starting(k: int, box: Box, randomness: Randomness) -> FloatArray:
    """k initial centroids (k, d) in one party's columns: corners of its declared box. Rows play no part.

    Each party draws its own; several starts draw several times. Rows are best scaled so that 0 is their middle.
    """
    return box.corners(k, randomness)
