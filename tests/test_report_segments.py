"""The report on segments: who is in them in words, nothing under the floor, and nothing in the data breaks the page."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.test_report import HOSTILE, Page, contract, made
from tidegate.protocols import catalog
from tidegate.wire.contract import Contract, Label, Step

PEOPLE = 4000


def segmenting(step: str = "segment") -> Contract:
    one = contract()
    steps = tuple(Step(each, catalog.DEFAULT_PROTOCOL[each], {}) for each in ("match", step))
    return dataclasses.replace(one, steps=steps, label=Label("", ""))


def number(party: str, name: str, everybody: float, here: list[float | None], **more: Any) -> dict[str, Any]:
    """A column of numbers as the step leaves it; three segments."""
    return {
        "party": party, "name": name, "kind": "number", "labels": [], "all": [everybody],
        "segments": [[each] for each in here], "at_least": [[False]] * 3,
        "index": [[None if each is None else round(100 * each / everybody)] for each in here],
        "deviation": [[None if each is None else (each - everybody) / everybody] for each in here], **more,
    }  # fmt: skip


def category(party: str, name: str) -> dict[str, Any]:
    return {
        "party": party, "name": name, "kind": "category", "labels": ["urban", "rural"], "all": [50.0, 50.0],
        "segments": [[80.0, 20.0], [95.0, None], [10.0, 90.0]],
        "at_least": [[False, False], [True, False], [False, False]],
        "index": [[160.0, 40.0], [190.0, None], [20.0, 180.0]],
        "deviation": [[0.6, -0.6], [0.9, None], [-0.8, 0.8]],
    }  # fmt: skip


def start(inertia: float, agreement: float, *, converged: bool = True) -> dict[str, Any]:
    return {"inertia": inertia, "iterations": 12, "converged": converged, "agreement": agreement}


def segment_facts(name: str = "sport", **more: Any) -> dict[str, Any]:
    return {
        "step": "segment", "run": "00", "seconds": 1.5, "sent": 10, "received": 20, "learned": ["the group of each"],
        "rows": PEOPLE, "k": 3, "asked": 3, "rule": "contract", "left_out": 0, "curve": [],
        "starts": [start(100.0, 1.0), start(100.5, 0.97), start(130.0, 0.4, converged=False)], "stability": 0.6,
        "explained": 0.24, "columns": ["age", "never_seen"], "dropped": ["constant"],
        "segments": [
            {"number": 1, "name": "younger, urban", "size": 2000, "share": 50.0},
            {"number": 2, "name": f"older, {name}", "size": 1500, "share": 37.5},
            {"number": 3, "name": "like everybody", "size": 500, "share": 12.5},
        ],
        "traits": [
            number("brand", "age", 40.0, [24.0, 66.0, 41.0]), number("brand", "region", 10.0, [5.0, 20.0, None]),
            category("media", "area"), number("media", name, 2.0, [2.0, 6.0, 2.1]),
        ],
        **more,
    }  # fmt: skip


CURVE = [
    {"k": 2, "inertia": 200.0, "strength": 0.95, "stability": 0.97},
    {"k": 3, "inertia": 150.0, "strength": 0.88, "stability": 0.91},
    {"k": 4, "inertia": 140.0, "strength": 0.41, "stability": 0.52},
]


def shown(folder: Path, facts: dict[str, Any], party: str = "brand", **more: Any) -> tuple[str, dict[str, Any]]:
    return made(folder, {facts["step"]: facts}, contract=segmenting(facts["step"]), party=party, **more)


def words(html: str) -> str:
    return Page(html).text.replace("\u00a0", " ")


def test_a_segment_is_told_in_words_by_the_columns_of_both_sides(tmp_path: Path) -> None:
    html, _ = shown(tmp_path, segment_facts())
    said = words(html)
    for sentence in (
        "The 4,000 people you share fall into 3 segments.",
        "Three segments of the 4,000 people you both know",
        "2 · older, sport",
        "1,500 people · 37.5 %",
        "age 40 % below average (24; all: 40)",
        "region 2.0 times the average (20; all: 10)",
        "80 % are “urban” in area, against 50 % of all",
        "at least 95 % are “urban” in area",
        "sport 3.0 times the average (6; all: 2)",
        "They account for 24 % of all the differences between people",
        "Your columns in which fewer than 100 people differ from the rest had no part: constant.",
    ):
        assert sentence in said, sentence
    assert "sport about average" not in said, "what a segment is like everybody in is not said of it"


def test_what_is_withheld_is_said_to_be_and_no_figure_takes_its_place(tmp_path: Path) -> None:
    html, report = shown(tmp_path, segment_facts())
    third = words(html).split("3 · like everybody")[1]
    assert "Not shown, since fewer than 100 of them have a value: region." in third.split("How large")[0]
    assert report["segment"]["traits"][1]["segments"][2] == [None]
    assert "nan" not in html.casefold().replace("finance", "")


def test_a_segment_under_the_floor_is_in_neither_page_nor_json(tmp_path: Path) -> None:
    facts = segment_facts()
    facts["segments"][2] |= {"size": 99, "share": 2.5, "name": "the few"}
    facts["traits"][0]["segments"][2] = [98.765]
    html, report = shown(tmp_path, facts)
    assert "the few" not in html
    assert "98.8" not in html
    assert [one["size"] for one in report["segment"]["segments"]] == [2000, 1500]
    assert all(len(trait[name]) == 2 for trait in report["segment"]["traits"] for name in ("segments", "index"))
    assert "98.765" not in json.dumps(report)


def test_a_bound_below_the_average_is_not_taken_for_a_difference(tmp_path: Path) -> None:
    facts = segment_facts()
    area = facts["traits"][2]
    area |= {"all": [98.0, 2.0], "segments": [[92.0, None]] * 3, "at_least": [[True, False]] * 3}
    area |= {"index": [[94.0, None]] * 3, "deviation": [[-0.5, None]] * 3}
    html, _ = shown(tmp_path, facts)
    assert "are “urban” in area" not in words(html)


@pytest.mark.parametrize(
    ("stability", "says"),
    [
        (0.95, "put nearly the same people together"),
        (0.8, "put mostly the same people together"),
        (0.6, "cut some of the crowd elsewhere"),
        (-0.1, "take these as one way of many"),
    ],
)
def test_how_far_the_starts_agree_is_said_in_words(tmp_path: Path, stability: float, says: str) -> None:
    html, _ = shown(tmp_path, segment_facts(stability=stability))
    said = words(html)
    assert says in said
    assert "2 of 3 came to the groups shown here" in said
    assert "12, cut off" in said


def test_of_a_single_start_no_stability_is_claimed(tmp_path: Path) -> None:
    html, _ = shown(tmp_path, segment_facts(starts=[start(100.0, 1.0)], stability=None))
    assert "it is not known whether another one finds them again" in words(html)


def test_the_choice_of_their_number_is_drawn_and_explained(tmp_path: Path) -> None:
    for rule, asked, says in (("strength", 3, "are found again in the other half"), ("elbow", 3, "there may be none")):
        html, report = shown(tmp_path / rule, segment_facts(rule=rule, asked=asked, curve=CURVE))
        assert says in words(html)
        assert report["segment"]["curve"] == CURVE
    plots = re.findall(r'<svg [^>]*role="img" aria-label="([^"]*)"', html)
    assert len(plots) == 2
    assert "segment 1: 2,000, segment 2: 1,500, segment 3: 500" in plots[0]
    assert "2: 0.95, 3: 0.88, 4: 0.41. 3 taken." in plots[1]
    ids = [value for name, value in Page(html).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert "#0a0b" not in html, "a stand-in colour was left in a plot"


def test_merged_segments_are_said_to_be(tmp_path: Path) -> None:
    html, _ = shown(tmp_path, segment_facts(asked=5, left_out=2))
    assert "2 more were found with fewer than 100 people; those went to the segment nearest to them." in words(html)


def test_the_media_is_shown_its_own_columns_and_no_names(tmp_path: Path) -> None:
    facts = segment_facts()
    facts["segments"] = [{name: one[name] for name in ("number", "size", "share")} for one in facts["segments"]]
    facts["traits"] = [trait for trait in facts["traits"] if trait["party"] == "media"]
    html, _ = shown(tmp_path, facts, party="media")
    said = words(html)
    assert "Segment 2" in said
    assert "brand has named them and holds the list of who is in which; you keep none." in said
    assert "age" not in said.split("Segments")[1].split("Who learned")[0].replace("average", "").split()


def test_hostile_columns_texts_and_names_stay_text(tmp_path: Path) -> None:
    facts = segment_facts(name=HOSTILE, dropped=[HOSTILE])
    facts["traits"][2] |= {"name": HOSTILE, "labels": [HOSTILE, "rural"]}
    html, _ = shown(tmp_path, facts)
    page = Page(html)
    assert not {"script", "img"} & set(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "\u202e" not in html
    assert "\x00" not in html
    assert "alert(1)" in page.text


@pytest.mark.parametrize(
    ("days", "date"), [(0.0, "1970-01-01"), (20_000.0, "2024-10-04"), (1e90, "1e+90"), (-1e6, "−1,000,000")]
)
def test_dates_are_dates_and_absurd_ones_break_nothing(tmp_path: Path, days: float, date: str) -> None:
    facts = segment_facts()
    late = {"kind": "date", "index": [[None]] * 3, "deviation": [[0.0], [1.2], [-1.2]]}
    facts["traits"].append(number("media", "signup", 15_000.0, [15_000.0, days, 14_000.0], **late))
    html, _ = shown(tmp_path, facts)
    assert f"signup later than average ({date}; all: 2011-01-26)" in words(html)


def test_pooled_tables_are_told_of_only_where_somebody_holds_both(tmp_path: Path) -> None:
    html, _ = shown(tmp_path / "run", segment_facts())
    assert "poured their data" not in words(html)
    pooled = {"agreement": 0.9871, "looser": 0.0004}
    html, report = shown(tmp_path / "demo", segment_facts(), extra={"pooled_segments": pooled})
    assert "an adjusted Rand index of 0.987, and are 0.04 % tighter" in words(html)
    assert report["segment"]["pooled_clear_text"] == pooled


def test_people_assigned_later_are_counted_above_the_floor_only(tmp_path: Path) -> None:
    facts = {
        "step": "assign", "learned": [], "rows": 1200, "left_out": [3], "model": "0123456789ab",
        "segments": [
            {"number": 1, "name": "younger, urban", "size": 700, "share": 58.3, "share_then": 50.0},
            {"number": 2, "name": "older", "size": 500, "share": 41.7, "share_then": 37.5},
            {"number": 3, "name": "like everybody", "size": 0, "share": 0.0, "share_then": 12.5},
        ],
    }  # fmt: skip
    html, report = shown(tmp_path, facts)
    said = words(html)
    assert "1,200 people were put into the segments of campaign 0123456789ab" in said
    assert "1 · younger, urban70058.3 %50.0 %" in said
    assert "3 · like everybodyfewer than 100–12.5 %" in said
    assert report["assign"]["rows"] == 1200


def test_a_page_with_segments_is_one_offline_file(tmp_path: Path) -> None:
    html, _ = shown(tmp_path, segment_facts(rule="strength", curve=CURVE))
    page = Page(html)
    assert not {"script", "link", "iframe", "img", "form"} & set(page.tags)
    assert "http" not in html.replace("http-equiv", "")
    targets = [value[1:] for name, value in page.attributes if name == "href"]
    assert set(targets) <= {value for name, value in page.attributes if name == "id"}
