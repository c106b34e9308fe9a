"""`nudge run` gives what `simulate` gives, from files and from Kafka, in one process and in two."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataflow.demo import FLOWS
from dataflow.demo.shop import Shop, Tracker
from tests.jobs import NUDGE, REPO, Emitted, RunningJob, in_folder, on_kafka, simulated
from tests.kafka.broker import KafkaTopics

UNTIL = "2027-06-01T00:00:00Z"
RECORDS = 6000


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example flows and some hours of the shop's events, with the flaws of a real tracker."""
    folder = tmp_path_factory.mktemp("shop")
    shutil.copytree(FLOWS, folder / "flows")
    (folder / "events.jsonl").write_bytes(b"")
    Shop(seed=3, users=600, tracker=Tracker()).write_jsonl(folder / "events.jsonl", RECORDS)
    return folder


@pytest.fixture(scope="module")
def expected(shop: Path) -> Emitted:
    found = simulated(shop / "flows", shop / "events.jsonl", shop / "simulated", until=UNTIL)
    assert len(found.actions) > 100
    assert {record["kind"] for record in found.journal} >= {"entered", "refused", "sent", "waiting", "moved", "ended"}
    return found


def arguments(shop: Path, source: str, sink: str, state: Path, *more: str) -> list[str | Path]:
    ends = ["--stop-at-end", "--until", UNTIL]
    return [shop / "flows", "--source", source, "--sink", sink, "--state", state, *ends, *more]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_run_on_a_file_gives_what_simulate_gives(
    shop: Path, expected: Emitted, tmp_path: Path, processes: str
) -> None:
    source = f"file:{shop / 'events.jsonl'}"
    job = RunningJob(
        arguments(shop, source, f"file:{tmp_path / 'out'}", tmp_path / "state", "--processes", processes, "--json"),
        tmp_path / "log",
    )
    summary = json.loads(job.wait())
    assert in_folder(tmp_path / "out").differences(expected) == []
    assert summary["events"] == RECORDS + 0
    assert summary["actions"] == len(expected.actions)
    assert "compiled part" not in (tmp_path / "log").read_text()


def test_without_the_compiled_part_the_same_comes_out_and_the_log_says_so(
    shop: Path, expected: Emitted, tmp_path: Path
) -> None:
    path = tmp_path / "path"  # Apart from the state, a folder that could be taken for the package of that name.
    path.mkdir()
    (path / "sitecustomize.py").write_text("import sys\nsys.modules['dataflow.read._scanner'] = None\n")
    source = f"file:{shop / 'events.jsonl'}"
    asked = arguments(shop, source, f"file:{tmp_path / 'out'}", tmp_path / "state")
    RunningJob(asked, tmp_path / "log", PYTHONPATH=str(path)).wait()
    assert in_folder(tmp_path / "out").differences(expected) == []
    assert (tmp_path / "log").read_text().count("the compiled part is missing") == 1


def fill(broker: KafkaTopics, topic: str, events: Path, partitions: int) -> None:
    """Produce the lines of *events*, keyed by user, each at its time of arrival."""
    from state.iso import parse_iso_ms

    broker.create_topic(topic, partitions)
    at = 0
    records = []
    for line in events.read_bytes().splitlines():
        try:
            record: dict[str, Any] = json.loads(line)
            received = parse_iso_ms(record.get("received_at") or record["timestamp"])
            at = max(at, received or 0)
            key = str(record["user_id"]).encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            key = b"?"
        records.append((key, line, at))
    broker.produce(topic, records)


@pytest.mark.kafka
@pytest.mark.parametrize(("partitions", "processes"), [(1, "1"), (4, "1"), (4, "2")])
def test_a_run_on_kafka_gives_what_simulate_gives(
    broker: KafkaTopics,
    topic_prefix: str,
    shop: Path,
    expected: Emitted,
    tmp_path: Path,
    partitions: int,
    processes: str,
) -> None:
    fill(broker, f"{topic_prefix}events", shop / "events.jsonl", partitions)
    source = f"kafka://{broker.bootstrap}/{topic_prefix}events"
    sink = f"kafka://{broker.bootstrap}?prefix={topic_prefix}"
    RunningJob(arguments(shop, source, sink, tmp_path / "state", "--processes", processes), tmp_path / "log").wait()
    found = on_kafka(broker, topic_prefix)
    assert Emitted(found.actions, found.journal, []).differences(Emitted(expected.actions, expected.journal, [])) == []
    assert len(found.dead_letters) == len(expected.dead_letters)


def test_a_second_run_on_the_same_state_goes_on_where_the_first_stopped(
    shop: Path, expected: Emitted, tmp_path: Path
) -> None:
    events = tmp_path / "events.jsonl"
    lines = (shop / "events.jsonl").read_bytes().splitlines(keepends=True)
    out, state = tmp_path / "out", tmp_path / "state"
    for end in (RECORDS // 3, RECORDS // 2, RECORDS):
        events.write_bytes(b"".join(lines[:end]))
        until = ["--until", UNTIL] if end == RECORDS else []
        RunningJob(
            [
                shop / "flows",
                "--source",
                f"file:{events}",
                "--sink",
                f"file:{out}",
                "--state",
                state,
                "--stop-at-end",
                *until,
            ],
            tmp_path / "log",
        ).wait()
    assert in_folder(out).differences(expected) == []


def refused(command: list[str | Path]) -> str:
    """Return what `nudge run` says when it refuses to start."""
    done = subprocess.run(
        [*NUDGE, "run", *map(str, command)], cwd=REPO, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


FLOW = """\
flow: hello
version: {version}
trigger: {{event: {event}}}
steps:
  - wait: 30d
  - {{send: webhook, template: {template}}}
"""


def test_a_state_of_other_sources_or_changed_flows_is_refused_with_what_to_do(tmp_path: Path) -> None:
    flows = tmp_path / "flows"
    flows.mkdir()
    (flows / "hello.yaml").write_text(FLOW.format(version=1, event="hello", template="t"))
    events = tmp_path / "events.jsonl"
    events.write_text('{"user_id": "u1", "event": "hello", "timestamp": "2026-11-23T08:00:00Z"}\n')
    common: list[str | Path] = ["--sink", f"file:{tmp_path / 'out'}", "--state", tmp_path / "state", "--stop-at-end"]
    RunningJob([flows, "--source", f"file:{events}", *common], tmp_path / "log").wait()

    shutil.copy(events, tmp_path / "other.jsonl")
    assert "this state belongs to" in refused([flows, "--source", f"file:{tmp_path / 'other.jsonl'}", *common])

    (flows / "hello.yaml").write_text(FLOW.format(version=1, event="hello", template="other"))
    said = refused([flows, "--source", f"file:{events}", *common])
    assert "version-reused" in said
    assert "give the new content a new version" in said

    (flows / "hello.yaml").write_text(FLOW.format(version=2, event="hello", template="other"))
    assert "hello v1: 1 inside" in refused([flows, "--source", f"file:{events}", *common])

    (flows / "v1.yaml").write_text("state: ended\n" + FLOW.format(version=1, event="hello", template="t"))
    RunningJob(
        [flows, "--source", f"file:{events}", *common, "--until", "2027-01-01T00:00:00Z"], tmp_path / "log"
    ).wait()
    assert [action["template"] for action in in_folder(tmp_path / "out").actions] == ["t"]


def test_a_state_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "nudge.json").write_text('{"format": 99}')
    (tmp_path / "hello.yaml").write_text(FLOW.format(version=1, event="hello", template="t"))
    (tmp_path / "events.jsonl").touch()
    said = refused(
        [
            tmp_path / "hello.yaml",
            "--source",
            f"file:{tmp_path / 'events.jsonl'}",
            "--sink",
            "stdout:",
            "--state",
            state,
        ]
    )
    assert "format 99" in said


@pytest.mark.kafka
def test_a_second_job_on_a_state_in_use_is_refused_and_sigterm_ends_the_first_with_status_0(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    broker.create_topic(f"{topic_prefix}events", 2)
    (tmp_path / "hello.yaml").write_text(FLOW.format(version=1, event="hello", template="t"))
    command: list[str | Path] = [
        tmp_path / "hello.yaml", "--source", f"kafka://{broker.bootstrap}/{topic_prefix}events",
        "--sink", f"kafka://{broker.bootstrap}?prefix={topic_prefix}", "--state", tmp_path / "state",
        "--processes", "2",
    ]  # fmt: skip
    job = RunningJob(command, tmp_path / "log")
    wait_until(lambda: len(job.workers()) == 2 and '"running"' in job.log.read_text())
    assert "in use by another job" in refused(command)
    job.terminate()
    assert job.status() == 0, job.tail()


@pytest.mark.kafka
def test_two_jobs_of_one_process_die_together(broker: KafkaTopics, topic_prefix: str, tmp_path: Path) -> None:
    import random

    broker.create_topic(f"{topic_prefix}events", 2)
    (tmp_path / "hello.yaml").write_text(FLOW.format(version=1, event="hello", template="t"))
    job = RunningJob(
        [tmp_path / "hello.yaml", "--source", f"kafka://{broker.bootstrap}/{topic_prefix}events",
         "--sink", f"kafka://{broker.bootstrap}?prefix={topic_prefix}", "--state", tmp_path / "state",
         "--processes", "2"],
        tmp_path / "log",
    )  # fmt: skip
    wait_until(lambda: len(job.workers()) == 2 and '"running"' in job.log.read_text())
    workers = job.workers()
    killed = job.kill_a_worker(random.Random(1))
    assert killed
    assert job.status() == 1
    lines = [json.loads(line) for line in job.log.read_text().splitlines()]  # Nobody writes anything else.
    last = lines.pop()
    assert (last["level"], last["event"], last["status"]) == ("error", "the job has ended", 1)
    assert re.fullmatch(
        "process [01] ended with signal SIGKILL, as a limit on memory does; "
        "start it again to go on from the last checkpoint",
        last["why"],
    )
    assert [line for line in lines if line["level"] == "error"] == [], "what follows from it is not said again"
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_a_broker_that_is_away_is_tried_within_a_bound_and_then_named(tmp_path: Path) -> None:
    (tmp_path / "hello.yaml").write_text(FLOW.format(version=1, event="hello", template="t"))
    done = subprocess.run(
        [*NUDGE, "run", str(tmp_path / "hello.yaml"), "--source", "kafka://127.0.0.1:9/events", "--sink", "stdout:",
         "--config", str(quick_kafka(tmp_path))],
        cwd=REPO, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Kafka at 127.0.0.1:9 did not answer" in done.stderr
    assert "Connection refused; nothing listens there: check host and port" in done.stderr.splitlines()[-1]
    assert "; trying for 20 s" in done.stderr
    assert "Traceback" not in done.stderr


def quick_kafka(folder: Path) -> Path:
    path = folder / "nudge.yaml"
    path.write_text("kafka: {socket.connection.setup.timeout.ms: 1000}\n")
    return path


def wait_until(done: Any, timeout_s: float = 60) -> None:
    import time

    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)


def small_run(folder: Path, source: str, sink: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run one flow to the end of its source, with its state in *folder*."""
    flow = "flow: hello\ntrigger: {event: hello}\nentry: {reentry: always}\nsteps: [{send: webhook, template: t}]\n"
    (folder / "hello.yaml").write_text(flow)
    return subprocess.run(
        [*NUDGE, "run", str(folder / "hello.yaml"), "--source", source, "--sink", sink,
         "--state", str(folder / "state"), "--stop-at-end", *more],
        cwd=REPO, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_file_whose_name_is_no_text_is_refused_with_what_to_do(tmp_path: Path) -> None:
    events = tmp_path / os.fsdecode(b"ev\xff.jsonl")
    events.write_bytes(b"")
    done = small_run(tmp_path, f"file:{events}", f"file:{tmp_path / 'out'}")
    assert done.returncode == 2
    assert "rename it" in done.stderr


def test_a_file_that_has_less_than_what_was_read_of_it_is_refused(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    line = '{"user_id": "u", "event": "hello", "timestamp": "2026-11-23T08:00:00Z"}\n'
    for lines, status in ((5, 0), (5, 0), (2, 2), (6, 0)):
        events.write_text(line * lines)
        done = small_run(tmp_path, f"file:{events}", f"file:{tmp_path / 'out'}")
        assert done.returncode == status, done.stderr
        if status:
            assert "was read up to line 5, and has only 2 now: put it back as it was, or begin with a new state" in (
                done.stderr
            )
    assert len(in_folder(tmp_path / "out").actions) == 6


def test_records_without_any_time_at_the_head_of_a_file_wait_for_the_first_that_has_one(tmp_path: Path) -> None:
    """Also where an earlier run saw none."""
    events = tmp_path / "events.jsonl"
    timeless, timed = '{"user_id": "a", "event": "none"}\n', '{"user_id": "b", "event": "hello", "timestamp": %d}\n'
    events.write_text(timeless)
    small_run(tmp_path, f"file:{events}", f"file:{tmp_path / 'out'}")
    at = 1_795_435_200_000
    events.write_text(timeless + timeless.replace("none", "hello") + timed % at)
    assert small_run(tmp_path, f"file:{events}", f"file:{tmp_path / 'out'}").returncode == 0
    assert {action["at"] for action in in_folder(tmp_path / "out").actions} == {"2026-11-23T12:00:00.000Z"}


@pytest.mark.kafka
def test_a_topic_that_is_another_or_has_fewer_partitions_is_refused(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    topic = f"{topic_prefix}events"
    source, sink = f"kafka://{broker.bootstrap}/{topic}", f"kafka://{broker.bootstrap}?prefix={topic_prefix}"
    said = ("is gone", "belongs to a topic that was deleted and created again")
    for partitions, status in ((3, 0), (1, 2), (3, 2)):
        broker.delete_topics([topic])
        wait_until(lambda: topic not in broker.topics(topic_prefix))
        broker.create_topic(topic, partitions)
        broker.produce(topic, [("u", b'{"user_id": "u", "event": "hello"}', 1000)] * 20)
        done = small_run(tmp_path, source, sink)
        assert done.returncode == status, done.stderr
        assert status == 0 or any(what in done.stderr for what in said)
    assert f"{topic}-0 belongs to a topic that was deleted and created again" in done.stderr
    assert "put it back as it was, or begin with a new state" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.kafka
def test_a_sink_topic_that_was_made_anew_with_fewer_partitions_stops_nobody(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    topic, actions = f"{topic_prefix}events", f"{topic_prefix}actions.webhook"
    source, sink = f"kafka://{broker.bootstrap}/{topic}", f"kafka://{broker.bootstrap}?prefix={topic_prefix}"
    broker.create_topic(topic)
    for number in range(2):
        broker.produce(
            topic, [("u", b'{"user_id": "u", "event": "hello", "message_id": "%d"}' % number, 1000 + number)]
        )
        assert small_run(tmp_path, source, sink).returncode == 0
        if not number:
            broker.delete_topics([actions])
            wait_until(lambda: actions not in broker.topics(topic_prefix))
            broker.create_topic(actions, 1)
    assert len(broker.read_all(actions)) == 1


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_job_runs_its_own_code_in_a_folder_with_packages_of_the_same_names(tmp_path: Path, processes: str) -> None:
    """Data teams like to call their packages `operators` and `connectors`."""
    for name in ("operators", "connectors", "state", "dataflow", "msgspec"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('somebody else was run')\n")
    flow, events = REPO / "examples" / "quickstart", REPO / "examples" / "quickstart" / "events.jsonl"
    command = [sys.executable, "-P", "-m", "dataflow.cli", "run", flow, "--source", f"file:{events}", "--stop-at-end"]
    done = subprocess.run(
        [*command, "--until", UNTIL, "--sink", f"file:{tmp_path / 'out'}", "--processes", processes],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "actions.sms.jsonl").read_text().splitlines()) == 2
