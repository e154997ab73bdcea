"""Getting in: the invite that a coordinator hands out, and a party's keys and certificate for mutual TLS.

An invite is one line of text. It pins the coordinator by its certificate authority and lets one party in, once, until
it expires. A short-lived certificate travels inside because the coordinator's port admits nobody without one; all that
it opens is `Join`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from typing import ClassVar, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tidegate.protocols.channel import CarrierError, ConfigError, Message, PeerError

from .contract import NAME
from .identity import IDENTITY_BYTES, Identity

PREFIX = "tidegate-invite-2."
SECRET_BYTES = 32
INVITE_COMMON_NAME = "invite"
SERVER_NAME = "coordinator.tidegate"
_AGAIN = "copy the whole line, or ask the coordinator for a new invite"
_CHECK_BYTES = 8


@dataclass(frozen=True)
class Invite(Message):
    """What a new party needs to join: where, whom to trust there, under which name, and the secret that lets it in."""

    MAX_BYTES: ClassVar[int] = 16 * 1024

    address: str  # host:port
    ca: bytes  # the coordinator's certificate authority, DER
    party: str
    secret: bytes = field(repr=False)
    expires_s: int  # Unix seconds
    certificate: bytes  # DER, for Join alone
    key: bytes = field(repr=False)  # PKCS#8, DER, of that certificate
    identity: bytes  # the coordinator's Ed25519 key, for the steps in which it plays a part

    def to_text(self) -> str:
        data = self.to_bytes()
        return PREFIX + base64.urlsafe_b64encode(data + _check(data)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads an invite as people paste it, line breaks and all. Raises ConfigError; does not look at the clock."""
        text = "".join(text.split())
        if not text.startswith(PREFIX):
            raise ConfigError(f"this is not an invite: one starts with {PREFIX!r}", _AGAIN)
        body = text.removeprefix(PREFIX)
        try:
            data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            if _check(data[:-_CHECK_BYTES]) != data[-_CHECK_BYTES:]:
                raise ValueError
            invite = cls.from_bytes(data[:-_CHECK_BYTES])
        except (binascii.Error, ValueError, PeerError):
            raise ConfigError("the invite is damaged or incomplete", _AGAIN) from None
        sizes = (len(invite.secret), len(invite.identity))
        if not NAME.fullmatch(invite.party) or sizes != (SECRET_BYTES, IDENTITY_BYTES):
            raise ConfigError("the invite is damaged or incomplete", _AGAIN)
        return invite

    @property
    def endpoint(self) -> Endpoint:
        """Where and with which keys to call Join, and nothing else."""
        certificate, key = pem_certificate(self.certificate), pem_key(self.key)
        return Endpoint(self.address, pem_certificate(self.ca), certificate, key)


@dataclass(frozen=True)
class Endpoint:
    """A coordinator's address and the PEM texts with which to dial it by mutual TLS."""

    address: str
    ca: bytes
    certificate: bytes
    key: bytes = field(repr=False)


def _check(data: bytes) -> bytes:
    """Catches a line that was cut or mistyped; whom to trust is not decided by it."""
    return hashlib.sha256(b"tidegate invite v1" + data).digest()[:_CHECK_BYTES]


def join_signed_bytes(secret: bytes, csr: bytes) -> bytes:
    """What a joining party signs with its identity: it, and nobody who copies its request, asked with this secret."""
    return b"tidegate join v1" + secret + csr


def new_tls_key() -> bytes:
    """A fresh P-256 key, PEM. For the line to the coordinator only: what parties say is sealed by other keys."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_request(identity: Identity, key_pem: bytes) -> bytes:
    """A PKCS#10 request (DER) for the party's name and this TLS key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(_load_key(key_pem), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def verify_certificate(certificate: bytes, key_pem: bytes, ca_pem: bytes, party: str) -> None:
    """Raises CarrierError unless the certificate (DER) is for this key and name, and by this authority."""
    try:
        issued, authority = x509.load_der_x509_certificate(certificate), x509.load_pem_x509_certificate(ca_pem)
        issued.verify_directly_issued_by(authority)
        names = [attribute.value for attribute in issued.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if names != [party] or issued.public_key() != _load_key(key_pem).public_key():
            raise ValueError
    except (ValueError, TypeError, InvalidSignature):
        raise CarrierError("the coordinator answered with a certificate that is not for this party") from None


def pem_certificate(der: bytes) -> bytes:
    """The same certificate as the text that gRPC wants. Raises ConfigError."""
    try:
        return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
    except ValueError:
        raise ConfigError("a certificate is damaged", _AGAIN) from None


def pem_key(der: bytes) -> bytes:
    """The same private key (PKCS#8) as the text that gRPC wants. Raises ConfigError."""
    try:
        key = serialization.load_der_private_key(der, password=None)
    except (ValueError, TypeError):
        raise ConfigError("a key is damaged", _AGAIN) from None
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("the key for TLS is not a P-256 key", "join again with a new invite")
    return key
