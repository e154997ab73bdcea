"""An auditor derives the brand's part of a campaign again: what it encrypted, with which key, from which data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.real_parties import ALL_STEPS, PAPER, SHOP, Town, campaign_text, command, town, write_tables
from tidegate.party.retrace import Retraced, retrace
from tidegate.protocols.blind import insight
from tidegate.protocols.channel import ConfigError, DisagreementError, TidegateError

# A campaign of all steps by real processes, each of which starts anew for each step.
pytestmark = pytest.mark.timeout(1200)


def audited(text: str) -> str:
    return text.replace("[campaign]\n", "[campaign]\naudit = true\n", 1)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A campaign of all steps that is over, at parties that are still there."""
    folder = tmp_path_factory.mktemp("retrace")
    with town(folder) as there:
        there.register(write_tables(folder / "spring"))
        text = audited(campaign_text("spring", ALL_STEPS))
        there.stage.campaign(SHOP, "propose", str(there.file(text)), "--yes")
        there.stage.party(PAPER, "approve", "spring", "--yes")
        there.up()
        there.until_over("spring", seconds=600)
        yield there


def retraced(there: Town, name: str = "spring") -> list[Retraced]:
    return list(retrace(there.home(SHOP), there.stores[SHOP], there.campaign(SHOP, name)))


def test_every_message_of_the_brand_comes_out_as_it_was_sent(done: Town) -> None:
    found = retraced(done)
    assert [step.step for step in found] == list(ALL_STEPS)
    assert all(step.messages > 0 and step.sent_bytes > 0 for step in found)
    # The media signed the same digests, which is where an auditor compares them.
    receipts = [run.receipt.hex() for run in done.runs(PAPER, "spring") if run.state == "committed"]
    assert sorted(step.digest for step in found) == sorted(each[:64] for each in receipts)
    typed = command("party", "--home", str(done.home(SHOP).path), "retrace", "spring", seconds=300)
    assert typed.returncode == 0, typed.stderr
    assert found[2].digest in typed.stdout.replace("\n", "")


def test_another_encrypted_vector_than_the_label_is_found_out(done: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = insight.columns_brand

    async def probing(channel: Any, key: Any, v: Any, d: int) -> Any:
        probe = np.zeros_like(v)
        probe[0] = 1
        return await honest(channel, key, probe, d)

    monkeypatch.setattr(insight, "columns_brand", probing)
    with pytest.raises(DisagreementError, match="step insight: what the role sends is not what was sent"):
        retraced(done)


@pytest.mark.parametrize("file", ["seed", f"{PAPER}.received", f"{PAPER}.session"])
def test_a_record_that_was_changed_is_found_out(done: Town, file: str) -> None:
    path = done.results(SHOP, "spring") / "train" / "audit" / file
    kept = path.read_bytes()
    try:
        path.write_bytes(bytes([kept[0] ^ 1]) + kept[1:] if file == "seed" else kept[:-1] + bytes([kept[-1] ^ 1]))
        # With other keys or messages the role computes with what is no number, of which it may warn.
        with pytest.raises(TidegateError), warnings.catch_warnings(action="ignore"):
            retraced(done)
    finally:
        path.write_bytes(kept)


def test_a_result_that_was_changed_is_found_out(done: Town) -> None:
    path = done.results(SHOP, "spring") / "train" / "model.json"
    kept = path.read_text()
    try:
        path.write_text(kept.replace('"intercept": ', '"intercept": 1', 1))
        with pytest.raises(DisagreementError):
            retraced(done)
    finally:
        path.write_text(kept)


def test_the_record_leaves_the_party_in_no_export(done: Town, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("party", "--home", str(done.home(SHOP).path), "results", "spring", "--export", str(out))
    exported = command(*arguments, seconds=300)
    assert exported.returncode == 0, exported.stderr
    assert not [path for path in out.rglob("*") if "audit" in path.name or "seed" in path.name]
    assert not (done.results(PAPER, "spring") / "train" / "audit").exists()


def test_without_an_audit_in_the_contract_nothing_is_kept_or_retraced(done: Town) -> None:
    done.propose("summer", write_tables(done.stage.folder / "summer", seed=2), ("match",))
    done.until_over("summer", seconds=300)
    assert not (done.results(SHOP, "summer") / "match" / "audit").exists()
    with pytest.raises(ConfigError, match="keeps nothing that could be retraced"):
        retraced(done, "summer")
