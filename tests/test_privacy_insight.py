"""The step insight under differential privacy: charged before it answers, with the noise that was paid for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.test_contract import contract
from tidegate.party import insights, privacy
from tidegate.party.job import Job
from tidegate.protocols.channel import Channel, PolicyError, TidegateError
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import simulate
from tidegate.wire.contract import Contract, Label, Privacy, Step

INSIGHT = Step("insight", "insight.columns@1", {})
ROWS = 4000


def _contract(epsilon_milli: int, protocol: str = INSIGHT.protocol) -> Contract:
    made = contract()
    return replace(
        made,
        steps=(replace(INSIGHT, protocol=protocol),),
        features={"portal": ("age", "sport")},
        label=Label("bought", "1"),
        privacy=Privacy(epsilon_milli, 6),
        guards=replace(made.guards, count_noise=0),
    )


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Both parties' rows, matched in order, and what their match step left."""
    rng = np.random.default_rng(5)
    age, sport = rng.integers(0, 4, ROWS), rng.integers(0, 3, ROWS)
    bought = (rng.random(ROWS) < 0.15 + 0.1 * age).astype(int)
    pa.parquet.write_table(pa.table({"bought": bought}), tmp_path / "acme.parquet")
    pa.parquet.write_table(pa.table({"age": age, "sport": sport}), tmp_path / "portal.parquet")
    for party in ("acme", "portal"):
        (tmp_path / party).mkdir()
        np.arange(ROWS, dtype="<i8").tofile(tmp_path / party / "rows.i64")
    return tmp_path


def _job(made: Contract, folder: Path, party: str, charge: Callable[[str, int, int], None]) -> Job:
    return Job(
        contract=made,
        step=made.steps[0],
        party=party,
        path=folder / f"{party}.parquet",
        keys={},
        given={},
        region=None,
        duplicates="refuse",
        earlier={"match": folder / party},
        staging=folder,
        randomness=Randomness(bytes(31) + party[:1].encode()),
        count_noise=lambda n: np.zeros(n, np.int64),
        charge=charge,
    )


def _play(made: Contract, folder: Path, charge: Callable[[str, int, int], None]) -> tuple[Any, Any]:
    def brand(channel: Channel) -> Any:
        return insights.brand(_job(made, folder, "acme", lambda _kind, _amount, _limit: None), channel)

    def media(channel: Channel) -> Any:
        return insights.media(_job(made, folder, "portal", charge), channel)

    return simulate(brand, media)


def test_both_sides_take_the_noise_that_the_budget_asks_for(tables: Path) -> None:
    charged: list[tuple[str, int]] = []
    made = _contract(500)
    found, given = _play(made, tables, lambda kind, amount, _limit: charged.append((kind, amount)))
    assert charged == [("insight", 1), ("privacy", privacy.campaign_micro(made.privacy))]
    assert found["noise"] == privacy.count_noise(made, made.steps[0], "portal") > 15
    assert given["privacy"]["epsilon"] == 0.5
    exact, without = _play(_contract(0), tables, lambda _kind, _amount, _limit: None)
    assert exact["noise"] == 0
    assert "privacy" not in without
    away = [
        one["people"] - true["people"]
        for feature, truth in zip(found["features"], exact["features"], strict=False)
        for one, true in zip(feature["bins"], truth["bins"], strict=False)
    ]
    assert any(away)


def test_an_empty_ledger_ends_the_step_before_a_count_leaves(tables: Path) -> None:
    sent: list[str] = []

    def refuse(kind: str, _amount: int, _limit: int) -> None:
        if kind == "privacy":
            raise PolicyError("the budget is spent", "use newer data")
        sent.append(kind)

    with pytest.raises(TidegateError, match="the budget is spent"):
        _play(_contract(500), tables, refuse)
    assert sent == ["insight"]


def test_the_facts_say_what_each_feature_tells(tables: Path) -> None:
    found, _ = _play(_contract(0), tables, lambda _kind, _amount, _limit: None)
    by_name = {feature["name"]: feature for feature in found["features"]}
    assert by_name["age"]["strength"] in ("medium", "strong")
    assert by_name["sport"]["strength"] == "nothing clear"
    woe = [one["woe"] for one in by_name["age"]["bins"]]
    assert woe == sorted(woe)
    assert by_name["age"]["iv_interval"] == [by_name["age"]["iv"]] * 2


def test_hidden_alignment_counts_over_all_of_the_medias_rows(tables: Path) -> None:
    """The media's secret order is its rows' own here, and the brand knows every second of them."""
    order = np.arange(ROWS, dtype="<i8")
    order.tofile(tables / "portal" / "order.i64")
    np.where(order % 2 == 0, order, -1).tofile(tables / "acme" / "order.i64")
    for party in ("acme", "portal"):
        order[::2].tofile(tables / party / "rows.i64")
    shown, _ = _play(_contract(0), tables, lambda _kind, _amount, _limit: None)
    hidden, facts = _play(_contract(0, "insight.columns-hidden@1"), tables, lambda _kind, _amount, _limit: None)
    assert (hidden["matched"], facts["rows"]) == (ROWS // 2, ROWS)
    assert hidden["base_rate"] == shown["base_rate"]
    for feature, truth in zip(hidden["features"], shown["features"], strict=True):
        for one, true in zip(feature["bins"], truth["bins"], strict=True):
            assert {**one, "people": 0} == {**true, "people": 0}
            assert one["people"] > 1.8 * true["people"]
