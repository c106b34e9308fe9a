"""A job on the demo shop's events: what it is started with, and what must be on its topics in the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataflow.demo import FLOWS
from dataflow.demo.shop import Shop, Tracker
from operators.language.values import HOUR
from state.iso import format_ms, parse_iso_ms
from tests.crash.everything import LIMIT, add_everything, entered_shared, received, without_shared
from tests.jobs import Emitted, Json, on_kafka, simulated
from tests.kafka.broker import KafkaTopics
from tests.test_run import UNTIL, fill

PARTITIONS = 4
MASS = 1_500  # Users who all wait for the same moment.
LATER = 40  # Users of whom nothing comes before there is a place for it.
LATER_FLOWS = {
    "mass.yaml": "flow: mass\ntrigger: {event: enter}\nsteps:\n  - wait: {until: '{{ entry.at }}', if_missing: end}\n"
    "  - {send: email, template: mass, to: somebody@example.com, category: notification}\n",
    "later.yaml": "flow: later\ntrigger: {event: later}\nsteps:\n"
    "  - {send: email, template: at-once, to: a@example.com, category: notification}\n"
    "  - wait: 10m\n  - {send: email, template: later, to: a@example.com, category: notification}\n",
}
TRACKER = Tracker(duplicates=0.01, late=0.02, broken=0.005)


@dataclass(frozen=True)
class ShopInput:
    """Flows and events, and what `simulate` says of them."""

    folder: Path
    expected: Emitted
    records: int

    @classmethod
    def make(cls, folder: Path, *, seed: int, records: int, users: int = 1500) -> ShopInput:
        shutil.copytree(FLOWS, folder / "flows", dirs_exist_ok=True)
        events = folder / "events.jsonl"
        events.unlink(missing_ok=True)
        Shop(seed=seed, users=users, tracker=TRACKER).write_jsonl(events, records)
        expected = simulated(folder / "flows", events, folder / "simulated", until=UNTIL)
        for what in (expected.actions, expected.journal, expected.dead_letters):
            assert what, "nothing can be lost where nothing is expected"
        return cls(folder, expected, records)


@dataclass(frozen=True)
class LaterInput(ShopInput):
    """The same with a mass wake-up amid it, and records for a partition and a topic that are added some time.

    These are stamped behind all others, so whenever they are found, time has not passed them; the topic's behind the
    partition's, so the partition has to be added first.
    """

    in_partition: tuple[Record, ...] = ()
    in_topic: tuple[Record, ...] = ()

    @classmethod
    def make(cls, folder: Path, *, seed: int, records: int, users: int = 1500) -> LaterInput:
        shutil.copytree(FLOWS, folder / "flows", dirs_exist_ok=True)
        for name, text in LATER_FLOWS.items():
            (folder / "flows" / name).write_text(text)
        events, shop = folder / "events.jsonl", folder / "shop.jsonl"
        Shop(seed=seed, users=users, tracker=TRACKER).write_jsonl(shop, records)
        times = [at for at in map(received, shop.read_bytes().splitlines()) if at is not None]
        moment = format_ms((times[0] + times[-1]) // 2)
        entering = [_event(f"mass-{number}", "enter", times[0], {"at": moment}) for number in range(MASS)]
        events.write_bytes(b"".join(line + b"\n" for _, line, _ in entering) + shop.read_bytes())
        add_everything(folder / "flows", events, seed=seed, until=UNTIL)
        until = parse_iso_ms(UNTIL)
        assert until is not None
        late = [
            tuple(_event(f"{name}-{number}", "later", until + hours * HOUR, {}) for number in range(LATER))
            for name, hours in (("partition", 1), ("topic", 2))
        ]
        everything = folder / "everything.jsonl"
        everything.write_bytes(events.read_bytes() + b"".join(line + b"\n" for some in late for _, line, _ in some))
        expected = simulated(folder / "flows", everything, folder / "simulated", until=UNTIL)
        assert sum(one["flow"] == "mass" for one in expected.actions) == MASS
        assert sum(one["template"] == "later" for one in expected.actions) == LATER, "time stands at the last record"
        assert entered_shared(expected) == LIMIT, "more want to than may"
        return cls(folder, expected, records, *late)


Record = tuple[bytes, bytes, int]
"""Key, value and stamp (ms) of a record."""


def _event(user: str, name: str, at_ms: int, properties: Json) -> Record:
    value = {"user_id": user, "event": name, "message_id": user, "received_at": format_ms(at_ms)}
    return user.encode(), json.dumps({**value, "timestamp": format_ms(at_ms), "properties": properties}).encode(), at_ms


class ShopJob:
    """A job that reads *given* from Kafka topics with *prefix*, and writes there."""

    def __init__(self, broker: KafkaTopics, prefix: str, given: ShopInput, state: Path) -> None:
        self.broker, self.prefix, self.given, self.state = broker, prefix, given, state
        self.has_more_topics = False

    def fill(self) -> None:
        fill(self.broker, f"{self.prefix}events", self.given.folder / "events.jsonl", PARTITIONS)

    def add_partition(self, records: Sequence[Record]) -> None:
        """Give the topic a partition more, with *records* in it."""
        topic = f"{self.prefix}events"
        self.broker.add_partitions(topic, PARTITIONS + 1)
        self.broker.produce(topic, records, partition=PARTITIONS)

    def add_topic(self, records: Sequence[Record]) -> None:
        """Let there be a second topic, with *records* in it, for all runs to come."""
        self.broker.create_topic(f"{self.prefix}more", 1)
        self.broker.produce(f"{self.prefix}more", records)
        self.has_more_topics = True

    def deploy_something_new(self, version: int) -> None:
        """Change the flows: another version of one that nobody ever enters, so that nothing else changes."""
        text = f"flow: nobody\nversion: {version}\ntrigger: {{event: never}}\nsteps: [{{send: sms, template: t}}]\n"
        (self.given.folder / "flows" / "nobody.yaml").write_text(text)

    def nothing_new(self) -> None:
        (self.given.folder / "flows" / "nobody.yaml").unlink(missing_ok=True)

    def command(self, *more: str | Path, processes: int = 1, state: Path | None = None) -> list[str | Path]:
        folder, address = self.given.folder, self.broker.bootstrap
        added = ["--source", f"kafka://{address}/{self.prefix}more?from=start"] if self.has_more_topics else []
        return [
            folder / "flows", *added,
            "--source", f"kafka://{address}/{self.prefix}events", "--sink", f"kafka://{address}?prefix={self.prefix}",
            "--state", state or self.state, "--stop-at-end", "--until", UNTIL, "--processes", str(processes), *more,
        ]  # fmt: skip

    def differences(self) -> list[str]:
        """Say what is lost, wrong or repeated on the topics."""
        there, expected = on_kafka(self.broker, self.prefix), self.given.expected
        found = _comparable(there).differences(_comparable(expected))
        if entered_shared(there) != entered_shared(expected):
            found.append(f"{entered_shared(there)} have entered where {entered_shared(expected)} are to")
        return found


def _comparable(emitted: Emitted) -> Emitted:
    """Leave out what may differ: who was among the first, and where a dead letter was, for a file has other places."""

    def without_place(letter: Json) -> Json:
        return {key: value for key, value in letter.items() if key not in ("topic", "partition", "offset")}

    emitted = without_shared(emitted)
    return Emitted(emitted.actions, emitted.journal, [without_place(letter) for letter in emitted.dead_letters])
