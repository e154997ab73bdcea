"""Matching in epoch mode: right over a whole epoch, frugal, and closed against a peer or a line that lies."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.both_roles import spoken
from tests.canaries import Needles
from tests.test_session import FAULTS, both
from tidegate.protocols.channel import Channel, ConfigError, M, Message, PeerError, PolicyError, TidegateError
from tidegate.protocols.ids import Identifiers, normalise
from tidegate.protocols.primitives import group
from tidegate.protocols.primitives.group import GENERATOR, Scalar
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.psi import epoch, oprf, token_lists
from tidegate.protocols.psi.epoch import Held, Key, Refreshed
from tidegate.protocols.psi.token_lists import Bytes, IntArray, places, rising_order, token_bytes
from tidegate.protocols.simulate import MemoryChannel

Role = Callable[[Channel], Any]


def ids(*people: int | None) -> Identifiers:
    """Identifiers of these people; row numbers are places in the list."""
    return normalise("text", [None if person is None else f"person {person}" for person in people])[0]


@dataclass
class Set:
    """A media's tokens in memory, and the sets before it."""

    tokens: Bytes
    rows: IntArray
    version: bytes
    earlier: tuple[Set, ...] = ()

    def since(self, version: bytes) -> tuple[Bytes, Bytes] | None:
        for one in self.earlier:
            if one.version == version:
                return self.tokens[places(self.tokens, one.tokens) < 0], one.tokens[places(one.tokens, self.tokens) < 0]
        return None


def made(people: Identifiers, key: Key, *earlier: Set) -> Set:
    tokens = epoch.tokens_of(people, key)
    order = rising_order(tokens)
    return Set(tokens[order], people.rows[order], token_lists.digest(tokens[order]), earlier)


def new_key(width: int = 12) -> Key:
    return Key(b"an epoch's name.", Scalar.random(Randomness(b"k" * 32)), width)


@dataclass
class Table:
    """Both sides over an epoch: what the brand keeps, what was charged."""

    key: Key = field(default_factory=new_key)
    held: dict[str, Held] = field(default_factory=dict)
    charged: list[int] = field(default_factory=list)
    prefix_bits: int = 0
    floor: int = 1
    max_rows: int = 10**6

    def roles(self, brand: dict[str, Identifiers], media: dict[str, Set]) -> tuple[Role, Role]:
        same: dict[str, Any] = {"kinds": tuple(brand), "floor": self.floor, "max_rows": self.max_rows}
        same["prefix_bits"] = self.prefix_bits
        for kind in brand:
            self.held.setdefault(kind, Held(b"only the brand has these 32 byte"))
        return (
            lambda channel: epoch.receiver(channel, brand, self.held, randomness=Randomness(b"r" * 32), **same),
            lambda channel: epoch.sender(channel, self.key, media, charge=self.charged.append, **same),
        )

    def run(
        self, brand: dict[str, Identifiers], media: dict[str, Set]
    ) -> tuple[Any, Any, MemoryChannel, MemoryChannel]:
        return asyncio.run(spoken(*self.roles(brand, media)))


def pairs(brand: Refreshed, media: Refreshed) -> list[tuple[int, int]]:
    return sorted(zip(brand.rows.tolist(), media.rows.tolist(), strict=True))


def shape(channel: MemoryChannel) -> list[tuple[str, int]]:
    return [(name, len(data)) for name, data in channel.sent]


def total(channel: MemoryChannel) -> int:
    return sum(len(data) for _, data in channel.sent)


# The right answer.


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=30),
            st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=30),
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 5),
    st.sampled_from([0, 0, 1, 3]),
)
def test_every_run_of_an_epoch_gives_what_a_join_in_rounds_gives(campaigns: Any, floor: int, bits: int) -> None:
    """Data sets change from run to run, and what the brand kept and the media's differences change nothing of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epoch, "LEAST_SHARD", 0)
        there = Table(floor=floor, prefix_bits=bits)
        before: dict[str, tuple[Set, ...]] = {"device": (), "text": ()}
        for left, right in campaigns:
            brand, media = columns(left), columns(right)
            sets = {kind: made(entered(media[kind]), there.key, *before[kind]) for kind in media}
            before = {kind: (*before[kind], sets[kind]) for kind in sets}
            expected = joined(brand, media, floor)
            mine, theirs, *_ = there.run({kind: entered(column) for kind, column in brand.items()}, sets)
            if expected:
                assert pairs(mine, theirs) == sorted(expected)
                assert (mine.matched, mine.own, mine.peer) == (theirs.matched, theirs.peer, theirs.own)
                assert (mine.asked, mine.added, mine.removed) == (theirs.asked, theirs.added, theirs.removed)
            else:
                assert isinstance(mine, PolicyError)
                assert isinstance(theirs, PolicyError)


def columns(people: list[tuple[int, int]]) -> dict[str, dict[str, int]]:
    """By kind: identifier -> row. 0 is a missing value; of a repeated one the first row stays."""
    return {
        kind: {f"{kind}{row[i]}": n for n, row in reversed(list(enumerate(people))) if row[i]}
        for i, kind in enumerate(("device", "text"))
    }


def entered(column: dict[str, int]) -> Identifiers:
    data, offsets = oprf.ragged([name.encode() for name in column])
    return Identifiers(data, offsets, np.array(list(column.values()), np.int64))


def joined(brand: dict[str, dict[str, int]], media: dict[str, dict[str, int]], floor: int) -> list[tuple[int, int]]:
    """The join in the clear: a round counts whose candidates and whose rows are both at the floor."""
    expected: list[tuple[int, int]] = []
    for kind in brand:
        mine = {name: row for name, row in brand[kind].items() if row not in {pair[0] for pair in expected}}
        if min(len(mine), len(media[kind])) < floor:
            continue
        candidates = [(row, media[kind][name]) for name, row in mine.items() if name in media[kind]]
        free = [pair for pair in candidates if pair[1] not in {pair[1] for pair in expected}]
        expected += free if len(free) >= floor else []
    return expected


def test_tokens_are_the_first_bytes_of_the_standards_function() -> None:
    key, people = new_key(), ids(1, 2, 3)
    expected = [output[:12] for output in oprf.evaluate(list(people), key.scalar)]
    assert [row.tobytes() for row in epoch.tokens_of(people, key)] == expected


@pytest.mark.parametrize("size", [epoch.BLOCK - 1, epoch.BLOCK, 5 * epoch.BLOCK + 1])
def test_sizes_around_a_block_match_like_any_other(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "LIST_BLOCK", 1000)
    monkeypatch.setattr(epoch, "PIECE", 777)
    monkeypatch.setattr(token_lists, "PIECE", 777)
    monkeypatch.setattr(epoch, "POSITIONS", 64)
    there = Table()
    some = made(ids(*range(0, size, 7)), there.key)
    brand, media, *_ = there.run({"text": ids(*range(size))}, {"text": some})
    assert pairs(brand, media) == [(row, row // 7) for row in range(0, size, 7)]
    more = made(ids(*range(0, size, 5)), there.key, some)
    brand, media, *_ = there.run({"text": ids(*range(size))}, {"text": more})
    assert pairs(brand, media) == [(row, row // 5) for row in range(0, size, 5)]
    assert brand.asked == {"text": 0}


def test_both_backends_say_the_same_word_for_word(monkeypatch: pytest.MonkeyPatch) -> None:
    transcripts = []
    for native in (group._native, None):
        monkeypatch.setattr(group, "_native", native)
        there = Table()
        *_, a, b = there.run({"text": ids(*range(40))}, {"text": made(ids(*range(20, 60)), there.key)})
        transcripts.append((a.sent, b.sent, there.held["text"].names.tobytes()))
    assert transcripts[0] == transcripts[1]


def test_result_is_the_same_over_a_sealed_session() -> None:
    outcomes = []
    for carry in (spoken, functools.partial(both, idle_s=15)):
        there = Table()
        roles = there.roles({"text": ids(*range(40))}, {"text": made(ids(*range(20, 60)), there.key)})
        brand, media = asyncio.run(carry(*roles))[:2]
        outcomes.append((brand.rows.tolist(), media.rows.tolist()))
    assert outcomes[0] == outcomes[1]


def test_shared_order_is_not_the_order_of_either_party() -> None:
    there = Table()
    brand, media, *_ = there.run({"text": ids(*range(500))}, {"text": made(ids(*range(500)), there.key)})
    assert np.count_nonzero(brand.rows == np.arange(500)) < 10
    assert brand.rows.tolist() == media.rows.tolist()


@pytest.mark.parametrize(
    ("receiver_rows", "sender_rows", "expected"),
    [(0, 0, 12), (10**6, 10**8, 12), (10**8, 10**8, 12), (10**9, 10**9, 13)],
)
def test_tokens_are_so_long_that_a_false_match_stays_under_2_to_the_minus_40(
    receiver_rows: int, sender_rows: int, expected: int
) -> None:
    length = token_bytes(receiver_rows, sender_rows)
    assert length == expected
    assert receiver_rows * sender_rows / 2 ** (8 * length) < 2**-40


# What a run costs.


def test_a_second_run_asks_and_moves_only_what_is_new() -> None:
    there = Table()
    first = made(ids(*range(5000)), there.key)
    _, _, a, b = there.run({"text": ids(*range(1000))}, {"text": first})
    assert there.charged == [1000]
    whole = total(b)
    second = made(ids(*range(100, 5030)), there.key, first)
    brand, media, a, b = there.run({"text": ids(*range(1010))}, {"text": second})
    assert there.charged == [1000, 10]
    assert (brand.asked, brand.added, brand.removed) == ({"text": 10}, {"text": 30}, {"text": 100})
    assert pairs(brand, media) == [(row, row - 100) for row in range(100, 1010)]
    # 10 elements, 130 tokens, 910 bits; the rest is lengths and digests.
    assert total(b) < 10 * 32 + 130 * 12 + 910 // 8 + 400 < whole / 30
    assert total(a) < 10 * 32 + 910 * 4 + 200
    third = made(ids(*range(100, 5030)), there.key, second)
    brand, media, a, b = there.run({"text": ids(*range(1010))}, {"text": third})
    assert (brand.asked, brand.added, brand.removed) == ({"text": 0}, {"text": 0}, {"text": 0})
    assert there.charged == [1000, 10]
    assert "Blinded" not in dict(a.sent)


def test_a_list_that_the_media_has_forgotten_comes_whole() -> None:
    there = Table()
    there.run({"text": ids(*range(50))}, {"text": made(ids(*range(60)), there.key)})
    brand, *_ = there.run({"text": ids(*range(50))}, {"text": made(ids(*range(5, 70)), there.key)})
    assert brand.added == {"text": 65}
    assert len(brand.rows) == 45


def test_another_key_makes_the_brand_forget() -> None:
    there = Table()
    there.run({"text": ids(*range(50))}, {"text": made(ids(*range(60)), there.key)})
    there.key = Key(b"the next epoch's", Scalar.random(Randomness(b"n" * 32)), 12)
    brand, *_ = there.run({"text": ids(*range(50))}, {"text": made(ids(*range(60)), there.key)})
    assert brand.asked == {"text": 50}
    assert brand.added == {"text": 60}
    assert len(brand.rows) == 50


def test_by_prefix_only_the_shards_of_the_brands_people_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "LEAST_SHARD", 10)
    there = Table(prefix_bits=6)
    first = made(ids(*range(2000)), there.key)
    brand, media, *_ = there.run({"text": ids(1, 2, 3, 4)}, {"text": first})
    assert pairs(brand, media) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert 0 < brand.added["text"] < 250
    held = there.held["text"]
    assert set(token_lists.prefixes(held.tokens, 6)) == set(token_lists.prefixes(held.evaluated, 6))
    # One more person: its shard comes whole, of the others only the difference.
    second = made(ids(*range(1, 2000)), there.key, first)
    brand, media, *_ = there.run({"text": ids(1, 2, 3, 4, 5)}, {"text": second})
    assert pairs(brand, media) == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]
    assert brand.added["text"] < 60


def test_prefixes_of_which_one_would_hold_few_tokens_are_refused_by_both() -> None:
    there = Table(prefix_bits=2)
    brand, media, a, _ = there.run({"text": ids(*range(9))}, {"text": made(ids(*range(3999)), there.key)})
    assert isinstance(brand, PolicyError)
    assert isinstance(media, PolicyError)
    assert "prefix_bits = 1" in media.hint
    assert a.sent == []


def test_a_spent_budget_ends_the_run_before_anything_is_answered() -> None:
    there = Table()
    first, _ = there.roles({"text": ids(*range(40))}, {})

    def refuse(amount: int) -> None:
        raise PolicyError(f"{amount} are too many")

    _, media, _, b = asyncio.run(
        spoken(
            first,
            lambda channel: epoch.sender(
                channel,
                there.key,
                {"text": made(ids(*range(40)), there.key)},
                kinds=("text",),
                floor=1,
                max_rows=99,
                prefix_bits=0,
                charge=refuse,
            ),
        )
    )
    assert str(media) == "40 are too many"
    assert [name for name, _ in b.sent] == ["Epoch"]


# What is seen.


def test_transcript_has_the_same_shape_for_other_people_of_the_same_sizes() -> None:
    shapes = []
    for begin in (0, 1000, 77777):
        there = Table(floor=5)
        first = made(ids(*range(begin + 20, begin + 90)), there.key)
        *_, a, b = there.run({"text": ids(*range(begin, begin + 50))}, {"text": first})
        second = made(ids(*range(begin + 25, begin + 91)), there.key, first)
        *_, c, d = there.run({"text": ids(*range(begin + 3, begin + 51))}, {"text": second})
        shapes.append((shape(a), shape(b), shape(c), shape(d)))
    assert shapes[0] == shapes[1] == shapes[2]


def test_below_the_floor_the_media_learns_no_number_and_nobody_gets_a_result() -> None:
    outcomes = []
    for overlap in (0, 1, 99):
        there = Table(floor=100)
        brand, media, a, b = there.run(
            {"text": ids(*range(150))}, {"text": made(ids(*range(150 - overlap, 350 - overlap)), there.key)}
        )
        assert isinstance(brand, PolicyError)
        outcomes.append((str(brand), str(media), shape(a), shape(b), a.sent[-1]))
    assert outcomes.count(outcomes[0]) == len(outcomes)


def test_a_set_that_cannot_reach_the_floor_is_not_asked_for_at_all() -> None:
    there = Table(floor=100)
    brand, media, a, b = there.run({"text": ids(*range(99))}, {"text": made(ids(*range(999)), there.key)})
    assert str(brand) == str(media) == "fewer than 100 people matched, so no result is kept"
    assert [name for name, _ in a.sent + b.sent] == ["Asking", "Epoch"]
    assert there.charged == []


def test_no_message_holds_an_identifier_or_its_hash() -> None:
    there, needles = Table(), Needles()
    people = [normalise("text", [f"{kind} person {i}" for i in range(40)])[0] for kind in ("some", "some")]
    *_, a, b = there.run({"text": people[0]}, {"text": made(people[1], there.key)})
    for identifier in people[0]:
        needles.add_text(identifier.decode())
        needles.add_text(identifier.partition(b"\0")[2].decode())
    assert needles.within(b"some person 3 as one would find it")
    assert not needles.within(b"".join(data for _, data in a.sent + b.sent))
    kept = there.held["text"]
    assert not needles.within(kept.names.tobytes() + kept.evaluated.tobytes() + kept.tokens.tobytes())


def test_no_run_repeats_a_blinded_element() -> None:
    seen: set[bytes] = set()
    for drawn in (b"1" * 32, b"2" * 32):
        there = Table()
        _, second = there.roles({"text": ids(*range(40))}, {"text": made(ids(*range(40)), there.key)})

        def first(channel: Channel, drawn: bytes = drawn, there: Table = there) -> Any:
            return epoch.receiver(
                channel,
                {"text": ids(*range(40))},
                there.held,
                kinds=("text",),
                floor=1,
                max_rows=99,
                prefix_bits=0,
                randomness=Randomness(drawn),
            )

        *_, a, _ = asyncio.run(spoken(first, second))
        data = dict(a.sent)["Blinded"][8:]
        elements = {data[at : at + 32] for at in range(0, len(data), 32)}
        assert len(elements) == 40
        assert not elements & seen
        seen |= elements


# A lying peer. Each lie changes the messages of a kind on their way out.


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


def changed(message: Any, **fields: Any) -> list[Message]:
    return [type(message)(**{**vars(message), **fields})]


def with_first(element: bytes) -> Callable[[Any], list[Message]]:
    return lambda m: changed(m, elements=element + m.elements[32:])


BAD = {"identity": bytes(32), "not an element": b"\xff" * 32, "alias": GENERATOR[:-1] + bytes([GENERATOR[-1] | 0x80])}

RECEIVER_LIES: dict[str, tuple[type[Message], Callable[[Any], list[Message]], str]] = {
    **{name: (epoch.Blinded, with_first(bad), "group element 0") for name, bad in BAD.items()},
    "repeated element": (epoch.Blinded, lambda m: changed(m, elements=m.elements[32:64] + m.elements[32:]), "twice"),
    "one element less": (epoch.Blinded, lambda m: changed(m, elements=m.elements[32:]), "were expected"),
    "one element more": (epoch.Blinded, lambda m: changed(m, elements=m.elements + GENERATOR), "were expected"),
    "more rows than its data set": (epoch.Asking, lambda m: changed(m, rows=101), "enters 101 rows"),
    "asks for more than it enters": (epoch.Asking, lambda m: changed(m, new=41), "asks for 41"),
    "asks below the floor": (epoch.Asking, lambda m: changed(m, rows=4), "asks for 40"),
    "wants nothing": (epoch.Holding, lambda m: changed(m, wanted=b"\0"), "wants no token"),
    "wants beyond the end": (epoch.Holding, lambda m: changed(m, wanted=b"\x03"), "after the last"),
    "wants too many bits": (epoch.Holding, lambda m: changed(m, wanted=b"\1\0"), "wanted prefixes"),
    "holds a strange version": (epoch.Holding, lambda m: changed(m, version=b"x"), "without a name"),
    "found under the floor": (epoch.Found, lambda m: changed(m, rows=1), "were possible"),
    "found more than there are": (epoch.Found, lambda m: changed(m, rows=41), "were possible"),
    "positions too short": (epoch.Positions, lambda m: changed(m, places=m.places[4:]), "positions"),
    "positions repeat": (epoch.Positions, lambda m: changed(m, places=m.places[4:8] + m.places[4:]), "do not rise"),
    "positions beyond the end": (
        epoch.Positions, lambda m: changed(m, places=m.places[:-4] + (41).to_bytes(4, "little")), "past the last"),
}  # fmt: skip

SENDER_LIES: dict[str, tuple[type[Message], Callable[[Any], list[Message]], str]] = {
    **{name: (epoch.Evaluated, with_first(bad), "group element 0") for name, bad in BAD.items()},
    "one element less": (epoch.Evaluated, lambda m: changed(m, elements=m.elements[32:]), "were expected"),
    "more tokens than rows": (epoch.Epoch, lambda m: changed(m, tokens=101), "101 tokens"),
    "short tokens": (epoch.Epoch, lambda m: changed(m, width=11), "tokens of 12 to 32"),
    "absurd tokens": (epoch.Epoch, lambda m: changed(m, width=2**40), "tokens of 12 to 32"),
    "long name": (epoch.Epoch, lambda m: changed(m, key=m.key + b"x"), "key's name"),
    "fewer than it said": (epoch.Change, lambda m: changed(m, tokens=40, added=40), "does not lead"),
    "counts that do not add up": (epoch.Change, lambda m: changed(m, added=42), "does not lead"),
    "removes what was never held": (epoch.Change, lambda m: changed(m, removed=1, added=42), "does not lead"),
    "changes what was never held": (epoch.Change, lambda m: changed(m, kept=1), "never held"),
    "wrong digest": (epoch.Change, lambda m: changed(m, digest=bytes(32)), "another digest"),
    "wrong digest twice": (epoch.Change, lambda m: changed(m, digest=bytes(32), version=bytes(32)), "do not have"),
    "short digest": (epoch.Change, lambda m: changed(m, digest=b""), "does not lead"),
    "unsorted tokens": (epoch.Added, lambda m: changed(m, tokens=m.tokens[12:24] + m.tokens[:12] + m.tokens[24:]),
                        "do not rise"),
    "repeated token": (epoch.Added, lambda m: changed(m, tokens=m.tokens[:12] + m.tokens[:-12]), "do not rise"),
    "one token less": (epoch.Added, lambda m: changed(m, tokens=m.tokens[12:]), "were expected"),
    "one token more": (epoch.Added, lambda m: changed(m, tokens=m.tokens + bytes(12)), "were expected"),
    "another token": (epoch.Added, lambda m: changed(m, tokens=bytes(12) + m.tokens[12:]), "do not have the digest"),
    "free bits beyond the end": (epoch.Free, lambda m: changed(m, bits=m.bits[:-1] + b"\xff"), "after the last"),
    "free bits too few": (epoch.Free, lambda m: changed(m, bits=m.bits[1:]), "the free rows"),
}  # fmt: skip


@pytest.mark.parametrize("lie", RECEIVER_LIES)
def test_lying_receiver_is_refused(lie: str) -> None:
    kind, change, words = RECEIVER_LIES[lie]
    there = Table(floor=5, max_rows=100)
    first, second = there.roles({"text": ids(*range(40))}, {"text": made(ids(*range(20, 61)), there.key)})
    _, media, *_ = asyncio.run(spoken(lying(first, kind, change), second))
    assert isinstance(media, PeerError)
    assert words in str(media)


@pytest.mark.parametrize("lie", SENDER_LIES)
def test_lying_sender_is_refused_and_nothing_of_its_list_is_kept(lie: str) -> None:
    kind, change, words = SENDER_LIES[lie]
    there = Table(floor=5, max_rows=100)
    first, second = there.roles({"text": ids(*range(40))}, {"text": made(ids(*range(20, 61)), there.key)})
    brand, *_ = asyncio.run(spoken(first, lying(second, kind, change)))
    assert isinstance(brand, PeerError)
    assert words in str(brand)
    if kind is not epoch.Free:
        assert there.held["text"].version == b""
        assert len(there.held["text"].tokens) == 0


UPDATE_LIES: dict[str, tuple[type[Message], Callable[[Any], list[Message]], str]] = {
    "removes a stranger": (epoch.Removed, lambda m: changed(m, tokens=bytes(12) + m.tokens[12:]), "not held here"),
    "removes one twice": (epoch.Removed, lambda m: changed(m, tokens=m.tokens[:12] + m.tokens[:12]), "do not rise"),
    "adds what is held": (epoch.Added, lambda m: m, "comes twice"),
    "forgets what was held": (epoch.Change, lambda m: changed(m, kept=0), "does not lead"),
}


@pytest.mark.parametrize("lie", UPDATE_LIES)
def test_a_bad_difference_leaves_the_list_that_was_held(lie: str) -> None:
    kind, change, words = UPDATE_LIES[lie]
    there = Table(floor=5, max_rows=100)
    before = made(ids(*range(20, 61)), there.key)
    there.run({"text": ids(*range(40))}, {"text": before})
    after = made(ids(*range(22, 63)), there.key, before)
    if lie == "adds what is held":
        stays = after.tokens[places(after.tokens, before.tokens) >= 0][:2]
        change = lambda m: changed(m, tokens=stays.tobytes())  # noqa: E731 - one of a table of functions
    first, second = there.roles({"text": ids(*range(40))}, {"text": after})
    brand, *_ = asyncio.run(spoken(first, lying(second, kind, change)))
    assert isinstance(brand, PeerError)
    assert words in str(brand)
    assert there.held["text"].version == before.version
    brand, media, *_ = there.run({"text": ids(*range(40))}, {"text": after})
    assert pairs(brand, media) == [(row, row - 22) for row in range(22, 40)]
    assert brand.added == {"text": 2}


def test_tokens_of_a_prefix_that_was_not_asked_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "LEAST_SHARD", 1)
    there = Table(prefix_bits=2)
    some = made(ids(*range(100)), there.key)
    first, second = there.roles({"text": ids(7)}, {"text": some})
    (asked,) = token_lists.prefixes(epoch.tokens_of(ids(7), there.key), 2).tolist()
    (stranger, *_) = np.flatnonzero(token_lists.prefixes(some.tokens, 2) != asked).tolist()

    def swapped(m: epoch.Added) -> list[Message]:
        mixed = np.concatenate([np.frombuffer(m.tokens, np.uint8).reshape(-1, 12)[1:], some.tokens[stranger][None]])
        return changed(m, tokens=mixed[rising_order(mixed)].tobytes())

    brand, *_ = asyncio.run(spoken(first, lying(second, epoch.Added, swapped)))
    assert isinstance(brand, PeerError)
    assert "was not asked for" in str(brand)


def test_answers_under_another_key_match_nobody() -> None:
    there = Table(floor=5)
    first, second = there.roles({"text": ids(*range(40))}, {"text": made(ids(*range(40)), there.key)})
    other = lying(second, epoch.Evaluated, lambda m: changed(m, elements=group.multiply(m.elements, Scalar(2))))
    brand, media, *_ = asyncio.run(spoken(first, other))
    assert isinstance(brand, PolicyError)
    assert isinstance(media, PolicyError)


def test_two_rows_with_one_identifier_are_a_configuration_error() -> None:
    there = Table()
    brand, *_ = there.run({"text": ids(1, 2, 1)}, {"text": made(ids(1), there.key)})
    assert isinstance(brand, ConfigError)


# A broken network. The session that carries the frames must turn every fault into a typed error.


@pytest.mark.parametrize("fault", [*FAULTS, "swap", "delay"])
def test_a_fault_on_any_frame_gives_a_typed_error_or_the_right_answer(fault: str) -> None:
    expected = [(row, row - 2) for row in range(2, 6)]
    counted = {"brand": 0, "media": 0}

    def sides() -> tuple[Role, Role]:
        there = Table()
        return there.roles({"text": ids(*range(6))}, {"text": made(ids(*range(2, 9)), there.key)})

    def count(sender: str, number: int, frame: bytes) -> list[bytes]:
        counted[sender] = number + 1
        return [frame]

    asyncio.run(both(*sides(), relay=count))
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

            brand, media = asyncio.run(both(*sides(), relay=lie, idle_s=0.1))
            for outcome in (brand, media):
                assert isinstance(outcome, Refreshed | TidegateError)
            if isinstance(brand, Refreshed) and isinstance(media, Refreshed):
                assert pairs(brand, media) == expected


# Sorted lists.


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=30), st.lists(st.integers(0, 9), max_size=30))
def test_places_finds_all_and_nothing_else_also_where_heads_are_shared(left: list[int], right: list[int]) -> None:
    def listed(values: list[int]) -> Bytes:
        # Odd values differ in their last byte alone, even ones in their first.
        items = np.zeros((len(set(values)), 12), np.uint8)
        for i, value in enumerate(set(values)):
            items[i, -1 if value % 2 else 0] = value
        return items[rising_order(items)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_lists, "PIECE", 3)
        some, others = listed(left), listed(right)
        assert token_lists.is_rising(some)
        found = places(some, others)
        texts = [token.tobytes() for token in others]
        assert found.tolist() == [texts.index(token.tobytes()) if token.tobytes() in texts else -1 for token in some]
