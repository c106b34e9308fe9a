"""The broker of the tests does what tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kafka import broker as broker_module
from tests.kafka.broker import (
    ROOT,
    Broker,
    BrokerError,
    ForeignBroker,
    KafkaUnavailableError,
    NewRecord,
    kafka_jars,
)

pytestmark = pytest.mark.kafka

NINE_MS = 1_763_888_400_000  # 2025-11-23T09:00:00Z
LONG_AGO_MS = 86_400_000  # 1970-01-02
FAR_AHEAD_MS = 4_102_444_800_000  # 2100-01-01


def test_what_is_written_is_read_with_key_value_headers_and_time(broker: Broker, topic_prefix: str) -> None:
    topic = topic_prefix + "events"
    broker.create_topic(topic, partitions=2)
    records: list[NewRecord] = [("u-1", b"one", NINE_MS), (None, b"two", LONG_AGO_MS), (b"u-3", None, FAR_AHEAD_MS)]
    places = broker.produce(topic, records, partition=1, headers=[("h", b"v")])
    assert places == [(1, 0), (1, 1), (1, 2)]
    assert broker.read_all(topic) == [
        (1, 0, b"u-1", b"one", [("h", b"v")], NINE_MS),
        (1, 1, None, b"two", [("h", b"v")], LONG_AGO_MS),
        (1, 2, b"u-3", None, [("h", b"v")], FAR_AHEAD_MS),
    ]
    assert broker.end_offsets(topic) == {0: 0, 1: 3}


def test_records_of_one_key_share_a_partition_in_order(broker: Broker, topic_prefix: str) -> None:
    topic = topic_prefix + "events"
    broker.create_topic(topic, partitions=4)
    broker.produce(topic, [(f"u-{n % 20}", b"%d" % n, NINE_MS + n) for n in range(2_000)])
    records = broker.read_all(topic)
    assert len(records) == 2_000
    by_key: dict[bytes | None, list[tuple[int, int]]] = {}
    for record in records:
        by_key.setdefault(record.key, []).append((record.partition, int(record.value or b"")))
    assert len(by_key) == 20
    assert len({record.partition for record in records}) > 1
    for entries in by_key.values():
        assert len({partition for partition, _ in entries}) == 1
        assert entries == sorted(entries)


def test_a_topic_may_carry_settings_and_large_records(broker: Broker, topic_prefix: str) -> None:
    topic = topic_prefix + "arrival"
    broker.create_topic(topic, config={"message.timestamp.type": "LogAppendTime"})
    broker.produce(topic, [(None, b"x" * 3_000_000, LONG_AGO_MS)])
    (record,) = broker.read_all(topic)
    assert len(record.value or b"") == 3_000_000
    assert record.timestamp_ms > NINE_MS  # The broker's clock, not ours.


def test_a_topic_that_is_not_there_is_empty_and_stays_away(broker: Broker, topic_prefix: str) -> None:
    assert broker.read_all(topic_prefix + "nothing") == []
    assert broker.end_offsets(topic_prefix + "nothing") == {}
    assert broker.topics(topic_prefix) == {}


def test_a_time_that_the_client_would_replace_is_refused(broker: Broker, topic_prefix: str) -> None:
    broker.create_topic(topic_prefix + "events")
    with pytest.raises(ValueError, match="at least 1"):
        broker.produce(topic_prefix + "events", [("u", b"x", 0)])


def test_acknowledged_records_survive_kill_restart_and_pause(breakable_broker: Broker, topic_prefix: str) -> None:
    broker, topic = breakable_broker, topic_prefix + "events"
    bootstrap = broker.bootstrap
    broker.create_topic(topic)
    broker.produce(topic, [("u", b"before the kill", NINE_MS)])

    broker.kill()
    assert not broker.running
    assert not broker.answers(timeout_s=0.2)
    broker.start()
    broker.produce(topic, [("u", b"after the kill", NINE_MS)])

    broker.restart()
    assert broker.bootstrap == bootstrap

    broker.pause()
    assert not broker.answers(timeout_s=0.5)
    broker.resume()
    broker.wait_ready()
    broker.produce(topic, [("u", b"after the pause", NINE_MS)])
    assert [r.value for r in broker.read_all(topic)] == [b"before the kill", b"after the kill", b"after the pause"]


def test_a_broker_that_a_test_left_paused_or_dead_comes_back(breakable_broker: Broker) -> None:
    breakable_broker.pause()
    breakable_broker.ensure_ready()
    breakable_broker.pause()
    breakable_broker.kill()
    breakable_broker.ensure_ready()
    assert breakable_broker.running


def test_the_command_prints_the_address_and_keeps_data_between_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.kafka.broker", "--dir", str(tmp_path / "kafka")]
    addresses = []
    for run in range(2):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            addresses.append(address)
            kafka = ForeignBroker(address)
            if run == 0:
                kafka.create_topic("kept")
                kafka.produce("kept", [("u", b"x", NINE_MS)])
            assert [record.value for record in kafka.read_all("kept")] == [b"x"]
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert not kafka.answers(timeout_s=0.2)
    assert addresses[0] == addresses[1]


def test_the_broker_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    # Started from a thread that ends before the process does: that alone must not end the broker.
    script = (
        "import sys, threading, pathlib\n"
        "from tests.kafka.broker import Broker\n"
        "broker = Broker(pathlib.Path(sys.argv[1]))\n"
        "starter = threading.Thread(target=broker.start); starter.start(); starter.join()\n"
        "print(broker.pid, broker.bootstrap, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "kafka")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, address = process.stdout.readline().split()
        assert ForeignBroker(address).answers()
        process.kill()
        process.wait(30)
    assert _gone(int(pid)), "the broker outlived a killed test process"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(broker_module, "CACHE", tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(KafkaUnavailableError, match=r"`java` is not on the PATH: install Java 17"):
        kafka_jars()
    (tools / "java").write_text("#!/bin/sh\n")
    (tools / "java").chmod(0o755)
    with pytest.raises(KafkaUnavailableError, match=r"`mvn` is not on the PATH: install Java 17 or newer and Maven"):
        kafka_jars()
    (tools / "mvn").write_text("#!/bin/sh\necho no network; exit 1\n")
    (tools / "mvn").chmod(0o755)
    with pytest.raises(KafkaUnavailableError, match="no network"):
        kafka_jars()


def test_a_broker_that_cannot_start_shows_its_log(breakable_broker: Broker, tmp_path: Path) -> None:
    second = Broker(tmp_path / "second")
    second._port = int(breakable_broker.bootstrap.rpartition(":")[2])  # Taken.
    with pytest.raises(BrokerError, match=r"(?s)ended with code 1 at its start.*Address already in use"):
        second.start()


def test_a_foreign_broker_cannot_be_broken() -> None:
    foreign = ForeignBroker("127.0.0.1:1")
    with pytest.raises(KafkaUnavailableError, match="unset NUDGE_TEST_KAFKA"):
        foreign.kill()
    assert not foreign.answers(timeout_s=0.2)


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # Nobody may be there to collect it: a zombie is as good as gone.
        if Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False
