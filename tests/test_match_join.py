"""The exact join of tokens: every equal pair and no other, by the crate and by numpy, whatever a peer sends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_match import ids
from tidegate.protocols.channel import PeerError
from tidegate.protocols.psi import join
from tidegate.protocols.psi.join import KEY_BYTES, Bytes, equal_places, fingerprints, has_repeats

KEY = bytes(range(KEY_BYTES))
NATIVE = join._native


@pytest.fixture(params=["crate", "numpy"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "crate" and NATIVE is None:
        pytest.skip("the crate is not built here")
    monkeypatch.setattr(join, "_native", NATIVE if request.param == "crate" else None)
    return str(request.param)


def strings(values: list[int], width: int) -> Bytes:
    """Values differ in their last byte alone, or in their first, so that the first eight are mostly shared."""
    items = np.zeros((len(values), width), np.uint8)
    for i, value in enumerate(values):
        items[i, -1 if value % 2 else 0] = value
    return items


VALUES = st.lists(st.integers(0, 60), max_size=40, unique=True)


@settings(max_examples=150, deadline=None)
@given(VALUES, VALUES, st.integers(8, 33))
def test_the_join_gives_all_equal_pairs_and_no_others(left: list[int], right: list[int], width: int) -> None:
    expected = [(left.index(value), place) for place, value in enumerate(right) if value in left]
    for native in {NATIVE, None}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(join, "_native", native)
            own, peer = equal_places(strings(left, width), strings(right, width), KEY)
            assert list(zip(own.tolist(), peer.tolist(), strict=True)) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=12), st.integers(8, 33))
def test_repeats_are_found_wherever_they_are(values: list[int], width: int) -> None:
    for native in {NATIVE, None}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(join, "_native", native)
            assert has_repeats(strings(values, width), KEY) == (len(set(values)) < len(values))


@pytest.mark.parametrize(("own", "peer"), [([1, 2, 1], [3]), ([1, 2], [3, 3]), ([1, 2], [2, 4, 2])])
def test_a_string_twice_on_one_side_is_refused(backend: str, own: list[int], peer: list[int]) -> None:
    with pytest.raises(PeerError, match="twice"):
        equal_places(strings(own, 12), strings(peer, 12), KEY)


@pytest.mark.parametrize("sides", [([], []), ([], [1]), ([1], [])])
def test_nothing_is_equal_to_nothing(backend: str, sides: tuple[list[int], list[int]]) -> None:
    own, peer = equal_places(strings(sides[0], 12), strings(sides[1], 12), KEY)
    assert len(own) == len(peer) == 0


def test_many_strings_join_as_sets_do(backend: str) -> None:
    rng = np.random.default_rng(3)
    own = rng.integers(0, 256, (30_000, 12), np.uint8)
    peer = rng.integers(0, 256, (50_000, 12), np.uint8)
    at = rng.permutation(50_000)[:10_000]
    peer[at] = own[rng.permutation(30_000)[:10_000]]
    first, second = equal_places(own, peer, KEY)
    assert second.tolist() == np.sort(at).tolist()
    assert np.array_equal(own[first], peer[second])


@pytest.mark.skipif(NATIVE is None, reason="numpy sorts, so it has no hash to aim at")
def test_strings_with_one_head_are_joined_like_others() -> None:
    """A peer chooses its tokens. A table under a hash it could foresee would take hours for these."""
    n = 200_000
    aimed = np.zeros((n, 12), np.uint8)
    aimed[:, 8:] = np.arange(n, dtype="<u4").view(np.uint8).reshape(n, 4)
    # Quadratic work here is ten thousand times as much: the test would be ended for its time.
    assert len(equal_places(aimed[: n // 2], aimed[n // 4 :], KEY)[0]) == n // 4


def test_more_strings_than_places_can_name_are_refused(backend: str) -> None:
    class Huge:
        shape = (2**31, 12)

        def __len__(self) -> int:
            return 2**31

    huge: Any = Huge()
    with pytest.raises(ValueError, match="at most"):
        has_repeats(huge, KEY)


def test_fingerprints_depend_on_the_whole_identifier_alone(backend: str) -> None:
    texts = ["a", "b", "a" * 8, "a" * 9, "a" * 16, "a" * 15 + "b", "b" + "a" * 15, "ä", "a "]
    prints = fingerprints(ids(text=texts)["text"], KEY)
    known = {bytes(item): value for item, value in zip(ids(text=texts)["text"], prints.tolist(), strict=True)}
    assert len(set(prints.tolist())) == len(known)
    again = fingerprints(ids(text=texts[::-1])["text"], KEY)
    assert [known[item] for item in ids(text=texts[::-1])["text"]] == again.tolist()


@pytest.mark.skipif(NATIVE is None, reason="Python keys its own hash once a process")
def test_fingerprints_are_others_under_another_key() -> None:
    column = ids(text=[f"person {i}" for i in range(100)])["text"]
    assert not set(fingerprints(column, KEY).tolist()) & set(fingerprints(column, KEY[::-1]).tolist())
