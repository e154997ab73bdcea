"""A party takes part in a contract only if all of it is as it was shown, signed and allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.two_parties import CAMPAIGN, Town, make_town
from tidegate.party import campaign, mail, policy
from tidegate.party.store import Campaign
from tidegate.protocols.channel import CarrierError, ConfigError, DisagreementError, PolicyError, TidegateError
from tidegate.wire.contract import Contract, Guards, Holdout, Key, Label, Privacy, Total, signed_bytes

NOW_S = 1_800_000_000


@pytest.fixture(scope="module")
def shared_town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    made = make_town(tmp_path_factory.mktemp("town"))
    yield made
    made.close()


@pytest.fixture
def town(shared_town: Town) -> Iterator[Town]:
    yield shared_town
    shared_town.feed.home.policy_toml.unlink(missing_ok=True)


@pytest.fixture
def own_town(tmp_path: Path) -> Iterator[Town]:
    """For tests that change files or offers."""
    made = make_town(tmp_path)
    yield made
    made.close()


def proposed(town: Town, text: str = CAMPAIGN) -> Contract:
    checked = campaign.check(town.campaign_file(text), town.acme.home, town.acme.store, NOW_S)
    assert checked.contract is not None, checked.mistakes
    return checked.contract


def problems(town: Town, contract: Contract, now_s: float = NOW_S) -> list[str]:
    return [problem.text for problem in policy.problems(town.feed.home, town.feed.store, contract, now_s)]


def test_a_contract_as_it_was_proposed_is_acceptable_to_both(town: Town) -> None:
    contract = proposed(town)
    assert problems(town, contract) == []
    policy.check_contract(town.acme.home, town.acme.store, contract, NOW_S)


def with_party(contract: Contract, role: str, **changes: object) -> Contract:
    parties = tuple(replace(one, **changes) if one.role == role else one for one in contract.parties)  # type: ignore[arg-type]  # the fields are named below
    return replace(contract, parties=parties)


def with_data(contract: Contract, role: str, **changes: object) -> Contract:
    return with_party(contract, role, data=replace(contract.role(role).data, **changes))  # type: ignore[arg-type]  # as above


def with_settings(contract: Contract, step: str, **changes: int | list[int]) -> Contract:
    steps = tuple(
        replace(one, settings={**one.settings, **changes}) if one.step == step else one for one in contract.steps
    )
    return replace(contract, steps=steps)


DEVIATIONS: dict[str, tuple[Callable[[Contract], Contract], type[TidegateError], str]] = {
    "version": (lambda c: replace(c, software="9.9"), DisagreementError, "made with tidegate 9.9"),
    "expired": (lambda c: replace(c, expires_s=NOW_S - 61), PolicyError, "has expired"),
    "future": (lambda c: replace(c, created_s=NOW_S + 61), DisagreementError, "comes from the future"),
    "years": (lambda c: replace(c, expires_s=NOW_S + 100 * 86400), PolicyError, "valid for 100 days"),
    "my key": (lambda c: with_party(c, "media", identity="0" * 64), DisagreementError, "another key for feed"),
    "its key": (lambda c: with_party(c, "brand", identity="0" * 64), DisagreementError, "another key for acme"),
    "stranger": (lambda c: with_party(c, "brand", name="eve"), PolicyError, "card of eve is not trusted"),
    "not mine": (lambda c: with_party(c, "media", name="other"), DisagreementError, "names no party 'feed'"),
    "learns": (lambda c: replace(c, learns={**c.learns, "acme": ()}), DisagreementError, "does not say truly"),
    "hidden line": (
        lambda c: replace(c, learns={**c.learns, "feed": (*c.learns["feed"], "all")}),
        DisagreementError,
        "does not say truly",
    ),
    "commitment": (
        lambda c: with_data(c, "media", commitment="0" * 64),
        DisagreementError,
        "another state of data set",
    ),
    "rows": (lambda c: with_data(c, "media", rows=5), DisagreementError, "another state of data set"),
    "data set": (lambda c: with_data(c, "media", name="secret"), ConfigError, "no data set 'secret'"),
    "keys": (lambda c: replace(c, keys=(Key("phone"),)), DisagreementError, "has no such key"),
    "column": (lambda c: replace(c, features={**c.features, "feed": ("income",)}), DisagreementError, "has none such"),
    "key column": (lambda c: replace(c, features={**c.features, "feed": ("email",)}), DisagreementError, "cannot be"),
    "text column": (lambda c: replace(c, features={**c.features, "feed": ("note",)}), DisagreementError, "cannot be"),
    "settings": (lambda c: with_settings(c, "train", secret=1), DisagreementError, "step train has the settings"),
    "l2": (
        lambda c: with_settings(c, "train", l2_milli=10**9 + 1),
        DisagreementError,
        "l2_milli is not a whole number",
    ),
    "steps": (lambda c: with_settings(c, "train", steps=12), PolicyError, "training takes 16 steps"),
    "lookalike": (lambda c: with_settings(c, "train", lookalike_steps=0), DisagreementError, "needs lookalike_steps"),
    "sizes": (
        lambda c: with_settings(c, "expand", sizes=[20, 5]),
        DisagreementError,
        "not rising whole numbers from 1 to 50",
    ),
    "no label": (lambda c: replace(c, label=Label("", "")), DisagreementError, "need a label"),
}


@pytest.mark.parametrize(("change", "kind", "said"), DEVIATIONS.values(), ids=DEVIATIONS)
def test_a_contract_that_deviates_is_refused_with_the_reason(
    town: Town, change: Callable[[Contract], Contract], kind: type[TidegateError], said: str
) -> None:
    found = policy.problems(town.feed.home, town.feed.store, change(proposed(town)), NOW_S)
    assert any(isinstance(problem, kind) and said in problem.text for problem in found), [one.text for one in found]


def test_the_clock_may_be_a_minute_off(town: Town) -> None:
    contract = proposed(town)
    assert problems(town, contract, contract.expires_s + 59) == []
    assert problems(town, contract, contract.created_s - 59) == []


SUM = """\
[campaign]
name = "visits"
[parties]
brand = "acme"
media = "feed"
[data]
brand = "customers"
media = "people"
[match]
keys = ["email"]
mode = "sum"
sum = { of = "media", column = "visits", cap = 50 }
[steps.match]
"""


def test_a_sum_is_acceptable_to_both_whoevers_column_it_is(town: Town) -> None:
    for text in (SUM, SUM.replace('"media", column = "visits"', '"brand", column = "age"')):
        contract = proposed(town, text)
        assert problems(town, contract) == []
        policy.check_contract(town.acme.home, town.acme.store, contract, NOW_S)


@pytest.mark.parametrize(
    ("total", "said"),
    [
        (Total("media", "device", 50), "has no sum"),
        (Total("media", "email", 50), "has no sum"),
        (Total("media", "note", 50), "has no sum"),
        (Total("media", "age", 50), "has none such"),
        (Total("brand", "visits", 50), "has none such"),
        (Total("brand", "plan", 50), "has no sum"),
    ],
)
def test_only_a_column_of_numbers_is_added_up(town: Town, total: Total, said: str) -> None:
    party = town.feed if total.role == "media" else town.acme
    contract = replace(proposed(town, SUM), total=total)
    found = [problem.text for problem in policy.problems(party.home, party.store, contract, NOW_S)]
    assert len(found) == 1
    assert said in found[0]


def test_a_sum_over_several_keys_is_refused(own_town: Town) -> None:
    contract = proposed(own_town, SUM)
    keys = (*contract.keys, Key("text"))
    assert problems(own_town, replace(contract, keys=keys)) == ["the contract counts people by several keys at once"]


def test_a_hidden_column_is_not_added_up_nor_one_that_was_not_offered(own_town: Town) -> None:
    town = own_town
    contract = proposed(town, SUM)
    town.feed.home.policy_toml.write_text('hidden_columns = ["visits"]\n')
    assert problems(town, contract) == ["our policy hides column 'visits'"]
    town.office.online(
        town.feed.home, lambda relay: mail.offer(town.feed.home, town.feed.store, relay, "people", "acme")
    )
    town.feed.home.policy_toml.unlink()
    assert problems(town, contract) == ["the contract asks for columns that were not offered to acme"]
    town.acme.home.policy_toml.write_text('hidden_columns = ["age"]\n')
    own = replace(contract, total=Total("brand", "age", 50))
    found = policy.problems(town.acme.home, town.acme.store, own, NOW_S)
    assert [problem.text for problem in found] == ["our policy hides column 'age'"]


def test_columns_that_were_not_offered_cannot_be_asked_for(own_town: Town) -> None:
    town = own_town
    town.feed.home.policy_toml.write_text('hidden_columns = ["clicks"]\n')
    town.office.online(
        town.feed.home, lambda relay: mail.offer(town.feed.home, town.feed.store, relay, "people", "acme")
    )
    contract = proposed(town)
    assert problems(town, contract) == ["our policy hides column 'clicks'"]
    town.feed.home.policy_toml.unlink()
    assert problems(town, contract) == ["the contract asks for columns that were not offered to acme"]


def test_a_data_set_that_was_never_offered_is_not_used(own_town: Town) -> None:
    town = own_town
    contract = proposed(town)
    town.feed.store.distrust("acme")
    card = town.acme.identity.card
    town.feed.store.trust("acme", card.identity, card.to_text().encode())
    assert problems(town, contract) == ["data set people as it is now was not offered to acme"]


def test_a_file_that_changed_is_not_approved(own_town: Town) -> None:
    town = own_town
    contract = proposed(town)
    with (town.folder / "media.csv").open("a") as file:
        file.write("x@example.com,1,1,ios,text\n")
    assert problems(town, contract) == ["the file of data set people has changed since it was registered"]
    assert policy.problems(town.feed.home, town.feed.store, contract, NOW_S, files=False) == []


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("allowed_partners = []", "does not allow campaigns with acme"),
        ('allowed_steps = ["match"]', "does not allow the step insight"),
        ("max_days = 3", "at most 3 are allowed"),
        ("[guards]\nfloor = 200", "asks for 200 or more"),
        ("[guards]\nscore_levels = 10", "asks for 10 or less"),
        ('hidden_columns = ["visits"]', "hides column 'visits'"),
        ("require_audit = true", "keeps what an auditor needs"),
    ],
)
def test_a_stricter_policy_refuses(town: Town, rule: str, said: str) -> None:
    town.feed.home.policy_toml.write_text(rule)
    assert any(said in text for text in problems(town, proposed(town)))


def test_a_campaign_for_more_than_the_policys_epsilon_is_refused(town: Town) -> None:
    made = replace(proposed(town), privacy=Privacy(epsilon_milli=2500, delta_exponent=6))
    assert not any("epsilon" in text for text in problems(town, made))
    town.feed.home.policy_toml.write_text("max_epsilon = 2")
    assert any("asks for an epsilon of 2.5, our policy allows 2" in text for text in problems(town, made))
    town.feed.home.policy_toml.write_text("max_epsilon = 20")
    assert policy.load(town.feed.home).max_epsilon == 4, "a policy cannot loosen it"


@pytest.mark.parametrize(
    "text",
    [
        "flor = 3",
        "max_epsilon = 0",
        "max_epsilon = 'x'",
        "[guards]\nfloor = 'x'",
        "allowed_steps = 3",
        "guards = 1",
        "max_days = -1",
        "require_audit = 1",
        "x = [",
        "[auto_approve]\nsteps = []",
    ],
)
def test_a_policy_with_a_mistake_stops_everything(town: Town, text: str) -> None:
    town.feed.home.policy_toml.write_text(text)
    with pytest.raises(ConfigError):
        policy.check_contract(town.feed.home, town.feed.store, proposed(town), NOW_S)


def test_a_policy_cannot_loosen_the_hard_limits(town: Town) -> None:
    town.feed.home.policy_toml.write_text("max_days = 400\n[guards]\nfloor = 1\nscore_levels = 90\n")
    loaded = policy.load(town.feed.home)
    assert (loaded.guards.floor, loaded.guards.score_levels, loaded.max_days) == (50, 20, 90)


def kept(town: Town, contract: Contract) -> Campaign:
    town.feed.store.put_campaign(contract, "acme")
    for party in (town.acme, town.feed):
        signature = party.identity.sign(signed_bytes(contract.hash))
        town.feed.store.add_signature(contract.hash, party.identity.name, signature)
    return town.feed.store.campaign(contract.hash)


def test_a_run_needs_every_partys_signature_by_its_pinned_key(town: Town) -> None:
    contract = proposed(town)
    policy.check_runnable(town.feed.home, town.feed.store, kept(town, contract), NOW_S)
    other = replace(contract, nonce="0" * 32)
    town.feed.store.put_campaign(other, "acme")
    campaign_without = town.feed.store.campaign(other.hash)
    with pytest.raises(PolicyError, match="acme has not approved"):
        policy.check_runnable(town.feed.home, town.feed.store, campaign_without, NOW_S)
    for name in ("acme", "feed"):
        # Both by the media: a signature of one party does not count for another.
        town.feed.store.add_signature(other.hash, name, town.feed.identity.sign(signed_bytes(other.hash)))
    with pytest.raises(CarrierError, match="acme's approval"):
        policy.check_runnable(town.feed.home, town.feed.store, campaign_without, NOW_S)


def test_nothing_runs_after_the_contract_has_expired(town: Town) -> None:
    contract = proposed(town)
    with pytest.raises(PolicyError, match="expired"):
        policy.check_runnable(town.feed.home, town.feed.store, kept(town, contract), contract.expires_s + 61)


def test_nothing_is_approved_without_a_person_unless_the_standing_policy_covers_it(town: Town) -> None:
    contract = proposed(town)
    town.feed.store.put_campaign(contract, "acme")
    found = town.feed.store.campaign(contract.hash)

    def covered(text: str) -> bool:
        town.feed.home.policy_toml.write_text(text)
        return policy.is_auto_approved(town.feed.home, town.feed.store, found, NOW_S)

    steps = '["match", "insight", "train", "score", "expand"]'
    standing = f'[auto_approve]\npartners = ["acme"]\nsteps = {steps}\ndatasets = ["people"]\n'
    assert not covered("")
    assert covered(standing)
    assert not covered(standing.replace("people", "others"))
    assert not covered(standing.replace("acme", "emca"))
    assert not covered(standing.replace('"expand"', '"match"'))
    assert not covered(standing + "per_day = 0\n")
    assert not covered(standing + "[guards]\nfloor = 500\n")


def test_looser_than_default_is_never_approved_without_a_person(town: Town) -> None:
    contract = proposed(town, CAMPAIGN + "[guards]\nfloor = 60\n")
    assert policy.loosened(contract.guards) == ["guards.floor is 60, looser than the default 100"]
    town.feed.store.put_campaign(contract, "acme")
    steps = '["match", "insight", "train", "score", "expand"]'
    town.feed.home.policy_toml.write_text(
        f'[auto_approve]\npartners = ["acme"]\nsteps = {steps}\ndatasets = ["people"]\n'
    )
    found = town.feed.store.campaign(contract.hash)
    assert problems(town, contract) == []
    assert not policy.is_auto_approved(town.feed.home, town.feed.store, found, NOW_S)


def test_the_defaults_are_not_looser_than_themselves() -> None:
    assert policy.loosened(policy.DEFAULT_GUARDS) == []
    loose = Guards(floor=50, seeds=50, train_steps=12, count_noise=0, score_levels=20)
    assert len(policy.loosened(loose)) == 3
    assert Holdout("", "", 30).percent == 30
