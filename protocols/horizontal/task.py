"""What a task of many holders is made of: a part at each holder, and one course of questions that their sums answer.

A course is a generator: it yields what to ask everybody next and is sent the sum of the answers, until it returns what
came out. It draws nothing and looks at no clock, so whoever has the sums can run it: the coordinator does to ask, and
each holder does to check that what it is asked follows from what all have answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from ..channel import ConfigError, PeerError, PolicyError
from ..primitives.fixed_point import FloatArray, IntArray
from .secure_sum import FEWEST, MOST, FixedPoint, Member, model_hash

MOST_ROWS = 2**24
LEAST_ROWS = 1000
FEWEST_ROBUST = 5
MEDIAN = 1
FRACTION_BITS = 28

Model = Mapping[str, FloatArray]


@dataclass(frozen=True)
class Question:
    """What everybody is asked next.

    kind: "train" or "evaluate", or one of them with an action; size: how many numbers an answer has; told: what the
    last answers said, as one point of each curve; update: which numbers are a gradient, whose length a robust mean
    bounds and where an idle holder shows; noise: the standard deviation of what each holder adds to every number, in
    units of the last place of `digits`.
    """

    kind: str
    model: Model
    size: int
    told: Mapping[str, float] = field(default_factory=dict)
    update: slice | None = None
    noise: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came out: the model, and one number a round of each curve."""

    model: Model
    curves: Mapping[str, tuple[float, ...]]
    converged: bool

    @property
    def rounds(self) -> int:
        return max(map(len, self.curves.values()), default=0)


Course = Generator[Question, FloatArray, Outcome]


class Task(Protocol):
    """A task's settings, the same at all holders; `numbers` and `columns` say all of them."""

    @property
    def name(self) -> str: ...
    @property
    def numbers(self) -> tuple[int, ...]: ...
    @property
    def columns(self) -> int: ...
    @property
    def questions(self) -> int:
        """No course asks more."""

    @property
    def widest(self) -> int:
        """No answer has more numbers."""

    @property
    def secure(self) -> bool: ...
    @property
    def robust(self) -> int: ...
    @property
    def least_rows(self) -> int: ...

    def course(self, seed: bytes) -> Course:
        """The questions of one run; seed (32 bytes, known to all) stands for every draw."""


class Part(Protocol):
    """One holder's rows, and what it says of them."""

    @property
    def rows(self) -> int: ...

    def answer(self, question: Question) -> FloatArray:
        """(size,) numbers of which the first counts rows and none is larger than `rows`. PeerError for a bad model."""

    def verify(self, model: Model) -> None:
        """PolicyError if the model that came out is not to be used here."""


@dataclass(frozen=True)
class Site:
    """What one holder brings to a run.

    member: its keys in this run. Without one (a simulation) nothing is signed and nothing hidden.
    terms: 32 bytes that are the same at all who mean the same contract and the same ranges of columns.
    noise: (standard deviation, size) -> so many draws of the discrete Gaussian; only where the task asks for noise.
    """

    name: str
    cohort: tuple[str, ...]
    task: Task
    part: Part
    terms: bytes
    member: Member | None = None
    noise: Callable[[int, int], IntArray] | None = None

    def verify(self) -> None:
        """PolicyError for what our own rules refuse before a number leaves."""
        if len(set(self.cohort)) < FEWEST or self.name not in self.cohort:
            raise PolicyError(
                f"training across holders needs {FEWEST} organisations, this one included; the contract names "
                f"{len(set(self.cohort))}: of two, each gets the other's part as the sum minus its own",
                "find another organisation, or train between two with the vertical steps",
            )
        if len(self.cohort) > MOST or len(set(self.cohort)) < len(self.cohort):
            raise ConfigError(f"a cohort has at most {MOST} organisations and each name once")
        if self.part.rows < self.task.least_rows:
            raise PolicyError(
                f"this party has fewer rows than the {self.task.least_rows} that the contract asks of each: an update "
                "from few rows shows them",
                "take part with more rows, or agree on a contract with a lower least_rows",
            )
        if self.part.rows > MOST_ROWS:
            raise ConfigError(f"a holder trains with at most {MOST_ROWS} rows", "take a sample")
        if self.task.robust and (self.task.secure or len(self.cohort) < FEWEST_ROBUST):
            raise PolicyError(
                f"a robust mean needs {FEWEST_ROBUST} organisations that answer in the clear",
                "choose between secure sums and a robust mean",
            )
        if self.task.secure and self.member is None:
            raise ConfigError("secure sums need this party's keys")


def digits(members: int, noise: int = 0) -> FixedPoint:
    """How answers travel where sums are hidden: no number of an answer is larger than the rows it is made of."""
    return FixedPoint(members, float(MOST_ROWS), FRACTION_BITS, noise)


def asked_hash(question: Question) -> bytes:
    """32 bytes that are the same for the same question: its kind and every number that it gives."""
    kind = np.frombuffer(question.kind.encode(), np.uint8).astype(np.float64)
    return model_hash(kind, *(question.model[name] for name in sorted(question.model)))


def is_same(ours: Question, theirs: Question) -> bool:
    """Whether two questions are the same but for the rounding of two machines."""
    if ours.kind != theirs.kind or set(ours.model) != set(theirs.model):
        return False
    return all(_is_close(mine, theirs.model[name]) for name, mine in ours.model.items())


def _is_close(mine: FloatArray, other: FloatArray) -> bool:
    # As numpy.allclose, of whose time nearly all goes into numbers that are not finite: those are never close here.
    return mine.shape == other.shape and bool((np.abs(mine - other) <= 1e-9 + 1e-6 * np.abs(other)).all())


def numbers_of(model: Model, name: str, shape: tuple[int, ...], limit: float) -> FloatArray:
    """One array of a model that came. PeerError if it is missing, has another shape or numbers beyond the limit."""
    array = model.get(name)
    if array is None or array.shape != shape:
        came = "none" if array is None else str(array.shape)
        raise PeerError(f"the coordinator's model has {came} for {name}, {shape} is what the contract's has")
    if not np.isfinite(array).all() or np.abs(array).max(initial=0.0) > limit:
        raise PeerError(f"the coordinator's model has numbers beyond {limit:g} in {name}", "start a new run")
    return array


def scaled(x: ArrayLike, ranges: ArrayLike) -> FloatArray:
    """Columns clipped to their declared ranges and laid on -1..1. x (n, d), ranges (d, 2) -> (n, d)."""
    values, (low, high) = np.asarray(x, np.float64), np.asarray(ranges, np.float64).T
    if not (low < high).all():
        raise ConfigError("every range needs a lower end below its upper end")
    if not np.isfinite(values).all():
        raise ConfigError("features must be finite numbers", "fill in missing values first")
    return np.asarray((np.clip(values, low, high) - (low + high) / 2) / ((high - low) / 2))


def terms_of(contract: bytes, cohort: tuple[str, ...], task: Task, ranges: ArrayLike) -> bytes:
    """32 bytes for a Site's terms."""
    said = "\0".join((task.name, *map(str, task.numbers), *sorted(cohort))).encode()
    bounds = np.ascontiguousarray(ranges, "<f8").tobytes()
    parts = (contract, said, bounds)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).digest()
