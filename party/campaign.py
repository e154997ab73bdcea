"""The campaign file: what a brand wants done, in TOML, checked as a whole and made into a contract.

    [campaign]            name, expires_days (1 to 90, default 7)
                          audit: true if the brand is to keep what an auditor needs to derive its part again
    [parties]             brand, media: names of parties; media may be a list of several
    [data]                brand, media: names of registered data sets; with several media a table name -> data set
    [match]               keys: kinds of identifier, the first takes precedence
                          mode: both (default), brand, size, sum or epoch; engine: oprf (default)
                          profile: whose rules spell the keys (default plain), one name or a table kind -> name
                          hashed: a table kind -> sha256 or md5, for keys that a party has as digests alone
                          sum: with mode sum, a table of (brand or media), column, cap, decimals (default 0)
                          epoch: with mode epoch, the name under which the media has built its tokens
    [label]               column, positive: who is a good customer; weight: a column, how much a row counts in training
                          or seeds = true: everybody in the data set is one
    [features]            brand, media: lists of columns, or "all" (default); with several media also a table
                          name -> list
    [holdout]             column and value, or share in percent (default 30)
    [model]               campaign: the short name of the one whose models score and expand use, or train starts from
    [privacy]             epsilon, delta (default 1e-6): differential privacy of train and insight
    [ranges.PARTY]        column = [low, high]: in which the columns lie that segments use; others are cut to it
    [outcome]             what `measure` measures: campaign, audience, converted, positive, spend, cap, decimals, cost
    [steps.match] ...     one table for each step that is to run, in order
    [guards]              optional: floor, seeds, train_steps, count_noise, score_levels
    [learns]              optional: the lines that each party may learn, if they are to be spelled out
    [demo]                optional: read by `tidegate demo` alone

`check` lists every mistake and not only the first.
"""

from __future__ import annotations

import difflib
import itertools
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
from tidegate.protocols.blind import traffic
from tidegate.protocols.catalog import CATALOG, DEFAULT_PROTOCOL, ENGINES, MODES, STEPS, match_protocol, protocol_after
from tidegate.protocols.channel import ConfigError, TidegateError
from tidegate.protocols.psi import doctor
from tidegate.protocols.psi.epoch import LEAST_SHARD
from tidegate.wire.contract import (
    FROM_MODEL,
    KEY_FORMS,
    KEY_KINDS,
    KEY_PROFILES,
    NAME,
    VERSION,
    Contract,
    ContractParty,
    DataSet,
    Guards,
    Holdout,
    Key,
    Label,
    Outcome,
    Privacy,
    Range,
    Step,
    Total,
)

from . import models, policy
from .config import Home
from .data import table
from .dataset import is_unchanged
from .store import Campaign, Dataset, Offer, Store

MAX_FILE_BYTES = 256 * 1024
TABLES = (
    *("campaign", "parties", "data", "match", "label", "features", "holdout", "model", "privacy", "outcome"),
    *("ranges", "steps", "guards", "learns", "demo"),
)
NEEDED = ("campaign", "parties", "data", "match", "steps")
ROLES = ("brand", "media")
MOST_MEDIA = 15
# Steps that run with each media apart where there are several, and that use identifiers alone.
WITH_EACH = frozenset({"doctor", "match"})
TRAIN_STEPS, LOOKALIKE_STEPS, L2, SAMPLE, OTHERS = 8, 4, 10, 20_000, 10
MOST_SEGMENTS, STARTS, ITERATIONS = 8, 4, 20
# Fewer seeds than this work, but the model will be coarse.
FEW_SEEDS = 1000


AUDIENCE_KEYS = ("sizes", "people", "threshold")


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
        top = self.table("campaign", ("name", "expires_days", "audit"))
        name = self.name(top, "campaign.name", "a name for the campaign") if "campaign" in self.raw else ""
        days = self.integer(top, "campaign.expires_days", 1, policy.MAX_DAYS, 7)
        audit = bool(self.switch(top, "campaign.audit"))
        me, media = self.parties(home, store)
        brand, offers = self.data(store, media, me)
        keys = self.keys(brand, offers)
        guards = self.guards()
        protocol, total, epoch = self.match(brand, offers, keys)
        model = self.model(home, store, media)
        steps = self.steps(guards, protocol, media, model)
        self.shards(steps, offers)
        label, holdout = self.label_and_holdout(brand, guards, steps)
        privacy, outcome = self.privacy(), self.outcome(store, brand, media, steps)
        if model is not None and not any(step.step in policy.NEED_LABEL for step in steps):
            features = self.columns_of(model, home, brand, offers)
        else:
            features = self.features(home, brand, offers, label, holdout, outcome, steps)
            if model is not None:
                self.model_features(model, features)
        if self.checked.mistakes:
            return None
        if brand is None or len(offers) != len(media):
            raise ConfigError("the campaign's data sets are not known", "register and offer them")
        ranges = self.ranges(features, steps)
        learns = self.learns(policy.learns(steps, {me: "brand", **dict.fromkeys(media, "media")}, guards))
        self.remarks(guards, features[media[0]], steps)
        if self.checked.mistakes:
            return None
        made = Contract(
            version=VERSION,
            software=__version__,
            campaign=name,
            nonce=secrets.token_hex(16),
            created_s=int(now_s),
            expires_s=int(now_s) + days * 86400,
            parties=(
                ContractParty(
                    me,
                    "brand",
                    home.load_identity().public.hex(),
                    DataSet(brand.name, brand.rows, brand.commitment),
                ),
                *(self.partner(store, offer) for offer in offers),
            ),
            keys=keys,
            label=label,
            features=features,
            holdout=holdout,
            steps=steps,
            guards=guards,
            learns=learns,
            total=total,
            epoch=epoch,
            model=model.contract.short if model is not None else "",
            privacy=privacy,
            outcome=outcome,
            audit=audit,
            helper=home.coordinator_identity().hex() if any(CATALOG[step.protocol].helper for step in steps) else "",
            ranges=ranges,
        )
        self.checked.remarks += hidden_cost(made)
        return made

    @staticmethod
    def partner(store: Store, offer: Offer) -> ContractParty:
        partner = store.partner(offer.partner)
        if partner is None:
            raise ConfigError(f"the card of {offer.partner} is not trusted here", "`tidegate party trust` its card")
        data = DataSet(offer.dataset, offer.rows, offer.commitment)
        return ContractParty(offer.partner, "media", partner.identity.hex(), data)

    def parties(self, home: Home, store: Store) -> tuple[str, list[str]]:
        """The brand, which is this party, and the media."""
        raw = self.table("parties", ROLES)
        me = home.name()
        if "parties" not in self.raw:
            return me, []
        brand = self.name(raw, "parties.brand", "the name of a party")
        if brand and brand != me:
            hint = "the brand writes and proposes the campaign; name its folder with --home"
            self.wrong("parties.brand", f'this party, "{me}"', f'"{brand}"', hint)
        listed = raw.get("media")
        names = listed if isinstance(listed, list) and listed else [listed]
        partners = [partner.name for partner in store.partners()]
        media = []
        for given in names:
            name = self.name({} if given is None else {"media": given}, "parties.media", "the name of a party")
            if name and name not in partners:
                trusted = f"trust its card first: `tidegate party trust`; trusted: {_listed(partners)}"
                near = _near(name, partners) or trusted
                self.wrong("parties.media", "a party whose card is trusted here", f'"{name}"', near)
            elif name in media:
                self.wrong("parties.media", "each media once", f'"{name}" twice')
            elif name:
                media.append(name)
        if len(media) > MOST_MEDIA:
            self.wrong("parties.media", f"at most {MOST_MEDIA} media", str(len(media)))
        return me, media

    def data(self, store: Store, media: list[str], me: str) -> tuple[Dataset | None, list[Offer]]:
        """The brand's data set and, for each media whose name is right, the offer of its own."""
        raw = self.table("data", ROLES)
        if "data" not in self.raw:
            return None, []
        own = {dataset.name: dataset for dataset in store.datasets()}
        brand = self.name(raw, "data.brand", "the name of a data set that is registered here")
        if brand and brand not in own:
            hint = _near(brand, own) or f"registered: {_listed(own)}; `tidegate party data add` registers one"
            self.wrong("data.brand", "the name of a data set that is registered here", f'"{brand}"', hint)
        given = raw.get("media")
        if isinstance(given, dict):
            given = self.table("data.media", media or given, raw)
        elif len(media) > 1:
            self.wrong("data.media", f"a table with a data set for each of {_listed(media)}", _shown(given))
            return own.get(brand), []
        found = []
        for name in media:
            key = f"data.media.{name}" if isinstance(given, dict) else "data.media"
            values = given if isinstance(given, dict) else raw
            dataset = self.name(values, key, "the name of a data set that the media has offered")
            offered = {offer.dataset: offer for offer in store.offers(sent=False) if offer.partner == name}
            if dataset in offered:
                found.append(offered[dataset])
            elif dataset:
                ask = f"ask for `tidegate party data offer {dataset} --to {me}`"
                hint = _near(dataset, offered) or f"offered: {_listed(offered)}; {ask}"
                self.wrong(key, f"the name of a data set that {name} has offered", f'"{dataset}"', hint)
        return own.get(brand), found

    def keys(self, brand: Dataset | None, offers: list[Offer]) -> tuple[Key, ...]:
        raw = self.table("match", ("keys", "profile", "hashed", "mode", "engine", "sum", "epoch"))
        if "match" not in self.raw:
            return ()
        kinds = raw.get("keys")
        if not isinstance(kinds, list) or not kinds:
            self.wrong(
                "match.keys",
                f"a list of kinds of identifier out of {_listed(KEY_KINDS)}",
                _shown(kinds) if kinds is not None else "nothing",
            )
            return ()
        for kind in kinds:
            if kind not in KEY_KINDS:
                self.wrong(
                    "match.keys", f"kinds out of {_listed(KEY_KINDS)}", _shown(kind), _near(str(kind), KEY_KINDS)
                )
                continue
            if brand is not None and kind not in brand.keys:
                hint = f"register it with `tidegate party data add {brand.name} FILE --key {kind}=COLUMN`"
                self.wrong("match.keys", f"keys of {brand.name} ({_listed(brand.keys)})", f'"{kind}"', hint)
            for offer in offers:
                if kind not in offer.keys:
                    self.wrong(
                        "match.keys", f"keys of {offer.partner}'s {offer.dataset} ({_listed(offer.keys)})", f'"{kind}"'
                    )
        if len(set(map(str, kinds))) != len(kinds):
            self.wrong("match.keys", "each kind once", _shown(", ".join(map(str, kinds))))
            return ()
        profiles = self.by_kind(raw, "profile", kinds, KEY_PROFILES, "plain")
        forms = self.by_kind(raw, "hashed", kinds, KEY_FORMS[1:], "clear")
        # The doctor alone may look at them: that digests meet clear text is one of the things that it finds.
        steps = self.raw.get("steps")
        if isinstance(steps, dict) and "match" in steps:
            for kind, form in forms.items():
                self.digests(kind, form, brand, offers)
        return tuple(Key(kind, profiles[kind], forms[kind]) for kind in kinds if kind in KEY_KINDS)

    def digests(self, kind: str, form: str, brand: Dataset | None, offers: list[Offer]) -> None:
        """Notes whose column of this kind holds digests, if they are not what both sides are to enter."""
        owners = [(brand.name, brand.given)] if brand is not None else []
        owners += [(f"{offer.partner}'s {offer.dataset}", offer.given) for offer in offers]
        for owner, given in owners:
            if given.get(kind, form) != form:
                hint = f'write hashed = {{ {kind} = "{given[kind]}" }}: digests cannot be undone, so both enter them'
                self.wrong("match.hashed", f"{given[kind]} for {kind}, which is all that {owner} has", form, hint)

    def by_kind(
        self, raw: dict[str, Any], name: str, kinds: list[str], known: tuple[str, ...], default: str
    ) -> dict[str, str]:
        """A setting of [match] for each kind of key: one word for all, or a table kind -> word."""
        key, value = f"match.{name}", raw.get(name, {})
        found = dict.fromkeys(map(str, kinds), default)
        words = value if isinstance(value, dict) else dict.fromkeys(found, value)
        if isinstance(value, dict):
            self.table(key, found, raw)
        for kind, word in words.items():
            if word not in known:
                self.wrong(key, f"one of {_listed(known)}", _shown(word), _near(str(word), known))
            elif kind in found:
                found[kind] = word
        return found

    def match(self, brand: Dataset | None, offers: list[Offer], keys: tuple[Key, ...]) -> tuple[str, Total, str]:
        """The protocol that matches, the column it adds up and the epoch it runs under, where its mode has them."""
        raw = self.raw["match"] if isinstance(self.raw.get("match"), dict) else {}
        engine, mode = raw.get("engine", "oprf"), raw.get("mode", "both")
        for name, value, known in (("engine", engine, ENGINES), ("mode", mode, MODES)):
            if value not in known:
                self.wrong(f"match.{name}", f"one of {_listed(known)}", _shown(value), _near(str(value), known))
                return DEFAULT_PROTOCOL["match"], Total(), ""
        protocol = match_protocol(engine, mode)
        if protocol is None:
            self.wrong("match.mode", f"a mode of the engine {engine}", _shown(mode))
            return DEFAULT_PROTOCOL["match"], Total(), ""
        if mode in policy.ONE_KEY and len(keys) > 1:
            hint = "with several, nobody could tell which people were counted before"
            self.wrong("match.keys", f"one key with mode {mode}", str(len(keys)), hint)
        total, epoch = Total(), ""
        if mode == "sum":
            total = self.total(raw, brand, offers)
        elif "sum" in raw:
            self.wrong("match.sum", 'it only with mode = "sum"', f'mode "{mode}"')
        if mode == "epoch":
            epoch = self.name(raw, "match.epoch", "the name of the epoch under which the media has built its tokens")
        elif "epoch" in raw:
            self.wrong("match.epoch", 'it only with mode = "epoch"', f'mode "{mode}"')
        return protocol, total, epoch

    def total(self, raw: dict[str, Any], brand: Dataset | None, offers: list[Offer]) -> Total:
        own = self.table("match.sum", ("of", "column", "cap", "decimals"), raw)
        role = own.get("of")
        if role not in ROLES:
            self.wrong("match.sum.of", "brand or media: whose column it is", _shown(role) if role else "nothing")
            return Total()
        column = self.value_text(own, "match.sum.column", "the name of a column of numbers")
        if "cap" not in own:
            self.wrong("match.sum.cap", "the largest value that counts; larger ones count as this", "nothing")
        decimals = self.integer(own, "match.sum.decimals", 0, 6, 0)
        cap = self.integer(own, "match.sum.cap", 1, 10 ** (9 - decimals), 1)
        if role == "brand":
            shown = [(brand.name, brand.columns)] if brand is not None else []
        else:
            shown = [(f"{offer.partner}'s {offer.dataset}", offer.columns) for offer in offers]
        for whose, columns in shown if column else ():
            numbers = [each["name"] for each in columns if each["kind"] == "number"]
            if column not in numbers:
                hint = _near(column, numbers) or f"it has {_listed(numbers)}"
                self.wrong("match.sum.column", f"a column of numbers of {whose}", f'"{column}"', hint)
        return Total(role, column, cap * 10**decimals, decimals)

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

    def model(self, home: Home, store: Store, media: list[str]) -> Campaign | None:
        """The campaign whose models are used, if the file names one."""
        raw = self.table("model", ("campaign",))
        if "model" not in self.raw:
            return None
        named = self.value_text(raw, "model.campaign", "the short name of a campaign that has trained")
        kept = {each.short: each for each in store.campaigns() if models.is_kept(home, store, each)}
        if not named or named not in kept:
            if named:
                hint = _near(named, kept) or f"kept here: {_listed(kept)}; see `tidegate party models list`"
                self.wrong("model.campaign", "the short name of a campaign whose models are kept", f'"{named}"', hint)
            return None
        trained_with = [party.name for party in kept[named].contract.media]
        if sorted(trained_with) != sorted(media):
            self.wrong("model.campaign", f"a model trained with {_listed(media)}", _listed(trained_with))
        return kept[named]

    def privacy(self) -> Privacy:
        raw = self.table("privacy", ("epsilon", "delta"))
        if "privacy" not in self.raw:
            return Privacy()
        epsilon = self.milli(
            raw, "privacy.epsilon", 100, 20_000, "a number from 0.1 to 20, with three decimals at most", 2
        )
        delta = raw.get("delta", 1e-6)
        exponent = round(-math.log10(delta)) if isinstance(delta, float) and 0 < delta < 1 else 0
        if not 5 <= exponent <= 12 or not math.isclose(10.0**-exponent, float(delta), rel_tol=1e-9):
            self.wrong("privacy.delta", "a power of ten from 1e-5 to 1e-12", _shown(delta))
            exponent = 6
        return Privacy(epsilon, exponent)

    def outcome(self, store: Store, brand: Dataset | None, media: list[str], steps: tuple[Step, ...]) -> Outcome:
        known = ("campaign", "audience", "converted", "positive", "spend", "cap", "decimals", "cost")
        raw = self.table("outcome", known)
        wanted = any(step.step == "measure" for step in steps)
        if wanted != ("outcome" in self.raw):
            expected, found = ("a table [outcome]", "nothing") if wanted else ("it only with [steps.measure]", "it")
            self.wrong("outcome", expected, found, "it says which audience is measured, by which columns")
        if not wanted or "outcome" not in self.raw:
            return Outcome()
        named = self.value_text(raw, "outcome.campaign", "the short name of the campaign that made the audience")
        made = {each.short: each.contract for each in store.campaigns() if _left_alone(each)}
        if named and (named not in made or [party.name for party in made[named].media] != media):
            hint = _near(named, made) or f"with people left alone: {_listed(made)}"
            self.wrong(
                "outcome.campaign", "a campaign with the same media whose step expand left people alone", named, hint
            )
            return Outcome()
        tier = self.tier(raw, made[named]) if named else 0
        converted, positive = "", ""
        if "converted" in raw or "positive" in raw:
            converted = self.value_text(raw, "outcome.converted", "the name of the column that says who bought")
            positive = self.value_text(raw, "outcome.positive", "the value that means yes")
        spend, cap, decimals = "", 0, self.integer(raw, "outcome.decimals", 0, 6, 0)
        if "spend" in raw:
            spend = self.value_text(raw, "outcome.spend", "the name of a column of money")
            cap = self.integer(raw, "outcome.cap", 1, 10 ** (9 - decimals), 0) * 10**decimals
        elif "cap" in raw:
            self.wrong("outcome.cap", "it only with spend", _shown(raw["cap"]))
        cost = self.integer(raw, "outcome.cost", 0, 10 ** (15 - decimals), 0) * 10**decimals
        shown = {column["name"]: column["kind"] for column in brand.columns} if brand is not None else {}
        for key, column in (("converted", converted), ("spend", spend)):
            if brand is not None and column and column not in shown:
                hint = _near(column, shown) or f"its columns: {_listed(shown)}"
                self.wrong(f"outcome.{key}", f"a column of {brand.name}", f'"{column}"', hint)
            elif brand is not None and key == "spend" and column and shown[column] != "number":
                self.wrong("outcome.spend", "a column of numbers", f'"{column}"')
        return Outcome(named, tier, converted, positive, spend, cap, decimals, cost)

    def tier(self, raw: dict[str, Any], made: Contract) -> int:
        """The number of the audience among those of the campaign that made it."""
        expand = next(step for step in made.steps if step.step == "expand")
        sizes = next(value for key, value in expand.settings.items() if key in policy.AUDIENCES)
        listed = sizes if isinstance(sizes, list) else [sizes]
        audience = raw.get("audience", listed[-1])
        if audience not in listed:
            self.wrong(
                "outcome.audience", f"one of the sizes of that campaign ({_listed(map(str, listed))})", _shown(audience)
            )
            return 1
        return listed.index(audience) + 1

    def steps(self, guards: Guards, match: str, media: list[str], model: Campaign | None) -> tuple[Step, ...]:
        """The steps in the order of their tables; those of WITH_EACH for one media after the other."""
        raw = self.table("steps", STEPS)
        named = [name for name in raw if name in STEPS]
        if "steps" in self.raw and not named:
            self.wrong("steps", "at least one table like [steps.match]", "none")
        several, seeds = len(media) > 1, self.seeds()
        done: list[str] = []
        steps: list[Step] = []
        for name in named:
            apart = several and name in WITH_EACH
            after = protocol_after(match, name, several=several and not apart, seeds=seeds)
            protocol = {"doctor": DEFAULT_PROTOCOL["doctor"], "match": match}.get(name, after) or DEFAULT_PROTOCOL[name]
            missing = [
                need for need in CATALOG[protocol].needs if need not in done and not (need in FROM_MODEL and model)
            ]
            if missing:
                later = [need for need in missing if need in named]
                hint = "the steps run in the order of their tables" if later else f"add [steps.{missing[0]}]"
                if missing[0] in FROM_MODEL and not later:
                    hint += ", or name in [model] a campaign that has done it"
                self.wrong(f"steps.{name}", f"[steps.{missing[0]}] before it", "it later" if later else "none", hint)
            elif name not in WITH_EACH and after is None:
                self.no_such_step(name, match, media)
            done.append(name)
            settings = self.settings(name, protocol, raw, named, guards, model)
            steps += [Step(name, protocol, settings, each) for each in (media if apart else [""])]
        return tuple(steps)

    def no_such_step(self, name: str, match: str, media: list[str]) -> None:
        """Notes that a step does not run on what the match gives."""
        alignment, mode = CATALOG[match].alignment, CATALOG[match].mode
        if len(media) > 1:
            hint = "write a campaign for each media"
            self.wrong(f"steps.{name}", "one media with this step", f"{len(media)} ({_listed(media)})", hint)
        elif alignment == "hidden":
            hint = 'its result shows the media who is in it; mode = "both" allows it'
            self.wrong(f"steps.{name}", "a match that both sides learn", f'mode "{mode}"', hint)
        else:
            hint = 'with mode = "both" both sides learn which rows match, with mode = "brand" the brand alone'
            self.wrong(f"steps.{name}", "a match that tells which rows match", f'mode "{mode}"', hint)

    def seeds(self) -> bool:
        label = self.raw.get("label")
        return isinstance(label, dict) and label.get("seeds") is True

    def settings(
        self, name: str, protocol: str, raw: dict[str, Any], named: list[str], guards: Guards, model: Campaign | None
    ) -> dict[str, int | list[int]]:
        known: tuple[str, ...] = {
            "doctor": ("sample",),
            "train": ("steps", "l2", "lookalike_steps", "balance", "early_stop", "importance"),
            "expand": (*AUDIENCE_KEYS, "control"),
            "segment": ("k", "most_k", "starts", "iterations", "brand_weight", "media_weight"),
        }.get(name, ())
        if CATALOG[protocol].mode == "epoch":
            known = ("prefix_bits",)
        if CATALOG[protocol].seeds:
            known = (*(each for each in known if each != "lookalike_steps"), "others_per_seed")
        own = self.table(f"steps.{name}", known, raw)
        if CATALOG[protocol].mode == "epoch":
            return {"prefix_bits": self.integer(own, "steps.match.prefix_bits", *policy.PREFIX_BITS, 0)}
        if name == "doctor":
            return {"sample": self.sample(own, guards)}
        if name == "segment":
            return self.segmenting(own)
        if name == "train":
            return self.training(own, named, guards, seeds=CATALOG[protocol].seeds)
        if name == "expand":
            if model is not None and "train" not in named and not models.trains_lookalike(model.contract):
                found = f"{model.short}, which trained none"
                self.wrong("model.campaign", "a campaign with a model for other people", found, "train with expand")
            control = self.integer(own, "steps.expand.control", *policy.CONTROL_PERCENT, 0)
            return {**self.audiences(own), "control_percent": control}
        return {}

    def training(
        self, own: dict[str, Any], named: list[str], guards: Guards, *, seeds: bool
    ) -> dict[str, int | list[int]]:
        steps = self.integer(own, "steps.train.steps", 1, policy.HARD_GUARDS.train_steps, TRAIN_STEPS)
        lookalike = 0
        if "expand" in named and not seeds:
            lookalike = self.integer(own, "steps.train.lookalike_steps", 1, 11, LOOKALIKE_STEPS)
        elif "lookalike_steps" in own and not seeds:
            self.wrong("steps.train.lookalike_steps", "it only with [steps.expand]", _shown(own["lookalike_steps"]))
        if steps + lookalike > guards.train_steps:
            taken = f"{steps}" + (f" and {lookalike} for the lookalike model" if lookalike else "")
            hint = "each optimiser step tells the brand something; a data set has a budget of 12"
            self.wrong(
                "steps.train.steps", f"at most {guards.train_steps} steps in all (guards.train_steps)", taken, hint
            )
        switches = {name: self.switch(own, f"steps.train.{name}") for name in ("balance", "early_stop", "importance")}
        settings: dict[str, int | list[int]] = {
            "steps": steps,
            "l2_milli": self.l2_milli(own),
            "lookalike_steps": lookalike,
        }
        if seeds:
            others = self.integer(own, "steps.train.others_per_seed", *policy.OTHERS_PER_SEED, OTHERS)
            settings["others_per_seed"] = others
        return {**settings, **switches}

    def switch(self, own: dict[str, Any], key: str) -> int:
        value = own.get(key.rpartition(".")[2], False)
        if not isinstance(value, bool):
            self.wrong(key, "true or false", _shown(value))
            return 0
        return int(value)

    def segmenting(self, own: dict[str, Any]) -> dict[str, int | list[int]]:
        least, most = policy.SEGMENTS
        auto = own.get("k") == "auto"
        if "k" not in own:
            self.wrong("steps.segment.k", f'"auto", or a whole number from {least} to {most}', "nothing")
        if "most_k" in own and not auto:
            self.wrong("steps.segment.most_k", 'it only with k = "auto"', _shown(own["most_k"]))
        k = 0 if auto else self.integer(own, "steps.segment.k", least, most, least)
        weights = {}
        for side in ROLES:
            key, expected = f"steps.segment.{side}_weight", "a number from 0.001 to 1000, with three decimals at most"
            weights[f"{side}_weight"] = self.milli(own, key, 1, 10**6, expected, 1)
        return {
            "k": k,
            "most_k": self.integer(own, "steps.segment.most_k", least, most, MOST_SEGMENTS) if auto else max(k, least),
            "starts": self.integer(own, "steps.segment.starts", *policy.STARTS, STARTS),
            "iterations": self.integer(own, "steps.segment.iterations", *policy.ITERATIONS, ITERATIONS),
            **weights,
        }

    def ranges(self, features: dict[str, tuple[str, ...]], steps: tuple[Step, ...]) -> tuple[Range, ...]:
        """The ranges that the file declares, of columns that segments use."""
        raw = self.table("ranges", features)
        if "ranges" in self.raw and not any(step.step == "segment" for step in steps):
            self.wrong("ranges", "them only with [steps.segment]", "them")
        found = []
        for party in raw if isinstance(raw, dict) else ():
            columns = self.table(f"ranges.{party}", features.get(party, ()), raw)
            for column, ends in columns.items():
                pair = list(ends) if isinstance(ends, list) else []
                if len(pair) != 2 or not all(_is_number(end) for end in pair) or not pair[0] < pair[1]:
                    self.wrong(f"ranges.{party}.{column}", "two numbers, the lower first", _shown(ends))
                else:
                    found.append(Range(party, column, float(pair[0]), float(pair[1])))
        return tuple(found)

    def sample(self, own: dict[str, Any], guards: Guards) -> int:
        sample = self.integer(own, "steps.doctor.sample", *policy.SAMPLE_ROWS, SAMPLE)
        if guards.count_noise * doctor.SPREAD > sample:
            least = f"at least {doctor.SPREAD} times guards.count_noise ({guards.count_noise})"
            self.wrong("steps.doctor.sample", least, str(sample), "the noise would drown what is counted")
        return sample

    def shards(self, steps: tuple[Step, ...], offers: list[Offer]) -> None:
        """Notes prefixes that would leave a brand's people among too few of the media's."""
        for step, offer in itertools.product(steps, offers):
            bits = step.settings.get("prefix_bits")
            if (
                isinstance(bits, int)
                and bits
                and offer.rows >> bits < LEAST_SHARD
                and step.media in ("", offer.partner)
            ):
                expected = f"{LEAST_SHARD} of {offer.partner}'s {offer.rows} rows or more under each prefix"
                self.wrong("steps.match.prefix_bits", expected, str(bits), "0 asks for all and tells the media nothing")

    def l2_milli(self, own: dict[str, Any]) -> int:
        """Thousandths, 0 for "auto"."""
        if own.get("l2") == "auto":
            return 0
        return self.milli(
            own, "steps.train.l2", 1, 10**9, '"auto", or a number from 0.001 to 1000000 with at most three decimals', L2
        )

    def milli(self, own: dict[str, Any], key: str, low: int, high: int, expected: str, default: int) -> int:
        """A number with at most three decimals, in thousandths."""
        value = own.get(key.rpartition(".")[2], default)
        try:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise InvalidOperation
            milli = Decimal(str(value)) * 1000
            if not (low <= milli <= high and milli == int(milli)):
                raise InvalidOperation
        except (InvalidOperation, ValueError, OverflowError):
            self.wrong(key, expected, _shown(value))
            return default * 1000
        return int(milli)

    def audiences(self, own: dict[str, Any]) -> dict[str, int | list[int]]:
        """How large the audiences are, by one of the keys of AUDIENCE_KEYS."""
        given = [key for key in AUDIENCE_KEYS if key in own] or ["sizes"]
        if len(given) > 1:
            self.wrong("steps.expand", f"one of {_listed(AUDIENCE_KEYS)}", _listed(given))
        key = given[0]
        if key == "threshold":
            expected = "a probability from 0.001 to 0.999, with three decimals at most"
            return {"threshold_milli": [self.milli(own, "steps.expand.threshold", 1, 999, expected, 0) or 1]}
        low, high = policy.AUDIENCES[key]
        sizes = own.get(key, [5, 10, 20])
        whole = isinstance(sizes, list) and all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
        if not whole or not sizes or not all(low <= size <= high for size in sizes) or len(set(sizes)) != len(sizes):
            found = ", ".join(map(str, sizes)) if isinstance(sizes, list) else _shown(sizes)
            what = "percents" if key == "sizes" else "numbers of people"
            expected = f"a list of different whole {what} from {low} to {high}"
            self.wrong(f"steps.expand.{key}", expected, found or "an empty list")
            return {key: [low]}
        return {key: sorted(sizes)}

    def label_and_holdout(
        self, brand: Dataset | None, guards: Guards, steps: tuple[Step, ...]
    ) -> tuple[Label, Holdout]:
        names = {step.step for step in steps}
        raw_label = self.table("label", ("column", "positive", "weight", "seeds"))
        raw_holdout = self.table("holdout", ("column", "value", "share"))
        label, holdout = Label("", ""), Holdout("", "", 0)
        if not names & policy.NEED_LABEL and "label" not in self.raw:
            return label, holdout
        if "label" not in self.raw:
            self.wrong("label", "a table [label] with column and positive", "nothing", "it says who is a good customer")
        elif "seeds" in raw_label:
            label = self.label_of_seeds(raw_label, names)
        else:
            column = self.value_text(raw_label, "label.column", "the name of a column")
            positive_value = self.value_text(raw_label, "label.positive", "the value that means yes")
            weight = self.value_text(raw_label, "label.weight", "a column of numbers") if "weight" in raw_label else ""
            label = Label(column, positive_value, weight)
        if "train" in names or "holdout" in self.raw:
            holdout = self.holdout(raw_holdout)
        if "train" in names and holdout.column and policy.is_hidden(steps):
            hint = "the media scores the rows that are held out, and must not be told which of its people those are"
            self.wrong("holdout.column", 'a share with mode = "brand"', f'"{holdout.column}"', hint)
        if brand is not None:
            rows = self.rows(brand)
            if rows is not None:
                positive = self.label(brand, rows, label, guards)
                self.weights(brand, rows, label)
                self.holdout_rows(brand, rows, holdout, positive)
        return label, holdout

    def label_of_seeds(self, raw: dict[str, Any], names: set[str]) -> Label:
        if raw["seeds"] is not True or len(raw) > 1:
            self.wrong("label", "either seeds = true or column and positive", _listed(raw))
        if "insight" in names:
            self.wrong("steps.insight", "it only with a label column", "seeds alone", "all of them are good customers")
        raw_holdout = self.raw.get("holdout")
        if isinstance(raw_holdout, dict) and "column" in raw_holdout:
            self.wrong("holdout.column", "a share with seeds", _shown(raw_holdout["column"]))
        return Label("", "", seeds=True)

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

    def weights(self, brand: Dataset, rows: pa.Table, label: Label) -> None:
        if self.column(brand, rows, "label.weight", label.weight) is None:
            return
        kinds = {column["name"]: column["kind"] for column in brand.columns}
        if kinds.get(label.weight) != "number":
            self.wrong("label.weight", "a column of numbers", f'"{label.weight}"')
            return
        values = table.numbers(rows, label.weight)
        if not bool((values > 0).all()):
            self.wrong("label.weight", "numbers above 0 in every row", "others, or none", "leave such rows out")

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
        self,
        home: Home,
        brand: Dataset | None,
        offers: list[Offer],
        label: Label,
        holdout: Holdout,
        outcome: Outcome,
        steps: tuple[Step, ...],
    ) -> dict[str, tuple[str, ...]]:
        """The columns that the steps use, by party; matching uses none."""
        raw = self.table("features", ROLES)
        if "features" not in self.raw and all(step.step in WITH_EACH | {"measure"} for step in steps):
            return {home.name(): (), **{offer.partner: () for offer in offers}}
        found: dict[str, tuple[str, ...]] = {}
        used = {label.column, label.weight, holdout.column, outcome.converted, outcome.spend} - {""}
        if brand is not None:
            hidden = set(policy.load(home).hidden_columns)
            columns = [column for column in brand.columns if column["name"] not in hidden]
            found[home.name()] = self.chosen(raw, "features.brand", columns, used, f"data set {brand.name}", least=0)
        each = len(offers) > 1 and isinstance(raw.get("media"), dict)
        by_media = self.table("features.media", [offer.partner for offer in offers], raw) if each else raw
        for offer in offers:
            of = f"{offer.partner}'s data set {offer.dataset}"
            key = f"features.media.{offer.partner}" if each else "features.media"
            found[offer.partner] = self.chosen(by_media, key, offer.columns, set(), of, least=1)
        return found

    def columns_of(
        self, model: Campaign, home: Home, brand: Dataset | None, offers: list[Offer]
    ) -> dict[str, tuple[str, ...]]:
        """The columns of a kept model, which today's data sets must have as well."""
        there = {home.name(): (f"data set {brand.name}", brand.columns)} if brand is not None else {}
        there |= {offer.partner: (f"{offer.partner}'s data set {offer.dataset}", offer.columns) for offer in offers}
        for party, columns in model.contract.features.items():
            whose, described = there.get(party, ("", []))
            missing = set(columns) - set(policy.usable_features(described))
            if whose and missing:
                expected = f"the columns of the model {model.short} in {whose}"
                hint = f"{_listed(sorted(missing))} is not there, or holds no numbers or categories"
                self.wrong("model.campaign", expected, f"{len(columns) - len(missing)} of {len(columns)}", hint)
        return model.contract.features

    def model_features(self, model: Campaign, features: dict[str, tuple[str, ...]]) -> None:
        """Notes columns that differ from those of the model that training starts from."""
        for name in features:
            before, now = set(model.contract.features.get(name, ())), set(features[name])
            if before != now:
                listed = f"{_listed(sorted(before))} of {name}, as the model {model.short} has them"
                more, less = _listed(sorted(now - before)), _listed(sorted(before - now))
                hint = "list them, or train without [model]"
                self.wrong("model.campaign", listed, f"more: {more}; missing: {less}", hint)

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


def hidden_cost(made: Contract) -> list[str]:
    """A line for people when the steps run over all of the media's people, so that it cannot tell who matched."""
    brand, media = made.role("brand"), made.role("media")
    rows, columns = media.data.rows, len(made.features.get(media.name, ()))
    held_out = rows * made.holdout.percent // 100
    moved = 0
    for step in made.steps if policy.is_hidden(made.steps) else ():
        if step.step == "train":
            optimiser_steps, own = int(str(step.settings["steps"])), len(made.features.get(brand.name, ()))
            moved += traffic.of_training(rows - held_out, own, columns, optimiser_steps).both
            moved += traffic.of_scores(held_out, columns).both
        elif step.step == "score":
            moved += traffic.of_scores(rows, columns).both
        elif step.step == "insight":
            moved += traffic.of_sums(rows, columns, 2).both
    if not moved:
        return []
    return [
        f"the steps after the match run over all {rows:,} people of {media.name}, whoever matched, and move "
        f"{moved / 10**6:,.0f} MB or more (each category counts as a column)"
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_constant(column: dict[str, Any]) -> bool:
    # Ranges are percentiles rounded outward, so they cannot say it: `data add` counts.
    return bool(column["constant"])


def _left_alone(campaign: Campaign) -> bool:
    """Whether a campaign has made audiences of which some people were left alone."""
    return any(step.settings.get("control_percent") for step in campaign.contract.steps if step.step == "expand")
