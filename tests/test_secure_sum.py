"""Secure sums: right, of the whole cohort or not at all, uniform to the coordinator, closed against one that lies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.canaries import Needles
from tidegate.protocols.channel import ConfigError, DisagreementError, PeerError, PolicyError, TidegateError
from tidegate.protocols.horizontal import secure_sum
from tidegate.protocols.horizontal.secure_sum import FEWEST, KEY_BYTES, Cohort, FixedPoint, Member, add, model_hash
from tidegate.protocols.primitives.fixed_point import FloatArray, UInt64Array
from tidegate.protocols.primitives.randomness import Randomness

Answers = tuple[dict[str, UInt64Array], dict[str, bytes]]
MODEL = model_hash(np.zeros(3))
OTHER = model_hash(np.ones(3))
SIZE = 4

# The u-coordinates of small order on Curve25519 and its twist, with those not reduced modulo 2^255 - 19.
P = 2**255 - 19
LOW_ORDER = (
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
    P,
    P + 1,
)


def _identity(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def _public(name: str) -> bytes:
    return _identity(name).public_key().public_bytes_raw()


def _names(n: int) -> list[str]:
    return [f"shop-{i:02d}" for i in range(n)]


def cohort(n: int = 3) -> Cohort:
    return Cohort(b"c" * 32, b"r" * 16, {name: _public(name) for name in _names(n)}, _public("coordinator"))


def member(name: str, of: Cohort, seed: str = "") -> Member:
    drawn = Randomness(hashlib.sha256(f"{name}/{seed}".encode()).digest())
    return Member(name, of, sign=_identity(name).sign, randomness=drawn)


def members(n: int = 3, seed: str = "") -> dict[str, Member]:
    """All of a cohort, with their keys exchanged."""
    of = cohort(n)
    made = {name: member(name, of, seed) for name in of.names}
    keys = {name: each.key() for name, each in made.items()}
    for each in made.values():
        each.agree(keys)
    return made


def answered(
    made: Mapping[str, Member],
    values: Mapping[str, UInt64Array] | None = None,
    *,
    round: int = 1,
    models: Mapping[str, bytes] | None = None,
) -> Answers:
    """What the coordinator has after a round: masked values and vouches by name."""
    sent = {
        name: each.mask(
            round, (models or {}).get(name, MODEL), np.arange(SIZE, dtype=np.uint64) if values is None else values[name]
        )
        for name, each in made.items()
    }
    return {name: words for name, (words, _) in sent.items()}, {name: vouch for name, (_, vouch) in sent.items()}


# The right answer.


@settings(max_examples=30)
@given(st.integers(3, 20).flatmap(lambda n: arrays(np.uint64, st.tuples(st.just(n), st.integers(1, 9)))), st.data())
def test_masked_sums_equal_the_clear_sum_for_everybody(values: UInt64Array, data: st.DataObject) -> None:
    made = members(len(values))
    masked, vouched = answered(made, dict(zip(made, values, strict=True)))
    clear = values.sum(axis=0, dtype=np.uint64)
    np.testing.assert_array_equal(add(masked, made, values.shape[1]), clear)
    anyone = made[data.draw(st.sampled_from(sorted(made)))]
    np.testing.assert_array_equal(anyone.total(1, MODEL, vouched, masked), clear)


@settings(max_examples=30)
@given(st.integers(3, 12).flatmap(lambda n: arrays(np.float64, (n, 5), elements=st.floats(-50, 50))))
def test_real_numbers_come_back_within_half_a_unit_a_member(values: FloatArray) -> None:
    made = members(len(values))
    scale = FixedPoint(len(made), 50.0)
    masked, _ = answered(made, {name: scale.encode(row, 5) for name, row in zip(made, values, strict=True)})
    off = scale.decode(add(masked, made, 5)) - values.sum(axis=0)
    assert np.abs(off).max() <= (len(made) / 2 + 0.01) * 2.0**-24


def test_counts_are_exact_beside_real_numbers() -> None:
    made = members()
    weights, rows = FixedPoint(3, 8.0), FixedPoint(3, 1e9, bits=0)
    values = {
        name: np.concatenate([weights.encode([0.5, -0.25, 1.0], 3), rows.encode([10.0**i], 1)])
        for i, name in enumerate(made)
    }
    masked, vouched = answered(made, values)
    total = made["shop-00"].total(1, MODEL, vouched, masked)
    assert weights.decode(total[:3]).tolist() == [1.5, -0.75, 3.0]
    assert rows.integers(total[3:]).tolist() == [111]


def test_every_round_of_a_run_has_its_own_masks() -> None:
    made = members()
    first, _ = answered(made)
    second, vouched = answered(made, round=2)
    for name in made:
        assert not (first[name] == second[name]).any()
    np.testing.assert_array_equal(made["shop-01"].total(2, MODEL, vouched, second), 3 * np.arange(SIZE))


def test_a_round_under_fixed_seeds_has_fixed_bytes() -> None:
    masked, vouched = answered(members())
    data = b"".join(masked[name].astype("<u8").tobytes() + vouched[name] for name in sorted(masked))
    assert hashlib.sha256(data).hexdigest() == "91339d32c008135c9fd2d247f119687ff6cad88f200e6c63f075a6b8d14a8414"


# The cohort.


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_are_refused_with_the_reason(n: int) -> None:
    with pytest.raises(PolicyError, match=r"of two, each gets the other's part as the sum minus its own"):
        cohort(n)


def test_the_coordinator_is_no_third_member() -> None:
    keys = {name: _public(name) for name in (*_names(2), "coordinator")}
    with pytest.raises(PolicyError, match="coordinator has the same identity key as the coordinator"):
        Cohort(b"c" * 32, b"r" * 16, keys, _public("coordinator"))


def test_one_organisation_under_two_names_counts_once() -> None:
    keys = {"a": _public("a"), "b": _public("b"), "b2": _public("b")}
    with pytest.raises(PolicyError, match="b2 has the same identity key as b"):
        Cohort(b"c" * 32, b"r" * 16, keys, _public("coordinator"))


def test_a_cohort_has_at_most_a_hundred() -> None:
    with pytest.raises(ConfigError, match="at most 100"):
        cohort(101)


def test_a_stranger_is_no_member() -> None:
    with pytest.raises(PolicyError, match="does not name shop-07"):
        member("shop-07", cohort())


# Keys.


def _keys(of: Cohort) -> tuple[Member, dict[str, bytes]]:
    """shop-00 before it has agreed, and the keys that it should be given."""
    made = {name: member(name, of) for name in of.names}
    return made["shop-00"], {name: each.key() for name, each in made.items()}


def _forged(name: str, point: bytes, of: Cohort) -> bytes:
    """A key with a point of the member's choice, which it signs as it should."""

    class Chosen(Randomness):
        def bytes(self, n: int) -> bytes:
            return b"\1" * n

    own = Member(name, of, sign=lambda data: data, randomness=Chosen(bytes(32)))
    signed = own.key()[32:]
    return point + _identity(name).sign(signed.replace(own.key()[:32], point))


def _of_another(name: str, **changed: object) -> bytes:
    return member(name, replace(cohort(), **changed)).key()


WRONG_KEYS: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "of another contract": (lambda _: _of_another("shop-02", contract=b"d" * 32), "shop-02's key is not signed"),
    "of another run": (lambda _: _of_another("shop-02", run=b"s" * 16), "shop-02's key is not signed"),
    "of a larger cohort": (lambda _: member("shop-02", cohort(4)).key(), "shop-02's key is not signed"),
    "of another coordinator": (lambda _: _of_another("shop-02", coordinator=_public("x")), "shop-02's key is not sig"),
    "of another name": (lambda keys: keys["shop-01"], "shop-02's key is not signed"),
    "signed by another": (
        lambda _: Member("shop-02", cohort(), sign=_identity("x").sign, randomness=Randomness(bytes(32))).key(),
        "shop-02's key is not signed",
    ),
    "with another's point": (
        lambda keys: _forged("shop-02", keys["shop-01"][:32], cohort()),
        "shop-02 sent shop-01's key as its own",
    ),
    "with our point": (
        lambda keys: _forged("shop-02", keys["shop-00"][:32], cohort()),
        "shop-02 sent shop-00's key as its own",
    ),
    "a bit flipped in the point": (lambda keys: _flipped(keys["shop-02"], 3), "shop-02's key is not signed"),
    "a bit flipped in the signature": (lambda keys: _flipped(keys["shop-02"], 40), "shop-02's key is not signed"),
    "cut short": (lambda keys: keys["shop-02"][:-1], "shop-02's key is not signed"),
    "empty": (lambda _: b"", "shop-02's key is not signed"),
    "too long": (lambda keys: keys["shop-02"] + b"\0", "shop-02's key is not signed"),
}


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("kind", WRONG_KEYS)
def test_a_wrong_key_is_refused_by_name(kind: str) -> None:
    wrong, says = WRONG_KEYS[kind]
    ours, keys = _keys(cohort())
    with pytest.raises(PeerError, match=says):
        ours.agree({**keys, "shop-02": wrong(keys)})


@pytest.mark.parametrize("u", LOW_ORDER)
def test_points_of_low_order_are_refused_by_name(u: int) -> None:
    ours, keys = _keys(cohort())
    with pytest.raises(PeerError, match="shop-01's key is a point of low order"):
        ours.agree({**keys, "shop-01": _forged("shop-01", u.to_bytes(32, "little"), cohort())})


def test_a_key_that_its_member_chose_and_signed_is_otherwise_taken() -> None:
    ours, keys = _keys(cohort())
    ours.agree({**keys, "shop-01": _forged("shop-01", (9).to_bytes(32, "little"), cohort())})


def test_a_missing_key_is_named() -> None:
    ours, keys = _keys(cohort(5))
    del keys["shop-03"], keys["shop-01"]
    with pytest.raises(PeerError, match="the key of shop-01, shop-03 is missing"):
        ours.agree(keys)


def test_a_key_too_many_is_named() -> None:
    ours, keys = _keys(cohort())
    with pytest.raises(PeerError, match="of shop-03, whom the contract does not name"):
        ours.agree({**keys, "shop-03": member("shop-03", cohort(4)).key()})


def test_an_older_key_of_ours_is_not_taken_for_the_one_of_this_run() -> None:
    ours, keys = _keys(cohort())
    with pytest.raises(PeerError, match="our own key did not come back"):
        ours.agree({**keys, "shop-00": member("shop-00", cohort(), "before").key()})


def test_keys_are_taken_once() -> None:
    made = members()
    with pytest.raises(PeerError, match="a second time"):
        made["shop-00"].agree({name: each.key() for name, each in made.items()})


def test_members_that_were_shown_different_keys_have_no_sum() -> None:
    of = cohort()
    made = {name: member(name, of) for name in of.names}
    again = member("shop-02", of, "again")
    keys = {name: each.key() for name, each in made.items()}
    made["shop-00"].agree({**keys, "shop-02": again.key()})
    made["shop-01"].agree(keys)
    made["shop-02"].agree(keys)
    masked, _ = answered(made)
    with pytest.raises(PeerError, match="do not cancel"):
        add(masked, made, SIZE)


def test_a_member_that_shows_two_keys_is_no_go_between_of_others() -> None:
    """It could else make up for its own two sets of masks, and nobody would know of the other."""
    of = cohort()
    made = {name: member(name, of) for name in of.names}
    keys = {name: each.key() for name, each in made.items()}
    made["shop-00"].agree(keys)
    made["shop-01"].agree({**keys, "shop-02": member("shop-02", of, "again").key()})
    assert made["shop-00"]._pairs["shop-01"] != made["shop-01"]._pairs["shop-00"]


def test_nothing_is_masked_before_the_keys_are_there() -> None:
    with pytest.raises(PeerError, match="before the members' keys came"):
        member("shop-00", cohort()).mask(1, MODEL, np.zeros(SIZE, np.uint64))


# Rounds and models.


@pytest.mark.parametrize("round", [2, 1, 0, -1])
def test_a_replayed_round_is_refused(round: int) -> None:
    made = members()
    answered(made, round=1)
    answered(made, round=2)
    with pytest.raises(PeerError, match="a round is answered once"):
        made["shop-00"].mask(round, OTHER, np.zeros(SIZE, np.uint64))


def test_a_round_is_vouched_for_once() -> None:
    ours = member("shop-00", cohort())
    ours.vouch(1, MODEL, b"one")
    with pytest.raises(PeerError, match="a round is answered once"):
        ours.vouch(1, OTHER, b"another")


def test_a_different_model_for_one_member_gives_the_coordinator_nothing() -> None:
    made = members(4)
    masked, _ = answered(made, models={"shop-02": OTHER})
    with pytest.raises(PeerError, match="do not cancel"):
        add(masked, made, SIZE)
    # What it adds up anyway is as far from the sum as chance is.
    assert not (np.sum(list(masked.values()), axis=0)[:-1] == 4 * np.arange(SIZE, dtype=np.uint64)).any()


def test_a_different_model_for_one_member_is_found_by_all() -> None:
    made = members(4)
    masked, vouched = answered(made, models={"shop-02": OTHER})
    for name, each in made.items():
        others = "shop-00, shop-01, shop-03" if name == "shop-02" else "shop-02"
        with pytest.raises(DisagreementError, match=f"gave {others} another model than {name}"):
            each.total(1, OTHER if name == "shop-02" else MODEL, vouched, masked)


def test_models_are_compared_where_sums_are_not_hidden_too() -> None:
    of = cohort(5)
    made = {name: member(name, of) for name in of.names}
    vouched = {name: each.vouch(1, OTHER if name == "shop-04" else MODEL, name.encode()) for name, each in made.items()}
    with pytest.raises(DisagreementError, match="gave shop-04 another model than shop-00"):
        made["shop-00"].check(1, MODEL, vouched)
    vouched["shop-04"] = member("shop-04", of).vouch(1, MODEL, b"shop-04")
    sent = made["shop-00"].check(1, MODEL, vouched)
    assert sent == {name: hashlib.sha256(name.encode()).digest() for name in of.names}


@given(
    st.lists(arrays(np.float64, st.integers(0, 4)), max_size=3),
    st.lists(arrays(np.float64, st.integers(0, 4)), max_size=3),
)
def test_a_models_hash_tells_any_two_apart(first: list[FloatArray], second: list[FloatArray]) -> None:
    def bits(model: list[FloatArray]) -> list[bytes]:
        return [array.tobytes() for array in model]

    assert (model_hash(*first) == model_hash(*second)) == (bits(first) == bits(second))


def test_a_models_hash_tells_shapes_apart() -> None:
    assert model_hash(np.zeros((2, 3))) != model_hash(np.zeros((3, 2)))


# Never a wrong sum: what a coordinator or a line could do to the answers of a round.


def _faults(masked: dict[str, UInt64Array], vouched: dict[str, bytes], before: Answers) -> Iterator[tuple[str, str]]:
    """Does one wrong thing at a time to shop-01's answer; yields what it was and whom the error must name."""
    good, sworn = masked["shop-01"], vouched["shop-01"]
    for at in range(SIZE + 1):
        masked["shop-01"] = good.copy()
        masked["shop-01"][at] += np.uint64(1)
        yield f"one more in word {at}", "shop-01"
    masked["shop-01"] = good[:-1]
    yield "a word left out", "shop-01"
    masked["shop-01"] = np.append(good, good[:1])
    yield "a word more", "shop-01"
    masked["shop-01"] = good.astype(np.float64)
    yield "other numbers", "shop-01"
    masked["shop-01"] = masked["shop-02"]
    yield "another's answer", "shop-01"
    masked["shop-01"] = before[0]["shop-01"]
    yield "an older answer under the new vouch", "shop-01"
    vouched["shop-01"] = before[1]["shop-01"]
    yield "an older answer and its vouch", "shop-01"
    masked["shop-01"], vouched["shop-01"] = masked["shop-02"], vouched["shop-02"]
    yield "another's answer and vouch", "shop-01"
    masked["shop-01"] = good
    for at in range(len(sworn)):
        vouched["shop-01"] = _flipped(sworn, at)
        yield f"a bit flipped in byte {at} of the vouch", "shop-01"
    vouched["shop-01"] = sworn[:-1]
    yield "a vouch cut short", "shop-01"
    vouched["shop-01"] = sworn
    del masked["shop-01"]
    yield "no answer", "shop-01"
    masked["shop-01"] = good
    del vouched["shop-01"]
    yield "no vouch", "shop-01"
    vouched["shop-01"] = sworn
    masked["shop-09"] = good
    yield "an answer too many", "shop-09"
    del masked["shop-09"]
    vouched["shop-09"] = sworn
    yield "a vouch too many", "shop-09"


def test_whatever_is_done_to_an_answer_there_is_no_sum_and_it_is_named() -> None:
    made = members(4)
    before = answered(made, round=1)
    masked, vouched = answered(made, round=2)
    done = 0
    for what, named in _faults(masked, vouched, before):
        for name in ("shop-00", "shop-01"):
            with pytest.raises(PeerError) as caught:
                made[name].total(2, MODEL, vouched, masked)
            assert named in caught.value.text, what
        done += 1
    assert done > 150


def test_swapped_answers_are_named_though_their_sum_is_right() -> None:
    made = members(4)
    masked, vouched = answered(made)
    masked["shop-01"], masked["shop-02"] = masked["shop-02"], masked["shop-01"]
    np.testing.assert_array_equal(add(masked, made, SIZE), 4 * np.arange(SIZE))
    with pytest.raises(PeerError, match="what came as shop-01's answer"):
        made["shop-00"].total(1, MODEL, vouched, masked)


@pytest.mark.parametrize(
    "words", [np.zeros(SIZE, np.uint64), np.zeros((SIZE + 1, 1), np.uint64), np.zeros(SIZE + 1, np.int64)]
)
def test_the_coordinator_names_who_sent_what_is_no_answer(words: UInt64Array) -> None:
    made = members()
    masked, _ = answered(made)
    with pytest.raises(PeerError, match="shop-02 sent"):
        add({**masked, "shop-02": words}, made, SIZE)


def test_the_coordinator_knows_an_answer_to_another_round() -> None:
    made = members()
    _, vouched = answered(made, round=7)
    with pytest.raises(PeerError, match="shop-01's answer is to round 7, round 8 was asked"):
        secure_sum.verify_vouch(cohort(), "shop-01", 8, vouched["shop-01"])
    assert secure_sum.verify_vouch(cohort(), "shop-01", 7, vouched["shop-01"])[0] == MODEL


def test_a_member_that_leaves_is_named_and_there_is_no_sum_without_it() -> None:
    made = members(5)
    masked, _ = answered(made)
    del masked["shop-03"]
    with pytest.raises(PeerError, match="the answer of shop-03 is missing"):
        add(masked, made, SIZE)


def test_sums_over_two_cohorts_cannot_be_had() -> None:
    made = members(5)
    masked, _ = answered(made)
    for left_out in made:
        fewer = {name: words for name, words in masked.items() if name != left_out}
        with pytest.raises(PeerError, match="do not cancel"):
            add(fewer, fewer, SIZE)
        smaller = {name: each.key() for name, each in made.items() if name != left_out}
        if left_out != "shop-00":
            with pytest.raises(PeerError, match=f"the key of {left_out} is missing"):
                member("shop-00", cohort(5)).agree(smaller)


def test_a_member_of_four_has_no_masks_in_common_with_the_same_member_of_three() -> None:
    of_four, of_three = answered(members(4))[0], answered(members(3))[0]
    add(of_three, of_three, SIZE)
    for name in of_three:
        with pytest.raises(PeerError, match="do not cancel"):
            add({**of_three, name: of_four[name]}, of_three, SIZE)


# Values.


@given(
    st.integers(3, 100),
    st.floats(1e-6, 1e12),
    st.integers(0, 50),
    st.integers(0, 2**40),
    st.sampled_from([-1.0, 1.0]),
)
def test_a_declared_range_cannot_wrap(n: int, limit: float, bits: int, noise_sd: int, sign: float) -> None:
    try:
        scale = FixedPoint(n, limit, bits, noise_sd)
    except ConfigError:
        # Refused only where the sum of the largest would not fit.
        assert n * (limit * 2**bits + 64 * noise_sd + 1) >= 2**63
        return
    noise = np.array([64 * noise_sd * int(sign)])
    largest = scale.encode([sign * limit], 1, noise)
    clear = n * int(largest.view(np.int64)[0])
    with np.errstate(over="ignore"):
        assert int(scale.integers(largest * np.uint64(n))[0]) == clear
    assert abs(clear) < 2**63


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_with_its_maker(wrong: float) -> None:
    with pytest.raises(PolicyError, match="not finite"):
        FixedPoint(3, 8.0).encode([0.0, wrong], 2)


@pytest.mark.parametrize("wrong", [8.001, -1234567.0])
def test_what_is_out_of_range_stays_with_its_maker_and_is_not_in_the_text(wrong: float) -> None:
    with pytest.raises(PolicyError, match="leaves the declared range") as caught:
        FixedPoint(3, 8.0).encode([0.0, wrong], 2)
    assert str(abs(wrong)) not in caught.value.text + caught.value.hint


@pytest.mark.parametrize("wrong", [[0.0], [0.0] * 3, [[0.0, 0.0]], 0.0])
def test_another_shape_stays_with_its_maker(wrong: object) -> None:
    with pytest.raises(PolicyError, match=r"our own update has the shape"):
        FixedPoint(3, 8.0).encode(wrong, 2)


def test_more_noise_than_declared_is_a_mistake_of_ours() -> None:
    scale = FixedPoint(3, 8.0, noise_sd=10)
    scale.encode([0.0], 1, np.array([640]))
    for noise in (np.array([641]), np.array([-641]), np.array([1, 1])):
        with pytest.raises(ValueError, match="the noise"):
            scale.encode([0.0], 1, noise)


def test_a_sum_that_so_many_cannot_have_is_refused() -> None:
    scale = FixedPoint(3, 1.0, bits=4)
    most = np.array([48, -48]).astype(np.uint64)
    assert scale.decode(most).tolist() == [3.0, -3.0]
    for wrong in (49, -49, 2**62, -(2**63)):
        with pytest.raises(PeerError, match="3 members can have"):
            scale.decode(np.array([wrong]).astype(np.uint64))


# What the coordinator sees.


def _chi_square(words: UInt64Array) -> float:
    """How far the bytes are from uniform, in standard deviations of what chance gives (255 degrees of freedom)."""
    counts = np.bincount(np.frombuffer(words.tobytes(), np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float((((counts - expected) ** 2 / expected).sum() - 255) / np.sqrt(2 * 255))


INPUTS = {"zeros": np.zeros(2**14, np.uint64), "sevens": np.full(2**14, 7, np.uint64)}


@pytest.mark.parametrize("kind", INPUTS)
def test_one_members_answer_is_uniform_whatever_is_in_it(kind: str) -> None:
    made = members(3, "uniform")
    masked, _ = answered(made, dict.fromkeys(made, INPUTS[kind]))
    assert _chi_square(INPUTS[kind]) > 1000
    for words in masked.values():
        assert abs(_chi_square(words)) < 5


def test_two_inputs_of_one_member_cannot_be_told_apart() -> None:
    views = []
    for kind in INPUTS:
        made = members(3, kind)
        values = dict.fromkeys(made, INPUTS["zeros"]) | {"shop-00": INPUTS[kind]}
        views.append(np.frombuffer(answered(made, values)[0]["shop-00"].tobytes(), np.uint8).astype(np.float64))
    means, spread = [view.mean() for view in views], np.sqrt(2 * (256**2 / 12) / len(views[0]))
    assert abs(means[0] - means[1]) < 5 * spread
    assert abs(np.corrcoef(views[0], views[1])[0, 1]) < 5 / np.sqrt(len(views[0]))


def test_two_members_stay_hidden_from_the_coordinator_and_all_others_together() -> None:
    n = 5
    made = members(n)
    values = dict.fromkeys(made, INPUTS["sevens"])
    masked, _ = answered(made, values)
    honest, colluding = ("shop-01", "shop-03"), ("shop-00", "shop-02", "shop-04")
    left = {}
    for name in honest:
        words = masked[name][:-1]
        for other in colluding:
            mask = secure_sum._stream(made[other]._pairs[name], 1, MODEL, len(words) + 1)[:-1]
            words = words + mask if other < name else words - mask
        left[name] = words
        assert abs(_chi_square(words)) < 5
    # Their sum is what the colluders know anyway: so every mask but one was taken off.
    np.testing.assert_array_equal(left["shop-01"] + left["shop-03"], 2 * values["shop-01"])


def test_what_is_sent_has_a_length_that_depends_on_nothing_but_the_model() -> None:
    shapes = set()
    for values in (np.zeros(SIZE, np.uint64), np.full(SIZE, 2**64 - 1, np.uint64)):
        made = members(4, str(values[0]))
        assert {len(each.key()) for each in made.values()} == {KEY_BYTES}
        masked, vouched = answered(made, dict.fromkeys(made, values))
        shapes |= {(words.nbytes, len(vouched[name])) for name, words in masked.items()}
    assert len(shapes) == 1


def test_keys_do_not_print() -> None:
    ours = members()["shop-00"]
    assert repr(ours) == "Member('shop-00', ...)"


# Inversion [F1]: the gradient of one row, divided by its part for the intercept, is the row.

PLANTED = np.array([0.7312904, -1.9127734, 2.4410957, 0.1180263, -3.2275719, 1.5513842])


def _gradient(row: FloatArray, label: float, weights: FloatArray) -> FloatArray:
    extended = np.append(row, 1.0)
    predicted = 1 / (1 + np.exp(-extended @ weights))
    gradient: FloatArray = (predicted - label) * extended
    return gradient


def _inverted(gradient: FloatArray) -> FloatArray:
    return gradient[:-1] / gradient[-1] if gradient[-1] else gradient[:-1]


def _recovered(gradient: FloatArray) -> bool:
    return bool(np.abs(_inverted(gradient) - PLANTED).max() < 1e-3)


def _one_row_each(n: int = 4) -> tuple[dict[str, FloatArray], FixedPoint]:
    drawn = np.random.default_rng(3)
    gradients = {name: _gradient(drawn.normal(size=6), 1.0, np.zeros(7)) for name in _names(n)}
    return gradients | {"shop-02": _gradient(PLANTED, 0.0, np.zeros(7))}, FixedPoint(n, 64.0)


def test_without_masks_a_one_row_gradient_is_its_row() -> None:
    gradients, scale = _one_row_each()
    seen = scale.encode(gradients["shop-02"], 7)
    assert _recovered(replace(scale, members=1).decode(seen))


def test_from_what_the_coordinator_records_of_a_masked_round_no_row_comes_back() -> None:
    gradients, scale = _one_row_each()
    made = members(4)
    masked, vouched = answered(made, {name: scale.encode(gradients[name], 7) for name in made})
    # It may add up any of the answers, with either sign, and read them as it likes.
    for chosen in (c for n in range(1, 5) for c in combinations(masked, n)):
        for signs in range(2 ** len(chosen)):
            taken = [masked[name][:-1] if signs >> i & 1 else -masked[name][:-1] for i, name in enumerate(chosen)]
            seen = np.sum(taken, axis=0, dtype=np.uint64)
            assert not _recovered(seen.view(np.int64) / 2.0**scale.bits)
    needles = Needles()
    needles.add_numbers(np.array([PLANTED, gradients["shop-02"][:-1]]))
    needles.add(scale.encode(gradients["shop-02"], 7)[i : i + 1].tobytes() for i in range(7))
    recorded = b"".join(words.tobytes() for words in masked.values()) + b"".join(vouched.values())
    assert not needles.within(recorded)
    assert len(needles.within(scale.encode(gradients["shop-02"], 7).tobytes())) == 7


def test_errors_are_typed_and_say_what_to_try() -> None:
    assert FEWEST == 3
    with pytest.raises(TidegateError) as caught:
        cohort(2)
    assert caught.value.hint
