"""Apple Push Notification service, as its documents have it: `POST /3/device/<token>`.

The token is verified with the elliptic curve itself and not with the library that signs it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import cache
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.providers.server import Request, Response

KEY_ID = "ABC123DEFG"
TEAM_ID = "DEF123GHIJ"
TOPIC = "com.acme.Shop"
REASONS = {
    400: ["BadCollapseId", "BadDeviceToken", "BadExpirationDate", "BadMessageId", "BadPriority", "BadTopic",
          "DeviceTokenNotForTopic", "DuplicateHeaders", "IdleTimeout", "InvalidPushType", "MissingDeviceToken",
          "MissingTopic", "PayloadEmpty", "TopicDisallowed"],
    403: ["ExpiredProviderToken", "Forbidden", "InvalidProviderToken", "MissingProviderToken"],
    404: ["BadPath"], 405: ["MethodNotAllowed"], 410: ["ExpiredToken", "Unregistered"], 413: ["PayloadTooLarge"],
    429: ["TooManyProviderTokenUpdates", "TooManyRequests"], 500: ["InternalServerError"],
    503: ["ServiceUnavailable", "Shutdown"],
}  # fmt: skip


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """Return a key; the team's has no name."""
    return ec.generate_private_key(ec.SECP256R1())


def p8(name: str = "") -> str:
    """Return the file of a key."""
    pem = key(name).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem.decode()


def refusal(reason: str, status: int = 0, *, timestamp: Any = None, **headers: str) -> Response:
    """Return the answer with a reason."""
    status = status or next(one for one, reasons in REASONS.items() if reason in reasons)
    said = {"reason": reason} | ({} if timestamp is None else {"timestamp": timestamp})
    return Response(status, json.dumps(said).encode(), headers)


class Apns:
    """What has come, and what is answered.

    Args:
        now_s: the time.
        mood: says of each body what to answer instead, None for success.
    """

    def __init__(
        self, now_s: Callable[[], int], mood: Callable[[dict[str, Any]], Response | str | None] = lambda _: None
    ) -> None:
        self._now_s, self._mood = now_s, mood
        self.requests: list[Request] = []
        self.bodies: list[dict[str, Any]] = []
        self.bearers: list[str] = []
        """Each once, in the order in which they came."""
        self.mistakes: list[str] = []

    def __call__(self, request: Request) -> Response | str:
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        if bearer not in self.bearers:
            self.bearers.append(bearer)
        reason = self._wrong_token(bearer) if kind == "bearer" else "MissingProviderToken"
        reason = reason or self._wrong_request(request)
        if reason:
            self.mistakes.append(reason)
            return refusal(reason)
        body = json.loads(request.body)
        instead = self._mood(body)
        if instead is not None:
            return instead
        self.requests.append(request)
        self.bodies.append(body)
        return Response(200, b"", {"apns-id": request.headers["apns-id"]})

    def _wrong_token(self, bearer: str) -> str:
        head, claims, signature = (bearer + "..").split(".")[:3]
        raw = _raw(signature)
        try:
            der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
            key("").public_key().verify(der, f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return "InvalidProviderToken"
        header, said = json.loads(_raw(head)), json.loads(_raw(claims))
        if len(raw) != 64 or (header.get("alg"), header.get("kid")) != ("ES256", KEY_ID) or said.get("iss") != TEAM_ID:
            return "InvalidProviderToken"
        return "" if 0 <= self._now_s() - said["iat"] <= 3600 else "ExpiredProviderToken"

    def _wrong_request(self, request: Request) -> str:
        head = request.headers
        if request.method != "POST":
            return "MethodNotAllowed"
        if not request.path.startswith("/3/device/"):
            return "BadPath"
        token = request.path.removeprefix("/3/device/")
        if not token or set(token) - set("0123456789abcdefABCDEF"):
            return "BadDeviceToken" if token else "MissingDeviceToken"
        if head.get("apns-topic") != TOPIC:
            return "TopicDisallowed" if head.get("apns-topic") else "MissingTopic"
        if str(UUID(head["apns-id"])) != head["apns-id"]:
            return "BadMessageId"
        if len(request.body) > 4096:
            return "PayloadTooLarge"
        if not head.get("apns-expiration", "0").isdigit():
            return "BadExpirationDate"
        if len(head.get("apns-collapse-id", "").encode()) > 64:
            return "BadCollapseId"
        aps = json.loads(request.body).get("aps")
        if not aps:
            return "PayloadEmpty"
        is_background = aps == {"content-available": 1}
        if head.get("apns-push-type") != ("background" if is_background else "alert"):
            return "InvalidPushType"
        return "" if head.get("apns-priority") in (["5"] if is_background else ["5", "10"]) else "BadPriority"


def _raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
