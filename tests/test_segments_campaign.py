"""Segments as things that people ask for, keep and use again: campaign files, contracts, models, the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.test_models_scored import NOW_S, keep
from tests.two_parties import CAMPAIGN, Party, Town, make_town
from tidegate.party import campaign, models, policy
from tidegate.party.cli import party_app
from tidegate.party.results import write_json
from tidegate.party.segments import budget
from tidegate.protocols.channel import ConfigError, DisagreementError, PolicyError
from tidegate.wire.contract import Contract, Range

FILE = """\
[campaign]
name = "groups"

[parties]
brand = "acme"
media = "feed"

[data]
brand = "customers"
media = "people"

[match]
keys = ["email"]
"""
COLUMNS = """
[features]
brand = ["age", "plan"]
media = ["visits", "clicks", "device"]
"""
SEGMENT = FILE + COLUMNS + '\n[ranges.acme]\nage = [18, 80]\n\n[steps.match]\n[steps.segment]\nk = "auto"\n'


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    made = make_town(tmp_path_factory.mktemp("town"))
    yield made
    made.close()


def checked(town: Town, text: str) -> campaign.Checked:
    return campaign.check(town.campaign_file(text), town.acme.home, town.acme.store, NOW_S)


def proposed(town: Town, text: str = SEGMENT) -> Contract:
    made = checked(town, text)
    assert made.contract is not None, made.mistakes
    return made.contract


def keep_segments(party: Party, contract: Contract) -> None:
    """Leaves segments as a committed run of the contract's step does."""
    party.store.put_campaign(contract, "acme")
    index = next(at for at, step in enumerate(contract.steps) if step.step == "segment")
    run = contract.hash[16:]
    party.store.start_run(contract.hash, index, run, 1)
    party.store.end_run(run, "prepared", receipt=b"r")
    party.store.end_run(run, "committed")
    folder = party.home.results(contract.short, "segment")
    folder.mkdir(parents=True)
    write_json(folder / "model.json", {"segments": {}})
    segments = [{"number": 1, "name": "younger", "size": 600}, {"number": 2, "name": "older", "size": 400}]
    facts = {"run": run.hex(), "rows": 1000, "columns": ["age"], "segments": segments}
    write_json(folder / "facts.json", facts)


def later(short: str) -> str:
    return FILE + f'\n[model]\ncampaign = "{short}"\n\n[steps.match]\n[steps.assign]\n'


def test_a_file_that_asks_for_segments_makes_a_contract_that_both_take(town: Town) -> None:
    made = proposed(town)
    assert made.ranges == (Range("acme", "age", 18.0, 80.0),)
    assert made.helper == town.acme.home.coordinator_identity().hex()
    assert policy.problems(town.feed.home, town.feed.store, made, NOW_S) == []
    for party in ("acme", "feed"):
        assert any("20 iterations of each of at most 4 starts" in line for line in made.learns[party])


def test_a_contract_that_does_not_grant_the_assignments_is_refused(town: Town) -> None:
    made = proposed(town)
    kept = tuple(line for line in made.learns["feed"] if "which group" not in line)
    assert len(kept) < len(made.learns["feed"])
    said = policy.problems(town.feed.home, town.feed.store, replace(made, learns={**made.learns, "feed": kept}), NOW_S)
    assert isinstance(said[0], DisagreementError), said


def test_people_are_assigned_by_a_campaign_that_has_segmented_alone(town: Town) -> None:
    made, trained = proposed(town), proposed(town, CAMPAIGN)
    keep_segments(town.acme, made)
    keep_segments(town.feed, made)
    keep(town.acme, trained)
    uses = proposed(town, later(made.short))
    assert uses.model == made.short
    assert uses.features == made.features
    assert policy.problems(town.feed.home, town.feed.store, uses, NOW_S) == []
    for short in (trained.short, "0" * 12):
        mistakes = [mistake.key for mistake in checked(town, later(short)).mistakes]
        assert "model.campaign" in mistakes


def test_a_contract_is_held_against_the_segments_that_it_names(town: Town) -> None:
    made = proposed(town)
    keep_segments(town.feed, made)
    steps = tuple(replace(step, step="assign", protocol="assign.kmeans@1", settings={}) for step in made.steps[1:])
    uses = replace(made, model=made.short, steps=(made.steps[0], *steps), ranges=())

    def check(**changes: Any) -> None:
        models.check(town.feed.home, town.feed.store, replace(uses, **changes))

    check()
    with pytest.raises(ConfigError, match=r"segmentation 0{12}, which no campaign has trained here"):
        check(model="0" * 12)
    with pytest.raises(DisagreementError, match=r"other columns of feed .*missing: visits"):
        check(features={**made.features, "feed": ("clicks", "device")})
    assert models.run_used(town.feed.store, uses) == {"segmentation": made.hash[16:].hex()}
    (town.feed.home.results(made.short, "segment") / "model.json").unlink()
    with pytest.raises(PolicyError, match="feed no longer keeps its part of the segmentation"):
        check()


def test_segments_are_listed_shown_and_deleted_like_models(town: Town) -> None:
    made = proposed(town)
    keep_segments(town.acme, made)

    def told(*arguments: str) -> str:
        result = CliRunner().invoke(party_app, ["--home", str(town.acme.home.path), "models", *arguments])
        assert result.exit_code == 0, (result.output, result.exception)
        return str(result.output)

    assert made.short in told("list")
    shown = told("show", made.short)
    assert "segment 1: 600 people, younger" in shown
    assert "AUC" not in shown
    town.acme.store.set_state(made.hash, "done")
    told("delete", made.short, "--yes")
    assert made.short not in told("list")
    with pytest.raises(ConfigError, match="was deleted here"):
        models.find(town.acme.home, town.acme.store, made.short)


def test_what_a_campaign_has_left_twice_is_told_apart(town: Town) -> None:
    made = proposed(town, CAMPAIGN + "\n[steps.segment]\nk = 3\n")
    keep(town.acme, made)
    keep_segments(town.acme, made)
    with pytest.raises(ConfigError, match="has left a model and segments"):
        models.find(town.acme.home, town.acme.store, made.short)
    for step in ("train", "segment"):
        assert models.find(town.acme.home, town.acme.store, f"{made.short}/{step}").step == step


@pytest.mark.parametrize(
    ("steps", "used"),
    [
        (("match", "score"), ("train",)),
        (("match", "train", "score"), ("train",)),
        (("match", "assign"), ("segment",)),
        (("match", "score", "assign"), ("segment", "train")),
        (("match", "segment", "assign", "score"), ("train",)),
        (("match",), ("train",)),
    ],
)
def test_which_results_of_another_campaign_steps_use(steps: tuple[str, ...], used: tuple[str, ...]) -> None:
    assert models.makers(steps) == used


@pytest.mark.parametrize("side", ["acme", "feed"])
def test_segments_that_do_not_fit_the_ledger_are_refused_when_approved(town: Town, side: str) -> None:
    party, made, before = getattr(town, side), proposed(town), proposed(town)
    partner = {"acme": "feed", "feed": "acme"}[side]
    party.store.put_campaign(before, "acme")
    party.store.start_run(before.hash, 1, b"f" * 16, 1)
    digest = party.store.dataset(made.party(side).data.name).digest
    party.store.charge(digest, partner, budget.KIND, budget.MOST - 10, budget.MOST, before.hash, b"f" * 16)
    said = [problem.text for problem in policy.problems(party.home, party.store, made, NOW_S)]
    assert any("has 10 of 2000 segment passes left" in text for text in said), said


def test_a_table_of_ranges_needs_numbers_in_order_and_a_step_that_uses_it(town: Town) -> None:
    mistakes = checked(town, SEGMENT.replace("[18, 80]", "[80, 18]")).mistakes
    assert [mistake.key for mistake in mistakes] == ["ranges.acme.age"]
    mistakes = checked(town, SEGMENT.replace("age = [", "plans = [")).mistakes
    assert mistakes
