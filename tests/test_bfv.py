"""BFV with sanitised results: exact, closed to malformed bytes, and empty of everything but the masked value."""

import math

import numpy as np
import pytest
from scipy.stats import chisquare

from tidegate.protocols.channel import ConfigError, PeerError
from tidegate.protocols.primitives import bfv
from tidegate.protocols.primitives.bfv import BrandKey, PublicKey
from tidegate.protocols.primitives.fixed_point import T, centred, dot, minus, modulo, plus, quantise, total
from tidegate.protocols.primitives.packing import SLOTS, block_count, blocks, slots
from tidegate.protocols.primitives.randomness import Randomness

Q = math.prod(bfv.PRIMES)


@pytest.fixture(scope="module")
def randomness():
    return Randomness(b"bfv tests, seeded".ljust(32))


@pytest.fixture(scope="module")
def key(randomness):
    return BrandKey(randomness)


@pytest.fixture(scope="module")
def public(key):
    return PublicKey(key.public_bytes())


def uniform(values, bound, bins=64):
    """Does a chi-square test take these integers for uniform in 0..bound-1?"""
    counts = np.bincount([int(value) * bins // bound for value in values], minlength=bins)
    return chisquare(counts).pvalue > 1e-6


def big(residues):
    """Integers modulo q from residues (3, n)."""
    found = [0] * residues.shape[1]
    for prime, row in zip(bfv.PRIMES, residues, strict=True):
        factor = Q // prime * pow(Q // prime, -1, prime)
        found = [have + int(value) * factor for have, value in zip(found, row, strict=True)]
    return [value % Q for value in found]


def phase(key, ciphertext):
    """c0 + c1 s modulo q: what the key holder sees of a ciphertext besides c1."""
    context = key._context
    transformed = bfv.sealapi.Ciphertext()
    context.evaluator.transform_to_ntt(ciphertext, transformed)
    c0, c1 = context.residues(transformed, 3)
    product = bfv._multiply(c1, key._secret, key._secret_inverse, bfv._Q)
    back = context.ciphertext(np.stack([(c0 + product) % bfv._Q, c1]), ntt=True)
    context.evaluator.transform_from_ntt_inplace(back)
    return big(context.residues(back, 3)[0])


def noise(key, ciphertext, slots):
    """The phase less what the message contributes, centred."""
    message = key._coefficients(slots)
    found = [(seen - (Q * int(m) + T // 2) // T) % Q for seen, m in zip(phase(key, ciphertext), message, strict=True)]
    return [value - Q if value > Q // 2 else value for value in found]


def product(key, public, randomness, column):
    vector = randomness.integers(T, SLOTS)
    upload = next(key.encrypt([vector]))
    kernel = public.add_product(None, public.load(upload), public.encode(modulo(column)))
    value = modulo([int(a) * int(b) % T for a, b in zip(column, vector, strict=True)])
    return kernel, value


def test_products_of_uploads_and_columns_are_exact(key, public, randomness):
    column = np.arange(SLOTS) % 1025 - 512
    kernel, value = product(key, public, randomness, column)
    mask = randomness.integers(T, SLOTS)
    result = public.sanitise(kernel, mask, randomness)
    assert len(result) == bfv.RESULT_BYTES
    assert np.array_equal(key.decrypt(result), plus(value, mask))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_blocks_and_constants_is_encrypted(key, public, randomness, count):
    column = public.encode(np.ones(SLOTS, np.uint64))
    values = randomness.integers(T, count)
    uploads = [*key.encrypt_constants(values), *key.encrypt([np.full(SLOTS, value, np.uint64) for value in values])]
    assert len(uploads) == 2 * count
    for upload, value in zip(uploads, [*values, *values], strict=True):
        assert len(upload) == bfv.UPLOAD_BYTES
        sum_ = public.add_product(None, public.load(upload), column)
        assert np.array_equal(
            key.decrypt(public.sanitise(sum_, np.zeros(SLOTS, np.uint64), randomness)), np.full(SLOTS, value)
        )


def test_a_sum_over_nothing_looks_like_any_other(key, public, randomness):
    zero = public.encode(np.zeros(SLOTS, np.uint64))
    assert zero is None
    assert public.add_product(None, public.load(next(key.encrypt([np.ones(SLOTS, np.uint64)]))), zero) is None
    mask = randomness.integers(T, SLOTS)
    result = public.sanitise(None, mask, randomness)
    assert len(result) == bfv.RESULT_BYTES
    assert np.array_equal(key.decrypt(result), mask)


def test_the_largest_sums_still_decrypt(key, public, randomness):
    """400 columns of full-size residues: more noise than any protocol makes, exact all the same."""
    vector = randomness.integers(T, SLOTS)
    loaded = public.load(next(key.encrypt([vector])))
    column = randomness.integers(T, SLOTS)
    factor = public.encode(column)
    sum_ = None
    for _ in range(400):
        sum_ = public.add_product(sum_, loaded, factor)
    opened = key.decrypt(public.sanitise(sum_, np.zeros(SLOTS, np.uint64), randomness))
    assert opened.tolist() == [400 * int(a) * int(b) % T for a, b in zip(vector, column, strict=True)]


def test_the_flood_is_uniform_and_as_wide_as_declared(randomness):
    found = [value - Q if value > Q // 2 else value for value in big(bfv._flood(randomness))]
    assert min(found) >= -(2**bfv.FLOOD_BITS)
    assert max(found) < 2**bfv.FLOOD_BITS
    assert uniform([value + 2**bfv.FLOOD_BITS for value in found], 2 ** (bfv.FLOOD_BITS + 1))


def hidden_noise_is_uniform(key, public, randomness):
    kernel, value = product(key, public, randomness, np.full(SLOTS, 3))
    mask = randomness.integers(T, SLOTS)
    found = noise(key, public._hidden(kernel, mask, randomness), plus(value, mask))
    shifted = [min(max(e + 2**bfv.FLOOD_BITS, 0), 2 ** (bfv.FLOOD_BITS + 1) - 1) for e in found]
    return uniform(shifted, 2 ** (bfv.FLOOD_BITS + 1))


def test_the_noise_of_a_result_is_the_flood(key, public, randomness):
    assert hidden_noise_is_uniform(key, public, randomness)


def test_without_the_flood_the_noise_shows(key, public, randomness, monkeypatch):
    monkeypatch.setattr(bfv, "_flood", lambda _: np.zeros((3, SLOTS), np.uint64))
    assert not hidden_noise_is_uniform(key, public, randomness)


def second_half_is_fresh(key, public, randomness):
    """With the column known, is the second half still uniform to the key holder?"""
    kernel, _ = product(key, public, randomness, np.arange(SLOTS))
    hidden = public._hidden(kernel, np.zeros(SLOTS, np.uint64), randomness)
    context = key._context
    context.evaluator.transform_from_ntt_inplace(kernel)
    known, seen = context.residues(kernel, 3)[1], context.residues(hidden, 3)[1]
    left = (seen + bfv._Q - known) % bfv._Q
    return uniform(left[0], bfv.PRIMES[0])


def test_the_second_half_of_a_result_is_fresh(key, public, randomness):
    assert second_half_is_fresh(key, public, randomness)


def test_without_fresh_zeros_the_second_half_is_an_image_of_the_column(key, randomness, monkeypatch):
    public = PublicKey(key.public_bytes())

    class NoZeros:
        def encrypt_zero(self, out):
            zeros = key._context.ciphertext(np.zeros((2, 3, SLOTS), np.uint64), ntt=False)
            bfv._context().scratch.load(out, key._context.seal, key._context.scratch.saved(zeros, 393313))

    monkeypatch.setattr(public, "_encryptor", NoZeros())
    assert not second_half_is_fresh(key, public, randomness)


def test_uploads_are_fresh_each_time(key):
    one, other = key.encrypt([np.zeros(SLOTS, np.uint64)] * 2)
    assert one[:32] != other[:32]
    assert one[32:] != other[32:]


def test_fresh_noise_is_as_small_as_seal_s(key, public, randomness):
    message = randomness.integers(T, SLOTS)
    loaded = public.load(next(key.encrypt([message])))
    key._context.evaluator.transform_from_ntt_inplace(loaded)
    found = noise(key, loaded, message)
    assert max(map(abs, found)) <= 22
    assert 3.0 < np.std(found) < 3.5


@pytest.mark.parametrize("size", [0, 31, 32, bfv.UPLOAD_BYTES - 8, bfv.UPLOAD_BYTES + 8, bfv.RESULT_BYTES])
def test_uploads_of_another_size_are_refused(public, size):
    with pytest.raises(PeerError, match="upload"):
        public.load(bytes(size))


def test_residues_that_are_not_below_their_prime_are_refused(key, public):
    upload = bytearray(next(key.encrypt([np.ones(SLOTS, np.uint64)])))
    upload[32:40] = bfv.PRIMES[0].to_bytes(8, "little")
    with pytest.raises(PeerError, match="below its prime"):
        public.load(bytes(upload))
    with pytest.raises(PeerError, match="below its prime"):
        key.decrypt(b"\xff" * bfv.RESULT_BYTES)


def test_what_is_no_result_or_key_is_refused(key):
    with pytest.raises(PeerError, match="result"):
        key.decrypt(bytes(100))
    with pytest.raises(PeerError, match="public key"):
        PublicKey(bytes(100))
    with pytest.raises(PeerError, match="zero"):
        PublicKey(bytes(bfv.PUBLIC_KEY_BYTES))


def test_any_bytes_of_the_right_size_and_range_are_harmless(key, public):
    """A peer's bytes never reach SEAL's parser as structure, so random residues load, multiply and decrypt."""
    rng = np.random.default_rng(5)
    factor = public.encode(np.arange(SLOTS, dtype=np.uint64))
    for _ in range(5):
        residues = np.stack([rng.integers(0, prime, SLOTS, dtype=np.uint64) for prime in bfv.PRIMES])
        sum_ = public.add_product(None, public.load(rng.bytes(32) + residues.tobytes()), factor)
        key.decrypt(public.sanitise(sum_, np.zeros(SLOTS, np.uint64), Randomness.system()))
        key.decrypt(rng.integers(0, bfv.PRIMES[0], 2 * SLOTS, dtype=np.uint64).tobytes())


def test_keys_do_not_print(key):
    assert repr(key) == "BrandKey(...)"


def test_another_seal_is_refused(monkeypatch):
    context = bfv._Context()
    wrong = bfv._flooding_halves(Randomness.system())
    monkeypatch.setattr(bfv, "_flooding_halves", lambda _: np.zeros_like(wrong))
    with pytest.raises(ConfigError, match="flooding"):
        bfv._self_test(context)
    monkeypatch.setattr(bfv, "MODULI", (65537, T))
    with pytest.raises(ConfigError, match="primes"):
        bfv._Context()


def test_fixed_point_arithmetic_is_exact():
    rng = np.random.default_rng(1)
    signed = rng.integers(-T // 2 + 1, T // 2, 5000)
    residues = modulo(signed)
    assert np.array_equal(centred(residues), signed)
    assert not plus(residues, minus(residues)).any()
    assert total(residues) == sum(map(int, signed)) % T
    x = rng.integers(-(2**30), 2**30, 5000)
    assert dot(x, residues) == sum(int(a) * int(b) for a, b in zip(x, signed, strict=True)) % T
    assert quantise([9.0, -9.0, 0.5, 0.008]).tolist() == [512, -512, 32, 1]
    with pytest.raises(ValueError, match="finite"):
        quantise([math.nan])


def test_blocks_cover_each_row_once():
    for rows in (1, SLOTS, SLOTS + 1, 20_000):
        parts = list(blocks(rows))
        assert len(parts) == block_count(rows)
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(rows))
    assert slots([-1, 2]).tolist() == [T - 1, 2] + [0] * (SLOTS - 2)
