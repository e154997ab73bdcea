"""Plays this party's role in one step: own rows in, the protocol over the channel, results into a staging folder.

Each function gets a `Job`, leaves its result files in `job.staging` and returns
the facts that the report shows. A role whose answers cost budget sends them through `Charged`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tidegate.protocols.blind import insight, logistic, scoring
from tidegate.protocols.blind.split import receive_split, send_split
from tidegate.protocols.channel import Channel, ConfigError, PeerError, PolicyError
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire.contract import Step

from . import epoch, matchdoctor, matching, policy, quality, summing
from .data import bins, features, table
from .job import Charged, Facts, IntArray, Job

FloatArray = NDArray[np.float64]


async def play(job: Job, channel: Channel) -> Facts:
    """Plays this party's role of the job's step and returns its facts; the files are in `job.staging` then."""
    role = _ROLES[job.step.protocol, job.role]
    facts = await role(job, channel)
    roles = {party.name: party.role for party in job.contract.parties}
    learned = policy.learns((job.step,), roles, job.contract.guards)[job.party]
    return {"step": job.step.step, "learned": list(learned), **facts}


def _aligned(job: Job) -> IntArray:
    """The matched rows of this party's table, in the order that both parties share."""
    return read_rows(job.earlier["match"])


def read_rows(matched: Path) -> IntArray:
    """The row numbers that a match step left in its folder."""
    return np.fromfile(matched / "rows.i64", dtype="<i8").astype(np.int64)


def read_split(trained: Path) -> NDArray[np.uint8]:
    """What the train step used each matched row for: 1 training, 2 held out, 0 neither."""
    return np.fromfile(trained / "split.u8", dtype=np.uint8)


def _features(job: Job) -> list[str]:
    return list(job.contract.features.get(job.party, ()))


@dataclass(frozen=True)
class Labels:
    """The brand's labels over the shared order: `y` is 1 for a good customer, meaningless where `known` is false."""

    y: NDArray[np.int64]
    known: NDArray[np.bool_]


def _labels(job: Job, aligned: IntArray) -> Labels:
    values = table.binary(job.rows, job.contract.label.column, job.contract.label.positive)[aligned]
    return Labels(y=(values == 1).astype(np.int64), known=values >= 0)


def _held_out(job: Job, aligned: IntArray) -> NDArray[np.bool_]:
    rule = job.contract.holdout
    if rule.column:
        texts = np.array(table.texts(job.rows, rule.column), dtype=object)[aligned]
        held_out: NDArray[np.bool_] = texts == rule.value
        return held_out
    return _drawn_out(job, len(aligned))


def _drawn_out(job: Job, n: int) -> NDArray[np.bool_]:
    """Which of n matched rows a contract holds out that names a share: both parties draw the same."""
    drawn: NDArray[np.bool_] = Randomness(job.contract.hash).integers(100, n) < np.uint64(job.contract.holdout.percent)
    return drawn


async def _insight_brand(job: Job, channel: Channel) -> Facts:
    labels = _labels(job, _aligned(job))
    y = np.where(labels.known, labels.y, 0)
    _enough_seeds(job, int(y.sum()))
    found = await insight.brand(
        channel,
        y,
        granted=job.contract.features.get(job.peer, ()),
        floor=job.contract.guards.floor,
        noise_sd=job.contract.guards.count_noise,
        randomness=job.randomness,
    )
    named = []
    for name, shown in found.features.items():
        named.append({"name": name, "bins": [asdict(each) for each in shown]})
    noise = job.contract.guards.count_noise
    return {"base_rate": found.base_rate, "features": named, "withheld": list(found.withheld), "noise": noise}


async def _insight_media(job: Job, channel: Channel) -> Facts:
    aligned = _aligned(job)
    columns = bins.fit_bins(job.rows, _features(job), aligned, job.contract.guards.floor)
    charged = Charged(channel, lambda: job.charge("insight", 1, 12))
    await insight.media(
        charged,
        bins.assign(job.rows, columns, aligned),
        columns,
        floor=job.contract.guards.floor,
        noise=job.count_noise,
        noise_sd=job.contract.guards.count_noise,
        randomness=job.randomness,
    )
    return {"features": len(columns), "rows": len(aligned)}


def _enough_seeds(job: Job, positives: int) -> None:
    if positives < job.contract.guards.seeds:
        raise PolicyError(
            f"fewer than {job.contract.guards.seeds} matched good customers to learn from",
            "match more people, or choose a label value that more of them have",
        )


def _train_settings(job: Job, steps: int) -> logistic.Settings:
    l2_milli = job.step.settings["l2_milli"]
    if not isinstance(l2_milli, int):
        raise ConfigError("the contract's l2_milli is not a whole number")
    return logistic.Settings(steps=steps, l2=l2_milli / 1000)


def _number(step: Step, name: str) -> int:
    value = step.settings.get(name, 0)
    if not isinstance(value, int):
        raise ConfigError(f"the contract's setting {name} of step {step.step} is not a whole number")
    return value


async def _train_brand(job: Job, channel: Channel) -> Facts:
    aligned = _aligned(job)
    labels = _labels(job, aligned)
    held_out = labels.known & _held_out(job, aligned)
    train = labels.known & ~held_out
    _enough_seeds(job, int(labels.y[train].sum()))
    quality.check_holdout(labels.y[held_out])
    recipe = features.fit(job.rows, _features(job), aligned[train])
    x = features.apply(recipe, job.rows, aligned)
    y = labels.y[train].astype(np.float64)
    settings = _train_settings(job, _number(job.step, "steps"))
    await send_split(channel, train, held_out)

    async def held_out_scores(weights: FloatArray) -> FloatArray:
        return await scoring.brand_scores(channel, weights, int(held_out.sum()), levels=None, randomness=job.randomness)

    alone = logistic.fit_alone(x[train], y, settings.l2)
    joint = await logistic.brand(channel, x[train], y, settings=settings, randomness=job.randomness)
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
    lookalike_steps = _number(job.step, "lookalike_steps")
    if lookalike_steps:
        # Other people have no columns at the brand: their model uses the media's alone, and starts from the joint one.
        start = logistic.BrandModel(joint.intercept, np.empty(0), joint.media_weights)
        lookalike = await logistic.brand(
            channel,
            np.empty((len(y), 0)),
            y,
            settings=_train_settings(job, lookalike_steps),
            randomness=job.randomness,
            start=start,
        )
        media_part = await held_out_scores(lookalike.media_weights)
        score["media_only"] = lookalike.intercept + media_part
        model["lookalike"] = {
            "intercept": lookalike.intercept,
            "media_weights": lookalike.media_weights.tolist(),
            "window": scoring.window_of(media_part),
            "holdout_scores": media_part.tolist(),
            "holdout_labels": labels.y[held_out].tolist(),
        }
    _write_json(job.staging / "model.json", model)
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


async def _train_media(job: Job, channel: Channel) -> Facts:
    aligned = _aligned(job)
    train, held_out = await receive_split(channel, len(aligned))
    if not job.contract.holdout.column:
        # Held-out rows get exact scores, so the brand does not choose them; it may only leave out unlabelled ones.
        drawn = _drawn_out(job, len(aligned))
        if bool(np.any(held_out & ~drawn) or np.any(train & drawn)):
            raise PeerError(f"{job.peer} does not hold out the rows that the contract draws")
    if int(train.sum()) < job.contract.guards.seeds:
        raise PolicyError(
            f"the training part has {int(train.sum())} rows, at least {job.contract.guards.seeds} are needed",
            "match more people or hold out fewer",
        )
    recipe = features.fit(job.rows, _features(job), aligned[train])
    x = features.apply(recipe, job.rows, aligned)
    steps, lookalike_steps = _number(job.step, "steps"), _number(job.step, "lookalike_steps")
    outputs = 2 if lookalike_steps else 1

    def charge() -> None:
        job.charge("train_steps", steps + lookalike_steps, job.contract.guards.train_steps)
        job.charge("scores of matched people", outputs, _score_budget(job))

    charged = Charged(channel, charge)
    model: Facts = {"recipe": recipe.to_json()}
    for name, count in (("joint", steps), ("lookalike", lookalike_steps)):
        if count:
            settings = _train_settings(job, count)
            trained = await logistic.media(charged, x[train], settings=settings, randomness=job.randomness)
            await scoring.media_scores(charged, x[held_out] @ trained.basis, levels=None, randomness=job.randomness)
            model[name] = {"basis": trained.basis.tolist()}
    _write_json(job.staging / "model.json", model)
    return {"rows": {"train": int(train.sum()), "holdout": int(held_out.sum())}, "features": x.shape[1]}


def _score_budget(job: Job) -> int:
    """How many scores of one person a snapshot may give away across models: a fifth of its columns, at least 4.

    As many linear scores as columns would solve for a person's values, so the budget stays well under that.
    """
    return max(4, len(_features(job)) // 5)


async def _score_brand(job: Job, channel: Channel) -> Facts:
    aligned = _aligned(job)
    model = _read_json(job.earlier["train"] / "model.json")
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
    _write_table(job.staging / "scores.parquet", {**columns, "row": aligned[order], "score": probability[order]})
    return {"rows": len(aligned), "levels": levels, "histogram": quality.histogram(z)}


async def _score_media(job: Job, channel: Channel) -> Facts:
    aligned = _aligned(job)
    x = _media_matrix(job, "joint", aligned)
    charged = Charged(channel, lambda: job.charge("scores of matched people", 1, _score_budget(job)))
    await scoring.media_scores(charged, x, levels=job.contract.guards.score_levels, randomness=job.randomness)
    return {"rows": len(aligned)}


def _media_matrix(job: Job, which: str, rows: IntArray) -> FloatArray:
    """The media's columns of `rows` in the secret basis of the trained model `which`."""
    model = _read_json(job.earlier["train"] / "model.json")
    recipe = features.Recipe.from_json(model["recipe"])
    basis = np.array(model[which]["basis"], np.float64)
    whitened: FloatArray = features.apply(recipe, job.rows, rows) @ basis
    return whitened


def _percents(job: Job) -> list[int]:
    sizes = job.step.settings["sizes"]
    if not isinstance(sizes, list):
        raise ConfigError("the contract's sizes of step expand are not a list")
    return sizes


async def _expand_brand(job: Job, channel: Channel) -> Facts:
    lookalike = _read_json(job.earlier["train"] / "model.json")["lookalike"]
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
    sizes = quality.expected_sizes(
        np.array(lookalike["holdout_scores"], np.float64),
        np.array(lookalike["holdout_labels"], np.int64),
        expanded.scores,
        _percents(job),
        blur=(high - low) / (levels - 1),
    )
    histogram = quality.histogram(lookalike["intercept"] + expanded.scores)
    return {"pool": len(expanded.scores), "floor": floor, "sizes": sizes, "histogram": histogram}


async def _expand_media(job: Job, channel: Channel) -> Facts:
    others = np.setdiff1d(np.arange(job.rows.num_rows, dtype=np.int64), _aligned(job))
    x = _media_matrix(job, "lookalike", others)
    charged = Charged(channel, lambda: job.charge("scores of other people", 1, _score_budget(job)))
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
        _write_table(job.staging / f"audience_{percent:02d}_percent.parquet", {**columns, "row": rows})
    sizes = [{"percent": percent, "people": len(positions)} for percent, positions in chosen.items()]
    return {"pool": len(others), "sizes": sizes}


def _write_json(path: Path, value: Facts) -> None:
    path.write_text(json.dumps(value, allow_nan=False))


def _read_json(path: Path) -> Facts:
    value: Facts = json.loads(path.read_text())
    return value


def _write_table(path: Path, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), path)


_ROLES: dict[tuple[str, str], Callable[[Job, Channel], Awaitable[Facts]]] = {
    ("doctor.oprf@1", "brand"): matchdoctor.brand,
    ("doctor.oprf@1", "media"): matchdoctor.media,
    ("match.oprf@1", "brand"): matching.matched,
    ("match.oprf@1", "media"): matching.matched,
    ("match.oprf-brand@1", "brand"): matching.matched,
    ("match.oprf-brand@1", "media"): matching.matched,
    ("match.oprf-size@1", "brand"): matching.matched,
    ("match.oprf-size@1", "media"): matching.matched,
    ("match.oprf-epoch@1", "brand"): epoch.brand,
    ("match.oprf-epoch@1", "media"): epoch.media,
    ("match.oprf-sum@1", "brand"): summing.summed,
    ("match.oprf-sum@1", "media"): summing.summed,
    ("insight.columns@1", "brand"): _insight_brand,
    ("insight.columns@1", "media"): _insight_media,
    ("train.fourier-lr@1", "brand"): _train_brand,
    ("train.fourier-lr@1", "media"): _train_media,
    ("score.rows@1", "brand"): _score_brand,
    ("score.rows@1", "media"): _score_media,
    ("expand.rows@1", "brand"): _expand_brand,
    ("expand.rows@1", "media"): _expand_media,
}
