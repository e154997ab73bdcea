"""Logistic regression over columns of two parties; nobody sees a row's logit or residual.

The brand holds labels y in {0, 1}, sample weights and columns X_b (n, d_b), the media columns X_m (n, d_m) of the same
rows in the same order. T is the plaintext modulus; a logit z stands as z T/P. The figure, rows in blocks of
8192 (slot = row):

    set-up     media   X~ = X_m V L^-1/2: whitening.py
       B -> M  rows, columns, public key, Enc(X_b)
       M -> B  L: with it, the L2 penalty on the media's own weights is an exact, diagonal one on w~
    each step
    0  B -> M  whether there is another step, where the settings let the brand stop early
    1  B -> M  Enc(w~_j), a constant for each column
    2  M -> B  Enc(X~ w~ + s)               s uniform modulo T; the media keeps v = -s
    3  B -> M  Enc(A_j(u)), Enc(B_j(u))     j = 1..6; u = opened + X_b w_b, so that u + v = z: fourier.py
    4  M -> B  Enc(sum_j A_j cos(2 pi j v/T) + B_j sin(2 pi j v/T) + rho)
                                            rho uniform modulo T; the media keeps -rho
    5  B -> M  Enc(r_b)                     r_b = opened + (a_0 - y) S: the label enters here; r = r_b - rho
    6  M -> B  for each column f a sum that opens to <f, r> where f is the media's, to <f, -rho> where it is the
               brand's; and <1, -rho>
    7  B       adds X_b' r_b and the penalty's part: the gradient; one step of descent.py

A row's sample weight multiplies its A_j, B_j and S. With weight 0 the three are 0, so dec = rho, r_b - rho = 0, and
the row is in no sum: that is hidden alignment, where the media enters all its rows and the brand makes vanish those
it does not share, unseen (`present`). What the media receives and does depends on n, d_b and the number of steps alone.

Learns. Brand: L, and in each step one sum per column, of the media's in a basis that only the media knows, with noise
that leaves 16 meaningful bits; u and opened are uniform modulo T. Media: n, d_b, the number of steps, else ciphertext.

Claim. Against semi-honest parties, by RLWE (128 bits) for what the media sees, and by uniform masks, re-randomising and
flooding for what the brand sees (docs/protocols/training.md, line by line). Not claimed: a brand that sends something
else than residuals, say Enc(e_i), gets that row's image under the secret basis, and nothing here can see it.

Reference: Boura, Chillotti, Gama, Jetchev, Peceny, Petric, "High-Precision Privacy-Preserving Real-Valued Function
Evaluation" (Fourier series on additive shares). Here the brand's factors are encrypted in place of triples.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..channel import Channel, ConfigError, DisagreementError, Message, PeerError, PolicyError
from ..primitives.bfv import BrandKey, Ciphertext, Plaintext, PublicKey
from ..primitives.fixed_point import (
    FEATURE_BITS,
    FloatArray,
    IntArray,
    T,
    UInt64Array,
    centred,
    minus,
    modulo,
    plus,
    total,
)
from ..primitives.packing import SLOTS, block_count, blocks, slots
from ..primitives.randomness import Randomness
from .descent import Descent, newton
from .fourier import HARMONICS, Logits, Series, brand_factors, factor_bits, media_factors, sigmoid_series
from .products import (
    Columns,
    dots,
    load_uploads,
    open_brand,
    open_media,
    receive_results,
    receive_sums,
    receive_uploads,
    sanitised_sums,
    send_results,
    send_sums,
    send_uploads,
    spread,
    streams,
)
from .whitening import MediaModel, OwnColumns, ridge, whiten, whiten_again

MAX_STEPS = 12
MAX_COLUMNS = 400
MAX_ROWS = 2**24
SUM_BITS = 16
_REACH = 2.5
_AT_ONCE = 4
_HELD_BYTES = 2**29
_LOADED_BYTES = 6 * 8 * SLOTS

Noise = Callable[[int], IntArray]


@dataclass(frozen=True)
class Privacy:
    """Differential privacy by contract. Rows no longer than these, the media's whitened, the brand's standardised.

    noise is the standard deviation of the discrete Gaussian on every sum, in multiples of the joint `sensitivity`.
    """

    noise: float
    brand_norm: float = 6.0
    media_norm: float = 6.0

    def __post_init__(self) -> None:
        if not (0 < self.noise < 2**10 and 0 < self.brand_norm <= 2**8 and 0 < self.media_norm <= 2**8):
            raise ConfigError(
                "the settings of differential privacy are out of range",
                "norms lie above 0 and at most at 256, the noise between 0 and 1024 times the sensitivity",
            )


@dataclass(frozen=True)
class Settings:
    """What both sides know from the contract. l2 is scikit-learn's 1/C; the intercept is not penalised.

    whitened_for: the l2 by which the media whitens, 0 for l2. Where the brand chooses its l2 by its own rows, that of
    the media need not be the same: any ridge that both know has the same optimum, and leaves the Hessian diagonal.
    may_stop: the brand may end the training before `steps`, once its gradient is down at its noise, seen by the media.
    """

    steps: int = 8
    l2: float = 10.0
    whitened_for: float = 0.0
    may_stop: bool = False
    privacy: Privacy | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_STEPS:
            raise PolicyError(f"a training takes 1 to {MAX_STEPS} steps, not {self.steps}")
        if not (0 < self.l2 < math.inf and 0 <= self.whitened_for < math.inf):
            raise ConfigError(f"l2 must be above 0, it is {self.l2}", "l2 = 1 is scikit-learn's default")

    @property
    def ridge_l2(self) -> float:
        return self.whitened_for or self.l2


@dataclass(frozen=True)
class BrandModel:
    """logit = intercept + x_b @ weights + quantise(x_m @ basis) / 2^6 @ media_weights, basis with the media.

    variances: the media's eigenvalues, which tell how long the directions of that basis are.
    """

    intercept: float
    weights: FloatArray
    media_weights: FloatArray
    variances: FloatArray

    def own_part(self, x: FloatArray) -> FloatArray:
        """intercept + x_b @ weights: what the brand adds to the media's part of each row's logit."""
        part: FloatArray = self.intercept + x @ self.weights
        return part

    def weights_at(self, variances: FloatArray) -> FloatArray:
        """media_weights in the same directions where they have these variances, `whiten_again`: the same logits."""
        if self.media_weights.shape != variances.shape:
            raise ConfigError("the model to start from belongs to other columns", "train without it")
        moved: FloatArray = self.media_weights * np.sqrt(variances / self.variances)
        return moved


@dataclass(frozen=True)
class Trained:
    """The brand's half of a model, the gradient's length at the start of each step taken, whether it stopped early."""

    model: BrandModel
    gradients: tuple[float, ...]
    stopped: bool

    @property
    def steps(self) -> int:
        """How many steps were taken, which is how many the media charges."""
        return len(self.gradients)


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
class Another(Message):
    """1: the brand asks for another step. 0: it has stopped."""

    step: int


@dataclass(frozen=True)
class ResidualSum(Message):
    """<1, -rho> with noise, modulo T, 1 standing as 2^6: the gradient of the intercept lacks only this."""

    value: int


# Pure steps, of the brand.


def fit_alone(x: FloatArray, y: FloatArray, l2: float, weights: FloatArray | None = None) -> BrandModel:
    """Logistic regression on the brand's own columns: where the joint training starts, and what it is compared with."""
    theta = newton(x, y, l2, weights)
    return BrandModel(float(theta[0]), theta[1:], np.empty(0), np.empty(0))


def sensitivity(privacy: Privacy, rows: int) -> int:
    """How far one person more or less moves all the sums of a step together, in L2 norm and units of their last place.

    A row adds (x~, x_b, 1) r to them, as integers: the parts of x no longer than the norms times 2^6, 1 standing as
    2^6, and |r| <= 2^(2 bits), because the brand scales its residuals so. Holds for a brand that does what it should,
    and for given whitening, standardising and number of rows.
    """
    length = math.sqrt(privacy.media_norm**2 + privacy.brand_norm**2 + 1)
    return math.ceil(2.0 ** (FEATURE_BITS + 2 * factor_bits(rows)) * length)


def gradient_noise(rows: int, privacy: Privacy | None = None) -> float:
    """Standard deviation of a sum: the factors' rounding, the blur, and what differential privacy adds.

    Rounding A_j, B_j, cosines and sines moves a residual by 0.75 units of the last place, in standard deviation.
    """
    bits = factor_bits(rows)
    private = 0.0 if privacy is None else privacy.noise * sensitivity(privacy, rows) / 2 ** (FEATURE_BITS + 2 * bits)
    return math.hypot(0.75 * math.sqrt(rows) / 2**bits, rows / 2**SUM_BITS / math.sqrt(3), private)


@dataclass(frozen=True)
class Rows:
    """The brand's side of the rows: labels, columns, and the sample weights it multiplies residuals with.

    The sums are of weights / unit. The unit keeps their rms times the largest residual at 1 (their maximum where one
    person's part is to be bounded), which is what `factor_bits` and `sensitivity` build on.
    """

    own: OwnColumns
    y: FloatArray
    weights: FloatArray
    size: float
    series: Series

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray, weights: FloatArray, privacy: Privacy | None) -> Rows:
        """weights (n,) are 0 where a row is to vanish; x and y do not matter there."""
        size = float(weights.max()) if privacy else math.sqrt(float(np.mean(weights**2)))
        own = OwnColumns.of(x * (weights > 0)[:, None], privacy.brand_norm if privacy else None)
        return cls(own, y, weights, size, sigmoid_series(float(weights @ y / weights.sum())))

    @functools.cached_property
    def unit(self) -> float:
        return self.size * self.series.residual_bound(factor_bits(len(self.y)))

    def at(self, theta: FloatArray) -> Rows:
        """The same with a series for the logits there are at theta, as far as the brand can tell.

        It knows its own part of each. Of the media's part it knows the standard deviation, which is |w~|, for whitened
        columns have variance 1 and do not correlate.
        """
        split = 1 + len(self.own.scale)
        part = np.concatenate([self.own.logits(rows, theta[:split]) for rows in blocks(len(self.y))])
        here, count = self.weights > 0, float(self.weights.sum())
        mean = float(self.weights @ part) / count
        apart = float(np.linalg.norm(theta[split:]))
        logits = Logits(
            lowest=float(part.min(where=here, initial=math.inf)) - _REACH * apart,
            highest=float(part.max(where=here, initial=-math.inf)) + _REACH * apart,
            mean=mean,
            spread=math.hypot(math.sqrt(float(self.weights @ (part - mean) ** 2) / count), apart),
        )
        return dataclasses.replace(self, series=sigmoid_series(float(self.weights @ self.y) / count, logits))

    def media_weights(self, theta: FloatArray) -> UInt64Array:
        """Step 1: w~ as residues, for columns with 2^6 to the unit."""
        split = 1 + len(self.own.scale)
        scaled = theta[split:] * (T / (self.series.period * 2**FEATURE_BITS))
        return modulo(np.rint(scaled).astype(np.int64))

    def uploads(self) -> Iterator[UInt64Array]:
        """Slots of all columns for the first block of rows, then for the next."""
        for rows in blocks(len(self.y)):
            for column in self.own.integers[rows].T:
                yield slots(column)

    def factors(self, rows: slice, opened: UInt64Array, theta: FloatArray) -> Iterator[NDArray[np.int32]]:
        """Step 3 for one block: A_1, B_1, A_2, ... of rows whose masked logits at the media were opened."""
        count = rows.stop - rows.start
        logits = np.rint(self.own.logits(rows, theta) * (T / self.series.period)).astype(np.int64)
        share = plus(opened[:count], modulo(logits))
        return brand_factors(share, self.weights[rows] / self.unit, self.series, factor_bits(len(self.y)))

    def residuals(self, rows: slice, opened: UInt64Array) -> UInt64Array:
        """Step 5 for one block, all slots: r_b. What was opened for slots behind the last row is rho alone."""
        constants = (self.series.a_0 - self.y[rows]) * (self.weights[rows] / self.unit)
        return plus(opened, slots(np.rint(constants * 4.0 ** factor_bits(len(self.y))).astype(np.int64)))

    def own_sums(self, rows: slice, residuals: UInt64Array) -> list[int]:
        """The brand's half of step 7 for one block: <1, r_b>, then <f, r_b> for its columns, modulo T."""
        count = rows.stop - rows.start
        columns = dots(self.own.integers[rows], residuals[:count])
        return [(total(residuals[:count]) << FEATURE_BITS) % T, *columns]

    def gradient(self, sums: list[int]) -> FloatArray:
        """Sums modulo T as the real numbers they stand for, sample weights as they were given."""
        integers = centred(np.array([value % T for value in sums], np.uint64)).astype(np.float64)
        result: FloatArray = integers * (self.unit / 2.0 ** (FEATURE_BITS + 2 * factor_bits(len(self.y))))
        return result

    def inverse_hessian(
        self, theta: FloatArray, penalty: FloatArray, scale: FloatArray, settings: Settings
    ) -> tuple[FloatArray, FloatArray]:
        """The inverse of the Hessian for intercept and X_b, exact at theta, and its diagonal for the whitened columns.

        The variance of X~ is 1 - ridge / L, so the diagonal is (sum of slopes) (1 - ridge / L) + l2 / L. Where rows
        vanish, the brand's own count stands in the sum, and the media's whitening over all rows stands in for that
        over the brand's.
        """
        n = len(self.y)
        hessian, slopes = self.own.hessian(theta, self.weights)
        hessian += np.diag(penalty) + 1e-9 * float(self.weights.sum()) * np.eye(len(theta))
        inverse: FloatArray = np.linalg.inv(hessian).astype(np.float64)
        return inverse, slopes * np.maximum(1 - ridge(n, settings.ridge_l2) / scale, 0.0) + settings.l2 / scale


# Pure steps, of the media.


class HeldColumns:
    """The brand's encrypted columns at the media: loaded where they fit into 512 MiB, as they came where not.

    As they came they take half as much, 480 MiB for 1,000,000 rows of 20, and are loaded again in every step.
    """

    def __init__(self, public: PublicKey, columns: int, count: int) -> None:
        self.columns = columns
        self._public = public
        self._loads = columns * count * _LOADED_BYTES <= _HELD_BYTES
        self._parts: list[bytes | Ciphertext] = []

    def add(self, upload: bytes) -> None:
        loaded = self._public.load(upload)
        self._parts.append(loaded if self._loads else upload)

    def add_sums(self, sums: list[Ciphertext | None], block: int, residues: Sequence[UInt64Array]) -> None:
        """sums[f] += Enc(X_b) times residues, slot by slot, for one block and those after it."""
        factors = [self._public.encode(slots(each)) for each in residues] if self.columns else []

        def added(column: int) -> Ciphertext | None:
            parts = [self._parts[number * self.columns + column] for number in range(block, block + len(factors))]
            loaded = [self._public.load(part) if isinstance(part, bytes) else part for part in parts]
            return self._public.combine(loaded, factors, sums[column])

        sums[:] = spread(added, range(self.columns))


def masked_logits(
    public: PublicKey, columns: Columns, block: int, weights: list[Ciphertext], stream: Randomness
) -> tuple[bytes, UInt64Array]:
    """Step 2 for one block: what goes to the brand, and the share of each logit that stays."""
    mask = stream.integers(T, SLOTS)
    return public.sanitise(columns.row_sums(block, weights), mask, stream), minus(mask)


def masked_residuals(
    public: PublicKey, factors: list[Ciphertext], share: UInt64Array, bits: int, stream: Randomness
) -> tuple[bytes, UInt64Array]:
    """Step 4 for one block: what goes to the brand, and -rho. share is v, the sum of all medias' shares."""
    own: list[Plaintext | None] = list(spread(public.encode, map(slots, media_factors(share, bits))))
    rho = stream.integers(T, SLOTS)
    return public.sanitise(public.combine(factors, own), rho, stream), minus(rho)


class GradientSums:
    """Step 6 at a media, block after block: its own columns with what the brand sends, those of the brand with -rho.

    Four blocks are added at once: a product costs a third then.
    """

    def __init__(self, public: PublicKey, columns: Columns, held: HeldColumns) -> None:
        self._public, self._columns, self._held = public, columns, held
        self._sums: list[Ciphertext | None] = [None] * columns.columns
        self._held_sums: list[Ciphertext | None] = [None] * held.columns
        self._own = [0] * columns.columns
        self._shares: list[UInt64Array] = []
        self._residuals: list[Ciphertext] = []
        self.ones = 0

    def add_share(self, block: int, share: UInt64Array) -> None:
        """-rho for one block. Slots behind the last row belong to nobody and stay out of the sums."""
        rows = self._columns.integers(block)
        used = share[: len(rows)]
        self._own = [a + b for a, b in zip(self._own, dots(rows, used), strict=True)]
        self.ones += total(used) << FEATURE_BITS
        self._shares.append(used)
        if self._is_time(block, len(self._shares)):
            self._held.add_sums(self._held_sums, block + 1 - len(self._shares), self._shares)
            self._shares = []

    def add_residuals(self, block: int, residuals: Ciphertext) -> None:
        """Enc(r_b) for one block."""
        self._residuals.append(residuals)
        if self._is_time(block, len(self._residuals)):
            self._columns.add_column_sums(self._sums, block + 1 - len(self._residuals), self._residuals)
            self._residuals = []

    def _is_time(self, block: int, waiting: int) -> bool:
        return waiting == _AT_ONCE or block + 1 == block_count(self._columns.rows)

    def results(self, added: list[int], randomness: Randomness) -> Iterator[bytes]:
        """The sums for the media's columns, then for the brand's, each with noise that is added."""
        constants = [*self._own, *[0] * self._held.columns]
        values = (constant + noise for constant, noise in zip(constants, added, strict=True))
        return sanitised_sums(self._public, [*self._sums, *self._held_sums], values, randomness)


def blur(rows: int, count: int, randomness: Randomness) -> list[int]:
    """Noise for `count` sums that leaves SUM_BITS meaningful bits of each: uniform over a 2^-16th of its range."""
    half = rows << (FEATURE_BITS + 2 * factor_bits(rows)) >> SUM_BITS
    return [int(drawn) - half for drawn in randomness.integers(2 * half + 1, count)]


def checked_matrix(x: NDArray[np.float64], whose: str) -> FloatArray:
    values = np.asarray(x, np.float64)
    if values.ndim != 2 or not 2 <= len(values) <= MAX_ROWS or values.shape[1] > MAX_COLUMNS:
        raise ConfigError(
            f"{whose} columns make a table of {values.shape}; it may have 2 to {MAX_ROWS} rows, {MAX_COLUMNS} columns"
        )
    if not np.isfinite(values).all():
        raise ConfigError(f"{whose} columns hold values that are not finite", "fill in or leave out missing values")
    return values


def checked_labels(
    y: FloatArray, weights: FloatArray | None, present: NDArray[np.bool_] | None, n: int
) -> tuple[FloatArray, FloatArray]:
    """Labels and sample weights, both 0 where a row is not present."""
    here = np.ones(n, np.bool_) if present is None else np.asarray(present)
    count = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    if here.shape != (n,) or here.dtype != np.bool_ or count.shape != (n,):
        raise ConfigError("sample weights and the rows that are present must come one for each row")
    count = np.where(here, count, 0.0)
    if not np.isfinite(count).all() or (count < 0).any() or not 0 < count.sum() < math.inf:
        raise ConfigError("sample weights must be finite and not negative, and not all 0")
    labels = np.asarray(y, np.float64)
    if labels.shape != (n,) or not np.isin(labels[count > 0], (0.0, 1.0)).all() or len(set(labels[count > 0])) < 2:
        raise ConfigError(
            "the label must be 0 or 1 on every training row, and both must occur",
            "choose another label column or positive value",
        )
    return np.where(count > 0, labels, 0.0), count


def read_variances(message: Variances) -> FloatArray:
    scale = np.frombuffer(message.values, "<f8").astype(np.float64) if len(message.values) % 8 == 0 else np.empty(0)
    if not 1 <= len(scale) <= MAX_COLUMNS or not np.isfinite(scale).all() or (scale <= 0).any():
        raise PeerError("the media's eigenvalues are not 1 to 400 positive numbers")
    return scale


async def one_result(channel: Channel, key: BrandKey) -> UInt64Array:
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
    weights: FloatArray | None = None,
    present: NDArray[np.bool_] | None = None,
) -> Trained:
    """The joint model. x (n, d_b) standardised without an intercept column, d_b may be 0; y (n,) of 0 and 1.

    Starts from `start` (an earlier training on the same columns) or from the brand's columns alone. weights (n,) are
    sample weights as scikit-learn's. Where present (n,) is False a row of the media's is nobody's here: x and y do not
    matter, and neither the sums nor what the media sees tell it from the others.
    """
    y, weights = checked_labels(y, weights, present, len(x))
    x = checked_matrix(x if present is None else np.where(present[:, None], x, 0.0), "the brand's")
    rows = Rows.of(x, y, weights, settings.privacy)
    await channel.send(Opening(len(x), x.shape[1]))
    key = await open_brand(channel, randomness)
    await send_uploads(channel, key.encrypt(rows.uploads(), spread))
    scale = read_variances(await channel.recv(Variances))

    # Over all rows, those of weight 0 too: the time that it takes is not to tell how many are present.
    first = start or fit_alone(x, y, settings.l2, weights)
    media_start = first.weights_at(scale) if start else np.zeros(len(scale))
    own_scale = rows.own.scale
    if first.weights.shape != own_scale.shape:
        raise ConfigError("the model to start from belongs to other columns", "train without it")
    theta = np.concatenate([[first.intercept], first.weights * own_scale, media_start])
    penalty = settings.l2 * np.concatenate([[0.0], own_scale**-2.0, 1 / scale])
    split = 1 + x.shape[1]
    inverse, diagonal = rows.inverse_hessian(theta[:split], penalty[:split], scale, settings)
    noise, private = gradient_noise(len(x), settings.privacy) * rows.unit, settings.privacy is not None
    descent = Descent(theta, inverse, diagonal, noise, averaging=private)
    gradients: list[FloatArray] = []
    stopped = False
    for _ in range(settings.steps):
        if settings.may_stop and gradients:
            stopped = descent.is_at_the_noise(gradients[-1])
            await channel.send(Another(0 if stopped else 1))
        if stopped:
            break
        there = rows.at(descent.theta)
        sums = await _brand_step(channel, key, there, descent.theta, len(scale))
        gradients.append(there.gradient(sums) + penalty * descent.theta)
        descent.step(gradients[-1])
    theta = descent.theta
    model = BrandModel(float(theta[0]), theta[1:split] / own_scale, theta[split:], scale)
    return Trained(model, tuple(float(np.linalg.norm(gradient)) for gradient in gradients), stopped)


async def media(
    channel: Channel,
    x: FloatArray,
    *,
    settings: Settings,
    randomness: Randomness,
    on_step: Callable[[int], None] | None = None,
    noise: Noise | None = None,
    start: MediaModel | None = None,
) -> MediaModel:
    """The other side of `brand`. x (n, d_m): the same rows in the same order.

    start: its part of an earlier training on the same columns, where the brand starts from its own part of that.
    on_step(k) is called for k = 1, 2, ... before anything of step k is answered, and may raise to refuse it. noise(k)
    gives k integers of discrete Gaussian noise, of `sensitivity` times what the settings' privacy says.
    """
    x = checked_matrix(x, "the media's")
    if x.shape[1] == 0:
        raise ConfigError("the media enters no column", "grant at least one feature")
    if (noise is None) != (settings.privacy is None):
        raise ValueError("noise is needed where the settings ask for differential privacy, and nowhere else")
    l2 = settings.ridge_l2
    model, scale = whiten(x, l2) if start is None else whiten_again(start, x, l2)
    opening = await channel.recv(Opening)
    if opening.rows != len(x):
        raise DisagreementError(f"the brand trains on {opening.rows} rows, the media on {len(x)}")
    if opening.columns > MAX_COLUMNS:
        raise PeerError(f"the brand comes with {opening.columns} columns, at most {MAX_COLUMNS} are allowed")
    public = await open_media(channel)
    held = HeldColumns(public, opening.columns, block_count(len(x)))
    async for upload in receive_uploads(channel, opening.columns * block_count(len(x))):
        held.add(upload)
    await channel.send(Variances(scale.astype("<f8").tobytes()))
    columns = Columns(public, model.columns(x, settings.privacy.media_norm if settings.privacy else None))
    for step in range(1, settings.steps + 1):
        if settings.may_stop and step > 1 and not await asked_for_another(channel):
            break
        charge = functools.partial(on_step, step) if on_step else None
        await _media_step(channel, public, columns, held, charge, noise, randomness)
    return model


async def asked_for_another(channel: Channel) -> bool:
    wish = (await channel.recv(Another)).step
    if wish > 1:
        raise PeerError("the brand neither asked for another step nor stopped")
    return wish == 1


async def _brand_step(channel: Channel, key: BrandKey, rows: Rows, theta: FloatArray, media_columns: int) -> list[int]:
    """The sums of residual times column at theta, modulo T: intercept, the brand's columns, the media's.

    Works one block ahead of the media's answers, so that both sides have something to do: the line must hold two
    results (256 KiB) that the brand has not read yet.
    """
    split = 1 + len(rows.own.scale)
    await send_uploads(channel, key.encrypt_constants(rows.media_weights(theta), spread))
    mine = [0] * split
    parts = list(blocks(len(rows.y)))
    for number in range(len(parts) + 1):
        if number < len(parts):
            opened = await one_result(channel, key)
            factors = rows.factors(parts[number], opened, theta[:split])
            await send_uploads(channel, key.encrypt((slots(factor) for factor in factors), spread))
        if number > 0:
            residuals = rows.residuals(parts[number - 1], await one_result(channel, key))
            await send_uploads(channel, key.encrypt([residuals]))
            mine = [a + b for a, b in zip(mine, rows.own_sums(parts[number - 1], residuals), strict=True)]
    opened_sums = [opened async for opened in receive_sums(channel, key, media_columns + split - 1)]
    ones = (await channel.recv(ResidualSum)).value
    if ones >= T:
        raise PeerError("the sum of the residuals came out of range")
    theirs = [ones, *opened_sums[media_columns:]]
    return [*(a + b for a, b in zip(mine, theirs, strict=True)), *opened_sums[:media_columns]]


async def _media_step(
    channel: Channel,
    public: PublicKey,
    columns: Columns,
    held: HeldColumns,
    charge: Callable[[], None] | None,
    noise: Noise | None,
    randomness: Randomness,
) -> None:
    """Steps 2, 4 and 6, in the order that `_brand_step` asks for them."""
    weights = [weight async for weight in load_uploads(channel, public, columns.columns)]
    if charge:
        charge()
    count, bits = block_count(columns.rows), factor_bits(columns.rows)
    sums = GradientSums(public, columns, held)

    def logits(item: tuple[int, Randomness]) -> tuple[bytes, UInt64Array]:
        return masked_logits(public, columns, item[0], weights, item[1])

    ahead = spread(logits, zip(range(count), streams(randomness), strict=False))
    rho_streams = streams(randomness)
    result, share = next(ahead)
    await send_results(channel, [result])
    for number in range(count + 1):
        current = share
        if number + 1 < count:
            result, share = next(ahead)
            await send_results(channel, [result])
        if number < count:
            factors = [factor async for factor in load_uploads(channel, public, 2 * HARMONICS)]
            result, minus_rho = masked_residuals(public, factors, current, bits, next(rho_streams))
            await send_results(channel, [result])
            sums.add_share(number, minus_rho)
        if number > 0:
            async for residuals in load_uploads(channel, public, 1):
                sums.add_residuals(number - 1, residuals)
    released = columns.columns + held.columns + 1
    added = blur(columns.rows, released, randomness)
    if noise is not None:
        added = [a + int(b) for a, b in zip(added, noise(released), strict=True)]
    await send_sums(channel, sums.results(added[:-1], randomness))
    await channel.send(ResidualSum((sums.ones + added[-1]) % T))
