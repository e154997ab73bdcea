"""Where a coordinator keeps what it keeps, and the few things that its operator can set."""

from __future__ import annotations

import fcntl
import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.protocols.channel import ConfigError

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?):([0-9]{1,5})")
_LIMITS = {"runs_per_party": (1, 1000), "own_runs": (1, 1000), "bytes_per_run": (2**20, 2**60)}
_FILE = """\
# Where parties dial. Invites and the server's certificate name it.
address = "{address}"

[limits]
# How many runs of one party may go on at the same time.
runs_per_party = 4
# In how many runs the coordinator itself may play a part at the same time; each takes a process of its own.
own_runs = 16
# How many bytes one run may move through this coordinator, both directions together.
bytes_per_run = 100_000_000_000
"""


@dataclass(frozen=True)
class Settings:
    """What HOME/coordinator.toml says."""

    address: str
    runs_per_party: int = 4
    own_runs: int = 16
    bytes_per_run: int = 10**11


@dataclass(frozen=True)
class Home:
    """A coordinator's folder."""

    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / "coordinator.toml"

    @property
    def store(self) -> Path:
        return self.path / "store.db"

    @property
    def authority_certificate(self) -> Path:
        return self.path / "authority.pem"

    @property
    def authority_key(self) -> Path:
        return self.path / "authority-key.pem"

    @property
    def identity(self) -> Path:
        """The keys by which parties know the coordinator where it plays a part in a step itself."""
        return self.path / "identity.key"

    def create(self) -> None:
        """Makes the folder, open to its owner only. Raises ConfigError if a coordinator lives there or it cannot be."""
        if self.settings_file.exists():
            hint = "start it with `tidegate coordinator up`"
            raise ConfigError(f"there is a coordinator in {self.path} already", hint)
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            hint = "choose another folder with --home"
            raise ConfigError(f"cannot make the folder {self.path}: {error.strerror}", hint) from None

    def write_settings(self, address: str) -> None:
        self.settings_file.write_text(_FILE.format(address=address))
        self.settings_file.chmod(0o600)

    def settings(self) -> Settings:
        """Raises ConfigError if there is no coordinator here or its settings are wrong."""
        try:
            raw = tomllib.loads(self.settings_file.read_text())
        except FileNotFoundError:
            hint = "set one up with `tidegate coordinator init --address HOST:PORT`, or name its folder with --home"
            raise ConfigError(f"there is no coordinator in {self.path}", hint) from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {self.settings_file}: {error}", "repair the file") from None
        limits = raw.get("limits", {})
        if not isinstance(limits, dict) or set(raw) - {"address", "limits"} or set(limits) - set(_LIMITS):
            keys = f"address and, under [limits], {', '.join(_LIMITS)}"
            raise ConfigError(f"{self.settings_file}: expected the keys {keys}", "remove the others")
        for name, value in limits.items():
            self._check_limit(name, value)
        split_address(raw.get("address"), where=str(self.settings_file))
        return Settings(raw["address"], **limits)

    def _check_limit(self, name: str, value: Any) -> None:
        low, high = _LIMITS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            text = f"{self.settings_file}: limits.{name}: expected a whole number from {low} to {high}"
            raise ConfigError(text, f"it is {value!r} now")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Held while a coordinator is up. Raises ConfigError if another one is up in the same folder."""
        with os.fdopen(os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(f"a coordinator is up in {self.path} already", "stop that one first") from None
            yield

    @property
    def is_up(self) -> bool:
        """Whether a coordinator is up in this folder."""
        try:
            with self.alone():
                return False
        except ConfigError:
            return True


def split_address(address: object, where: str = "") -> tuple[str, int]:
    """HOST:PORT as host (without brackets) and port. Raises ConfigError."""
    found = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if found is None or not 0 < int(found[3]) < 65536:
        place = f"{where}: " if where else ""
        text = f"{place}expected an address like coordinator.example.com:7443, found {str(address)[:80]!r}"
        raise ConfigError(text, "write HOST:PORT with a port from 1 to 65535, and an IPv6 host in brackets")
    return found[1].strip("[]"), int(found[3])
