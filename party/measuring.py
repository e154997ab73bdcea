"""The step measure: what became of an audience that an earlier campaign made, against those of it left alone.

The brand's data set holds who bought since, and what they spent; the media finds its arms again (arms.py). The result
is in facts.json: both arms, what the campaign brought with intervals (effect.py), what it cost.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from tidegate.protocols.blind import measure
from tidegate.protocols.channel import Channel
from tidegate.wire.contract import Total

from . import arms, effect
from .aligned import aligned
from .data import table
from .job import Charged, Facts, IntArray, Job
from .noise import discrete_gaussian
from .summing import column_values, units


async def brand(job: Job, channel: Channel) -> Facts:
    asked, rows, terms = job.contract.outcome, aligned(job), _terms(job)
    there = rows >= 0
    bought = np.ones(job.contract.party(job.party).data.rows, np.int64)
    if asked.converted:
        bought = (table.binary(job.rows, asked.converted, asked.positive) == 1).astype(np.int64)
    spend: IntArray | None = None
    clipped = 0
    if asked.spend:
        total = Total(column=asked.spend, cap=asked.cap, decimals=asked.decimals)
        values = column_values(job.path, asked.spend)[rows[there]]
        spend = np.zeros(len(rows), np.int64)
        spend[there], clipped = units(values, total)
    found = await measure.brand(
        channel, np.where(there, bought[rows], 0), spend, terms=terms, randomness=job.randomness
    )
    unit = 10**asked.decimals
    shown = effect.facts(effect.effect(found, noise_sd=terms.noise_sd, cap=terms.cap), unit=unit, cost=asked.cost)
    money: Facts = {"spend": asked.spend, "cap": asked.cap / unit, "clipped": clipped} if asked.spend else {}
    return {
        "campaign": asked.campaign,
        "tier": asked.tier,
        "converted": asked.converted,
        "positive": asked.positive,
        "floor": terms.floor,
        "noise": terms.noise_sd,
        "matched": int(there.sum()),
        "exposed": _in_its_unit(found.exposed, unit),
        "control": _in_its_unit(found.control, unit),
        **money,
        **shown,
    }


async def media(job: Job, channel: Channel) -> Facts:
    found, rows, terms = arms.find(job), aligned(job), _terms(job)
    charged = Charged(channel, lambda: job.charge("measure", 1, 12))
    await measure.media(
        charged,
        found.of_row[rows],
        found.people,
        terms=terms,
        noise=lambda sd, n: discrete_gaussian(sd)(n),
        randomness=job.randomness,
    )
    exposed, control = found.people
    return {
        "campaign": job.contract.outcome.campaign,
        "tier": job.contract.outcome.tier,
        "people": {"exposed": exposed, "control": control},
        "gone": found.gone,
    }


def _terms(job: Job) -> measure.Terms:
    guards = job.contract.guards
    return measure.Terms(
        guards.floor, guards.count_noise, job.contract.outcome.cap, job.contract.role("media").data.rows
    )


def _in_its_unit(arm: measure.Arm, unit: int) -> Facts:
    figures = asdict(arm)
    del figures["squares"]
    if figures["spend"] is None:
        del figures["spend"]
    elif unit > 1:
        figures["spend"] /= unit
    return figures
