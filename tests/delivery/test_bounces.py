"""Bounces are read as RFC 3464 has them, whatever else comes to that address."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.channels.base import Callback, Report, Surroundings
from connectors.channels.bounces import reports_of
from connectors.channels.smtp import Smtp, SmtpSettings

ID = "9f0c" * 8
BOUNCE = """\
Return-Path: <>
Date: Mon, 23 Nov 2026 16:00:04 +0800
From: MAILER-DAEMON@mx.example.org (Mail Delivery System)
To: {to}
Subject: Undelivered Mail Returned to Sender
Message-ID: <20261123080004.7F3A@mx.example.org>
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="B"

--B
Content-Type: text/plain

I'm sorry.
--B
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.org
Arrival-Date: Mon, 23 Nov 2026 16:00:01 +0800

Final-Recipient: rfc822; lina@example.org
Original-Recipient: rfc822;lina@example.org
Action: {action}
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 <lina@example.org>:
    Recipient address rejected

--B
Content-Type: {returned}

From: Acme <news@acme.example>
Message-ID: <{message_id}@acme.example>
Subject: Your cart

--B--
"""


def bounce(
    to: str = f"bounces+{ID}@acme.example", action: str = "failed", returned: str = "text/rfc822-headers",
    message_id: str = "0" * 32,
) -> bytes:  # fmt: skip
    text = BOUNCE.format(to=to, action=action, returned=returned, message_id=message_id)
    return text.replace("\n", "\r\n").encode()


def test_a_bounce_says_that_the_action_failed_and_why() -> None:
    (found,) = reports_of(bounce())
    assert found == Report(
        "failed", action_id=ID, code="5.1.1", event_id=found.event_id, at_ms=1_795_420_804_000,
        detail="smtp; 550 5.1.1 <lina@example.org>: Recipient address rejected",
    )  # fmt: skip
    assert reports_of(bounce())[0].event_id == found.event_id


@pytest.mark.parametrize("returned", ["text/rfc822-headers", "message/rfc822"])
def test_where_the_address_does_not_name_the_action_the_returned_message_does(returned: str) -> None:
    (found,) = reports_of(bounce("news@acme.example", returned=returned, message_id=ID))
    assert found.action_id == ID


@pytest.mark.parametrize(
    ("action", "statuses"),
    [
        ("failed", ["failed"]),
        ("Delivered", ["delivered"]),
        ("delayed", []),
        ("relayed", []),
        ("expanded", []),
        ("", []),
    ],
)
def test_only_what_is_final_is_reported(action: str, statuses: list[str]) -> None:
    assert [one.status for one in reports_of(bounce(action=action))] == statuses


@pytest.mark.parametrize(
    "mail",
    [
        b"", b"Subject: I am on holiday\r\nTo: bounces+" + ID.encode() + b"@acme.example\r\n\r\nuntil Monday",
        bounce("news@acme.example", message_id="not-ours"), b"\xff\xfe\x00",
        b"Content-Type: multipart/report\r\n\r\nno parts", b"Content-Type: multipart/report; boundary=B\r\n\r\n--B--",
    ],
)  # fmt: skip
def test_other_mail_reports_nothing(mail: bytes) -> None:
    assert reports_of(mail) == []


@given(st.data())
def test_a_damaged_report_is_read_or_refused(data: st.DataObject) -> None:
    mail = bounce()
    begin = data.draw(st.integers(0, len(mail)))
    end = data.draw(st.integers(begin, len(mail)))
    mail = mail[:begin] + data.draw(st.binary(max_size=20)) + mail[end:]
    try:
        found = reports_of(mail)
    except ValueError:
        return
    assert all(one.status in ("failed", "delivered") for one in found)


def test_mail_nested_without_end_is_refused() -> None:
    head = b"Content-Type: multipart/report; boundary=B%d\r\n\r\n--B%d\r\n"
    with pytest.raises(ValueError, match="no mail that can be read"):
        reports_of(b"".join(head % (number, number) for number in range(5_000)))


def test_a_mail_server_hands_a_bounce_to_the_gateway_as_it_came() -> None:
    read = SmtpSettings.model_validate({"host": "mx", "from": "news@acme.example", "unsubscribe": False})
    smtp = Smtp(read, Surroundings(lambda: 0, lambda: "n", Path(), 1.0))
    came = Callback("POST", {}, {"content-type": "message/rfc822"}, bounce(), "https://g.acme.example/receipts/email/s")
    reply = smtp.callback(came)
    assert [one.action_id for one in reply.reports] == [ID]
    assert reply.status == 204
    asyncio.run(smtp.close())
