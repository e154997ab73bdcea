"""Who is in an audience and who of it is left alone: kept where it was drawn, found again in a later state of the data.

People are kept by their match keys as the data set had them, and found by them again: a later state of the same people
may have other rows in another order. Whoever is not in it any more, or cannot be told from somebody of the other arm,
counts for neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tidegate.protocols.blind.measure import CONTROL, EXPOSED, NEITHER
from tidegate.protocols.blind.scoring import Chosen
from tidegate.protocols.channel import ConfigError, PolicyError
from tidegate.protocols.ids import join_blocks
from tidegate.wire.contract import Key

from .data.keys import READ_ROWS, open_column
from .job import Facts, IntArray, Job
from .results import read_json, write_json, write_table

PEOPLE, ORIGIN = "arms.parquet", "arms.json"
ArmArray = NDArray[np.int8]


@dataclass(frozen=True)
class Arms:
    """The arm of each row of the data set (n,), and how many people of the audience are not in it any more."""

    of_row: ArmArray
    gone: int

    @property
    def people(self) -> tuple[int, int]:
        return int((self.of_row == EXPOSED).sum()), int((self.of_row == CONTROL).sum())


def leave(job: Job, table: pa.Table, others: IntArray, chosen: Chosen) -> None:
    """Leaves arms.parquet and arms.json: everybody of the largest audience, with `tier` and whether `left_alone`.

    table: the key columns of the data set; others: the row of each place of the pool.
    """
    inside = np.flatnonzero(chosen.tiers)
    rows = others[inside]
    # By kinds and not by the names of columns, which may be others next time.
    keys = {kind: table[column].take(pa.array(rows)) for kind, column in job.keys.items()}
    arms = {"row": rows, "tier": chosen.tiers[inside], "left_alone": chosen.control[inside]}
    write_table(job.staging / PEOPLE, {**keys, **arms})
    data = job.contract.party(job.party).data
    origin = {"commitment": data.commitment, "rows": data.rows, "given": job.given, "region": job.region or ""}
    write_json(job.staging / ORIGIN, {**origin, "kinds": list(job.keys)})


def find(job: Job) -> Arms:
    """The arm of each row of the job's data set, of the audience whose outcome the contract measures.

    Raises PolicyError where that audience was not made here, or nobody of it was left alone, or it was made with
    another partner.
    """
    asked = job.contract.outcome
    folder = job.campaigns / asked.campaign / "expand"
    if not (folder / PEOPLE).is_file() or not (folder / ORIGIN).is_file():
        raise PolicyError(
            f"no audience of campaign {asked.campaign} with people left alone is kept here",
            "name a campaign whose step expand had control, and which this party has not deleted",
        )
    origin, kept = _read(folder)
    tiers = kept["tier"].to_numpy()
    if not 1 <= asked.tier <= int(tiers.max(initial=0)):
        raise PolicyError(f"campaign {asked.campaign} has no audience of number {asked.tier}", "name one that it has")
    inside = tiers <= asked.tier
    arms = np.where(kept["left_alone"].to_numpy(zero_copy_only=False), CONTROL, EXPOSED).astype(np.int8)
    data = job.contract.party(job.party).data
    of_row = np.full(data.rows, NEITHER, np.int8)
    if origin["commitment"] == data.commitment:
        of_row[kept["row"].to_numpy()[inside]] = arms[inside]
        return Arms(of_row, 0)
    found = _found_again(job, folder / PEOPLE, origin)
    # -1: not there any more.
    there = inside & (found >= 0)
    of_row[found[there]] = arms[there]
    # Rows to which people of both arms lead: one key stands for two people now.
    both = np.zeros((2, data.rows), np.bool_)
    for arm, which in ((EXPOSED, 0), (CONTROL, 1)):
        both[which, found[there & (arms == arm)]] = True
    of_row[both.all(axis=0)] = NEITHER
    return Arms(of_row, int(inside.sum()) - int((of_row != NEITHER).sum()))


def _read(folder: Path) -> tuple[Facts, pa.Table]:
    """Of what data set the audience was made, and its people. Raises ConfigError for files that are not whole."""
    try:
        origin = read_json(folder / ORIGIN)
        kept = pq.ParquetFile(folder / PEOPLE).read(["row", "tier", "left_alone"])
    except (OSError, ValueError, pa.ArrowException):
        origin, kept = {}, None
    if kept is None or set(origin) != {"commitment", "rows", "given", "region", "kinds"}:
        raise ConfigError(f"the audience in {folder} cannot be read", "restore the folder campaigns from a backup")
    return origin, kept


def _found_again(job: Job, people: Path, origin: Facts) -> IntArray:
    """The row of each kept person in the job's data set, by the first of its match keys that is there; -1 for none."""
    found = np.full(pq.ParquetFile(people).metadata.num_rows, -1, np.int64)
    profiles = {key.kind: key.profile for key in job.contract.keys}
    compared = 0
    for kind, column in job.keys.items():
        then, now = origin["given"].get(kind, "clear"), job.given.get(kind, "clear")
        form = now if then == "clear" else then
        # Digests of one sort cannot be compared with those of another.
        if kind not in origin["kinds"] or now not in ("clear", form):
            continue
        key = Key(kind, profiles.get(kind, "plain"), form)
        scratch, randomness = job.staging.parent, job.randomness
        old = join_blocks(
            open_column(
                people, kind, key, origin["region"] or None, given=then, scratch=scratch, randomness=randomness
            ).blocks(READ_ROWS)
        )
        new = open_column(job.path, column, key, job.region, given=now, scratch=scratch, randomness=randomness)
        for block in new.blocks(READ_ROWS):
            places = pc.index_in(block.as_arrow(), value_set=old.as_arrow())
            there = np.asarray(places.is_valid())
            persons, rows = old.rows[np.asarray(places.drop_null())], block.rows[there]
            first = found[persons] < 0
            found[persons[first]] = rows[first]
        compared += 1
    if not compared:
        raise ConfigError(
            "the data set has no match key in common with the one that the audience was made of",
            "register it with the same keys",
        )
    return found
