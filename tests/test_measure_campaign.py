"""The closed loop between real processes: a campaign leaves people alone, a later one measures what it brought."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.real_parties import PAPER, SHOP, Tables, campaign_text, town, write_csv, write_tables
from tidegate.party.report import build

MEASURE = """\
[campaign]
name = "effect"

[parties]
brand = "shop"
media = "paper"

[data]
brand = "buyers"
media = "readers"

[match]
keys = ["phone", "email"]

[guards]
count_noise = {noise}

[outcome]
campaign = "{campaign}"
audience = 50
converted = "bought"
positive = "yes"
spend = "paid"
cap = 200
decimals = 2
cost = 500

[steps.match]
[steps.measure]
"""


@pytest.mark.timeout(900)
def test_what_a_campaign_brought_is_measured_by_a_later_one(tmp_path: Path) -> None:
    tables = write_tables(tmp_path / "first", seed=8, paper_rows=4600)
    with town(tmp_path / "town") as there:
        there.register(tables)
        train = "[steps.train]\nsteps = 3\nlookalike_steps = 3\n\n[steps.expand]\nsizes = [20, 50]\ncontrol = 25\n"
        text = f"{campaign_text('spring', ('match',))}\n\n{train}"
        there.stage.campaign(SHOP, "propose", str(there.file(text)), "--yes")
        there.stage.party(PAPER, "approve", "spring", "--yes")
        there.up()
        there.until_over("spring", seconds=400)
        arms = pq.ParquetFile(there.results(PAPER, "spring") / "expand" / "arms.parquet").read().to_pylist()
        sizes = there.facts(SHOP, "spring", "expand")["sizes"]
        alone = [arm for arm in arms if arm["left_alone"]]
        assert [size["left_alone"] for size in sizes] == [sum(arm["tier"] == 1 for arm in alone), len(alone)]

        # Some weeks later: who bought since. Of the audience every second one did, of those left alone every tenth:
        # counted off, not drawn, as the arms themselves come from the system's randomness.
        rng = np.random.default_rng(1)
        bought: dict[int, bool] = {}
        for is_alone, every in ((False, 2), (True, 10)):
            arm_people = [arm for arm in arms if arm["left_alone"] == is_alone]
            bought |= {id(arm): at % every == 0 for at, arm in enumerate(arm_people)}
        buyers: list[dict[str, object]] = [
            {
                "tel": arm["phone"] or "",
                "contact": arm["email"] or "",
                "bought": "yes" if bought[id(arm)] else "no",
                "paid": f"{rng.uniform(10, 250):.2f}" if bought[id(arm)] else "0",
            }
            for arm in arms
        ]
        strangers: list[dict[str, object]] = [
            {"tel": "", "contact": f"stranger.{i}@example.org", "bought": "yes", "paid": "20"} for i in range(50)
        ]
        write_csv(tmp_path / "later.csv", [*buyers, *strangers])
        later = Tables(tmp_path / "later.csv", tables.paper, tables.joined)
        there.register(later)
        short = there.campaign(SHOP, "spring").short
        there.stage.campaign(SHOP, "propose", str(there.file(MEASURE.format(noise=0, campaign=short))), "--yes")
        there.stage.party(PAPER, "approve", "effect", "--yes")
        there.until_over("effect", seconds=400)

        ours, theirs = there.facts(SHOP, "effect", "measure"), there.facts(PAPER, "effect", "measure")
        for name, is_alone in (("exposed", False), ("control", True)):
            people = [arm for arm in arms if arm["left_alone"] == is_alone]
            own = [buyer for arm, buyer in zip(arms, buyers, strict=True) if arm["left_alone"] == is_alone]
            assert ours[name]["people"] == len(people) == theirs["people"][name]
            # A person without a valid key at either side is found by nobody.
            assert ours[name]["converted"] <= sum(buyer["bought"] == "yes" for buyer in own)
            assert ours[name]["converted"] > 0.9 * sum(buyer["bought"] == "yes" for buyer in own)
        assert ours["verdict"] == ours["sales_verdict"] == "more"
        low, high = ours["lift"]["interval"]
        shares = [ours[name]["converted"] / ours[name]["people"] for name in ("exposed", "control")]
        assert ours["lift"]["value"] == pytest.approx(shares[0] - shares[1])
        assert 0 < low < shares[0] - shares[1] < high < 1
        assert ours["clipped"] > 10
        assert ours["cost_of_customer"]["value"] == pytest.approx(500 / ours["customers"]["value"])
        spent = {each.kind: each.amount for each in there.stores[PAPER].charges()}
        assert spent["measure"] == 1

        page = build(
            there.results(SHOP, "effect"), there.campaign(SHOP, "effect").contract, SHOP, tmp_path / "report"
        ).read_text()
        assert "The campaign brought about" in page
