"""An SMS gateway as many are: an account with a digest over a password and the time, a code in each answer.

There is no such provider. It stands for those that have an interface of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from tests.providers.server import Request, Response

ACCOUNT, PASSWORD = "acme", "pa$$ word"


class Gateway:
    """What has come and what was sent.

    Args:
        now_s: its clock.
        mood: says what to answer instead, None for what is right.
    """

    def __init__(self, now_s: Callable[[], int], mood: Callable[[Request], Response | str | None] = lambda _: None):
        self._now_s, self._mood = now_s, mood
        self.sent: dict[str, dict[str, object]] = {}

    def __call__(self, request: Request) -> Response | str:
        instead = self._mood(request)
        if instead is not None:
            return instead
        if (request.method, request.path) != ("POST", "/v2/acme/messages"):
            return Response(404)
        said = json.loads(request.body)
        digest = hashlib.md5(f"{ACCOUNT}{PASSWORD}{said['time']}".encode()).hexdigest()
        if said["sign"] != digest or abs(int(said["time"]) - self._now_s()) > 300:
            return _answer(1001, "wrong sign")
        if not str(said["mobile"]).startswith("1"):
            return _answer(2001, "no mobile")
        if said["uid"] in self.sent:
            return _answer(3001, "sent before")
        self.sent[said["uid"]] = said
        return _answer(0, "ok", msgid=f"m{len(self.sent)}")


def _answer(code: int, message: str, **data: str) -> Response:
    return Response(200, json.dumps({"code": code, "message": message, "data": data}).encode())
