"""The Flower apps of any task: a ClientApp for each holder, a ServerApp whose Strategy adds up what they answer.

    client                                              server
                                     <-- query.terms --
      task, terms, cohort, key           --  reply  -->     the same from all, or the run ends
    question t = 1, 2, .. of the task's course (train or evaluate):
                                     <-- question t; all keys (t = 1), all answers and vouches to question t - 1 --
      checks them, and whether the question follows from them
      answer t, masked, and vouch t      --  reply  -->     the sum answers the course
                                     <-- query.release: what came out, all answers and vouches --
      does it follow? is it good here?
      vouch                              --  reply  -->
                                     <-- query.close: all vouches --
      was everybody given the same?

Standard apps: they know Flower's `Grid`, `Message` and `Context` only, and run over our lines (flower_grid.py), in
Flower's simulation and under `flwr run`. A holder without keys (a simulation) vouches with a bare hash.

A holder whose sums are hidden adds up and runs the course itself, so neither a wrong sum nor a model that does not
follow from the sums reaches it unseen. Where answers are in the clear (a robust mean, a simulation) it takes the
coordinator's word for the mean, and checks that all were given the same models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..channel import CarrierError, Channel, ConfigError, DisagreementError, PeerError, PolicyError
from ..primitives.fixed_point import FloatArray, UInt64Array
from . import kmeans, logistic, private_logistic, robust
from .flower_grid import (
    MAX_CONTENT_BYTES,
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Context,
    Grid,
    Message,
    MetricRecord,
    RecordDict,
    ServerApp,
    Strategy,
    array_of,
    attend,
    numpy_of,
    sample_nodes,
    serve,
)
from .secure_sum import FEWEST, MOST, Member, add, words_of
from .task import MEDIAN, Course, Model, Outcome, Question, Site, Task, asked_hash, digits, is_same

T = TypeVar("T")

_TASKS: Mapping[str, Callable[[Sequence[int]], Task]] = {
    "logistic@1": logistic.Settings.of,
    "private-logistic@1": private_logistic.Settings.of,
    "kmeans@1": kmeans.Settings.of,
}


def _ignore(_outcome: Outcome) -> None: ...


def client_app(load: Callable[[Context], Site], done: Callable[[Outcome], None] = _ignore) -> ClientApp:
    """The app of a holder. load: what it brings, asked once a process and node; done is told what came out, at the end.

    Its handlers raise a TidegateError for whatever the coordinator does that the contract does not say.
    """
    app, holdings = ClientApp(), dict[tuple[int, int], _Holding]()

    def holding(context: Context) -> _Holding:
        at = (context.run_id, context.node_id)
        if at not in holdings:
            holdings[at] = _Holding(load(context))
        return holdings[at]

    @app.query("terms")
    def terms(message: Message, context: Context) -> Message:
        context.state["tidegate"] = ConfigRecord({"number": 0, "hash": b"", "released": False})
        return Message(holding(context).terms(), reply_to=message)

    def answer(message: Message, context: Context) -> Message:
        return Message(holding(context).answer(message, _seen(context)), reply_to=message)

    app.train()(answer)
    app.train("moments")(answer)
    app.train("spreads")(answer)
    app.evaluate()(answer)

    @app.query("release")
    def release(message: Message, context: Context) -> Message:
        # What came out waits where Flower keeps it, because its own engines give the next message to any process.
        for name in ("turn", "model", "curves"):
            if name in message.content:
                context.state[name] = message.content[name]
        return Message(holding(context).release(message.content, _seen(context)), reply_to=message)

    @app.query("close")
    def close(message: Message, context: Context) -> Message:
        seen = _seen(context)
        if not seen["released"]:
            raise PeerError("the coordinator closes the run before it has released a model", "start a new run")
        outcome = holding(context).close(message.content, seen, _outcome_in(context.state))
        holdings.clear()
        done(outcome)
        return Message(RecordDict(), reply_to=message)

    return app


def server_app(done: Callable[[Outcome], None] = _ignore, *, clients: int = 0) -> ServerApp:
    """The app of the coordinator, who is told by the clients what to do. done is told what came out.

    clients: how many to wait for where they come one by one (Flower's own engines, whose run config may say it as
    `clients`); 0 takes those that are there.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        pooling = Pooling.of(grid, int(context.run_config.get("clients", clients)))
        pooling.start(grid, ArrayRecord(), num_rounds=pooling.questions)
        done(pooling.release(grid))

    return app


async def hold(channel: Channel, site: Site) -> Outcome:
    """The role of a holder over its line to the coordinator. PeerError if that ends before the course does."""
    outcomes: list[Outcome] = []
    await attend(channel, client_app(lambda _context: site, outcomes.append))
    if not outcomes:
        raise PeerError("the coordinator ended the run before a model was released", "start a new run")
    return outcomes[0]


async def coordinate(channels: Mapping[str, Channel]) -> Outcome:
    """The role of the coordinator over one line to each holder, by its name."""
    outcomes: list[Outcome] = []
    await serve(channels, server_app(outcomes.append))
    return outcomes[0]


def _seen(context: Context) -> ConfigRecord:
    """The number and the hash of what this client answered last: kept where Flower keeps it from message to message."""
    record = context.state.get("tidegate")
    if not isinstance(record, ConfigRecord):
        raise PeerError("the coordinator asks before it has asked for our terms", "start a new run")
    return record


class _Bare:
    """Stands for a Member where nobody has keys: vouches say what was given, and nobody signs them."""

    def __init__(self, cohort: Iterable[str]) -> None:
        self._names = set(cohort)

    def vouch(self, _number: int, model: bytes, _sent: bytes) -> bytes:
        return model

    def check(self, number: int, model: bytes, vouched: Mapping[str, bytes]) -> None:
        others = [name for name in sorted(self._names) if vouched.get(name) != model]
        if others:
            raise DisagreementError(f"in round {number} the coordinator gave {', '.join(others)} another model than us")


class _Holding:
    """One holder's side of one run."""

    def __init__(self, site: Site) -> None:
        site.verify()
        self._site, self._task = site, site.task
        self._voucher: Member | _Bare = site.member or _Bare(site.cohort)
        self._course: Course | None = None
        self._expected: Question | None = None
        self._outcome: Outcome | None = None

    def terms(self) -> RecordDict:
        site = self._site
        key = site.member.key() if site.member is not None and self._task.secure else b""
        said = ConfigRecord({"name": site.name, "task": self._task.name, "terms": site.terms, "key": key})
        said["numbers"], said["cohort"] = list(self._task.numbers), sorted(site.cohort)
        return RecordDict({"terms": said})

    def answer(self, message: Message, seen: ConfigRecord) -> RecordDict:
        number = self._verify_turn(message.content, seen)
        if number > self._task.questions:
            raise PolicyError(
                f"the coordinator asks more than the {self._task.questions} times that the contract allows"
            )
        asked = Question(message.metadata.message_type, _model_in(message.content), 0)
        if self._task.secure:
            self._follow(message.content, seen)
            if self._expected is None or not is_same(self._expected, asked):
                raise DisagreementError(
                    "what the coordinator asks does not follow from what all have answered",
                    "the run ends and its models are not used; ask the coordinator's operator",
                )
        elif number > 1:
            self._voucher.check(number - 1, _bytes_of(seen), _vouched_in(message.content))
        values = self._site.part.answer(asked)
        words: NDArray[Any]
        given = asked_hash(asked)
        if isinstance(self._voucher, Member) and self._task.secure and self._expected is not None:
            words, vouch = self._voucher.mask(number, given, self._encoded(values, self._expected))
        else:
            words, vouch = values, self._voucher.vouch(number, given, values.tobytes())
        seen.update({"number": number, "hash": given})
        return RecordDict(
            {"answer": ArrayRecord({"values": array_of(words)}), "signed": ConfigRecord({"vouch": vouch})}
        )

    def _encoded(self, values: FloatArray, question: Question) -> UInt64Array:
        drawn = None
        if question.noise:
            if self._site.noise is None:
                raise ConfigError("the contract asks for noise, and this side has nothing to draw it from")
            drawn = self._site.noise(question.noise, question.size)
        return digits(len(self._site.cohort), question.noise).encode(values, question.size, drawn)

    def _verify_turn(self, content: RecordDict, seen: ConfigRecord) -> int:
        number = _taken(content, "turn", "number", int)
        if seen["released"] or number != int(str(seen["number"])) + 1:
            raise PeerError("the coordinator's question is repeated or out of turn", "start a new run")
        return number

    def _follow(self, content: RecordDict, seen: ConfigRecord) -> None:
        """Takes the course one question further by everybody's last answers, which are added up here."""
        member, last = self._voucher, int(str(seen["number"]))
        if not isinstance(member, Member):
            raise ConfigError("secure sums need this party's keys")
        if last == 0:
            member.agree(_named_in(content, "keys"))
            self._course = self._task.course(self._site.terms)
            self._expected = next(self._course)
            return
        if self._course is None or self._expected is None:
            raise ConfigError(
                "secure sums need one process a holder for the whole run",
                "in Flower's simulation, which deals holders to any process, leave `secure` off",
            )
        names = _taken(content, "turn", "names", list)
        words = _array_in(content, "answers", "words")
        if words.dtype != np.uint64 or words.shape != (len(names), self._expected.size + 1):
            raise PeerError("the coordinator passes on answers of another shape than was asked")
        masked = dict(zip(names, words, strict=True))
        total = member.total(last, _bytes_of(seen), _vouched_in(content), masked)
        sums = digits(len(names), self._expected.noise).decode(total)
        try:
            self._expected = self._course.send(sums)
        except StopIteration as stop:
            self._expected, self._outcome = None, stop.value

    def release(self, content: RecordDict, seen: ConfigRecord) -> RecordDict:
        number = self._verify_turn(content, seen)
        if number == 1:
            raise PeerError("the coordinator releases a model before it has asked anything")
        given = _outcome_in(content)
        if self._task.secure:
            self._follow(content, seen)
            ours = self._outcome
            if ours is None or not is_same(Question("", ours.model, 0), Question("", given.model, 0)):
                raise DisagreementError("the model that the coordinator releases does not follow from the answers")
        else:
            self._voucher.check(number - 1, _bytes_of(seen), _vouched_in(content))
        self._site.part.verify(given.model)
        curves = {f"{name} of all": np.asarray(points, np.float64) for name, points in given.curves.items()}
        model = asked_hash(Question("query.release", {**given.model, **curves}, 0))
        seen.update({"number": number, "hash": model, "released": True})
        return RecordDict({"signed": ConfigRecord({"vouch": self._voucher.vouch(number, model, b"")})})

    def close(self, content: RecordDict, seen: ConfigRecord, given: Outcome) -> Outcome:
        self._voucher.check(int(str(seen["number"])), _bytes_of(seen), _vouched_in(content))
        return self._outcome or given


def _bytes_of(seen: ConfigRecord) -> bytes:
    return bytes(seen["hash"])  # type: ignore[arg-type]  # we have put bytes there


def _taken(content: RecordDict, record: str, key: str, kind: type[T]) -> T:
    """An entry of a record that came. PeerError unless it is there and of this kind."""
    held = content.get(record)
    value = held.get(key) if isinstance(held, ConfigRecord) else None
    if not isinstance(value, kind):
        raise PeerError(
            f"a message has no {key} in its {record}, or one of another kind", "compare both sides' versions"
        )
    return value


def _array_in(content: RecordDict, record: str, key: str) -> NDArray[Any]:
    held = content.get(record)
    array = held.get(key) if isinstance(held, ArrayRecord) else None
    if array is None:
        raise PeerError(f"a message has no {key} in its {record}", "compare both sides' versions")
    return numpy_of(array)


def _model_in(content: RecordDict) -> dict[str, FloatArray]:
    held = content.get("model")
    if not isinstance(held, ArrayRecord):
        raise PeerError("the coordinator's question has no model")
    return {name: np.asarray(numpy_of(array), np.float64) for name, array in held.items()}


def _named_in(content: RecordDict, key: str) -> dict[str, bytes]:
    names, values = _taken(content, "turn", "names", list), _taken(content, "turn", key, list)
    if len(names) != len(values) or not all(isinstance(value, bytes) for value in values):
        raise PeerError(f"a message has not one of its {key} for each name")
    return dict(zip(map(str, names), values, strict=True))


def _vouched_in(content: RecordDict) -> dict[str, bytes]:
    return _named_in(content, "vouched")


def _outcome_in(content: RecordDict) -> Outcome:
    held = content.get("curves")
    curves = (
        {name: tuple(map(float, numpy_of(array))) for name, array in held.items()}
        if isinstance(held, ArrayRecord)
        else {}
    )
    return Outcome(_model_in(content), curves, _taken(content, "turn", "converged", bool))


def _arrays(named: Mapping[str, FloatArray | Sequence[float]]) -> ArrayRecord:
    return ArrayRecord({name: array_of(np.asarray(values, np.float64)) for name, values in named.items()})


class Pooling(Strategy):
    """Asks every client the questions of one course and answers the course with the sum, or a robust mean, of theirs.

    `of` meets the clients; `start` (Flower's) asks on until the course has ended; `release` gives what came out to all.
    """

    def __init__(self, task: Task, seed: bytes, clients: Mapping[int, str], keys: Mapping[str, bytes]) -> None:
        self._task, self._clients, self._names = task, dict(clients), sorted(clients.values())
        self._course = task.course(seed)
        self._question: Question | None = next(self._course)
        self._outcome: Outcome | None = None
        # What goes down with the next question: all keys before the first, then what all said to the one before.
        self._relayed = ConfigRecord({"names": self._names, "keys": [keys[name] for name in self._names]})
        self._answers: ArrayRecord | None = None
        self._number = 0
        self._last: FloatArray | None = None

    @property
    def questions(self) -> int:
        return self._task.questions

    @classmethod
    def of(cls, grid: Grid, expected: int) -> Pooling:
        """Asks all clients for their terms. DisagreementError, with the name, unless all mean the same."""
        nodes = sorted(sample_nodes(grid, max(expected, 1), 1)[1])
        replies = _replies(grid, {node: f"client {node}" for node in nodes}, "query.terms", RecordDict())
        lines = {node.node_id: node.name for node in grid.get_nodes()}
        clients: dict[int, str] = {}
        keys: dict[str, bytes] = {}
        first: tuple[Any, ...] = ()
        for node, content in replies.items():
            name = _taken(content, "terms", "name", str)
            if lines.get(node, "") not in ("", name):
                raise PeerError(f"{lines[node]} calls itself by another name")
            said: tuple[Any, ...] = tuple(_taken(content, "terms", key, kind) for key, kind in _TERMS.items())
            first = first or said
            if said != first:
                raise DisagreementError(
                    f"{name} and {next(iter(clients.values()))} do not mean the same contract",
                    "compare the contracts, the settings and the ranges of columns at both",
                )
            if name in clients.values():
                raise DisagreementError(f"two clients call themselves {name}")
            clients[node], keys[name] = name, _taken(content, "terms", "key", bytes)
        task, numbers, seed, cohort = first
        if sorted(clients.values()) != cohort:
            missing = sorted({*map(str, cohort)} - {*clients.values()})
            raise DisagreementError(
                f"the contract's cohort is not who is here (missing: {', '.join(missing) or 'nobody'})",
                "a sum over fewer would show one party's part; start another run when all are there",
            )
        if not FEWEST <= len(clients) <= MOST:
            raise PolicyError(f"a run needs {FEWEST} to {MOST} clients, {len(clients)} are here")
        return cls(_task_of(task, numbers, len(clients)), seed, clients, keys)

    def release(self, grid: Grid) -> Outcome:
        """Gives everybody what came out; returns when all have accepted it and know that all were given the same."""
        outcome = self._outcome
        if outcome is None:
            raise CarrierError("the course has not ended in as many questions as it should")
        self._relayed["converged"] = outcome.converged
        content = self._next(outcome.model)
        content["curves"] = _arrays(outcome.curves)
        self._relay(_replies(grid, self._clients, "query.release", content))
        _replies(grid, self._clients, "query.close", RecordDict({"turn": self._relayed}))
        return outcome

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        del server_round  # a course counts its own questions
        return self._asking("train")

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        del server_round  # a course counts its own questions
        return self._asking("evaluate")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        del server_round  # a course counts its own questions
        told = self._answered("train", replies)
        model = self._outcome or self._question
        return (None if told is None or model is None else _arrays(model.model)), told

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        del server_round  # a course counts its own questions
        return self._answered("evaluate", replies)

    def summary(self) -> None:
        """Flower's log needs no more than it has."""

    def _next(self, model: Model) -> RecordDict:
        """What the next question says: its number and model, and what all said to the one before."""
        self._number += 1
        self._relayed["number"] = self._number
        content = RecordDict({"turn": self._relayed, "model": _arrays(model)})
        if self._answers is not None:
            content["answers"] = self._answers
        return content

    def _relay(self, contents: Mapping[int, RecordDict]) -> None:
        vouched = {self._clients[node]: _taken(content, "signed", "vouch", bytes) for node, content in contents.items()}
        self._relayed = ConfigRecord({"names": self._names, "vouched": [vouched[name] for name in self._names]})

    def _is_next(self, category: str) -> bool:
        return self._question is not None and self._question.kind.split(".")[0] == category

    def _asking(self, category: str) -> list[Message]:
        if self._question is None or not self._is_next(category):
            return []
        return _messages(self._clients, self._question.kind, self._next(self._question.model))

    def _answered(self, category: str, replies: Iterable[Message]) -> MetricRecord | None:
        if self._question is None or not self._is_next(category):
            return None
        contents = _contents(self._clients, replies)
        answers = {self._clients[node]: _array_in(content, "answer", "values") for node, content in contents.items()}
        self._relay(contents)
        size = self._question.size
        if self._task.secure:
            words = {name: words_of(name, answers[name], size) for name in self._names}
            self._answers = ArrayRecord({"words": array_of(np.stack([words[name] for name in self._names]))})
            sums = digits(len(words), self._question.noise).decode(add(words, self._names, size))
        else:
            sums = self._combined({name: _in_the_clear(name, answers[name], size) for name in self._names})
        try:
            self._question = self._course.send(sums)
            told = self._question.told
        except StopIteration as stop:
            self._question, self._outcome = None, stop.value
            told = {name: points[-1] for name, points in stop.value.curves.items() if points}
        return MetricRecord(dict(told)) if told else None

    def _combined(self, answers: Mapping[str, FloatArray]) -> FloatArray:
        """The sum; or, robust, the middle of the holders' means, as if each had the middle number of rows."""
        if not self._task.robust:
            return np.asarray(np.sum(list(answers.values()), axis=0))
        means = {name: values / max(float(values[0]), 1.0) for name, values in answers.items()}
        at = self._question.update if self._question is not None else None
        if at is not None:
            updates = {name: mean[at] for name, mean in means.items()}
            for finding in robust.findings(updates, self._last):
                raise PeerError(f"{finding.name} sent {finding.what}", "start a new run without it")
            updates, _longer = robust.drawn_in(updates)
            for name, update in updates.items():
                means[name][at] = update
        middle = robust.median(means) if self._task.robust == MEDIAN else robust.trimmed_mean(means)
        if at is not None:
            self._last = middle[at]
        return middle * len(answers) * float(np.median([values[0] for values in answers.values()]))


_TERMS: Mapping[str, type] = {"task": str, "numbers": list, "terms": bytes, "cohort": list}


def _task_of(name: str, numbers: object, clients: int) -> Task:
    """The clients' task, if it is one of ours and within its bounds. PeerError if not."""
    make = _TASKS.get(name)
    if make is None or not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise PeerError("the clients name a task that this coordinator does not have", "compare the versions")
    try:
        task = make(numbers)
    except (ConfigError, TypeError) as error:
        raise PeerError(f"the clients' settings are out of bounds: {error}") from None
    widest = 8 * clients * (task.widest + 1)
    if widest > MAX_CONTENT_BYTES // 2:
        raise PolicyError(
            f"{clients} clients with so many columns need messages of {widest} bytes", "use fewer columns"
        )
    return task


def _in_the_clear(name: str, values: NDArray[Any], size: int) -> FloatArray:
    numbers = robust.checked(name, values, size)
    if not 0 <= numbers[0] <= 2**24 or np.abs(numbers).max(initial=0.0) > max(numbers[0], 1.0) * (1 + 1e-9):
        raise PeerError(f"{name} sent numbers larger than its rows can make", "start a new run without it")
    return numbers


def _messages(clients: Mapping[int, str], kind: str, content: RecordDict) -> list[Message]:
    return [Message(content, node, kind) for node in clients]


def _replies(grid: Grid, clients: Mapping[int, str], kind: str, content: RecordDict) -> dict[int, RecordDict]:
    return _contents(clients, grid.send_and_receive(_messages(clients, kind, content)))


def _contents(clients: Mapping[int, str], replies: Iterable[Message]) -> dict[int, RecordDict]:
    """What each client replied. PeerError or CarrierError, with the name, unless all did once."""
    contents: dict[int, RecordDict] = {}
    for reply in replies:
        node = reply.metadata.src_node_id
        if node not in clients or node in contents:
            raise PeerError("a reply came that nobody was asked for")
        if reply.has_error():
            raise PeerError(f"{clients[node]} stopped: its app raised an error", "see that client's own log")
        contents[node] = reply.content
    if missing := sorted(name for node, name in clients.items() if node not in contents):
        raise CarrierError(f"no reply came from {', '.join(missing)}", "start a new run when all are there")
    return contents
