"""The step expand: audiences among the media's other people, and who of them is left alone to measure the campaign by.

What it leaves at the media: for each audience a file of those who may be shown the campaign and, where people are left
alone, arms.parquet with everybody of the largest audience (arms.py), which a later campaign measures by.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidegate.protocols.blind import scoring
from tidegate.protocols.channel import Channel, ConfigError, PolicyError

from . import arms, cache, calibration, models, quality
from .aligned import aligned, number, score_budget
from .job import Charged, Facts, Job
from .results import write_table


async def brand(job: Job, channel: Channel) -> Facts:
    lookalike = models.part(models.for_step(job), "lookalike")
    sizes, floor, levels = sizes_of(job), job.contract.guards.floor, job.contract.guards.score_levels
    low, high = lookalike["window"]
    promised = calibration.calibrate(
        np.array(lookalike["holdout_labels"], np.int64),
        np.array(lookalike["holdout_scores"], np.float64),
        blur=(high - low) / (levels - 1),
    )
    # From seeds the hold-out has fewer of the media's others than there are: a rate in it is that much too high.
    promised = replace(promised, intercept=promised.intercept + lookalike.get("odds", 0.0))
    if sizes.by == "threshold_milli" and promised.slope <= 0:
        raise PolicyError(
            "the model's scores do not rise with the chance to be a good customer, so no threshold can be kept",
            "ask for sizes in percent, or train on more people",
        )
    expanded = await scoring.brand_expand(
        channel,
        np.array(lookalike["media_weights"], np.float64),
        sizes=sizes,
        floor=floor,
        levels=levels,
        max_rows=job.contract.role("media").data.rows,
        rates=promised.rates,
        window=(low, high),
        randomness=job.randomness,
    )
    ranked = np.sort(promised.rates(expanded.scores))[::-1]
    found = audiences(sizes, expanded.people, len(ranked))
    for audience in found:
        rate = float(ranked[: audience["people"]].mean())
        audience |= {"expected_rate": rate, "expected_lift": rate / float(ranked.mean())}
    histogram = quality.histogram(lookalike["intercept"] + expanded.scores)
    return {"pool": len(ranked), "floor": floor, "sizes": found, "histogram": histogram}


async def media(job: Job, channel: Channel) -> Facts:
    sizes = sizes_of(job)
    rows = job.contract.party(job.party).data.rows
    others = np.setdiff1d(np.arange(rows, dtype=np.int64), aligned(job), assume_unique=True)
    x = cache.columns(job, "lookalike", others)
    charged = Charged(channel, lambda: job.charge("scores of other people", 1, score_budget(job)))
    chosen = await scoring.media_expand(
        charged,
        x,
        sizes=sizes,
        floor=job.contract.guards.floor,
        levels=job.contract.guards.score_levels,
        randomness=job.randomness,
    )
    keys = job.columns(set(job.keys.values()))
    for tier, value in enumerate(_smallest_first(sizes), 1):
        shown: NDArray[np.bool_] = (chosen.tiers > 0) & (chosen.tiers <= tier) & ~chosen.control
        inside = others[shown]
        columns = {column: keys[column].take(pa.array(inside)) for column in job.keys.values()}
        write_table(job.staging / audience_file(sizes.by, value), {**columns, "row": inside})
    if sizes.control_percent:
        arms.leave(job, keys, others, chosen)
    return {"pool": len(others), "sizes": audiences(sizes, chosen.people, len(others))}


def sizes_of(job: Job) -> scoring.Sizes:
    """How large the contract wants the audiences of the step."""
    settings = job.step.settings
    by = next((key for key in ("sizes", "people", "threshold_milli") if key in settings), "sizes")
    values = settings.get(by)
    if not isinstance(values, list):
        raise ConfigError(f"the contract's {by} of step expand are not a list")
    return scoring.Sizes(by, tuple(values), number(job.step, "control_percent"))


def audiences(sizes: scoring.Sizes, people: tuple[int, ...], pool: int) -> list[dict[str, Any]]:
    """Each audience as `facts.json` has it, the smallest first: its name, its share of the pool, its people."""
    found = []
    for value, count in zip(_smallest_first(sizes), people, strict=True):
        percent = value if sizes.by == "sizes" else round(100 * count / pool, 3)
        left_alone = {"left_alone": sizes.control(count)} if sizes.control_percent else {}
        found.append({"name": _title(sizes.by, value), "percent": percent, "people": count, **left_alone})
    return found


def audience_file(by: str, value: int) -> str:
    """The name of the file with an audience."""
    if by == "sizes":
        return f"audience_{value:02d}_percent.parquet"
    return f"audience_{value}_people.parquet" if by == "people" else f"audience_from_0.{value:03d}.parquet"


def _smallest_first(sizes: scoring.Sizes) -> tuple[int, ...]:
    # The highest threshold makes the smallest audience.
    return sizes.values[::-1] if sizes.by == "threshold_milli" else sizes.values


def _title(by: str, value: int) -> str:
    if by == "sizes":
        return f"top {value} %"
    return f"best {value:,}" if by == "people" else f"chance of {value / 10:g} % or more"
