"""BFV on SEAL (tenseal.sealapi): the reference for the Rust crate's arithmetic, and what stands in where it is missing.

The methods of `Seal` are those of the crate's `Bfv`, to the last bit: on the same seeds both make the same key, the
same uploads and the same results. Transforms, products, sums, mod-switching and decryption are SEAL's; what SEAL
draws from a generator of its own (key, noise, encryptions of zero) is made here, because it has to come from a seed.

sealapi can neither flood nor take randomness as an argument. Both are done by writing residues in SEAL's own layout,
and `engine` shows at start-up that this SEAL reads them as meant, or refuses.
"""

from __future__ import annotations

import functools
import math
import os
import weakref
import zlib
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from tenseal import sealapi

from ..channel import ConfigError
from .fixed_point import T, UInt64Array
from .packing import SLOTS
from .randomness import Randomness

# sealapi ships no types, so its objects are Any here and nowhere else.
_SealObject: TypeAlias = Any

PRIMES = (1152921504606683137, 1152921504606748673, 1152921504606830593)
SPECIAL_PRIME = 274877562881
MODULI = (T, 35184371417089)
FLOOD_BITS = 130

_Q = np.array(PRIMES, np.uint64)[:, None]
_QP = np.array([*PRIMES, SPECIAL_PRIME], np.uint64)[:, None]
_32, _LOW = np.uint64(32), np.uint64(2**32 - 1)


class Ciphertext:
    """A SEAL ciphertext in NTT form."""

    def __init__(self, context: _Context, seal: _SealObject) -> None:
        self._context, self.seal = context, seal

    def residues(self) -> bytes:
        """Values of both halves by the three primes."""
        return self._context.residues(self.seal, len(PRIMES)).tobytes()


class Plaintext:
    """A SEAL plaintext in NTT form."""

    def __init__(self, seal: _SealObject) -> None:
        self.seal = seal


class Secret:
    """A secret key: SEAL's decryptor, and values by the three primes."""

    def __init__(self, decryptor: _SealObject, values: UInt64Array) -> None:
        self.decryptor, self.values, self.quotients = decryptor, values, _quotients(values, _Q)


class Public:
    """A public key: (2, 3, 8192) values."""

    def __init__(self, values: UInt64Array) -> None:
        self.values, self.quotients = values, _quotients(values, _Q)


class Seal:
    """The operations for one plaintext modulus. Bytes are little-endian words of the sizes that `bfv` checks.

    For one thread at a time: SEAL's objects pass through one scratch file.
    """

    def __init__(self, context: _Context) -> None:
        self._context = context

    def key(self, secret_seed: bytes, public_seed: bytes) -> tuple[Secret, bytes]:
        """A secret key and its public key (b, a), b = -(a s + e), by all four primes."""
        stream = Randomness(secret_seed)
        s = transformed((_ternary(stream) + (_QP - np.uint64(1))) % _QP)
        e = transformed((_small_noise(stream, SLOTS) + (_QP - np.uint64(21))) % _QP)
        a = _uniform(public_seed, (*PRIMES, SPECIAL_PRIME))
        b = _QP - (_multiply(a, s, _quotients(s, _QP), _QP) + e) % _QP
        decryptor = sealapi.Decryptor(self._context.seal, self._context.secret_key(s))
        return Secret(decryptor, s[: len(PRIMES)]), np.stack([b % _QP, a]).astype("<u8").tobytes()

    def encrypt(self, secret: Secret, block: bytes, noise_seed: bytes, seed: bytes) -> bytes:
        """A symmetric encryption: c0 = -a s + e + round(q m / T), c1 = a. One residue stands for a slot each."""
        context = self._context
        m = _padded(_words(block)) if len(block) == 8 else context.coefficients(_words(block))
        noise = _small_noise(Randomness(noise_seed), SLOTS) + (_Q - np.uint64(21))
        c0 = (context.scaled(m) + noise) % _Q
        c0 = context.transformed(c0)
        product = _multiply(_uniform(seed, PRIMES), secret.values, secret.quotients, _Q)
        return seed + ((c0 + (_Q - product)) % _Q).astype("<u8").tobytes()

    def decrypt(self, secret: Secret, result: bytes) -> bytes:
        plain = self._decrypted(secret, _words(result).reshape(2, 1, SLOTS))
        return np.array(self._context.encoder.decode_uint64(plain), np.uint64).tobytes()

    def decrypt_sum(self, secret: Secret, data: bytes) -> int:
        constant, second = _words(data[:8]), _words(data[8:])
        plain = self._decrypted(secret, np.stack([_padded(constant), second])[:, None, :])
        return int(self._context.polynomial(plain)[0]) * SLOTS % self._context.modulus

    def _decrypted(self, secret: Secret, residues: UInt64Array) -> _SealObject:
        context = self._context
        plain = sealapi.Plaintext()
        last = context.seal.last_parms_id()
        secret.decryptor.decrypt(context.ciphertext(residues, ntt=False, level=last), plain)
        return plain

    def public(self, data: bytes) -> Public:
        """The special prime's part of a public key is for key switching, of which there is none."""
        return Public(_words(data).reshape(2, -1, SLOTS)[:, : len(PRIMES)])

    def load(self, upload: bytes) -> Ciphertext:
        first, second = _words(upload[32:]).reshape(-1, SLOTS), _uniform(upload[:32], PRIMES)
        return Ciphertext(self._context, self._context.ciphertext(np.stack([first, second]), ntt=True))

    def encode(self, slots: bytes) -> Plaintext | None:
        """None where all are zero, which SEAL would not multiply by."""
        residues = _words(slots)
        if not residues.any():
            return None
        context = self._context
        plain = sealapi.Plaintext()
        context.evaluator.transform_to_ntt(context.encode(residues), context.seal.first_parms_id(), plain)
        return Plaintext(plain)

    def combine(self, sum_: Ciphertext | None, ciphertexts: list[Ciphertext], factors: list[Plaintext]) -> Ciphertext:
        """sum_ + the sum of ciphertext_i * factor_i, for at least one of them."""
        terms = [] if sum_ is None else [sum_.seal]
        for ciphertext, factor in zip(ciphertexts, factors, strict=True):
            product = sealapi.Ciphertext()
            self._context.evaluator.multiply_plain(ciphertext.seal, factor.seal, product)
            terms.append(product)
        total = sealapi.Ciphertext()
        self._context.evaluator.add_many(terms, total)
        return Ciphertext(self._context, total)

    def hidden(self, public: Public, sum_: Ciphertext | None, mask: bytes, seed: bytes) -> bytes:
        """sum_ + mask, re-randomised and flooded, at full q: coefficients of both halves, prime after prime."""
        hidden = self._flooded(public, sum_, self._context.encode(_words(mask)), seed, SLOTS)
        return self._context.residues(hidden, len(PRIMES)).astype("<u8").tobytes()

    def sanitise(self, public: Public, sum_: Ciphertext | None, mask: bytes, seed: bytes) -> bytes:
        """The same, switched to the first prime."""
        hidden = self._flooded(public, sum_, self._context.encode(_words(mask)), seed, SLOTS)
        return self._switched(hidden).astype("<u8").tobytes()

    def sanitise_sum(self, public: Public, sum_: Ciphertext | None, residue: int, seed: bytes) -> bytes:
        """The constant coefficient of the first half, and the second half, of such a result, where the mask is the
        residue in the constant coefficient. Of what goes into the first half only that coefficient is drawn.
        """
        hidden = self._flooded(public, sum_, sealapi.Plaintext(f"{residue:x}"), seed, 1)
        first, second = self._switched(hidden)[:, 0]
        return np.append(first[:1], second).astype("<u8").tobytes()

    def _switched(self, ciphertext: _SealObject) -> UInt64Array:
        for _ in PRIMES[1:]:
            self._context.evaluator.mod_switch_to_next_inplace(ciphertext)
        return self._context.residues(ciphertext, 1)

    def _flooded(
        self, public: Public, sum_: Ciphertext | None, mask: _SealObject, seed: bytes, count: int
    ) -> _SealObject:
        """b u + e1 + flood + mask, a u + e2, with e1 and flood in `count` coefficients only."""
        context = self._context
        stream = Randomness(seed)
        u = (_ternary(stream) + (_Q - np.uint64(1))) % _Q
        e2 = (_small_noise(stream, SLOTS) + (_Q - np.uint64(21))) % _Q
        e1 = (_small_noise(stream, count) + (_Q - np.uint64(21))) % _Q
        noise = _flooding_halves((e1 + _flood(stream, count)) % _Q, e2)
        out = context.ciphertext(_multiply(context.transformed(u), public.values, public.quotients, _Q), ntt=True)
        if sum_ is not None:
            context.evaluator.add_inplace(out, sum_.seal)
        context.evaluator.transform_from_ntt_inplace(out)
        context.evaluator.add_inplace(out, context.ciphertext(noise, ntt=False))
        context.evaluator.add_plain_inplace(out, mask)
        return out


@functools.cache
def engine(modulus: int = T) -> Seal:
    """This process's, after it has shown that this SEAL reads and writes residues as this module means."""
    context = _Context(modulus)
    _self_test(context)
    return Seal(context)


class _Scratch:
    """A file in memory: sealapi saves to paths and loads from paths only."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("bfv")
        self._path = f"/proc/self/fd/{self._fd}"
        weakref.finalize(self, os.close, self._fd)

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

    def __init__(self, modulus: int) -> None:
        parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(SLOTS)
        primes = sealapi.CoeffModulus.Create(SLOTS, [60, 60, 60, 38])
        plain = {int(prime.value()): prime for prime in sealapi.CoeffModulus.Create(SLOTS, [45] * len(MODULI))}
        if tuple(int(prime.value()) for prime in primes) != (*PRIMES, SPECIAL_PRIME) or set(plain) != set(MODULI):
            raise ConfigError("this SEAL chooses other primes than ours", "install tenseal 0.3.18")
        parameters.set_coeff_modulus(primes)
        parameters.set_plain_modulus(plain[modulus])
        q = math.prod(PRIMES)
        self.modulus = modulus
        self._delta = np.array([q // modulus % prime for prime in PRIMES], np.uint64)[:, None]
        self._delta_quotients = _quotients(self._delta, _Q)
        self._rest = np.array([q % modulus], np.uint64)
        self._rest_quotients = _quotients(self._rest, np.array([modulus], np.uint64))
        self.seal = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
        self._scratch = _Scratch()
        self.evaluator = sealapi.Evaluator(self.seal)
        self.encoder = sealapi.BatchEncoder(self.seal)

    def ciphertext(self, residues: UInt64Array, *, ntt: bool, level: Any = None) -> _SealObject:
        """The SEAL ciphertext with these residues (2, primes, 8192), each below its prime."""
        parms = self.seal.first_parms_id() if level is None else level
        words = np.array([2, SLOTS, residues.shape[1]], "<u8").tobytes() + np.array([1.0], "<f8").tobytes()
        head = np.array(parms, "<u8").tobytes() + bytes([ntt]) + words + np.array([1], "<u8").tobytes()
        target = sealapi.Ciphertext()
        self._scratch.load(target, self.seal, head + _array(residues))
        return target

    def residues(self, ciphertext: _SealObject, primes: int) -> UInt64Array:
        """The other way: (2, primes, 8192)."""
        body = self._scratch.saved(ciphertext, 8 * 2 * primes * SLOTS)
        return _words(body).reshape(2, primes, SLOTS)

    def transformed(self, polynomial: UInt64Array) -> UInt64Array:
        """Values (3, 8192) of a polynomial by the three primes."""
        # In both halves, since SEAL refuses a second half of zeros.
        ciphertext = self.ciphertext(np.stack([polynomial, polynomial]), ntt=False)
        self.evaluator.transform_to_ntt_inplace(ciphertext)
        values: UInt64Array = self.residues(ciphertext, len(PRIMES))[0]
        return values

    def secret_key(self, values: UInt64Array) -> _SealObject:
        """The SEAL key with these values (4, 8192)."""
        head = np.array(self.seal.key_parms_id(), "<u8").tobytes()
        head += np.array([values.size], "<u8").tobytes() + np.array([1.0], "<f8").tobytes()
        target = sealapi.SecretKey()
        self._scratch.load(target, self.seal, head + _array(values))
        return target

    def encode(self, slots: UInt64Array) -> _SealObject:
        plain = sealapi.Plaintext()
        self.encoder.encode(slots.tolist(), plain)
        return plain

    def polynomial(self, plain: _SealObject) -> UInt64Array:
        """The coefficients of a plaintext."""
        count = int(plain.coeff_count())
        return _padded(_words(self._scratch.saved(plain, 8 * count)))

    def coefficients(self, slots: UInt64Array) -> UInt64Array:
        return self.polynomial(self.encode(slots))

    def scaled(self, m: UInt64Array) -> UInt64Array:
        """round(q m / T) by the three primes, less than T more than a residue."""
        t = np.uint64(self.modulus)
        quotient = _high(m, self._rest_quotients)
        rest = m * self._rest - quotient * t + (t + np.uint64(1)) // np.uint64(2)
        # The quotient may be one too small, and the half may add one.
        rounded = quotient + (rest >= t) + (rest >= np.uint64(2) * t)
        return _multiply(m, self._delta, self._delta_quotients, _Q) + rounded


def _array(values: UInt64Array) -> bytes:
    """SEAL's form of an array, behind a header of its own."""
    head = bytes.fromhex("5ea1100403000000") + np.array([24 + values.nbytes, values.size], "<u8").tobytes()
    return head + values.astype("<u8").tobytes()


def _words(data: bytes) -> UInt64Array:
    return np.frombuffer(data, "<u8").astype(np.uint64)


def _padded(values: UInt64Array) -> UInt64Array:
    return np.concatenate([values, np.zeros(SLOTS - len(values), np.uint64)])


def _quotients(w: UInt64Array, q: UInt64Array) -> UInt64Array:
    """floor(w * 2^64 / q): what `_multiply` needs besides w."""
    wide = w.astype(object) * 2**64 // np.broadcast_to(q, w.shape).astype(object)
    quotients: UInt64Array = wide.astype(np.uint64)
    return quotients


def _high(a: UInt64Array, b: UInt64Array) -> UInt64Array:
    """The high word of a product."""
    a0, a1, b0, b1 = a & _LOW, a >> _32, b & _LOW, b >> _32
    middle = a1 * b0 + ((a0 * b0) >> _32)
    high: UInt64Array = a1 * b1 + (middle >> _32) + ((a0 * b1 + (middle & _LOW)) >> _32)
    return high


def _multiply(a: UInt64Array, w: UInt64Array, quotients: UInt64Array, q: UInt64Array) -> UInt64Array:
    """a * w modulo q, for w < q < 2^62. Shoup: the quotient is the high word of a * quotients, or one more."""
    product = a * w - _high(a, quotients) * q
    reduced: UInt64Array = np.where(product >= q, product - q, product)
    return reduced


def transformed(coefficients: UInt64Array) -> UInt64Array:
    """Values of polynomials by all four primes, (4, 8192), in SEAL's order. Slow: for what is done once a key."""
    rows = []
    for prime, row in zip((*PRIMES, SPECIAL_PRIME), coefficients, strict=True):
        q = np.array([prime], np.uint64)
        roots, quotients = _roots(prime)
        parts = 1
        while parts < SLOTS:
            pairs = row.reshape(parts, 2, -1)
            w, w_quotients = roots[parts : 2 * parts, None], quotients[parts : 2 * parts, None]
            turned = _multiply(pairs[:, 1], w, w_quotients, q)
            row = np.stack([pairs[:, 0] + turned, pairs[:, 0] + (q - turned)], axis=1) % q
            parts *= 2
        rows.append(row.reshape(SLOTS))
    return np.stack(rows)


@functools.cache
def _roots(prime: int) -> tuple[UInt64Array, UInt64Array]:
    """The smallest primitive 16384th root's powers, place i holding the power of i's bits reversed."""
    order = 2 * SLOTS
    root = next(r for base in range(2, 100) if pow(r := pow(base, (prime - 1) // order, prime), SLOTS, prime) != 1)
    root = min(_powers(root, prime)[1::2])
    bits = SLOTS.bit_length() - 1
    powers = _powers(root, prime)
    powers = [powers[int(f"{i:0{bits}b}"[::-1], 2)] for i in range(SLOTS)]
    roots = np.array(powers, np.uint64)
    return roots, _quotients(roots, np.array([prime], np.uint64))


def _powers(root: int, prime: int) -> list[int]:
    return list(accumulate(range(2 * SLOTS - 1), lambda power, _: power * root % prime, initial=1))


def _uniform(seed: bytes, primes: tuple[int, ...]) -> UInt64Array:
    """Values drawn from a seed that everyone may know, (primes, 8192)."""
    stream = Randomness(seed)
    return np.stack([stream.integers(prime, SLOTS) for prime in primes])


def _ternary(stream: Randomness) -> UInt64Array:
    """8192 draws, uniform in 0, 1, 2, which stand for -1, 0, 1: a word's third of its range, to one in 2^64."""
    words = _words(stream.bytes(8 * SLOTS))
    third: int = 2**64 // 3
    return (words > np.uint64(third)).astype(np.uint64) + (words > np.uint64(2 * third))


def _small_noise(stream: Randomness, n: int) -> UInt64Array:
    """n draws of the centred binomial distribution on -21..21 (standard deviation 3.24, as SEAL's), plus 21."""
    bits = _words(stream.bytes(8 * n))
    mask = np.uint64(2**21 - 1)
    ones, others = np.bitwise_count(bits & mask), np.bitwise_count((bits >> np.uint64(21)) & mask)
    shifted: UInt64Array = ones.astype(np.uint64) + np.uint64(21) - others.astype(np.uint64)
    return shifted


def _flood(stream: Randomness, n: int) -> UInt64Array:
    """n integers, uniform in -2^130..2^130 - 1, as residues (3, n) of the primes.

    e = a + b 2^60 + c 2^120 - 2^130 with a, b of 60 and c of 11 bits. Each prime is 2^60 - d with d < 2^18, so 2^60 is
    d: b d = low + high 2^30 with both products under 2^60, and everything adds up to less than 2^63.
    """
    raw = _words(stream.bytes(3 * 8 * n)).reshape(3, 1, n)
    a, b, c = raw[0] >> np.uint64(4), raw[1] >> np.uint64(4), raw[2] >> np.uint64(53)
    d = np.uint64(2**60) - _Q
    thirty, low30 = np.uint64(30), np.uint64(2**30 - 1)
    high = (b >> thirty) * d
    start = np.array([(-(2**FLOOD_BITS)) % prime for prime in PRIMES], np.uint64)[:, None]
    e: UInt64Array = a + (b & low30) * d + ((high & low30) << thirty) + (high >> thirty) * d + c * (d * d) + start
    return e % _Q


def _flooding_halves(first: UInt64Array, second: UInt64Array | None = None) -> UInt64Array:
    """Noise (3, n) as a ciphertext: in the leading coefficients of the first half; (3, 8192) in the second, or none."""
    halves = np.zeros((2, len(PRIMES), SLOTS), np.uint64)
    halves[0, :, : first.shape[1]] = first
    if second is not None:
        halves[1] = second
    return halves


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
        flood = _flooding_halves(_flood(Randomness.system(), SLOTS))
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
