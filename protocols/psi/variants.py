"""How a column of identifiers may be written in fact, and which of its rows a keyed sample draws.

The doctor compares what the contract says both sides write with what they may write instead: a variant is a change
of the raw text, a profile or a region, and the rest is `ids.normalise`. What both compare is in one *form*: the text
itself, or its SHA-256 or MD5 where one side has nothing else.

A keyed sample draws the same people at both sides. Of clear text it draws by a coarse form that every variant of an
identifier shares (of a phone number its last digits), of digests by the digest itself. Neither side chooses whom: the
key comes from the contract.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc

from ..ids import Identifiers, digests, normalise
from ..ids.column import (
    TEXT,
    BoolArray,
    IntArray,
    Texts,
    buffers,
    ends,
    from_buffers,
    joined,
    mask,
    matches,
    nulled,
    replaced,
    sliced,
    trimmed,
)
from .token_lists import pseudonyms

CONTRACT, LOOSE, WRITTEN = "contract", "loose", "written"
FORMS = ("clear", "sha256", "md5")
SAMPLED_WHOLE = 2**64
Blocks = Iterable[Any]
"""A column in pieces of some 100,000 rows: pyarrow arrays of text, or sequences of str | None."""
_KEY_LABEL = b"tidegate doctor sample v1\0"
_LOOSE_DIGITS, _COARSE_DIGITS = 8, 7


@dataclass(frozen=True)
class Variant:
    """A way to write: what happens to the raw text first, and which profile reads it (None: the contract's).

    rules: whether `normalise` reads the result; else it stands as it is. retry: what happens to texts that are invalid
    still. after: what becomes of the spelling before it is hashed. region: whether the other region reads it.
    """

    name: str
    change: Callable[[Texts], Texts] = lambda texts: texts
    retry: Callable[[Texts], Texts] | None = None
    after: Callable[[Texts], Texts] | None = None
    profile: str | None = None
    rules: bool = True
    region: bool = False


@dataclass(frozen=True)
class Shape:
    """What a column looks like, in rows: they add up to its length, but for rounded ones, which are clear text too.

    clear, sha256, md5, sha1: how many are written so. valid: of the clear ones, those that the contract's rules take.
    rounded: phone numbers like 3.16E+10, which lost digits for good. missing: nothing. country: the region most of its
    phone numbers with a country code are from, empty where it has none.
    """

    clear: int = 0
    sha256: int = 0
    md5: int = 0
    sha1: int = 0
    valid: int = 0
    rounded: int = 0
    missing: int = 0
    country: str = ""

    @property
    def form(self) -> str:
        """What most of the column is written as; clear where it is empty."""
        written = {name: getattr(self, name) for name in ("clear", "sha256", "md5", "sha1")}
        return max(written, key=lambda name: written[name])


def names(kind: str, form: str) -> tuple[str, ...]:
    """The variants of a kind that are compared in a form, the contract's own first."""
    return tuple(variant.name for variant in _VARIANTS[kind, form != "clear"])


def shape(kind: str, blocks: Blocks, region: str | None, profile: str, given: str = "clear") -> Shape:
    """What the column looks like; the blocks hold its raw texts. given: the form that its owner says it has."""
    counts: Counter[str] = Counter()
    countries: Counter[str] = Counter()
    for block in blocks:
        texts, broken = trimmed(block)
        hashed = {name: _hashed(kind, texts, name, given) for name in ("sha256", "md5", "sha1")}
        clear = mask(texts.is_valid()) & ~np.logical_or.reduce(list(hashed.values()))
        chosen = texts.filter(pa.array(clear))
        counts.update({name: int(where.sum()) for name, where in hashed.items()})
        counts["clear"] += len(chosen)
        counts["missing"] += texts.null_count - int(broken.sum())
        counts["clear"] += int(broken.sum())
        counts["valid"] += normalise(kind, chosen, region, profile=profile)[1].valid
        if kind == "phone":
            counts["rounded"] += int(_is_rounded(chosen).sum())
            countries.update(_countries(chosen))
    country = countries.most_common(1)[0][0] if countries else ""
    return Shape(**counts, country=country)


def sample_key(contract_hash: bytes) -> bytes:
    """The key that draws the sample, which both parties know and neither chose."""
    return hashlib.sha256(_KEY_LABEL + contract_hash).digest()


@dataclass(frozen=True)
class Sample:
    """Which identifiers are drawn: those whose keyed hash, as a number of 64 bits, is under `below`."""

    key: bytes
    below: int

    @classmethod
    def of(cls, contract_hash: bytes, wanted: int, rows: int) -> Sample:
        """About `wanted` out of `rows`, all of them where there are no more."""
        return cls(sample_key(contract_hash), min(SAMPLED_WHOLE, (wanted << 64) // max(rows, 1)))

    @property
    def rate(self) -> float:
        return self.below / SAMPLED_WHOLE

    def draws(self, values: Any) -> BoolArray:
        """Which of the values (n,), text or bytes, are drawn; null and empty ones are not."""
        there = mask(pc.greater(pc.binary_length(values), 0))
        if self.below == SAMPLED_WHOLE:
            return there
        hashes = pseudonyms(*_bytes_of(values), self.key)[:, :8].copy().view(">u8").ravel()
        return there & (hashes < np.uint64(self.below))


def _bytes_of(values: Any) -> tuple[bytes, IntArray]:
    data, offsets = buffers(values)
    return data.tobytes(), offsets


@dataclass(frozen=True)
class Group:
    """The sampled identifiers in one variant, all different; `changed` of its rows are not as the contract's own."""

    ids: Identifiers
    changed: int


def groups(
    kind: str,
    form: str,
    blocks: Blocks,
    sample: Sample,
    *,
    region: str | None,
    other_region: str | None,
    profile: str,
    hashed: bool,
) -> dict[str, Group]:
    """The sampled identifiers of a column in each variant of `names(kind, form)`.

    hashed: whether the column holds digests in that form; then there is the contract's own variant alone.
    other_region: what the variant "region" reads numbers by; None for none.
    """
    variants = [
        variant
        for variant in _VARIANTS[kind, form != "clear"]
        if (variant.name == CONTRACT or not hashed) and (not variant.region or other_region)
    ]
    parts: dict[str, list[Any]] = {variant.name: [] for variant in variants}
    changed: Counter[str] = Counter()
    for block in blocks:
        texts, _ = trimmed(block)
        if form == "clear":
            texts = texts.filter(pa.array(sample.draws(_COARSE[kind](texts))))
        own = None
        for variant in variants:
            read_by = other_region if variant.region else region
            found = _spelled(kind, texts, variant, form, form if hashed else "clear", read_by, profile)
            own = found if own is None else own
            drawn = found if form == "clear" else found.filter(pa.array(sample.draws(found)))
            parts[variant.name].append(drawn.filter(pc.greater(pc.binary_length(drawn), 0)))
            unlike = mask(pc.not_equal(found, own)) & mask(pc.greater(pc.binary_length(found), 0))
            changed[variant.name] += round(int(unlike.sum()) * (1 if form == "clear" else sample.rate))
    made = {}
    for variant in variants:
        space = LOOSE if variant.name == LOOSE else form
        made[variant.name] = Group(_identifiers(f"{kind}\0{space}\0", parts[variant.name]), changed[variant.name])
    return made


def is_comparable(kind: str, form: str, one: str, other: str) -> bool:
    """Whether equal identifiers in these two variants would mean the same person, and differ in a plausible way."""
    if LOOSE in (one, other):
        return one == other
    return one == other or CONTRACT in (one, other) or (kind == "phone" and form == "clear")


def _spelled(kind: str, texts: Texts, variant: Variant, form: str, given: str, region: str | None, profile: str) -> Any:
    """Bytes of each row's identifier without its prefix, empty where it has none."""

    def read(texts: Texts, form: str) -> Any:
        ids, _ = normalise(kind, texts, region, profile=variant.profile or profile, given=given, form=form)
        prefix = ids[0].index(b"\0") + 1 if len(ids) else 0
        kept = np.ones(len(ids.data), np.bool_)
        kept[(ids.offsets[:-1, None] + np.arange(prefix)).ravel()] = False
        lengths = np.zeros(len(texts), np.int64)
        lengths[ids.rows] = np.diff(ids.offsets) - prefix
        data = np.frombuffer(ids.data, np.uint8)[kept]
        return from_buffers(data.tobytes(), ends(lengths), pa.large_binary())

    if given != "clear":
        return read(texts, form)
    texts = variant.change(texts)
    if variant.rules and not variant.after:
        found = read(texts, form)
        if variant.retry is not None:
            empty = mask(pc.equal(pc.binary_length(found), 0))
            again = read(variant.retry(texts.filter(pa.array(empty))), form)
            found = pc.replace_with_mask(found, pa.array(empty), again)
        return found
    if variant.after:
        texts = variant.after(read(texts, "clear").cast(TEXT))
    return _as_form(texts, form)


def _as_form(texts: Texts, form: str) -> Any:
    if form == "clear":
        return texts.fill_null("").cast(pa.large_binary())
    there = mask(pc.greater(pc.binary_length(texts), 0))
    made = digests.make(texts.filter(pa.array(there)), form)
    return from_buffers(made.tobytes(), ends(np.where(there, made.shape[1], 0)), pa.large_binary())


def _identifiers(prefix: str, parts: list[Any]) -> Identifiers:
    unique = pa.chunked_array(parts, pa.large_binary()).unique()
    start = pa.scalar(prefix.encode(), pa.large_binary())
    data, offsets = buffers(pc.binary_join_element_wise(start, unique, pa.scalar(b"", pa.large_binary())))
    return Identifiers(data.tobytes(), offsets, np.arange(len(unique), dtype=np.int64))


_HEX_DIGITS = {"sha256": 64, "md5": 32, "sha1": 40}
_BASE64_LETTERS = {"sha256": 43, "md5": 22, "sha1": 27}


def _hashed(kind: str, texts: Texts, form: str, given: str) -> BoolArray:
    """Which texts look like digests. 32 hexadecimal digits are a device id, unless the column is said to be hashed."""
    written = f"^[A-Za-z0-9+/_-]{{{_BASE64_LETTERS[form]}}}={{0,2}}$"
    # A digest in base64 has a capital, a small letter and a digit; a customer number of the same length need not.
    found = (
        matches(texts, written) & matches(texts, "[A-Z]") & matches(texts, "[a-z]") & matches(texts, "[0-9]")
        if kind != "phone"
        else matches(texts, written) & matches(texts, "[A-Za-z]")
    )
    if (kind, form) != ("device", "md5") or given == "md5":
        found |= matches(texts, f"^[0-9a-fA-F]{{{_HEX_DIGITS[form]}}}$")
    return found


_SCIENTIFIC = re.compile(r"[0-9](?:[.,][0-9]+)?[eE]\+?[0-9]{1,2}")
_IS_SCIENTIFIC = r"^[0-9](?:[.,][0-9]+)?[eE]\+?[0-9]{1,2}$"


def _whole(text: str) -> str | None:
    """What a number in scientific notation stood for, None where digits are lost; other text as it is."""
    if not _SCIENTIFIC.fullmatch(text):
        return text
    mantissa, _, exponent = text.replace(",", ".").upper().partition("E")
    digits = len(mantissa.replace(".", ""))
    return str(int(Decimal(text.replace(",", ".")))) if digits > int(exponent) - 3 else None


def _is_rounded(texts: Texts) -> BoolArray:
    found = matches(texts, _IS_SCIENTIFIC)
    at = np.flatnonzero(found)
    found[at] = [_whole(text) is None for text in texts.take(pa.array(at)).to_pylist()]
    return found


_LOOKED_AT = 300


def _countries(texts: Texts) -> Counter[str]:
    """The regions of some of the numbers that are written with a country code."""
    written = texts.filter(pa.array(matches(texts, r"^(\+|00)[1-9]"))).slice(0, _LOOKED_AT).to_pylist()
    found: Counter[str] = Counter()
    for text in written:
        try:
            number = phonenumbers.parse("+" + text.lstrip("+0"), None)
        except phonenumbers.NumberParseException:
            continue
        found[phonenumbers.region_code_for_number(number) or ""] += 1
    del found[""]
    return found


# Changes of the raw text.


def _folded(texts: Texts) -> Texts:
    return texts if pc.all(pc.string_is_ascii(texts)).as_py() is not False else pc.utf8_normalize(texts, form="NFKC")


_ADDRESS = r"(?P<a>[^\s<>@:,;\"'()\[\]]+@[^\s<>@,;\"'()\[\]]+)"


def _unwrapped(texts: Texts) -> Texts:
    """The address alone, out of "Anna <anna@x.nl>", mailto:anna@x.nl and the like."""
    return replaced(_extracted(_folded(texts), _ADDRESS), r"[.]+$", "")


def _extracted(texts: Texts, pattern: str) -> Texts:
    """What the group called a matches, the whole text where nothing does."""
    found = pc.extract_regex(texts, pattern)
    return pc.if_else(found.is_valid(), pc.struct_field(found, "a").cast(TEXT), texts)


def _one_google(texts: Texts) -> Texts:
    return replaced(texts, r"(?i)@googlemail\.com$", "@gmail.com")


def _tagless(texts: Texts) -> Texts:
    return replaced(texts, r"\+[^@]*@", "@")


def _unspoilt(texts: Texts) -> Texts:
    """Numbers as they were before a spreadsheet took them for amounts: 31612345678.0, '0612345678, 3.1612345678E+10."""
    tidy = replaced(replaced(texts, r"^[='\"`]+|[\"]+$", ""), r"[.,]0+$", "")
    scientific = matches(tidy, _IS_SCIENTIFIC)
    if scientific.any():
        whole = [_whole(text) for text in tidy.filter(pa.array(scientific)).to_pylist()]
        tidy = pc.replace_with_mask(tidy, pa.array(scientific), pa.array(whole, TEXT))
    return tidy


def _plus(texts: Texts) -> Texts:
    """A plus before numbers that have the digits of a country code and nothing before them."""
    where = matches(texts, "^[1-9][0-9]{9,14}$")
    return pc.if_else(pa.array(where), joined("+", texts.fill_null("")), texts)


def _digits(texts: Texts) -> Texts:
    return replaced(replaced(_unspoilt(_folded(texts)), r"(?i)\(0\)|(x|ext).*$", ""), r"[^0-9]", "")


def _last_digits(texts: Texts, n: int) -> Texts:
    digits = _digits(texts)
    short = ~mask(pc.greater_equal(pc.binary_length(digits), n))
    return nulled(sliced(digits, -n), short)


def _hexadecimal(texts: Texts) -> Texts:
    """The device id alone, out of idfa:..., urn:uuid:... and quotes."""
    return _extracted(texts, r"(?P<a>[0-9A-Fa-f][0-9A-Fa-f-]{13,})")


def _plain_text(texts: Texts) -> Texts:
    return replaced(texts, r"[^\pL\pN]", "")


def _unaccented(texts: Texts) -> Texts:
    if pc.all(pc.string_is_ascii(texts)).as_py() is not False:
        return texts
    return replaced(pc.utf8_normalize(texts, form="NFKD"), r"\pM", "")


def _zeroless(texts: Texts) -> Texts:
    return replaced(texts, r"^0+(.)", r"\1")


def _decimalless(texts: Texts) -> Texts:
    return replaced(texts, r"^([0-9]+)[.,]0+$", r"\1")


def _loose_text(texts: Texts) -> Texts:
    return _zeroless(_plain_text(_unaccented(pc.utf8_lower(_decimalless(_folded(texts))))))


def _loose_address(texts: Texts) -> Texts:
    """Lower case, no dots or tags before the @, one Google: what every way to write an address shares."""
    whole = _one_google(_tagless(pc.utf8_lower(_unwrapped(texts))))
    parts = pc.extract_regex(whole, r"^(?P<l>[^@]*)@(?P<d>[^@]*)$")
    local = _plain_text(pc.struct_field(parts, "l").cast(TEXT))
    return joined(local, "@", pc.struct_field(parts, "d").cast(TEXT))


# No country code starts like another one.
_COUNTRY_CODE = rf"^\+(?:{'|'.join(map(str, phonenumbers.COUNTRY_CODE_TO_REGION_CODE))})"


def _in_its_country(texts: Texts, start: str) -> Texts:
    """The number in its country, after `start`: what is left of +31612345678 without its country code."""
    return replaced(texts, _COUNTRY_CODE, start)


_COARSE: dict[str, Callable[[Texts], Texts]] = {
    "email": _loose_address,
    "phone": lambda texts: _last_digits(texts, _COARSE_DIGITS),
    "device": lambda texts: pc.ascii_lower(pc.replace_substring(_hexadecimal(texts), "-", "")),
    "text": _loose_text,
}
_UUID = r"^([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})$"


def _bare_id(texts: Texts) -> Texts:
    return pc.ascii_lower(pc.replace_substring(_hexadecimal(texts), "-", ""))


def _hyphened_id(texts: Texts) -> Texts:
    return replaced(_bare_id(texts), _UUID, r"\1-\2-\3-\4-\5")


_OWN = Variant(CONTRACT)
_AS_WRITTEN = Variant(WRITTEN, rules=False)
# By kind, and whether digests are compared.
_VARIANTS: dict[tuple[str, bool], tuple[Variant, ...]] = {
    ("email", False): (
        _OWN,
        Variant("unwrapped", _unwrapped),
        Variant("google", profile="google"),
        Variant("googlemail", _one_google),
        Variant("tagless", profile="tiktok"),
        Variant(LOOSE, _loose_address),
    ),
    ("email", True): (
        _OWN,
        _AS_WRITTEN,
        Variant("google", profile="google"),
        Variant("tagless", profile="tiktok"),
    ),
    ("phone", False): (
        _OWN,
        Variant("plus", retry=_plus),
        Variant("region", region=True),
        Variant("spreadsheet", _unspoilt, retry=_plus),
        Variant(LOOSE, lambda texts: _last_digits(texts, _LOOSE_DIGITS), rules=False),
    ),
    ("phone", True): (
        _OWN,
        Variant("region", region=True),
        _AS_WRITTEN,
        Variant("with plus", profile="plain"),
        Variant("without plus", profile="meta"),
        Variant("national", after=lambda texts: _in_its_country(texts, "0"), profile="plain"),
        Variant("bare", after=lambda texts: _in_its_country(texts, ""), profile="plain"),
    ),
    ("device", False): (_OWN, Variant("unwrapped", retry=_hexadecimal)),
    ("device", True): (
        _OWN,
        _AS_WRITTEN,
        Variant("hyphened", _hyphened_id, rules=False),
        Variant("upper hyphened", lambda texts: pc.ascii_upper(_hyphened_id(texts)), rules=False),
        Variant("bare", _bare_id, rules=False),
        Variant("upper bare", lambda texts: pc.ascii_upper(_bare_id(texts)), rules=False),
    ),
    ("text", False): (
        _OWN,
        Variant("case", pc.utf8_lower),
        Variant("blanks", _plain_text),
        Variant("accents", _unaccented),
        Variant("zeros", _zeroless),
        Variant("decimals", _decimalless),
        Variant(LOOSE, _loose_text),
    ),
    ("text", True): (_OWN, _AS_WRITTEN, Variant("case", pc.utf8_lower)),
}
