"""The steps train and score with all media at once, over the rows that the brand has in common with all of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidegate.protocols.blind import logistic, scoring, several
from tidegate.protocols.blind.split import receive_split, send_split
from tidegate.protocols.channel import Channel, ConfigError, PeerError, PolicyError
from tidegate.protocols.primitives.randomness import Randomness

from . import quality
from .aligned import enough_seeds, granted, held_out_rows, labels_of, number, read_rows, score_budget
from .data import features
from .job import Charged, Facts, IntArray, Job
from .results import read_json, write_json, write_table

FloatArray = NDArray[np.float64]


def _settings(job: Job) -> logistic.Settings:
    l2 = number(job.step, "l2_milli") / 1000
    return logistic.Settings(steps=number(job.step, "steps"), l2=l2, may_stop=bool(number(job.step, "early_stop")))


def _matched(job: Job, media: str) -> IntArray:
    """This party's rows matched between brand and media, in the order that these two share."""
    name = next(step.name for step in job.contract.steps if (step.step, step.media) == ("match", media))
    return read_rows(job.earlier[name])


def _enough(job: Job, rows: int) -> None:
    if rows < job.contract.guards.floor:
        raise PolicyError(
            f"fewer than {job.contract.guards.floor} people are known to the brand and to all media",
            "match more people, or train with one of the media",
        )


def _drawn_out(job: Job, seed: bytes, n: int) -> NDArray[np.bool_]:
    """Which of n rows are held out where the contract names a share: by what the lead drew, all draw the same."""
    drawn: NDArray[np.bool_] = Randomness(seed).integers(100, n) < np.uint64(job.contract.holdout.percent)
    return drawn


async def train_brand(job: Job, _channel: Channel) -> Facts:
    media = [party.name for party in job.contract.media]
    channels = [job.channels[name] for name in media]
    rows, places = several.in_common([_matched(job, name) for name in media], job.randomness)
    _enough(job, len(rows))
    seed = await several.brand_places(channels, places)
    labels = labels_of(job, rows)
    drawn = held_out_rows(job, rows) if job.contract.holdout.column else _drawn_out(job, seed, len(rows))
    held_out = labels.known & drawn
    train = labels.known & ~held_out
    enough_seeds(job, int(labels.y[train].sum()))
    quality.check_holdout(labels.y[held_out])
    recipe = features.fit(job.rows, granted(job), rows[train])
    x = features.apply(recipe, job.rows, rows)
    y = labels.y[train].astype(np.float64)
    settings = _settings(job)
    for channel in channels:
        await send_split(channel, train, held_out)
    weights = _balanced(y) if number(job.step, "balance") else None
    alone = logistic.fit_alone(x[train], y, settings.l2, weights)
    trained = await several.brand(channels, x[train], y, settings=settings, randomness=job.randomness, weights=weights)
    joint = trained.model
    media_part = await several.brand_scores(
        channels, trained.parts, int(held_out.sum()), levels=None, randomness=job.randomness
    )
    parts = {name: part.tolist() for name, part in zip(media, trained.parts, strict=True)}
    model: Facts = {
        "recipe": recipe.to_json(),
        "joint": {
            "intercept": joint.intercept,
            "weights": joint.weights.tolist(),
            "media_weights": parts,
            "window": scoring.window_of(media_part),
        },
    }
    write_json(job.staging / "model.json", model)
    (job.staging / "rows.i64").write_bytes(rows.astype("<i8").tobytes())
    (job.staging / "split.u8").write_bytes((train.astype(np.uint8) + 2 * held_out.astype(np.uint8)).tobytes())
    score = {"brand_only": alone.own_part(x[held_out]), "joint": joint.own_part(x[held_out]) + media_part}
    return {
        "rows": {"train": int(train.sum()), "holdout": int(held_out.sum())},
        "positives": {"train": int(labels.y[train].sum()), "holdout": int(labels.y[held_out].sum())},
        "steps": trained.steps,
        "lookalike_steps": 0,
        "l2": settings.l2,
        "media": {name: len(part) for name, part in parts.items()},
        "weights": [{"name": n, "weight": float(w)} for n, w in zip(recipe.names, joint.weights, strict=True)],
        **quality.compare(labels.y[held_out], score),
    }


def _balanced(y: FloatArray) -> FloatArray:
    """Sample weights with which both classes count the same, as scikit-learn's class_weight="balanced"."""
    counts = np.bincount(y.astype(np.int64), minlength=2)
    if not counts.all():
        raise ConfigError("the training rows have one class alone", "check the label's positive value")
    weights: FloatArray = (len(y) / (2 * counts))[y.astype(np.int64)]
    return weights


async def train_media(job: Job, channel: Channel) -> Facts:
    leads, others = _others(job)
    matched = _matched(job, job.party)
    if leads:
        places, seed = await several.lead_places(channel, others, len(matched), job.randomness)
    else:
        places, seed = await several.follower_places(channel, others[0], len(matched))
    _enough(job, len(places))
    rows = matched[places]
    train, held_out = await receive_split(channel, len(rows))
    if not job.contract.holdout.column:
        # Held-out rows get exact scores, so the brand does not choose them; it may only leave out unlabelled ones.
        drawn = _drawn_out(job, seed, len(rows))
        if bool(np.any(held_out & ~drawn) or np.any(train & drawn)):
            raise PeerError(f"{job.peer} does not hold out the rows that the lead has drawn")
    if int(train.sum()) < job.contract.guards.seeds:
        raise PolicyError(
            f"the training part has {int(train.sum())} rows, at least {job.contract.guards.seeds} are needed",
            "match more people or hold out fewer",
        )
    recipe = features.fit(job.rows, granted(job), rows[train])
    x = features.apply(recipe, job.rows, rows)
    settings = _settings(job)

    def charge() -> None:
        job.charge("train_steps", settings.steps, job.contract.guards.train_steps)
        job.charge("scores of matched people", 1, score_budget(job))

    charged, chance = Charged(channel, charge), job.randomness
    if leads:
        trained = await several.lead(charged, others, x[train], settings=settings, randomness=chance)
        held = x[held_out] @ trained.basis
        await several.lead_scores(charged, others, held, levels=None, randomness=chance)
    else:
        trained = await several.follower(charged, others[0], x[train], settings=settings, randomness=chance)
        await several.follower_scores(charged, others[0], x[held_out] @ trained.basis, randomness=chance)
    write_json(job.staging / "model.json", {"recipe": recipe.to_json(), "joint": {"basis": trained.basis.tolist()}})
    (job.staging / "rows.i64").write_bytes(rows.astype("<i8").tobytes())
    return {"rows": {"train": int(train.sum()), "holdout": int(held_out.sum())}, "features": x.shape[1]}


def _others(job: Job) -> tuple[bool, list[Channel]]:
    """Whether this media leads, and its lines to the followers; else the one to the lead."""
    media = [party.name for party in job.contract.media]
    if job.party == media[0]:
        return True, [job.channels[name] for name in media[1:]]
    return False, [job.channels[media[0]]]


async def score_brand(job: Job, _channel: Channel) -> Facts:
    media = [party.name for party in job.contract.media]
    rows = read_rows(job.earlier["train"])
    model = read_json(job.earlier["train"] / "model.json")
    x = features.apply(features.Recipe.from_json(model["recipe"]), job.rows, rows)
    joint, levels = model["joint"], job.contract.guards.score_levels
    media_part = await several.brand_scores(
        [job.channels[name] for name in media],
        [np.array(joint["media_weights"][name], np.float64) for name in media],
        len(rows),
        levels=levels,
        window=tuple(joint["window"]),
        randomness=job.randomness,
    )
    z = joint["intercept"] + x @ np.array(joint["weights"], np.float64) + media_part
    order = np.argsort(-z, kind="stable")
    columns = {column: job.rows[column].take(pa.array(rows[order])) for column in job.keys.values()}
    probability = 1 / (1 + np.exp(-z[order]))
    write_table(job.staging / "scores.parquet", {**columns, "row": rows[order], "score": probability})
    return {"rows": len(rows), "levels": levels, "histogram": quality.histogram(z)}


async def score_media(job: Job, channel: Channel) -> Facts:
    leads, others = _others(job)
    rows = read_rows(job.earlier["train"])
    model = read_json(job.earlier["train"] / "model.json")
    basis = np.array(model["joint"]["basis"], np.float64)
    x = features.apply(features.Recipe.from_json(model["recipe"]), job.rows, rows) @ basis
    charged = Charged(channel, lambda: job.charge("scores of matched people", 1, score_budget(job)))
    if leads:
        levels = job.contract.guards.score_levels
        await several.lead_scores(charged, others, x, levels=levels, randomness=job.randomness)
    else:
        await several.follower_scores(charged, others[0], x, randomness=job.randomness)
    return {"rows": len(rows)}
