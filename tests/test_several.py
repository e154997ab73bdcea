"""One brand and several media: the pooled model, scores of all together, and views that hold nothing else."""

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from tests.broken_line import FAULTS, BrokenChannel
from tests.test_logistic import caravan, people, pooled
from tidegate.protocols.blind import products, several
from tidegate.protocols.blind.logistic import Another, Opening, Privacy, Settings, Variances
from tidegate.protocols.channel import CarrierError, ConfigError, DisagreementError, PeerError, TidegateError
from tidegate.protocols.primitives.bfv import RESULT_BYTES, BrandKey
from tidegate.protocols.primitives.fixed_point import T, centred, plus
from tidegate.protocols.primitives.packing import SLOTS
from tidegate.protocols.primitives.randomness import Randomness


def drawn_by(who):
    """A source of its own for each party, with the same numbers in every run: `uniform` is wrong once in a million."""
    return Randomness(who.encode().ljust(32, b"."))


class End(BrokenChannel):
    """One end of a line. What it holds back leaves at the latest when its party waits on any of its lines."""

    together: Any = ()

    async def recv(self, kind):
        for each in self.together:
            await each._release()
        return await super().recv(kind)


class Lines:
    """A line in memory between each two of brand, lead and followers; `fault` is done to one message on one of them."""

    def __init__(self, followers=1, fault=None, where=None, at=-1):
        self.names = ("brand", "lead", *(f"follower{number}" for number in range(followers)))
        self.ends: dict[tuple[str, str], End] = {}
        for one in self.names[:2]:
            for other in self.names:
                if one != other and (one, other) not in self.ends:
                    forth: Any = asyncio.Queue()
                    back: Any = asyncio.Queue()
                    self.ends[one, other] = End(forth, back)
                    self.ends[other, one] = End(back, forth)
        for name in self.names:
            for end in self.of(name):
                end.together = self.of(name)
        if where is not None:
            self.ends[where].fault, self.ends[where].at = fault, at

    def of(self, name):
        """The ends of one party: a brand's are those to the media, a lead's the brand and the followers."""
        return [self.ends[name, other] for other in self.names if (name, other) in self.ends]


async def spoken(lines, roles):
    """What each role ends with, its result or its error. The first error ends the lines of its role."""

    async def outcome(name):
        try:
            return await roles[name](*lines.of(name))
        except TidegateError as error:
            return error
        finally:
            for end in lines.of(name):
                await end.close()

    return await asyncio.wait_for(asyncio.gather(*map(outcome, lines.names)), 200)


def play(roles, lines=None):
    """The results of brand, lead and followers. The most telling error is raised."""
    lines = lines or Lines(len(roles) - 2)
    found = asyncio.run(spoken(lines, roles))
    errors = [each for each in found if isinstance(each, TidegateError)]
    if errors:
        raise next((each for each in errors if not isinstance(each, CarrierError)), errors[0])
    return found


def named(x_ms):
    return [(f"follower{number}", x) for number, x in enumerate(x_ms)]


def training(x_b, x_ms, y, settings=None, **more):
    """The three roles of a training; further arguments are the brand's."""
    settings = settings or Settings(steps=8, l2=10.0)

    async def as_brand(*channels):
        return await several.brand(channels, x_b, y, settings=settings, randomness=drawn_by("brand"), **more)

    async def as_lead(channel, *followers):
        return await several.lead(channel, followers, x_ms[0], settings=settings, randomness=drawn_by("lead"))

    def as_follower(name, x):
        async def follow(channel, lead):
            return await several.follower(channel, lead, x, settings=settings, randomness=drawn_by(name))

        return follow

    followers = {name: as_follower(name, x) for name, x in named(x_ms[1:])}
    return {"brand": as_brand, "lead": as_lead, **followers}


def scoring(parts, x_ms, levels=None, window=None):
    rows, drawn = len(x_ms[0]), drawn_by("brand")

    async def as_brand(*channels):
        return await several.brand_scores(channels, parts, rows, levels=levels, window=window, randomness=drawn)

    async def as_lead(channel, *followers):
        await several.lead_scores(channel, followers, x_ms[0], levels=levels, randomness=drawn_by("lead"))

    def as_follower(name, x):
        async def follow(channel, lead):
            await several.follower_scores(channel, lead, x, randomness=drawn_by(name))

        return follow

    followers = {name: as_follower(name, x) for name, x in named(x_ms[1:])}
    return {"brand": as_brand, "lead": as_lead, **followers}


def logits(found, x_b, x_ms):
    trained, *models = found
    own = trained.model.own_part(x_b)
    parts = zip(models, x_ms, trained.parts, strict=True)
    return own + sum(model.columns(x) / 2**6 @ weights for model, x, weights in parts)


# The right answer.


def test_it_reaches_the_pooled_model_of_three_parties_on_real_records():
    x_b, x_m, y, training_rows = caravan()
    x_ms = x_m[:, 0::2], x_m[:, 1::2]
    found = play(training(x_b[training_rows], [x[training_rows] for x in x_ms], y[training_rows]))
    ours = logits(found, x_b[~training_rows], [x[~training_rows] for x in x_ms])
    clear = pooled(x_b[training_rows], x_m[training_rows], y[training_rows]).decision_function(
        np.hstack([x_b, x_m])[~training_rows]
    )
    truth = y[~training_rows]
    assert abs(roc_auc_score(truth, ours) - roc_auc_score(truth, clear)) <= 5e-4
    assert abs(log_loss(truth, 1 / (1 + np.exp(-ours))) - log_loss(truth, 1 / (1 + np.exp(-clear)))) <= 3e-4


@pytest.mark.parametrize(
    ("n", "widths"), [(3000, (4, 3)), (SLOTS + 900, (1, 2)), (2 * SLOTS, (1, 1)), (2000, (2, 3, 1))]
)
def test_any_number_of_media_and_blocks(n, widths):
    x_b, x_m, y = people(n, 2, sum(widths))
    x_ms = np.split(x_m, np.cumsum(widths)[:-1], axis=1)
    found = play(training(x_b, x_ms, y))
    clear = pooled(x_b, x_m, y).decision_function(np.hstack([x_b, x_m]))
    assert np.abs(logits(found, x_b, x_ms) - clear).max() < 0.08
    assert found[0].columns == widths


def test_sample_weights_are_scikit_learn_s():
    x_b, x_m, y = people(3000, 2, 4, seed=3)
    weights = np.where(y == 1, 3.0, 0.5)
    x_ms = x_m[:, :2], x_m[:, 2:]
    found = play(training(x_b, x_ms, y, weights=weights))
    clear = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(np.hstack([x_b, x_m]), y, weights)
    assert np.abs(logits(found, x_b, x_ms) - clear.decision_function(np.hstack([x_b, x_m]))).max() < 0.08


def test_the_brand_stops_all_media_at_once():
    x_b, x_m, y = people(3000, 2, 2)
    found = play(training(x_b, (x_m[:, :1], x_m[:, 1:]), y, Settings(steps=12, l2=10.0, may_stop=True)))
    assert found[0].stopped
    assert found[0].steps < 12


@pytest.mark.parametrize("n", [1, 300, SLOTS + 5])
@pytest.mark.parametrize("followers", [1, 3])
def test_a_score_is_the_sum_of_all_parts(n, followers):
    rng = np.random.default_rng(n)
    x_ms = [rng.normal(size=(n, 2 + number)) for number in range(1 + followers)]
    parts = [rng.normal(size=x.shape[1]) for x in x_ms]
    found, *_ = play(scoring(parts, x_ms))
    exact = np.zeros(n)
    for x, part in zip(x_ms, parts, strict=True):
        exact += np.rint(np.clip(x, -8, 8) * 64) / 64 @ part
    assert np.abs(found - exact).max() < 1e-8
    window = (float(exact.min()) - 1, float(exact.max()) + 1)
    blurred, *_ = play(scoring(parts, x_ms, levels=20, window=window))
    off = np.abs(blurred - found)
    assert off.max() <= (window[1] - window[0]) / 19 / 2 + 1e-6
    if n > 100:
        assert off.std() > (window[1] - window[0]) / 19 / 8


@given(st.lists(st.sets(st.integers(0, 40)), min_size=2, max_size=4), st.integers(0, 9))
def test_the_rows_in_common_are_those_that_all_match(sets, seed):
    order = np.random.default_rng(seed)
    rows = [order.permutation(np.array(sorted(each), np.int64)) for each in sets]
    common, places = several.in_common(rows, Randomness(bytes(32)))
    assert sorted(common.tolist()) == sorted(set.intersection(*sets))
    for each, where in zip(rows, places, strict=True):
        assert np.array_equal(each[where], common)


def test_the_order_in_common_follows_no_party_s():
    rows = [np.arange(1000), np.arange(1000)[::-1].copy()]
    common, _ = several.in_common(rows, drawn_by("brand"))
    assert abs(np.corrcoef(common, np.arange(1000))[0, 1]) < 0.2


def agreeing(places, matched):
    async def as_brand(*channels):
        return await several.brand_places(channels, [np.array(each) for each in places])

    async def as_lead(channel, *followers):
        return await several.lead_places(channel, followers, matched[0], drawn_by("lead"))

    async def as_follower(channel, lead):
        return await several.follower_places(channel, lead, matched[1])

    return {"brand": as_brand, "lead": as_lead, "follower0": as_follower}


def test_all_know_their_places_and_the_same_draw():
    drawn, (lead_places, lead_drawn), (places, seed) = play(agreeing([[4, 0, 2], [1, 5, 0]], (5, 6)))
    assert lead_places.tolist() == [4, 0, 2]
    assert places.tolist() == [1, 5, 0]
    assert drawn == lead_drawn == seed
    assert len(drawn) == 32


# Views.


class Recorder:
    """What the brand opens of rows, in order."""

    def __init__(self, monkeypatch):
        self.slots: list[Any] = []
        decrypt = BrandKey.decrypt

        def recorded(key, data):
            self.slots.append(decrypt(key, data))
            return self.slots[-1]

        monkeypatch.setattr(BrandKey, "decrypt", recorded)


def uniform(values):
    counts = np.bincount((values * np.uint64(32) // np.uint64(T)).astype(int), minlength=32)
    return chisquare(counts).pvalue > 1e-6


def opened_in_training(monkeypatch):
    """One step over one block: the lead's logits, the follower's, and the residuals."""
    x_b, x_m, y = people(SLOTS, 1, 2)
    recorder = Recorder(monkeypatch)
    play(training(x_b, (x_m[:, :1], x_m[:, 1:]), y, Settings(steps=1)))
    assert len(recorder.slots) == 3
    return recorder.slots


def opened_in_scoring(monkeypatch, levels=None):
    rng = np.random.default_rng(1)
    x_ms = [rng.normal(size=(SLOTS, 2)) for _ in range(2)]
    recorder = Recorder(monkeypatch)
    play(scoring([np.array([0.5, -1.0])] * 2, x_ms, levels=levels))
    assert len(recorder.slots) == 2
    return recorder.slots


def test_all_that_the_brand_opens_of_rows_in_training_is_uniform(monkeypatch):
    slots = opened_in_training(monkeypatch)
    for each in slots:
        assert uniform(each)
    assert uniform(plus(slots[0], slots[1]))


def test_of_exact_scores_the_parts_are_uniform_and_their_sum_alone_is_not(monkeypatch):
    lead, follower = opened_in_scoring(monkeypatch)
    assert uniform(lead)
    assert uniform(follower)
    assert not uniform(plus(lead, follower))
    assert np.abs(centred(plus(lead, follower))).max() < T / 2


@pytest.mark.parametrize("who", ["lead", "follower"])
def test_without_masks_the_views_are_not_uniform(monkeypatch, who):
    """Masks of zeros of one media, in training and in scores."""
    right = several.masked_logits
    calls: list[None] = []

    def unmasked(public, columns, weights, masks, randomness):
        calls.append(None)
        if (len(calls) == 1) == (who == "lead"):
            masks = (mask * np.uint64(0) for mask in masks)
        return right(public, columns, weights, masks, randomness)

    monkeypatch.setattr(several, "masked_logits", unmasked)
    slots = opened_in_training(monkeypatch)
    assert [uniform(each) for each in slots[:2]].count(False) == 1


def test_residuals_without_rho_show(monkeypatch):
    right = several.masked_residuals

    def unmasked(public, factors, share, rho, bits, stream):
        return right(public, factors, share, rho * np.uint64(0), bits, stream)

    monkeypatch.setattr(several, "masked_residuals", unmasked)
    assert not uniform(opened_in_training(monkeypatch)[2])


def test_masks_are_new_in_every_step(monkeypatch):
    x_b, x_m, y = people(SLOTS, 1, 2)
    recorder = Recorder(monkeypatch)
    play(training(x_b, (x_m[:, :1], x_m[:, 1:]), y, Settings(steps=2)))
    for first, second in zip(recorder.slots[:3], recorder.slots[3:], strict=True):
        assert uniform(plus(first, np.uint64(T) - second))


def test_every_sum_of_every_media_carries_noise(monkeypatch):
    """The lead's for its columns, the brand's and the residuals; a follower's for its own."""
    x_b, x_m, y = people(300, 3, 6)
    right = several.blur
    noised: list[int] = []

    def counted(rows, count, randomness):
        noised.append(count)
        return right(rows, count, randomness)

    monkeypatch.setattr(several, "blur", counted)
    sums: list[int] = []
    decrypt = BrandKey.decrypt_sum

    def opened(key, data):
        sums.append(decrypt(key, data))
        return sums[-1]

    monkeypatch.setattr(BrandKey, "decrypt_sum", opened)
    play(training(x_b, (x_m[:, :4], x_m[:, 4:]), y, Settings(steps=1)))
    assert sorted(noised) == [2, 4 + 3 + 1]
    assert len(sums) == 2 + 4 + 3


def shapes(roles):
    lines = Lines(len(roles) - 2)
    play(roles, lines)
    return {where: [(kind, len(data)) for kind, data in end.sent] for where, end in lines.ends.items()}


def test_the_transcript_depends_on_sizes_only():
    def trained(seed, rate):
        x_b, x_m, _ = people(300, 2, 3, seed)
        y = (np.arange(300) < 300 * rate).astype(float)
        return shapes(training(x_b, (x_m[:, :2], x_m[:, 2:]), y, Settings(steps=2)))

    assert trained(1, 0.5) == trained(2, 0.01)


def test_media_say_nothing_to_each_other_but_seeds_and_the_brand_hears_nothing_of_them():
    x_b, x_m, y = people(300, 1, 2)
    lines = Lines()
    play(training(x_b, (x_m[:, :1], x_m[:, 1:]), y, Settings(steps=2)), lines)
    for where in (("lead", "follower0"), ("follower0", "lead")):
        assert [kind for kind, _ in lines.ends[where].sent] == ["Seed"]
    # The follower gets neither the brand's columns nor its factors: the weights and the residuals of two steps.
    uploads = [kind for kind, _ in lines.ends["brand", "follower0"].sent].count("Uploads")
    assert uploads == 4


# Refusals.


def test_nobody_learns_the_draw_before_all_have_their_places():
    lines = Lines()

    async def hasty(lead, follower):
        await lead.send(several.Places(np.array([0, 1], "<u4").tobytes()))
        await follower.close()
        return await lead.recv(several.Draw)

    with pytest.raises(CarrierError):
        play({**agreeing([[0, 1], [0, 1]], (2, 2)), "brand": hasty}, lines)
    assert not lines.ends["lead", "brand"].sent


@pytest.mark.parametrize(
    ("places", "error"),
    [
        ([[0, 1], [0, 7]], PeerError),
        ([[0, 0], [0, 1]], PeerError),
        ([[9, 0], [0, 1]], PeerError),
        ([[0, 1], [0, 1, 2]], DisagreementError),
    ],
)
def test_places_that_cannot_be_are_refused(places, error):
    with pytest.raises(error):
        play(agreeing(places, (5, 6)))


@pytest.mark.parametrize("data", [b"abc", bytes(5)])
def test_places_that_cannot_be_read_are_refused(data):
    async def liar(lead, follower):
        await lead.send(several.Places(data))
        await follower.send(several.Places(data))
        await lead.recv(several.Draw)

    with pytest.raises(PeerError):
        play({**agreeing([[0], [0]], (5, 6)), "brand": liar})


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_another_length_is_refused(seed):
    async def liar(channel, lead):
        await channel.recv(Opening)
        await lead.send(several.Seed(300, seed))
        await lead.recv(several.Seed)

    x_b, x_m, y = people(300, 1, 2)
    with pytest.raises(PeerError, match="seed"):
        play({**training(x_b, (x_m[:, :1], x_m[:, 1:]), y), "follower0": liar})


def test_a_follower_with_other_rows_is_a_disagreement():
    x_b, x_m, y = people(300, 1, 2)
    with pytest.raises(DisagreementError, match="rows"):
        play(training(x_b, (x_m[:, :1], x_m[:200, 1:]), y))
    with pytest.raises(DisagreementError, match="another media runs over"):
        play(scoring([np.ones(1), np.ones(1)], (x_m[:, :1], x_m[:200, 1:])))


@pytest.mark.parametrize("values", [b"", bytes(7), np.array([-1.0]).tobytes(), np.array([np.nan]).tobytes()])
def test_a_follower_with_impossible_eigenvalues_is_refused(values):
    async def liar(channel, lead):
        await channel.recv(Opening)
        await products.open_media(channel)
        await channel.send(Variances(values))
        await channel.recv(products.Uploads)

    x_b, x_m, y = people(300, 1, 2)
    with pytest.raises(PeerError, match="eigenvalues"):
        play({**training(x_b, (x_m[:, :1], x_m[:, 1:]), y), "follower0": liar})


@pytest.mark.parametrize("parts", [(), (bytes(8),), (bytes(RESULT_BYTES),) * 2])
def test_a_follower_with_malformed_results_is_refused(parts):
    async def liar(channel, lead):
        await channel.recv(Opening)
        await products.open_media(channel)
        await channel.send(Variances(np.ones(1).tobytes()))
        await lead.send(several.Seed(300, bytes(32)))
        await channel.recv(products.Uploads)
        await channel.send(products.Results(parts))
        await channel.recv(products.Uploads)

    x_b, x_m, y = people(300, 1, 2)
    with pytest.raises(PeerError):
        play({**training(x_b, (x_m[:, :1], x_m[:, 1:]), y), "follower0": liar})


def test_a_brand_with_other_rows_or_too_many_columns_is_refused():
    x_b, x_m, y = people(300, 1, 2)
    for opening, error in ((Opening(299, 1), DisagreementError), (Opening(300, 2**40), PeerError)):

        async def liar(*channels, opening=opening):
            for channel in channels:
                await channel.send(opening)
            await channels[0].recv(Variances)

        with pytest.raises(error):
            play({**training(x_b, (x_m[:, :1], x_m[:, 1:]), y), "brand": liar})


def test_a_brand_gets_no_step_more_than_agreed_and_each_media_counts_its_own():
    x_b, x_m, y = people(300, 1, 2)
    counted: dict[str, list[int]] = {"lead": [], "follower0": []}
    settings = Settings(steps=2)

    async def as_lead(channel, *followers):
        counting = counted["lead"].append
        await several.lead(
            channel, followers, x_m[:, :1], settings=settings, randomness=drawn_by("lead"), on_step=counting
        )

    async def as_follower(channel, lead):
        counting = counted["follower0"].append
        await several.follower(
            channel, lead, x_m[:, 1:], settings=settings, randomness=drawn_by("follower0"), on_step=counting
        )

    greedy = training(x_b, (x_m[:, :1], x_m[:, 1:]), y, Settings(steps=3))
    with pytest.raises(CarrierError):
        play({**greedy, "lead": as_lead, "follower0": as_follower})
    assert counted == {"lead": [1, 2], "follower0": [1, 2]}


def test_a_brand_that_neither_stops_nor_goes_on_is_refused():
    x_b, x_m, y = people(300, 1, 2)
    settings = Settings(steps=3, may_stop=True)
    roles = training(x_b, (x_m[:, :1], x_m[:, 1:]), y, settings)
    honest = roles["brand"]

    class Odd:
        def __init__(self, channel):
            self.channel, self.recv, self.close = channel, channel.recv, channel.close

        async def send(self, message):
            await self.channel.send(Another(2) if isinstance(message, Another) else message)

    with pytest.raises(PeerError, match="neither asked"):
        play({**roles, "brand": lambda *channels: honest(*map(Odd, channels))})


def test_what_is_not_offered_is_refused():
    x_b, x_m, y = people(300, 1, 2)
    with pytest.raises(ConfigError, match="differential privacy"):
        play(training(x_b, (x_m[:, :1], x_m[:, 1:]), y, Settings(privacy=Privacy(1.0))))
    with pytest.raises(ConfigError, match="2 to 15 media"):
        play(training(x_b, (x_m,), y))
    with pytest.raises(ConfigError, match="no column"):
        play(training(x_b, (x_m, x_m[:, :0]), y))


PLACES = [
    *(("brand", "lead", at) for at in (0, 1, 2, 3, 4, 5)),
    *(("brand", "follower0", at) for at in (0, 1, 2, 3)),
    *(("lead", "brand", at) for at in (0, 1, 2, 3, 4)),
    *(("follower0", "brand", at) for at in (0, 1, 2)),
    ("lead", "follower0", 0),
    ("follower0", "lead", 0),
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("sender", "recipient", "at"), PLACES)
def test_a_broken_line_gives_an_error_or_an_answer(fault, sender, recipient, at):
    """That ciphertexts of one kind come in order is the sealed line's to see; the protocol ends, and with numbers."""
    # With two columns each: one weight, sent twice, could be taken for the residuals of a block.
    x_b, x_m, y = people(200, 1, 4)
    x_ms = x_m[:, :2], x_m[:, 2:]
    lines = Lines(1, fault, (sender, recipient), at)
    try:
        found = play(training(x_b, x_ms, y, Settings(steps=1)), lines)
    except (PeerError, CarrierError, DisagreementError):
        return
    assert np.isfinite(logits(found, x_b, x_ms)).all()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("sender", "recipient", "at"),
    [("brand", "lead", 0), ("brand", "follower0", 1), ("lead", "brand", 0), ("follower0", "brand", 0)],
)
def test_a_broken_line_gives_no_wrong_scores(fault, sender, recipient, at):
    rng = np.random.default_rng(2)
    x_ms = [rng.normal(size=(50, 2)) for _ in range(2)]
    parts = [np.ones(2), np.ones(2)]
    lines = Lines(1, fault, (sender, recipient), at)
    try:
        found, *_ = play(scoring(parts, x_ms), lines)
    except (PeerError, CarrierError, DisagreementError):
        return
    assert np.abs(found - sum(np.rint(x * 64) / 64 @ part for x, part in zip(x_ms, parts, strict=True))).max() < 1e-8
