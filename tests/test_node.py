"""What a node does with what a coordinator tells it: by the store's word, never by the coordinator's."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.two_parties import CAMPAIGN, Party, Town, make_town
from tidegate.party import campaign, node
from tidegate.party.node import Node, admit, clean_up, commit, here
from tidegate.party.store import Run
from tidegate.protocols.channel import ConfigError, DisagreementError, PolicyError, TidegateError
from tidegate.wire import receipt
from tidegate.wire.contract import Contract, signed_bytes
from tidegate.wire.identity import Identity
from tidegate.wire.relay_pb2 import Commit, Ended, Start

RUN, OTHER_RUN, DIGEST = bytes(16), bytes([1]) * 16, bytes([7]) * 32


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = make_town(tmp_path)
    yield made
    made.close()


def signed(town: Town, contract: Contract | None = None) -> Contract:
    """A contract that both have signed, as acme's store has it."""
    if contract is None:
        contract = campaign.check(town.campaign_file(CAMPAIGN), town.acme.home, town.acme.store, time.time()).contract
    assert contract is not None
    town.acme.store.put_campaign(contract, "acme")
    for party in (town.acme, town.feed):
        signature = party.identity.sign(signed_bytes(contract.hash))
        town.acme.store.add_signature(contract.hash, party.identity.name, signature)
    return contract


def node_of(party: Party) -> Node:
    """A node that attends nowhere. What it would tell the coordinator waits in `outgoing`."""

    async def made() -> Node:
        return Node(party.home, party.store, lambda _line: None, party.identity.name)

    return asyncio.run(made())


def stage(party: Party, contract: Contract, run: bytes, step: int = 0) -> bytes:
    """A prepared run with one staged result; the receipt."""
    folder = party.home.staging(run)
    folder.mkdir()
    (folder / "facts.json").write_text(json.dumps({"run": run.hex(), "size": 5}))
    made = receipt.make(party.identity, contract.hash, step, run, DIGEST)
    party.store.start_run(contract.hash, step, run, 1)
    party.store.end_run(run, "prepared", receipt=made)
    return made


def told(at: Node) -> list[Ended]:
    return [at.outgoing.get_nowait().ended for _ in range(at.outgoing.qsize())]


def known(party: Party, run: bytes) -> Run:
    found = party.store.run(run)
    assert found is not None
    return found


# Commits


def test_a_result_is_released_when_every_partys_receipt_is_there(town: Town) -> None:
    contract, at = signed(town), node_of(town.acme)
    mine = stage(town.acme, contract, RUN)
    theirs = receipt.make(town.feed.identity, contract.hash, 0, RUN, DIGEST)
    commit(at, Commit(contract=contract.hash, step=0, run=RUN, receipts=[mine, theirs]))
    assert known(town.acme, RUN).state == "committed"
    assert (town.acme.home.results(contract.short, "match") / "facts.json").is_file()
    assert not town.acme.home.staging(RUN).exists()


@pytest.mark.parametrize("forgery", ["missing", "other digest", "other run", "other key"])
def test_a_commit_without_a_true_receipt_of_the_peer_is_ignored(town: Town, forgery: str) -> None:
    contract, at = signed(town), node_of(town.acme)
    mine, theirs = stage(town.acme, contract, RUN), town.feed.identity
    receipts = {
        "missing": [mine, mine],
        "other digest": [mine, receipt.make(theirs, contract.hash, 0, RUN, bytes(32))],
        "other run": [mine, receipt.make(theirs, contract.hash, 0, OTHER_RUN, DIGEST)],
        "other key": [mine, receipt.make(Identity.generate("feed"), contract.hash, 0, RUN, DIGEST)],
    }
    commit(at, Commit(contract=contract.hash, step=0, run=RUN, receipts=receipts[forgery]))
    assert known(town.acme, RUN).state == "prepared"
    assert not town.acme.home.results(contract.short, "match").exists()


def test_a_second_commit_of_a_step_is_ignored(town: Town) -> None:
    contract, at = signed(town), node_of(town.acme)
    for run in (RUN, OTHER_RUN):
        mine = stage(town.acme, contract, run)
        theirs = receipt.make(town.feed.identity, contract.hash, 0, run, DIGEST)
        commit(at, Commit(contract=contract.hash, step=0, run=run, receipts=[mine, theirs]))
    assert town.acme.store.committed_run(contract.hash, 0) == RUN
    facts = json.loads((town.acme.home.results(contract.short, "match") / "facts.json").read_text())
    assert facts["run"] == RUN.hex()


def test_a_result_that_somebody_deleted_is_reported(town: Town) -> None:
    contract, at = signed(town), node_of(town.acme)
    mine = stage(town.acme, contract, RUN)
    (town.acme.home.staging(RUN) / "facts.json").unlink()
    town.acme.home.staging(RUN).rmdir()
    theirs = receipt.make(town.feed.identity, contract.hash, 0, RUN, DIGEST)
    commit(at, Commit(contract=contract.hash, step=0, run=RUN, receipts=[mine, theirs]))
    assert known(town.acme, RUN).state == "failed"
    assert [(ended.prepared, ended.error) for ended in told(at)] == [(False, "config")]


# Starts


def test_a_run_starts_only_where_everybody_signed_and_everything_before_is_done(town: Town) -> None:
    contract, at = signed(town), node_of(town.acme)
    day_s = 86400
    old = replace(contract, created_s=contract.created_s - 9 * day_s, expires_s=contract.expires_s - 9 * day_s)
    unsigned = replace(contract, nonce="0" * 32)
    town.acme.store.put_campaign(unsigned, "acme")
    refused: list[tuple[Contract, int, bytes, type[TidegateError], str]] = [
        (signed(town, old), 0, RUN, PolicyError, "expired"),
        (signed(town, replace(contract, software="9.9.9")), 0, RUN, DisagreementError, "9.9.9"),
        (unsigned, 0, RUN, PolicyError, "has not approved"),
        (contract, 1, RUN, ConfigError, "match is not done here"),
        (contract, 9, RUN, ConfigError, "cannot be"),
        (contract, 0, b"short", ConfigError, "cannot be"),
    ]
    for made, step, run, kind, words in refused:
        with pytest.raises(kind, match=words):
            admit(at, Start(contract=made.hash, step=step, run=run, attempt=1))
    _, order = admit(at, Start(contract=contract.hash, step=0, run=RUN, attempt=1))
    assert (order.step, order.earlier) == (0, {})


def test_a_step_that_is_done_and_a_run_that_was_used_do_not_start_again(town: Town) -> None:
    contract, at = signed(town), node_of(town.acme)
    stage(town.acme, contract, RUN)
    with pytest.raises(ConfigError, match="run number twice"):
        admit(at, Start(contract=contract.hash, step=0, run=RUN, attempt=2))
    town.acme.store.end_run(RUN, "committed")
    with pytest.raises(ConfigError, match="done here already"):
        admit(at, Start(contract=contract.hash, step=0, run=OTHER_RUN, attempt=2))
    _, order = admit(at, Start(contract=contract.hash, step=1, run=OTHER_RUN, attempt=1))
    assert order.earlier == {"match": RUN.hex()}


# What a node holds


def test_a_stop_gives_up_what_was_prepared(town: Town) -> None:
    contract, at = signed(town), node_of(town.acme)
    stage(town.acme, contract, RUN)
    asyncio.run(node._stop(at, contract.hash, RUN, "the line to feed's node broke"))
    assert known(town.acme, RUN).state == "failed"
    assert not town.acme.home.staging(RUN).exists()


def test_prepared_results_are_reported_also_of_a_campaign_that_is_over(town: Town) -> None:
    contract = signed(town)
    stage(town.acme, contract, RUN)
    stage(town.acme, contract, OTHER_RUN, step=1)
    town.acme.store.end_run(RUN, "committed")
    assert [(held.run, held.committed) for held in here(town.acme.store).held] == [(RUN, True), (OTHER_RUN, False)]
    town.acme.store.set_state(contract.hash, "cancelled")
    assert [held.run for held in here(town.acme.store).held] == [OTHER_RUN]


def test_after_a_crash_only_what_is_prepared_stays_staged(town: Town) -> None:
    contract = signed(town)
    stage(town.acme, contract, RUN)
    town.acme.store.start_run(contract.hash, 0, OTHER_RUN, 2)
    for name in (OTHER_RUN.hex(), "unknown"):
        (town.acme.home.path / "staging" / name).mkdir()
    clean_up(town.acme.home, town.acme.store)
    assert known(town.acme, OTHER_RUN).state == "failed"
    assert [folder.name for folder in (town.acme.home.path / "staging").iterdir()] == [RUN.hex()]
