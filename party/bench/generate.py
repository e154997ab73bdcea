"""Data to measure with: people with messy identifiers and tastes that neither party sees whole.

Each person has four latent tastes, standard normal. A party's column is a random mix of the tastes and as much noise,
so that no column gives a taste away and more columns give more. Whether a person is a good customer is drawn with a
probability logistic in the tastes, about one in ten. The brand's columns mix mostly the first two tastes, the media's
mostly the last two: a joint model really gains.

Where groups are asked for, each person belongs to one, and a group's people have tastes around a centre of their own.
Centres lie little further apart than the people around them: the groups overlap, and no party alone sees all of them.

E-mail addresses differ between the parties in case and blanks, telephone numbers in how they are written. Numbers come
from the whole North American plan with made-up digits: they are for measuring on one machine, not for dialling.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

TASTES = 4
GROUPS_APART = 2.0  # standard deviation of the groups' centres; people are 1 around theirs
AREA_CODES = (212, 213, 312, 404, 415, 512, 617, 713, 808, 917)
BLOCK = 1 << 18


def write(
    folder: Path,
    *,
    rows: int,
    peer_rows: int,
    common: int,
    brand_features: int,
    media_features: int,
    groups: int = 1,
    seed: int = 1,
) -> None:
    """Writes brand.parquet (rows) and media.parquet (peer_rows) with `common` people in both, in random orders."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    mixes = {"brand": _mix(rng, brand_features, first=True), "media": _mix(rng, media_features, first=False)}
    taste_seed, weights = int(rng.integers(2**62)), np.array([1.0, -0.8, 0.9, 0.7])
    centres = GROUPS_APART * rng.standard_normal((groups, TASTES)) if groups > 1 else np.zeros((1, TASTES))
    people = {
        "brand": rng.permutation(rows),
        "media": rng.permutation(np.concatenate([np.arange(common), np.arange(rows, rows + peer_rows - common)])),
    }
    for party, ids in people.items():
        with _writer(folder / f"{party}.parquet", party, mixes[party].shape[1]) as writer:
            for start in range(0, len(ids), BLOCK):
                block = ids[start : start + BLOCK]
                # Not the number alone: e-mail addresses and telephone numbers follow from that.
                tastes = _tastes(taste_seed, block) + centres[block // 7 % groups]
                columns = _identifiers(block, messy=party == "brand")
                values = tastes @ mixes[party] + rng.standard_normal((len(block), mixes[party].shape[1]))
                columns |= {column(j): pa.array(values[:, j]) for j in range(values.shape[1])}
                if party == "brand":
                    chance = 1 / (1 + np.exp(2.6 - tastes @ weights))
                    columns["good"] = pa.array((rng.random(len(block)) < chance).astype(np.int8))
                writer.write_table(pa.table(columns))


def column(number: int) -> str:
    """What a party's column of this number, from 0, is called."""
    return f"f{number:03d}"


def _mix(rng: np.random.Generator, features: int, first: bool) -> FloatArray:
    strength = np.array([1.0, 1.0, 0.2, 0.2] if first else [0.2, 0.2, 1.0, 1.0])
    mix: FloatArray = rng.standard_normal((TASTES, features)) * strength[:, None] * 0.5
    return mix


def _tastes(seed: int, people: IntArray) -> FloatArray:
    """A person's tastes depend on the person alone, so that both parties' rows describe the same one (splitmix64)."""
    uniform = np.empty((len(people), 2 * TASTES))
    with np.errstate(over="ignore"):
        for j in range(2 * TASTES):
            x = people.astype(np.uint64) * np.uint64(2 * TASTES) + np.uint64(j) + np.uint64(seed)
            x = x * np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            uniform[:, j] = ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2**53
    radius = np.sqrt(-2 * np.log(1 - uniform[:, :TASTES]))
    normal: FloatArray = radius * np.cos(2 * np.pi * uniform[:, TASTES:])
    return normal


def _identifiers(people: IntArray, messy: bool) -> dict[str, pa.Array]:
    numbers = pa.array(people)
    digits = pc.cast(numbers, pa.string())
    domain = pa.array(np.array(["example.com", "example.net", "example.org"])[people % 3])
    email = pc.binary_join_element_wise("person.", digits, "@", domain, "")
    area = pa.array(np.array(AREA_CODES)[people % len(AREA_CODES)].astype(str))
    line = pc.utf8_lpad(pc.cast(pa.array(2_000_000 + people // len(AREA_CODES)), pa.string()), 7, "0")
    if not messy:
        return {"email": email, "phone": pc.binary_join_element_wise("+1", area, line, "")}
    style = pa.array(people % 3)
    shouted, padded = pc.utf8_upper(email), pc.binary_join_element_wise("  ", email, " ", "")
    exchange, rest = pc.utf8_slice_codeunits(line, 0, 3), pc.utf8_slice_codeunits(line, 3, 7)
    bracketed = pc.binary_join_element_wise("(", area, ") ", exchange, "-", rest, "")
    dotted = pc.binary_join_element_wise(area, exchange, rest, ".")
    return {
        "email": pc.choose(style, email, shouted, padded),
        "phone": pc.choose(style, bracketed, dotted, pc.binary_join_element_wise("1", area, line, "-")),
    }


def _writer(path: Path, party: str, features: int) -> pq.ParquetWriter:
    fields = [("email", pa.string()), ("phone", pa.string()), *((column(j), pa.float64()) for j in range(features))]
    if party == "brand":
        fields.append(("good", pa.int8()))
    return pq.ParquetWriter(path, pa.schema(fields))
