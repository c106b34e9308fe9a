"""`nudge demo`: the job, a broker and a made-up shop in one terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command(epilog="Example: [bold]nudge demo --seconds 60[/bold]")
def demo(
    seconds: Annotated[int | None, typer.Option("--seconds", min=1, help="End by itself after so long.")] = None,
    speed: Annotated[int, typer.Option("--speed", min=1, help="How much faster than life the shop's time goes.")] = 120,
    flows: Annotated[list[Path] | None, typer.Option("--flows", help="Flows to run instead of the examples.")] = None,
) -> None:
    """Show the whole thing with nothing else installed: a broker, a shop, three flows, actions as they happen."""
    from dataflow.demo.run import run_demo

    status = run_demo(seconds=seconds, speed=speed, flows=flows)
    if status:
        raise typer.Exit(status)
