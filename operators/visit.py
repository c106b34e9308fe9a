"""What a step, and a check of a send, may ask and do while it looks after one user: the whole of it.

The machine passes it in (`operators/machine/context.py`), so a step knows no machine, and a test can do without one.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol
from zoneinfo import ZoneInfo

from operators.conditions.base import Context
from operators.conditions.wanted import Wanted
from operators.templates.scope import Scope
from operators.templates.template import Template
from state.outgoing import Cause, JournalKind, SendReason
from state.register import Decide
from state.user import Branch, Journey, User


class Visit(Context, Scope, Protocol):
    """One user at one step of one journey, at stream time `now` (ms).

    Conditions ask it (`value`, `count`, ..), and templates find their fields in it (`profile`, `entry`, ..).
    """

    user_id: str
    user: User
    journey: Journey
    branch: Branch

    @property
    def step(self) -> str:
        """The id of the step."""
        ...

    def render(self, template: Template) -> Any:
        """Return what *template* gives here, or `MISSING`; raises `TemplateFailed`."""
        ...

    def rendered(self, template: Template) -> Any:
        """As `render`, with a failure taken for `MISSING`."""
        ...

    def zone(self) -> ZoneInfo:
        """Return the user's time zone: that of the profile if it is one, else the flow's."""
        ...

    # ---- of the event that is being handled --------------------------------------------------------------------

    def satisfies(self, wanted: Wanted) -> bool:
        """Tell whether the event is what *wanted* says."""
        ...

    def hears_key(self) -> bool:
        """Tell whether the event has the journey's key value, as every event has for a flow without a key."""
        ...

    def answered(self, step: str) -> str | None:
        """Return the status of the latest visit of *step* if the record that is being handled is its receipt."""
        ...

    def moved_by_event(self) -> None:
        """Note that the event moves the journey."""
        ...

    # ---- what follows ------------------------------------------------------------------------------------------

    def cause(self) -> Cause:
        """Return what the journey is at its place because of."""
        ...

    def try_out(self, arm: str, most: int, decide: Decide, *, keeps_fields: bool) -> str:
        """Let the user be among the first *most* in the experiment at this step, with *arm*; return the arm to take.

        Args:
            decide: says which arm has won, once they are complete.
            keeps_fields: whether the goal asks for what happened to the journey.
        """
        ...

    def write_profile(self, changes: dict[str, Any]) -> bool:
        """Write attributes of the profile, null removes; tell whether they were written: nothing too large is."""
        ...

    def join(self, audience: str) -> bool:
        """Let the user be in *audience*, where a row that is there stays; tell whether the user is in it now."""
        ...

    def journal(
        self,
        kind: JournalKind,
        *,
        reason: str | None = None,
        detail: dict[str, Any] | None = None,
        cause: Cause | None = None,
    ) -> None:
        """Write a journal record of this step; every one takes the user's next `seq`."""
        ...

    def send(
        self,
        *,
        channel: str,
        to: str | None,
        template: str,
        vars: dict[str, Any],
        category: Literal["marketing", "notification"],
        expires_at_ms: int | None,
    ) -> None:
        """Emit an action and journal it as `sent`."""
        ...

    def postpone(self, channel: str, reason: SendReason, detail: dict[str, Any]) -> None:
        """Journal that a message is not sent on *channel* yet, with what was compared."""
        ...

    def suppress(self, channel: str, reason: SendReason, detail: dict[str, Any]) -> None:
        """Journal that a message is not sent on *channel*, with what was compared."""
        ...
