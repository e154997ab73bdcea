"""Which matched rows train a model, which are held out, and which carry no label.

    brand                                   media
      Split(train, held out)  ----->          refuses bits that overlap or point past the alignment

The media learns the two sets and their sizes, nothing of the labels. A row in neither set has no label: it is scored
later, and its features do not enter the fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..channel import MIB, Channel, Message, PeerError

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Split(Message):
    """Two bit strings over the shared row order, most significant bit first."""

    train: bytes
    held_out: bytes
    MAX_BYTES: ClassVar[int] = 64 * MIB


async def send_split(channel: Channel, train: BoolArray, held_out: BoolArray) -> None:
    """train, held_out (n,) booleans over the shared row order."""
    await channel.send(Split(np.packbits(train).tobytes(), np.packbits(held_out).tobytes()))


async def receive_split(channel: Channel, n: int) -> tuple[BoolArray, BoolArray]:
    """The two sets as (n,) booleans. Raises PeerError when they overlap or do not have n bits."""
    split = await channel.recv(Split)
    train, held_out = _bits(split.train, n), _bits(split.held_out, n)
    if bool(np.any(train & held_out)):
        raise PeerError("the brand put a row into the training part and the hold-out at once")
    return train, held_out


def _bits(packed: bytes, n: int) -> BoolArray:
    if len(packed) != -(-n // 8):
        raise PeerError(f"the brand split {len(packed) * 8} rows where {n} are matched")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8)).astype(np.bool_)
    if bool(np.any(bits[n:])):
        raise PeerError("the brand split rows past the last matched one")
    return bits[:n]
