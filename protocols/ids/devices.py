"""Device ids in one spelling: IDFA, GAID, OAID, and under "tencent" IMEI and MEID."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .column import TEXT, BoolArray, Texts, matches, nulled, replaced
from .speller import Speller

_UUID = r"^(.{8})(.{4})(.{4})(.{4})(.{12})$"
_HYPHENS = r"\1-\2-\3-\4-\5"


def speller(profile: str, *, hashed: bool) -> Speller:
    """Reads device ids of 16 to 64 hexadecimal digits and writes them as entered, or as they are written to be hashed.

    As entered: lower case without hyphens. To be hashed: 32 digits with the hyphens of a UUID; under "tencent" as
    `_as_tencent_hashes` says. All zeros is what a device answers whose owner said no, and is invalid.
    """
    block = partial(_block, profile == "tencent", hashed)

    def one(text: str) -> str | None:
        if not text.isascii():
            return None
        spelled: str | None = block(pa.array([text], TEXT))[0][0].as_py()
        return spelled

    return Speller(block, one)


def _block(tencent: bool, hashed: bool, texts: Texts) -> tuple[Texts, BoolArray]:
    texts = pc.ascii_trim(texts, characters="{}")
    bare = pc.replace_substring(texts, "-", "")
    digits = pc.ascii_lower(bare)
    shortest = 14 if tencent else 16
    valid = matches(digits, f"^[0-9a-f]{{{shortest},64}}$") & ~matches(digits, "^0*$")
    if hashed:
        digits = _as_tencent_hashes(texts, bare, digits) if tencent else replaced(digits, _UUID, _HYPHENS)
    return nulled(digits, ~valid), np.zeros(len(texts), np.bool_)


def _as_tencent_hashes(texts: Texts, bare: Texts, digits: Texts) -> Texts:
    """IMEI and MEID in lower case; IDFA in upper case with hyphens; OAID as it is.

    An OAID may look like an IDFA. Devices write an IDFA in upper case and an OAID in lower case: so a UUID with a
    capital is an IDFA.
    """
    short = matches(digits, "^.{14,15}$")
    uuid = matches(digits, "^.{32}$")
    capital = matches(bare, "[A-F]")
    hyphened = matches(texts, "-")
    spelled = pc.if_else(pa.array(short), digits, bare)
    spelled = pc.if_else(pa.array(uuid & capital), replaced(pc.ascii_upper(digits), _UUID, _HYPHENS), spelled)
    return pc.if_else(pa.array(uuid & ~capital & hyphened), replaced(digits, _UUID, _HYPHENS), spelled)
