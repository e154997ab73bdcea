"""The report as one HTML page that needs nothing else: no script, no font, no address to call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from . import checkup, effects, federated, people, results, segments, terms, wording
from .markup import Html, element, joined, text
from .wording import at, count, share, times

Report = Mapping[str, Any]
Section = Callable[[Report], Html]

# A section gets the report as report.json has it and gives its HTML, empty where its step did not run.
_SECTIONS = (
    ("doctor", "Match doctor", checkup.checkup),
    ("match", "Match", results.matching),
    ("together", "Together", results.together),
    ("sum", "Sum", results.total),
    ("training", "Training", federated.trained),
    ("segments", "Segments", segments.segmented),
    ("assigned", "Assigned", segments.assigned),
    ("model", "Model", results.model),
    ("people", "Good customers", people.insight),
    ("scores", "Scores", results.scores),
    ("lookalikes", "Lookalikes", results.lookalikes),
    ("effect", "Effect", effects.measured),
    ("learned", "Who learned what", terms.learned),
    ("guards", "Guards", terms.guards),
    ("cost", "Time and traffic", terms.cost),
    ("contract", "Contract", terms.contract),
)
# These tell of what was done with one media.
_OF_ONE_MEDIA = (checkup.checkup, results.matching, results.total)
_MOST_TILES = 4
# So many share a row of a wide page, lest the last stands alone.
_IN_A_ROW = 5
_PILLS = {"better": "A gain beyond noise", "noise": "Within noise", "worse": "A loss", "untold": "Not enough to tell"}
_MARK = Html(
    '<svg viewBox="0 0 22 16" aria-hidden="true"><path d="M1 5c3-4 6-4 10 0s7 4 10 0M1 12c3-4 6-4 10 0s7 4 10 0" '
    'fill="none" stroke="var(--joint)" stroke-width="2" stroke-linecap="round"/></svg>'
)


def render(report: Report) -> str:
    """The whole page."""
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    sections = [
        (f"{anchor}-{media}" if media else anchor, name, html)
        for anchor, name, section in _SECTIONS
        for media, view in _views(report, section)
        if (html := section(view))
    ]
    first = {name: anchor for anchor, name, _ in reversed(sections)}
    links = (element("a", name, href=f"#{first[name]}") for name in dict.fromkeys(name for _, name, _ in sections))
    body = element(
        "div",
        element(
            "header",
            element("span", _MARK, report["campaign"], class_="brandmark"),
            element("nav", *links, aria_label="Sections"),
            class_="top",
        ),
        element("main", _hero(report), *(element("section", html, id=anchor) for anchor, _, html in sections)),
        element(
            "footer",
            f"Made by tidegate {report['software']} at {report['party']}, from what this party holds. Contract ",
            element("code", report["contract"][:12]),
            ". This page loads nothing and sends nothing.",
        ),
        class_="sheet",
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{text(report["campaign"])} · tidegate report for {text(report["party"])}</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _views(report: Report, section: Section) -> Iterable[tuple[str, Report]]:
    """What a section is made from: the report, or of several media what was done with each, under its name."""
    if section not in _OF_ONE_MEDIA or not report.get("media"):
        return [("", report)]
    return [(media, {**report, **steps, "peer": media}) for media, steps in report["media"].items()]


def _hero(report: Report) -> Html:
    label, peer = report["label"], report["peer"]
    pill, headline, because = _headline(report)
    sought = "label" if report["role"] == "client" else "good customers"
    note = element("div", element("p", report["note"]), class_="note") if report.get("note") else ""
    tiles = _tiles(report)
    return joined(
        element(
            "div",
            element(
                "p",
                f"{report['party']} with {peer}"
                + (f" · {sought}: {label['column']} = {label['positive']}" if label["column"] else ""),
                class_="who",
            ),
            pill,
            element("h1", headline),
            element("p", because),
            class_="hero long" if len(headline) > 90 else "hero",
        ),
        element("div", *tiles, class_="tiles five" if len(tiles) == _IN_A_ROW else "tiles"),
        note,
    )


def _headline(report: Report) -> tuple[Html, str, str]:
    """A mark, the one sentence to take away, and what backs it."""
    peer, matched = report["peer"], at(report, "match", "size")
    verdict = wording.verdict(report.get("train", {}), peer)
    if verdict is not None:
        pill = element("span", _PILLS[verdict.kind], class_=f"pill {verdict.kind}")
        return pill, verdict.headline, verdict.because
    effect = effects.headline(report)
    if effect is not None:
        return Html(""), *effect
    if at(report, "federate", "app"):
        return Html(""), f"{federated.headline(report['federate'])}.", federated.worth(report["federate"])
    kept = "No row left either side. What each party learned is listed below, line by line."
    audiences = at(report, "expand", "sizes")
    if audiences and report["role"] == "media":
        most = count(max(size["people"] for size in audiences))
        return Html(""), f"{most} of your other people look like the good customers of {peer}.", kept
    found = at(report, "segment", "segments")
    if found:
        return (
            Html(""),
            f"The {count(report['segment']['rows'])} people you share fall into {len(found)} segments.",
            kept,
        )
    if matched is not None:
        return Html(""), f"You and {peer} share {count(matched)} people.", kept
    if at(report, "together", "any") is not None:
        anyone = count(report["together"]["any"])
        return Html(""), f"{anyone} of your people are known to {_either(list(report['media']))}.", kept
    if any(at(steps, "match") for steps in (report.get("media") or {}).values()):
        return Html(""), f"Your people were matched with those of {peer}, each apart from the others.", kept
    if at(report, "match", "mode") == "brand":
        return Html(""), f"{peer} knows which of its people you share.", kept
    if at(report, "match", "mode") == "sum":
        return Html(""), f"{peer} has the sum over the people you share.", kept
    if any(at(steps, "doctor") for steps in (report, *(report.get("media") or {}).values())):
        return Html(""), f"Your match keys and those of {peer} were compared.", kept
    return Html(""), "No step of this campaign has finished yet.", "Each step appears here once it has."


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _tiles(report: Report) -> list[Html]:
    tiles = federated.tiles(report["federate"]) if at(report, "federate", "app") else []
    several = report.get("media") or {}
    for media, steps in several.items() if len(several) <= _MOST_TILES else ():
        if at(steps, "match", "size") is not None:
            part = f"{share(steps['match']['size'] / steps['match']['brand_rows'])} of your rows"
            tiles.append((f"Shared with {media}", count(steps["match"]["size"]), part))
    for which in ("any", "all"):
        if at(report, "together", which) is not None:
            part = f"{share(report['together'][which] / report['together']['rows'])} of your rows"
            tiles.append((f"Known to {which} of them", count(report["together"][which]), part))
    matched, own_rows = at(report, "match", "size"), at(report, "match", f"{report['role']}_rows")
    if matched is not None:
        tiles.append(
            (
                "People matched",
                count(matched),
                f"{share(matched / own_rows)} of your {count(own_rows)} rows" if own_rows else "",
            )
        )
    if at(report, "match", "sum") is not None:
        noise = f"of {at(report, 'match', 'column')}, noise of {at(report, 'match', 'noise_sd'):,}"
        tiles.append(("Their sum", f"{at(report, 'match', 'sum'):,}", noise))
    alone, joint = at(report, "train", "auc", "brand_only"), at(report, "train", "auc", "joint")
    if joint is not None and alone is not None:
        tiles.append(("Ranking quality (AUC)", f"{joint:.3f}", f"{alone:.3f} with your columns alone; 0.5 is a coin"))
    lift, lift_alone = at(report, "train", "lift_at_10", "joint"), at(report, "train", "lift_at_10", "brand_only")
    if lift is not None and lift_alone is not None:
        less = f"of all good customers; {share(lift_alone / 10)} with your columns alone"
        tiles.append(("Found in your top tenth", share(lift / 10), less))
    found = at(report, "segment", "segments")
    if found:
        largest = f"the largest with {share(found[0]['share'] / 100)} of the people, the smallest with "
        tiles.append(("Segments", count(len(found)), largest + share(found[-1]["share"] / 100)))
    sizes = at(report, "expand", "sizes")
    if sizes:
        first = min(sizes, key=lambda size: float(size["percent"]))
        more = ""
        if first.get("true_rate") is not None:
            more = f"truly {share(first['true_rate'])} good ones; {share(first['true_base_rate'])} when picked blindly"
        elif first.get("expected_lift") is not None:
            more = f"{share(first['expected_rate'])} good ones expected, {times(first['expected_lift'])} a blind pick"
        tiles.append((f"Lookalikes, {results.audience(first)}", count(first["people"]), more))
    return [
        element(
            "div",
            element("p", name, class_="label"),
            element("b", value),
            element("p", more, class_="small"),
            class_="tile",
        )
        for name, value, more in tiles
    ]
