"""A column of text as Arrow holds it, and the bytes below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..channel import ConfigError

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Texts = Any
"""A pyarrow LargeStringArray; pyarrow ships no types."""

TEXT = pa.large_string()
BLANKS = " \t\r\n\v\f\u00a0\u2007\u202f\u3000\u200b\u200c\u200d\u2060\ufeff"
_ASCII_BLANKS = " \t\r\n\v\f"


def trimmed(values: Any) -> tuple[Texts, BoolArray]:
    """The column without blanks around its values, null where it holds nothing, and which rows (n,) are no text.

    values is a pyarrow array of text, of whole numbers or of a dictionary of them, or a sequence of str | None. What is
    no text (bytes that are not UTF-8, a lone surrogate) is null too.
    """
    texts, broken = _sequence(values) if isinstance(values, Sequence) else _arrow(values)
    if all_true(pc.string_is_ascii(texts)):
        texts = pc.ascii_trim(texts, characters=_ASCII_BLANKS)
    else:
        texts = pc.utf8_trim(texts, characters=BLANKS)
    empty = mask(pc.equal(pc.binary_length(texts), 0))
    return (nulled(texts, empty) if empty.any() else texts), broken


def _sequence(values: Sequence[str | None]) -> tuple[Texts, BoolArray]:
    try:
        return pa.array(values, TEXT), np.zeros(len(values), np.bool_)
    except UnicodeEncodeError:
        broken = np.array([value is not None and not _is_encodable(value) for value in values], np.bool_)
        kept = [None if bad else value for value, bad in zip(values, broken.tolist(), strict=True)]
        return pa.array(kept, TEXT), broken


def _arrow(values: Any) -> tuple[Texts, BoolArray]:
    held = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    text = pa.types.is_string(held) or pa.types.is_large_string(held) or pa.types.is_string_view(held)
    if not text and not pa.types.is_integer(held) and not pa.types.is_null(held):
        raise ConfigError(f"a column of {held} holds no identifiers", "give a column of text")
    texts = values.cast(TEXT)
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    broken = np.zeros(len(texts), np.bool_)
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        raw = texts.cast(pa.large_binary())
        broken = np.array([value is not None and not _is_utf8(value) for value in raw.to_pylist()], np.bool_)
        texts = nulled(raw, broken).cast(TEXT)
    return texts, broken


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def nulled(array: Any, where: BoolArray) -> Any:
    """The array with null where (n,) says so."""
    return pc.if_else(pa.array(where), pa.scalar(None, array.type), array)


def mask(answers: Any) -> BoolArray:
    """A boolean Arrow array as (n,), false where it is null."""
    return np.asarray(answers.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)


def all_true(answers: Any) -> bool:
    """Whether no answer is false; nulls do not count."""
    return pc.all(answers, skip_nulls=True, min_count=0).as_py() is not False


def matches(texts: Texts, pattern: str) -> BoolArray:
    """(n,): whether RE2 finds the pattern."""
    return mask(pc.match_substring_regex(texts, pattern))


def replaced(texts: Texts, pattern: str, by: str) -> Texts:
    """The texts with what RE2 finds of the pattern replaced."""
    return pc.replace_substring_regex(texts, pattern=pattern, replacement=by)


def lengths(texts: Any) -> IntArray:
    """Bytes of each value (n,), 0 for null."""
    return np.asarray(pc.binary_length(texts).fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def sliced(texts: Texts, start: int, stop: int | None = None) -> Texts:
    """A piece of each text. The texts are ASCII."""
    return pc.utf8_slice_codeunits(texts, start=start, stop=stop)


def joined(*parts: Any) -> Texts:
    """The parts one after the other, row by row; str stands for itself in every row."""
    columns = [pa.scalar(part, TEXT) if isinstance(part, str) else part for part in parts]
    return pc.binary_join_element_wise(*columns, pa.scalar("", TEXT))


def buffers(array: Any) -> tuple[Bytes, IntArray]:
    """The bytes of a large string or large binary array, and where each value starts and ends in them (n + 1,)."""
    _, offsets, data = array.buffers()
    if offsets is None or len(array) == 0:
        return np.empty(0, np.uint8), np.zeros(len(array) + 1, np.int64)
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    flat = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return flat[bounds[0] : bounds[-1]], bounds - bounds[0]


def from_buffers(data: Bytes | bytes, offsets: IntArray, kind: Any = TEXT) -> Any:
    """The opposite of `buffers`."""
    return pa.Array.from_buffers(kind, len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def before(flags: BoolArray) -> NDArray[Any]:
    """How many of the flags (n,) are set before each place and in all (n + 1,)."""
    # Half the memory of int64 and several times as fast, which counts where the flags are of bytes.
    wide = np.int32 if len(flags) < 2**31 else np.int64
    counts = np.zeros(len(flags) + 1, wide)
    np.cumsum(flags.astype(wide), out=counts[1:])
    return counts


def ends(lengths: IntArray) -> IntArray:
    """Where values of these lengths (n,) start and end when they follow each other (n + 1,)."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
