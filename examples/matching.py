"""Find the people two lists have in common without showing either list, and check it against the clear text.

Three modes: both learn which rows match, only the brand does, or both learn how many and nobody which.

Run it alone: python examples/matching.py
"""

from __future__ import annotations

from tidegate.protocols.ids import Identifiers, keep_first, normalise
from tidegate.protocols.primitives.group import backend
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.psi.match import ENGINES, Matched, receiver, sender
from tidegate.protocols.simulate import simulate

# The brand knows people 0 to 2999 and lists one of them twice; the media knows people 2000 to 5999. Each writes them
# in its own way, and neither has every key of everybody.
brand_columns: dict[str, list[str | None]] = {
    "phone": [f"06 {10000000 + i}" if i % 3 else None for i in range(3000)] + [None, None],
    "email": [*(f"Person{i}@Example.com " for i in range(3000)), "PERSON7@example.com", "no address"],
}
media_columns: dict[str, list[str | None]] = {
    "phone": [f"+31 (0)6 {10000000 + i}" for i in range(2000, 6000)],
    "email": [f"person{i}@example.com" if i % 4 else None for i in range(2000, 6000)],
}


def identifiers(party: str, columns: dict[str, list[str | None]]) -> dict[str, Identifiers]:
    """What a party enters, by kind of key."""
    entered = {}
    for kind, texts in columns.items():
        found, validity = normalise(kind, texts, region="NL")
        entered[kind] = keep_first(found)
        print(f"{party:6}{kind:6}{validity}")
    return entered


def match(mode: str, kinds: tuple[str, ...]) -> tuple[Matched, Matched]:
    """What the brand and the media are told."""
    engine, floor, randomness = ENGINES["oprf"], 100, Randomness.system

    return simulate(
        lambda channel: receiver(
            channel,
            brand_ids,
            engine=engine,
            mode=mode,
            kinds=kinds,
            floor=floor,
            max_rows=4000,
            randomness=randomness(),
        ),
        lambda channel: sender(
            channel,
            media_ids,
            engine=engine,
            mode=mode,
            kinds=kinds,
            floor=floor,
            max_rows=3002,
            randomness=randomness(),
        ),
    )


brand_ids, media_ids = identifiers("brand", brand_columns), identifiers("media", media_columns)

# In the clear: brand row i is person i, media row j is person 2000 + j, and those with a common key belong together.
by_phone = {i for i in range(2000, 3000) if i % 3}
by_email = {i for i in range(2000, 3000) if i % 4} - by_phone
by_key = {"phone": len(by_phone), "email": len(by_email)}

brand, media = match("both", ("phone", "email"))
print(f"both: {brand.size} people matched ({backend()}), by key: {brand.by_key}")
assert brand.by_key == media.by_key == by_key
assert set(zip(brand.rows.tolist(), media.rows.tolist(), strict=True)) == {(i, i - 2000) for i in by_phone | by_email}

brand, media = match("brand", ("phone", "email"))
print(f"brand: it knows {brand.size} rows, the media that enough matched by {' and by '.join(media.reached)}")
assert brand.by_key == by_key
assert set(brand.rows.tolist()) == by_phone | by_email
assert not media.by_key
assert not len(media.rows)

brand, media = match("size", ("phone",))
print(f"size: both know that {brand.size} people have a phone in common, and nobody who")
assert brand.size == media.size == len(by_phone)
assert not len(brand.rows)
assert not len(media.rows)
print("The join in the clear gives the same.")
