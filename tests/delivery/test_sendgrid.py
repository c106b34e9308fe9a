"""E-mail through SendGrid: what it gets, what every answer means, and the events that it posts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import settings as drawn
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.channels.base import Callback, Content, NotTheirs, Report, Surroundings, Unfit
from connectors.channels.sendgrid import Sendgrid, SendgridSettings
from connectors.tokens import UNSUBSCRIBE, Token, make_token, read_token
from dataflow.deliver.config import delivered
from dataflow.errors import UsageError
from dataflow.gateway.receipts import noted, receipt_of
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, UNKNOWN, Answer
from state.outgoing import Action
from tests.delivery.actions import action
from tests.providers.sendgrid import KEY, event, posted, public_key, refusal
from tests.providers.sendgrid import Sendgrid as Fake
from tests.providers.server import (
    HALF,
    HANGS,
    HANGS_UP,
    NONSENSE,
    Handler,
    Request,
    Response,
    Server,
    without_network,
)

NOW_MS = 1_795_420_800_123
NOW_S = NOW_MS // 1000
DAY_S = 86_400
LINKS = "the key of the gateway"
ENVIRONMENT = {"KEY": KEY, "WRONG": "SG.wrong", "LINKS": LINKS}
UNSUBSCRIBES = {"base": "https://u.acme.example", "key": {"env": "LINKS"}}
HELLO = Content("Your cart, 李娜", "grüezi\n", "<p>grüezi")
OURS = action("a").action_id


def mail(name: str = "a", to: str | None = "lina@example.org", **more: Any) -> Action:
    return action(name, channel="email", to=to, **more)


def settings(**more: Any) -> SendgridSettings:
    written = {
        "provider": "sendgrid", "key": {"env": "KEY"}, "from": "Acme <news@acme.example>",
        "unsubscribe": UNSUBSCRIBES, "verification_key": public_key(), **more,
    }  # fmt: skip
    return SendgridSettings.model_validate(written, context={"environment": ENVIRONMENT})


def provider(
    handle: Handler | None = lambda _: Response(),
    content: Content | Callable[[Action, str | None], Content] = HELLO,
    **more: Any,
) -> Sendgrid:
    said = content if callable(content) else lambda _, __: content
    around = Surroundings(lambda: NOW_MS, lambda: "n", Path(), 0.5, said)
    return Sendgrid(settings(**more), around, None if handle is None else without_network(handle))


def called(handle: Handler, one: Action | None = None, **more: Any) -> Answer:
    return asyncio.run(provider(handle, **more).call(one or mail()))


def sent(one: Action | None = None, **more: Any) -> dict[str, Any]:
    """Return the message that SendGrid gets."""
    fake = Fake()
    answer = called(fake, one, **more)
    assert answer.kind == OK, answer
    return fake.sent[0]


# ---- the message ---------------------------------------------------------------------------------------------------


def test_a_message_is_posted_in_these_bytes() -> None:
    fake = Fake()
    assert called(fake) == Answer(OK, "http_202", provider_id="id-1_A")
    (request,) = fake.requests
    assert (request.method, request.path, request.query) == ("POST", "/v3/mail/send", {})
    assert request.headers["authorization"] == f"Bearer {KEY}"
    token = make_token(LINKS, UNSUBSCRIBE, Token(OURS, "u", "email", "marketing"))
    wanted = (
        '{"personalizations":[{"to":[{"email":"lina@example.org"}],"custom_args":{"action_id":"' + OURS + '"}}],'
        '"from":{"email":"news@acme.example","name":"Acme"},"subject":"Your cart, 李娜",'
        '"content":[{"type":"text/plain","value":"grüezi\\n"},{"type":"text/html","value":"<p>grüezi"}],'
        '"tracking_settings":{"click_tracking":{"enable":false,"enable_text":false},"open_tracking":{"enable":false},'
        '"subscription_tracking":{"enable":false}},'
        '"headers":{"List-Unsubscribe":"<https://u.acme.example/u/' + token + '>",'
        '"List-Unsubscribe-Post":"List-Unsubscribe=One-Click"}}'
    )
    assert request.body.decode() == wanted


def test_every_attempt_posts_the_same() -> None:
    fake = Fake()
    for _ in range(2):
        called(fake)
    assert fake.requests[0] == fake.requests[1]


def test_what_the_settings_say_is_in_every_message() -> None:
    found = sent(
        reply_to="Help <help@acme.example>", headers={"X-Stream": "cart"}, categories=["cart", "nudge"],
        ip_pool="bulk", opens=True, clicks=True,
    )  # fmt: skip
    assert found["reply_to"] == {"email": "help@acme.example", "name": "Help"}
    assert found["headers"]["X-Stream"] == "cart"
    assert (found["categories"], found["ip_pool_name"]) == (["cart", "nudge"], "bulk")
    assert found["tracking_settings"]["open_tracking"] == {"enable": True}
    assert found["tracking_settings"]["click_tracking"] == {"enable": True, "enable_text": False}


@pytest.mark.parametrize(
    ("content", "kind"), [(Content("s", "text", ""), "text/plain"), (Content("s", "", "<p>"), "text/html")]
)
def test_a_message_with_one_part_has_that_part(content: Content, kind: str) -> None:
    assert [one["type"] for one in sent(content=content)["content"]] == [kind]


def test_a_sender_without_a_name_has_none() -> None:
    assert sent(**{"from": "news@acme.example"})["from"] == {"email": "news@acme.example"}


def test_marketing_carries_a_link_that_unsubscribes_with_one_click_and_the_text_has_it_too() -> None:
    one = mail(user="u" * 200)
    found = sent(one, content=lambda _, url: Content("s", f"bye: {url}", ""))
    url = found["headers"]["List-Unsubscribe"].removeprefix("<").removesuffix(">")
    assert found["headers"]["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert found["content"][0]["value"] == f"bye: {url}"
    token = Token(one.action_id, "u" * 200, "email", "marketing")
    assert read_token([LINKS], UNSUBSCRIBE, url.removeprefix("https://u.acme.example/u/")) == token


def test_a_notification_carries_no_such_link_of_ours_or_theirs() -> None:
    found = sent(mail(category="notification"))
    assert "headers" not in found
    assert found["tracking_settings"]["subscription_tracking"] == {"enable": False}


def test_the_link_of_one_message_is_in_no_other() -> None:
    one = provider(headers={"X-Stream": "cart"})
    one.preview(mail())
    assert one.preview(mail(category="notification"))["body"]["headers"] == {"X-Stream": "cart"}


def test_a_channel_without_the_link_leaves_that_to_the_account() -> None:
    found = sent(unsubscribe=False)
    assert "headers" not in found
    assert "subscription_tracking" not in found["tracking_settings"]


def test_a_host_name_in_another_script_is_sent_as_dns_has_it() -> None:
    assert sent(mail(to="info@bücher.example"))["personalizations"][0]["to"] == [
        {"email": "info@xn--bcher-kva.example"}
    ]


@pytest.mark.parametrize(
    ("to", "content", "code"),
    [
        (None, HELLO, "no_address"), ("", HELLO, "bad_address"), ("a b@c.example", HELLO, "bad_address"),
        ("a@c.example, b@c.example", HELLO, "bad_address"), ("a@c.example\r\nX: y", HELLO, "bad_address"),
        ("a@c.example", Content("", "x", ""), "no_subject"), ("a@c.example", Content("s", "", ""), "no_body"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused_before_anybody_is_called(to: str | None, content: Content, code: str) -> None:
    with pytest.raises(Unfit) as refused:
        called(lambda _: pytest.fail("it was called"), mail(to=to), content=content)
    assert refused.value.code == code


def test_in_the_sandbox_a_message_is_looked_at_and_not_sent() -> None:
    fake = Fake()
    assert called(fake, sandbox=True) == Answer(OK, "http_200")
    assert json.loads(fake.requests[0].body)["mail_settings"] == {"sandbox_mode": {"enable": True}}
    assert fake.sent == []


@pytest.mark.parametrize(
    ("more", "host"),
    [({}, "api.sendgrid.com"), ({"region": "eu"}, "api.eu.sendgrid.com"), ({"endpoint": "http://127.0.0.1:1"}, "127")],
)
def test_an_account_in_the_eu_is_called_there(more: dict[str, Any], host: str) -> None:
    assert str(provider(**more).preview(mail())["url"]).partition("//")[2].startswith(host)


def test_what_would_be_sent_is_shown_without_a_link_that_works_and_without_secrets() -> None:
    one = provider(content=lambda _, url: Content("s", str(url), ""))
    shown = one.preview(mail())
    assert shown["body"]["headers"]["List-Unsubscribe"] == "<https://u.acme.example/u/preview>"
    assert shown["body"]["content"][0]["value"] == "https://u.acme.example/u/preview"
    for secret in (KEY, LINKS):
        assert secret not in f"{shown} {one._settings!r} {one._settings.model_dump()}"


# ---- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (Response(202), OK, "http_202"),
        (refusal(400, ("personalizations.0.to.0.email", "no address")), PERMANENT, "http_400"),
        (refusal(400, ("content.0.value", "empty")), PERMANENT, "http_400"),
        (refusal(400, (None, "Bad Request")), PERMANENT, "http_400"),
        (refusal(400, ("from.email", "no address")), CONFIG, "http_400"),
        (refusal(400, ("subject", "empty"), ("categories", "too many")), CONFIG, "http_400"),
        (refusal(400, ("ip_pool_name", "unknown")), CONFIG, "http_400"),
        (refusal(422, ("subject", "no")), PERMANENT, "http_422"), (Response(400, b"<html>"), RETRY, "http_400"),
        (refusal(401, (None, "Maximum credits exceeded")), CONFIG, "http_401"), (Response(401), CONFIG, "http_401"),
        (refusal(403, ("from", "not verified")), CONFIG, "http_403"), (refusal(404), CONFIG, "http_404"),
        (refusal(405), CONFIG, "http_405"), (Response(406), CONFIG, "http_406"), (Response(415), CONFIG, "http_415"),
        (Response(451), CONFIG, "http_451"), (Response(302), CONFIG, "http_302"),
        (refusal(413, (None, "too large")), PERMANENT, "http_413"),
        (refusal(429, (None, "too many requests")), THROTTLED, "http_429"),
        (Response(408), RETRY, "http_408"), (Response(503), RETRY, "http_503"),
        (refusal(500, (None, "internal")), UNKNOWN, "http_500"), (Response(502, b"<html>"), UNKNOWN, "http_502"),
        (Response(504), UNKNOWN, "http_504"), (Response(200, b"<html>"), UNKNOWN, "http_200"),
        (Response(204), UNKNOWN, "http_204"), (HANGS, UNKNOWN, "no_answer"), (HANGS_UP, UNKNOWN, "no_answer"),
    ],
    ids=str,
)  # fmt: skip
def test_what_an_answer_means(answer: Response | str, kind: str, code: str) -> None:
    found = called(lambda _: answer)
    assert (found.kind, found.code) == (kind, code), found


@pytest.mark.parametrize("body", [b"", b"[]", b'{"errors": 1}', b'{"errors": [1, null]}', b"[" * 5000])
def test_a_refusal_that_is_not_theirs_rejects_nobody(body: bytes) -> None:
    assert called(lambda _: Response(400, body)).kind == RETRY


def test_a_refusal_says_which_fields_are_wrong() -> None:
    answer = refusal(400, ("subject", "is empty"), (None, "Bad Request"))
    assert called(lambda _: answer).detail == "subject: is empty; Bad Request"


def test_a_wrong_key_and_a_sender_that_is_not_verified_are_wrong_settings() -> None:
    assert called(Fake(), key={"env": "WRONG"}).kind == CONFIG
    found = called(Fake(), **{"from": "news@other.example"})
    assert (found.kind, found.code) == (CONFIG, "http_403")


@pytest.mark.parametrize(
    ("headers", "wait_ms"),
    [
        ({"Retry-After": "3", "X-RateLimit-Reset": str(NOW_S + 60)}, 3_000),
        ({"X-RateLimit-Reset": str(NOW_S + 60)}, 60_000 - NOW_MS % 1000),
        ({"x-ratelimit-reset": str(NOW_S + 10 * DAY_S)}, DAY_S * 1000),
        ({"X-RateLimit-Reset": str(NOW_S - 1)}, None), ({"X-RateLimit-Reset": "60"}, None),
        ({"X-RateLimit-Reset": "²"}, None), ({"X-RateLimit-Reset": "9" * 5000}, None), ({}, None),
    ],
    ids=lambda one: str(one)[:40],
)  # fmt: skip
def test_who_is_too_fast_waits_until_the_time_that_it_is_told(headers: dict[str, str], wait_ms: int | None) -> None:
    found = called(lambda _: refusal(429, (None, "too many requests"), **headers))
    assert (found.kind, found.wait_ms, found.is_of_recipient) == (THROTTLED, wait_ms, False)


@pytest.mark.parametrize(("mood", "kind"), [(HALF, UNKNOWN), (NONSENSE, UNKNOWN), (None, OK)])
def test_over_a_connection_what_breaks_off_may_have_been_sent(mood: str | None, kind: str) -> None:
    fake = Fake(lambda _: mood)
    with Server(fake) as server:

        async def call() -> Answer:
            one = provider(None, endpoint=server.url)
            answer = await one.call(mail())
            await one.close()
            return answer

        found = asyncio.run(call())
    assert (found.kind, found.provider_id) == (kind, "id-1_A" if mood is None else "")


def test_a_key_that_is_said_back_stands_in_no_answer() -> None:
    def says_back(request: Request) -> Response:
        return refusal(401, (None, request.headers["authorization"]))

    assert called(says_back).detail == "Bearer <hidden>"


# ---- events --------------------------------------------------------------------------------------------------------


def came(body: bytes, timestamp: int | str = NOW_S, **headers: str) -> Callback:
    head = {**posted(body, timestamp), **headers}
    return Callback("POST", {}, head, body, "http://10.0.0.1:8080/receipts/email/x")


def reported(*events: Any, **more: Any) -> list[Report]:
    reply = provider().callback(came(json.dumps(events).encode(), **more))
    assert (reply.status, reply.body) == (204, b"")
    return list(reply.reports)


AT_MS = 1_795_420_795_000


@pytest.mark.parametrize(
    ("kind", "more", "status", "code", "detail"),
    [
        ("delivered", {"response": "250 OK"}, "delivered", "", "250 OK"),
        ("open", {"useragent": "x"}, "opened", "", ""), ("open", {"sg_machine_open": True}, "opened", "machine", ""),
        ("click", {"url": "https://acme.example/x"}, "clicked", "", "https://acme.example/x"),
        ("bounce", {"status": "5.1.1", "reason": "550 nobody", "type": "bounce"}, "failed", "5.1.1", "550 nobody"),
        ("bounce", {"status": "5.7.1", "reason": "550 spam", "type": "blocked"}, "failed", "blocked", "550 spam"),
        ("dropped", {"reason": "Bounced Address"}, "failed", "bounced_address", "Bounced Address"),
        ("unsubscribe", {}, "unsubscribed", "unsubscribe", ""), ("spamreport", {}, "unsubscribed", "spamreport", ""),
        ("group_unsubscribe", {"asm_group_id": 1}, "unsubscribed", "group_unsubscribe", ""),
    ],
)  # fmt: skip
def test_an_event_names_our_action(kind: str, more: dict[str, Any], status: str, code: str, detail: str) -> None:
    assert reported(event(kind, OURS, **more)) == [Report(status, OURS, "id-1_A", code, detail, f"ev-{kind}", AT_MS)]


@pytest.mark.parametrize("kind", ["deferred", "group_resubscribe", "account_status_change", "", "sent", None, 1])
def test_an_event_that_decides_nothing_is_no_report(kind: Any) -> None:
    assert reported(event(kind, OURS)) == []


def receipts(*events: Any) -> list[dict[str, Any]]:
    return [json.loads(receipt_of(noted("email", one, NOW_MS), OURS, "u")[1]) for one in reported(*events)]


def test_processed_is_the_receipt_that_our_call_has_made_already() -> None:
    (found,) = receipts(event("processed", OURS))
    assert found["message_id"] == f"{OURS}/accepted"


def test_what_is_dropped_after_it_was_accepted_has_failed_so_that_no_action_has_two_outcomes() -> None:
    (found,) = receipts(event("dropped", OURS, reason="Invalid"))
    assert (found["status"], found["message_id"]) == ("failed", f"{OURS}/failed/ev-dropped")


@pytest.mark.parametrize("reason", ["Unsubscribed Address", "Spam Reporting Address"])
def test_who_has_left_at_sendgrid_is_unsubscribed_too(reason: str) -> None:
    found = receipts(event("dropped", OURS, reason=reason))
    assert [one["status"] for one in found] == ["failed", "unsubscribed"]
    assert len({one["message_id"] for one in found}) == 2


def test_an_event_that_comes_twice_is_one_receipt_and_two_clicks_are_two() -> None:
    first, again, other = receipts(
        event("click", OURS), event("click", OURS), event("click", OURS, sg_event_id="ev-other")
    )
    assert first["message_id"] == again["message_id"] != other["message_id"]


def test_an_event_without_our_argument_is_found_by_the_id_of_the_answer() -> None:
    fake = Fake()
    answer = called(fake)
    (found,) = reported(event("bounce", None))
    assert (found.action_id, found.provider_id) == ("", answer.provider_id)


def test_several_events_come_together_and_what_is_none_spoils_no_other() -> None:
    events = [event("delivered", OURS), None, 1, "x", [], {}, {"event": "open"}, {"event": "open", "action_id": 1}]
    found = reported(*events, event("delivered", OURS, sg_message_id=7, sg_event_id=None, timestamp="soon"))
    assert found == [
        Report("delivered", OURS, "id-1_A", "", "", "ev-delivered", AT_MS), Report("delivered", OURS, "", "", "", ""),
    ]  # fmt: skip


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["blocked", OURS])
)
VALUES = LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(st.text(max_size=3), LEAVES, max_size=2)
FIELDS = (
    "action_id", "sg_message_id", "sg_event_id", "timestamp", "status", "reason", "type", "url", "response",
    "sg_machine_open",
)  # fmt: skip
KINDS = ("processed", "delivered", "open", "click", "bounce", "dropped", "deferred", "spamreport", "unsubscribe", "x")


@drawn(max_examples=200, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda kind, more: {**more, "event": kind},
            st.sampled_from(KINDS),
            st.dictionaries(st.sampled_from(FIELDS), VALUES),
        ),
        max_size=3,
    )
)
def test_whatever_stands_in_an_event_its_receipt_can_be_stored(events: list[dict[str, Any]]) -> None:
    body = json.dumps(events).encode()
    try:
        found = provider().callback(came(body)).reports
    except ValueError:
        return  # No JSON: half a letter, or a number that is none.
    for one in found:
        assert one.action_id or one.provider_id
        assert receipt_of(noted("email", one, NOW_MS), OURS, "u")[1]


@pytest.mark.parametrize("timestamp", [None, True, 1.5, "1795420795", [], {}])
def test_a_time_that_is_none_is_the_time_at_which_it_came(timestamp: Any) -> None:
    (found,) = receipts(event("delivered", OURS, timestamp=timestamp))
    assert found["timestamp"] == "2026-11-23T08:00:00.123Z"


def test_texts_without_end_are_cut() -> None:
    (found,) = reported(event("bounce", OURS, status="5" * 9000, reason="x" * 9000, sg_message_id="y" * 9000))
    assert max(len(found.code), len(found.detail), len(found.provider_id)) <= 500


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"[", b"\xff", b"[" * 100_000, b'{"event": "open"}'])
def test_what_is_no_list_of_events_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        provider().callback(came(body))


# ---- signatures ----------------------------------------------------------------------------------------------------


def test_the_signature_is_that_of_sendgrids_own_libraries() -> None:
    key = (
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglS"
        "I8eNEc6wEA3F+g=="
    )
    head = {
        "x-twilio-email-event-webhook-timestamp": "1600112502",
        "x-twilio-email-event-webhook-signature": "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0"
        "JuG+luQAbPIqHh89M15TluLtEZtM=",
    }
    body = (
        b'[{"email":"hello@world.com","event":"dropped","reason":"Bounced Address",'
        b'"sg_event_id":"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",'
        b'"sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",'
        b'"smtp-id":"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>","timestamp":1600112492}]\r\n'
    )
    around = Surroundings(lambda: 1_600_112_503_000, lambda: "n", Path(), 0.5)
    one = Sendgrid(settings(verification_key=key), around, without_network(lambda _: Response()))
    (found,) = one.callback(Callback("POST", {}, head, body, "https://x")).reports
    assert (found.status, found.provider_id, found.code) == ("failed", "LRzXl_NHStOGhQ4kofSm_A", "bounced_address")
    with pytest.raises(NotTheirs):
        one.callback(Callback("POST", {}, head, body.rstrip(), "https://x"))


BODY = json.dumps([event("delivered", OURS)]).encode()


@pytest.mark.parametrize(
    "forged",
    [
        Callback("POST", {}, posted(BODY, NOW_S), BODY.replace(b"delivered", b"bounce"), ""),
        Callback("POST", {}, posted(BODY, NOW_S), BODY + b" ", ""),
        Callback("POST", {}, posted(BODY, NOW_S, ec.derive_private_key(7, ec.SECP256R1())), BODY, ""),
        Callback("POST", {}, {}, BODY, ""),
        came(BODY, **{"x-twilio-email-event-webhook-timestamp": str(NOW_S + 1)}),
        came(BODY, **{"x-twilio-email-event-webhook-timestamp": ""}),
        *(came(BODY, **{"x-twilio-email-event-webhook-signature": one}) for one in ("", "AAAA", "=", "\xff", "MAA=")),
    ],
)
def test_events_that_somebody_else_wrote_or_changed_are_refused(forged: Callback) -> None:
    with pytest.raises(NotTheirs, match="the signature is wrong"):
        provider().callback(forged)


@pytest.mark.parametrize("age_s", [-300, 0, 300, DAY_S])
def test_events_that_are_posted_again_within_a_day_are_taken(age_s: int) -> None:
    assert len(reported(event("delivered", OURS), timestamp=NOW_S - age_s)) == 1


@pytest.mark.parametrize("timestamp", [NOW_S - DAY_S - 1, NOW_S + 301, 0, "", "now", "9" * 5000, f"-{NOW_S}", "1e9"])
def test_events_that_were_signed_at_another_time_are_refused(timestamp: int | str) -> None:
    with pytest.raises(NotTheirs, match="older than a day"):
        provider().callback(came(BODY, timestamp))


def test_without_a_key_nobody_is_believed() -> None:
    with pytest.raises(NotTheirs, match="verification_key"):
        provider(verification_key=None).callback(came(BODY))


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"from": "news"}, {"from": "a@b.example\nBcc: x@y.example"}, {"reply_to": "x"}, {"key": "in the file"},
        {"region": "asia"}, {"unsubscribe": None}, {"unsubscribe": {**UNSUBSCRIBES, "base": "http://u.example"}},
        {"headers": {"Subject": "x"}}, {"headers": {"X-SG-ID": "x"}}, {"headers": {"X-A": "ü"}},
        {"headers": {"X-A": "b\nc"}}, {"headers": {"List-Unsubscribe": "<x>"}}, {"categories": ["x"] * 11},
        {"categories": [""]}, {"categories": ["x" * 256]}, {"ip_pool": "x"}, {"endpoint": "sendgrid"}, {"nothing": 1},
        {"verification_key": "x"}, {"verification_key": public_key()[:-8]},
        {"verification_key": public_key(ec.derive_private_key(7, ec.SECP384R1()))},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**more)


def test_it_is_found_by_its_name_and_takes_its_message_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENDGRID_KEY", KEY)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "hello.subject.liquid").write_text("Hi {{ vars.name }}")
    (tmp_path / "templates" / "hello.html.liquid").write_text("<p>{{ vars.name }}")
    written = {"provider": "sendgrid", "key": {"env": "SENDGRID_KEY"}, "from": "a@acme.example", "unsubscribe": False}
    how = delivered("email", "actions.email", written, tmp_path, lambda: NOW_MS, lambda: "n")
    assert (how.policy.drops_repeats, how.policy.can_be_asked) == (False, False)
    shown = how.provider.preview(mail(vars={"name": "<Lina>"}))["body"]
    assert (shown["subject"], shown["content"]) == (
        "Hi <Lina>", [{"type": "text/html", "value": "<p>&lt;Lina&gt;"}],
    )  # fmt: skip
    for more, said in (
        ({"verification_key": "x"}, r"deliver\.verification_key: .*Verification Key"), ({"region": "us"}, r"\.region:"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            delivered("email", "actions.email", {**written, **more}, tmp_path, lambda: NOW_MS, lambda: "n")
