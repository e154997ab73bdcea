"""Registering a file under a name: read it whole, check its keys, describe its columns, commit to its bytes."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidegate.protocols.channel import ConfigError
from tidegate.protocols.ids import Validity, normalise
from tidegate.wire.contract import KEY_KINDS

from .config import check_name
from .data import table
from .store import Dataset, Store

DUPLICATES = ("refuse", "keep-first")
# As many rows without a value make a column of their own (missing or not), so such a column is no constant.
MISSING_ROWS = 100


@dataclass(frozen=True)
class Registered:
    """A data set just registered, and per kind of key how many of its identifiers can be used."""

    dataset: Dataset
    validity: dict[str, Validity]


def parse_keys(keys: list[str]) -> dict[str, str]:
    """KIND=COLUMN texts as kind -> column. ConfigError for an unknown kind or one given twice."""
    found: dict[str, str] = {}
    for text in keys:
        kind, equals, column = text.partition("=")
        if not equals or not column or kind not in KEY_KINDS:
            raise ConfigError(
                f"--key {text!r}: expected KIND=COLUMN with KIND one of {', '.join(KEY_KINDS)}",
                "for example --key email=mail",
            )
        if kind in found or column in found.values():
            raise ConfigError(f"--key {text!r}: each kind and each column can be given once", "leave one out")
        found[kind] = column
    if not found:
        raise ConfigError("a data set needs a key to match people on", "for example --key email=COLUMN")
    return found


def register(store: Store, name: str, path: Path, keys: dict[str, str], region: str, duplicates: str) -> Registered:
    """Reads and checks the file, then keeps it in the store under `name`. ConfigError says what is wrong with it."""
    check_name(name)
    if duplicates not in DUPLICATES:
        raise ConfigError(f"--duplicates {duplicates!r}: expected {' or '.join(DUPLICATES)}", "refuse is the default")
    path = path.absolute()
    rows = table.read(path)
    digest = _digest(path)
    validity: dict[str, Validity] = {}
    for kind, column in keys.items():
        _, found = normalise(kind, table.texts(rows, column), region or None)
        if found.valid == 0:
            hint = "give --region, the two-letter country of numbers without a country code" if kind == "phone" else ""
            raise ConfigError(
                f"no value of column {column!r} is a valid {kind}", hint or f"is it really the column with the {kind}?"
            )
        if found.duplicates and duplicates == "refuse":
            raise ConfigError(
                f"column {column!r} holds {found.duplicates} identifiers that an earlier row has already",
                "keep one row per person in the file, or add --duplicates keep-first",
            )
        validity[kind] = found
    salt = store.salt_for(digest, secrets.token_bytes(32))
    dataset = Dataset(
        name=name,
        path=path,
        keys=keys,
        region=region,
        duplicates=duplicates,
        rows=rows.num_rows,
        digest=digest,
        salt=salt,
        commitment=table.commitment(path, salt),
        columns=describe(rows, list(keys.values())),
        added_s=int(time.time()),
    )
    store.add_dataset(dataset)
    return Registered(dataset, validity)


def describe(rows: pa.Table, keys: list[str]) -> list[dict[str, Any]]:
    """`table.describe` as JSON, with "constant" for a column that cannot tell people apart."""
    return [
        {**asdict(column), "categories": list(column.categories), "constant": _is_constant(rows.column(column.name))}
        for column in table.describe(rows, keys)
    ]


def is_unchanged(dataset: Dataset) -> bool:
    """Whether the file still has the bytes that were registered. ConfigError if it cannot be read."""
    return table.commitment(dataset.path, dataset.salt) == dataset.commitment


def _is_constant(values: pa.ChunkedArray) -> bool:
    return bool(values.null_count < MISSING_ROWS and pc.count_distinct(values).as_py() <= 1)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
