"""A coordinator that keeps a copy of all that it sees: `python recording_coordinator.py FILE [coordinator arguments]`.

TLS ends at the coordinator, so what it sees is the plain bytes of every call and answer. They are appended to FILE as
they come: letters, dockets, signatures, sealed frames, what nodes say and are told.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

MAKERS = ("unary_unary_rpc_method_handler", "stream_stream_rpc_method_handler")


def main() -> None:
    file = Path(sys.argv[1]).open("ab", buffering=0)  # noqa: SIM115 - open until the process ends

    def recording(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(method: Any, request_deserializer: Any, response_serializer: Any) -> Any:
            def heard(data: bytes) -> Any:
                file.write(data)
                return request_deserializer(data)

            def said(message: Any) -> bytes:
                data: bytes = response_serializer(message)
                file.write(data)
                return data

            return make(method, request_deserializer=heard, response_serializer=said)

        return made

    for maker in MAKERS:
        setattr(grpc, maker, recording(getattr(grpc, maker)))
    from tidegate.coordinator.cli import app

    app(sys.argv[2:])


if __name__ == "__main__":
    main()
