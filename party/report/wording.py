"""Numbers and sentences as a marketer reads them. Everything here is plain text; `markup` makes HTML of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .markup import NBSP

UNKNOWN = "–"


def at(facts: Any, *path: str) -> Any:
    """The entry under `path`, or None where a step did not leave it."""
    for name in path:
        if not isinstance(facts, Mapping) or facts.get(name) is None:
            return None
        facts = facts[name]
    return facts


def count(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:,.0f}"


def share(fraction: float | None) -> str:
    """A fraction as percent: one decimal under 10 %, none above."""
    if fraction is None:
        return UNKNOWN
    percent = 100 * fraction
    return f"{percent:.1f}{NBSP}%" if 0 < abs(percent) < 9.95 else f"{percent:.0f}{NBSP}%"


def decimal(number: float | None, digits: int) -> str:
    return UNKNOWN if number is None else f"{number:.{digits}f}".replace("-", "−")


def short(number: float | None) -> str:
    """Three digits, whole from a thousand on."""
    if number is None:
        return UNKNOWN
    return (f"{number:,.0f}" if 1000 <= abs(number) < 1e15 else f"{number:.3g}").replace("-", "−")


def signed(number: float, digits: int = 3) -> str:
    """With its sign, and with a digit more where a small number would look like none."""
    if 0 < abs(number) < 0.5 * 10**-digits:
        digits += 1
    return f"{number:+.{digits}f}".replace("-", "−")


def times(ratio: float | None) -> str:
    return UNKNOWN if ratio is None else f"{ratio:.1f}×"


def seconds(duration: float | None) -> str:
    if duration is None:
        return UNKNOWN
    if duration < 90:
        return f"{duration:.1f}{NBSP}s" if duration < 10 else f"{duration:.0f}{NBSP}s"
    return f"{duration / 60:.0f}{NBSP}min"


def size(amount: float | None) -> str:
    """Bytes in the largest decimal unit that leaves a number of at least one."""
    if amount is None:
        return UNKNOWN
    unit, whole = "B", amount
    for larger in ("kB", "MB", "GB"):
        if whole < 1000:
            break
        unit, whole = larger, whole / 1000
    return f"{whole:.0f}{NBSP}{unit}" if whole >= 10 or unit == "B" else f"{whole:.1f}{NBSP}{unit}"


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


@dataclass(frozen=True)
class Verdict:
    """What joining was worth: `kind` is better, noise, worse or untold; a headline and the sentence that backs it."""

    kind: str
    headline: str
    because: str


def verdict(train: Mapping[str, Any], peer: str) -> Verdict | None:
    """Judges the gain of the joint model over the brand's own columns by its 95 % interval on the hold-out rows.

    None where the train step left no such comparison.
    """
    alone, joint = at(train, "auc", "brand_only"), at(train, "auc", "joint")
    if alone is None or joint is None:
        return None
    gain = at(train, "gain")
    gain = joint - alone if gain is None else gain
    interval = at(train, "gain_interval")
    moved = f"The AUC goes from {alone:.3f} to {joint:.3f}, a change of {signed(gain)}"
    if interval is None:
        return Verdict(
            "untold",
            f"Too few held-out customers to tell what joining with {peer} is worth.",
            f"{moved}. There are too few held-out customers of one kind to say whether that is more than chance.",
        )
    low, high = interval
    backing = f"{moved} (95{NBSP}% interval {signed(low)} to {signed(high)})"
    if low > 0:
        just = "only just " if low < gain / 10 else ""
        return Verdict("better", _better(train, peer, alone, joint), f"{backing}: {just}more than chance explains.")
    if high < 0:
        return Verdict(
            "worse",
            f"Joined with {peer}, the model ranks your customers worse than your own columns do alone.",
            f"{backing}: more than chance explains. Your own model is the better one here.",
        )
    return Verdict(
        "noise",
        f"Joining with {peer} made no measurable difference here.",
        f"{backing}. The interval includes 0, so no gain is shown: more held-out customers, "
        "or other columns, might tell.",
    )


def _better(train: Mapping[str, Any], peer: str, alone: float, joint: float) -> str:
    """Counts of good customers where the best-scored tenth shows the gain, else the AUC in words."""
    lift_alone, lift_joint = at(train, "lift_at", "10", "brand_only"), at(train, "lift_at", "10", "joint")
    if lift_alone is not None and lift_joint is not None and round(10 * lift_joint) > round(10 * lift_alone) + 1:
        return (
            f"Joined with {peer}, your best-scored tenth holds {10 * lift_joint:.0f} of every 100 good customers. "
            f"Your own columns find {10 * lift_alone:.0f}."
        )
    if round(100 * joint) > round(100 * alone):
        return (
            f"Joined with {peer}, the model ranks a good customer above another one {100 * joint:.0f} times in 100. "
            f"Your own columns do so {100 * alone:.0f} times."
        )
    return f"Joined with {peer}, the model ranks your customers a little better than your own columns do."
