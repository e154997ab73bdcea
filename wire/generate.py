"""Writes relay_pb2.py, relay_pb2.pyi, relay_pb2_grpc.py and relay_pb2_grpc.pyi from relay.proto.

    python -m tidegate.wire.generate [--check]

`--check` writes nothing and fails when what is committed is not what the compiler writes. Needs grpcio-tools.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet, ServiceDescriptorProto
from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PROTO = "tidegate/wire/relay.proto"
GENERATED = ("relay_pb2.py", "relay_pb2.pyi", "relay_pb2_grpc.py", "relay_pb2_grpc.pyi")

_STUB_HEAD = '''"""Types of relay_pb2_grpc, which the compiler writes without any. Written by generate.py."""

from collections.abc import AsyncIterator
from typing import overload

import grpc
import grpc.aio

from tidegate.wire import relay_pb2

'''


def _compile(into: Path) -> None:
    """Compiles a copy that lies at tidegate/wire/, so that the stubs import each other by that path."""
    source = into / PROTO
    source.parent.mkdir(parents=True)
    source.write_bytes((HERE / "relay.proto").read_bytes())
    described = into / "described"
    writers = [f"--{kind}_out={into}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{into}", *writers, f"--descriptor_set_out={described}", PROTO]) != 0:
        raise SystemExit("the protocol compiler refused relay.proto")
    service = FileDescriptorSet.FromString(described.read_bytes()).file[0].service[0]
    (source.parent / "relay_pb2_grpc.pyi").write_text(_service_types(service))


def _service_types(service: ServiceDescriptorProto) -> str:
    """The .pyi of the service: one stub for sync and one for asyncio channels, and the servicer to derive from."""
    sync_stub, async_stub, servicer = [], [], []
    for method in service.method:
        asked, told = (f"relay_pb2.{name.rpartition('.')[2]}" for name in (method.input_type, method.output_type))
        if method.client_streaming != method.server_streaming:
            raise SystemExit(f"{method.name}: streams one way only, which this writer does not know")
        context = f"context: grpc.aio.ServicerContext[{asked}, {told}]"
        if method.client_streaming:
            kind = f"StreamStreamMultiCallable[{asked}, {told}]"
            frames = f"request_iterator: AsyncIterator[{asked}]"
            servicer.append(f"    def {method.name}(self, {frames}, {context}) -> AsyncIterator[{told}]: ...")
        else:
            kind = f"UnaryUnaryMultiCallable[{asked}, {told}]"
            servicer.append(f"    async def {method.name}(self, request: {asked}, {context}) -> {told}: ...")
        sync_stub.append(f"    {method.name}: grpc.{kind}")
        async_stub.append(f"    {method.name}: grpc.aio.{kind}  # type: ignore[assignment]")
    name = service.name
    lines = [
        f"class {name}Stub:",
        "    @overload",
        f"    def __new__(cls, channel: grpc.Channel) -> {name}Stub: ...",
        "    @overload",
        f"    def __new__(cls, channel: grpc.aio.Channel) -> {name}AsyncStub: ...",
        *sync_stub,
        "",
        f"class {name}AsyncStub({name}Stub):  # a type only: what {name}Stub is on an asyncio channel",
        *async_stub,
        "",
        f"class {name}Servicer:",
        *servicer,
        "",
        f"def add_{name}Servicer_to_server(servicer: {name}Servicer, server: grpc.aio.Server) -> None: ...",
        "",
    ]
    return _STUB_HEAD + "\n".join(lines)


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        _compile(Path(folder))
        fresh = {name: (Path(folder) / Path(PROTO).parent / name).read_bytes() for name in GENERATED}
    stale = [name for name in GENERATED if not (HERE / name).exists() or (HERE / name).read_bytes() != fresh[name]]
    if "--check" in arguments:
        if stale:
            sys.stderr.write(f"not what relay.proto gives: {', '.join(stale)}; run python -m tidegate.wire.generate\n")
        return 1 if stale else 0
    for name in stale:
        (HERE / name).write_bytes(fresh[name])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
