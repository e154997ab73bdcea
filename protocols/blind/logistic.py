"""Logistic regression over columns of two parties; nobody sees a row's logit or residual.

The brand holds labels y in {0, 1} and columns X_b (n, d_b), the media columns X_m (n, d_m) of the same rows in the same
order. T is the plaintext modulus; a logit z stands as z T/P, P = 24. The figure, rows in blocks of 8192 (slot = row):

    set-up     media   X~ = X_m V L^-1/2: V and L are the directions and eigenvalues of its ridged covariance
       B -> M  rows, columns, public key, Enc(X_b)
       M -> B  L: with it, the L2 penalty on the media's own weights is an exact, diagonal one on w~
    each step
    1  B -> M  Enc(w~_j), a constant for each column
    2  M -> B  Enc(X~ w~ + s)               s uniform modulo T; the media keeps v = -s
    3  B -> M  Enc(A_j(u)), Enc(B_j(u))     j = 1..6; u = opened + X_b w_b, so that u + v = z
    4  M -> B  Enc(sum_j A_j cos(2 pi j v/T) + B_j sin(2 pi j v/T) + rho)
                                            rho uniform modulo T; the media keeps -rho
    5  B -> M  Enc(r_b)                     r_b = opened + (a_0 - y) S: the label enters here; r = r_b - rho
    6  M -> B  for each column f: slots that add up to <f, r> where f is the media's, to <f, -rho> where it
               is the brand's; and the sum of -rho
    7  B       adds X_b' r_b and the penalty's part: the gradient; one L-BFGS step

The sigmoid is a Fourier series of period P, fitted on a window of 16 around the brand's base rate:
sigma(z) = a_0 + sum_j a_j cos(2 pi j z/P) + b_j sin(2 pi j z/P), A_j = a_j cos + b_j sin and B_j = b_j cos - a_j sin
at 2 pi j u/T. Sine and cosine of u + v come apart into products of those of u and of v, and have period T: what wraps
modulo T changes nothing. The coefficients stay with the brand; the media learns nothing from them.

Learns. Brand: L, and in each step one sum per column, of the media's in a basis that only the media knows, with noise
that leaves 16 meaningful bits; u and opened are uniform modulo T. Media: n, d_b, the number of steps, else ciphertext.

Claim. Against semi-honest parties, by RLWE (128 bits) for what the media sees, and by uniform masks, re-randomising and
flooding for what the brand sees (docs/protocols/blind.md, with the bound). Not claimed: a brand that sends something
else than residuals, say Enc(e_i), gets that row's image under the secret basis, and nothing here can see it.

Reference: Boura, Chillotti, Gama, Jetchev, Peceny, Petric, "High-Precision Privacy-Preserving Real-Valued Function
Evaluation" (Fourier series on additive shares). Here the brand's factors are encrypted in place of triples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..channel import Channel, ConfigError, DisagreementError, Message, PeerError, PolicyError
from ..primitives.bfv import BrandKey, Ciphertext, PublicKey
from ..primitives.fixed_point import (
    FEATURE_BITS,
    FEATURE_LIMIT,
    FloatArray,
    IntArray,
    T,
    UInt64Array,
    centred,
    dot,
    minus,
    modulo,
    plus,
    quantise,
    total,
)
from ..primitives.packing import SLOTS, block_count, blocks, slots
from ..primitives.randomness import Randomness
from .products import (
    Columns,
    masked_total,
    open_brand,
    open_media,
    receive_results,
    receive_uploads,
    send_results,
    send_uploads,
)

PERIOD = 24.0
HARMONICS = 6
WINDOW = 8.0
MAX_STEPS = 12
MAX_COLUMNS = 400
MAX_ROWS = 2**24
SUM_BITS = 16
_RIDGE_SLOPE = 0.1
_HELD_BYTES = 2**29
_LOADED_BYTES = 6 * 8 * SLOTS


@dataclass(frozen=True)
class Settings:
    """What both sides know from the contract. l2 is scikit-learn's 1/C; the intercept is not penalised."""

    steps: int = 8
    l2: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_STEPS:
            raise PolicyError(f"a training takes 1 to {MAX_STEPS} steps, not {self.steps}")
        if not 0 < self.l2 < math.inf:
            raise ConfigError(f"l2 must be above 0, it is {self.l2}", "l2 = 1 is scikit-learn's default")


@dataclass(frozen=True)
class BrandModel:
    """logit = intercept + x_b @ weights + quantise(x_m @ basis) / 2^6 @ media_weights, basis with the media."""

    intercept: float
    weights: FloatArray
    media_weights: FloatArray

    def own_part(self, x: FloatArray) -> FloatArray:
        """intercept + x_b @ weights: what the brand adds to the media's part of each row's logit."""
        part: FloatArray = self.intercept + x @ self.weights
        return part


@dataclass(frozen=True)
class MediaModel:
    """The media's secret: x_m @ basis are the whitened columns that the brand's media_weights belong to."""

    basis: FloatArray

    def columns(self, x: FloatArray) -> IntArray:
        """What the media enters into the rows product: (n, d) integers, 2^6 to the unit."""
        return quantise(x @ self.basis)


@dataclass(frozen=True)
class Opening(Message):
    """How many rows and columns the brand comes with."""

    rows: int
    columns: int


@dataclass(frozen=True)
class Variances(Message):
    """The media's eigenvalues, float64."""

    MAX_BYTES = 8 * MAX_COLUMNS + 64
    values: bytes


@dataclass(frozen=True)
class ResidualSum(Message):
    """Minus the sum of rho over the rows, with noise, modulo T: the gradient of the intercept lacks only this."""

    value: int


# Pure steps.


def whiten(x: FloatArray, l2: float) -> tuple[MediaModel, FloatArray]:
    """The media's basis and its eigenvalues L = covariance + ridge, in which w = V L^-1/2 w~ and |w|^2 = w~' L^-1 w~.

    The ridge l2 / (n s) is what the penalty adds to the Hessian where s is the mean slope of the sigmoid. A public s
    keeps the brand's at home, and any s has the same optimum. Directions in which the data do not move are dropped.
    """
    n = len(x)
    variances, directions = np.linalg.eigh(x.T @ x / n)
    kept = variances > 1e-9 * max(float(variances[-1]), 1e-9)
    if not kept.any():
        raise ConfigError("none of the media's columns varies over the matched rows", "grant other features")
    scale = variances[kept] + l2 / (n * _RIDGE_SLOPE)
    return MediaModel(directions[:, kept] / np.sqrt(scale)), scale


def sigmoid_series(centre: float) -> tuple[float, FloatArray, FloatArray]:
    """a_0, a, b of the Fourier series of period 24 that is nearest to the sigmoid on centre - 8 .. centre + 8."""
    z = np.linspace(centre - WINDOW, centre + WINDOW, 2001)
    angle = 2 * np.pi * np.outer(z, np.arange(1, HARMONICS + 1)) / PERIOD
    design = np.hstack([np.ones((len(z), 1)), np.cos(angle), np.sin(angle)])
    found = np.linalg.lstsq(design, _sigmoid(z), rcond=None)[0]
    return float(found[0]), found[1 : HARMONICS + 1], found[HARMONICS + 1 :]


def factor_bits(rows: int) -> int:
    """Bits of a Fourier factor: 10, or fewer so that a sum over all rows of x (2^6) times r (2^2bits) stays below T/2.

    By Cauchy-Schwarz it is at most rows rms(x) rms(r), and both are at most 1.
    """
    return min(10, (44 - FEATURE_BITS - math.ceil(math.log2(max(rows, 2)))) // 2)


def gradient_noise(rows: int) -> float:
    """Standard deviation of a component of the gradient: the factors' rounding, and the noise on every sum.

    Rounding A_j, B_j, cosines and sines moves a residual by 0.75 units of the last place, in standard deviation.
    """
    return math.hypot(0.75 * math.sqrt(rows) / 2 ** factor_bits(rows), rows / 2**SUM_BITS / math.sqrt(3))


def fit_alone(x: FloatArray, y: FloatArray, l2: float) -> BrandModel:
    """Logistic regression on the brand's own columns, by Newton's method: where the joint training starts."""
    ones = np.hstack([np.ones((len(x), 1)), x])
    penalty = np.full(ones.shape[1], l2)
    penalty[0] = 0.0
    theta = np.zeros(ones.shape[1])
    theta[0] = _logit(float(y.mean()))

    def loss(at: FloatArray) -> float:
        z = ones @ at
        return float(np.sum(np.logaddexp(0.0, z) - y * z) + 0.5 * at @ (penalty * at))

    for _ in range(50):
        p = _sigmoid(ones @ theta)
        gradient = ones.T @ (p - y) + penalty * theta
        hessian = (ones * (p * (1 - p))[:, None]).T @ ones + np.diag(penalty) + 1e-9 * np.eye(len(theta))
        step = np.linalg.solve(hessian, gradient)
        length, here = 1.0, loss(theta)
        while loss(theta - length * step) > here and length > 1e-6:
            length /= 2
        theta = theta - length * step
        if float(np.abs(length * step).max()) < 1e-9:
            break
    return BrandModel(float(theta[0]), theta[1:], np.empty(0))


def _sigmoid(z: FloatArray) -> FloatArray:
    result: FloatArray = 0.5 * (1 + np.tanh(z / 2))
    return result


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


class _Descent:
    """L-BFGS, full steps, from a good inverse Hessian: exact for intercept and X_b, diagonal for whitened columns.

    `noise` is the standard deviation of a gradient's component. Near the optimum the difference of two gradients is
    little else, and the curvature read from it would throw the model far off; such a pair is not used.
    """

    def __init__(
        self, start: FloatArray, brand_inverse: FloatArray, media_diagonal: FloatArray, noise: float = 0.0
    ) -> None:
        self.theta = start
        self._brand_inverse, self._media_diagonal, self._noise = brand_inverse, media_diagonal, noise
        self._pairs: list[tuple[FloatArray, FloatArray]] = []
        self._last: tuple[FloatArray, FloatArray] | None = None

    def _inverse(self, g: FloatArray) -> FloatArray:
        k = len(self._brand_inverse)
        return np.concatenate([self._brand_inverse @ g[:k], g[k:] / self._media_diagonal])

    def step(self, gradient: FloatArray) -> None:
        """Moves theta by what the gradient there, after those before it, calls for."""
        if self._last is not None:
            s, g = self.theta - self._last[0], gradient - self._last[1]
            # The noise of g has the expected length noise sqrt(2 d); g itself must be well above it along s.
            unsure = 2 * self._noise * math.sqrt(2 * len(s) * float(s @ s))
            if float(s @ g) > max(unsure, 1e-12 * float(s @ s)):
                self._pairs.append((s, g))
        self._last = (self.theta, gradient)
        q, coefficients = gradient.copy(), []
        for s, g in reversed(self._pairs):
            alpha = float(s @ q) / float(s @ g)
            q -= alpha * g
            coefficients.append(alpha)
        q = self._inverse(q)
        for (s, g), alpha in zip(self._pairs, reversed(coefficients), strict=True):
            q += (alpha - float(g @ q) / float(s @ g)) * s
        self.theta = self.theta - q


@dataclass(frozen=True)
class _Own:
    """The brand's columns as the protocol uses them: scaled so that no value exceeds 8 and no rms exceeds 1."""

    scale: FloatArray
    integers: IntArray

    @classmethod
    def of(cls, x: FloatArray) -> _Own:
        if x.shape[1] == 0:
            return cls(np.empty(0), np.empty((len(x), 0), np.int64))
        scale = np.maximum(1.0, np.maximum(np.sqrt((x**2).mean(axis=0)), np.abs(x).max(axis=0) / FEATURE_LIMIT))
        return cls(scale, quantise(x / scale))

    def logits(self, theta: FloatArray) -> FloatArray:
        """theta holds the intercept and a weight for each scaled column."""
        result: FloatArray = theta[0] + self.integers @ (theta[1:] / 2**FEATURE_BITS)
        return result

    def blocks(self) -> Iterator[UInt64Array]:
        """Slots of all columns for the first block of rows, then for the next."""
        for rows in blocks(len(self.integers)):
            for column in self.integers[rows].T:
                yield slots(column)


def fourier_brand(share: UInt64Array, a: FloatArray, b: FloatArray, bits: int) -> Iterator[IntArray]:
    """A_1, B_1, A_2, ... of the figure at the brand's share u of each logit, `bits` behind the point."""
    for j in range(1, HARMONICS + 1):
        angle = 2 * np.pi * j * (share / T)
        cos, sin = np.cos(angle), np.sin(angle)
        yield _scaled(a[j - 1] * cos + b[j - 1] * sin, bits)
        yield _scaled(b[j - 1] * cos - a[j - 1] * sin, bits)


def fourier_media(share: UInt64Array, bits: int) -> Iterator[IntArray]:
    """What A_1, B_1, A_2, ... are multiplied with at the media's share v: cos and sin of 2 pi j v / T."""
    for j in range(1, HARMONICS + 1):
        angle = 2 * np.pi * j * (share / T)
        yield _scaled(np.cos(angle), bits)
        yield _scaled(np.sin(angle), bits)


def _scaled(values: FloatArray, bits: int) -> IntArray:
    return np.rint(values * 2.0**bits).astype(np.int64)


class _Held:
    """The brand's encrypted columns at the media, loaded where they fit into memory, as they came where not."""

    def __init__(self, public: PublicKey, columns: int, count: int) -> None:
        self.columns = columns
        self._public = public
        self._loads = columns * count * _LOADED_BYTES <= _HELD_BYTES
        self._parts: list[bytes | Ciphertext] = []

    def add(self, upload: bytes) -> None:
        loaded = self._public.load(upload)
        self._parts.append(loaded if self._loads else upload)

    def add_sums(self, sums: list[Ciphertext | None], block: int, residues: UInt64Array) -> None:
        """sums[f] += Enc(X_b) times residues, slot by slot, for one block."""
        factor = self._public.encode(slots(residues)) if self.columns else None
        for column in range(self.columns):
            part = self._parts[block * self.columns + column]
            ciphertext = self._public.load(part) if isinstance(part, bytes) else part
            sums[column] = self._public.add_product(sums[column], ciphertext, factor)


class _Blur:
    """Noise on every sum that leaves SUM_BITS meaningful bits: uniform over a 2^-16th of the range a sum can have."""

    def __init__(self, rows: int, bits: int, randomness: Randomness) -> None:
        """bits: how many of a summand, which is at most 1, stand behind the point."""
        self._half = rows << bits >> SUM_BITS
        self._randomness = randomness

    def draw(self, value: int) -> int:
        return value + int(self._randomness.integers(2 * self._half + 1, 1)[0]) - self._half


def _checked_matrix(x: NDArray[np.float64], whose: str) -> FloatArray:
    values = np.asarray(x, np.float64)
    if values.ndim != 2 or not 2 <= len(values) <= MAX_ROWS or values.shape[1] > MAX_COLUMNS:
        raise ConfigError(
            f"{whose} columns make a table of {values.shape}; it may have 2 to {MAX_ROWS} rows, {MAX_COLUMNS} columns"
        )
    if not np.isfinite(values).all():
        raise ConfigError(f"{whose} columns hold values that are not finite", "fill in or leave out missing values")
    return values


def _inverse_hessian(
    own: _Own, theta: FloatArray, penalty: FloatArray, scale: FloatArray, l2: float
) -> tuple[FloatArray, FloatArray]:
    """The inverse of the Hessian for intercept and X_b, exact at theta, and its diagonal for the whitened columns.

    The covariance of X~ is 1 - ridge / L, so with mean slope s the diagonal is n s (1 - ridge / L) + l2 / L.
    """
    n = len(own.integers)
    p = _sigmoid(own.logits(theta))
    slope = p * (1 - p)
    ones = np.hstack([np.ones((n, 1)), own.integers / 2**FEATURE_BITS])
    hessian = (ones * slope[:, None]).T @ ones + np.diag(penalty) + 1e-9 * n * np.eye(len(theta))
    ridge = l2 / (n * _RIDGE_SLOPE)
    return np.linalg.inv(hessian), n * float(slope.mean()) * np.maximum(1 - ridge / scale, 0.0) + l2 / scale


def _read_variances(message: Variances) -> FloatArray:
    scale = np.frombuffer(message.values, "<f8").astype(np.float64) if len(message.values) % 8 == 0 else np.empty(0)
    if not 1 <= len(scale) <= MAX_COLUMNS or not np.isfinite(scale).all() or (scale <= 0).any():
        raise PeerError("the media's eigenvalues are not 1 to 400 positive numbers")
    return scale


async def _one_result(channel: Channel, key: BrandKey) -> UInt64Array:
    opened = [key.decrypt(result) async for result in receive_results(channel, 1)]
    return opened[0]


# Roles.


async def brand(
    channel: Channel,
    x: FloatArray,
    y: FloatArray,
    *,
    settings: Settings,
    randomness: Randomness,
    start: BrandModel | None = None,
) -> BrandModel:
    """The joint model. x (n, d_b) standardised without an intercept column, d_b may be 0; y (n,) of 0 and 1.

    Starts from `start` (an earlier training on the same rows and columns) or from the brand's columns alone.
    """
    x, y = _checked_matrix(x, "the brand's"), np.asarray(y, np.float64)
    if y.shape != (len(x),) or not np.isin(y, (0.0, 1.0)).all() or not 0 < y.mean() < 1:
        raise ConfigError(
            "the label must be 0 or 1 on every training row, and both must occur",
            "choose another label column or positive value",
        )
    own = _Own.of(x)
    await channel.send(Opening(len(x), x.shape[1]))
    key = await open_brand(channel, randomness)
    await send_uploads(channel, key.encrypt(own.blocks()))
    scale = _read_variances(await channel.recv(Variances))

    first = start or fit_alone(x, y, settings.l2)
    media_start = first.media_weights if start else np.zeros(len(scale))
    if first.weights.shape != own.scale.shape or media_start.shape != scale.shape:
        raise ConfigError("the model to start from belongs to other columns", "train without it")
    theta = np.concatenate([[first.intercept], first.weights * own.scale, media_start])
    penalty = settings.l2 * np.concatenate([[0.0], own.scale**-2.0, 1 / scale])
    split = 1 + x.shape[1]
    inverse, diagonal = _inverse_hessian(own, theta[:split], penalty[:split], scale, settings.l2)
    descent = _Descent(theta, inverse, diagonal, gradient_noise(len(x)))
    series = sigmoid_series(_logit(float(y.mean())))
    for _ in range(settings.steps):
        sums = await _brand_step(channel, key, own, y, descent.theta, series, len(scale))
        descent.step(sums + penalty * descent.theta)
    theta = descent.theta
    return BrandModel(float(theta[0]), theta[1:split] / own.scale, theta[split:])


async def media(channel: Channel, x: FloatArray, *, settings: Settings, randomness: Randomness) -> MediaModel:
    """The other side of `brand`. x (n, d_m): the same rows in the same order."""
    x = _checked_matrix(x, "the media's")
    if x.shape[1] == 0:
        raise ConfigError("the media enters no column", "grant at least one feature")
    model, scale = whiten(x, settings.l2)
    opening = await channel.recv(Opening)
    if opening.rows != len(x):
        raise DisagreementError(f"the brand trains on {opening.rows} rows, the media on {len(x)}")
    if opening.columns > MAX_COLUMNS:
        raise PeerError(f"the brand comes with {opening.columns} columns, at most {MAX_COLUMNS} are allowed")
    public = await open_media(channel)
    peer = _Held(public, opening.columns, block_count(len(x)))
    async for upload in receive_uploads(channel, opening.columns * block_count(len(x))):
        peer.add(upload)
    await channel.send(Variances(scale.astype("<f8").tobytes()))
    columns = Columns(public, model.columns(x))
    for _ in range(settings.steps):
        await _media_step(channel, public, columns, peer, randomness)
    return model


async def _brand_step(
    channel: Channel,
    key: BrandKey,
    own: _Own,
    y: FloatArray,
    theta: FloatArray,
    series: tuple[float, FloatArray, FloatArray],
    media_columns: int,
) -> FloatArray:
    """The sums of residual times column at theta: intercept, the brand's columns, the media's.

    Works one block ahead of the media's answers, so that both sides have something to do: the line must hold two
    results (256 KiB) that the brand has not read yet.
    """
    n, split = len(y), 1 + own.integers.shape[1]
    bits = factor_bits(n)
    weights = np.rint(theta[split:] * (T / (PERIOD * 2**FEATURE_BITS))).astype(np.int64)
    await send_uploads(channel, key.encrypt_constants(modulo(weights)))
    logits = np.zeros(block_count(n) * SLOTS)
    logits[:n] = own.logits(theta[:split])
    targets = np.zeros(len(logits))
    targets[:n] = y
    residuals = np.empty(n, np.uint64)
    parts = list(blocks(len(logits)))
    for number in range(len(parts) + 1):
        if number < len(parts):
            opened = await _one_result(channel, key)
            share = plus(opened, modulo(np.rint(logits[parts[number]] * (T / PERIOD)).astype(np.int64)))
            await send_uploads(
                channel, key.encrypt(modulo(f) for f in fourier_brand(share, series[1], series[2], bits))
            )
        if number > 0:
            rows = parts[number - 1]
            constant = np.rint((series[0] - targets[rows]) * 4.0**bits).astype(np.int64)
            residual = plus(await _one_result(channel, key), modulo(constant))
            residuals[rows] = residual[: max(0, n - rows.start)]
            await send_uploads(channel, key.encrypt([residual]))
    opened_sums = [total(key.decrypt(result)) async for result in receive_results(channel, media_columns + split - 1)]
    intercept = (await channel.recv(ResidualSum)).value
    if intercept >= T:
        raise PeerError("the sum of the residuals came out of range")
    local = [total(residuals), *(dot(own.integers[:, f], residuals) for f in range(split - 1))]
    sums = [intercept + local[0]]
    sums += [opened + mine for opened, mine in zip(opened_sums[media_columns:], local[1:], strict=True)]
    sums += opened_sums[:media_columns]
    integers = centred(np.array([value % T for value in sums], np.uint64))
    units = np.full(len(sums), 2.0**FEATURE_BITS * 4.0**bits)
    units[0] = 4.0**bits
    result: FloatArray = integers / units
    return result


async def _media_step(
    channel: Channel, public: PublicKey, columns: Columns, peer: _Held, randomness: Randomness
) -> None:
    """Steps 2, 4 and 6, in the order that `_brand_step` asks for them."""
    weights = [public.load(upload) async for upload in receive_uploads(channel, columns.columns)]
    count, n = block_count(columns.rows), columns.rows
    bits = factor_bits(n)
    shares: list[UInt64Array] = []
    masks: list[UInt64Array] = []
    sums: list[Ciphertext | None] = [None] * columns.columns
    peer_sums: list[Ciphertext | None] = [None] * peer.columns

    async def send_logits(number: int) -> None:
        mask = randomness.integers(T, SLOTS)
        shares.append(minus(mask))
        await send_results(channel, [public.sanitise(columns.row_sums(number, weights), mask, randomness)])

    await send_logits(0)
    for number in range(count + 1):
        if number + 1 < count:
            await send_logits(number + 1)
        if number < count:
            sum_: Ciphertext | None = None
            factors = fourier_media(shares[number], bits)
            async for upload in receive_uploads(channel, 2 * HARMONICS):
                sum_ = public.add_product(sum_, public.load(upload), public.encode(modulo(next(factors))))
            rho = randomness.integers(T, SLOTS)
            await send_results(channel, [public.sanitise(sum_, rho, randomness)])
            # Slots behind the last row belong to nobody: their masks stay out of the sums.
            masks.append(minus(rho)[: n - number * SLOTS])
            peer.add_sums(peer_sums, number, masks[number])
        if number > 0:
            async for upload in receive_uploads(channel, 1):
                columns.add_column_sums(sums, number - 1, public.load(upload))
    mask_shares = np.concatenate(masks)
    blur = _Blur(n, FEATURE_BITS + 2 * bits, randomness)
    own_masks = [masked_total(blur.draw(dot(column, mask_shares)), randomness) for column in columns.integers()]
    peer_masks = [masked_total(blur.draw(0), randomness) for _ in range(peer.columns)]
    await send_results(
        channel,
        (
            public.sanitise(sum_, mask, randomness)
            for sum_, mask in zip([*sums, *peer_sums], [*own_masks, *peer_masks], strict=True)
        ),
    )
    await channel.send(ResidualSum(_Blur(n, 2 * bits, randomness).draw(total(mask_shares)) % T))
