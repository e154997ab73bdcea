"""Whether a contract between clients keeps the rules: each looks at all of it before it signs and before a run."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from tidegate.protocols.channel import DisagreementError, PolicyError
from tidegate.wire.contract import LEAST_CLIENTS, Contract, Outcome, Step, Total

from ..data import table
from ..store import Dataset

LOGISTIC, PRIVATE, KMEANS = "federate.logistic@1", "federate.private-logistic@1", "federate.kmeans@1"
ROBUST = ("none", "median", "trimmed mean")
"""What a setting `robust` of 0, 1, 2 stands for."""
UNITS = {"row": 1, "client": 2}
"""Whom differential privacy hides, and the setting `unit` that says so."""
FEWEST_ROBUST = 5
MANY = 50
"""So many clients or more may have a model left under noise that hides whole clients."""
MOST_COLUMNS = 300
MOST_ANSWERS_BYTES = 8 * 2**20
"""That all clients together send in a round, since each of them gets all of it."""
HELD_OUT = (5, 40)
"""In percent of the rows of each client: more of them are trained on than held out."""
LEAST_ROWS = 1000
"""A contract that asks less of each client than this is never approved without a person."""
OF_TWO = "of two, each could take its own part off the sum and would have the other's"
FEW_ROWS = "an update from few rows shows them, and one of a single row is that row"

SETTINGS: dict[str, dict[str, tuple[int, int]]] = {
    LOGISTIC: {
        "rounds": (1, 100),
        "l2_milli": (1, 10**9),
        "secure": (0, 1),
        "robust": (0, len(ROBUST) - 1),
        "least_rows": (100, 2**24),
    },
    PRIVATE: {
        "rounds": (1, 100),
        "l2_milli": (1, 10**9),
        "secure": (1, 1),
        "clip_milli": (1, 10**6),
        "unit": (min(UNITS.values()), max(UNITS.values())),
        "least_rows": (100, 2**24),
    },
    KMEANS: {"k": (2, 32), "rounds": (1, 20), "secure": (1, 1), "least_rows": (100, 2**24)},
}


def check_shape(contract: Contract) -> None:
    """Raises unless a contract between clients has what its step needs and nothing of another kind of contract."""
    step = contract.steps[0]
    vertical = {
        "keys to match on": contract.keys,
        "a column to add up": contract.total != Total(),
        "an epoch": contract.epoch,
        "the model of another campaign": contract.model,
        "an audience to measure": contract.outcome != Outcome(),
        "rows held out by a column": contract.holdout.column,
        "weights or seeds": contract.label.weight or contract.label.seeds,
        "what an auditor needs": contract.audit,
    }
    for what, there in vertical.items():
        if there:
            raise DisagreementError(f"a contract between clients cannot have {what}", "propose it again without")
    labelled = bool(contract.label.column and contract.label.positive)
    percents = range(HELD_OUT[0], HELD_OUT[1] + 1) if step.protocol != KMEANS else (0,)
    if labelled != (step.protocol != KMEANS) or contract.holdout.percent not in percents:
        raise DisagreementError(
            f"logistic regression needs a label and {HELD_OUT[0]} to {HELD_OUT[1]} % of the rows held out, K-means has "
            "neither",
            "propose it again",
        )
    check_cohort(contract)
    check_columns(contract)


def check_cohort(contract: Contract) -> None:
    """Raises unless three or more organisations take part, none of them the coordinator, each with rows enough."""
    keys = {party.identity for party in contract.parties}
    if len(keys) != len(contract.parties) or len(keys) < LEAST_CLIENTS:
        raise PolicyError(
            f"the contract has {len(keys)} organisations, told apart by their keys, {LEAST_CLIENTS} are the least: "
            f"{OF_TWO}",
            "find another one",
        )
    if contract.helper in keys:
        raise PolicyError(
            "the coordinator's key is that of a client: it would have that client's part and the sum",
            "run the coordinator apart from all clients, under keys of its own",
        )
    least = contract.steps[0].settings.get("least_rows", LEAST_ROWS)
    for party in contract.parties:
        rows = trained(party.data.rows, contract.holdout.percent)
        if not isinstance(least, int) or rows < least:
            raise PolicyError(
                f"{party.name} has {rows:,} rows or a few more to train on, {least} is what the contract asks for: "
                f"{FEW_ROWS}",
                "propose it with a larger data set, or without that client",
            )


def trained(rows: int, held_out_percent: int) -> int:
    """How many of a client's rows are trained on, at least: each row is held out with that chance, by itself."""
    share = held_out_percent / 100
    # Five standard deviations less than on average is one case in millions.
    return max(0, math.floor(rows * (1 - share) - 5 * math.sqrt(rows * share * (1 - share))))


def check_columns(contract: Contract) -> None:
    """Raises unless all clients enter the same columns, and each of these has one range, declared for all."""
    entered = {contract.features.get(party.name, ()) for party in contract.parties}
    columns = next(iter(entered))
    if len(entered) != 1 or not 1 <= len(columns) <= MOST_COLUMNS or len(set(columns)) != len(columns):
        raise DisagreementError(
            f"the clients do not all enter the same 1 to {MOST_COLUMNS} columns, each once", "propose it again"
        )
    if contract.label.column in columns:
        raise DisagreementError("the label is among the columns that it is told from", "propose it again")
    ranges = {(each.party, each.column) for each in contract.ranges}
    if ranges != {("", column) for column in columns}:
        raise DisagreementError(
            "the contract does not declare a range for all clients for each column and for no other",
            "propose it with [ranges]: what scales the columns must come from nobody's rows",
        )


def most_columns(step: Step, clients: int) -> int:
    """With how many columns so many clients' answers still go into one message; the step's settings are checked."""
    # Only those who make or sign a contract between clients load the apps.
    from tidegate.protocols.horizontal import kmeans, logistic, private_logistic

    def widest(columns: int) -> int:
        if step.protocol == KMEANS:
            return kmeans.Settings(columns, int(str(step.settings["k"]))).widest
        if step.protocol == PRIVATE:
            return private_logistic.Settings(columns, 1, 1, 1, 1, 1, clients).widest
        return logistic.Settings(columns).widest

    fitting = range(1, MOST_COLUMNS + 1)
    # Numbers of 8 bytes, one more to each answer.
    return bisect.bisect_right(fitting, MOST_ANSWERS_BYTES, key=lambda columns: 8 * clients * (widest(columns) + 1))


def check_step(contract: Contract, step: Step) -> None:
    """Raises unless the settings of a federated step, which lie in their ranges, go together."""
    most = most_columns(step, len(contract.parties))
    if len(contract.features.get(contract.parties[0].name, ())) > most:
        raise PolicyError(
            f"{len(contract.parties)} clients can enter {most} columns, the contract has more", "propose it with fewer"
        )
    robust, secure = step.settings.get("robust", 0), step.settings["secure"]
    if robust and len(contract.parties) < FEWEST_ROBUST:
        raise PolicyError(
            f"a robust mean of {len(contract.parties)} clients is not one: {FEWEST_ROBUST} are the least",
            "propose it with more clients, or without robust",
        )
    if bool(robust) == bool(secure):
        raise DisagreementError(
            "the contract has to hide each client's updates or to be robust, one of the two", "propose it again"
        )
    if bool(contract.privacy.epsilon_milli) != (step.protocol == PRIVATE):
        raise DisagreementError(
            f"the contract has an epsilon if and only if its step is {PRIVATE}, which adds the noise",
            "propose it again",
        )


def needs_a_person(contract: Contract) -> bool:
    """Whether no standing approval covers a contract: each client's updates are shown, or few rows may make one."""
    least = [step.settings.get("least_rows", LEAST_ROWS) for step in contract.steps]
    shown = any(step.settings.get("robust") for step in contract.steps)
    return contract.is_horizontal and (shown or any(isinstance(each, int) and each < LEAST_ROWS for each in least))


def check_own_columns(contract: Contract, data: Dataset) -> None:
    """Raises unless this party's data set has the columns and the label of a contract, of kinds that can be used."""
    columns = {column["name"]: column for column in data.columns}
    for name in contract.features[contract.parties[0].name]:
        if not is_usable(columns[name]):
            raise DisagreementError(
                f"column {name!r} of data set {data.name} holds neither numbers nor true and false",
                "write each category that matters as a column of 1 and 0, and register the data set again",
            )
    if contract.label.column and columns[contract.label.column]["kind"] not in ("number", "category"):
        raise DisagreementError(f"column {contract.label.column!r} of data set {data.name} cannot be a label")


def check_own_label(contract: Contract, data: Dataset) -> None:
    """Raises unless the registered file has two values in the label's column and the positive one is among them."""
    label = contract.label
    if label.column:
        rows = pa.concat_tables(table.blocks(data.path, [label.column], 2**20))
        table.binary(rows, label.column, label.positive)


def lone_parts(made: Contract, earlier: Iterable[Contract]) -> list[str]:
    """A line for each earlier contract of which the sums, with those of this one, show one or two clients' parts."""
    if not made.is_horizontal:
        return []
    lines, now = [], {party.identity: party.name for party in made.parties}
    for before in earlier:
        then = {party.identity: party.name for party in before.parties} if before.is_horizontal else now
        more, less = then.keys() - now.keys(), now.keys() - then.keys()
        if 1 <= len(more | less) < LEAST_CLIENTS:
            names = " and ".join(sorted({**then, **now}[key] for key in more | less))
            other = f"with {names}" if not less else f"without {names}" if not more else "of other clients"
            lines.append(
                f"{before.campaign} ({before.short}), which was signed here, is {other}: the difference of both sums "
                f"is the part of {names}"
            )
    return lines


def is_usable(column: dict[str, Any]) -> bool:
    """Whether a column, as it is described in offers, can be entered."""
    return column["kind"] == "number" or is_flag(column)


def is_flag(column: dict[str, Any]) -> bool:
    """Whether a column of true and false; of a rare one only the other value is described."""
    return column["kind"] == "category" and set(column["categories"]) in ({"true"}, {"false"}, {"true", "false"})


def attention(made: Contract) -> list[str]:
    """Lines for people who sign a contract between clients: what it grants that the defaults do not."""
    lines = []
    for step in made.steps:
        least = step.settings.get("least_rows", LEAST_ROWS)
        if isinstance(least, int) and least < LEAST_ROWS:
            lines.append(f"least_rows is {least}, looser than the default {LEAST_ROWS}: {FEW_ROWS}")
        if step.settings.get("unit") == UNITS["client"] and len(made.parties) < MANY:
            lines.append(
                f"epsilon is for all rows of a client at once: of {len(made.parties)} clients the noise leaves little "
                "of a model"
            )
        if step.settings.get("robust"):
            lines.append("the coordinator sees each client's updates in the clear, so that outliers can be left out")
    return lines
