"""Matching: right, quiet below the floor, and closed against a peer or a line that lies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from tidegate.protocols.psi import match
from tidegate.protocols.psi.match import Alignment
from tidegate.protocols.simulate import MemoryChannel, memory_line, simulate

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
) -> tuple[Role, Role]:
    def drawn(label: bytes) -> Randomness:
        return Randomness.system() if seed is None else Randomness((label + seed).ljust(32, b"\0"))

    common: dict[str, Any] = {"kinds": kinds or tuple(brand), "floor": floor, "max_rows": max_rows}
    return (
        lambda channel: match.receiver(channel, brand, randomness=drawn(b"r"), **common),
        lambda channel: match.sender(channel, media, randomness=drawn(b"s"), **common),
    )


def run(brand: dict[str, Identifiers], media: dict[str, Identifiers], **settings: Any) -> tuple[Alignment, Alignment]:
    return simulate(*roles(brand, media, **settings))


def pairs(brand: Alignment, media: Alignment) -> list[tuple[int, int]]:
    return sorted(zip(brand.rows.tolist(), media.rows.tolist(), strict=True))


async def spoken(first: Role, second: Role) -> tuple[Any, Any, MemoryChannel, MemoryChannel]:
    """What each role ended with, its result or its error, and the channels with all they sent."""
    a, b = memory_line()

    async def outcome(role: Role, channel: MemoryChannel) -> Any:
        try:
            return await role(channel)
        except TidegateError as error:
            return error
        finally:
            await channel.close()

    left, right = await asyncio.wait_for(asyncio.gather(outcome(first, a), outcome(second, b)), 20)
    return left, right, a, b


def shape(channel: MemoryChannel) -> list[tuple[str, int]]:
    return [(name, len(data)) for name, data in channel.sent]


def people(begin: int, end: int) -> list[str]:
    return [f"person {i}" for i in range(begin, end)]


# The right answer.


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40),
    st.integers(1, 6),
)
def test_both_learn_exactly_what_a_join_in_rounds_gives(left: Any, right: Any, floor: int) -> None:
    def columns(people: list[tuple[int, int]]) -> dict[str, dict[str, int]]:
        # 0 is a missing value; of a repeated one the first row stays.
        return {
            kind: {f"{kind}{row[i]}": n for n, row in reversed(list(enumerate(people))) if row[i]}
            for i, kind in enumerate(("device", "text"))
        }

    def identifiers(column: dict[str, int], kind: str) -> Identifiers:
        texts = [name.encode() for name in column]
        offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
        return Identifiers(b"".join(texts), offsets, np.array(list(column.values()), np.int64))

    brand, media = columns(left), columns(right)
    expected: list[tuple[int, int]] = []
    for kind in ("device", "text"):
        found = [
            (row, media[kind][name])
            for name, row in brand[kind].items()
            if name in media[kind]
            and row not in {pair[0] for pair in expected}
            and media[kind][name] not in {pair[1] for pair in expected}
        ]
        expected += found if len(found) >= floor else []
    sides = [{kind: identifiers(column, kind) for kind, column in side.items()} for side in (brand, media)]
    if expected:
        mine, theirs = run(*sides, floor=floor)
        assert pairs(mine, theirs) == sorted(expected)
        assert mine.matched == theirs.matched
        assert (mine.own, mine.peer) == (theirs.peer, theirs.own)
    else:
        with pytest.raises(PolicyError):
            run(*sides, floor=floor)


@pytest.mark.parametrize("size", [match.BLOCK - 1, match.BLOCK, match.BLOCK + 1])
def test_sizes_around_a_block_match_like_any_other(size: int) -> None:
    brand, media = run(ids(text=people(0, size)), ids(text=people(size // 2, size // 2 + 2 * match.BLOCK)))
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
    assert mine.matched == {"phone": 2, "email": 1}
    assert mine.own == {"phone": 2, "email": 1}
    assert mine.peer == {"phone": 2, "email": 2}


def test_same_bytes_under_another_kind_do_not_match() -> None:
    with pytest.raises(PolicyError):
        run({"text": ids(text=people(0, 9))["text"]}, {"text": normalise("email", [f"p{i}@x.nl" for i in range(9)])[0]})


def test_both_backends_say_the_same_word_for_word(monkeypatch: pytest.MonkeyPatch) -> None:
    transcripts = []
    for native in (group._native, None):
        monkeypatch.setattr(group, "_native", native)
        first, second = roles(ids(text=people(0, 40)), ids(text=people(20, 60)), seed=b"1")
        *_, a, b = asyncio.run(spoken(first, second))
        transcripts.append((a.sent, b.sent))
    assert transcripts[0] == transcripts[1]


def test_result_is_the_same_over_a_sealed_session() -> None:
    sides = ids(text=people(0, 40)), ids(text=people(20, 60))
    over_memory = run(*sides, seed=b"1")
    over_session = asyncio.run(both(*roles(*sides, seed=b"1")))
    for memory, session in zip(over_memory, over_session, strict=True):
        assert memory.rows.tolist() == session.rows.tolist()
        assert (memory.own, memory.peer, memory.matched) == (session.own, session.peer, session.matched)


# What is seen.


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


def test_below_the_floor_nothing_differs_but_the_number_the_receiver_forgets() -> None:
    outcomes = []
    for overlap in (0, 1, 98, 99):
        first, second = roles(ids(text=people(0, 150)), ids(text=people(150 - overlap, 300 - overlap)), floor=100)
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
    assert mine.matched == theirs.matched == {"phone": 0, "text": 10}
    assert pairs(mine, theirs) == [(row, row) for row in range(10)]


def test_no_run_shares_an_element_or_token_with_an_earlier_one() -> None:
    seen: set[bytes] = set()
    for _ in range(3):
        brand = ids(text=people(0, 20), email=[f"p{i}@x.nl" for i in range(20)])
        *_, a, b = asyncio.run(spoken(*roles(brand, brand, floor=1, kinds=("text", "email"))))
        *_, c, d = asyncio.run(spoken(*roles(brand, brand, floor=21, kinds=("text", "email"))))
        for name, data in a.sent + b.sent + c.sent + d.sent:
            if name in ("Blinded", "Evaluated", "Tokens"):
                width = 12 if name == "Tokens" else 32
                values = {data[at : at + width] for at in range(8, len(data), width)}
                assert not values & seen
                seen |= values


def test_evaluated_elements_do_not_come_in_the_order_of_the_rows() -> None:
    first, second = roles(ids(text=people(0, 200)), ids(text=people(0, 200)), seed=b"1")
    *_, a, b = asyncio.run(spoken(first, second))
    # The randomness of the seeded sender starts with its key.
    key = Scalar.random(Randomness(b"s1".ljust(32, b"\0")))
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
    length = match.token_bytes(receiver_rows, sender_rows)
    assert length == expected
    assert receiver_rows * sender_rows / 2 ** (8 * length) < 2**-40


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30), st.integers(8, 40))
def test_equal_pairs_joins_all_equal_items_and_no_others(values: list[int], width: int) -> None:
    # Values differ in their last byte alone, or in their first, so heads are mostly shared.
    items = np.zeros((len(values), width), np.uint8)
    for i, value in enumerate(values):
        items[i, -1 if value % 2 else 0] = value
    first, second = match.equal_pairs(items)
    assert len(first) == len(values) - len(set(values))
    assert all(i < j and values[i] == values[j] for i, j in zip(first.tolist(), second.tolist(), strict=True))
    assert len(set(second.tolist())) == len(second)


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
    return lambda m: [match.Blinded(with_element(m.elements, bad))]


def first_evaluated(bad: bytes) -> Callable[[Any], list[Message]]:
    return lambda m: [match.Evaluated(with_element(m.elements, bad))]


def with_element(elements: bytes, element: bytes) -> bytes:
    return element + elements[32:]


BAD = {"identity": bytes(32), "not an element": b"\xff" * 32, "alias": GENERATOR[:-1] + bytes([GENERATOR[-1] | 0x80])}

RECEIVER_LIES: dict[str, tuple[type[Message], Callable[[Any], list[Message]], str]] = {
    **{name: (match.Blinded, first_blinded(bad), "group element 0")
       for name, bad in BAD.items()},
    "repeated element": (
        match.Blinded, lambda m: [match.Blinded(with_element(m.elements, m.elements[32:64]))], "twice"),
    "one element less": (match.Blinded, lambda m: [match.Blinded(m.elements[32:])], "were expected"),
    "one element more": (match.Blinded, lambda m: [match.Blinded(m.elements + GENERATOR)], "were expected"),
    "cut element": (match.Blinded, lambda m: [match.Blinded(m.elements[:-1])], "were expected"),
    "more rows than its data set": (match.Size, lambda _: [match.Size(101)], "enters 101 rows"),
    "absurd rows": (match.Size, lambda _: [match.Size(2**64 - 1)], "by the contract"),
    "blinded sent twice": (match.Blinded, lambda m: [m, m], "Found was expected, Blinded came"),
    "found under the floor": (match.Found, lambda _: [match.Found(1)], "were possible"),
    "found more than there are": (match.Found, lambda _: [match.Found(41)], "were possible"),
    "found more than marked": (match.Found, lambda m: [match.Found(m.rows + 1)], "and marked"),
    "positions too short": (match.Positions, lambda m: [match.Positions(m.bits[1:])], "positions"),
    "positions too long": (match.Positions, lambda m: [match.Positions(m.bits + b"\0")], "positions"),
    "positions beyond the end": (
        match.Positions, lambda m: [match.Positions(m.bits[:-1] + bytes([m.bits[-1] | 0x80]))], "after the last"),
    "marks somebody else too": (match.Positions, lambda m: [match.Positions(b"\xff" + m.bits[1:])], "and marked"),
}  # fmt: skip

SENDER_LIES: dict[str, tuple[type[Message], Callable[[Any], list[Message]], str]] = {
    **{name: (match.Evaluated, first_evaluated(bad), "group element 0")
       for name, bad in BAD.items()},
    "repeated element": (
        match.Evaluated, lambda m: [match.Evaluated(with_element(m.elements, m.elements[32:64]))], "twice"),
    "same element for all": (
        match.Evaluated, lambda m: [match.Evaluated(GENERATOR * (len(m.elements) // 32))], "twice"),
    "one element less": (match.Evaluated, lambda m: [match.Evaluated(m.elements[32:])], "were expected"),
    "one element more": (match.Evaluated, lambda m: [match.Evaluated(m.elements + GENERATOR)], "were expected"),
    "repeated token": (match.Tokens, lambda m: [match.Tokens(m.tokens[:12] + m.tokens[:-12])], "twice"),
    "one token less": (match.Tokens, lambda m: [match.Tokens(m.tokens[12:])], "were expected"),
    "one token more": (match.Tokens, lambda m: [match.Tokens(m.tokens + bytes(12))], "were expected"),
    "more rows than its data set": (match.Size, lambda _: [match.Size(101)], "enters 101 rows"),
    "short seed": (match.Opened, lambda m: [match.Opened(m.seed[1:])], "the seed"),
    "tokens before elements": (match.Evaluated, lambda m: [match.Tokens(m.elements)], "Evaluated was expected"),
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
    other = lying(second, match.Evaluated, lambda m: [match.Evaluated(group.multiply(m.elements, Scalar(2)))])
    brand, media, *_ = asyncio.run(spoken(first, other))
    assert isinstance(brand, PolicyError)
    assert isinstance(media, PolicyError)


@pytest.mark.parametrize("keep", range(6))
def test_peer_that_goes_away_ends_the_run(keep: int) -> None:
    for lost in (0, 1):
        sides = list(roles(ids(text=people(0, 40)), ids(text=people(20, 61)), floor=5))
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
            assert isinstance(right, CarrierError | Alignment)


def test_two_rows_with_one_identifier_are_a_configuration_error() -> None:
    twice = ids(text=["anna", "bert", "anna", "carl"])
    for first, second in (roles(twice, ids(text=people(0, 5))), roles(ids(text=people(0, 5)), twice)):
        outcomes = asyncio.run(spoken(first, second))
        assert sum(isinstance(outcome, ConfigError) and "the same text" in str(outcome) for outcome in outcomes) == 1


def test_a_key_that_is_not_at_hand_is_a_configuration_error() -> None:
    brand, *_ = asyncio.run(spoken(*roles(ids(text=["a"]), ids(text=["a"]), kinds=("email",))))
    assert isinstance(brand, ConfigError)


# A broken network. The session that carries the frames must turn every fault into a typed error.


@pytest.mark.parametrize("fault", [*FAULTS, "swap", "delay"])
def test_a_fault_on_any_frame_gives_a_typed_error_or_the_right_answer(fault: str) -> None:
    sides = ids(text=people(0, 6)), ids(text=people(2, 9))
    expected = [(row, row - 2) for row in range(2, 6)]
    counted = {"brand": 0, "media": 0}

    def count(sender: str, number: int, frame: bytes) -> list[bytes]:
        counted[sender] = number + 1
        return [frame]

    asyncio.run(both(*roles(*sides), relay=count))
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

            brand, media = asyncio.run(both(*roles(*sides), relay=lie, idle_s=0.1))
            for outcome in (brand, media):
                assert isinstance(outcome, Alignment | TidegateError)
            if isinstance(brand, Alignment) and isinstance(media, Alignment):
                assert pairs(brand, media) == expected
