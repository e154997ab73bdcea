"""`tidegate bench privacy`: what differential privacy of training costs in AUC.

The product's preparation of columns, clipping, start, descent and size of noise, in floating point with the exact
sigmoid and without fixed-point columns' sums under encryption: a training takes a tenth of a second, so that budgets
can be swept over many draws. `protocol` is one budget trained by the protocol itself, both roles in this process, with
noise from opendp, to see that the two agree.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.protocols.blind import logistic
from tidegate.protocols.blind.descent import Descent
from tidegate.protocols.blind.whitening import whiten

from .. import quality
from ..accountant import rho_of
from ..data import features
from .accuracy import DELTA, Records, Terms, compared, divisions, load
from .run import machine

FloatArray = NDArray[np.float64]

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
STEPS = (3, 8)
CONFIRMED = (2.0, 3)
"""The epsilon and number of steps that the protocol itself is run with."""


def bench(folder: Path | None, draws: int, report: Callable[[str], None]) -> dict[str, Any]:
    """AUC lost against the same training without differential privacy's noise and clipping, for each budget.

    Of every data set in `folder`, of the package's own where it is None, in its first division into training and test.
    """
    began = time.monotonic()
    sets = []
    for records in load(folder):
        report(records.name)
        sets.append(_priced(records, draws, report))
    return {
        "step": "privacy",
        "delta": DELTA,
        "draws": draws,
        "sets": sets,
        "seconds": round(time.monotonic() - began, 1),
        **machine(),
    }


def lines(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """As rows of a table: data set, steps, epsilon, AUC lost on average, standard deviation over the draws."""
    return [
        (each["name"], str(row["steps"]), f"{row['epsilon']:g}", f"{row['lost']:.4f}", f"{row['sd']:.4f}")
        for each in figures["sets"]
        for row in each["rows"]
    ]


def _priced(records: Records, draws: int, report: Callable[[str], None]) -> dict[str, Any]:
    train, test = divisions(records, 1)[0]
    own = features.fit(records.brand, records.brand.column_names, train)
    other = features.fit(records.media, records.media.column_names, train)
    y, y_test = records.y[train].astype(np.float64), records.y[test]
    simulated = _Simulated(
        features.apply(own, records.brand, train), features.apply(other, records.media, train), y, records.l2
    )
    judged = features.apply(own, records.brand, test), features.apply(other, records.media, test)

    def auc(steps: int, epsilon: float | None, seed: int) -> float:
        return quality.auc(y_test, simulated.log_odds(*judged, steps, epsilon, np.random.default_rng(seed)))

    clear = auc(8, None, 0)
    rows = []
    for steps in STEPS:
        for epsilon in EPSILONS:
            lost = [clear - auc(steps, epsilon, seed) for seed in range(draws)]
            rows.append({"steps": steps, "epsilon": epsilon, "lost": float(np.mean(lost)), "sd": float(np.std(lost))})
    epsilon, steps = CONFIRMED
    report(f"{records.name}, by the protocol")
    real = compared(records, train, test, seed=0, terms=Terms(splits=1, steps=steps, epsilon=epsilon))["auc"]
    return {
        "name": records.name,
        "rows": rows,
        "train": len(train),
        "features": {"brand": judged[0].shape[1], "media": judged[1].shape[1]},
        "auc": {"brand_only": real["brand_only"], "joint": clear, "pooled": real["pooled"]},
        "protocol": {"epsilon": epsilon, "steps": steps, "lost": clear - real["blind"]},
    }


class _Simulated:
    """Trainings on the same rows; columns and the start of the descent are prepared once."""

    def __init__(self, own: FloatArray, other: FloatArray, y: FloatArray, l2: float) -> None:
        self._x, self._y, self._l2 = own, y, l2
        self._model, self._scale = whiten(other, l2)
        self._other = other
        self._alone = logistic.fit_alone(own, y, l2)

    def log_odds(
        self, own: FloatArray, other: FloatArray, steps: int, epsilon: float | None, rng: np.random.Generator
    ) -> FloatArray:
        """Of the judged rows, by a joint model trained for so many steps within so large a budget."""
        noise = None if epsilon is None else math.sqrt(steps / (2 * rho_of(epsilon, DELTA)))
        privacy = None if noise is None else logistic.Privacy(noise=noise)
        n, split = len(self._y), 1 + self._x.shape[1]
        rows = logistic.Rows.of(self._x, self._y, np.ones(n), privacy)
        columns = self._model.columns(self._other, privacy.media_norm if privacy else None) / 64
        all_columns = np.hstack([np.ones((n, 1)), rows.own.integers / 64, columns])
        theta = np.concatenate([
            [self._alone.intercept],
            self._alone.weights * rows.own.scale,
            np.zeros(len(self._scale)),
        ])  # fmt: skip
        penalty = self._l2 * np.concatenate([[0.0], rows.own.scale**-2.0, 1 / self._scale])
        settings = logistic.Settings(steps=steps, l2=self._l2, privacy=privacy)
        inverse, diagonal = rows.inverse_hessian(theta[:split], penalty[:split], self._scale, settings)
        sd = logistic.gradient_noise(n, privacy) * rows.unit
        descent = Descent(theta, inverse, diagonal, sd, averaging=privacy is not None)
        for _ in range(steps):
            residuals = 0.5 * (1 + np.tanh(all_columns @ descent.theta / 2)) - self._y
            noised = all_columns.T @ residuals + rng.normal(0, sd, len(theta))
            descent.step(noised + penalty * descent.theta)
        theta = descent.theta
        part: FloatArray = theta[0] + own @ (theta[1:split] / rows.own.scale)
        return part + other @ self._model.basis @ theta[split:]
