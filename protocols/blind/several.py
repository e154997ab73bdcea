"""Logistic regression and scores over columns of one brand and several media; nobody sees a row's logit or residual.

As logistic.py and scoring.py, which have the letters; here z = X_b w_b + sum over media m of X~_m w~_m. One of the
media leads (L), the others follow (F). All have the same rows in the same order:

    rows       B -> M   Places: which of the rows matched with this media all others matched too, in an order that B
                        draws
               F -> L   Common: how many they are
               L -> F,B Draw: 32 bytes that decide who is held out where the contract draws them, told only when all
                        media have their places, so that nobody can choose who it is
    set-up     B -> M   rows, public key;  to L alone: columns, Enc(X_b)
               M -> B   L_m, its eigenvalues
               F -> L   Seed: of its masks s_m        L -> F   Seed: of rho
    each step
    1  B -> M  Enc(w~_m)
    2  M -> B  Enc(X~_m w~_m + s_m)            s_m uniform modulo T: L's own; of F from the seed that L knows
    3  B -> L  Enc(A_j(u)), Enc(B_j(u))        u = sum of what was opened + X_b w_b
    4  L -> B  Enc(sum_j A_j cos + B_j sin + rho)     at v = -(sum of all s_m), so that u + v = z; rho from its seed
    5  B -> M  Enc(r_b)
    6  M -> B  for each of its columns f a sum that opens to <f, r>; L also <f, -rho> of B's columns, and <1, -rho>
    7  B       as in logistic.py, the media's columns one media after the other

    score      B -> M   public key, Enc(W_m)     F -> L   Seed: of its masks
               M -> B   Enc(X_m W_m + s_m)       they add up to the blur e (0 for exact scores): L takes off those of F
               B        the sum of what was opened: X W + e, as one media's in scoring.py

Learns. Brand: each media's eigenvalues and number of columns, and in each step one sum per column, noised as by one
media; of a row's score the sum over all media alone, since but for their sum the opened parts are uniform. Each media:
n, which of its matched people all others matched too, the number of steps, else ciphertext. The lead: d_b and the masks
of the others, which open nothing without the brand's key. No media learns another's columns, nor how many.

Claim. As logistic.py's, against each party alone and against all media together, who hold ciphertext and each other's
masks. Not claimed: anything against the brand together with a media. With the lead's seeds it opens every media's part
of every logit, with a follower's (rho) every residual, hence every logit of which it knows the label.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..channel import Channel, ConfigError, DisagreementError, Message, PeerError
from ..primitives.bfv import BrandKey, Ciphertext, Plaintext, PublicKey
from ..primitives.fixed_point import (
    FloatArray,
    IntArray,
    T,
    UInt64Array,
    centred,
    minus,
    modulo,
    plus,
    quantise,
)
from ..primitives.packing import SLOTS, block_count, blocks, slots
from ..primitives.randomness import Randomness
from .descent import Descent
from .fourier import HARMONICS, factor_bits, media_factors
from .logistic import (
    MAX_COLUMNS,
    MAX_ROWS,
    Another,
    BrandModel,
    GradientSums,
    HeldColumns,
    Opening,
    ResidualSum,
    Rows,
    Settings,
    Variances,
    asked_for_another,
    blur,
    checked_labels,
    checked_matrix,
    fit_alone,
    gradient_noise,
    one_result,
    read_variances,
)
from .products import (
    Columns,
    Key,
    load_uploads,
    open_media,
    receive_results,
    receive_sums,
    receive_uploads,
    send_results,
    send_sums,
    send_uploads,
    spread,
    streams,
)
from .scoring import Scaled, blurring
from .whitening import MediaModel, whiten

MOST_MEDIA = 15
SEED_BYTES = 32


@dataclass(frozen=True)
class Places(Message):
    """Positions in the order shared with this media, 4 bytes each, in the order that all will share."""

    MAX_BYTES: ClassVar[int] = 4 * MAX_ROWS + 64
    positions: bytes


@dataclass(frozen=True)
class Common(Message):
    """How many rows a follower was told that all share."""

    rows: int


@dataclass(frozen=True)
class Draw(Message):
    """32 random bytes of the lead's."""

    MAX_BYTES: ClassVar[int] = 64
    seed: bytes


@dataclass(frozen=True)
class Seed(Message):
    """A seed that sender and receiver draw the same masks from, and the number of rows that they are for."""

    MAX_BYTES: ClassVar[int] = 64
    rows: int
    seed: bytes


@dataclass(frozen=True)
class Trained:
    """The brand's half of a model over several media.

    model.media_weights are those of all media, one after the other; `columns` says how many are whose.
    """

    model: BrandModel
    columns: tuple[int, ...]
    gradients: tuple[float, ...]
    stopped: bool

    @property
    def steps(self) -> int:
        return len(self.gradients)

    @property
    def parts(self) -> list[FloatArray]:
        """The weights of each media."""
        return apart(self.model.media_weights, self.columns)


# Pure steps.


def apart(weights: NDArray[np.float64], columns: Sequence[int]) -> list[FloatArray]:
    """Weights of all media, one after the other, as those of each."""
    return np.split(weights, np.cumsum(columns)[:-1])


def in_common(rows: Sequence[IntArray], randomness: Randomness) -> tuple[IntArray, list[IntArray]]:
    """Of the brand's rows matched with each media, in the order shared with it: those matched with all, and where.

    Gives the brand's rows in a drawn order, and for each media their positions in its order.
    """
    common = functools.reduce(functools.partial(np.intersect1d, assume_unique=True), rows)
    common = common[randomness.permutation(len(common))].astype(np.int64)
    found = []
    for each in rows:
        order = np.argsort(each)
        found.append(order[np.searchsorted(each, common, sorter=order)].astype(np.int64))
    return common, found


def masked_logits(
    public: PublicKey,
    columns: Columns,
    weights: list[Ciphertext],
    masks: Iterable[UInt64Array],
    randomness: Randomness,
) -> Iterator[bytes]:
    """Step 2, block after block. Masks may be known to the lead; what sanitising draws is this media's alone."""

    def result(item: tuple[int, UInt64Array, Randomness]) -> bytes:
        number, mask, stream = item
        return public.sanitise(columns.row_sums(number, weights), mask, stream)

    return spread(result, zip(range(block_count(columns.rows)), masks, streams(randomness), strict=False))


def drawn(masks: Randomness) -> Iterator[UInt64Array]:
    """A mask for each block, without end."""
    while True:
        yield masks.integers(T, SLOTS)


def masked_residuals(
    public: PublicKey, factors: list[Ciphertext], share: UInt64Array, rho: UInt64Array, bits: int, stream: Randomness
) -> bytes:
    """Step 4 for one block. share is v, minus the sum of all masks of the logits."""
    own: list[Plaintext | None] = [public.encode(modulo(factor)) for factor in media_factors(share, bits)]
    return public.sanitise(public.combine(factors, own), rho, stream)


def _sum(parts: Sequence[UInt64Array]) -> UInt64Array:
    return functools.reduce(plus, parts)


# Agreeing on the rows.


async def brand_places(channels: Sequence[Channel], positions: Sequence[IntArray]) -> bytes:
    """Tells each media its places (`in_common`), the lead first; gives what the lead has drawn."""
    for channel, places in zip(channels, positions, strict=True):
        await channel.send(Places(places.astype("<u4").tobytes()))
    return _seed((await channels[0].recv(Draw)).seed)


async def lead_places(
    brand: Channel, followers: Sequence[Channel], matched: int, randomness: Randomness
) -> tuple[IntArray, bytes]:
    """The lead's places among its `matched` rows, and what it has drawn. Raises PeerError, DisagreementError."""
    places = _places(await brand.recv(Places), matched)
    for follower in followers:
        _same_rows((await follower.recv(Common)).rows, len(places))
    drawn = randomness.bytes(SEED_BYTES)
    for channel in (*followers, brand):
        await channel.send(Draw(drawn))
    return places, drawn


async def follower_places(brand: Channel, lead: Channel, matched: int) -> tuple[IntArray, bytes]:
    """A follower's places among its `matched` rows, and what the lead has drawn. Raises PeerError."""
    places = _places(await brand.recv(Places), matched)
    await lead.send(Common(len(places)))
    return places, _seed((await lead.recv(Draw)).seed)


def _places(message: Places, matched: int) -> IntArray:
    if len(message.positions) % 4:
        raise PeerError("the brand's places are not whole numbers of 4 bytes")
    places = np.frombuffer(message.positions, "<u4").astype(np.int64)
    if len(np.unique(places)) != len(places) or (len(places) and int(places.max()) >= matched):
        raise PeerError(f"the brand's places are not different ones among the {matched} matched rows")
    return places


def _same_rows(theirs: int, ours: int) -> None:
    if theirs != ours:
        raise DisagreementError(
            f"another media runs over {theirs} rows, we over {ours}", "the brand tells all media of the same rows"
        )


def _seed(seed: bytes) -> bytes:
    if len(seed) != SEED_BYTES:
        raise PeerError(f"a seed has {SEED_BYTES} bytes, {len(seed)} came")
    return seed


async def _receive_masks(channel: Channel, rows: int) -> Randomness:
    """The stream of masks behind the other side's seed."""
    message = await channel.recv(Seed)
    _same_rows(message.rows, rows)
    return Randomness(_seed(message.seed))


async def _send_masks(channels: Sequence[Channel], rows: int, randomness: Randomness) -> Randomness:
    """A fresh stream of masks, its seed told to others."""
    seed = randomness.bytes(SEED_BYTES)
    for channel in channels:
        await channel.send(Seed(rows, seed))
    return Randomness(seed)


# Training.


async def brand(
    channels: Sequence[Channel],
    x: FloatArray,
    y: FloatArray,
    *,
    settings: Settings,
    randomness: Randomness,
    weights: FloatArray | None = None,
) -> Trained:
    """The joint model over all media, one channel each, the lead's first. x, y and weights as in logistic.brand."""
    _check_settings(settings, len(channels))
    x = checked_matrix(x, "the brand's")
    y, weights = checked_labels(y, weights, None, len(x))
    rows = Rows.of(x, y, weights, None)
    key = BrandKey(randomness)
    for channel in channels:
        await channel.send(Opening(len(x), x.shape[1] if channel is channels[0] else 0))
        await channel.send(Key(key.public_bytes()))
    await send_uploads(channels[0], key.encrypt(rows.uploads()))
    scales = [read_variances(await channel.recv(Variances)) for channel in channels]
    scale, columns = np.concatenate(scales), tuple(len(each) for each in scales)

    used = weights > 0
    first = fit_alone(x[used], y[used], settings.l2, weights[used])
    own_scale = rows.own.scale
    theta = np.concatenate([[first.intercept], first.weights * own_scale, np.zeros(len(scale))])
    penalty = settings.l2 * np.concatenate([[0.0], own_scale**-2.0, 1 / scale])
    split = 1 + x.shape[1]
    inverse, diagonal = rows.inverse_hessian(theta[:split], penalty[:split], scale, settings)
    descent = Descent(theta, inverse, diagonal, gradient_noise(len(x)) * rows.unit)
    gradients: list[FloatArray] = []
    stopped = False
    for _ in range(settings.steps):
        if settings.may_stop and gradients:
            stopped = descent.is_at_the_noise(gradients[-1])
            for channel in channels:
                await channel.send(Another(0 if stopped else 1))
        if stopped:
            break
        there = rows.at(descent.theta)
        sums = await _brand_step(channels, key, there, descent.theta, columns)
        gradients.append(there.gradient(sums) + penalty * descent.theta)
        descent.step(gradients[-1])
    theta = descent.theta
    model = BrandModel(float(theta[0]), theta[1:split] / own_scale, theta[split:], scale)
    return Trained(model, columns, tuple(float(np.linalg.norm(gradient)) for gradient in gradients), stopped)


def _check_settings(settings: Settings, media: int) -> None:
    if settings.privacy is not None:
        raise ConfigError(
            "training with several media has no differential privacy", "leave it out, or train with one of the media"
        )
    if not 2 <= media <= MOST_MEDIA:
        raise ConfigError(f"2 to {MOST_MEDIA} media train together, not {media}")


async def _brand_step(
    channels: Sequence[Channel], key: BrandKey, rows: Rows, theta: FloatArray, columns: tuple[int, ...]
) -> list[int]:
    """The sums of residual times column at theta, modulo T: intercept, the brand's columns, each media's.

    Works one block ahead of the media's answers, as logistic.py.
    """
    lead, split = channels[0], 1 + len(rows.own.scale)
    residues = rows.media_weights(theta)
    for channel, part in zip(channels, np.split(residues, np.cumsum(columns)[:-1]), strict=True):
        await send_uploads(channel, key.encrypt_constants(part))
    mine = [0] * split
    parts = list(blocks(len(rows.y)))
    for number in range(len(parts) + 1):
        if number < len(parts):
            opened = _sum([await one_result(channel, key) for channel in channels])
            factors = rows.factors(parts[number], opened, theta[:split])
            await send_uploads(lead, key.encrypt(slots(factor) for factor in factors))
        if number > 0:
            residuals = rows.residuals(parts[number - 1], await one_result(lead, key))
            sealed = list(key.encrypt([residuals]))
            for channel in channels:
                await send_uploads(channel, sealed)
            mine = [a + b for a, b in zip(mine, rows.own_sums(parts[number - 1], residuals), strict=True)]
    told = [opened async for opened in receive_sums(lead, key, columns[0] + split - 1)]
    ones = (await lead.recv(ResidualSum)).value
    if ones >= T:
        raise PeerError("the sum of the residuals came out of range")
    theirs = [ones, *told[columns[0] :]]
    media = told[: columns[0]]
    for channel, count in zip(channels[1:], columns[1:], strict=True):
        media += [opened async for opened in receive_sums(channel, key, count)]
    return [*(a + b for a, b in zip(mine, theirs, strict=True)), *media]


async def lead(
    channel: Channel,
    followers: Sequence[Channel],
    x: FloatArray,
    *,
    settings: Settings,
    randomness: Randomness,
    on_step: Callable[[int], None] | None = None,
) -> MediaModel:
    """The media that leads; `channel` is the brand's. x and on_step as in logistic.media."""
    _check_settings(settings, 1 + len(followers))
    model, public, held, columns = await _open(channel, x, settings, leads=True)
    masks = [await _receive_masks(follower, len(x)) for follower in followers]
    rhos = await _send_masks(followers, len(x), randomness)
    count, bits = block_count(len(x)), factor_bits(len(x))
    async for step in _steps(channel, settings):
        weights = [weight async for weight in load_uploads(channel, public, columns.columns)]
        if on_step:
            on_step(step)
        sums = GradientSums(public, columns, held)
        shares: list[UInt64Array] = []
        own = drawn(Randomness(randomness.bytes(SEED_BYTES)))
        logits = masked_logits(public, columns, weights, _noted(own, masks, shares), randomness)
        for number in range(count + 2):
            if number < count:
                await send_results(channel, [next(logits)])
            if 0 < number <= count:
                factors = [factor async for factor in load_uploads(channel, public, 2 * HARMONICS)]
                rho, share = rhos.integers(T, SLOTS), shares[number - 1]
                await send_results(channel, [masked_residuals(public, factors, share, rho, bits, randomness)])
                sums.add_share(number - 1, minus(rho))
            if number > 1:
                async for residuals in load_uploads(channel, public, 1):
                    sums.add_residuals(number - 2, residuals)
        added = blur(len(x), columns.columns + held.columns + 1, randomness)
        await send_sums(channel, sums.results(added[:-1], randomness))
        await channel.send(ResidualSum((sums.ones + added[-1]) % T))
    return model


async def follower(
    channel: Channel,
    lead: Channel,
    x: FloatArray,
    *,
    settings: Settings,
    randomness: Randomness,
    on_step: Callable[[int], None] | None = None,
) -> MediaModel:
    """Any other media; `channel` is the brand's. x and on_step as in logistic.media."""
    model, public, held, columns = await _open(channel, x, settings, leads=False)
    masks = await _send_masks([lead], len(x), randomness)
    rhos = await _receive_masks(lead, len(x))
    count = block_count(len(x))
    async for step in _steps(channel, settings):
        weights = [weight async for weight in load_uploads(channel, public, columns.columns)]
        if on_step:
            on_step(step)
        sums = GradientSums(public, columns, held)
        logits = masked_logits(public, columns, weights, drawn(masks), randomness)
        for number in range(count + 2):
            if number < count:
                await send_results(channel, [next(logits)])
            if number > 1:
                sums.add_share(number - 2, minus(rhos.integers(T, SLOTS)))
                async for residuals in load_uploads(channel, public, 1):
                    sums.add_residuals(number - 2, residuals)
        await send_sums(channel, sums.results(blur(len(x), columns.columns, randomness), randomness))
    return model


async def _open(
    channel: Channel, x: FloatArray, settings: Settings, *, leads: bool
) -> tuple[MediaModel, PublicKey, HeldColumns, Columns]:
    """A media's set-up with the brand: its basis, the brand's key and (to the lead) columns, its own columns."""
    _check_settings(settings, 2)
    x = checked_matrix(x, "the media's")
    if x.shape[1] == 0:
        raise ConfigError("the media enters no column", "grant at least one feature")
    model, scale = whiten(x, settings.ridge_l2)
    opening = await channel.recv(Opening)
    if opening.rows != len(x):
        raise DisagreementError(f"the brand trains on {opening.rows} rows, the media on {len(x)}")
    most = MAX_COLUMNS if leads else 0
    if opening.columns > most:
        raise PeerError(f"the brand comes with {opening.columns} columns, at most {most} are allowed")
    public = await open_media(channel)
    held = HeldColumns(public, opening.columns, block_count(len(x)))
    async for upload in receive_uploads(channel, held.columns * block_count(len(x))):
        held.add(upload)
    await channel.send(Variances(scale.astype("<f8").tobytes()))
    return model, public, held, Columns(public, model.columns(x))


def _noted(
    own: Iterator[UInt64Array], others: Sequence[Randomness], shares: list[UInt64Array]
) -> Iterator[UInt64Array]:
    """The lead's own masks; to each, the lead's share of the logits is put down: minus the sum of all medias' masks."""
    for mask in own:
        shares.append(minus(_sum([mask, *(other.integers(T, SLOTS) for other in others)])))
        yield mask


async def _steps(channel: Channel, settings: Settings) -> AsyncIterator[int]:
    """1, 2, ... as long as the training goes on."""
    for step in range(1, settings.steps + 1):
        if settings.may_stop and step > 1 and not await asked_for_another(channel):
            return
        yield step


# Scores.


async def brand_scores(
    channels: Sequence[Channel],
    weights: Sequence[FloatArray],
    rows: int,
    *,
    levels: int | None,
    window: tuple[float, float] | None = None,
    randomness: Randomness,
) -> FloatArray:
    """The sum over media of x . weights for the `rows` rows that all share: (rows,), as scoring.brand_scores."""
    columns = [len(each) for each in weights]
    if rows < 1 or not all(columns):
        raise ValueError("scores need at least one row, and one column of each media")
    scaled = Scaled.of(np.concatenate(weights), levels, window)
    key = BrandKey(randomness)
    for channel, part in zip(channels, np.split(scaled.integers, np.cumsum(columns)[:-1]), strict=True):
        await channel.send(Key(key.public_bytes()))
        await send_uploads(channel, key.encrypt_constants(modulo(part)))
    opened = np.zeros(block_count(rows) * SLOTS, np.uint64)
    for channel in channels:
        results = [key.decrypt(result) async for result in receive_results(channel, block_count(rows))]
        opened = plus(opened, np.concatenate(results))
    return scaled.scores(centred(opened[:rows]))


async def lead_scores(
    channel: Channel, followers: Sequence[Channel], x: FloatArray, *, levels: int | None, randomness: Randomness
) -> None:
    """The lead's answer to `brand_scores` over x (n, d), which is clipped to +-8 and rounded to 1/64."""
    masks = [await _receive_masks(follower, len(x)) for follower in followers]
    noise = blurring(levels, len(x), randomness)
    extra = np.zeros(len(x), np.uint64) if noise is None else modulo(noise)
    own = (
        plus(slots(extra[rows]), minus(_sum([follower.integers(T, SLOTS) for follower in masks])))
        for rows in blocks(len(x))
    )
    await _answer(channel, x, own, randomness)


async def follower_scores(channel: Channel, lead: Channel, x: FloatArray, *, randomness: Randomness) -> None:
    """A follower's answer to `brand_scores` over x (n, d): the lead alone decides on the blur."""
    masks = await _send_masks([lead], len(x), randomness)
    await _answer(channel, x, drawn(masks), randomness)


async def _answer(channel: Channel, x: FloatArray, masks: Iterable[UInt64Array], randomness: Randomness) -> None:
    public = await open_media(channel)
    columns = Columns(public, quantise(x).astype(np.int16))
    weights = [weight async for weight in load_uploads(channel, public, columns.columns)]
    await send_results(channel, masked_logits(public, columns, weights, masks, randomness))
