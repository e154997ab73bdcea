"""The steps segment and assign with all media at once, over the people that the brand has in common with all of them.

    brand                                       each media
      which rows all have         ----->          the leading one draws what orders the sample on which k is chosen
      segments of enough people   <---->          (segment.py, assign.py; all talk to the coordinator and the brand)
      cards                       <-----

A media's columns count with the weight of a media, each of them. No media has a line to another but for the rows.
"""

from __future__ import annotations

from tidegate.protocols.channel import Channel
from tidegate.protocols.primitives.randomness import Randomness

from ..job import Facts, Job
from ..several import brand_rows, media_rows
from . import assign, segment


async def segment_brand(job: Job, _channel: Channel) -> Facts:
    rows, seed = await brand_rows(job, 2 * job.contract.guards.floor)
    return await segment.brand_over(job, rows, Randomness(seed).permutation(len(rows)))


async def segment_media(job: Job, channel: Channel) -> Facts:
    rows, seed = await media_rows(job, channel, 2 * job.contract.guards.floor)
    return await segment.media_over(job, channel, rows, Randomness(seed).permutation(len(rows)))


async def assign_brand(job: Job, _channel: Channel) -> Facts:
    rows, _ = await brand_rows(job, job.contract.guards.floor)
    return await assign.brand_over(job, rows)


async def assign_media(job: Job, channel: Channel) -> Facts:
    rows, _ = await media_rows(job, channel, job.contract.guards.floor)
    return await assign.media_over(job, rows)
