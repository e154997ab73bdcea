"""The step insight: who the good customers are, by the media's columns."""

from __future__ import annotations

import numpy as np

from tidegate.protocols.blind import evidence, insight
from tidegate.protocols.channel import Channel

from . import privacy
from .aligned import aligned, enough_seeds, granted, is_shown, labels_of
from .data import bins
from .job import Charged, Facts, Job
from .noise import discrete_gaussian


async def brand(job: Job, channel: Channel) -> Facts:
    rows, hidden = aligned(job), not is_shown(job)
    labels = labels_of(job, rows)
    y = np.where(labels.known, labels.y, 0)
    if not hidden:
        enough_seeds(job, int(y.sum()))
    noise_sd = privacy.count_noise(job.contract, job.step, job.peer)
    found = await insight.brand(
        channel,
        y,
        granted=job.contract.features.get(job.peer, ()),
        floor=job.contract.guards.floor,
        noise_sd=noise_sd,
        randomness=job.randomness,
        present=rows >= 0 if hidden else None,
    )
    if found.positives < job.contract.guards.seeds:
        # To end here would tell the media how few matched: it has answered, and nothing is kept.
        found = insight.Insight(found.matched, found.positives, {}, (*found.features, *found.withheld))
    return {
        "base_rate": found.base_rate,
        "matched": found.matched,
        "positives": found.positives,
        "features": [_shown(name, profile) for name, profile in found.features.items()],
        "withheld": list(found.withheld),
        "noise": noise_sd,
    }


async def media(job: Job, channel: Channel) -> Facts:
    rows = aligned(job)
    columns, codes = bins.binned(job.path, granted(job), rows, job.contract.guards.floor)
    noise_sd = privacy.count_noise(job.contract, job.step, job.party)

    def charge() -> None:
        job.charge("insight", 1, 12)
        privacy.spend(job, privacy.step_micro(job.contract, job.step, job.party))

    await insight.media(
        Charged(channel, charge),
        codes,
        columns,
        floor=job.contract.guards.floor,
        noise=discrete_gaussian(noise_sd),
        noise_sd=noise_sd,
        randomness=job.randomness,
        hidden=not is_shown(job),
    )
    return {"features": len(columns), "rows": len(rows), **privacy.facts(job)}


def _shown(name: str, profile: insight.Profile) -> Facts:
    value = profile.value
    return {
        "name": name,
        "iv": round(value.iv, 5),
        "iv_interval": [round(end, 5) for end in value.interval],
        "iv_chance": round(value.chance, 5),
        "strength": evidence.strength(value),
        "bins": [
            {
                "label": one.label,
                "people": one.people,
                "matched": one.matched,
                "positives": one.positives,
                "parts": one.parts,
                "index": round(one.evidence.index, 1),
                "index_interval": [round(end, 1) for end in one.evidence.index_interval],
                "woe": round(one.evidence.woe, 4),
                "woe_interval": [round(end, 4) for end in one.evidence.woe_interval],
            }
            for one in profile.bins
        ],
    }
