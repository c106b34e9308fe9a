"""The commands, and how they present themselves.

A command imports what it needs when it needs it, so that `--help` answers at once.
"""

from __future__ import annotations

from typing import Final

import typer

from dataflow.commands import audit, check, demo, run, schema, simulate

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
