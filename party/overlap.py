"""Which of the brand's rows several media know: computed at the brand, from what each match step left there.

Nobody else learns of it, and the brand nothing that the matches did not tell it: it knows its rows of each. Figures are
for reports, which get passed on, so one is left out if it, or what follows from it together with the others, is about
fewer people than the floor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tidegate.protocols.catalog import CATALOG
from tidegate.wire.contract import Contract, Step

from .data import table
from .job import Facts, Job

# In these the brand learns which of its rows match.
MODES = frozenset({"both", "brand", "epoch"})
FILE = "known.parquet"
BLOCK_ROWS = 2**16


@dataclass(frozen=True)
class Together:
    """How many rows are known to any of the media and how many to all; None where that may not be told."""

    any: int | None
    all: int | None


def match_steps(contract: Contract) -> list[Step]:
    """The match steps of a contract with several media, if the brand learns its rows of each; else none."""
    found = [step for step in contract.steps if step.step == "match"]
    return found if len(found) > 1 and all(CATALOG[step.protocol].mode in MODES for step in found) else []


def leave(job: Job, others: Mapping[str, Path]) -> Facts:
    """Leaves known.parquet in the staging folder of the match step that comes last, and gives its facts; else none.

    others: by media the results of the match steps that are committed here. The file has a line for each of the
    brand's rows that a media knows: its key columns, `row`, `known_to_NAME` for each media, and `known_to`, how many.
    """
    folders = {**others, job.step.media: job.staging}
    media = [step.media for step in match_steps(job.contract)]
    if not media or set(folders) != set(media):
        return {}
    total, floor = job.contract.party(job.party).data.rows, job.contract.guards.floor
    known = np.zeros((len(media), total), dtype=np.bool_)
    for index, name in enumerate(media):
        known[index, np.fromfile(folders[name] / "rows.i64", dtype="<i8")] = True
    times = known.sum(axis=0, dtype=np.int64)
    _write(job, media, known, times)
    sizes = known.sum(axis=1).tolist()
    told = figures(np.bincount(times, minlength=len(media) + 1), sizes, floor)
    by_media = {name: size if size >= floor else None for name, size in zip(media, sizes, strict=True)}
    return {"together": {"rows": total, "known_to": by_media, "any": told.any, "all": told.all, "floor": floor}}


def _write(job: Job, media: Sequence[str], known: NDArray[np.bool_], times: NDArray[np.int64]) -> None:
    names = list(dict.fromkeys(job.keys.values()))
    schema = pa.schema(
        [
            *((name, pa.large_string()) for name in names),
            ("row", pa.int64()),
            *((f"known_to_{name}", pa.bool_()) for name in media),
            ("known_to", pa.int64()),
        ]
    )
    begin = 0
    with pq.ParquetWriter(job.staging / FILE, schema) as writer:
        for blocks in zip(*(table.text_blocks(job.path, name, BLOCK_ROWS) for name in names), strict=True):
            here = np.flatnonzero(times[begin : begin + len(blocks[0])])
            rows = here + begin
            keys = [block.take(pa.array(here)).combine_chunks() for block in blocks]
            flags = [pa.array(known[index, rows]) for index in range(len(media))]
            writer.write_table(pa.table([*keys, pa.array(rows), *flags, pa.array(times[rows])], schema=schema))
            begin += len(blocks[0])


def figures(by_times: NDArray[np.int64], sizes: Sequence[int], floor: int) -> Together:
    """What may be told of rows that are known to any of m media and to all, beside the number known to each.

    by_times (m + 1,): how many rows are known to exactly 0, 1, ... m of the media; sizes (m,): to each. From both
    figures, the sizes and the number of rows follow, by sums and differences: who is not in one of the media but in
    another, who is in one but not in all, who is in none; of three media also who is in exactly one and exactly two.
    """
    media, everyone = len(sizes), int(by_times[-1])
    anyone = int(by_times[1:].sum())
    of_any = [anyone, int(by_times[0]), *(anyone - size for size in sizes)]
    of_all = [everyone, *(size - everyone for size in sizes)]
    if media == 2:  # each of the two follows from the other
        of_any = of_all = of_any + of_all
    of_both = by_times[1:].tolist() if media == 3 else [anyone - everyone]
    tells_any = min(of_any) >= floor
    tells_all = min(of_all) >= floor and not (tells_any and min(of_both) < floor)
    return Together(anyone if tells_any else None, everyone if tells_all else None)
