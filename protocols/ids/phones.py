"""Phone numbers in one spelling (E.164), as the library phonenumbers reads them: a million a time.

`_block` walks the steps of phonenumbers.parse and is_valid_number (libphonenumber's algorithm) over whole columns, with
the patterns of the library's own metadata. It takes the numbers that are written with digits, one leading plus and the
usual decoration; letters, extensions, digits of other scripts, and numbers of countries that hardly occur in the block
go to the library itself. A test holds both against each other over every region.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from phonenumbers import PhoneMetadata

from ..channel import ConfigError
from .column import (
    TEXT,
    BoolArray,
    IntArray,
    Texts,
    before,
    buffers,
    from_buffers,
    joined,
    lengths,
    mask,
    matches,
    nulled,
    replaced,
    sliced,
)
from .speller import Speller

FEW = 200
"""Compiling a country's patterns costs as much as asking the library about so many numbers."""
_LONGEST = 200  # what the library reads at all is 250, with what it adds
_LONGEST_NATIONAL = 17


def speller(profile: str, region: str | None, few: int = FEW) -> Speller:
    """Reads numbers with a country code, or by the rules of the region (two letters), and writes them as the profile.

    E.164 with its plus; "meta" without it; "tencent" the 11 digits of a mobile number of mainland China, and no other
    number. Raises ConfigError for a region that does not exist.
    """
    if region is not None:
        region = region.upper()
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise ConfigError(
                f"{region!r} is not a country that phone numbers can be read for", "use its two letters, like NL"
            )
    if profile == "tencent":
        region = "CN"
    # Meta writes numbers with the country code but without the plus, so that is how they come back.
    bare = profile == "meta" and region is None

    def block(texts: Texts) -> tuple[Texts, BoolArray]:
        spelled, undecided = _block(texts, region, bare, few)
        return _as_profile(spelled, profile), undecided

    def one(text: str) -> str | None:
        spelled: str | None = _as_profile(pa.array([_one(text, region, bare)], TEXT), profile)[0].as_py()
        return spelled

    return Speller(block, one)


def _as_profile(numbers: Texts, profile: str) -> Texts:
    if profile == "meta":
        return sliced(numbers, 1)
    if profile == "tencent":
        return sliced(nulled(numbers, ~matches(numbers, r"^\+861[3-9]\d{9}$")), 3)
    return numbers


def _one(text: str, region: str | None, bare: bool) -> str | None:
    """What phonenumbers makes of one text."""
    if bare and "+" not in text:
        text = "+" + (re.sub(r"\D", "", text) if _DECORATED.fullmatch(text) else text).lstrip("0")
    elif region is None and text.startswith("00"):
        text = "+" + text[2:]
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    spelled: str = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return spelled


_DECORATED = re.compile(r"[0-9 ().\-/]*")
_DIGIT, _PLUS, _DECORATION = 1, 2, 3
_KIND = np.zeros(256, np.uint8)
_KIND[[ord(each) for each in " ().-/"]] = _DECORATION
_KIND[ord("0") : ord("9") + 1] = _DIGIT
_KIND[ord("+")] = _PLUS


def _block(texts: Texts, region: str | None, bare: bool, few: int) -> tuple[Texts, BoolArray]:
    """E.164 numbers, null where invalid, and what is left to `_one`."""
    digits, plus, undecided = _undecorated(texts)
    if bare:
        digits = pc.if_else(pa.array(plus), digits, pc.ascii_ltrim(digits, characters="0"))
        plus = ~undecided
    elif region is None:
        idd = matches(texts, "^00") & ~plus
        if idd.any():
            digits, plus = pc.if_else(pa.array(idd), sliced(digits, 2), digits), plus | idd
    undecided |= lengths(digits) < 4
    spelled = pa.nulls(len(texts), TEXT)
    for found in _read(digits, plus & ~undecided, ~plus & ~undecided, region):
        if found.code == 0 or len(found.rows) < few:
            undecided[found.rows] = True
            continue
        national = _without_prefix(found.national, found.metadata)
        numbers = joined(f"+{found.code}", nulled(national, ~_is_valid(national, found.code)))
        spelled = _put(spelled, found.rows, numbers)
    return spelled, undecided


def _put(whole: Texts, rows: IntArray, part: Texts) -> Texts:
    if len(rows) == len(whole) and (np.diff(rows) > 0).all():
        return part
    there = np.zeros(len(whole), np.bool_)
    there[rows] = True
    # The part's rows may stand in any order; replace_with_mask fills from the top.
    return pc.replace_with_mask(whole, pa.array(there), part.take(pa.array(np.argsort(rows))))


def _undecorated(texts: Texts) -> tuple[Texts, BoolArray, BoolArray]:
    """The digits of each text, whether a plus leads them, and whether (n,) there is anything but decoration beside."""
    data, offsets = buffers(texts)
    kind = _KIND[data]
    digit, strange = kind == _DIGIT, (kind == 0) | (kind == _PLUS)
    digits_before, strange_before = before(digit), before(strange)
    digit_ends = digits_before[offsets]
    strange_count = np.diff(strange_before[offsets])
    # One strange byte is fine if it is a plus and no digit comes before it.
    rows = np.flatnonzero(strange_count == 1)
    at = np.searchsorted(strange_before, strange_before[offsets[rows]], side="right") - 1
    good = (data[at] == ord("+")) & (digits_before[at] == digit_ends[rows])
    plus = np.zeros(len(texts), np.bool_)
    plus[rows[good]] = True
    undecided = (strange_count > 0) & ~plus | (np.diff(offsets) > _LONGEST)
    return from_buffers(data[digit], digit_ends.astype(np.int64)), plus, undecided


@dataclass(frozen=True)
class _Found:
    """National numbers with their country code, 0 if the library must find it, and whose metadata goes on from here."""

    rows: IntArray
    national: Texts
    code: int
    metadata: Any = None


def _read(digits: Texts, plus: BoolArray, local: BoolArray, region: str | None) -> Iterator[_Found]:
    """The numbers by country code. What is in none of them is invalid. [phonenumberutil._maybe_extract_country_code]"""
    rows = np.flatnonzero(plus)
    codes = _country_codes(digits)[rows] if len(rows) else np.empty(0, np.int64)
    if region is not None:
        # Behind a plus may come a number as people of the region dial it; the library tries that too.
        yield _Found(rows[codes == 0], None, 0)
    yield from _international(digits, rows[codes > 0], codes[codes > 0])
    if region is None or not local.any():
        return
    metadata = _metadata(phonenumbers.country_code_for_region(region), region)
    rows = np.flatnonzero(local)
    dialled = digits.take(pa.array(rows))
    prefix = metadata.international_prefix
    # Country codes begin with no zero, so a prefix before one is none; nothing may come behind it, and is invalid then.
    abroad = _begins(dialled, prefix)
    if abroad.any():
        rest = _beyond(dialled, prefix)
        abroad &= ~matches(rest, "^0")
        out = np.flatnonzero(abroad & (lengths(rest) > 2))
        if len(out):
            rest = rest.take(pa.array(out))
            codes = _country_codes(rest)
            known = codes > 0
            yield from _international(rest, rows[out[known]], codes[known], at=np.flatnonzero(known))
        rows, dialled = rows[~abroad], dialled.filter(pa.array(~abroad))
    coded, bare = _with_own_code(dialled, metadata)
    own = metadata.country_code
    yield _Found(rows[coded], bare, own, _main_metadata(own))
    yield _Found(rows[~coded], dialled.filter(pa.array(~coded)), own, metadata)


def _international(digits: Texts, rows: IntArray, codes: IntArray, at: IntArray | None = None) -> Iterator[_Found]:
    """The numbers at `at` (else at `rows`) of digits that begin with their codes (m,)."""
    at = rows if at is None else at
    if not len(rows):
        return
    order = np.argsort(codes, kind="stable")
    rows, at, codes = rows[order], at[order], codes[order]
    begins = np.flatnonzero(np.diff(codes, prepend=-1))
    for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(codes)], strict=True):
        code = int(codes[begin])
        national = sliced(digits.take(pa.array(at[begin:end])), len(str(code)))
        yield _Found(rows[begin:end], national, code, _main_metadata(code))


def _with_own_code(digits: Texts, metadata: Any) -> tuple[BoolArray, Texts]:
    """Which numbers (n,) begin with the region's own country code without a plus, and those numbers without it."""
    own = str(metadata.country_code)
    coded = _begins(digits, own)
    if not coded.any():
        return coded, digits.filter(pa.array(coded))
    rows = np.flatnonzero(coded)
    full = digits.take(pa.array(rows))
    bare = _stripped(sliced(full, len(own)), metadata)
    general = metadata.general_desc
    pattern = general.national_number_pattern
    better = (~_fits(full, pattern) & _fits(bare, pattern)) | _is_too_long(lengths(full), general)
    coded[rows] = better
    return coded, bare.filter(pa.array(better))


def _without_prefix(national: Texts, metadata: Any) -> Texts:
    """National numbers without what is dialled before them inside the country. [phonenumberutil.parse]"""
    stripped = _stripped(national, metadata)
    if stripped is national:
        return national
    long, general = lengths(stripped), metadata.general_desc
    # What is too long stays stripped as well, as it does in the library.
    kept = _is_possible(long, general) | _is_too_long(long, general)
    return pc.if_else(pa.array(kept), stripped, national)


def _stripped(national: Texts, metadata: Any) -> Texts:
    """[phonenumberutil._maybe_strip_national_prefix_carrier_code]"""
    pattern, rule = metadata.national_prefix_for_parsing, metadata.national_prefix_transform_rule
    if not pattern:
        return national
    there = _begins(national, pattern)
    if not there.any():
        return national
    rows = np.flatnonzero(there)
    numbers = national if there.all() else national.take(pa.array(rows))
    changed = _beyond(numbers, pattern)
    if rule:
        # The rule is for numbers that the pattern's last group takes part in; it is never empty then.
        last = replaced(numbers, f"^(?:{pattern}).*$", rf"\{re.compile(pattern).groups}")
        ruled = lengths(last) > 0
        changed = pc.if_else(pa.array(ruled), replaced(numbers, f"^(?:{pattern})", rule), changed)
    general = metadata.general_desc.national_number_pattern
    worse = _fits(numbers, general) & ~_fits(changed, general)
    return _put(national, rows, pc.if_else(pa.array(worse), numbers, changed))


def _is_valid(national: Texts, code: int) -> BoolArray:
    """(n,): whether is_valid_number would say so. [phonenumberutil._region_code_for_number_from_list]"""
    regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE[code]
    long = lengths(national)
    valid = np.zeros(len(national), np.bool_)
    open_ = np.flatnonzero((long >= 2) & (long <= _LONGEST_NATIONAL))
    for region in regions:
        if not len(open_):
            break
        plan = _plan(code, region)
        some = national.take(pa.array(open_))
        typed = plan.has_type(some, long[open_])
        valid[open_] = typed
        settled = matches(some, f"^(?:{plan.leading})") if plan.leading and len(regions) > 1 else typed
        valid[open_[~settled]] = False
        open_ = open_[~settled]
    return valid


@dataclass(frozen=True)
class _Plan:
    """A region's numbering plan: a pattern for each set of lengths, all within the general one."""

    leading: str | None
    general: tuple[tuple[int, ...], str]
    types: tuple[tuple[tuple[int, ...], str], ...]

    def has_type(self, national: Texts, long: IntArray) -> BoolArray:
        """(n,): whether the numbers are of any type: fixed, mobile, ... [phonenumberutil._number_type_helper]"""
        typed = np.zeros(len(national), np.bool_)
        open_ = np.flatnonzero(_is_of(self.general, national, long))
        for kind in self.types:
            if not len(open_):
                break
            some = national if len(open_) == len(national) else national.take(pa.array(open_))
            fits = _is_of(kind, some, long[open_])
            typed[open_[fits]] = True
            open_ = open_[~fits]
        return typed


@lru_cache(maxsize=512)
def _plan(code: int, region: str) -> _Plan:
    metadata = _metadata(code, region)
    described = [metadata.fixed_line, metadata.toll_free, metadata.premium_rate, metadata.shared_cost, metadata.voip,
                 metadata.personal_number, metadata.pager, metadata.uan, metadata.voicemail]  # fmt: skip
    if not metadata.same_mobile_and_fixed_line_pattern:
        described.insert(0, metadata.mobile)
    patterns: dict[tuple[int, ...], list[str]] = {}
    for each in described:
        if each is not None and each.national_number_pattern:
            patterns.setdefault(tuple(each.possible_length), []).append(each.national_number_pattern)
    general = (tuple(metadata.general_desc.possible_length), metadata.general_desc.national_number_pattern)
    types = tuple((long, "|".join(f"(?:{each})" for each in found)) for long, found in patterns.items())
    return _Plan(metadata.leading_digits, general, types)


def _is_of(kind: tuple[tuple[int, ...], str], national: Texts, long: IntArray) -> BoolArray:
    possible, pattern = kind
    fits = _in(long, possible) if possible else np.ones(len(long), np.bool_)
    if fits.all():
        return _fits(national, pattern)
    if fits.any():
        fits[fits] = _fits(national.filter(pa.array(fits)), pattern)
    return fits


def _begins(digits: Texts, pattern: str) -> BoolArray:
    """(n,): whether they begin with what the pattern describes; most describe nothing but digits."""
    return mask(pc.starts_with(digits, pattern)) if pattern.isdigit() else matches(digits, f"^(?:{pattern})")


def _beyond(digits: Texts, pattern: str) -> Texts:
    """The digits without what the pattern describes at their beginning."""
    if not pattern.isdigit():
        return replaced(digits, f"^(?:{pattern})", "")
    return pc.if_else(pc.starts_with(digits, pattern), sliced(digits, len(pattern)), digits)


def _fits(national: Texts, pattern: str) -> BoolArray:
    return matches(national, f"^(?:{pattern})$")


def _is_possible(long: IntArray, description: Any) -> BoolArray:
    """[phonenumberutil._test_number_length]: whether numbers of these lengths can be."""
    return _in(long, description.possible_length) & ~_in(long, description.possible_length_local_only)


def _is_too_long(long: IntArray, description: Any) -> BoolArray:
    too_long: BoolArray = long > max(description.possible_length)
    return too_long & ~_in(long, description.possible_length_local_only)


def _in(long: IntArray, possible: Any) -> BoolArray:
    return np.isin(long, np.array(tuple(possible), np.int64))


def _main_metadata(code: int) -> Any:
    return _metadata(code, phonenumbers.region_code_for_country_code(code))


def _metadata(code: int, region: str) -> Any:
    """The library's rules for a region; for numbers of no region, "001", those of the country code."""
    return PhoneMetadata.metadata_for_region_or_calling_code(code, region)


def _country_codes(digits: Texts) -> IntArray:
    """The country code (n,) that each number begins with, 0 for none."""
    first = pc.utf8_rpad(sliced(digits, 0, 3), 3, padding="0")
    threes = buffers(first)[0].reshape(len(digits), 3).astype(np.int64) - ord("0")
    codes: IntArray = _code_table()[threes @ np.array([100, 10, 1])]
    return codes


@lru_cache(maxsize=1)
def _code_table() -> NDArray[np.int64]:
    """The country code of the numbers that begin with three given digits: no code begins with another one."""
    table = np.zeros(1000, np.int64)
    for code in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
        width = 10 ** (3 - len(str(code)))
        table[code * width : (code + 1) * width] = code
    return table
