"""Scores by a linear model of the brand over rows of the media, and the audience with the best of them.

    score     brand                                             media
                W = round(s w)       -- Key, Enc(W_1..d) ---->    X = round(2^6 clip(x, -8, 8)), (n, d)
                                     <-- Enc(X W + e) --------    e uniform over an interval of T/levels, fresh per row
                scores (X W + e) / (2^6 s)                        (e = 0 where the contract grants exact scores)

    expand    brand                                             media
                                     <-- Pool(n) -------------    the people in the pool, in a fresh secret order
                scores, as above     <-- score -------------->
                best ceil(p n / 100)
                for each size p      -- Tiers --------------->    takes the order back: the people of each size

The product works modulo T. The blur hides all but one part in `levels` of the whole modulus, so larger weights buy a
brand nothing but wrapping: what the media gives away does not depend on them. An honest brand makes s as large as the
window of its scores allows. Without one the window is what no score can leave, +-8 sum |w_j|, many times wider than
scores spread; the exact scores of held-out rows give a good one (`window_of`). A blurred score outside the window
wraps to its other end, at its own row's cost alone.

Learns: brand the blurred (or exact) scores, in expand those of all the pool in an order it cannot undo, and the
pool's size; media who is in each audience, nothing of the scores.
Assumes: semi-honest (products.py); that the encrypted weights are the agreed model is the brand's word.
Limits: an exact score is one linear equation on its row; blurred ones of the same people average out. How often a row
is scored, across models, is for the media to count. Audiences under the floor are refused by both sides before
anything is encrypted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

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
class Expanded:
    """What the brand holds after `expand`: the scores in the media's shuffled order, and for each size in percent its
    number of people and the lowest score in it."""

    scores: FloatArray
    people: dict[int, int]
    cuts: dict[int, float]


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


async def media_scores(channel: Channel, x: FloatArray, *, levels: int | None, randomness: Randomness) -> None:
    """Answers one `brand_scores` over x (n, d), which is clipped to +-8 and rounded to 1/64."""
    public = await open_media(channel)
    await rows_media(
        channel, public, quantise(x).astype(np.int16), randomness=randomness, added=blurring(levels, len(x), randomness)
    )


def people_per_size(percents: Sequence[int], pool: int, floor: int) -> dict[int, int]:
    """How many of `pool` people each size in percent takes, rounded up, in growing order.

    Raises PolicyError where a size takes fewer than `floor`, ConfigError for sizes that are none.
    """
    if not percents or len(set(percents)) != len(percents) or not all(1 <= percent <= 100 for percent in percents):
        raise ConfigError("the sizes of expand are different whole percents from 1 to 100", "for example [5, 10, 20]")
    people = {percent: -(-percent * pool // 100) for percent in sorted(percents)}
    if pool < floor:
        text = f"the media has {pool} other people, fewer than the floor of {floor}"
        raise PolicyError(text, "expand needs a media data set with more people whom the brand does not know")
    for percent, count in people.items():
        if count < floor:
            smallest = 100 * (floor - 1) // pool + 1
            text = f"{percent} % of {pool} other people are {count}, fewer than the floor of {floor}"
            raise PolicyError(text, f"the smallest possible size is {smallest} %")
    return people


async def brand_expand(
    channel: Channel,
    weights: FloatArray,
    *,
    percents: Sequence[int],
    floor: int,
    levels: int,
    max_rows: int,
    window: tuple[float, float] | None = None,
    randomness: Randomness,
) -> Expanded:
    """Scores the media's pool and answers who is best. Of equal scores the earlier in the shuffled order goes first."""
    pool = (await channel.recv(Pool)).rows
    if pool > max_rows:
        raise PeerError(f"the media's pool has {pool} people, its data set at most {max_rows}")
    people = people_per_size(percents, pool, floor)
    scores = await brand_scores(channel, weights, pool, levels=levels, window=window, randomness=randomness)
    order = np.argsort(-scores, kind="stable")
    tiers = np.zeros(pool, np.uint8)
    for tier, count in reversed(list(enumerate(people.values(), 1))):
        tiers[order[:count]] = tier
    for at in range(0, pool, _TIERS):
        await channel.send(Tiers(tiers[at : at + _TIERS].tobytes()))
    cuts = {percent: float(scores[order[count - 1]]) for percent, count in people.items()}
    return Expanded(scores, people, cuts)


async def media_expand(
    channel: Channel,
    x: FloatArray,
    *,
    percents: Sequence[int],
    floor: int,
    levels: int,
    randomness: Randomness,
) -> dict[int, IntArray]:
    """The rows of x (n, d) in each audience, by its size in percent, in growing order.

    Raises PeerError unless the brand's answer has exactly the people each size takes.
    """
    await channel.send(Pool(len(x)))
    people = people_per_size(percents, len(x), floor)
    order = randomness.permutation(len(x))
    await media_scores(channel, x[order], levels=levels, randomness=randomness)
    received = []
    for at in range(0, len(x), _TIERS):
        part = (await channel.recv(Tiers)).tiers
        if len(part) != min(_TIERS, len(x) - at):
            raise PeerError(f"the brand answered for {len(part)} people where {min(_TIERS, len(x) - at)} were expected")
        received.append(np.frombuffer(part, np.uint8))
    tiers = np.concatenate(received)
    found = np.cumsum(np.bincount(tiers, minlength=len(people) + 1)[1:])
    if len(found) != len(people) or found.tolist() != list(people.values()):
        raise PeerError("the brand's audiences do not have the sizes that the contract names")
    return {percent: np.sort(order[(tiers > 0) & (tiers <= tier)]) for tier, percent in enumerate(people, 1)}


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
