"""A receipt: a party's signature over the digests of all that was said in one run of one step.

Bytes are a digest (32) for each party that it talked to, in the order of `pairs.peers`, and an Ed25519 signature (64)
over "tidegate receipt v1", contract, step, run and the digests. Two that talked have the same digest of it.
"""

from __future__ import annotations

import struct

from tidegate.protocols.channel import CarrierError

from .identity import IDENTITY_BYTES, SIGNATURE_BYTES, Identity, verify_signature

DIGEST_BYTES = 32
MOST_DIGESTS = 64


def _signed_bytes(contract_hash: bytes, step: int, run: bytes, digest: bytes) -> bytes:
    if len(contract_hash) != 32 or len(run) != 16 or not _are_digests(len(digest)):
        raise ValueError("a contract hash has 32 bytes, a run 16, each digest 32")
    return b"tidegate receipt v1" + contract_hash + struct.pack("<Q", step) + run + digest


def _are_digests(size: int) -> bool:
    return 0 < size <= MOST_DIGESTS * DIGEST_BYTES and size % DIGEST_BYTES == 0


def make(identity: Identity, contract_hash: bytes, step: int, run: bytes, digest: bytes) -> bytes:
    """The receipt of `identity` for a run whose transcripts have these digests (`Session.finish`), put together."""
    return digest + identity.sign(_signed_bytes(contract_hash, step, run, digest))


def verify(receipt: bytes, public: bytes, contract_hash: bytes, step: int, run: bytes) -> bytes:
    """The digests in a receipt. Raises CarrierError unless the key `public` signed them for exactly this run."""
    size = len(receipt) - SIGNATURE_BYTES
    if not _are_digests(size) or len(public) != IDENTITY_BYTES:
        text = f"a receipt has a signature and digests of {DIGEST_BYTES} bytes, {len(receipt)} bytes came"
        raise CarrierError(text)
    digest = receipt[:size]
    signed = _signed_bytes(contract_hash, step, run, digest)
    verify_signature(public, signed, receipt[size:], "the receipt")
    return digest
