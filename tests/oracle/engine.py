"""The semantics of flows, naively: `simulate` in plain lists and dicts, as slow as it likes.

Every function names the sentence of flow-language.md, or the id in fine-print.md, that it implements. Nothing
here knows the product's code.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tests.oracle.conditions import Asked, Fields, did_clauses, when_holds, where_holds
from tests.oracle.program import Flow, Step, take_apart
from tests.oracle.records import Record, read_lines
from tests.oracle.rules import Send, caps_allow, holding, listed, quiet_until
from tests.oracle.schedules import planned_times
from tests.oracle.templates import Failed, Missing, is_template, render
from tests.oracle.values import (
    DAY_MS,
    anniversary,
    at_path,
    duration_ms,
    identity,
    is_number,
    key_text,
    names_of,
    next_clock,
    parse_iso,
    parse_time,
    same,
    share,
    signed_duration_ms,
    time_of_day,
    to_iso,
    unit,
    zone_of,
)

HORIZON_MS = 400 * DAY_MS  # cli.md: "until nothing waits, at most 400 days"; C8: "The 400th day is included."
RUNS_MAX = 1000
VISITS_MAX = 1000  # Steps, `goto`: "at most 1000 visits of a step per journey".
DUPLICATE_MS = DAY_MS  # T3
RECEIPT_MS = 30 * DAY_MS  # R1: "whose journey closed more than 30 days ago".

# Message rules: "Default addresses: sms `phone`, ..; webhook, kafka, coupon and ads need none."
ADDRESSES = {"sms": "phone", "email": "email", "push": "push_token", "wechat": "openid"}


@dataclass
class Result:
    """What `nudge simulate` writes, as JSON values in its order."""

    actions: list[dict[str, Any]]
    journal: list[dict[str, Any]]
    dead_letters: list[dict[str, Any]]


@dataclass(eq=False)
class Branch:
    """One way of a journey: all of it, or an arm of a fork; it stands in a step unless it runs."""

    place: tuple[int, ...] = ()  # The numbers of the arms that lead to it: so branches sort in written order.
    parent: "Branch | None" = None
    arms_left: int = 0  # Of the fork in which it stands.
    standing_in: Step | None = None
    wake_at: int = -1
    begun_at: int = -1  # When the step began.
    next: str | None = None  # Where an arm of `times` begins.
    label_counts: dict[str, int] = field(default_factory=dict)
    silent_since: int = 0  # S28: when the latest event came that a `without` names, or the step began.


@dataclass(eq=False)
class Journey:
    """One user's passage; open while a branch stands in a step."""

    flow: Flow
    user_id: str
    key: Any  # The value of the entry key; None without one.
    id: str
    number: int  # Order of entry over all users and flows.
    entered_ms: int
    trigger: Record
    moved_by: Record  # O5: "the trigger, then the event that satisfied a `wait_for`, or the receipt ..".
    open: bool = True
    closed_ms: int = -1
    branches: list[Branch] = field(default_factory=list)  # Those that stand in a step, but for forks.
    last_begun: str | None = None
    visits: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, "Sent | str"] = field(default_factory=dict)  # R7: of the latest visit of each send.
    since_entry: list[int] = field(default_factory=list)  # Events counted, per `did` clause of the flow.

    def standing(self) -> list[Branch]:
        return sorted(self.branches, key=lambda branch: branch.place)


@dataclass(eq=False)
class Sent:
    """An action, and the statuses of its receipts as they came."""

    action: dict[str, Any]
    journey: Journey
    statuses: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Trial:
    """A user's first passage through an experiment."""

    step: Step
    journey: Journey
    arm: str
    at: int
    counts: bool  # Whether it is one of the N.
    converted: bool = False


@dataclass(eq=False)
class Experiment:
    """S16: over all versions of a flow, by step id."""

    trials: dict[str, Trial] = field(default_factory=dict)  # By user.
    winner: str | None = None


@dataclass(eq=False)
class Runs:
    """What is known of the runs of a flow's audience trigger."""

    planned: Iterator[int]
    next_at: int | None
    done: int = 0
    last_at: int | None = None  # Of the last one that was not skipped.


@dataclass
class User:
    id: str
    profile: dict[str, Any] = field(default_factory=dict)
    history: list[Record] = field(default_factory=list)  # Every event that the counters took in.
    journeys: list[Journey] = field(default_factory=list)  # Every one that ever began.
    taken: dict[str, int] = field(default_factory=dict)  # Stream time by `message_id`.
    audiences: dict[str, dict[str, Any]] = field(default_factory=dict)  # The row by audience.
    sends: list[Send] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
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


class TooManyRuns(Exception):
    """A schedule runs so often that all of it would take hours here, where every instant looks at everybody."""


class World:
    def __init__(self, flows: list[Flow], config: dict[str, Any], *, forgetful: bool) -> None:
        self.flows = flows
        self.config = config
        self.channels: dict[str, Any] = config.get("channels") or {}
        self.forgetful = forgetful
        self.users: dict[str, User] = {}
        self.counters: list[Counted] = []
        self.experiments: dict[tuple[str, str], Experiment] = {}
        self.updates: dict[str, int] = {}  # U4: when an audience last had a membership record.
        self.runs: dict[str, Runs] = {}  # By flow.
        self.runs_count = 0
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
        cause: Record | None,
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
        optional = {"step": step, "reason": reason, "detail": detail, "cause": cause and cause_of(cause)}
        self.journal.append(record | {name: value for name, value in optional.items() if value is not None})
        return user.records

    def tell(self, kind: str, journey: Journey, now: int, **more: Any) -> int:
        """Note something that a journey did; O5: `cause` is the event that moved it last."""
        user = self.users[journey.user_id]
        return self.note(kind, user, journey.flow, journey, now, cause=journey.moved_by, **more)

    # -- time

    def run(self, records: list[Record], until_ms: int | None) -> None:
        """Live through all there is, instant by instant.

        O3: "In one instant: user by user in code-point order; for each: wake-ups, then audience runs by priority and
        name; then records in file order."
        """
        if not records:
            return
        last = max(record.now for record in records)
        end = last + HORIZON_MS if until_ms is None else max(last, until_ms)
        self.plan_runs(records[0].now, end)
        ahead = list(records)  # In order of time, as they stand in the file.
        while True:
            times = [branch.wake_at for _, branch in self.standing()]
            times += [runs.next_at for runs in self.runs.values() if runs.next_at is not None]
            times += [ahead[0].now] if ahead else []
            now = min(times, default=end + 1)
            if now > end:
                return
            flows = self.runs_at(now)
            self.runs_count += len(flows)
            if self.runs_count > RUNS_MAX:
                raise TooManyRuns
            at_once = 0
            while at_once < len(ahead) and ahead[at_once].now == now:
                at_once += 1
            come, ahead = ahead[:at_once], ahead[at_once:]
            for record in come:
                # U4. A membership that is repeated (T3) is an update, too: who reads it knows nothing of other records.
                if record.kind in ("completion", "membership"):
                    self.updates[record.fields["audience"]] = now
            come = [record for record in come if record.kind != "completion"]
            user_ids = {record.user_id for record in come}
            user_ids |= {journey.user_id for journey, branch in self.standing() if branch.wake_at <= now}
            user_ids |= {user.id for user in self.users.values() if user.audiences and flows}
            for user_id in sorted(user_ids):
                self.fire(user_id, now)
                for flow in flows:
                    self.enter_member(flow, user_id, now)
                for record in come:
                    if record.user_id == user_id:
                        self.take(record)

    def standing(self) -> list[tuple[Journey, Branch]]:
        """Every branch that waits for a wake-up."""
        journeys = [journey for user in self.users.values() for journey in user.journeys if journey.open]
        return [(journey, branch) for journey in journeys for branch in journey.branches]

    def fire(self, user_id: str, now: int) -> None:
        """Order of things, 1: "in order of due time, then priority, then journey entry"; O6: "after entry, by branch
        in written order".
        """
        while True:
            due = [(j, b) for j, b in self.standing() if j.user_id == user_id and b.wake_at <= now]
            if not due:
                return
            journey, branch = min(due, key=lambda d: (d[1].wake_at, -d[0].flow.priority, d[0].number, d[1].place))
            self.wake(journey, branch, branch.wake_at)

    def wake(self, journey: Journey, branch: Branch, now: int) -> None:
        step = branch.standing_in
        assert step is not None
        if step.kind == "wait":
            asked = without_of(step)
            if asked is not None:
                until = branch.silent_since + duration_ms(step.written["wait"]["for"])
                if until > now:  # "One `waiting` record, with the first `until`".
                    branch.wake_at = until
                    return
            self.go_on(journey, branch, step.after, now)
        elif step.kind == "times":
            self.go_on(journey, branch, branch.next, now)
        elif step.kind == "send":  # "then all checks run again"
            goes_to = self.try_to_send(journey, branch, step, now)
            if not isinstance(goes_to, Closed):
                self.go_on(journey, branch, goes_to, now)
        else:
            way = "timeout" if step.kind == "wait_for" else "other"
            self.tell("moved", journey, now, step=step.id, reason=way)  # J3
            self.go_on(journey, branch, step.first_of.get(way, step.after), now)

    # -- audience runs

    def plan_runs(self, beginning: int, end: int) -> None:
        """U10: "Only the entering version's schedule runs"."""
        for flow in self.entering_flows():
            if flow.audiences:
                schedule, zone = flow.written["trigger"]["schedule"], zone_of({}, flow.written)
                planned = planned_times(schedule, zone, beginning, end)
                self.runs[flow.name] = Runs(planned, next(planned, None))

    def runs_at(self, now: int) -> list[Flow]:
        """The flows that have a run now, by priority and name, those that skip it left out."""
        found = []
        for flow in self.entering_flows():
            runs = self.runs.get(flow.name)
            if runs is None or runs.next_at != now:
                continue
            trigger = flow.written["trigger"]
            runs.next_at = next(runs.planned, None)
            last = runs.last_at
            # U4: "every audience must have had a membership record .. at or after the last run".
            is_unchanged = last is not None and any(self.updates.get(name, -1) < last for name in flow.audiences)
            if is_unchanged and trigger.get("skip_unchanged", False):
                continue
            runs.last_at = now
            runs.done += 1  # U5: "counts runs that were not skipped".
            if runs.done == trigger["schedule"].get("runs"):
                runs.next_at = None
            found.append(flow)
        return sorted(found, key=lambda flow: (-flow.priority, flow.name))

    def enter_member(self, flow: Flow, user_id: str, now: int) -> None:
        """U9: "A user is a member at a run if so at that instant, after the wake-ups of that instant"."""
        user = self.users.get(user_id)
        if user is None:
            return
        for name in flow.audiences:  # U3: "the first listed one that the user is in gives row, `message_id` and key".
            if name in user.audiences:
                # O5: "`cause` is `{message_id: "<audience>@<time>", event: null}` and `event` is the row".
                run = Record(
                    kind="run",
                    user_id=user_id,
                    event=None,
                    message_id=f"{name}@{to_iso(now)}",
                    message_id_sent=False,
                    own_time_ms=None,
                    received_ms=None,
                    properties=copy.deepcopy(user.audiences[name]),
                    traits={},
                    now=now,
                )
                self.enter(flow, user, run, now)
                return

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
        self.left_a_trace = bool(record.traits) or record.kind == "membership"
        merge(user.profile, record.traits)
        if record.kind == "membership":
            self.change_membership(user, record, now)
        elif record.kind == "receipt":
            self.take_receipt(user, record, now)
        elif record.kind == "event":
            self.take_event(user, record, now)
        if self.forgetful and not self.left_a_trace:
            user.taken.pop(record.message_id, None)  # T16

    def change_membership(self, user: User, record: Record, now: int) -> None:
        """U11: "A record that says what is already so changes nothing but its row and U4. A record without `row`
        has row `{}`".
        """
        name = record.fields["audience"]
        if record.fields["member"]:
            user.audiences[name] = record.fields.get("row", {})
        else:
            user.audiences.pop(name, None)

    def take_receipt(self, user: User, record: Record, now: int) -> None:
        """R1: "A receipt whose `action_id` was not sent to that user, or whose journey closed more than 30 days ago,
        is counted and dropped".
        """
        of_action = [sent for sent in user.sent if sent.action["action_id"] == record.fields["action_id"]]
        if not of_action:
            return
        sent = of_action[-1]
        if not sent.journey.open and now - sent.journey.closed_ms > RECEIPT_MS:
            return
        self.left_a_trace = True
        status = record.fields["status"]
        sent.statuses.append(status)
        # records.md: "counts as an event named `$<channel>_<status>` with the action's fields as properties"; R2.
        record.event = f"${sent.action['channel']}_{status}"
        record.properties = copy.deepcopy(sent.action) | {
            name: record.fields[name] for name in ("status", "code", "detail") if name in record.fields
        }
        # R4: "with the action's flow, journey and step, .. before anything it causes".
        journey = sent.journey
        self.note("receipt", user, journey.flow, journey, now, cause=None, step=sent.action["step"], reason=status)
        self.take_event(user, record, now)

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
        self.convert(user, event, now)
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

    def convert(self, user: User, event: Record, now: int) -> None:
        """S16: "A user converts by the first `goal` event that arrives after the first passage and before `within`
        has passed, also when the journey is over; journaled `converted` with `step` and the arm as reason".
        """
        trials = [e.trials[user.id] for e in self.experiments.values() if user.id in e.trials]

        def place(trial: Trial) -> tuple[int, str, int]:
            """Nobody says in which order; as triggers go, then as written."""
            flow = trial.journey.flow
            return -flow.priority, flow.name, list(flow.steps).index(trial.step.id)

        for trial in sorted(trials, key=place):
            goal = trial.step.written["experiment"]["goal"]
            if trial.converted or now - trial.at >= duration_ms(goal["within"]):
                continue
            if self.concerns(trial.journey, goal, event, now):  # S24: "scoped by the key, as `exit` is".
                trial.converted = True
                self.tell("converted", trial.journey, now, step=trial.step.id, reason=trial.arm)

    def concerns(
        self, journey: Journey, asked: dict[str, Any], event: Record, now: int, moved_by: Record | None = None
    ) -> bool:
        """As `matches`, for a journey.

        `key`: "`wait_for`, `exit` and `did since entry` see only events whose property has the same value".
        W18: "`event` is the event that moved the journey last, not the one being judged; templates are
        evaluated when the judged event arrives".
        """
        if journey.flow.key is not None and not same(key_of(journey.flow, event), journey.key):
            return False
        return self.matches(journey.flow, asked, event, now, self.fields(journey, now, moved_by))

    def fields(self, journey: Journey, now: int, moved_by: Record | None = None) -> Fields:
        return template_fields(
            self.users[journey.user_id].profile, journey.trigger, moved_by or journey.moved_by, journey.flow, now
        )

    def asked(self, user: User, flow: Flow, journey: Journey | None, now: int) -> Asked:
        """What a condition on the user may ask; without *journey* at entry."""

        def count_of(clause: dict[str, Any]) -> int:
            if journey is None or "within" in clause:
                return self.rolling_count(user, flow, clause, now)
            return journey.since_entry[[one is clause for one in flow.clauses].index(True)]

        def cap_left(channel: str) -> bool:  # W15: "asks the caps only; for an `exempt` user it holds".
            return self.is_exempt(user) or caps_allow(user.sends, self.config, channel, now)

        return Asked(count_of, lambda name: name in user.audiences, cap_left)

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
        journey.branches.append(Branch())
        self.go_on(journey, journey.branches[0], flow.first, now)

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
        if not when_holds(flow.entry.get("when"), flow.written, now, fields, self.asked(user, flow, None, now)):
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
        """Order of things, 3: "exit rules; else the `wait_for` or `result_of` it stands in"."""
        for rule in journey.flow.written.get("exit") or []:
            if self.concerns(journey, rule, event, now):
                if rule.get("goal", False):
                    self.tell("converted", journey, now, reason=rule.get("label"))  # J4
                self.tell("exited", journey, now, reason=rule.get("label"))
                self.close(journey, now)
                return
        # W18: "`event` is the event that moved the journey last, not the one being judged".
        moved_by = journey.moved_by
        # O4: "Each open branch of a journey is moved at most once by an event, in written order; if a branch ends the
        # journey the others are not asked."
        for branch in journey.standing():
            if journey.open:
                self.show_to_branch(journey, branch, event, now, moved_by)

    def show_to_branch(self, journey: Journey, branch: Branch, event: Record, now: int, moved_by: Record) -> None:
        step = branch.standing_in
        assert step is not None
        asked = without_of(step)
        if asked is not None:  # "the events it hears move nothing, are no `event` or `cause`, and leave no record"
            names = asked["event"] if isinstance(asked["event"], list) else [asked["event"]]
            for name in names:
                if self.concerns(journey, {**asked, "event": name}, event, now, moved_by):
                    branch.silent_since = now
        if step.kind == "wait_for":
            # S10: "every label counts the event, then the first satisfied one as written wins".
            for label, asked in step.written["wait_for"].items():
                if self.concerns(journey, asked, event, now, moved_by):
                    branch.label_counts[label] += 1
            for label, asked in step.written["wait_for"].items():
                if branch.label_counts[label] >= asked.get("at_least", 1):
                    self.leave(journey, branch, label, event, now)
                    return
        if step.kind == "result_of" and event.kind == "receipt":
            outcome = journey.outcomes.get(step.written["result_of"])
            status = event.fields["status"]
            mine = isinstance(outcome, Sent) and outcome.action["action_id"] == event.fields["action_id"]
            if mine and status in listed_statuses(step):
                self.leave(journey, branch, status, event, now)

    def leave(self, journey: Journey, branch: Branch, way: str, event: Record, now: int) -> None:
        step = branch.standing_in
        assert step is not None
        journey.moved_by = event  # O5
        self.tell("moved", journey, now, step=step.id, reason=way)  # S11
        self.go_on(journey, branch, step.first_of.get(way, step.after), now)

    # -- steps

    def go_on(self, journey: Journey, branch: Branch, step_id: str | None, now: int) -> None:
        """Run a branch from a step until it waits or is over.

        J6: "no reason after the last step; .. Its `step` is .. the last one that was begun".
        """
        while True:
            if step_id is None:
                journey.branches.remove(branch)
                if branch.parent is None:
                    self.end(journey, now, step=journey.last_begun)
                    return
                branch = branch.parent
                branch.arms_left -= 1
                if branch.arms_left:  # "the next step runs when all have finished"
                    return
                assert branch.standing_in is not None
                step_id = branch.standing_in.after
                journey.branches.append(branch)
                continue
            step = journey.flow.steps[step_id]
            branch.standing_in, branch.begun_at = None, now
            journey.last_begun = step_id
            journey.visits[step_id] = journey.visits.get(step_id, 0) + 1
            if journey.visits[step_id] > VISITS_MAX:  # S20
                self.tell("failed", journey, now, step=step_id, reason="loop")
                self.close(journey, now)
                return
            goes_to = self.begin(journey, branch, step, now)
            if isinstance(goes_to, Closed):
                return
            step_id = goes_to

    def end(self, journey: Journey, now: int, *, step: str | None, reason: str | None = None) -> Closed:
        """`end`: "ends the journey, all parallel branches included"."""
        self.tell("ended", journey, now, step=step, reason=reason)
        self.close(journey, now)
        return Closed()

    def close(self, journey: Journey, now: int) -> None:
        journey.open, journey.closed_ms = False, now
        journey.branches = []

    def hold(self, journey: Journey, branch: Branch, step: Step, until: int, now: int) -> Closed:
        """J2: "`waiting` once whenever a branch comes to stand in `wait`, `wait_for` .., with `step` and
        `detail.until`".
        """
        branch.standing_in, branch.wake_at = step, until
        self.tell("waiting", journey, now, step=step.id, detail={"until": to_iso(until)})
        return Closed()

    def fork(self, journey: Journey, branch: Branch, step: Step, now: int) -> str | Closed | None:
        """S17: "`parallel` branches start in written order, each running until it waits or finishes before the next
        starts; an `end` in one keeps the later ones from starting".
        """
        arms = step.written[step.kind]
        journey.branches.remove(branch)
        branch.standing_in = step
        branch.arms_left = len(arms) + 1  # Itself, until all have started.
        for number, arm in enumerate(arms):
            if not journey.open:
                return Closed()
            inner = Branch((*branch.place, number), branch, begun_at=now)
            journey.branches.append(inner)
            first = step.first_of[str(number)]
            until = self.starts_at(journey, arm["at"], now) if step.kind == "times" else now
            if until > now:
                inner.next = first
                self.hold(journey, inner, step, until, now)
            else:
                self.go_on(journey, inner, first, now)
        if not journey.open:
            return Closed()
        branch.arms_left -= 1
        if branch.arms_left:
            return Closed()
        journey.branches.append(branch)
        return step.after

    def starts_at(self, journey: Journey, written: str, now: int) -> int:
        """S14: "a moment that is past or now starts its branch at once; a time of day is the next, strictly later"."""
        zone = zone_of(self.users[journey.user_id].profile, journey.flow.written)
        clock = time_of_day(written)
        if clock is not None:
            return next_clock(clock, zone, None, at_or_after_ms=now + 1)
        moment = parse_iso(written, zone)  # V11: "In `wait.until` and `times.at` it is the user's zone".
        assert moment is not None
        return moment

    def begin(self, journey: Journey, branch: Branch, step: Step, now: int) -> str | Closed | None:
        """Begin one step; return the id of the next, None after the last, or `Closed`."""
        if step.kind == "send":
            return self.try_to_send(journey, branch, step, now)
        if step.kind == "set":
            return self.set(journey, step, now)
        if step.kind == "audience":
            return self.audience(journey, step, now)
        if step.kind == "wait":
            return self.wait(journey, branch, step, now)
        if step.kind == "wait_for":
            branch.label_counts = dict.fromkeys(step.written["wait_for"], 0)  # S10: "anew at each visit".
            return self.hold(journey, branch, step, now + duration_ms(step.written["timeout"]), now)
        if step.kind == "result_of":
            return self.result_of(journey, branch, step, now)
        if step.kind in ("parallel", "times"):
            return self.fork(journey, branch, step, now)
        if step.kind == "branch":
            return self.branch(journey, step, now)
        if step.kind == "split":
            return self.take_arm(journey, step, self.arm_of(journey, step, step.written["split"]), now)
        if step.kind == "experiment":
            return self.take_arm(journey, step, self.experiment(journey, step, now), now)
        if step.kind == "goto":
            return str(step.written["goto"])
        return self.end(journey, now, step=step.id, reason=step.written["end"])  # J6: "the label of `end`".

    def branch(self, journey: Journey, step: Step, now: int) -> str | None:
        """`branch`: "first match wins; no match and no `else`: go on"; J3: the reasons."""
        asked = self.asked(self.users[journey.user_id], journey.flow, journey, now)
        for number, arm in enumerate(step.written["branch"]):
            if "else" in arm:
                reason, inner = "else", "else"
            elif when_holds(arm["when"], journey.flow.written, now, self.fields(journey, now), asked):
                reason, inner = arm.get("label", str(number)), str(number)
            else:
                continue
            self.tell("moved", journey, now, step=step.id, reason=reason)
            return step.first_of[inner]
        self.tell("moved", journey, now, step=step.id, reason="none")
        return step.after

    def take_arm(self, journey: Journey, step: Step, arm: str, now: int) -> str | None:
        self.tell("moved", journey, now, step=step.id, reason=arm)  # J3
        return step.first_of.get(arm, step.after)

    def arm_of(self, journey: Journey, step: Step, arms: dict[str, str]) -> str:
        """Shares: "a split takes the first arm, in the order written, whose cumulated share exceeds `u`"; S13."""
        u = unit(journey.flow.name, step.id, journey.user_id)
        cumulated = Fraction(0)
        for arm, written in arms.items():
            cumulated += share(written)
            if cumulated > u:
                return arm
        raise AssertionError("the shares sum to 100 %")

    def experiment(self, journey: Journey, step: Step, now: int) -> str:
        """S16: "N counts distinct users. Until N are in, a user takes the split's arm. When the next user begins the
        step, the winner is decided once and for ever ..; from then on everybody goes there". `experiment`: "afterwards
        everybody goes to the winner", so the next user may be one of the N.
        """
        written = step.written["experiment"]
        experiment = self.experiments.setdefault((journey.flow.name, step.id), Experiment())
        trials = experiment.trials
        taken = [trial for trial in trials.values() if trial.counts]
        if experiment.winner is None and len(taken) >= written["stop_after"]:
            experiment.winner = written["winner"] if written["winner"] != "best" else best_arm(written["arms"], taken)
        arm = experiment.winner or self.arm_of(journey, step, written["arms"])
        if journey.user_id not in trials:
            trials[journey.user_id] = Trial(step, journey, arm, now, counts=experiment.winner is None)
        return arm

    def result_of(self, journey: Journey, branch: Branch, step: Step, now: int) -> str | Closed | None:
        """R5: "A `result_of` that begins after listed receipts of that action have come leaves at once by the first of
        them; `event` and `cause` do not change then". "A suppressed send counts as `suppressed`".
        """
        outcome = journey.outcomes.get(step.written["result_of"])
        come = [] if outcome is None else [outcome] if isinstance(outcome, str) else outcome.statuses
        for status in come:
            if status in listed_statuses(step):
                self.tell("moved", journey, now, step=step.id, reason=status)
                return step.first_of.get(status, step.after)
        # R6, R7, S12: "`within` of `result_of` counts from when the step begins".
        return self.hold(journey, branch, step, now + duration_ms(step.written["within"]), now)

    def audience(self, journey: Journey, step: Step, now: int) -> str | None:
        """U8: "Membership by an `audience` step has row `{}`; an existing row stays; `add` is done before `remove`"."""
        audiences = self.users[journey.user_id].audiences
        written = step.written["audience"]
        for name in written.get("add") or []:
            audiences.setdefault(name, {})
        for name in written.get("remove") or []:
            audiences.pop(name, None)
        self.tell("audience", journey, now, step=step.id)  # J7
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

    def wait(self, journey: Journey, branch: Branch, step: Step, now: int) -> str | Closed | None:
        written = step.written["wait"]
        if isinstance(written, str):
            written = {"for": written}  # S9: "`{for: 2h}` equals `2h`".
        zone = zone_of(self.users[journey.user_id].profile, journey.flow.written)
        days = written.get("days")
        if "for" in written:
            until = now + duration_ms(written["for"])
            branch.silent_since = now
            if "at" in written:  # "the first such local time at or after now + 7d"
                clock = time_of_day(written["at"])
                assert clock is not None
                until = next_clock(clock, zone, days, at_or_after_ms=until)
            return self.hold(journey, branch, step, until, now)
        if is_template(written["until"]):
            return self.wait_for_date(journey, branch, step, written, now)
        clock = time_of_day(written["until"])
        if clock is not None:  # "next such local time, strictly later"
            return self.hold(journey, branch, step, next_clock(clock, zone, days, at_or_after_ms=now + 1), now)
        until_moment = parse_iso(written["until"], zone)  # T2: "in `wait.until`: the user's zone".
        assert until_moment is not None
        return self.hold(journey, branch, step, until_moment, now) if until_moment > now else step.after

    def wait_for_date(
        self, journey: Journey, branch: Branch, step: Step, written: dict[str, Any], now: int
    ) -> str | Closed | None:
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
            return self.hold(journey, branch, step, moment, now)
        until = moment + offset
        if clock is not None:  # S26: "the first such local time at or after the moment (after `offset`)"
            until = next_clock(clock, zone, written.get("days"), at_or_after_ms=until)
        if until < now and written.get("if_past", "skip") == "end":
            return self.end(journey, now, step=step.id, reason="past")
        return self.hold(journey, branch, step, until, now) if until > now else step.after  # "equal goes on"

    def try_to_send(self, journey: Journey, branch: Branch, step: Step, now: int) -> str | Closed | None:
        """Message rules: "Order of checks for a send: suppressed, no consent, missing address, missing variable,
        quiet hours, expired, caps".
        """
        written = step.written
        user = self.users[journey.user_id]
        channel, category = written["send"], written.get("category", "marketing")
        if self.is_in_any(user, self.config.get("suppress")):  # M2: "`suppress` stops every category".
            return self.suppress(journey, step, "suppressed", now)
        if not self.consents(user, category):
            return self.suppress(journey, step, "no_consent", now)
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
        # "`notification` is exempt from caps and quiet hours"; M1: "`exempt` frees from caps and quiet hours".
        is_bound = category == "marketing" and not self.is_exempt(user)
        if is_bound:
            zone = zone_of(user.profile, journey.flow.written)
            own = (self.channels.get(channel) or {}).get("quiet")
            rules = [rule for rule in (own, self.config.get("quiet")) if rule]
            hold = holding(rules, zone, now)
            if hold:
                # S3: "the step's own, if written; else false if any quiet rule that holds says false; else true".
                postpone = written.get("postpone", all(rule.get("postpone", True) for rule in hold))
                if not postpone:
                    return self.suppress(journey, step, "quiet", now)
                branch.standing_in, branch.wake_at = step, quiet_until(rules, zone, now)
                until = to_iso(branch.wake_at)
                self.tell("postponed", journey, now, step=step.id, reason="quiet", detail={"until": until})  # J2
                return Closed()
        if "expires" in written and now > branch.begun_at + duration_ms(written["expires"]):  # S5
            return self.suppress(journey, step, "expired", now)
        if is_bound and not caps_allow(user.sends, self.config, channel, now):
            return self.suppress(journey, step, "cap", now)
        self.send(journey, step, now, begun_at=branch.begun_at, to=to, variables=variables)
        return step.after

    def is_in_any(self, user: User, rule: dict[str, Any] | None) -> bool:
        return any(name in user.audiences for name in listed((rule or {}).get("audience")))

    def is_exempt(self, user: User) -> bool:
        return self.is_in_any(user, self.config.get("exempt"))

    def consents(self, user: User, category: str) -> bool:
        """M2: "a category without an entry needs none; the attribute must be the boolean true"."""
        path = (self.config.get("consent") or {}).get(category)
        return path is None or at_path({"profile": user.profile}, names_of(path)) is True

    def send(
        self, journey: Journey, step: Step, now: int, *, begun_at: int, to: str | None, variables: dict[str, Any]
    ) -> None:
        written, user = step.written, self.users[journey.user_id]
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
                "expires_at": to_iso(begun_at + duration_ms(expires)) if expires else None,
                "seq": seq,
                "cause": cause_of(journey.moved_by),
            }
        )
        user.sends.append(Send(now, written["send"], written.get("category", "marketing")))  # S1, M1
        user.sent.append(Sent(self.actions[-1], journey))
        journey.outcomes[step.id] = user.sent[-1]

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
            to = at_path(self.users[journey.user_id].profile, names_of(attribute))
        if not isinstance(to, str) or not to:  # S2: "An address is a non-empty text."
            raise Missing
        return to

    def suppress(self, journey: Journey, step: Step, reason: str, now: int) -> str | Closed | None:
        """S4: "`if_missing: end` journals `suppressed`, then `ended` with the same reason; it is about
        address and variables; a `template_error` goes on".
        """
        self.tell("suppressed", journey, now, step=step.id, reason=reason)
        journey.outcomes[step.id] = "suppressed"
        if step.written.get("if_missing", "skip") == "end" and reason in ("no_address", "missing_variable"):
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
            assert all(j.branches and all(b.standing_in for b in j.branches) for j in inside), flow.name


def asks_for(asked: dict[str, Any], event: Record, now: int, fields: Fields | None, flow: Flow) -> bool:
    """Whether *event* has the name and fulfils the `where` of a trigger, `did`, exit rule or label."""
    return asked["event"] == event.event and where_holds(
        asked.get("where"), event.properties, now, fields, flow.written
    )


def best_arm(arms: dict[str, str], trials: list[Trial]) -> str:
    """S16: "converted / entered per arm, ties and zero to the first arm as written"."""

    def rate(arm: str) -> Fraction:
        entered = [trial for trial in trials if trial.arm == arm]
        converted = [trial for trial in entered if trial.converted]
        return Fraction(len(converted), len(entered)) if entered else Fraction(0)

    return max(arms, key=rate)  # Of equals the first.


def listed_statuses(step: Step) -> list[str]:
    """`result_of`: the statuses of its `then`; V8: `other` is none."""
    return [status for status in step.written.get("then") or {} if status != "other"]


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
    if event.kind == "receipt":
        return None  # R8: "A receipt's event has no key property".
    value = at_path(event.properties, names_of(flow.key))
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
        config: what `nudge.yaml` says.
        forgetful: remember no `message_id` of an event that satisfied nothing; T16 leaves that open.
    """
    world = World([take_apart(copy.deepcopy(flow)) for flow in flows], config or {}, forgetful=forgetful)
    read = read_lines(lines, name)
    world.run(read.records, until_ms)
    world.assert_conservation()
    # simulate: "in order of time, then user, then position"; X2: "position as produced".
    world.actions.sort(key=lambda action: (action["at"], action["user_id"]))
    world.journal.sort(key=lambda record: (record["at"], record["user_id"]))
    return Result(world.actions, world.journal, read.dead_letters)


def without_of(step: Step) -> dict[str, Any] | None:
    """The `without` of a wait that has one."""
    written = step.written["wait"] if step.kind == "wait" else None
    return written.get("without") if isinstance(written, dict) else None
