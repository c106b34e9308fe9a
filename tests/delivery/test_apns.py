"""Push messages through Apple: the credential, the message, and what every answer means."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.channels.apns import Apns, ApnsSettings
from connectors.channels.base import Content, Surroundings, Unfit
from connectors.channels.http1 import IS_TOO_LATE
from dataflow.deliver.config import delivered
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, TOKEN, UNKNOWN, Answer
from state.outgoing import Action
from tests.delivery.actions import action
from tests.providers.apns import KEY_ID, REASONS, TEAM_ID, TOPIC, p8, refusal
from tests.providers.apns import Apns as Fake
from tests.providers.fcm import credentials
from tests.providers.http2 import Http2Server
from tests.providers.server import HALF, HANGS, HANGS_UP, NONSENSE, Handler, Response, without_network
from tests.providers.smtp import make_certificate

NOW_MS = 1_795_420_800_123 - 1_795_420_800_123 % 2_400_000  # When tokens change.
MINUTE_MS = 60_000
HELLO = Content("Hi", "Hello\n", "")
DEVICE = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"


class Clock:
    now_ms = NOW_MS

    def now_s(self) -> int:
        return self.now_ms // 1000


def push(name: str = "a", to: str | None = DEVICE, **more: Any) -> Action:
    return action(name, channel="push", to=to, **{"vars": {}, **more})


def settings(key: str | None = None, **more: Any) -> ApnsSettings:
    written = {"key": {"env": "P8"}, "key_id": KEY_ID, "team_id": TEAM_ID, "topic": TOPIC, **more}
    return ApnsSettings.model_validate(written, context={"environment": {"P8": p8() if key is None else key}})


def provider(handle: Handler | None, clock: Clock | None = None, content: Content | None = HELLO, **more: Any) -> Apns:
    now = clock or Clock()

    def find(one: Action, _: str | None) -> Content:
        if content is None:
            raise Unfit("no_template", "there is none")
        return content

    around = Surroundings(lambda: now.now_ms, lambda: "n", Path(), 10.0, find)
    return Apns(settings(**more), around, None if handle is None else without_network(handle))


def called(handle: Handler, one: Action | None = None, **more: Any) -> Answer:
    return asyncio.run(provider(handle, **more).call(one or push()))


def sent(one: Action | None = None, **more: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the head and the body that Apple gets."""
    fake = Fake(Clock().now_s)
    answer = called(fake, one, **more)
    assert (answer.kind, fake.mistakes) == (OK, [])
    return fake.requests[0].headers, fake.bodies[0]


# ---- the message ---------------------------------------------------------------------------------------------------


def test_a_message_of_files_is_an_alert_and_the_app_gets_the_variables() -> None:
    one = push(vars={"name": "Lina", "count": 3})
    head, body = sent(one, message={"aps": {"sound": "default"}}, collapse_id="cart", priority=5)
    assert body == {
        "aps": {"alert": {"title": "Hi", "body": "Hello"}, "sound": "default"},
        "name": "Lina", "count": "3", "action_id": one.action_id, "template": "hello",
    }  # fmt: skip
    assert head["apns-id"].replace("-", "") == one.action_id
    assert (head["apns-push-type"], head["apns-priority"], head["apns-collapse-id"]) == ("alert", "5", "cart")
    assert "apns-expiration" not in head


def test_without_a_title_and_a_body_a_message_is_for_the_app_only() -> None:
    head, body = sent(push(vars={"sku": "X"}), content=None, priority=10)
    assert (body["aps"], body["sku"]) == ({"content-available": 1}, "X")
    assert (head["apns-push-type"], head["apns-priority"]) == ("background", "5")
    assert sent(push(vars={"body": "There"}), content=None)[1]["aps"] == {"alert": {"body": "There"}}


def test_a_message_is_of_no_use_to_a_device_after_the_action_has_expired() -> None:
    assert sent(push(expires_at="2026-11-23T09:00:00.500Z"))[0]["apns-expiration"] == "1795424400"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"to": None}, "no_address"), ({"to": ""}, "no_address"), ({"to": "../x"}, "bad_address"),
        ({"to": "ab\n"}, "bad_address"), ({"vars": {"aps": 1}}, "bad_variable"),
        ({"vars": {"x": "x" * 4096}}, "too_large"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_sent_is_told_before_the_call(more: dict[str, Any], code: str) -> None:
    with pytest.raises(Unfit, match=code):
        called(lambda _: Response(500), push(**more))
    with pytest.raises(Unfit, match=code):
        provider(None).preview(push(**more))


def test_what_would_be_sent_is_shown_without_the_credential() -> None:
    shown = provider(None).preview(push())
    assert shown["url"] == f"https://api.push.apple.com/3/device/{DEVICE}"
    assert provider(None, sandbox=True).preview(push())["url"].startswith("https://api.sandbox.push.apple.com/3/")
    assert "authorization" not in json.dumps(dict(shown)).lower()


def test_a_process_that_stood_still_writes_nothing() -> None:
    async def call() -> Answer:
        IS_TOO_LATE.set(lambda: True)
        return await provider(fake).call(push())

    fake = Fake(Clock().now_s)
    assert asyncio.run(call()).kind == RETRY
    assert fake.bearers == []


# ---- the credential ------------------------------------------------------------------------------------------------


def test_a_token_is_replaced_between_20_and_60_minutes() -> None:
    clock = Clock()
    fake = Fake(clock.now_s)
    first: dict[str, int] = {}

    async def call() -> None:
        apns = provider(fake, clock)
        for minute in range(7, 300):
            clock.now_ms = NOW_MS + minute * MINUTE_MS
            assert (await apns.call(push())).kind == OK
            first.setdefault(fake.bearers[-1], minute)

    asyncio.run(call())
    assert list(first.values()) == [7, *range(40, 300, 40)]


def test_processes_change_their_tokens_at_the_same_time() -> None:
    clock = Clock()
    fake = Fake(clock.now_s)
    for minute in (0, 39, 40):
        clock.now_ms = NOW_MS + minute * MINUTE_MS
        called(fake, clock=clock)
    assert fake.mistakes == []
    assert len({one.split(".")[1] for one in fake.bearers}) == 2


def test_a_token_that_is_refused_is_not_asked_for_again_before_its_time() -> None:
    clock = Clock()
    fake = Fake(lambda: clock.now_s() + 3700)  # Their clock is far ahead.

    async def call() -> list[Any]:
        apns = provider(fake, clock)
        found: list[Any] = [(await apns.call(push())).kind, await apns.renew()]
        clock.now_ms += 40 * MINUTE_MS
        return [*found, await apns.renew(), await apns.renew()]

    assert asyncio.run(call()) == [TOKEN, False, True, True]
    assert len(fake.bearers) == 1


def test_a_token_that_is_refused_shortly_before_another_one_is_due_stops_nothing() -> None:
    clock = Clock()
    clock.now_ms = NOW_MS + 39 * MINUTE_MS + 59_000
    ahead_s = 3700  # So far is their clock, until it is set.
    fake = Fake(lambda: clock.now_s() + ahead_s)

    async def call() -> list[Any]:
        nonlocal ahead_s
        apns = provider(fake, clock)
        found: list[Any] = [(await apns.call(push())).kind]
        clock.now_ms += 2_000
        ahead_s = 0
        return [*found, (await apns.call(push("b"))).kind, await apns.renew()]

    assert asyncio.run(call()) == [TOKEN, OK, True]


def test_a_token_that_was_replaced_during_the_call_is_no_reason_to_stop() -> None:
    clock = Clock()

    def mood(_: dict[str, Any]) -> Response:
        clock.now_ms += 40 * MINUTE_MS
        return refusal("ExpiredProviderToken")

    found = called(Fake(clock.now_s, mood), clock=clock)
    assert (found.kind, found.wait_ms) == (RETRY, 0)


def test_the_wrong_key_stops_the_channel() -> None:
    found = called(Fake(Clock().now_s), key=p8("another"))
    assert (found.kind, found.code) == (CONFIG, "InvalidProviderToken")


# ---- answers -------------------------------------------------------------------------------------------------------

KINDS = {
    "BadTopic": CONFIG, "MissingTopic": CONFIG, "TopicDisallowed": CONFIG, "IdleTimeout": RETRY,
    "ExpiredProviderToken": TOKEN, "Forbidden": CONFIG, "InvalidProviderToken": CONFIG, "MissingProviderToken": CONFIG,
    "TooManyProviderTokenUpdates": CONFIG, "TooManyRequests": THROTTLED, "InternalServerError": RETRY,
    "ServiceUnavailable": RETRY, "Shutdown": RETRY,
}  # fmt: skip


@pytest.mark.parametrize("reason", [reason for reasons in REASONS.values() for reason in reasons])
def test_what_the_reasons_of_apple_mean(reason: str) -> None:
    found = called(lambda _: refusal(reason))
    assert (found.kind, found.code) == (KINDS.get(reason, PERMANENT), reason)
    assert found.is_of_recipient is (reason == "TooManyRequests")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Response(200, b"<html>"), UNKNOWN), (Response(302), UNKNOWN), (Response(400, b"<html>"), RETRY),
        (Response(403), CONFIG), (Response(404, b"<html>"), CONFIG), (Response(413), PERMANENT),
        (Response(429), THROTTLED), (Response(500), RETRY), (Response(503), RETRY), (Response(502), UNKNOWN),
        (Response(504), UNKNOWN), (refusal("New", 400), PERMANENT), (refusal("New", 403), CONFIG),
        (refusal("New", 418), PERMANENT), (refusal("New", 500), RETRY), (Response(400, b'{"reason": 5}'), RETRY),
        (Response(400, b"[" * 100_000), RETRY), (HANGS, UNKNOWN), (HANGS_UP, UNKNOWN), (HALF, UNKNOWN),
        (NONSENSE, UNKNOWN),
    ],
    ids=lambda one: str(one)[:60],
)  # fmt: skip
def test_what_an_answer_without_such_a_reason_means(answer: Response | str, kind: str) -> None:
    assert called(lambda _: answer).kind == kind


@pytest.mark.parametrize(
    ("timestamp", "detail"),
    [(1_700_000_000_000, "since 2023-11-14T22:13:20.000Z"), (None, ""), (10**18, ""), (-5, ""), ("x", "")],
)
def test_since_when_a_device_is_gone_is_told(timestamp: Any, detail: str) -> None:
    assert called(lambda _: refusal("Unregistered", timestamp=timestamp)).detail == detail


def test_how_long_to_wait_is_what_apple_says() -> None:
    assert called(lambda _: refusal("TooManyRequests", **{"retry-after": "7"})).wait_ms == 7_000
    assert called(lambda _: refusal("TooManyRequests")).wait_ms is None


def test_what_apple_calls_the_message_is_kept() -> None:
    one = push()
    assert called(Fake(Clock().now_s), one).provider_id.replace("-", "") == one.action_id


# ---- HTTP/2 --------------------------------------------------------------------------------------------------------


def test_many_calls_share_one_connection_of_http_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
    fake = Fake(Clock().now_s)

    async def call(url: str) -> list[Answer]:
        apns = provider(None, endpoint=url)
        found = [await apns.call(push("first"))]
        found += await asyncio.gather(*(apns.call(push(f"a{number}")) for number in range(50)))
        await apns.close()
        return found

    with Http2Server(fake, certificate) as server:
        assert {one.kind for one in asyncio.run(call(server.url))} == {OK}
    assert (server.connections, len(fake.bodies), fake.mistakes, len(fake.bearers)) == (1, 51, [], 1)


def test_over_http_2_nothing_is_written_once_it_is_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
    fake = Fake(Clock().now_s)
    looks = iter([False, True])  # It becomes too late while there is a connection made.

    async def call(url: str) -> list[Answer]:
        apns = provider(None, endpoint=url)
        IS_TOO_LATE.set(lambda: next(looks))
        late = await apns.call(push("late"))
        IS_TOO_LATE.set(lambda: False)
        found = [late, await apns.call(push("next"))]
        await apns.close()
        return found

    with Http2Server(fake, certificate) as server:
        assert [one.kind for one in asyncio.run(call(server.url))] == [RETRY, OK]
    assert [one["action_id"] for one in fake.bodies] == [push("next").action_id]


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["no key", "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----", "rsa"])
def test_what_is_no_key_of_apple_is_refused_and_not_shown(key: str) -> None:
    if key == "rsa":
        key = json.loads(credentials("https://x.example"))["private_key"]
    with pytest.raises(ValidationError, match=r"not the \.p8 file") as refused:
        settings(key)
    assert "BEGIN" not in str(refused.value)


@pytest.mark.parametrize(
    "more",
    [
        {"collapse_id": "x" * 65}, {"collapse_id": "丽"}, {"priority": 7}, {"topic": "a b"}, {"key_id": ""},
        {"message": {"n": 2**70}}, {"endpoint": "apple"},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_in_the_settings_is_told(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(more))):
        settings(**more)


def test_a_channel_of_nudge_yaml_speaks_to_apple_over_http_2(tmp_path: Path) -> None:
    (tmp_path / "k.p8").write_text(p8())
    written = {"provider": "apns", "key": {"file": "k.p8"}, "key_id": KEY_ID, "team_id": TEAM_ID, "topic": TOPIC}
    how = delivered("push", "actions.push", written, tmp_path, lambda: NOW_MS, lambda: "n")
    shown = how.provider.preview(push(vars={"title": "Hi", "body": "There"}))
    assert shown["body"]["aps"] == {"alert": {"title": "Hi", "body": "There"}}
    assert (how.policy.drops_repeats, how.policy.can_be_asked) == (False, False)
    assert how.provider._client._transport._pool._http2  # type: ignore[attr-defined]
    assert "PRIVATE" not in f"{how!r} {how.provider._settings!r}"  # type: ignore[attr-defined]
