"""The campaign file of a brand and its media as a contract: who, with which data, matched how, by which columns."""

from __future__ import annotations

import itertools
import secrets
from typing import Any

import pyarrow as pa

from tidegate import __version__
from tidegate.protocols.blind import traffic
from tidegate.protocols.catalog import CATALOG, DEFAULT_PROTOCOL, ENGINES, MODES, match_protocol
from tidegate.protocols.channel import ConfigError
from tidegate.protocols.psi.epoch import LEAST_SHARD
from tidegate.wire.contract import (
    KEY_FORMS,
    KEY_KINDS,
    KEY_PROFILES,
    ROLES,
    VERSION,
    Contract,
    ContractParty,
    DataSet,
    Guards,
    Holdout,
    Key,
    Label,
    Outcome,
    Range,
    Step,
    Total,
)

from . import models, policy
from .config import Home
from .data import table
from .form import listing, meant, written
from .store import Campaign, Dataset, Offer, Store
from .vertical_steps import WITH_EACH, StepsForm

TABLES = (
    *("campaign", "parties", "data", "match", "label", "features", "holdout", "model", "privacy", "outcome"),
    *("ranges", "steps", "guards", "learns", "demo"),
)
NEEDED = ("campaign", "parties", "data", "match", "steps")
MOST_MEDIA = 15
# Fewer seeds than this work, but the model will be coarse.
FEW_SEEDS = 1000


class VerticalForm(StepsForm):
    """Makes the contract of a file that names a brand and one media or several."""

    def contract(self, home: Home, store: Store, now_s: float) -> Contract | None:
        self.tables(TABLES, NEEDED)
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
                trusted = f"trust its card first: `tidegate party trust`; trusted: {listing(partners)}"
                near = meant(name, partners) or trusted
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
            hint = meant(brand, own) or f"registered: {listing(own)}; `tidegate party data add` registers one"
            self.wrong("data.brand", "the name of a data set that is registered here", f'"{brand}"', hint)
        given = raw.get("media")
        if isinstance(given, dict):
            given = self.table("data.media", media or given, raw)
        elif len(media) > 1:
            self.wrong("data.media", f"a table with a data set for each of {listing(media)}", written(given))
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
                hint = meant(dataset, offered) or f"offered: {listing(offered)}; {ask}"
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
                f"a list of kinds of identifier out of {listing(KEY_KINDS)}",
                written(kinds) if kinds is not None else "nothing",
            )
            return ()
        for kind in kinds:
            if kind not in KEY_KINDS:
                self.wrong(
                    "match.keys", f"kinds out of {listing(KEY_KINDS)}", written(kind), meant(str(kind), KEY_KINDS)
                )
                continue
            if brand is not None and kind not in brand.keys:
                hint = f"register it with `tidegate party data add {brand.name} FILE --key {kind}=COLUMN`"
                self.wrong("match.keys", f"keys of {brand.name} ({listing(brand.keys)})", f'"{kind}"', hint)
            for offer in offers:
                if kind not in offer.keys:
                    self.wrong(
                        "match.keys", f"keys of {offer.partner}'s {offer.dataset} ({listing(offer.keys)})", f'"{kind}"'
                    )
        if len(set(map(str, kinds))) != len(kinds):
            self.wrong("match.keys", "each kind once", written(", ".join(map(str, kinds))))
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
                self.wrong(key, f"one of {listing(known)}", written(word), meant(str(word), known))
            elif kind in found:
                found[kind] = word
        return found

    def match(self, brand: Dataset | None, offers: list[Offer], keys: tuple[Key, ...]) -> tuple[str, Total, str]:
        """The protocol that matches, the column it adds up and the epoch it runs under, where its mode has them."""
        raw = self.raw["match"] if isinstance(self.raw.get("match"), dict) else {}
        engine, mode = raw.get("engine", "oprf"), raw.get("mode", "both")
        for name, value, known in (("engine", engine, ENGINES), ("mode", mode, MODES)):
            if value not in known:
                self.wrong(f"match.{name}", f"one of {listing(known)}", written(value), meant(str(value), known))
                return DEFAULT_PROTOCOL["match"], Total(), ""
        protocol = match_protocol(engine, mode)
        if protocol is None:
            self.wrong("match.mode", f"a mode of the engine {engine}", written(mode))
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
            self.wrong("match.sum.of", "brand or media: whose column it is", written(role) if role else "nothing")
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
                hint = meant(column, numbers) or f"it has {listing(numbers)}"
                self.wrong("match.sum.column", f"a column of numbers of {whose}", f'"{column}"', hint)
        return Total(role, column, cap * 10**decimals, decimals)

    def model(self, home: Home, store: Store, media: list[str]) -> Campaign | None:
        """The campaign whose models are used, if the file names one."""
        raw = self.table("model", ("campaign",))
        if "model" not in self.raw:
            return None
        named = self.value_text(raw, "model.campaign", "the short name of a campaign that has made it")
        steps = self.raw.get("steps")
        makers = models.makers(list(steps) if isinstance(steps, dict) else [])
        kept = {
            each.short: each
            for each in store.campaigns()
            if all(models.is_kept(home, store, each, maker) for maker in makers)
        }
        if not named or named not in kept:
            if named:
                hint = meant(named, kept) or f"kept here: {listing(kept)}; see `tidegate party models list`"
                self.wrong("model.campaign", "the short name of a campaign whose models are kept", f'"{named}"', hint)
            return None
        trained_with = [party.name for party in kept[named].contract.media]
        if sorted(trained_with) != sorted(media):
            self.wrong("model.campaign", f"a model trained with {listing(media)}", listing(trained_with))
        return kept[named]

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
            hint = meant(named, made) or f"with people left alone: {listing(made)}"
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
            self.wrong("outcome.cap", "it only with spend", written(raw["cap"]))
        cost = self.integer(raw, "outcome.cost", 0, 10 ** (15 - decimals), 0) * 10**decimals
        shown = {column["name"]: column["kind"] for column in brand.columns} if brand is not None else {}
        for key, column in (("converted", converted), ("spend", spend)):
            if brand is not None and column and column not in shown:
                hint = meant(column, shown) or f"its columns: {listing(shown)}"
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
                "outcome.audience",
                f"one of the sizes of that campaign ({listing(map(str, listed))})",
                written(audience),
            )
            return 1
        return listed.index(audience) + 1

    def ranges(self, features: dict[str, tuple[str, ...]], steps: tuple[Step, ...]) -> tuple[Range, ...]:
        """The ranges that the file declares, of columns that segments use."""
        raw = self.table("ranges", features)
        if "ranges" in self.raw and not any(step.step == "segment" for step in steps):
            self.wrong("ranges", "them only with [steps.segment]", "them")
        found = []
        for party in raw if isinstance(raw, dict) else ():
            columns = self.table(f"ranges.{party}", features.get(party, ()), raw)
            for column, value in columns.items():
                ends = self.ends(f"ranges.{party}.{column}", value)
                if ends is not None:
                    found.append(Range(party, column, *ends))
        return tuple(found)

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
            rows = self.rows("data.brand", brand)
            if rows is not None:
                positive = self.label(brand, rows, label, guards)
                self.weights(brand, rows, label)
                self.holdout_rows(brand, rows, holdout, positive)
        return label, holdout

    def label_of_seeds(self, raw: dict[str, Any], names: set[str]) -> Label:
        if raw["seeds"] is not True or len(raw) > 1:
            self.wrong("label", "either seeds = true or column and positive", listing(raw))
        if "insight" in names:
            self.wrong("steps.insight", "it only with a label column", "seeds alone", "all of them are good customers")
        raw_holdout = self.raw.get("holdout")
        if isinstance(raw_holdout, dict) and "column" in raw_holdout:
            self.wrong("holdout.column", "a share with seeds", written(raw_holdout["column"]))
        return Label("", "", seeds=True)

    def holdout(self, raw: dict[str, Any]) -> Holdout:
        if "share" in raw and ({"column", "value"} & set(raw)):
            self.wrong("holdout", "either column and value, or share", "both")
        if "column" in raw or "value" in raw:
            column = self.value_text(raw, "holdout.column", "the name of a column")
            return Holdout(column, self.value_text(raw, "holdout.value", "the value of the rows that are held out"), 0)
        return Holdout("", "", self.integer(raw, "holdout.share", 5, 80, 30))

    def label(self, brand: Dataset, rows: pa.Table, label: Label, guards: Guards) -> list[bool] | None:
        texts = self.column(brand, rows, "label.column", label.column)
        if texts is None:
            return None
        counts = self.two_values(texts, label)
        if counts is None:
            return None
        if counts[label.positive] < guards.seeds:
            expected = f"at least {guards.seeds} rows with the positive value (guards.seeds)"
            self.wrong("label.positive", expected, str(counts[label.positive]), "fewer say too little")
        elif counts[label.positive] < FEW_SEEDS:
            self.checked.remarks.append(
                f"{counts[label.positive]} good customers before matching: enough from {guards.seeds} matched ones on, "
                f"better from {FEW_SEEDS}"
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
            hint = meant(holdout.value, values) or f"its values: {listing(values, 5)}"
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
                hint = f"{listing(sorted(missing))} is not there, or holds no numbers or categories"
                self.wrong("model.campaign", expected, f"{len(columns) - len(missing)} of {len(columns)}", hint)
        return model.contract.features

    def model_features(self, model: Campaign, features: dict[str, tuple[str, ...]]) -> None:
        """Notes columns that differ from those of the model that training starts from."""
        for name in features:
            before, now = set(model.contract.features.get(name, ())), set(features[name])
            if before != now:
                listed = f"{listing(sorted(before))} of {name}, as the model {model.short} has them"
                more, less = listing(sorted(now - before)), listing(sorted(before - now))
                hint = "list them, or train without [model]"
                self.wrong("model.campaign", listed, f"more: {more}; missing: {less}", hint)

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


def _left_alone(campaign: Campaign) -> bool:
    """Whether a campaign has made audiences of which some people were left alone."""
    return any(step.settings.get("control_percent") for step in campaign.contract.steps if step.step == "expand")
