"""The apps of horizontal training: one sum, one model, the same at all; whoever cheats or leaves is found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.broken_line import FAULTS
from tests.canaries import Needles
from tests.pools import Pool, dealt, kmeans_pool, logistic_pool, names_of, people
from tidegate.protocols.channel import CarrierError, Channel, DisagreementError, PeerError, PolicyError, TidegateError
from tidegate.protocols.horizontal import logistic, pooling
from tidegate.protocols.horizontal.flower_grid import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Instruction,
    RecordDict,
    Reply,
    decode,
    encode,
)
from tidegate.protocols.horizontal.task import Outcome, Question, Site, scaled
from tidegate.protocols.primitives.fixed_point import FloatArray

X, Y, RANGES = people(1500)


def pool(shops: int = 3, **settings: Any) -> Pool:
    return logistic_pool(X, Y, RANGES, dealt(len(X), shops), **{"rounds": 6, **settings})


def _theta(outcome: Outcome) -> FloatArray:
    return outcome.model["theta"]


def test_hidden_sums_and_open_ones_give_the_same_model_and_everybody_the_same() -> None:
    hidden, at_shops = pool().play()
    in_the_clear, _ = pool(secure=False).play()
    without_keys, _ = pool(secure=False, keys=False).play()
    assert np.allclose(_theta(hidden), _theta(in_the_clear), atol=1e-6)
    assert np.array_equal(_theta(without_keys), _theta(in_the_clear))
    for outcome in at_shops.values():
        assert np.allclose(_theta(outcome), _theta(hidden), rtol=1e-9)
        assert outcome.curves == hidden.curves


def test_curves_have_a_number_a_round() -> None:
    outcome, _ = pool().play()
    assert len(outcome.curves["loss"]) == outcome.rounds - (not outcome.converged)
    assert np.all(np.diff(outcome.curves["loss"]) < 1e-9)
    assert outcome.curves["auc"][0] == 0.5
    assert outcome.curves["auc"][-1] > 0.7


# The coordinator's view


class Seen:
    """A coordinator that does as it should and keeps all that it is sent."""

    def __init__(self) -> None:
        self.replies: list[tuple[str, RecordDict]] = []

    async def __call__(self, channels: Mapping[str, Channel]) -> Outcome:
        seen = self

        class Kept:
            def __init__(self, name: str, line: Channel) -> None:
                self._name, self._line = name, line

            async def send(self, message: Any) -> None:
                await self._line.send(message)

            async def recv(self, kind: Any) -> Any:
                message = await self._line.recv(kind)
                seen.replies.append((self._name, decode(message.content)))
                return message

        return await pooling.coordinate({name: Kept(name, line) for name, line in channels.items()})


def _values(content: RecordDict) -> np.ndarray[Any, Any]:
    return content["answer"]["values"].numpy()  # type: ignore[union-attr]


def test_the_coordinator_sees_sums_and_uniform_words_and_no_part_of_them() -> None:
    seen = Seen()
    there = pool()
    there.play(coordinate=seen)
    answers = [(name, _values(content)) for name, content in seen.replies if "answer" in content]
    assert {name for name, _ in answers} == set(names_of(3))
    words = np.concatenate([values for _, values in answers])
    assert words.dtype == np.uint64
    # Each bit of a masked word is a coin; 64 of them, a thousand and more words: none is off by six deviations.
    bits = np.unpackbits(words.view(np.uint8)).reshape(len(words), 64).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 6 * 0.5 / np.sqrt(len(words))
    said = {key for _, content in seen.replies for key in content}
    assert said == {"terms", "answer", "signed"}


def test_no_row_and_no_label_is_on_a_line() -> None:
    marked = X.copy()
    marked[:3] = [[1.2345678901234567 + i + j for j in range(4)] for i in range(3)]
    there = logistic_pool(marked, Y, RANGES, dealt(len(X), 3), rounds=3)
    there.play()
    needles = Needles()
    needles.add_numbers(marked[:3])
    needles.add_numbers(scaled(marked[:3], RANGES))
    for line in (*there.at_shops.values(), *there.at_coordinator.values()):
        for _, data in line.sent:
            assert not needles.within(data)


@pytest.mark.parametrize("app", ["logistic", "kmeans"])
def test_what_travels_has_a_shape_that_depends_on_the_settings_only(app: str) -> None:
    def shape(seed: int) -> dict[str, list[tuple[str, int]]]:
        x, y, ranges = people(1500, seed=seed)
        rows = dealt(len(x), 3)
        there = (
            logistic_pool(x, y, ranges, rows, rounds=3)
            if app == "logistic"
            else kmeans_pool(x, ranges, rows, k=2, rounds=2)
        )
        there.play()
        lines = {name: [(kind, len(data)) for kind, data in line.sent] for name, line in there.at_shops.items()}
        return lines | {
            "to " + name: [(k, len(d)) for k, d in line.sent] for name, line in there.at_coordinator.items()
        }

    assert shape(1) == shape(2)


# Refused before a number leaves


def test_two_holders_are_refused_with_the_reason() -> None:
    there = pool(3)
    two = dict(list(there.sites.items())[:2])
    for name in two:
        there.change(name, cohort=tuple(two), member=None)
    there.sites = {name: there.sites[name] for name in two}
    ended = there.play_out()
    assert isinstance(ended["shop-00"], PolicyError)
    assert "each gets the other's part" in ended["shop-00"].text
    assert all(isinstance(each, TidegateError) for each in ended.values())


def test_a_holder_of_one_row_is_refused_with_the_reason() -> None:
    there = pool()
    settings = there.sites["shop-00"].task
    assert isinstance(settings, logistic.Settings)
    one = logistic.Holder(X[:1], Y[:1], X[:0], Y[:0], ranges=RANGES, settings=settings)
    there.change("shop-00", part=one)
    ended = there.play_out()
    assert isinstance(ended["shop-00"], PolicyError)
    assert "fewer rows than the 50" in ended["shop-00"].text
    assert not [each for each in ended.values() if isinstance(each, Outcome)]
    assert there.at_shops["shop-00"].sent == []


def test_an_update_of_one_row_is_the_row_which_is_why_few_rows_are_refused() -> None:
    settings = logistic.Settings(4, least_rows=2)
    question = Question("train", {"theta": np.array([0.3, -0.2, 0.1, 0.4, 0.2])}, 0)
    one = logistic.Holder(X[:1], Y[:1], X[:1], Y[:1], ranges=RANGES, settings=settings).answer(question)
    many = logistic.Holder(X[:1000], Y[:1000], X[:1], Y[:1], ranges=RANGES, settings=settings).answer(question)
    rows = scaled(X[:1000], RANGES)
    assert np.allclose(one[3:7] / one[2], rows[0])
    assert np.abs(many[3:7] / many[2] - rows).max(axis=1).min() > 1e-3


def test_a_robust_mean_of_fewer_than_five_is_refused() -> None:
    ended = pool(3, secure=False, robust=1).play_out()
    assert isinstance(ended["shop-00"], PolicyError)


def test_holders_that_mean_different_contracts_do_not_start() -> None:
    there = pool()
    there.change("shop-01", terms=bytes(32))
    ended = there.play_out()
    assert isinstance(ended[""], DisagreementError)
    assert "shop-01" in ended[""].text


def test_a_holder_that_is_missing_stops_the_run_with_its_name() -> None:
    there = pool(4)
    del there.sites["shop-02"]
    ended = there.play_out()
    assert isinstance(ended[""], DisagreementError)
    assert "missing: shop-02" in ended[""].text
    assert not [each for each in ended.values() if isinstance(each, Outcome)]


def test_a_holder_that_calls_itself_by_another_name_than_its_line_is_refused() -> None:
    there = pool(secure=False, keys=False)
    there.sites["shop-01"], there.sites["shop-02"] = there.sites["shop-02"], there.sites["shop-01"]
    ended = there.play_out()
    assert isinstance(ended[""], PeerError)
    assert "shop-01 calls itself" in ended[""].text


# Clients that do wrong


def _wrong(change: Callable[[int, RecordDict], RecordDict | None], at: int = 4) -> Callable[..., Awaitable[Outcome]]:
    """A holder that does as it should until reply `at`, which `change` makes; None leaves."""

    async def hold(channel: Channel, site: Site) -> Outcome:
        class Line:
            def __init__(self) -> None:
                self.count = 0

            async def recv(self, kind: Any) -> Any:
                return await channel.recv(kind)

            async def send(self, reply: Reply) -> None:
                self.count += 1
                if self.count == at:
                    content = change(at, decode(reply.content))
                    if content is None:
                        raise CarrierError("we leave")
                    reply = Reply(reply.number, _encoded(content))
                await channel.send(reply)

        return await pooling.hold(Line(), site)  # type: ignore[arg-type]  # it is a channel

    return hold


def _encoded(content: RecordDict) -> bytes:
    return encode(content)


def _with_values(content: RecordDict, values: Any) -> RecordDict:
    content["answer"] = ArrayRecord({"values": Array(np.asarray(values))})
    return content


def _replayed() -> Callable[[int, RecordDict], RecordDict]:
    return lambda _at, content: _with_values(content, np.roll(_values(content), 1))


WRONG: dict[str, Callable[[int, RecordDict], RecordDict | None]] = {
    "leaves": lambda _at, _content: None,
    "wrong shape": lambda _at, content: _with_values(content, _values(content)[:-1]),
    "wrong dtype": lambda _at, content: _with_values(content, np.ones(5)),
    "two axes": lambda _at, content: _with_values(content, np.stack([_values(content)] * 2)),
    "no answer": lambda _at, content: RecordDict({"signed": content["signed"]}),
    "no vouch": lambda _at, content: RecordDict({"answer": content["answer"]}),
    "vouch of another kind": lambda _at, content: RecordDict(
        {"answer": content["answer"], "signed": ConfigRecord({"vouch": 1})}
    ),
}


@pytest.mark.parametrize("secure", [True, False], ids=["hidden", "in the clear"])
@pytest.mark.parametrize("how", WRONG)
def test_a_holder_that_answers_wrongly_is_named_and_the_run_ends_for_all(how: str, secure: bool) -> None:
    there = pool(secure=secure)
    ended = there.play_out(hold={"shop-01": _wrong(WRONG[how])})
    assert isinstance(ended[""], TidegateError)
    assert how in ("no answer", "no vouch", "vouch of another kind") or "shop-01" in ended[""].text
    assert not [each for each in ended.values() if isinstance(each, Outcome)]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, -1e9])
def test_numbers_that_rows_cannot_make_are_refused_by_name(value: float) -> None:
    def change(_at: int, content: RecordDict) -> RecordDict:
        values = _values(content).copy()
        values[3] = value
        return _with_values(content, values)

    ended = pool(secure=False).play_out(hold={"shop-01": _wrong(change)})
    assert isinstance(ended[""], PeerError)
    assert "shop-01" in ended[""].text
    assert not [each for each in ended.values() if isinstance(each, Outcome)]


def test_an_answer_that_was_changed_after_it_was_signed_is_found_by_the_others() -> None:
    ended = pool().play_out(hold={"shop-01": _wrong(_replayed())})
    assert not [each for each in ended.values() if isinstance(each, Outcome)]
    assert isinstance(ended[""], TidegateError)


def test_an_answer_of_an_earlier_round_is_not_taken_again() -> None:
    kept: list[RecordDict] = []

    def keep(_at: int, content: RecordDict) -> RecordDict:
        kept.append(content)
        return content

    async def hold(channel: Channel, site: Site) -> Outcome:
        return await _wrong(lambda at, _content: kept[0], at=5)(_Tap(channel, keep, 4), site)

    ended = pool().play_out(hold={"shop-01": hold})
    assert isinstance(ended[""], TidegateError)
    assert not [each for each in ended.values() if isinstance(each, Outcome)]


class _Tap:
    """Passes everything on and shows reply `at` to `keep`."""

    def __init__(self, line: Channel, keep: Callable[[int, RecordDict], RecordDict], at: int) -> None:
        self._line, self._keep, self._at, self._count = line, keep, at, 0

    async def recv(self, kind: Any) -> Any:
        return await self._line.recv(kind)

    async def send(self, reply: Any) -> None:
        self._count += 1
        if self._count == self._at:
            self._keep(self._at, decode(reply.content))
        await self._line.send(reply)


# Lines that break


@pytest.mark.parametrize("side", [0, 1], ids=["to the shop", "to the coordinator"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_line_ends_the_run_for_all_or_changes_nothing(fault: str, side: int) -> None:
    right, _ = pool(rounds=2).play()
    # 1 terms, 4 questions, release, close; and the last word to the shop.
    for at in range(7 + (side == 0)):
        ended = pool(rounds=2).play_out(broken=("shop-01", side, fault, at))
        outcomes = [each for each in ended.values() if isinstance(each, Outcome)]
        assert all(isinstance(each, Outcome | TidegateError) for each in ended.values())
        assert all(np.allclose(_theta(each), _theta(right)) for each in outcomes)
        # From the last round trip on some have what the others do not: it is the same model, which all had accepted.
        assert len(outcomes) in (0, 4) or at >= 6
        if fault in ("shorten", "close") and at < 6:
            assert not outcomes


class _Flipping:
    """Changes one byte of what message number `at` holds."""

    def __init__(self, line: Channel, at: int, place: float, mask: int) -> None:
        self._line, self._at, self._place, self._mask, self._count = line, at, place, mask, 0

    async def recv(self, kind: Any) -> Any:
        return await self._line.recv(kind)

    async def send(self, message: Any) -> None:
        if self._count == self._at and message.content:
            data = bytearray(message.content)
            data[int(self._place * len(data))] ^= self._mask
            message = replace(message, content=bytes(data))
        self._count += 1
        await self._line.send(message)


@settings(max_examples=60, deadline=None)
@given(
    secure=st.booleans(),
    of_shop=st.booleans(),
    at=st.integers(0, 6),
    place=st.floats(0, 1, exclude_max=True),
    mask=st.integers(1, 255),
    app=st.sampled_from(["logistic", "kmeans"]),
)
def test_a_changed_byte_ends_the_run_in_a_typed_error_or_changes_next_to_nothing(
    secure: bool, of_shop: bool, at: int, place: float, mask: int, app: str
) -> None:
    def made() -> Pool:
        if app == "logistic":
            return pool(rounds=2, secure=secure)
        return kmeans_pool(X, RANGES, dealt(len(X), 3), k=2, rounds=2, secure=secure)

    async def hold(channel: Channel, site: Site) -> Outcome:
        return await pooling.hold(_Flipping(channel, at, place, mask), site)

    async def coordinate(channels: Mapping[str, Channel]) -> Outcome:
        flipped = {"shop-01": _Flipping(channels["shop-01"], at, place, mask)}
        return await pooling.coordinate({**channels, **flipped})

    ended = made().play_out(hold={"shop-01": hold}) if of_shop else made().play_out(coordinate=coordinate)
    assert all(isinstance(each, Outcome | TidegateError) for each in ended.values())
    outcomes = [each.model for each in ended.values() if isinstance(each, Outcome)]
    curves = [each.curves for each in ended.values() if isinstance(each, Outcome)]
    # In the clear a flipped bit of an answer is another answer; all are given the same model all the same. Where sums
    # are hidden a bit can change only what is within the rounding of two machines.
    for each in outcomes:
        assert all(np.allclose(each[name], outcomes[0][name], rtol=1e-5, atol=1e-8) for name in each)
    assert all(each == curves[0] for each in curves)
    if secure and outcomes:
        right = made().play()[0].model
        assert all(np.allclose(outcomes[0][name], right[name], rtol=1e-5, atol=1e-8) for name in right)


# Coordinators that do wrong


class Lying:
    """Does as it should, but for what `change` makes of the instruction `number` to `victim`."""

    def __init__(self, victim: str, number: int, change: Callable[[RecordDict], RecordDict]) -> None:
        self._victim, self._number, self._change = victim, number, change

    async def __call__(self, channels: Mapping[str, Channel]) -> Outcome:
        lie = self

        class Line:
            def __init__(self, name: str, line: Channel) -> None:
                self._name, self._line = name, line

            async def recv(self, kind: Any) -> Any:
                return await self._line.recv(kind)

            async def send(self, message: Any) -> None:
                if self._name == lie._victim and message.number == lie._number and message.kind:
                    message = replace(message, content=_encoded(lie._change(decode(message.content))))
                await self._line.send(message)

        return await pooling.coordinate({name: Line(name, line) for name, line in channels.items()})


def _other_theta(content: RecordDict) -> RecordDict:
    theta = content["model"]["theta"].numpy() + 0.25  # type: ignore[union-attr]
    content["model"] = ArrayRecord({"theta": Array(theta)})
    return content


def test_another_model_for_one_is_found_where_sums_are_hidden_before_it_answers() -> None:
    there = pool()
    # 1: terms, 2: moments, 3: the first model.
    ended = there.play_out(coordinate=Lying("shop-01", 3, _other_theta))
    assert isinstance(ended["shop-01"], DisagreementError)
    assert not [each for each in ended.values() if isinstance(each, Outcome)]
    assert [kind for kind, _ in there.at_shops["shop-01"].sent] == ["Reply"] * 2


@pytest.mark.parametrize("keys", [True, False], ids=["signed", "bare"])
def test_another_model_for_one_is_found_a_round_later_where_they_are_not(keys: bool) -> None:
    ended = pool(secure=False, keys=keys).play_out(coordinate=Lying("shop-01", 3, _other_theta))
    refused = [name for name, each in ended.items() if isinstance(each, DisagreementError)]
    assert refused
    assert not [each for each in ended.values() if isinstance(each, Outcome)]


@pytest.mark.parametrize("secure", [True, False], ids=["hidden", "in the clear"])
def test_another_model_at_the_end_is_not_released(secure: bool) -> None:
    there = pool(secure=secure)
    outcome, _ = there.play()
    questions = 2 + len(outcome.curves["loss"]) + (not outcome.converged)
    again = pool(secure=secure)
    ended = again.play_out(coordinate=Lying("shop-01", questions + 1, _other_theta))
    assert isinstance(ended["shop-01"], DisagreementError)
    # Where sums are hidden it does not even vouch for it; where they are not, it finds out by what the others signed.
    assert len(again.at_shops["shop-01"].sent) == questions + (not secure)
    assert not [each for each in ended.values() if isinstance(each, Outcome)]


def test_a_wrong_sum_reaches_nobody() -> None:
    def change(content: RecordDict) -> RecordDict:
        words = content["answers"]["words"].numpy().copy()  # type: ignore[union-attr]
        words[0, 0] += 1
        content["answers"] = ArrayRecord({"words": Array(words)})
        return content

    ended = pool().play_out(coordinate=Lying("shop-01", 4, change))
    assert isinstance(ended["shop-01"], PeerError)
    assert "shop-00" in ended["shop-01"].text


@pytest.mark.parametrize("value", [np.full(5, 1e7), np.zeros(4), np.zeros((5, 1))], ids=["huge", "short", "two axes"])
def test_a_model_that_can_be_none_is_refused(value: FloatArray) -> None:
    def change(content: RecordDict) -> RecordDict:
        content["model"] = ArrayRecord({"theta": Array(value)})
        return content

    ended = pool(secure=False).play_out(coordinate=Lying("shop-01", 3, change))
    assert isinstance(ended["shop-01"], PeerError)


@pytest.mark.parametrize("key", ["number", "names"])
def test_a_question_without_its_turn_is_refused(key: str) -> None:
    def change(content: RecordDict) -> RecordDict:
        del content["turn"][key]
        return content

    ended = pool().play_out(coordinate=Lying("shop-01", 4, change))
    assert isinstance(ended["shop-01"], PeerError)


def test_more_questions_than_the_contract_allows_are_refused() -> None:
    async def insists(channels: Mapping[str, Channel]) -> Outcome:
        """Asks for gradients at the same model for ever."""
        lines = list(channels.values())
        for line in lines:
            await line.send(Instruction(1, "query.terms", "", _encoded(RecordDict())))
        for line in lines:
            await line.recv(Reply)
        vouched: list[bytes] = []
        for number in range(1, 100):
            turn = {"number": number, "names": list(names_of(3)), "vouched": vouched, "keys": [b""] * 3}
            content = RecordDict({"turn": ConfigRecord(turn), "model": ArrayRecord({"theta": Array(np.zeros(5))})})
            for line in lines:
                await line.send(Instruction(number + 1, "train", "", _encoded(content)))
            vouched = [decode((await line.recv(Reply)).content)["signed"]["vouch"] for line in lines]  # type: ignore[misc]
        raise AssertionError("they answered a hundred times")

    ended = pool(secure=False).play_out(coordinate=insists)
    assert isinstance(ended["shop-00"], PolicyError)


def test_a_coordinator_that_ends_early_releases_nothing() -> None:
    async def early(channels: Mapping[str, Channel]) -> Outcome:
        for line in channels.values():
            await line.send(Instruction(1, "", "", b""))
        return Outcome({}, {}, False)

    ended = pool().play_out(coordinate=early)
    assert isinstance(ended["shop-00"], PeerError)
    assert "before a model was released" in ended["shop-00"].text


# Robust means


class Poisoned(logistic.Holder):
    """Sends its gradient upside down, as long as it can be."""

    def answer(self, question: Question) -> FloatArray:
        values = super().answer(question)
        if question.kind == "train":
            gradient = values[2:7]
            gradient *= -self.rows / np.abs(gradient).max()
        return values


class FreeRider(logistic.Holder):
    """Trains on nothing."""

    def answer(self, question: Question) -> FloatArray:
        values = super().answer(question)
        if question.kind == "train":
            values[2:7] = 0.0
        return values


def _with_part(there: Pool, name: str, kind: type[logistic.Holder]) -> None:
    rows = slice(0, 240)
    task = there.sites[name].task
    assert isinstance(task, logistic.Settings)
    there.change(name, part=kind(X[rows], Y[rows], X[:60], Y[:60], ranges=RANGES, settings=task))


@pytest.mark.parametrize("robust", [1, 2], ids=["median", "trimmed mean"])
def test_one_poisoner_of_five_moves_a_robust_mean_little_and_a_sum_much(robust: int) -> None:
    def ended(how: int, poisoned: bool) -> float:
        there = pool(5, secure=False, robust=how, rounds=12)
        if poisoned:
            _with_part(there, "shop-02", Poisoned)
        outcome = there.play_out()[""]
        return float(outcome.curves["auc"][-1]) if isinstance(outcome, Outcome) else 0.0

    assert ended(robust, True) > ended(robust, False) - 0.02
    assert ended(0, True) < ended(0, False) - 0.1


def test_a_free_rider_is_named_where_answers_are_in_the_clear() -> None:
    there = pool(5, secure=False, robust=1)
    _with_part(there, "shop-02", FreeRider)
    ended = there.play_out()
    assert isinstance(ended[""], PeerError)
    assert "shop-02" in ended[""].text


def test_a_model_that_is_clearly_worse_than_a_holders_own_is_released_to_nobody() -> None:
    there = pool(3, rounds=12)
    for name in ("shop-01", "shop-02"):
        task = there.sites[name].task
        assert isinstance(task, logistic.Settings)
        # Their labels are the wrong way round.
        part = logistic.Holder(X[:480], 1 - Y[:480], X[500:560], 1 - Y[500:560], ranges=RANGES, settings=task)
        there.change(name, part=part)
    ended = there.play_out()
    assert isinstance(ended["shop-00"], PolicyError)
    assert "own hold-out" in ended["shop-00"].text
    assert not [each for each in ended.values() if isinstance(each, Outcome)]
