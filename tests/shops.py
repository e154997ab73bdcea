"""Shops that hold the same columns of different people, and the real processes of campaigns between them.

with shops(tmp_path, 3) as there:
    there.propose("spring", "logistic", rounds=5)
    there.up()
    there.until_over("spring")
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.real_parties import is_alive, until, workers
from tidegate.party.config import Home
from tidegate.party.demo.loopback import DataSet, Loopback, loopback, places, register, wait_for_port
from tidegate.party.store import FINAL, Campaign, Run, Store

COLUMNS = ("age", "visits", "spend", "loyal")
RANGES = {"age": (18.0, 90.0), "visits": (0.0, 30.0), "spend": (0.0, 500.0), "loyal": (0.0, 1.0)}
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """One shop's people: x (n, 4) of COLUMNS, y (n,) whether they bought, and the file that holds them."""

    path: Path
    x: FloatArray
    y: FloatArray


def names(clients: int) -> tuple[str, ...]:
    return tuple(f"shop-{chr(ord('a') + number)}" for number in range(clients))


def write_tables(
    folder: Path, clients: int, *, seed: int = 1, rows: int = 1600, alike: bool = False
) -> dict[str, Table]:
    """A table of each shop, of people in three groups, of whom each shop has other shares unless they are `alike`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    made = {}
    for number, name in enumerate(names(clients)):
        group = rng.choice(3, rows, p=np.roll([0.5, 0.3, 0.2], 0 if alike else number))
        centres = np.array([[28, 20, 60, 0.2], [45, 6, 330, 0.6], [70, 12, 160, 0.9]])[group]
        x = centres + rng.standard_normal((rows, 4)) * [6, 2.5, 35, 0]
        x[:, 3] = rng.random(rows) < centres[:, 3]
        x = np.clip(np.round(x, 9), *np.array([RANGES[column] for column in COLUMNS]).T)
        z = 0.04 * (x[:, 0] - 45) + 0.15 * (x[:, 1] - 10) + 0.006 * (x[:, 2] - 180) + x[:, 3] - 0.6
        y = (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(np.float64)
        path = folder / f"{name}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*COLUMNS, "bought"])
            writer.writerows(
                [*row[:3], int(row[3]), "yes" if good else "no"] for row, good in zip(x.tolist(), y, strict=True)
            )
        made[name] = Table(path, x, y)
    return made


def campaign_text(name: str, clients: int, app: str, **settings: Any) -> str:
    """A campaign file; settings are those of the step, or whole tables anew by their names."""
    listed = ", ".join(f'"{each}"' for each in names(clients))
    tables = {
        "parties": f"clients = [{listed}]",
        "data": "\n".join(f'{each} = "people"' for each in names(clients)),
        "features": f"columns = {json.dumps(COLUMNS)}",
        "ranges": "\n".join(f"{column} = [{low}, {high}]" for column, (low, high) in RANGES.items()),
    }
    if app == "logistic":
        tables |= {"label": 'column = "bought"\npositive = "yes"', "holdout": "share = 20"}
    tables |= {key: settings.pop(key) for key in list(settings) if key in (*tables, "privacy")}
    step = "\n".join(f"{key} = {json.dumps(value)}" for key, value in {"app": app, **settings}.items())
    tables |= {"steps.federate": f"{step}\n"}
    return "\n\n".join(
        [f'[campaign]\nname = "{name}"', *(f"[{title}]\n{body}" for title, body in tables.items() if body)]
    )


@dataclass
class Shops:
    """A coordinator and the shops; `until_over` and its kin look into their stores."""

    stage: Loopback
    stores: dict[str, Store]

    @property
    def names(self) -> tuple[str, ...]:
        return self.stage.names

    # Before a run

    def propose(self, name: str, app: str, tables: dict[str, Table], **settings: Any) -> None:
        """Registers the tables anew and has everybody sign the campaign."""
        for shop, data in tables.items():
            register(self.stage, shop, DataSet("people", data.path, {}, ""))
        for shop in self.names[1:]:
            self.stage.party(shop, "data", "offer", "people", "--to", self.names[0])
        file = self.stage.folder / f"{name}.toml"
        file.write_text(campaign_text(name, len(self.names), app, **settings))
        self.stage.campaign(self.names[0], "propose", str(file), "--yes")
        for shop in self.names[1:]:
            self.stage.party(shop, "approve", name, "--yes")

    # Processes

    def up(self, *names: str) -> None:
        """Starts those that are not up, the coordinator among them."""
        for name in names or ("coordinator", *self.names):
            process = self.stage.processes.get(name)
            if process is not None and process.poll() is None:
                continue
            if name == "coordinator":
                self.stage.start_coordinator()
            else:
                self.stage.start_node(name)
        self._wait_for_the_coordinator()

    def _wait_for_the_coordinator(self) -> None:
        address = self.home(self.names[0]).coordinator().address
        wait_for_port(self.stage, int(address.rpartition(":")[2]))

    def up_with_worker(self, name: str, program: str) -> None:
        """Starts one anew whose workers run this Python text before their own."""
        self.kill(name)
        group, home = self._place(name)
        doctored = f"{self._with_worker(name, program)}; from tidegate.__main__ import main; main()"
        self._run(name, [sys.executable, "-c", doctored, group, "--home", home, "up"])

    def up_recording(self, file: Path, program: str) -> None:
        """Starts the coordinator anew as one that keeps a copy of all that it sees, with such workers."""
        self.kill("coordinator")
        text = f"{self._with_worker('coordinator', program)}; from tests.recording_coordinator import main; main()"
        self._run("coordinator", [sys.executable, "-c", text, str(file), "--home", self._place("coordinator")[1], "up"])

    def _place(self, name: str) -> tuple[str, str]:
        if name == "coordinator":
            return name, str(self.stage.folder / "coordinator")
        return "party", str(self.home(name).path)

    def _with_worker(self, name: str, program: str) -> str:
        """A line of Python after which workers are started that run the program first."""
        text = self.stage.folder / f"{name}-worker.py"
        text.write_text(
            f"{program}\nimport sys\nfrom tidegate.{self._place(name)[0]} import worker\nsys.exit(worker.main())\n"
        )
        python = self.stage.folder / f"{name}-python"
        python.write_text(f"#!/bin/sh\nexec {sys.executable} {text}\n")
        python.chmod(0o700)
        return f"import sys; sys.executable = {str(python)!r}"

    def _run(self, name: str, command: list[str]) -> None:
        with (self.stage.folder / f"{name}.log").open("ab") as log:
            self.stage.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._wait_for_the_coordinator()

    def kill(self, name: str, how: int = signal.SIGKILL) -> None:
        process = self.stage.processes.pop(name, None)
        if process is not None and process.poll() is None:
            process.send_signal(how)
            process.wait(60)

    def worker(self, name: str) -> int | None:
        """The process id of a worker of this party, or of the coordinator's own."""
        return next(iter(workers(self.stage.processes[name].pid)), None) if name in self.stage.processes else None

    def said(self, name: str) -> str:
        path = self.stage.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    # What is known

    def home(self, party: str) -> Home:
        return self.stage.home(party)

    def campaign(self, party: str, name: str) -> Campaign:
        return self.stores[party].campaign(name)

    def runs(self, party: str, name: str) -> list[Run]:
        return self.stores[party].runs(self.campaign(party, name).hash)

    def events(self, party: str, name: str) -> list[str]:
        return [event.text for event in self.stores[party].events(self.campaign(party, name).hash)]

    def until_over(self, name: str, state: str = "done", seconds: float = 200) -> None:
        """Waits until the campaign is over at all shops and checks how."""
        with contextlib.suppress(AssertionError):
            until(
                "the campaign ends",
                lambda: all(self.campaign(each, name).state in FINAL for each in self.names),
                seconds,
            )
        found = {each: (self.campaign(each, name).state, self.campaign(each, name).reason) for each in self.names}
        told = [self.said(each)[-2000:] for each in ("coordinator", *self.names)]
        assert {one for one, _ in found.values()} == {state}, f"{found}; {told}"

    def results(self, party: str, name: str) -> Path:
        return self.home(party).campaign(self.campaign(party, name).short) / "federate"

    def facts(self, party: str, name: str) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.results(party, name) / "facts.json").read_text())
        return facts

    def leftovers(self) -> list[str]:
        """Staged files at any shop: there are none between runs."""
        return [str(path) for shop in self.names for path in (self.home(shop).path / "staging").iterdir()]


@contextlib.contextmanager
def shops(folder: Path, clients: int) -> Iterator[Shops]:
    """The coordinator, which is up, and the shops, which are not, set up by the commands that people type."""
    tables = write_tables(folder / "first", clients)
    called = names(clients)
    data = {
        place: DataSet("people", tables[name].path, {}, "") for place, name in zip(places(called), called, strict=True)
    }
    with loopback(folder / "stage", data, called) as stage:
        there = Shops(stage, {name: Store(stage.home(name).store_db) for name in called})
        try:
            yield there
        finally:
            left = [pid for process in stage.processes.values() for pid in workers(process.pid)]
            for process in stage.processes.values():
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGCONT)
            for store in there.stores.values():
                store.close()
    # A worker hears from a pipe that its node is gone, and ends by itself.
    until("the workers end with their nodes", lambda: not any(map(is_alive, left)), 20)
