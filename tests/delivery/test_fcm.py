"""Push messages through FCM: the credential, the message, and what every answer means."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.channels.base import Content, Surroundings, Unfit
from connectors.channels.fcm import Fcm, FcmSettings
from dataflow.deliver.config import delivered
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, TOKEN, UNKNOWN, Answer
from state.outgoing import Action
from tests.delivery.actions import action
from tests.providers.fcm import EMAIL, PROJECT, STATUS, credentials, error
from tests.providers.fcm import Fcm as Fake
from tests.providers.http2 import Http2Server
from tests.providers.server import HALF, HANGS, HANGS_UP, NONSENSE, Handler, Response, Server
from tests.providers.smtp import Certificate, make_certificate

NOW_MS = 1_795_420_800_123
MINUTE_MS = 60_000


class Clock:
    now_ms = NOW_MS

    def now_s(self) -> int:
        return self.now_ms // 1000


def push(name: str = "a", to: str | None = "dX1", **more: Any) -> Action:
    return action(name, channel="push", to=to, **more)


def settings(url: str, said: str | None = None, **more: Any) -> FcmSettings:
    given = {"provider": "fcm", "credentials": {"env": "FCM"}, "endpoint": url, **more}
    return FcmSettings.model_validate(given, context={"environment": {"FCM": said or credentials(url)}})


def provider(
    url: str,
    clock: Clock,
    content: Content | None = None,
    timeout_s: float = 10.0,
    said: str | None = None,
    **more: Any,
) -> Fcm:
    def find(one: Action, _: str | None) -> Content:
        if content is None:
            raise Unfit("no_template", "there is none")
        return content

    around = Surroundings(lambda: clock.now_ms, lambda: "n", Path(), timeout_s, find)
    return Fcm(settings(url, said, **more), around)


def called(handle: Handler, *actions: Action, clock: Clock | None = None, **more: Any) -> list[Answer]:
    """Return what comes of sending *actions*, one after the other."""

    async def call(url: str) -> list[Answer]:
        fcm = provider(url, clock or Clock(), **more)
        found = [await fcm.call(one) for one in actions or (push(),)]
        await fcm.close()
        return found

    with Server(handle) as server:
        return asyncio.run(call(server.url))


def sent(one: Action, content: Content | None = None, **more: Any) -> dict[str, Any]:
    """Return the message that FCM gets."""
    fake = Fake(Clock().now_s)
    (answer,) = called(fake, one, content=content, **more)
    assert (answer.kind, fake.mistakes) == (OK, [])
    return fake.messages[0]


# ---- the message ---------------------------------------------------------------------------------------------------


def test_a_message_of_files_is_a_notification_and_the_app_gets_the_variables() -> None:
    one = push(vars={"name": "Lina", "count": 3, "items": [{"sku": "X"}], "none": None, "big": 2**70, "yes": True})
    assert sent(one, Content("Your cart", "Come back\n", "")) == {
        "token": "dX1",
        "notification": {"title": "Your cart", "body": "Come back"},
        "data": {
            "name": "Lina", "count": "3", "items": '[{"sku":"X"}]', "none": "null", "big": str(2**70), "yes": "true",
            "action_id": one.action_id, "template": "hello",
        },
    }  # fmt: skip


def test_without_files_title_and_body_are_variables_and_without_them_the_app_decides() -> None:
    found = sent(push(vars={"title": "Hi", "body": "There", "sku": "X"}))
    assert found["notification"] == {"title": "Hi", "body": "There"}
    assert set(found["data"]) == {"sku", "action_id", "template"}
    assert "notification" not in sent(push(vars={"sku": "X"}))


def test_a_variable_does_not_replace_the_id_of_the_action() -> None:
    one = push(vars={"action_id": "mine"})
    assert sent(one)["data"]["action_id"] == one.action_id


def test_a_topic_is_an_address_too() -> None:
    found = sent(push(to="/topics/news"))
    assert found["topic"] == "news"
    assert "token" not in found


@pytest.mark.parametrize(
    ("expires_at", "ttl"),
    [
        ("2026-11-23T09:00:00.500Z", "3600s"), ("2026-11-23T08:00:00.200Z", "0s"), ("2026-11-23T07:00:00.000Z", "0s"),
        ("2027-11-23T08:00:00.000Z", "2419200s"),
    ],
)  # fmt: skip
def test_a_message_is_of_no_use_to_a_device_after_the_action_has_expired(expires_at: str, ttl: str) -> None:
    found = sent(push(expires_at=expires_at))
    assert found["android"]["ttl"] == ttl
    assert found["webpush"]["headers"]["TTL"] == ttl[:-1]
    assert int(found["apns"]["headers"]["apns-expiration"]) > 0


def test_what_every_message_has_besides_is_a_setting_and_counts() -> None:
    besides = {"android": {"priority": "HIGH", "collapse_key": "cart"}, "apns": {"headers": {"apns-priority": "10"}}}
    found = sent(push(expires_at="2026-11-23T09:00:00.500Z"), message=besides)
    assert found["android"] == {"ttl": "3600s", "priority": "HIGH", "collapse_key": "cart"}
    assert set(found["apns"]["headers"]) == {"apns-expiration", "apns-priority"}


def test_without_a_token_of_a_device_nothing_is_sent() -> None:
    fake = Fake(Clock().now_s)
    with pytest.raises(Unfit, match="no_address"):
        called(fake, push(to=None))
    assert not fake.came


def test_what_is_wrong_with_a_message_in_files_is_told() -> None:
    def find(one: Action, _: str | None) -> Content:
        raise Unfit("missing_variable", "hello.txt needs vars.name")

    around = Surroundings(lambda: NOW_MS, lambda: "n", Path(), 1.0, find)
    with pytest.raises(Unfit, match="missing_variable"):
        asyncio.run(Fcm(settings("http://x"), around).call(push()))


def test_what_would_be_sent_is_shown_without_the_credential() -> None:
    shown = provider("http://fcm.test", Clock()).preview(push())
    assert shown["url"] == f"http://fcm.test/v1/projects/{PROJECT}/messages:send"
    assert "authorization" not in str(shown).lower()


# ---- the credential ------------------------------------------------------------------------------------------------


def test_one_token_serves_many_calls_that_begin_together() -> None:
    fake = Fake(Clock().now_s)

    async def call(url: str) -> list[Answer]:
        fcm = provider(url, Clock())
        found = await asyncio.gather(*(fcm.call(push(f"a{number}")) for number in range(30)))
        await fcm.close()
        return found

    with Server(fake) as server:
        assert {one.kind for one in asyncio.run(call(server.url))} == {OK}
    assert fake.came["/token"] == 1
    assert fake.mistakes == []
    assert len({one["data"]["action_id"] for one in fake.messages}) == 30


def test_a_token_is_replaced_before_it_ends() -> None:
    clock = Clock()
    fake = Fake(clock.now_s)

    async def call(url: str) -> list[Answer]:
        fcm, found = provider(url, clock), []
        for minutes in (0, 50, 59, 100):
            clock.now_ms = NOW_MS + minutes * MINUTE_MS
            found.append(await fcm.call(push(f"a{minutes}")))
        await fcm.close()
        return found

    with Server(fake) as server:
        assert [one.kind for one in asyncio.run(call(server.url))] == [OK] * 4
    assert fake.came["/token"] == 2


def test_a_token_that_was_revoked_is_renewed() -> None:
    fake = Fake(Clock().now_s)

    async def call(url: str) -> list[Any]:
        fcm = provider(url, Clock())
        found: list[Any] = [(await fcm.call(push("a"))).kind]
        fake.revoke_tokens()
        found.append((await fcm.call(push("b"))).kind)
        found.append(await fcm.renew())
        found.append((await fcm.call(push("b"))).kind)
        await fcm.close()
        return found

    with Server(fake) as server:
        assert asyncio.run(call(server.url)) == [OK, TOKEN, True, OK]
    assert fake.came["/token"] == 2


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (Response(401, b'{"error": "invalid_client", "error_description": "gone"}'), CONFIG, "token_invalid_client"),
        (Response(400, b'{"error": "invalid_grant"}'), CONFIG, "token_invalid_grant"),
        (Response(404, b"<html>"), CONFIG, "token_http_404"), (Response(503), RETRY, "token_http_503"),
        (Response(429), RETRY, "token_http_429"), (Response(200, b"<html>"), RETRY, "token_http_200"),
        (Response(200, b'{"access_token": 5}'), RETRY, "token_http_200"), (HANGS, RETRY, "timeout"),
        (HANGS_UP, RETRY, "token"), (HALF, RETRY, "token"), (NONSENSE, RETRY, "token"),
    ],
    ids=str,
)  # fmt: skip
def test_without_a_token_nothing_is_sent_and_that_is_known(answer: Response | str, kind: str, code: str) -> None:
    fake = Fake(Clock().now_s, token_mood=lambda: answer)
    (found,) = called(fake, timeout_s=4.0 if answer == HANGS else 10.0)
    assert (found.kind, found.code) == (kind, code)
    assert set(fake.came) == {"/token"}


def test_the_wrong_key_of_an_account_stops_the_channel() -> None:
    fake = Fake(Clock().now_s)

    async def call(url: str) -> tuple[Answer, bool]:
        fcm = provider(url, Clock(), said=credentials(url, key_name="another"))
        return await fcm.call(push()), await fcm.renew()

    with Server(fake) as server:
        found, is_new = asyncio.run(call(server.url))
    assert (found.kind, found.code, found.detail) == (CONFIG, "token_invalid_grant", "Invalid JWT Signature.")
    assert not is_new


# ---- HTTP/2 --------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificate:
    made = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))
    return made


def test_many_calls_share_one_connection_of_http_2(certificate: Certificate) -> None:
    fake = Fake(Clock().now_s)

    async def call(url: str) -> list[Answer]:
        fcm = provider(url, Clock(), timeout_s=10.0)
        found = [await fcm.call(push("first"))]
        found += await asyncio.gather(*(fcm.call(push(f"a{number}")) for number in range(50)))
        await fcm.close()
        return found

    with Http2Server(fake, certificate) as server:
        assert {one.kind for one in asyncio.run(call(server.url))} == {OK}
    assert (server.connections, len(fake.messages), fake.mistakes) == (1, 51, [])


@pytest.mark.parametrize("mood", [HANGS, HANGS_UP, HALF])
def test_over_http_2_too_a_call_that_broke_may_have_been_sent(certificate: Certificate, mood: str) -> None:
    fake = Fake(Clock().now_s, lambda _: mood)

    async def call(url: str) -> Answer:
        fcm = provider(url, Clock(), timeout_s=4.0 if mood == HANGS else 10.0)
        answer = await fcm.call(push())
        await fcm.close()
        return answer

    with Http2Server(fake, certificate) as server:
        assert asyncio.run(call(server.url)).kind == UNKNOWN


# ---- answers -------------------------------------------------------------------------------------------------------

KINDS = {
    "UNREGISTERED": PERMANENT, "SENDER_ID_MISMATCH": PERMANENT, "INVALID_ARGUMENT": PERMANENT,
    "QUOTA_EXCEEDED": THROTTLED, "UNAVAILABLE": RETRY, "INTERNAL": RETRY, "THIRD_PARTY_AUTH_ERROR": CONFIG,
}  # fmt: skip


def answered(mood: Callable[[dict[str, Any]], Response | str | None], timeout_s: float = 10.0) -> Answer:
    (found,) = called(Fake(Clock().now_s, mood), timeout_s=timeout_s)
    return found


@pytest.mark.parametrize("code", STATUS)
def test_what_the_codes_of_fcm_mean(code: str) -> None:
    found = answered(lambda _: error(code))
    assert (found.kind, found.code, found.detail) == (KINDS[code], code, f"it is {code}")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Response(200, b"<html>"), UNKNOWN), (Response(200, b"{}"), UNKNOWN), (Response(200, b"[]"), UNKNOWN),
        (Response(400), PERMANENT), (Response(401), TOKEN), (Response(403), CONFIG), (Response(404, b"<html>"), CONFIG),
        (Response(413), PERMANENT), (Response(429), THROTTLED), (Response(500), RETRY), (Response(502), UNKNOWN),
        (Response(503), RETRY), (Response(504), UNKNOWN), (Response(302), UNKNOWN), (HANGS, UNKNOWN),
        (HANGS_UP, UNKNOWN), (HALF, UNKNOWN), (NONSENSE, UNKNOWN),
        (Response(400, b'{"error": {"details": [1, {"@type": "x.FcmError"}], "message": 7}}'), PERMANENT),
        (Response(400, b'{"error": "text"}'), PERMANENT),
    ],
    ids=str,
)  # fmt: skip
def test_what_an_answer_without_such_a_code_means(answer: Response | str, kind: str) -> None:
    assert answered(lambda _: answer, 1.0 if answer == HANGS else 10.0).kind == kind


@pytest.mark.parametrize(
    ("code", "said", "wait_ms"),
    [
        ("QUOTA_EXCEEDED", "7", 7_000), ("QUOTA_EXCEEDED", "", 60_000), ("UNAVAILABLE", "7", 7_000),
        ("UNAVAILABLE", "", None), ("UNREGISTERED", "7", None),
    ],
)  # fmt: skip
def test_how_long_to_wait_is_what_fcm_says_and_a_minute_for_a_quota(code: str, said: str, wait_ms: int | None) -> None:
    headers = {"retry-after": said} if said else {}
    assert answered(lambda _: error(code, **headers)).wait_ms == wait_ms


def test_what_fcm_calls_the_message_is_kept() -> None:
    assert answered(lambda _: None).provider_id == f"projects/{PROJECT}/messages/0:1"


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", ["{}", "no json", "[]", credentials("ftp://x"), credentials("http://x", private_key="-----BEGIN")]
)
def test_what_is_no_service_account_is_refused_and_not_shown(said: str) -> None:
    with pytest.raises(ValidationError, match="not the JSON of a service account") as refused:
        settings("http://x", said)
    assert "BEGIN" not in str(refused.value)
    assert EMAIL not in str(refused.value)


def test_the_credential_shows_itself_nowhere() -> None:
    read = settings("http://x")
    assert "PRIVATE" not in f"{read} {read!r} {read.model_dump()}"


def test_a_channel_of_nudge_yaml_speaks_to_google_over_http_2(tmp_path: Path) -> None:
    (tmp_path / "fcm.json").write_text(credentials("https://oauth2.googleapis.com"))
    written = {"provider": "fcm", "credentials": {"file": "fcm.json"}, "project": "other"}
    how = delivered("push", "actions.push", written, tmp_path, lambda: NOW_MS, lambda: "n")
    shown = how.provider.preview(push())
    assert shown["url"] == "https://fcm.googleapis.com/v1/projects/other/messages:send"
    assert json.loads(json.dumps(shown["body"]))["validate_only"] is False
    assert how.provider._client._transport._pool._http2  # type: ignore[attr-defined]
