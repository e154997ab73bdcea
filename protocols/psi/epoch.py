"""Which rows two parties of unequal size have in common: tokens made ahead, under one key for an epoch.

F_k is the OPRF of `oprf.py` and T_k(x) the first bytes of F_k(x). The sender has made T = {T_k(y)} for its identifiers
y ahead, sorted, one list for each kind. For each kind, in order of priority, one round over X, the receiver's
identifiers in the rows that no earlier round has matched:

    receiver (brand: X)                                 sender (media: k, T)
                                 <-- Epoch --           the key's name, how many tokens
                                 -- Asking -->          how many: in X, and of X never asked for under this key;
                                                        the round ends here if X or T is under the floor
      blinding scalar b                                 charges the key's budget
      b H(x) for the new x       -- Blinded -->         refuses bad elements
                                 <-- Evaluated --       k b H(x), in the same order
      T_k(x), which it keeps
                                 -- Holding -->         which list of this epoch it holds, which prefixes it wants
                                 <-- Change --          how that list becomes T: how many go, how many come, a digest
                                 <-- Removed --         (all of T comes to who holds nothing of it)
                                 <-- Added --
      checks, keeps T
      finds T_k(X) in T
                                 -- Found -->           how many: 0 for anything under the floor, the end
                                 -- Positions -->       where they stand in T
                                 <-- Free --            one bit each: no earlier round has matched its row

What each learns. The receiver: how many tokens of each kind the sender has; the tokens, which name nobody to it but
the people it has asked for; which of its own rows are among them, at once and also under the floor, since there is no
size gate; from the second run of an epoch on which tokens came and which went, so who of those it has asked for joined
or left; and from Free that a person it found by one kind is a row that it found by an earlier kind. It can ask for
anybody, as often as the budget of the key allows. The sender: how many rows enter each round and how many of their
identifiers are new; at the floor or above, which of its rows match. If the receiver wants only some prefixes, also
which: somebody of the receiver's has a token there, and nobody of the receiver's has one anywhere else, which is
certain knowledge of all the sender's people outside them. Nothing else hides the receiver's people among the
LEAST_SHARD or more tokens that each prefix must have.

Rows come out in the order of the tokens, which is pseudo-random to both.

Why. b is fresh in every round of every run and known to the receiver alone: under the decisional Diffie-Hellman
assumption in ristretto255, with H as a random oracle, the blinded elements are as random ones to the sender. Tokens
that the receiver has not asked for are, under the one-more gap Diffie-Hellman assumption, with both hashes as random
oracles, as random strings to it [RFC9497, 7.2]: it can test no guess at an identifier without a query, and the
budget counts those, over all runs of the epoch. Each query under one key costs a static Diffie-Hellman oracle's share
of the strength, so there are never more than MOST_QUERIES. Two partners have different keys: their tokens cannot be
laid over each other.

Assumption: both follow the protocol and enter their own people. A sender that answers or makes tokens under another
key spoils the result. Values that can be checked are: elements, counts, order, digests, bounds.

A token is so long that a false match in a run stays under 2^-40.

Reference: [RFC9497] mode OPRF; Kales, Rechberger, Schneider, Senker, Weinert, "Mobile Private Contact Discovery at
Scale", for tokens ahead of time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..channel import Channel, ConfigError, Message, PeerError, PolicyError
from ..ids import Identifiers, repeats
from ..primitives.group import ELEMENT_BYTES, Scalar, hash_multiply, multiply
from ..primitives.randomness import Randomness
from .oprf import HASH_TO_GROUP, outputs
from .token_lists import (
    DIGEST_BYTES,
    PIECE,
    BoolArray,
    Bytes,
    Digest,
    IntArray,
    count_up_to,
    digest,
    is_rising,
    no_tokens,
    pieces,
    places,
    prefixes,
    pseudonyms,
    rising_order,
    token_bytes,
)

Rows = NDArray[np.uint32] | IntArray

NAME_BYTES = 16
SECRET_BYTES = 32
BLOCK = 8192
LIST_BLOCK = 2**16
POSITIONS = 2**18
LEAST_SHARD = 1000
MOST_QUERIES = 2**30
_LONGEST_TOKEN = 32
_AHEAD = 4


@dataclass(frozen=True)
class Epoch(Message):
    """The name of the sender's key, the bytes of a token, how many tokens of this kind there are."""

    key: bytes
    width: int
    tokens: int


@dataclass(frozen=True)
class Asking(Message):
    """How many rows the receiver enters in the round, and for how many of them it has no token yet."""

    rows: int
    new: int


@dataclass(frozen=True)
class Blinded(Message):
    """Up to BLOCK elements b H(x)."""

    elements: bytes


@dataclass(frozen=True)
class Evaluated(Message):
    """Up to BLOCK elements k b H(x), in the order of the blinded ones."""

    elements: bytes


@dataclass(frozen=True)
class Holding(Message):
    """The digest of the list of which the receiver holds a part, or nothing; the prefixes it holds and those it wants.

    Prefixes are one bit each of 2^prefix_bits, the first in the lowest bit.
    """

    version: bytes
    held: bytes
    wanted: bytes


@dataclass(frozen=True)
class Change(Message):
    """How the wanted tokens come about: how many there are, their digest, the digest of all of this kind.

    kept is 1 if the held tokens under wanted prefixes stay but for `removed` of them; else all that are wanted come.
    """

    kept: int
    removed: int
    added: int
    tokens: int
    digest: bytes
    version: bytes


@dataclass(frozen=True)
class Removed(Message):
    """Up to LIST_BLOCK tokens that go, by rising value."""

    tokens: bytes


@dataclass(frozen=True)
class Added(Message):
    """Up to LIST_BLOCK tokens that come, by rising value."""

    tokens: bytes


@dataclass(frozen=True)
class Found(Message):
    """How many tokens the receiver has in common with the sender; 0 when they are under the floor."""

    rows: int


@dataclass(frozen=True)
class Positions(Message):
    """The places of up to POSITIONS common tokens among the wanted ones, rising, in 4 little-endian bytes each."""

    places: bytes


@dataclass(frozen=True)
class Free(Message):
    """One bit for each of up to POSITIONS places, the first in the lowest bit: its row has not matched before."""

    bits: bytes


class TokenSet(Protocol):
    """The sender's tokens of one kind, as they are now."""

    @property
    def tokens(self) -> Bytes:
        """(n, w), sorted."""

    @property
    def rows(self) -> Rows:
        """(n,): the row of each token."""

    @property
    def version(self) -> bytes:
        """`digest(tokens)`."""

    def since(self, version: bytes) -> tuple[Bytes, Bytes] | None:
        """The tokens added and removed, each sorted, since the list of that digest; None if it is not remembered."""


@dataclass(frozen=True)
class Key:
    """The sender's key of an epoch: a name that says nothing, and the bytes of a token. It never prints its scalar."""

    name: bytes
    scalar: Scalar
    width: int


class Sink(Protocol):
    """Takes a list piece by piece and gives it back whole, once it has been checked."""

    def append(self, tokens: Bytes) -> None: ...

    def whole(self) -> Bytes: ...


class MemorySink:
    def __init__(self, width: int) -> None:
        self._pieces: list[Bytes] = [no_tokens(width)]

    def append(self, tokens: Bytes) -> None:
        self._pieces.append(tokens)

    def whole(self) -> Bytes:
        return np.concatenate(self._pieces)


@dataclass
class Held:
    """What the receiver keeps of one kind from run to run of an epoch. Only checked values get in.

    secret: 32 bytes that only the receiver has. names (m, 16): pseudonyms under it of the identifiers that were
    evaluated, sorted; evaluated (m, w): their tokens. tokens (n, w): of the sender's list `version` those under the
    prefixes where `part` (2^bits,) is true.
    """

    secret: bytes = field(repr=False)
    key: bytes = b""
    names: Bytes = field(default_factory=lambda: no_tokens(NAME_BYTES), repr=False)
    evaluated: Bytes = field(default_factory=lambda: no_tokens(0), repr=False)
    tokens: Bytes = field(default_factory=lambda: no_tokens(0), repr=False)
    version: bytes = b""
    part: BoolArray = field(default_factory=lambda: np.zeros(1, np.bool_), repr=False)

    def begin(self, key: bytes, width: int) -> None:
        """Forgets what belongs to another key."""
        if (self.key, self.evaluated.shape[1]) != (key, width):
            self.key, self.version, self.names = key, b"", no_tokens(NAME_BYTES)
            self.evaluated = self.tokens = no_tokens(width)

    def find(self, ids: Identifiers) -> tuple[BoolArray, Bytes]:
        """Which identifiers were evaluated before (n,), and the tokens of those (n, w)."""
        tokens = np.zeros((len(ids), self.evaluated.shape[1]), np.uint8)
        names = pseudonyms(ids.data, ids.offsets, self.secret)
        order = rising_order(names)
        at = np.empty(len(ids), np.int64)
        at[order] = places(names[order], self.names)
        tokens[at >= 0] = self.evaluated[at[at >= 0]]
        return at >= 0, tokens

    def add(self, ids: Identifiers, tokens: Bytes) -> None:
        """Keeps the tokens (n, w) of identifiers that `find` did not know."""
        names = np.concatenate([self.names, pseudonyms(ids.data, ids.offsets, self.secret)])
        order = rising_order(names)
        self.names, self.evaluated = names[order], np.concatenate([self.evaluated, tokens])[order]


@dataclass(frozen=True)
class Refreshed:
    """The matched people, in an order both parties share, and what the run cost.

    rows (m,): this party's row numbers. By kind: how many rows this party and its peer entered in that round (as
    tokens, where it is the sender), how many matched, identifiers evaluated, tokens that came, tokens that went.
    """

    rows: IntArray
    own: dict[str, int]
    peer: dict[str, int]
    matched: dict[str, int]
    asked: dict[str, int]
    added: dict[str, int]
    removed: dict[str, int]


def tokens_of(ids: Identifiers, key: Key) -> Bytes:
    """T_k of the sender's own identifiers, (n, w)."""
    elements = hash_multiply(ids.data, ids.offsets, HASH_TO_GROUP, key.scalar)
    return _matrix(outputs(ids.data, ids.offsets, elements, key.width), key.width)


def check_prefixes(tokens: int, bits: int) -> None:
    """PolicyError where a prefix of so many bits would have fewer than LEAST_SHARD of so many tokens."""
    if bits and tokens >> bits < LEAST_SHARD:
        most = max(0, (tokens // LEAST_SHARD).bit_length() - 1)
        raise PolicyError(
            f"with prefix_bits {bits} a shard would have about {tokens >> bits} tokens, at least {LEAST_SHARD} are due",
            f"propose it with prefix_bits = {most} or less; 0 asks for all shards and tells nothing",
        )


async def receiver(
    channel: Channel,
    ids: Mapping[str, Identifiers],
    held: Mapping[str, Held],
    *,
    kinds: tuple[str, ...],
    floor: int,
    max_rows: int,
    prefix_bits: int,
    randomness: Randomness,
    sink: Callable[[int], Sink] = MemorySink,
) -> Refreshed:
    """Plays the brand. Identifiers of a kind are all different; the peer has at most `max_rows` tokens of each kind.

    What it learns for later runs stays in `held`, also when the run fails after that. `sink` makes the place for a
    list of tokens of that many bytes. Raises PeerError when the sender leaves the protocol, PolicyError when no round
    reaches the floor.
    """
    rounds = _Rounds(kinds, floor)
    for kind in kinds:
        mine, memory = rounds.remaining(ids, kind), held[kind]
        epoch = await channel.recv(Epoch)
        _check_epoch(epoch, max_rows, len(mine))
        check_prefixes(epoch.tokens, prefix_bits)
        memory.begin(epoch.key, epoch.width)
        enters = rounds.enters(kind, len(mine), epoch.tokens)
        known, own = memory.find(mine)
        fresh = mine.take(~known) if enters else mine.take(np.zeros(len(mine), np.bool_))
        await channel.send(Asking(len(mine), len(fresh)))
        if not enters:
            continue
        rounds.asked[kind] = len(fresh)
        if len(fresh):
            evaluated = await _evaluated(channel, fresh, epoch.width, randomness)
            memory.add(fresh, evaluated)
            own[~known] = evaluated
        order = rising_order(own)
        own = own[order]
        if not is_rising(own):
            raise PeerError("the sender's answers give two identifiers the same token")
        wanted = np.ones(1, np.bool_)
        if prefix_bits:
            wanted = np.zeros(2**prefix_bits, np.bool_)
            wanted[prefixes(own, prefix_bits)] = True
        if len(memory.part) != len(wanted):
            memory.version, memory.part = b"", np.zeros(len(wanted), np.bool_)
        await channel.send(Holding(memory.version, _bits(memory.part), _bits(wanted)))
        change = await channel.recv(Change)
        memory.tokens = await _refreshed(channel, memory, change, epoch, wanted, prefix_bits, sink(epoch.width))
        memory.version, memory.part = change.version, wanted
        rounds.added[kind], rounds.removed[kind] = change.added, change.removed
        at = places(own, memory.tokens)
        at, matched = at[at >= 0], order[at >= 0]
        if len(at) < floor:
            await channel.send(Found(0))
            continue
        await channel.send(Found(len(at)))
        for span in _spans(len(at), POSITIONS):
            await channel.send(Positions(at[span].astype("<u4").tobytes()))
        free = np.empty(len(at), np.bool_)
        for span in _spans(len(at), POSITIONS):
            free[span] = _flags((await channel.recv(Free)).bits, len(free[span]), "the free rows")
        rounds.add(kind, mine.rows[matched[free]])
    return rounds.result()


async def sender(
    channel: Channel,
    key: Key,
    sets: Mapping[str, TokenSet],
    *,
    kinds: tuple[str, ...],
    floor: int,
    max_rows: int,
    prefix_bits: int,
    charge: Callable[[int], None],
) -> Refreshed:
    """Plays the media; see `receiver`, which may enter at most `max_rows`.

    `charge(n)` spends n of the key's budget before n identifiers are evaluated under it, or raises PolicyError.
    """
    rounds = _Rounds(kinds, floor)
    for kind in kinds:
        mine = sets[kind]
        await channel.send(Epoch(key.name, key.width, len(mine.tokens)))
        check_prefixes(len(mine.tokens), prefix_bits)
        asking = await channel.recv(Asking)
        if asking.rows > max_rows:
            raise PeerError(f"the receiver enters {asking.rows} rows, its data set has {max_rows} by the contract")
        enters = rounds.enters(kind, len(mine.tokens), asking.rows)
        if asking.new > (asking.rows if enters else 0):
            raise PeerError(f"the receiver asks for {asking.new} identifiers and enters {asking.rows} rows")
        if not enters:
            continue
        if token_bytes(asking.rows, len(mine.tokens)) > key.width:
            raise ConfigError(
                f"tokens of {key.width} bytes are too short for {asking.rows} rows of the partner",
                "build them for a new epoch with a larger --for-rows",
            )
        rounds.asked[kind] = asking.new
        if asking.new:
            charge(asking.new)
        for span in _spans(asking.new, BLOCK):
            size = (span.stop - span.start) * ELEMENT_BYTES
            blinded = _exactly((await channel.recv(Blinded)).elements, size, "blinded elements")
            if not is_rising(_sorted(_matrix(blinded, ELEMENT_BYTES))):
                raise PeerError("the receiver sent a blinded element twice")
            await channel.send(Evaluated(multiply(blinded, key.scalar)))
        holding = await channel.recv(Holding)
        shown, at_place = await _show(channel, mine, holding, prefix_bits, rounds, kind)
        size, most = (await channel.recv(Found)).rows, min(asking.rows, shown)
        if size == 0:
            continue
        if not floor <= size <= most:
            raise PeerError(f"the receiver found {size} rows, 0 or {floor} to {most} were possible")
        found = np.empty(size, np.int64)
        for span in _spans(size, POSITIONS):
            came = _exactly((await channel.recv(Positions)).places, len(found[span]) * 4, "positions")
            found[span] = np.frombuffer(came, "<u4")
        if np.any(found[1:] <= found[:-1]) or found[-1] >= shown:
            raise PeerError("the receiver's positions do not rise, or go past the last token")
        rows = np.asarray(mine.rows[found if at_place is None else at_place[found]], np.int64)
        free = ~np.isin(rows, rounds.rows)
        for span in _spans(size, POSITIONS):
            await channel.send(Free(_bits(free[span])))
        rounds.add(kind, rows[free])
    return rounds.result()


async def _evaluated(channel: Channel, ids: Identifiers, width: int, randomness: Randomness) -> Bytes:
    """T_k of the identifiers, (n, w), with the sender's help; a few blocks are under way at any time."""
    blinding = Scalar.random(randomness)
    unblinding = blinding.inverse()
    blocks = list(ids.blocks(BLOCK))
    tokens = np.empty((len(ids), width), np.uint8)

    async def ask(i: int) -> None:
        if i < len(blocks):
            await channel.send(Blinded(hash_multiply(blocks[i].data, blocks[i].offsets, HASH_TO_GROUP, blinding)))

    for i in range(_AHEAD):
        await ask(i)
    for i, (span, block) in enumerate(zip(_spans(len(ids), BLOCK), blocks, strict=True)):
        evaluated = _exactly((await channel.recv(Evaluated)).elements, len(block) * ELEMENT_BYTES, "evaluated elements")
        await ask(i + _AHEAD)
        elements = multiply(evaluated, unblinding)
        tokens[span] = _matrix(outputs(block.data, block.offsets, elements, width), width)
    return tokens


async def _show(
    channel: Channel, mine: TokenSet, holding: Holding, bits: int, rounds: _Rounds, kind: str
) -> tuple[int, IntArray | None]:
    """Sends what the receiver lacks. Gives how many tokens it has then, and the place of each here (None: the same)."""
    held = _flags(holding.held, 2**bits, "the held prefixes")
    wanted = _flags(holding.wanted, 2**bits, "the wanted prefixes")
    if len(holding.version) not in (0, DIGEST_BYTES) or (not bits and not wanted[0]):
        raise PeerError("the receiver holds a list without a name, or wants no token at all")
    tokens, at_place, named = mine.tokens, None, mine.version
    if bits:
        at_place = np.concatenate(
            [i * PIECE + np.flatnonzero(wanted[prefixes(piece, bits)]) for i, piece in enumerate(pieces(tokens))]
        )
        tokens = tokens[at_place]
        named = digest(tokens)
    no_change = no_tokens(tokens.shape[1]), no_tokens(tokens.shape[1])
    since = None
    if holding.version and np.any(held & wanted):
        since = no_change if holding.version == mine.version else mine.since(holding.version)
    added, removed = tokens, no_change[1]
    if since is not None:
        added, removed = since
        if bits:
            kept = held & wanted
            removed = removed[kept[prefixes(removed, bits)]]
            added = tokens[~kept[prefixes(tokens, bits)] | (places(tokens, added) >= 0)]
    rounds.added[kind], rounds.removed[kind] = len(added), len(removed)
    await channel.send(Change(int(since is not None), len(removed), len(added), len(tokens), named, mine.version))
    for span in _spans(len(removed), LIST_BLOCK):
        await channel.send(Removed(np.asarray(removed[span]).tobytes()))
    for span in _spans(len(added), LIST_BLOCK):
        await channel.send(Added(np.asarray(added[span]).tobytes()))
    return len(tokens), at_place


async def _refreshed(
    channel: Channel, memory: Held, change: Change, epoch: Epoch, wanted: BoolArray, bits: int, sink: Sink
) -> Bytes:
    """The wanted tokens, checked: the ones held before without those that go, and those that come."""
    old = no_tokens(epoch.width)
    if change.kept and not memory.version:
        raise PeerError("the sender changes a list that was never held")
    if change.kept:
        kept = memory.part & wanted
        old = memory.tokens if not bits else memory.tokens[kept[prefixes(memory.tokens, bits)]]
    whole = change.tokens == epoch.tokens or (bits > 0 and change.tokens < epoch.tokens)
    adds_up = len(old) - change.removed + change.added == change.tokens
    if not whole or not adds_up or change.removed > len(old) or len(change.digest) != DIGEST_BYTES:
        raise PeerError("the sender's change does not lead from the tokens held here to as many as it has")
    if len(change.version) != DIGEST_BYTES or (not bits and change.version != change.digest):
        raise PeerError("the sender's tokens have another digest than its list")
    removed = np.empty((change.removed, epoch.width), np.uint8)
    for span in _spans(change.removed, LIST_BLOCK):
        removed[span] = _list_block((await channel.recv(Removed)).tokens, removed[span])
    if not is_rising(removed):
        raise PeerError("the sender's removed tokens do not rise")
    merge = _Merge(old, removed, sink)
    for span in _spans(change.added, LIST_BLOCK):
        empty = np.empty((span.stop - span.start, epoch.width), np.uint8)
        block = _list_block((await channel.recv(Added)).tokens, empty)
        if not np.all(wanted[prefixes(block, bits)]):
            raise PeerError("the sender sent tokens of a prefix that was not asked for")
        merge.add(block)
    merge.finish()
    if merge.digest.value() != change.digest:
        raise PeerError("the tokens do not have the digest that the sender gave")
    return sink.whole()


class _Merge:
    """Makes a new list out of an old one, tokens that go and blocks of tokens that come, in pieces and checked."""

    def __init__(self, old: Bytes, removed: Bytes, sink: Sink) -> None:
        self._old, self._removed, self._sink = old, removed, sink
        self._at, self._dropped = 0, 0
        self._last = no_tokens(old.shape[1])
        self.digest = Digest()

    def add(self, block: Bytes) -> None:
        below = count_up_to(self._old, block[-1])
        while below - self._at > PIECE:
            end = self._at + PIECE
            cut = count_up_to(block, self._old[end - 1])
            self._put(end, block[:cut])
            block = block[cut:]
        self._put(max(below, self._at), block)

    def finish(self) -> None:
        while self._at < len(self._old):
            self._put(min(self._at + PIECE, len(self._old)), no_tokens(self._old.shape[1]))
        if self._dropped != len(self._removed):
            raise PeerError("the sender removes tokens that are not held here")

    def _put(self, end: int, added: Bytes) -> None:
        """The old tokens up to `end`, less the removed ones, and these."""
        stays = np.asarray(self._old[self._at : end])
        self._at = end
        if len(stays) and len(self._removed):
            gone = places(self._removed, stays)
            gone = gone[gone >= 0]
            self._dropped += len(gone)
            stays = np.delete(stays, gone, axis=0)
        piece = np.concatenate([stays, added])
        if len(stays) and len(added):
            piece = piece[rising_order(piece)]
        if not is_rising(np.concatenate([self._last, piece])):
            raise PeerError("the sender's tokens do not rise, or one comes twice")
        if len(piece):
            self._last = piece[-1:]
            self.digest.update(piece)
            self._sink.append(piece)


class _Rounds:
    """What the rounds so far have matched, in the counts that both sides know."""

    def __init__(self, kinds: tuple[str, ...], floor: int) -> None:
        self._floor = floor
        self._own: dict[str, int] = {}
        self._peer: dict[str, int] = {}
        self._matched: dict[str, int] = dict.fromkeys(kinds, 0)
        self.rows = np.empty(0, np.int64)
        self.asked, self.added, self.removed = (dict.fromkeys(kinds, 0) for _ in range(3))

    def remaining(self, ids: Mapping[str, Identifiers], kind: str) -> Identifiers:
        """The identifiers of this kind whose rows no round has matched yet."""
        if kind not in ids:
            raise ConfigError(
                f"no identifiers of kind {kind!r} are at hand", "register the data set with a key of that kind"
            )
        if repeats(ids[kind]).any():
            raise ConfigError(f"two rows have the same {kind}", "keep the first of each, or one row per person")
        return ids[kind].take(~np.isin(ids[kind].rows, self.rows)) if len(self.rows) else ids[kind]

    def enters(self, kind: str, own: int, peer: int) -> bool:
        """Notes the sizes of a round; false when they cannot reach the floor."""
        self._own[kind], self._peer[kind] = own, peer
        return min(own, peer) >= self._floor

    def add(self, kind: str, rows: IntArray) -> None:
        """Both sides know how many these are: fewer than the floor are left out at both."""
        if len(rows) >= self._floor:
            self._matched[kind] = len(rows)
            self.rows = np.concatenate([self.rows, rows])

    def result(self) -> Refreshed:
        # The same text for every size under the floor, at both parties.
        if not len(self.rows):
            raise PolicyError(
                f"fewer than {self._floor} people matched, so no result is kept",
                "check that both sides have the right keys and countries, or enter more people",
            )
        return Refreshed(self.rows, self._own, self._peer, self._matched, self.asked, self.added, self.removed)


def _check_epoch(epoch: Epoch, max_rows: int, rows: int) -> None:
    if epoch.tokens > max_rows:
        raise PeerError(f"the sender has {epoch.tokens} tokens, its data set has {max_rows} rows by the contract")
    least = token_bytes(rows, epoch.tokens)
    if len(epoch.key) != NAME_BYTES or not least <= epoch.width <= _LONGEST_TOKEN:
        raise PeerError(
            f"expected a key's name of {NAME_BYTES} bytes and tokens of {least} to {_LONGEST_TOKEN} bytes, "
            f"{len(epoch.key)} and {epoch.width} came"
        )


def _list_block(data: bytes, like: Bytes) -> Bytes:
    return _matrix(_exactly(data, like.size, "tokens"), like.shape[1])


def _sorted(items: Bytes) -> Bytes:
    return items[rising_order(items)]


def _spans(n: int, size: int) -> list[slice]:
    return [slice(begin, min(begin + size, n)) for begin in range(0, n, size)]


def _exactly(data: bytes, n: int, what: str) -> bytes:
    if len(data) != n:
        raise PeerError(f"{what}: {n} bytes were expected, {len(data)} came")
    return data


def _matrix(data: bytes, width: int) -> Bytes:
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def _bits(flags: BoolArray) -> bytes:
    return np.packbits(flags, bitorder="little").tobytes()


def _flags(bits: bytes, n: int, what: str) -> BoolArray:
    unpacked = np.unpackbits(np.frombuffer(_exactly(bits, -(-n // 8), what), np.uint8), bitorder="little")
    if np.any(unpacked[n:]):
        raise PeerError(f"{what}: a bit after the last one is set")
    return unpacked[:n].astype(np.bool_)
