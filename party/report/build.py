"""Reads what each step left at this party and writes report.html and report.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tidegate.protocols.channel import ConfigError
from tidegate.wire.contract import Contract

from ..agreed import terms
from . import page
from .wording import listed

Facts = dict[str, Any]

_AGAIN = "run the campaign again to make its results anew"


def build(
    campaign_dir: Path, contract: Contract, party: str, out: Path, extra: Mapping[str, Any] | None = None
) -> Path:
    """Writes report.html and report.json into the folder `out` and returns the path of report.html.

    With several media the brand's report has the steps with each under "media", those with all of them where they are
    with one media, and "together": what several know.
    Steps that left no `<step>/facts.json` under `campaign_dir` are left out. `extra` is what only a demonstration
    knows, where both sides are at hand: "media_facts" {step: facts}, "pooled" {"auc", "log_loss"}, "pooled_segments"
    {"agreement", "looser"}, "expand_truth" {"base_rate", "sizes": [{"percent", "people", "rate"}]}, "note". Nothing is
    left half-written.
    """
    report = gather(campaign_dir, contract, party, extra or {})
    out.mkdir(parents=True, exist_ok=True)
    _replace(out / "report.json", json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return _replace(out / "report.html", page.render(report))


def gather(campaign_dir: Path, contract: Contract, party: str, extra: Mapping[str, Any]) -> Facts:
    """Everything the report says, as report.json has it."""
    mine = {step.name: step for step in contract.steps if contract.takes_part(party, step)}
    steps = {name: facts for name in mine if (facts := _read(campaign_dir / name / "facts.json")) is not None}
    me, several = contract.party(party), len(contract.media) > 1
    others = [other for other in contract.parties if other.name != party]
    peers = [other.name for other in others if contract.is_horizontal or other.role != me.role]
    report: Facts = {
        "campaign": contract.campaign,
        "party": party,
        "role": me.role,
        "peer": listed(peers),
        "contract": contract.hash.hex(),
        "software": contract.software,
        "created_s": contract.created_s,
        "expires_s": contract.expires_s,
        "label": asdict(contract.label),
        "keys": [key.kind for key in contract.keys],
        "terms": terms(contract),
        "parties": [asdict(other) for other in contract.parties],
        "protocols": [{**asdict(step), "name": step.name} for step in contract.steps],
        "guards": asdict(contract.guards),
        "privacy": asdict(contract.privacy),
        **{
            mine[name].step: facts
            for name, facts in steps.items()
            if not (several and me.role == "brand" and mine[name].media)
        },
        "seconds": {name: facts["seconds"] for name, facts in steps.items() if "seconds" in facts},
        "bytes": {
            name: {way: facts[way] for way in ("sent", "received") if way in facts} for name, facts in steps.items()
        },
        "learned": {},
    }
    recorded = {party: steps}
    if extra.get("media_facts"):
        recorded[contract.role("media").name] = dict(extra["media_facts"])
        report["media_facts"] = dict(extra["media_facts"])
    report["recorded"] = sorted(recorded)
    for name in [other.name for other in contract.parties] + ["coordinator"]:
        if name in recorded:
            lines = [line for facts in recorded[name].values() for line in facts.get("learned", ())]
        else:
            lines = list(contract.learns.get(name, ()))
        report["learned"][name] = list(dict.fromkeys(lines))
    if several and me.role == "brand":
        report["media"] = {
            media: {mine[name].step: facts for name, facts in steps.items() if mine[name].media == media}
            for media in peers
        }
        report["together"] = next((facts["together"] for facts in steps.values() if "together" in facts), None)
    if extra.get("note"):
        report["note"] = str(extra["note"])
    if "train" in report and me.role == "brand":
        report["train"] = _train(report["train"], extra.get("pooled"))
    if "segment" in report:
        report["segment"] = _segment(report["segment"], contract.guards.floor, extra.get("pooled_segments"))
    if "expand" in report:
        report["expand"] = _expand(report["expand"], extra.get("expand_truth"))
    return report


def _train(train: Facts, pooled: Mapping[str, Any] | None) -> Facts:
    auc = dict(train.get("auc", {}))
    auc.update(gain=train.get("gain"), gain_interval=train.get("gain_interval"))
    log_loss = dict(train.get("log_loss", {}))
    if pooled:
        auc["pooled_clear_text"] = pooled.get("auc")
        log_loss["pooled_clear_text"] = pooled.get("log_loss")
    lifts = {f"lift_at_{percent}": dict(lift) for percent, lift in train.get("lift_at", {}).items()}
    return {**train, "auc": auc, "log_loss": log_loss, **lifts}


def _segment(segment: Facts, floor: int, pooled: Mapping[str, Any] | None) -> Facts:
    """The segment facts without any segment that is under the floor, which none of a step that has ended is."""
    kept = [i for i, one in enumerate(segment.get("segments", ())) if one["size"] >= floor]
    each = ("segments", "at_least", "index", "deviation")
    traits = [
        {**trait, **{name: [trait[name][i] for i in kept] for name in each}} for trait in segment.get("traits", ())
    ]
    shown = {**segment, "segments": [segment["segments"][i] for i in kept], "traits": traits}
    return {**shown, "pooled_clear_text": dict(pooled)} if pooled else shown


def _expand(expand: Facts, truth: Mapping[str, Any] | None) -> Facts:
    """The expand facts with, for each size, the expected base rate, and the true figures where they are known."""
    known = {entry["percent"]: entry["rate"] for entry in truth["sizes"]} if truth else {}
    sizes = []
    for size in expand.get("sizes", ()):
        more: Facts = {}
        if size.get("expected_rate") is not None and size.get("expected_lift"):
            more["expected_base_rate"] = size["expected_rate"] / size["expected_lift"]
        if truth and size["percent"] in known:
            rate, base = known[size["percent"]], truth["base_rate"]
            more |= {"true_rate": rate, "true_base_rate": base, "true_lift": rate / base if base else None}
        sizes.append({**size, **more})
    return {**expand, "sizes": sizes}


def _read(path: Path) -> Facts | None:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", _AGAIN) from None
    if not isinstance(facts, dict):
        raise ConfigError(f"{path} does not hold the facts of a step", _AGAIN)
    return facts


def _replace(path: Path, text: str) -> Path:
    """Writes the whole file or leaves the old one: a full disk never leaves half a report."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path
