"""The section of the match doctor: how the keys are written, what else would match, who should change what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .markup import NBSP, Column, Html, Row, card, element, joined, name, opening, small, table, title, two
from .wording import UNKNOWN, at, count, share

Report = Mapping[str, Any]

_KINDS = {"email": "E-mail addresses", "phone": "Phone numbers", "device": "Device ids", "text": "Free text"}
_FORMS = {"clear": "clear text", "sha256": "SHA-256", "md5": "MD5", "sha1": "SHA-1"}


def checkup(report: Report) -> Html:
    facts = report.get("doctor")
    if not facts or not at(facts, "keys"):
        return Html("")
    changes = sum(len(key["advice"]) for key in facts["keys"])
    headline = f"{changes} thing{'s' * (changes != 1)} to look at before the match" if changes else "Nothing to change"
    drawn = "all people" if facts["rate"] == 1 else f"{share(facts['rate'])} of the people, the same at both sides"
    return joined(
        opening(f"Match doctor, with {report['peer']}", headline),
        element(
            "p",
            f"Counted on {drawn}. Each count carries noise of about ±{count(facts['noise'])}, and "
            f"counts under {count(facts['floor'])} are not shown. Nobody learned who matches.",
        ),
        *(part for key in facts["keys"] for part in _key(key, facts)),
    )


def _key(key: Report, facts: Report) -> tuple[Html, ...]:
    under = f"under {count(facts['floor'] / facts['rate'])}"
    rows = [
        Row(
            (
                f"{pair['brand']} · {pair['media']}",
                count(pair["matches"]) if pair["matches"] else under,
                f"{count(pair['low'])} to {count(pair['high'])}" if pair["matches"] else UNKNOWN,
            ),
            "main" if pair["is_best"] else "faint" if pair["matches"] is None else None,
        )
        for pair in key["pairs"]
    ]
    heads = (
        Column(f"{facts['brand']} writes · {facts['media']} writes"),
        Column("people", "right"),
        Column(f"95{NBSP}% interval", "nowrap"),
    )
    advice = [element("li", element("b", name(each["side"])), f": {each['text']}.") for each in key["advice"]]
    verdict = (
        element("ul", *advice)
        if advice
        else element(
            "p", "Both sides write this key as the campaign says: no other spelling that was tried matches more."
        )
    )
    counted = table(heads, rows) if rows else small("The two columns have no form in common to compare.")
    return (
        element("h3", _KINDS.get(key["kind"], key["kind"])),
        verdict,
        two(
            card(title("How many would match"), counted),
            card(title("How the columns are written"), _columns(key, facts)),
        ),
    )


def _columns(key: Report, facts: Report) -> Html:
    of = [key["columns"]["brand"], key["columns"]["media"]]
    rows = [
        Row(("mostly", *(_FORMS[column["form"]] for column in of))),
        Row(("valid", *(f"{column['valid']}{NBSP}%" for column in of))),
        Row(("missing", *(f"{column['missing']}{NBSP}%" for column in of))),
    ]
    for form, words in _FORMS.items():
        if any(column[form] and form != column["form"] for column in of):
            rows.append(Row((words, *(f"{column[form]}{NBSP}%" for column in of))))
    if key["kind"] == "phone":
        rows.append(Row(("region", *(column["region"] or "none" for column in of))))
    return table((Column("share of rows"), Column(facts["brand"], "right"), Column(facts["media"], "right")), rows)
