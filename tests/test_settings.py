"""Settings: flags, then environment, then nudge.yaml; what is in force can be seen, secrets cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dataflow.commands.run import job_of
from dataflow.errors import UsageError
from dataflow.settings import SETTINGS, fields_of, kafka_options, misspelt, resolve, shown
from dataflow.urls import parse_sink, parse_slack, parse_source
from tests.jobs import REPO

HELLO = "flow: hello\ntrigger: {event: hello}\nsteps: [{send: webhook, template: t}]\n"
FLAGS = {"epoch": None, "processes": None, "source": None}


def test_a_flag_wins_over_the_environment_and_that_over_the_workspace() -> None:
    workspace = {"epoch": "30s", "processes": 2, "slack": "3s"}
    environment = {"NUDGE_EPOCH": "20s", "NUDGE_PROCESSES": "3"}
    found = resolve({**FLAGS, "epoch": "5s"}, workspace, "nudge.yaml", environment)
    assert (found["epoch"].value, found["epoch"].origin) == (5_000, "--epoch")
    assert (found["processes"].value, found["processes"].origin) == (3, "NUDGE_PROCESSES")
    assert (found["slack"].value, found["slack"].origin) == (3_000, "nudge.yaml")
    assert (found["log_level"].value, found["log_level"].origin) == ("info", "default")


@pytest.mark.parametrize(
    ("workspace", "said"),
    [
        ({"epoch": "soon"}, "nudge.yaml: run.epoch: 'soon' is not a duration"),
        ({"epok": "1s"}, "run.epok: there is no such setting"),
        ({"processes": 0}, "run.processes"),
        ({"stop_at_end": "perhaps"}, "neither true nor false"),
        ({"log_level": "loud"}, "none of debug, info, warning, error"),
        ({"source": 5}, "--source 5: write kafka://host:9092/topic or file:events.jsonl"),
    ],
)
def test_a_bad_setting_is_named_with_its_place(workspace: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace(".", r"\.")):
        resolve({}, workspace, "nudge.yaml", {})


def test_secrets_come_from_the_environment_and_are_never_shown() -> None:
    options = kafka_options({"security.protocol": "SASL_SSL"}, {"NUDGE_KAFKA_SASL_PASSWORD": "hunter2"})
    assert options == {"security.protocol": "SASL_SSL", "sasl.password": "hunter2"}
    rows = shown(resolve({"source": ["kafka://a/events", "file:b"]}, {}, "", {}), options)
    assert ("kafka.sasl.password", "(hidden)", "nudge.yaml") in rows
    assert ("source", "kafka://a/events, file:b", "--source") in rows
    assert ("epoch", "10s", "default") in rows


@pytest.mark.parametrize("name", ["source", "sink"])
def test_what_has_to_be_given_is_asked_for_with_an_example(name: str) -> None:
    given = {"source": ["file:a"], "sink": "stdout:"}
    assert fields_of(resolve(given, {}, "", {}))["sources"] == [parse_source("file:a")]
    for nothing in (None, "", []):
        with pytest.raises(UsageError, match=f"^--{name} is missing: for example --{name} "):
            fields_of(resolve({**given, name: nothing}, {}, "", {}))


def test_the_documented_settings_are_those_that_there_are() -> None:
    text = (REPO / "docs" / "operations.md").read_text()
    section = text[text.index("## Settings") : text.index("## Kafka, in")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "| `--" in line]
    documented = [
        (flags.split("`")[1].split()[0], "--no-" in flags, variable.strip("`"), name.strip("`"), default.strip("`"))
        for flags, variable, name, default, _ in (row for row in rows if len(row) == 5)
        if not flags.startswith("`--config ")  # Where the settings stand cannot be one of them.
    ]
    assert documented == [
        (one.flag, one.flags != one.flag, one.variable, one.name, one.default_text.lower()) for one in SETTINGS
    ]


@pytest.mark.parametrize(
    "url",
    [
        "kafka://host:9092", "kafka:///events", "events.jsonl", "file:", "kafka://h/t?format=odd", "kafka://h/t?x=1",
        "kafka://h:abc/t", "kafka://h:99999/t", "kafka://:9092/t", "kafka://h/t*", "kafka://h/a b",
    ],
)  # fmt: skip
def test_a_source_that_names_nothing_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(UsageError, match="--source"):
        parse_source(url)


@pytest.mark.parametrize(("text", "slack_ms"), [("300ms", 300), ("0ms", 0), ("2s", 2_000), ("1m30s", 90_000)])
def test_the_slack_of_a_topic_is_said_in_its_url_and_that_of_all_in_the_settings(text: str, slack_ms: int) -> None:
    assert parse_source(f"kafka://a/events?format=native&slack={text}").slack_ms == slack_ms
    given = resolve({"slack": text}, {}, "", {})["slack"]
    assert given.value == slack_ms
    assert parse_slack(given.text) == slack_ms, "it can be given as it is shown"


def test_a_topic_is_asked_for_its_slack_when_nobody_says_one() -> None:
    assert parse_source("kafka://a/events").slack_ms is None
    assert resolve({}, {}, "", {})["slack"].value is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka://a/e?slack=soon", "'soon' is not a duration; write number and unit, such as 300ms"),
        ("kafka://a/e?slack=", "'' is not a duration"),
        ("kafka://a/e?slack=-5ms", "'-5ms' is not a duration"),
        ("file:a?slack=5ms", "'slack' is not a parameter here; there is format"),
    ],
)
def test_a_slack_that_makes_no_sense_is_refused_with_its_source(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"^--source ") as refused:
        parse_source(url)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "kafka://host/topic", "kafka://h?odd=1", "file:", "redis://x", "stdout:x", "kafka://h?partitions=0",
        "kafka://h?partitions=1000000", "kafka://h?prefix=a*b", "kafka://h:0",
    ],
)  # fmt: skip
def test_a_sink_that_names_nothing_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(UsageError, match="--sink"):
        parse_sink(url)


@pytest.mark.parametrize("parse", [parse_source, parse_sink])
def test_a_password_in_a_url_is_refused_and_not_shown(parse: Callable[[str], object]) -> None:
    with pytest.raises(UsageError, match="credentials in a URL are not understood") as refused:
        parse("kafka://me:hunter2@host:9092" + ("/events" if parse is parse_source else ""))
    assert "hunter2" not in str(refused.value)


def test_a_kafka_url_without_port_means_9092() -> None:
    assert parse_source("kafka://a,b:19092/events").bootstrap == "a:9092,b:19092"
    assert parse_sink("kafka://a?prefix=x.").options == {"prefix": "x."}


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("foo: 1", 'No such configuration property: "foo"'),
        ("fetch.wait.max.ms: soon", 'Invalid value for configuration property "fetch.wait.max.ms"'),
        ("max.in.flight: 10", "no producer can be made with these options"),
        ("client.id: {a: b}", "client.id has to be a text, a number or a boolean"),
        ("error_cb: x", "expected error_cb property as a callable"),
        ("logger: x", "logger cannot be set"),
        (
            "bootstrap.servers: elsewhere",
            "bootstrap.servers cannot be set: which cluster it is --source and --sink say",
        ),
        ("transactional.id: x", "transactional.id cannot be set"),
    ],
)
def test_kafka_options_with_which_nothing_can_run_are_refused_by_name(tmp_path: Path, option: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"kafka: .*NUDGE_KAFKA_") as refused:
        job_with(tmp_path, option)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "option",
    [
        "acks: 1", "request.required.acks: 1", "enable.idempotence: false", "message.timeout.ms: 1000",
        "delivery.timeout.ms: 1000", "enable.auto.commit: true", "enable.auto.offset.store: true", "group.id: mine",
        "auto.offset.reset: latest", "isolation.level: read_uncommitted", "delivery.report.only.error: false",
    ],
)  # fmt: skip
def test_kafka_options_on_which_it_depends_what_is_lost_or_doubled_are_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError, match=f"kafka: {option.split(':', maxsplit=1)[0]} cannot be set: "):
        job_with(tmp_path, option)


@pytest.mark.parametrize("option", ["compression.type: gzip", "linger.ms: 20", "socket.timeout.ms: 2000"])
def test_kafka_options_that_may_be_chosen_are_taken(tmp_path: Path, option: str) -> None:
    job_with(tmp_path, option)


def test_a_misspelt_name_in_the_environment_is_found_with_what_is_close_to_it() -> None:
    environment = {
        "NUDGE_PROCESES": "2",
        "NUDGE_STATE": "s",
        "NUDGE_KAFKA_ACK": "1",
        "PATH": "x",
        "NUDGE_STOP_AT_ENDS": "1",
    }
    assert misspelt(environment) == [("NUDGE_PROCESES", "NUDGE_PROCESSES"), ("NUDGE_STOP_AT_ENDS", "NUDGE_STOP_AT_END")]


def test_what_others_put_into_the_environment_is_no_misspelt_name() -> None:
    """Kubernetes gives every process such names for a service that is called nudge."""
    others = ("SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_9100_TCP", "PORT_9100_TCP_ADDR", "HOME", "VERSION")
    assert misspelt({f"NUDGE_{name}": "x" for name in others}) == []


def job_with(folder: Path, option: str) -> None:
    (folder / "hello.yaml").write_text(HELLO)
    (folder / "nudge.yaml").write_text(f"kafka: {{{option}}}\n")
    flags = {"source": ["kafka://127.0.0.1:9/events"], "sink": "stdout:"}
    job_of([folder / "hello.yaml"], flags, folder / "nudge.yaml")


@pytest.mark.parametrize("topic", ["journal", "dead-letters", "actions.webhook"])
def test_a_job_does_not_read_what_it_writes(tmp_path: Path, topic: str) -> None:
    (tmp_path / "hello.yaml").write_text(
        "flow: hello\ntrigger: {event: hello}\nsteps: [{send: webhook, template: t}]\n"
    )
    flags = {"source": [f"kafka://a,b/p.{topic}"], "sink": "kafka://b:9092?prefix=p."}
    with pytest.raises(UsageError, match=f"p.{topic} is a topic that this job writes to"):
        job_of([tmp_path / "hello.yaml"], flags, None)
    for sink in ("kafka://b", "kafka://other?prefix=p.", "stdout:"):
        job_of([tmp_path / "hello.yaml"], {**flags, "sink": sink}, None)


@pytest.mark.parametrize("name", ["accept_version", "accept_difference"])
def test_what_is_accepted_once_is_no_setting_that_could_stay_behind(name: str) -> None:
    with pytest.raises(UsageError, match="there is no such setting"):
        resolve({}, {name: True}, "nudge.yaml", {})
    found = resolve({}, {}, "nudge.yaml", {f"NUDGE_{name.upper()}": "true"})
    assert name not in found
