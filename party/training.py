"""The step train: a logistic model on both sides' columns, and how good it is.

    brand                                                          media
      its columns, labels, weights; the penalty, where the           fits its columns to the training rows
      contract leaves it to the brand, on its own columns
      which rows train, which are held out        ----->             (hidden alignment: both draw them)
      joint model                                 <---->             a ledger entry before each optimiser step
      exact scores of the hold-out                <-----             a score of matched people
      the same for a model of the media's columns alone, where the campaign has lookalike_steps

Shown alignment runs over the matched rows that have a label. In hidden alignment the media enters all of its people; at
the brand a place without a labelled row of its own is not present: it adds nothing to any sum, and the score that comes
back for it is dropped.

Where the brand chooses the penalty, nothing of the choice is sent: the media's whitening needs a ridge, and any that is
public has the same optimum, while the value chosen would tell it of the labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tidegate.protocols.blind import importance, logistic, scoring
from tidegate.protocols.blind.split import receive_split, send_split
from tidegate.protocols.blind.whitening import MediaModel
from tidegate.protocols.channel import Channel, ConfigError, PeerError, PolicyError
from tidegate.protocols.primitives.randomness import Randomness

from . import calibration, models, privacy, quality
from .aligned import (
    aligned,
    drawn_out,
    enough_seeds,
    granted,
    held_out_rows,
    is_shown,
    labels_of,
    number,
    score_budget,
)
from .data import features, table
from .job import Charged, Facts, IntArray, Job
from .results import write_json

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

PUBLIC_L2 = 10.0
"""By which the media whitens where the brand chooses the penalty, and the choice of a brand without columns."""
L2_TRIED = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_FOLDS = 5
_MOST_ROWS = 10_000
_CLEAR = 2.0


# What both sides read from the contract.


def settings(job: Job, steps: int, l2: float, media: str) -> logistic.Settings:
    """The settings of one training; l2 is the brand's choice where the contract has none, of which the media knows not.

    media: whose budget of differential privacy pays.
    """
    return logistic.Settings(
        steps=steps,
        l2=l2,
        whitened_for=0.0 if number(job.step, "l2_milli") else PUBLIC_L2,
        may_stop=bool(number(job.step, "early_stop")),
        privacy=privacy.training(job.contract, job.step, media),
    )


def agreed_l2(job: Job) -> float:
    """The contract's penalty, or what stands for it where the brand chooses."""
    return number(job.step, "l2_milli") / 1000 or PUBLIC_L2


# What the brand learns from.


@dataclass(frozen=True)
class Lesson:
    """The brand's side of a training: columns (n, d), labels and sample weights (n,), and which rows are its own.

    odds: the log of how much more the good customers weigh than they would by their number; a model's intercept is that
    much too high. here (n,): False at places where the brand has nothing, in hidden alignment alone.
    """

    x: FloatArray
    y: FloatArray
    weights: FloatArray
    odds: float
    here: BoolArray

    def alone(self, l2: float) -> logistic.BrandModel:
        """The model on the brand's columns alone, intercept and all as they were trained.

        Over all places, those of weight 0 too: the time that it takes is not to tell how many rows the brand has there.
        """
        return logistic.fit_alone(self.x, self.y, l2, self.weights)

    def own(self, values: FloatArray) -> FloatArray:
        """The rows that the brand has."""
        return values if self.present is None else values[self.here]

    def calibrated(self, model: logistic.BrandModel) -> logistic.BrandModel:
        """The model with the intercept that its probabilities need among customers as they are."""
        return replace(model, intercept=model.intercept - self.odds)

    def without_columns(self) -> Lesson:
        return replace(self, x=np.empty((len(self.y), 0)))

    @property
    def present(self) -> BoolArray | None:
        return None if bool(self.here.all()) else self.here


def lesson(job: Job, x: FloatArray, rows: IntArray, y: NDArray[np.int64], here: BoolArray) -> Lesson:
    """x (n, d), rows (n,) of the brand's table (-1 where it has none), y (n,), here (n,)."""
    weights = _weights(job, rows, here)
    labels = y.astype(np.float64)
    good, other = float(weights[here] @ labels[here]), float(weights[here] @ (1 - labels[here]))
    if not number(job.step, "balance") or not good or not other:
        return Lesson(x, labels, weights, 0.0, here)
    whole = good + other
    weights = weights * np.where(y == 1, whole / (2 * good), whole / (2 * other))
    return Lesson(x, labels, weights, math.log(other / good), here)


def _weights(job: Job, rows: IntArray, here: BoolArray) -> FloatArray:
    """How much each row counts, 1 without a column that says it and 0 where there is no row."""
    name = job.contract.label.weight
    if not name:
        return here.astype(np.float64)
    weights = np.zeros(len(rows))
    weights[here] = table.numbers(job.rows, name)[rows[here]]
    if not (np.isfinite(weights).all() and (weights[here] > 0).all()):
        raise ConfigError(
            f"the weights {name!r} are not above 0 in every row that is trained on",
            "leave out rows that are not to count, or give them a small weight",
        )
    return weights


def _recipe(job: Job, rows: IntArray) -> features.Recipe:
    """The brand's columns, scaled by the rows that it trains on.

    In hidden alignment which features there are follows from all of its rows: the media sees their number, which must
    not hang on who matched.
    """
    if is_shown(job):
        return features.fit(job.rows, granted(job), rows)
    everybody = np.arange(job.rows.num_rows, dtype=np.int64)
    return features.rescaled(features.fit(job.rows, granted(job), everybody), job.rows, rows)


def own_columns(job: Job, recipe: features.Recipe, rows: IntArray, rare: BoolArray) -> FloatArray:
    """The brand's columns of some of its rows; 0 at places where it has none, and in features of too few people."""
    there = rows >= 0
    x = features.apply(recipe, job.rows, rows if there.all() else np.maximum(rows, 0))
    x[~there] = 0.0
    x[:, rare] = 0.0
    return x


def _all_but(job: Job, recipe: features.Recipe, rare: BoolArray, tested: IntArray) -> Lesson:
    """All of the brand's labelled rows but those held out, matched or not: what takes as long whoever matched."""
    rows = np.setdiff1d(np.arange(job.rows.num_rows, dtype=np.int64), tested)
    labels = labels_of(job, rows)
    return lesson(job, own_columns(job, recipe, rows, rare), rows, labels.y, labels.known)


def chosen_l2(taught: Lesson, randomness: Randomness) -> tuple[float, list[dict[str, float]]]:
    """The penalty of L2_TRIED with the least log loss on rows left out, on the brand's own columns; and that of each.

    Five folds of 10,000 rows at most: a penalty of this form is the precision that weights are expected to have,
    whatever the number of rows. Without columns there is nothing to choose by: PUBLIC_L2.
    """
    rows = np.flatnonzero(taught.here)
    if taught.x.shape[1] == 0:
        return PUBLIC_L2, []
    rows = rows[randomness.permutation(len(rows))[:_MOST_ROWS]]
    # Dealt by class, so that every fold has its part of both.
    rows = rows[np.argsort(taught.y[rows], kind="stable")]
    folds = np.arange(len(rows)) % _FOLDS
    tried = [{"l2": l2, "log_loss": _crossed(taught, rows, folds, l2)} for l2 in L2_TRIED]
    return min(tried, key=lambda each: each["log_loss"])["l2"], tried


def _crossed(taught: Lesson, rows: IntArray, folds: IntArray, l2: float) -> float:
    """Weighted mean log loss of rows by models that were fitted without their fold."""
    loss = 0.0
    for fold in range(_FOLDS):
        fit, left = rows[folds != fold], rows[folds == fold]
        model = logistic.fit_alone(taught.x[fit], taught.y[fit], l2, taught.weights[fit])
        z = model.own_part(taught.x[left])
        loss += float(taught.weights[left] @ (np.logaddexp(0.0, z) - taught.y[left] * z))
    return loss / float(taught.weights[rows].sum())


def standard_errors(taught: Lesson, alone: logistic.BrandModel, l2: float) -> FloatArray:
    """Of the brand's own weights in the joint model, given the media's part: (d,).

    Sandwich H^-1 G H^-1 with H = sum of w s x x' + l2 and G = sum of w^2 s x x', s the slope of the sigmoid at the
    brand's own model, since nobody knows the joint one's. They leave out what the media's weights are unsure by, and so
    are short where columns of both sides move together.
    """
    x, weights = taught.own(taught.x), taught.own(taught.weights)
    slopes = weights / (4 * np.cosh(alone.own_part(x) / 2) ** 2)
    ones = np.hstack([np.ones((len(x), 1)), x])
    penalty = np.full(ones.shape[1], l2)
    penalty[0] = 1e-9
    inverse = np.linalg.inv(ones.T @ (ones * slopes[:, None]) + np.diag(penalty))
    spread = inverse @ (ones.T @ (ones * (slopes * weights)[:, None])) @ inverse
    found: FloatArray = np.sqrt(np.maximum(np.diag(spread)[1:], 0.0))
    return found


def weighed(names: tuple[str, ...], model: logistic.BrandModel, errors: FloatArray) -> list[Facts]:
    """The brand's weights for the report, with a sign where they are two standard errors away from 0."""
    found = []
    for name, weight, error in zip(names, model.weights.tolist(), errors.tolist(), strict=True):
        sign = 0 if abs(weight) < _CLEAR * error else int(math.copysign(1, weight))
        found.append({"name": name, "weight": weight, "standard_error": error, "sign": sign})
    return found


# What is kept.


def brand_part(model: logistic.BrandModel, window: tuple[float, float], rates: Facts) -> Facts:
    """A model as the brand keeps it: `rates` are what `calibration.facts` found."""
    return {
        "intercept": model.intercept,
        "weights": model.weights.tolist(),
        "media_weights": model.media_weights.tolist(),
        "variances": model.variances.tolist(),
        "window": list(window),
        "calibration": {"intercept": rates["intercept"], "slope": rates["slope"]},
    }


def model_of(kept: Facts) -> logistic.BrandModel:
    """The model in what `brand_part` made."""
    return logistic.BrandModel(
        float(kept["intercept"]),
        np.array(kept["weights"], np.float64),
        np.array(kept["media_weights"], np.float64),
        np.array(kept["variances"], np.float64),
    )


def blur_of(window: tuple[float, float], levels: int) -> float:
    """The full width of the noise on scores that are given away in levels."""
    return (window[1] - window[0]) / (levels - 1)


# Roles.


async def brand(job: Job, channel: Channel) -> Facts:
    places = aligned(job)
    labels, drawn = labels_of(job, places), held_out_rows(job, places)
    entered = labels.known if is_shown(job) else np.ones(len(places), np.bool_)
    train, held_out = entered & ~drawn, entered & drawn
    own, tested = labels.known & train, labels.known & held_out
    enough_seeds(job, int(labels.y[own].sum()))
    quality.check_holdout(labels.y[tested])
    earlier = models.for_step(job) if job.contract.model else {}
    recipe = features.Recipe.from_json(earlier["recipe"]) if earlier else _recipe(job, places[own])
    rare = features.rare(recipe, job.rows, places[own])
    x = own_columns(job, recipe, places[train], rare)
    taught = lesson(job, x, places[train], labels.y[train], own[train])
    tried: list[dict[str, float]] = []
    l2 = agreed_l2(job)
    if not number(job.step, "l2_milli"):
        l2, tried = chosen_l2(taught if is_shown(job) else _all_but(job, recipe, rare, places[tested]), job.randomness)
    alone = taught.alone(l2)
    start = _start(earlier, taught) if earlier else None

    if is_shown(job):
        await send_split(channel, train, held_out)
    terms = settings(job, number(job.step, "steps"), l2, job.peer)
    of_both = await trained(job, channel, taught, terms, start)
    media_part = (await held_out_scores(job, channel, of_both.model, held_out))[tested[held_out]]
    joint = taught.calibrated(of_both.model)
    x = own_columns(job, recipe, places[tested], rare)
    logits = {"brand_only": taught.calibrated(alone).own_part(x), "joint": joint.own_part(x) + media_part}
    y = labels.y[tested]
    window = scoring.window_of(media_part)
    rates = calibration.facts(
        y,
        logits["joint"],
        floor=job.contract.guards.floor,
        blur=blur_of(window, job.contract.guards.score_levels),
    )
    model: Facts = {"recipe": recipe.to_json(), "l2": l2, "joint": brand_part(joint, window, rates)}
    lookalike_steps = number(job.step, "lookalike_steps")
    if lookalike_steps:
        # Other people have no columns at the brand: their model uses the media's alone, and starts from the joint one.
        start = replace(of_both.model, weights=np.empty(0))
        terms = settings(job, lookalike_steps, l2, job.peer)
        of_others = await trained(job, channel, taught.without_columns(), terms, start)
        media_part = (await held_out_scores(job, channel, of_others.model, held_out))[tested[held_out]]
        model["lookalike"] = lookalike_part(job, taught.calibrated(of_others.model), media_part, y)
        logits["media_only"] = model["lookalike"]["intercept"] + media_part
    of_media = await coefficients(job, channel, joint)
    write_json(job.staging / "model.json", model)
    (job.staging / "split.u8").write_bytes((own.astype(np.uint8) + 2 * tested.astype(np.uint8)).tobytes())
    return {
        "rows": {"train": int(own.sum()), "holdout": int(tested.sum())},
        "positives": {"train": int(labels.y[own].sum()), "holdout": int(y.sum())},
        "steps": of_both.steps,
        "lookalike_steps": lookalike_steps,
        "stopped": of_both.stopped,
        "l2": l2,
        "l2_tried": tried,
        "weighted_by": job.contract.label.weight,
        "balanced": bool(number(job.step, "balance")),
        "started_from": job.contract.model,
        "weights": weighed(recipe.names, joint, standard_errors(taught, alone, l2)),
        "media_weights": of_media,
        "calibration": rates,
        **quality.compare(y, logits),
    }


def lookalike_part(job: Job, model: logistic.BrandModel, media_part: FloatArray, y: NDArray[np.int64]) -> Facts:
    """A model of the media's columns alone as the brand keeps it, with the hold-out that tells how good it is."""
    window = scoring.window_of(media_part)
    blur = blur_of(window, job.contract.guards.score_levels)
    rates = calibration.facts(y, model.intercept + media_part, floor=job.contract.guards.floor, blur=blur)
    kept = brand_part(model, window, rates)
    return {**kept, "holdout_scores": media_part.tolist(), "holdout_labels": y.tolist()}


def _start(earlier: Facts, taught: Lesson) -> logistic.BrandModel:
    """The earlier model as this training would have left it: its intercept is kept as probabilities need it."""
    model = model_of(models.part(earlier, "joint"))
    return replace(model, intercept=model.intercept + taught.odds)


async def trained(
    job: Job, channel: Channel, taught: Lesson, terms: logistic.Settings, start: logistic.BrandModel | None
) -> logistic.Trained:
    return await logistic.brand(
        channel,
        taught.x,
        taught.y,
        settings=terms,
        randomness=job.randomness,
        start=start,
        weights=taught.weights,
        present=taught.present,
    )


async def held_out_scores(job: Job, channel: Channel, model: logistic.BrandModel, held_out: BoolArray) -> FloatArray:
    """The media's part of the score of each held-out place, exact."""
    return await scoring.brand_scores(
        channel, model.media_weights, int(held_out.sum()), levels=None, randomness=job.randomness
    )


async def coefficients(job: Job, channel: Channel, model: logistic.BrandModel) -> list[Facts]:
    """How much each of the media's columns moves the model, per standard deviation, where the contract grants it."""
    if not number(job.step, "importance"):
        return []
    found = await importance.brand(channel, model.media_weights, job.contract.features.get(job.peer, ()))
    return [{"name": name, "weight": weight} for name, weight in found]


async def media(job: Job, channel: Channel) -> Facts:
    reserve(job)
    places = aligned(job)
    earlier = models.for_step(job) if job.contract.model else {}
    if earlier:
        features.check_fits(features.Recipe.from_json(earlier["recipe"]), job.rows)
    if is_shown(job):
        train, held_out = await receive_split(channel, len(places))
        _check_split(job, train, held_out)
    else:
        held_out = drawn_out(job, len(places))
        train = ~held_out
    if int(train.sum()) < job.contract.guards.seeds:
        raise PolicyError(
            f"the training part has {int(train.sum())} rows, at least {job.contract.guards.seeds} are needed",
            "match more people or hold out fewer",
        )
    return await train_and_score(job, channel, places[train], places[held_out], earlier)


async def train_and_score(job: Job, channel: Channel, train: IntArray, held_out: IntArray, earlier: Facts) -> Facts:
    """The media's side: each model trained on some of its rows, others scored by it, its part of each kept."""
    recipe = features.Recipe.from_json(earlier["recipe"]) if earlier else features.fit(job.rows, granted(job), train)
    x, tested = features.apply(recipe, job.rows, train), features.apply(recipe, job.rows, held_out)
    if earlier:
        x[:, features.rare(recipe, job.rows, train)] = 0.0
    start = None
    if earlier:
        first, _ = trainings(job)[0]
        start = MediaModel(np.array(models.part(earlier, first)["basis"], np.float64))
    model: Facts = {"recipe": recipe.to_json()}
    trained_models: list[MediaModel] = []
    taken = 0

    def charge_step() -> None:
        job.charge("train_steps", 1, job.contract.guards.train_steps)

    def on_step(step: int) -> None:
        nonlocal taken
        if step > 1:  # the first is charged when the variances leave, which tell something by themselves
            charge_step()
        privacy.spend(job, privacy.optimiser_step_micro(job.contract, job.step, job.party))
        taken += 1

    def charge_scores() -> None:
        for kind in _scored(job):
            job.charge(kind, 1, score_budget(job))

    for name, steps in trainings(job):
        terms = settings(job, steps, agreed_l2(job), job.party)
        start = await logistic.media(
            Charged(channel, charge_step),
            x,
            settings=terms,
            randomness=job.randomness,
            on_step=on_step,
            noise=privacy.gradient_noise(terms.privacy, len(x)) if terms.privacy else None,
            start=start,
        )
        charged = Charged(channel, charge_scores)
        await scoring.media_scores(charged, tested @ start.basis, levels=None, randomness=job.randomness)
        model[name] = {"basis": start.basis.tolist()}
        trained_models.append(start)
    weights: list[Facts] = []
    if number(job.step, "importance"):
        columns = [feature.column for feature in recipe.features]
        found = await importance.media(channel, trained_models[0], columns, x.std(axis=0))
        weights = [{"name": name, "weight": w} for name, w in zip(recipe.names, found.tolist(), strict=True)]
    write_json(job.staging / "model.json", model)
    return {
        "rows": {"train": len(train), "holdout": len(held_out)},
        "features": x.shape[1],
        "steps": taken,
        "started_from": job.contract.model,
        "weights": weights,
        **privacy.facts(job),
    }


def trainings(job: Job) -> list[tuple[str, int]]:
    """The models that a step trains, in order, and the optimiser steps of each."""
    if job.contract.label.seeds:
        return [("lookalike", number(job.step, "steps"))]
    wanted = [("joint", number(job.step, "steps")), ("lookalike", number(job.step, "lookalike_steps"))]
    return [(name, steps) for name, steps in wanted if steps]


def reserve(job: Job) -> None:
    """Raises PolicyError, before anything is sent, unless the data set can give away all that this step may take."""
    models_of = trainings(job)
    job.reserve("train_steps", sum(steps for _, steps in models_of), job.contract.guards.train_steps)
    for kind in _scored(job):
        job.reserve(kind, len(models_of), score_budget(job))


def _scored(job: Job) -> tuple[str, ...]:
    """Whose scores the hold-out gives away."""
    return ("scores of matched people", *(("scores of other people",) if job.contract.label.seeds else ()))


def _check_split(job: Job, train: BoolArray, held_out: BoolArray) -> None:
    if job.contract.holdout.column:
        return
    # Held-out rows get exact scores, so the brand does not choose them; it may only leave out unlabelled ones.
    drawn = drawn_out(job, len(train))
    if bool(np.any(held_out & ~drawn) or np.any(train & drawn)):
        raise PeerError(f"{job.peer} does not hold out the rows that the contract draws")
