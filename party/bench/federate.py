"""Trains over the rows of many clients, between real processes on this machine, and measures what a round takes.

The coordinator and each client's node are processes, and so are the workers that they start for the run: what travels
goes through the same sealed lines as between companies. A round is timed at the clients, from one question of the
coordinator's to the next; seconds are from the first order to a worker until the result is committed at all clients.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..demo.loopback import DataSet, Loopback, loopback, places
from ..store import Store
from .run import PeakMemory, cpu_seconds, machine, wait

LEAST_ROWS = 1000
_NAME, _DATA = "bench", "people"
_RANGE = 6.0
_CLUSTERS = 5
_SEED = 7


@dataclass(frozen=True)
class Load:
    """What to measure: `rows` at each of the clients, `features` columns, at most `rounds`."""

    clients: int
    rows: int
    features: int
    rounds: int
    app: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"client-{number}" for number in range(1, self.clients + 1))


def bench(load: Load) -> dict[str, Any]:
    """Measures one run and returns the figures. Raises a TidegateError when the campaign does not end well."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        return _bench(load, Path(folder))


def _bench(load: Load, folder: Path) -> dict[str, Any]:
    files = write_data(load, folder / "data")
    file = folder / "campaign.toml"
    file.write_text(campaign_text(load))
    data = {place: DataSet(_DATA, path, {}, "") for place, path in zip(places(load.names), files, strict=True)}
    with loopback(folder / "stage", data, load.names) as stage:
        proposer, *others = load.names
        stage.campaign(proposer, "propose", str(file), "--yes")
        for name in others:
            stage.party(name, "approve", _NAME, "--yes")
        for name in load.names:
            stage.start_node(name)
        began = {name: cpu_seconds(process.pid) for name, process in stage.processes.items()}
        peak = PeakMemory(stage)
        wait(stage, _NAME)
        peaks = peak.stop()
        cpu_s = {name: round(cpu_seconds(process.pid) - began[name], 2) for name, process in stage.processes.items()}
        figures = _figures(load, stage)
    return {
        "step": "federate",
        **figures,
        "peak_rss_mb": max(peaks.values()),
        "cpu_s": cpu_s,
        **_given(load),
        **machine(),
    }


def _given(load: Load) -> dict[str, Any]:
    return {"app": load.app, "clients": load.clients, "rows": load.rows, "features": load.features}


def write_data(load: Load, folder: Path) -> list[Path]:
    """A table for each client, of people in overlapping groups; who buys follows from all columns."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(_SEED)
    weights = rng.standard_normal(load.features) / np.sqrt(load.features)
    centres = rng.standard_normal((_CLUSTERS, load.features)) * 1.2
    paths = []
    for name in load.names:
        x = centres[rng.integers(_CLUSTERS, size=load.rows)] + rng.standard_normal((load.rows, load.features))
        good = rng.random(load.rows) < 1 / (1 + np.exp(1 - 2 * x @ weights))
        columns = {column: x[:, j] for j, column in enumerate(_columns(load))}
        paths.append(folder / f"{name}.parquet")
        pq.write_table(pa.table({**columns, "good": np.where(good, "1", "0")}), paths[-1])
    return paths


def _columns(load: Load) -> list[str]:
    return [f"c{j}" for j in range(load.features)]


def campaign_text(load: Load) -> str:
    """The campaign file of a measurement."""
    own = {
        "logistic": 'app = "logistic"\n',
        "kmeans": f'app = "kmeans"\nk = {_CLUSTERS}\n',
    }
    label = '[label]\ncolumn = "good"\npositive = "1"\n\n[holdout]\nshare = 20\n\n' if load.app == "logistic" else ""
    ranges = "\n".join(f"{column} = [{-_RANGE}, {_RANGE}]" for column in _columns(load))
    return (
        f'[campaign]\nname = "{_NAME}"\nexpires_days = 1\n\n[parties]\nclients = {json.dumps(load.names)}\n\n'
        f'[data]\nclients = "{_DATA}"\n\n{label}[features]\ncolumns = {json.dumps(_columns(load))}\n\n'
        f"[ranges]\n{ranges}\n\n[steps.federate]\n{own[load.app]}rounds = {load.rounds}\n"
    )


def _figures(load: Load, stage: Loopback) -> dict[str, Any]:
    starts, ends, sent, round_ms = [], [], [], []
    facts: dict[str, Any] = {}
    for name in load.names:
        store = Store(stage.home(name).store_db)
        campaign = store.campaign(_NAME)
        events = [event for event in store.events(campaign.hash) if event.step == 0]
        run = next(run for run in store.runs(campaign.hash) if run.state == "committed")
        store.close()
        starts.append(events[0].at_s)
        ends.append(events[-1].at_s)
        sent += [run.sent, run.received]
        facts = json.loads((stage.home(name).results(campaign.short, "federate") / "facts.json").read_text())
        round_ms.append(facts["round_ms"])
    return {
        "seconds": round(max(ends) - min(starts), 3),
        "rounds": facts["rounds"],
        "round_ms": max(round_ms),
        "bytes": sum(sent),
        "curve": next(iter(facts["curves"].values())),
    }
