"""Measuring a campaign: right to the last unit against the clear text, floors, and what each side checks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.broken_line import FAULTS, play_broken
from tidegate.protocols.blind.measure import (
    CONTROL,
    EXPOSED,
    NEITHER,
    Arm,
    Arms,
    Measured,
    Terms,
    brand,
    media,
    squares_unit,
)
from tidegate.protocols.blind.products import Key, Uploads
from tidegate.protocols.channel import Channel, ConfigError, Message, PeerError, PolicyError, TidegateError
from tidegate.protocols.primitives.bfv import MODULI, PublicKey
from tidegate.protocols.primitives.fixed_point import IntArray
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import memory_line, simulate

ArmOf = NDArray[np.int8]
Role = Callable[[Channel], Awaitable[object]]
QUIET = Terms(floor=50, noise_sd=0, cap=0, max_rows=10**6)


def _random(seed: int = 1) -> Randomness:
    return Randomness(seed.to_bytes(32, "little"))


def _normal(seed: int) -> Callable[[int, int], IntArray]:
    rng = np.random.default_rng(seed)
    return lambda sd, n: np.rint(rng.normal(size=n) * sd).astype(np.int64)


def _roles(
    converted: IntArray,
    spend: IntArray | None,
    arms: ArmOf,
    terms: Terms,
    *,
    people: tuple[int, int] | None = None,
    noise: Callable[[int, int], IntArray] | None = None,
) -> tuple[Callable[[Channel], Awaitable[Measured]], Callable[[Channel], Awaitable[None]]]:
    there = people or (int((arms == EXPOSED).sum()), int((arms == CONTROL).sum()))
    drawn = noise or _normal(5)
    return (
        lambda ch: brand(ch, converted, spend, terms=terms, randomness=_random(7)),
        lambda ch: media(ch, arms, there, terms=terms, noise=drawn, randomness=_random()),
    )


def _measure(
    converted: IntArray,
    spend: IntArray | None,
    arms: ArmOf,
    terms: Terms = QUIET,
    *,
    people: tuple[int, int] | None = None,
    noise: Callable[[int, int], IntArray] | None = None,
) -> Measured:
    found, _ = simulate(*_roles(converted, spend, arms, terms, people=people, noise=noise))
    return found


def _drawn(seed: int, n: int, cap: int) -> tuple[IntArray, IntArray, ArmOf]:
    rng = np.random.default_rng(seed)
    arms = rng.choice(np.array([NEITHER, EXPOSED, CONTROL], np.int8), size=n, p=[0.2, 0.4, 0.4])
    return rng.integers(0, 2, n), rng.integers(0, cap + 1, n), arms


def _in_clear(converted: IntArray, spend: IntArray, arms: ArmOf, unit: int) -> list[Arm]:
    found = []
    for arm in (EXPOSED, CONTROL):
        spends = [int(each) for each in spend[arms == arm]]
        squares = sum((each**2 + unit // 2) // unit for each in spends) * unit
        found.append(Arm(len(spends), int(converted[arms == arm].sum()), sum(spends), squares))
    return found


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(400, 900), st.sampled_from([1, 100, 10**5, 10**9]))
def test_without_noise_every_figure_is_that_of_the_clear_text_to_the_last_unit(seed: int, n: int, cap: int) -> None:
    converted, spend, arms = _drawn(seed, n, cap)
    terms = replace(QUIET, cap=cap)
    found = _measure(converted, spend, arms, terms)
    assert [found.exposed, found.control] == _in_clear(converted, spend, arms, squares_unit(n, terms))


def test_squares_are_exact_where_they_have_room_and_fine_where_not() -> None:
    assert squares_unit(1000, replace(QUIET, cap=10**5)) == 1
    for rows, cap in ((10**6, 10**5), (10**9, 10**9), (1000, 10**9)):
        assert squares_unit(rows, replace(QUIET, cap=cap)) <= max(cap**2 * rows * 4 / MODULI[0], cap**2 / 2**12)


def test_rows_over_more_than_one_block_are_added_up_as_one() -> None:
    converted, spend, arms = _drawn(3, 8192 * 2 + 5, 1000)
    terms = replace(QUIET, cap=1000)
    found = _measure(converted, spend, arms, terms)
    assert [found.exposed, found.control] == _in_clear(converted, spend, arms, squares_unit(len(arms), terms))


def test_a_sum_of_money_that_one_modulus_cannot_hold_is_exact() -> None:
    arms = np.full(20_000, EXPOSED, np.int8)
    arms[:5000] = CONTROL
    spend = np.full(20_000, 10**9)
    found = _measure(np.ones(20_000, np.int64), spend, arms, replace(QUIET, cap=10**9))
    assert found.exposed.spend == 15_000 * 10**9
    assert 2 * found.exposed.spend > MODULI[0] / 2
    found = _measure(np.ones(20_000, np.int64), spend, arms, replace(QUIET, cap=10**9, noise_sd=100))
    assert abs((found.exposed.spend or 0) - 15_000 * 10**9) < 6 * 100 * 10**9


def test_people_who_are_not_among_the_rows_count_for_the_size_of_their_arm() -> None:
    converted, _, arms = _drawn(4, 500, 1)
    found = _measure(converted, None, arms, people=(9000, 700))
    assert (found.exposed.people, found.control.people) == (9000, 700)
    assert found.exposed.converted == converted[arms == EXPOSED].sum()
    assert (found.exposed.spend, found.exposed.squares) == (None, None)


def test_every_figure_carries_the_noise_of_its_unit() -> None:
    converted, spend, arms = _drawn(5, 400, 50)
    clear = _measure(converted, spend, arms, replace(QUIET, cap=50))
    noised = [
        _measure(converted, spend, arms, replace(QUIET, cap=50, noise_sd=4, floor=50), noise=_normal(seed))
        for seed in range(40)
    ]
    for arm in ("exposed", "control"):
        for figure, sd in (("people", 4), ("converted", 4), ("spend", 4 * 50), ("squares", 4 * 2500)):
            off = [getattr(getattr(found, arm), figure) - getattr(getattr(clear, arm), figure) for found in noised]
            # The deviation of 40 draws lies within .65 to 1.4 of the true one but once in ten thousand times.
            assert 0.65 * sd < np.std(off) < 1.4 * sd
            assert abs(np.mean(off)) < 4 * sd / 40**0.5


@pytest.mark.parametrize("people", [(49, 400), (400, 49), (0, 0)])
def test_the_media_refuses_a_small_arm_before_it_sends_anything(people: tuple[int, int]) -> None:
    arms = np.zeros(300, np.int8)

    async def alone() -> int:
        a, _ = memory_line()
        with pytest.raises(PolicyError, match="fewer than 50"):
            await media(a, arms, people, terms=QUIET, noise=_normal(1), randomness=_random())
        return len(a.sent)

    assert asyncio.run(alone()) == 0


def test_the_media_sees_ciphertexts_and_sizes_alone() -> None:
    """What reaches it has the same shape whoever bought and whatever was spent."""

    async def shape(converted: IntArray, spend: IntArray, arms: ArmOf) -> list[tuple[str, int]]:
        a, b = memory_line()
        terms = replace(QUIET, cap=1000)
        left, right = _roles(converted, spend, arms, terms, people=(600, 600))
        await asyncio.gather(left(a), right(b))
        return [(name, len(data)) for name, data in a.sent + b.sent]

    first = asyncio.run(shape(*_drawn(6, 600, 1000)))
    arms = np.full(600, EXPOSED, np.int8)
    second = asyncio.run(shape(np.zeros(600, np.int64), np.zeros(600, np.int64), arms))
    assert first == second


def test_the_brand_opens_nothing_but_the_noised_sums() -> None:
    """Slots of a result: uniform, and different each time, but for their total."""
    from tidegate.protocols.blind.products import receive_results, send_uploads
    from tidegate.protocols.primitives.bfv import BrandKey

    arms = np.full(500, EXPOSED, np.int8)

    async def curious(channel: Channel) -> list[NDArray[np.uint64]]:
        await channel.recv(Arms)
        key = BrandKey(_random(9))
        await channel.send(Key(key.public_bytes()))
        slots = np.zeros(8192, np.uint64)
        slots[:500] = 1
        await send_uploads(channel, key.encrypt([slots]))
        return [key.decrypt(result) async for result in receive_results(channel, 2)]

    opened, _ = simulate(
        curious, lambda ch: media(ch, arms, (500, 100), terms=QUIET, noise=_normal(1), randomness=_random())
    )
    for slots, total in zip(opened, (500, 0), strict=True):
        assert sum(int(each) for each in slots) % MODULI[0] == total
        counts, _ = np.histogram(slots.astype(np.float64), bins=16, range=(0, MODULI[0]))
        # Chi-square with 15 degrees of freedom: 50 is passed once in a hundred thousand times.
        assert ((counts - 512.0) ** 2 / 512).sum() < 50
    assert not np.array_equal(opened[0], opened[1])


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (Arms(301, np.array([60, 60], "<i8").tobytes()), "301 rows"),
        (Arms(300, b"\0" * 8), "16 bytes"),
        (Arms(300, np.array([60, 49], "<i8").tobytes()), "number of people"),
        (Arms(300, np.array([60, 10**7], "<i8").tobytes()), "number of people"),
        (Arms(300, np.array([-(2**62), 60], "<i8").tobytes()), "number of people"),
    ],
)
def test_the_brand_refuses_sizes_that_cannot_be(head: Message, says: str) -> None:
    async def liar(channel: Channel) -> None:
        await channel.send(head)

    with pytest.raises(PeerError, match=says):
        simulate(lambda ch: brand(ch, np.ones(300, np.int64), None, terms=QUIET, randomness=_random(7)), liar)


@pytest.mark.parametrize("total", [301, -1, MODULI[0] // 2])
def test_the_brand_refuses_a_count_that_so_many_people_cannot_have(total: int) -> None:
    async def liar(channel: Channel) -> None:
        await channel.send(Arms(300, np.array([60, 60], "<i8").tobytes()))
        public = PublicKey((await channel.recv(Key)).data)
        await channel.recv(Uploads)
        from tidegate.protocols.blind.products import send_results

        mask = np.zeros(8192, np.uint64)
        mask[0] = total % MODULI[0]
        await send_results(channel, [public.sanitise(None, mask, _random(seed)) for seed in (1, 2)])

    with pytest.raises(PeerError, match="count of buyers"):
        simulate(lambda ch: brand(ch, np.ones(300, np.int64), None, terms=QUIET, randomness=_random(7)), liar)


def test_the_media_refuses_a_wrong_number_of_vectors() -> None:
    async def liar(channel: Channel) -> None:
        from tidegate.protocols.primitives.bfv import BrandKey

        await channel.recv(Arms)
        key = BrandKey(_random(9))
        await channel.send(Key(key.public_bytes()))
        await channel.send(Uploads(tuple(key.encrypt([np.zeros(8192, np.uint64)] * 2))))

    arms = np.full(300, EXPOSED, np.int8)
    with pytest.raises(PeerError, match="2 ciphertexts"):
        simulate(lambda ch: media(ch, arms, (300, 60), terms=QUIET, noise=_normal(1), randomness=_random()), liar)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_line_ends_in_a_typed_error_or_the_right_figures(fault: str) -> None:
    converted, spend, arms = _drawn(8, 300, 10)
    left, right = _roles(converted, spend, arms, replace(QUIET, cap=10))
    good, _ = simulate(left, right)
    # brand: key, vectors; media: sizes, results.
    for side in (0, 1):
        for at in range(2 + side):
            with contextlib.suppress(TidegateError):
                found, _ = play_broken(left, right, fault, side, at)
                assert found == good


def test_what_makes_no_sense_is_refused() -> None:
    arms, ones = np.full(300, EXPOSED, np.int8), np.ones(300, np.int64)
    money = replace(QUIET, cap=10)
    for converted, spend, terms, says in (
        (2 * ones, None, QUIET, "0 or 1"),
        (ones[:0], None, QUIET, "0 or 1"),
        (ones, ones, QUIET, "with a cap"),
        (ones, None, money, "with a cap"),
        (ones, 11 * ones, money, "0 to the cap"),
        (ones, -ones, money, "0 to the cap"),
        (ones, ones[:200], money, "0 to the cap"),
    ):
        with pytest.raises(ValueError, match=says):
            _measure(converted, spend, arms, terms)
    for bad_arms, people, says in ((arms + 3, (300, 60), "for each row"), (arms, (299, 60), "more people")):
        with pytest.raises(ValueError, match=says):
            _measure(ones, None, bad_arms, people=people)
    with pytest.raises(ValueError, match="far more"):
        _measure(ones, None, arms, replace(QUIET, noise_sd=1), people=(300, 60), noise=lambda _, n: np.full(n, 65))
    with pytest.raises(ConfigError, match="too many"):
        _measure(ones, ones, arms, replace(QUIET, cap=10**9 + 1), people=(300, 60))
