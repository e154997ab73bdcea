"""The step insight: who the good customers are, by the media's columns."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from tidegate.protocols.blind import insight
from tidegate.protocols.channel import Channel

from .aligned import aligned_rows, enough_seeds, granted, labels_of
from .data import bins
from .job import Charged, Facts, Job


async def brand(job: Job, channel: Channel) -> Facts:
    labels = labels_of(job, aligned_rows(job))
    y = np.where(labels.known, labels.y, 0)
    enough_seeds(job, int(y.sum()))
    found = await insight.brand(
        channel,
        y,
        granted=job.contract.features.get(job.peer, ()),
        floor=job.contract.guards.floor,
        noise_sd=job.contract.guards.count_noise,
        randomness=job.randomness,
    )
    named = []
    for name, shown in found.features.items():
        named.append({"name": name, "bins": [asdict(each) for each in shown]})
    noise = job.contract.guards.count_noise
    return {"base_rate": found.base_rate, "features": named, "withheld": list(found.withheld), "noise": noise}


async def media(job: Job, channel: Channel) -> Facts:
    aligned = aligned_rows(job)
    columns = bins.fit_bins(job.rows, granted(job), aligned, job.contract.guards.floor)
    charged = Charged(channel, lambda: job.charge("insight", 1, 12))
    await insight.media(
        charged,
        bins.assign(job.rows, columns, aligned),
        columns,
        floor=job.contract.guards.floor,
        noise=job.count_noise,
        noise_sd=job.contract.guards.count_noise,
        randomness=job.randomness,
    )
    return {"features": len(columns), "rows": len(aligned)}
