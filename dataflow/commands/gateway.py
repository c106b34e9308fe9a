"""`nudge gateway`: the HTTP door for events, receipts, clicks and unsubscribes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dataflow.commands.arguments import CONFIG_HELP

app = typer.Typer()


@app.command(epilog="Example: [bold]nudge gateway --sink kafka://localhost:9092 --port 8080[/bold]")
def gateway(
    sink: Annotated[
        str, typer.Option("--sink", metavar="URL", help="The Kafka to write to: kafka://host:9092[?prefix=P].")
    ],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Where to listen; 0: any free port.")] = 8080,
    host: Annotated[str, typer.Option("--host", help="The address to listen on; 0.0.0.0: all.")] = "127.0.0.1",
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help=CONFIG_HELP)] = None,
    ledger: Annotated[
        str,
        typer.Option(
            "--ledger", metavar="URL", help="That of nudge deliver, to find actions in: sqlite:PATH, redis://HOST."
        ),
    ] = "sqlite:nudge-ledger.db",
    group: Annotated[
        str, typer.Option("--group", help="The consumer group of nudge deliver, after which its ledger is named.")
    ] = "nudge-deliver",
) -> None:
    """Take events, receipts, clicks and unsubscribes over HTTP, and answer when Kafka has them."""
    from dataflow.gateway.start import Start

    Start(sink, host, port, config, ledger, group).run()
