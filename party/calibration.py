"""What scores promise: rates of good customers fitted to held-out rows, and a check of how far they hold.

A model's score ranks people; whether one person in ten or in fifty with this score is a good customer is read from rows
that the model was not trained on. Labels are 0 or 1. Everything runs in memory, in O(n log n).

[Platt99] J. Platt, Probabilistic outputs for support vector machines, 1999.
[DeGroot83] M. H. DeGroot, S. E. Fienberg, The comparison and evaluation of forecasters, The Statistician 32 (1983):
the reliability table.
[Wilson27] E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927): the
interval of a rate, which stays inside 0..1 and is right for few people too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.protocols.channel import ConfigError

from .quality import NORMAL_95, FloatArray, Interval, finite, labelled

BINS = 10
FOLDS = 5
_BLUR_POINTS = 21


@dataclass(frozen=True)
class Calibration:
    """Turns scores into expected rates of good customers: logistic(intercept + slope * score)."""

    intercept: float
    slope: float

    def rates(self, scores: npt.ArrayLike) -> FloatArray:
        """Expected rate (0..1) of each score."""
        return np.asarray(np.exp(-np.logaddexp(0.0, -(self.intercept + self.slope * finite(scores)))), np.float64)


def calibrate(labels: npt.ArrayLike, scores: npt.ArrayLike, blur: float = 0.0) -> Calibration:
    """Fits rates to hold-out scores [Platt99]; two parameters, so that a few hundred good customers carry it.

    `blur` is the full width of the even noise on the scores that will be turned into rates, in their unit. Hold-out
    scores are exact; without allowing for the noise, rates at the top would be promised too high.
    """
    y, s = labelled(labels, scores)
    if not (math.isfinite(blur) and blur >= 0):
        raise ConfigError(f"the blur of scores is a width of 0 or more, not {blur}")
    if blur:
        offsets = (np.arange(_BLUR_POINTS) + 0.5) / _BLUR_POINTS - 0.5
        s, y = (s[:, None] + blur * offsets).ravel(), np.repeat(y, _BLUR_POINTS)
    centre, spread = float(s.mean()), float(s.std())
    if spread <= 1e-12 * max(1.0, abs(centre)):
        rate = float(y.mean())
        return Calibration(math.log(rate / (1 - rate)), 0.0)
    # Loaded here because it takes a second, and only this figure needs it.
    from sklearn.linear_model import LogisticRegression

    # The weak penalty moves no figure that is shown; it keeps the slope finite where the classes are perfectly apart.
    model = LogisticRegression(C=1e4, max_iter=1000, tol=1e-8).fit(((s - centre) / spread)[:, None], y)
    slope = float(model.coef_[0, 0]) / spread
    return Calibration(float(model.intercept_[0]) - slope * centre, slope)


@dataclass(frozen=True)
class Bin:
    """People of like scores: how many, the mean rate promised to them, and the rate of good customers among them.

    interval: 95 % for the observed rate. [Wilson27]
    """

    people: int
    expected: float
    observed: float
    interval: Interval


@dataclass(frozen=True)
class Reliability:
    """Bins from the lowest promised rate to the highest, and how far observed rates are off, on average over people.

    error: the expected calibration error. by_chance: what it would be if every promise held, from the luck of the draw
    alone; an error around it says nothing against the rates. Both are None without a bin.
    """

    bins: tuple[Bin, ...]
    error: float | None
    by_chance: float | None


def reliability(labels: npt.ArrayLike, rates: npt.ArrayLike, *, floor: int, most: int = BINS) -> Reliability:
    """Promised `rates` (0..1) against labels, in at most `most` bins of about as many people each. [DeGroot83]

    A bin holds `floor` people at least, and people of equal rate share one; with fewer rows than `floor` there is none.
    Right for rows that the rates were not fitted on (`crossed_rates`).
    """
    y, r = labelled(labels, rates)
    if floor < 1 or most < 1:
        raise ConfigError(
            f"a reliability table has bins of 1 person or more, and 1 bin or more, not {floor} and {most}"
        )
    if r.min() < 0 or r.max() > 1:
        raise ConfigError("a rate lies between 0 and 1", "turn scores into rates before they are judged")
    order = np.argsort(r, kind="stable")
    y, r = y[order], r[order]
    bins, chance = [], 0.0
    for low, high in _bounds(r, max(floor, -(-r.size // most)), floor):
        expected, good, people = float(r[low:high].mean()), int(y[low:high].sum()), high - low
        bins.append(Bin(people, expected, good / people, _wilson(good, people)))
        # The mean distance of a normal variable from its mean is sqrt(2 / pi) standard deviations.
        chance += math.sqrt(2 / math.pi * float((r[low:high] * (1 - r[low:high])).sum()))
    if not bins:
        return Reliability((), None, None)
    error = sum(each.people * abs(each.observed - each.expected) for each in bins) / r.size
    return Reliability(tuple(bins), error, chance / r.size)


def crossed_rates(labels: npt.ArrayLike, scores: npt.ArrayLike) -> FloatArray:
    """The rate of each held-out row by a calibration fitted without it: to the rows of the other folds.

    The folds are dealt in the order of rows, separately to good customers and others, so that each has its part of
    both. Raises ConfigError with one row of a kind only.
    """
    y, s = labelled(labels, scores)
    rank = np.where(y, np.cumsum(y), np.cumsum(~y)) - 1
    folds = min(FOLDS, int(y.sum()), int((~y).sum()))
    if folds < 2:
        raise ConfigError("the hold-out has one row of a kind only", "calibration is judged on two of each or more")
    rates = np.empty(s.size)
    for fold in range(folds):
        out = rank % folds == fold
        rates[out] = calibrate(y[~out], s[~out]).rates(s[out])
    return rates


def facts(labels: npt.ArrayLike, scores: npt.ArrayLike, *, floor: int, blur: float = 0.0) -> dict[str, Any]:
    """How held-out scores become rates, as `facts.json` has it: intercept, slope, bins, error, error_by_chance.

    labels, scores (n,): exact scores of the hold-out; `blur` as in `calibrate`, for the scores that will be turned into
    rates. The bins and the error judge rates of exact scores, each fitted without its row; the bins are empty and the
    errors null where the rows cannot tell it.
    """
    fitted = calibrate(labels, scores, blur)
    y, s = labelled(labels, scores)
    crossed = min(int(y.sum()), int((~y).sum())) >= 2
    judged = reliability(y, crossed_rates(y, s), floor=floor) if crossed else Reliability((), None, None)
    return {
        **asdict(fitted),
        "bins": [{**asdict(each), "interval": list(each.interval)} for each in judged.bins],
        "error": judged.error,
        "error_by_chance": judged.by_chance,
    }


def _bounds(sorted_rates: FloatArray, size: int, floor: int) -> list[tuple[int, int]]:
    """Where bins of `size` rows or a little more begin and end, none between equal rates; the last has `floor`."""
    ends = np.append(np.flatnonzero(np.diff(sorted_rates)) + 1, sorted_rates.size)
    found: list[tuple[int, int]] = []
    low = 0
    while low < sorted_rates.size:
        at = int(np.searchsorted(ends, low + size))
        high = int(ends[min(at, ends.size - 1)])
        if high - low >= floor:
            found.append((low, high))
        elif found:
            found[-1] = (found[-1][0], high)
        low = high
    return found


def _wilson(good: int, people: int) -> Interval:
    z2 = NORMAL_95**2
    middle = (good + z2 / 2) / (people + z2)
    reach = NORMAL_95 * math.sqrt(good * (people - good) / people + z2 / 4) / (people + z2)
    return max(0.0, middle - reach), min(1.0, middle + reach)
