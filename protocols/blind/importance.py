"""How much each of the media's columns moves a joint model: the brand learns it, and the media the model's half of it.

    brand                                            media
      its w~          -- Model ------------------->    w = basis w~, times each column's standard deviation
                      <-- Importance --------------    a name and a standardised coefficient for each feature column

A model's weights belong to columns in a basis that only the media knows, so that neither side alone can say which of
the media's columns matter. Here the brand hands over its half.

Learns. Media: w~, hence its own part of the joint model in the clear. With it the media scores all of its people by
that part without asking; it still knows neither the brand's weights nor the base rate nor a label. Brand: the media's
coefficients, which say how far and which way a column moves the logit where everything else stays as it is, and how
many feature columns each name has. It can say what a score owes to which name, not what anybody's value is.

Use it only where the contract grants it to both. Nothing is encrypted: the line is sealed, and what it carries is meant
to be known.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..channel import Channel, DisagreementError, Message, PeerError
from ..primitives.fixed_point import FloatArray
from .whitening import MediaModel

MAX_COLUMNS = 400
_LONGEST_NAME = 400


@dataclass(frozen=True)
class Model(Message):
    """The brand's weights of the whitened columns, float64."""

    MAX_BYTES: ClassVar[int] = 8 * MAX_COLUMNS + 64
    weights: bytes


@dataclass(frozen=True)
class Importance(Message):
    """For each feature column the name of the column of the table that it is made of, and its coefficient, float64."""

    MAX_BYTES: ClassVar[int] = MAX_COLUMNS * (_LONGEST_NAME + 16) + 64
    names: tuple[bytes, ...]
    coefficients: bytes


async def brand(channel: Channel, media_weights: FloatArray, granted: Collection[str]) -> list[tuple[str, float]]:
    """A name and a standardised coefficient for each of the media's feature columns.

    A column of a table makes several where it has categories or gaps; names come as often. Raises PeerError for names
    that are not in `granted` and for numbers that are none.
    """
    await channel.send(Model(media_weights.astype("<f8").tobytes()))
    answer = await channel.recv(Importance)
    values = _numbers(answer.coefficients)
    try:
        names = [name.decode() for name in answer.names]
    except UnicodeDecodeError:
        raise PeerError("the media named a column in other than UTF-8") from None
    if len(names) != len(values) or not set(names) <= set(granted):
        raise PeerError("the media's coefficients do not belong to the columns that the contract grants")
    return list(zip(names, values.tolist(), strict=True))


async def media(channel: Channel, model: MediaModel, names: Sequence[str], spreads: FloatArray) -> FloatArray:
    """Answers one `brand`, and returns the coefficients: (d,), one for each feature column.

    names (d,) are the table's columns that the feature columns are made of, spreads (d,) the standard deviations of
    the feature columns. Raises DisagreementError where the brand's model belongs to another basis.
    """
    columns, directions = model.basis.shape
    if len(names) != columns or spreads.shape != (columns,):
        raise ValueError(f"{columns} feature columns need as many names and standard deviations")
    weights = _numbers((await channel.recv(Model)).weights)
    if len(weights) != directions:
        raise DisagreementError(f"the brand's model has {len(weights)} weights of the media's, not {directions}")
    coefficients: FloatArray = model.basis @ weights * spreads
    await channel.send(Importance(tuple(name.encode() for name in names), coefficients.astype("<f8").tobytes()))
    return coefficients


def _numbers(data: bytes) -> FloatArray:
    values = np.frombuffer(data, "<f8").astype(np.float64) if len(data) % 8 == 0 else np.empty(0)
    if not 1 <= len(values) <= MAX_COLUMNS or not np.isfinite(values).all():
        raise PeerError(f"1 to {MAX_COLUMNS} finite numbers were expected, {len(data)} bytes of something else came")
    return values
