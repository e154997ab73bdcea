"""The section on training over the rows of many clients: what came out, round by round, and how it was kept apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from . import plots
from .markup import (
    NBSP,
    Column,
    Html,
    Row,
    bar,
    card,
    element,
    joined,
    name,
    opening,
    profiles,
    small,
    table,
    title,
    two,
)
from .wording import at, count, decimal, listed, share, short, signed

Report = Mapping[str, Any]
Facts = Mapping[str, Any]

_PAIR = (Column(""), Column("", "right strong"))
_LISTED_WEIGHTS = 12
_LISTED_COLUMNS = 12
_FULL_BAR = 1.5
_ROBUST = {1: "the median", 2: "the trimmed mean"}
_UNITS = {"row": "any one row", "client": "all rows of any one client"}


def trained(report: Report) -> Html:
    facts = report.get("federate")
    if not facts or not facts.get("app"):
        return Html("")
    of_logistic = facts["app"] != "kmeans"
    return joined(
        opening("Training", headline(facts)),
        element("p", _told(report, facts)),
        _logistic(facts) if of_logistic else _kmeans(facts),
        two(
            card(title("How it was kept apart"), table((Column(""), Column("", "right strong")), _terms(facts))),
            card(
                title("What you entered"),
                table((Column(""), Column("", "right strong")), _entered(facts)),
                _rest(facts),
            ),
        ),
    )


def headline(facts: Facts) -> str:
    clients = count(len(facts["clients"]))
    if facts["app"] != "kmeans":
        return f"One model of the rows of {clients} clients"
    return f"{count(len(facts['segments']))} groups among the rows of {clients} clients"


def tiles(facts: Facts) -> list[tuple[str, str, str]]:
    """Name, value and a line below it, of the figures to see first."""
    rows = at(facts, "rows") or {}
    found = [
        ("Clients", count(len(facts["clients"])), listed(facts["clients"]) if len(facts["clients"]) <= 5 else ""),
        ("Rows in all", count(rows.get("all")), f"{count(rows.get('train'))} of yours to train with"),
        ("Rounds", count(facts["rounds"]), "until nothing changed" if facts.get("converged") else "as many as agreed"),
    ]
    pooled, alone = at(facts, "own", "auc"), at(facts, "own", "auc_alone")
    if pooled is not None and alone is not None:
        found.append(("Ranking of your rows (AUC)", decimal(pooled, 3), f"{decimal(alone, 3)} by your rows alone"))
    return found


def worth(facts: Facts) -> str:
    """What taking part was worth to this client, by its own rows held out."""
    pooled, alone = at(facts, "own", "auc"), at(facts, "own", "auc_alone")
    if pooled is None or alone is None:
        return "Your rows stayed with you. What each party learned is listed below, line by line."
    moved = f"an AUC of {decimal(pooled, 3)} on your own rows held out, {decimal(alone, 3)} by your rows alone"
    # Wider than any standard error of a difference between two AUCs on so many rows.
    if abs(pooled - alone) < 1 / math.sqrt(max(at(facts, "rows", "holdout") or 1, 1)):
        return f"It has {moved}: the difference is within what chance makes on so few."
    return f"It ranks your rows {'better' if pooled > alone else 'worse'} than your own model: it has {moved}."


def _told(report: Report, facts: Facts) -> str:
    others = [client for client in facts["clients"] if client != report["party"]]
    ended = "when nothing was left to gain" if facts.get("converged") else "when the agreed rounds were over"
    did = "trained it" if facts["app"] != "kmeans" else "found them"
    said = (
        f"You {did} with {listed(others)}. No row left its holder: in each of {count(facts['rounds'])} rounds "
        f"each client sent {_sent(facts)}. It ended {ended}."
    )
    area = _area(facts)
    if area is not None:
        noisy = ", told with noise" if facts.get("privacy") else ""
        said += f" It ranks the rows that all clients held out with an AUC of {decimal(area, 3)}{noisy}."
    if facts.get("round_ms") is not None:
        said += f" A round took {count(facts['round_ms'])}{NBSP}ms."
    return said


def _area(facts: Facts) -> float | None:
    """How well the last model ranks the rows that all clients have held out; None where none are."""
    areas, losses = at(facts, "curves", "auc"), at(facts, "curves", "hold_out_loss")
    return areas[-1] if areas and (losses is None or any(losses)) else None


def _sent(facts: Facts) -> str:
    if facts.get("secure"):
        return "sums over its rows, masked so that only the total of all clients can be read"
    middle = _ROBUST.get(facts.get("robust") or 0)
    if middle:
        return f"sums over its rows in the clear to the coordinator, which took {middle} so that outliers do not count"
    return "sums over its rows in the clear to the coordinator"


def _terms(facts: Facts) -> list[Row]:
    of_logistic = facts["app"] != "kmeans"
    rows = [
        Row(("clients, each of whom the contract names by its key", count(len(facts["clients"])))),
        Row(("masked sums", "yes" if facts.get("secure") else "no")),
        *(Row(("outliers left out by", _ROBUST[robust])) for robust in (facts.get("robust"),) if robust in _ROBUST),
        Row(("all were given the same model in every round", "yes")),
        Row(
            (
                f"every client {'tried the last model on its own rows and ' if of_logistic else ''}took the outcome",
                "yes",
            )
        ),
    ]
    privacy = facts.get("privacy")
    if not privacy:
        return [*rows, Row(("differential privacy", "not asked for"))]
    unit = _UNITS.get(privacy.get("unit"))
    rows += [
        Row((f"differential privacy{f' of {unit}' if unit else ''}: epsilon", f"{privacy['epsilon']:g}")),
        Row(("at a delta of", f"10^{round(math.log10(privacy['delta']))}".replace("-", "−"))),
    ]
    if privacy.get("spent") is not None:
        rows.append(
            Row(("epsilon that all campaigns have spent on this state of your data", f"{privacy['spent']:.2f}"))
        )
    return rows


def _entered(facts: Facts) -> list[Row]:
    rows = [
        Row(("rows to train with", count(at(facts, "rows", "train")))),
        Row(("rows held out to judge by", count(at(facts, "rows", "holdout")))),
        Row(("rows of all clients’ data sets", count(at(facts, "rows", "all")))),
        Row(("columns", count(len(facts["columns"])))),
    ]
    if facts.get("missing"):
        rows.append(Row(("values missing, taken for the middle of their range", count(facts["missing"]))))
    if facts.get("outside"):
        rows.append(Row(("values cut to the declared range", count(facts["outside"]))))
    return rows


def _rest(facts: Facts) -> Html:
    if facts["app"] != "kmeans":
        return small("model.json has the model, scores.parquet a score for each of your rows.")
    return small("model.json has the centres, segments.parquet the group of each of your rows.")


def _logistic(facts: Facts) -> Html:
    curves = at(facts, "curves") or {}
    held_out = [loss for loss in curves.get("hold_out_loss") or () if loss]
    figures = []
    if curves.get("loss"):
        drawn = [("trained with", curves["loss"])] + ([("held out", curves["hold_out_loss"])] if held_out else [])
        plot = plots.rounds(drawn, "loss", "log loss a row")
        caption = "Over the rows of all clients together; lower is better."
        figures.append(card(element("figure", title("Loss, round by round"), plot, element("figcaption", caption))))
    if curves.get("step"):
        plot = plots.rounds([("step", curves["step"])], "step", "length of the step")
        caption = (
            "How far the model went in each round. The noise is in it; the loss of a round is not told to anybody."
        )
        figures.append(card(element("figure", title("Steps, round by round"), plot, element("figcaption", caption))))
    if curves.get("auc") and held_out:
        plot = plots.rounds([("held out", curves["auc"])], "auc", "AUC")
        caption = "Of a good row and another one, drawn from all held out, how often the good one scores higher."
        figures.append(card(element("figure", title("Ranking, round by round"), plot, element("figcaption", caption))))
    return joined(two(*figures), _weights(facts))


def _weights(facts: Facts) -> Html:
    weights = sorted(facts.get("weights") or (), key=lambda one: -abs(one["per_deviation"]))
    if not weights:
        return Html("")
    most, shown = abs(weights[0]["per_deviation"]) or 1.0, weights[:_LISTED_WEIGHTS]
    rows = [
        Row(
            (name(one["name"]), bar(one["per_deviation"] / most), signed(one["per_deviation"], 2), short(one["weight"]))
        )
        for one in shown
    ]
    columns = (
        Column("column"),
        Column("lowers · raises", "middle"),
        Column("weight", "right"),
        Column("per unit", "right"),
    )
    return card(
        title("What counts in the model"),
        table(columns, rows),
        small(
            f"The largest {len(shown)} of {len(weights)} weights, in log-odds: per standard deviation of your own "
            "rows and per unit of the column. All clients have the same model."
        ),
    )


def _kmeans(facts: Facts) -> Html:
    segments = facts["segments"]
    own = sum(one["own"] for one in segments) or 1
    every = sum(one["size"] for one in segments) or 1
    rows = [
        Row(
            (
                f"Group {one['number']}",
                count(one["size"]),
                share(one["size"] / every),
                count(one["own"]),
                share(one["own"] / own),
            )
        )
        for one in segments
    ]
    columns = (
        Column("group"),
        Column("rows of all", "right"),
        Column("share", "right"),
        Column("your rows", "right"),
        Column("share", "right"),
    )
    gone = (facts.get("asked") or len(segments)) - len(segments)
    note = f"{count(gone)} more of too few rows were left out; " if gone > 0 else ""
    sizes = card(title("How large they are"), table(columns, rows), small(f"{note}Rows of all clients are rounded."))
    curve = at(facts, "curves", "inertia")
    if not curve:
        return joined(sizes, _centres(facts))
    plot = plots.rounds([("inertia", curve)], "inertia", "distance within the groups")
    caption = "The sum of squared distances to the nearest centre, over the rows of all clients."
    figure = card(element("figure", title("Round by round"), plot, element("figcaption", caption)))
    return joined(two(figure, sizes), _centres(facts))


def _centres(facts: Facts) -> Html:
    """Each column's centre in each group, with how far it is from all rows' mean."""
    segments, scale = facts["segments"], facts["scale"]
    every = sum(one["size"] for one in segments) or 1
    lines = []
    for i, column in enumerate(facts["columns"]):
        mean = sum(one["size"] * one["centre"][i] for one in segments) / every
        # A column that is the same in all rows has no unit of distance.
        unit = scale[i] or math.inf
        away = [(one["centre"][i] - mean) / unit for one in segments]
        cells = (
            joined(bar(far / _FULL_BAR), element("span", short(one["centre"][i]), class_="small"))
            for far, one in zip(away, segments, strict=True)
        )
        lines.append((max(map(abs, away)), Row((name(column), *cells))))
    shown = [row for _, row in sorted(lines, key=lambda line: -line[0])[:_LISTED_COLUMNS]]
    columns = [Column(""), *(Column(f"Group {one['number']}", "middle") for one in segments)]
    note = (
        f"The centres of the groups, the {len(shown)} columns of {len(lines)} that tell most. To the right of the line "
        f"is over the mean of all rows, to the left under; a full bar is {_FULL_BAR:g} standard deviations or more."
    )
    return card(title("What tells them apart"), profiles(columns, shown), small(note))
