"""What bounds one member's or one row's part of a sum, and the noise that hides it: differential privacy of the sums.

    u = the sum of a member's rows, each drawn in            unit "row"
        or all that it says, drawn in                        unit "client"
    member i sends round(u 2^bits) + N_Z(0, s^2), masked     s = z D / sqrt(n - c)
    the sum over n members has noise of variance n s^2, of which n - c shares are unknown to c members that collude

D is how far one unit can move the sum (L2, in units of 2^-bits) and z the noise multiplier. Against the coordinator
and any c members together each round is then 1 / (2 z^2) zero-concentrated differentially private, whichever model is
asked next, and R rounds are R times that; dp-accounting reads epsilon at a delta from the Renyi divergences.

Neighbours: one unit is there, or counts nothing (zeros). Who is in the cohort is known and stays. One unit replaced by
another is twice as far: it has the epsilon of z / 2.

The shares' sum is no discrete Gaussian but, for s of at least 16 units, closer to one than e^-2000 [KLS21, theorem 1],
which is far below what delta or these floats can show; less is refused.

What it asks for: every number of the sum is in the vector that is drawn in, and has noise. Exact counts beside it are
not covered.

[KLS21] Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation", ICML 2021. [CKS20] Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS
2020. [Mironov17] "Renyi Differential Privacy", CSF 2017. [ACGMMTZ16] Abadi et al., "Deep Learning with Differential
Privacy", CCS 2016: rows' gradients drawn in.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..channel import ConfigError, PolicyError
from ..primitives.fixed_point import FloatArray

_LEAST_SHARE = 16
# dp-accounting's own orders end at 512, which an epsilon under 0.3 wants more than; 2.5 % apart cost it 0.01 %.
_ORDERS = tuple((1 + np.geomspace(0.01, 1e5, 640)).tolist())


def share_of(multiplier: float, moved: float, members: int, colluding: int = 1) -> int:
    """s: the standard deviation of each member's noise, in units of the last place; `moved` as of `sensitivity`.

    colluding: how many members the multiplier shall hold against, together with the coordinator. ConfigError where
    fewer than two others are left, and where the units are too coarse.
    """
    if not 0 <= colluding <= members - 2:
        raise ConfigError(
            f"of {members} members {colluding} cannot be taken to collude: two others must be left",
            "name more members, or assume fewer to collude",
        )
    share = math.ceil(multiplier * moved / math.sqrt(members - colluding))
    if share < _LEAST_SHARE:
        raise ConfigError(
            f"noise of {share} units a member is too little to add up to a discrete Gaussian",
            f"use more bits of fraction, so that it has {_LEAST_SHARE} units or more",
        )
    return share


def multiplier_against(multiplier: float, members: int, colluding: int, declared: int = 1) -> float:
    """What is left of a noise multiplier against so many members where the shares were made for `declared` of them."""
    return multiplier * math.sqrt((members - colluding) / (members - declared))


def sensitivity(most: float, size: int, bits: int) -> float:
    """How far one unit of length `most` moves a sum of `size` numbers with so many bits of fraction (L2, in units).

    Rounding, which comes after the rows are added up, moves each number by one unit more at worst.
    """
    return most * 2.0**bits + math.sqrt(size)


def length(update: FloatArray) -> float:
    """The L2 norm; infinite or no number where it cannot be measured."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.linalg.norm(update))


def clipped(update: FloatArray, most: float) -> FloatArray:
    """The update (size,), drawn in to length `most` if it is longer. PolicyError where it is not finite."""
    norm = length(update)
    # An infinite number drawn in would be no number: it is refused here as it is by FixedPoint.
    if not math.isfinite(norm):
        raise PolicyError(
            "our own update holds numbers that are not finite or too large to measure, so it is not sent",
            "look for missing or huge values in the data set, or train with more l2",
        )
    return update * (most / norm) if norm > most else update


def clipped_sum(x: FloatArray, residuals: FloatArray, most: float) -> FloatArray:
    """The sum over rows of residual times row, each drawn in to length `most`: x (n, d), residuals (n,) -> (d,).

    That is the gradient of a logistic or linear model, of which one row moves at most `most`. PolicyError where a row
    is not finite.
    """
    lengths = np.abs(residuals) * np.linalg.norm(x, axis=1)
    if not np.isfinite(lengths).all():
        raise PolicyError("a row of our own is not finite", "fill in missing values first")
    total: FloatArray = (residuals * (most / np.maximum(lengths, most))) @ x
    return total


def noise_multiplier(epsilon: float, delta: float, rounds: int) -> float:
    """The least z for which so many rounds have at most this epsilon at delta. ConfigError for what cannot be.

    Takes a second or two, once.
    """
    if not (0 < epsilon <= 100 and 0 < delta < 1 and rounds >= 1):
        raise ConfigError(
            "differential privacy takes an epsilon of up to 100, a delta between 0 and 1, and a round or more"
        )
    try:
        import dp_accounting  # type: ignore[import-untyped]  # ships no types; 2 s with scipy, which only these runs pay
    except ImportError as missing:
        raise ConfigError(
            f"differential privacy across many holders needs dp-accounting, of which {missing.name} is missing here",
            "pip install 'tidegate[horizontal]'",
        ) from None
    bracket = dp_accounting.LowerEndpointAndGuess(0.0, 1.0)
    found = dp_accounting.calibrate_dp_mechanism(
        _accountant, lambda z: _event(z, rounds), epsilon, delta, bracket, tol=1e-6
    )
    return float(found)


def epsilon_of(multiplier: float, delta: float, rounds: int) -> float:
    """The epsilon at delta of so many rounds with this noise multiplier."""
    accountant = _accountant()
    accountant.compose(_event(multiplier, rounds))
    return float(accountant.get_epsilon(delta))


def _accountant() -> Any:
    from dp_accounting import NeighboringRelation, rdp

    # The discrete Gaussian's Renyi divergences are at most the continuous one's [CKS20]; for exact privacy loss
    # distributions, tighter by 7 %, nothing of the kind is proven.
    return rdp.RdpAccountant(_ORDERS, NeighboringRelation.REPLACE_SPECIAL)


def _event(multiplier: float, rounds: int) -> Any:
    from dp_accounting import GaussianDpEvent, SelfComposedDpEvent

    return SelfComposedDpEvent(GaussianDpEvent(multiplier), rounds)
