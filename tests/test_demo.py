"""The demo on the records that ship with the package, as `make demo` runs it: a coordinator and two nodes, for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.cluster import KMeans

from tidegate.party.aligned import read_rows
from tidegate.party.data import table
from tidegate.party.segments import columns
from tidegate.protocols.clustering.kmeans import adjusted_rand

pytestmark = pytest.mark.timeout(660)

ROLES = ("brand", "media")
STEPS = ("match", "insight", "segment", "train", "score", "expand")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "tidegate", "demo", "--out", str(out)]
    # Wide enough for the path of the report: pytest's own folders lie deep.
    wide = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=wide)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture(scope="module")
def report(played: tuple[Path, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((played[0] / "report.json").read_text())
    return found


def test_everybody_known_to_both_is_matched(report: dict[str, Any]) -> None:
    assert (report["match"]["brand_rows"], report["match"]["media_rows"]) == (7_622, 9_422)
    assert report["match"]["size"] == 7_222


def test_joint_model_is_as_good_as_pooled_clear_text(report: dict[str, Any]) -> None:
    auc = report["train"]["auc"]
    assert abs(auc["joint"] - auc["pooled_clear_text"]) <= 0.002
    assert abs(report["train"]["log_loss"]["joint"] - report["train"]["log_loss"]["pooled_clear_text"]) <= 0.001
    assert auc["joint"] > auc["brand_only"] > 0.65
    low, high = report["train"]["gain_interval"]
    assert low < auc["joint"] - auc["brand_only"] < high


def test_official_split_is_kept_over_the_matched_rows(report: dict[str, Any]) -> None:
    rows = report["train"]["rows"]
    assert rows == {"train": 5_822 - 2_200 - 400, "holdout": 4_000}


def test_shared_customers_fall_into_segments_as_in_pooled_tables(report: dict[str, Any]) -> None:
    segment = report["segment"]
    sizes = [one["size"] for one in segment["segments"]]
    assert len(sizes) == segment["k"] == 4
    assert sum(sizes) == segment["rows"] == 7_222
    assert min(sizes) >= report["guards"]["floor"]
    assert sizes == sorted(sizes, reverse=True)
    # The starts come from the system's randomness. Of 262 on these records 19 ended elsewhere, where the inertia is
    # 0.8 to 3.0 % more; in one run of some thousand all three do. The best of them is kept.
    assert min(segment["starts"], key=lambda start: float(start["inertia"]))["agreement"] == 1
    beside = segment["pooled_clear_text"]
    assert -0.01 < beside["looser"] < 0.05
    assert beside["agreement"] > 0.85 or beside["looser"] > 0.004


def test_k_means_on_pooled_tables_has_nothing_to_add_to_the_segments(played: tuple[Path, str]) -> None:
    """Begun where the blind one ended, whichever of the optima that is."""
    data, places = played[0] / "data", {role: next((played[0] / role / "campaigns").iterdir()) for role in ROLES}
    parts = []
    for role, place in places.items():
        recipe = columns.Recipe.from_json(
            json.loads((place / "segment" / "model.json").read_text())["segments"]["recipe"]
        )
        parts.append(columns.apply(recipe, table.read(data / f"{role}.parquet"), read_rows(place / "match")))
    x, found = np.hstack(parts), pq.read_table(places["brand"] / "segment" / "segments.parquet")
    at = dict(zip(found["row"].to_pylist(), found["segment"].to_pylist(), strict=True))
    blind = np.array([at[row] - 1 for row in read_rows(places["brand"] / "match").tolist()])
    middles = np.array([x[blind == number].mean(axis=0) for number in range(4)])
    again = KMeans(4, init=middles, n_init=1, max_iter=100, tol=0).fit(x)
    assert adjusted_rand(blind, again.labels_.astype(np.int64)) > 0.9


def test_segments_are_told_by_the_columns_of_both_sides(report: dict[str, Any]) -> None:
    traits = report["segment"]["traits"]
    assert {trait["party"] for trait in traits} == {"brand", "media"}
    known = {trait["name"]: trait for trait in traits}
    assert {"car_policies", "home_owners", "age"} <= set(known)
    assert not {"customer_subtype", "customer_main_type", "protestant"} & set(known)
    low, high = min(known["liability_policies"]["segments"])[0], max(known["liability_policies"]["segments"])[0]
    assert low < known["liability_policies"]["all"][0] < high
    names = [one["name"] for one in report["segment"]["segments"]]
    assert len(set(names)) == 4
    assert all("name" not in one for one in report["media_facts"]["segment"]["segments"])


def test_audiences_are_nested_above_the_floor_and_better_than_chance(played: tuple[Path, str]) -> None:
    out, _ = played
    facts = json.loads((out / "report.json").read_text())["expand"]
    folder = next((out / "media" / "campaigns").iterdir()) / "expand"
    earlier: set[int] = set()
    for size in facts["sizes"]:
        table = pq.read_table(folder / f"audience_{size['percent']:02d}_percent.parquet")
        rows = set(table["row"].to_pylist())
        assert len(rows) == size["people"] >= facts["floor"]
        assert earlier <= rows
        earlier = rows
    # The blur changes who is in the smallest one from run to run, and a handful of its people are good customers.
    assert facts["sizes"][-1]["people"] == 660
    assert facts["sizes"][-1]["true_lift"] > 1.3


def test_report_has_what_programs_read(report: dict[str, Any]) -> None:
    assert report["score"]["rows"] == 7_222
    assert report["train"]["lift_at_10"]["joint"] > 1
    for step in STEPS:
        assert report["seconds"][step] > 0
        assert report["bytes"][step]["sent"] > 0
        assert report["bytes"][step]["received"] > 0
    for party in ("brand", "media", "coordinator"):
        assert report["learned"][party]


def test_report_is_one_offline_file(played: tuple[Path, str]) -> None:
    page = (played[0] / "report.html").read_text()
    assert "<svg" in page
    for outside in ('src="http', "src='http", "url(http", "@import", "<script src", "<link"):
        assert outside not in page


def test_report_names_nobody(played: tuple[Path, str]) -> None:
    rows = pq.read_table(played[0] / "data" / "brand.parquet", columns=["email", "phone"])
    known = {value for name in rows.column_names for value in rows[name].to_pylist() if value}
    for name in ("report.html", "report.json"):
        text = (played[0] / name).read_text()
        assert "@example" not in text.casefold()
        assert not [value for value in known if value in text]


def test_each_party_holds_its_own_results_only(played: tuple[Path, str]) -> None:
    out, _ = played
    assert list((out / "brand").rglob("scores.parquet"))
    assert not list((out / "media").rglob("scores.parquet"))
    assert list((out / "brand").rglob("segments.parquet"))
    assert not list((out / "media").rglob("segments.parquet"))
    assert list((out / "media").rglob("audience_*.parquet"))
    assert not list((out / "brand").rglob("audience_*.parquet"))


def test_summary_says_what_a_marketer_wants_to_know(played: tuple[Path, str]) -> None:
    _, printed = played
    for words in (
        "made up",
        "7,222",
        "they fall into 4 segments:",
        "K-means on pooled clear-text tables agrees by",
        "The AUC goes from",
        "95 % interval",
        "really good customers",
        "report.html",
    ):
        assert words in " ".join(printed.replace("│", " ").split())
