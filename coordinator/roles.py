"""The parts that the coordinator itself plays, by the step: who compares for segments, who adds up for clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from tidegate.protocols.channel import Channel, DisagreementError
from tidegate.protocols.clustering.comparator import comparator
from tidegate.protocols.primitives.randomness import Randomness

Role = Callable[[Mapping[str, Channel], Randomness], Awaitable[None]]


async def play(step: str, channels: Mapping[str, Channel], randomness: Randomness) -> None:
    """Plays the coordinator's role in a run of a step, with a channel to each of its parties.

    It knows no contract: what it needs to know the parties tell it, all of them the same, within bounds of the role.
    """
    role = _ROLES.get(step)
    if role is None:
        raise DisagreementError(
            f"the coordinator plays no part in a step {step}", "install the same version of tidegate everywhere"
        )
    await role(channels, randomness)


async def _compare(channels: Mapping[str, Channel], _randomness: Randomness) -> None:
    await comparator(channels)


async def _add_up(channels: Mapping[str, Channel], _randomness: Randomness) -> None:
    # Flower takes a second to import, and only who trains across many holders has it.
    from tidegate.protocols.horizontal import pooling

    await pooling.coordinate(channels)


_ROLES: dict[str, Role] = {"segment": _compare, "assign": _compare, "federate": _add_up}
