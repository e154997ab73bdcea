"""Segments with several media at once: all roles over lines in memory, contracts and their ledger, three real nodes."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.cluster import KMeans

from tests import test_several_training
from tests.test_segments_campaign import keep_segments
from tests.test_several_media import NAMES, PLACES, Three
from tests.test_several_media import town as town
from tests.three_roles import SEGMENT
from tests.two_parties import Town
from tidegate.coordinator import roles
from tidegate.party import campaign, policy, steps
from tidegate.party.data import table
from tidegate.party.demo.loopback import loopback
from tidegate.party.job import Job
from tidegate.party.retrace import retrace
from tidegate.party.segments import budget, columns
from tidegate.party.store import Store
from tidegate.protocols.channel import CarrierError, DisagreementError, PeerError, PolicyError
from tidegate.protocols.clustering.kmeans import adjusted_rand
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import MemoryChannel, memory_line
from tidegate.wire import pairs
from tidegate.wire.contract import Contract, ContractParty, DataSet, Guards, Holdout, Key, Label, Privacy, Range, Step

KMEANS, ASSIGN = "segment.kmeans-several@1", "assign.kmeans-several@1"
BRAND, MEDIA = "shop", ("alpha", "beta", "gamma")
PEOPLE, KINDS = 1500, 4
SETTINGS = {**SEGMENT, "k": KINDS, "most_k": KINDS}
HELPER = "f" * 64


@dataclass
class Stage:
    """A brand and its media with a table each, and who of the brand's rows each media has matched.

    row_of: by party its row of each person, -1 where it does not know them. told: what went over each line, from whom
    to whom. charged: by party.
    """

    folder: Path
    media: tuple[str, ...]
    kind: np.ndarray
    row_of: dict[str, np.ndarray]
    rows: dict[str, pa.Table] = field(default_factory=dict)
    told: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    charged: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    @property
    def parties(self) -> tuple[str, ...]:
        return (BRAND, *self.media)

    @property
    def common(self) -> np.ndarray:
        """The people whom all know."""
        return np.flatnonzero(np.all([rows >= 0 for rows in self.row_of.values()], axis=0))

    def contract(self, *joint: Step, **more: Any) -> Contract:
        given: dict[str, Any] = {
            "version": 4, "software": "1", "campaign": "c", "nonce": "0" * 32, "created_s": 0, "expires_s": 1,
            "parties": tuple(
                ContractParty(
                    name, "media" if at else "brand", f"{at:064x}", DataSet(name, self.rows[name].num_rows, "0" * 64)
                )
                for at, name in enumerate(self.parties)
            ),
            "keys": (Key("text"),), "label": Label("", ""), "holdout": Holdout("", "", 0),
            "features": {name: tuple(self.rows[name].column_names[1:]) for name in self.parties},
            "steps": (*(Step("match", "match.oprf@1", {}, name) for name in self.media), *joint),
            "guards": policy.DEFAULT_GUARDS, "learns": {}, "helper": HELPER,
        }  # fmt: skip
        return Contract(**{**given, **more})

    def results(self, party: str, made: Contract, name: str) -> Path:
        return self.folder / party / made.short / name

    def job(self, party: str, made: Contract) -> Job:
        step = made.steps[-1]
        staging = self.results(party, made, step.name)
        staging.mkdir(parents=True, exist_ok=True)
        met = self.media if party == BRAND else (party,)
        for name in met:
            both = np.flatnonzero((self.row_of[BRAND] >= 0) & (self.row_of[name] >= 0))
            order = np.random.default_rng(len(name)).permutation(both)
            folder = self.results(party, made, f"match-{name}")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "rows.i64").write_bytes(self.row_of[party][order].astype("<i8").tobytes())
        return Job(
            contract=made, step=step, party=party, path=self.folder / f"{party}.parquet", keys={"text": "id"}, given={},
            region=None, duplicates="refuse", staging=staging, randomness=Randomness(party.encode().ljust(32, b".")),
            earlier={f"match-{name}": self.results(party, made, f"match-{name}") for name in met},
            count_noise=lambda n: np.zeros(n, np.int64), campaigns=self.folder / party,
            charge=lambda kind, amount, _limit: self.charged.setdefault(party, []).append((kind, amount)),
        )  # fmt: skip

    def play(self, made: Contract, **other: Contract) -> dict[str, dict[str, Any]]:
        """Each party's facts of the last step, or the first error of one's own. other: who holds another contract."""
        return asyncio.run(self._play(made, other))

    async def _play(self, made: Contract, other: dict[str, Contract]) -> dict[str, dict[str, Any]]:
        on_line = made.on_line(made.steps[-1])
        lines: dict[str, dict[str, MemoryChannel]] = {name: {} for name in on_line}
        for one, two in pairs.pairs(on_line):
            lines[one][two], lines[two][one] = memory_line()

        async def party(name: str) -> Any:
            if name == pairs.COORDINATOR:
                return await roles.play(made.steps[-1].step, lines[name], Randomness(bytes(32)))
            job: Job = replace(self.job(name, other.get(name, made)), channels=lines[name])
            return await steps.play(job, lines[name][job.peer])

        async def closed(name: str) -> Any:
            try:
                return await party(name)
            except Exception as error:
                return error
            finally:
                for to, channel in lines[name].items():
                    self.told[name, to] = [kind for kind, _ in channel.sent]
                    await channel.close()

        found = dict(zip(on_line, await asyncio.wait_for(asyncio.gather(*map(closed, on_line)), 240), strict=True))
        errors = [one for one in found.values() if isinstance(one, Exception)]
        # The other roles then only find their lines closed.
        for error in sorted(errors, key=lambda one: isinstance(one, CarrierError)):
            raise error
        return {name: found[name] for name in self.parties}

    def segment_of(self, made: Contract) -> np.ndarray:
        """The segment of each person, 0 for none."""
        found = pq.read_table(self.results(BRAND, made, made.steps[-1].name) / "segments.parquet")
        numbers = np.zeros(self.rows[BRAND].num_rows + 1, np.int64)
        numbers[found["row"].to_numpy()] = found["segment"].to_numpy()
        of_people: np.ndarray = numbers[self.row_of[BRAND]]
        return of_people

    def pooled(self, made: Contract) -> np.ndarray:
        """The columns that all enter, side by side, of the people whom all know."""
        parts = []
        for name in self.parties:
            kept = json.loads((self.results(name, made, "segment") / "model.json").read_text())["segments"]
            recipe = columns.Recipe.from_json(kept["recipe"])
            parts.append(columns.apply(recipe, self.rows[name], self.row_of[name][self.common]))
        return np.hstack(parts)


def stage(folder: Path, media: int = 2, *, people: int = PEOPLE, share: float = 0.9, seed: int = 0) -> Stage:
    """People of four kinds; of all but the first each kind is seen in the column of one party alone."""
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.arange(people) % KINDS)
    made = Stage(folder, MEDIA[:media], kind, {})
    for at, name in enumerate(made.parties):
        known = rng.permutation(np.flatnonzero(rng.random(people) < share))
        made.row_of[name] = np.full(people + 1, -1, np.int64)
        made.row_of[name][known] = np.arange(len(known))
        # The last place is nobody's, and what a row of nobody points at.
        seen = np.where(kind == 1 + at % (KINDS - 1), 30.0, 10.0) + rng.normal(size=people)
        own = {"id": [f"p{i}" for i in known], f"seen_by_{name}": seen[known]}
        pq.write_table(pa.table(own), folder / f"{name}.parquet")
        made.rows[name] = table.read(folder / f"{name}.parquet")
    for rows in made.row_of.values():
        rows.resize(people, refcheck=False)
    return made


def segment(**settings: int) -> Step:
    return Step("segment", KMEANS, {**SETTINGS, **settings})


# The roles


@pytest.mark.parametrize("media", [2, 3])
def test_segments_are_those_of_clear_text_k_means_on_the_pooled_columns_of_the_people_all_know(
    tmp_path: Path, media: int
) -> None:
    there = stage(tmp_path, media)
    found = there.play(made := there.contract(segment()))
    assert 1000 < len(there.common) < PEOPLE - 200
    numbers = there.segment_of(made)
    assert np.array_equal(np.flatnonzero(numbers), there.common)
    x = there.pooled(made)
    assert x.shape == (len(there.common), 1 + media)
    assert x.var(axis=0) == pytest.approx(np.ones(1 + media), rel=0.01)
    clear = KMeans(KINDS, n_init=10, random_state=0).fit(x)
    assert adjusted_rand(numbers[there.common], clear.labels_) == 1
    assert adjusted_rand(numbers[there.common], there.kind[there.common]) > 0.98
    for name in there.parties:
        facts = found[name]
        assert min(start["inertia"] for start in facts["starts"]) == pytest.approx(clear.inertia_, rel=1e-4)
        assert facts["explained"] == pytest.approx(1 - clear.inertia_ / x.size, abs=2e-4)
        assert facts["rows"] == len(there.common)
        assert [each["size"] for each in facts["segments"]] == np.bincount(numbers)[1:].tolist()


def test_the_brand_has_cards_of_all_columns_and_each_media_of_its_own(tmp_path: Path) -> None:
    there = stage(tmp_path, 3)
    found = there.play(made := there.contract(segment()))
    sides = [(trait["party"], trait["name"]) for trait in found[BRAND]["traits"]]
    assert sides == [(name, f"seen_by_{name}") for name in there.parties]
    numbers = there.segment_of(made)
    for name, trait in zip(there.parties, found[BRAND]["traits"], strict=True):
        values = there.rows[name][f"seen_by_{name}"].to_numpy()[there.row_of[name]]
        means = [np.mean(values[numbers == number]) for number in range(1, KINDS + 1)]
        assert [row[0] for row in trait["segments"]] == pytest.approx(means, rel=0.02)
    names = " ".join(each["name"] for each in found[BRAND]["segments"])
    assert all(f"seen by {name}" in names for name in there.parties), names
    for name in there.media:
        assert [trait["party"] for trait in found[name]["traits"]] == [name]
        folder = there.results(name, made, "segment")
        assert sorted(path.name for path in folder.iterdir()) == ["cards.json", "model.json"]


def test_medias_say_to_each_other_how_many_rows_and_what_the_first_has_drawn_and_nothing_more(tmp_path: Path) -> None:
    there = stage(tmp_path, 3)
    there.play(there.contract(segment()))
    among = {line: kinds for line, kinds in there.told.items() if set(line) <= set(MEDIA)}
    assert among == {
        ("alpha", "beta"): ["Draw"], ("alpha", "gamma"): ["Draw"],
        ("beta", "alpha"): ["Common"], ("gamma", "alpha"): ["Common"],
    }  # fmt: skip
    for name in there.media:
        assert set(there.told[name, BRAND]) - {"Draw"} == {"Ready", "Labels", "Cards", "Card"}
        assert set(there.told[BRAND, name]) == {"Places", "Terms", "Labels"}
        assert set(there.told[name, pairs.COORDINATOR]) == {"Ask", "Masked", "Part"}


def test_the_brand_weighs_as_its_setting_says_against_each_of_the_media(tmp_path: Path) -> None:
    there = stage(tmp_path)
    there.play(made := there.contract(segment(k=2, most_k=2, brand_weight=100_000, media_weight=1)))
    assert adjusted_rand(there.segment_of(made)[there.common], there.kind[there.common] == 1) > 0.98
    assert there.pooled(made).var(axis=0) == pytest.approx([100, 0.001, 0.001], rel=0.01)


def test_k_is_found_where_it_is_left_open(tmp_path: Path) -> None:
    there = stage(tmp_path)
    found = there.play(there.contract(segment(k=0, most_k=5, starts=3)))
    assert {(facts["k"], facts["rule"]) for facts in found.values()} == {(KINDS, "strength")}
    assert found[BRAND]["curve"] == found["alpha"]["curve"] == found["beta"]["curve"]


def test_people_are_assigned_to_the_segments_of_an_earlier_campaign(tmp_path: Path) -> None:
    there = stage(tmp_path)
    made = there.contract(segment())
    there.play(made)
    before = there.segment_of(made)
    gone = there.common[:200]
    there.row_of["beta"][gone] = -1
    again = there.contract(Step("assign", ASSIGN, {}), model=made.short)
    found = there.play(again)
    now = there.segment_of(again)
    assert np.array_equal(np.flatnonzero(now), there.common)
    assert np.array_equal(now[there.common], before[there.common])
    assert {facts["model"] for facts in found.values()} == {made.short}
    assert not (there.results("beta", again, "assign") / "segments.parquet").exists()


def test_every_party_is_charged(tmp_path: Path) -> None:
    there = stage(tmp_path)
    there.play(there.contract(segment()))
    assert there.charged == {name: [(budget.KIND, 3 * 20 + KINDS)] for name in there.parties}


def test_fewer_in_common_than_two_segments_need_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    there = stage(tmp_path, people=500, share=0.7)
    assert len(there.common) < 200
    with pytest.raises(PolicyError, match="fewer than 200 people are known to the brand and to all media"):
        there.play(there.contract(segment()))
    assert not any(there.told.values())


def test_a_media_keeps_the_floor_where_the_brand_does_not(tmp_path: Path) -> None:
    there = stage(tmp_path, people=500, share=0.7)
    assert 100 < len(there.common) < 200
    made = there.contract(segment())
    looser = replace(made, guards=Guards(50, 50, 12, 10, 20))
    with pytest.raises(PolicyError, match="fewer than 200 people"):
        there.play(made, shop=looser)
    for name in there.media:
        assert there.told[name, pairs.COORDINATOR] == []
        assert "Ready" not in there.told[name, BRAND]


def test_a_media_that_means_other_settings_ends_the_step_by_name(tmp_path: Path) -> None:
    there = stage(tmp_path)
    made = there.contract(segment())
    with pytest.raises(DisagreementError, match="beta means 3 clusters, we 4"):
        there.play(made, beta=there.contract(segment(k=3)))


def test_a_card_of_a_column_that_the_contract_does_not_grant_is_refused(tmp_path: Path) -> None:
    there = stage(tmp_path)
    made = there.contract(segment())
    narrower = replace(made, features={**made.features, "beta": ("seen_by_alpha",)})
    with pytest.raises(PeerError, match="not of the columns that the contract grants"):
        there.play(made, shop=narrower)


# Contracts


def test_a_contract_with_segments_of_all_media_reads_as_it_was_written(tmp_path: Path) -> None:
    there = stage(tmp_path)
    made = there.contract(segment(), ranges=(Range("beta", "seen_by_beta", 0.0, 50.0),))
    assert Contract.from_bytes(made.to_bytes()) == made
    assert made.on_line(made.steps[-1]) == (BRAND, "alpha", "beta", pairs.COORDINATOR)
    again = there.contract(Step("assign", ASSIGN, {}), model=made.short)
    assert Contract.from_bytes(again.to_bytes()) == again


@pytest.mark.parametrize(
    ("step", "more", "text"),
    [
        (Step("segment", "segment.kmeans@1", SETTINGS), {}, "not for a contract with 2 media"),
        (Step("segment", KMEANS, SETTINGS, "alpha"), {}, "expected segment to name its media if and only if"),
        (segment(), {"helper": ""}, "expected the coordinator's key if and only if"),
        (Step("assign", ASSIGN, {}), {}, r"comes before \['segment'\]"),
    ],
)
def test_what_does_not_fit_several_media_is_refused(
    tmp_path: Path, step: Step, more: dict[str, Any], text: str
) -> None:
    made = stage(tmp_path).contract(step, **more)
    with pytest.raises(DisagreementError, match=text):
        Contract.from_bytes(made.to_bytes())


def test_one_media_alone_takes_no_step_of_several(tmp_path: Path) -> None:
    made = stage(tmp_path, 1).contract()
    made = replace(made, steps=(replace(made.steps[0], media=""), segment()))
    with pytest.raises(DisagreementError, match="not for a contract with 1 media"):
        Contract.from_bytes(made.to_bytes())


# Campaign files, policy, ledger

FILE = """\
[campaign]
name = "groups"

[parties]
brand = "acme"
media = ["feed", "rest"]

[data]
brand = "customers"
media = {feed = "people", rest = "people"}

[match]
keys = ["email"]
"""
COLUMNS = '\n[features]\nbrand = ["age", "plan"]\nmedia = ["visits", "clicks", "device"]\n'
ASKED = FILE + COLUMNS + "\n[ranges.rest]\nvisits = [0, 80]\n\n[steps.match]\n[steps.segment]\nk = 3\n"


def checked(town: Town, text: str = ASKED) -> Contract:
    found = campaign.check(town.campaign_file(text), town.acme.home, town.acme.store, time.time())
    assert found.contract is not None, found.mistakes
    return found.contract


def problems(town: Town, made: Contract, party: str = "feed") -> list[str]:
    side = getattr(town, party)
    return [each.text for each in policy.problems(side.home, side.store, made, time.time())]


def test_a_file_with_several_media_segments_with_all_of_them(town: Town) -> None:
    made = checked(town)
    assert [step.name for step in made.steps] == ["match-feed", "match-rest", "segment"]
    assert made.steps[-1].protocol == KMEANS
    assert made.ranges == (Range("rest", "visits", 0.0, 80.0),)
    assert problems(town, made, "acme") == []
    assert problems(town, made) == []
    for media in ("feed", "rest"):
        assert "which of its matched people all the other media matched too" in made.learns[media]
    assert any("of no party alone" in line for line in made.learns["acme"])


def test_the_segments_of_all_media_are_used_again_by_a_campaign_with_all_of_them(town: Town) -> None:
    made = checked(town)
    keep_segments(town.acme, made)
    keep_segments(town.feed, made)
    text = FILE + f'\n[model]\ncampaign = "{made.short}"\n\n[steps.match]\n[steps.assign]\n'
    uses = checked(town, text)
    assert uses.steps[-1].protocol == ASSIGN
    assert problems(town, uses) == []
    alone = text.replace('["feed", "rest"]', '"feed"').replace('{feed = "people", rest = "people"}', '"people"')
    found = campaign.check(town.campaign_file(alone), town.acme.home, town.acme.store, time.time())
    assert "model.campaign" in [mistake.key for mistake in found.mistakes]


def test_what_there_is_not_with_several_media_is_refused(town: Town) -> None:
    made = checked(town)
    assert any("differential privacy" in text for text in problems(town, replace(made, privacy=Privacy(2000))))
    assert any("model of another campaign" in text for text in problems(town, replace(made, model="0123456789ab")))


@pytest.mark.parametrize("partner", ["acme", "rest"])
def test_passes_count_towards_every_party_that_learns_the_groups(town: Town, partner: str) -> None:
    made = checked(town)
    party = town.feed
    assert budget.partners(made, "feed", made.steps[-1]) == ["acme", "rest"]
    assert budget.partners(made, "acme", made.steps[-1]) == ["feed", "rest"]
    assert budget.partners(made, "rest", made.steps[1]) == ["acme"]
    before = checked(town)
    party.store.put_campaign(before, "acme")
    party.store.start_run(before.hash, 2, b"f" * 16, 1)
    digest = party.store.dataset("people").digest
    party.store.charge(digest, partner, budget.KIND, budget.MOST - 10, budget.MOST, before.hash, b"f" * 16)
    assert any(f"towards {partner} has 10 of 2000 segment passes left" in text for text in problems(town, made))


# Real nodes


@pytest.mark.timeout(1200)
def test_three_nodes_and_the_coordinator_segment_and_assign(tmp_path: Path) -> None:
    people = test_several_training.write_people(tmp_path, seed=2)
    text = FILE.replace('"groups"', '"groups"\naudit = true').replace("acme", "shop").replace("customers", "people")
    for media, name in (("feed", "alpha"), ("rest", "beta")):
        text = text.replace(f'"{media}"', f'"{name}"').replace(f"{media} =", f"{name} =")
    features = '[features]\nbrand = ["age", "plan"]\nmedia = "all"\n'
    file = tmp_path / "groups.toml"
    file.write_text(f"{text}\n{features}\n[steps.match]\n[steps.segment]\nk = 3\nstarts = 2\n[steps.assign]\n")
    data = {PLACES[name]: each for name, each in test_several_training.data_sets(people).items()}
    with loopback(tmp_path / "stage", data, NAMES) as made:
        nodes = Three(made, {name: Store(made.home(name).store_db) for name in NAMES}, tmp_path / "heard")
        nodes.up()
        made.campaign("shop", "propose", str(file), "--yes")
        nodes.approve("groups")
        nodes.until_over("groups")
        check_results(nodes, people)
        again = retrace(made.home("shop"), nodes.stores["shop"], nodes.campaign("shop", "groups"))
        assert [step.step for step in again] == ["match-alpha", "match-beta", "segment", "assign"]
        for store in nodes.stores.values():
            store.close()


def check_results(nodes: Three, people: test_several_training.People) -> None:
    """Everybody whom all know is in a segment, the same again when assigned, and each has spent towards each other.

    Who is exactly between two segments goes by their order, which their sizes change; starts are the system's.
    """
    found = [nodes.results("shop", "groups") / step / "segments.parquet" for step in ("segment", "assign")]
    segmented, assigned = (pq.read_table(path).select(["row", "segment"]).to_pydict() for path in found)
    assert segmented["row"] == sorted(people.common[:, 0].tolist())
    assert segmented["row"] == assigned["row"]
    assert sum(one != other for one, other in zip(segmented["segment"], assigned["segment"], strict=True)) <= 2
    facts = {name: nodes.facts(name, "groups", "segment") for name in NAMES}
    assert {each["rows"] for each in facts.values()} == {len(people.common)}
    assert {trait["party"] for trait in facts["shop"]["traits"]} == set(NAMES)
    for name, store in nodes.stores.items():
        for other in set(NAMES) - {name}:
            assert store.spent(store.dataset("people").digest, other, budget.KIND) == 2 * 20 + 3 + 10
