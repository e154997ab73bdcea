"""Who may call: the coordinator's certificate authority, invites, and the members that have joined with one.

Membership says who may use this coordinator and nothing about whose keys are whose: that parties settle by exchanging
cards. An invite's secret is kept as its SHA-256 and works once.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tidegate.protocols.channel import CarrierError, ConfigError
from tidegate.wire.identity import (
    IDENTITY_BYTES,
    Identity,
    checked_name,
    read_private,
    verify_signature,
    write_private,
)
from tidegate.wire.invite import (
    INVITE_COMMON_NAME,
    SECRET_BYTES,
    SERVER_NAME,
    Invite,
    join_signed_bytes,
)
from tidegate.wire.pairs import COORDINATOR
from tidegate.wire.relay_pb2 import JoinRequest

from .config import Home, split_address
from .refusal import RefusedError, printable
from .store import Member, Store

_DAY = timedelta(days=1)
_AUTHORITY_LASTS = 3650 * _DAY
_CERTIFICATE_LASTS = 730 * _DAY
_CLOCKS_DIFFER = timedelta(hours=1)
_MAX_CSR_BYTES = 8 * 1024
_RESERVED = (INVITE_COMMON_NAME, COORDINATOR)
_PEM, _DER = serialization.Encoding.PEM, serialization.Encoding.DER


class Authority:
    """Signs the certificates by which the coordinator and its members know each other. P-256."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate, self._key = certificate, key
        self.der = certificate.public_bytes(_DER)
        self.pem = certificate.public_bytes(_PEM)

    @classmethod
    def create(cls, home: Home) -> Self:
        """Makes the authority and keeps it in the home folder. Raises ConfigError if there is one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tidegate coordinator")])
        builder = (
            _builder(name, name, key.public_key(), _AUTHORITY_LASTS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        authority = cls(builder.sign(key, hashes.SHA256()), key)
        write_private(home.authority_key, _pem_key(key))
        write_private(home.authority_certificate, authority.pem)
        return authority

    @classmethod
    def load(cls, home: Home) -> Self:
        hint = "restore it from a backup; without it every party has to be invited again"
        try:
            certificate = x509.load_pem_x509_certificate(home.authority_certificate.read_bytes())
            key = serialization.load_pem_private_key(read_private(home.authority_key), password=None)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the coordinator's keys in {home.path}: {error}", hint) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigError(f"{home.authority_key} is not the key of {home.authority_certificate}", hint)
        return cls(certificate, key)

    def server_certificate(self, address: str) -> tuple[bytes, bytes]:
        """A fresh key and certificate (PEM) to listen with, made anew at every start."""
        host, _ = split_address(address)
        names: list[x509.GeneralName] = [x509.DNSName(SERVER_NAME), x509.DNSName("localhost")]
        addresses = [ipaddress.ip_address("127.0.0.1")]
        try:
            addresses.append(ipaddress.ip_address(host))
        except ValueError:
            names.append(x509.DNSName(host))
        names += [x509.IPAddress(each) for each in dict.fromkeys(addresses)]
        key = ec.generate_private_key(ec.SECP256R1())
        san = x509.SubjectAlternativeName(list(dict.fromkeys(names)))
        server = ExtendedKeyUsageOID.SERVER_AUTH
        certificate = self._issue(SERVER_NAME, key.public_key(), _CERTIFICATE_LASTS, server, san)
        return _pem_key(key), certificate.public_bytes(_PEM)

    def client_certificate(
        self, common_name: str, public: ec.EllipticCurvePublicKey, lasts: timedelta = _CERTIFICATE_LASTS
    ) -> bytes:
        """A certificate (DER) with which to call, and with which nobody can pass for a server."""
        return self._issue(common_name, public, lasts, ExtendedKeyUsageOID.CLIENT_AUTH).public_bytes(_DER)

    def own_certificate(self) -> tuple[bytes, bytes]:
        """A fresh key (PEM) and certificate (DER) with which the coordinator's own workers call."""
        key = ec.generate_private_key(ec.SECP256R1())
        return _pem_key(key), self.client_certificate(COORDINATOR, key.public_key())

    def _issue(
        self,
        common_name: str,
        public: ec.EllipticCurvePublicKey,
        lasts: timedelta,
        use: x509.ObjectIdentifier,
        names: x509.SubjectAlternativeName | None = None,
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = (
            _builder(subject, self._certificate.subject, public, lasts)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def own_identity(home: Home) -> Identity:
    """The keys by which parties know the coordinator in its own part of a step. Raises ConfigError."""
    if not home.identity.exists():
        raise ConfigError(
            f"the coordinator in {home.path} has no identity of its own: an earlier version set it up, or "
            f"{home.identity.name} was deleted",
            "restore that file from a backup; or set up a coordinator in another folder and invite every party again",
        )
    return Identity.load(home.identity)


def invite(
    store: Store,
    authority: Authority,
    address: str,
    identity: bytes,
    party: str,
    *,
    hours: float,
    now_s: int,
    again: bool = False,
) -> Invite:
    """A new single-use invite. Raises ConfigError for a bad name, or one that has joined unless `again`."""
    if checked_name(party) in _RESERVED:
        raise ConfigError(f"no party can be called {party!r}", "choose another name")
    if store.member(party) is not None and not again:
        hint = "to let it join anew with new keys, which ends its present certificate, add --again"
        raise ConfigError(f"{party} has joined already", hint)
    secret = secrets.token_bytes(SECRET_BYTES)
    expires_s = now_s + int(hours * 3600)
    key = ec.generate_private_key(ec.SECP256R1())
    # It outlives the secret by a day, so that who comes late is told so instead of failing at the door.
    certificate = authority.client_certificate(INVITE_COMMON_NAME, key.public_key(), timedelta(hours=hours) + _DAY)
    der_key = key.private_bytes(_DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    store.add_invite(hashlib.sha256(secret).digest(), party, expires_s)
    return Invite(address, authority.der, party, secret, expires_s, certificate, der_key, identity)


def join(store: Store, authority: Authority, request: JoinRequest, now_s: int) -> bytes:
    """Lets a party in and uses its invite up. The certificate (DER). Raises RefusedError."""
    public = _requested_key(request.csr)
    if len(request.secret) != SECRET_BYTES or len(request.identity) != IDENTITY_BYTES:
        raise RefusedError("INVALID_ARGUMENT", "a request to join holds a secret and an identity key of 32 bytes each")
    secret_hash = hashlib.sha256(request.secret).digest()
    known = store.invite(secret_hash)
    if known is None:
        raise RefusedError("PERMISSION_DENIED", "this invite is not known here: ask for a new one")
    party, expires_s, used = known
    if used:
        raise RefusedError("PERMISSION_DENIED", f"the invite for {party} has been used already: ask for a new one")
    if now_s >= expires_s:
        raise RefusedError("PERMISSION_DENIED", f"the invite for {party} has expired: ask for a new one")
    if request.party != party:
        raise RefusedError("PERMISSION_DENIED", f"this invite is for {party}, not for {printable(request.party, 64)}")
    try:
        signed = join_signed_bytes(request.secret, request.csr)
        verify_signature(request.identity, signed, request.signature, "the request to join")
    except CarrierError as error:
        raise RefusedError("PERMISSION_DENIED", error.text) from None
    certificate = authority.client_certificate(party, public)
    member = Member(
        party=party,
        identity=request.identity,
        certificate=hashlib.sha256(certificate).digest(),
        software=printable(request.software, 32),
        joined_s=now_s,
        seen_s=now_s,
        here=False,
    )
    if not store.use_invite(secret_hash, member):
        raise RefusedError("PERMISSION_DENIED", f"the invite for {party} has been used already: ask for a new one")
    return certificate


def caller(store: Store, certificate_pem: bytes) -> Member:
    """The member whose present certificate this is, which TLS has verified. Raises RefusedError if it is nobody's."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    names = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names == [INVITE_COMMON_NAME]:
        raise RefusedError("UNAUTHENTICATED", "an invite's certificate opens nothing but joining")
    member = store.member(names[0]) if len(names) == 1 else None
    presented = hashlib.sha256(certificate.public_bytes(_DER)).digest()
    if member is None or member.certificate != presented:
        text = "this certificate is no member's present one: join again with a new invite"
        raise RefusedError("UNAUTHENTICATED", text)
    return member


def _requested_key(csr: bytes) -> ec.EllipticCurvePublicKey:
    try:
        if len(csr) > _MAX_CSR_BYTES:
            raise ValueError
        request = x509.load_der_x509_csr(csr)
        public = request.public_key()
        if not request.is_signature_valid or not isinstance(public, ec.EllipticCurvePublicKey):
            raise ValueError
        if not isinstance(public.curve, ec.SECP256R1):
            raise ValueError
    except Exception as error:
        # The parser's errors are of many kinds (ValueError, UnsupportedAlgorithm, ...), and all mean the same here.
        text = "the certificate request is not a PKCS#10 one for a P-256 key"
        raise RefusedError("INVALID_ARGUMENT", text) from error
    return public


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, lasts: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + lasts)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
