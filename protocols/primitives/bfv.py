"""Exact arithmetic under encryption: BFV on SEAL (tenseal.sealapi), one parameter set, ciphertexts as plain residues.

    BrandKey    encrypts 8192 residues modulo T into an upload, decrypts a result
    PublicKey   loads uploads, multiplies them by known columns, sanitises the sums into results

Parameters: 8192 coefficients; ciphertext modulus q of three 60-bit primes and a 38-bit special prime, 218 bits in all,
the bound for 128-bit security in the homomorphic encryption standard; plaintext modulus T, 45 bits, or the second of
MODULI, as large, for values that need both (their residues by one and by the other, under a key each, fix them modulo
90 bits). They are this module's and never a message's: `_context` refuses to start with any other.

Formats. An upload is the first half of a symmetric ciphertext in NTT form (3 x 8192 residues) behind the 32-byte seed
from which both sides draw the second half: 196,640 bytes. A result is a ciphertext at the last prime alone, 2 x 8192
residues: 131,072 bytes. What a peer sends is only ever residues: their number and range are checked here, and the
structure around them, which SEAL's loader reads, is always our own.

Sanitising (docs/protocols/blind.md has the argument). A product carries noise that is a linear image of what it was
multiplied with, and its second half is such an image too. So a sum of products gets, at full q: a mask modulo T, a
fresh encryption of zero under the public key (which hides the second half), and noise uniform in +-2^130 (which hides
the noise). Only then it is switched down to one prime: post-processing of something already safe.

sealapi can neither flood nor save seed-compressed ciphertexts. Both are done by writing residues in SEAL's own layout,
and `_context` shows at start-up that this SEAL reads them as meant, or refuses.
"""

from __future__ import annotations

import functools
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from tenseal import sealapi

from ..channel import ConfigError, PeerError
from .fixed_point import T, UInt64Array
from .packing import SLOTS
from .randomness import Randomness

# sealapi ships no types, so its objects are Any here and nowhere else.
Ciphertext: TypeAlias = Any
Plaintext: TypeAlias = Any

PRIMES = (1152921504606683137, 1152921504606748673, 1152921504606830593)
SPECIAL_PRIME = 274877562881
MODULI = (T, 35184371417089)
FLOOD_BITS = 130
UPLOAD_BYTES = 32 + 8 * len(PRIMES) * SLOTS
RESULT_BYTES = 8 * 2 * SLOTS
PUBLIC_KEY_BYTES = 8 * 2 * (len(PRIMES) + 1) * SLOTS

_Q = np.array(PRIMES, np.uint64)[:, None]
_QP = np.array([*PRIMES, SPECIAL_PRIME], np.uint64)[:, None]
_32, _LOW = np.uint64(32), np.uint64(2**32 - 1)


def _words(data: bytes) -> UInt64Array:
    return np.frombuffer(data, "<u8").astype(np.uint64)


class _Scratch:
    """A file in memory: sealapi saves to paths and loads from paths only."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("bfv")
        self._path = f"/proc/self/fd/{self._fd}"

    def __del__(self) -> None:
        os.close(self._fd)

    def load(self, target: Any, context: Any, body: bytes) -> None:
        """Loads SEAL's uncompressed form: its 16-byte header, then the body."""
        header = bytes.fromhex("5ea1100403000000") + (16 + len(body)).to_bytes(8, "little")
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, header + body, 0)
        target.load(context, self._path)

    def saved(self, source: Any, size: int) -> bytes:
        """The last `size` bytes of what SEAL saves, which it compresses as it was built to."""
        os.ftruncate(self._fd, 0)
        source.save(self._path)
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        if data[5] == 2:
            # A frame of Zstandard names its content's size: in 4 bytes behind flag 0xa0, in 2 (less 256) behind 0x60.
            long = data[20] == 0xA0
            content = int.from_bytes(data[21:25], "little") if long else int.from_bytes(data[21:23], "little") + 256
            body: bytes = pa.Codec("zstd").decompress(data[16:], content, asbytes=True)
        else:
            body = zlib.decompress(data[16:]) if data[5] == 1 else data[16:]
        return body[-size:]


class _Context:
    """SEAL's objects for the one parameter set and a plaintext modulus, and the headers that go before residues."""

    def __init__(self, modulus: int = T) -> None:
        parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(SLOTS)
        primes = sealapi.CoeffModulus.Create(SLOTS, [60, 60, 60, 38])
        plain = {int(prime.value()): prime for prime in sealapi.CoeffModulus.Create(SLOTS, [45] * len(MODULI))}
        if tuple(int(prime.value()) for prime in primes) != (*PRIMES, SPECIAL_PRIME) or set(plain) != set(MODULI):
            raise ConfigError("this SEAL chooses other primes than ours", "install tenseal 0.3.18")
        parameters.set_coeff_modulus(primes)
        parameters.set_plain_modulus(plain[modulus])
        q = math.prod(PRIMES)
        self.modulus, self.q_rest = modulus, q % modulus / modulus
        self.delta = np.array([q // modulus % prime for prime in PRIMES], np.uint64)[:, None]
        self.delta_inverse = _inverse_word(self.delta, _Q)
        self.seal = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
        self.scratch = _Scratch()
        self.evaluator = sealapi.Evaluator(self.seal)
        self.encoder = sealapi.BatchEncoder(self.seal)

    def ciphertext(self, residues: UInt64Array, *, ntt: bool, level: Any = None, into: Any = None) -> Ciphertext:
        """The SEAL ciphertext with these residues (2, primes, 8192), each below its prime."""
        parms = self.seal.first_parms_id() if level is None else level
        words = np.array([2, SLOTS, residues.shape[1]], "<u8").tobytes() + np.array([1.0], "<f8").tobytes()
        inner = bytes.fromhex("5ea1100403000000") + np.array([24 + residues.nbytes, residues.size], "<u8").tobytes()
        head = np.array(parms, "<u8").tobytes() + bytes([ntt]) + words + np.array([1], "<u8").tobytes() + inner
        target = sealapi.Ciphertext() if into is None else into
        self.scratch.load(target, self.seal, head + residues.astype("<u8").tobytes())
        return target

    def residues(self, ciphertext: Ciphertext, primes: int) -> UInt64Array:
        """The other way: (2, primes, 8192)."""
        body = self.scratch.saved(ciphertext, 8 * 2 * primes * SLOTS)
        return _words(body).reshape(2, primes, SLOTS)

    def encode(self, slots: UInt64Array) -> Plaintext:
        plain = sealapi.Plaintext()
        self.encoder.encode(slots.tolist(), plain)
        return plain


@functools.cache
def _context(modulus: int = T) -> _Context:
    """The context of this process, after it has shown that this SEAL reads and writes residues as this module means."""
    context = _Context(modulus)
    _self_test(context)
    return context


def _inverse_word(w: UInt64Array, q: UInt64Array) -> UInt64Array:
    """floor(w * 2^64 / q): what `_multiply` needs besides w."""
    wide = w.astype(object) * 2**64 // np.broadcast_to(q, w.shape).astype(object)
    inverse: UInt64Array = wide.astype(np.uint64)
    return inverse


def _multiply(a: UInt64Array, w: UInt64Array, w_inverse: UInt64Array, q: UInt64Array) -> UInt64Array:
    """a * w modulo q, for w < q < 2^62. Shoup: the quotient is the high word of a * w_inverse, or one more."""
    a0, a1, b0, b1 = a & _LOW, a >> _32, w_inverse & _LOW, w_inverse >> _32
    middle = a1 * b0 + ((a0 * b0) >> _32)
    quotient = a1 * b1 + (middle >> _32) + ((a0 * b1 + (middle & _LOW)) >> _32)
    product = a * w - quotient * q
    reduced: UInt64Array = np.where(product >= q, product - q, product)
    return reduced


def _seeded_half(seed: bytes) -> UInt64Array:
    """The second half of an upload: (3, 8192) residues drawn from its seed, in NTT form."""
    stream = Randomness(seed)
    return np.stack([stream.integers(prime, SLOTS) for prime in PRIMES])


def _small_noise(randomness: Randomness, n: int) -> UInt64Array:
    """n draws of the centred binomial distribution on -21..21 (standard deviation 3.24, as SEAL's), plus 21."""
    bits = _words(randomness.bytes(8 * n))
    mask = np.uint64(2**21 - 1)
    ones, others = np.bitwise_count(bits & mask), np.bitwise_count((bits >> np.uint64(21)) & mask)
    shifted: UInt64Array = ones.astype(np.uint64) + np.uint64(21) - others.astype(np.uint64)
    return shifted


def _flood(randomness: Randomness) -> UInt64Array:
    """8192 integers, uniform in -2^130..2^130 - 1, as residues (3, 8192) of the primes.

    e = a + b 2^60 + c 2^120 - 2^130 with a, b of 60 and c of 11 bits. Each prime is 2^60 - d with d < 2^18, so 2^60 is
    d: b d = low + high 2^30 with both products under 2^60, and everything adds up to less than 2^63.
    """
    raw = _words(randomness.bytes(3 * 8 * SLOTS)).reshape(3, 1, SLOTS)
    a, b, c = raw[0] >> np.uint64(4), raw[1] >> np.uint64(4), raw[2] >> np.uint64(53)
    d = np.uint64(2**60) - _Q
    thirty, low30 = np.uint64(30), np.uint64(2**30 - 1)
    high = (b >> thirty) * d
    start = np.array([(-(2**FLOOD_BITS)) % prime for prime in PRIMES], np.uint64)[:, None]
    e: UInt64Array = a + (b & low30) * d + ((high & low30) << thirty) + (high >> thirty) * d + c * (d * d) + start
    return e % _Q


class BrandKey:
    """A secret key and what its holder does with it. One per run and modulus; never stored, never printed."""

    def __init__(self, randomness: Randomness, modulus: int = T) -> None:
        self._context = _context(modulus)
        self._randomness = randomness
        seal = self._context.seal
        generator = sealapi.KeyGenerator(seal)
        secret = generator.secret_key()
        self._public = sealapi.PublicKey()
        generator.create_public_key(self._public)
        self._decryptor = sealapi.Decryptor(seal, secret)
        body = self._context.scratch.saved(secret, 8 * (len(PRIMES) + 1) * SLOTS)
        self._secret = _words(body).reshape(-1, SLOTS)[: len(PRIMES)]
        self._secret_inverse = _inverse_word(self._secret, _Q)

    def __repr__(self) -> str:
        return "BrandKey(...)"

    def public_bytes(self) -> bytes:
        return self._context.scratch.saved(self._public, PUBLIC_KEY_BYTES)

    def encrypt(self, blocks: Iterable[UInt64Array]) -> Iterator[bytes]:
        """An upload for each block of 8192 residues modulo T (or the modulus given), one per slot."""
        return self._uploads(self._coefficients(block) for block in blocks)

    def encrypt_constants(self, values: UInt64Array) -> Iterator[bytes]:
        """An upload for each residue modulo T, standing in every slot: a constant polynomial."""
        rest = np.zeros(SLOTS - 1, np.uint64)
        return self._uploads(np.concatenate([values[i : i + 1], rest]) for i in range(len(values)))

    def decrypt(self, result: bytes) -> UInt64Array:
        """The residues modulo T in the slots of a result. Raises PeerError for what is no result."""
        residues = _checked(result, RESULT_BYTES, _Q[:1], "a result")
        context = self._context
        ciphertext = context.ciphertext(residues, ntt=False, level=context.seal.last_parms_id())
        plain = sealapi.Plaintext()
        self._decryptor.decrypt(ciphertext, plain)
        return np.array(context.encoder.decode_uint64(plain), np.uint64)

    def _coefficients(self, block: UInt64Array) -> UInt64Array:
        plain = self._context.encode(block)
        count = int(plain.coeff_count())
        found = _words(self._context.scratch.saved(plain, 8 * count))
        return np.concatenate([found, np.zeros(SLOTS - count, np.uint64)])

    def _uploads(self, polynomials: Iterable[UInt64Array]) -> Iterator[bytes]:
        """Symmetric encryptions, two at a time because a SEAL ciphertext, which does the NTT, holds two polynomials.

        c0 = -a s + e + round(q m / T), c1 = a. The rounding may be off by one, which is noise the kernel never notices.
        """
        remaining = iter(polynomials)
        while pair := list(islice(remaining, 2)):
            m = np.stack([*pair, *[np.zeros(SLOTS, np.uint64)] * (2 - len(pair))])[:, None, :]
            rest = np.rint(m.astype(np.float64) * self._context.q_rest).astype(np.uint64)
            noise = _small_noise(self._randomness, 2 * SLOTS).reshape(2, 1, SLOTS)
            context = self._context
            scaled = _multiply(m, context.delta, context.delta_inverse, _Q) + rest + noise
            ciphertext = context.ciphertext((scaled + (_Q - np.uint64(21))) % _Q, ntt=False)
            context.evaluator.transform_to_ntt_inplace(ciphertext)
            transformed = context.residues(ciphertext, len(PRIMES))
            for half, _ in zip(transformed, pair, strict=False):
                seed = self._randomness.bytes(32)
                masked = half + (_Q - _multiply(_seeded_half(seed), self._secret, self._secret_inverse, _Q))
                yield seed + (masked % _Q).astype("<u8").tobytes()


class PublicKey:
    """The other side of a BrandKey: loads uploads, computes on them, sanitises the answers.

    Honesty of the key is an assumption (docs/protocols/blind.md): no check here can show that it was made as it should.
    """

    def __init__(self, data: bytes, modulus: int = T) -> None:
        residues = _checked(data, PUBLIC_KEY_BYTES, _QP, "a public key")
        if not residues.any(axis=2).all():
            raise PeerError("a public key came that is zero")
        self._context = _context(modulus)
        seal = self._context.seal
        key = self._context.ciphertext(residues, ntt=True, level=seal.key_parms_id(), into=sealapi.PublicKey())
        self._encryptor = sealapi.Encryptor(seal, key)

    def load(self, upload: bytes) -> Ciphertext:
        """The ciphertext (NTT form) in an upload. Raises PeerError for what is no upload."""
        first = _checked(upload[32:], UPLOAD_BYTES - 32, _Q, "an upload", halves=1)
        return self._context.ciphertext(np.stack([first[0], _seeded_half(upload[:32])]), ntt=True)

    def encode(self, slots: UInt64Array) -> Plaintext | None:
        """8192 residues as a factor for `add_product`; None where all are zero, which SEAL would not multiply by."""
        if not slots.any():
            return None
        context = self._context
        plain, transformed = context.encode(slots), sealapi.Plaintext()
        context.evaluator.transform_to_ntt(plain, context.seal.first_parms_id(), transformed)
        return transformed

    def add_product(
        self, sum_: Ciphertext | None, ciphertext: Ciphertext, factor: Plaintext | None
    ) -> Ciphertext | None:
        """sum_ + ciphertext * factor, slot by slot, changing sum_. None stands for an empty sum or a zero factor."""
        if factor is None:
            return sum_
        product = sealapi.Ciphertext()
        self._context.evaluator.multiply_plain(ciphertext, factor, product)
        if sum_ is None:
            return product
        self._context.evaluator.add_inplace(sum_, product)
        return sum_

    def sanitise(self, sum_: Ciphertext | None, mask: UInt64Array, randomness: Randomness) -> bytes:
        """The result that decrypts to sum_ + mask and shows its key holder no more. An empty sum looks the same."""
        hidden = self._hidden(sum_, mask, randomness)
        self._context.evaluator.mod_switch_to_next_inplace(hidden)
        self._context.evaluator.mod_switch_to_next_inplace(hidden)
        return self._context.residues(hidden, 1).astype("<u8").tobytes()

    def _hidden(self, sum_: Ciphertext | None, mask: UInt64Array, randomness: Randomness) -> Ciphertext:
        """sum_ + mask at full q, re-randomised and flooded: safe to be seen by the key holder as it is."""
        evaluator = self._context.evaluator
        out = sealapi.Ciphertext()
        self._encryptor.encrypt_zero(out)
        if sum_ is not None:
            plain_form = sealapi.Ciphertext()
            evaluator.transform_from_ntt(sum_, plain_form)
            evaluator.add_inplace(out, plain_form)
        evaluator.add_inplace(out, self._context.ciphertext(_flooding_halves(randomness), ntt=False))
        evaluator.add_plain_inplace(out, self._context.encode(mask))
        return out


def _flooding_halves(randomness: Randomness) -> UInt64Array:
    """The flood as a ciphertext: noise in the first half, nothing in the second."""
    noise = _flood(randomness)
    return np.stack([noise, np.zeros_like(noise)])


def _checked(data: bytes, size: int, moduli: UInt64Array, what: str, halves: int = 2) -> UInt64Array:
    """Residues (halves, primes, 8192) from a peer's bytes. Raises PeerError for a wrong size or range."""
    if len(data) != size:
        raise PeerError(f"{what} of {len(data)} bytes came, {size} were expected")
    residues = _words(data).reshape(halves, len(moduli), SLOTS)
    if (residues >= moduli).any():
        raise PeerError(f"{what} came with a residue that is not below its prime")
    return residues


def _self_test(context: _Context) -> None:
    """Raises ConfigError unless this SEAL reads our residues as meant: noise lands as noise, at the size we wrote."""
    refusal = ConfigError(
        "this SEAL does not read ciphertexts the way tidegate writes them, so noise flooding cannot be relied on",
        "install tenseal 0.3.18",
    )
    seal, evaluator = context.seal, context.evaluator
    generator = sealapi.KeyGenerator(seal)
    encryptor = sealapi.Encryptor(seal, generator.secret_key())
    decryptor = sealapi.Decryptor(seal, generator.secret_key())
    message = np.arange(SLOTS, dtype=np.uint64) * np.uint64(context.modulus // SLOTS)
    try:
        fresh = sealapi.Ciphertext()
        encryptor.encrypt_symmetric(context.encode(message), fresh)
        before = int(decryptor.invariant_noise_budget(fresh))
        flood = _flooding_halves(Randomness.system())
        written = context.ciphertext(flood, ntt=False)
        same = np.array_equal(context.residues(written, len(PRIMES)), flood)
        evaluator.add_inplace(fresh, written)
        after = int(decryptor.invariant_noise_budget(fresh))
        plain = sealapi.Plaintext()
        decryptor.decrypt(fresh, plain)
        right = np.array_equal(np.array(context.encoder.decode_uint64(plain), np.uint64), message)
    except (RuntimeError, ValueError, pa.ArrowException, zlib.error):
        raise refusal from None
    # q / (2 T) is 2^134: noise of 2^130 leaves 3 or 4 bits of budget, where a fresh ciphertext has about 128.
    if not (same and right and before > 100 and 2 <= after <= 6):
        raise refusal
