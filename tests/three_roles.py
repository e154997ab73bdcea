"""A brand, a media and the coordinator that compares for them, over lines in memory: steps that need all three."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from tests.two_tables import BRAND, MEDIA, Tables
from tidegate.party import steps
from tidegate.party.job import Job
from tidegate.protocols.channel import CarrierError
from tidegate.protocols.clustering import comparator
from tidegate.protocols.simulate import MemoryChannel, memory_line
from tidegate.wire.contract import Contract
from tidegate.wire.pairs import COORDINATOR

SEGMENT = {
    "k": 3, "most_k": 3, "starts": 3, "iterations": 20, "brand_weight": 1000, "media_weight": 1000,
}  # fmt: skip


def play(there: Tables, contract: Contract, index: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both parties' facts of a step, which leaves its files as a node would; the first error that is one's own."""
    return asyncio.run(_play(there, contract, index))


async def _play(there: Tables, contract: Contract, index: int) -> tuple[dict[str, Any], dict[str, Any]]:
    straight, brand, media = memory_line(), memory_line(), memory_line()
    lines: dict[str, dict[str, MemoryChannel]] = {
        BRAND: {MEDIA: straight[0], COORDINATOR: brand[0]},
        MEDIA: {BRAND: straight[1], COORDINATOR: media[0]},
        COORDINATOR: {BRAND: brand[1], MEDIA: media[1]},
    }

    async def party(name: str) -> dict[str, Any]:
        job: Job = replace(there.job(name, contract, index), channels=lines[name])
        facts = await steps.play(job, lines[name][job.peer])
        (job.staging / "facts.json").write_text(json.dumps(facts, allow_nan=False))
        return facts

    async def closed(name: str, role: Any) -> Any:
        try:
            return await role
        except Exception as error:
            return error
        finally:
            there.sent[name] = [item for channel in lines[name].values() for item in channel.sent]
            for channel in lines[name].values():
                await channel.close()

    ours, theirs, seen = await asyncio.wait_for(
        asyncio.gather(
            closed(BRAND, party(BRAND)),
            closed(MEDIA, party(MEDIA)),
            closed(COORDINATOR, comparator.comparator(lines[COORDINATOR])),
        ),
        120,
    )
    errors = [one for one in (ours, theirs, seen) if isinstance(one, Exception)]
    # The other roles then only find their lines closed.
    for error in sorted(errors, key=lambda one: isinstance(one, CarrierError)):
        raise error
    return ours, theirs
