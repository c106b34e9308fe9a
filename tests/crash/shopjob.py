"""A job on the demo shop's events: what it is started with, and what must be on its topics in the end."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from dataflow.demo import FLOWS
from dataflow.demo.shop import Shop, Tracker
from tests.jobs import Emitted, Json, on_kafka, simulated
from tests.kafka.broker import KafkaTopics
from tests.test_run import UNTIL, fill

PARTITIONS = 4
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


class ShopJob:
    """A job that reads *given* from Kafka topics with *prefix*, and writes there."""

    def __init__(self, broker: KafkaTopics, prefix: str, given: ShopInput, state: Path) -> None:
        self.broker, self.prefix, self.given, self.state = broker, prefix, given, state

    def fill(self) -> None:
        fill(self.broker, f"{self.prefix}events", self.given.folder / "events.jsonl", PARTITIONS)

    def deploy_something_new(self, version: int) -> None:
        """Change the flows: another version of one that nobody ever enters, so that nothing else changes."""
        text = f"flow: nobody\nversion: {version}\ntrigger: {{event: never}}\nsteps: [{{send: sms, template: t}}]\n"
        (self.given.folder / "flows" / "nobody.yaml").write_text(text)

    def nothing_new(self) -> None:
        (self.given.folder / "flows" / "nobody.yaml").unlink(missing_ok=True)

    def command(self, *more: str | Path, processes: int = 1, state: Path | None = None) -> list[str | Path]:
        folder, address = self.given.folder, self.broker.bootstrap
        return [
            folder / "flows",
            "--source", f"kafka://{address}/{self.prefix}events", "--sink", f"kafka://{address}?prefix={self.prefix}",
            "--state", state or self.state, "--stop-at-end", "--until", UNTIL, "--processes", str(processes), *more,
        ]  # fmt: skip

    def differences(self) -> list[str]:
        """Say what is lost, wrong or repeated on the topics."""
        return _comparable(on_kafka(self.broker, self.prefix)).differences(_comparable(self.given.expected))


def _comparable(emitted: Emitted) -> Emitted:
    """Leave out of dead letters where they were: a line of a file has another place on Kafka."""

    def without_place(letter: Json) -> Json:
        return {key: value for key, value in letter.items() if key not in ("topic", "partition", "offset")}

    return Emitted(emitted.actions, emitted.journal, [without_place(letter) for letter in emitted.dead_letters])
