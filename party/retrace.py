"""What an auditor needs to derive the brand's part of a run again, and doing so.

A media cannot see what the brand encrypts. Where a contract asks for an audit, the brand's worker keeps, beside the
result of each step, the seed that all of the run's randomness comes from and every message it received. `retrace` plays
the brand's role again, on the data set that the contract commits to, with that seed and those messages: every key and
ciphertext that it sends must come out as it was sent, which the digest in the receipts says. A brand that had encrypted
something else than the protocol's vectors, or with a key that was not made as it should, would need a seed under which
the honest role gives the same ciphertexts: it would have to invert AES.

The auditor works where the data lie, with tidegate of the contract's version; it sees the seed, which opens what the
media sent, so nothing new to the brand. Rounding of sums may differ between machines of other kinds: a run is retraced
on the machine that made it, or one like it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tidegate.protocols.catalog import CATALOG
from tidegate.protocols.channel import Channel, ConfigError, DisagreementError, M, Message
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire import pairs
from tidegate.wire.contract import Contract, Step
from tidegate.wire.identity import SIGNATURE_BYTES
from tidegate.wire.session import Session, Transcript

from .config import AUDIT_FOLDER, Home
from .data import table
from .job import IntArray, Job
from .steps import play
from .store import Campaign, Store

_SEED_BYTES = 32
# Files that differ between an attempt and its retracing by what they say of time, not of the result.
_NOT_COMPARED = frozenset({"facts.json", AUDIT_FOLDER})


@dataclass(frozen=True)
class Retraced:
    """A step whose messages came out as they were sent: how many, of how many bytes, and the digest of the receipts."""

    step: str
    messages: int
    sent_bytes: int
    digest: str


def is_retraced(step: Step) -> bool:
    """Whether the brand's part hangs on nothing but its data, the seed and what it receives.

    In a doctor step it draws noise of its own, sums may too, and epochs ask only for what was not asked for before.
    """
    return step.step not in ("doctor", "match") or CATALOG[step.protocol].mode in ("both", "brand", "size")


class Recorded:
    """A channel that keeps what it receives in a file, for `retrace`."""

    def __init__(self, channel: Channel, file: BinaryIO) -> None:
        self._channel, self._file = channel, file

    async def send(self, message: Message) -> None:
        await self._channel.send(message)

    async def recv(self, kind: type[M]) -> M:
        message = await self._channel.recv(kind)
        data = message.to_bytes()
        self._file.write(len(data).to_bytes(8, "little") + data)
        return message


class Keeping:
    """Keeps the seed of a run and what its sessions receive, where the contract asks for an audit of this party."""

    def __init__(self, contract: Contract, step: Step, role: str, staging: Path) -> None:
        self.wanted = contract.audit and role == "brand" and is_retraced(step)
        self.folder = staging / AUDIT_FOLDER
        self._open = contextlib.ExitStack()
        if self.wanted:
            self.folder.mkdir(mode=0o700)

    def randomness(self) -> Randomness:
        """The randomness of the run, from the system; its seed is on disk before it is used."""
        if not self.wanted:
            return Randomness.system()
        seed = os.urandom(_SEED_BYTES)
        (self.folder / "seed").write_bytes(seed)
        return Randomness(seed)

    def channel(self, session: Session, peer: str) -> Channel:
        if not self.wanted:
            return session
        (self.folder / f"{peer}.session").write_bytes(session.handshake)
        return Recorded(session, self._open.enter_context((self.folder / f"{peer}.received").open("wb")))

    def finish(self) -> None:
        self._open.close()


class _Replayed:
    """A channel that hands out recorded messages and hashes what would be said over it."""

    def __init__(self, recorded: bytes, transcript: Transcript, peer: str) -> None:
        self._recorded, self._at = memoryview(recorded), 0
        self.transcript, self._peer = transcript, peer
        self.messages = self.sent_bytes = 0

    async def send(self, message: Message) -> None:
        data = message.to_bytes()
        self.transcript.say(type(message).__name__, data)
        self.messages += 1
        self.sent_bytes += len(data)

    async def recv(self, kind: type[M]) -> M:
        length = int.from_bytes(self._recorded[self._at : self._at + 8], "little")
        data = bytes(self._recorded[self._at + 8 : self._at + 8 + length])
        if self._at + 8 > len(self._recorded) or len(data) != length:
            raise DisagreementError(
                f"the role asks {self._peer} for a {kind.__name__} that was not recorded",
                "the run was another one than the contract and the data set give",
            )
        self._at += 8 + length
        self.transcript.hear(kind.__name__, data)
        return kind.from_bytes(data)

    @property
    def is_over(self) -> bool:
        return self._at == len(self._recorded)


def retrace(home: Home, store: Store, campaign: Campaign) -> Iterator[Retraced]:
    """Derives the messages of each committed step of a campaign again, in order.

    Raises ConfigError where there is nothing to retrace, DisagreementError for what does not come out as it was.
    """
    contract = campaign.contract
    me = contract.party(home.name())
    if not contract.audit or me.role != "brand":
        raise ConfigError(
            f"campaign {campaign.name} keeps nothing that could be retraced here",
            "write audit = true under [campaign] before it is proposed; the brand's part is what is retraced",
        )
    registered = store.dataset(me.data.name)
    if table.commitment(registered.path, registered.salt) != me.data.commitment:
        raise DisagreementError(
            f"the file of data set {me.data.name} is not the one that the contract commits to",
            "put the file back as it was",
        )
    for index, step in enumerate(contract.steps):
        run = store.committed_run(campaign.hash, index)
        if run is None or not is_retraced(step):
            continue
        results = home.results(contract.short, step.name)
        known = store.run(run)
        if known is None or not (results / AUDIT_FOLDER / "seed").is_file():
            raise ConfigError(f"what step {step.name} has recorded is gone", "restore the folder from a backup")
        earlier = [
            before.name
            for number, before in enumerate(contract.steps[:index])
            if store.committed_run(campaign.hash, number)
            and set(contract.members(step)) >= set(contract.members(before))
        ]
        with tempfile.TemporaryDirectory(prefix=".retrace-", dir=home.path) as folder:
            peers = pairs.peers(contract.on_line(step), me.name)
            channels = {peer: _replayed(results / AUDIT_FOLDER, peer, first=me.name < peer) for peer in peers}
            job = Job(
                contract=contract,
                step=step,
                party=me.name,
                path=registered.path,
                keys=registered.keys,
                given=registered.given,
                region=registered.region or None,
                duplicates=registered.duplicates,
                earlier={name: home.results(contract.short, name) for name in earlier},
                staging=Path(folder),
                randomness=Randomness((results / AUDIT_FOLDER / "seed").read_bytes()),
                count_noise=_no_noise,
                charge=lambda _kind, _amount, _limit: None,
                tokens=home.tokens,
                campaigns=home.path / "campaigns",
                channels=dict(channels),
            )
            asyncio.run(play(job, channels[peers[0]]))
            yield _compared(step.name, results, Path(folder), channels, known.receipt)


def _replayed(kept: Path, peer: str, *, first: bool) -> _Replayed:
    received = (kept / f"{peer}.received").read_bytes()
    return _Replayed(received, Transcript((kept / f"{peer}.session").read_bytes(), first), peer)


def _no_noise(_n: int) -> IntArray:
    raise ConfigError("the brand's role draws noise, which cannot be retraced", "report this as a defect")


def _compared(step: str, results: Path, again: Path, channels: dict[str, _Replayed], made: bytes) -> Retraced:
    digest = b"".join(channel.transcript.digest() for channel in channels.values())
    said = made[: len(digest)]
    if len(made) != len(digest) + SIGNATURE_BYTES or said != digest:
        raise DisagreementError(
            f"step {step}: what the role sends is not what was sent: the receipts say {said.hex()[:16]}..., "
            f"derived again it is {digest.hex()[:16]}...",
            "the run did not follow the protocol, or this is another machine or version than made it",
        )
    if not all(channel.is_over for channel in channels.values()):
        raise DisagreementError(f"step {step}: more messages were recorded than the role asks for")
    for path in sorted(again.rglob("*")):
        name = path.relative_to(again)
        if path.is_file() and not _NOT_COMPARED & set(name.parts) and path.read_bytes() != _kept(results / name):
            raise DisagreementError(f"step {step}: the result {name} is not what the run gives", "restore it")
    return Retraced(
        step,
        sum(channel.messages for channel in channels.values()),
        sum(channel.sent_bytes for channel in channels.values()),
        digest.hex(),
    )


def _kept(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
