"""`nudge demo`: the job, delivery, a broker, a made-up shop and made-up providers in one terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command(epilog="Example: [bold]nudge demo --seconds 60[/bold]")
def demo(
    seconds: Annotated[
        int | None, typer.Option("--seconds", min=1, help="Stop after this many seconds. Default: run until Ctrl-C.")
    ] = None,
    speed: Annotated[
        int, typer.Option("--speed", min=1, help="How many times faster than real time the shop runs.")
    ] = 120,
    flows: Annotated[list[Path] | None, typer.Option("--flows", help="Flows to run instead of the examples.")] = None,
) -> None:
    """Show Nudge at work, with no other installation: a broker, a shop, three flows, and providers."""
    from dataflow.demo.run import run_demo

    status = run_demo(seconds=seconds, speed=speed, flows=flows)
    if status:
        raise typer.Exit(status)
