"""The rows that a step after a match runs over, and what the contract says of each: label, hold-out, columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidegate.protocols.catalog import CATALOG
from tidegate.protocols.channel import ConfigError, PolicyError
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire.contract import Step

from .data import table
from .job import IntArray, Job


def aligned(job: Job) -> IntArray:
    """This party's row at each of the places that a step after the match runs over; -1 where it has none.

    Shown alignment: the matched rows, in the order that both parties share. Hidden: all of the media's people with a
    match key, in the secret order that it drew for the match; the brand's vector is as long, with -1 at people that
    it does not know, so that nothing the media sees need depend on who or how many they are.
    """
    name = "rows.i64" if is_shown(job) else "order.i64"
    return np.fromfile(job.earlier["match"] / name, dtype="<i8").astype(np.int64)


def is_shown(job: Job) -> bool:
    """Whether both sides know who matched, by the protocol of the step; else the brand alone does."""
    return CATALOG[job.step.protocol].alignment != "hidden"


def read_rows(matched: Path) -> IntArray:
    """The row numbers that a match step left in its folder."""
    return np.fromfile(matched / "rows.i64", dtype="<i8").astype(np.int64)


def read_split(trained: Path) -> NDArray[np.uint8]:
    """What the train step used each matched row for: 1 training, 2 held out, 0 neither."""
    return np.fromfile(trained / "split.u8", dtype=np.uint8)


def granted(job: Job) -> list[str]:
    return list(job.contract.features.get(job.party, ()))


@dataclass(frozen=True)
class Labels:
    """The brand's labels over the shared order: `y` is 1 for a good customer, 0 where `known` is false.

    Not known are rows without a label, and places at which the brand has no row.
    """

    y: NDArray[np.int64]
    known: NDArray[np.bool_]


def labels_of(job: Job, aligned: IntArray) -> Labels:
    values = table.binary(job.rows, job.contract.label.column, job.contract.label.positive)[aligned]
    return Labels(y=((values == 1) & (aligned >= 0)).astype(np.int64), known=(values >= 0) & (aligned >= 0))


def held_out_rows(job: Job, aligned: IntArray) -> NDArray[np.bool_]:
    rule = job.contract.holdout
    if rule.column:
        texts = np.array(table.texts(job.rows, rule.column), dtype=object)[aligned]
        held_out: NDArray[np.bool_] = texts == rule.value
        return held_out
    return drawn_out(job, len(aligned))


def drawn_out(job: Job, n: int) -> NDArray[np.bool_]:
    """Which of n places a contract holds out that names a share: both parties draw the same."""
    drawn: NDArray[np.bool_] = Randomness(job.contract.hash).integers(100, n) < np.uint64(job.contract.holdout.percent)
    return drawn


def enough_seeds(job: Job, positives: int) -> None:
    if positives < job.contract.guards.seeds:
        raise PolicyError(
            f"fewer than {job.contract.guards.seeds} matched good customers to learn from",
            "match more people, or choose a label value that more of them have",
        )


def number(step: Step, name: str) -> int:
    value = step.settings.get(name, 0)
    if not isinstance(value, int):
        raise ConfigError(f"the contract's setting {name} of step {step.step} is not a whole number")
    return value


def score_budget(job: Job) -> int:
    """How many scores of one person a snapshot may give away across models: a fifth of its columns, at least 4.

    As many linear scores as columns would solve for a person's values, so the budget stays well under that.
    """
    return max(4, len(granted(job)) // 5)
