"""Match a small list against a large one, twice in one epoch: the second time only what is new costs anything.

Run it alone: python examples/epoch.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tidegate.protocols.ids import Identifiers, normalise
from tidegate.protocols.primitives.group import Scalar
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.psi import epoch
from tidegate.protocols.psi.token_lists import Bytes, IntArray, digest, places, rising_order, token_bytes
from tidegate.protocols.simulate import simulate

MOST = 30_000
COMMON: dict[str, Any] = {"kinds": ("email",), "floor": 100, "max_rows": MOST}


@dataclass
class Tokens:
    """A media's tokens as they are now; `before` is the list that it had at the campaign before."""

    tokens: Bytes
    rows: IntArray
    version: bytes
    before: Tokens | None

    def since(self, version: bytes) -> tuple[Bytes, Bytes] | None:
        if self.before is None or self.before.version != version:
            return None
        old = self.before.tokens
        return self.tokens[places(self.tokens, old) < 0], old[places(old, self.tokens) < 0]


def identifiers(people: range) -> Identifiers:
    return normalise("email", [f"person{i}@example.com" for i in people])[0]


def tokens_ahead(ids: Identifiers, key: epoch.Key, before: Tokens | None) -> Tokens:
    """What `tidegate party tokens build` leaves on disk, in memory."""
    made = epoch.tokens_of(ids, key)
    order = rising_order(made)
    return Tokens(made[order], ids.rows[order], digest(made[order]), before)


random = Randomness.system()
key = epoch.Key(random.bytes(epoch.NAME_BYTES), Scalar.random(random), token_bytes(2_000, MOST))
kept = {"email": epoch.Held(random.bytes(epoch.SECRET_BYTES))}
asked: list[int] = []


def campaign(season: str, brand_people: range, media_people: range, before: Tokens | None) -> Tokens:
    """One campaign of the epoch, checked against the clear text; the tokens that the media has now."""
    tokens = tokens_ahead(identifiers(media_people), key, before)
    brand, media = simulate(
        lambda channel: epoch.receiver(
            channel, {"email": identifiers(brand_people)}, kept, prefix_bits=0, randomness=random, **COMMON
        ),
        lambda channel: epoch.sender(channel, key, {"email": tokens}, prefix_bits=0, charge=asked.append, **COMMON),
    )
    print(
        f"{season}: {len(brand.rows)} people matched; asked for {brand.asked['email']} identifiers, "
        f"{brand.added['email']} tokens came, {brand.removed['email']} went"
    )
    # In the clear: row i of a party is the i-th of its people.
    found = brand.rows + brand_people.start
    assert np.array_equal(found, media.rows + media_people.start)
    assert set(found.tolist()) == set(brand_people) & set(media_people)
    return tokens


# In autumn the brand knows people 0 to 1499 and the media 1000 to 20999; by winter both have changed a little.
autumn = campaign("autumn", range(0, 1500), range(1000, 21000), None)
campaign("winter", range(20, 1520), range(1100, 21200), autumn)
assert asked == [1500, 20]
print(f"Evaluated under the key in the whole epoch: {sum(asked)}. The join in the clear gives the same people.")
