"""Campaigns between real processes in the modes where not both learn the rows: who ends with which files and facts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.real_parties import PAPER, SHOP, Tables, Town, campaign_text, town, write_tables
from tidegate.party.data import table
from tidegate.protocols.primitives import group

KEYS = {"brand": ("phone", "email"), "size": ("email",)}
DRAWN = ("run", "seconds")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("town")) as made:
        made.up()
        yield made


def propose(there: Town, tables: Tables, mode: str, name: str) -> None:
    there.register(tables)
    listed = ", ".join(f'"{kind}"' for kind in KEYS[mode])
    text = campaign_text(name, ("match",), match=f'keys = [{listed}]\nmode = "{mode}"')
    there.stage.campaign(SHOP, "propose", str(there.file(text)), "--yes")
    there.stage.party(PAPER, "approve", name, "--yes")


def mails(tables: Tables) -> set[str]:
    shop, paper = table.read(tables.shop), table.read(tables.paper)
    ours = {(mail or "").strip().lower() for mail in table.texts(shop, "contact")}
    return (ours & set(table.texts(paper, "e_mail"))) - {""}  # type: ignore[return-value]  # None is in one of them


@pytest.mark.parametrize("mode", ["brand", "size"])
def test_each_party_ends_with_what_its_mode_gives_it(there: Town, tmp_path: Path, mode: str) -> None:
    tables = write_tables(tmp_path, seed=11)
    propose(there, tables, mode, f"mode-{mode}")
    there.until_over(f"mode-{mode}")
    joined = sorted(map(tuple, tables.joined.tolist()))
    right = len(mails(tables)) if mode == "size" else len(joined)
    folders = {party: there.results(party, f"mode-{mode}") / "match" for party in (SHOP, PAPER)}
    rows = {
        party: np.fromfile(folder / "rows.i64", "<i8").tolist() if (folder / "rows.i64").exists() else None
        for party, folder in folders.items()
    }
    assert rows[PAPER] is None
    assert rows[SHOP] == ([pair[0] for pair in joined] if mode == "brand" else None)
    if mode == "brand":
        shop, paper = (np.fromfile(folders[party] / "order.i64", "<i8") for party in (SHOP, PAPER))
        assert sorted(zip(shop[shop >= 0].tolist(), paper[shop >= 0].tolist(), strict=True)) == joined
    for party, folder in folders.items():
        assert {path.name for path in folder.iterdir()} <= {"facts.json", "rows.i64", "order.i64"}
        assert (folder / "order.i64").exists() == (mode == "brand")
        facts = there.facts(party, f"mode-{mode}", "match")
        told = {"mode": facts["mode"], "engine": facts["engine"], "group": facts["group"]}
        assert told == {"mode": mode, "engine": "oprf", "group": group.backend()}
        assert (facts["brand_rows"], facts["media_rows"]) == (1400, 2400)
        assert facts["reached"] == list(KEYS[mode])
        if mode == "brand" and party == PAPER:
            assert not {"size", "by_key"} & set(facts)
            # The digits of any number come up in the run's name and in seconds.
            assert str(right) not in json.dumps({name: facts[name] for name in facts if name not in DRAWN})
        else:
            assert facts["size"] == sum(facts["by_key"].values()) == right
        column = "contact" if party == SHOP else "e_mail"
        texts = table.texts(table.read(tables.shop if party == SHOP else tables.paper), column)
        missing = sum(text is None for text in texts)
        counts = {"valid": len(texts) - missing, "missing": missing, "invalid": 0, "duplicates": 0}
        assert facts["validity"]["email"] == counts
        out = tmp_path / party
        said = there.stage.party(party, "results", f"mode-{mode}", "--export", str(out))
        assert (f"{right:,}" in said) == ("size" in facts)
        assert "match" in said.lower()
    assert there.leftovers() == []


@pytest.mark.parametrize("mode", ["brand", "size"])
def test_below_the_floor_no_party_and_no_file_tells_nobody_from_somebody(
    there: Town, tmp_path: Path, mode: str
) -> None:
    outcomes = []
    for common in (0, 99):
        name = f"low-{mode}-{common}"
        tables = write_tables(tmp_path / name, seed=3, shop_rows=400, paper_rows=500, common=common)
        propose(there, tables, mode, name)
        there.until_over(name, "failed")
        seen = []
        for party in (SHOP, PAPER):
            campaign = there.campaign(party, name)
            runs = [(run.state, run.reason) for run in there.runs(party, name)]
            # Lines of progress come by the clock.
            events = [event.replace(name, "") for event in there.events(party, name) if " MB" not in event]
            folder = there.home(party).results(campaign.contract.short, "match")
            seen.append((campaign.state, campaign.by, campaign.reason, runs, events, folder.exists()))
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]
    assert "fewer than 100 people matched" in str(outcomes[0])
    assert there.leftovers() == []
