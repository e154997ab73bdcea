"""Logistic regression over the rows of many holders: the pooled optimum, whoever has which rows.

    holder i (rows x_i in -1..1 by the declared ranges, labels y_i)                  coordinator
                                                                    <-- moments? --
      sum of (1, x)(1, x)', sum of y                                --  answer  -->  means, scales, correlations of all
    round t = 1 .. T, theta_1 from the share of positives:
                                                                    <-- theta_t --
      all rows: sum of loss, sum of (p - y)(1, x)                   --  answer  -->  theta_t+1: L-BFGS, begun from the
      hold-out: rows, loss, counts of scores by class in 256 bins                    Hessian that the moments give;
                                                                                     AUC of all hold-outs
    and, if T rounds were not enough for the optimum, the hold-out part once more at the last theta

Every answer is a sum over all rows of a holder, and the coordinator uses the sum over all holders and nothing else, so
neither how rows are dealt nor how many each has changes the model. L-BFGS and not Newton's method: it needs one matrix
of second moments at the start, where Newton's takes one a round, each of which says more about the rows than d sums do.

What it learns: the sums, see docs/protocols/horizontal.md.

Reference: the optimum is scikit-learn's LogisticRegression(C=1/l2) on standardised columns of the pooled rows.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..blind.descent import Descent, newton
from ..channel import ConfigError, PeerError, PolicyError
from ..primitives.fixed_point import FloatArray, IntArray
from .task import LEAST_ROWS, Course, Model, Outcome, Question, numbers_of, scaled

MOST_COLUMNS = 300
MOST_ROUNDS = 100
BINS = 256
WORST_DROP = 0.02
_WIDEST = 12.0
_LOSS_UNIT = 64.0
_LARGEST = 1e6
_CLOSE = 1e-6
_FLAT = 1e-9
_HOLD_OUT = 2 + 2 * BINS


@dataclass(frozen=True)
class Settings:
    """l2: of scikit-learn's loss, sum of losses + l2 |w|^2 / 2 over standardised columns; in thousandths.

    robust: 0 for sums; 1 the median, 2 the trimmed mean of what the holders say in the clear.
    """

    columns: int
    rounds: int = 30
    l2_milli: int = 1000
    secure: bool = True
    robust: int = 0
    least_rows: int = LEAST_ROWS
    name: str = "logistic@1"

    def __post_init__(self) -> None:
        if not (1 <= self.columns <= MOST_COLUMNS and 1 <= self.rounds <= MOST_ROUNDS and 0 < self.l2_milli <= 10**12):
            raise ConfigError(
                f"logistic regression takes 1..{MOST_COLUMNS} columns, 1..{MOST_ROUNDS} rounds and a positive l2"
            )
        if self.robust not in (0, 1, 2) or self.least_rows < 2:
            raise ConfigError("robust is 0, 1 or 2, and least_rows at least 2")

    @property
    def numbers(self) -> tuple[int, ...]:
        return (self.columns, self.rounds, self.l2_milli, int(self.secure), self.robust, self.least_rows)

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Settings:
        """From `numbers`. ConfigError for what is out of bounds."""
        columns, rounds, l2_milli, secure, robust, least_rows = numbers
        return cls(columns, rounds, l2_milli, bool(secure), robust, least_rows)

    @property
    def widest(self) -> int:
        return max((self.columns + 1) * (self.columns + 2) // 2 + 1, self.columns + 3 + _HOLD_OUT)

    @property
    def questions(self) -> int:
        return 2 + self.rounds

    def course(self, seed: bytes) -> Course:
        """Draws nothing, so the seed is not used."""
        del seed
        return _course(self)


@dataclass(frozen=True)
class LogisticModel:
    """Scores rows as they are: intercept and weights for columns on -1..1 by their ranges."""

    theta: FloatArray
    ranges: FloatArray

    def score(self, x: ArrayLike) -> FloatArray:
        """The log-odds of each row, (n,)."""
        return np.asarray(self.theta[0] + scaled(x, self.ranges) @ self.theta[1:])


class Holder:
    """One holder's rows: x (n, d) as they are, y 0 or 1, and what it holds out to judge models by.

    ranges (d, 2): declared by the contract; what lies outside is clipped.
    """

    def __init__(
        self, x: ArrayLike, y: ArrayLike, x_test: ArrayLike, y_test: ArrayLike, *, ranges: ArrayLike, settings: Settings
    ) -> None:
        self._x, self._y = _with_ones(scaled(x, ranges)), np.asarray(y, np.float64)
        self._x_test, self._y_test = _with_ones(scaled(x_test, ranges)), np.asarray(y_test, np.float64)
        self._settings = settings
        shapes = (self._x.shape[1] - 1, self._x_test.shape[1] - 1)
        if shapes != (settings.columns, settings.columns):
            raise ConfigError(f"the data set has {shapes[0]} columns, {settings.columns} are what the contract names")
        if not (set(np.unique(self._y)) | set(np.unique(self._y_test))) <= {0.0, 1.0}:
            raise ConfigError("a label is 0 or 1")
        if len(self._y_test) > len(self._y):
            raise ConfigError("no more rows are held out than are trained with")

    @property
    def rows(self) -> int:
        return len(self._y)

    def answer(self, question: Question) -> FloatArray:
        """As the figure says. PeerError for a model of another shape or of numbers beyond reason."""
        if question.kind == "train.moments":
            gram = self._x.T @ self._x
            return np.append(gram[np.triu_indices(len(gram))], self._y.sum())
        theta = numbers_of(question.model, "theta", (1 + self._settings.columns,), _LARGEST)
        if question.kind == "train":
            z = self._x @ theta
            slope = 0.5 * (1 + np.tanh(z / 2)) - self._y
            return np.concatenate([[self.rows, _loss(z, self._y)], self._x.T @ slope, self._hold_out(theta)])
        if question.kind == "evaluate":
            return np.append(float(self.rows), self._hold_out(theta))
        raise PeerError("the coordinator asks for what logistic regression does not answer")

    def _hold_out(self, theta: FloatArray) -> FloatArray:
        z = self._x_test @ theta
        counts = [np.bincount(_bins(z[self._y_test == label]), minlength=BINS) for label in (1, 0)]
        return np.concatenate([[len(z), _loss(z, self._y_test)], *counts])

    def verify(self, model: Model) -> None:
        """Refuses a model that ranks our own hold-out worse than what we could train alone.

        By how much is a matter of chance on few rows: WORST_DROP, and two standard errors of our own AUC.
        """
        theta = numbers_of(model, "theta", (1 + self._settings.columns,), _LARGEST)
        positives = int(self._y_test.sum())
        if min(positives, len(self._y_test) - positives) == 0 or len(np.unique(self._y)) < 2:
            return
        own = newton(self._x[:, 1:], self._y, self._settings.l2_milli / 1000)
        alone, pooled = auc(self._x_test @ own, self._y_test), auc(self._x_test @ theta, self._y_test)
        chance = _standard_error(alone, positives, len(self._y_test) - positives)
        if pooled < alone - WORST_DROP - 2 * chance:
            raise PolicyError(
                "the pooled model ranks our own hold-out clearly worse than a model of our rows alone: it is not used",
                "compare definitions of label and columns with the other holders; one of them may have sent nonsense",
            )


def _with_ones(x: FloatArray) -> FloatArray:
    return np.hstack([np.ones((len(x), 1)), x])


def _loss(z: FloatArray, y: FloatArray) -> float:
    """The loss in units that keep it below the number of rows; a row counts at most one unit."""
    return float(np.minimum((np.logaddexp(0.0, z) - y * z) / _LOSS_UNIT, 1.0).sum())


def _bins(z: FloatArray) -> IntArray:
    return np.clip((z + _WIDEST) * (BINS / (2 * _WIDEST)), 0, BINS - 1).astype(np.int64)


def auc(score: FloatArray, y: FloatArray) -> float:
    """The chance that a positive is ranked above a negative, ties counting half."""
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    positives = np.bincount(place, weights=y, minlength=len(counts)).astype(np.float64)
    return auc_of_counts(positives, counts - positives)


def auc_of_counts(positives: FloatArray, negatives: FloatArray) -> float:
    """The same from counts by ascending score; 0.5 where a class is missing."""
    pairs = float(positives.sum() * negatives.sum())
    if pairs == 0:
        return 0.5
    return float(positives @ (np.cumsum(negatives) - negatives / 2)) / pairs


def _standard_error(area: float, positives: int, negatives: int) -> float:
    """Of an AUC. [Hanley and McNeil, Radiology 1982]"""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    return math.sqrt(max(spread, 0.0) / (positives * negatives))


def _course(settings: Settings) -> Generator[Question, FloatArray, Outcome]:
    d = settings.columns
    sums = yield Question("train.moments", {}, (d + 1) * (d + 2) // 2 + 1)
    gram = np.zeros((d + 1, d + 1))
    gram[np.triu_indices(d + 1)] = sums[:-1]
    gram = np.triu(gram) + np.triu(gram, 1).T
    count, share = gram[0, 0], sums[-1] / max(gram[0, 0], 1.0)
    if count < 1 or not 0 < share < 1:
        raise PolicyError("the rows of all holders together need both labels", "look at how the label is made")
    mean = gram[0, 1:] / count
    scale = np.sqrt(np.maximum(np.diag(gram)[1:] / count - mean**2, 0.0))
    # A column that never changes keeps its scale; the penalty drives its weight to zero.
    scale[scale < 1e-9] = 1.0
    to_ranges = np.diag(np.append(1.0, 1 / scale))
    to_ranges[0, 1:] = -mean / scale
    # Standardised u = (x - mean) / scale, so (1, u) = (1, x) to_ranges and a model of u is to_ranges @ itself on x.
    penalty = np.full(d + 1, settings.l2_milli / 1000)
    penalty[0] = 0.0
    hessian = share * (1 - share) * (to_ranges.T @ gram @ to_ranges) + np.diag(penalty)
    start = np.zeros(d + 1)
    start[0] = math.log(share / (1 - share))
    descent = Descent(start, np.linalg.inv(hessian), np.ones(0))
    best, lowest = start, math.inf
    losses: list[float] = []
    held_out: list[tuple[float, float]] = []
    converged = False
    update = slice(2, d + 3)
    for _ in range(settings.rounds):
        told = {"loss": losses[-1], "auc": held_out[-1][0]} if losses else {}
        model = {"theta": to_ranges @ descent.theta}
        sums = yield Question("train", model, d + 3 + _HOLD_OUT, told, update=update)
        at = descent.theta
        loss = _LOSS_UNIT * sums[1] + 0.5 * float(at @ (penalty * at))
        gradient = to_ranges.T @ sums[update] + penalty * at
        losses.append(float(loss / count))
        held_out.append(_judged(sums[update.stop :]))
        if loss > lowest + _FLAT * abs(lowest):
            # The step was too long for where it led: half of it.
            descent.theta = best + (at - best) / 2
            continue
        best, lowest = at, loss
        converged = bool(np.abs(gradient).max() < _CLOSE * count)
        if converged:
            break
        descent.step(gradient)
    theta = to_ranges @ (best if converged else descent.theta)
    if not converged:
        sums = yield Question("evaluate", {"theta": theta}, 1 + _HOLD_OUT, {"loss": losses[-1]})
        held_out.append(_judged(sums[1:]))
    aucs, hold_out_losses = zip(*held_out, strict=True)
    return Outcome({"theta": theta}, {"loss": tuple(losses), "auc": aucs, "hold_out_loss": hold_out_losses}, converged)


def _judged(hold_out: FloatArray) -> tuple[float, float]:
    """The AUC and the loss a row of all hold-outs."""
    positives, negatives = hold_out[2 : 2 + BINS], hold_out[2 + BINS :]
    return auc_of_counts(positives, negatives), _LOSS_UNIT * float(hold_out[1]) / max(float(hold_out[0]), 1.0)
