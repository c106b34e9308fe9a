"""What the benchmarks feed the job: flows, and a shop's events of which a chosen share matters to them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from confluent_kafka import KafkaError, Message, Producer

from tests.kafka.broker import ForeignBroker, KafkaTopics

GENERATOR = 1  # Raise it with every change that makes other events, so that no topic of before is taken for one of now.

START_MS = 1_762_819_200_000  # 2025-11-11T00:00:00Z: the busiest day of the trade.
SPAN_MS = 6 * 3_600_000  # Long enough for the 30 minutes of most journeys to be over before the end.
SESSION_MS = 10 * 60_000
WINDOW_MS = 30 * 60_000
LATENESS_MS = 5_000  # From the user's device to the broker.

# What starts journeys, with how often it happens relative to the others.
NAMES = {"add_to_cart": 4, "product_view": 6, "add_to_wishlist": 3, "search": 5, "checkout_start": 2}
PURCHASES = 0.04
# With these and five events per user, 20 flows and 7 to 14 % of the relevant events completing a pair: most only count.
FAVOURITE = 0.4
CATEGORIES = ("shoes", "electronics", "beauty", "toys")
OTHER_CATEGORIES = ("garden", "books", "tools", "music", "pets")
OTHER_NAMES = ("page_view", "scroll", "banner_click", "app_open", "video_play", "review_read", "login", "share")
THRESHOLDS = (50, 80, 100, 150)
AMOUNT_ENOUGH = 150  # At least the highest threshold.
AMOUNT_SHORT = 50  # Below the lowest.

# In a session with anything relevant in it at least this share of the events is.
SHARE_IN_SESSION = 0.4


@dataclass(frozen=True)
class Workload:
    """An input topic, described by everything that decides what is in it.

    Attributes:
        share: of the events that satisfy a condition of some flow, 0..1.
    """

    events: int
    users: int
    partitions: int
    flows: int
    share: float
    seed: int = 1

    @property
    def topic(self) -> str:
        """A name that says the content: the same name never has other events."""
        text = json.dumps([GENERATOR, asdict(self)])
        return f"bench-{self.share * 100:g}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


@dataclass
class Content:
    """What a generated topic holds; filled while the events are made."""

    events: int = 0
    bytes: int = 0
    relevant: int = 0
    fired: int = 0
    """Second matching events within the window: each starts a journey, or is refused by a user who is inside."""


def flow_files(count: int) -> dict[str, str]:
    """Return *count* flows as file name -> YAML.

    Each is the job of the Flink comparison: a second event within 30 minutes, a wait of 30 minutes that a purchase
    cancels, a message. They differ in event name, category and price, and every event satisfies one of them at most.
    """
    files = {}
    for index in range(count):
        name, category = _trigger_of(index)
        flow = f"{name.replace('_', '-')}.{category}"
        files[f"{flow}.yaml"] = f"""\
flow: {flow}
trigger:
  event: {name}
  where: {{category: {category}, amount: {{gte: {THRESHOLDS[index % len(THRESHOLDS)]}}}, currency: [CNY, USD]}}
  count: {{at_least: 2, within: 30m}}
exit:
  - {{event: purchase, where: {{category: {category}}}, goal: true}}
steps:
  - wait: 30m
  - {{id: remind, send: webhook, template: {flow}}}
"""
    return files


def events(workload: Workload, content: Content) -> Iterator[tuple[str, str, int]]:
    """Yield (user, JSON text, arrival in ms) in order of arrival, and count into *content*.

    Users come in sessions of ten minutes, one after the other through the whole day, each with a favourite category.
    """
    draw = random.Random(f"{GENERATOR}/{workload}").random
    users, count, share = workload.users, workload.events, workload.share
    categories = [_category(index) for index in range((workload.flows + len(NAMES) - 1) // len(NAMES))]
    names_of = [
        [
            name
            for index in range(position * len(NAMES), min((position + 1) * len(NAMES), workload.flows))
            for name in [_trigger_of(index)[0]] * NAMES[_trigger_of(index)[0]]
        ]
        for position in range(len(categories))
    ]
    names = list(NAMES)
    share_in_session = max(share, SHARE_IN_SESSION)
    shoppers = share / share_in_session
    active = max(1, users * SESSION_MS // SPAN_MS)
    armed: dict[tuple[int, str, int], int] = {}
    stamp = _stamps()

    for number in range(count):
        now_ms = START_MS + number * SPAN_MS // count
        at_ms = now_ms - int(draw() * LATENESS_MS)
        user = (number * users // count + int(draw() * active)) % users
        amount = AMOUNT_ENOUGH + int(draw() * 40_000) / 100
        if (user * 2_654_435_761 % 2**32) / 2**32 < shoppers and draw() < share_in_session:
            content.relevant += 1
            position = (user if draw() < FAVOURITE else int(draw() * len(categories))) % len(categories)
            category = categories[position]
            if draw() < PURCHASES:
                name = "purchase"
            else:
                choice = names_of[position]
                name = choice[int(draw() * len(choice))]
                counter = (user, name, position)
                if at_ms - armed.pop(counter, 0) < WINDOW_MS:
                    content.fired += 1
                else:
                    armed[counter] = at_ms
        elif (kind := draw()) < 0.60:
            name = OTHER_NAMES[int(draw() * len(OTHER_NAMES))]
            category = categories[user % len(categories)]
        elif kind < 0.85:
            name = names[int(draw() * len(names))]
            category = OTHER_CATEGORIES[int(draw() * len(OTHER_CATEGORIES))]
        else:
            name = names[int(draw() * len(names))]
            category = categories[user % len(categories)]
            amount = int(draw() * AMOUNT_SHORT * 100) / 100
        key = f"u-{user:07d}"
        text = (
            f'{{"message_id":"01JCB{number:021X}","user_id":"{key}","event":"{name}",'
            f'"timestamp":"{stamp(at_ms)}","properties":{{"sku":"SKU-{int(draw() * 90_000) + 10_000}",'
            f'"amount":{amount},"currency":"{"CNY" if draw() < 0.8 else "USD"}","category":"{category}",'
            f'"device":"{"ios" if user & 1 else "android"}"}},"context":{{"app":"shop","locale":"zh-CN"}}}}'
        )
        content.events += 1
        content.bytes += len(text)
        yield key, text, now_ms


def load(workload: Workload, bootstrap: str) -> Content:
    """Write the workload's topic, unless it is there already, and return what is in it.

    To be run in a process of its own: a later child would be charged with the memory that this takes.

    Raises:
        RuntimeError: the broker did not take all of it.
    """
    kafka: KafkaTopics = ForeignBroker(bootstrap)
    content, topic = Content(), workload.topic
    there = sum(kafka.end_offsets(topic).values())
    if there == workload.events and topic in kafka.topics():
        for _ in events(workload, content):
            pass  # Only to count.
        return content
    if there:
        kafka.delete_topics([topic])
    if topic not in kafka.topics():
        kafka.create_topic(topic, workload.partitions, {"retention.ms": "-1"})
    problems: list[str] = []

    def report(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            problems.append(str(error))

    producer = Producer(
        kafka.client_config(
            enable_idempotence=True,
            partitioner="murmur2_random",  # As the Java client, which most trackers use.
            linger_ms=50,
            queue_buffering_max_messages=1_000_000,
            queue_buffering_max_kbytes=512 * 1024,
            delivery_report_only_error=True,
        )
    )
    for key, text, now_ms in events(workload, content):
        while True:
            try:
                producer.produce(topic, text, key, timestamp=now_ms, on_delivery=report)
                break
            except BufferError:
                producer.poll(0.1)
        if content.events % 10_000 == 0:
            producer.poll(0)
    left = producer.flush(120)
    there = sum(kafka.end_offsets(topic).values())
    if left or problems or there != workload.events:
        raise RuntimeError(f"{topic}: {there} of {workload.events} records arrived; {problems[:3]}")
    return content


def _category(index: int) -> str:
    return CATEGORIES[index] if index < len(CATEGORIES) else f"category-{index:04d}"


def _trigger_of(index: int) -> tuple[str, str]:
    return list(NAMES)[index % len(NAMES)], _category(index // len(NAMES))


def _stamps() -> Callable[[int], str]:
    seconds: dict[int, str] = {}

    def stamp(at_ms: int) -> str:
        second, rest = divmod(at_ms, 1000)
        text = seconds.get(second)
        if text is None:
            text = seconds[second] = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{text}.{rest:03d}Z"

    return stamp
