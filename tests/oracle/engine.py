"""The semantics of flows, naively: `simulate` in plain lists and dicts, as slow as it likes.

Every function names the sentence of flow-language.md, or the id in fine-print.md, that it implements. Nothing
here knows the product's code. What the oracle does not cover yet raises NotImplementedError.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.conditions import Fields, did_clauses, when_holds, where_holds
from tests.oracle.program import Flow, Step, take_apart
from tests.oracle.records import Record, read_lines
from tests.oracle.templates import Failed, Missing, is_template, render
from tests.oracle.values import (
    DAY_MS,
    anniversary,
    at_path,
    duration_ms,
    identity,
    is_number,
    key_text,
    next_clock,
    parse_iso,
    parse_time,
    same,
    signed_duration_ms,
    time_of_day,
    to_iso,
    unit,
    zone_of,
)

HORIZON_MS = 400 * DAY_MS  # cli.md: "until nothing waits, at most 400 days"; C8: "The 400th day is included."
VISITS_MAX = 1000  # Steps, `goto`: "at most 1000 visits of a step per journey".
DUPLICATE_MS = DAY_MS  # T3

# Message rules: "Default addresses: sms `phone`, ..; webhook, kafka, coupon and ads need none."
ADDRESSES = {"sms": "phone", "email": "email", "push": "push_token", "wechat": "openid"}


@dataclass
class Result:
    """What `nudge simulate` writes, as JSON values in its order."""

    actions: list[dict[str, Any]]
    journal: list[dict[str, Any]]
    dead_letters: list[dict[str, Any]]


@dataclass
class Journey:
    """One user's passage; open while it stands in a `wait` or `wait_for`."""

    flow: Flow
    user_id: str
    key: Any  # The value of the entry key; None without one.
    id: str
    number: int  # Order of entry over all users and flows.
    entered_ms: int
    trigger: Record
    moved_by: Record  # O5: "the trigger, then the event that satisfied a `wait_for`".
    open: bool = True
    standing_in: Step | None = None
    wake_at: int = -1
    label_counts: dict[str, int] = field(default_factory=dict)
    silent_since: int = 0  # S28: when the latest event came that a `without` names, or the step began.
    visits: dict[str, int] = field(default_factory=dict)
    since_entry: list[int] = field(default_factory=list)  # Events counted, per `did` clause of the flow.


@dataclass
class User:
    id: str
    profile: dict[str, Any] = field(default_factory=dict)
    history: list[Record] = field(default_factory=list)  # Every event that the counters took in.
    journeys: list[Journey] = field(default_factory=list)  # Every one that ever began.
    taken: dict[str, int] = field(default_factory=dict)  # Stream time by `message_id`.
    records: int = 0  # The last `seq`.


@dataclass
class Counted:
    """What one counter of a trigger holds: times of events, by (flow, alternative, user, key)."""

    flow: Flow
    alternative: int
    user_id: str
    key: Any
    times: list[int] = field(default_factory=list)


@dataclass
class Closed:
    """How a begun step left the journey: over, or holding."""


class World:
    def __init__(self, flows: list[Flow], config: dict[str, Any], *, forgetful: bool) -> None:
        self.flows = flows
        self.channels: dict[str, Any] = config.get("channels") or {}
        self.forgetful = forgetful
        self.users: dict[str, User] = {}
        self.counters: list[Counted] = []
        self.journeys_begun = 0
        self.actions: list[dict[str, Any]] = []
        self.journal: list[dict[str, Any]] = []
        self.left_a_trace = False

    # -- the journal

    def note(
        self,
        kind: str,
        user: User,
        flow: Flow,
        journey: Journey | None,
        now: int,
        *,
        cause: Record,
        step: str | None = None,
        reason: str | None = None,
        detail: dict[str, Any] | None = None,
    ) -> int:
        """records.md, Journal: "`seq` counts a user's journal records from 1 without gaps"; C7: optional
        fields are absent. Return the `seq`.
        """
        user.records += 1
        record: dict[str, Any] = {
            "at": to_iso(now),
            "user_id": user.id,
            "seq": user.records,
            "flow": flow.name,
            "version": flow.version,
            "journey_id": journey.id if journey else None,  # J5
            "kind": kind,
        }
        optional = {"step": step, "reason": reason, "detail": detail, "cause": cause_of(cause)}
        self.journal.append(record | {name: value for name, value in optional.items() if value is not None})
        return user.records

    def tell(self, kind: str, journey: Journey, now: int, **more: Any) -> int:
        """Note something that a journey did; O5: `cause` is the event that moved it last."""
        user = self.users[journey.user_id]
        return self.note(kind, user, journey.flow, journey, now, cause=journey.moved_by, **more)

    # -- time

    def fire_until(self, now: int, user_id: str | None) -> None:
        """Fire wake-ups in order of time and user, up to *now*; at *now* itself up to *user_id* (None:
        everybody).

        cli.md: "Timers fire in order of due time, before an event with the same or a later stream time"; O3.
        Order of things, 1: "in order of due time, then priority, then journey entry, each acting as of its
        due time".
        """
        while True:
            due = [
                journey
                for user in self.users.values()
                for journey in user.journeys
                if journey.open
                and (journey.wake_at < now or (journey.wake_at == now and (user_id is None or user.id <= user_id)))
            ]
            if not due:
                return
            first = min(due, key=lambda j: (j.wake_at, j.user_id, -j.flow.priority, j.number))
            self.wake(first, first.wake_at)

    def wake(self, journey: Journey, now: int) -> None:
        step = journey.standing_in
        assert step is not None
        if step.kind == "wait":
            asked = without_of(step)
            if asked is not None:
                until = journey.silent_since + duration_ms(step.written["wait"]["for"])
                if until > now:  # "One `waiting` record, with the first `until`".
                    journey.wake_at = until
                    return
            self.go_on(journey, step.after, now)
            return
        self.tell("moved", journey, now, step=step.id, reason="timeout")  # J3
        self.go_on(journey, step.first_of.get("timeout", step.after), now)

    # -- one record

    def take(self, record: Record) -> None:
        """Order of things, for one record of one user; its wake-ups (1) have fired."""
        user = self.users.setdefault(record.user_id, User(record.user_id))
        now = record.now
        # 2. "Duplicates are dropped." T15: "Only a `message_id` that was sent takes part in this".
        if record.message_id_sent:
            taken = user.taken.get(record.message_id)
            if taken is not None and now - taken < DUPLICATE_MS:  # T3: "at exactly 24 h it is new".
                return
            user.taken[record.message_id] = now
        self.left_a_trace = bool(record.traits)
        merge(user.profile, record.traits)
        if record.event is not None:
            self.take_event(user, record, now)
        if self.forgetful and not self.left_a_trace:
            user.taken.pop(record.message_id, None)  # T16

    def take_event(self, user: User, event: Record, now: int) -> None:
        # 2. "Counters take the event in." Those of `did`:
        user.history.append(event)
        open_journeys = [journey for journey in user.journeys if journey.open]
        for journey in open_journeys:
            for number, clause in enumerate(journey.flow.clauses):
                if "within" not in clause and self.concerns(journey, clause, event, now):
                    journey.since_entry[number] += 1
        for flow in self.flows:  # A `did` within a window leaves its trace here; what it counts, `count_of` says.
            if flow.state in ("live", "paused"):  # W16
                for clause in [*flow.clauses, *entry_clauses(flow)]:
                    if "within" in clause:
                        self.matches(flow, clause, event, now, None)
        # .. and those of triggers.
        fired = [flow for flow in self.entering_flows() if self.fires(flow, event, now)]
        # 3. "Each open journey, by priority downwards, then entry".
        for journey in sorted(open_journeys, key=lambda j: (-j.flow.priority, j.number)):
            self.show(journey, event, now)
        # 4. "Flows whose trigger fires, by `priority` downwards, then name".
        for flow in sorted(fired, key=lambda f: (-f.priority, f.name)):
            self.enter(flow, user, event, now)

    def matches(self, flow: Flow, asked: dict[str, Any], event: Record, now: int, fields: Fields | None) -> bool:
        """Whether *event* is the one that a trigger, `did`, exit rule or label asks for."""
        if not asks_for(asked, event, now, fields, flow):
            return False
        self.left_a_trace = True
        return True

    def concerns(self, journey: Journey, asked: dict[str, Any], event: Record, now: int) -> bool:
        """As `matches`, for a journey.

        `key`: "`wait_for`, `exit` and `did since entry` see only events whose property has the same value".
        W18: "`event` is the event that moved the journey last, not the one being judged; templates are
        evaluated when the judged event arrives".
        """
        if journey.flow.key is not None and not same(key_of(journey.flow, event), journey.key):
            return False
        return self.matches(journey.flow, asked, event, now, self.fields(journey, now))

    def fields(self, journey: Journey, now: int) -> Fields:
        return template_fields(
            self.users[journey.user_id].profile, journey.trigger, journey.moved_by, journey.flow, now
        )

    # -- triggers and entry

    def entering_flows(self) -> list[Flow]:
        """E1: per flow the highest `live` version; without one the highest `paused`, which only refuses."""
        entering = []
        for name in {flow.name for flow in self.flows}:
            versions = [flow for flow in self.flows if flow.name == name]
            for state in ("live", "paused"):
                of_state = [flow for flow in versions if flow.state == state]
                if of_state:
                    entering.append(max(of_state, key=lambda flow: flow.version))
                    break
        return entering

    def fires(self, flow: Flow, event: Record, now: int) -> bool:
        """W3: "each alternative has its own counter; all that fire use up theirs; .. one trigger"."""
        numbers = range(len(flow.alternatives))
        fired = [number for number in numbers if self.alternative_fires(flow, number, event, now)]
        return bool(fired)

    def alternative_fires(self, flow: Flow, number: int, event: Record, now: int) -> bool:
        """Trigger: "`count` fires on the event that makes the number of matching events in the rolling window
        `(now - within, now]` reach `at_least`; firing uses those events up".
        """
        alternative = flow.alternatives[number]
        if not self.matches(flow, alternative, event, now, None):
            return False
        count = alternative.get("count")
        if count is None:
            return True  # T14
        counter = self.counter(flow, number, event)
        counter.times.append(event.stands_at)
        if "within" in count:
            counter.times = [at for at in counter.times if now - duration_ms(count["within"]) < at <= now]
        if len(counter.times) < count["at_least"]:
            return False
        counter.times = []
        return True

    def counter(self, flow: Flow, number: int, event: Record) -> Counted:
        """W4: "`count` in a flow with `key` counts per (user, key value); events without the key are a group
        of their own".
        """
        key = key_of(flow, event)
        for counter in self.counters:
            if (counter.flow is flow and counter.alternative == number and counter.user_id == event.user_id) and (
                same(counter.key, key) or (counter.key is None and key is None)
            ):
                return counter
        self.counters.append(Counted(flow, number, event.user_id, key))
        return self.counters[-1]

    def enter(self, flow: Flow, user: User, event: Record, now: int) -> None:
        """Order of things, 4: "entry checks, then the journey runs until it waits"."""
        key = key_of(flow, event)
        refusal = self.refusal(flow, user, key, event, now)
        if refusal is not None:
            self.note("refused", user, flow, None, now, cause=event, reason=refusal)
            return
        self.journeys_begun += 1
        journey = Journey(
            flow=flow,
            user_id=user.id,
            key=key,
            id=identity(flow.name, user.id, "" if key is None else key_text(key), event.message_id),
            number=self.journeys_begun,
            entered_ms=now,
            trigger=event,
            moved_by=event,
            since_entry=[0 for _ in flow.clauses],
        )
        user.journeys.append(journey)
        self.tell("entered", journey, now)
        self.go_on(journey, flow.first, now)

    def refusal(self, flow: Flow, user: User, key: Any, event: Record, now: int) -> str | None:
        """Entry: "Entry checks run in this order: paused, active period, `key` present, `when`, `reentry`,
        `concurrent`, `limit`, `holdout`."
        """
        if flow.state == "paused":
            return "paused"
        if not in_active_period(flow, now):
            return "inactive"
        if flow.key is not None and key is None:
            return "no_key"
        fields = template_fields(user.profile, event, event, flow, now)
        count_of = lambda clause: self.rolling_count(user, flow, clause, now)  # noqa: E731
        if not when_holds(flow.entry.get("when"), flow.written, now, fields, count_of):
            return "condition"
        # E2: "`reentry`, `concurrent` and `limit` are over all versions of the flow."
        of_flow = [j for one in self.users.values() for j in one.journeys if j.flow.name == flow.name]
        mine = [j for j in of_flow if j.user_id == user.id and (flow.key is None or same(j.key, key))]
        if not may_reenter(flow.entry.get("reentry", "always"), [j.entered_ms for j in mine], now):
            return "reentry"
        if len([j for j in mine if j.open]) >= flow.entry.get("concurrent", 1):
            return "already_inside"
        if "limit" in flow.entry and len(of_flow) >= flow.entry["limit"]:
            return "limit"
        if unit(flow.name, "holdout", user.id) < flow.holdout:
            return "holdout"
        return None

    # -- an event and an open journey

    def show(self, journey: Journey, event: Record, now: int) -> None:
        """Order of things, 3: "exit rules; else the `wait_for` .. it stands in"."""
        for rule in journey.flow.written.get("exit") or []:
            if self.concerns(journey, rule, event, now):
                if rule.get("goal", False):
                    self.tell("converted", journey, now, reason=rule.get("label"))  # J4
                self.tell("exited", journey, now, reason=rule.get("label"))
                journey.open = False
                return
        step = journey.standing_in
        if step is None:
            return
        asked = without_of(step)
        if asked is not None:  # "the events it hears move nothing, are no `event` or `cause`, and leave no record"
            names = asked["event"] if isinstance(asked["event"], list) else [asked["event"]]
            for name in names:
                if self.concerns(journey, {**asked, "event": name}, event, now):
                    journey.silent_since = now
        if step.kind != "wait_for":
            return
        # S10: "every label counts the event, then the first satisfied one as written wins".
        for label, asked in step.written["wait_for"].items():
            if self.concerns(journey, asked, event, now):
                journey.label_counts[label] += 1
        for label, asked in step.written["wait_for"].items():
            if journey.label_counts[label] >= asked.get("at_least", 1):
                journey.moved_by = event  # O5
                self.tell("moved", journey, now, step=step.id, reason=label)  # S11
                self.go_on(journey, step.first_of.get(label, step.after), now)
                return

    # -- steps

    def go_on(self, journey: Journey, step_id: str | None, now: int) -> None:
        """Run the journey from a step until it waits or is over.

        J6: "no reason after the last step; .. Its `step` is .. the last one that was begun".
        """
        last_begun = journey.standing_in.id if journey.standing_in else None
        journey.standing_in = None
        while step_id is not None:
            step = journey.flow.steps[step_id]
            last_begun = step_id
            journey.visits[step_id] = journey.visits.get(step_id, 0) + 1
            if journey.visits[step_id] > VISITS_MAX:  # S20
                self.tell("failed", journey, now, step=step_id, reason="loop")
                journey.open = False
                return
            goes_to = self.begin(journey, step, now)
            if isinstance(goes_to, Closed):
                return
            step_id = goes_to
        self.end(journey, now, step=last_begun)

    def end(self, journey: Journey, now: int, *, step: str | None, reason: str | None = None) -> Closed:
        self.tell("ended", journey, now, step=step, reason=reason)
        journey.open = False
        return Closed()

    def hold(self, journey: Journey, step: Step, until: int, now: int) -> Closed:
        """J2: "`waiting` once whenever a branch comes to stand in `wait`, `wait_for` .., with `step` and
        `detail.until`".
        """
        journey.standing_in, journey.wake_at = step, until
        self.tell("waiting", journey, now, step=step.id, detail={"until": to_iso(until)})
        return Closed()

    def begin(self, journey: Journey, step: Step, now: int) -> str | Closed | None:
        """Begin one step; return the id of the next, None after the last, or `Closed`."""
        if step.kind == "send":
            return self.send(journey, step, now)
        if step.kind == "set":
            return self.set(journey, step, now)
        if step.kind == "wait":
            return self.wait(journey, step, now)
        if step.kind == "wait_for":
            journey.label_counts = dict.fromkeys(step.written["wait_for"], 0)  # S10: "anew at each visit".
            return self.hold(journey, step, now + duration_ms(step.written["timeout"]), now)
        if step.kind == "branch":
            return self.branch(journey, step, now)
        if step.kind == "goto":
            return str(step.written["goto"])
        return self.end(journey, now, step=step.id, reason=step.written["end"])  # J6: "the label of `end`".

    def branch(self, journey: Journey, step: Step, now: int) -> str | None:
        """`branch`: "first match wins; no match and no `else`: go on"; J3: the reasons."""
        user = self.users[journey.user_id]

        def count_of(clause: dict[str, Any]) -> int:
            if "within" in clause:
                return self.rolling_count(user, journey.flow, clause, now)
            return journey.since_entry[[one is clause for one in journey.flow.clauses].index(True)]

        for number, arm in enumerate(step.written["branch"]):
            if "else" in arm:
                reason, inner = "else", "else"
            elif when_holds(arm["when"], journey.flow.written, now, self.fields(journey, now), count_of):
                reason, inner = arm.get("label", str(number)), str(number)
            else:
                continue
            self.tell("moved", journey, now, step=step.id, reason=reason)
            return step.first_of[inner]
        self.tell("moved", journey, now, step=step.id, reason="none")
        return step.after

    def rolling_count(self, user: User, flow: Flow, clause: dict[str, Any], now: int) -> int:
        """`did`: "the number of such events in the rolling window `within` that ends now"."""
        start = now - duration_ms(clause["within"])
        return sum(
            start < event.stands_at <= now and asks_for(clause, event, event.now, None, flow) for event in user.history
        )

    def set(self, journey: Journey, step: Step, now: int) -> str | None:
        """`set`: "write profile attributes; `null` removes"; J7: one record, also when nothing changed."""
        fields = self.fields(journey, now)
        changes = {}
        for name, written in step.written["set"].items():
            try:
                changes[name] = render(written, fields)
            except (Missing, Failed):
                continue  # S7: "leaves that attribute as it is".
        merge(self.users[journey.user_id].profile, changes)
        self.tell("set", journey, now, step=step.id, detail={"set": copy.deepcopy(changes)})
        return step.after

    def wait(self, journey: Journey, step: Step, now: int) -> str | Closed | None:
        written = step.written["wait"]
        if isinstance(written, str):
            written = {"for": written}  # S9: "`{for: 2h}` equals `2h`".
        zone = zone_of(self.users[journey.user_id].profile, journey.flow.written)
        days = written.get("days")
        if "for" in written:
            until = now + duration_ms(written["for"])
            journey.silent_since = now
            if "at" in written:  # "the first such local time at or after now + 7d"
                clock = time_of_day(written["at"])
                assert clock is not None
                until = next_clock(clock, zone, days, at_or_after_ms=until)
            return self.hold(journey, step, until, now)
        if is_template(written["until"]):
            return self.wait_for_date(journey, step, written, now)
        clock = time_of_day(written["until"])
        if clock is not None:  # "next such local time, strictly later"
            return self.hold(journey, step, next_clock(clock, zone, days, at_or_after_ms=now + 1), now)
        until_moment = parse_iso(written["until"], zone)  # T2: "in `wait.until`: the user's zone".
        assert until_moment is not None
        return self.hold(journey, step, until_moment, now) if until_moment > now else step.after

    def wait_for_date(self, journey: Journey, step: Step, written: dict[str, Any], now: int) -> str | Closed | None:
        """S6: "text as in T2, or a number of epoch milliseconds; anything else is missing"."""
        zone = zone_of(self.users[journey.user_id].profile, journey.flow.written)
        try:
            value = render(written["until"], self.fields(journey, now))
        except (Missing, Failed):
            value = None
        offset = signed_duration_ms(written.get("offset", "+0s"))  # "`offset` is absolute time."
        clock = time_of_day(written["at"]) if "at" in written else None
        yearly = written.get("yearly", False)
        moment = anniversary(value, zone, clock, offset, now) if yearly else parse_time(value, zone)
        if moment is None:
            if written["if_missing"] == "end":
                return self.end(journey, now, step=step.id, reason="missing")
            return step.after
        if yearly:  # S27: "`if_past` does not apply".
            return self.hold(journey, step, moment, now)
        until = moment + offset
        if clock is not None:  # S26: "the first such local time at or after the moment (after `offset`)"
            until = next_clock(clock, zone, written.get("days"), at_or_after_ms=until)
        if until < now and written.get("if_past", "skip") == "end":
            return self.end(journey, now, step=step.id, reason="past")
        return self.hold(journey, step, until, now) if until > now else step.after  # "equal goes on"

    def send(self, journey: Journey, step: Step, now: int) -> str | Closed | None:
        """Message rules: "Order of checks for a send: .., missing address, missing variable, .."."""
        written = step.written
        for name in ("postpone",):
            if name in written:
                raise NotImplementedError(name)
        try:
            to = self.address(journey, step, now)
        except Failed:
            return self.suppress(journey, step, "template_error", now)
        except Missing:
            return self.suppress(journey, step, "no_address", now)
        variables = {}
        for name, value in (written.get("vars") or {}).items():  # L6: "in written order; the first .. decides"
            try:
                variables[name] = render(value, self.fields(journey, now))
            except Failed:
                return self.suppress(journey, step, "template_error", now)
            except Missing:
                return self.suppress(journey, step, "missing_variable", now)
        visit = journey.visits[step.id]
        action_id = identity(journey.id, step.id, str(visit))
        seq = self.tell("sent", journey, now, step=step.id, detail={"action_id": action_id})
        expires = written.get("expires")
        self.actions.append(
            {
                "action_id": action_id,
                "channel": written["send"],
                "user_id": journey.user_id,
                "to": to,
                "flow": journey.flow.name,
                "version": journey.flow.version,
                "journey_id": journey.id,
                "step": step.id,
                "visit": visit,
                "template": written["template"],
                "vars": copy.deepcopy(variables),
                "category": written.get("category", "marketing"),
                "at": to_iso(now),
                "expires_at": to_iso(now + duration_ms(expires)) if expires else None,
                "seq": seq,
                "cause": cause_of(journey.moved_by),
            }
        )
        return step.after

    def address(self, journey: Journey, step: Step, now: int) -> str | None:
        """`to?` (default: the channel's address attribute); S2, M10. Raise `Missing` or `Failed`."""
        channel = step.written["send"]
        if "to" in step.written:
            to = render(step.written["to"], self.fields(journey, now))
        else:
            attribute = ADDRESSES.get(channel)
            entry = self.channels.get(channel) or {}
            if "address" in entry:
                attribute = entry["address"]
            if attribute is None:
                return None
            to = at_path(self.users[journey.user_id].profile, attribute.split("."))
        if not isinstance(to, str) or not to:  # S2: "An address is a non-empty text."
            raise Missing
        return to

    def suppress(self, journey: Journey, step: Step, reason: str, now: int) -> str | Closed | None:
        """S4: "`if_missing: end` journals `suppressed`, then `ended` with the same reason; it is about
        address and variables; a `template_error` goes on".
        """
        self.tell("suppressed", journey, now, step=step.id, reason=reason)
        if step.written.get("if_missing", "skip") == "end" and reason != "template_error":
            return self.end(journey, now, step=step.id, reason=reason)
        return step.after

    # -- the end

    def assert_conservation(self) -> None:
        """records.md: "per flow: entered = ended + exited + failed + inside", and every one inside has a
        wake-up.
        """
        for flow in self.flows:
            told = [r["kind"] for r in self.journal if (r["flow"], r["version"]) == (flow.name, flow.version)]
            inside = [j for user in self.users.values() for j in user.journeys if j.open and j.flow is flow]
            over = told.count("ended") + told.count("exited") + told.count("failed")
            assert told.count("entered") == over + len(inside), flow.name
            assert all(j.standing_in is not None for j in inside), flow.name


def asks_for(asked: dict[str, Any], event: Record, now: int, fields: Fields | None, flow: Flow) -> bool:
    """Whether *event* has the name and fulfils the `where` of a trigger, `did`, exit rule or label."""
    return asked["event"] == event.event and where_holds(
        asked.get("where"), event.properties, now, fields, flow.written
    )


def merge(profile: dict[str, Any], changes: dict[str, Any]) -> None:
    """T10: "Traits merge shallowly: a nested object replaces the old one; null removes"."""
    for name, value in changes.items():
        if value is None:
            profile.pop(name, None)
        else:
            profile[name] = copy.deepcopy(value)


def cause_of(event: Record) -> dict[str, Any]:
    return {"message_id": event.message_id, "event": event.event}


def template_fields(profile: dict[str, Any], trigger: Record, moved_by: Record, flow: Flow, now: int) -> Fields:
    """L4: "`entry.x` and `event.x` are properties; `flow` is the flow's name; `now` is stream time"."""
    return {
        "profile": profile,
        "entry": trigger.properties,
        "event": moved_by.properties,
        "flow": flow.name,
        "now": to_iso(now),
    }


def key_of(flow: Flow, event: Record) -> Any:
    """E3: "A key value is a non-empty text, number or boolean"; None for anything else, or for a flow without
    key.
    """
    if flow.key is None:
        return None
    value = at_path(event.properties, flow.key.split("."))
    if isinstance(value, bool) or is_number(value) or (isinstance(value, str) and value):
        return value
    return None


def entry_clauses(flow: Flow) -> list[dict[str, Any]]:
    return did_clauses(flow.entry.get("when"))


def in_active_period(flow: Flow, now: int) -> bool:
    """`active`: "users enter only in `[from, until)`"; V11: "without an offset .. in the flow's `timezone`"."""
    active = flow.written.get("active") or {}
    zone = zone_of({}, flow.written)
    start, stop = (parse_iso(active[name], zone) if name in active else None for name in ("from", "until"))
    return (start is None or start <= now) and (stop is None or now < stop)


def may_reenter(rule: Any, entries: list[int], now: int) -> bool:
    """`reentry`: "`never`, `always`, `{after: 7d}` (since the last entry), `{at_most, within}`"; E4."""
    if rule == "always" or not entries:
        return True
    if rule == "never":
        return False
    if "after" in rule:
        return now - max(entries) >= duration_ms(rule["after"])
    recent = [at for at in entries if now - duration_ms(rule["within"]) < at <= now]
    return bool(len(recent) < rule["at_most"])


def simulate(
    flows: list[dict[str, Any]],
    lines: list[bytes],
    *,
    name: str = "events.jsonl",
    until_ms: int | None = None,
    config: dict[str, Any] | None = None,
    forgetful: bool = False,
) -> Result:
    """Run *flows* over the *lines* of an events file in virtual time.

    Args:
        name: base name of the events file, for default ids and dead letters.
        until_ms: cli.md, `--until`: time runs on to it after the last record, itself included.
        config: what `nudge.yaml` says; only `channels` with `topic` and `address` are known here.
        forgetful: remember no `message_id` of an event that satisfied nothing; T16 leaves that open.
    """
    refuse_unknown(config or {})
    world = World([take_apart(copy.deepcopy(flow)) for flow in flows], config or {}, forgetful=forgetful)
    read = read_lines(lines, name)
    # O3: "In one instant: user by user in code-point order; .. wake-ups, .. then records in file order."
    for record in sorted(read.records, key=lambda r: (r.now, r.user_id)):
        world.fire_until(record.now, record.user_id)
        world.take(record)
    last = max([record.now for record in read.records], default=0)
    world.fire_until(last + HORIZON_MS if until_ms is None else max(last, until_ms), None)
    world.assert_conservation()
    # simulate: "in order of time, then user, then position"; X2: "position as produced".
    world.actions.sort(key=lambda action: (action["at"], action["user_id"]))
    world.journal.sort(key=lambda record: (record["at"], record["user_id"]))
    return Result(world.actions, world.journal, read.dead_letters)


def without_of(step: Step) -> dict[str, Any] | None:
    """The `without` of a wait that has one."""
    written = step.written["wait"] if step.kind == "wait" else None
    return written.get("without") if isinstance(written, dict) else None


def refuse_unknown(config: dict[str, Any]) -> None:
    rules = set(config) - {"channels"}
    for entry in (config.get("channels") or {}).values():
        rules |= set(entry or {}) - {"topic", "address"}
    if rules:
        raise NotImplementedError(f"message rules: {sorted(rules)}")
