"""A client's role in a federated step: its own rows in, the questions of the coordinator answered, a model out.

    client                                                        coordinator
      its rows, keys for this run, signed            ----->         what all mean and who is here
      sums over its rows, masked, round by round     <---->         the sum over all clients
      the model, tried on its own rows held out      <-----         the model that came out
      signs that it has been given this one          <---->         what all have signed

What the apps say to each other is protocols/horizontal/pooling.py. Here is what they are given, what is charged, and
what is kept: the model, what it makes of this party's own rows, and the figures of the report.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidegate.protocols.blind.descent import newton
from tidegate.protocols.channel import Channel, M, Message
from tidegate.protocols.horizontal import kmeans as clustering
from tidegate.protocols.horizontal import logistic as regression
from tidegate.protocols.horizontal import private_logistic as private_regression
from tidegate.protocols.horizontal.secure_sum import Cohort, Member
from tidegate.protocols.horizontal.task import Outcome, Part, Site, Task, scaled, terms_of
from tidegate.wire.contract import Contract
from tidegate.wire.pairs import COORDINATOR

from .. import privacy
from ..aligned import number
from ..job import Facts, Job
from ..noise import IntArray, discrete_gaussian
from ..results import write_json, write_table
from . import rows, rules
from .rows import FloatArray, Rows


async def logistic(job: Job, channel: Channel) -> Facts:
    """Leaves model.json, and scores.parquet of all own rows; the facts hold curves and weights."""
    own = rows.of(job)
    settings = regression.Settings(
        columns=len(own.columns),
        rounds=number(job.step, "rounds"),
        l2_milli=number(job.step, "l2_milli"),
        secure=bool(number(job.step, "secure")),
        robust=number(job.step, "robust"),
        least_rows=number(job.step, "least_rows"),
    )
    train, test = ~own.held_out, own.held_out
    part = regression.Holder(own.x[train], own.y[train], own.x[test], own.y[test], ranges=own.ranges, settings=settings)
    return _weighed(job, own, await _pooled(job, channel, settings, part, own))


async def private_logistic(job: Job, channel: Channel) -> Facts:
    """As `logistic`, of sums with noise; the ledger is charged the contract's epsilon before the first of them."""
    own, asked = rows.of(job), job.contract.privacy
    settings = private_regression.Settings(
        columns=len(own.columns),
        rounds=number(job.step, "rounds"),
        l2_milli=number(job.step, "l2_milli"),
        clip_milli=number(job.step, "clip_milli"),
        unit=number(job.step, "unit"),
        multiplier_milli=private_regression.multiplier_milli(asked.epsilon_milli / 1000, privacy.delta_of(asked)),
        clients=len(job.contract.parties),
        least_rows=number(job.step, "least_rows"),
    )
    train, test = ~own.held_out, own.held_out
    part = private_regression.Holder(
        own.x[train], own.y[train], own.x[test], own.y[test], ranges=own.ranges, settings=settings
    )
    made = await _pooled(job, channel, settings, part, own, noise=_PaidNoise(job))
    unit = next(name for name, number_of in rules.UNITS.items() if number_of == settings.unit)
    return {**_weighed(job, own, made), "privacy": {**privacy.facts(job)["privacy"], "unit": unit}}


class _PaidNoise:
    """Draws of discrete Gaussians; charges the ledger before the first, so before anything leaves."""

    def __init__(self, job: Job) -> None:
        self._job, self._is_paid = job, False

    def __call__(self, deviation: int, size: int) -> IntArray:
        if not self._is_paid:
            privacy.spend(self._job, privacy.campaign_micro(self._job.contract.privacy))
            self._is_paid = True
        return discrete_gaussian(deviation)(size)


def _weighed(job: Job, own: Rows, made: _Pooled) -> Facts:
    """Writes the model and what it makes of all own rows, and tells its weights."""
    theta = made.outcome.model["theta"]
    model = regression.LogisticModel(theta, own.ranges)
    half = (own.ranges[:, 1] - own.ranges[:, 0]) / 2
    per_unit = theta[1:] / half
    intercept = float(theta[0] - per_unit @ own.ranges.mean(axis=1))
    write_json(
        job.staging / "model.json",
        {
            "app": "logistic",
            "columns": list(own.columns),
            "ranges": own.ranges.tolist(),
            "intercept": intercept,
            "weights": per_unit.tolist(),
        },
    )
    z = model.score(own.x)
    order = np.argsort(-z, kind="stable")
    write_table(
        job.staging / "scores.parquet",
        {"row": own.numbers[order], "probability": 1 / (1 + np.exp(-z[order])), "held_out": own.held_out[order]},
    )
    spread = np.clip(own.x, *own.ranges.T).std(axis=0)
    return {
        "app": "logistic",
        "weights": [
            {"name": name, "weight": weight, "per_deviation": weight * deviation}
            for name, weight, deviation in zip(own.columns, per_unit.tolist(), spread.tolist(), strict=True)
        ],
        "own": _tried(own, z, number(job.step, "l2_milli") / 1000),
        **made.facts,
    }


async def kmeans(job: Job, channel: Channel) -> Facts:
    """Leaves model.json, and segments.parquet of all own rows; segments are numbered by size, 1 the largest."""
    own = rows.of(job)
    settings = clustering.Settings(
        columns=len(own.columns),
        k=number(job.step, "k"),
        rounds=number(job.step, "rounds"),
        secure=bool(number(job.step, "secure")),
        least_rows=number(job.step, "least_rows"),
        floor=job.contract.guards.floor,
    )
    part = clustering.Holder(own.x, ranges=own.ranges, settings=settings)
    made = await _pooled(job, channel, settings, part, own)
    found = clustering.clusters(made.outcome.model, own.ranges)
    sizes = made.outcome.model["sizes"]
    order = np.argsort(-sizes, kind="stable")
    number_of = np.empty(len(order), np.int64)
    number_of[order] = np.arange(1, len(order) + 1)
    labels = number_of[found.assign(own.x)]
    centres, sizes = found.centroids[order], sizes[order]
    write_json(
        job.staging / "model.json",
        {
            "app": "kmeans",
            "columns": list(own.columns),
            "ranges": own.ranges.tolist(),
            "scale": found.scale.tolist(),
            "centres": centres.tolist(),
        },
    )
    write_table(job.staging / "segments.parquet", {"row": own.numbers, "segment": labels})
    counts = np.bincount(labels, minlength=len(order) + 1)[1:]
    return {
        "app": "kmeans",
        "asked": settings.k,
        "segments": [
            {"number": at + 1, "size": int(size), "own": int(count), "centre": centre.tolist()}
            for at, (size, count, centre) in enumerate(zip(sizes, counts, centres, strict=True))
        ],
        "scale": found.scale.tolist(),
        **made.facts,
    }


@dataclass(frozen=True)
class _Pooled:
    """What came out of a run, and the figures that every app has."""

    outcome: Outcome
    facts: Facts


async def _pooled(
    job: Job,
    channel: Channel,
    settings: Task,
    part: Part,
    own: Rows,
    noise: Callable[[int, int], IntArray] | None = None,
) -> _Pooled:
    # Flower takes a second to import, which workers of other steps need not wait for.
    from tidegate.protocols.horizontal import pooling

    contract = job.contract
    names = tuple(party.name for party in contract.parties)
    site = Site(
        name=job.party,
        cohort=names,
        task=settings,
        part=part,
        terms=terms_of(contract.hash, names, settings, own.ranges),
        member=Member(job.party, _cohort(contract, job.run), sign=job.sign, randomness=job.randomness),
        noise=noise,
    )
    timed = _Timed(channel)
    outcome = await pooling.hold(timed, site)
    return _Pooled(
        outcome,
        {
            "clients": list(names),
            "secure": settings.secure,
            "robust": settings.robust,
            "rows": {
                "train": own.trained,
                "holdout": int(own.held_out.sum()),
                "all": sum(party.data.rows for party in contract.parties),
            },
            "columns": list(own.columns),
            "missing": own.missing,
            "outside": own.outside,
            "rounds": outcome.rounds,
            "most_rounds": number(job.step, "rounds"),
            "converged": outcome.converged,
            "curves": {name: list(points) for name, points in outcome.curves.items()},
            "round_ms": timed.milliseconds(outcome.rounds),
        },
    )


def _cohort(contract: Contract, run: bytes) -> Cohort:
    identities = {party.name: bytes.fromhex(party.identity) for party in contract.parties}
    return Cohort(contract.hash, run, identities, contract.key_of(COORDINATOR))


def _tried(own: Rows, z: FloatArray, l2: float) -> Facts:
    """How well the model ranks our own hold-out, beside a model of our rows alone; empty where there is no telling."""
    y, train = own.y[own.held_out], ~own.held_out
    if len(np.unique(y)) < 2 or len(np.unique(own.y[train])) < 2:
        return {}
    x = scaled(own.x, own.ranges)
    alone = newton(x[train], own.y[train], l2)
    scores = alone[0] + x[own.held_out] @ alone[1:]
    return {"auc": regression.auc(z[own.held_out], y), "auc_alone": regression.auc(scores, y)}


class _Timed:
    """A channel that knows how long the rounds have taken, from the first one's question to the model's release."""

    def __init__(self, channel: Channel, clock: Callable[[], float] = time.monotonic) -> None:
        self._channel, self._clock = channel, clock
        self._came_s: list[float] = []

    async def send(self, message: Message) -> None:
        await self._channel.send(message)

    async def recv(self, kind: type[M]) -> M:
        message = await self._channel.recv(kind)
        self._came_s.append(self._clock())
        return message

    def milliseconds(self, rounds: int) -> float:
        """Of each round on average. The first two messages ask for terms and moments, the last three end the run."""
        if len(self._came_s) < 6 or not rounds:
            return 0.0
        return round(1000 * (self._came_s[-3] - self._came_s[2]) / rounds, 1)
