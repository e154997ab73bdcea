"""The campaign file: what a brand wants done, in TOML, checked as a whole and made into a contract.

    [campaign]            name, expires_days (1 to 90, default 7)
    [parties]             brand, media: names of parties
    [data]                brand, media: names of registered data sets
    [match]               keys: kinds of identifier, the first takes precedence
    [label]               column, positive: who is a good customer
    [features]            brand, media: lists of columns, or "all" (default)
    [holdout]             column and value, or share in percent (default 30)
    [steps.match] ...     one table for each step that is to run, in order
    [guards]              optional: floor, seeds, train_steps, count_noise, score_levels
    [learns]              optional: the lines that each party may learn, if they are to be spelled out
    [demo]                optional: read by `tidegate demo` alone

`check` lists every mistake and not only the first.
"""

from __future__ import annotations

import difflib
import math
import re
import secrets
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidegate import __version__
from tidegate.protocols.catalog import CATALOG, DEFAULT_PROTOCOL, STEPS
from tidegate.protocols.channel import ConfigError, TidegateError
from tidegate.wire.contract import (
    KEY_KINDS,
    NAME,
    VERSION,
    Contract,
    ContractParty,
    DataSet,
    Guards,
    Holdout,
    Key,
    Label,
    Step,
)

from . import policy
from .config import Home
from .data import table
from .dataset import is_unchanged
from .store import Dataset, Offer, Store

MAX_FILE_BYTES = 256 * 1024
TABLES = ("campaign", "parties", "data", "match", "label", "features", "holdout", "steps", "guards", "learns", "demo")
NEEDED = ("campaign", "parties", "data", "match", "steps")
ROLES = ("brand", "media")
TRAIN_STEPS, LOOKALIKE_STEPS, L2 = 8, 4, 10
# Fewer seeds than this work, but the model will be coarse.
FEW_SEEDS = 1000


@dataclass(frozen=True)
class Mistake:
    """One thing wrong in a campaign file: where, what was expected, what was found, what may have been meant."""

    file: str
    line: int
    key: str
    expected: str
    found: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return (
            f"{where}: {self.key}: expected {self.expected}, found {self.found}{f'; {self.hint}' if self.hint else ''}"
        )


@dataclass
class Checked:
    """What `check` made of a file: its mistakes, or the contract; in `remarks` what a person should know anyway."""

    file: str
    mistakes: list[Mistake] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    contract: Contract | None = None


def check(path: Path, home: Home, store: Store, now_s: float) -> Checked:
    """Reads a campaign file and compares it with what is registered, trusted and offered here.

    ConfigError only for a file that cannot be read at all; everything else is in `mistakes`.
    """
    text = _read(path)
    checked = Checked(path.name)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"line (\d+)", str(error))
        reason = str(error).split(" (at ")[0]
        checked.mistakes.append(Mistake(path.name, int(at[1]) if at else 0, "the file", "TOML", reason))
        return checked
    form = _Form(checked, raw, _lines(text))
    checked.contract = form.contract(home, store, now_s)
    return checked


def campaign_name(path: Path) -> str:
    """The name in a campaign file, for commands that only ask how it is doing."""
    try:
        name = tomllib.loads(_read(path))["campaign"]["name"]
    except (tomllib.TOMLDecodeError, KeyError, TypeError):
        name = None
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"{path}: expected a campaign file with a name", "`tidegate campaign check` says what is wrong"
        )
    return name


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is too large for a campaign file", f"at most {MAX_FILE_BYTES // 1024} KiB")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", "check the path, and the folder you are in"
        ) from None
    if not text.strip():
        raise ConfigError(f"{path} is empty", "docs/quickstart.md has a campaign file to start from")
    return text


_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_.\s\"-]+?)\s*\]")
_ASSIGNED = re.compile(r"\s*([A-Za-z0-9_.\"-]+)\s*=")


def _lines(text: str) -> dict[str, int]:
    """Where each key stands: "label.column" -> line number. Only for messages; TOML itself is read by tomllib."""
    found: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), 1):
        header, assigned = _HEADER.match(line), _ASSIGNED.match(line)
        if header:
            prefix = header[1].replace('"', "").replace(" ", "")
            found.setdefault(prefix, number)
        elif assigned:
            key = assigned[1].replace('"', "")
            found.setdefault(f"{prefix}.{key}" if prefix else key, number)
    return found


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else ""


def _listed(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    if not names:
        return "(none)"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f'"{value[:80]}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return str(value)[:80]


class _Form:
    """Walks over a campaign file and notes mistakes as it goes; a value that is wrong is replaced by a harmless one."""

    def __init__(self, checked: Checked, raw: dict[str, Any], lines: dict[str, int]) -> None:
        self.checked, self.raw, self.lines = checked, raw, lines

    def wrong(self, key: str, expected: str, found: str, hint: str = "") -> None:
        line = 0
        at = key
        while at and not line:
            line = self.lines.get(at, 0)
            at = at.rpartition(".")[0]
        self.checked.mistakes.append(Mistake(self.checked.file, line, key, expected, found, hint))

    # Values

    def table(self, key: str, known: Iterable[str], within: dict[str, Any] | None = None) -> dict[str, Any]:
        """The table at `key`, after noting what is in it and should not be."""
        value = (self.raw if within is None else within).get(key.rpartition(".")[2], {})
        if not isinstance(value, dict):
            self.wrong(key, f"a table, written [{key}]", _shown(value))
            return {}
        known = list(known)
        for name in value:
            if name not in known:
                self.wrong(f"{key}.{name}", f"one of {_listed(known)}", f'the unknown key "{name}"', _near(name, known))
        return value

    def name(self, raw: dict[str, Any], key: str, what: str) -> str:
        value = raw.get(key.rpartition(".")[2])
        if value is None:
            self.wrong(key, what, "nothing")
        elif not isinstance(value, str) or not NAME.fullmatch(value):
            self.wrong(key, f"{what} (a to z, 0 to 9, - and _)", _shown(value), "never a path, an address or a query")
        else:
            return value
        return ""

    def integer(self, raw: dict[str, Any], key: str, low: int, high: int, default: int) -> int:
        value = raw.get(key.rpartition(".")[2], default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.wrong(key, f"a whole number from {low} to {high}", _shown(value))
            return default
        return value

    def value_text(self, raw: dict[str, Any], key: str, what: str) -> str:
        """A value of a column, as text in the form that columns are compared in: 1 for 1.0, true for True."""
        value = raw.get(key.rpartition(".")[2])
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            return str(value)
        if isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable():
            return value
        if isinstance(value, str) and not value.isprintable():
            self.wrong(key, f"{what}, in printable characters", ascii(value[:80]), "contracts are read on screens")
            return ""
        self.wrong(key, what, "nothing" if value is None else _shown(value))
        return ""

    # The whole

    def contract(self, home: Home, store: Store, now_s: float) -> Contract | None:
        for key in self.raw:
            if key not in TABLES:
                self.wrong(key, f"one of {_listed(TABLES)}", f'the unknown table or key "{key}"', _near(key, TABLES))
        for key in NEEDED:
            if key not in self.raw:
                self.wrong(key, f"a table [{key}]", "nothing")
        top = self.table("campaign", ("name", "expires_days"))
        name = self.name(top, "campaign.name", "a name for the campaign") if "campaign" in self.raw else ""
        days = self.integer(top, "campaign.expires_days", 1, policy.MAX_DAYS, 7)
        parties = self.parties(home, store)
        data = self.data(store, parties)
        keys = self.keys(data)
        guards = self.guards()
        steps = self.steps(guards)
        label, holdout = self.label_and_holdout(data, guards, steps)
        features = self.features(home, data, label, holdout)
        if self.checked.mistakes:
            return None
        brand, media = data
        if brand is None or media is None:
            raise ConfigError("the campaign's data sets are not known", "register and offer them")
        roles = {parties["brand"]: "brand", parties["media"]: "media"}
        learns = self.learns(policy.learns(steps, roles, guards))
        self.remarks(guards, features[parties["media"]], steps)
        if self.checked.mistakes:
            return None
        partner = store.partner(parties["media"])
        if partner is None:
            raise ConfigError(f"the card of {parties['media']} is not trusted here", "`tidegate party trust` its card")
        return Contract(
            version=VERSION,
            software=__version__,
            campaign=name,
            nonce=secrets.token_hex(16),
            created_s=int(now_s),
            expires_s=int(now_s) + days * 86400,
            parties=(
                ContractParty(
                    parties["brand"],
                    "brand",
                    home.load_identity().public.hex(),
                    DataSet(brand.name, brand.rows, brand.commitment),
                ),
                ContractParty(
                    parties["media"],
                    "media",
                    partner.identity.hex(),
                    DataSet(media.dataset, media.rows, media.commitment),
                ),
            ),
            keys=tuple(Key(kind) for kind in keys),
            label=label,
            features=features,
            holdout=holdout,
            steps=steps,
            guards=guards,
            learns=learns,
        )

    def parties(self, home: Home, store: Store) -> dict[str, str]:
        raw = self.table("parties", ROLES)
        found = dict.fromkeys(ROLES, "")
        if "parties" not in self.raw:
            return found
        for role in ROLES:
            found[role] = self.name(raw, f"parties.{role}", "the name of a party")
        me, partners = home.name(), [partner.name for partner in store.partners()]
        if found["brand"] and found["brand"] != me:
            hint = "the brand writes and proposes the campaign; name its folder with --home"
            self.wrong("parties.brand", f'this party, "{me}"', f'"{found["brand"]}"', hint)
        if found["media"] and found["media"] not in partners:
            near = (
                _near(found["media"], partners)
                or f"trust its card first: `tidegate party trust`; trusted: {_listed(partners)}"
            )
            self.wrong("parties.media", "a party whose card is trusted here", f'"{found["media"]}"', near)
        return found

    def data(self, store: Store, parties: dict[str, str]) -> tuple[Dataset | None, Offer | None]:
        raw = self.table("data", ROLES)
        if "data" not in self.raw:
            return None, None
        own = {dataset.name: dataset for dataset in store.datasets()}
        offered = {offer.dataset: offer for offer in store.offers(sent=False) if offer.partner == parties["media"]}
        brand = self.name(raw, "data.brand", "the name of a data set that is registered here")
        media = self.name(raw, "data.media", "the name of a data set that the media has offered")
        if brand and brand not in own:
            hint = _near(brand, own) or f"registered: {_listed(own)}; `tidegate party data add` registers one"
            self.wrong("data.brand", "the name of a data set that is registered here", f'"{brand}"', hint)
        if media and parties["media"] and media not in offered:
            ask = f"ask for `tidegate party data offer {media} --to {parties['brand']}`"
            hint = _near(media, offered) or f"offered: {_listed(offered)}; {ask}"
            self.wrong("data.media", f"the name of a data set that {parties['media']} has offered", f'"{media}"', hint)
        return own.get(brand), offered.get(media)

    def keys(self, data: tuple[Dataset | None, Offer | None]) -> list[str]:
        raw = self.table("match", ("keys",))
        if "match" not in self.raw:
            return []
        keys = raw.get("keys")
        if not isinstance(keys, list) or not keys:
            self.wrong(
                "match.keys",
                f"a list of kinds of identifier out of {_listed(KEY_KINDS)}",
                _shown(keys) if keys is not None else "nothing",
            )
            return []
        brand, media = data
        for kind in keys:
            if kind not in KEY_KINDS:
                self.wrong(
                    "match.keys", f"kinds out of {_listed(KEY_KINDS)}", _shown(kind), _near(str(kind), KEY_KINDS)
                )
                continue
            if brand is not None and kind not in brand.keys:
                hint = f"register it with `tidegate party data add {brand.name} FILE --key {kind}=COLUMN`"
                self.wrong("match.keys", f"keys of {brand.name} ({_listed(brand.keys)})", f'"{kind}"', hint)
            if media is not None and kind not in media.keys:
                self.wrong(
                    "match.keys", f"keys of {media.partner}'s {media.dataset} ({_listed(media.keys)})", f'"{kind}"'
                )
        if len(set(map(str, keys))) != len(keys):
            self.wrong("match.keys", "each kind once", _shown(", ".join(map(str, keys))))
        return [str(kind) for kind in keys]

    def guards(self) -> Guards:
        names = [item.name for item in dataclass_fields(Guards)]
        raw = self.table("guards", names)
        limits = {
            "floor": (policy.HARD_GUARDS.floor, 10**6),
            "seeds": (policy.HARD_GUARDS.seeds, 10**6),
            "train_steps": (1, policy.HARD_GUARDS.train_steps),
            "count_noise": (policy.HARD_GUARDS.count_noise, 10**6),
            "score_levels": (2, policy.HARD_GUARDS.score_levels),
        }
        return Guards(
            **{
                name: self.integer(raw, f"guards.{name}", *limits[name], getattr(policy.DEFAULT_GUARDS, name))
                for name in names
            }
        )

    def steps(self, guards: Guards) -> tuple[Step, ...]:
        raw = self.table("steps", STEPS)
        named = [name for name in raw if name in STEPS]
        if "steps" in self.raw and not named:
            self.wrong("steps", "at least one table like [steps.match]", "none")
        done: list[str] = []
        steps: list[Step] = []
        for name in named:
            protocol = DEFAULT_PROTOCOL[name]
            missing = [need for need in CATALOG[protocol].needs if need not in done]
            if missing:
                later = [need for need in missing if need in named]
                hint = "the steps run in the order of their tables" if later else f"add [steps.{missing[0]}]"
                self.wrong(f"steps.{name}", f"[steps.{missing[0]}] before it", "it later" if later else "none", hint)
            done.append(name)
            steps.append(Step(name, protocol, self.settings(name, raw, named, guards)))
        return tuple(steps)

    def settings(self, name: str, raw: dict[str, Any], named: list[str], guards: Guards) -> dict[str, int | list[int]]:
        known = {"train": ("steps", "l2", "lookalike_steps"), "expand": ("sizes",)}.get(name, ())
        own = self.table(f"steps.{name}", known, raw)
        if name == "train":
            steps = self.integer(own, "steps.train.steps", 1, policy.HARD_GUARDS.train_steps, TRAIN_STEPS)
            lookalike = 0
            if "expand" in named:
                lookalike = self.integer(own, "steps.train.lookalike_steps", 1, 11, LOOKALIKE_STEPS)
            elif "lookalike_steps" in own:
                self.wrong("steps.train.lookalike_steps", "it only with [steps.expand]", _shown(own["lookalike_steps"]))
            if steps + lookalike > guards.train_steps:
                taken = f"{steps}" + (f" and {lookalike} for the lookalike model" if lookalike else "")
                hint = "each optimiser step tells the brand something; a data set has a budget of 12"
                self.wrong(
                    "steps.train.steps", f"at most {guards.train_steps} steps in all (guards.train_steps)", taken, hint
                )
            return {"steps": steps, "l2_milli": self.l2_milli(own), "lookalike_steps": lookalike}
        if name == "expand":
            return {"sizes": self.sizes(own)}
        return {}

    def l2_milli(self, own: dict[str, Any]) -> int:
        value = own.get("l2", L2)
        expected = "a number from 0.001 to 1000000 with at most three decimals"
        try:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise InvalidOperation
            milli = Decimal(str(value)) * 1000
            if not (1 <= milli <= 10**9 and milli == int(milli)):
                raise InvalidOperation
        except (InvalidOperation, ValueError, OverflowError):
            self.wrong("steps.train.l2", expected, _shown(value))
            return L2 * 1000
        return int(milli)

    def sizes(self, own: dict[str, Any]) -> list[int]:
        sizes = own.get("sizes", [5, 10, 20])
        whole = isinstance(sizes, list) and all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
        if not whole or not sizes or not all(1 <= size <= 50 for size in sizes) or len(set(sizes)) != len(sizes):
            found = ", ".join(map(str, sizes)) if isinstance(sizes, list) else _shown(sizes)
            self.wrong(
                "steps.expand.sizes", "a list of different whole percents from 1 to 50", found or "an empty list"
            )
            return [5, 10, 20]
        return sorted(sizes)

    def label_and_holdout(
        self, data: tuple[Dataset | None, Offer | None], guards: Guards, steps: tuple[Step, ...]
    ) -> tuple[Label, Holdout]:
        names = {step.step for step in steps}
        raw_label = self.table("label", ("column", "positive"))
        raw_holdout = self.table("holdout", ("column", "value", "share"))
        label, holdout = Label("", ""), Holdout("", "", 0)
        if not names - {"match"} and "label" not in self.raw:
            return label, holdout
        if "label" not in self.raw:
            self.wrong("label", "a table [label] with column and positive", "nothing", "it says who is a good customer")
        else:
            column = self.value_text(raw_label, "label.column", "the name of a column")
            label = Label(column, self.value_text(raw_label, "label.positive", "the value that means yes"))
        if "train" in names or "holdout" in self.raw:
            holdout = self.holdout(raw_holdout)
        brand = data[0]
        if brand is not None:
            rows = self.rows(brand)
            if rows is not None:
                positive = self.label(brand, rows, label, guards)
                self.holdout_rows(brand, rows, holdout, positive)
        return label, holdout

    def holdout(self, raw: dict[str, Any]) -> Holdout:
        if "share" in raw and ({"column", "value"} & set(raw)):
            self.wrong("holdout", "either column and value, or share", "both")
        if "column" in raw or "value" in raw:
            column = self.value_text(raw, "holdout.column", "the name of a column")
            return Holdout(column, self.value_text(raw, "holdout.value", "the value of the rows that are held out"), 0)
        return Holdout("", "", self.integer(raw, "holdout.share", 5, 80, 30))

    def rows(self, brand: Dataset) -> pa.Table | None:
        """The brand's registered file, if it is still what was registered."""
        try:
            if not is_unchanged(brand):
                hint = f"register it again: `tidegate party data add {brand.name} ...`, or put the old file back"
                self.wrong("data.brand", f"the file of {brand.name} as it was registered", "another one", hint)
                return None
            return table.read(brand.path)
        except TidegateError as error:
            self.wrong("data.brand", f"the registered file of {brand.name}", error.text, error.hint)
            return None

    def column(self, brand: Dataset, rows: pa.Table, key: str, name: str) -> list[str | None] | None:
        if not name:
            return None
        if name not in rows.column_names:
            hint = _near(name, rows.column_names) or f"its columns: {_listed(rows.column_names)}"
            self.wrong(key, f"a column of {brand.name}", f'"{name}"', hint)
            return None
        if name in brand.keys.values():
            self.wrong(key, "a column that is no identifier", f'"{name}"')
            return None
        return table.texts(rows, name)

    def label(self, brand: Dataset, rows: pa.Table, label: Label, guards: Guards) -> list[bool] | None:
        texts = self.column(brand, rows, "label.column", label.column)
        if texts is None:
            return None
        counts = Counter(text for text in texts if text is not None)
        if len(counts) != 2:
            found = f"{len(counts)} ({_listed(sorted(counts), 5)})" if counts else "none"
            self.wrong(
                "label.column", f'exactly two different values in "{label.column}"', found, "a label says yes or no"
            )
            return None
        if label.positive and label.positive not in counts:
            hint = _near(label.positive, counts)
            self.wrong("label.positive", f"one of {_listed(sorted(counts))}", f'"{label.positive}"', hint)
            return None
        if counts[label.positive] < guards.seeds:
            expected = f"at least {guards.seeds} rows with the positive value (guards.seeds)"
            self.wrong("label.positive", expected, str(counts[label.positive]), "fewer say too little")
        elif counts[label.positive] < FEW_SEEDS:
            self.checked.remarks.append(
                f"{counts[label.positive]} good customers before matching: enough from {guards.seeds} matched ones on, "
                f"better from {FEW_SEEDS}"
            )
        missing = len(texts) - sum(counts.values())
        if missing:
            self.checked.remarks.append(
                f'{missing} rows have no value in "{label.column}": they take no part in training'
            )
        return [text == label.positive for text in texts]

    def holdout_rows(self, brand: Dataset, rows: pa.Table, holdout: Holdout, positive: list[bool] | None) -> None:
        texts = self.column(brand, rows, "holdout.column", holdout.column)
        if texts is None or not holdout.value:
            return
        out = [text == holdout.value for text in texts]
        if not any(out):
            values = sorted({text for text in texts if text is not None})
            hint = _near(holdout.value, values) or f"its values: {_listed(values, 5)}"
            self.wrong("holdout.value", f'a value of "{holdout.column}"', f'"{holdout.value}"', hint)
        elif all(out):
            self.wrong("holdout.value", "a value that leaves rows to train on", f'"{holdout.value}" in every row')
        elif positive is not None:
            for name, part in (("held out", out), ("left to train on", [not item for item in out])):
                good = sum(1 for item, yes in zip(part, positive, strict=True) if item and yes)
                if good == 0 or good == sum(part):
                    found = "only good customers" if good else "no good customer"
                    self.wrong("holdout.value", f"good and other customers among the rows {name}", found)

    def features(
        self, home: Home, data: tuple[Dataset | None, Offer | None], label: Label, holdout: Holdout
    ) -> dict[str, tuple[str, ...]]:
        raw = self.table("features", ROLES)
        brand, media = data
        found: dict[str, tuple[str, ...]] = {}
        used = {label.column, holdout.column} - {""}
        if brand is not None:
            hidden = set(policy.load(home).hidden_columns)
            columns = [column for column in brand.columns if column["name"] not in hidden]
            found[home.name()] = self.chosen(raw, "features.brand", columns, used, f"data set {brand.name}", least=0)
        if media is not None:
            of = f"{media.partner}'s data set {media.dataset}"
            found[media.partner] = self.chosen(raw, "features.media", media.columns, set(), of, least=1)
        return found

    def chosen(
        self, raw: dict[str, Any], key: str, columns: list[dict[str, Any]], used: set[str], of: str, *, least: int
    ) -> tuple[str, ...]:
        value = raw.get(key.rpartition(".")[2], "all")
        usable = [name for name in policy.usable_features(columns) if name not in used]
        constant = {column["name"] for column in columns if _is_constant(column)}
        if value == "all":
            names = [name for name in usable if name not in constant]
            if len(names) < least:
                self.wrong(key, f"usable columns in {of}", "none", "numbers and categories that vary can be features")
            return tuple(names)
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            self.wrong(key, '"all" or a list of column names', _shown(value))
            return ()
        if len(value) < least:
            self.wrong(key, "at least one column", "an empty list")
        kinds = {column["name"]: column["kind"] for column in columns}
        for name in value:
            if name in used:
                self.wrong(key, "columns that are neither label nor hold-out", f'"{name}"')
            elif name not in kinds:
                hint = _near(name, usable) or f"its columns: {_listed(usable)}"
                self.wrong(key, f"columns of {of}", f'"{name}"', hint)
            elif name not in usable:
                what = "identifiers" if kinds[name] == "key" else "text with too many different values"
                self.wrong(key, "columns with numbers or categories", f'"{name}", which holds {what}')
            elif name in constant:
                self.wrong(key, "columns that vary", f'"{name}", which has the same value in every row', "leave it out")
        for name, times in Counter(value).items():
            if times > 1:
                self.wrong(key, "each column once", f'"{name}" {times} times')
        return tuple(value)

    def learns(self, right: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """What the steps tell each party. A file may spell the lines out: then all of them and no more."""
        raw = self.table("learns", right)
        for name, lines in raw.items():
            if name not in right:
                continue
            if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                self.wrong(f"learns.{name}", "a list of lines", _shown(lines))
                continue
            for line in lines:
                if line not in right[name]:
                    self.wrong(
                        f"learns.{name}", "lines that the steps give", f'"{line[:80]}"', _near(line, right[name])
                    )
            for line in right[name]:
                if line not in lines:
                    self.wrong(f"learns.{name}", f'the line "{line}"', "it not granted", "add it, or leave a step out")
        return right

    def remarks(self, guards: Guards, media_features: tuple[str, ...], steps: tuple[Step, ...]) -> None:
        self.checked.remarks += policy.loosened(guards)
        self.checked.remarks += few_columns(media_features, steps)


def few_columns(media_features: tuple[str, ...], steps: tuple[Step, ...]) -> list[str]:
    """A line for people when a model's scores would nearly spell out the media's columns."""
    few = len(media_features) < policy.FEW_MEDIA_COLUMNS and any(step.step == "train" for step in steps)
    text = f"only {len(media_features)} media columns: the scores of single people nearly give their values away"
    return [text] if few else []


def _is_constant(column: dict[str, Any]) -> bool:
    # Ranges are percentiles rounded outward, so they cannot say it: `data add` counts.
    return bool(column["constant"])
