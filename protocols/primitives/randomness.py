"""A stream of uniform bytes that protocols take as an argument: the system's in production, seeded in tests."""

from __future__ import annotations

import os
from typing import Self

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]


class Randomness:
    """AES-256-CTR under a 32-byte seed. `system()` takes the seed from the operating system.

    Not shared between threads: give each its own.
    """

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError(f"a seed has 32 bytes, this one {len(seed)}")
        self._stream = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def system(cls) -> Self:
        return cls(os.urandom(32))

    def __repr__(self) -> str:
        return "Randomness(...)"

    def bytes(self, n: int) -> bytes:
        return self._stream.update(b"\0" * n)

    def integers(self, modulus: int, n: int) -> UInt64Array:
        """n integers, uniform in 0..modulus-1 (modulus <= 2^63), without modulo bias: rejection sampling."""
        if not 0 < modulus <= 2**63:
            raise ValueError(f"a modulus lies in 1..2^63, not {modulus}")
        mask = np.uint64((1 << (modulus - 1).bit_length()) - 1)
        kept: list[UInt64Array] = []
        missing = n
        while missing > 0:
            drawn = np.frombuffer(self.bytes(8 * (missing + missing // 2 + 16)), dtype="<u8") & mask
            drawn = drawn[drawn < np.uint64(modulus)][:missing]
            kept.append(drawn)
            missing -= len(drawn)
        return np.concatenate(kept) if kept else np.empty(0, np.uint64)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """A uniform order of 0..n-1: argsort of 64-bit keys, drawn again in the rare case that two are equal."""
        while True:
            keys = np.frombuffer(self.bytes(8 * n), dtype="<u8")
            order = np.argsort(keys)
            keys = keys[order]
            if not np.any(keys[1:] == keys[:-1]):
                return order.astype(np.int64, copy=False)
