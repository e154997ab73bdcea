"""Oblivious pseudo-random function on ristretto255-SHA512, mode OPRF (0).   RFC 9497

    client (input x)                                        server (key k)
      r random, B = r H(x)                   -- B -->
                                             <-- E --         E = k B
      F_k(x) = Hash(x, r^-1 E)

The client learns F_k(x) and nothing else about k; the server learns nothing about x. All values of a batch pass
through the same k and, here, the same r: under the decisional Diffie-Hellman assumption the B of different inputs
are then as random elements to the server, which is all that matching needs. An input may not occur twice in a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..channel import PeerError
from ..primitives import group
from ..primitives.group import ELEMENT_BYTES, Offsets, Scalar, expand_message, hash_multiply, multiply

SUITE = b"OPRFV1-\x00-ristretto255-SHA512"
HASH_TO_GROUP = b"HashToGroup-" + SUITE


def ragged(inputs: Sequence[bytes]) -> tuple[bytes, Offsets]:
    """Inputs of any length as one piece of bytes and the n + 1 positions where they begin and end."""
    offsets = np.zeros(len(inputs) + 1, np.int64)
    np.cumsum([len(item) for item in inputs], out=offsets[1:])
    return b"".join(inputs), offsets


def derive_key(seed: bytes, info: bytes) -> Scalar:
    """The server's key from 32 secret bytes and a public label.   RFC 9497, 3.2.1 DeriveKeyPair."""
    if len(seed) != 32 or len(info) > 0xFFFF:
        raise ValueError("a key comes from a seed of 32 bytes and a label of at most 65535")
    for counter in range(256):
        message = seed + len(info).to_bytes(2, "big") + info + bytes([counter])
        try:
            return Scalar.from_uniform_bytes(expand_message(message, b"DeriveKeyPair" + SUITE, 64))
        except ValueError:
            continue
    raise ValueError("no key comes out of this seed: take another")


def blind(inputs: Sequence[bytes], blinding: Scalar) -> bytes:
    """One blinded element per input.   RFC 9497, 3.3.1 Blind."""
    return hash_multiply(*ragged(inputs), HASH_TO_GROUP, blinding)


def evaluate_blinded(blinded: bytes, key: Scalar) -> bytes:
    """The server's answer, in the same order. Raises PeerError.   RFC 9497, 3.3.1 BlindEvaluate."""
    return multiply(blinded, key)


def finalize(inputs: Sequence[bytes], evaluated: bytes, blinding: Scalar) -> list[bytes]:
    """F_k of each input, 64 bytes. Raises PeerError for a bad answer.   RFC 9497, 3.3.1 Finalize."""
    if len(evaluated) != len(inputs) * ELEMENT_BYTES:
        raise PeerError(f"{len(inputs)} answers of {ELEMENT_BYTES} bytes were expected, {len(evaluated)} bytes came")
    return _outputs(inputs, multiply(evaluated, blinding.inverse()))


def evaluate(inputs: Sequence[bytes], key: Scalar) -> list[bytes]:
    """F_k of the server's own inputs, 64 bytes each.   RFC 9497, 3.3.1 Evaluate."""
    return _outputs(inputs, hash_multiply(*ragged(inputs), HASH_TO_GROUP, key))


def _outputs(inputs: Sequence[bytes], elements: bytes) -> list[bytes]:
    whole = outputs(*ragged(inputs), elements)
    return [whole[at : at + 64] for at in range(0, len(whole), 64)]


def outputs(data: bytes, offsets: Offsets, elements: bytes, length: int = 64) -> bytes:
    """The first `length` bytes of F_k of each input from k H(input), concatenated: the hash that ends 3.3.1 Finalize.

    offsets (n + 1,): input i is data[offsets[i]:offsets[i + 1]], at most 65535 bytes.
    """
    if group._native is not None:
        return group._native.finalize(data, np.ascontiguousarray(offsets, "<i8").tobytes(), elements, length)
    bounds, between = offsets.tolist(), ELEMENT_BYTES.to_bytes(2, "big")
    hashed = []
    for i, (begin, end) in enumerate(pairwise(bounds)):
        element = elements[i * ELEMENT_BYTES : (i + 1) * ELEMENT_BYTES]
        message = (end - begin).to_bytes(2, "big") + data[begin:end] + between + element + b"Finalize"
        hashed.append(hashlib.sha512(message).digest()[:length])
    return b"".join(hashed)
