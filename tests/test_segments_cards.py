"""Cards of segments: what is shown is about enough people, also by subtraction, and a peer's are not believed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.both_roles import spoken
from tests.broken_line import FAULTS, play_broken
from tidegate.protocols.channel import DisagreementError, PeerError, TidegateError
from tidegate.protocols.clustering import cards
from tidegate.protocols.simulate import play

FLOOR = 50
SIZES = st.lists(st.integers(0, 400), min_size=2, max_size=6)


def category(counts: list[list[int]], labels: tuple[str, ...] | None = None) -> cards.Trait:
    """counts: for each segment how many people have each label."""
    codes = np.concatenate([np.repeat(np.arange(len(row)), row) for row in counts])
    segment = np.repeat(np.arange(len(counts)), [sum(row) for row in counts])
    names = labels or tuple(f"l{i}" for i in range(len(counts[0])))
    return cards.of_categories("column", names, codes, segment, len(counts), FLOOR)


def number(rows: list[list[float]]) -> cards.Trait:
    segment = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return cards.of_numbers("column", "number", np.concatenate(rows), segment, len(rows), FLOOR)


@given(SIZES)
def test_what_a_share_and_its_rest_are_of_is_the_floor_of_people_or_more(row: list[int]) -> None:
    trait = category([row, [100] * len(row)])
    size, shown = sum(row), ~np.isnan(trait.values[1])
    for i in np.flatnonzero(shown):
        assert row[i] >= FLOOR
        if trait.at_least[1, i]:
            assert trait.values[1, i] == np.floor(100 * (1 - FLOOR / size))
            assert size - row[i] < FLOOR
        else:
            assert trait.values[1, i] == round(100 * row[i] / size)
    exact = shown & ~trait.at_least[1]
    rest = size - sum(np.array(row)[exact])
    if exact.any() and not shown.all():
        assert rest >= FLOOR, "the rest could be had by subtraction"
    if size < FLOOR:
        assert not shown.any()


@given(st.lists(st.tuples(*[st.integers(0, 200)] * 3), min_size=2, max_size=5))
def test_what_segments_hide_of_a_text_is_not_everybody_s_less_the_others(rows: list[tuple[int, int, int]]) -> None:
    trait, counts = category([list(row) for row in rows]), np.array(rows)
    exact = ~np.isnan(trait.values) & ~trait.at_least
    for label in range(3):
        hidden = ~exact[1:, label]
        if exact[0, label] and hidden.any() and not hidden.all():
            assert counts[hidden, label].sum() >= FLOOR
    for row in range(len(rows)):
        if exact[row + 1].any() and not exact[row + 1].all():
            assert counts[row][~exact[row + 1]].sum() >= FLOOR


def test_a_segment_of_which_all_are_one_thing_does_not_say_whether_anybody_is_not() -> None:
    some, none = category([[970, 30], [500, 500]]), category([[1000, 0], [500, 500]])
    assert some.values[1].tolist()[0] == none.values[1].tolist()[0] == 95
    assert some.at_least[1].tolist() == none.at_least[1].tolist() == [True, False]
    assert np.isnan(some.values[1, 1])


def test_means_are_of_the_floor_of_values_and_of_3_digits() -> None:
    nan = [np.nan] * 30
    trait = number([[12.3456] * 60 + nan, [1.0] * 49 + nan, [-98765.4] * 50])
    assert trait.values[1, 0] == 12.3
    assert np.isnan(trait.values[2, 0])
    assert np.isnan(trait.deviations[1, 0])
    assert trait.values[3, 0] == -98800


def test_deviations_compare_a_segment_with_everybody() -> None:
    trait = number([[0.0] * 100, [2.0] * 100])
    assert trait.deviations[:, 0].tolist() == [-1.0, 1.0]
    same = number([[5.0] * 100, [5.0] * 100])
    assert same.deviations[:, 0].tolist() == [0.0, 0.0]
    shares = category([[80, 20 + 30], [50, 50 + 30]])
    assert np.sign(shares.deviations).tolist() == [[1, -1], [-1, 1]]


def test_labels_are_made_printable_short_and_different() -> None:
    trait = category([[60] * 4, [60] * 4], ("a\nb", "a?b", "x" * 200, "x" * 300))
    assert len(set(trait.labels)) == 4
    assert all(label.isprintable() and 0 < len(label) <= cards.MAX_LABEL for label in trait.labels)


TRAITS = [category([[80, 70, 10], [90, 60, 0]]), replace(number([[1.0] * 60, [2.0] * 40]), name="other")]


def test_the_brand_gets_the_media_s_cards_as_they_are() -> None:
    async def brand(channel: Any) -> list[cards.Trait]:
        return await cards.receive(channel, 2, ("column", "other", "third"))

    got, _ = asyncio.run(play(brand, lambda channel: cards.send(channel, TRAITS, 2)))
    for mine, theirs in zip(TRAITS, got, strict=True):
        assert (mine.name, mine.kind, mine.labels) == (theirs.name, theirs.kind, theirs.labels)
        np.testing.assert_array_equal(mine.values, theirs.values)
        np.testing.assert_array_equal(mine.at_least, theirs.at_least)
        np.testing.assert_array_equal(mine.deviations, theirs.deviations)


def numbers(*values: float) -> bytes:
    return np.array(values, "<f8").tobytes()


GOOD = cards.Card(
    "column", 3, (b"a", b"b"), numbers(50, 50, 40, 60, 0, 0), bytes([1, 1, 1, 1, 0, 0]), numbers(*[0] * 4)
)
MEAN = cards.Card("column", 0, (), numbers(1, 2, 3), bytes([1, 1, 1]), numbers(0, 0))
HOSTILE = {
    "another kind": replace(GOOD, kind=4),
    "a label that moves the cursor": replace(GOOD, labels=(b"a\x1b[2J", b"b")),
    "a label that is no text": replace(GOOD, labels=(b"\xff", b"b")),
    "an empty label": replace(GOOD, labels=(b"", b"b")),
    "a label too long": replace(GOOD, labels=(b"a" * 81, b"b")),
    "a label twice": replace(GOOD, labels=(b"a", b"a")),
    "no label": replace(GOOD, labels=()),
    "too many labels": replace(GOOD, labels=tuple(str(i).encode() for i in range(61))),
    "labels of a number": replace(MEAN, labels=(b"a",)),
    "too few values": replace(GOOD, values=numbers(50, 50)),
    "half a number": replace(GOOD, values=GOOD.values[:-1]),
    "NaN": replace(GOOD, values=numbers(np.nan, 50, 40, 60, 0, 0)),
    "an infinite mean": replace(MEAN, values=numbers(1, np.inf, 3)),
    "a share above 100": replace(GOOD, values=numbers(101, 50, 40, 60, 0, 0)),
    "a share below 0": replace(GOOD, values=numbers(-1, 50, 40, 60, 0, 0)),
    "a share that is no whole percent": replace(GOOD, values=numbers(50.5, 50, 40, 60, 0, 0)),
    "a value that is withheld": replace(GOOD, values=numbers(50, 50, 40, 60, 7, 0)),
    "a mark that there is not": replace(GOOD, shown=bytes([3, 1, 1, 1, 0, 0])),
    "marks too few": replace(GOOD, shown=bytes([1])),
    "a bound on a mean": replace(MEAN, shown=bytes([1, 2, 1])),
    "an infinite deviation": replace(MEAN, deviations=numbers(0, -np.inf)),
    "a huge deviation": replace(MEAN, deviations=numbers(0, 1e7)),
    "deviations too few": replace(MEAN, deviations=numbers(0)),
    "a column that is not granted": replace(MEAN, name="income"),
    "a name that moves the cursor": replace(MEAN, name="\x1b"),
}


@pytest.mark.parametrize("card", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_card_is_refused_by_its_kind(card: cards.Card) -> None:
    async def media(channel: Any) -> None:
        await channel.send(cards.Cards(2, 1))
        await channel.send(card)

    ended, *_ = asyncio.run(spoken(lambda channel: cards.receive(channel, 2, ("column", "\x1bx")), media))
    assert isinstance(ended, PeerError), ended


@pytest.mark.parametrize("card", [GOOD, MEAN])
def test_the_cards_that_hostile_ones_are_made_of_are_taken(card: cards.Card) -> None:
    async def media(channel: Any) -> None:
        await channel.send(cards.Cards(2, 1))
        await channel.send(card)

    ended, *_ = asyncio.run(spoken(lambda channel: cards.receive(channel, 2, ("column",)), media))
    assert [trait.name for trait in ended] == ["column"]


@pytest.mark.parametrize(
    ("head", "kind"),
    [(cards.Cards(3, 1), DisagreementError), (cards.Cards(2, 2), PeerError), (cards.Cards(2, 2**63), PeerError)],
)
def test_more_segments_or_columns_than_there_are_refused_at_once(head: cards.Cards, kind: type[Exception]) -> None:
    async def media(channel: Any) -> None:
        await channel.send(head)

    ended, *_ = asyncio.run(spoken(lambda channel: cards.receive(channel, 2, ("column",)), media))
    assert isinstance(ended, kind)


def test_a_column_twice_is_refused() -> None:
    async def media(channel: Any) -> None:
        await channel.send(cards.Cards(2, 2))
        for _ in range(2):
            await channel.send(MEAN)

    ended, *_ = asyncio.run(spoken(lambda channel: cards.receive(channel, 2, ("column", "other")), media))
    assert isinstance(ended, PeerError)


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_line_gives_an_error_or_the_right_cards(fault: str, at: int) -> None:
    try:
        got, _ = play_broken(
            lambda channel: cards.receive(channel, 2, ("column", "other")),
            lambda channel: cards.send(channel, TRAITS, 2),
            fault,
            1,
            at,
        )
    except TidegateError:
        return
    found = {trait.name: trait for trait in got}
    for trait in TRAITS:
        np.testing.assert_array_equal(found[trait.name].values, trait.values)


def test_the_transcript_depends_on_columns_and_labels_only() -> None:
    async def sent(traits: list[cards.Trait]) -> list[tuple[str, int]]:
        *_, media = await spoken(
            lambda channel: cards.receive(channel, 2, ("column",)), lambda ch: cards.send(ch, traits, 2)
        )
        return [(kind, len(data)) for kind, data in media.sent]

    shapes = [asyncio.run(sent([category(counts)])) for counts in ([[80, 70], [90, 60]], [[0, 900], [55, 2]])]
    assert shapes[0] == shapes[1]
