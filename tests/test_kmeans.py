"""K-means over columns of several parties: Lloyd's algorithm to the step, whoever holds which columns."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from tests.broken_line import FAULTS
from tests.clusterers import Lines, box_of, cluster, played, seeded, starts
from tests.test_session import CONTRACT, RUN, MemoryFrames, honest
from tidegate.protocols.channel import (
    CarrierError,
    Channel,
    ConfigError,
    DisagreementError,
    Message,
    PeerError,
    TidegateError,
)
from tidegate.protocols.clustering import comparator as blind
from tidegate.protocols.clustering.box import Box, starting
from tidegate.protocols.clustering.comparator import Ask, Masked, Part, Positions, Total, Veil, added, comparator, end
from tidegate.protocols.clustering.kmeans import (
    Clustered,
    Labels,
    Ready,
    Settings,
    Terms,
    adjusted_rand,
    assign,
    fraction_bits,
    member,
    partial_distances,
)
from tidegate.wire.identity import Identity
from tidegate.wire.session import open_session

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
DATA = Path(__file__).parents[2] / "shared" / "data"


def crowd(n: int, d: int, k: int, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Rows of k clouds that overlap, and k points to start from that are none of them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d)) * 1.5
    x = centres[rng.integers(0, k, n)] + rng.normal(size=(n, d))
    return np.clip(x, -6, 6), np.clip(centres + rng.normal(size=(k, d)), -6, 6)


def squared(x: FloatArray, centroids: FloatArray) -> FloatArray:
    return np.stack([((x - centroid) ** 2).sum(axis=1) for centroid in centroids], axis=1)


def split(x: FloatArray, parties: int) -> list[FloatArray]:
    return [np.ascontiguousarray(part) for part in np.array_split(x, parties, axis=1)]


def assigned(columns: list[FloatArray], centroids: list[FloatArray], boxes: list[Box]) -> list[Any]:
    """The labels that each party gets of one pass; an error is raised."""

    def part(number: int) -> Any:
        async def role(helper: Channel, peers: Mapping[str, Channel]) -> IntArray:
            labels = await assign(
                helper,
                peers,
                columns[number],
                centroids[number],
                box=boxes[number],
                randomness=seeded(number),
                lead=number == 0,
            )
            await end(helper)
            return labels

        return role

    *labels, _ = played([part(number) for number in range(len(columns))])
    for each in labels:
        if isinstance(each, Exception):
            raise each
    return labels


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 3), st.integers(2, 10), st.integers(1, 60), st.integers(3, 8), st.integers(0, 2**32))
def test_a_pass_gives_every_party_the_index_of_the_least_distance_and_of_equal_ones_the_first(
    parties: int, k: int, n: int, d: int, seed: int
) -> None:
    # Small whole numbers: many distances are equal, and all are exact in fixed point.
    rng = np.random.default_rng(seed)
    x, centroids = rng.integers(-2, 3, (n, d)).astype(float), rng.integers(-2, 3, (k, d)).astype(float)
    boxes = [Box(np.full(part.shape[1], -2.0), np.full(part.shape[1], 2.0)) for part in split(x, parties)]
    labels = assigned(split(x, parties), split(centroids, parties), boxes)
    for each in labels:
        np.testing.assert_array_equal(each, squared(x, centroids).argmin(axis=1))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 3), st.integers(2, 10), st.integers(1, 200), st.integers(1, 5), st.integers(0, 2**32))
def test_clusters_are_lloyds_whoever_holds_which_columns(
    parties: int, k: int, n: int, iterations: int, seed: int
) -> None:
    x, initial = crowd(n, 5, k, seed)
    found, seen = cluster(split(x, parties), split(initial, parties), iterations, seed=seed % 1000)
    labels, centroids = found[0].labels, np.hstack([each.centroids for each in found])
    for each in found:
        np.testing.assert_array_equal(each.labels, labels)
        assert (each.iterations, each.inertia, each.converged) == (
            found[0].iterations,
            found[0].inertia,
            found[0].converged,
        )
    sizes = np.bincount(labels, minlength=k)
    np.testing.assert_array_equal(found[0].sizes, sizes)
    for cluster_ in np.flatnonzero(sizes):
        np.testing.assert_allclose(centroids[cluster_], x[labels == cluster_].mean(axis=0), atol=1e-9)
    step = parties * found[0].step
    assert found[0].inertia == pytest.approx(((x - centroids[labels]) ** 2).sum(), abs=step)
    assert seen.passes == found[0].iterations
    if found[0].converged:
        distances = squared(x, centroids)[:, sizes > 0]
        own = ((x - centroids[labels]) ** 2).sum(axis=1)
        assert (own <= distances.min(axis=1) + 2 * step).all()


def test_a_few_rows_and_one_row_have_clusters_as_well() -> None:
    for n in (1, 2):
        found, _ = cluster([np.arange(n, dtype=np.float64)[:, None]] * 2, [np.array([[0.0], [1.0], [5.0]])] * 2, 20)
        assert found[0].converged
        np.testing.assert_array_equal(found[0].labels, np.arange(n))
        assert found[0].inertia == 0


@pytest.mark.skipif(not DATA.exists(), reason="the shared data sets are not here")
@pytest.mark.parametrize("k", [3, 8])
@pytest.mark.parametrize("limit", [5.0, 1000.0])
def test_labels_are_scikit_learns_at_every_iteration_on_30_000_real_people(k: int, limit: float) -> None:
    guest, host = (pq.read_table(DATA / f"default_credit_{part}.parquet") for part in ("guest", "host"))
    guest, host = guest.sort_by("id"), host.sort_by("id")
    assert guest["id"].equals(host["id"])
    columns = [
        np.column_stack([table[name].to_numpy() for name in table.column_names if name not in ("id", "y")])
        for table in (guest, host)
    ]
    # Ranges as they would be declared for a campaign; without them a few people stand 150 deviations out.
    columns = [np.clip((x - x.mean(axis=0)) / x.std(axis=0), -limit, limit).astype(np.float64) for x in columns]
    boxes = [box_of(x) for x in columns]
    # Rows would be no start in the product; here they keep clusters filled, where both are defined alike.
    chosen = np.random.default_rng(k).choice(30_000, k, replace=False)
    initial = [x[chosen] for x in columns]
    pooled, start = np.hstack(columns), np.hstack(initial)
    before = start
    for iterations in range(1, 6):
        found, _ = cluster(columns, initial, iterations, boxes=boxes)
        ours = found[0]
        distances = squared(pooled, before)
        # Lloyd's labels from the same centroids, but where two distances are as good as equal.
        taken = np.take_along_axis(distances, ours.labels[:, None], axis=1)[:, 0]
        assert (taken - distances.min(axis=1) <= 2 * len(columns) * ours.step).all()
        if iterations > 1:
            _compare_to_scikit_learn(ours, pooled, start, 0 if limit == 5 else 30)
        before = np.hstack([each.centroids for each in found])
    found, _ = cluster(columns, initial, 100, boxes=boxes)
    assert found[0].converged
    inertia = _compare_to_scikit_learn(found[0], pooled, start, 0 if limit == 5 else 30)
    assert found[0].inertia == pytest.approx(inertia, rel=1e-3 if limit > 5 else 1e-6)


def _compare_to_scikit_learn(ours: Clustered, pooled: FloatArray, start: FloatArray, other: int) -> float:
    """At most `other` labels differ; gives scikit-learn's inertia. It labels once more after its last step."""
    k, iterations = len(start), ours.iterations - 1
    lloyd = KMeans(k, init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(pooled)
    assert (ours.labels != lloyd.labels_).sum() <= other
    assert adjusted_rand(ours.labels, lloyd.labels_) >= 0.999
    return float(lloyd.inertia_)


def test_adjusted_rand_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 5, 300)
    for b in (rng.integers(0, 4, 300), a[::-1], np.where(rng.random(300) < 0.9, a, 0), 7 - a, np.zeros(300, int)):
        assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b))
    assert adjusted_rand(np.zeros(3, int), np.zeros(3, int)) == 1


def test_columns_in_single_precision_give_the_labels_of_the_same_numbers_in_double() -> None:
    x, initial = crowd(3000, 6, 4)
    narrow = x.astype(np.float32)
    boxes = [Box(np.full(3, -6.0), np.full(3, 6.0))] * 2
    first, _ = cluster(split(narrow, 2), split(initial, 2), 5, boxes=boxes)  # type: ignore[arg-type]  # the point of it
    second, _ = cluster(split(narrow.astype(np.float64), 2), split(initial, 2), 5, boxes=boxes)
    np.testing.assert_array_equal(first[0].labels, second[0].labels)
    assert first[0].inertia == pytest.approx(second[0].inertia, rel=1e-6)


def test_rows_over_several_blocks_keep_their_places() -> None:
    n = 2 * blind.block_rows(10) + 7
    x, initial = crowd(n, 4, 10)
    found, seen = cluster(split(x, 2), split(initial, 2), 1)
    near = np.sort(squared(x, initial), axis=1)
    clear = near[:, 1] - near[:, 0] > 4 * found[0].step
    np.testing.assert_array_equal(found[0].labels[clear], squared(x, initial).argmin(axis=1)[clear])
    assert clear.mean() > 0.99
    assert seen.rows == n


# What must fit.


@pytest.mark.parametrize("k", [2, 10])
@pytest.mark.parametrize("reaches", [[25, 3], [0, 0], [24, 24, 10, 0]])
def test_the_largest_distances_at_the_largest_scale_fit_the_ring(
    k: int, reaches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # One column a party, its box as wide as its reach; rows and centroids in the corners.
    monkeypatch.setattr(blind, "drawn_scales", lambda _stream, k, rows: np.full((k * (k - 1) // 2, rows), 2**18))
    boxes = [Box(np.array([0.0]), np.array([2.0 ** (bits / 2) * (1 - 1e-15)])) for bits in reaches]
    assert [box.reach_bits for box in boxes] == reaches
    x = [np.array([box.low, box.high]) for box in boxes]
    centroids = [np.array([box.high] * (k - 1) + [box.low]) for box in boxes]
    np.testing.assert_array_equal(assigned(x, centroids, boxes)[0], [k - 1, 0])


def test_one_bit_more_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blind, "drawn_scales", lambda _stream, k, rows: np.full((k * (k - 1) // 2, rows), 2**18))
    monkeypatch.setattr("tidegate.protocols.clustering.kmeans.fraction_bits", lambda k, reaches: 6)
    boxes = [Box(np.array([0.0]), np.array([2.0**10.5]))] * 2
    x = [np.array([box.low, box.high]) for box in boxes]
    centroids = [np.array([box.high] * 9 + [box.low]) for box in boxes]
    with pytest.raises((PeerError, AssertionError, CarrierError)):
        np.testing.assert_array_equal(assigned(x, centroids, boxes)[0], [9, 0])


def test_fraction_bits_are_as_many_as_fit_and_at_most_24() -> None:
    assert fraction_bits(2, [0, 0]) == 24
    for k in range(2, 11):
        for reaches in ([10, 10], [25, 1, 0], [3] * 16):
            f = fraction_bits(k, reaches)
            assert k * (sum(2.0 ** (f + bits) for bits in reaches) + 2 * len(reaches) + 1) <= 2**29
            assert f == 24 or k * sum(2.0 ** (f + 1 + bits) for bits in reaches) > 2**28
    with pytest.raises(ConfigError, match="too wide"):
        fraction_bits(10, [25, 25])


def test_a_box_far_from_zero_costs_no_precision() -> None:
    x, initial = crowd(500, 4, 3)
    far = [np.array([1e9, -1e9]), np.array([1e9, 1e9])]
    near, _ = cluster(split(x, 2), split(initial, 2), 1)
    moved, _ = cluster(
        [part + f for part, f in zip(split(x, 2), far, strict=True)],
        [part + f for part, f in zip(split(initial, 2), far, strict=True)],
        1,
    )
    assert (near[0].labels != moved[0].labels).sum() <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300, 6.000001])
@pytest.mark.parametrize("where", ["rows", "initial"])
def test_a_value_that_is_none_or_out_of_range_is_refused_before_anything_is_sent(bad: float, where: str) -> None:
    x, initial = crowd(50, 4, 3)
    boxes = [Box(np.full(2, -6.0), np.full(2, 6.0))] * 2
    columns, starts_ = split(x, 2), split(initial, 2)
    (columns if where == "rows" else starts_)[1][2, 1] = bad
    lines = Lines(2)
    common = Settings(3, 2)
    parts = [starts(columns[i], starts_[i], common, i, boxes[i]) for i in range(2)]
    _, refused, _ = played(parts, lines=lines)
    assert isinstance(refused, ConfigError)
    assert "outside its declared range" in refused.text
    assert not lines.helpers[1].sent
    assert not lines.peers[1]["0"].sent


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        ([0.0], [np.inf], "finite"),
        ([np.nan], [1.0], "finite"),
        ([2.0], [1.0], "lower one first"),
        ([-1e200], [1e200], "too wide"),
        ([-3000.0], [3000.0], "too wide"),
        ([], [], "at least one column"),
        ([0.0, 0.0], [1.0], "at least one column"),
    ],
)
def test_a_box_that_is_none_or_too_wide_is_refused(low: list[float], high: list[float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Box(np.array(low), np.array(high))


def test_settings_out_of_bounds_are_refused() -> None:
    for k, iterations in ((1, 5), (11, 5), (3, 0), (3, 301)):
        with pytest.raises(ConfigError):
            Settings(k, iterations)


def test_a_table_of_other_columns_or_centroids_than_declared_is_refused() -> None:
    x, initial = crowd(20, 4, 3)
    box = Box(np.full(4, -6.0), np.full(4, 6.0))
    for columns, start in ((x[:, :3], initial), (x, initial[:, :3]), (x[:0], initial), (x, initial[:2])):
        outcome, *_ = played([starts(columns, start, Settings(3, 2), 0, box), starts(x, initial, Settings(3, 2), 1)])
        assert isinstance(outcome, ConfigError)


def test_a_lead_without_others_and_a_follower_of_two_are_refused() -> None:
    x, initial = crowd(20, 4, 3)
    lines = Lines(3)

    def alone(lead: bool, peers: Mapping[str, Channel]) -> TidegateError:
        role = member(
            lines.helpers[0],
            peers,
            x,
            initial,
            box=box_of(np.vstack([x, initial])),
            settings=Settings(3, 2),
            randomness=seeded(1),
            lead=lead,
        )
        with pytest.raises(ConfigError, match="the lead has a line") as caught:
            asyncio.run(role)
        return caught.value

    alone(True, {})
    alone(False, lines.peers[0])


# Empty clusters and starts.


def test_a_cluster_without_rows_starts_again_at_a_corner_and_gets_some() -> None:
    x, initial = crowd(400, 4, 3)
    # Far from everybody, and by itself it would stay there.
    initial[1] = 20
    boxes = [Box(np.full(2, -20.0), np.full(2, 20.0))] * 2
    found, _ = cluster(split(x, 2), split(initial, 2), 30, boxes=boxes)
    assert found[0].converged
    assert (found[0].sizes > 0).all()


def test_more_clusters_than_different_rows_end_with_empty_ones_and_no_row_is_lost() -> None:
    x = np.array([[0.0, 0.0], [1.0, 1.0]] * 20)
    box = Box(np.full(1, -2.0), np.full(1, 2.0))
    found, _ = cluster(split(x, 2), [np.zeros((5, 1))] * 2, 60, boxes=[box, box])
    assert found[0].converged
    assert found[0].sizes.sum() == 40
    assert 0 in found[0].sizes
    assert found[0].inertia == 0
    np.testing.assert_array_equal(found[0].labels, found[1].labels)


def test_starts_are_equally_far_from_the_middle_of_the_rows_inside_the_box_and_apart() -> None:
    box = Box(np.array([-1.0, -3.0, -2.0, 5.0, -1.0, -4.0, 0.0]), np.array([2.0, 3.0, 1.0, 7.0, 1.0, 4.0, 0.0]))
    points = starting(4, box, seeded(5))
    assert ((points >= box.low) & (points <= box.high)).all()
    centre = np.array([0.0, 0.0, 0.0, 6.0, 0.0, 0.0, 0.0])
    norms = ((points - centre) ** 2).sum(axis=1)
    np.testing.assert_allclose(norms, norms[0])
    apart = squared(points, points)[~np.eye(4, dtype=bool)]
    assert apart.min() >= 0.8 * norms[0]
    assert not np.array_equal(points, starting(4, box, seeded(6)))


def test_no_start_is_near_a_row_nor_is_a_planted_outlier_one() -> None:
    # Ten columns of numbers of deviation 1, ranges of 5 deviations; three people stand far out.
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(size=(20_000, 10)), -5, 5)
    x[:3] = [4.4, -4.6, 4.5, 4.7, -4.4, 4.6, -4.5, 4.4, 4.5, -4.6]
    box = Box(np.full(10, -5.0), np.full(10, 5.0))
    for seed in range(20):
        points = starting(10, box, seeded(seed))
        assert squared(x[3:], points).min() > 9
        assert (np.abs(points) == 5).all()
        assert squared(x[:3], points).min() > 1


# Lies and broken lines.


def _outcomes(direction: str, fault: str, at: int) -> list[Any]:
    x, initial = crowd(60, 4, 3)
    lines = Lines(2)
    lines.break_(direction, fault, at)
    common = Settings(3, 3)
    return played(
        [starts(x_, c, common, i) for i, (x_, c) in enumerate(zip(split(x, 2), split(initial, 2), strict=True))],
        lines=lines,
    )


def test_fault_tests_walk_over_every_message() -> None:
    x, initial = crowd(60, 4, 3)
    lines = Lines(2)
    cluster(split(x, 2), split(initial, 2), 3, lines=lines)
    sent = [lines.helpers[1], lines.there["1"], lines.peers[1]["0"], lines.peers[0]["1"]]
    assert [len(channel.sent) for channel in sent] == list(MESSAGES.values())


# Three passes, a sum, the end; three answers and a total; Ready or Terms, and a digest.
MESSAGES = {"to the comparator": 9, "from the comparator": 4, "to the lead": 2, "from the lead": 2}


# Another message follows at once: only there can two change places. Who is kept waiting a line's idle limit ends.
SWAPS = [("to the comparator", at) for at in (0, 2, 4, 6)]


@pytest.mark.parametrize(
    ("direction", "at", "fault"),
    [
        (direction, at, fault)
        for fault in FAULTS
        for direction, count in MESSAGES.items()
        for at in range(count)
        if fault != "swap" or (direction, at) in SWAPS
    ],
)
def test_a_broken_line_gives_a_typed_error_or_the_right_labels(direction: str, at: int, fault: str) -> None:
    x, initial = crowd(60, 4, 3)
    (right, _), _ = cluster(split(x, 2), split(initial, 2), 3)
    outcomes = _outcomes(direction, fault, at)
    for outcome in outcomes[:2]:
        if isinstance(outcome, Clustered):
            np.testing.assert_array_equal(outcome.labels, right.labels)
        else:
            assert isinstance(outcome, TidegateError), outcome
    # Behind the last message nobody listens any more.
    if fault != "repeat":
        assert any(isinstance(outcome, TidegateError) for outcome in outcomes)


@pytest.mark.parametrize(("change", "what"), [("rows", "rows"), ("k", "clusters"), ("iterations", "iterations")])
def test_parties_that_mean_other_rows_clusters_or_iterations_find_out(change: str, what: str) -> None:
    x, initial = crowd(60, 4, 4)
    mine, other = split(x, 2)
    start, others = split(initial, 2)
    common = theirs = Settings(4, 3)
    if change == "rows":
        other = other[:-1]
    elif change == "k":
        others, theirs = others[:3], Settings(3, 3)
    else:
        theirs = Settings(4, 4)
    outcomes = played([starts(mine, start, common, 0), starts(other, others, theirs, 1)])
    assert isinstance(outcomes[0], DisagreementError)
    assert what in outcomes[0].text
    assert all(isinstance(outcome, TidegateError) for outcome in outcomes)


class Said(Exception):  # noqa: N818 - it is no error
    """A liar has said what it had to say."""


def _answering(*script: Message) -> Any:
    """A comparator that reads what it must and answers what the test says."""

    async def role(channels: Mapping[str, Channel]) -> None:
        for channel in channels.values():
            await channel.recv(Ask)
            await channel.recv(Masked)
        for channel in channels.values():
            for message in script:
                await channel.send(message)

    return role


@pytest.mark.parametrize(
    "answer",
    [
        Positions(0, bytes(59)),
        Positions(0, bytes(61)),
        Positions(0, b""),
        Positions(1, bytes(60)),
        Positions(0, bytes([3]) + bytes(59)),
        Positions(0, b"\xff" * 60),
    ],
)
def test_a_comparator_that_answers_other_rows_or_places_is_refused(answer: Positions) -> None:
    x, initial = crowd(60, 4, 3)
    parts = [
        starts(x_, c, Settings(3, 3), i) for i, (x_, c) in enumerate(zip(split(x, 2), split(initial, 2), strict=True))
    ]
    outcomes = played(parts, _answering(answer))
    for outcome in outcomes[:2]:
        assert isinstance(outcome, PeerError)
        assert "the comparator answered" in outcome.text


def test_a_comparator_that_answers_two_parties_differently_is_found_out() -> None:
    async def two_faced(channels: Mapping[str, Channel]) -> None:
        for number, channel in enumerate(channels.values()):
            await channel.recv(Ask)
            await channel.recv(Masked)
            await channel.send(Positions(0, bytes([number]) + bytes(59)))
        for channel in channels.values():
            await channel.recv(Ask)
            await channel.recv(Part)
            await channel.send(Total(0))

    x, initial = crowd(60, 4, 3)
    parts = [
        starts(x_, c, Settings(3, 1), i) for i, (x_, c) in enumerate(zip(split(x, 2), split(initial, 2), strict=True))
    ]
    for outcome in played(parts, two_faced)[:2]:
        assert isinstance(outcome, DisagreementError)
        assert "not answered all alike" in outcome.text


def _lying(messages: list[Message]) -> Any:
    async def role(helper: Channel, peers: Mapping[str, Channel]) -> None:
        del peers
        for message in messages:
            await helper.send(message)
        raise Said

    return role


NAME = bytes(16)
SIZE = 3 * 6 * 10


@pytest.mark.parametrize(
    ("both", "error"),
    [
        ([Ask(1, 0, 3, NAME)], PeerError),
        ([Ask(1, 10**7 + 1, 3, NAME)], PeerError),
        ([Ask(1, 2**63, 3, NAME)], PeerError),
        ([Ask(1, 10, 1, NAME)], PeerError),
        ([Ask(1, 10, 11, NAME)], PeerError),
        ([Ask(3, 10, 3, NAME)], PeerError),
        ([Ask(1, 10, 3, NAME[1:])], PeerError),
        ([Ask(1, 10, 3, NAME), Masked(0, bytes(SIZE - 1))], PeerError),
        ([Ask(1, 10, 3, NAME), Masked(0, bytes(SIZE + 6))], PeerError),
        ([Ask(1, 10, 3, NAME), Masked(0, b"")], PeerError),
        ([Ask(1, 10, 3, NAME), Masked(1, bytes(SIZE))], PeerError),
        ([Ask(1, 10, 3, NAME), Part(1)], PeerError),
        ([Ask(2, 0, 0, NAME), Masked(0, b"")], PeerError),
        ([Masked(0, b"")], PeerError),
    ],
)
def test_parties_that_ask_for_what_there_is_not_or_send_other_sizes_are_refused(
    both: list[Message], error: type[TidegateError]
) -> None:
    *_, outcome = played([_lying(both), _lying(both)])
    assert isinstance(outcome, error)


def test_values_without_a_least_one_are_refused() -> None:
    # 0 < 1 < 2 < 0, as no sums of three can be.
    values = np.array([-1, 1, -1]).repeat(10)
    ask, cycle = Ask(1, 10, 3, NAME), Masked(0, blind.packed(values))
    *_, outcome = played([_lying([ask, cycle]), _lying([ask, Masked(0, bytes(SIZE))])])
    assert isinstance(outcome, PeerError)
    assert "no least one" in outcome.text


@pytest.mark.parametrize(
    "other", [Ask(1, 11, 3, NAME), Ask(1, 10, 4, NAME), Ask(2, 10, 3, NAME), Ask(1, 10, 3, bytes(15) + b"x")]
)
def test_parties_that_ask_for_different_turns_are_told_so(other: Ask) -> None:
    *_, outcome = played([_lying([Ask(1, 10, 3, NAME)]), _lying([other])])
    assert isinstance(outcome, DisagreementError)


def test_a_comparator_serves_two_to_sixteen_parties_and_so_many_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    for parties in (1, 17):
        *_, outcome = played([_lying([]) for _ in range(parties)])
        assert isinstance(outcome, PeerError)
    monkeypatch.setattr(blind, "MOST_PASSES", 3)
    *_, outcome = played([_lying([Ask(2, 0, 0, NAME), Part(1)] * 5)] * 2)
    assert isinstance(outcome, PeerError)
    assert "more than 3 turns" in outcome.text


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        (Terms(60, 3, 3, 10, bytes(31), bytes(32)), PeerError),
        (Terms(60, 3, 3, 10, bytes(32), b""), PeerError),
        (Terms(60, 3, 3, 24, bytes(32), bytes(32)), PeerError),
        (Terms(60, 3, 3, 2**63, bytes(32), bytes(32)), PeerError),
        (Terms(61, 3, 3, 10, bytes(32), bytes(32)), DisagreementError),
    ],
)
def test_a_lead_that_sends_other_terms_is_refused(terms: Terms, error: type[TidegateError]) -> None:
    async def lead(helper: Channel, peers: Mapping[str, Channel]) -> None:
        del helper
        await peers["1"].recv(Ready)
        await peers["1"].send(terms)
        raise Said

    x, initial = crowd(60, 4, 3)
    _, outcome, _ = played([lead, starts(x[:, 2:], initial[:, 2:], Settings(3, 3), 1)])
    assert isinstance(outcome, error)


def test_a_party_that_declares_ranges_too_wide_or_sends_another_digest_is_refused() -> None:
    x, initial = crowd(60, 4, 3)

    async def wide(helper: Channel, peers: Mapping[str, Channel]) -> None:
        del helper
        await peers["0"].send(Ready(60, 3, 3, 26))
        raise Said

    outcome, *_ = played([starts(x[:, :2], initial[:, :2], Settings(3, 3), 0), wide])
    assert isinstance(outcome, PeerError)
    assert "wider" in outcome.text

    async def other(helper: Channel, peers: Mapping[str, Channel]) -> Any:
        class Altered:
            def __init__(self, line: Channel) -> None:
                self.line, self.recv = line, line.recv

            async def send(self, message: Message) -> None:
                await self.line.send(Labels(bytes(32)) if isinstance(message, Labels) else message)

        return await honest_part(helper, {"0": Altered(peers["0"])})

    honest_part = starts(x[:, 2:], initial[:, 2:], Settings(3, 3), 1)
    outcome, *_ = played([starts(x[:, :2], initial[:, :2], Settings(3, 3), 0), other])
    assert isinstance(outcome, DisagreementError)


# Sums, vectors, channels.


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-(2**59), 2**59), min_size=2, max_size=6))
def test_a_hidden_sum_is_the_sum(numbers: list[int]) -> None:
    shared, masks = bytes(32), tuple(bytes([i]) * 32 for i in range(1, len(numbers)))

    def part(number: int) -> Any:
        veil = Veil(shared, (masks[number - 1],) if number else masks, lead=not number)

        async def role(helper: Channel, peers: Mapping[str, Channel]) -> int:
            del peers
            total = await added(helper, veil, b"test", numbers[number])
            await end(helper)
            return total

        return role

    *totals, seen = played([part(number) for number in range(len(numbers))])
    assert totals == [sum(numbers)] * len(numbers)
    assert seen.sums == 1


def test_what_parties_send_for_fixed_keys_is_what_it_always_was() -> None:
    # Parties of different versions and machines must agree to the last bit; a change here is a new version.
    table = blind.scales()
    assert (len(table), int(table[0]), int(table[-1])) == (2**16, 1, 2**18)
    assert (np.diff(table) >= 0).all()
    np.testing.assert_allclose(np.log2(table[2**15 :]), 18 * np.arange(2**15 + 1, 2**16 + 1) / 2**16, atol=0.01)
    assert hashlib.sha256(table.astype("<i8").tobytes()).hexdigest()[:16] == TABLE
    lead, other = Veil(b"k" * 32, (b"m" * 32,), lead=True), Veil(b"k" * 32, (b"m" * 32,), lead=False)
    parts = np.arange(40, dtype=np.int32).reshape(10, 4) % 7
    sent = [
        b"".join(m.to_bytes() for m in blind.Turn(veil, b"turn", 10, 4, seeded(1)).messages(parts))
        for veil in (lead, other)
    ]
    assert [hashlib.sha256(each).hexdigest()[:16] for each in sent] == SENT
    assert lead.name(b"turn").hex() == SHOWN


TABLE = "5c63828e1e3793ee"
SENT = ["7f448026a86d3cb4", "f24334f2f0816b8f"]
SHOWN = "8aa2eab45655d6eb3ad304ea6d5d46e5"


def test_labels_are_the_same_over_sealed_lines() -> None:
    x, initial = crowd(200, 4, 3)
    (right, _), _ = cluster(split(x, 2), split(initial, 2), 3)
    people = {name: Identity.generate(name) for name in ("lead", "other", "coordinator")}

    async def over_lines() -> list[Any]:
        async def session(line: MemoryFrames, me: str, peer: str) -> Any:
            return await open_session(
                line,
                me=people[me],
                peer_identity=people[peer].public,
                my_name=me,
                peer_name=peer,
                contract_hash=CONTRACT,
                run=RUN,
                step=1,
                inputs={},
                software="1.0",
            )

        ends = {}
        for one, two in (("lead", "other"), ("lead", "coordinator"), ("other", "coordinator")):
            first, second = MemoryFrames(one, honest), MemoryFrames(two, honest)
            first.peer, second.peer = second, first
            ends[one, two], ends[two, one] = first, second
        pairs = list(ends)
        opened = await asyncio.gather(*(session(ends[pair], *pair) for pair in pairs))
        lines = dict(zip(pairs, opened, strict=True))
        parts = [
            starts(x_, c, Settings(3, 3), i)
            for i, (x_, c) in enumerate(zip(split(x, 2), split(initial, 2), strict=True))
        ]
        return list(
            await asyncio.gather(
                parts[0](lines["lead", "coordinator"], {"other": lines["lead", "other"]}),
                parts[1](lines["other", "coordinator"], {"lead": lines["other", "lead"]}),
                comparator({name: lines["coordinator", name] for name in ("lead", "other")}),
            )
        )

    lead, other, seen = asyncio.run(over_lines())
    np.testing.assert_array_equal(lead.labels, right.labels)
    np.testing.assert_array_equal(other.labels, right.labels)
    assert seen.passes == 3


def test_several_starts_and_an_assignment_run_over_the_same_lines() -> None:
    x, initial = crowd(200, 4, 3)
    columns, first = split(x, 2), split(initial, 2)
    new, _ = crowd(30, 4, 3, seed=9)

    def part(number: int) -> Any:
        async def role(helper: Channel, peers: Mapping[str, Channel]) -> tuple[Clustered, Clustered, IntArray]:
            box = Box(np.full(2, -6.0), np.full(2, 6.0))
            drawn = seeded(number)

            async def start(initial_: FloatArray) -> Clustered:
                return await member(
                    helper,
                    peers,
                    columns[number],
                    initial_,
                    box=box,
                    settings=Settings(len(initial_), 20),
                    randomness=drawn,
                    lead=not number,
                )

            one, two = await start(first[number]), await start(starting(5, box, drawn))
            labels = await assign(
                helper, peers, split(new, 2)[number], one.centroids, box=box, randomness=drawn, lead=not number
            )
            await end(helper)
            return one, two, labels

        return role

    (one, two, labels), (other, _, _), seen = played([part(0), part(1)])
    np.testing.assert_array_equal(labels, squared(new, np.hstack([one.centroids, other.centroids])).argmin(axis=1))
    assert one.inertia > two.inertia > 0
    assert seen.passes == one.iterations + two.iterations + 1


def test_a_partial_distance_is_the_squared_one_less_what_the_row_alone_decides() -> None:
    x, centroids = crowd(100, 3, 4)
    parts = partial_distances(x, centroids, np.zeros(3), 16) / 2**16
    np.testing.assert_allclose(parts + (x**2).sum(axis=1)[:, None], squared(x, centroids), atol=2**-16)
