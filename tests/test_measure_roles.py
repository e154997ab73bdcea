"""The step measure at both parties: an audience that a campaign made, found again later, against the clear text."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.test_expand import MATCHED, OTHERS, contract_of, tables
from tests.two_tables import BRAND, MEDIA, Tables
from tidegate.party import policy
from tidegate.party.arms import find
from tidegate.protocols.channel import ConfigError, PolicyError
from tidegate.wire.contract import Outcome

ROWS = MATCHED + OTHERS
QUIET = replace(policy.DEFAULT_GUARDS, count_noise=0)
EXPAND = {"sizes": [30, 60], "control_percent": 30}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tables, str, dict[str, np.ndarray]]:
    """A campaign that has trained and expanded; its short name; the media's arms."""
    there = tables(tmp_path_factory.mktemp("measure"), seed=3)
    there.play(contract_of(there, EXPAND), 0)
    contract = contract_of(there, EXPAND)
    there.play(contract, 1)
    arms = pq.ParquetFile(there.folder / f"{MEDIA}-campaigns" / contract.short / "expand" / "arms.parquet").read()
    kept = {name: arms[name].to_numpy(zero_copy_only=False) for name in ("row", "tier", "left_alone")}
    return there, contract.short, kept


def outcomes(arms: dict[str, np.ndarray], *, lift: float, seed: int = 6) -> dict[str, Any]:
    """The brand's next table: its buyers among the media's other people, and some whom the media does not know."""
    rng = np.random.default_rng(seed)
    rate = np.full(ROWS, 0.1)
    rate[arms["row"][~arms["left_alone"]]] += lift
    seen = np.flatnonzero(rng.random(ROWS) < 0.6)
    bought = rng.random(len(seen)) < rate[seen] / 0.6
    spend = np.where(bought, np.round(rng.lognormal(3, 0.5, len(seen)), 2), 0)
    strangers = [f"stranger {i}" for i in range(100)]
    return {
        "id": [f"p{i}" for i in seen] + strangers,
        "bought": np.concatenate([np.where(bought, "yes", "no"), np.full(100, "yes")]),
        "spend": np.concatenate([spend, np.full(100, 50.0)]),
    }


def measured(
    there: Tables,
    short: str,
    outcome: Outcome,
    *,
    guards: Any = QUIET,
    protocol: str = "measure.columns@1",
    **more: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    contract = there.contract({protocol: {}}, guards=guards, outcome=outcome, **more)
    return there.play(contract, 0)


def later(there: Tables, folder: Path, brand: dict[str, Any], media: dict[str, Any] | None = None) -> Tables:
    """The same parties some weeks later: another table at the brand, perhaps at the media, campaigns kept."""
    rows = there.rows[MEDIA].to_pydict() if media is None else media
    place = {name: row for row, name in enumerate(rows["id"])}
    matched = [(i, place[name]) for i, name in enumerate(brand["id"]) if name in place]
    then = Tables.of(folder, brand, rows, matched)
    for party in (BRAND, MEDIA):
        (folder / f"{party}-campaigns").symlink_to(there.folder / f"{party}-campaigns")
    return then


def in_clear(
    brand: dict[str, Any], arms: dict[str, np.ndarray], tier: int, cap: float, there: set[str]
) -> dict[str, dict[str, float]]:
    """Both arms' figures from everybody's tables: what no party could make."""
    inside = arms["tier"] <= tier
    found = {}
    for name, alone in (("exposed", False), ("control", True)):
        people = {f"p{row}" for row in arms["row"][inside & (arms["left_alone"] == alone)]} & there
        own = [i for i, one in enumerate(brand["id"]) if one in people]
        found[name] = {
            "people": len(people),
            "converted": int((np.asarray(brand["bought"])[own] == "yes").sum()),
            "spend": round(float(np.minimum(np.asarray(brand["spend"])[own], cap).sum()), 2),
        }
    return found


MONEY = {"converted": "bought", "positive": "yes", "spend": "spend", "cap": 4000, "decimals": 2, "cost": 100_000}


@pytest.mark.parametrize("tier", [1, 2])
def test_both_arms_are_as_in_the_clear_text_to_the_last_cent(
    made: tuple[Tables, str, dict[str, np.ndarray]], tmp_path: Path, tier: int
) -> None:
    there, short, arms = made
    brand = outcomes(arms, lift=0.3)
    then = later(there, tmp_path, brand)
    ours, theirs = measured(then, short, Outcome(short, tier, **MONEY))
    right = in_clear(brand, arms, tier, 40.0, {f"p{i}" for i in range(ROWS)})
    assert {name: ours[name] for name in right} == right
    assert theirs["people"] == {name: right[name]["people"] for name in right}
    assert theirs["gone"] == 0
    assert "exposed" not in theirs
    assert ours["clipped"] == sum(
        1 for i, spend in enumerate(brand["spend"]) if spend > 40 and brand["id"][i][0] == "p"
    )
    assert then.charged == [("measure", 1)]
    assert ours["verdict"] == ours["sales_verdict"] == "more"
    low, high = ours["lift"]["interval"]
    assert low < 0.3 < high
    assert ours["cost_of_customer"]["value"] == pytest.approx(1000 / ours["customers"]["value"])


def test_where_the_campaign_did_nothing_no_lift_is_claimed(
    made: tuple[Tables, str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    there, short, arms = made
    then = later(there, tmp_path, outcomes(arms, lift=0.0))
    ours, _ = measured(then, short, Outcome(short, 2, **MONEY))
    assert ours["verdict"] == "none"
    assert ours["cost_of_customer"] is None
    low, high = ours["lift"]["interval"]
    assert low < 0 < high


def test_people_are_found_again_in_a_later_state_of_the_data(
    made: tuple[Tables, str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """Rows in another order, people who left, newcomers: the arms are the same people as far as they are there."""
    there, short, arms = made
    rng = np.random.default_rng(9)
    stayed = rng.permutation(ROWS)[:3000]
    names = [f"p{i}" for i in stayed] + [f"new {i}" for i in range(500)]
    media = {"id": names, "visits": rng.standard_normal(len(names))}
    brand = outcomes(arms, lift=0.3)
    then = later(there, tmp_path, brand, media)
    contract = then.contract({"measure.columns@1": {}}, guards=QUIET, outcome=Outcome(short, 2, **MONEY))
    parties = tuple(replace(party, data=replace(party.data, commitment="1" * 64)) for party in contract.parties)
    ours, theirs = then.play(replace(contract, parties=parties), 0)
    right = in_clear(brand, arms, 2, 40.0, set(names))
    assert {name: ours[name] for name in right} == right
    assert theirs["gone"] == (arms["tier"] <= 2).sum() - sum(right[name]["people"] for name in right)


def test_without_a_column_everybody_in_the_brands_data_set_is_a_buyer(
    made: tuple[Tables, str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    there, short, arms = made
    brand = {"id": outcomes(arms, lift=0.3)["id"]}
    ours, _ = measured(later(there, tmp_path, brand), short, Outcome(short, 2))
    names = set(brand["id"])
    for name, alone in (("exposed", False), ("control", True)):
        people = {f"p{row}" for row in arms["row"][arms["left_alone"] == alone]}
        assert ours[name] == {"people": len(people), "converted": len(people & names)}
    assert "sales" not in ours
    assert "cost" not in ours


def test_under_hidden_alignment_the_figures_are_the_same(
    made: tuple[Tables, str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    there, short, arms = made
    brand = outcomes(arms, lift=0.3)
    then = later(there, tmp_path, brand)
    then.hidden = True
    outcome = Outcome(short, 2, **MONEY)
    ours, theirs = measured(then, short, outcome, protocol="measure.columns-hidden@1")
    right = in_clear(brand, arms, 2, 40.0, {f"p{i}" for i in range(ROWS)})
    assert {name: ours[name] for name in right} == right
    assert ours["matched"] == len(then.matched)
    # What reaches the media is as long whoever matched.
    sizes = [(name, len(data)) for name, data in then.sent[BRAND]]
    then.matched = then.matched[:100]
    measured(then, short, outcome, protocol="measure.columns-hidden@1")
    assert [(name, len(data)) for name, data in then.sent[BRAND]] == sizes
    assert theirs["people"]["control"] > 100


def test_noise_is_on_every_figure_and_the_intervals_allow_for_it(
    made: tuple[Tables, str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    there, short, arms = made
    brand = outcomes(arms, lift=0.3)
    then = later(there, tmp_path, brand)
    outcome = Outcome(short, 2, **MONEY)
    quiet, _ = measured(then, short, outcome)
    noised = [measured(then, short, outcome, guards=policy.DEFAULT_GUARDS)[0] for _ in range(8)]
    for arm, each in itertools.product(("exposed", "control"), ("people", "converted", "spend")):
        moved = [abs(ours[arm][each] - quiet[arm][each]) for ours in noised]
        # One draw of a count in 25 is 0, all eight of one are in 1 run in 10^10.
        assert 0 < max(moved) < (70 * 40 if each == "spend" else 70)
    low, high = quiet["lift"]["interval"]
    for ours in noised:
        assert ours["noise"] == 10
        assert ours["lift"]["interval"][1] - ours["lift"]["interval"][0] > high - low


def test_an_audience_that_is_not_known_here_is_refused_before_anything_is_sent(
    made: tuple[Tables, str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    there, short, arms = made
    then = later(there, tmp_path, outcomes(arms, lift=0.1))
    for outcome, says in (
        (Outcome("f" * 12, 1), "no audience of campaign"),
        (Outcome(short, 3), "has no audience of number 3"),
    ):
        with pytest.raises(PolicyError, match=says):
            measured(then, short, outcome)
        assert then.sent[MEDIA] == []
        assert then.charged == []


def test_an_audience_of_which_nobody_was_left_alone_cannot_be_measured(
    made: tuple[Tables, str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    there, short, arms = made
    without = contract_of(there, {"sizes": [30]}, nonce="1" * 32)
    folder = there.folder / f"{MEDIA}-campaigns" / without.short / "expand"
    folder.mkdir(parents=True)
    with pytest.raises(PolicyError, match="no audience of campaign"):
        measured(later(there, tmp_path, outcomes(arms, lift=0.1)), short, Outcome(without.short, 1))


def test_arms_that_have_shrunk_under_the_floor_are_refused(
    made: tuple[Tables, str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    there, short, arms = made
    then = later(there, tmp_path, outcomes(arms, lift=0.1))
    with pytest.raises(PolicyError, match="fewer than 900 people"):
        measured(then, short, Outcome(short, 2), guards=replace(QUIET, floor=900))
    assert then.sent[MEDIA] == []


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("spend", lambda n: ["much"] * n, "does not hold numbers"),
        ("spend", lambda n: np.full(n, np.datetime64("2026-01-01")), "dates"),
        ("bought", lambda n: ["perhaps"] * n, "1 different values"),
        ("bought", lambda n: (["no", "never"] * n)[:n], "no row has the label"),
    ],
)
def test_columns_that_say_nothing_of_buyers_or_spends_are_refused(
    made: tuple[Tables, str, dict[str, np.ndarray]], tmp_path: Path, column: str, values: Any, says: str
) -> None:
    there, short, arms = made
    brand = outcomes(arms, lift=0.1)
    brand[column] = values(len(brand["id"]))
    then = later(there, tmp_path, brand)
    with pytest.raises(ConfigError, match=says):
        measured(then, short, Outcome(short, 2, **MONEY))
    assert then.sent[BRAND] == []


def test_spends_below_nothing_above_the_cap_and_missing_are_cut_and_counted(
    made: tuple[Tables, str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    there, short, arms = made
    brand = outcomes(arms, lift=0.3)
    strange = np.asarray(brand["spend"], object)
    strange[:30] = -5.0
    strange[30:60] = 1e12
    strange[60:90] = None
    brand["spend"] = strange.tolist()
    ours, _ = measured(later(there, tmp_path, brand), short, Outcome(short, 2, **MONEY))
    brand["spend"] = [0.0 if spend is None or spend < 0 else spend for spend in strange]
    right = in_clear(brand, arms, 2, 40.0, {f"p{i}" for i in range(ROWS)})
    assert {name: ours[name] for name in right} == right
    assert ours["clipped"] >= 60


def test_what_the_media_keeps_cannot_be_used_after_it_was_damaged(
    made: tuple[Tables, str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    there, short, arms = made
    folder = there.folder / f"{MEDIA}-campaigns" / short / "expand"
    whole = (folder / "arms.json").read_text()
    then = later(there, tmp_path, outcomes(arms, lift=0.1))
    try:
        for text in ("", "{", '{"kinds": []}'):
            (folder / "arms.json").write_text(text)
            with pytest.raises(ConfigError, match="cannot be read"):
                measured(then, short, Outcome(short, 1))
    finally:
        (folder / "arms.json").write_text(whole)


def test_a_row_to_which_people_of_both_arms_lead_counts_for_neither(
    made: tuple[Tables, str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """A later state in which one row has the address of somebody left alone and the name of somebody who was not."""
    there, short, arms = made
    then = later(there, tmp_path, outcomes(arms, lift=0.1))
    folder = there.folder / f"{MEDIA}-campaigns" / short / "expand"
    kept = pq.ParquetFile(folder / "arms.parquet").read()
    one, other = int(np.flatnonzero(arms["left_alone"])[0]), int(np.flatnonzero(~arms["left_alone"])[0])
    names = kept["text"].to_pylist()
    emails = [f"{name}@example.com" for name in names]
    copy = tmp_path / "copy" / short / "expand"
    copy.mkdir(parents=True)
    pq.write_table(kept.append_column("email", pa.array(emails)), copy / "arms.parquet")
    (copy / "arms.json").write_text((folder / "arms.json").read_text().replace('["text"]', '["text", "email"]'))
    rest = [i for i in range(len(names)) if i not in (one, other)]
    now = {
        "id": [names[other], *(names[i] for i in rest)],
        "mail": [emails[one], *(emails[i] for i in rest)],
    }
    pq.write_table(pa.table(now), tmp_path / "now.parquet")
    contract = then.contract({"measure.columns@1": {}}, outcome=Outcome(short, 2))
    state = {"commitment": "1" * 64, "rows": len(rest) + 1}
    parties = tuple(replace(party, data=replace(party.data, **state)) for party in contract.parties)
    job = replace(
        then.job(MEDIA, contract, 0),
        contract=replace(contract, parties=parties),
        path=tmp_path / "now.parquet",
        keys={"email": "mail", "text": "id"},
        campaigns=tmp_path / "copy",
    )
    found = find(job)
    assert found.of_row[0] == 0
    assert sum(found.people) == len(rest)
    assert found.gone == 2
