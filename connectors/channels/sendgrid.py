"""E-mail through Twilio SendGrid: a message of `templates/` is posted to its API, and its Event Webhook reports on it.

SendGrid drops no repeats, and a message cannot be looked up by an id of ours. The action's id goes along as a custom
argument and comes back in every event, so what may have been sent can still be told later.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from email.headerregistry import Address
from typing import Annotated, Any, ClassVar, Final, Literal

import httpx
import orjson
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pydantic import AfterValidator, Field

from connectors.channels.base import Callback, NotTheirs, OneWay, Reply, Report, Secret, Settings, Surroundings
from connectors.channels.http import DETAIL_MAX, RETRY_AFTER_MAX_MS, Answered, HttpClient, Request, retry_after_ms
from connectors.channels.mail import ONE_CLICK, Mailbox, Unsubscribing, added, mail_of, mailbox
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, UNKNOWN, Answer
from state.outgoing import Action

ENDPOINTS: Final = {"global": "https://api.sendgrid.com", "eu": "https://api.eu.sendgrid.com"}
CATEGORIES_MAX: Final = 10
ID_MAX: Final = 256
AHEAD_S: Final = 300
BEHIND_S: Final = 86_400
"""SendGrid posts an event again for up to 24 hours. Whether it signs it anew is documented nowhere; the job drops
repeats for as long."""

_OURS: Final = frozenset(
    {
        "from", "to", "cc", "bcc", "subject", "reply-to", "date", "message-id", "mime-version", "received",
        "content-type", "content-transfer-encoding", "dkim-signature", "x-sg-id", "x-sg-eid",
        "list-unsubscribe", "list-unsubscribe-post",
    }
)  # fmt: skip
"""Some are the message's, the others are those that SendGrid lets nobody set."""
_KINDS: Final = {
    # A quota that is used up is 401, a sender that is not verified 403.
    **dict.fromkeys((401, 403, 404, 405, 406, 415, 451), CONFIG),
    408: RETRY,
    413: PERMANENT,
    429: THROTTLED,
    503: RETRY,
}
"""That is inferred from what the documents say of each. They say of no 5xx whether anything was sent."""
_OF_ALL: Final = ("from", "reply_to", "categories", "ip_pool_name", "mail_settings", "tracking_settings")
"""What every message of the channel has in common: whatever is wrong with it is a setting."""
_STATUSES: Final = {
    "processed": "accepted",
    "delivered": "delivered",
    "open": "opened",
    "click": "clicked",
    "bounce": "failed",
    "dropped": "failed",  # It was accepted before, and an action has one outcome.
    **dict.fromkeys(("unsubscribe", "group_unsubscribe", "spamreport"), "unsubscribed"),
}
_HAVE_LEFT: Final = frozenset({"unsubscribed_address", "spam_reporting_address"})
"""Reasons of `dropped` that say that the recipient wants no mail."""


def _headers(given: dict[str, str]) -> dict[str, str]:
    if not all(value.isascii() for value in given.values()):
        raise ValueError("a header is sent as it is, so it has to be ASCII")
    return added(given, _OURS)


def _public_key(text: str) -> EllipticCurvePublicKey:
    try:
        key = load_der_public_key(base64.b64decode("".join(text.split()), validate=True))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("it is not the Verification Key of an Event Webhook")
    return key


def _verification_key(text: str) -> str:
    _public_key(text)
    return text


class SendgridSettings(Settings):
    """`deliver:` of a channel with `provider: sendgrid`."""

    provider: Literal["sendgrid"] = "sendgrid"
    key: Annotated[Secret, Field(description="An API key that may send.")]
    region: Annotated[Literal["global", "eu"], Field(description="Where the account is.")] = "global"
    sender: Annotated[Mailbox, Field(alias="from")]
    reply_to: Mailbox | None = None
    unsubscribe: Annotated[Unsubscribing | Literal[False], Field(union_mode="left_to_right")]
    opens: Annotated[bool, Field(description="Whether SendGrid puts a picture into messages in HTML.")] = False
    clicks: Annotated[bool, Field(description="Whether SendGrid replaces the links of messages in HTML.")] = False
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = {}
    categories: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=255)]], Field(max_length=CATEGORIES_MAX)
    ] = []
    ip_pool: Annotated[str | None, Field(min_length=2, max_length=64)] = None
    sandbox: Annotated[bool, Field(description="True: SendGrid looks at messages and sends none.")] = False
    verification_key: Annotated[
        Annotated[str, AfterValidator(_verification_key)] | None,
        Field(description="The Verification Key of the Event Webhook."),
    ] = None
    endpoint: Annotated[str | None, Field(pattern=r"^https?://[!-.0-~]+$")] = None


class Sendgrid(OneWay):
    """One account. What may have been sent is not sent again, unless the channel's `on_unknown` says so."""

    settings: ClassVar[type[Settings]] = SendgridSettings

    def __init__(
        self, settings: SendgridSettings, around: Surroundings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings, self._around = settings, around
        self._url = f"{settings.endpoint or ENDPOINTS[settings.region]}/v3/mail/send"
        self._head = {
            "authorization": f"Bearer {settings.key.reveal()}",
            "content-type": "application/json",
            "accept": "application/json",
        }
        key = settings.verification_key
        self._public_key = None if key is None else _public_key(key)
        self._client = HttpClient(around.timeout_s, around.concurrency, transport=transport)

    # ---- the message -------------------------------------------------------------------------------------------

    def _body(self, action: Action, *, is_shown: bool) -> dict[str, Any]:
        settings = self._settings
        mail = mail_of(action, self._around, settings.unsubscribe, is_shown=is_shown)
        headers = dict(settings.headers)
        if mail.url is not None:
            headers |= {"List-Unsubscribe": f"<{mail.url}>", "List-Unsubscribe-Post": ONE_CLICK}
        # It takes the parts in this order only.
        parts = (("text/plain", mail.content.text), ("text/html", mail.content.html))
        tracking: dict[str, Any] = {
            "click_tracking": {"enable": settings.clicks, "enable_text": False},
            "open_tracking": {"enable": settings.opens},
        }
        if settings.unsubscribe:
            tracking["subscription_tracking"] = {"enable": False}  # It could put another link in the place of ours.
        body: dict[str, Any] = {
            "personalizations": [{"to": [{"email": mail.recipient}], "custom_args": {"action_id": action.action_id}}],
            "from": _person(mailbox(settings.sender)),
            "subject": mail.content.subject,
            "content": [{"type": kind, "value": text} for kind, text in parts if text],
            "tracking_settings": tracking,
        }
        if settings.reply_to is not None:
            body["reply_to"] = _person(mailbox(settings.reply_to))
        if headers:
            body["headers"] = headers
        if settings.categories:
            body["categories"] = settings.categories
        if settings.ip_pool is not None:
            body["ip_pool_name"] = settings.ip_pool
        if settings.sandbox:
            body["mail_settings"] = {"sandbox_mode": {"enable": True}}
        return body

    def preview(self, action: Action) -> Mapping[str, Any]:
        """Return what would be posted; see `Provider`."""
        return {"method": "POST", "url": self._url, "body": self._body(action, is_shown=True)}

    # ---- the call ----------------------------------------------------------------------------------------------

    async def call(self, action: Action) -> Answer:
        """Send *action*; see `Provider`."""
        body = orjson.dumps(self._body(action, is_shown=False))
        answered = await self._client.send(Request("POST", self._url, self._head, body))
        return answered if isinstance(answered, Answer) else self._meaning(answered)

    def _meaning(self, answered: Answered) -> Answer:
        status, code = answered.status, f"http_{answered.status}"
        if status == 202 or (status == 200 and self._settings.sandbox):
            return Answer(OK, code, provider_id=answered.headers.get("x-message-id", "")[:ID_MAX])
        errors = _errors(answered.body)
        kind = _KINDS.get(status)
        if kind is None and 400 <= status < 500:
            kind = _kind_of(errors, has_headers=bool(self._settings.headers))
        elif kind is None:
            kind = CONFIG if 300 <= status < 400 else UNKNOWN
        said = "; ".join(": ".join(filter(None, one)) for one in errors)
        wait_ms = _wait_ms(answered, self._around.now_ms()) if kind in (THROTTLED, RETRY) else None
        return Answer(kind, code, (said or answered.text)[:DETAIL_MAX], wait_ms=wait_ms)

    # ---- receipts ----------------------------------------------------------------------------------------------

    def callback(self, came: Callback) -> Reply:
        """Return what SendGrid reports, signed with the key of the webhook; see `Provider`."""
        if self._public_key is None:
            raise NotTheirs("the channel has no verification_key")
        written = came.headers.get("x-twilio-email-event-webhook-timestamp", "")
        try:
            signature = base64.b64decode(came.headers.get("x-twilio-email-event-webhook-signature", ""), validate=True)
            self._public_key.verify(signature, written.encode() + came.body, ECDSA(SHA256()))
        except (InvalidSignature, ValueError):
            raise NotTheirs("the signature is wrong") from None
        age_s = self._around.now_ms() // 1000 - int(written) if _is_time(written) else None
        if age_s is None or not -AHEAD_S <= age_s <= BEHIND_S:
            raise NotTheirs("the signature is older than a day, or of a time to come")
        said: Any = orjson.loads(came.body)
        if not isinstance(said, list):
            raise ValueError("events come as a list")
        return Reply([report for one in said if isinstance(one, dict) for report in _reports(one)], 204)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()


def _person(one: Address) -> dict[str, str]:
    name = {"name": one.display_name} if one.display_name else {}
    return {"email": one.addr_spec, **name}


def _errors(body: bytes) -> list[tuple[str, str]]:
    """Return the field and the message of each error in *body*; none where it is not SendGrid's."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    errors = said.get("errors") if isinstance(said, dict) else None
    found = [one for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    return [(_text(one, "field"), _text(one, "message")) for one in found]


def _kind_of(errors: list[tuple[str, str]], *, has_headers: bool) -> str:
    """Return what it means that a message is refused: SendGrid has no codes, but it names the field."""
    if not errors:
        return RETRY  # It comes from something between.
    is_of_all = any(
        field.partition(".")[0] in _OF_ALL
        # Of headers, those of the settings are of all, and the link to unsubscribe is each action's own.
        or (has_headers and field.startswith("headers") and "list-unsubscribe" not in field.lower())
        for field, _ in errors
    )
    return CONFIG if is_of_all else PERMANENT


def _wait_ms(answered: Answered, now_ms: int) -> int | None:
    told = retry_after_ms(answered, now_ms)
    if told is not None:
        return told
    written = answered.headers.get("x-ratelimit-reset", "").strip()
    wait_ms = int(written) * 1000 - now_ms if _is_time(written) else 0
    return min(RETRY_AFTER_MAX_MS, wait_ms) if wait_ms > 0 else None


def _is_time(text: str) -> bool:
    """Tell whether *text* is a time in seconds since 1970."""
    return text.isascii() and text.isdigit() and len(text) <= 12


def _text(one: Mapping[str, Any], name: str) -> str:
    value = one.get(name)
    return value if isinstance(value, str) else ""


def _reports(event: Mapping[str, Any]) -> Iterator[Report]:
    kind = _text(event, "event")
    status = _STATUSES.get(kind)
    # `sg_message_id` is the id of the answer, and more behind a dot.
    action_id, provider_id = _text(event, "action_id"), _text(event, "sg_message_id").partition(".")[0][:ID_MAX]
    if status is None or not (action_id or provider_id):
        return
    at_s = event.get("timestamp")
    at_s = at_s if type(at_s) is int else None
    code, detail = _said(kind, event)
    # `accepted` may have been said already, or not, where nobody knew: the same id makes one of the two.
    event_id = "" if status == "accepted" else _text(event, "sg_event_id") or str(at_s or "")
    report = Report(
        status, action_id, provider_id, code[:DETAIL_MAX], detail[:DETAIL_MAX], event_id,
        None if at_s is None else at_s * 1000,
    )  # fmt: skip
    yield report
    if kind == "dropped" and code in _HAVE_LEFT:
        yield report._replace(status="unsubscribed")


def _said(kind: str, event: Mapping[str, Any]) -> tuple[str, str]:
    """Return code and detail of an event."""
    if kind == "bounce":
        is_blocked = event.get("type") == "blocked"  # This message was refused; the address may be good.
        return ("blocked" if is_blocked else _text(event, "status")), _text(event, "reason")
    if kind == "dropped":
        reason = _text(event, "reason") or _text(event, "type")
        return "_".join(reason.lower().split()), reason
    if kind == "open":
        return ("machine" if event.get("sg_machine_open") is True else ""), ""
    if kind in ("click", "delivered"):
        said = _text(event, "url" if kind == "click" else "response")
        return "", "" if "/u/" in said else said  # Whoever has the link to unsubscribe can do so.
    return ("" if kind == "processed" else kind), ""
