"""The match step at a party: its identifiers in, what the mode tells it out."""

from __future__ import annotations

from dataclasses import asdict

from tidegate.protocols.catalog import CATALOG
from tidegate.protocols.channel import Channel, ConfigError
from tidegate.protocols.ids import Identifiers, join_blocks
from tidegate.protocols.primitives import group
from tidegate.protocols.psi import match

from .data.keys import READ_ROWS, KeyColumn, open_column
from .job import Charged, Facts, Job


def columns(job: Job) -> dict[str, KeyColumn]:
    """This party's identifiers for every key of the contract, by kind, to be read block by block."""
    found: dict[str, KeyColumn] = {}
    for key in job.contract.keys:
        name = job.keys.get(key.kind)
        if name is None:
            raise ConfigError(
                f"data set {job.contract.party(job.party).data.name} has no {key.kind} column to match on",
                f"register it with `tidegate party data add ... --key {key.kind}=COLUMN`",
            )
        given = job.given.get(key.kind, "clear")
        # Beside the folder of the results: on the party's own disk, and in no result.
        scratch, randomness = job.staging.parent, job.randomness
        column = open_column(job.path, name, key, job.region, given=given, scratch=scratch, randomness=randomness)
        if column.validity.duplicates and job.duplicates != "keep-first":
            raise ConfigError(
                f"column {name} holds {column.validity.duplicates} duplicate identifiers",
                "keep one row per person, or register the data set with --duplicates keep-first",
            )
        found[key.kind] = column
    return found


def identifiers(job: Job) -> dict[str, Identifiers]:
    """The same, in memory."""
    return {kind: join_blocks(column.blocks(READ_ROWS)) for kind, column in columns(job).items()}


async def matched(job: Job, channel: Channel) -> Facts:
    """Plays this party's role; where the mode tells it rows, they are left in rows.i64.

    With mode both they are in the order that both parties share, else rising. With mode brand both also leave
    order.i64: their own row at each position of the media's secret order, -1 where the brand has none. Its size is
    the same whoever matches.
    """
    entry, guards = CATALOG[job.step.protocol], job.contract.guards
    kinds = tuple(key.kind for key in job.contract.keys)
    role = match.receiver if job.role == "brand" else match.sender
    entered = columns(job)
    told = await role(
        Charged(channel, lambda: job.charge("match", 1, 12)),
        entered,
        engine=match.ENGINES[entry.engine],
        mode=entry.mode,
        kinds=kinds,
        floor=guards.floor,
        max_rows=job.contract.party(job.peer).data.rows,
        randomness=job.randomness,
    )
    is_told = entry.mode == "both" or (entry.mode == "brand" and job.role == "brand")
    if is_told:
        (job.staging / "rows.i64").write_bytes(told.rows.astype("<i8", copy=False).tobytes())
    if entry.alignment == "hidden":
        (job.staging / "order.i64").write_bytes(told.order.astype("<i8", copy=False).tobytes())
    mine, theirs = job.contract.party(job.party).data.rows, job.contract.party(job.peer).data.rows
    facts: Facts = {
        "mode": entry.mode,
        "engine": entry.engine,
        "group": group.backend(),
        "brand_rows": mine if job.role == "brand" else theirs,
        "media_rows": theirs if job.role == "brand" else mine,
        "floor": guards.floor,
        "reached": list(told.reached),
        "own_by_key": dict(told.own),
        "peer_by_key": dict(told.peer),
        "validity": {kind: _counts(column) for kind, column in entered.items()},
    }
    if told.by_key:
        facts |= {"size": told.size, "by_key": dict(told.by_key)}
    return facts


def _counts(column: KeyColumn) -> Facts:
    counts = asdict(column.validity)
    return {name: counts[name] for name in ("valid", "missing", "invalid", "duplicates")}
