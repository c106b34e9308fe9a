"""A provider as simple as many are: it sends a letter for each request, knows no repeats, and can be asked nothing.

There is no such provider. It stands for those at which whatever came twice is sent twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.providers.server import Request, Response

KEY = "key-of-the-letters"

Mood = Callable[[Request], Response | str | None]


class Letters:
    """What was sent.

    Args:
        before: says what to answer instead, and nothing is sent; None for what is right.
        after: says what to answer instead of a success, once it is sent.
    """

    def __init__(self, before: Mood = lambda _: None, after: Mood = lambda _: None) -> None:
        self._before, self._after = before, after
        self.sent: list[str] = []
        """What the requests call `ref`, in their order."""
        self.mistakes: list[str] = []

    def __call__(self, request: Request) -> Response | str:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            self.mistakes.append("a request without its key")
            return Response(401)
        instead = self._before(request)
        if instead is not None:
            return instead
        self.sent.append(json.loads(request.body)["ref"])
        return self._after(request) or answered(0, letter=f"l-{len(self.sent)}")


def answered(code: int, **more: str) -> Response:
    """Return an answer with a code: 0 sent, 2 no such recipient, 3 too fast, 4 no letters today."""
    return Response(200, json.dumps({"code": code, **more}).encode())
