"""No secret stands anywhere, and nothing of a user where it is not needed, however a provider fails or answers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Final

import orjson
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from connectors.channels.base import Callback
from connectors.ledgers.sqlite import SqliteLedger
from dataflow.deliver.channel import ChannelAtWork
from dataflow.deliver.config import Delivered, delivered
from dataflow.deliver.masking import personal, without
from dataflow.deliver.start import _said, a_nonce
from dataflow.messages import Messages
from dataflow.serve.delivery import DeliveryCollector
from operators.delivery.machine import Place
from state.delivery import OK, RETRY, Answer
from state.outgoing import Action
from tests.delivery.actions import action
from tests.providers.apns import p8
from tests.providers.fcm import credentials
from tests.providers.server import HALF, HANGS, HANGS_UP, NONSENSE, Request, Response, Server
from tests.providers.smtp import MailServer

NOW_MS: Final = 1_795_420_800_123
HOOK: Final = "whsec_" + base64.b64encode(b"a marked secret of hooks").decode()
SECRETS: Final = {
    "HOOK": HOOK, "QA": "marked-secret-qa", "KEY_ID": "marked-secret-id", "KEY": "marked-secret-key",
    "TOKEN": "marked-secret-token", "CALLBACK": "https://door.example/receipts/sms/marked-secret-path",
    "LINKS": "marked-secret-of-links", "USER": "marked-secret-user", "PASSWORD": "marked-secret-password",
}  # fmt: skip
RUN_TIME: Final = ("marked-access-token", "PRIVATE KEY")
"""Secrets that come only while it works."""
USER: Final = {"to": "lina.marked@example.org", "name": "Linamarked", "user": "user-marked"}


def echo(request: Request) -> str:
    """Return all that has come, as an error page may have it."""
    return f"{request.method} {request.path} {request.query} {request.headers} {request.body.decode(errors='replace')}"


def says_back(status: int) -> Any:
    """Return a provider that gives out tokens, and answers everything else with an error that has the whole request."""

    def handle(request: Request) -> Response:
        if "token" in request.path and "oauth" not in request.headers.get("x", ""):
            token = {"access_token": "marked-access-token", "expires_in": 7200}
            if "stable_token" in request.path or b"grant_type" in request.body:
                return Response(200, orjson.dumps(token))
        text = echo(request)
        said = {
            "Code": "isv.NEW", "Message": text, "code": 21211, "message": text, "errcode": 40037, "errmsg": text,
            "error": {"message": text, "status": "X"}, "detail": text, "status": status,
            "errors": [{"field": "subject", "message": text}],
        }  # fmt: skip
        return Response(status, orjson.dumps(said))

    return handle


MOODS: Final[Mapping[str, Any]] = {
    "hangs": lambda _: HANGS,
    "hangs up": lambda _: HANGS_UP,
    "half": lambda _: HALF,
    "nonsense": lambda _: NONSENSE,
    **{f"says back with {status}": says_back(status) for status in (200, 302, 400, 401, 403, 429, 500, 502, 503)},
    "a page": lambda request: Response(502, f"<html>{echo(request)}".encode()),
}


def channels(url: str, mail_port: int) -> dict[str, dict[str, Any]]:
    common = {"timeout": "1s", "give_up_after": "1s"}
    links = {"base": "https://u.example", "key": {"env": "LINKS"}}
    return {
        "webhook": {
            "provider": "webhook", "url": f"{url}/hook", "secret": {"env": "HOOK"}, "qa_key": {"env": "QA"},
            "headers": {"authorization": {"env": "TOKEN"}}, "private": True, **common,
        },
        "http": {
            "provider": "http", "url": f"{url}/x", "private": True, "secrets": {"k": {"env": "KEY"}},
            "auth": {"basic": {"user": "u", "password": {"env": "PASSWORD"}}},
            "headers": {"x-key": "{{ secrets.k }}"}, "query": {"key": "{{ secrets.k }}", "to": "{{ to }}"},
            "form": {"name": "{{ vars.name }}", "user": "{{ user_id }}"},
            "answer": {"code": "{{ answer.code }}", "detail": "{{ answer.message }}", "means": {"0": "ok"}}, **common,
        },
        "sms": {
            "provider": "alibaba_sms", "endpoint": url, "key_id": {"env": "KEY_ID"}, "secret": {"env": "KEY"},
            "sign_name": "Acme", **common,
        },
        "twilio": {
            "provider": "twilio", "endpoint": url, "account_sid": "AC" + "0" * 32, "auth_token": {"env": "TOKEN"},
            "from": "+15550001", "callback": {"env": "CALLBACK"}, **common,
        },
        "wechat": {
            "provider": "wechat_template", "endpoint": url, "app_id": "wx1", "secret": {"env": "KEY"},
            "callback_token": {"env": "TOKEN"}, **common,
        },
        "push": {"provider": "fcm", "endpoint": url, "credentials": {"env": "FCM"}, **common},
        "umeng": {
            "provider": "umeng", "endpoint": url, "app_key": "k", "secret": {"env": "KEY"}, "platform": "android",
            **common,
        },
        "apns": {
            "provider": "apns", "endpoint": url, "key": {"env": "P8"}, "key_id": "K", "team_id": "T", "topic": "t",
            **common,
        },
        "email": {
            "provider": "smtp", "host": "127.0.0.1", "port": mail_port, "tls": "none", "from": "news@acme.example",
            "unsubscribe": links, "opens": True, **common,
        },
        "sendgrid": {
            "provider": "sendgrid", "endpoint": url, "key": {"env": "KEY"}, "from": "news@acme.example",
            "unsubscribe": links, **common,
        },
        "kafka": {
            "provider": "kafka", "bootstrap": "127.0.0.1:1", "topic": "t",
            "options": {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "n",
                        "sasl.password": {"env": "PASSWORD"}}, **common,
        },
    }  # fmt: skip


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def _keep(self, event: str, **fields: Any) -> None:
        self.lines.append(f"{event} {fields}")

    info = warning = error = _keep


class Writer:
    """Keeps receipts."""

    def __init__(self) -> None:
        self.receipts: list[bytes] = []

    def begin(self, topic: str, records: Any) -> asyncio.Future[dict[int, Exception]]:
        self.receipts += [value for _, value in records]
        done: asyncio.Future[dict[int, Exception]] = asyncio.get_running_loop().create_future()
        done.set_result({})
        return done


def sent(channel: str) -> Action:
    to = {"sms": "+8613800138000", "twilio": "+8613800138000", "apns": "00ff"}.get(channel, USER["to"])
    return action(channel, USER["user"], channel=channel, to=to, vars={"name": USER["name"]})


def how_of(name: str, written: dict[str, Any], folder: Path) -> Delivered:
    return delivered(name, f"actions.{name}", written, folder, lambda: NOW_MS, a_nonce, messages=Messages(folder))


async def tried(how: Delivered, folder: Path) -> dict[str, str]:
    """Return all that is said of an action that fails, by where it stands."""
    log, writer, done = Log(), Writer(), asyncio.Event()
    clock = asyncio.get_running_loop().time
    began_s = clock()
    ledger = SqliteLedger(folder / f"{how.name}.db", how.name, "one")

    def now_ms() -> int:
        return NOW_MS + int((clock() - began_s) * 1000)

    at_work: Any = ChannelAtWork(
        how, ledger, writer, "events", now_ms, Random(1), lambda _: done.set(), log  # type: ignore[arg-type]
    )  # fmt: skip
    at_work.take(sent(how.name), Place("a-0", 0))
    at_work.go()
    deadline = clock() + 60
    while not at_work.counts.calls:
        assert clock() < deadline, log.lines
        await asyncio.sleep(0.02)
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), 2.5)
    registry = CollectorRegistry()
    registry.register(DeliveryCollector(lambda: [at_work.look(1)]))
    unsettled = await ledger.unsettled(10)
    found = {
        "logs": "\n".join(log.lines),
        "receipts": b"\n".join(writer.receipts).decode(),
        "metrics": generate_latest(registry).decode(),
        "status": "".join(str(_said(how, action_id, entry)) for action_id, entry in unsettled.oldest),
        "preview": json.dumps(dict(how.provider.preview(sent(how.name)))),
        "repr": f"{how!r} {how.provider!r} {getattr(how.provider, '_settings', '')!r}",
        "failure": repr(at_work.failure),
    }
    await at_work.close()
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("P8", p8())
    for name in ("hello.subject", "hello.txt", "hello.html"):
        (tmp_path / f"{name}.liquid").write_text("Hello {{ vars.name }}")
    return tmp_path


@pytest.mark.parametrize("mood", MOODS)
def test_whatever_a_provider_does_no_secret_and_nobody_stands_where_it_should_not(
    mood: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = f"550 {USER['to']} says marked-secret-of-links"

    async def all_of_them(url: str, port: int) -> dict[str, dict[str, str]]:
        written = channels(url, port)
        hows = [how_of(name, one, folder) for name, one in written.items()]
        found = await asyncio.gather(*(tried(how, folder) for how in hows))
        return dict(zip(written, found, strict=True))

    with (
        Server(MOODS[mood]) as server,
        MailServer(mood=lambda command, _: refusal if command == "RCPT" else None) as mail,
    ):
        monkeypatch.setenv("FCM", credentials(server.url))
        found = asyncio.run(all_of_them(server.url, mail.port))
    leaks = []
    for channel, places in found.items():
        for place, said in places.items():
            marks = [*SECRETS.values(), *RUN_TIME]
            if place in ("logs", "metrics", "failure"):
                marks += [*USER.values(), "13800138000"]
            elif place == "status":
                marks += [USER["to"], "13800138000"]
            leaks += [
                (channel, place, mark, said[max(0, at - 80) : at + 80])
                for mark in marks
                if (at := said.find(mark)) >= 0
            ]
        assert places["failure"] == "None", (mood, channel, places)
    assert leaks == []


def test_a_secret_that_is_said_back_is_hidden_and_what_is_short_is_not() -> None:
    answer = Answer(RETRY, "E-abcdef", "wrong key abcdef-and-more, abcdef, ok", provider_id="abcdef")
    found = without(answer, {"abcdef", "abcdef-and-more", "ok"})
    assert (found.code, found.detail) == ("E-<hidden>", "wrong key <hidden>, <hidden>, ok")
    assert without(Answer(OK, "x"), {"abcdef"}) == Answer(OK, "x")


def test_what_tells_of_a_user_is_found_however_deep_it_is() -> None:
    one = action("a", "u-1", to="t-1", vars={"a": "Lina", "b": [{"c": "Zhang"}], "d": 5, "e": None})
    assert personal(one) == {"u-1", "t-1", "Lina", "Zhang"}


def test_a_callback_that_is_forged_is_not_said_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a provider could not read or verify is answered, and that is no place for a secret."""
    monkeypatch.setenv("FCM", credentials("http://127.0.0.1:1"))
    body = b'{"action_id": "x", "marked": "' + USER["to"].encode() + b'"'
    for name, written in channels("http://127.0.0.1:1", 1).items():
        how = how_of(name, written, folder)
        came = Callback("POST", {"signature": "x"}, {"content-type": "application/json"}, body, "https://x/r/marked")

        async def refused(how: Delivered = how, came: Callback = came) -> str:
            try:
                return str(how.provider.callback(came))
            except Exception as error:
                return f"{type(error).__name__} {error}"

        said = asyncio.run(refused())
        assert USER["to"] not in said, (name, said)
        assert not any(secret in said for secret in SECRETS.values()), (name, said)
