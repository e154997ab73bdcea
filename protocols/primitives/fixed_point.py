"""Real numbers as integers modulo T, the plaintext modulus that everything in `blind/` works in.

T is the largest 45-bit prime that is 1 modulo 2*8192, so that BFV with 8192 coefficients has 8192 plaintext slots.
An integer in -T/2..T/2 and its residue stand for each other; a sum that leaves that range wraps, which every protocol
must exclude by its sizes or (masks) rely on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]
FloatArray = NDArray[np.float64]

T = 35184371613697
HALF = T // 2

FEATURE_BITS = 6
FEATURE_LIMIT = 8.0


def quantise(x: ArrayLike, bits: int = FEATURE_BITS, limit: float = FEATURE_LIMIT) -> IntArray:
    """round(clip(x, -limit, limit) * 2^bits). Raises ValueError where x is not finite."""
    values = np.asarray(x, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("features must be finite numbers; fill in missing values first")
    return np.rint(np.clip(values, -limit, limit) * 2.0**bits).astype(np.int64)


def modulo(x: ArrayLike) -> UInt64Array:
    """The residues of integers modulo T. Unsigned 64-bit input is taken as it is, everything else as signed."""
    values = np.asarray(x)
    if values.dtype == np.uint64:
        return values % np.uint64(T)
    if values.dtype.kind == "i" and values.dtype.itemsize < 8:
        # All less than T, so one addition does, which is faster than a division.
        wide = values.astype(np.int64)
        return (wide + (wide < 0) * np.int64(T)).astype(np.uint64)
    return np.mod(values.astype(np.int64), np.int64(T)).astype(np.uint64)


def centred(x: UInt64Array) -> IntArray:
    """The integer of least size behind each residue modulo T: in -T//2..T//2."""
    values = x.astype(np.int64)
    return np.where(values > HALF, values - T, values)


def plus(a: UInt64Array, b: UInt64Array) -> UInt64Array:
    """a + b modulo T, for residues."""
    return (a + b) % np.uint64(T)


def minus(a: UInt64Array) -> UInt64Array:
    """-a modulo T, for residues."""
    return (np.uint64(T) - a) % np.uint64(T)


def total(x: UInt64Array) -> int:
    """The sum of residues modulo T. Exact: 45-bit residues are added in chunks that cannot overflow 64 bits."""
    flat = x.reshape(-1)
    return sum(int(flat[at : at + 2**18].sum(dtype=np.uint64)) for at in range(0, len(flat), 2**18)) % T


def dot(x: IntArray, residues: UInt64Array) -> int:
    """sum(x * residues) modulo T, exactly, for |x| < 2^31: the residues are split into 23 low and 22 high bits."""
    low = (residues & np.uint64(2**23 - 1)).astype(np.int64)
    high = (residues >> np.uint64(23)).astype(np.int64)
    result = 0
    for at in range(0, len(x), 2**8):
        part = slice(at, at + 2**8)
        result += int(x[part] @ low[part]) + (int(x[part] @ high[part]) << 23)
    return result % T
