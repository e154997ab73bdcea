"""The accountant: what epsilon buys, how a campaign divides it, and that the noise it asks for costs what it says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opendp.combinators import make_zCDP_to_approxDP
from opendp.domains import atom_domain, vector_domain
from opendp.measurements import make_gaussian
from opendp.metrics import l2_distance
from opendp.mod import enable_features

from tests.test_contract import contract
from tidegate.party import accountant, privacy
from tidegate.party.store import Store
from tidegate.protocols.blind import logistic
from tidegate.protocols.blind.descent import Descent
from tidegate.protocols.channel import ConfigError, PolicyError
from tidegate.wire.contract import Contract, Privacy, Step

INSIGHT = Step("insight", "insight.columns@1", {})
TRAIN = Step("train", "train.fourier-lr@1", {"steps": 6, "lookalike_steps": 2})
# dp-accounting 0.6.0: RdpAccountant, so many Gaussian events of this noise multiplier, at delta 1e-6.
OTHER_ACCOUNTANT = [
    (2.0, 1, 2.4191024886939205),
    (4.0, 8, 3.5423612316217303),
    (20.0, 12, 0.7718625063233047),
    (1.5, 3, 6.149312172080866),
]


def _contract(epsilon_milli: int, *steps: Step, count_noise: int = 10) -> Contract:
    made = contract()
    return replace(
        made,
        steps=steps,
        privacy=Privacy(epsilon_milli, 6),
        features={"portal": tuple(f"x{i}" for i in range(20))},
        guards=replace(made.guards, count_noise=count_noise),
    )


@pytest.mark.parametrize(("noise", "releases", "epsilon"), OTHER_ACCOUNTANT)
def test_epsilon_is_that_of_another_accountant(noise: float, releases: int, epsilon: float) -> None:
    # Theirs tries a grid of orders, so it ends a little above.
    assert accountant.epsilon_of(releases / (2 * noise**2), 1e-6) == pytest.approx(epsilon, rel=3e-4)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.5, 500), st.integers(5, 12))
def test_epsilon_is_that_of_the_library_that_draws_the_noise(scale: float, delta_exponent: int) -> None:
    enable_features("contrib")
    delta = 10.0**-delta_exponent
    mechanism = make_gaussian(vector_domain(atom_domain(T="i64")), l2_distance(T=float), scale=scale)
    curve = make_zCDP_to_approxDP(mechanism).map(1.0)
    assert accountant.epsilon_of(mechanism.map(1.0), delta) == pytest.approx(curve.epsilon(delta), rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.1, 20), st.integers(5, 12))
def test_rho_is_the_largest_with_that_epsilon(epsilon: float, delta_exponent: int) -> None:
    delta = 10.0**-delta_exponent
    rho = accountant.rho_of(epsilon, delta)
    assert accountant.epsilon_of(rho, delta) <= epsilon
    assert accountant.epsilon_of(rho * 1.000001, delta) > epsilon


def test_without_privacy_nothing_is_spent_and_noise_is_the_guards() -> None:
    made = _contract(0, INSIGHT, TRAIN)
    assert privacy.training(made, TRAIN, "portal") is None
    assert privacy.step_micro(made, INSIGHT, "portal") == 0
    assert privacy.count_noise(made, INSIGHT, "portal") == 10


@pytest.mark.parametrize("epsilon_milli", [100, 500, 1000, 4000])
@pytest.mark.parametrize("steps", [(INSIGHT,), (TRAIN,), (INSIGHT, TRAIN)])
def test_a_campaign_spends_no_more_than_its_epsilon(epsilon_milli: int, steps: tuple[Step, ...]) -> None:
    """What every release costs is asked of the library that draws the noise, not of the accountant."""
    enable_features("contrib")
    space = vector_domain(atom_domain(T="i64")), l2_distance(T=float)
    made, rho = _contract(epsilon_milli, *steps, count_noise=0), 0.0
    if INSIGHT in steps:
        scale = privacy.count_noise(made, INSIGHT, "portal")
        cost = make_gaussian(*space, scale=float(scale)).map(math.sqrt(2 * 20))
        assert cost * 10**6 <= privacy.step_micro(made, INSIGHT, "portal")
        rho += cost
    if TRAIN in steps:
        asked = privacy.training(made, TRAIN, "portal")
        assert asked is not None
        sensitivity = logistic.sensitivity(asked, 30_000)
        cost = make_gaussian(*space, scale=asked.noise * sensitivity).map(float(sensitivity))
        assert cost * 10**6 <= privacy.optimiser_step_micro(made, TRAIN, "portal") * (1 + 1e-9)
        rho += 8 * cost
    spent = accountant.epsilon_of(rho, 1e-6)
    assert 0.85 * epsilon_milli <= 1000 * spent <= epsilon_milli


def test_hidden_alignment_shows_three_counts_of_a_person() -> None:
    hidden = replace(INSIGHT, protocol="insight.columns-hidden@1")
    shown = privacy.count_noise(_contract(500, INSIGHT, count_noise=0), INSIGHT, "portal")
    more = privacy.count_noise(_contract(500, hidden, count_noise=0), hidden, "portal")
    assert more == pytest.approx(shown * math.sqrt(3 / 2), rel=0.01)


def test_a_guard_that_asks_for_more_noise_wins() -> None:
    assert privacy.count_noise(_contract(8000, INSIGHT, count_noise=500), INSIGHT, "portal") == 500


def test_gradient_noise_has_the_size_that_was_paid_for() -> None:
    asked = logistic.Privacy(noise=5.0)
    size = 4000
    drawn = privacy.gradient_noise(asked, 10_000)(size)
    expected = 5 * logistic.sensitivity(asked, 10_000)
    # The library takes no seed. Both lie within six standard errors but once in 10^8 runs.
    assert drawn.std() == pytest.approx(expected, rel=6 / math.sqrt(2 * size))
    assert abs(drawn.mean()) < 6 * expected / math.sqrt(size)
    assert len(np.unique(drawn)) > size - 10


def test_noise_that_is_spread_over_more_steps_averages_out_in_the_model() -> None:
    rng = np.random.default_rng(2)
    square = rng.normal(size=(4, 4))
    hessian, best = square @ square.T + np.eye(4), rng.normal(size=4)
    descent = Descent(np.zeros(4), np.linalg.inv(hessian), np.empty(0), averaging=True)
    noise = rng.normal(size=(8, 4))
    for each in noise:
        descent.step(hessian @ (descent.theta - best) + each)
    np.testing.assert_allclose(descent.theta, best - np.linalg.inv(hessian) @ noise[1:].mean(axis=0))


def test_the_ledger_is_charged_the_part_and_told_the_limit() -> None:
    charges: list[tuple[str, int, int]] = []
    made = _contract(1000, INSIGHT, TRAIN)
    job = SimpleNamespace(contract=made, charge=lambda *charge: charges.append(charge), max_epsilon=2.0)
    privacy.spend(job, privacy.step_micro(made, INSIGHT, "portal"))
    privacy.spend(job, 0)
    ((kind, amount, limit),) = charges
    assert (kind, amount) == ("privacy", privacy.campaign_micro(made.privacy) // 2)
    assert accountant.epsilon_of(limit / 1e6, 1e-6) == pytest.approx(2, rel=1e-4)


def test_the_report_says_what_was_spent_on_this_state_of_the_data() -> None:
    made = _contract(1000, INSIGHT)
    micro = privacy.campaign_micro(made.privacy)
    job = SimpleNamespace(contract=made, spent=lambda kind: {"privacy": 2 * micro}[kind])
    said = privacy.facts(job)["privacy"]
    assert (said["epsilon"], said["delta"]) == (1.0, 1e-6)
    # Twice the rho is less than twice the epsilon.
    assert 1.4 < said["spent"] < 1.5
    assert privacy.facts(SimpleNamespace(contract=_contract(0, INSIGHT))) == {}


def test_each_attempt_spends_its_own_part_of_differential_privacy(tmp_path: Path) -> None:
    store, contract_hash = Store(tmp_path / "store.db"), b"c" * 32
    for run in (b"1" * 16, b"2" * 16):
        for kind in ("privacy", "insight"):
            store.charge("digest", "acme", kind, 40, 100, contract_hash, run)
    assert store.spent("digest", "acme", "privacy") == 80
    assert store.spent("digest", "acme", "insight") == 40
    with pytest.raises(PolicyError, match="120 of 100"):
        store.charge("digest", "acme", "privacy", 40, 100, contract_hash, b"3" * 16)
    assert {charge.kind: charge.amount for charge in store.charges()} == {"privacy": 80, "insight": 40}


def test_too_small_an_epsilon_is_said_before_anything_runs() -> None:
    many = replace(TRAIN, settings={"steps": 12, "lookalike_steps": 0})
    made = replace(_contract(1, INSIGHT, many), privacy=Privacy(1, 12))
    with pytest.raises(ConfigError, match="too small"):
        privacy.training(made, many, "portal")
