"""What the forms of all campaign files share: mistakes with their places, values that are checked, common tables.

A form walks over a file and notes mistakes as it goes; a value that is wrong is replaced by a harmless one.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from tidegate.protocols.channel import TidegateError
from tidegate.wire.contract import FURTHEST, NAME, Contract, Guards, Label, Privacy

from . import policy
from .data import table
from .dataset import is_unchanged
from .store import Dataset


@dataclass(frozen=True)
class Mistake:
    """One thing wrong in a campaign file: where, what was expected, what was found, what may have been meant."""

    file: str
    line: int
    key: str
    expected: str
    found: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return (
            f"{where}: {self.key}: expected {self.expected}, found {self.found}{f'; {self.hint}' if self.hint else ''}"
        )


@dataclass
class Checked:
    """What `check` made of a file: its mistakes, or the contract; in `remarks` what a person should know anyway."""

    file: str
    mistakes: list[Mistake] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    contract: Contract | None = None


def meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else ""


def listing(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    if not names:
        return "(none)"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def written(value: object) -> str:
    if isinstance(value, str):
        return f'"{value[:80]}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return str(value)[:80]


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FURTHEST


def is_constant(column: dict[str, Any]) -> bool:
    # Ranges are percentiles rounded outward, so they cannot say it: `data add` counts.
    return bool(column["constant"])


class Form:
    """A campaign file as it was read, and the mistakes found in it so far."""

    def __init__(self, checked: Checked, raw: dict[str, Any], lines: dict[str, int]) -> None:
        self.checked, self.raw, self.lines = checked, raw, lines

    def wrong(self, key: str, expected: str, found: str, hint: str = "") -> None:
        line = 0
        at = key
        while at and not line:
            line = self.lines.get(at, 0)
            at = at.rpartition(".")[0]
        self.checked.mistakes.append(Mistake(self.checked.file, line, key, expected, found, hint))

    def tables(self, known: tuple[str, ...], needed: tuple[str, ...]) -> None:
        """Notes tables that are not known, and those that are needed and not there."""
        for key in self.raw:
            if key not in known:
                self.wrong(key, f"one of {listing(known)}", f'the unknown table or key "{key}"', meant(key, known))
        for key in needed:
            if key not in self.raw:
                self.wrong(key, f"a table [{key}]", "nothing")

    def table(self, key: str, known: Iterable[str], within: dict[str, Any] | None = None) -> dict[str, Any]:
        """The table at `key`, after noting what is in it and should not be."""
        value = (self.raw if within is None else within).get(key.rpartition(".")[2], {})
        if not isinstance(value, dict):
            self.wrong(key, f"a table, written [{key}]", written(value))
            return {}
        known = list(known)
        for name in value:
            if name not in known:
                self.wrong(f"{key}.{name}", f"one of {listing(known)}", f'the unknown key "{name}"', meant(name, known))
        return value

    def name(self, raw: dict[str, Any], key: str, what: str) -> str:
        value = raw.get(key.rpartition(".")[2])
        if value is None:
            self.wrong(key, what, "nothing")
        elif not isinstance(value, str) or not NAME.fullmatch(value):
            self.wrong(key, f"{what} (a to z, 0 to 9, - and _)", written(value), "never a path, an address or a query")
        else:
            return value
        return ""

    def integer(self, raw: dict[str, Any], key: str, low: int, high: int, default: int) -> int:
        value = raw.get(key.rpartition(".")[2], default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.wrong(key, f"a whole number from {low} to {high}", written(value))
            return default
        return value

    def value_text(self, raw: dict[str, Any], key: str, what: str) -> str:
        """A value of a column, as text in the form that columns are compared in: 1 for 1.0, true for True."""
        value = raw.get(key.rpartition(".")[2])
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            return str(value)
        if isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable():
            return value
        if isinstance(value, str) and not value.isprintable():
            self.wrong(key, f"{what}, in printable characters", ascii(value[:80]), "contracts are read on screens")
            return ""
        self.wrong(key, what, "nothing" if value is None else written(value))
        return ""

    def switch(self, own: dict[str, Any], key: str) -> int:
        value = own.get(key.rpartition(".")[2], False)
        if not isinstance(value, bool):
            self.wrong(key, "true or false", written(value))
            return 0
        return int(value)

    def milli(self, own: dict[str, Any], key: str, low: int, high: int, expected: str, default: int) -> int:
        """A number with at most three decimals, in thousandths."""
        value = own.get(key.rpartition(".")[2], default)
        try:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise InvalidOperation
            milli = Decimal(str(value)) * 1000
            if not (low <= milli <= high and milli == int(milli)):
                raise InvalidOperation
        except (InvalidOperation, ValueError, OverflowError):
            self.wrong(key, expected, written(value))
            return default * 1000
        return int(milli)

    def ends(self, key: str, value: object) -> tuple[float, float] | None:
        """The two ends of a range."""
        pair = list(value) if isinstance(value, list) else []
        if len(pair) != 2 or not all(is_number(end) for end in pair) or not pair[0] < pair[1]:
            self.wrong(key, "two numbers, the lower first", written(value))
            return None
        return float(pair[0]), float(pair[1])

    def guards(self, *known: str) -> Guards:
        """The limits; `known` are those that matter to the steps, else all of them."""
        names = [item.name for item in dataclass_fields(Guards)]
        raw = self.table("guards", known or names)
        limits = {
            "floor": (policy.HARD_GUARDS.floor, 10**6),
            "seeds": (policy.HARD_GUARDS.seeds, 10**6),
            "train_steps": (1, policy.HARD_GUARDS.train_steps),
            "count_noise": (policy.HARD_GUARDS.count_noise, 10**6),
            "score_levels": (2, policy.HARD_GUARDS.score_levels),
        }
        return Guards(
            **{
                name: self.integer(raw, f"guards.{name}", *limits[name], getattr(policy.DEFAULT_GUARDS, name))
                for name in names
            }
        )

    def privacy(self, *more: str) -> Privacy:
        """Epsilon and delta, where the file has them; `more` are keys of the table that somebody else reads."""
        raw = self.table("privacy", ("epsilon", "delta", *more))
        if "privacy" not in self.raw:
            return Privacy()
        epsilon = self.milli(
            raw, "privacy.epsilon", 100, 20_000, "a number from 0.1 to 20, with three decimals at most", 2
        )
        delta = raw.get("delta", 1e-6)
        exponent = round(-math.log10(delta)) if isinstance(delta, float) and 0 < delta < 1 else 0
        if not 5 <= exponent <= 12 or not math.isclose(10.0**-exponent, float(delta), rel_tol=1e-9):
            self.wrong("privacy.delta", "a power of ten from 1e-5 to 1e-12", written(delta))
            exponent = 6
        return Privacy(epsilon, exponent)

    def rows(self, key: str, own: Dataset) -> pa.Table | None:
        """This party's registered file, named at `key`, if it is still what was registered."""
        try:
            if not is_unchanged(own):
                hint = f"register it again: `tidegate party data add {own.name} ...`, or put the old file back"
                self.wrong(key, f"the file of {own.name} as it was registered", "another one", hint)
                return None
            return table.read(own.path)
        except TidegateError as error:
            self.wrong(key, f"the registered file of {own.name}", error.text, error.hint)
            return None

    def column(self, own: Dataset, rows: pa.Table, key: str, name: str) -> list[str | None] | None:
        """The values of a column of this party's, as text, unless its name is wrong."""
        if not name:
            return None
        if name not in rows.column_names:
            hint = meant(name, rows.column_names) or f"its columns: {listing(rows.column_names)}"
            self.wrong(key, f"a column of {own.name}", f'"{name}"', hint)
            return None
        if name in own.keys.values():
            self.wrong(key, "a column that is no identifier", f'"{name}"')
            return None
        return table.texts(rows, name)

    def two_values(self, texts: list[str | None], label: Label) -> Counter[str] | None:
        """How often each value of a label is there, if there are two and the positive one is among them."""
        counts = Counter(text for text in texts if text is not None)
        if len(counts) != 2:
            found = f"{len(counts)} ({listing(sorted(counts), 5)})" if counts else "none"
            self.wrong(
                "label.column", f'exactly two different values in "{label.column}"', found, "a label says yes or no"
            )
            return None
        if label.positive and label.positive not in counts:
            hint = meant(label.positive, counts)
            self.wrong("label.positive", f"one of {listing(sorted(counts))}", f'"{label.positive}"', hint)
            return None
        missing = len(texts) - sum(counts.values())
        if missing:
            self.checked.remarks.append(
                f'{missing} rows have no value in "{label.column}": they take no part in training'
            )
        return counts

    def chosen(
        self, raw: dict[str, Any], key: str, columns: list[dict[str, Any]], used: set[str], of: str, *, least: int
    ) -> tuple[str, ...]:
        value = raw.get(key.rpartition(".")[2], "all")
        usable = [name for name in policy.usable_features(columns) if name not in used]
        constant = {column["name"] for column in columns if is_constant(column)}
        if value == "all":
            names = [name for name in usable if name not in constant]
            if len(names) < least:
                self.wrong(key, f"usable columns in {of}", "none", "numbers and categories that vary can be features")
            return tuple(names)
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            self.wrong(key, '"all" or a list of column names', written(value))
            return ()
        if len(value) < least:
            self.wrong(key, "at least one column", "an empty list")
        kinds = {column["name"]: column["kind"] for column in columns}
        for name in value:
            if name in used:
                self.wrong(key, "columns that are neither label nor hold-out", f'"{name}"')
            elif name not in kinds:
                hint = meant(name, usable) or f"its columns: {listing(usable)}"
                self.wrong(key, f"columns of {of}", f'"{name}"', hint)
            elif name not in usable:
                what = "identifiers" if kinds[name] == "key" else "text with too many different values"
                self.wrong(key, "columns with numbers or categories", f'"{name}", which holds {what}')
            elif name in constant:
                self.wrong(key, "columns that vary", f'"{name}", which has the same value in every row', "leave it out")
        for name, times in Counter(value).items():
            if times > 1:
                self.wrong(key, "each column once", f'"{name}" {times} times')
        return tuple(value)

    def learns(self, right: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """What the steps tell each party. A file may spell the lines out: then all of them and no more."""
        raw = self.table("learns", right)
        for name, lines in raw.items():
            if name not in right:
                continue
            if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                self.wrong(f"learns.{name}", "a list of lines", written(lines))
                continue
            for line in lines:
                if line not in right[name]:
                    self.wrong(
                        f"learns.{name}", "lines that the steps give", f'"{line[:80]}"', meant(line, right[name])
                    )
            for line in right[name]:
                if line not in lines:
                    self.wrong(f"learns.{name}", f'the line "{line}"', "it not granted", "add it, or leave a step out")
        return right
