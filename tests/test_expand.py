"""The step expand at both parties: audiences of every kind, who of them is left alone, and what is kept for scoring."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.two_tables import BRAND, MEDIA, TRAIN, Tables
from tidegate.party import cache
from tidegate.party.data import features
from tidegate.protocols.blind.scoring import rounded
from tidegate.protocols.channel import ConfigError, PolicyError
from tidegate.wire.contract import Contract

MATCHED, OTHERS = 900, 3100


def tables(folder: Path, seed: int = 1) -> Tables:
    """900 people in common, 3,100 others at the media; who is good shows in the media's columns."""
    rng = np.random.default_rng(seed)
    rows = MATCHED + OTHERS
    taste = rng.standard_normal((rows, 3))
    good = (rng.random(rows) < 1 / (1 + np.exp(1 - taste @ [1.5, 1.0, 0.3]))).astype(np.int64)
    device = np.where(taste[:, 2] > 0.4, "phone", "desktop")
    names = [f"p{i}" for i in range(rows)]
    media = {"id": names, "visits": taste[:, 0], "clicks": taste[:, 1], "device": device}
    brand = {"id": names[:MATCHED], "y": good[:MATCHED], "spend": rng.standard_normal(MATCHED)}
    return Tables.of(folder, brand, media, [(i, i) for i in range(MATCHED)])


def contract_of(there: Tables, settings: dict[str, Any], **more: Any) -> Contract:
    train = {**TRAIN, "steps": 4, "lookalike_steps": 4}
    return there.contract(
        {"train.fourier-lr@1": train, "expand.rows@1": {"control_percent": 0, **settings}, "score.rows@1": {}}, **more
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """A campaign has trained; the campaigns of the tests use its model."""
    there = tables(tmp_path_factory.mktemp("expand"))
    there.play(contract_of(there, {"sizes": [10]}), 0)
    there.limit["scores of other people"] = 1000
    return there


def test_when_a_snapshot_has_given_its_scores_away_no_audience_is_made(tmp_path: Path) -> None:
    there = tables(tmp_path)
    there.play(contract_of(there, {"sizes": [10]}), 0)
    for _ in range(4):
        expanded(there, {"sizes": [10]})
    with pytest.raises(PolicyError, match="all is spent"):
        expanded(there, {"sizes": [10]})


def expanded(there: Tables, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """What expand gives by the model that is there, and the media's folder with it."""
    model = contract_of(there, {"sizes": [10]}).short
    protocols = {"expand.rows@1": {"control_percent": 0, **settings}}
    contract = there.contract(protocols, model=model)
    ours, theirs = there.play(contract, 0)
    return ours, theirs, there.folder / f"{MEDIA}-campaigns" / contract.short / "expand"


def people_in(path: Path) -> set[int]:
    return set(pq.ParquetFile(path).read()["row"].to_pylist())


@pytest.mark.parametrize(
    ("settings", "files", "people"),
    [
        ({"sizes": [5, 20]}, ["audience_05_percent.parquet", "audience_20_percent.parquet"], [155, 620]),
        ({"people": [200, 1000]}, ["audience_200_people.parquet", "audience_1000_people.parquet"], [200, 1000]),
    ],
)
def test_each_audience_is_a_file_of_people_whom_the_brand_does_not_know(
    trained: Tables, settings: dict[str, Any], files: list[str], people: list[int]
) -> None:
    ours, theirs, folder = expanded(trained, settings)
    assert [size["people"] for size in ours["sizes"]] == [size["people"] for size in theirs["sizes"]] == people
    assert sorted(path.name for path in folder.glob("*.parquet")) == sorted(files)
    small, large = (people_in(folder / name) for name in files)
    assert [len(small), len(large)] == people
    assert small < large
    assert min(large) >= MATCHED
    assert pq.ParquetFile(folder / files[0]).schema_arrow.names == ["id", "row"]
    rates = [size["expected_rate"] for size in ours["sizes"]]
    assert rates[0] > rates[1] > 0
    assert "expected_rate" not in theirs["sizes"][0]


def test_a_threshold_takes_those_whose_chance_reaches_it(trained: Tables) -> None:
    ours, theirs, folder = expanded(trained, {"threshold_milli": [600]})
    [size] = ours["sizes"]
    assert size["name"] == theirs["sizes"][0]["name"] == "chance of 60 % or more"
    assert size["people"] == theirs["sizes"][0]["people"] == len(people_in(folder / "audience_from_0.600.parquet"))
    assert size["expected_rate"] > 0.6
    assert size["percent"] == pytest.approx(100 * size["people"] / OTHERS, abs=1e-3)


def test_a_threshold_that_too_few_reach_is_refused(trained: Tables) -> None:
    with pytest.raises(PolicyError, match="fewer than 100"):
        expanded(trained, {"threshold_milli": [999]})


def test_those_left_alone_are_in_no_audience_file_and_kept_for_later(trained: Tables) -> None:
    ours, theirs, folder = expanded(trained, {"sizes": [20, 40], "control_percent": 25})
    assert [size["left_alone"] for size in ours["sizes"]] == [155, 310]
    assert ours["sizes"][0]["left_alone"] == theirs["sizes"][0]["left_alone"]
    arms = pq.ParquetFile(folder / "arms.parquet").read()
    rows, tiers, alone = (arms[name].to_numpy(zero_copy_only=False) for name in ("row", "tier", "left_alone"))
    assert arms["text"].to_pylist() == [f"p{row}" for row in rows]
    for tier, name in ((1, "audience_20_percent.parquet"), (2, "audience_40_percent.parquet")):
        inside = tiers <= tier
        assert set(rows[inside & ~alone]) == people_in(folder / name)
        assert alone[inside].sum() == ours["sizes"][tier - 1]["left_alone"]
        assert inside.sum() == ours["sizes"][tier - 1]["people"]


def test_without_control_nobody_is_left_alone_and_nothing_is_kept(trained: Tables) -> None:
    ours, _, folder = expanded(trained, {"sizes": [20]})
    assert "left_alone" not in ours["sizes"][0]
    assert not (folder / "arms.parquet").exists()


def test_a_control_group_under_the_floor_is_refused(trained: Tables) -> None:
    with pytest.raises(PolicyError, match="62 would be left alone"):
        expanded(trained, {"sizes": [20], "control_percent": 10})


def test_scores_are_charged_for_before_any_leaves(trained: Tables) -> None:
    before = len(trained.charged)
    expanded(trained, {"sizes": [10]})
    assert trained.charged[before:] == [("scores of other people", 1)]


# What is kept to be faster.


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.i16"))


def chosen_columns(there: Tables, folder: Path, rows: Any, contract: Contract | None = None) -> Any:
    made = contract or there.contract(
        {"expand.rows@1": {"sizes": [10], "control_percent": 0}}, model=contract_of(there, {"sizes": [10]}).short
    )
    return cache.columns(replace(there.job(MEDIA, made, 0), cache=folder), "lookalike", np.asarray(rows))


def in_clear(there: Tables, rows: Any) -> Any:
    model = there.model(MEDIA, contract_of(there, {"sizes": [10]}))
    recipe = features.Recipe.from_json(model["recipe"])
    x = features.apply(recipe, there.rows[MEDIA], np.asarray(rows))
    return rounded(x @ np.array(model["lookalike"]["basis"]))


def test_columns_for_scoring_are_those_of_the_recipe_in_the_basis_of_the_model(
    trained: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "BLOCK_ROWS", 700)
    rows = np.random.default_rng(2).permutation(MATCHED + OTHERS)
    for part in (rows[:10], rows[:1999], rows, rows[5:]):
        found = chosen_columns(trained, tmp_path, part)
        # Rows are multiplied in blocks, so a sum may be rounded to the other side.
        assert np.abs(found.astype(int) - in_clear(trained, part)).max() <= 1
        assert (found == in_clear(trained, part)).mean() > 0.999
    assert len(kept(tmp_path)) == 1


def test_few_rows_are_made_without_keeping_all_and_taken_from_what_is_kept(trained: Tables, tmp_path: Path) -> None:
    few = chosen_columns(trained, tmp_path, range(100))
    assert kept(tmp_path) == []
    chosen_columns(trained, tmp_path, range(MATCHED + OTHERS))
    [path] = kept(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    # What is on disk is what is used: another value there is another value here.
    marked = np.memmap(path, np.dtype("<i2"), "r+", shape=(MATCHED + OTHERS, few.shape[1]))
    marked[3, 0] = 123
    marked.flush()
    assert chosen_columns(trained, tmp_path, range(100))[3, 0] == 123


def test_what_was_made_of_other_data_or_another_model_is_not_used(trained: Tables, tmp_path: Path) -> None:
    made = contract_of(trained, {"sizes": [10]})
    everybody = range(MATCHED + OTHERS)
    chosen_columns(trained, tmp_path, everybody)
    contract = trained.contract({"expand.rows@1": {"sizes": [10], "control_percent": 0}}, model=made.short)
    parties = tuple(
        type(party)(party.name, party.role, party.identity, type(party.data)(party.name, party.data.rows, "1" * 64))
        for party in contract.parties
    )
    chosen_columns(trained, tmp_path, everybody, type(contract)(**{**vars(contract), "parties": parties}))
    assert len(kept(tmp_path)) == 2


def test_a_file_that_is_cut_short_is_made_again(trained: Tables, tmp_path: Path) -> None:
    right = chosen_columns(trained, tmp_path, range(MATCHED + OTHERS))
    [path] = kept(tmp_path)
    os.truncate(path, 1000)
    np.testing.assert_array_equal(chosen_columns(trained, tmp_path, range(MATCHED + OTHERS)), right)


def test_what_is_kept_goes_with_its_model_and_with_its_data_set(trained: Tables, tmp_path: Path) -> None:
    made = contract_of(trained, {"sizes": [10]})
    for one, other in (
        ({"model": made.short}, {"model": "f" * 12}),
        ({"commitment": "0" * 64}, {"commitment": "2" * 64}),
    ):
        chosen_columns(trained, tmp_path, range(MATCHED + OTHERS))
        cache.forget(tmp_path, **other)
        assert len(kept(tmp_path)) == 1
        cache.forget(tmp_path, **one)
        assert kept(tmp_path) == []


def test_the_oldest_goes_when_the_folder_would_grow_too_large(
    trained: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in enumerate(("new.i16", "middle.i16", "old.i16")):
        (tmp_path / name).write_bytes(bytes(10_000))
        os.utime(tmp_path / name, (10**9 - age, 10**9 - age))
    size = 2 * (MATCHED + OTHERS) * 3
    monkeypatch.setattr(cache, "MOST_BYTES", size + 15_000)
    chosen_columns(trained, tmp_path, range(MATCHED + OTHERS))
    assert {path.name for path in kept(tmp_path)} >= {"new.i16"}
    assert not (tmp_path / "old.i16").exists()
    assert not (tmp_path / "middle.i16").exists()


def test_the_brand_cannot_be_asked_for_a_threshold_that_no_list_holds(trained: Tables) -> None:
    with pytest.raises(ConfigError, match="not a list"):
        expanded(trained, {"sizes": 10})


def test_scores_by_kept_columns_are_those_without(trained: Tables) -> None:
    """Twice the same audience rates: the second time from the file."""
    folder = trained.folder / f"{MEDIA}-cache"
    first, _, _ = expanded(trained, {"people": [500]})
    second, _, _ = expanded(trained, {"people": [500]})
    assert kept(folder)
    assert first["sizes"][0]["expected_rate"] == pytest.approx(second["sizes"][0]["expected_rate"], rel=0.02)
    assert first["pool"] == OTHERS
    assert not (trained.folder / f"{BRAND}-cache").exists()


def test_the_table_of_the_pool_is_never_there_as_floating_point(
    trained: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is made of columns is made of a block at a time."""
    asked: list[int] = []
    apply = features.apply

    def counted(recipe: features.Recipe, rows: pa.Table, chosen: Any) -> Any:
        asked.append(len(chosen))
        return apply(recipe, rows, chosen)

    monkeypatch.setattr(cache, "BLOCK_ROWS", 500)
    monkeypatch.setattr(features, "apply", counted)
    chosen_columns(trained, tmp_path, range(MATCHED + OTHERS))
    assert asked
    assert max(asked) <= 500
