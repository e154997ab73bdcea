"""What a wrong or idle member does to a sum, bounded and found: only where the coordinator may see each update.

Every function here needs the updates (what a member's model changed, or its gradient) one by one. A hidden sum has
none of them: there the bounds are those that each member keeps itself (clipping.py), and what shows a bad model is that
every member tries it on rows of its own before it accepts it.

    median, trimmed_mean     the middle of at least five, by coordinate: k wrong ones of 4 k + 1 move it little [YCRB18]
    drawn_in                 no update longer than twice the middle one's length
    findings                 who sent nothing, a constant, the model or step it was given, or another member's update

Members count alike, whatever their number of rows: a weight that a member states is one that it can lie about.

[YCRB18] Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
ICML 2018: median and trimmed mean, for members with rows of one distribution. Free riders: Lin, Du, Liu, "Free-riders
in Federated Learning: Attacks and Defenses", arXiv 1911.12560.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from ..channel import PeerError, PolicyError
from ..primitives.fixed_point import FloatArray
from .clipping import clipped, length

FEWEST = 5
_LONGEST = 2.0
_NOTHING = 1e-3
"""An update this much shorter than the middle one, or this near to another, is nothing of its member's own."""
_TELLING = 3


@dataclass(frozen=True)
class Finding:
    """Whom it is about and what its update is, as the end of a sentence."""

    name: str
    what: str


def checked(name: str, update: ArrayLike, size: int) -> FloatArray:
    """A member's update (size,), if it can be one. PeerError, with the name, for another shape or infinities."""
    values = np.asarray(update, np.float64)
    if values.shape != (size,):
        raise PeerError(f"{name} sent an update of the shape {values.shape}, ({size},) was expected")
    if not math.isfinite(length(values)):
        raise PeerError(f"{name} sent an update with numbers that are not finite or too large to measure")
    return values


def median(updates: Mapping[str, FloatArray]) -> FloatArray:
    """The middle value of each coordinate, (d,). PolicyError for fewer than five members."""
    return np.median(_stacked(updates), axis=0)


def trimmed_mean(updates: Mapping[str, FloatArray]) -> FloatArray:
    """The mean of each coordinate without its lowest and highest (n - 1) // 4 values, (d,).

    PolicyError for fewer than five members.
    """
    ordered = np.sort(_stacked(updates), axis=0)
    cut = (len(ordered) - 1) // 4
    middle: FloatArray = ordered[cut : len(ordered) - cut].mean(axis=0)
    return middle


def drawn_in(updates: Mapping[str, FloatArray]) -> tuple[dict[str, FloatArray], tuple[str, ...]]:
    """The updates, none longer than twice the median of all lengths, and the names of those that were."""
    lengths = {name: length(update) for name, update in updates.items()}
    most = _LONGEST * float(np.median(list(lengths.values())))
    shorter = {name: clipped(update, most) for name, update in updates.items()}
    return shorter, tuple(name for name in updates if lengths[name] > most)


def findings(updates: Mapping[str, FloatArray], last: FloatArray | None = None) -> tuple[Finding, ...]:
    """Who sent what no rows of its own can have made; `last` is the step that the model took before this round.

    A member that sends the model back has an update of (nearly) nothing; one that repeats the last step, in any size,
    a multiple of `last`. Of fewer than three numbers neither multiples nor constants tell anything.
    """
    middle = float(np.median([length(update) for update in updates.values()]))
    found = [Finding(name, what) for name, update in updates.items() if (what := _what(update, last, middle))]
    for (name, a), (other, b) in combinations(updates.items(), 2):
        if length(a) > _NOTHING * middle and length(a - b) <= _NOTHING * length(a):
            found += [Finding(name, f"the same as {other}'s"), Finding(other, f"the same as {name}'s")]
    return tuple(found)


def _what(update: FloatArray, last: FloatArray | None, middle: float) -> str:
    own = length(update)
    if own <= _NOTHING * middle or own == 0:
        return "nothing: the model came back as it was given"
    if len(update) >= _TELLING:
        if length(update - update.mean()) <= _NOTHING * own:
            return "one number in all places"
        if last is not None and _off(update, last) <= _NOTHING * own:
            return "a multiple of the step that was taken before"
    return ""


def _off(update: FloatArray, last: FloatArray) -> float:
    """How far the update is from the nearest multiple of `last`."""
    squared = float(last @ last)
    return length(update - last * (float(update @ last) / squared)) if squared else length(update)


def _stacked(updates: Mapping[str, FloatArray]) -> FloatArray:
    if len(updates) < FEWEST:
        raise PolicyError(
            f"the middle of {len(updates)} updates is one of them: robust sums need {FEWEST} members",
            "name more members, or leave `robust` out",
        )
    return np.stack(list(updates.values()))
