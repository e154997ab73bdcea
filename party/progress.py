"""What a person watching a run sees: lines of progress, derived from the messages that go by.

Protocols know nothing of it. Counting the messages of a kind tells how far a step is, since the contract fixes how
many there will be; of the rest the bytes are shown.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tidegate.protocols.catalog import CATALOG
from tidegate.wire.contract import Contract, Step

EVERY_S = 0.5
_DOING = {
    "doctor": "looking for differences in spelling",
    "match": "comparing identifiers",
    "insight": "counting blindly",
    "train": "training blindly",
    "score": "scoring blindly",
    "expand": "looking among other people",
    "measure": "adding up blindly",
    "segment": "finding groups blindly",
    "assign": "putting people into groups blindly",
    "federate": "training with all clients",
}


class Progress:
    """Turns the session's messages into {"progress": text} lines, at most two a second."""

    def __init__(self, contract: Contract, step: Step, say: Callable[[dict[str, Any]], None]) -> None:
        self._doing, self._say, self._joint = _DOING[step.step], say, CATALOG[step.protocol].several
        steps, lookalike = step.settings.get("steps", 0), step.settings.get("lookalike_steps", 0)
        self._rounds = (steps if isinstance(steps, int) else 0) + (lookalike if isinstance(lookalike, int) else 0)
        self._seen: Counter[str] = Counter()
        self._bytes, self._next_s = 0, 0.0

    def on_message(self, _direction: str, kind: str, size: int) -> None:
        """Notes one message; `kind` is its class name."""
        self._seen[kind] += 1
        self._bytes += size
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + EVERY_S
        self._say({"progress": self.text()})

    def text(self) -> str:
        done = self._seen["ResidualSum"]
        # Of several media the leading one alone sends that message, so the others cannot count by it.
        counted = self._rounds and (done or not self._joint)
        rounds = f", step {min(done + 1, self._rounds)} of {self._rounds}" if counted else ""
        return f"{self._doing}{rounds}, {self._bytes / 1e6:.1f} MB"
