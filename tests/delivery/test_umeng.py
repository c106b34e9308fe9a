"""Push messages through Umeng: the request, what every answer means, and what goes together."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.channels.base import Callback, Content, NotTheirs, Surroundings, Unfit
from connectors.channels.umeng import Umeng, UmengSettings
from connectors.ledgers.sqlite import SqliteLedger
from dataflow.deliver.channel import ChannelAtWork
from dataflow.deliver.config import delivered
from dataflow.errors import UsageError
from operators.delivery.machine import Place
from state.delivery import CONFIG, KINDS, OK, PERMANENT, RETRY, THROTTLED, UNKNOWN, Answer
from state.outgoing import Action
from tests.delivery.actions import action
from tests.providers.server import HALF, HANGS, HANGS_UP, NONSENSE, Handler, Request, Response, Server, without_network
from tests.providers.umeng import APP_KEY, SECRET, refusal
from tests.providers.umeng import Umeng as Fake

NOW_MS = 1_700_000_000_123  # 2023-11-15 06:13:20 in China.
HELLO = Content("Hi", "Hello\n", "")
IN_A_MINUTE = "2023-11-14T22:14:20.500Z"


class Clock:
    now_ms = NOW_MS

    def now_s(self) -> int:
        return self.now_ms // 1000


def push(name: str = "a", to: str | None = "Ab12", **more: Any) -> Action:
    return action(name, name, channel="push", to=to, **{"vars": {}, **more})


def settings(**more: Any) -> UmengSettings:
    written = {"app_key": APP_KEY, "secret": {"env": "S"}, "platform": "android", "endpoint": "http://umeng.test"}
    return UmengSettings.model_validate(written | more, context={"environment": {"S": SECRET}})


def provider(handle: Handler, clock: Clock | None = None, content: Content | None = HELLO, **more: Any) -> Umeng:
    now = clock or Clock()

    def find(one: Action, _: str | None) -> Content:
        if content is None:
            raise Unfit("no_template", "there is none")
        return content

    around = Surroundings(lambda: now.now_ms, lambda: "n", Path(), 10.0, find)
    return Umeng(settings(**more), around, without_network(handle))


def called(handle: Handler, one: Action | None = None, **more: Any) -> Answer:
    return asyncio.run(provider(handle, **more).call(one or push()))


def sent(one: Action | None = None, **more: Any) -> dict[str, Any]:
    """Return the request that Umeng gets."""
    fake = Fake(Clock().now_s, more.get("platform", "android"))
    answer = called(fake, one, **more)
    assert (answer.kind, fake.mistakes) == (OK, [])
    return fake.requests[0]


# ---- the signature -------------------------------------------------------------------------------------------------


def signs(url: str, body: bytes, secret: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return how the provider signs *body*, whatever it would have sent."""
    monkeypatch.setattr("connectors.channels.umeng.orjson.dumps", lambda _: body)
    read = settings(endpoint=url).model_copy(update={"secret": Revealed(secret)})
    came: list[Request] = []

    def handle(request: Request) -> Response:
        came.append(request)
        return Response()

    around = Surroundings(lambda: NOW_MS, lambda: "n", Path(), 10.0)
    asyncio.run(Umeng(read, around, without_network(handle))._send(["x"], {}))
    assert came[0].body == body
    return came[0].query["sign"]


class Revealed:
    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text


WHOLE = (
    b'{"appkey":"5f00000000000000000000aa","timestamp":"1700000000","type":"unicast","device_tokens":"Ab12","payload":'
    b'{"display_type":"notification","body":{"ticker":"Hi","title":"Hi","text":"Hello","after_open":"go_app"}},'
    b'"production_mode":"true"}'
)


@pytest.mark.parametrize(
    ("body", "secret", "sign"),
    [
        (b'{"a":1}', "secret", "03181942cb716fb4dd110d66a1ecf2d6"),
        (WHOLE, "testmastersecret", "39a2f95e71b41f1083530ccf33bbb78d"),
    ],
)
def test_the_signature_is_that_of_the_documents(
    body: bytes, secret: str, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert signs("https://msgapi.umeng.com", body, secret, monkeypatch) == sign


def test_a_whole_request_is_byte_for_byte_as_documented_but_for_what_the_app_gets() -> None:
    fake, one = Fake(Clock().now_s), push()
    called(fake, one)
    extra = f'}},"extra":{{"action_id":"{one.action_id}","template":"hello"}}}},'.encode()
    assert fake.raw == [WHOLE.replace(b"}},", extra)]


def test_the_wrong_secret_stops_the_channel_and_a_clock_that_is_wrong_is_tried_again() -> None:
    fake, clock = Fake(Clock().now_s), Clock()
    wrong = UmengSettings.model_validate(
        {"app_key": APP_KEY, "secret": {"env": "S"}, "platform": "android"}, context={"environment": {"S": "another"}}
    )
    around = Surroundings(lambda: NOW_MS, lambda: "n", Path(), 10.0, lambda one, _: HELLO)
    found = asyncio.run(Umeng(wrong, around, without_network(fake)).call(push()))
    assert (found.kind, found.code) == (CONFIG, "2027")
    clock.now_ms += 11 * 60_000
    found = called(fake, clock=clock)
    assert (found.kind, found.code) == (RETRY, "2028")


def test_each_attempt_has_a_time_and_a_signature_of_its_own() -> None:
    clock = Clock()
    fake = Fake(clock.now_s)

    async def call() -> list[str]:
        umeng, found = provider(fake, clock), []
        for minutes in (0, 20, 40):
            clock.now_ms = NOW_MS + minutes * 60_000
            found.append((await umeng.call(push())).kind)
        return found

    assert asyncio.run(call()) == [OK] * 3
    assert fake.mistakes == []
    assert [one["timestamp"] for one in fake.requests] == ["1700000000", "1700001200", "1700002400"]


def test_over_a_real_connection_it_is_signed_for_the_host_that_is_called() -> None:
    fake = Fake(Clock().now_s)

    async def call(url: str) -> Answer:
        around = Surroundings(lambda: NOW_MS, lambda: "n", Path(), 10.0, lambda one, _: HELLO)
        umeng = Umeng(settings(endpoint=url), around)
        answer = await umeng.call(push())
        await umeng.close()
        return answer

    with Server(fake) as server:
        assert asyncio.run(call(server.url)) == Answer(OK, provider_id="uu00000000000000000001")
    assert fake.mistakes == []


# ---- the message ---------------------------------------------------------------------------------------------------


def test_a_message_of_files_is_a_notification_and_the_app_gets_the_variables() -> None:
    one = push(vars={"name": "Lina", "count": 3, "items": [{"sku": "X"}], "none": None, "big": 2**70})
    assert sent(one)["payload"] == {
        "display_type": "notification",
        "body": {"ticker": "Hi", "title": "Hi", "text": "Hello", "after_open": "go_app"},
        "extra": {
            "name": "Lina", "count": "3", "items": '[{"sku":"X"}]', "none": "null", "big": str(2**70),
            "action_id": one.action_id, "template": "hello",
        },
    }  # fmt: skip


def test_without_files_title_and_body_are_variables_and_without_them_the_app_decides() -> None:
    found = sent(push(vars={"title": "Hi", "body": "There", "sku": "X"}), content=None)["payload"]
    assert (found["body"]["title"], found["body"]["text"]) == ("Hi", "There")
    assert set(found["extra"]) == {"sku", "action_id", "template"}
    one = push(vars={"sku": "X"})
    found = sent(one, content=None)["payload"]
    assert found["display_type"] == "message"
    assert json.loads(found["body"]["custom"]) == {"sku": "X", "action_id": one.action_id, "template": "hello"}


def test_on_ios_the_variables_stand_beside_what_is_apples() -> None:
    one = push(vars={"sku": "X"})
    assert sent(one, platform="ios", message={"payload": {"aps": {"sound": "default"}}})["payload"] == {
        "aps": {"alert": {"title": "Hi", "body": "Hello"}, "sound": "default"},
        "sku": "X", "action_id": one.action_id, "template": "hello",
    }  # fmt: skip
    assert sent(one, platform="ios", content=None)["payload"]["aps"] == {"content-available": 1}
    assert sent(one, platform="ios", content=Content("", "Hello", ""))["payload"]["aps"] == {"alert": {"body": "Hello"}}


@pytest.mark.parametrize("name", ["aps", "d", "p"])
def test_a_variable_with_a_name_of_umengs_own_is_told(name: str) -> None:
    with pytest.raises(Unfit, match="bad_variable"):
        sent(push(vars={name: "x"}), platform="ios")
    sent(push(vars={name: "x"}))


@pytest.mark.parametrize(
    ("content", "code"), [(Content("Hi", "", ""), "no_body"), (Content("", "Hello", ""), "no_title")]
)
def test_a_notification_on_android_has_both_parts(content: Content, code: str) -> None:
    with pytest.raises(Unfit, match=code):
        sent(content=content)


@pytest.mark.parametrize(
    ("after_open", "name"), [("go_url", "url"), ("go_activity", "activity"), ("go_custom", "custom")]
)
def test_what_opens_comes_from_the_variable_or_the_settings(after_open: str, name: str) -> None:
    found = sent(push(vars={name: "https://s.test/1"}), after_open=after_open)["payload"]
    assert (found["body"]["after_open"], found["body"][name]) == (after_open, "https://s.test/1")
    assert name not in found["extra"]
    besides = {"payload": {"body": {name: "https://s.test/2"}}}
    assert sent(after_open=after_open, message=besides)["payload"]["body"][name] == "https://s.test/2"
    with pytest.raises(Unfit, match="missing_variable"):
        sent(after_open=after_open)


def test_an_alias_is_an_address_too() -> None:
    found = sent(push(to="lina@acme.example"), alias_type="user")
    assert (found["type"], found["alias_type"], found["alias"]) == ("customizedcast", "user", "lina@acme.example")
    assert "device_tokens" not in found


def test_what_every_request_has_besides_is_a_setting_and_counts() -> None:
    besides = {"description": "cart", "mipush": "true", "policy": {"max_send_num": 1000}}
    found = sent(push(expires_at=IN_A_MINUTE), message=besides, production=False)
    assert (found["description"], found["mipush"], found["production_mode"]) == ("cart", "true", "false")
    assert found["policy"] == {"max_send_num": 1000, "expire_time": "2023-11-15 06:14:20"}


@pytest.mark.parametrize(
    ("expires_at", "expire_time"),
    [
        (IN_A_MINUTE, "2023-11-15 06:14:20"), ("2023-11-14T22:13:20.999Z", "2023-11-15 06:13:20"),
        ("2024-11-14T22:13:20.999Z", "2023-11-22 06:03:20"),
    ],
)  # fmt: skip
def test_a_message_is_of_no_use_after_the_action_has_expired_in_the_time_of_china(
    expires_at: str, expire_time: str
) -> None:
    assert sent(push(expires_at=expires_at))["policy"] == {"expire_time": expire_time}
    assert "policy" not in sent()


@pytest.mark.parametrize(
    ("to", "more", "code"),
    [
        (None, {}, "no_address"), ("", {}, "no_address"), ("a,b", {}, "bad_address"), ("a b", {}, "bad_address"),
        ("a\n", {}, "bad_address"), ("丽", {}, "bad_address"), (None, {"alias_type": "user"}, "no_address"),
        ("a,b", {"alias_type": "user"}, "bad_address"), ("a\tb", {"alias_type": "user"}, "bad_address"),
    ],
)  # fmt: skip
def test_what_is_no_address_or_would_be_two_is_sent_to_nobody(to: str | None, more: dict[str, str], code: str) -> None:
    fake = Fake(Clock().now_s)
    with pytest.raises(Unfit, match=code):
        called(fake, push(to=to), **more)
    assert fake.raw == []


def test_what_is_too_large_is_told_before_the_call() -> None:
    def long(size: int, **more: Any) -> dict[str, Any]:
        fixed = len(json.dumps(sent(push(vars={"x": ""}))["payload"], separators=(",", ":")))
        return sent(push(vars={"x": "丽" * ((size - fixed) // 3) + "x" * ((size - fixed) % 3)}), **more)

    assert long(1840)
    with pytest.raises(Unfit, match=r"too_large.*1841 bytes, and 1840"):
        long(1841)
    assert long(1700, payload_max=1700)
    with pytest.raises(Unfit, match="too_large"):
        long(1701, payload_max=1700)


def test_what_is_wrong_with_a_message_in_files_is_told() -> None:
    def find(one: Action, _: str | None) -> Content:
        raise Unfit("missing_variable", "hello.txt needs vars.name")

    around = Surroundings(lambda: NOW_MS, lambda: "n", Path(), 1.0, find)
    with pytest.raises(Unfit, match="missing_variable"):
        asyncio.run(Umeng(settings(), around).call(push()))


def test_what_would_be_sent_is_shown_without_the_secret_and_the_signature() -> None:
    shown = provider(Fake(Clock().now_s)).preview(push())
    assert (shown["method"], shown["url"]) == ("POST", "http://umeng.test/api/send")
    assert shown["body"]["device_tokens"] == "Ab12"
    assert SECRET not in json.dumps(shown)


# ---- answers -------------------------------------------------------------------------------------------------------

REFUSED = [
    *range(1000, 1029), 2002, 2003, 2008, 2009, 2016, 2018, 2019, 2022, 2025, 2029, 2031, 2036, 2039, 2040,
    *range(2046, 2050), 2052, 2053, 5002,
]  # fmt: skip
CODES = {
    **dict.fromkeys(REFUSED, PERMANENT),
    **dict.fromkeys(
        (2000, 2004, 2054, 2007, 2027, 2021, *range(2032, 2036), 5001, *range(5007, 5011), 6001), CONFIG
    ),
    2028: RETRY, 2050: THROTTLED, 2023: RETRY, 6002: RETRY, 6003: RETRY, 6004: RETRY,
    # Of older documents, and none.
    2026: THROTTLED, 2020: RETRY, 3000: RETRY, 4001: RETRY, 4000: UNKNOWN, 2006: CONFIG, 2010: PERMANENT,
    4010: PERMANENT, 4014: PERMANENT, 9999: PERMANENT,
}  # fmt: skip


@pytest.mark.parametrize("code", CODES)
def test_what_the_codes_of_umeng_mean(code: int) -> None:
    for given_as in (str(code), code):
        for status in (400, 200):
            found = called(lambda _, a=given_as, s=status: refusal(a, s))  # type: ignore[misc]
            assert (found.kind, found.code, found.detail) == (CODES[code], str(code), f"it is {code}")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Response(200, b"<html>"), UNKNOWN), (Response(200), UNKNOWN), (Response(200, b"{}"), UNKNOWN),
        (Response(200, b"[]"), UNKNOWN), (Response(200, b'{"ret": "MAYBE"}'), UNKNOWN),
        (Response(200, b'{"ret": "FAIL"}'), RETRY), (Response(400, b'{"ret": "FAIL", "data": 5}'), RETRY),
        (Response(400, b'{"ret": "FAIL", "data": {"error_code": true}}'), RETRY),
        (Response(400, b'{"ret": "FAIL", "data": {"error_code": [2027]}}'), RETRY),
        (Response(400, b"<html>"), RETRY), (Response(401), CONFIG), (Response(403, b"<html>"), CONFIG),
        (Response(404, b"<html>"), CONFIG), (Response(407), CONFIG), (Response(429), THROTTLED),
        (Response(500), RETRY), (Response(503, b"<html>"), RETRY), (Response(502), UNKNOWN), (Response(504), UNKNOWN),
        (refusal(9999, 500), RETRY), (refusal(9999, 502), UNKNOWN), (refusal(2027, 500), CONFIG),
        (Response(520), UNKNOWN), (Response(524), UNKNOWN), (Response(302), CONFIG),
        (Response(500, b'{"ret": "SUCCESS", "data": {"msg_id": "u"}}'), RETRY),
        (HANGS, UNKNOWN), (HANGS_UP, UNKNOWN), (HALF, UNKNOWN), (NONSENSE, UNKNOWN),
    ],
    ids=str,
)  # fmt: skip
def test_what_an_answer_without_such_a_code_means(answer: Response | str, kind: str) -> None:
    assert called(lambda _: answer).kind == kind


def test_how_long_to_wait_is_what_umeng_says() -> None:
    assert called(lambda _: refusal(2050, **{"retry-after": "7"})).wait_ms == 7_000
    assert called(lambda _: refusal(2050)).wait_ms is None
    assert called(lambda _: refusal(2040, **{"retry-after": "7"})).wait_ms is None


@pytest.mark.parametrize("data", ["{}", "[]", "null", '{"msg_id": 5}', '{"task_id": "us1"}'])
def test_a_success_without_an_id_is_a_success(data: str) -> None:
    body = f'{{"ret": "SUCCESS", "data": {data}}}'.encode()
    assert called(lambda _: Response(200, body)) == Answer(OK)


WORDS = ["ret", "FAIL", "SUCCESS", "data", "error_code", "error_msg", "msg_id", "2027", "9" * 5000, "", 2028, 10**400]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([one for one in WORDS if isinstance(one, str)]), inner)
    ),
    max_leaves=12,
)
DEEP = [b"[" * 900 + b"]" * 900, b'{"data":' * 900 + b"0" + b"}" * 900, b"[" * 100_000]
BODIES = st.binary(max_size=60) | VALUES.map(lambda one: json.dumps(one).encode()) | st.sampled_from(DEEP)


@hypothesis_settings(max_examples=150, deadline=None)
@given(body=BODIES, status=st.sampled_from([200, 201, 302, 400, 404, 429, 500, 502, 503]))
def test_every_answer_means_something(body: bytes, status: int) -> None:
    found = called(lambda _: Response(status, body, {"retry-after": "²"}))
    assert found.kind in KINDS
    assert all(isinstance(text, str) for text in (found.code, found.detail, found.provider_id))
    assert max(map(len, (found.code, found.detail, found.provider_id))) <= 500
    if found.kind == OK:
        assert 200 <= status < 300


def test_a_signature_that_is_said_back_is_hidden() -> None:
    def echo(request: Request) -> Response:
        return Response(502, f"no way to {request.path}?sign={request.query['sign']}".encode())

    assert called(echo).detail == "no way to /api/send?sign=<hidden>"


def test_umeng_reports_nothing() -> None:
    with pytest.raises(NotTheirs):
        provider(Fake(Clock().now_s)).callback(Callback("POST", {}, {}, b"{}", "https://x.example"))


# ---- several devices in one call -----------------------------------------------------------------------------------


def together(
    fake: Fake, *actions: Action, clock: Clock | None = None, **more: Any
) -> tuple[dict[str, Answer], list[list[str]]]:
    """Return what came of actions that go together, by user, and who was sent to in each request."""
    umeng = provider(fake, clock, **{"batch": 500, **more})
    assert len({umeng.goes_with(one) for one in actions}) == 1
    answers = asyncio.run(umeng.call_together(actions))
    assert fake.mistakes == []
    found = {one.user_id: answer for one, answer in zip(actions, answers, strict=True)}
    return found, [(one.get("device_tokens") or one["alias"]).split(",") for one in fake.requests]


def devices(count: int) -> list[Action]:
    return [push(f"u{number}", f"t{number}") for number in range(count)]


def test_who_gets_the_same_is_sent_to_with_one_request_that_names_no_action() -> None:
    fake = Fake(Clock().now_s)
    found, requests = together(fake, *devices(500))
    assert (len(requests), len(requests[0]), fake.requests[0]["type"]) == (1, 500, "listcast")
    assert set(found.values()) == {Answer(OK, provider_id="uu00000000000000000001")}
    assert fake.requests[0]["payload"]["extra"] == {"template": "hello"}


def test_aliases_go_together_too() -> None:
    fake = Fake(Clock().now_s)
    together(fake, *devices(3), alias_type="user")
    assert [(one["type"], one["alias"]) for one in fake.requests] == [("customizedcast", "t0,t1,t2")]


def test_what_is_not_the_same_does_not_go_together() -> None:
    umeng = provider(Fake(Clock().now_s), batch=500)
    some = [
        push(), push(vars={"sku": "X"}), push(template="bye"), push(expires_at="2023-11-15T10:00:10.000Z"),
        push(expires_at="2023-11-15T10:01:10.000Z"),
    ]  # fmt: skip
    assert len({umeng.goes_with(one) for one in some}) == len(some)
    assert umeng.goes_with(push("b", "other", expires_at="2023-11-15T10:00:59.000Z")) == umeng.goes_with(some[3])
    with pytest.raises(Unfit, match="bad_address"):
        umeng.goes_with(push(to="a,b"))


def test_what_goes_together_is_of_no_use_after_the_first_of_them_has_expired() -> None:
    fake = Fake(Clock().now_s)
    some = [push(name, name, expires_at=f"2023-11-15T10:00:{s}.000Z") for name, s in [("a", 40), ("b", 10), ("c", 20)]]
    together(fake, *some)
    assert fake.requests[0]["policy"] == {"expire_time": "2023-11-15 18:00:00"}


def test_by_default_each_goes_alone_and_the_app_gets_the_id_of_its_action() -> None:
    umeng = provider(Fake(Clock().now_s))
    assert umeng.together_max == 1
    assert sent(push("a"))["payload"]["extra"]["action_id"] == push("a").action_id
    assert "action_id" not in sent(push("a"), batch=500)["payload"]["extra"], "the same whether alone or not"


def test_two_users_of_one_device_get_a_message_each() -> None:
    fake = Fake(Clock().now_s)
    found, requests = together(fake, push("a", "t1"), push("b", "t2"), push("c", "t1"), push("d", "t1"))
    assert requests == [["t1", "t2"], ["t1"], ["t1"]]
    assert [one.provider_id[-1] for one in found.values()] == ["1", "1", "2", "3"]


@pytest.mark.parametrize("bad", [{"t0"}, {"t63"}, {"t17"}, {"t17", "t18", "t50"}, {f"t{one}" for one in range(64)}])
def test_who_is_refused_is_found_and_all_others_are_sent_to_once(bad: set[str]) -> None:
    fake = Fake(Clock().now_s, unknown=bad)
    found, requests = together(fake, *devices(64))
    assert {f"t{user[1:]}" for user, one in found.items() if one.kind == PERMANENT} == bad
    assert {one.code for one in found.values() if one.kind == PERMANENT} == {"4014"}
    assert sorted(fake.sent) == sorted({f"t{number}" for number in range(64)} - bad)
    assert len(requests) <= 1 + 2 * 6 * len(bad)


def test_the_one_who_is_refused_alone_is_sent_to_as_one() -> None:
    fake = Fake(Clock().now_s, unknown={"t1"})
    together(fake, *devices(2))
    assert [one["type"] for one in fake.requests] == ["listcast", "unicast", "unicast"]


@pytest.mark.parametrize("code", [code for code in REFUSED if code not in (1015, 2009)])
def test_a_content_that_is_refused_is_so_for_all_at_once(code: int) -> None:
    found, requests = together(Fake(Clock().now_s, mood=lambda _: refusal(code)), *devices(8))
    assert {(one.kind, one.code) for one in found.values()} == {(PERMANENT, str(code))}
    assert len(requests) == 1


@pytest.mark.parametrize("code", [1015, 2009, 2010, 4010, 9999])
def test_a_code_that_may_be_of_one_recipient_is_not_that_of_the_others(code: int) -> None:
    def mood(said: dict[str, Any]) -> Response | None:
        return refusal(code) if "t5" in said["device_tokens"].split(",") else None

    found, _ = together(Fake(Clock().now_s, mood=mood), *devices(8))
    assert {user: one.code for user, one in found.items() if one.kind != OK} == {"u5": str(code)}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(2027), CONFIG), (refusal(2050), THROTTLED), (refusal(2028), RETRY), (Response(503), RETRY),
        (HANGS, UNKNOWN), (Response(200, b"<html>"), UNKNOWN),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_refusal_is_the_answer_for_all(answer: Response | str, kind: str) -> None:
    found, requests = together(Fake(Clock().now_s, mood=lambda _: answer), *devices(8))
    assert {one.kind for one in found.values()} == {kind}
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("answer", "theirs", "others"),
    [
        (HANGS, UNKNOWN, RETRY), (refusal(2050), THROTTLED, THROTTLED), (refusal(2000), CONFIG, CONFIG),
        (refusal(6003), RETRY, RETRY),
    ],
    ids=str,
)  # fmt: skip
def test_amid_the_search_a_failure_is_of_those_who_were_called_and_the_rest_is_called_later(
    answer: Response | str, theirs: str, others: str
) -> None:
    def mood(said: dict[str, Any]) -> Response | str | None:
        return answer if said["device_tokens"] == "t4,t5" else None

    fake = Fake(Clock().now_s, mood=mood, unknown={"t1", "t7"})
    found, _ = together(fake, *devices(8))
    kinds = [one.kind for one in found.values()]
    assert kinds == [others, others, OK, OK, theirs, theirs, others, others]
    assert sorted(fake.sent) == ["t2", "t3"]


def test_who_is_not_reached_in_time_is_called_later_and_nobody_is_rejected_for_another() -> None:
    clock = Clock()

    def mood(_: dict[str, Any]) -> None:
        clock.now_ms += 1_000  # Each request takes a second, of ten.

    fake = Fake(clock.now_s, mood=mood, unknown={"t0"})
    found, requests = together(fake, *devices(64), clock=clock)
    assert len(requests) == 6
    left = {user for user, one in found.items() if (one.kind, one.code) == (RETRY, "not_reached")}
    assert left == {f"u{number}" for number in range(16)}, "six requests are not enough to find the one among 64"
    assert sorted(fake.sent) == sorted(f"t{number}" for number in range(16, 64))
    found, requests = together(Fake(clock.now_s, mood=mood, unknown={"t0"}), *devices(8), clock=clock)
    assert [one.kind for one in found.values()] == [PERMANENT, RETRY, OK, OK, OK, OK, OK, OK]


class Receipts:
    """A writer whose broker takes everything."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def begin(self, topic: str, records: Any, headers: Any = ()) -> asyncio.Future[dict[int, Any]]:
        self.said += [json.loads(value) for _, value in records]
        done: asyncio.Future[dict[int, Any]] = asyncio.get_running_loop().create_future()
        done.set_result({})
        return done


def test_a_batch_of_a_channel_gives_each_action_its_outcome_and_its_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S", SECRET)
    fake, receipts = Fake(Clock().now_s, unknown={"t3"}), Receipts()
    written = {
        "provider": "umeng", "app_key": APP_KEY, "secret": {"env": "S"}, "platform": "android", "batch": 500,
    }  # fmt: skip
    some = [push(f"u{n}", f"t{n}" if n != 7 else "a,b", vars={"title": "Hi", "body": "Hello"}) for n in range(10)]

    async def work(url: str) -> None:
        how = delivered("push", "actions.push", {**written, "endpoint": url}, tmp_path, lambda: NOW_MS, lambda: "n")
        done: list[Place] = []
        at_work = ChannelAtWork(
            how, SqliteLedger(tmp_path / "l.db", "push", "one"), receipts, "events",  # type: ignore[arg-type]
            lambda: NOW_MS, Random(1), done.append, None,
        )  # fmt: skip
        for offset, one in enumerate(some):
            at_work.take(one, Place("actions.push-0", offset))
        at_work.go()
        async with asyncio.timeout(30):
            while len(done) < len(some):
                await at_work.has_changed.wait()
                at_work.has_changed.clear()
        await at_work.close()

    with Server(fake) as server:
        asyncio.run(work(server.url))
    assert fake.mistakes == []
    found = {one["user_id"]: (one["status"], one["code"]) for one in receipts.said}
    expected = {one.user_id: ("accepted", "") for one in some}
    expected |= {"u3": ("rejected", "4014"), "u7": ("rejected", "bad_address")}
    assert (found, len(receipts.said)) == (expected, len(some))
    assert sorted(fake.sent) == sorted(f"t{n}" for n in range(10) if n not in (3, 7))
    assert len(fake.sent) == len(set(fake.sent))


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"platform": "windows"}, "platform"), ({"batch": 501}, "batch"), ({"batch": 0}, "batch"),
        ({"secret": SECRET}, "a secret stands elsewhere"), ({"message": {"appkey": "x"}}, "cannot be set here"),
        ({"message": {"alias": "x", "type": "broadcast"}}, "alias, type cannot"), ({"endpoint": "umeng"}, "endpoint"),
        ({"message": {"payload": {"n": 2**70}}}, "cannot be written as JSON"), ({"app_key": ""}, "app_key"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_settings_is_told(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(**more)


def test_a_channel_of_nudge_yaml_speaks_to_umeng(tmp_path: Path) -> None:
    (tmp_path / "umeng").write_text(SECRET)
    written = {"provider": "umeng", "app_key": APP_KEY, "secret": {"file": "umeng"}, "platform": "ios", "batch": 100}
    how = delivered("push", "actions.push", written, tmp_path, lambda: NOW_MS, lambda: "n")
    shown = how.provider.preview(push(vars={"title": "Hi", "body": "There"}))
    assert shown["url"] == "https://msgapi.umeng.com/api/send"
    assert shown["body"]["payload"]["aps"] == {"alert": {"title": "Hi", "body": "There"}}
    assert (how.policy.drops_repeats, how.policy.can_be_asked) == (False, False)
    assert how.provider.together_max == 100  # type: ignore[attr-defined]


def test_what_has_to_be_written_in_a_form_is_told_with_the_form(tmp_path: Path) -> None:
    (tmp_path / "umeng").write_text(SECRET)
    written = {"provider": "umeng", "app_key": "a b", "secret": {"file": "umeng"}, "platform": "ios"}
    with pytest.raises(UsageError, match=r"app_key: it has to match the regular expression \^\[!-~\]\+\$"):
        delivered("push", "actions.push", written, tmp_path, lambda: NOW_MS, lambda: "n")
