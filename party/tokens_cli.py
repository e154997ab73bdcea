"""`tidegate party tokens`: build the tokens of an epoch ahead, list what there is, destroy it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tidegate.protocols.channel import ConfigError
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.wire.contract import KEY_FORMS, KEY_PROFILES, Key

from . import screen
from .config import Home
from .screen import console, say
from .store import Dataset, Store
from .tokens import folders
from .tokens.own import spent

if TYPE_CHECKING:
    from .tokens.build import Say

tokens_app = typer.Typer(
    help="Tokens made ahead, for campaigns that match in epoch mode. The larger side, a media, builds them.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(metavar="DATASET", help="The name of a data set.")]
Partner = Annotated[str, typer.Option("--partner", help="The partner: each has tokens and a key of its own.")]
FOR_ROWS = 1_000_000
_LINE_EVERY_S = 5.0


@tokens_app.command("build")
def build(
    ctx: typer.Context,
    name: Name,
    partner: Partner,
    epoch: Annotated[str, typer.Option(help="What contracts shall call the epoch, e.g. 2026-q4.")],
    for_rows: Annotated[int, typer.Option(min=1, max=10**9, help="Rows of the partner's data set at most.")] = FOR_ROWS,
    queries: Annotated[
        int | None,
        typer.Option(
            min=1, help="Identifiers the partner may ask for in the epoch. Default: 2 x --for-rows.", show_default=False
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="Kind of identifier; repeat for several. Default: all.", show_default=False),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option("--profile", help="KIND=PROFILE: whose rules spell it. Default: plain.", show_default=False),
    ] = None,
    hashed: Annotated[
        list[str] | None,
        typer.Option("--hashed", help="KIND=sha256 or md5, where campaigns enter digests.", show_default=False),
    ] = None,
) -> None:
    """Make a data set's tokens for one partner and epoch, or bring them up to date: then only new people cost work."""
    # It brings the protocols' libraries; the other commands should start without them.
    from .tokens.build import build as build_tokens

    home: Home = ctx.obj
    with closing(Store(home.require().store_db)) as store:
        data = store.dataset(name)
        if store.partner(partner) is None:
            raise ConfigError(f"the card of {partner} is not trusted here", "`tidegate party trust` its card first")
        keys = _keys(data, key, profile or [], hashed or [])
        folder = folders.own_folder(home.tokens, name, partner, epoch)
        with _progress() as on_block:
            built = build_tokens(
                folder,
                data,
                keys,
                for_rows=for_rows,
                queries=queries,
                randomness=Randomness.system(),
                say=on_block,
            )
        store.audit(
            "tokens built",
            dataset=name,
            partner=partner,
            epoch=epoch,
            commitment=data.commitment,
            tokens=sum(built.tokens.values()),
        )
        people = ", ".join(f"{count:,} by {kind}" for kind, count in built.tokens.items())
        say(f"Tokens of {name} for {partner}, epoch {epoch}: {people}", "green")
        say(f"  {built.evaluated:,} identifiers evaluated now, {built.known:,} as the last build left them")


def _keys(data: Dataset, kinds: list[str] | None, profiles: list[str], forms: list[str]) -> tuple[Key, ...]:
    wanted = tuple(dict.fromkeys(kinds)) if kinds else tuple(data.keys)
    for kind in wanted:
        if kind not in data.keys:
            raise ConfigError(f"data set {data.name} has no {kind} column", f"its keys: {', '.join(sorted(data.keys))}")
    profile = _by_kind("--profile", profiles, wanted, KEY_PROFILES)
    form = {
        **{kind: data.given.get(kind, "clear") for kind in wanted},
        **_by_kind("--hashed", forms, wanted, KEY_FORMS),
    }
    return tuple(Key(kind, profile.get(kind, "plain"), form[kind]) for kind in wanted)


def _by_kind(option: str, given: list[str], kinds: tuple[str, ...], known: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in given:
        kind, equals, word = text.partition("=")
        if not equals or kind not in kinds or word not in known:
            raise ConfigError(
                f"{option} {text!r}: expected KIND=WORD with KIND one of {', '.join(kinds)}",
                f"and WORD one of {', '.join(known)}",
            )
        found[kind] = word
    return found


@contextmanager
def _progress() -> Iterator[Say]:
    """Shows how far a build is: a bar on a terminal, a line now and then elsewhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen.errors, transient=True, disable=not screen.errors.is_terminal) as bar:
        tasks: dict[str, Any] = {}
        said_s = time.monotonic()

        def on_block(kind: str, done: int, rows: int) -> None:
            nonlocal said_s
            if kind not in tasks:
                tasks[kind] = bar.add_task(kind, total=rows)
            bar.update(tasks[kind], completed=done)
            if bar.disable and time.monotonic() - said_s > _LINE_EVERY_S:
                said_s = time.monotonic()
                say(f"{kind}: {done:,} of {rows:,} rows")

        yield on_block


@tokens_app.command("list")
def list_tokens(
    ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False
) -> None:
    """List the tokens built here, with what was spent of their budgets, and those kept of partners."""
    home: Home = ctx.obj
    with closing(Store(home.require().store_db)) as store:
        commitments = {data.name: data.commitment for data in store.datasets()}
    lines = [_line(one, commitments) for one in folders.kept(home.tokens)]
    if as_json:
        typer.echo(json.dumps(lines, indent=2))
        return
    if not lines:
        say(
            "No tokens are here. A media makes them: `tidegate party tokens build DATASET --partner NAME --epoch NAME`."
        )
        return
    shown = screen.table("data set", "partner", "epoch", "tokens", "asked", "state", "on disk")
    for line in lines:
        counts = ", ".join(f"{kind} {count:,}" for kind, count in line["tokens"].items()) or "none yet"
        asked = f"{line['asked']:,} of {line['queries']:,}" if line["own"] else f"{line['asked']:,}"
        data = line["dataset"] if line["own"] else f"{line['dataset']} of {line['partner']}"
        screen.row(
            shown, data, line["partner"], line["epoch"], counts, asked, line["state"], f"{line['bytes'] / 1e6:,.1f} MB"
        )
    console.print(shown)


def _line(one: folders.Kept, commitments: dict[str, str]) -> dict[str, Any]:
    sets: dict[str, dict[str, Any]] = one.says.get("sets", {})
    built = one.says.get("commitment")
    if not one.own:
        state = "kept of a partner"
    elif not sets:
        state = "not built to the end"
    else:
        state = "built" if built == commitments.get(one.dataset) else "of an earlier state of the data set"
    return {
        "own": one.own,
        "dataset": one.dataset,
        "partner": one.partner,
        "epoch": one.epoch,
        "tokens": {kind: each["tokens"] for kind, each in sets.items()},
        "asked": spent(one.folder) if one.own else sum(each["people"] for each in sets.values()),
        "queries": one.says.get("queries", 0),
        "state": state,
        "bytes": one.size,
    }


@tokens_app.command("delete")
def delete(
    ctx: typer.Context,
    name: Name,
    partner: Partner,
    epoch: Annotated[str, typer.Option(help="Only of this epoch. Default: of all.", show_default=False)] = "",
) -> None:
    """Destroy the key and the tokens of a data set for a partner, or what is kept of a partner's data set."""
    home: Home = ctx.obj
    with closing(Store(home.require().store_db)) as store:
        found = [
            one
            for one in folders.kept(home.tokens)
            if (one.dataset, one.partner) == (name, partner) and epoch in ("", one.epoch)
        ]
        if not found:
            raise ConfigError(
                f"there are no tokens of {name} for {partner}{f' and epoch {epoch}' if epoch else ''}",
                "`tidegate party tokens list` shows what there is",
            )
        for one in found:
            folders.destroy(one.folder)
            store.audit("tokens destroyed", dataset=name, partner=partner, epoch=one.epoch)
            say(f"Destroyed the {'key and ' if one.own else ''}tokens of {name}, {partner}, epoch {one.epoch}")
