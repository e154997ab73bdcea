"""Blind logistic regression: the pooled model, and views that hold nothing but what the module declares."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import chisquare
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from tests.broken_line import FAULTS, play_broken
from tidegate.protocols.blind import fourier, logistic, products
from tidegate.protocols.blind.descent import Descent
from tidegate.protocols.blind.logistic import Opening, Settings, Variances, brand, fit_alone, media
from tidegate.protocols.blind.whitening import whiten
from tidegate.protocols.channel import CarrierError, ConfigError, DisagreementError, PeerError, PolicyError
from tidegate.protocols.primitives.bfv import RESULT_BYTES, UPLOAD_BYTES, BrandKey
from tidegate.protocols.primitives.fixed_point import T
from tidegate.protocols.primitives.packing import SLOTS
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import simulate

CARAVAN = Path(__file__).parent.parent / "party" / "demo" / "caravan.parquet"
RELIGION = ("roman_catholic", "protestant", "other_religion", "no_religion")
OFFICIAL = ("split", "bought_caravan")


def people(n, d_b, d_m, seed=0):
    """Two tables whose columns share latent tastes, and a label that needs both."""
    rng = np.random.default_rng(seed)
    d = d_b + d_m
    x = rng.normal(size=(n, 4)) @ rng.normal(size=(4, d)) + 1.5 * rng.normal(size=(n, d))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    z = x @ rng.normal(size=d) * 0.5 - 1.5
    y = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float)
    return x[:, :d_b], x[:, d_b:], y


def train(x_b, x_m, y, steps=8, l2=10.0, randomness=Randomness.system, **more):
    settings = Settings(steps=steps, l2=l2)
    trained, model = simulate(
        lambda ch: brand(ch, x_b, y, settings=settings, randomness=randomness(), **more),
        lambda ch: media(ch, x_m, settings=settings, randomness=randomness()),
    )
    return trained.model, model


def logits(models, x_b, x_m):
    return models[0].own_part(x_b) + models[1].columns(x_m) / 2**6 @ models[0].media_weights


def pooled(x_b, x_m, y, l2=10.0):
    return LogisticRegression(C=1 / l2, tol=1e-8, max_iter=5000).fit(np.hstack([x_b, x_m]), y)


def caravan():
    table = pq.read_table(CARAVAN)
    training = np.array(table["split"].to_pylist()) == "train"

    def standardised(names):
        x = np.column_stack([np.array(table[name].to_pylist(), float) for name in names])
        spread = x[training].std(axis=0)
        return np.clip((x - x[training].mean(axis=0)) / np.where(spread > 0, spread, 1), -5, 5)

    of_brand = [name for name in table.column_names if name.startswith(("premium_", "policies_"))]
    of_media = [name for name in table.column_names if name not in (*of_brand, *RELIGION, *OFFICIAL)]
    y = np.array(table["bought_caravan"].to_pylist(), float)
    return standardised(of_brand), standardised(of_media), y, training


def test_it_reaches_the_pooled_model_on_real_records():
    x_b, x_m, y, training = caravan()
    assert (x_b.shape[1], x_m.shape[1]) == (42, 39)
    models = train(x_b[training], x_m[training], y[training])
    ours = logits(models, x_b[~training], x_m[~training])
    clear = pooled(x_b[training], x_m[training], y[training]).decision_function(np.hstack([x_b, x_m])[~training])
    truth = y[~training]
    assert abs(roc_auc_score(truth, ours) - roc_auc_score(truth, clear)) <= 5e-4
    assert abs(log_loss(truth, 1 / (1 + np.exp(-ours))) - log_loss(truth, 1 / (1 + np.exp(-clear)))) <= 3e-4


@pytest.mark.parametrize("l2", [0.1, 10.0, 1000.0])
def test_the_penalty_is_scikit_learn_s(l2):
    x_b, x_m, y = people(3000, 3, 4)
    models = train(x_b, x_m, y, l2=l2)
    clear = pooled(x_b, x_m, y, l2)
    assert np.abs(logits(models, x_b, x_m) - clear.decision_function(np.hstack([x_b, x_m]))).max() < 0.05
    own = np.concatenate([models[0].weights, models[1].basis @ models[0].media_weights])
    assert np.abs(own - clear.coef_[0]).max() < 0.02


def test_the_penalty_is_diagonal_and_exact_in_the_whitened_columns():
    _, x_m, _ = people(500, 1, 5)
    model, scale = whiten(x_m, 3.0)
    w = np.random.default_rng(1).normal(size=5)
    own = model.basis @ w
    assert np.isclose(own @ own, np.sum(w**2 / scale))


def test_more_rows_than_one_block():
    x_b, x_m, y = people(SLOTS + 900, 2, 2)
    models = train(x_b, x_m, y, steps=5)
    clear = pooled(x_b, x_m, y).decision_function(np.hstack([x_b, x_m]))
    assert np.abs(logits(models, x_b, x_m) - clear).max() < 0.06


def test_ragged_columns_do_no_harm():
    """Constant, all-zero, doubled and huge columns on both sides; heavy tails; a column with one row in it."""
    x_b, x_m, y = people(2500, 3, 3)
    rare = np.zeros((2500, 1))
    rare[7] = 1.0
    zeros, ones = np.zeros((2500, 1)), np.ones((2500, 1))
    x_b = np.hstack([x_b, zeros, ones, x_b[:, :1], 1e6 * x_b[:, 1:2]])
    x_m = np.hstack([x_m, zeros, ones, x_m[:, :1], rare, x_m[:, :1] + x_m[:, 1:2]])
    models = train(x_b, x_m, y)
    assert models[1].basis.shape == (8, 5)
    clear = pooled(x_b[:, :6], x_m, y).decision_function(np.hstack([x_b[:, :6], x_m]))
    ours = logits(models, x_b, x_m)
    assert np.isfinite(ours).all()
    assert abs(roc_auc_score(y, ours) - roc_auc_score(y, clear)) < 2e-3


def test_a_brand_without_columns_learns_from_the_media_s():
    x_b, x_m, y = people(3000, 0, 4)
    models = train(x_b, x_m, y)
    assert models[0].weights.shape == (0,)
    assert np.abs(logits(models, x_b, x_m) - pooled(x_b, x_m, y).decision_function(x_m)).max() < 0.05


def test_a_later_training_starts_where_an_earlier_one_ended():
    x_b, x_m, y = people(3000, 3, 3)
    first = train(x_b, x_m, y, steps=6)
    again = train(x_b, x_m, y, steps=1, start=first[0])
    clear = pooled(x_b, x_m, y).decision_function(np.hstack([x_b, x_m]))
    assert np.abs(logits(again, x_b, x_m) - clear).max() < 0.05
    with pytest.raises(ConfigError, match="other columns"):
        train(x_b[:, :2], x_m, y, start=first[0])


def test_where_the_media_adds_nothing_no_gain_is_invented():
    x_b, x_m, y = people(4000, 4, 3, seed=5)
    noise = np.random.default_rng(9).normal(size=x_m.shape)
    models = train(x_b[:2000], noise[:2000], y[:2000])
    alone = fit_alone(x_b[:2000], y[:2000], 10.0).own_part(x_b[2000:])
    joint = logits(models, x_b[2000:], noise[2000:])
    assert abs(roc_auc_score(y[2000:], joint) - roc_auc_score(y[2000:], alone)) < 5e-3


def test_the_brand_alone_fits_what_scikit_learn_fits():
    x_b, _, y = people(2000, 5, 1)
    clear = LogisticRegression(C=0.1, tol=1e-10, max_iter=1000).fit(x_b, y)
    assert np.allclose(fit_alone(x_b, y, 10.0).weights, clear.coef_[0], atol=1e-5)


@pytest.mark.parametrize("rate", [0.02, 0.06, 0.5, 0.9])
def test_the_series_is_the_sigmoid_around_the_base_rate(rate):
    centre = np.log(rate / (1 - rate))
    z = np.linspace(max(centre, -4) - 8, centre + 8, 501)
    assert np.abs(fourier.sigmoid_series(rate)(z) - 1 / (1 + np.exp(-z))).max() < 5e-3


def test_shares_of_a_logit_give_its_series_in_spite_of_the_wrap():
    rng = np.random.default_rng(4)
    z = rng.uniform(-6, 6, 2000)
    v = rng.integers(0, T, 2000, dtype=np.uint64)
    u = ((np.rint(z * T / 24).astype(np.int64) - v.astype(np.int64)) % T).astype(np.uint64)
    series = fourier.sigmoid_series(0.3)
    factors = zip(fourier.brand_factors(u, np.ones(2000), series, 10), fourier.media_factors(v, 10), strict=True)
    found = series.a_0 + sum(mine * theirs for mine, theirs in factors) / 2**20
    assert np.abs(found - 1 / (1 + np.exp(-z))).max() < 0.02


def test_sums_over_all_rows_cannot_leave_the_modulus():
    for rows in (2, 1000, 100_000, 2**18, 2**18 + 1, 10**6, 2**24):
        assert rows * 2 ** (6 + 2 * fourier.factor_bits(rows)) < T / 2


# Views.


class Recorder:
    """What the brand opens, in order: slots of logits and residuals, block by block, and the sums."""

    def __init__(self, monkeypatch):
        self.slots: list[np.ndarray] = []
        self.sums: list[int] = []
        decrypt, decrypt_sum = BrandKey.decrypt, BrandKey.decrypt_sum
        monkeypatch.setattr(BrandKey, "decrypt", lambda key, data: self._kept(self.slots, decrypt(key, data)))
        monkeypatch.setattr(BrandKey, "decrypt_sum", lambda key, data: self._kept(self.sums, decrypt_sum(key, data)))

    @staticmethod
    def _kept(where, value):
        where.append(value)
        return value


def seeded():
    """A source for each side, with the same numbers in every run: `uniform` is wrong once in a million draws."""
    seeds = itertools.count()
    return lambda: Randomness(next(seeds).to_bytes(32, "big"))


def uniform(values):
    counts = np.bincount((values * np.uint64(32) // np.uint64(T)).astype(int), minlength=32)
    return chisquare(counts).pvalue > 1e-6


def views(monkeypatch, steps=1):
    """8192 rows: per step one block of logits, one of residuals, and the sums of three columns."""
    recorder = Recorder(monkeypatch)
    x_b, x_m, y = people(SLOTS, 1, 2)
    train(x_b, x_m, y, steps=steps, randomness=seeded())
    assert (len(recorder.slots), len(recorder.sums)) == (2 * steps, 3 * steps)
    return recorder.slots


def test_all_that_the_brand_opens_of_rows_is_uniform(monkeypatch):
    for slots in views(monkeypatch):
        assert uniform(slots)


def test_the_next_step_s_masks_are_new(monkeypatch):
    opened = views(monkeypatch, steps=2)
    for first, second in zip(opened[:2], opened[2:], strict=True):
        assert uniform((first + np.uint64(T) - second) % np.uint64(T))
    assert uniform((opened[0] + np.uint64(T) - opened[1]) % np.uint64(T))


class Stuck(Randomness):
    """Draws the same numbers every time: masks that are used again."""

    def integers(self, modulus, n):
        return Randomness(bytes(32)).integers(modulus, n)


class Silent(Randomness):
    """Draws zeros: no masks."""

    def integers(self, modulus, n):
        return np.zeros(n, np.uint64)


def mutate(monkeypatch, step, stream):
    """Makes the media's pure step `step` draw its masks from another kind of stream."""
    right = getattr(logistic, step)
    monkeypatch.setattr(logistic, step, lambda *arguments: right(*arguments[:-1], stream(bytes(32))))


def mutated(monkeypatch, step, stream, steps=1):
    mutate(monkeypatch, step, stream)
    return views(monkeypatch, steps)


@pytest.mark.parametrize(("step", "opened"), [("masked_logits", 0), ("masked_residuals", 1)])
def test_without_masks_the_view_is_not_uniform(monkeypatch, step, opened):
    view = mutated(monkeypatch, step, Silent)
    assert [uniform(slots) for slots in view[:2]] == [opened == 1, opened == 0]


@pytest.mark.parametrize(("step", "opened"), [("masked_logits", 0), ("masked_residuals", 1)])
def test_masks_used_again_show(monkeypatch, step, opened):
    view = mutated(monkeypatch, step, Stuck, steps=2)
    differences = [uniform((view[at] + np.uint64(T) - view[at + 2]) % np.uint64(T)) for at in (0, 1)]
    assert differences == [opened == 1, opened == 0]


def test_one_mask_for_both_answers_shows(monkeypatch):
    """The same numbers for s and for rho: each block is still uniform, their difference is not."""
    mutate(monkeypatch, "masked_logits", Stuck)
    opened = mutated(monkeypatch, "masked_residuals", Stuck)
    assert not uniform((opened[0] + np.uint64(T) - opened[1]) % np.uint64(T))


def test_masks_used_again_for_the_next_block_show(monkeypatch):
    def opened(again):
        with monkeypatch.context() as patch:
            recorder = Recorder(patch)
            if again:
                mutate(patch, "masked_residuals", Stuck)
            x_b, x_m, y = people(2 * SLOTS, 0, 1)
            train(x_b, x_m, y, steps=1, randomness=seeded())
            # Logits, logits, residuals, residuals: the brand works one block ahead.
            return (recorder.slots[2] + np.uint64(T) - recorder.slots[3]) % np.uint64(T)

    assert uniform(opened(again=False))
    assert not uniform(opened(again=True))


def test_sums_carry_noise_that_leaves_16_bits(monkeypatch):
    """The same training twice opens sums that differ, by no more than twice the declared noise."""
    x_b, x_m, y = people(3000, 0, 1)
    sums = []
    for _ in range(2):
        with monkeypatch.context() as patch:
            recorder = Recorder(patch)
            train(x_b, x_m, y, steps=1)
            sums.append(recorder.sums[0])
    half = 3000 << 26 >> 16
    difference = (sums[0] - sums[1]) % T
    # r_b and rho differ from run to run by rounding alone; the rest of the difference is the noise.
    assert difference != 0
    drawn = logistic.blur(3000, 2000, Randomness(bytes(32)))
    assert max(map(abs, drawn)) <= half
    assert np.std(drawn) > 0.5 * half


def test_noise_near_the_optimum_does_not_throw_the_model_off():
    """Once, one training in 25 on 650 rows ended far from the optimum: it had read curvature from noise alone."""
    drawn = np.random.default_rng(5)
    n, d, noise = 650, 10, 0.05
    x = np.hstack([np.ones((n, 1)), drawn.standard_normal((n, d))])
    y = (drawn.random(n) < 1 / (1 + np.exp(-(x @ drawn.standard_normal(d + 1)) / 3))).astype(float)

    def gradient(theta):
        return x.T @ (1 / (1 + np.exp(-(x @ theta))) - y) + theta

    def trained(noise, steps):
        descent = Descent(np.zeros(d + 1), np.eye(d + 1) * 4 / n, np.empty(0), noise)
        for _ in range(steps):
            descent.step(gradient(descent.theta) + drawn.normal(0, noise, d + 1) if noise else gradient(descent.theta))
        return descent.theta

    best = trained(0.0, 30)
    assert np.abs(gradient(best)).max() < 1e-6
    assert max(np.abs(trained(noise, 12) - best).max() for _ in range(1000)) < 0.01


def test_the_transcript_depends_on_sizes_only():
    def shapes(seed, label_rate):
        lines = {}
        x_b, x_m, y = people(300, 2, 3, seed)
        y = np.arange(300) < 300 * label_rate

        async def as_brand(channel):
            lines["brand"] = channel
            await brand(channel, x_b, y, settings=Settings(steps=2), randomness=Randomness.system())

        async def as_media(channel):
            lines["media"] = channel
            await media(channel, x_m, settings=Settings(steps=2), randomness=Randomness.system())

        simulate(as_brand, as_media)
        return {who: [(name, len(data)) for name, data in line.sent] for who, line in lines.items()}

    assert shapes(1, 0.5) == shapes(2, 0.01)


# Refusals.


def media_against(liar, n=300):
    _, x_m, _ = people(n, 1, 2)
    return simulate(lambda ch: media(ch, x_m, settings=Settings(steps=1), randomness=Randomness.system()), liar)


def brand_against(liar, n=300):
    x_b, _, y = people(n, 1, 2)
    return simulate(lambda ch: brand(ch, x_b, y, settings=Settings(steps=1), randomness=Randomness.system()), liar)


def test_a_brand_with_other_rows_is_a_disagreement():
    async def liar(channel):
        await channel.send(Opening(299, 1))
        await channel.recv(Variances)

    with pytest.raises(DisagreementError, match="299 rows"):
        media_against(liar)


def test_a_brand_with_too_many_columns_is_refused():
    async def liar(channel):
        await channel.send(Opening(300, 2**40))
        await channel.recv(Variances)

    with pytest.raises(PeerError, match="columns"):
        media_against(liar)


@pytest.mark.parametrize("parts", [(), (bytes(8),), (bytes(UPLOAD_BYTES),) * 2, (b"\xff" * UPLOAD_BYTES,)])
@pytest.mark.parametrize("late", [False, True])
def test_a_brand_with_malformed_uploads_is_refused(parts, late):
    """Its columns at first, or (late) its first weights, of which two are due."""

    async def liar(channel):
        await channel.send(Opening(300, 1))
        key = await products.open_brand(channel, Randomness.system())
        if late:
            await products.send_uploads(channel, key.encrypt([np.zeros(SLOTS, np.uint64)]))
            await channel.recv(Variances)
        await channel.send(products.Uploads(parts if len(parts) != 2 or not late else parts[:1]))
        await channel.recv(products.Results)

    with pytest.raises(PeerError):
        media_against(liar)


def test_a_brand_gets_no_step_more_than_agreed():
    async def greedy(channel):
        x_b, _, y = people(300, 1, 2)
        await brand(channel, x_b, y, settings=Settings(steps=2), randomness=Randomness.system())

    with pytest.raises(CarrierError):
        media_against(greedy)


@pytest.mark.parametrize(
    "values", [b"", bytes(7), np.zeros(1).tobytes(), np.array([-1.0]).tobytes(), np.array([np.nan]).tobytes()]
)
def test_a_media_with_impossible_eigenvalues_is_refused(values):
    async def liar(channel):
        await channel.recv(Opening)
        await products.open_media(channel)
        await channel.recv(products.Uploads)
        await channel.send(Variances(values))
        await channel.recv(products.Uploads)

    with pytest.raises(PeerError, match="eigenvalues"):
        brand_against(liar)


@pytest.mark.parametrize("parts", [(), (bytes(8),), (bytes(RESULT_BYTES),) * 2, (b"\xff" * RESULT_BYTES,)])
def test_a_media_with_malformed_results_is_refused(parts):
    async def liar(channel):
        await channel.recv(Opening)
        await products.open_media(channel)
        await channel.recv(products.Uploads)
        await channel.send(Variances(np.ones(2).tobytes()))
        await channel.recv(products.Uploads)
        await channel.send(products.Results(parts))
        await channel.recv(products.Uploads)

    with pytest.raises(PeerError):
        brand_against(liar)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("side", "at"), [(0, 0), (0, 1), (0, 2), (0, 4), (0, 6), (1, 0), (1, 1), (1, 2), (1, 3)])
def test_a_broken_line_gives_an_error_or_the_right_answer(fault, side, at):
    x_b, x_m, y = people(200, 1, 1)
    settings = Settings(steps=1)
    try:
        trained, model = play_broken(
            lambda ch: brand(ch, x_b, y, settings=settings, randomness=Randomness.system()),
            lambda ch: media(ch, x_m, settings=settings, randomness=Randomness.system()),
            fault,
            side,
            at,
        )
    except (PeerError, CarrierError, DisagreementError):
        return
    assert np.isfinite(logits((trained.model, model), x_b, x_m)).all()


def test_settings_outside_the_ledger_are_refused():
    for steps in (0, 13):
        with pytest.raises(PolicyError, match="steps"):
            Settings(steps=steps)
    for l2 in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="l2"):
            Settings(l2=l2)


@pytest.mark.parametrize("label", [np.zeros(300), np.ones(300), np.full(300, 2.0), np.zeros(299), np.full(300, np.nan)])
def test_a_label_that_is_not_binary_is_refused(label):
    x_b, x_m, _ = people(300, 1, 1)
    with pytest.raises(ConfigError, match="label"):
        train(x_b, x_m, label)


def test_columns_that_cannot_be_used_are_refused():
    x_b, x_m, y = people(300, 1, 1)
    with pytest.raises(ConfigError, match="not finite"):
        train(np.full_like(x_b, np.nan), x_m, y)
    with pytest.raises(ConfigError, match="not finite"):
        train(x_b, np.full_like(x_m, np.inf), y)
    with pytest.raises(ConfigError, match="no column"):
        train(x_b, x_m[:, :0], y)
    with pytest.raises(ConfigError, match="varies"):
        train(x_b, np.zeros_like(x_m), y)
    with pytest.raises(ConfigError, match="columns make"):
        train(np.zeros((300, 401)), x_m, y)
