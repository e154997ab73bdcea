"""Hidden alignment: the media runs every step over all of its people and learns neither who matched nor how many."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, chisquare
from sklearn.linear_model import LogisticRegression

from tests.both_roles import spoken
from tests.two_parties import CAMPAIGN, Town, make_town
from tidegate.party import campaign, policy, quality, steps
from tidegate.party.data import features, table
from tidegate.party.job import Job
from tidegate.protocols.blind import traffic
from tidegate.protocols.blind.products import Uploads
from tidegate.protocols.catalog import CATALOG, protocol_after
from tidegate.protocols.channel import Channel, DisagreementError, M, Message, TidegateError
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
    contract = contract_of(made, "train")
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


# The media's view is the same whoever matched, and however many.


ALL_STEPS = ("train",)
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
    told = [{step: facts["feed"] for step, facts in run.facts.items()} for run in (few, half, everybody)]
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
            assert asyncio.run(steps.play(job_of(again, index, "feed"), heard)) == run.facts[step.step]["feed"]
            assert heard.sent == run.sent[step.step]["feed"]
        assert again.files("feed") == run.files("feed")


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


# What it costs.


def test_bytes_follow_from_the_sizes_of_the_media_alone(runs: dict[int, Played]) -> None:
    run = runs[300]
    held_out = int(drawn(run.contract, ROWS).sum())
    sent = {party: sum(len(data) for _, data in run.sent["train"][party]) for party in ("acme", "feed")}
    training = traffic.of_training(ROWS - held_out, 3, 5, SHORT["steps"])
    scores = traffic.of_scores(held_out, 5)
    assert sent["acme"] == pytest.approx(training.up + scores.up, rel=1e-3)
    assert sent["feed"] == pytest.approx(training.down + scores.down, rel=1e-3)


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
    cost = [line for line in found.remarks if f"the steps run over all {people:,} people of feed" in line]
    assert len(cost) == 1
    assert campaign.hidden_cost(found.contract) == cost
    shown = checked(town, CAMPAIGN)
    assert shown.contract is not None
    assert campaign.hidden_cost(shown.contract) == []


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


def test_what_the_media_cannot_check_is_said_where_people_sign(town: Town) -> None:
    contract = checked(town, WITHOUT_EXPAND).contract
    assert contract is not None
    for step in contract.steps[1:]:
        assert any("cannot check" in line and "least numbers" in line for line in CATALOG[step.protocol].assumes)
