"""The `send` step: emit an action to a channel, or note why not."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from operators.ids import action_id
from operators.language.flow import JsonValue, NotYet
from operators.language.values import Duration, Name
from operators.limits import ADDRESS_CHARACTERS_MAX, VARIABLES_BYTES_MAX, fits
from operators.machine.context import Visit
from operators.program.build import Build, ChannelPlan, Value
from operators.steps.base import GO_ON, End, Outcome, Step, StepModel
from operators.templates import MISSING, Template, TemplateFailed
from state.iso import format_ms


class SendModel(StepModel):
    """Send a message through a channel."""

    kind: ClassVar[str] = "send"
    send: Name
    template: Annotated[str, Field(min_length=1, strict=True)]
    to: Annotated[str | None, Field(strict=True)] = None
    vars: dict[str, JsonValue] = {}
    category: Literal["marketing", "notification"] = "marketing"
    expires: Duration | None = None
    if_missing: Literal["skip", "end"] = "skip"
    postpone: NotYet = None

    def build(self, build: Build) -> Step | None:
        channel = build.channel(self.send, "send")
        to = None if self.to is None else build.template(self.to, "to")
        variables = [(name, build.value(raw, "vars", name)) for name, raw in self.vars.items()]
        if channel is None or (self.to is not None and to is None):
            return None
        return SendStep(self, channel, to, variables)


class SendStep(Step):
    __slots__ = ("_category", "_channel", "_end_if_missing", "_expires_ms", "_template", "_to", "_variables")
    kind: ClassVar[str] = "send"

    def __init__(
        self, model: SendModel, channel: ChannelPlan, to: Template | None, variables: list[tuple[str, Value]]
    ) -> None:
        self._template = model.template
        self._category = model.category
        self._expires_ms = model.expires
        self._end_if_missing = model.if_missing == "end"
        self._channel = channel
        self._to = to
        self._variables = variables

    @property
    def channel(self) -> str:
        """The name of the channel."""
        return self._channel.name

    def enter(self, visit: Visit) -> Outcome:
        to: str | None = None
        if self._to is not None or self._channel.address is not None:
            try:
                address = self._address(visit)
            except TemplateFailed as error:
                return self._refuse(visit, "template_error", to=str(error))
            if not isinstance(address, str) or not 0 < len(address) <= ADDRESS_CHARACTERS_MAX:
                source = self._to.source if self._to is not None else f"profile.{self._channel.address}"
                return self._refuse(visit, "no_address", address=source)
            to = address
        rendered: dict[str, object] = {}
        for name, value in self._variables:
            try:
                rendered[name] = value.render(visit)
            except TemplateFailed as error:
                return self._refuse(visit, "template_error", variable=name, error=str(error))
            if rendered[name] is MISSING:
                return self._refuse(visit, "missing_variable", variable=name)
        if not fits(rendered, VARIABLES_BYTES_MAX):
            said = f"the variables have more than {VARIABLES_BYTES_MAX} bytes"
            return self._refuse(visit, "template_error", error=said)
        expires_at = None if self._expires_ms is None else visit.branch.begun_ms + self._expires_ms
        if expires_at is not None and visit.now > expires_at:
            return self._refuse(visit, "expired", expires_at=format_ms(expires_at))
        self._emit(visit, to, rendered, expires_at)
        return GO_ON

    def _address(self, visit: Visit) -> object:
        if self._to is not None:
            return visit.render(self._to)
        return visit.user.profile.get(self._channel.address or "")

    def _emit(self, visit: Visit, to: str | None, rendered: dict[str, object], expires_at: int | None) -> None:
        journey = visit.journey
        step, times = visit.node.id, journey.visits[visit.node.id]
        at = format_ms(visit.now)
        cause = visit.cause()
        made = action_id(journey.id, step, times)
        visit.journal("sent", detail={"action_id": made, "channel": self._channel.name}, cause=cause)
        visit.program.tally(visit.out, f"sent:{self._channel.name}")
        visit.out.actions.append(
            {
                "action_id": made,
                "channel": self._channel.name,
                "user_id": visit.user_id,
                "to": to,
                "flow": journey.flow,
                "version": journey.version,
                "journey_id": journey.id,
                "step": step,
                "visit": times,
                "template": self._template,
                "vars": rendered,
                "category": self._category,
                "at": at,
                "expires_at": None if expires_at is None else format_ms(expires_at),
                "seq": visit.user.seq,
                "cause": cause,
            }
        )

    def _refuse(self, visit: Visit, reason: str, **detail: str) -> Outcome:
        visit.journal(
            "suppressed", reason=reason, detail={"channel": self._channel.name, **detail}, cause=visit.cause()
        )
        visit.program.tally(visit.out, f"suppressed:{reason}")
        if self._end_if_missing and reason in ("no_address", "missing_variable"):
            return End(reason)
        return GO_ON
