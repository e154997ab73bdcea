"""What the party's commands print: tables, contracts, progress, results. Text from outside is printed as it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tidegate.protocols.catalog import CATALOG
from tidegate.protocols.channel import TidegateError
from tidegate.wire.contract import Contract, Step

from . import policy
from .agreed import terms
from .horizontal import rules
from .store import FINAL, Campaign, Offer, Run, Store
from .vertical_form import few_columns, hidden_cost

STATE_STYLE = {
    "done": "green",
    "failed": "red",
    "refused": "red",
    "cancelled": "red",
    "expired": "red",
    "running": "cyan",
}

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def say(text: str, style: str = "") -> None:
    # A terminal gets whole words; a pipe or a file gets whole lines.
    console.print(Text(text, style), soft_wrap=not console.is_terminal)


def notices(lines: Iterable[str]) -> None:
    for line in lines:
        errors.print(Text(f"* {line}", "cyan"), soft_wrap=True)


def day(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def table(*columns: str, whole: int = 0) -> Table:
    """A table with these heads; the first `whole` columns are never broken over lines."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for at, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=at < whole)
    return made


def row(to: Table, *cells: str) -> None:
    to.add_row(*(Text(cell) for cell in cells))


def offer_columns(offer: Offer) -> Table:
    shown = table("column", "kind", "values", "missing")
    for column in offer.columns:
        row(shown, column["name"], column["kind"], _values(column), f"{column['missing_percent']} %")
    return shown


def _values(column: dict[str, Any]) -> str:
    if column["constant"]:
        return "always the same"
    if column["kind"] == "category":
        return ", ".join(column["categories"])
    if column["low"] is None:
        return ""
    return f"{column['low']:g} to {column['high']:g}"


def missing_signatures(store: Store, campaign: Campaign) -> list[str]:
    signed = store.signatures(campaign.hash)
    return [party.name for party in campaign.contract.parties if party.name not in signed]


def state(store: Store, campaign: Campaign, me: str) -> str:
    """The state in words: who must sign, how many steps of party `me` are done, who stopped it and why."""
    if campaign.state == "signing":
        missing = missing_signatures(store, campaign)
        return f"waits for the approval of {', '.join(missing)}" if missing else "signed by all"
    if campaign.state in ("running", "waiting"):
        steps = own_steps(campaign.contract, me)
        done = sum(1 for index in steps if store.committed_run(campaign.hash, index))
        at = f"{campaign.state}, {done} of {len(steps)} steps done"
        return f"{at}: {campaign.reason}" if campaign.reason else at
    by = f" by {campaign.by}" if campaign.by and campaign.state in ("refused", "cancelled") else ""
    at = f" at {campaign.by}" if campaign.by and campaign.state == "failed" else ""
    return f"{campaign.state}{by}{at}{f': {campaign.reason}' if campaign.reason else ''}"


def own_steps(made: Contract, me: str) -> dict[int, Step]:
    """The steps in which a party takes part, by their place in the contract."""
    return {index: step for index, step in enumerate(made.steps) if made.takes_part(me, step)}


def contract(store: Store, campaign: Campaign, me: str, problems: list[TidegateError]) -> None:
    """Everything a person should read before signing."""
    made = campaign.contract
    say(f"Campaign {made.campaign}  ({campaign.short})", "bold")
    say(
        f"proposed by {campaign.proposer} on {day(made.created_s)}, valid until {day(made.expires_s)}; "
        f"{state(store, campaign, me)}"
    )
    parties = table("party", "role", "data set", "rows", "columns used", "identity key")
    for party in made.parties:
        used = made.features.get(party.name, ())
        name = f"{party.name} (this party)" if party.name == me else party.name
        row(
            parties,
            name,
            party.role,
            party.data.name,
            f"{party.data.rows:,}",
            str(len(used)),
            f"{party.identity[:16]}...",
        )
    console.print(parties)
    say("")
    for name, text in terms(made).items():
        say(f"{name}: {text}")
    for whose, used in columns(made).items():
        say(f"Columns of {whose}: {', '.join(used) if used else 'none'}")
    steps(made)
    guards(made)
    learned(made)
    for line in changes(store, campaign, me):
        say(line)
    for line in rules.lone_parts(made, policy.signed(store, me, made.hash)):
        say(f"attention: {line}", "yellow")
    for problem in problems:
        say(f"Not acceptable here: {problem.text}{f' ({problem.hint})' if problem.hint else ''}", "red")


def columns(made: Contract) -> dict[str, tuple[str, ...]]:
    """The columns that a contract uses, by whose they are."""
    if made.is_horizontal:
        return {"each client": made.features[made.parties[0].name]}
    return {party.name: made.features.get(party.name, ()) for party in made.parties}


def steps(made: Contract) -> None:
    say("")
    say("Steps", "bold")
    for number, step in enumerate(made.steps, 1):
        entry = CATALOG[step.protocol]
        settings = ", ".join(f"{name} {_setting(value)}" for name, value in sorted(step.settings.items()))
        between = " and ".join(party.name for party in made.members(step)) if step.media else ""
        between = f", between {between}" if between else ""
        say(f"  {number}. {entry.title}{between}{f'  [{settings}]' if settings else ''}")


def _setting(value: int | list[int]) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


def guards(made: Contract) -> None:
    say("")
    say("Guards", "bold")
    figures = made.guards
    if made.is_horizontal:
        group = f"; no group of fewer than {figures.floor} rows of all together" if made.label.column == "" else ""
        say(f"  nothing of a client with fewer than {made.steps[0].settings['least_rows']} rows{group}")
    else:
        say(
            f"  nothing about fewer than {figures.floor} people; {figures.seeds} or more good customers to learn from; "
            f"at most {figures.train_steps} training steps; count noise {figures.count_noise}; "
            f"{figures.score_levels} score levels"
        )
    for line in attention(made):
        say(f"  attention: {line}", "yellow")


def attention(made: Contract) -> list[str]:
    """Lines for people who sign: what they might not expect of a contract."""
    found = policy.loosened(made.guards)
    if made.is_horizontal:
        return found + rules.attention(made)
    return found + few_columns(made.features.get(made.role("media").name, ()), made.steps) + hidden_cost(made)


def learned(made: Contract) -> None:
    """Who learns what, and what all of it rests on."""
    say("")
    say("What each one learns", "bold")
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in (*(party.name for party in made.parties), "coordinator"):
        groups.setdefault(made.learns.get(name, ()), []).append(name)
    for lines, names in groups.items():
        say(f"  {', '.join(names)}{', each' if len(names) > 1 else ''}")
        for line in lines:
            say(f"    - {line}")
    say("  This rests on")
    for line in dict.fromkeys(line for step in made.steps for line in CATALOG[step.protocol].assumes):
        say(f"    - {line}")
    say("")


def changes(store: Store, campaign: Campaign, me: str) -> list[str]:
    """What differs from the last contract with the same parties that this party signed."""
    made = campaign.contract
    names = {party.name for party in made.parties}
    earlier = [
        other
        for other in store.campaigns()
        if other.added_s <= campaign.added_s and other.hash != campaign.hash and me in store.signatures(other.hash)
    ]
    for other in reversed(earlier):
        try:
            before = other.contract
        except TidegateError:
            continue
        if {party.name for party in before.parties} == names:
            found = list(_differences(before, made))
            return [f"Compared with {before.campaign} ({other.short}), the last that was signed here:"] + [
                f"  - {line}" for line in found or ["nothing else"]
            ]
    return []


def _differences(before: Contract, now: Contract) -> Iterable[str]:
    pairs: dict[str, Callable[[Contract], str]] = {
        "steps": lambda made: ", ".join(f"{step.name} {_settings(step.settings)}".strip() for step in made.steps),
        "guards": lambda made: str(made.guards),
        "data sets": lambda made: ", ".join(
            f"{party.data.name} {party.data.commitment[:12]}" for party in made.parties
        ),
    }
    old_terms, new_terms = terms(before), terms(now)
    for name in dict.fromkeys([*old_terms, *new_terms]):
        if old_terms.get(name) != new_terms.get(name):
            yield f"{name[:1].lower()}{name[1:]}: {old_terms.get(name, 'none')} -> {new_terms.get(name, 'none')}"
    for name, read in pairs.items():
        if read(before) != read(now):
            yield f"{name}: {read(before)} -> {read(now)}"
    for party in now.parties:
        old, new = set(before.features.get(party.name, ())), set(now.features.get(party.name, ()))
        if new - old:
            yield f"columns of {party.name} added: {', '.join(sorted(new - old))}"
        if old - new:
            yield f"columns of {party.name} left out: {', '.join(sorted(old - new))}"


def _settings(settings: dict[str, int | list[int]]) -> str:
    return " ".join(f"{name}={_setting(value)}" for name, value in sorted(settings.items()))


def progress(store: Store, campaign: Campaign, me: str, last: str) -> RenderableType:
    """The steps of party `me` with how far each is, and the last thing that happened."""
    shown = table("step", "state", "attempts", "seconds", "sent", "received")
    for index, step in own_steps(campaign.contract, me).items():
        found = step_status(store.runs(campaign.hash), index)
        style = {"done": "green", "running": "cyan", "failed": "yellow"}.get(found["state"], "dim")
        figures = (
            (f"{found['seconds']:.1f}", size(found["sent"]), size(found["received"])) if found["seconds"] else ("",) * 3
        )
        shown.add_row(step.name, Text(found["state"], style), str(found["attempts"] or ""), *figures)
    head = Text.assemble(
        (campaign.name, "bold"), " ", (state(store, campaign, me), STATE_STYLE.get(campaign.state, "yellow"))
    )
    return Group(head, shown, Text(last, "dim"))


def step_status(runs: list[Run], index: int) -> dict[str, Any]:
    """How far a step is at this party: waiting, running, done, or failed and to be started again."""
    own = [run for run in runs if run.step == index]
    found: dict[str, Any] = {"state": "waiting", "attempts": len(own), "seconds": 0.0, "sent": 0, "received": 0}
    if own:
        stands = next((run for run in own if run.state == "committed"), own[-1])
        state_of = {"committed": "done", "prepared": "running", "started": "running", "failed": "failed"}
        found |= {
            "state": state_of[stands.state],
            "started_s": stands.started_s,
            "seconds": stands.seconds,
            "sent": stands.sent,
            "received": stands.received,
        }
        if stands.state == "failed":
            found["reason"] = stands.reason
    return found


def status(store: Store, campaign: Campaign, me: str) -> dict[str, Any]:
    """The campaign's state for programs, and how far the steps of party `me` are."""
    runs = store.runs(campaign.hash)
    return {
        "campaign": campaign.name,
        "contract": campaign.hash.hex(),
        "state": campaign.state,
        "over": campaign.state in FINAL,
        "reason": campaign.reason,
        "by": campaign.by,
        "proposer": campaign.proposer,
        "expires_s": campaign.contract.expires_s,
        "signed_by": sorted(store.signatures(campaign.hash)),
        "steps": [
            {"step": step.name, **step_status(runs, index)} for index, step in own_steps(campaign.contract, me).items()
        ],
    }


def size(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 100_000 else f"{n / 1e3:.1f} kB"


def results(folder: Path, made: Contract, me: str) -> None:
    """A summary of the committed steps at this party, from their facts."""
    together: dict[str, Any] | None = None
    for step in own_steps(made, me).values():
        facts = read_facts(folder / step.name)
        if not facts:
            continue
        say(step.name, "bold")
        for line in _SUMMARIES[step.step](facts):
            say(f"  {line}")
        files = sorted(path for path in (folder / step.name).iterdir() if path.name not in ("facts.json", "model.json"))
        for path in files:
            if path.suffix == ".parquet":
                say(f"  file: {path}", "dim")
        together = facts.get("together", together)
    if together is not None:
        say("known together", "bold")
        for line in _together(together):
            say(f"  {line}")
    if "match" in {step.step for step in made.steps}:
        say("")
    say("What this party learned", "bold")
    lines = [line for step in made.steps for line in (read_facts(folder / step.name) or {}).get("learned", [])]
    for line in dict.fromkeys(lines):
        say(f"  - {line}")


def read_facts(folder: Path) -> dict[str, Any] | None:
    path = folder / "facts.json"
    if not path.is_file():
        return None
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def _doctor(facts: dict[str, Any]) -> Iterable[str]:
    under = f"fewer than {facts['floor'] / facts['rate']:,.0f}"

    def people(found: dict[str, Any]) -> str:
        return under if found["matches"] is None else f"about {found['matches']:,}"

    for key in facts["keys"]:
        yield f"{key['kind']}: {people(key['agreed'])} people match as the campaign says"
        for pair in key["pairs"]:
            if pair["is_best"] and not pair["is_agreed"]:
                yield f"  {people(pair)} with {facts['brand']}: {pair['brand']}; {facts['media']}: {pair['media']}"
        for advice in key["advice"]:
            yield f"  -> {advice['side']}: {advice['text']}"
        if not key["advice"]:
            yield "  -> nothing to change: no other spelling that was tried matches more"


def _match(facts: dict[str, Any]) -> Iterable[str]:
    if facts.get("mode") == "sum":
        yield from _sum(facts)
        return
    if "size" in facts:
        keys = ", ".join(f"{number:,} by {kind}" for kind, number in facts["by_key"].items())
        yield f"{facts['size']:,} people matched ({keys})"
    else:
        yield f"{facts['floor']:,} or more people matched by {' and by '.join(facts['reached'])}"
    yield f"of {facts['brand_rows']:,} at the brand and {facts['media_rows']:,} at the media"
    if "engine" in facts:
        yield f"engine {facts['engine']}, mode {facts['mode']}, group arithmetic by {facts['group']}"


def _sum(facts: dict[str, Any]) -> Iterable[str]:
    matched = f"{facts['size']:,}" if "size" in facts else f"{facts['floor']:,} or more"
    yield f"{matched} people matched"
    yield f"of {facts['brand_rows']:,} at the brand and {facts['media_rows']:,} at the media"
    if "sum" in facts:
        yield f"their {facts['column']} adds up to {facts['sum']:,} (noise of {facts['noise_sd']:,})"
    if "clipped" in facts:
        yield f"{facts['clipped']:,} rows of {facts['column']} were cut to 0 to {facts['cap']:,}"
    yield f"engine {facts['engine']}, mode {facts['mode']}, group arithmetic by {facts['group']}"


def _together(facts: dict[str, Any]) -> Iterable[str]:
    yield f"of {facts['rows']:,} rows " + ", ".join(
        f"{_or_fewer(number, facts['floor'])} are known to {name}" for name, number in facts["known_to"].items()
    )
    for which in ("any", "all"):
        if facts[which] is not None:
            yield f"{facts[which]:,} are known to {which} of them"
    if None in (facts["any"], facts["all"]):
        yield f"what is left out would tell of fewer than {facts['floor']:,} people"


def _or_fewer(number: int | None, floor: int) -> str:
    return f"fewer than {floor:,}" if number is None else f"{number:,}"


def _spent(facts: dict[str, Any]) -> Iterable[str]:
    """Of differential privacy what a media's data set has given so far."""
    if "privacy" in facts:
        spent, delta = facts["privacy"]["spent"], facts["privacy"]["delta"]
        yield f"differential privacy: epsilon {spent:.2f} at delta {delta:.0e} spent on this state of the data so far"


def _insight(facts: dict[str, Any]) -> Iterable[str]:
    if not isinstance(facts["features"], list):
        yield f"{facts['features']} columns were counted for the brand"
        yield from _spent(facts)
        return
    bins = [(item["index"], feature["name"], item) for feature in facts["features"] for item in feature["bins"]]
    ranked = sorted(bins, key=lambda entry: -entry[0])
    yield f"{100 * facts['base_rate']:.1f} % of the matched people are good customers (index 100)"
    for index, name, item in ranked[:5]:
        yield f"index {index:.0f}: {name} {item['label']} ({item['matched']:,} people)"
    for feature in sorted(facts["features"], key=lambda feature: -feature["iv"])[:5]:
        yield f"information value {feature['iv']:.2f} ({feature['strength']}): {feature['name']}"


def _train(facts: dict[str, Any]) -> Iterable[str]:
    yield f"{facts['rows']['train']:,} rows to train on, {facts['rows']['holdout']:,} held out"
    if facts.get("started_from"):
        yield f"started from the model {facts['started_from']}"
    if facts.get("stopped"):
        yield f"came to rest after {facts['steps']} optimiser steps"
    if facts.get("l2_tried"):
        yield f"L2 penalty {facts['l2']:g}, chosen on the brand's own columns"
    if "auc" not in facts:
        return
    auc = facts["auc"]
    if "joint" not in auc:
        yield f"{facts['others']['drawn']:,} of {facts['others']['pool']:,} other people stand for the rest"
        yield f"AUC {auc['media_only']:.3f}: the brand's people told from the media's others"
        return
    yield f"AUC {auc['joint']:.3f} together, {auc['brand_only']:.3f} with the brand's own columns alone"
    if facts["gain_interval"] is not None:
        low, high = facts["gain_interval"]
        verdict = "" if low > 0 or high < 0 else ": within noise, joining is not shown to help"
        yield f"gain of joining {facts['gain']:+.3f} (95 % interval {low:+.3f} to {high:+.3f}){verdict}"
    lift = facts["lift_at"]["10"]
    yield f"good customers in the best tenth: {lift['joint']:.1f} times the average ({lift['brand_only']:.1f} alone)"


def _score(facts: dict[str, Any]) -> Iterable[str]:
    by = f" by the model {facts['model']}" if facts.get("model") else ""
    yield f"{facts['rows']:,} matched customers scored{by}"
    if "expected_rate" in facts:
        yield f"{100 * facts['expected_rate']:.1f} % of them are expected to be good customers"


def _expand(facts: dict[str, Any]) -> Iterable[str]:
    yield f"{facts['pool']:,} other people searched"
    for found in facts["sizes"]:
        lift = found.get("expected_lift")
        expected = f", expected lift {lift:.1f}" if lift else ""
        alone = f", {found['left_alone']:,} of them left alone" if found.get("left_alone") else ""
        yield f"audience {found.get('name', found['percent'])}: {found['people']:,} people{alone}{expected}"


def _measure(facts: dict[str, Any]) -> Iterable[str]:
    if "people" in facts:
        people = facts["people"]
        yield f"{people['exposed']:,} people of the audience against {people['control']:,} who were left alone"
        if facts["gone"]:
            yield f"{facts['gone']:,} people of the audience are not in the data set any more"
        return
    if facts["verdict"] == "untold":
        yield "too few people for the noise: nothing can be told"
        return
    first, second = facts["rates"]
    yield f"{100 * first:.2f} % of the audience bought, {100 * second:.2f} % of those left alone"
    low, high = facts["customers"]["interval"]
    none = ": within chance and noise, no effect is shown" if facts["verdict"] == "none" else ""
    yield f"customers brought: {facts['customers']['value']:,.0f} (95 % interval {low:,.0f} to {high:,.0f}){none}"
    if "sales" in facts:
        low, high = facts["sales"]["interval"]
        yield f"sales brought: {facts['sales']['value']:,.2f} (95 % interval {low:,.2f} to {high:,.2f})"
    if "cost" in facts:
        cost = facts["cost_of_customer"]
        told = "not shown to be above zero customers" if cost is None else f"{cost['value']:,.2f}"
        yield f"cost of a customer brought: {told}"


def _segment(facts: dict[str, Any]) -> Iterable[str]:
    explained = f"{100 * facts['explained']:.0f} %"
    yield f"{facts['rows']:,} people in {facts['k']} segments, which explain {explained} of how they differ"
    yield from _segments(facts)
    if facts["left_out"]:
        yield f"{facts['left_out']} segments had too few people; they are in the others now"
    if facts["rule"] == "elbow":
        yield "no number of segments is found again in another half of the people: take them for a rough division"
    if facts["stability"] is not None:
        yield f"agreement between starts: {facts['stability']:.2f} (1 is the same segments each time)"


def _assign(facts: dict[str, Any]) -> Iterable[str]:
    of = f"of campaign {facts['model']}" if facts["model"] else "found before"
    yield f"{facts['rows']:,} people put into the segments {of}"
    yield from _segments(facts)
    if facts["left_out"]:
        listed = ", ".join(map(str, facts["left_out"]))
        yield f"of segment {listed} there were too few: they are in the others"


def _segments(facts: dict[str, Any]) -> Iterable[str]:
    for each in facts["segments"]:
        name = f" ({each['name']})" if "name" in each else ""
        yield f"segment {each['number']}{name}: {each['size']:,} people, {each['share']:.0f} %"


def _federate(facts: dict[str, Any]) -> Iterable[str]:
    rows, clients = facts["rows"], len(facts["clients"])
    held_out = f", {rows['holdout']:,} held out" if rows["holdout"] else ""
    yield f"{rows['all']:,} rows of {clients} clients; {rows['train']:,} of them trained on here{held_out}"
    ended = "until nothing was left to gain" if facts["converged"] else "as many as were agreed"
    yield f"{facts['rounds']} rounds, {ended}; {facts['round_ms']:.0f} ms each"
    own = facts.get("own") or {}
    if own:
        yield f"AUC {own['auc']:.3f} on own rows held out, {own['auc_alone']:.3f} with a model of own rows alone"
    for group in facts.get("segments", ()):
        yield f"group {group['number']}: about {group['size']:,.0f} rows of all clients, {group['own']:,} here"
    yield from _spent(facts)


_SUMMARIES = {
    "doctor": _doctor,
    "match": _match,
    "insight": _insight,
    "train": _train,
    "score": _score,
    "expand": _expand,
    "measure": _measure,
    "segment": _segment,
    "assign": _assign,
    "federate": _federate,
}


def ago(at_s: float) -> str:
    seconds = max(0, int(time.time() - at_s))
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = seconds // length
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"
