"""`nudge deliver`: carries actions to their channels and writes what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dataflow.commands.arguments import CONFIG_HELP

app = typer.Typer()

SourceKafka = Annotated[
    str, typer.Option("--source", metavar="URL", help="The Kafka with the actions: kafka://host:9092[?prefix=P].")
]


@app.command(epilog="Example: [bold]nudge deliver sms --source kafka://localhost:9092[/bold]")
def deliver(
    source: SourceKafka,
    channels: Annotated[
        list[str] | None, typer.Argument(help="Channels. Default: all with deliver: in nudge.yaml.", show_default=False)
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help=CONFIG_HELP)] = None,
    ledger: Annotated[
        str, typer.Option("--ledger", metavar="URL", help="What was begun and what became of it: sqlite:PATH.")
    ] = "sqlite:nudge-ledger.db",
    group: Annotated[str, typer.Option("--group", help="The consumer group that all of them share.")] = "nudge-deliver",
    receipts: Annotated[str, typer.Option("--receipts", metavar="TOPIC", help="Where receipts go.")] = "events",
    stop_at_end: Annotated[bool, typer.Option("--stop-at-end", help="Deliver what is there now, and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Call nobody; print what would be sent.")] = False,
) -> None:
    """Carry actions to their channels, each once, and write what becomes of them."""
    from dataflow.deliver.start import Start

    Start(source, channels or [], config, ledger, group, receipts, stop_at_end=stop_at_end, dry_run=dry_run).run()
