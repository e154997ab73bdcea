"""From a column to identifiers: trim, spell as the profile says, hash where the contract says so, count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..channel import ConfigError
from . import devices, digests, emails, free_text, phones
from .column import BoolArray, Texts, buffers, ends, joined, mask, trimmed
from .identifiers import Identifiers, repeats
from .speller import Speller
from .validity import Validity, shapes

KINDS = ("email", "phone", "device", "text")
PROFILES = ("plain", "google", "meta", "tiktok", "uid2", "tencent")
FORMS = ("clear", "sha256", "md5")


def normalise(
    kind: str,
    values: Any | Sequence[str | None],
    region: str | None = None,
    *,
    profile: str = "plain",
    given: str = "clear",
    form: str = "clear",
) -> tuple[Identifiers, Validity]:
    """The identifiers of a column, and how much of it was usable.

    values: a pyarrow array of text, or a sequence of str | None; call it block by block (64k to 1M rows), nothing is
    kept between calls. kind: one of KINDS. region: the two-letter country whose rules read a phone number that has no
    country code; without it such numbers are invalid. profile: one of PROFILES, whose rules spell. given: one of FORMS,
    how the column arrives. form: one of FORMS, what both parties enter: the spelling itself, or its digest.

    Raises ConfigError for a kind, profile, form or region that does not exist, and for a column of digests where the
    parties enter anything but those digests.
    """
    for what, name, known in (("kind of identifier", kind, KINDS), ("profile", profile, PROFILES),
                              ("form", given, FORMS), ("form", form, FORMS)):  # fmt: skip
        if name not in known:
            raise ConfigError(f"{name!r} is not a {what}", f"choose one of {', '.join(known)}")
    if given not in ("clear", form):
        raise ConfigError(
            f"the {kind} column holds {given} digests, and a digest cannot be turned back: the campaign enters {form}",
            f'write hashed = {{{kind} = "{given}"}} under [match] in the campaign, or register a column not hashed',
        )
    spell = _speller(kind, region, profile, hashed=form != "clear")
    texts, broken = trimmed(values)
    present = mask(texts.is_valid())
    written = texts if present.all() else texts.filter(pa.array(present))
    prefix = kind if (profile, form) == ("plain", "clear") else f"{kind}:{profile}:{form}"
    valid, data, lengths, empty = _entered(written, spell, kind, given, form, f"{prefix}\0")
    rows = np.flatnonzero(present)
    ids = Identifiers(data, ends(lengths), rows[valid])
    refused = written.filter(pa.array(~valid & ~empty))
    missing = len(texts) - len(written) - int(broken.sum()) + int(empty.sum())
    return ids, Validity(
        valid=len(ids),
        invalid=len(refused) + int(broken.sum()),
        missing=missing,
        duplicates=int(np.count_nonzero(repeats(ids))),
        shapes=shapes(refused, unreadable=int(broken.sum())),
    )


def _speller(kind: str, region: str | None, profile: str, *, hashed: bool) -> Speller:
    makers: dict[str, Callable[[], Speller]] = {
        "email": lambda: emails.speller(profile),
        "phone": lambda: phones.speller(profile, region),
        "device": lambda: devices.speller(profile, hashed=hashed),
        "text": free_text.speller,
    }
    return makers[kind]()


def _entered(
    texts: Texts, speller: Speller, kind: str, given: str, form: str, prefix: str
) -> tuple[BoolArray, bytes, Any, BoolArray]:
    """Which texts (n,) are valid, the bytes of their identifiers one after another, their lengths, and which are empty.

    Empty is the digest of nothing, which some send for a missing value.
    """
    empty = np.zeros(len(texts), np.bool_)
    if given == "clear":
        spelled = speller.spell(texts)
        valid = mask(spelled.is_valid())
        spelled = spelled if valid.all() else spelled.drop_null()
        if form == "clear":
            data, offsets = buffers(joined(prefix, spelled))
            return valid, data.tobytes(), np.diff(offsets), empty
        found = digests.make(spelled, form)
    else:
        found, invalid, empty = digests.read(texts, form, kind)
        valid = ~invalid & ~empty
        found = found[valid]
    start = np.frombuffer(prefix.encode(), np.uint8)
    whole = np.concatenate([np.broadcast_to(start, (len(found), len(start))), found], axis=1)
    return valid, whole.tobytes(), np.full(len(found), whole.shape[1], np.int64), empty
