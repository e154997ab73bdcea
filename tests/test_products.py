"""The two blind products: the clear-text result to the last bit, and nothing beside it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.broken_line import FAULTS, play_broken
from tidegate.protocols.blind import products
from tidegate.protocols.channel import CarrierError, PeerError
from tidegate.protocols.primitives.bfv import SUM_BYTES, UPLOAD_BYTES, BrandKey
from tidegate.protocols.primitives.fixed_point import T
from tidegate.protocols.primitives.packing import SLOTS
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import simulate


def randomness(name):
    return Randomness(name.encode().ljust(32))


async def brand_both(channel, w, v, n, d):
    key = await products.open_brand(channel, Randomness.system())
    return await products.rows_brand(channel, key, w, n), await products.columns_brand(channel, key, v, d)


async def media_both(channel, x, added_rows=None, added_columns=None):
    public = await products.open_media(channel)
    await products.rows_media(channel, public, x, randomness=Randomness.system(), added=added_rows)
    await products.columns_media(channel, public, x, randomness=Randomness.system(), added=added_columns)


def both(x, w, v, **added):
    return simulate(lambda ch: brand_both(ch, w, v, *x.shape), lambda ch: media_both(ch, x, **added))[0]


@settings(max_examples=6, deadline=None)
@given(n=st.integers(1, 9000), d=st.integers(1, 6), seed=st.integers(0, 2**32 - 1), zeros=st.booleans())
def test_both_products_equal_the_clear_ones(n, d, seed, zeros):
    rng = np.random.default_rng(seed)
    x = rng.integers(-512, 513, (n, d))
    if zeros:
        x[:, 0] = 0
    w, v = rng.integers(-(2**30), 2**30, d), rng.integers(-(2**20), 2**20, n)
    rows, columns = both(x, w, v)
    assert np.array_equal(rows, x @ w)
    assert np.array_equal(columns, x.T @ v)


def test_what_the_media_adds_arrives():
    x = np.array([[1, 0], [0, 0], [2, 0]], np.int8)
    rows, columns = both(
        x, np.array([5, 7]), np.array([1, 2, 3]), added_rows=np.array([-1, 0, 1]), added_columns=np.array([10, -20])
    )
    assert rows.tolist() == [4, 0, 11]
    assert columns.tolist() == [17, -20]


def test_several_vectors_and_columns_made_on_demand_give_the_clear_sums():
    rng = np.random.default_rng(5)
    n = products._AT_ONCE * 8192 + 77
    x, v, added = rng.integers(-9, 10, (n, 3)), rng.integers(-9, 10, (n, 2)), rng.integers(-99, 100, (3, 2))

    class Made:
        shape = x.shape

        def __getitem__(self, where):
            return x[where]

    async def brand(channel):
        key = await products.open_brand(channel, Randomness.system())
        return await products.columns_brand(channel, key, v, 3)

    async def media(channel):
        public = await products.open_media(channel)
        await products.columns_media(channel, public, Made(), randomness=Randomness.system(), added=added, vectors=2)

    assert np.array_equal(simulate(brand, media)[0], x.T @ v + added)


def test_the_transcript_depends_on_sizes_only():
    def shapes(x, w, v):
        brand_line, media_line = [], []

        async def brand(channel):
            brand_line.append(channel)
            await brand_both(channel, w, v, *x.shape)

        async def media(channel):
            media_line.append(channel)
            await media_both(channel, x)

        simulate(brand, media)
        return [[(name, len(data)) for name, data in line[0].sent] for line in (brand_line, media_line)]

    n, d = SLOTS + 5, 3
    rng = np.random.default_rng(2)
    some = shapes(rng.integers(-9, 9, (n, d)), rng.integers(-9, 9, d), rng.integers(-9, 9, n))
    assert some == shapes(np.zeros((n, d), np.int64), np.zeros(d, np.int64), np.zeros(n, np.int64))


def test_a_column_sum_travels_as_one_number_that_says_nothing_of_the_slots(monkeypatch):
    """Two columns with the same total but other slots: what the brand opens is the total, what it gets is as long."""
    received, opened = [], []
    decrypt = BrandKey.decrypt_sum

    def recording(key, data):
        received.append(data)
        opened.append(decrypt(key, data))
        return opened[-1]

    monkeypatch.setattr(BrandKey, "decrypt_sum", recording)
    x = np.zeros((SLOTS, 2), np.int64)
    x[0, 0], x[: 2**10, 1] = 2**10, 1
    both(x, np.array([1, 1]), np.ones(SLOTS, np.int64))
    assert opened == [2**10, 2**10]
    assert [len(data) for data in received] == [SUM_BYTES] * 2


@given(threads=st.integers(1, 4), items=st.lists(st.integers(), max_size=40))
def test_work_that_is_spread_comes_back_in_order(threads, items):
    assert list(products.spread(lambda item: 2 * item, items, threads)) == [2 * item for item in items]


def test_work_is_taken_no_more_than_a_few_items_ahead():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    spread_out = products.spread(lambda item: item, items(), threads=2)
    assert [next(spread_out) for _ in range(3)] == [0, 1, 2]
    assert len(taken) <= 3 + 2 * 2 + 1


def test_an_error_in_a_thread_ends_the_work():
    def failing(item):
        if item == 3:
            raise PeerError("a bad one")
        return item

    spread_out = products.spread(failing, range(10), threads=2)
    assert [next(spread_out) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(PeerError, match="a bad one"):
        next(spread_out)


def test_neither_results_nor_bytes_depend_on_the_number_of_threads(monkeypatch):
    rng = np.random.default_rng(5)
    x, w = rng.integers(-512, 513, (3 * SLOTS, 3)), rng.integers(-9, 9, 3)

    def line(threads):
        lines = []
        monkeypatch.setattr(products, "_threads", lambda: threads)

        async def as_brand(channel):
            lines.append(channel)
            key = await products.open_brand(channel, randomness("brand"))
            rows = await products.rows_brand(channel, key, w, len(x))
            return rows, await products.columns_brand(channel, key, np.ones(len(x), np.int64), 3)

        async def as_media(channel):
            lines.append(channel)
            stream = randomness("media")
            public = await products.open_media(channel)
            await products.rows_media(channel, public, x, randomness=stream)
            await products.columns_media(channel, public, x, randomness=stream)

        simulate(as_brand, as_media)
        return [one.sent for one in lines]

    assert line(1) == line(3)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, SLOTS), d=st.integers(0, 5), seed=st.integers(0, 2**32 - 1), extreme=st.booleans())
def test_products_with_residues_are_exact(n, d, seed, extreme):
    rng = np.random.default_rng(seed)
    x = np.full((n, d), -(2**15), np.int16) if extreme else rng.integers(-512, 513, (n, d)).astype(np.int16)
    v = np.full(n, T - 1, np.uint64) if extreme else rng.integers(0, T, n, dtype=np.uint64)
    clear = [sum(int(a) * int(b) for a, b in zip(column, v, strict=True)) % T for column in x.T]
    assert products.dots(x, v) == clear


@pytest.mark.parametrize("parts", [[], [bytes(UPLOAD_BYTES)] * 3, [bytes(UPLOAD_BYTES - 8)] * 2, [b""] * 2])
def test_a_brand_that_sends_other_uploads_is_refused(parts):
    async def liar(channel):
        await products.open_brand(channel, Randomness.system())
        await channel.send(products.Uploads(tuple(parts)))
        await channel.recv(products.Results)

    async def media(channel):
        public = await products.open_media(channel)
        await products.rows_media(channel, public, np.ones((4, 2), np.int64), randomness=Randomness.system())

    with pytest.raises(PeerError):
        simulate(media, liar)


@pytest.mark.parametrize("parts", [[], [bytes(SUM_BYTES)] * 2, [bytes(8)], [b"\xff" * SUM_BYTES]])
def test_a_media_that_answers_otherwise_is_refused(parts):
    async def brand(channel):
        key = await products.open_brand(channel, Randomness.system())
        return await products.columns_brand(channel, key, np.ones(3, np.int64), 1)

    async def liar(channel):
        await products.open_media(channel)
        await channel.recv(products.Uploads)
        await channel.send(products.Sums(tuple(parts)))

    with pytest.raises(PeerError):
        simulate(brand, liar)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("side", "at"), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)])
def test_a_broken_line_gives_an_error_or_the_right_answer(fault, side, at):
    x = np.arange(12).reshape(6, 2)
    w, v = np.array([3, -4]), np.arange(6)
    try:
        rows, columns = play_broken(
            lambda ch: brand_both(ch, w, v, 6, 2), lambda ch: media_both(ch, x), fault, side, at
        )[0]
    except (PeerError, CarrierError):
        return
    assert np.array_equal(rows, x @ w)
    assert np.array_equal(columns, x.T @ v)


def test_empty_matrices_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="at least one row"):
        simulate(lambda ch: products.rows_media(ch, None, np.ones((0, 2), int), randomness=None), _nothing)
    with pytest.raises(ValueError, match="at least one row"):
        simulate(lambda ch: products.columns_brand(ch, None, np.ones(0, int), 2), _nothing)
    with pytest.raises(ValueError, match="integers"):
        simulate(lambda ch: products.columns_media(ch, None, np.ones((2, 2)), randomness=None), _nothing)


async def _nothing(_):
    return None
