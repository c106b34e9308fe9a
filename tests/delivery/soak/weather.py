"""The moods of three providers: one drops repeats, one can be asked, one is neither."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.delivery.soak.promises import Seen
from tests.providers import alibaba_sms, letters, webhook
from tests.providers.server import HALF, HANGS, HANGS_UP, NONSENSE, Request, Response, Server

SLOW_S: Final = 0.3
LOST: Final = {
    "takes it and hangs": HANGS,
    "takes it and hangs up": HANGS_UP,
    "takes it and answers half": HALF,
    "takes it and answers nonsense": NONSENSE,
}
MOODS: Final = {
    "is well": 14.0, "is slow": 1.0, "is busy": 0.7, "fails": 0.7, "hangs up": 0.5, "refuses": 0.4,
    "takes it and fails": 0.3, **dict.fromkeys(LOST, 0.3),
}  # fmt: skip
STORMS: Final = ("is busy", "fails", "hangs up", "takes it and hangs", "takes it and fails", "has lost its key")


class Weather:
    """How the providers are. Now and then one of them has a storm: it is in one mood for a while."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.is_calm = False
        self._storms: dict[str, tuple[str, float]] = {}

    def storm(self, channel: str, mood: str, lasts_s: float) -> None:
        """Let *channel* be in one mood for so long."""
        self._storms[channel] = (mood, time.monotonic() + lasts_s)

    def mood(self, channel: str) -> str:
        """Return the mood in which a request is met."""
        if self.is_calm:
            return "is well"
        mood, until_s = self._storms.get(channel, ("", 0.0))
        if time.monotonic() < until_s:
            return mood
        return self._chance.choices([*MOODS], [*MOODS.values()])[0]


class Providers:
    """The three, as servers."""

    def __init__(self, weather: Weather) -> None:
        self._weather = weather
        self.receiver = webhook.Receiver(self._of_receiver)
        self.sms = alibaba_sms.Dysmsapi(lambda: time.time_ns() // 1_000_000, *self._both("sms", _SMS))
        self.letters = letters.Letters(*self._both("letter", _LETTERS))
        self._servers = {
            "webhook": Server(self.receiver), "sms": Server(self.sms), "letter": Server(self.letters)
        }  # fmt: skip

    def __enter__(self) -> Providers:
        for one in self._servers.values():
            one.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for one in self._servers.values():
            one.__exit__(*error)

    def channels(self, call_ms: int) -> dict[str, Any]:
        """Return `channels:` of a workspace that calls them, for so long at most."""
        url = {name: one.url for name, one in self._servers.items()}
        both = {"timeout": f"{call_ms // 1000}s", "concurrency": 20}
        return {
            "webhook": {
                "deliver": {
                    "provider": "webhook", "url": url["webhook"], "private": True, "secret": {"env": "HOOK"}, **both
                }
            },
            "sms": {
                "address": "phone",
                "deliver": {
                    "provider": "alibaba_sms", "key_id": {"env": "SMS_ID"}, "secret": {"env": "SMS_SECRET"},
                    "sign_name": "Acme", "templates": {"hello": "SMS_2"}, "endpoint": url["sms"], **both,
                }
            },
            "letter": {
                "deliver": {
                    "provider": "http", "url": f"{url['letter']}/letters", "private": True,
                    "auth": {"bearer": {"env": "LETTERS"}}, "json": {"ref": "{{ action_id }}"},
                    "answer": {
                        "code": "{{ answer.code }}", "id": "{{ answer.letter }}",
                        "means": {0: "ok", 2: "permanent", 3: "throttled_recipient", 4: "config"},
                    },
                    **both,
                }
            },
        }  # fmt: skip

    environment: Final = {
        "HOOK": webhook.SECRET, "SMS_ID": alibaba_sms.KEY_ID, "SMS_SECRET": alibaba_sms.KEY_SECRET,
        "LETTERS": letters.KEY,
    }  # fmt: skip

    def seen(self) -> dict[str, Seen]:
        """Return what each of them has seen."""
        return {
            "webhook": Seen(True, list(self.receiver.taken), list(self.receiver.mistakes)),
            "sms": Seen(False, [one["OutId"] for one in self.sms.sent]),
            "letter": Seen(False, list(self.letters.sent), list(self.letters.mistakes)),
        }

    def _of_receiver(self, request: Request) -> Response | str | None:
        mood = self._weather.mood("webhook")
        if mood == "refuses":  # What it has taken it does not refuse.
            return None if request.headers["webhook-id"] in self.receiver.taken else Response(400)
        if mood == "is slow":
            return Response(200, after_s=SLOW_S)
        return LOST.get(mood) or _RECEIVER.get(mood)

    def _both(
        self, channel: str, answers: Mapping[str, Response | str]
    ) -> tuple[Callable[[Request], Response | str | None], Callable[[Request], Response | str | None]]:
        """Return what is answered before and after something is sent, by one mood for both."""
        mood = ""

        def before(_: Request) -> Response | str | None:
            nonlocal mood
            mood = self._weather.mood(channel)
            return answers.get(mood)

        def after(_: Request) -> Response | str | None:
            if mood == "takes it and fails":
                return Response(500, b"oops")
            return LOST.get(mood)

        return before, after


_RECEIVER: Final[dict[str, Response | str]] = {
    "is busy": Response(429, headers={"retry-after": "0"}),
    "fails": Response(503),
    "hangs up": HANGS_UP,
    "takes it and fails": HANGS_UP,  # Who answers so that it has failed has not taken it.
    "has lost its key": Response(410),
}
_SMS: Final[dict[str, Response | str]] = {
    "is busy": alibaba_sms.refusal("Throttling.User"),
    "fails": alibaba_sms.refusal("isp.SYSTEM_ERROR"),
    "hangs up": HANGS_UP,
    "refuses": alibaba_sms.refusal("isv.MOBILE_NUMBER_ILLEGAL"),
    "has lost its key": alibaba_sms.refusal("InvalidAccessKeyId.NotFound", status=404),
}
_LETTERS: Final[dict[str, Response | str]] = {
    "is busy": letters.answered(3),
    "fails": Response(503, headers={"retry-after": "0"}),
    "hangs up": HANGS_UP,
    "refuses": letters.answered(2),
    "has lost its key": letters.answered(4),
}
