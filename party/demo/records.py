"""The demo's data: the CoIL 2000 records, dealt to a brand and a media, with made-up identifiers on both sides.

The identifiers are messy and overlap in part, as in life: the brand has people whom the media does not know, the media
has people whom the brand does not know (whom `expand` searches), and of those who are in both tables some can be found
by telephone number and some by e-mail address only.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import phonenumbers
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

LABEL = "bought_caravan"
RELIGION = ("roman_catholic", "protestant", "other_religion", "no_religion")
# A pool of which 5 % is over the floor of 100 people; nearly everybody else is left to learn from.
MEDIA_ONLY = 2_200
BRAND_ONLY = 400
WITHOUT_PHONE, WITHOUT_EMAIL = 0.12, 0.12
FIRST = ("anna", "bram", "carla", "daan", "emma", "finn", "greta", "hugo", "iris", "jan", "kim", "lotte", "noor")
LAST = ("bakker", "dejong", "visser", "smit", "mulder", "bos", "vos", "peters", "dekker", "kok", "prins", "blom")
DOMAINS = ("example.com", "example.net", "example.org")

CAMPAIGN = """\
# Who among the media's other people looks like a buyer of a caravan policy?
[campaign]
name = "caravan-lookalike"
expires_days = 7

[parties]
brand = "brand"
media = "media"

[data]
brand = "customers"
media = "people"

[match]
keys = ["phone", "email"]

[label]
column = "bought_caravan"
positive = "1"

[features]
brand = "all"
media = "all"

[holdout]
column = "split"
value = "test"

[steps.match]
[steps.insight]
[steps.train]
l2 = 10
[steps.score]
[steps.expand]
sizes = [5, 10, 20, 30]
"""


def write(folder: Path, seed: int = 2000) -> None:
    """Writes brand.parquet, media.parquet, campaign.toml, and truth.parquet, which no party gets to see.

    truth.parquet has the label of every row of media.parquet, in its order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = pq.read_table(resources.files(__package__).joinpath("caravan.parquet").open("rb"))
    rng = np.random.default_rng(seed)
    people = records.num_rows
    # Only training records are known to one side alone: the hold-out is the whole official test part, so that the
    # figures can be laid beside published ones.
    order = rng.permutation(np.flatnonzero(np.array(records["split"].to_pylist()) == "train"))
    media_only, brand_only = order[:MEDIA_ONLY], order[MEDIA_ONLY : MEDIA_ONLY + BRAND_ONLY]
    at_brand = rng.permutation(np.setdiff1d(np.arange(people), media_only))
    at_media = rng.permutation(np.setdiff1d(np.arange(people), brand_only))
    emails, phones = _emails(people, rng), fiction_phones(people)
    has_phone, has_email = rng.random((2, 2, people)) > np.array([WITHOUT_PHONE, WITHOUT_EMAIL])[:, None, None]
    # Everyone in both tables can be found by at least one of the two keys.
    lost = ~((has_phone[0] & has_phone[1]) | (has_email[0] & has_email[1]))
    has_email[:, lost] = True

    names = [name for name in records.column_names if name not in RELIGION]
    own = [name for name in names if name.startswith(("premium_", "policies_"))]
    other = [name for name in names if name not in own and name not in (LABEL, "split")]
    brand = records.take(pa.array(at_brand)).select([*own, LABEL, "split"])
    media = records.take(pa.array(at_media)).select(other)
    for table, rows, side, name in ((brand, at_brand, 0, "brand"), (media, at_media, 1, "media")):
        emailed = [_messy_email(emails[i], rng) if has_email[side, i] else None for i in rows]
        phoned = [_messy_phone(phones[i], rng) if has_phone[side, i] else None for i in rows]
        with_ids = table.add_column(0, "phone", pa.array(phoned, pa.string()))
        pq.write_table(with_ids.add_column(0, "email", pa.array(emailed, pa.string())), folder / f"{name}.parquet")
    pq.write_table(records.take(pa.array(at_media)).select([LABEL]), folder / "truth.parquet")
    (folder / "campaign.toml").write_text(CAMPAIGN)


def _emails(n: int, rng: np.random.Generator) -> list[str]:
    first, last, domain = rng.choice(FIRST, n), rng.choice(LAST, n), rng.choice(DOMAINS, n)
    return [f"{first[i]}.{last[i]}{i}@{domain[i]}" for i in range(n)]


def _messy_email(email: str, rng: np.random.Generator) -> str:
    style = rng.integers(4)
    if style == 1:
        return email.upper()
    if style == 2:
        return f"  {email} "
    return email.title() if style == 3 else email


def fiction_phones(n: int) -> list[str]:
    """n different numbers in E.164 form, all from the range that the numbering plan keeps for fiction."""
    codes = [code for code in range(201, 990) if _is_area_code(code)]
    if n > 100 * len(codes):
        raise ValueError(f"there are {100 * len(codes)} numbers for fiction, not {n}")
    return [f"+1{codes[i // 100]}55501{i % 100:02d}" for i in range(n)]


def _is_area_code(code: int) -> bool:
    return phonenumbers.is_valid_number(phonenumbers.parse(f"+1{code}5550100"))


def _messy_phone(phone: str, rng: np.random.Generator) -> str:
    area, exchange, line = phone[2:5], phone[5:8], phone[8:]
    style = rng.integers(5)
    if style == 1:
        return f"({area}) {exchange}-{line}"
    if style == 2:
        return f"{area}.{exchange}.{line}"
    if style == 3:
        return f"+1 {area} {exchange} {line}"
    return f"1-{area}-{exchange}-{line}" if style == 4 else phone
