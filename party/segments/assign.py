"""The step assign: people who match now, in the segments that an earlier campaign has found.

Nothing is trained and no card made: each side makes its columns as it did then and takes its own part of the centroids
that it has kept. A segment that fewer than the floor of these people would be in is left out, and they go to the next.
"""

from __future__ import annotations

import numpy as np

from tidegate.protocols.channel import Channel, ConfigError, PolicyError
from tidegate.protocols.clustering import comparator

from .. import models
from ..aligned import aligned
from ..job import Facts, Job
from . import columns
from .forming import merged
from .segment import IntArray, side_of, sized, spend, write_people


async def brand(job: Job, _channel: Channel) -> Facts:
    return await brand_over(job, aligned(job))


async def media(job: Job, _channel: Channel) -> Facts:
    return await media_over(job, aligned(job))


async def brand_over(job: Job, rows: IntArray) -> Facts:
    """The brand's part over its `rows`, with all media of the step."""
    kept = _kept(job)
    segment, left_out = await _assigned(job, kept, rows)
    names = [str(name) for name in kept["names"]]
    write_people(job, rows, segment, names)
    return _facts(job, kept, segment, left_out, names)


async def media_over(job: Job, rows: IntArray) -> Facts:
    """A media's part over its `rows` of the same people."""
    kept = _kept(job)
    segment, left_out = await _assigned(job, kept, rows)
    return _facts(job, kept, segment, left_out, [])


def _kept(job: Job) -> Facts:
    return models.part(models.for_step(job, "segment"), "segments")


async def _assigned(job: Job, kept: Facts, rows: IntArray) -> tuple[IntArray, list[int]]:
    """The segment of each row as it was numbered, and which segments were left out."""
    floor = job.contract.guards.floor
    recipe, centroids = columns.Recipe.from_json(kept["recipe"]), np.array(kept["centroids"], np.float64)
    if centroids.ndim != 2 or centroids.shape[1] != recipe.width:
        raise ConfigError("the segments kept here cannot be read", "restore them from a backup, or segment again")
    if len(rows) < floor:
        raise PolicyError(f"fewer than {floor} people match", "match more people")
    x = columns.apply(recipe, job.columns(recipe.names), rows)
    side = side_of(job, recipe)
    spend(job)
    labels = await side.nearest(x, centroids)
    labels, stay = await merged(side, x, labels, centroids, floor=floor, least=1)
    await comparator.end(side.helper)
    left_out = np.setdiff1d(np.arange(len(centroids)), stay) + 1
    return stay[labels].astype(np.int64), left_out.tolist()


def _facts(job: Job, kept: Facts, segment: IntArray, left_out: list[int], names: list[str]) -> Facts:
    sizes = np.bincount(segment, minlength=len(kept["centroids"]))
    before = np.array(kept["sizes"], np.float64)
    return {
        "rows": len(segment),
        "segments": [
            {**each, "share_then": round(100 * float(then) / float(before.sum()), 1)}
            for each, then in zip(sized(sizes, names), before, strict=True)
        ],
        "left_out": left_out,
        "model": "" if "segment" in job.earlier else job.contract.model,
    }
