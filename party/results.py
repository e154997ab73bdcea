"""The files that a step leaves and a later one reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .job import Facts


def write_json(path: Path, value: Facts) -> None:
    path.write_text(json.dumps(value, allow_nan=False))


def read_json(path: Path) -> Facts:
    value: Facts = json.loads(path.read_text())
    return value


def write_table(path: Path, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), path)
