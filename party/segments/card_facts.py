"""Cards as the report and cards.json have them: everybody, then each segment, with an index of 100 for everybody."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tidegate.protocols.clustering.cards import FloatArray, Trait


def traits(party: str, found: Sequence[Trait]) -> list[dict[str, Any]]:
    """For each column of a party what everybody is like in it, and each segment in the order of their numbers.

    all and segments: means of numbers ([mean]), percents of each label; null where withheld. at_least: percents that
    are lower bounds. index: as `_index`. deviation: in standard deviations of everybody.
    """
    return [
        {
            "party": party,
            "name": trait.name,
            "kind": trait.kind,
            "labels": list(trait.labels),
            "all": _listed(trait.values[0]),
            "segments": [_listed(row) for row in trait.values[1:]],
            "at_least": [[bool(each) for each in row] for row in trait.at_least[1:]],
            "index": [_listed(row) for row in _index(trait)],
            "deviation": [_listed(row) for row in trait.deviations],
        }
        for trait in found
    ]


def _index(trait: Trait) -> FloatArray:
    """100 times each segment's value by everybody's, whole: (k, m); NaN for dates and where a mean is below 0."""
    everybody = trait.values[0]
    if trait.kind == "date" or bool(np.nanmin(trait.values, initial=0.0) < 0):
        return np.full(trait.deviations.shape, math.nan)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        index: FloatArray = np.rint(100 * trait.values[1:] / everybody)
    index[~np.isfinite(index)] = math.nan
    return index


def _listed(values: FloatArray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
