"""The sections on segments: a card of each, what sets them apart, how many there are and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from tidegate.protocols.clustering.choice import STRONG

from ..segments.naming import CLEAR
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
    lines,
    name,
    opening,
    profiles,
    small,
    table,
    text,
    title,
    two,
)
from .wording import UNKNOWN, at, count, decimal, listed, share, short, signed

Report = Mapping[str, Any]
Facts = Mapping[str, Any]

_SAID = 4
_PROFILED = 7
_FULL_BAR = 1.5
_FIRST = date(1970, 1, 1)
_EARLIEST, _LATEST = (date.min - _FIRST).days, (date.max - _FIRST).days
_WORDS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")
# From which adjusted Rand index on what is said of two groupings of the same people.
_AGREEMENT = (
    (0.9, "nearly the same people together"),
    (0.75, "mostly the same people together"),
    (0.5, "many of the same people together, and cut some of the crowd elsewhere"),
    (-1.0, "other groups: take these as one way of many to split the crowd"),
)
_SAME = 0.9


@dataclass(frozen=True)
class _Mark:
    """What one column says of one segment; `label` is of a category, `deviation` in standard deviations of everybody.

    here, everybody: a mean or a percent; index: 100 is everybody; at_least: `here` is a lower bound.
    """

    party: str
    column: str
    kind: str
    label: str | None
    here: float | None
    everybody: float | None
    index: float | None
    deviation: float | None
    at_least: bool

    @property
    def strength(self) -> float:
        return abs(self.deviation or 0.0)


def segmented(report: Report) -> Html:
    facts = report.get("segment")
    segments = at(facts, "segments")
    if not facts or not segments:
        return Html("")
    marks = [_marks(facts["traits"], j) for j in range(len(segments))]
    known = "you both know" if len(report["parties"]) == 2 else "all of you know"
    return joined(
        opening("Segments", f"{_number(len(segments))} segments of the {count(facts['rows'])} people {known}"),
        element("p", _what(report, facts)),
        element("div", *(_card(report, one, own) for one, own in zip(segments, marks, strict=True)), class_="two"),
        two(
            card(
                element("figure", title("How large they are"), plots.segment_sizes([one["size"] for one in segments])),
                _left_out(report, facts),
            ),
            card(title("How sure the groups are"), *_stability(facts)),
        ),
        _yardstick(facts),
        _choice(facts),
        _profiles(report, segments, marks),
        element(
            "details",
            element("summary", "All columns of all segments"),
            *(_all(report, one, own) for one, own in zip(segments, marks, strict=True)),
        ),
        _unused(report, facts),
    )


def assigned(report: Report) -> Html:
    facts = report.get("assign")
    segments = at(facts, "segments")
    if not facts or not segments:
        return Html("")
    left_out, floor = set(facts.get("left_out") or ()), report["guards"]["floor"]
    rows = []
    for one in segments:
        then = f"{decimal(one.get('share_then'), 1)}{NBSP}%"
        if one["number"] in left_out:
            rows.append(Row((_called(one), f"fewer than {count(floor)}", UNKNOWN, then), "faint"))
        else:
            rows.append(Row((_called(one), count(one["size"]), f"{decimal(one['share'], 1)}{NBSP}%", then)))
    columns = (
        Column("segment"),
        Column("people", "right"),
        Column("share", "right"),
        Column("share when it was made", "right"),
    )
    model = facts.get("model")
    of = f"the segments of campaign {model}" if model else "this campaign’s segments"
    list_of = "Who is in which is in segments.parquet." if report["role"] == "brand" else "You keep no list of them."
    note = f"A segment that fewer than {count(floor)} of these people belong to is left out; they went to the nearest."
    return joined(
        opening("Assigned", f"{count(facts['rows'])} people were put into {of}"),
        element("p", f"Nothing was trained anew: each went to the segment that is nearest to them. {list_of}"),
        card(table(columns, rows), small(note) if left_out else ""),
    )


def _what(report: Report, facts: Facts) -> str:
    said = (
        "They were found by the columns of all parties together: who is alike in what you know and in what "
        f"{report['peer']} knows is in the same one. No party saw a value of another."
    )
    if facts.get("explained") is not None:
        said += f" They account for {share(facts['explained'])} of all the differences between people in these columns."
    if report["role"] == "brand":
        return f"{said} Names are suggestions. Who is in which is in segments.parquet, with the results of this step."
    return f"{said} {report['peer']} has named them and holds the list of who is in which; you keep none."


def _card(report: Report, one: Facts, marks: Sequence[_Mark]) -> Html:
    """Who they are in words: what sets them apart most, first by one's own columns, then by the other side's."""
    sides = []
    for party in dict.fromkeys(mark.party for mark in marks):
        told = [mark for mark in _telling(marks) if mark.party == party and mark.strength >= CLEAR][:_SAID]
        whose = "By your columns" if party == report["party"] else joined("By the columns of ", party)
        sides.append(element("p", whose, class_="label small soft"))
        sides.append(lines(map(_sentence, told)) if told else small("Like everybody in each of them."))
    head = joined(
        element("h3", _called(one)),
        element(
            "p",
            element("b", count(one["size"])),
            f" people · {decimal(one['share'], 1)}{NBSP}%",
            class_="small soft",
        ),
    )
    return card(head, *sides, _withheld(report, marks))


def _withheld(report: Report, marks: Sequence[_Mark]) -> Html:
    """The columns of which this segment shows nothing at all."""
    shown = {(mark.party, mark.column) for mark in marks if mark.here is not None}
    hidden = dict.fromkeys(mark.column for mark in marks if (mark.party, mark.column) not in shown)
    if not hidden:
        return Html("")
    floor = count(report["guards"]["floor"])
    return small(f"Not shown, since fewer than {floor} of them have a value: {listed(list(hidden))}.")


def _sentence(mark: _Mark) -> Html:
    what = element("b", name(mark.column))
    if mark.label is not None:
        least = "at least " if mark.at_least else ""
        against = f", against {_percent(mark.everybody)} of all" if mark.everybody is not None else ""
        return joined(f"{least}{_percent(mark.here)} are “", name(mark.label), "” in ", what, against)
    return joined(what, f" {_compared(mark)} ({_value(mark, mark.here)}; all: {_value(mark, mark.everybody)})")


def _compared(mark: _Mark) -> str:
    """How a mean stands to everybody's: a multiple where that is far off, else a share more or less."""
    if mark.kind == "date":
        return "later than average" if (mark.deviation or 0) > 0 else "earlier than average"
    if mark.index is None:
        side = "over" if (mark.deviation or 0) > 0 else "under"
        return f"{decimal(mark.strength, 1)} standard deviations {side} average"
    if mark.index >= 150:
        return f"{mark.index / 100:.1f} times the average"
    if mark.index == 100:
        return "about average"
    return f"{abs(mark.index - 100):.0f}{NBSP}% {'above' if mark.index > 100 else 'below'} average"


def _profiles(report: Report, segments: Sequence[Facts], marks: Sequence[Sequence[_Mark]]) -> Html:
    """The columns that tell the segments apart most, of either side, with a bar for each segment."""
    rows: list[Row] = []
    for party in dict.fromkeys(mark.party for mark in marks[0]):
        of_party = [i for i, mark in enumerate(marks[0]) if mark.party == party]
        far = sorted(of_party, key=lambda i: -max(own[i].strength for own in marks))
        kept: list[int] = []
        for i in far:
            if marks[0][i].column not in [marks[0][other].column for other in kept]:
                kept.append(i)
        whose = "your columns" if party == report["party"] else f"columns of {party}"
        rows.append(Row((whose, *[""] * len(segments)), "gain"))
        rows += [Row((_label(marks[0][i]), *(_bar(own[i]) for own in marks))) for i in kept[:_PROFILED]]
    columns = [Column(""), *(Column(str(one["number"]), "middle") for one in segments)]
    note = (
        "Each bar says how far a segment’s average is from everybody’s: to the right over, to the left under, a full "
        f"one by {_FULL_BAR:g} standard deviations or more. The number is the index: 100 is everybody."
    )
    return card(title("What tells them apart"), profiles(columns, rows), small(note))


def _bar(mark: _Mark) -> Html:
    if mark.deviation is None:
        return element("span", UNKNOWN, title="under the floor", class_="soft")
    drawn = bar(mark.deviation / _FULL_BAR, faint=mark.strength < CLEAR)
    said = count(mark.index) if mark.index is not None else f"{signed(mark.deviation, 1)}{NBSP}sd"
    return joined(drawn, element("span", said, class_="small"))


def _all(report: Report, one: Facts, marks: Sequence[_Mark]) -> Html:
    columns = (Column("column"), Column("under · over", "middle"), Column("here", "right"), Column("all", "right"))
    rows = []
    for mark in _by_strength(marks):
        least = "≥ " if mark.at_least else ""
        unit = _percent if mark.label is not None else lambda value, mark=mark: _value(mark, value)
        drawn = bar((mark.deviation or 0.0) / _FULL_BAR, faint=mark.strength < CLEAR)
        here, index = f"{least}{unit(mark.here)}", UNKNOWN if mark.index is None else count(mark.index)
        rows.append(Row((_label(mark), drawn, here, unit(mark.everybody), index)))
    return joined(element("h3", _called(one)), card(table((*columns, Column("index", "right")), rows)))


def _label(mark: _Mark) -> Html:
    return joined(name(mark.column), ": ", name(mark.label)) if mark.label is not None else name(mark.column)


def _left_out(report: Report, facts: Facts) -> Html:
    gone, floor = facts.get("left_out") or 0, count(report["guards"]["floor"])
    if not gone:
        return small(f"Each has {floor} people or more; nothing would be shown of a smaller one.")
    were = "one more was" if gone == 1 else f"{gone} more were"
    return small(
        f"{were.capitalize()} found with fewer than {floor} people; those went to the segment nearest to them."
    )


def _stability(facts: Facts) -> list[Html]:
    starts, stability = facts.get("starts") or (), facts.get("stability")
    if len(starts) < 2 or stability is None:
        told = "The groups were sought from one start, so it is not known whether another one finds them again."
        return [element("p", told), *_starts(starts)]
    same = sum(start["agreement"] >= _SAME for start in starts)
    words = next(words for least, words in _AGREEMENT if stability >= least)
    return [
        element(
            "p",
            f"They were sought from {len(starts)} starting points drawn at random. On average two of these put {words} "
            f"(adjusted Rand index {decimal(stability, 2)}; 1 is the same groups, 0 what chance gives). "
            f"{same} of {len(starts)} came to the groups shown here, the tightest of all.",
        ),
        *_starts(starts),
    ]


def _starts(starts: Sequence[Facts]) -> list[Html]:
    """Each start: how loose its groups are beside the tightest, how alike to those shown, and when it ended."""
    least = min((start["inertia"] for start in starts), default=0.0) or 1.0
    rows = []
    for i, start in enumerate(starts):
        ended = f"{start['iterations']}" if start["converged"] else f"{start['iterations']}, cut off"
        looser = start["inertia"] / least - 1
        far = f"+{100 * looser:.2f}{NBSP}%" if looser >= 5e-5 else f"under 0.01{NBSP}%"
        looseness = "the tightest" if looser < 1e-9 else far
        rows.append(Row((f"{i + 1}", looseness, decimal(start["agreement"], 2), ended)))
    columns = (
        Column("start", "nowrap"),
        Column("looseness", "right"),
        Column("same groups", "right"),
        Column("iterations", "right"),
    )
    note = "Looseness: how far people are from the middle of their groups, more than in the tightest start."
    return [table(columns, rows), small(note)] if rows else []


def _yardstick(facts: Facts) -> Html:
    """Where a demonstration holds both tables: the same on pooled data."""
    pooled = facts.get("pooled_clear_text")
    if not pooled:
        return Html("")
    looser = 100 * pooled["looser"]
    tightness = (
        "as tight" if abs(looser) < 0.005 else f"{abs(looser):.2f}{NBSP}% {'tighter' if looser > 0 else 'looser'}"
    )
    return element(
        "p",
        "Had both sides poured their data into one table, K-means, the best of ten starts, would have found groups "
        f"that agree with these by an adjusted Rand index of {decimal(pooled['agreement'], 3)}, and are {tightness}.",
    )


def _choice(facts: Facts) -> Html:
    """How many segments there should be, where the people chose."""
    curve = facts.get("curve") or ()
    if not curve:
        return Html("")
    if facts["rule"] == "strength":
        why = (
            f"With {facts['asked']} groups, those of one half of the people are found again in the other half: the "
            "largest number of which that can be said."
        )
    else:
        why = (
            "No number of groups is found again in another half of the people, so there may be none that stand apart; "
            f"{facts['asked']} is where more groups stop helping much."
        )
    caption = (
        f"Of two people in the same group, how often the other half of the people keeps them together, in the worst "
        f"group. At {STRONG:g} or more the groups are taken to be there."
    )
    rows = [
        Row(
            (str(point["k"]), decimal(point["strength"], 2), decimal(point["stability"], 2), _tighter(point, curve[0])),
            "main" if point["k"] == facts["asked"] else None,
        )
        for point in curve
    ]
    columns = (
        Column("groups", "nowrap"),
        Column("found again", "right"),
        Column("same groups", "right"),
        Column("looseness", "right"),
    )
    drawn = plots.segment_choice(curve, facts["asked"], STRONG)
    return two(
        card(element("figure", title("How many there are"), drawn, element("figcaption", caption))),
        card(element("p", why), table(columns, rows)),
    )


def _tighter(point: Facts, first: Facts) -> str:
    return share(point["inertia"] / first["inertia"]) if first["inertia"] else UNKNOWN


def _unused(report: Report, facts: Facts) -> Html:
    dropped = facts.get("dropped") or ()
    if not dropped:
        return Html("")
    floor = count(report["guards"]["floor"])
    return small(
        f"Your columns in which fewer than {floor} people differ from the rest had no part: {listed(dropped)}."
    )


def _marks(traits: Sequence[Facts], j: int) -> list[_Mark]:
    """What each column, or each text of it, says of segment j; in the order of the facts."""
    return [
        _Mark(
            party=trait["party"],
            column=trait["name"],
            kind=trait["kind"],
            label=trait["labels"][i] if trait["labels"] else None,
            here=trait["segments"][j][i],
            everybody=trait["all"][i],
            index=trait["index"][j][i],
            deviation=_known(trait["deviation"][j][i], at_least=trait["at_least"][j][i]),
            at_least=bool(trait["at_least"][j][i]),
        )
        for trait in traits
        for i in range(len(trait["all"]))
    ]


def _known(deviation: float | None, *, at_least: bool) -> float | None:
    """None where a lower bound is under everybody's share: how many there really are may as well be over it."""
    return None if at_least and deviation is not None and deviation < 0 else deviation


def _by_strength(marks: Sequence[_Mark]) -> list[_Mark]:
    """The most telling first; of a column with two texts the one that there is more of."""
    return sorted(marks, key=lambda mark: (-mark.strength, (mark.deviation or 0.0) < 0))


def _telling(marks: Sequence[_Mark]) -> list[_Mark]:
    """Of each column the mark that tells most, the most telling first."""
    first: dict[tuple[str, str], _Mark] = {}
    for mark in _by_strength(marks):
        if mark.here is not None:
            first.setdefault((mark.party, mark.column), mark)
    return list(first.values())


def _called(one: Facts) -> Html:
    """ "2 · younger, urban", or "Segment 2" where there is no name."""
    if not one.get("name"):
        return text(f"Segment {one['number']}")
    return joined(f"{one['number']} · ", name(one["name"]))


def _number(k: int) -> str:
    return _WORDS[k] if k < len(_WORDS) else str(k)


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}{NBSP}%"


def _value(mark: _Mark, value: float | None) -> str:
    """A mean in its own unit, to the three digits that it was rounded to."""
    if value is None:
        return UNKNOWN
    if mark.kind == "date" and _EARLIEST <= value <= _LATEST:
        return (_FIRST + timedelta(days=value)).isoformat()
    return short(value)
