"""Registering a file under a name: read it, check its keys, describe its columns, commit to its bytes."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidegate.protocols.channel import ConfigError
from tidegate.protocols.ids import Validity
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire.contract import KEY_FORMS, KEY_KINDS, Key

from .config import check_name
from .data import table
from .data.keys import open_column
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
    return found


def parse_hashed(hashed: list[str], keys: dict[str, str]) -> dict[str, str]:
    """KIND=FORM texts as kind -> form. ConfigError for a kind without a column, an unknown form or one given twice."""
    found: dict[str, str] = {}
    forms = [form for form in KEY_FORMS if form != "clear"]
    for text in hashed:
        kind, _, form = text.partition("=")
        if form not in forms:
            raise ConfigError(
                f"--hashed {text!r}: expected KIND=FORM with FORM one of {', '.join(forms)}",
                "for example --hashed email=sha256",
            )
        if kind not in keys or kind in found:
            raise ConfigError(
                f"--hashed {text!r}: expected each kind once, out of those that --key names ({', '.join(keys)})",
                f"name its column too: --key {kind}=COLUMN" if kind in KEY_KINDS else "",
            )
        found[kind] = form
    return found


def register(
    store: Store,
    name: str,
    path: Path,
    keys: dict[str, str],
    region: str,
    duplicates: str,
    given: dict[str, str] | None = None,
) -> Registered:
    """Reads and checks the file, then keeps it in the store under `name`. ConfigError says what is wrong with it.

    given: the form of each kind whose column holds digests.
    """
    given = given or {}
    check_name(name)
    if duplicates not in DUPLICATES:
        raise ConfigError(f"--duplicates {duplicates!r}: expected {' or '.join(DUPLICATES)}", "refuse is the default")
    path = path.absolute()
    described = describe(path, keys.values())
    digest = _digest(path)
    validity: dict[str, Validity] = {}
    for kind, column in keys.items():
        form = given.get(kind, "clear")
        found = _validity(store, path, column, Key(kind, form=form), region)
        if found.valid == 0:
            raise ConfigError(
                f"no value of column {column!r} is a valid {_named(kind, form)}",
                hint(kind, form, region, found) or f"is it really the column with the {kind}?",
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
        rows=next((found.rows for found in validity.values()), 0) or table.row_count(path),
        digest=digest,
        salt=salt,
        commitment=table.commitment(path, salt),
        columns=described,
        added_s=int(time.time()),
        given=given,
    )
    store.add_dataset(dataset)
    return Registered(dataset, validity)


def hint(kind: str, form: str, region: str, found: Validity) -> str:
    """What the shapes of a column's invalid values suggest, "" for nothing."""
    seen = {shape for shape, _ in found.shapes}
    digest = next((known for shape, known in _DIGEST_SHAPES.items() if shape in seen), "")
    if digest and digest != form:
        return f"the invalid values look like {digest} digests: declare the column with --hashed {kind}={digest}"
    if form != "clear":
        return "the invalid values are no digests: leave out --hashed" if any("@" in shape for shape in seen) else ""
    if kind == "phone" and not region and any(_NATIONAL_SHAPE.fullmatch(shape) for shape in seen):
        return "give --region, the two-letter country of numbers without a country code"
    if kind == "phone" and any("@" in shape for shape in seen):
        return "the invalid values look like e-mail addresses: is it the right column?"
    return ""


_DIGEST_SHAPES = {"x{64}": "sha256", "b{43}=": "sha256", "x{32}": "md5", "b{22}==": "md5"}
_NATIONAL_SHAPE = re.compile(r"[9{}0-9 ().\-/]+")


def _named(kind: str, form: str) -> str:
    return kind if form == "clear" else f"{form} digest"


def describe(path: Path, keys: Collection[str]) -> list[dict[str, Any]]:
    """`table.describe` as JSON, with "constant" for a column that cannot tell people apart.

    The columns in `keys` hold identifiers and show nothing but their name. One column at a time is in memory.
    """
    found = []
    for name, values in table.each_column(path, without=keys):
        shown = asdict(table.Column(name, "key", None, None, (), 0) if values is None else table.describe(name, values))
        shown["categories"] = list(shown["categories"])
        found.append(shown | {"constant": values is not None and _is_constant(values)})
    return found


def _validity(store: Store, path: Path, column: str, key: Key, region: str) -> Validity:
    """What a key column holds, read block by block."""
    scratch = store.path.parent
    randomness = Randomness.system()
    opened = open_column(path, column, key, region or None, given=key.form, scratch=scratch, randomness=randomness)
    return opened.validity


def is_unchanged(dataset: Dataset) -> bool:
    """Whether the file still has the bytes that were registered. ConfigError if it cannot be read."""
    return table.commitment(dataset.path, dataset.salt) == dataset.commitment


def _is_constant(values: pa.ChunkedArray) -> bool:
    return bool(values.null_count < MISSING_ROWS and pc.count_distinct(values).as_py() <= 1)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
