from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.protocols import ids
from tidegate.protocols.channel import ConfigError
from tidegate.protocols.ids import Validity, keep_first, normalise, repeats


def spelled(kind: str, text: str, region: str | None = None) -> str | None:
    """The identifier a single text becomes, without its kind; None if it becomes none."""
    found, _ = normalise(kind, [text], region)
    return found.data.removeprefix(kind.encode() + b"\0").decode() if len(found) else None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Anna@Example.COM", "anna@example.com"),
        (" \tanna@example.com\u00a0\n", "anna@example.com"),
        ("\ufeffanna@example.com\u200b", "anna@example.com"),
        ("anna.b+news@example.com", "anna.b+news@example.com"),
        ("anna@b\u00fccher.example", "anna@xn--bcher-kva.example"),
        ("ANNA@B\u00dcCHER.example", "anna@xn--bcher-kva.example"),
        ("\uff41nna@example.com", "anna@example.com"),
        ("jos\u00e9@example.com", "jos\u00e9@example.com"),
        ("jose\u0301@example.com", "jos\u00e9@example.com"),
        ("anna@sub.example.co.uk", "anna@sub.example.co.uk"),
    ],
)
def test_spellings_of_an_address_become_one(text: str, expected: str) -> None:
    assert spelled("email", text) == expected


@pytest.mark.parametrize(
    "text",
    ["anna", "anna@", "@example.com", "anna@example", "a@b@example.com", "an na@example.com", "anna@exa mple.com",
     "anna@-example.com", "anna@example..com", "anna@.com", "x" * 65 + "@example.com", "anna@" + "x" * 64 + ".com",
     "anna@" + "\u00fc" * 70 + ".com", "anna\0@example.com", "anna@" + "abcdefgh." * 30 + "com", "\udcff@example.com"],
)  # fmt: skip
def test_what_is_no_address_is_invalid(text: str) -> None:
    assert spelled("email", text) is None


@pytest.mark.parametrize(
    ("text", "region", "expected"),
    [
        ("06 12345678", "NL", "+31612345678"),
        ("0612345678", "nl", "+31612345678"),
        ("(06) 1234-5678", "NL", "+31612345678"),
        ("+31 6 12345678", "NL", "+31612345678"),
        ("+31 (0)6 12345678", "NL", "+31612345678"),
        ("0031612345678", "NL", "+31612345678"),
        ("0031 6 12345678", None, "+31612345678"),
        ("31612345678", "NL", "+31612345678"),
        ("612345678", "NL", "+31612345678"),
        ("+44 20 7946 0958", "NL", "+442079460958"),
        ("(415) 555-2671", "US", "+14155552671"),
        ("138 1234 5678", "CN", "+8613812345678"),
        ("06 698 12345", "IT", "+390669812345"),
        ("\uff10\uff16 12345678", "NL", "+31612345678"),
    ],
)
def test_spellings_of_a_phone_number_become_one(text: str, region: str | None, expected: str) -> None:
    assert spelled("phone", text, region) == expected


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("06 12345678", None),
        ("12", "NL"),
        ("phone", "NL"),
        ("+999 123456", None),
        ("06123456789012", "NL"),
        ("+", "NL"),
    ],
)
def test_what_is_no_phone_number_is_invalid(text: str, region: str | None) -> None:
    assert spelled("phone", text, region) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6D92078A-8246-4BA4-AE5B-76104861E7DC", "6d92078a82464ba4ae5b76104861e7dc"),
        ("{6d92078a82464ba4ae5b76104861e7dc}", "6d92078a82464ba4ae5b76104861e7dc"),
        ("0123456789abcdef", "0123456789abcdef"),
        ("00000000-0000-0000-0000-000000000000", None),
        ("not-a-device", None),
        ("6d92078a", None),
    ],
)
def test_device_ids_lose_case_and_dashes_and_refusals_are_invalid(text: str, expected: str | None) -> None:
    assert spelled("device", text) == expected


def test_free_text_keeps_its_case_and_loses_spare_blanks() -> None:
    assert spelled("text", "  Card  no.\tAB-1 ") == "Card no. AB-1"
    assert spelled("text", "x" * 1025) is None


def test_same_text_under_another_kind_is_another_identifier() -> None:
    as_text, _ = normalise("text", ["0123456789abcdef"])
    as_device, _ = normalise("device", ["0123456789abcdef"])
    assert as_text.data != as_device.data


def test_rows_without_identifier_are_left_out_and_counted() -> None:
    found, validity = normalise("email", ["a@x.nl", None, "nonsense", " ", "A@X.NL", "b@x.nl", ""])
    assert found.rows.tolist() == [0, 4, 5]
    assert list(found) == [b"email\0a@x.nl", b"email\0a@x.nl", b"email\0b@x.nl"]
    assert validity == Validity(valid=3, invalid=1, missing=3, duplicates=1, shapes=(("other", 1),))
    assert keep_first(found).rows.tolist() == [0, 5]


def test_empty_column_gives_no_identifiers() -> None:
    found, validity = normalise("email", [])
    assert len(found) == 0
    assert validity == Validity(0, 0, 0, 0)
    assert len(keep_first(found)) == 0
    assert len(found.take(np.empty(0, np.bool_))) == 0


@pytest.mark.parametrize(("kind", "region"), [("name", None), ("phone", "XX"), ("phone", "Netherlands"), ("", None)])
def test_unknown_kind_or_region_is_a_configuration_error(kind: str, region: str | None) -> None:
    with pytest.raises(ConfigError):
        normalise(kind, ["x"], region)


def test_every_kind_is_served() -> None:
    for kind in ids.KINDS:
        assert len(normalise(kind, [None], "NL")[0]) == 0


def test_identifiers_never_print() -> None:
    found, _ = normalise("email", ["anna@example.com"])
    assert not re.search("anna", f"{found!r} {found}")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["a", "b", "A "])))
def test_repeats_and_pieces_agree_with_a_dictionary(texts: list[str]) -> None:
    found, validity = normalise("text", texts)
    identifiers = list(found)
    assert repeats(found).tolist() == [item in identifiers[:i] for i, item in enumerate(identifiers)]
    assert validity.duplicates == len(identifiers) - len(set(identifiers))
    assert list(keep_first(found)) == list(dict.fromkeys(identifiers))
    pieces = list(found.blocks(3))
    assert [item for piece in pieces for item in piece] == identifiers
    assert [row for piece in pieces for row in piece.rows.tolist()] == found.rows.tolist()


@pytest.mark.parametrize("text", ["", " ", "\x1f", "\u2028", "\u200b \x1c"])
def test_a_text_of_nothing_but_separators_identifies_nobody(text: str) -> None:
    assert spelled("text", text) is None


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ids.KINDS), st.text(max_size=40))
def test_normalising_twice_changes_nothing_and_never_fails(kind: str, text: str) -> None:
    once = spelled(kind, text, "NL")
    if once is not None:
        assert spelled(kind, once, "NL") == once
