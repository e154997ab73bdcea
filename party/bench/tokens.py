"""Builds the tokens of an epoch as a media does, and brings them up to date after one person in a hundred changed.

What is measured is the command that people type, as a process of its own: seconds, seconds of all cores together, and
the most memory that it held at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.protocols.channel import ConfigError
from tidegate.wire.identity import Identity

from .. import dataset
from ..config import Home
from ..store import Store
from ..tokens.folders import kept
from .run import machine

BLOCK = 1 << 18
CHANGED_PERCENT = 1


@dataclass(frozen=True)
class _Ran:
    seconds: float
    core_seconds: float
    peak_rss_mb: float


def bench(rows: int) -> dict[str, Any]:
    """The figures of a first build of so many people and of the next one."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as made:
        folder = Path(made)
        home = _party(folder)
        changed = rows * CHANGED_PERCENT // 100
        first = _built(home, folder, 0, rows)
        (there,) = kept(home.tokens)
        next_one = _built(home, folder, changed, rows + changed)
        return {
            "step": "tokens",
            "rows": rows,
            "seconds": first.seconds,
            "core_seconds": first.core_seconds,
            "peak_rss_mb": max(first.peak_rss_mb, next_one.peak_rss_mb),
            "disk_bytes_per_row": round(there.size / rows, 1),
            "changed_rows": changed,
            "refresh_seconds": next_one.seconds,
            "refresh_core_seconds": next_one.core_seconds,
            **machine(),
        }


def _party(folder: Path) -> Home:
    home = Home(folder / "media")
    home.create("media")
    Identity.generate("media").save(home.identity_key)
    card = Identity.generate("brand").card
    store = Store(home.store_db)
    store.trust(card.name, card.identity, card.to_text().encode())
    store.close()
    return home


def _built(home: Home, folder: Path, begin: int, end: int) -> _Ran:
    """Registers the people begin..end-1 and builds their tokens."""
    path = folder / "people.parquet"
    with pq.ParquetWriter(path, pa.schema([("email", pa.string())])) as writer:
        for low in range(begin, end, BLOCK):
            people = np.arange(low, min(low + BLOCK, end))
            writer.write_table(pa.table({"email": [f"person.{i}@example{i % 97}.com" for i in people.tolist()]}))
    store = Store(home.store_db)
    dataset.register(store, "people", path, {"email": "email"}, "", "refuse")
    store.close()
    words = ["tokens", "build", "people", "--partner", "brand", "--epoch", "bench"]
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tidegate", "party", "--home", str(home.path), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = process.stderr.read() if process.stderr else ""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    if process.stderr:
        process.stderr.close()
    if process.returncode:
        raise ConfigError(f"the build ended with status {process.returncode}", said.strip()[-200:])
    return _Ran(round(seconds, 2), round(used.ru_utime + used.ru_stime, 2), round(used.ru_maxrss / 1024, 1))
