"""Webhooks as Standard Webhooks 1.0.0 has them, and the signature of Quick Audience beside or instead.

The receiver drops repeats by `webhook-id`, which is the action's id on every attempt: so what may have been sent is
sent again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

import httpx
import orjson
from pydantic import AfterValidator, Field

from connectors.channels.base import Callback, NotTheirs, Reply, Report, Secret, Settings, Surroundings
from connectors.channels.http import HEADER, NOT_SETTABLE, Answered, HttpClient, Request, by_status
from state.delivery import ACCEPTED, OK, UNKNOWN, Answer
from state.iso import parse_time_value
from state.outgoing import Action, dump

KEY_BYTES: Final = (24, 64)
TOLERANCE_S: Final = 300


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is no address; write https://host/path")
    if parts.username is not None:
        raise ValueError("a password stands elsewhere: write headers: {authorization: {env: NAME}}")
    return text


def _headers(given: dict[str, str | Secret]) -> dict[str, str | Secret]:
    if bad := [name for name in given if HEADER.fullmatch(name) is None]:
        raise ValueError(f"{bad[0]!r} is no name of a header")
    if ours := sorted(name for name in given if name.lower() in NOT_SETTABLE):
        raise ValueError(f"{', '.join(ours)} cannot be set here: it follows from the request")
    return given


class WebhookSettings(Settings):
    """`deliver:` of a channel with `provider: webhook`."""

    provider: Literal["webhook"] = "webhook"
    url: Annotated[str, AfterValidator(_url), Field(description="Where to.")]
    secret: Annotated[Secret | list[Secret] | None, Field(description="whsec_..; several while one is replaced.")] = (
        None
    )
    qa_key: Annotated[Secret | None, Field(description="The key of Quick Audience's own signature.")] = None
    headers: Annotated[
        dict[str, str | Secret],
        AfterValidator(_headers),
        Field(description="Further headers; one may be a secret."),
    ] = {}
    private: Annotated[bool, Field(description="Whether the host may be in a network of your own.")] = False


def keys_of(secrets: Secret | list[Secret] | None) -> list[bytes]:
    """Return the keys of Standard Webhooks in *secrets*.

    Raises:
        ValueError: one is none.
    """
    found = []
    for secret in secrets if isinstance(secrets, list) else [] if secrets is None else [secrets]:
        text = secret.reveal()
        try:
            key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            raise ValueError("a secret of a webhook is whsec_ and base64") from None
        if not KEY_BYTES[0] <= len(key) <= KEY_BYTES[1]:
            raise ValueError(f"a secret of a webhook has {KEY_BYTES[0]} to {KEY_BYTES[1]} bytes, this one {len(key)}")
        found.append(key)
    return found


def signed(keys: list[bytes], message_id: str, timestamp_s: int, body: bytes) -> str:
    """Return `webhook-signature` of *body*: one for each key."""
    content = b"%s.%d." % (message_id.encode(), timestamp_s) + body
    # `hmac.digest` lets go of the interpreter for it, and then waits until another thread lets go in turn.
    return " ".join("v1," + base64.b64encode(hmac.new(key, content, "sha256").digest()).decode() for key in keys)


def verified(keys: list[bytes], headers: Mapping[str, str], body: bytes, now_s: int) -> bool:
    """Tell whether *body* was signed with one of *keys* within the last five minutes."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message_id or not timestamp.isdecimal() or abs(int(timestamp) - now_s) > TOLERANCE_S:
        return False
    wanted = signed(keys, message_id, int(timestamp), body).split()
    given = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(one.encode(), other.encode()) for one in wanted for other in given)


def _report(one: Any, event_id: str) -> Report:
    fields = (
        {name: one.get(name) for name in ("action_id", "status", "code", "detail")} if isinstance(one, dict) else {}
    )
    if not isinstance(fields.get("action_id"), str) or not isinstance(fields.get("status"), str):
        raise ValueError("a report has action_id and status, both texts")
    said = {name: value for name, value in fields.items() if isinstance(value, str)}
    if said["status"] == ACCEPTED:  # That is told already, when the receiver answers.
        event_id = ""
    return Report(**said, event_id=event_id, at_ms=parse_time_value(one.get("timestamp")))


def qa_signature(key: str, timestamp: str, nonce: str) -> str:
    """Return `X-QA-Hmac-Signature`: of the three texts in order, without white space."""
    text = "".join("".join(sorted((key, timestamp, nonce))).split())
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


class Webhook:
    """One receiver. What may have been sent is sent again under the same id: dropping it is the receiver's duty."""

    settings: ClassVar[type[Settings]] = WebhookSettings
    drops_repeats: ClassVar[bool] = True
    can_be_asked: ClassVar[bool] = False

    def __init__(
        self, settings: WebhookSettings, around: Surroundings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings, self._around = settings, around
        self._keys = keys_of(settings.secret)
        self._headers = {
            name.lower(): value.reveal() if isinstance(value, Secret) else value
            for name, value in settings.headers.items()
        }
        allowed = [httpx.URL(settings.url).raw_host.decode()] if settings.private else []
        self._client = HttpClient(around.timeout_s, around.concurrency, allowed, transport=transport)

    def _request(self, action: Action) -> Request:
        body = orjson.dumps(
            {"type": f"action.{action.channel}", "timestamp": action.at, "data": orjson.Fragment(dump(action))}
        )
        now_s = self._around.now_ms() // 1000
        url = self._settings.url
        headers = {
            **self._headers,
            "content-type": "application/json",
            "user-agent": "nudge",
            "webhook-id": action.action_id,
            "webhook-timestamp": str(now_s),
        }
        if self._keys:
            headers["webhook-signature"] = signed(self._keys, action.action_id, now_s, body)
        if self._settings.qa_key is not None:
            nonce = self._around.nonce()
            url = str(httpx.URL(url).copy_merge_params({"timestamp": str(now_s), "nonce": nonce}))
            headers["X-QA-Hmac-Signature"] = qa_signature(self._settings.qa_key.reveal(), str(now_s), nonce)
        return Request("POST", url, headers, body)

    async def call(self, action: Action) -> Answer:
        """Post *action*; see `Provider`."""
        answered = await self._client.send(self._request(action))
        return answered if isinstance(answered, Answer) else self._meaning(answered)

    def _meaning(self, answered: Answered) -> Answer:
        failed = by_status(answered, self._around.now_ms())
        if failed is not None:
            return failed
        status, code, detail = "", f"http_{answered.status}", ""
        try:
            said: Any = orjson.loads(answered.body)
        except orjson.JSONDecodeError:
            said = None
        if isinstance(said, dict):
            status = said["status"] if isinstance(said.get("status"), str) else ""
            code = said["code"] if isinstance(said.get("code"), str) else code
            detail = said["detail"] if isinstance(said.get("detail"), str) else ""
        return Answer(OK, code, detail, status=status[:64])

    async def ask(self, action: Action, since_ms: int) -> Answer:
        """Nobody can be asked."""
        return Answer(UNKNOWN)

    async def renew(self) -> bool:
        """There is no credential that runs out."""
        return False

    def callback(self, came: Callback) -> Reply:
        """Return what the receiver reports, signed as it got the action; see `Provider`."""
        if not verified(self._keys, came.headers, came.body, self._around.now_ms() // 1000):
            raise NotTheirs("the signature is wrong, or older than five minutes")
        said: Any = orjson.loads(came.body)
        event_id = came.headers["webhook-id"]
        reports = [
            _report(one, f"{event_id}/{place}" if place else event_id)
            for place, one in enumerate(said if isinstance(said, list) else [said])
        ]
        return Reply(reports, 204)

    def preview(self, action: Action) -> Mapping[str, Any]:
        """Return what would be posted; see `Provider`."""
        request = self._request(action)
        secret = {name.lower() for name, value in self._settings.headers.items() if isinstance(value, Secret)}
        shown = {
            name: f"<{name}>" if name in secret else value
            for name, value in request.headers.items()
            if "signature" not in name
        }
        return {"method": "POST", "url": self._settings.url, "headers": shown, "body": orjson.loads(request.content)}

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()
