"""Sample weights, rare and frequent labels, warm starts and early stops: scikit-learn's model in all of them."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tests.test_logistic import logits, people, pooled
from tidegate.protocols.blind import fourier, logistic
from tidegate.protocols.blind.logistic import Another, Rows, Settings, brand, media
from tidegate.protocols.channel import CarrierError, ConfigError, PeerError, PolicyError
from tidegate.protocols.primitives.fixed_point import T, modulo
from tidegate.protocols.primitives.packing import block_count
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import MemoryChannel, simulate

PLAIN = Settings(steps=8, l2=1.0)


def train(x_b, x_m, y, settings=PLAIN, on_step=None, **more):
    # How many steps are taken, and what rounding makes of the model, hang on what both draw.
    drawn = {name: Randomness(name.encode().ljust(32)) for name in ("brand", "media")}
    return simulate(
        lambda ch: brand(ch, x_b, y, settings=settings, randomness=drawn["brand"], **more),
        lambda ch: media(ch, x_m, settings=settings, randomness=drawn["media"], on_step=on_step),
    )


def weighted(x_b, x_m, y, weights, l2=1.0):
    return LogisticRegression(C=1 / l2, tol=1e-8, max_iter=5000).fit(np.hstack([x_b, x_m]), y, sample_weight=weights)


def joint(found, x_b, x_m):
    return logits((found[0].model, found[1]), x_b, x_m)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e12])
def test_sample_weights_are_scikit_learn_s_whatever_their_scale(scale):
    x_b, x_m, y = people(2500, 2, 3)
    weights = np.random.default_rng(1).uniform(0.1, 5, len(y)) * scale
    found = train(x_b, x_m, y, weights=weights)
    clear = weighted(x_b, x_m, y, weights / scale, l2=1 / scale).decision_function(np.hstack([x_b, x_m]))
    assert np.abs(joint(found, x_b, x_m) - clear).max() < 0.06


def test_a_row_of_weight_0_is_as_good_as_absent():
    x_b, x_m, y = people(2000, 2, 2)
    weights = (np.arange(2000) % 3 != 0).astype(float)
    found = train(x_b, x_m, y, weights=weights)
    clear = weighted(x_b, x_m, y, weights).decision_function(np.hstack([x_b, x_m]))
    assert np.abs(joint(found, x_b, x_m) - clear).max() < 0.06


def rated(n, rate, strength, seed=3):
    """Rows whose label is 1 at about this rate, with logits this far apart (standard deviation)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    z = x @ rng.normal(size=6)
    z = z / z.std() * strength + np.log(rate / (1 - rate)) * (1 + 0.1 * strength)
    return x[:, :3], x[:, 3:], (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float)


@pytest.mark.parametrize(("rate", "strength"), [(0.005, 1.0), (0.02, 3.0), (0.5, 3.0), (0.5, 0.2), (0.99, 1.0)])
def test_any_base_rate_and_any_strength_gives_the_pooled_model(rate, strength):
    """At a strength of 3 logits leave every fixed window of 16: a series that stayed in one would diverge."""
    x_b, x_m, y = rated(8000, rate, strength)
    found = train(x_b, x_m, y)
    x = np.hstack([x_b, x_m])
    clear = pooled(x_b, x_m, y, 1.0).decision_function(x)
    ours = joint(found, x_b, x_m)
    assert abs(roc_auc_score(y, ours) - roc_auc_score(y, clear)) < 1e-3
    assert np.sqrt(np.mean((ours - clear) ** 2)) < 0.05 * np.std(clear) + 0.02


def test_classes_of_1_to_200_can_be_balanced():
    x_b, x_m, y = rated(8000, 0.008, 1.5)
    weights = np.where(y == 1, (1 - y).sum() / y.sum(), 1.0)
    assert weights.max() > 60
    found = train(x_b, x_m, y, weights=weights)
    clear = weighted(x_b, x_m, y, weights).decision_function(np.hstack([x_b, x_m]))
    ours = joint(found, x_b, x_m)
    assert abs(roc_auc_score(y, ours) - roc_auc_score(y, clear)) < 1e-3
    assert abs(np.mean(ours - clear)) < 0.05


@pytest.mark.parametrize("kind", ["equal", "one heavy row", "wild"])
def test_no_sum_can_leave_the_modulus_whatever_the_weights(kind):
    """The bound of `factor_bits`, on the rows themselves: the integers that are added up, all with the worst sign."""
    n = 5000
    rng = np.random.default_rng(0)
    weights = {"equal": np.ones(n), "one heavy row": np.ones(n), "wild": rng.pareto(0.5, n)}[kind]
    if kind == "one heavy row":
        weights[17] = 1e12
    x_b, _, y = people(n, 2, 1)
    rows, bits = Rows.of(x_b, y, weights, None), fourier.factor_bits(n)
    parts = [fourier.brand_factors(modulo(rng.integers(0, T, n)), weights / rows.unit, rows.series, bits) for _ in "ab"]
    worst = max(np.hypot(a, b).max() for part in parts for a, b in zip(part, part, strict=False))
    assert worst < T / 2 / 2**bits
    largest = weights / rows.unit * rows.series.residual_bound(bits) * 2.0 ** (2 * bits)
    assert 8.0 * 2**6 * np.max(largest) < T / 2
    for column in rows.own.integers.T.astype(float):
        assert np.sum(np.abs(column) * largest) < T / 2


@pytest.mark.parametrize(
    "weights", [np.zeros(300), -np.ones(300), np.full(300, np.nan), np.ones(299), np.ones((300, 1))]
)
def test_weights_that_are_none_are_refused(weights):
    x_b, x_m, y = people(300, 1, 1)
    with pytest.raises(ConfigError, match="weights"):
        train(x_b, x_m, y, weights=weights)


def test_weights_that_leave_one_class_are_refused():
    x_b, x_m, y = people(300, 1, 1)
    with pytest.raises(ConfigError, match="label"):
        train(x_b, x_m, y, weights=y)


# Stopping early.


def test_the_brand_stops_where_another_step_would_find_nothing():
    x_b, x_m, y = people(3000, 2, 2)
    charged: list[int] = []
    found = train(x_b, x_m, y, Settings(steps=12, l2=1.0, may_stop=True), on_step=charged.append)
    assert found[0].stopped
    assert found[0].steps < 12
    assert charged == list(range(1, found[0].steps + 1))
    clear = pooled(x_b, x_m, y, 1.0).decision_function(np.hstack([x_b, x_m]))
    assert np.abs(joint(found, x_b, x_m) - clear).max() < 0.06


def test_without_leave_to_stop_all_steps_are_taken():
    x_b, x_m, y = people(1000, 1, 1)
    charged: list[int] = []
    found = train(x_b, x_m, y, Settings(steps=10), on_step=charged.append)
    assert (found[0].steps, found[0].stopped, charged) == (10, False, list(range(1, 11)))


def test_gradients_fall_from_step_to_step():
    x_b, x_m, y = people(3000, 2, 2)
    gradients = train(x_b, x_m, y, Settings(steps=5))[0].gradients
    assert len(gradients) == 5
    assert gradients[-1] < 0.1 * gradients[0]


def test_a_brand_that_neither_goes_on_nor_stops_is_refused():
    async def liar(channel):
        await channel.send(Another(2))

    with pytest.raises(PeerError, match="neither"):
        simulate(logistic.asked_for_another, liar)


def test_a_step_that_is_refused_is_not_answered():
    """The ledger speaks before anything of the step leaves: up to then the media has sent its eigenvalues alone."""
    x_b, x_m, y = people(300, 1, 1)
    lines: list[MemoryChannel] = []
    sent: list[list[str]] = []

    def refuse(step):
        sent.append([name for name, _ in lines[0].sent])
        raise PolicyError("the ledger is spent")

    async def as_media(channel):
        lines.append(channel)
        await media(channel, x_m, settings=PLAIN, randomness=Randomness.system(), on_step=refuse)

    with pytest.raises((PolicyError, CarrierError)):
        simulate(as_media, lambda ch: brand(ch, x_b, y, settings=PLAIN, randomness=Randomness.system()))
    assert sent == [["Variances"]]


# Sizes.


@pytest.mark.parametrize(("d_b", "d_m"), [(0, 1), (1, 1), (7, 1), (1, 9)])
def test_any_number_of_columns(d_b, d_m):
    x_b, x_m, y = people(1000, d_b, d_m)
    found = train(x_b, x_m, y)
    clear = pooled(x_b, x_m, y, 1.0).decision_function(np.hstack([x_b, x_m]))
    assert np.abs(joint(found, x_b, x_m) - clear).max() < 0.06


def test_four_hundred_columns_a_side():
    x_b, x_m, y = people(1000, 400, 400)
    found = train(x_b, x_m, y, Settings(steps=2, l2=300.0))
    clear = pooled(x_b, x_m, y, 300.0).decision_function(np.hstack([x_b, x_m]))
    assert found[0].model.media_weights.shape == (400,)
    assert np.corrcoef(joint(found, x_b, x_m), clear)[0, 1] > 0.99


def test_the_brand_s_columns_need_not_be_loaded_all_at_once(monkeypatch):
    monkeypatch.setattr(logistic, "_HELD_BYTES", 0)
    x_b, x_m, y = people(1000, 2, 2)
    clear = pooled(x_b, x_m, y, 1.0).decision_function(np.hstack([x_b, x_m]))
    assert np.abs(joint(train(x_b, x_m, y), x_b, x_m) - clear).max() < 0.06


def test_the_media_s_columns_need_not_be_kept_encoded(monkeypatch):
    monkeypatch.setattr("tidegate.protocols.blind.products._CACHED_BYTES", 0)
    x_b, x_m, y = people(9000, 2, 2)
    assert block_count(len(y)) == 2
    clear = pooled(x_b, x_m, y, 1.0).decision_function(np.hstack([x_b, x_m]))
    assert np.abs(joint(train(x_b, x_m, y), x_b, x_m) - clear).max() < 0.06
