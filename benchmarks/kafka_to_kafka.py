"""Kafka to Kafka: the job against the bare loop, side by side on one broker in one run.

`python -m benchmarks.kafka_to_kafka` starts a broker, fills topics, measures, prints a table and keeps the raw numbers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shlex
import shutil
import statistics
import sys
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import measure, workload
from benchmarks.workload import Content, Workload
from tests.kafka.broker import ROOT, Broker, BrokerError, ForeignBroker, KafkaUnavailableError

RESULTS = Path(__file__).with_name("results")
WORK = ROOT / ".cache" / "benchmarks"  # On disk, as a state directory is; `/tmp` may be memory.
OTHERS_BUSY = 0.1  # Of one core: more than that, and the run shared the machine with somebody.
WIDTH = 130
RATIOS = {"wall_s": "wall", "wall_net_s": "net wall", "loop_s": "loop", "cpu_s": "CPU", "cpu_net_s": "net CPU"}
BARE, NUDGE = "bare", "nudge"


@dataclass(frozen=True)
class Case:
    """One thing to measure: a program on a topic.

    Attributes:
        load: `start` (an empty topic) or the share of relevant events, `10 %`.
    """

    program: str
    load: str
    topic: str


def main() -> int:
    """Measure what the arguments ask for; 1 if a run failed or its output does not add up, 2 on wrong use."""
    options = _options()
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)  # Files and pipes have room for the whole table.
    try:
        with measure.kafka(options.broker, options.work, options.heap) as kafka:
            return _measure(options, kafka, console)
    except (KafkaUnavailableError, BrokerError) as error:
        console.print(f"no Kafka to measure on: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130


def _measure(options: argparse.Namespace, kafka: Broker | ForeignBroker, console: Console) -> int:
    contents, cases = _prepare(options, kafka, console)
    work = Path(tempfile.mkdtemp(prefix="run-", dir=_made(options.work)))
    flows = _made(work / "flows")
    for name, text in workload.flow_files(options.flows).items():
        (flows / name).write_text(text, "utf-8")
    runs: list[dict[str, Any]] = []
    try:
        for topic in dict.fromkeys(case.topic for case in cases):
            # Not counted: the first reader of a topic also warms the broker and the page cache for the others.
            _run(Case(BARE, "warm-up", topic), options, kafka, work, flows)
        total = options.runs * len(cases)
        for number in range(options.runs):
            # Interleaved, and every other time backwards, so that a slow minute of the machine does not hit one side.
            for case in cases if number % 2 == 0 else reversed(cases):
                run = {"run": number + 1, **_run(case, options, kafka, work, flows)}
                runs.append(run)
                console.print(f"[{len(runs)}/{total}] {_line(run)}", markup=False, highlight=False, soft_wrap=True)
    finally:
        if options.keep:
            console.print(f"kept: {work}", markup=False)
        else:
            shutil.rmtree(work, ignore_errors=True)
    report = _report(options, contents, cases, runs)
    for table in _tables(report):
        console.print(table)
    for note in report["notes"]:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if output := _output(options):
        _made(output.parent)
        draft = output.with_suffix(".tmp")
        draft.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        draft.replace(output)
        console.print(f"raw results: {output}", markup=False, soft_wrap=True)
    problems = [problem for run in runs for problem in run.get("problems", ())]
    for problem in problems:
        console.print(f"wrong: {problem}", style="red", markup=False)
    return 1 if problems else 0


# --- Before ----------------------------------------------------------------------------------------------------------


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kafka_to_kafka",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="What stands after -- goes to `nudge run`: python -m benchmarks.kafka_to_kafka --runs 5 -- --epoch 5s",
    )
    parser.add_argument("--events", type=int, help="events per topic (default: 1000000, with --quick 50000)")
    parser.add_argument("--users", type=int, help="users (default: a fifth of the events)")
    parser.add_argument("--partitions", type=int, default=4, help="of each input topic (default: %(default)s)")
    parser.add_argument("--flows", type=int, default=20, help="number of flows (default: %(default)s)")
    parser.add_argument("--shares", default="0,10,100", help="relevant events in percent (default: %(default)s)")
    parser.add_argument("--runs", type=int, help="runs of each case (default: 3, with --quick 1)")
    parser.add_argument("--processes", type=int, default=1, help="of the job (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=10_000, help="of the bare loop (default: %(default)s)")
    parser.add_argument("--only", choices=[BARE, NUDGE], help="measure one side alone")
    parser.add_argument("--quick", action="store_true", help="small and once: does it work at all? Keeps no results")
    parser.add_argument("--broker", metavar="HOST:PORT", help="use this Kafka, and what an earlier run left in it")
    parser.add_argument("--heap", default="1g", help="of a broker of its own (default: %(default)s)")
    parser.add_argument(
        "--work", type=Path, default=WORK, help="folder for states and data (default: .cache/benchmarks)"
    )
    parser.add_argument("--keep", action="store_true", help="keep states, sink topics and flows to look at")
    parser.add_argument("--output", type=Path, help="result file (default: a new one in benchmarks/results)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one process (default: %(default)s)")
    parser.add_argument("--nudge", type=Path, default=Path(sys.executable).with_name("nudge"), help="the command")
    parser.add_argument("more", nargs="*", metavar="-- ARGUMENT", help="more arguments for `nudge run`")
    options = parser.parse_args()
    options.events = options.events or (50_000 if options.quick else 1_000_000)
    options.users = options.users or max(1, options.events // 5)
    options.runs = options.runs or (1 if options.quick else 3)
    try:
        options.shares = [float(share) / 100 for share in options.shares.split(",")]
    except ValueError:
        parser.error("--shares: percentages with commas between them, such as 0,10,100")
    if not all(0 <= share <= 1 for share in options.shares):
        parser.error("--shares: each from 0 to 100")
    if min(options.events, options.users, options.partitions, options.flows, options.runs, options.processes) < 1:
        parser.error("numbers must be at least 1")
    if options.only != BARE and not options.nudge.exists():
        parser.error(f"{options.nudge.name} is not installed; install the project, or measure with --only bare")
    return options


def _prepare(
    options: argparse.Namespace, kafka: Broker | ForeignBroker, console: Console
) -> tuple[dict[str, Content], list[Case]]:
    """Fill the topics; return what is in them, by load, and the cases in the order of the table."""
    programs = [options.only] if options.only else [BARE, NUDGE]
    one = Workload(options.events, options.users, options.partitions, options.flows, share=0)
    loads = {"start": replace(one, events=0)} | {
        f"{share * 100:g} %": replace(one, share=share) for share in options.shares
    }
    contents = {}
    workers = min(len(loads), os.cpu_count() or 1)
    with (
        console.status("filling topics"),
        ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        filling = {name: pool.submit(workload.load, load, kafka.bootstrap) for name, load in loads.items()}
        for name, content in filling.items():
            contents[name] = content.result()
    cases = [Case(program, name, load.topic) for name, load in loads.items() for program in programs]
    return contents, cases


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- One run ---------------------------------------------------------------------------------------------------------


def _command(case: Case, options: argparse.Namespace, bootstrap: str, flows: str, state: str, prefix: str) -> list[str]:
    if case.program == BARE:
        return [sys.executable, "-m", "benchmarks.bare_loop", bootstrap, case.topic, "--batch", str(options.batch)]
    command = [str(options.nudge), "run", flows]
    command += ["--source", f"kafka://{bootstrap}/{case.topic}", "--sink", f"kafka://{bootstrap}?prefix={prefix}"]
    command += ["--state", state, "--stop-at-end", "--json"]
    if options.processes > 1:
        command += ["--processes", str(options.processes)]
    return command + list(options.more)


def _run(
    case: Case, options: argparse.Namespace, kafka: Broker | ForeignBroker, work: Path, flows: Path
) -> dict[str, Any]:
    """Run one case in a fresh process with a fresh state and fresh sink topics, and check what it wrote."""
    prefix, state = f"bench-out-{uuid.uuid4().hex[:8]}.", work / f"state-{uuid.uuid4().hex[:8]}"
    run: dict[str, Any] = {**asdict(case)}
    pid = kafka.pid if isinstance(kafka, Broker) else None
    command = _command(case, options, kafka.bootstrap, str(flows), str(state), prefix)
    try:
        summary, cost = measure.run_json(command, timeout_s=options.timeout, broker_pid=pid)
    except measure.RunError as error:
        return run | {"problems": [f"{case.program}, {case.load}: {error}"]}
    run |= {"summary": summary, **asdict(cost)}
    if case.program == NUDGE:
        topics = kafka.topics(prefix)
        run["sink_records"] = {
            topic.removeprefix(prefix): sum(kafka.end_offsets(topic).values()) for topic in sorted(topics)
        }
        run["state_mb"] = measure.folder_mb(state)
        if not options.keep:
            kafka.delete_topics(topics)
            shutil.rmtree(state, ignore_errors=True)
    expected = 0 if case.load == "start" else options.events
    if problems := _problems(run, expected):
        run["problems"] = [f"{case.program}, {case.load}: {problem}" for problem in problems]
    return run


def _problems(run: dict[str, Any], expected: int) -> list[str]:
    """Say what shows that the program did not do the work that it is being timed for."""
    summary = run["summary"]
    problems = []
    if summary["events"] != expected:
        problems.append(f"{summary['events']} events read, {expected} are there")
    if run["program"] == NUDGE:
        sent = sum(count for topic, count in run["sink_records"].items() if topic.startswith("actions."))
        dead = run["sink_records"].get("dead-letters", 0)
        if sent != summary["actions"]:
            problems.append(f"{summary['actions']} actions reported, {sent} on the sink topics")
        if summary["dead_letters"] or dead:
            problems.append(f"{summary['dead_letters']} dead letters reported, {dead} on the topic; none is due")
        if (summary["relevant"] == 0) != (run["load"] in {"start", "0 %"}):
            problems.append(f"{summary['relevant']} relevant events")
        if (sent == 0) != (summary["relevant"] == 0):
            problems.append(f"{sent} actions from {summary['relevant']} relevant events")
    return problems


def _line(run: dict[str, Any]) -> str:
    head = f"{run['program']:5} {run['load']:>6}"
    if "summary" not in run:
        return f"{head}  failed"
    others = "" if run["others_cpu_s"] is None else f", others {run['others_cpu_s']:.2f} s CPU"
    return (
        f"{head}  {run['wall_s']:6.2f} s wall, {run['summary']['seconds']:6.2f} s loop, {run['cpu_s']:6.2f} s CPU, "
        f"{run['rss_max_mb']:.0f} MB{others}"
    )


# --- After -----------------------------------------------------------------------------------------------------------


def _report(
    options: argparse.Namespace, contents: dict[str, Content], cases: list[Case], runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return everything that a reader needs: machine, versions, load, commands, medians, ratios, raw runs."""
    medians: dict[str, dict[str, dict[str, float]]] = {}
    for case in cases:
        good = [run for run in runs if (run["program"], run["load"]) == (case.program, case.load) and "summary" in run]
        if good:
            medians.setdefault(case.load, {})[case.program] = _medians(good)
    starts = medians.get("start", {})
    for load, programs in medians.items():
        for program, numbers in programs.items():
            if load != "start" and program in starts:
                # What a long-running job pays per event: without the start of the interpreter and of the engine.
                numbers["wall_net_s"] = max(numbers["wall_s"] - starts[program]["wall_s"], 0.001)
                numbers["cpu_net_s"] = max(numbers["cpu_s"] - starts[program]["cpu_s"], 0.001)
                numbers["events_per_cpu_s"] = options.events / numbers["cpu_net_s"]
    report: dict[str, Any] = {
        "benchmark": "kafka_to_kafka",
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": measure.machine(),
        "versions": measure.versions(),
        "command": _said(),
        "commands": {
            program: _shown(_command(Case(program, "", "TOPIC"), options, "HOST:PORT", "FLOWS", "STATE", "PREFIX"))
            for program in dict.fromkeys(case.program for case in cases)
        },
        "workload": {
            "events": options.events,
            "users": options.users,
            "partitions": options.partitions,
            "flows": options.flows,
            "processes": options.processes,
            "generator": workload.GENERATOR,
            "topics": {load: asdict(content) for load, content in contents.items()},
        },
        "medians": medians,
        "ratios": {load: _ratios(programs) for load, programs in medians.items() if len(programs) == 2},
        "runs": runs,
    }
    return report | {"notes": _notes(runs, report["workload"])}


def _medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    median = statistics.median
    numbers = {name: median([run[name] for run in runs]) for name in ("wall_s", "cpu_s", "rss_max_mb")}
    if all(run["broker_cpu_s"] is not None for run in runs):
        numbers["broker_cpu_s"] = median([run["broker_cpu_s"] for run in runs])
    numbers["loop_s"] = median([run["summary"]["seconds"] for run in runs])
    numbers["events_per_s"] = median([run["summary"]["events_per_second"] for run in runs])
    for name in ("relevant", "actions"):
        if name in runs[0]["summary"]:
            numbers[name] = median([run["summary"][name] for run in runs])
    return numbers


def _ratios(programs: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return what the job takes, as a multiple of the bare loop."""
    bare, nudge = programs[BARE], programs[NUDGE]
    return {name: nudge[name] / bare[name] for name in RATIOS if bare.get(name)}


def _notes(runs: list[dict[str, Any]], load: dict[str, Any]) -> list[str]:
    notes = []
    if disturbed := [
        run for run in runs if run.get("others_cpu_s") is not None and run["others_cpu_s"] > OTHERS_BUSY * run["wall_s"]
    ]:
        worst = max(run["others_cpu_s"] / run["wall_s"] for run in disturbed)
        notes.append(
            f"in {len(disturbed)} of {len(runs)} runs others used the machine, up to {worst:.1f} cores: "
            "look at ratios and CPU seconds, not at wall time"
        )
    for name, content in load["topics"].items():
        if content["events"]:
            relevant, fired = content["relevant"], content["fired"]
            notes.append(
                f"{name}: {content['bytes'] / content['events']:.0f} bytes per event, {relevant} relevant, "
                f"{fired} complete a pair ({fired / max(1, relevant):.1%} of the relevant)"
            )
    return notes


def _tables(report: dict[str, Any]) -> Iterator[Table]:
    load = report["workload"]
    table = Table(
        title=f"{load['events']:,} events, {load['users']:,} users, {load['partitions']} partitions, "
        f"{load['flows']} flows, {load['processes']} process(es); medians"
    )
    table.add_column("relevant")
    table.add_column("program")
    heads = "wall s|net|loop s|events/s|CPU s|net|events/CPU s|MB|broker CPU s|actions"
    for column in heads.split("|"):
        table.add_column(column, justify="right")
    for name, programs in report["medians"].items():
        for program, numbers in programs.items():
            started = name != "start"
            table.add_row(
                name,
                program,
                f"{numbers['wall_s']:.2f}",
                f"{numbers['wall_net_s']:.2f}" if "wall_net_s" in numbers else "",
                f"{numbers['loop_s']:.2f}",
                f"{numbers['events_per_s']:,.0f}" if started else "",
                f"{numbers['cpu_s']:.2f}",
                f"{numbers['cpu_net_s']:.2f}" if "cpu_net_s" in numbers else "",
                f"{numbers['events_per_cpu_s']:,.0f}" if "events_per_cpu_s" in numbers else "",
                f"{numbers['rss_max_mb']:.0f}",
                f"{numbers['broker_cpu_s']:.2f}" if "broker_cpu_s" in numbers else "",
                f"{numbers['actions']:,.0f}" if "actions" in numbers else "",
                end_section=program == list(programs)[-1],
            )
    yield table
    if report["ratios"]:
        ratios = Table(title="nudge / bare loop")
        ratios.add_column("relevant")
        for title in RATIOS.values():
            ratios.add_column(title, justify="right")
        for name, values in report["ratios"].items():
            if name != "start":  # There the one is an interpreter's start, and the other an engine's.
                ratios.add_row(name, *(f"{values[key]:.2f}" if key in values else "" for key in RATIOS))
        yield ratios


def _output(options: argparse.Namespace) -> Path | None:
    if options.output:
        return Path(options.output)
    if options.quick:
        return None
    return RESULTS / f"kafka_to_kafka-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}.json"


def _said() -> str:
    return shlex.join(["python", "-m", "benchmarks.kafka_to_kafka", *sys.argv[1:]])


def _shown(command: list[str]) -> str:
    """Return a command as anybody would type it, without the folders of this machine."""
    name = "nudge" if command[0] != sys.executable else "python"
    return " ".join([name, *command[1:]])


if __name__ == "__main__":
    sys.exit(main())
