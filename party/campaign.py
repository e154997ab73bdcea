"""The campaign file: what a brand wants done, in TOML, checked as a whole and made into a contract.

    [campaign]            name, expires_days (1 to 90, default 7)
                          audit: true if the brand is to keep what an auditor needs to derive its part again
    [parties]             brand, media: names of parties; media may be a list of several
    [data]                brand, media: names of registered data sets; with several media a table name -> data set
    [match]               keys: kinds of identifier, the first takes precedence
                          mode: both (default), brand, size, sum or epoch; engine: oprf (default)
                          profile: whose rules spell the keys (default plain), one name or a table kind -> name
                          hashed: a table kind -> sha256 or md5, for keys that a party has as digests alone
                          sum: with mode sum, a table of (brand or media), column, cap, decimals (default 0)
                          epoch: with mode epoch, the name under which the media has built its tokens
    [label]               column, positive: who is a good customer; weight: a column, how much a row counts in training
                          or seeds = true: everybody in the data set is one
    [features]            brand, media: lists of columns, or "all" (default); with several media also a table
                          name -> list
    [holdout]             column and value, or share in percent (default 30)
    [model]               campaign: the short name of the one whose models score and expand use, or train starts from
    [privacy]             epsilon, delta (default 1e-6): differential privacy of train and insight
    [ranges.PARTY]        column = [low, high]: in which the columns lie that segments use; others are cut to it
    [outcome]             what `measure` measures: campaign, audience, converted, positive, spend, cap, decimals, cost
    [steps.match] ...     one table for each step that is to run, in order
    [guards]              optional: floor, seeds, train_steps, count_noise, score_levels
    [learns]              optional: the lines that each party may learn, if they are to be spelled out
    [demo]                optional: read by `tidegate demo` alone

`check` lists every mistake and not only the first.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tidegate.protocols.channel import ConfigError
from tidegate.wire.contract import NAME

from .config import Home
from .form import Checked, Mistake
from .horizontal.form import HorizontalForm, is_horizontal
from .store import Store
from .vertical_form import VerticalForm

__all__ = ["Checked", "Mistake", "campaign_name", "check"]

MAX_FILE_BYTES = 256 * 1024


def check(path: Path, home: Home, store: Store, now_s: float) -> Checked:
    """Reads a campaign file and compares it with what is registered, trusted and offered here.

    ConfigError only for a file that cannot be read at all; everything else is in `mistakes`.
    """
    text = _read(path)
    checked = Checked(path.name)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"line (\d+)", str(error))
        reason = str(error).split(" (at ")[0]
        checked.mistakes.append(Mistake(path.name, int(at[1]) if at else 0, "the file", "TOML", reason))
        return checked
    form = (HorizontalForm if is_horizontal(raw) else VerticalForm)(checked, raw, _lines(text))
    checked.contract = form.contract(home, store, now_s)
    return checked


def campaign_name(path: Path) -> str:
    """The name in a campaign file, for commands that only ask how it is doing."""
    try:
        name = tomllib.loads(_read(path))["campaign"]["name"]
    except (tomllib.TOMLDecodeError, KeyError, TypeError):
        name = None
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"{path}: expected a campaign file with a name", "`tidegate campaign check` says what is wrong"
        )
    return name


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is too large for a campaign file", f"at most {MAX_FILE_BYTES // 1024} KiB")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", "check the path, and the folder you are in"
        ) from None
    if not text.strip():
        raise ConfigError(f"{path} is empty", "docs/quickstart.md has a campaign file to start from")
    return text


_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_.\s\"-]+?)\s*\]")
_ASSIGNED = re.compile(r"\s*([A-Za-z0-9_.\"-]+)\s*=")


def _lines(text: str) -> dict[str, int]:
    """Where each key stands: "label.column" -> line number. Only for messages; TOML itself is read by tomllib."""
    found: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), 1):
        header, assigned = _HEADER.match(line), _ASSIGNED.match(line)
        if header:
            prefix = header[1].replace('"', "").replace(" ", "")
            found.setdefault(prefix, number)
        elif assigned:
            key = assigned[1].replace('"', "")
            found.setdefault(f"{prefix}.{key}" if prefix else key, number)
    return found
