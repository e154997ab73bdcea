"""One table: name@version -> step, what each role learns. What is not in this table does not run.

The sentences are what people approve and what the report repeats, so they are written for them. `{n}` and the like
are filled from the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STEPS = ("doctor", "match", "insight", "segment", "assign", "train", "score", "expand", "measure", "federate")


@dataclass(frozen=True)
class Entry:
    """A protocol under a fixed name: the step it serves, what it needs before it, what each role learns.

    Of those that match: the engine that finds what is common, and the mode, which says who learns of it. alignment: how
    the rows of both sides stand for each other in the steps after a match, "shown" (both know which rows match),
    "hidden" (the brand alone, and the media enters all of its rows) or "" (not at all). several: for one brand with
    several media at once. seeds: for a brand that has good customers alone. helper: the coordinator itself plays a
    part. horizontal: for clients that all hold the same columns. granted: what a role learns besides, where the step's
    setting of this name is not 0.
    """

    name: str
    step: str
    needs: tuple[str, ...]
    title: str
    learns: dict[str, tuple[str, ...]]
    assumes: tuple[str, ...]
    engine: str = ""
    mode: str = ""
    alignment: str = ""
    several: bool = False
    seeds: bool = False
    helper: bool = False
    horizontal: bool = False
    granted: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)


_COORDINATOR = ("who talks to whom, when, and how many bytes",)
_LABEL = "the encrypted vector is the label: the media cannot check it"
_VECTORS = (
    "the encrypted vectors are what the protocol says and the brand's key is well formed: the media cannot check it"
)
_WEIGHTS = "the encrypted weights are the trained model: the media cannot check it"
_OUTCOMES = "the encrypted vectors are who bought and what they spent: the media cannot check it"
_TOGETHER = (
    "the brand works together with none of the media: with any of them it could open the score of every customer that "
    "all have in common, and with it the parts of the other media"
)
_NO_FLOOR = (
    "the brand keeps the least numbers of people and of good customers by itself: the media, which does not know how "
    "many matched, cannot check them"
)
_MODEL = (
    "the model: its own weights, and the media's weights in a secret basis that only the media knows",
    "in each of at most {train_steps} optimiser steps one gradient sum per column, and the media's column "
    "variances in the secret basis",
)
_TRAIN_GRANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "importance": {
        "brand": ("the sign and size of the model's coefficient of each of the media's columns",),
        "media": ("the model's weights of its own columns",),
    },
    "early_stop": {"media": ("after how many optimiser steps the training came to rest",)},
}
_ASSIGNED = (
    "which group each matched person is in, the groups without names, in each of at most {iterations} iterations of "
    "each of at most {starts} starts, and each time that a group of fewer than {floor} is left out; where the number "
    "of groups is left open also of 20,000 people at most for each number that is tried"
)
_PUT = (
    "which group each matched person is in, to the media without names; and each time that a group of fewer than "
    "{floor} of these people is left out, into which they come then"
)
_OF_ALL = "which of its matched people all the other media matched too"
_GROUPED_BY_ALL = _ASSIGNED.replace("matched person", "person that all have in common")
_PUT_BY_ALL = _PUT.replace("matched person", "person that all have in common")
_ALL_OTHERS = (
    "how far the people of all groups are from their group's centre by the columns of all other parties together, one "
    "figure for each start, and of no party alone"
)
_COMPARED = (
    "how many people are grouped and into how many groups; in each iteration, for each person and pair of groups, "
    "whether one is nearer than the other, under a mask and at a secret scale of its own, the people in a fresh secret "
    "order and the groups in one per person: no distance, and nobody that it could recognise in the next iteration"
)
_APART = (
    "the coordinator works together with none of the parties: with one of them it could work out the other's "
    "distances, and from those over many iterations its columns"
)
_APART_OF_ALL = (
    "the coordinator works together with none of the parties: with the brand it could work out the distances of each "
    "media, with a media those of all others together, and from those over many iterations their columns"
)
_OTHERS_APART = (
    "not all parties but one work together: they could take their own part off the figures of all and have that one's "
    "alone"
)
_COHORT = (
    "the coordinator works together with fewer than all but two of the clients: with all but one it could take their "
    "parts off a sum"
)
_OWN_ROWS = "each client enters its own rows and follows the protocol: a false update spoils the model of all"
_AS_CLIENTS = "all the sums, counts and models that the clients learn"
_BLIND_SUMS = (
    "no client's part of any of these: they come masked, and nobody can read a sum over fewer than all clients"
)
_SUMS_OF_ALL = (
    "once, over the rows of all clients that are trained on: how many there are, how many have the label, and for each "
    "two columns the sum of their products, which gives means, deviations and correlations",
    "in each of at most {rounds} rounds the model, how well it fits all these rows, and for each column one sum that "
    "says where it should move",
    "with each of these models, of the rows that all clients hold out, how many with and without the label have a "
    "score in each of 256 classes",
)
_NOISY_SUMS = (
    "sums over all clients of which every number has noise, as much as the contract's epsilon asks for: once of the "
    "columns, their squares and the label, once of the products of each two columns; in each of at most {rounds} "
    "rounds, with the model, one number for each column",
    "at the end, with noise too, how many of the rows that all clients hold out have a score in each of 64 classes, "
    "with and without the label",
)
_GROUP_SUMS = (
    "once, over the rows of all clients: how many there are, and mean and deviation of each column",
    "in each of at most {rounds} rounds, and while small groups are given up, the centres, how many rows of all "
    "clients are nearest to each, also of a group with fewer than {floor}, and how far all rows are from them together",
    "the sum over a group's rows for each column, only of groups that {floor} or more rows of all clients are in",
)
_ROBUST_GRANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "robust": {
        "coordinator": (
            "the same of each client by itself, in the clear and in each round: outliers can only be left out where "
            "updates are seen",
        ),
    },
    "secure": {
        "client": (_BLIND_SUMS,),
        "coordinator": (_BLIND_SUMS,),
    },
}
_MEASURED = (
    "how many people are in the audience and how many were left alone, how many of each bought and what they spent in "
    "all, each value cut to the contract's cap: every figure with noise of standard deviation {count_noise} (money: "
    "times the cap), and only where {floor} or more people are in both groups",
)

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
        alignment="shown",
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
        alignment="hidden",
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
        alignment="shown",
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
        title="Who the good customers are: index, weight of evidence and information value of the media's features",
        learns={
            "brand": (
                "for each bin of the media's granted features with {floor} or more matched people: its label, "
                "its number of people and its number of good customers, each with noise of standard deviation "
                "{count_noise}, or more where the contract asks for differential privacy",
            ),
            "media": ("nothing new: the labels arrive encrypted and leave encrypted",),
            "coordinator": _COORDINATOR,
        },
        assumes=(_LABEL,),
        alignment="shown",
    ),
    Entry(
        name="insight.columns-hidden@1",
        step="insight",
        needs=("match",),
        title="Who the good customers are, over all of the media's people, who do not learn who of them matched",
        learns={
            "brand": (
                "for each bin of the media's granted features with {floor} or more of its people: its label, its "
                "number of people, and how many of them are matched and how many good customers, each with noise of "
                "standard deviation {count_noise}, or more where the contract asks for differential privacy; fewer "
                "than {floor} are not kept",
            ),
            "media": ("nothing: neither who matched nor how many",),
            "coordinator": _COORDINATOR,
        },
        assumes=(_LABEL, _NO_FLOOR),
        alignment="hidden",
    ),
    Entry(
        name="segment.kmeans@1",
        step="segment",
        needs=("match",),
        title="Split the people both sides know into groups by both sides' columns (vertical K-means)",
        learns={
            "brand": (
                _ASSIGNED,
                "a card of each group of {floor} or more people, smaller ones being merged: how many they are, and of "
                "each of the media's granted columns the mean, in 3 digits, or the share of each value that {floor} or "
                "more of them have, in whole percents, beside those of all",
                "how far the people of all groups are from their group's centre by the media's columns, one figure for "
                "each start",
            ),
            "media": (
                _ASSIGNED,
                "how far the people of all groups are from their group's centre by the brand's columns, one figure for "
                "each start; nothing else of the brand's columns",
            ),
            "coordinator": (*_COORDINATOR, _COMPARED),
        },
        assumes=("each party follows the protocol", _APART),
        alignment="shown",
        helper=True,
    ),
    Entry(
        name="assign.kmeans@1",
        step="assign",
        needs=("match", "segment"),
        title="Put people into the groups that an earlier campaign has found",
        learns={
            "brand": (_PUT,),
            "media": (_PUT,),
            "coordinator": (*_COORDINATOR, _COMPARED),
        },
        assumes=("each party follows the protocol", _APART),
        alignment="shown",
        helper=True,
    ),
    Entry(
        name="segment.kmeans-several@1",
        step="segment",
        needs=("match",),
        title="Split the people that the brand has in common with all media into groups by everybody's columns",
        learns={
            "brand": (
                _GROUPED_BY_ALL,
                "a card of each group of {floor} or more people, smaller ones being merged: how many they are, and of "
                "each of the granted columns of each media the mean, in 3 digits, or the share of each value that "
                "{floor} or more of them have, in whole percents, beside those of all",
                _ALL_OTHERS,
            ),
            "media": (
                _OF_ALL,
                _GROUPED_BY_ALL,
                f"{_ALL_OTHERS}; nothing else of the columns of the brand or of another media",
            ),
            "coordinator": (*_COORDINATOR, _COMPARED),
        },
        assumes=("each party follows the protocol", _APART_OF_ALL, _OTHERS_APART),
        alignment="shown",
        several=True,
        helper=True,
    ),
    Entry(
        name="assign.kmeans-several@1",
        step="assign",
        needs=("match", "segment"),
        title="Put people that all have in common into the groups that an earlier campaign with all has found",
        learns={
            "brand": (_PUT_BY_ALL,),
            "media": (_OF_ALL, _PUT_BY_ALL),
            "coordinator": (*_COORDINATOR, _COMPARED),
        },
        assumes=("each party follows the protocol", _APART_OF_ALL),
        alignment="shown",
        several=True,
        helper=True,
    ),
    Entry(
        name="train.fourier-lr@1",
        step="train",
        needs=("match",),
        title="Train a logistic model on both sides' columns without opening a row",
        learns={
            "brand": (
                *_MODEL,
                "the exact score of each hold-out row by each model that is trained (for the quality figures)",
            ),
            "media": (
                "which matched rows are in the training part and which are held out",
                "nothing else: labels, residuals, weights and gradients stay encrypted or with the brand",
            ),
            "coordinator": _COORDINATOR,
        },
        assumes=(_VECTORS,),
        alignment="shown",
        granted=_TRAIN_GRANTS,
    ),
    Entry(
        name="train.fourier-lr-hidden@1",
        step="train",
        needs=("match",),
        title="Train a logistic model over all of the media's people, who do not learn who of them matched",
        learns={
            "brand": (
                *_MODEL,
                "the exact score by each model of each of the media's people that the contract draws as hold-out, "
                "matched or not, in the media's secret order",
            ),
            "media": (
                "whether the brand goes on: it does with {seeds} or more good customers among those matched to train "
                "on, and with both kinds among those held out",
                "nothing else: neither who matched nor how many; all sizes are those of the two data sets",
            ),
            "coordinator": _COORDINATOR,
        },
        assumes=(_VECTORS, _NO_FLOOR),
        alignment="hidden",
        granted=_TRAIN_GRANTS,
    ),
    Entry(
        name="train.fourier-lr-seeds@1",
        step="train",
        needs=("match",),
        title="Train a logistic model that tells the brand's people from the media's others, on the media's columns",
        learns={
            "brand": (
                *_MODEL,
                "how many other people the media has, and how many of them it has drawn",
                "the exact score by the model of each hold-out row, in the media's secret order among the others",
            ),
            "media": (
                "which rows are in the training part and which are held out; that the matched people are the brand's "
                "good customers",
                "nothing else: residuals, weights and gradients stay encrypted or with the brand",
            ),
            "coordinator": _COORDINATOR,
        },
        assumes=(_VECTORS,),
        alignment="shown",
        seeds=True,
        granted=_TRAIN_GRANTS,
    ),
    Entry(
        name="train.fourier-lr-several@1",
        step="train",
        needs=("match",),
        title="Train one logistic model on the columns of the brand and of all media without opening a row",
        learns={
            "brand": (
                "the model: its own weights, and each media's weights in a secret basis that only this media knows",
                "in each of at most {train_steps} optimiser steps one gradient sum per column, and each media's column "
                "variances in its secret basis",
                "of each hold-out row the exact sum of all media's parts of its score (for the quality figures), and "
                "of no media's part alone",
            ),
            "media": (
                "which of its matched people all the other media matched too, which of these are in the training part "
                "and which are held out",
                "seeds of masks that it shares with other media, which open nothing without the brand's key",
                "nothing else: labels, residuals, weights and gradients stay encrypted or with the brand, and the "
                "other media's columns with them",
            ),
            "coordinator": _COORDINATOR,
        },
        assumes=(_VECTORS, _TOGETHER),
        alignment="shown",
        several=True,
        granted=_TRAIN_GRANTS,
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
        assumes=(_WEIGHTS,),
        alignment="shown",
    ),
    Entry(
        name="score.rows-hidden@1",
        step="score",
        needs=("match", "train"),
        title="Score the brand's matched customers among all of the media's people",
        learns={
            "brand": (
                "one score per matched customer, and one per other person of the media, whom it cannot name, in the "
                "media's secret order; blurred so that about {score_levels} levels can be told apart",
            ),
            "media": ("that all of its rows were scored once more; neither who matched nor how many",),
            "coordinator": _COORDINATOR,
        },
        assumes=(_WEIGHTS, _NO_FLOOR),
        alignment="hidden",
    ),
    Entry(
        name="score.rows-several@1",
        step="score",
        needs=("match", "train"),
        title="Score the customers that the brand has in common with all media",
        learns={
            "brand": (
                "one score per customer matched with all media, the sum of all media's parts, blurred so that about "
                "{score_levels} levels can be told apart, and of no media's part alone",
            ),
            "media": (
                "that the rows that all have in common were scored once more",
                "seeds of masks that it shares with other media, which open nothing without the brand's key",
            ),
            "coordinator": _COORDINATOR,
        },
        assumes=(_WEIGHTS, _TOGETHER),
        alignment="shown",
        several=True,
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
        assumes=(_WEIGHTS,),
        alignment="shown",
        granted={
            "control_percent": {
                "brand": ("how many people of each audience the media has drawn at random to be left alone",),
                "media": ("which people of each audience are to be left alone: it draws {control_percent} % of them",),
            }
        },
    ),
    Entry(
        name="measure.columns@1",
        step="measure",
        needs=("match",),
        title="Measure what a campaign brought: the audience against the people left alone",
        learns={
            "brand": _MEASURED,
            "media": ("nothing new: who bought and what arrives encrypted and leaves encrypted",),
            "coordinator": _COORDINATOR,
        },
        assumes=(_OUTCOMES,),
        alignment="shown",
    ),
    Entry(
        name="measure.columns-hidden@1",
        step="measure",
        needs=("match",),
        title="Measure what a campaign brought, over all of the media's people, who do not learn who of them bought",
        learns={
            "brand": _MEASURED,
            "media": ("nothing: neither who matched nor how many",),
            "coordinator": _COORDINATOR,
        },
        assumes=(_OUTCOMES, _NO_FLOOR),
        alignment="hidden",
    ),
    Entry(
        name="federate.logistic@1",
        step="federate",
        needs=(),
        title="Train one logistic model over the rows of all clients, which stay where they are",
        learns={"client": _SUMS_OF_ALL, "coordinator": (*_COORDINATOR, _AS_CLIENTS)},
        assumes=(_OWN_ROWS, _COHORT),
        helper=True,
        horizontal=True,
        granted=_ROBUST_GRANTS,
    ),
    Entry(
        name="federate.private-logistic@1",
        step="federate",
        needs=(),
        title="Train one logistic model over the rows of all clients with differential privacy",
        learns={
            "client": (*_NOISY_SUMS, _BLIND_SUMS),
            "coordinator": (*_COORDINATOR, _AS_CLIENTS, _BLIND_SUMS),
        },
        assumes=(
            _OWN_ROWS,
            "each client adds its share of the noise: the epsilon holds against the coordinator and one client "
            "together, and is larger the more clients leave theirs out",
            _COHORT,
        ),
        helper=True,
        horizontal=True,
    ),
    Entry(
        name="federate.kmeans@1",
        step="federate",
        needs=(),
        title="Split the rows of all clients into groups by common centres (horizontal K-means)",
        learns={
            "client": (*_GROUP_SUMS, _BLIND_SUMS),
            "coordinator": (*_COORDINATOR, _AS_CLIENTS, _BLIND_SUMS),
        },
        assumes=(_OWN_ROWS, _COHORT),
        helper=True,
        horizontal=True,
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


def protocol_after(match: str, step: str, *, several: bool = False, seeds: bool = False) -> str | None:
    """The name of the entry that runs `step` on the rows of the entry `match`, if there is one.

    seeds: the brand has good customers alone, which matters to training.
    """
    wanted = (CATALOG[match].alignment, several, seeds and step == "train")
    found = (e.name for e in _ENTRIES if e.step == step and (e.alignment, e.several, e.seeds) == wanted)
    return next(found, None)


def learns(
    name: str, role: str, settings: Mapping[str, int | list[int]] | None = None, **figures: object
) -> tuple[str, ...]:
    """What `role` learns from the protocol `name`, with the contract's figures filled in.

    settings: those of the step, which may grant more.
    """
    entry, given = CATALOG[name], settings or {}
    more = [line for setting, roles in entry.granted.items() if given.get(setting) for line in roles.get(role, ())]
    return tuple(line.format(**figures, **given) for line in (*entry.learns[role], *more))
