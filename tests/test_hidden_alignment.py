"""Hidden alignment: the media runs every step over all of its people and learns neither who matched nor how many."""

from __future__ import annotations

import asyncio
import csv
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, chisquare
from sklearn.linear_model import LogisticRegression

from tests import real_parties
from tests.both_roles import spoken
from tests.real_parties import PAPER, SHOP
from tests.two_parties import CAMPAIGN, Town, make_town
from tidegate.party import campaign, pacing, policy, quality, steps
from tidegate.party.data import features, table
from tidegate.party.demo.records import fiction_phones
from tidegate.party.job import Job
from tidegate.party.vertical_form import hidden_cost
from tidegate.protocols.blind import traffic
from tidegate.protocols.blind.products import Uploads
from tidegate.protocols.catalog import CATALOG, protocol_after
from tidegate.protocols.channel import Channel, DisagreementError, M, Message, PolicyError, TidegateError
from tidegate.protocols.primitives.bfv import PRIMES, SLOTS
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import MemoryChannel
from tidegate.wire.contract import VERSION, Contract, ContractParty, DataSet, Guards, Holdout, Key, Label, Step

MATCH = "match.oprf-brand@1"
BRAND_COLUMNS, MEDIA_COLUMNS = ("age", "plan"), ("visits", "clicks", "device")
TRAIN = {"steps": 8, "l2_milli": 10_000, "lookalike_steps": 0, "balance": 0, "early_stop": 0, "importance": 0}
# The brand chooses the penalty by itself: what it sends must not hang on that either.
SHORT = {**TRAIN, "steps": 2, "l2_milli": 0, "balance": 1}

Told = dict[str, dict[str, Any]]


@dataclass
class People:
    """Two tables, and which rows of the brand and the media are one person (m, 2)."""

    brand: pa.Table
    media: pa.Table
    common: NDArray[np.int64]


def people(rows: int, common: NDArray[np.int64], *, brand_rows: int | None = None, seed: int = 1) -> People:
    """A media with `rows` people, always the same for a seed; the brand knows those at `common`, in another order.

    The more visits a person has the likelier it is to be a good customer, and the older.
    """
    rng = np.random.default_rng(seed)
    visits, clicks = rng.exponential(3.0, rows).round(2), rng.poisson(2.0, rows).astype(float)
    device = np.array(["phone", "tablet", "desktop"])[rng.integers(0, 3, rows)]
    clicks[rng.random(rows) < 0.1] = np.nan
    media = pa.table(
        {
            "email": [f"person{i}@example.com" for i in range(rows)],
            "visits": visits,
            "clicks": pa.array(clicks, from_pandas=True),
            "device": device,
        }
    )
    total = brand_rows or rows
    rng = np.random.default_rng(seed + 1000)
    who = np.concatenate([common, rows + np.arange(total - len(common))])
    who = rng.permutation(who)
    known = who < rows
    seen = np.where(known, visits[np.where(known, who, 0)], rng.exponential(3.0, total))
    extra = np.where(known, np.nan_to_num(clicks[np.where(known, who, 0)], nan=2.0), 2.0)
    age = 30 + 2.0 * seen + 8 * rng.standard_normal(total)
    plan = np.array(["basic", "plus", "pro"])[rng.integers(0, 3, total)]
    logit = -0.8 + 0.35 * (seen - 3) + 0.3 * (extra - 2) + 0.03 * (age - 36) + 0.5 * (plan == "pro")
    bought = (rng.random(total) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    brand = pa.table(
        {
            "email": [f"person{i}@example.com" for i in who],
            "age": age.round(1),
            "plan": plan,
            "bought": bought,
        }
    )
    at = np.flatnonzero(known)
    return People(brand, media, np.stack([at, who[at]], axis=1))


def contract_of(made: People, *run: str, train: Mapping[str, int] = TRAIN, **changes: Any) -> Contract:
    def step(name: str) -> Step:
        after = MATCH if name == "match" else protocol_after(MATCH, name)
        assert after is not None
        return Step(name, after, dict(train) if name == "train" else {})

    given: dict[str, Any] = {
        "version": VERSION,
        "software": "0.1.0",
        "campaign": "quiet",
        "nonce": "00" * 16,
        "created_s": 1_800_000_000,
        "expires_s": 1_800_600_000,
        "parties": (
            ContractParty("acme", "brand", "aa" * 32, DataSet("buyers", made.brand.num_rows, "bb" * 32)),
            ContractParty("feed", "media", "cc" * 32, DataSet("people", made.media.num_rows, "dd" * 32)),
        ),
        "keys": (Key("email"),),
        "label": Label("bought", "1"),
        "features": {"acme": BRAND_COLUMNS, "feed": MEDIA_COLUMNS},
        "holdout": Holdout("", "", 30),
        "steps": tuple(step(name) for name in ("match", *run)),
        "guards": Guards(floor=50, seeds=50, train_steps=12, count_noise=0, score_levels=20),
        "learns": {},
    }
    return Contract.from_bytes(Contract(**{**given, **changes}).to_bytes())


@dataclass
class Played:
    """What a campaign left: folders and facts by step and party, charges and messages of each."""

    folder: Path
    contract: Contract
    seeds: dict[str, bytes]
    facts: dict[str, Told] = field(default_factory=dict)
    charged: dict[str, list[tuple[str, int, int]]] = field(default_factory=lambda: {"acme": [], "feed": []})
    sent: dict[str, dict[str, list[tuple[str, bytes]]]] = field(default_factory=dict)
    failed: dict[str, TidegateError] = field(default_factory=dict)

    def files(self, party: str) -> dict[str, bytes]:
        own = self.folder / party
        return {str(path.relative_to(own)): path.read_bytes() for path in sorted(own.rglob("*")) if path.is_file()}


def played(folder: Path, made: People, contract: Contract, brand: bytes = b"a" * 32) -> Played:
    """Runs all steps of the contract, each party with the randomness of its seed."""
    seeds = {"acme": brand, "feed": b"f" * 32}
    folder.mkdir(parents=True)
    for name, rows in (("acme", made.brand), ("feed", made.media)):
        pq.write_table(rows, folder / f"{name}.parquet")
    done = Played(folder, contract, seeds)
    for index, step in enumerate(contract.steps):
        outcomes, channels = asyncio.run(_step(done, index))
        done.sent[step.step] = {name: channels[name].sent for name in channels}
        done.facts[step.step] = {}
        for name, outcome in outcomes.items():
            if isinstance(outcome, TidegateError):
                done.failed[name] = outcome
            else:
                done.facts[step.step][name] = outcome
        if done.failed:
            break
    return done


def job_of(done: Played, index: int, name: str) -> Job:
    """What a party gets for a step, with the randomness of its seed in this step."""
    contract = done.contract
    step = contract.steps[index]
    (done.folder / name / step.step).mkdir(parents=True)

    def charge(kind: str, amount: int, limit: int) -> None:
        done.charged[name].append((kind, amount, limit))

    return Job(
        contract=contract,
        step=step,
        party=name,
        path=done.folder / f"{name}.parquet",
        keys={"email": "email"},
        given={},
        region=None,
        duplicates="refuse",
        earlier={each.step: done.folder / name / each.step for each in contract.steps[:index]},
        staging=done.folder / name / step.step,
        randomness=Randomness(done.seeds[name][:-1] + bytes([index])),
        count_noise=lambda n: np.zeros(n, np.int64),
        charge=charge,
        campaigns=done.folder / name / "campaigns",
        cache=done.folder / name / "cache",
    )


async def _step(done: Played, index: int) -> tuple[Told, dict[str, MemoryChannel]]:
    def role(name: str) -> Any:
        async def run(channel: Channel) -> Any:
            return await steps.play(job_of(done, index, name), channel)

        return run

    first, second, a, b = await spoken(role("acme"), role("feed"))
    return {"acme": first, "feed": second}, {"acme": a, "feed": b}


def drawn(contract: Contract, n: int) -> NDArray[np.bool_]:
    return Randomness(contract.hash).integers(100, n) < np.uint64(contract.holdout.percent)


# As accurate as pooled data.


def test_the_model_is_that_of_pooled_data_with_the_medias_columns_scaled_by_all_of_its_people(tmp_path: Path) -> None:
    """Also where those who matched are unlike the others: here they are the ones with more visits."""
    rng = np.random.default_rng(5)
    everybody = people(20_000, np.arange(0)).media["visits"].to_numpy()
    biased = np.flatnonzero(rng.random(20_000) < np.clip(everybody / 10, 0.02, 1))
    made = people(20_000, biased)
    contract = contract_of(made, "train", "score")
    done = played(tmp_path / "run", made, contract)
    assert done.failed == {}
    ours, theirs = (np.fromfile(done.folder / party / "match" / "order.i64", "<i8") for party in ("acme", "feed"))
    held_out = drawn(contract, len(theirs))
    train, tested = (ours >= 0) & ~held_out, (ours >= 0) & held_out
    brand, media = (table.read(done.folder / f"{party}.parquet") for party in ("acme", "feed"))
    own, others = (
        features.fit(brand, BRAND_COLUMNS, ours[train]),
        features.fit(media, MEDIA_COLUMNS, theirs[~held_out]),
    )
    x = np.hstack([features.apply(own, brand, np.maximum(ours, 0)), features.apply(others, media, theirs)])
    y = made.brand["bought"].to_numpy()
    pooled = LogisticRegression(C=1 / 10, max_iter=10_000, tol=1e-10).fit(x[train], y[ours[train]])
    expected, facts = pooled.decision_function(x[tested]), done.facts["train"]["acme"]
    assert facts["rows"] == {"train": int(train.sum()), "holdout": int(tested.sum())}
    assert abs(facts["auc"]["joint"] - quality.auc(y[ours[tested]], expected)) <= 5e-4
    assert abs(facts["log_loss"]["joint"] - quality.log_loss(y[ours[tested]], expected)) <= 3e-4
    assert facts["gain_shown"]
    # The scores are those of the people the brand knows and of nobody else, blurred by half a level at most.
    scores = pq.read_table(done.folder / "acme" / "score" / "scores.parquet")
    low, high = json.loads((done.folder / "acme" / "train" / "model.json").read_text())["joint"]["window"]
    place = {int(row): at for at, row in enumerate(ours) if row >= 0}
    assert sorted(scores["row"].to_pylist()) == sorted(place)
    exact = pooled.decision_function(x[[place[row] for row in scores["row"].to_pylist()]])
    given = scores["score"].to_numpy()
    off = np.abs(np.log(given / (1 - given)) - exact)
    # A score outside the window wraps to its other end: few do.
    assert float(np.mean(off <= (high - low) / 19 / 2 + 0.02)) > 0.99
    assert {path.name for path in (done.folder / "acme" / "score").iterdir()} == {"scores.parquet"}


def test_insight_counts_those_who_matched_and_the_good_ones_in_each_bin_of_all_people(tmp_path: Path) -> None:
    made = people(ROWS, np.random.default_rng(8).permutation(ROWS)[:2500])
    done = played(tmp_path / "run", made, contract_of(made, "insight"))
    assert done.failed == {}
    facts = done.facts["insight"]["acme"]
    bought, devices = made.brand["bought"].to_numpy(), np.array(made.media["device"].to_pylist())
    good = bought[made.common[:, 0]] == 1
    assert (facts["matched"], facts["positives"]) == (2500, int(good.sum()))
    shown = {feature["name"]: feature["bins"] for feature in facts["features"]}
    assert {bin_["label"]: (bin_["people"], bin_["matched"], bin_["positives"]) for bin_ in shown["device"]} == {
        name: (
            int((devices == name).sum()),
            int((devices[made.common[:, 1]] == name).sum()),
            int((good & (devices[made.common[:, 1]] == name)).sum()),
        )
        for name in ("phone", "tablet", "desktop")
    }
    visits = next(feature for feature in facts["features"] if feature["name"] == "visits")
    assert visits["bins"][0]["index"] < 80 < 120 < visits["bins"][-1]["index"]


def test_the_brand_keeps_the_least_number_of_good_customers_by_itself(tmp_path: Path) -> None:
    made = people(ROWS, np.random.default_rng(9).permutation(ROWS)[:100])
    contract = contract_of(made, "insight", "train", train=SHORT)
    done = played(tmp_path / "run", made, contract)
    # Insight is played to its end, so that the media cannot tell, and nothing of it is kept.
    assert done.facts["insight"]["acme"]["features"] == []
    assert set(done.facts["insight"]) == {"acme", "feed"}
    # Training ends before anything is sent: that the brand does not go on is what the media learns.
    assert isinstance(done.failed["acme"], PolicyError)
    assert done.sent["train"] == {"acme": [], "feed": []}


# The media's view is the same whoever matched, and however many.


ALL_STEPS = ("insight", "train", "score")
ROWS = 6000


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Played]:
    """The same campaign with brands of as many rows that know 300, 3,000 and all of the media's people."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for count in (300, 3000, ROWS):
        made = people(ROWS, np.random.default_rng(count).permutation(ROWS)[:count])
        found[count] = played(folder / str(count), made, contract_of(made, *ALL_STEPS, train=SHORT))
        assert found[count].failed == {}
    return found


def untimed(facts: dict[str, Any]) -> dict[str, Any]:
    """Without what says how long things took, and without the number of the run."""
    return {name: value for name, value in facts.items() if not name.endswith("_s") and name not in ("seconds", "run")}


def shape(messages: list[tuple[str, bytes]]) -> list[tuple[str, int]]:
    return [(name, len(data)) for name, data in messages]


# Blinded identifiers and ciphertexts: what looks random to the media. Everything else that it gets is in the clear.
SEALED = {"Blinded", "Key", "Uploads"}


def test_every_message_has_the_same_kind_size_and_place_whoever_matched(runs: dict[int, Played]) -> None:
    few, half, everybody = runs.values()
    for step in ("match", *ALL_STEPS):
        for party in ("acme", "feed"):
            assert shape(few.sent[step][party]) == shape(half.sent[step][party]) == shape(everybody.sent[step][party])


def test_what_the_brand_sends_in_the_clear_is_the_same_whoever_matched(runs: dict[int, Played]) -> None:
    said = [
        [(name, data) for step in played.sent.values() for name, data in step["acme"] if name not in SEALED]
        for played in runs.values()
    ]
    assert said[0] == said[1] == said[2]
    assert {name for name, _ in said[0]} == {"Size", "Found", "Opening"}


def test_the_medias_facts_files_and_budgets_are_the_same_whoever_matched(runs: dict[int, Played]) -> None:
    few, half, everybody = runs.values()
    told = [{step: untimed(facts["feed"]) for step, facts in run.facts.items()} for run in (few, half, everybody)]
    assert told[0] == told[1] == told[2]
    assert few.files("feed") == half.files("feed") == everybody.files("feed")
    assert {"match/order.i64", "train/model.json"} <= set(few.files("feed"))
    assert few.charged["feed"] == half.charged["feed"] == everybody.charged["feed"] != []
    # What the brand knows does differ: the comparison above is of something.
    assert few.files("acme") != half.files("acme")
    assert few.facts["match"]["acme"]["size"] == 300


class PlayedBack:
    """A channel that hands out what was recorded and notes what is sent."""

    def __init__(self, recorded: list[tuple[str, bytes]]) -> None:
        self._recorded, self.sent = iter(recorded), list[tuple[str, bytes]]()

    async def send(self, message: Message) -> None:
        self.sent.append((type(message).__name__, message.to_bytes()))

    async def recv(self, kind: type[M]) -> M:
        name, data = next(self._recorded)
        assert name == kind.__name__
        return kind.from_bytes(data)


def test_what_the_media_does_follows_from_its_own_data_its_seed_and_what_it_received(
    runs: dict[int, Played], tmp_path: Path
) -> None:
    """So its view is what it received, and the tests around this one say what can be seen in that."""
    for count, run in runs.items():
        again = Played(tmp_path / str(count), run.contract, run.seeds)
        again.folder.mkdir()
        (again.folder / "feed.parquet").write_bytes((run.folder / "feed.parquet").read_bytes())
        for index, step in enumerate(run.contract.steps):
            heard = PlayedBack(run.sent[step.step]["acme"])
            told = asyncio.run(steps.play(job_of(again, index, "feed"), heard))
            assert untimed(told) == untimed(run.facts[step.step]["feed"])
            assert heard.sent == run.sent[step.step]["feed"]
        assert again.files("feed") == run.files("feed")


def test_insight_looks_the_same_to_the_media_where_nobody_matched(runs: dict[int, Played], tmp_path: Path) -> None:
    """Under the floor no campaign gets there; the protocol itself does not need it."""
    shutil.copytree(runs[300].folder, tmp_path, dirs_exist_ok=True)
    for party in ("acme", "feed"):
        shutil.rmtree(tmp_path / party / "insight")
    (tmp_path / "acme" / "match" / "order.i64").write_bytes(np.full(ROWS, -1, "<i8").tobytes())
    nobody = Played(tmp_path, runs[300].contract, runs[300].seeds)
    told, channels = asyncio.run(_step(nobody, 1))
    assert (told["acme"]["matched"], told["acme"]["features"]) == (0, [])
    assert untimed(told["feed"]) == untimed(runs[300].facts["insight"]["feed"])
    assert nobody.charged["feed"] == [("insight", 1, 12)]
    for party, channel in channels.items():
        assert shape(channel.sent) == shape(runs[300].sent["insight"][party])


def residues_of(messages: list[tuple[str, bytes]]) -> NDArray[np.float64]:
    """Every number of every ciphertext among these messages as a share of its prime, in 0..1."""
    found = []
    for name, data in messages:
        if name == "Uploads":
            for part in Uploads.from_bytes(data).parts:
                halves = np.frombuffer(part[32:], "<u8").reshape(len(PRIMES), SLOTS)
                found.append(halves / np.array(PRIMES, np.float64)[:, None])
    return np.concatenate([each.ravel() for each in found])


def test_the_ciphertexts_that_the_media_gets_are_uniform_whoever_matched(runs: dict[int, Played]) -> None:
    counts = []
    for run in runs.values():
        residues = residues_of([message for step in run.sent.values() for message in step["acme"]])
        counts.append(np.histogram(residues, bins=256, range=(0, 1))[0])
        assert chisquare(counts[-1]).pvalue > 1e-6
    assert chi2_contingency(np.array(counts)).pvalue > 1e-6


def test_a_brand_ends_a_step_when_the_number_of_the_medias_people_says(runs: dict[int, Played]) -> None:
    assert [pacing.left_s(passed, 2.0) for passed in (0.0, 0.5, 2.0, 2.5, 7.0)] == [2.0, 1.5, 0.0, 1.5, 1.0]
    contract = runs[300].contract
    for step in contract.steps:
        assert pacing.Pacing(step, contract.party("acme"), 1000).wait_s() > 0
        assert pacing.Pacing(step, contract.party("feed"), 1000).wait_s() == 0
    assert pacing.Pacing(Step("match", "match.oprf@1", {}), contract.party("acme"), 1000).wait_s() == 0


# What it costs.


def test_bytes_follow_from_the_sizes_of_the_media_alone(runs: dict[int, Played]) -> None:
    run = runs[300]
    held_out = int(drawn(run.contract, ROWS).sum())
    sent = {party: sum(len(data) for _, data in run.sent["train"][party]) for party in ("acme", "feed")}
    training = traffic.of_training(ROWS - held_out, 3, 5, SHORT["steps"])
    scores = traffic.of_scores(held_out, 5)
    assert sent["acme"] == pytest.approx(training.up + scores.up, rel=1e-3)
    assert sent["feed"] == pytest.approx(training.down + scores.down, rel=1e-3)
    counted = sum(len(data) for _, data in run.sent["insight"]["acme"])
    assert counted == pytest.approx(traffic.of_sums(ROWS, 3, 2).up, rel=1e-3)


# What a campaign file and a contract may ask for.


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    made = make_town(tmp_path_factory.mktemp("town"))
    yield made
    made.close()


NOW_S = 1_800_000_000
HIDDEN = CAMPAIGN.replace('keys = ["email"]', 'keys = ["email"]\nmode = "brand"').replace(
    'column = "split"\nvalue = "test"', "share = 30"
)
WITHOUT_EXPAND = HIDDEN[: HIDDEN.index("[steps.expand]")]


def checked(town: Town, text: str) -> campaign.Checked:
    return campaign.check(town.campaign_file(text), town.acme.home, town.acme.store, NOW_S)


def test_a_campaign_in_hidden_alignment_is_acceptable_to_both_and_says_what_it_costs(town: Town) -> None:
    found = checked(town, WITHOUT_EXPAND)
    assert found.mistakes == []
    assert found.contract is not None
    assert [step.protocol for step in found.contract.steps] == [
        MATCH,
        "insight.columns-hidden@1",
        "train.fourier-lr-hidden@1",
        "score.rows-hidden@1",
    ]
    for party in (town.acme, town.feed):
        assert policy.problems(party.home, party.store, found.contract, NOW_S) == []
    people = found.contract.role("media").data.rows
    cost = [line for line in found.remarks if f"run over all {people:,} people of feed" in line]
    assert len(cost) == 1
    assert hidden_cost(found.contract) == cost
    shown = checked(town, CAMPAIGN)
    assert shown.contract is not None
    assert hidden_cost(shown.contract) == []


def test_expand_and_a_hold_out_column_are_refused_since_the_media_would_learn_who_matched(town: Town) -> None:
    mistakes = checked(town, HIDDEN).mistakes
    assert [one.key for one in mistakes] == ["steps.expand"]
    assert "its result shows the media who is in it" in str(mistakes[0])
    mistakes = checked(town, WITHOUT_EXPAND.replace("share = 30", 'column = "split"\nvalue = "test"')).mistakes
    assert [one.key for one in mistakes] == ["holdout.column"]
    assert "must not be told which of its people those are" in str(mistakes[0])


def test_a_party_refuses_a_contract_that_would_tell_the_media_who_matched(town: Town) -> None:
    contract = checked(town, WITHOUT_EXPAND).contract
    assert contract is not None
    by_column = replace(contract, holdout=Holdout("split", "test", 0))
    searching = replace(
        contract,
        steps=tuple(
            replace(step, settings={**step.settings, "lookalike_steps": 2}) if step.step == "train" else step
            for step in contract.steps
        ),
    )
    for asked, said in ((by_column, "holds rows out by a column"), (searching, "other people cannot be searched")):
        for party in (town.acme, town.feed):
            found = [problem.text for problem in policy.problems(party.home, party.store, asked, NOW_S)]
            assert any(said in text for text in found), found
    expand = Step("expand", "expand.rows@1", {"sizes": [5], "control_percent": 0})
    with pytest.raises(DisagreementError, match=r"expand.rows@1 does not run after match\.oprf-brand@1"):
        Contract.from_bytes(replace(contract, steps=(*contract.steps, expand)).to_bytes())


def test_no_standing_approval_covers_what_the_media_cannot_check(town: Town) -> None:
    town.feed.home.policy_toml.write_text(
        '[auto_approve]\npartners = ["acme"]\nsteps = ["match", "insight", "train", "score", "expand"]\n'
        'datasets = ["people"]\nper_day = 9\n'
    )
    covered = []
    for text in (CAMPAIGN, WITHOUT_EXPAND, WITHOUT_EXPAND[: WITHOUT_EXPAND.index("[steps.insight]")]):
        contract = checked(town, text).contract
        assert contract is not None
        town.feed.store.put_campaign(contract, "acme")
        found = town.feed.store.campaign(contract.hash)
        covered.append(policy.is_auto_approved(town.feed.home, town.feed.store, found, NOW_S))
    town.feed.home.policy_toml.unlink()
    assert covered == [True, False, True]


def test_what_the_media_cannot_check_is_said_where_people_sign(town: Town) -> None:
    contract = checked(town, WITHOUT_EXPAND).contract
    assert contract is not None
    for step in contract.steps[1:]:
        assert any("cannot check" in line and "least numbers" in line for line in CATALOG[step.protocol].assumes)


# Between real parties.


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real_parties.Town]:
    with real_parties.town(tmp_path_factory.mktemp("nodes")) as made:
        made.up()
        yield made


def with_strangers(tables: real_parties.Tables, folder: Path, strangers: int) -> real_parties.Tables:
    """The same two tables, but the first of the shop's people that paper knows are other people."""
    changed = set(tables.joined[:strangers, 0].tolist())
    numbers = fiction_phones(20_000)[-strangers:]
    with tables.shop.open() as file:
        rows: real_parties.Rows = list(csv.DictReader(file))
    for row in changed:
        rows[row] |= {"tel": numbers.pop() if rows[row]["tel"] else "", "contact": ""} | (
            {"contact": f"stranger.{row}@example.com"} if rows[row]["contact"] else {}
        )
    folder.mkdir()
    real_parties.write_csv(folder / "shop.csv", rows)
    return real_parties.Tables(folder / "shop.csv", tables.paper, tables.joined[strangers:])


def pooled_gain(nodes: real_parties.Town, name: str, tables: real_parties.Tables) -> float:
    """What scikit-learn gains by joining in clear text, with the campaign's own hold-out."""
    ours, theirs = (np.fromfile(nodes.results(party, name) / "match" / "order.i64", "<i8") for party in (SHOP, PAPER))
    held_out = drawn(nodes.campaign(SHOP, name).contract, len(theirs))
    train, tested = (ours >= 0) & ~held_out, (ours >= 0) & held_out
    shop, paper = table.read(tables.shop), table.read(tables.paper)
    own = features.apply(features.fit(shop, real_parties.FEATURES[SHOP], ours[train]), shop, np.maximum(ours, 0))
    other = features.apply(features.fit(paper, real_parties.FEATURES[PAPER], theirs[~held_out]), paper, theirs)
    y = (np.array(table.texts(shop, "bought"), dtype=object) == "yes").astype(np.int64)
    auc = []
    for x in (own, np.hstack([own, other])):
        model = LogisticRegression(C=1 / 5, max_iter=10_000, tol=1e-8).fit(x[train], y[ours[train]])
        auc.append(quality.auc(y[ours[tested]], model.decision_function(x[tested])))
    return auc[1] - auc[0]


# Two campaigns of four steps each between processes.
@pytest.mark.timeout(480)
def test_a_campaign_in_which_the_media_does_not_learn_who_matched(nodes: real_parties.Town, tmp_path: Path) -> None:
    steps = ("match", "insight", "train", "score")
    many = real_parties.write_tables(tmp_path / "tables", seed=4)
    few = with_strangers(many, tmp_path / "few", 500)
    assert len(few.joined) + 500 == len(many.joined)
    for name, tables in (("many", many), ("few", few)):
        nodes.register(tables)
        match = 'keys = ["phone", "email"]\nmode = "brand"'
        text = real_parties.campaign_text(name, steps, match=match, holdout="share = 30", guards="seeds = 50")
        nodes.stage.campaign(SHOP, "propose", str(nodes.file(text.replace("steps = 8", "steps = 6"))), "--yes")
        nodes.stage.party(PAPER, "approve", name, "--yes")
        nodes.until_over(name)
        assert nodes.facts(SHOP, name, "match")["size"] == len(tables.joined)
        scores = pq.read_table(nodes.results(SHOP, name) / "score" / "scores.parquet")
        assert sorted(scores["row"].to_pylist()) == sorted(tables.joined[:, 0].tolist())
        # The contract's number draws who is held out, and with so few of them the gain varies by 0.03. Six steps, all
        # that two campaigns may take, come as near to the optimum as 0.003 in the root mean square.
        assert nodes.facts(SHOP, name, "train")["gain"] == pytest.approx(pooled_gain(nodes, name, tables), abs=0.03)
        for party in (SHOP, PAPER):
            said = nodes.stage.party(party, "results", name, "--export", str(tmp_path / f"{party}-{name}"))
            # As a word: the digits alone may stand in the campaign's number or in the folder's name.
            assert (f"{len(tables.joined):,}" in said.split()) == (party == SHOP)
        assert not (nodes.results(PAPER, name) / "match" / "rows.i64").exists()
    for index, step in enumerate(steps):
        told = [untimed(nodes.facts(PAPER, name, step)) for name in ("many", "few")]
        for name, facts in zip(("many", "few"), told, strict=True):
            if step == "train":
                # Of 2,400 places, those that the contract's hash draws.
                held_out = int(drawn(nodes.campaign(PAPER, name).contract, 2400).sum())
                assert facts.pop("rows") == {"train": 2400 - held_out, "holdout": held_out}
        # With what was sent and received, to the byte.
        assert told[0] == told[1]
        ends = [
            next(run for run in nodes.runs(PAPER, name, index) if run.state == "committed") for name in ("many", "few")
        ]
        assert len({(run.sent, run.received, len(run.receipt)) for run in ends}) == 1
    contracts = [nodes.campaign(PAPER, name).contract for name in ("many", "few")]
    names = {"campaign", "nonce", "created_s", "expires_s", "parties"}
    made = [{key: value for key, value in asdict(each).items() if key not in names} for each in contracts]
    assert made[0] == made[1]
    assert nodes.leftovers() == []


def test_the_page_has_the_bytes_that_follow_from_the_sizes() -> None:
    page = (Path(__file__).parents[1] / "docs" / "protocols" / "hidden-alignment.md").read_text()
    for people_ in (10_000, 100_000, 1_000_000, 10_000_000):
        trained, scored = [], []
        for n in (people_, people_ // 10):
            held_out = traffic.of_scores(n * 3 // 10, 20)
            training = traffic.of_training(n * 7 // 10, 20, 20, 8)
            trained.append((training.up + held_out.up, training.down + held_out.down))
            scored.append(traffic.of_scores(n, 20).both)
        cells = [people_, *(round(b / 1e6) for b in (*trained[0], scored[0], sum(trained[1]), scored[1]))]
        assert "| " + " | ".join(f"{cell:,}" for cell in cells) + " |" in page
