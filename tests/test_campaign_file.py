"""The campaign file: every mistake is listed with its key, and what is right becomes the contract it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.two_parties import CAMPAIGN, Town, brand_rows, make_town, write_csv
from tidegate.party import campaign, dataset
from tidegate.protocols.channel import ConfigError
from tidegate.wire.contract import Contract, Holdout

NOW_S = 1_800_000_000


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    made = make_town(tmp_path_factory.mktemp("town"))
    yield made
    made.close()


def check(town: Town, text: str) -> campaign.Checked:
    return campaign.check(town.campaign_file(text), town.acme.home, town.acme.store, NOW_S)


def contract_of(town: Town, text: str = CAMPAIGN) -> Contract:
    checked = check(town, text)
    assert checked.mistakes == []
    assert checked.contract is not None
    return checked.contract


def test_a_right_file_becomes_the_contract_it_says(town: Town) -> None:
    contract = contract_of(town)
    assert Contract.from_bytes(contract.to_bytes()) == contract
    assert contract.features == {"acme": ("age", "plan"), "feed": ("visits", "clicks", "device")}
    assert contract.expires_s - contract.created_s == 7 * 86400
    assert contract.label.positive == "1"
    assert contract.holdout == Holdout("split", "test", 0)
    found = {step.step: step.settings for step in contract.steps}
    switches = {"balance": 0, "early_stop": 0, "importance": 0}
    assert found["train"] == {"steps": 8, "l2_milli": 10_000, "lookalike_steps": 4, **switches}
    assert found["expand"] == {"sizes": [5, 10, 20], "control_percent": 0}
    assert contract.party("feed").data.commitment == town.feed.store.dataset("people").commitment
    assert any("blurred" in line for line in contract.learns["acme"])


def test_two_contracts_of_one_file_are_two_contracts(town: Town) -> None:
    assert contract_of(town).hash != contract_of(town).hash


def test_all_leaves_out_keys_label_holdout_constants_and_text(town: Town) -> None:
    contract = contract_of(town, CAMPAIGN.replace('["visits", "clicks", "device"]', '"all"'))
    assert contract.features == {"acme": ("age", "plan"), "feed": ("visits", "clicks", "device")}


MISTAKES = {
    "unknown table": ('[match]\nkeys = ["email"]', '[mach]\nkeys = ["email"]', "mach", 'did you mean "match"'),
    "missing table": ('[match]\nkeys = ["email"]', "", "match", "found nothing"),
    "unknown key": ("expires_days = 7", "expire_days = 7", "campaign.expire_days", 'did you mean "expires_days"'),
    "bad expiry": ("expires_days = 7", "expires_days = 0", "campaign.expires_days", "1 to 90, found 0"),
    "bad name": ('name = "lookalike"', 'name = "Look alike"', "campaign.name", 'found "Look alike"'),
    "another brand": ('brand = "acme"', 'brand = "other"', "parties.brand", 'this party, "acme"'),
    "unknown media": ('media = "feed"', 'media = "fed"', "parties.media", 'did you mean "feed"'),
    "unknown data": ('brand = "customers"', 'brand = "customer"', "data.brand", 'did you mean "customers"'),
    "unknown offer": ('media = "people"', 'media = "poeple"', "data.media", 'did you mean "people"'),
    "a path": ('brand = "customers"', 'brand = "../customers.csv"', "data.brand", "never a path"),
    "a query": ('media = "people"', 'media = "people; drop table x"', "data.media", "never a path"),
    "an address": ('media = "people"', 'media = "https://example.com/p"', "data.media", "never a path"),
    "unknown kind": ('keys = ["email"]', 'keys = ["e-mail"]', "match.keys", 'did you mean "email"'),
    "kind not registered": ('keys = ["email"]', 'keys = ["phone"]', "match.keys", "--key phone=COLUMN"),
    "no keys": ('keys = ["email"]', "keys = []", "match.keys", "a list of kinds"),
    "key twice": ('keys = ["email"]', 'keys = ["email", "email"]', "match.keys", "each kind once"),
    "unknown label": ('column = "bought"', 'column = "bougth"', "label.column", 'did you mean "bought"'),
    "label is a key": ('column = "bought"', 'column = "mail"', "label.column", "no identifier"),
    "label not binary": ('column = "bought"', 'column = "age"', "label.column", "exactly two different values"),
    "label constant": ('column = "bought"', 'column = "unit"', "label.column", "found 1 (eur)"),
    "positive missing": ("positive = 1", "", "label.positive", "found nothing"),
    "positive infinite": ("positive = 1", "positive = inf", "label.positive", "found inf"),
    "positive absent": ("positive = 1", 'positive = "yes"', "label.positive", "one of 0, 1"),
    "unknown feature": ('"visits", "clicks"', '"visit", "clicks"', "features.media", 'did you mean "visits"'),
    "text feature": ('"visits", "clicks"', '"note", "clicks"', "features.media", "columns of feed's data set people"),
    "key feature": ('brand = "all"', 'brand = ["mail"]', "features.brand", "identifiers"),
    "label feature": ('brand = "all"', 'brand = ["bought"]', "features.brand", "neither label nor hold-out"),
    "constant feature": ('brand = "all"', 'brand = ["unit"]', "features.brand", "same value in every row"),
    "feature twice": ('"visits", "clicks"', '"visits", "visits"', "features.media", "each column once"),
    "no media feature": ('["visits", "clicks", "device"]', "[]", "features.media", "at least one column"),
    "features no list": ('brand = "all"', 'brand = "age"', "features.brand", '"all" or a list'),
    "unknown holdout": ('column = "split"', 'column = "spit"', "holdout.column", 'did you mean "split"'),
    "holdout value": ('value = "test"', 'value = "tset"', "holdout.value", 'did you mean "test"'),
    "holdout both": ('value = "test"', 'value = "test"\nshare = 30', "holdout", "found both"),
    "holdout share": ('column = "split"\nvalue = "test"', "share = 95", "holdout.share", "5 to 80, found 95"),
    "unknown step": ("[steps.score]", "[steps.scores]", "steps.scores", 'did you mean "score"'),
    "order": ("[steps.match]\n", "", "steps.insight", "found none"),
    "later": ("[steps.match]\n[steps.insight]", "[steps.insight]\n[steps.match]", "steps.insight", "it later"),
    "unknown setting": ("l2 = 10", "step = 10", "steps.train.step", 'did you mean "steps"'),
    "bad l2": ("l2 = 10", "l2 = 0", "steps.train.l2", "0.001 to 1000000"),
    "fine l2": ("l2 = 10", "l2 = 0.0001", "steps.train.l2", "at most three decimals"),
    "too many steps": ("steps = 8", "steps = 9", "steps.train.steps", "found 9 and 4 for the lookalike model"),
    "sizes": ("sizes = [5, 10, 20]", "sizes = [5, 60]", "steps.expand.sizes", "1 to 50, found 5, 60"),
    "floor too low": (
        "[steps.match]",
        "[guards]\nfloor = 49\n[steps.match]",
        "guards.floor",
        "50 to 1000000, found 49",
    ),
    "unknown guard": ("[steps.match]", "[guards]\nflor = 100\n[steps.match]", "guards.flor", 'did you mean "floor"'),
    "seeds": ("[steps.match]", "[guards]\nseeds = 900\n[steps.match]", "label.positive", "at least 900 rows"),
    "no TOML": ("[parties]", "[parties", "the file", "expected TOML"),
    "twice": ("[label]", "[parties]", "the file", "expected TOML"),
}


@pytest.mark.parametrize(("old", "new", "key", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_file_line_key_expected_and_found(
    town: Town, old: str, new: str, key: str, said: str
) -> None:
    assert old in CAMPAIGN
    checked = check(town, CAMPAIGN.replace(old, new, 1))
    assert checked.contract is None
    lines = [str(mistake) for mistake in checked.mistakes]
    told = [line for line, mistake in zip(lines, checked.mistakes, strict=True) if mistake.key == key]
    assert any(said in line for line in told), lines
    assert all(line.startswith("campaign.toml") and "expected" in line and "found" in line for line in lines)


def test_every_mistake_is_listed_with_its_line(town: Town) -> None:
    text = CAMPAIGN.replace('"bought"', '"bougth"').replace("steps = 8", "steps = 40").replace('"all"', '["agee"]')
    mistakes = check(town, text).mistakes
    assert [(one.key, text.splitlines()[one.line - 1].split(" ")[0]) for one in mistakes] == [
        ("steps.train.steps", "steps"),
        ("label.column", "column"),
        ("features.brand", "brand"),
    ]


def test_looser_guards_are_pointed_out(town: Town) -> None:
    checked = check(town, CAMPAIGN + "[guards]\nfloor = 60\ncount_noise = 20\n")
    assert "guards.floor is 60, looser than the default 100" in checked.remarks
    assert not any("count_noise" in remark for remark in checked.remarks)


def test_grants_that_are_spelled_out_must_be_all_of_them(town: Town) -> None:
    learns = contract_of(town).learns
    spelled = "".join(f"{name} = {json.dumps(list(lines))}\n" for name, lines in learns.items())
    assert contract_of(town, CAMPAIGN + "[learns]\n" + spelled).learns == learns
    short = "".join(f"{name} = {json.dumps(list(lines[1:]))}\n" for name, lines in learns.items())
    mistakes = check(town, CAMPAIGN + "[learns]\n" + short).mistakes
    assert {mistake.key for mistake in mistakes} == {"learns.acme", "learns.feed", "learns.coordinator"}


def test_a_matching_alone_needs_no_label(town: Town) -> None:
    text = CAMPAIGN.split("[label]")[0] + "[features]\nbrand = []\n[steps.match]\n"
    assert [step.step for step in contract_of(town, text).steps] == ["match"]


def test_training_without_expand_trains_no_lookalike_model(town: Town) -> None:
    steps = contract_of(town, CAMPAIGN.split("[steps.expand]")[0]).steps
    assert next(step.settings for step in steps if step.step == "train")["lookalike_steps"] == 0


@pytest.mark.parametrize(("l2", "milli"), [("0.001", 1), ('"2.5"', 2500), ("1e3", 1_000_000), ("10", 10_000)])
def test_l2_is_kept_in_thousandths(town: Town, l2: str, milli: int) -> None:
    steps = contract_of(town, CAMPAIGN.replace("l2 = 10", f"l2 = {l2}")).steps
    assert next(step.settings for step in steps if step.step == "train")["l2_milli"] == milli


def test_a_share_is_held_out_where_no_column_says_it(town: Town) -> None:
    assert contract_of(town, CAMPAIGN.replace('column = "split"\nvalue = "test"', "share = 20")).holdout.percent == 20
    without = CAMPAIGN.replace('[holdout]\ncolumn = "split"\nvalue = "test"\n', "")
    assert contract_of(town, without).holdout == Holdout("", "", 30)


def test_a_file_that_changed_after_it_was_registered_is_told(tmp_path: Path) -> None:
    town = make_town(tmp_path)
    with (tmp_path / "brand.csv").open("a") as file:
        file.write("p9999@example.com,30,a,eur,1,test\n")
    mistakes = check(town, CAMPAIGN).mistakes
    assert [(one.key, one.found) for one in mistakes] == [("data.brand", "another one")]
    town.close()


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        ({"bought": 1}, "label.column", "found 1"),
        ({"bought": ""}, "label.column", "found none"),
        ({"split": "test"}, "holdout.value", "in every row"),
    ],
)
def test_labels_and_holdouts_that_cannot_work_are_told_before_anybody_signs(
    tmp_path: Path, change: dict[str, object], key: str, said: str
) -> None:
    town = make_town(tmp_path)
    path = write_csv(tmp_path / "other.csv", [row | change for row in brand_rows()])
    dataset.register(town.acme.store, "customers", path, {"email": "mail"}, "", "refuse")
    lines = [str(one) for one in check(town, CAMPAIGN).mistakes if one.key == key]
    assert any(said in line for line in lines)
    town.close()


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b"\xff\xfe\x00", "not UTF-8"), (b"x" * 300_000, "too large")]
)
def test_what_is_no_text_is_refused_as_a_whole(town: Town, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "campaign.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        campaign.check(path, town.acme.home, town.acme.store, NOW_S)
    with pytest.raises(ConfigError, match="cannot be read"):
        campaign.check(tmp_path / "none.toml", town.acme.home, town.acme.store, NOW_S)


JUNK = st.one_of(
    st.none().map(lambda _: "1979-05-27"),
    st.booleans().map(lambda value: str(value).lower()),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.text(max_size=20).map(lambda text: json.dumps(text, ensure_ascii=True)),
    st.lists(st.integers(-5, 200), max_size=3).map(str),
    st.lists(st.text(max_size=5), max_size=3).map(json.dumps),
    st.just("{ a = 1 }"),
    st.just("[[1], [{ a = 2 }]]"),
)
ASSIGNED = [number for number, line in enumerate(CAMPAIGN.splitlines()) if " = " in line]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(ASSIGNED), JUNK, min_size=1, max_size=3))
def test_no_value_whatever_ends_in_anything_but_mistakes(town: Town, junk: dict[int, str]) -> None:
    lines = CAMPAIGN.splitlines()
    for number, value in junk.items():
        lines[number] = f"{lines[number].split(' = ')[0]} = {value}"
    checked = check(town, "\n".join(lines))
    assert (checked.contract is None) == bool(checked.mistakes)
    if checked.contract is not None:
        assert Contract.from_bytes(checked.contract.to_bytes()) == checked.contract
