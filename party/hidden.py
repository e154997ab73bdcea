"""The step train where the media does not learn who matched: over all of its people, in its secret order.

Both hold the same n places (aligned.py). The contract draws which of them are held out: they get exact scores, the
others are trained over. The media does that with all of its people, and whitens and standardises by them. At the
brand a place where it has no labelled row of its own is not present: it adds nothing to any sum, and the score that
comes back for it is dropped. docs/protocols/hidden-alignment.md has the argument that nothing the media sees depends on
who or how many matched, and what is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.protocols.blind import logistic, scoring
from tidegate.protocols.channel import Channel, ConfigError

from . import quality, training
from .aligned import aligned, drawn_out, enough_seeds, granted, labels_of, number, score_budget
from .data import features
from .job import Charged, Facts, IntArray, Job
from .results import write_json

FloatArray = NDArray[np.float64]


async def train_brand(job: Job, channel: Channel) -> Facts:
    order = aligned(job)
    labels = labels_of(job, order)
    held_out = drawn_out(job, len(order))
    train, tested = labels.known & ~held_out, labels.known & held_out
    enough_seeds(job, int(labels.y[train].sum()))
    quality.check_holdout(labels.y[tested])
    recipe, x = own_columns(job, order, train)
    places = ~held_out
    y, present = labels.y[places].astype(np.float64), train[places]
    settings = training._train_settings(job, number(job.step, "steps"))
    alone = logistic.fit_alone(x[places], y, settings.l2, present.astype(np.float64))
    trained = await logistic.brand(channel, x[places], y, settings=settings, randomness=job.randomness, present=present)
    joint = trained.model
    scores = await scoring.brand_scores(
        channel, joint.media_weights, int(held_out.sum()), levels=None, randomness=job.randomness
    )
    media_part = scores[tested[held_out]]
    score = {"brand_only": alone.own_part(x[tested]), "joint": joint.own_part(x[tested]) + media_part}
    model: Facts = {
        "recipe": recipe.to_json(),
        "joint": {
            "intercept": joint.intercept,
            "weights": joint.weights.tolist(),
            "media_weights": joint.media_weights.tolist(),
            "window": scoring.window_of(media_part),
        },
    }
    write_json(job.staging / "model.json", model)
    facts = quality.compare(labels.y[tested], score)
    return {
        "rows": {"train": int(train.sum()), "holdout": int(tested.sum())},
        "positives": {"train": int(labels.y[train].sum()), "holdout": int(labels.y[tested].sum())},
        "steps": settings.steps,
        "lookalike_steps": 0,
        "l2": settings.l2,
        "weights": [{"name": n, "weight": float(w)} for n, w in zip(recipe.names, joint.weights, strict=True)],
        **facts,
    }


async def train_media(job: Job, channel: Channel) -> Facts:
    order = aligned(job)
    held_out = drawn_out(job, len(order))
    if int((~held_out).sum()) < job.contract.guards.seeds:
        raise ConfigError("the media has too few people with a match key to train on", "enter more people")
    recipe = features.fit(job.rows, granted(job), order[~held_out])
    x = features.apply(recipe, job.rows, order)
    settings = training._train_settings(job, number(job.step, "steps"))

    def charge() -> None:
        job.charge("train_steps", settings.steps, job.contract.guards.train_steps)
        job.charge("scores of matched people", 1, score_budget(job))

    charged = Charged(channel, charge)
    trained = await logistic.media(charged, x[~held_out], settings=settings, randomness=job.randomness)
    await scoring.media_scores(charged, x[held_out] @ trained.basis, levels=None, randomness=job.randomness)
    write_json(job.staging / "model.json", {"recipe": recipe.to_json(), "joint": {"basis": trained.basis.tolist()}})
    return {"rows": {"train": int((~held_out).sum()), "holdout": int(held_out.sum())}, "features": x.shape[1]}


def own_columns(job: Job, order: IntArray, train: NDArray[np.bool_]) -> tuple[features.Recipe, FloatArray]:
    """The brand's recipe and its matrix at all places, those in `train` being the rows that it is scaled by.

    Which features there are follows from all of the brand's rows: their number is seen by the media, and must not hang
    on who matched. Those that stand for 1 to 99 of the rows trained on are 0, as everywhere.
    """
    everybody = np.arange(job.rows.num_rows, dtype=np.int64)
    recipe = features.rescaled(features.fit(job.rows, granted(job), everybody), job.rows, order[train])
    x = features.apply(recipe, job.rows, np.maximum(order, 0))
    x[:, features.rare(recipe, job.rows, order[train])] = 0.0
    return recipe, x
