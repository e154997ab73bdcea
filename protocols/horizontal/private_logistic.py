"""Logistic regression over many holders of which every sum has noise: differential privacy of each row or each holder.

    holder i (rows x_i in -1..1 by the declared ranges, labels y_i)                  coordinator
                                                                    <-- spreads? --
      sum of (1, y, x, x^2)                                         --  answer  -->  means and scales of all columns
                                                                    <-- means, scales --
      sum of (1, u)(1, u)', u = (x - mean) / scale                  --  answer  -->  W, which makes (1, u) W white
    round t = 1 .. T:                                               <-- theta_t, W --
      sum of (p - y)(1, u) W                                        --  answer  -->  theta_t+1
                                                                    <-- theta --
      hold-out: counts of scores by class in 64 bins                --  answer  -->  AUC of all hold-outs

Each row's part of an answer is drawn in to length 1 (before that, in units of the longest that it is allowed). unit
"row": a holder adds its rows up. unit "client": it takes their mean, which has at most length 1 too. Then it adds its
share of noise and masks the whole (clipping.py): no number leaves without noise, so there are no losses, exact AUCs
or stops at convergence here.

The budget: an answer with the noise multiplier z / sqrt(f) costs f of that of one answer with z, and the parts f add up
to 1. A row that is held out takes part in the last answer only, and others in all but that, so for rows it has the
whole budget; for clients a tenth.

Why it is laid out so: noise is alike in all directions, so it costs least where the Hessian is too, and W makes it so
as far as the noise on the moments allows. Steps after the first are 1/1, 1/2, 1/3 .. as long as the Hessian says
[Robbins and Monro 1951], so more rounds are hardly more noise (docs/protocols/differential-privacy.md).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..channel import ConfigError, PeerError, PolicyError
from ..primitives.fixed_point import FloatArray
from . import logistic
from .clipping import clipped_sum, noise_multiplier, sensitivity, share_of
from .logistic import MOST_COLUMNS, MOST_ROUNDS, auc_of_counts
from .secure_sum import FEWEST, MOST
from .task import FRACTION_BITS, LEAST_ROWS, Course, Model, Outcome, Question, numbers_of

ROW, CLIENT = 1, 2
_BINS = 64
_WIDEST = 6.0
_LARGEST = 1e6
_SPREADS, _MOMENTS, _ROUNDS = 0.1, 0.2, 0.7
_HELD_OUT = 0.1
_DROWNED = 4.0


@dataclass(frozen=True)
class Settings:
    """What all mean. Drawn in: a row's gradient in the white columns, to clip_milli / 1000 times sqrt(columns + 1).

    multiplier_milli: z of the whole run in thousandths, as of `multiplier_milli`. unit: ROW or CLIENT. clients: how
    many there are, of which one besides the coordinator may look closer.
    """

    columns: int
    rounds: int
    l2_milli: int
    clip_milli: int
    unit: int
    multiplier_milli: int
    clients: int
    least_rows: int = LEAST_ROWS
    secure: bool = True
    robust: int = 0
    name: str = "private-logistic@1"

    def __post_init__(self) -> None:
        if not (1 <= self.columns <= MOST_COLUMNS and 1 <= self.rounds <= MOST_ROUNDS and 0 < self.l2_milli <= 10**12):
            raise ConfigError(
                f"logistic regression takes 1..{MOST_COLUMNS} columns, 1..{MOST_ROUNDS} rounds and a positive l2"
            )
        if not (0 < self.clip_milli <= 10**6 and self.unit in (ROW, CLIENT) and 0 < self.multiplier_milli <= 10**9):
            raise ConfigError("noise takes a positive clip and multiplier, and row or client as its unit")
        if not FEWEST <= self.clients <= MOST or self.least_rows < 2:
            raise ConfigError(f"{FEWEST} to {MOST} clients share noise out, and each has rows")

    @property
    def numbers(self) -> tuple[int, ...]:
        noise = (self.clip_milli, self.unit, self.multiplier_milli, self.clients)
        return (self.columns, self.rounds, self.l2_milli, *noise, self.least_rows)

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Settings:
        """From `numbers`. ConfigError for what is out of bounds."""
        columns, rounds, l2_milli, clip_milli, unit, multiplier, clients, least_rows = numbers
        return cls(columns, rounds, l2_milli, clip_milli, unit, multiplier, clients, least_rows)

    @property
    def widest(self) -> int:
        return max((self.columns + 1) * (self.columns + 2) // 2, 2 + 2 * self.columns, 2 * _BINS)

    @property
    def questions(self) -> int:
        return 3 + self.rounds

    @property
    def longest(self) -> float:
        """To what length a row's gradient is drawn in."""
        return self.clip_milli / 1000 * math.sqrt(self.columns + 1)

    def course(self, seed: bytes) -> Course:
        """Draws nothing, so the seed is not used."""
        del seed
        return _course(self)

    def deviation(self, part: float) -> float:
        """Of the noise on each number of an answer that has this part of the budget, where a row has length 1."""
        return self.multiplier_milli / 1000 / math.sqrt(part)

    @property
    def whole(self) -> float:
        """The part of the budget that the training has: a row trained with is in no hold-out, a client has both."""
        return 1.0 if self.unit == ROW else 1.0 - _HELD_OUT

    @property
    def unsure(self) -> float:
        """How long the noise makes the matrix of moments, whose own length is about the number of rows or clients."""
        return self.deviation(self.whole * _MOMENTS) * 2 * (self.columns + 1) * math.sqrt(2 * (self.columns + 1))

    def verify_count(self, count: float) -> None:
        """PolicyError where noise would drown what so many rows, or clients, have to say."""
        if self.unsure > _DROWNED * count:
            raise PolicyError(
                "at this epsilon the noise is larger than all that the clients could say, so nothing is trained",
                "allow more epsilon, enter fewer columns or more rows, or hide a row and not a client",
            )

    def share(self, part: float, size: int) -> int:
        """Of each holder, in units of the last place of what travels."""
        return share_of(self.deviation(part), sensitivity(1.0, size, FRACTION_BITS), self.clients)


def multiplier_milli(epsilon: float, delta: float) -> int:
    """z of a run with this epsilon at delta, in thousandths, rounded up."""
    return math.ceil(1000 * noise_multiplier(epsilon, delta, 1))


class Holder(logistic.Holder):
    """One holder's rows, as logistic.Holder takes them."""

    def __init__(
        self, x: ArrayLike, y: ArrayLike, x_test: ArrayLike, y_test: ArrayLike, *, ranges: ArrayLike, settings: Settings
    ) -> None:
        plain = logistic.Settings(settings.columns, settings.rounds, settings.l2_milli, least_rows=settings.least_rows)
        super().__init__(x, y, x_test, y_test, ranges=ranges, settings=plain)
        self._private = settings

    def answer(self, question: Question) -> FloatArray:
        """As the figure says, before noise. PeerError for a model of another shape or of numbers beyond reason."""
        ours, model, d = self._private, question.model, self._private.columns
        if question.kind == "train.spreads":
            x = self._x[:, 1:]
            # |x| <= 1, so that no row is longer than sqrt(2 + 2 d).
            rows = np.hstack([self._x[:, :1], self._y[:, None], x, x**2]) / math.sqrt(2 + 2 * d)
            return self._pooled(rows.sum(axis=0), len(rows))
        if question.kind == "train.moments":
            to_scales = numbers_of(model, "to_scales", (d + 1, d + 1), _LARGEST)
            rows = self._x @ to_scales
            longest = math.sqrt(2 * (d + 1))
            rows /= np.maximum(np.linalg.norm(rows, axis=1), longest)[:, None]
            # Off the diagonal each product stands for two: so the upper triangle is as long as the whole.
            return self._pooled((rows.T @ rows * _doubled(d + 1))[np.triu_indices(d + 1)], len(rows))
        theta = numbers_of(model, "theta", (d + 1,), _LARGEST)
        if question.kind == "train":
            white = self._x @ numbers_of(model, "to_white", (d + 1, d + 1), _LARGEST)
            residuals = 0.5 * (1 + np.tanh(self._x @ theta / 2)) - self._y
            return self._pooled(clipped_sum(white, residuals, ours.longest) / ours.longest, len(white))
        if question.kind == "evaluate":
            at = np.clip((self._x_test @ theta + _WIDEST) * (_BINS / (2 * _WIDEST)), 0, _BINS - 1).astype(np.int64)
            counts = np.bincount(at + _BINS * (self._y_test == 1), minlength=2 * _BINS).astype(np.float64)
            return self._pooled(counts, len(at))
        raise PeerError("the coordinator asks for what private logistic regression does not answer")

    def _pooled(self, total: FloatArray, rows: int) -> FloatArray:
        return total if self._private.unit == ROW else total / max(rows, 1)


def _doubled(n: int) -> FloatArray:
    return np.asarray(math.sqrt(2) - (math.sqrt(2) - 1) * np.eye(n))


def _course(settings: Settings) -> Generator[Question, FloatArray, Outcome]:
    d = settings.columns

    if settings.unit == CLIENT:
        settings.verify_count(settings.clients)

    def question(kind: str, model: Model, size: int, part: float, told: dict[str, float] | None = None) -> Question:
        return Question(kind, model, size, told or {}, noise=settings.share(part, size))

    size = 2 + 2 * d
    sums = (yield question("train.spreads", {}, size, settings.whole * _SPREADS)) * math.sqrt(size)
    unsure = settings.deviation(settings.whole * _SPREADS) * math.sqrt(size)
    count = float(sums[0])
    settings.verify_count(count)
    share = float(np.clip(sums[1] / count, 0.01, 0.99))
    mean = np.clip(sums[2 : 2 + d] / count, -1, 1)
    # What the noise alone may be is no spread of a column: it has at least so much.
    scale = np.sqrt(np.clip(sums[2 + d :] / count - mean**2, min(1.0, 2 * unsure / count), 1.0))
    to_scales = np.diag(np.append(1.0, 1 / scale))
    to_scales[0, 1:] = -mean / scale

    size = (d + 1) * (d + 2) // 2
    sums = yield question("train.moments", {"to_scales": to_scales}, size, settings.whole * _MOMENTS)
    gram = np.zeros((d + 1, d + 1))
    gram[np.triu_indices(d + 1)] = sums * 2 * (d + 1)
    gram = (np.triu(gram) + np.triu(gram, 1).T) / _doubled(d + 1)
    # The length of a symmetric matrix of noise; what is less is not known from nothing and is taken for that much.
    values, vectors = np.linalg.eigh(gram / count)
    white = (vectors / np.sqrt(np.maximum(values, max(settings.unsure / count, 1e-6)))) @ vectors.T
    to_white = to_scales @ white

    # theta = to_white beta; the penalty is on what stands for the scaled columns, by one row for clients' means.
    penalty = np.full(d + 1, settings.l2_milli / 1000 / (1 if settings.unit == ROW else settings.least_rows))
    penalty[0] = 0.0
    beta = np.linalg.solve(to_white, np.append(math.log(share / (1 - share)), np.zeros(d)))
    inverse = np.linalg.inv(share * (1 - share) * count * np.eye(d + 1) + white.T @ (penalty[:, None] * white))
    steps: list[float] = []
    for t in range(settings.rounds):
        model = {"theta": to_white @ beta, "to_white": to_white}
        told = {"step": steps[-1]} if steps else {}
        sums = yield question("train", model, d + 1, settings.whole * _ROUNDS / settings.rounds, told)
        gradient = sums * settings.longest + white.T @ (penalty * (white @ beta))
        step = inverse @ gradient / max(1, t)
        # No honest step is so long: noise on few rows is.
        beta = np.clip(beta - step, -_WIDEST, _WIDEST)
        steps.append(float(np.linalg.norm(step)))
    theta = to_white @ beta
    part = 1.0 if settings.unit == ROW else _HELD_OUT
    counts = yield question("evaluate", {"theta": theta}, 2 * _BINS, part, {"step": steps[-1]})
    # Counts below zero stay: raised to zero, the noise of empty bins would add up.
    negatives, positives = np.split(counts, 2)
    area = float(np.clip(auc_of_counts(positives, negatives), 0.0, 1.0))
    return Outcome({"theta": theta}, {"step": tuple(steps), "auc": (area,)}, False)
