"""Twilio as documented: basic authentication, forms, codes in errors, signed reports. It drops no repeats."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from urllib.parse import parse_qs, quote_plus

from tests.providers.server import Request, Response

ACCOUNT, TOKEN = "AC" + "0" * 31 + "7", "12345"
SENDERS = {"+15005550006"}
BAD = {"+15005550001": 21211, "+15005550004": 21610, "+15005550009": 21614}
"""Numbers that it refuses, and how; most are those of its own test accounts."""


def error(code: int, status: int = 400, **headers: str) -> Response:
    said = {"code": code, "message": "why", "more_info": f"https://www.twilio.com/docs/errors/{code}", "status": status}
    return Response(status, json.dumps(said).encode(), headers)


class Twilio:
    """What has come and what was sent.

    Args:
        mood: says what to answer instead, and nothing is sent; None for what is documented.
    """

    def __init__(self, mood: Callable[[Request], Response | str | None] = lambda _: None) -> None:
        self._mood = mood
        self.sent: list[dict[str, str]] = []

    def __call__(self, request: Request) -> Response | str:
        instead = self._mood(request)
        if instead is not None:
            return instead
        user, _, password = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).partition(b":")
        if (user, password) not in {(ACCOUNT.encode(), TOKEN.encode()), (b"SK1", b"keysecret")}:
            return error(20003, 401)
        if (request.method, request.path) != ("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"):
            return error(20404, 404)
        form = {name: one for name, (one,) in parse_qs(request.body.decode(), strict_parsing=True).items()}
        if re.fullmatch(r"\+[1-9]\d{6,14}", form.get("To", "")) is None:
            return error(21211)
        if form["To"] in BAD:
            return error(BAD[form["To"]])
        if "MessagingServiceSid" not in form and form.get("From") not in SENDERS:
            return error(21606)
        if not 0 < len(form["Body"]) <= 1600:
            return error(21617)
        sid = f"SM{len(self.sent) + 1:032x}"
        self.sent.append({**form, "sid": sid})
        status = "accepted" if "MessagingServiceSid" in form else "queued"
        return Response(201, json.dumps({"sid": sid, "status": status, "error_code": None}).encode())


def report(url: str, token: str = TOKEN, **fields: str) -> tuple[bytes, dict[str, str]]:
    """Return body and head of a report to *url*."""
    signed = url
    for name, value in sorted(fields.items()):
        signed += f"{name}{value}"
    signature = base64.b64encode(hmac.new(token.encode(), signed.encode(), hashlib.sha1).digest()).decode()
    body = "&".join(f"{name}={quote_plus(value)}" for name, value in fields.items())
    return body.encode(), {
        "content-type": "application/x-www-form-urlencoded; charset=UTF-8", "x-twilio-signature": signature,
    }  # fmt: skip
