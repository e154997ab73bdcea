"""One table: name@version -> step, what each role learns. What is not in this table does not run.

The sentences are what people approve and what the report repeats, so they are written for them. `{n}` and the like
are filled from the contract.
"""

from __future__ import annotations

from dataclasses import dataclass

STEPS = ("doctor", "match", "insight", "train", "score", "expand")


@dataclass(frozen=True)
class Entry:
    """A protocol under a fixed name: the step it serves, what it needs before it, what each role learns.

    Of those that match: the engine that finds what is common, the mode, which says who learns of it, and whether both
    sides end with the same rows in the same order, which later steps build on.
    """

    name: str
    step: str
    needs: tuple[str, ...]
    title: str
    learns: dict[str, tuple[str, ...]]
    assumes: tuple[str, ...]
    engine: str = ""
    mode: str = ""
    aligns: bool = False


_COORDINATOR = ("who talks to whom, when, and how many bytes",)

_ENTRIES = (
    Entry(
        name="doctor.oprf@1",
        step="doctor",
        needs=(),
        title="Check the match keys on a sample: how many would match if they were written otherwise",
        learns={
            "brand": (
                "how the media's match keys are written, in whole percents of its rows: in the clear, as digests, "
                "valid, missing; and the country that its phone numbers are read for",
                "how many sampled rows of the media each spelling has that makes a difference",
                "for each pair of spellings how many people of a sample match, with noise of standard deviation "
                "{count_noise}; fewer than {floor} are not kept; of no person whether it matches",
            ),
            "media": (
                "how the brand's match keys are written, in whole percents of its rows: in the clear, as digests, "
                "valid, missing; and the country that its phone numbers are read for",
                "how many sampled rows of the brand each spelling has that makes a difference",
                "for each pair of spellings how many people of a sample match, with the same noise, if they are "
                "{floor} or more",
            ),
            "coordinator": _COORDINATOR,
        },
        assumes=(
            "each party enters its own people and follows the protocol; a brand that does not could count without "
            "the noise",
        ),
    ),
    Entry(
        name="match.oprf@1",
        step="match",
        needs=(),
        title="Find the people both sides know (OPRF on ristretto255, fresh key)",
        learns={
            "brand": (
                "how many rows with each match key the media's data set holds, less those an earlier key has matched",
                "how many people match in each round; at {floor} or more also which of its own rows they are",
            ),
            "media": (
                "how many rows with each match key the brand's data set holds, less those an earlier key has matched",
                "whether {floor} or more match in each round; if so which of its own rows they are",
            ),
            "coordinator": _COORDINATOR,
        },
        assumes=("each party enters its own people and follows the protocol",),
        engine="oprf",
        mode="both",
        aligns=True,
    ),
    Entry(
        name="match.oprf-brand@1",
        step="match",
        needs=(),
        title="Find the people both sides know; only the brand learns who (OPRF on ristretto255, fresh key)",
        learns={
            "brand": (
                "how many rows with any of the match keys the media's data set holds",
                "how many people match in each round; at {floor} or more also which of its own rows they are",
                "which of the people matched by one key have, under another key, the identifier of a row of its own "
                "that had not matched yet; of which row only if {floor} or more match in that key's round",
            ),
            "media": (
                "how many rows with each match key the brand's data set holds",
                "whether {floor} or more match in each round, and nothing else",
            ),
            "coordinator": _COORDINATOR,
        },
        assumes=("each party enters its own people and follows the protocol",),
        engine="oprf",
        mode="brand",
    ),
    Entry(
        name="match.oprf-size@1",
        step="match",
        needs=(),
        title="Count the people both sides know (OPRF on ristretto255, fresh key)",
        learns={
            "brand": (
                "how many rows with the match key the media's data set holds",
                "how many people match, and of none of them who it is",
            ),
            "media": (
                "how many rows with the match key the brand's data set holds",
                "how many people match, if they are {floor} or more",
            ),
            "coordinator": _COORDINATOR,
        },
        assumes=("each party enters its own people and follows the protocol",),
        engine="oprf",
        mode="size",
    ),
    Entry(
        name="match.oprf-epoch@1",
        step="match",
        needs=(),
        title="Find the people both sides know, with tokens made ahead (OPRF on ristretto255, one key for an epoch)",
        learns={
            "brand": (
                "how many rows with each match key the media's data set holds, and a pseudonym for each that stays the "
                "same for the whole epoch (with prefix_bits above 0 only the pseudonyms that share their first bits "
                "with one of its own people)",
                "which of its own rows are among them, at once and however few they are: nothing is hidden under "
                "{floor}, only no result is kept",
                "from the second campaign of the epoch on also which pseudonyms came and which went since its last: "
                "who of the people it has asked for joined the media and who left",
                "whether a person found by a later key is a row that an earlier key has found",
            ),
            "media": (
                "how many rows with each match key the brand's data set holds, less those an earlier key has matched, "
                "and how many of their identifiers the brand has not asked for before in this epoch",
                "whether {floor} or more match in each round; if so which of its own rows they are",
                "with prefix_bits above 0 also which first bits the pseudonyms of the brand's people have: of each of "
                "its own people whose pseudonym begins otherwise, that the brand does not have them; of the others, "
                "that somebody among the 1,000 or more with the same first bits may be the brand's. With 0 nothing "
                "of this",
            ),
            "coordinator": _COORDINATOR,
        },
        assumes=(
            "each party enters its own people and follows the protocol: the brand can ask for anybody, as often as "
            "the media's query budget for the epoch allows",
        ),
        engine="oprf",
        mode="epoch",
        aligns=True,
    ),
    Entry(
        name="match.oprf-sum@1",
        step="match",
        needs=(),
        title="Add up one column over the people both sides know (OPRF on ristretto255, fresh key; BFV)",
        learns={
            "brand": (
                "how many rows with the first match key the media's data set holds",
                "how many people match by the first match key; where its own column is added up only if they are "
                "{floor} or more",
                "at {floor} or more the sum of the one column over the matched people, each value cut to the "
                "contract's cap, with noise of standard deviation {count_noise} times that cap",
            ),
            "media": (
                "how many rows with the first match key the brand's data set holds",
                "whether {floor} or more match, and nothing of the sum; where the brand's column is added up also how "
                "many match",
            ),
            "coordinator": _COORDINATOR,
        },
        assumes=(
            "each party enters its own people and values and follows the protocol",
            "the brand asks for a plain sum over at least the least number of people: the media cannot check it",
        ),
        engine="oprf",
        mode="sum",
    ),
    Entry(
        name="insight.columns@1",
        step="insight",
        needs=("match",),
        title="Who the good customers are: index per bin of the media's features",
        learns={
            "brand": (
                "for each bin of the media's granted features with {floor} or more matched people: its label, "
                "its number of people and its number of good customers, each with noise of standard deviation "
                "{count_noise}",
            ),
            "media": ("nothing new: the labels arrive encrypted and leave encrypted",),
            "coordinator": _COORDINATOR,
        },
        assumes=("the encrypted vector is the label: the media cannot check it",),
    ),
    Entry(
        name="train.fourier-lr@1",
        step="train",
        needs=("match",),
        title="Train a logistic model on both sides' columns without opening a row",
        learns={
            "brand": (
                "the model: its own weights, and the media's weights in a secret basis that only the media knows",
                "in each of at most {train_steps} optimiser steps one gradient sum per column, and the media's column "
                "variances in the secret basis",
                "the exact score of each hold-out row by each model that is trained (for the quality figures)",
            ),
            "media": (
                "which matched rows are in the training part and which are held out",
                "nothing else: labels, residuals, weights and gradients stay encrypted or with the brand",
            ),
            "coordinator": _COORDINATOR,
        },
        assumes=(
            "the encrypted vectors are what the protocol says and the brand's key is well formed: "
            "the media cannot check it",
        ),
    ),
    Entry(
        name="score.rows@1",
        step="score",
        needs=("match", "train"),
        title="Score the brand's matched customers",
        learns={
            "brand": ("one score per matched customer, blurred so that about {score_levels} levels can be told apart",),
            "media": ("that the matched rows were scored once more",),
            "coordinator": _COORDINATOR,
        },
        assumes=("the encrypted weights are the trained model: the media cannot check it",),
    ),
    Entry(
        name="expand.rows@1",
        step="expand",
        needs=("match", "train"),
        title="Find lookalikes among the media's other people",
        learns={
            "brand": (
                "how many other people the media has, and the blurred score of each, in an order the media shuffled",
            ),
            "media": ("which of its other people are in each audience, nothing of their scores",),
            "coordinator": _COORDINATOR,
        },
        assumes=("the encrypted weights are the trained model: the media cannot check it",),
    ),
)

CATALOG: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
# Of several entries for a step the first.
DEFAULT_PROTOCOL: dict[str, str] = {entry.step: entry.name for entry in reversed(_ENTRIES)}
ENGINES = tuple(dict.fromkeys(entry.engine for entry in _ENTRIES if entry.engine))
MODES = tuple(dict.fromkeys(entry.mode for entry in _ENTRIES if entry.mode))


def match_protocol(engine: str, mode: str) -> str | None:
    """The name of the entry that matches with this engine in this mode, if there is one."""
    return next((entry.name for entry in _ENTRIES if (entry.engine, entry.mode) == (engine, mode)), None)


def learns(name: str, role: str, **figures: object) -> tuple[str, ...]:
    """What `role` learns from the protocol `name`, with the contract's figures filled in."""
    return tuple(line.format(**figures) for line in CATALOG[name].learns[role])
