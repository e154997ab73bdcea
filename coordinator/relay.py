"""Forwards sealed frames between the workers of a run. It holds at most DEPTH frames a direction, and reads none.

A sender whose receiver is slow waits; nothing piles up here. When a worker's line ends, its peers get what is still
queued and then a frame with `end` set; when a run is over, so does everybody. A run of several parties has a line
for each two of them that talk (`wire.pairs`), each with its own number and frames, all under one limit of bytes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tidegate.protocols.channel import MIB
from tidegate.wire import pairs
from tidegate.wire.relay_pb2 import Frame

from .refusal import RefusedError

DEPTH = 8
MAX_FRAME_BYTES = MIB
CLOSE_WITHIN_S = 10.0  # after the end of a run: how long a line may take to get what is queued for it


class _Inbox:
    """Frames on their way to one party of a run, in order per sender."""

    def __init__(self, senders: tuple[str, ...]) -> None:
        self._queues: dict[str, deque[bytes]] = {sender: deque() for sender in senders}
        self._ended: set[str] = set()
        self._told: set[str] = set()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._gone = False
        self._error: RefusedError | None = None
        self.over = False

    async def put(self, sender: str, sealed: bytes) -> None:
        """Waits for room. A frame to a party whose line has ended is dropped."""
        queue = self._queues[sender]
        while len(queue) >= DEPTH and not (self._gone or self.over):
            self._room.clear()
            await self._room.wait()
        if not (self._gone or self.over or sender in self._ended):
            queue.append(sealed)
            self._changed.set()

    async def take(self) -> tuple[str, bytes | None] | None:
        """A sender and its next frame, or a sender and None when its line has ended. None: nothing more comes."""
        while True:
            if self._error is not None:
                raise self._error
            if self._gone:
                return None
            for sender, queue in self._queues.items():
                if queue:
                    # Senders take turns: the one that was served goes to the back.
                    self._queues[sender] = self._queues.pop(sender)
                    self._room.set()
                    return sender, queue.popleft()
                if sender in self._ended and sender not in self._told:
                    self._told.add(sender)
                    return sender, None
            if self.over:
                return None
            self._changed.clear()
            await self._changed.wait()

    def end(self, sender: str) -> None:
        self._ended.add(sender)
        self._changed.set()

    def close(self, error: RefusedError | None = None) -> None:
        """Nobody takes from it any more; what is queued is dropped."""
        self._gone, self._error = True, self._error or error
        for queue in self._queues.values():
            queue.clear()
        self._changed.set()
        self._room.set()

    def finish(self) -> None:
        """The run is over: nothing more comes in."""
        self.over = True
        self._ended.update(self._queues)
        self._changed.set()
        self._room.set()


@dataclass
class _Moved:
    """The bytes that all lines of a run have moved."""

    bytes: int = 0


@dataclass
class _Pair:
    """Two parties of a run, what is on its way between them, and the ends that they have opened."""

    inboxes: dict[str, _Inbox]
    moved: _Moved
    lines: dict[str, Line] = field(default_factory=dict)


class Line:
    """One party's end of a line. Made by `Relay.open`."""

    def __init__(self, number: bytes, pair: _Pair, party: str, most_bytes: int) -> None:
        self._number, self._pair, self._party, self._most_bytes = number, pair, party, most_bytes
        self._task = asyncio.current_task()
        self._ended = False

    async def forward(self, frame: Frame) -> bool:
        """Passes a frame on to its recipient. False: the run has moved more bytes than it may."""
        if frame.run not in (b"", self._number):
            raise RefusedError("INVALID_ARGUMENT", "a line carries the frames of one run, this frame is of another")
        sealed = frame.sealed  # each look at it is a copy
        if len(sealed) > MAX_FRAME_BYTES:
            text = f"a frame has at most {MAX_FRAME_BYTES} bytes, this one {len(sealed)}"
            raise RefusedError("INVALID_ARGUMENT", text)
        if frame.end:
            raise RefusedError("INVALID_ARGUMENT", "only the coordinator says that a line has ended")
        if not sealed:
            return True
        inbox = self._pair.inboxes.get(frame.peer)
        if inbox is None or frame.peer == self._party:
            raise RefusedError("INVALID_ARGUMENT", "a frame goes to another party of its run")
        self._pair.moved.bytes += len(sealed)
        if self._pair.moved.bytes > self._most_bytes:
            return False
        await inbox.put(self._party, sealed)
        return True

    async def frames(self) -> AsyncIterator[Frame]:
        """What the other parties send, until this line is closed or the run is over."""
        inbox = self._pair.inboxes[self._party]
        while (item := await inbox.take()) is not None:
            sender, sealed = item
            yield Frame(run=self._number, peer=sender, sealed=sealed or b"", end=sealed is None)

    def close(self, error: RefusedError | None = None) -> None:
        """This party sends nothing more and takes nothing more; its peers are told so after what is queued."""
        if self._ended:
            return
        self._ended = True
        self._pair.inboxes[self._party].close(error)
        for party, inbox in self._pair.inboxes.items():
            if party != self._party:
                inbox.end(self._party)

    def cut(self) -> None:
        if not self._ended and self._task is not None:
            self._task.cancel()


class Relay:
    """The runs that are going on, and their lines."""

    def __init__(self, bytes_per_run: int) -> None:
        self.bytes_per_run = bytes_per_run
        self._pairs: dict[bytes, _Pair] = {}
        self._lines_of: dict[bytes, list[bytes]] = {}

    def start(self, run: bytes, parties: tuple[str, ...]) -> None:
        """From now on the run's parties may open their lines, each of them once."""
        lines, moved = pairs.lines(run, parties), _Moved()
        self._lines_of[run] = list(lines)
        for number, (one, other) in lines.items():
            self._pairs[number] = _Pair({one: _Inbox((other,)), other: _Inbox((one,))}, moved)

    def end(self, run: bytes) -> None:
        """The run is over. Its lines get what is queued, then end; those that do not take it are cut."""
        for number in self._lines_of.pop(run, ()):
            ended = self._pairs.pop(number)
            for inbox in ended.inboxes.values():
                inbox.finish()
            for line in ended.lines.values():
                asyncio.get_running_loop().call_later(CLOSE_WITHIN_S, line.cut)

    def end_all(self) -> None:
        for run in list(self._lines_of):
            self.end(run)

    def open(self, number: bytes, party: str) -> Line:
        """The line of the calling task. Raises RefusedError for one that does not go on or is not the caller's."""
        pair = self._pairs.get(number)
        if pair is None or party not in pair.inboxes:
            raise RefusedError("NOT_FOUND", f"{party} takes part in no run of this number that is going on")
        if party in pair.lines:
            raise RefusedError("ALREADY_EXISTS", f"{party} has opened its line in this run already")
        line = pair.lines[party] = Line(number, pair, party, self.bytes_per_run)
        return line
