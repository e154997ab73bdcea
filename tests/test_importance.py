"""Importance of the media's columns: the coefficients of the pooled model, for names that are granted."""

import numpy as np
import pytest

from tests.broken_line import FAULTS, play_broken
from tests.test_logistic import people, pooled, train
from tidegate.protocols.blind import importance
from tidegate.protocols.blind.importance import Importance, Model
from tidegate.protocols.blind.whitening import whiten
from tidegate.protocols.channel import CarrierError, DisagreementError, PeerError
from tidegate.protocols.simulate import simulate

NAMES = ["visits", "device", "device"]


def show(weights, model, names=NAMES, granted=("visits", "device"), spreads=None):
    wide = np.ones(len(names)) if spreads is None else spreads
    return simulate(
        lambda ch: importance.brand(ch, weights, granted), lambda ch: importance.media(ch, model, names, wide)
    )


def test_both_get_the_pooled_model_s_coefficients():
    x_b, x_m, y = people(3000, 2, 3)
    trained, model = train(x_b, x_m, y)
    shown, own = show(trained.media_weights, model, spreads=x_m.std(axis=0))
    clear = pooled(x_b, x_m, y).coef_[0][2:]
    assert [name for name, _ in shown] == NAMES
    assert np.allclose([value for _, value in shown], clear, atol=0.02)
    assert np.array_equal([value for _, value in shown], own)


def some_model():
    return whiten(np.random.default_rng(0).normal(size=(50, 3)), 1.0)[0]


def test_coefficients_grow_with_a_column_s_spread():
    model = some_model()
    narrow, wide = (show(np.ones(3), model, spreads=np.full(3, spread))[1] for spread in (1.0, 10.0))
    assert np.allclose(10 * narrow, wide)


@pytest.mark.parametrize("granted", [(), ("visits",), ("Visits", "device")])
def test_names_that_are_not_granted_are_refused(granted):
    with pytest.raises(PeerError, match="grants"):
        show(np.ones(3), some_model(), granted=granted)


def test_a_model_of_another_basis_is_a_disagreement():
    with pytest.raises(DisagreementError, match="2 weights"):
        show(np.ones(2), some_model())


@pytest.mark.parametrize("weights", [b"", bytes(7), np.array([np.nan]).tobytes(), bytes(8 * 401)])
def test_a_brand_that_sends_no_model_is_refused(weights):
    async def liar(channel):
        await channel.send(Model(weights))

    with pytest.raises(PeerError):
        simulate(lambda ch: importance.media(ch, some_model(), NAMES, np.ones(3)), liar)


@pytest.mark.parametrize(
    ("names", "coefficients"),
    [
        ((), b""),
        ((b"visits",), np.ones(2).tobytes()),
        ((b"visits",) * 2, np.ones(1).tobytes()),
        ((b"\xff",), np.ones(1).tobytes()),
        ((b"visits",), np.array([np.inf]).tobytes()),
    ],
)
def test_a_media_that_answers_otherwise_is_refused(names, coefficients):
    async def liar(channel):
        await channel.recv(Model)
        await channel.send(Importance(names, coefficients))

    with pytest.raises(PeerError):
        simulate(lambda ch: importance.brand(ch, np.ones(3), ["visits"]), liar)


def test_the_transcript_depends_on_names_and_sizes_only():
    def shapes(weights):
        lines = []

        async def as_brand(channel):
            lines.append(channel)
            await importance.brand(channel, weights, NAMES)

        async def as_media(channel):
            lines.append(channel)
            await importance.media(channel, some_model(), NAMES, np.ones(3))

        simulate(as_brand, as_media)
        return [[(name, len(data)) for name, data in line.sent] for line in lines]

    assert shapes(np.zeros(3)) == shapes(np.array([1e9, -1.0, 3.0]))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("side", [0, 1])
def test_a_broken_line_gives_an_error_or_the_right_answer(fault, side):
    model = some_model()
    try:
        shown, own = play_broken(
            lambda ch: importance.brand(ch, np.ones(3), NAMES),
            lambda ch: importance.media(ch, model, NAMES, np.ones(3)),
            fault,
            side,
            0,
        )
    except (PeerError, CarrierError):
        return
    assert np.allclose([value for _, value in shown], own)
