"""Typed messages to one other role, and the errors a protocol can end with.

A protocol sees nothing but a `Channel`: it sends a message and asks for the next one by its type. What carries it
(memory, a sealed line through a coordinator) is not its business.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import struct
import typing
from typing import ClassVar, Protocol, Self, TypeVar

MIB = 2**20


class TidegateError(Exception):
    """What went wrong in one sentence, and in `hint` what to try. Holds no secret and no value from the data."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint


class PeerError(TidegateError):
    """The other role left the protocol: a bad value, a wrong count, a message out of turn."""


class CarrierError(TidegateError):
    """The line broke or was tampered with; the step can be started again."""


class DisagreementError(TidegateError):
    """The parties do not mean the same thing: contract, version, inputs."""


class PolicyError(TidegateError):
    """Our own rules refuse: a floor, a budget, something the contract does not grant."""


class ConfigError(TidegateError):
    """Something the user wrote or registered is wrong."""


def _pack_bytes(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def _encode_field(kind: object, value: object) -> bytes:
    if kind is int and isinstance(value, int):
        return struct.pack("<Q", value)
    if kind is float and isinstance(value, float):
        return struct.pack("<d", value)
    if kind is bytes and isinstance(value, bytes):
        return _pack_bytes(value)
    if kind is str and isinstance(value, str):
        return _pack_bytes(value.encode())
    if kind == tuple[bytes, ...] and isinstance(value, tuple):
        return struct.pack("<Q", len(value)) + b"".join(_pack_bytes(item) for item in value)
    raise TypeError(f"a message field of type {kind} cannot hold {type(value).__name__}")


class _Reader:
    """Reads fields off a message's bytes and refuses to read past their end."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.at, self.name = memoryview(data), 0, name

    def take(self, n: int) -> memoryview:
        if n > len(self.data) - self.at:
            raise PeerError(f"{self.name} is cut short: {n} bytes expected at {self.at}, {len(self.data)} in all")
        self.at += n
        return self.data[self.at - n : self.at]

    def integer(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def field(self, kind: object) -> object:
        if kind is int:
            return self.integer()
        if kind is float:
            number = float(struct.unpack("<d", self.take(8))[0])
            if not math.isfinite(number):
                raise PeerError(f"{self.name} holds a number that is not finite")
            return number
        if kind is bytes:
            return bytes(self.take(self.integer()))
        if kind is str:
            try:
                return bytes(self.take(self.integer())).decode()
            except UnicodeDecodeError:
                raise PeerError(f"{self.name} holds text that is not UTF-8") from None
        if kind == tuple[bytes, ...]:
            count = self.integer()
            if count * 8 > len(self.data) - self.at:
                raise PeerError(f"{self.name} declares {count} parts, more than its bytes can hold")
            return tuple(bytes(self.take(self.integer())) for _ in range(count))
        raise TypeError(f"a message cannot have a field of type {kind}")


@functools.cache
def _field_types(cls: type) -> tuple[tuple[str, object], ...]:
    hints = typing.get_type_hints(cls)
    return tuple((field.name, hints[field.name]) for field in dataclasses.fields(cls))


@dataclasses.dataclass(frozen=True)
class Message:
    """One typed message. Subclasses are frozen dataclasses of int (0..2^64-1), float, str, bytes, tuple[bytes, ...].

    The encoding is fixed: the fields in order, integers in 8 little-endian bytes, the rest with its length in front.
    A receiver bounds a message by `MAX_BYTES` before it keeps a byte of it.
    """

    MAX_BYTES: ClassVar[int] = 4 * MIB

    def to_bytes(self) -> bytes:
        fields = _field_types(type(self))  # type: ignore[arg-type]  # mypy looks at an instance's hash, not the class's
        return b"".join(_encode_field(kind, getattr(self, name)) for name, kind in fields)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises PeerError for anything that `to_bytes` would not have written."""
        if len(data) > cls.MAX_BYTES:
            raise PeerError(f"{cls.__name__} has {len(data)} bytes, at most {cls.MAX_BYTES} are allowed")
        reader = _Reader(data, cls.__name__)
        fields = {name: reader.field(kind) for name, kind in _field_types(cls)}  # type: ignore[arg-type]  # as above
        if reader.at != len(data):
            raise PeerError(f"{cls.__name__} has {len(data) - reader.at} bytes too many")
        return cls(**fields)


M = TypeVar("M", bound=Message)


class Channel(Protocol):
    """The line to one other role. Both calls wait for the wire and for nothing else."""

    async def send(self, message: Message) -> None:
        """Hands the message over; waits while the other side is slower than we are."""

    async def recv(self, kind: type[M]) -> M:
        """The next message, which must be of this kind. Raises PeerError or CarrierError."""
