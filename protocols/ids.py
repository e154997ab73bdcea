"""Identifiers in one spelling: e-mail addresses, phone numbers, device ids, free text.

Two parties find a person only if both write the identifier alike, byte for byte. `normalise` does that with rules
that merge spellings of one identifier but never two identifiers: case and blanks of an address go, dots and "+tags"
stay, since only some providers ignore them; the case of free text stays.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import phonenumbers
from numpy.typing import NDArray

from .channel import ConfigError

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Identifiers:
    """One identifier per row, for the rows that have a valid one. Never prints what it holds.

    Identifier i is data[offsets[i]:offsets[i + 1]] and belongs to row rows[i] of the table. The bytes start with the
    kind, so that a phone number is never equal to a free text of the same digits.
    """

    data: bytes
    offsets: IntArray
    rows: IntArray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> bytes:
        return self.data[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[bytes]:
        bounds = self.offsets.tolist()
        return (self.data[begin:end] for begin, end in pairwise(bounds))

    def __repr__(self) -> str:
        return f"Identifiers({len(self)} rows)"

    def take(self, keep: BoolArray) -> Self:
        """Those where keep (n,) is true."""
        lengths = np.diff(self.offsets)
        kept = np.frombuffer(self.data, np.uint8)[np.repeat(keep, lengths)]
        return type(self)(kept.tobytes(), _offsets(lengths[keep]), self.rows[keep])

    def blocks(self, size: int) -> Iterator[Self]:
        """The same in pieces of at most `size` identifiers."""
        for begin in range(0, len(self), size):
            offsets = self.offsets[begin : begin + size + 1]
            data = self.data[offsets[0] : offsets[-1]]
            yield type(self)(data, offsets - offsets[0], self.rows[begin : begin + size])


@dataclass(frozen=True)
class Validity:
    """What became of a column, in rows: they add up to its length, but for duplicates, which are among the valid.

    valid: became identifiers. invalid: were something else. missing: held nothing. duplicates: repeat the identifier
    of an earlier row.
    """

    valid: int
    invalid: int
    missing: int
    duplicates: int


def normalise(kind: str, texts: Sequence[str | None], region: str | None = None) -> tuple[Identifiers, Validity]:
    """The identifiers of a column, and how much of it was usable.

    kind is one of KINDS. region is the two-letter country whose rules read a phone number that has no country code;
    without it such numbers are invalid. Raises ConfigError for a kind or region that does not exist.
    """
    spell = _speller(kind, region)
    prefix = kind.encode() + b"\0"
    spelled: list[bytes] = []
    rows: list[int] = []
    missing = 0
    for row, text in enumerate(texts):
        if text is None or not (text := text.strip(_BLANKS)):
            missing += 1
        elif (identifier := _utf8(spell(text))) is not None:
            spelled.append(prefix + identifier)
            rows.append(row)
    lengths = np.fromiter(map(len, spelled), np.int64, len(spelled))
    ids = Identifiers(b"".join(spelled), _offsets(lengths), np.array(rows, np.int64))
    duplicates = int(np.count_nonzero(repeats(ids)))
    return ids, Validity(len(ids), len(texts) - missing - len(ids), missing, duplicates)


def repeats(ids: Identifiers) -> BoolArray:
    """(n,): whether an identifier occurs at an earlier place too."""
    # Equal bytes have equal hashes, so only rows that share one are compared: little memory, and exact.
    hashes = np.empty(len(ids), np.int64)
    at = 0
    for block in ids.blocks(_BLOCK):
        hashes[at : at + len(block)] = [hash(identifier) for identifier in block]
        at += len(block)
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    near = np.zeros(len(ids) + 1, np.bool_)
    near[1:-1] = hashes[1:] == hashes[:-1]
    repeated = np.zeros(len(ids), np.bool_)
    seen: set[bytes] = set()
    for i in np.sort(order[near[:-1] | near[1:]]).tolist():
        identifier = ids[i]
        repeated[i] = identifier in seen
        seen.add(identifier)
    return repeated


def keep_first(ids: Identifiers) -> Identifiers:
    """Of rows with the same identifier the first one."""
    repeated = repeats(ids)
    return ids.take(~repeated) if repeated.any() else ids


_BLOCK = 2**16
_BLANKS = " \t\r\n\v\f\u00a0\u2007\u202f\u3000\u200b\u200c\u200d\u2060\ufeff"


def _utf8(identifier: str | None) -> bytes | None:
    try:
        return None if identifier is None else identifier.encode()
    except UnicodeEncodeError:  # a lone surrogate, which is no character
        return None


def _offsets(lengths: IntArray) -> IntArray:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _speller(kind: str, region: str | None) -> Callable[[str], str | None]:
    if kind == "phone":
        return _phone_speller(region)
    if kind not in _SPELLERS:
        raise ConfigError(f"{kind!r} is not a kind of identifier", f"choose one of {', '.join(KINDS)}")
    return _SPELLERS[kind]


_EMAIL = re.compile(r"[^\s@\x00-\x1f]{1,64}@(?:[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}")


def _email(text: str) -> str | None:
    text = unicodedata.normalize("NFKC", text).lower()
    if len(text) > 254:
        return None
    if not text.isascii():
        local, _, domain = text.rpartition("@")
        try:
            text = f"{local}@{domain.encode('idna').decode()}"
        except UnicodeError:
            return None
    return text if _EMAIL.fullmatch(text) else None


def _device(text: str) -> str | None:
    """IDFA, GAID, OAID: 16 to 64 hexadecimal digits; all zeros is what a device answers whose owner said no."""
    digits = text.strip("{}").replace("-", "").lower()
    return digits if re.fullmatch(r"[0-9a-f]{16,64}", digits) and digits.strip("0") else None


def _free_text(text: str) -> str | None:
    joined = " ".join(unicodedata.normalize("NFKC", text).split())
    return joined if 0 < len(joined) <= 1024 else None


_SPELLERS: dict[str, Callable[[str], str | None]] = {"email": _email, "device": _device, "text": _free_text}
KINDS = ("email", "phone", "device", "text")


def _phone_speller(region: str | None) -> Callable[[str], str | None]:
    """E.164. Tidy numbers of the region's own country take a short cut that gives what phonenumbers gives."""
    if region is None:
        return _parsed_phone
    region = region.upper()
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise ConfigError(
            f"{region!r} is not a country that phone numbers can be read for", "use its two letters, like NL"
        )
    country_code = phonenumbers.country_code_for_region(region)
    metadata = phonenumbers.PhoneMetadata.metadata_for_region(region)
    if metadata is None or metadata.national_prefix_for_parsing != "0":
        return lambda text: _parsed_phone(text, region)
    tidy = re.compile(rf"(?:\+{country_code}|0)([1-9][0-9]{{6,11}})")
    decoration = str.maketrans("", "", " -.()")

    def spell(text: str) -> str | None:
        match = tidy.fullmatch(text.translate(decoration))
        if match:
            number = phonenumbers.PhoneNumber(country_code=country_code, national_number=int(match[1]))
            if phonenumbers.is_valid_number(number):
                return f"+{country_code}{match[1]}"
        return _parsed_phone(text, region)

    return spell


def _parsed_phone(text: str, region: str | None = None) -> str | None:
    if region is None and text.startswith("00"):
        text = "+" + text[2:]
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
