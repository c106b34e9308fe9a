"""The generic HTTP channel: what is described is sent, what is answered is understood, and values stay values."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson
import pytest
import yaml

from connectors.channels.base import Callback, NotTheirs, Surroundings, Unfit
from connectors.channels.http_template import Http, HttpSettings
from dataflow.deliver.config import delivered
from dataflow.deliver.liquid import liquid
from dataflow.errors import UsageError
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, UNKNOWN, Answer
from state.outgoing import Action
from tests.delivery.actions import action
from tests.providers.server import HALF, HANGS, HANGS_UP, Handler, Request, Response, Server, without_network
from tests.providers.third_party_sms import ACCOUNT, PASSWORD, Gateway

NOW_MS = 1_795_420_800_123  # 2026-11-23T08:00:00.123Z
DOCS = Path(__file__).parents[2] / "docs" / "delivery.md"

SMS = action("a", channel="sms", to="13800138000", template="cart", vars={"name": "Lina", "count": 2})


def documented() -> dict[str, Any]:
    """Return `deliver:` of the example in the documentation."""
    section = DOCS.read_text().partition("\n## Any interface over HTTP\n")[2]
    found: dict[str, Any] = yaml.safe_load(section.partition("```yaml\n")[2].partition("```")[0])["channels"]["sms"]
    return dict(found["deliver"])


def provider(handle: Handler, written: dict[str, Any], now_ms: int = NOW_MS) -> Http:
    environment = {"SMS_PASSWORD": PASSWORD, "KEY": "s3cret"}
    settings = HttpSettings.model_validate(
        {"url": "https://sms.example.com/send", **written}, context={"environment": environment}
    )
    around = Surroundings(lambda: now_ms, lambda: "n", Path(), 0.5, liquid=liquid)
    return Http(settings, around, without_network(handle))


def called(said: Handler | Response | str, one: Action = SMS, **written: Any) -> Answer:
    handle: Handler = said if callable(said) else lambda _: said
    return asyncio.run(provider(handle, written).call(one))


def sent(one: Action = SMS, **written: Any) -> Request:
    """Return the request that *written* gives."""
    seen: list[Request] = []

    def handle(request: Request) -> Response:
        seen.append(request)
        return Response()

    assert called(handle, one, **written).kind == OK
    return seen[0]


def answered(said: Any, status: int = 200, **headers: str) -> Response:
    return Response(status, orjson.dumps(said), headers)


# ---- a third-party SMS interface, as documented --------------------------------------------------------------------


@pytest.fixture
def third_party() -> Callable[..., Http]:
    written = documented()
    assert written.pop("provider") == "http"

    def make(gateway: Gateway) -> Http:
        return provider(gateway, written)

    return make


def test_the_documented_example_sends_through_a_third_party_sms_interface(third_party: Callable[..., Http]) -> None:
    gateway = Gateway(lambda: NOW_MS // 1000)
    one = third_party(gateway)
    assert asyncio.run(one.call(SMS)) == Answer(OK, "0", "ok", provider_id="m1")
    assert gateway.sent[SMS.action_id] == {
        "account": ACCOUNT, "time": "1795420800", "sign": gateway.sent[SMS.action_id]["sign"],
        "mobile": "13800138000", "template": "T-1234", "params": {"name": "Lina", "count": 2}, "uid": SMS.action_id,
    }  # fmt: skip
    assert asyncio.run(one.call(SMS)) == Answer(OK, "3001", "sent before")  # `means` says that this is fine.
    assert asyncio.run(one.call(action("b", to="+44"))) == Answer(PERMANENT, "2001", "no mobile")
    stale = Gateway(lambda: NOW_MS // 1000 + 301)
    assert asyncio.run(third_party(stale).call(SMS)) == Answer(CONFIG, "1001", "wrong sign")


def test_the_documented_example_understands_what_the_interface_reports(third_party: Callable[..., Http]) -> None:
    one = third_party(Gateway(lambda: 0))
    body = orjson.dumps(
        {
            "reports": [
                {"uid": SMS.action_id, "msgid": "m1", "state": "DELIVRD", "time": "2026-11-23T08:00:09Z"},
                {"uid": SMS.action_id, "msgid": "m1", "state": "ENROUTE", "time": "2026-11-23T08:00:05Z"},
                {"msgid": "m2", "state": "UNDELIV", "error": 77},
            ]
        }
    )
    reply = one.callback(Callback("POST", {}, {"content-type": "application/json"}, body, "https://x/receipts/sms/s"))
    delivered, failed = reply.reports
    assert (delivered.status, delivered.action_id, delivered.event_id) == ("delivered", SMS.action_id, "m1")
    assert delivered.at_ms == 1_795_420_809_000
    assert (failed.status, failed.action_id, failed.provider_id, failed.code) == ("failed", "", "m2", "77")
    assert (reply.status, json.loads(reply.body)) == (200, {"code": 0})


def test_the_documented_example_is_read_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMS_PASSWORD", PASSWORD)
    how = delivered("sms", "actions.sms", documented(), Path(), lambda: NOW_MS, lambda: "n")
    assert isinstance(how.provider, Http)
    shown = how.provider.preview(SMS)
    assert shown["url"] == "https://sms.example.com/v2/acme/messages"
    assert (shown["body"]["sign"], shown["body"]["mobile"]) == ("<sign>", "13800138000")
    assert PASSWORD not in str(shown)


# ---- the request ---------------------------------------------------------------------------------------------------


def test_a_json_body_keeps_the_types_of_values_and_of_what_is_written_out() -> None:
    body = {
        "to": ["{{ to }}"],
        "vars": "{{ vars }}",
        "n": "{{ vars.count }}",
        "text": "n={{ vars.count }}",
        "x": [1, None],
    }
    request = sent(json=body, secrets={"key": {"env": "KEY"}}, headers={"X-Key": "k {{ secrets.key }}"})
    assert json.loads(request.body) == {
        "to": ["13800138000"], "vars": {"name": "Lina", "count": 2}, "n": 2, "text": "n=2", "x": [1, None],
    }  # fmt: skip
    assert (request.headers["content-type"], request.headers["x-key"]) == ("application/json", "k s3cret")


def test_whatever_a_value_is_it_stays_one_value() -> None:
    strange = 'a"&b=c\r\n\\{{ to }}#?/../%00é\U0001f600'
    one = action("a", to=strange, vars={"v": strange})
    texts = {"to": "{{ to }}", "v": "{{ vars.v }}"}
    request = sent(one, url="https://sms.example.com/u/{{ to }}/x?y={{ to }}", query=texts, json=texts)
    assert request.path == f"/u/{strange}/x"
    assert request.query == {"y": strange, **dict.fromkeys(texts, strange)}
    assert json.loads(request.body) == dict.fromkeys(texts, strange)
    assert dict(parse_qsl(sent(one, form=texts).body.decode())) == dict.fromkeys(texts, strange)


def test_a_form_and_a_query_write_numbers_and_objects_as_json() -> None:
    request = sent(form={"n": "{{ vars.count }}", "vars": "{{ vars }}", "to": "{{ to }}"}, method="PUT")
    assert request.body == b"n=2&vars=%7B%22name%22%3A%22Lina%22%2C%22count%22%3A2%7D&to=13800138000"
    assert (request.method, request.headers["content-type"]) == ("PUT", "application/x-www-form-urlencoded")
    request = sent(method="GET", query={"n": "{{ vars.count }}", "text": "hi {{ vars.name }}"})
    assert (request.query, request.body) == ({"n": "2", "text": "hi Lina"}, b"")


def test_a_body_of_any_kind_is_a_template() -> None:
    request = sent(body="<sms to='{{ to | escape }}'/>", headers={"Content-Type": "text/xml"})
    assert (request.body, request.headers["content-type"]) == (b"<sms to='13800138000'/>", "text/xml")


def test_a_request_says_who_we_are() -> None:
    basic = {"basic": {"user": "acme", "password": {"env": "KEY"}}}
    assert sent(auth=basic).headers["authorization"] == "Basic YWNtZTpzM2NyZXQ="
    assert sent(auth={"bearer": {"env": "KEY"}}).headers["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("form", ["hex", "base64"])
def test_digests_go_with_a_request(form: str) -> None:
    signs = {
        "plain": {"digest": "md5", "of": "{{ to }}{{ now | date: '%s' }}"},
        "keyed": {"digest": "sha256", "of": "{{ action_id }}", "key": {"env": "KEY"}, "form": form},
    }
    request = sent(signs=signs, json={"plain": "{{ signs.plain }}", "keyed": "{{ signs.keyed }}"})
    made = hmac.new(b"s3cret", SMS.action_id.encode(), hashlib.sha256)
    expected = made.hexdigest() if form == "hex" else base64.b64encode(made.digest()).decode()
    assert json.loads(request.body) == {
        "plain": hashlib.md5(b"138001380001795420800").hexdigest(), "keyed": expected,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("written", "one", "code", "place"),
    [
        ({"json": {"to": "{{ to }}"}}, action("a"), "missing_variable", "json.to"),
        ({"json": {"x": ["{{ vars.gone }}"]}}, SMS, "missing_variable", "json.x.0"),
        ({"headers": {"X-Name": "{{ to }}"}}, action("a", to="a\r\nX: y"), "bad_header", "headers.X-Name"),
        ({"headers": {"X-Name": "{{ to }}"}}, action("a", to="李"), "bad_header", "headers.X-Name"),
        ({"url": "https://x.example/{{ to }}/y"}, action("a", to=".."), "bad_address", "url"),
        ({"url": "https://x.example/{{ to }}/y"}, action("a", to=""), "bad_address", "url"),
        ({"url": "https://x.example/{{ to }}"}, action("a", to="x" * 70_000), "bad_address", "url"),
        ({"body": "{% for i in (1..999999) %}x{% endfor %}"}, SMS, "template_error", "body"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_before_anybody_is_called(
    written: dict[str, Any], one: Action, code: str, place: str
) -> None:
    with pytest.raises(Unfit, match=f"^{code}: {place}: ") as refused:
        called(lambda _: pytest.fail("it was called"), one, **written)
    assert refused.value.code == code


# ---- the answer ----------------------------------------------------------------------------------------------------

CODES = {
    "code": "{{ answer.code }}", "id": "{{ answer.data.id }}", "detail": "{{ answer.msg }}",
    "means": {
        0: "ok", "E1": "permanent", "E2": "config", "E3": "throttled", "E4": "throttled_recipient", "E5": "retry",
        "E6": "unknown", True: "ok", "http_500": "retry", "http_404": "permanent", "http_200": "config",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "status", "kind"),
    [
        ({"code": 0}, 200, OK), ({"code": "0"}, 201, OK), ({"code": True}, 200, OK), ({"code": "E1"}, 200, PERMANENT),
        ({"code": "E1"}, 400, PERMANENT), ({"code": "E2"}, 200, CONFIG), ({"code": "E3"}, 200, THROTTLED),
        ({"code": "E4"}, 429, THROTTLED), ({"code": "E5"}, 502, RETRY), ({"code": "E6"}, 400, UNKNOWN),
        ({"code": 0}, 502, UNKNOWN), ({"code": 0}, 500, RETRY), ({}, 404, PERMANENT), ({"code": "E9"}, 201, PERMANENT),
        ({}, 201, UNKNOWN), ({"code": None}, 201, UNKNOWN), ({"code": {"a": 1}}, 201, UNKNOWN), ([], 201, UNKNOWN),
        ("<html>", 201, UNKNOWN), ({"code": "E9"}, 403, CONFIG),
    ],
)  # fmt: skip
def test_a_code_decides_then_the_status(said: Any, status: int, kind: str) -> None:
    found = called(answered(said, status), answer=CODES)
    assert found.kind == kind
    assert found.is_of_recipient == (isinstance(said, dict) and said.get("code") == "E4")


def test_the_providers_id_and_words_are_taken_from_where_they_are() -> None:
    said = {"code": 0, "msg": "queued", "data": {"id": 12345678901234567890}}
    assert called(answered(said), answer=CODES) == Answer(OK, "0", "queued", provider_id="12345678901234567890")
    assert called(answered({"code": "E1", "msg": "bad"}), answer=CODES) == Answer(PERMANENT, "E1", "bad")
    by_header = {"id": "{{ headers['x-message-id'] }}"}
    assert called(Response(202, headers={"X-Message-Id": "m7"}), answer=by_header).provider_id == "m7"
    as_text = {
        "code": "{{ answer | split: ',' | first }}",
        "id": "{{ answer | split: ',' | last }}",
        "means": {"OK": "ok"},
    }
    assert called(Response(200, b"OK,m8"), answer=as_text) == Answer(OK, "OK", provider_id="m8")
    assert called(Response(200, b"ERR,6"), answer=as_text).kind == PERMANENT
    assert called(answered({"code": 6}), answer={**CODES, "otherwise": "retry"}).kind == CONFIG  # As http_200 says.


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Response(200), OK), (Response(204), OK), (Response(302, headers={"location": "/"}), CONFIG),
        (Response(400), PERMANENT), (Response(401), CONFIG), (Response(403), CONFIG), (Response(404), CONFIG),
        (Response(422), PERMANENT), (Response(429), THROTTLED), (Response(408), RETRY), (Response(500), UNKNOWN),
        (Response(502), UNKNOWN), (Response(503), THROTTLED), (Response(504), UNKNOWN), (HANGS, UNKNOWN),
        (HANGS_UP, UNKNOWN),
    ],
    ids=str,
)  # fmt: skip
def test_without_codes_the_status_decides(answer: Response | str, kind: str) -> None:
    assert called(answer).kind == kind


def test_which_statuses_are_a_success_can_be_said() -> None:
    assert called(Response(202), answer={"statuses": [200]}).kind == CONFIG
    assert called(Response(409), answer={"means": {"http_409": "ok"}}) == Answer(OK, "http_409")


def test_how_long_to_wait_is_what_is_said() -> None:
    found = called(Response(429, headers={"retry-after": "7"}))
    assert (found.kind, found.wait_ms, found.is_of_recipient) == (THROTTLED, 7_000, False)


def test_only_what_is_allowed_is_called_and_over_a_real_wire() -> None:
    seen: list[Request] = []

    def handle(request: Request) -> Response | str:
        seen.append(request)
        return HALF if len(seen) > 1 else answered({"code": 0, "data": {"id": "m1"}})

    async def call(url: str, *, private: bool) -> list[Answer]:
        written = {"url": url + "/{{ to }}", "json": {"to": "{{ to }}"}, "answer": CODES, "private": private}
        around = Surroundings(lambda: NOW_MS, lambda: "n", Path(), 0.5, liquid=liquid)
        one = Http(HttpSettings.model_validate(written), around)
        found = [await one.call(action("a", to="a/b c")), await one.call(action("a", to="x"))]
        await one.close()
        return found

    with Server(handle) as server:
        first, second = asyncio.run(call(server.url, private=False))
        assert (first.code, second.code, seen) == ("forbidden_address", "forbidden_address", [])
        first, second = asyncio.run(call(server.url, private=True))
    assert (first, second.kind) == (Answer(OK, "0", provider_id="m1"), UNKNOWN)
    assert (seen[0].path, json.loads(seen[0].body)) == ("/a%2Fb%20c", {"to": "a/b c"})


# ---- reports -------------------------------------------------------------------------------------------------------


REPORT = {
    "status": "{{ one.state }}", "statuses": {1: "delivered", "X": "failed"}, "id": "{{ one.id }}",
    "action_id": "{{ query.ours }}", "at": "{{ one.at }}", "reply": "ok",
}  # fmt: skip


def reported(
    body: bytes, content_type: str = "application/json", query: dict[str, str] | None = None, **more: Any
) -> Any:
    one = provider(lambda _: Response(), {"report": {**REPORT, **more}})
    return one.callback(Callback("POST", query or {}, {"content-type": content_type}, body, "https://x"))


def test_reports_come_alone_or_in_a_list_as_json_or_as_a_form() -> None:
    for body, kind in (
        (b'{"state": 1, "id": 7}', "application/json"),
        (b"state=1&id=7", "application/x-www-form-urlencoded"),
    ):
        reply = reported(body, kind, {"ours": SMS.action_id})
        (report,) = reply.reports
        assert (report.status, report.provider_id, report.action_id) == ("delivered", "7", SMS.action_id)
        assert (reply.body, reply.content_type) == (b"ok", "text/plain")
    reply = reported(b'[{"state": "X", "id": 7, "at": 1795420809000}, {"state": "on its way", "id": 8}]')
    assert [(one.status, one.provider_id, one.at_ms) for one in reply.reports] == [("failed", "7", 1_795_420_809_000)]


@pytest.mark.parametrize("body", [b"", b"x", b"{}", b'{"state": 1}', b'[{"id": 1}]', b"[1]", b"null"])
def test_what_is_no_report_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"report lacks|is not there"):
        reported(body)


def test_without_a_description_nobody_reports() -> None:
    with pytest.raises(NotTheirs):
        provider(lambda _: Response(), {}).callback(Callback("POST", {}, {}, b"{}", "https://x"))


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"url": "sms.example.com"}, "url: .*write https://host/path"),
        ({"url": "https://{{ vars.host }}/x"}, "url: .*write https://host/path"),
        ({"url": "https://x.example{{ vars.host }}/x"}, "url: .*the host cannot be a template"),
        ({"url": "https://x.example/{% if to %}a{% endif %}"}, "url: .*only {{ .. }} can stand in an address"),
        ({"url": "https://x.example/{{ to"}, "url: '{{' is never closed"),
        ({"url": "https://me:pw@x.example/"}, "url: .*write https://host/path"),
        ({"json": {"a": ["{{ too }}"]}}, "json.a.0: 'too' is unknown: .*did you mean 'to'"),
        ({"json": {"a": "{{ name }}"}}, "json.a: 'name' is unknown: .*did you mean 'vars.name'"),
        ({"answer": {"id": "{{ vars.x }}"}}, "answer.id: 'vars' is unknown: a template knows answer and headers, at"),
        ({"answer": {"code": "{{ answer.x }}"}}, "answer: .*say in means which code is ok"),
        ({"form": {"a": "{{ to | md5 }}"}}, "form.a: unknown filter 'md5'"),
        ({"json": {}, "body": "x"}, "write one of json, form and body"),
        ({"headers": {"Host": "x"}}, "headers: .*'Host' is no header that can be set"),
        ({"headers": {"a b": "x"}}, "headers: .*'a b' is no header"),
        ({"auth": {}}, "auth: .*write either basic or bearer"),
        ({"report": {"status": "x", "statuses": {}}}, "report: .*say in action_id or id"),
        ({"secrets": {"key": "s3cret"}}, "secrets.key: .*a secret stands elsewhere"),
        ({"bodi": "x"}, "bodi: "),
    ],
)  # fmt: skip
def test_a_mistake_in_the_settings_is_told_where_it_is(written: dict[str, Any], said: str) -> None:
    written = {"provider": "http", "url": "https://sms.example.com/send", **written}
    with pytest.raises(UsageError, match=r"(?s)^channels\.sms\.deliver.*" + said) as refused:
        delivered("sms", "actions.sms", written, Path(), lambda: NOW_MS, lambda: "n")
    assert "s3cret" not in str(refused.value)


def test_secrets_are_shown_nowhere() -> None:
    written = {
        "secrets": {"key": {"env": "KEY"}}, "auth": {"bearer": {"env": "KEY"}}, "query": {"key": "{{ secrets.key }}"},
        "signs": {"s": {"digest": "sha1", "of": "{{ secrets.key }}", "key": {"env": "KEY"}}},
        "json": {"sign": "{{ signs.s }}", "key": "{{ secrets.key }}"},
    }  # fmt: skip
    one = provider(lambda _: Response(), written)
    shown = one.preview(SMS)
    assert shown["body"] == {"sign": "<s>", "key": "<key>"}
    assert "s3cret" not in f"{shown} {one._settings!r} {one._settings.model_dump()}"
