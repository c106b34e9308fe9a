"""A provider of a test's own: it can neither drop repeats nor be asked, and is called in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from connectors.channels.base import Callback, Reply, Settings, Surroundings
from state.delivery import UNKNOWN, Answer
from state.outgoing import Action


class PagerSettings(Settings):
    """`deliver:` with `provider: pager`."""

    provider: Literal["pager"] = "pager"


class Pager:
    """Answers with what `answers` has of the address, else that nobody knows."""

    settings: ClassVar[type[Settings]] = PagerSettings
    drops_repeats: ClassVar[bool] = False
    can_be_asked: ClassVar[bool] = False
    answers: ClassVar[dict[str, Answer]] = {}
    called: ClassVar[list[Action]] = []

    def __init__(self, settings: PagerSettings, around: Surroundings) -> None:
        pass

    async def call(self, action: Action) -> Answer:
        self.called.append(action)
        return self.answers.get(action.to or "", Answer(UNKNOWN, "no_answer", "it broke off"))

    async def ask(self, action: Action, since_ms: int) -> Answer:
        return Answer(UNKNOWN)

    async def renew(self) -> bool:
        return False

    def callback(self, came: Callback) -> Reply:
        return Reply([])

    def preview(self, action: Action) -> Mapping[str, Any]:
        return {}

    async def close(self) -> None:
        pass
