"""The media's columns as training uses them: uncorrelated, of rms just below 1, integers with 6 bits behind the point.

X~ = X V L^-1/2 with the directions V and the ridged variances L of X. In it the penalty on the media's weights
w = V L^-1/2 w~ is diagonal, |w|^2 = w~' L^-1 w~, so that L is all the brand needs to know of V.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..channel import ConfigError
from ..primitives.fixed_point import FEATURE_BITS, FloatArray, IntArray, quantise
from ..primitives.packing import blocks

RIDGE_SLOPE = 0.1
_UNIT = 2.0**FEATURE_BITS


@dataclass(frozen=True)
class MediaModel:
    """The media's secret: x_m @ basis are the whitened columns that the brand's media_weights belong to."""

    basis: FloatArray

    def columns(self, x: FloatArray, norm: float | None = None) -> NDArray[np.int16]:
        """What the media enters into a product: (n, d) integers, 2^6 to the unit, rows no longer than `norm`."""
        found = np.empty((len(x), self.basis.shape[1]), np.int16, order="F")
        for rows in blocks(len(x)):
            integers = quantise(x[rows] @ self.basis)
            found[rows] = integers if norm is None else shortened(integers, norm)
        return found


def whiten(x: FloatArray, l2: float) -> tuple[MediaModel, FloatArray]:
    """The media's basis and its eigenvalues L = variance + ridge, largest last. Raises ConfigError if nothing varies.

    The ridge l2 / (n s) is what the penalty adds to the Hessian where s is the mean slope of the sigmoid. A public s
    keeps the brand's at home, and any s has the same optimum. Directions in which the data do not move are dropped.
    """
    n = len(x)
    variances, directions = np.linalg.eigh(x.T @ x / n)
    kept = variances > 1e-9 * max(float(variances[-1]), 1e-9)
    if not kept.any():
        raise ConfigError("none of the media's columns varies over the training rows", "grant other features")
    scale = variances[kept] + ridge(n, l2)
    return MediaModel(directions[:, kept] / np.sqrt(scale)), scale


def whiten_again(model: MediaModel, x: FloatArray, l2: float) -> tuple[MediaModel, FloatArray]:
    """The directions of an earlier model with the ridged variances that x has in them: to go on training it.

    The penalty stays exact, because the directions stay orthonormal; the columns are as good as uncorrelated only where
    x is much as it was. Raises ConfigError if x has other columns.
    """
    if model.basis.shape[0] != x.shape[1]:
        raise ConfigError("the model to start from belongs to other columns", "train without it")
    directions = model.basis / np.linalg.norm(model.basis, axis=0)
    variances = np.sum(directions * (x.T @ x / len(x) @ directions), axis=0)
    scale = variances + ridge(len(x), l2)
    return MediaModel(directions / np.sqrt(scale)), scale


def ridge(rows: int, l2: float) -> float:
    """What is added to each variance: both sides compute it from what both know."""
    return l2 / (rows * RIDGE_SLOPE)


def shortened(integers: IntArray, norm: float) -> IntArray:
    """The rows of a quantised matrix (n, d), those longer than norm * 2^6 drawn in, rounding towards 0."""
    lengths = np.sqrt(np.square(integers).sum(axis=1, dtype=np.int64))
    factors = np.minimum(1.0, norm * _UNIT / np.maximum(lengths, 1.0))
    drawn_in: IntArray = np.where(factors[:, None] < 1, np.trunc(integers * factors[:, None]), integers).astype(
        np.int64
    )
    return drawn_in


@dataclass(frozen=True)
class OwnColumns:
    """The brand's columns: scaled so that no value exceeds 8 and no rms exceeds 1, then rounded like the media's."""

    scale: FloatArray
    integers: NDArray[np.int16]

    @classmethod
    def of(cls, x: FloatArray, norm: float | None = None) -> OwnColumns:
        integers = np.empty(x.shape, np.int16, order="F")
        scale = np.array([max(1.0, float(np.sqrt(np.mean(c**2))), float(np.abs(c).max()) / 8.0) for c in x.T])
        for rows in blocks(len(x)):
            rounded = quantise(x[rows] / scale)
            integers[rows] = rounded if norm is None else shortened(rounded, norm)
        return cls(scale, integers)

    def logits(self, rows: slice, theta: FloatArray) -> FloatArray:
        """intercept and a weight for each scaled column in theta, applied to some of the rows."""
        result: FloatArray = theta[0] + self.integers[rows] @ (theta[1:] / _UNIT)
        return result

    def hessian(self, theta: FloatArray, weights: FloatArray) -> tuple[FloatArray, float]:
        """That of the weighted log loss in intercept and scaled columns, (1 + d, 1 + d), and its sum of slopes."""
        size = 1 + self.integers.shape[1]
        found = np.zeros((size, size))
        for rows in blocks(len(self.integers)):
            ones = np.hstack([np.ones((rows.stop - rows.start, 1)), self.integers[rows] / _UNIT])
            p = 0.5 * (1 + np.tanh((ones @ theta) / 2))
            found += (ones * (weights[rows] * p * (1 - p))[:, None]).T @ ones
        return found, float(found[0, 0])
