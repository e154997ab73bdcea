"""Each profile spells and hashes as its publisher says: docs/identifiers.md has the pages."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import partial

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.protocols import ids
from tidegate.protocols.channel import ConfigError
from tidegate.protocols.ids import devices, emails, free_text, normalise, phones
from tidegate.protocols.ids.speller import Speller


def entered(kind: str, text: str, profile: str, form: str = "clear", region: str | None = None) -> bytes | None:
    """What a single text becomes, without the prefix; None if it becomes nothing."""
    found, _ = normalise(kind, [text], region, profile=profile, form=form)
    return found.data.partition(b"\0")[2] if len(found) else None


@pytest.mark.parametrize(
    ("kind", "profile", "text", "region", "expected"),
    [
        ("email", "google", "cloudy.sanfrancisco+shopping@gmail.com", None, "cloudysanfrancisco@gmail.com"),
        ("email", "google", "Cloudy.San Francisco@GoogleMail.com ", None, "cloudysanfrancisco@googlemail.com"),
        ("email", "google", "user.name+NYC@Example.com", None, "user.name+nyc@example.com"),
        ("email", "google", "a.b@notgmail.com", None, "a.b@notgmail.com"),
        ("phone", "google", "(800)555-0100", "US", "+18005550100"),
        ("email", "meta", " John_Smith@gmail.com", None, "john_smith@gmail.com"),
        ("email", "meta", "J.Smith+x@gmail.com", None, "j.smith+x@gmail.com"),
        ("phone", "meta", "(650)555-1212", "US", "16505551212"),
        ("phone", "meta", "+1 650 555 1212", None, "16505551212"),
        ("phone", "meta", "0016505551212", None, "16505551212"),
        ("phone", "meta", "1 (650) 555-1212", None, "16505551212"),
        ("email", "tiktok", "Jane.Doe+news@Example.com", None, "jane.doe@example.com"),
        ("phone", "tiktok", "(657) 777-0000", "US", "+16577770000"),
        ("phone", "tiktok", "374-93-828222", "AM", "+37493828222"),
        ("email", "uid2", "jane.doe@gmail.com", None, "janedoe@gmail.com"),
        ("email", "uid2", "janedoe+home@gmail.com", None, "janedoe@gmail.com"),
        ("email", "uid2", "jane.doe+home@googlemail.com", None, "jane.doe+home@googlemail.com"),
        ("phone", "uid2", "1 (234) 567-8901", "US", "+12345678901"),
        ("phone", "tencent", "138 1234 5678", None, "13812345678"),
        ("phone", "tencent", "+86 138 1234 5678", "NL", "13812345678"),
        ("phone", "tencent", "010 6552 9988", None, None),
        ("phone", "tencent", "+1 650 555 1212", None, None),
        ("device", "tencent", "A000002C9060F7", None, "a000002c9060f7"),
        ("device", "plain", "A000002C9060F7", None, None),
        ("email", "google", "+tag@gmail.com", None, None),
        ("email", "uid2", "...@gmail.com", None, None),
        ("email", "tiktok", "+tag@example.com", None, None),
    ],
)
def test_published_examples_become_what_is_published(
    kind: str, profile: str, text: str, region: str | None, expected: str | None
) -> None:
    assert entered(kind, text, profile, region=region) == (None if expected is None else expected.encode())


@pytest.mark.parametrize(
    ("kind", "profile", "form", "text", "region", "digest"),
    [
        ("email", "uid2", "sha256", "user@example.com", None,
         "b4c9a289323b21a01c3e940f150eb9b8c542587f1abfd8f0e1cc1ffc5e475514"),
        ("email", "uid2", "sha256", "MYEMAIL@example.com", None,
         "16c18d336f0b250f0e2d907452ceb9658a74ecdae8bc94864c23122a72cc27a5"),
        ("email", "uid2", "sha256", "My.Email@example.com", None,
         "e22b53bc6f871274f3a62ab37a3caed7214fc14d676215a96a242fcfada1c81f"),
        ("email", "uid2", "sha256", "Jane.Saoirse@example.com", None,
         "b196432c7b989a2ca91c83799957c515da53e6c13abf20b78fea94f117e90bf8"),
        ("email", "uid2", "sha256", "JaneSaoirse+Work@example.com", None,
         "28aaee4815230cd3b4ebd88c515226550666e91ac019929e3adac3f66c288180"),
        ("email", "uid2", "sha256", "JANE.SAOIRSE@gmail.com", None,
         "92ee26057ed9dea2535d6c8b141d48373932476599196e00352254896db5888f"),
        ("email", "uid2", "sha256", "JaneSaoirse+Work@gmail.com", None,
         "92ee26057ed9dea2535d6c8b141d48373932476599196e00352254896db5888f"),
        ("phone", "uid2", "sha256", "1 (234) 567-8901", "US",
         "10e6f0b47054a83359477dcb35231db6de5c69fb1816e1a6b98e192de9e5b9ee"),
        ("email", "meta", "sha256", "John_Smith@gmail.com", None,
         "62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f"),
        ("phone", "meta", "sha256", "(650)555-1212", "US",
         "e323ec626319ca94ee8bff2e4c87cf613be6ea19919ed1364124e16807ab3176"),
        ("email", "tiktok", "sha256", "JaneDoe@gmail.com ", None,
         "d6117306485ed0e50afab3ac871e98f81699151f30281527d63ff5f233656c69"),
        ("device", "tiktok", "sha256", "5F3A2B18-9C4D-4E7F-B8E2-17D3A1E69B25", None,
         "83dc3f5f32b9472613b0f038d36f22585a609d018af6f6067f50da318bf354bd"),
        ("device", "tencent", "md5", "FF1999CD-7177-4937-A474-74937A102630", None, "2c010ed96aef2fc34983e1e7e9176b7e"),
        ("device", "tencent", "md5", "FF1999CD71774937A47474937A102630", None, "2c010ed96aef2fc34983e1e7e9176b7e"),
        ("device", "tencent", "md5", "A000002C9060F7", None, "f2d5a650733ca8c27d502b1c08da14e5"),
        ("device", "tencent", "md5", "868049039501257", None, "8d3ebd3654fb46a2832296669cf1b536"),
        ("device", "tencent", "md5", "1fe9a970-efbb-29e0-0bdd-f5dbbf751ab5", None, "83e9158a4fb54c0e1ef0b238639a23ae"),
    ],
)  # fmt: skip
def test_published_digests_come_out(
    kind: str, profile: str, form: str, text: str, region: str | None, digest: str
) -> None:
    assert entered(kind, text, profile, form, region) == bytes.fromhex(digest)
    # The partner that has the digest alone enters the same.
    theirs, _ = normalise(kind, [digest], profile=profile, given=form, form=form)
    assert theirs.data == normalise(kind, [text], region, profile=profile, form=form)[0].data


SHA = hashlib.sha256(b"anna@example.com").digest()
MD5 = hashlib.md5(b"anna@example.com").digest()  # noqa: S324 - partners deliver it
URL_SAFE = bytes(range(250, 256)) * 5 + b"\xff\xff"


def unpadded(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


@pytest.mark.parametrize(
    ("form", "raw", "text"),
    [
        ("sha256", SHA, SHA.hex()),
        ("sha256", SHA, f"  {SHA.hex().upper()}\n"),
        ("sha256", SHA, "\ufeff" + SHA.hex()),
        ("sha256", SHA, SHA.hex()[:32] + SHA.hex()[32:].upper()),
        ("sha256", SHA, base64.b64encode(SHA).decode()),
        ("sha256", SHA, unpadded(SHA)),
        ("sha256", URL_SAFE, base64.b64encode(URL_SAFE).decode()),
        ("sha256", URL_SAFE, base64.urlsafe_b64encode(URL_SAFE).decode()),
        ("sha256", URL_SAFE, base64.urlsafe_b64encode(URL_SAFE).decode().rstrip("=")),
        ("md5", MD5, MD5.hex()),
        ("md5", MD5, MD5.hex().upper()),
        ("md5", MD5, base64.b64encode(MD5).decode()),
        ("md5", MD5, unpadded(MD5)),
    ],
)
def test_a_digest_is_read_however_it_is_written(form: str, raw: bytes, text: str) -> None:
    found, validity = normalise("email", [text], given=form, form=form)
    assert found.data == f"email:plain:{form}\0".encode() + raw
    assert validity.valid == 1


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("sha256", SHA.hex()[:-1]), ("sha256", SHA.hex() + "0"), ("sha256", "g" + SHA.hex()[1:]),
        ("sha256", MD5.hex()), ("sha256", "anna@example.com"), ("sha256", unpadded(SHA)[:-1]),
        ("sha256", unpadded(SHA) + "=="), ("sha256", unpadded(SHA)[:-1] + "="), ("sha256", unpadded(SHA) + "A"),
        ("sha256", base64.b64encode(SHA.hex().encode()).decode()), ("sha256", "\u00e9" * 32), ("sha256", "\uff11" * 64),
        ("sha256", unpadded(SHA)[:-1] + chr(ord(unpadded(SHA)[-1]) + 1)), ("sha256", "\0" * 64),
        ("sha256", "\u00e9" * 43),
        ("md5", SHA.hex()), ("md5", MD5.hex()[:-1]), ("md5", unpadded(MD5) + "="), ("md5", unpadded(MD5)[:-1] + "=="),
    ],
)  # fmt: skip
def test_what_is_no_digest_is_invalid(form: str, text: str) -> None:
    found, validity = normalise("email", [text, " "], given=form, form=form)
    assert (len(found), validity.invalid, validity.missing) == (0, 1, 1)


@pytest.mark.parametrize("form", ["sha256", "md5"])
def test_the_digest_of_nothing_is_a_missing_value_and_that_of_no_device_is_invalid(form: str) -> None:
    nothing = hashlib.new(form, b"").hexdigest()
    nobody = hashlib.new(form, b"00000000-0000-0000-0000-000000000000").hexdigest()
    _, validity = normalise("device", [nothing, nobody, None], given=form, form=form)
    assert (validity.valid, validity.invalid, validity.missing) == (0, 1, 2)


@pytest.mark.parametrize(("given", "form"), [("sha256", "clear"), ("sha256", "md5"), ("md5", "clear")])
def test_digests_cannot_enter_as_anything_else(given: str, form: str) -> None:
    with pytest.raises(ConfigError, match="cannot be turned back"):
        normalise("email", [SHA.hex()], given=given, form=form)


@pytest.mark.parametrize("wrong", [{"profile": "x"}, {"given": "sha1", "form": "sha1"}, {"form": "SHA256"}])
def test_unknown_profiles_and_forms_are_configuration_errors(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="is not a"):
        normalise("email", ["x"], **wrong)


def test_unlike_things_never_match() -> None:
    text = "0123456789abcdef0123456789abcdef"
    found = [
        normalise(kind, [text], profile=profile, form=form)[0].data
        for kind in ("device", "text")
        for profile in ids.PROFILES
        for form in ids.FORMS
    ]
    assert len(set(found)) == len(found)


HOSTILE = st.text(max_size=60) | st.text("aA1.+@ \t\x1c{}-gmail.comé\u00a0\u202e\0", max_size=40)
NASTY = ["", "\0", "\ud800", "a\udfffb@x.nl", "\u202eanna@example.com", "x" * 10_000, "\U0001f600" * 300, "+" * 10_000,
         "0" * 10_000, "a@" + "b." * 5000 + "nl", "\ufeff", "{" * 500 + "}", "-" * 64, "\u0130@x.nl"]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ids.KINDS),
    st.sampled_from(ids.PROFILES),
    st.sampled_from(ids.FORMS),
    st.booleans(),
    st.lists(HOSTILE | st.sampled_from(NASTY) | st.none(), max_size=8),
)
def test_nothing_fails_and_no_row_becomes_two(
    kind: str, profile: str, form: str, hashed: bool, texts: list[str | None]
) -> None:
    found, validity = normalise(kind, texts, profile=profile, form=form, given=form if hashed else "clear")
    assert validity.rows == len(texts)
    assert validity.valid == len(found) == len(set(found.rows.tolist()))
    assert all(0 <= row < len(texts) for row in found.rows.tolist())


ADDRESSES = st.builds(
    "{}@{}".format,
    st.text("aB1._+- é", min_size=1, max_size=12),
    st.sampled_from(["gmail.com", "GoogleMail.com", "example.com", "b\u00fccher.example", "x.gmail.com"]),
)
NUMBERS = st.builds(
    "{}{}".format, st.sampled_from(["+31", "0031", "06", "+1 ", "1", "138", "+86"]), st.integers(0, 10**9)
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ids.KINDS), st.sampled_from(ids.PROFILES), ADDRESSES | NUMBERS | HOSTILE)
def test_what_is_normalised_stays_as_it_is(kind: str, profile: str, text: str) -> None:
    once = entered(kind, text, profile)
    if once is not None:
        assert entered(kind, once.decode(), profile) == once


SPELLERS: dict[str, Callable[[], Speller]] = {
    **{f"email {profile}": partial(emails.speller, profile) for profile in ids.PROFILES},
    **{f"phone {profile}": partial(phones.speller, profile, None, few=0) for profile in ids.PROFILES},
    "phone NL": lambda: phones.speller("plain", "NL", few=0),
    "device": lambda: devices.speller("plain", hashed=False),
    "device hashed": lambda: devices.speller("plain", hashed=True),
    "text": free_text.speller,
}


@pytest.mark.parametrize("name", SPELLERS)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(ADDRESSES | NUMBERS | HOSTILE, min_size=1, max_size=12))
def test_a_block_of_texts_is_read_as_each_of_them_is(name: str, texts: list[str]) -> None:
    speller = SPELLERS[name]()
    kept = [text.strip() for text in texts if text.isascii() and text.strip()]
    if kept:
        spelled, undecided = speller.block(pa.array(kept, pa.large_string()))
        ones = [speller.one(text) for text in kept]
        decided = [
            (one, block) for one, block, left in zip(ones, spelled.to_pylist(), undecided, strict=True) if not left
        ]
        assert [block for _, block in decided] == [one for one, _ in decided]
