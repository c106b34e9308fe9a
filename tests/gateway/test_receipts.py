"""What providers report: a receipt where the ledger knows the action, else kept and tried again for a day."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook as Signer

from connectors.channels.base import Callback, NotTheirs, Reply, Report, Surroundings
from connectors.channels.sendgrid import Sendgrid, SendgridSettings
from connectors.kafka_writer import WriteFailed
from connectors.ledgers.base import LedgerAway, Note, ToBegin, ToSettle
from connectors.ledgers.sqlite import SqliteLedger
from dataflow.gateway.receipts import Receipts, Reporting, Unmatched, receipt_of
from dataflow.gateway.unmatched import PAUSE_MAX_MS, TRIED_MS, Held, Waiting, is_over
from dataflow.logs import get_logger
from state.delivery import ACCEPTED, REJECTED, Outcome
from state.iso import format_ms
from tests.delivery.actions import action
from tests.gateway.doors import NOW_MS, Door, Gateway
from tests.kafka.broker import KafkaTopics
from tests.providers.sendgrid import event, posted, public_key

SECRET = "secret-of-the-callback-1"
HOOK = "whsec_" + base64.b64encode(b"k" * 24).decode()
DONE = action("done").action_id


class Provider:
    """Reports what the body says, and keeps what it was called with."""

    def __init__(self) -> None:
        self.came: list[Callback] = []

    def callback(self, came: Callback) -> Reply:
        self.came.append(came)
        if came.body == b"forged":
            raise NotTheirs("the signature is wrong")
        reports = [Report(**one) for one in json.loads(came.body or b"[]")]
        return Reply(reports, 200, came.query.get("echostr", '{"code":0}').encode(), "application/json")


class NoLedger:
    async def note(self, notes: Sequence[Note], now: int) -> Any:
        raise LedgerAway("away")

    async def find(self, provider_id: str) -> Any:
        raise LedgerAway("away")


async def settled(ledger: SqliteLedger, name: str, user: str, provider_id: str = "") -> None:
    """Note that an action was accepted, as `nudge deliver` does."""
    action_id = action(name).action_id
    outcome = Outcome(ACCEPTED, NOW_MS, provider_id=provider_id)
    notes: list[Note] = [ToBegin(action_id, 1, user, 1000), ToSettle(action_id, 1, user, outcome)]
    for note in notes:
        (noted,) = await ledger.note([note], NOW_MS)
        assert noted.is_taken


class World:
    def __init__(self, door: Door, folder: Path) -> None:
        self.door = door
        self.provider: Any = Provider()
        self.ledger: Any = SqliteLedger(folder / "ledger.db", "sms", "deliver")
        asyncio.run(settled(self.ledger, "done", "u-17", "biz-1"))

    def report(
        self,
        *reports: Mapping[str, Any],
        path: str = f"/receipts/sms/{SECRET}",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        reporting = Reporting(self.door.settings.receipts["sms"], self.provider, self.ledger)

        async def work(client: httpx.AsyncClient) -> httpx.Response:
            return await client.post(path, content=body or json.dumps(reports).encode(), headers=headers)

        def more() -> Any:
            receipts = Receipts(
                {"sms": reporting}, self.door.broker, "events", "receipts.unmatched",  # type: ignore[arg-type]
                self.door.settings.url or "", self.door.metrics, lambda: NOW_MS, get_logger(),
            )  # fmt: skip
            return [("/receipts", "/receipts/{channel}/{secret}", receipts.handle, ("GET", "POST"))]

        self.door.more_of = more
        found: httpx.Response = self.door.ask(work)
        return found

    def stored(self) -> list[tuple[str, Any, dict[str, Any]]]:
        return [(topic, key, json.loads(value)) for topic, key, value in self.door.broker.stored]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    monkeypatch.setenv("CALLBACK", SECRET)
    settings = {"receipts": {"sms": {"secret": {"env": "CALLBACK"}}}, "url": "https://door.example.com/"}
    return World(Door(monkeypatch, tmp_path, **settings), tmp_path)


@pytest.mark.parametrize(
    "by", [{"action_id": DONE}, {"provider_id": "biz-1"}, {"action_id": "x", "provider_id": "biz-1"}]
)
def test_a_report_on_a_known_action_is_a_receipt_of_its_user(world: World, by: dict[str, str]) -> None:
    one = {**by, "status": "delivered", "code": "DELIVERED", "event_id": "e-1", "at_ms": NOW_MS - 5000}
    answer = world.report(one)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (
        200, b'{"code":0}', "application/json",
    )  # fmt: skip
    receipt = {
        "action_id": DONE, "user_id": "u-17", "status": "delivered", "code": "DELIVERED", "detail": "",
        "message_id": f"{DONE}/delivered/e-1", "timestamp": format_ms(NOW_MS - 5000),
    }  # fmt: skip
    assert world.stored() == [("events", "u-17", receipt)]


def test_a_report_that_would_be_a_second_outcome_is_no_receipt(world: World) -> None:
    rejected = ToSettle("r", 0, "u", Outcome(REJECTED, NOW_MS, "given_up"))
    asyncio.run(world.ledger.note([rejected], NOW_MS))
    assert world.report({"action_id": "r", "status": ACCEPTED}, {"action_id": "r", "status": "delivered"}).is_success
    assert [(topic, one["status"]) for topic, _, one in world.stored()] == [("events", "delivered")]


def test_the_provider_sees_the_request_as_it_was_made(world: World) -> None:
    answer = world.report(path=f"/receipts/sms/{SECRET}?a=1&echostr=e%20f&b=", body=b"[]")
    assert answer.content == b"e f"
    (came,) = world.provider.came
    assert (came.method, came.query, came.body) == ("POST", {"a": "1", "echostr": "e f", "b": ""}, b"[]")
    assert came.url == f"https://door.example.com/receipts/sms/{SECRET}?a=1&echostr=e%20f&b="
    assert came.headers["host"] == "door"


def test_what_fits_no_action_yet_is_kept_and_answered_as_a_success(world: World) -> None:
    reports = [{"provider_id": "biz-2", "status": "delivered"}, {"provider_id": "biz-1", "status": "opened"}]
    assert world.report(*reports).status_code == 200
    (receipt, kept) = world.stored()
    assert receipt[:2] == ("events", "u-17")
    assert kept[:2] == ("receipts.unmatched", "biz-2")
    assert (kept[2]["channel"], kept[2]["since_ms"], kept[2]["status"]) == ("sms", NOW_MS, "delivered")


def test_events_of_sendgrid_are_receipts_of_what_we_have_sent_and_are_taken_from_nobody_else(world: World) -> None:
    written = {
        "key": {"env": "KEY"}, "from": "news@acme.example", "unsubscribe": False, "verification_key": public_key(),
    }  # fmt: skip
    settings = SendgridSettings.model_validate(written, context={"environment": {"KEY": "SG.key"}})
    world.provider = Sendgrid(settings, Surroundings(lambda: NOW_MS, lambda: "n", Path(), 1.0))
    asyncio.run(settled(world.ledger, "other", "u-18", "id-2_A"))
    events = [event("processed", DONE), event("bounce", None, number=2), event("open", None, number=3)]
    body = json.dumps(events).encode()
    head = posted(body, NOW_MS // 1000)
    assert world.report(body=body + b" ", headers=head).status_code == 401
    assert world.stored() == []
    assert world.report(body=body, headers=head).status_code == 204
    first, second, kept = world.stored()
    assert (first[:2], first[2]["message_id"]) == (("events", "u-17"), f"{DONE}/accepted")
    other = action("other").action_id
    assert (second[:2], second[2]["message_id"]) == (("events", "u-18"), f"{other}/failed/ev-bounce")
    assert (kept[:2], kept[2]["status"]) == (("receipts.unmatched", "id-3_A"), "opened")


def test_without_the_ledger_every_report_is_kept(world: World) -> None:
    world.ledger = NoLedger()
    assert world.report({"action_id": DONE, "status": "delivered"}).status_code == 200
    assert [topic for topic, _, _ in world.stored()] == ["receipts.unmatched"]


def test_what_cannot_be_stored_is_to_be_reported_again(world: World) -> None:
    world.door.broker.fails = lambda place, value: WriteFailed("away")
    answer = world.report({"action_id": DONE, "status": "delivered"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"/receipts/sms/{SECRET}", b"forged", 401), (f"/receipts/sms/{SECRET}", b"{", 400),
        (f"/receipts/email/{SECRET}", b"[]", 404), (f"/receipts/sms/{SECRET}x", b"[]", 404),
        ("/receipts/sms", b"[]", 404),
        (f"/receipts/sms/{SECRET}", b" " * 1_100_000, 413),
    ],
    ids=["forged", "unreadable", "channel", "secret", "none", "large"],
)  # fmt: skip
def test_what_is_not_theirs_is_not_taken(world: World, path: str, body: bytes, status: int) -> None:
    assert world.report(path=path, body=body).status_code == status
    assert world.door.broker.stored == []


def test_ids_and_texts_of_any_length_make_a_receipt_that_the_job_takes() -> None:
    report = Unmatched("sms", 0, "delivered", 0, event_id="e" * 5000)
    user, value = receipt_of(report, DONE, "u")
    told = json.loads(value)["message_id"]
    digest = hashlib.blake2b(b"e" * 5000, digest_size=16).hexdigest()
    assert (user, told) == ("u", f"{DONE}/delivered/{digest}")


def test_a_report_is_tried_after_a_second_then_ever_less_often_and_for_a_day() -> None:
    waiting, at, tried = Waiting(), 0, []
    one = Held(("t", 0), 1, Unmatched("sms", 0, "delivered", 0))
    waiting.put(one, 0)
    while not is_over(one.report, at):
        at += 100
        for due in waiting.due(at):
            tried.append(at)
            waiting.put(due, at)
    assert tried[:5] == [1000, 2000, 4000, 8000, 16000]
    assert max(late - early for early, late in pairwise(tried)) == PAUSE_MAX_MS
    assert TRIED_MS - PAUSE_MAX_MS < tried[-1] <= TRIED_MS
    assert len(tried) < 170


def test_what_others_read_from_now_on_is_not_tried_here() -> None:
    waiting = Waiting()
    for part in (0, 1):
        waiting.put(Held(("t", part), 1, Unmatched("sms", 0, "delivered", 0)), 0)
    waiting.drop({("t", 0)})
    assert [one.part for one in waiting.due(5000)] == [("t", 1)]


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_a_report_that_is_faster_than_the_ledger_becomes_a_receipt_also_when_the_gateway_is_killed(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    for topic in ("events", "receipts.unmatched"):
        broker.create_topic(f"{topic_prefix}{topic}", 2)
    deliver = {"provider": "webhook", "url": "https://shop.example.com", "secret": {"env": "HOOK"}}
    workspace = {
        "channels": {"webhook": {"deliver": deliver}},
        "gateway": {"receipts": {"webhook": {"secret": {"env": "CALLBACK"}}}},
    }
    (tmp_path / "nudge.yaml").write_text(json.dumps(workspace))
    ledger = SqliteLedger(tmp_path / "ledger.db", "webhook", "deliver")

    def start() -> Gateway:
        return Gateway(broker, topic_prefix, tmp_path, "--group", topic_prefix, CALLBACK=SECRET, HOOK=HOOK)

    def report(one: Gateway, name: str, status: str) -> int:
        body = json.dumps({"action_id": action(name).action_id, "status": status})
        now = time.time()
        signature = Signer(HOOK).sign("m", datetime.fromtimestamp(int(now), UTC), body)
        head = {"webhook-id": "m", "webhook-timestamp": str(int(now)), "webhook-signature": signature}
        return httpx.post(f"{one.url}/receipts/webhook/{SECRET}", content=body, headers=head).status_code

    def receipts() -> list[tuple[str, str, str]]:
        found = [json.loads(record.value or b"") for record in broker.read_all(f"{topic_prefix}events")]
        return [(one["action_id"], one["user_id"], one["status"]) for one in found]

    one = start()
    assert report(one, "early", "delivered") == 204
    assert httpx.post(f"{one.url}/receipts/webhook/{SECRET}", content=b"{}").status_code == 401
    assert receipts() == []
    one.kill()
    one = start()
    asyncio.run(settled(ledger, "early", "u-1"))
    asyncio.run(settled(ledger, "later", "u-2"))
    assert report(one, "later", "opened") == 204
    wanted = {(action("early").action_id, "u-1", "delivered"), (action("later").action_id, "u-2", "opened")}
    deadline = time.monotonic() + 90
    while set(receipts()) != wanted:
        assert time.monotonic() < deadline, (receipts(), one.tail())
        time.sleep(0.5)
    assert httpx.get(f"{one.url}/readyz").status_code == 200
    assert one.stop() == 0, one.tail()
    one = start()
    time.sleep(3)
    assert one.stop() == 0
    assert len(receipts()) == 2, "what was matched is not tried again"
    assert sqlite3.connect(tmp_path / "ledger.db").execute("SELECT count(*) FROM actions").fetchone() == (2,)
