"""`tidegate`: puts the commands of parties and coordinators together, and turns errors into sentences."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from tidegate import __version__
from tidegate.protocols.channel import TidegateError


def _program() -> typer.Typer:
    """All commands. Their modules take a second to load, which is why `main` loads them where it catches Ctrl-C."""
    from tidegate.coordinator.cli import app as coordinator_app
    from tidegate.party.bench.cli import bench_app
    from tidegate.party.cli import campaign_app, party_app
    from tidegate.party.demo.cli import demo
    from tidegate.party.doctor import doctor

    app = typer.Typer(
        help="Find out together who your best customers look like, without showing each other a row.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(tidegate)
    app.add_typer(party_app, name="party")
    app.add_typer(campaign_app, name="campaign")
    app.add_typer(coordinator_app, name="coordinator")
    app.command()(doctor)
    app.command()(demo)
    app.add_typer(bench_app, name="bench")
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tidegate {__version__}")
        raise typer.Exit


def tidegate(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find out together who your best customers look like, without showing each other a row."""


def main() -> None:
    """Runs the command line. Errors end as one sentence and a hint on stderr, never as a traceback."""
    try:
        _program()(prog_name="tidegate")
    except TidegateError as error:
        _end(error.text, error.hint)
    except KeyboardInterrupt:
        _end("stopped by Ctrl-C", "what was finished is kept; the command can be given again", 130)
    except SystemExit as ended:
        # Where a command itself answers to Ctrl-C it says so; elsewhere typer only leaves the status.
        if ended.code == 130 and isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):
            _end("stopped by Ctrl-C", "what was finished is kept; the command can be given again", 130)
        raise
    except BrokenPipeError:
        # Whoever read our output has enough. Nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _end(f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}", "check space and permissions")
    except Exception as error:
        if os.environ.get("TIDEGATE_DEBUG"):
            raise
        # The text of a foreign error may quote data; the place where it happened does not.
        at = traceback.extract_tb(error.__traceback__)[-1]
        _end(
            f"something unforeseen happened: {type(error).__name__} at {Path(at.filename).name}:{at.lineno}",
            "please report it; TIDEGATE_DEBUG=1 shows more, which may quote your data",
        )


def _end(text: str, hint: str = "", status: int = 1) -> None:
    sys.stderr.write(f"error: {text}\n" + (f"hint: {hint}\n" if hint else ""))
    sys.exit(status)


if __name__ == "__main__":
    main()
