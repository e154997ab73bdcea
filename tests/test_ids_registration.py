"""Registering a file: digests are declared and the partner hears of it; what a column holds is told in shapes."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_party_cli import refused, told
from tests.two_parties import Party, Town, make_party, make_town, write_csv
from tidegate.party import mail
from tidegate.party.dataset import hint
from tidegate.protocols.ids import Validity


@pytest.fixture
def party(tmp_path: Path) -> Iterator[Party]:
    made = make_party(tmp_path, "feed")
    yield made
    made.store.close()


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    made = make_town(tmp_path)
    monkeypatch.setattr(mail, "online", made.office.online)
    yield made
    made.close()


def sha256(i: int) -> str:
    return hashlib.sha256(f"p{i}@example.com".encode()).hexdigest()


def people(folder: Path) -> str:
    """A file with 300 people: some without a usable phone, their addresses as digests, a column that varies."""
    rows: list[dict[str, object]] = [
        {
            "hash": sha256(i).upper() if i % 2 else sha256(i),
            "phone": f"06123{45000 + i}" if i % 5 else f"Canary-{i:05d}",
            "mail": f"canary{i}@example.com" if i % 7 else f"canary {i:05d}",
            "visits": i % 9,
        }
        for i in range(300)
    ]
    rows[3] |= {"hash": "", "phone": None}
    return str(write_csv(folder / "people.csv", rows))


def test_a_column_of_digests_is_declared_and_the_partner_is_told(town: Town) -> None:
    arguments = ("data", "add", "hashed", people(town.folder), "--key", "email=hash", "--hashed", "email=sha256")
    printed = told(town.feed, *arguments)
    assert re.search(r"email +hash +sha256 +299 \(99.6 %\) +0 +1 +0", printed)
    assert town.feed.store.dataset("hashed").given == {"email": "sha256"}
    told(town.feed, "data", "offer", "hashed", "--to", "acme")
    town.collect(town.acme)
    offered = {offer.dataset: offer for offer in town.acme.store.offers(sent=False)}
    assert offered["hashed"].given == {"email": "sha256"}
    assert offered["people"].given == {}
    sent = town.feed.store.offer("acme", "hashed", sent=True)
    assert sent is not None
    assert sent.given == {"email": "sha256"}


@pytest.mark.parametrize(
    ("hashed", "said"),
    [
        (["email"], "expected KIND=FORM"),
        (["email=sha1"], "FORM one of sha256, md5"),
        (["email=clear"], "FORM one of sha256, md5"),
        (["phone=md5"], "out of those that --key names"),
        (["email=sha256", "email=md5"], "each kind once"),
    ],
)
def test_a_wrong_declaration_is_a_sentence(party: Party, tmp_path: Path, hashed: list[str], said: str) -> None:
    options = [part for text in hashed for part in ("--hashed", text)]
    arguments = ("data", "add", "people", people(tmp_path), "--key", "email=hash", *options)
    assert said in refused(party, *arguments).text


def test_digests_that_were_not_declared_are_recognised(party: Party, tmp_path: Path) -> None:
    error = refused(party, "data", "add", "people", people(tmp_path), "--key", "email=hash")
    assert "no value of column 'hash' is a valid email" in error.text
    assert "--hashed email=sha256" in error.hint


def test_a_declared_column_that_holds_addresses_is_recognised(party: Party, tmp_path: Path) -> None:
    arguments = ("data", "add", "people", people(tmp_path), "--key", "email=mail", "--hashed", "email=md5")
    error = refused(party, *arguments)
    assert "is a valid md5 digest" in error.text
    assert "leave out --hashed" in error.hint


def test_phones_without_a_country_ask_for_the_region(party: Party, tmp_path: Path) -> None:
    arguments = ("data", "add", "people", people(tmp_path), "--key", "phone=phone")
    assert "give --region" in refused(party, *arguments).hint
    assert "239 (79.6 %)" in told(party, *arguments, "--region", "NL")


def test_the_report_tells_shapes_and_never_a_value(party: Party, tmp_path: Path) -> None:
    arguments = ("--key", "phone=phone", "--key", "email=mail", "--region", "NL")
    printed = told(party, "data", "add", "people", people(tmp_path), *arguments)
    assert re.search(r"phone +phone +clear +239 \(79.6 %\) +60 +1 +0", printed)
    assert "invalid phone: Aa{5}-9{5} (60 rows)" in printed
    assert "invalid email: a{6} 9{5} (43 rows)" in printed
    assert not re.search(r"canary|06123|\d{5}", re.sub("commitment.*", "", printed), re.IGNORECASE)


@pytest.mark.parametrize(
    ("kind", "form", "region", "shape", "said"),
    [
        ("phone", "clear", "", "9{10}", "--region"),
        ("phone", "clear", "", "(9{3}) 9{3}-9{4}", "--region"),
        ("phone", "clear", "NL", "9{10}", ""),
        ("phone", "clear", "", "+9{10}", ""),
        ("phone", "clear", "NL", "a{5}@a{7}.a{3}", "e-mail addresses"),
        ("email", "clear", "", "x{64}", "--hashed email=sha256"),
        ("email", "clear", "", "b{43}=", "--hashed email=sha256"),
        ("email", "clear", "", "x{32}", "--hashed email=md5"),
        ("email", "sha256", "", "x{32}", "--hashed email=md5"),
        ("email", "sha256", "", "a{5}@a{7}.a{3}", "leave out --hashed"),
        ("email", "sha256", "", "a{5}", ""),
        ("email", "clear", "", "other", ""),
    ],
)
def test_a_shape_suggests_its_cause(kind: str, form: str, region: str, shape: str, said: str) -> None:
    found = hint(kind, form, region, Validity(1, 20, 0, 0, ((shape, 20),)))
    assert said in found if said else not found


def test_a_store_of_an_older_version_holds_no_digests(town: Town) -> None:
    for party in (town.feed, town.acme):
        with sqlite3.connect(party.home.store_db) as db:
            for table, key in (("datasets", "name"), ("offers", "dataset")):
                for name, body in db.execute(f"SELECT {key}, body FROM {table}").fetchall():  # noqa: S608 - both named above
                    old = {each: value for each, value in json.loads(body).items() if each != "given"}
                    db.execute(f"UPDATE {table} SET body = ? WHERE {key} = ?", (json.dumps(old), name))  # noqa: S608
        db.close()
    assert town.feed.store.dataset("people").given == {}
    assert [offer.given for offer in town.acme.store.offers(sent=False)] == [{}]
