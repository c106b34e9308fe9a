"""The command line: its commands, and the exit status of an error.

A command imports what it needs when it needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import typer

from dataflow.commands import audit, check, demo, run, schema, simulate
from state.errors import Failed, Refused, exit_status_of

COMMANDS: Final = (check, simulate, run, audit, schema, demo)
"""Each is one file, with an `app` that has the one command; help lists them in this order."""

app = typer.Typer(
    name="nudge",
    help="Real-time behavioural triggers: users' events in, channel actions out, each exactly once.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in COMMANDS:
    app.add_typer(command.app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 for success, 2 for wrong use or input, 1 for anything else."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(given, prog_name="nudge")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else Failed.exit_status
    except Exception as error:
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    """Print what went wrong where somebody can do something about it, and return the exit status."""
    status = exit_status_of(error)
    if status is None:
        raise error
    said = str(error).encode(errors="replace").decode()  # The name of a file need not be text.
    typer.echo(said if isinstance(error, Refused) else f"nudge: {said}", err=True)
    return status


def console() -> None:
    """The entry point of the `nudge` command."""
    sys.exit(main())


if __name__ == "__main__":
    console()
