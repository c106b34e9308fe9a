"""A visit: one user at one place at one moment. What steps and conditions may ask, and the one way to the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from operators.conditions.tree import dig, equal
from operators.conditions.when import Clause
from operators.language.localtime import zone_of
from operators.machine.outbox import Outbox
from operators.templates import MISSING, Template, TemplateFailed
from state.iso import format_ms
from state.user import Branch, Journey, User

if TYPE_CHECKING:
    from operators.program.build import Ask
    from operators.program.compile import Program
    from operators.steps.base import Node

Cause = dict[str, str | None]


class Visit:
    """One user in the context of one program, at stream time `now`.

    `journey` is None while entry is decided; then `branch` and `node` mean nothing. `heard` holds the properties of
    the event that is being handled, `hits` the interests it satisfies; both are empty at a wake-up. A visit is the
    scope of templates, too: `profile`, `entry`, `event`, `flow`, `now_ms`.
    """

    __slots__ = (
        "branch",
        "heard",
        "heard_cause",
        "hits",
        "journey_or_none",
        "node",
        "now",
        "out",
        "program",
        "user",
        "user_id",
    )

    branch: Branch
    node: Node

    def __init__(self, user_id: str, user: User, program: Program, now: int, out: Outbox) -> None:
        self.user_id = user_id
        self.user = user
        self.program = program
        self.now = now
        self.out = out
        self.journey_or_none: Journey | None = None
        self.heard: dict[str, Any] = {}
        self.heard_cause: tuple[str, str | None] = ("", None)
        self.hits: tuple[int, ...] = ()

    @property
    def journey(self) -> Journey:
        assert self.journey_or_none is not None, "only a journey's visit is asked for its journey"
        return self.journey_or_none

    # ---- the scope of templates --------------------------------------------------------------------------------

    @property
    def profile(self) -> dict[str, Any]:
        return self.user.profile

    @property
    def entry(self) -> dict[str, Any]:
        return self.heard if self.journey_or_none is None else self.journey_or_none.entry

    @property
    def event(self) -> dict[str, Any]:
        journey = self.journey_or_none
        if journey is None:
            return self.heard
        return journey.entry if journey.event is None else journey.event

    @property
    def flow(self) -> str:
        return self.program.name

    @property
    def now_ms(self) -> int:
        return self.now

    def render(self, template: Template) -> Any:
        """Return what *template* gives here, or `MISSING`; raises `TemplateFailed`."""
        return template.render(self)

    def rendered(self, template: Template) -> Any:
        """As `render`, with a failure taken for `MISSING`."""
        try:
            return template.render(self)
        except TemplateFailed:
            return MISSING

    # ---- what conditions ask -----------------------------------------------------------------------------------

    def value(self, root: str, path: tuple[str, ...]) -> Any:
        if root == "properties":
            return dig(self.heard, path)
        return dig(self.user.profile if root == "profile" else self.entry, path)

    def count(self, clause: Clause) -> int:
        if clause.within is None:
            return self.journey.tallies.get(self.program.tally_keys[clause], 0)
        times = self.user.windows.get(clause.window_id)
        if times is None:
            return 0
        assert isinstance(times, list)
        since = self.now - clause.within
        return sum(1 for at in times if at > since)

    def zone(self) -> ZoneInfo:
        """Return the user's zone: that of the profile if it is one, else the flow's."""
        return zone_of(self.user.profile.get("timezone")) or self.program.zone

    def satisfies(self, ask: Ask) -> bool:
        """Tell whether the event that is being handled is what *ask* asks for."""
        return ask.interest.number in self.hits and (ask.live is None or ask.live.holds(self))

    def hears_key(self) -> bool:
        """Tell whether the event has the journey's key value, as every event has for a flow without a key."""
        path = self.program.key_path
        return path is None or equal(dig(self.heard, path), self.journey.key)

    # ---- what steps do -----------------------------------------------------------------------------------------

    def moved_by_event(self) -> None:
        """Note that the event that is being handled moves the journey."""
        self.journey.event = self.heard
        self.journey.cause = self.heard_cause

    def cause(self) -> Cause:
        """Return what the journey is at its place because of."""
        message_id, event = self.journey.cause
        return {"message_id": message_id, "event": event}

    def journal(
        self,
        kind: str,
        *,
        reason: str | None = None,
        detail: dict[str, Any] | None = None,
        cause: Cause | None = None,
        step: bool = True,
    ) -> None:
        """Write a journal record; every one of them takes the user's next `seq`."""
        user = self.user
        user.seq += 1
        journey = self.journey_or_none
        record: dict[str, Any] = {
            "at": format_ms(self.now),
            "user_id": self.user_id,
            "seq": user.seq,
            "flow": self.program.name,
            "version": self.program.version,
            "journey_id": None if journey is None else journey.id,
            "kind": kind,
        }
        if step and journey is not None:
            record["step"] = self.node.id
        if reason is not None:
            record["reason"] = reason
        if detail is not None:
            record["detail"] = detail
        if cause is not None:
            record["cause"] = cause
        self.out.journal.append(record)
