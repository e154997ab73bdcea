"""The step train where the brand has good customers alone: its people told from the media's others, by their columns.

    brand                                              media
                                                         its matched people, in the shared order, then some of
                                                         its others, drawn at random for this run
      the model, on the media's columns     <----->      a ledger entry before each optimiser step
      exact scores of the hold-out          <------      a score of matched and of other people

Nothing is sent about who trains: how many others are drawn follows from the contract and the number of matched people,
as does who is held out, so both sides know it. The brand's label is 1 for the matched places and 0 for the rest, and it
enters no column, for it has none of other people. Others outnumber the matched people, so both kinds are weighted to
count alike, and the intercept is then set to how common the brand's people are among all of the media's. Some of those
others may be like the brand's people without being known to it: the model then ranks as well, and promises less.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tidegate.protocols.channel import Channel, PolicyError

from . import models, quality, training
from .aligned import aligned, drawn_out, enough_seeds, number
from .data import features
from .job import Facts, IntArray, Job
from .results import write_json

FloatArray = NDArray[np.float64]


def drawn(job: Job, matched: int) -> int:
    """How many of the media's other people a training draws; both sides work it out from the contract."""
    others = job.contract.role("media").data.rows - matched
    count = min(others, number(job.step, "others_per_seed") * matched)
    if count < job.contract.guards.floor:
        raise PolicyError(
            f"the media has fewer than {job.contract.guards.floor} other people to tell the brand's from",
            "match with a larger data set of the media",
        )
    return count


async def brand(job: Job, channel: Channel) -> Facts:
    matched = len(aligned(job))
    others = drawn(job, matched)
    y = np.concatenate([np.ones(matched, np.int64), np.zeros(others, np.int64)])
    held_out = drawn_out(job, len(y))
    train = ~held_out
    enough_seeds(job, int(y[train].sum()))
    quality.check_holdout(y[held_out])
    earlier = models.for_step(job) if job.contract.model else {}
    labels = y[train].astype(np.float64)
    good, other = float(labels.sum()), float((1 - labels).sum())
    balanced = np.where(labels == 1, len(labels) / (2 * good), len(labels) / (2 * other))
    everybody = np.ones(len(labels), np.bool_)
    taught = training.Lesson(np.empty((len(labels), 0)), labels, balanced, math.log(other / good), everybody)
    l2 = training.agreed_l2(job)
    start = None
    if earlier:
        start = training.model_of(models.part(earlier, "lookalike"))
        start = replace(start, intercept=start.intercept - _rarity(job, matched, others) + taught.odds)

    settings = training.settings(job, number(job.step, "steps"), l2, job.peer)
    found = await training.trained(job, channel, taught, settings, start)
    media_part = await training.held_out_scores(job, channel, found.model, held_out)
    of_media = await training.coefficients(job, channel, found.model)
    sampled = taught.calibrated(found.model)
    kept = training.lookalike_part(job, sampled, media_part, y[held_out])
    rarity = _rarity(job, matched, others)
    kept |= {"intercept": kept["intercept"] + rarity, "odds": rarity}
    # A rate of the sample's people, at a score that is lower by the rarity, is that much too high.
    slope = kept["calibration"]["slope"]
    kept["calibration"] = {"intercept": kept["calibration"]["intercept"] + (1 - slope) * rarity, "slope": slope}
    write_json(job.staging / "model.json", {"recipe": features.Recipe((), ()).to_json(), "l2": l2, "lookalike": kept})
    (job.staging / "split.u8").write_bytes((train.astype(np.uint8) + 2 * held_out.astype(np.uint8)).tobytes())
    return {
        "rows": {"train": len(labels), "holdout": int(held_out.sum())},
        "positives": {"train": int(good), "holdout": int(y[held_out].sum())},
        "others": {"pool": job.contract.role("media").data.rows - matched, "drawn": others},
        "steps": found.steps,
        "lookalike_steps": 0,
        "stopped": found.stopped,
        "l2": l2,
        "media_weights": of_media,
        "started_from": job.contract.model,
        **_judged(y[held_out], sampled.intercept + media_part),
    }


def _judged(y: IntArray, logits: FloatArray) -> Facts:
    """How well the model tells the brand's people of the hold-out from the others in it."""
    interval, name = quality.auc_interval(y, logits), "media_only"
    return {
        "auc": {name: quality.auc(y, logits)},
        "auc_interval": {name: list(interval) if interval is not None else None},
        "log_loss": {name: quality.log_loss(y, logits)},
        "lift_at": {str(percent): {name: quality.lift(y, logits, percent)} for percent in quality.LIFT_PERCENTS},
        "gains_curve": {name: quality.gains_curve(y, logits)},
    }


async def media(job: Job, channel: Channel) -> Facts:
    training.reserve(job)
    earlier = models.for_step(job) if job.contract.model else {}
    matched = aligned(job)
    others = np.setdiff1d(np.arange(job.rows.num_rows, dtype=np.int64), matched)
    chosen = others[job.randomness.permutation(len(others))[: drawn(job, len(matched))]]
    places = np.concatenate([matched, chosen])
    held_out = drawn_out(job, len(places))
    facts = await training.train_and_score(job, channel, places[~held_out], places[held_out], earlier)
    return {**facts, "others": {"pool": len(others), "drawn": len(chosen)}}


def _rarity(job: Job, matched: int, others: int) -> float:
    """How much rarer the brand's people are among all of the media's than in the sample, in log odds: 0 or less."""
    return math.log(others / (job.contract.role("media").data.rows - matched))
