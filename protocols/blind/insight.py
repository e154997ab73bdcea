"""Who the good customers are: people and positives in each bin of the media's features.

    brand                                                media
      y in {0, 1} of the n aligned rows                    codes (n, features): the bin of each row
                          <-- Features, Feature ... ---    names, labels, people in each bin + noise
      checks the names against the grant
                          --- Key, Enc(y) ------------>    one-hot matrix B, a column for each bin
                          <-- Enc(B'y + noise) --------    the columns product (products.py), a few bins in one sum
      joins bins with too few positives

A sum modulo T has room for 44 bits and a count needs 14 to 20, so the bins b = 0, 1, ... that fit share a column:
sum_b R^b B_b, whose product with y has the counts as its digits.

The floor is kept twice. The media's bins have at least `floor` people each, checked here, and all rows are in one:
bins are merged before, never left out, for a gap in a complete list can be told by subtraction. The brand's worker
then joins bins until each has `floor` positives and `floor` negatives, neighbours where bins have an order, the two
smallest where not; a feature that ends in one bin is withheld. Noise goes onto every count that leaves the media.

Learns: brand for each granted feature the labels of its bins and the two noised counts; media nothing (it sees
ciphertexts and sizes). Assumes: semi-honest (products.py); that the encrypted vector is the label is the brand's word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from ..channel import Channel, Message, PeerError, PolicyError
from ..primitives.fixed_point import IntArray
from ..primitives.randomness import Randomness
from .products import columns_brand, columns_media, open_brand, open_media

MAX_BINS = 64
MAX_LABEL = 500
_FAR = 2**40
_SUM_BITS = 44


@dataclass(frozen=True)
class Features(Message):
    """How many rows are counted, over how many features."""

    rows: int
    features: int


@dataclass(frozen=True)
class Feature(Message):
    """One feature's bins: their labels in UTF-8, and the noised number of people in each as int64."""

    MAX_BYTES: ClassVar[int] = 2**18
    name: str
    ordered: int
    labels: tuple[bytes, ...]
    people: bytes


class Bins(Protocol):
    """What the media's bins of one column are called, and whether they have an order."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def ordered(self) -> bool: ...


@dataclass(frozen=True)
class Bin:
    """Noised counts of one bin; index is 100 where it has as many positives among its people as everybody."""

    label: str
    people: int
    positives: int
    index: float


@dataclass(frozen=True)
class Insight:
    """The base rate, each feature's bins, and the features withheld since they end in one bin."""

    base_rate: float
    features: dict[str, tuple[Bin, ...]]
    withheld: tuple[str, ...]


async def brand(
    channel: Channel, y: IntArray, *, granted: Sequence[str], floor: int, noise_sd: int, randomness: Randomness
) -> Insight:
    """Insight into the media's features named in `granted`, for labels y (n,) of 0 and 1 over the shared rows.

    noise_sd is the standard deviation of the media's noise by contract.
    """
    if not np.isin(y, (0, 1)).all() or len(y) == 0:
        raise ValueError("labels are 0 or 1, one for each row")
    head = await channel.recv(Features)
    if head.rows != len(y):
        raise PeerError(f"the media counts over {head.rows} rows, {len(y)} are matched")
    if head.features > len(granted):
        raise PeerError(f"the media offers {head.features} features, the contract grants {len(granted)}")
    features = [_checked(await channel.recv(Feature)) for _ in range(head.features)]
    names = [name for name, _, _, _ in features]
    if len(set(names)) != len(names) or not set(names) <= set(granted):
        raise PeerError("the media sent a feature twice, or one that the contract does not name")
    withheld = [name for name in granted if name not in names]
    shown: dict[str, tuple[Bin, ...]] = {}
    base_rate = float(y.mean())
    if features:
        key = await open_brand(channel, randomness)
        bits, count = _digit_bits(len(y), noise_sd), sum(len(labels) for _, _, labels, _ in features)
        sums = await columns_brand(channel, key, y, -(-count // (_SUM_BITS // bits)))
        counted = _digits(sums, bits)[:count]
        at = 0
        for name, ordered, labels, people in features:
            positives = counted[at : at + len(labels)]
            at += len(labels)
            bins = _joined(ordered, labels, people, positives, floor)
            if len(bins) < 2 or base_rate == 0:
                withheld.append(name)
            else:
                shown[name] = tuple(
                    Bin(label, n, good, round(100 * good / n / base_rate, 1)) for label, n, good in bins
                )
    return Insight(base_rate, shown, tuple(withheld))


async def media(
    channel: Channel,
    codes: IntArray,
    bins: Sequence[Bins],
    *,
    floor: int,
    noise: Callable[[int], IntArray],
    noise_sd: int,
    randomness: Randomness,
) -> None:
    """Answers one `brand`. codes (n, len(bins)) are the numbers of the bins; noise(k) draws k integers.

    noise_sd is their standard deviation; a draw of more than 64 of them never comes, and would be a ValueError.
    Raises PolicyError, before anything is sent, where a bin has fewer than `floor` people.
    """
    if codes.shape[1:] != (len(bins),):
        raise ValueError(f"codes of shape {codes.shape} do not fit {len(bins)} features")
    counts = [np.bincount(codes[:, j], minlength=len(feature.labels)) for j, feature in enumerate(bins)]
    for feature, people in zip(bins, counts, strict=True):
        if len(people) != len(feature.labels) or not 2 <= len(people) <= MAX_BINS:
            raise ValueError(
                f"the feature {feature.name!r} has rows in {len(people)} bins and {len(feature.labels)} labels"
            )
        if people.min() < floor:
            raise PolicyError(
                f"a bin of {feature.name!r} has fewer than {floor} people", "merge it before it is counted"
            )
    await channel.send(Features(len(codes), len(bins)))
    for feature, people in zip(bins, counts, strict=True):
        noised = (people + noise(len(people))).astype("<i8").tobytes()
        labels = tuple(label.encode() for label in feature.labels)
        await channel.send(Feature(feature.name, int(feature.ordered), labels, noised))
    if bins:
        public = await open_media(channel)
        bits = _digit_bits(len(codes), noise_sd)
        drawn = np.concatenate([noise(len(people)) for people in counts])
        if bool((np.abs(drawn) > _most_noise(noise_sd)).any()):
            raise ValueError(f"count noise of standard deviation {noise_sd} was declared, far more was drawn")
        await columns_media(
            channel, public, _packed(codes, counts, bits), randomness=randomness, added=_undigits(drawn, bits)
        )


def _most_noise(noise_sd: int) -> int:
    return 64 * noise_sd


def _digit_bits(rows: int, noise_sd: int) -> int:
    """Bits of a digit that holds any count over `rows` with its noise, either sign."""
    bits = (2 * (rows + _most_noise(noise_sd))).bit_length()
    if bits > _SUM_BITS:
        raise PolicyError(f"count noise of {noise_sd} leaves no room for counts", "agree on less")
    return bits


def _packed(codes: IntArray, counts: Sequence[IntArray], bits: int) -> IntArray:
    """(n, sums) matrix of the one-hot columns of all features, as many in one as there are digits in a sum."""
    digits = _SUM_BITS // bits
    firsts = np.cumsum([0, *map(len, counts)])
    matrix = np.zeros((len(codes), -(-int(firsts[-1]) // digits)), np.int64, order="F")
    everybody = np.arange(len(codes))
    for j, first in enumerate(firsts[:-1]):
        bin_ = first + codes[:, j]
        matrix[everybody, bin_ // digits] += np.int64(1) << (bits * (bin_ % digits))
    return matrix


def _undigits(values: IntArray, bits: int) -> IntArray:
    """Each sum of a few values, every one `bits` above the one before it."""
    digits = _SUM_BITS // bits
    padded = np.zeros(-(-len(values) // digits) * digits, np.int64)
    padded[: len(values)] = values
    sums: IntArray = (padded.reshape(-1, digits) * (np.int64(1) << bits * np.arange(digits))).sum(axis=1)
    return sums


def _digits(sums: IntArray, bits: int) -> IntArray:
    """The values in each sum: digits from -2^(bits-1) up to below 2^(bits-1), lowest first."""
    half, found, rest = np.int64(1) << (bits - 1), [], sums
    for _ in range(_SUM_BITS // bits):
        digit = (rest + half) % (2 * half) - half
        found.append(digit)
        rest = (rest - digit) // (2 * half)
    return np.stack(found, axis=1).reshape(-1)


def _checked(feature: Feature) -> tuple[str, bool, list[str], IntArray]:
    """Name, order, labels and people of a feature. Raises PeerError for what no honest media sends."""
    try:
        labels = [label.decode() for label in feature.labels]
    except UnicodeDecodeError:
        raise PeerError("the media sent a label that is not UTF-8") from None
    if not 2 <= len(labels) <= MAX_BINS or len(feature.people) != 8 * len(labels) or feature.ordered > 1:
        raise PeerError("the media sent a feature whose bins and counts do not fit together")
    # Labels end on a person's screen, so nothing that steers one.
    if any(len(label) > MAX_LABEL or not label.isprintable() for label in labels) or len(set(labels)) != len(labels):
        raise PeerError("the media sent a label twice, or one that is not printable text")
    people = np.frombuffer(feature.people, "<i8").astype(np.int64)
    if bool((np.abs(people) > _FAR).any()):
        raise PeerError("the media sent a number of people that cannot be one")
    return feature.name, bool(feature.ordered), labels, people


def _joined(
    ordered: bool, labels: list[str], people: IntArray, positives: IntArray, floor: int
) -> list[tuple[str, int, int]]:
    """The bins as (label, people, positives), joined until each has `floor` positives and negatives."""
    bins = [([label], int(n), int(good)) for label, n, good in zip(labels, people, positives, strict=True)]

    def support(i: int) -> int:
        _, n, good = bins[i]
        return min(good, n - good)

    while len(bins) > 1:
        smallest = min(range(len(bins)), key=support)
        if support(smallest) >= floor:
            break
        near = [smallest - 1, smallest + 1] if ordered else range(len(bins))
        other = min((i for i in near if 0 <= i < len(bins) and i != smallest), key=support)
        first, second = sorted((smallest, other))
        names, n, good = bins.pop(second)
        bins[first] = (bins[first][0] + names, bins[first][1] + n, bins[first][2] + good)
    return [(_label(names, ordered), n, good) for names, n, good in bins]


def _label(names: list[str], ordered: bool) -> str:
    return f"{names[0]} ... {names[-1]}" if ordered and len(names) > 2 else ", ".join(names)
