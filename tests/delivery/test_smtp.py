"""E-mail over SMTP: what a server gets, over which connections, and what its answers mean."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.channels.base import Content, Surroundings, Unfit
from connectors.channels.smtp import Smtp, SmtpSettings
from connectors.tokens import OPEN, UNSUBSCRIBE, Token, read_token
from dataflow.deliver.config import delivered
from dataflow.errors import UsageError
from state.delivery import CONFIG, OK, PERMANENT, RETRY, UNKNOWN, Answer
from state.outgoing import Action
from tests.delivery.actions import action
from tests.providers.smtp import HANGS, HANGS_UP, PASSWORD, USER, Certificate, MailServer, make_certificate

NOW_MS = 1_795_420_800_123
KEY = "the key of the gateway"
ENVIRONMENT = {"USER": USER, "PASSWORD": PASSWORD, "KEY": KEY, "WRONG": "wrong"}
UNSUBSCRIBES = {"base": "https://u.acme.example/", "key": {"env": "KEY"}}


def mail(name: str = "a", to: str | None = "lina@example.org", **more: Any) -> Action:
    return action(name, channel="email", to=to, **more)


def settings(port: int = 25, **more: Any) -> SmtpSettings:
    given = {
        "provider": "smtp", "host": "127.0.0.1", "port": port, "tls": "none", "from": "Acme <news@acme.example>",
        "unsubscribe": UNSUBSCRIBES, **more,
    }  # fmt: skip
    return SmtpSettings.model_validate(given, context={"environment": ENVIRONMENT, "folder": Path()})


HELLO = Content("Hello", "plain", "<p>HTML")


def around(content: Content | Callable[[Action, str | None], Content] = HELLO, timeout_s: float = 10.0) -> Surroundings:
    said = content if callable(content) else lambda _, __: content
    return Surroundings(lambda: NOW_MS, lambda: "nonce", Path(), timeout_s, said)


def called(server: MailServer, *actions: Action, timeout_s: float = 10.0, **more: Any) -> list[Answer]:
    """Return what comes of sending *actions*, one after the other."""

    async def call() -> list[Answer]:
        smtp = Smtp(settings(server.port, **more), around(timeout_s=timeout_s))
        found = [await smtp.call(one) for one in actions or (mail(),)]
        await smtp.close()
        return found

    return asyncio.run(call())


def message(content: Content = HELLO, one: Action | None = None, **more: Any) -> EmailMessage:
    """Return the message that a server would get."""
    with MailServer() as server:

        async def call() -> Answer:
            smtp = Smtp(settings(server.port, **more), around(content))
            answer = await smtp.call(one or mail())
            await smtp.close()
            return answer

        assert asyncio.run(call()).kind == OK
    (came,) = server.mails
    return came.message


# ---- the message ---------------------------------------------------------------------------------------------------


def test_a_message_has_text_and_html_and_says_whom_it_is_from_and_for() -> None:
    found = message(Content("Your cart, 李娜 ☂", "grüezi\n", "<p>grüezi"), reply_to="help@acme.example")
    assert found["from"] == "Acme <news@acme.example>"
    assert found["to"] == "lina@example.org"
    assert found["reply-to"] == "help@acme.example"
    assert found["subject"] == "Your cart, 李娜 ☂"
    assert found["date"].datetime.isoformat() == "2026-11-23T08:00:00+00:00"
    assert found.get_content_type() == "multipart/alternative"
    text, html = found.iter_parts()
    assert (text.get_content_type(), text.get_content()) == ("text/plain", "grüezi\n")
    assert (html.get_content_type(), html.get_content()) == ("text/html", "<p>grüezi\n")


@pytest.mark.parametrize(
    ("content", "kind"), [(Content("s", "text", ""), "text/plain"), (Content("s", "", "<p>"), "text/html")]
)
def test_a_message_with_one_part_is_that_part(content: Content, kind: str) -> None:
    assert message(content).get_content_type() == kind


def test_every_attempt_sends_the_same_bytes_with_the_id_of_the_action() -> None:
    with MailServer() as server:
        called(server, mail("a"), mail("a"), mail("b"))
    first, again, other = server.mails
    assert first == again
    assert first.message["message-id"] == f"<{mail('a').action_id}@acme.example>"
    assert other.message["message-id"] == f"<{mail('b').action_id}@acme.example>"


def test_all_that_is_sent_is_ascii_in_lines_that_fit() -> None:
    long = "ü" * 5000 + "\n" + "x" * 3000
    with MailServer() as server:

        async def call() -> Answer:
            smtp = Smtp(settings(server.port), around(Content("ä" * 500, long, f"<p>{long}")))
            return await smtp.call(mail(user="u" * 256))

        assert asyncio.run(call()).kind == OK
    (came,) = server.mails
    assert came.content.isascii()
    assert max(map(len, came.content.split(b"\r\n"))) <= 998
    assert b"\n" not in came.content.replace(b"\r\n", b"")
    assert came.message["subject"] == "ä" * 500


def test_a_message_in_html_tells_that_it_is_opened_only_where_that_is_wanted() -> None:
    one = mail(user="u-17", category="notification")
    body = Content("s", "text", "<html><body><p>Hi</p></BODY></html>")
    assert "img" not in message(body, one).as_string()
    found = message(body, one, opens=True)
    text, html = found.iter_parts()
    assert "/o/" not in text.get_content()
    picture = re.search(
        r'<p>Hi</p><img src="https://u\.acme\.example/o/(\S+)" width="1" height="1" alt=""></BODY></html>',
        html.get_content(),
    )
    assert picture is not None
    token = Token(one.action_id, "u-17", "email", "notification")
    assert read_token([KEY], OPEN, picture[1]) == token
    assert read_token([KEY], UNSUBSCRIBE, picture[1]) is None, "it unsubscribes nobody"
    bare = message(Content("s", "", "<p>Hi"), one, opens=True).get_content()
    assert re.fullmatch(r"<p>Hi<img src=\S+ width=\S+ height=\S+ alt=\S+>\n", bare)
    assert "img" not in message(Content("s", "text", ""), one, opens=True).as_string()


def test_a_message_that_tells_that_it_is_opened_needs_the_gateway() -> None:
    with pytest.raises(ValidationError, match="opens: true wants unsubscribe:"):
        settings(opens=True, unsubscribe=False)


def test_a_preview_has_no_token_that_works() -> None:
    shown = Smtp(settings(opens=True), around()).preview(mail())
    assert "/o/preview" in shown["html"]


def test_marketing_carries_a_link_that_unsubscribes_with_one_click() -> None:
    one = mail(user="u" * 200)
    found = message(one=one)
    (line,) = found.get_all("list-unsubscribe", [])
    assert line.startswith("<https://u.acme.example/u/")
    assert line.endswith(">")
    token = line.removeprefix("<https://u.acme.example/u/").removesuffix(">")
    assert read_token([KEY], UNSUBSCRIBE, token) == Token(one.action_id, "u" * 200, "email", "marketing")
    assert found["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"


def test_the_link_is_in_one_line_and_in_the_text() -> None:
    with MailServer() as server:

        async def call() -> None:
            smtp = Smtp(settings(server.port), around(lambda _, url: Content("s", f"bye: {url}", "")))
            await smtp.call(mail(user="u" * 200))

        asyncio.run(call())
    (came,) = server.mails
    (line,) = [one for one in came.content.split(b"\r\n") if one.startswith(b"List-Unsubscribe:")]
    url = line.removeprefix(b"List-Unsubscribe: <").removesuffix(b">").decode()
    assert came.message.get_content() == f"bye: {url}\n"


def test_a_notification_carries_no_such_link_nor_does_a_channel_that_says_so() -> None:
    for found in (message(one=mail(category="notification")), message(unsubscribe=False)):
        assert "list-unsubscribe" not in found
        assert "list-unsubscribe-post" not in found


def test_bounces_go_to_an_address_with_the_action_in_it() -> None:
    with MailServer() as server:
        called(server, mail("a"), bounces="b@bounce.acme.example")
        called(server, mail("a"))
    verp, plain = server.mails
    assert verp.sender == f"b+{mail('a').action_id}@bounce.acme.example"
    assert plain.sender == "news@acme.example"
    assert verp.message["from"] == "Acme <news@acme.example>"
    assert verp.recipients == ["lina@example.org"]


def test_headers_of_the_relay_can_be_added() -> None:
    assert message(headers={"X-Stream": "cart"})["x-stream"] == "cart"


def test_a_host_name_in_another_script_is_sent_as_dns_has_it() -> None:
    assert message(one=mail(to="info@bücher.example"))["to"] == "info@xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("to", "code"),
    [
        (None, "no_address"), ("", "bad_address"), ("lina", "bad_address"), ("a b@c.example", "bad_address"),
        ("a@b@c.example", "bad_address"), ("a@c.example\r\nRCPT TO:<all@c.example>", "bad_address"),
        ("a@c.example, b@c.example", "bad_address"), ("<a@c.example>", "bad_address"), ("a@", "bad_address"),
        ("a@-.example", "bad_address"), ("a..b@c.example", "bad_address"), ("a@c..example", "bad_address"),
        ("ü@c.example", "bad_address"), ("x" * 65 + "@c.example", "bad_address"), ("a@c.example\0", "bad_address"),
    ],
)  # fmt: skip
def test_what_is_no_address_is_not_sent_to(to: str | None, code: str) -> None:
    with MailServer() as server, pytest.raises(Unfit) as refused:
        called(server, mail(to=to))
    assert refused.value.code == code
    assert server.connections == 0


@pytest.mark.parametrize(("content", "code"), [(Content("", "x", ""), "no_subject"), (Content("s", "", ""), "no_body")])
def test_a_message_without_subject_or_body_is_not_sent(content: Content, code: str) -> None:
    smtp = Smtp(settings(), around(content))
    with pytest.raises(Unfit) as refused:
        asyncio.run(smtp.call(mail()))
    assert refused.value.code == code


def test_a_user_id_that_makes_the_link_too_long_for_a_line_is_told() -> None:
    with pytest.raises(Unfit, match="user_id_too_long"):
        asyncio.run(Smtp(settings(), around()).call(mail(user="龍" * 256)))


def test_what_would_be_sent_is_shown_without_a_link_that_works() -> None:
    smtp = Smtp(settings(user={"env": "USER"}, password={"env": "PASSWORD"}, tls="starttls"), around())
    shown = smtp.preview(mail())
    assert (shown["Subject"], shown["plain"], shown["html"]) == ("Hello", "plain\n", "<p>HTML\n")
    assert shown["List-Unsubscribe"] == "<https://u.acme.example/u/preview>"
    assert PASSWORD not in f"{shown} {settings()!r}"
    assert KEY not in f"{shown} {settings()!r}"


# ---- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "said", "kind", "code"),
    [
        ("RCPT", "550 5.1.1 no such user", PERMANENT, "smtp_550"), ("RCPT", "554 no", PERMANENT, "smtp_554"),
        ("RCPT", "450 4.2.1 mailbox busy", RETRY, "smtp_450"), ("RCPT", "451 4.7.1 greylisted", RETRY, "smtp_451"),
        ("RCPT", "452 4.5.3 too many", RETRY, "smtp_452"), ("RCPT", "421 4.3.2 bye", RETRY, "smtp_421"),
        ("DATA", "552 5.3.4 too large", PERMANENT, "smtp_552"), ("DATA", "554 5.7.1 spam", PERMANENT, "smtp_554"),
        ("DATA", "451 4.3.0 later", RETRY, "smtp_451"), ("DATA", "250 OK", OK, "smtp_250"),
        ("MAIL", "553 5.7.1 not your address", CONFIG, "smtp_553"), ("MAIL", "530 5.7.0 sign in", CONFIG, "smtp_530"),
        ("MAIL", "552 5.3.4 too large", PERMANENT, "smtp_552"), ("MAIL", "451 4.3.0 later", RETRY, "smtp_451"),
        ("MAIL", HANGS_UP, RETRY, "no_answer"), ("RCPT", HANGS_UP, RETRY, "no_answer"),
        ("DATA", HANGS_UP, UNKNOWN, "no_answer"), ("DATA", HANGS, UNKNOWN, "timeout"),
        ("RCPT", HANGS, RETRY, "timeout"), ("MAIL", HANGS, RETRY, "timeout"),
        ("DATA", "nonsense", UNKNOWN, "smtp_-1"), ("RCPT", "nonsense", RETRY, "smtp_-1"),
    ],
)  # fmt: skip
def test_what_an_answer_means(command: str, said: str, kind: str, code: str) -> None:
    with MailServer(mood=lambda one, _: said if one == command else None) as server:
        (found,) = called(server, timeout_s=3.0 if said == HANGS else 10.0)
    assert (found.kind, found.code) == (kind, code), found


def test_who_greylists_is_tried_again_some_minutes_later_and_takes_it_then() -> None:
    seen: set[str] = set()

    def mood(command: str, text: str) -> str | None:
        if command != "RCPT" or text in seen:
            return None
        seen.add(text)
        return "450 4.7.1 try again in five minutes"

    with MailServer(mood=mood) as server:
        first, second = called(server, mail(), mail())
    assert (first.kind, second.kind) == (RETRY, OK)
    assert 60_000 <= (first.wait_ms or 0) <= 300_000
    assert len(server.mails) == 1


def test_nobody_there_is_tried_again() -> None:
    with MailServer() as server:
        pass
    (found,) = called(server)
    assert (found.kind, found.code) == (RETRY, "connect")


@pytest.mark.parametrize(("greeting", "kind"), [("554 no service for you", CONFIG), ("421 too many of you", RETRY)])
def test_a_server_that_does_not_greet(greeting: str, kind: str) -> None:
    with MailServer(greeting=greeting) as server:
        (found,) = called(server)
    assert (found.kind, found.code) == (kind, f"smtp_{greeting[:3]}")


# ---- connections ---------------------------------------------------------------------------------------------------


def test_one_connection_is_used_again_and_after_a_refusal_too() -> None:
    refuses = {"mail-2@example.org"}
    with MailServer(mood=lambda _, text: "550 no" if text in refuses else None) as server:
        found = called(server, *(mail(f"a{number}", to=f"mail-{number}@example.org") for number in range(5)))
    assert [one.kind for one in found] == [OK, OK, PERMANENT, OK, OK]
    assert server.connections == 1
    assert len(server.mails) == 4


def test_a_connection_that_has_ended_meanwhile_is_replaced_and_nothing_is_sent_twice() -> None:
    with MailServer() as server:

        async def call() -> list[Answer]:
            smtp = Smtp(settings(server.port), around())
            found = [await smtp.call(mail("a"))]
            server.hang_up_all()
            await asyncio.sleep(0.05)
            found.append(await smtp.call(mail("b")))
            await smtp.close()
            return found

        assert [one.kind for one in asyncio.run(call())] == [OK, OK]
    assert (server.connections, len(server.mails)) == (2, 2)


def test_a_server_that_has_had_enough_of_a_connection_gets_another_one() -> None:
    mails = 0

    def mood(command: str, _: str) -> str | None:
        nonlocal mails
        mails += command == "MAIL"
        return "421 4.7.0 idle for too long" if command == "MAIL" and mails == 2 else None

    with MailServer(mood=mood) as server:
        assert [one.kind for one in called(server, mail("a"), mail("b"))] == [OK, OK]
    assert (server.connections, len(server.mails)) == (2, 2)


def test_no_more_connections_than_allowed_are_open() -> None:
    with MailServer() as server:

        async def call() -> list[Answer]:
            smtp = Smtp(settings(server.port, connections=3), around())
            found = await asyncio.gather(*(smtp.call(mail(f"a{number}")) for number in range(40)))
            await smtp.close()
            return found

        assert {one.kind for one in asyncio.run(call())} == {OK}
    assert server.most_open <= 3
    assert len(server.mails) == 40


def test_a_call_that_is_cancelled_leaves_no_connection_in_the_middle_of_something() -> None:
    slow = {"slow@example.org"}
    with MailServer(mood=lambda _, text: HANGS if text in slow else None) as server:

        async def call() -> Answer:
            smtp = Smtp(settings(server.port, connections=1), around(timeout_s=30))
            task = asyncio.create_task(smtp.call(mail("a", to="slow@example.org")))
            await asyncio.sleep(0.2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            answer = await smtp.call(mail("b"))
            await smtp.close()
            return answer

        assert asyncio.run(call()).kind == OK
    (came,) = server.mails
    assert came.recipients == ["lina@example.org"]


# ---- TLS and signing in --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def signed_in(certificate: Certificate, **more: Any) -> dict[str, Any]:
    return {
        "user": {"env": "USER"}, "password": {"env": "PASSWORD"}, "ca": str(certificate.certificate), **more
    }  # fmt: skip


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_over_tls_who_signs_in_may_send(certificate: Certificate, tls: str) -> None:
    with MailServer(certificate, implicit=tls == "implicit", login=True) as server:
        (found,) = called(server, **signed_in(certificate, tls=tls))
    assert found.kind == OK, found
    assert server.logins == [(USER.encode(), PASSWORD.encode())]


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_wrong_password_stops_the_channel(certificate: Certificate, tls: str) -> None:
    with MailServer(certificate, implicit=tls == "implicit", login=True) as server:
        (found,) = called(server, **signed_in(certificate, tls=tls, password={"env": "WRONG"}))
    assert (found.kind, found.code) == (CONFIG, "smtp_535")
    assert "wrong" not in found.detail


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_certificate_that_nobody_vouches_for_or_of_another_host_gets_neither_mail_nor_password(
    certificate: Certificate, tmp_path: Path, tls: str
) -> None:
    other = make_certificate(tmp_path, host="mail.example")
    for one, trusted in ((certificate, None), (other, str(other.certificate))):
        with MailServer(one, implicit=tls == "implicit", login=True) as server:
            (found,) = called(server, **signed_in(one, tls=tls, ca=trusted))
        assert (found.kind, found.code) == (CONFIG, "certificate"), found
        assert (server.logins, server.mails) == ([], [])


def test_a_server_without_starttls_gets_nothing_unless_that_was_said() -> None:
    with MailServer() as server:
        (found,) = called(server, tls="starttls")
        assert (found.kind, found.code) == (CONFIG, "not_supported")
        assert server.mails == []
        assert called(server, tls="none")[0].kind == OK


def test_a_server_that_wants_nobody_to_sign_in_is_told(certificate: Certificate) -> None:
    with MailServer(certificate) as server:
        (found,) = called(server, **signed_in(certificate, tls="starttls"))
    assert (found.kind, found.code) == (CONFIG, "not_supported")


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"from": "news"}, {"from": "a@b.example\nBcc: x@y.example"}, {"tls": "ssl"}, {"port": 0}, {"port": "25"},
        {"user": {"env": "USER"}}, {"password": {"env": "PASSWORD"}},
        {"user": {"env": "USER"}, "password": {"env": "PASSWORD"}, "tls": "none"},
        {"unsubscribe": None}, {"unsubscribe": True}, {"unsubscribe": {"base": "https://u.example"}},
        {"unsubscribe": {**UNSUBSCRIBES, "base": "http://u.example"}},
        {"unsubscribe": {**UNSUBSCRIBES, "key": {"env": "WRONG"}}}, {"unsubscribe": {**UNSUBSCRIBES, "more": 1}},
        {"headers": {"Subject": "x"}}, {"headers": {"X-A": "b\nc"}}, {"headers": {"X A": "b"}}, {"bounces": "nobody"},
        {"connections": 0}, {"nothing": 1}, {"password": "in the file"},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**more)


def test_marketing_without_a_link_has_to_be_asked_for() -> None:
    given = {"provider": "smtp", "host": "mail.example", "from": "news@acme.example"}
    with pytest.raises(ValidationError, match="unsubscribe"):
        SmtpSettings.model_validate(given)
    assert SmtpSettings.model_validate({**given, "unsubscribe": False}).tls == "starttls"


def test_a_channel_of_nudge_yaml_sends_messages_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "hello.subject.liquid").write_text("Hi {{ vars.name }}")
    (tmp_path / "templates" / "hello.html.liquid").write_text("<a href='{{ unsubscribe_url }}'>{{ vars.name }}</a>")
    (tmp_path / "key").write_text(KEY)
    with MailServer() as server:
        written = {
            "provider": "smtp", "host": "127.0.0.1", "port": server.port, "tls": "none", "from": "news@acme.example",
            "unsubscribe": {"base": "https://u.acme.example", "key": {"file": "key"}}, "timeout": "5s",
        }  # fmt: skip

        async def call() -> Answer:
            how = delivered("email", "actions.email", written, tmp_path, lambda: NOW_MS, lambda: "n")
            return await how.provider.call(mail(vars={"name": "<Lina>"}))

        assert asyncio.run(call()).kind == OK
    (came,) = server.mails
    url = came.message["list-unsubscribe"][1:-1]
    assert came.message["subject"] == "Hi <Lina>"
    assert came.message.get_content() == f"<a href='{url}'>&lt;Lina&gt;</a>\n"


def test_certificates_that_are_not_there_are_told_at_the_start(tmp_path: Path) -> None:
    written = {
        "provider": "smtp", "host": "mail.example", "from": "a@b.example", "unsubscribe": False, "ca": "none.pem"
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"channels\.email\.deliver: ca: none\.pem"):
        delivered("email", "actions.email", written, tmp_path, lambda: NOW_MS, lambda: "n")
