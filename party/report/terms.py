"""The sections on how it came about: what each party learned, the guards, the cost, the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tidegate.protocols.catalog import CATALOG

from .markup import Column, Html, Row, card, element, joined, lines, opening, table, two
from .wording import count, seconds, size

Report = Mapping[str, Any]

_GUARDS = {
    "floor": ("Smallest group", "people in any count, group or audience that is released"),
    "seeds": ("Fewest good customers", "matched good customers that a model must have to learn from"),
    "train_steps": ("Training budget", "training steps on one state of the data, all models together"),
    "count_noise": ("Noise on counts", "people, the standard deviation of the noise on released counts"),
    "score_levels": ("Blur of scores", "levels that can be told apart in released scores"),
}
_STEPS = {
    "doctor": "Match doctor",
    "match": "Match",
    "insight": "Good customers",
    "segment": "Segments",
    "assign": "Assigned",
    "train": "Train",
    "score": "Score",
    "expand": "Lookalikes",
    "measure": "What it brought",
    "federate": "Training",
}


def learned(report: Report) -> Html:
    cards = []
    for name, learns in report["learned"].items():
        source = "as this run recorded it" if name in report["recorded"] else "as the contract grants it"
        you = ", you" if name == report["party"] else ""
        heading = element("h3", f"{name}{you} ", element("span", f"· {source}", class_="tag"))
        cards.append(card(heading, lines(learns or ("nothing",))))
    return joined(
        opening("Privacy", "What each party learned"),
        element(
            "p",
            "All that a party knows now and did not know before. What is not on its list stayed where it was.",
        ),
        element("div", *cards, class_="three"),
    )


def guards(report: Report) -> Html:
    # Of several holders of the same columns no other guard is asked.
    in_force = ("floor",) if "federate" in _steps(report) else tuple(_GUARDS)
    rows = [Row((_GUARDS[key][0], count(report["guards"][key]), _GUARDS[key][1])) for key in in_force]
    rows += _privacy(report)
    protocols = [CATALOG[step["protocol"]] for step in report["protocols"]]
    assumed = dict.fromkeys(line for entry in protocols for line in entry.assumes)
    return joined(
        opening("Guards", "What was in force"),
        element("p", "Every party signed these limits, and each side’s software holds the other to them."),
        two(
            card(table((Column(""), Column("", "right strong"), Column("", "soft")), rows)),
            card(element("h3", "What this rests on, beyond what software can check"), lines(assumed)),
        ),
    )


def _privacy(report: Report) -> list[Row]:
    """Epsilon and delta where the contract asks for differential privacy, and what a media has spent so far."""
    asked = report.get("privacy") or {}
    if not asked.get("epsilon_milli"):
        return []
    of = "one media’s matched people in insight and training together; hold-out rows and scores are not part of it"
    if "federate" in _steps(report):
        of = "all rounds together"
    what = f"epsilon, at a delta of 10^−{asked['delta_exponent']}, of {of}"
    rows = [Row(("Differential privacy", f"{asked['epsilon_milli'] / 1000:g}", what))]
    spent = [facts["privacy"]["spent"] for facts in report.values() if isinstance(facts, dict) and "privacy" in facts]
    if spent:
        with_whom = "" if "federate" in _steps(report) else " with this brand"
        told = f"epsilon that all campaigns{with_whom} have spent on this state of your data"
        rows.append(Row(("Spent so far", f"{max(spent):.2f}", told)))
    return rows


def _steps(report: Report) -> set[str]:
    return {step["step"] for step in report["protocols"]}


def cost(report: Report) -> Html:
    durations, traffic = report["seconds"], report["bytes"]
    kinds = {step["name"]: step for step in report["protocols"] if step["name"] in traffic}
    if not kinds:
        return Html("")
    longest = max(durations.values(), default=0) or 1
    rows = []
    for name, step in kinds.items():
        part = 100 * durations.get(name, 0) / longest
        bar = element("span", element("i", style=f"width:{part:.1f}%"), class_="bar plain", aria_hidden="true")
        both = (size(traffic[name].get(way)) for way in ("sent", "received"))
        title = f"{_STEPS.get(step['step'], step['step'])} {step['media']}".rstrip()
        rows.append(Row((title, bar, seconds(durations.get(name)), *both)))
    columns = (
        Column("step"),
        Column("", "wide"),
        Column("time", "right"),
        Column("sent", "right"),
        Column("received", "right"),
    )
    moved = sum(amount for one in traffic.values() for amount in one.values())
    return joined(
        opening("Cost", f"{seconds(sum(durations.values()))} of work, {size(moved)} on the wire"),
        card(table(columns, rows)),
    )


def contract(report: Report) -> Html:
    entries: list[tuple[str, object]] = [
        ("hash", element("code", report["contract"])),
        ("software", f"tidegate {report['software']}"),
        ("proposed", _time(report["created_s"])),
        ("expires", _time(report["expires_s"])),
        *((name.lower(), text) for name, text in report["terms"].items()),
    ]
    for step in report["protocols"]:
        settings = ", ".join(f"{name} {_setting(value)}" for name, value in sorted(step["settings"].items()))
        entries.append((step["name"], joined(element("code", step["protocol"]), f" {settings}")))
    for party in report["parties"]:
        data = party["data"]
        described = joined(
            f"{party['name']}, data set {data['name']} with {count(data['rows'])} rows",
            element("div", element("code", f"identity {party['identity']}")),
            element("div", element("code", f"data {data['commitment']}")),
        )
        entries.append((party["role"], described))
    pairs = (joined(element("dt", name), element("dd", value)) for name, value in entries)
    return joined(opening("Contract", "What all parties signed"), card(element("dl", *pairs)))


def _setting(value: int | Sequence[int]) -> str:
    return str(value) if isinstance(value, int) else " ".join(str(one) for one in value)


def _time(since_1970_s: int) -> str:
    return datetime.fromtimestamp(since_1970_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
