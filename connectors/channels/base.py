"""What a provider is to delivery: something that can be called with an action, and answers.

A provider is one class in a file of its own, found by its name (an entry point of the group `nudge.channels`). It keeps
to what its documents say: how a request is made and signed, and what each answer means. When something is called, how
often, and what happens after an answer is decided elsewhere (`operators/delivery/machine.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict
from pydantic_core import core_schema

from state.delivery import UNKNOWN, Answer
from state.outgoing import Action


class Settings(BaseModel):
    """What stands under `deliver:` of a channel for this provider; every provider has its own class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str


class Secret:
    """A secret of the settings: what it is, and nothing that shows it."""

    def __init__(self, value: str, said: str) -> None:
        self._value, self._said = value, said

    def reveal(self) -> str:
        """Return it, for a request."""
        return self._value

    def __repr__(self) -> str:
        return self._said

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return core_schema.with_info_plain_validator_function(cls._read)

    @classmethod
    def _read(cls, given: Any, info: Any) -> Secret:
        """Read `{env: NAME}` or `{file: PATH}`; what is read is added to `secrets` of the context, if that is there."""
        found = cls._found(given, info.context or {})
        if info.context and "secrets" in info.context:
            info.context["secrets"].add(found.reveal())
        return found

    @classmethod
    def _found(cls, given: Any, context: Mapping[str, Any]) -> Secret:
        if isinstance(given, dict) and len(given) == 1:
            ((how, name),) = given.items()
            if how == "env" and isinstance(name, str):
                value = context.get("environment", {}).get(name)
                if not value:
                    raise ValueError(f"the environment variable {name} is not set")
                return cls(value, f"from the environment variable {name}")
            if how == "file" and isinstance(name, str):
                path = Path(context.get("folder", "."), name)
                try:
                    value = path.read_text("utf-8").strip()
                except (OSError, UnicodeDecodeError) as error:
                    raise ValueError(
                        f"{path} cannot be read: {getattr(error, 'strerror', None) or 'no text'}"
                    ) from None
                if not value:
                    raise ValueError(f"{path} is empty")
                return cls(value, f"from the file {path}")
        raise ValueError("a secret stands elsewhere: write {env: NAME} or {file: PATH}")


class Unfit(Exception):
    """An action that the provider cannot be given: `code` says what is missing, `detail` says more."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


class Content(NamedTuple):
    """What a message says, where that stands in files: "" for a part that it lacks."""

    subject: str
    text: str
    html: str


def _no_content(action: Action, unsubscribe_url: str | None) -> Content:
    raise Unfit("no_template", f"there is no message {action.template!r}")


Rendering = Callable[[Mapping[str, Any], int], Any]
"""A template: gives a text, or the value itself where it is nothing but `{{ a.reference }}`, from the values of its
names and the time (ms). It raises `Unfit` where something that it needs is missing."""


class Liquid(Protocol):
    """Makes templates of texts."""

    def __call__(self, text: str, names: Collection[str]) -> Rendering:
        """Return the template written in *text*, which may refer to *names*.

        Raises:
            ValueError: it is none.
        """
        ...


def _no_liquid(text: str, names: Collection[str]) -> Rendering:
    return lambda values, now_ms: text


class Surroundings:
    """What a provider gets beside its settings.

    `now_ms` returns the time, `nonce` a text that was never used, `folder` is where relative paths begin. A call may
    take `timeout_s`, a little less than the channel waits for it, so that the provider says why it has ended; there are
    at most `concurrency` calls at a time. `content` returns what the message of an action says, with a link that
    unsubscribes where there is one; it raises `Unfit` where that cannot be told. `liquid` makes templates of texts in
    the settings.
    """

    def __init__(
        self,
        now_ms: Callable[[], int],
        nonce: Callable[[], str],
        folder: Path,
        timeout_s: float,
        content: Callable[[Action, str | None], Content] = _no_content,
        liquid: Liquid = _no_liquid,
        concurrency: int = 50,
    ) -> None:
        self.now_ms, self.nonce, self.folder, self.timeout_s = now_ms, nonce, folder, timeout_s
        self.content, self.liquid, self.concurrency = content, liquid, concurrency


class Callback(NamedTuple):
    """A request in which a provider reports: header names in lower case, the body as it came."""

    method: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    url: str


class Report(NamedTuple):
    """What a provider reports of one message.

    It is about `action_id`, where that comes back, else about what the provider calls `provider_id`. `event_id` tells
    one report from another of the same status; `at_ms` is when it happened, None where that is not said.
    """

    status: str
    action_id: str = ""
    provider_id: str = ""
    code: str = ""
    detail: str = ""
    event_id: str = ""
    at_ms: int | None = None


class Reply(NamedTuple):
    """What came in a callback, and how it is answered once it cannot be lost."""

    reports: Sequence[Report]
    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain"


class NotTheirs(Exception):
    """A callback whose signature is wrong, or that is none of this provider's; answered with 401."""


class Provider(Protocol):
    """One account at one provider.

    `drops_repeats`: a second call with the same action id sends nothing more; where that holds only for a while, the
    class has `repeats_dropped_for_ms`, from the first call on. `can_be_asked`: `ask` can tell what became of a call.
    """

    settings: ClassVar[type[Settings]]
    drops_repeats: ClassVar[bool]
    can_be_asked: ClassVar[bool]

    async def call(self, action: Action) -> Answer:
        """Send *action* and return what came of it.

        Whatever goes wrong on the way is an answer, too; a cancelled call may have been sent.

        Raises:
            Unfit: it was not sent, and cannot be.
        """
        ...

    async def ask(self, action: Action, since_ms: int) -> Answer:
        """Return what became of an earlier call: OK, PERMANENT, RETRY (it was never there), UNKNOWN (ask later)."""
        ...

    async def renew(self) -> bool:
        """Get another credential, and tell whether there is one."""
        ...

    def callback(self, came: Callback) -> Reply:
        """Return what a provider reports.

        Raises:
            NotTheirs: somebody else wrote it.
            ValueError: it cannot be read; answered with 400.
        """
        ...

    def preview(self, action: Action) -> Mapping[str, Any]:
        """Return what would be sent, without secrets.

        Raises:
            Unfit: it cannot be sent.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Together(Provider, Protocol):
    """A provider that takes several actions in one call: `together_max` at most.

    Those whose calls are due at the same time are given to it together. Nobody waits until there are more.
    """

    together_max: int

    def goes_with(self, action: Action) -> Hashable:
        """Return what *action* has in common with those that it can go together with; None where it goes alone.

        Raises:
            Unfit: it cannot be sent. It goes alone, and `call` says so.
        """
        ...

    async def call_together(self, actions: Sequence[Action]) -> Sequence[Answer]:
        """Send all of *actions*, and return what came of each, in their order.

        Whatever goes wrong with one of them is the answer for that one alone: nothing is raised.
        """
        ...


class OneWay:
    """To build on: a provider that is called and nothing else. It has all of `Provider` but `call` and `preview`."""

    drops_repeats: ClassVar[bool] = False
    can_be_asked: ClassVar[bool] = False
    together_max: int = 1

    async def ask(self, action: Action, since_ms: int) -> Answer:
        """Nobody can be asked."""
        return Answer(UNKNOWN)

    async def renew(self) -> bool:
        """There is no credential that runs out."""
        return False

    def callback(self, came: Callback) -> Reply:
        """Nobody reports.

        Raises:
            NotTheirs: always.
        """
        raise NotTheirs("this provider reports nothing")

    async def close(self) -> None:
        """There is nothing to let go of."""
