"""How both sides come to segments that are large enough: who is left out, where they go, when there is no telling."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from tidegate.party.segments.forming import Side, formed, merged
from tidegate.protocols.channel import PolicyError, TidegateError
from tidegate.protocols.clustering import comparator
from tidegate.protocols.clustering.box import Box
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import memory_line

FLOOR = 20
BOX = Box(np.array([-5.0]), np.array([5.0]))


def together(work: Callable[[Side, int], Awaitable[Any]]) -> list[Any]:
    """What `work` gives at each of two sides, by its number 0 or 1; errors are returned."""

    async def played() -> list[Any]:
        straight, first, second = memory_line(), memory_line(), memory_line()
        sides = [
            Side(first[0], {"b": straight[0]}, BOX, Randomness(b"a" * 32), lead=True),
            Side(second[0], {"a": straight[1]}, BOX, Randomness(b"b" * 32), lead=False),
        ]

        async def one(number: int) -> Any:
            try:
                return await work(sides[number], number)
            except TidegateError as error:
                return error
            finally:
                await comparator.end(sides[number].helper)

        found = await asyncio.gather(one(0), one(1), comparator.comparator({"a": first[1], "b": second[1]}))
        return list(found[:2])

    return asyncio.run(asyncio.wait_for(played(), 60))


def people(*sizes: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Columns of both sides and labels: group j lies at centroid j of `CENTROIDS`, give or take."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    chance = np.random.default_rng(0).normal(scale=0.2, size=(2, len(labels), 1))
    return [CENTROIDS[side][labels] + chance[side] for side in (0, 1)], labels


CENTROIDS = [np.array([[0.0], [3.0], [-3.0], [2.5]]), np.array([[0.0], [3.0], [3.0], [2.0]])]


def nearest(x: list[np.ndarray], kept: list[int]) -> np.ndarray:
    every = np.hstack(x)[:, None] - np.hstack(CENTROIDS)[kept][None]
    return np.array((every**2).sum(axis=2).argmin(axis=1))


def test_who_is_in_a_small_segment_goes_to_the_nearest_of_the_others() -> None:
    x, labels = people(40, 30, 30, 5)
    outcome = together(lambda side, i: merged(side, x[i], labels, CENTROIDS[i], floor=FLOOR, least=2))
    for found, kept in outcome:
        assert kept.tolist() == [0, 1, 2]
        assert np.array_equal(found, nearest(x, [0, 1, 2]))
        assert (found[-5:] == 1).all()


def test_two_small_segments_beside_each_other_may_make_one_that_stays() -> None:
    x, labels = people(40, 12, 30, 11)
    outcome = together(lambda side, i: merged(side, x[i], labels, CENTROIDS[i], floor=FLOOR, least=2))
    for found, kept in outcome:
        assert kept.tolist() == [0, 1, 2]
        assert np.bincount(found).tolist() == [40, 23, 30]


def test_segments_of_nobody_are_left_out_without_a_pass() -> None:
    x, labels = people(40, 0, 30, 25)
    outcome = together(lambda side, i: merged(side, x[i], labels, CENTROIDS[i], floor=FLOOR, least=2))
    for found, kept in outcome:
        assert kept.tolist() == [0, 2, 3]
        assert np.bincount(found).tolist() == [40, 30, 25]


@pytest.mark.parametrize("least", [1, 2])
def test_where_one_segment_is_left_it_depends_on_how_many_are_needed(least: int) -> None:
    x, labels = people(60, 5, 6, 7)
    for outcome in together(lambda side, i: merged(side, x[i], labels, CENTROIDS[i], floor=FLOOR, least=least)):
        if least == 2:
            assert isinstance(outcome, PolicyError)
            assert "ask for fewer segments" in outcome.hint
        else:
            assert (outcome[0] == 0).all()
            assert outcome[1].tolist() == [0]


def test_where_nobody_differs_the_step_ends_in_words() -> None:
    x = [np.zeros((100, 1))] * 2
    order = np.arange(100)
    for k in (0, 3):

        async def split(side: Side, i: int, k: int = k) -> Any:
            return await formed(side, x[i], k=k, most_k=3, starts=2, iterations=5, floor=FLOOR, order=order)

        for outcome in together(split):
            assert isinstance(outcome, PolicyError), outcome


def test_both_sides_count_segments_from_the_largest() -> None:
    x, labels = people(25, 60, 40, 0)
    a, b = together(
        lambda side, i: formed(
            side, x[i], k=3, most_k=3, starts=4, iterations=20, floor=FLOOR, order=np.arange(len(labels))
        )
    )
    assert np.array_equal(a.labels, b.labels)
    assert a.sizes.tolist() == [60, 40, 25]
    for side, found in enumerate((a, b)):
        for j in range(3):
            assert found.centroids[j] == pytest.approx(x[side][found.labels == j].mean(axis=0))
