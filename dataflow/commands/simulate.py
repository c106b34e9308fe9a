"""What people see at the end of a run: tables of counts, one row per flow."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from operators.machine.deployment import Deployment
from operators.machine.outbox import Totals, inside

if TYPE_CHECKING:
    from dataflow.simulate import Simulation


def counts_by_flow(totals: Totals, deployment: Deployment) -> list[dict[str, Any]]:
    """Return, per flow version, what happened: entered, refused, sent, suppressed, ended, and who is still inside."""
    rows = []
    for (flow, version), program in sorted(deployment.programs.items()):
        counts = totals.get(program.label, {})
        row: dict[str, Any] = {
            "flow": flow,
            "version": version,
            "entered": counts.get("entered", 0),
            "converted": counts.get("converted", 0),
            "inside": inside(counts),
        }
        for kind in ("refused", "sent", "suppressed", "ended", "exited", "failed"):
            row[kind] = {
                what.partition(":")[2] or "-": number
                for what, number in sorted(counts.items())
                if what.partition(":")[0] == kind
            }
        rows.append(row)
    return rows


def print_simulation(simulation: Simulation, deployment: Deployment, *, as_json: bool) -> None:
    """Print the counts of a simulation on standard output."""
    rows = counts_by_flow(simulation.totals, deployment)
    if as_json:
        summary = {
            "events": simulation.records,
            "dead_letters": simulation.dead,
            "duplicates": simulation.duplicates,
            "unsupported": simulation.unsupported,
            "internal_errors": simulation.errors,
            "flows": rows,
        }
        sys.stdout.write(json.dumps(summary) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("flow", "entered", "refused", "sent", "suppressed", "ended", "exited", "failed", "inside"):
        table.add_column(name, justify="right" if name in ("entered", "inside") else "left")
    for row in rows:
        table.add_row(
            f"{row['flow']} v{row['version']}",
            str(row["entered"]),
            *(_listed(row[kind]) for kind in ("refused", "sent", "suppressed", "ended", "exited", "failed")),
            str(row["inside"]),
        )
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(table)
    dead = ", ".join(f"{reason} {number}" for reason, number in sorted(simulation.dead.items())) or "none"
    repeats = "1 duplicate" if simulation.duplicates == 1 else f"{simulation.duplicates} duplicates"
    console.print(f"{simulation.records} records, {repeats}, dead letters: {dead}")
    if simulation.errors:
        console.print(f"{simulation.errors} internal errors, each in one user's step: see 'failed' in the journal")
    if simulation.unsupported:
        console.print(f"{simulation.unsupported} receipts and memberships were left alone: not supported yet")


def _listed(counts: dict[str, int]) -> str:
    if not counts:
        return "-"
    return ", ".join(str(number) if what == "-" else f"{what} {number}" for what, number in counts.items())
