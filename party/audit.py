"""The audit trail: what this party showed, signed, ran and released, as a chain of hashes.

Every entry holds the hash of the one before it, so that an entry cannot be changed, moved or taken out without every
later one failing. The end of a chain cannot prove that nothing was cut off behind it: note the head that `verify`
gives, and ask later whether the chain still passes through it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import rfc8785

from tidegate.protocols.channel import DisagreementError

START = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One line of the trail: its number, its time, what happened, details (never a row, a key or an identifier)."""

    seq: int
    at_s: int
    event: str
    contract: str
    detail: dict[str, Any]
    line: str
    hash: str


def link(seq: int, previous: str, at_s: int, event: str, contract: str, detail: dict[str, Any]) -> tuple[str, str]:
    """The canonical JSON line (RFC 8785) of an entry, and its SHA-256."""
    data = rfc8785.dumps(
        {"seq": seq, "previous": previous, "at_s": at_s, "event": event, "contract": contract, "detail": detail}
    )
    return data.decode(), hashlib.sha256(data).hexdigest()


def verify(lines: Iterable[str], head: str | None = None, expected: str | None = None) -> list[Entry]:
    """The entries of a chain. Raises DisagreementError at the first line that does not follow from the ones before.

    `head` is the hash the last line must have; `expected` is an earlier head that the chain must still pass through.
    """
    entries: list[Entry] = []
    previous = START
    for seq, text in enumerate(lines, 1):
        try:
            body = json.loads(text)
            entry = Entry(seq, body["at_s"], body["event"], body["contract"], body["detail"], text, "")
            right, digest = link(seq, previous, entry.at_s, entry.event, entry.contract, entry.detail)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _broken(seq) from None
        if right != text:
            raise _broken(seq)
        previous = digest
        entries.append(Entry(seq, entry.at_s, entry.event, entry.contract, entry.detail, text, digest))
    if head is not None and head != previous:
        raise DisagreementError(
            f"the audit trail was cut: it ends after {len(entries)} entries, before its recorded end",
            "restore the store from a backup and find out who wrote to it",
        )
    if expected is not None and expected not in {START, *(entry.hash for entry in entries)}:
        raise DisagreementError(
            f"the audit trail does not pass through {expected[:16]}...: it was written anew or cut since",
            "compare with a backup of the store from the day that head was noted",
        )
    return entries


def _broken(seq: int) -> DisagreementError:
    return DisagreementError(
        f"the audit trail is broken at entry {seq}: it does not follow from the entries before it",
        "restore the store from a backup and find out who wrote to it",
    )
