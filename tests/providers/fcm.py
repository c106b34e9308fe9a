"""Firebase Cloud Messaging and the token server of Google, as their documents have them.

The assertion is verified with RSA itself and not with the library that signs it.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.providers.server import Request, Response

PROJECT = "acme-shop"
EMAIL = "push@acme-shop.iam.gserviceaccount.com"
KEY_ID = "k1"
STATUS = {
    "INVALID_ARGUMENT": (400, "INVALID_ARGUMENT"), "UNREGISTERED": (404, "NOT_FOUND"),
    "SENDER_ID_MISMATCH": (403, "PERMISSION_DENIED"), "QUOTA_EXCEEDED": (429, "RESOURCE_EXHAUSTED"),
    "UNAVAILABLE": (503, "UNAVAILABLE"), "INTERNAL": (500, "INTERNAL"),
    "THIRD_PARTY_AUTH_ERROR": (401, "UNAUTHENTICATED"),
}  # fmt: skip


@cache
def key(name: str) -> rsa.RSAPrivateKey:
    """Return a key; the account's has no name."""
    return rsa.generate_private_key(65537, 2048)


def credentials(url: str, *, key_name: str = "", **more: str) -> str:
    """Return the JSON of the service account, with the token server at *url*."""
    pem = key(key_name).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account", "project_id": PROJECT, "private_key_id": KEY_ID, "private_key": pem.decode(),
        "client_email": EMAIL, "client_id": "1", "token_uri": f"{url}/token", "universe_domain": "googleapis.com",
    }  # fmt: skip
    return json.dumps(account | more)


def error(code: str, **headers: str) -> Response:
    """Return the answer with one of FCM's own codes."""
    http, status = STATUS[code]
    details = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}]
    body = {"error": {"code": http, "message": f"it is {code}", "status": status, "details": details}}
    return Response(http, json.dumps(body).encode(), {"content-type": "application/json", **headers})


class Fcm:
    """What has come, and what is answered.

    Args:
        now_s: the time.
        mood: says of each message what to answer instead, None for success.
        token_mood: the same for requests for a token.
    """

    def __init__(
        self,
        now_s: Callable[[], int],
        mood: Callable[[dict[str, Any]], Response | str | None] = lambda _: None,
        token_mood: Callable[[], Response | str | None] = lambda: None,
    ) -> None:
        self._now_s, self._mood, self._token_mood = now_s, mood, token_mood
        self.messages: list[dict[str, Any]] = []
        self.came: Counter[str] = Counter()
        self.tokens: dict[str, int] = {}
        self.mistakes: list[str] = []

    def revoke_tokens(self) -> None:
        self.tokens.clear()

    def __call__(self, request: Request) -> Response | str:
        self.came[request.path] += 1
        if request.path == "/token":
            instead = self._token_mood()
            return self._token(request) if instead is None else instead
        if request.path != f"/v1/projects/{PROJECT}/messages:send" or request.method != "POST":
            return Response(404, b"<html>not found</html>")
        return self._send(request)

    def _token(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        wrong = self._wrong_grant(request, form)
        if wrong:
            self.mistakes.append(wrong)
            said = {"error": "invalid_grant", "error_description": wrong}
            return Response(400, json.dumps(said).encode())
        token = f"ya29.{len(self.tokens)}-{self._now_s()}"
        self.tokens[token] = self._now_s() + 3599
        said = {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}
        return Response(200, json.dumps(said).encode())

    def _wrong_grant(self, request: Request, form: dict[str, str]) -> str:
        if request.headers.get("content-type") != "application/x-www-form-urlencoded":
            return "no form"
        if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return "Invalid grant_type"
        head, claims, signature = (form.get("assertion", "") + "..").split(".")[:3]
        try:
            key("").public_key().verify(
                _raw(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            return "Invalid JWT Signature."
        header, said = json.loads(_raw(head)), json.loads(_raw(claims))
        if (header.get("alg"), header.get("kid"), header.get("typ")) != ("RS256", KEY_ID, "JWT"):
            return f"header {header}"
        if said.get("iss") != EMAIL or said.get("scope") != "https://www.googleapis.com/auth/firebase.messaging":
            return f"claims {said}"
        if not str(said.get("aud", "")).endswith("/token"):
            return f"audience {said}"
        if not said["iat"] - 60 <= self._now_s() <= said["exp"] <= said["iat"] + 3600:
            return "Invalid JWT: Token must be a short-lived token"
        return ""

    def _send(self, request: Request) -> Response | str:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.tokens.get(bearer, 0) <= self._now_s():
            said = {"error": {"code": 401, "message": "Invalid authentication", "status": "UNAUTHENTICATED"}}
            return Response(401, json.dumps(said).encode())
        body = json.loads(request.body)
        message = body["message"]
        wrong = _wrong_message(body, message, request)
        if wrong:
            self.mistakes.append(wrong)
            return error("INVALID_ARGUMENT")
        instead = self._mood(message)
        if instead is None:
            self.messages.append(message)
            return Response(200, json.dumps({"name": f"projects/{PROJECT}/messages/0:{len(self.messages)}"}).encode())
        return instead


def _raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _wrong_message(body: dict[str, Any], message: dict[str, Any], request: Request) -> str:
    if request.headers.get("content-type") != "application/json":
        return "no JSON"
    if set(body) - {"message", "validate_only"}:
        return f"unknown fields {body}"
    if len({"token", "topic", "condition"} & set(message)) != 1:
        return "not exactly one target"
    known = {"token", "topic", "condition", "data", "notification", "android", "apns", "webpush", "fcm_options"}
    if set(message) - known:
        return f"unknown fields {message}"
    if not all(isinstance(value, str) for value in message.get("data", {}).values()):
        return "data has to be texts"
    if len(json.dumps(message["data"])) + len(json.dumps(message.get("notification", {}))) > 4096:
        return "too big"
    ttl = message.get("android", {}).get("ttl", "0s")
    return "" if ttl.endswith("s") and float(ttl[:-1]) >= 0 else f"ttl {ttl}"
