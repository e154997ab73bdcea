"""Keys and cards: what is pinned is what was shown, and private files stay private."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.protocols.channel import CarrierError, ConfigError, PeerError, TidegateError
from tidegate.wire import invite as joining
from tidegate.wire import receipt
from tidegate.wire.identity import Card, Identity, verify_signature, write_private
from tidegate.wire.invite import Endpoint, Invite
from tidegate.wire.letter import MAX_LETTER_BYTES, open_letter, seal_letter
from tidegate.wire.relay_pb2 import Letter

BRAND, MEDIA, STRANGER = (Identity.generate(name) for name in ("brand", "media", "stranger"))


def test_an_identity_is_the_same_after_saving_and_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    BRAND.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Identity.load(path)
    assert (again.name, again.public, again.sealing.public) == ("brand", BRAND.public, BRAND.sealing.public)
    verify_signature(BRAND.public, b"data", again.sign(b"data"), "it")
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity.key"]


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    BRAND.save(path)
    with pytest.raises(ConfigError, match="is there already"):
        MEDIA.save(path)
    assert Identity.load(path).public == BRAND.public
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    BRAND.save(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others may read it") as caught:
        Identity.load(path)
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "x" * 100, '{"tidegate identity": 1}', "[" * 60_000])
def test_a_damaged_key_file_is_an_error_that_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "identity.key"
    write_private(path, text.encode())
    with pytest.raises(ConfigError, match="does not hold the keys"):
        Identity.load(path)


def test_a_missing_key_file_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Identity.load(tmp_path / "identity.key")
    assert "tidegate party init" in caught.value.hint


def test_secrets_are_never_printed() -> None:
    secret = BRAND.sealing.to_bytes()
    invite = an_invite()
    endpoint = Endpoint("host:1", b"ca", b"certificate", b"thekey")
    shown = repr(BRAND) + repr(BRAND.sealing) + repr(invite) + repr(endpoint) + str(BRAND) + str(vars(BRAND.card))
    for hidden in (repr(secret)[2:-1], secret.hex(), "thekey", repr(invite.secret)[2:-1], repr(invite.key)[2:-1]):
        assert hidden not in shown


@pytest.mark.parametrize("name", ["", "Brand", "../x", "a b", "-a", "a" * 64, "brand\n", "bränd"])
def test_a_name_that_could_not_be_a_folder_or_a_contract_party_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        Identity.generate(name)


def test_a_card_survives_mail() -> None:
    text = BRAND.card.to_text()
    for mangled in (
        text,
        "Hello,\n\nhere it is:\n" + text + "\nBest,\nBea",
        text.replace("\n", "\r\n"),
        "\n".join("> " + line for line in text.splitlines()),
        "\n".join("   " + line + "  " for line in text.splitlines()),
    ):
        assert Card.parse(mangled) == BRAND.card


def test_a_fingerprint_has_over_100_bits_and_is_compared_whole() -> None:
    card = BRAND.card
    groups = card.fingerprint.split(" ")
    assert [len(group) for group in groups] == [4] * 7
    assert card.has_fingerprint(card.fingerprint.lower().replace(" ", "-"))
    assert not card.has_fingerprint(" ".join(groups[:-1]))
    assert not card.has_fingerprint("")
    assert not card.has_fingerprint(MEDIA.card.fingerprint)


def test_a_fingerprint_covers_the_name_and_both_keys() -> None:
    card = BRAND.card
    others = (
        Card("brandy", card.identity, card.sealing, b""),
        Card("brand", MEDIA.public, card.sealing, b""),
        Card("brand", card.identity, MEDIA.sealing.public, b""),
    )
    assert all(other.fingerprint != card.fingerprint for other in others)


def forge(card: Card) -> str:
    body = base64.b64encode(card.signed_bytes() + card.signature).decode()
    return f"-----BEGIN TIDEGATE CARD-----\n{body}\n-----END TIDEGATE CARD-----\n"


def test_a_card_with_somebody_elses_part_is_refused() -> None:
    card, other = BRAND.card, MEDIA.card
    outside = Card("../up", card.identity, card.sealing, b"")
    assert Card.parse(forge(card)) == card
    for forged in (
        Card("media", card.identity, card.sealing, card.signature),
        Card("brand", other.identity, card.sealing, card.signature),
        Card("brand", card.identity, other.sealing, card.signature),
        Card("brand", card.identity, card.sealing, other.signature),
        Card(outside.name, card.identity, card.sealing, BRAND.sign(outside.signed_bytes())),
    ):
        with pytest.raises(ConfigError):
            Card.parse(forge(forged))


def test_a_card_whose_lines_for_people_lie_is_refused() -> None:
    text = BRAND.card.to_text()
    for lie in (
        text.replace("Name: brand", "Name: media"),
        text.replace(BRAND.card.fingerprint, MEDIA.card.fingerprint),
        text + MEDIA.card.to_text(),
        "",
        text[:-40],
    ):
        with pytest.raises(ConfigError):
            Card.parse(lie)


@settings(max_examples=200)
@given(at=st.integers(0, 2000), letter=st.characters())
def test_a_mistyped_card_is_the_same_card_or_refused(at: int, letter: str) -> None:
    text = BRAND.card.to_text()
    at %= len(text)
    with contextlib.suppress(ConfigError):
        assert Card.parse(text[:at] + letter + text[at + 1 :]) == BRAND.card


def an_invite() -> Invite:
    secret, key, identity = os.urandom(32), os.urandom(40), os.urandom(32)
    return Invite("coordinator.example:7443", b"ca", "brand", secret, 2**31, b"certificate", key, identity)


def test_an_invite_is_one_line_that_survives_line_breaks() -> None:
    invite = an_invite()
    text = invite.to_text()
    assert text.startswith("tidegate-invite-2.")
    assert text.split() == [text]
    assert Invite.parse(f"\n {text[:50]}\n{text[50:]} \n") == invite


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_invite_is_refused(data: st.DataObject) -> None:
    invite = an_invite()
    text = invite.to_text()
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = data.draw(st.sampled_from([text[:at], text[:at] + text[at + 1 :], text[:at] + "é" + text[at + 1 :]]))
    with pytest.raises(ConfigError):
        Invite.parse(damaged)


def test_a_certificate_for_somebody_else_is_refused() -> None:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    authority_key = ec.generate_private_key(ec.SECP256R1())

    def issue(name: str, public: ec.EllipticCurvePublicKey, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number(), now, now)
        return builder.sign(key, hashes.SHA256())

    tls_key = joining.new_tls_key()
    request = x509.load_der_x509_csr(joining.certificate_request(BRAND, tls_key))
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=brand"
    public, other = request.public_key(), ec.generate_private_key(ec.SECP256R1())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    ca = issue("authority", authority_key.public_key(), authority_key).public_bytes(serialization.Encoding.PEM)

    def check(certificate: x509.Certificate) -> None:
        joining.verify_certificate(certificate.public_bytes(serialization.Encoding.DER), tls_key, ca, "brand")

    check(issue("brand", public, authority_key))
    for wrong in (
        issue("media", public, authority_key),
        issue("brand", other.public_key(), authority_key),
        issue("brand", public, other),
    ):
        with pytest.raises(CarrierError):
            check(wrong)
    with pytest.raises(CarrierError):
        joining.verify_certificate(b"nonsense", tls_key, ca, "brand")


def test_a_letter_is_read_by_its_recipient_alone() -> None:
    # A word so long is not met by chance in sealed bytes.
    body = {"columns": ["income_of_household"]}
    letter = seal_letter(BRAND, MEDIA.card, "offer", body, now_s=1_800_000_000)
    note = open_letter(MEDIA, BRAND.card, letter)
    assert (note.kind, note.sender, note.sent_s, note.body) == ("offer", "brand", 1_800_000_000, body)
    assert note.id == letter.id
    with pytest.raises(CarrierError):
        open_letter(STRANGER, BRAND.card, letter)
    assert b"income_of_household" not in letter.SerializeToString()


def test_a_letter_is_only_from_whom_the_receiver_pinned() -> None:
    letter = seal_letter(STRANGER, MEDIA.card, "offer", {}, now_s=0)
    letter.sender = "brand"
    with pytest.raises(CarrierError):
        open_letter(MEDIA, BRAND.card, letter)
    impostor = Identity.generate("brand")
    with pytest.raises(CarrierError):
        open_letter(MEDIA, BRAND.card, seal_letter(impostor, MEDIA.card, "offer", {}, now_s=0))


def test_a_letter_cannot_be_passed_on_as_if_meant_for_another() -> None:
    """The recipient opens it and seals the same signed bytes to a third party."""
    from tidegate.wire import letter as letters
    from tidegate.wire import xwing

    letter = seal_letter(BRAND, MEDIA.card, "proposal", {"contract": 1}, now_s=0)
    opened = MEDIA.sealing.open(letter.sealed, letters._info(letter.id, "brand", "media"))
    sealed = xwing.seal(STRANGER.sealing.public, opened, letters._info(letter.id, "brand", "stranger"))
    with pytest.raises(CarrierError, match="somebody else"):
        open_letter(STRANGER, BRAND.card, Letter(id=letter.id, sender="brand", recipient="stranger", sealed=sealed))


@settings(max_examples=100)
@given(st.data())
def test_an_altered_letter_is_refused(data: st.DataObject) -> None:
    letter = seal_letter(BRAND, MEDIA.card, "offer", {"x": 1}, now_s=0)
    field = data.draw(st.sampled_from(["id", "sender", "recipient", "sealed"]))
    if field in ("id", "sealed"):
        value = bytearray(getattr(letter, field))
        value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
        setattr(letter, field, bytes(value))
    else:
        setattr(letter, field, data.draw(st.sampled_from(["stranger", "", "brand|media"])))
    with pytest.raises(CarrierError):
        open_letter(MEDIA, BRAND.card, letter)


def test_a_letter_that_is_too_large_or_no_object_is_refused() -> None:
    with pytest.raises(ConfigError):
        seal_letter(BRAND, MEDIA.card, "offer", {"x": "y" * MAX_LETTER_BYTES}, now_s=0)
    with pytest.raises(CarrierError):
        open_letter(MEDIA, BRAND.card, Letter(id=bytes(16), sender="brand", recipient="media", sealed=bytes(2**21)))
    listed = seal_letter(BRAND, MEDIA.card, "offer", ["not", "an object"], now_s=0)  # type: ignore[arg-type]
    with pytest.raises(PeerError):
        open_letter(MEDIA, BRAND.card, listed)


def test_a_receipt_is_for_one_run_by_one_party() -> None:
    contract, run, digest = os.urandom(32), os.urandom(16), os.urandom(32)
    made = receipt.make(BRAND, contract, 1, run, digest)
    assert receipt.verify(made, BRAND.public, contract, 1, run) == digest
    for refused in (
        (made, MEDIA.public, contract, 1, run),
        (made, BRAND.public, bytes(32), 1, run),
        (made, BRAND.public, contract, 2, run),
        (made, BRAND.public, contract, 1, bytes(16)),
        (made[:-1], BRAND.public, contract, 1, run),
        (bytes([made[0] ^ 1]) + made[1:], BRAND.public, contract, 1, run),
        (b"", BRAND.public, contract, 1, run),
    ):
        with pytest.raises(TidegateError):
            receipt.verify(*refused)
