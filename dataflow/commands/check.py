"""`nudge check`: all problems of flow files, for people and for machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from dataflow.commands.arguments import Config, Flows
from dataflow.errors import UsageError

if TYPE_CHECKING:
    from operators.language.problems import Problem

app = typer.Typer()


@app.command(epilog="Example: [bold]nudge check flows/[/bold]")
def check(
    flows: Flows,
    config: Config = None,
    strict: Annotated[bool, typer.Option("--strict", help="Take warnings for errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per problem and line.")] = False,
) -> None:
    """List all problems of flow files, and what is most likely a mistake. Exit status 2 if any is an error."""
    import time
    from dataclasses import asdict, replace

    from dataflow.checking import check_texts
    from dataflow.flows import find_workspace, read_flows, read_workspace_file, shown_path
    from dataflow.messages import Messages, folder_of
    from operators.language.problems import render
    from operators.language.workspace import read_workspace
    from operators.program.doubts import Doubts

    workspace_path = find_workspace(flows, config)
    workspace, found = read_workspace(shown_path(workspace_path), read_workspace_file(workspace_path))
    if workspace_path is not None:
        typer.echo(f"workspace file: {shown_path(workspace_path)}", err=True)
    messages = Messages(folder_of(flows, workspace_path))
    doubts = Doubts(int(time.time() * 1000), messages.in_files(workspace))
    result = check_texts(read_flows(flows), workspace, doubts)
    problems: list[Problem] = [*found, *messages.problems, *result.problems]
    if strict:
        problems = [replace(problem, severity="error") for problem in problems]
    if as_json:
        for problem in problems:
            typer.echo(json.dumps(asdict(problem), ensure_ascii=False))
    elif problems:
        typer.echo(render(problems, result.titles))
    else:
        count = len(result.texts)
        typer.echo(f"{count} flow{'s' if count != 1 else ''}: no problems")
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(UsageError.exit_status)
