"""A coordinator, a brand and one or more media on this machine: real processes and keys, gRPC with mutual TLS.

The set-up goes through the same commands that a user types (docs/quickstart.md). Everything that is started here is
stopped here, by process id, also when the caller fails or is interrupted.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import typer

from tidegate.protocols.channel import ConfigError, TidegateError

from ..cli import campaign_app, party_app
from ..config import Home
from ..store import FINAL, Campaign, Store

PARTIES = ("brand", "media")
START_S = 30.0
STOP_S = 10.0


@dataclass(frozen=True)
class DataSet:
    """A file that a party registers: its name, its key columns by kind, and the region of its local phone numbers."""

    name: str
    path: Path
    keys: dict[str, str]
    region: str
    duplicates: str = "refuse"


def places(names: tuple[str, ...]) -> tuple[str, ...]:
    """The folders of the parties: two are in those of their roles, whatever they are called; several media by name."""
    return PARTIES if len(names) == len(PARTIES) else (PARTIES[0], *names[1:])


@dataclass
class Loopback:
    """The homes under one folder and the processes that run on them. names: the brand's, then those of the media."""

    folder: Path
    names: tuple[str, ...]
    processes: dict[str, subprocess.Popen[bytes]]

    def home(self, party: str) -> Home:
        return Home(self.folder / places(self.names)[self.names.index(party)])

    def party(self, party: str, *arguments: str) -> str:
        """Runs `tidegate party --home ... ARGUMENTS` in this process and returns what it printed."""
        return _run(party_app, "--home", str(self.home(party).path), *arguments)

    def campaign(self, party: str, *arguments: str) -> str:
        return _run(campaign_app, "--home", str(self.home(party).path), *arguments)

    def coordinator(self, *arguments: str) -> str:
        """Runs `tidegate coordinator ...` as a process and returns its standard output."""
        command = _tidegate("coordinator", "--home", str(self.folder / "coordinator"), *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip()
            raise ConfigError(f"`tidegate coordinator {arguments[0]}` failed: {said}")
        return done.stdout

    def start(self, name: str, *command: str) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            self.processes[name] = subprocess.Popen(
                _tidegate(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def start_node(self, party: str) -> None:
        self.start(party, "party", "--home", str(self.home(party).path), "up")

    def start_coordinator(self) -> None:
        self.start("coordinator", "coordinator", "--home", str(self.folder / "coordinator"), "up")

    def stop(self, name: str, how: int = signal.SIGTERM) -> None:
        process = self.processes.pop(name, None)
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def check_alive(self) -> None:
        """Raises ConfigError with the end of its log when one of the processes has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                log = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
                raise ConfigError(f"the {name} ended early: {' '.join(log[-3:])}", f"see {self.folder / name}.log")


@contextlib.contextmanager
def _cleaning_up() -> Iterator[None]:
    """Inside, SIGTERM and a closed terminal end this process by an exception, so that what it started is stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def loopback(folder: Path, data: dict[str, DataSet], names: tuple[str, ...] = PARTIES) -> Iterator[Loopback]:
    """A coordinator and joined parties that trust each other, with their data registered and offered to the brand.

    names: what the brand and each media are called; data: by folder, see `places`. The nodes are not up yet.
    """
    for made in ("coordinator", *places(names)):
        if (folder / made).exists():
            raise ConfigError(f"{folder / made} is there already", "choose another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    stage = Loopback(folder, names, {})
    with _cleaning_up(), held_port() as port, _stopping(stage):
        # The coordinator gets going while the parties make their keys and look over their data.
        with ThreadPoolExecutor(max_workers=1) as beside:
            invites = beside.submit(_open_coordinator, stage, port)
            for name in names:
                stage.party(name, "init", name)
                stage.party(name, "card", "--out", str(folder / f"{name}.card"))
            for name, other in itertools.permutations(names, 2):
                stage.party(name, "trust", str(folder / f"{other}.card"), "--yes")
            for place, name in zip(places(names), names, strict=True):
                register(stage, name, data[place])
            for name, invite in invites.result().items():
                stage.party(name, "join", invite)
        for place, name in list(zip(places(names), names, strict=True))[1:]:
            stage.party(name, "data", "offer", data[place].name, "--to", names[0])
        yield stage


@contextlib.contextmanager
def _stopping(stage: Loopback) -> Iterator[None]:
    try:
        yield
    finally:
        for name in (*stage.names, "coordinator"):
            stage.stop(name)


def _open_coordinator(stage: Loopback, port: int) -> dict[str, str]:
    """Makes and starts the coordinator; an invite for each party by its name."""
    stage.coordinator("init", "--address", f"127.0.0.1:{port}")
    stage.start_coordinator()
    invites = {name: _invite(stage.coordinator("invite", name)) for name in stage.names}
    wait_for_port(stage, port)
    return invites


def register(stage: Loopback, party: str, data: DataSet) -> None:
    arguments = ["data", "add", data.name, str(data.path), "--duplicates", data.duplicates]
    for kind, column in data.keys.items():
        arguments += ["--key", f"{kind}={column}"]
    if data.region:
        arguments += ["--region", data.region]
    stage.party(party, *arguments)


def campaign_state(home: Home, name: str) -> Campaign:
    store = Store(home.store_db)
    try:
        return store.campaign(name)
    finally:
        store.close()


def is_over(campaign: Campaign) -> bool:
    return campaign.state in FINAL


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A port of the loopback to listen on; inside, the system gives it to nobody who asks for any free one."""
    with socket.socket() as held:
        # Bound and not listening: who names the port and sets this option too, as servers do, gets it.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def wait_for_port(stage: Loopback, port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        stage.check_alive()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise ConfigError("the coordinator did not start in time", f"see {stage.folder / 'coordinator.log'}")


def _tidegate(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tidegate", *arguments]


def _invite(printed: str) -> str:
    found = [word for word in printed.split() if word.startswith("tidegate-invite-")]
    if not found:
        raise ConfigError("the coordinator printed no invite")
    return found[0]


def _run(app: typer.Typer, *arguments: str) -> str:
    """A command of ours in this process; its own errors come out as exceptions, not as an exit."""
    printed = io.StringIO()
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "200"
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            app(list(arguments), standalone_mode=False)
    except (SystemExit, typer.Exit) as ended:
        raise ConfigError(f"`{' '.join(arguments[2:4])}` ended early: {printed.getvalue().strip()}") from ended
    except TidegateError:
        raise
    finally:
        if width is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = width
    return printed.getvalue()
