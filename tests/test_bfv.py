"""BFV with sanitised results: exact, closed to malformed bytes, and empty of everything but the masked value.

Each claim is held to both engines; what one makes of a seed the other makes as well.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import chisquare

from tidegate.protocols.channel import ConfigError, PeerError
from tidegate.protocols.primitives import bfv, bfv_seal
from tidegate.protocols.primitives.bfv import BrandKey, PublicKey
from tidegate.protocols.primitives.fixed_point import T, centred, dot, minus, modulo, plus, quantise, total
from tidegate.protocols.primitives.packing import SLOTS, block_count, blocks, slots
from tidegate.protocols.primitives.randomness import Randomness

Q = math.prod(bfv.PRIMES)
SEED = b"bfv tests, seeded".ljust(32)
ZEROS = np.zeros(SLOTS, np.uint64)
FLOOD = 2**bfv.FLOOD_BITS
ENGINES = ["native", "seal"]


def chosen(name, modulus=T):
    """An engine by its name, whichever of them this process uses."""
    if name == "seal":
        return bfv_seal.engine(modulus)
    if bfv._native is None:
        pytest.skip("the crate is not built")
    return bfv._native.Bfv(modulus)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    return chosen(request.param)


@pytest.fixture
def randomness():
    return Randomness(b"what the tests draw".ljust(32))


@pytest.fixture(scope="module")
def key(engine):
    return BrandKey(Randomness(SEED), engine=engine)


@pytest.fixture(scope="module")
def public(engine, key):
    return PublicKey(key.public_bytes(), engine=engine)


@pytest.fixture(scope="module")
def secret():
    """The key again as SEAL holds it, to look into ciphertexts with."""
    stream = Randomness(SEED)
    return bfv_seal.engine().key(stream.bytes(32), stream.bytes(32))[0]


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


def centred_big(values):
    return [value - Q if value > Q // 2 else value for value in values]


def halves(data):
    """Both halves (2, 3, 8192) of what `_hidden` or a ciphertext's `residues` gives."""
    return np.frombuffer(data, "<u8").reshape(2, 3, SLOTS)


def in_seal(residues, ntt=False):
    return bfv_seal.engine()._context.ciphertext(residues, ntt=ntt)


def coefficients(values):
    """Both halves from values, by SEAL."""
    context = bfv_seal.engine()._context
    ciphertext = in_seal(values, ntt=True)
    context.evaluator.transform_from_ntt_inplace(ciphertext)
    return context.residues(ciphertext, 3)


def phase(secret, residues):
    """c0 + c1 s modulo q: what the key holder sees of a ciphertext (coefficients) besides c1."""
    context = bfv_seal.engine()._context
    c0, c1 = (context.transformed(half) for half in residues)
    product = bfv_seal._multiply(c1, secret.values, secret.quotients, bfv_seal._Q)
    return big(coefficients(np.stack([(c0 + product) % bfv_seal._Q, c1]))[0])


def noise(secret, residues, slots):
    """The phase less what the message contributes, centred."""
    message = bfv_seal.engine()._context.coefficients(slots)
    seen = zip(phase(secret, residues), message, strict=True)
    return centred_big([(value - (Q * int(m) + T // 2) // T) % Q for value, m in seen])


def times(a, b, modulus=T):
    return np.array([int(x) * int(y) % modulus for x, y in zip(a, b, strict=True)], np.uint64)


def product(key, public, randomness, column):
    vector = randomness.integers(T, SLOTS)
    upload = next(key.encrypt([vector]))
    kernel = public.add_product(None, public.load(upload), public.encode(modulo(column)))
    return kernel, times(modulo(column), vector)


def test_products_of_uploads_and_columns_are_exact(key, public, randomness):
    column = np.arange(SLOTS) % 1025 - 512
    kernel, value = product(key, public, randomness, column)
    mask = randomness.integers(T, SLOTS)
    result = public.sanitise(kernel, mask, randomness)
    assert len(result) == bfv.RESULT_BYTES
    assert np.array_equal(key.decrypt(result), plus(value, mask))


@pytest.mark.parametrize("name", ENGINES)
def test_values_that_need_the_second_modulus_are_exact_too(name, randomness):
    modulus = bfv.MODULI[1]
    engine = chosen(name, modulus)
    key = BrandKey(randomness, modulus, engine=engine)
    public = PublicKey(key.public_bytes(), modulus, engine=engine)
    a, b = randomness.integers(modulus, SLOTS), randomness.integers(modulus, SLOTS)
    sum_ = public.add_product(None, public.load(next(key.encrypt([a]))), public.encode(b))
    assert np.array_equal(key.decrypt(public.sanitise(sum_, ZEROS, randomness)), times(a, b, modulus))
    assert key.decrypt_sum(public.sanitise_sum(sum_, 3, randomness)) == (int(times(a, b, modulus).sum()) + 3) % modulus


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_blocks_and_constants_is_encrypted(key, public, randomness, count):
    column = public.encode(np.ones(SLOTS, np.uint64))
    values = randomness.integers(T, count)
    uploads = [*key.encrypt_constants(values), *key.encrypt([np.full(SLOTS, value, np.uint64) for value in values])]
    assert len(uploads) == 2 * count
    for upload, value in zip(uploads, [*values, *values], strict=True):
        assert len(upload) == bfv.UPLOAD_BYTES
        sum_ = public.add_product(None, public.load(upload), column)
        assert np.array_equal(key.decrypt(public.sanitise(sum_, ZEROS, randomness)), np.full(SLOTS, value))


def test_a_sum_over_nothing_looks_like_any_other(key, public, randomness):
    mask = randomness.integers(T, SLOTS)
    ciphertext = public.load(next(key.encrypt([np.ones(SLOTS, np.uint64)])))
    for sum_ in (
        None,
        public.add_product(None, ciphertext, public.encode(ZEROS)),
        public.combine([ciphertext], [None]),
    ):
        result = public.sanitise(sum_, mask, randomness)
        assert len(result) == bfv.RESULT_BYTES
        assert np.array_equal(key.decrypt(result), mask)
        result = public.sanitise_sum(sum_, 11, randomness)
        assert len(result) == bfv.SUM_BYTES
        assert key.decrypt_sum(result) == 11


@pytest.mark.parametrize("count", [1, 3, 4, 7, 70])
def test_combining_is_adding_product_after_product(key, public, randomness, count):
    vectors = [randomness.integers(T, SLOTS) for _ in range(3)]
    columns = [randomness.integers(T, SLOTS) for _ in range(3)]
    loaded = [public.load(upload) for upload in key.encrypt(vectors)]
    factors = [public.encode(column) for column in columns]
    order = [(i % 3, i * i % 3) for i in range(count)]
    one_by_one = None
    for i, j in order:
        one_by_one = public.add_product(one_by_one, loaded[i], factors[j])
    start = public.add_product(None, loaded[0], factors[0])
    together = public.combine([loaded[i] for i, _ in order], [factors[j] for _, j in order])
    assert together is not None
    assert one_by_one is not None
    assert together.residues() == one_by_one.residues()
    more = public.combine([loaded[i] for i, _ in order] + [loaded[0]], [factors[j] for _, j in order] + [None], start)
    expected = (sum(times(vectors[i], columns[j]).astype(object) for i, j in [*order, (0, 0)]) % T).astype(np.uint64)
    assert np.array_equal(key.decrypt(public.sanitise(more, ZEROS, randomness)), expected)
    with pytest.raises(ValueError, match=r"zip|shorter|longer"):
        public.combine(loaded, factors[:2])


@pytest.mark.parametrize("value", [0, 1, T - 1, -1, 123_456_789])
def test_a_sum_s_result_opens_to_the_total_and_the_value(key, public, randomness, value):
    kernel, slots_ = product(key, public, randomness, np.arange(SLOTS) - 4000)
    result = public.sanitise_sum(kernel, value, randomness)
    assert len(result) == bfv.SUM_BYTES
    assert key.decrypt_sum(result) == (total(slots_) + value) % T


def test_a_sum_s_result_is_one_number_and_the_second_half_of_a_whole_one(key, public, randomness):
    kernel, _ = product(key, public, randomness, np.arange(SLOTS))
    whole = public.sanitise(kernel, randomness.integers(T, SLOTS), Randomness(SEED))
    assert public.sanitise_sum(kernel, 5, Randomness(SEED))[8:] == whole[8 * SLOTS :]


def test_the_largest_sums_still_decrypt(key, public, randomness):
    """400 columns of full-size residues: more noise than any protocol makes, exact all the same."""
    vector = randomness.integers(T, SLOTS)
    loaded = public.load(next(key.encrypt([vector])))
    column = randomness.integers(T, SLOTS)
    sum_ = public.combine([loaded] * 400, [public.encode(column)] * 400)
    opened = key.decrypt(public.sanitise(sum_, ZEROS, randomness))
    assert opened.tolist() == [400 * int(a) * int(b) % T for a, b in zip(vector, column, strict=True)]


@pytest.mark.parametrize("modulus", bfv.MODULI)
def test_both_engines_make_the_same_of_the_same_seed(modulus):
    seen = []
    for name in ENGINES:
        engine = chosen(name, modulus)
        stream = Randomness(SEED)
        key = BrandKey(stream, modulus, engine=engine)
        public = PublicKey(key.public_bytes(), modulus, engine=engine)
        edges = np.array([0, 1, modulus // 2, modulus // 2 + 1, modulus - 1], np.uint64)
        blocks = [stream.integers(modulus, SLOTS), np.resize(edges, SLOTS)]
        uploads = [*key.encrypt(blocks), *key.encrypt_constants(edges)]
        loaded = [public.load(upload) for upload in uploads]
        factors = [public.encode(block) for block in blocks]
        sum_ = public.combine(loaded, [factors[i % 2] for i in range(len(loaded))])
        mask = stream.integers(modulus, SLOTS)
        made = [key.public_bytes(), *uploads, *(each.residues() for each in (*loaded, sum_))]
        for each in (sum_, None):
            made += [public._hidden(each, mask, stream), public.sanitise(each, mask, stream)]
            made += [public.sanitise_sum(each, 7, stream)]
        seen.append(made)
    assert seen[0] == seen[1]


@pytest.mark.parametrize(("brand", "media"), [ENGINES, ENGINES[::-1]])
def test_either_engine_opens_what_the_other_made(brand, media, randomness):
    key = BrandKey(randomness, engine=chosen(brand))
    public = PublicKey(key.public_bytes(), engine=chosen(media))
    kernel, value = product(key, public, randomness, np.arange(SLOTS) - 77)
    mask = randomness.integers(T, SLOTS)
    assert np.array_equal(key.decrypt(public.sanitise(kernel, mask, randomness)), plus(value, mask))
    assert key.decrypt_sum(public.sanitise_sum(kernel, 1, randomness)) == (total(value) + 1) % T


def test_the_crate_is_used_where_it_agrees_with_seal_and_only_there(monkeypatch):
    assert isinstance(bfv._engine.__wrapped__(T), type(chosen("native")))
    assert bfv.engine() == "native"
    right = chosen("native")

    class Wrong:
        def __getattr__(self, name):
            return getattr(right, name)

        def sanitise_sum(self, public, sum_, residue, seed):
            return right.sanitise_sum(public, sum_, residue + 1, seed)

    monkeypatch.setattr(bfv, "_native", SimpleNamespace(Bfv=lambda _: Wrong()))
    assert isinstance(bfv._engine.__wrapped__(T), bfv_seal.Seal)


def test_without_the_crate_seal_does_the_work(monkeypatch):
    monkeypatch.setattr(bfv, "_native", None)
    monkeypatch.setattr(bfv, "_engine", bfv._engine.__wrapped__)
    assert bfv.engine() == "seal"


def test_a_key_is_ternary_and_its_public_half_hides_it_with_small_noise(key, secret):
    values = np.frombuffer(key.public_bytes(), "<u8").reshape(2, 4, SLOTS)[:, :3]
    found = phase(secret, coefficients(values))
    assert max(map(abs, centred_big(found))) <= 21
    assert 3.0 < np.std(centred_big(found)) < 3.5
    s = centred_big(big(coefficients(np.stack([secret.values, secret.values]))[0]))
    assert chisquare([s.count(-1), s.count(0), s.count(1)]).pvalue > 1e-6
    assert set(s) == {-1, 0, 1}


def test_a_ternary_draw_is_a_third_of_the_range_of_a_word():
    words = np.zeros(SLOTS, np.uint64)
    words[:6] = [0, 2**64 // 3, 2**64 // 3 + 1, 2**65 // 3, 2**65 // 3 + 1, 2**64 - 1]
    drawn = bfv_seal._ternary(SimpleNamespace(bytes=lambda _: words.tobytes()))
    assert drawn[:6].tolist() == [int(word) * 3 >> 64 for word in words[:6]] == [0, 0, 1, 1, 2, 2]


def test_the_flood_is_uniform_and_as_wide_as_declared(randomness):
    found = centred_big(big(bfv_seal._flood(randomness, SLOTS)))
    assert min(found) >= -FLOOD
    assert max(found) < FLOOD
    assert uniform([value + FLOOD for value in found], 2 * FLOOD)


def is_flood(found):
    return uniform([min(max(e + FLOOD, 0), 2 * FLOOD - 1) for e in found], 2 * FLOOD)


def hidden_noise(key, public, secret, randomness, seed=SEED):
    kernel, value = product(key, public, randomness, np.full(SLOTS, 3))
    mask = randomness.integers(T, SLOTS)
    return noise(secret, halves(public._hidden(kernel, mask, Randomness(seed))), plus(value, mask))


def test_the_noise_of_a_result_is_the_flood(key, public, secret, randomness):
    found = hidden_noise(key, public, secret, randomness)
    assert is_flood(found)
    # Less the flood that the seed gives it is the product's, so it is the flood that hides it.
    stream = Randomness(Randomness(SEED).bytes(32))
    bfv_seal._ternary(stream)
    bfv_seal._small_noise(stream, 2 * SLOTS)
    bare = [e - f for e, f in zip(found, centred_big(big(bfv_seal._flood(stream, SLOTS))), strict=True)]
    assert max(map(abs, bare)) < 2**30
    assert not is_flood(bare)


def test_without_the_flood_the_noise_shows(secret, randomness, monkeypatch):
    monkeypatch.setattr(bfv_seal, "_flood", lambda _, n: np.zeros((3, n), np.uint64))
    key = BrandKey(Randomness(SEED), engine=chosen("seal"))
    public = PublicKey(key.public_bytes(), engine=chosen("seal"))
    assert not is_flood(hidden_noise(key, public, secret, randomness))


def test_the_noise_budget_after_flooding_is_as_stated_and_enough(key, public, secret, randomness):
    mask = randomness.integers(T, SLOTS)
    for column in (np.ones(SLOTS, np.uint64), randomness.integers(T, SLOTS)):
        kernel, _ = product(key, public, randomness, column)
        hidden = in_seal(halves(public._hidden(kernel, mask, randomness)))
        assert secret.decryptor.invariant_noise_budget(hidden) in (3, 4)
        residues = np.frombuffer(public.sanitise(kernel, mask, randomness), "<u8").reshape(2, 1, SLOTS)
        context = bfv_seal.engine()._context
        result = context.ciphertext(residues, ntt=False, level=context.seal.last_parms_id())
        assert secret.decryptor.invariant_noise_budget(result) in (2, 3, 4)


def sum_noises(key, public, secret):
    """The noise of 200 sums' results over nothing, opened at the one prime they have."""
    q = bfv.PRIMES[0]
    s = np.array(centred_big(big(coefficients(np.stack([secret.values, secret.values]))[0])))
    # The constant coefficient of c1 s is c1_0 s_0 - sum c1_(N-k) s_k.
    against = np.concatenate([s[:1], -s[:0:-1]])
    found = []
    for i in range(200):
        words = np.frombuffer(public.sanitise_sum(None, 0, Randomness(bytes([i] * 32))), "<u8")
        c1 = words[1:]
        high, low = ((part.astype(np.int64) * against).sum() for part in (c1 >> np.uint64(30), c1 % np.uint64(2**30)))
        value = (int(words[0]) + int(high) * 2**30 + int(low)) % q
        found.append(value - q if value > q // 2 else value)
    return found


def test_the_noise_of_a_sum_s_result_is_the_flood_switched_down(key, public, secret):
    found = sum_noises(key, public, secret)
    width = 2**10
    # The switch's own rounding is some ten times less than what is left of the flood.
    assert max(map(abs, found)) < width + 300
    assert uniform([min(max(e + width, 0), 2 * width - 1) for e in found], 2 * width, bins=8)


def test_without_the_flood_the_noise_of_a_sum_shows(secret, monkeypatch):
    monkeypatch.setattr(bfv_seal, "_flood", lambda _, n: np.zeros((3, n), np.uint64))
    key = BrandKey(Randomness(SEED), engine=chosen("seal"))
    public = PublicKey(key.public_bytes(), engine=chosen("seal"))
    assert max(map(abs, sum_noises(key, public, secret))) < 300


def second_half_is_fresh(key, public, randomness):
    """With the column known, is the second half still uniform to the key holder?"""
    kernel, _ = product(key, public, randomness, np.arange(SLOTS))
    known = coefficients(halves(kernel.residues()))[1]
    seen = halves(public._hidden(kernel, ZEROS, randomness))[1]
    left = (seen + bfv_seal._Q - known) % bfv_seal._Q
    return all(uniform(row, prime) for row, prime in zip(left, bfv.PRIMES, strict=True))


def test_the_second_half_of_a_result_is_fresh(key, public, randomness):
    assert second_half_is_fresh(key, public, randomness)


def test_without_fresh_zeros_the_second_half_is_an_image_of_the_column(engine, key, randomness):
    public = PublicKey(key.public_bytes(), engine=engine)
    public._public = engine.public(bytes(bfv.PUBLIC_KEY_BYTES))
    assert not second_half_is_fresh(key, public, randomness)


def test_no_two_results_share_their_randomness(public, randomness):
    one, other = (public.sanitise(None, ZEROS, randomness) for _ in range(2))
    assert not (np.frombuffer(one, "<u8") == np.frombuffer(other, "<u8")).any()


def test_uploads_are_fresh_each_time(key):
    one, other = key.encrypt([ZEROS] * 2)
    assert one[:32] != other[:32]
    assert not (np.frombuffer(one[32:], "<u8") == np.frombuffer(other[32:], "<u8")).any()


def test_uploads_made_by_several_threads_are_those_that_one_makes():
    def uploads(spread):
        key = BrandKey(Randomness(SEED), engine=chosen("native"))
        values = np.arange(5, dtype=np.uint64)
        blocks = (np.full(SLOTS, value, np.uint64) for value in values)
        return [*key.encrypt(blocks, spread), *key.encrypt_constants(values, spread)]

    with ThreadPoolExecutor(3) as pool:
        assert uploads(pool.map) == uploads(map)


def test_fresh_noise_is_as_small_as_seal_s(key, public, secret, randomness):
    message = randomness.integers(T, SLOTS)
    loaded = public.load(next(key.encrypt([message])))
    found = noise(secret, coefficients(halves(loaded.residues())), message)
    assert max(map(abs, found)) <= 21
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
    with pytest.raises(PeerError, match="below its prime"):
        key.decrypt_sum(bfv.PRIMES[0].to_bytes(8, "little") + bytes(bfv.SUM_BYTES - 8))


def test_what_is_no_result_or_key_is_refused(engine, key):
    for size in (0, 100, bfv.SUM_BYTES, bfv.RESULT_BYTES + 8):
        with pytest.raises(PeerError, match="result"):
            key.decrypt(bytes(size))
    for size in (0, 8, bfv.SUM_BYTES - 8, bfv.RESULT_BYTES):
        with pytest.raises(PeerError, match="sum"):
            key.decrypt_sum(bytes(size))
    with pytest.raises(PeerError, match="public key"):
        PublicKey(bytes(100), engine=engine)
    with pytest.raises(PeerError, match="zero"):
        PublicKey(bytes(bfv.PUBLIC_KEY_BYTES), engine=engine)


def test_values_that_are_no_residues_are_refused(key, public, randomness):
    for wrong in (np.full(SLOTS, T, np.uint64), ZEROS[1:], np.zeros(SLOTS, np.int64)):
        with pytest.raises(ValueError, match="residues"):
            next(key.encrypt([wrong]))
        with pytest.raises(ValueError, match="residues"):
            public.encode(wrong)
        with pytest.raises(ValueError, match="residues"):
            public.sanitise(None, wrong, randomness)
    with pytest.raises(ValueError, match="residues"):
        next(key.encrypt_constants(np.array([T], np.uint64)))


def test_any_bytes_of_the_right_size_and_range_are_harmless(key, public):
    """A peer's bytes never reach a parser as structure, so random residues load, multiply and decrypt."""
    rng = np.random.default_rng(5)
    factor = public.encode(np.arange(SLOTS, dtype=np.uint64))
    for _ in range(5):
        residues = np.stack([rng.integers(0, prime, SLOTS, dtype=np.uint64) for prime in bfv.PRIMES])
        sum_ = public.add_product(None, public.load(rng.bytes(32) + residues.tobytes()), factor)
        key.decrypt(public.sanitise(sum_, ZEROS, Randomness.system()))
        key.decrypt_sum(public.sanitise_sum(sum_, 0, Randomness.system()))
        key.decrypt(rng.integers(0, bfv.PRIMES[0], 2 * SLOTS, dtype=np.uint64).tobytes())


def test_the_crate_raises_where_sizes_are_wrong_and_wraps_where_ranges_are():
    """Python checks both before; this is the second door."""
    engine = chosen("native")
    secret, data = engine.key(bytes(32), bytes(32))
    public = engine.public(data)
    for call in (
        lambda: engine.key(bytes(31), bytes(32)),
        lambda: engine.encrypt(secret, bytes(16), bytes(32), bytes(32)),
        lambda: engine.encrypt(secret, bytes(8), bytes(32), bytes(33)),
        lambda: engine.decrypt(secret, bytes(bfv.SUM_BYTES)),
        lambda: engine.decrypt_sum(secret, b""),
        lambda: engine.public(bytes(8)),
        lambda: engine.load(bytes(31)),
        lambda: engine.encode(bytes(8)),
        lambda: engine.combine(None, [], [engine.encode(bytes(8 * SLOTS))]),
        lambda: engine.sanitise(public, None, bytes(7), bytes(32)),
        lambda: engine.sanitise_sum(public, None, T, bytes(32)),
        lambda: bfv._native.Bfv(97),
        lambda: bfv._native.Bfv(2**63),
    ):
        with pytest.raises(ValueError):  # noqa: PT011  # each has a text of its own
            call()
    full = b"\xff" * (8 * SLOTS)
    loaded = engine.load(bytes(32) + 3 * full)
    sum_ = engine.combine(loaded, [loaded] * 3, [engine.encode(full)] * 3)
    engine.sanitise(engine.public(8 * full), sum_, full, bytes(32))
    engine.sanitise_sum(engine.public(8 * full), sum_, 0, bytes(32))
    engine.decrypt(secret, 2 * full)
    engine.encrypt(secret, full, bytes(32), bytes(32))


def test_keys_do_not_print(key):
    assert repr(key) == "BrandKey(...)"
    assert " object at 0x" in repr(key._secret)


def test_another_seal_is_refused(monkeypatch):
    context = bfv_seal._Context(T)
    wrong = bfv_seal._flooding_halves(bfv_seal._flood(Randomness.system(), SLOTS))
    monkeypatch.setattr(bfv_seal, "_flooding_halves", lambda _: np.zeros_like(wrong))
    with pytest.raises(ConfigError, match="flooding"):
        bfv_seal._self_test(context)
    monkeypatch.setattr(bfv_seal, "MODULI", (65537, T))
    with pytest.raises(ConfigError, match="primes"):
        bfv_seal._Context(T)


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
