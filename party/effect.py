"""What a campaign brought: the exposed people of an audience against those drawn to be left alone, with 95 % intervals.

Who was left alone was drawn at random, so both arms would have bought alike without the campaign, and what they differ
by is its effect and chance. Everybody of an arm counts, whoever of the exposed was really shown anything: what is
estimated is the effect of handing the audience to the campaign (intention to treat).

All figures carry Gaussian noise of known size on top of chance. With n people of whom c bought, and noise of standard
deviation sd on both, the rate p = c / n is off by chance with variance p (1 - p) / n, and by noise, to first order
(dp = dc / n - p dn / n), with variance sd^2 (1 + p^2) / n^2. The two are independent, so they add up. Likewise the mean
spend m, whose own variance is (mean square - m^2) / (n - 1) and whose noise is cap times as large:
sd^2 (cap^2 + m^2) / n^2. The noise on the mean square is left out: it moves the interval's variance by 1 / sd of the
noise that is counted. The mean square is kept between 0 and cap m, which no spends of 0..cap leave.

[AgrestiCaffo00] A. Agresti, B. Caffo, Simple and effective confidence intervals for proportions and differences of
proportions result from adding two successes and two failures, The American Statistician 54 (2000).
[Welch47] B. L. Welch, The generalization of "Student's" problem when several different population variances are
involved, Biometrika 34 (1947), with Satterthwaite's degrees of freedom; the noise has infinitely many.
[Fieller54] E. C. Fieller, Some problems in interval estimation, JRSS B 16 (1954): the interval of a ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tidegate.protocols.blind.measure import Arm, Measured

from .quality import NORMAL_95, student_95

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    interval: Interval

    @property
    def verdict(self) -> str:
        """ "more" or "less" where the interval lies beside 0, else "none": not shown to be anything but chance."""
        low, high = self.interval
        return "more" if low > 0 else "less" if high < 0 else "none"

    def times(self, factor: float) -> Estimate:
        low, high = self.interval
        return Estimate(self.value * factor, (low * factor, high * factor))


@dataclass(frozen=True)
class Effect:
    """The difference between the arms: in the share who bought, in buyers, and with spends in money (units).

    relative: to the control's rate; None where that is not shown to be above 0.
    """

    rates: tuple[float, float]
    lift: Estimate
    relative: Estimate | None
    customers: Estimate
    means: tuple[float, float] | None
    sales: Estimate | None

    def cost_of_customer(self, cost: int) -> Estimate | None:
        """Cost per customer that the campaign brought; None where it is not shown to have brought any."""
        low, high = self.customers.interval
        if low <= 0:
            return None
        return Estimate(cost / self.customers.value, (cost / high, cost / low))


def effect(measured: Measured, *, noise_sd: int, cap: int) -> Effect | None:
    """The effect out of noised figures. cap: the largest spend, in units, 0 without spends.

    None where an arm is too small for its noise: under 10 standard deviations, the first order does not hold.
    """
    arms = (measured.exposed, measured.control)
    if min(arm.people for arm in arms) < max(10 * noise_sd, 2):
        return None
    (p1, v1), (p0, v0) = (_rate(arm, noise_sd) for arm in arms)
    reach = NORMAL_95 * math.sqrt(v1 + v0)
    lift = Estimate(p1 - p0, (p1 - p0 - reach, p1 - p0 + reach))
    people = measured.exposed.people
    means = sales = None
    if cap:
        (m1, chance1, noise1), (m0, chance0, noise0) = (_mean(arm, noise_sd, cap) for arm in arms)
        variance = chance1 + chance0 + noise1 + noise0
        parts = chance1**2 / (arms[0].people - 1) + chance0**2 / (arms[1].people - 1)
        reach = student_95(variance**2 / parts if parts else math.inf) * math.sqrt(variance)
        means, sales = (m1, m0), Estimate(m1 - m0, (m1 - m0 - reach, m1 - m0 + reach)).times(people)
    return Effect((p1, p0), lift, _ratio(p1, v1, p0, v0), lift.times(people), means, sales)


def facts(found: Effect | None, *, unit: int, cost: int) -> dict[str, Any]:
    """The effect as `facts.json` has it; money in the column's own unit, of which `unit` units make one."""
    if found is None:
        return {"verdict": "untold"}
    shown: dict[str, Any] = {
        "verdict": found.lift.verdict,
        "rates": list(found.rates),
        "lift": _plain(found.lift),
        "relative": _plain(found.relative),
        "customers": _plain(found.customers),
    }
    if found.means is not None and found.sales is not None:
        shown |= {
            "means": [mean / unit for mean in found.means],
            "sales": _plain(found.sales.times(1 / unit)),
            "sales_verdict": found.sales.verdict,
        }
    if cost:
        shown |= {"cost": cost / unit, "cost_of_customer": _plain(_scaled(found.cost_of_customer(cost), 1 / unit))}
    return shown


def _scaled(estimate: Estimate | None, factor: float) -> Estimate | None:
    return None if estimate is None else estimate.times(factor)


def _plain(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else {"value": estimate.value, "interval": list(estimate.interval)}


def _rate(arm: Arm, noise_sd: int) -> tuple[float, float]:
    """The share who bought, and its variance by chance and noise.

    The binomial part is that of one more buyer and one more other person [AgrestiCaffo00]: by itself an arm in which
    nobody bought would seem to be known exactly. A count that noise has driven under 0 or above all counts as that.
    """
    n = arm.people
    p = arm.converted / n
    likely = (min(max(arm.converted, 0), n) + 1) / (n + 2)
    return p, likely * (1 - likely) / (n + 2) + noise_sd**2 * (1 + p**2) / n**2


def _mean(arm: Arm, noise_sd: int, cap: int) -> tuple[float, float, float]:
    """The mean spend, its variance by chance and its variance by noise."""
    n = arm.people
    if arm.spend is None or arm.squares is None:
        raise ValueError("an arm without spends has no mean of them")
    m = arm.spend / n
    square = min(max(arm.squares / n, 0.0), cap * max(m, 0.0))
    return m, max(square - m**2, 0.0) / (n - 1), noise_sd**2 * (cap**2 + m**2) / n**2


def _ratio(p1: float, v1: float, p0: float, v0: float) -> Estimate | None:
    """p1 / p0 - 1. The interval [Fieller54] holds each ratio t for which p1 - t p0 may be 0, so it contains 0 (t = 1)
    whenever that of the difference does. It has no end where p0 itself may be 0: None."""
    z2 = NORMAL_95**2
    a, b, c = p0**2 - z2 * v0, p1 * p0, p1**2 - z2 * v1
    if a <= 0 or p0 <= 0:
        return None
    root = math.sqrt(max(b**2 - a * c, 0.0))
    return Estimate(p1 / p0 - 1, ((b - root) / a - 1, (b + root) / a - 1))
