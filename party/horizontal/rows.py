"""A client's table as the numbers of a federated step: the contract's columns, within the ranges that all declared.

Every client makes them alike and from nothing but its own rows and the contract, so that how people are dealt to
clients changes nothing:

    number, date (in days since 1970)   cut to the declared range
    true and false                      1 and 0
    no value                            the middle of the declared range, which tells nothing of anybody's rows
    text                                refused: a category becomes a column of 1 and 0 before the data is registered
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidegate.protocols.channel import ConfigError, PolicyError
from tidegate.wire.contract import Contract

from ..aligned import drawn_out, granted, number
from ..data import table
from ..job import IntArray, Job

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """What a client enters. x (n, d) as it is, with no value missing; y (n,) 0 or 1; held_out (n,) are not trained on.

    numbers (n,): where each stands in the table. ranges (d, 2): lower and upper end of each column. Without a label y
    is all 0 and nothing is held out. missing, outside: how many of the n d values had none, or one out of range.
    """

    columns: tuple[str, ...]
    ranges: FloatArray
    numbers: IntArray
    x: FloatArray
    y: FloatArray
    held_out: BoolArray
    missing: int
    outside: int

    @property
    def trained(self) -> int:
        return int((~self.held_out).sum())


def of(job: Job) -> Rows:
    """The rows of this party's data set. PolicyError for fewer to train on than the contract's least_rows.

    ConfigError for a column that is not there, holds text or has no declared range.
    """
    columns = tuple(granted(job))
    ranges = declared(job.contract, columns)
    values = np.stack([_numbers(job.rows, name) for name in columns], axis=1)
    numbers, y = _labelled(job, len(values))
    x = values[numbers]
    none = np.isnan(x)
    outside = ~none & ((x < ranges[:, 0]) | (x > ranges[:, 1]))
    rows = Rows(
        columns=columns,
        ranges=ranges,
        numbers=numbers,
        x=np.where(none, ranges.mean(axis=1), x),
        y=y,
        held_out=_held_out(job, numbers),
        missing=int(none.sum()),
        outside=int(outside.sum()),
    )
    least = number(job.step, "least_rows")
    if rows.trained < least:
        raise PolicyError(
            f"{job.party} has fewer rows to train on than the {least} that the contract asks of each: an update from "
            "few rows shows them",
            "take part with more rows, or agree on a contract with a lower least_rows",
        )
    return rows


def declared(contract: Contract, columns: tuple[str, ...]) -> FloatArray:
    """(d, 2): the range of each column that all clients declared. ConfigError naming those without."""
    found = {each.column: (each.low, each.high) for each in contract.ranges if not each.party}
    without = [name for name in columns if name not in found]
    if without or not columns:
        listed = ", ".join(map(repr, without[:5])) or "there are no columns"
        raise ConfigError(
            f"the contract declares no range for {listed}", "it was made by another version: propose again"
        )
    return np.array([found[name] for name in columns], np.float64)


def _numbers(rows: pa.Table, name: str) -> FloatArray:
    values = table.column(rows, name)
    if values.null_count == len(values):
        return np.full(len(values), np.nan)
    if pa.types.is_boolean(values.type):
        return np.asarray(values.cast(pa.int8()).cast(pa.float64()).to_numpy(), np.float64)
    if pa.types.is_large_string(values.type):
        raise ConfigError(
            f"the column {name!r} holds text, and clients have no common list of its values",
            "write each category that matters as a column of 1 and 0, and register the data set again",
        )
    return table.numbers(rows, name)


def _labelled(job: Job, n: int) -> tuple[IntArray, FloatArray]:
    """The rows that count and their labels: those that have one, or all where the contract asks for none."""
    label = job.contract.label
    if not label.column:
        return np.arange(n, dtype=np.int64), np.zeros(n)
    values = table.binary(job.rows, label.column, label.positive)
    numbers = np.flatnonzero(values >= 0).astype(np.int64)
    return numbers, values[numbers].astype(np.float64)


def _held_out(job: Job, numbers: IntArray) -> BoolArray:
    """Of those rows the ones that the contract keeps out of training; none where there is no label to judge by."""
    rule = job.contract.holdout
    if not job.contract.label.column:
        return np.zeros(len(numbers), np.bool_)
    if rule.column:
        chosen = pc.equal(table.text_column(job.rows, rule.column), rule.value).fill_null(False)
        return np.asarray(chosen.to_numpy(), np.bool_)[numbers]
    return drawn_out(job, job.rows.num_rows)[numbers]
