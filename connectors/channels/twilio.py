"""Twilio SMS: one message for each action, with an address at which Twilio reports on it.

Twilio drops no repeats, and knows no id of ours that could be asked for. It reports to an address that has the action's
id in it, so what may have been sent can still be told later.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import orjson
from pydantic import AfterValidator, Field, model_validator

from connectors.channels.base import Callback, NotTheirs, OneWay, Reply, Report, Secret, Settings, Surroundings, Unfit
from connectors.channels.http import DETAIL_MAX, Answered, HttpClient, retry_after_ms
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, UNKNOWN, Answer
from state.outgoing import Action

_NUMBER: Final = re.compile(r"\+[1-9][0-9]{6,14}")
_SEPARATORS: Final = str.maketrans("", "", " -().")

_KINDS: Final = {
    20003: CONFIG,  # Wrong key.
    20404: CONFIG,  # No such account.
    20429: THROTTLED,
    21606: CONFIG,  # The sender is none of the account's.
    21609: CONFIG,  # No address for reports.
}
UNSUBSCRIBED: Final = 21610
"""The recipient has answered STOP."""
_STATUSES: Final = {
    **dict.fromkeys(("accepted", "queued", "sending", "sent"), "accepted"),
    "delivered": "delivered",
    **dict.fromkeys(("undelivered", "failed", "canceled"), "failed"),
    "read": "opened",
}


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError(f"{text!r} is no endpoint; write https://api.twilio.com")
    return f"{parts.scheme}://{parts.netloc}"


class TwilioSettings(Settings):
    """`deliver:` of a channel with `provider: twilio`."""

    provider: Literal["twilio"] = "twilio"
    account: Annotated[str, Field(pattern=r"^AC[0-9a-f]{32}$", alias="account_sid")]
    auth_token: Secret
    key: Annotated[str | None, Field(description="The sid of an API key, instead of the token.")] = None
    key_secret: Secret | None = None
    sender: Annotated[str | None, Field(alias="from")] = None
    messaging_service: str | None = None
    callback: Annotated[Secret | None, Field(description="The gateway's address of the channel.")] = None
    endpoint: Annotated[str, AfterValidator(_endpoint)] = "https://api.twilio.com"

    @model_validator(mode="after")
    def _is_whole(self) -> TwilioSettings:
        if (self.sender is None) == (self.messaging_service is None):
            raise ValueError("write either from or messaging_service")
        if (self.key is None) != (self.key_secret is None):
            raise ValueError("key and key_secret belong together")
        return self


class Twilio(OneWay):
    """One sender. What may have been sent is not sent again, unless the channel's `on_unknown` says so."""

    settings: ClassVar[type[Settings]] = TwilioSettings

    def __init__(
        self, settings: TwilioSettings, around: Surroundings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings, self._around = settings, around
        self._url = f"{settings.endpoint}/2010-04-01/Accounts/{settings.account}/Messages.json"
        secret = settings.auth_token if settings.key_secret is None else settings.key_secret
        pair = f"{settings.key or settings.account}:{secret.reveal()}"
        self._authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        self._client = HttpClient(around.timeout_s, around.concurrency, transport=transport)

    def _form(self, action: Action) -> dict[str, str]:
        if action.to is None:
            raise Unfit("no_address", "the action has no number in `to`")
        number = re.sub(r"^00", "+", action.to.translate(_SEPARATORS))
        if _NUMBER.fullmatch(number) is None:
            raise Unfit("bad_address", "`to` is no number with + and country code")
        text = self._around.content(action, None).text
        if not text.strip():
            raise Unfit("no_text", f"the message {action.template!r} has no text")
        form = {"To": number, "Body": text}
        if self._settings.sender is not None:
            form["From"] = self._settings.sender
        else:
            form["MessagingServiceSid"] = str(self._settings.messaging_service)
        return form

    def _report_url(self, base: Secret, action_id: str) -> str:
        """Return where Twilio reports on an action: the whole address is signed, so the id in it is ours."""
        url = base.reveal()
        return f"{url}{'&' if '?' in url else '?'}{urlencode({'action_id': action_id})}"

    async def call(self, action: Action) -> Answer:
        """Send *action*; see `Provider`."""
        form = self._form(action)
        if self._settings.callback is not None:
            form["StatusCallback"] = self._report_url(self._settings.callback, action.action_id)
        headers = {
            "authorization": self._authorization,
            "content-type": "application/x-www-form-urlencoded",
            "accept": "application/json",
        }
        request = httpx.Request("POST", self._url, headers=headers, content=urlencode(form).encode())
        answered = await self._client.send(request)
        return answered if isinstance(answered, Answer) else self._meaning(answered)

    def _meaning(self, answered: Answered) -> Answer:
        status = answered.status
        try:
            said: Any = orjson.loads(answered.body)
        except orjson.JSONDecodeError:
            said = None
        said = said if isinstance(said, dict) else {}
        if 200 <= status < 300:
            if not isinstance(said.get("sid"), str):
                return Answer(UNKNOWN, f"http_{status}", answered.text)
            return Answer(OK, str(said.get("status", "")), provider_id=said["sid"])
        code = said.get("code")
        detail = str(said.get("message") or answered.text)[:DETAIL_MAX]
        kind = _KINDS.get(code) if isinstance(code, int) else None
        kind = kind or _kind_of(status)
        return Answer(
            kind,
            str(code) if isinstance(code, int) else f"http_{status}",
            detail,
            status="unsubscribed" if code == UNSUBSCRIBED and kind == PERMANENT else "",
            wait_ms=retry_after_ms(answered, self._around.now_ms()) if kind == THROTTLED else None,
        )

    def callback(self, came: Callback) -> Reply:
        """Return what Twilio reports, signed with the account's token; see `Provider`."""
        base, action_id = self._settings.callback, came.query.get("action_id", "")
        if base is None:
            raise NotTheirs("the channel's settings have no callback, so nobody was told to report")
        fields = dict(parse_qsl(came.body.decode("utf-8", errors="replace"), keep_blank_values=True))
        # The address that was given to Twilio, not the one that came: a proxy may have changed that.
        wanted = signature_of(self._report_url(base, action_id), fields, self._settings.auth_token.reveal())
        if not hmac.compare_digest(wanted.encode(), came.headers.get("x-twilio-signature", "").encode()):
            raise NotTheirs("the signature is wrong")
        sid, status = fields.get("MessageSid", ""), _STATUSES.get(fields.get("MessageStatus", ""))
        if not sid:
            raise ValueError("a report has MessageSid")
        if status is None:
            return Reply([], 204)
        # `accepted` may have been said already, or not, where nobody knew: the same id makes one of the two.
        event_id = "" if status == "accepted" else sid
        report = Report(status, action_id, sid, fields.get("ErrorCode", ""), fields.get("ErrorMessage", ""), event_id)
        return Reply([report], 204)

    def preview(self, action: Action) -> Mapping[str, Any]:
        """Return what would be sent; see `Provider`."""
        return {"method": "POST", "url": self._url, "form": self._form(action)}

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()


def signature_of(url: str, fields: Mapping[str, str], token: str) -> str:
    """Return `X-Twilio-Signature` of a report."""
    text = url + "".join(name + fields[name] for name in sorted(fields))
    return base64.b64encode(hmac.digest(token.encode(), text.encode(), "sha1")).decode()


def _kind_of(status: int) -> str:
    """Return what a failing status means where the code in it is not known."""
    if status == 429:
        return THROTTLED
    if status in (408, 503):
        return RETRY
    if status >= 500:
        return UNKNOWN
    return CONFIG if status in (401, 403, 404) or status < 400 else PERMANENT
