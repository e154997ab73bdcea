"""What the doctor's counts mean for people: how many would match each way, and who should change what.

Pure: from what both parties know in the end (`Compared`) to tables and sentences, the same at both.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tidegate.protocols.psi import variants
from tidegate.protocols.psi.doctor import Column, Compared, other_region
from tidegate.wire.contract import Key

Facts = dict[str, Any]

# A difference counts when it is this share of the smaller side's sample, and beyond the noise of two counts.
_TELLING_SHARE, _TELLING_SD = 0.01, 4 * math.sqrt(2)
_Z95 = 1.96
_MIXED, _INVALID = 5, 10
_NAMES = {"email": "e-mail", "phone": "phone", "device": "device", "text": "text"}
_FORMS = {"sha256": "SHA-256", "md5": "MD5", "sha1": "SHA-1"}
_AGAIN = "register the data set again"

_SPELLED = {
    ("email", "unwrapped"): "the address taken out of what surrounds it",
    ("email", "google"): "no dots or +tags at gmail.com",
    ("email", "googlemail"): "googlemail.com as gmail.com",
    ("email", "tagless"): "no +tags anywhere",
    ("email", "loose"): "without dots, +tags and whatever surrounds it",
    ("phone", "region"): "read by the other region's rules",
    ("phone", "plus"): "a plus put before the country code",
    ("phone", "spreadsheet"): "undone what a spreadsheet does to numbers",
    ("phone", "loose"): "the last 8 digits alone",
    ("phone", "with plus"): "country code with a plus",
    ("phone", "without plus"): "country code without a plus",
    ("phone", "national"): "no country code, a leading zero",
    ("phone", "bare"): "neither country code nor leading zero",
    ("device", "unwrapped"): "the id taken out of what surrounds it",
    ("device", "hyphened"): "lower case with hyphens",
    ("device", "upper hyphened"): "upper case with hyphens",
    ("device", "bare"): "lower case without hyphens",
    ("device", "upper bare"): "upper case without hyphens",
    ("text", "case"): "in lower case",
    ("text", "blanks"): "letters and digits alone",
    ("text", "accents"): "without accents",
    ("text", "zeros"): "without leading zeros",
    ("text", "decimals"): "without .0 at the end",
    ("text", "loose"): "without case, marks, accents and leading zeros",
}

_REMEDIES = {
    ("email", "unwrapped"): "its e-mail column holds more than addresses (names, mailto:, brackets): "
    f"keep the address alone, then {_AGAIN}",
    ("email", "googlemail"): f"write addresses at googlemail.com as gmail.com, then {_AGAIN}",
    ("phone", "plus"): "its numbers have a country code without a plus: write +31612345678 and not 31612345678, "
    f"then {_AGAIN}",
    ("phone", "spreadsheet"): "a spreadsheet took its phone numbers for amounts (like 31612345678.0): "
    f"export the column as text, then {_AGAIN}",
    ("device", "unwrapped"): "its device column holds more than ids (idfa:, urn:uuid:, quotes): keep the id alone, "
    f"then {_AGAIN}",
    ("text", "case"): f"write its text column in lower case, as the other side does, then {_AGAIN}",
    ("text", "blanks"): "leave out blanks, hyphens and other marks in its text column, as the other side does, "
    f"then {_AGAIN}",
    ("text", "accents"): f"write its text column without accents, as the other side does, then {_AGAIN}",
    ("text", "zeros"): "its values start with zeros that the other side has lost: have them put back there, or leave "
    f"them out here, then {_AGAIN}",
    ("text", "decimals"): "its customer numbers end in .0, as spreadsheets write them: export the column as text, "
    f"then {_AGAIN}",
}
# Variants that a profile writes: the campaign decides, not a side.
_PROFILES = {
    ("email", "google"): "google",
    ("email", "tagless"): "tiktok",
    ("phone", "with plus"): "plain",
    ("phone", "without plus"): "meta",
}


def spelled(kind: str, name: str) -> str:
    """A variant in words."""
    if name == variants.CONTRACT:
        return "as the campaign says"
    if name == variants.WRITTEN:
        return "as it is written, untouched"
    return _SPELLED[kind, name]


@dataclass(frozen=True)
class Names:
    """What the two sides are called, and how many rows each has."""

    brand: str
    media: str
    brand_rows: int
    media_rows: int


@dataclass(frozen=True)
class Scale:
    """How a count on the sample becomes one of all: the share that is drawn, the counts' noise, the floor."""

    rate: float
    noise_sd: int
    floor: int

    def estimate(self, count: int) -> Facts:
        """Matches among all people with a 95 % interval; None for a count under the floor."""
        if not count:
            return {"matches": None, "low": None, "high": None}
        sd = math.sqrt(count * (1 - self.rate) + self.noise_sd**2)
        low, high = max(count - _Z95 * sd, 0), count + _Z95 * sd
        return {"matches": self.whole(count), "low": self.whole(low), "high": self.whole(high)}

    def whole(self, count: float) -> int:
        return round(count / self.rate)


def diagnose(key: Key, found: Compared, names: Names, scale: Scale) -> Facts:
    """Everything the report shows of one kind of key: the columns, each pair of spellings, and advice."""
    agreed = found.counts.get((variants.CONTRACT, variants.CONTRACT), 0) if found.form == key.form else 0
    telling = max(
        scale.floor,
        _TELLING_SD * scale.noise_sd,
        _TELLING_SHARE * min((*found.brand.values(), *found.media.values()), default=0),
    )
    best = _best(found, agreed, telling)
    advice = [*_form_advice(key, found, names)]
    if best is not None:
        gain = found.counts[best] - agreed
        if gain > telling:
            advice += _spelling_advice(key, found, names, best)
            if advice:
                more = scale.whole(gain)
                share = 100 * more / names.brand_rows
                advice[-1]["more"] = more
                advice[-1]["text"] += f"; about {more:,} more people would match then, {share:.0f} % of the brand's"
    advice += _loose_advice(key, found, names, scale, best, agreed, telling)
    for side, column in ((names.brand, found.brand_column), (names.media, found.media_column)):
        advice += _column_advice(key.kind, side, column, is_advised=any(each["side"] == side for each in advice))
    shown = [
        {
            "brand": spelled(key.kind, one),
            "media": spelled(key.kind, other),
            "is_agreed": (one, other) == (variants.CONTRACT, variants.CONTRACT) and found.form == key.form,
            "is_best": (one, other) == best,
            **scale.estimate(count),
        }
        for (one, other), count in found.counts.items()
    ]
    return {
        "kind": key.kind,
        "profile": key.profile,
        "agreed_form": key.form,
        "form": found.form,
        "columns": {"brand": _shown(found.brand_column), "media": _shown(found.media_column)},
        "pairs": shown,
        "agreed": scale.estimate(agreed),
        "best": scale.estimate(found.counts[best] if best else 0),
        "advice": advice,
    }


def _shown(column: Column) -> Facts:
    return {name: value for name, value in asdict(column).items() if name != "kind"}


def _best(found: Compared, agreed: int, telling: float) -> tuple[str, str] | None:
    """The pair that matches most and that somebody can act on; of about equal ones the one that changes least."""
    counts = {pair: count for pair, count in found.counts.items() if variants.LOOSE not in pair and count}
    if not counts:
        return None
    most = max(counts.values())
    near = [pair for pair, count in counts.items() if count >= most - telling / 2]
    if most - agreed <= telling:
        own = (variants.CONTRACT, variants.CONTRACT)
        return own if own in counts else near[0]
    return min(near, key=lambda pair: sum(name != variants.CONTRACT for name in pair))


def _spelling_advice(key: Key, found: Compared, names: Names, best: tuple[str, str]) -> list[Facts]:
    """Who changes what so that the two sides write as in the best pair."""
    advice: list[Facts] = []
    for side, other, name, column, peer in (
        (names.brand, names.media, best[0], found.brand_column, found.media_column),
        (names.media, names.brand, best[1], found.media_column, found.brand_column),
    ):
        if name == variants.CONTRACT:
            continue
        profile = _PROFILES.get((key.kind, name))
        if profile is not None:
            text = f'add profile = {{ {key.kind} = "{profile}" }} to [match]: {spelled(key.kind, name)}'
            if not any(each["text"] == text for each in advice):
                advice.append({"side": names.brand, "text": text})
        elif name == "region":
            region, had = other_region(column, peer), f"not {column.region}" if column.region else "and have none"
            text = f"{_AGAIN} with --region {region}: its phone numbers need that region, {had}"
            advice.append({"side": side, "text": text})
        elif found.form != "clear":
            text = (
                f"its {_NAMES[key.kind]} digests are of another spelling ({spelled(key.kind, name)}): have them made "
                f"of what the campaign's profile writes, then {_AGAIN}"
            )
            advice.append({"side": other, "text": text})
        else:
            advice.append({"side": side, "text": _REMEDIES[key.kind, name]})
    return advice


def _form_advice(key: Key, found: Compared, names: Names) -> list[Facts]:
    """What to do where one side holds digests and the campaign does not say so."""
    columns = {names.brand: found.brand_column, names.media: found.media_column}
    holders = {name: column.form for name, column in columns.items() if column.form != "clear"}
    what = _NAMES[key.kind]
    if not found.form:
        held = " and ".join(f"{name}'s {_FORMS[form]} digests" for name, form in holders.items())
        hint = f"give {what} columns in the clear, or hashed the same way (SHA-256) at both sides"
        return [{"side": name, "text": f"{held} cannot be compared: {hint}"} for name in holders]
    advice: list[Facts] = []
    if found.form == key.form:
        return advice
    for name, form in holders.items():
        if columns[name].given != form:
            text = f"its {what} column holds {_FORMS[form]} digests: {_AGAIN} with --hashed {key.kind}={form}"
            advice.append({"side": name, "text": text})
    held = " and ".join(f"{name}'s" for name in holders)
    text = (
        f'add hashed = {{ {key.kind} = "{found.form}" }} to [match]: {held} column holds {_FORMS[found.form]} digests'
    )
    return [*advice, {"side": names.brand, "text": text}]


def _loose_advice(
    key: Key,
    found: Compared,
    names: Names,
    scale: Scale,
    best: tuple[str, str] | None,
    agreed: int,
    telling: float,
) -> list[Facts]:
    """People whom only a form that is too loose to match on brings together: what is left to find by eye."""
    loose = max((count for pair, count in found.counts.items() if variants.LOOSE in pair), default=0)
    left = loose - max(found.counts[best] if best else 0, agreed)
    if left <= telling:
        return []
    brand, media = found.brand_column, found.media_column
    side = names.brand if brand.valid <= media.valid else names.media
    text = (
        f"about {scale.whole(left):,} more people would match with {spelled(key.kind, variants.LOOSE)}, which is too "
        f"loose to match on: compare how some of its {_NAMES[key.kind]} values are written with what the profile asks"
    )
    return [{"side": side, "text": text}]


def _column_advice(kind: str, name: str, column: Column, *, is_advised: bool) -> list[Facts]:
    """What a column's own figures show; that values are invalid only where nothing says yet what to do about them."""
    what, advice = _NAMES[kind], []
    if column.rounded:
        text = (
            f"{column.rounded} % of its {what} values were rounded by a spreadsheet (like 3.16E+10), which cannot be "
            "undone: export them again, as text"
        )
        advice.append({"side": name, "text": text})
    forms = {_FORMS.get(form, "clear text"): getattr(column, form) for form in ("clear", "sha256", "md5", "sha1")}
    mixed = [f"{share} % {form}" for form, share in forms.items() if share >= _MIXED]
    if len(mixed) > 1:
        text = f"its {what} column mixes {' and '.join(mixed)}: put each into a column of its own"
        advice.append({"side": name, "text": text})
    elif not is_advised and column.form == "clear" and column.clear - column.valid - column.rounded >= _INVALID:
        text = (
            f"{column.clear - column.valid} % of its {what} values are not valid and match nobody: "
            "`tidegate party data add` shows their shapes"
        )
        advice.append({"side": name, "text": text})
    return advice
