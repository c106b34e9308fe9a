"""Apple Push Notification service: push messages to apps on Apple's devices, over HTTP/2.

Whether it drops a second message with the same `apns-id` is documented nowhere, and it cannot be asked: what may have
been sent is left to `on_unknown`. There are no receipts after `accepted`; what the app tells comes as events.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal
from uuid import UUID

import httpx
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import AfterValidator, Field

from connectors.channels.base import OneWay, Secret, Settings, Surroundings, Unfit
from connectors.channels.http import DETAIL_MAX, Answered, HttpClient, Request, retry_after_ms
from connectors.channels.push import merged, pushed, writable
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, TOKEN, UNKNOWN, Answer
from state.iso import format_ms, parse_iso_ms
from state.outgoing import Action

ENDPOINT: Final = "https://api.push.apple.com"
SANDBOX: Final = "https://api.sandbox.push.apple.com"
PAYLOAD_MAX: Final = 4096
COLLAPSE_MAX: Final = 64
TOKEN_S: Final = 40 * 60
"""So long one token serves. Apple wants another one at least every 60 minutes, and none more often than every 20."""
CONNECTIONS: Final = 10  # With HTTP/2 each carries many calls at a time.
CODE_MAX: Final = 64

_DEVICE: Final = re.compile(r"[0-9A-Fa-f]{1,200}")
_KINDS: Final = {
    **dict.fromkeys(("Unregistered", "ExpiredToken", "BadDeviceToken", "DeviceTokenNotForTopic"), PERMANENT),
    "PayloadTooLarge": PERMANENT,
    "ExpiredProviderToken": TOKEN,
    **dict.fromkeys(
        ("InvalidProviderToken", "Forbidden", "MissingProviderToken", "TooManyProviderTokenUpdates"), CONFIG
    ),
    **dict.fromkeys(("BadTopic", "MissingTopic", "TopicDisallowed"), CONFIG),  # It is the setting of all of them.
    "TooManyRequests": THROTTLED,
    **dict.fromkeys(("InternalServerError", "ServiceUnavailable", "Shutdown", "IdleTimeout"), RETRY),
}  # fmt: skip
_KINDS_OF_STATUS: Final = {
    400: PERMANENT, 403: CONFIG, 404: PERMANENT, 405: PERMANENT, 410: PERMANENT, 413: PERMANENT, 429: THROTTLED,
    500: RETRY, 503: RETRY,
}  # fmt: skip
_WITHOUT_REASON: Final = {403: CONFIG, 404: CONFIG, 405: CONFIG, 413: PERMANENT, 429: THROTTLED, 500: RETRY, 503: RETRY}
"""What a status means that is hardly Apple's: its answers have a reason."""


def _key(secret: Secret) -> Secret:
    try:
        key = load_pem_private_key(secret.reveal().encode(), None)
        is_it = isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1)
    except (ValueError, TypeError):
        is_it = False
    if not is_it:
        raise ValueError("it is not the .p8 file of a key for APNs")
    return secret


class ApnsSettings(Settings):
    """`deliver:` of a channel with `provider: apns`."""

    provider: Literal["apns"] = "apns"
    key: Annotated[Secret, AfterValidator(_key), Field(description="The .p8 file of the key.")]
    key_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$", description="The id of the key.")]
    team_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$", description="The id of the team.")]
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$", description="The bundle id of the app.")]
    sandbox: Annotated[bool, Field(description="True: to apps that are built for development.")] = False
    message: Annotated[
        dict[str, Any],
        AfterValidator(writable),
        Field(description="What every message has besides, as Apple names it."),
    ] = {}
    priority: Literal[5, 10] | None = None
    collapse_id: Annotated[str | None, Field(pattern=r"^[ -~]+$", max_length=COLLAPSE_MAX)] = None
    endpoint: Annotated[str | None, Field(pattern=r"^https?://[!-.0-~]+$", description="Default: Apple's.")] = None


class Apns(OneWay):
    """One app. What may have been sent is sent again with `on_unknown: retry`, and may then come twice."""

    settings: ClassVar[type[Settings]] = ApnsSettings

    def __init__(
        self, settings: ApnsSettings, around: Surroundings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings, self._around = settings, around
        self._endpoint = settings.endpoint or (SANDBOX if settings.sandbox else ENDPOINT)
        self._client = HttpClient(around.timeout_s, CONNECTIONS, http2=True, transport=transport)
        self._token, self._issued_s = "", -1
        self._refused = ""

    # ---- the credential ----------------------------------------------------------------------------------------

    def _bearer(self) -> str:
        """Return the token of now. All processes change theirs at the same time, as Apple does not like many."""
        now_s = self._around.now_ms() // 1000
        issued_s = now_s - now_s % TOKEN_S
        if issued_s != self._issued_s:
            claims = {"iss": self._settings.team_id, "iat": issued_s}
            headers = {"kid": self._settings.key_id}
            self._token = jwt.encode(claims, self._settings.key.reveal(), "ES256", headers=headers)
            self._issued_s = issued_s
        return self._token

    async def renew(self) -> bool:
        """Tell whether another token is due than the one that was refused; see `Provider`. Apple wants no more."""
        return self._bearer() != self._refused

    # ---- the call ----------------------------------------------------------------------------------------------

    def _message(self, action: Action) -> tuple[str, dict[str, str], dict[str, Any]]:
        """Return the address, the headers without the credential, and the body."""
        if not action.to:
            raise Unfit("no_address", "the action has no device token in `to`")
        if _DEVICE.fullmatch(action.to) is None:
            raise Unfit("bad_address", "`to` is no device token")
        title, text, data = pushed(action, self._around)
        if "aps" in data:
            raise Unfit("bad_variable", "vars.aps: the name is Apple's own")
        alert = {name: said for name, said in (("title", title), ("body", text)) if said}
        body = merged({"aps": {"alert": alert} if alert else {"content-available": 1}, **data}, self._settings.message)
        aps = body.get("aps")
        is_seen = isinstance(aps, dict) and bool({"alert", "badge", "sound"} & set(aps))
        headers = {
            "apns-topic": self._settings.topic,
            "apns-push-type": "alert" if is_seen else "background",
            "apns-id": str(UUID(action.action_id)),
            "apns-priority": str((self._settings.priority or 10) if is_seen else 5),  # In the background it has to be.
        }
        if action.expires_at is not None and (expires_ms := parse_iso_ms(action.expires_at)) is not None:
            headers["apns-expiration"] = str(expires_ms // 1000)
        if self._settings.collapse_id is not None:
            headers["apns-collapse-id"] = self._settings.collapse_id
        return f"{self._endpoint}/3/device/{action.to}", headers, body

    def _written(self, body: Mapping[str, Any]) -> bytes:
        written = orjson.dumps(body)
        if len(written) > PAYLOAD_MAX:
            raise Unfit("too_large", f"the message has {len(written)} bytes, and {PAYLOAD_MAX} is the most")
        return written

    async def call(self, action: Action) -> Answer:
        """Send *action*; see `Provider`."""
        url, headers, body = self._message(action)
        written, bearer = self._written(body), self._bearer()
        headers |= {"authorization": f"bearer {bearer}", "content-type": "application/json"}
        answered = await self._client.send(Request("POST", url, headers, written))
        if isinstance(answered, Answer):
            return answered
        answer = self._meaning(answered)
        if answer.kind == TOKEN:
            if bearer == self._bearer():
                self._refused = bearer
            else:
                return Answer(RETRY, answer.code, "meanwhile there is another token", wait_ms=0)
        return answer

    def _meaning(self, answered: Answered) -> Answer:
        if answered.status == 200:
            is_it = not answered.body.strip()
            apns_id = answered.headers.get("apns-id", "")[:64]
            return Answer(OK, provider_id=apns_id) if is_it else Answer(UNKNOWN, "no_answer", answered.text)
        said = answered.object
        reason = said["reason"][:CODE_MAX] if isinstance(said.get("reason"), str) else ""
        kind = _KINDS.get(reason) or (_KINDS_OF_STATUS if reason else _WITHOUT_REASON).get(answered.status)
        if kind is None:
            kind = (PERMANENT if reason else RETRY) if 400 <= answered.status < 500 else UNKNOWN
        wait_ms = retry_after_ms(answered, self._around.now_ms()) if kind in (THROTTLED, RETRY) else None
        at_ms, detail = said.get("timestamp"), "" if reason else answered.text[:DETAIL_MAX]
        if type(at_ms) is int and 0 < at_ms < 1 << 45:
            detail = f"since {format_ms(at_ms)}"
        is_of_device = reason == "TooManyRequests"
        return Answer(kind, reason or f"http_{answered.status}", detail, wait_ms=wait_ms, is_of_recipient=is_of_device)

    def preview(self, action: Action) -> Mapping[str, Any]:
        """Return what would be posted; see `Provider`."""
        url, headers, body = self._message(action)
        self._written(body)
        return {"method": "POST", "url": url, "headers": headers, "body": body}

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()
