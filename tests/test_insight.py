"""Insight: counts as in the clear text, nothing under the floor, nothing that was not granted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.broken_line import FAULTS, play_broken
from tidegate.protocols.blind import evidence, insight
from tidegate.protocols.blind.evidence import Group, Totals
from tidegate.protocols.blind.insight import Feature, Features, Insight
from tidegate.protocols.channel import Channel, PeerError, PolicyError, TidegateError
from tidegate.protocols.primitives.fixed_point import IntArray, T
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import memory_line, simulate


@dataclass(frozen=True)
class Cut:
    """Bins as a party's table gives them."""

    name: str
    labels: tuple[str, ...]
    ordered: bool = True


AGE = Cut("age", ("under 20", "20 to 29", "30 to 39", "40 or more"))
JOB = Cut("job", ("clerk", "farmer", "other"), ordered=False)


BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


def _random(seed: int = 1) -> Randomness:
    return Randomness(seed.to_bytes(32, "little"))


def _none(n: int) -> IntArray:
    return np.zeros(n, np.int64)


def _roles(
    y: IntArray,
    codes: IntArray,
    bins: list[Cut],
    floor: int = 50,
    noise: Callable[[int], IntArray] = _none,
    granted: tuple[str, ...] = ("age", "job"),
    present: BoolArray | None = None,
    noise_sd: int = 20,
) -> tuple[Callable[[Channel], Awaitable[Insight]], Callable[[Channel], Awaitable[None]]]:
    def brand(channel: Channel) -> Awaitable[Insight]:
        return insight.brand(
            channel, y, granted=granted, floor=floor, noise_sd=noise_sd, randomness=_random(2), present=present
        )

    def media(channel: Channel) -> Awaitable[None]:
        return insight.media(
            channel,
            codes,
            bins,
            floor=floor,
            noise=noise,
            noise_sd=noise_sd,
            randomness=_random(1),
            hidden=present is not None,
        )

    return brand, media


def _people(positives: list[int], negatives: list[int]) -> tuple[IntArray, IntArray]:
    """Labels and codes of one feature whose bins have so many positives and negatives."""
    bins = range(len(positives))
    codes = np.concatenate([np.repeat(bins, positives), np.repeat(bins, negatives)]).astype(np.int64)
    y = np.repeat([1, 0], [sum(positives), sum(negatives)]).astype(np.int64)
    order = np.random.default_rng(0).permutation(len(y))
    return y[order], codes[order][:, None]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.integers(300, 9000))
def test_counts_and_index_are_those_of_the_clear_text(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    codes = np.stack([rng.permutation(np.arange(n) % 4), rng.permutation(np.arange(n) % 3)], axis=1)
    found, _ = simulate(*_roles(y, codes, [AGE, JOB], floor=10))
    for j, cut in enumerate((AGE, JOB)):
        for code, bin_ in enumerate(found.features[cut.name].bins):
            inside = codes[:, j] == code
            assert (bin_.label, bin_.people, bin_.positives) == (cut.labels[code], inside.sum(), y[inside].sum())
            assert bin_.evidence.index == pytest.approx(100 * y[inside].mean() / y.mean())
            assert bin_.matched == bin_.people
    assert found.base_rate == y.mean()
    assert found.withheld == ()


def test_every_count_carries_noise_of_its_own() -> None:
    y, codes = _people([500, 500, 500, 500], [500, 500, 500, 500])
    drawn: list[IntArray] = []

    def noise(n: int) -> IntArray:
        drawn.append(np.random.default_rng(len(drawn)).integers(-20, 21, n))
        return drawn[-1]

    found, _ = simulate(*_roles(y, codes, [AGE], noise=noise))
    bins = found.features["age"].bins
    np.testing.assert_array_equal([bin_.people for bin_ in bins], 1000 + drawn[0])
    np.testing.assert_array_equal([bin_.positives for bin_ in bins], 500 + drawn[1])


def test_bins_with_few_positives_join_their_smaller_neighbour() -> None:
    y, codes = _people([60, 10, 45, 200], [500, 500, 500, 500])
    found, _ = simulate(*_roles(y, codes, [AGE]))
    assert [(bin_.label, bin_.people, bin_.positives) for bin_ in found.features["age"].bins] == [
        ("under 20", 560, 60),
        ("20 to 29, 30 to 39", 1055, 55),
        ("40 or more", 700, 200),
    ]
    y, codes = _people([30, 10, 15, 200], [500, 500, 500, 500])
    found, _ = simulate(*_roles(y, codes, [AGE]))
    assert [bin_.label for bin_ in found.features["age"].bins] == ["under 20 ... 30 to 39", "40 or more"]


def test_bins_without_an_order_join_the_smallest() -> None:
    y, codes = _people([30, 200, 70], [500, 500, 500])
    found, _ = simulate(*_roles(y, codes, [JOB]))
    assert [bin_.label for bin_ in found.features["job"].bins] == ["clerk, other", "farmer"]


def test_few_negatives_are_no_more_shown_than_few_positives() -> None:
    y, codes = _people([500, 500, 500, 500], [10, 60, 60, 60])
    found, _ = simulate(*_roles(y, codes, [AGE]))
    assert [bin_.label for bin_ in found.features["age"].bins] == ["under 20, 20 to 29", "30 to 39", "40 or more"]


@given(st.lists(st.integers(-9999, 9999), min_size=1, max_size=20), st.integers(0, 4))
def test_counts_come_apart_again_whatever_their_sign(values: list[int], spare: int) -> None:
    bits = insight._digit_bits(9999, 0) + spare
    counts = np.array([values, values[::-1]], np.int64).T
    sums = insight._undigits(counts, bits)
    assert np.abs(sums).max() < T // 2
    np.testing.assert_array_equal(insight._digits(sums, bits)[: len(counts)], counts)


def test_noise_beyond_what_was_declared_is_refused() -> None:
    y, codes = _people([100, 100, 100, 100], [100, 100, 100, 100])
    with pytest.raises(ValueError, match="count noise"):
        simulate(*_roles(y, codes, [AGE], noise=lambda n: np.full(n, 64 * 20 + 1)))
    with pytest.raises(PolicyError, match="no room"):
        insight._digit_bits(1000, 2**40)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(50, 400), st.integers(-20, 420)), min_size=2, max_size=12),
    st.booleans(),
    st.integers(1, 120),
)
def test_whatever_the_counts_no_shown_bin_is_under_the_floor(
    counts: list[tuple[int, int]], ordered: bool, floor: int
) -> None:
    people, positives = (np.array(column, np.int64) for column in zip(*counts, strict=True))
    bins = insight._joined(ordered, [str(i) for i in range(len(counts))], 3 * people, people, positives, floor)
    assert sum(one.people for one in bins) == 3 * people.sum()
    assert sum(one.matched for one in bins) == people.sum()
    assert sum(one.positives for one in bins) == positives.sum()
    if len(bins) > 1:
        assert all(one.positives >= floor and one.matched - one.positives >= floor for one in bins)


def test_a_feature_that_ends_in_one_bin_is_withheld_and_named() -> None:
    y, codes = _people([10, 10, 10, 10], [500, 500, 500, 500])
    found, _ = simulate(*_roles(y, codes, [AGE]))
    assert found.features == {}
    assert set(found.withheld) == {"age", "job"}


def test_without_a_feature_or_a_positive_nothing_is_shown() -> None:
    y, codes = _people([0, 0, 0, 0], [100, 100, 100, 100])
    found, _ = simulate(*_roles(y, codes, [AGE]))
    assert found == Insight(400, 0, {}, ("job", "age"))
    assert found.base_rate == 0
    found, _ = simulate(*_roles(y, codes[:, :0], []))
    assert found == Insight(400, 0, {}, ("age", "job"))


def test_the_media_counts_no_bin_under_the_floor() -> None:
    y, codes = _people([30, 30, 30, 10], [30, 30, 30, 39])
    with pytest.raises(PolicyError, match="fewer than 50 people"):
        simulate(*_roles(y, codes, [AGE]))


HEAD = Features(100, 1)
GOOD = Feature("age", 1, (b"a", b"b"), bytes(16))


@pytest.mark.parametrize(
    ("head", "features", "says"),
    [
        (Features(99, 1), [], "99 rows"),
        (Features(100, 3), [], "grants 2"),
        (Features(100, 2), [GOOD, GOOD], "twice"),
        (HEAD, [replace(GOOD, name="income")], "does not name"),
        (HEAD, [replace(GOOD, labels=(b"a",), people=bytes(8))], "fit together"),
        (HEAD, [replace(GOOD, labels=(b"a",) * 65, people=bytes(8 * 65))], "fit together"),
        (HEAD, [replace(GOOD, people=bytes(17))], "fit together"),
        (HEAD, [replace(GOOD, ordered=2)], "fit together"),
        (HEAD, [replace(GOOD, labels=(b"a", b"a"))], "twice"),
        (HEAD, [replace(GOOD, labels=(b"a", b"\x1b[2J"))], "printable"),
        (HEAD, [replace(GOOD, labels=(b"a", b"\xff"))], "UTF-8"),
        (HEAD, [replace(GOOD, labels=(b"a", b"b" * 600))], "printable"),
        (HEAD, [replace(GOOD, people=b"\xff" * 7 + b"\x7f" + bytes(8))], "cannot be one"),
    ],
)
def test_the_brand_refuses_what_no_honest_media_sends(head: Features, features: list[Feature], says: str) -> None:
    async def liar(channel: Channel) -> None:
        await channel.send(head)
        for feature in features:
            await channel.send(feature)

    brand, _ = _roles(np.arange(100) % 2, np.zeros((100, 1), np.int64), [AGE])
    with pytest.raises(PeerError, match=says):
        simulate(brand, liar)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_line_ends_in_a_typed_error_or_the_right_counts(fault: str) -> None:
    y, codes = _people([100, 200, 300, 400], [500, 500, 500, 500])
    roles = _roles(y, codes, [AGE])
    right, _ = simulate(*roles)
    # brand: key, labels; media: features, feature, sums.
    for side, messages in ((0, 2), (1, 3)):
        for at in range(messages):
            with contextlib.suppress(TidegateError):
                found, _ = play_broken(*roles, fault, side, at)
                assert found == right


def test_what_is_sent_does_not_depend_on_the_labels() -> None:
    async def shape(y: IntArray, codes: IntArray) -> list[tuple[str, int]]:
        a, b = memory_line()
        brand, media = _roles(y, codes, [AGE])
        await asyncio.gather(brand(a), media(b))
        return [(name, len(data)) for name, data in a.sent + b.sent]

    y, codes = _people([100, 200, 300, 400], [500, 500, 500, 500])
    assert asyncio.run(shape(y, codes)) == asyncio.run(shape(1 - y, codes)) == asyncio.run(shape(0 * y, codes[::-1]))


def test_the_media_sees_no_label() -> None:
    """The same labels twice give ciphertexts that differ in every part, and neither holds the labels' bytes."""

    async def sent(seed: int) -> bytes:
        a, b = memory_line()
        y, codes = _people([100, 200, 300, 400], [500, 500, 500, 500])
        await asyncio.gather(
            insight.brand(a, y, granted=("age",), floor=50, noise_sd=0, randomness=_random(seed)),
            insight.media(b, codes, [AGE], floor=50, noise=_none, noise_sd=0, randomness=_random(1)),
        )
        return next(data for name, data in a.sent if name == "Uploads")

    first, second = (np.frombuffer(asyncio.run(sent(seed))[-8 * 8192 :], np.uint64) for seed in (1, 2))
    assert (first == second).mean() < 0.01


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32), st.integers(600, 9000))
def test_hidden_alignment_counts_people_matched_and_positives(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    present = rng.random(n) < 0.5
    y = rng.integers(0, 2, n)
    codes = np.stack([rng.permutation(np.arange(n) % 4), rng.permutation(np.arange(n) % 3)], axis=1).astype(np.uint8)
    found, _ = simulate(*_roles(y, codes, [AGE, JOB], floor=10, present=present))
    assert (found.matched, found.positives) == (present.sum(), y[present].sum())
    for j, cut in enumerate((AGE, JOB)):
        for code, bin_ in enumerate(found.features[cut.name].bins):
            inside = codes[:, j] == code
            there = inside & present
            assert (bin_.people, bin_.matched, bin_.positives) == (inside.sum(), there.sum(), y[there].sum())
            assert bin_.evidence.index == pytest.approx(100 * y[there].mean() / y[present].mean())


def test_bins_with_few_matched_people_are_joined_by_the_brand() -> None:
    y, codes = _people([200, 200, 200, 200], [500, 500, 500, 500])
    present = (codes[:, 0] != 1) | (np.arange(len(y)) % 10 == 0)
    found, _ = simulate(*_roles(y, codes, [AGE], present=present))
    bins = found.features["age"].bins
    assert [one.people for one in bins] in ([1400, 700, 700], [700, 1400, 700])
    assert all(one.positives >= 50 and one.matched - one.positives >= 50 for one in bins)


def test_under_hidden_alignment_the_media_sees_the_same_whoever_is_matched() -> None:
    """As much as sizes can tell; that the ciphertexts themselves tell nothing is RLWE, and test_bfv."""

    async def shape(y: IntArray, present: BoolArray) -> list[tuple[str, int]]:
        a, b = memory_line()
        brand, media = _roles(y, codes, [AGE], present=present)
        await asyncio.gather(brand(a), media(b))
        return [(name, len(data)) for name, data in a.sent + b.sent]

    y, codes = _people([100, 200, 300, 400], [500, 500, 500, 500])
    nobody, half, all_ = (np.arange(len(y)) % 2 < k for k in (0, 1, 2))
    first = asyncio.run(shape(y, all_))
    assert first == asyncio.run(shape(y, nobody)) == asyncio.run(shape(0 * y, half))


def test_more_rows_and_bins_than_are_held_at_once_are_counted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    n = 9 * 8192 + 5
    y, codes = rng.integers(0, 2, n), rng.integers(0, 4, (n, 2)).astype(np.uint8)
    roles = _roles(y, codes, [AGE, replace(AGE, name="job")], floor=10)
    found, _ = simulate(*roles)
    for j, name in enumerate(("age", "job")):
        counted = [one.positives for one in found.features[name].bins]
        np.testing.assert_array_equal(counted, np.bincount(codes[y == 1, j], minlength=4))
    monkeypatch.setattr(insight, "_SUMS_AT_ONCE", 1)
    again, _ = simulate(*roles)
    assert again == found


# What counts say. The clear text: shares of positives and of others in each group.


def _clear(people: IntArray, positives: IntArray) -> tuple[FloatArray, float]:
    good = positives / positives.sum()
    bad = (people - positives) / (people - positives).sum()
    woe = np.log(good / bad)
    return woe, float(((good - bad) * woe).sum())


GROUPS = {
    "strong": (np.array([4000, 3000, 2000, 1000]), np.array([200, 300, 400, 400])),
    "weak": (np.array([4000, 3000, 2000, 1000]), np.array([400, 310, 220, 120])),
    "none": (np.array([4000, 3000, 2000, 1000]), np.array([400, 300, 200, 100])),
    "rare": (np.array([40_000, 30_000, 20_000]), np.array([120, 150, 200])),
}


@pytest.mark.parametrize("which", GROUPS)
def test_evidence_is_that_of_the_clear_text_without_noise(which: str) -> None:
    people, positives = GROUPS[which]
    totals = Totals(int(people.sum()), int(positives.sum()))
    groups = [Group(int(n), int(good)) for n, good in zip(people, positives, strict=True)]
    woe, iv = _clear(people, positives)
    for group, expected in zip(groups, woe, strict=True):
        found = evidence.of_group(group, totals)
        assert found.woe == pytest.approx(expected, abs=1e-12)
        assert found.woe_interval == (found.woe, found.woe)
        assert found.index == pytest.approx(100 * (group.positives / group.people) / (totals.positives / totals.people))
    value = evidence.of_feature(groups, totals)
    assert value.iv == pytest.approx(iv, abs=1e-12)
    assert value.interval == (value.iv, value.iv)


@pytest.mark.parametrize("sd", [10, 25])
@pytest.mark.parametrize("which", GROUPS)
def test_intervals_hold_the_clear_text_as_often_as_declared(which: str, sd: int) -> None:
    """95 % declared, half a percent of chance in 2,000 draws. Where IV is next to 0 its interval is held more often."""
    people, positives = GROUPS[which]
    totals = Totals(int(people.sum()), int(positives.sum()))
    woe, iv = _clear(people, positives)
    rng, draws = np.random.default_rng(7), 2000
    index = 100 * (positives / people) / (totals.positives / totals.people)
    held_woe, held_index, held_iv, total = np.zeros(len(people)), np.zeros(len(people)), 0, 0.0
    for _ in range(draws):
        noised = [
            Group(n + rng.normal(0, sd), good + rng.normal(0, sd), sd)
            for n, good in zip(people, positives, strict=True)
        ]
        for i, group in enumerate(noised):
            found = evidence.of_group(group, totals)
            held_woe[i] += found.woe_interval[0] <= woe[i] <= found.woe_interval[1]
            held_index[i] += found.index_interval[0] <= index[i] <= found.index_interval[1]
        value = evidence.of_feature(noised, totals)
        held_iv += value.interval[0] <= iv <= value.interval[1]
        total += value.iv
    assert (held_woe / draws > 0.93).all()
    assert (held_woe / draws < 0.98).all()
    assert (held_index / draws > 0.93).all()
    assert (held_index / draws < 0.98).all()
    assert held_iv / draws > 0.92
    assert total / draws == pytest.approx(iv, rel=0.01, abs=0.005)


def test_a_feature_without_a_difference_stays_under_chance_as_often_as_declared() -> None:
    rng, draws, people = np.random.default_rng(1), 2000, np.array([3000, 2000, 1000, 500, 500])
    over = 0
    for _ in range(draws):
        positives = rng.binomial(people, 0.1)
        totals = Totals(int(people.sum()), int(positives.sum()))
        groups = [Group(int(n), int(good)) for n, good in zip(people, positives, strict=True)]
        over += evidence.strength(evidence.of_feature(groups, totals)) != "nothing clear"
    assert 0.035 < over / draws < 0.065


def test_counts_that_no_group_can_have_are_taken_as_the_nearest_that_it_can() -> None:
    totals = Totals(1000, 100)
    assert evidence.of_group(Group(50, -30, 10), totals) == evidence.of_group(Group(50, 0.5, 10), totals)
    assert evidence.of_group(Group(50, 80, 10), totals) == evidence.of_group(Group(50, 49.5, 10), totals)
    assert evidence.of_group(Group(-5, 3, 10), totals) == evidence.of_group(Group(1, 0.5, 10), totals)


@pytest.mark.parametrize(
    ("iv", "word"),
    [(0.019, "next to nothing"), (0.02, "weak"), (0.1, "medium"), (0.3, "strong"), (0.5, "very strong")],
)
def test_information_value_has_a_word(iv: float, word: str) -> None:
    assert evidence.strength(evidence.Value(iv, (iv, iv), 0.001)) == word
    assert evidence.strength(evidence.Value(iv, (iv, iv), iv)) == "nothing clear"
