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
# Numbers of a classification of postcodes, which are no amounts of anything.
TYPES = ("customer_subtype", "customer_main_type")
# How many of the people at a postcode are so: a band from 0 to 9 in the records, and what the column is called here.
SHARES = {
    "married": "married_couples", "living_together": "unmarried_couples", "other_relation": "other_households",
    "singles": "singles", "no_children": "childless_households", "with_children": "families",
    "education_high": "graduates", "education_medium": "late_school_leavers", "education_low": "early_school_leavers",
    "high_status": "senior_jobs", "entrepreneur": "entrepreneurs", "farmer": "farmers",
    "middle_management": "middle_managers",
    "skilled_labourers": "skilled_labourers", "unskilled_labourers": "unskilled_labourers",
    "social_class_a": "class_a_households", "social_class_b1": "class_b1_households",
    "social_class_b2": "class_b2_households", "social_class_c": "class_c_households",
    "social_class_d": "class_d_households", "rented_house": "tenants", "home_owners": "home_owners",
    "one_car": "one_car_households", "two_cars": "two_car_households", "no_car": "carless_households",
    "national_health": "national_health_patients", "private_health": "private_health_patients",
    "income_under_30k": "low_incomes", "income_30_45k": "lower_middle_incomes",
    "income_45_75k": "upper_middle_incomes", "income_75_122k": "high_incomes", "income_over_123k": "top_incomes",
}  # fmt: skip
# The middle of each band in percent: none, 1 to 10, 11 to 23, 24 to 36 and so on to 89 to 99, all.
PERCENT = np.array((0, 5, 17, 30, 43, 56, 69, 82, 94, 100))
# The middle of each age band in years, 20 to 30, 30 to 40 and so on; there is no band 0.
YEARS = np.array((0, 25, 35, 45, 55, 65, 75))
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

[ranges.media]
age = [20, 80]

[steps.match]
[steps.insight]
[steps.segment]
k = 4
starts = 3
iterations = 100
brand_weight = 0.45
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
    other = [name for name in names if name not in own and name not in (LABEL, "split", *TYPES)]
    of_brand = records.take(pa.array(at_brand))
    brand = of_brand.select([*own, LABEL, "split"]).rename_columns([*map(_of_insurer, own), LABEL, "split"])
    media = _of_postcode(records.take(pa.array(at_media)).select(other))
    for table, rows, side, name in ((brand, at_brand, 0, "brand"), (media, at_media, 1, "media")):
        emailed = [_messy_email(emails[i], rng) if has_email[side, i] else None for i in rows]
        phoned = [_messy_phone(phones[i], rng) if has_phone[side, i] else None for i in rows]
        with_ids = table.add_column(0, "phone", pa.array(phoned, pa.string()))
        pq.write_table(with_ids.add_column(0, "email", pa.array(emailed, pa.string())), folder / f"{name}.parquet")
    pq.write_table(records.take(pa.array(at_media)).select([LABEL]), folder / "truth.parquet")
    (folder / "campaign.toml").write_text(CAMPAIGN)


def _of_insurer(name: str) -> str:
    """ "policies_private_third_party" is "liability_policies": the insurance first, and by its usual name."""
    what, _, insurance = name.partition("_")
    return f"{insurance.replace('private_third_party', 'liability').replace('third_party', 'liability')}_{what}"


def _of_postcode(records: pa.Table) -> pa.Table:
    """Bands as the middles of what they stand for, under names that say what there is much or little of."""
    made = {}
    for name in records.column_names:
        if name in SHARES:
            made[SHARES[name]] = pa.array(PERCENT[records[name].to_numpy()])
        elif name == "age_band":
            made["age"] = pa.array(YEARS[records[name].to_numpy()])
        else:
            made[name] = records[name]
    return pa.table(made)


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
