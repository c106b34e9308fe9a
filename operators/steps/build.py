"""How a step is built: what may be written for it (`StepModel`), and what it may ask for meanwhile (`Build`).

All steps of a flow are built with one `Build`, which notes every problem on the way, and what the steps want to hear of
and to count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final
from zoneinfo import ZoneInfo

from pydantic import Field

from operators.caps import Cap
from operators.conditions.arguments import parse_value_template
from operators.conditions.audience import parse_audiences
from operators.conditions.base import Clause, Condition, Where
from operators.conditions.keyword import Site
from operators.conditions.parse import parse_condition
from operators.conditions.wanted import Wanted, wanted
from operators.conditions.when import parse_when
from operators.conditions.where import NOWHERE, parse_where
from operators.language.channels import DEFAULT_ADDRESSES, Channel, channel_of
from operators.language.model import EventModel, M, Model, checked, sound_part
from operators.language.problems import BadValue, Path, Problems, did_you_mean
from operators.language.values import Moment, Name, shown
from operators.language.workspace import Workspace
from operators.rules.base import Category, Rules, rules_of
from operators.shares import WHOLE
from operators.steps.base import Lane, Node, Step
from operators.steps.fork import ForkStep
from operators.templates.json_template import JsonTemplate
from operators.templates.template import Template

STEPS_MAX: Final = 10_000  # Of one flow; all of them are looked at together.
BRANCHES_MAX: Final = 100  # Of one journey at once; an event may ask each of them, and all are in the user's row.
_MISTAKEN_KINDS: Final = {
    **dict.fromkeys(("when", "if", "condition"), "write branch: [{when: {profile.tier: gold}, steps: [..]}]"),
    **dict.fromkeys(("delay", "sleep", "pause"), "write wait: 2h"),
    **{name: f"write send: {name}" for name in DEFAULT_ADDRESSES},
    "template": "write send: sms beside it",
    "event": "write wait_for: {paid: {event: purchase}}",
}
_NO_STEPS_IN: Final = frozenset(("vars", "set", "when", "where"))


class StepModel(Model):
    """What may be written for one kind of step; the kind is the name of its first key.

    `parts` are the models of mappings inside it which its own model leaves as plain data. `may_wait` says whether a
    journey can ever wait at such a step.
    """

    kind: ClassVar[str]
    parts: ClassVar[tuple[type[Model], ...]] = ()
    may_wait: ClassVar[bool] = True

    id: Annotated[
        Name | None,
        Field(description="Unique in the flow; default: the path of the step, such as steps.2."),
    ] = None

    def build(self, build: Build) -> Step | None:
        """Return the runtime step, or None after noting why not."""
        raise NotImplementedError


class Reference:
    """A step that is named by another one; known once all steps are built.

    Args:
        lane: the lane in which it must be, None for any.
        sends_before: the path of the step that names it, where it has to be a `send` that comes before that one.
    """

    __slots__ = ("lane", "name", "node", "path", "sends_before")

    def __init__(self, name: str, path: Path, lane: Lane | None, sends_before: Path | None = None) -> None:
        self.name = name
        self.path = path
        self.lane = lane
        self.sends_before = sends_before
        self.node: Node | None = None


class _Broken(Step):
    """Stands for a step that has problems, so that the ways through the others can still be told.

    Args:
        sound: what could be built of it, None for nothing.
        inside: where the lists of steps in it begin.
        goes_on: the journey may go on with the step after it.
    """

    __slots__ = ("_goes_on", "_inside", "_sound")
    kind: ClassVar[str] = "broken"

    def __init__(self, sound: Step | None, inside: list[Node | None], *, goes_on: bool) -> None:
        self._sound, self._inside, self._goes_on = sound, inside, goes_on

    def ways(self, node: Node) -> Iterator[Node | None]:
        yield from self._inside
        if self._sound is not None:
            yield from self._sound.ways(node)
        elif self._goes_on:
            yield node.next


class _BrokenWait(_Broken):
    """One at which a journey may wait."""

    __slots__ = ()
    holds: ClassVar[bool] = True


class Build:
    """What the steps of one flow ask for while they are built.

    Places are given relative to the step that is being built. `nodes` are the steps by id, `lanes` the lanes by
    number. `wants` has every event that somebody wants, `clauses` every `did` with the event that it counts, `channels`
    those that are sent to, by name, `asked` the audiences that somebody asks for, with their paths, `added` those that
    the flow adds users to, `local_moments` the ms of the moments that would be others in UTC, by their paths, `orders`
    and `late_orders` the keys of mappings in which their order says something, see `note_order`. `zone` is that of the
    flow. `is_lost` says that somewhere a journey goes on at a step that is not known.

    Args:
        kinds: the models of the kinds of steps that there are.
        zone: the zone of the flow.
    """

    def __init__(
        self,
        workspace: Workspace,
        problems: Problems,
        kinds: Mapping[str, type[StepModel]],
        zone: ZoneInfo,
    ) -> None:
        self.problems = problems
        self.nodes: dict[str, Node] = {}
        self.wants: list[Wanted] = []
        self.clauses: list[tuple[Clause, Wanted]] = []
        self.channels: dict[str, Channel] = {}
        self.asked: list[tuple[str, Path]] = []
        self.added: set[str] = set()
        self.local_moments: dict[Path, int] = {}
        self.orders: dict[Path, list[str]] = {}
        self.late_orders: dict[Path, list[str]] = {}
        self.lanes: list[Lane] = []
        self.is_lost = False
        self._workspace = workspace
        self._kinds = kinds
        self.zone = zone
        self._references: list[Reference] = []
        self._at_the_end: list[Callable[[], None]] = []
        self._lists: dict[Path, Node | None] = {}
        self._steps = 0
        self._path: Path = ()
        self._after: Node | None = None
        self._lane = Lane(None)
        self._ids: dict[str, Path] = {}  # Every id that is taken: a step with one of its own keeps its path, too.
        self._own_ids: dict[str, Path] = {}

    # ---- what a step asks for ----------------------------------------------------------------------------------

    def problem(self, code: str, message: str, hint: str, *place: str | int) -> None:
        self.problems.add((*self._path, *place), code, message, hint)

    def advise(self, code: str, message: str, hint: str, *place: str | int) -> None:
        self.problems.add((*self._path, *place), code, message, hint, severity="warning")

    def checked(self, model: type[M], raw: object, *place: str | int) -> M | None:
        """Return *raw* as *model*, or None after noting why not."""
        return checked(model, raw, (*self._path, *place), self.problems)

    def when(self, raw: object, *place: str | int, at_entry: bool = False) -> Condition | None:
        """Return a condition on the user."""
        path = (*self._path, *place)
        site = Site(self._note_clause, at_entry, self._ask_audience, self._resolve, self._caps_left)
        return parse_when(raw, path, self.problems, site)

    def audiences(self, raw: object, *place: str | int) -> list[str]:
        """Return the names of audiences, one or several, noted as ones that have to be known."""
        return parse_audiences(raw, (*self._path, *place), self.problems, self._ask_audience)

    def added_audiences(self, raw: object, *place: str | int) -> list[str]:
        """Return the names of audiences that this flow adds users to, and which are known by that."""
        return parse_audiences(raw, (*self._path, *place), self.problems, lambda name, _: self.added.add(name))

    def _ask_audience(self, name: str, path: Path) -> None:
        self.asked.append((name, path))

    def wanted(self, written: EventModel, *place: str | int, templates: bool = True) -> Wanted:
        """Return the event that *written* says, noted as one that this flow wants."""
        where = self._where(written.where, "where" in written.model_fields_set, place, templates)
        return self._want(written.event, where)

    def any_wanted(self, names: Iterable[str], raw_where: object, is_written: bool, *place: str | int) -> list[Wanted]:
        """Return events of several names with the same conditions, noted as ones that this flow wants."""
        where = self._where(raw_where, is_written, place, templates=True)
        return [self._want(name, where) for name in dict.fromkeys(names)]

    def _where(self, raw: object, is_written: bool, place: Iterable[str | int], templates: bool) -> Where:
        because = "a trigger is judged before there is a journey"
        path = (*self._path, *place, "where")
        if raw is None and is_written:
            parse_condition(None, path, self.problems, NOWHERE)  # A `where` with nothing behind it lets all through.
        return parse_where(raw, path, self.problems, resolve=self._resolve, templates=templates, because=because)

    def _want(self, event: str, where: Where) -> Wanted:
        found = wanted(event, where)
        self.wants.append(found)
        return found

    def moment(self, written: Moment, *place: str | int) -> int:
        """Return the ms of a moment: without an offset it is local time where the flow is."""
        return self._resolve(written, (*self._path, *place))

    def template(self, text: str, *place: str | int) -> Template | None:
        """Return a template, or None after noting why it cannot be read."""
        try:
            return parse_value_template(text)
        except BadValue as bad:
            self.problems.add_bad((*self._path, *place), bad)
            return None

    def value(self, raw: Any, *place: str | int) -> JsonTemplate:
        """Return a JSON value whose texts may be templates."""
        return JsonTemplate(self._parsed(raw, place))

    def channel(self, name: str, *place: str | int) -> Channel | None:
        """Return a channel, or None after noting that there is none of this name."""
        channel = self._channel(name, (*self._path, *place))
        if channel is not None:
            self.channels[name] = channel
        return channel

    def rules(self, channel: str, category: Category) -> Rules:
        """Return the message rules for what is sent on a channel."""
        return rules_of(self._workspace, channel, category)

    def known_template(self, name: str, *place: str | int) -> None:
        """Note a template that is none of those that the workspace lists."""
        known = self._workspace.templates
        if known is not None and name not in known:
            hint = f"{did_you_mean(name, known)}; nudge.yaml lists all of them under 'templates'".removeprefix("; ")
            self.problem("unknown-template", f"there is no template {shown(name)}", hint, *place)

    def jump(self, name: str, *place: str | int) -> Reference:
        """Return a reference to the step *name*, at which the branch that stands here goes on: it is in its lane."""
        return self._refer(Reference(name, (*self._path, *place), self._lane))

    def _refer(self, reference: Reference) -> Reference:
        self._references.append(reference)
        return reference

    def earlier_send(self, name: str, *place: str | int) -> Reference:
        """Return a reference to the step *name*, which has to be a `send` that is written before, on the same way."""
        return self._refer(Reference(name, (*self._path, *place), None, self._path))

    def at_the_end(self, task: Callable[[], None]) -> None:
        """Do *task* once all steps are built and references known."""
        self._at_the_end.append(task)

    def receipt(self, channel: str, status: str) -> Wanted:
        """Return the receipts of *channel* with *status*, noted as events that this flow wants."""
        return self._want(f"${channel}_{status}", Where(None, None))

    def known_labels(self, then: dict[str, Any], labels: list[str]) -> None:
        """Note every key of *then* that is none of *labels*."""
        for label in then:
            if label not in labels:
                message = f"'{label}' is not a label of this step"
                path = (*self._path, "then", label)
                self.problems.add(path, "unknown-label", message, did_you_mean(label, labels), at_key=True)

    def is_whole(self, shares: Mapping[str, Decimal], *place: str | int) -> bool:
        """Tell whether *shares* come to 100 %; any other sum is a problem."""
        total = sum(shares.values())
        if total != WHOLE:
            hint = f"{abs(WHOLE - total):f}% {'are missing' if total < WHOLE else 'too much'}"
            self.problem("bad-sum", f"the shares come to {total:f}%, and not to 100%", hint, *place)
        return total == WHOLE

    def note_order(self, keys: Iterable[str], *place: str | int, since_ever: bool = False) -> None:
        """Note that the order of the *keys* at *place* says something: other content has another one.

        Args:
            since_ever: it was a part of the content as long as there is this kind of step.
        """
        (self.orders if since_ever else self.late_orders)[(*self._path, *place)] = list(keys)

    def arm(self, then: dict[str, Any], label: str) -> Node | None:
        """Return where the arm *label* begins; an arm that is not written goes on after the step."""
        return self.steps(then[label], "then", label) if label in then else self._after

    def lane(self, raw: list[Any], *place: str | int) -> Lane:
        """Return a nested list of steps as a lane of its own, down which a branch goes beside others."""
        lane = Lane(self._lane)
        outer, self._lane = self._lane, lane
        lane.first = self._list(raw, (*self._path, *place), None)
        self._lane = outer
        return lane

    def steps(self, raw: list[Any], *place: str | int) -> Node | None:
        """Return where a nested list of steps begins; it rejoins after the step that is being built."""
        return self._list(raw, (*self._path, *place), self._after)

    # ---- building ----------------------------------------------------------------------------------------------

    def flow_steps(self, raw: list[Any]) -> Node | None:
        """Build all steps of the flow and return the first."""
        if not raw and not self.problems.has_errors:
            self.problems.add(("steps",), "too-few", "a flow needs at least one step")
        first = self._list(raw, ("steps",), None)
        if self.has_too_many:
            return first
        for reference in self._references:
            if self.problems.is_full:
                break
            node = reference.node = self.nodes.get(reference.name)
            if reference.name not in self._own_ids:
                self._unknown_step(reference)
            elif reference.sends_before is not None:
                self._check_send(reference, reference.sends_before)
            elif node is not None and reference.lane not in (None, node.lane):
                self._across_a_border(reference, node)
        for task in self._at_the_end:
            task()
        self._number_lanes(self._lane)
        return first

    def _across_a_border(self, reference: Reference, node: Node) -> None:
        self.is_lost = True
        reference.node = None
        message = f"'{node.id}' is not in the same branch of a 'parallel' or 'times' as this step"
        hint = "what comes after that step runs when all of its branches have finished; or end the journey here"
        self.problems.add(reference.path, "crosses-border", message, hint)

    def _number_lanes(self, lane: Lane) -> int:
        """Number *lane* and all inside it, and return how many branches can be in it at once.

        By path and not by place in the file: the same content has the same numbers, however it is laid out.
        """
        lane.number = len(self.lanes)
        self.lanes.append(lane)
        most = 1
        for fork in sorted(lane.forks, key=lambda node: [(isinstance(part, str), part) for part in node.path]):
            assert isinstance(fork.step, ForkStep)
            at_once = sum(self._number_lanes(inner) for inner in fork.step.lanes)
            if at_once > BRANCHES_MAX:
                message = f"a journey may have {BRANCHES_MAX} branches at once, here it could have {at_once}"
                self.problems.add(fork.path, "too-many", message, "make several flows of it")
                at_once = 1  # What is around it needs no message, too.
            most = max(most, at_once)
        lane.last = len(self.lanes) - 1
        return most

    @property
    def has_too_many(self) -> bool:
        """Whether there are more steps than a flow may have: then not all of them were built."""
        return self._steps > STEPS_MAX

    def _unknown_step(self, reference: Reference) -> None:
        self.is_lost = True
        if self.problems.has_errors and _has_id(self.problems.document.data, reference.name):
            return  # It stands where no steps can be read; that has been told.
        message = f"{shown(reference.name)} is not a step of this flow"
        place = self._ids.get(reference.name)
        own = next((name for name, path in self._own_ids.items() if path == place), None)
        hint = f"that step is called '{own}'" if own else did_you_mean(reference.name, self._own_ids)
        self.problems.add(reference.path, "unknown-step", message, hint)

    def _check_send(self, reference: Reference, asking: Path) -> None:
        """Note it if *reference* is no `send` that a journey has passed when it comes to the step at *asking*."""
        path, node = self._own_ids[reference.name], reference.node
        if node is None or node.step.kind == "broken":
            return
        name = shown(reference.name)
        if node.step.kind != "send":
            said = f"{name} is a '{node.step.kind}', and only a 'send' has results"
            hint = "name the step that sends"
        elif (order := self._order(path, asking)) is None:
            said = f"{name} is in another arm of the same step: a journey that comes here has not been there"
            hint = "name a send of this arm, or put this step behind the one with the arms"
        elif order > 0:
            said, hint = f"{name} comes after this step", "put this step behind the send"
        else:
            return
        self.problems.add(reference.path, "not-an-earlier-send", said, hint)

    def _order(self, one: Path, other: Path) -> int | None:
        """Return below 0 if the step at *one* is written before that at *other*, above 0 if it comes after it; None if
        they are in different arms of a step."""
        at = next((at for at, (mine, theirs) in enumerate(zip(one, other, strict=False)) if mine != theirs), None)
        if at is None:  # One is inside the other, or they are the same.
            return len(one) - len(other) or 1
        mine, theirs = one[at], other[at]
        if one[:at] not in self._lists or isinstance(mine, str) or isinstance(theirs, str):
            return None
        return mine - theirs

    def _list(self, raw: list[Any], path: Path, after: Node | None) -> Node | None:
        # From the last to the first, so that each step knows the one after it. Ids are claimed in written order.
        if path in self._lists:
            return self._lists[path]
        self._lists[path] = None
        self._steps += len(raw)
        if self._steps > STEPS_MAX:
            message = f"a flow may have {STEPS_MAX} steps, this one has more"
            self.problems.add(("steps",), "too-many", message, "make several flows of it")
            return None
        for index, one in enumerate(raw):
            self._claim_ids(one, (*path, index))
        following = after
        for index in range(len(raw) - 1, -1, -1):
            node = self._step(raw[index], (*path, index), following)
            following = node
        self._lists[path] = following
        return following

    def _claim_ids(self, raw: Any, path: Path) -> None:
        own = raw.get("id") if isinstance(raw, dict) else None
        place = ".".join(str(part) for part in path)
        names = [place, own] if isinstance(own, str) and own != place else [place]
        self._own_ids.setdefault(names[-1], path)
        for name in names:
            if name in self._ids and self._ids[name] != path:
                at = (*path, "id") if name == own else self._ids[name]
                self.problems.add(at, "duplicate-id", f"'{name}' is the id of another step", "choose another")
            else:
                self._ids[name] = path

    def _step(self, raw: Any, path: Path, after: Node | None) -> Node:
        if raw == "end":
            raw = {"end": None}
        if not isinstance(raw, dict):
            hint = "write - wait: 2h; the kinds are " + ", ".join(self._kinds)
            self.problems.add(path, "wrong-type", f"a step is a mapping with its kind as key, not {shown(raw)}", hint)
            return self._broken({}, path, after, [], None)
        kinds = [key for key in raw if key in self._kinds]
        if len(kinds) != 1:
            self._bad_kind(raw, path, kinds)
            return self._broken(raw, path, after, kinds, None)
        model = checked(self._kinds[kinds[0]], raw, path, self.problems)
        sound = model or sound_part(self._kinds[kinds[0]], raw)
        outer = self._path, self._after
        self._path, self._after = path, after
        step = sound.build(self) if sound is not None else None
        self._path, self._after = outer
        if step is None or model is None:
            return self._broken(raw, path, after, kinds, step)
        return self._node(step, model.id, path, after)

    def _node(self, step: Step, id: str | None, path: Path, after: Node | None) -> Node:
        node = Node(step, id or ".".join(str(part) for part in path), path, self._lane, after)
        self.nodes.setdefault(node.id, node)
        if isinstance(step, ForkStep):
            self._lane.forks.append(node)
            for lane in step.lanes:
                lane.fork = node
        return node

    def _broken(
        self, raw: dict[str, Any], path: Path, after: Node | None, kinds: list[str], sound: Step | None
    ) -> Node:
        """Return what stands for a step of these *kinds* that has problems, and build the steps inside it."""
        inside = [self._list(steps, (*path, *place), after) for place, steps in self._lists_of_steps(raw)]
        models = [self._kinds[kind] for kind in kinds if kind in self._kinds]
        may_wait = sound.holds if sound is not None else not models or any(model.may_wait for model in models)
        if sound is None and (not kinds or "goto" in kinds):
            self.is_lost = True
        step = (_BrokenWait if may_wait else _Broken)(sound, inside, goes_on=kinds not in (["end"], ["goto"]))
        own = raw.get("id")
        return self._node(step, own if isinstance(own, str) else None, path, after)

    def _lists_of_steps(self, raw: dict[str, Any]) -> Iterator[tuple[Path, list[Any]]]:
        """Yield what looks like a list of steps in a step that cannot be read, with its place."""
        todo: list[tuple[Path, Any]] = [((), raw)]
        while todo:
            place, value = todo.pop()
            if isinstance(value, list) and any(self._looks_like_a_step(one) for one in value):
                yield place, value
            elif isinstance(value, list):
                todo.extend(((*place, index), one) for index, one in enumerate(value))
            elif isinstance(value, dict):
                todo.extend(((*place, key), one) for key, one in value.items() if key not in _NO_STEPS_IN)

    def _looks_like_a_step(self, raw: Any) -> bool:
        return raw == "end" or (isinstance(raw, dict) and any(key in self._kinds for key in raw))

    def _bad_kind(self, raw: dict[str, Any], path: Path, kinds: list[str]) -> None:
        if kinds:
            message = f"a step has one kind, not {' and '.join(kinds)}"
            self.problems.add(path, "several-kinds", message, "make two steps of it")
            return
        written = [key for key in raw if key != "id"]
        name = str(written[0]) if written else ""
        message = f"'{name}' is not a kind of step" if name else "this step has no kind"
        place = (*path, written[0]) if written else path
        hint = _MISTAKEN_KINDS.get(name) or did_you_mean(name, self._kinds)
        self.problems.add(place, "unknown-kind", message, hint, at_key=True)

    def _parsed(self, raw: Any, place: Path) -> Any:
        if isinstance(raw, str):
            return self.template(raw, *place) if "{{" in raw or "{%" in raw else raw
        if isinstance(raw, list):
            return [self._parsed(item, (*place, index)) for index, item in enumerate(raw)]
        if isinstance(raw, dict):
            return {key: self._parsed(item, (*place, key)) for key, item in raw.items()}
        return raw

    def _resolve(self, written: Moment, path: Path) -> int:
        moment_ms = written.ms_in(self.zone)
        if moment_ms != written.ms_in_utc():
            self.local_moments[path] = moment_ms
        return moment_ms

    def _channel(self, name: str, path: Path) -> Channel | None:
        channel = channel_of(name, self._workspace)
        if channel is None:
            hint = did_you_mean(name, [*DEFAULT_ADDRESSES, *self._workspace.channels])
            hint = f"{hint}; other channels need an entry under 'channels' in nudge.yaml"
            self.problems.add(path, "unknown-channel", f"there is no channel {shown(name)}", hint)
        return channel

    def _caps_left(self, channel: str, path: Path) -> tuple[tuple[Cap, ...], tuple[str, ...]] | None:
        if self._channel(channel, path) is None:
            return None
        rules = self.rules(channel, "marketing")
        return rules.caps, rules.exempt

    def _note_clause(self, clause: Clause) -> None:
        counted = wanted(clause.event, clause.where)
        self.wants.append(counted)
        self.clauses.append((clause, counted))


def _has_id(raw: object, id: str) -> bool:
    """Tell whether *id* is written as one anywhere in *raw*."""
    todo = [raw]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            if one.get("id") == id:
                return True
            todo.extend(one.values())
        elif isinstance(one, list):
            todo.extend(one)
    return False
