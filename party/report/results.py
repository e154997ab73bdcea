"""The sections on what came out: people matched, the model, the good customers, scores, lookalikes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import plots, wording
from .markup import NBSP, Column, Html, Row, bar, card, element, joined, name, opening, small, table, text, title, two
from .wording import at, count, decimal, share, signed, times

Report = Mapping[str, Any]

_LISTED_WEIGHTS = 12
_MODELS = {
    "brand_only": "Your columns alone",
    "joint": "Joint model",
    "media_only": "The media’s columns alone (for lookalikes)",
    "pooled_clear_text": "Yardstick: all columns pooled in the clear",
}


def matching(report: Report) -> Html:
    match = report.get("match")
    matched, brand_rows, media_rows = at(match, "size"), at(match, "brand_rows"), at(match, "media_rows")
    if not brand_rows or not media_rows:
        return Html("")
    if matched is None:
        return joined(opening("Match", _unsized(report)), _how(match))
    brand, media = report["party"], report["peer"]
    if report["role"] == "media":
        brand, media = media, brand
    several = len(report["parties"]) > 2 and report["role"] == "brand"
    by_key = at(match, "by_key") or {}
    rows = [
        Row((kind, count(at(match, "own_by_key", kind)), count(at(match, "peer_by_key", kind)), count(opened)))
        for kind, opened in by_key.items()
    ]
    columns = (
        Column("key, in order of priority"),
        Column("usable, yours", "right"),
        Column("usable, theirs", "right"),
        Column("people matched", "right"),
    )
    few = Html("")
    if matched < 1000:
        warning = "Fewer than 1,000 people matched: read every figure below with care."
        few = element("div", element("p", warning), class_="note")
    return joined(
        opening("Match", f"{count(matched)} people are known to both" + (f" you and {media}" if several else "")),
        element(
            "p",
            f"That is {share(matched / brand_rows)} of {brand}’s {count(brand_rows)} rows and "
            f"{share(matched / media_rows)} of {media}’s {count(media_rows)}. "
            "Nobody saw an identifier of the other side.",
        ),
        two(
            card(element("figure", _overlap(brand_rows, media_rows, matched, brand, media))),
            card(table(columns, rows)) if rows else "",
        ),
        few,
        _how(match),
    )


def _unsized(report: Report) -> str:
    """The heading where this party was not told how many match."""
    return f"{count(at(report, 'match', 'floor'))} or more people are known to both; {report['peer']} knows how many"


def _how(match: Any) -> Html:
    """Which engine compared, in which mode, with which group arithmetic."""
    engine, mode, group = (at(match, name) for name in ("engine", "mode", "group"))
    if engine is None:
        return Html("")
    arithmetic = f", group arithmetic by {group}" if group else ""
    return small(f"Compared by the engine {engine}, mode {mode}{arithmetic}.")


_JOINT = " The steps with all of them ran over the rows that all know, so each knows which of its people those are."


def together(report: Report) -> Html:
    """Of several media: how many of the brand's rows each knows, any, and all."""
    found = report.get("together")
    if not found:
        return Html("")
    floor, total = found["floor"], found["rows"]
    names = list(found["known_to"])
    rows = [Row((f"known to {name}", *_counted(found["known_to"][name], total, floor))) for name in names]
    for which, words in (("any", "known to at least one"), ("all", f"known to all {len(names)}")):
        if found[which] is not None:
            rows.append(Row((words, *_counted(found[which], total, floor)), "main"))
    columns = (Column("of your rows"), Column("people", "right"), Column("share", "right"))
    left_out = None in (found["any"], found["all"])
    why = f"A line is left out where it, or what follows from it and the others, is about fewer than {floor} people."
    return joined(
        opening("Together", f"What {len(names)} media know of your people"),
        element(
            "p",
            "Each was matched apart, and learned nothing of the others’ people by that; the lines below were added up "
            "at your side. known.parquet, with the results of the last match, has one line for each of your rows that "
            f"any of them knows.{_JOINT if any(not step['media'] for step in report['protocols']) else ''}",
        ),
        card(table(columns, rows), small(why) if left_out else ""),
    )


def _counted(number: int | None, total: int, floor: int) -> tuple[str, str]:
    if number is None:
        return f"fewer than {count(floor)}", wording.UNKNOWN
    return count(number), share(number / total)


def total(report: Report) -> Html:
    match = report.get("match")
    if at(match, "mode") != "sum":
        return Html("")
    column, found, clipped = at(match, "column"), at(match, "sum"), at(match, "clipped")
    said = [f"A value of {column} counts as 0 at least and {at(match, 'cap'):,} at most; nothing is said of fewer than"]
    said.append(f"{count(at(match, 'floor'))} people.")
    if found is not None:
        said.append(f"The sum carries noise with a standard deviation of {at(match, 'noise_sd'):,}.")
    if clipped is not None:
        said.append(f"Of your rows {count(clipped)} had a value beyond these bounds.")
    headline = f"Their {column} adds up to {found:,}" if found is not None else "The brand has the sum, you do not"
    return joined(opening("Sum", headline), element("p", " ".join(said)))


def _overlap(brand_rows: int, media_rows: int, matched: int, brand: str, media: str) -> Html:
    """Two bars, to scale, that lie over each other where people match."""
    scale = 460 / max(brand_rows + media_rows - matched, 1)
    start = (brand_rows - matched) * scale
    width = max(matched * scale, 2)
    middle = min(max(start + width / 2, 55), 405)
    said = (
        f"{count(brand_rows)} rows of {brand} and {count(media_rows)} rows of {media} have {count(matched)} in common."
    )
    return Html(
        f'<svg class="overlap" viewBox="0 0 460 118" role="img" aria-label="{text(said)}" font-size="13.5">'
        f'<text x="0" y="13" fill="var(--soft)">{text(brand)}: {count(brand_rows)}</text>'
        '<g fill="var(--alone)" opacity=".4">'
        f'<rect x="0" y="24" width="{brand_rows * scale:.1f}" height="32" rx="5"/>'
        f'<rect x="{start:.1f}" y="60" width="{media_rows * scale:.1f}" height="32" rx="5"/></g>'
        f'<rect x="{start:.1f}" y="24" width="{width:.1f}" height="68" rx="5" fill="var(--joint)"/>'
        f'<text x="{middle:.1f}" y="64" fill="var(--card)" text-anchor="middle"><tspan font-weight="650">'
        f"{count(matched)}</tspan></text>"
        f'<text x="460" y="112" fill="var(--soft)" text-anchor="end">{text(media)}: {count(media_rows)}</text></svg>'
    )


def model(report: Report) -> Html:
    train = report.get("train")
    if not train:
        return Html("")
    rows, good = at(train, "rows") or {}, at(train, "positives") or {}
    if at(train, "auc", "media_only") is not None and at(train, "auc", "joint") is None:
        return _from_seeds(train, report["peer"])
    if at(train, "auc", "joint") is None:
        return joined(
            opening("Model", "Trained on encrypted values"),
            element(
                "p",
                f"A model was trained on {count(rows.get('train'))} matched rows and {count(at(train, 'features'))} "
                f"columns of yours; {count(rows.get('holdout'))} rows were held out to test it. "
                f"The model and its quality are with {report['peer']}.",
            ),
            card(_of_media(train.get("weights") or [], "What your columns count")) if train.get("weights") else "",
        )
    return joined(
        opening("Model", f"Your columns alone, and joined with {report['peer']}"),
        element(
            "p",
            f"Trained on {count(rows.get('train'))} matched customers ({count(good.get('train'))} good ones) and "
            f"judged on {count(rows.get('holdout'))} others ({count(good.get('holdout'))} good ones) it never saw.",
        ),
        _yardstick(train),
        card(_comparison(train)),
        two(_gains_card(train), _weights(train)),
        _how_trained(train),
        card(_of_media(train["media_weights"], f"What the columns of {report['peer']} count"))
        if train.get("media_weights")
        else "",
    )


def _from_seeds(train: Report, peer: str) -> Html:
    """The model of a brand that has good customers alone: there is no gain to show, for its columns say nothing."""
    rows, others = at(train, "rows") or {}, at(train, "others") or {}
    return joined(
        opening("Model", f"Your people told from {peer}’s others"),
        element(
            "p",
            f"Trained on {count(rows.get('train'))} people: yours, and others out of {count(others.get('drawn'))} that "
            f"{peer} drew among its {count(others.get('pool'))}. Judged on {count(rows.get('holdout'))} it never saw. "
            "Some of the others may be as good: the model ranks as well then, but its rates are promises of likeness.",
        ),
        card(_comparison(train)),
        _how_trained(train),
        card(_of_media(train["media_weights"], f"What the columns of {peer} count"))
        if train.get("media_weights")
        else "",
    )


def _how_trained(train: Report) -> Html:
    """In a line: steps, penalty, weights, where it started from."""
    said = [f"{count(at(train, 'steps'))} optimiser steps"]
    if train.get("stopped"):
        said[0] += ", after which nothing was left to gain"
    penalty = "chosen on your own columns" if train.get("l2_tried") else "as agreed"
    said.append(f"L2 penalty {at(train, 'l2'):g}, {penalty}" if at(train, "l2") is not None else "")
    said.append(f"rows count as much as their {train['weighted_by']} says" if train.get("weighted_by") else "")
    said.append("both kinds of customers count alike" if train.get("balanced") else "")
    said.append(f"started from the model {train['started_from']}" if train.get("started_from") else "")
    return small("; ".join(filter(None, said)) + ".")


def _of_media(weights: Sequence[Mapping[str, Any]], words: str) -> Html:
    """The media's coefficients, where the contract has granted them."""
    shown = sorted(weights, key=lambda entry: -abs(entry["weight"]))[:_LISTED_WEIGHTS]
    most = abs(shown[0]["weight"]) or 1.0
    rows = (Row((name(one["name"]), bar(one["weight"] / most), signed(one["weight"], 2))) for one in shown)
    columns = (Column("column"), Column("lowers · raises", "middle"), Column("weight", "value"))
    note = f"Per standard deviation, the largest {len(shown)} of {len(weights)}; the contract grants them to both."
    return joined(title(words), table(columns, rows, "bars"), small(note))


def _gains_card(train: Report) -> Html:
    caption = (
        "Start with the customers who score best. The higher the curve, the more of the good ones you have by then."
    )
    return card(
        element("figure", title("Gains curve"), plots.gains(train), element("figcaption", caption)),
        small(
            "AUC: of a good customer and another one, drawn at random, how often the good one scores higher. "
            f"Lift at 10{NBSP}%: how many times more good customers the best-scored tenth holds than a blind one. "
            "Log loss: lower is better. The gain’s interval is that of a paired comparison on the same customers "
            "(DeLong), so it can be clear where the two models’ own intervals overlap.",
        ),
    )


def _comparison(train: Report) -> Html:
    known = {key: words for key, words in _MODELS.items() if at(train, "auc", key) is not None}
    ends = [train["auc"][key] for key in known]
    ends += [end for key in known for end in at(train, "auc_interval", key) or ()]
    low, high = min(ends), max(ends)
    percents = sorted(at(train, "lift_at") or {}, key=float)
    columns = (
        Column("model"),
        Column("AUC", "right"),
        Column(f"95{NBSP}% interval", "nowrap"),
        Column(element("span", f"{low:.2f} to {high:.2f}", aria_hidden="true"), "scale"),
        Column("log loss", "right"),
        *(Column(f"lift at {percent}{NBSP}%", "right") for percent in percents),
    )
    rows = []
    for key, words in known.items():
        interval = at(train, "auc_interval", key)
        cells = (
            words,
            decimal(train["auc"][key], 3),
            f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else wording.UNKNOWN,
            _range(train["auc"][key], interval, low, high),
            decimal(at(train, "log_loss", key), 4),
            *(times(at(train, "lift_at", percent, key)) for percent in percents),
        )
        rows.append(Row(cells, "main" if key == "joint" else None))
        if key == "joint" and at(train, "gain") is not None:
            gained = at(train, "gain_interval")
            span = f"{signed(gained[0])} to {signed(gained[1])}" if gained else wording.UNKNOWN
            rows.append(Row(("Gain of joining", signed(train["gain"]), span, *[""] * (len(columns) - 3)), "gain"))
    return table(columns, rows)


def _yardstick(train: Report) -> Html:
    pooled, joint = at(train, "auc", "pooled_clear_text"), at(train, "auc", "joint")
    if pooled is None:
        return Html("")
    return element(
        "p",
        f"Had both sides poured their data into one table, the same model would reach an AUC of {pooled:.4f}. Without "
        f"showing each other a row they reach {joint:.4f}: a difference of {signed(joint - pooled, 4)}.",
    )


def _range(value: float, interval: Sequence[float] | None, low: float, high: float) -> Html:
    """A mark with its interval on the scale that all models share; the same numbers stand beside it as text."""
    span = (high - low) or 1.0
    whisker = Html("")
    if interval:
        left, width = 100 * (interval[0] - low) / span, 100 * (interval[1] - interval[0]) / span
        whisker = element("i", style=f"left:{left:.1f}%;width:{width:.1f}%")
    mark = element("b", style=f"left:{100 * (value - low) / span:.1f}%")
    return element("span", whisker, mark, class_="range", aria_hidden="true")


def _weights(train: Report) -> Html:
    weights = sorted(at(train, "weights") or (), key=lambda entry: -abs(entry["weight"]))
    if not weights:
        return Html("")
    most, shown = abs(weights[0]["weight"]) or 1.0, weights[:_LISTED_WEIGHTS]
    rows = []
    for one in shown:
        faint = one.get("sign") == 0
        cells = (name(one["name"]), bar(one["weight"] / most, faint=faint), signed(one["weight"], 2))
        rows.append(Row(cells, "faint" if faint else None))
    columns = (Column("column"), Column("lowers · raises", "middle"), Column("weight", "value"))
    return card(
        title("What counts among your own columns"),
        table(columns, rows, "bars"),
        small(
            f"Weights of the joint model per standard deviation, the largest {len(shown)} of {len(weights)}. "
            "Pale ones are within two standard errors of 0, given the media’s part as it is. "
            "The media’s weights are in a secret basis that only the media can read.",
        ),
    )


def scores(report: Report) -> Html:
    score = report.get("score")
    if not score or at(score, "rows") is None:
        return Html("")
    histogram, others = at(score, "histogram"), at(report, "expand", "histogram")
    if not histogram:
        return joined(
            opening("Scores", f"{count(score['rows'])} matched people were scored"),
            element("p", f"The scores are with {report['peer']}; you hold none of them."),
        )
    figures = [
        card(element("figure", title("Your matched customers"), plots.scores(histogram, "scores", "matched customers")))
    ]
    if others:
        figures.append(
            card(
                element(
                    "figure",
                    title("The media’s other people"),
                    plots.scores(others, "others", "other people"),
                    element("figcaption", "By the media’s columns alone, in an order that the media shuffled."),
                )
            )
        )
    levels = at(score, "levels")
    blurred = f" Each is blurred, so that about {count(levels)} levels can be told apart." if levels else ""
    return joined(
        opening("Scores", "How the scores are spread"),
        element("p", f"{count(score['rows'])} of your customers now have a score.{blurred}"),
        two(*figures),
    )


def lookalikes(report: Report) -> Html:
    sizes = sorted(at(report, "expand", "sizes") or (), key=lambda size: float(size["percent"]))
    if not sizes:
        return Html("")
    columns, shown = [Column("audience", "nowrap"), Column("people", "right")], []
    left_alone = all("left_alone" in size for size in sizes)
    if left_alone:
        columns.append(Column("of them left alone", "right"))
    for rate, lift, words in (("expected_rate", "expected_lift", "expected"), ("true_rate", "true_lift", "true")):
        if any(size.get(rate) is not None for size in sizes):
            columns += [Column(f"good ones, {words}", "right"), Column(f"lift, {words}", "right")]
            shown.append((rate, lift))
    rows = [
        Row(
            (
                audience(size),
                count(size["people"]),
                *((count(size["left_alone"]),) if left_alone else ()),
                *(cell for rate, lift in shown for cell in (share(size.get(rate)), times(size.get(lift)))),
            )
        )
        for size in sizes
    ]
    plot = card(element("figure", title("The larger, the thinner"), plots.expansion(sizes))) if shown else ""
    mine = report["role"] == "media"
    pool = at(report, "expand", "pool")
    whom = "your" if mine else f"{report['peer']}’s"
    return joined(
        opening("Lookalikes", f"Good customers among {whom} {count(pool) + ' ' if pool else ''}other people"),
        element("p", _promise(sizes[0], report)),
        two(plot, card(table(columns, rows), small(*_audience_notes(report, sizes)))),
    )


def audience(size: Mapping[str, Any]) -> str:
    """What an audience is called: by its share of the others, its number of people or its threshold."""
    return str(size.get("name", f"top {size['percent']} %")).replace(" %", f"{NBSP}%")


def _promise(size: Mapping[str, Any], report: Report) -> str:
    """The smallest audience in words."""
    best = f"Of the {count(size['people'])} who score best ({audience(size)})"
    if size.get("true_rate") is not None:
        return (
            f"{best}, {share(size['true_rate'])} truly are good customers, against {share(size['true_base_rate'])} "
            f"of all: {times(size['true_lift'])} a blind pick. Nobody in the campaign sees this truth; the demo kept "
            "it aside to check the promise."
        )
    if size.get("expected_rate") is not None:
        return (
            f"{best}, {share(size['expected_rate'])} are expected to be good customers, {times(size['expected_lift'])} "
            "a blind pick. This holds as far as other people of a score are like matched people of that score."
        )
    return f"You hold the audiences; {report['peer']} chose them by scores that stayed with {report['peer']}."


def _audience_notes(report: Report, sizes: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = [f"No audience under {count(report['guards']['floor'])} people is released."]
    if report["role"] == "brand":
        notes.append(f" The audiences are with {report['peer']}; you never see who is in them.")
    if any(size.get("left_alone") for size in sizes):
        notes.append(" Those left alone were drawn at random: a later campaign measures by them what this one brought.")
    if any(size.get("true_rate") is not None for size in sizes):
        notes.append(" The true figures exist in this demo only.")
    return notes
