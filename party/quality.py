"""How well scores rank the good customers: AUC and its gain with intervals, lift, gains curve, log loss.

Labels are 0 or 1, a higher score means a better customer, and equal scores share their places: no figure here
depends on the order of rows that the model cannot tell apart. Everything runs in memory, in O(n log n).

[DeLong88] E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Comparing the areas under two or more correlated receiver
operating characteristic curves: a nonparametric approach, Biometrics 44 (1988).
[SunXu14] X. Sun, W. Xu, Fast implementation of DeLong's algorithm for comparing the areas under correlated receiver
operating characteristic curves, IEEE Signal Processing Letters 21 (2014): the same from midranks.
[Pepe03] M. S. Pepe, The statistical evaluation of medical tests for classification and prediction, section 5.2:
the interval on the logit scale, which stays inside 0..1 and covers better near its ends.
[Welch47] B. L. Welch, The generalization of "Student's" problem when several different population variances are
involved, Biometrika 34 (1947).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.protocols.channel import ConfigError

FloatArray = npt.NDArray[np.float64]
Interval = tuple[float, float]

LIFT_PERCENTS = (1, 5, 10)
NORMAL_95 = 1.959963984540054


def check_holdout(labels: npt.ArrayLike) -> None:
    """Raises ConfigError unless the hold-out has good customers and others; called before a model is trained."""
    _labels(labels)


def labelled(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Who is a good customer, and the scores, (n,) each. Raises ConfigError where no figure can be made of them."""
    y, s = _labels(labels), finite(scores)
    if y.size != s.size:
        raise ConfigError(f"{y.size} labels came with {s.size} scores")
    return y, s


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Probability that a good customer scores above another one; a tie counts half."""
    good, _ = _placements(labels, scores)
    return float(good.mean())


def auc_interval(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Interval | None:
    """95 % interval of the AUC. [DeLong88] variance on the logit scale [Pepe03].

    None where these rows cannot tell it: under two in a class, or the classes are perfectly apart.
    """
    good, other = _placements(labels, scores)
    area, reach = float(good.mean()), _reach(good, other)
    if reach is None or not 0 < area < 1:
        return None
    logit = math.log(area / (1 - area))
    reach /= area * (1 - area)
    return _logistic(logit - reach), _logistic(logit + reach)


def auc_gain(labels: npt.ArrayLike, before: npt.ArrayLike, after: npt.ArrayLike) -> tuple[float, Interval | None]:
    """AUC of `after` minus AUC of `before`, and its 95 % interval.

    Both rank the same rows, so their errors are correlated, and the interval takes that into account [DeLong88]: it is
    much shorter than what the two separate intervals suggest. Right for rows that neither model was trained on.
    None with under two rows in a class, or where every row moved by as much.
    """
    (good_before, other_before), (good, other) = _placements(labels, before), _placements(labels, after)
    gain, reach = float(good.mean() - good_before.mean()), _reach(good - good_before, other - other_before)
    if reach is None or (reach == 0 and gain != 0):
        return gain, None
    return gain, (max(gain - reach, -1.0), min(gain + reach, 1.0))


def is_gain_shown(interval: Interval | None) -> bool | None:
    """Whether `auc_gain`'s interval lies above 0; None without one. Chance alone shows a gain 1 time in 40."""
    return None if interval is None else interval[0] > 0


def log_loss(labels: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """Mean negative log-likelihood in nats of scores that are log-odds; finite for every finite logit."""
    y, z = labelled(labels, logits)
    return float(np.mean(np.logaddexp(0.0, np.where(y, -z, z))))


def gains_curve(labels: npt.ArrayLike, scores: npt.ArrayLike, points: int = 101) -> list[list[float]]:
    """Share of all good customers (0..1) found in the best-scored share of the rows (0..1), in even steps.

    At most 101 points, fewer where there are fewer rows; people of equal score are taken pro rata.
    """
    y, s = labelled(labels, scores)
    shares = np.linspace(0.0, 1.0, max(2, min(points, 101, y.size + 1)))
    return [[float(x), float(found)] for x, found in zip(shares, _found(y, s, shares), strict=True)]


def lift(labels: npt.ArrayLike, scores: npt.ArrayLike, percent: float) -> float:
    """How many times more good customers the best-scored `percent` of the rows hold than as many taken blindly."""
    y, s = labelled(labels, scores)
    if not 0 < percent <= 100:
        raise ConfigError(f"a lift is taken at a share above 0 and up to 100 percent, not at {percent}")
    return float(_found(y, s, np.array([percent / 100]))[0]) * 100 / percent


def histogram(logits: npt.ArrayLike, bins: int = 40) -> dict[str, list[float]]:
    """{"edges": bins + 1 probabilities, "counts": bins numbers}, as `facts.json` has it.

    The bins are equally wide in log-odds: where good customers are rare, bins of equal probability would put nearly
    everybody into the first one.
    """
    z = finite(logits)
    if z.size == 0:
        return {"edges": [0.0, 1.0], "counts": [0]}
    counts, edges = np.histogram(np.clip(z, -30, 30), bins=bins)
    return {"edges": [_logistic(float(edge)) for edge in edges], "counts": [int(count) for count in counts]}


def compare(labels: npt.ArrayLike, logits: Mapping[str, npt.ArrayLike]) -> dict[str, Any]:
    """The quality part of the train step's facts, from hold-out labels and each model's log-odds on the same rows.

    `logits` has "brand_only" and "joint", and any further model under its own name. A brand without columns of its own
    enters the log-odds of its base rate for every row. Keys: auc, auc_interval, gain, gain_interval, gain_shown,
    log_loss, lift_at, gains_curve. An interval is null where these rows cannot tell it.
    """
    gain, gain_interval = auc_gain(labels, logits["brand_only"], logits["joint"])
    return {
        "auc": {name: auc(labels, scores) for name, scores in logits.items()},
        "auc_interval": {name: _listed(auc_interval(labels, scores)) for name, scores in logits.items()},
        "gain": gain,
        "gain_interval": _listed(gain_interval),
        "gain_shown": is_gain_shown(gain_interval),
        "log_loss": {name: log_loss(labels, scores) for name, scores in logits.items()},
        "lift_at": {
            str(percent): {name: lift(labels, scores, percent) for name, scores in logits.items()}
            for percent in LIFT_PERCENTS
        },
        "gains_curve": {name: gains_curve(labels, scores) for name, scores in logits.items()},
    }


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _labels(labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    y = np.asarray(labels)
    if y.ndim != 1 or y.size == 0:
        raise ConfigError("the hold-out has no rows", "hold out more rows, or match more people")
    if not np.isin(y, (0, 1)).all():
        raise ConfigError("the labels of the hold-out are not all 0 or 1", "choose a label with two values")
    good = int(y.sum())
    if good in (0, y.size):
        kind = "only good customers" if good else "no good customer"
        raise ConfigError(
            f"the hold-out has {kind} among its {y.size} matched rows",
            "quality can be told only where both kinds are present: hold out more, or check the label's positive value",
        )
    return y.astype(np.bool_)


def finite(scores: npt.ArrayLike) -> FloatArray:
    """The scores as float64, (n,). Raises ConfigError for any that is no number."""
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 1 or not np.isfinite(s).all():
        raise ConfigError("scores must be one finite number for each row")
    return s


def _placements(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """For each good row the share of others it beats, for each other row the share of good ones that beat it.

    [SunXu14]: the midrank among all, minus the midrank within the own class, counts the rows of the other class below.
    """
    y, s = labelled(labels, scores)
    among_all = _midranks(s)
    good = (among_all[y] - _midranks(s[y])) / (~y).sum()
    other = 1 - (among_all[~y] - _midranks(s[~y])) / y.sum()
    return good, other


def _midranks(s: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(s, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], dtype=np.float64)


def _reach(good: FloatArray, other: FloatArray) -> float | None:
    """Half the 95 % interval of an AUC, or of a difference of two, from its placements or their differences. [DeLong88]

    With Student's t for as many degrees of freedom as two samples of unequal variance have [Welch47]: from ten good
    customers the normal distribution would claim a gain that is none twice as often as it says.
    """
    if min(good.size, other.size) < 2:
        return None
    parts = [float(side.var(ddof=1)) / side.size for side in (good, other)]
    if sum(parts) == 0:
        return 0.0
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (good.size - 1) + parts[1] ** 2 / (other.size - 1))
    return student_95(freedom) * math.sqrt(sum(parts))


def student_95(freedom: float) -> float:
    """The two-sided 95 % quantile of Student's t; freedom >= 1 need not be whole. Off by under 2e-4.

    t = sqrt(freedom) tan(angle) turns its density into cos(angle)^(freedom - 1) on -pi/2 .. pi/2.
    """
    freedom = min(freedom, 1e4)  # From there on it is as good as normal.
    angle = np.linspace(0.0, min(math.pi / 2, 10 / math.sqrt(freedom)), 5_001)
    density = np.cos(angle) ** (freedom - 1)
    area = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    return math.sqrt(freedom) * math.tan(float(np.interp(0.95, area / area[-1], angle)))


def _found(y: npt.NDArray[np.bool_], s: FloatArray, shares: FloatArray) -> FloatArray:
    """Share of the good rows within the best-scored `shares` of all rows; straight lines between distinct scores."""
    _, inverse = np.unique(-s, return_inverse=True)
    people = np.concatenate(([0], np.cumsum(np.bincount(inverse)))) / y.size
    positives = np.concatenate(([0], np.cumsum(np.bincount(inverse, weights=y)))) / y.sum()
    return np.asarray(np.interp(shares, people, positives), dtype=np.float64)


def _logistic(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))
