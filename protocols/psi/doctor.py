"""How many people would match if the two sides wrote their identifiers otherwise: sizes only, on a keyed sample.

For each kind of key both describe their column, which settles the form in which it can be compared, and draw the
same sample (`variants`). X_a are the receiver's sampled identifiers in its variant a, Y_b the sender's in its variant
b; the fillers F_0, F_1, ... are names that are nobody's, D = SPREAD * noise of them on each side:

    receiver (brand: X_a)                               sender (media: Y_b)
                                 -- Column -->
                                 <-- Column --
                                 -- Entered -->
                                 <-- Entered --               how many identifiers in each variant
    for each a and b that can be compared, with fresh keys:
      X_a, F_0 .. F_D-1                                       N at random; Y_b, F_D-N .. F_2D-N-1, in a secret order
                           -- one round of the engine --      never opened
      c = positions found - D / 2
    at the end of all kinds:
                                 -- Counted -->               each c, 0 for anything under the floor

What each learns. Both: what the peer's columns look like in whole percents (`Column`), how many of its sampled
identifiers each variant holds, none where they are under the floor, and for each pair of variants the number that
match, none where it is under the floor. The receiver holds these numbers as they are, each with noise of its own that
the sender makes: N - D / 2 is drawn from the discrete Gaussian of the contract, cut off at SPREAD / 2 standard
deviations. An engine's round that is not opened tells the receiver a number and the sender nothing (`engine`), and as
each pair is a round of its own under fresh keys, no two can be laid over each other: the numbers are all that leaves,
and which rows match nobody learns.

Assumption: both follow the protocol, enter their own rows, and the receiver its fillers. A receiver that leaves them
out sees counts without noise.

Reference: the engine's own. Fillers are the usual way to make a size differentially private against who counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..channel import Channel, Message, PeerError
from ..ids import Identifiers
from ..primitives.randomness import Randomness
from . import variants
from .engine import Engine

IntArray = NDArray[np.int64]
Noise = Callable[[int], IntArray]

SPREAD = 12
_FILLER = b"tidegate doctor filler v1\0"


@dataclass(frozen=True)
class Column(Message):
    """A key column in whole percents of its rows, 0 for what fewer rows than the floor have.

    As in `variants.Shape`; valid counts digests in. given is the form that its owner registered it in, form what it
    is written as. region reads its phone numbers, country is where most of those with a country code are from: two
    letters, or nothing.
    """

    kind: str
    given: str
    form: str
    clear: int
    sha256: int
    md5: int
    sha1: int
    valid: int
    rounded: int
    missing: int
    region: str
    country: str

    @classmethod
    def of(cls, kind: str, given: str, shape: variants.Shape, region: str | None, floor: int) -> Column:
        """What may be told of a column."""
        form = shape.form if given == "clear" else given
        hashed = shape.sha256 + shape.md5
        rows = max(shape.clear + hashed + shape.sha1 + shape.missing, 1)

        def percent(count: int) -> int:
            return round(100 * count / rows) if count >= floor else 0

        return cls(
            kind=kind,
            given=given,
            form=form,
            clear=percent(shape.clear),
            sha256=percent(shape.sha256),
            md5=percent(shape.md5),
            sha1=percent(shape.sha1),
            valid=percent(shape.valid if form == "clear" else hashed),
            rounded=percent(shape.rounded),
            missing=percent(shape.missing),
            region=(region or "").upper(),
            country=shape.country if shape.clear >= floor else "",
        )


def other_region(own: Column, peer: Column) -> str:
    """What else a party's phone numbers may be read by than its own region; empty where nothing suggests any."""
    likely = (peer.region, own.country, peer.country)
    return next((region for region in likely if region not in ("", own.region)), "")


@dataclass(frozen=True)
class Entered(Message):
    """How many identifiers each variant holds, 8 bytes each, in the order of `variants.names`."""

    rows: bytes


@dataclass(frozen=True)
class Counted(Message):
    """What every pair of variants of every kind came to, 8 bytes each; 0 for anything under the floor."""

    counts: bytes


@dataclass(frozen=True)
class Compared:
    """One kind of key, as both parties know it in the end.

    form: what was compared, empty where the two columns have none in common. brand and media: how many sampled
    identifiers each variant held. counts: (brand's variant, media's variant) -> how many matched, 0 under the floor.
    """

    form: str
    brand_column: Column
    media_column: Column
    brand: dict[str, int]
    media: dict[str, int]
    counts: dict[tuple[str, str], int]


@dataclass(frozen=True)
class Settings:
    """What both sides go by: form of each kind of key by the contract, the floor, the noise, the largest sample."""

    forms: Mapping[str, str]
    floor: int
    noise_sd: int
    max_rows: int

    @property
    def fillers(self) -> int:
        return SPREAD * self.noise_sd


Enter = Callable[[str, str, Column], Mapping[str, Identifiers]]
"""(kind, form, the peer's column) -> this party's sampled identifiers by variant, each all different."""


async def receiver(
    channel: Channel,
    columns: Mapping[str, Column],
    enter: Enter,
    *,
    engine: Engine,
    settings: Settings,
    randomness: Randomness,
) -> dict[str, Compared]:
    """Plays the brand: columns by kind, in an order that both share.

    Raises PeerError when the sender leaves the protocol.
    """
    kinds: list[_Kind] = []
    for kind, column in columns.items():
        await channel.send(column)
        theirs = _checked_column(await channel.recv(Column), kind)
        kinds.append(made := _Kind.of(settings, column, theirs, enter, is_brand=True))
        await channel.send(Entered(made.entered()))
        made.peer = _checked_sizes((await channel.recv(Entered)).rows, made.names, settings)
        for mine, other in made.pairs():
            x = _with_fillers(made.groups[mine], 0, settings.fillers)
            n = made.peer[other] + settings.fillers
            compared = await engine.compare(channel, x, kind=kind, theirs=n, randomness=randomness)
            found = len(compared.positions) - settings.fillers // 2
            made.counts[mine, other] = found if found >= settings.floor else 0
    counted = [count for made in kinds for count in made.counts.values()]
    await channel.send(Counted(np.array(counted, "<i8").tobytes()))
    return {made.kind: made.compared() for made in kinds}


async def sender(
    channel: Channel,
    columns: Mapping[str, Column],
    enter: Enter,
    *,
    engine: Engine,
    settings: Settings,
    noise: Noise,
    randomness: Randomness,
) -> dict[str, Compared]:
    """Plays the media; noise gives integers of the contract's distribution. See `receiver`."""
    kinds: list[_Kind] = []
    for kind, column in columns.items():
        theirs = _checked_column(await channel.recv(Column), kind)
        await channel.send(column)
        kinds.append(made := _Kind.of(settings, column, theirs, enter, is_brand=False))
        made.peer = _checked_sizes((await channel.recv(Entered)).rows, made.names, settings)
        await channel.send(Entered(made.entered()))
        for other, mine in made.pairs():
            hidden = int(np.clip(settings.fillers // 2 + int(noise(1)[0]), 0, settings.fillers))
            y = _with_fillers(made.groups[mine], settings.fillers - hidden, settings.fillers)
            n = made.peer[other] + settings.fillers
            order = randomness.permutation(len(y)).astype(np.uint32)
            await engine.answer(channel, y, kind=kind, theirs=n, order=order, randomness=randomness)
            made.counts[other, mine] = 0
    places = [(made, pair) for made in kinds for pair in made.counts]
    came = _exactly((await channel.recv(Counted)).counts, 8 * len(places), "counts")
    for (made, (other, mine)), count in zip(places, np.frombuffer(came, "<i8").tolist(), strict=True):
        most = min(made.peer[other], len(made.groups[mine])) + settings.fillers // 2
        if count and not settings.floor <= count <= most:
            raise PeerError(f"the receiver counted {count} matches, 0 or {settings.floor} to {most} were possible")
        made.counts[other, mine] = count
    return {made.kind: made.compared() for made in kinds}


def common_form(contract_form: str, one: str, other: str) -> str:
    """In which form two columns can be compared that are written in these: a digest cannot be turned back.

    Empty where there is none: two kinds of digest, or one that the contract knows no name for.
    """
    forms = {one, other} - {"clear"} or {contract_form}
    form = forms.pop()
    return form if not forms and form in variants.FORMS else ""


@dataclass
class _Kind:
    """One kind of key while it is being compared; counts are by (brand's variant, media's variant)."""

    kind: str
    form: str
    columns: tuple[Column, Column]
    is_brand: bool
    names: tuple[str, ...]
    groups: dict[str, Identifiers]
    peer: dict[str, int]
    counts: dict[tuple[str, str], int]

    @classmethod
    def of(cls, settings: Settings, mine: Column, theirs: Column, enter: Enter, *, is_brand: bool) -> _Kind:
        """What this party enters now that it knows the peer's column; the peer's sizes are still to come."""
        kind = mine.kind
        form = common_form(settings.forms[kind], mine.form, theirs.form)
        groups = enter(kind, form, theirs) if form else {}
        # A group under the floor is not entered at all.
        kept = {name: ids for name, ids in groups.items() if len(ids) >= settings.floor}
        names = variants.names(kind, form) if form else ()
        columns = (mine, theirs) if is_brand else (theirs, mine)
        return cls(kind, form, columns, is_brand, names, kept, {}, {})

    def entered(self) -> bytes:
        return np.array([len(self.groups.get(name, ())) for name in self.names], "<i8").tobytes()

    def pairs(self) -> list[tuple[str, str]]:
        """(brand's variant, media's variant) of what is compared; both parties find the same."""
        brand, media = (self.groups, self.peer) if self.is_brand else (self.peer, self.groups)
        return [
            (one, other)
            for one in self.names
            for other in self.names
            if one in brand and other in media and variants.is_comparable(self.kind, self.form, one, other)
        ]

    def compared(self) -> Compared:
        own = {name: len(ids) for name, ids in self.groups.items()}
        brand, media = (own, self.peer) if self.is_brand else (self.peer, own)
        return Compared(self.form, *self.columns, brand, media, self.counts)


def _checked_column(column: Column, kind: str) -> Column:
    if column.kind != kind:
        raise PeerError(f"the peer describes its column of another key than {kind}")
    shares = (column.clear, column.sha256, column.md5, column.sha1, column.valid, column.rounded, column.missing)
    if max(shares) > 100 or column.form not in (*variants.FORMS, "sha1") or column.given not in variants.FORMS:
        raise PeerError(f"the peer's description of its {kind} column is none: percents and a known form were expected")
    for region in (column.region, column.country):
        if region and not (len(region) <= 3 and region.isascii() and region.isalnum() and region.isupper()):
            raise PeerError(f"the peer's description of its {kind} column names no region: two letters were expected")
    return column


def _checked_sizes(rows: bytes, names: Sequence[str], settings: Settings) -> dict[str, int]:
    """The peer's groups that are not empty."""
    sizes = np.frombuffer(_exactly(rows, 8 * len(names), "sizes of the groups"), "<i8").tolist()
    for size in sizes:
        if size and not settings.floor <= size <= settings.max_rows:
            raise PeerError(
                f"the peer enters {size} identifiers in a variant, 0 or {settings.floor} to {settings.max_rows} "
                "were possible by the contract's sample"
            )
    return {name: size for name, size in zip(names, sizes, strict=True) if size}


def _with_fillers(ids: Identifiers, start: int, n: int) -> Identifiers:
    """The identifiers and fillers start .. start + n - 1 after them."""
    names = [_FILLER + i.to_bytes(8, "little") for i in range(start, start + n)]
    lengths = np.full(n, len(_FILLER) + 8, np.int64)
    offsets = np.concatenate([ids.offsets, ids.offsets[-1] + np.cumsum(lengths)])
    return Identifiers(ids.data + b"".join(names), offsets, np.arange(len(ids) + n, dtype=np.int64))


def _exactly(data: bytes, n: int, what: str) -> bytes:
    if len(data) != n:
        raise PeerError(f"{what}: {n} bytes were expected, {len(data)} came")
    return data
