"""`nudge deliver`: carries actions to their channels and writes what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataflow.commands.arguments import CONFIG_HELP

if TYPE_CHECKING:
    from dataflow.deliver.start import Serving

app = typer.Typer()

SourceKafka = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="URL",
        help="The Kafka with the actions: kafka://host:9092\\[?prefix=P].",
        show_default=False,
    ),
]
BY_HAND = "By hand"


@app.command(epilog="Example: [bold]nudge deliver sms --source kafka://localhost:9092[/bold]")
def deliver(
    channels: Annotated[
        list[str] | None, typer.Argument(help="Channels. Default: all with deliver: in nudge.yaml.", show_default=False)
    ] = None,
    source: SourceKafka = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help=CONFIG_HELP)] = None,
    ledger: Annotated[
        str,
        typer.Option(
            "--ledger", metavar="URL", help="What was begun and what became of it: sqlite:PATH, redis://HOST."
        ),
    ] = "sqlite:nudge-ledger.db",
    group: Annotated[str, typer.Option("--group", help="The consumer group that all of them share.")] = "nudge-deliver",
    receipts: Annotated[str, typer.Option("--receipts", metavar="TOPIC", help="Where receipts go.")] = "events",
    port: Annotated[
        int | None,
        typer.Option(
            "--port", help="Serve /metrics, /healthz and /readyz there.", min=0, max=65535, show_default=False
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="The address of --port; 0.0.0.0 for all.")] = "127.0.0.1",
    stop_at_end: Annotated[bool, typer.Option("--stop-at-end", help="Deliver what is there now, and stop.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Call nobody; print what would be sent.", rich_help_panel=BY_HAND)
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Print what is open or unknown in the ledger.", rich_help_panel=BY_HAND)
    ] = False,
    replay: Annotated[
        str | None,
        typer.Option(
            "--replay", metavar="ACTION_ID", help="Send an action that is unknown again.", rich_help_panel=BY_HAND
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option("--test", metavar="CHANNEL", help="Send one message, to --to.", rich_help_panel=BY_HAND),
    ] = None,
    to: Annotated[
        str, typer.Option("--to", metavar="ADDRESS", help="The address for --test.", rich_help_panel=BY_HAND)
    ] = "",
    template: Annotated[
        str, typer.Option("--template", help="The template for --test.", rich_help_panel=BY_HAND)
    ] = "test",
    vars_file: Annotated[
        Path | None,
        typer.Option("--vars", metavar="FILE", help="JSON: variables for --test.", rich_help_panel=BY_HAND),
    ] = None,
) -> None:
    """Carry actions to their channels, each once, and write what becomes of them."""
    from dataflow.deliver.start import Start
    from dataflow.errors import UsageError

    by_hand = [
        ("--dry-run", dry_run),
        ("--status", status),
        ("--replay", replay is not None),
        ("--test", test is not None),
    ]
    said = [flag for flag, is_there in by_hand if is_there]
    if len(said) > 1:
        raise UsageError(f"{' and '.join(said)}: one at a time")
    if test is not None and not to:
        raise UsageError("--test: write --to ADDRESS, too")
    if to and test is None:
        raise UsageError("--to: it goes with --test CHANNEL")
    names = [*(channels or []), *([] if test is None else [test])]
    start = Start(source, names, config, ledger, group, receipts, stop_at_end=stop_at_end, dry_run=dry_run)
    if status:
        start.status()
    elif replay is not None:
        start.replay(replay)
    elif test is not None:
        start.test(to, template, _vars(vars_file))
    else:
        start.run(None if port is None else _serving(port, host))


def _vars(path: Path | None) -> dict[str, Any]:
    import orjson

    from dataflow.errors import UsageError

    if path is None:
        return {}
    try:
        given = orjson.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"--vars {path}: {error}") from None
    if not isinstance(given, dict):
        raise UsageError(f"--vars {path}: write one JSON object")
    return given


def _serving(port: int, host: str) -> Serving:
    from dataflow.logs import get_logger
    from dataflow.serve.delivery import DeliveryCollector, DeliveryHealth
    from dataflow.serve.http import Server, serve_any

    def serving(looks: Any) -> Server:
        flags = f"--host {host} --port {port}"
        log = get_logger()
        server = serve_any(port, DeliveryCollector(looks), DeliveryHealth(looks), log, host=host, flags=flags)
        log.info("metrics are served", address=server.address, port=server.port)
        return server

    return serving
