"""Builds the steps of one program out of what an author wrote, and notes every problem on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from operators.conditions.tree import NOWHERE, Condition, key_text, parse_condition, parse_value_template, parse_where
from operators.conditions.when import Clause, parse_when
from operators.language.flow import Asked, Flow, M, Workspace, checked
from operators.language.problems import BadValue, Path, Problems, did_you_mean
from operators.language.values import shown
from operators.templates import MISSING, Template, TemplateFailed

if TYPE_CHECKING:
    from operators.machine.context import Visit
    from operators.steps.base import Node, StepModel

STEPS_MAX: Final = 10_000  # Of one flow; all of them are looked at together.

DEFAULT_ADDRESSES: Final[dict[str, str | None]] = {
    "sms": "phone",
    "email": "email",
    "push": "push_token",
    "wechat": "openid",
    "webhook": None,
    "kafka": None,
    "coupon": None,
    "ads": None,
}


class Interest:
    """An event name and what is asked of it for everybody; the deployment gives it the number of the match index."""

    __slots__ = ("event", "fixed", "number")

    def __init__(self, event: str, fixed: Condition | None) -> None:
        self.event = event
        self.fixed = fixed
        self.number = -1

    @property
    def key(self) -> str:
        """What identifies the interest: flows that ask the same share it."""
        return f"{self.event}\x1f{key_text(self.fixed)}"


@dataclass(frozen=True, slots=True)
class Ask:
    """An event that somebody wants: the interest, and what is asked beyond it of the one it is judged for."""

    interest: Interest
    live: Condition | None


@dataclass(frozen=True, slots=True)
class ChannelPlan:
    """A channel: its topic, and the profile attribute that is the user's address there, None when none is needed."""

    name: str
    topic: str
    address: str | None


class Reference:
    """A step that is named by another one; known once all steps are built."""

    __slots__ = ("name", "node", "path")

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.node: Node | None = None


class Value:
    """A JSON value whose texts may be templates."""

    __slots__ = ("_raw", "_template")

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._template = raw if isinstance(raw, Template) else None

    def render(self, visit: Visit) -> Any:
        """Return the value here, `MISSING` when a template in it gives nothing; raises `TemplateFailed`."""
        return visit.render(self._template) if self._template is not None else _filled(self._raw, visit)

    def rendered(self, visit: Visit) -> Any:
        """As `render`, with a failure taken for `MISSING`."""
        try:
            return self.render(visit)
        except TemplateFailed:
            return MISSING


def _filled(raw: Any, visit: Visit) -> Any:
    if isinstance(raw, Template):
        return visit.render(raw)
    if isinstance(raw, list):
        items = [_filled(item, visit) for item in raw]
        return MISSING if any(item is MISSING for item in items) else items
    if isinstance(raw, dict):
        values = {key: _filled(item, visit) for key, item in raw.items()}
        return MISSING if any(item is MISSING for item in values.values()) else values
    return raw


def channel_plan(name: str, workspace: Workspace) -> ChannelPlan | None:
    """Return the channel *name*, or None when nobody knows it."""
    written = workspace.channels.get(name)
    if written is None and name not in DEFAULT_ADDRESSES:
        return None
    address = DEFAULT_ADDRESSES.get(name)
    topic = f"actions.{name}"
    if written is not None:
        if "address" in written.model_fields_set:
            address = written.address
        topic = written.topic or topic
    return ChannelPlan(name, topic, address)


class Build:
    """What the steps of one flow ask for while they are built.

    Places are given relative to the step that is being built.
    """

    def __init__(self, flow: Flow, workspace: Workspace, problems: Problems) -> None:
        self.flow = flow
        self.workspace = workspace
        self.problems = problems
        self.nodes: dict[str, Node] = {}
        self.references: list[Reference] = []
        self._steps = 0
        self.asks: list[Ask] = []
        self.clauses: list[tuple[Clause, Ask]] = []
        self._path: Path = ()
        self._after: Node | None = None
        self._ids: dict[str, Path] = {}  # Every id that is taken: a step with one of its own keeps its path, too.
        self._own_ids: dict[str, Path] = {}

    # ---- what a step asks for ----------------------------------------------------------------------------------

    def problem(self, code: str, message: str, hint: str, *place: str | int) -> None:
        self.problems.add((*self._path, *place), code, message, hint)

    def checked(self, model: type[M], raw: object, *place: str | int) -> M | None:
        """Return *raw* as *model*, or None after noting why not."""
        return checked(model, raw, (*self._path, *place), self.problems)

    def when(self, raw: object, *place: str | int, at_entry: bool = False) -> Condition | None:
        """Return a condition on the user."""
        return parse_when(raw, (*self._path, *place), self.problems, note=self._note_clause, at_entry=at_entry)

    def ask(self, asked: Asked, *place: str | int, templates: bool = True) -> Ask:
        """Return what *asked* wants, noted as an interest of this program."""
        because = "a trigger is judged before there is a journey"
        path = (*self._path, *place, "where")
        if asked.where is None and "where" in asked.model_fields_set:
            parse_condition(None, path, self.problems, NOWHERE)  # A `where` with nothing behind it lets all through.
        where = parse_where(asked.where, path, self.problems, templates=templates, because=because)
        return self._ask(asked.event, where.fixed, where.live)

    def template(self, text: str, *place: str | int) -> Template | None:
        """Return a template, or None after noting why it cannot be read."""
        try:
            return parse_value_template(text)
        except BadValue as bad:
            self.problems.add_bad((*self._path, *place), bad)
            return None

    def value(self, raw: Any, *place: str | int) -> Value:
        """Return a JSON value whose texts may be templates."""
        return Value(self._parsed(raw, place))

    def channel(self, name: str, *place: str | int) -> ChannelPlan | None:
        """Return a channel, or None after noting that there is none of this name."""
        plan = channel_plan(name, self.workspace)
        if plan is None:
            hint = did_you_mean(name, [*DEFAULT_ADDRESSES, *self.workspace.channels])
            hint = f"{hint}; other channels need an entry under 'channels' in nudge.yaml"
            self.problem("unknown-channel", f"there is no channel '{name}'", hint, *place)
        return plan

    def reference(self, name: str, *place: str | int) -> Reference:
        """Return a reference to the step *name*."""
        reference = Reference(name, (*self._path, *place))
        self.references.append(reference)
        return reference

    def known_labels(self, then: dict[str, Any], labels: list[str]) -> None:
        """Note every key of *then* that is none of *labels*."""
        for label in then:
            if label not in labels:
                message = f"'{label}' is not a label of this step"
                path = (*self._path, "then", label)
                self.problems.add(path, "unknown-label", message, did_you_mean(label, labels), at_key=True)

    def arm(self, then: dict[str, Any], label: str) -> Node | None:
        """Return where the arm *label* begins; an arm that is not written goes on after the step."""
        return self.steps(then[label], "then", label) if label in then else self._after

    def steps(self, raw: list[Any], *place: str | int) -> Node | None:
        """Return where a nested list of steps begins; it rejoins after the step that is being built."""
        return self._list(raw, (*self._path, *place), self._after)

    # ---- building ----------------------------------------------------------------------------------------------

    def program_steps(self) -> Node | None:
        """Build all steps and return the first."""
        if not self.flow.steps and not self.problems.has_errors:
            self.problems.add(("steps",), "too-few", "a flow needs at least one step")
        first = self._list(self.flow.steps, ("steps",), None)
        for reference in self.references:
            if self.problems.is_full:
                break
            reference.node = self.nodes.get(reference.name)
            if reference.name not in self._own_ids:
                message = f"{shown(reference.name)} is not a step of this flow"
                place = self._ids.get(reference.name)
                own = next((name for name, path in self._own_ids.items() if path == place), None)
                hint = f"that step is called '{own}'" if own else did_you_mean(reference.name, self._own_ids)
                self.problems.add(reference.path, "unknown-step", message, hint)
        return first

    def _list(self, raw: list[Any], path: Path, after: Node | None) -> Node | None:
        # From the last to the first, so that each step knows the one after it. Ids are claimed in written order.
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
            following = node if node is not None else following
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

    def _step(self, raw: Any, path: Path, after: Node | None) -> Node | None:
        from operators.steps import KINDS, NOT_YET
        from operators.steps.base import Node

        if raw == "end":
            raw = {"end": None}
        if not isinstance(raw, dict):
            hint = "write - wait: 2h; the kinds are " + ", ".join(KINDS)
            self.problems.add(path, "wrong-type", f"a step is a mapping with its kind as key, not {shown(raw)}", hint)
            return None
        later = [key for key in raw if key in NOT_YET]
        kinds = [key for key in raw if key in KINDS]
        if later:
            message = f"'{later[0]}' is part of the language, but this version cannot run it yet"
            self.problems.add((*path, later[0]), "not-yet-supported", message, at_key=True)
            return None
        if len(kinds) != 1:
            self._bad_kind(raw, path, kinds, list(KINDS))
            return None
        model_type: type[StepModel] = KINDS[kinds[0]]
        model = checked(model_type, raw, path, self.problems)
        if model is None:
            return None
        outer = self._path, self._after
        self._path, self._after = path, after
        step = model.build(self)
        self._path, self._after = outer
        if step is None:
            return None
        id = model.id or ".".join(str(part) for part in path)
        node = Node(step, id, path, after)
        self.nodes.setdefault(id, node)
        return node

    def _bad_kind(self, raw: dict[str, Any], path: Path, kinds: list[str], known: list[str]) -> None:
        if kinds:
            message = f"a step has one kind, not {' and '.join(kinds)}"
            self.problems.add(path, "several-kinds", message, "make two steps of it")
            return
        written = [key for key in raw if key != "id"]
        name = str(written[0]) if written else ""
        message = f"'{name}' is not a kind of step" if name else "this step has no kind"
        place = (*path, written[0]) if written else path
        self.problems.add(place, "unknown-kind", message, did_you_mean(name, known), at_key=True)

    def _parsed(self, raw: Any, place: Path) -> Any:
        if isinstance(raw, str):
            return self.template(raw, *place) if "{{" in raw or "{%" in raw else raw
        if isinstance(raw, list):
            return [self._parsed(item, (*place, index)) for index, item in enumerate(raw)]
        if isinstance(raw, dict):
            return {key: self._parsed(item, (*place, key)) for key, item in raw.items()}
        return raw

    def _ask(self, event: str, fixed: Condition | None, live: Condition | None) -> Ask:
        ask = Ask(Interest(event, fixed), live)
        self.asks.append(ask)
        return ask

    def _note_clause(self, clause: Clause) -> None:
        self.clauses.append((clause, self._ask(clause.event, clause.where.fixed, clause.where.live)))
