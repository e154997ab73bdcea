"""The handshake and the numbered frames, bytes in and out."""

from __future__ import annotations

import os

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.protocols.channel import CarrierError, ConfigError, DisagreementError
from tidegate.wire import xwing
from tidegate.wire.identity import Identity
from tidegate.wire.seal import MAX_FRAME_BYTES, Handshake, Lane, Sealed, Terms, plain

BRAND, MEDIA = Identity.generate("brand"), Identity.generate("media")
CONTRACT, RUN = os.urandom(32), os.urandom(16)
BRAND_TERMS = Terms(CONTRACT, RUN, 0, "1.0", "brand", "media")
MEDIA_TERMS = Terms(CONTRACT, RUN, 0, "1.0", "media", "brand")


def sides() -> tuple[Handshake, Handshake]:
    return Handshake(BRAND, MEDIA.public, BRAND_TERMS), Handshake(MEDIA, BRAND.public, MEDIA_TERMS)


def shaken() -> tuple[Sealed, Sealed]:
    brand, media = sides()
    brand_hello, media_hello = brand.hello(), media.hello()
    brand_answer, media_answer = brand.answer(media_hello), media.answer(brand_hello)
    return brand.finish(media_answer), media.finish(brand_answer)


def test_both_sides_can_read_each_other_and_agree_on_the_transcript() -> None:
    brand, media = shaken()
    assert brand.transcript == media.transcript
    for n in range(3):
        assert media.incoming.open(brand.outgoing.seal(b"forth %d" % n)) == b"forth %d" % n
        assert brand.incoming.open(media.outgoing.seal(b"back %d" % n)) == b"back %d" % n


def test_every_handshake_has_other_keys() -> None:
    (one, _), (_, other) = shaken(), shaken()
    assert one.transcript != other.transcript
    with pytest.raises(CarrierError):
        other.incoming.open(one.outgoing.seal(b"text"))


def test_a_frame_opens_only_at_its_place_in_its_direction() -> None:
    brand, media = shaken()
    first, second = brand.outgoing.seal(b"1"), brand.outgoing.seal(b"2")
    with pytest.raises(CarrierError):
        brand.incoming.open(first)
    with pytest.raises(CarrierError):
        media.incoming.open(second)
    assert media.incoming.open(second) == b"2", "the second place has come"
    with pytest.raises(CarrierError):
        media.incoming.open(second)


def test_frames_are_bound_to_contract_and_run_and_not_to_the_key_alone() -> None:
    key = os.urandom(32)
    sealed = Lane(key, b"one run").seal(b"text")
    assert Lane(key, b"one run").open(sealed) == b"text"
    with pytest.raises(CarrierError):
        Lane(key, b"two run").open(sealed)


def test_equal_texts_do_not_look_equal_and_show_their_length_alone() -> None:
    lane = Lane(os.urandom(32), b"")
    one, two = lane.seal(b"text"), lane.seal(b"text")
    assert one != two
    assert len(one) == len(two) == 4 + 16


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_handshake_with_any_byte_changed_is_refused(data: st.DataObject) -> None:
    brand, media = sides()
    brand_hello, media_hello = brand.hello(), media.hello()

    def changed(message: bytes) -> bytes:
        at = data.draw(st.integers(0, len(message) - 1))
        return message[:at] + bytes([message[at] ^ data.draw(st.integers(1, 255))]) + message[at + 1 :]

    if data.draw(st.booleans()):
        with pytest.raises(CarrierError):
            brand.answer(changed(media_hello))
    else:
        brand.answer(media_hello)
        answer = media.answer(brand_hello)
        with pytest.raises(CarrierError):
            brand.finish(changed(answer))


@settings(max_examples=100, deadline=None)
@given(message=st.binary(max_size=3000))
def test_nonsense_in_place_of_a_handshake_is_refused(message: bytes) -> None:
    brand, media = sides()
    brand.hello()
    with pytest.raises(CarrierError):
        brand.answer(message)
    with pytest.raises(CarrierError):
        brand.answer(b"tidegate hello v1" + message)
    brand.answer(media.hello())
    with pytest.raises(CarrierError):
        brand.finish(message)


def test_an_answer_is_to_exactly_these_two_hellos() -> None:
    """A coordinator that keeps the hello of another handshake of the same run gets no further with it."""
    brand, media = sides()
    old_brand, _ = sides()
    old_hello = old_brand.hello()
    brand.hello()
    brand.answer(media.hello())
    with pytest.raises(CarrierError):
        brand.finish(media.answer(old_hello))


def test_a_replayed_hello_and_answer_open_nothing() -> None:
    brand, media = sides()
    brand_hello, media_hello = brand.hello(), media.hello()
    media_answer = media.answer(brand_hello)
    again = Handshake(BRAND, MEDIA.public, BRAND_TERMS)
    again.hello()
    again.answer(media_hello)
    with pytest.raises(CarrierError):
        again.finish(media_answer)


def test_our_own_frames_sent_back_are_refused() -> None:
    brand, media = sides()
    hello = brand.hello()
    with pytest.raises(CarrierError):
        brand.answer(hello)
    answer = brand.answer(media.hello())
    with pytest.raises(CarrierError):
        brand.finish(answer)


@pytest.mark.parametrize(
    ("theirs", "word"),
    [
        (Terms(bytes(32), RUN, 0, "1.0", "media", "brand"), "contract"),
        (Terms(CONTRACT, bytes(16), 0, "1.0", "media", "brand"), "run"),
        (Terms(CONTRACT, RUN, 1, "1.0", "media", "brand"), "step"),
        (Terms(CONTRACT, RUN, 0, "2.0\x1b[2J", "media", "brand"), "version"),
        (Terms(CONTRACT, RUN, 0, "1.0", "medium", "brand"), "sender"),
        (Terms(CONTRACT, RUN, 0, "1.0", "media", "other"), "recipient"),
    ],
)
def test_different_terms_are_named(theirs: Terms, word: str) -> None:
    brand, _ = sides()
    brand.hello()
    with pytest.raises(DisagreementError, match=word) as caught:
        brand.answer(Handshake(MEDIA, BRAND.public, theirs).hello())
    assert caught.value.text.isprintable()


def test_a_hello_for_somebody_else_cannot_be_used_here() -> None:
    """The media really wants to talk to another brand; the coordinator hands its hello to this one."""
    brand, _ = sides()
    brand.hello()
    other = Handshake(MEDIA, Identity.generate("other").public, Terms(CONTRACT, RUN, 0, "1.0", "media", "other"))
    with pytest.raises(DisagreementError, match="recipient"):
        brand.answer(other.hello())


def test_the_handshake_is_small() -> None:
    brand, media = sides()
    hello = brand.hello()
    media.hello()
    assert len(hello) < 2048
    assert len(media.answer(hello)) < 2048


def test_without_ml_kem_nothing_is_sealed_rather_than_sealed_weaker(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        @staticmethod
        def generate() -> None:
            raise UnsupportedAlgorithm("ML-KEM is not there")

        from_seed_bytes = from_public_bytes = staticmethod(lambda _: Missing.generate())

    key = xwing.SealingKey.generate()
    monkeypatch.setattr(xwing, "MLKEM768PrivateKey", Missing)
    monkeypatch.setattr(xwing, "MLKEM768PublicKey", Missing)
    for attempt in (
        lambda: xwing.SealingKey.generate(),
        lambda: xwing.SealingKey(key.to_bytes()),
        lambda: xwing.seal(key.public, b"", b""),
        lambda: Identity.generate("brand"),
        lambda: Handshake(BRAND, MEDIA.public, BRAND_TERMS),
    ):
        with pytest.raises(ConfigError, match="ML-KEM"):
            attempt()


@settings(max_examples=100)
@given(plaintext=st.binary(max_size=100), info=st.binary(max_size=20))
def test_what_is_sealed_opens_with_the_key_and_the_info_alone(plaintext: bytes, info: bytes) -> None:
    key, other = xwing.SealingKey.generate(), xwing.SealingKey.generate()
    sealed = xwing.seal(key.public, plaintext, info)
    assert len(sealed) == len(plaintext) + xwing.SEAL_OVERHEAD
    assert key.open(sealed, info) == plaintext
    assert xwing.SealingKey(key.to_bytes()).public == key.public
    for holder, text, bound in ((other, sealed, info), (key, sealed, info + b"x"), (key, sealed[:-1], info)):
        with pytest.raises(CarrierError):
            holder.open(text, bound)


@pytest.mark.parametrize("public", [b"", bytes(1216), b"\xff" * 1216, bytes(1215)])
def test_what_is_no_public_key_is_refused(public: bytes) -> None:
    with pytest.raises(CarrierError):
        xwing.seal(public, b"text", b"")


def test_another_machines_text_is_made_fit_to_be_shown() -> None:
    assert plain("one\ntwo\x1b[31m\ttail\u202e") == "one two [31m tail"
    assert len(plain("x" * 10_000)) == 400
    assert MAX_FRAME_BYTES == 2**20
