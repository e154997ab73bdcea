"""Flower over our channels: what we use of it is there, what travels is bounded, who leaves the protocol is named."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.serverapp.strategy import Strategy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tidegate.protocols.channel import CarrierError, Channel, PeerError, TidegateError
from tidegate.protocols.horizontal import flower_grid
from tidegate.protocols.horizontal.flower_grid import (
    Array,
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Context,
    Grid,
    Instruction,
    Message,
    MetricRecord,
    RecordDict,
    Reply,
    ServerApp,
    attend,
    decode,
    encode,
    serve,
)
from tidegate.protocols.simulate import MemoryChannel, memory_line

# What of Flower


def _parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_flower_is_of_the_range_that_this_contract_is_written_for() -> None:
    from importlib.metadata import version

    major, minor = map(int, version("flwr").split(".")[:2])
    assert (1, 41) <= (major, minor) < (1, 43)


def test_flowers_grid_asks_of_us_what_ours_has() -> None:
    methods = {"set_run", "run", "create_message", "get_node_ids", "push_messages", "pull_messages", "send_and_receive"}
    assert Grid.__abstractmethods__ == methods
    assert _parameters(Grid.send_and_receive) == ["messages", "timeout"]
    assert _parameters(Grid.create_message) == ["content", "message_type", "dst_node_id", "group_id", "ttl"]
    assert {"node_id", "name"} <= {each.name for each in flower_grid.NodeInfo.DESCRIPTOR.fields}


def test_flowers_strategy_asks_of_us_what_ours_has() -> None:
    methods = {"configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate", "summary"}
    assert Strategy.__abstractmethods__ == methods
    assert _parameters(Strategy.configure_train) == ["server_round", "arrays", "config", "grid"]
    assert _parameters(Strategy.aggregate_train) == ["server_round", "replies"]
    assert _parameters(Strategy.start)[:3] == ["grid", "initial_arrays", "num_rounds"]
    assert _parameters(flower_grid.sample_nodes) == ["grid", "min_available_nodes", "sample_size"]


def test_flowers_messages_have_the_fields_that_we_set() -> None:
    wanted = ["run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id", "group_id", "created_at"]
    assert _parameters(flower_grid.Metadata)[:9] == [*wanted, "ttl", "message_type"]
    assert _parameters(flower_grid.make_message) == ["metadata", "content", "error"]
    assert _parameters(Context)[:5] == ["run_id", "node_id", "node_config", "state", "run_config"]
    app = ClientApp()
    app.query("x")(lambda message, _context: message)
    assert list(app._registered_funcs) == ["query.x"]


def test_a_record_holds_what_flower_says_it_does() -> None:
    with pytest.raises(TypeError):
        MetricRecord({"a": "text"})  # type: ignore[dict-item]  # which it refuses
    for value in (1, 2.5, True, "text", b"bytes", [1, 2], ["a"], [b"a"]):
        assert ConfigRecord({"a": value})["a"] == value
    array = np.arange(6.0).reshape(2, 3)
    assert (Array(array).numpy() == array).all()


def test_importing_flower_reports_nothing_and_opens_no_connection() -> None:
    watched = """
import socket, sys
def refuse(*_a, **_k): raise SystemExit("a connection was opened")
socket.socket.connect = refuse
socket.create_connection = refuse
from tidegate.protocols.horizontal import flower_grid, pooling
from flwr.supercore import telemetry
assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
"""
    told = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    done = subprocess.run([sys.executable, "-c", watched], env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_flower_the_error_says_what_to_install() -> None:
    hidden = """
import sys
sys.modules["flwr"] = None
from tidegate.protocols.channel import ConfigError
from tidegate.protocols.horizontal import kmeans, logistic, task
try:
    from tidegate.protocols.horizontal import pooling
except ConfigError as error:
    assert "pip install 'tidegate[horizontal]'" in error.hint, error.hint
else:
    raise SystemExit("it was imported")
"""
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# What travels

_scalars = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(),
    st.binary(),
)
_lists = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.floats(allow_nan=False, allow_infinity=False)),
    st.lists(st.text()),
    st.lists(st.binary()),
    st.lists(st.booleans()),
)
_numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
_keys = st.text(max_size=20)
_arrays = st.sampled_from(["<f8", "<u8", "<i8", "<f4", "|u1"]).flatmap(
    lambda dtype: arrays(
        dtype,
        array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False} if "f" in dtype else None,
    )
)
_records = st.one_of(
    st.dictionaries(_keys, st.one_of(_scalars, _lists), max_size=4).map(ConfigRecord),
    st.dictionaries(_keys, _numbers, max_size=4).map(MetricRecord),
    st.dictionaries(_keys, _arrays.map(Array), max_size=3).map(ArrayRecord),
)
_contents = st.dictionaries(_keys, _records, max_size=4).map(RecordDict)


def _plain(content: RecordDict) -> dict[str, tuple[type, dict[str, Any]]]:
    def shown(value: Any) -> Any:
        if not isinstance(value, Array):
            return value
        array = value.numpy()
        return (str(array.dtype), array.shape, array.tobytes())

    return {name: (type(record), {k: shown(v) for k, v in record.items()}) for name, record in content.items()}


@settings(max_examples=60, deadline=None)
@given(content=_contents)
def test_what_is_decoded_is_what_was_encoded(content: RecordDict) -> None:
    assert _plain(decode(encode(content))) == _plain(content)


@settings(max_examples=100, deadline=None)
@given(content=_contents, data=st.data())
def test_changed_bytes_are_refused_or_decode_to_something_that_encodes_to_them(content: RecordDict, data: Any) -> None:
    good = encode(content)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    cut = good[: data.draw(st.integers(0, len(good)))]
    for each in (bad, cut, good + b"\0"):
        try:
            again = encode(decode(each))
        except PeerError:
            continue
        assert again == each or _plain(decode(again)) == _plain(decode(each))


def _one_array(code: int, shape: tuple[int, ...], data: bytes) -> bytes:
    name = struct.pack("<I", 1) + b"a"
    array = struct.pack(f"<BB{len(shape)}Q", code, len(shape), *shape) + data
    return struct.pack("<I", 1) + b"\0" + name + struct.pack("<I", 1) + name + array


@pytest.mark.parametrize(
    "content",
    [
        _one_array(0, (2**62,), b""),
        _one_array(0, (2**32, 2**32), b""),
        _one_array(0, (2,), b"\0" * 8),
        _one_array(9, (1,), b"\0" * 8),
        _one_array(0, (1,) * 5, b"\0" * 8),
        _one_array(0, (1,), struct.pack("<d", math.nan)),
        _one_array(0, (1,), struct.pack("<d", math.inf)),
        struct.pack("<I", 2**32 - 1),
        b"",
    ],
    ids=["huge", "wraps", "short", "unknown dtype", "five axes", "NaN", "infinite", "many records", "empty"],
)
def test_an_array_that_lies_about_itself_is_refused_before_it_is_made(content: bytes) -> None:
    with pytest.raises(PeerError):
        decode(content)


def test_an_array_of_our_own_reads_back() -> None:
    assert decode(_one_array(0, (1,), struct.pack("<d", 2.5)))["a"]["a"].numpy() == 2.5  # type: ignore[union-attr]


# Who asks whom


def _told(message: Message) -> float:
    value = message.content["told"]["value"]
    assert isinstance(value, float)
    return value


def _sums() -> tuple[ServerApp, ClientApp, list[float]]:
    """Ten rounds in which every client says one more than it is told, and the server adds up."""
    server, client, totals = ServerApp(), ClientApp(), list[float]()

    @server.main()
    def main(grid: Grid, _context: Context) -> None:
        for number in range(10):
            content = RecordDict({"told": MetricRecord({"value": float(number)})})
            replies = grid.send_and_receive([Message(content, node, "train") for node in grid.get_node_ids()])
            totals.append(sum(_told(reply) for reply in replies))

    @client.train()
    def train(message: Message, _context: Context) -> Message:
        return Message(RecordDict({"told": MetricRecord({"value": _told(message) + 1})}), reply_to=message)

    return server, client, totals


Role = Callable[[MemoryChannel], Awaitable[None]]


def _play(server: ServerApp, roles: Mapping[str, Role]) -> dict[str, BaseException | None]:
    """How it ended for each client and, as "", for the server; whoever ends closes its lines, as nodes do."""

    async def all_roles() -> dict[str, BaseException | None]:
        lines = {name: memory_line() for name in roles}

        async def until_done(role: Awaitable[None], *ends: MemoryChannel) -> BaseException | None:
            try:
                await role
            except TidegateError as error:
                return error
            finally:
                for end in ends:
                    await end.close()
            return None

        channels: dict[str, Channel] = {name: line[0] for name, line in lines.items()}
        ended = [until_done(serve(channels, server), *(line[0] for line in lines.values()))]
        ended += [until_done(role(lines[name][1]), lines[name][1]) for name, role in roles.items()]
        async with asyncio.timeout(30):
            return dict(zip(["", *roles], await asyncio.gather(*ended), strict=True))

    return asyncio.run(all_roles())


def test_an_app_asks_its_clients_and_hears_them_all() -> None:
    server, client, totals = _sums()
    ended = _play(server, {name: lambda line: attend(line, client) for name in ("a", "b", "c")})
    assert set(ended.values()) == {None}
    assert totals == [3.0 * (number + 1) for number in range(10)]


def test_nodes_go_by_the_names_of_their_lines() -> None:
    server, seen = ServerApp(), list[str]()

    @server.main()
    def main(grid: Grid, _context: Context) -> None:
        seen.extend(node.name for node in grid.get_nodes())

    _play(server, {name: lambda line: attend(line, ClientApp()) for name in ("b", "a")})
    assert seen == ["a", "b"]


def test_messages_can_be_pushed_first_and_their_replies_pulled_later() -> None:
    server, pulled = ServerApp(), list[float]()

    @server.main()
    def main(grid: Grid, _context: Context) -> None:
        grid.set_run(grid.run)
        told = RecordDict({"told": MetricRecord({"value": 1.0})})
        ids = list(grid.push_messages(grid.create_message(told, "train", node, "") for node in grid.get_node_ids()))
        pulled.extend(_told(reply) for reply in grid.pull_messages(ids))
        assert not list(grid.pull_messages(ids))

    client = _sums()[1]
    ended = _play(server, {name: lambda line: attend(line, client) for name in ("a", "b")})
    assert set(ended.values()) == {None}
    assert pulled == [2.0, 2.0]


async def _leaves(line: MemoryChannel) -> None:
    await line.recv(Instruction)


async def _repeats(line: MemoryChannel) -> None:
    asked = await line.recv(Instruction)
    for _ in range(2):
        await line.send(Reply(asked.number, asked.content))
    await line.recv(Instruction)
    await line.recv(Instruction)


async def _ahead(line: MemoryChannel) -> None:
    asked = await line.recv(Instruction)
    await line.send(Reply(asked.number + 1, asked.content))
    await line.recv(Instruction)


async def _nan(line: MemoryChannel) -> None:
    asked = await line.recv(Instruction)
    await line.send(Reply(asked.number, _one_array(0, (1,), struct.pack("<d", math.nan))))
    await line.recv(Instruction)


async def _asks(line: MemoryChannel) -> None:
    await line.recv(Instruction)
    await line.send(Instruction(1, "train", "", b""))
    await line.recv(Instruction)


async def _rubbish(line: MemoryChannel) -> None:
    asked = await line.recv(Instruction)
    await line.send(Reply(asked.number, b"\xff" * 100))
    await line.recv(Instruction)


@pytest.mark.parametrize("wrong", [_leaves, _repeats, _ahead, _nan, _asks, _rubbish])
def test_a_client_that_leaves_the_protocol_is_named_and_the_run_ends_for_all(wrong: Role) -> None:
    server, client, _totals = _sums()
    ended = _play(
        server,
        {"good-1": lambda line: attend(line, client), "wrong": wrong, "good-2": lambda line: attend(line, client)},
    )
    assert isinstance(ended[""], TidegateError)
    assert ended[""].text.startswith("wrong: ")
    assert wrong not in (_repeats, _ahead) or "repeated or out of turn" in ended[""].text
    assert isinstance(ended["good-1"], CarrierError)
    assert isinstance(ended["good-2"], CarrierError)


@pytest.mark.parametrize(
    "instruction",
    [
        Instruction(2, "train", "", b"\0" * 4),
        Instruction(1, "query.other", "", b"\0" * 4),
        Instruction(1, "train", "", b"x"),
    ],
    ids=["out of turn", "unknown", "rubbish"],
)
def test_a_server_that_leaves_the_protocol_is_refused_by_its_clients(instruction: Instruction) -> None:
    async def main() -> None:
        here, there = memory_line()
        await here.send(instruction)
        async with asyncio.timeout(10):
            await attend(there, _sums()[1])

    with pytest.raises(PeerError):
        asyncio.run(main())


def test_a_run_that_is_called_off_leaves_no_thread_waiting() -> None:
    server, _client, _totals = _sums()

    async def main() -> None:
        lines = {name: memory_line() for name in ("a", "b")}
        serving = asyncio.ensure_future(serve({name: line[0] for name, line in lines.items()}, server))
        for line in lines.values():
            await line[1].recv(Instruction)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    # asyncio.run would wait for the loop's threads, Python for the app's: neither comes back if it still waits.
    asyncio.run(main())
    apps = [each for each in threading.enumerate() if each.name.startswith("server-app")]
    for each in apps:
        each.join(30)  # it is freed, and ends in its own time
    assert not [each.name for each in apps if each.is_alive()]
