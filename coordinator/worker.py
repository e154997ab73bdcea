"""The coordinator's part in one run, in a process of its own: `python -m tidegate.coordinator.worker`.

The order comes as one line of JSON on standard input; the worker ends itself when that closes. Its last word is one
JSON object on standard output: {"prepared": receipt} or {"error": ...}. What parties sent is parsed here and nowhere
else in the coordinator, and nothing of it is kept.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tidegate import __version__
from tidegate.protocols.channel import CarrierError
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire import pairs, receipt, spawn
from tidegate.wire.ending import PASSING, describe, public_reason, together
from tidegate.wire.identity import Identity
from tidegate.wire.line import Line, open_line
from tidegate.wire.session import Session, open_session

from .config import Home
from .order import Order
from .roles import play


def main() -> int:
    # The role takes in one party's message while the lines' thread brings the next: neither waits long for the other.
    sys.setswitchinterval(0.001)
    order = Order.from_json(spawn.begin())
    try:
        spawn.say({"prepared": asyncio.run(attempt(order)).hex()})
    except Exception as error:
        spawn.say({"error": describe(error)})
        if os.environ.get("TIDEGATE_DEBUG"):
            raise
        return 1
    return 0


async def attempt(order: Order) -> bytes:
    """Opens a session with each party, plays the part, and gives the receipt for what was said."""
    identity = Identity.load(Home(Path(order.home)).identity)
    contract, run = bytes.fromhex(order.contract), bytes.fromhex(order.run)
    parties = pairs.peers(order.members, pairs.COORDINATOR)
    lines: list[Line] = []
    try:
        for party in parties:
            number = pairs.line_number(run, order.members, pairs.COORDINATOR, party)
            lines.append(await open_line(order.endpoint, number, party))

        async def session_with(party: str, line: Line) -> Session:
            return await open_session(
                line,
                me=identity,
                peer_identity=bytes.fromhex(order.identities[party]),
                contract_hash=contract,
                run=run,
                step=order.step,
                my_name=pairs.COORDINATOR,
                peer_name=party,
                inputs={},
                software=__version__,
            )

        sessions = await together(*(session_with(party, line) for party, line in zip(parties, lines, strict=True)))
        try:
            await play(order.kind, dict(zip(parties, sessions, strict=True)), Randomness.system())
            digests = await together(*(session.finish() for session in sessions))
        except Exception as error:
            again = describe(error)["kind"] in PASSING
            reason = _reason(error, parties)
            await together(*(session.abort(reason, again=again) for session in sessions))
            raise
    finally:
        await together(*(line.close() for line in lines))
    return receipt.make(identity, contract, order.step, run, b"".join(digests))


def _reason(error: BaseException, parties: Sequence[str]) -> str:
    """What the parties are told. They talk to nobody else in such a run, so whose line broke they learn here alone."""
    if isinstance(error, CarrierError):
        for party in parties:
            if re.search(rf"\b{re.escape(party)}\b", error.text):
                return f"the line to {party} broke"
    return public_reason(error, pairs.COORDINATOR)


if __name__ == "__main__":
    sys.exit(main())
