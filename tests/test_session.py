"""Two workers over a line in memory that a liar holds: the right answer or a typed error, never a hang."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.protocols.channel import CarrierError, Channel, DisagreementError, Message, PeerError, TidegateError
from tidegate.wire.identity import Identity
from tidegate.wire.seal import MAX_FRAME_BYTES
from tidegate.wire.session import Session, open_session

BRAND, MEDIA, STRANGER = (Identity.generate(name) for name in ("brand", "media", "stranger"))
CONTRACT, RUN = os.urandom(32), os.urandom(16)
Filter = Callable[[str, int, bytes], list[bytes]]


@dataclass(frozen=True)
class Question(Message):
    words: str
    number: int


@dataclass(frozen=True)
class Answer(Message):
    MAX_BYTES: ClassVar[int] = 64 * 2**20

    blob: bytes


class MemoryFrames:
    """One end of a line in memory. `relay` sees each frame with its direction and number and says what goes on."""

    def __init__(self, name: str, relay: Filter) -> None:
        self.name, self.relay = name, relay
        self.number = 0
        self.incoming: asyncio.Queue[bytes | None] = asyncio.Queue(8)
        self.largest = 0
        self.peer: MemoryFrames

    async def send(self, frame: bytes) -> None:
        self.largest = max(self.largest, len(frame))
        number, self.number = self.number, self.number + 1
        for passed in self.relay(self.name, number, frame):
            await self.peer.incoming.put(passed)

    async def recv(self) -> bytes:
        frame = await self.incoming.get()
        if frame is None:
            self.incoming.put_nowait(None)
            raise CarrierError("the other worker went away")
        return frame

    async def end(self) -> None:
        """The other side learns that this one is gone, even when it has not read what came before."""
        if self.peer.incoming.full():
            self.peer.incoming.get_nowait()
        self.peer.incoming.put_nowait(None)


def honest(_name: str, _number: int, frame: bytes) -> list[bytes]:
    return [frame]


async def both(
    brand_role: Callable[[Session], Awaitable[Any]],
    media_role: Callable[[Session], Awaitable[Any]],
    *,
    relay: Filter = honest,
    idle_s: float = 10.0,
    brand: dict[str, Any] | None = None,
    media: dict[str, Any] | None = None,
) -> tuple[Any, Any]:
    """What each side ends with: its role's result, or the error it met."""
    brand_line, media_line = MemoryFrames("brand", relay), MemoryFrames("media", relay)
    brand_line.peer, media_line.peer = media_line, brand_line

    async def side(line: MemoryFrames, terms: dict[str, Any], role: Callable[[Session], Awaitable[Any]]) -> Any:
        same = {"contract_hash": CONTRACT, "run": RUN, "step": 1, "inputs": {"match": "00ff"}, "software": "1.0"}
        try:
            return await role(await open_session(line, **{**same, "idle_s": idle_s, **terms}))
        except TidegateError as error:
            return error
        finally:
            await line.end()

    brand_terms = {"me": BRAND, "peer_identity": MEDIA.public, "my_name": "brand", "peer_name": "media"}
    media_terms = {"me": MEDIA, "peer_identity": BRAND.public, "my_name": "media", "peer_name": "brand"}
    return tuple(
        await asyncio.wait_for(
            asyncio.gather(
                side(brand_line, {**brand_terms, **(brand or {})}, brand_role),
                side(media_line, {**media_terms, **(media or {})}, media_role),
            ),
            timeout=20,
        )
    )


async def ask(session: Session) -> tuple[int, bytes]:
    await session.send(Question("how many?", 7))
    first = await session.recv(Answer)
    second = await session.recv(Answer)
    await session.send(Question("thanks", 0))
    return len(first.blob) + len(second.blob), await session.finish()


async def tell(session: Session) -> tuple[int, bytes]:
    question = await session.recv(Question)
    await session.send(Answer(b"x" * question.number))
    await session.send(Answer(b"y" * 2 * MAX_FRAME_BYTES))
    thanks = await session.recv(Question)
    return question.number + thanks.number, await session.finish()


FRAMES = {"brand": 6, "media": 8}  # hello, answer, inputs, the role's (the second answer takes three), end


def test_both_sides_finish_with_the_same_digest_and_another_in_another_run() -> None:
    (told, digest), (asked, same) = asyncio.run(both(ask, tell))
    assert (told, asked, digest) == (7 + 2 * MAX_FRAME_BYTES, 7, same)
    assert asyncio.run(both(ask, tell))[0][1] != digest


def test_frame_counts_are_those_that_the_fault_tests_walk_through() -> None:
    seen = {"brand": 0, "media": 0}

    def count(name: str, _number: int, frame: bytes) -> list[bytes]:
        seen[name] += 1
        assert len(frame) <= MAX_FRAME_BYTES
        return [frame]

    asyncio.run(both(ask, tell, relay=count))
    assert seen == FRAMES


def flip(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]


FAULTS: dict[str, Callable[[bytes], list[bytes]]] = {
    "flip the first byte": lambda frame: [flip(frame, 0)],
    "flip a byte in the middle": lambda frame: [flip(frame, len(frame) // 2)],
    "flip the last byte": lambda frame: [flip(frame, len(frame) - 1)],
    "drop": lambda _frame: [],
    "repeat": lambda frame: [frame, frame],
    "cut": lambda frame: [frame[:-1]],
    "empty": lambda _frame: [b""],
    "lengthen": lambda frame: [frame + b"\0"],
    "make up": lambda frame: [os.urandom(len(frame))],
    "put one before": lambda frame: [b"tidegate hello v1", frame],
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FRAMES)
def test_a_fault_on_any_frame_gives_a_typed_error_or_the_right_answer(fault: str, name: str) -> None:
    for at in range(FRAMES[name]):

        def lie(sender: str, number: int, frame: bytes, at: int = at) -> list[bytes]:
            return FAULTS[fault](frame) if (sender, number) == (name, at) else [frame]

        brand, media = asyncio.run(both(ask, tell, relay=lie, idle_s=0.2))
        victim = media if name == "brand" else brand
        # What is repeated does harm one place later, and nothing follows the last frame.
        harmed = at + (fault == "repeat")
        if harmed < FRAMES[name]:
            assert isinstance(victim, CarrierError | DisagreementError), (fault, name, at)
        for result in (brand, media):
            if not isinstance(result, TidegateError):
                assert harmed >= FRAMES[name] - 1, "only a fault in the last frame may escape its sender"
                assert result[0] in (7, 7 + 2 * MAX_FRAME_BYTES)


@pytest.mark.parametrize("name", FRAMES)
def test_two_frames_in_the_wrong_order_are_refused(name: str) -> None:
    for at in range(FRAMES[name] - 1):
        held: list[bytes] = []

        def swap(sender: str, number: int, frame: bytes, at: int = at, held: list[bytes] = held) -> list[bytes]:
            if (sender, number) == (name, at):
                held.append(frame)
                return []
            return [frame, *held] if (sender, number) == (name, at + 1) else [frame]

        brand, media = asyncio.run(both(ask, tell, relay=swap, idle_s=0.2))
        assert isinstance(media if name == "brand" else brand, CarrierError)


def test_a_frame_from_an_earlier_run_is_refused_at_every_place() -> None:
    recorded: dict[tuple[str, int], bytes] = {}

    def record(name: str, number: int, frame: bytes) -> list[bytes]:
        recorded[name, number] = frame
        return [frame]

    asyncio.run(both(ask, tell, relay=record))
    for place, old in recorded.items():

        def replay(sender: str, number: int, frame: bytes, place: Any = place, old: bytes = old) -> list[bytes]:
            return [old] if (sender, number) == place else [frame]

        brand, media = asyncio.run(both(ask, tell, relay=replay, idle_s=0.2))
        assert isinstance(media if place[0] == "brand" else brand, CarrierError), place


@pytest.mark.parametrize("at", range(6))
def test_a_reflected_frame_is_refused(at: int) -> None:
    lines: dict[str, bytes] = {}

    async def run() -> Any:
        def reflect(sender: str, number: int, frame: bytes) -> list[bytes]:
            if number == at:
                lines[sender] = frame
                other = "media" if sender == "brand" else "brand"
                return [lines[other]] if other in lines else []
            return [frame]

        return await both(ask, tell, relay=reflect, idle_s=0.2)

    assert any(isinstance(result, CarrierError) for result in asyncio.run(run()))


def test_a_late_frame_changes_nothing() -> None:
    async def slowly(session: Session) -> Any:
        await asyncio.sleep(0.05)
        return await ask(session)

    (count, digest), (_, same) = asyncio.run(both(slowly, tell))
    assert (count, digest) == (7 + 2 * MAX_FRAME_BYTES, same)


@pytest.mark.parametrize("name", FRAMES)
def test_a_side_that_falls_silent_ends_the_other_after_the_idle_time(name: str) -> None:
    def hold(sender: str, number: int, frame: bytes) -> list[bytes]:
        return [frame] if sender != name or number < 4 else []

    brand, media = asyncio.run(both(ask, tell, relay=hold, idle_s=0.1))
    assert isinstance(media if name == "brand" else brand, CarrierError)


@pytest.mark.parametrize(
    ("terms", "word"),
    [
        ({"contract_hash": bytes(32)}, "contract"),
        ({"run": bytes(16)}, "run"),
        ({"step": 2}, "step"),
        ({"software": "2.0"}, "version"),
        ({"inputs": {"match": "ff00"}}, "another run of match"),
        ({"inputs": {}}, "another run of match"),
        ({"inputs": {"match": "00ff", "train": "aa"}}, "another run of train"),
    ],
)
def test_sides_that_mean_different_things_say_which(terms: dict[str, Any], word: str) -> None:
    for result in asyncio.run(both(ask, tell, media=terms)):
        assert isinstance(result, DisagreementError)
        assert word in result.text


def test_another_identity_than_the_pinned_one_is_refused_and_named() -> None:
    brand, media = asyncio.run(both(ask, tell, media={"me": STRANGER}))
    assert isinstance(brand, DisagreementError)
    assert "another identity key" in brand.text
    assert isinstance(media, CarrierError)


def test_a_coordinator_in_the_middle_with_keys_of_its_own_gets_nowhere() -> None:
    """It would answer the brand as media, under a key that the brand has never pinned."""
    brand, _ = asyncio.run(both(ask, tell, media={"me": STRANGER, "peer_identity": BRAND.public}))
    assert isinstance(brand, DisagreementError)


async def say(session: Session, *messages: Message) -> Any:
    for message in messages:
        await session.send(message)
    return await session.finish()


async def hear(session: Session, *kinds: type[Message]) -> Any:
    heard = [await session.recv(kind) for kind in kinds]
    return heard, await session.finish()


@pytest.mark.parametrize(
    ("sent", "expected", "text"),
    [
        ([Answer(b"x")], [Question], "sent Answer, Question was expected"),
        ([], [Question], "ended its role"),
        ([Question("a", 1), Question("b", 2)], [Question], "goes on after"),
        ([Answer(b"x" * (4 * 2**20 + 1))], [type("Answer", (Message,), {})], "at most 4194304 are allowed"),
    ],
)
def test_a_message_out_of_turn_or_too_large_is_refused(sent: Any, expected: Any, text: str) -> None:
    _, media = asyncio.run(both(lambda session: say(session, *sent), lambda session: hear(session, *expected)))
    assert isinstance(media, PeerError)
    assert text in media.text


def test_a_side_that_ends_before_reading_all_is_found_out_at_both_ends() -> None:
    brand, media = asyncio.run(both(lambda session: say(session, Question("a", 1)), lambda session: session.finish()))
    assert isinstance(brand, PeerError)
    assert isinstance(media, PeerError)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x09",
        b"\x01",
        b"\x01\xff",
        b"\x01\x08Question",
        b"\x01\x08Question" + bytes(4),
        b"\x01\x08Question" + (3).to_bytes(8, "little") + b"four",
        b"\x01\x08Question" + (2**63).to_bytes(8, "little"),
        b"\x01\x08\xff\x1b[2Jxxx" + bytes(8),
        b"\x02more",
        b"\x00{}",
        b"\x03short",
    ],
)
def test_a_lying_peer_that_holds_the_keys_gets_a_typed_error(content: bytes) -> None:
    async def lie(session: Session) -> None:
        await session._line.send(session._sealed.outgoing.seal(content))

    _, media = asyncio.run(both(lie, lambda session: hear(session, Question)))
    assert isinstance(media, PeerError)
    assert media.text.isprintable()


def test_a_message_is_refused_before_more_of_it_than_one_frame_is_kept() -> None:
    async def flood(session: Session) -> None:
        head = b"\x01\x08Question" + (2**40).to_bytes(8, "little")
        await session._line.send(session._sealed.outgoing.seal(head))
        for _ in range(5):
            await session._line.send(session._sealed.outgoing.seal(b"\x02" + bytes(2**19)))

    async def run() -> Any:
        line_left: list[int] = []

        async def listen(session: Session) -> None:
            try:
                await session.recv(Question)
            finally:
                line_left.append(session.bytes_received)

        _, media = await both(flood, listen)
        return media, line_left[0]

    media, received = asyncio.run(run())
    assert isinstance(media, PeerError)
    assert received < 20_000


@pytest.mark.parametrize(("again", "kind"), [(False, PeerError), (True, CarrierError)])
def test_an_abort_tells_the_other_side_why(again: bool, kind: type[TidegateError]) -> None:
    async def give_up(session: Session) -> None:
        await session.recv(Question)
        await session.abort("fewer than 100 people match\x1b[31m\n", again=again)

    brand, _ = asyncio.run(both(ask, give_up))
    assert type(brand) is kind
    assert brand.text == "media stopped: fewer than 100 people match [31m"


def test_a_role_that_only_sends_still_learns_why_the_other_side_stopped() -> None:
    async def give_up(session: Session) -> None:
        await session.abort("the budget is spent")

    async def pour(session: Session) -> None:
        broken = session._line

        class Broken:
            async def send(self, frame: bytes) -> None:
                raise CarrierError("the other worker went away")

            async def recv(self) -> bytes:
                return await broken.recv()

        session._line = Broken()
        await session.send(Answer(b"x"))

    brand, _ = asyncio.run(both(pour, give_up))
    assert isinstance(brand, PeerError)
    assert "the budget is spent" in brand.text


def test_after_a_failure_every_call_fails_in_the_same_way() -> None:
    async def insist(session: Session) -> list[TidegateError]:
        errors: list[TidegateError] = []
        for call in (lambda: session.recv(Question), lambda: session.recv(Question), lambda: session.send(Answer(b""))):
            with pytest.raises(PeerError) as caught:
                await call()
            errors.append(caught.value)
        return errors

    errors, _ = asyncio.run(both(insist, lambda session: say(session, Answer(b"x"))))
    assert len({error.text for error in errors}) == 1


def test_an_interrupted_send_is_followed_by_nothing() -> None:
    """What left before the interruption is unknown, so a later frame could not be opened."""

    async def interrupted(session: Session) -> int:
        sending = asyncio.create_task(session.send(Answer(b"z" * 32 * 2**20)))
        await asyncio.sleep(0.05)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        before = session._line.number  # type: ignore[attr-defined]
        await session.abort("stopping")
        return session._line.number - before  # type: ignore[attr-defined,no-any-return]

    async def idle(session: Session) -> None:
        await asyncio.sleep(0.2)

    brand, _ = asyncio.run(both(interrupted, idle))
    assert brand == 0


def test_counters_are_the_bytes_of_all_frames_both_ways() -> None:
    carried = {"brand": 0, "media": 0}

    def weigh(name: str, _number: int, frame: bytes) -> list[bytes]:
        carried[name] += len(frame)
        return [frame]

    async def run(role: Callable[[Session], Awaitable[Any]], session: Session) -> tuple[int, int]:
        await role(session)
        return session.bytes_sent, session.bytes_received

    brand, media = asyncio.run(both(lambda s: run(ask, s), lambda s: run(tell, s), relay=weigh))
    assert brand == (carried["brand"], carried["media"])
    assert media == brand[::-1]


def test_progress_hears_of_every_message_once() -> None:
    heard: list[tuple[str, str, int]] = []
    asyncio.run(both(ask, tell, brand={"on_message": lambda *what: heard.append(what)}))
    answers = [("received", "Answer", 8 + size) for size in (7, 2 * MAX_FRAME_BYTES)]
    assert heard == [("sent", "Question", 25), *answers, ("sent", "Question", 22)]


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 3 * MAX_FRAME_BYTES), max_size=4))
def test_messages_of_any_size_arrive_whole_and_in_order(sizes: list[int]) -> None:
    blobs = [os.urandom(min(size, 100)) + bytes(max(0, size - 100)) for size in sizes]

    async def listen(channel: Channel) -> list[bytes]:
        return [(await channel.recv(Answer)).blob for _ in blobs]

    _, heard = asyncio.run(both(lambda session: say(session, *map(Answer, blobs)), lambda s: finish_after(s, listen)))
    assert heard == blobs


async def finish_after(session: Session, role: Callable[[Channel], Awaitable[list[bytes]]]) -> list[bytes]:
    result = await role(session)
    await session.finish()
    return result
