"""The match step at a party: its identifiers in, the rows that both sides know out."""

from __future__ import annotations

from tidegate.protocols.channel import Channel, ConfigError
from tidegate.protocols.ids import Identifiers, keep_first, normalise
from tidegate.protocols.psi import match

from .data import table
from .job import Charged, Facts, Job


def identifiers(job: Job) -> dict[str, Identifiers]:
    """This party's normalised identifiers for every key of the contract, by kind."""
    ids: dict[str, Identifiers] = {}
    for key in job.contract.keys:
        column = job.keys.get(key.kind)
        if column is None:
            raise ConfigError(
                f"data set {job.contract.party(job.party).data.name} has no {key.kind} column to match on",
                f"register it with `tidegate party data add ... --key {key.kind}=COLUMN`",
            )
        found, validity = normalise(
            key.kind,
            table.text_column(job.rows, column),
            job.region,
            profile=key.profile,
            given=job.given.get(key.kind, "clear"),
            form=key.form,
        )
        if validity.duplicates and job.duplicates != "keep-first":
            raise ConfigError(
                f"column {column} holds {validity.duplicates} duplicate identifiers",
                "keep one row per person, or register the data set with --duplicates keep-first",
            )
        ids[key.kind] = keep_first(found)
    return ids


async def matched(job: Job, channel: Channel) -> Facts:
    """Plays this party's role and leaves rows.i64: its matched rows, in the order that both parties share."""
    kinds = tuple(key.kind for key in job.contract.keys)
    role = match.receiver if job.role == "brand" else match.sender
    alignment = await role(
        Charged(channel, lambda: job.charge("match", 1, 12)),
        identifiers(job),
        kinds=kinds,
        floor=job.contract.guards.floor,
        max_rows=job.contract.party(job.peer).data.rows,
        randomness=job.randomness,
    )
    (job.staging / "rows.i64").write_bytes(alignment.rows.astype("<i8").tobytes())
    mine, theirs = job.contract.party(job.party).data.rows, job.contract.party(job.peer).data.rows
    return {
        "brand_rows": mine if job.role == "brand" else theirs,
        "media_rows": theirs if job.role == "brand" else mine,
        "size": len(alignment.rows),
        "by_key": dict(alignment.matched),
        "own_by_key": dict(alignment.own),
        "peer_by_key": dict(alignment.peer),
        "floor": job.contract.guards.floor,
    }
