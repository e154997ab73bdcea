from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_group import KERNELS, only
from tidegate.protocols.channel import PeerError
from tidegate.protocols.primitives import group
from tidegate.protocols.primitives.group import Scalar
from tidegate.protocols.psi import oprf

SUITES = json.loads((Path(__file__).parent / "vectors" / "rfc9497_allVectors.json").read_text())
SUITE = next(suite for suite in SUITES if suite["identifier"] == "ristretto255-SHA512" and suite["mode"] == 0)
KEY = Scalar.from_bytes(bytes.fromhex(SUITE["skSm"]))


def test_domain_is_that_of_rfc9497() -> None:
    assert bytes.fromhex(SUITE["groupDST"]) == oprf.HASH_TO_GROUP


def test_key_derivation_is_that_of_rfc9497() -> None:
    key = oprf.derive_key(bytes.fromhex(SUITE["seed"]), bytes.fromhex(SUITE["keyInfo"]))
    assert key.to_bytes() == KEY.to_bytes()


@pytest.mark.parametrize("backend", [*KERNELS, "libsodium"])
@pytest.mark.parametrize("vector", SUITE["vectors"], ids=lambda vector: vector["Input"])
def test_every_value_is_that_of_rfc9497(vector: dict[str, Any], backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "_native", only(backend))
    inputs = [bytes.fromhex(vector["Input"])]
    blinding = Scalar.from_bytes(bytes.fromhex(vector["Blind"]))
    blinded = oprf.blind(inputs, blinding)
    assert blinded.hex() == vector["BlindedElement"]
    evaluated = oprf.evaluate_blinded(blinded, KEY)
    assert evaluated.hex() == vector["EvaluationElement"]
    assert oprf.finalize(inputs, evaluated, blinding) == [bytes.fromhex(vector["Output"])]
    assert oprf.evaluate(inputs, KEY) == [bytes.fromhex(vector["Output"])]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=40, unique=True), st.integers(1, 2**250), st.integers(1, 2**250))
def test_client_gets_what_the_server_computes(inputs: list[bytes], key: int, blinding: int) -> None:
    blinded = oprf.blind(inputs, Scalar(blinding))
    evaluated = oprf.evaluate_blinded(blinded, Scalar(key))
    assert oprf.finalize(inputs, evaluated, Scalar(blinding)) == oprf.evaluate(inputs, Scalar(key))


def test_another_blinding_shows_the_server_other_elements() -> None:
    assert oprf.blind([b"anna"], Scalar(5)) != oprf.blind([b"anna"], Scalar(6))


@pytest.mark.parametrize("bad", [bytes(32), b"\xff" * 32, b"short"])
def test_bad_answer_is_refused(bad: bytes) -> None:
    with pytest.raises(PeerError):
        oprf.finalize([b"anna"], bad, Scalar(5))


def test_answers_to_more_inputs_than_asked_are_refused() -> None:
    evaluated = oprf.evaluate_blinded(oprf.blind([b"anna", b"bert"], Scalar(5)), KEY)
    with pytest.raises(PeerError, match="1 answers"):
        oprf.finalize([b"anna"], evaluated, Scalar(5))


@pytest.mark.parametrize(("seed", "info"), [(b"", b""), (bytes(31), b""), (bytes(32), bytes(65536))])
def test_key_from_a_seed_or_label_of_wrong_length_is_refused(seed: bytes, info: bytes) -> None:
    with pytest.raises(ValueError, match="seed of 32 bytes"):
        oprf.derive_key(seed, info)
