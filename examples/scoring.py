"""A brand scores a media's rows with its model and finds the best tenth, in one process, beside the clear text.

python examples/scoring.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.protocols.blind import scoring
from tidegate.protocols.channel import Channel
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import simulate

ROWS, COLUMNS, LEVELS = 20_000, 12, 20
SIZES = scoring.Sizes("sizes", (10,))

# The media's table and the brand's model; each role below is given its own alone.
generator = np.random.default_rng(7)
table = generator.normal(size=(ROWS, COLUMNS))
model = generator.normal(size=COLUMNS)


async def brand(channel: Channel) -> tuple[NDArray[np.float64], scoring.Expanded]:
    random = Randomness.system()
    exact = await scoring.brand_scores(channel, model, 2_000, levels=None, randomness=random)
    # The exact scores of some rows, granted by the contract, tell how wide the scores of all will spread.
    expanded = await scoring.brand_expand(
        channel,
        model,
        sizes=SIZES,
        floor=100,
        levels=LEVELS,
        max_rows=ROWS,
        window=scoring.window_of(exact),
        randomness=random,
    )
    return exact, expanded


async def media(channel: Channel) -> scoring.Chosen:
    random = Randomness.system()
    await scoring.media_scores(channel, table[:2_000], levels=None, randomness=random)
    return await scoring.media_expand(channel, table, sizes=SIZES, floor=100, levels=LEVELS, randomness=random)


(exact, expanded), chosen = simulate(brand, media)

clear = table @ model
worst = float(np.abs(exact - clear[:2_000]).max())
assert worst < np.abs(model).sum() / 128 + 1e-6, "exact scores are off by the rounding of the columns at most"
found = np.flatnonzero(chosen.tiers)
assert len(found) == expanded.people[0] == ROWS // 10
best = np.argsort(-clear)[: ROWS // 10]
shared = len(set(best) & set(found)) / len(best)
assert shared > 0.6, "the blurred audience is mostly the clear one"

print(f"exact scores of 2,000 rows: off by at most {worst:.4f}")
print(f"audience of the best 10 %: {len(found)} people, {shared:.0%} of them the clear text's best")
print(f"mean score {clear[found].mean():.2f}, the best possible {clear[best].mean():.2f}, all {clear.mean():.2f}")
