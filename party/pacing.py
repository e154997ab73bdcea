"""How long the brand takes to end a step in which the media must not learn how many matched.

Between two messages the brand works over all places, whoever matched. After the media's last message it does not: the
figures of the report and the files it keeps grow with the matched. So it ends the step a fixed time after that message,
which follows from the number of the media's people, or where that is not enough after two, three ... times that.
"""

from __future__ import annotations

import math
import time

from tidegate.wire.contract import ContractParty, Step

from .policy import is_hidden

_LEAST_S, _MOST_S = 1.0, 60.0
_PEOPLE_A_SECOND = 50_000


class Pacing:
    """Notes when messages come in, and says how long to wait before a step is ended."""

    def __init__(self, step: Step, me: ContractParty, people: int) -> None:
        self._pauses = is_hidden((step,)) and me.role == "brand"
        self._unit_s = min(_LEAST_S + people / _PEOPLE_A_SECOND, _MOST_S)
        self._heard_s = time.monotonic()

    def on_message(self, direction: str) -> None:
        if direction == "received":
            self._heard_s = time.monotonic()

    def wait_s(self) -> float:
        return left_s(time.monotonic() - self._heard_s, self._unit_s) if self._pauses else 0.0


def left_s(passed_s: float, unit_s: float) -> float:
    """What is missing from the next whole multiple of a unit, at least one."""
    return max(1, math.ceil(passed_s / unit_s)) * unit_s - passed_s
