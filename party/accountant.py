"""What rho of zero-concentrated differential privacy is worth as epsilon at a delta, and back.

    epsilon(rho, delta) = min over a > 1 of  a rho + log(1 - 1/a) + log(1 / (a delta)) / (a - 1)

Canonne, Kamath, Steinke: The Discrete Gaussian for Differential Privacy, NeurIPS 2020; OpenDP converts
alike.
"""

from __future__ import annotations

import math


def epsilon_of(rho: float, delta: float) -> float:
    """The least epsilon for which rho-zCDP is known to give (epsilon, delta)-differential privacy."""
    if rho <= 0:
        return 0.0

    def at(log_above_one: float) -> float:
        a = 1 + math.exp(log_above_one)
        return a * rho - math.log1p(math.exp(-log_above_one)) - math.log(delta * a) / (a - 1)

    # Every a gives a true bound; it falls, then rises: golden section.
    low, high, golden = -15.0, 40.0, (math.sqrt(5) - 1) / 2
    for _ in range(120):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if at(left) < at(right) else (left, high)
    return max(0.0, at((low + high) / 2))


def rho_of(epsilon: float, delta: float) -> float:
    """The largest rho whose epsilon is not above this one."""
    low, high = 0.0, epsilon
    for _ in range(120):
        middle = (low + high) / 2
        low, high = (middle, high) if epsilon_of(middle, delta) <= epsilon else (low, middle)
    return low
