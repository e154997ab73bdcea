"""What a campaign file may say of matching: modes, spelling, several media; and what becomes of it in the contract."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.two_parties import Town, introduce, make_party, make_town, write_csv
from tidegate.party import campaign, dataset, mail, policy
from tidegate.protocols.catalog import CATALOG
from tidegate.protocols.channel import DisagreementError
from tidegate.wire.contract import Contract, Key, Step, Total

NOW_S = 1_800_000_000
ONE = """\
[campaign]
name = "lookalike"
[parties]
brand = "acme"
media = "feed"
[data]
brand = "customers"
media = "people"
[match]
keys = ["email"]
[steps.match]
"""
TWO = ONE.replace('media = "feed"', 'media = ["feed", "vista"]').replace(
    'media = "people"', 'media = { feed = "people", vista = "viewers" }'
)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """acme and feed, and vista, which offers the same file as feed under another name."""
    made = make_town(tmp_path_factory.mktemp("town"))
    vista = make_party(made.folder, "vista")
    introduce(made.acme, vista)
    dataset.register(vista.store, "viewers", made.folder / "media.csv", {"email": "email"}, "", "refuse")
    made.office.online(vista.home, lambda relay: mail.offer(vista.home, vista.store, relay, "viewers", "acme"))
    made.collect(made.acme)
    yield made
    vista.store.close()
    made.close()


def check(town: Town, text: str) -> campaign.Checked:
    return campaign.check(town.campaign_file(text), town.acme.home, town.acme.store, NOW_S)


def contract_of(town: Town, text: str) -> Contract:
    checked = check(town, text)
    assert checked.mistakes == []
    assert checked.contract is not None
    assert Contract.from_bytes(checked.contract.to_bytes()) == checked.contract
    return checked.contract


def with_match(lines: str, text: str = ONE) -> str:
    return text.replace('keys = ["email"]\n', f'keys = ["email"]\n{lines}\n')


def test_a_key_is_plain_and_clear_unless_the_file_says_otherwise(town: Town) -> None:
    assert contract_of(town, ONE).keys == (Key("email", "plain", "clear"),)
    assert contract_of(town, with_match('profile = "google"')).keys == (Key("email", "google", "clear"),)
    hashed = with_match('profile = { email = "uid2" }\nhashed = { email = "sha256" }')
    assert contract_of(town, hashed).keys == (Key("email", "uid2", "sha256"),)


@pytest.mark.parametrize("mode", ["both", "brand", "size"])
def test_a_mode_is_a_catalogue_entry_and_its_lines_are_what_each_party_learns(town: Town, mode: str) -> None:
    contract = contract_of(town, with_match(f'mode = "{mode}"'))
    entry = CATALOG[contract.steps[0].protocol]
    assert (entry.engine, entry.mode) == ("oprf", mode)
    assert len(contract.learns["acme"]) == len(entry.learns["brand"])


def test_each_mode_tells_the_media_something_else(town: Town) -> None:
    told = {contract_of(town, with_match(f'mode = "{mode}"')).learns["feed"] for mode in ("both", "brand", "size")}
    assert len(told) == 3


def test_a_sum_counts_in_the_smallest_unit_that_its_decimals_give(town: Town) -> None:
    lines = 'mode = "sum"\nsum = { of = "media", column = "visits", cap = 500, decimals = 2 }'
    assert contract_of(town, with_match(lines)).total == Total("media", "visits", 50_000, 2)


def test_an_epoch_is_named_in_the_contract(town: Town) -> None:
    assert contract_of(town, with_match('mode = "epoch"\nepoch = "2026-q4"')).epoch == "2026-q4"


def test_several_media_are_matched_one_after_the_other(town: Town) -> None:
    contract = contract_of(town, TWO)
    assert [step.name for step in contract.steps] == ["match-feed", "match-vista"]
    assert [party.name for party in contract.media] == ["feed", "vista"]
    first, second = contract.steps
    assert contract.takes_part("feed", first)
    assert not contract.takes_part("feed", second)
    assert contract.peer("acme", second).name == "vista"
    assert contract.peer("vista", second).name == "acme"


MISTAKES = {
    "mode": ('mode = "bot"', "match.mode", 'did you mean "both"'),
    "engine": ('engine = "oprg"', "match.engine", 'did you mean "oprf"'),
    "profile": ('profile = "gogle"', "match.profile", 'did you mean "google"'),
    "profile of a kind": ('profile = { phone = "google" }', "match.profile.phone", "one of email"),
    "digest": ('hashed = { email = "sha1" }', "match.hashed", "sha256, md5"),
    "digest clear": ('hashed = { email = "clear" }', "match.hashed", "sha256, md5"),
    "sum without mode": (
        'sum = { of = "media", column = "visits", cap = 5 }',
        "match.sum",
        'it only with mode = "sum"',
    ),
    "no sum": ('mode = "sum"', "match.sum.of", "brand or media"),
    "whose sum": ('mode = "sum"\nsum = { of = "feed", column = "x", cap = 5 }', "match.sum.of", "brand or media"),
    "no cap": ('mode = "sum"\nsum = { of = "media", column = "visits" }', "match.sum.cap", "the largest value"),
    "own column": ('mode = "sum"\nsum = { of = "brand", column = "aeg", cap = 5 }', "match.sum.column", '"age"'),
    "text column": ('mode = "sum"\nsum = { of = "brand", column = "plan", cap = 5 }', "match.sum.column", '"plan"'),
    "column not offered": (
        'mode = "sum"\nsum = { of = "media", column = "visit", cap = 5 }',
        "match.sum.column",
        'did you mean "visits"',
    ),
    "category of the media": (
        'mode = "sum"\nsum = { of = "media", column = "device", cap = 5 }',
        "match.sum.column",
        "a column of numbers of feed's people",
    ),
    "key of the media": (
        'mode = "sum"\nsum = { of = "media", column = "email", cap = 5 }',
        "match.sum.column",
        "it has visits, clicks",
    ),
    "cap of no unit": ('mode = "sum"\nsum = { of = "media", column = "visits", cap = 0 }', "match.sum.cap", "from 1"),
    "cap of too many units": (
        'mode = "sum"\nsum = { of = "media", column = "visits", cap = 1001, decimals = 6 }',
        "match.sum.cap",
        "from 1 to 1000",
    ),
    "two keys of a sum": (
        'mode = "sum"\nsum = { of = "media", column = "visits", cap = 5 }',
        "match.keys",
        "one key with mode sum",
    ),
    "epoch without mode": ('epoch = "q4"', "match.epoch", 'it only with mode = "epoch"'),
    "no epoch": ('mode = "epoch"', "match.epoch", "the name of the epoch"),
    "bad epoch": ('mode = "epoch"\nepoch = "2026 Q4"', "match.epoch", "a to z"),
    "two keys": ('mode = "size"', "match.keys", "one key with mode size"),
}


@pytest.mark.parametrize(("lines", "key", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_about_matching_is_told(town: Town, lines: str, key: str, said: str) -> None:
    text = with_match(lines)
    if key == "match.keys":
        text = text.replace('["email"]', '["email", "phone"]')
    checked = check(town, text)
    assert checked.contract is None
    assert any(said in str(one) for one in checked.mistakes if one.key == key), [str(one) for one in checked.mistakes]


SEVERAL = {
    "no table": (
        '{ feed = "people", vista = "viewers" }',
        '"people"',
        "data.media",
        "a data set for each of feed, vista",
    ),
    "one missing": (', vista = "viewers"', "", "data.media.vista", "found nothing"),
    "a stranger": ('vista = "viewers"', 'vista = "viewers", other = "x"', "data.media.other", "one of feed, vista"),
    "another's": ('vista = "viewers"', 'vista = "people"', "data.media.vista", "a data set that vista has offered"),
    "twice": ('["feed", "vista"]', '["feed", "feed"]', "parties.media", "each media once"),
    "unknown": ('["feed", "vista"]', '["feed", "visto"]', "parties.media", 'did you mean "vista"'),
    "insight": ("[steps.match]", "[steps.match]\n[steps.insight]", "steps.insight", "one media with this step"),
}


@pytest.mark.parametrize(("old", "new", "key", "said"), SEVERAL.values(), ids=SEVERAL)
def test_a_mistake_about_several_media_is_told(town: Town, old: str, new: str, key: str, said: str) -> None:
    assert old in TWO
    checked = check(town, TWO.replace(old, new))
    assert checked.contract is None
    assert any(said in str(one) for one in checked.mistakes if one.key == key), [str(one) for one in checked.mistakes]


def test_steps_that_need_a_shared_alignment_are_refused_where_one_side_alone_has_it(town: Town) -> None:
    label = '[label]\ncolumn = "bought"\npositive = 1\n[steps.insight]\n'
    mistakes = check(town, with_match('mode = "size"') + label).mistakes
    assert [one.key for one in mistakes] == ["steps.insight"]
    assert "a match that tells which rows match" in str(mistakes[0])
    steps = label + "[steps.train]\n[steps.expand]\n"
    mistakes = check(town, with_match('mode = "brand"') + steps).mistakes
    assert [one.key for one in mistakes] == ["steps.expand"]
    assert "a match that both sides learn" in str(mistakes[0])


def _changed(contract: Contract, **changes: object) -> bytes:
    return replace(contract, **changes).to_bytes()  # type: ignore[arg-type]  # a field of any type


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": (Step("match", "match.oprf@1", {}, "feed"), Step("match", "match.oprf@1", {}, "feed"))},
        {"steps": (Step("match", "match.oprf@1", {}),)},
        {"steps": (Step("match", "match.oprf@1", {}, "stranger"),)},
        {"steps": (Step("match", "match.oprf@1", {}, "feed"), Step("insight", "insight.columns@1", {}, "feed"))},
        {"total": Total("media", "visits", 5, 0)},
        {"epoch": "2026-q4"},
        {"keys": (Key("email", "nobody"),)},
        {"keys": (Key("email", "plain", "sha1"),)},
        {"keys": (Key("email"), Key("email", "google"))},
    ],
    ids=str,
)
def test_a_contract_that_contradicts_itself_is_refused(town: Town, changes: dict[str, object]) -> None:
    contract = contract_of(town, TWO)
    with pytest.raises(DisagreementError, match="cannot be read"):
        Contract.from_bytes(_changed(contract, **changes))


def test_a_media_alone_is_not_named_by_its_steps(town: Town) -> None:
    contract = contract_of(town, ONE)
    with pytest.raises(DisagreementError, match="if and only if there is a run with each"):
        Contract.from_bytes(_changed(contract, steps=(Step("match", "match.oprf@1", {}, "feed"),)))


def _digest_file(town: Town) -> Path:
    rows = [{"email": hashlib.sha256(f"p{i}@example.com".encode()).hexdigest(), "age": i} for i in range(300)]
    return write_csv(town.folder / "digests.csv", rows)


def test_a_column_of_digests_is_entered_as_what_it_is_or_the_campaign_is_refused(town: Town) -> None:
    dataset.register(
        town.acme.store, "digests", _digest_file(town), {"email": "email"}, "", "refuse", {"email": "sha256"}
    )
    text = ONE.replace('brand = "customers"', 'brand = "digests"')
    mistakes = check(town, text).mistakes
    assert [one.key for one in mistakes] == ["match.hashed"]
    assert 'hashed = { email = "sha256" }' in str(mistakes[0])
    contract = contract_of(town, with_match('hashed = { email = "sha256" }', text))
    assert policy.problems(town.acme.home, town.acme.store, contract, NOW_S) == []
    undone = replace(contract, keys=(Key("email"),))
    problems = policy.problems(town.acme.home, town.acme.store, undone, NOW_S)
    assert ["sha256 digests of it alone" in problem.text for problem in problems] == [True]


def test_the_doctor_alone_may_look_at_digests_beside_clear_text(town: Town) -> None:
    dataset.register(
        town.acme.store, "digests", _digest_file(town), {"email": "email"}, "", "refuse", {"email": "sha256"}
    )
    text = ONE.replace('brand = "customers"', 'brand = "digests"').replace("[steps.match]", "[steps.doctor]")
    contract = contract_of(town, text)
    assert policy.problems(town.acme.home, town.acme.store, contract, NOW_S) == []
