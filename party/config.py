"""Where a party keeps what: the layout of its home folder, its name, its way to the coordinator."""

from __future__ import annotations

import os
import re
import secrets
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tidegate.protocols.channel import ConfigError
from tidegate.wire.contract import NAME
from tidegate.wire.identity import IDENTITY_BYTES, Identity
from tidegate.wire.invite import Endpoint

RESERVED = ("coordinator", "invite")
# Within the results of a step: what an auditor needs, which leaves this party in no export.
AUDIT_FOLDER = "audit"


def default_home() -> Path:
    """$TIDEGATE_HOME, or else ~/.tidegate/party."""
    set_home = os.environ.get("TIDEGATE_HOME")
    return Path(set_home) if set_home else Path.home() / ".tidegate" / "party"


@dataclass(frozen=True)
class Home:
    """A party's folder and the names of what lies in it. Nothing here reads the disk but the methods that say so."""

    path: Path

    @property
    def party_toml(self) -> Path:
        return self.path / "party.toml"

    @property
    def policy_toml(self) -> Path:
        return self.path / "policy.toml"

    @property
    def store_db(self) -> Path:
        return self.path / "store.db"

    @property
    def identity_key(self) -> Path:
        """The party's private keys (mode 0600)."""
        return self.path / "identity.key"

    @property
    def coordinator_ca(self) -> Path:
        return self.path / "coordinator" / "ca.pem"

    @property
    def coordinator_certificate(self) -> Path:
        return self.path / "coordinator" / "certificate.pem"

    @property
    def coordinator_key(self) -> Path:
        return self.path / "coordinator" / "key.pem"

    @property
    def coordinator_key_file(self) -> Path:
        """The coordinator's identity key, by which it is known where it plays a part in a step."""
        return self.path / "coordinator" / "identity.hex"

    @property
    def tokens(self) -> Path:
        """Where the keys and tokens of epochs lie."""
        return self.path / "tokens"

    @property
    def cache(self) -> Path:
        """What can be made again from data sets and models, and is kept because that takes time."""
        return self.path / "cache"

    def staging(self, run: bytes) -> Path:
        """Where a worker puts the results of a run until every party has said that it holds its own."""
        return self.path / "staging" / run.hex()

    def campaign(self, contract_short: str) -> Path:
        return self.path / "campaigns" / contract_short

    def results(self, contract_short: str, step: str) -> Path:
        """Where the committed results of a step lie, e.g. campaigns/0123456789ab/train."""
        return self.campaign(contract_short) / step

    def exists(self) -> bool:
        return self.party_toml.is_file()

    def require(self) -> Home:
        """This home, or ConfigError when no party was made here."""
        if not self.exists():
            raise ConfigError(
                f"there is no party at {self.path}",
                "make one with `tidegate party init NAME`, or name its folder with --home",
            )
        return self

    def create(self, name: str) -> None:
        """Writes the folders and party.toml of a new party. ConfigError if there is one already."""
        check_name(name)
        if name in RESERVED:
            raise ConfigError(
                f"a party cannot be called {name!r}", "that name stands for somebody else: choose another"
            )
        if self.exists():
            raise ConfigError(f"{self.path} already holds the party {self.name()}", "name another folder with --home")
        try:
            for folder in (self.path, self.path / "coordinator", self.path / "staging", self.path / "campaigns"):
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o700)
        except OSError as error:
            raise ConfigError(
                f"the folder {self.path} cannot be made: {error.strerror}", "name another with --home"
            ) from None
        write_file(self.party_toml, f'name = "{name}"\n'.encode())

    def _settings(self) -> dict[str, object]:
        self.require()
        try:
            return tomllib.loads(self.party_toml.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{self.party_toml} cannot be read: {error}", "restore it; it names the party") from None

    def name(self) -> str:
        """The party's name, from party.toml."""
        name = self._settings().get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ConfigError(
                f'{self.party_toml}: expected name = "...", found {name!r}', "restore the file; it names the party"
            )
        return name

    def load_identity(self) -> Identity:
        """The party's keys. ConfigError if they are missing, damaged, readable by others, or another party's."""
        identity = Identity.load(self.identity_key)
        if identity.name != self.name():
            raise ConfigError(
                f"{self.identity_key} holds the keys of {identity.name}, this party is {self.name()}",
                "restore the right file from a backup",
            )
        return identity

    def coordinator(self) -> Endpoint:
        """The way to the coordinator. ConfigError before `tidegate party join`."""
        address = self._settings().get("coordinator")
        files = (self.coordinator_ca, self.coordinator_certificate, self.coordinator_key)
        if not isinstance(address, str) or not all(file.is_file() for file in files):
            raise ConfigError(
                f"the party {self.name()} has not joined a coordinator",
                "ask whoever runs it for an invite, then `tidegate party join INVITE`",
            )
        try:
            ca, certificate, key = (file.read_bytes() for file in files)
        except OSError as error:
            raise ConfigError(f"{error.filename} cannot be read: {error.strerror}", "check who owns the file") from None
        return Endpoint(address, ca, certificate, key)

    def has_joined(self) -> bool:
        return isinstance(self._settings().get("coordinator"), str)

    def coordinator_identity(self) -> bytes:
        """The identity key (32 bytes) of the coordinator, which the invite has pinned. ConfigError before joining."""
        try:
            identity = bytes.fromhex(self.coordinator_key_file.read_text())
        except (OSError, ValueError):
            identity = b""
        if len(identity) != IDENTITY_BYTES:
            raise ConfigError(
                f"the party {self.name()} does not know its coordinator's key",
                "ask whoever runs it for an invite, then `tidegate party join INVITE`",
            )
        return identity

    def join(self, coordinator: Endpoint, identity: bytes) -> None:
        """Keeps the way to a coordinator and its identity key; an earlier one is replaced."""
        check_address(coordinator.address)
        write_file(self.coordinator_key_file, identity.hex().encode())
        write_file(self.coordinator_ca, coordinator.ca)
        write_file(self.coordinator_certificate, coordinator.certificate)
        write_file(self.coordinator_key, coordinator.key)
        # party.toml comes last: with it the party has joined.
        write_file(self.party_toml, f'name = "{self.name()}"\ncoordinator = "{coordinator.address}"\n'.encode())


_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")


def check_address(address: str) -> None:
    """ConfigError unless this is HOST:PORT."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match[1]) < 65536:
        raise ConfigError(f"the address {address!r} is not HOST:PORT", "for example coordinator.example.com:7443")


def check_name(name: str) -> None:
    """ConfigError unless this can name a party, a data set or a campaign."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:80]!r} cannot be a name",
            "use 1 to 63 lower-case letters, digits, - and _, the first a letter or digit: `acme`, `customers_2026`",
        )


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Writes a whole file or nothing: a temporary one beside it, flushed to disk, then renamed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}", "free some space or check who owns the folder"
        ) from None
