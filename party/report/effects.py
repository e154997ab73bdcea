"""The section on what a campaign brought: its audience against the people who were left alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .markup import NBSP, Column, Html, Row, card, element, joined, opening, small, table, text, title, two
from .wording import UNKNOWN, at, count, share

Report = Mapping[str, Any]
Facts = Mapping[str, Any]

_HEADLINES = {
    "more": "The campaign brought customers",
    "none": "The campaign is not shown to have brought customers",
    "less": "Fewer people bought than of those left alone",
    "untold": "Too few people to tell what the campaign brought",
}


def measured(report: Report) -> Html:
    found = report.get("measure")
    if not found:
        return Html("")
    if "verdict" not in found:
        return _at_the_media(report, found)
    verdict = found["verdict"]
    parts = [opening("Effect", _HEADLINES[verdict]), element("p", _told(found))]
    if verdict != "untold":
        figure = element("figure", title("Who bought"), _bars(found), element("figcaption", _caption(found)))
        parts.append(two(card(figure), card(_figures(found), small(*_notes(found)))))
    return joined(*parts)


def _at_the_media(report: Report, found: Facts) -> Html:
    people = found["people"]
    gone = f" {count(found['gone'])} people of it are not in your data set any more." if found["gone"] else ""
    return joined(
        opening("Effect", f"An audience of campaign {found['campaign']} was measured"),
        element(
            "p",
            f"{count(people['exposed'])} people of it against {count(people['control'])} who were left alone.{gone} "
            f"Who of them bought stayed encrypted; the figures are with {report['peer']}.",
        ),
    )


def _told(found: Facts) -> str:
    exposed, control = found["exposed"], found["control"]
    if found["verdict"] == "untold":
        return (
            f"About {count(exposed['people'])} people are in the audience, {count(control['people'])} were "
            "left alone: too few for any rate under the noise on each figure. Leave more people alone next time."
        )
    bought = [share(rate) for rate in found["rates"]]
    said = (
        f"Of about {count(exposed['people'])} people in the audience {bought[0]} bought, of about "
        f"{count(control['people'])} who were left alone {bought[1]}. "
    )
    low, high = found["customers"]["interval"]
    if found["verdict"] == "more":
        return said + (
            f"Who was left alone was drawn at random, so the difference is the campaign’s: about "
            f"{count(found['customers']['value'])} customers who would not have bought without it, {count(low)} at "
            f"least and {count(high)} at most (95{NBSP}% interval)."
        )
    if found["verdict"] == "less":
        return said + "The difference is more than chance explains, and against the campaign."
    return said + "The difference is within what chance and noise alone make, so it says nothing for the campaign."


def _caption(found: Facts) -> str:
    low, high = (100 * each for each in found["lift"]["interval"])
    signed = [f"{each:+.2f}".replace("-", "−") for each in (low, high)]
    return f"The difference lies between {signed[0]} and {signed[1]} percentage points (95{NBSP}% interval)."


def _figures(found: Facts) -> Html:
    rows = [
        Row(("more who bought", *_points(found["lift"]))),
        Row(("relative to those left alone", *_shares(found["relative"]))),
        Row(("customers brought", *_numbers(found["customers"])), "main"),
    ]
    if "sales" in found:
        rows.append(Row((joined("sales brought, in ", element("code", found["spend"])), *_numbers(found["sales"]))))
    if "cost" in found:
        none = ("not shown to be above zero", UNKNOWN)
        cost = found["cost_of_customer"]
        rows.append(Row(("cost of a customer brought", *(none if cost is None else _numbers(cost, 2)))))
    return table((Column("estimate"), Column("", "right"), Column(f"95{NBSP}% interval", "right nowrap")), rows)


def _notes(found: Facts) -> list[str]:
    notes = [
        "Buyers whom the media does not know, or who were not in the audience, count on neither side. "
        f"Every figure carries noise with a standard deviation of {count(found['noise'])} people, which the intervals "
        "allow for. People count as they were drawn, whether they truly saw the campaign or not."
    ]
    if "spend" in found:
        notes.append(f" A spend counts as {found['cap']:,} at most; {count(found['clipped'])} were cut.")
    return notes


def _bars(found: Facts) -> Html:
    """Two bars to scale: the share of each side that bought."""
    rates = [max(rate, 0.0) for rate in found["rates"]]
    scale = 300 / max(*rates, 1e-9)
    words = (("in the audience", "var(--joint)"), ("left alone", "var(--alone)"))
    drawn = []
    for at_y, rate, (label, colour) in zip((0, 46), rates, words, strict=True):
        width = max(rate * scale, 2)
        drawn.append(
            f'<text x="0" y="{at_y + 21}" fill="var(--soft)">{text(label)}</text>'
            f'<rect x="110" y="{at_y}" width="{width:.1f}" height="32" rx="5" fill="{colour}"/>'
            f'<text x="{118 + width:.1f}" y="{at_y + 21}" fill="var(--ink)" font-weight="650">{share(rate)}</text>'
        )
    said = f"{share(rates[0])} of the audience bought, {share(rates[1])} of those left alone."
    return Html(
        f'<svg viewBox="0 0 480 80" role="img" aria-label="{text(said)}" font-size="13.5">{"".join(drawn)}</svg>'
    )


def _points(estimate: Facts) -> tuple[str, str]:
    low, high = estimate["interval"]
    return f"{100 * estimate['value']:+.2f}{NBSP}points".replace("-", "−"), _span(100 * low, 100 * high, 2)


def _shares(estimate: Facts | None) -> tuple[str, str]:
    if estimate is None:
        return UNKNOWN, UNKNOWN
    low, high = estimate["interval"]
    value = f"{100 * estimate['value']:+.0f}{NBSP}%".replace("-", "−")
    return value, f"{_span(100 * low, 100 * high, 0)}{NBSP}%"


def _numbers(estimate: Facts, digits: int = 0) -> tuple[str, str]:
    low, high = estimate["interval"]
    return f"{estimate['value']:,.{digits}f}".replace("-", "−"), _span(low, high, digits)


def _span(low: float, high: float, digits: int) -> str:
    return f"{low:,.{digits}f} to {high:,.{digits}f}".replace("-", "−")


def headline(report: Report) -> tuple[str, str] | None:
    """The one sentence to take away where an effect was measured, and what backs it."""
    verdict = at(report, "measure", "verdict")
    if verdict is None:
        return None
    sentence = _HEADLINES[verdict]
    if verdict == "more":
        sentence = f"The campaign brought about {count(at(report, 'measure', 'customers', 'value'))} customers"
    return f"{sentence}.", _told(report["measure"])
