"""Differential privacy by contract: what a campaign may spend of a media's data set, and the noise that pays for it.

A release of integers with L2 sensitivity D and independent discrete Gaussian noise of standard deviation s is
rho-zCDP with rho = D^2 / (2 s^2) [CKS20, multivariate discrete Gaussian]. rho adds up over releases, also where each
is chosen by what came before [BS16], so rho is what the ledger counts, in whole millionths; a person reads it as

    epsilon(rho, delta) = min over a > 1 of  a rho + log(1 - 1/a) + log(1 / (a delta)) / (a - 1)      [CKS20]

A contract names epsilon and delta for one campaign and one media. Its rho is divided into equal parts for the steps
that add this noise (insight, train), the part of train into equal parts for its optimiser steps. What was not asked
for is not charged. Neighbouring data sets are those where one matched person of the media is there or counts nothing;
what that leaves out is in docs/protocols/differential-privacy.md.

BS16: Bun, Steinke, Concentrated Differential Privacy, TCC 2016. CKS20: Canonne, Kamath, Steinke, The Discrete Gaussian
for Differential Privacy, NeurIPS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tidegate.protocols.blind import logistic
from tidegate.protocols.catalog import CATALOG
from tidegate.protocols.channel import ConfigError, PolicyError
from tidegate.wire.contract import Contract, Privacy, Step

from .noise import IntArray, discrete_gaussian

LEDGER = "privacy"
MICRO = 10**6
EPSILON_LIMIT_MILLI = 4000
"""What a partner may spend in all of one state of a data set, where policy.toml does not ask for less."""
_NOISED = ("insight", "train")

Charge = Callable[[str, int, int], None]
Noise = Callable[[int], IntArray]


def epsilon_of(rho: float, delta: float) -> float:
    """The least epsilon for which rho-zCDP is known to give (epsilon, delta)-differential privacy."""
    if rho <= 0:
        return 0.0

    def at(log_above_one: float) -> float:
        a = 1 + math.exp(log_above_one)
        return a * rho - math.log1p(math.exp(-log_above_one)) - math.log(delta * a) / (a - 1)

    # Every a gives a true bound; it falls, then rises: golden section.
    low, high, golden = -15.0, 40.0, (math.sqrt(5) - 1) / 2
    for _ in range(120):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if at(left) < at(right) else (left, high)
    return max(0.0, at((low + high) / 2))


def rho_of(epsilon: float, delta: float) -> float:
    """The largest rho whose epsilon is not above this one."""
    low, high = 0.0, epsilon
    for _ in range(120):
        middle = (low + high) / 2
        low, high = (middle, high) if epsilon_of(middle, delta) <= epsilon else (low, middle)
    return low


def delta_of(privacy: Privacy) -> float:
    return float(10.0**-privacy.delta_exponent)


def campaign_micro(privacy: Privacy) -> int:
    """The rho of one media's part in a campaign, in millionths; 0 without differential privacy."""
    return int(MICRO * rho_of(privacy.epsilon_milli / 1000, delta_of(privacy))) if privacy.epsilon_milli else 0


def limit_micro(privacy: Privacy, epsilon_limit_milli: int = EPSILON_LIMIT_MILLI) -> int:
    """The rho that all campaigns of a partner may spend, in millionths, read at this contract's delta."""
    return int(MICRO * rho_of(epsilon_limit_milli / 1000, delta_of(privacy)))


def step_micro(contract: Contract, step: Step, media: str) -> int:
    """The part of one step on this media's data, in millionths of rho; 0 where it adds no such noise."""
    sharing = [each for each in contract.steps if each.step in _NOISED and contract.takes_part(media, each)]
    return campaign_micro(contract.privacy) // len(sharing) if step in sharing else 0


def optimiser_step_micro(contract: Contract, step: Step, media: str) -> int:
    """What each optimiser step of a training spends, in millionths of rho."""
    return step_micro(contract, step, media) // _optimiser_steps(step)


def training(contract: Contract, step: Step, media: str) -> logistic.Privacy | None:
    """What both sides set in the training's settings; None where the contract asks for no differential privacy.

    ConfigError where the budget is too small for noise that the protocol can carry.
    """
    if not contract.privacy.epsilon_milli:
        return None
    micro = optimiser_step_micro(contract, step, media)
    if micro < 1:
        raise ConfigError("epsilon is too small for so many optimiser steps", "train fewer steps, or allow more")
    return logistic.Privacy(noise=math.sqrt(MICRO / (2 * micro)))


def gradient_noise(settings: logistic.Privacy, rows: int) -> Noise:
    """k integers of noise for the sums of one optimiser step over so many rows."""
    return discrete_gaussian(math.ceil(settings.noise * logistic.sensitivity(settings, rows)))


def count_noise(contract: Contract, step: Step, media: str) -> int:
    """The standard deviation of the noise on every count of an insight: the guard's, or what the budget asks for.

    A person stands in one bin of each granted feature, as one of the people and, if so, of the matched ones and of the
    positives: of norm sqrt(features times the kinds of counts).
    """
    guard = contract.guards.count_noise
    if not contract.privacy.epsilon_milli:
        return guard
    micro = step_micro(contract, step, media)
    if micro < 1:
        raise ConfigError("epsilon is too small for an insight", "allow more, or leave the step out")
    kinds = 3 if CATALOG[step.protocol].alignment == "hidden" else 2
    squared = kinds * max(1, len(contract.features.get(media, ())))
    return max(guard, math.ceil(math.sqrt(squared * MICRO / (2 * micro))))


def spend(charge: Charge, contract: Contract, micro: int, epsilon_limit_milli: int = EPSILON_LIMIT_MILLI) -> None:
    """Enters millionths of rho into the ledger before what they pay for is sent; nothing where there is none to pay."""
    if micro:
        charge(LEDGER, micro, limit_micro(contract.privacy, epsilon_limit_milli))


def check(privacy: Privacy, epsilon_limit_milli: int) -> None:
    """PolicyError where one campaign asks for more than all of them together may spend."""
    if privacy.epsilon_milli > epsilon_limit_milli:
        raise PolicyError(
            f"the campaign asks for an epsilon of {privacy.epsilon_milli / 1000:g}, our policy allows "
            f"{epsilon_limit_milli / 1000:g} for all campaigns on one state of the data",
            f"have it proposed with epsilon = {epsilon_limit_milli / 1000:g} or less",
        )


def _optimiser_steps(step: Step) -> int:
    taken = [step.settings.get(name, 0) for name in ("steps", "lookalike_steps")]
    return max(1, sum(count for count in taken if isinstance(count, int)))
