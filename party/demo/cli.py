"""`tidegate demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tidegate.protocols.channel import ConfigError

DataFolder = Annotated[
    Path | None,
    typer.Option(help="A folder with two tables and campaign.toml (docs/campaign-file.md). Default: real records."),
]
OutFolder = Annotated[Path, typer.Option(help="Where report.html, report.json and what each party holds are left.")]
WriteData = Annotated[Path | None, typer.Option(help="Only write the demo's tables and campaign file into a folder.")]


def demo(data: DataFolder = None, out: OutFolder = Path("tidegate-demo"), write_data: WriteData = None) -> None:
    """Play a whole campaign between a brand, a media and a coordinator on this machine."""
    # The demo draws in scikit-learn and matplotlib; no other command should wait for them.
    from . import play

    console = Console()
    if write_data is not None:
        if write_data.exists() and any(write_data.iterdir()):
            raise ConfigError(f"{write_data} is not empty", "choose an empty or new folder")
        play.write_data(write_data)
        console.print(f"Wrote brand.parquet, media.parquet, campaign.toml and truth.parquet to {write_data}")
        return
    play.demo(data, out, console)
