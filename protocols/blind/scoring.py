"""Scores by a linear model of the brand over rows of the media, and the audience with the best of them.

    score     brand                                             media
                W = round(s w)       -- Key, Enc(W_1..d) ---->    X = round(2^6 clip(x, -8, 8)), (n, d)
                                     <-- Enc(X W + e) --------    e uniform over an interval of T/levels, fresh per row
                scores (X W + e) / (2^6 s)                        (e = 0 where the contract grants exact scores)

    expand    brand                                             media
                                     <-- Pool(n) -------------    the people in the pool, in a fresh secret order
                scores, as above     <-- score -------------->
                the best of each
                size, nested         -- Tiers --------------->    takes the order back: the people of each size
                                                                  draws those of them who are to be left alone

The product works modulo T. The blur hides all but one part in `levels` of the whole modulus, so larger weights buy a
brand nothing but wrapping: what the media gives away does not depend on them. An honest brand makes s as large as the
window of its scores allows. Without one the window is what no score can leave, +-8 sum |w_j|, many times wider than
scores spread; the exact scores of held-out rows give a good one (`window_of`). A blurred score outside the window
wraps to its other end, at its own row's cost alone.

How large audiences are is the contract's: so many percent of the pool, so many people, or everybody whose chance to be
a good customer, as the brand reads it off the score, reaches a threshold; in that case the size is the brand's answer.
How many people of each audience are left alone follows from its size, so both sides know it; who they are is drawn
within each ring between one audience and the next, so that one draw is a fair one for every audience.

Learns: brand the blurred (or exact) scores, in expand those of all the pool in an order it cannot undo, and the
pool's size; media who is in each audience, nothing of the scores.
Assumes: semi-honest (products.py); that the encrypted weights are the agreed model is the brand's word.
Limits: an exact score is one linear equation on its row; blurred ones of the same people average out. How often a row
is scored, across models, is for the media to count. Audiences under the floor are refused by both sides before
anything is encrypted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..channel import MIB, Channel, ConfigError, Message, PeerError, PolicyError
from ..primitives.fixed_point import (
    FEATURE_BITS,
    FEATURE_LIMIT,
    FloatArray,
    IntArray,
    T,
    centred,
    modulo,
    quantise,
)
from ..primitives.randomness import Randomness
from .products import open_brand, open_media, rows_brand, rows_media

_UNIT = 2.0**FEATURE_BITS
_TIERS = MIB
_MOST_AUDIENCES = 100

Columns: TypeAlias = NDArray[np.float64] | NDArray[np.int16]


@dataclass(frozen=True)
class Pool(Message):
    """How many people the media's pool holds."""

    rows: int


@dataclass(frozen=True)
class Tiers(Message):
    """One byte for each position of the shuffled order: the number of the smallest audience it is in, 0 for none.

    The audiences are numbered from 1 by size, and each holds the ones before it. Of at most 2^20 positions in order.
    """

    MAX_BYTES: ClassVar[int] = _TIERS + 64
    tiers: bytes


@dataclass(frozen=True)
class Sizes:
    """How large the audiences are and how much of each is left alone, as both sides know it from the contract.

    by: "sizes" (values are percents of the pool), "people", or "threshold_milli" (thousandths of a chance; what reaches
    it is the brand's to say). values rise. control_percent: 0 to 50.
    """

    by: str
    values: tuple[int, ...]
    control_percent: int = 0

    def people(self, pool: int) -> tuple[int, ...] | None:
        """How many of `pool` people each audience has, the smallest first; percents are rounded up. None: unknown yet.

        Raises ConfigError for values that are none.
        """
        most = {"sizes": 100, "people": 10**9, "threshold_milli": 999}.get(self.by, 0)
        rising = all(a < b for a, b in itertools.pairwise(self.values))
        if not self.values or len(self.values) > _MOST_AUDIENCES or not rising or self.values[0] < 1:
            raise ConfigError("the sizes of expand are rising whole numbers from 1", "for example sizes = [5, 10, 20]")
        if self.values[-1] > most or not 0 <= self.control_percent <= 50:
            raise ConfigError(f"the sizes of expand are {self.by} up to {most}, and at most half is left alone")
        if self.by == "sizes":
            return tuple(-(-percent * pool // 100) for percent in self.values)
        return self.values if self.by == "people" else None

    def control(self, people: int) -> int:
        """How many of an audience's people are left alone: its percents, rounded to the nearest."""
        return (people * self.control_percent + 50) // 100

    def verify(self, people: Sequence[int], pool: int, floor: int) -> None:
        """Raises PolicyError where an audience, or what is left alone of it or the rest, is under the floor."""
        if pool < floor:
            text = f"the media has {pool} other people, fewer than the floor of {floor}"
            raise PolicyError(text, self._least(pool, floor))
        if people and people[-1] > pool:
            text = f"an audience of {people[-1]} people was asked for, the media has {pool} other people"
            raise PolicyError(text, "ask for fewer")
        for count in people:
            if count < floor:
                text = f"an audience has {count} of {pool} other people, fewer than the floor of {floor}"
                raise PolicyError(text, self._least(pool, floor))
            control = self.control(count)
            if self.control_percent and min(control, count - control) < floor:
                text = (
                    f"of an audience of {count} people {control} would be left alone, fewer than the floor of {floor}"
                )
                raise PolicyError(text, self._least(pool, -(-100 * floor // self.control_percent)))

    def _least(self, pool: int, people: int) -> str:
        """What to try where audiences need so many people at least."""
        if people > pool:
            return "expand needs a media data set with more people whom the brand does not know"
        if self.by == "threshold_milli":
            return "lower the threshold"
        if self.by == "sizes":
            return f"the smallest possible size is {100 * (people - 1) // pool + 1} %"
        return f"the smallest possible audience has {people} people"


@dataclass(frozen=True)
class Expanded:
    """What the brand holds after `expand`: the scores in the media's shuffled order, and for each audience, the
    smallest first, its number of people, how many of them are left alone, and the lowest score in it."""

    scores: FloatArray
    people: tuple[int, ...]
    control: tuple[int, ...]
    cuts: tuple[float, ...]


@dataclass(frozen=True)
class Chosen:
    """What the media holds: for each row of its pool the number of the smallest audience it is in, from 1, or 0 for
    none; and whether that person is left alone. people: of each audience, those left alone included."""

    tiers: NDArray[np.uint8]
    control: NDArray[np.bool_]
    people: tuple[int, ...]


def window_of(scores: FloatArray) -> tuple[float, float]:
    """A window for scores of more people like these: what these span, and a quarter of it on either side."""
    low, high = float(scores.min()), float(scores.max())
    return low - (high - low) / 4, high + (high - low) / 4


@dataclass(frozen=True)
class Scaled:
    """Weights as the integers that enter the product, and how what it opens to is read."""

    integers: IntArray
    scale: float
    middle: int

    @classmethod
    def of(cls, weights: FloatArray, levels: int | None, window: tuple[float, float] | None) -> Scaled:
        """Raises ValueError for weights that are not finite and a window where no score can be."""
        if not np.isfinite(weights).all():
            raise ValueError("weights must be finite numbers")
        furthest = FEATURE_LIMIT * float(np.abs(weights).sum())
        low, high = (-furthest, furthest) if levels is None or window is None else _inside(window, furthest)
        # A window narrower than a 4096th of the possible would make weights that do not fit into 64 bits.
        width = max(high - low, furthest / 2048) or 1.0
        # Rounding a weight moves a score by at most half of 2^9, the largest |X|.
        room = T - 2 * _blur(levels) - 2 * len(weights) * int(FEATURE_LIMIT * _UNIT)
        scale = room / (_UNIT * width)
        middle = round(scale * _UNIT * (low + high) / 2)
        return cls(np.rint(scale * weights).astype(np.int64), scale, middle)

    def scores(self, opened: IntArray) -> FloatArray:
        """The scores behind X W + e modulo T, in the window."""
        return (self.middle + centred(modulo(opened - self.middle % T))) / (_UNIT * self.scale)


async def brand_scores(
    channel: Channel,
    weights: FloatArray,
    rows: int,
    *,
    levels: int | None,
    window: tuple[float, float] | None = None,
    randomness: Randomness,
) -> FloatArray:
    """Scores x . weights of the media's `rows` rows: (rows,), exact for levels None, else blurred.

    A blurred score is off by at most half a level, (high - low) / (levels - 1) / 2, where the window holds it.
    """
    scaled = Scaled.of(weights, levels, window)
    key = await open_brand(channel, randomness)
    return scaled.scores(await rows_brand(channel, key, scaled.integers, rows))


async def media_scores(channel: Channel, x: Columns, *, levels: int | None, randomness: Randomness) -> None:
    """Answers one `brand_scores` over x (n, d): numbers, or what `rounded` makes of them."""
    integers = x.astype(np.int16, copy=False) if x.dtype.kind == "i" else rounded(x)
    public = await open_media(channel)
    await rows_media(
        channel, public, integers, randomness=randomness, added=blurring(levels, len(integers), randomness)
    )


def rounded(x: Columns) -> NDArray[np.int16]:
    """round(2^6 clip(x, -8, 8)): columns as they enter the product."""
    return quantise(x).astype(np.int16)


async def brand_expand(
    channel: Channel,
    weights: FloatArray,
    *,
    sizes: Sizes,
    floor: int,
    levels: int,
    max_rows: int,
    rates: Callable[[FloatArray], FloatArray] | None = None,
    window: tuple[float, float] | None = None,
    randomness: Randomness,
) -> Expanded:
    """Scores the media's pool and answers who is best. Of equal scores the earlier in the shuffled order goes first.

    rates: the chance behind each score, rising with it; needed for thresholds.
    """
    pool = (await channel.recv(Pool)).rows
    if pool > max_rows:
        raise PeerError(f"the media's pool has {pool} people, its data set at most {max_rows}")
    people = sizes.people(pool)
    sizes.verify(people or (), pool, floor)
    scores = await brand_scores(channel, weights, pool, levels=levels, window=window, randomness=randomness)
    if people is None:
        if rates is None:
            raise ValueError("a threshold needs the chance behind each score")
        reached = rates(scores)
        # The highest threshold makes the smallest audience.
        people = tuple(int((reached >= milli / 1000).sum()) for milli in reversed(sizes.values))
        if people[0] < floor:
            # How many they are is not the media's to know.
            raise PolicyError(f"fewer than {floor} of the media's other people reach the threshold", "lower it")
        sizes.verify(people, pool, floor)
    order = np.argsort(-scores, kind="stable")
    tiers = np.zeros(pool, np.uint8)
    for tier, count in reversed(list(enumerate(people, 1))):
        tiers[order[:count]] = tier
    for at in range(0, pool, _TIERS):
        await channel.send(Tiers(tiers[at : at + _TIERS].tobytes()))
    cuts = tuple(float(scores[order[count - 1]]) for count in people)
    return Expanded(scores, people, tuple(sizes.control(count) for count in people), cuts)


async def media_expand(
    channel: Channel, x: Columns, *, sizes: Sizes, floor: int, levels: int, randomness: Randomness
) -> Chosen:
    """Who of the rows of x (n, d) is in each audience, and who of them is left alone.

    Raises PeerError unless the brand's answer has exactly the people each audience takes.
    """
    await channel.send(Pool(len(x)))
    people = sizes.people(len(x))
    sizes.verify(people or (), len(x), floor)
    order = randomness.permutation(len(x))
    await media_scores(channel, x[order], levels=levels, randomness=randomness)
    received = []
    for at in range(0, len(x), _TIERS):
        part = (await channel.recv(Tiers)).tiers
        if len(part) != min(_TIERS, len(x) - at):
            raise PeerError(f"the brand answered for {len(part)} people where {min(_TIERS, len(x) - at)} were expected")
        received.append(np.frombuffer(part, np.uint8))
    answered = np.concatenate(received)
    found = tuple(np.cumsum(np.bincount(answered, minlength=len(sizes.values) + 1)[1:]).tolist())
    if len(found) != len(sizes.values) or (people is not None and found != people):
        raise PeerError("the brand's audiences do not have the sizes that the contract names")
    sizes.verify(found, len(x), floor)
    tiers = np.zeros(len(x), np.uint8)
    tiers[order] = answered
    return Chosen(tiers, _left_alone(tiers, found, sizes, randomness), found)


def _left_alone(
    tiers: NDArray[np.uint8], people: Sequence[int], sizes: Sizes, randomness: Randomness
) -> NDArray[np.bool_]:
    """Draws who is left alone: of the people that each audience has more than the one before, its share of them."""
    control = np.zeros(len(tiers), np.bool_)
    before = 0
    for tier, count in enumerate(people, 1):
        ring = np.flatnonzero(tiers == tier)
        drawn = randomness.permutation(len(ring))[: sizes.control(count) - before]
        control[ring[drawn]] = True
        before = sizes.control(count)
    return control


def _inside(window: tuple[float, float], furthest: float) -> tuple[float, float]:
    low, high = max(window[0], -furthest), min(window[1], furthest)
    if not low <= high:
        raise ValueError("the window lies where no score can be")
    return low, high


def _blur(levels: int | None) -> int:
    """The most that the blur adds to a score, either way."""
    if levels is None:
        return 0
    if levels < 2:
        raise ValueError(f"scores have at least 2 levels, not {levels}")
    # Rounded up: the width 2 * blur + 1 is then never under T / levels.
    return -(-T // (2 * levels))


def blurring(levels: int | None, n: int, randomness: Randomness) -> IntArray | None:
    """What is added to each row's value: uniform over a part in `levels` of the modulus; None for exact scores."""
    if levels is None:
        return None
    blur = _blur(levels)
    return randomness.integers(2 * blur + 1, n).astype(np.int64) - blur
