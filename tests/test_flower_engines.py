"""The same apps on Flower's own engines: its Ray simulation, and `flwr run` with a SuperLink on the loopback."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from examples.flower.shops import app

from tests.pools import Pool
from tidegate.protocols.horizontal.task import Outcome

pytest.importorskip("ray", reason="pip install 'tidegate[simulation]'")

ROOT = Path(__file__).parent.parent
SHOPS, ROUNDS = 4, 2


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: Ray's sockets have names of at most 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="r"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def _environment(folder: Path) -> dict[str, str]:
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, **quiet, "PATH": path, "FLWR_HOME": str(folder / "flower"), "RAY_TMPDIR": str(folder)}


def _over_our_lines() -> Outcome:
    sites = {site.name: site for site in (app.shop(number, SHOPS, rounds=ROUNDS) for number in range(SHOPS))}
    return Pool(sites).play()[0]


def _verify(printed: str) -> None:
    """The engine's last line has what the same shops get over our lines."""
    found = re.search(r"(\d+) rounds, loss ([\d.]+), AUC of all hold-outs ([\d.]+)", printed)
    assert found, printed
    ours = _over_our_lines()
    assert int(found[1]) == ours.rounds
    assert np.isclose(float(found[2]), ours.curves["loss"][-1], atol=1e-4)
    assert np.isclose(float(found[3]), ours.curves["auc"][-1], atol=1e-4)


def test_the_ray_simulation_gives_what_our_lines_give(folder: Path) -> None:
    command = ["examples/flower/simulate.py", "--shops", str(SHOPS), "--rounds", str(ROUNDS), "--folder", str(folder)]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=_environment(folder),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _verify(done.stdout)


@contextlib.contextmanager
def _held_port() -> Iterator[int]:
    """A port that Linux gives to nobody else inside; a server that asks for it by its number may listen there."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield holder.getsockname()[1]


@contextlib.contextmanager
def _superlink(folder: Path, environment: dict[str, str], port: int, control: int) -> Iterator[str]:
    """Its address; `flwr run` would start one itself, on a fixed port, and leave it."""
    bind = ["--host", "127.0.0.1", "--port", str(port), "--control-api-address", f"127.0.0.1:{control}"]
    command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess", *bind]
    with (folder / "superlink.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            assert process.poll() is None, (folder / "superlink.log").read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_flwr_run_gives_what_our_lines_give(folder: Path) -> None:
    environment = _environment(folder)
    home = Path(environment["FLWR_HOME"])
    home.mkdir()
    with (
        _held_port() as port,
        _held_port() as control,
        _superlink(folder, environment, port, control) as address,
    ):
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{address}"\ninsecure = true\n'
        )
        nodes = f"num-supernodes={SHOPS} client-resources-num-cpus=1 init-args-num-cpus=2"
        settings = f"clients={SHOPS} rounds={ROUNDS}"
        done = subprocess.run(
            ["flwr", "run", "examples/flower", "--stream", "--federation-config", nodes, "--run-config", settings],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    _verify(done.stdout)
