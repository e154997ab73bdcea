"""The coordinator's scheduler against a fake clock, and against random lists of what can go wrong."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.coordinator.campaigns import (
    ENDINGS,
    FINAL,
    HEARD_WITHIN_S,
    OPEN_WITHIN_S,
    REPORT_WITHIN_S,
    TRANSITIONS,
    Campaign,
    Effects,
    Moment,
    Scheduler,
)
from tidegate.coordinator.refusal import RefusedError
from tidegate.protocols.channel import CarrierError
from tidegate.wire import relay_pb2 as pb

PARTIES = ("brand", "media")
STEPS = ("match", "train")
# A brand and two media: each media has its own steps with the brand, and none with the other.
THREE = ("brand", "alpha", "beta")
APART = (("doctor-alpha", "alpha"), ("doctor-beta", "beta"), ("match-alpha", "alpha"), ("match-beta", "beta"))
CONTRACT = hashlib.sha256(b"contract").digest()
START_S = 1_000_000.0


def digest_in(_party: str, _contract: bytes, _step: int, run: bytes, receipt: bytes) -> bytes:
    """Stands in for real receipts: b"ok" + the run is a good one."""
    if not receipt.endswith(run):
        raise CarrierError("the receipt is not signed")
    return receipt


class World:
    """A scheduler with its disk and a clock. Messages to the nodes pile up in `told`."""

    def __init__(self, parties: tuple[str, ...] = PARTIES, **limits: int) -> None:
        self.parties = parties
        self.disk: dict[bytes, Campaign] = {}
        self.now_s = 0.0
        self.runs = itertools.count(1)
        self.told: dict[str, list[pb.ToNode]] = {party: [] for party in parties}
        self.lines: list[tuple[bytes, tuple[str, ...] | None]] = []
        self.limits = limits
        self.scheduler = self.loaded()

    def loaded(self) -> Scheduler:
        return Scheduler(
            copy.deepcopy(list(self.disk.values())),
            read_receipt=digest_in,
            new_run=lambda: next(self.runs).to_bytes(16, "big"),
            **self.limits,
        )

    def restart(self) -> None:
        self.scheduler = self.loaded()
        self.do(self.scheduler.resume(self.at))

    @property
    def at(self) -> Moment:
        return Moment(START_S + self.now_s, self.now_s)

    def do(self, effects: Effects) -> None:
        for contract, campaign in effects.changed.items():
            kept = copy.deepcopy(campaign)
            kept.run = None
            for step in kept.steps:
                step.not_before_s, step.waits_for = 0.0, ""
            self.disk[contract] = kept
        self.lines += effects.lines
        for party, message in effects.tells:
            self.told.setdefault(party, []).append(message)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.do(self.scheduler.tick(self.at))

    def file(self, contract: bytes = CONTRACT, steps: tuple[str, ...] = STEPS, expires_in_s: int = 86_400) -> None:
        expires_s = int(self.at.wall_s) + expires_in_s
        docket = pb.Docket(contract=contract, parties=PARTIES, steps=steps, expires_s=expires_s, signature=b"s")
        self.do(self.scheduler.file("brand", docket, self.at))

    def file_apart(self) -> None:
        """A campaign of THREE in which each media has its own steps."""
        steps, members = [name for name, _ in APART], [pb.Members(parties=["brand", media]) for _, media in APART]
        expires_s = int(self.at.wall_s) + 86_400
        docket = pb.Docket(contract=CONTRACT, parties=THREE, steps=steps, members=members, expires_s=expires_s)
        self.do(self.scheduler.file("brand", docket, self.at))
        for media in THREE[1:]:
            self.sign(media)

    def sign(self, party: str = "media", contract: bytes = CONTRACT) -> None:
        self.do(self.scheduler.sign(party, contract, b"s", self.at))

    def here(self, *parties: str, held: tuple[pb.Held, ...] = ()) -> None:
        for party in parties or self.parties:
            self.do(self.scheduler.here(party, held, self.at))

    def gone(self, party: str) -> None:
        self.do(self.scheduler.gone(party, self.at))

    def agreed(self) -> None:
        self.here()
        self.file()
        self.sign()

    def prepared(self, party: str, run: bytes, step: int = 0, receipt: bytes | None = None) -> None:
        receipt = b"ok" + run if receipt is None else receipt
        ended = pb.Ended(contract=CONTRACT, step=step, run=run, prepared=True, receipt=receipt)
        self.do(self.scheduler.ended(party, ended, self.at))

    def failed(self, party: str, run: bytes, error: str, reason: str = "because") -> None:
        ended = pb.Ended(contract=CONTRACT, step=self.state.step, run=run, error=error, reason=reason)
        self.do(self.scheduler.ended(party, ended, self.at))

    @property
    def state(self) -> pb.CampaignState:
        return self.scheduler.look("brand", CONTRACT)[0]

    def heard(self, party: str, kind: str) -> list[pb.ToNode]:
        """The messages of this kind that the party got since it was last asked."""
        messages = [message for message in self.told[party] if message.WhichOneof("kind") == kind]
        self.told[party] = [message for message in self.told[party] if message.WhichOneof("kind") != kind]
        return messages

    def run(self, *parties: str) -> bytes:
        """The run that these, or both, and nobody else were just told to start."""
        starts = {party: self.heard(party, "start") for party in self.parties}
        told = [party for party in self.parties if starts[party]]
        assert told == list(parties or PARTIES)
        assert all(len(starts[party]) == 1 and starts[party][0] == starts[told[0]][0] for party in told)
        return starts[told[0]][0].start.run


def held(run: bytes, step: int = 0, committed: bool = False) -> pb.Held:
    return pb.Held(contract=CONTRACT, step=step, run=run, receipt=b"ok" + run, committed=committed)


def test_steps_run_in_order_and_each_is_committed_by_all() -> None:
    world = World()
    world.agreed()
    for step in range(len(STEPS)):
        assert (world.state.state, world.state.step, world.state.attempt) == ("running", step, 1)
        run = world.run()
        world.prepared("brand", run, step)
        assert not world.heard("brand", "commit")
        world.prepared("media", run, step)
        for party in PARTIES:
            (message,) = world.heard(party, "commit")
            assert list(message.commit.receipts) == [b"ok" + run, b"ok" + run]
            assert message.commit.run == run
    assert world.state.state == "done"
    assert world.disk[CONTRACT].state == "done"


def test_nothing_starts_before_everybody_has_signed_and_is_here() -> None:
    world = World()
    world.here("brand")
    world.file()
    assert (world.state.state, list(world.state.missing)) == ("signing", ["media"])
    world.sign()
    assert (world.state.state, list(world.state.missing)) == ("waiting", ["media"])
    assert not world.heard("brand", "start")
    world.here("media")
    assert world.state.state == "running"


def test_a_line_that_breaks_ends_the_run_at_the_others_at_once_and_the_step_starts_again() -> None:
    world = World()
    world.agreed()
    first = world.run()
    world.gone("media")
    (stop,) = world.heard("brand", "stop")
    assert stop.stop.run == first
    assert (first, None) in world.lines
    world.failed("brand", first, "carrier")
    assert (world.state.state, list(world.state.missing)) == ("waiting", ["media"])
    world.wait(5)
    world.here("media")
    assert world.run() != first
    assert (world.state.state, world.state.attempt) == ("running", 2)


@pytest.mark.parametrize("kind", ["policy", "config", "disagreement", "peer"])
def test_a_failure_that_would_only_happen_again_ends_the_campaign(kind: str) -> None:
    world = World()
    world.agreed()
    run = world.run()
    world.failed("media", run, kind, "under the floor")
    world.failed("brand", run, "carrier")
    assert (world.state.state, world.state.by, world.state.reason) == ("failed", "media", "under the floor")
    world.wait(1000)
    assert not world.heard("brand", "start")


def test_the_most_telling_report_decides_whichever_comes_first() -> None:
    world = World()
    world.agreed()
    run = world.run()
    world.failed("brand", run, "carrier", "the line ended")
    assert world.state.state == "running"
    world.failed("media", run, "policy", "the floor")
    assert (world.state.state, world.state.by) == ("failed", "media")


def test_a_party_that_says_nothing_more_is_waited_for_only_so_long() -> None:
    world = World()
    world.agreed()
    run = world.run()
    world.failed("brand", run, "carrier")
    world.wait(HEARD_WITHIN_S + 0.1)
    world.wait(1)
    assert (world.state.state, world.state.attempt) == ("running", 2)


def test_a_step_that_breaks_off_ten_times_fails_with_the_last_reason() -> None:
    world = World()
    world.agreed()
    for attempt in range(1, ENDINGS["carrier"] + 1):
        assert world.state.attempt == attempt
        run = world.run()
        world.failed("brand", run, "carrier", "the line ended")
        world.failed("media", run, "carrier", "the line ended")
        world.wait(31)
    assert world.state.state == "failed"
    assert "10 attempts" in world.state.reason
    assert "the line ended" in world.state.reason


def test_pauses_between_attempts_grow() -> None:
    world = World()
    world.agreed()
    pauses = []
    for _ in range(6):
        run = world.run()
        for party in PARTIES:
            world.failed(party, run, "carrier")
        began = world.now_s
        while world.state.state == "waiting":
            world.wait(0.5)
        pauses.append(world.now_s - began)
    assert pauses == [1, 2, 4, 8, 16, 30]


def test_what_waits_for_a_person_starts_again_when_the_node_says_so() -> None:
    world = World()
    world.agreed()
    run = world.run()
    world.failed("media", run, "person", "the disk is full")
    world.failed("brand", run, "peer", "the other side left")
    world.wait(3600)
    assert (world.state.state, world.state.reason, world.state.by) == ("waiting", "the disk is full", "media")
    world.here("brand")
    assert world.state.state == "waiting"
    world.here("media")
    assert (world.state.state, world.state.attempt) == ("running", 1)


def test_a_restart_ends_the_run_and_the_step_starts_again() -> None:
    world = World()
    world.agreed()
    first = world.run()
    world.restart()
    assert world.state.state == "waiting"
    world.wait(2)
    world.here()
    assert world.run() != first
    assert world.state.attempt == 2


def test_a_run_that_all_hold_is_committed_after_a_restart_instead_of_repeated() -> None:
    world = World()
    world.agreed()
    first = world.run()
    world.prepared("brand", first)
    world.restart()
    world.here("brand", held=(held(first),))
    world.here("media", held=(held(first),))
    assert [message.commit.run for message in world.heard("brand", "commit")] == [first]
    assert [message.commit.run for message in world.heard("media", "commit")] == [first]
    assert (world.state.state, world.state.step) == ("running", 1)


def test_a_run_that_only_one_holds_is_given_up_and_starts_again() -> None:
    world = World()
    world.agreed()
    first = world.run()
    world.restart()
    world.here("brand", held=(held(first),))
    world.here("media")
    world.wait(2)
    assert [message.stop.run for message in world.heard("brand", "stop")] == [first]
    assert world.run() != first


def test_a_commit_that_a_node_did_not_get_is_told_again() -> None:
    world = World()
    world.agreed()
    run = world.run()
    world.prepared("media", run)
    world.gone("media")
    world.prepared("brand", run)
    assert (world.state.state, world.state.step) == ("waiting", 1)
    assert not world.heard("media", "commit")
    world.restart()
    world.here("media", held=(held(run),))
    assert [message.commit.run for message in world.heard("media", "commit")] == [run]
    world.gone("media")
    world.here("media", held=(held(run, committed=True),))
    assert not world.heard("media", "commit")


def test_prepared_that_crossed_a_stop_does_not_count() -> None:
    world = World()
    world.agreed()
    run = world.run()
    world.failed("brand", run, "carrier")
    assert world.heard("media", "stop")
    world.prepared("media", run)
    world.wait(HEARD_WITHIN_S + 1)
    world.wait(1)
    assert not world.heard("media", "commit")
    assert (world.state.state, world.state.attempt) == ("running", 2)


def test_a_run_that_a_party_was_told_to_stop_is_not_committed_when_the_other_comes_back_with_it() -> None:
    world = World()
    world.agreed()
    run = world.run()
    world.gone("brand")
    assert world.heard("media", "stop")
    world.prepared("media", run)
    world.wait(HEARD_WITHIN_S + 1)
    world.here("brand", held=(held(run),))
    world.wait(2)
    assert not world.heard("media", "commit")
    assert world.run() != run


def test_receipts_for_different_transcripts_end_the_campaign() -> None:
    world = World()
    world.agreed()
    run = world.run()
    world.prepared("brand", run)
    world.prepared("media", run, receipt=b"other" + run)
    assert world.state.state == "failed"
    assert "different transcripts" in world.state.reason
    assert not world.heard("brand", "commit")


def test_a_receipt_that_does_not_verify_is_blamed_on_its_party() -> None:
    world = World()
    world.agreed()
    run = world.run()
    world.prepared("media", run, receipt=b"forged")
    world.prepared("brand", run)
    assert (world.state.state, world.state.by) == ("failed", "media")


def test_a_contract_expires_by_the_clock_also_while_it_runs() -> None:
    world = World()
    world.here()
    world.file(expires_in_s=100)
    world.sign()
    run = world.run()
    world.wait(101)
    assert world.state.state == "expired"
    assert [message.stop.run for message in world.heard("brand", "stop")] == [run]
    with pytest.raises(RefusedError, match="has expired"):
        world.file(contract=hashlib.sha256(b"other").digest(), expires_in_s=-1)


def test_refusing_ends_a_campaign_before_and_cancelling_at_any_time() -> None:
    world = World()
    world.here()
    world.file()
    with pytest.raises(RefusedError, match="cancel it instead"):
        world.scheduler.withdraw("brand", CONTRACT, True, world.at)
    world.do(world.scheduler.withdraw("media", CONTRACT, True, world.at))
    assert (world.state.state, world.state.by) == ("refused", "media")
    with pytest.raises(RefusedError, match="cannot be signed"):
        world.sign()

    running = World()
    running.agreed()
    run = running.run()
    running.do(running.scheduler.withdraw("media", CONTRACT, False, running.at))
    assert (running.state.state, running.state.by) == ("cancelled", "media")
    assert [message.stop.run for message in running.heard("brand", "stop")] == [run]


def test_a_worker_that_opens_no_line_and_one_that_loses_it_end_the_run() -> None:
    world = World()
    world.agreed()
    run = world.run()
    world.scheduler.line_opened(run, "brand")
    world.wait(OPEN_WITHIN_S + 1)
    world.wait(HEARD_WITHIN_S + 1)
    world.wait(1)
    run = world.run()
    for party in PARTIES:
        world.scheduler.line_opened(run, party)
    world.wait(OPEN_WITHIN_S + 1)
    assert (world.state.state, world.state.attempt) == ("running", 2)
    world.do(world.scheduler.line_lost(run, "brand", world.at))
    world.wait(REPORT_WITHIN_S + 1)
    world.wait(HEARD_WITHIN_S + 1)
    world.wait(2)
    assert (world.state.state, world.state.attempt) == ("running", 3)


def test_a_party_takes_part_in_at_most_four_runs_at_a_time_and_those_that_wait_take_turns() -> None:
    world = World(runs_per_party=4)
    world.here()
    contracts = [hashlib.sha256(bytes([i])).digest() for i in range(6)]
    for contract in contracts:
        world.file(contract, steps=("match",))
        world.sign(contract=contract)
        world.now_s += 1
    starts = [message.start for message in world.heard("brand", "start")]
    assert [start.contract for start in starts] == contracts[:4]
    for party in PARTIES:
        ended = pb.Ended(contract=contracts[0], run=starts[0].run, prepared=True, receipt=b"ok" + starts[0].run)
        world.do(world.scheduler.ended(party, ended, world.at))
    assert [message.start.contract for message in world.heard("brand", "start")] == [contracts[4]]


def test_a_run_over_the_byte_limit_ends_the_campaign() -> None:
    world = World()
    world.agreed()
    world.do(world.scheduler.overrun(world.run(), "brand", 1000, world.at))
    assert world.state.state == "failed"
    assert "1,000 bytes" in world.state.reason


# Campaigns with several media


def test_each_media_runs_its_own_steps_and_hears_of_no_other_run() -> None:
    world = World(THREE)
    world.here()
    world.file_apart()
    for index, (_, media) in enumerate(APART):
        other = "beta" if media == "alpha" else "alpha"
        run = world.run("brand", media)
        assert world.state.step == index
        for party in ("brand", media):
            world.prepared(party, run, index)
        for party in ("brand", media):
            (message,) = world.heard(party, "commit")
            assert list(message.commit.receipts) == [b"ok" + run] * 2
        assert not world.heard(other, "commit")
    assert world.state.state == "done"


def test_a_media_that_is_away_holds_up_its_own_steps_alone() -> None:
    world = World(THREE)
    world.here("brand", "beta")
    world.file_apart()
    for index in (1, 3):
        run = world.run("brand", "beta")
        for party in ("brand", "beta"):
            world.prepared(party, run, index)
    assert (world.state.state, world.state.step, list(world.state.missing)) == ("waiting", 0, ["alpha"])
    world.here("alpha")
    assert world.state.step == 0
    world.run("brand", "alpha")


def test_a_media_that_goes_leaves_the_run_of_another_alone() -> None:
    world = World(THREE)
    world.here("brand", "beta")
    world.file_apart()
    run = world.run("brand", "beta")
    world.here("alpha")
    world.gone("alpha")
    world.failed("alpha", run, "policy")
    world.prepared("alpha", run, 1)
    assert (world.state.state, world.state.step) == ("running", 1)
    assert not world.heard("brand", "stop")
    for party in ("brand", "beta"):
        world.prepared(party, run, 1)
    assert world.disk[CONTRACT].steps[1].commit is not None


def test_a_run_that_breaks_off_waits_while_the_other_medias_step_runs_and_what_is_committed_stays() -> None:
    world = World(THREE)
    world.here()
    world.file_apart()
    first = world.run("brand", "alpha")
    world.failed("alpha", first, "person", "somebody at alpha has to do something first")
    world.failed("brand", first, "peer")
    for index in (1, 3):
        run = world.run("brand", "beta")
        for party in ("brand", "beta"):
            world.prepared(party, run, index)
    world.wait(3600)
    assert (world.state.state, world.state.step, world.state.by) == ("waiting", 0, "alpha")
    assert "alpha has to do something" in world.state.reason
    world.here("alpha")
    again = world.run("brand", "alpha")
    world.failed("alpha", again, "policy", "a rule forbids it")
    world.failed("brand", again, "carrier")
    assert (world.state.state, world.state.by) == ("failed", "alpha")
    assert [step.commit is not None for step in world.disk[CONTRACT].steps] == [False, True, False, True]


def test_a_result_that_waits_for_its_commit_outlives_the_runs_of_another_media() -> None:
    world = World(THREE)
    world.here()
    world.file_apart()
    first = world.run("brand", "alpha")
    world.prepared("brand", first)
    world.gone("alpha")
    world.wait(HEARD_WITHIN_S + 1)
    other = world.run("brand", "beta")
    assert not world.heard("brand", "stop")
    world.here("alpha", held=(held(first),))
    assert not world.heard("brand", "commit")  # one run at a time
    for party in ("brand", "beta"):
        world.prepared(party, other, 1)
    assert [message.commit.run for message in world.heard("brand", "commit")] == [other, first]
    assert [message.commit.run for message in world.heard("alpha", "commit")] == [first]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"contract": b"short"}, "INVALID_ARGUMENT"),
        ({"parties": ["brand"]}, "INVALID_ARGUMENT"),
        ({"parties": ["brand", "brand"]}, "INVALID_ARGUMENT"),
        ({"parties": ["media", "brand"]}, "PERMISSION_DENIED"),
        ({"steps": []}, "INVALID_ARGUMENT"),
        ({"steps": ["Match people"]}, "INVALID_ARGUMENT"),
        ({"expires_s": 2**62}, "INVALID_ARGUMENT"),
        ({"members": [pb.Members(parties=PARTIES)]}, "INVALID_ARGUMENT"),
        ({"members": [pb.Members(parties=["brand"])] * 2}, "INVALID_ARGUMENT"),
        ({"members": [pb.Members(parties=["brand", "brand"])] * 2}, "INVALID_ARGUMENT"),
        ({"members": [pb.Members(parties=["brand", "stranger"])] * 2}, "INVALID_ARGUMENT"),
        ({"parties": THREE, "members": [pb.Members(parties=["brand", "alpha"])] * 2}, "INVALID_ARGUMENT"),
    ],
)
def test_a_docket_that_cannot_be_is_refused(change: dict[str, Any], code: str) -> None:
    world = World()
    good: dict[str, Any] = {
        "contract": CONTRACT,
        "parties": list(PARTIES),
        "steps": list(STEPS),
        "expires_s": int(START_S) + 60,
    }
    with pytest.raises(RefusedError) as caught:
        world.scheduler.file("brand", pb.Docket(**(good | change)), world.at)
    assert caught.value.code == code


def test_a_stranger_cannot_tell_a_campaign_from_none() -> None:
    world = World()
    world.file()
    answers = set()
    for party, contract in (("stranger", CONTRACT), ("brand", bytes(32))):
        with pytest.raises(RefusedError) as caught:
            world.scheduler.look(party, contract)
        answers.add(caught.value.text.replace(party, "X"))
    assert len(answers) == 1


def test_filing_again_is_harmless_and_filing_something_else_is_refused() -> None:
    world = World()
    world.file()
    world.file()
    with pytest.raises(RefusedError, match="other parties, steps or expiry"):
        world.file(steps=("match",))
    apart = World(THREE)
    apart.file_apart()
    apart.file_apart()
    docket = pb.Docket(contract=CONTRACT, parties=THREE, steps=[name for name, _ in APART])
    docket.expires_s = int(apart.at.wall_s) + 86_400
    with pytest.raises(RefusedError, match="other parties, steps or expiry"):
        apart.scheduler.file("brand", docket, apart.at)


# Random lists of events, with restarts and lost messages on both sides


@dataclass
class FakeNode:
    """A party's node with its disk: `prepared` and `committed` survive everything; lines lose what is under way."""

    name: str
    mine: dict[int, tuple[str, ...]]  # the steps in which it takes part, and who does
    here: bool = False
    started: dict[bytes, int] = field(default_factory=dict)  # run -> step; dies with the line
    prepared: dict[bytes, int] = field(default_factory=dict)
    committed: dict[int, bytes] = field(default_factory=dict)
    inbox: deque[pb.ToNode] = field(default_factory=deque)
    outbox: deque[pb.FromNode] = field(default_factory=deque)

    def take(self, message: pb.ToNode) -> None:
        kind = message.WhichOneof("kind")
        if kind == "start":
            start = message.start
            assert start.step not in self.committed, "a committed step was started again"
            assert start.step in self.mine, "a step was started at a party that takes no part in it"
            before = [step for step in self.mine if step < start.step and self.mine[step] == self.mine[start.step]]
            assert all(step in self.committed for step in before), "a step was started before its turn"
            self.started.clear()
            self.prepared = {run: step for run, step in self.prepared.items() if step != start.step}
            self.started[start.run] = start.step
        elif kind == "stop":
            # A node may throw away a prepared result as soon as it is told to stop.
            self.prepared.pop(message.stop.run, None)
            if self.started.pop(message.stop.run, None) is not None:
                self.say(message.stop.run, 0, error="carrier")
        elif kind == "commit":
            commit = message.commit
            if commit.step in self.committed:
                assert self.committed[commit.step] == commit.run, "two runs of a step were committed"
                return
            assert commit.run in self.prepared, "a run was committed that this node does not hold"
            assert list(commit.receipts) == [b"ok" + commit.run] * 2
            self.committed[commit.step] = commit.run
            del self.prepared[commit.run]

    def say(self, run: bytes, step: int, error: str = "") -> None:
        ended = pb.Ended(contract=CONTRACT, step=step, run=run, prepared=not error, error=error)
        if not error:
            ended.receipt = b"ok" + run
        if self.here:
            self.outbox.append(pb.FromNode(ended=ended))

    def finish(self, error: str) -> None:
        for run, step in list(self.started.items()):
            del self.started[run]
            if not error:
                self.prepared[run] = step
            self.say(run, step, error)

    def holding(self) -> list[pb.Held]:
        prepared = [held(run, step) for run, step in self.prepared.items()]
        return prepared + [held(run, step, committed=True) for step, run in self.committed.items()]


class Storm:
    """Nodes and a coordinator, each of which can be killed, and lines that lose what is on them."""

    def __init__(self, parties: tuple[str, ...] = PARTIES) -> None:
        self.world = World(parties)
        if parties == THREE:
            self.world.file_apart()
        else:
            self.world.file()
            self.world.sign()
        steps = list(enumerate(self.world.disk[CONTRACT].steps))
        of = {party: {index: step.parties for index, step in steps if party in step.parties} for party in parties}
        self.nodes = {party: FakeNode(party, of[party]) for party in parties}
        for node in self.nodes.values():
            self.attend(node)
        self.deliver()

    def deliver(self) -> None:
        for party, messages in self.world.told.items():
            if self.nodes[party].here:
                self.nodes[party].inbox.extend(messages)
            messages.clear()

    def attend(self, node: FakeNode) -> None:
        if not node.here:
            node.here = True
            self.world.do(self.world.scheduler.here(node.name, node.holding(), self.world.at))

    def part(self, node: FakeNode, told: bool) -> None:
        """The line breaks: what was on it is lost, and so are the workers. `told`: the coordinator has noticed."""
        node.here = False
        node.started.clear()
        node.inbox.clear()
        node.outbox.clear()
        self.world.told[node.name].clear()
        if told:
            self.world.gone(node.name)

    def step(self, operation: str, party: str) -> None:
        node, world = self.nodes[party], self.world
        if operation == "attend":
            self.attend(node)
        elif operation == "part" and node.here:
            self.part(node, told=True)
        elif operation == "kill coordinator":
            for each in self.nodes.values():
                self.part(each, told=False)
            world.restart()
        elif operation == "read" and node.inbox:
            node.take(node.inbox.popleft())
        elif operation == "write" and node.outbox:
            world.do(world.scheduler.ended(party, node.outbox.popleft().ended, world.at))
        elif operation in ("prepare", "break"):
            node.finish("carrier" if operation == "break" else "")
        elif operation == "wait":
            world.wait(1.5)
        elif operation == "go on":
            for name, inner in itertools.product(self.nodes, ("attend", "read", "read", "read", "write")):
                self.step(inner, name)
        self.deliver()

    def check(self) -> None:
        steps = self.world.disk[CONTRACT].steps
        for index, step in enumerate(steps):
            for node in self.nodes.values():
                mine = node.committed.get(index)
                if step.commit is None or node.name not in step.parties:
                    assert mine is None
                    continue
                assert mine in (None, step.commit.run), "the parties committed different runs"
                held_here = mine is not None or step.commit.run in node.prepared
                assert held_here, "a run was committed that a party does not hold"

    def settle(self) -> None:
        """From now on nothing breaks."""
        for _ in range(400):
            for party in self.nodes:
                for operation in ("attend", "read", "prepare", "write"):
                    self.step(operation, party)
                    self.check()
            self.step("wait", "brand")
            if self.world.state.state in FINAL and not any(node.inbox for node in self.nodes.values()):
                return


OPERATIONS = ("part", "kill coordinator", "read", "write", "prepare", "prepare", "break", "wait", "go on", "go on")


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.sampled_from(PARTIES)), min_size=15, max_size=60))
def test_whatever_breaks_each_step_is_committed_once_and_the_same_at_both(operations: list[tuple[str, str]]) -> None:
    storm = Storm()
    for operation, party in operations:
        storm.step(operation, party)
        storm.check()
    storm.settle()
    state = storm.world.state
    assert state.state == "done" or (state.state == "failed" and "10 attempts" in state.reason)
    if state.state == "done":
        assert storm.nodes["brand"].committed == storm.nodes["media"].committed
        assert sorted(storm.nodes["brand"].committed) == list(range(len(STEPS)))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.sampled_from(THREE)), min_size=20, max_size=80))
def test_whatever_breaks_each_media_has_its_own_steps_once_and_the_brand_all(operations: list[tuple[str, str]]) -> None:
    storm = Storm(THREE)
    for operation, party in operations:
        storm.step(operation, party)
        storm.check()
    storm.settle()
    state = storm.world.state
    assert state.state == "done" or (state.state == "failed" and "10 attempts" in state.reason)
    if state.state == "done":
        assert sorted(storm.nodes["brand"].committed) == list(range(len(APART)))
        for media in THREE[1:]:
            mine = {index: run for index, run in storm.nodes["brand"].committed.items() if APART[index][1] == media}
            assert storm.nodes[media].committed == mine


def test_the_table_names_every_state_and_final_ones_stay() -> None:
    assert set().union(*TRANSITIONS.values()) | {"signing"} == set(TRANSITIONS)
    assert all(TRANSITIONS[state] <= {"failed"} for state in FINAL)
