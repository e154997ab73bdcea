"""ristretto255 (RFC 9496), a group of prime order, in batches of elements.

Elements travel as concatenated 32-byte encodings. Each operation that reads an encoding refuses what is no element:
a wrong length, a non-canonical alias, a point off the group, and the identity, which no honest role sends. So no
protocol can forget to check.

The arithmetic runs in the Rust crate beside this package, with vector instructions where the CPU has them
(docs/protocols/kernel.md), else in libsodium through `rbcl`. libsodium's decoder
takes an encoding with the top bit set for the same element, and some of its calls take the identity: both are
refused here before it sees them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..channel import PeerError
from .randomness import Randomness

try:
    from .. import _native as _native
except ImportError:
    _native = None  # type: ignore[assignment]  # the crate is optional: libsodium does the work without it

ELEMENT_BYTES = 32
ORDER = 2**252 + 27742317777372353535851937790883648493
GENERATOR = bytes.fromhex("e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76")

Offsets = NDArray[np.int64]

_IDENTITY = bytes(ELEMENT_BYTES)
_IN_ONE_TASK = 256


def backend() -> str:
    """What does the arithmetic: "AVX-512 IFMA", "AVX2" or "curve25519-dalek" in the crate, or "libsodium"."""
    return "libsodium" if _native is None else _native.kernels()[0]


class Scalar:
    """A secret number in 1..ORDER-1. It never prints."""

    def __init__(self, value: int) -> None:
        if not 0 < value < ORDER:
            raise ValueError("a scalar lies in 1..ORDER-1")
        self._value = value

    @classmethod
    def random(cls, randomness: Randomness) -> Self:
        return cls.from_uniform_bytes(randomness.bytes(64))

    @classmethod
    def from_uniform_bytes(cls, uniform: bytes) -> Self:
        """64 uniform bytes modulo the order; that it is zero has probability 2^-252 and raises ValueError."""
        return cls(int.from_bytes(uniform, "little") % ORDER)

    @classmethod
    def from_bytes(cls, encoding: bytes) -> Self:
        if len(encoding) != 32:
            raise ValueError("a scalar has 32 bytes")
        return cls(int.from_bytes(encoding, "little"))

    def to_bytes(self) -> bytes:
        return self._value.to_bytes(32, "little")

    def inverse(self) -> Self:
        return type(self)(pow(self._value, -1, ORDER))

    def __repr__(self) -> str:
        return "Scalar(...)"


ONE = Scalar(1)


def multiply(elements: bytes, scalar: Scalar) -> bytes:
    """scalar times each of the concatenated elements. Raises PeerError for an encoding that is no element."""
    if len(elements) % ELEMENT_BYTES:
        raise PeerError(f"group elements have {ELEMENT_BYTES} bytes each, {len(elements)} bytes came")
    if _native is None:
        return _sodium_multiply(elements, scalar.to_bytes())
    try:
        return _native.multiply(elements, scalar.to_bytes())
    except ValueError as error:
        raise _bad_element(int(error.args[0])) from None


def hash_multiply(data: bytes, offsets: Offsets, dst: bytes, scalar: Scalar = ONE) -> bytes:
    """scalar times the hash-to-group of each input: concatenated elements.   RFC 9497, 4.1 HashToGroup.

    offsets (n + 1,): input i is data[offsets[i]:offsets[i + 1]].
    """
    if _native is None:
        return _sodium_hash_multiply(data, offsets, dst, scalar.to_bytes())
    return _native.hash_multiply(data, np.ascontiguousarray(offsets, "<i8").tobytes(), dst, scalar.to_bytes())


def digests(elements: bytes, prefix: bytes, length: int) -> bytes:
    """The first `length` bytes of SHA-512(prefix || element) for each element, concatenated."""
    if _native is None:
        start = hashlib.sha512(prefix)
        return b"".join(_digest(start, element)[:length] for element in _each(elements))
    return _native.digests(elements, prefix, length)


def expand_message(message: bytes, dst: bytes, length: int) -> bytes:
    """`length` uniform bytes from a message.   RFC 9380, 5.3.1 expand_message_xmd with SHA-512."""
    if not 0 < length <= 255 * 64 or not 0 < len(dst) <= 255:
        raise ValueError("expand_message_xmd gives 1 to 16320 bytes under a domain of 1 to 255 bytes")
    dst_prime = dst + bytes([len(dst)])
    b_0 = hashlib.sha512(bytes(128) + message + length.to_bytes(2, "big") + b"\0" + dst_prime).digest()
    block = bytes(64)
    blocks = []
    for i in range(1, -(-length // 64) + 1):
        mixed = bytes(x ^ y for x, y in zip(b_0, block, strict=True))
        block = hashlib.sha512(mixed + bytes([i]) + dst_prime).digest()
        blocks.append(block)
    return b"".join(blocks)[:length]


def _bad_element(index: int) -> PeerError:
    return PeerError(f"group element {index} of a message is the identity or no canonical encoding (RFC 9496)")


def _each(elements: bytes) -> Iterator[bytes]:
    return (elements[at : at + ELEMENT_BYTES] for at in range(0, len(elements), ELEMENT_BYTES))


def _digest(start: hashlib._Hash, element: bytes) -> bytes:
    state = start.copy()
    state.update(element)
    return state.digest()


def _in_threads(work: Callable[[int, int], bytes], n: int) -> bytes:
    """work(begin, end) over 0..n in pieces, concatenated: libsodium's wheel frees Python's lock while it multiplies."""
    begins = range(0, n, _IN_ONE_TASK)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return b"".join(pool.map(lambda begin: work(begin, min(begin + _IN_ONE_TASK, n)), begins))


@functools.cache
def _sodium() -> Any:
    """libsodium by its wheel, which leaves a copy in the folder for temporary files at every import."""
    import rbcl

    with contextlib.suppress(OSError):
        os.unlink(importlib.import_module("rbcl._sodium").lib_path)  # noqa: PTH108 - as the wheel names it
    return rbcl


def _sodium_multiply(elements: bytes, scalar: bytes) -> bytes:
    rbcl = _sodium()

    def work(begin: int, end: int) -> bytes:
        products = []
        for i in range(begin, end):
            element = elements[i * ELEMENT_BYTES : (i + 1) * ELEMENT_BYTES]
            if element[-1] & 0x80 or element == _IDENTITY:
                raise _bad_element(i)
            try:
                products.append(rbcl.crypto_scalarmult_ristretto255(scalar, element))
            except RuntimeError:
                raise _bad_element(i) from None
        return b"".join(products)

    return _in_threads(work, len(elements) // ELEMENT_BYTES)


def _sodium_hash_multiply(data: bytes, offsets: Offsets, dst: bytes, scalar: bytes) -> bytes:
    rbcl = _sodium()

    dst_prime = dst + bytes([len(dst)])
    start = hashlib.sha512(bytes(128))
    bounds = offsets.tolist()

    def work(begin: int, end: int) -> bytes:
        products = []
        for i in range(begin, end):
            # expand_message above, for 64 bytes and with the block of zeros hashed once for all.
            b_0 = start.copy()
            b_0.update(data[bounds[i] : bounds[i + 1]] + b"\0\x40\0" + dst_prime)
            uniform = hashlib.sha512(b_0.digest() + b"\1" + dst_prime).digest()
            element = rbcl.crypto_core_ristretto255_from_hash(uniform)
            products.append(rbcl.crypto_scalarmult_ristretto255(scalar, element))
        return b"".join(products)

    return _in_threads(work, len(bounds) - 1)
