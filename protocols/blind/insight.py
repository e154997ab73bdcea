"""Who the good customers are: people and positives in each bin of the media's features.

    brand                                                media
      y in {0, 1} of the n aligned rows                    codes (n, features): the bin of each row
                          <-- Features, Feature ... ---    names, labels, people in each bin + noise
      checks the names against the grant
                          --- Key, Enc(y) ------------>    one-hot matrix B, a column for each bin
                          <-- Enc(B'y + noise) --------    the columns product (products.py), a few bins in one sum
      joins bins with too few positives

A sum modulo T has room for 44 bits and a count needs 14 to 20, so the bins b = 0, 1, ... that fit share a column:
sum_b R^b B_b, whose product with y has the counts as its digits. These columns are made block by block from the codes,
a byte a row and feature.

Under hidden alignment the rows are all n of the media's, in its secret order. The brand encrypts two vectors, 1 where
a row is matched and 1 where it is matched and positive, zeros elsewhere, and both go through the same product. So it
gets three counts a bin: people, matched ones, positives, each with noise. What the media sees depends on n and on its
own table alone.

The floor is kept twice. The media's bins have at least `floor` people each, checked here, and all rows are in one:
bins are merged before, never left out, for a gap in a complete list can be told by subtraction. The brand's worker
then joins bins until each has `floor` positives and `floor` matched others, neighbours where bins have an order, the
two smallest where not; a feature that ends in one bin is withheld. Under hidden alignment that second floor is the
only one on what is matched, and the brand keeps it alone. Noise goes onto every count that leaves the media.

What the counts say (index, weight of evidence, information value) is evidence.py.

Learns: brand for each granted feature the labels of its bins and the two or three noised counts; media nothing (it
sees ciphertexts and sizes). Assumes: semi-honest (products.py); that the encrypted vectors are what they should be is
the brand's word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..channel import Channel, Message, PeerError, PolicyError
from ..primitives.fixed_point import IntArray
from ..primitives.randomness import Randomness
from . import evidence
from .evidence import Group, Totals
from .products import columns_brand, columns_media, open_brand, open_media

MAX_BINS = 64
MAX_LABEL = 500
_FAR = 2**40
_SUM_BITS = 44
_SUMS_AT_ONCE = 512
"""Sums that are held at once: of more the vectors are sent again, 20 bytes a row, rather than 400 kB a sum held."""


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
    """Noised counts of one bin, `people` of the media and of them `matched` (the same where all rows are), with what
    they say of how often the matched ones are positive. parts: how many of the media's bins were joined into it."""

    label: str
    people: int
    matched: int
    positives: int
    parts: int
    evidence: evidence.Evidence


@dataclass(frozen=True)
class Profile:
    """One feature: its bins and what they say together."""

    bins: tuple[Bin, ...]
    value: evidence.Value


@dataclass(frozen=True)
class Insight:
    """How many are matched and positive, each feature's profile, and what is withheld since it ends in one bin."""

    matched: int
    positives: int
    features: dict[str, Profile]
    withheld: tuple[str, ...]

    @property
    def base_rate(self) -> float:
        return self.positives / self.matched if self.matched else 0.0


async def brand(
    channel: Channel,
    y: IntArray,
    *,
    granted: Sequence[str],
    floor: int,
    noise_sd: int,
    randomness: Randomness,
    present: NDArray[np.bool_] | None = None,
) -> Insight:
    """Insight into the media's features named in `granted`, for labels y (n,) of 0 and 1 over the shared rows.

    present (n,): under hidden alignment, where the rows are all of the media's, which of them are matched; y counts
    there alone. noise_sd is the standard deviation of the media's noise by contract.
    """
    if not np.isin(y, (0, 1)).all() or len(y) == 0 or (present is not None and present.shape != y.shape):
        raise ValueError("labels are 0 or 1, one for each row")
    head = await channel.recv(Features)
    if head.rows != len(y):
        raise PeerError(f"the media counts over {head.rows} rows, the brand over {len(y)}")
    if head.features > len(granted):
        raise PeerError(f"the media offers {head.features} features, the contract grants {len(granted)}")
    features = [_checked(await channel.recv(Feature)) for _ in range(head.features)]
    names = [name for name, _, _, _ in features]
    if len(set(names)) != len(names) or not set(names) <= set(granted):
        raise PeerError("the media sent a feature twice, or one that the contract does not name")
    vectors = y[:, None] if present is None else np.stack([present.astype(np.int64), y * present], axis=1)
    totals = Totals(len(y) if present is None else int(present.sum()), int(vectors[:, -1].sum()))
    withheld = [name for name in granted if name not in names]
    shown: dict[str, Profile] = {}
    if features:
        count = sum(len(labels) for _, _, labels, _ in features)
        counted = await _counts(channel, vectors, count, _digit_bits(len(y), noise_sd), randomness)
        at = 0
        for name, ordered, labels, people in features:
            part = counted[at : at + len(labels)]
            at += len(labels)
            bins = _joined(ordered, labels, people, people if present is None else part[:, 0], part[:, -1], floor)
            if len(bins) < 2 or not 0 < totals.positives < totals.people:
                withheld.append(name)
            else:
                shown[name] = _profile(bins, ordered, totals, noise_sd)
    return Insight(totals.people, totals.positives, shown, tuple(withheld))


async def media(
    channel: Channel,
    codes: NDArray[Any],
    bins: Sequence[Bins],
    *,
    floor: int,
    noise: Callable[[int], IntArray],
    noise_sd: int,
    randomness: Randomness,
    hidden: bool = False,
) -> None:
    """Answers one `brand`. codes (n, len(bins)) are the numbers of the bins; noise(k) draws k integers.

    hidden: the brand's second vector says which rows are matched. noise_sd is the noise's standard deviation; a draw
    of more than 64 of them never comes, and would be a ValueError. Raises PolicyError, before anything is sent, where a
    bin has fewer than `floor` people.
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
        bits, vectors = _digit_bits(len(codes), noise_sd), 2 if hidden else 1
        places = [(j, b) for j, people in enumerate(counts) for b in range(len(people))]
        drawn = noise(len(places) * vectors).reshape(-1, vectors)
        if bool((np.abs(drawn) > _most_noise(noise_sd)).any()):
            raise ValueError(f"count noise of standard deviation {noise_sd} was declared, far more was drawn")
        for part in _passes(len(places), bits):
            await columns_media(
                channel,
                public,
                _Packed(codes, places[part], bits),
                randomness=randomness,
                added=_undigits(drawn[part], bits),
                vectors=vectors,
            )


async def _counts(channel: Channel, vectors: IntArray, count: int, bits: int, randomness: Randomness) -> IntArray:
    """(count, k) counts of each bin for the k columns of `vectors`."""
    key, found = await open_brand(channel, randomness), []
    for part in _passes(count, bits):
        here = part.stop - part.start
        sums = await columns_brand(channel, key, vectors, -(-here // (_SUM_BITS // bits)))
        found.append(_digits(sums, bits)[:here])
    return np.concatenate(found)


def _passes(count: int, bits: int) -> Iterator[slice]:
    """Which bins are counted together: at most 512 sums' worth."""
    step = _SUMS_AT_ONCE * (_SUM_BITS // bits)
    for at in range(0, count, step):
        yield slice(at, min(at + step, count))


def _most_noise(noise_sd: int) -> int:
    return 64 * noise_sd


def _digit_bits(rows: int, noise_sd: int) -> int:
    """Bits of a digit that holds any count over `rows` with its noise, either sign."""
    bits = (2 * (rows + _most_noise(noise_sd))).bit_length()
    if bits > _SUM_BITS:
        raise PolicyError(f"count noise of {noise_sd} leaves no room for counts", "agree on less")
    return bits


class _Packed:
    """The one-hot columns of (feature, bin) places, as many in one as there are digits in a sum, made on demand."""

    def __init__(self, codes: NDArray[Any], places: list[tuple[int, int]], bits: int) -> None:
        self._codes, self._bits = codes, bits
        digits = _SUM_BITS // bits
        self._columns = [places[at : at + digits] for at in range(0, len(places), digits)]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self._codes), len(self._columns)

    def __getitem__(self, where: tuple[slice, int], /) -> IntArray:
        rows, column = where
        packed = np.zeros(rows.stop - rows.start, np.int64)
        for digit, (feature, bin_) in enumerate(self._columns[column]):
            packed |= (self._codes[rows, feature] == bin_).astype(np.int64) << (self._bits * digit)
        return packed


def _undigits(values: IntArray, bits: int) -> IntArray:
    """Sums of a few rows of values (count, k) each, every row `bits` above the one before it: (sums, k)."""
    digits = _SUM_BITS // bits
    padded = np.zeros((-(-len(values) // digits) * digits, values.shape[1]), np.int64)
    padded[: len(values)] = values
    weights = np.int64(1) << bits * np.arange(digits)
    sums: IntArray = (padded.reshape(-1, digits, values.shape[1]) * weights[:, None]).sum(axis=1)
    return sums


def _digits(sums: IntArray, bits: int) -> IntArray:
    """The values in each sum (sums, k): digits from -2^(bits-1) up to below 2^(bits-1), lowest first: (count, k)."""
    half, found, rest = np.int64(1) << (bits - 1), [], sums
    for _ in range(_SUM_BITS // bits):
        digit = (rest + half) % (2 * half) - half
        found.append(digit)
        rest = (rest - digit) // (2 * half)
    return np.stack(found, axis=1).reshape(-1, sums.shape[1])


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


@dataclass(frozen=True)
class _Counted:
    """Some of the media's bins together: their labels and counts."""

    labels: tuple[str, ...]
    people: int
    matched: int
    positives: int

    @property
    def support(self) -> int:
        """How many there are of the rarer kind."""
        return min(self.positives, self.matched - self.positives)

    def with_(self, other: _Counted) -> _Counted:
        return _Counted(
            self.labels + other.labels,
            self.people + other.people,
            self.matched + other.matched,
            self.positives + other.positives,
        )


def _joined(
    ordered: bool, labels: list[str], people: IntArray, matched: IntArray, positives: IntArray, floor: int
) -> list[_Counted]:
    """The bins, joined until each has `floor` positives and `floor` matched others."""
    each = zip(labels, people.tolist(), matched.tolist(), positives.tolist(), strict=True)
    bins = [_Counted((label,), n, m, good) for label, n, m, good in each]
    while len(bins) > 1:
        smallest = min(range(len(bins)), key=lambda i: bins[i].support)
        if bins[smallest].support >= floor:
            break
        near = [smallest - 1, smallest + 1] if ordered else range(len(bins))
        other = min((i for i in near if 0 <= i < len(bins) and i != smallest), key=lambda i: bins[i].support)
        first, second = sorted((smallest, other))
        bins[first] = bins[first].with_(bins.pop(second))
    return bins


def _profile(bins: list[_Counted], ordered: bool, totals: Totals, noise_sd: int) -> Profile:
    # Joined bins add up the noise of their parts.
    groups = [Group(one.matched, one.positives, noise_sd * len(one.labels) ** 0.5) for one in bins]
    shown = tuple(
        Bin(
            _label(one.labels, ordered),
            one.people,
            one.matched,
            one.positives,
            len(one.labels),
            evidence.of_group(group, totals),
        )
        for one, group in zip(bins, groups, strict=True)
    )
    return Profile(shown, evidence.of_feature(groups, totals))


def _label(names: tuple[str, ...], ordered: bool) -> str:
    return f"{names[0]} ... {names[-1]}" if ordered and len(names) > 2 else ", ".join(names)
