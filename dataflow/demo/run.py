"""`nudge demo`: the real job on an embedded broker, fed by a made-up shop, delivered to made-up providers, shown live.

Nothing here is a mock-up of the job or of delivery: it is `nudge run`, `nudge deliver` and `nudge gateway`, only that
the broker lives inside this process (librdkafka's own test cluster) and is gone with it. The shop's time runs faster
than life; the job does not mind, because its time is that of the records. Receipts have the time of day, so the shop's
time begins after that: a record from before is handled at the time that the job has reached.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson
import structlog
from confluent_kafka import Consumer, Producer, TopicPartition
from rich.console import Console
from rich.live import Live

from dataflow.demo import FLOWS
from dataflow.demo.beside import UNMATCHED, Beside
from dataflow.demo.shop import START_MS, Shop, Tracker
from dataflow.demo.view import ChannelCounts, DemoSnapshot, DemoView, FlowCounts, ShownAction
from dataflow.flows import load
from dataflow.job.lifecycle import Job
from dataflow.job.processes import JobRunner
from dataflow.logs import configure_logs
from dataflow.urls import SinkUrl, SourceUrl
from operators.language.values import DAY
from operators.language.workspace import DEAD_LETTERS, JOURNAL
from operators.machine.totals import FlowTotals, Totals, add_totals, read_totals
from operators.program.program import Program
from state.errors import in_one_line
from state.iso import format_ms

TOPIC: Final = "events"
SEED: Final = 20
USERS: Final = 20_000
SHOP_EVENTS_PER_S: Final = 10.0  # Of shop time: some 1 200 a second at 120 times the speed of life.
PICTURES_PER_S: Final = 4
LINE_EVERY_S: Final = 5.0
ACTIONS_SHOWN: Final = 60
LOOK_S: Final = 0.2
_FAILURE: Final = re.compile(r"\$.+_(failed|rejected)")
NEVER_THE_WALL_CLOCK: Final = 365 * 100 * DAY  # As slack: the shop's time is ahead of ours, and moves by records alone.


def start_of_shop(now_ms: int) -> int:
    """Return when the shop's time begins: tomorrow, at the same time of day as ever."""
    return now_ms - now_ms % DAY + DAY + START_MS % DAY


class _Tally:
    """What has become of one channel's actions so far."""

    def __init__(self) -> None:
        self.actions = self.moved = self.instead = 0
        self.statuses = Counter[str]()


class Demo:
    """The broker, the shop, the job, delivery, and what has come out so far.

    Args:
        speed: how many times faster than real time the shop's time runs.
        flows: what the job runs.
        events_per_s: how many events the shop has in a second of its own time, as the mean of a day.
    """

    def __init__(self, speed: int, flows: Sequence[Path], events_per_s: float = SHOP_EVENTS_PER_S) -> None:
        self.loaded = load(flows, None)
        self._speed, self._events_per_s = speed, events_per_s
        # The broker lives in this client, for as long as the client does.
        self._broker = Producer(
            {"test.mock.num.brokers": 1, "linger.ms": 20, "partitioner": "murmur2_random", "log_level": 0}
        )
        broker = next(iter(self._broker.list_topics(TOPIC, timeout=10).brokers.values()))
        self.bootstrap = f"{broker.host}:{broker.port}"
        # This broker makes a topic when a producer asks for it, and in no other way.
        self._topics = self.loaded.deployment.topics
        for topic in (*self._topics.values(), JOURNAL, DEAD_LETTERS, UNMATCHED):
            self._broker.list_topics(topic, timeout=10)
        self.actions: deque[ShownAction] = deque(maxlen=ACTIONS_SHOWN)
        self.tallies = {channel: _Tally() for channel in sorted(self._topics)}
        self._answer = ("", 0, "", "")
        self.shop_ms = 0
        self.failure = ""
        self.stopping = threading.Event()
        self.runner = JobRunner(self._job(), structlog.get_logger())
        work = {"shop": self._sell, "job": self._run, "picture": self._look_on, "delivery": self._deliver}
        self._threads = [threading.Thread(target=one, name=name, daemon=True) for name, one in work.items()]

    def _job(self) -> Job:
        return Job(
            loaded=self.loaded,
            sources=[SourceUrl("kafka", self.bootstrap, TOPIC)],
            sink=SinkUrl("kafka", self.bootstrap),
            kafka={"socket.timeout.ms": 1_500},  # This broker does not answer when it is asked for a topic's id.
            state=None,
            epoch_ms=2_000,
            slack_ms=NEVER_THE_WALL_CLOCK,
            shards=8,
            log_level="error",
            receipts=True,  # To be seen, whatever the flows ask for.
        )

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop everything, and wait for it."""
        self.stopping.set()
        self.runner.stop()
        for thread in self._threads:
            thread.join(timeout=15)

    def _run(self) -> None:
        try:
            self.runner.run()
        except Exception as error:  # Whatever it is, the demo ends and says so.
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self.stopping.set()

    def _is_ready(self) -> bool:
        """Wait until the job reads; False if the demo is over before."""
        while not self.runner.is_ready:
            if self.stopping.wait(0.05):
                return False
        return True

    def _deliver(self) -> None:
        """Let the actions be delivered, from the moment at which there can be some."""
        if not self._topics or not self._is_ready():
            return
        try:
            with Beside(self.bootstrap, self._topics) as beside:
                while not self.stopping.wait(LOOK_S):
                    beside.check()
        except Exception as error:
            self.failure = self.failure or in_one_line(error)
        finally:
            self.stopping.set()

    def _sell(self) -> None:
        """Produce the shop's records at the demo's pace, from the moment at which the job reads."""
        if not self._is_ready():
            return
        start_ms = start_of_shop(time.time_ns() // 1_000_000)
        shop = Shop(seed=SEED, users=USERS, start_ms=start_ms, events_per_s=self._events_per_s, tracker=Tracker())
        began = time.monotonic()
        for record in shop.events():
            due = began + (record.at_ms - shop.start_ms) / 1000 / self._speed
            while (ahead := due - time.monotonic()) > 0:
                self._broker.poll(0)
                if self.stopping.wait(min(ahead, 0.05)):
                    return
            while True:
                try:
                    self._broker.produce(TOPIC, record.value, record.user_id, timestamp=record.at_ms)
                    break
                except BufferError:
                    self._broker.poll(0.05)
            self.shop_ms = record.at_ms
            if self.stopping.is_set():
                return

    def _look_on(self) -> None:
        """Read the channels' topics and the journal, for the picture."""
        if not self._is_ready():
            return
        topics = sorted({*self._topics.values(), JOURNAL})
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "picture", "log_level": 0})
        try:
            found = consumer.list_topics(timeout=10).topics
            consumer.assign(
                [TopicPartition(topic, number, 0) for topic in topics for number in found[topic].partitions]
            )
            while not self.stopping.is_set():
                for message in consumer.consume(500, timeout=0.1):
                    value = message.value() or b""
                    if message.error() is not None:
                        continue
                    if message.topic() != JOURNAL:
                        self._note_action(orjson.loads(value))
                    elif b'"kind":"receipt"' in value or b'"kind":"moved"' in value:
                        self._note_journal(orjson.loads(value))
        finally:
            consumer.close()

    def _note_action(self, action: dict[str, Any]) -> None:
        self.actions.append(ShownAction.of(action))
        tally = self.tallies[action["channel"]]
        tally.actions += 1
        # A receipt led to it: what it said is an event `$<channel>_<status>`.
        tally.instead += bool(_FAILURE.fullmatch(action["cause"]["event"] or ""))

    def _note_journal(self, record: dict[str, Any]) -> None:
        user_id, seq, said = record["user_id"], record["seq"], record["reason"]
        if record["kind"] == "receipt":
            channel = record["detail"]["channel"]
            self.tallies[channel].statuses[said] += 1
            self._answer = user_id, seq + 1, said, channel
        elif self._answer[:3] == (user_id, seq, said):  # What follows from a receipt stands behind it.
            self.tallies[self._answer[3]].moved += 1


class _Meter:
    """Events per second, now and before."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=8)
        self.history: deque[float] = deque(maxlen=120)

    def read(self, events: int) -> float:
        now = time.monotonic()
        self._samples.append((now, events))
        (then, before), (_, last) = self._samples[0], self._samples[-1]
        speed = (last - before) / (now - then) if now > then else 0.0
        self.history.append(speed)
        return speed


def run_demo(*, seconds: int | None, speed: int, flows: Sequence[Path] | None) -> int:
    """Show the demo until Ctrl-C, or for *seconds*; return the exit status."""
    configure_logs("error", "text")
    demo = Demo(speed, flows or [FLOWS])
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: demo.stopping.set())
    console = Console()
    names = [program.name for program in demo.loaded.deployment.programs.values()]
    view, meter = DemoView(console, names), _Meter()
    began = time.monotonic()
    demo.start()

    def snapshot() -> DemoSnapshot:
        return _snapshot(demo, meter, time.monotonic() - began)

    def goes_on() -> bool:
        return not demo.stopping.is_set() and (seconds is None or time.monotonic() - began < seconds)

    if console.is_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while goes_on():
                live.update(view.render(snapshot()), refresh=True)
                demo.stopping.wait(1 / PICTURES_PER_S)
        last = snapshot()
        console.print(view.render(last, is_last=True))  # The screen of before is back; this stays on it.
    else:
        next_line = 0.0
        while goes_on():
            now = snapshot()
            if now.seconds >= next_line:
                console.print(view.render_line(now), soft_wrap=True, highlight=False, markup=False)
                next_line = now.seconds + LINE_EVERY_S
            demo.stopping.wait(1 / PICTURES_PER_S)
        last = snapshot()
    demo.stop()
    if demo.failure:
        sys.stderr.write(f"nudge demo: {demo.failure}\n")
        return 1
    if not console.is_terminal:
        for text in (view.render_line(last), view.render_channels(last)):
            console.print(text, soft_wrap=True, highlight=False, markup=False)
    return 0


def _flow_counts(program: Program, counts: FlowTotals) -> FlowCounts:
    return FlowCounts(
        flow=program.name,
        inside=counts.inside,
        entered=counts.entered,
        sent=sum(counts.sent.values()),
        converted=counts.converted,
        refused=sum(counts.refused.values()),
    )


def _snapshot(demo: Demo, meter: _Meter, seconds: float) -> DemoSnapshot:
    running = demo.runner.running
    work = running.work
    totals: Totals = {}
    for status in running.statuses:
        add_totals(totals, status.totals)
    programs = demo.loaded.deployment.programs.values()
    read = read_totals(totals, [program.label for program in programs])
    flows = [_flow_counts(program, read[program.label]) for program in programs]
    return DemoSnapshot(
        seconds=seconds,
        shop_at=format_ms(demo.shop_ms) if demo.shop_ms else "",
        events_per_s=meter.read(work.records),
        history=list(meter.history),
        events=work.records,
        relevant_share=work.relevant / work.records if work.records else 0.0,
        flows=flows,
        actions=list(demo.actions),
        dead_letters=work.dead_letters,
        channels=[
            ChannelCounts(channel, one.actions, dict(one.statuses), one.moved, one.instead)
            for channel, one in demo.tallies.items()
        ],
    )
