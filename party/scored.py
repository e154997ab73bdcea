"""The step score: the brand's matched customers by a trained model."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidegate.protocols.blind import scoring
from tidegate.protocols.channel import Channel

from . import quality
from .aligned import aligned_rows, score_budget
from .data import features
from .job import Charged, Facts, IntArray, Job
from .results import read_json, write_table

FloatArray = NDArray[np.float64]


async def brand(job: Job, channel: Channel) -> Facts:
    aligned = aligned_rows(job)
    model = read_json(job.earlier["train"] / "model.json")
    recipe = features.Recipe.from_json(model["recipe"])
    x = features.apply(recipe, job.rows, aligned)
    joint = model["joint"]
    levels = job.contract.guards.score_levels
    media_part = await scoring.brand_scores(
        channel,
        np.array(joint["media_weights"], np.float64),
        len(aligned),
        levels=levels,
        window=tuple(joint["window"]),
        randomness=job.randomness,
    )
    z = joint["intercept"] + x @ np.array(joint["weights"], np.float64) + media_part
    probability = 1 / (1 + np.exp(-z))
    order = np.argsort(-z, kind="stable")
    columns = {column: job.rows[column].take(pa.array(aligned[order])) for column in job.keys.values()}
    write_table(job.staging / "scores.parquet", {**columns, "row": aligned[order], "score": probability[order]})
    return {"rows": len(aligned), "levels": levels, "histogram": quality.histogram(z)}


async def media(job: Job, channel: Channel) -> Facts:
    aligned = aligned_rows(job)
    x = media_matrix(job, "joint", aligned)
    charged = Charged(channel, lambda: job.charge("scores of matched people", 1, score_budget(job)))
    await scoring.media_scores(charged, x, levels=job.contract.guards.score_levels, randomness=job.randomness)
    return {"rows": len(aligned)}


def media_matrix(job: Job, which: str, rows: IntArray) -> FloatArray:
    """The media's columns of `rows` in the secret basis of the trained model `which`."""
    model = read_json(job.earlier["train"] / "model.json")
    recipe = features.Recipe.from_json(model["recipe"])
    basis = np.array(model[which]["basis"], np.float64)
    whitened: FloatArray = features.apply(recipe, job.rows, rows) @ basis
    return whitened
