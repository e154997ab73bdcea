"""The sigmoid of a logit that two parties hold in two shares: a Fourier series, apart into factors of each share.

A logit z stands as z T/P modulo T, and its shares u, v are residues with u + v = z T/P. The series of period P,

    sigma(z) = a_0 + sum_j a_j cos(2 pi j z/P) + b_j sin(2 pi j z/P),     j = 1..6,

is a_0 + sum_j A_j(u) cos(2 pi j v/T) + B_j(u) sin(2 pi j v/T) with A_j = a_j cos + b_j sin, B_j = b_j cos - a_j sin at
2 pi j u/T. Sine and cosine have period T there, so what wraps modulo T changes nothing. With e = exp(-2 pi i u/T),
A_j + i B_j = (a_j + i b_j) e^j: one exponential a row, then products.

The period is the brand's to choose, in every step: the media never meets it. 24, with a window of 16 where the series
is within 0.003 of the sigmoid, is enough for most data. Where logits lie further apart the period is longer, up to 48,
and the series coarser (0.04), but nowhere wrong: a logit that wrapped would be met with a residual of the wrong sign.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..primitives.fixed_point import FEATURE_BITS, FloatArray, T, UInt64Array

HARMONICS = 6
_WINDOW, _WIDEST_WINDOW, _GAP = 16.0, 40.0, 8.0
_FURTHEST_CENTRE = 4.0


@dataclass(frozen=True)
class Series:
    """Period, a_0, and (6,) a and b. The brand's secret: they follow from its base rate and its model."""

    period: float
    a_0: float
    a: FloatArray
    b: FloatArray

    def __call__(self, z: FloatArray) -> FloatArray:
        angle = 2 * np.pi * np.multiply.outer(z, np.arange(1, HARMONICS + 1)) / self.period
        found: FloatArray = self.a_0 + np.cos(angle) @ self.a + np.sin(angle) @ self.b
        return found

    def residual_bound(self, bits: int) -> float:
        """The largest |residual| there can be at any logit, with what rounding to `bits` adds.

        The series is looked at on a grid, between whose points it moves by less than its slope allows. A factor is
        off by at most half a unit of its last place, a sum of two products (A + e)(c + f) + (B + e')(s + f') thus by
        (1 + |(a_j, b_j)|) / sqrt 2 units and half a unit's square.
        """
        sizes = np.hypot(self.a, self.b)
        grid = 4096
        between = float(sizes @ np.arange(1, HARMONICS + 1)) * 2 * math.pi / grid / 2
        values = self(np.linspace(0, self.period, grid))
        unit = 2.0**-bits
        rounding = unit * float(np.sum(1 + sizes)) / math.sqrt(2) + HARMONICS * unit**2 / 2
        return max(float(values.max()), 1 - float(values.min())) + between + rounding + unit**2


@dataclass(frozen=True)
class Logits:
    """Where the logits of some rows are, as far as the brand can tell."""

    lowest: float
    highest: float
    mean: float
    spread: float


def sigmoid_series(base_rate: float, logits: Logits | None = None) -> Series:
    """The series nearest to the sigmoid where logits are: by least squares, in which a tenth counts everywhere.

    The window is 16 wide, or as wide as they are apart, with a gap of 8 before it comes again. Where it can, it lies
    around the logit of the (weighted) base rate, and no further out than 4: at a base rate of 0.5 % (-5.3) from -12 to
    4. What lies outside of a window of 40 is met with a wrong residual, no larger than `residual_bound`.
    """
    centre = min(max(math.log(base_rate / (1 - base_rate)), -_FURTHEST_CENTRE), _FURTHEST_CENTRE)
    there = Logits(centre, centre, centre, _WINDOW) if logits is None else logits
    width = min(max(_WINDOW, there.highest - there.lowest), _WIDEST_WINDOW)
    if there.highest - there.lowest > width:
        centre = (there.lowest + there.highest) / 2
    else:
        centre = min(max(centre, there.highest - width / 2), there.lowest + width / 2)
    z = np.linspace(centre - width / 2, centre + width / 2, 2001)
    density = 0.1 + np.exp(-0.5 * ((z - there.mean) / (1.5 * max(there.spread, 1.0))) ** 2)
    angle = 2 * np.pi * np.outer(z, np.arange(1, HARMONICS + 1)) / (width + _GAP)
    design = np.hstack([np.ones((len(z), 1)), np.cos(angle), np.sin(angle)]) * np.sqrt(density)[:, None]
    found = np.linalg.lstsq(design, 0.5 * (1 + np.tanh(z / 2)) * np.sqrt(density), rcond=None)[0]
    return Series(width + _GAP, float(found[0]), found[1 : HARMONICS + 1], found[HARMONICS + 1 :])


def factor_bits(rows: int) -> int:
    """Bits of a Fourier factor: 10, or fewer, so that a sum over all rows of x (2^6) times r (2^2bits) stays below T/2.

    By Cauchy-Schwarz it is at most rows rms(x) rms(r). rms(x) is below 1 by whitening and scaling, and rms(r) at most
    1 because the brand divides its sample weights by their rms (taken over all the rows, those that vanish included)
    and by `Series.residual_bound`, whatever the weights, the base rate and the model are. A 1,024th is left for the
    rounding of x and for the noise that is added to a sum.
    """
    room = T / 2 * (1 - 2**-10) / max(rows, 2)
    return min(10, (math.floor(math.log2(room)) - FEATURE_BITS) // 2)


def brand_factors(share: UInt64Array, weights: FloatArray, series: Series, bits: int) -> Iterator[NDArray[np.int32]]:
    """A_1, B_1, A_2, ... at the brand's share u of each logit times the row's weight, `bits` behind the point.

    Weights whose rms is at most 1 are at most 2^12 (for 2^24 rows), so that 32 bits hold a factor.
    """
    turn = _turns(share).conj()
    power = weights * 2.0**bits * turn
    for a, b in zip(series.a, series.b, strict=True):
        factor = complex(a, b) * power
        yield np.rint(factor.real).astype(np.int32)
        yield np.rint(factor.imag).astype(np.int32)
        power *= turn


def media_factors(share: UInt64Array, bits: int) -> Iterator[NDArray[np.int32]]:
    """What A_1, B_1, A_2, ... are multiplied with at the media's share v: cos and sin of 2 pi j v / T."""
    turn = _turns(share)
    power = 2.0**bits * turn
    for _ in range(HARMONICS):
        yield np.rint(power.real).astype(np.int32)
        yield np.rint(power.imag).astype(np.int32)
        power = power * turn


def _turns(share: UInt64Array) -> NDArray[np.complex128]:
    """exp(2 pi i share / T)."""
    angle = share * (2 * np.pi / T)
    turns = np.empty(len(share), np.complex128)
    np.cos(angle, out=turns.real)
    np.sin(angle, out=turns.imag)
    return turns
