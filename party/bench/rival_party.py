"""One party of another engine's intersection: a script that the interpreter with that engine runs, never imported here.

    python rival_party.py ENGINE RANK PORT PEER_PORT INPUT OUTPUT

Rank 0 is the brand and always learns the intersection. INPUT is a CSV file with the one column `email`, OUTPUT one of
the same form. The script says on standard output, a JSON object a line: which version it runs, once both parties are
connected; then, after it has read a line, what the run cost. Everything else goes to standard error. It imports the
standard library and the engine, nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

HOST = "127.0.0.1"
CONNECT_S = 60.0
LONGEST_MS = 3 * 3600 * 1000
Run = Callable[[Path, Path], None]


def openmined(rank: int, port: int, peer_port: int, _setting: str) -> Run:
    """The brand is the client, who learns; the media is the server. Exact: the container without false positives.

    Each message is one protobuf, as in the library's README; the client's request is on its way while the server still
    builds its set-up, then server and client work in turn. A request is 35 bytes a row and a protobuf at most 2 GB.
    """
    psi = importlib.import_module("private_set_intersection.python")
    line = _connected(rank, port, peer_port)

    def brand(given: Path, learned: Path) -> None:
        emails = _read(given)
        client = psi.client.CreateWithNewKey(True)
        _send(line, client.CreateRequest(emails))
        setup, response = _receive(line, psi.ServerSetup()), _receive(line, psi.Response())
        found = client.GetIntersection(setup, response)
        learned.write_text("email\n" + "".join(f"{emails[i]}\n" for i in found))

    def media(given: Path, _learned: Path) -> None:
        emails = _read(given)
        server = psi.server.CreateWithNewKey(True)
        # The container ignores the rate of false positives and the client's size: it has none.
        setup = server.CreateSetupMessage(1e-9, len(emails), emails, psi.DataStructure.RAW)
        request = _receive(line, psi.Request())
        _send(line, setup)
        _send(line, server.ProcessRequest(request))

    return brand if rank == 0 else media


def spu(rank: int, port: int, peer_port: int, setting: str) -> Run:
    """Both learn the aligned rows. setting: PROTOCOL_ECDH/CURVE, PROTOCOL_RR22, PROTOCOL_RR22/low or PROTOCOL_KKRT."""
    psi = importlib.import_module("spu.psi")
    link = importlib.import_module("spu.libspu").link
    protocol, _, choice = setting.partition("/")
    description = link.Desc()
    attempts = {"connect_retry_interval_ms": 100, "connect_retry_times": int(CONNECT_S * 10)}
    patience = {"recv_timeout_ms": LONGEST_MS, "http_timeout_ms": 120_000}
    for name, value in {"id": "rivals", **attempts, **patience}.items():
        setattr(description, name, value)
    ports = (port, peer_port) if rank == 0 else (peer_port, port)
    for name, at in zip(("brand", "media"), ports, strict=True):
        description.add_party(name, f"{HOST}:{at}")
    line = link.create_brpc(description, rank)

    def run(given: Path, learned: Path) -> None:
        config = psi.PsiExecuteConfig(
            protocol_conf=psi.PsiProtocolConfig(
                protocol=psi.parse_protocol(protocol),
                receiver_rank=0,
                broadcast_result=True,
                ecdh_params=psi.EcdhParams(psi.parse_curve_type(choice)),
                rr22_params=psi.Rr22Rarams(low_comm_mode=choice == "low"),
            ),
            input_params=psi.InputParams(path=str(given), selected_keys=["email"], keys_unique=True),
            output_params=psi.OutputParams(path=str(learned)),
        )
        psi.psi_execute(config, line)

    return run


ENGINES = {"openmined-psi": openmined, "spu": spu}


class SentBytes:
    """What this process has sent over TCP, read from the kernel's account of each of its sockets."""

    # linux/tcp.h, struct tcp_info: tcpi_bytes_sent is the u64 at 200 (Linux 4.19 and later), payload with every resend.
    TCP_INFO, LENGTH, SENT_AT = 11, 256, 200

    def __init__(self) -> None:
        self._seen: dict[object, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        self._look()
        return sum(self._seen.values())

    def _watch(self) -> None:
        # A socket that closes before the end takes its account with it: what was seen last stands.
        while not self._over.wait(0.5):
            self._look()

    def _look(self) -> None:
        for file in Path("/proc/self/fd").iterdir():
            # What is no connected TCP socket, or gone since it was listed, is passed over.
            with contextlib.suppress(OSError, struct.error):
                if not str(file.readlink()).startswith("socket:"):
                    continue
                with socket.socket(fileno=os.dup(int(file.name))) as copy:
                    ends = (copy.getsockname(), copy.getpeername())
                    account = copy.getsockopt(socket.IPPROTO_TCP, self.TCP_INFO, self.LENGTH)
                self._seen[ends] = struct.unpack_from("=Q", account, self.SENT_AT)[0]


def _connected(rank: int, port: int, peer_port: int) -> socket.socket:
    if rank == 1:
        with socket.create_server((HOST, port)) as server:
            server.settimeout(CONNECT_S)
            line, _ = server.accept()
    else:
        deadline = time.monotonic() + CONNECT_S
        while True:
            try:
                line = socket.create_connection((HOST, peer_port))
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
    line.settimeout(LONGEST_MS / 1000)
    return line


def _send(line: socket.socket, message: Any) -> None:
    payload = message.SerializeToString()
    line.sendall(struct.pack("<Q", len(payload)) + payload)


def _receive(line: socket.socket, message: Any) -> Any:
    (length,) = struct.unpack("<Q", _exactly(line, 8))
    message.ParseFromString(bytes(_exactly(line, length)))
    return message


def _exactly(line: socket.socket, length: int) -> bytearray:
    payload, got = bytearray(length), 0
    while got < length:
        read = line.recv_into(memoryview(payload)[got:])
        if not read:
            raise ConnectionError("the other party has closed the connection")
        got += read
    return payload


def _read(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:]


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak_rss_mb() -> float:
    status = Path("/proc/self/status").read_text()
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return round(peak_kb / 1024, 1)


def _answer(answers: TextIO, figures: dict[str, Any]) -> None:
    answers.write(json.dumps(figures) + "\n")
    answers.flush()


def main() -> None:
    engine, setting, rank, port, peer_port, given, learned = sys.argv[1:]
    # The engines write logs to standard output, from C++ too.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = ENGINES[engine](int(rank), int(port), int(peer_port), setting)
    _answer(answers, {"version": importlib.metadata.version(engine)})
    if not sys.stdin.readline():
        sys.exit("whoever measures has gone")
    sent, before_s = SentBytes(), _cpu_s()
    run(Path(given), Path(learned))
    cpu_s = round(_cpu_s() - before_s, 2)
    _answer(answers, {"cpu_s": cpu_s, "peak_rss_mb": _peak_rss_mb(), "bytes": sent.stop()})
    # Until both are done, so that neither finds the line closed.
    sys.stdin.readline()
    # The engines' threads and links take seconds to wind down, and nothing is measured any more.
    os._exit(0)


if __name__ == "__main__":
    main()
