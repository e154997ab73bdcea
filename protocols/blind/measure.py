"""What became of an audience: how many of its people bought and what they spent, against those left alone.

    brand                                                  media
      c in {0, 1}, s in 0..cap of each of the n rows         arm of each of the n rows: exposed, control or neither
                            <-- Arms(n, people + noise) --   the end where an arm has fewer people than the floor
      for each modulus
                            -- Key, Enc(c), Enc(s), Enc(q) -->      q = s^2 / 2^k, rounded
                            <-- <a, c> + noise, ... ------   a the exposed, a the control: two sums for each vector

Every sum is a product of the media's indicator with an encrypted vector, sanitised (products.py) under masks that are
uniform but for their total, which is the media's noise. The squares are for the interval of a mean: k is the least for
which their sum has room in one modulus, so they are exact up to caps of a thousand units over a thousand people and
rounded to some ten thousandths of the cap's square beyond. Sums of money that need both moduli are done by both.

The rows are those that both sides share, or all of the media's (hidden alignment: c = s = 0 where the brand has
nobody). People of an arm count whether they are among the rows or not: who is not the brand's customer has not bought.
Buyers who are in no arm, or whom the match does not find, count nowhere.

Learns: brand the noised figures in `Measured`; media nothing (it sees ciphertexts and sizes).
Assumes: semi-honest (products.py). That the encrypted vectors say who bought is the brand's word: one that encrypts a
single 1 asks for one person's arm, of which the noise hides all but 1 / noise_sd.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..channel import Channel, ConfigError, Message, PeerError, PolicyError
from ..primitives.bfv import MODULI, BrandKey, Ciphertext, PublicKey
from ..primitives.fixed_point import IntArray, T, UInt64Array
from ..primitives.packing import SLOTS, block_count, blocks
from ..primitives.randomness import Randomness
from ..psi.private_sum import MOST_NOISE, joined
from .products import Columns, Key, load_uploads, receive_results, send_results, send_uploads

NEITHER, EXPOSED, CONTROL = 0, 1, 2
MOST_ROWS = 10**9
MOST_CAP = 10**9

Noise = Callable[[int, int], IntArray]
"""(standard deviation, n) -> n integers."""


@dataclass(frozen=True)
class Arms(Message):
    """Over how many rows is added up, and the noised number of people in the exposed and the control arm, as int64."""

    rows: int
    people: bytes


@dataclass(frozen=True)
class Terms:
    """What both sides know beforehand.

    cap: the largest spend, in units, 0 where none is measured. noise_sd: of the noise on counts; money has `cap` times
    as much. max_rows: of the media's data set.
    """

    floor: int
    noise_sd: int
    cap: int
    max_rows: int


@dataclass(frozen=True)
class Arm:
    """Noised figures of one arm. spend is in units; squares, of each person's spend, in units^2, a multiple of 2^k."""

    people: int
    converted: int
    spend: int | None
    squares: int | None


@dataclass(frozen=True)
class Measured:
    """What the brand gets. The noise has the standard deviation of the terms, times cap for money, times its square."""

    exposed: Arm
    control: Arm


@dataclass(frozen=True)
class _Vector:
    """One of the brand's vectors: how far a sum of it with its noise may reach, and the noise's standard deviation."""

    what: str
    reach: int
    noise_sd: int

    @property
    def moduli(self) -> tuple[int, ...]:
        return MODULI[:1] if 2 * self.reach < T else MODULI


async def brand(
    channel: Channel, converted: IntArray, spend: IntArray | None, *, terms: Terms, randomness: Randomness
) -> Measured:
    """The figures of both arms, for `converted` (n,) of 0 and 1 and `spend` (n,) in 0..cap units, None without a cap.

    Raises PeerError when the media leaves the protocol, ConfigError for sizes beyond 10^9.
    """
    if len(converted) == 0 or not np.isin(converted, (0, 1)).all():
        raise ValueError("who bought is 0 or 1, one for each row")
    if (spend is None) != (terms.cap == 0):
        raise ValueError("a spend is needed with a cap, and none without")
    if spend is not None and (spend.shape != converted.shape or not ((spend >= 0) & (spend <= terms.cap)).all()):
        raise ValueError("one spend of 0 to the cap is needed for each row")
    vectors = _vectors(len(converted), terms)
    values = [converted] if spend is None else [converted, spend, _squares(spend, _shift(len(converted), terms))]
    head = await channel.recv(Arms)
    if head.rows != len(converted):
        raise PeerError(f"the media adds up over {head.rows} rows, {len(converted)} are ours")
    people = _checked_people(head.people, terms)
    residues: list[list[list[int]]] = [[] for _ in vectors]
    for modulus in MODULI:
        asked = [i for i, vector in enumerate(vectors) if modulus in vector.moduli]
        if not asked:
            break
        key = BrandKey(randomness, modulus)
        await channel.send(Key(key.public_bytes()))
        parts = (_slots(values[i][rows]) for i in asked for rows in blocks(len(converted)))
        await send_uploads(channel, key.encrypt(parts))
        opened = [_total(key.decrypt(result), modulus) async for result in receive_results(channel, 2 * len(asked))]
        for at, i in enumerate(asked):
            residues[i].append(opened[2 * at : 2 * at + 2])
    sums = [_opened(vector, found) for vector, found in zip(vectors, residues, strict=True)]
    return Measured(*(_arm(people[arm], [each[arm] for each in sums], len(converted), terms) for arm in (0, 1)))


async def media(
    channel: Channel,
    arms: NDArray[np.int8],
    people: tuple[int, int],
    *,
    terms: Terms,
    noise: Noise,
    randomness: Randomness,
) -> None:
    """Answers one `brand`. arms (n,) is NEITHER, EXPOSED or CONTROL for each row; people: how many are in each arm.

    People of an arm need not be among the rows. Raises PolicyError, before anything is sent, where an arm has fewer
    than the floor, PeerError when the brand leaves the protocol.
    """
    if len(arms) == 0 or not np.isin(arms, (NEITHER, EXPOSED, CONTROL)).all():
        raise ValueError("an arm is needed for each row")
    if any(int((arms == arm).sum()) > there for arm, there in zip((EXPOSED, CONTROL), people, strict=True)):
        raise ValueError("an arm has more people among the rows than in all")
    if min(people) < terms.floor:
        raise PolicyError(
            f"fewer than {terms.floor} people of the audience, or of those left alone, are in the data set",
            "measure a larger audience, or leave more of it alone next time",
        )
    vectors = _vectors(len(arms), terms)
    noised = np.array(people, np.int64) + _drawn(noise, terms.noise_sd)
    await channel.send(Arms(len(arms), noised.astype("<i8").tobytes()))
    indicators = np.stack([arms == EXPOSED, arms == CONTROL], axis=1).astype(np.int8)
    # One draw a sum, whichever moduli it takes: two would show more than the sum with its noise.
    added = [_drawn(noise, vector.noise_sd) for vector in vectors]
    for modulus in MODULI:
        asked = [i for i, vector in enumerate(vectors) if modulus in vector.moduli]
        if not asked:
            break
        public = PublicKey((await channel.recv(Key)).data, modulus)
        columns = Columns(public, indicators)
        uploads = load_uploads(channel, public, len(asked) * block_count(columns.rows))
        sums = [await _added_up(columns, uploads) for _ in asked]
        await send_results(channel, _masked(public, sums, [added[i] for i in asked], modulus, randomness))


async def _added_up(columns: Columns, uploads: AsyncIterator[Ciphertext]) -> list[Ciphertext | None]:
    """The next vector's sum over each arm."""
    sums: list[Ciphertext | None] = [None] * columns.columns
    for number in range(block_count(columns.rows)):
        columns.add_column_sums(sums, number, [await anext(uploads)])
    return sums


def _masked(
    public: PublicKey, sums: list[list[Ciphertext | None]], added: list[IntArray], modulus: int, randomness: Randomness
) -> Iterator[bytes]:
    """What opens to each sum with what is added to it, and to nothing else."""
    for vector, values in zip(sums, added, strict=True):
        for sum_, value in zip(vector, values.tolist(), strict=True):
            mask = randomness.integers(modulus, SLOTS)
            mask[0] = (value - _total(mask[1:], modulus)) % modulus
            yield public.sanitise(sum_, mask, randomness)


def squares_unit(rows: int, terms: Terms) -> int:
    """In which units squares are added up: 1 where sums of them have room, else the power of 2 that they need."""
    return 1 << _shift(rows, terms)


def _vectors(rows: int, terms: Terms) -> list[_Vector]:
    if rows > MOST_ROWS or terms.cap > MOST_CAP:
        raise ConfigError(f"{rows} rows with spends up to {terms.cap} units are too many to add up", "use larger units")
    vectors = [_Vector("count of buyers", rows + MOST_NOISE * terms.noise_sd, terms.noise_sd)]
    if terms.cap:
        most = _squared_cap(_shift(rows, terms), terms)
        for what, one in (("sum of money", terms.cap), ("sum of squares", most)):
            vectors.append(_Vector(what, (rows + MOST_NOISE * terms.noise_sd) * one, terms.noise_sd * one))
    return vectors


def _shift(rows: int, terms: Terms) -> int:
    shift = 0
    while 2 * (rows + MOST_NOISE * terms.noise_sd) * _squared_cap(shift, terms) >= T:
        shift += 1
    return shift


def _squared_cap(shift: int, terms: Terms) -> int:
    return -(-(terms.cap**2) >> shift)


def _squares(spend: IntArray, shift: int) -> IntArray:
    """spend^2 / 2^shift, rounded. A spend has 30 bits."""
    half = np.int64(1 << shift >> 1)
    return (spend * spend + half) >> np.int64(shift)


def _slots(values: IntArray) -> UInt64Array:
    padded = np.zeros(SLOTS, np.uint64)
    padded[: len(values)] = values
    return padded


def _total(residues: UInt64Array, modulus: int) -> int:
    # 8192 residues of 45 bits add up to 58.
    return int(residues.sum()) % modulus


def _drawn(noise: Noise, sd: int) -> IntArray:
    """One draw for each arm."""
    drawn = noise(sd, 2)
    if bool((np.abs(drawn) > MOST_NOISE * sd).any()):
        raise ValueError(f"noise of standard deviation {sd} was declared, far more was drawn")
    return drawn


def _opened(vector: _Vector, residues: list[list[int]]) -> list[int]:
    """The sum over each arm out of its residues by each modulus."""
    sums = [joined([found[arm] for found in residues], vector.moduli) for arm in (0, 1)]
    if not all(-MOST_NOISE * vector.noise_sd <= sum_ <= vector.reach for sum_ in sums):
        raise PeerError(f"a {vector.what} came that so many people cannot have")
    return sums


def _arm(people: int, sums: list[int], rows: int, terms: Terms) -> Arm:
    if not terms.cap:
        return Arm(people, sums[0], None, None)
    return Arm(people, sums[0], sums[1], sums[2] << _shift(rows, terms))


def _checked_people(data: bytes, terms: Terms) -> list[int]:
    if len(data) != 16:
        raise PeerError(f"the sizes of two arms have 16 bytes, {len(data)} came")
    people: list[int] = np.frombuffer(data, "<i8").tolist()
    off = MOST_NOISE * terms.noise_sd
    if not all(terms.floor - off <= each <= terms.max_rows + off for each in people):
        raise PeerError("a number of people came that an arm cannot have")
    return people
