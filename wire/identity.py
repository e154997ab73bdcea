"""Who a party is: its long-term keys, kept in a file of its own, and the card by which others pin it.

An identity signs (Ed25519) and opens what is sealed to it (X-Wing). Parties exchange cards themselves, or compare
fingerprints; the coordinator is never asked whose key is whose.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tidegate.protocols.channel import CarrierError, ConfigError

from .contract import NAME
from .xwing import PRIVATE_BYTES, PUBLIC_BYTES, SealingKey

IDENTITY_BYTES = 32
SIGNATURE_BYTES = 64
_BEGIN, _END = "-----BEGIN TIDEGATE CARD-----", "-----END TIDEGATE CARD-----"
_CARD = re.compile(f"{_BEGIN}(.*?){_END}", re.DOTALL)
_AGAIN = "ask its owner for the output of `tidegate party card`, and paste all of it"


class Identity:
    """A party's private keys and its name. Never prints them."""

    def __init__(self, name: str, signing: Ed25519PrivateKey, sealing: SealingKey) -> None:
        self.name = name
        self._signing = signing
        self.sealing = sealing
        self.public = signing.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"Identity({self.name!r}, ...)"

    @classmethod
    def generate(cls, name: str) -> Self:
        """Fresh keys. Raises ConfigError for a bad name and where ML-KEM is missing."""
        return cls(checked_name(name), Ed25519PrivateKey.generate(), SealingKey.generate())

    def sign(self, data: bytes) -> bytes:
        return self._signing.sign(data)

    @property
    def card(self) -> Card:
        unsigned = Card(self.name, self.public, self.sealing.public, b"")
        return Card(self.name, self.public, self.sealing.public, self.sign(unsigned.signed_bytes()))

    def save(self, path: Path) -> None:
        """Writes the keys to a new file that only its owner can read. Raises ConfigError if there is one already."""
        text = json.dumps({
            "tidegate identity": 1,
            "name": self.name,
            "signing": self._signing.private_bytes_raw().hex(),
            "sealing": self.sealing.to_bytes().hex(),
        })
        write_private(path, text.encode() + b"\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote. Raises ConfigError, also when others on this machine could read the file."""
        text = read_private(path)
        try:
            raw = json.loads(text)
            if raw.keys() != {"tidegate identity", "name", "signing", "sealing"} or raw["tidegate identity"] != 1:
                raise ValueError
            signing, sealing = bytes.fromhex(raw["signing"]), bytes.fromhex(raw["sealing"])
            if len(signing) != 32 or len(sealing) != PRIVATE_BYTES:
                raise ValueError
            name = checked_name(raw["name"])
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise ConfigError(f"{path} does not hold the keys of a party", "restore it from a backup") from None
        return cls(name, Ed25519PrivateKey.from_private_bytes(signing), SealingKey(sealing))


@dataclass(frozen=True)
class Card:
    """What others need to pin a party: its name and public keys, signed by itself. Build one with `parse`."""

    name: str
    identity: bytes
    sealing: bytes
    signature: bytes

    def signed_bytes(self) -> bytes:
        name = self.name.encode()
        return b"tidegate card v1" + struct.pack("<B", len(name)) + name + self.identity + self.sealing

    @property
    def fingerprint(self) -> str:
        """140 bits over the name and both keys, as seven groups of four: short enough to read out on the telephone."""
        text = base64.b32encode(hashlib.sha256(self.signed_bytes()).digest()).decode()[:28]
        return " ".join(text[i : i + 4] for i in range(0, 28, 4))

    def has_fingerprint(self, text: str) -> bool:
        """Whether somebody typed this card's fingerprint, all of it; case, spaces and dashes do not matter."""
        return re.sub(r"[\s-]", "", text).upper() == self.fingerprint.replace(" ", "")

    def to_text(self) -> str:
        """A block of text that survives mail and chat; `parse` finds it in whatever surrounds it."""
        body = base64.b64encode(self.signed_bytes() + self.signature).decode()
        lines = [_BEGIN, f"Name: {self.name}", f"Fingerprint: {self.fingerprint}", ""]
        lines += [body[i : i + 64] for i in range(0, len(body), 64)]
        return "\n".join([*lines, _END, ""])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConfigError unless the text holds exactly one card whose own signature fits."""
        blocks = _CARD.findall(text)
        if len(blocks) != 1:
            found = f"{len(blocks)} cards" if blocks else "no card"
            raise ConfigError(f"one card was expected, {found} came (a block from {_BEGIN} to its END line)", _AGAIN)
        # Mail programs quote with '>'. The lines with a colon are for people: the signed bytes decide.
        lines = [line.strip(" \t\r>") for line in blocks[0].splitlines()]
        try:
            data = base64.b64decode("".join(line for line in lines if ":" not in line), validate=True)
            card = cls._from_bytes(data)
            verify_signature(card.identity, card.signed_bytes(), card.signature, "the card")
        except (binascii.Error, ValueError, CarrierError):
            raise ConfigError("the card is damaged or incomplete", _AGAIN) from None
        shown = dict(line.split(": ", 1) for line in lines if ": " in line)
        name, fingerprint = shown.get("Name", card.name), shown.get("Fingerprint", card.fingerprint)
        if name != card.name or not card.has_fingerprint(fingerprint):
            raise ConfigError("the card's Name or Fingerprint line is not that of the keys below it", _AGAIN)
        return card

    @classmethod
    def _from_bytes(cls, data: bytes) -> Self:
        head = b"tidegate card v1"
        name_at = len(head) + 1
        name_end = name_at + data[len(head)] if len(data) > len(head) else 0
        if not data.startswith(head) or len(data) != name_end + IDENTITY_BYTES + PUBLIC_BYTES + SIGNATURE_BYTES:
            raise ValueError
        name = data[name_at:name_end].decode()
        if not NAME.fullmatch(name):
            raise ValueError
        keys_end = len(data) - SIGNATURE_BYTES
        sealing_at = name_end + IDENTITY_BYTES
        return cls(name, data[name_end:sealing_at], data[sealing_at:keys_end], data[keys_end:])


def checked_name(name: str) -> str:
    """The name, if it can be a party's. Raises ConfigError."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:80]!r} cannot be a party's name",
            "use 1 to 63 lower-case letters, digits, '-' and '_', the first a letter or digit",
        )
    return name


def verify_signature(public: bytes, data: bytes, signature: bytes, what: str) -> None:
    """Raises CarrierError unless the Ed25519 key `public` signed `data`; `what` names it in the error's text."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        raise CarrierError(f"{what} is not signed by the key that it must be signed by") from None


def write_private(path: Path, data: bytes) -> None:
    """Writes a new file that only its owner can read, whole or not at all. Raises ConfigError if there is one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces a file that is there: keys cannot be overwritten by accident.
        path.hardlink_to(partial)
    except FileExistsError:
        raise ConfigError(f"{path} is there already and is not overwritten", "use another folder") from None
    finally:
        partial.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_private(path: Path) -> bytes:
    """A file of keys. Raises ConfigError if it is missing or can be read by others on this machine."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            data = file.read(2**16)
    except OSError as error:
        hint = "was this party set up with `tidegate party init`?"
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint) from None
    if mode & 0o077:
        raise ConfigError(f"{path} holds private keys but others may read it (mode {mode:o})", f"chmod 600 {path}")
    return data
