"""Plays this party's role in one step: own rows in, the protocol over the channel, results into a staging folder.

Each function gets a `Job`, leaves its result files in `job.staging` and returns
the facts that the report shows. A role whose answers cost budget sends them through `Charged`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tidegate.protocols.channel import Channel

from . import (
    epoch,
    expanding,
    insights,
    matchdoctor,
    matching,
    measuring,
    policy,
    scored,
    seeds,
    several,
    summing,
    training,
)
from .horizontal import client
from .job import Facts, Job
from .segments import assign, segment
from .segments import several as segments_several


async def play(job: Job, channel: Channel) -> Facts:
    """Plays this party's role of the job's step and returns its facts; the files are in `job.staging` then."""
    role = _ROLES[job.step.protocol, job.role]
    facts = await role(job, channel)
    roles = {party.name: party.role for party in job.contract.parties}
    learned = policy.learns((job.step,), roles, job.contract.guards)[job.party]
    return {"step": job.step.step, "learned": list(learned), **facts}


_ROLES: dict[tuple[str, str], Callable[[Job, Channel], Awaitable[Facts]]] = {
    ("doctor.oprf@1", "brand"): matchdoctor.brand,
    ("doctor.oprf@1", "media"): matchdoctor.media,
    ("match.oprf@1", "brand"): matching.matched,
    ("match.oprf@1", "media"): matching.matched,
    ("match.oprf-brand@1", "brand"): matching.matched,
    ("match.oprf-brand@1", "media"): matching.matched,
    ("match.oprf-size@1", "brand"): matching.matched,
    ("match.oprf-size@1", "media"): matching.matched,
    ("match.oprf-epoch@1", "brand"): epoch.brand,
    ("match.oprf-epoch@1", "media"): epoch.media,
    ("match.oprf-sum@1", "brand"): summing.summed,
    ("match.oprf-sum@1", "media"): summing.summed,
    ("insight.columns@1", "brand"): insights.brand,
    ("insight.columns@1", "media"): insights.media,
    ("insight.columns-hidden@1", "brand"): insights.brand,
    ("insight.columns-hidden@1", "media"): insights.media,
    ("train.fourier-lr@1", "brand"): training.brand,
    ("train.fourier-lr@1", "media"): training.media,
    ("train.fourier-lr-hidden@1", "brand"): training.brand,
    ("train.fourier-lr-hidden@1", "media"): training.media,
    ("train.fourier-lr-seeds@1", "brand"): seeds.brand,
    ("train.fourier-lr-seeds@1", "media"): seeds.media,
    ("score.rows@1", "brand"): scored.brand,
    ("score.rows@1", "media"): scored.media,
    ("score.rows-hidden@1", "brand"): scored.brand,
    ("score.rows-hidden@1", "media"): scored.media,
    ("expand.rows@1", "brand"): expanding.brand,
    ("expand.rows@1", "media"): expanding.media,
    ("measure.columns@1", "brand"): measuring.brand,
    ("measure.columns@1", "media"): measuring.media,
    ("measure.columns-hidden@1", "brand"): measuring.brand,
    ("measure.columns-hidden@1", "media"): measuring.media,
    ("train.fourier-lr-several@1", "brand"): several.train_brand,
    ("train.fourier-lr-several@1", "media"): several.train_media,
    ("score.rows-several@1", "brand"): several.score_brand,
    ("score.rows-several@1", "media"): several.score_media,
    ("segment.kmeans@1", "brand"): segment.brand,
    ("segment.kmeans@1", "media"): segment.media,
    ("assign.kmeans@1", "brand"): assign.brand,
    ("assign.kmeans@1", "media"): assign.media,
    ("segment.kmeans-several@1", "brand"): segments_several.segment_brand,
    ("segment.kmeans-several@1", "media"): segments_several.segment_media,
    ("assign.kmeans-several@1", "brand"): segments_several.assign_brand,
    ("assign.kmeans-several@1", "media"): segments_several.assign_media,
    ("federate.logistic@1", "client"): client.logistic,
    ("federate.private-logistic@1", "client"): client.private_logistic,
    ("federate.kmeans@1", "client"): client.kmeans,
}
