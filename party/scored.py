"""The step score: the brand's matched customers by a model, trained in this campaign or kept from an earlier one.

A kept model needs no training: the brand's new rows are matched, and scored by the columns they have today, prepared
like those that the model was trained on. A category that it did not know counts as the one it left out, a missing value
as the mean; a missing column is refused by its owner before that party sends anything.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidegate.protocols.blind import scoring
from tidegate.protocols.channel import Channel

from . import cache, models, quality, training
from .aligned import aligned, score_budget
from .calibration import Calibration
from .data import features
from .job import Charged, Facts, Job
from .results import write_table

FloatArray = NDArray[np.float64]


async def brand(job: Job, channel: Channel) -> Facts:
    places = aligned(job)
    model = models.for_step(job)
    kept = models.part(model, models.for_customers(model))
    part, own = training.model_of(kept), places >= 0
    recipe = features.Recipe.from_json(model["recipe"])
    table = job.columns({*recipe.columns, *job.keys.values()})
    x = features.apply(recipe, table, places[own])
    levels = job.contract.guards.score_levels
    scores = await scoring.brand_scores(
        channel,
        part.media_weights,
        len(places),
        levels=levels,
        window=tuple(kept["window"]),
        randomness=job.randomness,
    )
    z = (part.own_part(x) if len(part.weights) else part.intercept) + scores[own]
    rates = Calibration(**kept["calibration"]).rates(z)
    order = np.argsort(-z, kind="stable")
    rows = places[own][order]
    columns = {column: table[column].take(pa.array(rows)) for column in job.keys.values()}
    score = 1 / (1 + np.exp(-z[order]))
    write_table(job.staging / "scores.parquet", {**columns, "row": rows, "score": score, "probability": rates[order]})
    return {
        "rows": len(rows),
        "levels": levels,
        "histogram": quality.histogram(z),
        "expected_rate": float(rates.mean()),
        "model": "" if "train" in job.earlier else job.contract.model,
    }


async def media(job: Job, channel: Channel) -> Facts:
    places = aligned(job)
    x = cache.columns(job, models.for_customers(models.for_step(job)), places)
    charged = Charged(channel, lambda: job.charge("scores of matched people", 1, score_budget(job)))
    await scoring.media_scores(charged, x, levels=job.contract.guards.score_levels, randomness=job.randomness)
    answer = {"rows": len(places), "streaming_s": charged.seconds()}
    return {**answer, "model": "" if "train" in job.earlier else job.contract.model}
