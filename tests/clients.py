"""Clients with a table each and the coordinator's part, over lines in memory: a federated step without nodes.

there = Clients.of(tmp_path, write_tables(tmp_path, 3))
facts = there.play(there.contract("federate.logistic@1"))
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.shops import COLUMNS, RANGES, Table
from tidegate.coordinator import roles
from tidegate.party import policy, steps
from tidegate.party.job import Job
from tidegate.protocols.channel import Channel
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import MemoryChannel, memory_line
from tidegate.wire.contract import Contract, ContractParty, DataSet, Holdout, Label, Range, Step

SETTINGS: dict[str, dict[str, int | list[int]]] = {
    "federate.logistic@1": {"rounds": 8, "l2_milli": 1000, "secure": 1, "robust": 0, "least_rows": 1000},
    "federate.private-logistic@1": {
        "rounds": 8,
        "l2_milli": 1000,
        "secure": 1,
        "clip_milli": 1000,
        "unit": 1,
        "least_rows": 1000,
    },
    "federate.kmeans@1": {"k": 3, "rounds": 10, "secure": 1, "least_rows": 1000},
}
Coordinator = Callable[[Mapping[str, Channel]], Any]
Ended = dict[str, Any]


async def honest(channels: Mapping[str, Channel]) -> None:
    await roles.play("federate", channels, Randomness.system())


@dataclass
class Clients:
    """The tables and keys; after a play, what each side of each line has sent."""

    folder: Path
    tables: dict[str, Table]
    keys: dict[str, Ed25519PrivateKey] = field(default_factory=dict)
    lines: dict[str, tuple[MemoryChannel, MemoryChannel]] = field(default_factory=dict)
    charged: list[tuple[str, str, int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, tables: dict[str, Table]) -> Clients:
        keys = {name: Ed25519PrivateKey.generate() for name in (*tables, "coordinator")}
        return cls(folder, tables, keys)

    def contract(self, protocol: str, settings: Mapping[str, int] | None = None, **more: Any) -> Contract:
        """`settings` replaces settings of the step, `more` fields of the contract."""
        public = {name: key.public_key().public_bytes_raw().hex() for name, key in self.keys.items()}
        parties = tuple(
            ContractParty(name, "client", public[name], DataSet("people", len(table.x), "0" * 64))
            for name, table in self.tables.items()
        )
        step = Step("federate", protocol, {**SETTINGS[protocol], **(settings or {})})
        given: dict[str, Any] = {
            "version": 4, "software": "1", "campaign": "c", "nonce": "0" * 32, "created_s": 0, "expires_s": 1,
            "parties": parties, "keys": (), "label": Label("bought", "yes"), "holdout": Holdout("", "", 20),
            "features": dict.fromkeys(self.tables, COLUMNS), "steps": (step,), "guards": policy.DEFAULT_GUARDS,
            "learns": {}, "helper": public["coordinator"],
            "ranges": tuple(Range("", column, *ends) for column, ends in RANGES.items()),
        }  # fmt: skip
        if protocol == "federate.kmeans@1":
            given |= {"label": Label("", ""), "holdout": Holdout("", "", 0)}
        return Contract(**{**given, **more})

    def job(self, name: str, contract: Contract, run: bytes = bytes(range(16))) -> Job:
        staging = self.folder / f"{name}-staging"
        staging.mkdir(parents=True, exist_ok=True)
        return Job(
            contract=contract, step=contract.steps[0], party=name, path=self.tables[name].path, keys={}, given={},
            region=None, duplicates="refuse", earlier={}, staging=staging, randomness=Randomness.system(),
            count_noise=lambda n: np.zeros(n, np.int64), run=run, sign=self.keys[name].sign,
            charge=lambda kind, amount, limit: self.charged.append((name, kind, amount, limit)),
        )  # fmt: skip

    def play(
        self, contract: Contract, coordinator: Coordinator = honest, jobs: Mapping[str, Job] | None = None
    ) -> Ended:
        """What each client ended with, its facts or its error, and under "coordinator" the error of that or None.

        Whoever ends closes its lines. `jobs` replaces those of some clients.
        """
        made = {name: self.job(name, contract) for name in self.tables} | dict(jobs or {})
        return asyncio.run(self._play(made, coordinator))

    async def _play(self, jobs: Mapping[str, Job], coordinator: Coordinator) -> Ended:
        self.lines = {name: memory_line() for name in jobs}

        async def outcome(role: Any, channels: list[MemoryChannel]) -> Any:
            try:
                return await role
            except Exception as error:
                return error
            finally:
                for channel in channels:
                    await channel.close()

        there = {name: line[1] for name, line in self.lines.items()}
        parts = [outcome(steps.play(job, self.lines[name][0]), [self.lines[name][0]]) for name, job in jobs.items()]
        ended = await asyncio.wait_for(asyncio.gather(*parts, outcome(coordinator(there), list(there.values()))), 240)
        return dict(zip([*jobs, "coordinator"], ended, strict=True))

    def model(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}-staging" / "model.json").read_text())
