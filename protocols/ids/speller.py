"""What brings the texts of a column into one spelling: whole blocks at a time, and one by one what is unusual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from .column import TEXT, BoolArray, Texts, mask

_AT_ONCE = 2**16
"""Texts that are looked at together: what is needed on the way is several times as large as they are."""


@dataclass(frozen=True)
class Speller:
    """Both parts give the same for the same text.

    block: ASCII texts (n,) -> their spelling, null for what is invalid, and which (n,) it leaves to `one`. one: any
    text -> its spelling, None if it is invalid. No text has blanks around it.
    """

    block: Callable[[Texts], tuple[Texts, BoolArray]]
    one: Callable[[str], str | None]

    def spell(self, texts: Texts) -> Texts:
        """The spelling of each text (n,), null where it is invalid. No text is null or empty."""
        pieces = [self._spell(texts.slice(begin, _AT_ONCE)) for begin in range(0, len(texts), _AT_ONCE)]
        return pieces[0] if len(pieces) == 1 else pa.concat_arrays([pa.nulls(0, TEXT), *pieces])

    def _spell(self, texts: Texts) -> Texts:
        ascii_ = mask(pc.string_is_ascii(texts))
        every = bool(ascii_.all())
        spelled, undecided = self.block(texts if every else texts.filter(pa.array(ascii_)))
        left = ~ascii_
        left[ascii_] = undecided
        if not left.any():
            return spelled
        ones = pa.array([self.one(text) for text in texts.filter(pa.array(left)).to_pylist()], TEXT)
        # replace_with_mask fills the places in order, so each part lands in its own rows.
        whole = pa.nulls(len(texts), TEXT)
        whole = pc.replace_with_mask(whole, pa.array(ascii_), spelled)
        return pc.replace_with_mask(whole, pa.array(left), ones)
