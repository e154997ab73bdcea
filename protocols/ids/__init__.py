"""Identifiers in one spelling: e-mail addresses, phone numbers, device ids, free text.

Two parties find a person only if both write the identifier alike, byte for byte. `normalise` does that with the rules
of a profile. The rules of "plain" merge spellings of one identifier but never two identifiers: case and blanks of an
address go, dots and "+tags" stay, since only some providers ignore them; the case of free text stays. The other
profiles follow what a partner publishes; docs/identifiers.md has each rule with its source.
"""

from .identifiers import Identifiers, join_blocks, keep_first, repeats
from .spelling import FORMS, KINDS, PROFILES, normalise
from .validity import Validity

__all__ = [
    "FORMS",
    "KINDS",
    "PROFILES",
    "Identifiers",
    "Validity",
    "join_blocks",
    "keep_first",
    "normalise",
    "repeats",
]
