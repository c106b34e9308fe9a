"""Where a decision is taken: one user in one program at one moment, before entry, in a journey, or at a step.

Each of the three knows what it is about from the moment it is made: `Moment` has no journey, `InJourney` has one, and
`AtStep` stands at one of its steps; the last is the `Visit` that steps get. All of them are what conditions ask and
where templates find their fields, and they are the one way to the journal.
"""

from __future__ import annotations

from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from msgspec import UNSET, UnsetType

from operators.conditions.base import Clause
from operators.conditions.values import dig, equal
from operators.conditions.wanted import Wanted
from operators.ids import action_id, experiment_name
from operators.language.localtime import zone_of
from operators.limits import write_profile
from operators.machine.membership import join
from operators.machine.outbox import Outbox
from operators.machine.totals import POSTPONED, SENT, SUPPRESSED, key_of
from operators.program.program import Program
from operators.steps.base import Node
from operators.templates.errors import TemplateFailed
from operators.templates.missing import MISSING
from operators.templates.template import Template
from state.iso import format_ms
from state.outgoing import Action, Cause, JournalKind, JournalRecord, SendReason
from state.records import RECEIPT, Input
from state.register import Decide, Register
from state.user import Branch, Journey, Trial, User

NOTHING: Final[frozenset[str]] = frozenset()


class Moment:
    """One user in the context of one program, at stream time `now` (ms).

    `record` is the event that is being handled, None at a wake-up, and `heard` are its properties; `satisfied` are the
    interests that it satisfies.
    """

    __slots__ = ("heard", "now", "out", "program", "record", "satisfied", "user", "user_id")

    def __init__(
        self,
        user_id: str,
        user: User,
        program: Program,
        now: int,
        out: Outbox,
        record: Input | None = None,
        satisfied: frozenset[str] = NOTHING,
    ) -> None:
        self.user_id = user_id
        self.user = user
        self.program = program
        self.now = now
        self.out = out
        self.record = record
        self.heard: dict[str, Any] = {} if record is None else record.parse_properties()
        self.satisfied = satisfied

    @property
    def heard_cause(self) -> Cause:
        """The event that is being handled, as a cause; a run over audiences has no name."""
        assert self.record is not None, "nothing is heard at a wake-up"
        return Cause(self.record.message_id, self.record.name or None)

    @property
    def journey_id(self) -> str | None:
        """The id of the journey, None before there is one."""
        return None

    @property
    def register(self) -> Register:
        """What answers questions that this user alone cannot."""
        assert self.out.register is not None, "where flows ask, there is a register"
        return self.out.register

    # ---- the scope of templates --------------------------------------------------------------------------------

    @property
    def profile(self) -> dict[str, Any]:
        return self.user.profile

    @property
    def entry(self) -> dict[str, Any]:
        return self.heard

    @property
    def event(self) -> dict[str, Any]:
        return self.heard

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

    @property
    def audiences(self) -> dict[str, dict[str, Any]]:
        return self.user.audiences

    @property
    def sends(self) -> dict[str, list[int]]:
        return self.user.sends

    def value(self, root: str, path: tuple[str, ...]) -> Any:
        if root == "properties":
            return dig(self.heard, path)
        return dig(self.user.profile if root == "profile" else self.entry, path)

    def count(self, clause: Clause) -> int:
        assert clause.within is not None, "before entry no journey counts anything"
        times = self.user.windows.get(clause.window_id)
        if times is None:
            return 0
        assert isinstance(times, list)
        since = self.now - clause.within
        return sum(1 for at in times if at > since)

    def zone(self) -> ZoneInfo:
        """Return the user's zone: that of the profile if it is one, else the flow's."""
        return zone_of(self.user.profile.get("timezone")) or self.program.zone

    def satisfies(self, wanted: Wanted) -> bool:
        """Tell whether the event that is being handled is what *wanted* says."""
        return wanted.interest in self.satisfied and (wanted.live is None or wanted.live.holds(self))

    # ---- what follows ------------------------------------------------------------------------------------------

    def tally(self, kind: str, detail: str | None = None) -> None:
        """Count *kind*, with *detail* if there is one, for this version of the flow."""
        self.out.count(self.program.label, key_of(kind, detail))

    def note(
        self,
        kind: JournalKind,
        *,
        reason: str | None = None,
        detail: dict[str, Any] | None = None,
        cause: Cause | None = None,
        step: str | UnsetType = UNSET,
    ) -> None:
        """Write a journal record; every one takes the user's next `seq`."""
        user, program = self.user, self.program
        user.seq += 1
        self.out.journal.append(
            JournalRecord(
                format_ms(self.now),
                self.user_id,
                user.seq,
                program.name,
                program.version,
                self.journey_id,
                kind,
                step,
                UNSET if reason is None else reason,
                UNSET if detail is None else detail,
                UNSET if cause is None else cause,
            )
        )


class InJourney(Moment):
    """One user inside: what exit rules and the journey's own counters are judged by."""

    __slots__ = ("journey",)

    def __init__(
        self,
        user_id: str,
        user: User,
        program: Program,
        now: int,
        out: Outbox,
        journey: Journey,
        record: Input | None = None,
        satisfied: frozenset[str] = NOTHING,
    ) -> None:
        # Flat, without `super`: one is made for every open journey that an event may concern.
        self.user_id = user_id
        self.user = user
        self.program = program
        self.now = now
        self.out = out
        self.record = record
        self.heard = {} if record is None else record.parse_properties()
        self.satisfied = satisfied
        self.journey = journey

    @property
    def journey_id(self) -> str | None:
        return self.journey.id

    @property
    def entry(self) -> dict[str, Any]:
        return self.journey.entry

    @property
    def event(self) -> dict[str, Any]:
        journey = self.journey
        return journey.entry if journey.event is None else journey.event

    def count(self, clause: Clause) -> int:
        if clause.within is None:
            return self.journey.tallies.get(self.program.tally_names[clause], 0)
        return super().count(clause)

    def hears_key(self) -> bool:
        """Tell whether the event has the journey's key value, as every event has for a flow without a key."""
        path = self.program.key_path
        return path is None or equal(dig(self.heard, path), self.journey.key)

    def cause(self) -> Cause:
        """Return what the journey is at its place because of."""
        return Cause(*self.journey.cause)

    def answered(self, step: str) -> str | None:
        """Return the status of the latest visit of *step* if the record that is being handled is its receipt."""
        record = self.record
        if record is None or record.kind != RECEIPT:
            return None
        assert record.fields is not None, "a receipt has fields"
        about = record.fields
        if about["journey"] != self.journey.number or about["step"] != step:
            return None
        return about["status"] if about["visit"] == self.journey.visits.get(step) else None


class AtStep(InJourney):
    """One user at one step: the visit that steps get. `node` moves on with the journey."""

    __slots__ = ("branch", "node")

    def __init__(self, inside: InJourney, branch: Branch, node: Node) -> None:
        self.user_id = inside.user_id
        self.user = inside.user
        self.program = inside.program
        self.now = inside.now
        self.out = inside.out
        self.record = inside.record
        self.heard = inside.heard
        self.satisfied = inside.satisfied
        self.journey = inside.journey
        self.branch = branch
        self.node = node

    @property
    def step(self) -> str:
        """The id of the step."""
        return self.node.id

    def moved_by_event(self) -> None:
        """Note that the event that is being handled moves the journey."""
        assert self.record is not None, "nothing is heard at a wake-up"
        self.journey.event = self.heard
        self.journey.cause = (self.record.message_id, self.record.name)

    def try_out(self, arm: str, most: int, decide: Decide, *, keeps_fields: bool) -> str:
        """Let the user be in the experiment at this step, and return the arm to take: the winner's, if there is one."""
        user, journey = self.user, self.journey
        name = experiment_name(journey.flow, self.node.id)
        winner = self.register.join(name, self.user_id, user.seq, arm, most, decide)
        taken = arm if winner is None else winner
        if name not in user.trials:
            user.trials[name] = Trial(
                self.now,
                taken,
                journey.version,
                journey=journey.id,
                key=journey.key,
                cause=journey.cause,
                entry=journey.entry if keeps_fields else None,
                event=journey.event if keeps_fields else None,
            )
        return taken

    def write_profile(self, changes: dict[str, Any]) -> bool:
        """Write attributes of the profile, null removes; tell whether they were written: nothing too large is."""
        is_written = write_profile(self.user.profile, changes)
        self.out.too_large += not is_written
        return is_written

    def join(self, audience: str) -> bool:
        """Let the user be in *audience*, where a row that is there stays; tell whether the user is in it now."""
        is_in = join(self.user, audience)
        self.out.memberships_cut += not is_in
        return is_in

    def journal(
        self, kind: JournalKind, *, reason: str | None = None, detail: dict[str, Any] | None = None,
        cause: Cause | None = None,
    ) -> None:  # fmt: skip
        """Write a journal record of this step."""
        self.note(kind, reason=reason, detail=detail, cause=cause, step=self.node.id)

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
        journey, cause, step = self.journey, self.cause(), self.node.id
        visit = journey.visits[step]
        made = action_id(journey.id, step, visit)
        self.journal("sent", detail={"action_id": made, "channel": channel}, cause=cause)
        self.tally(SENT, channel)
        action = Action(
            action_id=made,
            channel=channel,
            user_id=self.user_id,
            to=to,
            flow=journey.flow,
            version=journey.version,
            journey_id=journey.id,
            step=step,
            visit=visit,
            template=template,
            vars=vars,
            category=category,
            at=format_ms(self.now),
            expires_at=None if expires_at_ms is None else format_ms(expires_at_ms),
            seq=self.user.seq,
            cause=cause,
        )
        self.out.actions.append(action)
        if self.out.keeper is not None:
            self.out.keeper.note(self.user_id, journey.number, action)
        if step in self.program.asked:
            journey.results[step] = []

    def postpone(self, channel: str, reason: SendReason, detail: dict[str, Any]) -> None:
        """Journal that a message is not sent on *channel* yet, with what was compared."""
        self.journal("postponed", reason=reason, detail={"channel": channel, **detail}, cause=self.cause())
        self.tally(POSTPONED, channel)

    def suppress(self, channel: str, reason: SendReason, detail: dict[str, Any]) -> None:
        """Journal that a message is not sent on *channel*, with what was compared."""
        self.journal("suppressed", reason=reason, detail={"channel": channel, **detail}, cause=self.cause())
        self.tally(SUPPRESSED, reason)
        asked = self.program.asked.get(self.node.id)
        if asked is not None:
            self.journey.results[self.node.id] = [SUPPRESSED] if SUPPRESSED in asked else []
