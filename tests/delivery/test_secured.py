"""Delivery and the gateway through a Kafka with TLS and SASL and a Redis with TLS and a user of its own."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import httpx
import pytest
import yaml
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from standardwebhooks import Webhook as Signer

from connectors.channels.base import Surroundings
from connectors.channels.kafka import KafkaPush, KafkaSettings
from state.delivery import CONFIG, Answer
from tests.certificates import certificates
from tests.delivery.actions import action
from tests.delivery.jobs import Delivery, receipts, send
from tests.gateway.doors import WRITE_KEY, Gateway
from tests.jobs import REPO
from tests.kafka.broker import Broker
from tests.providers.server import Server
from tests.providers.webhook import SECRET, Receiver
from tests.redis.fixtures import started
from tests.redis.server import RedisServer

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(400)]

CALLBACK = "secret-of-the-callback-1"
PASSWORD = "pass-of-nudge"
WRONG_PASSWORD = "a-wrong-secret-1"


class Secured(NamedTuple):
    """What is there, with TLS and passwords."""

    broker: Broker
    redis: RedisServer
    ca: Path
    other_ca: Path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    docs = (REPO / "docs" / "delivery.md").read_text()
    (rights,) = [line.strip() for line in docs.splitlines() if line.startswith("user nudge on ")]
    ours, others = certificates(folder / "ours"), certificates(folder / "others")
    acl = ["user default off", rights.replace("PASSWORD", PASSWORD)]
    redis = RedisServer(folder / "redis", acl=acl, tls=ours)
    started(redis)
    broker = Broker(folder / "kafka", tls=ours)
    broker.start()
    for topic, partitions in {"actions.webhook": 3, "events": 3, "dead-letters": 1, "receipts.unmatched": 1}.items():
        broker.create_topic(topic, partitions)
    allow(broker, docs)
    yield Secured(broker, redis, ours / "ca.pem", others / "ca.pem")
    broker.stop()
    redis.stop()


def allow(broker: Broker, docs: str) -> None:
    """Give the user of the guarded listener the rights that *docs* name, and no others."""
    lines = re.findall(
        r"^kafka-acls.*? --operation (\w+) --(topic|group) (\S+) --resource-pattern-type (\w+)$", docs, re.M
    )
    assert len(lines) > 4
    bindings = [
        AclBinding(
            ResourceType[kind.upper()], name, ResourcePatternType[pattern.upper()], "User:nudge", "*",
            AclOperation[operation.upper()], AclPermissionType.ALLOW,
        )
        for operation, kind, name, pattern in lines
    ]  # fmt: skip
    admin = AdminClient(broker.client_config())
    for made in admin.create_acls(bindings).values():
        made.result(30)


def workspace(folder: Path, ca: Path, url: str = "http://127.0.0.1:1") -> Path:
    """Write a `nudge.yaml` without secrets, and return its folder."""
    folder.mkdir(exist_ok=True)
    hook = {"provider": "webhook", "url": url, "private": True, "secret": {"env": "HOOK"}}
    written = {
        "channels": {"webhook": {"deliver": hook}},
        "gateway": {
            "keys": {"web": {"key": {"env": "WRITE_KEY"}}}, "receipts": {"webhook": {"secret": {"env": "CALLBACK"}}},
        },
        "kafka": {
            "security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "nudge",
            "ssl.ca.location": str(ca),
        },
    }  # fmt: skip
    (folder / "nudge.yaml").write_text(yaml.safe_dump(written))
    return folder


def secrets(**others: str) -> dict[str, str]:
    return {
        "HOOK": SECRET, "CALLBACK": CALLBACK, "NUDGE_KAFKA_SASL_PASSWORD": "secret", "NUDGE_REDIS_USER": "nudge",
        "NUDGE_REDIS_PASSWORD": PASSWORD, **others,
    }  # fmt: skip


def at(address: str) -> Any:
    """Return what stands for a broker where only its address counts."""
    return SimpleNamespace(bootstrap=address)


def test_an_action_goes_out_and_its_report_comes_back(secured: Secured, tmp_path: Path) -> None:
    """Whatever the two need of Redis, the user in the docs may do; and both call its keys the same."""
    some = [action(f"a{number}", f"u{number}", to="lina.marked@example.org") for number in range(3)]
    send(secured.broker, "actions.webhook", some)
    ledger = ("--ledger", secured.redis.url)
    with Server(Receiver()) as server:
        workspace(tmp_path, secured.ca, server.url)
        one = Delivery(at(secured.broker.guarded), "", tmp_path, *ledger, "--group", "nudge-deliver", **secrets())
        deadline = time.monotonic() + 60
        while set(receipts(secured.broker, "events")) < {one.action_id for one in some}:
            assert time.monotonic() < deadline, one.tail()
            time.sleep(0.2)
        door = Gateway(at(secured.broker.guarded), "", tmp_path, *ledger, **secrets())
        body = json.dumps({"action_id": some[0].action_id, "status": "delivered"}).encode()
        now = datetime.now(UTC)
        signature = Signer(SECRET).sign("r-1", now, body.decode())
        head = {"webhook-id": "r-1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
        with httpx.Client(base_url=door.url, timeout=30) as client:
            assert client.post(f"/receipts/webhook/{CALLBACK}", content=body, headers=head).status_code == 204
            record = b'{"user_id": "u-17", "event": "add_to_cart", "message_id": "m-1"}'
            said = client.post("/v1/events", content=record, headers={"authorization": f"Bearer {WRITE_KEY}"})
            assert (said.status_code, said.json()) == (200, {"accepted": 1})
            assert client.get("/readyz").status_code == 200
            metrics = client.get("/metrics").text
        assert door.stop() == 0
        assert one.stop() == 0
    events = [json.loads(record.value or b"") for record in secured.broker.read_all("events")]
    assert [one["message_id"] for one in events if one.get("event")] == ["m-1"]
    statuses = {one["message_id"] for one in events if one.get("status")}
    assert statuses == {f"{one.action_id}/accepted" for one in some} | {f"{some[0].action_id}/delivered/r-1"}
    assert secured.broker.read_all("receipts.unmatched") == []
    said = one.log.read_text() + door.log.read_text() + metrics
    assert "delivering" in said
    for hidden in (SECRET, CALLBACK, PASSWORD, WRITE_KEY, "lina.marked", "Lina"):
        assert hidden not in said, hidden


WRONG = {
    "kafka password": ("Invalid username or password", "check sasl.username, sasl.password"),
    "kafka authority": ("certificate verify failed", "check ssl.ca.location under kafka:"),
    "kafka host": ("certificate verify failed: Hostname mismatch", "the certificate is for another host"),
    "redis password": ("AuthenticationError", "check NUDGE_REDIS_USER and NUDGE_REDIS_PASSWORD"),
    "redis authority": ("certificate verify failed", "check ssl_ca_certs in --ledger"),
    "redis host": ("Hostname mismatch", "write the host in --ledger as the certificate has it"),
    "redis group": (
        "NoPermission",
        "give the user of Redis the rights in docs/delivery.md; its keys begin with --group",
    ),
    "redis tls": ("the ledger in Redis: ConnectionError", "write rediss:// in --ledger if this port has TLS"),
}
"""What is wrong, what is said of it, and what to check."""


class Wrong(NamedTuple):
    """Where the two look, with one thing wrong, and what they are given."""

    kafka: str
    folder: Path
    ledger: tuple[str, ...]
    given: dict[str, str]


def wrong(what: str, secured: Secured, folder: Path) -> Wrong:
    system, _, kind = what.partition(" ")
    is_kafka = system == "kafka"
    kafka, ledger, given = secured.broker.guarded, secured.redis.url, secrets()
    ca = secured.ca
    if kind == "password":
        given["NUDGE_KAFKA_SASL_PASSWORD" if is_kafka else "NUDGE_REDIS_PASSWORD"] = WRONG_PASSWORD
    elif kind == "authority" and is_kafka:
        ca = secured.other_ca
    elif kind == "authority":
        ledger = ledger.replace(str(secured.ca), str(secured.other_ca))
    elif kind == "host":
        kafka, ledger = (
            one.replace("127.0.0.1", "localhost") if is_it else one
            for one, is_it in ((kafka, is_kafka), (ledger, not is_kafka))
        )
    elif kind == "tls":
        ledger = ledger.replace("rediss://", "redis://").partition("?")[0]
    group = "other" if kind == "group" else "nudge-deliver"
    return Wrong(kafka, workspace(folder, ca), ("--ledger", ledger, "--group", group), given)


def until_told(one: Any, hint: str) -> str:
    deadline = time.monotonic() + 90
    while hint not in (said := one.log.read_text(errors="replace")):
        assert time.monotonic() < deadline, (hint, said)
        time.sleep(0.1)
    return str(said)


def test_what_is_wrong_is_told_and_what_to_check(secured: Secured, tmp_path: Path) -> None:
    """All of them at a time, as some are tried for a while; no password stands in what they say."""
    there = {what: wrong(what, secured, tmp_path / what.replace(" ", "-")) for what in WRONG}
    running = {what: Delivery(at(one.kafka), "", one.folder, *one.ledger, **one.given) for what, one in there.items()}
    try:
        for what, (said, hint) in WRONG.items():
            found = until_told(running[what], hint)
            assert said in found
            assert WRONG_PASSWORD not in found
            if what == "redis tls":  # It may be a Redis that starts: that is waited for.
                assert running[what].process.poll() is None
            else:
                assert running[what].process.wait(timeout=60) == 1, what
    finally:
        for one in running.values():
            one.kill()


def test_the_gateway_tells_it_too(secured: Secured, tmp_path: Path) -> None:
    one = wrong("kafka host", secured, tmp_path / "kafka")
    door = Gateway(at(one.kafka), "", one.folder, *one.ledger, **one.given)
    assert "Hostname mismatch" in until_told(door, "the certificate is for another host")
    with httpx.Client(base_url=door.url, timeout=30) as client:
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "the certificate is for another host" in ready.text
        assert client.get("/healthz").status_code == 200, "it waits for Kafka"
    assert door.stop() == 0
    one = wrong("redis password", secured, tmp_path / "redis")
    with pytest.raises(AssertionError, match="check NUDGE_REDIS_USER and NUDGE_REDIS_PASSWORD") as ended:
        Gateway(at(one.kafka), "", one.folder, *one.ledger, **one.given)
    assert WRONG_PASSWORD not in str(ended.value)


@pytest.mark.parametrize(("what", "code"), [("password", "_authentication"), ("authority", "_ssl")])
def test_a_push_to_a_kafka_that_lets_nobody_in_stops_its_channel_and_rejects_nothing(
    secured: Secured, tmp_path: Path, what: str, code: str
) -> None:
    secured.broker.create_topic(f"pushed-{what}", 1)
    given = {
        "security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "nudge",
        "sasl.password": WRONG_PASSWORD if what == "password" else "secret",
        "ssl.ca.location": str(secured.other_ca if what == "authority" else secured.ca),
    }  # fmt: skip
    settings = KafkaSettings(bootstrap=secured.broker.guarded, topic=f"pushed-{what}", options=given)
    push = KafkaPush(settings, Surroundings(lambda: 0, lambda: "", tmp_path, 2.0))

    async def call() -> Answer:
        try:
            return await push.call(action("a"))
        finally:
            await push.close()

    answer = asyncio.run(call())
    assert (answer.kind, answer.code) == (CONFIG, code)
    assert WRONG_PASSWORD not in answer.detail
