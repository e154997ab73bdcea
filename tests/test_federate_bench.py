"""The benchmark of training with many clients measures a run that really takes place."""

from __future__ import annotations

import json

from tests.real_parties import command


def test_bench_federate_says_what_a_round_takes() -> None:
    size = ("--clients", "3", "--rows", "1500", "--features", "4", "--rounds", "4")
    done = command("bench", "federate", *size, "--json", seconds=240)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["app"] == "logistic"
    assert figures["clients"] == 3
    assert 1 <= figures["rounds"] <= 5
    assert figures["round_ms"] > 0
    assert figures["curve"][0] > figures["curve"][-1], "the loss falls"
    assert figures["bytes"] > 0


def test_bench_federate_names_the_apps_there_are() -> None:
    done = command("bench", "federate", "--app", "trees")
    assert done.returncode != 0
    assert "expected logistic or kmeans" in done.stderr + done.stdout
