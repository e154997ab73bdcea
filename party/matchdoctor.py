"""Plays this party's part of the match doctor: samples its key columns, compares spellings, says what to change."""

from __future__ import annotations

from collections.abc import Mapping

from tidegate.protocols.channel import Channel, ConfigError
from tidegate.protocols.ids import Identifiers
from tidegate.protocols.primitives import group
from tidegate.protocols.psi import doctor, oprf_match, variants
from tidegate.protocols.psi.doctor import Column, Compared

from . import diagnosis
from .data import table
from .job import Charged, Facts, Job

_BLOCK = 2**17


async def brand(job: Job, channel: Channel) -> Facts:
    """Counts, and tells the media what came of it."""
    part = _Part(job)
    found = await doctor.receiver(
        part.charged(channel),
        part.columns,
        part.enter,
        engine=oprf_match,
        settings=part.settings,
        randomness=job.randomness,
    )
    return part.facts(found)


async def media(job: Job, channel: Channel) -> Facts:
    """Hides the counts in noise; learns the same table in the end."""
    part = _Part(job)
    found = await doctor.sender(
        part.charged(channel),
        part.columns,
        part.enter,
        engine=oprf_match,
        settings=part.settings,
        noise=job.count_noise,
        randomness=job.randomness,
    )
    return part.facts(found)


class _Part:
    """One party's columns, and what it enters of them."""

    def __init__(self, job: Job) -> None:
        brand, media = job.contract.pair(job.step)
        guards = job.contract.guards
        self._job, self._keys = job, {key.kind: key for key in job.contract.keys}
        self._names = diagnosis.Names(brand.name, media.name, brand.data.rows, media.data.rows)
        self._sample = variants.Sample.of(job.contract.hash, _wanted(job), max(brand.data.rows, media.data.rows))
        self.columns: dict[str, Column] = {}
        for kind, key in self._keys.items():
            region = job.region if kind == "phone" else None
            given = job.given.get(kind, "clear")
            shape = variants.shape(kind, _blocks(job, kind), region, key.profile, given)
            self.columns[kind] = Column.of(kind, given, shape, region, guards.floor)
        rows = job.contract.party(job.peer).data.rows
        self.settings = doctor.Settings(
            forms={kind: key.form for kind, key in self._keys.items()},
            floor=guards.floor,
            noise_sd=guards.count_noise,
            # Samples of few people vary, and some keys belong to many.
            max_rows=min(rows, round(4 * rows * self._sample.rate) + 1000),
        )

    def charged(self, channel: Channel) -> Channel:
        return Charged(channel, lambda: self._job.charge("doctor", 1, 12))

    def enter(self, kind: str, form: str, theirs: Column) -> Mapping[str, Identifiers]:
        """The variants of a column that write enough of the sample otherwise than the contract's, and the loose one.

        That one is compared with itself alone, so it is of no use unless both sides enter it.
        """
        own = self.columns[kind]
        found = variants.groups(
            kind,
            form,
            _blocks(self._job, kind),
            self._sample,
            region=self._job.region,
            other_region=doctor.other_region(own, theirs) or None,
            profile=self._keys[kind].profile,
            hashed=own.form != "clear",
        )
        telling = self.settings.floor
        return {
            name: each.ids
            for name, each in found.items()
            if name in (variants.CONTRACT, variants.LOOSE) or each.changed >= telling
        }

    def facts(self, found: Mapping[str, Compared]) -> Facts:
        scale = diagnosis.Scale(self._sample.rate, self.settings.noise_sd, self.settings.floor)
        keys = [diagnosis.diagnose(self._keys[kind], each, self._names, scale) for kind, each in found.items()]
        return {
            "group": group.backend(),
            "brand": self._names.brand,
            "media": self._names.media,
            "brand_rows": self._names.brand_rows,
            "media_rows": self._names.media_rows,
            "floor": self.settings.floor,
            "noise": self.settings.noise_sd,
            "rate": self._sample.rate,
            "keys": keys,
        }


def _wanted(job: Job) -> int:
    value = job.step.settings["sample"]
    noise = job.contract.guards.count_noise
    if not isinstance(value, int) or doctor.SPREAD * noise > value:
        raise ConfigError(
            f"the contract's sample of step doctor is no whole number of {doctor.SPREAD} times the noise ({noise})",
            "have the campaign proposed again with a larger sample, or with less count noise",
        )
    return value


def _blocks(job: Job, kind: str) -> variants.Blocks:
    """The raw texts of the column with that kind of key, read from disk as they are asked for."""
    column = job.keys.get(kind)
    if column is None:
        raise ConfigError(
            f"data set {job.contract.party(job.party).data.name} has no {kind} column to match on",
            f"register it with `tidegate party data add ... --key {kind}=COLUMN`",
        )
    return table.text_blocks(job.path, column, _BLOCK)
