"""The step segment: the people both sides have in groups by both sides' columns, and a card of each group.

brand                                               media (or each of several: several.py)
  its columns, in the ranges that are declared        a ledger entry at both for all iterations that may come
  both: segments of enough people (forming.py)
  cards of the media's columns     <-----             of segments and texts of enough people (protocols: cards.py)
  names from the cards of both sides
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidegate.protocols.channel import Channel, PolicyError
from tidegate.protocols.clustering import cards, comparator
from tidegate.protocols.clustering.box import Box
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire.pairs import COORDINATOR

from ..aligned import aligned, granted, number
from ..job import Facts, Job
from ..results import write_json, write_table
from . import budget, card_facts, columns, naming
from .forming import Formed, Side, formed

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Entered:
    """What this party enters: its rows of the matched people, their columns of the table, the matrix made of them."""

    rows: IntArray
    table: pa.Table
    recipe: columns.Recipe
    x: NDArray[np.float64]


def side_of(job: Job, recipe: columns.Recipe) -> Side:
    """This party's part with the coordinator and, as the brand, with all media, else with the brand."""
    others = [party.name for party in job.contract.members(job.step) if party.role != job.role]
    return Side(
        helper=job.channels[COORDINATOR],
        peers={name: job.channels[name] for name in others},
        box=Box(*recipe.box()),
        randomness=job.randomness,
        lead=job.role == "brand",
    )


def spend(job: Job) -> None:
    """Charges a run before anything is sent: what each pass tells is told to both sides."""
    passes = budget.passes(job.step)
    job.reserve(budget.KIND, passes, budget.MOST)
    job.charge(budget.KIND, passes, budget.MOST)


def ranges_of(job: Job) -> dict[str, tuple[float, float]]:
    """The declared range of each of this party's columns that has one; its own goes before everybody's."""
    declared = sorted(job.contract.ranges, key=lambda each: each.party)
    return {each.column: (each.low, each.high) for each in declared if each.party in ("", job.party)}


def write_people(job: Job, rows: IntArray, segment: IntArray, names: Sequence[str]) -> None:
    """The brand's people with their segments, numbered from 1, in the order of the brand's table."""
    order = np.argsort(rows, kind="stable")
    table = job.columns(job.keys.values())
    keys = {name: table[name].take(pa.array(rows[order])) for name in job.keys.values()}
    number_of = segment[order] + 1
    named = pa.array(names, pa.string()).take(pa.array(segment[order]))
    write_table(job.staging / "segments.parquet", {**keys, "row": rows[order], "segment": number_of, "name": named})


def sized(sizes: IntArray, names: Sequence[str]) -> list[Facts]:
    """Number, name, size and share in percent of each segment; without a name where there is none."""
    people = int(sizes.sum())
    return [
        {"number": i + 1, **({"name": names[i]} if names else {}), "size": size, "share": round(100 * size / people, 1)}
        for i, size in enumerate(sizes.tolist())
    ]


async def brand(job: Job, _channel: Channel) -> Facts:
    rows = aligned(job)
    return await brand_over(job, rows, Randomness(job.contract.hash).permutation(len(rows)))


async def media(job: Job, channel: Channel) -> Facts:
    rows = aligned(job)
    return await media_over(job, channel, rows, Randomness(job.contract.hash).permutation(len(rows)))


async def brand_over(job: Job, rows: IntArray, order: IntArray) -> Facts:
    """The brand's part over its `rows`, with all media of the step. order: a permutation of them that all share."""
    entered, found, own = await _formed(job, rows, order)
    sides = {job.party: own}
    for party in job.contract.members(job.step)[1:]:
        granting = job.contract.features.get(party.name, ())
        sides[party.name] = await cards.receive(job.channels[party.name], len(found.sizes), granting)
    names = naming.names(list(sides.values()), len(found.sizes))
    traits = [each for party, side in sides.items() for each in card_facts.traits(party, side)]
    segments = sized(found.sizes, names)
    write_people(job, entered.rows, found.labels, names)
    write_json(job.staging / "cards.json", {"segments": segments, "traits": traits})
    _keep(job, entered, found, names)
    return {**_facts(job, entered, found), "segments": segments, "traits": traits}


async def media_over(job: Job, channel: Channel, rows: IntArray, order: IntArray) -> Facts:
    """A media's part over its `rows` of the same people; `channel` is the brand's."""
    entered, found, own = await _formed(job, rows, order)
    await cards.send(channel, own, len(found.sizes))
    traits, segments = card_facts.traits(job.party, own), sized(found.sizes, ())
    write_json(job.staging / "cards.json", {"segments": segments, "traits": traits})
    _keep(job, entered, found, ())
    return {**_facts(job, entered, found), "segments": segments, "traits": traits}


async def _formed(job: Job, rows: IntArray, order: IntArray) -> tuple[Entered, Formed, list[cards.Trait]]:
    """What all sides do alike, up to the cards of a party's own columns."""
    floor = job.contract.guards.floor
    if len(rows) < 2 * floor:
        text = f"{len(rows)} people match; two segments of at least {floor} need {2 * floor}"
        raise PolicyError(text, "match more people")
    table = job.columns(granted(job))
    weight = number(job.step, f"{job.role}_weight") / 1000
    recipe = columns.fit(table, granted(job), rows, ranges_of(job), floor=floor, weight=weight)
    entered = Entered(rows, table, recipe, columns.apply(recipe, table, rows))
    settings = {name: number(job.step, name) for name in ("k", "most_k", "starts", "iterations")}
    side = side_of(job, recipe)
    spend(job)
    found = await formed(side, entered.x, **settings, floor=floor, order=order)
    await comparator.end(side.helper)
    return entered, found, _traits(entered, found, floor)


def _traits(entered: Entered, found: Formed, floor: int) -> list[cards.Trait]:
    """What the segments are like in this party's columns."""
    made = []
    k = len(found.sizes)
    for column in entered.recipe.columns:
        if column.kind == "category":
            codes = columns.codes_of(column, entered.table, entered.rows)
            made.append(cards.of_categories(column.name, columns.labels_of(column), codes, found.labels, k, floor))
        else:
            values = columns.values_of(column, entered.table, entered.rows)
            made.append(cards.of_numbers(column.name, column.kind, values, found.labels, k, floor))
    return made


def _keep(job: Job, entered: Entered, found: Formed, names: Sequence[str]) -> None:
    """What assigns others later: how the columns are made, and this party's own part of the centroids."""
    kept = {
        "recipe": entered.recipe.to_json(),
        "centroids": found.centroids.tolist(),
        "sizes": found.sizes.tolist(),
        "names": list(names),
    }
    write_json(job.staging / "model.json", {"segments": kept})


def _facts(job: Job, entered: Entered, found: Formed) -> Facts:
    weights = [number(job.step, f"{party.role}_weight") for party in job.contract.members(job.step)]
    spread = len(entered.rows) * sum(weights) / 1000
    return {
        "rows": len(entered.rows),
        "k": len(found.sizes),
        "asked": found.asked,
        "rule": found.rule,
        "left_out": found.asked - len(found.sizes),
        "curve": [
            {
                "k": point.k,
                "inertia": point.inertia,
                "strength": round(point.strength, 4),
                "stability": round(point.stability, 4),
            }
            for point in found.curve
        ],
        "starts": [
            {
                "inertia": start.inertia,
                "iterations": start.iterations,
                "converged": start.converged,
                "agreement": round(start.agreement, 4),
            }
            for start in found.starts
        ],
        "stability": None if found.stability is None else round(found.stability, 4),
        "explained": round(max(0.0, 1 - found.inertia / spread), 4),
        "columns": list(entered.recipe.names),
        "dropped": list(entered.recipe.dropped),
    }
