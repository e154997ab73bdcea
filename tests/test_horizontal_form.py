"""Campaigns between clients, from the file to the signed contract: mistakes, rules at every client, what people see."""

from __future__ import annotations

import io
import json
import re
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.test_campaign_file import JUNK
from tests.three_shops import CAMPAIGN, GROUPS, SHOPS, Street, make_street, people
from tests.two_parties import Party
from tidegate.party import campaign, mail, policy, screen
from tidegate.party.agreed import terms
from tidegate.party.horizontal import form, rules
from tidegate.party.store import Campaign
from tidegate.protocols.channel import CarrierError, DisagreementError, PolicyError, TidegateError
from tidegate.protocols.horizontal import kmeans, logistic, pooling, private_logistic
from tidegate.protocols.horizontal.flower_grid import MAX_CONTENT_BYTES
from tidegate.protocols.horizontal.task import FEWEST_ROBUST
from tidegate.wire.contract import (
    Contract,
    Guards,
    Holdout,
    Key,
    Label,
    Outcome,
    Privacy,
    Range,
    Total,
    signed_bytes,
)

NOW_S = 1_800_000_000
FIVE = ("shop-a", "shop-b", "shop-c", "shop-d", "shop-e")
ALL_FIVE = CAMPAIGN.replace('"shop-c"]', '"shop-c", "shop-d", "shop-e"]')
ROBUST = ALL_FIVE + 'robust = "median"\nsecure = false\n'
PRIVATE = CAMPAIGN + '[privacy]\nepsilon = 2.0\nunit = "client"\n'


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    made = make_street(tmp_path_factory.mktemp("street"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    made = make_street(tmp_path_factory.mktemp("five"), FIVE)
    yield made
    made.close()


@pytest.fixture
def street(shared: Street) -> Iterator[Street]:
    yield shared
    for shop in shared.shops.values():
        shop.home.policy_toml.unlink(missing_ok=True)


@pytest.fixture
def own_street(tmp_path: Path) -> Iterator[Street]:
    """For tests that change files or offers."""
    made = make_street(tmp_path)
    yield made
    made.close()


def check(street: Street, text: str, now_s: float = NOW_S) -> campaign.Checked:
    return campaign.check(street.campaign_file(text), street.first.home, street.first.store, now_s)


def contract_of(street: Street, text: str = CAMPAIGN, now_s: float = NOW_S) -> Contract:
    checked = check(street, text, now_s)
    assert checked.contract is not None, [str(one) for one in checked.mistakes]
    return checked.contract


def told(street: Street, text: str) -> list[str]:
    checked = check(street, text)
    assert (checked.contract is None) == bool(checked.mistakes)
    return [str(mistake) for mistake in checked.mistakes]


def proposed(contract: Contract) -> Campaign:
    """A contract as the store gives it that shop-a has proposed."""
    return Campaign(contract.hash, contract.campaign, contract.to_bytes(), "shop-a", "signing", "", "", NOW_S, NOW_S)


# The file


def test_a_right_file_becomes_the_contract_it_says(street: Street) -> None:
    contract = contract_of(street)
    assert Contract.from_bytes(contract.to_bytes()) == contract
    assert [(party.name, party.role) for party in contract.parties] == [(name, "client") for name in SHOPS]
    assert contract.features == dict.fromkeys(SHOPS, ("age", "visits", "member"))
    assert contract.ranges == (Range("", "age", 18, 90), Range("", "visits", 0, 30), Range("", "member", 0, 1))
    assert (contract.label, contract.holdout) == (Label("bought", "yes"), Holdout("", "", 20))
    settings = {"rounds": 10, "least_rows": 1000, "secure": 1, "l2_milli": 1000, "robust": 0}
    assert contract.steps[0].settings == settings
    assert contract.helper == street.first.home.coordinator_identity().hex()
    for name, shop in street.shops.items():
        assert contract.party(name).data.commitment == shop.store.dataset("people").commitment
        assert contract.party(name).identity == shop.identity.public.hex()


def test_kmeans_needs_no_label_and_holds_nothing_out(street: Street) -> None:
    contract = contract_of(street, GROUPS)
    assert contract.steps[0].settings == {"k": 3, "rounds": 20, "secure": 1, "least_rows": 1000}
    assert (contract.label, contract.holdout) == (Label("", ""), Holdout("", "", 0))
    # Without [features] all that everybody has: no category, no constant, but what a label would be.
    assert contract.features["shop-b"] == ("age", "visits", "member")


def test_a_client_can_have_a_data_set_of_another_name(street: Street) -> None:
    text = CAMPAIGN.replace('clients = "people"', 'shop-a = "people"\nshop-b = "people"\nshop-c = "people"')
    assert [party.data.name for party in contract_of(street, text).parties] == ["people"] * 3
    text = CAMPAIGN.replace('clients = "people"', 'clients = "people"\nshop-c = "poeple"')
    assert any(
        "data.shop-c: expected the name of a data set that shop-c has offered" in line for line in told(street, text)
    )


def test_privacy_and_its_unit_are_in_the_contract(street: Street) -> None:
    contract = contract_of(street, PRIVATE)
    assert contract.privacy == Privacy(2000, 6)
    settings = {"rounds": 10, "least_rows": 1000, "secure": 1, "l2_milli": 1000, "clip_milli": 1000, "unit": 2}
    assert (contract.steps[0].protocol, contract.steps[0].settings) == (rules.PRIVATE, settings)
    assert all("noise" in line for line in contract.learns["shop-b"][:-1])
    assert any("of 3 clients the noise leaves little" in line for line in check(street, PRIVATE).remarks)
    assert check(street, PRIVATE.replace('"client"', '"row"')).remarks == []
    row = contract_of(street, PRIVATE.replace('"client"', '"row"').replace("rounds = 10", "rounds = 10\nclip = 0.5"))
    assert (row.steps[0].settings["clip_milli"], row.steps[0].settings["unit"]) == (500, 1)


def test_a_robust_mean_of_five_is_in_the_contract_and_pointed_out(five: Street) -> None:
    checked = check(five, ROBUST)
    assert checked.contract is not None, checked.mistakes
    assert checked.contract.steps[0].settings["robust"] == 1
    assert checked.contract.steps[0].settings["secure"] == 0
    assert any("sees each client's updates in the clear" in line for line in checked.remarks)
    seen = "of each client by itself, in the clear and in each round"
    assert any(seen in line for line in checked.contract.learns["coordinator"])


MISTAKES = {
    "unknown table": ("[label]", "[lable]", "lable", 'did you mean "label"'),
    "table of brands": ("[label]", "[match]\n[label]", "match", "found the unknown table"),
    "no ranges": ("[ranges]", "[guards]", "ranges", "a table [ranges]"),
    "unknown key": ("expires_days = 7", "expire_days = 7", "campaign.expire_days", 'did you mean "expires_days"'),
    "bad name": ('name = "together"', 'name = "To gether"', "campaign.name", 'found "To gether"'),
    "no list": (
        'clients = ["shop-a", "shop-b", "shop-c"]',
        'clients = "all"',
        "parties.clients",
        "a list of the names",
    ),
    "unknown client": ('"shop-b", "shop-c"]', '"shop-b", "shop-x"]', "parties.clients", "did you mean"),
    "client twice": ('"shop-c"]', '"shop-c", "shop-b"]', "parties.clients", '"shop-b" twice'),
    "not among them": ('["shop-a", ', "[", "parties.clients", 'this party, "shop-a", among the clients'),
    "two clients": (', "shop-c"]', "]", "parties.clients", "each could take its own part off the sum"),
    "one client": (', "shop-b", "shop-c"]', "]", "parties.clients", "found 1 (shop-a)"),
    "a brand": ("[parties]", '[parties]\nbrand = "shop-a"', "parties.brand", "found the unknown key"),
    "unknown data": ('clients = "people"', 'clients = "poeple"', "data.clients", 'did you mean "people"'),
    "a path": ('clients = "people"', 'clients = "../people.csv"', "data.clients", "never a path"),
    "data of nobody": ('clients = "people"', 'clients = "people"\nshop-z = "x"', "data.shop-z", "did you mean"),
    "data left out": ('clients = "people"', 'shop-a = "people"', "data.shop-b", "found nothing"),
    "no label": ('[label]\ncolumn = "bought"\npositive = "yes"', "", "label", "who is a good customer"),
    "unknown label": ('column = "bought"', 'column = "bougth"', "label.column", 'did you mean "bought"'),
    "label not binary": ('column = "bought"', 'column = "age"', "label.column", "exactly two different values"),
    "label is a key": ('column = "bought"', 'column = "id"', "label.column", "which shop-b and shop-c lacks"),
    "positive absent": ('positive = "yes"', 'positive = "yess"', "label.positive", 'did you mean "yes"'),
    "weights": ('positive = "yes"', 'positive = "yes"\nweight = "age"', "label.weight", "found the unknown key"),
    "unknown column": ('"age", "visits"', '"age", "visit"', "features.columns", 'did you mean "visits"'),
    "category": ('"visits", "member"', '"visits", "plan"', "features.columns", "a column of 1 and 0"),
    "label as column": ('"visits", "member"', '"visits", "bought"', "features.columns", "not the label"),
    "column twice": ('"age", "visits"', '"age", "age"', "features.columns", "each column once"),
    "no column": ('["age", "visits", "member"]', "[]", "features.columns", "found an empty list"),
    "one text": ('["age", "visits", "member"]', '"age"', "features.columns", '"all" or a list'),
    "range left out": ("age = [18, 90]\n", "", "ranges.age", "suggests age = [18, 90]"),
    "range of a flag": ("member = [0, 1]\n", "", "ranges.member", "member = [0, 1]"),
    "range of nothing": ("age = [18, 90]", "age = [18, 90]\nincome = [0, 1]", "ranges.income", "found the unknown key"),
    "range backwards": ("age = [18, 90]", "age = [90, 18]", "ranges.age", "the lower first"),
    "range without end": ("age = [18, 90]", "age = [18, inf]", "ranges.age", "two numbers"),
    "range too far": ("age = [18, 90]", f"age = [18, 1{'0' * 400}]", "ranges.age", "two numbers"),
    "holdout": ("share = 20", "share = 60", "holdout.share", "5 to 40, found 60"),
    "holdout by column": ("share = 20", 'column = "unit"', "holdout.column", "one of share"),
    "no step": ('[steps.federate]\napp = "logistic"\nrounds = 10', "[steps]", "steps", "[steps.federate]"),
    "another step": ("[steps.federate]", "[steps.match]\n[steps.federate]", "steps.match", "one of federate"),
    "no app": ('app = "logistic"\n', "", "steps.federate.app", "one of logistic, kmeans"),
    "unknown app": ('app = "logistic"', 'app = "logistics"', "steps.federate.app", 'did you mean "logistic"'),
    "app of another kind": ('app = "logistic"', "app = [1]", "steps.federate.app", "one of logistic, kmeans"),
    "k in logistic": ("rounds = 10", "rounds = 10\nk = 3", "steps.federate.k", "found the unknown key"),
    "rounds": ("rounds = 10", "rounds = 101", "steps.federate.rounds", "1 to 100, found 101"),
    "l2": ("rounds = 10", "rounds = 10\nl2 = 0", "steps.federate.l2", "0.001 to 1000000"),
    "few rows": ("rounds = 10", "rounds = 10\nleast_rows = 1300", "data.shop-c", "1,122 to train on, of 1,500 in all"),
    "too few rows": ("rounds = 10", "rounds = 10\nleast_rows = 99", "steps.federate.least_rows", "100 to"),
    "clip alone": ("rounds = 10", "rounds = 10\nclip = 1", "steps.federate.clip", "only with [privacy]"),
    "secure is false": ("rounds = 10", "rounds = 10\nsecure = false", "steps.federate.secure", "nothing is gained"),
    "secure is no word": ("rounds = 10", 'rounds = 10\nsecure = "no"', "steps.federate.secure", "true or false"),
    "robust of three": (
        "rounds = 10",
        'robust = "median"\nsecure = false',
        "steps.federate.robust",
        "5 clients or more",
    ),
    "robust and secure": ("rounds = 10", 'robust = "median"', "steps.federate.secure", "secure = false with robust"),
    "unknown robust": ("rounds = 10", 'robust = "mean"', "steps.federate.robust", "one of median, trimmed mean"),
    "privacy without unit": ("[guard", "", "", ""),
    "floor": ("[label]", "[guards]\nfloor = 40\n[label]", "guards.floor", "50 to 1000000, found 40"),
    "guard of brands": ("[label]", "[guards]\nseeds = 100\n[label]", "guards.seeds", "one of floor"),
}
del MISTAKES["privacy without unit"]
PRIVACY_MISTAKES = {
    "no unit": (PRIVATE.replace('unit = "client"', ""), "privacy.unit", "whose part in all rounds the noise hides"),
    "unknown unit": (PRIVATE.replace('"client"', '"clients"'), "privacy.unit", 'did you mean "client"'),
    "epsilon": (PRIVATE.replace("2.0", "0.01"), "privacy.epsilon", "0.1 to 20"),
    "delta": (PRIVATE.replace("2.0", "2.0\ndelta = 0.1"), "privacy.delta", "1e-5 to 1e-12"),
    "clip": (PRIVATE.replace("rounds = 10", "clip = 0"), "steps.federate.clip", "0.001 to 1000"),
    "kmeans": (GROUPS + '[privacy]\nepsilon = 1.0\nunit = "row"\n', "privacy", "centres get no noise"),
}
GROUP_MISTAKES = {
    "no k": (GROUPS.replace("k = 3", ""), "steps.federate.k", "found nothing"),
    "k": (GROUPS.replace("k = 3", "k = 33"), "steps.federate.k", "2 to 32, found 33"),
    "rounds": (GROUPS + "rounds = 21\n", "steps.federate.rounds", "1 to 20, found 21"),
    "l2": (GROUPS + "l2 = 1\n", "steps.federate.l2", "found the unknown key"),
    "label": (GROUPS + '[label]\ncolumn = "bought"\npositive = "yes"\n', "label", "made without a label"),
    "holdout": (GROUPS + "[holdout]\nshare = 20\n", "holdout", "made without a label"),
    "robust": (GROUPS + 'robust = "median"\n', "steps.federate.robust", "centres are sums"),
    "bare sums": (GROUPS + "secure = false\n", "steps.federate.secure", "nothing is gained"),
}


@pytest.mark.parametrize(("old", "new", "key", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_key_what_was_expected_and_a_hint(
    street: Street, old: str, new: str, key: str, said: str
) -> None:
    assert old in CAMPAIGN
    lines = told(street, CAMPAIGN.replace(old, new, 1))
    assert any(f": {key}: expected" in line and said in line for line in lines), lines
    assert all(line.startswith("campaign.toml") and "found" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [*PRIVACY_MISTAKES.values(), *GROUP_MISTAKES.values()],
    ids=[*PRIVACY_MISTAKES, *(f"kmeans {name}" for name in GROUP_MISTAKES)],
)
def test_a_mistake_in_other_files_is_told_too(street: Street, text: str, key: str, said: str) -> None:
    lines = told(street, text)
    assert any(f": {key}: expected" in line and said in line for line in lines), lines


def test_with_robust_there_is_no_privacy(five: Street) -> None:
    lines = told(five, ROBUST + '[privacy]\nepsilon = 2.0\nunit = "client"\n')
    assert any(": steps.federate.robust: expected it only without [privacy]" in line for line in lines)


def test_every_mistake_is_listed_with_its_line(street: Street) -> None:
    text = CAMPAIGN.replace('"bought"', '"bougth"').replace("rounds = 10", "rounds = 0").replace("[18, 90]", "[90, 18]")
    mistakes = check(street, text).mistakes
    assert [(one.key, text.splitlines()[one.line - 1].split(" ")[0]) for one in mistakes] == [
        ("label.column", "column"),
        ("steps.federate.rounds", "rounds"),
        ("ranges.age", "age"),
    ]


def test_a_client_that_lacks_a_column_is_named(own_street: Street) -> None:
    own_street.offer("shop-b", [{key: row[key] for key in row if key != "visits"} for row in people(1)])
    lines = told(own_street, CAMPAIGN)
    assert any('"visits", which shop-b lacks' in line for line in lines)
    remarks = check(
        own_street, CAMPAIGN.replace('["age", "visits", "member"]', '"all"').replace("visits = [0, 30]", "")
    )
    assert remarks.contract is not None, remarks.mistakes
    assert remarks.contract.features["shop-a"] == ("age", "member")
    assert any('"visits" is left out' in line and "shop-b" in line for line in remarks.remarks)


def test_a_column_of_another_kind_at_a_client_is_told(own_street: Street) -> None:
    own_street.offer("shop-c", [row | {"visits": "often" if i % 2 else "never"} for i, row in enumerate(people(2))])
    assert any('"visits", which is a category at shop-c' in line for line in told(own_street, CAMPAIGN))


def test_a_label_of_other_values_at_a_client_is_told(own_street: Street) -> None:
    own_street.offer("shop-c", [row | {"bought": "ja" if row["bought"] == "yes" else "nee"} for row in people(2)])
    lines = told(own_street, CAMPAIGN)
    assert any("a value of shop-c's bought (ja, nee)" in line for line in lines)


def test_a_data_set_of_one_row_is_refused_with_the_reason(own_street: Street) -> None:
    own_street.offer("shop-b", people(1, 1))
    lines = told(own_street, GROUPS)
    assert any(
        "data.shop-b: expected 1,000 or more rows" in line and "one of a single row is that row" in line
        for line in lines
    )


def test_one_organisation_under_two_names_does_not_count_twice(own_street: Street) -> None:
    card = own_street.shops["shop-b"].identity.card
    own_street.first.store.distrust("shop-c")
    own_street.first.store.trust("shop-c", card.identity, card.to_text().encode())
    assert any("different identity keys" in line for line in told(own_street, CAMPAIGN))


def test_a_file_that_changed_since_it_was_registered_is_told(own_street: Street) -> None:
    with (own_street.folder / "shop-a.csv").open("a") as file:
        file.write("x,30,1,true,a,eur,yes\n")
    assert any(
        "data.shop-a: expected the file of people as it was registered" in line for line in told(own_street, CAMPAIGN)
    )


ASSIGNED = [number for number, line in enumerate(CAMPAIGN.splitlines()) if " = " in line]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(ASSIGNED), JUNK, min_size=1, max_size=3))
def test_no_value_whatever_ends_in_anything_but_mistakes(street: Street, junk: dict[int, str]) -> None:
    lines = CAMPAIGN.splitlines()
    for number, value in junk.items():
        lines[number] = f"{lines[number].split(' = ')[0]} = {value}"
    checked = check(street, "\n".join(lines))
    assert (checked.contract is None) == bool(checked.mistakes)
    if checked.contract is not None:
        assert Contract.from_bytes(checked.contract.to_bytes()) == checked.contract
        assert policy.problems(street.first.home, street.first.store, checked.contract, NOW_S) == []


def test_the_bounds_are_those_that_the_apps_accept() -> None:
    bounds = rules.SETTINGS[rules.LOGISTIC]
    for rounds, l2 in zip(bounds["rounds"], bounds["l2_milli"], strict=True):
        logistic.Settings(columns=rules.MOST_COLUMNS, rounds=rounds, l2_milli=l2, least_rows=bounds["least_rows"][0])
    for at, bound in enumerate(("least", "most")):
        settings = {name: limits[at] for name, limits in rules.SETTINGS[rules.PRIVATE].items() if name != "secure"}
        made = private_logistic.Settings(columns=rules.MOST_COLUMNS, multiplier_milli=1000, clients=3, **settings)
        assert made.secure, bound
    bounds = rules.SETTINGS[rules.KMEANS]
    for rounds, k in zip(bounds["rounds"], bounds["k"], strict=True):
        kmeans.Settings(columns=rules.MOST_COLUMNS, rounds=rounds, k=k, least_rows=bounds["least_rows"][0])
    assert rules.FEWEST_ROBUST == FEWEST_ROBUST
    assert form.ROUNDS[rules.KMEANS] in range(1, kmeans.MOST_ROUNDS + 1)


DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize(
    ("page", "after"),
    [("horizontal-campaigns.md", "## Shop A"), ("campaign-file.md", "## Clients with the same columns")],
)
def test_the_files_in_the_documentation_have_no_unknown_keys(street: Street, page: str, after: str) -> None:
    text = (DOCS / page).read_text().split(after)[1]
    file = re.search(r"    \[campaign\]\n(?:    .*\n|\n)+", text)
    assert file is not None
    lines = told(street, textwrap.dedent(file[0]))
    assert lines
    assert not [line for line in lines if "unknown" in line or "steps." in line], lines


def test_many_clients_can_enter_fewer_columns_than_few(street: Street) -> None:
    assert rules.MOST_ANSWERS_BYTES == MAX_CONTENT_BYTES // 2
    for text in (CAMPAIGN, PRIVATE, GROUPS):
        step = contract_of(street, text).steps[0]
        found = [rules.most_columns(step, clients) for clients in (3, 23, 64)]
        assert found[0] == rules.MOST_COLUMNS
        assert found == sorted(found, reverse=True)
    most = rules.most_columns(contract_of(street).steps[0], 64)
    assert pooling._task_of("logistic@1", list(logistic.Settings(most).numbers), 64).columns == most < 300
    with pytest.raises(PolicyError, match="with so many columns need messages"):
        pooling._task_of("logistic@1", list(logistic.Settings(most + 1).numbers), 64)
    fewer = replace(contract_of(street), features=dict.fromkeys(SHOPS, tuple(map(str, range(301)))))
    assert any("3 clients can enter 300 columns" in one.text for one in problems(street, fewer))


# The rules at every client


def problems(street: Street, contract: Contract, at: str = "shop-b") -> list[TidegateError]:
    shop = street.shops[at]
    return policy.problems(shop.home, shop.store, contract, NOW_S)


@pytest.mark.parametrize("text", [CAMPAIGN, GROUPS, PRIVATE], ids=["logistic", "kmeans", "private"])
def test_a_contract_as_it_was_proposed_is_acceptable_to_all(street: Street, text: str) -> None:
    contract = contract_of(street, text)
    assert {name: [one.text for one in problems(street, contract, name)] for name in SHOPS} == {
        name: [] for name in SHOPS
    }


def test_a_robust_contract_is_acceptable_to_all_five(five: Street) -> None:
    contract = contract_of(five, ROBUST)
    assert [problems(five, contract, name) for name in FIVE] == [[]] * 5


def with_settings(contract: Contract, **changes: int) -> Contract:
    step = contract.steps[0]
    return replace(contract, steps=(replace(step, settings={**step.settings, **changes}),))


def without_setting(contract: Contract, name: str) -> Contract:
    step = contract.steps[0]
    return replace(contract, steps=(replace(step, settings={k: v for k, v in step.settings.items() if k != name}),))


def with_party(contract: Contract, at: str, **changes: object) -> Contract:
    parties = tuple(replace(one, **changes) if one.name == at else one for one in contract.parties)  # type: ignore[arg-type]  # the fields are named below
    return replace(contract, parties=parties)


def with_rows(contract: Contract, name: str, rows: int) -> Contract:
    return with_party(contract, name, data=replace(contract.party(name).data, rows=rows))


def columns(contract: Contract, *names: str) -> Contract:
    ranges = tuple(Range("", name, 0.0, 1.0) for name in names)
    return replace(contract, features=dict.fromkeys(SHOPS, names), ranges=ranges)


DEVIATIONS: dict[str, tuple[Callable[[Contract], Contract], type[TidegateError], str]] = {
    "two": (
        lambda c: replace(c, parties=c.parties[:2], features=dict.fromkeys(SHOPS[:2], c.features["shop-a"])),
        PolicyError,
        "each could take its own part off the sum",
    ),
    "one key twice": (
        lambda c: with_party(c, "shop-c", identity=c.party("shop-b").identity),
        PolicyError,
        "has 2 organisations",
    ),
    "coordinator's key": (
        lambda c: replace(c, helper=c.party("shop-c").identity),
        PolicyError,
        "the coordinator's key is that of a client",
    ),
    "another coordinator": (
        lambda c: replace(c, helper="ab" * 32),
        DisagreementError,
        "another key for the coordinator than the one this party joined with",
    ),
    "my key": (lambda c: with_party(c, "shop-b", identity="0" * 64), DisagreementError, "another key for shop-b"),
    "its key": (lambda c: with_party(c, "shop-c", identity="0" * 64), DisagreementError, "another key for shop-c"),
    "stranger": (lambda c: with_party(c, "shop-c", name="eve"), PolicyError, "card of eve is not trusted"),
    "one row": (lambda c: with_rows(c, "shop-c", 1), PolicyError, "one of a single row is that row"),
    "my rows": (lambda c: with_rows(c, "shop-b", 1400), DisagreementError, "another state of data set"),
    "few rows": (lambda c: with_settings(c, least_rows=1201), PolicyError, "has 1,122 rows or a few more"),
    "no floor of rows": (
        lambda c: with_settings(c, least_rows=2),
        DisagreementError,
        "least_rows is not a whole number",
    ),
    "rounds": (lambda c: with_settings(c, rounds=10**6), DisagreementError, "rounds is not a whole number"),
    "no penalty": (lambda c: with_settings(c, l2_milli=0), DisagreementError, "l2_milli is not a whole number"),
    "more settings": (lambda c: with_settings(c, peek=1), DisagreementError, "step federate has the settings"),
    "fewer settings": (lambda c: without_setting(c, "secure"), DisagreementError, "step federate has the settings"),
    "bare sums": (lambda c: with_settings(c, secure=0), DisagreementError, "one of the two"),
    "robust of three": (lambda c: with_settings(c, robust=1, secure=0), PolicyError, "a robust mean of 3 clients"),
    "clip": (lambda c: with_settings(c, clip_milli=1000), DisagreementError, "step federate has the settings"),
    "epsilon alone": (lambda c: replace(c, privacy=Privacy(2000)), DisagreementError, "which adds the noise"),
    "epsilon": (lambda c: replace(c, privacy=Privacy(5000)), PolicyError, "asks for an epsilon of 5"),
    "learns": (lambda c: replace(c, learns={**c.learns, "coordinator": ()}), DisagreementError, "does not say truly"),
    "no label": (lambda c: replace(c, label=Label("", "")), DisagreementError, "needs a label"),
    "other label": (lambda c: replace(c, label=Label("nothing", "yes")), DisagreementError, "has none such"),
    "key as label": (lambda c: replace(c, label=Label("id", "yes")), DisagreementError, "cannot be a label"),
    "label of many values": (lambda c: replace(c, label=Label("unit", "eur")), TidegateError, "different values"),
    "positive": (lambda c: replace(c, label=Label("bought", "perhaps")), TidegateError, "no row has the label"),
    "weights": (lambda c: replace(c, label=Label("bought", "yes", "age")), DisagreementError, "weights or seeds"),
    "holdout": (lambda c: replace(c, holdout=Holdout("", "", 0)), DisagreementError, "held out"),
    "holdout by column": (
        lambda c: replace(c, holdout=Holdout("unit", "eur", 20)),
        DisagreementError,
        "rows held out by a column",
    ),
    "keys": (lambda c: replace(c, keys=(Key("text"),)), DisagreementError, "keys to match on"),
    "sum": (lambda c: replace(c, total=Total("brand", "age", 5)), DisagreementError, "a column to add up"),
    "epoch": (lambda c: replace(c, epoch="autumn"), DisagreementError, "an epoch"),
    "model": (lambda c: replace(c, model="0" * 12), DisagreementError, "the model of another campaign"),
    "outcome": (lambda c: replace(c, outcome=Outcome("0" * 12, 1)), DisagreementError, "an audience to measure"),
    "audit": (lambda c: replace(c, audit=True), DisagreementError, "what an auditor needs"),
    "unlike columns": (
        lambda c: replace(c, features={**c.features, "shop-c": ("age",)}),
        DisagreementError,
        "do not all enter the same",
    ),
    "no columns": (lambda c: columns(c), DisagreementError, "do not all enter the same"),
    "column twice": (lambda c: columns(c, "age", "age"), DisagreementError, "do not all enter the same"),
    "unknown column": (lambda c: columns(c, "income"), DisagreementError, "has none such"),
    "category": (lambda c: columns(c, "plan"), DisagreementError, "neither numbers nor true and false"),
    "identifier": (lambda c: columns(c, "id"), DisagreementError, "cannot be a feature"),
    "label as column": (lambda c: columns(c, "age", "bought"), DisagreementError, "label is among the columns"),
    "range missing": (lambda c: replace(c, ranges=c.ranges[1:]), DisagreementError, "does not declare a range"),
    "range of one": (
        lambda c: replace(c, ranges=(replace(c.ranges[0], party="shop-b"), *c.ranges[1:])),
        DisagreementError,
        "does not declare a range",
    ),
}


@pytest.mark.parametrize(("change", "kind", "said"), DEVIATIONS.values(), ids=DEVIATIONS)
def test_a_contract_that_deviates_is_refused_with_the_reason(
    street: Street, change: Callable[[Contract], Contract], kind: type[TidegateError], said: str
) -> None:
    contract = contract_of(street)
    changed = change(contract)
    assert changed.hash != contract.hash
    found = problems(street, changed)
    assert any(isinstance(problem, kind) and said in problem.text for problem in found), [one.text for one in found]


def test_kmeans_has_no_privacy_and_no_label(street: Street) -> None:
    contract = contract_of(street, GROUPS)
    found = problems(street, replace(contract, privacy=Privacy(1000)))
    assert any("which adds the noise" in one.text for one in found)
    found = problems(street, replace(contract, label=Label("bought", "yes")))
    assert any("K-means has neither" in one.text for one in found)
    assert any("secure is not" in one.text for one in problems(street, with_settings(contract, secure=0)))


def test_private_training_has_an_epsilon_a_clip_and_a_unit(street: Street) -> None:
    contract = contract_of(street, PRIVATE)
    assert any("which adds the noise" in one.text for one in problems(street, replace(contract, privacy=Privacy())))
    for change in ({"clip_milli": 0}, {"unit": 0}, {"unit": 3}, {"secure": 0}):
        found = problems(street, with_settings(contract, **change))
        assert any("is not a whole number from" in one.text for one in found), change
    assert any("has the settings" in one.text for one in problems(street, with_settings(contract, robust=0)))


def test_what_was_not_offered_to_the_first_cannot_be_asked_for(own_street: Street) -> None:
    street, shop = own_street, own_street.shops["shop-b"]
    contract = contract_of(street)
    shop.home.policy_toml.write_text('hidden_columns = ["bought"]\n')
    assert [one.text for one in problems(street, contract)] == ["our policy hides column 'bought'"]
    street.office.online(shop.home, lambda relay: mail.offer(shop.home, shop.store, relay, "people", "shop-a"))
    shop.home.policy_toml.unlink()
    assert [one.text for one in problems(street, contract)] == [
        "the contract asks for columns that were not offered to shop-a"
    ]
    # The one that proposes needs no offer of its own.
    assert problems(street, contract, "shop-a") == []


def test_an_offer_to_another_client_is_none_to_the_one_that_proposes(street: Street) -> None:
    contract = contract_of(street)
    b_first = replace(contract, parties=(contract.parties[1], contract.parties[0], contract.parties[2]))
    assert any("was not offered to shop-b" in one.text for one in problems(street, b_first, "shop-c"))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ('allowed_partners = ["shop-a"]\n', "does not allow campaigns with shop-c"),
        ('allowed_steps = ["match"]\n', "does not allow the step federate"),
        ('hidden_columns = ["age"]\n', "hides column 'age'"),
        ("require_audit = true\n", "campaigns between clients do not keep"),
        ("max_days = 3\n", "at most 3 are allowed"),
        ("[guards]\nfloor = 200\n", "our policy asks for 200 or more"),
    ],
)
def test_a_clients_own_policy_holds(street: Street, rule: str, said: str) -> None:
    street.shops["shop-b"].home.policy_toml.write_text(rule)
    assert any(said in one.text for one in problems(street, contract_of(street)))


def test_an_epsilon_above_a_clients_own_limit_is_refused(street: Street) -> None:
    street.shops["shop-b"].home.policy_toml.write_text("max_epsilon = 1.0\n")
    assert any("our policy allows 1" in one.text for one in problems(street, contract_of(street, PRIVATE)))


STANDING = """\
[auto_approve]
partners = ["shop-a", "shop-c"]
steps = ["federate"]
datasets = ["people"]
per_day = 5
"""


def test_a_standing_approval_covers_defaults_alone(street: Street) -> None:
    shop = street.shops["shop-b"]

    def is_approved(contract: Contract) -> bool:
        known = proposed(contract)
        return policy.is_auto_approved(shop.home, shop.store, known, NOW_S)

    contract = contract_of(street)
    assert not is_approved(contract)
    shop.home.policy_toml.write_text(STANDING)
    assert is_approved(contract)
    few = contract_of(street, CAMPAIGN + "least_rows = 500\n")
    assert problems(street, few) == []
    assert not is_approved(few)
    shop.home.policy_toml.write_text(STANDING.replace(', "shop-c"', ""))
    assert not is_approved(contract)


def test_a_cohort_that_differs_by_one_client_from_an_earlier_one_is_pointed_out_and_needs_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    street = make_street(tmp_path, FIVE)
    shop, all_five = street.shops["shop-b"], contract_of(street, ALL_FIVE)
    standing = STANDING.replace('"shop-c"]', '"shop-c", "shop-d", "shop-e"]')
    shop.home.policy_toml.write_text(standing)
    four = contract_of(street, ALL_FIVE.replace(', "shop-e"]', "]"))
    three = contract_of(street, CAMPAIGN.replace('"shop-c"]', '"shop-d"]'))
    others = contract_of(street, CAMPAIGN.replace('"shop-b", "shop-c"]', '"shop-c", "shop-e"]'))
    assert policy.is_auto_approved(shop.home, shop.store, proposed(four), NOW_S)
    shop.store.put_campaign(all_five, "shop-a")
    shop.store.add_signature(all_five.hash, "shop-b", shop.identity.sign(signed_bytes(all_five.hash)))
    assert not policy.is_auto_approved(shop.home, shop.store, proposed(four), NOW_S)
    # The same clients once more show nobody's part, nor do cohorts that three clients or more tell apart.
    assert policy.is_auto_approved(shop.home, shop.store, proposed(contract_of(street, ALL_FIVE)), NOW_S)
    assert rules.lone_parts(three, [others]) == []
    assert rules.lone_parts(three, [all_five])[0].endswith("is the part of shop-c and shop-e")
    page = shown(lambda: screen.contract(shop.store, proposed(four), "shop-b", []), monkeypatch)
    assert "is with shop-e: the difference of both sums is the part of shop-e" in " ".join(page.split())
    assert rules.lone_parts(all_five, [four])[0].endswith(
        "without shop-e: the difference of both sums is the part of shop-e"
    )
    street.close()


def test_updates_in_the_clear_are_never_approved_without_a_person(five: Street) -> None:
    contract = contract_of(five, ROBUST)
    assert rules.needs_a_person(contract)
    assert not rules.needs_a_person(contract_of(five, ALL_FIVE))


# The contract between all


def approved(street: Street, shop: Party, found: Campaign) -> None:
    street.office.online(shop.home, lambda relay: mail.approve(shop.home, shop.store, relay, found))


def test_all_sign_one_contract_that_any_of_them_reads_alike(tmp_path: Path) -> None:
    street = make_street(tmp_path)
    first = street.first
    contract = contract_of(street, CAMPAIGN, time.time())
    street.office.online(first.home, lambda relay: mail.propose(first.home, first.store, relay, contract))
    for name in SHOPS[1:]:
        shop = street.shops[name]
        assert any("shop-a proposes the campaign together" in line for line in street.collect(shop))
        found = shop.store.campaign("together")
        assert found.contract == contract
        approved(street, shop, found)
    for shop in street.shops.values():
        street.collect(shop)
        known = shop.store.campaign("together")
        assert set(shop.store.signatures(known.hash)) == set(SHOPS)
        policy.check_runnable(shop.home, shop.store, known, time.time())
        assert screen.state(shop.store, known, shop.home.name()) in ("signed by all", "waiting, 0 of 1 steps done")
    street.close()


def test_a_proposal_from_another_than_the_first_client_is_not_filed(own_street: Street) -> None:
    street, sender = own_street, own_street.shops["shop-b"]
    contract = contract_of(street, CAMPAIGN, time.time())
    signature = sender.identity.sign(signed_bytes(contract.hash))
    body = {"contract": contract.to_bytes().decode(), "signature": signature.hex()}
    card = street.first.identity.card
    street.office.online(sender.home, lambda relay: mail._post(sender.identity, relay, [card], "proposal", body))
    assert any("from another client than the first" in line for line in street.collect(street.first))
    assert street.first.store.campaigns() == []


@pytest.mark.parametrize("text", [CAMPAIGN, GROUPS], ids=["logistic", "kmeans"])
def test_what_travels_is_refused_if_any_party_is_of_another_role(street: Street, text: str) -> None:
    contract = contract_of(street, text)
    for role in ("brand", "media"):
        with pytest.raises(DisagreementError, match="or more clients and nobody else"):
            Contract.from_bytes(with_party(contract, "shop-b", role=role).to_bytes())
    two = replace(contract, parties=contract.parties[:2], features={}, learns={})
    with pytest.raises(DisagreementError, match="take its own part off the sum"):
        Contract.from_bytes(two.to_bytes())


def test_a_number_that_is_no_number_here_is_refused_as_any_other(street: Street) -> None:
    raw = json.loads(contract_of(street).to_bytes())
    for end in (10**400, 1e16, True, "1"):
        raw["ranges"][0]["high"] = end
        with pytest.raises(DisagreementError, match="expected a number"):
            Contract.from_bytes(json.dumps(raw).encode())


# What people see


def shown(call: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> str:
    out = io.StringIO()
    monkeypatch.setattr(screen, "console", Console(file=out, width=100, highlight=False))
    call()
    return out.getvalue()


@pytest.mark.parametrize("text", [CAMPAIGN, GROUPS, PRIVATE], ids=["logistic", "kmeans", "private"])
def test_a_contract_is_shown_in_whole_to_who_signs(street: Street, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = contract_of(street, text)
    known = proposed(contract)
    shop = street.shops["shop-b"]
    page = shown(lambda: screen.contract(shop.store, known, "shop-b", []), monkeypatch)
    for said in ("shop-b (this party)", "client", "Columns of each client: age, visits, member", "added up blindly"):
        assert said in page
    assert page.count("shop-a, shop-b, shop-c, each") == 1
    assert ("epsilon 2, delta 1e-6, for all rows of any one client" in page) == (text == PRIVATE)
    assert "not acceptable" not in page.lower()
    status = screen.status(shop.store, known, "shop-b")
    assert [step["step"] for step in status["steps"]] == ["federate"]
    shown(lambda: screen.console.print(screen.progress(shop.store, known, "shop-b", "")), monkeypatch)


def test_the_terms_say_what_is_trained_with_whom_how_hidden_and_how_private(five: Street) -> None:
    said = terms(contract_of(five, ROBUST))
    assert said["Updates"].startswith("in the clear to the coordinator, which takes their median")
    assert "over the rows of 5 clients in at most 10 rounds" in said["Trained together"]
    assert "Differential privacy" not in said
    assert said["Ranges"].startswith("age 18 to 90")
    private = terms(contract_of(five, ALL_FIVE + '[privacy]\nepsilon = 0.5\nunit = "row"\n'))
    assert private["Differential privacy"].startswith("epsilon 0.5, delta 1e-6, for any one row in the whole training")


def test_differences_to_the_last_contract_are_told(tmp_path: Path) -> None:
    street = make_street(tmp_path)
    shop, made = street.shops["shop-b"], []
    for text in (CAMPAIGN, CAMPAIGN.replace("rounds = 10", "rounds = 20").replace("[18, 90]", "[18, 99]")):
        contract = contract_of(street, text)
        shop.store.put_campaign(contract, "shop-a")
        shop.store.add_signature(contract.hash, "shop-b", shop.identity.sign(signed_bytes(contract.hash)))
        made.append(shop.store.campaign(contract.hash))
    lines = screen.changes(shop.store, made[1], "shop-b")
    assert any("at most 10 rounds" in line and "at most 20 rounds" in line for line in lines)
    assert any("ranges: age 18 to 90" in line and "age 18 to 99" in line for line in lines)
    street.close()


def test_looser_than_the_defaults_is_pointed_out(street: Street) -> None:
    checked = check(street, CAMPAIGN + "least_rows = 500\n[guards]\nfloor = 60\n")
    assert checked.contract is not None
    assert any("least_rows is 500, looser than the default 1000" in line for line in checked.remarks)
    assert any("guards.floor is 60" in line for line in checked.remarks)
    assert checked.contract.guards == Guards(60, 100, 12, 10, 20)


def test_the_coordinator_away_leaves_nothing_signed(own_street: Street) -> None:
    first = own_street.first
    contract = contract_of(own_street, CAMPAIGN, time.time())
    own_street.office.away = True
    with pytest.raises(CarrierError):
        own_street.office.online(first.home, lambda relay: mail.propose(first.home, first.store, relay, contract))
    assert first.store.campaigns() == []
