"""A brand `shop` and a media `paper` with small tables of their own, and the real processes of campaigns between them.

    with town(tmp_path) as there:
        there.propose("spring", write_tables(tmp_path / "spring"))
        there.up()
        there.until_over("spring")

People are drawn from a seed. Some have no telephone, some no e-mail address, and both are written differently at the
two parties; `Tables.joined` is the clear-text join that no party could make.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from tidegate.party import quality, screen
from tidegate.party.config import Home
from tidegate.party.data import features, table
from tidegate.party.demo.loopback import DataSet, Loopback, loopback, register, wait_for_port
from tidegate.party.demo.records import fiction_phones
from tidegate.party.store import FINAL, Campaign, Run, Store

SHOP, PAPER = NAMES = ("shop", "paper")
EVERYBODY = (SHOP, PAPER, "coordinator")
DATA = {SHOP: "buyers", PAPER: "readers"}
ALL_STEPS = ("match", "insight", "train", "score", "expand")
SETTINGS = {"train": "steps = 8\nl2 = 5", "expand": "sizes = [10, 20]"}
FEATURES = {SHOP: ["age", "plan", "spend"], PAPER: ["visits", "device", "clicks", "since"]}

Rows = list[dict[str, object]]


@dataclass(frozen=True)
class Tables:
    """Two CSV files of the same people in part, and the row numbers (shop's, paper's) of those in both."""

    shop: Path
    paper: Path
    joined: NDArray[np.int64]


def write_tables(
    folder: Path, *, seed: int = 1, shop_rows: int = 1400, paper_rows: int = 2400, common: int = 1100
) -> Tables:
    """Writes shop.csv and paper.csv: numbers, categories, missing values, a constant and free text."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    people = shop_rows + paper_rows - common
    phones = fiction_phones(people)
    taste = rng.standard_normal((people, 3))
    good = rng.random(people) < 1 / (1 + np.exp(0.4 - taste @ [0.8, 1.2, 0.6]))
    plan, device = np.array(["basic", "plus", "pro"]), np.array(["phone", "tablet", "desktop", "tv"])
    at_shop = rng.permutation(shop_rows)
    at_paper = rng.permutation(np.concatenate([np.arange(common), np.arange(shop_rows, people)]))
    no_phone, no_mail = rng.random((2, people)) < 0.15, rng.random((2, people)) < 0.15
    no_mail &= ~no_phone
    shop: Rows = [
        {
            "tel": "" if no_phone[0, i] else f"({phones[i][2:5]}) {phones[i][5:8]}-{phones[i][8:]}",
            "contact": "" if no_mail[0, i] else f" Reader.{i}@Example.COM",
            "age": "" if rng.random() < 0.12 else int(45 + 12 * taste[i, 0] + 6 * rng.standard_normal()),
            "plan": plan[int(rng.integers(3))]
            if rng.random() < 0.5
            else plan[int(np.digitize(taste[i, 0], [-0.5, 1]))],
            "spend": round(float(np.exp(0.5 * taste[i, 0] + rng.standard_normal())), 2),
            "currency": "eur",
            "bought": "yes" if good[i] else "no",
            "split": "test" if rng.random() < 0.4 else "train",
        }
        for i in at_shop
    ]
    paper: Rows = [
        {
            "mobile": "" if no_phone[1, i] else phones[i],
            "e_mail": "" if no_mail[1, i] else f"reader.{i}@example.com",
            "visits": "" if rng.random() < 0.1 else int(np.exp(1.5 + 0.8 * taste[i, 1])),
            "device": "" if rng.random() < 0.05 else device[int(np.digitize(taste[i, 2], [-1, 0, 1]))],
            "clicks": int(rng.poisson(np.exp(0.5 * taste[i, 1] + 0.3 * taste[i, 2]))),
            "since": f"20{int(rng.integers(10, 24))}-03-01",
            "country": "NL",
            "remark": f"reads page {i} first",
        }
        for i in at_paper
    ]
    row_at = {int(i): row for row, i in enumerate(at_paper)}
    joined = [
        (row, row_at[int(i)])
        for row, i in enumerate(at_shop)
        if i < common and not ((no_phone[:, i]).any() and (no_mail[:, i]).any())
    ]
    write_csv(folder / "shop.csv", shop)
    write_csv(folder / "paper.csv", paper)
    return Tables(folder / "shop.csv", folder / "paper.csv", np.array(joined, np.int64).reshape(-1, 2))


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def pooled_auc(tables: Tables) -> float:
    """AUC on the hold-out of the model that scikit-learn fits on the clear-text join."""
    shop, paper = table.read(tables.shop), table.read(tables.paper)
    rows = tables.joined
    test = np.array(table.texts(shop, "split"), dtype=object)[rows[:, 0]] == "test"
    y = (np.array(table.texts(shop, "bought"), dtype=object)[rows[:, 0]] == "yes").astype(np.int64)
    x = np.hstack(
        [
            features.apply(features.fit(own, FEATURES[name], rows[~test, side]), own, rows[:, side])
            for side, (name, own) in enumerate(((SHOP, shop), (PAPER, paper)))
        ]
    )
    model = LogisticRegression(C=1 / 5, max_iter=10_000, tol=1e-8).fit(x[~test], y[~test])
    return quality.auc(y[test], model.decision_function(x[test]))


def campaign_text(name: str, steps: tuple[str, ...] = ALL_STEPS, **replaced: str) -> str:
    """A campaign file; `replaced` gives whole tables anew, by their names."""
    tables = {
        "parties": f'brand = "{SHOP}"\nmedia = "{PAPER}"',
        "data": 'brand = "buyers"\nmedia = "readers"',
        "match": 'keys = ["phone", "email"]',
        "label": 'column = "bought"\npositive = "yes"',
        "features": f'brand = "all"\nmedia = {json.dumps(FEATURES[PAPER])}',
        "holdout": 'column = "split"\nvalue = "test"',
        **replaced,
    }
    tables |= {f"steps.{step}": SETTINGS.get(step, "") for step in steps}
    return "\n\n".join([f'[campaign]\nname = "{name}"', *(f"[{title}]\n{body}" for title, body in tables.items())])


def until(what: str, condition: Callable[[], object], seconds: float = 120) -> float:
    """Waits for a condition and gives the seconds that took; fails with `what` after `seconds`."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, f"waited {seconds} s in vain: {what}"
        time.sleep(0.01)
    return time.monotonic() - started


@dataclass
class Town:
    """A coordinator and the two parties; `until` and its kin look into their stores."""

    stage: Loopback
    stores: dict[str, Store]

    # Before a run

    def register(self, tables: Tables) -> None:
        """Registers both tables anew and offers paper's to shop."""
        for party, data in data_sets(tables).items():
            register(self.stage, party, data)
        self.stage.party(PAPER, "data", "offer", "readers", "--to", SHOP)

    def propose(self, name: str, tables: Tables, steps: tuple[str, ...] = ALL_STEPS, *, approve: bool = True) -> None:
        self.register(tables)
        self.stage.campaign(SHOP, "propose", str(self.file(campaign_text(name, steps))), "--yes")
        if approve:
            self.stage.party(PAPER, "approve", name, "--yes")

    def file(self, text: str) -> Path:
        path = self.stage.folder / "campaign.toml"
        path.write_text(text)
        return path

    # Processes

    def up(self, *names: str) -> None:
        """Starts those of the three that are not up, and waits until the coordinator listens."""
        for name in names or EVERYBODY:
            process = self.stage.processes.get(name)
            if process is not None and process.poll() is None:
                continue
            if name == "coordinator":
                self.stage.start_coordinator()
            else:
                self.stage.start_node(name)
        self._wait_for_the_coordinator()

    def _wait_for_the_coordinator(self) -> None:
        wait_for_port(self.stage, int(self.home(SHOP).coordinator().address.rpartition(":")[2]))

    def up_doctored(self, name: str, program: str) -> None:
        """Starts one of the three anew with a changed program: Python text that ends by calling `main`."""
        self.kill(name)
        place = "coordinator" if name == "coordinator" else self.home(name).path.name
        group = "coordinator" if name == "coordinator" else "party"
        with (self.stage.folder / f"{name}.log").open("ab") as log:
            self.stage.processes[name] = subprocess.Popen(
                [sys.executable, "-c", program, group, "--home", str(self.stage.folder / place), "up"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_for_the_coordinator()

    def pid(self, name: str) -> int:
        return self.stage.processes[name].pid

    def worker(self, party: str) -> int | None:
        """The process id of the worker that plays a step for the party, or the coordinator's, if one runs."""
        at_work = party == "coordinator" or any(run.state == "started" for run in self.stores[party].runs())
        return next(iter(workers(self.pid(party))), None) if at_work else None

    def pid_of_worker(self, party: str) -> int:
        pid = self.worker(party)
        assert pid is not None, f"no worker of {party} runs"
        return pid

    def said(self, name: str) -> str:
        """What the process has printed since the last call."""
        path = self.stage.folder / f"{name}.log"
        text = path.read_text() if path.exists() else ""
        if text:  # else a line that comes between these two would be lost to who asks again and again
            path.write_text("")
        return text

    def kill(self, name: str, how: int = signal.SIGKILL) -> int:
        """Ends one of the three and gives its exit status, negative for a signal."""
        process = self.stage.processes.pop(name)
        process.send_signal(how)
        return process.wait(60)

    # What is known

    def campaign(self, party: str, name: str) -> Campaign:
        return self.stores[party].campaign(name)

    def runs(self, party: str, name: str, step: int | None = None) -> list[Run]:
        return [run for run in self.stores[party].runs(self.campaign(party, name).hash) if step in (None, run.step)]

    def events(self, party: str, name: str) -> list[str]:
        return [event.text for event in self.stores[party].events(self.campaign(party, name).hash)]

    def has_event(self, party: str, name: str, words: str) -> bool:
        return any(words in text for text in self.events(party, name))

    def state_line(self, party: str, name: str) -> str:
        return screen.state(self.stores[party], self.campaign(party, name), party)

    def until_over(self, name: str, state: str = "done", seconds: float = 200) -> None:
        """Waits until the campaign is over at both parties and checks how."""

        def over() -> bool:
            return all(self.campaign(party, name).state in FINAL for party in NAMES)

        with contextlib.suppress(AssertionError):
            until("the campaign ends", over, seconds)
        found = {party: (each.state, each.reason) for party in NAMES if (each := self.campaign(party, name))}
        assert {state_ for state_, _ in found.values()} == {state}, f"{found}; {[self.said(one) for one in EVERYBODY]}"

    def facts(self, party: str, name: str, step: str) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.results(party, name) / step / "facts.json").read_text())
        return facts

    def results(self, party: str, name: str) -> Path:
        return self.home(party).campaign(self.campaign(party, name).short)

    def home(self, party: str) -> Home:
        return self.stage.home(party)

    def leftovers(self) -> list[str]:
        """Staged files at either party: there are none between runs."""
        return [str(path) for party in NAMES for path in (self.home(party).path / "staging").iterdir()]


def data_sets(tables: Tables) -> dict[str, DataSet]:
    return {
        SHOP: DataSet("buyers", tables.shop, {"phone": "tel", "email": "contact"}, "US"),
        PAPER: DataSet("readers", tables.paper, {"phone": "mobile", "email": "e_mail"}, "US"),
    }


@contextlib.contextmanager
def town(folder: Path) -> Iterator[Town]:
    """The three, set up by the commands that people type; the coordinator is up, the nodes are not."""
    data = data_sets(write_tables(folder / "first"))
    data = {"brand": data[SHOP], "media": data[PAPER]}
    with loopback(folder / "stage", data, NAMES) as stage:
        stores = {party: Store(stage.home(party).store_db) for party in NAMES}
        there = Town(stage, stores)
        try:
            yield there
        finally:
            left = [pid for process in stage.processes.values() for pid in workers(process.pid)]
            for process in stage.processes.values():
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
            for store in stores.values():
                store.close()
    # A worker hears from a pipe that its node is gone, and ends by itself.
    until("the workers end with their nodes", lambda: not any(map(is_alive, left)), 20)


def workers(pid: int) -> list[int]:
    """The workers below a node or the coordinator as they were started: one that waits for a later step comes last."""
    with contextlib.suppress(OSError):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in found if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return []


def is_alive(pid: int) -> bool:
    """Whether the process runs: gone and zombie ones do not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def command(*arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """`tidegate ARGUMENTS` as a process of its own, as a person types it."""
    return subprocess.run(
        [sys.executable, "-m", "tidegate", *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
