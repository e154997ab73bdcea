"""A party's own table: what is read, what is offered of it, and what bad files get."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.party.data import table
from tidegate.protocols.channel import ConfigError


def _csv(folder: Path, text: str | bytes, name: str = "t.csv") -> pa.Table:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return table.read(path)


def _parquet(folder: Path, **columns: pa.Array) -> pa.Table:
    path = folder / "t.parquet"
    pa.parquet.write_table(pa.table(columns), path)
    return table.read(path)


def test_a_column_of_a_csv_becomes_numbers_only_when_no_digit_is_lost(tmp_path: Path) -> None:
    read = _csv(
        tmp_path,
        "n,x,phone,plus,long,big,mixed,flag,day,at\n"
        "1,1.5,0612345678,+3161,1234567890123456789012,123456789012345678,7,True,2024-01-31,2024-01-31T10:00:00\n"
        "2,,0698765432,+3162,22,-5,seven,false,2024-02-29,2024-02-01T00:00:00\n",
    )
    assert table.texts(read, "n") == ["1", "2"]
    assert table.texts(read, "x") == ["1.5", None]
    assert table.texts(read, "phone") == ["0612345678", "0698765432"]
    assert table.texts(read, "plus") == ["+3161", "+3162"]
    assert table.texts(read, "long") == ["1234567890123456789012", "22"]
    assert table.texts(read, "big") == ["123456789012345678", "-5"]
    assert table.texts(read, "mixed") == ["7", "seven"]
    assert table.texts(read, "flag") == ["true", "false"]
    assert table.texts(read, "day") == ["2024-01-31", "2024-02-29"]
    assert table.texts(read, "at") == ["2024-01-31T10:00:00", "2024-02-01T00:00:00"]
    np.testing.assert_array_equal(table.numbers(read, "day"), [19753, 19782])
    np.testing.assert_allclose(table.numbers(read, "at"), [19753 + 10 / 24, 19754])
    assert [table.kind(read, name) for name in ("n", "x", "phone", "day", "flag")] == [
        "number", "number", "text", "number", "category",
    ]  # fmt: skip


def test_text_is_the_same_whatever_type_a_number_is_stored_in(tmp_path: Path) -> None:
    read = _parquet(
        tmp_path,
        i=pa.array([1, None, 3], pa.int8()),
        f=pa.array([1.0, None, 3.0], pa.float32()),
        d=pa.array([Decimal("1.00"), None, Decimal("3.00")], pa.decimal128(9, 2)),
        w=pa.array([Decimal(1), None, Decimal(3)], pa.decimal128(38, 0)),
        s=pa.array([" 1", "", "3 "]),
        c=pa.array(["1", None, "3"]).dictionary_encode(),
        b=pa.array([b"1", None, b"3"]),
        u=pa.array([1, None, 3], pa.uint64()),
    )
    for name in read.column_names:
        assert table.texts(read, name) == ["1", None, "3"], name


def test_dates_booleans_and_odd_types_of_parquet_turn_into_numbers_or_text(tmp_path: Path) -> None:
    noon = dt.datetime(2024, 1, 31, 12, tzinfo=dt.UTC)
    read = _parquet(
        tmp_path,
        day64=pa.array([noon.date()], pa.date64()),
        ns=pa.array([noon.replace(tzinfo=None)], pa.timestamp("ns")),
        zoned=pa.array([noon], pa.timestamp("ms", "Europe/Amsterdam")),
        length=pa.array([dt.timedelta(days=1)]),
        time=pa.array([dt.time(10)]),
        flag=pa.array([True]),
        none=pa.array([None]),
    )
    assert table.numbers(read, "day64")[0] == 19753
    assert table.numbers(read, "ns")[0] == table.numbers(read, "zoned")[0] == 19753.5
    assert table.texts(read, "zoned") == ["2024-01-31T12:00:00"]
    assert table.kind(read, "length") == "number"
    assert table.kind(read, "time") == "text"
    assert table.texts(read, "flag") == ["true"]
    assert table.kind(read, "none") == "text"


def test_values_that_are_no_finite_number_are_missing(tmp_path: Path) -> None:
    from_csv = _csv(tmp_path, "x,y\n1,inf\nNaN,-Infinity\n1e999,2\n1e308,NULL\n")
    from_parquet = _parquet(tmp_path, x=pa.array([1.0, np.nan, np.inf, -np.inf]))
    assert table.texts(from_csv, "x") == ["1", None, None, "1e+308"]
    assert table.texts(from_csv, "y") == [None, None, "2", None]
    assert table.texts(from_parquet, "x") == ["1", None, None, None]
    assert table.numbers(from_csv, "x")[3] == 1e100


def test_a_spreadsheet_of_the_continent_is_read(tmp_path: Path) -> None:
    read = _csv(tmp_path, '\ufeffName ;Größe;omzet\r\n"Jan; Piet";1,5;10\r\n"two\nlines";2;\r\n')
    assert read.column_names == ["Name", "Größe", "omzet"]
    assert table.texts(read, "Name") == ["Jan; Piet", "two\nlines"]
    np.testing.assert_array_equal(table.numbers(read, "Größe"), [1.5, 2])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("a,b\n", "no rows"),
        ("a,b\n1,2\n1\n", "has 1 fields, the header has 2"),
        ("a,b\n1,2\n1,2,3\n", "has 3 fields, the header has 2"),
        ("a,a\n1,2\n", "two columns called 'a'"),
        ("a, a\n1,2\n", "two columns called 'a'"),
        ("a,\n1,2\n", "column 2 has no name"),
        ("a\x00,b\n1,2\n", "column 1 has no name"),
        ("a,b\n1,Größe\n".encode("latin-1"), "not UTF-8"),
        ("Größe,b\n1,2\n".encode("latin-1"), "not UTF-8"),
        (b"\n\n\n", "t.csv"),
        ("\n".join(["x," * 5000, "1," * 5000]), "5001 columns"),
    ],
)
def test_a_bad_csv_is_refused_in_one_sentence_with_a_hint(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _csv(tmp_path, content)
    assert says in caught.value.text
    assert caught.value.hint
    assert "\n" not in caught.value.text


def test_an_error_never_quotes_the_row_it_is_about(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _csv(tmp_path, "a,b\n1,2\njan@example.com\n")
    assert "jan@" not in caught.value.text + caught.value.hint
    assert "row 3" in caught.value.text


def test_a_bad_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no Parquet file"):
        _csv(tmp_path, "a,b\n1,2\n", "t.parquet")
    good = tmp_path / "good.parquet"
    pa.parquet.write_table(pa.table({"a": [1, 2]}), good)
    with pytest.raises(ConfigError, match=r"no Parquet file|cannot be read"):
        _csv(tmp_path, good.read_bytes()[:-20], "cut.parquet")
    with pytest.raises(ConfigError, match=r"'l' has the type list"):
        _parquet(tmp_path, l=pa.array([[1]]))
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    pa.parquet.write_table(twice, good)
    with pytest.raises(ConfigError, match="two columns called 'a'"):
        table.read(good)


@pytest.mark.parametrize(("name", "says"), [("gone.csv", "no file"), ("t.xlsx", "neither CSV nor Parquet")])
def test_a_file_that_cannot_be_a_table_is_refused(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        table.read(tmp_path / name)
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        table.read(folder)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name in ("t.csv", "t.parquet"):
        with contextlib.suppress(ConfigError):
            read = _csv(folder, content, name)
            assert len([table.describe(title, read.column(title)) for title in read.column_names]) > 0


def test_an_unknown_column_names_the_nearest(tmp_path: Path) -> None:
    read = _csv(tmp_path, "age_band,x\n1,2\n")
    with pytest.raises(ConfigError) as caught:
        table.column(read, "age_bnd")
    assert "age_band" in caught.value.hint


def test_an_offer_shows_rounded_ranges_and_only_common_categories() -> None:
    n = 1000
    ages = pa.array([18 + i % 67 for i in range(n - 1)] + [999])
    jobs = pa.array(["clerk"] * 890 + ["astronaut"] * 10 + [None] * 100, pa.large_string())
    held = pa.table(
        {
            "age": ages,
            "job": jobs,
            "note": pa.array([f"note {i}" for i in range(n)], pa.large_string()),
            "email": pa.array([f"p{i}@example.com" for i in range(n)], pa.large_string()),
            "empty": pa.nulls(n, pa.large_string()),
            "same": pa.array([3.0] * n),
            "few": pa.array([1.0] * 99 + [None] * 901),
        }
    )
    assert tuple(table.describe(name, held.column(name)) for name in held.column_names) == (
        table.Column("age", "number", 18.0, 84.0, (), 0),
        table.Column("job", "category", None, None, ("clerk",), 10),
        table.Column("note", "text", None, None, (), 0),
        table.Column("email", "text", None, None, (), 0),
        table.Column("empty", "text", None, None, (), 100),
        table.Column("same", "number", 3.0, 3.0, (), 0),
        table.Column("few", "number", None, None, (), 90),
    )


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=100, max_size=120))
def test_an_offered_range_holds_all_but_the_ends_and_has_two_digits(values: list[float]) -> None:
    column = table.describe("x", pa.chunked_array([pa.array(values, pa.float64())]))
    inner = np.clip(np.quantile(values, (0.01, 0.99), method="nearest"), -1e100, 1e100)
    assert column.low is not None
    assert column.high is not None
    assert column.low <= inner[0]
    assert column.high >= inner[1]
    for bound in (column.low, column.high):
        assert len(f"{bound:e}".split("e")[0].rstrip("0").replace("-", "")) <= 3


def test_a_label_must_take_two_values_and_may_be_unknown() -> None:
    labels = pa.table({
        "y": pa.array([1.0, 0.0, None, 1.0]),
        "three": pa.array([0, 1, 2, 1]),
        "one": pa.array([1, 1, 1, 1]),
    })  # fmt: skip
    np.testing.assert_array_equal(table.binary(labels, "y", "1"), [1, 0, -1, 1])
    with pytest.raises(ConfigError, match="takes 3 different values"):
        table.binary(labels, "three", "1")
    with pytest.raises(ConfigError, match="takes 1 different values"):
        table.binary(labels, "one", "1")
    with pytest.raises(ConfigError, match="no row has the label 'y' equal to 'yes'"):
        table.binary(labels, "y", "yes")


def test_a_commitment_fixes_the_file_and_needs_its_salt(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a\n1\n")
    salt = bytes(range(32))
    assert table.commitment(path, salt) == hashlib.sha256(salt + hashlib.sha256(b"a\n1\n").digest()).hexdigest()
    before = table.commitment(path, salt)
    path.write_bytes(b"a\n2\n")
    assert table.commitment(path, salt) != before
    with pytest.raises(ConfigError):
        table.commitment(tmp_path / "gone.csv", salt)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_one_at_a_time_are_those_of_the_whole(tmp_path: Path, suffix: str) -> None:
    whole = pa.table({"mail": ["a@x.nl", None, " b@x.nl "], "age": [1, 2, 3], "city": ["A", "", "B"]})
    path = tmp_path / f"t.{suffix}"
    if suffix == "csv":
        pa.csv.write_csv(whole, path)
    else:
        pq.write_table(whole, path)
    found = dict(table.each_column(path, without=["mail"]))
    read = table.read(path)
    assert list(found) == read.column_names
    assert found.pop("mail") is None
    assert all(values is not None and values.equals(read.column(name)) for name, values in found.items())
    with pytest.raises(ConfigError, match="no column"):
        list(table.each_column(path, without=["male"]))
    some = dict(table.each_of(path, ["city", "age"]))
    assert list(some) == ["city", "age"]
    assert all(values.equals(read.column(name)) for name, values in some.items())
    with pytest.raises(ConfigError, match="no column"):
        list(table.each_of(path, ["age", "towns"]))


def test_a_parquet_file_that_cannot_be_used_is_told_as_a_whole_one_is(tmp_path: Path) -> None:
    whole = pa.table({"a": list(range(2000)), "b": [str(i) for i in range(2000)]})
    pq.write_table(whole, tmp_path / "good.parquet")
    content = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    (tmp_path / "spoilt.parquet").write_bytes(content[:4] + bytes(2000) + content[2004:])
    (tmp_path / "empty.parquet").write_bytes(b"")
    pq.write_table(whole.slice(0, 0), tmp_path / "rowless.parquet")
    uses = {
        "whole": table.read,
        "columns": lambda path: list(table.each_column(path)),
        "some": lambda path: list(table.each_of(path, ["a", "b"])),
        "blocks": lambda path: list(table.text_blocks(path, "a", 9)),
    }
    for name in ("cut", "spoilt", "empty", "absent", "rowless"):
        for what, use in uses.items():
            if (name, what) != ("rowless", "blocks"):  # no rows are no blocks
                with pytest.raises(ConfigError):
                    use(tmp_path / f"{name}.parquet")
