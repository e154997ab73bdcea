"""The media's columns in a model's secret basis, as they enter scoring: made in blocks, kept for the next campaign.

Scoring takes integers of 16 bits, whatever a table's columns are made of, and for one model and one state of the data
they are always the same. So they are written to a file once and mapped into memory: never is a whole table there as
floating point. A file is named by the digest of everything it was made from, so an old one is never taken for another.

The folder holds this party's own columns, readable by its owner alone, and may be emptied at any time. What was used
longest ago goes first when it would grow beyond 8 GiB; what was made for a model or a data set goes with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidegate.protocols.blind.products import spread
from tidegate.protocols.blind.scoring import rounded

from . import models
from .data import features, table
from .job import IntArray, Job

FloatArray = NDArray[np.float64]
Int16Array = NDArray[np.int16]

BLOCK_ROWS = 2**16
MOST_BYTES = 8 * 2**30


def columns(job: Job, which: str, chosen: IntArray) -> Int16Array:
    """Some rows of the media's table in the basis of the model `which` of the step, (len(chosen), d), for scoring.

    Where they are half of the table or more, all of it is made and kept; else just them, unless it is there already.
    """
    model = models.for_step(job)
    recipe = features.Recipe.from_json(model["recipe"])
    basis = np.array(models.part(model, which)["basis"], np.float64)
    data = job.contract.party(job.party).data
    name = Name(
        job.contract.model if "train" not in job.earlier else job.contract.short, data.commitment, recipe, basis
    )
    path, shape = name.within(job.cache), (data.rows, basis.shape[1])
    if not _is_whole(path, shape):
        if 2 * len(chosen) < data.rows:
            return whitened(recipe, basis, job.path, chosen)
        _keep(path, shape, _blocks(recipe, basis, job.path))
    os.utime(path)
    kept = np.memmap(path, np.dtype("<i2"), "r", shape=shape)
    return np.take(kept, chosen, axis=0)


@dataclass(frozen=True)
class Name:
    """What columns are made of: the contract that trained the model, the state of the data, the recipe, the basis."""

    model: str
    commitment: str
    recipe: features.Recipe
    basis: FloatArray

    def within(self, folder: Path) -> Path:
        made_of = hashlib.sha256(f"{self.commitment} {self.recipe.to_json()}".encode() + self.basis.tobytes())
        return folder / f"{self.model}-{self.commitment[:16]}-{made_of.hexdigest()[:32]}.i16"


def forget(folder: Path, *, model: str = "", commitment: str = "") -> None:
    """Removes what was made with a model, or of a data set in a state."""
    for path in folder.glob("*.i16"):
        parts = path.name.split("-")
        if parts[0] == model or (commitment and parts[1] == commitment[:16]):
            path.unlink(missing_ok=True)


def whitened(recipe: features.Recipe, basis: FloatArray, path: Path, chosen: IntArray) -> Int16Array:
    """Some rows of a table in a model's basis, (len(chosen), d), rounded for scoring; made in blocks."""
    made = np.empty((len(chosen), basis.shape[1]), np.int16)
    order = np.argsort(chosen, kind="stable")
    rising = chosen[order]
    first = 0
    for block in _blocks(recipe, basis, path):
        here = slice(*np.searchsorted(rising, [first, first + len(block)]))
        made[order[here]] = block[rising[here] - first]
        first += len(block)
    return made


def _blocks(recipe: features.Recipe, basis: FloatArray, path: Path) -> Iterator[Int16Array]:
    """All rows of a table in a model's basis, block after block."""

    def made(block: pa.Table) -> Int16Array:
        return rounded(features.apply(recipe, block, np.arange(block.num_rows, dtype=np.int64)) @ basis)

    return spread(made, table.blocks(path, recipe.columns, BLOCK_ROWS))


def _is_whole(path: Path, shape: tuple[int, int]) -> bool:
    return path.is_file() and path.stat().st_size == 2 * shape[0] * shape[1]


def _keep(path: Path, shape: tuple[int, int], blocks: Iterator[Int16Array]) -> None:
    """Writes a whole file or none; several workers may make the same at a time."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _make_room(path.parent, 2 * shape[0] * shape[1])
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for block in blocks:
                file.write(block.astype("<i2", copy=False).tobytes())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _make_room(folder: Path, size: int) -> None:
    """Removes what was used longest ago until `size` more bytes fit; drafts that a killed worker has left go too."""
    found = []
    for path in folder.glob("*.i16*"):
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(each for _, each, _ in found)
    for _, each, path in sorted(found):
        if total + size <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= each
