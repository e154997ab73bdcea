"""What counts say: index, weight of evidence and information value of groups, with the intervals that noise gives them.

Of B people in all G are positives and H = B - G are not; of b people in a group g are positives and h = b - g are not.

    index   100 (g / b) / (G / B)                       100: as often positive as everybody, 200: twice as often
    WOE     ln((g / G) / (h / H))                       0: as everybody; above 0 more often positive
    IV      sum of (g / G - h / H) WOE over the groups  never below 0; the symmetric divergence [J46] of the two
                                                        distributions over the groups

Siddiqi, Credit Risk Scorecards (Wiley 2006), chapter 6, has them with the words in `strength`; [J46] is Jeffreys 1946.

b and g come with independent noise of a known standard deviation s; G and B are exact, since the caller counts them
itself. A noised count that no group can have (g below 1/2 or above b - 1/2) is taken as the nearest that it can.
Intervals are for 95 % and for the noise alone: WOE and index by the delta method on their logarithms. IV is convex, so
noise makes it larger: its expected excess, from the second derivatives, is taken off, and the variance has the second
order too, for where nothing differs the first is 0. Without noise all are exact and the intervals points.

That people are a sample is another matter: `chance` is the IV that 95 of 100 features stay under whose groups do not
differ at all, since IV / (1 / G + 1 / H) is then chi-square with as many degrees of freedom as there are groups less
one [Kullback, Information Theory and Statistics, 1959, chapter 6].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Interval = tuple[float, float]

_NORMAL_95 = 1.959963984540054
_ONE_SIDED_95 = 1.6448536269514722
_WORDS = ((0.02, "next to nothing"), (0.1, "weak"), (0.3, "medium"), (0.5, "strong"))


@dataclass(frozen=True)
class Group:
    """Noised counts of one group; sd is the standard deviation of each one's noise."""

    people: float
    positives: float
    sd: float = 0.0


@dataclass(frozen=True)
class Totals:
    """Everybody: exact counts, with people of both kinds."""

    people: int
    positives: int


@dataclass(frozen=True)
class Evidence:
    """What one group says."""

    index: float
    index_interval: Interval
    woe: float
    woe_interval: Interval


@dataclass(frozen=True)
class Value:
    """What all groups of a feature say together; chance is what a feature without a difference stays under."""

    iv: float
    interval: Interval
    chance: float


def of_group(group: Group, totals: Totals) -> Evidence:
    good, bad = _possible(group)
    people, variance = good + bad, group.sd**2
    index = 100 * (good / people) / (totals.positives / totals.people)
    index_sd = math.sqrt(variance * (1 / good**2 + 1 / people**2))
    woe = math.log((good / totals.positives) / (bad / (totals.people - totals.positives)))
    # g moves both parts of the odds, b the second alone.
    woe_sd = math.sqrt(variance * ((1 / good + 1 / bad) ** 2 + 1 / bad**2))
    far = math.exp(_NORMAL_95 * index_sd)
    return Evidence(index, (index / far, index * far), woe, (woe - _NORMAL_95 * woe_sd, woe + _NORMAL_95 * woe_sd))


def of_feature(groups: Sequence[Group], totals: Totals) -> Value:
    all_good, all_bad = totals.positives, totals.people - totals.positives
    iv = excess = variance = 0.0
    for group in groups:
        good, bad = _possible(group)
        a, c = good / all_good, bad / all_bad
        log = math.log(a / c)
        iv += (a - c) * log
        # Gradient and Hessian of (a - c) ln(a / c), and the covariance of a and c.
        by_a, by_c = log + 1 - c / a, -log + 1 - a / c
        aa, cc, ac = 1 / a + c / a**2, 1 / c + a / c**2, -1 / a - 1 / c
        v = group.sd**2
        var_a, var_c, cov = v / all_good**2, 2 * v / all_bad**2, -v / (all_good * all_bad)
        excess += (aa * var_a + cc * var_c + 2 * ac * cov) / 2
        first = by_a**2 * var_a + by_c**2 * var_c + 2 * by_a * by_c * cov
        variance += first + _squared_trace(aa, ac, cc, var_a, cov, var_c) / 2
    iv, far = max(0.0, iv - excess), _NORMAL_95 * math.sqrt(variance)
    return Value(iv, (max(0.0, iv - far), iv + far), _chance(len(groups), 1 / all_good + 1 / all_bad, variance))


def strength(value: Value) -> str:
    """How much the feature tells of who is positive, in words: "nothing clear" where chance or noise does as well."""
    if value.iv <= value.chance:
        return "nothing clear"
    return next((word for below, word in _WORDS if value.iv < below), "very strong")


def _possible(group: Group) -> tuple[float, float]:
    """Positives and others of a group, at least half a person each."""
    people = max(1.0, group.people)
    good = min(max(group.positives, 0.5), people - 0.5)
    return good, people - good


def _squared_trace(aa: float, ac: float, cc: float, var_a: float, cov: float, var_c: float) -> float:
    """The trace of (Hessian times covariance) squared: twice the variance of the second-order term."""
    p, q = aa * var_a + ac * cov, aa * cov + ac * var_c
    r, s = ac * var_a + cc * cov, ac * cov + cc * var_c
    return p * p + 2 * q * r + s * s


def _chance(groups: int, scale: float, variance: float) -> float:
    """The 95th percentile of chi-square (Wilson and Hilferty) times the scale, and of the noise beside it."""
    k = max(1, groups - 1)
    sampled = scale * k * (1 - 2 / (9 * k) + _ONE_SIDED_95 * math.sqrt(2 / (9 * k))) ** 3
    return sampled + _ONE_SIDED_95 * math.sqrt(variance)
