"""What the comparator of a clustering sees, played back as somebody who would like to know more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.clusterers import FloatArray, Lines, cluster, seeded
from tidegate.protocols.clustering import comparator as blind
from tidegate.protocols.clustering.box import Box
from tidegate.protocols.clustering.comparator import Ask, Masked, Part, Positions, Total, pairs
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import MemoryChannel

IntArray = NDArray[np.int64]
N, K = 20_000, 5
BOX = Box(np.full(10, -8.0), np.full(10, 8.0))


def crowd(seed: int = 0, k: int = K) -> tuple[FloatArray, FloatArray]:
    """Rows in k clouds, and the means of rows near their centres: the next iteration's hardly differ."""
    rng = np.random.default_rng(seed)
    centres, cloud = rng.normal(size=(k, 20)) * 1.5, rng.integers(0, k, N)
    x = np.clip(centres[cloud] + rng.normal(size=(N, 20)), -8, 8)
    return x, np.stack([x[cloud == each].mean(axis=0) for each in range(k)])


def watched(x: FloatArray, initial: FloatArray, iterations: int, seed: int = 1) -> tuple[list[IntArray], Lines]:
    """For each pass the values (pairs, n) that the comparator had when it had added up, and all lines."""
    lines = Lines(2)
    cluster(np.split(x, 2, axis=1), np.split(initial, 2, axis=1), iterations, boxes=[BOX, BOX], lines=lines, seed=seed)
    parts = [values_of(channel, len(x), len(initial)) for channel in lines.helpers]
    # Back from 48 bits to a number with a sign.
    return [((a + b) << 16) >> 16 for a, b in zip(*parts, strict=True)], lines


def values_of(channel: MemoryChannel, n: int, k: int) -> list[IntArray]:
    """What one party sent, pass by pass: (pairs, n), modulo 2^48."""
    blocks = [Masked.from_bytes(data) for kind, data in channel.sent if kind == "Masked"]
    found: list[IntArray] = []
    for block in blocks:
        count = len(block.values) // 6
        low, high = np.frombuffer(block.values, "<u4", count), np.frombuffer(block.values, "<u2", count, 4 * count)
        values = (low + (high.astype(np.int64) << 32)).reshape(len(pairs(k)), -1)
        found = [*found, values] if block.first == 0 else [*found[:-1], np.hstack([found[-1], values])]
    assert all(each.shape == (len(pairs(k)), n) for each in found)
    return found


def orders(monkeypatch: pytest.MonkeyPatch) -> list[IntArray]:
    """Collects the secret order of each pass, which tells whether a guess was right."""
    found: list[IntArray] = []

    class Noted(blind.Turn):
        def __init__(self, veil: blind.Veil, turn: bytes, rows: int, k: int, noise: Randomness) -> None:
            super().__init__(veil, turn, rows, k, noise)
            if veil.lead:
                found.append(self.order)

    monkeypatch.setattr(blind, "Turn", Noted)
    return found


def ranked(values: IntArray, k: int) -> FloatArray:
    """log2 of the size of every pair's value, a row's places sorted by how many they win against: (n, pairs)."""
    between = np.zeros((values.shape[1], k, k))
    for (u, v), value in zip(pairs(k), values, strict=True):
        between[:, u, v], between[:, v, u] = value, -value
    order = np.argsort((between > 0).sum(axis=2), axis=1)
    between = np.take_along_axis(between, order[:, :, None], axis=1)
    between = np.take_along_axis(between, order[:, None, :], axis=2)
    return np.stack([np.log2(np.abs(between[:, u, v])) for u, v in pairs(k)], axis=1)


def relinked(passes: Sequence[IntArray], order: Sequence[IntArray], k: int) -> dict[str, float]:
    """The share of rows of the first pass that is found in the second, by several kinds of fingerprint.

    ratios: of the gaps between the least sum and the others, which no scale of a row as a whole hides. all: the sizes
    of all pairs. mean: their mean. tuned: the linear combinations that say most, learned from the right answer.
    """
    first, second = (ranked(values, k) for values in passes)
    back = np.empty(len(first), np.int64)
    back[order[1]] = np.arange(len(first))
    truth = back[order[0]]

    def share(a: FloatArray, b: FloatArray) -> float:
        return float((likeliest(2 * a, b, (b**2).sum(axis=1)) == truth).mean())

    return {
        "ratios": share(first[:, 1 : k - 1] - first[:, :1], second[:, 1 : k - 1] - second[:, :1]),
        "all": share(first, second),
        "mean": share(first.mean(axis=1, keepdims=True), second.mean(axis=1, keepdims=True)),
        "tuned": tuned(first, second, truth),
    }


def tuned(first: FloatArray, second: FloatArray, truth: IntArray) -> float:
    """Likeliest partner under a joint normal law of canonical variates, which an attacker would have to guess."""
    n = len(first)
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)

    def whitener(x: FloatArray) -> FloatArray:
        return np.linalg.inv(np.linalg.cholesky(x.T @ x / n + 1e-9 * np.eye(x.shape[1]))).T

    left, right = whitener(a), whitener(b)
    u, rho, vt = np.linalg.svd((a @ left).T @ (b[truth] @ right) / n)
    p, q = a @ left @ u, b @ right @ vt.T
    rho = np.clip(rho, 0, 0.999)
    weights, constant = rho / (1 - rho**2), q**2 @ (rho**2 / (2 * (1 - rho**2)))
    return float((likeliest(p * weights, q, constant) == truth).mean())


def likeliest(a: FloatArray, b: FloatArray, constant: FloatArray) -> IntArray:
    """For each row of a the row of b with the largest <a, b> - constant."""
    there = b.astype(np.float32).T
    found = [np.argmax(part.astype(np.float32) @ there - constant.astype(np.float32), axis=1) for part in parts(a)]
    return np.concatenate(found)


def parts(a: FloatArray) -> list[FloatArray]:
    return np.array_split(a, max(1, len(a) // 500))


@pytest.mark.parametrize("k", [3, 5, 10])
def test_of_20_000_rows_at_most_one_in_a_thousand_is_linked_to_the_next_iteration(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = orders(monkeypatch)
    passes, _ = watched(*crowd(k=k), 2)
    found = relinked(passes, order, k)
    assert max(found.values()) <= 0.001, found


def test_the_same_attack_finds_half_of_the_rows_where_a_row_has_one_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_a_row(stream: Randomness, k: int, rows: int) -> IntArray:
        return np.repeat(drawn(stream, 2, rows), len(pairs(k)), axis=0)

    drawn = blind.drawn_scales
    monkeypatch.setattr(blind, "drawn_scales", one_a_row)
    order = orders(monkeypatch)
    passes, _ = watched(*crowd(), 2)
    found = relinked(passes, order, K)
    assert found["ratios"] >= 0.5, found


def test_the_same_attack_finds_nearly_all_rows_where_there_are_no_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blind, "drawn_scales", lambda _stream, k, rows: np.ones((len(pairs(k)), rows), np.int64))
    order = orders(monkeypatch)
    passes, _ = watched(*crowd(), 2)
    assert relinked(passes, order, K)["tuned"] >= 0.9


def test_people_far_from_everybody_in_every_column_are_not_among_the_largest_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = orders(monkeypatch)
    x, initial = crowd(k=10)
    # 5 deviations in each of 20 columns, as far as usual ranges go, and most pairs to tell them by.
    x[:20] = 5 * np.sign(np.random.default_rng(5).normal(size=(20, 20)))
    passes, _ = watched(x, initial, 2)
    for values, at in zip(passes, order, strict=True):
        largest = at[np.argsort(-np.log2(np.abs(values)).mean(axis=0))]
        assert np.isin(largest[:20], np.arange(20)).sum() <= 4
        assert np.median(np.flatnonzero(np.isin(largest, np.arange(20)))) > 500


# Each part alone.


def is_uniform(data: bytes) -> bool:
    """Whether every 4 bits of 48-bit values, the low 4 bytes of all before the high 2, are each of 16 as often."""
    count = len(data) // 6
    low = np.frombuffer(data, np.uint8, 4 * count).reshape(-1, 4)
    high = np.frombuffer(data, np.uint8, 2 * count, 4 * count).reshape(-1, 2)
    values = np.hstack([low, high])
    counts = [np.bincount(part, minlength=16) for column in values.T for part in (column & 15, column >> 4)]
    return bool((np.abs(np.array(counts) - count / 16) < 6 * np.sqrt(count / 16)).all())


def test_what_one_party_sends_is_uniform_whatever_it_holds() -> None:
    far = np.full((N, 20), 8.0)
    for x in (crowd()[0], far):
        _, lines = watched(x, crowd()[1], 1)
        for channel in lines.helpers:
            (values,) = values_of(channel, N, K)
            assert is_uniform(blind.packed(values))


def test_without_masks_what_one_party_sends_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blind.Veil, "mask", lambda _self, _streams, count: np.zeros(count, np.uint64))
    _, lines = watched(*crowd(), 1)
    (values,) = values_of(lines.helpers[0], N, K)
    assert not is_uniform(blind.packed(values))


def test_parties_of_three_that_put_all_but_one_together_still_lack_its_mask() -> None:
    lines = Lines(3)
    x, initial = crowd()
    boxes = [Box(np.full(d, -8.0), np.full(d, 8.0)) for d in (10, 5, 5)]
    cluster(np.split(x, [10, 15], axis=1), np.split(initial, [10, 15], axis=1), 1, boxes=boxes, lines=lines)
    values = [values_of(channel, N, K)[0] for channel in lines.helpers]
    for one in range(3):
        others = np.sum([values[other] for other in range(3) if other != one], axis=0)
        assert is_uniform(blind.packed(others))
    total = (np.sum(values, axis=0) << 16) >> 16
    assert np.abs(total).max() < 2**47
    assert np.median(np.abs(total)) < 2**40


def test_places_of_the_nearest_are_uniform_in_every_pass_though_all_rows_are_of_one_cluster() -> None:
    rng = np.random.default_rng(0)
    x, initial = 0.1 * rng.normal(size=(N, 20)), rng.normal(size=(K, 20))
    initial[0] = 0
    _, lines = watched(x, initial, 1)
    answers = [Positions.from_bytes(data) for kind, data in lines.there["0"].sent if kind == "Positions"]
    counts = np.bincount(np.frombuffer(b"".join(each.positions for each in answers), np.uint8), minlength=K)
    # chi^2 with 4 degrees of freedom is below 23.5 in all but one in 10,000 cases; the seed is fixed.
    assert ((counts - N / K) ** 2 / (N / K)).sum() < 23.5


def test_every_order_of_the_places_is_equally_likely() -> None:
    ranks = blind.permutations(4, 48_000, seeded(3)).astype(int)
    assert (np.sort(ranks, axis=0) == np.arange(4)[:, None]).all()
    _, counts = np.unique(ranks[0] * 64 + ranks[1] * 16 + ranks[2] * 4 + ranks[3], return_counts=True)
    assert len(counts) == 24
    assert ((counts - 2000) ** 2 / 2000).sum() < 60


def test_scales_are_uniform_in_the_logarithm_over_18_bits_and_independent() -> None:
    scale = np.log2(blind.drawn_scales(seeded(4), 3, 100_000))
    for each in scale:
        counts, _ = np.histogram(each[each >= 6], bins=12, range=(6, 18))
        assert np.abs(counts / counts.mean() - 1).max() < 0.05
    assert np.abs(np.corrcoef(scale) - np.eye(3)).max() < 0.02
    assert (scale >= 0).all()
    assert (scale <= 18).all()


def test_equal_distances_show_no_zero() -> None:
    # All centroids are one: every sum is a tie, which the index decides.
    x = crowd()[0]
    (values,), _ = watched(x, np.zeros((K, 20)), 1)
    assert (values != 0).all()
    assert np.abs(np.mean(values > 0) - 0.5) < 0.01


def test_a_scale_does_not_divide_what_the_comparator_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blind, "drawn_scales", lambda _stream, k, rows: np.full((len(pairs(k)), rows), 1000))
    (values,), _ = watched(*crowd(), 1)
    remainders = np.bincount(values.ravel() % 1000 // 100, minlength=10)
    assert np.abs(remainders / remainders.mean() - 1).max() < 0.05


def shape(lines: Lines) -> list[list[tuple[str, int]]]:
    everybody = [*lines.helpers, *lines.there.values(), *(line for peer in lines.peers for line in peer.values())]
    return [[(kind, len(data)) for kind, data in channel.sent] for channel in everybody]


def test_the_shape_of_what_is_sent_depends_on_rows_clusters_and_iterations_alone() -> None:
    shapes = []
    for seed, low in ((0, 0.0), (1, 0.0), (2, 8.0)):
        x, initial = crowd(seed)
        if low:
            # Everybody the same but one: clusters without rows, starting again at corners.
            x[1:] = low
        _, lines = watched(x[:3000], initial, 2, seed)
        shapes.append(shape(lines))
    assert shapes[0] == shapes[1] == shapes[2]
    _, lines = watched(crowd()[0][:2999], crowd()[1], 2)
    assert shape(lines) != shapes[0]


def test_the_comparator_is_sent_nothing_but_turns_values_and_masked_sums() -> None:
    x, initial = crowd()
    _, lines = watched(x[:500], initial, 2)
    for channel in lines.helpers:
        assert {kind for kind, _ in channel.sent} == {"Ask", "Masked", "Part"}
        for kind, data in channel.sent:
            if kind == "Ask":
                assert (ask := Ask.from_bytes(data)).rows in (0, 500)
                assert ask.k in (0, K)
    for channel in lines.there.values():
        assert {kind for kind, _ in channel.sent} == {"Positions", "Total"}


def test_neither_parts_nor_totals_of_the_inertia_show_it() -> None:
    # The same rows under other keys: what the comparator adds up has nothing to do with what is added.
    totals, parts = [], []
    for seed in range(40):
        _, lines = watched(crowd()[0][:50], crowd()[1], 1, seed)
        totals += [Total.from_bytes(d).value for kind, d in lines.there["0"].sent if kind == "Total"]
        parts += [Part.from_bytes(d).value for kind, d in lines.helpers[1].sent if kind == "Part"]
    for numbers in (totals, parts):
        assert len(set(numbers)) == 40
        assert 10 <= sum(number >= 2**63 for number in numbers) <= 30
        assert max(numbers) > 2**62


def test_no_two_passes_of_a_run_share_order_masks_or_name(monkeypatch: pytest.MonkeyPatch) -> None:
    order = orders(monkeypatch)
    _, initial = crowd()
    # Nothing moves: but for what is drawn anew both passes would send the same.
    _, lines = watched(np.repeat(initial, 20, axis=0), initial, 2)
    assert np.mean(order[0] == order[1]) < 0.1
    for channel in lines.helpers:
        first, second = values_of(channel, 20 * K, K)
        assert np.mean(first == second) < 0.01
        names = [Ask.from_bytes(data).name for kind, data in channel.sent if kind == "Ask"]
        assert len(set(names)) == len(names) == 4


def test_no_turn_uses_the_masks_scales_or_order_of_another() -> None:
    veil = blind.Veil(b"k" * 32, (b"m" * 32,), lead=False)
    drawn = [
        veil.stream(purpose, turn).bytes(32)
        for purpose in (b"rows", b"clusters", b"scales", b"offset")
        for turn in (b"\0" * 8, b"\1" + b"\0" * 7, b"inertia")
    ] + [veil.mask_streams(turn)[0].bytes(32) for turn in (b"\0" * 8, b"\1" + b"\0" * 7, b"inertia")]
    assert len(set(drawn)) == 15
