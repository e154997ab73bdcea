"""`tidegate party models`: list the models kept here, show one, delete one."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Annotated, Any

import typer

from tidegate.protocols.channel import ConfigError

from . import models, screen
from .config import Home
from .results import read_json
from .screen import console, say
from .store import Store

models_app = typer.Typer(
    help="The models that campaigns have trained: each party keeps its own part of them.", no_args_is_help=True
)
Id = Annotated[str, typer.Argument(metavar="ID", help="The id of a model, or its first digits.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
_MODELS = {"joint": "joint", "lookalike": "other people", "segments": "segments"}
_LISTED = 30


@models_app.command("list")
def list_models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the models kept here, the latest first."""
    home: Home = ctx.obj
    with closing(Store(home.require().store_db)) as store:
        lines = [_line(home, model) for model in models.kept(home, store)]
    if as_json:
        typer.echo(json.dumps(lines, indent=2))
        return
    if not lines:
        say("No model is kept here. A campaign with [steps.train] or [steps.segment] makes one.")
        return
    shown = screen.table("id", "campaign", "partner", "trained", "rows", "AUC", "scores", "used", whole=1)
    for line in lines:
        auc = f"{line['auc']:.3f}" if line["auc"] is not None else "with the brand" if line["step"] == "train" else ""
        parts = " and ".join(_MODELS[part] for part in line["parts"])
        times = f"{line['used']} time{'' if line['used'] == 1 else 's'}"
        cells = (line["id"], line["campaign"], ", ".join(line["partners"]), screen.day(line["trained_s"]))
        screen.row(shown, *cells, f"{line['rows']:,}", auc, parts, times)
    console.print(shown)


@models_app.command("show")
def show(ctx: typer.Context, ref: Id, as_json: AsJson = False) -> None:
    """Show a model: its columns, and at the brand its weights."""
    home: Home = ctx.obj
    with closing(Store(home.require().store_db)) as store:
        model = models.find(home, store, ref)
        found = {**_line(home, model), **_inside(home, model)}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    say(f"Model {found['id']} of campaign {found['campaign']}, with {', '.join(found['partners'])}", "bold")
    say(f"trained {screen.day(found['trained_s'])} on {found['rows']:,} rows; used {found['used']} times since")
    if found["step"] == "segment":
        _say_segments(found)
        return
    if found["started_from"]:
        say(f"started from the model {found['started_from']}")
    if found["role"] == "media":
        say(f"{len(found['columns'])} columns: {', '.join(found['columns'])}")
        say("The weights are with the brand. It has them for columns mixed in a secret way that is kept here alone.")
        return
    if found["auc"] is not None:
        say(f"AUC {found['auc']:.3f} on rows held out; L2 {found['l2']:g}")
    if found["weights"]:
        shown = screen.table("column", "weight", "give or take", "clear")
        for weight in sorted(found["weights"], key=lambda each: -abs(each["weight"]))[:_LISTED]:
            clear = {1: "raises", -1: "lowers", 0: "within noise"}[weight.get("sign", 0)]
            error = weight.get("standard_error")
            given = f"{error:.3f}" if error is not None else ""
            screen.row(shown, weight["name"], f"{weight['weight']:+.3f}", given, clear)
        console.print(shown)
        say("Weights per standard deviation; what they are given or taken is for the media's part as it is.", "dim")
    say(f"The media's part: {found['media_columns']} weights in a secret basis that only the media can read.")


def _say_segments(found: dict[str, Any]) -> None:
    say(f"{len(found['columns'])} columns: {', '.join(found['columns'])}")
    for segment in found["segments"]:
        say(f"segment {segment['number']}: {segment['size']:,} people, {segment.get('name', 'named by the brand')}")
    say("The centres of the segments are kept by both sides, each in its own columns.")


@models_app.command("delete")
def delete(
    ctx: typer.Context,
    ref: Id,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; for programs.")] = False,
) -> None:
    """Delete this party's part of a model for good. The other party keeps its own, which is of no use without."""
    # It brings the protocols' libraries; the other commands should start without them.
    from . import cache

    home: Home = ctx.obj
    with closing(Store(home.require().store_db)) as store:
        model = models.find(home, store, ref)
        if not yes:
            partners = ", ".join(_line(home, model)["partners"])
            say(f"Model {model.short} of campaign {model.campaign.name}, with {partners}.")
            uses = "assign people to its segments" if model.step == "segment" else "score or expand with it"
            say(f"Nobody can {uses} then. It cannot be brought back; its report stays.")
            if not typer.confirm("Delete it?"):
                raise ConfigError("the model was not deleted", "with --yes nothing is asked")
        models.delete(home, store, model)
        cache.forget(home.cache, model=model.short)
        say(f"Deleted: the part of model {model.short} that was kept here", "green")


def _line(home: Home, model: models.Kept) -> dict[str, Any]:
    contract = model.campaign.contract
    role = contract.party(home.name()).role
    partners = contract.media if role == "brand" else (contract.role("brand"),)
    auc, rows = model.facts.get("auc") or {}, model.facts["rows"]
    return {
        "id": model.short,
        "step": model.step,
        "campaign": model.campaign.name,
        "partners": [party.name for party in partners],
        "role": role,
        "trained_s": model.trained_s,
        "rows": rows["train"] if model.step == "train" else rows,
        "auc": auc.get("joint", auc.get("media_only")),
        "parts": list(model.parts),
        "used": model.used,
        "started_from": model.facts.get("started_from", ""),
    }


def _inside(home: Home, model: models.Kept) -> dict[str, Any]:
    """What is in this party's part, without the numbers that stand for the other's columns."""
    kept = read_json(model.path)
    if model.step == "segment":
        return {"columns": model.facts["columns"], "segments": model.facts["segments"]}
    recipe = json.loads(kept["recipe"])
    columns = list(dict.fromkeys(feature["column"] for feature in recipe["features"]))
    if model.campaign.contract.party(home.name()).role == "media":
        return {"columns": columns}
    weights = kept[models.for_customers(kept)]["media_weights"]
    # Of several media there are as many weights each.
    media = sum(map(len, weights.values())) if isinstance(weights, dict) else len(weights)
    return {
        "columns": columns,
        "l2": model.facts["l2"],
        "weights": model.facts.get("weights", []),
        "media_columns": media,
    }
