"""What a campaign file says of training, models, privacy and outcomes, and what the contract makes of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.two_parties import CAMPAIGN, Town, make_town
from tidegate.party import campaign, policy
from tidegate.party.agreed import terms
from tidegate.wire.contract import Contract, Holdout, Label, Outcome, Privacy

NOW_S = 1_800_000_000
SEEDS = CAMPAIGN.replace('column = "bought"\npositive = 1', "seeds = true").replace("[steps.insight]\n", "")
SEEDS = SEEDS.replace('column = "split"\nvalue = "test"', "share = 30")
HIDDEN = CAMPAIGN.replace('keys = ["email"]', 'keys = ["email"]\nmode = "brand"')
HIDDEN = HIDDEN.replace("[steps.expand]\nsizes = [5, 10, 20]\n", "").replace(
    'column = "split"\nvalue = "test"', "share = 30"
)
HEAD = CAMPAIGN[: CAMPAIGN.index("[label]")]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    made = make_town(tmp_path_factory.mktemp("town"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def trained(town: Town) -> Contract:
    """A campaign with a model, and audiences of which some people were left alone, whose results are kept."""
    made = contract_of(town, CAMPAIGN.replace("sizes = [5, 10, 20]", "sizes = [5, 10, 20]\ncontrol = 10"))
    for party in (town.acme, town.feed):
        party.store.put_campaign(made, "acme")
        for index, step in enumerate(made.steps):
            run = os.urandom(16)
            party.store.start_run(made.hash, index, run, 1)
            party.store.end_run(run, "prepared", receipt=b"r")
            party.store.end_run(run, "committed")
            results = party.home.results(made.short, step.step)
            results.mkdir(parents=True)
            (results / "facts.json").write_text(f'{{"run": "{run.hex()}"}}')
        (party.home.results(made.short, "train") / "model.json").write_text("{}")
    return made


def check(town: Town, text: str) -> campaign.Checked:
    return campaign.check(town.campaign_file(text), town.acme.home, town.acme.store, NOW_S)


def contract_of(town: Town, text: str) -> Contract:
    checked = check(town, text)
    assert checked.contract is not None, [str(one) for one in checked.mistakes]
    assert Contract.from_bytes(checked.contract.to_bytes()) == checked.contract
    assert policy.problems(town.acme.home, town.acme.store, checked.contract, NOW_S) == []
    return checked.contract


def settings(made: Contract, name: str) -> dict[str, int | list[int]]:
    return next(step.settings for step in made.steps if step.step == name)


def test_training_is_told_how_to_weigh_stop_and_explain(town: Town) -> None:
    more = 'l2 = "auto"\nbalance = true\nearly_stop = true\nimportance = true'
    made = contract_of(town, CAMPAIGN.replace("l2 = 10", more).replace("positive = 1", 'positive = 1\nweight = "age"'))
    found = settings(made, "train")
    assert (found["l2_milli"], found["balance"], found["early_stop"], found["importance"]) == (0, 1, 1, 1)
    assert made.label == Label("bought", "1", "age")
    assert "age" not in made.features["acme"]
    assert any("coefficient of each of the media's columns" in line for line in made.learns["acme"])
    assert any("the model's weights of its own columns" in line for line in made.learns["feed"])
    plain = contract_of(town, CAMPAIGN)
    assert not any("coefficient of each" in line for line in plain.learns["acme"])


def test_a_list_of_good_customers_alone_is_enough_to_look_for_more(town: Town) -> None:
    made = contract_of(town, SEEDS)
    assert made.label == Label("", "", seeds=True)
    assert [step.protocol for step in made.steps][1] == "train.fourier-lr-seeds@1"
    assert settings(made, "train")["others_per_seed"] == 10
    assert "lookalike_steps" not in settings(made, "train") or settings(made, "train")["lookalike_steps"] == 0
    assert "everybody in the data set of acme" in terms(made)["Good customers"]


def test_after_a_match_that_the_brand_alone_learns_steps_run_over_all_of_the_medias_people(town: Town) -> None:
    made = contract_of(town, HIDDEN)
    assert [step.protocol.partition(".")[2] for step in made.steps[1:]] == [
        "columns-hidden@1",
        "fourier-lr-hidden@1",
        "rows-hidden@1",
    ]
    assert made.holdout == Holdout("", "", 30)
    assert "feed does not learn it" in terms(made)["Who matched"]
    assert any("neither who matched nor how many" in line for line in made.learns["feed"])


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("sizes = [1, 10]", {"sizes": [1, 10]}),
        ("people = [500, 100]", {"people": [100, 500]}),
        ("threshold = 0.125", {"threshold_milli": [125]}),
        ("sizes = [10]\ncontrol = 20", {"sizes": [10], "control_percent": 20}),
    ],
)
def test_audiences_are_asked_for_by_share_by_size_or_by_threshold(
    town: Town, written: str, found: dict[str, int | list[int]]
) -> None:
    made = contract_of(town, CAMPAIGN.replace("sizes = [5, 10, 20]", written))
    assert settings(made, "expand") == {"control_percent": 0, **found}
    left_alone = any("left alone" in line for line in made.learns["feed"])
    assert left_alone == bool(found.get("control_percent"))


def test_a_model_that_is_kept_scores_and_finds_more_people_without_training(town: Town, trained: Contract) -> None:
    text = (
        f'{HEAD}[model]\ncampaign = "{trained.short}"\n\n[steps.match]\n[steps.score]\n[steps.expand]\nsizes = [10]\n'
    )
    made = contract_of(town, text)
    assert [step.step for step in made.steps] == ["match", "score", "expand"]
    assert (made.model, made.features) == (trained.short, trained.features)
    assert terms(made)["Model"] == f"that of campaign {trained.short}"
    warm = contract_of(
        town, CAMPAIGN.replace("[steps.match]", f'[model]\ncampaign = "{trained.short}"\n[steps.match]', 1)
    )
    assert warm.model == trained.short
    assert terms(warm)["Model"].startswith("training starts from")


def test_what_an_audience_brought_is_asked_with_its_columns(town: Town, trained: Contract) -> None:
    outcome = (
        f'[outcome]\ncampaign = "{trained.short}"\naudience = 10\nspend = "age"\ncap = 90\ndecimals = 2\ncost = 250\n'
    )
    made = contract_of(town, f"{HEAD}{outcome}[steps.match]\n[steps.measure]\n")
    assert made.outcome == Outcome(trained.short, 2, "", "", "age", 9000, 2, 25_000)
    assert "everybody in its data set" in terms(made)["Measured"]


def test_privacy_and_audits_stand_in_the_contract(town: Town) -> None:
    text = CAMPAIGN.replace("[label]", "[privacy]\nepsilon = 1.5\ndelta = 1e-7\n\n[label]")
    made = contract_of(town, text.replace("[campaign]\n", "[campaign]\naudit = true\n"))
    assert (made.privacy, made.audit) == (Privacy(1500, 7), True)
    assert {"Differential privacy", "Audit"} <= set(terms(made))


MISTAKES = {
    "no such model": (
        "[steps.match]",
        '[model]\ncampaign = "0123456789ab"\n[steps.match]',
        "model.campaign",
        "are kept",
    ),
    "epsilon": ("[label]", "[privacy]\nepsilon = 0.01\n[label]", "privacy.epsilon", "from 0.1 to 20"),
    "delta": ("[label]", "[privacy]\ndelta = 0.3\n[label]", "privacy.delta", "a power of ten"),
    "outcome alone": (
        "[label]",
        '[outcome]\ncampaign = "0123456789ab"\n[label]',
        "outcome",
        "only with [steps.measure]",
    ),
    "measure alone": ("[steps.score]", "[steps.measure]", "outcome", "a table [outcome]"),
    "weight text": ("positive = 1", 'positive = 1\nweight = "plan"', "label.weight", "a column of numbers"),
    "no such weight": ("positive = 1", 'positive = 1\nweight = "agge"', "label.weight", 'did you mean "age"'),
    "seeds and column": ("positive = 1", "positive = 1\nseeds = true", "label", "either seeds = true or column"),
    "two audiences": ("sizes = [5, 10, 20]", "sizes = [5]\npeople = [100]", "steps.expand", "one of sizes, people"),
    "few people": ("sizes = [5, 10, 20]", "people = [49]", "steps.expand.people", "from 50 to"),
    "threshold": ("sizes = [5, 10, 20]", "threshold = 1.0", "steps.expand.threshold", "from 0.001 to 0.999"),
    "control": ("sizes = [5, 10, 20]", "sizes = [5]\ncontrol = 60", "steps.expand.control", "0 to 50"),
    "balance": ("l2 = 10", "l2 = 10\nbalance = 1", "steps.train.balance", "true or false"),
    "audit": ("[campaign]\n", '[campaign]\naudit = "yes"\n', "campaign.audit", "true or false"),
}


@pytest.mark.parametrize(("old", "new", "key", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_key(town: Town, old: str, new: str, key: str, said: str) -> None:
    assert old in CAMPAIGN
    checked = check(town, CAMPAIGN.replace(old, new, 1))
    assert checked.contract is None
    told = [str(mistake) for mistake in checked.mistakes if mistake.key == key]
    assert any(said in line for line in told), [str(one) for one in checked.mistakes]


def test_an_audience_of_which_nobody_was_left_alone_cannot_be_measured(town: Town) -> None:
    outcome = '[outcome]\ncampaign = "0123456789ab"\n'
    checked = check(town, f"{HEAD}{outcome}[steps.match]\n[steps.measure]\n")
    assert [one.key for one in checked.mistakes] == ["outcome.campaign"]
    assert "left people alone" in str(checked.mistakes[0])
