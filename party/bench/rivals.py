"""`tidegate bench rivals`: other engines' intersections beside ours: the same people, the same machine, in one run.

An engine runs as two processes over loopback TCP, under an interpreter that has it (rival_party.py), and writes what
its parties learn to files; that is compared with the clear-text intersection. The time runs from when both parties are
connected until both have written: starting their interpreters is not in it, unlike in our own figure. They get e-mail
addresses that are clean already, since they normalise nothing; ours gets them as they are generated. Theirs talk
straight to each other without TLS, ours through the relay, sealed.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidegate.protocols.channel import ConfigError, TidegateError

from .run import LONGEST_S, Load, bench, machine, write_data

PARTIES = ("brand", "media")
CONNECT_S = 90.0
SCRIPT = Path(__file__).with_name("rival_party.py")


@dataclass(frozen=True)
class Rival:
    """An engine in one setting. package: its name on PyPI; learners: the parties that get the intersection."""

    name: str
    package: str
    setting: str
    learners: tuple[str, ...]
    how: str
    leaks: str


SIZES = "both sizes"
# psi_v2_config.md, check_hash_digest: the parties compare digests of their keys first; the Python package asks for it.
SPU = f"{SIZES} and whether both sets are the same"
RIVALS = (
    Rival(
        "openmined-psi",
        "openmined-psi",
        "raw",
        ("brand",),
        "ECDH on P-256, hashed by trial; container Raw, the one without false positives; one thread a party",
        f"{SIZES}; the client learns the intersection, the server nothing (SECURITY.md)",
    ),
    Rival(
        "spu ECDH CURVE_25519",
        "spu",
        "PROTOCOL_ECDH/CURVE_25519",
        PARTIES,
        "X25519 (ipp-crypto with AVX-512 IFMA, else libsodium); SHA-256 of the identifier is taken as the x-coordinate",
        f"{SPU}, and a bit per identifier: whether the x-coordinate is on the curve or its twist stays visible",
    ),
    Rival(
        "spu ECDH CURVE_FOURQ",
        "spu",
        "PROTOCOL_ECDH/CURVE_FOURQ",
        PARTIES,
        "FourQ, hashed to the curve by FourQlib",
        SPU,
    ),
    Rival(
        "spu ECDH CURVE_25519_ELLIGATOR2",
        "spu",
        "PROTOCOL_ECDH/CURVE_25519_ELLIGATOR2",
        PARTIES,
        "X25519, hashed to the curve with Elligator 2 (RFC 9380)",
        SPU,
    ),
    Rival(
        "spu RR22",
        "spu",
        "PROTOCOL_RR22",
        PARTIES,
        "vector OLE and an oblivious key-value store, fast mode (the default), semi-honest",
        SPU,
    ),
    Rival(
        "spu RR22 low_comm_mode",
        "spu",
        "PROTOCOL_RR22/low",
        PARTIES,
        "the same with less on the wire; loses matches at some sizes (secretflow/psi issue 370)",
        SPU,
    ),
    Rival(
        "spu KKRT",
        "spu",
        "PROTOCOL_KKRT",
        PARTIES,
        "oblivious-transfer extension and cuckoo hashing, semi-honest",
        SPU,
    ),
)


def table(load: Load, python: str, names: Sequence[str], report: Callable[[str], None]) -> dict[str, Any]:
    """Our own figures and a row for each rival, those that do not run with their reason.

    load: of the step match, by e-mail; python: the interpreter that has the rivals; names: which to run, none for all;
    report: called with the name of what is measured next.
    """
    unknown = sorted(set(names) - {rival.name for rival in RIVALS})
    if unknown:
        known = ", ".join(rival.name for rival in RIVALS)
        raise ConfigError(f"--engine {unknown[0]} is no engine that this measures", f"choose from {known}")
    if load.step != "match" or load.keys != ("email",):
        raise ConfigError("the rivals match by one kind of identifier, e-mail addresses")
    if shutil.which(python) is None:
        raise ConfigError(
            f"--python is {python}, expected an interpreter", "give one of an environment with the rivals"
        )
    with tempfile.TemporaryDirectory(prefix="tidegate-rivals-") as made:
        folder = Path(made)
        common = write_people(load, folder)
        report("tidegate")
        rows = [_ours(load)]
        for rival in RIVALS:
            if not names or rival.name in names:
                report(rival.name)
                rows.append(measure(rival, python, folder, common))
    return {"rows": load.rows, "peer_rows": load.peer_rows, "common": len(common), "engines": rows, **machine()}


def write_people(load: Load, folder: Path) -> list[str]:
    """Writes brand.csv and media.csv, the people of our own measurement with clean addresses; returns the common ones.

    Each file has the one column `email`, in the order of the party's table. The returned addresses are sorted.
    """
    write_data(load, folder / "data")
    emails = {}
    for party in PARTIES:
        column = pq.read_table(folder / "data" / f"{party}.parquet", columns=["email"])["email"]
        emails[party] = pc.utf8_lower(pc.utf8_trim_whitespace(column)).to_pylist()
        _write(folder / f"{party}.csv", emails[party])
    shutil.rmtree(folder / "data")
    common: list[str] = sorted(set(emails["brand"]) & set(emails["media"]))
    return common


def _ours(load: Load) -> dict[str, Any]:
    try:
        figures = bench(load)
    except TidegateError as error:
        return {"engine": "tidegate", "absent": str(error)}
    return {
        "engine": "tidegate",
        **{name: figures[name] for name in ("version", "seconds", "bytes", "peak_rss_mb")},
    }


def measure(rival: Rival, python: str, folder: Path, common: list[str]) -> dict[str, Any]:
    """A row of the table: an engine's figures and whether it was exact, or under "absent" why there are none.

    folder: with brand.csv and media.csv as write_people leaves them; common: what it returned.
    """
    given: dict[str, Any] = {"engine": rival.name, "package": rival.package, "how": rival.how, "leaks": rival.leaks}
    # A folder each: engines leave files beside their input, and the next one is not to profit from them.
    own = folder / "engine"
    own.mkdir()
    try:
        for party in PARTIES:
            shutil.copy(folder / f"{party}.csv", own)
        given |= {"learners": list(rival.learners), **_measured(rival, python, own)}
        found = [_read(own / f"{party}-out.csv") for party in rival.learners]
    except (RivalError, OSError) as error:
        return {**given, "absent": str(error)}
    finally:
        shutil.rmtree(own)
    return {**given, "found": len(found[0]), "exact": all(sorted(one) == common for one in found)}


class RivalError(Exception):
    """A rival does not install here or failed; the text is the last that it said."""


def _measured(rival: Rival, python: str, folder: Path) -> dict[str, Any]:
    ports = _free_ports()
    parties = [_Party(rival, rank, ports, python, folder) for rank in range(2)]
    try:
        # Both are asked first, so that the one that waits for a peer without the engine does not wait in vain.
        ready = _answers(parties, CONNECT_S)
        started = time.monotonic()
        for party in parties:
            party.go()
        costs = _answers(parties, LONGEST_S)
        seconds = time.monotonic() - started
        for party in parties:
            party.go()
    finally:
        for party in parties:
            party.stop()
    return {
        "version": ready[0]["version"],
        "seconds": round(seconds, 3),
        "bytes": sum(cost["bytes"] for cost in costs),
        "peak_rss_mb": max(cost["peak_rss_mb"] for cost in costs),
        "peak_rss_mb_of": {party: cost["peak_rss_mb"] for party, cost in zip(PARTIES, costs, strict=True)},
        "cpu_s": round(sum(cost["cpu_s"] for cost in costs), 2),
    }


class _Party:
    """The process of one party."""

    def __init__(self, rival: Rival, rank: int, ports: tuple[int, int], python: str, folder: Path) -> None:
        name = PARTIES[rank]
        self._log = folder / f"{name}.log"
        files = [str(folder / f"{name}.csv"), str(folder / f"{name}-out.csv")]
        place = [str(rank), str(ports[rank]), str(ports[1 - rank])]
        with self._log.open("wb") as log:
            # -I: nothing of this folder, whose modules have common names, gets into the rival's imports.
            self._process = subprocess.Popen(
                [python, "-I", str(SCRIPT), rival.package, rival.setting, *place, *files],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env={**os.environ, "TMPDIR": str(folder)},
            )
        self._orders = cast(IO[bytes], self._process.stdin)
        self.answers = cast(IO[bytes], self._process.stdout)

    def go(self) -> None:
        self._orders.write(b"go\n")
        self._orders.flush()

    def answer(self) -> dict[str, Any]:
        line = self.answers.readline()
        if not line:
            said = self._log.read_text(errors="replace").strip().splitlines()
            raise RivalError(said[-1][:300] if said else f"ended with {self._process.wait()}")
        figures: dict[str, Any] = json.loads(line)
        return figures

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._orders.close()
        self.answers.close()
        # spu leaves a trace of its run there, wherever temporary files go, and says so.
        for trace in re.findall(r"written to (/tmp/psi_[\w-]+\.trace)", self._log.read_text(errors="replace")):
            Path(trace).unlink(missing_ok=True)


def _answers(parties: Sequence[_Party], limit_s: float) -> list[dict[str, Any]]:
    """The next answer of each, in order. Raises RivalError as soon as one has ended."""
    deadline = time.monotonic() + limit_s
    given: dict[_Party, dict[str, Any]] = {}
    with selectors.DefaultSelector() as waiting:
        for party in parties:
            waiting.register(party.answers, selectors.EVENT_READ, party)
        while len(given) < len(parties):
            events = waiting.select(deadline - time.monotonic())
            if not events:
                raise RivalError(f"no answer within {limit_s:,.0f} s")
            for key, _ in events:
                given[key.data] = key.data.answer()
                waiting.unregister(key.fileobj)
    return [given[party] for party in parties]


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def _write(path: Path, emails: Sequence[str]) -> None:
    with path.open("w") as file:
        file.write("email\n")
        file.writelines(f"{email}\n" for email in emails)


def _read(path: Path) -> list[str]:
    return [line.strip('"') for line in path.read_text().splitlines()[1:]]
