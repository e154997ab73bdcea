"""This party's own rules, and whether a contract keeps them: looked at before approving and again before every run.

The rules are HOME/policy.toml, which its owner writes; without the file the defaults below hold. They can only be
stricter than what a contract may say anyway. Nothing is approved without a person unless [auto_approve] names it.

    allowed_partners = ["acme"]        # default: every party whose card is trusted
    allowed_steps = ["match", "train"] # default: all
    hidden_columns = ["income"]        # never offered, never used
    max_days = 30                      # how long a contract may run; default 90
    require_audit = true               # only campaigns whose brand keeps what an auditor needs; default false
    max_epsilon = 2.0                  # differential privacy: for a partner and one state of a data set; default 4

    [guards]                           # a contract must be at least this strict; default: the hard limits
    floor = 100
    seeds = 100
    train_steps = 12
    count_noise = 10
    score_levels = 20

    [auto_approve]                     # a standing approval; all three lists are needed; never for steps after a
                                       # match of which the media does not learn who matched
    partners = ["acme"]
    steps = ["match", "insight", "train", "score", "expand"]
    datasets = ["people"]
    per_day = 1
"""

from __future__ import annotations

import contextlib
import math
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any

from tidegate import __version__
from tidegate.protocols import catalog
from tidegate.protocols.channel import ConfigError, DisagreementError, PolicyError, TidegateError
from tidegate.wire.contract import CLIENT, Contract, ContractParty, Guards, Step, signed_bytes
from tidegate.wire.identity import verify_signature

from . import models
from .config import Home
from .dataset import is_unchanged
from .horizontal import rules
from .segments import budget
from .store import FINAL, Campaign, Store

DEFAULT_GUARDS = Guards(floor=100, seeds=100, train_steps=12, count_noise=10, score_levels=20)
# The loosest that any contract may be; the contract's own reader enforces the same.
HARD_GUARDS = Guards(floor=50, seeds=50, train_steps=12, count_noise=0, score_levels=20)
AT_LEAST = ("floor", "seeds", "count_noise")
CLOCK_SLACK_S = 60
MAX_DAYS = 90
MAX_EPSILON = 4.0
FEW_MEDIA_COLUMNS = 5
# The contract names all parties to all of them, and the coordinator says to all how far a campaign is.
OF_OTHER_MEDIA = (
    "which other media take part, the names and numbers of rows of their data sets, which steps each has with the "
    "brand, how far the campaign is and at whom it waits or ended; nothing of their people, but what a step with all "
    "of them says it tells"
)
SAMPLE_ROWS = (1000, 200_000)
PREFIX_BITS = (0, 20)
OTHERS_PER_SEED = (1, 100)
CONTROL_PERCENT = (0, 50)
SEGMENTS, ITERATIONS, STARTS = (2, 10), (1, 100), (1, 10)
NEED_LABEL = frozenset({"insight", "train"})
# Modes in which the parties do not both learn which rows an earlier key has matched.
ONE_KEY = frozenset({"size", "sum"})


@dataclass(frozen=True)
class AutoApprove:
    """What a person approves ahead: partners, steps and data sets, at most `per_day` campaigns in 24 hours."""

    partners: tuple[str, ...]
    steps: tuple[str, ...]
    datasets: tuple[str, ...]
    per_day: int


@dataclass(frozen=True)
class Policy:
    """The rules of one party. None stands for: no list was given, so all."""

    allowed_partners: tuple[str, ...] | None = None
    allowed_steps: tuple[str, ...] | None = None
    hidden_columns: tuple[str, ...] = ()
    max_days: int = MAX_DAYS
    require_audit: bool = False
    max_epsilon: float = MAX_EPSILON
    guards: Guards = HARD_GUARDS
    auto_approve: AutoApprove | None = None


def load(home: Home) -> Policy:
    """The party's policy. ConfigError for a file with a mistake: a rule that cannot be read must not be skipped."""
    path = home.policy_toml
    if not path.exists():
        return Policy()
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", "correct it: a party does nothing under unread rules"
        ) from None
    known = {field.name for field in dataclass_fields(Policy)}
    _only(path.name, raw, known)
    guards = _table(path.name, raw, "guards")
    _only(f"{path.name}: guards", guards, set(AT_LEAST) | {"train_steps", "score_levels"})
    strict = {name: _integer(path.name, f"guards.{name}", value) for name, value in guards.items()}
    auto = _table(path.name, raw, "auto_approve")
    _only(f"{path.name}: auto_approve", auto, {"partners", "steps", "datasets", "per_day"})
    return Policy(
        allowed_partners=_names(path.name, raw, "allowed_partners") if "allowed_partners" in raw else None,
        allowed_steps=_names(path.name, raw, "allowed_steps") if "allowed_steps" in raw else None,
        hidden_columns=_names(path.name, raw, "hidden_columns") if "hidden_columns" in raw else (),
        max_days=min(MAX_DAYS, _integer(path.name, "max_days", raw.get("max_days", MAX_DAYS))),
        require_audit=_flag(path.name, "require_audit", raw.get("require_audit", False)),
        max_epsilon=min(MAX_EPSILON, _positive(path.name, "max_epsilon", raw.get("max_epsilon", MAX_EPSILON))),
        guards=Guards(**{field.name: _stricter(field.name, strict) for field in dataclass_fields(Guards)}),
        auto_approve=AutoApprove(
            partners=_names(path.name, auto, "partners"),
            steps=_names(path.name, auto, "steps"),
            datasets=_names(path.name, auto, "datasets"),
            per_day=_integer(path.name, "auto_approve.per_day", auto.get("per_day", 1)),
        )
        if auto
        else None,
    )


def problems(home: Home, store: Store, contract: Contract, now_s: float, *, files: bool = True) -> list[TidegateError]:
    """Everything for which this party may not take part in a contract, the gravest first; empty if it may.

    `files` also reads the registered file again and compares it with what the contract names, and looks whether its
    model is kept and its training fits into the ledger.
    """
    found: list[TidegateError] = []
    policy = load(home)
    for check in (
        _check_version,
        _check_time,
        _check_shape,
        _check_parties,
        _check_learns,
        _check_guards,
        _check_audit,
        _check_privacy,
        _check_steps,
    ):
        _gather(found, check, home, store, contract, policy, now_s)
    if not found:
        _gather(found, _check_data, home, store, contract, policy, now_s)
    # Before a run its worker looks at both of them, and can tell the peer's people.
    for check in (_check_model, _check_ledger, _check_file) if files else ():
        if not found:
            _gather(found, check, home, store, contract, policy, now_s)
    return found


def check_contract(home: Home, store: Store, contract: Contract, now_s: float) -> None:
    """Raises the first of the `problems`: DisagreementError, PolicyError or ConfigError."""
    found = problems(home, store, contract, now_s)
    if found:
        raise found[0]


def check_runnable(home: Home, store: Store, campaign: Campaign, now_s: float) -> None:
    """Raises unless every party has signed this contract with its pinned key and our rules still allow it.

    The worker compares the file with the contract, so it is not read here.
    """
    contract = campaign.contract
    found = problems(home, store, contract, now_s, files=False)
    if found:
        raise found[0]
    signatures = store.signatures(campaign.hash)
    for party in contract.parties:
        if party.name not in signatures:
            raise PolicyError(
                f"{party.name} has not approved the campaign {contract.campaign}", "wait for its approval"
            )
        verify_signature(
            bytes.fromhex(party.identity),
            signed_bytes(campaign.hash),
            signatures[party.name],
            f"{party.name}'s approval",
        )


def is_auto_approved(home: Home, store: Store, campaign: Campaign, now_s: float) -> bool:
    """Whether the standing approval in policy.toml covers a contract that another party proposed."""
    auto = load(home).auto_approve
    if auto is None or campaign.state in FINAL:
        return False
    contract, me = campaign.contract, home.name()
    recent = [c for c in store.campaigns() if c.added_s > now_s - 86400 and me in store.signatures(c.hash)]
    return (
        campaign.proposer in auto.partners
        and all(party.name in auto.partners for party in contract.parties if party.name != me)
        and all(step.step in auto.steps for step in contract.steps)
        and contract.party(me).data.name in auto.datasets
        and len(recent) < auto.per_day
        and not loosened(contract.guards)
        and not rests_on_the_brand(contract.steps)
        and not rules.needs_a_person(contract)
        and not rules.lone_parts(contract, signed(store, me, contract.hash))
        and not problems(home, store, contract, now_s)
    )


def signed(store: Store, me: str, but: bytes) -> list[Contract]:
    """The contracts that this party has signed and this version can read, without the one of this hash."""
    found = []
    for campaign in store.campaigns():
        if campaign.hash != but and me in store.signatures(campaign.hash):
            with contextlib.suppress(DisagreementError):
                found.append(campaign.contract)
    return found


def loosened(guards: Guards) -> list[str]:
    """One line for each guard that is looser than its default, for people who sign."""
    lines = []
    for field in dataclass_fields(Guards):
        value, default = getattr(guards, field.name), getattr(DEFAULT_GUARDS, field.name)
        if (value < default) if field.name in AT_LEAST else (value > default):
            lines.append(f"guards.{field.name} is {value}, looser than the default {default}")
    return lines


def learns(contract_steps: tuple[Step, ...], parties: dict[str, str], guards: Guards) -> dict[str, tuple[str, ...]]:
    """What each party (name -> role) and the coordinator learn from these steps, in the catalogue's words."""
    figures = {field.name: getattr(guards, field.name) for field in dataclass_fields(Guards)}
    found: dict[str, tuple[str, ...]] = {}
    for name, role in {**parties, "coordinator": "coordinator"}.items():
        steps = [step for step in contract_steps if role != "media" or step.media in ("", name)]
        lines = [line for step in steps for line in catalog.learns(step.protocol, role, step.settings, **figures)]
        if role == "media" and sum(each == "media" for each in parties.values()) > 1:
            lines.append(OF_OTHER_MEDIA)
        found[name] = tuple(dict.fromkeys(lines))
    return found


def rests_on_the_brand(steps: Iterable[Step]) -> bool:
    """Whether the media cannot check the least numbers of people in these steps: it does not learn who matched."""
    return is_hidden(step for step in steps if catalog.CATALOG[step.protocol].needs)


def is_hidden(steps: Iterable[Step]) -> bool:
    """Whether a match of these steps keeps from the media who matched."""
    return any(catalog.CATALOG[step.protocol].alignment == "hidden" for step in steps)


def usable_features(columns: list[dict[str, Any]]) -> list[str]:
    """The columns that can be features, constants among them: numbers and categories."""
    return [column["name"] for column in columns if column["kind"] in ("number", "category")]


Check = Callable[[Home, Store, Contract, Policy, float], None]


def _gather(
    found: list[TidegateError], check: Check, home: Home, store: Store, contract: Contract, policy: Policy, now_s: float
) -> None:
    try:
        check(home, store, contract, policy, now_s)
    except TidegateError as error:
        found.append(error)


def _check_version(home: Home, store: Store, contract: Contract, policy: Policy, now_s: float) -> None:
    if contract.software != __version__:
        raise DisagreementError(
            f"the contract was made with tidegate {contract.software}, this party runs {__version__}",
            "install the same version at both parties, then propose again",
        )


def _check_time(home: Home, store: Store, contract: Contract, policy: Policy, now_s: float) -> None:
    if now_s > contract.expires_s + CLOCK_SLACK_S:
        raise PolicyError("the contract has expired", "propose the campaign again")
    if contract.created_s > now_s + CLOCK_SLACK_S:
        raise DisagreementError(
            "the contract comes from the future", "set the clocks of both machines, then propose again"
        )
    days = (contract.expires_s - contract.created_s) / 86400
    if days > policy.max_days:
        raise PolicyError(
            f"the contract is valid for {days:.0f} days, at most {policy.max_days} are allowed here",
            "propose it with a smaller expires_days",
        )


def _check_shape(home: Home, store: Store, contract: Contract, policy: Policy, now_s: float) -> None:
    names = {party.name for party in contract.parties}
    labelled = contract.label.column or contract.label.seeds
    if any(step.step in NEED_LABEL for step in contract.steps) and not labelled:
        raise DisagreementError("the contract has steps that need a label and names none", "propose it with [label]")
    if any(
        catalog.CATALOG[step.protocol].seeds != contract.label.seeds for step in contract.steps if step.step == "train"
    ):
        raise DisagreementError("the contract trains in another way than its label asks for", "propose it again")
    if any(step.step == "insight" for step in contract.steps) and contract.label.seeds:
        raise DisagreementError("seeds alone cannot be told from other customers", "propose it without insight")
    if set(contract.features) - names:
        raise DisagreementError("the contract names a party that it does not have", "propose it again")
    if len(contract.keys) > 1 and any(catalog.CATALOG[step.protocol].mode in ONE_KEY for step in contract.steps):
        raise DisagreementError("the contract counts people by several keys at once", "propose it with one match key")
    if contract.is_horizontal:
        rules.check_shape(contract)


def _check_parties(home: Home, store: Store, contract: Contract, policy: Policy, now_s: float) -> None:
    me = home.name()
    if contract.party(me).identity != home.load_identity().public.hex():
        raise DisagreementError(
            f"the contract names another key for {me} than the one that is here", "give the proposer your card anew"
        )
    for party in contract.parties:
        if party.name == me:
            continue
        if policy.allowed_partners is not None and party.name not in policy.allowed_partners:
            raise PolicyError(
                f"our policy does not allow campaigns with {party.name}", "see allowed_partners in policy.toml"
            )
        pinned = store.partner(party.name)
        if pinned is None:
            raise PolicyError(
                f"the card of {party.name} is not trusted here",
                f"ask {party.name} for its card, then `tidegate party trust`",
            )
        if pinned.identity.hex() != party.identity:
            raise DisagreementError(
                f"the contract names another key for {party.name} than the card trusted here",
                f"call {party.name} and compare fingerprints",
            )
    if contract.helper and contract.helper != home.coordinator_identity().hex():
        raise DisagreementError(
            "the contract names another key for the coordinator than the one this party joined with",
            "all parties of it have to join the same coordinator",
        )


def _check_learns(home: Home, store: Store, contract: Contract, policy: Policy, now_s: float) -> None:
    right = learns(contract.steps, {party.name: party.role for party in contract.parties}, contract.guards)
    for name, lines in right.items():
        if set(contract.learns.get(name, ())) != set(lines):
            raise DisagreementError(
                f"the contract does not say truly what {name} learns from its steps",
                "have it proposed again, without [learns] or with every line that `tidegate campaign check` shows",
            )


def _check_guards(home: Home, store: Store, contract: Contract, policy: Policy, now_s: float) -> None:
    for field in dataclass_fields(Guards):
        value, rule = getattr(contract.guards, field.name), getattr(policy.guards, field.name)
        at_least = field.name in AT_LEAST
        if (value < rule) if at_least else (value > rule):
            raise PolicyError(
                f"guards.{field.name} is {value}, our policy asks for {rule} or {'more' if at_least else 'less'}",
                f"have it proposed with guards.{field.name} = {rule}",
            )


def _check_audit(home: Home, store: Store, contract: Contract, policy: Policy, now_s: float) -> None:
    if policy.require_audit and contract.is_horizontal:
        raise PolicyError(
            "our policy asks for what an auditor needs, which campaigns between clients do not keep",
            "see require_audit in policy.toml",
        )
    if policy.require_audit and not contract.audit:
        raise PolicyError(
            "our policy asks that the brand keeps what an auditor needs", "have it proposed with audit = true"
        )


def _check_privacy(home: Home, store: Store, contract: Contract, policy: Policy, now_s: float) -> None:
    epsilon = contract.privacy.epsilon_milli / 1000
    if epsilon > policy.max_epsilon and contract.party(home.name()).role in ("media", CLIENT):
        raise PolicyError(
            f"the campaign asks for an epsilon of {epsilon:g}, our policy allows {policy.max_epsilon:g} for all "
            "campaigns on one state of a data set",
            f"have it proposed with epsilon = {policy.max_epsilon:g} or less",
        )


_TRAIN_SETTINGS = {
    "steps": (1, 12),
    "l2_milli": (0, 10**9),
    "lookalike_steps": (0, 11),
    "balance": (0, 1),
    "early_stop": (0, 1),
    "importance": (0, 1),
}
_SEGMENT_SETTINGS = {
    "k": (0, SEGMENTS[1]),
    "most_k": SEGMENTS,
    "starts": STARTS,
    "iterations": ITERATIONS,
    "brand_weight": (1, 10**6),
    "media_weight": (1, 10**6),
}
_INTEGER_SETTINGS: dict[str, dict[str, tuple[int, int]]] = {
    "doctor.oprf@1": {"sample": SAMPLE_ROWS},
    "match.oprf-epoch@1": {"prefix_bits": PREFIX_BITS},
    "train.fourier-lr@1": _TRAIN_SETTINGS,
    "train.fourier-lr-hidden@1": _TRAIN_SETTINGS,
    "train.fourier-lr-several@1": _TRAIN_SETTINGS,
    "train.fourier-lr-seeds@1": {**_TRAIN_SETTINGS, "others_per_seed": OTHERS_PER_SEED},
    "expand.rows@1": {"control_percent": CONTROL_PERCENT},
    "segment.kmeans@1": _SEGMENT_SETTINGS,
    "segment.kmeans-several@1": _SEGMENT_SETTINGS,
    **rules.SETTINGS,
}
# Exactly one of them says how large the audiences of expand are; each value lies in its range.
AUDIENCES: dict[str, tuple[int, int]] = {"sizes": (1, 50), "people": (50, 10**9), "threshold_milli": (1, 999)}


def _check_steps(home: Home, store: Store, contract: Contract, policy: Policy, now_s: float) -> None:
    steps = {step.step: step for step in contract.steps}
    for step in contract.steps:
        name = step.step
        if policy.allowed_steps is not None and name not in policy.allowed_steps:
            raise PolicyError(f"our policy does not allow the step {name}", "see allowed_steps in policy.toml")
        known = _INTEGER_SETTINGS.get(step.protocol, {})
        wanted = set(known) | (set(AUDIENCES) & set(step.settings) if name == "expand" else set())
        if set(step.settings) != wanted or (name == "expand" and len(set(AUDIENCES) & wanted) != 1):
            raise DisagreementError(f"step {name} has the settings {sorted(step.settings)}, expected {sorted(wanted)}")
        for key, (low, high) in known.items():
            value = step.settings[key]
            if not isinstance(value, int) or not low <= value <= high:
                raise DisagreementError(f"step {name}: {key} is not a whole number from {low} to {high}")
    if "expand" in steps:
        _check_audiences(steps["expand"])
    if "train" in steps:
        _check_training(contract, steps)
    if "federate" in steps:
        rules.check_step(contract, steps["federate"])
    _check_joint(contract, steps)


def _check_audiences(expand: Step) -> None:
    key = next(key for key in AUDIENCES if key in expand.settings)
    sizes, (low, high) = expand.settings[key], AUDIENCES[key]
    if not isinstance(sizes, list) or sorted(set(sizes)) != sizes or not low <= sizes[0] <= sizes[-1] <= high:
        raise DisagreementError(f"step expand: {key} are not rising whole numbers from {low} to {high}")


def _check_training(contract: Contract, steps: dict[str, Step]) -> None:
    settings = steps["train"].settings
    total = optimiser_steps(steps["train"])
    if total > contract.guards.train_steps:
        raise PolicyError(
            f"training takes {total} steps, guards.train_steps allows {contract.guards.train_steps}",
            "train fewer steps",
        )
    # A model of the media's columns alone: from seeds it is the only one.
    if "expand" in steps and not settings["lookalike_steps"] and not contract.label.seeds:
        raise DisagreementError("step expand needs lookalike_steps in step train")
    if is_hidden(contract.steps) and contract.holdout.column:
        raise DisagreementError(
            "the contract holds rows out by a column, which the media must not know while it does not know who matched",
            "propose it with a share in [holdout]",
        )
    if is_hidden(contract.steps) and settings["lookalike_steps"]:
        raise DisagreementError("other people cannot be searched where the media does not know who matched")
    if contract.label.seeds and settings["lookalike_steps"]:
        raise DisagreementError("from seeds there is one model alone, so no lookalike_steps in step train")


def _check_joint(contract: Contract, steps: dict[str, Step]) -> None:
    """Steps with several media do not have all that steps with one of them have."""
    if not any(catalog.CATALOG[step.protocol].several for step in contract.steps):
        return
    asked = {
        "a model of the media's columns alone": "train" in steps and steps["train"].settings["lookalike_steps"],
        "a model of another campaign": contract.model and models.makers(list(steps)) != ("segment",),
        "differential privacy": contract.privacy.epsilon_milli,
    }
    for what, there in asked.items():
        if there:
            raise DisagreementError(
                f"with several media at once a contract cannot ask for {what}", "propose a campaign for each media"
            )


def _check_data(home: Home, store: Store, contract: Contract, policy: Policy, now_s: float) -> None:
    me = contract.party(home.name())
    data = store.dataset(me.data.name)
    if (data.commitment, data.rows) != (me.data.commitment, me.data.rows):
        raise DisagreementError(
            f"the contract names another state of data set {data.name} than the one registered here",
            f"offer it again (`tidegate party data offer {data.name} --to ...`) and have the campaign proposed again",
        )
    for key in contract.keys:
        if key.kind not in data.keys:
            raise DisagreementError(
                f"the contract matches on {key.kind}, data set {data.name} has no such key",
                "propose it with other keys",
            )
        given = data.given.get(key.kind, key.form)
        if given != key.form and any(step.step == "match" for step in contract.steps):
            raise DisagreementError(
                f"the contract enters {key.kind} as {key.form}, data set {data.name} has {given} digests of it alone",
                f'have it proposed with hashed = {{ {key.kind} = "{given}" }}',
            )
    columns = {column["name"]: column for column in data.columns}
    features = contract.features.get(me.name, ())
    label, outcome = contract.label, contract.outcome
    asked = (label.column, label.weight, contract.holdout.column, outcome.converted, outcome.spend)
    own = asked if me.role in ("brand", CLIENT) else ()
    total = _total_column(contract, me)
    used = [*features, *(column for column in own if column), *total]
    for column in used:
        if column not in columns:
            raise DisagreementError(f"the contract uses column {column!r}, data set {data.name} has none such")
        if column in policy.hidden_columns:
            raise PolicyError(f"our policy hides column {column!r}", "see hidden_columns in policy.toml")
    usable = set(usable_features(data.columns))
    for column in features:
        if column not in usable or column in own:
            raise DisagreementError(f"column {column!r} of data set {data.name} cannot be a feature")
    for column in total:
        if columns[column]["kind"] != "number":
            raise DisagreementError(
                f"column {column!r} of data set {data.name} has no sum", "propose it with a column of numbers"
            )
    if contract.is_horizontal:
        rules.check_own_columns(contract, data)
    _check_offered(store, contract, me)


def _total_column(contract: Contract, party: ContractParty) -> tuple[str, ...]:
    """The column of this party that is added up, if it is its."""
    return (contract.total.column,) if party.role == contract.total.role else ()


def _check_offered(store: Store, contract: Contract, me: ContractParty) -> None:
    """Columns that a partner was not shown are not its to ask for. The brand or the first client proposes: no offer."""
    proposer = (contract.parties[0] if contract.is_horizontal else contract.role("brand")).name
    if me.name == proposer:
        return
    # Others are shown nothing of it: what is between the proposer and them is not between us and them.
    offer = store.offer(proposer, me.data.name, sent=True)
    if offer is None or offer.commitment != me.data.commitment:
        raise PolicyError(
            f"data set {me.data.name} as it is now was not offered to {proposer}",
            f"`tidegate party data offer {me.data.name} --to {proposer}`, then have it proposed again",
        )
    shown = {column["name"] for column in offer.columns}
    label = {contract.label.column} - {""} if me.role == CLIENT else set()
    if {*contract.features.get(me.name, ()), *_total_column(contract, me), *label} - shown:
        raise PolicyError(f"the contract asks for columns that were not offered to {proposer}", "refuse it")


def _check_model(home: Home, store: Store, contract: Contract, policy: Policy, now_s: float) -> None:
    models.check(home, store, contract)


def _check_ledger(home: Home, store: Store, contract: Contract, policy: Policy, now_s: float) -> None:
    """Whether the data set can give away what the contract may take: a media's optimiser steps, either's passes."""
    me = contract.party(home.name())
    for index, step in enumerate(contract.steps):
        if step.step == "train" and me.role == "media":
            kind, amount, limit = "train_steps", optimiser_steps(step), contract.guards.train_steps
        elif step.step in budget.STEPS:
            kind, amount, limit = budget.KIND, budget.passes(step), budget.MOST
        else:
            continue
        digest = store.dataset(me.data.name).digest
        for partner in budget.partners(contract, me.name, step):
            store.check_room(digest, partner, kind, amount, limit, contract.hash, index)


def optimiser_steps(step: Step) -> int:
    """The most that a step of training takes, all its models together."""
    return sum(int(str(step.settings[name])) for name in ("steps", "lookalike_steps"))


def _check_file(home: Home, store: Store, contract: Contract, policy: Policy, now_s: float) -> None:
    me = contract.party(home.name())
    data = store.dataset(me.data.name)
    if not is_unchanged(data):
        raise DisagreementError(
            f"the file of data set {data.name} has changed since it was registered",
            "put the old file back, or register and offer the new one and have the campaign proposed again",
        )
    if contract.is_horizontal:
        rules.check_own_label(contract, data)


def _only(where: str, raw: dict[str, Any], known: set[str]) -> None:
    for name in raw:
        if name not in known:
            raise ConfigError(f"{where}: {name!r} is no rule; known are {', '.join(sorted(known))}", "correct its name")


def _table(where: str, raw: dict[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {key} is a table, written [{key}]", "correct it")
    return value


def _names(where: str, raw: dict[str, Any], key: str) -> tuple[str, ...]:
    value = raw.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{where}: {key}: expected a list of names, found {value!r}", f'for example {key} = ["..."]')
    return tuple(value)


def _integer(where: str, key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{where}: {key}: expected a whole number, found {value!r}", "correct it")
    return value


def _positive(where: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"{where}: {key}: expected a number above 0, found {value!r}", "correct it")
    return float(value)


def _flag(where: str, key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {key}: expected true or false, found {value!r}", "correct it")
    return value


def _stricter(name: str, strict: dict[str, int]) -> int:
    hard = int(getattr(HARD_GUARDS, name))
    return (max if name in AT_LEAST else min)(hard, strict.get(name, hard))
