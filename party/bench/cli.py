"""`tidegate bench match|tokens|insight|segment|train|score|expand|federate|accuracy|privacy|rivals|naive|kernel`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tidegate.protocols.catalog import ENGINES, match_protocol
from tidegate.protocols.channel import ConfigError

bench_app = typer.Typer(
    help="Measure one step between real processes on this machine, on generated data.", no_args_is_help=True
)
Rows = Annotated[int, typer.Option(min=1_000, max=100_000_000, help="People (see each command).")]
Features = Annotated[int, typer.Option(min=1, max=400, help="Columns of this party.")]
# Those that need nothing but the tables.
BENCH_MODES = ("both", "brand", "size")
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@bench_app.command("match")
def match(
    rows: Rows = 100_000,
    peer_rows: Annotated[int | None, typer.Option(min=1_000, help="Rows of the media; default as many.")] = None,
    overlap: Annotated[int, typer.Option(min=1, max=100, help="Percent of the smaller side that both have.")] = 50,
    keys: Annotated[str, typer.Option(help="Kinds of identifiers, in order: email, phone or both.")] = "email",
    mode: Annotated[str, typer.Option(help="Who is told what: both, brand or size.")] = "both",
    engine: Annotated[str, typer.Option(help="What compares.")] = "oprf",
    as_json: AsJson = False,
) -> None:
    """Private set intersection of two tables with messy identifiers."""
    if match_protocol(engine, mode) is None or mode not in BENCH_MODES:
        text = f"--mode {mode!r} --engine {engine!r}: expected a mode of {', '.join(BENCH_MODES)} that the engine has"
        raise ConfigError(text, f"the engines are {', '.join(ENGINES)}")
    _measure(
        "match",
        rows,
        as_json,
        peer_rows=peer_rows or rows,
        overlap_percent=overlap,
        brand_features=1,
        media_features=1,
        keys=keys,
        mode=mode,
        engine=engine,
    )


@bench_app.command("tokens")
def tokens(rows: Rows = 100_000, as_json: AsJson = False) -> None:
    """Tokens made ahead for an epoch, at the media, and brought up to date after one person in a hundred changed."""
    from .tokens import bench

    if as_json:
        typer.echo(json.dumps(bench(rows)))
        return
    console = Console()
    with console.status(f"Building tokens of {rows:,} people ..."):
        figures = bench(rows)
    console.print(_table("tokens", figures))


@bench_app.command("insight")
def insight(rows: Rows = 100_000, features: Features = 20, as_json: AsJson = False) -> None:
    """Good customers per bin of the media's columns, over matched rows."""
    _measure("insight", rows, as_json, media_features=features)


@bench_app.command("segment")
def segment(
    rows: Rows = 100_000,
    brand_features: Features = 10,
    media_features: Features = 10,
    k: Annotated[int, typer.Option(min=0, max=10, help="Segments, 2 or more; 0: the people choose, of 2 to 8.")] = 5,
    starts: Annotated[int, typer.Option(min=1, max=10, help="Starts, of which the best is kept.")] = 1,
    iterations: Annotated[int, typer.Option(min=1, max=100, help="Iterations of a start at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Segments of matched rows by both sides' columns, the coordinator comparing; overlapping groups of people."""
    _measure(
        "segment",
        rows,
        as_json,
        brand_features=brand_features,
        media_features=media_features,
        steps=iterations,
        k=k,
        starts=starts,
    )


@bench_app.command("train")
def train(
    rows: Rows = 100_000,
    brand_features: Features = 20,
    media_features: Features = 20,
    steps: Annotated[int, typer.Option(min=1, max=12, help="Optimiser steps.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Blind logistic regression over matched rows, a tenth of them held out."""
    _measure("train", rows, as_json, brand_features=brand_features, media_features=media_features, steps=steps)


@bench_app.command("score")
def score(
    rows: Rows = 100_000,
    features: Features = 20,
    cached: Annotated[bool, typer.Option(help="By the model of a campaign that has scored the same rows.")] = False,
    as_json: AsJson = False,
) -> None:
    """Scores of matched rows to the brand."""
    _measure("score", rows, as_json, media_features=features, cached=cached)


@bench_app.command("expand")
def expand(rows: Rows = 100_000, features: Features = 20, as_json: AsJson = False) -> None:
    """Audiences among the media's other people."""
    _measure("expand", rows, as_json, media_features=features)


@bench_app.command("federate")
def federate(
    clients: Annotated[int, typer.Option(min=3, max=20, help="Parties that hold the same columns.")] = 5,
    rows: Annotated[int, typer.Option(min=1_500, max=10_000_000, help="People at each of them.")] = 20_000,
    features: Annotated[int, typer.Option(min=1, max=300, help="Columns.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="At most; fewer where nothing changes any more.")] = 20,
    app: Annotated[str, typer.Option(help="What is trained: logistic or kmeans.")] = "logistic",
    as_json: AsJson = False,
) -> None:
    """One model over the rows of many clients, by secure sums; says what a round takes."""
    from .federate import Load, bench

    if app not in ("logistic", "kmeans"):
        raise ConfigError(f"--app is {app!r}, expected logistic or kmeans")
    load = Load(clients, rows, features, rounds, app)
    if as_json:
        typer.echo(json.dumps(bench(load)))
        return
    console = Console()
    with console.status(f"Training {app} with {clients} clients: {clients + 1} processes and their workers ..."):
        figures = bench(load)
    console.print(_table("federate", figures))


@bench_app.command("rivals")
def rivals(
    rows: Rows = 100_000,
    peer_rows: Annotated[int | None, typer.Option(min=1_000, help="Rows of the media; default as many.")] = None,
    overlap: Annotated[int, typer.Option(min=1, max=100, help="Percent of the smaller side that both have.")] = 50,
    python: Annotated[str, typer.Option(help="Interpreter of an environment that has the other engines.")] = "python3",
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine; may be given again.")] = None,
    as_json: AsJson = False,
) -> None:
    """Match and, on the same people, what other engines' private set intersections need."""
    from .rivals import table
    from .run import Load

    load = Load(
        step="match",
        rows=rows,
        peer_rows=peer_rows or rows,
        overlap_percent=overlap,
        brand_features=5,
        media_features=5,
        steps=1,
        keys=("email",),
    )
    if as_json:
        typer.echo(json.dumps(table(load, python, engine or [], lambda _: None)))
        return
    console = Console()
    with console.status("Starting ...") as status:
        found = table(load, python, engine or [], lambda name: status.update(f"Measuring {name} on {rows:,} rows ..."))
    columns = ("engine", "version", "seconds", "bytes", "peak_rss_mb", "cpu_s", "exact", "absent")
    shown = Table(*columns, title=f"tidegate bench rivals, {rows:,} x {load.peer_rows:,} rows")
    for row in found["engines"]:
        shown.add_row(*(_text(row.get(column, "")) for column in columns))
    console.print(shown)


@bench_app.command("kernel")
def kernel(
    elements: Annotated[int, typer.Option(min=256, max=10_000_000, help="Group elements in a batch.")] = 4_096,
    as_json: AsJson = False,
) -> None:
    """Group operations a second by each kernel that runs here, on one core and on all."""
    from .kernel import kernel_figures

    if as_json:
        typer.echo(json.dumps(kernel_figures(elements)))
        return
    console = Console()
    with console.status(f"Measuring group operations on {elements:,} elements ..."):
        figures = kernel_figures(elements)
    console.print(_table("kernel", figures))


@bench_app.command("accuracy")
def accuracy(
    data: Annotated[
        Path | None, typer.Option(help="Folder with the data sets; the demo's records if left out.")
    ] = None,
    splits: Annotated[int, typer.Option(min=1, max=20, help="Divisions into training and test rows.")] = 5,
    steps: Annotated[int, typer.Option(min=1, max=12, help="Optimiser steps.")] = 8,
    hidden: Annotated[bool, typer.Option("--hidden", help="Train under hidden alignment.")] = False,
    epsilon: Annotated[
        float | None, typer.Option(min=0.01, max=100, help="Train with differential privacy, delta 1e-6.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Blind training beside scikit-learn on pooled tables, and what is claimed where joining brings nothing."""
    from .accuracy import Terms, bench, lines

    terms = Terms(splits, steps, hidden, epsilon)
    if as_json:
        typer.echo(json.dumps(bench(data, terms, lambda _: None)))
        return
    console = Console()
    with console.status("Reading ...") as status:
        figures = bench(data, terms, lambda what: status.update(f"Training on {what} ..."))
    columns = ("data", "figure", "alone", "blind", "pooled", "differs", "worst", "at most")
    shown = Table(*columns, title=f"tidegate bench accuracy, mean of {splits} splits")
    for line in lines(figures):
        shown.add_row(*line)
    console.print(shown)


@bench_app.command("naive")
def naive(rows: Rows = 100_000, features: Features = 20, as_json: AsJson = False) -> None:
    """Scores in one process, beside the row-by-row loops of tutorials, which are measured on some rows."""
    from .naive import bench

    if as_json:
        typer.echo(json.dumps(bench(rows, features)))
        return
    console = Console()
    with console.status(f"Scoring {rows:,} rows ..."):
        found = bench(rows, features)
    columns = ("engine", "version", "seconds", "measured_rows", "bytes_per_row", "times_ours", "absent")
    shown = Table(*columns, title=f"tidegate bench naive, {rows:,} x {features}; seconds for all rows, extrapolated")
    for row in found["engines"]:
        shown.add_row(*(_text(row.get(column, "")) for column in columns))
    console.print(shown)


@bench_app.command("privacy")
def privacy(
    data: Annotated[Path | None, typer.Option(help="Folder with the data sets; default the package's own.")] = None,
    draws: Annotated[int, typer.Option(min=1, max=100, help="Trainings for each budget.")] = 10,
    as_json: AsJson = False,
) -> None:
    """What differential privacy of training costs in AUC, for several budgets."""
    from .price import bench, lines

    if as_json:
        typer.echo(json.dumps(bench(data, draws, lambda _: None)))
        return
    console = Console()
    with console.status("Starting ...") as status:
        found = bench(data, draws, lambda name: status.update(f"Measuring {name} ..."))
    title = f"tidegate bench privacy, delta {found['delta']:g}"
    shown = Table("data", "steps", "epsilon", "AUC lost", "sd", title=title)
    for line in lines(found):
        shown.add_row(*line)
    console.print(shown)


def _measure(
    step: str,
    rows: int,
    as_json: bool,
    *,
    peer_rows: int = 0,
    overlap_percent: int = 100,
    brand_features: int = 5,
    media_features: int = 5,
    steps: int = 1,
    keys: str = "email",
    mode: str = "both",
    engine: str = "oprf",
    cached: bool = False,
    k: int = 5,
    starts: int = 1,
) -> None:
    # The measurement pulls in what only it needs.
    from .run import Load, bench

    kinds = tuple(kind.strip() for kind in keys.split(","))
    if not kinds or not set(kinds) <= {"email", "phone"} or len(set(kinds)) != len(kinds):
        raise ConfigError(f"--keys is {keys!r}, expected email, phone or both", "for example --keys phone,email")
    sizes = (rows, peer_rows, overlap_percent, brand_features, media_features, steps)
    load = Load(step, *sizes, kinds, mode, engine, cached, k, starts)
    if as_json:
        typer.echo(json.dumps(bench(load)))
        return
    console = Console()
    with console.status(f"Measuring {step} on {rows:,} rows: three processes on this machine ..."):
        figures = bench(load)
    console.print(_table(step, figures))


def _table(step: str, figures: dict[str, Any]) -> Table:
    table = Table("figure", "value", title=f"tidegate bench {step}")
    for name, value in figures.items():
        table.add_row(name, _text(value))
    return table


def _text(value: object) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:,}" if number else str(value)
