"""Key columns streamed from disk: the same identifiers as the whole table gives, and nothing left of them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.party.data import keys, table
from tidegate.party.data.keys import KeyColumn, open_column
from tidegate.protocols.channel import ConfigError
from tidegate.protocols.ids import keep_first, normalise
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire.contract import Key

HOSTILE = [
    None, "", "  ", "plain", "PLAIN ", "na\u0000me", "x" * 5000, "x" * 1000, "\u202eevil", "'; drop table--", "=1+1",
    "ＷＩＤＥ", "ﬁ", "e\u0301", "é", "\U0001f600", "a,b", 'say "hi"', "line\nbreak", "0", "00", "+0", "1e5",
    "true", "NaN",
]  # fmt: skip


def opened(path: Path, column: str, kind: str = "text", scratch: Path | None = None) -> KeyColumn:
    """A few rows are several pieces here, and a few duplicates are compared in several parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "READ_ROWS", 7)
        patch.setattr(keys, "COMPARED_AT_ONCE", 3)
        drawn = Randomness(b"k" * 32)
        return open_column(
            path, column, Key(kind), "NL", given="clear", scratch=scratch or path.parent, randomness=drawn
        )


def parquet(path: Path, values: pa.Array, group: int = 5) -> Path:
    pq.write_table(pa.table({"k": values, "k.x": pa.nulls(len(values), pa.int8())}), path, row_group_size=group)
    return path


def same_as_the_whole_table(path: Path, kind: str = "text") -> KeyColumn:
    column = opened(path, "k", kind)
    found, validity = normalise(kind, table.text_column(table.read(path), "k"), "NL")
    kept = keep_first(found)
    for size in (1, 4, 1000):
        blocks = list(column.blocks(size))
        assert all(len(block) == size for block in blocks[:-1])
        assert [item for block in blocks for item in block] == list(kept)
        assert [row for block in blocks for row in block.rows.tolist()] == kept.rows.tolist()
    assert column.rows.tolist() == kept.rows.tolist()
    assert len(column) == len(kept)
    counts = column.validity
    assert (counts.valid, counts.invalid, counts.missing) == (validity.valid, validity.invalid, validity.missing)
    assert counts.duplicates == len(found) - len(kept) == validity.duplicates
    return column


def test_hostile_strings_come_out_as_of_the_whole_table(tmp_path: Path) -> None:
    values = pa.array([text for i in range(9) for text in HOSTILE[i % 4 :]])
    assert same_as_the_whole_table(parquet(tmp_path / "a.parquet", values)).validity.duplicates > 50


@pytest.mark.parametrize(
    "values",
    [
        pa.array([3, 1, 2, 1, None, 3] * 5),
        pa.array(["a", "b", "a", None] * 6).dictionary_encode(),
        pa.array([1.5, 2.0, None, 2.0] * 5),
        pa.array([b"x", b"y", b"x"] * 7, pa.binary()),
        pa.array([None] * 10, pa.string()),
        pa.array([f"only {i}" for i in range(50)]),
    ],
    ids=["integers", "dictionary", "floats", "binary", "nothing", "no duplicates"],
)
def test_every_type_of_column_comes_out_as_of_the_whole_table(tmp_path: Path, values: pa.Array) -> None:
    same_as_the_whole_table(parquet(tmp_path / "a.parquet", values))


def test_a_csv_comes_out_as_of_the_whole_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("k;n\n" + "".join(f"{text};1\n" for text in ["06 12345678", "+31612345679", "", "x", "0612345678"]))
    assert same_as_the_whole_table(path, "phone").rows.tolist() == [0, 1]


def test_prints_that_collide_do_not_make_two_identifiers_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "fingerprints", lambda ids, _: np.arange(len(ids), dtype=np.uint64) % np.uint64(2))
    # Equal ones have equal prints whatever the function, so the repeated ones stand at places of one parity.
    values = pa.array(["a", "b", "c", "d", "a", "b", "e"] * 2)
    same_as_the_whole_table(parquet(tmp_path / "a.parquet", values.slice(0, 7)))


def open_in(folder: Path) -> int:
    """How many files of this folder the process has open, also such as have no name any more."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # other threads open and close theirs meanwhile
            found += folder in descriptor.readlink().parents
    return found


def test_nothing_of_a_column_has_a_name_in_any_folder(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", pa.array([f"person {i}" for i in range(40)]))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    column = opened(path, "k", scratch=scratch)
    assert list(scratch.iterdir()) == []
    assert open_in(scratch) == 1
    assert len(list(column.blocks(64))) == 1
    assert "person" not in repr(column)
    del column
    assert open_in(scratch) == 0


def test_a_column_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", pa.array(["a"]))
    with pytest.raises(ConfigError, match="no column"):
        opened(path, "q")


def test_a_file_that_is_damaged_is_a_configuration_error(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", pa.array([f"person {i}" for i in range(4000)]), group=1000)
    data = bytearray(path.read_bytes())
    data[200:2000] = bytes(1800)
    path.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match="cannot be read"):
        opened(path, "k")
