"""Free text (membership numbers, codes) in one spelling: every profile's, since none publishes a rule."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .column import BoolArray, Texts, lengths, matches, nulled, replaced
from .speller import Speller

_LONGEST = 1024


def speller() -> Speller:
    """NFKC, one space for every run of blanks, 1 to 1024 characters; the case stays."""
    return Speller(_block, _one)


def _block(texts: Texts) -> tuple[Texts, BoolArray]:
    blank = matches(texts, r"[\t-\r\x1c-\x20]")
    if blank.any():
        spaced = replaced(texts.filter(pa.array(blank)), r"[\t-\r\x1c-\x20]+", " ")
        texts = pc.replace_with_mask(texts, pa.array(blank), pc.ascii_trim(spaced, characters=" "))
    size = lengths(texts)
    return nulled(texts, (size == 0) | (size > _LONGEST)), np.zeros(len(texts), np.bool_)


def _one(text: str) -> str | None:
    joined = " ".join(unicodedata.normalize("NFKC", text).split())
    return joined if 0 < len(joined) <= _LONGEST else None
