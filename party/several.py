"""The steps train and score with all media at once, over the rows that the brand has in common with all of them.

    brand                                       each media
      which rows all have         ----->          the leading one draws what decides who is held out
      its columns and labels                      fits its columns to the training rows
      joint model                 <---->          a ledger entry before each optimiser step
      exact scores of the         <-----          a score of matched people; the brand sees the sum over media
      hold-out

The choices that a training leaves to the brand (penalty, balance, sample weights) are those of `training`. Both steps
leave the rows that all have, in the order that all share, in rows.i64.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidegate.protocols.blind import importance, scoring, several
from tidegate.protocols.blind.split import receive_split, send_split
from tidegate.protocols.channel import Channel, PeerError, PolicyError
from tidegate.protocols.primitives.randomness import Randomness

from . import calibration, quality, training
from .aligned import enough_seeds, granted, held_out_rows, labels_of, number, read_rows, score_budget
from .data import features
from .job import Charged, Facts, IntArray, Job
from .results import read_json, write_json, write_table

FloatArray = NDArray[np.float64]


def _matched(job: Job, media: str) -> IntArray:
    """This party's rows matched between brand and media, in the order that these two share."""
    name = next(step.name for step in job.contract.steps if (step.step, step.media) == ("match", media))
    return read_rows(job.earlier[name])


def _enough(rows: int, least: int) -> None:
    if rows < least:
        raise PolicyError(
            f"fewer than {least} people are known to the brand and to all media",
            "match more people, or ask one of the media alone",
        )


async def brand_rows(job: Job, least: int) -> tuple[IntArray, bytes]:
    """The brand's rows that all media have matched too, in the order that all share, and what the lead has drawn.

    PolicyError, before anything is sent, where they are fewer than `least`.
    """
    media = [party.name for party in job.contract.media]
    rows, places = several.in_common([_matched(job, name) for name in media], job.randomness)
    _enough(len(rows), least)
    return rows, await several.brand_places([job.channels[name] for name in media], places)


async def media_rows(job: Job, channel: Channel, least: int) -> tuple[IntArray, bytes]:
    """A media's rows of the same people in the same order, and what the lead has drawn; `channel` is the brand's."""
    leads, others = _others(job)
    matched = _matched(job, job.party)
    if leads:
        places, seed = await several.lead_places(channel, others, len(matched), job.randomness)
    else:
        places, seed = await several.follower_places(channel, others[0], len(matched))
    _enough(len(places), least)
    return matched[places], seed


def _drawn_out(job: Job, seed: bytes, n: int) -> NDArray[np.bool_]:
    """Which of n rows are held out where the contract names a share: by what the lead drew, all draw the same."""
    drawn: NDArray[np.bool_] = Randomness(seed).integers(100, n) < np.uint64(job.contract.holdout.percent)
    return drawn


def _keep_rows(job: Job, rows: IntArray) -> None:
    (job.staging / "rows.i64").write_bytes(rows.astype("<i8").tobytes())


async def train_brand(job: Job, _channel: Channel) -> Facts:
    media = [party.name for party in job.contract.media]
    channels = [job.channels[name] for name in media]
    rows, seed = await brand_rows(job, job.contract.guards.floor)
    labels = labels_of(job, rows)
    drawn = held_out_rows(job, rows) if job.contract.holdout.column else _drawn_out(job, seed, len(rows))
    train, tested = labels.known & ~drawn, labels.known & drawn
    y = labels.y[tested]
    enough_seeds(job, int(labels.y[train].sum()))
    quality.check_holdout(y)
    recipe = features.fit(job.rows, granted(job), rows[train])
    x = features.apply(recipe, job.rows, rows)
    everywhere = np.ones(int(train.sum()), np.bool_)
    taught = training.lesson(job, x[train], rows[train], labels.y[train], everywhere)
    l2, tried = training.agreed_l2(job), list[dict[str, float]]()
    if not number(job.step, "l2_milli"):
        l2, tried = training.chosen_l2(taught, job.randomness)
    alone = taught.alone(l2)
    for channel in channels:
        await send_split(channel, train, tested)
    settings = training.settings(job, number(job.step, "steps"), l2, job.peer)
    of_all = await several.brand(
        channels, taught.x, taught.y, settings=settings, randomness=job.randomness, weights=taught.weights
    )
    media_part = await several.brand_scores(channels, of_all.parts, len(y), levels=None, randomness=job.randomness)
    joint = taught.calibrated(of_all.model)
    logits = {
        "brand_only": taught.calibrated(alone).own_part(x[tested]),
        "joint": joint.own_part(x[tested]) + media_part,
    }
    window = scoring.window_of(media_part)
    blur = training.blur_of(window, job.contract.guards.score_levels)
    rates = calibration.facts(y, logits["joint"], floor=job.contract.guards.floor, blur=blur)
    counts = dict(zip(media, of_all.columns, strict=True))
    kept = {**training.brand_part(joint, window, rates), "columns": counts}
    of_media = await _coefficients(job, of_all)
    write_json(job.staging / "model.json", {"recipe": recipe.to_json(), "l2": l2, "joint": kept})
    _keep_rows(job, rows)
    (job.staging / "split.u8").write_bytes((train.astype(np.uint8) + 2 * tested.astype(np.uint8)).tobytes())
    return {
        "rows": {"train": int(train.sum()), "holdout": int(tested.sum())},
        "positives": {"train": int(labels.y[train].sum()), "holdout": int(y.sum())},
        "steps": of_all.steps,
        "lookalike_steps": 0,
        "stopped": of_all.stopped,
        "l2": l2,
        "l2_tried": tried,
        "weighted_by": job.contract.label.weight,
        "balanced": bool(number(job.step, "balance")),
        "started_from": "",
        "media_columns": counts,
        "weights": training.weighed(recipe.names, joint, training.standard_errors(taught, alone, l2)),
        "media_weights": of_media,
        "calibration": rates,
        **quality.compare(y, logits),
    }


async def _coefficients(job: Job, of_all: several.Trained) -> list[Facts]:
    """How much each of the medias' columns moves the model, where the contract grants it."""
    found: list[Facts] = []
    if number(job.step, "importance"):
        for party, part in zip(job.contract.media, of_all.parts, strict=True):
            columns = job.contract.features.get(party.name, ())
            for name, weight in await importance.brand(job.channels[party.name], part, columns):
                found.append({"name": f"{party.name}: {name}", "weight": weight})
    return found


async def train_media(job: Job, channel: Channel) -> Facts:
    training.reserve(job)
    leads, others = _others(job)
    rows, seed = await media_rows(job, channel, job.contract.guards.floor)
    train, held_out = await receive_split(channel, len(rows))
    if not job.contract.holdout.column:
        # Held-out rows get exact scores, so the brand does not choose them; it may only leave out unlabelled ones.
        drawn = _drawn_out(job, seed, len(rows))
        if bool(np.any(held_out & ~drawn) or np.any(train & drawn)):
            raise PeerError(f"{job.peer} does not hold out the rows that the leading media has drawn")
    if int(train.sum()) < job.contract.guards.seeds:
        raise PolicyError(
            f"the training part has {int(train.sum())} rows, at least {job.contract.guards.seeds} are needed",
            "match more people or hold out fewer",
        )
    recipe = features.fit(job.rows, granted(job), rows[train])
    x, tested = features.apply(recipe, job.rows, rows[train]), features.apply(recipe, job.rows, rows[held_out])
    settings = training.settings(job, number(job.step, "steps"), training.agreed_l2(job), job.party)
    taken = 0

    def charge_step() -> None:
        job.charge("train_steps", 1, job.contract.guards.train_steps)

    def on_step(step: int) -> None:
        nonlocal taken
        if step > 1:  # the first is charged when the variances leave, which tell something by themselves
            charge_step()
        taken += 1

    line, charged, chance = Charged(channel, charge_step), _scores_charged(job, channel), job.randomness
    if leads:
        model = await several.lead(line, others, x, settings=settings, randomness=chance, on_step=on_step)
        await several.lead_scores(charged, others, tested @ model.basis, levels=None, randomness=chance)
    else:
        model = await several.follower(line, others[0], x, settings=settings, randomness=chance, on_step=on_step)
        await several.follower_scores(charged, others[0], tested @ model.basis, randomness=chance)
    weights: list[Facts] = []
    if number(job.step, "importance"):
        columns = [feature.column for feature in recipe.features]
        found = await importance.media(channel, model, columns, x.std(axis=0))
        weights = [{"name": name, "weight": w} for name, w in zip(recipe.names, found.tolist(), strict=True)]
    write_json(job.staging / "model.json", {"recipe": recipe.to_json(), "joint": {"basis": model.basis.tolist()}})
    _keep_rows(job, rows)
    return {
        "rows": {"train": int(train.sum()), "holdout": int(held_out.sum())},
        "features": x.shape[1],
        "steps": taken,
        "leads": leads,
        "weights": weights,
    }


def _scores_charged(job: Job, channel: Channel) -> Charged:
    return Charged(channel, lambda: job.charge("scores of matched people", 1, score_budget(job)))


def _others(job: Job) -> tuple[bool, list[Channel]]:
    """Whether this media leads, and its lines to the followers; else the one to the lead."""
    media = [party.name for party in job.contract.media]
    if job.party == media[0]:
        return True, [job.channels[name] for name in media[1:]]
    return False, [job.channels[media[0]]]


def _trained_here(job: Job) -> tuple[IntArray, Facts]:
    """The rows that all have, and this party's part of the model."""
    return read_rows(job.earlier["train"]), read_json(job.earlier["train"] / "model.json")


async def score_brand(job: Job, _channel: Channel) -> Facts:
    rows, model = _trained_here(job)
    kept, levels = model["joint"], job.contract.guards.score_levels
    part = training.model_of(kept)
    x = features.apply(features.Recipe.from_json(model["recipe"]), job.rows, rows)
    media = [party.name for party in job.contract.media]
    media_part = await several.brand_scores(
        [job.channels[name] for name in media],
        several.apart(part.media_weights, [kept["columns"][name] for name in media]),
        len(rows),
        levels=levels,
        window=tuple(kept["window"]),
        randomness=job.randomness,
    )
    z = part.own_part(x) + media_part
    rates = calibration.Calibration(**kept["calibration"]).rates(z)
    order = np.argsort(-z, kind="stable")
    columns = {column: job.rows[column].take(pa.array(rows[order])) for column in job.keys.values()}
    score = 1 / (1 + np.exp(-z[order]))
    found = {**columns, "row": rows[order], "score": score, "probability": rates[order]}
    write_table(job.staging / "scores.parquet", found)
    _keep_rows(job, rows)
    return {
        "rows": len(rows),
        "levels": levels,
        "histogram": quality.histogram(z),
        "expected_rate": float(rates.mean()),
        "model": "",
    }


async def score_media(job: Job, channel: Channel) -> Facts:
    leads, others = _others(job)
    rows, model = _trained_here(job)
    basis = np.array(model["joint"]["basis"], np.float64)
    x = features.apply(features.Recipe.from_json(model["recipe"]), job.rows, rows) @ basis
    charged = _scores_charged(job, channel)
    if leads:
        levels = job.contract.guards.score_levels
        await several.lead_scores(charged, others, x, levels=levels, randomness=job.randomness)
    else:
        await several.follower_scores(charged, others[0], x, randomness=job.randomness)
    _keep_rows(job, rows)
    return {"rows": len(rows), "model": ""}
