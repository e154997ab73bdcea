"""How a run can end early, and in which words a worker says so: to its own people, to the others, to the relay."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from tidegate.protocols.channel import (
    CarrierError,
    ConfigError,
    DisagreementError,
    PeerError,
    PolicyError,
    TidegateError,
)

T = TypeVar("T")


class PersonError(TidegateError):
    """This party's people have to do something; then the step goes on by itself."""


ERROR_KINDS: tuple[tuple[type[TidegateError], str], ...] = (
    (PersonError, "person"),
    (PeerError, "peer"),
    (CarrierError, "carrier"),
    (DisagreementError, "disagreement"),
    (PolicyError, "policy"),
    (ConfigError, "config"),
)


def describe(error: BaseException) -> dict[str, str]:
    """The error for the node: its kind, a sentence, a hint. Never the text of an error that is not ours."""
    if isinstance(error, BaseExceptionGroup):
        return describe(error.exceptions[0])
    if isinstance(error, TidegateError):
        kind = next((kind for cls, kind in ERROR_KINDS if isinstance(error, cls)), "internal")
        return {"kind": kind, "text": error.text, "hint": error.hint}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return {"kind": "person", "text": "the disk is full", "hint": "free some space, then start the node again"}
    if isinstance(error, MemoryError):
        return {"kind": "person", "text": "there is not enough memory", "hint": "free some, then start the node again"}
    # Where it happened helps a developer; what it said might quote the data.
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame is not None else "?"
    text = f"the worker failed: {type(error).__name__} at {place}"
    return {"kind": "internal", "text": text, "hint": "please report this with the version and these words"}


_OUTLINES = {
    "policy": "a rule forbids it",
    "config": "a setting or a file stands in the way",
    "disagreement": "the parties disagree",
    "person": "somebody at {name} has to do something first",
    "peer": "the other party left the protocol",
    "internal": "a defect",
    "carrier": "the line between the workers broke",
}
# After these a new run of the step may go well.
PASSING = ("person", "internal", "carrier")


def outline(kind: str, name: str) -> str:
    """All that the coordinator is told of an error at party `name`: sentences may name columns and sizes."""
    return _OUTLINES[kind].format(name=name)


def public_reason(error: BaseException, name: str) -> str:
    """What the peer's people are told: our own sentences about rules and settings, else only the kind of failure."""
    if isinstance(error, (PolicyError, DisagreementError, PeerError)):
        return f"{error.text} ({error.hint})" if error.hint else error.text
    return outline(describe(error)["kind"], name)


async def together(*work: Awaitable[T]) -> list[T]:
    """The results of all of it, in order; the first error ends the rest."""

    async def done(each: Awaitable[T]) -> T:
        return await each

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(done(each)) for each in work]
    except* Exception as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
