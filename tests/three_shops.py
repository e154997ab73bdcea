"""Shops that trust one another and hold the same columns of different people, and the office between them."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

from tests.two_parties import Office, Party, introduce, make_party, write_csv
from tidegate.party import dataset, mail

SHOPS = ("shop-a", "shop-b", "shop-c")
CAMPAIGN = """\
[campaign]
name = "together"
expires_days = 7

[parties]
clients = ["shop-a", "shop-b", "shop-c"]

[data]
clients = "people"

[label]
column = "bought"
positive = "yes"

[features]
columns = ["age", "visits", "member"]

[ranges]
age = [18, 90]
visits = [0, 30]
member = [0, 1]

[holdout]
share = 20

[steps.federate]
app = "logistic"
rounds = 10
"""
GROUPS = """\
[campaign]
name = "groups"

[parties]
clients = ["shop-a", "shop-b", "shop-c"]

[data]
clients = "people"

[ranges]
age = [18, 90]
visits = [0, 30]
member = [0, 1]

[steps.federate]
app = "kmeans"
k = 3
"""


def people(shop: int, n: int = 1500) -> list[dict[str, object]]:
    """Rows of one shop: a key, numbers, true and false, a category, a label, and what varies nowhere."""
    drawn = random.Random(shop)
    return [
        {
            "id": f"{shop}-{i}",
            "age": drawn.randint(18, 90),
            "visits": drawn.randint(0, 30),
            "member": drawn.choice(["true", "false"]),
            "plan": drawn.choice("abc"),
            "unit": "eur",
            "bought": drawn.choice(["yes", "no"]),
        }
        for i in range(n)
    ]


@dataclass
class Street:
    """The shops by name; all but the first have offered their data set `people` to the first."""

    folder: Path
    office: Office
    shops: dict[str, Party]

    @property
    def first(self) -> Party:
        return next(iter(self.shops.values()))

    def close(self) -> None:
        for shop in self.shops.values():
            shop.store.close()

    def campaign_file(self, text: str = CAMPAIGN) -> Path:
        path = self.folder / "campaign.toml"
        path.write_text(text)
        return path

    def collect(self, party: Party) -> list[str]:
        return self.office.online(party.home, lambda relay: mail.collect(party.home, party.store, relay))

    def offer(self, name: str, rows: list[dict[str, object]]) -> None:
        """Registers a table as this shop's `people`, and offers it to the first if it is another."""
        party = self.shops[name]
        path = write_csv(self.folder / f"{name}.csv", rows)
        dataset.register(party.store, "people", path, {"text": "id"}, "", "refuse")
        if party is not self.first:
            to = self.first.home.name()
            self.office.online(party.home, lambda relay: mail.offer(party.home, party.store, relay, "people", to))
            self.collect(self.first)


def make_street(folder: Path, names: tuple[str, ...] = SHOPS) -> Street:
    street = Street(folder, Office(), {name: make_party(folder, name) for name in names})
    for one, other in itertools.combinations(street.shops.values(), 2):
        introduce(one, other)
    for number, name in enumerate(names):
        street.offer(name, people(number))
    return street
