"""The command line. A command imports what it needs when it needs it, so that `--help` answers at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from operators.language.problems import Problem

FAILED = 1
WRONG_USE = 2

app = typer.Typer(
    name="nudge",
    help="Real-time behavioural triggers: users' events in, channel actions out, each exactly once.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Flows = Annotated[list[Path], typer.Argument(help="Flow files, or folders to search for them.", show_default=False)]
Config = Annotated[
    Path | None, typer.Option("--config", help="The workspace file; default: nudge.yaml beside the first argument.")
]


@app.command(epilog="Example: [bold]nudge check flows/[/bold]")
def check(
    flows: Flows,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per problem and line.")] = False,
) -> None:
    """Tell all problems of flow files; exit status 2 if any is an error."""
    from dataclasses import asdict

    from dataflow.flows import find_workspace, read_flows, read_workspace_file, shown_path
    from operators.language.problems import render
    from operators.language.workspace import read_workspace
    from operators.program.flows import compile_texts

    workspace_path = find_workspace(flows, config)
    workspace, found = read_workspace(shown_path(workspace_path), read_workspace_file(workspace_path))
    result = compile_texts(read_flows(flows), workspace)
    problems: list[Problem] = [*found, *result.problems]
    if as_json:
        for problem in problems:
            typer.echo(json.dumps(asdict(problem), ensure_ascii=False))
    elif problems:
        typer.echo(render(problems, result.titles))
    else:
        count = len(result.programs)
        typer.echo(f"{count} flow{'s' if count != 1 else ''}: no problems")
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(WRONG_USE)


@app.command(epilog="Example: [bold]nudge simulate flows/ --events events.jsonl --actions actions.jsonl[/bold]")
def simulate(
    flows: Flows,
    events: Annotated[Path, typer.Option("--events", help="Recorded events, one JSON object per line.")],
    until: Annotated[str | None, typer.Option("--until", help="Let time run on to this moment.")] = None,
    actions: Annotated[Path | None, typer.Option("--actions", help="Write the actions here.")] = None,
    journal: Annotated[Path | None, typer.Option("--journal", help="Write the journal here.")] = None,
    dead_letters: Annotated[
        Path | None, typer.Option("--dead-letters", help="Write here what could not be read.")
    ] = None,
    format: Annotated[str, typer.Option("--format", help="The format of the events.")] = "native",
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as one JSON object.")] = False,
) -> None:
    """Run flows over recorded events in virtual time: what would have been sent, to whom, and why not."""
    from contextlib import ExitStack

    from dataflow.errors import UsageError
    from dataflow.flows import load
    from dataflow.read.scanner import NativeFormat
    from dataflow.simulate import Simulation, jsonl
    from dataflow.urls import parse_source
    from operators.language.problems import BadValue
    from operators.language.values import parse_moment

    parse_source(f"file:{events}?format={format}")
    try:
        until_ms = None if until is None else parse_moment(until)
    except BadValue as bad:
        raise UsageError(f"--until: {bad.message}; {bad.hint}") from None
    if not events.is_file():
        raise UsageError(f"--events {events}: no such file")
    loaded = load(flows, config)
    with ExitStack() as stack:
        outputs = []
        for path in (actions, journal, dead_letters):
            try:
                outputs.append(None if path is None else stack.enter_context(path.open("wb", buffering=1 << 20)))
            except OSError as error:
                raise UsageError(f"cannot write {path}: {error.strerror}") from None
        simulation = Simulation(
            loaded.deployment,
            action=jsonl(outputs[0]),
            journal=jsonl(outputs[1]),
            dead_letter=jsonl(outputs[2]),
        )
        simulation.run(events, NativeFormat(loaded.deployment.index.table()), until_ms)
    from dataflow.commands.simulate import print_simulation

    print_simulation(simulation, loaded.deployment, as_json=as_json)


@app.command(
    epilog="Example: [bold]nudge run flows/ --source kafka://localhost:9092/events "
    "--sink kafka://localhost:9092 --state /var/lib/nudge[/bold]"
)
def run(
    flows: Flows,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="kafka://host:9092/topic or file:events.jsonl; repeatable.")
    ] = None,
    sink: Annotated[str | None, typer.Option("--sink", help="kafka://host:9092, file:DIR or stdout:.")] = None,
    state: Annotated[
        str | None, typer.Option("--state", help="Folder for checkpoints; without one, nothing survives the run.")
    ] = None,
    processes: Annotated[
        str | None, typer.Option("--processes", help="How many processes share the work. Default: 1.")
    ] = None,
    stop_at_end: Annotated[
        bool | None, typer.Option("--stop-at-end", help="Read what is there now, fire what is due by then, stop.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="With --stop-at-end: let time run on to this moment first.")
    ] = None,
    epoch: Annotated[str | None, typer.Option("--epoch", help="Time between checkpoints. Default: 10s.")] = None,
    slack: Annotated[
        str | None, typer.Option("--slack", help="How long a record may be on its way to Kafka. Default: 1s.")
    ] = None,
    shards: Annotated[
        str | None, typer.Option("--shards", help="Fixed when the state is created; the most processes. Default: 64.")
    ] = None,
    cached_users: Annotated[
        str | None, typer.Option("--cached-users", help="Users in memory per process. Default: 200000.")
    ] = None,
    create_topics: Annotated[
        bool | None, typer.Option("--create-topics/--no-create-topics", help="Create missing topics of the sink.")
    ] = None,
    metrics_port: Annotated[
        str | None, typer.Option("--metrics-port", help="Serve /metrics, /healthz and /readyz here; 0 picks a port.")
    ] = None,
    log_level: Annotated[str | None, typer.Option("--log-level", help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option("--log-format", help="text or json.")] = None,
    config: Config = None,
    as_json: Annotated[bool | None, typer.Option("--json", help="Print the summary as one JSON object.")] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print what is in force and where it came from, and stop.")
    ] = False,
) -> None:
    """Run the job. Settings: flags, then NUDGE_<SETTING>, then run: in nudge.yaml."""
    flags = {
        "source": source,
        "sink": sink,
        "state": state,
        "processes": processes,
        "stop_at_end": stop_at_end,
        "until": until,
        "epoch": epoch,
        "slack": slack,
        "shards": shards,
        "cached_users": cached_users,
        "create_topics": create_topics,
        "metrics_port": metrics_port,
        "log_level": log_level,
        "log_format": log_format,
        "json": as_json,
    }
    from dataflow.commands.run import run_command

    status = run_command(flows, flags, config, show_config=show_config)
    if status:
        raise typer.Exit(status)


@app.command(epilog="Example: [bold]nudge audit --state /var/lib/nudge[/bold]")
def audit(
    state: Annotated[Path, typer.Option("--state", help="The state of a job, stopped or running.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per finding, flow and summary.")] = False,
) -> None:
    """Walk a state: is everybody accounted for, and is a wake-up there for all who wait? 1 if anything is found."""
    from dataflow.commands.audit import audit_command

    status = audit_command(state, as_json=as_json)
    if status:
        raise typer.Exit(status)


@app.command(epilog="Example: [bold]nudge schema > flow.schema.json[/bold]")
def schema(
    what: Annotated[str, typer.Argument(help="flow, workspace, event, action or journal.")] = "flow",
) -> None:
    """Print the JSON Schema of flow files or records, for editors and tests."""
    from dataflow.errors import UsageError
    from operators.schema import SCHEMAS

    if what not in SCHEMAS:
        raise UsageError(f"there is no schema of '{what}'; there are {', '.join(SCHEMAS)}")
    typer.echo(json.dumps(SCHEMAS[what](), indent=2))


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 for success, 2 for wrong use or input, 1 for anything else."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(given, prog_name="nudge")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else FAILED
    except Exception as error:
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    """Print what went wrong where somebody can do something about it, and return the exit status."""
    from state.errors import Refused, exit_status_of

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
