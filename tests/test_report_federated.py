"""The report on training over many clients' rows: what came out, how it was kept apart, and what it was worth."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.test_report import HOSTILE, Page, contract, written
from tidegate.party.report import build
from tidegate.wire.contract import Contract, ContractParty, DataSet, Label, Privacy, Step

CLIENTS = ("alpha", "beta", "gamma")
LOGISTIC, KMEANS = "federate.logistic@1", "federate.kmeans@1"


def together(protocol: str = LOGISTIC, privacy: Privacy | None = None, **settings: int) -> Contract:
    parties = tuple(
        ContractParty(name, "client", digit * 64, DataSet("people", 3000, digit * 64))
        for name, digit in zip(CLIENTS, "abc", strict=True)
    )
    made = contract()
    return dataclasses.replace(
        made,
        parties=parties,
        label=Label("", "") if protocol == KMEANS else Label("bought", "yes"),
        features=dict.fromkeys(CLIENTS, ("age", "visits")),
        steps=(Step("federate", protocol, {"rounds": 30, "secure": 1, "least_rows": 1000, **settings}),),
        privacy=privacy or made.privacy,
        learns=dict.fromkeys(CLIENTS, ("the model",)),
        keys=(),
    )


def shared(app: str, **more: Any) -> dict[str, Any]:
    return {
        "step": "federate", "run": "00", "seconds": 1.2, "sent": 10, "received": 20, "learned": ["the model"],
        "app": app, "clients": list(CLIENTS), "secure": True, "robust": 0,
        "rows": {"train": 2400, "holdout": 600, "all": 9000}, "columns": ["age", "visits"], "missing": 7, "outside": 0,
        "rounds": 3, "most_rounds": 30, "converged": True, "round_ms": 21.4, **more,
    }  # fmt: skip


def logistic(name: str = "visits", **more: Any) -> dict[str, Any]:
    weights = [
        {"name": "age", "weight": 0.04, "per_deviation": 0.7},
        {"name": name, "weight": -0.2, "per_deviation": -1.1},
    ]
    curves = {"loss": [0.69, 0.6, 0.55], "auc": [0.5, 0.73, 0.75], "hold_out_loss": [0.69, 0.61, 0.57]}
    own = {"auc": 0.81, "auc_alone": 0.71}
    return shared("logistic", **{"weights": weights, "curves": curves, "own": own, **more})


def kmeans(**more: Any) -> dict[str, Any]:
    segments = [
        {"number": 1, "size": 5000, "own": 900, "centre": [30.0, 20.0]},
        {"number": 2, "size": 4000, "own": 2100, "centre": [60.0, 5.0]},
    ]
    curves = {"inertia": [9000.0, 4000.0, 3900.0]}
    return shared("kmeans", **{"segments": segments, "asked": 3, "scale": [10.0, 0.0], "curves": curves, **more})


def shown(folder: Path, facts: dict[str, Any], made: Contract) -> tuple[str, dict[str, Any]]:
    page = build(written(folder / "campaign", {"federate": facts}), made, "alpha", folder / "out")
    return page.read_text(), json.loads((folder / "out" / "report.json").read_text())


def words(html: str) -> str:
    return Page(html).text.replace("\u00a0", " ")


def test_a_model_of_many_clients_is_told_with_its_curves_and_weights(tmp_path: Path) -> None:
    html, report = shown(tmp_path, logistic(), together())
    said = words(html)
    for sentence in (
        "alpha with beta and gamma · label: bought = yes",
        "One model of the rows of 3 clients.",
        "It ranks your rows better than your own model",
        "an AUC of 0.810 on your own rows held out, 0.710 by your rows alone",
        "in each of 3 rounds each client sent sums over its rows, masked so that only the total",
        "It ended when nothing was left to gain.",
        "It ranks the rows that all clients held out with an AUC of 0.750. A round took 21 ms.",
        "The largest 2 of 2 weights",
        "values missing, taken for the middle of their range7",
        "rows of all clients’ data sets9,000",
        "differential privacynot asked for",
        "Smallest group100",
    ):
        assert sentence in said, sentence
    assert said.index("visits−1.10") < said.index("age+0.70"), "the weight that counts most comes first"
    assert "Fewest good customers" not in said
    plots = re.findall(r'<svg [^>]*role="img" aria-label="([^"]*)"', html)
    assert plots == [
        "Round by round, log loss a row. trained with: 0.69 to 0.55; held out: 0.69 to 0.57, in 3 rounds.",
        "Round by round, AUC. held out: 0.5 to 0.75, in 3 rounds.",
    ]
    assert report["federate"]["curves"] == logistic()["curves"]
    assert report["role"] == "client"
    assert report["seconds"] == {"federate": 1.2}
    assert report["learned"] == {**{name: ["the model"] for name in CLIENTS}, "coordinator": []}


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"auc": 0.6, "auc_alone": 0.7}, "It ranks your rows worse than your own model"),
        ({"auc": 0.71, "auc_alone": 0.7}, "the difference is within what chance makes on so few"),
        ({}, "Your rows stayed with you."),
    ],
)
def test_what_taking_part_was_worth_is_not_oversold(tmp_path: Path, own: dict[str, float], says: str) -> None:
    html, _ = shown(tmp_path, logistic(own=own), together())
    assert says in words(html)


def test_without_rows_held_out_no_ranking_is_drawn(tmp_path: Path) -> None:
    curves = {"loss": [0.69, 0.6], "auc": [0.5, 0.5], "hold_out_loss": [0.0, 0.0]}
    html, _ = shown(tmp_path, logistic(curves=curves, own={}), together())
    assert html.count('role="img"') == 1
    assert "held out: 0 to" not in html
    assert "held out with an AUC" not in words(html)


def test_differential_privacy_is_told_with_its_unit_and_what_was_spent(tmp_path: Path) -> None:
    privacy = {"epsilon": 1.5, "delta": 1e-6, "spent": 2.25, "unit": "client"}
    facts = logistic(privacy=privacy, curves={"step": [2.0, 0.7, 0.4], "auc": [0.74]}, converged=False)
    asked = Privacy(epsilon_milli=1500, delta_exponent=6)
    made = together("federate.private-logistic@1", asked, unit=2, clip_milli=1000)
    html, _ = shown(tmp_path, facts, made)
    said = words(html)
    assert "Round by round, length of the step. step: 2 to 0.4, in 3 rounds." in html
    assert html.count('role="img"') == 1
    for sentence in (
        "with an AUC of 0.740, told with noise",
        "It ended when the agreed rounds were over.",
        "differential privacy of all rows of any one client: epsilon1.5",
        "at a delta of10^−6",
        "epsilon that all campaigns have spent on this state of your data2.25",
        "epsilon, at a delta of 10^−6, of all rounds together",
    ):
        assert sentence in said, sentence
    assert "with this brand" not in said


@pytest.mark.parametrize(
    ("robust", "says"), [(0, "in the clear to the coordinator. It ended"), (1, "took the median"), (2, "trimmed mean")]
)
def test_sums_in_the_clear_are_said_to_be(tmp_path: Path, robust: int, says: str) -> None:
    said = words(shown(tmp_path, logistic(secure=False, robust=robust), together(secure=0, robust=robust))[0])
    assert says in said
    assert "masked sumsno" in said
    assert "masked so that" not in said


def test_groups_of_many_clients_are_told_with_sizes_and_centres(tmp_path: Path) -> None:
    html, report = shown(tmp_path, kmeans(), together(KMEANS))
    said = words(html)
    for sentence in (
        "2 groups among the rows of 3 clients.",
        "Group 15,00056 %90030 %",
        "1 more of too few rows were left out",
        "age3060",
    ):
        assert sentence in said, sentence
    assert "Round by round, distance within the groups. inertia: 9000 to 3900, in 3 rounds." in html
    assert report["federate"]["segments"][1]["size"] == 4000


def test_hostile_names_of_clients_and_columns_stay_text(tmp_path: Path) -> None:
    facts = logistic(name=HOSTILE, clients=["alpha", HOSTILE, "gamma"])
    for each, protocol in ((facts, LOGISTIC), (kmeans(columns=[HOSTILE, "visits"]), KMEANS)):
        html, _ = shown(tmp_path / protocol, each, together(protocol))
        page = Page(html)
        assert not {"script", "img"} & set(page.tags)
        assert not any(name.startswith("on") for name, _ in page.attributes)
        assert "\u202e" not in html
        assert "alert(1)" in page.text
        ids = [value for name, value in page.attributes if name == "id"]
        assert len(ids) == len(set(ids))
        assert "#0a0b" not in html


def test_a_campaign_of_clients_that_has_not_run_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "campaign").mkdir()
    html = build(tmp_path / "campaign", together(), "beta", tmp_path / "out").read_text()
    assert "No step of this campaign has finished yet" in words(html)
    assert "beta with alpha and gamma" in words(html)
