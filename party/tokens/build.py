"""Makes a media's tokens ahead: block by block from the file, then merged, in memory that does not grow with it.

A build that is killed goes on where it was: blocks that are on disk are not made again. A build for a later state of
the data set evaluates only identifiers that the last one did not have.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.protocols.channel import ConfigError, PolicyError
from tidegate.protocols.ids import Identifiers, normalise
from tidegate.protocols.primitives.group import Scalar
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.psi import epoch
from tidegate.protocols.psi.token_lists import (
    BoolArray,
    Bytes,
    Digest,
    UInt64Array,
    count_up_to,
    heads,
    no_tokens,
    places,
    pseudonyms,
    rising_order,
    search,
    token_bytes,
)
from tidegate.wire.contract import Key

from ..config import write_file
from ..data import table
from ..dataset import is_unchanged
from ..store import Dataset
from .folders import File, locked, make, mapped, read_json, sync, unwritable, write_json
from .own import REMEMBERED, ROW_BYTES, Secrets, list_file, open_set

BLOCK_ROWS = 2**16
# Records of one kind that are merged at a time.
MERGE_ROWS = 2**20
_HEAD_BYTES = 8
_NAME_BYTES = epoch.NAME_BYTES

Say = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Built:
    """tokens: by kind. evaluated: how many identifiers cost a multiplication now. known: taken from the last build."""

    tokens: dict[str, int]
    evaluated: int
    known: int


def build(
    folder: Path,
    dataset: Dataset,
    keys: tuple[Key, ...],
    *,
    for_rows: int,
    queries: int | None,
    randomness: Randomness,
    say: Say,
    block_rows: int = BLOCK_ROWS,
) -> Built:
    """Makes the tokens of a data set for one partner and epoch, or brings them up to date.

    for_rows: rows of the partner's data set at most; with our own rows it decides how long a token is. queries: how
    many identifiers the partner may have evaluated in the epoch; None keeps what was said before, at first twice
    for_rows. say(kind, rows done, rows) is called after each block. Raises ConfigError.
    """
    make(folder)
    with locked(folder, "build.lock", otherwise="these tokens are being built already"):
        says = _begun(folder, dataset, keys, for_rows, queries, randomness)
        secrets = Secrets.read(folder)
        _check_unchanged(dataset)
        if says["commitment"] == dataset.commitment and set(says["sets"]) == {key.kind for key in keys}:
            write_json(folder, says)
            return Built({kind: state["tokens"] for kind, state in says["sets"].items()}, 0, dataset.rows)
        work = _workplace(folder, dataset, keys, block_rows)
        counts = np.zeros(2, np.int64)
        for key in keys:
            earlier = _Earlier(folder, says, key.kind)
            protocol_key = epoch.Key(bytes.fromhex(says["name"]), secrets.scalar, says["width"])
            for number, done, ids in _blocks(dataset, key, block_rows):
                if not _block_file(work, key.kind, number, "names").exists():
                    counts += _make_block(work, key.kind, number, ids(), protocol_key, secrets, earlier)
                say(key.kind, done, dataset.rows)
        _check_unchanged(dataset)
        says = _merged(folder, work, dataset, keys, says)
        with locked(folder):
            write_json(folder, says)
        shutil.rmtree(work)
        _forget(folder, says)
        tokens = {kind: state["tokens"] for kind, state in says["sets"].items()}
        return Built(tokens, int(counts[0]), int(counts[1]))


def _begun(
    folder: Path, dataset: Dataset, keys: tuple[Key, ...], for_rows: int, queries: int | None, randomness: Randomness
) -> dict[str, Any]:
    """What epoch.json says, or for a new epoch shall say; the key is on disk then."""
    says = read_json(folder)
    if says is None:
        if not (folder / "key").exists():
            Secrets(Scalar.random(randomness), randomness.bytes(epoch.SECRET_BYTES)).write(folder)
        says = {
            "name": randomness.bytes(epoch.NAME_BYTES).hex(),
            # Data sets grow within an epoch, and tokens of two lengths are never equal.
            "width": token_bytes(for_rows, 2 * dataset.rows),
            "queries": 2 * for_rows,
            "keys": {},
            "commitment": "",
            "build": 0,
            "sets": {},
        }
        # Blocks of a build that is killed belong to this name and width.
        write_json(folder, says)
    if queries is not None:
        says["queries"] = queries
    if says["queries"] > epoch.MOST_QUERIES:
        raise PolicyError(
            f"a budget of {says['queries']} evaluations is more than one key bears, {epoch.MOST_QUERIES}",
            "give a smaller --queries, or --for-rows",
        )
    if token_bytes(for_rows, dataset.rows) > says["width"]:
        raise ConfigError(
            f"the tokens of this epoch have {says['width']} bytes, too few for {for_rows} rows of the partner",
            "build them for a new epoch",
        )
    for key in keys:
        built = says["keys"].setdefault(key.kind, [key.profile, key.form])
        if built != [key.profile, key.form]:
            raise ConfigError(
                f"the {key.kind} tokens of this epoch were built with profile {built[0]} and form {built[1]}",
                "build them for a new epoch",
            )
    return says


def _check_unchanged(dataset: Dataset) -> None:
    if not is_unchanged(dataset):
        raise ConfigError(
            f"the file of data set {dataset.name} has changed since it was registered",
            f"register it again with `tidegate party data add {dataset.name} ...`, then build its tokens",
        )


def _workplace(folder: Path, dataset: Dataset, keys: tuple[Key, ...], block_rows: int) -> Path:
    """The folder of the blocks, without those of another state of the data set."""
    work = folder / "blocks"
    wanted = f"{dataset.commitment} {block_rows} {[(key.kind, key.profile, key.form) for key in keys]}"
    marker = work / "of"
    if not marker.exists() or marker.read_text() != wanted:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        write_file(marker, wanted.encode())
    return work


def _blocks(dataset: Dataset, key: Key, rows: int) -> Iterator[tuple[int, int, Callable[[], Identifiers]]]:
    """Number, rows up to its end, and a function that gives the identifiers, for each block of the file."""
    column = dataset.keys.get(key.kind)
    if column is None:
        raise ConfigError(
            f"data set {dataset.name} has no {key.kind} column", f"its keys are {', '.join(sorted(dataset.keys))}"
        )
    given = dataset.given.get(key.kind, "clear")
    begin = 0
    for number, texts in enumerate(table.text_blocks(dataset.path, column, rows)):

        def ids(texts: Any = texts, begin: int = begin) -> Identifiers:
            found, _ = normalise(
                key.kind, texts, dataset.region or None, profile=key.profile, given=given, form=key.form
            )
            return found.shifted(begin)

        begin += len(texts)
        yield number, begin, ids


class _Earlier:
    """The tokens of the last build by the pseudonyms of their identifiers."""

    def __init__(self, folder: Path, says: dict[str, Any], kind: str) -> None:
        self._width = says["width"]
        self._heads: UInt64Array = np.empty(0, np.uint64)
        self._rest = no_tokens(_NAME_BYTES - _HEAD_BYTES + self._width)
        if kind in says["sets"]:
            found = mapped(list_file(folder, kind, says["build"], "heads"), _HEAD_BYTES)
            self._heads = found.view("<u8").ravel()
            self._rest = mapped(list_file(folder, kind, says["build"], "names"), self._rest.shape[1])

    def find(self, names: Bytes) -> tuple[BoolArray, Bytes]:
        """Which of the names (n, 16) are known (n,), and their tokens (n, w)."""
        tails = _NAME_BYTES - _HEAD_BYTES
        at = search(names[:, _HEAD_BYTES:], heads(names), self._rest[:, :tails], self._heads)
        tokens = np.zeros((len(names), self._width), np.uint8)
        tokens[at >= 0] = self._rest[at[at >= 0], tails:]
        return at >= 0, tokens


def _make_block(
    work: Path, kind: str, number: int, ids: Identifiers, key: epoch.Key, secrets: Secrets, earlier: _Earlier
) -> tuple[int, int]:
    """Writes a block's tokens with their rows, and names with their tokens, each sorted; how many were new, known."""
    names = pseudonyms(ids.data, ids.offsets, secrets.local)
    # In this order the look-up goes through the last build's files once, from front to back.
    order = rising_order(names)
    known, tokens = np.zeros(len(ids), np.bool_), np.empty((len(ids), key.width), np.uint8)
    known[order], tokens[order] = earlier.find(names[order])
    if not known.all():
        tokens[~known] = epoch.tokens_of(ids.take(~known), key)
    rows = ids.rows.astype(">u4").view(np.uint8).reshape(-1, ROW_BYTES)
    for what, left, right in (("tokens", tokens, rows), ("names", names, tokens)):
        records = np.concatenate([left, right], axis=1)
        path = _block_file(work, kind, number, what)
        file = File(path.with_suffix(".part"))
        file.append(records[rising_order(records)])
        file.sync()
        file.path.replace(path)
    sync(work)
    return len(ids) - int(known.sum()), int(known.sum())


def _block_file(work: Path, kind: str, number: int, what: str) -> Path:
    return work / f"{kind}-{number:06}-{what}"


def _merged(folder: Path, work: Path, dataset: Dataset, keys: tuple[Key, ...], says: dict[str, Any]) -> dict[str, Any]:
    """Writes the lists of a new build beside those of the last; what epoch.json shall say of them."""
    sets = {}
    for key in keys:
        kind, number, width = key.kind, says["build"] + 1, says["width"]
        last = says["sets"].get(kind)
        before = open_set(folder, says, kind).tokens if last else no_tokens(width)
        lists = {what: File(list_file(folder, kind, number, what)) for what in _LISTS}
        hashed, count, repeated, at = Digest(), 0, 0, 0
        for edge, records in _by_value(work, kind, "tokens", width + ROW_BYTES):
            tokens = records[:, :width]
            first = _first_of_equal(tokens)
            repeated += len(records) - int(first.sum())
            if not first.all():
                records = records[first]
            tokens, rows = records[:, :width], records[:, width:]
            hashed.update(tokens)
            count += len(tokens)
            lists["tokens"].append(tokens)
            lists["rows"].append(np.ascontiguousarray(rows).view(">u4").astype("<u4"))
            if last:
                end = count_up_to(before, np.frombuffer(edge.ljust(width, b"\xff"), np.uint8))
                old, at = np.asarray(before[at:end]), end
                lists["added"].append(tokens[places(tokens, old) < 0])
                lists["removed"].append(old[places(old, tokens) < 0])
        if repeated and dataset.duplicates != "keep-first":
            raise ConfigError(
                f"the {kind} column of {dataset.name} holds {repeated} duplicate identifiers",
                "keep one row per person, or register the data set with --duplicates keep-first",
            )
        for _, records in _by_value(work, kind, "names", _NAME_BYTES + width):
            first = _first_of_equal(records)
            records = records if first.all() else records[first]
            lists["heads"].append(heads(records).astype("<u8"))
            lists["names"].append(records[:, _HEAD_BYTES:])
        for file in lists.values():
            file.sync()
        versions = [*last["versions"], [last["version"], number]][-REMEMBERED:] if last else []
        sets[kind] = {"tokens": count, "version": hashed.value().hex(), "versions": versions}
    sync(folder)
    return {**says, "commitment": dataset.commitment, "build": says["build"] + 1, "sets": sets}


_LISTS = ("tokens", "rows", "heads", "names", "added", "removed")


def _by_value(work: Path, kind: str, what: str, width: int) -> Iterator[tuple[bytes, Bytes]]:
    """The records of all blocks in rising order, in pieces: the first 8 bytes that each goes up to, the records (n, w).

    Tokens and pseudonyms are spread evenly, so pieces of equal range have about equal length.
    """
    files = sorted(work.glob(f"{kind}-*-{what}"))
    total = sum(path.stat().st_size for path in files) // width
    parts = max(1, -(-total // MERGE_ROWS))
    edges = [i * 2**64 // parts for i in range(parts + 1)]
    cuts = np.zeros((len(files), parts + 1), np.int64)
    for i, path in enumerate(files):
        cuts[i, 1:] = path.stat().st_size // width
        cuts[i, 1:-1] = np.searchsorted(heads(mapped(path, width)), np.array(edges[1:-1], np.uint64))
    for part in range(parts):
        found = [no_tokens(width)]
        for i, path in enumerate(files):
            begin, end = cuts[i, part : part + 2].tolist()
            read = np.fromfile(path, np.uint8, (end - begin) * width, offset=begin * width)
            found.append(read.reshape(-1, width))
        records = np.concatenate(found)
        del found
        yield (edges[part + 1] - 1).to_bytes(8, "big"), records[rising_order(records)]


def _first_of_equal(items: Bytes) -> BoolArray:
    """Which of sorted items (n, w) differ from the one before them."""
    first, numbers = np.ones(len(items), np.bool_), heads(items)
    near = np.flatnonzero(numbers[1:] == numbers[:-1])
    first[near + 1] = np.any(items[near + 1] != items[near], axis=1)
    return first


def _forget(folder: Path, says: dict[str, Any]) -> None:
    """Removes the lists that epoch.json no longer names."""
    names = {"epoch.json", "key", "spent", "lock", "build.lock", "spent.lock"}
    for kind, state in says["sets"].items():
        names |= {list_file(folder, kind, says["build"], what).name for what in _LISTS}
        for _, number in state["versions"]:
            names |= {list_file(folder, kind, number, what).name for what in ("added", "removed")}
    try:
        for path in folder.iterdir():
            if path.name not in names and path.is_file():
                path.unlink()
    except OSError as error:
        raise unwritable(folder, error) from None
