"""The private sum: right, quiet below the floor, nothing but the sum, and closed against a peer or a line that lies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.csv import write_csv

from tests.both_roles import spoken
from tests.broken_line import FAULTS, play_broken
from tests.canaries import Needles
from tests.real_parties import PAPER, SHOP, Town, campaign_text, town, write_tables
from tests.test_session import both
from tidegate.party.data import table
from tidegate.party.data.keys import READ_ROWS
from tidegate.party.noise import discrete_gaussian
from tidegate.party.summing import column_values, units
from tidegate.protocols.blind.products import Key, Results, Uploads
from tidegate.protocols.channel import Channel, ConfigError, M, Message, PeerError, PolicyError, TidegateError
from tidegate.protocols.ids import Identifiers
from tidegate.protocols.primitives import group
from tidegate.protocols.primitives.bfv import MODULI, BrandKey
from tidegate.protocols.primitives.fixed_point import IntArray, T
from tidegate.protocols.primitives.group import GENERATOR, Scalar
from tidegate.protocols.primitives.packing import SLOTS
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.psi import match, oprf_match, private_sum
from tidegate.protocols.psi.oprf import HASH_TO_GROUP
from tidegate.protocols.psi.private_sum import Found, Noised, Sum, Terms
from tidegate.protocols.simulate import MemoryChannel, simulate
from tidegate.wire.contract import Total

Role = Callable[[Channel], Any]
TERMS = Terms(kind="text", floor=3, max_rows=10**6, cap=1000, noise_sd=0)
WHOSE = ("media", "brand")


def _ids(people: range | list[int]) -> Identifiers:
    texts = [b"somebody with the number %09d" % i for i in people]
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    return Identifiers(b"".join(texts), offsets, np.arange(len(texts), dtype=np.int64))


def _values(n: int, cap: int = 1000) -> IntArray:
    return np.random.default_rng(n).integers(0, cap + 1, n)


def _draws(drawn: int) -> private_sum.Noise:
    return lambda n: np.full(n, drawn, np.int64)


def _roles(
    of: str,
    others: Identifiers,
    ids: Identifiers,
    values: IntArray,
    terms: Terms = TERMS,
    *,
    drawn: int = 0,
    seed: bytes | None = None,
) -> tuple[Role, Role]:
    """Counter and holder; `of` says who the holder is, and the media draws the noise."""

    def random(label: bytes) -> Randomness:
        return Randomness.system() if seed is None else Randomness((label + seed).ljust(32, b"\0"))

    of_media, of_brand = (_draws(drawn), None) if of == "media" else (None, _draws(drawn))
    return (
        lambda channel: private_sum.counter(
            channel, others, terms, engine=oprf_match, noise=of_brand, randomness=random(b"c")
        ),
        lambda channel: private_sum.holder(
            channel, ids, values, terms, engine=oprf_match, noise=of_media, randomness=random(b"h")
        ),
    )


def _expected(of: str, size: int, total: int) -> tuple[Sum, Sum]:
    return (Sum(size, total), Sum(None, None)) if of == "media" else (Sum(size, None), Sum(size, total))


def _shape(*channels: MemoryChannel) -> list[tuple[str, int]]:
    return [(name, len(data)) for channel in channels for name, data in channel.sent]


# The right answer.


@settings(max_examples=15, deadline=None)
@given(
    st.sets(st.integers(0, 60), min_size=1),
    st.dictionaries(st.integers(0, 60), st.integers(0, 1000), min_size=1),
    st.sampled_from(WHOSE),
)
def test_brand_learns_size_and_sum_of_the_clear_text(others: set[int], valued: dict[int, int], of: str) -> None:
    common = [value for person, value in valued.items() if person in others]
    roles = _roles(of, _ids(sorted(others)), _ids(list(valued)), np.array(list(valued.values()), np.int64))
    if len(common) >= TERMS.floor:
        assert simulate(*roles) == _expected(of, len(common), sum(common))
    else:
        with pytest.raises(PolicyError, match="fewer than 3 people"):
            simulate(*roles)


@pytest.mark.parametrize("of", WHOSE)
def test_a_block_more_of_values_is_added_up_like_the_first(of: str) -> None:
    n = SLOTS + 3
    values = _values(n)
    others = _ids(range(n - 5, n + 20))
    assert simulate(*_roles(of, others, _ids(range(n)), values)) == _expected(of, 5, int(values[-5:].sum()))


@pytest.mark.parametrize("of", WHOSE)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_beyond_one_modulus_is_exact(of: str, sign: int) -> None:
    terms = replace(TERMS, cap=10**9, noise_sd=10**15)
    drawn = sign * 63 * 10**15
    assert drawn not in range(-T, T)
    values = np.full(9, 10**9)
    found = simulate(*_roles(of, _ids(range(9)), _ids(range(9)), values, terms, drawn=drawn))
    assert found == _expected(of, 9, 9 * 10**9 + drawn)


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(0, 10**15), st.floats(-1, 1))
def test_the_moduli_hold_every_sum_that_can_be(people: int, cap: int, noise_sd: int, share: float) -> None:
    terms = replace(TERMS, cap=cap, noise_sd=noise_sd)
    moduli = private_sum.moduli_for(people, terms)
    total = int(share * (people * cap + 64 * noise_sd))
    assert private_sum.joined([total % modulus for modulus in moduli], moduli) == total


def test_a_second_modulus_is_used_only_where_it_is_needed() -> None:
    most = T // 2
    assert private_sum.moduli_for(1, replace(TERMS, cap=most)) == MODULI[:1]
    assert private_sum.moduli_for(1, replace(TERMS, cap=most + 1)) == MODULI
    assert private_sum.moduli_for(most // 10**9, replace(TERMS, cap=10**9)) == MODULI[:1]
    assert private_sum.moduli_for(most // 10**9 + 1, replace(TERMS, cap=10**9)) == MODULI
    assert private_sum.moduli_for(1, replace(TERMS, cap=1, noise_sd=most // 64 + 1)) == MODULI


@pytest.mark.parametrize("of", WHOSE)
def test_result_is_the_same_over_a_sealed_session(of: str) -> None:
    values = _values(40)
    roles = _roles(of, _ids(range(20, 60)), _ids(range(40)), values, seed=b"1")
    assert asyncio.run(both(*roles)) == simulate(*roles) == _expected(of, 20, int(values[20:].sum()))


# Noise and clipping.


@pytest.mark.parametrize("of", WHOSE)
def test_the_sum_has_the_noise_of_the_media(of: str) -> None:
    values = _values(40)
    for drawn in (-640_000, 17, 640_000):
        terms = replace(TERMS, noise_sd=10_000)
        found = simulate(*_roles(of, _ids(range(40)), _ids(range(40)), values, terms, drawn=drawn))
        assert found == _expected(of, 40, int(values.sum()) + drawn)


@pytest.mark.parametrize("of", WHOSE)
def test_noise_beyond_what_was_declared_is_refused(of: str) -> None:
    with pytest.raises(ValueError, match="far more"):
        simulate(*_roles(of, _ids(range(9)), _ids(range(9)), _values(9), replace(TERMS, noise_sd=10), drawn=641))


def test_noise_of_many_bits_is_not_cut() -> None:
    drawn = discrete_gaussian(10**10)(500)
    assert 0.8e10 < drawn.std() < 1.2e10
    assert not drawn[np.abs(drawn) == 2**31].size


def test_an_outlier_counts_as_the_cap_and_less_than_nothing_as_nothing() -> None:
    total = Total("media", "spend", 50_000, 2)
    plain = np.array([10.0, 19.99, np.nan, 0.125])
    values, clipped = units(plain, total)
    assert (values.tolist(), clipped) == ([1000, 1999, 0, 12], 0)
    planted, clipped = units(np.array([10.0, 1e6, -3.0, 1e100]), total)
    assert (planted.tolist(), clipped) == ([1000, 50_000, 0, 50_000], 3)


@pytest.mark.parametrize("of", WHOSE)
def test_a_planted_outlier_moves_the_sum_by_no_more_than_the_cap(of: str) -> None:
    spent = np.random.default_rng(1).uniform(0, 500, 40)
    sums = []
    for planted in (0.0, 1e6):
        spent[7] = planted
        values, _ = units(spent, Total(of, "spend", 50_000, 2))
        found = simulate(*_roles(of, _ids(range(40)), _ids(range(40)), values, replace(TERMS, cap=50_000)))
        sums += [total for total in (found[0].total, found[1].total) if total is not None]
    assert sums[1] - sums[0] == 50_000


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_values_are_read_in_blocks_and_only_numbers(tmp_path: Path, suffix: str) -> None:
    spend = [None if i % 7 == 0 else i / 4 for i in range(READ_ROWS + 10)]
    columns = {"spend": spend, "day": [date(2026, 1, 1)] * len(spend), "plan": ["a"] * len(spend)}
    path = tmp_path / f"people.{suffix}"
    (write_csv if suffix == "csv" else pq.write_table)(pa.table(columns), path)
    np.testing.assert_array_equal(column_values(path, "spend"), np.array(spend, np.float64))
    for column, says in (("day", "holds dates"), ("plan", "does not hold numbers"), ("spent", "no column")):
        with pytest.raises(ConfigError, match=says):
            column_values(path, column)


def test_values_outside_the_cap_are_not_entered() -> None:
    for values in (np.array([1, 2, 1001]), np.array([1, 2, -1]), np.array([1, 2])):
        with pytest.raises(ValueError, match="one value"):
            simulate(*_roles("media", _ids(range(3)), _ids(range(3)), values))


# What is seen.


@pytest.mark.parametrize("of", WHOSE)
def test_transcript_has_the_same_shape_for_other_people_and_values_of_the_same_sizes(of: str) -> None:
    shapes = []
    for overlap, values in ((3, np.zeros(50, np.int64)), (20, _values(50)), (50, np.full(50, 1000))):
        *_, a, b = asyncio.run(spoken(*_roles(of, _ids(range(50 - overlap, 120 - overlap)), _ids(range(50)), values)))
        shapes.append(_shape(a, b))
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("of", WHOSE)
def test_below_the_floor_nothing_differs_but_the_number_the_counter_forgets(of: str) -> None:
    outcomes = []
    for overlap in (0, 1, 98, 99):
        others, ids = _ids(range(150 - overlap, 300 - overlap)), _ids(range(150))
        roles = _roles(of, others, ids, _values(150), replace(TERMS, floor=100))
        left, right, a, b = asyncio.run(spoken(*roles))
        assert isinstance(left, PolicyError)
        assert isinstance(right, PolicyError)
        outcomes.append((str(left), left.hint, str(right), right.hint, _shape(a, b), a.sent[-1]))
    assert outcomes.count(outcomes[0]) == len(outcomes)
    assert not {"Key", "Uploads", "Results", "Noised"} & set(dict(_shape(a, b)))


@pytest.mark.parametrize("of", WHOSE)
def test_a_set_that_cannot_reach_the_floor_is_not_blinded_at_all(of: str) -> None:
    for others, own in ((2, 50), (50, 2)):
        roles = _roles(of, _ids(range(others)), _ids(range(own)), _values(own))
        left, right, a, b = asyncio.run(spoken(*roles))
        assert str(left) == str(right) == "fewer than 3 people matched, so nothing was added up"
        assert [name for name, _ in a.sent + b.sent] == ["Size", "Size"]


def test_a_media_that_holds_the_values_is_told_the_floor_and_not_the_size() -> None:
    told = []
    for overlap in (3, 20, 50):
        _, right, a, _ = asyncio.run(
            spoken(*_roles("media", _ids(range(50 - overlap, 100)), _ids(range(50)), _values(50)))
        )
        assert right == Sum(None, None)
        told.append(dict(a.sent)["Found"])
    assert told == [Found(TERMS.floor).to_bytes()] * 3


def test_a_media_that_holds_the_values_opens_a_uniform_number() -> None:
    opened = []
    for run in range(12):
        roles = _roles("media", _ids(range(9)), _ids(range(9)), _values(9), seed=bytes([run]))
        *_, b = asyncio.run(spoken(*roles))
        opened.append(int.from_bytes(Noised.from_bytes(dict(b.sent)["Noised"]).residues, "little"))
    # The sum itself is at most 9000; a uniform residue is under 2^32 once in eight thousand times.
    assert min(opened) > 2**32
    assert len(set(opened)) == 12


@pytest.mark.parametrize("modulus", MODULI)
def test_the_holder_opens_slots_that_are_uniform_but_for_their_total(modulus: int) -> None:
    values = _values(SLOTS + 100)
    found = np.arange(len(values)) % 3 == 0
    key = BrandKey(Randomness(b"k" * 32), modulus)

    async def other(channel: Channel) -> Any:
        await channel.send(Key(key.public_bytes()))
        padded = [private_sum._slots(values[at : at + SLOTS]) for at in (0, SLOTS)]
        await channel.send(Uploads(tuple(key.encrypt(padded))))
        return key.decrypt((await channel.recv(Results)).parts[0])

    added, slots = simulate(
        lambda channel: private_sum._multiply(channel, found, -7, modulus, Randomness(b"m" * 32)), other
    )
    assert added == modulus - 7
    assert sum(slots.tolist()) % modulus == int(values[found].sum()) - 7
    assert 0.49 < (slots / modulus).mean() < 0.51
    assert np.unique(slots).size == SLOTS


def test_neither_side_can_lay_what_it_gets_to_rows() -> None:
    """The evaluated elements and the tokens come in orders of their own, and no message opens either."""
    n = 200
    *_, a, b = asyncio.run(spoken(*_roles("media", _ids(range(n)), _ids(range(n)), _values(n), seed=b"1")))
    # The randomness of the seeded holder starts with its order, then comes its key.
    drawn = Randomness(b"h1".ljust(32, b"\0"))
    drawn.permutation(n)
    key = Scalar.random(drawn)
    in_order = group.multiply(dict(a.sent)["Blinded"][8:], key)
    came = dict(b.sent)["Evaluated"][8:]
    elements = [in_order[at : at + 32] for at in range(0, len(in_order), 32)]
    order = [elements.index(came[at : at + 32]) for at in range(0, len(came), 32)]
    assert sorted(order) == list(range(n))
    assert sum(place == i for i, place in enumerate(order)) < 10
    own = _ids(range(n))
    tokens = group.digests(
        group.hash_multiply(own.data, own.offsets, HASH_TO_GROUP, key), b"tidegate match token v1\0text\0", 12
    )
    sent = dict(b.sent)["Tokens"][8:]
    at = [sent.index(tokens[12 * i : 12 * i + 12]) // 12 for i in range(n)]
    assert sorted(at) == list(range(n))
    assert sum(place == i for i, place in enumerate(at)) < 10
    assert [name for name, _ in b.sent] == ["Size", "Evaluated", "Tokens", "Key", "Uploads", "Noised"]


def test_no_run_shares_an_element_token_or_ciphertext_with_an_earlier_one() -> None:
    seen: set[bytes] = set()
    for _ in range(2):
        *_, a, b = asyncio.run(spoken(*_roles("media", _ids(range(20)), _ids(range(20)), _values(20))))
        for name, data in a.sent + b.sent:
            width = {"Blinded": 32, "Evaluated": 32, "Tokens": 12, "Uploads": 4096, "Results": 4096, "Key": 4096}
            if name in width:
                parts = {data[at : at + width[name]] for at in range(8, len(data), width[name])}
                assert not parts & seen
                seen |= parts


@pytest.mark.parametrize("of", WHOSE)
def test_no_identifier_and_no_value_is_on_the_line(of: str) -> None:
    values = _values(30, 2**30) + 2**40
    terms = replace(TERMS, cap=2**41)
    ids = _ids(range(30))
    *_, a, b = asyncio.run(spoken(*_roles(of, ids, ids, values, terms)))
    needles = Needles()
    for text in ids:
        needles.add_text(text.decode())
    needles.add(int(value).to_bytes(8, order) for value in values for order in ("little", "big"))
    needles.add(str(int(value)).encode() for value in values)
    line = b"".join(data for _, data in a.sent + b.sent)
    assert needles.within(line) == set()
    assert needles.within(line + ids[3] + values[5].tobytes()) == {ids[3], values[5].tobytes()}


# A lying peer. Each lie changes a message of a kind on its way out.


class LyingChannel:
    """Sends what `lie` makes of each message; the role above it is honest and does not know."""

    def __init__(self, channel: Channel, lie: Callable[[Message], list[Message]]) -> None:
        self.channel, self.lie = channel, lie

    async def send(self, message: Message) -> None:
        for told in self.lie(message):
            await self.channel.send(told)

    async def recv(self, kind: type[M]) -> M:
        return await self.channel.recv(kind)


def _lying(role: Role, kind: type[Message], lie: Callable[[Any], Message]) -> Role:
    return lambda channel: role(LyingChannel(channel, lambda m: [lie(m)] if isinstance(m, kind) else [m]))


def _residues(*values: int) -> bytes:
    return np.array(values, np.uint64).tobytes()


Lies = dict[str, tuple[str, type[Message], Callable[[Any], Message], str]]

COUNTER_LIES: Lies = {
    "rows": ("media", match.Size, lambda _: match.Size(101), "by the contract"),
    "identity": (
        "media",
        oprf_match.Blinded,
        lambda m: oprf_match.Blinded(bytes(32) + m.elements[32:]),
        "group element 0",
    ),
    "alias": (
        "media",
        oprf_match.Blinded,
        lambda m: oprf_match.Blinded(GENERATOR[:-1] + bytes([GENERATOR[-1] | 0x80]) + m.elements[32:]),
        "group element 0",
    ),
    "repeated": (
        "media",
        oprf_match.Blinded,
        lambda m: oprf_match.Blinded(m.elements[:32] + m.elements[:-32]),
        "twice",
    ),
    "element more": (
        "media",
        oprf_match.Blinded,
        lambda m: oprf_match.Blinded(m.elements + GENERATOR),
        "were expected",
    ),
    "found under the floor": ("brand", Found, lambda _: Found(2), "0 or 3 to 40"),
    "found more than there are": ("brand", Found, lambda _: Found(41), "0 or 3 to 40"),
    "found more than the holder may know": ("media", Found, lambda _: Found(4), "were possible"),
    "short result": ("media", Results, lambda m: Results((m.parts[0][:-8],)), "a result"),
    "two results": ("media", Results, lambda m: Results(m.parts * 2), "1 were expected"),
    "no result": ("media", Results, lambda _: Results(()), "1 were expected"),
    "result out of range": ("media", Results, lambda m: Results((b"\xff" * len(m.parts[0]),)), "below its prime"),
    "another result": ("brand", Results, lambda m: Results((m.parts[0][::-1][:4] + m.parts[0][4:],)), "so many people"),
}
HOLDER_LIES: Lies = {
    "rows": ("media", match.Size, lambda _: match.Size(2**64 - 1), "by the contract"),
    "evaluated": ("media", oprf_match.Evaluated, lambda m: oprf_match.Evaluated(m.elements[32:]), "were expected"),
    "no element": (
        "media",
        oprf_match.Evaluated,
        lambda m: oprf_match.Evaluated(b"\xff" * 32 + m.elements[32:]),
        "element 0",
    ),
    "repeated": (
        "media",
        oprf_match.Evaluated,
        lambda m: oprf_match.Evaluated(m.elements[:32] + m.elements[:-32]),
        "twice",
    ),
    "short tokens": ("media", oprf_match.Tokens, lambda m: oprf_match.Tokens(m.tokens[12:]), "were expected"),
    "repeated token": (
        "media",
        oprf_match.Tokens,
        lambda m: oprf_match.Tokens(m.tokens[:12] + m.tokens[:-12]),
        "twice",
    ),
    "short key": ("media", Key, lambda m: Key(m.data[:-8]), "a public key"),
    "zero key": ("media", Key, lambda m: Key(bytes(len(m.data))), "zero"),
    "short upload": ("media", Uploads, lambda m: Uploads((m.parts[0][:-8],)), "an upload"),
    "two uploads": ("media", Uploads, lambda m: Uploads(m.parts * 2), "1 were expected"),
    "upload out of range": ("brand", Uploads, lambda m: Uploads((b"\xff" * len(m.parts[0]),)), "below its prime"),
    "short sum": ("media", Noised, lambda m: Noised(m.residues[:-1]), "the sum"),
    "two sums": ("media", Noised, lambda m: Noised(m.residues * 2), "the sum"),
    "sum not below its modulus": ("media", Noised, lambda _: Noised(_residues(T)), "below its modulus"),
    "sum nobody can have": ("media", Noised, lambda m: Noised(_residues(_moved(m, 40 * 1000 + 1))), "so many people"),
    "sum under nothing": ("media", Noised, lambda m: Noised(_residues(_moved(m, -40 * 1000 - 1))), "so many people"),
}


def _moved(message: Noised, by: int) -> int:
    return (int.from_bytes(message.residues, "little") + by) % T


@pytest.mark.parametrize("lie", COUNTER_LIES)
def test_holder_refuses(lie: str) -> None:
    of, kind, told, says = COUNTER_LIES[lie]
    # Seeded: once in 25,000 times another result opens to a sum that so many people can have.
    terms = replace(TERMS, max_rows=100)
    counter, holder = _roles(of, _ids(range(40)), _ids(range(40)), _values(40), terms, seed=b"1")
    _, error, *_ = asyncio.run(spoken(_lying(counter, kind, told), holder))
    assert isinstance(error, PeerError)
    assert says in str(error)


@pytest.mark.parametrize("lie", HOLDER_LIES)
def test_counter_refuses(lie: str) -> None:
    of, kind, told, says = HOLDER_LIES[lie]
    terms = replace(TERMS, max_rows=100)
    counter, holder = _roles(of, _ids(range(40)), _ids(range(40)), _values(40), terms, seed=b"1")
    error, *_ = asyncio.run(spoken(counter, _lying(holder, kind, told)))
    assert isinstance(error, PeerError)
    assert says in str(error)


@pytest.mark.parametrize("of", WHOSE)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_line_ends_in_a_typed_error_or_the_right_sum(of: str, fault: str) -> None:
    values = _values(20)
    roles = _roles(of, _ids(range(10, 30)), _ids(range(20)), values)
    right = _expected(of, 10, int(values[10:].sum()))
    # counter: size, blinded, found, results; holder: size, evaluated, tokens, key, uploads and perhaps noised.
    for side, messages in ((0, 4), (1, 6)):
        for at in range(messages):
            with contextlib.suppress(TidegateError):
                assert play_broken(*roles, fault, side, at) == right


# Whole campaigns between real processes.


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("town")) as made:
        made.up()
        yield made


@pytest.mark.parametrize(
    ("of", "holder", "column", "cap"), [("media", PAPER, "visits", 20), ("brand", SHOP, "spend", 3)], ids=WHOSE
)
def test_a_campaign_gives_the_brand_the_sum_of_the_clear_text(
    there: Town, tmp_path: Path, of: str, holder: str, column: str, cap: int
) -> None:
    tables = write_tables(tmp_path, seed=5)
    there.register(tables)
    match_table = f"""keys = ["email"]\nmode = "sum"
        sum = {{ of = "{of}", column = "{column}", cap = {cap}, decimals = 2 }}"""
    text = campaign_text(f"sum-{of}", ("match",), match=match_table, guards="count_noise = 0")
    there.stage.campaign(SHOP, "propose", str(there.file(text)), "--yes")
    there.stage.party(PAPER, "approve", f"sum-{of}", "--yes")
    there.until_over(f"sum-{of}")

    shop, paper = table.read(tables.shop), table.read(tables.paper)
    mails = {
        PAPER: [mail or "" for mail in table.texts(paper, "e_mail")],
        SHOP: [(mail or "").strip().lower() for mail in table.texts(shop, "contact")],
    }
    own = table.numbers(paper if of == "media" else shop, column).tolist()
    values = dict(zip(mails[holder], own, strict=True))
    common = (set(mails[PAPER]) & set(mails[SHOP])) - {""}
    expected = sum(min(cap, round(values[mail], 2)) for mail in common if not np.isnan(values[mail]))

    facts = {party: there.facts(party, f"sum-{of}", "match") for party in (SHOP, PAPER)}
    assert facts[SHOP]["size"] == len(common)
    assert facts[SHOP]["sum"] == pytest.approx(expected, abs=1e-9)
    assert "sum" not in facts[PAPER]
    assert facts[PAPER].get("size") == (None if of == "media" else len(common))
    clipped = facts[holder]["clipped"]
    assert clipped == sum(value > cap for mail, value in values.items() if mail)
    assert clipped > 0
    assert not any("clipped" in facts[party] for party in {SHOP, PAPER} - {holder})
    charges = {each.kind: each.amount for each in there.stores[PAPER].charges()}
    assert charges["sums"] >= 1
    for party in (SHOP, PAPER):
        assert not list((there.results(party, f"sum-{of}") / "match").glob("rows*"))
        out = tmp_path / party
        said = there.stage.party(party, "results", f"sum-{of}", "--export", str(out))
        assert (f"{column} adds up to" in said) == (party == SHOP)
        assert (f"{column} adds up to" in (out / "report.html").read_text()) == (party == SHOP)
