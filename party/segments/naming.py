"""A plain-language name for each segment, from what sets it apart most: "younger, urban, two cars".

A suggestion: it is made of column names and texts as the data sets have them. No column is named twice in a name, both
sides have a word where both have something to say, and no two segments are called the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidegate.protocols.clustering.cards import Trait

WORDS = 3
CLEAR = 0.25
"""How many standard deviations from everybody a segment must lie to be called by it; under that it is like them."""
ALIKE = 0.15
"""How far two columns may lie apart in any segment, as a part of how far they lie from everybody, to say the same."""
AVERAGE = "like everybody"
_AMOUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COUNTED = re.compile(r"^(?:n|num|nr|cnt|count|number)(?: of)? (?P<what>.+)$|^(?P<of>.+) (?:count|cnt)$")
_UNIT = re.compile(r" (?:years|yrs|months|days|eur|usd|gbp)$")
_ASKED, _DONE = re.compile(r"^(?:is|was|has|had) "), frozenset({"bought", "active", "paid", "won", "lost", "sold"})
_YES, _NO = frozenset({"yes", "true", "1", "y"}), frozenset({"no", "false", "0", "n"})
_NO_S = frozenset({"children", "people"})
# Columns that "high" and "low" sound odd with: what is said of much and of little.
_COMPARED = {
    "age": ("older", "younger"),
    "tenure": ("long-standing", "new"),
    "income": ("high income", "low income"),
    "salary": ("high income", "low income"),
    "price": ("expensive", "cheap"),
}


@dataclass(frozen=True)
class _Phrase:
    """What could be said of a segment: of which side's which column, in which words, and how far it sets it apart."""

    side: int
    column: str
    words: str
    strength: float
    profile: tuple[float, ...]


def names(sides: Sequence[Sequence[Trait]], k: int) -> list[str]:
    """One name for each of k segments, all different, from the traits of each side."""
    made: list[str] = []
    for j in range(k):
        phrases = sorted(_phrases(sides, j), key=lambda each: (-each.strength, each.side, each.column, each.words))
        phrases = _one_a_column(phrases)
        count = WORDS
        name = _joined(_both_sides(phrases, count))
        while name in made and count < len(phrases):
            count += 1
            name = _joined(_both_sides(phrases, count))
        plain, again = name, 2
        while name in made:
            name, again = f"{plain} ({again})", again + 1
        made.append(name)
    return made


def _joined(phrases: Sequence[_Phrase]) -> str:
    return ", ".join(each.words for each in phrases) or AVERAGE


def _one_a_column(phrases: Sequence[_Phrase]) -> list[_Phrase]:
    """The strongest phrase of each column, and of those that would say the same the strongest."""
    columns: set[tuple[int, str]] = set()
    words: set[str] = set()
    kept: list[_Phrase] = []
    for each in phrases:
        if (each.side, each.column) in columns or each.words.casefold() in words:
            continue
        if any(_is_told_by(each, other) for other in kept):
            continue
        columns.add((each.side, each.column))
        words.add(each.words.casefold())
        kept.append(each)
    return kept


def _is_told_by(one: _Phrase, other: _Phrase) -> bool:
    """Whether the columns share a word and lie alike, or just opposite, in all segments: car policies, car premium."""
    shared = {word for word in _plain(one.column).split() if len(word) > 2} & set(_plain(other.column).split())
    if one.side != other.side or not shared:
        return False
    here, there = np.array(one.profile), np.array(other.profile)
    far = min(float(np.abs(here - there).max()), float(np.abs(here + there).max()))
    return far <= ALIKE * float(np.abs(there).max())


def _both_sides(phrases: Sequence[_Phrase], count: int) -> list[_Phrase]:
    """The strongest, the last of them replaced where a side that has something to say has no word among them."""
    chosen = list(phrases[:count])
    for side in sorted({each.side for each in phrases}):
        told = [each.side for each in chosen]
        if side not in told and len(set(told)) < len(told):
            # The last of a side that keeps another word.
            place = max(i for i, other in enumerate(told) if told.count(other) > 1)
            chosen[place] = next(each for each in phrases if each.side == side)
    return chosen


def _phrases(sides: Sequence[Sequence[Trait]], j: int) -> list[_Phrase]:
    found = []
    for side, traits in enumerate(sides):
        shared = _shared_labels(traits)
        for trait in traits:
            for label in range(len(trait.labels) or 1):
                deviation = float(trait.deviations[j, label])
                if np.isnan(deviation) or abs(deviation) < CLEAR:
                    continue
                words = (
                    _of_category(trait, label, deviation, shared) if trait.labels else _of_number(trait, j, deviation)
                )
                if words:
                    profile = tuple(np.nan_to_num(trait.deviations[:, label]).tolist())
                    found.append(_Phrase(side, trait.name, words, abs(deviation), profile))
    return found


def _shared_labels(traits: Sequence[Trait]) -> set[str]:
    """Texts that stand in more than one column, so that they need their column's name beside them."""
    every = [label.casefold() for trait in traits for label in trait.labels]
    return {label for label in every if every.count(label) > 1}


def _of_category(trait: Trait, label: int, deviation: float, shared: set[str]) -> str:
    """Only of what a segment has more of: "urban", "two cars", "newsletter", "no newsletter", "plan: b"."""
    if deviation < 0:
        return ""
    text, column = trait.labels[label], _plain(trait.name)
    lower = text.casefold()
    labels = {each.casefold() for each in trait.labels}
    if len(labels) == 2 and labels & _YES and labels & _NO:
        return _is_so(column) if lower in _YES else _is_not_so(column)
    if lower == "other":
        return ""
    if text.isdigit() and int(text) < len(_AMOUNTS) and _is_plural(column):
        return _amount(int(text), _counted(column))
    if lower in shared or len(text) < 3 or not any(each.isalpha() for each in text):
        return f"{column}: {text}"
    return text


def _is_so(column: str) -> str:
    return _ASKED.sub("", column)


def _is_not_so(column: str) -> str:
    """ "no newsletter", "not active", "not subscribed" """
    plain = _is_so(column)
    asks_how = column.startswith(("is ", "was ")) or plain.endswith("ed") or plain in _DONE
    return f"not {plain}" if asks_how else f"no {plain}"


def _of_number(trait: Trait, j: int, deviation: float) -> str:
    """Of much or little: "older", "high income", "two cars", "many orders", "late signup"."""
    column, much = _plain(trait.name), deviation > 0
    compared = _COMPARED.get(_UNIT.sub("", column).rsplit(" ", 1)[-1])
    if compared is not None:
        return compared[0] if much else compared[1]
    if trait.kind == "date":
        return f"{'late' if much else 'early'} {column}"
    counted = _counted(column)
    if trait.kind == "whole" and (counted != column or _is_plural(counted)):
        mean = float(trait.values[j + 1, 0])
        if abs(mean - round(mean)) <= 0.25 and 0 <= round(mean) <= 3:
            return _amount(round(mean), counted)
        return f"{'many' if much else 'few'} {counted}"
    return f"{'high' if much else 'low'} {column}"


def _amount(number: int, what: str) -> str:
    if number == 0:
        return f"no {what}"
    return f"{_AMOUNTS[number]} {_singular(what) if number == 1 else what}"


def _plain(name: str) -> str:
    """A column's name in words: "n_cars" is "n cars", "avgBasket" is "avg basket"."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", name)
    return " ".join(re.split(r"[\s_.\-]+", apart.strip())).strip().lower() or name


def _counted(column: str) -> str:
    found = _COUNTED.match(column)
    if found is None:
        return column
    what = found.group("what") or found.group("of")
    return what if _is_plural(what) or what in _NO_S else f"{what}s"


def _is_plural(column: str) -> bool:
    return column.endswith("s") and not column.endswith(("ss", "us", "is"))


def _singular(what: str) -> str:
    if not _is_plural(what):
        return what
    return what[:-3] + "y" if what.endswith("ies") else what[:-1]
