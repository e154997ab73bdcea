"""What a node asks of its worker, and in which words a worker says why it ended early.

Apart from the worker, so that a node starts without the protocols' libraries.
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from pathlib import Path

from tidegate.protocols.channel import (
    CarrierError,
    ConfigError,
    DisagreementError,
    PeerError,
    PolicyError,
    TidegateError,
)

from .config import Home
from .store import PersonError

ERROR_KINDS: tuple[tuple[type[TidegateError], str], ...] = (
    (PersonError, "person"),
    (PeerError, "peer"),
    (CarrierError, "carrier"),
    (DisagreementError, "disagreement"),
    (PolicyError, "policy"),
    (ConfigError, "config"),
)


@dataclass(frozen=True)
class Order:
    """What the node asks for: a step of a contract under a run id; `earlier` names the committed run of each step."""

    home: Home
    contract: bytes
    step: int
    run: bytes
    earlier: dict[str, str]

    def to_json(self) -> str:
        return json.dumps(
            {
                "home": str(self.home.path),
                "contract": self.contract.hex(),
                "step": self.step,
                "run": self.run.hex(),
                "earlier": self.earlier,
            }
        )

    @classmethod
    def from_json(cls, line: str) -> Order:
        raw = json.loads(line)
        home, contract, run = Home(Path(raw["home"])), bytes.fromhex(raw["contract"]), bytes.fromhex(raw["run"])
        return cls(home, contract, raw["step"], run, raw["earlier"])


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


def is_result_of(results: Path, run: str) -> bool:
    """Whether the folder of a step holds the result of this run (hex)."""
    try:
        return bool(json.loads((results / "facts.json").read_text())["run"] == run)
    except (OSError, ValueError, KeyError):
        return False


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
