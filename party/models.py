"""The models that a party keeps: its part of what each committed training or segmentation left, by the contract's name.

Of a training the brand's part holds its own weights and those of the media in a basis that only the media knows; the
media's part is that basis. Of segments each part is a party's own columns of the centroids. Neither says anything
without the other, and each is deleted by its own party alone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.protocols.channel import ConfigError, DisagreementError, PolicyError, TidegateError
from tidegate.wire.contract import Contract

from .config import Home
from .job import Job
from .order import is_result_of
from .results import read_json
from .store import FINAL, Campaign, Store

PARTS = ("joint", "lookalike", "segments")
MAKERS = {"train": "train", "score": "train", "expand": "train", "assign": "segment"}
"""By step the one whose results it uses."""
_FILE = "model.json"
_TRAIN, _SEGMENT = "train", "segment"
_WHAT = {_TRAIN: "model", _SEGMENT: "segmentation"}


@dataclass(frozen=True)
class Kept:
    """A model of this party's: the campaign that made it, in which step, its file, when, which models are in it.

    facts: what the report of that step says. used: how many steps of campaigns have used it to their end.
    """

    campaign: Campaign
    step: str
    path: Path
    trained_s: int
    parts: tuple[str, ...]
    facts: dict[str, Any]
    used: int

    @property
    def short(self) -> str:
        return self.campaign.short


def kept(home: Home, store: Store) -> list[Kept]:
    """The models of this party, the latest first."""
    found = [
        model
        for campaign in store.campaigns()
        for step in (_TRAIN, _SEGMENT)
        if (model := _of(home, store, campaign, step)) is not None
    ]
    return sorted(found, key=lambda model: -model.trained_s)


def find(home: Home, store: Store, ref: str) -> Kept:
    """The model whose id begins with `ref`. ConfigError if there is none, or more than one.

    "ID/train" and "ID/segment" tell apart what a campaign has left that did both.
    """
    models = kept(home, store)
    ref, _, step = ref.partition("/")
    found = [model for model in models if ref and model.short.startswith(ref) and step in ("", model.step)]
    if len(found) == 1:
        return found[0]
    if len({model.short for model in found}) == 1:
        raise ConfigError(
            f"the campaign {found[0].short} has left a model and segments", "write /train or /segment behind its id"
        )
    if found:
        raise ConfigError(f"{len(found)} models have an id that begins with {ref!r}", "give more of its digits")
    for campaign in store.campaigns():
        if ref and campaign.short.startswith(ref) and any(_made_by(store, campaign, each) for each in MAKERS.values()):
            raise ConfigError(f"the model {campaign.short} was deleted here", "train another one")
    listed = ", ".join(model.short for model in models[:5]) or "none"
    raise ConfigError(f"no model {ref[:80]!r} is kept here (kept: {listed})", "`tidegate party models list` shows all")


def is_kept(home: Home, store: Store, campaign: Campaign, step: str = _TRAIN) -> bool:
    """Whether this party holds its part of what a step of a campaign, train or segment, has made."""
    return _made_by(store, campaign, step) is not None and _path(home, campaign.short, step).is_file()


def delete(home: Home, store: Store, model: Kept) -> None:
    """Removes this party's part for good: it is gone from the disk when this returns. The report's figures stay.

    PolicyError while a campaign that trained it or uses it goes on: its next step would end for want of the model.
    """
    going_on = [one for one in store.campaigns() if one.state not in FINAL and _concerns(one, model.short)]
    if going_on:
        raise PolicyError(
            f"the campaign {going_on[0].name} goes on and uses the model {model.short}",
            f"let it end, or `tidegate campaign cancel {going_on[0].name}` first",
        )
    # It needs this module.
    from . import cache

    cache.forget(home.cache, model=model.short)
    model.path.unlink()
    folder = os.open(model.path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    store.audit("model deleted", model.campaign.hash, parts=", ".join(model.parts))


def makers(steps: Collection[str]) -> tuple[str, ...]:
    """Which steps of the campaign named by [model] have made what a contract with these steps uses: train, segment."""
    used = {MAKERS[step] for step in steps if step in MAKERS}
    return tuple(sorted(used - ({*steps} - {_TRAIN}))) or (_TRAIN,)


def _needed(contract: Contract) -> tuple[str, ...]:
    return makers([step.step for step in contract.steps]) if contract.model else ()


def check(home: Home, store: Store, contract: Contract) -> None:
    """Raises unless this party keeps its part of the model that a contract names, and it is one for this contract."""
    for step in _needed(contract):
        _check_kept(home, store, contract, step)


def _check_kept(home: Home, store: Store, contract: Contract, step: str) -> None:
    campaign = next((one for one in store.campaigns() if one.short == contract.model), None)
    run = _made_by(store, campaign, step) if campaign is not None else None
    if campaign is None or run is None:
        raise ConfigError(
            f"the contract uses the {_WHAT[step]} {contract.model}, which no campaign has trained here",
            "`tidegate party models list` shows those that are; have it proposed with one that both parties keep",
        )
    _read(home.name(), home.results(campaign.short, step), contract.model, step)
    if not is_result_of(home.results(campaign.short, step), run.hex()):
        raise ConfigError(
            f"the {_WHAT[step]} {contract.model} here is not the one that the parties trained",
            "restore the folder campaigns from a backup",
        )
    _check_like(campaign.contract, contract, step)


def _check_like(trained: Contract, now: Contract, maker: str) -> None:
    """Whether a contract may use what a step of another one has made: the same parties, roles and columns."""
    cast = [sorted((party.name, party.role, party.identity) for party in made.parties) for made in (trained, now)]
    if cast[0] != cast[1]:
        raise DisagreementError(
            f"the {_WHAT[maker]} {now.model} was trained between other parties than those of this contract",
            f"use a {_WHAT[maker]} that was trained with the same partner",
        )
    for party in now.parties:
        before, after = set(trained.features.get(party.name, ())), set(now.features.get(party.name, ()))
        if before != after:
            more, less = ", ".join(sorted(after - before)) or "none", ", ".join(sorted(before - after)) or "none"
            raise DisagreementError(
                f"the contract enters other columns of {party.name} than the {_WHAT[maker]} {now.model} was trained "
                f"on: more: {more}; missing: {less}",
                f"propose it with the columns of the {_WHAT[maker]}, or without [model]",
            )
    if maker != _TRAIN:
        return
    if _trains(now) and trained.label.seeds != now.label.seeds:
        raise DisagreementError(
            f"the model {now.model} was trained {'from' if trained.label.seeds else 'not from'} good customers alone, "
            "and this contract trains otherwise",
            "train without [model]",
        )
    if any(step.step == "expand" for step in now.steps) and not trains_lookalike(trained) and not _trains(now):
        raise DisagreementError(
            f"the model {now.model} has no part for other people, which expand needs",
            "use one of a campaign that had the step expand",
        )


def trains_lookalike(contract: Contract) -> bool:
    """Whether a contract trains a model of the media's columns alone."""
    return any(
        bool(step.settings.get("lookalike_steps")) or contract.label.seeds
        for step in contract.steps
        if step.step == _TRAIN
    )


def run_used(store: Store, contract: Contract) -> dict[str, str]:
    """What both sides of a session compare besides the runs of the contract: the runs (hex) that made what it uses."""
    named = [one for one in store.campaigns() if contract.model and one.short == contract.model]
    runs = {step: run for one in named for step in _needed(contract) if (run := _made_by(store, one, step)) is not None}
    return {_WHAT[step]: run.hex() for step, run in runs.items()}


def for_step(job: Job, step: str = _TRAIN) -> dict[str, Any]:
    """This party's part of what a step uses that train or segment has made: in its own campaign, else the one named.

    PolicyError, before anything is sent, where this party has deleted it.
    """
    if step in job.earlier:
        return _read(job.party, job.earlier[step], job.contract.short, step)
    return _read(job.party, job.campaigns / job.contract.model / step, job.contract.model, step)


def part(model: dict[str, Any], wanted: str) -> dict[str, Any]:
    """One of the models in a file. ConfigError where it was not trained."""
    if wanted not in model:
        what = "matched customers" if wanted == "joint" else "other people"
        raise ConfigError(f"no model for {what} was trained", "train one: [steps.train] in the campaign file")
    found: dict[str, Any] = model[wanted]
    return found


def for_customers(model: dict[str, Any]) -> str:
    """The part of a model that scores the brand's customers: from seeds there is but the one for other people."""
    return "joint" if "joint" in model else "lookalike"


def _read(party: str, folder: Path, short: str, step: str) -> dict[str, Any]:
    path = folder / _FILE
    if not path.is_file():
        what = _WHAT[step]
        raise PolicyError(
            f"{party} no longer keeps its part of the {what} {short}: it was deleted", "train another one"
        )
    try:
        return read_json(path)
    except (OSError, ValueError):
        raise ConfigError(f"{path} cannot be read", "restore it from a backup, or train another model") from None


def _of(home: Home, store: Store, campaign: Campaign, step: str) -> Kept | None:
    path, run = _path(home, campaign.short, step), _made_by(store, campaign, step)
    if run is None or not path.is_file():
        return None
    known, parts = store.run(run), _read(home.name(), path.parent, campaign.short, step)
    return Kept(
        campaign=campaign,
        step=step,
        path=path,
        trained_s=known.started_s if known is not None else campaign.added_s,
        parts=tuple(name for name in PARTS if name in parts),
        facts=read_json(path.parent / "facts.json"),
        used=sum(1 for _ in _uses(store, campaign.short, step)),
    )


def _uses(store: Store, short: str, maker: str) -> Iterator[int]:
    """The committed steps that have used a model, of its own campaign and of later ones."""
    for campaign in _readable(store):
        steps = campaign.contract.steps
        own = campaign.short == short
        if not own and campaign.contract.model != short:
            continue
        for index, step in enumerate(steps):
            uses = MAKERS.get(step.step) == maker and not (own and step.step == _TRAIN)
            # Where a later campaign makes its own, its other steps use that.
            replaced = not own and any(one.step == maker for one in steps) and step.step != _TRAIN
            if uses and not replaced and store.committed_run(campaign.hash, index) is not None:
                yield index


def _readable(store: Store) -> Iterator[Campaign]:
    """The campaigns whose contracts this version can read."""
    for campaign in store.campaigns():
        try:
            campaign.contract  # noqa: B018 - read to see whether it can be
        except TidegateError:
            continue
        yield campaign


def _concerns(campaign: Campaign, short: str) -> bool:
    try:
        return campaign.short == short or campaign.contract.model == short
    except TidegateError:
        return False


def _trains(contract: Contract) -> bool:
    return any(step.step == _TRAIN for step in contract.steps)


def _made_by(store: Store, campaign: Campaign, maker: str) -> bytes | None:
    """The committed run of a campaign's step of this name."""
    try:
        steps = campaign.contract.steps
    except TidegateError:
        return None
    made = [index for index, step in enumerate(steps) if step.step == maker]
    return store.committed_run(campaign.hash, made[0]) if made else None


def _path(home: Home, short: str, step: str) -> Path:
    return home.results(short, step) / _FILE
