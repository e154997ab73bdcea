"""One party's table: read from CSV or Parquet, described for an offer, committed to.

Every column of a table that `read` returns is text, whole numbers, float64, boolean, date32 or timestamp[us]. A CSV is
read as text first, and a column becomes anything else only when every value of it is one and no digit is lost: a phone
number keeps its leading zero and its plus, a customer number of 25 digits all of them. NaN and infinity count as
missing.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from tidegate.protocols.channel import ConfigError

FloatArray = NDArray[np.float64]

RELEASE_ROWS = 100
"""Nothing about fewer rows than this leaves the party: no category's name, no range."""
MAX_CATEGORIES = 50
MAX_COLUMNS = 4096
MAX_NAME = 200
SEPARATORS = (",", ";", "\t", "|")
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "NaN", "nan", "None", "-")

_INTEGER = r"^-?(0|[1-9][0-9]{0,17})$"
_DECIMAL = r"^-?((0|[1-9][0-9]{0,14})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$|^[+-]?(?i:inf|infinity)$"
_DECIMAL_COMMA = r"^-?(0|[1-9][0-9]{0,14})(,[0-9]+)?$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
_BOOLEAN = r"^(?i:true|false)$"


@dataclass(frozen=True)
class Column:
    """What an offer shows of one column. kind: "number", "category", "text" or "key"; only the first two are features.

    low and high are the 1st and 99th percentile rounded outward to two digits (dates in days since 1970), categories
    those with at least 100 rows; all of them are left out where fewer than 100 rows have a value.
    """

    name: str
    kind: str
    low: float | None
    high: float | None
    categories: tuple[str, ...]
    missing_percent: int


def read(path: Path | str) -> pa.Table:
    """The table in a .csv, .tsv or .parquet file. Raises ConfigError unless it has a row, and a clear name a column."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".txt", ".parquet", ".pq"):
        raise ConfigError(f"{path} is neither CSV nor Parquet by its name", "name the file .csv or .parquet")
    with _readable(path):
        table = _read_parquet(path) if suffix in (".parquet", ".pq") else _read_csv(path)
    if table.num_rows == 0:
        raise ConfigError(f"{path} has a header but no rows", "expected at least one row below the header")
    return table


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What goes wrong inside with the file is told in a sentence."""
    try:
        if path.stat().st_size == 0:
            raise ConfigError(f"{path} is empty", "expected a header line and at least one row")
        yield
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}", "check the path, and the folder you are in") from None
    except pa.ArrowInvalid:
        raise ConfigError(
            f"{path} is no Parquet file, or it is cut short", "write the file again, or name it .csv if it is one"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"{path} cannot be read: {type(error).__name__}", "check that the file is whole and readable by you"
        ) from None


def each_column(path: Path | str, without: Collection[str] = ()) -> Iterator[tuple[str, pa.ChunkedArray | None]]:
    """The columns of the table that `read` gives, in order; of a Parquet file one at a time is in memory.

    Of those in `without` the name alone. Raises ConfigError as `read`, and for names in `without` that it has not.
    """
    path = Path(path)
    if path.suffix.lower() not in (".parquet", ".pq"):
        whole = read(path)
        for name in without:
            column(whole, name)
        yield from ((name, None if name in without else whole.column(name)) for name in whole.column_names)
        return
    file, empty = _parquet(path)
    for name in without:
        column(empty, name)
    for name in empty.column_names:
        yield name, None if name in without else _parquet_column(path, file, name)


def each_of(path: Path | str, names: Sequence[str]) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The columns of these names of the table that `read` gives; of a Parquet file one at a time is in memory."""
    path = Path(path)
    if path.suffix.lower() not in (".parquet", ".pq"):
        whole = read(path)
        yield from ((name, column(whole, name)) for name in names)
        return
    file, empty = _parquet(path)
    for name in names:
        column(empty, name)
    yield from ((name, _parquet_column(path, file, name)) for name in names)


def row_count(path: Path | str) -> int:
    """How many rows the table that `read` gives has."""
    path = Path(path)
    whole = _parquet(path)[0].metadata if path.suffix.lower() in (".parquet", ".pq") else read(path)
    return int(whole.num_rows)


def _parquet(path: Path) -> tuple[pa.parquet.ParquetFile, pa.Table]:
    """A Parquet file that has rows, and its columns without them."""
    with _readable(path):
        file = pa.parquet.ParquetFile(path)
        empty = file.schema_arrow.empty_table()
    _clear_names(path, empty.column_names)
    if file.metadata.num_rows == 0:
        raise ConfigError(f"{path} has no rows", "expected at least one row")
    return file, empty


def _parquet_column(path: Path, file: pa.parquet.ParquetFile, name: str) -> pa.ChunkedArray:
    with _readable(path):
        values = file.read(columns=[name]).column(0)
    return _plain(name, values)


def commitment(path: Path | str, salt: bytes) -> str:
    """Hex of SHA-256(salt || SHA-256(file)): fixes the file's bytes and, with a secret salt, tells nothing of them."""
    if len(salt) != 32:
        raise ValueError(f"a salt has 32 bytes, this one {len(salt)}")
    try:
        with Path(path).open("rb") as file:
            inner = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {type(error).__name__}", "check that the registered file is still there"
        ) from None
    return hashlib.sha256(salt + inner).hexdigest()


def column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """The column of that name. Raises ConfigError naming the nearest one there is."""
    if name not in table.column_names:
        near = difflib.get_close_matches(name, table.column_names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the columns are {', '.join(table.column_names[:20])}"
        raise ConfigError(f"the table has no column {name!r}", hint)
    return table.column(name)


def texts(table: pa.Table, name: str) -> list[str | None]:
    """The column as canonical text: 1 and not 1.0, true and false, ISO dates; None where the value is missing."""
    values = column(table, name)
    if pa.types.is_boolean(values.type):
        return [None if value is None else str(value).lower() for value in values.to_pylist()]
    if pa.types.is_floating(values.type):
        return [None if value is None else _number_text(value) for value in values.to_pylist()]
    if pa.types.is_timestamp(values.type):
        return [None if value is None else value.isoformat() for value in values.to_pylist()]
    return [None if value is None else str(value) for value in values.to_pylist()]


def text_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """What `texts` gives, as Arrow text; where the column holds text or whole numbers, without a loop over them."""
    values = column(table, name)
    if pa.types.is_large_string(values.type) or pa.types.is_string(values.type) or pa.types.is_integer(values.type):
        return values.cast(pa.large_string())
    return pa.chunked_array([texts(table, name)], pa.large_string())


def text_blocks(path: Path | str, name: str, rows: int) -> Iterator[pa.ChunkedArray]:
    """`text_column` of a file, in blocks of at most so many rows; Parquet is not in memory as a whole."""
    return (text_column(block, name) for block in column_blocks(path, name, rows))


def column_blocks(path: Path | str, name: str, rows: int) -> Iterator[pa.Table]:
    """One column of the table that `read` gives, in blocks of at most so many rows."""
    return blocks(path, [name], rows)


def blocks(path: Path | str, names: Collection[str], rows: int) -> Iterator[pa.Table]:
    """Some columns of the table that `read` gives, in blocks of at most so many rows; Parquet is never whole in memory.

    Raises ConfigError for a column that it has not.
    """
    path, names = Path(path), list(names)
    if path.suffix.lower() not in (".parquet", ".pq"):
        whole = read(path)
        for name in names:
            column(whole, name)
        whole = whole.select(names)
        yield from (whole.slice(begin, rows) for begin in range(0, whole.num_rows, rows))
        return
    with _readable(path):
        file = pa.parquet.ParquetFile(path)
        for name in names:
            column(file.schema_arrow.empty_table(), name)
        for batch in file.iter_batches(batch_size=rows, columns=names):
            read_columns = (batch.column(batch.schema.get_field_index(name)) for name in names)
            yield pa.table(
                [_plain(name, pa.chunked_array([each])) for name, each in zip(names, read_columns, strict=True)],
                names=names,
            )


def coded(table: pa.Table, name: str, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[str]]:
    """A category column in some rows, as numbers of the texts given with them; -1 where the value is missing."""
    chosen = column(table, name).take(pa.array(rows)).cast(pa.large_string()).combine_chunks().dictionary_encode()
    return np.asarray(chosen.indices.fill_null(-1), dtype=np.int64), chosen.dictionary.to_pylist()


def numbers(table: pa.Table, name: str) -> FloatArray:
    """A number or date column as float64, NaN where the value is missing; dates and times in days since 1970.

    Clipped to +-1e100, so that sums of squares stay finite.
    """
    values = column(table, name)
    if pa.types.is_date(values.type):
        days = values.cast(pa.int32()).cast(pa.float64())
    elif pa.types.is_timestamp(values.type):
        days = pc.divide(values.cast(pa.int64()).cast(pa.float64(), safe=False), 86_400e6)
    elif pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        days = values.cast(pa.float64(), safe=False)
    else:
        raise ConfigError(f"the column {name!r} does not hold numbers", "leave it out or replace its text by numbers")
    return np.clip(np.asarray(days.to_numpy(), dtype=np.float64), -1e100, 1e100)


def kind(table: pa.Table, name: str) -> str:
    """ "number", "category" (2 to 50 texts, one of them with 100 rows) or "text", which is never a feature."""
    values = column(table, name)
    if values.null_count == len(values):
        return "text"
    if pa.types.is_boolean(values.type):
        return "category"
    if not pa.types.is_large_string(values.type):
        return "number"
    if pc.count_distinct(values).as_py() > MAX_CATEGORIES or not categories(values):
        return "text"
    return "category"


def categories(values: pa.ChunkedArray, least: int = RELEASE_ROWS) -> tuple[str, ...]:
    """The texts that at least `least` rows hold, in alphabetical order."""
    counted = values.drop_null().value_counts()
    kept = counted.filter(pc.greater_equal(counted.field("counts"), least)).field("values").to_pylist()
    return tuple(sorted(str(value).lower() if isinstance(value, bool) else value for value in kept))


def describe(name: str, values: pa.ChunkedArray) -> Column:
    """What an offer shows of a column that holds no identifiers."""
    table = pa.table([values], names=[name])
    missing_percent = round(100 * values.null_count / len(values))
    what = kind(table, name)
    low = high = None
    if what == "number" and len(values) - values.null_count >= RELEASE_ROWS:
        low, high = _offered_range(numbers(table, name))
    shown = categories(values) if what == "category" else ()
    return Column(name, what, low, high, shown, missing_percent)


def binary(table: pa.Table, name: str, positive: str) -> NDArray[np.int8]:
    """1 where the column says `positive`, 0 where it says the other thing, -1 where it is missing.

    Raises ConfigError unless the column takes two values and `positive` is one of them.
    """
    values = texts(table, name)
    found = set(values) - {None}
    if len(found) != 2:
        text = f"the label {name!r} takes {len(found)} different values, expected 2"
        raise ConfigError(text, "make a column that says yes or no, and leave it empty where it is not known")
    if positive not in found:
        text = f"no row has the label {name!r} equal to {positive!r}"
        raise ConfigError(text, "write the positive value as the file has it, 1 and not 1.0")
    signs = {None: -1, positive: 1}
    return np.fromiter((signs.get(value, 0) for value in values), dtype=np.int8, count=len(values))


def _offered_range(values: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(values[np.isfinite(values)], (0.01, 0.99), method="nearest")
    down, up = Context(prec=2, rounding=ROUND_FLOOR), Context(prec=2, rounding=ROUND_CEILING)
    # 0.0 is added so that minus zero is shown as zero.
    return float(down.create_decimal(repr(float(low)))) + 0.0, float(up.create_decimal(repr(float(high)))) + 0.0


def _number_text(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)


def _read_parquet(path: Path) -> pa.Table:
    # Not read_table: that one takes folder names like "a=1" for columns.
    table = pa.parquet.ParquetFile(path).read()
    names = _clear_names(path, table.column_names)
    return pa.table([_plain(name, values) for name, values in zip(names, table.columns, strict=True)], names=names)


def _read_csv(path: Path) -> pa.Table:
    with path.open("rb") as file:
        head = file.readline(2**20)
    try:
        header = head.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", "save it as CSV UTF-8, or as Parquet") from None
    separator = max(SEPARATORS, key=header.count)
    ragged: list[tuple[int | None, int, int]] = []

    def note(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append((row.number, row.expected_columns, row.actual_columns))
        return "error"

    try:
        names = [
            str(name)
            for name in pyarrow.csv.read_csv(
                pa.BufferReader(head.removeprefix(b"\xef\xbb\xbf")),
                parse_options=pyarrow.csv.ParseOptions(delimiter=separator),
            ).column_names
        ]
        table = pyarrow.csv.read_csv(
            path,
            # One thread, so that a ragged row can be named by its number.
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, column_names=[str(i) for i in range(len(names))], skip_rows=1
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=separator, newlines_in_values=True, invalid_row_handler=note
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={str(i): pa.large_string() for i in range(len(names))},
                null_values=list(MISSING),
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        if ragged:
            row, expected, found = ragged[0]
            where = f"row {row}" if row is not None else "a row"
            text = f"{path}: {where} has {found} fields, the header has {expected}"
            raise ConfigError(text, "put fields that hold the separator in double quotes") from None
        if "UTF8" in str(error):
            raise ConfigError(f"{path} is not UTF-8 text", "save it as CSV UTF-8, or as Parquet") from None
        # Arrow's own text may quote a row, which must not reach a screen or a log.
        raise ConfigError(f"{path} is no CSV that can be read", "expected a header line, then one line a row") from None
    clear = _clear_names(path, [name.strip() for name in names])
    columns = [_typed(_trimmed(values), decimal_comma=separator != ",") for values in table.columns]
    return pa.table(columns, names=clear)


def _clear_names(path: Path, names: list[str]) -> list[str]:
    if not 1 <= len(names) <= MAX_COLUMNS:
        raise ConfigError(
            f"{path} has {len(names)} columns, expected 1 to {MAX_COLUMNS}", "keep the columns the campaign needs"
        )
    seen: set[str] = set()
    for position, name in enumerate(names, 1):
        if not name or not name.isprintable() or len(name) > MAX_NAME:
            text = f"{path}: column {position} has no name, or one that is not 1 to {MAX_NAME} printable characters"
            raise ConfigError(text, "give each column a name in the first line")
        if name in seen:
            raise ConfigError(f"{path} has two columns called {name!r}", "rename one of them")
        seen.add(name)
    return names


def _trimmed(values: pa.ChunkedArray) -> pa.ChunkedArray:
    trimmed = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, trimmed.type), trimmed)


def _finite(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Float64 whose NaN and infinite values are missing ones."""
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))


def _typed(values: pa.ChunkedArray, decimal_comma: bool) -> pa.ChunkedArray:
    """Text as numbers, booleans or dates if every value is one."""

    def every(pattern: str) -> bool:
        return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())

    if values.null_count == len(values):
        return values
    if every(_INTEGER):
        return values.cast(pa.int64())
    if every(_DECIMAL):
        return _finite(values.cast(pa.float64()))
    if decimal_comma and every(_DECIMAL_COMMA):
        return pc.replace_substring(values, ",", ".").cast(pa.float64())
    if every(_BOOLEAN):
        return pc.equal(pc.utf8_lower(values), "true")
    if every(_DATE):
        for type_ in (pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
            try:
                return values.cast(type_).cast(pa.timestamp("us") if pa.types.is_timestamp(type_) else type_)
            except pa.ArrowInvalid:
                continue
    return values


def _plain(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A Parquet column as one of the types that the rest of the house knows."""
    kinds = pa.types
    type_ = values.type
    if isinstance(type_, pa.BaseExtensionType):
        return _plain(name, pa.chunked_array([chunk.storage for chunk in values.chunks], type_.storage_type))
    if kinds.is_dictionary(type_):
        return _plain(name, values.cast(type_.value_type))
    try:
        if kinds.is_boolean(type_) or kinds.is_integer(type_):
            return values
        if kinds.is_floating(type_) or (kinds.is_decimal(type_) and type_.scale > 0):
            return _finite(values.cast(pa.float64()))
        if kinds.is_date(type_):
            return values.cast(pa.date32(), safe=False)
        if kinds.is_timestamp(type_):
            return values.cast(pa.timestamp("us", type_.tz), safe=False).cast(pa.timestamp("us"))
        if kinds.is_duration(type_):
            return values.cast(pa.int64())
        if kinds.is_decimal(type_) and type_.precision <= 18:
            return values.cast(pa.int64())
        if not kinds.is_nested(type_):
            return _trimmed(values.cast(pa.large_string()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # It ends in the same sentence as a nested column.
    raise ConfigError(
        f"the column {name!r} has the type {type_}, which is neither number, text, date nor boolean",
        "leave it out of the file, or write it as text or number",
    )
