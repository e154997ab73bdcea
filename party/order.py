"""What a node asks of its worker, and how it knows the result of a run.

Apart from the worker, so that a node starts without the protocols' libraries.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .config import Home


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


def is_result_of(results: Path, run: str) -> bool:
    """Whether the folder of a step holds the result of this run (hex)."""
    try:
        return bool(json.loads((results / "facts.json").read_text())["run"] == run)
    except (OSError, ValueError, KeyError):
        return False
