"""`nudge run`: settings become a job, signals stop it, and the last line says what it did."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dataflow.commands.arguments import Config, Flows
from dataflow.errors import UsageError

if TYPE_CHECKING:
    from dataflow.job.lifecycle import Job
    from dataflow.job.processes import Running
    from dataflow.settings import Value
    from dataflow.urls import SinkUrl, SourceUrl

app = typer.Typer()


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
    status = run_command(flows, flags, config, show_config=show_config)
    if status:
        raise typer.Exit(status)


def job_of(flows: Sequence[Path], flags: Mapping[str, Any], config: Path | None) -> tuple[Job, dict[str, Value]]:
    """Return the job that flags, environment and workspace describe together, and what is in force.

    Raises:
        UsageError: something does not fit or is missing.
        FlowError: the flows have problems.
    """
    from dataflow.flows import load
    from dataflow.job.lifecycle import Job
    from dataflow.job.plan import channel_topics
    from dataflow.settings import folder, kafka_options, resolve
    from dataflow.urls import parse_sink, parse_source
    from operators.language.workspace import OWN_TOPICS

    loaded = load(flows, config)
    settings = resolve(flags, loaded.workspace.run, loaded.workspace_file)
    value = {name: one.value for name, one in settings.items()}
    for name, example in (("source", "kafka://localhost:9092/events"), ("sink", "stdout:")):
        if not value[name]:
            raise UsageError(f"--{name} is missing: for example --{name} {example}")
    sources = [parse_source(url) for url in value["source"]]
    identities = [source.identity for source in sources]
    for identity in identities:
        if identities.count(identity) > 1:
            raise UsageError(f"--source: {identity} is given twice")
    if value["until"] is not None and not value["stop_at_end"]:
        raise UsageError("--until is for --stop-at-end: without it, time goes on by itself")
    sink = parse_sink(value["sink"])
    _check_no_circle(sources, sink, {*channel_topics(loaded.deployment, loaded.workspace).values(), *OWN_TOPICS})
    kafka = kafka_options(loaded.workspace.kafka)
    if kafka and "kafka" in (sink.kind, *(source.kind for source in sources)):
        _check_kafka(kafka)
    job = Job(
        loaded=loaded,
        sources=sources,
        sink=sink,
        state=folder(value["state"]),
        processes=value["processes"],
        stop_at_end=value["stop_at_end"],
        until_ms=value["until"],
        epoch_s=value["epoch"] / 1000,
        slack_ms=value["slack"],
        shards=value["shards"],
        cached_users=value["cached_users"],
        create_topics=value["create_topics"],
        kafka=kafka,
        log_level=value["log_level"],
        log_format=value["log_format"],
        metrics_port=value["metrics_port"],
    )
    return job, settings


def _check_no_circle(sources: Sequence[SourceUrl], sink: SinkUrl, topics: set[str]) -> None:
    """Refuse a source that the job itself writes to: of one dead letter there would be more without end."""
    if sink.kind != "kafka":
        return
    prefix, hosts = sink.options.get("prefix", ""), set(sink.bootstrap.split(","))
    for source in sources:
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


def run_command(flows: Sequence[Path], flags: Mapping[str, Any], config: Path | None, *, show_config: bool) -> int:
    """Run the job until it ends or is stopped; return the exit status."""
    import structlog

    from dataflow.job.processes import JobRunner
    from dataflow.logs import configure_logs
    from dataflow.settings import shown

    job, settings = job_of(flows, flags, config)
    if show_config:
        rows = shown(settings, job.kafka)
        width = max(len(name) for name, _, _ in rows)
        for name, value, origin in rows:
            sys.stdout.write(f"{name:<{width}}  {value or '-':<40}  {origin}\n")
        return 0
    os.umask(0o077)  # What a job writes down is personal data, and nobody else's.
    configure_logs(job.log_level, job.log_format)
    log = structlog.get_logger()
    runner = JobRunner(job, log, _Progress(log))
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: runner.stop())
    server = None
    if job.metrics_port is not None:
        from dataflow.serve.metrics import serve

        server = serve(job.metrics_port, runner)
        log.info("metrics are served", port=server.port)
    try:
        running = runner.run()
    finally:
        if server is not None:
            server.close()
    _print_summary(running, as_json=bool(settings["json"].value))
    return 0


class _Progress:
    """Logs how far the job has come, every ten seconds."""

    EVERY_S: Final = 10.0

    def __init__(self, log: Any) -> None:
        self._log = log
        self._last = time.monotonic()
        self._records = 0

    def __call__(self, running: Running) -> None:
        now = time.monotonic()
        if now - self._last < self.EVERY_S:
            return
        records = running.total("records")
        lags = [position[1] for position in running.merged("positions").values() if position[1] is not None]
        self._log.info(
            "progress",
            events=records,
            events_per_second=round((records - self._records) / (now - self._last)),
            actions=running.total("actions"),
            dead_letters=running.total("dead_letters"),
            lag=sum(lags),
        )
        self._last, self._records = now, records


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
