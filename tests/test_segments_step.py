"""The steps segment and assign, all three roles over lines in memory: who is in which segment, what is shown, what is
kept, what is charged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.three_roles import SEGMENT, play
from tests.two_tables import BRAND, MEDIA, Tables
from tidegate.party import policy
from tidegate.party.segments import budget
from tidegate.protocols.channel import ConfigError, PolicyError
from tidegate.protocols.clustering.kmeans import adjusted_rand
from tidegate.wire.contract import Range, Step

KMEANS, ASSIGN = "segment.kmeans@1", "assign.kmeans@1"
PEOPLE = 900


def world(folder: Path, n: int = PEOPLE, *, seed: int = 0, extreme: int = 0) -> tuple[Tables, np.ndarray]:
    """Three kinds of people, whom the shop's columns and the paper's tell apart only together, and gaps everywhere.

    extreme: how many of the first kind have values at both that nobody else has.
    """
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.arange(n) % 3)
    odd = np.arange(n) < extreme

    def gaps(values: np.ndarray, share: float = 0.05) -> list[Any]:
        return [None if gone else value for value, gone in zip(values.tolist(), rng.random(n) < share, strict=True)]

    age = np.where(odd, 5000.0, np.array([28, 55, 57])[kind] + 4 * rng.normal(size=n))
    flat = np.where(rng.random(n) < 0.9, np.array(["flat", "house", "house"])[kind], "flat")
    shop = {
        "id": [f"p{i}" for i in range(n)],
        "age": gaps(age),
        "home": gaps(np.where(np.arange(n) % 100 == 0, "boat", flat)),
        "always": ["x"] * n,
    }
    paper_of = rng.permutation(n)
    visits = np.where(odd, 1e12, np.array([10.0, 11.0, 40.0])[kind] + 2 * rng.normal(size=n))
    paper = {
        "id": [f"p{i}" for i in paper_of],
        "visits": [gaps(visits)[i] for i in paper_of],
        "newsletter": [int(each) for each in (rng.random(n) < np.array([0.9, 0.1, 0.9])[kind])[paper_of]],
    }
    rows_at = np.argsort(paper_of)
    return Tables.of(folder, shop, paper, [(i, rows_at[i]) for i in range(n)]), kind


def contract(there: Tables, protocol: str = KMEANS, settings: dict[str, int] | None = None, **more: Any) -> Any:
    return there.contract({protocol: {**SEGMENT, **(settings or {})} if protocol == KMEANS else {}}, **more)


def left(there: Tables, party: str, made: Any, name: str) -> Path:
    return Path(there.results(party, made) / made.steps[0].name / name)


def segment_of(there: Tables, made: Any, n: int) -> np.ndarray:
    """The segment of each of the brand's rows, 0 for none."""
    found = pq.read_table(left(there, BRAND, made, "segments.parquet"))
    numbers = np.zeros(n, np.int64)
    numbers[found["row"].to_numpy()] = found["segment"].to_numpy()
    return numbers


def test_planted_segments_are_found_with_gaps_and_categories(tmp_path: Path) -> None:
    there, kind = world(tmp_path)
    made = contract(there)
    ours, theirs = play(there, made)
    assert adjusted_rand(segment_of(there, made, PEOPLE), kind) > 0.9
    assert ours["k"] == theirs["k"] == 3
    assert [each["size"] for each in ours["segments"]] == [each["size"] for each in theirs["segments"]]
    assert ours["dropped"] == ["always"]
    assert ours["stability"] == theirs["stability"] > 0.5
    assert 0.5 < ours["explained"] <= 1
    assert [trait["name"] for trait in ours["traits"]] == ["age", "home", "visits", "newsletter"]
    assert [trait["name"] for trait in theirs["traits"]] == ["visits", "newsletter"]
    assert len({each["name"] for each in ours["segments"]}) == 3, [each["name"] for each in ours["segments"]]


def test_cards_say_what_the_segments_are(tmp_path: Path) -> None:
    there, _ = world(tmp_path)
    made = contract(there)
    ours, _ = play(there, made)
    numbers = segment_of(there, made, PEOPLE)
    age, home = ours["traits"][:2]
    ages = np.array([math.nan if each is None else each for each in there.rows[BRAND]["age"].to_pylist()])
    homes = np.array([each or "" for each in there.rows[BRAND]["home"].to_pylist()])
    assert home["labels"] == ["flat", "house"], "nine boats are too few to be named"
    for number in (1, 2, 3):
        here = numbers == number
        assert age["segments"][number - 1][0] == pytest.approx(np.nanmean(ages[here]), rel=0.03)
        known = here & (homes != "") & (homes != "boat")
        for label, percent in zip(home["labels"], home["segments"][number - 1], strict=True):
            if percent is not None and not home["at_least"][number - 1][home["labels"].index(label)]:
                assert percent == round(100 * np.mean(homes[known] == label))
                assert np.sum(homes[known] == label) >= 100
    assert json.loads(left(there, BRAND, made, "cards.json").read_text())["traits"] == ours["traits"]


def test_outliers_are_neither_a_centroid_nor_on_a_card(tmp_path: Path) -> None:
    there, _ = world(tmp_path, extreme=60)
    ours, theirs = play(there, made := contract(there, settings={"k": 4}))
    assert all(each["size"] >= 100 for each in ours["segments"])
    age = next(trait for trait in ours["traits"] if trait["name"] == "age")
    visits = next(trait for trait in theirs["traits"] if trait["name"] == "visits")
    assert max(row[0] for row in [age["all"], *age["segments"]]) < 80
    assert max(row[0] for row in [visits["all"], *visits["segments"]]) < 60
    for party in (BRAND, MEDIA):
        kept = json.loads(left(there, party, made, "model.json").read_text())["segments"]
        assert np.abs(kept["centroids"]).max() < 3
        assert "5000" not in kept["recipe"]
        assert "1000000000000" not in kept["recipe"]


def test_segments_under_the_floor_are_merged_into_others(tmp_path: Path) -> None:
    there, kind = world(tmp_path, 700)
    # 60 people who are apart in what their side declares.
    rows = {name: there.rows[BRAND][name].to_pylist() for name in there.rows[BRAND].column_names}
    rows["age"] = [90.0 + i % 3 if i < 60 else age for i, age in enumerate(rows["age"])]
    there.replace(BRAND, rows)
    made = contract(there, settings={"k": 5}, ranges=(Range(BRAND, "age", 0.0, 100.0),))
    ours, theirs = play(there, made)
    assert ours["left_out"] == theirs["left_out"] >= 1
    assert sum(each["size"] for each in ours["segments"]) == 700
    assert min(each["size"] for each in ours["segments"]) >= 100
    assert len(kind) == 700
    recipe = json.loads(json.loads(left(there, BRAND, made, "model.json").read_text())["segments"]["recipe"])
    assert [(each["low"], each["high"]) for each in recipe["columns"] if each["name"] == "age"] == [(0.0, 100.0)]


def test_too_few_people_for_two_segments_end_the_step_in_words(tmp_path: Path) -> None:
    there, _ = world(tmp_path, 190)
    with pytest.raises(PolicyError, match="two segments of at least 100 need 200"):
        play(there, contract(there))


def test_k_is_found_where_it_is_left_open(tmp_path: Path) -> None:
    there, kind = world(tmp_path)
    made = contract(there, settings={"k": 0, "most_k": 5, "starts": 2})
    ours, theirs = play(there, made)
    assert (ours["k"], ours["rule"], ours["asked"]) == (3, "strength", 3)
    assert ours["curve"] == theirs["curve"]
    assert [point["k"] for point in ours["curve"]] == [2, 3, 4, 5]
    assert adjusted_rand(segment_of(there, made, PEOPLE), kind) > 0.9


def test_the_same_people_are_assigned_where_they_were(tmp_path: Path) -> None:
    there, _ = world(tmp_path)
    for iterations in (20, 2):
        made = contract(there, settings={"iterations": iterations})
        before, _ = play(there, made)
        again = contract(there, ASSIGN, model=made.short)
        ours, theirs = play(there, again)
        assert np.array_equal(segment_of(there, made, PEOPLE), segment_of(there, again, PEOPLE))
        assert [each["name"] for each in ours["segments"]] == [each["name"] for each in before["segments"]]
        assert [each["size"] for each in theirs["segments"]] == [each["size"] for each in before["segments"]]
        assert ours["model"] == made.short
        assert not left(there, MEDIA, again, "segments.parquet").exists()


def test_new_people_are_assigned_under_the_same_floor(tmp_path: Path) -> None:
    there, kind = world(tmp_path)
    made = contract(there)
    play(there, made)
    first = segment_of(there, made, PEOPLE)
    rare = int(first[kind == 0][0])
    few = np.flatnonzero(first == rare)[:40]
    there.matched = there.matched[np.sort(np.concatenate([few, np.flatnonzero(first != rare)]))]
    again = contract(there, ASSIGN, model=made.short)
    ours, theirs = play(there, again)
    now = segment_of(there, again, PEOPLE)
    assert ours["left_out"] == theirs["left_out"] == [rare]
    assert ours["segments"][rare - 1]["size"] == 0
    assert not (now == rare).any()
    stay = (now > 0) & (first != rare)
    assert np.array_equal(now[stay], first[stay])
    assert int((now > 0).sum()) == len(there.matched)


def test_the_media_keeps_no_labels(tmp_path: Path) -> None:
    there, _ = world(tmp_path)
    made = contract(there)
    play(there, made)
    files = sorted(path.name for path in left(there, MEDIA, made, "x").parent.iterdir())
    assert files == ["cards.json", "facts.json", "model.json"]
    kept = json.loads(left(there, MEDIA, made, "model.json").read_text())["segments"]
    assert (np.array(kept["centroids"]).shape[0], kept["names"]) == (3, [])


def test_both_sides_are_charged_before_anything_is_sent(tmp_path: Path) -> None:
    there, _ = world(tmp_path)
    play(there, contract(there))
    assert there.charged == [("segment passes", 3 * 20 + 3)] * 2
    there.limit["segment passes"] = 2 * 63
    with pytest.raises(PolicyError, match="all is spent"):
        play(there, contract(there))
    assert there.sent[BRAND] == []
    assert there.sent[MEDIA] == []


def test_no_run_can_ask_for_more_than_a_snapshot_may_give() -> None:
    settings = {"k": 0, "most_k": policy.SEGMENTS[1], "starts": policy.STARTS[1], "iterations": policy.ITERATIONS[1]}
    assert budget.passes(Step("segment", KMEANS, {**settings, "brand_weight": 1, "media_weight": 1})) <= budget.MOST


def test_a_side_without_a_column_that_varies_says_so(tmp_path: Path) -> None:
    there, _ = world(tmp_path)
    with pytest.raises(ConfigError, match="no column of this party varies"):
        play(there, contract(there, features={BRAND: ("always",), MEDIA: ("visits",)}))
    assert there.sent[BRAND] == []


def test_weights_say_which_side_decides(tmp_path: Path) -> None:
    there, kind = world(tmp_path)
    # The shop alone cannot tell kinds 1 and 2 apart, the paper alone not ... 0 and 2 by newsletter.
    made = contract(there, settings={"k": 2, "brand_weight": 100_000, "media_weight": 1})
    play(there, made)
    shop = segment_of(there, made, PEOPLE)
    made = contract(there, settings={"k": 2, "brand_weight": 1, "media_weight": 100_000})
    play(there, made)
    paper = segment_of(there, made, PEOPLE)
    assert adjusted_rand(shop, kind == 0) > 0.8 > adjusted_rand(paper, kind == 0)
