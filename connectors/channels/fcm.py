"""Firebase Cloud Messaging, HTTP v1: push messages to apps and browsers.

It sends a second message with the same id again and cannot be asked: what may have been sent is left to `on_unknown`.
There are no receipts after `accepted`; what the app tells comes as events of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import httpx
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from connectors.channels.base import OneWay, Secret, Settings, Surroundings, Unfit
from connectors.channels.http import Answered, HttpClient, retry_after_ms
from connectors.channels.push import merged, pushed
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, TOKEN, UNKNOWN, Answer
from state.iso import parse_iso_ms
from state.outgoing import Action

ENDPOINT: Final = "https://fcm.googleapis.com"
SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GRANT_S: Final = 3600
EARLY_MS: Final = 60_000  # So long before its end a token is replaced.
QUOTA_MS: Final = 60_000
TTL_MAX_S: Final = 28 * 86_400
CONNECTIONS: Final = 10  # With HTTP/2 each carries many calls at a time.
TOPIC: Final = "/topics/"

_KINDS: Final = {
    "UNREGISTERED": PERMANENT, "SENDER_ID_MISMATCH": PERMANENT, "INVALID_ARGUMENT": PERMANENT,
    "QUOTA_EXCEEDED": THROTTLED, "UNAVAILABLE": RETRY, "INTERNAL": RETRY, "THIRD_PARTY_AUTH_ERROR": CONFIG,
}  # fmt: skip
_KINDS_OF_STATUS: Final = {
    400: PERMANENT, 401: TOKEN, 403: CONFIG, 404: CONFIG, 429: THROTTLED, 500: RETRY, 503: RETRY
}  # fmt: skip


class _Account(BaseModel):
    """What we need of a service account's JSON."""

    project_id: str
    private_key_id: str
    private_key: str
    client_email: str
    token_uri: Annotated[str, Field(pattern=r"^https?://[!-~]+$")]


def _account(secret: Secret) -> Secret:
    try:
        account = _Account.model_validate_json(secret.reveal())
        is_rsa = isinstance(load_pem_private_key(account.private_key.encode(), None), RSAPrivateKey)
    except (ValidationError, ValueError, TypeError):
        is_rsa = False
    if not is_rsa:
        raise ValueError("it is not the JSON of a service account with its private key")
    return secret


class FcmSettings(Settings):
    """`deliver:` of a channel with `provider: fcm`."""

    provider: Literal["fcm"] = "fcm"
    credentials: Annotated[Secret, AfterValidator(_account), Field(description="The JSON of the service account.")]
    project: Annotated[str | None, Field(pattern=r"^[a-z0-9-]+$", description="Default: that of the account.")] = None
    message: Annotated[dict[str, Any], Field(description="What every message has besides, as FCM names it.")] = {}
    endpoint: Annotated[str, Field(pattern=r"^https?://[!-.0-~]+$")] = ENDPOINT


class Fcm(OneWay):
    """One project. What may have been sent is sent again with `on_unknown: retry`, and may then come twice."""

    settings: ClassVar[type[Settings]] = FcmSettings

    def __init__(
        self, settings: FcmSettings, around: Surroundings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings, self._around = settings, around
        self._account = _Account.model_validate_json(settings.credentials.reveal())
        project = settings.project or self._account.project_id
        self._url = f"{settings.endpoint}/v1/projects/{project}/messages:send"
        self._client = HttpClient(around.timeout_s, CONNECTIONS, http2=True, transport=transport)
        self._token, self._until_ms = "", 0
        self._one_at_a_time = asyncio.Lock()

    # ---- the credential ----------------------------------------------------------------------------------------

    async def _bearer(self) -> Answer | None:
        """See to it that there is a token; return what it means that there is none."""
        async with self._one_at_a_time:
            if self._around.now_ms() < self._until_ms - EARLY_MS:
                return None
            return await self._fetch_token()

    async def _fetch_token(self) -> Answer | None:
        now_s = self._around.now_ms() // 1000
        account = self._account
        claims = {
            "iss": account.client_email, "scope": SCOPE, "aud": account.token_uri, "iat": now_s, "exp": now_s + GRANT_S
        }  # fmt: skip
        assertion = jwt.encode(claims, account.private_key, "RS256", headers={"kid": account.private_key_id})
        form = {"grant_type": GRANT, "assertion": assertion}
        answered = await self._client.send(httpx.Request("POST", account.token_uri, data=form))
        if isinstance(answered, Answer):
            return Answer(CONFIG if answered.kind == CONFIG else RETRY, "token", answered.detail)  # No message yet.
        said = answered.object
        if answered.status == 200 and isinstance(said.get("access_token"), str):
            lasts_s = said["expires_in"] if type(said.get("expires_in")) is int else GRANT_S
            self._token, self._until_ms = said["access_token"], (now_s + lasts_s) * 1000
            return None
        code = said["error"] if isinstance(said.get("error"), str) else f"http_{answered.status}"
        detail = said["error_description"] if isinstance(said.get("error_description"), str) else ""
        is_ours = 400 <= answered.status < 500 and answered.status not in (408, 429)
        return Answer(CONFIG if is_ours else RETRY, f"token_{code}", detail)

    async def renew(self) -> bool:
        """Get another token; see `Provider`."""
        async with self._one_at_a_time:
            self._until_ms = 0
            return await self._fetch_token() is None

    # ---- the call ----------------------------------------------------------------------------------------------

    def _message(self, action: Action) -> dict[str, Any]:
        if not action.to:
            raise Unfit("no_address", "the action has no address")
        title, body, data = pushed(action, self._around)
        target = {"topic": action.to.removeprefix(TOPIC)} if action.to.startswith(TOPIC) else {"token": action.to}
        message: dict[str, Any] = {**target, "data": data}
        said = {name: text for name, text in (("title", title), ("body", body)) if text}
        if said:
            message["notification"] = said
        expires_ms = None if action.expires_at is None else parse_iso_ms(action.expires_at)
        if expires_ms is not None:
            left_s = max(0, min(TTL_MAX_S, (expires_ms - self._around.now_ms()) // 1000))
            message["android"] = {"ttl": f"{left_s}s"}
            message["apns"] = {"headers": {"apns-expiration": str(expires_ms // 1000)}}
            message["webpush"] = {"headers": {"TTL": str(left_s)}}
        return merged(message, self._settings.message)

    async def call(self, action: Action) -> Answer:
        """Send *action*; see `Provider`."""
        body = orjson.dumps({"message": self._message(action), "validate_only": False})
        is_written = False
        try:
            async with asyncio.timeout(self._around.timeout_s):
                if (failed := await self._bearer()) is not None:
                    return failed
                headers = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
                is_written = True
                answered = await self._client.send(httpx.Request("POST", self._url, headers=headers, content=body))
        except TimeoutError:
            return Answer(UNKNOWN if is_written else RETRY, "timeout")
        return answered if isinstance(answered, Answer) else self._meaning(answered)

    def _meaning(self, answered: Answered) -> Answer:
        said = answered.object
        if answered.status == 200:
            name = said.get("name")
            is_it = isinstance(name, str) and bool(name)
            return Answer(OK, provider_id=str(name)) if is_it else Answer(UNKNOWN, "no_answer", answered.text)
        error = said["error"] if isinstance(said.get("error"), dict) else {}
        code = _code_of(error)
        kind = _KINDS.get(code) or _KINDS_OF_STATUS.get(answered.status)
        if kind is None:
            kind = PERMANENT if 400 <= answered.status < 500 else UNKNOWN
        wait_ms = retry_after_ms(answered, self._around.now_ms()) if kind in (THROTTLED, RETRY) else None
        if kind == THROTTLED and wait_ms is None:
            wait_ms = QUOTA_MS
        detail = error["message"] if isinstance(error.get("message"), str) else answered.text
        return Answer(kind, code or f"http_{answered.status}", detail[:500], wait_ms=wait_ms)

    def preview(self, action: Action) -> Mapping[str, Any]:
        """Return what would be posted; see `Provider`."""
        return {"method": "POST", "url": self._url, "body": {"message": self._message(action), "validate_only": False}}

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()


def _code_of(error: Mapping[str, Any]) -> str:
    """Return FCM's own code of an error, "" where it has none."""
    details = error["details"] if isinstance(error.get("details"), list) else []
    for one in details:
        if isinstance(one, dict) and str(one.get("@type", "")).endswith("FcmError"):
            return str(one.get("errorCode", ""))
    return ""
