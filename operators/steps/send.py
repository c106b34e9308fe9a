"""The `send` step: emit an action to a channel, or note why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StrictBool

from operators.caps import counter_of
from operators.language.channels import DEFAULT_ADDRESSES
from operators.language.model import JsonValue
from operators.language.values import Duration, Name
from operators.rules import checks_of
from operators.rules.base import Message, Postponement, Refusal, Sending
from operators.steps.base import GO_ON, End, Hold, Outcome, Step
from operators.steps.build import Build, StepModel
from operators.visit import Visit

_MISSING: Final = ("no_address", "missing_variable")  # What `if_missing` is about.


class SendModel(StepModel):
    """Send a message through a channel."""

    kind: ClassVar[str] = "send"
    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("variables", "params", "data"), "vars"),
        **dict.fromkeys(("text", "message", "body"), "template"),
        **dict.fromkeys(("address", "recipient"), "to"),
    }
    shapes: ClassVar[Mapping[str, str]] = {"vars": 'vars: {name: "{{ profile.name }}"}'}
    may_wait: ClassVar[bool] = False
    send: Annotated[
        Name,
        Field(
            description="The channel. One that is not built in needs an entry under channels in nudge.yaml.",
            json_schema_extra={"examples": [*DEFAULT_ADDRESSES]},
        ),
    ]
    template: Annotated[
        str,
        Field(min_length=1, strict=True, description="What the channel knows, such as a provider's template code."),
    ]
    to: Annotated[
        str | None,
        Field(
            strict=True,
            description="Where to; default: the attribute of the profile that is the channel's address.",
        ),
    ] = None
    vars: Annotated[dict[str, JsonValue], Field(description="Variables of the template; texts may be Liquid.")] = {}
    category: Annotated[
        Literal["marketing", "notification"],
        Field(description="notification is exempt from caps and quiet hours."),
    ] = "marketing"
    expires: Annotated[Duration | None, Field(description="Of no use later than this after the step began.")] = None
    if_missing: Annotated[
        Literal["skip", "end"],
        Field(description="What happens when the address, or a variable without default, is missing."),
    ] = "skip"
    postpone: Annotated[
        StrictBool | None,
        Field(
            description="Whether what quiet times hold goes out when they are over, or is dropped. Default: as the "
            "rule in nudge.yaml says, which is true."
        ),
    ] = None

    def build(self, build: Build) -> Step | None:
        channel = build.channel(self.send, "send")
        to = None if self.to is None else build.template(self.to, "to")
        variables = tuple((name, build.value(raw, "vars", name)) for name, raw in self.vars.items())
        build.known_template(self.template, "template")
        if channel is None or (self.to is not None and to is None):
            return None
        rules = build.rules(self.send, self.category)
        if self.postpone is not None and not rules.quiet:
            message = "no quiet time holds for this message: there is nothing to postpone"
            build.advise("no-effect", message, "remove it", "postpone")
        sending = Sending(channel, to, variables, self.expires, self.postpone, rules)
        return SendStep(self, sending)


class SendStep(Step):
    __slots__ = ("_category", "_channel", "_checks", "_count", "_end_if_missing", "_template")
    kind: ClassVar[str] = "send"

    def __init__(self, model: SendModel, sending: Sending) -> None:
        self._template = model.template
        self._category: Literal["marketing", "notification"] = model.category
        self._end_if_missing = model.if_missing == "end"
        self._channel = sending.channel
        self._checks = checks_of(sending)
        self._count = counter_of(sending.rules.caps)

    @property
    def channel(self) -> str:
        """The name of the channel."""
        return self._channel.name

    def enter(self, visit: Visit) -> Outcome:
        message = Message()
        for check in self._checks:
            found = check(visit, message)
            if found is None:
                continue
            if isinstance(found, Postponement):
                visit.postpone(self._channel.name, found.reason, found.detail)
                return Hold(found.until_ms, still=True)
            return self._refuse(visit, found)
        visit.send(
            channel=self._channel.name,
            to=message.to,
            template=self._template,
            vars=message.vars,
            category=self._category,
            expires_at_ms=message.expires_at_ms,
        )
        if self._count is not None:
            self._count(visit.user, visit.now)
        return GO_ON

    def wake(self, visit: Visit) -> Outcome:
        return self.enter(visit)  # The quiet time is over: everything is asked again, and all may have changed.

    def _refuse(self, visit: Visit, refusal: Refusal) -> Outcome:
        visit.suppress(self._channel.name, refusal.reason, refusal.detail)
        return End(refusal.reason) if self._end_if_missing and refusal.reason in _MISSING else GO_ON
