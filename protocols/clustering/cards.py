"""What each segment is like, column by column: shown to others only as far as it is about enough people.

    media                                   brand
      Cards(k, columns), Card ...   ----->    refuses columns that the contract does not grant, more or fewer segments,
                                              names that are not printable, numbers that are none

Of a column of numbers a segment's mean, rounded to 3 significant digits; of a category the share of each of its texts
in whole percents, among those who have one. The floor is kept for what is shown and for what could be had from it by
subtraction:

    a segment in which fewer than the floor have a value shows nothing of the column
    a share is shown where the floor has the text, and while those whose text is not shown are fewer than the floor, the
    least of the shares shown goes too. Of the last one it is said that it is at least 1 - floor / size: that fewer
    than the floor have something else, not whether anybody has
    where everybody's share of a text is shown, and the segments that do not show theirs have fewer than the floor with
    it between them, the one with the fewest of those shown does not either

Deviation is how far a segment lies from everybody, in standard deviations of everybody: it makes columns comparable.

Learns: brand the cards; media nothing. Nothing is encrypted: the line is sealed, and what it carries is to be known.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..channel import Channel, DisagreementError, Message, PeerError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

KINDS = ("number", "whole", "date", "category")
MAX_LABELS = 60
MAX_LABEL = 80
MAX_NAME = 200
_MOST = 1e101
_MOST_DEVIATION = 1e6
_WITHHELD, _SHOWN, _AT_LEAST = range(3)


@dataclass(frozen=True)
class Trait:
    """One column of a party: what everybody is like in it (row 0), and each segment (rows 1..k).

    kind: one of KINDS. labels: the texts of a category; of numbers none. values (k + 1, m): means (m = 1) or percents
    of each label, NaN where withheld. at_least (k + 1, m): whether a percent is a lower bound. deviations (k, m), NaN
    where withheld. Dates are in days since 1970.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    values: FloatArray
    at_least: NDArray[np.bool_]
    deviations: FloatArray


@dataclass(frozen=True)
class Cards(Message):
    """How many segments there are, and how many columns follow."""

    segments: int
    columns: int


@dataclass(frozen=True)
class Card(Message):
    """A `Trait`: kind is a place in KINDS, labels are UTF-8, numbers float64, and `shown` a byte for each value.

    0 withheld (the number is 0 then), 1 shown, 2 at least so much.
    """

    MAX_BYTES: ClassVar[int] = 2**17
    name: str
    kind: int
    labels: tuple[bytes, ...]
    values: bytes
    shown: bytes
    deviations: bytes


def of_numbers(name: str, kind: str, values: FloatArray, segment: IntArray, k: int, floor: int) -> Trait:
    """values (n,), NaN where missing; segment (n,) in 0..k-1."""
    there = ~np.isnan(values)
    mean, sd = (float(values[there].mean()), float(values[there].std())) if int(there.sum()) >= floor else (math.nan, 1)
    means = np.full((k + 1, 1), math.nan)
    means[0] = _rounded(mean)
    deviations = np.full((k, 1), math.nan)
    for j in range(k):
        own = values[there & (segment == j)]
        if len(own) >= floor:
            means[j + 1] = _rounded(float(own.mean()))
            deviations[j] = round((float(own.mean()) - mean) / sd, 2) if sd > 0 else 0.0
    return Trait(name, kind, (), means, np.zeros((k + 1, 1), np.bool_), deviations)


def of_categories(name: str, labels: Sequence[str], codes: IntArray, segment: IntArray, k: int, floor: int) -> Trait:
    """codes (n,): places in `labels`, -1 where there is no text; segment (n,) in 0..k-1."""
    m = len(labels)
    there = codes >= 0
    counts = np.zeros((k + 1, m), np.int64)
    np.add.at(counts, (segment[there] + 1, codes[there]), 1)
    counts[0] = counts[1:].sum(axis=0)
    values, at_least = np.full((k + 1, m), math.nan), np.zeros((k + 1, m), np.bool_)
    for row in range(k + 1):
        values[row], at_least[row] = _percents(counts[row], floor)
    for label in range(m):
        _hide_rest(counts[:, label], values[:, label], at_least[:, label], floor)
    share = values[0] / 100
    with np.errstate(invalid="ignore", divide="ignore"):
        deviations = np.round((values[1:] / 100 - share) / np.sqrt(share * (1 - share)), 2)
    deviations[~np.isfinite(deviations)] = math.nan
    return Trait(name, "category", _clear(labels), values, at_least, deviations)


def _percents(counts: IntArray, floor: int) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Of people with a text the percent that has each, NaN where it is withheld, and whether at least so many do."""
    values, at_least = np.full(len(counts), math.nan), np.zeros(len(counts), np.bool_)
    size = int(counts.sum())
    shown = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i] >= floor]
    if size < floor or not shown:
        return values, at_least
    while len(shown) > 1 and len(shown) < len(counts) and size - int(counts[shown].sum()) < floor:
        shown.pop()
    if len(shown) == 1 and size - int(counts[shown].sum()) < floor:
        least = math.floor(100 * (1 - floor / size))
        if least > 0:
            values[shown], at_least[shown] = least, True
        return values, at_least
    values[shown] = np.rint(100 * counts[shown] / size)
    return values, at_least


def _hide_rest(counts: IntArray, values: FloatArray, at_least: NDArray[np.bool_], floor: int) -> None:
    """Withholds one text's shares, everybody's first, until the segments whose share is open have the floor of people.

    What a segment shows no more has the floor of people, so the rest of its own column stays large enough.
    """
    while not (math.isnan(values[0]) or at_least[0]):
        shown = ~np.isnan(values[1:]) & ~at_least[1:]
        if shown.all() or not shown.any() or int(counts[1:][~shown].sum()) >= floor:
            return
        values[1 + int(np.argmin(np.where(shown, counts[1:], counts.max() + 1)))] = math.nan


def _rounded(value: float) -> float:
    """To 3 significant digits; NaN stays."""
    return value if math.isnan(value) else float(f"{value:.3g}")


def _clear(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels as others may see them: printable, not too long, all different."""
    found: list[str] = []
    for label in labels:
        text = "".join(each if each.isprintable() else "?" for each in label)
        text = text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"
        plain, again = text or "?", 2
        text = plain
        while text in found:
            text, again = f"{plain[: MAX_LABEL - 6]} ({again})", again + 1
        found.append(text)
    return tuple(found)


async def send(channel: Channel, traits: Sequence[Trait], k: int) -> None:
    """Hands over the cards of one's own columns."""
    await channel.send(Cards(k, len(traits)))
    for trait in traits:
        shown = np.where(np.isnan(trait.values), _WITHHELD, np.where(trait.at_least, _AT_LEAST, _SHOWN))
        await channel.send(
            Card(
                name=trait.name,
                kind=KINDS.index(trait.kind),
                labels=tuple(label.encode() for label in trait.labels),
                values=np.nan_to_num(trait.values).astype("<f8").tobytes(),
                shown=shown.astype(np.uint8).tobytes(),
                deviations=np.nan_to_num(trait.deviations).astype("<f8").tobytes(),
            )
        )


async def receive(channel: Channel, k: int, granted: Collection[str]) -> list[Trait]:
    """The cards of a peer's columns, each of them in `granted`. PeerError for anything that `send` would not send."""
    head = await channel.recv(Cards)
    if head.segments != k:
        raise DisagreementError(f"the media's cards are of {head.segments} segments, ours of {k}")
    if head.columns > len(granted):
        raise PeerError(f"the media sends cards of {head.columns} columns where {len(granted)} are granted")
    found: list[Trait] = []
    for _ in range(head.columns):
        found.append(_trait(await channel.recv(Card), k))
        names = [trait.name for trait in found]
        if names[-1] not in granted or names[-1] in names[:-1]:
            raise PeerError("the media's cards are not of the columns that the contract grants, each once")
    return found


def _trait(card: Card, k: int) -> Trait:
    if card.kind >= len(KINDS):
        raise PeerError(f"a card is of kind {card.kind}, of {len(KINDS)} that there are")
    kind = KINDS[card.kind]
    m = len(card.labels) if kind == "category" else 1
    if (kind != "category" and card.labels) or not 1 <= m <= MAX_LABELS:
        raise PeerError(f"a card has {len(card.labels)} labels; a category has 1 to {MAX_LABELS}, a number none")
    try:
        labels = tuple(label.decode() for label in card.labels)
    except UnicodeDecodeError:
        raise PeerError("a card has a label in other than UTF-8") from None
    if len(card.name) > MAX_NAME or not card.name.isprintable():
        raise PeerError(f"a card has a name that is not up to {MAX_NAME} printable characters")
    if any(not label or len(label) > MAX_LABEL or not label.isprintable() for label in labels):
        raise PeerError(f"a card has a label that is not 1 to {MAX_LABEL} printable characters")
    if len(set(labels)) != len(labels):
        raise PeerError("a card has a label twice")
    shown = np.frombuffer(card.shown, np.uint8)
    if len(shown) != (k + 1) * m or bool((shown > _AT_LEAST).any()):
        raise PeerError(f"a card does not say of {k + 1} times {m} values whether they are shown")
    shown = shown.reshape(k + 1, m)
    if kind != "category" and bool((shown == _AT_LEAST).any()):
        raise PeerError("a card has a bound where a mean belongs")
    values = _numbers(card.values, (k + 1, m), 100.0 if kind == "category" else _MOST)
    if kind == "category" and bool(((values < 0) | (values != np.rint(values))).any()):
        raise PeerError("a card has a share that is no whole percent")
    deviations = _numbers(card.deviations, (k, m), _MOST_DEVIATION)
    withheld = shown == _WITHHELD
    if bool((values[withheld] != 0).any()):
        raise PeerError("a card has numbers that it says it withholds")
    return Trait(
        name=card.name,
        kind=kind,
        labels=labels,
        values=np.where(withheld, math.nan, values),
        at_least=shown == _AT_LEAST,
        deviations=np.where(withheld[1:] | withheld[0], math.nan, deviations),
    )


def _numbers(data: bytes, shape: tuple[int, int], most: float) -> FloatArray:
    if len(data) != 8 * shape[0] * shape[1]:
        raise PeerError(f"a card has {len(data)} bytes of numbers, {8 * shape[0] * shape[1]} were expected")
    values = np.frombuffer(data, "<f8").reshape(shape).astype(np.float64)
    # NaN is not at most anything.
    if not bool((np.abs(values) <= most).all()):
        raise PeerError(f"a card has a number that is none, or beyond {most:g}")
    return values
