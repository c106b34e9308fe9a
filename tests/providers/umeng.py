"""Umeng U-Push, as its documents have it: `POST /api/send`.

The signature is made of what has come, of the Host of its head and the path, as Umeng itself has to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.providers.server import Request, Response

APP_KEY = "5f00000000000000000000aa"
SECRET = "testmastersecret"
FIELDS = {
    "appkey", "timestamp", "type", "device_tokens", "alias", "alias_type", "payload", "policy", "production_mode",
    "description", "mipush", "mi_activity",
}  # fmt: skip
OF_NOTIFICATION = {
    "ticker", "title", "text", "after_open", "url", "activity", "custom", "icon", "largeIcon", "img", "sound",
    "builder_id", "play_vibrate", "play_lights", "play_sound",
}  # fmt: skip
OPENED = {"go_url": "url", "go_activity": "activity", "go_custom": "custom"}
NOT_OF_THIS_APP = "4014"


def refusal(code: str | int, status: int = 400, **headers: str) -> Response:
    """Return the answer with a code of Umeng's."""
    said = {"ret": "FAIL", "data": {"error_code": code, "error_msg": f"it is {code}"}}
    return Response(status, json.dumps(said).encode(), {"content-type": "application/json", **headers})


class Umeng:
    """What has come, and what is answered.

    Args:
        now_s: the time.
        platform: of the app.
        mood: says of each request what to answer instead, None for success.
        unknown: devices and aliases that this app has not: who sends to one of them sends to nobody.
    """

    def __init__(
        self,
        now_s: Callable[[], int],
        platform: str = "android",
        mood: Callable[[dict[str, Any]], Response | str | None] = lambda _: None,
        unknown: set[str] | frozenset[str] = frozenset(),
    ) -> None:
        self._now_s, self._platform, self._mood, self._unknown = now_s, platform, mood, unknown
        self.requests: list[dict[str, Any]] = []
        """Those that nothing is wrong with, whatever was answered."""
        self.raw: list[bytes] = []
        self.sent: list[str] = []
        """Whom something was sent to."""
        self.mistakes: list[str] = []

    def __call__(self, request: Request) -> Response | str:
        if request.path != "/api/send" or request.method != "POST":
            return Response(404, b"<html>not found</html>")
        self.raw.append(request.body)
        code = self._wrong(request)
        if code:
            self.mistakes.append(code)
            return refusal(code)
        said = json.loads(request.body)
        self.requests.append(said)
        instead = self._mood(said)
        if instead is not None:
            return instead
        addresses = (said.get("device_tokens") or said["alias"]).split(",")
        if self._unknown & set(addresses):
            return refusal(NOT_OF_THIS_APP)
        self.sent += addresses
        answer = {"ret": "SUCCESS", "data": {"msg_id": f"uu{len(self.requests):020}"}}
        return Response(200, json.dumps(answer).encode(), {"content-type": "application/json"})

    def _wrong(self, request: Request) -> str:
        if request.headers.get("content-type") != "application/json" or set(request.query) != {"sign"}:
            return f"head {request.headers} {request.query}"
        url = f"http://{request.headers['host']}{request.path}"
        digest = hashlib.new("md5")
        for part in (request.method, url, request.body.decode(), SECRET):
            digest.update(part.encode())
        if digest.hexdigest() != request.query["sign"]:
            return "2027"
        said = json.loads(request.body)
        if set(said) - FIELDS:
            return f"fields {sorted(set(said) - FIELDS)}"
        if said.get("appkey") != APP_KEY:
            return "2021" if said.get("appkey") else "1000"
        return (
            self._wrong_time(said.get("timestamp"))
            or self._wrong_recipients(said)
            or (_wrong_android if self._platform == "android" else _wrong_ios)(said.get("payload"))
            or self._wrong_policy(said.get("policy", {}))
            or ("" if said.get("production_mode", "true") in ("true", "false") else "1017")
        )

    def _wrong_time(self, said: Any) -> str:
        if not said:
            return "2052"
        if not isinstance(said, str) or not said.isdigit() or len(said) not in (10, 13):
            return "2036"
        return "" if abs(int(said[:10]) - self._now_s()) <= 600 else "2028"

    def _wrong_recipients(self, said: dict[str, Any]) -> str:
        kind, tokens, alias = said.get("type"), said.get("device_tokens"), said.get("alias")
        if kind == "customizedcast":
            if not said.get("alias_type"):
                return "2047"
            listed, wants_one = alias, False
        elif kind in ("unicast", "listcast"):
            listed, wants_one = tokens, kind == "unicast"
        else:
            return "2048" if kind else "1016"
        if not listed:
            return "2009" if kind == "customizedcast" else "1015"
        addresses = listed.split(",")
        if wants_one and len(addresses) > 1:
            return "several devices in a unicast"
        if len(addresses) > 500 or "" in addresses or len(set(addresses)) < len(addresses):
            return f"recipients {addresses}"
        return ""

    def _wrong_policy(self, said: dict[str, Any]) -> str:
        if set(said) - {"expire_time", "max_send_num"}:
            return f"policy {said}"
        if "expire_time" not in said:
            return ""
        try:
            china = datetime.strptime(said["expire_time"], "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007
        except ValueError:
            return "2039"
        left_s = (china - timedelta(hours=8) - datetime(1970, 1, 1)).total_seconds() - self._now_s()  # noqa: DTZ001
        return "2003" if left_s < 0 else "2040" if left_s > 7 * 86_400 else ""


def _wrong_android(payload: Any) -> str:
    if not isinstance(payload, dict):
        return "1001"
    if len(json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()) > 1840:
        return "2022"
    kind, body = payload.get("display_type"), payload.get("body")
    if not isinstance(body, dict):
        return "1002"
    if kind == "message":
        if set(payload) != {"display_type", "body"} or set(body) - {"custom"}:
            return f"a message with {payload}"
        return "" if body.get("custom") else "1003"
    if kind != "notification":
        return "1019" if kind else "1004"
    for name, code in [("ticker", "1008"), ("title", "1009"), ("text", "1010")]:
        if not body.get(name):
            return code
    if set(body) - OF_NOTIFICATION or set(payload) - {"display_type", "body", "extra"}:
        return f"a notification with {payload}"
    opened = OPENED.get(body.get("after_open", "go_app"))
    if opened is not None and not body.get(opened):
        return {"url": "1022", "activity": "1024", "custom": "1003"}[opened]
    if opened == "url" and not body["url"].startswith(("http://", "https://")):
        return "1007"
    return "" if all(isinstance(value, str) for value in payload.get("extra", {}).values()) else "1026"


def _wrong_ios(payload: Any) -> str:
    if not isinstance(payload, dict):
        return "1001"
    if {"d", "p"} & set(payload):
        return "5002"
    aps = payload.get("aps")
    if not isinstance(aps, dict) or not (aps.get("alert") or aps.get("content-available") == 1):
        return "2025"
    return ""
