"""Twilio SMS: forms as documented, every code understood, reports verified."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from connectors.channels.base import Callback, Content, NotTheirs, Report, Surroundings, Unfit
from connectors.channels.twilio import Twilio, TwilioSettings, signature_of
from dataflow.deliver.config import delivered
from dataflow.errors import UsageError
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, UNKNOWN, Answer
from state.outgoing import Action
from tests.delivery.actions import action
from tests.providers.server import HANGS, HANGS_UP, Handler, Response, without_network
from tests.providers.twilio import ACCOUNT, TOKEN, error, report
from tests.providers.twilio import Twilio as Fake

CALLBACK = "https://nudge.example.com/receipts/sms/s3cret-path"
SMS = action("a", channel="sms", to="+14155238886", vars={"name": "Lina"})


def provider(handle: Handler = lambda _: Response(), text: str = "Hi Lina & co, 你好+", **more: Any) -> Twilio:
    given = {
        "account_sid": ACCOUNT, "auth_token": {"env": "TOKEN"}, "callback": {"env": "CALLBACK"},
        **({} if "messaging_service" in more else {"from": "+15005550006"}), **more,
    }  # fmt: skip
    environment = {"TOKEN": TOKEN, "CALLBACK": CALLBACK, "WRONG": "wrong", "KEY": "keysecret"}
    settings = TwilioSettings.model_validate(given, context={"environment": environment})
    around = Surroundings(lambda: 0, lambda: "n", Path(), 0.5, lambda action, url: Content("", text, ""))
    return Twilio(settings, around, without_network(handle))


def called(handle: Handler, one: Action = SMS, **more: Any) -> Answer:
    return asyncio.run(provider(handle, **more).call(one))


# ---- sending -------------------------------------------------------------------------------------------------------


def test_a_message_goes_out_with_an_address_to_report_to() -> None:
    fake = Fake()
    assert called(fake) == Answer(OK, "queued", provider_id="SM" + "0" * 31 + "1")
    assert fake.sent == [
        {
            "To": "+14155238886", "Body": "Hi Lina & co, 你好+", "From": "+15005550006", "sid": "SM" + "0" * 31 + "1",
            "StatusCallback": f"{CALLBACK}?action_id={SMS.action_id}",
        }
    ]  # fmt: skip


def test_a_messaging_service_can_be_the_sender_and_a_key_can_stand_for_the_token() -> None:
    fake = Fake()
    more: dict[str, Any] = {"messaging_service": "MG1", "key": "SK1", "key_secret": {"env": "KEY"}, "callback": None}
    assert called(fake, **more).code == "accepted"
    assert fake.sent[0].keys() == {"To", "Body", "MessagingServiceSid", "sid"}


@pytest.mark.parametrize("written", ["+1 (415) 523-8886", "0014155238886", "+1.415.523.8886"])
def test_a_number_is_written_with_plus_and_digits(written: str) -> None:
    fake = Fake()
    called(fake, action("a", to=written))
    assert fake.sent[0]["To"] == "+14155238886"


@pytest.mark.parametrize(
    ("to", "text", "code"),
    [
        (None, "x", "no_address"), ("4155238886", "x", "bad_address"), ("", "x", "bad_address"),
        ("+14155238886,+14155238887", "x", "bad_address"), ("+14155238886", " \n", "no_text"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused_before_anybody_is_called(to: str | None, text: str, code: str) -> None:
    with pytest.raises(Unfit) as refused:
        called(lambda _: pytest.fail("it was called"), action("a", to=to), text=text)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (error(21211), PERMANENT, "21211"), (error(21614), PERMANENT, "21614"), (error(21617), PERMANENT, "21617"),
        (error(21609), CONFIG, "21609"), (error(21606), CONFIG, "21606"), (error(20003, 401), CONFIG, "20003"),
        (error(20404, 404), CONFIG, "20404"), (error(20005, 403), CONFIG, "20005"),
        (error(20500, 500), UNKNOWN, "20500"), (error(20503, 503), RETRY, "20503"),
        (Response(502, b"<html>"), UNKNOWN, "http_502"),
        (Response(504), UNKNOWN, "http_504"), (Response(302), CONFIG, "http_302"), (Response(201), UNKNOWN, "http_201"),
        (Response(200, b"[]"), UNKNOWN, "http_200"), (Response(400, b'{"code": "x"}'), PERMANENT, "http_400"),
        (HANGS, UNKNOWN, "no_answer"), (HANGS_UP, UNKNOWN, "no_answer"),
    ],
    ids=str,
)  # fmt: skip
def test_what_an_answer_means(answer: Response | str, kind: str, code: str) -> None:
    found = called(lambda _: answer)
    assert (found.kind, found.code, found.status) == (kind, code, "")


@pytest.mark.parametrize(
    "answer", [error(20429, 429, **{"retry-after": "3"}), Response(429, headers={"retry-after": "3"})]
)
def test_who_is_too_fast_waits_as_long_as_it_is_told(answer: Response) -> None:
    found = called(lambda _: answer)
    assert (found.kind, found.wait_ms, found.is_of_recipient) == (THROTTLED, 3_000, False)


def test_who_has_answered_stop_is_unsubscribed() -> None:
    assert called(Fake(), action("a", to="+15005550004")) == Answer(PERMANENT, "21610", "why", status="unsubscribed")


def test_a_wrong_token_is_a_wrong_setting() -> None:
    assert called(Fake(), auth_token={"env": "WRONG"}).kind == CONFIG


# ---- reports -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "signature"),
    [("+14158675309", "RSOYDt4T1cUTdK1PDd93/VVr8B8="), ("+12349013030", "0/KCTR6DLpKmkAf8muzZqo1nDgQ=")],
)
def test_the_signature_is_that_of_the_documentation(number: str, signature: str) -> None:
    fields = {"CallSid": "CA1234567890ABCDE", "Caller": number, "Digits": "1234", "From": number, "To": "+18005551212"}
    assert signature_of("https://mycompany.com/myapp.php?foo=1&bar=2", fields, "12345") == signature


def reported(status: str, *, token: str = TOKEN, action_id: str = SMS.action_id, **fields: str) -> list[Report]:
    url = f"{CALLBACK}?action_id={action_id}"
    body, headers = report(url, token, MessageSid="SM1", MessageStatus=status, To="+1 4", From="+1&5", **fields)
    # Behind a proxy it comes by another address than the one that was signed.
    came = Callback("POST", {"action_id": SMS.action_id}, headers, body, "http://10.0.0.1:8080/receipts/sms/x")
    reply = provider().callback(came)
    assert (reply.status, reply.body) == (204, b"")
    return list(reply.reports)


@pytest.mark.parametrize(
    ("status", "ours", "event_id"),
    [
        ("queued", "accepted", ""), ("sending", "accepted", ""), ("sent", "accepted", ""), ("accepted", "accepted", ""),
        ("delivered", "delivered", "SM1"), ("undelivered", "failed", "SM1"), ("failed", "failed", "SM1"),
        ("canceled", "failed", "SM1"), ("read", "opened", "SM1"),
    ],
)  # fmt: skip
def test_a_report_names_our_action_and_accepted_is_said_once(status: str, ours: str, event_id: str) -> None:
    (found,) = reported(status, ErrorCode="30003")
    assert found == Report(ours, SMS.action_id, "SM1", "30003", "", event_id)


def test_a_status_that_says_nothing_is_no_report() -> None:
    assert reported("scheduled") == []


def test_a_report_that_somebody_else_wrote_or_moved_to_another_action_is_refused() -> None:
    with pytest.raises(NotTheirs):
        reported("delivered", token="wrong")
    with pytest.raises(NotTheirs):
        reported("delivered", action_id=action("b").action_id)
    with pytest.raises(NotTheirs):
        provider().callback(Callback("POST", {"action_id": SMS.action_id}, {}, b"MessageSid=SM1", CALLBACK))
    with pytest.raises(NotTheirs):
        provider(callback=None).callback(Callback("POST", {}, {}, b"", CALLBACK))


def test_a_report_without_a_message_is_refused() -> None:
    body, headers = report(f"{CALLBACK}?action_id=x", MessageStatus="sent")
    with pytest.raises(ValueError, match="MessageSid"):
        provider().callback(Callback("POST", {"action_id": "x"}, headers, body, CALLBACK))


# ---- settings ------------------------------------------------------------------------------------------------------


def test_what_would_be_sent_is_shown_without_secrets() -> None:
    one = provider()
    shown = f"{one.preview(SMS)} {one._settings!r} {one._settings.model_dump()}"
    assert "Hi Lina" in shown
    assert "s3cret" not in shown
    assert TOKEN not in shown


def test_it_is_found_by_its_name_and_takes_its_text_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWILIO_TOKEN", TOKEN)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "hello.txt.liquid").write_text("Hello {{ vars.name }}")
    written = {"provider": "twilio", "account_sid": ACCOUNT, "auth_token": {"env": "TWILIO_TOKEN"}, "from": "+1500"}
    how = delivered("sms", "actions.sms", written, tmp_path, lambda: 0, lambda: "n")
    assert (how.policy.drops_repeats, how.policy.can_be_asked) == (False, False)
    assert how.provider.preview(SMS)["form"]["Body"] == "Hello Lina"
    for more, said in (
        ({"account_sid": "me"}, r"deliver\.account_sid: "), ({"messaging_service": "MG1"}, "either from or messaging"),
        ({"key": "SK1"}, "key and key_secret belong together"), ({"endpoint": "twilio"}, r"deliver\.endpoint: .*write"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            delivered("sms", "actions.sms", {**written, **more}, tmp_path, lambda: 0, lambda: "n")
