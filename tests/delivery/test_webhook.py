"""The webhook channel signs as the standard says, and knows what every answer means."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from connectors.channels.addresses import is_public
from connectors.channels.base import Callback, Surroundings
from connectors.channels.webhook import Webhook, WebhookSettings, keys_of, qa_signature, signed
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, UNKNOWN, Answer
from tests.delivery.actions import action
from tests.providers.server import HALF, HANGS, HANGS_UP, NONSENSE, Response, Server
from tests.providers.webhook import SECRET, Receiver

NOW_MS = 1_795_420_800_123


def settings(url: str, **more: Any) -> WebhookSettings:
    given = {"url": url, "secret": {"env": "HOOK"}, "private": True, **more}
    return WebhookSettings.model_validate(given, context={"environment": {"HOOK": SECRET}})


def around(now_ms: int = NOW_MS, timeout_s: float = 0.5) -> Surroundings:
    return Surroundings(lambda: now_ms, lambda: "2e6eceb5737b473284c930c8ef79090e", Path(), timeout_s)


def called(url: str, *names: str, **more: Any) -> list[Answer]:
    """Return what comes of calling *url* with some actions, one after the other."""

    async def call() -> list[Answer]:
        hook = Webhook(settings(url, **more), around())
        found = [await hook.call(action(name)) for name in names or ("a",)]
        await hook.close()
        return found

    return asyncio.run(call())


def test_the_signature_is_that_of_the_standard() -> None:
    keys = keys_of(settings("http://x").secret)
    made = signed(keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_while_a_secret_is_replaced_both_sign() -> None:
    first, second = signed([b"k" * 24, b"n" * 24], "id", 1, b"x").split()
    assert (first, second) == (signed([b"k" * 24], "id", 1, b"x"), signed([b"n" * 24], "id", 1, b"x"))


def test_the_signature_of_quick_audience_is_of_the_three_texts_in_order() -> None:
    made = qa_signature("123456789", "1631865523", "2e6eceb5737b473284c930c8ef79090e")
    assert made == "459fa2f7e79389c337e6b2077538fb9408241e79715b2f40dfa6c2757e2ecce8"


@pytest.mark.parametrize("secret", ["whsec_short", "whsec_" + "A" * 200, "whsec_no base64!"])
def test_a_secret_that_is_none_is_refused(secret: str) -> None:
    read = WebhookSettings.model_validate(
        {"url": "http://x", "secret": {"env": "HOOK"}}, context={"environment": {"HOOK": secret}}
    )
    with pytest.raises(ValueError, match="secret of a webhook"):
        Webhook(read, around())


def test_a_receiver_can_verify_it_and_finds_the_whole_action() -> None:
    seen = []

    def handle(request: Any) -> Response:
        seen.append(request)
        return Response(204)

    with Server(handle) as server:
        (answer,) = called(f"{server.url}/hook?x=1", qa_key={"env": "HOOK"})
    assert answer == Answer(OK, "http_204")
    (request,) = seen
    said = json.loads(request.body)
    assert (said["type"], said["timestamp"]) == ("action.webhook", "2026-11-23T08:30:00.000Z")
    assert said["data"]["vars"] == {"name": "Lina"}
    assert request.headers["webhook-id"] == said["data"]["action_id"] == action("a").action_id
    assert request.headers["webhook-timestamp"] == "1795420800"
    keys = keys_of(settings("http://x").secret)
    assert request.headers["webhook-signature"] == signed(keys, action("a").action_id, 1795420800, request.body)
    assert request.query == {"x": "1", "timestamp": "1795420800", "nonce": "2e6eceb5737b473284c930c8ef79090e"}
    assert request.headers["x-qa-hmac-signature"] == qa_signature(SECRET, "1795420800", request.query["nonce"])


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Response(200), OK), (Response(202, b"thanks"), OK), (Response(302, headers={"location": "/"}), PERMANENT),
        (Response(400), PERMANENT), (Response(401), PERMANENT), (Response(404), PERMANENT), (Response(410), CONFIG),
        (Response(408), RETRY), (Response(500), RETRY), (Response(429), THROTTLED), (Response(502), THROTTLED),
        (Response(503), THROTTLED), (Response(504), THROTTLED), (HANGS, UNKNOWN), (HANGS_UP, UNKNOWN), (HALF, UNKNOWN),
        (NONSENSE, UNKNOWN),
    ],
    ids=str,
)  # fmt: skip
def test_what_an_answer_means(answer: Response | str, kind: str) -> None:
    with Server(lambda _: answer) as server:
        (found,) = called(server.url)
    assert found.kind == kind, found


def test_nobody_there_is_tried_again_and_was_sent_nothing() -> None:
    with Server(lambda _: Response()) as server:
        url = server.url
    assert called(url)[0].kind == RETRY


@pytest.mark.parametrize(
    ("said", "wait_ms"),
    [
        ("7", 7_000),
        ("999999", 86_400_000),
        ("Mon, 23 Nov 2026 08:00:10 GMT", 9_877),
        ("soon", None),
        ("", None),
        ("soon, maybe", None),
        ("9" * 40, 86_400_000),
        ("Mon, 23 Nov 99999999999 08:00:10 GMT", None),
        ("-5", None),
        ("²", None),
        ("Soon, please", None),
        ("9" * 5000, 86_400_000),
        ("Mon, 23 Nov 99999 08:00:10 GMT", None),
    ],
)
def test_how_long_to_wait_is_what_the_receiver_says_within_a_day(said: str, wait_ms: int | None) -> None:
    with Server(lambda _: Response(429, headers={"retry-after": said})) as server:
        (found,) = called(server.url)
    assert found.wait_ms == wait_ms


def test_an_answer_may_say_what_has_become_of_it_already() -> None:
    with Server(lambda _: Response(200, b'{"status": "delivered", "code": "R7", "detail": "to the till"}')) as server:
        (found,) = called(server.url)
    assert found == Answer(OK, "R7", "to the till", status="delivered")


def test_an_answer_of_any_size_is_read_to_64_kib() -> None:
    with Server(lambda _: Response(500, b"x" * 10_000_000)) as server:
        (found,) = called(server.url)
    assert (found.kind, len(found.detail)) == (RETRY, 500)


def test_a_private_address_is_called_only_where_it_is_allowed() -> None:
    receiver = Receiver()
    with Server(receiver) as server:
        (found,) = called(server.url, private=False)
        assert (found.kind, found.code) == (CONFIG, "forbidden_address")
        (found,) = called(server.url.replace("127.0.0.1", "localhost"), private=False)
        assert "which may not be called" in found.detail
    assert receiver.came == {}


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
        "64:ff9b::a00:1", "64:ff9b:1::1", "2002:a00:1::1", "2001:0:53aa:64c:0:0:0:1", "::7f00:1", "fec0::1", "nonsense",
    ],
)  # fmt: skip
def test_addresses_that_lead_inside_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_addresses_of_the_public_network_are(address: str) -> None:
    assert is_public(address)


def test_what_would_be_sent_is_shown_without_signatures() -> None:
    shown = Webhook(settings("https://shop.example/hook"), around()).preview(action("a"))
    assert shown["url"] == "https://shop.example/hook"
    assert "signature" not in str(shown)
    assert SECRET not in str(shown)


def test_a_secret_shows_itself_nowhere() -> None:
    read = settings("https://x")
    assert SECRET not in f"{read} {read!r} {read.model_dump()}"


def test_each_report_has_an_id_by_which_its_repeats_are_dropped_and_no_other() -> None:
    one = Webhook(settings("http://x"), around())

    def reported(said: object, id: str = "msg_1") -> list[str]:
        body = json.dumps(said).encode()
        head = {"webhook-id": id, "webhook-timestamp": "1795420800"}
        head["webhook-signature"] = signed(one._keys, id, 1795420800, body)
        return [report.event_id for report in one.callback(Callback("POST", {}, head, body, "https://x")).reports]

    used = {"action_id": "a", "status": "redeemed"}
    assert reported(used) == reported(used) == ["msg_1"]
    assert reported(used, "msg_2") == ["msg_2"]
    assert reported([used, used]) == ["msg_1", "msg_1/1"]
    assert reported({"action_id": "a", "status": "accepted"}) == [""], "what the answer has told is told once"


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "connection"])
def test_a_header_that_follows_from_the_request_cannot_be_set(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be set here"):
        settings("http://127.0.0.1:1", headers={name: "x"})
