"""The client's role in a federated step: what it enters and keeps, and what the coordinator can know of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.linear_model import LogisticRegression

from tests.canaries import Needles
from tests.clients import Clients, honest
from tests.shops import COLUMNS, RANGES, write_tables
from tidegate.party.horizontal import rows
from tidegate.protocols.channel import Channel, ConfigError, DisagreementError, M, Message, PeerError, PolicyError
from tidegate.protocols.horizontal.flower_grid import Instruction, Reply, decode
from tidegate.wire.contract import Holdout, Label, Range

LOGISTIC, KMEANS = "federate.logistic@1", "federate.kmeans@1"


@pytest.fixture
def there(tmp_path: Path) -> Clients:
    tables = write_tables(tmp_path, 3)
    # Keys are in the contract, by whose hash rows are held out.
    keys = {name: Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32)) for name in (*tables, "coordinator")}
    return Clients(tmp_path / "run", tables, keys)


# What comes out


def test_every_client_keeps_the_model_that_scikit_learn_fits_on_the_pooled_rows(there: Clients) -> None:
    contract = there.contract(LOGISTIC, {"rounds": 30})
    ended = there.play(contract)
    assert ended["coordinator"] is None
    x, y = [], []
    for name, table in there.tables.items():
        own = rows.of(there.job(name, contract))
        assert (own.x == table.x).all()
        x.append(own.x[~own.held_out])
        y.append(own.y[~own.held_out])
    pooled_x, pooled_y = np.vstack(x), np.concatenate(y)
    mean, scale = pooled_x.mean(axis=0), pooled_x.std(axis=0)
    clear = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit((pooled_x - mean) / scale, pooled_y)
    weights = clear.coef_[0] / scale
    for name in there.tables:
        model = there.model(name)
        assert model["weights"] == pytest.approx(weights, rel=1e-3)
        assert model["intercept"] == pytest.approx(clear.intercept_[0] - weights @ mean, rel=1e-3)
        facts = ended[name]
        assert facts["converged"]
        assert len(facts["curves"]["loss"]) == len(facts["curves"]["auc"]) == facts["rounds"]
        assert facts["own"]["auc"] > facts["own"]["auc_alone"] - 0.02
        kept = pq.read_table(there.folder / f"{name}-staging" / "scores.parquet")
        assert sorted(kept["row"].to_pylist()) == list(range(1600))
        assert sum(kept["held_out"].to_pylist()) == facts["rows"]["holdout"]
        z = model["intercept"] + there.tables[name].x[kept["row"].to_numpy()] @ np.array(model["weights"])
        assert kept["probability"].to_numpy() == pytest.approx(1 / (1 + np.exp(-z)), abs=1e-9)


def test_every_client_keeps_the_same_centres_and_the_segment_of_each_of_its_rows(there: Clients) -> None:
    ended = there.play(there.contract(KMEANS))
    models = [there.model(name) for name in there.tables]
    assert models[0] == models[1] == models[2]
    centres, scale = np.array(models[0]["centres"]), np.array(models[0]["scale"])
    for name, table in there.tables.items():
        distance = (((table.x[:, None] - centres) / scale) ** 2).sum(axis=2)
        kept = pq.read_table(there.folder / f"{name}-staging" / "segments.parquet")
        assert kept["row"].to_pylist() == list(range(1600))
        assert (kept["segment"].to_numpy() == distance.argmin(axis=1) + 1).all()
        told = ended[name]["segments"]
        assert [each["own"] for each in told] == np.bincount(kept["segment"].to_numpy())[1:].tolist()
        assert sorted((each["size"] for each in told), reverse=True) == [each["size"] for each in told]
        assert sum(each["size"] for each in told) == pytest.approx(3 * 1600, rel=0.01)


# What a client enters


def table_of(there: Clients, name: str, text: str) -> None:
    there.tables[name].path.write_text(text)


def test_a_missing_value_is_the_middle_of_its_range_and_others_are_cut_to_it(there: Clients) -> None:
    lines = ["age,visits,spend,loyal,bought", *(f"{30 + row % 9},3,100,{row % 2},yes" for row in range(1400))]
    lines += [f",3,-5,{row % 2},no" for row in range(100)] + ["30,3,100,1,"] * 50
    table_of(there, "shop-a", "\n".join(lines))
    own = rows.of(there.job("shop-a", there.contract(LOGISTIC)))
    assert own.missing == 100
    assert own.outside == 100
    assert len(own.x) == 1500, "rows without a label do not count"
    assert (own.x[1400:, 0] == 54.0).all()
    assert own.y.sum() == 1400


def test_true_and_false_are_1_and_0(there: Clients) -> None:
    lines = ["age,visits,spend,loyal,bought"]
    lines += [f"40,{row % 9},100,{'true' if row % 2 else 'false'},{'yes' if row % 3 else 'no'}" for row in range(2000)]
    table_of(there, "shop-a", "\n".join(lines))
    assert rows.of(there.job("shop-a", there.contract(LOGISTIC))).x[:, 3].sum() == 1000


def test_text_and_columns_without_a_range_are_refused(there: Clients) -> None:
    lines = [
        "age,visits,spend,loyal,bought",
        *("40,3,100,gold,yes" for _ in range(1000)),
        *("4,3,1,no,no" for _ in range(999)),
    ]
    table_of(there, "shop-a", "\n".join(lines))
    with pytest.raises(ConfigError, match="'loyal' holds text"):
        rows.of(there.job("shop-a", there.contract(LOGISTIC)))
    ranges = tuple(Range("", column, *RANGES[column]) for column in COLUMNS[:2])
    with pytest.raises(ConfigError, match="no range for 'spend', 'loyal'"):
        rows.of(there.job("shop-b", there.contract(LOGISTIC, ranges=ranges)))


@pytest.mark.parametrize("holdout", [Holdout("", "", 20), Holdout("loyal", "1", 0)])
def test_the_contract_says_which_rows_are_held_out(there: Clients, holdout: Holdout) -> None:
    contract = there.contract(LOGISTIC, {"least_rows": 100}, holdout=holdout)
    own = rows.of(there.job("shop-a", contract))
    if holdout.column:
        assert (own.held_out == (own.x[:, 3] == 1)).all()
    else:
        assert 0.15 < own.held_out.mean() < 0.25
        assert (own.held_out == rows.of(there.job("shop-a", contract)).held_out).all()


def test_a_client_with_too_few_rows_sends_nothing(there: Clients) -> None:
    contract = there.contract(LOGISTIC, {"least_rows": 1400})
    ended = there.play(contract)
    assert isinstance(ended["shop-a"], PolicyError)
    assert "fewer rows to train on than the 1400" in ended["shop-a"].text
    assert not there.lines["shop-a"][0].sent
    lines = ["age,visits,spend,loyal", "40,3,100,1"]
    table_of(there, "shop-b", "\n".join(lines))
    ended = there.play(there.contract(KMEANS))
    assert isinstance(ended["shop-b"], PolicyError)
    assert not there.lines["shop-b"][0].sent
    assert all(isinstance(end, Exception) for end in ended.values())


# Who takes part


def test_clients_that_mean_different_contracts_are_told_who_differs(there: Clients) -> None:
    contract = there.contract(LOGISTIC)
    other = replace(contract, nonce="1" * 32)
    ended = there.play(contract, jobs={"shop-b": there.job("shop-b", other)})
    assert isinstance(ended["coordinator"], DisagreementError)
    assert "shop-b" in ended["coordinator"].text
    assert not list(there.folder.glob("*/model.json"))


def test_an_attempt_does_not_mix_with_another_run(there: Clients) -> None:
    contract = there.contract(LOGISTIC)
    ended = there.play(contract, jobs={"shop-b": there.job("shop-b", contract, run=bytes(16))})
    errors = [end for end in ended.values() if isinstance(end, PeerError)]
    assert any("not signed by shop-b" in error.text for error in errors)
    assert not list(there.folder.glob("*/model.json"))


def test_a_client_that_signs_with_another_key_is_named(there: Clients) -> None:
    contract = there.contract(LOGISTIC)
    foreign = replace(there.job("shop-c", contract), sign=Ed25519PrivateKey.generate().sign)
    ended = there.play(contract, jobs={"shop-c": foreign})
    assert "not signed by shop-c" in ended["shop-a"].text
    assert not list(there.folder.glob("*/model.json"))


# What the coordinator does and sees


class Altered:
    """The coordinator's channel to one client, over which `alter` changes what is asked."""

    def __init__(self, channel: Channel, alter: Callable[[Instruction], Instruction]) -> None:
        self._channel, self._alter = channel, alter

    async def send(self, message: Message) -> None:
        await self._channel.send(self._alter(message) if isinstance(message, Instruction) else message)

    async def recv(self, kind: type[M]) -> M:
        return await self._channel.recv(kind)


def another_model(asked: Instruction) -> Instruction:
    """From the second round on another number in the model."""
    if asked.kind != "train" or asked.number < 4:
        return asked
    value = np.frombuffer(asked.content, "<f8", 1, len(asked.content) - 8)
    return replace(asked, content=asked.content[:-8] + (value + 1e-9).tobytes())


@pytest.mark.parametrize("protocol", [LOGISTIC, KMEANS])
def test_a_client_that_is_given_another_model_ends_the_run_for_all(there: Clients, protocol: str) -> None:
    async def lying(channels: Mapping[str, Channel]) -> None:
        await honest({**channels, "shop-b": Altered(channels["shop-b"], another_model)})

    ended = there.play(there.contract(protocol), lying)
    assert all(isinstance(end, Exception) for end in ended.values()), ended
    assert not list(there.folder.glob("*/model.json"))


def test_the_coordinator_sees_uniform_words_signatures_and_who_is_there(there: Clients) -> None:
    ended = there.play(there.contract(LOGISTIC))
    assert ended["coordinator"] is None
    words, seen = [], b""
    for name in there.tables:
        replies = [Reply.from_bytes(data) for kind, data in there.lines[name][0].sent if kind == "Reply"]
        assert len(replies) == len(there.lines[name][0].sent)
        terms, *answers, release, close = [decode(reply.content) for reply in replies]
        assert {*terms.config_records["terms"]} == {"name", "task", "numbers", "terms", "cohort", "key"}
        assert [*release] == ["signed"]
        assert not [*close]
        for answer in answers:
            assert [*answer] == ["answer", "signed"]
            assert [*answer.array_records["answer"]] == ["values"]
            assert [*answer.config_records["signed"]] == ["vouch"]
            words.append(answer.array_records["answer"]["values"].numpy())
        seen += b"".join(reply.content for reply in replies)
    assert all(each.dtype == np.uint64 for each in words)
    bits = np.unpackbits(np.concatenate(words).view(np.uint8))
    # A sum over 1600 rows with 28 bits of fraction leaves the upper 24 bits all 0 or all 1 where nothing hides it.
    assert abs(bits.mean() - 0.5) < 6 / np.sqrt(len(bits)) / 2
    needles = Needles()
    for table in there.tables.values():
        x = table.x[:, :3]
        inside = ((x > [18, 1, 10]) & (x < [90, 30, 500])).all(axis=1)
        needles.add_numbers(x[inside][:40])
    assert len(needles) > 1000
    assert not needles.within(seen)


def test_who_holds_which_rows_changes_nothing_but_the_own_counts(there: Clients) -> None:
    contract = there.contract(KMEANS)
    first = there.play(contract)
    swapped = dict(zip(there.tables, [there.tables[name] for name in ("shop-b", "shop-a", "shop-c")], strict=True))
    there.tables.update(swapped)
    again = there.play(contract)
    for one, other in zip(first["shop-c"]["segments"], again["shop-c"]["segments"], strict=True):
        assert one == other
    assert first["shop-a"]["segments"] != again["shop-a"]["segments"], "its own counts are those of its rows"


# Budgets


def test_k_means_uses_neither_label_nor_hold_out(there: Clients) -> None:
    own = rows.of(there.job("shop-a", there.contract(KMEANS)))
    assert not own.held_out.any()
    assert own.trained == 1600
    labelled = rows.of(there.job("shop-a", there.contract(KMEANS, label=Label("bought", "yes"))))
    assert len(labelled.x) == 1600


def test_the_figures_say_how_many_rows_and_how_long_a_round_took(there: Clients) -> None:
    ended: Any = there.play(there.contract(KMEANS))
    facts = ended["shop-a"]
    assert facts["rows"] == {"train": 1600, "holdout": 0, "all": 4800}
    assert facts["clients"] == ["shop-a", "shop-b", "shop-c"]
    assert facts["round_ms"] > 0


@pytest.mark.parametrize("module", ["tidegate.coordinator.server", "tidegate.party.node", "tidegate.party.worker"])
def test_flower_is_imported_by_workers_of_federated_runs_alone(module: str) -> None:
    code = f"import sys, {module}; sys.exit('flwr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_flower_reports_no_run_to_its_makers(there: Clients) -> None:
    there.play(there.contract(KMEANS, {"rounds": 1}))
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
