"""A receipt: a party's signature over the digest of all that was said in one run of one step.

Bytes are the digest (32) and an Ed25519 signature (64) over "tidegate receipt v1", contract, step, run and digest.
"""

from __future__ import annotations

import struct

from tidegate.protocols.channel import CarrierError

from .identity import IDENTITY_BYTES, SIGNATURE_BYTES, Identity, verify_signature

DIGEST_BYTES = 32
RECEIPT_BYTES = DIGEST_BYTES + SIGNATURE_BYTES


def _signed_bytes(contract_hash: bytes, step: int, run: bytes, digest: bytes) -> bytes:
    if len(contract_hash) != 32 or len(run) != 16 or len(digest) != DIGEST_BYTES:
        raise ValueError("a contract hash has 32 bytes, a run 16, a digest 32")
    return b"tidegate receipt v1" + contract_hash + struct.pack("<Q", step) + run + digest


def make(identity: Identity, contract_hash: bytes, step: int, run: bytes, digest: bytes) -> bytes:
    """The receipt of `identity` for a run whose transcript has this digest (`Session.finish`)."""
    return digest + identity.sign(_signed_bytes(contract_hash, step, run, digest))


def verify(receipt: bytes, public: bytes, contract_hash: bytes, step: int, run: bytes) -> bytes:
    """The digest in a receipt. Raises CarrierError unless the key `public` signed it for exactly this run."""
    if len(receipt) != RECEIPT_BYTES or len(public) != IDENTITY_BYTES:
        raise CarrierError(f"a receipt has {RECEIPT_BYTES} bytes, {len(receipt)} came")
    digest = receipt[:DIGEST_BYTES]
    signed = _signed_bytes(contract_hash, step, run, digest)
    verify_signature(public, signed, receipt[DIGEST_BYTES:], "the receipt")
    return digest
