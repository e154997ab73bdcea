"""The contract: canonical bytes, and a reader that refuses everything else."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.protocols.channel import CarrierError, DisagreementError
from tidegate.wire.contract import (
    MAX_CONTRACT_BYTES,
    VERSION,
    Contract,
    ContractParty,
    DataSet,
    Guards,
    Holdout,
    Key,
    Label,
    Step,
    signed_bytes,
)
from tidegate.wire.identity import verify_signature


def contract() -> Contract:
    return Contract(
        version=VERSION,
        software="0.1.0",
        campaign="dormant",
        nonce="00" * 16,
        created_s=1_800_000_000,
        expires_s=1_800_600_000,
        parties=(
            ContractParty("acme", "brand", "aa" * 32, DataSet("customers", 7000, "bb" * 32)),
            ContractParty("portal", "media", "cc" * 32, DataSet("people", 9000, "dd" * 32)),
        ),
        keys=(Key("phone"), Key("email")),
        label=Label("bought", "1"),
        features={"acme": ("a", "ü"), "portal": ("x",)},
        holdout=Holdout("split", "test", 0),
        steps=(
            Step("match", "match.oprf@1", {}),
            Step("train", "train.fourier-lr@1", {"steps": 8, "l2_milli": 1000, "lookalike_steps": 4}),
            Step("expand", "expand.rows@1", {"sizes": [5, 10]}),
        ),
        guards=Guards(floor=100, seeds=100, train_steps=12, count_noise=10, score_levels=20),
        learns={"acme": ("the model",), "portal": ("nothing",), "coordinator": ("sizes",)},
    )


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path


RAW = json.loads(contract().to_bytes())


def test_what_was_written_is_read() -> None:
    made = contract()
    assert Contract.from_bytes(made.to_bytes()) == made
    assert Contract.from_bytes(made.to_bytes()).hash == made.hash


@pytest.mark.parametrize("path", list(_leaves(RAW)), ids=lambda path: ".".join(map(str, path)))
def test_every_field_is_under_the_signature(path: tuple[Any, ...]) -> None:
    key = Ed25519PrivateKey.generate()
    made = contract()
    signature = key.sign(signed_bytes(made.hash))
    changed = copy.deepcopy(RAW)
    at = changed
    for part in path[:-1]:
        at = at[part]
    was = at[path[-1]]
    at[path[-1]] = was + 1 if isinstance(was, int) else was[:-1] + ("1" if was.endswith("0") else "0")
    try:
        read = Contract.from_bytes(rfc8785.dumps(changed))
    except DisagreementError:
        return
    with pytest.raises(CarrierError, match="not signed by the key"):
        verify_signature(key.public_key().public_bytes_raw(), signed_bytes(read.hash), signature, "the approval")


@pytest.mark.parametrize("path", [path for path in _leaves(RAW) if isinstance(path[-1], str)], ids=str)
def test_a_missing_field_is_refused(path: tuple[Any, ...]) -> None:
    if path[0] in ("features", "learns") or "settings" in path:
        pytest.skip("not a fixed field")
    changed = copy.deepcopy(RAW)
    at = changed
    for part in path[:-1]:
        at = at[part]
    del at[path[-1]]
    with pytest.raises(DisagreementError):
        Contract.from_bytes(rfc8785.dumps(changed))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("surprise",), 1),
        (("version",), 1),
        (("version",), True),
        (("expires_s",), -1),
        (("expires_s",), 1.5),
        (("campaign",), "../../etc"),
        (("campaign",), "a" * 64),
        (("parties", 0, "data", "name"), "/data/customers.csv"),
        (("parties", 0, "data", "name"), "https://example.com/x"),
        (("parties", 0, "data", "name"), "select * from people"),
        (("parties", 0, "role"), "media"),
        (("parties", 1, "name"), "acme"),
        (("parties", 0, "identity"), "AA" * 32),
        (("keys",), []),
        (("keys",), [{"kind": "email"}, {"kind": "email"}]),
        (("keys",), [{"kind": "passport"}]),
        (("features",), {"stranger": ["x"]}),
        (("holdout", "percent"), 95),
        (("steps", 0, "protocol"), "match.hash@1"),
        (("steps", 0, "step"), "train"),
        (("steps", 1, "settings", "steps"), -1),
        (("steps", 1, "settings", "steps"), "8"),
        (("guards", "floor"), 49),
        (("guards", "seeds"), 10),
        (("guards", "train_steps"), 13),
        (("guards", "score_levels"), 21),
        (("learns",), {"stranger": ["x"]}),
    ],
    ids=str,
)
def test_what_no_contract_may_say_is_refused(where: tuple[Any, ...], value: Any) -> None:
    changed = copy.deepcopy(RAW)
    at = changed
    for part in where[:-1]:
        at = at[part]
    at[where[-1]] = value
    with pytest.raises(DisagreementError):
        Contract.from_bytes(rfc8785.dumps(changed))


def test_a_step_before_what_it_needs_is_refused() -> None:
    changed = copy.deepcopy(RAW)
    changed["steps"] = [changed["steps"][2], changed["steps"][0], changed["steps"][1]]
    with pytest.raises(DisagreementError, match="comes before"):
        Contract.from_bytes(rfc8785.dumps(changed))


def test_the_same_words_in_other_bytes_are_refused() -> None:
    for data in (json.dumps(RAW).encode(), contract().to_bytes() + b" ", b" " + contract().to_bytes()):
        with pytest.raises(DisagreementError, match="canonical"):
            Contract.from_bytes(data)


def test_too_many_bytes_are_refused_unread() -> None:
    with pytest.raises(DisagreementError, match="at most"):
        Contract.from_bytes(b"[" * (MAX_CONTRACT_BYTES + 1))


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_noise_is_refused_with_a_typed_error(data: bytes) -> None:
    with pytest.raises(DisagreementError):
        Contract.from_bytes(data)


@given(st.data())
@settings(max_examples=300)
def test_a_changed_byte_is_refused_or_changes_the_hash(data: st.DataObject) -> None:
    made = contract().to_bytes()
    at = data.draw(st.integers(0, len(made) - 1))
    changed = made[:at] + bytes([made[at] ^ data.draw(st.integers(1, 255))]) + made[at + 1 :]
    with contextlib.suppress(DisagreementError):
        assert Contract.from_bytes(changed).hash != contract().hash


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(DisagreementError):
        Contract.from_bytes(b"[" * 100_000)
