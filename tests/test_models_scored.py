"""Scoring with a kept model, both parties' roles over a line in memory; and which contracts may use which model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.test_training import SHOWN, world
from tests.two_parties import CAMPAIGN, Party, Town, make_town
from tests.two_tables import BRAND, MEDIA, TRAIN, Tables
from tidegate.party import campaign, models, policy
from tidegate.party.results import write_json
from tidegate.protocols.channel import ConfigError, DisagreementError, PolicyError, TidegateError
from tidegate.wire.contract import Contract, Label

NOW_S = 1_800_000_000


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Tables, Contract]:
    there = world(tmp_path, 700)
    contract = there.contract({SHOWN: {**TRAIN, "steps": 3}})
    there.play(contract)
    there.charged.clear()
    return there, contract


def scoring(there: Tables, model: Contract) -> Contract:
    contract = there.contract({"score.rows@1": {}}, model=model.short, label=Label("", ""))
    return replace(contract, features=model.features)


def scores_of(there: Tables) -> dict[str, np.ndarray]:
    table = pq.read_table(next((there.folder / "shop-campaigns").glob("*/score/scores.parquet")))
    return {name: np.array(table[name]) for name in ("row", "score", "probability")}


def columns(there: Tables, party: str) -> dict[str, Any]:
    return {name: there.rows[party][name].to_pylist() for name in there.rows[party].column_names}


def test_new_categories_and_missing_values_are_scored_as_the_model_left_them_out(trained: Any) -> None:
    there, model = trained
    before = columns(there, MEDIA)
    of_first = [int(row) for row in there.matched[:100, 1]]
    for name, value in (("device", "watch"), ("clicks", None)):
        before[name] = [value if row in of_first else each for row, each in enumerate(before[name])]
    there.replace(MEDIA, before)
    there.play(scoring(there, model))
    found = scores_of(there)
    assert sorted(found["row"]) == list(range(700))
    assert np.isfinite(found["score"]).all()
    assert there.charged == [("scores of matched people", 1)]
    order = np.argsort(-found["score"], kind="stable")
    assert (np.diff(found["probability"][order]) <= 1e-12).all()


def test_a_brand_without_a_label_column_can_score(trained: Any) -> None:
    there, model = trained
    kept = columns(there, BRAND)
    there.replace(BRAND, {name: kept[name] for name in ("id", "age", "spend")})
    ours, theirs = there.play(scoring(there, model))
    assert ours["rows"] == theirs["rows"] == 700
    assert ours["model"] == theirs["model"] == model.short


@pytest.mark.parametrize(("party", "column"), [(BRAND, "age"), (MEDIA, "visits")])
def test_a_party_that_lacks_a_column_says_so_before_it_sends_anything(trained: Any, party: str, column: str) -> None:
    there, model = trained
    kept = columns(there, party)
    kept.pop(column)
    there.replace(party, kept)
    with pytest.raises(ConfigError, match=f"no column '{column}'"):
        there.play(scoring(there, model))
    assert there.sent[party] == []


@pytest.mark.parametrize("party", [BRAND, MEDIA])
def test_a_party_that_has_deleted_its_part_says_so_before_it_sends_anything(trained: Any, party: str) -> None:
    there, model = trained
    (there.folder / f"{party}-campaigns" / model.short / "train" / "model.json").unlink()
    with pytest.raises(PolicyError, match=f"{party} no longer keeps its part of the model {model.short}"):
        there.play(scoring(there, model))
    assert there.sent[party] == []


def test_a_budget_that_is_spent_ends_scoring_before_a_score_is_sent(trained: Any) -> None:
    there, model = trained
    there.limit["scores of matched people"] = 0
    with pytest.raises(PolicyError, match="all is spent"):
        there.play(scoring(there, model))
    assert there.sent[MEDIA] == []


# Which contracts may use which model.


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    made = make_town(tmp_path_factory.mktemp("town"))
    yield made
    made.close()


def keep(party: Party, contract: Contract) -> None:
    """Leaves a trained model as a committed run of the contract's step train does."""
    party.store.put_campaign(contract, "acme")
    index = next(at for at, step in enumerate(contract.steps) if step.step == "train")
    run = contract.hash[:16]
    party.store.start_run(contract.hash, index, run, 1)
    party.store.end_run(run, "prepared", receipt=b"r")
    party.store.end_run(run, "committed")
    folder = party.home.results(contract.short, "train")
    folder.mkdir(parents=True)
    write_json(folder / "model.json", {part: {} for part in models.PARTS})
    write_json(folder / "facts.json", {"run": run.hex(), "rows": {"train": 5}})


def proposed(town: Town, text: str = CAMPAIGN) -> Contract:
    checked = campaign.check(town.campaign_file(text), town.acme.home, town.acme.store, NOW_S)
    assert checked.contract is not None, checked.mistakes
    return checked.contract


def test_a_contract_is_held_against_the_model_that_it_names(town: Town) -> None:
    model, without = proposed(town), replace(proposed(town), steps=proposed(town).steps[:3])
    steps = tuple(
        replace(step, settings={**step.settings, "lookalike_steps": 0}) if step.step == "train" else step
        for step in without.steps
    )
    without = replace(without, steps=steps)
    for each in (model, without):
        keep(town.feed, each)

    def check(contract: Contract, **changes: Any) -> None:
        models.check(town.feed.home, town.feed.store, replace(contract, **changes))

    uses = replace(model, model=model.short, steps=tuple(step for step in model.steps if step.step != "train"))
    check(uses)
    assert not [one for one in policy.problems(town.feed.home, town.feed.store, uses, NOW_S) if "model" in one.text]
    with pytest.raises(ConfigError, match="no campaign has trained here"):
        check(uses, model="0" * 12)
    with pytest.raises(DisagreementError, match=r"other columns of feed .*missing: visits"):
        check(uses, features={**model.features, "feed": ("clicks", "device")})
    with pytest.raises(DisagreementError, match="between other parties"):
        check(uses, parties=(model.parties[0], replace(model.parties[1], identity="0" * 64)))
    with pytest.raises(DisagreementError, match="no part for other people"):
        check(uses, model=without.short)
    check(model, model=without.short)
    facts = town.feed.home.results(model.short, "train") / "facts.json"
    facts.write_text(facts.read_text().replace(model.hash[:16].hex(), "0" * 32))
    with pytest.raises(ConfigError, match="not the one that the parties trained"):
        check(uses)


def test_models_are_found_by_the_first_digits_of_their_id(town: Town) -> None:
    kept = models.kept(town.feed.home, town.feed.store)
    assert len(kept) == 2
    assert models.find(town.feed.home, town.feed.store, kept[0].short[:6]).short == kept[0].short
    with pytest.raises(TidegateError, match="no model"):
        models.find(town.feed.home, town.feed.store, "")
    assert models.kept(town.acme.home, town.acme.store) == []


def test_a_training_that_may_not_fit_the_ledger_is_refused_when_it_is_approved(town: Town) -> None:
    store, digest = town.feed.store, town.feed.store.dataset("people").digest
    before, now = proposed(town), proposed(town)
    index = next(at for at, step in enumerate(now.steps) if step.step == "train")
    for made, run in ((before, b"b" * 16), (now, b"n" * 16)):
        store.put_campaign(made, "acme")
        store.start_run(made.hash, index, run, 1)
    store.charge(digest, "acme", "train_steps", 12, 12, now.hash, b"n" * 16)
    assert policy.problems(town.feed.home, store, now, NOW_S) == [], "its own attempts are not held against it"
    said = [problem.text for problem in policy.problems(town.feed.home, store, before, NOW_S)]
    assert said == ["the budget of this data set towards acme has 0 of 12 train_steps left, this campaign may need 12"]
    store.check_room(digest, "acme", "scores of other people", 4, 4, before.hash, index)
    with pytest.raises(PolicyError, match="has 4 of 4 scores of other people left, this campaign may need 5"):
        store.check_room(digest, "acme", "scores of other people", 5, 4, before.hash, index)
