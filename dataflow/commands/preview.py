"""`nudge preview`: what a message says, with given variables."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dataflow.commands.arguments import CONFIG_HELP
from dataflow.errors import UsageError

app = typer.Typer()
UNSUBSCRIBE_URL: Final = "https://unsubscribe.example/u/preview"  # Stands for the link of the one who gets it.


@app.command(epilog="Example: [bold]nudge preview cart-reminder --vars vars.json[/bold]")
def preview(
    template: Annotated[str, typer.Argument(help="The message's name, or one of its files.", show_default=False)],
    variables: Annotated[
        Path | None, typer.Option("--vars", metavar="FILE", help="JSON or YAML with the variables; default: none.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help=CONFIG_HELP)] = None,
    part: Annotated[str | None, typer.Option("--part", help="Print only this: subject, txt or html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with subject, txt and html.")] = False,
) -> None:
    """Render a message of templates/, as nudge deliver does, and print it."""
    from connectors.channels.base import Unfit
    from dataflow.flows import find_workspace
    from dataflow.messages import PARTS, Messages, folder_of, message_of
    from operators.language.problems import FlowError, did_you_mean
    from operators.templates.body import Given

    if part is not None and part not in PARTS:
        raise UsageError(f"--part {part}: there are {', '.join(PARTS)}")
    file = Path(template)
    is_file = message_of(file.name) is not None and file.is_file()
    name = message_of(file.name) if is_file else template
    messages = Messages(file.parent if is_file else folder_of([], find_workspace([], config)))
    wrong = [one for one in messages.problems if message_of(Path(one.file).name) == name]
    if wrong:
        raise FlowError(wrong)
    assert name is not None, "it is the name of that file"
    if name not in messages.names:
        hint = did_you_mean(name, messages.names) or "there are none: write NAME.txt, NAME.html or NAME.subject.liquid"
        raise UsageError(f"there is no message '{name}' in {messages.folder}; {hint}")
    given = Given(_variables(variables), UNSUBSCRIBE_URL, int(time.time() * 1000))
    try:
        subject, text, html = messages.render(name, given)
    except Unfit as unfit:
        raise UsageError(f"{unfit.detail} ({unfit.code})") from None
    said = {"subject": subject, "txt": text, "html": html}
    if part is not None:
        typer.echo(said[part])
    elif as_json:
        typer.echo(json.dumps(said, ensure_ascii=False))
    else:
        for name, one in said.items():
            if one:
                typer.echo(f"Subject: {one}\n" if name == "subject" else f"--- {name} ---\n{one}")


def _variables(path: Path | None) -> dict[str, Any]:
    """Return what is in a file of variables."""
    from dataflow.errors import must_be_readable
    from operators.language.flowfile import read_document
    from operators.language.problems import FlowError

    if path is None:
        return {}
    must_be_readable(path, f"--vars {path}")
    document, problems = read_document(str(path), path.read_bytes())
    if problems.has_errors:
        raise FlowError(problems.found)
    if not isinstance(document.data, dict):
        raise UsageError(f'--vars {path}: the variables are an object, such as {{"name": "Lina"}}')
    return document.data
