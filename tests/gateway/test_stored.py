"""A door that runs on a real Kafka: acknowledged means stored, whatever happens to the door or to Kafka."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.gateway.doors import WRITE_KEY, Gateway
from tests.kafka.broker import Broker, KafkaTopics

pytestmark = pytest.mark.kafka
HEAD = {"authorization": f"Bearer {WRITE_KEY}"}


def workspace(folder: Path, **more: object) -> None:
    settings = {"keys": {"web": {"key": {"env": "WRITE_KEY"}}}, **more}
    (folder / "nudge.yaml").write_text(json.dumps({"gateway": settings}))


class Load:
    """Posts events, one by one and in lists, and notes which were answered with success."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.sent: list[str] = []
        self.stored: set[str] = set()

    async def run(self, url: str, clients: int, lasts_s: float, end: Callable[[], object]) -> None:
        """Let some clients post until *end*, which is called after a while, has returned."""
        async with httpx.AsyncClient(base_url=url, headers=HEAD, timeout=10, verify=False) as client:
            posting = [asyncio.create_task(self._post(client)) for _ in range(clients)]
            await asyncio.sleep(lasts_s)
            await asyncio.to_thread(end)
            await asyncio.gather(*posting)

    async def _post(self, client: httpx.AsyncClient) -> None:
        while True:
            ids = [f"m-{len(self.sent) + number}" for number in range(self._chance.choice((1, 1, 20)))]
            self.sent += ids
            body = [{"user_id": f"u-{len(self.sent) % 50}", "event": "x", "message_id": one} for one in ids]
            try:
                answer = await client.post("/v1/events", json=body[0] if len(body) == 1 else body)
            except httpx.HTTPError:
                return  # The door is gone.
            if answer.status_code == 200:
                self.stored.update(ids)


@pytest.mark.timeout(180)
def test_killed_under_load_every_event_that_was_answered_with_success_is_on_the_topic(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    broker.create_topic(f"{topic_prefix}events", 3)
    workspace(tmp_path)
    load, chance = Load(1), random.Random(3)
    for _ in range(6):
        one = Gateway(broker, topic_prefix, tmp_path)
        asyncio.run(load.run(one.url, 20, chance.uniform(0.3, 1.5), one.kill))
    there = {json.loads(record.value or b"")["message_id"] for record in broker.read_all(f"{topic_prefix}events")}
    assert len(load.stored) > 500, "there was some load"
    assert load.stored <= there <= set(load.sent)


@pytest.mark.timeout(120)
def test_asked_to_stop_under_load_it_answers_what_it_has_taken_and_ends_well(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    broker.create_topic(f"{topic_prefix}events", 1)
    workspace(tmp_path)
    one = Gateway(broker, topic_prefix, tmp_path)
    load, status = Load(2), list[int]()
    asyncio.run(load.run(one.url, 10, 0.5, lambda: status.append(one.stop())))
    assert status == [0], one.tail()
    there = [json.loads(record.value or b"")["message_id"] for record in broker.read_all(f"{topic_prefix}events")]
    assert load.stored
    assert load.stored <= set(there)
    assert len(there) == len(set(there))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", ["stop", "pause"])
def test_without_kafka_it_says_so_within_five_seconds_and_with_kafka_it_goes_on(
    breakable_broker: Broker, topic_prefix: str, tmp_path: Path, fault: str
) -> None:
    broker = breakable_broker
    broker.create_topic(f"{topic_prefix}events", 1)
    workspace(tmp_path)
    one = Gateway(broker, topic_prefix, tmp_path)
    event = {"user_id": "u", "event": "x"}
    with httpx.Client(base_url=one.url, headers=HEAD, timeout=10) as client:
        assert client.post("/v1/events", json=event).status_code == 200
        getattr(broker, fault)()
        began_s = time.monotonic()
        answer = client.post("/v1/events", json={**event, "message_id": "lost"})
        assert time.monotonic() - began_s < 5
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert client.get("/healthz").status_code == 200
        time.sleep(2)
        assert client.get("/readyz", timeout=10).status_code == 503
        broker.ensure_ready()
        deadline = time.monotonic() + 40
        while client.post("/v1/events", json={**event, "message_id": "again"}).status_code != 200:
            assert time.monotonic() < deadline, one.tail()
        deadline = time.monotonic() + 20
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert one.stop() == 0
    assert any(b'"again"' in (record.value or b"") for record in broker.read_all(f"{topic_prefix}events"))


@pytest.mark.timeout(120)
def test_what_a_client_does_badly_costs_nobody_anything(broker: KafkaTopics, topic_prefix: str, tmp_path: Path) -> None:
    broker.create_topic(f"{topic_prefix}events", 1)
    workspace(tmp_path)
    one = Gateway(broker, topic_prefix, tmp_path)
    port = int(one.url.rpartition(":")[2])

    def said(sends: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=15) as connection:
            try:
                connection.sendall(sends)
                return connection.recv(65_536)
            except ConnectionError:
                return b""

    post = b"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + WRITE_KEY.encode() + b"\r\n"
    assert said(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"x" * 200_000) == b""
    assert said(post + b"content-length: 99999999\r\n\r\n").startswith(b"HTTP/1.1 413")
    assert said(post + b"content-length: 100\r\n\r\n{").startswith(b"HTTP/1.1 408")
    assert said(b"\0\1\2 nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert httpx.post(f"{one.url}/v1/events", json={"user_id": "u", "event": "x"}, headers=HEAD).status_code == 200
    assert one.stop() == 0


@pytest.mark.timeout(120)
def test_a_user_is_in_the_partition_in_which_javas_client_puts_them(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    broker.create_topic(f"{topic_prefix}events", 12)
    workspace(tmp_path)
    users = [f"u-{number}" for number in range(50)]
    one = Gateway(broker, topic_prefix, tmp_path)
    body = [{"user_id": user, "event": "x"} for user in users]
    assert httpx.post(f"{one.url}/v1/events", json=body, headers=HEAD).status_code == 200
    assert one.stop() == 0
    broker.create_topic(f"{topic_prefix}other", 12)
    places = broker.produce(f"{topic_prefix}other", [(user, b"{}", None) for user in users])
    there = {record.key: record.partition for record in broker.read_all(f"{topic_prefix}events")}
    assert there == {user.encode(): partition for user, (partition, _) in zip(users, places, strict=True)}
