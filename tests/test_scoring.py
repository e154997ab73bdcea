"""Scores and audiences: right against the clear text, blurred for good, and checked on both sides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.broken_line import FAULTS, play_broken
from tidegate.protocols.blind.products import open_brand, rows_brand
from tidegate.protocols.blind.scoring import (
    Expanded,
    Pool,
    Tiers,
    brand_expand,
    brand_scores,
    media_expand,
    media_scores,
    people_per_size,
    window_of,
)
from tidegate.protocols.channel import Channel, ConfigError, PeerError, PolicyError, TidegateError
from tidegate.protocols.primitives.fixed_point import IntArray, T, quantise
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import memory_line, simulate

FloatArray = NDArray[np.float64]


def _random(seed: int = 1) -> Randomness:
    return Randomness(seed.to_bytes(32, "little"))


def _score(
    x: FloatArray,
    w: FloatArray,
    levels: int | None,
    window: tuple[float, float] | None = None,
    seed: int = 1,
) -> FloatArray:
    scores, _ = simulate(
        lambda ch: brand_scores(ch, w, len(x), levels=levels, window=window, randomness=_random(7)),
        lambda ch: media_scores(ch, x, levels=levels, randomness=_random(seed)),
    )
    return scores


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.sampled_from([1e-9, 1.0, 1e9]), st.integers(0, 2**32), st.booleans())
def test_exact_scores_are_the_product_of_the_rounded_columns(
    n: int, d: int, size: float, seed: int, extreme: bool
) -> None:
    rng = np.random.default_rng(seed)
    # The extreme: every column at its limit and of the weight's sign, where a wrap would show first.
    w = rng.normal(size=d) * size
    x = 8 * np.sign(w) * np.ones((n, 1)) if extreme else rng.normal(size=(n, d)) * 4
    scores = _score(x, w, None)
    np.testing.assert_allclose(scores, quantise(x) / 64 @ w, atol=1e-7 * np.abs(w).sum())


def test_rows_over_more_than_one_block_keep_their_order() -> None:
    x = np.random.default_rng(0).normal(size=(8192 + 5, 2))
    w = np.array([1.0, -2.0])
    np.testing.assert_allclose(_score(x, w, None), quantise(x) / 64 @ w, atol=1e-7)


def test_blurred_scores_are_off_by_half_a_level_at_most_and_by_as_much_as_that() -> None:
    x = np.random.default_rng(0).normal(size=(4000, 5))
    w = np.array([1.0, -2.0, 0.5, 3.0, 0.1])
    clear = quantise(x) / 64 @ w
    window = window_of(clear)
    error = (_score(x, w, 20, window) - clear) / ((window[1] - window[0]) / 19)
    assert np.abs(error).max() <= 0.5 + 1e-6
    # Uniform: a missing or narrower blur would have a smaller spread.
    assert abs(error.mean()) < 0.02
    assert abs(error.std() - 12**-0.5) < 0.01
    again = _score(x, w, 20, window, seed=2)
    assert np.abs(again - clear - error).max() > 0


def test_a_window_far_from_zero_is_met() -> None:
    x = 3 + np.random.default_rng(0).normal(size=(500, 2)) / 10
    w = np.array([5.0, 1.0])
    clear = quantise(x) / 64 @ w
    low, high = window_of(clear)
    assert np.abs(_score(x, w, 20, (low, high)) - clear).max() <= (high - low) / 19 / 2 + 1e-6


def test_without_a_window_no_score_wraps() -> None:
    x = np.array([[8.0, -8.0], [-8.0, 8.0], [20.0, -20.0]])
    scores = _score(x, np.array([1.0, -1.0]), 20)
    np.testing.assert_allclose(scores, [16, -16, 16], atol=32 / 19 / 2 + 1e-6)


@pytest.mark.parametrize("levels", [None, 20])
def test_weights_of_zero_score_everybody_alike(levels: int | None) -> None:
    scores = _score(np.ones((50, 3)), np.zeros(3), levels)
    assert np.abs(scores).max() <= (0 if levels is None else 1 / 19)


def test_larger_weights_do_not_buy_a_brand_a_finer_blur() -> None:
    """A brand that lets the modulus wrap gets, row by row, the same interval of T/levels around the residue."""
    x = np.random.default_rng(0).normal(size=(4000, 2))
    w = np.array([2**40 + 1, -(2**39) - 7], dtype=np.int64)

    async def greedy(channel: Channel) -> IntArray:
        return await rows_brand(channel, await open_brand(channel, _random(7)), w, len(x))

    opened, _ = simulate(greedy, lambda ch: media_scores(ch, x, levels=20, randomness=_random()))
    residue = np.array([int(row @ w.astype(object)) % T for row in quantise(x).astype(object)], dtype=np.int64)
    error = (opened - residue + T // 2) % T - T // 2
    assert np.abs(error).max() <= T / 40 + 1
    assert abs(error.std() / (T / 20) - 12**-0.5) < 0.01


def test_audiences_are_nested_exact_and_the_best_by_the_brands_scores() -> None:
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(2345, 4)), np.array([1.0, 2.0, -1.0, 0.0])
    clear = quantise(x) / 64 @ w
    expanded, audiences = _expand(x, w, [20, 5, 10], window=window_of(clear))
    assert list(audiences) == [5, 10, 20]
    assert expanded.people == {5: 118, 10: 235, 20: 469} == {p: len(rows) for p, rows in audiences.items()}
    # With its randomness seeded the media's order can be drawn again, and the brand's scores put back to the rows.
    scores = np.empty(len(x))
    scores[_random().permutation(len(x))] = expanded.scores
    for percent, rows in audiences.items():
        np.testing.assert_array_equal(rows, np.sort(np.argsort(-scores)[: len(rows)]))
        assert scores[rows].min() == expanded.cuts[percent]
    assert set(audiences[5]) < set(audiences[10]) < set(audiences[20])
    best = np.argsort(-clear)[:469]
    assert len(set(best) & set(audiences[20])) > 0.75 * 469


def test_the_order_of_the_pool_is_drawn_afresh() -> None:
    x = np.linspace(-1, 1, 300)[:, None]
    first, _ = _expand(x, np.ones(1), [50], seed=1)
    second, _ = _expand(x, np.ones(1), [50], seed=2)
    assert abs(np.corrcoef(first.scores, second.scores)[0, 1]) < 0.3
    assert abs(np.corrcoef(first.scores, np.arange(300))[0, 1]) < 0.3


def test_equal_scores_fill_an_audience_to_its_exact_size() -> None:
    _, audiences = _expand(np.ones((500, 1)), np.zeros(1), [30, 31])
    assert [len(rows) for rows in audiences.values()] == [150, 155]


@pytest.mark.parametrize("pool", [99, 100, 1999, 2000])
def test_a_size_under_the_floor_is_refused_and_the_smallest_possible_is_named(pool: int) -> None:
    if pool < 100:
        with pytest.raises(PolicyError, match="99 other people"):
            people_per_size([100], pool, 100)
        return
    smallest = next(percent for percent in range(1, 101) if -(-percent * pool // 100) >= 100)
    assert people_per_size([smallest], pool, 100)[smallest] >= 100
    if smallest > 1:
        with pytest.raises(PolicyError, match=r"floor of 100") as caught:
            people_per_size([smallest - 1, smallest], pool, 100)
        assert f"{smallest} %" in caught.value.hint


@pytest.mark.parametrize("percents", [[], [0], [101], [5, 5], [-1]])
def test_sizes_that_are_none_are_refused(percents: list[int]) -> None:
    with pytest.raises(ConfigError):
        people_per_size(percents, 10_000, 100)


def test_both_sides_refuse_a_small_pool_with_the_same_words() -> None:
    async def both() -> tuple[object, object]:
        a, b = memory_line()
        return await asyncio.gather(
            brand_expand(a, np.ones(1), percents=[5], floor=100, levels=20, max_rows=1000, randomness=_random(7)),
            media_expand(b, np.ones((150, 1)), percents=[5], floor=100, levels=20, randomness=_random()),
            return_exceptions=True,
        )

    errors = asyncio.run(both())
    assert all(isinstance(error, PolicyError) for error in errors)
    assert str(errors[0]) == str(errors[1])


@pytest.mark.parametrize(
    ("tiers", "says"),
    [
        (b"\1" * 50 + b"\0" * 449, "499 people"),
        (b"\1" * 50 + b"\0" * 451, "501 people"),
        (b"\1" * 49 + b"\0" * 451, "sizes"),
        (b"\1" * 51 + b"\0" * 449, "sizes"),
        (b"\1" * 50 + b"\2" + b"\0" * 449, "sizes"),
        (b"\1" * 50 + b"\xff" + b"\0" * 449, "sizes"),
        (b"\2" * 50 + b"\0" * 450, "sizes"),
    ],
)
def test_the_media_refuses_audiences_of_another_size(tiers: bytes, says: str) -> None:
    async def liar(channel: Channel) -> None:
        pool = await channel.recv(Pool)
        await brand_scores(channel, np.ones(1), pool.rows, levels=20, randomness=_random(7))
        await channel.send(Tiers(tiers))

    with pytest.raises(PeerError, match=says):
        simulate(
            lambda ch: media_expand(ch, np.ones((500, 1)), percents=[10], floor=50, levels=20, randomness=_random()),
            liar,
        )


def test_the_brand_refuses_a_pool_larger_than_the_medias_data() -> None:
    async def liar(channel: Channel) -> None:
        await channel.send(Pool(2**60))

    with pytest.raises(PeerError, match="at most 1000"):
        simulate(
            lambda ch: brand_expand(
                ch, np.ones(1), percents=[5], floor=50, levels=20, max_rows=1000, randomness=_random(7)
            ),
            liar,
        )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_line_ends_in_a_typed_error_or_the_right_audience(fault: str) -> None:
    x = np.linspace(-1, 1, 400)[:, None]
    media, brand = _expand_roles(x, np.ones(1), [25])
    _, right = simulate(brand, media)
    # brand: key, weights, tiers; media: pool, scores.
    for side in (0, 1):
        for at in (0, 1, 2)[: 3 - side]:
            with contextlib.suppress(TidegateError):
                _, audiences = play_broken(brand, media, fault, side, at)
                np.testing.assert_array_equal(audiences[25], right[25])


def test_what_is_sent_depends_on_the_sizes_alone() -> None:
    async def shape(x: FloatArray, w: FloatArray) -> list[tuple[str, int]]:
        a, b = memory_line()
        media, brand = _expand_roles(x, w, [10, 20])
        await asyncio.gather(brand(a), media(b))
        return [(name, len(data)) for name, data in a.sent + b.sent]

    rng = np.random.default_rng(0)
    first = asyncio.run(shape(rng.normal(size=(1000, 3)), rng.normal(size=3)))
    second = asyncio.run(shape(np.zeros((1000, 3)), np.array([0.0, 0.0, 1e6])))
    assert first == second


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        _score(np.ones((3, 1)), np.array([np.nan]), None)
    with pytest.raises(ValueError, match="finite"):
        _score(np.full((3, 1), np.inf), np.ones(1), None)
    with pytest.raises(ValueError, match="window"):
        _score(np.ones((3, 1)), np.ones(1), 20, (9.0, 10.0))
    with pytest.raises(ValueError, match="levels"):
        _score(np.ones((3, 1)), np.ones(1), 1)


def _expand_roles(
    x: FloatArray,
    w: FloatArray,
    percents: list[int],
    window: tuple[float, float] | None = None,
    seed: int = 1,
) -> tuple[Callable[[Channel], Awaitable[dict[int, IntArray]]], Callable[[Channel], Awaitable[Expanded]]]:
    def media(channel: Channel) -> Awaitable[dict[int, IntArray]]:
        return media_expand(channel, x, percents=percents, floor=50, levels=20, randomness=_random(seed))

    def brand(channel: Channel) -> Awaitable[Expanded]:
        return brand_expand(
            channel, w, percents=percents, floor=50, levels=20, max_rows=len(x), window=window, randomness=_random(7)
        )

    return media, brand


def _expand(
    x: FloatArray,
    w: FloatArray,
    percents: list[int],
    window: tuple[float, float] | None = None,
    seed: int = 1,
) -> tuple[Expanded, dict[int, IntArray]]:
    media, brand = _expand_roles(x, w, percents, window, seed)
    return simulate(brand, media)
