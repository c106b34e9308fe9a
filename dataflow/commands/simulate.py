"""`nudge simulate`: flows over recorded events in virtual time, and a table of what came of it, one row per flow."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dataflow.commands.arguments import Config, Flows
from dataflow.errors import UsageError, must_be_readable

if TYPE_CHECKING:
    from dataflow.simulate import Simulation
    from operators.machine.deployment import Deployment
    from operators.machine.totals import Totals

app = typer.Typer()


@app.command(epilog="Example: [bold]nudge simulate flows/ --events events.jsonl --actions actions.jsonl[/bold]")
def simulate(
    flows: Flows,
    events: Annotated[Path, typer.Option("--events", help="Recorded events, one JSON object per line.")],
    until: Annotated[str | None, typer.Option("--until", help="Continue stream time up to this moment.")] = None,
    actions: Annotated[Path | None, typer.Option("--actions", help="Write the actions here.")] = None,
    journal: Annotated[Path | None, typer.Option("--journal", help="Write the journal here.")] = None,
    dead_letters: Annotated[
        Path | None, typer.Option("--dead-letters", help="Write records that cannot be read to this file.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format", help="native, segment, quick_audience, quick_tracking, cloudevents, or auto: by shape."
        ),
    ] = "native",
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="any", help="Take an anonymous or device id as the user if there is no other."),
    ] = None,
    user_from: Annotated[
        str | None,
        typer.Option("--user-from", metavar="PATHS", help="CloudEvents: the user. Default: subject,data.user_id."),
    ] = None,
    code_field: Annotated[
        str | None, typer.Option("--code-field", help="Quick Audience: the event's code. Default: eventCode.")
    ] = None,
    time_field: Annotated[
        str | None, typer.Option("--time-field", help="Quick Audience: the event's time. Default: eventTime.")
    ] = None,
    properties_field: Annotated[
        str | None,
        typer.Option("--properties-field", help="Quick Audience: the event's properties. Default: properties."),
    ] = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as one JSON object.")] = False,
) -> None:
    """Run flows over recorded events in virtual time: what they would have sent, to whom, and why not."""
    from dataflow.flows import load
    from dataflow.read.disorder import said
    from dataflow.read.scanner import format_of
    from dataflow.simulate import Simulation, jsonl
    from dataflow.urls import read_format
    from operators.language.problems import BadValue
    from operators.language.values import parse_moment

    settings = {
        "user": user,
        "user_from": user_from,
        "code_field": code_field,
        "time_field": time_field,
        "properties_field": properties_field,
    }
    format, given = read_format(
        "--format", format, {key: value for key, value in settings.items() if value is not None}
    )
    try:
        until_ms = None if until is None else parse_moment(until).ms_in_utc()
    except BadValue as bad:
        raise UsageError(f"--until: {bad.message}; {bad.hint}") from None
    must_be_readable(events, f"--events {events}")
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
        simulation.run(events, format_of(format, loaded.deployment.index.table(), given), until_ms)
    for sentence in said(simulation.disorder.jumps, str(events)):
        sys.stderr.write(f"warning: {sentence}\n")
    if simulation.half_line:
        sys.stderr.write(
            f"warning: {events}: line {simulation.half_line} has no end and is no whole record: it was left out, as a "
            "job would leave it for its next run\n"
        )
    if (mostly := mostly_dead(simulation)) is not None:
        sys.stderr.write(f"warning: {events}: {mostly}\n")
    print_simulation(simulation, loaded.deployment, as_json=as_json, is_open=until_ms is None)


def mostly_dead(simulation: Simulation) -> str | None:
    """Return what the records look like if most of them cannot be read for one reason."""
    for reason, number in simulation.dead.items():
        if 2 * number > simulation.records:
            first = simulation.first_dead[reason]
            return f"{number} of {simulation.records} records cannot be read: {first.detail} (line {first.offset})"
    return None


SAMPLE_BYTES: Final = 60
_DETAILED: Final = ("refused", "sent", "postponed", "suppressed", "ended", "exited", "failed")
_IF_ANY: Final = frozenset(("postponed",))  # Few flows have quiet hours: a column for those that do.


def counts_by_flow(totals: Totals, deployment: Deployment) -> list[dict[str, Any]]:
    """Return, per flow version, what happened: entered, refused, sent, held, ended, and who is still inside."""
    from operators.machine.totals import read_totals

    read = read_totals(totals, [program.label for program in deployment.programs.values()])
    rows = []
    for (flow, version), program in sorted(deployment.programs.items()):
        counts = read[program.label]
        row: dict[str, Any] = {
            "flow": flow,
            "version": version,
            "entered": counts.entered,
            "converted": counts.converted,
            "inside": counts.inside,
        }
        for kind in _DETAILED:
            row[kind] = {detail or "-": number for detail, number in sorted(getattr(counts, kind).items())}
        rows.append(row)
    return rows


def print_simulation(simulation: Simulation, deployment: Deployment, *, as_json: bool, is_open: bool = False) -> None:
    """Print the counts of a simulation on standard output.

    Args:
        is_open: time ran on until nothing waited, within a bound, and not to a moment that somebody named.
    """
    rows = counts_by_flow(simulation.totals, deployment)
    counts = simulation.counts
    if as_json:
        summary = {
            "events": simulation.records,
            "dead_letters": simulation.dead,
            "duplicates": simulation.duplicates,
            "raised": simulation.disorder.raised,
            "receipts": counts.receipts,
            "unknown_receipts": simulation.unknown_receipts,
            "memberships": counts.memberships,
            "audience_updates": counts.updates,
            "ignored": counts.ignored,
            "internal_errors": simulation.mistakes,
            "flows": rows,
        }
        sys.stdout.write(json.dumps(summary) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    from dataflow.simulate import RUN_ON_MS
    from operators.language.values import DAY
    from state.iso import format_ms

    table = Table(box=None, pad_edge=False, header_style="bold")
    detailed = [kind for kind in _DETAILED if kind not in _IF_ANY or any(row[kind] for row in rows)]
    for name in ("flow", "entered", "converted", *detailed, "inside"):
        table.add_column(name, justify="right" if name in ("entered", "converted", "inside") else "left")
    for row in rows:
        table.add_row(
            f"{row['flow']} v{row['version']}",
            str(row["entered"]),
            str(row["converted"]),
            *(_listed(row[kind]) for kind in detailed),
            str(row["inside"]),
        )
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(table)
    dead = ", ".join(f"{reason} {number}" for reason, number in sorted(simulation.dead.items())) or "none"
    repeats = "1 duplicate" if simulation.duplicates == 1 else f"{simulation.duplicates} duplicates"
    console.print(f"{simulation.records} records, {repeats}, dead letters: {dead}")
    others = {"receipts": counts.receipts, "memberships": counts.memberships, "updates of audiences": counts.updates}
    others["ignored"] = counts.ignored
    if found := ", ".join(f"{what} {number}" for what, number in others.items() if number):
        console.print(f"among them {found}")
    for reason, letter in sorted(simulation.first_dead.items()):
        line = f"  {reason}, first in line {letter.offset}: {letter.detail}: {_sample(letter.raw)}"
        console.print(line, markup=False, soft_wrap=True)
    disorder = simulation.disorder
    if disorder.raised:
        what = "1 record was" if disorder.raised == 1 else f"{disorder.raised} records were"
        most = timedelta(milliseconds=disorder.most_ms)
        console.print(f"{what} out of order and raised to the time before, by {most} at most")
    inside = sum(row["inside"] for row in rows)
    if is_open and inside:
        days = RUN_ON_MS // DAY
        console.print(f"time ran on for {days} days after the last record, and {inside} inside still wait; see --until")
    elif is_open and simulation.has_planned:
        days = RUN_ON_MS // DAY
        console.print(f"time ran on for {days} days after the last record, and more runs are planned; see --until")
    elif is_open and simulation.ran_on_to_ms is not None:
        console.print(f"time ran on after the last record until nobody waited: {format_ms(simulation.ran_on_to_ms)}")
    if simulation.mistakes:
        console.print(f"{simulation.mistakes} internal errors, each in one user's step: see 'failed' in the journal")
    if counts.receipts:
        receipts = "1 receipt" if counts.receipts == 1 else f"{counts.receipts} receipts"
        unknown = simulation.unknown_receipts
        console.print(f"{receipts}, {unknown} of actions that were not sent to that user" if unknown else receipts)


def _sample(raw: bytes) -> str:
    """Return the beginning of a record as it can be printed."""
    text = raw[:SAMPLE_BYTES].decode(errors="replace")
    printable = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return printable + ("..." if len(raw) > SAMPLE_BYTES else "")


def _listed(counts: dict[str, int]) -> str:
    if not counts:
        return "-"
    return ", ".join(str(number) if what == "-" else f"{what} {number}" for what, number in counts.items())
