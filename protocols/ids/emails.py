"""E-mail addresses in one spelling, by the rules of each profile."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .column import BoolArray, Texts, joined, lengths, matches, nulled, replaced, sliced
from .speller import Speller

_ADDRESS = r"[^\s@\x00-\x1f]{1,64}@(?:[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}"
_LONGEST = 254


@dataclass(frozen=True)
class _Rules:
    """What a profile does to an address beyond lower case and blanks around it.

    inner_blanks: blanks inside go. dotless: at these domains the dots before the @ go. tagless: at these domains a plus
    sign before the @ goes with what follows it; None stands for every domain.
    """

    inner_blanks: bool = False
    dotless: tuple[str, ...] = ()
    tagless: tuple[str, ...] | None = ()


_RULES = {
    "google": _Rules(True, ("gmail.com", "googlemail.com"), ("gmail.com", "googlemail.com")),
    "uid2": _Rules(False, ("gmail.com",), ("gmail.com",)),
    "tiktok": _Rules(tagless=None),
}


def speller(profile: str) -> Speller:
    """Reads and writes addresses as the profile says."""
    rules = _RULES.get(profile, _Rules())
    return Speller(partial(_block, rules), partial(_one, rules))


def _block(rules: _Rules, texts: Texts) -> tuple[Texts, BoolArray]:
    texts = pc.ascii_lower(texts)
    if rules.inner_blanks:
        texts = replaced(texts, r"[\t-\r\x1c-\x20]+", "")
    valid = (lengths(texts) <= _LONGEST) & matches(texts, f"^{_ADDRESS}$")
    texts = nulled(texts, ~valid)
    if rules.tagless is None:
        texts = replaced(texts, r"\+[^@]*@", "@")
    for domain in rules.tagless or ():
        texts = _where_at(domain, texts, lambda local: replaced(local, r"\+.*$", ""))
    for domain in rules.dotless:
        texts = _where_at(domain, texts, lambda local: pc.replace_substring(local, ".", ""))
    if rules != _Rules():
        texts = nulled(texts, matches(texts, "^@"))
    return texts, np.zeros(len(texts), np.bool_)


def _where_at(domain: str, texts: Texts, change: Callable[[Texts], Texts]) -> Texts:
    """The texts with the local part changed in the addresses at one domain."""
    there = matches(texts, f"@{re.escape(domain)}$")
    if not there.any():
        return texts
    local = change(sliced(texts.filter(pa.array(there)), 0, -len(domain) - 1))
    return pc.replace_with_mask(texts, pa.array(there), joined(local, f"@{domain}"))


_FULL = re.compile(_ADDRESS)


def _one(rules: _Rules, text: str) -> str | None:
    text = unicodedata.normalize("NFKC", text).lower()
    if rules.inner_blanks:
        text = "".join(text.split())
    if len(text) > _LONGEST:
        return None
    if not text.isascii():
        local, _, domain = text.rpartition("@")
        try:
            text = f"{local}@{domain.encode('idna').decode()}"
        except UnicodeError:
            return None
    if not _FULL.fullmatch(text):
        return None
    local, _, domain = text.rpartition("@")
    if rules.tagless is None or domain in rules.tagless:
        local = local.partition("+")[0]
    if domain in rules.dotless:
        local = local.replace(".", "")
    return f"{local}@{domain}" if local else None
