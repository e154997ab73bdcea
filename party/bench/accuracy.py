"""`tidegate bench accuracy`: models trained blind beside scikit-learn's on the pooled tables, over several splits.

Both roles run in this process, over a line in memory, with the product's own preparation of columns, training and
exact scoring of the held-out rows; nothing is simulated. The yardstick is scikit-learn's LogisticRegression on the same
prepared columns side by side, with the same L2, at its optimum. A control trains each split again with the media's rows
in another order than the brand's: columns like any others that say nothing. A gain is shown from them by chance alone,
1 time in 40.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from tidegate.protocols.blind import logistic, scoring
from tidegate.protocols.channel import Channel, ConfigError
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import simulate

from .. import demo, quality
from ..accountant import rho_of
from ..data import features, table
from ..demo.records import LABEL, RELIGION
from ..privacy import gradient_noise
from .run import machine

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

DELTA = 1e-6
TEST_SHARE = 0.3
MODELS = ("brand_only", "blind", "pooled")
# What the mean over the splits of blind minus pooled may be either way; of the lift as a share of it.
TARGETS = {"auc": 5e-4, "log_loss": 3e-4, "lift_at_10_percent": 0.01}

_SHORT = {"auc": "AUC", "log_loss": "log loss", "lift_at_10_percent": "lift 10%"}


@dataclass(frozen=True)
class Records:
    """One data set dealt to two parties: row i of `brand` and row i of `media` are the same person.

    official: True in the training rows of the division that the set was published with, None where it has none.
    """

    name: str
    brand: pa.Table
    media: pa.Table
    y: IntArray
    l2: float
    official: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Columns:
    """The prepared columns of the same rows at both parties."""

    brand: FloatArray
    media: FloatArray


@dataclass(frozen=True)
class Terms:
    """How every model is trained.

    hidden: the media takes part with all its rows and learns of none whether it is trained on; the yardstick then
    scales the media's columns by all rows too. epsilon: of differential privacy for the whole training, at delta 1e-6;
    None for none. The targets are for trainings without it.
    """

    splits: int = 5
    steps: int = 8
    hidden: bool = False
    epsilon: float | None = None


def bench(folder: Path | None, terms: Terms, report: Callable[[str], None]) -> dict[str, Any]:
    """The figures of every data set in `folder`, of the package's own where it is None.

    report: called with what is trained next. Raises ConfigError where the folder has none of the files.
    """
    began = time.monotonic()
    sets = [_measured(records, terms, report) for records in load(folder)]
    return {
        "step": "accuracy",
        **asdict(terms),
        "sets": sets,
        "targets": TARGETS,
        "met": all(each["met"] for each in sets),
        "seconds": round(time.monotonic() - began, 1),
        **machine(),
    }


def lines(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """The same as rows of a table: data set, figure, each model's mean, mean and worst difference, target."""
    found: list[tuple[str, ...]] = []
    for each in figures["sets"]:
        for figure, target in TARGETS.items():
            means = [f"{each['mean'][figure][model]:.4f}" for model in MODELS]
            away = (f"{each['mean_difference'][figure]:.5f}", f"{each['worst_difference'][figure]:+.5f}")
            found.append((each["name"], _SHORT[figure], *means, *away, f"{target:.4f}"))
        control = each["control"]
        gains = (f"{control['mean_gain']:+.5f}", f"{control['largest_gain']:+.5f}")
        found.append((each["name"], "control", "", "", "", *gains, f"{control['gains_shown']} shown"))
    return found


def load(folder: Path | None) -> list[Records]:
    """The data sets whose files are in `folder` (docs/benchmarks.md says where they come from)."""
    if folder is None:
        with resources.as_file(resources.files(demo) / "caravan.parquet") as path:
            return [_caravan(path)]
    found = []
    if (folder / "bank.parquet").exists():
        found.append(_bank(folder / "bank.parquet"))
    if (folder / "caravan.parquet").exists():
        found.append(_caravan(folder / "caravan.parquet"))
    if (folder / "default_credit_guest.parquet").exists():
        found.append(_default_credit(folder))
    if not found:
        raise ConfigError(
            "--data names a folder without a data set that this measures",
            "expected bank.parquet, caravan.parquet or default_credit_guest.parquet with default_credit_host.parquet",
        )
    return found


def _bank(path: Path) -> Records:
    records = table.read(path)
    # `duration` is known after the call only, so it is nobody's.
    media = ["age", "job", "marital", "education", "default", "balance", "housing", "loan"]
    brand = ["contact", "day", "month", "campaign", "pdays", "previous", "poutcome"]
    return Records("bank", records.select(brand), records.select(media), _binary(records, "y", "yes"), l2=1.0)


def _caravan(path: Path) -> Records:
    records = table.read(path)
    names = [name for name in records.column_names if name not in (*RELIGION, LABEL, "split")]
    brand = [name for name in names if name.startswith(("premium_", "policies_"))]
    media = records.select([name for name in names if name not in brand])
    # Both are numbers of a list of types.
    for name in ("customer_subtype", "customer_main_type"):
        media = media.set_column(media.column_names.index(name), name, table.text_column(media, name))
    official = np.array(records["split"].to_pylist()) == "train"
    return Records("caravan", records.select(brand), media, _binary(records, LABEL, "1"), l2=10.0, official=official)


def _default_credit(folder: Path) -> Records:
    guest, host = (table.read(folder / f"default_credit_{party}.parquet") for party in ("guest", "host"))
    guest, host = guest.sort_by("id"), host.sort_by("id")
    if not guest["id"].equals(host["id"]):
        raise ConfigError("the two default_credit files do not hold the same people", "fetch both from the same source")
    brand = guest.drop_columns(["id", "y"])
    return Records("default_credit", brand, host.drop_columns(["id"]), _binary(guest, "y", "1"), l2=1.0)


def _binary(records: pa.Table, column: str, positive: str) -> IntArray:
    found = table.binary(records, column, positive)
    if (found < 0).any():
        raise ConfigError(f"the label column {column!r} has rows without a value", "fetch the file again")
    return found.astype(np.int64)


def _measured(records: Records, terms: Terms, report: Callable[[str], None]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    controls: list[dict[str, Any]] = []
    for number, (train, test) in enumerate(divisions(records, terms.splits)):
        report(f"{records.name}, split {number + 1} of {terms.splits}")
        rows.append(compared(records, train, test, seed=number, terms=terms))
        report(f"{records.name}, control {number + 1} of {terms.splits}")
        others = pa.array(np.random.default_rng(number).permutation(len(records.y)))
        control = Records(records.name, records.brand, records.media.take(others), records.y, records.l2)
        controls.append(compared(control, train, test, seed=number, terms=terms))
    differences = {figure: [_difference(figure, row[figure]) for row in rows] for figure in TARGETS}
    mean = {figure: float(np.mean(np.abs(values))) for figure, values in differences.items()}
    return {
        "name": records.name,
        "rows": len(records.y),
        "good": int(records.y.sum()),
        "l2": records.l2,
        "first_split": "as published" if records.official is not None else "seeded",
        "splits": rows,
        "mean_difference": mean,
        "worst_difference": {figure: max(values, key=abs) for figure, values in differences.items()},
        "mean": {
            figure: {model: float(np.mean([row[figure][model] for row in rows])) for model in MODELS}
            for figure in TARGETS
        },
        "met": all(mean[figure] <= target for figure, target in TARGETS.items()),
        "control": {
            "mean_gain": float(np.mean([control["gain"] for control in controls])),
            "largest_gain": max(control["gain"] for control in controls),
            "gains_shown": sum(bool(control["gain_shown"]) for control in controls),
        },
    }


def _difference(figure: str, by_model: dict[str, float]) -> float:
    """Blind minus pooled; for the lift, as a share of pooled's."""
    difference = by_model["blind"] - by_model["pooled"]
    return difference / by_model["pooled"] if figure == "lift_at_10_percent" else difference


def divisions(records: Records, splits: int) -> list[tuple[IntArray, IntArray]]:
    """Training and test rows: the published division first where there is one, then seeded stratified 70/30 ones."""
    everyone = np.arange(len(records.y))
    found = []
    if records.official is not None:
        found.append((everyone[records.official], everyone[~records.official]))
    for seed in range(splits - len(found)):
        train, test = train_test_split(everyone, test_size=TEST_SHARE, random_state=seed, stratify=records.y)
        found.append((np.sort(train), np.sort(test)))
    return found


def compared(records: Records, train: IntArray, test: IntArray, *, seed: int, terms: Terms) -> dict[str, Any]:
    """Brand alone, joint and blind, joint and pooled: each trained on `train` and judged on `test`."""
    # The rows that the media takes part with: under hidden alignment all it has, and it prepares its columns on them.
    shared = np.arange(len(records.y)) if terms.hidden else train
    own = features.fit(records.brand, records.brand.column_names, shared)
    own = features.rescaled(own, records.brand, train)
    other = features.fit(records.media, records.media.column_names, shared)

    def prepared(rows: IntArray) -> Columns:
        return Columns(features.apply(own, records.brand, rows), features.apply(other, records.media, rows))

    trained, judged = prepared(train), prepared(test)
    y, y_test = records.y[train].astype(np.float64), records.y[test]
    alone = logistic.fit_alone(trained.brand, y, records.l2).own_part(judged.brand)
    began = time.monotonic()
    settings = logistic.Settings(steps=terms.steps, l2=records.l2, privacy=_privacy(terms))
    present = np.isin(shared, train)
    joint = Columns(np.zeros((len(shared), trained.brand.shape[1])), prepared(shared).media)
    joint.brand[present] = trained.brand
    labels = np.zeros(len(shared))
    labels[present] = y
    blind = _blind(joint, labels, present if terms.hidden else None, judged, settings, f"{records.name} {seed}")
    seconds = time.monotonic() - began
    pooled = _pooled(trained, y, records.l2).decision_function(np.hstack([judged.brand, judged.media]))
    models = dict(zip(MODELS, (alone, blind, pooled), strict=True))
    gain, interval = quality.auc_gain(y_test, alone, blind)
    return {
        "rows": {"train": len(train), "test": len(test), "media": len(shared)},
        "features": {"brand": trained.brand.shape[1], "media": trained.media.shape[1]},
        "seconds": round(seconds, 2),
        "auc": {name: quality.auc(y_test, z) for name, z in models.items()},
        "log_loss": {name: quality.log_loss(y_test, z) for name, z in models.items()},
        "lift_at_10_percent": {name: quality.lift(y_test, z, 10) for name, z in models.items()},
        "gain": gain,
        "gain_interval": interval,
        "gain_shown": quality.is_gain_shown(interval),
    }


def _pooled(columns: Columns, y: FloatArray, l2: float) -> LogisticRegression:
    both = np.hstack([columns.brand, columns.media])
    return LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-9, max_iter=200).fit(both, y)


def _blind(
    rows: Columns,
    y: FloatArray,
    present: NDArray[np.bool_] | None,
    judged: Columns,
    settings: logistic.Settings,
    seed: str,
) -> FloatArray:
    """Log-odds of the judged rows by the joint model that is trained on `rows`, under hidden alignment the present."""

    async def brand(channel: Channel) -> FloatArray:
        randomness = _randomness(f"{seed} brand")
        trained = await logistic.brand(
            channel, rows.brand, y, settings=settings, randomness=randomness, present=present
        )
        weights, own = trained.model.media_weights, trained.model.own_part(judged.brand)
        return own + await scoring.brand_scores(channel, weights, len(own), levels=None, randomness=randomness)

    async def media(channel: Channel) -> None:
        randomness = _randomness(f"{seed} media")
        noise = gradient_noise(settings.privacy, len(y)) if settings.privacy else None
        model = await logistic.media(channel, rows.media, settings=settings, randomness=randomness, noise=noise)
        await scoring.media_scores(channel, judged.media @ model.basis, levels=None, randomness=randomness)

    return simulate(brand, media)[0]


def _privacy(terms: Terms) -> logistic.Privacy | None:
    """Each optimiser step gets the same part of the budget, as in a campaign."""
    if terms.epsilon is None:
        return None
    return logistic.Privacy(noise=math.sqrt(terms.steps / (2 * rho_of(terms.epsilon, DELTA))))


def _randomness(seed: str) -> Randomness:
    """The same for the same words, so that a figure can be had again; nobody's secret is measured here.

    Noise of differential privacy is fresh all the same: opendp takes no seed.
    """
    return Randomness(hashlib.sha256(seed.encode()).digest())
