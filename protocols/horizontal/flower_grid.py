"""Flower's Messages over our channels: the one file that knows Flower's inside.

    server_app(grid, context)  <->  ChannelGrid  <-- Instruction / Reply -->  attend  <->  client_app(message, context)
          (a thread)               (event loop)        (one channel each)           (event loop)

An app sees Flower's `Grid`, `Message` and `RecordDict` and nothing of ours, so it runs unchanged on Flower's engines.
What travels is our encoding, which holds arrays, numbers, text and bytes under fixed bounds: Flower's own reader of
bytes, which unpacks what it is told to, never sees what a peer sent. No code travels: both sides have the apps.

`serve` and `attend` do not time anything: a silent peer is the channel's business, which gives up after its idle time.
"""

from __future__ import annotations

import asyncio
import math
import os
import struct
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..channel import MIB, CarrierError, Channel, ConfigError, PeerError, TidegateError
from ..channel import Message as Typed

# Flower reports every run to its makers and asks them for newer versions, unless told not to before it is imported.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.app.message import make_message
    from flwr.app.metadata import Metadata
    from flwr.clientapp import ClientApp
    from flwr.common.constant import SType
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import Strategy
    from flwr.serverapp.strategy.strategy_utils import sample_nodes
    from flwr.supercore.logger import FLOWER_LOGGER
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity
except ImportError as missing:
    raise ConfigError(
        f"training across many holders needs Flower, which is not installed here ({missing.name} is missing)",
        "pip install 'tidegate[horizontal]'",
    ) from None

__all__ = [
    "Array",
    "ArrayRecord",
    "ChannelGrid",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Grid",
    "Message",
    "MetricRecord",
    "RecordDict",
    "ServerApp",
    "Strategy",
    "attend",
    "decode",
    "encode",
    "sample_nodes",
    "serve",
]

MAX_CONTENT_BYTES = 16 * MIB
MAX_ENTRIES = 1024
MAX_NAME_BYTES = 200
MAX_AXES = 4
SERVER = 1
_RUN = 1
_WARNING = 30  # logging.WARNING; Flower writes every round's results to stderr below it
_TTL_S = 86400.0
_DTYPES = {code: np.dtype(name) for code, name in enumerate(("<f8", "<u8", "<i8", "<f4", "|u1"))}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_ARRAYS, _METRICS, _CONFIGS = range(3)
_INT, _FLOAT, _BOOL, _STR, _BYTES = range(5)
_LIST = 16

Scalar = int | float | bool | str | bytes


@dataclass(frozen=True)
class Instruction(Typed):
    """What the server asks of one client; the number counts up from 1, an empty kind ends the run."""

    MAX_BYTES: ClassVar[int] = MAX_CONTENT_BYTES + 1024
    number: int
    kind: str
    group: str
    content: bytes


@dataclass(frozen=True)
class Reply(Typed):
    """A client's answer to the instruction of the same number."""

    MAX_BYTES: ClassVar[int] = MAX_CONTENT_BYTES + 1024
    number: int
    content: bytes


def encode(content: RecordDict) -> bytes:
    """A RecordDict's bytes: its records in order, each with its kind, its name and its entries.

    Raises ValueError for what `decode` would refuse: it would be a fault of the app on this side.
    """
    parts = [struct.pack("<I", len(content))]
    for name, record in content.items():
        kind = (
            _ARRAYS if isinstance(record, ArrayRecord) else _METRICS if isinstance(record, MetricRecord) else _CONFIGS
        )
        parts += [bytes([kind]), _named(name), struct.pack("<I", len(record))]
        for key, value in record.items():
            parts += [_named(key), _array_bytes(numpy_of(value)) if isinstance(value, Array) else _value_bytes(value)]
    data = b"".join(parts)
    if len(data) > MAX_CONTENT_BYTES:
        raise ValueError(f"a message's content has {len(data)} bytes, at most {MAX_CONTENT_BYTES} are allowed")
    return data


def _named(name: str) -> bytes:
    data = name.encode()
    if len(data) > MAX_NAME_BYTES:
        raise ValueError(f"a record's name has {len(data)} bytes, at most {MAX_NAME_BYTES} are allowed")
    return struct.pack("<I", len(data)) + data


def numpy_of(array: Array) -> NDArray[np.generic]:
    """What the Array holds, read-only; as its own `numpy`, of which the most is to parse a header of Python text."""
    dtype = np.dtype(array.dtype)
    size = math.prod(array.shape) * dtype.itemsize
    if not array.data.startswith(_npy_header(dtype, array.shape)):
        return array.numpy()
    return np.frombuffer(memoryview(array.data)[len(array.data) - size :], dtype).reshape(array.shape)


def array_of(values: NDArray[np.generic]) -> Array:
    """An Array of these numbers, with the same bytes as Flower would give it."""
    data = _npy_header(values.dtype, values.shape) + np.ascontiguousarray(values).tobytes()
    return Array(str(values.dtype), values.shape, SType.NUMPY, data)


@lru_cache(256)
def _npy_header(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> bytes:
    """What stands before the numbers of a C-ordered array in the format of numpy.save."""
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def _array_bytes(array: NDArray[np.generic]) -> bytes:
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _CODES or array.ndim > MAX_AXES:
        raise ValueError(f"an array of {array.dtype} with {array.ndim} axes cannot be sent")
    return struct.pack(f"<BB{array.ndim}Q", _CODES[dtype], array.ndim, *array.shape) + array.astype(dtype).tobytes()


def _value_bytes(value: Scalar | list[int] | list[float] | list[bool] | list[str] | list[bytes]) -> bytes:
    if isinstance(value, list):
        kind = _kind(value[0]) if value else _INT
        return struct.pack("<BI", _LIST + kind, len(value)) + b"".join(_scalar_bytes(kind, item) for item in value)
    return bytes([_kind(value)]) + _scalar_bytes(_kind(value), value)


def _kind(value: Scalar) -> int:
    # A bool is an int to Python, so it is asked for first.
    kinds = ((bool, _BOOL), (int, _INT), (float, _FLOAT), (str, _STR), (bytes, _BYTES))
    return next(kind for python, kind in kinds if isinstance(value, python))


def _scalar_bytes(kind: int, value: Scalar) -> bytes:
    if kind == _INT:
        return struct.pack("<q", value)
    if kind == _FLOAT:
        return struct.pack("<d", value)
    if kind == _BOOL:
        return struct.pack("<?", value)
    data = value.encode() if isinstance(value, str) else bytes(value)  # type: ignore[arg-type]  # the two kinds left
    return struct.pack("<I", len(data)) + data


class _Reader:
    """Reads a content's bytes; a length is compared with what is left before anything of that length is made."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = memoryview(data), 0

    def take(self, n: int) -> memoryview:
        if n > len(self._data) - self._at:
            raise PeerError("a message's content is cut short")
        self._at += n
        return self._data[self._at - n : self._at]

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def count(self) -> int:
        (count,) = self.unpack("I")
        if count > MAX_ENTRIES:
            raise PeerError(f"a message's content declares {count} entries, at most {MAX_ENTRIES} are allowed")
        return count

    def text(self, limit: int = MAX_CONTENT_BYTES) -> str:
        (length,) = self.unpack("I")
        if length > limit:
            raise PeerError(f"a name has {length} bytes, at most {limit} are allowed")
        try:
            return bytes(self.take(length)).decode()
        except UnicodeDecodeError:
            raise PeerError("a message's content holds text that is not UTF-8") from None

    def array(self) -> Array:
        code, axes = self.unpack("BB")
        if code not in _DTYPES or axes > MAX_AXES:
            raise PeerError("a message's content holds an array of a kind that is not sent here")
        shape, dtype = self.unpack(f"{axes}Q"), _DTYPES[code]
        values = np.frombuffer(self.take(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)
        if dtype.kind == "f" and not np.isfinite(values).all():
            raise PeerError("an array holds numbers that are not finite")
        return array_of(values)

    def scalar(self, kind: int) -> Scalar:
        if kind == _INT:
            return self.unpack("q")[0]
        if kind == _FLOAT:
            (number,) = self.unpack("d")
            if not math.isfinite(number):
                raise PeerError("a message's content holds a number that is not finite")
            return float(number)
        if kind == _BOOL:
            (byte,) = self.unpack("B")
            if byte > 1:
                raise PeerError("a message's content holds a truth value that is neither")
            return bool(byte)
        if kind == _STR:
            return self.text()
        if kind == _BYTES:
            return bytes(self.take(self.unpack("I")[0]))
        raise PeerError("a message's content holds a value of a kind that is not sent here")

    def value(self) -> Scalar | list[Scalar]:
        (kind,) = self.unpack("B")
        if kind < _LIST:
            return self.scalar(kind)
        return [self.scalar(kind - _LIST) for _ in range(self.count())]

    def ends(self) -> bool:
        return self._at == len(self._data)


def decode(data: bytes) -> RecordDict:
    """The RecordDict in these bytes. Raises PeerError for anything that `encode` would not have written."""
    reader, content = _Reader(data), RecordDict()
    for _ in range(reader.count()):
        (kind,) = reader.unpack("B")
        name = reader.text(MAX_NAME_BYTES)
        keys: list[str] = []
        record = ArrayRecord() if kind == _ARRAYS else MetricRecord() if kind == _METRICS else ConfigRecord()
        if kind > _CONFIGS or name in content:
            raise PeerError("a message's content holds a record of no known kind, or one twice")
        for _ in range(reader.count()):
            key = reader.text(MAX_NAME_BYTES)
            if key in keys:
                raise PeerError("a message's content holds an entry twice")
            keys.append(key)
            try:
                record[key] = reader.array() if kind == _ARRAYS else reader.value()  # type: ignore[assignment]  # each record checks its own kinds
            except TypeError:
                raise PeerError("a message's content holds a value where its record takes none such") from None
        content[name] = record
    if not reader.ends():
        raise PeerError("a message's content is longer than what it declares")
    return content


class ChannelGrid(Grid):
    """Flower's Grid over one channel per client, for the thread of a ServerApp; made and closed by `serve`.

    Node ids are 2, 3, ... in the order of the clients' names; `get_nodes` gives each its name. Whatever goes wrong with
    one client is raised at once with its name, and the others are no longer waited for: a run never goes on with fewer.
    """

    def __init__(self, channels: Mapping[str, Channel], loop: asyncio.AbstractEventLoop) -> None:
        self._names = dict(enumerate(sorted(channels), start=SERVER + 1))
        self._channels, self._loop = channels, loop
        self._asked = dict.fromkeys(self._names, 0)
        self._replies: dict[str, Message] = {}
        self._under_way: Future[list[Message]] | None = None
        self._closed = False

    def set_run(self, run: Run) -> None:
        """A run's facts are in the contract; Flower's record of them stays empty."""

    @property
    def run(self) -> Run:
        return Run.create_empty(_RUN)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._names)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node, name=name, owner_name=name) for node, name in self._names.items()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        replies = list(self.send_and_receive(messages))
        ids = [reply.metadata.reply_to_message_id for reply in replies]
        self._replies.update(zip(ids, replies, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(each) for each in message_ids if each in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies in the order of the messages, one message a client. Raises PeerError or CarrierError with a name.

        timeout is left to the channels, which know a slow client from one that is gone.
        """
        asked = list(messages)
        if len({message.metadata.dst_node_id for message in asked}) < len(asked):
            raise ValueError("a client is asked one thing at a time")
        if self._closed:
            raise CarrierError("the run has ended")
        self._under_way = asyncio.run_coroutine_threadsafe(self._exchange(asked), self._loop)
        if self._closed:  # since we looked: nobody else would free this thread
            self._under_way.cancel()
        return self._under_way.result()

    async def _exchange(self, messages: list[Message]) -> list[Message]:
        # Most often everybody is asked the same: then it is encoded once.
        contents = {id(message.content): message.content for message in messages}
        encoded = {each: encode(content) for each, content in contents.items()}
        asking = [asyncio.ensure_future(self._ask(message, encoded[id(message.content)])) for message in messages]
        try:
            return list(await asyncio.gather(*asking))
        finally:
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, message: Message, content: bytes) -> Message:
        node = message.metadata.dst_node_id
        channel, number = self._channels[self._names[node]], self._asked[node] + 1
        self._asked[node] = number
        message.metadata.__dict__["_message_id"] = f"{node}.{number}"
        instruction = Instruction(number, message.metadata.message_type, message.metadata.group_id, content)
        try:
            await channel.send(instruction)
            reply = await channel.recv(Reply)
            if reply.number != number:
                raise PeerError(f"answer {number} was due, number {reply.number} came: repeated or out of turn")
            answer = decode(reply.content)
        except TidegateError as error:
            raise _naming(error, self._names[node]) from None
        return Message(answer, reply_to=message)

    async def dismiss(self) -> None:
        """Tells every client that the run is over."""
        for node, name in self._names.items():
            await self._channels[name].send(Instruction(self._asked[node] + 1, "", "", b""))

    def close(self) -> None:
        """Frees the app's thread if it waits for replies; it gets no further ones."""
        self._closed = True
        if self._under_way is not None:
            self._under_way.cancel()


def _naming(error: TidegateError, name: str) -> TidegateError:
    return error if name in error.text else type(error)(f"{name}: {error.text}", error.hint)


async def serve(channels: Mapping[str, Channel], app: ServerApp) -> None:
    """Runs a ServerApp over one channel per client, by the client's name; returns when the app's main has.

    Raises what the app raises, and PeerError or CarrierError with the client's name when one leaves the protocol.
    """
    FLOWER_LOGGER.setLevel(_WARNING)
    # Flower stamps every Message with these; they say nothing here, but it does not make a Message without them.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, _RUN, SERVER
    loop = asyncio.get_running_loop()
    grid = ChannelGrid(channels, loop)
    with_one_thread = ThreadPoolExecutor(1, "server-app")
    try:
        await loop.run_in_executor(with_one_thread, app, grid, _context(SERVER))
        await grid.dismiss()
    finally:
        grid.close()
        with_one_thread.shutdown(wait=False)


async def attend(channel: Channel, app: ClientApp) -> None:
    """Runs a ClientApp on what the server at the other end asks; ends when it says so.

    The app runs in this thread: a channel that is to be read meanwhile has one of its own. Raises what the app raises;
    PeerError when the server repeats itself or asks what the app does not answer.
    """
    FLOWER_LOGGER.setLevel(_WARNING)
    context, number = _context(SERVER + 1), 0
    while True:
        instruction = await channel.recv(Instruction)
        number += 1
        if instruction.number != number:
            raise PeerError(f"instruction {number} was due, {instruction.number} came: repeated or out of turn")
        if not instruction.kind:
            return
        reply = app(_message(instruction, app), context)
        await channel.send(Reply(number, encode(reply.content)))


def _message(instruction: Instruction, app: ClientApp) -> Message:
    kind = instruction.kind if "." in instruction.kind else instruction.kind + ".default"
    if kind not in app._registered_funcs:
        raise PeerError("the coordinator asks for what this app does not answer", "compare the versions of both sides")
    metadata = Metadata(
        run_id=_RUN,
        message_id=str(instruction.number),
        src_node_id=SERVER,
        dst_node_id=SERVER + 1,
        reply_to_message_id="",
        group_id=instruction.group[:MAX_NAME_BYTES],
        created_at=0.0,
        ttl=_TTL_S,
        message_type=instruction.kind,
    )
    return make_message(metadata=metadata, content=decode(instruction.content))


def _context(node: int) -> Context:
    return Context(run_id=_RUN, node_id=node, node_config={}, state=RecordDict(), run_config={})
