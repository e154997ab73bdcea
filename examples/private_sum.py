"""What the media's readers among the brand's customers have visited in all, and nothing about any one of them.

Run it alone: python examples/private_sum.py
"""

from __future__ import annotations

import numpy as np

from tidegate.party.noise import discrete_gaussian
from tidegate.protocols.ids import keep_first, normalise
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.psi import oprf_match
from tidegate.protocols.psi.private_sum import Terms, counter, holder
from tidegate.protocols.simulate import simulate

FLOOR, CAP, COUNT_NOISE = 100, 50, 10

# The brand knows people 0 to 2999, the media people 2000 to 5999 and the visits of each.
brand_mails: list[str | None] = [f"Person{i}@Example.com" for i in range(3000)]
media_mails: list[str | None] = [f"person{i}@example.com" for i in range(2000, 6000)]
visits = np.random.default_rng(1).geometric(0.05, len(media_mails))

brand_ids, media_ids = (keep_first(normalise("email", mails)[0]) for mails in (brand_mails, media_mails))
values = np.minimum(visits[media_ids.rows], CAP)
terms = Terms(kind="email", floor=FLOOR, max_rows=4000, cap=CAP, noise_sd=COUNT_NOISE * CAP)
brand, media = simulate(
    lambda channel: counter(channel, brand_ids, terms, engine=oprf_match, noise=None, randomness=Randomness.system()),
    lambda channel: holder(
        channel,
        media_ids,
        values,
        terms,
        engine=oprf_match,
        noise=discrete_gaussian(terms.noise_sd),
        randomness=Randomness.system(),
    ),
)
print(f"The brand learns: {brand.size} people, {brand.total} visits (noise of {terms.noise_sd})")
print(f"The media learns: {FLOOR} or more people; size {media.size}, sum {media.total}")

# In the clear: the first thousand of the media's rows.
right = int(np.minimum(visits[:1000], CAP).sum())
assert brand.size == 1000
assert brand.total is not None
assert abs(brand.total - right) < 8 * terms.noise_sd
assert (media.size, media.total) == (None, None)
print(f"The sum in the clear is {right}.")
