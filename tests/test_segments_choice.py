"""How many segments, which are too small to stay, and how the two are told from labels alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.protocols.clustering.choice import (
    Point,
    by_size,
    choose_k,
    elbow,
    left_out,
    prediction_strength,
    sample,
)

LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(LABELS)
def test_prediction_strength_is_the_share_of_pairs_kept_together_in_the_worst_cluster(
    rows: list[tuple[int, int]],
) -> None:
    found, predicted = np.array(rows).T
    shares = []
    for cluster in set(found.tolist()):
        pairs = list(itertools.combinations(np.flatnonzero(found == cluster).tolist(), 2))
        if pairs:
            shares.append(sum(predicted[a] == predicted[b] for a, b in pairs) / len(pairs))
    assert prediction_strength(found, predicted) == pytest.approx(min(shares, default=0.0))


def curve(*points: tuple[float, float]) -> list[Point]:
    return [Point(k, inertia, strength, strength) for k, (inertia, strength) in enumerate(points, 2)]


def test_the_largest_k_that_both_halves_agree_on_is_taken() -> None:
    assert choose_k(curve((90, 0.99), (60, 0.85), (40, 0.92), (35, 0.5))) == (4, "strength")
    assert choose_k(curve((90, 0.8), (60, 0.79))) == (2, "strength")


def test_without_agreement_the_elbow_is_taken() -> None:
    assert choose_k(curve((100, 0.5), (60, 0.4), (40, 0.4), (38, 0.3), (36, 0.3))) == (4, "elbow")


def test_an_elbow_needs_a_bend() -> None:
    assert elbow(curve((100, 0), (90, 0))) == 2
    assert elbow(curve((100, 0), (100, 0), (100, 0))) == 2
    assert elbow(curve((100, 0), (90, 0), (80, 0))) == 2, "on a straight line nothing speaks for more"


def test_empty_segments_go_at_once_and_small_ones_one_by_one() -> None:
    assert left_out(np.array([5, 0, 7, 0]), 6) == [1, 3]
    assert left_out(np.array([5, 3, 7, 3]), 6) == [1]
    assert left_out(np.array([6, 6, 7]), 6) == []


@given(st.lists(st.integers(0, 50), min_size=1, max_size=10))
def test_segments_are_counted_from_the_largest(sizes: list[int]) -> None:
    order = by_size(np.array(sizes)).tolist()
    assert order == sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))


@given(st.integers(0, 50), st.integers(0, 60))
def test_halves_share_nobody_and_are_as_large_as_each_other(n: int, most: int) -> None:
    a, b = sample(np.arange(n)[::-1], most)
    assert len(a) == len(b) == min(n, most) // 2
    assert not set(a.tolist()) & set(b.tolist())
