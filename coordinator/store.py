"""What the coordinator keeps: members, invites, waiting letters, campaigns. One SQLite file, every commit on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError

from tidegate.protocols.channel import ConfigError

from .campaigns import Campaign, Commit, Step

_META = sa.MetaData()

_MEMBERS = sa.Table(
    "members",
    _META,
    sa.Column("party", sa.String, primary_key=True),
    sa.Column("identity", sa.LargeBinary, nullable=False),  # Ed25519 public key
    sa.Column("certificate", sa.LargeBinary, nullable=False),  # SHA-256 of the client certificate
    sa.Column("software", sa.String, nullable=False),
    sa.Column("joined_s", sa.Integer, nullable=False),
    sa.Column("seen_s", sa.Integer, nullable=False),
    sa.Column("here", sa.Boolean, nullable=False),
)
_INVITES = sa.Table(
    "invites",
    _META,
    sa.Column("secret", sa.LargeBinary, primary_key=True),  # SHA-256 of the secret
    sa.Column("party", sa.String, nullable=False),
    sa.Column("expires_s", sa.Integer, nullable=False),
    sa.Column("used_s", sa.Integer),
)
_LETTERS = sa.Table(
    "letters",
    _META,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("sender", sa.String, nullable=False),
    sa.Column("recipient", sa.String, nullable=False, index=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)
_CAMPAIGNS = sa.Table(
    "campaigns",
    _META,
    sa.Column("contract", sa.LargeBinary, primary_key=True),
    sa.Column("parties", sa.String, nullable=False),  # JSON list, proposer first
    sa.Column("steps", sa.String, nullable=False),  # JSON list of names
    sa.Column("expires_s", sa.Integer, nullable=False),
    sa.Column("filed_s", sa.Float, nullable=False),
    sa.Column("changed_s", sa.Float, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("by", sa.String, nullable=False),
)
# Beside the campaigns, so that a file of an earlier version is read as it is: there all took part in every step.
_STEPS = sa.Table(
    "steps",
    _META,
    sa.Column("contract", sa.LargeBinary, primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True),
    sa.Column("parties", sa.String, nullable=False),  # JSON list
    sa.Column("attempt", sa.Integer, nullable=False),
)
_SIGNATURES = sa.Table(
    "signatures",
    _META,
    sa.Column("contract", sa.LargeBinary, primary_key=True),
    sa.Column("party", sa.String, primary_key=True),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)
_RECEIPTS = sa.Table(
    "receipts",
    _META,
    sa.Column("contract", sa.LargeBinary, primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True),
    sa.Column("party", sa.String, primary_key=True),
    sa.Column("run", sa.LargeBinary, nullable=False),
    sa.Column("receipt", sa.LargeBinary, nullable=False),
)
_PLAIN = ("contract", "expires_s", "filed_s", "changed_s", "state", "step", "attempt", "reason", "by")


@dataclass(frozen=True)
class Member:
    """A party that has joined. `certificate` is the SHA-256 of the one client certificate it may call with."""

    party: str
    identity: bytes
    certificate: bytes
    software: str
    joined_s: int
    seen_s: int
    here: bool


@dataclass(frozen=True)
class Letter:
    """A sealed letter that waits for its recipient."""

    id: bytes
    sender: str
    recipient: str
    sealed: bytes


class Store:
    """Every call is one transaction. Raises ConfigError when the disk does not take it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # SQLite gives its side files the same rights. A file that is there is not opened: closing it would drop
            # every lock that SQLite holds on it in this process, and another process could write in between.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise ConfigError(f"cannot open {path}: {error.strerror}", "check the rights of the folder") from None
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 10})
        sa.event.listen(self._engine, "connect", _durable)
        with self._writing() as connection:
            _META.create_all(connection)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            hint = "free some space or check the rights of the folder, then start the coordinator again"
            raise ConfigError(f"cannot write to {self._path}: {error.orig}", hint) from None

    def _rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with self._writing() as connection:
            return connection.execute(query).all()

    # Members and invites

    def add_invite(self, secret_hash: bytes, party: str, expires_s: int) -> None:
        with self._writing() as connection:
            connection.execute(_INVITES.insert().values(secret=secret_hash, party=party, expires_s=expires_s))

    def invite(self, secret_hash: bytes) -> tuple[str, int, bool] | None:
        """Its party, its expiry and whether it was used; None for one that was never made."""
        rows = self._rows(sa.select(_INVITES).where(_INVITES.c.secret == secret_hash))
        return (rows[0].party, rows[0].expires_s, rows[0].used_s is not None) if rows else None

    def open_invites(self) -> list[tuple[str, int]]:
        """Party and expiry of the invites that nobody has used yet."""
        query = sa.select(_INVITES.c.party, _INVITES.c.expires_s).where(_INVITES.c.used_s.is_(None))
        return [(row.party, row.expires_s) for row in self._rows(query.order_by(_INVITES.c.expires_s))]

    def use_invite(self, secret_hash: bytes, member: Member) -> bool:
        """Adds or replaces the member and uses the invite up, both or neither. False: it was used already.

        With it end the party's other invites that are out: whoever finds one must not take the member's place.
        """
        values = vars(member)
        with self._writing() as connection:
            used = connection.execute(
                _INVITES.update()
                .where(_INVITES.c.secret == secret_hash, _INVITES.c.used_s.is_(None))
                .values(used_s=member.joined_s)
            )
            if used.rowcount != 1:
                return False
            others = (_INVITES.c.party == member.party) & _INVITES.c.used_s.is_(None)
            connection.execute(_INVITES.update().where(others).values(used_s=member.joined_s))
            connection.execute(
                insert(_MEMBERS).values(values).on_conflict_do_update(index_elements=["party"], set_=values)
            )
        return True

    def member(self, party: str) -> Member | None:
        rows = self._rows(sa.select(_MEMBERS).where(_MEMBERS.c.party == party))
        return Member(**rows[0]._asdict()) if rows else None

    def members(self) -> list[Member]:
        return [Member(**row._asdict()) for row in self._rows(sa.select(_MEMBERS).order_by(_MEMBERS.c.party))]

    def set_here(self, party: str, here: bool, software: str, now_s: int) -> None:
        with self._writing() as connection:
            values = {"here": here, "seen_s": now_s} | ({"software": software} if software else {})
            connection.execute(_MEMBERS.update().where(_MEMBERS.c.party == party).values(values))

    def nobody_is_here(self) -> None:
        with self._writing() as connection:
            connection.execute(_MEMBERS.update().values(here=False))

    # Letters

    def post(self, letters: Iterable[Letter], most_waiting: int) -> str:
        """Keeps all of them or none. The name of a recipient for whom too many of one sender's wait, or nothing.

        Counted by sender, so that none can shut a recipient's box to the others.
        """
        with self._writing() as connection:
            for letter in letters:
                kept = connection.execute(insert(_LETTERS).values(vars(letter)).on_conflict_do_nothing(["id"]))
                between = (_LETTERS.c.recipient == letter.recipient) & (_LETTERS.c.sender == letter.sender)
                waiting = sa.select(sa.func.count()).where(between)
                if kept.rowcount and connection.execute(waiting).scalar_one() > most_waiting:
                    connection.rollback()
                    return letter.recipient
        return ""

    def collect(self, recipient: str, kept: Sequence[bytes], most_bytes: int) -> list[Letter]:
        """Forgets the letters that the recipient keeps itself, and gives the oldest others."""
        chosen: list[Letter] = []
        with self._writing() as connection:
            if kept:
                mine = _LETTERS.c.recipient == recipient
                connection.execute(_LETTERS.delete().where(mine, _LETTERS.c.id.in_(kept)))
            query = sa.select(_LETTERS).where(_LETTERS.c.recipient == recipient).order_by(_LETTERS.c.seq)
            for row in connection.execute(query.execution_options(yield_per=8)):
                most_bytes -= len(row.sealed) + 256
                if chosen and most_bytes < 0:
                    break
                chosen.append(Letter(row.id, row.sender, row.recipient, row.sealed))
        return chosen

    def has_letters(self, recipient: str) -> bool:
        return bool(self._rows(sa.select(_LETTERS.c.seq).where(_LETTERS.c.recipient == recipient).limit(1)))

    # Campaigns

    def save(self, campaigns: Iterable[Campaign]) -> None:
        """All of them in one transaction. Signatures and receipts are only ever added."""
        with self._writing() as connection:
            for campaign in campaigns:
                values = {name: getattr(campaign, name) for name in _PLAIN}
                names = [step.name for step in campaign.steps]
                values |= {"parties": json.dumps(campaign.parties), "steps": json.dumps(names)}
                connection.execute(
                    insert(_CAMPAIGNS).values(values).on_conflict_do_update(index_elements=["contract"], set_=values)
                )
                for index, step in enumerate(campaign.steps):
                    row = {"contract": campaign.contract, "step": index}
                    row |= {"parties": json.dumps(step.parties), "attempt": step.attempt}
                    connection.execute(
                        insert(_STEPS).values(row).on_conflict_do_update(index_elements=["contract", "step"], set_=row)
                    )
                signed = [
                    {"contract": campaign.contract, "party": party, "signature": signature}
                    for party, signature in campaign.signatures.items()
                ]
                received = [
                    {
                        "contract": campaign.contract,
                        "step": index,
                        "party": party,
                        "run": step.commit.run,
                        "receipt": receipt,
                    }
                    for index, step in enumerate(campaign.steps)
                    if step.commit is not None
                    for party, receipt in step.commit.receipts.items()
                ]
                for table, rows in ((_SIGNATURES, signed), (_RECEIPTS, received)):
                    if rows:
                        connection.execute(insert(table).on_conflict_do_nothing(), rows)

    def campaigns(self) -> list[Campaign]:
        """All of them, the oldest first."""
        signatures: dict[bytes, dict[str, bytes]] = {}
        for row in self._rows(sa.select(_SIGNATURES)):
            signatures.setdefault(row.contract, {})[row.party] = row.signature
        commits: dict[tuple[bytes, int], Commit] = {}
        for row in self._rows(sa.select(_RECEIPTS)):
            commits.setdefault((row.contract, row.step), Commit(row.run, {})).receipts[row.party] = row.receipt
        kept = {(row.contract, row.step): row for row in self._rows(sa.select(_STEPS))}
        found = []
        for row in self._rows(sa.select(_CAMPAIGNS).order_by(_CAMPAIGNS.c.filed_s)):
            parties = tuple(json.loads(row.parties))
            steps = []
            for index, name in enumerate(json.loads(row.steps)):
                own = kept.get((row.contract, index))
                attempt = row.attempt if index == row.step else 0
                step = Step(name, parties, attempt) if own is None else Step(name, _names(own.parties), own.attempt)
                step.commit = commits.get((row.contract, index))
                if index == row.step and row.state == "waiting":
                    step.reason, step.by = row.reason, row.by
                steps.append(step)
            plain = {name: getattr(row, name) for name in _PLAIN if name != "attempt"}
            signed = signatures.get(row.contract, {})
            found.append(Campaign(parties=parties, steps=tuple(steps), signatures=signed, **plain))
        return found


def _names(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _durable(connection: Any, _record: object) -> None:
    """A commit that was answered survives kill -9 and a power cut."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()
