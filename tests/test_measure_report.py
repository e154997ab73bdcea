"""The report's section on what a campaign brought: plain words, right figures, nothing claimed that is not shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.test_report import contract, written
from tidegate.party import effect
from tidegate.party.report import build
from tidegate.protocols.blind.measure import Arm, Measured
from tidegate.wire.contract import Outcome, Step

MATCH: dict[str, Any] = {
    "brand_rows": 9000, "media_rows": 60_000, "size": 4000, "floor": 100, "by_key": {"email": 4000},
    "own_by_key": {"email": 8900}, "peer_by_key": {"email": 59_000}, "learned": [],
}  # fmt: skip


def facts_of(exposed: Arm, control: Arm, *, cap: int = 50_000, cost: int = 1_000_000) -> dict[str, Any]:
    """What the step leaves at the brand, money in hundredths."""
    found = effect.effect(Measured(exposed, control), noise_sd=10, cap=cap)
    arms = {
        name: {"people": arm.people, "converted": arm.converted, "spend": (arm.spend or 0) / 100}
        for name, arm in (("exposed", exposed), ("control", control))
    }
    shown = effect.facts(found, unit=100, cost=cost)
    money = {"spend": "order_value", "cap": cap / 100, "clipped": 12}
    outcome = {"campaign": "0123456789ab", "tier": 1, "converted": "bought", "positive": "yes", "floor": 100}
    shared = {"step": "measure", "learned": ["both arms, noised"], "seconds": 2.0, "sent": 9, "received": 9}
    return {**outcome, **shared, "noise": 10, "matched": 4000, **arms, **money, **shown}


def page(folder: Path, facts: dict[str, Any], party: str = "brand") -> str:
    outcome = Outcome("0123456789ab", 1, "bought", "yes", "order_value", 50_000, 2, 1_000_000)
    steps = (Step("match", "match.oprf@1", {}), Step("measure", "measure.columns@1", {}))
    made = dataclasses.replace(contract(), steps=steps, outcome=outcome)
    results = written(folder, {"match": MATCH, "measure": facts})
    names = {each.role: each.name for each in made.parties}
    return build(results, made, names[party], folder / "out").read_text()


LIFT = (Arm(20_000, 900, 4_500_000, 450_000_000_00), Arm(5_000, 150, 750_000, 75_000_000_00))
NONE = (Arm(20_000, 612, 3_060_000, 306_000_000_00), Arm(5_000, 150, 750_000, 75_000_000_00))
LESS = (Arm(20_000, 300, 1_500_000, 150_000_000_00), Arm(5_000, 250, 1_250_000, 125_000_000_00))


def test_a_lift_is_told_with_its_interval_its_sales_and_its_cost(tmp_path: Path) -> None:
    text = page(tmp_path, facts_of(*LIFT))
    assert "The campaign brought customers" in text
    assert "Of about 20,000 people in the audience 4.5\u00a0% bought" in text
    assert "about 5,000 who were left alone 3.0\u00a0%" in text
    assert "about 300 customers who would not have bought without it" in text
    assert "The campaign brought about 300 customers." in text
    assert "+1.50\u00a0points" in text
    assert "order_value" in text
    assert "cost of a customer brought" in text
    assert "A spend counts as 500.0 at most; 12 were cut." in text
    assert "count on neither side" in text


@pytest.mark.parametrize(
    ("arms", "says", "never"),
    [
        (NONE, "not shown to have brought customers", "would not have bought without it"),
        (LESS, "Fewer people bought than of those left alone", "would not have bought without it"),
        ((Arm(20_000, 900, 0, 0), Arm(60, 3, 0, 0)), "Too few people to tell", "points"),
    ],
)
def test_what_is_not_shown_is_not_claimed(tmp_path: Path, arms: tuple[Arm, Arm], says: str, never: str) -> None:
    text = page(tmp_path, facts_of(*arms))
    assert says in text
    assert never not in text


def test_a_customer_has_no_cost_where_none_is_shown_to_have_come(tmp_path: Path) -> None:
    text = page(tmp_path, facts_of(*NONE))
    assert "not shown to be above zero" in text


def test_the_media_is_told_whom_and_not_what(tmp_path: Path) -> None:
    people = {"exposed": 20_011, "control": 5_003}
    shared = {"step": "measure", "learned": [], "seconds": 2.0, "sent": 9, "received": 9}
    text = page(tmp_path, {**shared, "campaign": "0123456789ab", "tier": 1, "people": people, "gone": 17}, "media")
    assert "20,011 people of it against 5,003 who were left alone" in text
    assert "17 people of it are not in your data set any more" in text
    assert "the figures are with" in text


def test_the_screen_says_the_same_in_a_few_lines() -> None:
    from tidegate.party import screen

    lines = list(screen._SUMMARIES["measure"](facts_of(*LIFT)))
    assert lines[0] == "4.50 % of the audience bought, 3.00 % of those left alone"
    assert lines[1].startswith("customers brought: 300 (95 % interval ")
    assert any(line.startswith("cost of a customer brought: 33.33") for line in lines)
    none = list(screen._SUMMARIES["measure"](facts_of(*NONE)))
    assert any("no effect is shown" in line for line in none)
    assert "cost of a customer brought: not shown to be above zero customers" in none
