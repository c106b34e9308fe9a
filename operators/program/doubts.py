"""What a flow may say, and most likely does not mean: the warnings of `nudge check`.

They are looked for in what was written, beside all errors. A warning that is wrong is worse than none: each kind keeps
to what nobody writes on purpose, or has a way of writing that says so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from operators.language.channels import DEFAULT_ADDRESSES, STATUSES, may_report
from operators.language.problems import BadValue, Path, Problems, did_you_mean
from operators.language.values import DAY, HOUR, Moment, parse_duration, shown
from operators.program.similar import Similar
from operators.steps.base import Node
from state.iso import format_ms, parse_local

_REFERENCE: Final = re.compile(r"(profile|entry|event)((?:\.[A-Za-z_][\w-]*)+)")
_IN_BRACES: Final = re.compile(r"\$?\{\s*([A-Za-z_][\w.]*)\s*\}")
_NUMBER: Final = re.compile(r"\s*(>=|<=|>|<|==|=)?\s*([-+]?[0-9]+(?:\.[0-9]+)?)\s*")
_WORD: Final = re.compile(r"[A-Za-z_]+")
_ORDERED: Final = ("gt", "gte", "lt", "lte", "between")
_OF_VALUES: Final = ("eq", "ne", "in", "not_in", "contains", "not_contains", "starts_with", "ends_with")
_TEST_OF: Final = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte", "=": "eq", "==": "eq"}
_FURTHEST_WEST: Final = 12 * HOUR  # Where a local time comes last.
_UNSEEN: Final = "\u200b\u200c\u200d\u2060\ufeff"  # Characters that take no room.

# Where a condition on an event stands: what may be compared with there.
_TRIGGER, _JOURNEY, _WINDOW = "trigger", "journey", "window"


def _trimmed(name: str) -> str:
    return name.strip().strip(_UNSEEN).strip()


@dataclass(frozen=True, slots=True)
class MessagesInFiles:
    """The messages that stand in files.

    Attributes:
        needs: by the name of each the variables that it cannot do without, as paths in `vars`.
        always: the channels all of whose messages stand in files.
        never: those none of whose messages do.
    """

    needs: Mapping[str, Collection[Path]] = field(default_factory=dict)
    always: Collection[str] = ()
    never: Collection[str] = ()


class Doubts:
    """Looks at the flows of one check.

    Args:
        now_ms: the time of the check: a moment before it is past.
        messages: those that stand in files.
    """

    def __init__(self, now_ms: int, messages: MessagesInFiles | None = None) -> None:
        self._now_ms = now_ms
        self._messages = messages or MessagesInFiles()
        self._similar = Similar()

    def look_at(
        self,
        problems: Problems,
        nodes: Collection[Node],
        *,
        active_from: int | None,
        active_until: int | None,
    ) -> None:
        """Note what is doubtful in one flow file."""
        raw = problems.document.data
        if isinstance(raw, dict):
            look = _Look(problems, self._now_ms, self._similar, self._messages, active_from, active_until)
            look.at_flow(raw)
        for node in nodes:
            for place, before in node.step.never_taken():
                said = f"what is asked here has been asked by '{before}' before: no journey takes this way"
                problems.warn((*node.path, *place), "shadowed-arm", said, "put the narrower one first, or remove it")
        if not problems.has_errors:
            _look_at_results(problems, {node.id: node for node in nodes})

    def places(self) -> list[tuple[Problems, Path]]:
        """Return where something may be noted in the end."""
        return self._similar.places()

    def take(self, other: Doubts) -> None:
        """Take in what *other* has noted of the files that follow."""
        self._similar.take(other._similar)

    def compare(self) -> None:
        """Note what is doubtful only beside other flows, after the last one."""
        self._similar.tell()


def _look_at_results(problems: Problems, nodes: Mapping[str, Node]) -> None:
    """Note steps that ask for the result of a send which nobody has passed who comes there."""
    for node in nodes.values():
        for name in {send for send, _ in node.step.asks()}:
            if not _leads(nodes[name], node):
                said = f"no way leads here from '{name}': journeys that come here have not sent it"
                problems.warn((*node.path, "result_of"), "result-never-comes", said, "move it behind the send")


def _leads(start: Node, end: Node) -> bool:
    """Tell whether a journey at *start* can come to *end*."""
    seen, todo = {start}, [start]
    while todo:
        here = todo.pop()
        for following in here.step.ways(here):
            if following is end:
                return True
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return False


class _Look:
    def __init__(
        self,
        problems: Problems,
        now_ms: int,
        similar: Similar,
        messages: MessagesInFiles,
        active_from: int | None,
        active_until: int | None,
    ) -> None:
        self._problems = problems
        self._now_ms = now_ms
        self._similar = similar
        self._active_until = active_until
        self._messages = messages
        self._has_key = False
        self._active_ms = None if active_from is None or active_until is None else active_until - active_from

    # ---- the flow ----------------------------------------------------------------------------------------------

    def at_flow(self, raw: dict[str, Any]) -> None:
        if self._active_until is not None and self._active_until <= self._now_ms and raw.get("state") != "ended":
            said = f"this was at {format_ms(self._active_until)}: nobody enters any more"
            self._problems.warn(("active", "until"), "past-moment", said, "write a later one, or state: ended")
        trigger = raw.get("trigger")
        for path, one in _alternatives(trigger, ("trigger",)):
            self._event(one, path, _TRIGGER, group=path[:-1] if "any" in path else path)
        entry = raw.get("entry")
        self._has_key = isinstance(entry, dict) and entry.get("key") is not None
        if isinstance(entry, dict):
            self._when(entry.get("when"), ("entry", "when"))
            self._name(entry.get("key"), ("entry", "key"), "write order_id for the property order_id")
        for index, rule in enumerate(_listed(raw.get("exit"))):
            self._event(rule, ("exit", index), _JOURNEY, group=("exit",))
        self._steps(raw.get("steps"), ("steps",))

    def _event(self, raw: Any, path: Path, place: str, *, group: Path) -> None:
        """Look at an event and what is asked of it; *group* has those that are taken for one another on purpose."""
        if not isinstance(raw, dict):
            return
        names = raw.get("event")
        for name, at in [(names, (*path, "event"))] if isinstance(names, str) else _numbered(names, (*path, "event")):
            self._name(name, at, "an event is named as the tracker sends it")
            if isinstance(name, str) and not _is_template(name):
                self._similar.note(_trimmed(name), self._problems, at, group)
                self._receipt(name, at)
        self._where(raw.get("where"), (*path, "where"), place)

    def _receipt(self, name: str, path: Path) -> None:
        channel, _, status = name[1:].partition("_")
        if name.startswith("$") and status and channel in DEFAULT_ADDRESSES and not may_report(channel, status):
            said = f"no receipt of '{channel}' has the status '{status}': this event never comes"
            self._problems.warn(path, "unknown-receipt", said, did_you_mean(status, STATUSES))

    # ---- conditions --------------------------------------------------------------------------------------------

    def _where(self, raw: Any, path: Path, place: str) -> None:
        for key, value, at in _fields(raw, path):
            root, _, rest = key.partition(".")
            self._name(key, at, "write the name of the property", at_key=True)
            if root in ("profile", "entry") and rest:
                self._of_the_user(root, rest, key, at, place)
            self._tests(key, value, at, place)

    def _of_the_user(self, root: str, rest: str, key: str, at: Path, place: str) -> None:
        said = f"'where' sees the properties of the event only, not '{root}'"
        if root == "profile" and place == _TRIGGER:
            hint = f"write it under entry: {{when: {{{key}: ..}}}}"
        elif root == "profile":
            hint = "ask for it in the 'when' of a branch"
        elif place == _JOURNEY:
            hint = f'to compare with it write <property>: "{{{{ {key} }}}}"'
        else:
            hint = f"write {rest}"
        hint += f"; for a property that is called so, write properties.{key}"
        self._problems.warn(at, "profile-in-where", said, hint, at_key=True)

    def _when(self, raw: Any, path: Path) -> None:
        for key, value, at in _fields(raw, path):
            if key in ("did", "did_not"):
                clauses = list(_alternatives(value, at))
                for place, clause in clauses:
                    is_window = isinstance(clause, dict) and "within" in clause
                    self._event(clause, place, _WINDOW if is_window else _JOURNEY, group=at)
            elif key not in ("local_time", "audience", "cap_left"):
                self._name(key, at, "write the name of the attribute", at_key=True)
                self._tests(key, value, at, _JOURNEY)

    def _tests(self, key: str, value: Any, at: Path, place: str) -> None:
        tests = value if isinstance(value, dict) else {"in" if isinstance(value, list) else "eq": value}
        for test, wanted in tests.items():
            path = (*at, test) if isinstance(value, dict) else at
            for one, where in _numbered(wanted, path) if isinstance(wanted, list) else [(wanted, path)]:
                if not isinstance(one, str):
                    continue
                if test in _OF_VALUES:
                    self._literal(one, where, key, place)
                self._number(test, one, where, key)

    def _number(self, test: str, text: str, path: Path, key: str) -> None:
        number = _NUMBER.fullmatch(text)
        if number is None:
            return
        if test in _ORDERED:
            said = f"{shown(text)} is a text, and compares with texts only, character by character"
            hint = f"if the property is a number, write {number[2]} without quotes"
            self._problems.warn(path, "number-as-text", said, hint)
        elif test in ("eq", "in") and number[1]:
            said = f"only the text {shown(text)} equals this; a comparison is written as a test"
            hint = f"write {key}: {{{_TEST_OF[number[1]]}: {number[2]}}}"
            self._problems.warn(path, "number-as-text", said, hint)

    # ---- texts -------------------------------------------------------------------------------------------------

    def _literal(self, text: str, path: Path, key: str, place: str | None) -> None:
        """Look for a reference that lacks its braces; *key* is what it is written for, *place* that of a condition."""
        reference = _literal_reference(text, key, is_rendered=place is None)
        if reference is None:
            return
        said = f"{shown(text)} is a text as it stands, and refers to nothing"
        if place == _TRIGGER and reference.startswith("profile."):
            hint = f'a trigger is judged before that: write entry: {{when: {{entry.{key}: "{{{{ {reference} }}}}"}}}}'
        elif place in (_TRIGGER, _WINDOW):
            hint = "no template is allowed here: write the value itself"
        elif reference.partition(".")[0] in ("profile", "entry", "event"):
            hint = f'write "{{{{ {reference} }}}}"'
        else:
            hint = f'write "{{{{ entry.{reference} }}}}" or "{{{{ profile.{reference} }}}}"'
        self._problems.warn(path, "literal-reference", said, hint)

    def _literals(self, raw: Any, path: Path, key: str) -> None:
        if isinstance(raw, str):
            self._literal(raw, path, key, None)
        elif isinstance(raw, list):
            for one, at in _numbered(raw, path):
                self._literals(one, at, key)
        elif isinstance(raw, dict):
            for name, one in raw.items():
                self._literals(one, (*path, name), name)

    def _name(self, name: Any, path: Path, hint: str, *, at_key: bool = False) -> None:
        """Look at a name that is compared exactly."""
        if not isinstance(name, str):
            return
        if _is_template(name):
            said = "a template is not rendered here, and stands for itself"
            self._problems.warn(path, "template-not-rendered", said, hint, at_key=at_key)
        elif _trimmed(name) != name:
            said = f"{shown(name)} has a space at one end, or a character that nobody sees; names are compared exactly"
            self._problems.warn(path, "space-around-name", said, f"write {shown(_trimmed(name))}", at_key=at_key)

    # ---- steps -------------------------------------------------------------------------------------------------

    def _steps(self, raw: Any, path: Path) -> None:
        for step, at in _numbered(raw, path):
            if isinstance(step, dict):
                self._step(step, at)

    def _step(self, step: dict[str, Any], path: Path) -> None:
        if "send" in step:
            self._send(step, path)
        for key in ("vars", "set"):
            if isinstance(values := step.get(key), dict):
                for name in values:
                    self._name(name, (*path, key, name), "write the name itself", at_key=True)
                self._literals(values, (*path, key), key)
        self._waits(step, path)
        kind = next((kind for kind in ("split", "experiment") if kind in step), None)
        if kind is not None and "id" not in step:
            said = f"a {kind} without 'id': its users are drawn anew when its place in the file changes"
            self._problems.warn(path, "missing-id", said, "give it an id")
        if isinstance(experiment := step.get("experiment"), dict):
            self._goal(experiment.get("goal"), (*path, "experiment", "goal"))
        for label, one in _entries(step.get("wait_for")):
            self._event(one, (*path, "wait_for", label), _JOURNEY, group=(*path, "wait_for"))
        for label, steps in _entries(step.get("then")):
            self._steps(steps, (*path, "then", label))
        self._times(step.get("times"), (*path, "times"))
        for key in ("branch", "times"):
            for arm, at in _numbered(step.get(key), (*path, key)):
                if isinstance(arm, dict):
                    self._when(arm.get("when"), (*at, "when"))
                    for name in ("steps", "else"):
                        self._steps(arm.get(name), (*at, name))
        for steps, at in _numbered(step.get("parallel"), (*path, "parallel")):
            self._steps(steps, at)

    def _goal(self, raw: Any, path: Path) -> None:
        self._event(raw, path, _JOURNEY, group=path)
        name = raw.get("event") if isinstance(raw, dict) else None
        if self._has_key and isinstance(name, str) and name.startswith("$"):
            said = f"'{name}' is a receipt, which has no key property: in a flow with a key nobody reaches this goal"
            hint = "choose an event that has the property of 'entry.key', or remove the key"
            self._problems.warn((*path, "event"), "unreachable-goal", said, hint)

    def _send(self, step: dict[str, Any], path: Path) -> None:
        template = step.get("template")
        self._name(
            template, (*path, "template"), "write the channel's name for the message, and what varies into 'vars'"
        )
        channel, to = step.get("send"), step.get("to")
        if isinstance(template, str) and isinstance(channel, str):
            self._message(channel, template, step.get("vars"), path)
        if not isinstance(to, str) or _is_template(to):
            return
        reference = _literal_reference(to, "to", is_rendered=True)
        attributes = {address for address in DEFAULT_ADDRESSES.values() if address}
        if reference is None and (to in attributes or (channel in ("sms", "email") and _WORD.fullmatch(to))):
            reference = f"profile.{to}"
        if reference is not None:
            said = f"every message goes to the text {shown(to)}, which is no address"
            hint = f'write "{{{{ {reference} }}}}"'
            if isinstance(channel, str) and reference == f"profile.{DEFAULT_ADDRESSES.get(channel)}":
                hint = "leave it out: that attribute is the address of this channel"
            self._problems.warn((*path, "to"), "literal-address", said, hint)

    def _message(self, channel: str, name: str, given: Any, path: Path) -> None:
        """Look whether a message that stands in files is there, and gets the variables that it needs."""
        needs = self._messages.needs.get(name)
        if needs is None and channel in self._messages.always:
            said = f"there is no message {shown(name)} in templates/: what is sent here is rejected"
            self._problems.warn((*path, "template"), "no-message", said, did_you_mean(name, self._messages.needs))
        if needs is None or channel in self._messages.never:
            return
        for reference in sorted(needs, key=str):
            value: Any = given if isinstance(given, dict) else {}
            for index, part in enumerate(reference):
                if not isinstance(value, dict):
                    break  # What a template gives is not known here.
                if part not in value:
                    lacks = ".".join(map(str, ("vars", *reference[: index + 1])))
                    said = f"the message {shown(name)} needs {lacks}, which is not given: what is sent here is rejected"
                    hint = did_you_mean(str(part), map(str, value))
                    hint = hint or f"give it, or write {{{{ {lacks} | default: '' }}}} in the message"
                    self._problems.warn((*path, "vars"), "missing-variable", said, hint)
                    break
                value = value[part]

    def _waits(self, step: dict[str, Any], path: Path) -> None:
        wait = step.get("wait")
        durations: list[tuple[Any, Path]] = [(step.get("timeout"), (*path, "timeout"))]
        if isinstance(wait, dict):
            durations.append((wait.get("for"), (*path, "wait", "for")))
            self._event(wait.get("without"), (*path, "wait", "without"), _JOURNEY, group=(*path, "wait"))
            self._until(wait.get("until"), (*path, "wait", "until"))
        else:
            durations.append((wait, (*path, "wait")))
        for written, at in durations:
            if self._active_ms is None or not isinstance(written, str):
                continue
            try:
                longer = parse_duration(written) > self._active_ms
            except BadValue:
                continue
            if longer:
                said = f"{written} is longer than the flow is active: everybody goes on after its end"
                hint = f"'active' has {self._active_ms / DAY:.3g} days; shorten the wait, or extend 'active'"
                self._problems.warn(at, "wait-beyond-active", said, hint)

    def _until(self, written: Any, path: Path) -> None:
        until = _moment(written)
        if until is not None:
            latest = until.ms_in_utc() if until.offset_ms is not None else until.local_ms + _FURTHEST_WEST
            if latest <= self._now_ms:
                said = f"{written} is past: nobody waits here"
                self._problems.warn(path, "past-moment", said, "write a later one, or remove the step")

    def _times(self, raw: Any, path: Path) -> None:
        """Look at the moments of a `times`; those with an offset compare with one another, and so do the others."""
        latest: dict[bool, tuple[int, str]] = {}
        for branch, at in _numbered(raw, path):
            written = branch.get("at") if isinstance(branch, dict) else None
            self._until(written, (*at, "at"))
            moment = _moment(written)
            if moment is None:
                continue
            is_local = moment.offset_ms is None
            before_ms, before = latest.get(is_local, (moment.ms_in_utc(), ""))
            if moment.ms_in_utc() < before_ms:
                said = f"{written} comes before {before}, which is written above it"
                self._problems.warn((*at, "at"), "times-out-of-order", said, "write them in order of time")
            else:
                latest[is_local] = moment.ms_in_utc(), str(written)


# ---- what is written -----------------------------------------------------------------------------------------------


def _moment(written: Any) -> Moment | None:
    moment = parse_local(written) if isinstance(written, str) else None
    return None if moment is None else Moment(*moment)


def _is_template(text: str) -> bool:
    return "{{" in text or "{%" in text


def _literal_reference(text: str, key: str, *, is_rendered: bool) -> str | None:
    """Return what *text* seems to refer to without being a template, None for nothing.

    `entry.create` may be the name of something: where no templates are rendered as a rule, it must be written for a
    property of the same name.
    """
    if (braces := _IN_BRACES.fullmatch(text)) is not None:
        return braces[1]
    found = _REFERENCE.fullmatch(text)
    if found is None:
        return None
    same = found[2].rpartition(".")[2] == key.rpartition(".")[2]
    if found[1] == "profile" or same or (is_rendered and found[1] == "entry"):
        return text
    return None


def _listed(raw: Any) -> list[Any]:
    return raw if isinstance(raw, list) else []


def _numbered(raw: Any, path: Path) -> list[tuple[Any, Path]]:
    return [(one, (*path, index)) for index, one in enumerate(_listed(raw))]


def _entries(raw: Any) -> list[tuple[str, Any]]:
    return list(raw.items()) if isinstance(raw, dict) else []


def _alternatives(raw: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Yield an event, or each of those under `any` or `all`, with its place."""
    if not isinstance(raw, dict):
        return
    word = next((word for word in ("any", "all") if word in raw and "event" not in raw), None)
    if word is None:
        yield path, raw
    else:
        for one, at in _numbered(raw[word], (*path, word)):
            yield at, one


def _fields(raw: Any, path: Path) -> Iterator[tuple[str, Any, Path]]:
    """Yield every key of a condition with its value and place, also those in `any`, `all` and `not`."""
    for key, value in _entries(raw):
        if key in ("any", "all"):
            for one, at in _numbered(value, (*path, key)):
                yield from _fields(one, at)
        elif key == "not":
            yield from _fields(value, (*path, key))
        else:
            yield key, value, (*path, key)
