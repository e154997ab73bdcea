"""`tidegate bench naive`: scores of the media's rows by our product, beside the loops that tutorials show.

A tutorial encrypts the brand's weights once and multiplies them with each row by itself: one ciphertext comes back for
every row. Rows are measured for a few seconds, and the time of all of them is extrapolated, which the figures say.
Everything runs in this process, messages through their bytes; encryption of the weights, products, serialising of each
result and its decryption count on either side. Ours rounds a row's values to 1/64 and re-randomises and floods every
result; the loops do neither, so that their results tell the brand more than scores.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import tenseal
from numpy.typing import NDArray

from tidegate import __version__
from tidegate.protocols.blind import scoring
from tidegate.protocols.channel import Channel
from tidegate.protocols.primitives.fixed_point import T
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import MemoryChannel, simulate

from .run import machine

FloatArray = NDArray[np.float64]

LOOP_S = 4.0
LEAST_ROWS = 5
BFV_UNIT = 2.0**10
PAILLIER_BITS = 3072


@dataclass(frozen=True)
class Scored:
    """What one engine did: seconds once and for the rows measured, bytes that the media sent, how far it was off."""

    once_s: float
    rows: int
    rows_s: float
    sent: int
    largest_error: float


Engine = Callable[[FloatArray, FloatArray, float], Scored]


def bench(rows: int, columns: int, loop_s: float = LOOP_S) -> dict[str, Any]:
    """Figures of our own scoring of all `rows`, and of each loop over as many as `loop_s` is enough for."""
    rng = np.random.default_rng(1)
    x, weights = np.clip(rng.standard_normal((rows, columns)), -5, 5), rng.standard_normal(columns)
    engines = [_figures("tidegate", __version__, "", blind_product(x, weights), rows)]
    for name, package, setting, engine in LOOPS:
        try:
            importlib.import_module(package)
        except ImportError:
            engines.append({"engine": name, "absent": f"not installed; to measure it: pip install {package}"})
            continue
        version = importlib.metadata.version(package)
        engines.append(_figures(name, version, setting, engine(x, weights, loop_s), rows))
    for each in engines[1:]:
        if "seconds" in each:
            each["times_ours"] = round(each["seconds"] / max(engines[0]["seconds"], 1e-3))
    return {"step": "naive", "rows": rows, "features": columns, "engines": engines, **machine()}


def _figures(name: str, version: str, setting: str, scored: Scored, rows: int) -> dict[str, Any]:
    seconds = scored.once_s + scored.rows_s * rows / scored.rows
    return {
        "engine": name,
        "version": version,
        "setting": setting,
        "seconds": round(seconds, 2),
        "extrapolated": scored.rows < rows,
        "measured_rows": scored.rows,
        "bytes_per_row": round(scored.sent / scored.rows, 1),
        "largest_error": scored.largest_error,
    }


def blind_product(x: FloatArray, weights: FloatArray) -> Scored:
    """Our own: both roles in this process, exact scores, every row."""
    began = time.perf_counter()

    async def brand(channel: Channel) -> FloatArray:
        return await scoring.brand_scores(channel, weights, len(x), levels=None, randomness=Randomness.system())

    async def media(channel: Channel) -> int:
        await scoring.media_scores(channel, x, levels=None, randomness=Randomness.system())
        return sum(len(data) for _, data in cast(MemoryChannel, channel).sent)

    scores, sent = simulate(brand, media)
    return Scored(0.0, len(x), time.perf_counter() - began, sent, _off(scores, x, weights))


def ckks_loop(x: FloatArray, weights: FloatArray, loop_s: float) -> Scored:
    """TenSEAL's first tutorial: a CKKS vector and its `dot` with each row."""
    began = time.perf_counter()
    own = tenseal.context(tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 40, 60])
    own.generate_galois_keys()
    encrypted = _at_the_media(own, tenseal.ckks_vector(own, weights.tolist(), 2.0**40), tenseal.ckks_vector_from)

    def product(row: FloatArray) -> tuple[float, int]:
        sent = encrypted.dot(row.tolist()).serialize()
        return tenseal.ckks_vector_from(own, sent).decrypt()[0], len(sent)

    return _looped(product, x, weights, loop_s, time.perf_counter() - began)


def bfv_loop(x: FloatArray, weights: FloatArray, loop_s: float) -> Scored:
    """The same with a BFV vector of integers, 2^10 to the unit."""
    began = time.perf_counter()
    own = tenseal.context(tenseal.SCHEME_TYPE.BFV, poly_modulus_degree=8192, plain_modulus=T)
    own.generate_galois_keys()
    encrypted = _at_the_media(own, tenseal.bfv_vector(own, _integers(weights)), tenseal.bfv_vector_from)

    def product(row: FloatArray) -> tuple[float, int]:
        sent = encrypted.dot(_integers(row)).serialize()
        return tenseal.bfv_vector_from(own, sent).decrypt()[0] / BFV_UNIT**2, len(sent)

    return _looped(product, x, weights, loop_s, time.perf_counter() - began)


def paillier_loop(x: FloatArray, weights: FloatArray, loop_s: float) -> Scored:
    """A loop over phe's encrypted numbers: a power for each value, a product for each sum."""
    paillier = importlib.import_module("phe.paillier")
    began = time.perf_counter()
    public, private = paillier.generate_paillier_keypair(n_length=PAILLIER_BITS)
    encrypted = [public.encrypt(float(weight)) for weight in weights]

    def product(row: FloatArray) -> tuple[float, int]:
        total = encrypted[0] * float(row[0])
        for weight, value in zip(encrypted[1:], row[1:], strict=True):
            total = total + weight * float(value)
        return private.decrypt(total), (total.ciphertext().bit_length() + 7) // 8

    return _looped(product, x, weights, loop_s, time.perf_counter() - began)


LOOPS: tuple[tuple[str, str, str, Engine], ...] = (
    ("tenseal CKKS, row by row", "tenseal", "N = 8192, [60, 40, 40, 60]", ckks_loop),
    ("tenseal BFV, row by row", "tenseal", "N = 8192, t of 45 bits", bfv_loop),
    ("phe Paillier, row by row", "phe", f"{PAILLIER_BITS} bits", paillier_loop),
)


def _at_the_media(own: Any, vector: Any, read: Callable[[Any, bytes], Any]) -> Any:
    """The encrypted weights as the media gets them: under a context without the secret key."""
    public = own.copy()
    public.make_context_public()
    return read(public, vector.serialize())


def _looped(
    product: Callable[[FloatArray], tuple[float, int]], x: FloatArray, weights: FloatArray, loop_s: float, once_s: float
) -> Scored:
    scores, sent, began = [], 0, time.perf_counter()
    for row in _until(x, began + loop_s):
        score, size = product(row)
        scores.append(score)
        sent += size
    passed_s = time.perf_counter() - began
    return Scored(once_s, len(scores), passed_s, sent, _off(np.array(scores), x[: len(scores)], weights))


def _until(x: FloatArray, over_s: float) -> Iterator[FloatArray]:
    for number, row in enumerate(x):
        if number >= LEAST_ROWS and time.perf_counter() > over_s:
            return
        yield row


def _integers(values: FloatArray) -> list[int]:
    found: list[int] = np.rint(values * BFV_UNIT).astype(np.int64).tolist()
    return found


def _off(scores: FloatArray, x: FloatArray, weights: FloatArray) -> float:
    """The largest difference to the product in clear text."""
    return float(np.abs(scores - x @ weights).max())
