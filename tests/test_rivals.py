"""Other engines beside ours: whom they are measured on, and that none is dropped, believed unchecked or waited for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tidegate.party.bench import rivals
from tidegate.party.bench.rivals import RIVALS, Rival, measure, table, write_people
from tidegate.party.bench.run import Load, write_data
from tidegate.protocols.channel import ConfigError
from tidegate.protocols.ids import normalise

LOAD = Load(
    step="match",
    rows=1500,
    peer_rows=2500,
    overlap_percent=40,
    brand_features=5,
    media_features=5,
    steps=1,
    keys=("email",),
)

# An engine that needs no connection: it says what rival_party.py says and looks into the other party's file.
STAND_IN = """
import json, pathlib, sys
engine, setting, rank, port, peer_port, given, learned = sys.argv[1:]
if setting == "absent" and rank == "1":
    sys.exit("ModuleNotFoundError: No module named 'engine'")
if setting == "absent":
    sys.stdin.read()  # as one that waits for its peer, until it is stopped
print(json.dumps({"version": "1.0"}), flush=True)
sys.stdin.readline()
if setting == "fails" and rank == "0":
    sys.exit("RuntimeError: broken")
if setting == "fails":
    sys.stdin.read()
other = pathlib.Path(given).with_name("media.csv" if rank == "0" else "brand.csv")
head, *mine = pathlib.Path(given).read_text().splitlines()
theirs = set(other.read_text().splitlines())
found = [email for email in mine if email in theirs]
found = {"loses": found[1:], "repeats": found + found[:1], "adds": [*found, "nobody@example.com"]}.get(setting, found)
pathlib.Path(learned).write_text("\\n".join([head, *found]))
print(json.dumps({"cpu_s": 0.25, "peak_rss_mb": 10.0 + int(rank), "bytes": 100}), flush=True)
sys.stdin.readline()
"""


def stand_in(setting: str, learners: tuple[str, ...] = ("brand", "media")) -> Rival:
    return Rival("stand-in", "stand-in", setting, learners, "looks", "everything")


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """A folder with people and a stand-in for the script, and whom both parties have."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(rivals, "SCRIPT", script)
    return tmp_path, write_people(LOAD, tmp_path)


def test_every_rival_that_is_not_installed_is_listed_with_its_reason_beside_our_own_figure() -> None:
    command = [sys.executable, "-m", "tidegate", "bench", "rivals", "--rows", "1000", "--python", sys.executable]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=270, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    ours, *others = figures["engines"]
    assert ours["engine"] == "tidegate"
    assert ours["seconds"] > 0
    assert figures["common"] == 500
    assert figures["cores"] >= 1
    assert [row["engine"] for row in others] == [rival.name for rival in RIVALS]
    for row in others:
        assert "No module named" in row["absent"]
        assert "seconds" not in row


def test_rivals_are_given_the_people_of_our_own_measurement_in_the_same_order(tmp_path: Path) -> None:
    common = write_people(LOAD, tmp_path)
    write_data(LOAD, tmp_path / "ours")
    clean = {}
    for party, rows in (("brand", 1500), ("media", 2500)):
        head, *clean[party] = (tmp_path / f"{party}.csv").read_text().splitlines()
        assert head == "email"
        assert len(clean[party]) == rows
        messy = pq.read_table(tmp_path / "ours" / f"{party}.parquet")["email"].to_pylist()
        assert list(normalise("email", clean[party])[0]) == list(normalise("email", messy)[0])
    assert common == sorted(set(clean["brand"]) & set(clean["media"]))
    assert len(common) == 600


def test_an_engine_that_finds_the_clear_text_intersection_is_exact(people: tuple[Path, list[str]]) -> None:
    folder, common = people
    row = measure(stand_in("right"), sys.executable, folder, common)
    assert row["exact"] is True
    assert row["found"] == 600
    assert (row["version"], row["bytes"], row["cpu_s"]) == ("1.0", 200, 0.5)
    assert row["peak_rss_mb_of"] == {"brand": 10.0, "media": 11.0}
    assert row["peak_rss_mb"] == 11.0


@pytest.mark.parametrize("setting", ["loses", "repeats", "adds"])
def test_an_engine_that_finds_anything_else_is_not_exact(people: tuple[Path, list[str]], setting: str) -> None:
    folder, common = people
    assert measure(stand_in(setting, ("brand",)), sys.executable, folder, common)["exact"] is False


@pytest.mark.parametrize(("setting", "reason"), [("absent", "No module named"), ("fails", "RuntimeError: broken")])
def test_when_one_party_fails_the_other_is_not_waited_for(
    people: tuple[Path, list[str]], setting: str, reason: str
) -> None:
    folder, common = people
    before = sorted(folder.iterdir())
    assert reason in measure(stand_in(setting), sys.executable, folder, common)["absent"]
    assert sorted(folder.iterdir()) == before


def test_no_engine_and_no_interpreter_of_that_name_are_told_before_anything_is_measured() -> None:
    with pytest.raises(ConfigError, match="no engine that this measures"):
        table(LOAD, sys.executable, ["spu RR23"], print)
    with pytest.raises(ConfigError, match="expected an interpreter"):
        table(LOAD, "/nowhere/python", [], print)


def test_bytes_are_what_the_kernel_says_was_sent() -> None:
    # In a process of its own: this one has sockets of other tests.
    script = """
import socket, struct, sys
sys.path.insert(0, sys.argv[1])
from rival_party import SentBytes
with socket.create_server(("127.0.0.1", 0)) as server:
    line = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
sent = SentBytes()
line.sendall(bytes(100_000))
left = 100_000
while left:
    left -= len(peer.recv(left))
# linux/tcp.h: tcpi_bytes_retrans, the u64 at 208. A busy kernel sends again what was only late.
resent = struct.unpack_from("=Q", line.getsockopt(socket.IPPROTO_TCP, SentBytes.TCP_INFO, SentBytes.LENGTH), 208)[0]
print(sent.stop() - resent)
"""
    folder = str(Path(rivals.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, folder], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "100000", done.stderr
