"""The coordinator's worker, keeping a copy of all that it sees: `python recording_worker.py FILE`, the order on stdin.

What it gets and says comes after the sealed frames are opened: these are the plain messages of its part. For each a
line of JSON is appended to FILE: with whom, in which direction, of which kind, how long, and the bytes in hex.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tidegate.coordinator import worker
from tidegate.wire.session import Session


def main() -> int:
    file = Path(sys.argv[1]).open("a", buffering=1)  # noqa: SIM115 - open until the process ends
    send, recv = Session.send, Session.recv

    def note(session: Session, direction: str, message: Any) -> None:
        data = message.to_bytes()
        seen = {"peer": session._peer, "way": direction, "kind": type(message).__name__, "size": len(data)}
        file.write(json.dumps({**seen, "hex": data.hex()}) + "\n")

    async def sent(self: Session, message: Any) -> None:
        note(self, "sent", message)
        await send(self, message)

    async def received(self: Session, kind: Any) -> Any:
        message = await recv(self, kind)
        note(self, "received", message)
        return message

    Session.send, Session.recv = sent, received  # type: ignore[method-assign]  # the point of this program
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
