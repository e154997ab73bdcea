"""Segments of a brand's members by its own and a media's columns, in one process, beside K-means on the pooled table.

The coordinator compares distances that are masked: it learns neither the people's columns nor who is in which segment.

python examples/segments.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from tidegate.protocols.channel import Channel
from tidegate.protocols.clustering.box import Box, starting
from tidegate.protocols.clustering.comparator import Seen, comparator, end
from tidegate.protocols.clustering.kmeans import Clustered, Settings, adjusted_rand, member
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import memory_line

# 3,000 people of four overlapping kinds. The brand's two columns tell the kinds apart one way, the media's another.
rng = np.random.default_rng(5)
kind = rng.integers(0, 4, 3000)
brand_table = np.array([[0, 0], [4, 1], [0, 1], [4, 0]])[kind] + rng.normal(size=(3000, 2))
media_table = np.array([[5, 0, 1], [5, 1, 0], [0, 0, 1], [0, 1, 0]])[kind] + rng.normal(size=(3000, 3))

settings = Settings(k=4, iterations=20)
# What each declares of its columns, before anybody looks at rows: the starts are corners of these boxes.
boxes = {"brand": Box(np.full(2, -6.0), np.full(2, 10.0)), "media": Box(np.full(3, -6.0), np.full(3, 11.0))}
# From a seed here, so that no start leaves a segment empty: what then is done differs between programs.
starts = {name: starting(settings.k, box, Randomness(name.encode().ljust(32))) for name, box in boxes.items()}


async def party(name: str, table: NDArray[np.float64], helper: Channel, peers: Mapping[str, Channel]) -> Clustered:
    found = await member(
        helper,
        peers,
        table,
        starts[name],
        box=boxes[name],
        settings=settings,
        randomness=Randomness.system(),
        lead=name == "brand",
    )
    await end(helper)
    return found


async def play() -> tuple[Clustered, Clustered, Seen]:
    """All three at once, with a line between each two of them."""
    brand_media, media_brand = memory_line()
    brand_helper, helper_brand = memory_line()
    media_helper, helper_media = memory_line()
    return await asyncio.gather(
        party("brand", brand_table, brand_helper, {"media": brand_media}),
        party("media", media_table, media_helper, {"brand": media_brand}),
        comparator({"brand": helper_brand, "media": helper_media}),
    )


of_brand, of_media, seen = asyncio.run(play())

pooled = np.hstack([brand_table, media_table])
initial = np.hstack([starts["brand"], starts["media"]])
clear = KMeans(settings.k, init=initial, n_init=1, max_iter=of_brand.iterations, tol=0, algorithm="lloyd").fit(pooled)
same = adjusted_rand(of_brand.labels, clear.labels_)
assert np.array_equal(of_brand.labels, of_media.labels)
assert same > 0.999, "the blind segments are those of the pooled table"

alone = KMeans(settings.k, n_init=10, random_state=0).fit(brand_table)
print(
    f"{of_brand.iterations} iterations, segments of {', '.join(map(str, sorted(of_brand.sizes, reverse=True)))} people"
)
print(f"agreement with K-means on the pooled table, from the same start: {same:.4f}")
print(f"agreement with the kinds of people: {adjusted_rand(of_brand.labels, kind):.2f}", end="")
print(f"; of the brand alone: {adjusted_rand(alone.labels_, kind):.2f}")
print(f"the coordinator compared {seen.rows:,} rows in {seen.passes} passes, each in another order")
