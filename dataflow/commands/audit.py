"""`nudge audit`: what holds and what does not, for people and for machines."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dataflow.commands.longwork import LongWork
from operators.ids import of_label

if TYPE_CHECKING:
    from dataflow.keep.audit import Audit, Finding, Seen
    from operators.machine.invariants import Balance

SHOWN_PER_CODE: Final = 20  # To a person the first few of a kind say as much as a million.

app = typer.Typer()


@app.command(epilog="Example: [bold]nudge audit --state /var/lib/nudge[/bold]")
def audit(
    state: Annotated[Path, typer.Option("--state", help="State directory of a job, stopped or running.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per finding, flow and summary.")] = False,
) -> None:
    """Check a state: is every journey counted, and has every waiting user a wake-up? 1 if anything is wrong."""
    status = audit_command(state, as_json=as_json)
    if status:
        raise typer.Exit(status)


def audit_command(state: Path, *, as_json: bool) -> int:
    """Audit *state*, print what was found, and return the exit status."""
    from dataflow.keep.audit import Audit

    _allow_many_files()
    began = time.monotonic()
    work = LongWork(sys.stderr)
    found: dict[str, int] = {}
    audit = Audit(state, lambda seen: work.tell(lambda: _so_far(seen, found)))
    for finding in audit.findings():
        number = found[finding.code] = found.get(finding.code, 0) + 1
        if as_json:
            _print_json(_as_json(finding))
        elif number <= SHOWN_PER_CODE:
            work.clear()
            sys.stdout.write(f"{_place(finding)}{finding.code}: {finding.problem}\n")
    work.clear()
    if as_json:
        for label, balance in sorted(audit.balances.items()):
            _print_json({"type": "flow", **_row(label, balance)})
        for row in _questions(audit):
            _print_json({"type": "question", **row})
        summary = {"type": "summary", "clean": not found, "findings": found, "epoch": audit.epoch}
        seen = audit.seen
        _print_json(
            {**summary, "shards": seen.shards, "users": seen.users, "timers": seen.timers,
             "memberships": seen.memberships, "held": seen.held, "sent": seen.sent,
             "seconds": round(time.monotonic() - began, 3)}
        )  # fmt: skip
    else:
        _print_for_people(audit, found)
    return 1 if found else 0


def _allow_many_files() -> None:
    """Let this process open as many files as it may: all shards are open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _so_far(seen: Seen, found: dict[str, int]) -> str:
    return f"audit: {seen.shards} shards, {seen.users:,} users, {sum(found.values())} findings"


def _place(finding: Finding) -> str:
    shard = "" if finding.shard is None else f"shard {finding.shard:02d} "
    return shard + ("" if finding.user is None else f"user {finding.user} ")


def _as_json(finding: Finding) -> dict[str, Any]:
    from dataflow.keep.audit import NEXT

    return {
        "type": "finding",
        "code": finding.code,
        "shard": finding.shard,
        "user": finding.user,
        "problem": finding.problem,
        "next": NEXT[finding.code],
    }


def _row(label: str, balance: Balance) -> dict[str, Any]:
    flow, version = of_label(label)
    return {
        "flow": flow,
        "version": int(version),
        **balance.totals.balance(),
        "inside_by_users": balance.inside_by_users,
    }


def _questions(audit: Audit) -> Iterator[dict[str, Any]]:
    """Yield what the register says: how many places of a limit are taken, who is in an experiment, who has won."""
    if audit.register is None:
        return
    for name, question in sorted(audit.register.questions.items()):
        flow, _, step = name.partition("\x1f")
        if not step:
            yield {"flow": flow, "taken": question.taken}
            continue
        arms = audit.register.members.get(name, {})
        yield {
            "flow": flow,
            "step": step,
            "taken": question.taken,
            "winner": question.winner,
            "arms": {arm: {"entered": of.entered, "converted": of.converted} for arm, of in arms.items()},
        }


def _print_json(data: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")


def _print_for_people(audit: Audit, found: dict[str, int]) -> None:
    from rich.console import Console
    from rich.table import Table

    from dataflow.keep.audit import NEXT

    for code, number in sorted(found.items()):
        if number > SHOWN_PER_CODE:
            sys.stdout.write(f"... and {number - SHOWN_PER_CODE} more {code}; --json has all of them\n")
    for code in sorted(found):
        sys.stdout.write(f"  {code}: {NEXT[code]}\n")
    sys.stdout.flush()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("flow")
    for name in ("entered", "ended", "exited", "failed", "inside", "by users"):
        table.add_column(name, justify="right")
    for label, balance in sorted(audit.balances.items()):
        row = _row(label, balance)
        numbers = [row[name] for name in ("entered", "ended", "exited", "failed", "inside", "inside_by_users")]
        style = None if balance.is_kept else "red"
        table.add_row(f"{row['flow']} v{row['version']}", *(f"{number:,}" for number in numbers), style=style)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    if audit.balances:
        console.print(table)
    for row in _questions(audit):
        if "step" not in row:
            console.print(f"{row['flow']}: {row['taken']:,} places of the limit are taken", soft_wrap=True)
            continue
        arms = ", ".join(f"{arm} {of['converted']} of {of['entered']}" for arm, of in row["arms"].items())
        won = f"{row['winner']} has won" if row["winner"] else "nobody has won yet"
        text = f"{row['flow']}, experiment {row['step']}: {row['taken']:,} users are in, converted: {arms}; {won}"
        console.print(text, soft_wrap=True)
    seen, total = audit.seen, sum(found.values())
    what = "clean" if not total else "1 finding" if total == 1 else f"{total:,} findings"
    members = f", {seen.memberships:,} memberships" if seen.memberships else ""
    held = f", {seen.held:,} records held" if seen.held else ""
    held += f", {seen.sent:,} actions kept for receipts" if seen.sent else ""
    where = f"in {seen.shards} shards, as of epoch {audit.epoch}"
    console.print(f"{what}: {seen.users:,} users, {seen.timers:,} timers{members}{held} {where}", soft_wrap=True)
