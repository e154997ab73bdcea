"""The match step in epoch mode: the media's tokens were built ahead, the brand keeps what it has learnt of them."""

from __future__ import annotations

from tidegate.protocols import catalog
from tidegate.protocols.channel import Channel, ConfigError, DisagreementError
from tidegate.protocols.primitives import group
from tidegate.protocols.psi import epoch
from tidegate.wire.ending import PersonError

from .job import Charged, Facts, Job
from .matching import identifiers
from .tokens import held, own
from .tokens.folders import held_folder, locked, make, own_folder


async def brand(job: Job, channel: Channel) -> Facts:
    """Plays the receiver and leaves rows.i64; what it learnt is kept for the next run, also when this one fails."""
    media = job.contract.party(job.peer).data
    folder = held_folder(job.tokens, job.peer, media.name, job.contract.epoch)
    make(folder)
    kinds = tuple(key.kind for key in job.contract.keys)
    with locked(folder):
        memory = held.load(folder, kinds, job.randomness)
        try:
            found = await epoch.receiver(
                Charged(channel, lambda: job.charge("match", 1, 12)),
                identifiers(job),
                memory,
                kinds=kinds,
                floor=job.contract.guards.floor,
                max_rows=media.rows,
                prefix_bits=_prefix_bits(job),
                randomness=job.randomness,
                sink=lambda width: held.FileSink(folder, width),
            )
        finally:
            held.save(folder, memory)
    return _result(job, found)


async def media(job: Job, channel: Channel) -> Facts:
    """Plays the sender with the tokens of this state of its data set. PersonError if they are not built."""
    found = await epoch.sender(
        Charged(channel, lambda: job.charge("match", 1, 12)),
        (tokens := _built(job)).key,
        tokens.sets,
        kinds=tuple(key.kind for key in job.contract.keys),
        floor=job.contract.guards.floor,
        max_rows=job.contract.party(job.peer).data.rows,
        prefix_bits=_prefix_bits(job),
        charge=tokens.charge,
    )
    return _result(job, found)


def _built(job: Job) -> own.OwnEpoch:
    """The tokens for the peer, if they are those that the contract means."""
    data = job.contract.party(job.party).data
    name = job.contract.epoch
    command = f"run `tidegate party tokens build {data.name} --partner {job.peer} --epoch {name}`"
    kinds = tuple(key.kind for key in job.contract.keys)
    found = own.open_epoch(own_folder(job.tokens, data.name, job.peer, name), kinds)
    if found is None:
        raise PersonError(
            f"no {' and '.join(kinds)} tokens of data set {data.name} are built for {job.peer} and epoch {name}",
            f"{command}, then start the node again",
        )
    if found.commitment != data.commitment:
        raise PersonError(
            f"the tokens for {job.peer} and epoch {name} are of another state of data set {data.name}",
            f"{command} to bring them up to date, then start the node again",
        )
    for key in job.contract.keys:
        if found.keys[key.kind] != (key.profile, key.form):
            built = " and ".join(found.keys[key.kind])
            raise DisagreementError(
                f"the {key.kind} tokens of epoch {name} were built as {built}, "
                f"the contract says {key.profile} and {key.form}",
                "build them for a new epoch, and have the campaign proposed with it",
            )
    return found


def _prefix_bits(job: Job) -> int:
    value = job.step.settings["prefix_bits"]
    if not isinstance(value, int):
        raise ConfigError("the contract's prefix_bits is not a whole number")
    return value


def _result(job: Job, found: epoch.Refreshed) -> Facts:
    (job.staging / "rows.i64").write_bytes(found.rows.astype("<i8").tobytes())
    brand, media = job.contract.pair(job.step)
    entry = catalog.CATALOG[job.step.protocol]
    return {
        "mode": entry.mode,
        "engine": entry.engine,
        "group": group.backend(),
        "brand_rows": brand.data.rows,
        "media_rows": media.data.rows,
        "floor": job.contract.guards.floor,
        "size": len(found.rows),
        "by_key": dict(found.matched),
        "own_by_key": dict(found.own),
        "peer_by_key": dict(found.peer),
        "epoch": job.contract.epoch,
        "prefix_bits": _prefix_bits(job),
        "asked_by_key": dict(found.asked),
        "added_by_key": dict(found.added),
        "removed_by_key": dict(found.removed),
    }
