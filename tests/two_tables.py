"""A brand and a media with a table each, and jobs over them: steps are played in memory, without nodes or contracts
that somebody signed.

    there = Tables.of(tmp_path, brand={...}, media={...}, matched=[(0, 3), ...])
    ours, theirs = there.play("train", {"steps": 4, ...}, label=Label("bought", "yes"))
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.party import policy, steps
from tidegate.party.data import table
from tidegate.party.job import Job
from tidegate.protocols.catalog import CATALOG
from tidegate.protocols.channel import CarrierError
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import play
from tidegate.wire.contract import Contract, ContractParty, DataSet, Holdout, Key, Label, Step

BRAND, MEDIA = "shop", "paper"
TRAIN = {"steps": 8, "l2_milli": 10_000, "lookalike_steps": 0, "balance": 0, "early_stop": 0, "importance": 0}
Facts = dict[str, Any]


@dataclass
class Tables:
    """Two tables, who is who in them, and what was charged and sent; results lie in a folder for each party.

    left: what `reserve` finds of a budget; limit: where `charge` ends; without a number both take the guard's.
    """

    folder: Path
    rows: dict[str, pa.Table]
    matched: np.ndarray
    hidden: bool = False
    charged: list[tuple[str, int]] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    limit: dict[str, int] = field(default_factory=dict)
    sent: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, folder: Path, brand: dict[str, Any], media: dict[str, Any], matched: Any, *, hidden: bool = False
    ) -> Tables:
        there = cls(folder, {}, np.asarray(matched, np.int64).reshape(-1, 2), hidden)
        there.replace(BRAND, brand)
        there.replace(MEDIA, media)
        return there

    def replace(self, party: str, columns: dict[str, Any]) -> None:
        """Another table for a party."""
        self.folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), self.folder / f"{party}.parquet")
        self.rows[party] = table.read(self.folder / f"{party}.parquet")

    def contract(self, protocols: dict[str, dict[str, Any]], **more: Any) -> Contract:
        """protocols: the settings of each step, by the catalogue's name; `more` replaces fields of the contract."""
        made = [Step(CATALOG[name].step, name, settings) for name, settings in protocols.items()]
        parties = tuple(
            ContractParty(name, role, "0" * 64, DataSet(name, self.rows[name].num_rows, "0" * 64))
            for name, role in ((BRAND, "brand"), (MEDIA, "media"))
        )
        given: dict[str, Any] = {
            "version": 3, "software": "1", "campaign": "c", "nonce": "0" * 32, "created_s": 0, "expires_s": 1,
            "parties": parties, "keys": (Key("text"),), "label": Label("y", "1"), "holdout": Holdout("", "", 30),
            "features": {BRAND: self.columns(BRAND), MEDIA: self.columns(MEDIA)},
            "steps": tuple(made), "guards": policy.DEFAULT_GUARDS, "learns": {},
        }  # fmt: skip
        return Contract(**{**given, **more})

    def columns(self, party: str) -> tuple[str, ...]:
        return tuple(name for name in self.rows[party].column_names if name not in ("id", "y", "w"))

    def job(self, party: str, contract: Contract, index: int) -> Job:
        step = contract.steps[index]
        results = self.folder / f"{party}-campaigns"
        staging = results / contract.short / step.name
        for folder in (staging, results / contract.short / "match"):
            folder.mkdir(parents=True, exist_ok=True)
        self._leave_match(results / contract.short / "match", party)
        earlier = {"match": results / contract.short / "match"}
        earlier |= {before.name: results / contract.short / before.name for before in contract.steps[:index]}

        def charge(kind: str, amount: int, limit: int) -> None:
            if sum(each for name, each in self.charged if name == kind) + amount > self.limit.get(kind, limit):
                raise policy.PolicyError(f"{kind}: all is spent")
            self.charged.append((kind, amount))

        def reserve(kind: str, amount: int, limit: int) -> None:
            if amount > self.left.get(kind, limit):
                raise policy.PolicyError(f"{kind}: {self.left[kind]} are left")

        return Job(
            contract=contract, step=step, party=party, path=self.folder / f"{party}.parquet",
            keys={"text": "id"}, given={}, region=None, duplicates="refuse", earlier=earlier, staging=staging,
            randomness=Randomness(party.encode().ljust(32, b".")), count_noise=lambda n: np.zeros(n, np.int64),
            charge=charge, reserve=reserve, campaigns=results, cache=self.folder / f"{party}-cache",
        )  # fmt: skip

    def _leave_match(self, folder: Path, party: str) -> None:
        side = 0 if party == BRAND else 1
        (folder / "rows.i64").write_bytes(self.matched[:, side].astype("<i8").tobytes())
        if self.hidden:
            order = np.random.default_rng(5).permutation(self.rows[MEDIA].num_rows)
            own = dict(zip(self.matched[:, 1].tolist(), self.matched[:, 0].tolist(), strict=True))
            places = order if party == MEDIA else np.array([own.get(int(row), -1) for row in order])
            (folder / "order.i64").write_bytes(places.astype("<i8").tobytes())

    def play(self, contract: Contract, index: int = 0) -> tuple[Facts, Facts]:
        """Both parties' facts of a step, which leaves its files as a node would."""
        ours, theirs = (self.job(party, contract, index) for party in (BRAND, MEDIA))

        async def heard(job: Job, channel: Any) -> Facts:
            try:
                facts = await steps.play(job, channel)
            finally:
                self.sent[job.party] = list(channel.sent)
            (job.staging / "facts.json").write_text(json.dumps(facts, allow_nan=False))
            return facts

        try:
            return asyncio.run(play(lambda ch: heard(ours, ch), lambda ch: heard(theirs, ch)))
        except* Exception as failed:
            # The other role then only finds its line closed.
            raise next(one for one in failed.exceptions if not isinstance(one, CarrierError)) from None

    def results(self, party: str, contract: Contract) -> Path:
        return self.folder / f"{party}-campaigns" / contract.short

    def model(self, party: str, contract: Contract) -> Facts:
        found: Facts = json.loads((self.results(party, contract) / "train" / "model.json").read_text())
        return found
