"""Exact arithmetic under encryption: BFV, one parameter set, ciphertexts as plain residues.

    BrandKey    encrypts 8192 residues modulo T into an upload, decrypts a result
    PublicKey   loads uploads, multiplies them by known columns, sanitises the sums into results

Parameters: 8192 coefficients; ciphertext modulus q of three 60-bit primes and a 38-bit special prime, 218 bits in all,
the bound for 128-bit security in the homomorphic encryption standard; plaintext modulus T, 45 bits, or the second of
MODULI, as large, for values that need both (their residues by one and by the other, under a key each, fix them modulo
90 bits). They are this module's and never a message's.

Formats. An upload is the first half of a symmetric ciphertext in NTT form (3 x 8192 residues) behind the 32-byte seed
from which both sides draw the second half: 196,640 bytes. A result is a ciphertext at the last prime alone, 2 x 8192
residues: 131,072 bytes. A sum's result is its second half and one coefficient of its first: 65,544 bytes. What a peer
sends is only ever residues: their number and range are checked here.

Sanitising (docs/protocols/blind.md has the argument). A product carries noise that is a linear image of what it was
multiplied with, and its second half is such an image too. So a sum of products gets, at full q: a mask modulo T, a
fresh encryption of zero under the public key (which hides the second half), and noise uniform in +-2^130 (which hides
the noise). Only then it is switched down to one prime: post-processing of something already safe.

An encryption of zero is (b u + e1, a u + e2) over the three primes of a ciphertext, where SEAL's is made with the
special prime and divided by it. That division is for less noise, which nobody needs under a flood of 2^130, and the
shorter modulus only makes the second half harder to tell from uniform.

Two engines do the arithmetic, to the same bits: the Rust crate where it is built and agrees with SEAL at start-up, else
SEAL (`bfv_seal`). Both derive everything secret from seeds that are drawn here, so that whoever has a run's seed can
make its key, uploads and results again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from ..channel import PeerError
from . import bfv_seal
from .fixed_point import T, UInt64Array
from .packing import SLOTS
from .randomness import Randomness

try:
    from .. import _native as _native
except ImportError:
    _native = None  # type: ignore[assignment]  # the crate is optional: SEAL does the work without it

# Made and read by one engine, opaque to everyone else.
Ciphertext: TypeAlias = Any
Plaintext: TypeAlias = Any

PRIMES, SPECIAL_PRIME, MODULI, FLOOD_BITS = (
    bfv_seal.PRIMES,
    bfv_seal.SPECIAL_PRIME,
    bfv_seal.MODULI,
    bfv_seal.FLOOD_BITS,
)
UPLOAD_BYTES = 32 + 8 * len(PRIMES) * SLOTS
RESULT_BYTES = 8 * 2 * SLOTS
SUM_BYTES = 8 * (1 + SLOTS)
PUBLIC_KEY_BYTES = 8 * 2 * (len(PRIMES) + 1) * SLOTS

_Item = TypeVar("_Item")

_Q = np.array(PRIMES, np.uint64)[:, None]
_QP = np.array([*PRIMES, SPECIAL_PRIME], np.uint64)[:, None]


class Spread(Protocol):
    """What `map` does with a function of one argument."""

    def __call__(self, function: Callable[[_Item], bytes], items: Iterable[_Item], /) -> Iterator[bytes]: ...


class Engine(Protocol):
    """The operations for one plaintext modulus, on little-endian words of checked size and range."""

    def key(self, secret_seed: bytes, public_seed: bytes, /) -> tuple[Any, bytes]: ...
    def encrypt(self, secret: Any, block: bytes, noise_seed: bytes, seed: bytes, /) -> bytes: ...
    def decrypt(self, secret: Any, result: bytes, /) -> bytes: ...
    def decrypt_sum(self, secret: Any, data: bytes, /) -> int: ...
    def public(self, data: bytes, /) -> Any: ...
    def load(self, upload: bytes, /) -> Ciphertext: ...
    def encode(self, slots: bytes, /) -> Plaintext | None: ...
    def combine(
        self, sum_: Ciphertext | None, ciphertexts: list[Ciphertext], factors: list[Plaintext], /
    ) -> Ciphertext: ...
    def hidden(self, public: Any, sum_: Ciphertext | None, mask: bytes, seed: bytes, /) -> bytes: ...
    def sanitise(self, public: Any, sum_: Ciphertext | None, mask: bytes, seed: bytes, /) -> bytes: ...
    def sanitise_sum(self, public: Any, sum_: Ciphertext | None, residue: int, seed: bytes, /) -> bytes: ...


def engine() -> str:
    """What does the arithmetic: "native", whose calls release Python's lock, or "seal"."""
    return "seal" if isinstance(_engine(), bfv_seal.Seal) else "native"


@functools.cache
def _engine(modulus: int = T) -> Engine:
    """This process's engine, after SEAL has shown that it is understood and the crate that it agrees with SEAL."""
    seal = bfv_seal.engine(modulus)
    if _native is None:
        return seal
    native = _native.Bfv(modulus)
    return native if _agree(native, seal, modulus) else seal


def _agree(one: Engine, other: Engine, modulus: int) -> bool:
    """Do both make the same of the same seeds: key, upload, product, results, and what these open to?"""
    stream = Randomness.system()
    seeds = [stream.bytes(32) for _ in range(4)]
    block, mask = (stream.integers(modulus, SLOTS).tobytes() for _ in range(2))
    seen = []
    for each in (one, other):
        secret, public_bytes = each.key(*seeds[:2])
        public = each.public(public_bytes)
        upload = each.encrypt(secret, block, *seeds[2:])
        sum_ = each.combine(None, [each.load(upload)], [each.encode(mask)])
        result = each.sanitise(public, sum_, mask, seeds[0])
        total = each.sanitise_sum(public, sum_, 1, seeds[1])
        opened = each.decrypt(secret, result), each.decrypt_sum(secret, total)
        seen.append((public_bytes, upload, sum_.residues(), result, total, opened))
    return seen[0] == seen[1]


class BrandKey:
    """A secret key and what its holder does with it. One per run and modulus; never stored, never printed."""

    def __init__(self, randomness: Randomness, modulus: int = T, *, engine: Engine | None = None) -> None:
        self._engine = _engine(modulus) if engine is None else engine
        self._randomness, self._modulus = randomness, modulus
        self._secret, self._public = self._engine.key(randomness.bytes(32), randomness.bytes(32))

    def __repr__(self) -> str:
        return "BrandKey(...)"

    def public_bytes(self) -> bytes:
        return self._public

    def encrypt(self, blocks: Iterable[UInt64Array], spread: Spread = map) -> Iterator[bytes]:
        """An upload for each block of 8192 residues modulo T (or the modulus given), one per slot.

        `spread` may map on several threads. Seeds are drawn as it takes the blocks, so it must take them in order.
        """
        return spread(self._upload, ((*self._seeds(), _residues(block, SLOTS, self._modulus)) for block in blocks))

    def encrypt_constants(self, values: UInt64Array, spread: Spread = map) -> Iterator[bytes]:
        """An upload for each residue modulo T, standing in every slot: a constant polynomial. `spread` as above."""
        ones = (values[i : i + 1] for i in range(len(values)))
        return spread(self._upload, ((*self._seeds(), _residues(one, 1, self._modulus)) for one in ones))

    def decrypt(self, result: bytes) -> UInt64Array:
        """The residues modulo T in the slots of a result. Raises PeerError for what is no result."""
        _checked(result, RESULT_BYTES, _Q[:1], "a result")
        return np.frombuffer(self._engine.decrypt(self._secret, result), "<u8").astype(np.uint64)

    def decrypt_sum(self, data: bytes) -> int:
        """The residue modulo T that a sum's result opens to. Raises PeerError for what is none."""
        _checked(data, SUM_BYTES, _Q[:1], "a sum", halves=1)
        return self._engine.decrypt_sum(self._secret, data)

    def _seeds(self) -> tuple[bytes, bytes]:
        return self._randomness.bytes(32), self._randomness.bytes(32)

    def _upload(self, item: tuple[bytes, bytes, bytes]) -> bytes:
        noise_seed, seed, block = item
        return self._engine.encrypt(self._secret, block, noise_seed, seed)


class PublicKey:
    """The other side of a BrandKey: loads uploads, computes on them, sanitises the answers.

    Honesty of the key is an assumption (docs/protocols/blind.md): no check here can show that it was made as it should.
    """

    def __init__(self, data: bytes, modulus: int = T, *, engine: Engine | None = None) -> None:
        residues = _checked(data, PUBLIC_KEY_BYTES, _QP, "a public key")
        if not residues.any(axis=2).all():
            raise PeerError("a public key came that is zero")
        self._engine = _engine(modulus) if engine is None else engine
        self._modulus = modulus
        self._public = self._engine.public(data)

    def load(self, upload: bytes) -> Ciphertext:
        """The ciphertext in an upload. Raises PeerError for what is no upload."""
        _checked(memoryview(upload)[32:], UPLOAD_BYTES - 32, _Q, "an upload", halves=1)
        return self._engine.load(upload)

    def encode(self, slots: UInt64Array) -> Plaintext | None:
        """8192 residues as a factor for products. None stands for a factor of zeros."""
        return self._engine.encode(_residues(slots, SLOTS, self._modulus))

    def add_product(
        self, sum_: Ciphertext | None, ciphertext: Ciphertext, factor: Plaintext | None
    ) -> Ciphertext | None:
        """sum_ + ciphertext * factor, slot by slot. None stands for an empty sum or a zero factor."""
        return self.combine([ciphertext], [factor], sum_)

    def combine(
        self, ciphertexts: Sequence[Ciphertext], factors: Sequence[Plaintext | None], sum_: Ciphertext | None = None
    ) -> Ciphertext | None:
        """sum_ + the sum of ciphertext_i * factor_i, slot by slot, in less time than one after the other.

        None stands for an empty sum or a zero factor.
        """
        pairs = [
            (ciphertext, factor) for ciphertext, factor in zip(ciphertexts, factors, strict=True) if factor is not None
        ]
        if not pairs:
            return sum_
        return self._engine.combine(sum_, [ciphertext for ciphertext, _ in pairs], [factor for _, factor in pairs])

    def sanitise(self, sum_: Ciphertext | None, mask: UInt64Array, randomness: Randomness) -> bytes:
        """The result that decrypts to sum_ + mask and shows its key holder no more. An empty sum looks the same."""
        residues = _residues(mask, SLOTS, self._modulus)
        return self._engine.sanitise(self._public, sum_, residues, randomness.bytes(32))

    def sanitise_sum(self, sum_: Ciphertext | None, value: int, randomness: Randomness) -> bytes:
        """What decrypts to the total of the slots of sum_ plus `value`, modulo T, and shows no more.

        The slots' total is 8192 times the constant coefficient. So that coefficient and the second half, without which
        it cannot be decrypted, are all that is sent: a part of what `sanitise` makes of a mask with the total `value`.
        """
        constant = value * pow(SLOTS, -1, self._modulus) % self._modulus
        return self._engine.sanitise_sum(self._public, sum_, constant, randomness.bytes(32))

    def _hidden(self, sum_: Ciphertext | None, mask: UInt64Array, randomness: Randomness) -> bytes:
        """What `sanitise` switches down: safe to be seen by the key holder as it is. For tests of just that."""
        residues = _residues(mask, SLOTS, self._modulus)
        return self._engine.hidden(self._public, sum_, residues, randomness.bytes(32))


def _residues(values: UInt64Array, count: int, modulus: int) -> bytes:
    """An engine's form of our own residues. Raises ValueError for a wrong number or range."""
    if values.shape != (count,) or values.dtype != np.uint64 or (values >= np.uint64(modulus)).any():
        raise ValueError(f"{count} residues below the plaintext modulus are needed")
    return values.astype("<u8", copy=False).tobytes()


def _checked(data: bytes | memoryview, size: int, moduli: UInt64Array, what: str, halves: int = 2) -> UInt64Array:
    """A peer's residues, (halves, primes, ...). Raises PeerError for a wrong size or range."""
    if len(data) != size:
        raise PeerError(f"{what} of {len(data)} bytes came, {size} were expected")
    residues = np.frombuffer(data, "<u8").reshape(halves, len(moduli), -1)
    if (residues >= moduli).any():
        raise PeerError(f"{what} came with a residue that is not below its prime")
    return residues
