"""`nudge deliver` on a real Kafka: killed again and again, with a receiver in any mood, each action has one outcome."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from connectors.ledgers.base import ToBegin, ToSettle
from connectors.ledgers.sqlite import SqliteLedger
from dataflow.deliver.start import now_ms
from state.delivery import Outcome
from state.outgoing import dump
from tests.delivery.actions import action
from tests.delivery.jobs import Delivery, receipts, send
from tests.kafka.broker import Broker, KafkaTopics
from tests.providers.server import HANGS, Response, Server
from tests.providers.webhook import SECRET, Receiver, in_any_mood
from tests.redis.server import RedisServer

pytestmark = pytest.mark.kafka

ACTIONS = [action(f"a{number}", f"u{number % 37}") for number in range(300)]


class World:
    """A broker with actions, and a folder for deliver."""

    def __init__(self, broker: KafkaTopics, prefix: str, folder: Path) -> None:
        self.broker, self.prefix, self.folder = broker, prefix, folder
        for topic in {"actions.webhook", "events", "dead-letters"} - {
            one.removeprefix(prefix) for one in broker.topics(prefix)
        }:
            broker.create_topic(prefix + topic, 3)

    def workspace(self, url: str, **more: object) -> None:
        lines = ["channels:", "  webhook:", "    deliver:", "      provider: webhook", f"      url: {url}"]
        lines += ["      private: true", "      secret: {env: HOOK}", "      timeout: 2s"]
        lines += [f"      {key}: {value}" for key, value in more.items()]
        (self.folder / "nudge.yaml").write_text("\n".join(lines))

    def send(self, actions: object = ACTIONS) -> None:
        send(self.broker, f"{self.prefix}actions.webhook", actions)  # type: ignore[arg-type]

    def start(self, *more: str) -> Delivery:
        return Delivery(self.broker, self.prefix, self.folder, *more, HOOK=SECRET)

    def receipts(self) -> dict[str, list[dict[str, object]]]:
        return receipts(self.broker, f"{self.prefix}events")


@pytest.fixture
def world(broker: KafkaTopics, topic_prefix: str, tmp_path: Path) -> World:
    return World(broker, topic_prefix, tmp_path)


def check_order(taken: list[str]) -> None:
    """Every user has got what is theirs in order."""
    place = {one.action_id: number for number, one in enumerate(ACTIONS)}
    last: dict[int, int] = {}
    for one in taken:
        user = place[one] % 37
        assert last.get(user, -1) < place[one], "out of order"
        last[user] = place[one]


@pytest.mark.timeout(300)
def test_killed_again_and_again_every_action_is_taken_once_and_has_one_outcome(world: World) -> None:
    chance = random.Random(1)
    receiver = Receiver(in_any_mood(random.Random(2)))
    with Server(receiver) as server:
        world.workspace(server.url)
        world.send()
        for _ in range(5):
            one = world.start()
            one.wait_for("delivering")
            time.sleep(chance.uniform(0.2, 3.0))
            one.kill()
        one = world.start("--stop-at-end")
        one.wait()
    found = world.receipts()
    assert receiver.mistakes == []
    assert set(receiver.taken) == {one.action_id for one in ACTIONS} == set(found)
    assert {receipt["status"] for some in found.values() for receipt in some} == {"accepted"}
    assert {receipt["message_id"] for some in found.values() for receipt in some} == {
        f"{one.action_id}/accepted" for one in ACTIONS
    }
    check_order(receiver.taken)
    again = world.start("--stop-at-end")
    again.wait()
    assert len(world.receipts()) == len(ACTIONS)


@pytest.mark.timeout(120)
def test_asked_to_stop_it_waits_for_open_calls_and_the_next_one_calls_nobody_again(world: World) -> None:
    receiver = Receiver(lambda _: Response(200, after_s=1.0))
    with Server(receiver) as server:
        world.workspace(server.url)
        world.send(ACTIONS[:20])
        one = world.start()
        deadline = time.monotonic() + 30
        while not receiver.came:
            assert time.monotonic() < deadline, one.tail()
            time.sleep(0.02)
        assert one.stop() == 0
        world.start("--stop-at-end").wait()
    assert set(receiver.came.values()) == {1}
    assert {receipt["status"] for some in world.receipts().values() for receipt in some} == {"accepted"}


@pytest.mark.timeout(180)
def test_asked_to_stop_it_stops_though_kafka_has_become_mute_and_nothing_is_sent_again(
    breakable_broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    world = World(breakable_broker, topic_prefix, tmp_path)
    receiver = Receiver()
    with Server(receiver) as server:
        world.workspace(server.url)
        world.send(ACTIONS[:20])
        one = world.start()
        deadline = time.monotonic() + 60
        while len(world.receipts()) < 20:
            assert time.monotonic() < deadline, one.tail()
        breakable_broker.pause()
        try:
            assert one.stop(within_s=30) == 0, one.tail()
        finally:
            breakable_broker.resume()
        assert "offsets could not be committed" in one.tail()
        world.start("--stop-at-end").wait()
    assert set(receiver.came.values()) == {1}


@pytest.mark.timeout(120)
def test_a_receipt_that_a_process_has_owed_when_it_ended_is_written_by_the_next_one_and_once(world: World) -> None:
    late, unknown = Outcome("accepted", 1_795_420_800_123, further="delivered"), Outcome("unknown", 1_795_420_800_100)
    one = ACTIONS[0]

    async def note() -> None:
        slow, other = (SqliteLedger(world.folder / "ledger.db", "webhook", owner) for owner in ("slow", "other"))
        await slow.note([ToBegin(one.action_id, 1, one.user_id, 0)], 0)
        for ledger, outcome in ((other, unknown), (slow, late)):
            await ledger.note([ToSettle(one.action_id, 1, one.user_id, outcome)], now_ms())
            await ledger.close()

    asyncio.run(note())
    world.workspace("http://127.0.0.1:9")
    for _ in range(2):
        world.start("--stop-at-end").wait()
        told = [(receipt["user_id"], receipt["status"]) for receipt in world.receipts()[one.action_id]]
        assert told == [(one.user_id, "accepted"), (one.user_id, "delivered")]


@pytest.mark.timeout(120)
def test_one_user_who_has_to_wait_stops_nobody_else(world: World) -> None:
    slow = ACTIONS[0].user_id
    held = {one.action_id for one in ACTIONS if one.user_id == slow}
    receiver = Receiver(lambda request: HANGS if request.headers["webhook-id"] in held else None)
    with Server(receiver) as server:
        world.workspace(server.url)
        world.send()
        one = world.start()
        deadline = time.monotonic() + 30
        while len(receiver.taken) < len(ACTIONS) - len(held):
            assert time.monotonic() < deadline, (len(receiver.taken), one.tail())
            time.sleep(0.05)
        assert {id for id in receiver.came if id in held} == {ACTIONS[0].action_id}, "the others wait for the first"
        one.kill()


@pytest.mark.timeout(120)
def test_what_is_no_action_is_a_dead_letter_and_stops_nobody(world: World) -> None:
    receiver = Receiver()
    with Server(receiver) as server:
        world.workspace(server.url)
        world.broker.produce(f"{world.prefix}actions.webhook", [(b"u", b"no json", None), (b"u", b'{"a": 1}', None)])
        world.send(ACTIONS[:3])
        nobody = [dump(msgspec.structs.replace(ACTIONS[9], channel="sms"))]
        nobody += [b"[1]", b'{"user_id": null}', b'{"user_id": "u", "x": ' + b"[" * 300 + b"]" * 300 + b"}"]
        world.broker.produce(f"{world.prefix}actions.webhook", [(b"u", one, None) for one in nobody])
        world.start("--stop-at-end").wait()
    assert len(receiver.taken) == 3
    letters = world.broker.read_all(f"{world.prefix}dead-letters")
    found = [json.loads(one.value or b"") for one in letters]
    assert Counter(one["reason"] for one in found) == {
        "not_json": 1, "bad_type": 1, "not_an_object": 1, "no_user": 2, "too_deep": 1
    }  # fmt: skip
    assert [one["detail"] for one in found if "sms" in one["detail"]] == [
        f"`channel` is 'sms', and {world.prefix}actions.webhook has the actions of webhook"
    ]
    for letter, one in zip(letters, found, strict=True):
        assert letter.key == f"{one['topic']}-{one['partition']}".encode()
        assert dict(letter.headers) == {"reason": one["reason"].encode(), "content-type": b"application/json"}


@pytest.mark.timeout(120)
def test_channels_that_share_a_topic_are_each_delivered_through_their_own_provider(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    world = World(broker, topic_prefix, tmp_path)
    broker.create_topic(f"{topic_prefix}actions.shared", 2)
    some = [action(f"s{number}", f"u{number % 5}", "ab"[number % 2]) for number in range(20)]
    receivers = {"a": Receiver(), "b": Receiver()}
    with Server(receivers["a"]) as a, Server(receivers["b"]) as b:
        channels = {
            name: {
                "topic": "actions.shared",
                "deliver": {"provider": "webhook", "url": one.url, "private": True, "secret": {"env": "HOOK"}},
            }
            for name, one in {"a": a, "b": b}.items()
        }
        (tmp_path / "nudge.yaml").write_text(json.dumps({"channels": channels}))
        send(broker, f"{topic_prefix}actions.shared", some)
        alone = world.start("--stop-at-end", "a")
        assert alone.process.wait(timeout=60) == 2
        assert f"the channels a and b share the topic {topic_prefix}actions.shared" in alone.tail()
        world.start("--stop-at-end").wait()
    for name, receiver in receivers.items():
        assert set(receiver.taken) == {one.action_id for one in some if one.channel == name}


@pytest.mark.timeout(120)
def test_a_second_process_with_a_ledger_of_its_own_calls_nobody(world: World) -> None:
    """Some users wait, so nothing is committed behind them: whoever gets the partitions reads all of it again."""
    waiting = {ACTIONS[number].user_id for number in range(6)}
    held = {one.action_id for one in ACTIONS if one.user_id in waiting}
    receiver = Receiver(lambda request: Response(500) if request.headers["webhook-id"] in held else None)
    with Server(receiver) as server:
        world.workspace(server.url)
        world.send()
        one = world.start()
        deadline = time.monotonic() + 60
        while len(world.receipts()) < len(ACTIONS) - len(held):
            assert time.monotonic() < deadline, one.tail()
        (world.folder / "other").mkdir()
        (world.folder / "other" / "nudge.yaml").write_text((world.folder / "nudge.yaml").read_text())
        other = Delivery(world.broker, world.prefix, world.folder / "other", HOOK=SECRET)
        assert other.process.wait(timeout=60) == 1, other.tail()
        assert "a ledger in a file is for one process" in other.tail()
        one.kill()
    assert {id: count for id, count in receiver.came.items() if count > 1 and id not in held} == {}


@pytest.mark.timeout(120)
def test_where_dead_letters_cannot_be_written_it_stops_and_says_so_and_commits_nothing_behind_them(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    broker.create_topic(f"{topic_prefix}dead-letters", 3, {"max.message.bytes": "100"})
    world = World(broker, topic_prefix, tmp_path)
    receiver = Receiver()
    with Server(receiver) as server:
        world.workspace(server.url)
        broker.produce(f"{topic_prefix}actions.webhook", [(b"u", b"no json", None)])
        for _ in range(2):  # Whoever starts next finds it again.
            one = world.start()
            assert one.process.wait(timeout=60) == 1, one.tail()
    text = one.log.read_text()
    assert text.count(f"{topic_prefix}dead-letters cannot be written: Broker: Message size too large") == 2, text


@pytest.mark.timeout(120)
def test_a_second_process_with_a_ledger_in_a_file_stops_and_says_what_to_do(world: World) -> None:
    with Server(Receiver()) as server:
        world.workspace(server.url)
        world.send(ACTIONS[:3])
        one = world.start()
        one.wait_for("delivering")
        time.sleep(5)
        (world.folder / "other").mkdir()
        (world.folder / "other" / "nudge.yaml").write_text((world.folder / "nudge.yaml").read_text())
        other = Delivery(world.broker, world.prefix, world.folder / "other", HOOK=SECRET)
        assert other.process.wait(timeout=60) == 1, other.tail()
        assert "let all share one with --ledger redis://" in other.tail()
        assert one.process.poll() is None
        assert one.stop() == 0


@pytest.mark.redis
@pytest.mark.timeout(400)
def test_two_processes_share_a_redis_and_are_killed_in_turn_while_partitions_move(
    world: World, redis_server: RedisServer
) -> None:
    chance = random.Random(3)
    receiver = Receiver(in_any_mood(random.Random(4)))
    ledger = ("--ledger", redis_server.url)
    with Server(receiver) as server:
        world.workspace(server.url)
        world.send()
        running = [world.start(*ledger)]
        for _ in range(6):
            running.append(world.start(*ledger))  # The partitions move to it in the middle of calls.
            running[-1].wait_for("delivering")
            time.sleep(chance.uniform(1.0, 5.0))
            running.pop(chance.randrange(len(running))).kill()
        last = world.start(*ledger, "--stop-at-end")  # It may get nothing to do before the others stop.
        deadline = time.monotonic() + 120
        while len(set(world.receipts())) < len(ACTIONS):
            assert time.monotonic() < deadline, (len(receiver.taken), last.tail())
            time.sleep(0.5)
        assert [one.stop() for one in running] == [0] * len(running)
        last.wait()
    found = world.receipts()
    assert receiver.mistakes == [], "nobody sees two different requests under one id"
    assert set(receiver.taken) == {one.action_id for one in ACTIONS} == set(found)
    assert {(receipt["message_id"], receipt["status"]) for some in found.values() for receipt in some} == {
        (f"{one.action_id}/accepted", "accepted") for one in ACTIONS
    }
    check_order(receiver.taken)
