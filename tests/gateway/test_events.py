"""`POST /v1/events`: what is taken is stored as it came, what is not is told one by one."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.kafka_writer import WriteFailed
from dataflow.errors import UsageError
from dataflow.gateway.config import read_gateway
from dataflow.gateway.http import Held
from tests.gateway.doors import SEGMENT_KEY, WRITE_KEY, Door

EVENT = {"user_id": "u-1", "event": "add_to_cart"}


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Door:
    return Door(monkeypatch, tmp_path)


def dumped(*records: Any) -> bytes:
    return b"\n".join(json.dumps(one).encode() for one in records)


def test_one_record_is_stored_byte_for_byte_under_its_user(door: Door) -> None:
    body = b'{ "user_id": "u-1", "event": "add_to_cart", "n": 1.50 }'
    answer = door.post("/v1/events", body)
    assert (answer.status_code, answer.json()) == (200, {"accepted": 1})
    assert door.broker.stored == [("events", "u-1", body)]


@pytest.mark.parametrize(
    "kind", ["application/json", "application/x-ndjson", "text/plain", "application/json; charset=utf-8"]
)
def test_lines_are_taken_under_any_of_the_types(door: Door, kind: str) -> None:
    answer = door.post("/v1/events", dumped(EVENT, {**EVENT, "user_id": "u-2"}) + b"\n\n", content_type=kind)
    assert (answer.status_code, answer.json()) == (200, {"accepted": 2})
    assert [key for _, key, _ in door.broker.stored] == ["u-1", "u-2"]


def test_of_a_list_the_good_ones_are_taken_and_each_bad_one_is_told(door: Door) -> None:
    bad: list[Any] = [
        {"event": "x"}, {"user_id": "u"}, {**EVENT, "timestamp": "soon"}, {**EVENT, "properties": 3}, 7,
        {**EVENT, "properties": {"a": "x" * 1_100_000}}, {**EVENT, "properties": {"a": nested(64)}},
    ]  # fmt: skip
    answer = door.post("/v1/events", json.dumps([EVENT, *bad, EVENT]).encode())
    assert answer.status_code == 400
    said = answer.json()
    assert said["accepted"] == 2 == len(door.broker.stored)
    assert [(one["index"], one["reason"]) for one in said["errors"]] == [
        (1, "no_user"), (2, "no_event"), (3, "bad_time"), (4, "bad_type"), (5, "not_an_object"), (6, "too_large"),
        (7, "too_deep"),
    ]  # fmt: skip
    assert said["errors"][0]["detail"] == "`user_id` is missing, null or empty"


def nested(levels: int) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


def test_among_lines_too_a_bad_one_takes_nobody_with_it(door: Door) -> None:
    answer = door.post("/v1/events", dumped(EVENT) + b"\n{\n" + dumped(EVENT), content_type="application/x-ndjson")
    assert (answer.status_code, answer.json()["accepted"], answer.json()["errors"][0]["reason"]) == (400, 2, "not_json")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "not_json"), (b'"x"', "not_an_object"), (b"[" * 500 + b"]" * 500, "too_deep"),
        (b"[" * 2000 + b"]" * 2000, "too_deep"),
    ],
)  # fmt: skip
def test_what_is_no_record_at_all_is_told_as_a_dead_letter_would(door: Door, body: bytes, reason: str) -> None:
    answer = door.post("/v1/events", body)
    assert (answer.status_code, answer.json()["errors"][0]["reason"]) == (400, reason)


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", {}, 400, "empty"),
        (b"x" * (5 * 1024 * 1024 + 1), {}, 413, "too_large"),
        (b'{"user_id": "u", "event": "%s"}' % (b"x" * 1024 * 1024), {}, 413, "too_large"),
        (b"{}\n" * 10_001, {}, 413, "too_many"),
        (b"[" + b"1," * 10_001 + b"1]", {}, 413, "too_many"),
        (b"{}", {"content_type": "application/xml"}, 415, "wrong_type"),
        (b"{}", {"content_encoding": "br"}, 415, "wrong_encoding"),
        (b"{}", {"content_encoding": "gzip"}, 400, "not_gzip"),
        (gzip.compress(b"{}", mtime=0)[:-3], {"content_encoding": "gzip"}, 400, "not_gzip"),
        (gzip.compress(b"{}", mtime=0) + b"x", {"content_encoding": "gzip"}, 400, "not_gzip"),
        (gzip.compress(b" " * 50_000_000, mtime=0), {"content_encoding": "gzip"}, 413, "too_large"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value),
)  # fmt: skip
def test_a_body_out_of_bounds_is_refused(door: Door, body: bytes, headers: Any, status: int, code: str) -> None:
    answer = door.post("/v1/events", body, **headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert door.broker.stored == []


def test_a_packed_body_is_taken(door: Door) -> None:
    answer = door.post("/v1/events", gzip.compress(dumped(EVENT)), content_encoding="gzip")
    assert answer.json() == {"accepted": 1}


@pytest.mark.parametrize(
    "head", [{}, {"authorization": "Bearer "}, {"authorization": "Bearer wrong"}, {"authorization": WRITE_KEY}]
)
def test_without_one_of_our_keys_nothing_is_taken(door: Door, head: dict[str, str]) -> None:
    answer = door.ask(lambda client: client.post("/v1/events", json=EVENT, headers=head))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert door.broker.stored == []


def test_each_key_has_its_topic_its_format_and_its_kinds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = {
        "web": {"key": {"env": "WRITE_KEY"}, "kinds": ["event", "identify"]},
        "app": {"key": {"env": "SEGMENT_KEY"}, "topic": "app-events", "format": "segment"},
    }
    door = Door(monkeypatch, tmp_path, keys=keys)
    receipt = {"user_id": "u", "action_id": "a", "status": "delivered"}
    answer = door.post("/v1/events", dumped(EVENT, receipt, {"user_id": "u", "audience": "vip", "member": True}))
    assert [one["detail"] for one in answer.json()["errors"]] == [
        "this write key sends no receipts", "this write key sends no memberships",
    ]  # fmt: skip
    call = {"type": "track", "userId": "u-9", "event": "Seen"}
    assert door.post("/v1/events", dumped(call), SEGMENT_KEY).json() == {"accepted": 1}
    assert door.post("/v1/events", dumped(EVENT), SEGMENT_KEY).json()["errors"][0]["reason"] == "no_user"
    assert [(topic, key) for topic, key, _ in door.broker.stored] == [("events", "u-1"), ("app-events", "u-9")]


def test_a_key_that_is_replaced_works_beside_the_new_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    door = Door(monkeypatch, tmp_path, keys={"web": {"key": [{"env": "WRITE_KEY"}, {"env": "SEGMENT_KEY"}]}})
    for key in (WRITE_KEY, SEGMENT_KEY):
        assert door.post("/v1/events", dumped(EVENT), key).status_code == 200


def test_a_key_under_two_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "the-first-write-key")
    monkeypatch.setenv("TWO", "the-second-write-key")
    keys = {"web": {"key": {"env": "ONE"}}, "app": {"key": [{"env": "TWO"}, {"env": "ONE"}]}}
    with pytest.raises(UsageError, match=r"gateway\.keys: web and app have the same key"):
        read_gateway({"keys": keys}, Path())


def test_a_key_has_its_rate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    door = Door(monkeypatch, tmp_path, keys={"web": {"key": {"env": "WRITE_KEY"}, "rate": "10/s"}})
    head = {"authorization": f"Bearer {WRITE_KEY}"}

    async def work(client: httpx.AsyncClient) -> list[tuple[int, str]]:
        found = []
        for clock, count in ((0.0, 8), (0.0, 22), (0.0, 1), (1.9, 1), (2.2, 1)):
            door.clock = clock
            answer = await client.post("/v1/events", content=dumped(*[EVENT] * count), headers=head)
            found.append((answer.status_code, answer.headers.get("retry-after", "")))
        return found

    assert door.ask(work) == [(200, ""), (200, ""), (429, "3"), (429, "1"), (200, "")]


def test_what_the_broker_has_not_acknowledged_is_never_called_a_success(door: Door) -> None:
    door.broker.fails = lambda place, value: WriteFailed("away") if place == 1 else None
    answer = door.post("/v1/events", dumped(EVENT, EVENT, {}, EVENT))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    said = answer.json()
    assert (said["code"], said["accepted"]) == ("unavailable", 2)
    assert [(one["index"], one["reason"]) for one in said["errors"]] == [(1, "unavailable"), (2, "no_user")]


def test_what_the_broker_will_never_take_is_not_to_be_sent_again(door: Door) -> None:
    door.broker.fails = lambda place, value: WriteFailed("too large", is_refused=True)
    answer = door.post("/v1/events", dumped(EVENT))
    assert (answer.status_code, answer.json()["errors"][0]["reason"]) == (400, "too_large")


def test_bodies_of_open_requests_are_bounded_all_together(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataflow.gateway.app.Held", lambda: Held(117))

    async def slow() -> Any:
        yield b'{"user_id": "u-1", '
        await asyncio.sleep(0.2)
        yield b'"event": "x", "properties": {"a": "' + b"x" * 50 + b'"}}'

    async def work(client: httpx.AsyncClient) -> list[int]:
        head = {"authorization": f"Bearer {WRITE_KEY}"}
        both = [client.post("/v1/events", content=slow(), headers=head) for _ in range(2)]
        answers = await asyncio.gather(*both)
        again = await client.post("/v1/events", json=EVENT, headers=head)
        return [*sorted(one.status_code for one in answers), again.status_code]

    assert door.ask(work) == [200, 503, 200]


def test_pages_of_the_origins_that_are_named_may_post(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    door = Door(monkeypatch, tmp_path, cors=["https://shop.example.com"])

    def asked(origin: str) -> httpx.Response:
        head = {"origin": origin, "access-control-request-method": "POST"}
        head["access-control-request-headers"] = "authorization,content-type"
        found: httpx.Response = door.ask(lambda client: client.options("/v1/events", headers=head))
        return found

    ours = asked("https://shop.example.com")
    assert (ours.status_code, ours.headers["access-control-allow-origin"]) == (200, "https://shop.example.com")
    assert asked("https://evil.example.com").status_code == 400
    answer = door.post("/v1/events", dumped(EVENT), origin="https://shop.example.com")
    assert answer.headers["access-control-allow-origin"] == "https://shop.example.com"
    assert "access-control-allow-origin" not in door.post("/v1/events", b"{", origin="https://evil.example.com").headers


def test_it_lives_without_kafka_and_is_ready_with_it(door: Door) -> None:
    async def work(client: httpx.AsyncClient) -> list[int]:
        found = [(await client.get("/healthz")).status_code, (await client.get("/readyz")).status_code]
        door.broker.away = True
        found.append((await client.get("/readyz")).status_code)
        door.clock = 3.0
        found += [(await client.get("/readyz")).status_code, (await client.get("/healthz")).status_code]
        return found

    assert door.ask(work) == [200, 200, 200, 503, 200]


def test_what_happens_is_counted(door: Door) -> None:
    async def work(client: httpx.AsyncClient) -> str:
        head = {"authorization": f"Bearer {WRITE_KEY}"}
        await client.post("/v1/events", content=dumped(EVENT, EVENT, {}), headers=head)
        await client.post("/nowhere")
        return (await client.get("/metrics")).text

    text = door.ask(work)
    for line in (
        'nudge_gateway_requests_total{path="/v1/events",status="400"} 1.0',
        'nudge_gateway_requests_total{path="other",status="404"} 1.0',
        'nudge_gateway_records_total{key="web"} 2.0',
        'nudge_gateway_rejected_total{key="web",reason="no_user"} 1.0',
        "nudge_gateway_held_bytes 0.0",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"key": "plain"}, r"gateway.keys.web.key: a secret stands elsewhere"),
        ({"key": {"env": "SHORT"}}, r"gateway.keys.web.key: a secret has 16 characters"),
        ({"rate": "fast"}, r"gateway.keys.web.rate: 'fast' is not a rate"),
        ({"format": "xml"}, r"gateway.keys.web.format: there is no format xml"),
        ({"kinds": ["all"]}, r"gateway.keys.web.kinds: 'all' is no kind"),
        ({"port": 1}, r"gateway.keys.web.port: it is not known here"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused_at_their_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: Any, said: str
) -> None:
    monkeypatch.setenv("WRITE_KEY", WRITE_KEY)
    monkeypatch.setenv("SHORT", "short")
    with pytest.raises(UsageError, match=said):
        read_gateway({"keys": {"web": {"key": {"env": "WRITE_KEY"}, **written}}}, tmp_path)
