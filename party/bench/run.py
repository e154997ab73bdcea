"""Runs one step between a coordinator and two nodes on generated data and measures it at both parties.

In the step segment the coordinator plays a part itself, and its memory is measured too.

What is measured is what a user waits for: from the node's order to its worker, which reads its rows from disk, until
the result is committed on disk at both parties. Steps that the measured one needs run before it and are not counted.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate import __version__
from tidegate.protocols.catalog import CATALOG, DEFAULT_PROTOCOL
from tidegate.protocols.channel import ConfigError
from tidegate.protocols.primitives import group

from ..demo.loopback import DataSet, Loopback, campaign_state, is_over, loopback
from ..store import Store
from . import generate

LONGEST_S = 3 * 3600.0
MATCHED_FOR_EXPAND = 20_000
GROUPS = 5  # of people, where segments are to find out how many
_NAME, _AGAIN = "bench", "bench-again"


@dataclass(frozen=True)
class Load:
    """What to measure. rows: at the brand for match, other people for expand, matched for all others.

    cached: of score, by the model of an earlier campaign that has scored the same rows. k (0: to be chosen), starts and
    steps (iterations) are those of segment.
    """

    step: str
    rows: int
    peer_rows: int
    overlap_percent: int
    brand_features: int
    media_features: int
    steps: int
    keys: tuple[str, ...]
    mode: str = "both"
    engine: str = "oprf"
    cached: bool = False
    k: int = 5
    starts: int = 1


def bench(load: Load) -> dict[str, Any]:
    """Measures one step and returns the figures. Raises a TidegateError when the campaign does not end well."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        return _bench(load, Path(folder))


def _bench(load: Load, folder: Path) -> dict[str, Any]:
    write_data(load, folder / "data")
    file = folder / "campaign.toml"
    file.write_text(campaign_text(load))
    keys = {kind: kind for kind in load.keys}
    data = {
        "brand": DataSet("customers", folder / "data" / "brand.parquet", keys, "US"),
        "media": DataSet("people", folder / "data" / "media.parquet", keys, "US"),
    }
    with loopback(folder / "stage", data) as stage:
        stage.campaign("brand", "propose", str(file), "--yes")
        stage.party("media", "approve", _NAME, "--yes")
        for party in stage.names:
            stage.start_node(party)
        if load.cached:
            wait(stage, _NAME)
            file.write_text(_again(load, campaign_state(stage.home("brand"), _NAME).short))
            stage.campaign("brand", "propose", str(file), "--yes")
            stage.party("media", "approve", _AGAIN, "--yes")
        began = {name: cpu_seconds(process.pid) for name, process in stage.processes.items()}
        peak = PeakMemory(stage, *(["coordinator"] if load.step == "segment" else []))
        name = _AGAIN if load.cached else _NAME
        wait(stage, name)
        peaks = peak.stop()
        cpu_s = {name: round(cpu_seconds(process.pid) - began[name], 2) for name, process in stage.processes.items()}
    figures = {**_figures(load, stage, name), "peak_rss_mb": max(peaks.values()), "peak_rss_mb_by_party": peaks}
    return {"step": load.step, **figures, "cpu_s": cpu_s, "rows": load.rows, **_given(load), **machine()}


def write_data(load: Load, folder: Path) -> None:
    """Writes brand.parquet and media.parquet, the tables that a load is measured on."""
    rows, peer_rows, common = _sizes(load)
    generate.write(
        folder,
        rows=rows,
        peer_rows=peer_rows,
        common=common,
        brand_features=load.brand_features,
        media_features=load.media_features,
        groups=(load.k or GROUPS) if load.step == "segment" else 1,
    )


def _sizes(load: Load) -> tuple[int, int, int]:
    """Rows at the brand, rows at the media, people in common."""
    if load.step == "match":
        return load.rows, load.peer_rows, min(load.rows, load.peer_rows) * load.overlap_percent // 100
    if load.step == "expand":
        return MATCHED_FOR_EXPAND, MATCHED_FOR_EXPAND + load.rows, MATCHED_FOR_EXPAND
    return load.rows, load.rows, load.rows


def _given(load: Load) -> dict[str, Any]:
    if load.step == "match":
        matched = {"mode": load.mode, "engine": load.engine, "keys": list(load.keys)}
        return {"peer_rows": load.peer_rows, "overlap_percent": load.overlap_percent, **matched}
    given: dict[str, Any] = {"brand_features": load.brand_features, "media_features": load.media_features}
    if load.step == "train":
        given["steps"] = load.steps
    elif load.step == "segment":
        given |= {"k": load.k, "starts": load.starts, "most_iterations": load.steps}
    return given


def campaign_text(load: Load) -> str:
    """The campaign file of a measurement: the step, what it needs before it, and nothing else."""
    wanted = [*CATALOG[DEFAULT_PROTOCOL[load.step]].needs, load.step]
    steps = load.steps if load.step == "train" else 1
    lookalike = "lookalike_steps = 1\n" if load.step == "expand" else ""
    settings = {
        "train": f"steps = {steps}\n{lookalike}l2 = 1\n",
        "expand": "sizes = [5, 10]\n",
        "segment": f"k = {load.k or json.dumps('auto')}\nstarts = {load.starts}\niterations = {load.steps}\n",
    }
    keys = ", ".join(f'"{kind}"' for kind in load.keys)
    # A match uses no columns but the keys.
    columns = (
        '[label]\ncolumn = "good"\npositive = "1"\n\n[features]\nbrand = "all"\nmedia = "all"\n\n'
        "[holdout]\nshare = 10\n\n"
    )
    if load.step == "segment":
        named = {"brand": load.brand_features, "media": load.media_features}
        listed = {party: json.dumps([generate.column(j) for j in range(count)]) for party, count in named.items()}
        columns = f"[features]\nbrand = {listed['brand']}\nmedia = {listed['media']}\n\n"
    return (
        f'[campaign]\nname = "{_NAME}"\nexpires_days = 1\n\n[parties]\nbrand = "brand"\nmedia = "media"\n\n'
        '[data]\nbrand = "customers"\nmedia = "people"\n\n'
        f'[match]\nkeys = [{keys}]\nmode = "{load.mode}"\nengine = "{load.engine}"\n\n'
        + (columns if load.step != "match" else "")
        + "\n".join(f"[steps.{step}]\n{settings.get(step, '')}" for step in wanted)
    )


def _again(load: Load, short: str) -> str:
    """The campaign file of a second campaign, which uses what the first one has trained."""
    text = campaign_text(load)
    text = text.replace(f'name = "{_NAME}"', f'name = "{_AGAIN}"').split("[steps.match]")[0]
    return f'{text}[model]\ncampaign = "{short}"\n\n[steps.match]\n[steps.{load.step}]\n'


def wait(stage: Loopback, name: str) -> None:
    deadline = time.monotonic() + LONGEST_S
    while True:
        campaigns = [campaign_state(stage.home(party), name) for party in stage.names]
        if any(is_over(campaign) and campaign.state != "done" for campaign in campaigns):
            ended = next(campaign for campaign in campaigns if is_over(campaign) and campaign.state != "done")
            raise ConfigError(f"the measurement ended as {ended.state}: {ended.by} {ended.reason}")
        if all(is_over(campaign) for campaign in campaigns):
            return
        stage.check_alive()
        if time.monotonic() > deadline:
            raise ConfigError("the measurement did not end in time")
        time.sleep(0.2)


def _figures(load: Load, stage: Loopback, name: str) -> dict[str, Any]:
    """Seconds from the first order to the last commit, and every frame's bytes once."""
    starts, ends, sent, received = [], [], [], []
    for party in stage.names:
        store = Store(stage.home(party).store_db)
        campaign = store.campaign(name)
        index = [step.step for step in campaign.contract.steps].index(load.step)
        events = [event for event in store.events(campaign.hash) if event.step == index]
        run = next(run for run in store.runs(campaign.hash) if run.step == index and run.state == "committed")
        store.close()
        starts.append(events[0].at_s)
        ends.append(events[-1].at_s)
        sent.append(run.sent)
        received.append(run.received)
        facts = json.loads((stage.home(party).results(campaign.short, load.step) / "facts.json").read_text())
    figures: dict[str, Any] = {"seconds": round(max(ends) - min(starts), 3), "bytes": sum(sent)}
    if "streaming_s" in facts:
        # The media's: from the brand's last question to the last answer.
        rate = round(load.rows / max(facts["streaming_s"], 0.001))
        figures |= {"streaming_s": facts["streaming_s"], "rows_per_s": rate, "cached": load.cached}
        figures["bytes_down_per_row"] = round(sent[-1] / load.rows, 1)
    if load.step == "match":
        figures["bytes_per_row"] = round(sum(sent) / max(load.rows, load.peer_rows), 1)
    if load.step == "segment":
        figures |= _of_segments(facts, load, sum(sent), sum(received))
    return figures


def _of_segments(facts: dict[str, Any], load: Load, sent: int, received: int) -> dict[str, Any]:
    """What the media's facts say of a clustering. bytes_received: by both parties, nearly all from the coordinator."""
    starts, sizes = facts["starts"], [segment["size"] for segment in facts["segments"]]
    iterations = sum(start["iterations"] for start in starts)
    figures = {
        "segments": len(sizes),
        "sizes": sizes,
        "iterations": iterations,
        "converged": all(start["converged"] for start in starts),
        "explained": facts["explained"],
        "bytes_received": received,
    }
    if load.k:
        figures["bytes_per_row_and_iteration"] = round(sent / load.rows / iterations, 1)
    return figures


class PeakMemory:
    """Samples the resident memory of the nodes and of `others`, with the workers below them; keeps the largest."""

    def __init__(self, stage: Loopback, *others: str) -> None:
        self._stage, self._over = stage, threading.Event()
        self._peak_kb = dict.fromkeys((*stage.names, *others), 0)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            for name in self._peak_kb:
                process = self._stage.processes.get(name)
                if process is not None:
                    self._peak_kb[name] = max(self._peak_kb[name], _resident_kb(process.pid))

    def stop(self) -> dict[str, float]:
        """MiB by name."""
        self._over.set()
        self._thread.join()
        return {name: round(peak_kb / 1024, 1) for name, peak_kb in self._peak_kb.items()}


def _resident_kb(pid: int) -> int:
    """Resident memory of a process and its descendants, in KiB; 0 once they are gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
    return own + sum(_resident_kb(int(child)) for child in children)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and of its descendants that have ended; 0 once it is gone."""
    try:
        # After the name, which may hold anything: state, then numbers; 11 to 14 are the times.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    cpu = "unknown"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"cores": len(os.sched_getaffinity(0)), "cpu": cpu, "group": group.backend(), "version": __version__}
