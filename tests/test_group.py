from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
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

KERNELS = [] if NATIVE is None else [*NATIVE.kernels(), "IFMA emulated"]
# How many random elements each kernel is held against: more with TIDEGATE_LONG=1, which takes minutes.
RANDOM = 1_000_000 if os.environ.get("TIDEGATE_LONG") == "1" else 20_000
SLOWER = {"IFMA emulated": 20}


def only(kernel: str) -> Any:
    """The crate as it is on a machine that has just this kernel; "libsodium" is a machine without the crate."""
    if kernel == "libsodium":
        return None
    forced = {name: partial(getattr(NATIVE, name), kernel=kernel) for name in ("multiply", "hash_multiply")}
    return SimpleNamespace(**{**vars(NATIVE), **forced, "kernels": lambda: [kernel]})


@pytest.fixture(params=[*KERNELS, "libsodium"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(group, "_native", only(request.param))
    return group.backend()


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def each_backend() -> Iterator[None]:
    """Yields once per kernel and once for libsodium, with that one in use: a fixture would be drawn once per test."""
    for name in [*KERNELS, "libsodium"]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(group, "_native", only(name))
            yield


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
    for _ in each_backend():
        good = elements(8)
        alias = group.hash_multiply(*ragged([name]), b"alias")
        alias = alias[:-1] + bytes([alias[-1] | 0x80])
        with pytest.raises(PeerError, match=f"group element {place} "):
            group.multiply(good[: 32 * place] + alias + good[32 * place :], ONE)


def test_wrong_length_is_refused(backend: str) -> None:
    with pytest.raises(PeerError, match="32 bytes each"):
        group.multiply(elements(2)[:-1], ONE)


def test_nothing_times_a_scalar_is_nothing(backend: str) -> None:
    assert group.multiply(b"", ONE) == b""
    assert group.hash_multiply(*ragged([]), b"test") == b""
    assert group.digests(b"", b"", 12) == b""


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.binary(max_size=300), max_size=150),
    st.integers(1, ORDER - 1),
    st.binary(min_size=1, max_size=255),
    st.integers(1, 64),
)
def test_all_backends_give_the_same(inputs: list[bytes], k: int, dst: bytes, length: int) -> None:
    scalar, results = Scalar(k), set()
    for _ in each_backend():
        hashed = group.hash_multiply(*ragged(inputs), dst, scalar)
        results.add((hashed, group.multiply(hashed, scalar), group.digests(hashed, dst, length)))
    assert len(results) == 1


@pytest.mark.timeout(3600)
def test_kernel_agrees_with_dalek_on_random_elements_and_with_libsodium_on_some(kernel: str) -> None:
    n = RANDOM // SLOWER.get(kernel, 1) // 10
    offsets = (8 * np.arange(n + 1, dtype="<i8")).tobytes()
    for seed in range(10):
        scalar = Scalar.random(Randomness(bytes([seed]) * 32)).to_bytes()
        names = np.arange(n * seed, n * (seed + 1), dtype="<i8").tobytes()
        hashed = NATIVE.hash_multiply(names, offsets, b"random", scalar, kernel)
        assert hashed == NATIVE.hash_multiply(names, offsets, b"random", scalar, "curve25519-dalek")
        product = NATIVE.multiply(hashed, scalar, kernel)
        assert product == NATIVE.multiply(hashed, scalar, "curve25519-dalek")
        for at in range(0, 32 * n, 32 * max(1, n // 10)):
            expected = rbcl.crypto_scalarmult_ristretto255(scalar, hashed[at : at + 32])
            assert product[at : at + 32] == expected


def test_edge_scalars_give_what_libsodium_gives(kernel: str) -> None:
    point = elements(1)
    # The repeated digits are those of the halved scalar, which the kernels multiply by.
    repeated = [2 * int(f"{digit:x}" * 62, 16) % ORDER for digit in range(1, 16)]
    for k in (1, 2, ORDER - 1, ORDER - 2, 2**252, 2**251 - 1, (ORDER + 1) // 2, *repeated, *(2**i for i in range(252))):
        expected = rbcl.crypto_scalarmult_ristretto255(k.to_bytes(32, "little"), point)
        assert NATIVE.multiply(point, k.to_bytes(32, "little"), kernel) == expected


@pytest.mark.parametrize("n", [1, 3, 4, 5, 7, 8, 9, 63, 64, 65, 127, 128, 129, 300])
def test_batch_of_any_length_gives_what_its_elements_give(kernel: str, n: int) -> None:
    names, k = [b"%d" % i for i in range(n)], Scalar(ORDER // 3)
    data, offsets = ragged(names)
    hashed = NATIVE.hash_multiply(data, offsets.astype("<i8").tobytes(), b"test", k.to_bytes(), kernel)
    assert hashed == group.multiply(elements(n), k)
    assert NATIVE.multiply(elements(n), k.to_bytes(), kernel) == hashed


def test_first_bad_element_is_named_wherever_it_stands(kernel: str) -> None:
    good, bad = elements(300), [bytes.fromhex(encoding) for encoding in INVALID]
    for place in [*range(17), 127, 128, 299]:
        for encoding in (bytes(32), bad[place % len(bad)]):
            line = bytearray(good)
            line[32 * place : 32 * place + 32] = encoding
            line[32 * 299 :] = bytes(32)
            with pytest.raises(ValueError, match=f"^{place}$"):
                NATIVE.multiply(bytes(line), ONE.to_bytes(), kernel)


def test_every_bad_encoding_is_refused_in_every_lane(kernel: str) -> None:
    good = elements(8)
    for encoding in INVALID:
        for lane in range(8):
            line = good[: 32 * lane] + bytes.fromhex(encoding) + good[32 * lane :]
            with pytest.raises(ValueError, match=f"^{lane}$"):
                NATIVE.multiply(line, ONE.to_bytes(), kernel)


@pytest.mark.skipif(NATIVE is None, reason="the Rust crate is not built")
def test_fastest_kernel_is_the_one_shown_and_used() -> None:
    assert group.backend() == NATIVE.kernels()[0]
    assert NATIVE.kernels()[-1] == "curve25519-dalek"
    with pytest.raises(ValueError, match="kernels here are"):
        NATIVE.multiply(elements(1), ONE.to_bytes(), "abacus")


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
