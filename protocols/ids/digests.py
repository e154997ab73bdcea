"""SHA-256 and MD5 digests: read from a column that arrives hashed, or made of one that does not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .column import BoolArray, Bytes, Texts, buffers, lengths, mask, sliced

SIZES = {"sha256": 32, "md5": 16}
_NOBODY = "00000000-0000-0000-0000-000000000000"


def make(texts: Texts, form: str) -> Bytes:
    """The digest of each text, (n, size of the form). No text is null."""
    digest = _hash(form)
    data, offsets = buffers(texts)
    raw, bounds = data.tobytes(), offsets.tolist()
    found = b"".join([digest(raw[begin:end]) for begin, end in pairwise(bounds)])
    return np.frombuffer(found, np.uint8).reshape(len(texts), SIZES[form])


def read(texts: Texts, form: str, kind: str) -> tuple[Bytes, BoolArray, BoolArray]:
    """The digests (n, size) that the texts write, which of them (n,) are none, and which (n,) are that of no text.

    A digest is written in hexadecimal of any case, in base64 or in base64url, with or without padding. The digest of an
    all-zero device id is none.
    """
    size = SIZES[form]
    found = np.zeros((len(texts), size), np.uint8)
    valid = np.zeros(len(texts), np.bool_)
    long = np.where(mask(pc.string_is_ascii(texts)), lengths(texts), 0)
    written = -(-size * 8 // 6)
    for length, reader in ((2 * size, _hex), (written, _base64), (written + -written % 4, _base64)):
        rows = np.flatnonzero(long == length)
        if len(rows):
            found[rows], valid[rows] = reader(texts.take(pa.array(rows)), size)
    empty = valid & (found == _of("", form)).all(1)
    if kind == "device":
        for nobody in (_NOBODY, _NOBODY.replace("-", "")):
            valid &= ~(found == _of(nobody, form)).all(1)
    return found, ~valid, empty


def _hash(form: str) -> Callable[[bytes], bytes]:
    if form == "md5":
        # Partners deliver MD5; it names an identifier here and protects nothing.
        return lambda raw: hashlib.md5(raw, usedforsecurity=False).digest()
    return lambda raw: hashlib.sha256(raw).digest()


def _of(text: str, form: str) -> Bytes:
    return np.frombuffer(_hash(form)(text.encode()), np.uint8)


def _hex(texts: Texts, size: int) -> tuple[Bytes, BoolArray]:
    nibbles = _HEX[buffers(texts)[0].reshape(len(texts), 2 * size)]
    return (nibbles[:, ::2] << 4) | (nibbles[:, 1::2] & 15), (nibbles < 16).all(1)


def _base64(texts: Texts, size: int) -> tuple[Bytes, BoolArray]:
    written = -(-size * 8 // 6)
    padded = buffers(sliced(texts, written))[0].reshape(len(texts), -1)
    sextets = np.zeros((len(texts), written + -written % 4), np.uint8)
    sextets[:, :written] = _BASE64[buffers(sliced(texts, 0, written))[0].reshape(len(texts), written)]
    # What the last letter holds beyond the digest is zero, or one digest would have many spellings.
    spare = (1 << (6 * written - 8 * size)) - 1
    valid = (sextets < 64).all(1) & (padded == ord("=")).all(1) & (sextets[:, written - 1] & spare == 0)
    fours = sextets.reshape(len(texts), -1, 4)
    threes = np.empty((*fours.shape[:2], 3), np.uint8)
    threes[..., 0] = (fours[..., 0] << 2) | (fours[..., 1] >> 4)
    threes[..., 1] = (fours[..., 1] << 4) | (fours[..., 2] >> 2)
    threes[..., 2] = (fours[..., 2] << 6) | fours[..., 3]
    return threes.reshape(len(texts), -1)[:, :size], valid


def _table(*alphabets: str) -> Any:
    table = np.full(256, 255, np.uint8)
    for alphabet in alphabets:
        table[np.frombuffer(alphabet.encode(), np.uint8)] = np.arange(len(alphabet))
    return table


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_HEX = _table("0123456789abcdef", "0123456789ABCDEF")
_BASE64 = _table(_LETTERS + "+/", _LETTERS + "-_")
