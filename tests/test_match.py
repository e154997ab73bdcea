"""Matching: right, quiet below the floor, and closed against a peer or a line that lies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.both_roles import spoken
from tests.test_session import FAULTS, both
from tidegate.protocols.channel import (
    CarrierError,
    Channel,
    ConfigError,
    M,
    Message,
    PeerError,
    PolicyError,
    TidegateError,
)
from tidegate.protocols.ids import Identifiers, normalise
from tidegate.protocols.primitives import group
from tidegate.protocols.primitives.group import GENERATOR, Scalar
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.psi import join, match, oprf_match
from tidegate.protocols.psi.match import ENGINES, MODES, Found, Matched, Positions, Size
from tidegate.protocols.psi.oprf_match import Blinded, Evaluated, Opened, Tokens
from tidegate.protocols.simulate import MemoryChannel, simulate

Role = Callable[[Channel], Any]


def ids(**columns: Sequence[str | None]) -> dict[str, Identifiers]:
    """Identifiers by kind; row numbers are places in the column."""
    return {kind: normalise(kind, texts)[0] for kind, texts in columns.items()}


def roles(
    brand: dict[str, Identifiers],
    media: dict[str, Identifiers],
    *,
    floor: int = 2,
    kinds: tuple[str, ...] | None = None,
    max_rows: int = 10**6,
    seed: bytes | None = None,
    mode: str = "both",
) -> tuple[Role, Role]:
    def drawn(label: bytes) -> Randomness:
        return Randomness.system() if seed is None else Randomness((label + seed).ljust(32, b"\0"))

    common: dict[str, Any] = {
        "engine": ENGINES["oprf"],
        "mode": mode,
        "kinds": kinds or tuple(brand),
        "floor": floor,
        "max_rows": max_rows,
    }
    return (
        lambda channel: match.receiver(channel, brand, randomness=drawn(b"r"), **common),
        lambda channel: match.sender(channel, media, randomness=drawn(b"s"), **common),
    )


def run(brand: dict[str, Identifiers], media: dict[str, Identifiers], **settings: Any) -> tuple[Matched, Matched]:
    return simulate(*roles(brand, media, **settings))


def pairs(brand: Matched, media: Matched) -> list[tuple[int, int]]:
    return sorted(zip(brand.rows.tolist(), media.rows.tolist(), strict=True))


def shape(channel: MemoryChannel) -> list[tuple[str, int]]:
    return [(name, len(data)) for name, data in channel.sent]


def summary(told: Matched) -> tuple[Any, ...]:
    return told.rows.tolist(), told.order.tolist(), told.own, told.peer, told.by_key, told.reached


def people(begin: int, end: int) -> list[str]:
    return [f"person {i}" for i in range(begin, end)]


# The right answer.


PEOPLE = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40)


def columns(people: list[tuple[int, int]], kinds: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """By kind: identifier -> row. 0 is a missing value; of a repeated one the first row stays."""
    return {
        kind: {f"{kind}{row[i]}": n for n, row in reversed(list(enumerate(people))) if row[i]}
        for i, kind in enumerate(kinds)
    }


def entered(column: dict[str, int]) -> Identifiers:
    texts = [name.encode() for name in column]
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    return Identifiers(b"".join(texts), offsets, np.array(list(column.values()), np.int64))


def joined(
    brand: dict[str, dict[str, int]], media: dict[str, dict[str, int]], floor: int
) -> dict[str, list[tuple[int, int]]]:
    """The join in the clear, round by round: by kind the pairs of rows that neither side has matched before."""
    found: dict[str, list[tuple[int, int]]] = {}
    for kind in brand:
        taken = [pair for pairs in found.values() for pair in pairs]
        new = [
            (row, media[kind][name])
            for name, row in brand[kind].items()
            if name in media[kind]
            and row not in {pair[0] for pair in taken}
            and media[kind][name] not in {pair[1] for pair in taken}
        ]
        found[kind] = new if len(new) >= floor else []
    return found


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=60, deadline=None)
@given(PEOPLE, PEOPLE, st.integers(1, 6))
def test_each_is_told_what_a_join_in_rounds_gives_and_what_its_mode_allows(
    mode: str, left: Any, right: Any, floor: int
) -> None:
    kinds = ("device",) if mode == "size" else ("device", "text")
    brand, media = columns(left, kinds), columns(right, kinds)
    found = joined(brand, media, floor)
    sides = [{kind: entered(column) for kind, column in side.items()} for side in (brand, media)]
    if not any(found.values()):
        with pytest.raises(PolicyError):
            run(*sides, floor=floor, mode=mode)
        return
    mine, theirs = run(*sides, floor=floor, mode=mode)
    by_key = {kind: len(pairs) for kind, pairs in found.items()}
    expected = sorted(pair for pairs in found.values() for pair in pairs)
    assert mine.by_key == by_key
    assert mine.size == len(expected)
    assert theirs.by_key == ({} if mode == "brand" else by_key)
    assert mine.reached == theirs.reached == tuple(kind for kind in kinds if by_key[kind])
    assert (mine.own, mine.peer) == (theirs.peer, theirs.own)
    if mode == "both":
        assert pairs(mine, theirs) == expected
    else:
        assert mine.rows.tolist() == ([pair[0] for pair in expected] if mode == "brand" else [])
        assert theirs.rows.tolist() == []
    # One order of everybody at the media, and the brand's own rows in it.
    everybody = {row for column in media.values() for row in column.values()}
    assert sorted(theirs.order.tolist()) == (sorted(everybody) if mode == "brand" else [])
    placed = zip(mine.order.tolist(), theirs.order.tolist(), strict=True)
    assert sorted(pair for pair in placed if pair[0] >= 0) == (expected if mode == "brand" else [])


@pytest.mark.parametrize("size", [63, 64, 65])
def test_sizes_around_a_block_match_like_any_other(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oprf_match, "BLOCK", 64)
    monkeypatch.setattr(oprf_match, "TOKENS", 64)
    brand, media = run(ids(text=people(0, size)), ids(text=people(size // 2, size // 2 + 128)))
    assert pairs(brand, media) == [(row, row - size // 2) for row in range(size // 2, size)]


def test_positions_span_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match, "POSITIONS", 8)
    brand, media = run(ids(text=people(0, 30)), ids(text=people(7, 30 + 14)))
    assert pairs(brand, media) == [(row, row - 7) for row in range(7, 30)]


def test_earlier_kinds_take_precedence_and_a_row_matches_once() -> None:
    brand = ids(phone=["+31612345678", "+31612345679", None], email=["a@x.nl", "b@x.nl", "c@x.nl"])
    media = ids(phone=["+31612345679", "+31612345678", None, None], email=["a@x.nl", "z@x.nl", "b@x.nl", "c@x.nl"])
    mine, theirs = run(brand, media, floor=1)
    assert pairs(mine, theirs) == [(0, 1), (1, 0), (2, 3)]
    assert mine.by_key == {"phone": 2, "email": 1}
    assert mine.own == {"phone": 2, "email": 1}
    assert mine.peer == {"phone": 2, "email": 2}


def test_same_bytes_under_another_kind_do_not_match() -> None:
    with pytest.raises(PolicyError):
        run({"text": ids(text=people(0, 9))["text"]}, {"text": normalise("email", [f"p{i}@x.nl" for i in range(9)])[0]})


@pytest.mark.parametrize("mode", MODES)
def test_both_backends_say_the_same_word_for_word(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transcripts = []
    for native in (group._native, None):
        monkeypatch.setattr(group, "_native", native)
        monkeypatch.setattr(join, "_native", native)
        first, second = roles(ids(text=people(0, 40)), ids(text=people(20, 60)), seed=b"1", mode=mode)
        *_, a, b = asyncio.run(spoken(first, second))
        transcripts.append((a.sent, b.sent))
    assert transcripts[0] == transcripts[1]


@pytest.mark.parametrize("mode", MODES)
def test_result_is_the_same_over_a_sealed_session(mode: str) -> None:
    sides = ids(text=people(0, 40)), ids(text=people(20, 60))
    over_memory = run(*sides, seed=b"1", mode=mode)
    over_session = asyncio.run(both(*roles(*sides, seed=b"1", mode=mode), idle_s=15))
    for memory, session in zip(over_memory, over_session, strict=True):
        assert summary(memory) == summary(session)


# What is seen.


@pytest.mark.parametrize("mode", ["brand", "size"])
def test_shape_tells_sizes_and_whether_the_floor_is_reached_alone(mode: str) -> None:
    """Overlaps of any size over the floor look alike: where nobody may know the number, where all may, its bytes."""
    kinds = ("text",) if mode == "size" else ("text", "email")
    shapes, numbers = [], []
    for overlap in (10, 11, 49):
        names = [f"name {i}" for i in range(100)]
        brand = ids(text=names[:50], email=[f"p{i}@x.nl" for i in range(50)])
        media = ids(text=names[50 - overlap : 100 - overlap], email=[f"p{i}@x.nl" for i in range(30, 80)])
        *_, a, b = asyncio.run(spoken(*roles(brand, media, floor=10, mode=mode, kinds=kinds)))
        shapes.append((shape(a), shape(b)))
        numbers.append([data for name, data in a.sent + b.sent if name in ("Found", "Size")])
    assert shapes[0] == shapes[1] == shapes[2]
    assert mode == "size" or numbers[0] == numbers[1] == numbers[2]
    assert mode == "brand" or "Opened" not in dict(shapes[0][1])
    assert "Positions" not in dict(shapes[0][0])


def test_transcript_has_the_same_shape_for_other_people_of_the_same_sizes() -> None:
    shapes = []
    for shift, name in ((0, "person {}"), (1000, "somebody with a long name {}"), (5, "{}")):
        brand = ids(text=[name.format(i) for i in range(shift, shift + 50)], email=[f"b{i}@x.nl" for i in range(50)])
        media = ids(
            text=[name.format(i) for i in range(shift + 20, shift + 90)], email=[f"m{i}@x.nl" for i in range(70)]
        )
        *_, a, b = asyncio.run(spoken(*roles(brand, media)))
        shapes.append((shape(a), shape(b)))
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("mode", MODES)
def test_below_the_floor_nothing_differs_but_the_number_the_receiver_forgets(mode: str) -> None:
    outcomes = []
    for overlap in (0, 1, 98, 99):
        first, second = roles(
            ids(text=people(0, 150)), ids(text=people(150 - overlap, 300 - overlap)), floor=100, mode=mode
        )
        brand, media, a, b = asyncio.run(spoken(first, second))
        assert isinstance(brand, PolicyError)
        assert isinstance(media, PolicyError)
        outcomes.append((str(brand), brand.hint, str(media), media.hint, shape(a), shape(b), a.sent[-1]))
    assert outcomes.count(outcomes[0]) == len(outcomes)
    assert "Opened" not in dict(b.sent)


def test_at_the_floor_the_seed_is_opened() -> None:
    brand, media = run(ids(text=people(0, 150)), ids(text=people(50, 300)), floor=100)
    assert len(brand.rows) == len(media.rows) == 100


def test_a_set_that_cannot_reach_the_floor_is_not_blinded_at_all() -> None:
    brand, media, a, b = asyncio.run(spoken(*roles(ids(text=people(0, 99)), ids(text=people(0, 999)), floor=100)))
    assert str(brand) == str(media) == "fewer than 100 people matched, so nothing was opened"
    assert [name for name, _ in a.sent + b.sent] == ["Size", "Size"]


def test_a_round_under_the_floor_adds_nobody_and_its_rows_go_on() -> None:
    brand = ids(phone=["+31612345678", *[None] * 9], text=people(0, 10))
    media = ids(phone=["+31612345678", *[None] * 9], text=people(0, 10))
    mine, theirs = run(brand, media, floor=5)
    assert mine.by_key == theirs.by_key == {"phone": 0, "text": 10}
    assert pairs(mine, theirs) == [(row, row) for row in range(10)]


@pytest.mark.parametrize("mode", MODES)
def test_no_run_shares_an_element_or_token_with_an_earlier_one(mode: str) -> None:
    kinds = ("text",) if mode == "size" else ("text", "email")
    seen: set[bytes] = set()
    for _ in range(3):
        brand = ids(text=people(0, 20), email=[f"p{i}@x.nl" for i in range(20)])
        *_, a, b = asyncio.run(spoken(*roles(brand, brand, floor=1, kinds=kinds, mode=mode)))
        # The same people again, in a run that stays under the floor.
        other = ids(text=people(1, 21), email=[f"p{i}@x.nl" for i in range(1, 21)])
        failed, _, c, d = asyncio.run(spoken(*roles(brand, other, floor=20, kinds=kinds, mode=mode)))
        assert isinstance(failed, PolicyError)
        for name, data in a.sent + b.sent + c.sent + d.sent:
            if name in ("Blinded", "Evaluated", "Tokens"):
                width = 12 if name == "Tokens" else 32
                values = {data[at : at + width] for at in range(8, len(data), width)}
                assert not values & seen
                seen |= values


def test_evaluated_elements_do_not_come_in_the_order_of_the_rows() -> None:
    first, second = roles(ids(text=people(0, 200)), ids(text=people(0, 200)), seed=b"1")
    *_, a, b = asyncio.run(spoken(first, second))
    # The randomness of the seeded sender starts with its order, then comes its key.
    drawn = Randomness(b"s1".ljust(32, b"\0"))
    drawn.permutation(200)
    key = Scalar.random(drawn)
    in_order = group.multiply(dict(a.sent)["Blinded"][8:], key)
    came = dict(b.sent)["Evaluated"][8:]
    elements = [in_order[at : at + 32] for at in range(0, len(in_order), 32)]
    order = [elements.index(came[at : at + 32]) for at in range(0, len(came), 32)]
    assert sorted(order) == list(range(200))
    assert sum(place == i for i, place in enumerate(order)) < 10


def test_shared_order_is_not_the_order_of_either_party() -> None:
    brand, media = run(ids(text=people(0, 500)), ids(text=people(0, 500)))
    assert np.count_nonzero(brand.rows == np.arange(500)) < 10
    assert brand.rows.tolist() == media.rows.tolist()


@pytest.mark.parametrize(
    ("receiver_rows", "sender_rows", "expected"),
    [
        (0, 0, 12),
        (100_000, 100_000, 12),
        (10**7, 10**7, 12),
        (10**7, 10**8, 12),
        (10**8, 10**8, 12),
        (10**9, 10**9, 13),
    ],
)
def test_tokens_are_so_long_that_a_false_match_stays_under_2_to_the_minus_40(
    receiver_rows: int, sender_rows: int, expected: int
) -> None:
    length = oprf_match.token_bytes(receiver_rows, sender_rows)
    assert length == expected
    assert receiver_rows * sender_rows / 2 ** (8 * length) < 2**-40


# A lying peer. Each lie changes the n-th message of a kind on its way out.


class LyingChannel:
    """Sends what `lie` makes of each message; the role above it is honest and does not know."""

    def __init__(self, channel: Channel, lie: Callable[[Message], list[Message]]) -> None:
        self.channel, self.lie = channel, lie

    async def send(self, message: Message) -> None:
        for told in self.lie(message):
            await self.channel.send(told)

    async def recv(self, kind: type[M]) -> M:
        return await self.channel.recv(kind)


def lying(role: Role, kind: type[Message], lie: Callable[[Any], list[Message]]) -> Role:
    return lambda channel: role(LyingChannel(channel, lambda m: lie(m) if isinstance(m, kind) else [m]))


def first_blinded(bad: bytes) -> Callable[[Any], list[Message]]:
    return lambda m: [Blinded(with_element(m.elements, bad))]


def first_evaluated(bad: bytes) -> Callable[[Any], list[Message]]:
    return lambda m: [Evaluated(with_element(m.elements, bad))]


def with_element(elements: bytes, element: bytes) -> bytes:
    return element + elements[32:]


def with_one_more(bits: bytes) -> bytes:
    """The same with a mark at the first place that had none."""
    number = int.from_bytes(bits, "little")
    return (number | number + 1).to_bytes(len(bits), "little")


BAD = {"identity": bytes(32), "not an element": b"\xff" * 32, "alias": GENERATOR[:-1] + bytes([GENERATOR[-1] | 0x80])}

RECEIVER_LIES: dict[str, tuple[type[Message], Callable[[Any], list[Message]], str]] = {
    **{name: (Blinded, first_blinded(bad), "group element 0")
       for name, bad in BAD.items()},
    "repeated element": (
        Blinded, lambda m: [Blinded(with_element(m.elements, m.elements[32:64]))], "twice"),
    "one element less": (Blinded, lambda m: [Blinded(m.elements[32:])], "were expected"),
    "one element more": (Blinded, lambda m: [Blinded(m.elements + GENERATOR)], "were expected"),
    "cut element": (Blinded, lambda m: [Blinded(m.elements[:-1])], "were expected"),
    "more rows than its data set": (Size, lambda _: [Size(101)], "enters 101 rows"),
    "absurd rows": (Size, lambda _: [Size(2**64 - 1)], "by the contract"),
    "blinded sent twice": (Blinded, lambda m: [m, m], "Found was expected, Blinded came"),
    "found under the floor": (Found, lambda _: [Found(1)], "were possible"),
    "found more than there are": (Found, lambda _: [Found(41)], "were possible"),
    "found more than marked": (Found, lambda m: [Found(m.rows + 1)], "and marked"),
    "positions too short": (Positions, lambda m: [Positions(m.bits[1:])], "positions"),
    "positions too long": (Positions, lambda m: [Positions(m.bits + b"\0")], "positions"),
    "positions beyond the end": (
        Positions, lambda m: [Positions(m.bits[:-1] + bytes([m.bits[-1] | 0x80]))], "after the last"),
    "marks somebody else too": (Positions, lambda m: [Positions(with_one_more(m.bits))], "and marked"),
}  # fmt: skip

SENDER_LIES: dict[str, tuple[type[Message], Callable[[Any], list[Message]], str]] = {
    **{name: (Evaluated, first_evaluated(bad), "group element 0")
       for name, bad in BAD.items()},
    "repeated element": (
        Evaluated, lambda m: [Evaluated(with_element(m.elements, m.elements[32:64]))], "twice"),
    "same element for all": (
        Evaluated, lambda m: [Evaluated(GENERATOR * (len(m.elements) // 32))], "twice"),
    "one element less": (Evaluated, lambda m: [Evaluated(m.elements[32:])], "were expected"),
    "one element more": (Evaluated, lambda m: [Evaluated(m.elements + GENERATOR)], "were expected"),
    "repeated token": (Tokens, lambda m: [Tokens(m.tokens[:12] + m.tokens[:-12])], "twice"),
    "one token less": (Tokens, lambda m: [Tokens(m.tokens[12:])], "were expected"),
    "one token more": (Tokens, lambda m: [Tokens(m.tokens + bytes(12))], "were expected"),
    "more rows than its data set": (Size, lambda _: [Size(101)], "enters 101 rows"),
    "short seed": (Opened, lambda m: [Opened(m.seed[1:])], "the seed"),
    "tokens before elements": (Evaluated, lambda m: [Tokens(m.elements)], "Evaluated was expected"),
}  # fmt: skip


@pytest.mark.parametrize("lie", RECEIVER_LIES)
def test_lying_receiver_is_refused(lie: str) -> None:
    kind, change, words = RECEIVER_LIES[lie]
    first, second = roles(ids(text=people(0, 40)), ids(text=people(20, 61)), floor=5, max_rows=100)
    _, media, _, b = asyncio.run(spoken(lying(first, kind, change), second))
    assert isinstance(media, PeerError)
    assert words in str(media)
    assert "Opened" not in dict(b.sent)


@pytest.mark.parametrize("lie", SENDER_LIES)
def test_lying_sender_is_refused(lie: str) -> None:
    kind, change, words = SENDER_LIES[lie]
    first, second = roles(ids(text=people(0, 40)), ids(text=people(20, 61)), floor=5, max_rows=100)
    brand, *_ = asyncio.run(spoken(first, lying(second, kind, change)))
    assert isinstance(brand, PeerError)
    assert words in str(brand)


def test_evaluated_under_another_key_matches_nobody() -> None:
    first, second = roles(ids(text=people(0, 40)), ids(text=people(0, 40)), floor=5)
    other = lying(second, Evaluated, lambda m: [Evaluated(group.multiply(m.elements, Scalar(2)))])
    brand, media, *_ = asyncio.run(spoken(first, other))
    assert isinstance(brand, PolicyError)
    assert isinstance(media, PolicyError)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep", range(6))
def test_peer_that_goes_away_ends_the_run(keep: int, mode: str) -> None:
    for lost in (0, 1):
        sides = list(roles(ids(text=people(0, 40)), ids(text=people(20, 61)), floor=5, mode=mode))
        sent = 0

        def cut(message: Message) -> list[Message]:
            nonlocal sent
            sent += 1
            if sent > keep:
                raise CarrierError("gone")
            return [message]

        honest = sides[lost]
        sides[lost] = lambda channel, role=honest: role(LyingChannel(channel, cut))
        outcomes = asyncio.run(spoken(*sides))
        left, right = outcomes[lost], outcomes[1 - lost]
        if isinstance(left, CarrierError):
            # Who has all it needs before the last message may be done; its result is thrown away with the run.
            assert isinstance(right, CarrierError | Matched)


def test_a_key_that_is_not_at_hand_is_a_configuration_error() -> None:
    brand, *_ = asyncio.run(spoken(*roles(ids(text=["a"]), ids(text=["a"]), kinds=("email",))))
    assert isinstance(brand, ConfigError)


def test_in_mode_brand_a_receiver_that_says_how_many_is_refused() -> None:
    first, second = roles(ids(text=people(0, 40)), ids(text=people(20, 61)), floor=5, mode="brand")
    _, media, _, b = asyncio.run(spoken(lying(first, Found, lambda m: [Found(m.rows + 1)]), second))
    assert isinstance(media, PeerError)
    assert "5 to 5 were possible" in str(media)
    assert "Opened" not in dict(b.sent)


@pytest.mark.parametrize("rows", [1, 4, 41])
def test_in_mode_size_a_number_that_cannot_be_is_refused(rows: int) -> None:
    first, second = roles(ids(text=people(0, 40)), ids(text=people(20, 61)), floor=5, mode="size")
    _, media, _, _ = asyncio.run(spoken(lying(first, Found, lambda _: [Found(rows)]), second))
    assert isinstance(media, PeerError)


def test_in_mode_brand_a_sender_enters_as_many_rows_in_each_round() -> None:
    both_kinds = ids(text=people(0, 40), email=[f"p{i}@x.nl" for i in range(40)])
    first, second = roles(both_kinds, both_kinds, floor=5, mode="brand")
    sizes = iter([40, 39])
    brand, *_ = asyncio.run(spoken(first, lying(second, Size, lambda _: [Size(next(sizes))])))
    assert isinstance(brand, PeerError)
    assert "as many in each round" in str(brand)


# Mode brand: one secret order over all rounds.


def test_in_mode_brand_a_row_of_the_media_matches_once() -> None:
    """The media's person 0 has the phone of the brand's row 0 and the address of its row 1."""
    brand = ids(phone=["+31612345678", None, None], email=[None, "a@x.nl", "b@x.nl"])
    media = ids(phone=["+31612345678", None], email=["a@x.nl", "b@x.nl"])
    found, told = run(brand, media, floor=1, mode="brand")
    assert found.rows.tolist() == [0, 2]
    assert found.by_key == {"phone": 1, "email": 1}
    assert told.reached == ("phone", "email")


def test_in_mode_brand_a_match_at_a_taken_position_does_not_reach_the_floor() -> None:
    brand = ids(phone=["+31612345678", None], email=[None, "a@x.nl"])
    media = ids(phone=["+31612345678"], email=["a@x.nl"])
    found, told = run(brand, media, floor=1, mode="brand")
    assert found.rows.tolist() == [0]
    assert told.reached == ("phone",)


def test_in_mode_brand_neither_size_tells_how_many_have_matched() -> None:
    """Both enter as many rows in the second round whether the first has matched 5 or all of them."""
    sizes = []
    for overlap in (5, 20):
        brand = ids(text=people(0, 20), email=[f"p{i}@x.nl" for i in range(20)])
        media = ids(text=people(20 - overlap, 40 - overlap), email=[f"p{i}@x.nl" for i in range(20)])
        *_, a, b = asyncio.run(spoken(*roles(brand, media, floor=5, mode="brand")))
        sizes.append([data for name, data in a.sent + b.sent if name == "Size"])
    assert sizes[0] == sizes[1]


# A broken network. The session that carries the frames must turn every fault into a typed error.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", [*FAULTS, "swap", "delay"])
def test_a_fault_on_any_frame_gives_a_typed_error_or_the_right_answer(fault: str, mode: str) -> None:
    sides = ids(text=people(0, 6)), ids(text=people(2, 9))
    right = run(*sides, seed=b"1", mode=mode)
    counted = {"brand": 0, "media": 0}

    def count(sender: str, number: int, frame: bytes) -> list[bytes]:
        counted[sender] = number + 1
        return [frame]

    asyncio.run(both(*roles(*sides, seed=b"1", mode=mode), relay=count))
    for name, frames in counted.items():
        for at in range(frames):
            held: list[bytes] = []

            def lie(
                sender: str, number: int, frame: bytes, name: str = name, at: int = at, held: Any = held
            ) -> list[bytes]:
                if (sender, number) == (name, at) and fault in ("swap", "delay"):
                    held.append(frame)
                    return []
                if sender == name and held:
                    return [frame, held.pop()] if fault == "swap" else [held.pop(), frame]
                return FAULTS[fault](frame) if (sender, number) == (name, at) else [frame]

            outcomes = asyncio.run(both(*roles(*sides, seed=b"1", mode=mode), relay=lie, idle_s=0.1))
            for outcome, told in zip(outcomes, right, strict=True):
                assert isinstance(outcome, TidegateError) or summary(outcome) == summary(told)
