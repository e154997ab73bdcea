"""Two parties with data, cards and offers, and a post office in memory in place of the coordinator."""

from __future__ import annotations

import asyncio
import csv
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tidegate.party import dataset, mail
from tidegate.party.config import Home
from tidegate.party.store import Store
from tidegate.protocols.channel import CarrierError
from tidegate.wire.identity import Identity
from tidegate.wire.invite import Endpoint
from tidegate.wire.relay_pb2 import (
    CampaignState,
    CollectReply,
    CollectRequest,
    Docket,
    Letter,
    LookReply,
    LookRequest,
    PostReply,
    PostRequest,
    Signature,
    Withdrawal,
)

T = TypeVar("T")

CAMPAIGN = """\
[campaign]
name = "lookalike"
expires_days = 7

[parties]
brand = "acme"
media = "feed"

[data]
brand = "customers"
media = "people"

[match]
keys = ["email"]

[label]
column = "bought"
positive = 1

[features]
brand = "all"
media = ["visits", "clicks", "device"]

[holdout]
column = "split"
value = "test"

[steps.match]
[steps.insight]
[steps.train]
l2 = 10
steps = 8
[steps.score]
[steps.expand]
sizes = [5, 10, 20]
"""


@dataclass
class Office:
    """What a coordinator does for letters and signatures, without a network. `away` makes every call fail."""

    letters: dict[str, list[Letter]] = field(default_factory=dict)
    states: dict[bytes, CampaignState] = field(default_factory=dict)
    signed: dict[bytes, set[str]] = field(default_factory=dict)
    parties: dict[bytes, list[str]] = field(default_factory=dict)
    away: bool = False

    def online(self, home: Home, work: Callable[[Any], Awaitable[T]]) -> T:
        if self.away:
            raise CarrierError("the coordinator cannot be reached", "is it running?")

        async def connected() -> T:
            return await work(Counter(self, home.name()))

        return asyncio.run(connected())


@dataclass
class Counter:
    """One party's line to the office: the relay's calls."""

    office: Office
    party: str

    async def Post(self, request: PostRequest, timeout: float) -> PostReply:  # noqa: N802 - the name of the call
        for letter in request.letters:
            self.office.letters.setdefault(letter.recipient, []).append(letter)
        return PostReply()

    async def Collect(self, request: CollectRequest, timeout: float) -> CollectReply:  # noqa: N802
        waiting = [one for one in self.office.letters.get(self.party, []) if one.id not in request.kept]
        self.office.letters[self.party] = waiting
        return CollectReply(letters=waiting[:2])

    async def File(self, request: Docket, timeout: float) -> CampaignState:  # noqa: N802
        self.office.parties[request.contract] = list(request.parties)
        self.office.signed[request.contract] = {self.party}
        self.office.states[request.contract] = CampaignState(contract=request.contract, state="signing")
        return self.office.states[request.contract]

    async def Sign(self, request: Signature, timeout: float) -> CampaignState:  # noqa: N802
        signed = self.office.signed[request.contract] | {self.party}
        self.office.signed[request.contract] = signed
        if signed == set(self.office.parties[request.contract]):
            self.office.states[request.contract].state = "waiting"
        return self.office.states[request.contract]

    async def Withdraw(self, request: Withdrawal, timeout: float) -> CampaignState:  # noqa: N802
        self.office.states[request.contract].state = "refused" if request.refused else "cancelled"
        return self.office.states[request.contract]

    async def Look(self, request: LookRequest, timeout: float) -> LookReply:  # noqa: N802
        mine = [state for contract, state in self.office.states.items() if self.party in self.office.parties[contract]]
        return LookReply(campaigns=mine)


# The identity of a coordinator that no test here starts.
COORDINATOR_KEY = bytes(range(32))


@dataclass
class Party:
    home: Home
    store: Store
    identity: Identity


def make_party(folder: Path, name: str) -> Party:
    home = Home(folder / name)
    home.create(name)
    Identity.generate(name).save(home.identity_key)
    home.join(Endpoint("127.0.0.1:1", b"ca", b"certificate", b"key"), COORDINATOR_KEY)
    return Party(home, Store(home.store_db), home.load_identity())


def introduce(first: Party, second: Party) -> None:
    for one, other in ((first, second), (second, first)):
        card = other.identity.card
        one.store.trust(card.name, card.identity, card.to_text().encode())


def brand_rows(n: int = 1500) -> list[dict[str, object]]:
    drawn = random.Random(7)
    return [
        {
            "mail": f"p{i}@example.com",
            "age": drawn.randint(18, 80),
            "plan": drawn.choice("abc"),
            "unit": "eur",
            "bought": int(drawn.random() < 0.4),
            "split": "test" if i % 3 == 0 else "train",
        }
        for i in range(n)
    ]


def media_rows(n: int = 2000) -> list[dict[str, object]]:
    drawn = random.Random(8)
    return [
        {
            "email": f"p{500 + i}@example.com",
            "visits": drawn.randint(0, 50),
            "clicks": drawn.randint(0, 9),
            "device": drawn.choice(["ios", "android"]),
            "note": f"free text {i}",
        }
        for i in range(n)
    ]


def write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@dataclass
class Town:
    """A brand `acme` and a media `feed` that trust each other; the media has offered its data set."""

    folder: Path
    office: Office
    acme: Party
    feed: Party

    def close(self) -> None:
        self.acme.store.close()
        self.feed.store.close()

    def campaign_file(self, text: str = CAMPAIGN) -> Path:
        path = self.folder / "campaign.toml"
        path.write_text(text)
        return path

    def collect(self, party: Party) -> list[str]:
        return self.office.online(party.home, lambda relay: mail.collect(party.home, party.store, relay))


def make_town(folder: Path) -> Town:
    acme, feed, office = make_party(folder, "acme"), make_party(folder, "feed"), Office()
    introduce(acme, feed)
    brand = write_csv(folder / "brand.csv", brand_rows())
    media = write_csv(folder / "media.csv", media_rows())
    dataset.register(acme.store, "customers", brand, {"email": "mail"}, "", "refuse")
    dataset.register(feed.store, "people", media, {"email": "email"}, "", "refuse")
    office.online(feed.home, lambda relay: mail.offer(feed.home, feed.store, relay, "people", "acme"))
    town = Town(folder, office, acme, feed)
    town.collect(acme)
    return town
