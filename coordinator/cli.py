"""`tidegate coordinator`: set one up, run it, invite parties, see who is there and what goes on."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from tidegate.protocols.channel import ConfigError, TidegateError
from tidegate.wire.identity import Identity
from tidegate.wire.pairs import COORDINATOR

from . import members
from .config import Home, split_address
from .store import Store

_DEFAULT_HOME = Path.home() / ".tidegate" / "coordinator"


class _Explaining(TyperGroup):
    """Ends a command that fails with one sentence and a hint instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TidegateError as error:
            console = Console(stderr=True, soft_wrap=True)
            console.print(Text.assemble(("error: ", "bold red"), error.text))
            if error.hint:
                console.print(Text.assemble(("hint: ", "bold"), error.hint))
            raise typer.Exit(1) from None


app = typer.Typer(
    name="coordinator",
    help="Run the coordinator: it schedules campaigns and forwards sealed frames that it cannot read.",
    cls=_Explaining,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _home(
    context: typer.Context,
    home: Annotated[
        Path, typer.Option("--home", envvar="TIDEGATE_HOME", help="The coordinator's folder.", show_default=False)
    ] = _DEFAULT_HOME,
) -> None:
    context.obj = Home(home.expanduser())


@app.command()
def init(
    context: typer.Context,
    address: Annotated[str, typer.Option("--address", help="HOST:PORT that the parties dial.")],
) -> None:
    """Sets up a coordinator: its folder and the keys that let parties know it."""
    home: Home = context.obj
    set_up(home, address)
    console = Console(soft_wrap=True)
    console.print(f"Set up in [bold]{home.path}[/]. Start it with: [bold]tidegate coordinator up[/]", highlight=False)


def set_up(home: Home, address: str) -> None:
    """Makes a coordinator's folder, or nothing at all. Raises ConfigError."""
    split_address(address)
    home.create()
    try:
        members.Authority.create(home)
        Identity.generate(COORDINATOR).save(home.identity)
        Store(home.store).close()
        home.write_settings(address)
    except OSError as error:
        raise ConfigError(f"cannot write to {home.path}: {error.strerror}", "free some space, then try again") from None
    finally:
        if not home.settings_file.exists():
            for made in (home.authority_key, home.authority_certificate, home.identity):
                made.unlink(missing_ok=True)


@app.command()
def up(
    context: typer.Context,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen", help="HOST:PORT to listen on, if it is not the port of the address on all interfaces."
        ),
    ] = None,
) -> None:
    """Runs the coordinator until Ctrl-C."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before gRPC is loaded: it prints to the terminal on its own
    home: Home = context.obj
    settings = home.settings()
    with home.alone():
        _log_to_terminal()
        interrupted = asyncio.run(_serve(home, listen, settings.address))
    if interrupted:
        Console(stderr=True, soft_wrap=True).print("Stopped. Campaigns go on when the coordinator is started again.")
        raise typer.Exit(130)


async def _serve(home: Home, listen: str | None, address: str) -> bool:
    """Serves until a signal comes. True: it was Ctrl-C. Raises what made it impossible to go on."""
    from .server import Coordinator, default_listen

    loop = asyncio.get_running_loop()
    told: asyncio.Future[bool] = loop.create_future()

    def stop(interrupted: bool) -> None:
        if not told.done():
            told.set_result(interrupted)

    loop.add_signal_handler(signal.SIGINT, stop, True)
    loop.add_signal_handler(signal.SIGTERM, stop, False)
    coordinator = Coordinator(home)
    listen = listen or default_listen(address)
    try:
        await coordinator.start(listen)
        console = Console(soft_wrap=True, highlight=False)
        invite_command = "tidegate coordinator invite NAME"
        console.print(f"Listening on {listen}; parties dial {address}. Invite one with: [bold]{invite_command}[/]")
        ends: set[asyncio.Future[Any]] = {told, coordinator.failed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if coordinator.failed.done():
            coordinator.failed.result()
        return told.result()
    finally:
        await coordinator.stop()


@app.command()
def invite(
    context: typer.Context,
    party: Annotated[str, typer.Argument(metavar="NAME", help="The party's name, as contracts will have it.")],
    hours: Annotated[float, typer.Option("--hours", min=0.01, max=24 * 90, help="How long the invite is good.")] = 24.0,
    again: Annotated[bool, typer.Option("--again", help="For a party that joined before and lost its keys.")] = False,
) -> None:
    """Prints an invite that lets one party join, once."""
    home: Home = context.obj
    settings = home.settings()
    authority, store = members.Authority.load(home), Store(home.store)
    identity = members.own_identity(home).public
    made = members.invite(
        store, authority, settings.address, identity, party, hours=hours, now_s=int(time.time()), again=again
    )
    store.close()
    typer.echo(made.to_text())
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        f"Good once, until {_when(made.expires_s)}. Send it to {party} over a line you trust; "
        "there it goes into: [bold]tidegate party join INVITE[/]"
    )


@app.command()
def parties(context: typer.Context) -> None:
    """Shows who has joined and who is here."""
    home: Home = context.obj
    home.settings()
    store, is_up = Store(home.store), home.is_up
    table = Table("party", "", "software", "joined", "last seen", box=box.SIMPLE_HEAD)
    now_s, joined = time.time(), store.members()
    for member in joined:
        here = Text("here", "green") if member.here and is_up else Text("away", "dim")
        # As text: what a member calls its software could read as markup.
        table.add_row(member.party, here, Text(member.software), _when(member.joined_s), _when(member.seen_s))
    for party, expires_s in store.open_invites():
        good = now_s < expires_s
        state = Text(f"invited, until {_when(expires_s)}" if good else "its invite has expired", "yellow")
        table.add_row(party, state)
    store.close()
    console = Console()
    if not table.row_count:
        console.print("Nobody has joined yet. Invite a party with: [bold]tidegate coordinator invite NAME[/]")
        return
    console.print(table)
    if not is_up:
        console.print("The coordinator is not up. Start it with: [bold]tidegate coordinator up[/]")


@app.command()
def campaigns(context: typer.Context) -> None:
    """Shows the campaigns: their parties, and how far they are."""
    home: Home = context.obj
    home.settings()
    store = Store(home.store)
    table = Table("campaign", "parties", "state", "step", "try", "changed", "reason", box=box.SIMPLE_HEAD)
    colours = {"done": "green", "running": "cyan", "waiting": "yellow", "signing": "yellow"}
    for campaign in store.campaigns():
        of = f"{campaign.current.name} ({min(campaign.step + 1, len(campaign.steps))} of {len(campaign.steps)})"
        reason = campaign.reason
        if campaign.state == "signing":
            unsigned = [party for party in campaign.parties if party not in campaign.signatures]
            reason = f"{', '.join(unsigned)} has not signed"
        table.add_row(
            campaign.short,
            ", ".join(campaign.parties),
            Text(campaign.state, colours.get(campaign.state, "red")),
            "" if campaign.state == "done" else of,
            str(campaign.attempt) if campaign.attempt else "",
            _when(campaign.changed_s),
            Text(reason),
        )
    store.close()
    console = Console()
    if table.row_count:
        console.print(table)
    else:
        console.print("No campaign has been proposed yet.")


def _when(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M")


def _log_to_terminal() -> None:
    """One line per event, plain where nobody watches."""
    console = Console(soft_wrap=True, highlight=False)
    handler: logging.Handler = logging.StreamHandler(console.file)
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_level=False, omit_repeated_times=False)
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    log = logging.getLogger("tidegate.coordinator")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
