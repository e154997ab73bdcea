"""What the coordinator asks of its own worker. Apart from it, so that a coordinator starts without the protocols."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

from tidegate.wire.invite import Endpoint


@dataclass(frozen=True)
class Order:
    """Which run, with whom (names in the order of `wire.pairs`, and each party's identity key in hex), and the way."""

    home: str
    address: str
    ca: str
    certificate: str
    key: str
    contract: str
    step: int
    kind: str
    run: str
    members: list[str]
    identities: dict[str, str]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        return cls(**json.loads(line))

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.address, self.ca.encode(), self.certificate.encode(), self.key.encode())
