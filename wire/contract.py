"""The contract: a campaign in canonical bytes, which every party signs before anything runs.

Bytes are RFC 8785 (JSON Canonicalization Scheme); the contract's name is their SHA-256; a signature is Ed25519
(RFC 8032) over "tidegate contract v1" and that hash. A node runs nothing else than a contract signed by all.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

import rfc8785

from tidegate.protocols.catalog import CATALOG, Entry
from tidegate.protocols.channel import DisagreementError

from .pairs import COORDINATOR

VERSION = 4
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
ROLES = ("brand", "media")
CLIENT = "client"  # the role of everybody in a horizontal contract, in which all hold the same columns
LEAST_CLIENTS, MOST_PARTIES = 3, 64
KEY_KINDS = ("email", "phone", "device", "text")
KEY_PROFILES = ("plain", "google", "meta", "tiktok", "uid2", "tencent")
KEY_FORMS = ("clear", "sha256", "md5")
MAX_CONTRACT_BYTES = 512 * 1024
FURTHEST = 1e15  # no end of a range lies beyond
LATEST_S = 253_402_300_799  # the last second of the year 9999, after which no calendar can show it
_PROPOSE_AGAIN = "ask the proposer to propose it again"


@dataclass(frozen=True)
class DataSet:
    """A registered data set: its name at its party, its row count, the commitment to its bytes (hex)."""

    name: str
    rows: int
    commitment: str


@dataclass(frozen=True)
class ContractParty:
    """A party with its role, its pinned Ed25519 identity key (hex) and the data set it enters."""

    name: str
    role: str
    identity: str
    data: DataSet


@dataclass(frozen=True)
class Key:
    """A kind of identifier on which rows are matched; earlier ones take precedence.

    profile: whose rules spell it, one of KEY_PROFILES. form: what both sides enter, one of KEY_FORMS: the spelling
    itself, or its digest where a party has nothing else.
    """

    kind: str
    profile: str = "plain"
    form: str = "clear"


@dataclass(frozen=True)
class Label:
    """The brand's column that says who is a good customer, and which of its values means yes.

    weight: a column of numbers above 0, how much each row counts in training. seeds: there is no such column, everybody
    in the brand's data set is a good customer, and the media's other people stand for the rest.
    """

    column: str
    positive: str
    weight: str = ""
    seeds: bool = False


@dataclass(frozen=True)
class Holdout:
    """The matched rows kept out of training: those where `column` is `value`, or else a random share in percent."""

    column: str
    value: str
    percent: int


@dataclass(frozen=True)
class Step:
    """One step between the brand and a media, the catalogue entry that runs it, its settings.

    media: the name of the media; empty where the contract has only one, and in a joint step, in which all take part.
    Settings are integers and lists of integers.
    """

    step: str
    protocol: str
    settings: dict[str, int | list[int]]
    media: str = ""

    @property
    def name(self) -> str:
        """What the step is called within its contract: no two steps share it."""
        return f"{self.step}-{self.media}" if self.media else self.step


@dataclass(frozen=True)
class Total:
    """The column whose values are added up over the matched people; all empty where no step asks for a sum.

    role: whose column it is. A value counts in units of 10^-decimals, clipped to 0..cap units.
    """

    role: str = ""
    column: str = ""
    cap: int = 0
    decimals: int = 0


@dataclass(frozen=True)
class Privacy:
    """Differential privacy of training and insight: epsilon in thousandths, 0 without; delta is 10^-delta_exponent."""

    epsilon_milli: int = 0
    delta_exponent: int = 6


@dataclass(frozen=True)
class Outcome:
    """What became of an audience: the question of the step `measure`; all empty where there is none.

    campaign: the short name of the contract that made the audience; tier: its number among that step's audiences, from
    1. converted and positive: the brand's column that says who bought (empty: everybody in its data set); spend: its
    column of money, clipped to 0..cap in units of 10^-decimals; cost: what the campaign cost, in the same units.
    """

    campaign: str = ""
    tier: int = 0
    converted: str = ""
    positive: str = ""
    spend: str = ""
    cap: int = 0
    decimals: int = 0
    cost: int = 0


@dataclass(frozen=True)
class Range:
    """What the values of a column are agreed to lie between; others are cut to it. party: empty for everybody's."""

    party: str
    column: str
    low: float
    high: float


@dataclass(frozen=True)
class Guards:
    """Limits that every party signs; a party's own policy can only be stricter."""

    floor: int
    seeds: int
    train_steps: int
    count_noise: int
    score_levels: int


@dataclass(frozen=True)
class Contract:
    """Everything the parties agree on. Build it with `Contract(...)`, read a peer's with `from_bytes`.

    model: the short name of the contract whose trained models or segments are used, or from which training starts;
    else empty. helper: the identity key (hex) of the coordinator where it plays a part in a step, else empty. ranges:
    in which the columns lie that segments and horizontal steps use.
    audit: whether the brand keeps what an auditor needs to derive its part of each run again.
    """

    version: int
    software: str
    campaign: str
    nonce: str
    created_s: int
    expires_s: int
    parties: tuple[ContractParty, ...]
    keys: tuple[Key, ...]
    label: Label
    features: dict[str, tuple[str, ...]]
    holdout: Holdout
    steps: tuple[Step, ...]
    guards: Guards
    learns: dict[str, tuple[str, ...]]
    total: Total = Total()
    epoch: str = ""
    model: str = ""
    privacy: Privacy = Privacy()
    outcome: Outcome = Outcome()
    audit: bool = False
    helper: str = ""
    ranges: tuple[Range, ...] = ()

    def to_bytes(self) -> bytes:
        return rfc8785.dumps(asdict(self))

    @property
    def hash(self) -> bytes:
        return hashlib.sha256(self.to_bytes()).digest()

    @property
    def short(self) -> str:
        return self.hash.hex()[:12]

    def party(self, name: str) -> ContractParty:
        for party in self.parties:
            if party.name == name:
                return party
        raise DisagreementError(f"the contract of campaign {self.campaign} names no party {name!r}")

    def role(self, role: str) -> ContractParty:
        """The party that plays `role`, of several media the first."""
        return next(party for party in self.parties if party.role == role)

    @property
    def media(self) -> tuple[ContractParty, ...]:
        return tuple(party for party in self.parties if party.role == "media")

    @property
    def is_horizontal(self) -> bool:
        """Whether all parties hold the same columns of different people, instead of a brand and its media."""
        return self.parties[0].role == CLIENT

    def members(self, step: Step) -> tuple[ContractParty, ...]:
        """The brand and the media between which a step runs: one media, or in a joint step all, the lead first.

        In a horizontal contract everybody.
        """
        if self.is_horizontal:
            return self.parties
        return self.role("brand"), *((self.party(step.media),) if step.media else self.media)

    def on_line(self, step: Step) -> tuple[str, ...]:
        """The names of all that talk in a run of a step, in the order of `wire.pairs`; the coordinator if it does."""
        names = tuple(party.name for party in self.members(step))
        if not CATALOG[step.protocol].helper:
            return names
        return (COORDINATOR, *names) if self.is_horizontal else (*names, COORDINATOR)

    def key_of(self, name: str) -> bytes:
        """The identity key of a party, or of the coordinator where it plays a part."""
        return bytes.fromhex(self.helper if name == COORDINATOR else self.party(name).identity)

    def pair(self, step: Step) -> tuple[ContractParty, ContractParty]:
        """The brand and the media of a step, of a joint one the leading media."""
        brand, media, *_ = self.members(step)
        return brand, media

    def takes_part(self, name: str, step: Step) -> bool:
        return any(party.name == name for party in self.members(step))

    def peer(self, name: str, step: Step) -> ContractParty:
        """The other party of a step in which `name` takes part; in a joint one a media's is the brand, its the lead."""
        return next(party for party in self.pair(step) if party.name != name)

    @classmethod
    def from_bytes(cls, data: bytes) -> Contract:
        """Reads a contract that a peer sent. Raises DisagreementError unless it is exactly what `to_bytes` writes."""
        if len(data) > MAX_CONTRACT_BYTES:
            raise DisagreementError(f"a contract has at most {MAX_CONTRACT_BYTES} bytes, this one {len(data)}")
        try:
            contract = _contract(json.loads(data))
            canonical = contract.to_bytes()
        except (ValueError, RecursionError) as error:
            raise DisagreementError(f"the contract cannot be read: {error}", _PROPOSE_AGAIN) from None
        if canonical != data:
            raise DisagreementError("the contract is not in canonical form (RFC 8785)", _PROPOSE_AGAIN)
        return contract


def signed_bytes(contract_hash: bytes) -> bytes:
    """What a party signs to approve a contract."""
    return b"tidegate contract v1" + contract_hash


class _BadError(ValueError):
    pass


def _object(value: Any, where: str, cls: type) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    if not isinstance(value, dict) or set(value) != names:
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise _BadError(f"{where}: expected the keys {sorted(names)}, found {found}")
    return value


def _text(value: Any, where: str, pattern: re.Pattern[str] | None = None, longest: int = 256) -> str:
    if not isinstance(value, str) or len(value) > longest or (pattern is not None and not pattern.fullmatch(value)):
        raise _BadError(f"{where}: expected {'a name' if pattern else 'text'} of at most {longest} characters")
    # People read a contract on a terminal before they sign it; nothing in it may move what they see.
    if not value.isprintable():
        raise _BadError(f"{where}: expected text of printable characters")
    return value


def _integer(value: Any, where: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _BadError(f"{where}: expected a whole number from {low} to {high}")
    return value


def _list(value: Any, where: str, shortest: int, longest: int) -> list[Any]:
    if not isinstance(value, list) or not shortest <= len(value) <= longest:
        raise _BadError(f"{where}: expected a list of {shortest} to {longest} entries")
    return value


_HEX32 = re.compile(r"[0-9a-f]{64}")
_SHORT = re.compile(r"[0-9a-f]{12}")
_SETTING = re.compile(r"[a-z][a-z0-9_]{0,31}")


def _texts(value: Any, where: str, longest: int) -> tuple[str, ...]:
    return tuple(_text(item, f"{where}[{i}]", longest=1024) for i, item in enumerate(_list(value, where, 0, longest)))


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= FURTHEST:
        raise _BadError(f"{where}: expected a number from {-FURTHEST:g} to {FURTHEST:g}")
    return float(value)


def _range(value: Any, where: str, names: set[str]) -> Range:
    raw = _object(value, where, Range)
    if raw["party"] not in ("", *names):
        raise _BadError(f"{where}.party: expected one of {sorted(names)} or nothing")
    low, high = _number(raw["low"], f"{where}.low"), _number(raw["high"], f"{where}.high")
    if not low < high:
        raise _BadError(f"{where}: expected the lower end first")
    return Range(raw["party"], _text(raw["column"], f"{where}.column"), low, high)


def _by_party(value: Any, where: str, names: set[str], longest: int) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict) or not set(value) <= names:
        raise _BadError(f"{where}: expected an object whose keys are among {sorted(names)}")
    return {name: _texts(items, f"{where}.{name}", longest) for name, items in value.items()}


def _party(value: Any, where: str) -> ContractParty:
    raw = _object(value, where, ContractParty)
    data = _object(raw["data"], f"{where}.data", DataSet)
    if raw["role"] not in (*ROLES, CLIENT):
        raise _BadError(f"{where}.role: expected one of {(*ROLES, CLIENT)}")
    return ContractParty(
        name=_text(raw["name"], f"{where}.name", NAME),
        role=raw["role"],
        identity=_text(raw["identity"], f"{where}.identity", _HEX32),
        data=DataSet(
            name=_text(data["name"], f"{where}.data.name", NAME),
            rows=_integer(data["rows"], f"{where}.data.rows", 1, 10**9),
            commitment=_text(data["commitment"], f"{where}.data.commitment", _HEX32),
        ),
    )


def _step(value: Any, where: str) -> Step:
    raw = _object(value, where, Step)
    protocol = _text(raw["protocol"], f"{where}.protocol")
    if protocol not in CATALOG or CATALOG[protocol].step != raw["step"]:
        raise _BadError(f"{where}.protocol: {protocol!r} is not a protocol of this version for step {raw['step']!r}")
    settings = raw["settings"]
    if not isinstance(settings, dict) or len(settings) > 32:
        raise _BadError(f"{where}.settings: expected an object")
    checked: dict[str, int | list[int]] = {}
    for name, setting in settings.items():
        _text(name, f"{where}.settings", _SETTING)
        if isinstance(setting, list):
            items = _list(setting, f"{where}.settings.{name}", 1, 100)
            checked[name] = [_integer(item, f"{where}.settings.{name}", 0, 2**53 - 1) for item in items]
        else:
            checked[name] = _integer(setting, f"{where}.settings.{name}", 0, 2**53 - 1)
    media = raw["media"] if raw["media"] == "" else _text(raw["media"], f"{where}.media", NAME)
    return Step(step=raw["step"], protocol=protocol, settings=checked, media=media)


def _key(value: Any, where: str) -> Key:
    raw = _object(value, where, Key)
    for name, known in (("kind", KEY_KINDS), ("profile", KEY_PROFILES), ("form", KEY_FORMS)):
        if raw[name] not in known:
            raise _BadError(f"{where}.{name}: expected one of {known}")
    return Key(**raw)


def _total(value: Any) -> Total:
    raw = _object(value, "total", Total)
    if raw["role"] not in ("", *ROLES):
        raise _BadError(f"total.role: expected one of {ROLES} or nothing")
    return Total(
        role=raw["role"],
        column=_text(raw["column"], "total.column"),
        cap=_integer(raw["cap"], "total.cap", 0, 10**9),
        decimals=_integer(raw["decimals"], "total.decimals", 0, 6),
    )


def _label(value: Any) -> Label:
    raw = _object(value, "label", Label)
    if not isinstance(raw["seeds"], bool) or (raw["seeds"] and (raw["column"] or raw["positive"])):
        raise _BadError("label: expected seeds to be true or false, and with it no column")
    return Label(
        _text(raw["column"], "label.column"),
        _text(raw["positive"], "label.positive"),
        _text(raw["weight"], "label.weight"),
        raw["seeds"],
    )


def _privacy(value: Any) -> Privacy:
    raw = _object(value, "privacy", Privacy)
    return Privacy(
        _integer(raw["epsilon_milli"], "privacy.epsilon_milli", 0, 20_000),
        _integer(raw["delta_exponent"], "privacy.delta_exponent", 5, 12),
    )


def _outcome(value: Any) -> Outcome:
    raw = _object(value, "outcome", Outcome)
    outcome = Outcome(
        campaign=raw["campaign"] if raw["campaign"] == "" else _text(raw["campaign"], "outcome.campaign", _SHORT),
        tier=_integer(raw["tier"], "outcome.tier", 0, 100),
        converted=_text(raw["converted"], "outcome.converted"),
        positive=_text(raw["positive"], "outcome.positive"),
        spend=_text(raw["spend"], "outcome.spend"),
        cap=_integer(raw["cap"], "outcome.cap", 0, 10**9),
        decimals=_integer(raw["decimals"], "outcome.decimals", 0, 6),
        cost=_integer(raw["cost"], "outcome.cost", 0, 10**15),
    )
    if bool(outcome.campaign) != bool(outcome.tier) or bool(outcome.spend) != bool(outcome.cap):
        raise _BadError("outcome: expected a campaign with the number of its audience, and spend with a cap")
    return outcome


# Steps whose results a later campaign can use by naming the one that made them.
FROM_MODEL = ("train", "segment")
# Steps that run between the brand and each media, where there are several; the others are joint.
_WITH_EACH = ("doctor", "match")


def _check_parties(parties: tuple[ContractParty, ...], media: list[str]) -> bool:
    """Whether the contract is a horizontal one, which has clients alone; else it has a brand and its media."""
    if len({party.name for party in parties}) != len(parties) or COORDINATOR in {party.name for party in parties}:
        raise _BadError("parties: expected different names, and none that is the coordinator's")
    if any(party.role == CLIENT for party in parties):
        if any(party.role != CLIENT for party in parties) or len(parties) < LEAST_CLIENTS:
            raise _BadError(
                f"parties: expected {LEAST_CLIENTS} or more clients and nobody else: of two, each could take its own "
                "part off the sum and would have the other's"
            )
        if len({party.identity for party in parties}) != len(parties):
            raise _BadError("parties: expected clients with different identity keys: the floor counts organisations")
        return True
    if len(media) != len(parties) - 1:
        raise _BadError("parties: expected one brand and one or more media, all with different names")
    return False


def _check_horizontal(steps: tuple[Step, ...]) -> None:
    if not all(CATALOG[step.protocol].horizontal and not step.media for step in steps) or len(steps) != 1:
        raise _BadError("steps: expected one step that runs between holders of the same columns")


def _check_order(steps: tuple[Step, ...], media: list[str], model: str) -> None:
    """Each step once (per media, or once for all), after the steps that it needs."""
    several = len(media) > 1
    done: dict[str, dict[str, Step]] = {name: {} for name in media}
    for step in steps:
        if CATALOG[step.protocol].horizontal:
            raise _BadError(f"steps: {step.protocol} runs between clients, not between a brand and its media")
        if (step.media not in media) if several and step.step in _WITH_EACH else step.media:
            raise _BadError(f"steps: expected {step.step} to name its media if and only if there is a run with each")
        entry = CATALOG[step.protocol]
        if entry.several != (several and not step.media):
            raise _BadError(f"steps: {step.protocol} is not for a contract with {len(media)} media")
        for before in (done[name] for name in ([step.media] if step.media else media)):
            _check_after(entry, step, before, model)
            before[step.step] = step


def _check_after(entry: Entry, step: Step, before: dict[str, Step], model: str) -> None:
    """Whether a step may run after those `before` it with the same media."""
    missing = [need for need in entry.needs if need not in before and not (need in FROM_MODEL and model)]
    if missing or step.step in before:
        raise _BadError(f"steps: {step.step} is there twice or comes before {missing}")
    match = before.get("match")
    if match is not None and "match" in entry.needs and CATALOG[match.protocol].alignment != entry.alignment:
        raise _BadError(f"steps: {step.protocol} does not run after {match.protocol}")


def _contract(value: Any) -> Contract:
    raw = _object(value, "contract", Contract)
    listed = _list(raw["parties"], "parties", 2, MOST_PARTIES)
    parties = tuple(_party(item, f"parties[{i}]") for i, item in enumerate(listed))
    names = {party.name for party in parties}
    media = [party.name for party in parties if party.role == "media"]
    horizontal = _check_parties(parties, media)
    least = 0 if horizontal else 1
    keys = tuple(_key(item, f"keys[{i}]") for i, item in enumerate(_list(raw["keys"], "keys", least, len(KEY_KINDS))))
    if len({key.kind for key in keys}) != len(keys):
        raise _BadError("keys: expected each kind once")
    label = _label(raw["label"])
    holdout = _object(raw["holdout"], "holdout", Holdout)
    guards = _object(raw["guards"], "guards", Guards)
    steps = tuple(_step(item, f"steps[{i}]") for i, item in enumerate(_list(raw["steps"], "steps", 1, 32)))
    model = raw["model"] if raw["model"] == "" else _text(raw["model"], "model", _SHORT)
    if horizontal:
        _check_horizontal(steps)
    else:
        _check_order(steps, media, model)
    helper = raw["helper"] if raw["helper"] == "" else _text(raw["helper"], "helper", _HEX32)
    if bool(helper) != any(CATALOG[step.protocol].helper for step in steps):
        raise _BadError("helper: expected the coordinator's key if and only if it plays a part in a step")
    if helper in {party.identity for party in parties}:
        raise _BadError("helper: expected a coordinator that is none of the parties")
    declared = _list(raw["ranges"], "ranges", 0, 4096)
    ranges = tuple(_range(item, f"ranges[{i}]", names) for i, item in enumerate(declared))
    if len({(each.party, each.column) for each in ranges}) != len(ranges):
        raise _BadError("ranges: expected each column once")
    if not isinstance(raw["audit"], bool):
        raise _BadError("audit: expected true or false")
    outcome = _outcome(raw["outcome"])
    if any(step.step == "measure" for step in steps) != bool(outcome.campaign):
        raise _BadError("outcome: expected a campaign if and only if a step measures one")
    total, epoch = _total(raw["total"]), raw["epoch"] if raw["epoch"] == "" else _text(raw["epoch"], "epoch", NAME)
    modes = {CATALOG[step.protocol].mode for step in steps}
    if ("sum" in modes) != bool(total.role and total.column and total.cap) or (total == Total()) == ("sum" in modes):
        raise _BadError("total: expected a role, a column and a cap if and only if a step gives a sum")
    if ("epoch" in modes) != bool(epoch):
        raise _BadError("epoch: expected a name if and only if a step matches in epoch mode")
    return Contract(
        version=_integer(raw["version"], "version", VERSION, VERSION),
        software=_text(raw["software"], "software", longest=32),
        campaign=_text(raw["campaign"], "campaign", NAME),
        nonce=_text(raw["nonce"], "nonce", re.compile(r"[0-9a-f]{32}")),
        created_s=_integer(raw["created_s"], "created_s", 0, LATEST_S),
        expires_s=_integer(raw["expires_s"], "expires_s", 0, LATEST_S),
        parties=parties,
        keys=keys,
        label=label,
        features=_by_party(raw["features"], "features", names, 4096),
        holdout=Holdout(
            _text(holdout["column"], "holdout.column"),
            _text(holdout["value"], "holdout.value"),
            _integer(holdout["percent"], "holdout.percent", 0, 90),
        ),
        steps=steps,
        guards=Guards(
            floor=_integer(guards["floor"], "guards.floor", 50, 10**6),
            seeds=_integer(guards["seeds"], "guards.seeds", 50, 10**6),
            train_steps=_integer(guards["train_steps"], "guards.train_steps", 1, 12),
            count_noise=_integer(guards["count_noise"], "guards.count_noise", 0, 10**6),
            score_levels=_integer(guards["score_levels"], "guards.score_levels", 2, 20),
        ),
        learns=_by_party(raw["learns"], "learns", names | {"coordinator"}, 256),
        total=total,
        epoch=epoch,
        model=model,
        privacy=_privacy(raw["privacy"]),
        outcome=outcome,
        audit=raw["audit"],
        helper=helper,
        ranges=ranges,
    )
