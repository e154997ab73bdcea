"""The store: what was acknowledged survives, results count once, budgets are spent once, changes to the trail show."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tidegate.party.audit import START, Entry, link, verify
from tidegate.party.store import ATTEMPTS, Dataset, Offer, Store
from tidegate.protocols.channel import ConfigError, DisagreementError, PolicyError
from tidegate.wire.ending import PersonError

CONTRACT, RUN = b"c" * 32, b"r" * 16


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "store.db")
    yield made
    made.close()


def sample(name: str = "people", digest: str = "00") -> Dataset:
    path = Path("/data/people.csv")
    return Dataset(name, path, {"email": "mail"}, "NL", "refuse", 10, digest, b"s" * 32, "ab" * 32, [], 5)


def test_a_data_set_comes_back_as_it_was_put(store: Store) -> None:
    store.add_dataset(sample())
    assert store.dataset("people") == sample()
    with pytest.raises(ConfigError, match="no data set 'peple'"):
        store.dataset("peple")


def test_registering_a_file_again_keeps_its_salt(store: Store) -> None:
    assert store.salt_for("aa", b"1" * 32) == b"1" * 32
    assert store.salt_for("aa", b"2" * 32) == b"1" * 32
    assert store.salt_for("bb", b"2" * 32) == b"2" * 32


def test_a_partner_with_another_key_is_not_taken_for_the_old_one(store: Store) -> None:
    store.trust("feed", b"1" * 32, b"card")
    store.trust("feed", b"1" * 32, b"card with a new sealing key")
    with pytest.raises(ConfigError, match="another identity key"):
        store.trust("feed", b"2" * 32, b"card")
    store.distrust("feed")
    assert store.partner("feed") is None
    store.trust("feed", b"2" * 32, b"card")


def test_an_offer_of_the_same_data_set_replaces_the_earlier_one(store: Store) -> None:
    offer = Offer("feed", "people", 10, "ab" * 32, ["email"], [], 1)
    store.put_offer(offer, sent=False)
    store.put_offer(replace(offer, rows=20), sent=False)
    assert [one.rows for one in store.offers(sent=False)] == [20]
    assert store.offers(sent=True) == []


def test_a_step_is_committed_once_whatever_arrives_later(store: Store) -> None:
    other = b"q" * 16
    store.start_run(CONTRACT, 0, RUN, 1)
    assert not store.end_run(RUN, "committed")
    assert store.end_run(RUN, "prepared", receipt=b"x", seconds=1.5, sent=10, received=20)
    assert store.end_run(RUN, "committed")
    assert not store.end_run(RUN, "failed", reason="late")
    assert store.committed_run(CONTRACT, 0) == RUN
    kept = store.run(RUN)
    assert kept is not None
    assert (kept.receipt, kept.seconds, kept.sent, kept.received) == (b"x", 1.5, 10, 20)
    store.start_run(CONTRACT, 0, other, 2)
    store.end_run(other, "prepared")
    with pytest.raises(Exception, match="UNIQUE"):
        store.end_run(other, "committed")


def test_a_run_number_is_never_used_twice(store: Store) -> None:
    store.start_run(CONTRACT, 0, RUN, 1)
    with pytest.raises(ValueError, match="started before"):
        store.start_run(CONTRACT, 1, RUN, 1)


def test_runs_are_listed_oldest_first(store: Store) -> None:
    for number in (9, 3, 7):
        store.start_run(CONTRACT, 0, bytes([number] * 16), number)
    assert [run.attempt for run in store.runs(CONTRACT)] == [9, 3, 7]


def test_events_continue_after_the_last_one_seen(store: Store) -> None:
    store.add_event(CONTRACT, 0, "first")
    seen = store.events(CONTRACT)[-1].id
    store.add_event(CONTRACT, 0, "second")
    assert [event.text for event in store.events(CONTRACT, seen)] == ["second"]


def test_a_budget_cannot_be_passed_and_a_refused_charge_costs_nothing(store: Store) -> None:
    store.charge("aa", "acme", "train", 8, 12, b"1" * 32, b"1" * 16)
    with pytest.raises(PolicyError, match="would reach 16 of 12"):
        store.charge("aa", "acme", "train", 8, 12, b"2" * 32, b"2" * 16)
    store.charge("aa", "acme", "train", 4, 12, b"3" * 32, b"3" * 16)
    store.charge("bb", "acme", "train", 12, 12, b"4" * 32, b"4" * 16)
    store.charge("aa", "other", "train", 12, 12, b"5" * 32, b"5" * 16)
    assert [(charge.partner, charge.amount) for charge in store.charges()] == [
        ("acme", 12),
        ("other", 12),
        ("acme", 12),
    ]


def test_attempts_at_one_step_spend_the_budget_once_and_a_person_must_agree_after_three(store: Store) -> None:
    runs = [bytes([number] * 16) for number in range(2 * ATTEMPTS + 1)]
    for attempt, run in enumerate(runs):
        store.start_run(CONTRACT, 0, run, attempt)
    for run in runs[:ATTEMPTS]:
        store.charge("aa", "acme", "train", 12, 12, CONTRACT, run)
    with pytest.raises(PersonError, match="answered 3 times"):
        store.charge("aa", "acme", "train", 12, 12, CONTRACT, runs[ATTEMPTS])
    before = store.renewals()
    store.renew(CONTRACT)
    assert store.renewals() == before + 1
    store.charge("aa", "acme", "train", 12, 12, CONTRACT, runs[ATTEMPTS])
    assert store.charges()[0].amount == 12


def test_charges_from_many_threads_never_pass_the_limit(store: Store) -> None:
    passed: list[int] = []

    def spend(number: int) -> None:
        try:
            store.charge("aa", "acme", "match", 1, 12, bytes([number] * 32), bytes([number] * 16))
        except PolicyError:
            return
        passed.append(number)

    threads = [threading.Thread(target=spend, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 12
    assert store.charges()[0].amount == 12


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from tidegate.party.store import Store
store = Store(Path(sys.argv[1]))
for number in range(10000):
    store.add_event(b"c" * 32, 0, str(number))
    print(number, flush=True)
"""
    path = tmp_path / "store.db"
    writer = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = -1
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged >= 40:
            writer.kill()
            break
    acknowledged = max([acknowledged, *map(int, writer.stdout.read().split("\n")[:-1])])
    writer.stdout.close()
    writer.wait()
    store = Store(path)
    assert [event.text for event in store.events(CONTRACT)][: acknowledged + 1] == list(
        map(str, range(acknowledged + 1))
    )
    assert store.audit_trail() == []
    store.close()


def test_a_store_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    Store(tmp_path / "store.db").close()
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    db.close()
    with pytest.raises(ConfigError, match="schema 99"):
        Store(tmp_path / "store.db")


def test_a_store_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"this is no database, not at all" * 100)
    with pytest.raises(PersonError, match="cannot be used"):
        Store(tmp_path / "store.db")


def trail(store: Store) -> list[str]:
    for number in range(5):
        store.audit("something", CONTRACT, number=number)
    return [entry.line for entry in store.audit_trail()]


def test_the_audit_trail_verifies_and_passes_through_its_earlier_heads(store: Store) -> None:
    lines = trail(store)
    heads = [entry.hash for entry in verify(lines)]
    store.audit("later")
    assert len(store.audit_trail(heads[2])) == 6
    with pytest.raises(DisagreementError, match="does not pass through"):
        store.audit_trail("f" * 64)


@pytest.mark.parametrize("at", range(5))
def test_an_audit_line_that_is_changed_moved_or_taken_out_is_found(store: Store, at: int) -> None:
    lines = trail(store)
    head = verify(lines)[-1].hash
    changed = [*lines[:at], lines[at].replace("something", "nothing"), *lines[at + 1 :]]
    taken_out = lines[:at] + lines[at + 1 :]
    moved = [*taken_out, lines[at]] if at < 4 else [lines[4], *lines[:4]]
    added = [*lines, link(6, START, 0, "x", "", {})[0]]
    for forged in (changed, taken_out, moved, added):
        with pytest.raises(DisagreementError):
            verify(forged, head)


def test_a_trail_that_was_cut_in_the_file_is_found(store: Store) -> None:
    trail(store)
    with sqlite3.connect(store.path) as db:
        db.execute("DELETE FROM audit WHERE seq = 5")
    db.close()
    with pytest.raises(DisagreementError, match="was cut"):
        store.audit_trail()


def test_an_entry_keeps_no_more_than_it_was_given(store: Store) -> None:
    store.audit("run started", CONTRACT, step=1)
    entry = store.audit_trail()[0]
    assert isinstance(entry, Entry)
    assert (entry.event, entry.contract, entry.detail) == ("run started", CONTRACT.hex(), {"step": 1})


def test_a_second_store_in_the_same_process_leaves_the_locks_of_the_first(tmp_path: Path) -> None:
    first = Store(tmp_path / "store.db")
    first.campaigns()
    inode = f":{(tmp_path / 'store.db').stat().st_ino} "
    assert inode in Path("/proc/locks").read_text()
    Store(tmp_path / "store.db").close()
    assert inode in Path("/proc/locks").read_text()
    first.close()
