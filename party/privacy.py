"""Differential privacy by contract: what a campaign may spend of a media's data set, and the noise that pays for it.

A release of integers with L2 sensitivity D and independent discrete Gaussian noise of standard deviation s is
rho-zCDP with rho = D^2 / (2 s^2) [CKS20, multivariate discrete Gaussian]. rho adds up over releases, also where each
is chosen by what came before [BS16], so rho is what the ledger counts, in whole millionths; a person reads it as an
epsilon at a delta (accountant.py).

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
from tidegate.protocols.channel import ConfigError
from tidegate.wire.contract import Contract, Privacy, Step

from .accountant import epsilon_of, rho_of
from .job import Facts, Job
from .noise import IntArray, discrete_gaussian

LEDGER = "privacy"
MICRO = 10**6
_NOISED = ("insight", "train")

Noise = Callable[[int], IntArray]


def delta_of(privacy: Privacy) -> float:
    return float(10.0**-privacy.delta_exponent)


def campaign_micro(privacy: Privacy) -> int:
    """The rho of one media's part in a campaign, in millionths; 0 without differential privacy."""
    return int(MICRO * rho_of(privacy.epsilon_milli / 1000, delta_of(privacy))) if privacy.epsilon_milli else 0


def limit_micro(privacy: Privacy, max_epsilon: float) -> int:
    """The rho that all campaigns of a partner may spend together, in millionths, read at this contract's delta."""
    return int(MICRO * rho_of(max_epsilon, delta_of(privacy)))


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


def spend(job: Job, micro: int) -> None:
    """Enters millionths of rho into the ledger before what they pay for is sent; nothing where there is none to pay."""
    if micro:
        job.charge(LEDGER, micro, limit_micro(job.contract.privacy, job.max_epsilon))


def facts(job: Job) -> Facts:
    """For the media's report: what this campaign may spend, and what was spent on this state of the data so far."""
    asked = job.contract.privacy
    if not asked.epsilon_milli:
        return {}
    spent = epsilon_of(job.spent(LEDGER) / MICRO, delta_of(asked))
    return {"privacy": {"epsilon": asked.epsilon_milli / 1000, "delta": delta_of(asked), "spent": round(spent, 3)}}


def _optimiser_steps(step: Step) -> int:
    taken = [step.settings.get(name, 0) for name in ("steps", "lookalike_steps")]
    return max(1, sum(count for count in taken if isinstance(count, int)))
