"""Steps with all media in contract, policy and node: who takes part, what comes before, what is refused."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from tests.test_several_media import node_of
from tests.test_several_media import town as town
from tests.two_parties import Town
from tidegate.party import campaign, policy, worker
from tidegate.party.config import Home
from tidegate.party.node import admit
from tidegate.protocols.channel import ConfigError
from tidegate.wire.contract import Contract, Privacy, signed_bytes
from tidegate.wire.relay_pb2 import Start

CAMPAIGN = """\
[campaign]
name = "together"

[parties]
brand = "acme"
media = ["feed", "rest"]

[data]
brand = "customers"
media = {feed = "people", rest = "people"}

[match]
keys = ["email"]

[label]
column = "bought"
positive = 1

[holdout]
column = "split"
value = "test"

[steps.match]
[steps.train]
[steps.score]
"""


def contract_of(town: Town) -> Contract:
    checked = campaign.check(town.campaign_file(CAMPAIGN), town.acme.home, town.acme.store, time.time())
    assert checked.contract is not None, checked.mistakes
    return checked.contract


def approved(town: Town) -> Contract:
    contract = contract_of(town)
    for party in (town.acme, town.feed):
        party.store.put_campaign(contract, "acme")
        for folder in ("acme", "feed", "rest"):
            identity = Home(town.folder / folder).load_identity()
            party.store.add_signature(contract.hash, identity.name, identity.sign(signed_bytes(contract.hash)))
    return contract


def test_training_and_scoring_are_with_all_media_the_first_of_them_leading(town: Town) -> None:
    contract = contract_of(town)
    assert [step.name for step in contract.steps] == ["match-feed", "match-rest", "train", "score"]
    members = [[party.name for party in contract.members(step)] for step in contract.steps]
    assert members == [["acme", "feed"], ["acme", "rest"], ["acme", "feed", "rest"], ["acme", "feed", "rest"]]
    assert [step.protocol for step in contract.steps[2:]] == ["train.fourier-lr-several@1", "score.rows-several@1"]
    for party in ("acme", "feed", "rest"):
        assert contract.takes_part(party, contract.steps[2])
    assert contract.peer("rest", contract.steps[2]).name == "acme"


def test_each_media_enters_the_columns_that_the_file_names_for_it(town: Town) -> None:
    assert contract_of(town).features["rest"] == ("visits", "clicks", "device")
    text = CAMPAIGN + '[features.media]\nfeed = ["visits"]\nrest = ["clicks", "device"]\n'
    checked = campaign.check(town.campaign_file(text), town.acme.home, town.acme.store, time.time())
    assert checked.contract is not None, checked.mistakes
    assert checked.contract.features["feed"] == ("visits",)
    assert checked.contract.features["rest"] == ("clicks", "device")
    wrong = text.replace('rest = ["clicks"', 'radio = ["clicks"').replace('["visits"]', '["steps"]')
    checked = campaign.check(town.campaign_file(wrong), town.acme.home, town.acme.store, time.time())
    assert {mistake.key for mistake in checked.mistakes} == {"features.media.radio", "features.media.feed"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"privacy": Privacy(epsilon_milli=2000)}, "cannot ask for differential privacy"),
        ({"model": "0123456789ab"}, "cannot ask for a model of another campaign"),
    ],
)
def test_what_there_is_not_with_all_media_is_refused_before_anybody_signs(
    town: Town, change: dict[str, Any], text: str
) -> None:
    contract = contract_of(town)
    found = policy.problems(town.acme.home, town.acme.store, contract, time.time())
    assert not found
    asked = policy.problems(town.acme.home, town.acme.store, replace(contract, **change), time.time(), files=False)
    assert any(text in problem.text for problem in asked), [problem.text for problem in asked]


def test_a_step_with_all_waits_for_the_matches_of_this_party_and_knows_which_runs_each_peer_builds_on(
    town: Town,
) -> None:
    contract = approved(town)
    steps = contract.steps
    for party, own in ((town.acme, (0, 1)), (town.feed, (0,))):
        at = node_of(party)
        for index in own:
            with pytest.raises(ConfigError, match=f"the step {steps[index].name} is not done here"):
                admit(at, Start(contract=contract.hash, step=2, run=bytes([9]) * 16, attempt=1))
            run = bytes([index]) * 16
            party.store.start_run(contract.hash, index, run, 1)
            party.store.end_run(run, "prepared", receipt=b"receipt")
            party.store.end_run(run, "committed")
        _, order = admit(at, Start(contract=contract.hash, step=2, run=bytes([9]) * 16, attempt=1))
        assert set(order.earlier) == {steps[index].name for index in own}
        with pytest.raises(ConfigError, match="the step train is not done here"):
            admit(at, Start(contract=contract.hash, step=3, run=bytes([8]) * 16, attempt=1))
    earlier = {"match-feed": "00", "match-rest": "11", "train": "22"}
    assert worker._known_to(contract, "feed", earlier, {}) == {"match-feed": "00", "train": "22"}
    assert worker._known_to(contract, "rest", earlier, {}) == {"match-rest": "11", "train": "22"}
