"""What the fast path reads is, number for number, what the library phonenumbers reads."""

from __future__ import annotations

import random
from typing import Any

import phonenumbers
import pyarrow as pa
import pytest
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from tidegate.protocols.ids import phones

DEFAULTS = (None, "US", "NL", "CN", "DE", "GB", "BR", "AR", "MX", "IT", "KZ", "RU", "FR", "AG", "AX", "SM", "NO", "AU",
            "SH", "LI", "UZ", "CO", "IL", "HU", "BY", "GG", "TA", "MN", "SG", "JP")  # fmt: skip
STYLES = (PhoneNumberFormat.E164, PhoneNumberFormat.INTERNATIONAL, PhoneNumberFormat.NATIONAL)
TYPES = sorted(value for name, value in vars(PhoneNumberType).items() if name.isupper() and isinstance(value, int))


def as_phonenumbers_reads(text: str, region: str | None) -> str | None:
    if region is None and text.startswith("00"):
        text = "+" + text[2:]
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def differences(texts: list[str], region: str | None) -> list[tuple[str, str | None, str | None]]:
    """Where whole blocks, with no number left to the library for its rarity, read something else than the library."""
    spelled = phones.speller("plain", region, few=0).spell(pa.array(texts, pa.large_string())).to_pylist()
    expected = [as_phonenumbers_reads(text, region) for text in texts]
    return [case for case in zip(texts, spelled, expected, strict=True) if case[1] != case[2]]


def examples() -> list[tuple[str, phonenumbers.PhoneNumber]]:
    """An example number of each type of every region, and of the country codes that belong to none."""
    found = []
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        for kind in TYPES:
            number = phonenumbers.example_number_for_type(region, kind)
            if number is not None:
                found.append((region, number))
    for code in sorted(phonenumbers.COUNTRY_CODES_FOR_NON_GEO_REGIONS):
        number = phonenumbers.example_number_for_non_geo_entity(code)
        if number is not None:
            found.append(("US", number))
    return found


def mutated(text: str, rng: random.Random) -> str:
    """The text with one digit or bit of decoration changed, added, doubled or lost."""
    at = rng.randrange(len(text))
    some = rng.choice("0123456789012345678901234567890123456789 +-()./")
    return rng.choice(
        [text[:at] + some + text[at + 1 :], text[:at] + some + text[at:], text[:at] + text[at + 1 :] or "1",
         text + some, some + text, "0" + text, "00" + text.lstrip("+"), "011" + text.lstrip("+"), text.lstrip("+")]
    )  # fmt: skip


def test_examples_of_every_type_read_in_their_own_region() -> None:
    by_region: dict[str, list[str]] = {}
    rng = random.Random(1)
    for region, number in examples():
        written = [phonenumbers.format_number(number, style) for style in STYLES]
        abroad = phonenumbers.format_out_of_country_calling_number(number, region)
        national = phonenumbers.national_significant_number(number)
        texts = [*written, abroad, national, f"0{national}", f"{number.country_code}{national}"]
        texts += [mutated(rng.choice(texts), rng) for _ in range(12)]
        by_region.setdefault(region, []).extend(texts)
    assert len(by_region) == len(phonenumbers.SUPPORTED_REGIONS)
    for region, texts in by_region.items():
        assert differences(texts, region) == [], region


@pytest.mark.parametrize("default", DEFAULTS)
def test_examples_of_every_type_read_in_another_region(default: str | None) -> None:
    begin = DEFAULTS.index(default)
    rng = random.Random(begin)
    texts = []
    for _, number in examples()[begin % 3 :: 3]:
        text = phonenumbers.format_number(number, rng.choice(STYLES))
        texts += [text, mutated(text, rng), mutated(mutated(text, rng), rng)]
    assert differences(texts, default) == []


@pytest.mark.parametrize("default", DEFAULTS)
def test_random_digits_read_in_a_region(default: str | None) -> None:
    rng = random.Random(3)
    texts = ["".join(rng.choices("0123456789", k=rng.randint(4, 16))) for _ in range(400)]
    if default is not None:
        code, idd = phonenumbers.country_code_for_region(default), phonenumbers.ndd_prefix_for_region(default, True)
        texts += [f"{lead}{text}" for text in texts[:200] for lead in (code, f"{code}{idd or 0}", idd or "0")]
    texts += [f"{rng.choice(['+', '00', '011', '810', '+ ('])}{text}" for text in texts[:300]]
    assert differences(texts, default) == []


def test_every_number_of_a_numbering_plan_with_rules_of_its_own_is_read() -> None:
    """The regions whose prefixes carry a carrier's code, an area or a whole rewriting."""
    rng = random.Random(4)
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        metadata: Any = phonenumbers.PhoneMetadata.metadata_for_region(region)
        if not metadata.national_prefix_transform_rule:
            continue
        lengths = metadata.general_desc.possible_length
        texts = []
        for _ in range(150):
            lead = rng.choice(["", "0", "1", "8", "15", "90", "0" + str(rng.randint(10, 999)), "9"])
            texts.append(lead + "".join(rng.choices("0123456789", k=rng.choice(lengths) - rng.randint(0, 3))))
        assert differences(texts, region) == [], region


def test_tidy_numbers_do_not_wait_for_the_library() -> None:
    for region, number in examples():
        texts = [phonenumbers.format_number(number, style) for style in STYLES[:2]]
        texts.append(phonenumbers.national_significant_number(number))
        _, undecided = phones.speller("plain", region, few=0).block(pa.array(texts, pa.large_string()))
        assert not undecided.any(), texts


def test_what_no_fast_path_knows_is_left_to_the_library() -> None:
    odd = ["tel:+31-6-12345678", "+31612345678 ext. 5", "1-800-FLOWERS", "+31 6 12345678#", "06;12345678", "12", "1",
           "\uff10\uff16 12345678", "+\u0663\u0661612345678", "++31612345678", "+31+612345678", "0+31612345678", "*31#",
           "(+31) 6 12345678", "+31 (0)6 12345678", "+", "()", "-", "+31/6.12345678", "6" * 300, "+0031612345678",
           "003100612345678", "00" + "0" * 12, "0" * 14, "06\x0012345678", "06\u202e12345678"]  # fmt: skip
    for region in (None, "NL", "US", "RU"):
        assert differences(odd, region) == []
