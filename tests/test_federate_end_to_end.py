"""Shops that train together through real processes: what comes out, and what a dead, frozen or lying one does to it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from tests.canaries import Needles
from tests.shops import Shops, Table, shops, write_tables
from tidegate.protocols.horizontal.flower_grid import Reply, decode


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shops]:
    with shops(tmp_path_factory.mktemp("shops"), 3) as made:
        yield made


def models(there: Shops, name: str) -> list[str]:
    return [(there.results(shop, name) / "model.json").read_text() for shop in there.names]


def check_done(there: Shops, name: str, attempts: int = 1) -> None:
    """All have committed the same run and keep the same model, and nothing is left of others."""
    there.until_over(name)
    committed = {run.run for shop in there.names for run in there.runs(shop, name) if run.state == "committed"}
    assert len(committed) == 1
    assert {len(there.runs(shop, name)) for shop in there.names} == {attempts}
    assert len(set(models(there, name))) == 1
    assert not there.leftovers()


def test_three_shops_train_one_model_and_then_find_groups(there: Shops, tmp_path: Path) -> None:
    tables = write_tables(tmp_path, 3, seed=2)
    there.up()
    there.propose("buyers", "logistic", tables, rounds=15)
    check_done(there, "buyers")
    facts = there.facts("shop-b", "buyers")
    assert facts["converged"]
    scores = pq.read_table(there.results("shop-b", "buyers") / "scores.parquet")
    bought, scored = tables["shop-b"].y[scores["row"].to_numpy()], scores["probability"].to_numpy()
    held_out = scores["held_out"].to_numpy()
    # The contract's hash draws who is held out: of so few rows the AUC is 0.03 up or down by that alone.
    assert roc_auc_score(bought, scored) > 0.65
    assert facts["own"]["auc"] == pytest.approx(roc_auc_score(bought[held_out], scored[held_out]), abs=1e-6)
    there.propose("groups", "kmeans", tables, k=3)
    check_done(there, "groups")
    sizes = [each["size"] for each in there.facts("shop-c", "groups")["segments"]]
    assert sum(sizes) == pytest.approx(3 * 1600, rel=0.01)


def test_five_shops_can_take_the_middle_of_their_updates_or_add_noise(tmp_path: Path) -> None:
    with shops(tmp_path, 5) as there:
        there.up()
        tables = write_tables(tmp_path / "tables", 5, seed=3, alike=True)
        there.propose("middle", "logistic", tables, rounds=6, robust="median", secure=False)
        check_done(there, "middle")
        assert there.facts("shop-e", "middle")["robust"] == 1
        privacy = 'epsilon = 4\nunit = "row"'
        there.propose("noised", "logistic", tables, rounds=4, privacy=privacy)
        check_done(there, "noised")
        told = there.facts("shop-e", "noised")["privacy"]
        assert told["epsilon"] == 4
        assert told["spent"] == pytest.approx(4, rel=0.05)


# A worker that ends or stops in the middle of a round, once.
STOPS = """\
import os, signal
from pathlib import Path
from tidegate.protocols.horizontal import {module}
whole, asked = {module}.{place}, []
def third_time(*arguments, **more):
    asked.append(1)
    if len(asked) == 3 and not Path({flag!r}).exists():
        Path({flag!r}).touch()
        os.kill(os.getpid(), signal.{how})
    return whole(*arguments, **more)
{module}.{place} = third_time
"""
CLIENT = {"module": "logistic", "place": "Holder.answer"}
COORDINATOR = {"module": "flower_grid", "place": "ChannelGrid.send_and_receive"}


@pytest.mark.parametrize("victim", ["shop-b", "coordinator"])
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_a_worker_that_dies_or_freezes_in_a_round_ends_the_run_and_the_step_starts_again(
    there: Shops, tmp_path: Path, victim: str, how: str
) -> None:
    name = f"{how.lower()}-{victim}"
    there.up()
    place = COORDINATOR if victim == "coordinator" else CLIENT
    there.up_with_worker(victim, STOPS.format(flag=str(tmp_path / "stopped"), how=how, **place))
    there.propose(name, "logistic", write_tables(tmp_path, 3, seed=4), rounds=8)
    check_done(there, name, attempts=2)
    assert (tmp_path / "stopped").exists()
    for shop in there.names:
        first = there.runs(shop, name)[0]
        assert (first.state, first.error) == ("failed", "carrier")
    if victim != "coordinator":
        for shop in ("shop-a", "shop-c"):
            assert any(victim in text and "ended early" in text for text in there.events(shop, name))
    there.kill(victim)
    there.up()


# What a client can send in its third answer, and how the run is refused: with its name where the answer shows it.
WRONG = """\
import numpy as np
from tidegate.protocols.horizontal import flower_grid, secure_sum
mask, answers = secure_sum.Member.mask, []
def wrong(self, number, model, values):
    words, vouch = mask(self, number, model, values)
    answers.append(words)
    if len(answers) == 3:
        {wrong}
    return words, vouch
secure_sum.Member.mask = wrong
"""
LIES = {
    "nan": ("words = np.full(len(words), np.nan)", "shop-b: an array holds numbers that are not finite"),
    "shape": ("words = words[:-1]", "shop-b sent uint64"),
    "floats": ("words = words.astype(np.float64)", "shop-b sent float64"),
    "huge": ("words = words + np.uint64(2**61) * (np.arange(len(words)) == 0)", "out of range"),
    "replayed": ("words = answers[0] if len(answers[0]) == len(words) else answers[1]", "the masks of this round"),
}


@pytest.mark.parametrize("lie", ["nan", "shape", "floats", "huge", "replayed"])
def test_a_wrong_answer_ends_the_run_for_all_with_a_reason_and_leaves_no_model(
    there: Shops, tmp_path: Path, lie: str
) -> None:
    wrong, told = LIES[lie]
    there.up()
    there.up_with_worker("shop-b", WRONG.format(wrong=wrong))
    there.propose(lie, "logistic", write_tables(tmp_path, 3, seed=5), rounds=8)
    there.until_over(lie, "failed")
    for shop in ("shop-a", "shop-c"):
        assert any(told in text for text in there.events(shop, lie)), there.events(shop, lie)
        assert [(run.state, run.error) for run in there.runs(shop, lie)] == [("failed", "peer")]
        assert not there.results(shop, lie).exists()
    assert not there.leftovers()
    there.kill("shop-b")
    there.up()


def test_a_client_whose_own_rules_refuse_ends_the_run_with_its_reason_and_sends_nothing(
    there: Shops, tmp_path: Path
) -> None:
    """A pooled model that ranks its own hold-out far worse than its own rows alone would is not accepted."""
    tables = write_tables(tmp_path, 3, seed=6)
    rows = [line.rpartition(",") for line in tables["shop-b"].path.read_text().splitlines()[1:]]
    turned = [f"{values},{'no' if label == 'yes' else 'yes'}" for values, _, label in rows]
    tables["shop-b"].path.write_text("\n".join(["age,visits,spend,loyal,bought", *turned]))
    there.up()
    there.propose("unlike", "logistic", tables, rounds=8)
    there.until_over("unlike", "failed")
    assert any("hold-out clearly worse" in text for text in there.events("shop-b", "unlike"))
    assert not any(there.results(shop, "unlike").exists() for shop in there.names)


# What the coordinator sees

LISTENS = """\
from tidegate.wire import session
whole = session.Session.recv
async def heard(self, kind):
    message = await whole(self, kind)
    data = message.to_bytes()
    with open({file!r}, "ab") as file:
        file.write(len(kind.__name__).to_bytes(1, "big") + kind.__name__.encode() + len(data).to_bytes(8, "big") + data)
    return message
session.Session.recv = heard
"""


def heard(file: Path) -> list[tuple[str, bytes]]:
    """The messages, kind and bytes, that the coordinator's own worker was sent."""
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        kind = data[at + 1 : at + 1 + data[at]].decode()
        at += 1 + data[at]
        size = int.from_bytes(data[at : at + 8], "big")
        found.append((kind, data[at + 8 : at + 8 + size]))
        at += 8 + size
    return found


def canaries(tables: dict[str, Table]) -> Needles:
    needles = Needles()
    for table in tables.values():
        x = table.x[:, :3]
        needles.add_numbers(x[((x > [18, 1, 10]) & (x < [90, 30, 500])).all(axis=1)][:60])
    return needles


def test_the_coordinator_sees_masked_sums_of_a_size_that_hangs_on_the_contract_alone(
    there: Shops, tmp_path: Path
) -> None:
    there.up()
    seen: list[list[tuple[str, int]]] = []
    for seed in (7, 8):
        tables = write_tables(tmp_path / str(seed), 3, seed=seed)
        name, file, relayed = f"seen-{seed}", tmp_path / f"heard-{seed}", tmp_path / f"relayed-{seed}"
        there.up_recording(relayed, LISTENS.format(file=str(file)))
        there.propose(name, "logistic", tables, rounds=3)
        check_done(there, name)
        messages = heard(file)
        seen.append(sorted((kind, len(data)) for kind, data in messages))
        assert {kind for kind, _ in messages} == {"Reply"}
        words = []
        for _, data in messages:
            content = decode(Reply.from_bytes(data).content)
            assert {*content} <= {"terms", "answer", "signed"}
            words += [record["values"].numpy() for record in content.array_records.values()]
        assert len(words) == 3 * (1 + 3 + 1), "moments, three rounds, the hold-out of the last model"
        assert all(each.dtype == np.uint64 for each in words)
        bits = np.unpackbits(np.concatenate(words).view(np.uint8))
        assert abs(bits.mean() - 0.5) < 6 / np.sqrt(len(bits)) / 2
        found = canaries(tables).in_files(
            file, relayed, there.stage.folder / "coordinator", there.stage.folder / "coordinator.log"
        )
        assert not found
        assert canaries(tables).in_files(tables["shop-a"].path), "the canaries are looked for"
        told = json.loads((there.results("shop-a", name) / "facts.json").read_text())
        assert told["rounds"] == 4
    assert seen[0] == seen[1]
    there.kill("coordinator", signal.SIGTERM)
    there.up()
