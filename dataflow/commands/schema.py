"""`nudge schema`: JSON Schema of what is written for the job and of what it writes."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dataflow.errors import UsageError

app = typer.Typer()


@app.command(epilog="Example: [bold]nudge schema > flow.schema.json[/bold]")
def schema(
    what: Annotated[
        str, typer.Argument(help="flow, workspace, event, receipt, membership, action, journal or dead-letter.")
    ] = "flow",
) -> None:
    """Print the JSON Schema of flow files or records, for editors and tests."""
    from operators.schemas import SCHEMAS

    if what not in SCHEMAS:
        raise UsageError(f"there is no schema of '{what}'; there are {', '.join(SCHEMAS)}")
    typer.echo(json.dumps(SCHEMAS[what](), indent=2))
