"""The API of Segment: its own clients work when pointed here, and the job reads what they sent."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.formats.decoding import Settings
from connectors.formats.segment import decoder
from connectors.kafka_writer import WriteFailed
from dataflow.gateway.segment import PATHS
from state.iso import format_ms
from state.records import EVENT, IDENTIFY, IGNORED, Record
from tests.gateway.doors import NOW_MS, SEGMENT_KEY, WRITE_KEY, Door, Gateway
from tests.gateway.sdks import node_sdk, python_sdk
from tests.jobs import REPO
from tests.kafka.broker import KafkaTopics

KEYS = {"app": {"key": {"env": "SEGMENT_KEY"}, "format": "segment"}, "web": {"key": {"env": "WRITE_KEY"}}}
CALL = {"userId": "u-17", "event": "Seen", "messageId": "m-1", "timestamp": "2026-11-23T08:00:00.123Z"}
BASIC = {"authorization": "Basic " + base64.b64encode(f"{SEGMENT_KEY}:".encode()).decode()}


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Door:
    return Door(monkeypatch, tmp_path, keys=KEYS)


def posted(door: Door, path: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = headers or BASIC
    found: httpx.Response = door.ask(lambda client: client.post(f"/v1/{path}", content=content, headers=head))
    return found


def stored(door: Door) -> list[tuple[str, Any, dict[str, Any]]]:
    return [(topic, key, json.loads(value)) for topic, key, value in door.broker.stored]


@pytest.mark.parametrize("path", [path for path, call in PATHS.items() if call != "batch"])
def test_the_path_says_which_call_it_is_and_nothing_else_is_changed(door: Door, path: str) -> None:
    answer = posted(door, path, {**CALL, "writeKey": "x", "more": [1, {"a": None}]})
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    whole = {**CALL, "more": [1, {"a": None}], "type": PATHS[path], "receivedAt": format_ms(NOW_MS)}
    assert stored(door) == [("events", "u-17", whole)]


@pytest.mark.parametrize("path", ["batch", "b", "import"])
def test_a_batch_becomes_one_record_per_call_with_what_it_says_of_all(door: Door, path: str) -> None:
    calls: list[Any] = [
        {"type": "track", **CALL, "context": {"app": "own"}}, {"type": "page", "anonymousId": "a-1", "sentAt": "own"},
        {"type": "track", "event": "Nobody"}, 7, {"type": "identify", "userId": "u" * 300, "context": None},
    ]  # fmt: skip
    body = {"batch": calls, "sentAt": "2026-11-23T08:00:01Z", "context": {"app": "all"}, "writeKey": SEGMENT_KEY}
    answer = posted(door, path, body)
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    found = stored(door)
    assert [key for _, key, _ in found] == ["u-17", "a-1", None, None, None]
    both = {"receivedAt": format_ms(NOW_MS), "sentAt": "2026-11-23T08:00:01Z"}
    assert found[0][2] == {**calls[0], **both}
    assert found[1][2] == {**calls[1], "context": {"app": "all"}, "receivedAt": format_ms(NOW_MS)}
    assert found[3][2] == 7
    assert found[4][2]["context"] == {"app": "all"}
    assert "writeKey" not in str(found)


def test_a_clock_that_is_wrong_is_put_right_by_what_is_added(door: Door) -> None:
    call = {"type": "track", "userId": "u", "event": "x", "originalTimestamp": "2020-01-01T00:00:00Z"}
    posted(door, "batch", {"batch": [call], "sentAt": "2020-01-01T00:00:10Z"})
    (read,) = [decoder(Settings())(value, ()) for _, _, value in door.broker.stored]
    assert isinstance(read, Record)
    assert read.at_ms == NOW_MS - 10_000


def test_a_page_that_may_send_no_header_has_its_key_in_the_body(door: Door) -> None:
    assert posted(door, "t", {**CALL, "writeKey": SEGMENT_KEY}, content_type="text/plain").status_code == 200
    refused = posted(door, "t", {**CALL, "writeKey": "wrong"}, content_type="text/plain")
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_write_key")


@pytest.mark.parametrize("user", ["", "wrong", "wrong:", f"x{SEGMENT_KEY}:"])
def test_with_a_wrong_key_nothing_is_stored(door: Door, user: str) -> None:
    head = {"authorization": "Basic " + base64.b64encode(user.encode()).decode()}
    assert posted(door, "track", CALL, **head).status_code == 401
    assert posted(door, "track", CALL, authorization="Basic !").status_code == 401
    assert door.broker.stored == []


def test_a_key_of_another_format_is_told_so(door: Door) -> None:
    answer = posted(door, "track", {**CALL, "writeKey": WRITE_KEY}, x="y")
    assert (answer.status_code, answer.json()["code"]) == (403, "wrong_format")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("track", b"{", 400, "not_json"), ("track", b"[]", 400, "not_an_object"), ("batch", {"a": 1}, 400, "no_batch"),
        ("batch", {"batch": [1] * 10_001}, 413, "too_many"), ("track", {"a": "x" * 1_100_000}, 413, "too_large"),
        ("track", b'{"a":' + b"[" * 70 + b"]" * 70 + b"}", 400, "too_deep"),
        ("track", b" " * 5_300_000, 413, "too_large"),
    ],
    ids=lambda value: None if isinstance(value, bytes | dict) else str(value),
)  # fmt: skip
def test_what_segment_refuses_is_refused(door: Door, path: str, body: Any, status: int, code: str) -> None:
    answer = posted(door, path, body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert door.broker.stored == []


def test_without_kafka_clients_are_asked_to_come_again(door: Door) -> None:
    door.broker.fails = lambda place, value: WriteFailed("away")
    answer = posted(door, "track", CALL)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def read_back(broker: KafkaTopics, topic: str) -> dict[str, Record]:
    """Return what the job reads on *topic*, by the name of the event or the kind."""
    found = {}
    for record in broker.read_all(topic):
        value = record.value or b""
        one = decoder(Settings(any_user=True))(value, ())
        assert isinstance(one, Record), one
        assert one.kind == IGNORED or (record.key or b"").decode() == one.user_id
        found[one.name or json.loads(value)["type"]] = one
    return found


@pytest.mark.kafka
@pytest.mark.timeout(420)
@pytest.mark.parametrize("sdk", ["python", "node"])
def test_segments_own_client_works_when_pointed_here(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path, sdk: str
) -> None:
    broker.create_topic(f"{topic_prefix}events", 3)
    (tmp_path / "nudge.yaml").write_text(json.dumps({"gateway": {"keys": KEYS}}))
    one = Gateway(broker, topic_prefix, tmp_path)
    if sdk == "python":
        command = [sys.executable, "-m", "tests.gateway.segment_sdk", str(python_sdk())]
    else:
        command = ["node", "tests/gateway/segment.mjs", str(node_sdk())]
    done = subprocess.run(
        [*command, one.url, SEGMENT_KEY], cwd=REPO, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr, one.tail())
    assert one.stop() == 0
    found = read_back(broker, f"{topic_prefix}events")
    assert {name: one.kind for name, one in found.items()} == {
        "Product Added": EVENT, "identify": IDENTIFY, "page": EVENT, "screen": EVENT, "group": IGNORED,
        "alias": IGNORED, "Seen": EVENT, "Bare": EVENT, **({"Numbered": EVENT} if sdk == "python" else {}),
    }  # fmt: skip
    added = found["Product Added"]
    assert (added.user_id, added.properties["sku"], added.at_ms) == ("u-17", "A-1", 1_795_420_800_123)
    assert found["identify"].traits == {"plan": "gold", "phone": None}
    assert found["page"].properties["category"] == "Shop"
    assert found["Seen"].user_id == "anon-1"
    assert all(one.received_ms for one in found.values())
