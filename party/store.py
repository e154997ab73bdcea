"""What a party remembers: one SQLite file that survives kill -9 (WAL, synchronous=FULL).

The command line and the node use it at the same time. Every method is one transaction; what it returned is on disk.
Contracts are named by their 32-byte hash, runs by their 16 bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tidegate.protocols.channel import ConfigError, DisagreementError, PolicyError
from tidegate.wire.contract import Contract
from tidegate.wire.ending import PersonError

from .audit import START, Entry, link, verify

SCHEMA = 1
# signing: signatures are missing; waiting: a party is not there; the last five are final.
STATES = ("signing", "waiting", "running", "done", "failed", "refused", "cancelled", "expired")
FINAL = ("done", "failed", "refused", "cancelled", "expired")
ATTEMPTS = 3
# Fresh noise on the same answer tells more of it: of differential privacy each attempt spends its own part.
EACH_ATTEMPT = frozenset({"privacy"})


_tables = sa.MetaData()
_meta = sa.Table(
    "meta", _tables, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
_salts = sa.Table(
    "salts", _tables, sa.Column("digest", sa.Text, primary_key=True), sa.Column("salt", sa.LargeBinary, nullable=False)
)
_datasets = sa.Table(
    "datasets",
    _tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("commitment", sa.Text, nullable=False),
    sa.Column("added_s", sa.Integer, nullable=False),
)
_partners = sa.Table(
    "partners",
    _tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("identity", sa.LargeBinary, nullable=False),
    sa.Column("card", sa.LargeBinary, nullable=False),
    sa.Column("trusted_s", sa.Integer, nullable=False),
)
_offers = sa.Table(
    "offers",
    _tables,
    sa.Column("sent", sa.Boolean, primary_key=True),
    sa.Column("partner", sa.Text, primary_key=True),
    sa.Column("dataset", sa.Text, primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("at_s", sa.Integer, nullable=False),
)
_campaigns = sa.Table(
    "campaigns",
    _tables,
    sa.Column("hash", sa.LargeBinary, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("contract", sa.LargeBinary, nullable=False),
    sa.Column("proposer", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("added_s", sa.Integer, nullable=False),
    sa.Column("changed_s", sa.Integer, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
)
_signatures = sa.Table(
    "signatures",
    _tables,
    sa.Column("contract", sa.LargeBinary, primary_key=True),
    sa.Column("party", sa.Text, primary_key=True),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)
_runs = sa.Table(
    "runs",
    _tables,
    sa.Column("run", sa.LargeBinary, primary_key=True),
    sa.Column("contract", sa.LargeBinary, nullable=False, index=True),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("receipt", sa.LargeBinary, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("sent", sa.Integer, nullable=False),
    sa.Column("received", sa.Integer, nullable=False),
    sa.Column("started_s", sa.Integer, nullable=False),
)
# A step's result counts once: a second commit of the same step is refused by the index, whatever the code does.
sa.Index("one_commit", _runs.c.contract, _runs.c.step, unique=True, sqlite_where=_runs.c.state == "committed")
_events = sa.Table(
    "events",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("contract", sa.LargeBinary, nullable=False, index=True),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("at_s", sa.Float, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)
_charges = sa.Table(
    "charges",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("digest", sa.Text, nullable=False, index=True),
    sa.Column("partner", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("amount", sa.Integer, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("run", sa.LargeBinary, nullable=False),
    sa.Column("at_s", sa.Integer, nullable=False),
)
_renewals = sa.Table(
    "renewals",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("contract", sa.LargeBinary, nullable=False, index=True),
    sa.Column("at_s", sa.Integer, nullable=False),
)
_letters = sa.Table(
    "letters",
    _tables,
    sa.Column("id", sa.LargeBinary, primary_key=True),
    sa.Column("sender", sa.Text, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("at_s", sa.Integer, nullable=False),
)
_audit = sa.Table(
    "audit", _tables, sa.Column("seq", sa.Integer, primary_key=True), sa.Column("line", sa.Text, nullable=False)
)


@dataclass(frozen=True)
class Dataset:
    """A registered file. `digest` is its SHA-256 (hex) and stays here; `commitment` is the salted one that others see.

    `keys` says which column holds which kind of identifier, `given` the form ("sha256", "md5") of those that hold
    digests; `columns` is what `describe` saw.
    """

    name: str
    path: Path
    keys: dict[str, str]
    region: str
    duplicates: str
    rows: int
    digest: str = field(repr=False)
    salt: bytes = field(repr=False)
    commitment: str
    columns: list[dict[str, Any]]
    added_s: int
    given: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Partner:
    """Another party whose card was trusted here. `card` is the card's text, `identity` its Ed25519 public key."""

    name: str
    identity: bytes
    card: bytes
    trusted_s: int


@dataclass(frozen=True)
class Offer:
    """A data set that a partner showed us (or, where it was sent, that we showed to it): columns, never rows.

    `given` is the form ("sha256", "md5") of each kind among `keys` that its owner has as digests alone.
    """

    partner: str
    dataset: str
    rows: int
    commitment: str
    keys: list[str]
    columns: list[dict[str, Any]]
    at_s: int
    given: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Campaign:
    """A contract with what this party knows about it."""

    hash: bytes
    name: str
    contract_bytes: bytes
    proposer: str
    state: str
    reason: str
    by: str
    added_s: int
    changed_s: int

    @property
    def short(self) -> str:
        return self.hash.hex()[:12]

    @property
    def contract(self) -> Contract:
        """Read anew from its bytes. DisagreementError when this version cannot read it, or they were changed."""
        if hashlib.sha256(self.contract_bytes).digest() != self.hash:
            raise DisagreementError(
                f"the contract of {self.name} in the store is not the one that was signed",
                "somebody changed store.db: restore it from a backup, or have the campaign proposed again",
            )
        return Contract.from_bytes(self.contract_bytes)


@dataclass(frozen=True)
class Run:
    """One attempt at one step. state: started, prepared (staged, receipt made), committed, failed."""

    run: bytes
    contract: bytes
    step: int
    attempt: int
    state: str
    receipt: bytes
    reason: str
    error: str
    seconds: float
    sent: int
    received: int
    started_s: int


@dataclass(frozen=True)
class Event:
    """A line of progress, for people who watch."""

    id: int
    step: int
    at_s: float
    text: str


@dataclass(frozen=True)
class Charge:
    """What was spent of a budget: `amount` of `kind` on one file (its digest) towards one partner."""

    digest: str
    partner: str
    kind: str
    amount: int
    attempts: int


@dataclass(frozen=True)
class Letter:
    """A letter that could not be filed: from a party whose card is not trusted here, or one that does not verify."""

    id: bytes
    sender: str
    sealed: bytes
    note: str
    at_s: int


class Store:
    """`Store(HOME/store.db)` opens or makes it. `now_s` is the clock; tests pass their own."""

    def __init__(self, path: Path, now_s: Callable[[], float] = time.time) -> None:
        self.path, self._now_s = path, now_s
        try:
            # SQLite gives its side files the same rights. A file that is there is not opened: closing it would drop
            # every lock that SQLite holds on it in this process, and another process could write in between.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise self._unusable(error.strerror) from None
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        sa.event.listen(self._engine, "connect", _prepare)
        sa.event.listen(self._engine, "begin", _begin)
        with self._write() as db:
            _tables.create_all(db)
            found = db.execute(sa.select(_meta.c.value).where(_meta.c.key == "schema")).scalar()
            if found is None:
                db.execute(_meta.insert().values(key="schema", value=str(SCHEMA)))
            elif found != str(SCHEMA):
                raise ConfigError(
                    f"{path} was written by another version: schema {found}, this version reads {SCHEMA}",
                    "use the version of tidegate that wrote it",
                )
        path.chmod(0o600)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._errors(), self._engine.connect().execution_options(tidegate_write=True) as db, db.begin():
            yield db

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with self._errors(), self._engine.connect() as db:
            yield db

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            if isinstance(error, sa.exc.IntegrityError):
                raise
            raise self._unusable(error.orig) from None

    def _unusable(self, why: object) -> PersonError:
        if any(words in str(why) for words in ("disk is full", "disk I/O error", "No space left")):
            return PersonError(
                f"the disk takes no more: {self.path} cannot be written",
                "free some space, then start the node again; nothing that was finished is lost",
            )
        hint = "check who owns the file, free some disk space, and run `tidegate doctor`"
        return PersonError(f"the store {self.path} cannot be used: {why}", hint)

    def _time_s(self) -> int:
        return int(self._now_s())

    # Data sets

    def salt_for(self, digest: str, fresh: bytes) -> bytes:
        """The salt that goes into the commitment of a file: `fresh` at first, the same for ever after.

        A file that is registered twice keeps its commitment, so that registering it anew does not clear its budgets.
        """
        with self._write() as db:
            kept = db.execute(sa.select(_salts.c.salt).where(_salts.c.digest == digest)).scalar()
            if kept is not None:
                return bytes(kept)
            db.execute(_salts.insert().values(digest=digest, salt=fresh))
            return fresh

    def add_dataset(self, dataset: Dataset) -> None:
        """Registers a data set; one of the same name is replaced."""
        body = json.dumps(
            {
                "keys": dataset.keys,
                "given": dataset.given,
                "region": dataset.region,
                "duplicates": dataset.duplicates,
                "digest": dataset.digest,
                "columns": dataset.columns,
            }
        )
        row = {
            "name": dataset.name,
            "path": str(dataset.path),
            "body": body,
            "rows": dataset.rows,
            "salt": dataset.salt,
            "commitment": dataset.commitment,
            "added_s": dataset.added_s,
        }
        with self._write() as db:
            db.execute(_datasets.delete().where(_datasets.c.name == dataset.name))
            db.execute(_datasets.insert().values(**row))
            self._append(db, "data set registered", "", {"name": dataset.name, "commitment": dataset.commitment})

    def datasets(self) -> list[Dataset]:
        with self._read() as db:
            return [_dataset(row) for row in db.execute(sa.select(_datasets).order_by(_datasets.c.name))]

    def dataset(self, name: str) -> Dataset:
        """The registered data set, or ConfigError."""
        with self._read() as db:
            row = db.execute(sa.select(_datasets).where(_datasets.c.name == name)).first()
        if row is None:
            names = ", ".join(dataset.name for dataset in self.datasets()) or "none yet"
            raise ConfigError(
                f"no data set {name!r} is registered here (registered: {names})",
                "register it with `tidegate party data add`",
            )
        return _dataset(row)

    # Partners

    def trust(self, name: str, identity: bytes, card: bytes) -> None:
        """Pins a partner's card. One with another identity key is not replaced: ConfigError."""
        with self._write() as db:
            known = db.execute(sa.select(_partners.c.identity).where(_partners.c.name == name)).scalar()
            if known is not None and bytes(known) != identity:
                raise ConfigError(
                    f"the card of {name} has another identity key than the one trusted here before",
                    f"call {name}; if it really has a new key, `tidegate party distrust {name}` first",
                )
            db.execute(_partners.delete().where(_partners.c.name == name))
            db.execute(_partners.insert().values(name=name, identity=identity, card=card, trusted_s=self._time_s()))
            self._append(db, "card trusted", "", {"party": name, "identity": identity.hex()})

    def distrust(self, name: str) -> None:
        """Forgets a partner's card and what it offered. ConfigError if it is not trusted."""
        with self._write() as db:
            if db.execute(_partners.delete().where(_partners.c.name == name)).rowcount == 0:
                raise ConfigError(f"no card of {name!r} is trusted here", "`tidegate party partners` lists them")
            db.execute(_offers.delete().where(_offers.c.partner == name))
            self._append(db, "card no longer trusted", "", {"party": name})

    def partner(self, name: str) -> Partner | None:
        with self._read() as db:
            row = db.execute(sa.select(_partners).where(_partners.c.name == name)).first()
        return _partner(row) if row else None

    def partners(self) -> list[Partner]:
        with self._read() as db:
            return [_partner(row) for row in db.execute(sa.select(_partners).order_by(_partners.c.name))]

    # Offers

    def put_offer(self, offer: Offer, *, sent: bool) -> None:
        """Keeps an offer of a data set; an earlier one of the same data set is replaced."""
        body = json.dumps(
            {
                "rows": offer.rows,
                "commitment": offer.commitment,
                "keys": offer.keys,
                "given": offer.given,
                "columns": offer.columns,
            }
        )
        same = (_offers.c.sent == sent) & (_offers.c.partner == offer.partner) & (_offers.c.dataset == offer.dataset)
        with self._write() as db:
            db.execute(_offers.delete().where(same))
            db.execute(
                _offers.insert().values(
                    sent=sent, partner=offer.partner, dataset=offer.dataset, body=body, at_s=offer.at_s
                )
            )
            event = "data set offered" if sent else "offer received"
            self._append(
                db, event, "", {"partner": offer.partner, "dataset": offer.dataset, "commitment": offer.commitment}
            )

    def offers(self, *, sent: bool) -> list[Offer]:
        """The offers we received, or those we sent."""
        query = sa.select(_offers).where(_offers.c.sent == sent).order_by(_offers.c.partner, _offers.c.dataset)
        with self._read() as db:
            return [_offer(row) for row in db.execute(query)]

    def offer(self, partner: str, dataset: str, *, sent: bool) -> Offer | None:
        found = [offer for offer in self.offers(sent=sent) if (offer.partner, offer.dataset) == (partner, dataset)]
        return found[0] if found else None

    # Campaigns

    def put_campaign(self, contract: Contract, proposer: str) -> bool:
        """Keeps a contract in state `signing`; False if it was known already."""
        now_s = self._time_s()
        with self._write() as db:
            known = [bytes(row.hash) for row in db.execute(sa.select(_campaigns.c.hash))]
            if contract.hash in known:
                return False
            # Folders have the first digits of a contract's hash, and a proposer can search for two that share them.
            if any(other.hex().startswith(contract.short) for other in known):
                raise DisagreementError(
                    f"the contract's number {contract.short} is that of another campaign", "have it proposed again"
                )
            number = db.execute(sa.select(sa.func.coalesce(sa.func.max(_campaigns.c.number), 0))).scalar_one() + 1
            db.execute(
                _campaigns.insert().values(
                    hash=contract.hash,
                    name=contract.campaign,
                    contract=contract.to_bytes(),
                    proposer=proposer,
                    state="signing",
                    reason="",
                    by="",
                    added_s=now_s,
                    changed_s=now_s,
                    number=number,
                )
            )
            self._append(
                db, "contract received", contract.hash.hex(), {"campaign": contract.campaign, "proposer": proposer}
            )
        return True

    def campaigns(self) -> list[Campaign]:
        """All, the newest last."""
        with self._read() as db:
            return [_campaign(row) for row in db.execute(sa.select(_campaigns).order_by(_campaigns.c.number))]

    def campaign(self, ref: str | bytes) -> Campaign:
        """By hash (bytes), by its first 6 or more hex digits, or the newest of a name. ConfigError if there is none."""
        query = sa.select(_campaigns).order_by(_campaigns.c.number.desc())
        with self._read() as db:
            rows = list(db.execute(query))
        if isinstance(ref, bytes):
            found = [row for row in rows if row.hash == ref]
        else:
            named = [row for row in rows if row.name == ref]
            still_open = [row for row in named if row.state not in FINAL]
            # Partners choose names: a second one may be meant to be taken for the first, or for another's number.
            found = still_open if len(still_open) > 1 else named[:1]
            if len(ref) >= 6:
                found += [row for row in rows if row.hash.hex().startswith(ref.lower()) and row not in found]
        if not found:
            shown = ref.hex()[:12] if isinstance(ref, bytes) else ref
            raise ConfigError(f"no campaign {shown!r} is known here", "`tidegate party campaigns` lists them")
        if len(found) > 1:
            numbers = ", ".join(row.hash.hex()[:16] for row in found)
            raise ConfigError(f"{ref!r} may be any of {len(found)} campaigns", f"give one's number: {numbers}")
        return _campaign(found[0])

    def set_state(self, contract: bytes, state: str, reason: str = "", by: str = "") -> bool:
        """Notes a campaign's state; True if that changed anything. A final state stays."""
        if state not in STATES:
            raise ValueError(f"{state!r} is no state of a campaign")
        with self._write() as db:
            row = db.execute(sa.select(_campaigns).where(_campaigns.c.hash == contract)).first()
            if row is None or row.state in FINAL or (row.state, row.reason, row.by) == (state, reason, by):
                return False
            db.execute(
                _campaigns.update()
                .where(_campaigns.c.hash == contract)
                .values(state=state, reason=reason, by=by, changed_s=self._time_s())
            )
            if state != row.state:
                self._append(db, f"campaign {state}", contract.hex(), {"reason": reason, "by": by})
        return True

    def add_signature(self, contract: bytes, party: str, signature: bytes) -> None:
        """Keeps a signature that the caller has verified."""
        with self._write() as db:
            known = (_signatures.c.contract == contract) & (_signatures.c.party == party)
            if db.execute(sa.select(_signatures).where(known)).first():
                return
            db.execute(_signatures.insert().values(contract=contract, party=party, signature=signature))
            self._append(db, "signature", contract.hex(), {"party": party, "signature": signature.hex()})

    def signatures(self, contract: bytes) -> dict[str, bytes]:
        """Party name -> signature."""
        with self._read() as db:
            rows = db.execute(sa.select(_signatures).where(_signatures.c.contract == contract))
            return {row.party: bytes(row.signature) for row in rows}

    # Runs

    def start_run(self, contract: bytes, step: int, run: bytes, attempt: int) -> None:
        """Notes a run before its worker starts. ValueError when this run is known already: ids are never used twice."""
        with self._write() as db:
            if db.execute(sa.select(_runs.c.run).where(_runs.c.run == run)).first():
                raise ValueError("a run of this id was started before")
            db.execute(
                _runs.insert().values(
                    run=run,
                    contract=contract,
                    step=step,
                    attempt=attempt,
                    state="started",
                    receipt=b"",
                    reason="",
                    error="",
                    seconds=0.0,
                    sent=0,
                    received=0,
                    started_s=self._time_s(),
                )
            )
            self._append(db, "run started", contract.hex(), {"step": step, "run": run.hex(), "attempt": attempt})

    def end_run(
        self,
        run: bytes,
        state: str,
        *,
        receipt: bytes = b"",
        reason: str = "",
        error: str = "",
        seconds: float = 0.0,
        sent: int = 0,
        received: int = 0,
    ) -> bool:
        """started -> prepared -> committed, or either -> failed; True if that changed anything.

        Arguments left out keep their value. A committed run stays committed; a step is committed once.
        """
        given: dict[str, Any] = {"receipt": receipt, "reason": reason, "error": error}
        given |= {"seconds": seconds, "sent": sent, "received": received}
        with self._write() as db:
            row = db.execute(sa.select(_runs).where(_runs.c.run == run)).first()
            if row is None:
                raise ConfigError("a run ended that was never started here", "start the node again")
            allowed = {"prepared": ("started",), "committed": ("prepared",), "failed": ("started", "prepared")}
            if row.state not in allowed[state]:
                return False
            values = {name: value for name, value in given.items() if value}
            db.execute(_runs.update().where(_runs.c.run == run).values(state=state, **values))
            detail = {"step": row.step, "run": run.hex()} | (
                {"error": error, "reason": reason} if state == "failed" else {}
            )
            if receipt:
                detail["receipt"] = receipt.hex()
            self._append(db, f"run {state}", row.contract.hex(), detail)
        return True

    def run(self, run: bytes) -> Run | None:
        with self._read() as db:
            row = db.execute(sa.select(_runs).where(_runs.c.run == run)).first()
        return Run(*row) if row else None

    def runs(self, contract: bytes | None = None) -> list[Run]:
        """The runs of a contract (or all), oldest first."""
        query = sa.select(_runs).order_by(sa.literal_column("rowid"))
        if contract is not None:
            query = query.where(_runs.c.contract == contract)
        with self._read() as db:
            return [Run(*row) for row in db.execute(query)]

    def committed_run(self, contract: bytes, step: int) -> bytes | None:
        """The run whose result stands for this step."""
        wanted = (_runs.c.contract == contract) & (_runs.c.step == step) & (_runs.c.state == "committed")
        with self._read() as db:
            run = db.execute(sa.select(_runs.c.run).where(wanted)).scalar()
        return bytes(run) if run is not None else None

    # Progress

    def add_event(self, contract: bytes, step: int, text: str) -> None:
        with self._write() as db:
            db.execute(_events.insert().values(contract=contract, step=step, at_s=float(self._now_s()), text=text))

    def events(self, contract: bytes, after_id: int = 0) -> list[Event]:
        """Oldest first; give the last id that you have seen."""
        query = (
            sa.select(_events.c.id, _events.c.step, _events.c.at_s, _events.c.text)
            .where((_events.c.contract == contract) & (_events.c.id > after_id))
            .order_by(_events.c.id)
        )
        with self._read() as db:
            return [Event(*row) for row in db.execute(query)]

    # Budgets

    def charge(
        self, digest: str, partner: str, kind: str, amount: int, limit: int, contract: bytes, run: bytes
    ) -> None:
        """Spends `amount` of the budget `kind` of a file (its digest) towards a partner, before the answer is sent.

        PolicyError when that would pass `limit`, and then nothing is spent. Runs are attempts at one answer: those of
        the same step of the same contract spend the budget once, as much as the most expensive of them, but each its
        own part of one in `EACH_ATTEMPT`. After three of them PersonError, until a person agrees to three more
        (`renew`).
        """
        if amount < 1:
            raise ValueError("a charge is at least 1")
        with self._write() as db:
            step = db.execute(sa.select(_runs.c.step).where(_runs.c.run == run)).scalar()
            answer = f"{contract.hex()}/{step}"
            before = self._spent(db, digest, partner, kind)
            attempts = before.setdefault(answer, {})
            attempts[run] = attempts.get(run, 0) + amount
            agreed = sa.select(sa.func.count()).where(_renewals.c.contract == contract)
            if len(attempts) > ATTEMPTS * (1 + db.execute(agreed).scalar_one()):
                raise PersonError(
                    f"this step was answered {len(attempts) - 1} times without an end; each tells {partner} a little",
                    f"find out why it ends early, then allow {ATTEMPTS} more: `tidegate party retry CAMPAIGN`",
                )
            total = _total(kind, before)
            if total > limit:
                raise PolicyError(
                    f"the budget of this data set towards {partner} is spent: {kind} would reach {total} of {limit}",
                    "newer data has a new budget; `tidegate party budget` shows what was spent on this one",
                )
            db.execute(
                _charges.insert().values(
                    digest=digest,
                    partner=partner,
                    kind=kind,
                    amount=amount,
                    answer=answer,
                    run=run,
                    at_s=self._time_s(),
                )
            )
            self._append(
                db,
                "budget charged",
                contract.hex(),
                {"kind": kind, "amount": amount, "partner": partner, "total": total},
            )

    def check_room(
        self, digest: str, partner: str, kind: str, amount: int, limit: int, contract: bytes, step: int
    ) -> None:
        """PolicyError unless a step may still spend `amount` of a budget; asked before it answers anything.

        What earlier attempts at the same step have spent counts as its own.
        """
        with self._read() as db:
            before = self._spent(db, digest, partner, kind)
        before.pop(f"{contract.hex()}/{step}", None)
        left = max(0, limit - _total(kind, before))
        if amount > left:
            raise PolicyError(
                f"the budget of this data set towards {partner} has {left} of {limit} {kind} left, "
                f"this campaign may need {amount}",
                "ask for fewer; newer data has a new budget, and `tidegate party budget` shows what was spent on this",
            )

    def renew(self, contract: bytes) -> None:
        """Notes that a person agrees to three more attempts at each step of this contract."""
        with self._write() as db:
            db.execute(_renewals.insert().values(contract=contract, at_s=self._time_s()))
            self._append(db, "further attempts agreed", contract.hex(), {"attempts": ATTEMPTS})

    def renewals(self) -> int:
        """How often a person agreed to further attempts, of all contracts: changes when one does."""
        with self._read() as db:
            return db.execute(sa.select(sa.func.count()).select_from(_renewals)).scalar_one()

    def charges(self) -> list[Charge]:
        """What was spent, per data set, partner and kind."""
        with self._read() as db:
            triples = db.execute(sa.select(_charges.c.digest, _charges.c.partner, _charges.c.kind).distinct()).all()
            found = []
            for digest, partner, kind in triples:
                answers = self._spent(db, digest, partner, kind)
                attempts = max(len(runs) for runs in answers.values())
                found.append(Charge(digest, partner, kind, _total(kind, answers), attempts))
            return sorted(found, key=lambda charge: (charge.digest, charge.partner, charge.kind))

    def spent(self, digest: str, partner: str, kind: str) -> int:
        """What was spent of one budget."""
        with self._read() as db:
            return _total(kind, self._spent(db, digest, partner, kind))

    def _spent(self, db: sa.Connection, digest: str, partner: str, kind: str) -> dict[str, dict[bytes, int]]:
        """answer -> run -> amount."""
        of = (_charges.c.digest == digest) & (_charges.c.partner == partner) & (_charges.c.kind == kind)
        spent: dict[str, dict[bytes, int]] = {}
        for row in db.execute(sa.select(_charges).where(of)):
            runs = spent.setdefault(row.answer, {})
            runs[bytes(row.run)] = runs.get(bytes(row.run), 0) + row.amount
        return spent

    # Letters

    def has_letter(self, letter: bytes) -> bool:
        """Whether this letter was filed or set aside already."""
        with self._read() as db:
            return db.execute(sa.select(_letters.c.id).where(_letters.c.id == letter)).first() is not None

    def file_letter(self, letter: bytes, sender: str) -> None:
        """Notes that a letter was read and acted on; its text is not kept."""
        self._put_letter(letter, sender, b"", "filed", "")

    def set_letter_aside(self, letter: bytes, sender: str, sealed: bytes, note: str) -> None:
        """Keeps a letter that cannot be filed yet, with the reason."""
        self._put_letter(letter, sender, sealed, "aside", note)

    def _put_letter(self, letter: bytes, sender: str, sealed: bytes, state: str, note: str) -> None:
        with self._write() as db:
            db.execute(_letters.delete().where(_letters.c.id == letter))
            db.execute(
                _letters.insert().values(
                    id=letter, sender=sender, sealed=sealed, state=state, note=note, at_s=self._time_s()
                )
            )

    def letters_aside(self) -> list[Letter]:
        query = sa.select(_letters).where(_letters.c.state == "aside").order_by(_letters.c.at_s)
        with self._read() as db:
            return [
                Letter(bytes(row.id), row.sender, bytes(row.sealed), row.note, row.at_s) for row in db.execute(query)
            ]

    # Audit

    def audit(self, event: str, contract: bytes = b"", **detail: Any) -> None:
        """Appends to the audit trail. Details are short texts and integers: names, digests, amounts, never data."""
        with self._write() as db:
            self._append(db, event, contract.hex(), detail)

    def audit_trail(self, expected: str | None = None) -> list[Entry]:
        """The verified trail. DisagreementError if it was changed."""
        with self._read() as db:
            lines = [row.line for row in db.execute(sa.select(_audit.c.line).order_by(_audit.c.seq))]
            head = db.execute(sa.select(_meta.c.value).where(_meta.c.key == "audit_head")).scalar()
        return verify(lines, head or START, expected)

    def _append(self, db: sa.Connection, event: str, contract: str, detail: dict[str, Any]) -> None:
        seq = db.execute(sa.select(sa.func.coalesce(sa.func.max(_audit.c.seq), 0))).scalar_one() + 1
        head = db.execute(sa.select(_meta.c.value).where(_meta.c.key == "audit_head")).scalar()
        text, digest = link(seq, head or START, self._time_s(), event, contract, detail)
        db.execute(_audit.insert().values(seq=seq, line=text))
        if head is None:
            db.execute(_meta.insert().values(key="audit_head", value=digest))
        else:
            db.execute(_meta.update().where(_meta.c.key == "audit_head").values(value=digest))


def _prepare(connection: Any, _record: object) -> None:
    # The driver's own BEGIN is turned off: it begins too late and never IMMEDIATE, see _begin.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    # A writer takes the lock at once: what it reads inside stays true until it commits.
    writes = connection.get_execution_options().get("tidegate_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _total(kind: str, answers: dict[str, dict[bytes, int]]) -> int:
    """What a budget's charges come to; answers: the charges of each run, by the answer it attempts."""
    one_answer = sum if kind in EACH_ATTEMPT else max
    return sum(one_answer(runs.values()) for runs in answers.values() if runs)


def _dataset(row: Any) -> Dataset:
    body = json.loads(row.body)
    return Dataset(
        name=row.name,
        path=Path(row.path),
        keys=body["keys"],
        region=body["region"],
        duplicates=body["duplicates"],
        rows=row.rows,
        digest=body["digest"],
        salt=bytes(row.salt),
        commitment=row.commitment,
        columns=body["columns"],
        added_s=row.added_s,
        given=body.get("given", {}),  # what older versions wrote has none
    )


def _partner(row: Any) -> Partner:
    return Partner(row.name, bytes(row.identity), bytes(row.card), row.trusted_s)


def _offer(row: Any) -> Offer:
    body = json.loads(row.body)
    given = body.get("given", {})  # what older versions wrote has none
    return Offer(
        row.partner, row.dataset, body["rows"], body["commitment"], body["keys"], body["columns"], row.at_s, given
    )


def _campaign(row: Any) -> Campaign:
    return Campaign(
        bytes(row.hash),
        row.name,
        bytes(row.contract),
        row.proposer,
        row.state,
        row.reason,
        row.by,
        row.added_s,
        row.changed_s,
    )
