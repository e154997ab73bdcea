"""Which byte strings of equal width are equal: exact joins of millions in little memory.

Whole strings are compared; a hash only says which to compare. It is keyed, so that a peer cannot choose strings that
make the join slow. The work is done in the Rust crate beside this package, else by sorting in numpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..channel import PeerError
from ..ids import Identifiers

try:
    from .. import _native as _native
except ImportError:
    _native = None  # type: ignore[assignment]  # the crate is optional: numpy does the work without it

Bytes = NDArray[np.uint8]
Places = NDArray[np.uint32]

KEY_BYTES = 16
MOST = 2**31


def equal_places(own: Bytes, peer: Bytes, key: bytes) -> tuple[Places, Places]:
    """Of own (n, w) and peer (m, w), w >= 8: the places of equal strings on each side, by rising place on the peer's.

    key: KEY_BYTES secret bytes. Raises PeerError when a string occurs twice on one side.
    """
    _check(len(own) + len(peer))
    if _native is None:
        found = _equal_places(own, peer)
    else:
        found = None
        both = _native.equal_places(np.ascontiguousarray(own), np.ascontiguousarray(peer), own.shape[1], key)
        if both is not None:
            found = np.frombuffer(both[0], np.uint32), np.frombuffer(both[1], np.uint32)
    if found is None:
        raise PeerError("the peer sent an element or a token twice")
    return found


def has_repeats(items: Bytes, key: bytes) -> bool:
    """Whether two of items (n, w), w >= 8, are equal. key: KEY_BYTES secret bytes."""
    _check(len(items))
    if _native is None:
        return len(_equal_pairs(items)[0]) > 0
    return _native.has_repeats(np.ascontiguousarray(items), items.shape[1], key)


def fingerprints(ids: Identifiers, key: bytes) -> NDArray[np.uint64]:
    """A 64-bit hash (n,) of each identifier under KEY_BYTES secret bytes, the same within one process."""
    if _native is None:
        return np.fromiter((hash(identifier) & (2**64 - 1) for identifier in ids), np.uint64, len(ids))
    offsets = np.ascontiguousarray(ids.offsets, "<i8").tobytes()
    return np.frombuffer(_native.fingerprints(ids.data, offsets, key), "<u8")


def _check(n: int) -> None:
    if n >= MOST:
        raise ValueError(f"at most {MOST} strings can be joined, not {n}")


def _equal_places(own: Bytes, peer: Bytes) -> tuple[Places, Places] | None:
    first, second = _equal_pairs(np.concatenate([own, peer]))
    if np.any(first >= len(own)) or np.any(second < len(own)):
        return None
    by_peer = np.argsort(second)
    return first[by_peer].astype(np.uint32), (second[by_peer] - len(own)).astype(np.uint32)


def _equal_pairs(items: Bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index pairs (i, j), i < j, of items that are equal bytes; of k equal ones the k - 1 neighbours."""
    heads = np.ascontiguousarray(items[:, :8]).view("<u8").ravel()
    order = np.argsort(heads)
    heads = heads[order]
    near = np.zeros(len(items) + 1, np.bool_)
    near[1:-1] = heads[1:] == heads[:-1]
    # Only items that share their first 8 bytes with another are compared whole.
    suspects = np.sort(order[near[:-1] | near[1:]])
    del heads, order
    padded = np.zeros((len(suspects), -(-items.shape[1] // 8) * 8), np.uint8)
    padded[:, : items.shape[1]] = items[suspects]
    words = padded.view("<u8")
    order = np.lexsort(words.T)
    equal = np.all(words[order[1:]] == words[order[:-1]], axis=1)
    return suspects[order[:-1][equal]], suspects[order[1:][equal]]
