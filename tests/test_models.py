"""Models as things that people keep: used again next week, listed, shown, deleted for good by each party for itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.real_parties import FEATURES, NAMES, PAPER, SHOP, Tables, Town, campaign_text, town, write_tables
from tidegate.party import models
from tidegate.party.calibration import Calibration
from tidegate.party.cli import campaign_app, party_app
from tidegate.party.data import features, table
from tidegate.protocols.channel import TidegateError

STEPS = ("match", "train", "expand")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A town in which the campaign `spring` has trained a model for customers and one for other people."""
    with town(tmp_path_factory.mktemp("town")) as made:
        made.propose("spring", write_tables(tmp_path_factory.mktemp("spring"), seed=2), STEPS)
        made.up()
        made.until_over("spring")
        yield made


def told(there: Town, party: str, *arguments: str, answer: str = "") -> str:
    result = _typed(there, party, *arguments, answer=answer)
    assert result.exit_code == 0, (result.output, result.exception)
    return str(result.output)


def refused(there: Town, party: str, *arguments: str, answer: str = "") -> str:
    """The sentences with which a command ends, wherever they were printed."""
    result = _typed(there, party, *arguments, answer=answer)
    assert result.exit_code != 0, result.output
    error = result.exception
    said = f"{error.text} {error.hint}" if isinstance(error, TidegateError) else ""
    return f"{result.output} {said}"


def _typed(there: Town, party: str, *arguments: str, answer: str) -> Any:
    app = campaign_app if arguments[0] in ("check", "propose") else party_app
    return CliRunner().invoke(app, ["--home", str(there.home(party).path), *arguments], input=answer)


def later(name: str, model: str, steps: tuple[str, ...] = ("match", "score", "expand"), **more: str) -> str:
    """A campaign file that uses a model; without training it has neither label nor hold-out nor columns."""
    text = campaign_text(name, steps, model=f'campaign = "{model}"', **more)
    if "train" in steps:
        return text
    kept = [part for part in text.split("\n\n") if part.split("\n")[0] not in ("[label]", "[features]", "[holdout]")]
    return "\n\n".join(kept)


def short(there: Town, name: str = "spring") -> str:
    return there.campaign(SHOP, name).short


def own_part(there: Town, party: str, path: Path, rows: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    model = json.loads((there.results(party, "spring") / "train" / "model.json").read_text())
    return features.apply(features.Recipe.from_json(model["recipe"]), table.read(path), rows), model


def test_next_week_s_customers_are_scored_without_training(there: Town, tmp_path: Path) -> None:
    spring = there.stores[PAPER].dataset("readers").path
    week = Tables(write_tables(tmp_path, seed=3).shop, spring, np.empty((0, 2), np.int64))
    there.register(week)
    there.stage.campaign(SHOP, "propose", str(there.file(later("summer", short(there)))), "--yes")
    there.stage.party(PAPER, "approve", "summer", "--yes")
    there.until_over("summer")
    assert there.campaign(PAPER, "summer").contract.features == {
        SHOP: ("age", "plan", "spend"),
        PAPER: (*FEATURES[PAPER],),
    }
    facts = there.facts(SHOP, "summer", "score")
    assert facts["model"] == there.facts(PAPER, "summer", "score")["model"] == short(there)
    matched = {
        party: np.fromfile(there.results(party, "summer") / "match" / "rows.i64", dtype="<i8") for party in NAMES
    }
    x, kept = own_part(there, SHOP, week.shop, matched[SHOP])
    x_media, basis = own_part(there, PAPER, spring, matched[PAPER])
    joint = kept["joint"]
    media = x_media @ np.array(basis["joint"]["basis"]) @ joint["media_weights"]
    z = joint["intercept"] + x @ joint["weights"] + media
    scores = pq.read_table(there.results(SHOP, "summer") / "score" / "scores.parquet")
    at = {int(row): i for i, row in enumerate(matched[SHOP])}
    order = [at[row] for row in scores["row"].to_pylist()]
    score = np.array(scores["score"])
    low, high = joint["window"]
    inside = (media[order] > low) & (media[order] < high)
    off = np.log(score / (1 - score)) - z[order]
    assert np.abs(off[inside]).max() <= (high - low) / 19 / 2 + 0.05
    assert np.abs(off).mean() > 0.01, "the scores are not blurred"
    rates = Calibration(**joint["calibration"]).rates(np.log(score / (1 - score)))
    np.testing.assert_allclose(np.array(scores["probability"]), rates, rtol=1e-6)
    spent = {(each.kind, each.amount) for each in there.stores[PAPER].charges()}
    assert ("train_steps", 12) in spent, "scoring costs no training step"


def test_each_party_lists_and_shows_its_own_part(there: Town) -> None:
    for party, other in ((SHOP, PAPER), (PAPER, SHOP)):
        listed = json.loads(told(there, party, "models", "list", "--json"))
        spring = next(line for line in listed if line["campaign"] == "spring")
        assert spring["id"] == short(there)
        assert (spring["partners"], spring["parts"]) == ([other], ["joint", "lookalike"])
        assert spring["rows"] == there.facts(SHOP, "spring", "train")["rows"]["train"]
        assert spring["used"] >= 1
        assert spring["id"] in told(there, party, "models", "list")
    shown = told(there, SHOP, "models", "show", short(there)[:5])
    assert "age" in shown
    assert "visits" not in shown, "the brand has no names for the media's part"
    at_paper = told(there, PAPER, "models", "show", short(there))
    assert "visits" in at_paper
    assert "The weights are with the brand" in at_paper
    # No hash begins with what is no hex digit.
    assert "no model 'none'" in refused(there, SHOP, "models", "show", "none")


def test_training_goes_on_from_a_kept_model_only_with_its_columns(there: Town, tmp_path: Path) -> None:
    narrow = later("narrow", short(there), ("match", "train"), features='brand = ["age"]\nmedia = ["visits", "clicks"]')
    said = refused(there, SHOP, "check", str(there.file(narrow)))
    assert "model.campaign" in said
    assert "missing: plan, spend" in said
    there.register(write_tables(tmp_path, seed=4))
    there.stage.campaign(SHOP, "propose", str(there.file(later("autumn", short(there), ("match", "train")))), "--yes")
    there.stage.party(PAPER, "approve", "autumn", "--yes")
    there.until_over("autumn")
    assert there.facts(SHOP, "autumn", "train")["started_from"] == short(there)


def test_data_without_a_column_of_the_model_is_refused_before_it_is_proposed(there: Town, tmp_path: Path) -> None:
    tables = write_tables(tmp_path, seed=6)
    tables.shop.write_text(tables.shop.read_text().replace("tel,contact,age,", "tel,contact,years,", 1))
    there.register(tables)
    said = refused(there, SHOP, "check", str(there.file(later("stale", short(there)))))
    assert "2 of 3" in said
    assert "age is not there" in said


def test_a_deleted_model_is_gone_for_its_party_alone_and_refused_by_name(there: Town, tmp_path: Path) -> None:
    there.propose("winter", write_tables(tmp_path, seed=5), STEPS)
    there.until_over("winter")
    model, kept = short(there, "winter"), there.results(SHOP, "winter") / "train" / "model.json"
    uses = str(there.file(later("reuse", model)))
    there.stage.campaign(SHOP, "propose", uses, "--yes")
    assert "the campaign reuse goes on" in refused(there, SHOP, "models", "delete", model, "--yes")
    assert "was not deleted" in refused(there, PAPER, "models", "delete", model, answer="n\n")

    # The media's part vanishes between its approval and the run: both parties' people are told why.
    at_paper = there.results(PAPER, "winter") / "train" / "model.json"
    bytes_of = at_paper.read_bytes()
    there.stage.party(PAPER, "approve", "reuse", "--yes")
    at_paper.unlink()
    there.until_over("reuse", "failed")
    for party in NAMES:
        assert any(
            f"paper no longer keeps its part of the model {model}" in text for text in there.events(party, "reuse")
        )
    at_paper.write_bytes(bytes_of)

    assert "Deleted" in told(there, PAPER, "models", "delete", model, "--yes")
    assert not at_paper.exists()
    assert kept.exists()
    assert any(entry.event == "model deleted" for entry in there.stores[PAPER].audit_trail())
    assert model not in told(there, PAPER, "models", "list", "--json")
    assert "was deleted here" in refused(there, PAPER, "models", "show", model)
    again = str(there.file(later("again", model)))
    there.stage.campaign(SHOP, "propose", again, "--yes")
    assert f"no longer keeps its part of the model {model}" in refused(there, PAPER, "approve", "again", "--yes")
    there.stage.party(PAPER, "refuse", "again")

    told(there, SHOP, "models", "delete", model, answer="y\n")
    assert "whose models are kept" in refused(there, SHOP, "check", again)
    with pytest.raises(TidegateError, match="was deleted here"):
        models.find(there.home(SHOP), there.stores[SHOP], model)
