"""The step train: a logistic model on both sides' columns, and how good it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.protocols.blind import logistic, scoring
from tidegate.protocols.blind.split import receive_split, send_split
from tidegate.protocols.channel import Channel, ConfigError, PeerError, PolicyError

from . import quality
from .aligned import aligned_rows, drawn_out, enough_seeds, granted, held_out_rows, labels_of, number, score_budget
from .data import features
from .job import Charged, Facts, Job
from .results import write_json

FloatArray = NDArray[np.float64]


def _train_settings(job: Job, steps: int) -> logistic.Settings:
    l2_milli = job.step.settings["l2_milli"]
    if not isinstance(l2_milli, int):
        raise ConfigError("the contract's l2_milli is not a whole number")
    return logistic.Settings(steps=steps, l2=l2_milli / 1000)


async def brand(job: Job, channel: Channel) -> Facts:
    aligned = aligned_rows(job)
    labels = labels_of(job, aligned)
    held_out = labels.known & held_out_rows(job, aligned)
    train = labels.known & ~held_out
    enough_seeds(job, int(labels.y[train].sum()))
    quality.check_holdout(labels.y[held_out])
    recipe = features.fit(job.rows, granted(job), aligned[train])
    x = features.apply(recipe, job.rows, aligned)
    y = labels.y[train].astype(np.float64)
    settings = _train_settings(job, number(job.step, "steps"))
    await send_split(channel, train, held_out)

    async def held_out_scores(weights: FloatArray) -> FloatArray:
        return await scoring.brand_scores(channel, weights, int(held_out.sum()), levels=None, randomness=job.randomness)

    alone = logistic.fit_alone(x[train], y, settings.l2)
    joint = (await logistic.brand(channel, x[train], y, settings=settings, randomness=job.randomness)).model
    media_part = await held_out_scores(joint.media_weights)
    score = {"brand_only": alone.own_part(x[held_out]), "joint": joint.own_part(x[held_out]) + media_part}
    model: Facts = {
        "recipe": recipe.to_json(),
        "joint": {
            "intercept": joint.intercept,
            "weights": joint.weights.tolist(),
            "media_weights": joint.media_weights.tolist(),
            "window": scoring.window_of(media_part),
        },
    }
    lookalike_steps = number(job.step, "lookalike_steps")
    if lookalike_steps:
        # Other people have no columns at the brand: their model uses the media's alone, and starts from the joint one.
        start = logistic.BrandModel(joint.intercept, np.empty(0), joint.media_weights, joint.variances)
        of_others = await logistic.brand(
            channel,
            np.empty((len(y), 0)),
            y,
            settings=_train_settings(job, lookalike_steps),
            randomness=job.randomness,
            start=start,
        )
        lookalike = of_others.model
        media_part = await held_out_scores(lookalike.media_weights)
        score["media_only"] = lookalike.intercept + media_part
        model["lookalike"] = {
            "intercept": lookalike.intercept,
            "media_weights": lookalike.media_weights.tolist(),
            "window": scoring.window_of(media_part),
            "holdout_scores": media_part.tolist(),
            "holdout_labels": labels.y[held_out].tolist(),
        }
    write_json(job.staging / "model.json", model)
    (job.staging / "split.u8").write_bytes((train.astype(np.uint8) + 2 * held_out.astype(np.uint8)).tobytes())
    facts = quality.compare(labels.y[held_out], score)
    names = list(recipe.names)
    return {
        "rows": {"train": int(train.sum()), "holdout": int(held_out.sum())},
        "positives": {"train": int(labels.y[train].sum()), "holdout": int(labels.y[held_out].sum())},
        "steps": settings.steps,
        "lookalike_steps": lookalike_steps,
        "l2": settings.l2,
        "weights": [{"name": n, "weight": float(w)} for n, w in zip(names, joint.weights, strict=True)],
        **facts,
    }


async def media(job: Job, channel: Channel) -> Facts:
    aligned = aligned_rows(job)
    train, held_out = await receive_split(channel, len(aligned))
    if not job.contract.holdout.column:
        # Held-out rows get exact scores, so the brand does not choose them; it may only leave out unlabelled ones.
        drawn = drawn_out(job, len(aligned))
        if bool(np.any(held_out & ~drawn) or np.any(train & drawn)):
            raise PeerError(f"{job.peer} does not hold out the rows that the contract draws")
    if int(train.sum()) < job.contract.guards.seeds:
        raise PolicyError(
            f"the training part has {int(train.sum())} rows, at least {job.contract.guards.seeds} are needed",
            "match more people or hold out fewer",
        )
    recipe = features.fit(job.rows, granted(job), aligned[train])
    x = features.apply(recipe, job.rows, aligned)
    steps, lookalike_steps = number(job.step, "steps"), number(job.step, "lookalike_steps")
    outputs = 2 if lookalike_steps else 1

    def charge() -> None:
        job.charge("train_steps", steps + lookalike_steps, job.contract.guards.train_steps)
        job.charge("scores of matched people", outputs, score_budget(job))

    charged = Charged(channel, charge)
    model: Facts = {"recipe": recipe.to_json()}
    for name, count in (("joint", steps), ("lookalike", lookalike_steps)):
        if count:
            settings = _train_settings(job, count)
            trained = await logistic.media(charged, x[train], settings=settings, randomness=job.randomness)
            await scoring.media_scores(charged, x[held_out] @ trained.basis, levels=None, randomness=job.randomness)
            model[name] = {"basis": trained.basis.tolist()}
    write_json(job.staging / "model.json", model)
    return {"rows": {"train": int(train.sum()), "holdout": int(held_out.sum())}, "features": x.shape[1]}
