"""What matching asks of an engine: one round between two lists of different identifiers.

    receiver (items X)                                  sender (items Y, in an order of its own)
      compare                      <-- ... -->            answer
      positions: at which places of the sender's order
      stands an item of X
      opened                       <-- ... --             open
      places: where in X the item of each position is

How many items each side has is known to both before. An engine must keep three promises. Before `open` the receiver
learns the positions and nothing else, so where the sender's order is a secret drawn anew it learns a number. `open`
tells it the places and nothing else. The sender learns nothing from either. A module that has the two functions is an
engine; `match` has the rounds, the floors and who is told what.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..channel import Channel
from ..ids import Identifiers
from ..primitives.randomness import Randomness

Places = NDArray[np.uint32]


class Items(Protocol):
    """Different identifiers, read block by block."""

    def __len__(self) -> int:
        """How many there are."""

    def blocks(self, size: int) -> Iterator[Identifiers]:
        """All of them, in the same order each time, in blocks of `size` and a last one of what is left."""


class Compared(Protocol):
    """What the receiver holds after a comparison."""

    @property
    def positions(self) -> Places:
        """(m,) rising: the positions in the sender's order of the items that the receiver has too."""

    async def opened(self, channel: Channel) -> Places:
        """(m,): for each of the positions the place of the receiver's item. The sender calls `open` meanwhile."""


class Answered(Protocol):
    """What the sender holds after a comparison."""

    async def open(self, channel: Channel) -> None:
        """Lets the receiver see which of its items are at the positions it has found."""


class Engine(Protocol):
    """One round, by either role. Both raise PeerError when the other role leaves the protocol."""

    async def compare(
        self, channel: Channel, items: Items, *, kind: str, theirs: int, randomness: Randomness
    ) -> Compared:
        """Plays the receiver against `theirs` items. The same identifier under another kind is another one."""

    async def answer(
        self, channel: Channel, items: Items, *, kind: str, theirs: int, order: Places, randomness: Randomness
    ) -> Answered:
        """Plays the sender against `theirs` items; at position i of its order stands item order[i]."""
