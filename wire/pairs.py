"""Which two parties of a run talk to each other, and the number under which each two have their line.

A run of two parties has one line, under the run's own number. In a run of more the first party (the brand) and the
second (the media that leads) talk to everybody, the others to these two alone. Where the coordinator itself plays a
part it stands last and talks to everybody; or it stands first, and then nobody else talks to anybody else. Relay and
workers derive the numbers by themselves; whom a line is sealed to is the handshake's business, not the number's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

_LINE = b"tidegate line v1"
# Under this name the coordinator takes part in runs; no party can be called so.
COORDINATOR = "coordinator"


def pairs(parties: Sequence[str]) -> list[tuple[str, str]]:
    """Who talks to whom, of the parties of a step in the contract's order."""
    if parties[0] == COORDINATOR:
        return [(COORDINATOR, party) for party in parties[1:]]
    others = [party for party in parties if party != COORDINATOR]
    found = [(first, second) for at, first in enumerate(others[:2]) for second in others[at + 1 :]]
    return found + [(party, COORDINATOR) for party in others if COORDINATOR in parties]


def peers(parties: Sequence[str], name: str) -> list[str]:
    """With whom `name` talks, in the contract's order."""
    return [one if other == name else other for one, other in pairs(parties) if name in (one, other)]


def line_number(run: bytes, parties: Sequence[str], one: str, other: str) -> bytes:
    """The 16 bytes under which two of the parties have their line in this run."""
    if len(parties) == 2:
        return run
    named = b"".join(bytes([len(name.encode())]) + name.encode() for name in sorted((one, other)))
    return hashlib.sha256(_LINE + run + named).digest()[:16]


def lines(run: bytes, parties: Sequence[str]) -> dict[bytes, tuple[str, str]]:
    """Every line of a run by its number, with the two whose it is."""
    return {line_number(run, parties, one, other): (one, other) for one, other in pairs(parties)}


def agree(parties: Sequence[str], digests: Mapping[str, bytes]) -> bool:
    """Whether any two that talked say the same of what was said; `digests` are those of each party's receipt.

    They hold a digest for each of the party's peers, in the order of `peers`, one after the other.
    """
    told: dict[tuple[str, str], set[bytes]] = {pair: set() for pair in pairs(parties)}
    for party in parties:
        others, digest = peers(parties, party), digests.get(party, b"")
        size = len(digest) // len(others)
        if not digest or size * len(others) != len(digest):
            return False
        for at, other in enumerate(others):
            pair = (party, other) if (party, other) in told else (other, party)
            told[pair].add(digest[at * size : (at + 1) * size])
    return all(len(said) == 1 for said in told.values())
