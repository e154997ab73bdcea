"""The match step in mode sum at a party: its identifiers, and values if they are its own; how many match, and the sum.

Who holds the column, its cap and its unit are the contract's `total`. The brand gets the sum, the media adds the noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidegate.protocols.catalog import CATALOG
from tidegate.protocols.channel import Channel, ConfigError
from tidegate.protocols.primitives import group
from tidegate.protocols.psi import match, private_sum
from tidegate.wire.contract import Total

from .data import table
from .data.keys import READ_ROWS
from .job import Charged, Facts, IntArray, Job
from .matching import columns
from .noise import discrete_gaussian


async def summed(job: Job, channel: Channel) -> Facts:
    """Plays this party's role; leaves no file, since no row is known to match. Figures are in the column's own unit."""
    contract, total, kind = job.contract, job.contract.total, job.contract.keys[0].kind
    noise_sd = contract.guards.count_noise * total.cap
    terms = private_sum.Terms(
        kind=kind,
        floor=contract.guards.floor,
        max_rows=contract.party(job.peer).data.rows,
        cap=total.cap,
        noise_sd=noise_sd,
    )
    noise = None if job.role == "brand" else discrete_gaussian(noise_sd)

    def charge() -> None:
        job.charge("match", 1, 12)
        job.charge("sums", 1, 12)

    charged, ids, randomness = Charged(channel, charge), columns(job)[kind], job.randomness
    entry = CATALOG[job.step.protocol]
    engine = match.ENGINES[entry.engine]
    facts: Facts = {}
    if job.role == total.role:
        values, facts["clipped"] = units(column_values(job.path, total.column)[ids.rows], total)
        outcome = await private_sum.holder(
            charged, ids, values, terms, engine=engine, noise=noise, randomness=randomness
        )
    else:
        outcome = await private_sum.counter(charged, ids, terms, engine=engine, noise=noise, randomness=randomness)
    mine, theirs = contract.party(job.party).data.rows, contract.party(job.peer).data.rows
    facts |= {
        "mode": entry.mode,
        "engine": entry.engine,
        "group": group.backend(),
        "brand_rows": mine if job.role == "brand" else theirs,
        "media_rows": theirs if job.role == "brand" else mine,
        "floor": contract.guards.floor,
        "sum_of": total.role,
        "column": total.column,
        "cap": _in_its_unit(total.cap, total),
        "noise_sd": _in_its_unit(noise_sd, total),
    }
    if outcome.size is not None:
        facts["size"] = outcome.size
    if outcome.total is not None:
        facts["sum"] = _in_its_unit(outcome.total, total)
    return facts


def column_values(path: Path, name: str) -> NDArray[np.float64]:
    """A file's column of numbers, NaN where one is missing. Raises ConfigError for text, dates and booleans."""
    found = [np.empty(0)]
    for block in table.column_blocks(path, name, READ_ROWS):
        if pa.types.is_temporal(block.column(name).type):
            raise ConfigError(f"the column {name!r} holds dates, which cannot be added up", "sum a column of numbers")
        found.append(table.numbers(block, name))
    return np.concatenate(found)


def units(values: NDArray[np.float64], total: Total) -> tuple[IntArray, int]:
    """Values as whole units of 10^-decimals, 0..cap, nearest first; and how many had to be clipped. NaN is 0."""
    exact = np.rint(np.nan_to_num(values) * 10.0**total.decimals)
    clipped = np.clip(exact, 0, total.cap)
    return clipped.astype(np.int64), int(np.count_nonzero(clipped != exact))


def _in_its_unit(units_: int, total: Total) -> int | float:
    return units_ / 10**total.decimals if total.decimals else units_
