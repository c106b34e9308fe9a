"""Alibaba Cloud SMS: signed as documented, every code understood, and nothing sent twice that can be found."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Coroutine
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec
import orjson
import pytest

from connectors.channels.acs3 import authorization, canonical, query_of
from connectors.channels.alibaba_sms import AlibabaSms, AlibabaSmsSettings
from connectors.channels.base import Callback, Surroundings, Unfit
from connectors.ledgers.sqlite import SqliteLedger
from dataflow.deliver.channel import ChannelAtWork
from dataflow.deliver.config import Delivered, delivered
from dataflow.errors import UsageError
from dataflow.logs import get_logger
from operators.delivery.machine import Place
from operators.delivery.policy import Policy
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, UNKNOWN, Answer
from state.outgoing import Action
from tests.delivery.actions import action
from tests.providers.alibaba_sms import KEY_ID, KEY_SECRET, Dysmsapi, refusal
from tests.providers.server import HALF, HANGS, HANGS_UP, NONSENSE, Handler, Request, Response, Server, without_network

NOW_MS = 1_795_420_800_123  # 2026-11-23T08:00:00Z, 16:00 in Beijing.
DAY_MS = 86_400_000
EMPTY = hashlib.sha256(b"").hexdigest()

SMS = action("a", channel="sms", to="13800138000", template="code", vars={"code": "1234"})


class Clock:
    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


NUMBERS = count()


def provider(
    clock: Callable[[], int],
    transport: httpx.AsyncBaseTransport | None,
    *,
    nonce: Callable[[], str] = lambda: f"{next(NUMBERS):032x}",
    **more: Any,
) -> AlibabaSms:
    given = {
        "key_id": {"env": "ID"}, "secret": {"env": "SECRET"}, "sign_name": "阿里云", "templates": {"code": "SMS_1"},
        **more,
    }  # fmt: skip
    environment = {"ID": KEY_ID, "SECRET": KEY_SECRET, "WRONG": "wrong"}
    settings = AlibabaSmsSettings.model_validate(given, context={"environment": environment})
    return AlibabaSms(settings, Surroundings(clock, nonce, Path(), 0.5), transport)


def with_provider(
    fake: Handler,
    work: Callable[[AlibabaSms], Coroutine[Any, Any, Any]],
    clock: Callable[[], int] | None = None,
    **more: Any,
) -> Any:
    """Return what *work* gives with a provider at *fake*."""

    async def run() -> Any:
        one = provider(clock or Clock(), without_network(fake), **more)
        try:
            return await work(one)
        finally:
            await one.close()

    return asyncio.run(run())


def called(fake: Handler, one: Action = SMS, **more: Any) -> Answer:
    found: Answer = with_provider(fake, lambda provider: provider.call(one), **more)
    return found


# ---- the signature -------------------------------------------------------------------------------------------------


def signed(host: str, action: str, version: str, date: str, nonce: str, **more: Any) -> tuple[str, str]:
    """Return the hash of the canonical request, and the signature."""
    body = more.get("body", b"")
    headers = {
        "host": host, "x-acs-action": action, "x-acs-version": version, "x-acs-date": date, "accept": "text/plain",
        "x-acs-signature-nonce": nonce, "x-acs-content-sha256": hashlib.sha256(body).hexdigest(),
        **more.get("headers", {}),
    }  # fmt: skip
    request, names = canonical("POST", "/", query_of(more.get("query", {})), headers)
    made = authorization(request, names, *more.get("key", (KEY_ID, KEY_SECRET)))
    return hashlib.sha256(request.encode()).hexdigest(), made.rpartition("Signature=")[2]


def test_the_signature_is_that_of_the_documentation() -> None:
    query = {"RegionId": "cn-shanghai", "ImageId": "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd"}
    made = signed(
        "ecs.cn-shanghai.aliyuncs.com", "RunInstances", "2014-05-26", "2023-10-26T10:22:32Z",
        "3156853299f313e23d1673dc12e1703d", query=query, key=("YourAccessKeyId", "YourAccessKeySecret"),
    )  # fmt: skip
    assert made == (
        "7ea06492da5221eba5297e897ce16e55f964061054b7695beedaac1145b1e259",
        "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0",
    )


def test_the_signature_of_a_form_is_over_its_bytes() -> None:
    body = (
        b"AccountName=news%40mail.example.com&AddressType=1&HtmlBody=%3Cp%3EHi%3C%2Fp%3E&ReplyToAddress=false"
        b"&Subject=Hello&TagName=f1&ToAddress=user%40example.org"
    )
    assert hashlib.sha256(body).hexdigest() == "08cd46868e85d20c33c0357316fc58acfc91dbb84ed61eaf0f8b7084a796943a"
    _, made = signed(
        "dm.aliyuncs.com", "SingleSendMail", "2015-11-23", "2024-01-01T00:00:00Z", "0123456789abcdef0123456789abcdef",
        body=body, headers={"content-type": "application/x-www-form-urlencoded"},
    )  # fmt: skip
    assert made == "6198d9ce31eb4aabee9edf725156e0bfd27f9752e75cad90e74fac7e08536c8a"


def test_what_is_sent_is_byte_for_byte_what_is_signed() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"Code": "OK", "BizId": "9^0"})

    async def call() -> Answer:
        clock, nonce = Clock(1_704_067_200_999), "0123456789abcdef0123456789abcdef"
        one = provider(clock, httpx.MockTransport(answer), nonce=lambda: nonce)
        return await one.call(msgspec.structs.replace(SMS, action_id="f1:1:e1:2"))

    assert asyncio.run(call()) == Answer(OK, "OK", provider_id="9^0")
    (request,) = seen
    assert (request.method, request.content) == ("POST", b"")
    assert request.url.raw_path == (
        b"/?OutId=f1%3A1%3Ae1%3A2&PhoneNumbers=13800138000&SignName=%E9%98%BF%E9%87%8C%E4%BA%91&TemplateCode=SMS_1"
        b"&TemplateParam=%7B%22code%22%3A%221234%22%7D"
    )
    assert request.headers["host"] == "dysmsapi.aliyuncs.com"
    assert request.headers["x-acs-date"] == "2024-01-01T00:00:00Z"
    assert request.headers["authorization"] == (
        "ACS3-HMAC-SHA256 Credential=testid,SignedHeaders=host;x-acs-action;x-acs-content-sha256;x-acs-date;"
        "x-acs-signature-nonce;x-acs-version,"
        "Signature=841577242ee2974c8b73b4dd33aacd096c9cdcb17eecd8ec2c69e30a73be7027"
    )


def test_any_text_is_signed_as_the_provider_sees_it() -> None:
    fake = Dysmsapi(Clock())
    strange = {"code": 'a b+c*d~e/f?g&h=i%20j#k"l\\m\n\u00e9\u4f60\U0001f600'}
    assert called(fake, action("a", to="13800138000", template="code", vars=strange)).kind == OK
    assert json.loads(fake.sent[0]["TemplateParam"]) == strange


def test_a_region_is_a_signed_parameter() -> None:
    fake = Dysmsapi(Clock())
    assert called(fake, region="ap-southeast-1").kind == OK
    assert fake.requests[0].query["RegionId"] == "ap-southeast-1"


# ---- the message ---------------------------------------------------------------------------------------------------


def test_variables_go_out_as_texts_and_names_of_templates_as_theirs_or_as_they_are() -> None:
    fake = Dysmsapi(Clock())
    given = {"name": "Lina", "count": 3, "price": 12.5, "is_new": True}
    assert called(fake, action("a", to="13800138000", template="SMS_3", vars=given)).kind == OK
    assert fake.sent[0]["TemplateCode"] == "SMS_3"
    assert fake.sent[0]["TemplateParam"] == '{"name":"Lina","count":"3","price":"12.5","is_new":"true"}'
    assert called(fake, action("b", to="13800138000", template="SMS_2", vars={})).kind == OK
    assert "TemplateParam" not in fake.sent[1]


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("13800138000", "13800138000"), ("+8613800138000", "13800138000"), ("008613800138000", "13800138000"),
        ("8613800138000", "13800138000"), ("+86 138-0013-8000", "13800138000"), ("+1 (415) 523-8886", "14155238886"),
        ("0085261234567", "85261234567"),
    ],
)  # fmt: skip
def test_a_number_is_written_as_the_provider_has_it(written: str, number: str) -> None:
    fake = Dysmsapi(Clock())
    assert called(fake, action("a", to=written, template="SMS_2", vars={})).kind == OK
    assert fake.sent[0]["PhoneNumbers"] == number


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"to": None}, "no_address"), ({"to": ""}, "bad_address"), ({"to": "lina@example.com"}, "bad_address"),
        ({"to": "13800138000,13800138001"}, "bad_address"), ({"to": "１３８００１３８０００"}, "bad_address"),
        ({"vars": {"code": None}}, "bad_variable"), ({"vars": {"code": [1]}}, "bad_variable"),
        ({"vars": {"code": {"a": 1}}}, "bad_variable"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_message_is_refused_before_anybody_is_called(more: dict[str, Any], code: str) -> None:
    fake = Dysmsapi(Clock())
    with pytest.raises(Unfit) as refused:
        called(fake, action("a", **{"to": "13800138000", "template": "code", **more}))
    assert refused.value.code == code
    assert "138" not in str(refused.value)
    assert fake.requests == []


# ---- what answers mean ---------------------------------------------------------------------------------------------

CODES = {
    PERMANENT: """isv.MOBILE_NUMBER_ILLEGAL isv.DOMESTIC_NUMBER_NOT_SUPPORTED isv.MOBILE_COUNT_OVER_LIMIT
        isv.TEMPLATE_MISSING_PARAMETERS isv.INVALID_PARAMETERS isv.INVALID_JSON_PARAM isv.BLACK_KEY_CONTROL_LIMIT
        isv.PARAM_NOT_SUPPORT_URL isv.PARAM_LENGTH_LIMIT isv.SMS_CONTENT_ILLEGAL isv.EXTEND_CODE_ERROR
        isv.FORBIDDEN_ACTION isv.SOMETHING_NEW""",
    CONFIG: """isv.SMS_TEMPLATE_ILLEGAL isv.SMS_SIGNATURE_ILLEGAL isv.SMS_SIGN_ILLEGAL isv.SIGN_STATE_ILLEGAL
        isv.SMS_SIGNATURE_SCENE_ILLEGAL isv.DENY_IP_RANGE isp.RAM_PERMISSION_DENY isv.PRODUCT_UN_SUBSCRIPT
        isv.PRODUCT_UNSUBSCRIBE isv.ACCOUNT_NOT_EXISTS isv.ACCOUNT_ABNORMAL isv.OUT_OF_SERVICE isv.AMOUNT_NOT_ENOUGH
        MissingPhoneNumbers isv.DAY_LIMIT_CONTROL isv.MONTH_LIMIT_CONTROL""",
    RETRY: "isp.SYSTEM_ERROR isp.SOMETHING_NEW QPS_LIMIT_CONTROL ONLINE_BILLING_FAILED",
}


@pytest.mark.parametrize(("code", "kind"), [(code, kind) for kind, codes in CODES.items() for code in codes.split()])
def test_what_a_code_of_a_message_means(code: str, kind: str) -> None:
    assert called(lambda _: refusal(code, "why")) == Answer(kind, code, "why")


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("InvalidAccessKeyId.NotFound", 404, CONFIG), ("SignatureDoesNotMatch", 400, CONFIG),
        ("InvalidApi.NotFound", 404, CONFIG), ("MissingSignName", 400, CONFIG), ("Forbidden.RAM", 403, CONFIG),
        ("InvalidTimeStamp.Expired", 400, RETRY), ("InvalidTimeStamp.Format", 400, RETRY),
        ("SignatureNonceUsed", 400, UNKNOWN), ("InternalError", 500, RETRY), ("ServiceUnavailable", 503, RETRY),
        ("Throttling", 400, THROTTLED), ("Throttling.User", 400, THROTTLED), ("Throttling.Api", 503, THROTTLED),
        ("Throttling.New", 400, THROTTLED), ("New", 500, RETRY), ("New", 502, UNKNOWN), ("New", 504, UNKNOWN),
    ],
)  # fmt: skip
def test_what_a_code_of_the_gateway_means(code: str, status: int, kind: str) -> None:
    found = called(lambda _: refusal(code, "why", status))
    assert (found.kind, found.code, found.detail, found.is_of_recipient) == (kind, code, "why", False)


@pytest.mark.parametrize(
    ("message", "wait_ms"),
    [
        ("触发分钟级流控Permits:1", 60_000), ("触发小时级流控Permits:5", 3_600_000), ("触发天级流控Permits:10", DAY_MS),
        ("too often", 60_000),
    ],
)  # fmt: skip
def test_a_recipient_who_got_too_much_waits_for_the_window_that_the_message_names(message: str, wait_ms: int) -> None:
    found = called(lambda _: refusal("isv.BUSINESS_LIMIT_CONTROL", message))
    assert found == Answer(THROTTLED, "isv.BUSINESS_LIMIT_CONTROL", message, wait_ms=wait_ms, is_of_recipient=True)


@pytest.mark.parametrize(("said", "wait_ms"), [("2000", 2_000), ("99999999999", 3_600_000), ("soon", None), ("", None)])
def test_an_account_that_is_too_fast_waits_as_long_as_it_is_told(said: str, wait_ms: int | None) -> None:
    found = called(lambda _: refusal("Throttling.User", "slow", 400, **{"x-acs-retry-after": said}))
    assert (found.kind, found.wait_ms, found.is_of_recipient) == (THROTTLED, wait_ms, False)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Response(200, b"<html>welcome</html>"), UNKNOWN), (Response(200, b"[]"), UNKNOWN), (Response(200), UNKNOWN),
        (Response(200, b'{"Message": "OK"}'), UNKNOWN), (Response(502, b"<html>"), UNKNOWN), (Response(500), UNKNOWN),
        (Response(403, b"<html>proxy"), RETRY), (HANGS, UNKNOWN), (HANGS_UP, UNKNOWN), (HALF, UNKNOWN),
        (NONSENSE, UNKNOWN),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_the_providers_answer_leaves_it_open_unless_it_was_surely_refused(
    answer: Response | str, kind: str
) -> None:
    assert called(lambda _: answer).kind == kind


def test_it_goes_over_the_wire_as_it_was_signed() -> None:
    fake = Dysmsapi(Clock(), after=lambda _: HANGS_UP if len(fake.sent) > 1 else None)

    async def twice(url: str) -> list[Answer]:
        one = provider(Clock(), None, endpoint=url)
        found = [await one.call(SMS), await one.call(SMS), await one.ask(SMS, NOW_MS)]
        await one.close()
        return found

    with Server(fake) as server:
        assert [one.kind for one in asyncio.run(twice(server.url))] == [OK, UNKNOWN, UNKNOWN]
    assert len(fake.sent) == 2


def test_wrong_keys_are_told_from_each_other() -> None:
    fake = Dysmsapi(Clock())
    assert called(fake, key_id={"env": "WRONG"}).code == "InvalidAccessKeyId.NotFound"
    assert called(fake, secret={"env": "WRONG"}).code == "SignatureDoesNotMatch"
    assert fake.sent == []


def test_each_attempt_is_signed_anew() -> None:
    clock, fake = Clock(), Dysmsapi(Clock())

    async def twice(one: AlibabaSms) -> list[str]:
        found = [(await one.call(SMS)).code]
        clock.now_ms += 60_000
        return [*found, (await one.call(SMS)).code]

    assert with_provider(fake, twice, clock) == ["OK", "OK"]
    first, second = (request.headers for request in fake.requests)
    for name in ("x-acs-date", "x-acs-signature-nonce", "authorization"):
        assert first[name] != second[name]
    assert [one["OutId"] for one in fake.sent] == [SMS.action_id] * 2  # It drops no repeats.


def test_a_clock_that_is_wrong_and_a_nonce_that_was_used_are_what_they_are_for_the_provider() -> None:
    assert called(Dysmsapi(Clock(NOW_MS + 901_000))).code == "InvalidTimeStamp.Expired"
    fake = Dysmsapi(Clock())
    assert called(fake, nonce=lambda: "n").kind == OK
    assert called(fake, nonce=lambda: "n") == Answer(UNKNOWN, "SignatureNonceUsed", "no")
    assert len(fake.sent) == 1


# ---- what has become of it -----------------------------------------------------------------------------------------


def asked(fake: Dysmsapi, since_ms: int = NOW_MS, now_ms: int = NOW_MS, one: Action = SMS) -> Answer:
    found: Answer = with_provider(fake, lambda provider: provider.ask(one, since_ms), Clock(now_ms))
    return found


def test_what_was_sent_before_the_answer_was_lost_is_found_and_what_was_not_is_not() -> None:
    fake = Dysmsapi(Clock(), after=lambda request: HANGS if request.headers["x-acs-action"] == "SendSms" else None)
    assert called(fake).kind == UNKNOWN
    assert asked(fake) == Answer(OK, "OK", "found among what was sent")
    fake = Dysmsapi(Clock(), before=lambda request: HANGS if request.headers["x-acs-action"] == "SendSms" else None)
    assert called(fake).kind == UNKNOWN
    assert asked(fake).kind == RETRY
    assert (len(fake.sent), Policy(can_be_asked=AlibabaSms.can_be_asked).may_call_again(0, 0)) == (0, False)


@pytest.mark.parametrize("status", [1, 2, 3])
def test_what_was_sent_was_accepted_whatever_became_of_it_then(status: int) -> None:
    fake = Dysmsapi(Clock())
    fake.status_of[SMS.action_id] = status
    called(fake)
    assert asked(fake).kind == OK


def test_a_message_is_looked_for_on_each_day_that_it_may_have_been_sent_on_in_beijing() -> None:
    midnight = NOW_MS + 8 * 3_600_000  # In Beijing.
    fake = Dysmsapi(Clock(midnight - 1_000))
    called(fake, clock=Clock(midnight - 1_000))
    fake.requests.clear()
    assert asked(fake, midnight + 1_000, midnight + 60_000).kind == OK  # Their clock is behind ours.
    assert [request.query["SendDate"] for request in fake.requests] == ["20261124", "20261123"]
    fake = Dysmsapi(Clock(midnight + 1_000))
    called(fake, clock=Clock(midnight + 1_000))
    fake.requests.clear()
    assert asked(fake, midnight - 60_000, midnight - 30_000).kind == OK  # Theirs is ahead.
    assert [request.query["SendDate"] for request in fake.requests] == ["20261124"]


def test_a_message_is_looked_for_on_every_page() -> None:
    fake = Dysmsapi(Clock())

    async def many(one: AlibabaSms) -> list[Answer]:
        for number in range(60):
            await one.call(action(str(number), to="+8613800138000", template="code", vars={"code": "1"}))
        return [await one.ask(action(name, to="+8613800138000"), NOW_MS) for name in ("0", "59", "never")]

    assert [one.kind for one in with_provider(fake, many)] == [OK, OK, RETRY]


def test_nobody_says_that_a_message_was_never_there_when_it_is_too_long_ago_to_know() -> None:
    fake = Dysmsapi(Clock(NOW_MS + 40 * DAY_MS))
    assert asked(fake, NOW_MS, NOW_MS + 40 * DAY_MS).kind == UNKNOWN
    assert len(fake.requests) == 30


@pytest.mark.parametrize(
    "answer",
    [
        refusal("isp.SYSTEM_ERROR"), refusal("Throttling.User", status=400), refusal("isp.RAM_PERMISSION_DENY"),
        refusal("isv.NEW"), Response(200, b'{"Code": "OK"}'), Response(403), Response(200, b"{}"), HANGS, HANGS_UP,
        Response(200, b'{"Code": "OK", "TotalCount": 1, "SmsSendDetailDTOs": {"SmsSendDetailDTO": ["x"]}}'),
        Response(200, b'{"Code": "OK", "TotalCount": 9999, "SmsSendDetailDTOs": {"SmsSendDetailDTO": []}}'),
    ],
    ids=str,
)  # fmt: skip
def test_an_answer_that_does_not_tell_leaves_it_unknown(answer: Response | str) -> None:
    assert asked(Dysmsapi(Clock(), before=lambda _: answer)).kind == UNKNOWN


# ---- reports -------------------------------------------------------------------------------------------------------


def reported(body: Any) -> Any:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    came = Callback("POST", {}, {"content-type": "application/json"}, raw, "https://x/receipts/sms/secret")
    return provider(Clock(), without_network(Dysmsapi(Clock()))).callback(came)


def test_a_report_of_the_mainland_names_our_action_and_its_time() -> None:
    one = {
        "phone_number": "13800138000", "send_time": "2026-11-23 16:30:00", "report_time": "2026-11-23 16:30:04",
        "success": True, "err_code": "DELIVERED", "err_msg": "用户接收成功", "sms_size": "1",
        "biz_id": "900619746936498440^0", "out_id": SMS.action_id,
    }  # fmt: skip
    other = {
        **one,
        "success": False,
        "err_code": "MK:0005",
        "err_msg": "x",
        "out_id": "somebody else's",
        "biz_id": "7^0",
    }
    reply = reported([one, other])
    assert (reply.status, json.loads(reply.body)) == (200, {"code": 0, "msg": "ok"})
    first, second = reply.reports
    assert (first.status, first.action_id, first.code) == ("delivered", SMS.action_id, "DELIVERED")
    assert (first.provider_id, first.event_id) == ("900619746936498440^0", "900619746936498440^0")
    assert first.at_ms == 1_795_422_604_000
    assert (second.status, second.action_id, second.provider_id, second.code) == ("failed", "", "7^0", "MK:0005")


@pytest.mark.parametrize(("status", "ours"), [("1", "delivered"), ("2", "failed"), ("6", "failed"), (1, "delivered")])
def test_an_international_report_names_their_message(status: Any, ours: str) -> None:
    one = {
        "To": "6581234567", "Status": status, "MessageId": "1008030300**** ", "SmsSize": "1", "TaskId": "123",
        "SendDate": "Mon, 23 Nov 2026 16:30:00 +0800", "ReceiveDate": "Mon, 23 Nov 2026 16:30:04 +0800",
        "ErrorCode": "DELIVERED", "ErrorDescription": "success",
    }  # fmt: skip
    for body in (one, [one]):
        (report,) = reported(body).reports
        assert (report.status, report.provider_id, report.action_id) == (ours, one["MessageId"], "")
        assert (report.at_ms, report.code) == (1_795_422_604_000, "DELIVERED")


@pytest.mark.parametrize(
    "body", [b"", b"<x/>", [1], {"Status": "9", "MessageId": "1"}, {"Status": "1"}, [{}], "x"], ids=str
)
def test_what_is_no_report_is_refused(body: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        reported(body)


# ---- settings ------------------------------------------------------------------------------------------------------


def test_what_would_be_sent_is_shown_without_keys() -> None:
    one = provider(Clock(), without_network(Dysmsapi(Clock())))
    shown = one.preview(SMS)
    assert shown["query"]["TemplateParam"] == '{"code":"1234"}'
    assert KEY_SECRET not in f"{shown} {one._settings!r} {one._settings.model_dump()}"
    assert KEY_ID not in f"{shown} {one._settings!r}"


def test_it_is_found_by_its_name_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMS_KEY_ID", KEY_ID)
    monkeypatch.setenv("SMS_SECRET", KEY_SECRET)
    written = {
        "provider": "alibaba_sms", "key_id": {"env": "SMS_KEY_ID"}, "secret": {"env": "SMS_SECRET"},
        "sign_name": "Acme", "rate": "100/s",
    }  # fmt: skip
    how = delivered("sms", "actions.sms", written, Path(), Clock(), lambda: "n")
    assert isinstance(how.provider, AlibabaSms)
    assert (how.policy.drops_repeats, how.policy.can_be_asked, how.rate) == (False, True, 100)
    with pytest.raises(UsageError, match=r"channels.sms.deliver.endpoint: .*write https://dysmsapi.aliyuncs.com"):
        delivered("sms", "actions.sms", {**written, "endpoint": "dysmsapi"}, Path(), Clock(), lambda: "n")


# ---- in one piece --------------------------------------------------------------------------------------------------


class Writer:
    """Takes receipts."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []

    async def begin(self, topic: str, records: list[tuple[str, bytes]]) -> dict[int, Exception]:
        self.written.extend(json.loads(value) for _, value in records)
        return {}


@pytest.mark.parametrize("seed", range(3))
def test_delivered_through_answers_that_get_lost_each_message_is_sent_once(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)

    def lost(request: Request) -> Response | str | None:
        share = 0.3 if request.headers["x-acs-action"] == "SendSms" else 0.05
        return HANGS_UP if chance.random() < share else None

    def now_ms() -> int:
        return int(time.time() * 1000)

    fake = Dysmsapi(now_ms, before=lost, after=lost)
    writer: Any = Writer()
    actions = [
        action(str(number), f"u{number % 20}", "sms", to=f"138001380{number:02d}", template="code", vars={"code": "1"})
        for number in range(60)
    ]

    async def deliver() -> None:
        one = provider(now_ms, without_network(fake))
        policy = Policy(can_be_asked=True, ask_after_ms=10)
        at_work = ChannelAtWork(
            Delivered("sms", "actions.sms", policy, one, "sms", None), SqliteLedger(tmp_path / "l.db", "sms", "me"),
            writer, "events", now_ms, chance, lambda _: None, get_logger(),
        )  # fmt: skip
        for number, each in enumerate(actions):
            at_work.take(each, Place("0", number))
        at_work.go()
        async with asyncio.timeout(60):
            while at_work.machine.open:
                at_work.has_changed.clear()
                await at_work.has_changed.wait()
        await at_work.close()
        assert at_work.failure is None

    asyncio.run(deliver())
    ids = [one.action_id for one in actions]
    assert sorted(one["OutId"] for one in fake.sent) == sorted(ids)
    assert sorted((one["action_id"], one["status"]) for one in writer.written) == sorted((id, "accepted") for id in ids)
