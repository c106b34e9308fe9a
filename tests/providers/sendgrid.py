"""SendGrid as documented: a bearer, JSON whose fields are looked at one by one, errors in words, signed events.

It drops no repeats. What it says of a wrong field, and in which words, is made up where the documents do not say.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.providers.server import Request, Response

KEY: Final = "SG.key-of-sendgrid"
VERIFIED: Final = "acme.example"
"""The domain of senders that it knows."""
SIGNS: Final = ec.derive_private_key(20_261_123, ec.SECP256R1())
ADDRESS: Final = re.compile(r"[^@\s,<>]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
RESERVED: Final = (
    "x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "content-transfer-encoding", "to", "from",
    "subject", "reply-to", "cc", "bcc",
)  # fmt: skip
KNOWN: Final = {
    "personalizations", "from", "reply_to", "subject", "content", "headers", "categories", "ip_pool_name",
    "mail_settings", "tracking_settings",
}  # fmt: skip

Wrong = tuple[str | None, str]


def public_key(key: ec.EllipticCurvePrivateKey = SIGNS) -> str:
    """Return the Verification Key as the console shows it."""
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def refusal(status: int, *wrong: Wrong, **headers: str) -> Response:
    errors = [{"message": message, "field": field, "help": None} for field, message in wrong]
    return Response(status, json.dumps({"errors": errors}).encode(), headers)


def _person(field: str, one: Any) -> Iterator[Wrong]:
    if not isinstance(one, dict) or not set(one) <= {"email", "name"}:
        yield field, "it is an object with email and name"
    elif ADDRESS.fullmatch(str(one.get("email"))) is None:
        yield f"{field}.email", "Does not contain a valid address."


def _texts(field: str, one: Any) -> Iterator[Wrong]:
    if not isinstance(one, dict) or not all(isinstance(part, str) for pair in one.items() for part in pair):
        yield field, "its values are texts"


def wrong_in(body: Any) -> Iterator[Wrong]:
    """Yield what is wrong with a message."""
    if not isinstance(body, dict) or not set(body) <= KNOWN:
        yield None, "Bad Request"
        return
    for number, one in enumerate(body.get("personalizations") or [None]):
        where = f"personalizations.{number}"
        if not isinstance(one, dict) or not set(one) <= {"to", "custom_args"} or not one.get("to"):
            yield where, "it has recipients"
            continue
        for place, to in enumerate(one["to"]):
            yield from _person(f"{where}.to.{place}", to)
        yield from _texts(f"{where}.custom_args", one.get("custom_args", {}))
    yield from _person("from", body.get("from"))
    if "reply_to" in body:
        yield from _person("reply_to", body["reply_to"])
    if not isinstance(body.get("subject"), str) or not body["subject"]:
        yield "subject", "it is a text"
    content = body.get("content")
    if not isinstance(content, list) or [one["type"] for one in content] not in (
        ["text/plain"], ["text/html"], ["text/plain", "text/html"],
    ):  # fmt: skip
        yield "content", "text/plain comes first, then text/html"
    elif not all(isinstance(one["value"], str) and one["value"] for one in content):
        yield "content.0.value", "it has one character at least"
    headers = body.get("headers", {})
    yield from _texts("headers", headers)
    if any(name.lower() in RESERVED or not value.isascii() for name, value in headers.items()):
        yield "headers", "one of them is reserved, or not encoded"
    categories = body.get("categories", [])
    if len(categories) > 10 or len(set(categories)) < len(categories) or any(len(one) > 255 for one in categories):
        yield "categories", "there are ten at most"
    for group in ("mail_settings", "tracking_settings"):
        for name, one in body.get(group, {}).items():
            if not isinstance(one.get("enable"), bool):
                yield f"{group}.{name}.enable", "it is a boolean value"


class Sendgrid:
    """What has come and what was sent.

    Args:
        mood: says what to answer instead, and nothing is sent; None for what is documented.
    """

    def __init__(self, mood: Callable[[Request], Response | str | None] = lambda _: None) -> None:
        self._mood = mood
        self.requests: list[Request] = []
        self.sent: list[dict[str, Any]] = []

    def __call__(self, request: Request) -> Response | str:
        self.requests.append(request)
        instead = self._mood(request)
        if instead is not None:
            return instead
        head = request.headers
        if head.get("authorization") != f"Bearer {KEY}":
            return refusal(401, (None, "The provided authorization grant is invalid, expired, or revoked"))
        if request.path != "/v3/mail/send":
            return refusal(404, (None, "not found"))
        if request.method != "POST":
            return refusal(405, (None, "method not allowed"))
        if head.get("accept") != "application/json":
            return refusal(406, (None, "no such format"))
        if head.get("content-type") != "application/json":
            return refusal(415, (None, "Content-Type should be application/json."))
        body = json.loads(request.body)
        if wrong := list(wrong_in(body)):
            return refusal(400, *wrong)
        if not body["from"]["email"].endswith(f"@{VERIFIED}"):
            return refusal(403, ("from", "The from address does not match a verified Sender Identity."))
        if body.get("mail_settings", {}).get("sandbox_mode", {}).get("enable"):
            return Response(200)
        self.sent.append(body)
        return Response(202, headers={"X-Message-Id": f"id-{len(self.sent)}_A"})


def event(kind: str, action_id: str | None, number: int = 1, at_s: int = 1_795_420_795, **more: Any) -> dict[str, Any]:
    """Return an event of the message *number*."""
    ours = {} if action_id is None else {"action_id": action_id}
    return {
        "email": "lina@example.org", "timestamp": at_s, "smtp-id": "<x@geopod-ismtpd-1>", "event": kind,
        "sg_event_id": f"ev-{kind}", "sg_message_id": f"id-{number}_A.recvd-5d4f-8-65A.0", **ours, **more,
    }  # fmt: skip


def posted(body: bytes, timestamp: int | str, key: ec.EllipticCurvePrivateKey = SIGNS) -> dict[str, str]:
    """Return the head with which *body* is posted."""
    signature = key.sign(str(timestamp).encode() + body, ec.ECDSA(SHA256()))
    return {
        "content-type": "application/json",
        "x-twilio-email-event-webhook-signature": base64.b64encode(signature).decode(),
        "x-twilio-email-event-webhook-timestamp": str(timestamp),
    }
