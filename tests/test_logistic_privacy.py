"""Differential privacy of training: noise on every sum, no row moves the sums further than said, and it learns."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tests.test_logistic import logits, people, pooled
from tidegate.protocols.blind import fourier
from tidegate.protocols.blind.logistic import Privacy, Rows, Settings, brand, fit_alone, media, sensitivity
from tidegate.protocols.blind.whitening import shortened, whiten
from tidegate.protocols.channel import ConfigError
from tidegate.protocols.primitives.fixed_point import T
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import simulate


def multiplier(epsilon, steps, delta=1e-6):
    """Noise in multiples of the sensitivity: zero-concentrated, spread evenly over the steps."""
    rho = (math.sqrt(math.log(1 / delta) + epsilon) - math.sqrt(math.log(1 / delta))) ** 2
    return math.sqrt(steps / (2 * rho))


def train(x_b, x_m, y, given, noise):
    return simulate(
        lambda ch: brand(ch, x_b, y, settings=given, randomness=Randomness(b"b" * 32)),
        lambda ch: media(ch, x_m, settings=given, randomness=Randomness(b"m" * 32), noise=noise),
    )


def test_at_epsilon_4_most_of_what_joining_gains_is_kept():
    """20,000 rows, three steps, delta 1e-6, against scikit-learn without noise and the brand alone."""
    x_b, x_m, y = people(24000, 3, 5, seed=2)
    train_rows, held_out = slice(0, 20000), slice(20000, None)
    privacy = Privacy(multiplier(4.0, 3), brand_norm=4.0, media_norm=4.0)
    rng, deviation = np.random.default_rng(4), privacy.noise * sensitivity(privacy, 20000)
    trained, model = train(
        x_b[train_rows],
        x_m[train_rows],
        y[train_rows],
        Settings(steps=3, l2=1.0, privacy=privacy),
        lambda k: np.rint(rng.normal(0, deviation, k)).astype(np.int64),
    )
    ours = logits((trained.model, model), x_b[held_out], x_m[held_out])
    clear = pooled(x_b[train_rows], x_m[train_rows], y[train_rows], 1.0)
    alone = fit_alone(x_b[train_rows], y[train_rows], 1.0).own_part(x_b[held_out])
    joint = roc_auc_score(y[held_out], clear.decision_function(np.hstack([x_b, x_m])[held_out]))
    assert joint - roc_auc_score(y[held_out], ours) < 0.01
    assert roc_auc_score(y[held_out], ours) - roc_auc_score(y[held_out], alone) > 0.8 * (
        joint - roc_auc_score(y[held_out], alone)
    )


def test_the_media_s_noise_is_on_every_sum(monkeypatch):
    """Constant noise on the six sums, the intercept's, the brand's columns' and the media's, arrives on each."""
    x_b, x_m, y = people(1500, 2, 3)
    seen, asked, size = [], [], 2**20 * 1000
    gradient = Rows.gradient
    monkeypatch.setattr(Rows, "gradient", lambda rows, sums: seen.append(sums) or gradient(rows, sums))
    for value in (0, size):
        train(x_b, x_m, y, Settings(steps=1, privacy=Privacy(1.0)), lambda k, v=value: asked.append(k) or np.full(k, v))
    assert asked == [6, 6]
    moved = [(with_noise - without) % T / size for without, with_noise in zip(*seen, strict=True)]
    assert np.allclose(moved, 1, atol=0.01)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rate=st.floats(0.005, 0.995),
    norms=st.tuples(st.floats(0.5, 20), st.floats(0.5, 20)),
    heavy=st.booleans(),
)
def test_no_row_moves_the_sums_of_a_step_further_than_is_said(seed, rate, norms, heavy):
    """What a row adds to all sums, as integers, from the factors that are multiplied: whatever model and weights."""
    rng = np.random.default_rng(seed)
    n, privacy = 400, Privacy(1.0, *norms)
    bits = fourier.factor_bits(n)
    x_b, x_m = rng.standard_t(1, (n, 4)), rng.standard_t(2, (n, 5))
    y = (rng.random(n) < rate).astype(float)
    y[:2] = 0, 1
    weights = rng.pareto(0.5, n) if heavy else np.ones(n)
    rows = Rows.of(x_b, y, weights, privacy).at(rng.normal(size=10) * rng.choice([0.1, 10]))
    share_b, share_m = (rng.integers(0, T, n, dtype=np.uint64) for _ in "bm")
    products = zip(
        fourier.brand_factors(share_b, weights / rows.unit, rows.series, bits),
        fourier.media_factors(share_m, bits),
        strict=True,
    )
    residuals = sum(mine.astype(np.int64) * theirs for mine, theirs in products)
    residuals += rows.residuals(slice(0, n), np.zeros(8192, np.uint64))[:n].astype(np.int64)
    residuals = (residuals + T // 2) % T - T // 2
    columns = whiten(x_m, 1.0)[0].columns(x_m, privacy.media_norm).astype(float)
    own = rows.own.integers.astype(float)
    row_norms = np.sqrt((columns**2).sum(axis=1) + (own**2).sum(axis=1) + 2.0**12)
    assert (row_norms * np.abs(residuals)).max() <= sensitivity(privacy, n)


@given(
    rows=st.lists(st.lists(st.integers(-512, 512), min_size=3, max_size=3), min_size=1, max_size=20),
    norm=st.floats(0.1, 20),
)
def test_rows_are_drawn_in_to_the_norm_and_short_ones_left(rows, norm):
    integers = np.array(rows)
    drawn_in = shortened(integers, norm)
    lengths = np.sqrt((integers**2).sum(axis=1))
    assert (np.sqrt((drawn_in**2).sum(axis=1)) <= norm * 64).all()
    assert np.array_equal(drawn_in[lengths <= norm * 64], integers[lengths <= norm * 64])


def test_noise_without_the_settings_that_call_for_it_is_a_mistake_and_the_other_way():
    x_b, x_m, y = people(300, 1, 1)
    with pytest.raises(ValueError, match="noise is needed"):
        train(x_b, x_m, y, Settings(), lambda k: np.zeros(k, np.int64))
    with pytest.raises(ValueError, match="noise is needed"):
        train(x_b, x_m, y, Settings(privacy=Privacy(1.0)), None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise": 0.0},
        {"noise": math.nan},
        {"noise": math.inf},
        {"noise": 1.0, "brand_norm": 0.0},
        {"noise": 1.0, "media_norm": 257.0},
    ],
)
def test_privacy_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="differential privacy"):
        Privacy(**wrong)
