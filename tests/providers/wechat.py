"""A WeChat that is not there, for one official account: its token, its template messages, its callbacks.

Written from the documents of the interface: everything is HTTP 200, a stable token comes back unchanged until five
minutes before its end, and a `client_msg_id` sends once to the same user for ten minutes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from tests.providers.server import Request, Response

APP_ID, SECRET, CALLBACK_TOKEN = "wx6f1c", "3c1b0e7f", "testtoken"
LASTS_S = 7200
OVERLAP_S = 300
FORGETS_S = 600


def said(**fields: Any) -> Response:
    return Response(200, json.dumps(fields, ensure_ascii=False).encode(), {"content-type": "application/json"})


class Wechat:
    """What has come, and what is answered.

    Args:
        now_s: the time.
        mood: says of each message what to answer instead, None for what the documents say.
    """

    def __init__(
        self, now_s: Callable[[], float], mood: Callable[[dict[str, Any]], Response | str | None] = lambda _: None
    ) -> None:
        self._now_s, self._mood = now_s, mood
        self._tokens: list[tuple[str, float]] = []
        """Tokens, each with its end."""
        self.token_calls: list[bool] = []
        """Whether each call for a token was by force."""
        self.sent: list[dict[str, Any]] = []
        self.calls = 0
        self._known: dict[tuple[str, str], tuple[float, int]] = {}

    def __call__(self, request: Request) -> Response | str:
        assert request.method == "POST"
        text = request.body.decode("utf-8")
        assert not re.search(r"\\u[0-9a-f]{4}", text), "escapes would be shown to people"
        body = json.loads(text)
        if request.path == "/cgi-bin/stable_token":
            return self._stable_token(body)
        assert request.path == "/cgi-bin/message/template/send"
        return self._send(request.query.get("access_token"), body)

    def revoke(self) -> None:
        """Let no token be valid any more, though the stable one is still given out."""
        self._tokens = [(token, 0.0) for token, _ in self._tokens]

    def _stable_token(self, body: dict[str, Any]) -> Response:
        assert set(body) == {"grant_type", "appid", "secret", "force_refresh"}
        assert body["grant_type"] == "client_credential"
        self.token_calls.append(body["force_refresh"])
        if body["appid"] != APP_ID:
            return said(errcode=40013, errmsg="invalid appid")
        if body["secret"] != SECRET:
            return said(errcode=40125, errmsg="invalid appsecret")
        now_s = self._now_s()
        is_fresh = self._tokens and (self._tokens[-1][1] == 0.0 or self._tokens[-1][1] - now_s > OVERLAP_S)
        if body["force_refresh"] or not is_fresh:
            self._tokens.append((hashlib.sha256(str(len(self._tokens)).encode()).hexdigest() * 4, now_s + LASTS_S))
        token, end_s = self._tokens[-1]
        return said(access_token=token, expires_in=int(max(60.0, end_s - now_s)) if end_s else LASTS_S)

    def _send(self, token: str | None, body: dict[str, Any]) -> Response | str:
        self.calls += 1
        ends = dict(self._tokens)
        if token not in ends:
            return said(errcode=40001, errmsg="invalid credential, access_token is invalid or not latest")
        if ends[token] <= self._now_s():
            return said(errcode=42001, errmsg="access_token expired")
        assert set(body) <= {"touser", "template_id", "url", "miniprogram", "client_msg_id", "data"}
        assert all(set(field) == {"value"} and isinstance(field["value"], str) for field in body["data"].values())
        assert len(body["client_msg_id"].encode()) <= 32
        key = (body["touser"], body["client_msg_id"])
        instead = self._mood(body)
        if isinstance(instead, Response):
            return instead
        at_s, number = self._known.get(key, (-FORGETS_S, 0))
        if self._now_s() - at_s > FORGETS_S:
            number = 200163840 + len(self.sent)
            self.sent.append(body)
            self._known[key] = (self._now_s(), number)
        return said(errcode=0, errmsg="ok", msgid=number) if instead is None else instead


def callback(openid: str, message: str, status: str, timestamp: str = "1700000000") -> tuple[dict[str, str], bytes]:
    """Return query and body of a receipt, signed."""
    texts = [CALLBACK_TOKEN, timestamp, "abc123"]
    texts.sort()
    query = {"signature": hashlib.sha1("".join(texts).encode()).hexdigest(), "timestamp": timestamp, "nonce": "abc123"}
    body = (
        f"<xml><ToUserName><![CDATA[gh_7f08]]></ToUserName><FromUserName><![CDATA[{openid}]]></FromUserName>"
        f"<CreateTime>1395658984</CreateTime><MsgType><![CDATA[event]]></MsgType>"
        f"<Event><![CDATA[TEMPLATESENDJOBFINISH]]></Event><MsgID>{message}</MsgID>"
        f"<Status><![CDATA[{status}]]></Status></xml>"
    )
    return query, body.encode()
