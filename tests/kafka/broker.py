"""One real Apache Kafka node (KRaft): to start, stop, kill, pause, and to write to and read from.

`python -m tests.kafka.broker --dir DIR` starts one outside the tests.
"""

from __future__ import annotations

import argparse
import atexit
import base64
import contextlib
import fcntl
import hashlib
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from xml.etree import ElementTree

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

ROOT = Path(__file__).resolve().parents[2]
POM = Path(__file__).with_name("pom.xml")
CACHE = ROOT / ".cache" / "kafka"

START_TIMEOUT_S = 60.0  # It answers after 3 s; a loaded machine gets its time.
STOP_TIMEOUT_S = 30.0
FETCH_JARS_TIMEOUT_S = 300.0
CLIENT_TIMEOUT_S = 30.0

# Below Linux's range of ephemeral ports. A client that keeps trying a dead broker's port from inside that range can get
# this very port as its own end and so connect to itself, and then the broker cannot come back.
PORTS = range(20_000, 32_000)

_INSTALL = "install Java 17 or newer and Maven (Debian: apt-get install openjdk-17-jre-headless maven)"

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded_port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded_port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,GUARDED:{guarded},CONTROLLER:PLAINTEXT
listener.name.guarded.sasl.enabled.mechanisms=PLAIN
listener.name.guarded.plain.sasl.jaas.config=\
    org.apache.kafka.common.security.plain.PlainLoginModule required user_nudge="secret";
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
log.dirs={data}
# One node.
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
# A member that was killed may be missed soon.
group.min.session.timeout.ms=500
auto.create.topics.enable=false
# Records of any time are taken and kept: tests live on fixed dates.
log.message.timestamp.before.max.ms=9223372036854775807
log.message.timestamp.after.max.ms=9223372036854775807
log.retention.ms=-1
log.retention.bytes=-1
# Larger than any record that the job has to refuse.
message.max.bytes=16777216
replica.fetch.max.bytes=16777216
# Back quickly after a kill or a pause. Clients that look while the broker has no session may be lost (librdkafka 5301).
broker.heartbeat.interval.ms=100
broker.session.timeout.ms=2000
log.segment.delete.delay.ms=1000
log.cleaner.dedupe.buffer.size=4194304
num.network.threads=2
num.io.threads=4
"""

_TLS = """\
listener.name.guarded.ssl.keystore.type=PEM
listener.name.guarded.ssl.keystore.location={keystore}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""

_LOG4J = """\
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %c{1}: %m%n
"""

# Runs before Java in the new process: die with the parent, however it ends. (`preexec_fn` is not safe beside threads.)
_GUARD = """\
import ctypes, os, signal, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""

# The kernel sends the death signal when the *thread* that made the child ends, so one that lives as long as the process
# makes them all: a test may start a broker from a short-lived thread of its own.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kafka-spawner")

_SILENT = logging.getLogger("tests.kafka.client")  # librdkafka reports every refused connection of a dead broker.
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class KafkaUnavailableError(RuntimeError):
    """Kafka cannot be had, or not in the way that was asked; the message says what to do."""


class BrokerError(RuntimeError):
    """The broker did not do in time what was asked of it."""


class Record(NamedTuple):
    """A record as it lies in a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp_ms: int


NewRecord = tuple[str | bytes | None, bytes | None, int | None]
"""(key, value, timestamp in ms); without a timestamp, the client's clock."""


class KafkaTopics:
    """What tests do with the topics of a broker, whoever runs it. Every call is bounded in time."""

    bootstrap: str
    _producer: Producer | None = None  # Kept, since each idempotent one waits half a second for its id.

    def client_config(self, **more: Any) -> dict[str, Any]:
        """Return librdkafka settings for this broker, with quick reconnects and without log noise."""
        config: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "logger": _SILENT,
        }
        return config | {name.replace("_", "."): value for name, value in more.items()}

    def answers(self, timeout_s: float = 2.0) -> bool:
        """Say whether the broker answers and every partition of every topic has a leader."""
        with contextlib.suppress(KafkaException):
            metadata = self._admin().list_topics(timeout=timeout_s)
            return self._is_ours(metadata) and all(
                partition.error is None and partition.leader >= 0
                for topic in metadata.topics.values()
                for partition in topic.partitions.values()
            )
        return False

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Create a topic and return once it can be written to and read from."""
        admin = self._admin()
        new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        future = admin.create_topics([new], operation_timeout=CLIENT_TIMEOUT_S)[name]
        future.result(CLIENT_TIMEOUT_S)

        def ready() -> bool:
            topic = admin.list_topics(timeout=CLIENT_TIMEOUT_S).topics.get(name)
            return (
                topic is not None
                and len(topic.partitions) == partitions
                and all(p.error is None and p.leader >= 0 for p in topic.partitions.values())
            )

        _wait_until(ready, CLIENT_TIMEOUT_S, f"topic {name} was created but has no leaders")
        self.end_offsets(name)

    def add_partitions(self, name: str, partitions: int) -> None:
        """Let topic *name* have so many partitions, and return once they can be written to."""
        admin = self._admin()  # Held until the answer is there: it ends with it.
        admin.create_partitions([NewPartitions(name, partitions)])[name].result(CLIENT_TIMEOUT_S)
        _wait_until(lambda: self.topics(name).get(name) == partitions, CLIENT_TIMEOUT_S, f"{name} does not grow")
        self._producer = None  # It would learn of them in minutes only.
        self.end_offsets(name)

    def topics(self, prefix: str = "") -> dict[str, int]:
        """Return the number of partitions per topic, without Kafka's own topics."""
        topics = self._admin().list_topics(timeout=CLIENT_TIMEOUT_S).topics
        return {
            name: len(topic.partitions)
            for name, topic in topics.items()
            if name.startswith(prefix) and not name.startswith("__")
        }

    def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics; what is not there is none of our business."""
        admin = self._admin()  # Held until the answers are there: they end with it.
        if names := list(names):
            for future in admin.delete_topics(names, operation_timeout=CLIENT_TIMEOUT_S).values():
                try:
                    future.result(CLIENT_TIMEOUT_S)
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise

    def produce(
        self,
        topic: str,
        records: Iterable[NewRecord],
        *,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> list[tuple[int, int]]:
        """Write *records* in order and return the (partition, offset) of each.

        Args:
            partition: all go there; without it the key decides, by the hash of the Java client.

        Raises:
            BrokerError: not everything was acknowledged in time.
            ValueError: a timestamp below 1, which the client would take for "now".
        """
        producer = self._producer = self._producer or self._new_producer()
        places: dict[int, tuple[int, int]] = {}
        problems: list[str] = []

        def delivered_as(index: int) -> Callable[[KafkaError | None, Any], None]:
            def report(error: KafkaError | None, message: Any) -> None:
                if error is None:
                    places[index] = (message.partition(), message.offset())
                else:
                    problems.append(str(error))

            return report

        where = {} if partition is None else {"partition": partition}
        count = 0
        for key, value, timestamp_ms in records:
            if timestamp_ms is not None and timestamp_ms < 1:
                raise ValueError(f"timestamp_ms must be at least 1, not {timestamp_ms}")
            when = {} if timestamp_ms is None else {"timestamp": timestamp_ms}
            extra = {"headers": list(headers)} if headers else {}
            while True:
                try:
                    producer.produce(topic, value, key, on_delivery=delivered_as(count), **where, **when, **extra)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
            count += 1
        left = producer.flush(CLIENT_TIMEOUT_S)
        if left or problems or len(places) != count:
            self._producer = None
            raise BrokerError(f"{topic}: {len(places)} of {count} records acknowledged; {problems[:3]}")
        return [places[index] for index in range(count)]

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Return the offset after the last record of every partition; nothing if there is no such topic."""
        partitions = self.topics(topic).get(topic, 0)
        consumer = self._consumer()
        try:
            return {p: self._offsets(consumer, topic, p)[1] for p in range(partitions)}
        finally:
            consumer.close()

    def read_all(self, topic: str, *, committed_only: bool = False) -> list[Record]:
        """Return all that is in *topic* now, in order of partition and offset; nothing if there is no such topic.

        Raises:
            BrokerError: the end was not reached in time.
        """
        partitions = self.topics(topic).get(topic, 0)
        consumer = self._consumer(isolation_level="read_committed" if committed_only else "read_uncommitted")
        records: list[Record] = []
        try:
            offsets = {p: self._offsets(consumer, topic, p) for p in range(partitions)}
            left = {p: high for p, (low, high) in offsets.items() if high > low}
            consumer.assign([TopicPartition(topic, p, offsets[p][0]) for p in left])
            deadline = time.monotonic() + CLIENT_TIMEOUT_S
            while left:
                messages = consumer.consume(10_000, timeout=0.1)
                if messages:
                    deadline = time.monotonic() + CLIENT_TIMEOUT_S
                elif time.monotonic() > deadline:
                    raise BrokerError(f"{topic}: the ends {left} were not reached within {CLIENT_TIMEOUT_S:.0f} s")
                for message in messages:
                    partition, error = message.partition(), message.error()
                    if error is None:
                        if message.offset() < offsets[partition][1]:
                            records.append(_record(message))
                    elif error.code() != KafkaError._PARTITION_EOF:
                        raise BrokerError(f"{topic}: {error}")
                    # The last offset may belong to a marker of a transaction, which is not a record.
                    end = offsets[partition][1]
                    if error is not None or message.offset() + 1 >= end:
                        left.pop(partition, None)
        finally:
            consumer.close()
        return sorted(records, key=lambda record: record[:2])

    def _is_ours(self, metadata: Any) -> bool:
        return bool(metadata.brokers)

    def _new_producer(self) -> Producer:
        return Producer(
            self.client_config(
                enable_idempotence=True,
                partitioner="murmur2_random",
                linger_ms=5,
                message_max_bytes=16_000_000,
                delivery_timeout_ms=int(CLIENT_TIMEOUT_S * 1000),
            )
        )

    def _admin(self) -> AdminClient:
        return AdminClient(self.client_config())

    def _consumer(self, **more: Any) -> Consumer:
        return Consumer(
            self.client_config(
                group_id="tests-read",
                enable_auto_commit=False,
                enable_partition_eof=True,
                auto_offset_reset="error",
                fetch_wait_max_ms=10,
                fetch_queue_backoff_ms=2,
                **more,
            )
        )

    @staticmethod
    def _offsets(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset and the one after the last.

        A node names itself as the leader a moment before it takes the part, and denies its partitions for a moment
        after its start, so a first refusal means little. The client would keep it, unless the topic is listed.
        """
        deadline = time.monotonic() + CLIENT_TIMEOUT_S
        while True:
            try:
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=5)
                return low, high
            except KafkaException as error:
                if time.monotonic() > deadline:
                    raise BrokerError(f"{topic}: no offsets within {CLIENT_TIMEOUT_S:.0f} s: {error}") from error
                time.sleep(0.02)
                with contextlib.suppress(KafkaException):
                    consumer.list_topics(topic, timeout=5)


class Broker(KafkaTopics):
    """A broker of our own, on free ports of 127.0.0.1, with its data in *folder*.

    The address stays the same over restarts, also when a later process opens the same folder. The broker ends with the
    process that started it, at the latest.

    Args:
        heap: of the Java process.
        quick_start: compile lightly, which halves the cost of a start; wrong for a broker that works hard.
        tls: a folder from `tests.certificates`; the guarded listener then speaks TLS only, and its user
            may do what access lists say.
    """

    def __init__(self, folder: Path, *, heap: str = "768m", quick_start: bool = True, tls: Path | None = None) -> None:
        self._folder, self._heap, self._quick_start, self._tls = folder.resolve(), heap, quick_start, tls
        self._process: subprocess.Popen[bytes] | None = None
        self._class_archive: tuple[Path, Path] | None = None
        self._paused = False
        self._port, self._guarded_port, self._controller_port = self._ports()

    @property
    def bootstrap(self) -> str:  # type: ignore[override]
        """`host:port`, as clients want it."""
        return f"127.0.0.1:{self._port}"

    @property
    def guarded(self) -> str:
        """`host:port` of the listener that wants SASL PLAIN: user `nudge`, password `secret`."""
        return f"127.0.0.1:{self._guarded_port}"

    @property
    def running(self) -> bool:
        """Whether the process is there and not paused."""
        return self._process is not None and self._process.poll() is None and not self._paused

    @property
    def pid(self) -> int | None:
        """The process id of the broker, if it was started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start and return when it answers.

        Raises:
            KafkaUnavailableError: no Java, no Maven or no jars; says what to install.
            BrokerError: it did not come up; shows the end of its log.
        """
        if self._process is not None and self._process.poll() is None:
            raise BrokerError("the broker is already running")
        jars = kafka_jars()
        properties = self._folder / "server.properties"
        if not properties.exists():
            self._format(jars, properties)
        log = self._folder / "broker.log"
        command = ["java", f"-Xmx{self._heap}", "-Xms256m", *self._class_sharing(jars), *self._java_options(jars)]
        command += ["kafka.Kafka", str(properties)]
        with log.open("ab") as out:
            self._process = _spawn(command, out, self._folder)
        self._paused = False
        atexit.register(self.kill)
        process = self._process
        try:
            _wait_until(
                lambda: process.poll() is not None or (_listens(self._port) and self.answers(timeout_s=1)),
                START_TIMEOUT_S,
                f"the broker on {self.bootstrap} did not answer",
            )
            if process.poll() is not None:
                raise BrokerError(f"the broker ended with code {process.returncode} at its start")
        except BrokerError as error:
            self.kill()
            raise BrokerError(f"{error}; the end of {log}:\n{_tail(log)}") from None

    def stop(self) -> None:
        """Stop in good order (SIGTERM), or hard when that takes too long. Nothing happens if it does not run."""
        if self._process is None:
            return
        if self._paused:
            self.resume()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            if self._class_archive is not None and self._class_archive[0].exists():
                self._class_archive[0].replace(self._class_archive[1])
        self._forget()

    def kill(self) -> None:
        """End it at once (SIGKILL), paused or not. Nothing happens if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)
            self._forget()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers, as when a machine hangs."""
        self._alive().send_signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Let a paused broker go on (SIGCONT); it may need a moment to answer, see `wait_ready`."""
        self._alive().send_signal(signal.SIGCONT)
        self._paused = False

    def restart(self) -> None:
        """Stop it if it runs, and start it again on the same data and ports."""
        self.stop()
        self.start()

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when it answers and all partitions have leaders."""
        _wait_until(self.answers, timeout_s, f"the broker on {self.bootstrap} did not answer")

    def ensure_ready(self) -> None:
        """Bring it back to life, whatever a test has done to it."""
        if self._process is None or self._process.poll() is not None:
            self._forget()
            self.start()
        elif self._paused:
            self.resume()
        self.wait_ready()

    def _is_ours(self, metadata: Any) -> bool:
        # Of two test processes that chose the same port one fails to start, and must not take the other's for its own.
        return bool(metadata.brokers) and metadata.cluster_id == self._cluster_id()

    def _cluster_id(self) -> str:
        meta = (self._folder / "data" / "meta.properties").read_text("utf-8")
        return next(line.partition("=")[2] for line in meta.splitlines() if line.startswith("cluster.id="))

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise BrokerError("the broker is not running")
        return self._process

    def _forget(self) -> None:
        if self._class_archive is not None:
            self._class_archive[0].unlink(missing_ok=True)
        self._process, self._paused, self._class_archive = None, False, None
        atexit.unregister(self.kill)

    def _ports(self) -> tuple[int, int, int]:
        properties = self._folder / "server.properties"
        if properties.exists():  # The controller's address is part of the data: keep all.
            listeners = next(
                line for line in properties.read_text("utf-8").splitlines() if line.startswith("listeners=")
            )
            port, guarded_port, controller_port = (int(one.rpartition(":")[2]) for one in listeners.split(","))
            return port, guarded_port, controller_port
        return free_port(), free_port(), free_port()

    def _format(self, jars: Path, properties: Path) -> None:
        """Write the settings and format the data folder; the settings last, as the sign that all is there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        data = self._folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        (self._folder / "log4j2.properties").write_text(_LOG4J, "utf-8")
        draft = self._folder / "server.properties.draft"
        text = _PROPERTIES.format(
            port=self._port, guarded_port=self._guarded_port, controller_port=self._controller_port, data=data,
            guarded="SASL_PLAINTEXT" if self._tls is None else "SASL_SSL",
        )  # fmt: skip
        if self._tls is not None:
            keystore = self._folder / "keystore.pem"
            keystore.write_bytes((self._tls / "server.key").read_bytes() + (self._tls / "server.pem").read_bytes())
            text += _TLS.format(keystore=keystore)
        draft.write_text(text, "utf-8")
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22]
        # A leading dash would be read as an option.
        cluster = "A" + cluster[1:] if cluster.startswith("-") else cluster
        command = ["java", *self._java_options(jars), "kafka.tools.StorageTool"]
        _run([*command, "format", "--standalone", "-t", cluster, "-c", str(draft)], START_TIMEOUT_S)
        draft.rename(properties)

    def _java_options(self, jars: Path) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={self._folder / 'log4j2.properties'}"
        compiler = ["-XX:TieredStopAtLevel=1"] if self._quick_start else []
        return [*compiler, "-XX:+UseSerialGC", "-Djava.awt.headless=true", log4j, "-cp", f"{jars}/*"]

    def _class_sharing(self, jars: Path) -> list[str]:
        """Return the options that use the archive of loaded classes, or else make one when the broker stops.

        With it a start takes 2.4 s of CPU, without it 4.4 s, and crash tests start brokers by the hundred.
        """
        java = os.path.realpath(shutil.which("java") or "java")  # An archive belongs to one Java.
        archive = jars.parent / f"{jars.name}-{hashlib.sha256(java.encode()).hexdigest()[:8]}.jsa"
        if archive.exists():
            return [f"-XX:SharedArchiveFile={archive}"]
        draft = archive.with_suffix(f".draft-{uuid.uuid4().hex[:8]}")
        self._class_archive = (draft, archive)
        return [f"-XX:ArchiveClassesAtExit={draft}"]


class ForeignBroker(KafkaTopics):
    """A broker that somebody else runs (`NUDGE_TEST_KAFKA`): to write and read, not to stop."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def __getattr__(self, name: str) -> Any:
        if name in _OWN_ONLY:
            raise KafkaUnavailableError(
                f"NUDGE_TEST_KAFKA names a broker that is not ours, so it cannot be asked to {name!r}; "
                "unset NUDGE_TEST_KAFKA to run this test on a broker of its own"
            )
        raise AttributeError(name)


_OWN_ONLY = frozenset(
    {"guarded", "start", "stop", "kill", "pause", "resume", "restart", "ensure_ready", "running", "pid"}
)


def kafka_jars() -> Path:
    """Return the folder with Kafka's jars, fetched with Maven the first time.

    Raises:
        KafkaUnavailableError: no Java, no Maven, or Maven could not fetch them.
    """
    if shutil.which("java") is None:
        raise KafkaUnavailableError(f"Kafka needs Java, and `java` is not on the PATH: {_INSTALL}")
    version = ElementTree.parse(POM).findtext(".//{*}kafka.version")
    assert version is not None, "the pom names the version"
    jars = CACHE / version
    if jars.is_dir():
        return jars
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Test processes start together; one fetches.
        if jars.is_dir():
            return jars
        if shutil.which("mvn") is None:
            raise KafkaUnavailableError(f"Kafka's jars come with Maven, and `mvn` is not on the PATH: {_INSTALL}")
        draft = CACHE / f"{version}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        fetch = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={draft}"]
        try:
            _run(fetch, FETCH_JARS_TIMEOUT_S)
        except BrokerError as error:
            raise KafkaUnavailableError(f"Maven could not fetch Kafka {version}: {error}") from None
        draft.rename(jars)  # All or nothing: an interrupted fetch must not look complete.
    return jars


def _spawn(command: list[str], out: Any, folder: Path) -> subprocess.Popen[bytes]:
    guard = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *command]

    def spawn() -> subprocess.Popen[bytes]:
        # A session of its own, so that Ctrl-C in the terminal reaches the tests, and they stop the broker.
        return subprocess.Popen(
            guard, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder, start_new_session=True
        )

    return _SPAWNER.submit(spawn).result()


def _run(command: list[str], timeout_s: float) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise BrokerError(f"`{command[0]}` took longer than {timeout_s:.0f} s") from None
    if done.returncode != 0:
        output = (done.stdout + done.stderr)[-2000:]
        raise BrokerError(f"`{' '.join(command)}` ended with code {done.returncode}:\n{output}")


def _record(message: Any) -> Record:
    return Record(
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        [(name, value) for name, value in message.headers() or []],
        message.timestamp()[1],
    )


def _wait_until(done: Callable[[], bool], timeout_s: float, problem: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise BrokerError(f"{problem} within {timeout_s:.0f} s")
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5):
        return True
    return False


def free_port() -> int:
    # Drawn from the system and not from `random`'s state, which tests seed, all with the same number.
    draw = random.SystemRandom()
    for _ in range(1_000):
        port = draw.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # As Java does.
            probe.bind(("127.0.0.1", port))
            return port
    raise BrokerError(f"no free port in {PORTS}")


def _tail(path: Path, lines: int = 30) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:])
    return "(no log)"


@contextlib.contextmanager
def running_broker(folder: Path, *, heap: str = "768m", quick_start: bool = True) -> Iterator[Broker]:
    """Run a broker for the length of a `with` block."""
    broker = Broker(folder, heap=heap, quick_start=quick_start)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def main() -> int:
    """Run one broker until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kafka.broker",
        description="Start an Apache Kafka and print its address on the first line.",
    )
    parser.add_argument(
        "--dir", type=Path, required=True, help="folder for data, settings and log; may exist from before"
    )
    parser.add_argument("--heap", default="768m", help="Java heap (default: %(default)s)")
    options = parser.parse_args()

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)  # Said, since a shell lets what it starts in the background ignore it.
    try:
        with running_broker(options.dir, heap=options.heap, quick_start=False) as broker:
            print(broker.bootstrap, flush=True)
            assert broker._process is not None
            broker._process.wait()
            print(f"the broker ended by itself; see {options.dir / 'broker.log'}", file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        return 0
    except (BrokerError, KafkaUnavailableError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
