"""A receiver of webhooks: verifies as the library of Standard Webhooks does, and drops repeats by `webhook-id`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from random import Random

from standardwebhooks import Webhook, WebhookVerificationError

from tests.providers.server import HALF, HANGS, HANGS_UP, NONSENSE, Request, Response

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver:
    """What has come, and what is answered.

    Args:
        mood: says of each request what to answer instead of 200, None for that.
    """

    def __init__(self, mood: Callable[[Request], Response | str | None] = lambda _: None) -> None:
        self._mood = mood
        self._verifier = Webhook(SECRET)
        self.came: Counter[str] = Counter()
        self.bodies: dict[str, bytes] = {}
        self.taken: list[str] = []
        """Ids in the order in which they were taken, each once."""
        self.mistakes: list[str] = []

    def __call__(self, request: Request) -> Response | str:
        one = request.headers.get("webhook-id", "")
        self.came[one] += 1
        try:
            self._verifier.verify(request.body, request.headers)
        except WebhookVerificationError as error:
            self.mistakes.append(f"{one}: {error}")
            return Response(401, b'{"detail": "wrong signature"}')
        if self.bodies.setdefault(one, request.body) != request.body:
            self.mistakes.append(f"{one}: two different requests under one id")
        instead = self._mood(request)
        if isinstance(instead, Response) and instead.status >= 300:
            return instead
        if self.came[one] == 1 or one not in self.taken:
            self.taken.append(one)
        return Response(200, json.dumps({"ok": True}).encode()) if instead is None else instead


def in_any_mood(chance: Random) -> Callable[[Request], Response | str | None]:
    """Return a mood in which everything happens now and then."""

    def mood(_: Request) -> Response | str | None:
        if chance.random() < 0.7:
            return None
        return chance.choice(
            [
                Response(500), Response(503, headers={"retry-after": "1"}), Response(429, headers={"retry-after": "0"}),
                Response(502), HANGS_UP, HALF, NONSENSE, HANGS,
            ]
        )  # fmt: skip

    return mood
