"""The coordinator's one way to say no to a caller."""

from __future__ import annotations

from typing import Literal

from tidegate.protocols.channel import TidegateError

Code = Literal[
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "FAILED_PRECONDITION",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
    "UNAVAILABLE",
]


class RefusedError(TidegateError):
    """A request that is refused: the gRPC status that the caller gets, and the sentence with it."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def printable(text: str, longest: int = 300) -> str:
    """A caller's text made safe for a terminal and a log line: one line, no control characters, not too long."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text[: longest + 1])
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
