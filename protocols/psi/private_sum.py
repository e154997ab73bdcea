"""How many people two parties have in common, and the sum of one party's values over them: nothing about a person.

The holder has a value v of 0..cap for each of its identifiers; the counter has identifiers alone. The media adds noise
and the brand gets the sum, whichever of them is the holder.

    counter                                              holder (v)
                                   -- Size -->
                                   <-- Size --           the end if either is under the floor
      an engine compares, the holder's list in a secret order drawn anew: see `engine`; it is never opened
      f = 1 at each position it has found, 0 elsewhere
                                   -- Found -->          0 for anything under the floor, the end
                                   <-- Key, Uploads --   Enc(v), in that order
      masks that add up to r       -- Results -->        <f, v> + r, and nothing else
                                   <-- Noised --         of = media: <f, v> + r + noise
      takes off r

With the media as holder r is uniform, so what the media opens is a uniform number, and of the size the brand tells it
no more than that the floor is reached. With the brand as holder the media counts, says how many there are, and r is
the noise, so what the brand opens is the result.

What each learns. Both: how many rows the other enters, whether the floor is reached. The counter: how many match; under
the floor it says 0, forgets the number, and no output depends on it. The brand, at the floor or above: how many, and
the noised sum. Nobody learns which rows match: to the counter positions are places of a secret order, and the holder
never sees which were found.

Why. Before it is opened, what an engine tells the counter is a number. Enc is BFV, which shows the counter nothing
(RLWE). Its product with f is sanitised (docs/protocols/blind.md) under masks that are uniform but for their total, so
the holder opens <f, v> + r, and neither f nor a part of the sum.

Exact. Residues modulo T, 45 bits, hold a sum up to 1.7e13 of either sign. Where the sizes, the cap and the noise allow
for more, all from Key to Results is done again modulo another prime, and the two residues give the sum modulo 90 bits.
(Digits of the values in sums of their own would be exact too, but each is a figure more than was agreed on, and
the lower digits' next to bare of noise.)

Assumption: both follow the protocol and enter their own rows and values. What is encrypted cannot be checked: a
counter that gets the sum learns about one person if it multiplies that value by more than the noise has deviations, or
says that the floor is reached when it is not; so does a holder that gets the sum and encrypts one large value. Values
that can be checked are: counts, sizes, residues, and whether so many people can have that sum.

Reference: [IKNPRSSSY20] Ion et al., "On Deploying Secure Computing: Private Intersection-Sum-with-Cardinality",
eprint 2019/723, with another encryption (docs/decisions/0008-sums-without-new-dependencies.md) and the size first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..blind.products import Key, receive_results, receive_uploads, send_results, send_uploads
from ..channel import Channel, Message, PeerError, PolicyError
from ..primitives.bfv import MODULI, BrandKey, PublicKey
from ..primitives.fixed_point import IntArray, T, UInt64Array
from ..primitives.packing import SLOTS, block_count, blocks
from ..primitives.randomness import Randomness
from .engine import Engine
from .entries import Column
from .match import Size, checked_size

Noise = Callable[[int], IntArray]
MOST_NOISE = 64
"""No draw of noise has more standard deviations than this."""


@dataclass(frozen=True)
class Found(Message):
    """How many people match where the holder may know, else the floor; 0 when they are under it."""

    rows: int


@dataclass(frozen=True)
class Noised(Message):
    """The masked sum with its noise by each modulus, 8 bytes each."""

    residues: bytes


@dataclass(frozen=True)
class Terms:
    """What both parties know of a sum beforehand.

    kind: of the identifiers. max_rows: of the peer. cap: the largest value, in units. noise_sd: the standard deviation
    of the noise, in units.
    """

    kind: str
    floor: int
    max_rows: int
    cap: int
    noise_sd: int


@dataclass(frozen=True)
class Sum:
    """What a role ends with; None is what it may not know. total: in units, with its noise."""

    size: int | None
    total: int | None


async def counter(
    channel: Channel, ids: Column, terms: Terms, *, engine: Engine, noise: Noise | None, randomness: Randomness
) -> Sum:
    """Plays the party without values. Identifiers are all different.

    noise draws so many integers of the standard deviation in the terms. It is the media's: with None this is the
    brand, which gets the sum.
    Raises PeerError when the holder leaves the protocol, PolicyError when the floor is not reached.
    """
    await channel.send(Size(len(ids)))
    theirs = checked_size(await channel.recv(Size), terms.max_rows)
    most = min(len(ids), theirs)
    if most < terms.floor:
        raise _too_few(terms)
    compared = await engine.compare(channel, ids, kind=terms.kind, theirs=theirs, randomness=randomness)
    size = len(compared.positions)
    if size < terms.floor:
        await channel.send(Found(0))
        raise _too_few(terms)
    await channel.send(Found(terms.floor if noise is None else size))
    moduli = moduli_for(most, terms)
    found = np.zeros(theirs, np.bool_)
    found[compared.positions] = True
    added = None if noise is None else _drawn(noise, terms)
    masks = [await _multiply(channel, found, added, modulus, randomness) for modulus in moduli]
    if noise is not None:
        return Sum(size, None)
    came = (await channel.recv(Noised)).residues
    if len(came) != 8 * len(moduli):
        raise PeerError(f"the sum: {8 * len(moduli)} bytes were expected, {len(came)} came")
    residues = np.frombuffer(came, "<u8").tolist()
    if any(residue >= modulus for residue, modulus in zip(residues, moduli, strict=True)):
        raise PeerError("a residue of the sum came that is not below its modulus")
    opened = [residue - mask for residue, mask in zip(residues, masks, strict=True)]
    return Sum(size, _checked_total(joined(opened, moduli), size, terms))


async def holder(
    channel: Channel,
    ids: Column,
    values: IntArray,
    terms: Terms,
    *,
    engine: Engine,
    noise: Noise | None,
    randomness: Randomness,
) -> Sum:
    """Plays the party with values (n,), one of 0..cap for each identifier; see `counter`."""
    if values.shape != (len(ids),) or not ((values >= 0) & (values <= terms.cap)).all():
        raise ValueError("one value of 0 to the cap is needed for each identifier")
    theirs = checked_size(await channel.recv(Size), terms.max_rows)
    await channel.send(Size(len(ids)))
    most = min(len(ids), theirs)
    if most < terms.floor:
        raise _too_few(terms)
    order = randomness.permutation(len(ids)).astype(np.uint32)
    await engine.answer(channel, ids, kind=terms.kind, theirs=theirs, order=order, randomness=randomness)
    size = (await channel.recv(Found)).rows
    if size == 0:
        raise _too_few(terms)
    if not terms.floor <= size <= (most if noise is None else terms.floor):
        raise PeerError(f"the counter found {size} rows, 0 or {terms.floor} to {most} were possible")
    moduli = moduli_for(most, terms)
    residues = []
    for modulus in moduli:
        key = BrandKey(randomness, modulus)
        await channel.send(Key(key.public_bytes()))
        await send_uploads(channel, key.encrypt(_slots(values[order[rows]]) for rows in blocks(len(values))))
        async for result in receive_results(channel, 1):
            residues.append(_total(key.decrypt(result), modulus))
    if noise is None:
        return Sum(size, _checked_total(joined(residues, moduli), size, terms))
    drawn = _drawn(noise, terms)
    noised = [(residue + drawn) % modulus for residue, modulus in zip(residues, moduli, strict=True)]
    await channel.send(Noised(np.array(noised, "<u8").tobytes()))
    return Sum(None, None)


def moduli_for(most: int, terms: Terms) -> tuple[int, ...]:
    """The moduli that hold the sum over at most so many people with its noise, either sign: one or both of two."""
    return MODULI[:1] if 2 * _reach(most, terms) < T else MODULI


def joined(residues: list[int], moduli: tuple[int, ...]) -> int:
    """The integer of least size with these residues.   Chinese remainders, for one modulus or two."""
    value, product = residues[0] % moduli[0], moduli[0]
    for residue, modulus in zip(residues[1:], moduli[1:], strict=True):
        value += product * ((residue - value) * pow(product, -1, modulus) % modulus)
        product *= modulus
    return value - product if value > product // 2 else value


async def _multiply(
    channel: Channel, found: NDArray[np.bool_], added: int | None, modulus: int, randomness: Randomness
) -> int:
    """Answers with the sum of the values at the places found, masked; gives the mask's total: `added`, else uniform."""
    public = PublicKey((await channel.recv(Key)).data, modulus)
    sum_, number = None, 0
    async for upload in receive_uploads(channel, block_count(len(found))):
        here = found[number * SLOTS : (number + 1) * SLOTS]
        sum_ = public.add_product(sum_, public.load(upload), public.encode(_slots(here)))
        number += 1
    mask = randomness.integers(modulus, SLOTS)
    if added is not None:
        mask[0] = (added - int(mask[1:].sum())) % modulus
    await send_results(channel, [public.sanitise(sum_, mask, randomness)])
    return _total(mask, modulus)


def _slots(values: NDArray[np.int64] | NDArray[np.bool_]) -> UInt64Array:
    """At most 8192 values, none of them negative or as large as a modulus, with zeros behind them."""
    padded = np.zeros(SLOTS, np.uint64)
    padded[: len(values)] = values
    return padded


def _total(residues: UInt64Array, modulus: int) -> int:
    # 8192 residues of 45 bits add up to 58.
    return int(residues.sum()) % modulus


def _reach(people: int, terms: Terms) -> int:
    return people * terms.cap + MOST_NOISE * terms.noise_sd


def _drawn(noise: Noise, terms: Terms) -> int:
    drawn = int(noise(1)[0])
    if abs(drawn) > MOST_NOISE * terms.noise_sd:
        raise ValueError(f"noise of standard deviation {terms.noise_sd} was declared, far more was drawn")
    return drawn


def _checked_total(total: int, size: int, terms: Terms) -> int:
    if not -MOST_NOISE * terms.noise_sd <= total <= _reach(size, terms):
        raise PeerError("the sum that came is more than so many people can have, or less than nothing")
    return total


def _too_few(terms: Terms) -> PolicyError:
    # The same text for every size under the floor, at both parties.
    return PolicyError(
        f"fewer than {terms.floor} people matched, so nothing was added up",
        "check that both sides have the right keys and countries, or enter more people",
    )
