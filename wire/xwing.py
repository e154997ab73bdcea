"""X-Wing keys as bytes, and HPKE (RFC 9180) to them: MLKEM768-X25519, HKDF-SHA256, AES-256-GCM.

X-Wing holds while either of ML-KEM-768 and X25519 does. An installation whose OpenSSL has no ML-KEM is refused; there
is no weaker suite to fall back to.
"""

from __future__ import annotations

from typing import Self

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from tidegate.protocols.channel import CarrierError, ConfigError

PUBLIC_BYTES = 1184 + 32
PRIVATE_BYTES = 64 + 32
SEAL_OVERHEAD = 1088 + 32 + 16


def _suite() -> hpke.Suite:
    try:
        return hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    except (UnsupportedAlgorithm, AttributeError):
        raise _unsupported() from None


def _unsupported() -> ConfigError:
    return ConfigError(
        "this installation of `cryptography` has no ML-KEM-768, without which nothing can be sealed",
        "install the wheel of cryptography 50 or newer (pip install --only-binary :all: 'cryptography>=50')",
    )


class SealingKey:
    """A private X-Wing key: what is sealed to its public part, it opens. Never prints itself."""

    def __init__(self, private: bytes) -> None:
        """private: the ML-KEM seed (64 bytes) and the X25519 scalar (32 bytes), as `to_bytes` gives them."""
        if len(private) != PRIVATE_BYTES:
            raise ConfigError(f"a sealing key has {PRIVATE_BYTES} bytes, this one {len(private)}")
        try:
            mlkem = MLKEM768PrivateKey.from_seed_bytes(private[:64])
        except UnsupportedAlgorithm:
            raise _unsupported() from None
        x25519 = X25519PrivateKey.from_private_bytes(private[64:])
        self._private = private
        self._key = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        try:
            mlkem = MLKEM768PrivateKey.generate()
        except UnsupportedAlgorithm:
            raise _unsupported() from None
        return cls(mlkem.private_bytes_raw() + X25519PrivateKey.generate().private_bytes_raw())

    def __repr__(self) -> str:
        return "SealingKey(...)"

    def to_bytes(self) -> bytes:
        return self._private

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Raises CarrierError unless exactly this was sealed to this key under this `info`."""
        try:
            return _suite().decrypt(sealed, self._key, info)
        except (InvalidTag, ValueError):
            raise CarrierError("what came was not sealed to this key, or was altered on the way") from None


def seal(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Seals to a public X-Wing key; `info` is bound, not carried. Raises CarrierError if `public` is no such key."""
    if len(public) != PUBLIC_BYTES:
        raise CarrierError(f"a sealing key has {PUBLIC_BYTES} public bytes, {len(public)} came")
    try:
        key = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:1184]), X25519PublicKey.from_public_bytes(public[1184:])
        )
        return _suite().encrypt(plaintext, key, info)
    except ValueError:
        raise CarrierError("what came is not a sealing key") from None
    except UnsupportedAlgorithm:
        raise _unsupported() from None
