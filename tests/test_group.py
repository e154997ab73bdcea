from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rbcl
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.protocols.channel import PeerError
from tidegate.protocols.primitives import group
from tidegate.protocols.primitives.group import GENERATOR, ONE, ORDER, Scalar
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.psi.oprf import ragged

VECTORS = Path(__file__).parent / "vectors"
RFC9496 = json.loads((VECTORS / "rfc9496_ristretto255.json").read_text())
INVALID = [encoding for encodings in RFC9496["invalid_encodings"].values() for encoding in encodings]
NATIVE = group._native

BACKENDS = [
    pytest.param(NATIVE, id="dalek", marks=pytest.mark.skipif(NATIVE is None, reason="the Rust crate is not built")),
    pytest.param(None, id="libsodium"),
]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(group, "_native", request.param)
    return group.backend()


def elements(n: int) -> bytes:
    return group.hash_multiply(*ragged([b"%d" % i for i in range(n)]), b"test")


def test_multiples_of_the_generator_are_those_of_rfc9496(backend: str) -> None:
    for k, encoding in enumerate(RFC9496["multiples_of_the_generator"][1:], start=1):
        assert group.multiply(GENERATOR, Scalar(k)).hex() == encoding


@pytest.mark.parametrize("encoding", INVALID)
def test_bad_encodings_of_rfc9496_are_refused(backend: str, encoding: str) -> None:
    with pytest.raises(PeerError, match="group element 0 "):
        group.multiply(bytes.fromhex(encoding), ONE)


def test_identity_is_refused_wherever_it_stands(backend: str) -> None:
    good = elements(600)
    for place in (0, 1, 255, 256, 599):
        with pytest.raises(PeerError, match=f"group element {place} "):
            group.multiply(good[: 32 * place] + bytes(32) + good[32 * (place + 1) :], Scalar(7))


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=20), st.integers(0, 7))
def test_alias_with_the_top_bit_set_is_refused(name: bytes, place: int) -> None:
    for native in {NATIVE, None}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(group, "_native", native)
            good = elements(8)
            alias = group.hash_multiply(*ragged([name]), b"alias")
            alias = alias[:-1] + bytes([alias[-1] | 0x80])
            with pytest.raises(PeerError):
                group.multiply(good[: 32 * place] + alias + good[32 * place :], ONE)


def test_wrong_length_is_refused(backend: str) -> None:
    with pytest.raises(PeerError, match="32 bytes each"):
        group.multiply(elements(2)[:-1], ONE)


def test_nothing_times_a_scalar_is_nothing(backend: str) -> None:
    assert group.multiply(b"", ONE) == b""
    assert group.hash_multiply(*ragged([]), b"test") == b""
    assert group.digests(b"", b"", 12) == b""


@pytest.mark.skipif(NATIVE is None, reason="the Rust crate is not built")
@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.binary(max_size=300), max_size=150),
    st.integers(1, ORDER - 1),
    st.binary(min_size=1, max_size=255),
    st.integers(1, 64),
)
def test_both_backends_give_the_same(inputs: list[bytes], k: int, dst: bytes, length: int) -> None:
    scalar, results = Scalar(k), []
    for native in (NATIVE, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(group, "_native", native)
            hashed = group.hash_multiply(*ragged(inputs), dst, scalar)
            results.append((hashed, group.multiply(hashed, scalar), group.digests(hashed, dst, length)))
    assert results[0] == results[1]


@pytest.mark.skipif(NATIVE is None, reason="the Rust crate is not built")
def test_edge_scalars_give_what_libsodium_gives() -> None:
    point = elements(1)
    for k in (1, 2, ORDER - 1, ORDER - 2, 2**252, 2**251 - 1, (ORDER + 1) // 2):
        expected = rbcl.crypto_scalarmult_ristretto255(k.to_bytes(32, "little"), point)
        assert group.multiply(point, Scalar(k)) == expected


@pytest.mark.skipif(NATIVE is None, reason="the Rust crate is not built")
def test_crate_refuses_arguments_that_do_not_fit() -> None:
    one, good = ONE.to_bytes(), elements(2)
    for offsets in ([], [0, 3, 2], [0, 9], [-1, 2]):
        with pytest.raises(ValueError, match="offsets"):
            NATIVE.hash_multiply(b"abc", np.array(offsets, "<i8").tobytes(), b"d", one)
    for scalar in (bytes(32), ORDER.to_bytes(32, "little"), b"\xff" * 32, b"", b"\1" * 33):
        with pytest.raises(ValueError, match="a scalar"):
            NATIVE.multiply(good, scalar)
    for dst in (b"", b"d" * 256):
        with pytest.raises(ValueError, match="domain"):
            NATIVE.hash_multiply(b"abc", np.array([0, 3], "<i8").tobytes(), dst, one)
    for length in (0, 65):
        with pytest.raises(ValueError, match="digests"):
            NATIVE.digests(good, b"", length)


def test_dividing_by_a_scalar_undoes_multiplying(backend: str) -> None:
    k = Scalar.random(Randomness(bytes(32)))
    assert group.multiply(group.multiply(elements(300), k), k.inverse()) == elements(300)


@pytest.mark.parametrize("value", [0, -1, ORDER, 2**255])
def test_scalar_outside_its_range_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=r"lies in 1\.\.ORDER-1"):
        Scalar(value)


def test_scalar_never_prints() -> None:
    assert repr(Scalar(123456789)) == "Scalar(...)"


@pytest.mark.parametrize(
    "case", json.loads((VECTORS / "expand_message_xmd_SHA512_38.json").read_text())["tests"], ids=str
)
def test_expand_message_is_that_of_rfc9380(case: dict[str, Any]) -> None:
    dst = bytes.fromhex(case["DST_prime"])[:-1]
    expanded = group.expand_message(case["msg"].encode(), dst, int(case["len_in_bytes"], 16))
    assert expanded.hex() == case["uniform_bytes"]
