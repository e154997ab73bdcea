"""The section on who the good customers are: groups with their index, features with their information value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import wording
from .markup import (
    NBSP,
    Column,
    Html,
    Row,
    bar,
    card,
    element,
    joined,
    lines,
    name,
    opening,
    small,
    table,
    text,
    title,
    two,
)
from .wording import at, count, decimal, share, signed

Report = Mapping[str, Any]

_OPEN_FEATURES = 6
_LISTED_BINS = 8
_SENTENCES = 6
_CLEAR = 2.0
_SAY_NOTHING = ("nothing clear", "next to nothing")


@dataclass(frozen=True)
class _Bin:
    """A bin as it is drawn; `clearness` is its distance from the average in standard deviations, noise included."""

    feature: str
    label: str
    people: float
    index: float | None
    woe: float | None
    clearness: float

    @property
    def is_faint(self) -> bool:
        return abs(self.clearness) < _CLEAR


@dataclass(frozen=True)
class _Feature:
    """A feature as it is drawn: its bins, its information value and that in words; None where it was not counted."""

    name: str
    bins: tuple[_Bin, ...]
    iv: float | None
    interval: Sequence[float] | None
    strength: str

    @property
    def clearest(self) -> float:
        return max(abs(one.clearness) for one in self.bins)

    @property
    def says(self) -> bool:
        return bool(self.strength) and self.strength not in _SAY_NOTHING


def insight(report: Report) -> Html:
    facts = report.get("insight")
    if not facts or not isinstance(facts.get("features"), list) or not facts["features"]:
        return Html("")
    features = _features(facts)
    every = [one for feature in features for one in feature.bins if one.index is not None]
    doublings = _doublings([one for one in every if not one.is_faint])
    clear = sorted((one for one in every if not one.is_faint), key=lambda one: -abs(one.clearness))
    over = [one for one in clear if one.clearness > 0][:_LISTED_BINS]
    under = [one for one in clear if one.clearness < 0][:_LISTED_BINS]
    shown, folded = features[:_OPEN_FEATURES], features[_OPEN_FEATURES:]
    noise = at(facts, "noise")
    noised = f" Counts carry noise of about ±{count(noise)}, so that no single person can be made out." if noise else ""
    return joined(
        opening("Good customers", "Who the good customers are"),
        element(
            "p",
            "The index says how often the matched people of a group are good customers: 100 is the average "
            f"({share(at(facts, 'base_rate'))}), 200 twice as often.{noised} Groups that may be chance are pale.",
        ),
        _different([feature for feature in features if feature.says][:_SENTENCES]),
        two(
            card(title("More often good customers"), _listed_bins(over, doublings)),
            card(title("Less often good customers"), _listed_bins(under, doublings)),
        ),
        element("h3", "Feature by feature, the most telling first"),
        small(
            "The information value (IV) says how differently good customers and others are spread over a feature’s "
            "groups: under 0.02 it tells next to nothing, under 0.1 little, from 0.3 on much. From 0.5 on, ask whether "
            "the feature is a consequence of being a good customer. “Nothing clear” is what chance and noise alone "
            "would give. The weight of evidence (WOE) is a group’s odds against the average’s, as a logarithm: 0 is "
            "average.",
        ),
        _cards(shown, doublings),
        element("details", element("summary", _others(len(folded))), _cards(folded, doublings)) if folded else "",
        _withheld(facts),
    )


def _others(number: int) -> str:
    return f"The other {number} features" if number > 1 else "The other feature"


def _features(facts: Report) -> list[_Feature]:
    """Each feature with its bins: by information value where it was counted, else by the clearest bin."""
    base, noise = at(facts, "base_rate") or 0.0, at(facts, "noise") or 0.0
    features = []
    for feature in facts["features"]:
        bins = tuple(_bin(feature["name"], entry, base, noise) for entry in feature["bins"])
        if bins:
            interval, strength = at(feature, "iv_interval"), at(feature, "strength") or ""
            features.append(_Feature(feature["name"], bins, at(feature, "iv"), interval, strength))
    return sorted(features, key=lambda feature: (not feature.says, -(feature.iv or 0.0), -feature.clearest))


def _bin(feature: str, entry: Mapping[str, Any], base: float, noise: float) -> _Bin:
    counted = at(entry, "matched")
    people, index = max((at(entry, "people") if counted is None else counted) or 0, 0), at(entry, "index")
    # Counts carry the release's noise, once for each bin that was joined, besides the chance in any count of people.
    variance = noise**2 * (at(entry, "parts") or 1) * (1 + base**2) + people * base * (1 - base)
    away = people * base * (index / 100 - 1) if index is not None else 0.0
    clearness = away / math.sqrt(variance) if variance else 0.0
    return _Bin(feature, entry["label"], people, index, at(entry, "woe"), clearness)


def _different(features: Sequence[_Feature]) -> Html:
    if not features:
        return element("p", "By no feature do the good customers differ from the others by more than chance and noise.")
    said = lines(_sentence(feature) for feature in features)
    return element("div", card(title("What is different about them"), said), class_="three")


def _sentence(feature: _Feature) -> Html:
    """The group that stands out upward and the one downward, in plain words."""
    known = [one for one in feature.bins if one.index is not None and not one.is_faint]
    far = sorted(known, key=lambda one: one.index or 0.0)
    said = [one for one in far[-1:] if one.clearness > 0] + [one for one in far[:1] if one.clearness < 0]
    who = element("b", name(feature.name))
    if not said:
        return joined(who, f" ({feature.strength}): the groups differ a little each, none stands out.")
    first, *others = said
    clauses = [joined("people with “", name(first.label), "” are good customers ", _compared(first))]
    clauses += [joined(", those with “", name(one.label), "” ", _compared(one)) for one in others]
    return joined(who, f" ({feature.strength}): ", *clauses, ".")


def _compared(one: _Bin) -> str:
    """How often against the average: a multiple where that is far off, else a share more or less."""
    index = one.index or 0.0
    if index >= 150:
        return f"{index / 100:.1f} times as often as average"
    return f"{abs(index - 100):.0f}{NBSP}% {'more' if index >= 100 else 'less'} often than average"


def _listed_bins(bins: Sequence[_Bin], doublings: float) -> Html:
    if not bins:
        return small("No group stands out from the noise.")
    return _bins_table("group", ((f"{one.feature}: {one.label}", one) for one in bins), doublings)


def _cards(features: Sequence[_Feature], doublings: float) -> Html:
    cards = (
        card(
            element("h3", name(feature.name), " ", _value(feature)),
            _bins_table("value", ((one.label, one) for one in feature.bins), doublings, with_woe=True),
        )
        for feature in features
    )
    return element("div", *cards, class_="cards")


def _value(feature: _Feature) -> Html:
    """The information value with its interval, and the word for it."""
    if feature.iv is None:
        return Html("")
    said = f"· IV {decimal(feature.iv, 3)}"
    if feature.interval and feature.interval[1] - feature.interval[0] >= 0.001:
        said += f" ({decimal(feature.interval[0], 3)} to {decimal(feature.interval[1], 3)})"
    return element("span", f"{said} · {feature.strength}", class_="tag")


def _bins_table(first: str, bins: Iterable[tuple[str, _Bin]], doublings: float, *, with_woe: bool = False) -> Html:
    columns = [Column(first), Column("people", "people"), Column("under · over", "middle"), Column("index", "value")]
    columns += [Column("WOE", "value")] if with_woe else []
    rows = []
    for label, one in bins:
        drawn, index = Html(""), element("span", wording.UNKNOWN, title="under the floor")
        if one.index is not None:
            drawn = bar(math.log2(max(one.index, 1) / 100) / doublings, faint=one.is_faint)
            index = text(count(one.index))
        woe = [signed(round(one.woe, 2), 2) if one.woe is not None else wording.UNKNOWN] if with_woe else []
        rows.append(Row((name(label), count(one.people), drawn, index, *woe), "faint" if one.is_faint else None))
    return table(columns, rows, "bars")


def _withheld(facts: Report) -> Html:
    withheld = at(facts, "withheld") or ()
    if not withheld:
        return Html("")
    return small(f"Not shown, since all people ended in one group: {wording.listed(withheld)}.")


def _doublings(bins: Sequence[_Bin]) -> float:
    """How many doublings a full bar is: enough for the highest index, between one and two."""
    far = max((math.log2(max(one.index, 1) / 100) for one in bins if one.index is not None), default=1.0)
    return min(max(far, 1.0), 2.0)
