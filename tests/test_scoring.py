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
    Chosen,
    Expanded,
    Pool,
    Sizes,
    Tiers,
    brand_expand,
    brand_scores,
    media_expand,
    media_scores,
    rounded,
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


def test_columns_that_are_rounded_already_score_the_same() -> None:
    x, w = np.random.default_rng(2).normal(size=(300, 3)), np.array([1.0, 2.0, -1.0])
    np.testing.assert_array_equal(_score(rounded(x), w, None), _score(x, w, None))
    assert rounded(x).dtype == np.int16


def test_audiences_are_nested_exact_and_the_best_by_the_brands_scores() -> None:
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(2345, 4)), np.array([1.0, 2.0, -1.0, 0.0])
    clear = quantise(x) / 64 @ w
    expanded, chosen = _expand(x, w, Sizes("sizes", (5, 10, 20)), window=window_of(clear))
    assert expanded.people == chosen.people == (118, 235, 469)
    # With its randomness seeded the media's order can be drawn again, and the brand's scores put back to the rows.
    scores = np.empty(len(x))
    scores[_random().permutation(len(x))] = expanded.scores
    for tier, (people, cut) in enumerate(zip(expanded.people, expanded.cuts, strict=True), 1):
        rows = _inside(chosen, tier)
        np.testing.assert_array_equal(rows, np.sort(np.argsort(-scores)[:people]))
        assert scores[rows].min() == cut
    assert set(_inside(chosen, 1)) < set(_inside(chosen, 2)) < set(_inside(chosen, 3))
    best = np.argsort(-clear)[:469]
    assert len(set(best) & set(_inside(chosen, 3))) > 0.75 * 469
    assert not chosen.control.any()


def test_audiences_of_absolute_sizes_have_just_them() -> None:
    x = np.random.default_rng(4).normal(size=(1000, 2))
    expanded, chosen = _expand(x, np.ones(2), Sizes("people", (77, 300)))
    assert expanded.people == chosen.people == (77, 300)
    assert [len(_inside(chosen, tier)) for tier in (1, 2)] == [77, 300]


def test_a_threshold_takes_everybody_who_reaches_it_and_nobody_else() -> None:
    x = np.random.default_rng(5).normal(size=(2000, 2))
    w = np.array([1.0, 1.0])
    sizes = Sizes("threshold_milli", (500, 800))
    expanded, chosen = _expand(x, w, sizes, rates=_logistic)
    # The highest threshold makes the smallest audience.
    for tier, milli in ((1, 800), (2, 500)):
        assert (
            expanded.people[tier - 1] == chosen.people[tier - 1] == (_logistic(expanded.scores) >= milli / 1000).sum()
        )
        assert _logistic(np.array([expanded.cuts[tier - 1]]))[0] >= milli / 1000
        assert len(_inside(chosen, tier)) == expanded.people[tier - 1]


def test_a_threshold_that_too_few_reach_is_refused_without_saying_how_many() -> None:
    x = np.random.default_rng(5).normal(size=(2000, 2))
    with pytest.raises(PolicyError, match="fewer than 50 of the media's other people") as caught:
        _expand(x, np.ones(2), Sizes("threshold_milli", (999,)), rates=lambda scores: _logistic(scores - 4))
    assert not any(character.isdigit() for character in str(caught.value).replace("fewer than 50", ""))


def _brand_with_a_threshold(channel: Channel) -> Awaitable[Expanded]:
    return brand_expand(
        channel,
        np.ones(1),
        sizes=Sizes("threshold_milli", (500,)),
        floor=50,
        levels=20,
        max_rows=500,
        rates=lambda scores: np.where(np.arange(len(scores)) < 30, 1.0, 0.0),
        randomness=_random(7),
    )


def test_the_brand_refuses_a_small_answer_of_its_own_before_it_is_sent() -> None:
    """Its worker keeps the floor of a threshold; the media's checks it again."""

    async def both() -> tuple[list[str], object]:
        a, b = memory_line()
        sizes = Sizes("threshold_milli", (500,))
        media = asyncio.create_task(
            media_expand(b, np.ones((500, 1)), sizes=sizes, floor=50, levels=20, randomness=_random())
        )
        with pytest.raises(PolicyError):
            await _brand_with_a_threshold(a)
        media.cancel()
        return [name for name, _ in a.sent], None

    sent, _ = asyncio.run(both())
    assert "Tiers" not in sent


@pytest.mark.parametrize("kind", ["sizes", "people", "threshold_milli"])
def test_of_each_audience_the_share_that_the_contract_names_is_left_alone(kind: str) -> None:
    values = {"sizes": (10, 20, 50), "people": (333, 777, 1501), "threshold_milli": (300, 600)}[kind]
    x = np.random.default_rng(6).normal(size=(3000, 2))
    expanded, chosen = _expand(x, np.ones(2), Sizes(kind, values, 20), rates=_logistic)
    for tier, (people, control) in enumerate(zip(expanded.people, expanded.control, strict=True), 1):
        inside = _inside(chosen, tier)
        assert len(inside) == people
        assert chosen.control[inside].sum() == control == round(people * 0.2)
    assert not chosen.control[chosen.tiers == 0].any()


def test_who_is_left_alone_is_drawn_at_random_within_each_ring() -> None:
    """Over many draws everybody of an audience is left alone equally often, whatever their score."""
    x = np.random.default_rng(7).normal(size=(1200, 1))
    times, inside = np.zeros(1200), np.zeros(1200)
    for seed in range(60):
        # The best by clear scores are the same people each time.
        _, chosen = _expand(x, np.ones(1), Sizes("sizes", (25, 50), 20), seed=seed)
        times += chosen.control
        inside += chosen.tiers > 0
    always = inside == 60
    drawn = times[always]
    assert always.sum() > 300
    # Binomial of 60 draws at .2: mean 12, deviation 3.1; the mean over hundreds of people is far tighter.
    assert abs(drawn.mean() - 12) < 0.6
    assert 2.4 < drawn.std() < 3.8
    assert abs(np.corrcoef(x[always, 0], drawn)[0, 1]) < 0.2


def test_the_order_of_the_pool_is_drawn_afresh() -> None:
    x = np.linspace(-1, 1, 300)[:, None]
    first, _ = _expand(x, np.ones(1), Sizes("sizes", (50,)), seed=1)
    second, _ = _expand(x, np.ones(1), Sizes("sizes", (50,)), seed=2)
    assert abs(np.corrcoef(first.scores, second.scores)[0, 1]) < 0.3
    assert abs(np.corrcoef(first.scores, np.arange(300))[0, 1]) < 0.3


def test_equal_scores_fill_an_audience_to_its_exact_size() -> None:
    _, chosen = _expand(np.ones((500, 1)), np.zeros(1), Sizes("sizes", (30, 31)))
    assert chosen.people == (150, 155)


@pytest.mark.parametrize("pool", [99, 100, 1999, 2000])
def test_a_size_under_the_floor_is_refused_and_the_smallest_possible_is_named(pool: int) -> None:
    def checked(*percents: int) -> tuple[int, ...]:
        sizes = Sizes("sizes", percents)
        people = sizes.people(pool) or ()
        sizes.verify(people, pool, 100)
        return people

    if pool < 100:
        with pytest.raises(PolicyError, match="99 other people"):
            checked(100)
        return
    smallest = next(percent for percent in range(1, 101) if -(-percent * pool // 100) >= 100)
    assert checked(smallest)[0] >= 100
    if smallest > 1:
        with pytest.raises(PolicyError, match=r"floor of 100") as caught:
            checked(smallest - 1, smallest)
        assert f"{smallest} %" in caught.value.hint


@pytest.mark.parametrize(
    ("sizes", "pool", "says", "hint"),
    [
        (Sizes("people", (49,)), 1000, "has 49 of 1000", "50 people"),
        (Sizes("people", (50, 1001)), 1000, "1001 people was asked for", "fewer"),
        (Sizes("people", (400,), 10), 1000, "40 would be left alone", "500 people"),
        (Sizes("people", (499,), 10), 5000, None, ""),
        (Sizes("people", (494,), 10), 5000, "49 would be left alone", "500 people"),
        (Sizes("sizes", (9,), 10), 5000, "45 would be left alone", "smallest possible size is 10 %"),
        (Sizes("people", (90,), 50), 1000, "45 would be left alone", "100 people"),
        (Sizes("sizes", (50,), 1), 1000, "5 would be left alone", "more people"),
    ],
)
def test_audiences_and_control_groups_under_the_floor_are_refused(
    sizes: Sizes, pool: int, says: str | None, hint: str
) -> None:
    if says is None:
        sizes.verify(sizes.people(pool) or (), pool, 50)
        return
    with pytest.raises(PolicyError, match=says) as caught:
        sizes.verify(sizes.people(pool) or (), pool, 50)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "sizes",
    [
        *(Sizes("sizes", values) for values in ((), (0,), (101,), (5, 5), (-1,), (10, 5))),
        Sizes("people", (0,)),
        Sizes("threshold_milli", (1000,)),
        Sizes("sizes", (5,), 51),
        Sizes("sizes", (5,), -1),
        Sizes("shares", (5,)),
        Sizes("people", tuple(range(1, 102))),
    ],
)
def test_sizes_that_are_none_are_refused(sizes: Sizes) -> None:
    with pytest.raises(ConfigError):
        sizes.people(10_000)


def test_both_sides_refuse_a_small_pool_with_the_same_words() -> None:
    async def both() -> tuple[object, object]:
        a, b = memory_line()
        sizes = Sizes("sizes", (5,))
        return await asyncio.gather(
            brand_expand(a, np.ones(1), sizes=sizes, floor=100, levels=20, max_rows=1000, randomness=_random(7)),
            media_expand(b, np.ones((150, 1)), sizes=sizes, floor=100, levels=20, randomness=_random()),
            return_exceptions=True,
        )

    errors = asyncio.run(both())
    assert all(isinstance(error, PolicyError) for error in errors)
    assert str(errors[0]) == str(errors[1])


@pytest.mark.parametrize(
    ("sizes", "tiers", "says"),
    [
        (Sizes("sizes", (10,)), b"\1" * 50 + b"\0" * 449, "499 people"),
        (Sizes("sizes", (10,)), b"\1" * 50 + b"\0" * 451, "501 people"),
        (Sizes("sizes", (10,)), b"\1" * 49 + b"\0" * 451, "sizes"),
        (Sizes("sizes", (10,)), b"\1" * 51 + b"\0" * 449, "sizes"),
        (Sizes("sizes", (10,)), b"\1" * 50 + b"\2" + b"\0" * 449, "sizes"),
        (Sizes("sizes", (10,)), b"\1" * 50 + b"\xff" + b"\0" * 449, "sizes"),
        (Sizes("sizes", (10,)), b"\2" * 50 + b"\0" * 450, "sizes"),
        (Sizes("threshold_milli", (400,)), b"\1" * 49 + b"\0" * 451, "floor"),
        (Sizes("threshold_milli", (400,)), b"\1" * 60 + b"\2" * 60 + b"\0" * 380, "sizes"),
        (Sizes("threshold_milli", (400, 600)), b"\2" * 90 + b"\0" * 410, "floor"),
    ],
)
def test_the_media_refuses_audiences_of_another_size(sizes: Sizes, tiers: bytes, says: str) -> None:
    async def liar(channel: Channel) -> None:
        pool = await channel.recv(Pool)
        await brand_scores(channel, np.ones(1), pool.rows, levels=20, randomness=_random(7))
        await channel.send(Tiers(tiers))

    with pytest.raises((PeerError, PolicyError), match=says):
        simulate(
            lambda ch: media_expand(ch, np.ones((500, 1)), sizes=sizes, floor=50, levels=20, randomness=_random()),
            liar,
        )


def test_the_brand_refuses_a_pool_larger_than_the_medias_data() -> None:
    async def liar(channel: Channel) -> None:
        await channel.send(Pool(2**60))

    with pytest.raises(PeerError, match="at most 1000"):
        simulate(
            lambda ch: brand_expand(
                ch,
                np.ones(1),
                sizes=Sizes("sizes", (5,)),
                floor=50,
                levels=20,
                max_rows=1000,
                randomness=_random(7),
            ),
            liar,
        )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_line_ends_in_a_typed_error_or_the_right_audience(fault: str) -> None:
    x = np.linspace(-1, 1, 400)[:, None]
    media, brand = _expand_roles(x, np.ones(1), Sizes("sizes", (25,), 50))
    _, right = simulate(brand, media)
    # brand: key, weights, tiers; media: pool, scores.
    for side in (0, 1):
        for at in (0, 1, 2)[: 3 - side]:
            with contextlib.suppress(TidegateError):
                _, chosen = play_broken(brand, media, fault, side, at)
                np.testing.assert_array_equal(chosen.tiers, right.tiers)


def test_what_is_sent_depends_on_the_sizes_alone() -> None:
    async def shape(x: FloatArray, w: FloatArray) -> list[tuple[str, int]]:
        a, b = memory_line()
        media, brand = _expand_roles(x, w, Sizes("sizes", (10, 20)))
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


def _logistic(scores: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-scores)))


def _inside(chosen: Chosen, tier: int) -> IntArray:
    return np.flatnonzero((chosen.tiers > 0) & (chosen.tiers <= tier))


def _expand_roles(
    x: FloatArray,
    w: FloatArray,
    sizes: Sizes,
    window: tuple[float, float] | None = None,
    seed: int = 1,
    rates: Callable[[FloatArray], FloatArray] | None = None,
) -> tuple[Callable[[Channel], Awaitable[Chosen]], Callable[[Channel], Awaitable[Expanded]]]:
    def media(channel: Channel) -> Awaitable[Chosen]:
        return media_expand(channel, x, sizes=sizes, floor=50, levels=20, randomness=_random(seed))

    def brand(channel: Channel) -> Awaitable[Expanded]:
        return brand_expand(
            channel,
            w,
            sizes=sizes,
            floor=50,
            levels=20,
            max_rows=len(x),
            rates=rates,
            window=window,
            randomness=_random(7),
        )

    return media, brand


def _expand(
    x: FloatArray,
    w: FloatArray,
    sizes: Sizes,
    window: tuple[float, float] | None = None,
    seed: int = 1,
    rates: Callable[[FloatArray], FloatArray] | None = None,
) -> tuple[Expanded, Chosen]:
    media, brand = _expand_roles(x, w, sizes, window, seed, rates)
    return simulate(brand, media)
