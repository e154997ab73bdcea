"""A whole campaign on records that are canaries, then a search for them everywhere else.

Real processes on the loopback: a coordinator that keeps all it sees, two nodes, their workers, and between them and
the coordinator a proxy that keeps every byte of the wire. Identifiers are looked for raw, normalised, in other
spellings, encoded and hashed; feature values as numbers of either precision and as text.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tests.canaries import Needles, read, text_needles
from tidegate.party.data import features, table
from tidegate.party.demo import loopback
from tidegate.party.demo.records import fiction_phones
from tidegate.party.store import Store

BOTH, BRAND_ONLY, MEDIA_ONLY = 500, 50, 1100
PLACES = ("brand", "media")
RECORDER = Path(__file__).with_name("recording_coordinator.py")
CAMPAIGN = """\
[campaign]
name = "canaries"

[parties]
brand = "brand"
media = "media"

[data]
brand = "customers"
media = "people"

[match]
keys = ["phone", "email"]

[label]
column = "good"
positive = "1"

[features]
brand = "all"
media = "all"

[holdout]
share = 30

[steps.match]
[steps.insight]
[steps.train]
steps = 2
lookalike_steps = 1
[steps.score]
[steps.expand]
sizes = [10, 20]
"""


@dataclass
class People:
    """One party's people: identifiers as its file has them and as they are normalised, numbers, texts for nobody."""

    numbers: list[int]
    emails: list[str]
    phones: list[str]
    written_emails: list[str]
    written_phones: list[str]
    values: NDArray[np.float64]
    texts: list[str]


def _people(numbers: list[int], emails: list[str], phones: list[str], messy: bool, columns: int, seed: int) -> People:
    rng = np.random.default_rng(seed)
    own_emails, own_phones = [emails[i] for i in numbers], [phones[i] for i in numbers]
    written_emails, written_phones = own_emails, own_phones
    if messy:
        written_emails = [f" {email.upper()}" if i % 2 else email.title() for i, email in enumerate(own_emails)]
        written_phones = [f"({phone[2:5]}) {phone[5:8]}-{phone[8:]}" for phone in own_phones]
    values = rng.uniform(1, 99, (len(numbers), columns))
    texts = [f"note-{secrets.token_hex(8)}" for _ in numbers]
    return People(numbers, own_emails, own_phones, written_emails, written_phones, values, texts)


def _write(people: People, path: Path, more: dict[str, pa.Array]) -> None:
    columns = {"email": pa.array(people.written_emails), "phone": pa.array(people.written_phones), **more}
    columns |= {f"{path.stem}_{j}": pa.array(people.values[:, j]) for j in range(people.values.shape[1])}
    columns["remark"] = pa.array(people.texts)
    pq.write_table(pa.table(columns), path)


class Proxy:
    """Passes bytes on between PORT and another port of the loopback, and keeps them, each direction by itself."""

    def __init__(self, port: int, upstream: int) -> None:
        self.kept: list[bytearray] = []
        self._port, self._upstream = port, upstream
        self._up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._up.wait(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self._port))
        self._up.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.1))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            on_reader, on_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass(reader, on_writer), self._pass(on_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = bytearray()
        self.kept.append(kept)
        try:
            while data := await reader.read(2**16):
                kept += data
                writer.write(data)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@dataclass
class Recorded(loopback.Loopback):
    """The stage of the demo with a proxy before the coordinator and a coordinator that records."""

    proxy: Proxy | None = field(default=None, init=False)
    ports: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, init=False)
    _address: str = field(default="", init=False)

    @property
    def heard(self) -> Path:
        return self.folder / "heard"

    def coordinator(self, *arguments: str) -> str:
        if arguments[0] == "init":
            self._address = arguments[arguments.index("--address") + 1]
        return super().coordinator(*arguments)

    def start_coordinator(self) -> None:
        port = self.ports.enter_context(loopback.held_port())
        command = [sys.executable, str(RECORDER), str(self.heard), "--home", str(self.folder / "coordinator")]
        with (self.folder / "coordinator.log").open("ab") as log:
            self.processes["coordinator"] = subprocess.Popen(
                [*command, "up", "--listen", f"127.0.0.1:{port}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        loopback.wait_for_port(self, port)
        self.proxy = Proxy(int(self._address.rpartition(":")[2]), port)


class Watch:
    """Looks at the stage's processes while they run: command lines, environments, open files, core limits."""

    def __init__(self, stage: loopback.Loopback) -> None:
        self.seen: dict[str, set[bytes]] = {"cmdline": set(), "environ": set(), "files": set(), "core": set()}
        self._stage, self._over = stage, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            for party in PLACES:
                if (node := self._stage.processes.get(party)) is not None:
                    self._note(node.pid)

    def _note(self, pid: int) -> None:
        proc = Path(f"/proc/{pid}")
        try:
            for name in ("cmdline", "environ"):
                self.seen[name].add((proc / name).read_bytes())
            if b"tidegate.party.worker" in (proc / "cmdline").read_bytes():
                for descriptor in (proc / "fd").iterdir():
                    self.seen["files"].add(str(descriptor.readlink()).encode())
                self.seen["core"] |= {
                    line for line in (proc / "limits").read_bytes().splitlines() if line.startswith(b"Max core file")
                }
            for child in (proc / "task" / str(pid) / "children").read_text().split():
                self._note(int(child))
        except OSError:
            return  # it has ended

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


@dataclass
class Played:
    """What is there after the campaign."""

    folder: Path
    stage: Recorded
    people: dict[str, People]
    wire: bytes
    heard: bytes
    seen: dict[str, set[bytes]]
    rare: str
    leftovers: dict[str, list[Path]]
    shared_memory: set[str]
    made: dict[tuple[str, ...], Needles] = field(default_factory=dict)

    def needles(self, *parties: str, without: str = "") -> Needles:
        """All of the parties' canaries, less the identifiers that people of `without` have in clear."""
        if (*parties, without) not in self.made:
            self.made[*parties, without] = self._needles(*parties, without=without)
        return self.made[*parties, without]

    def _needles(self, *parties: str, without: str) -> Needles:
        made = Needles()
        known = self.people[without] if without else None
        spared: set[str] = set()
        if known is not None:
            for email, phone in zip(known.emails, known.phones, strict=True):
                spared |= spellings(email, phone) | spellings(email.upper(), phone)
            spared |= {*known.written_emails, *known.written_phones}
        for party in parties:
            people = self.people[party]
            texts: set[str] = {*people.texts, self.rare} if party == "media" else {*people.texts}
            for email, phone in zip(people.emails, people.phones, strict=True):
                texts |= spellings(email, phone)
            texts |= {spelled for text in people.written_emails for spelled in (text, text.strip())}
            texts |= {*people.written_phones}
            for text in texts - spared:
                made.add_text(text)
            for text in texts & spared:
                # Who owns the identifier too may hold it in clear, and nothing made of it.
                made.add(needle for needle in text_needles(text) if needle.lower() != text.encode().lower())
            for kind, normalised in (("email", people.emails), ("phone", people.phones)):
                for identifier in normalised:
                    inside = kind.encode() + b"\0" + identifier.encode()
                    made.add(hashlib.new(name, inside).digest() for name in ("sha256", "sha512", "sha1", "md5"))
                    made.add(hashlib.new(name, inside).hexdigest().encode() for name in ("sha256", "sha512"))
            made.add_numbers(people.values)
        return made


def spellings(email: str, phone: str) -> set[str]:
    area, exchange, line = phone[2:5], phone[5:8], phone[8:]
    digits = {phone, phone[1:], phone[2:], f"{area}-{exchange}-{line}", f"({area}) {exchange}-{line}"}
    return {email, email.upper(), email.title(), email.lower(), *digits}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("canaries")
    data = folder / "data"
    data.mkdir()
    everybody = BOTH + BRAND_ONLY + MEDIA_ONLY
    emails = [f"{secrets.token_hex(6)}.canary@mail{i % 7}.example" for i in range(everybody)]
    phones = fiction_phones(everybody)
    rng = np.random.default_rng(5)
    numbers = {
        "brand": rng.permutation(BOTH + BRAND_ONLY).tolist(),
        "media": rng.permutation([*range(BOTH), *range(BOTH + BRAND_ONLY, everybody)]).tolist(),
    }
    people = {
        "brand": _people(numbers["brand"], emails, phones, messy=True, columns=2, seed=1),
        "media": _people(numbers["media"], emails, phones, messy=False, columns=4, seed=2),
    }
    rare = f"rare-{secrets.token_hex(8)}"
    good = pa.array(rng.integers(0, 2, len(numbers["brand"])))
    genre = pa.array([rare if i % 40 == 0 else ("news", "sport")[i % 2] for i in range(len(numbers["media"]))])
    _write(people["brand"], data / "brand.parquet", {"good": good})
    _write(people["media"], data / "media.parquet", {"genre": genre})
    (data / "campaign.toml").write_text(CAMPAIGN)
    keys = {"phone": "phone", "email": "email"}
    sets = {
        "brand": loopback.DataSet("customers", data / "brand.parquet", keys, "US"),
        "media": loopback.DataSet("people", data / "media.parquet", keys, "US"),
    }
    private = {name: folder / name for name in ("home", "temporary")}
    shared_before = _shared_memory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loopback, "Loopback", Recorded)
        for variable, place in zip(("HOME", "TMPDIR"), private.values(), strict=True):
            place.mkdir()
            patch.setenv(variable, str(place))
        with contextlib.ExitStack() as held, loopback.loopback(folder / "stage", sets) as stage:
            assert isinstance(stage, Recorded)
            held.push(stage.ports)
            stage.campaign("brand", "propose", str(data / "campaign.toml"), "--yes")
            stage.party("media", "approve", "canaries", "--yes")
            for party in PLACES:
                stage.start_node(party)
            watch = Watch(stage)
            _until_done(stage)
            watch.stop()
    shared_memory = _shared_memory() - shared_before
    assert stage.proxy is not None
    stage.proxy.stop()
    leftovers = {name: [path for path in place.rglob("*") if path.is_file()] for name, place in private.items()}
    for party in PLACES:
        stage.party(party, "results", "canaries", "--export", str(folder / "exported" / party))
    wire = b"\0".join(bytes(kept) for kept in stage.proxy.kept)
    heard = stage.heard.read_bytes()
    stage.heard.unlink()
    return Played(folder, stage, people, wire, heard, watch.seen, rare, leftovers, shared_memory)


def _shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("*")}  # noqa: S108 - looked at, not written to


def _until_done(stage: loopback.Loopback) -> None:
    deadline = time.monotonic() + 400
    while True:
        found = [loopback.campaign_state(stage.home(party), "canaries") for party in PLACES]
        ended = [campaign for campaign in found if loopback.is_over(campaign)]
        assert all(campaign.state == "done" for campaign in ended), [c.reason for c in ended]
        if len(ended) == len(found):
            return
        stage.check_alive()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.timeout(600)
def test_the_campaign_ran_and_the_recorders_heard_it(played: Played) -> None:
    sent = 0
    for party in PLACES:
        store = Store(played.stage.home(party).store_db)
        campaign = store.campaign("canaries")
        sent += sum(run.sent for run in store.runs(campaign.hash))
        store.close()
        assert campaign.hash in played.heard
        assert f"{party}".encode() in played.heard
    # Every frame goes in and out of the coordinator, in plain to its ears and in TLS over the wire.
    assert len(played.heard) > 2 * sent > 10**6
    assert len(played.wire) > len(played.heard)


def test_the_wire_shows_nothing(played: Played) -> None:
    assert not played.needles("brand", "media").within(played.wire)


def test_the_coordinator_sees_letters_and_frames_and_nothing_in_them(played: Played) -> None:
    assert not played.needles("brand", "media").within(played.heard)
    # Not the contract either, nor the names of columns that an offer shows.
    for word in (b"good", b"genre", b"media_0", b"customers", b'"commitment"'):
        assert not _words(played.heard, word), word


def _words(haystack: bytes, word: bytes) -> list[bytes]:
    """Where a word stands among other text: four letters alone are met by chance in so many megabytes."""
    around = [haystack[max(0, at.start() - 8) : at.end() + 8] for at in re.finditer(re.escape(word), haystack)]
    return [found for found in around if found.isascii() and found.decode().isprintable()]


def test_stores_logs_cards_and_the_coordinator_hold_nothing(played: Played) -> None:
    stage = played.folder / "stage"
    places = [stage / name for name in ("coordinator", "coordinator.log", "brand.log", "media.log")]
    places += [stage / f"{party}.card" for party in PLACES]
    places += [stage / party / "store.db" for party in PLACES]
    assert all(place.exists() for place in places)
    assert played.needles("brand", "media").in_files(*places) == {}


@pytest.mark.parametrize(("owner", "other"), [("brand", "media"), ("media", "brand")])
def test_the_other_partys_folder_holds_nothing_of_an_owners(played: Played, owner: str, other: str) -> None:
    needles = played.needles(owner, without=other)
    assert needles.in_files(played.folder / "stage" / other, played.folder / "exported" / other) == {}


def test_nobody_keeps_what_was_made_of_an_identifier(played: Played) -> None:
    hashed = Needles()
    for people in played.people.values():
        for identifier in (*people.emails, *people.phones, *people.written_emails, *people.written_phones):
            hashed.add(needle for needle in text_needles(identifier) if identifier.encode() not in needle)
    assert hashed.in_files(*(played.folder / "stage" / party for party in PLACES)) == {}


def test_the_medias_prepared_columns_are_nowhere_but_at_the_media(played: Played) -> None:
    media = played.folder / "stage" / "media"
    model = json.loads(next(media.glob("campaigns/*/train/model.json")).read_text())
    rows = table.read(played.folder / "data" / "media.parquet")
    # Some rows of each column: the more numbers are looked for, the nearer chance comes to one of them.
    some = np.arange(40)
    needles = Needles()
    for name in ("joint", "lookalike"):
        prepared = features.apply(features.Recipe.from_json(model["recipe"]), rows, some)
        prepared = prepared[:, prepared.std(axis=0) > 0.5]
        needles.add_numbers(prepared[:, :4])
        whitened = features.apply(features.Recipe.from_json(model["recipe"]), rows, some) @ np.array(
            model[name]["basis"]
        )
        needles.add_numbers(whitened)
    assert needles.in_files(played.folder / "stage" / "brand", played.folder / "exported" / "brand") == {}
    assert not needles.within(played.heard)


def test_keys_salts_and_plain_digests_stay_where_they_are(played: Played) -> None:
    secrets_of: dict[str, list[bytes]] = {}
    for party in PLACES:
        home = played.stage.home(party)
        keys = json.loads(home.identity_key.read_text())
        own = [bytes.fromhex(keys["signing"]), bytes.fromhex(keys["sealing"])]
        lines = home.coordinator_key.read_text().splitlines()[1:-1]
        own += [base64.b64decode("".join(lines)), *(line.encode() for line in lines)]
        store = Store(home.store_db)
        for data in store.datasets():
            own += [bytes.fromhex(data.digest), data.salt]
        store.close()
        secrets_of[party] = own
    stage = played.folder / "stage"
    shared = [stage / name for name in ("coordinator", "coordinator.log", "brand.log", "media.log")]
    for party, other in zip(PLACES, reversed(PLACES), strict=True):
        needles = Needles()
        for secret in secrets_of[party]:
            needles.add([secret, secret.hex().encode(), base64.b64encode(secret)])
        assert needles.in_files(*shared, stage / other, played.folder / "exported") == {}
        for haystack in (played.wire, played.heard, *(b"\0".join(seen) for seen in played.seen.values())):
            assert not needles.within(haystack)


def test_workers_show_nothing_on_command_lines_and_leave_nothing_in_temporary_places(played: Played) -> None:
    assert any(b"tidegate.party.worker" in line for line in played.seen["cmdline"])
    needles = played.needles("brand", "media")
    for name in ("cmdline", "environ"):
        assert not needles.within(b"\0".join(played.seen[name])), name
    opened = {name.decode(errors="replace") for name in played.seen["files"]}
    assert opened
    stage, data = str(played.folder / "stage"), str(played.folder / "data")
    program = str(Path(__file__).resolve().parents[1]), sys.prefix, sys.base_prefix
    elsewhere = {name for name in opened if name.startswith(("/tmp", "/dev/shm", "/var/tmp"))}  # noqa: S108 - looked into
    assert {name for name in elsewhere if not name.startswith((stage, data, *program))} == set()
    assert played.leftovers["temporary"] == []
    assert needles.in_files(*played.leftovers["home"]) == {}
    assert not any("tidegate" in name for name in played.shared_memory)
    assert {line.split()[4] for line in played.seen["core"]} == {b"0"}


def test_only_their_owner_can_read_what_a_party_or_the_coordinator_keeps(played: Played) -> None:
    for name in (*PLACES, "coordinator"):
        home = played.folder / "stage" / name
        for path in (home, *home.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path
    for party in PLACES:
        assert (played.folder / "exported" / party).stat().st_mode & 0o077 == 0
        assert list((played.folder / "stage" / party / "staging").iterdir()) == []


# That the search finds what is there.


def test_each_party_holds_its_own_results_where_the_search_sees_them(played: Played) -> None:
    stage = played.folder / "stage"
    for party, file in (("brand", "score/scores.parquet"), ("media", "expand/audience_20_percent.parquet")):
        hits = played.needles(party).in_files(stage / party)
        assert [path for path in hits if path.endswith(file)], hits


@pytest.mark.parametrize("name", ["identifier", "normalised", "hash", "number", "neighbours"])
def test_a_planted_canary_is_found_wherever_it_is(played: Played, tmp_path: Path, name: str) -> None:
    people = played.people["media"]
    needles = played.needles("media")
    noise = np.random.default_rng(9)
    value = float(people.values[17, 1])
    planted = {
        "identifier": list(text_needles(people.written_emails[17])),
        "normalised": list(text_needles(people.phones[17])),
        "hash": [hashlib.sha256(b"email\0" + people.emails[17].encode()).digest()],
        "number": [np.float64(value).tobytes(), repr(value).encode(), f"{value:.13f}".encode()],
        "neighbours": [people.values[17, :2].astype("f4").tobytes(), people.values[17:19, 1].astype("f4").tobytes()],
    }[name]
    for needle in planted:
        for before in range(9):
            haystack = noise.bytes(1000 + before) + needle + noise.bytes(1000)
            assert needles.within(haystack), (needle, before)
    assert not needles.within(noise.bytes(10**6))
    files = {
        "text.log": f"a log line about {people.emails[17]}".encode(),
        "facts.json": json.dumps({"deep": [{"inside": round(value, 10)}]}).encode(),
        "base.html": base64.b64encode(b"xy" + people.emails[17].encode()),
    }
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    pq.write_table(pa.table({"x": [value, 0.0]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"x": [people.phones[17]] * 50}), tmp_path / "texts.parquet")
    store = Store(tmp_path / "store.db")
    store.audit("planted", party=people.emails[17])
    store.close()
    wanted = {*files, "numbers.parquet", "texts.parquet", "store.db"}
    assert {Path(path).name for path in needles.in_files(tmp_path)} == wanted


def test_every_file_of_the_stage_is_one_the_search_can_read(played: Played) -> None:
    known = {".parquet", ".json", ".db", ".i64", ".i16", ".u8", ".toml", ".key", ".pem", ".lock", ".log", ".card"}
    known |= {".html", ".hex"}
    folders = [played.folder / "stage", played.folder / "exported"]
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(paths) > 30
    for path in paths:
        assert path.suffix in known or path.name == "lock", path
        read(path)
