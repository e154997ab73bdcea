"""The step expand: audiences among the media's other people."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tidegate.protocols.blind import scoring
from tidegate.protocols.channel import Channel, ConfigError

from . import calibration, quality
from .aligned import aligned_rows, score_budget
from .job import Charged, Facts, Job
from .results import read_json, write_table
from .scored import media_matrix


def _percents(job: Job) -> list[int]:
    sizes = job.step.settings["sizes"]
    if not isinstance(sizes, list):
        raise ConfigError("the contract's sizes of step expand are not a list")
    return sizes


async def brand(job: Job, channel: Channel) -> Facts:
    lookalike = read_json(job.earlier["train"] / "model.json")["lookalike"]
    floor = job.contract.guards.floor
    media = job.contract.role("media").data
    levels = job.contract.guards.score_levels
    low, high = lookalike["window"]
    expanded = await scoring.brand_expand(
        channel,
        np.array(lookalike["media_weights"], np.float64),
        percents=_percents(job),
        floor=floor,
        levels=levels,
        max_rows=media.rows,
        window=(low, high),
        randomness=job.randomness,
    )
    sizes = calibration.expected_sizes(
        np.array(lookalike["holdout_scores"], np.float64),
        np.array(lookalike["holdout_labels"], np.int64),
        expanded.scores,
        _percents(job),
        blur=(high - low) / (levels - 1),
    )
    histogram = quality.histogram(lookalike["intercept"] + expanded.scores)
    return {"pool": len(expanded.scores), "floor": floor, "sizes": sizes, "histogram": histogram}


async def media(job: Job, channel: Channel) -> Facts:
    others = np.setdiff1d(np.arange(job.rows.num_rows, dtype=np.int64), aligned_rows(job))
    x = media_matrix(job, "lookalike", others)
    charged = Charged(channel, lambda: job.charge("scores of other people", 1, score_budget(job)))
    chosen = await scoring.media_expand(
        charged,
        x,
        percents=_percents(job),
        floor=job.contract.guards.floor,
        levels=job.contract.guards.score_levels,
        randomness=job.randomness,
    )
    for percent, positions in chosen.items():
        rows = np.sort(others[positions])
        columns = {column: job.rows[column].take(pa.array(rows)) for column in job.keys.values()}
        write_table(job.staging / f"audience_{percent:02d}_percent.parquet", {**columns, "row": rows})
    sizes = [{"percent": percent, "people": len(positions)} for percent, positions in chosen.items()]
    return {"pool": len(others), "sizes": sizes}
