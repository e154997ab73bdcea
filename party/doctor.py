"""`tidegate doctor`: what is wrong with an installation, a key, a port or a data set, before a partner notices."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from rich.text import Text

from tidegate import __version__
from tidegate.protocols.channel import CarrierError, TidegateError
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire.line import dial
from tidegate.wire.relay_pb2 import LookRequest
from tidegate.wire.xwing import SealingKey

from . import policy, screen
from .config import Home, default_home
from .dataset import is_unchanged
from .store import Store

TESTED = ((3, 11), (3, 13))
DISK_WARN_BYTES, DISK_FAIL_BYTES = 2 * 10**9, 200 * 10**6
CONNECT_S = 5.0
CERTIFICATE_WARN_S = 14 * 86400

STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line: ok, warn or fail, what was looked at, and what to do about it."""

    verdict: str
    text: str
    advice: str = ""


def doctor(
    home: Annotated[
        Path | None,
        typer.Option(
            "--home", envvar="TIDEGATE_HOME", help="The party's folder. Default: ~/.tidegate/party", show_default=False
        ),
    ] = None,
) -> None:
    """Look over the installation and this party: keys, coordinator, clock, disk, data sets."""
    findings = []
    for finding in examine(Home((home or default_home()).expanduser().absolute())):
        findings.append(finding)
        line = Text.assemble((f"{finding.verdict:<5}", STYLE[finding.verdict]), " ", finding.text)
        screen.console.print(line)
        if finding.advice:
            screen.console.print(Text(f"      {finding.advice}", "dim"))
    failed = sum(finding.verdict == "fail" for finding in findings)
    warned = sum(finding.verdict == "warn" for finding in findings)
    screen.say(f"{len(findings)} checks, {failed} failed, {warned} to look at", "red" if failed else "")
    if failed:
        raise typer.Exit(1)


def examine(home: Home) -> Iterator[Finding]:
    """The findings, one after the other as they are made."""
    yield _python()
    yield _arithmetic()
    yield _guarded("homomorphic encryption: TenSEAL works and floods noise as it must", _encryption)
    yield _guarded("sealing: X-Wing (ML-KEM-768 with X25519) is there", SealingKey.generate)
    yield _disk(home)
    if not home.exists():
        yield Finding(
            "warn", f"there is no party at {home.path}", "`tidegate party init NAME`, or name its folder with --home"
        )
        return
    yield _guarded("keys: identity and sealing key are whole and private", home.load_identity)
    yield _modes(home)
    yield _guarded("policy: policy.toml can be read, or there is none", lambda: policy.load(home))
    try:
        store = Store(home.store_db)
    except TidegateError as error:
        yield Finding("fail", error.text, error.hint)
        return
    try:
        yield _guarded("audit trail: whole", store.audit_trail)
        yield _clock(home, store)
        yield from _coordinator(home)
        yield from _datasets(store)
    finally:
        store.close()


def _encryption() -> None:
    # Loaded here, so that the doctor can say that it does not load.
    from tidegate.protocols.primitives.bfv import BrandKey

    BrandKey(Randomness.system())


def _guarded(text: str, check: Callable[[], object]) -> Finding:
    try:
        check()
    except ImportError as error:
        return Finding(
            "fail", f"the package {error.name} cannot be loaded", "install tidegate again, on a tested Python"
        )
    except TidegateError as error:
        return Finding("fail", error.text, error.hint)
    return Finding("ok", text)


def _python() -> Finding:
    version = f"tidegate {__version__} on Python {sys.version.split()[0]}"
    if TESTED[0] <= sys.version_info[:2] <= TESTED[1]:
        return Finding("ok", version)
    return Finding("warn", version, f"tested are Python {TESTED[0][0]}.{TESTED[0][1]} to {TESTED[1][0]}.{TESTED[1][1]}")


def _arithmetic() -> Finding:
    try:
        from tidegate.protocols.primitives import group
    except ImportError as error:
        return Finding(
            "fail", f"the package {error.name} cannot be loaded", "install tidegate again, on a tested Python"
        )
    backend = group.backend()
    if backend == "libsodium":
        return Finding(
            "warn",
            "matching runs on libsodium: right, but several times slower",
            "install a Rust toolchain, then tidegate again",
        )
    return Finding("ok", f"matching runs on {backend}")


def _disk(home: Home) -> Finding:
    folder = home.path
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"disk: {free / 1e9:.1f} GB free at {folder}"
    if free < DISK_FAIL_BYTES:
        return Finding("fail", text, "free some: a run stages its results there")
    return Finding("warn", text, "a large campaign may need more") if free < DISK_WARN_BYTES else Finding("ok", text)


def _modes(home: Home) -> Finding:
    wide = [
        path
        for path in (home.path, home.identity_key, home.store_db, home.coordinator_key)
        if path.exists() and path.stat().st_mode & 0o077
    ]
    if wide:
        names = " ".join(str(path) for path in wide)
        return Finding("warn", f"others on this machine may open {names}", f"chmod go-rwx {names}")
    return Finding("ok", "files: only their owner may open keys and store")


def _clock(home: Home, store: Store) -> Finding:
    now_s = time.time()
    last_s = max((entry.at_s for entry in store.audit_trail()), default=0)
    if last_s > now_s + policy.CLOCK_SLACK_S:
        return Finding("fail", f"clock: it is behind this party's own records of {screen.day(last_s)}", "set the clock")
    if home.has_joined() and home.coordinator_certificate.is_file():
        certificate = _certificate(home)
        if certificate.not_valid_before_utc.timestamp() > now_s + policy.CLOCK_SLACK_S:
            return Finding("fail", "clock: it is behind the coordinator's certificate for this party", "set the clock")
    return Finding("ok", f"clock: {screen.day(now_s)}")


def _certificate(home: Home) -> x509.Certificate:
    return x509.load_pem_x509_certificate(home.coordinator().certificate)


def _coordinator(home: Home) -> Iterator[Finding]:
    if not home.has_joined():
        yield Finding("warn", "this party has not joined a coordinator", "`tidegate party join INVITE`")
        return
    endpoint = home.coordinator()
    left_s = _certificate(home).not_valid_after_utc.timestamp() - time.time()
    if left_s < 0:
        yield Finding(
            "fail", "the certificate from the coordinator has expired", "ask it for a new invite and join again"
        )
        return
    if left_s < CERTIFICATE_WARN_S:
        text = f"the certificate from the coordinator expires in {left_s / 86400:.0f} days"
        yield Finding("warn", text, "ask it for a new invite and join again")
    host, _, port = endpoint.address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S):
            pass
    except OSError as error:
        advice = "is it running, is the name right, and does a firewall let this machine out to that port?"
        yield Finding(
            "fail", f"no connection to the coordinator at {endpoint.address}: {error.strerror or error}", advice
        )
        return
    try:
        with dial(endpoint) as relay:
            relay.Look(LookRequest(), timeout=CONNECT_S)
    except CarrierError as error:
        advice = f"the port answers, but not as our coordinator over TLS; {error.hint}"
        yield Finding("fail", error.text, advice)
        return
    except TidegateError as error:
        yield Finding("fail", error.text, error.hint)
        return
    yield Finding("ok", f"coordinator: {endpoint.address} answers and knows this party")


def _datasets(store: Store) -> Iterator[Finding]:
    for data in store.datasets():
        try:
            unchanged = is_unchanged(data)
        except TidegateError as error:
            yield Finding("fail", f"data set {data.name}: {error.text}", error.hint)
            continue
        if unchanged:
            yield Finding("ok", f"data set {data.name}: {data.path} is as it was registered")
        else:
            advice = f"`tidegate party data add {data.name} ...` again, offer it again; or put the old file back"
            yield Finding("fail", f"data set {data.name}: {data.path} has changed since it was registered", advice)
    if not store.datasets():
        yield Finding("warn", "no data set is registered", "`tidegate party data add NAME FILE --key email=COLUMN`")
