"""How the brand moves its weights: by Newton's method on its own columns, by L-BFGS on sums that cost a step each."""

from __future__ import annotations

import math

import numpy as np

from ..primitives.fixed_point import FloatArray
from ..primitives.packing import blocks

_CLOSE = 1e-9


def newton(x: FloatArray, y: FloatArray, l2: float, weights: FloatArray | None = None) -> FloatArray:
    """Logistic regression in the clear: the intercept, which is not penalised, and a weight for each column of x.

    weights (n,) are sample weights; the loss is scikit-learn's, sum_i weights_i loss_i + l2 |w|^2 / 2.
    """
    count = np.ones(len(x)) if weights is None else weights
    penalty = np.full(1 + x.shape[1], l2)
    penalty[0] = 0.0
    rate = float(count @ y / count.sum())
    theta = np.zeros(len(penalty))
    theta[0] = math.log(rate / (1 - rate))

    def loss(at: FloatArray) -> float:
        z = at[0] + x @ at[1:]
        return float(count @ (np.logaddexp(0.0, z) - y * z) + 0.5 * at @ (penalty * at))

    here = loss(theta)
    for _ in range(50):
        gradient, hessian = penalty * theta, np.diag(penalty) + _CLOSE * np.eye(len(theta))
        for rows in blocks(len(x)):
            ones = np.hstack([np.ones((rows.stop - rows.start, 1)), x[rows]])
            p = 0.5 * (1 + np.tanh((ones @ theta) / 2))
            gradient = gradient + ones.T @ (count[rows] * (p - y[rows]))
            hessian += (ones * (count[rows] * p * (1 - p))[:, None]).T @ ones
        step = np.linalg.solve(hessian, gradient)
        length = 1.0
        while (there := loss(theta - length * step)) > here and length > 1e-6:
            length /= 2
        theta, here = theta - length * step, there
        if float(np.abs(length * step).max()) < _CLOSE:
            break
    return theta


class Descent:
    """L-BFGS, full steps, from a good inverse Hessian: exact for intercept and X_b, diagonal for whitened columns.

    `noise` is the standard deviation of a gradient's component. Near the optimum the difference of two gradients is
    little else, and the curvature read from it would throw the model far off; such a pair is not used.

    averaging: for gradients that are mostly noise, as differential privacy makes them. After the first, step k + 1 is
    1/k as long, and pairs are not used [Robbins and Monro, Ann. Math. Statist. 1951]: as far as the inverse Hessian is
    right, the model is where the mean of all gradients but the first leads, so that a budget spread over more steps is
    hardly more noise in the model.
    """

    def __init__(
        self,
        start: FloatArray,
        brand_inverse: FloatArray,
        media_diagonal: FloatArray,
        noise: float = 0.0,
        *,
        averaging: bool = False,
    ) -> None:
        self.theta = start
        self._averaging, self._steps = averaging, 0
        self._brand_inverse, self._media_diagonal, self._noise = brand_inverse, media_diagonal, noise
        self._pairs: list[tuple[FloatArray, FloatArray]] = []
        self._last: tuple[FloatArray, FloatArray] | None = None

    def _inverse(self, g: FloatArray) -> FloatArray:
        k = len(self._brand_inverse)
        return np.concatenate([self._brand_inverse @ g[:k], g[k:] / self._media_diagonal])

    def is_at_the_noise(self, gradient: FloatArray) -> bool:
        """Whether a gradient is no more than twice as long as noise alone would make it: another step finds nothing."""
        return float(np.linalg.norm(gradient)) <= 2 * self._noise * math.sqrt(len(gradient))

    def step(self, gradient: FloatArray) -> None:
        """Moves theta by what the gradient there, after those before it, calls for."""
        self._steps += 1
        if self._averaging:
            self.theta = self.theta - self._inverse(gradient) / max(1, self._steps - 1)
            return
        if self._last is not None:
            s, g = self.theta - self._last[0], gradient - self._last[1]
            # The noise of g has the expected length noise sqrt(2 d); g itself must be well above it along s.
            unsure = 2 * self._noise * math.sqrt(2 * len(s) * float(s @ s))
            if float(s @ g) > max(unsure, 1e-12 * float(s @ s)):
                self._pairs.append((s, g))
        self._last = (self.theta, gradient)
        q, coefficients = gradient.copy(), []
        for s, g in reversed(self._pairs):
            alpha = float(s @ q) / float(s @ g)
            q -= alpha * g
            coefficients.append(alpha)
        q = self._inverse(q)
        for (s, g), alpha in zip(self._pairs, reversed(coefficients), strict=True):
            q += (alpha - float(g @ q) / float(s @ g)) * s
        self.theta = self.theta - q
