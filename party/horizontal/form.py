"""The campaign file of clients that hold the same columns of different people.

[campaign]            name, expires_days (1 to 90, default 7)
[parties]             clients: 3 to 64 names of parties, the one that proposes among them
[data]                clients: the data set of all that have no line of their own; NAME: that of one client
[label]               column, positive: who is a good customer (logistic)
[features]            columns: a list, or "all" (default): the numbers, and true and false, of all clients
[ranges]              column = [low, high], for each column: values beyond are cut to it
[holdout]             share in percent (default 30; logistic)
[privacy]             epsilon, delta (default 1e-6), unit: client or row (logistic)
[steps.federate]      app: logistic or kmeans; rounds, least_rows (default 1000), secure (default true)
                      logistic: l2 (default 1), robust: median or trimmed mean, clip (default 1, with [privacy])
                      kmeans: k
[guards]              optional: floor
[learns]              optional: as in other files
"""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tidegate import __version__
from tidegate.protocols.channel import ConfigError
from tidegate.wire.contract import (
    CLIENT,
    LEAST_CLIENTS,
    MAX_CONTRACT_BYTES,
    MOST_PARTIES,
    VERSION,
    Contract,
    ContractParty,
    DataSet,
    Holdout,
    Label,
    Range,
    Step,
)

from .. import policy
from ..config import Home
from ..form import Form, is_constant, listing, meant, written
from ..store import Dataset, Store
from . import rules

TABLES = (
    *("campaign", "parties", "data", "label", "features", "ranges", "holdout", "privacy", "steps", "guards", "learns"),
)
NEEDED = ("campaign", "parties", "data", "ranges", "steps")
APPS = {"logistic": rules.LOGISTIC, "kmeans": rules.KMEANS}
ROUNDS = {rules.LOGISTIC: 30, rules.PRIVATE: 30, rules.KMEANS: 20}
L2, CLIP = 1, 1
OF_STEP = {
    rules.LOGISTIC: ("app", "rounds", "l2", "robust", "secure", "clip", "least_rows"),
    rules.PRIVATE: ("app", "rounds", "l2", "robust", "secure", "clip", "least_rows"),
    rules.KMEANS: ("app", "k", "rounds", "robust", "secure", "least_rows"),
}


@dataclass(frozen=True)
class Entered:
    """What a client enters, as this party knows it: registered here or offered. columns: by name."""

    party: str
    data: DataSet
    columns: dict[str, dict[str, Any]]


def is_horizontal(raw: dict[str, Any]) -> bool:
    """Whether a campaign file is one of clients."""
    parties, steps = raw.get("parties"), raw.get("steps")
    return (isinstance(parties, dict) and "clients" in parties) or (isinstance(steps, dict) and "federate" in steps)


class HorizontalForm(Form):
    """Makes the contract of a file that names clients; this party is one of them and proposes."""

    def contract(self, home: Home, store: Store, now_s: float) -> Contract | None:
        self.tables(TABLES, NEEDED)
        top = self.table("campaign", ("name", "expires_days"))
        name = self.name(top, "campaign.name", "a name for the campaign") if "campaign" in self.raw else ""
        days = self.integer(top, "campaign.expires_days", 1, policy.MAX_DAYS, 7)
        me = home.name()
        clients = self.clients(home, store)
        entered = self.entered(home, store, clients)
        guards = self.guards("floor")
        protocol = self.protocol()
        label, holdout = self.label_and_holdout(protocol, store, entered, me)
        privacy = self.privacy("unit")
        step = self.step(protocol, clients, entered, holdout)
        columns = self.features(entered, label, me)
        ranges = self.ranges(entered, columns)
        if self.checked.mistakes:
            return None
        most = rules.most_columns(step, len(clients))
        if len(columns) > most:
            hint = "each client gets the masked answers of all others in every round"
            self.wrong("features.columns", f"at most {most} with {len(clients)} clients", f"{len(columns)}", hint)
        learns = self.learns(policy.learns((step,), dict.fromkeys(clients, CLIENT), guards))
        if self.checked.mistakes:
            return None
        made = Contract(
            version=VERSION,
            software=__version__,
            campaign=name,
            nonce=secrets.token_hex(16),
            created_s=int(now_s),
            expires_s=int(now_s) + days * 86400,
            parties=tuple(self.member(home, store, one) for one in entered),
            keys=(),
            label=label,
            features=dict.fromkeys(clients, columns),
            holdout=holdout,
            steps=(step,),
            guards=guards,
            learns=learns,
            privacy=privacy,
            helper=home.coordinator_identity().hex(),
            ranges=ranges,
        )
        size = len(made.to_bytes())
        if size > MAX_CONTRACT_BYTES:
            expected = f"a contract of at most {MAX_CONTRACT_BYTES // 1024} KiB"
            self.wrong("features.columns", expected, f"{size // 1024} KiB", "enter fewer columns")
            return None
        self.checked.remarks += policy.loosened(guards) + rules.attention(made)
        self.checked.remarks += rules.lone_parts(made, policy.signed(store, me, made.hash))
        return made

    @staticmethod
    def member(home: Home, store: Store, entered: Entered) -> ContractParty:
        if entered.party == home.name():
            identity = home.load_identity().public
        else:
            partner = store.partner(entered.party)
            if partner is None:
                raise ConfigError(f"the card of {entered.party} is not trusted here", "`tidegate party trust` its card")
            identity = partner.identity
        return ContractParty(entered.party, CLIENT, identity.hex(), entered.data)

    def clients(self, home: Home, store: Store) -> list[str]:
        """Their names, this party first."""
        raw = self.table("parties", ("clients",))
        listed, me = raw.get("clients"), home.name()
        if "parties" not in self.raw:
            return []
        if not isinstance(listed, list):
            found = "nothing" if listed is None else written(listed)
            self.wrong("parties.clients", "a list of the names of all clients", found)
            return []
        partners = {partner.name: partner.identity for partner in store.partners()}
        found_clients: list[str] = []
        for given in listed:
            name = self.name({"clients": given}, "parties.clients", "the name of a party")
            if name and name != me and name not in partners:
                trusted = f"trust its card first: `tidegate party trust`; trusted: {listing(partners)}"
                hint = meant(name, [me, *partners]) or trusted
                self.wrong("parties.clients", "parties whose cards are trusted here", f'"{name}"', hint)
            elif name in found_clients:
                self.wrong("parties.clients", "each client once", f'"{name}" twice')
            elif name:
                found_clients.append(name)
        if me not in listed:
            hint = "one of the clients writes and proposes the campaign; name its folder with --home"
            self.wrong("parties.clients", f'this party, "{me}", among the clients', listing(map(str, listed)), hint)
        if len(set(map(str, listed))) < LEAST_CLIENTS:
            hint = f"{rules.OF_TWO}; find a third, or train as a brand and a media"
            expected = f"{LEAST_CLIENTS} to {MOST_PARTIES} clients"
            self.wrong("parties.clients", expected, f"{len(listed)} ({listing(map(str, listed))})", hint)
        if len(listed) > MOST_PARTIES:
            self.wrong("parties.clients", f"{LEAST_CLIENTS} to {MOST_PARTIES} clients", str(len(listed)))
        keys = [partners[name] for name in found_clients if name != me]
        if len(set(keys)) != len(keys):
            hint = "a party under two names counts as one organisation"
            self.wrong("parties.clients", "clients with different identity keys", "one key twice", hint)
        return sorted(found_clients, key=lambda name: name != me)

    def entered(self, home: Home, store: Store, clients: list[str]) -> list[Entered]:
        """The data sets of all clients whose lines are right."""
        raw = self.table("data", ("clients", *clients)) if clients else self.raw.get("data")
        if "data" not in self.raw or not isinstance(raw, dict):
            return []
        me = home.name()
        hidden = set(policy.load(home).hidden_columns)
        found = []
        for name in clients:
            key = f"data.{name}" if name in raw or "clients" not in raw else "data.clients"
            dataset = self.name(raw, key, f"the name of a data set of {name}")
            if not dataset:
                continue
            if name == me:
                own = {each.name: each for each in store.datasets()}
                if dataset in own:
                    data, columns = own[dataset], own[dataset].columns
                    made = DataSet(data.name, data.rows, data.commitment)
                    found.append(
                        Entered(me, made, {each["name"]: each for each in columns if each["name"] not in hidden})
                    )
                else:
                    hint = meant(dataset, own) or f"registered: {listing(own)}; `tidegate party data add` registers one"
                    self.wrong(key, "the name of a data set that is registered here", f'"{dataset}"', hint)
                continue
            offered = {offer.dataset: offer for offer in store.offers(sent=False) if offer.partner == name}
            if dataset in offered:
                offer = offered[dataset]
                made = DataSet(offer.dataset, offer.rows, offer.commitment)
                found.append(Entered(name, made, {each["name"]: each for each in offer.columns}))
            else:
                ask = f"ask for `tidegate party data offer {dataset} --to {me}`"
                hint = meant(dataset, offered) or f"offered: {listing(offered)}; {ask}"
                self.wrong(key, f"the name of a data set that {name} has offered", f'"{dataset}"', hint)
        return found

    def protocol(self) -> str:
        """The app that the step names."""
        raw = self.table("steps", ("federate",))
        if "steps" in self.raw and "federate" not in raw:
            self.wrong("steps", "a table [steps.federate]", "none", "it is the one step between clients")
        own = raw.get("federate")
        app = own.get("app") if isinstance(own, dict) else None
        if isinstance(app, str) and app in APPS:
            return rules.PRIVATE if "privacy" in self.raw and APPS[app] == rules.LOGISTIC else APPS[app]
        if isinstance(own, dict):
            found = "nothing" if app is None else written(app)
            self.wrong("steps.federate.app", f"one of {listing(APPS)}", found, meant(str(app), APPS))
        return rules.LOGISTIC

    def step(self, protocol: str, clients: list[str], entered: list[Entered], holdout: Holdout) -> Step:
        raw = self.raw["steps"] if isinstance(self.raw.get("steps"), dict) else {}
        own = self.table("steps.federate", OF_STEP[protocol], raw)
        limits = rules.SETTINGS[protocol]
        settings: dict[str, int | list[int]] = {
            "rounds": self.integer(own, "steps.federate.rounds", *limits["rounds"], ROUNDS[protocol]),
            "least_rows": self.least_rows(own, protocol, entered, holdout),
        }
        robust = self.robust(own, protocol, clients)
        settings["secure"] = self.secure(own, robust)
        if protocol == rules.KMEANS:
            if "k" not in own:
                self.wrong("steps.federate.k", "how many groups: a whole number from 2 to 32", "nothing")
            else:
                settings["k"] = self.integer(own, "steps.federate.k", *limits["k"], 2)
            if "privacy" in self.raw:
                self.wrong("privacy", 'it only with app = "logistic"', 'app "kmeans"', "centres get no noise")
            return Step("federate", protocol, settings)
        expected = "a number from 0.001 to 1000000, with three decimals at most"
        settings["l2_milli"] = self.milli(own, "steps.federate.l2", *limits["l2_milli"], expected, L2)
        if protocol == rules.PRIVATE:
            return Step("federate", protocol, {**settings, **self.noise(own)})
        if "clip" in own:
            self.wrong("steps.federate.clip", "it only with [privacy]", written(own["clip"]))
        return Step("federate", protocol, {**settings, "robust": robust})

    def least_rows(self, own: dict[str, Any], protocol: str, entered: list[Entered], holdout: Holdout) -> int:
        least = self.integer(
            own, "steps.federate.least_rows", *rules.SETTINGS[protocol]["least_rows"], rules.LEAST_ROWS
        )
        for one in entered:
            rows = rules.trained(one.data.rows, holdout.percent)
            if rows < least:
                left = f" to train on, of {one.data.rows:,} in all" if holdout.percent else ""
                self.wrong(
                    f"data.{one.party}",
                    f"{least:,} or more rows of each client to train on (steps.federate.least_rows)",
                    f"{rows:,}{left}",
                    rules.FEW_ROWS,
                )
        return least

    def robust(self, own: dict[str, Any], protocol: str, clients: list[str]) -> int:
        if "robust" not in own:
            return 0
        value, known = own["robust"], rules.ROBUST[1:]
        if value not in known:
            self.wrong("steps.federate.robust", f"one of {listing(known)}", written(value), meant(str(value), known))
            return 0
        if protocol == rules.KMEANS:
            hint = "centres are sums over rows; the middle of several clients' is the centre of no group"
            self.wrong("steps.federate.robust", 'it only with app = "logistic"', 'app "kmeans"', hint)
            return 0
        if protocol == rules.PRIVATE:
            hint = "the noise is shared out among the clients, and the middle of them has no share of it"
            self.wrong("steps.federate.robust", "it only without [privacy]", "both", hint)
            return 0
        if len(clients) < rules.FEWEST_ROBUST:
            hint = "of fewer, the middle is one client's own update"
            self.wrong("steps.federate.robust", f"{rules.FEWEST_ROBUST} clients or more", str(len(clients)), hint)
        return rules.ROBUST.index(value)

    def secure(self, own: dict[str, Any], robust: int) -> int:
        value = own.get("secure", True)
        if not isinstance(value, bool):
            self.wrong("steps.federate.secure", "true or false", written(value))
        elif robust and value:
            hint = "outliers can be left out only where the coordinator sees each client's updates: say so"
            self.wrong("steps.federate.secure", "secure = false with robust", "true", hint)
        elif not robust and not value:
            hint = "nothing is gained by showing the coordinator each client's updates"
            self.wrong("steps.federate.secure", "true without robust", "false", hint)
        return 0 if robust else 1

    def noise(self, own: dict[str, Any]) -> dict[str, int | list[int]]:
        """The settings of differential privacy beside epsilon and delta."""
        raw = self.raw["privacy"] if isinstance(self.raw["privacy"], dict) else {}
        unit, known = raw.get("unit"), tuple(rules.UNITS)
        if unit not in known:
            what = "row or client: whose part in all rounds the noise hides"
            self.wrong("privacy.unit", what, "nothing" if unit is None else written(unit), meant(str(unit), known))
        expected = "a number from 0.001 to 1000, with three decimals at most"
        clip = self.milli(own, "steps.federate.clip", *rules.SETTINGS[rules.PRIVATE]["clip_milli"], expected, CLIP)
        return {"clip_milli": clip, "unit": rules.UNITS[str(unit)] if unit in known else 0}

    def label_and_holdout(self, protocol: str, store: Store, entered: list[Entered], me: str) -> tuple[Label, Holdout]:
        if protocol == rules.KMEANS:
            for key in ("label", "holdout"):
                if key in self.raw:
                    self.wrong(key, 'it only with app = "logistic"', 'app "kmeans"', "groups are made without a label")
            return Label("", ""), Holdout("", "", 0)
        raw = self.table("label", ("column", "positive"))
        holdout = Holdout("", "", self.integer(self.table("holdout", ("share",)), "holdout.share", *rules.HELD_OUT, 30))
        if "label" not in self.raw:
            self.wrong("label", "a table [label] with column and positive", "nothing", "it says who is a good customer")
            return Label("", ""), holdout
        column = self.value_text(raw, "label.column", "the name of a column")
        label = Label(column, self.value_text(raw, "label.positive", "the value that means yes"))
        lack = [one for one in entered if column and column not in one.columns]
        if lack:
            known = next((one.columns for one in entered if one.party == me), {})
            hint = (
                meant(column, known) or f"it has to be in each data set: {_whose(lack)} has {listing(lack[0].columns)}"
            )
            self.wrong(
                "label.column", "a column that all clients have", f'"{column}", which {_whose(lack)} lacks', hint
            )
            return label, holdout
        own = next((one.data for one in entered if one.party == me), None)
        if own is not None and self.is_own_label(store.dataset(own.name), me, label):
            for one in entered:
                self.offered_label(one, label)
        return label, holdout

    def is_own_label(self, own: Dataset, me: str, label: Label) -> bool:
        """Whether this party's own rows have the label, after noting why not."""
        rows = self.rows(f"data.{me}", own)
        texts = self.column(own, rows, "label.column", label.column) if rows is not None else None
        return texts is not None and self.two_values(texts, label) is not None

    def offered_label(self, one: Entered, label: Label) -> None:
        """Notes a label whose values at a client cannot be those of the file; rare values are not in offers."""
        values = one.columns[label.column]["categories"]
        if len(values) > 1 and label.positive and label.positive not in values:
            hint = "all clients have to call it the same"
            self.wrong(
                "label.positive", f"a value of {one.party}'s {label.column} ({listing(values)})", label.positive, hint
            )

    def features(self, entered: list[Entered], label: Label, me: str) -> tuple[str, ...]:
        """The columns that all clients enter, in the order of the file, or else of this party's data set."""
        raw = self.table("features", ("columns",))
        value = raw.get("columns", "all")
        own = next((one.columns for one in entered if one.party == me), {})
        if value == "all":
            return self.all_columns(entered, label, own)
        if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
            found = "an empty list" if value == [] else written(value)
            self.wrong("features.columns", '"all" or a list of column names', found)
            return ()
        for name, times in Counter(value).items():
            if times > 1:
                self.wrong("features.columns", "each column once", f'"{name}" {times} times')
            if name == label.column:
                self.wrong("features.columns", "columns that are not the label", f'"{name}"')
                continue
            lack = [one for one in entered if name not in one.columns]
            if lack:
                hint = meant(name, own) or "the columns of all: " + listing(_common(entered))
                self.wrong(
                    "features.columns", "columns that all clients have", f'"{name}", which {_whose(lack)} lacks', hint
                )
                continue
            unlike = [one for one in entered if not rules.is_usable(one.columns[name])]
            if unlike:
                found = f'"{name}", which is {_kind(unlike[0].columns[name])} at {_whose(unlike)}'
                hint = "write each category that matters as a column of 1 and 0, and register the data set again"
                self.wrong("features.columns", "numbers, or true and false, at all clients", found, hint)
        if len(value) > rules.MOST_COLUMNS:
            self.wrong("features.columns", f"at most {rules.MOST_COLUMNS} columns", str(len(value)))
        return tuple(value)

    def all_columns(self, entered: list[Entered], label: Label, own: dict[str, dict[str, Any]]) -> tuple[str, ...]:
        if not entered:
            return ()
        common = [name for name in own if name in _common(entered) and name != label.column]
        names = [name for name in common if not all(is_constant(one.columns[name]) for one in entered)]
        for name, column in own.items():
            lack = [one for one in entered if name not in one.columns or not rules.is_usable(one.columns[name])]
            if rules.is_usable(column) and name != label.column and lack:
                self.checked.remarks.append(f'"{name}" is left out: it is no column of numbers at {_whose(lack)}')
        if not names:
            hint = "numbers, and true and false, that vary and are called the same at each client"
            self.wrong("features.columns", "columns that all clients have", "none", hint)
        if len(names) > rules.MOST_COLUMNS:
            self.wrong("features.columns", f"at most {rules.MOST_COLUMNS} columns", f"{len(names)} in all", "list them")
        return tuple(names)

    def ranges(self, entered: list[Entered], columns: tuple[str, ...]) -> tuple[Range, ...]:
        """One range for each column, declared for all clients."""
        if not columns or "ranges" not in self.raw:
            return ()
        raw = self.table("ranges", columns)
        found = []
        for name in columns:
            if name in raw:
                ends = self.ends(f"ranges.{name}", raw[name])
                if ends is not None:
                    found.append(Range("", name, *ends))
                continue
            shown = _offered([one.columns[name] for one in entered if name in one.columns])
            hint = f"what the clients have shown suggests {_toml_key(name)} = {shown}" if shown else ""
            self.wrong(f"ranges.{name}", "[low, high] for each column that all enter", "nothing", hint)
        return tuple(found)


def _whose(entered: Iterable[Entered]) -> str:
    return " and ".join(one.party for one in entered)


def _common(entered: list[Entered]) -> list[str]:
    """The columns that all clients can enter."""
    return [
        name
        for name in entered[0].columns
        if all(name in one.columns and rules.is_usable(one.columns[name]) for one in entered)
    ]


def _kind(column: dict[str, Any]) -> str:
    return {"category": "a category", "key": "an identifier"}.get(column["kind"], "text")


def _offered(columns: list[dict[str, Any]]) -> str:
    """The range that covers what data sets show of a column, as TOML; nothing where none shows any."""
    ends = [(0.0, 1.0) if rules.is_flag(column) else (column["low"], column["high"]) for column in columns]
    known = [(low, high) for low, high in ends if low is not None and high is not None]
    low, high = min((low for low, _ in known), default=0.0), max((high for _, high in known), default=0.0)
    return f"[{low:g}, {high:g}]" if low < high else ""


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
