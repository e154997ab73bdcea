"""The doctor finds what is wrong before a partner does, and says what to do."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer import Typer
from typer.testing import CliRunner

from tests.two_parties import Party, make_party, media_rows, write_csv
from tidegate.party import dataset, doctor
from tidegate.party.config import Home
from tidegate.protocols.primitives import group
from tidegate.wire.invite import Endpoint

app = Typer()
app.command()(doctor.doctor)


@pytest.fixture
def party(tmp_path: Path) -> Iterator[Party]:
    made = make_party(tmp_path, "feed")
    made.home.party_toml.write_text('name = "feed"\n')
    dataset.register(
        made.store, "people", write_csv(tmp_path / "media.csv", media_rows(300)), {"email": "email"}, "", "refuse"
    )
    yield made
    made.store.close()


def joined(home: Home, port: int) -> None:
    """Joins a coordinator that does not exist, with a certificate that it could have given."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, home.name())])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=365))
        .sign(key, hashes.SHA256())
    )
    certificate = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    home.join(Endpoint(f"127.0.0.1:{port}", certificate, certificate, private), bytes(32))


def findings(home: Home, verdict: str) -> list[str]:
    return [finding.text for finding in doctor.examine(home) if finding.verdict == verdict]


def test_a_sound_party_has_nothing_failed(party: Party) -> None:
    assert findings(party.home, "fail") == []
    result = CliRunner().invoke(app, ["--home", str(party.home.path)])
    assert result.exit_code == 0
    assert "data set people" in result.output
    assert "0 failed" in result.output


def test_without_a_party_the_installation_is_looked_over(tmp_path: Path) -> None:
    assert findings(Home(tmp_path / "none"), "fail") == []
    assert any("there is no party" in text for text in findings(Home(tmp_path / "none"), "warn"))


def test_a_changed_or_missing_file_fails_with_status_1(party: Party, tmp_path: Path) -> None:
    (tmp_path / "media.csv").write_text("email\nx@example.com\n")
    assert any("has changed since it was registered" in text for text in findings(party.home, "fail"))
    (tmp_path / "media.csv").unlink()
    assert any("data set people" in text for text in findings(party.home, "fail"))
    assert CliRunner().invoke(app, ["--home", str(party.home.path)]).exit_code == 1


def test_keys_that_others_may_read_fail(party: Party) -> None:
    party.home.identity_key.chmod(0o644)
    assert any("others may read it" in text for text in findings(party.home, "fail"))
    party.home.identity_key.chmod(0o600)
    party.home.path.chmod(0o755)
    assert any("others on this machine may open" in text for text in findings(party.home, "warn"))


def test_missing_keys_a_bad_policy_and_a_cut_trail_each_fail(party: Party) -> None:
    party.home.identity_key.unlink()
    party.home.policy_toml.write_text("flor = 3")
    failed = " ".join(findings(party.home, "fail"))
    assert "identity.key" in failed
    assert "is no rule" in failed


def test_a_coordinator_that_does_not_answer_fails_quickly(
    party: Party, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    joined(party.home, 1)
    monkeypatch.setattr(doctor, "CONNECT_S", 0.5)
    assert any("no connection to the coordinator" in text for text in findings(party.home, "fail"))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        joined(party.home, silent.getsockname()[1])
        assert any("cannot be reached" in text for text in findings(party.home, "fail"))


def test_a_clock_that_went_back_is_noticed(party: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    party.store.audit("something")
    early = party.store.audit_trail()[-1].at_s - 3600
    monkeypatch.setattr(time, "time", lambda: early)
    assert any("clock: it is behind" in text for text in findings(party.home, "fail"))


def test_a_full_disk_is_told(party: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(party.home.path)
    full = type(usage)(usage.total, usage.total, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert any("disk: 0.0 GB free" in text for text in findings(party.home, "fail"))


def test_the_slow_backend_is_a_warning(party: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "backend", lambda: "libsodium")
    assert any("several times slower" in text for text in findings(party.home, "warn"))
