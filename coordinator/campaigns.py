"""Which step of which campaign runs when. No sockets, no files, no clock: events come in, effects go out.

    state       may become                                    what it waits for
    signing     waiting, refused, cancelled, expired          every party's signature
    waiting     running, waiting, done, failed, cancelled, expired    the nodes of a step's parties; then it starts
    running     waiting, done, failed, cancelled, expired     the receipts of its parties, or the first bad news
    done, failed, refused, cancelled, expired                 nothing: these are final

A step is committed when the receipts of all its parties are here, and this is on disk before anybody is told. A run
whose line or node was lost is over; the step starts again as a new run when everybody is back. A node that comes back
says what it still holds: if all hold the same run with its receipt, that run is committed instead of repeated.

Steps that have two parties in common run in their order; those between others need not wait for them, so that a media
that is away holds up its own steps alone. Of one campaign one step runs at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tidegate.protocols.channel import TidegateError
from tidegate.wire import pairs
from tidegate.wire import relay_pb2 as pb

from .refusal import RefusedError, printable

COORDINATOR = pairs.COORDINATOR  # where the coordinator itself plays a part in a step

TRANSITIONS: dict[str, frozenset[str]] = {
    "signing": frozenset({"waiting", "refused", "cancelled", "expired"}),
    "waiting": frozenset({"running", "waiting", "done", "failed", "cancelled", "expired"}),
    "running": frozenset({"waiting", "done", "failed", "cancelled", "expired"}),
    "done": frozenset({"failed"}),  # only when a node cannot keep what was committed
    "failed": frozenset(),
    "refused": frozenset(),
    "cancelled": frozenset(),
    "expired": frozenset(),
}
FINAL = frozenset({"done", "failed", "refused", "cancelled", "expired"})

# How a run can end at a party, the most telling first: when several parties report, the first of these decides.
# The number is how often a step is tried when runs end so. "person": somebody at that party has to do something first;
# the step starts again when its node says so by a new `Here`.
ENDINGS: dict[str, int] = {
    "policy": 1,
    "config": 1,
    "disagreement": 1,
    "person": 10**9,
    "internal": 3,
    "peer": 1,
    "carrier": 10,
    "lost": 10,
}
_REPORTED = tuple(kind for kind in ENDINGS if kind != "lost")  # the last one is the coordinator's own word
HEARD_WITHIN_S = 4.0  # after the first bad news of a run: how long the other parties' reports are waited for
REPORT_WITHIN_S = 15.0  # after a worker's line broke: how long its node may take to say why
OPEN_WITHIN_S = 120.0  # after the start of a run: how long a worker may take to open its line
PAUSE_AT_MOST_S = 30.0  # between two attempts; the first pause is one second, and each next one twice as long

MOST_PARTIES = 64  # of a campaign
_STEP_NAME = re.compile(r"[a-z][a-z0-9_-]{0,95}")  # a kind of step and, with several media, the media's name
_MAX_OPEN_PER_PARTY = 1000
_MAX_TOLD = 1000
_YEAR_S = 366 * 86400


class Moment(NamedTuple):
    """Now: by the wall clock for expiry, by a clock that never jumps for waiting times."""

    wall_s: float
    steady_s: float


@dataclass(frozen=True)
class Commit:
    """A finished step: the run whose result counts, and the receipt of each of its parties."""

    run: bytes
    receipts: dict[str, bytes]


@dataclass(frozen=True)
class Report:
    """How a run ended at one party: `kind` is "prepared" (with a receipt) or a key of ENDINGS (with a reason)."""

    kind: str
    receipt: bytes = b""
    reason: str = ""


@dataclass
class Run:
    """A run that is going on. Lives in memory only: after a restart of the coordinator no run goes on."""

    id: bytes
    contract: bytes
    step: int
    parties: tuple[str, ...]
    open_by_s: float
    opened: set[tuple[bytes, str]] = field(default_factory=set)
    reports: dict[str, Report] = field(default_factory=dict)
    report_by_s: dict[str, float] = field(default_factory=dict)
    decide_by_s: float | None = None

    def __post_init__(self) -> None:
        self.lines = pairs.lines(self.id, self.parties)

    def is_open(self, party: str) -> bool:
        """Whether the party's worker has opened all of its lines."""
        return all((number, party) in self.opened for number, pair in self.lines.items() if party in pair)


@dataclass
class Step:
    """A step and how far it is. The store keeps all but the last four fields, which say why it waits."""

    name: str
    parties: tuple[str, ...]
    attempt: int = 0
    commit: Commit | None = None
    reason: str = ""
    by: str = ""
    not_before_s: float = 0.0
    waits_for: str = ""  # the party at which a person has to do something


@dataclass
class Campaign:
    """A campaign as the coordinator knows it. All but the last field are what the store keeps.

    step is the index of the step that runs or is next, the number of steps once all are done.
    """

    contract: bytes
    parties: tuple[str, ...]
    steps: tuple[Step, ...]
    expires_s: int
    filed_s: float
    changed_s: float
    state: str = "signing"
    step: int = 0
    reason: str = ""
    by: str = ""
    signatures: dict[str, bytes] = field(default_factory=dict)
    run: Run | None = None

    @property
    def short(self) -> str:
        return self.contract.hex()[:12]

    @property
    def current(self) -> Step:
        return self.steps[min(self.step, len(self.steps) - 1)]

    @property
    def attempt(self) -> int:
        """How often the step that runs or is next was started."""
        return 0 if self.current.commit else self.current.attempt

    def next_steps(self) -> list[int]:
        """The steps that are not committed, and before which none is missing that has two of their parties."""
        missing: list[int] = []
        first: list[int] = []
        for index, step in enumerate(self.steps):
            if step.commit is None:
                if all(len({*step.parties} & {*self.steps[before].parties}) < 2 for before in missing):
                    first.append(index)
                missing.append(index)
        return first


@dataclass
class Effects:
    """What is to be done, in this order: keep `changed` on disk, then set the lines, then tell, then log."""

    changed: dict[bytes, Campaign] = field(default_factory=dict)
    lines: list[tuple[bytes, tuple[str, ...] | None]] = field(default_factory=list)  # run, parties; None: over
    tells: list[tuple[str, pb.ToNode]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shown: dict[bytes, Campaign] = field(default_factory=dict)


# party, contract, step, run, receipt -> transcript digests; raises TidegateError for a receipt that does not verify
ReceiptReader = Callable[[str, bytes, int, bytes, bytes], bytes]


class Scheduler:
    """Every method but `state` and `look` returns the Effects of one event."""

    def __init__(
        self,
        campaigns: Iterable[Campaign],
        *,
        read_receipt: ReceiptReader,
        new_run: Callable[[], bytes],
        runs_per_party: int = 4,
        own_runs: int = 16,
    ) -> None:
        self._campaigns = {campaign.contract: campaign for campaign in campaigns}
        self._read_receipt, self._new_run = read_receipt, new_run
        # The coordinator's own limit is another than a party's: one party's runs must not take all of its places.
        self._runs_per_party, self._own_runs = runs_per_party, own_runs
        # What each attending party holds: (contract, step) -> run -> receipt. Who is not in it is not here.
        self._here: dict[str, dict[tuple[bytes, int], dict[bytes, bytes]]] = {}
        # Runs that a party was told to stop on its present line: a "prepared" that crossed the Stop no longer counts.
        self._stopped: dict[str, set[bytes]] = {}
        self._effects = Effects()

    # What callers ask

    def look(self, party: str, contract: bytes = b"") -> list[pb.CampaignState]:
        """The state of one campaign, or of all in which `party` takes part (the latest 1,000)."""
        if contract:
            return [self.state(self._of(party, contract))]
        return [self.state(campaign) for campaign in self._latest(party)]

    def state(self, campaign: Campaign) -> pb.CampaignState:
        missing: list[str] = []
        if campaign.state == "signing":
            missing = [party for party in campaign.parties if party not in campaign.signatures]
        elif campaign.state == "waiting":
            wanted = {party for index in campaign.next_steps() for party in campaign.steps[index].parties}
            missing = [party for party in campaign.parties if party in wanted and party not in self._here]
        return pb.CampaignState(
            contract=campaign.contract,
            state=campaign.state,
            step=campaign.step,
            attempt=campaign.attempt,
            reason=campaign.reason,
            by=campaign.by,
            missing=missing,
        )

    # Events

    def resume(self, at: Moment) -> Effects:
        """Call once after loading: runs that were going on when the coordinator ended are over."""
        for campaign in self._campaigns.values():
            if campaign.state == "running":
                self._again(campaign, "lost", "the coordinator was restarted", "", at)
        return self._flush(at)

    def file(self, party: str, docket: pb.Docket, at: Moment) -> Effects:
        """A new campaign, signed by its proposer. The caller has verified the signature."""
        parties, names = tuple(docket.parties), tuple(docket.steps)
        if len(docket.contract) != 32:
            raise RefusedError("INVALID_ARGUMENT", f"a contract hash has 32 bytes, this one {len(docket.contract)}")
        if not 2 <= len(parties) <= MOST_PARTIES or len(set(parties)) != len(parties) or COORDINATOR in parties:
            text = f"a campaign has 2 to {MOST_PARTIES} different parties, and the coordinator is none of them"
            raise RefusedError("INVALID_ARGUMENT", text)
        if parties[0] != party:
            raise RefusedError("PERMISSION_DENIED", f"a campaign's first party is its proposer, and {party} calls")
        if not 1 <= len(names) <= 32 or not all(_STEP_NAME.fullmatch(name) for name in names):
            raise RefusedError("INVALID_ARGUMENT", "a campaign has 1 to 32 steps with short lower-case names")
        steps = tuple(map(Step, names, _members(docket)))
        known = self._campaigns.get(docket.contract)
        if known is not None:
            same = [(step.name, step.parties) for step in known.steps] == [(step.name, step.parties) for step in steps]
            if same and (known.parties, known.expires_s) == (parties, docket.expires_s):
                return self._flush(at)
            raise RefusedError("ALREADY_EXISTS", "this contract was filed with other parties, steps or expiry")
        if not at.wall_s < docket.expires_s < at.wall_s + 2 * _YEAR_S:
            raise RefusedError("INVALID_ARGUMENT", "the contract has expired, or expires more than two years from now")
        if sum(c.state not in FINAL and c.parties[0] == party for c in self._campaigns.values()) >= _MAX_OPEN_PER_PARTY:
            raise RefusedError("RESOURCE_EXHAUSTED", f"{party} has {_MAX_OPEN_PER_PARTY} open campaigns: cancel some")
        campaign = Campaign(docket.contract, parties, steps, docket.expires_s, at.wall_s, at.wall_s)
        campaign.signatures[party] = docket.signature
        self._campaigns[campaign.contract] = campaign
        self._changed(campaign, at)
        self._note(campaign, f"filed by {party} for {', '.join(parties[1:])}: {', '.join(names)}")
        return self._flush(at)

    def sign(self, party: str, contract: bytes, signature: bytes, at: Moment) -> Effects:
        """A party's signature, which the caller has verified."""
        campaign = self._of(party, contract)
        if party in campaign.signatures:
            return self._flush(at)
        if campaign.state != "signing":
            raise RefusedError("FAILED_PRECONDITION", f"the campaign is {campaign.state}: it cannot be signed any more")
        campaign.signatures[party] = signature
        self._changed(campaign, at)
        self._note(campaign, f"signed by {party}")
        if len(campaign.signatures) == len(campaign.parties):
            self._move(campaign, "waiting", at)
        return self._flush(at)

    def withdraw(self, party: str, contract: bytes, refused: bool, at: Moment) -> Effects:
        """A party refuses before it signs, or cancels at any time. A campaign that is over stays as it is."""
        campaign = self._of(party, contract)
        if campaign.state in FINAL:
            return self._flush(at)
        if refused and (campaign.state != "signing" or party in campaign.signatures):
            raise RefusedError("FAILED_PRECONDITION", f"{party} has signed this campaign: cancel it instead")
        state = "refused" if refused else "cancelled"
        self._finish(campaign, state, f"{party} {state} the campaign", party, at)
        return self._flush(at)

    def here(self, party: str, held: Iterable[pb.Held], at: Moment) -> Effects:
        """A node attends, or says anew what it holds."""
        fresh = party not in self._here
        if fresh:
            self._stopped[party] = set()
            self._effects.shown.update({campaign.contract: campaign for campaign in self._open(party)})
        for campaign in self._open(party):
            for step in campaign.steps:
                if step.waits_for == party:
                    step.waits_for, step.attempt = "", 0
        self._here[party] = {}
        for item in held:
            self._hold(party, item.contract, item.step, item.run, item.receipt, item.committed, at)
        effects = self._flush(at)
        if fresh:
            # What changed while it was away. The others are told of the open campaigns only, by _flush.
            missed = [each for each in self._latest(party) if each.contract not in effects.shown]
            effects.tells += [(party, pb.ToNode(state=self.state(campaign))) for campaign in missed]
        return effects

    def gone(self, party: str, at: Moment) -> Effects:
        """A node's line is lost, and with it the runs in which it had not prepared its result."""
        self._here.pop(party, None)
        self._stopped.pop(party, None)
        for campaign in self._open(party):
            self._effects.shown[campaign.contract] = campaign
            run = campaign.run
            if run is not None and party in run.parties and party not in run.reports:
                lost = Report("lost", reason=f"the line to {party}'s node broke")
                self._report(campaign, run, party, lost, at)
        return self._flush(at)

    def ended(self, party: str, ended: pb.Ended, at: Moment) -> Effects:
        """A node says how a run ended there."""
        campaign = self._campaigns.get(ended.contract)
        if campaign is None or party not in (*campaign.parties, COORDINATOR) or len(ended.run) != 16:
            raise RefusedError("INVALID_ARGUMENT", "the report is about a run of which the caller is no party")
        if not ended.prepared and ended.error not in _REPORTED:
            text = f"a run ends with one of {', '.join(_REPORTED)}, not {printable(ended.error, 32)!r}"
            raise RefusedError("INVALID_ARGUMENT", text)
        if ended.prepared:
            self._hold(party, ended.contract, ended.step, ended.run, ended.receipt, False, at)
        elif campaign.run is not None and campaign.run.id == ended.run and party in campaign.run.parties:
            self._forget(party, campaign.run.id, campaign)
            self._report(campaign, campaign.run, party, Report(ended.error, reason=printable(ended.reason)), at)
        elif campaign.state not in FINAL - {"done"}:
            for step in campaign.steps:
                if step.commit is not None and step.commit.run == ended.run and party in step.parties:
                    text = f"{party} could not keep the result of {step.name}: {printable(ended.reason)}"
                    self._finish(campaign, "failed", text, party, at)
        return self._flush(at)

    def line_opened(self, line: bytes, party: str) -> None:
        """A worker has opened its end of a line."""
        if (going := self._going(line)) is not None:
            going[1].opened.add((line, party))

    def line_lost(self, line: bytes, party: str, at: Moment) -> Effects:
        """A worker's line broke. Its node knows more and is given time to say so."""
        if (going := self._going(line)) is not None:
            going[1].report_by_s.setdefault(party, at.steady_s + REPORT_WITHIN_S)
        return self._flush(at)

    def overrun(self, line: bytes, party: str, limit: int, at: Moment) -> Effects:
        """The run of this line has moved more bytes than the coordinator forwards for one."""
        if (going := self._going(line)) is not None:
            text = f"the run moved more than {limit:,} bytes, which is this coordinator's limit for a run"
            self._finish(going[0], "failed", text, party, at)
        return self._flush(at)

    def tick(self, at: Moment) -> Effects:
        """Time has passed."""
        for campaign in list(self._campaigns.values()):
            if campaign.state in FINAL:
                continue
            if at.wall_s >= campaign.expires_s:
                self._finish(campaign, "expired", "the contract expired before all of its steps had run", "", at)
            elif campaign.run is not None:
                self._watch(campaign, campaign.run, at)
        return self._flush(at)

    # How a run ends

    def _watch(self, campaign: Campaign, run: Run, at: Moment) -> None:
        for party in run.parties:
            if campaign.run is not run:
                return
            if party in run.reports:
                continue
            if at.steady_s >= run.report_by_s.get(party, float("inf")):
                self._stop(party, run.id, campaign, "its line broke")
                self._report(campaign, run, party, Report("carrier", reason=f"the line of {party}'s worker broke"), at)
            elif at.steady_s >= run.open_by_s and not run.is_open(party):
                self._stop(party, run.id, campaign, "its worker opened no line")
                self._report(campaign, run, party, Report("carrier", reason=f"{party}'s worker opened no line"), at)
        if campaign.run is run and run.decide_by_s is not None and at.steady_s >= run.decide_by_s:
            self._decide(campaign, run, at)

    def _report(self, campaign: Campaign, run: Run, party: str, report: Report, at: Moment) -> None:
        run.reports[party] = report
        prepared = {name: each.receipt for name, each in run.reports.items() if each.kind == "prepared"}
        if len(prepared) == len(run.parties):
            self._commit_or_fail(campaign, run.step, run.id, prepared, at)
            return
        if report.kind != "prepared":
            self._note(campaign, f"{campaign.current.name}: {party}: {report.reason or report.kind}")
            if run.decide_by_s is None:
                run.decide_by_s = at.steady_s + HEARD_WITHIN_S
                self._effects.lines.append((run.id, None))
            for other in run.parties:
                if other not in run.reports:
                    self._stop(other, run.id, campaign, report.reason)
        if run.decide_by_s is not None and len(run.reports) == len(run.parties):
            self._decide(campaign, run, at)

    def _decide(self, campaign: Campaign, run: Run, at: Moment) -> None:
        """The run has failed; everybody has said how, or has had the time to."""
        silent = [name for name in run.parties if name not in run.reports]
        # In the parties' order, so that who is named does not depend on who was quicker to say so.
        heard = [(name, run.reports[name]) for name in run.parties if name in run.reports]
        bad = [(name, report) for name, report in heard if report.kind != "prepared"]
        bad += [(name, Report("lost", reason=f"{name}'s node did not say how the run ended")) for name in silent]
        party, worst = min(bad, key=lambda item: list(ENDINGS).index(item[1].kind))
        campaign.run = None
        if silent or any(report.kind != "lost" for _, report in bad):
            # Somebody is known not to hold this run, so nobody will ever be told to commit it.
            for name, report in run.reports.items():
                if report.kind == "prepared":
                    self._stop(name, run.id, campaign, worst.reason)
        self._again(campaign, worst.kind, worst.reason or worst.kind, party, at)

    def _again(self, campaign: Campaign, kind: str, reason: str, by: str, at: Moment) -> None:
        """Back to waiting for the next attempt, or to the end if this kind of failure allows no more."""
        step = campaign.current
        if step.attempt < ENDINGS[kind]:
            step.not_before_s = at.steady_s + min(PAUSE_AT_MOST_S, 2.0 ** min(step.attempt - 1, 8))
            step.reason, step.by = reason, by
            step.waits_for = by if kind == "person" else ""
            self._wait(campaign, at)
        elif ENDINGS[kind] == 1:
            self._finish(campaign, "failed", reason, by, at)
        else:
            text = f"step {step.name} broke off in {step.attempt} attempts; the last time: {reason}"
            self._finish(campaign, "failed", text, by, at)

    def _wait(self, campaign: Campaign, at: Moment) -> None:
        """To waiting, and what is said of it is the first of the next steps that something stands in the way of."""
        steps = campaign.next_steps()
        campaign.step = next((index for index in steps if campaign.steps[index].reason), steps[0])
        campaign.reason, campaign.by = campaign.current.reason, campaign.current.by
        self._move(campaign, "waiting", at)

    def _finish(self, campaign: Campaign, state: str, reason: str, by: str, at: Moment) -> None:
        run, campaign.run = campaign.run, None
        if run is not None:
            self._effects.lines.append((run.id, None))
            for party in run.parties:
                self._stop(party, run.id, campaign, reason)
        for party in campaign.parties:
            for held in self._held(party, campaign):
                self._stop(party, held, campaign, reason)
        campaign.reason, campaign.by = reason, by
        self._move(campaign, state, at)

    def _commit_or_fail(
        self, campaign: Campaign, index: int, run: bytes, receipts: dict[str, bytes], at: Moment
    ) -> None:
        step, digests = campaign.steps[index], dict[str, bytes]()
        for party, receipt in receipts.items():
            try:
                digests[party] = self._read_receipt(party, campaign.contract, index, run, receipt)
            except TidegateError as error:
                self._finish(campaign, "failed", f"the receipt of {party} is not valid: {error.text}", party, at)
                return
        if not pairs.agree(step.parties, digests):
            text = f"the parties' receipts for step {step.name} name different transcripts"
            self._finish(campaign, "failed", text, "", at)
            return
        campaign.run = None
        step.commit = Commit(run, {party: receipts[party] for party in step.parties})
        for party in step.parties:
            self._forget(party, run, campaign)
        self._effects.lines.append((run, None))
        for party in step.parties:
            self._tell_commit(party, campaign, index)
        self._note(campaign, f"{step.name}: committed by all")
        if campaign.next_steps():
            self._wait(campaign, at)
        else:
            campaign.step, campaign.reason, campaign.by = len(campaign.steps), "", ""
            self._move(campaign, "done", at)

    # What nodes hold

    def _hold(
        self, party: str, contract: bytes, step: int, run: bytes, receipt: bytes, committed: bool, at: Moment
    ) -> None:
        """A node holds the result of a run: prepared, or committed already."""
        campaign = self._campaigns.get(contract)
        if campaign is None or step >= len(campaign.steps) or party not in campaign.steps[step].parties:
            return
        if run in self._stopped.get(party, ()):
            return
        commit = campaign.steps[step].commit
        if commit is not None:
            if committed:
                return
            if commit.run == run:
                self._tell_commit(party, campaign, step)
            else:
                self._stop(party, run, campaign, "another run of this step was committed")
        elif campaign.state in FINAL:
            if not committed:
                self._stop(party, run, campaign, campaign.reason)
        elif campaign.run is not None and campaign.run.step == step and campaign.run.id != run:
            self._stop(party, run, campaign, "a newer run of this step is going on")
        else:
            if party in self._here:
                self._here[party].setdefault((contract, step), {})[run] = receipt
            if campaign.run is not None and campaign.run.id == run:
                self._report(campaign, campaign.run, party, Report("prepared", receipt=receipt), at)

    def _held(self, party: str, campaign: Campaign) -> list[bytes]:
        return [run for key, runs in self._here.get(party, {}).items() if key[0] == campaign.contract for run in runs]

    def _forget(self, party: str, run: bytes, campaign: Campaign) -> None:
        for key, runs in self._here.get(party, {}).items():
            if key[0] == campaign.contract:
                runs.pop(run, None)

    def step(self, contract: bytes, index: int) -> Step:
        """A step of a campaign that is known here, for the coordinator's own part in it."""
        return self._campaigns[contract].steps[index]

    # When a step starts

    def _schedule(self, at: Moment) -> None:
        """Starts what can start, the campaign that has waited longest first."""
        busy: dict[str, int] = {}
        waiting: list[Campaign] = []
        for campaign in self._campaigns.values():
            if campaign.run is not None:
                for party in campaign.run.parties:
                    busy[party] = busy.get(party, 0) + 1
            elif campaign.state == "waiting":
                waiting.append(campaign)
        for campaign in sorted(waiting, key=lambda each: each.changed_s):
            while campaign.state == "waiting" and self._finish_held(campaign, at):
                pass
            if campaign.state != "waiting":
                continue
            for index in campaign.next_steps():
                step = campaign.steps[index]
                if step.waits_for or at.steady_s < step.not_before_s:
                    continue
                if all(party in self._here and busy.get(party, 0) < self._most_runs(party) for party in step.parties):
                    for party in step.parties:
                        busy[party] = busy.get(party, 0) + 1
                    self._start(campaign, index, at)
                    break

    def _most_runs(self, party: str) -> int:
        return self._own_runs if party == COORDINATOR else self._runs_per_party

    def _finish_held(self, campaign: Campaign, at: Moment) -> bool:
        """Commits a run of one of the next steps that all its parties hold, if there is one."""
        for index in campaign.next_steps():
            parties = campaign.steps[index].parties
            held = {party: self._here.get(party, {}).get((campaign.contract, index), {}) for party in parties}
            common = set.intersection(*map(set, held.values()))
            if common:
                run = min(common)
                self._commit_or_fail(campaign, index, run, {party: held[party][run] for party in parties}, at)
                return True
        return False

    def _start(self, campaign: Campaign, index: int, at: Moment) -> None:
        step = campaign.steps[index]
        for party in step.parties:
            for held in list(self._here[party].get((campaign.contract, index), {})):
                self._stop(party, held, campaign, "not every party holds this run: the step starts again")
        step.attempt += 1
        step.reason = step.by = campaign.reason = campaign.by = ""
        campaign.step = index
        run = Run(self._new_run(), campaign.contract, index, step.parties, at.steady_s + OPEN_WITHIN_S)
        campaign.run = run
        self._move(campaign, "running", at)
        self._effects.lines.append((run.id, run.parties))
        start = pb.Start(contract=campaign.contract, step=index, run=run.id, attempt=step.attempt)
        for party in step.parties:
            self._tell(party, pb.ToNode(start=start))
        self._note(campaign, f"{step.name}: started, attempt {step.attempt}")

    # Small steps that the others are made of

    def _of(self, party: str, contract: bytes) -> Campaign:
        campaign = self._campaigns.get(contract)
        if campaign is None or party not in campaign.parties:
            # One answer for both, so that nobody learns which contracts there are.
            raise RefusedError("NOT_FOUND", f"{party} takes part in no campaign with this contract")
        return campaign

    def _going(self, line: bytes) -> tuple[Campaign, Run] | None:
        for campaign in self._campaigns.values():
            if campaign.run is not None and line in campaign.run.lines:
                return campaign, campaign.run
        return None

    def _open(self, party: str) -> list[Campaign]:
        return [each for each in self._campaigns.values() if party in each.parties and each.state not in FINAL]

    def _latest(self, party: str) -> list[Campaign]:
        mine = [campaign for campaign in self._campaigns.values() if party in campaign.parties]
        return sorted(mine, key=lambda each: each.changed_s)[-_MAX_TOLD:]

    def _move(self, campaign: Campaign, state: str, at: Moment) -> None:
        if state not in TRANSITIONS[campaign.state]:
            raise RuntimeError(f"a campaign that is {campaign.state} cannot become {state}")
        if state in FINAL:
            self._note(campaign, state + (f": {campaign.reason}" if campaign.reason else ""))
        campaign.state = state
        self._changed(campaign, at)

    def _changed(self, campaign: Campaign, at: Moment) -> None:
        campaign.changed_s = at.wall_s
        self._effects.changed[campaign.contract] = campaign
        self._effects.shown[campaign.contract] = campaign

    def _note(self, campaign: Campaign, text: str) -> None:
        self._effects.notes.append(f"campaign {campaign.short}: {text}")

    def _tell(self, party: str, message: pb.ToNode) -> None:
        if party in self._here:
            self._effects.tells.append((party, message))

    def _tell_commit(self, party: str, campaign: Campaign, index: int) -> None:
        step = campaign.steps[index]
        if step.commit is None:
            raise RuntimeError("a step that is not committed cannot be told of as committed")
        receipts = [step.commit.receipts[name] for name in step.parties]
        message = pb.Commit(contract=campaign.contract, step=index, run=step.commit.run, receipts=receipts)
        self._tell(party, pb.ToNode(commit=message))

    def _stop(self, party: str, run: bytes, campaign: Campaign, reason: str) -> None:
        if party in self._here and run not in self._stopped[party]:
            self._stopped[party].add(run)
            self._forget(party, run, campaign)
            self._tell(party, pb.ToNode(stop=pb.Stop(contract=campaign.contract, run=run, reason=reason)))

    def _flush(self, at: Moment) -> Effects:
        self._schedule(at)
        effects, self._effects = self._effects, Effects()
        for campaign in effects.shown.values():
            for party in campaign.parties:
                if party in self._here:
                    effects.tells.append((party, pb.ToNode(state=self.state(campaign))))
        return effects


def _members(docket: pb.Docket) -> list[tuple[str, ...]]:
    """Who takes part in each step, in the order in which the docket names them. Raises RefusedError."""
    parties, members = tuple(docket.parties), [tuple(each.parties) for each in docket.members]
    if not members:
        return [parties] * len(docket.steps)
    if len(members) != len(docket.steps) or not all(
        len({*each} - {COORDINATOR}) >= 2 and len(each) == len({*each}) and {*each} <= {*parties, COORDINATOR}
        for each in members
    ):
        text = "a docket names the parties of each step, two or more of its own"
        raise RefusedError("INVALID_ARGUMENT", text)
    if set().union(*members) - {COORDINATOR} != set(parties):
        raise RefusedError("INVALID_ARGUMENT", "a docket names no party that takes part in no step")
    return members
