"""The commands, and how they present themselves.

A command imports what it needs when it needs it, so that `--help` answers at once.
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from dataflow.commands import audit, check, deliver, demo, gateway, preview, run, schema, simulate

COMMANDS: Final = (check, simulate, run, deliver, gateway, preview, audit, schema, demo)
"""Each is one file, with an `app` that has the one command; help lists them in this order."""

app = typer.Typer(
    name="nudge",
    help="Real-time behavioural triggers: users' events in, channel actions out, each exactly once.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in COMMANDS:
    app.add_typer(command.app)


def _print_version(is_asked: bool) -> None:
    if not is_asked:
        return
    from dataflow.keep.decidedby import decided_by
    from dataflow.keep.statedir import STATE_FORMAT
    from dataflow.read.scanner import WHY_NOT_COMPILED

    version = decided_by()
    compiled = f"missing ({WHY_NOT_COMPILED})" if WHY_NOT_COMPILED else "present"
    typer.echo(f"nudge {version.software}\ndecision version: {version}")
    typer.echo(f"state format {STATE_FORMAT}\ncompiled part {compiled}")
    raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version, what decisions depend on, the state format, and if there is the compiled part.",
        ),
    ] = False,
) -> None:
    pass
