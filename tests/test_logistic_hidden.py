"""Hidden alignment: rows that the brand does not share vanish, and the media cannot tell which, nor how many."""

import numpy as np
import pytest
from scipy.stats import chisquare
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from tests.test_logistic import logits, people
from tidegate.protocols.blind import logistic, products
from tidegate.protocols.blind.fourier import HARMONICS
from tidegate.protocols.blind.logistic import Another, Opening, ResidualSum, Settings, Variances, brand, media
from tidegate.protocols.channel import ConfigError
from tidegate.protocols.primitives.bfv import PRIMES
from tidegate.protocols.primitives.fixed_point import T
from tidegate.protocols.primitives.packing import SLOTS, block_count
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import simulate

EIGHT, STEPS = Settings(l2=1.0), Settings(steps=2)


def train(x_b, x_m, y, settings=EIGHT, **more):
    trained, model = simulate(
        lambda ch: brand(ch, x_b, y, settings=settings, randomness=Randomness.system(), **more),
        lambda ch: media(ch, x_m, settings=settings, randomness=Randomness.system()),
    )
    return trained.model, model


def test_it_is_the_model_of_the_rows_that_are_present():
    """A third of the media's people matches, those it sees often more so: columns stay scaled by all of them."""
    x_b, x_m, y = people(7000, 3, 4)
    drawn = np.random.default_rng(8).random(7000)
    present = drawn < 0.33 / (1 + np.exp(-1.5 * x_m[:, 0])) * 2
    assert 0.2 < present.mean() < 0.45
    models = train(x_b, x_m, y, present=present)
    x = np.hstack([x_b, x_m])
    clear = LogisticRegression(C=1, tol=1e-8, max_iter=5000).fit(x[present], y[present]).decision_function(x)
    ours, truth = logits(models, x_b, x_m)[present], y[present]
    assert np.abs(ours - clear[present]).max() < 0.06
    assert abs(roc_auc_score(truth, ours) - roc_auc_score(truth, clear[present])) < 5e-4
    losses = [log_loss(truth, 1 / (1 + np.exp(-z))) for z in (ours, clear[present])]
    assert abs(losses[0] - losses[1]) < 3e-4


def test_one_row_in_fifty_is_enough():
    x_b, x_m, y = people(20000, 2, 2)
    present = np.arange(20000) % 50 == 0
    models = train(x_b, x_m, y, present=present)
    x = np.hstack([x_b, x_m])
    clear = LogisticRegression(C=1, tol=1e-8, max_iter=5000).fit(x[present], y[present]).decision_function(x)
    assert np.sqrt(np.mean((logits(models, x_b, x_m) - clear) ** 2)) < 0.1


def test_weights_and_absence_go_together():
    x_b, x_m, y = people(4000, 2, 2)
    present, weights = np.arange(4000) % 2 == 0, np.random.default_rng(1).uniform(0.2, 3, 4000)
    models = train(x_b, x_m, y, present=present, weights=weights)
    x = np.hstack([x_b, x_m])
    clear = LogisticRegression(C=1, tol=1e-8, max_iter=5000).fit(x[present], y[present], weights[present])
    assert np.abs(logits(models, x_b, x_m) - clear.decision_function(x)).max() < 0.06


def seeded(x_b, y, x_m, present):
    return simulate(
        lambda ch: brand(ch, x_b, y, settings=STEPS, randomness=Randomness(b"b" * 32), present=present),
        lambda ch: media(ch, x_m, settings=STEPS, randomness=Randomness(b"m" * 32)),
    )


def test_what_stands_in_an_absent_row_is_in_no_sum():
    """The same seeds, other values where nobody is: the same model to the last bit, also with values that are none."""
    x_b, x_m, y = people(1200, 2, 2)
    present = np.arange(1200) % 3 == 0
    found = []
    for filling in (0.0, -7.5, np.nan):
        garbage, labels = np.where(present[:, None], x_b, filling), np.where(present, y, filling)
        models = seeded(garbage, labels, x_m, present)
        found.append((models[0].model.intercept, *models[0].model.weights, *models[0].model.media_weights))
    assert found[0] == found[1] == found[2]


def test_without_zero_weights_absent_rows_would_be_in_the_sums(monkeypatch):
    """The same with the mask taken out: the test above has something to see."""
    right = logistic.checked_labels
    monkeypatch.setattr(logistic, "checked_labels", lambda y, w, present, n: right(np.nan_to_num(y), w, None, n))
    x_b, x_m, y = people(1200, 2, 2)
    present = np.arange(1200) % 3 == 0
    models = [
        train(x_b, x_m, np.where(present, y, filling), settings=STEPS, present=present)[0] for filling in (0.0, 1.0)
    ]
    assert abs(models[0].intercept - models[1].intercept) > 1


# What the media sees.


def media_view(role, x_m, settings=STEPS):
    """What a media with a given seed gets and does: messages each way, steps it charges, what it would draw next."""
    randomness, lines = Randomness(b"m" * 32), {}
    steps: list[int] = []

    async def as_media(channel):
        lines["media"] = channel
        return await media(channel, x_m, settings=settings, randomness=randomness, on_step=steps.append)

    async def as_brand(channel):
        lines["brand"] = channel
        return await role(channel)

    _, model = simulate(as_brand, as_media)
    received, sent = ([(name, len(data)) for name, data in lines[who].sent] for who in ("brand", "media"))
    clear = [data for name, data in lines["media"].sent if name == "Variances"]
    return (received, sent, steps, clear, model.basis.tobytes(), randomness.bytes(32)), lines["brand"].sent


def honest(x_b, y, present, settings=STEPS):
    return lambda ch: brand(ch, x_b, y, settings=settings, randomness=Randomness.system(), present=present)


def test_the_media_s_view_is_independent_of_the_intersection():
    """Sizes, counts, steps, what it sends in the clear and what it draws are the same; the rest is ciphertext."""
    n = SLOTS + 700
    x_b, x_m, y = people(n, 2, 3)
    rng = np.random.default_rng(3)
    masks = {
        "all": np.ones(n, np.bool_),
        "half": rng.random(n) < 0.5,
        "few": rng.random(n) < 0.01,
        "none in the second block": np.arange(n) < SLOTS,
        "buyers alone are few": (rng.random(n) < 0.02) | (y == 0),
    }
    views, messages = zip(*(media_view(honest(x_b, y, mask), x_m) for mask in masks.values()), strict=True)
    assert all(view == views[0] for view in views)
    for sent in messages:
        for name, data in sent:
            if name == "Uploads":
                residues = np.frombuffer(data[-8 * SLOTS :], "<u8")
                counts = np.bincount((residues // np.uint64(PRIMES[-1] // 32)).astype(int), minlength=33)[:32]
                assert chisquare(counts).pvalue > 1e-9


def test_the_media_does_the_same_with_ciphertexts_of_anything():
    """Its messages depend on what it can read alone: a stranger who encrypts noise gets answers of the same shape."""
    n = SLOTS + 300
    x_b, x_m, y = people(n, 2, 3)
    blocks, noise = block_count(n), Randomness.system()

    async def stranger(channel):
        await channel.send(Opening(n, 2))
        key = await products.open_brand(channel, noise)

        def anything(count):
            return key.encrypt(noise.integers(T, SLOTS) for _ in range(count))

        await products.send_uploads(channel, anything(2 * blocks))
        await channel.recv(Variances)
        for _ in range(STEPS.steps):
            await products.send_uploads(channel, anything(3))
            for number in range(blocks + 1):
                if number < blocks:
                    await channel.recv(products.Results)
                    await products.send_uploads(channel, anything(2 * HARMONICS))
                if number > 0:
                    await channel.recv(products.Results)
                    await products.send_uploads(channel, anything(1))
            assert len([each async for each in products.receive_sums(channel, key, 5)]) == 5
            await channel.recv(ResidualSum)

    strange = media_view(stranger, x_m)[0]
    assert strange == media_view(honest(x_b, y, np.arange(n) % 7 == 0), x_m)[0]


def test_steps_are_all_there_is_to_see_of_a_brand_that_may_stop():
    x_b, x_m, y = people(2000, 1, 2)
    settings = Settings(steps=12, l2=1.0, may_stop=True)
    view, sent = media_view(honest(x_b, y, np.arange(2000) % 2 == 0, settings), x_m, settings)
    asked = [Another.from_bytes(data).step for name, data in sent if name == "Another"]
    assert asked == [1] * (len(view[2]) - 1) + [0]


@pytest.mark.parametrize("present", [np.zeros(300, np.bool_), np.ones(299, np.bool_), np.ones(300), np.arange(300) < 1])
def test_a_mask_that_is_none_or_leaves_nothing_to_learn_is_refused(present):
    x_b, x_m, y = people(300, 1, 1)
    with pytest.raises(ConfigError):
        train(x_b, x_m, y, present=present)
