"""What a step may use, and a channel that spends budget before it answers. Knows no socket and no key."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidegate.protocols.channel import Channel, M, Message
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire.contract import Contract, Step

from .data import table

Facts = dict[str, Any]
IntArray = NDArray[np.int64]
Noise = Callable[[int], IntArray]


@dataclass(frozen=True)
class Job:
    """What a step may use: the contract, this party's data file, earlier results, where to put its own.

    keys: the column of each kind of identifier; given: the form of those that hold digests.
    tokens: where the tokens of epochs are kept; campaigns: the results of all campaigns; cache: what can be made again.
    channels: the line to each party that this one talks to, by name; where there is but one, the role gets it anyway.
    reserve: raises unless so much of a budget can still be charged; spent: what of it is spent.
    max_epsilon: this party's limit of differential privacy for all campaigns.
    run: the 16 bytes that name this attempt; sign: signs with this party's identity key.
    earlier: the folder of each committed step that this party and its peer both took part in, by the step's name.
    """

    contract: Contract
    step: Step
    party: str
    path: Path
    keys: dict[str, str]
    given: dict[str, str]
    region: str | None
    duplicates: str
    earlier: dict[str, Path]
    staging: Path
    randomness: Randomness
    count_noise: Noise
    charge: Callable[[str, int, int], None]
    tokens: Path = Path("tokens")
    campaigns: Path = Path("campaigns")
    cache: Path = Path("cache")
    channels: Mapping[str, Channel] = field(default_factory=dict)
    reserve: Callable[[str, int, int], None] = lambda _kind, _amount, _limit: None
    spent: Callable[[str], int] = lambda _kind: 0
    max_epsilon: float = 4.0
    run: bytes = bytes(16)
    sign: Callable[[bytes], bytes] = lambda _data: b""

    @property
    def role(self) -> str:
        return self.contract.party(self.party).role

    @property
    def peer(self) -> str:
        return self.contract.peer(self.party, self.step).name

    @cached_property
    def rows(self) -> pa.Table:
        """The whole table in memory: for steps that use most of its columns."""
        return table.read(self.path)

    def columns(self, names: Collection[str]) -> pa.Table:
        """Some columns of the table."""
        return pa.concat_tables(table.blocks(self.path, names, 2**20))


class Charged:
    """A channel that runs `charge` before the first message leaves: a budget is spent before its answer is sent."""

    def __init__(self, channel: Channel, charge: Callable[[], None]) -> None:
        self._channel, self._charge, self._charged = channel, charge, False
        self._asked_s = time.monotonic()

    async def send(self, message: Message) -> None:
        if not self._charged:
            self._charge()
            self._charged = True
        await self._channel.send(message)

    async def recv(self, kind: type[M]) -> M:
        message = await self._channel.recv(kind)
        if not self._charged:
            self._asked_s = time.monotonic()
        return message

    def seconds(self) -> float:
        """Since the last message came that was waited for before the first one left: how long the answer has taken."""
        return round(time.monotonic() - self._asked_s, 3)
