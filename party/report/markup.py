"""HTML that cannot be broken by what is in the data: whatever is not `Html` is escaped on its way in."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NBSP = "\u00a0"


_FEW_PROFILES = 6


class Html(str):
    """Text that is markup already. Only this module and fixed text of ours make it."""


def text(value: object) -> Html:
    """Text of any origin as inert HTML; characters that do not print (controls, text direction) are made visible."""
    if isinstance(value, Html):
        return value
    printable = "".join(c if c.isprintable() or c == NBSP else "\ufffd" for c in str(value))
    return Html(html.escape(printable, quote=True))


def name(value: object) -> Html:
    """A column's or group's name, which may be broken after each underscore."""
    return Html(text(value).replace("_", "_<wbr>"))


def joined(*parts: object) -> Html:
    return Html("".join(text(part) for part in parts))


def element(tag: str, *inside: object, **attributes: str | None) -> Html:
    """<tag attributes>inside</tag>. `class_` stands for class, `aria_label` for aria-label; None leaves one out."""
    shown = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{shown}>{joined(*inside)}</{tag}>")


@dataclass(frozen=True)
class Column:
    """A table's column: its heading, and the class of its cells ("right" for numbers)."""

    title: object
    kind: str | None = None


@dataclass(frozen=True)
class Row:
    """A table's row; the first cell is its heading."""

    cells: Sequence[object]
    kind: str | None = None


def table(columns: Sequence[Column], rows: Iterable[Row], kind: str | None = None) -> Html:
    """A table that scrolls by itself where the page is too narrow for it. Without any title there is no head."""
    head = Html("")
    if any(column.title for column in columns):
        heads = (element("th", column.title, scope="col", class_=column.kind) for column in columns)
        head = element("thead", element("tr", *heads))
    body = []
    for row in rows:
        first = element("th", row.cells[0], scope="row", class_=columns[0].kind)
        rest = (element("td", cell, class_=at.kind) for cell, at in zip(row.cells[1:], columns[1:], strict=True))
        body.append(element("tr", first, *rest, class_=row.kind))
    return element("div", element("table", head, element("tbody", *body), class_=kind), class_="scroll")


def profiles(columns: Sequence[Column], rows: Iterable[Row]) -> Html:
    """A table with a bar in each cell but the first: of many groups it is wider than a narrow page, and scrolls."""
    return table(columns, rows, "profiles many" if len(columns) > _FEW_PROFILES else "profiles")


def card(*inside: object) -> Html:
    return element("div", *inside, class_="card")


def two(*cards: object) -> Html:
    """Cards side by side where there is room."""
    return element("div", *cards, class_="two")


def title(words: object) -> Html:
    return element("p", words, class_="figure-title")


def small(*inside: object) -> Html:
    return element("p", *inside, class_="small soft")


def lines(items: Iterable[object]) -> Html:
    return element("ul", *(element("li", item) for item in items), class_="lines")


def opening(kicker: str, heading: object) -> Html:
    """The first two lines of a section."""
    return joined(element("p", kicker, class_="kicker"), element("h2", heading))


def bar(part: float, *, faint: bool = False) -> Html:
    """A bar from the middle, to the right for over and to the left for under; `part` is in -1..1."""
    kind = " ".join(name for name, on in (("under", part < 0), ("faint", faint)) if on)
    width = f"width:{50 * min(abs(part), 1):.1f}%"
    return element("span", element("i", class_=kind or None, style=width), class_="bar", aria_hidden="true")
