"""Template messages go to WeChat as it documents them, and every answer of it is understood."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.channels.base import Callback, NotTheirs, Report, Surroundings, Unfit
from connectors.channels.wechat_template import KIND_OF, WechatTemplate, WechatTemplateSettings, signature
from dataflow.deliver.config import delivered
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, TOKEN, UNKNOWN, Answer
from tests.delivery.actions import action
from tests.providers.server import HALF, HANGS, HANGS_UP, NONSENSE, Response, Server
from tests.providers.wechat import APP_ID, CALLBACK_TOKEN, SECRET, Wechat, callback, said

NOW_MS = 1_795_420_800_123


class Clock:
    def __init__(self) -> None:
        self.ms = NOW_MS

    def seconds(self) -> float:
        return self.ms / 1000


def provider(url: str, clock: Clock, secret: str = SECRET, timeout_s: float = 10.0, **more: Any) -> WechatTemplate:
    given = {
        "app_id": APP_ID, "secret": {"env": "S"}, "endpoint": url, "callback_token": {"env": "T"},
        "templates": {"hello": "ngqI"}, **more,
    }  # fmt: skip
    context = {"environment": {"S": secret, "T": CALLBACK_TOKEN}}
    settings = WechatTemplateSettings.model_validate(given, context=context)
    return WechatTemplate(settings, Surroundings(lambda: clock.ms, lambda: "nonce", Path(), timeout_s))


def to(name: str = "a", **more: Any) -> Any:
    return action(name, channel="wechat", **{"to": "oABC", "vars": {"thing1": "您的订单", "n": 3}, **more})


def run(
    work: Callable[[WechatTemplate, Clock, Wechat], Awaitable[Any]], mood: Any = lambda _: None, **more: Any
) -> Wechat:
    """Do *work* with a provider whose WeChat is in some *mood*, and return that."""
    clock = Clock()
    wechat = Wechat(clock.seconds, mood)

    async def do() -> None:
        with Server(wechat) as server:
            one = provider(server.url, clock, **more)
            await work(one, clock, wechat)
            await one.close()

    asyncio.run(do())
    return wechat


def test_a_message_has_the_documented_form_and_its_action_id() -> None:
    async def work(one: WechatTemplate, *_: Any) -> None:
        sent = to(
            vars={"thing1": "您的订单", "time2": "2026-11-23 16:30", "url": "https://a.example/1", "page": "p?x=1"}
        )
        assert await one.call(sent) == Answer(OK, "0", "ok", provider_id="200163840")

    wechat = run(work, mini_program={"app_id": "wx9"})
    assert wechat.sent == [
        {
            "touser": "oABC", "template_id": "ngqI", "url": "https://a.example/1", "client_msg_id": to().action_id,
            "miniprogram": {"appid": "wx9", "pagepath": "p?x=1"},
            "data": {"thing1": {"value": "您的订单"}, "time2": {"value": "2026-11-23 16:30"}},
        }
    ]  # fmt: skip
    assert wechat.token_calls == [False]


def test_fields_of_a_template_are_filled_from_the_variables_that_are_named_for_them() -> None:
    async def work(one: WechatTemplate, *_: Any) -> None:
        assert (await one.call(to())).kind == OK
        with pytest.raises(Unfit, match="missing_variable"):
            await one.call(to(vars={"thing1": "x"}))
        with pytest.raises(Unfit, match="no_address"):
            await one.call(to(to=None))

    wechat = run(work, templates={"hello": {"id": "q1", "fields": {"number3": "n"}}})
    assert [(one["template_id"], one["data"]) for one in wechat.sent] == [("q1", {"number3": {"value": "3"}})]


def test_a_repeat_within_ten_minutes_sends_nothing_more_and_is_told_as_before() -> None:
    async def work(one: WechatTemplate, clock: Clock, _: Wechat) -> None:
        first = await one.call(to())
        clock.ms += WechatTemplate.repeats_dropped_for_ms
        assert await one.call(to()) == first

    assert len(run(work).sent) == 1


def test_that_repeats_are_dropped_for_a_while_only_is_known_to_what_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S", SECRET)
    written = {"provider": "wechat_template", "app_id": "wx", "secret": {"env": "S"}}
    how = delivered("wechat", "actions.wechat", written, Path(), lambda: NOW_MS, lambda: "n")
    assert how.policy.may_call_again(NOW_MS, NOW_MS + 539_999)
    assert not how.policy.may_call_again(NOW_MS, NOW_MS + 540_000)


def test_many_that_need_a_token_get_it_with_one_call_and_before_it_ends_another_one() -> None:
    async def work(one: WechatTemplate, clock: Clock, wechat: Wechat) -> None:
        answers = await asyncio.gather(*(one.call(to(f"a{number}")) for number in range(20)))
        assert {answer.kind for answer in answers} == {OK}
        assert wechat.token_calls == [False]
        for _ in range(4):
            clock.ms += 3_600_000
            assert (await one.call(to(f"b{clock.ms}"))).kind == OK
        assert wechat.token_calls == [False] * 3

    run(work)


def test_a_token_that_is_refused_is_fetched_again_and_forced_only_where_the_same_comes_back() -> None:
    async def work(one: WechatTemplate, clock: Clock, wechat: Wechat) -> None:
        await one.call(to("a"))
        wechat.revoke()
        assert (await one.call(to("b"))).kind == TOKEN
        assert await one.renew()
        assert wechat.token_calls == [False, False, True]
        assert (await one.call(to("b"))).kind == OK
        wechat.revoke()
        assert not await one.renew(), "forced again only after 30 s"
        assert wechat.token_calls == [False, False, True, False]
        clock.ms += 30_000
        assert await one.renew()

    run(work)


@pytest.mark.parametrize(
    ("more", "code"), [({"secret": "wrong"}, "40125"), ({"app_id": "wx0"}, "40013")], ids=["secret", "app_id"]
)
def test_a_wrong_key_stops_the_channel_and_is_shown_nowhere(more: dict[str, str], code: str) -> None:
    async def work(one: WechatTemplate, *_: Any) -> None:
        answer = await one.call(to())
        assert (answer.kind, answer.code) == (CONFIG, code)
        assert SECRET not in f"{answer} {one._settings!r}"
        assert not await one.renew()

    assert run(work, **more).calls == 0


@pytest.mark.parametrize(("code", "kind"), [*KIND_OF.items(), (99999, RETRY)], ids=str)
def test_what_every_code_means(code: int, kind: str) -> None:
    async def work(one: WechatTemplate, *_: Any) -> None:
        answer = await one.call(to())
        assert (answer.kind, answer.code) == (kind, str(code))

    run(work, lambda _: said(errcode=code, errmsg="text", msgid=7))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (HANGS, UNKNOWN), (HANGS_UP, UNKNOWN), (HALF, UNKNOWN), (NONSENSE, UNKNOWN), (Response(500), RETRY),
        (Response(503), RETRY), (Response(502), UNKNOWN), (Response(504), UNKNOWN),
        (Response(200, b"<html>a proxy</html>"), UNKNOWN), (Response(200, b"[]"), UNKNOWN), (said(ok=1), UNKNOWN),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_answer_of_wechat_may_have_been_sent(answer: Response | str, kind: str) -> None:
    async def work(one: WechatTemplate, *_: Any) -> None:
        assert (await one.call(to())).kind == kind

    run(work, lambda _: answer, timeout_s=3.0 if answer == HANGS else 10.0)


def test_nothing_was_sent_where_there_was_no_token() -> None:
    async def do() -> None:
        with Server(lambda _: HANGS) as server:
            one = provider(server.url, Clock(), timeout_s=3.0)
            assert (await one.call(to())).kind == RETRY
            await one.close()

    asyncio.run(do())


def test_a_quota_holds_until_midnight_in_beijing_and_a_rate_until_the_next_minute() -> None:
    async def work(one: WechatTemplate, clock: Clock, _: Wechat) -> None:
        clock.ms = 1_795_363_200_000 + 23 * 3_600_000 + 30_000  # 23:00:30 in Beijing.
        assert await one.call(to("quota")) == Answer(THROTTLED, "45009", "", wait_ms=3_570_000)
        assert await one.call(to("rate")) == Answer(THROTTLED, "45011", "", wait_ms=30_000)

    def mood(body: dict[str, Any]) -> Response:
        return said(errcode=45009 if body["client_msg_id"] == to("quota").action_id else 45011)

    run(work, mood)


# ---- receipts ------------------------------------------------------------------------------------------------------


def reported(query: dict[str, str], body: bytes = b"", method: str = "POST") -> Any:
    return provider("http://x", Clock()).callback(Callback(method, query, {}, body, "http://x"))


def test_the_signature_of_a_callback_is_the_documented_one() -> None:
    assert signature("testtoken", "1700000000", "abc123") == "14868ea7d291f628c164a0e57f9a7da1bade4e37"


@pytest.mark.parametrize(
    ("status", "ours", "code"),
    [
        ("success", "delivered", "success"), ("failed:user block", "failed", "failed_user_block"),
        ("failed: system failed", "failed", "failed_system_failed"),
        ("Failed : User Block", "failed", "failed_user_block"),
    ],
)  # fmt: skip
def test_what_wechat_reports_of_a_message(status: str, ours: str, code: str) -> None:
    reply = reported(*callback("oABC", "200163840", status))
    assert (reply.status, reply.body) == (200, b"success")
    assert reply.reports == [
        Report(ours, "", "200163840", code, status, event_id="1395658984", at_ms=1395658984000)
    ]  # fmt: skip


def test_the_address_of_the_callback_is_confirmed_and_other_events_are_taken_and_dropped() -> None:
    query, body = callback("oABC", "1", "success")
    assert reported({**query, "echostr": "e-1"}, method="GET").body == b"e-1"
    other = reported(query, body.replace(b"TEMPLATESENDJOBFINISH", b"subscribe"))
    assert (other.reports, other.body) == ([], b"success")


def test_who_cannot_sign_or_writes_no_xml_is_refused() -> None:
    query, body = callback("oABC", "1", "success")
    for wrong in ({**query, "signature": "0" * 40}, {**query, "nonce": "x"}, {}):
        with pytest.raises(NotTheirs):
            reported(wrong, body)
    entity = '<!DOCTYPE x [<!ENTITY a "b">]><xml><Event>&a;</Event></xml>'
    hidden = b'<?xml version="1.0" encoding="cp037"?>' + entity.encode("cp037")
    for nonsense in (b"{}", b"", entity.encode(), entity.encode("utf-16"), entity.encode("utf-16-be"), hidden):
        with pytest.raises(ValueError, match="callback"):
            reported(query, nonsense)


def test_what_would_be_sent_is_shown_without_a_token() -> None:
    shown = provider("https://x", Clock()).preview(to())
    assert shown["body"]["touser"] == "oABC"
    assert "access_token" not in str(shown)
    assert PERMANENT not in str(shown)
