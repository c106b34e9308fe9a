"""`nudge run`: settings become a job, signals stop it, and the last line says what it did."""

from __future__ import annotations

import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from dataflow.commands.arguments import CONFIG_HELP, Flows
from dataflow.errors import UsageError
from dataflow.job.launch import Launched, launched
from dataflow.job.stopping import NOT_BEGUN, StopSignals
from dataflow.settings import SETTINGS, InForce, fields_of, kafka_options, misspelt, resolve, shown

if TYPE_CHECKING:
    from dataflow.job.lifecycle import Job
    from dataflow.job.status import Running

app = typer.Typer()

PANELS: Final = {
    "Places": ("source", "sink", "state", "config"),
    "Size": ("processes", "shards", "cached_users"),
    "Time": ("stop_at_end", "until", "epoch", "slack"),
    "Topics and flows": ("create_topics", "watch"),
    "Reports": ("metrics_port", "metrics_host", "log_level", "log_format", "json", "show_config"),
    "For one start after a crash": ("accept_version", "accept_difference"),
}
"""How help is divided; what is in none stands at its end."""


def _with_a_flag_per_setting(command: Callable[..., None]) -> Callable[..., None]:
    """Return *command* with the parameters that it takes by name spelled out, as typer reads them."""
    switches = {
        "accept_version": "Let this version finish what another one had begun to decide.",
        "accept_difference": "Let users go on of whom something else was written than is decided now.",
        "show_config": "Print each setting with its origin, and stop.",
    }
    panels = {name: panel for panel, names in PANELS.items() for name in names}

    def parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)

    def option(name: str, flags: str, metavar: str, help: str, default: Any) -> Any:
        return typer.Option(default, flags, metavar=metavar, help=help, rich_help_panel=panels.get(name))

    found = {
        one.name: parameter(
            one.name, one.kind.option | None, option(one.name, one.flags, one.kind.metavar, one.help, None)
        )
        for one in SETTINGS
    }
    for name, help in switches.items():
        found[name] = parameter(name, bool, option(name, f"--{name.replace('_', '-')}", "", help, False))
    found["config"] = parameter("config", Path | None, option("config", "--config", "FILE", CONFIG_HELP, None))
    ordered = [found.pop(name) for names in PANELS.values() for name in names]
    parameters = [parameter("flows", Flows), *ordered, *found.values()]
    signed: Any = command
    signed.__signature__ = inspect.Signature(parameters)
    return command


@app.command(
    epilog="Example: [bold]nudge run flows/ --source kafka://localhost:9092/events "
    "--sink kafka://localhost:9092 --state /var/lib/nudge[/bold]"
)
@_with_a_flag_per_setting
def run(
    flows: list[Path],
    config: Path | None,
    show_config: bool,
    accept_version: bool,
    accept_difference: bool,
    **flags: Any,
) -> None:
    """Run the job. A flag wins over NUDGE_<SETTING>, and that over run: in nudge.yaml."""
    if show_config:
        job, settings = job_of(flows, flags, config)
        _print_settings(settings, job.kafka)
        return

    def read() -> Job:
        job, _ = job_of(flows, flags, config)
        return replace(job, accept_version=accept_version, accept_difference=accept_difference)

    # A process takes as long to load as what follows here, so both do it at the same time.
    with launched(0) as process, StopSignals(process.abandon) as signals:
        from dataflow.flows import contents_of

        _run(read, partial(contents_of, flows, config), signals, process)


def job_of(flows: Sequence[Path], flags: Mapping[str, Any], config: Path | None) -> tuple[Job, dict[str, InForce]]:
    """Return the job that flags, environment and workspace describe together, and what is in force.

    Raises:
        UsageError: something does not fit or is missing.
        FlowError: the flows have problems.
    """
    from dataflow.flows import load
    from dataflow.job.lifecycle import Job
    from operators.language.workspace import OWN_TOPICS

    loaded = load(flows, config)
    settings = resolve(flags, loaded.workspace.run, loaded.workspace_file)
    kafka = kafka_options(loaded.workspace.kafka)
    job = Job(loaded=loaded, kafka=kafka, **fields_of(settings))
    identities = [source.identity for source in job.sources]
    for identity in identities:
        if identities.count(identity) > 1:
            raise UsageError(f"--source: {identity} is given twice")
    if job.until_ms is not None and not job.stop_at_end:
        raise UsageError("--until is for --stop-at-end: without it, time goes on by itself")
    _check_no_circle(job, {*loaded.deployment.topics.values(), *OWN_TOPICS})
    if kafka and "kafka" in (job.sink.kind, *(source.kind for source in job.sources)):
        _check_kafka(kafka)
    return job, settings


def _check_no_circle(job: Job, topics: set[str]) -> None:
    """Refuse a source that the job itself writes to: of one dead letter there would be more without end."""
    if job.sink.kind != "kafka":
        return
    prefix, hosts = job.sink.options.get("prefix", ""), set(job.sink.bootstrap.split(","))
    for source in job.sources:
        if source.name in {prefix + topic for topic in topics} and hosts & set(source.bootstrap.split(",")):
            raise UsageError(f"--source: {source.name} is a topic that this job writes to; give --sink a ?prefix=")


def _check_kafka(options: Mapping[str, Any]) -> None:
    """Refuse options with which no Kafka client can be made, before anything else happens."""
    from confluent_kafka import Consumer, Producer

    from connectors.kafka import OptionRefused, check_options
    from connectors.kafka_sink import producer_options
    from connectors.kafka_source import consumer_options

    quiet = {"log_level": 2, **options}
    clients = {
        "consumer": lambda: Consumer(consumer_options(quiet)).close(),
        "producer": lambda: Producer(producer_options(quiet)),
    }
    try:
        check_options(options, clients)
    except OptionRefused as error:
        raise UsageError(f"kafka: {error} (kafka: in nudge.yaml, or NUDGE_KAFKA_.. in the environment)") from None


def _print_settings(settings: Mapping[str, InForce], kafka: Mapping[str, Any]) -> None:
    rows = shown(settings, kafka)
    width = max(len(name) for name, _, _ in rows)
    for name, value, origin in rows:
        sys.stdout.write(f"{name:<{width}}  {value or '-':<40}  {origin}\n")


def _run(read: Callable[[], Job], contents: Callable[[], bytes], signals: StopSignals, process: Launched) -> None:
    """Run the job that *read* returns, now and whenever its flows have changed; *contents* tells whether they have."""
    from dataflow.job.lookout import Reread
    from dataflow.job.processes import JobRunner
    from dataflow.logs import configure_logs, get_logger, is_json
    from state.errors import exit_status_of

    job = read()

    os.umask(0o077)  # What a job writes down is personal data, and nobody else's.
    configure_logs(job.log_level, job.log_format)
    log = get_logger()
    for name, near in misspelt():
        log.warning(
            "a name in the environment is close to that of a setting, and has no effect", name=name, setting=near
        )

    def flows_now(before: Job) -> Job:
        return _with_new_flows(before, read(), log)

    reread = Reread(flows_now, contents if job.watch else None)
    runner = JobRunner(job, log, _Heartbeat(log), reread, launched=process)
    signals.stop(runner, log.info)
    signal.signal(signal.SIGHUP, lambda *_: runner.reload())
    server = None
    if job.metrics_port is not None:
        from dataflow.serve.http import serve

        server = serve(job.metrics_port, runner, host=job.metrics_host)
        log.info("metrics are served", host=job.metrics_host, port=server.port)
    try:
        running = runner.run()
    except Exception as error:
        status = exit_status_of(error)
        if status is None or not is_json(job.log_format):
            raise
        log.error("the job has ended", why=str(error), status=status)
        raise typer.Exit(status) from None
    finally:
        if server is not None:
            server.close()
    if runner.stopping.is_set():
        log.info("the job has ended", why="it was asked to stop") if runner.has_begun else log.info(NOT_BEGUN)
    else:
        log.info("the job has ended", why="its sources have ended")
    _print_summary(running, as_json=job.json)


def _with_new_flows(before: Job, now: Job, log: Any) -> Job:
    """Return the job as it runs, with the flows of *now*; a setting that has changed is for a restart."""
    from operators.language.workspace import OWN_TOPICS

    changed = [one.name for one in SETTINGS if getattr(before, one.field) != getattr(now, one.field)]
    if before.kafka != now.kafka:
        changed.append("kafka")
    if changed:
        log.warning("settings have changed; they apply after a restart", settings=changed)
    found = replace(before, loaded=now.loaded)
    _check_no_circle(found, {*found.loaded.deployment.topics.values(), *OWN_TOPICS})
    return found


class _Heartbeat:
    """Logs how far the job has come, every ten seconds in which something was done or is left to do."""

    EVERY_S: Final = 10.0

    def __init__(self, log: Any, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._monotonic_s = monotonic_s
        self._last = monotonic_s()
        self._before = (0, 0, 0)

    def __call__(self, running: Running) -> None:
        now = self._monotonic_s()
        if now - self._last < self.EVERY_S:
            return
        work = running.work
        lag = sum(one.lag or 0 for status in running.statuses for one in status.partitions.values())
        done = (work.records, work.actions, work.dead_letters)
        if done != self._before or lag:
            self._log.info(
                "progress",
                events=work.records,
                events_per_second=round((work.records - self._before[0]) / (now - self._last)),
                actions=work.actions,
                dead_letters=work.dead_letters,
                lag=lag,
            )
        self._last, self._before = now, done


def _print_summary(running: Running, *, as_json: bool) -> None:
    summary = running.summary()
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
    else:
        sys.stdout.write(
            f"{summary['events']} events read, {summary['relevant']} relevant, {summary['actions']} actions, "
            f"{summary['dead_letters']} dead letters, {summary['seconds']:.1f} s, "
            f"{summary['events_per_second']} events/s\n"
        )
    sys.stdout.flush()
