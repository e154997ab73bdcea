from __future__ import annotations

import re
from string import ascii_letters, digits

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.protocols import ids
from tidegate.protocols.channel import ConfigError
from tidegate.protocols.ids import Validity, join_blocks, keep_first, normalise, repeats


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


MIXED = ["a@x.nl", None, "nonsense", " ", "A@X.NL", "b@x.nl", "\u00e9@x.nl", "", "c@x.nl", "a@x.nl"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(MIXED),
        pa.array(MIXED, pa.large_string()),
        pa.array(MIXED, pa.string_view()),
        pa.array(["z@x.nl", *MIXED, "y@x.nl"]).slice(1, len(MIXED)),
        pa.chunked_array([MIXED[:3], [], MIXED[3:]], pa.string()),
        pa.array(MIXED).dictionary_encode(),
        tuple(MIXED),
    ],
    ids=str,
)
def test_a_column_is_read_however_it_is_held(column: pa.Array) -> None:
    found, validity = normalise("email", column)
    expected, counted = normalise("email", MIXED)
    assert (list(found), found.rows.tolist(), validity) == (list(expected), expected.rows.tolist(), counted)
    assert validity == Validity(6, 1, 3, 2, (("other", 1),))


def test_whole_numbers_are_read_as_their_digits() -> None:
    found, _ = normalise("phone", pa.array([31612345678, None], pa.int64()), "NL")
    assert list(found) == [b"phone\0+31612345678"]


def test_a_column_of_fractions_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="holds no identifiers"):
        normalise("phone", pa.array([1.5]))


def test_bytes_that_are_no_text_are_invalid() -> None:
    raw = pa.array([b"a@x.nl", b"\xff@x.nl", None, b"\xc3\xa9@x.nl"])
    column = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    found, validity = normalise("email", column)
    assert found.rows.tolist() == [0, 3]
    assert (validity.invalid, validity.missing) == (1, 1)


def test_no_blocks_give_no_identifiers() -> None:
    assert len(join_blocks([])) == 0


def test_repeats_are_found_among_many_of_every_length() -> None:
    texts = ["x" * (i % 40 + 1) + str(i % 30_000) for i in range(70_000)]
    found, validity = normalise("text", texts)
    seen: set[str] = set()
    expected = []
    for text in texts:
        expected.append(text in seen)
        seen.add(text)
    assert repeats(found).tolist() == expected
    assert validity.duplicates == sum(expected)


def shapes_of(kind: str, texts: list[str | None], region: str | None = None) -> tuple[tuple[str, int], ...]:
    return normalise(kind, texts, region)[1].shapes


def test_shapes_tell_what_the_refused_look_like() -> None:
    texts = [f"{i:010d}" for i in range(40)] + [f"Tel {i:03d}-x" for i in range(20)] + ["\u00e9\u00e9 1\x07"] * 11
    assert shapes_of("phone", [*texts, "rare!", None]) == (
        ("9{10}", 40), ("Aa{2} 9{3}-a", 20), ("u{2} 9c", 11), ("other", 1)
    )  # fmt: skip


def test_shapes_of_digests_and_device_ids_are_known() -> None:
    hashes = [f"{i * 7919:064x}" for i in range(1, 31)] + [f"{i * 7919:032X}" for i in range(1, 21)]
    devices = [f"{i:08x}-0000-4000-8000-{i * 7919:012X}" for i in range(10)]
    encoded = [f"{i:043d}=" for i in range(12)]
    assert shapes_of("email", hashes + devices + encoded) == (
        ("x{64}", 30), ("x{32}", 20), ("b{43}=", 12), ("x{8}-x{4}-x{4}-x{4}-x{12}", 10)
    )  # fmt: skip


def test_a_shape_that_few_rows_have_is_not_shown() -> None:
    assert shapes_of("email", ["anna"] * 9 + ["b"] * 10) == (("a", 10), ("other", 9))
    assert shapes_of("email", [f"{i:064x}" for i in range(9)]) == (("other", 9),)


def test_no_more_than_five_shapes_are_shown() -> None:
    texts = ["a" * size for size in range(1, 9) for _ in range(10 + size)]
    shown = shapes_of("email", texts)
    assert [shape for shape, _ in shown] == ["a{8}", "a{7}", "a{6}", "a{5}", "a{4}", "other"]
    assert sum(rows for _, rows in shown) == len(texts)


def test_a_shape_is_short_and_never_a_value() -> None:
    canary = "S3cret-Canary!" * 40
    _, validity = normalise("email", [canary] * 50 + ["canary@secret"] * 50 + ["Xy7"] * 9)
    shown = repr(validity)
    assert all(len(shape) <= 80 for shape, _ in validity.shapes)
    assert not re.search("canary|s3cret|xy7|secret", shown, re.IGNORECASE)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_shapes_hold_no_letter_and_no_digit_of_a_value(text: str) -> None:
    for kind in ("email", "phone", "device"):
        for shape, _ in shapes_of(kind, [text] * 10):
            assert shape.isascii()
            assert shape.isprintable()
            assert set(re.sub(r"\{[0-9]+\}", "", shape)) - set("aA9ucxb") <= set(text) - set(ascii_letters + digits)


def test_validities_of_blocks_add_up() -> None:
    one = Validity(5, 12, 1, 0, (("9{10}", 12),))
    two = Validity(3, 25, 0, 1, (("a{3}", 15), ("other", 10)))
    assert one + two == Validity(8, 37, 1, 1, (("a{3}", 15), ("9{10}", 12), ("other", 10)))
    assert (one + two).share_valid == 8 / 46
    assert Validity(0, 0, 0, 0).share_valid == 0.0
