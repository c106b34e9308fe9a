"""The ways through the steps of a flow: steps that no journey reaches, and loops on which nothing waits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from operators.language.problems import PROBLEMS_MAX, Problems
from operators.steps.base import Lane, Node
from operators.steps.fork import ForkStep

LOOP_SHOWN_MAX: Final = 12  # Steps of an endless loop that are named.
_DONE: Final = object()


def check_paths(first: Node | None, nodes: Mapping[str, Node], problems: Problems, *, is_lost: bool) -> None:
    """Note steps that no journey reaches, and loops on which nothing waits.

    Args:
        is_lost: somewhere a journey goes on at a step that is not known: any that has a name of its own may be meant.
    """
    ways = _Ways(is_lost=is_lost)
    reached: set[Node] = set()
    todo = [first] if first is not None else []
    if is_lost:
        todo.extend(node for node in nodes.values() if node.id != ".".join(map(str, node.path)))
    while todo:
        node = todo.pop()
        if node in reached:
            continue
        reached.add(node)
        todo.extend(following for following in ways.after(node) if following is not None)
    dead = [node for node in nodes.values() if node not in reached]
    inside = {following for node in dead for following in node.step.ways(node) if following is not node}
    for node in dead:
        if node not in inside:  # Only where a dead part begins is worth a message.
            hint = "remove it, or let a step lead here"
            problems.add(node.path, "unreachable-step", f"no way leads to '{node.id}'", hint)
    order = {node: number for number, node in enumerate(sorted(nodes.values(), key=_document_order))}
    for found in _loops(nodes, ways):
        start = min(range(len(found)), key=lambda index: order[found[index]])
        loop = found[start:] + found[:start]
        names = [node.id for node in loop]
        if len(names) > LOOP_SHOWN_MAX:
            names[LOOP_SHOWN_MAX - 1 : -1] = ["..."]
        way = " -> ".join([*names, names[0]])
        if dated := [node.id for node in loop if node.step.kind in ("wait", "times")]:
            said = f"{way}: nothing on this loop surely waits; the date of '{dated[0]}' is past the second time round"
            hint = "wait for a duration or a time of day on it, too, or end one of these paths"
        else:
            said, hint = f"{way}: nothing on this loop waits", "put a wait on it, or end one of these paths"
        problems.add(loop[0].path, "endless-loop", said, hint)


class _Ways:
    """Where a journey may go on after a step. What comes after a step that forks is there only once all of its lanes
    can come to their end.

    Args:
        is_lost: as for `check_paths`: then any lane may.
    """

    def __init__(self, *, is_lost: bool) -> None:
        self._is_lost = is_lost
        self._ending: dict[tuple[Lane, bool], bool] = {}

    def after(self, node: Node) -> Iterator[Node | None]:
        """Yield every node at which a journey may go on after *node*; None is the end of its lane."""
        return self._after(node, without_wait=False)

    def without_wait_after(self, node: Node) -> Iterator[Node | None]:
        """Yield those at which it may be without having waited since it came to *node*."""
        return self._after(node, without_wait=True)

    def _after(self, node: Node, *, without_wait: bool) -> Iterator[Node | None]:
        step = node.step
        if not isinstance(step, ForkStep):
            yield from step.ways(node)
            return
        for lane in step.lanes:
            yield lane.first
        if self._comes_together(step, without_wait):
            yield node.next

    def _comes_together(self, step: ForkStep, without_wait: bool) -> bool:
        return all(self._ends(lane, without_wait) for lane in step.lanes)

    def _ends(self, lane: Lane, without_wait: bool) -> bool:
        """Tell whether a branch can come to the end of *lane*."""
        known = self._ending.get((lane, without_wait))
        if known is None:
            known = self._ending[lane, without_wait] = self._finds_an_end(lane, without_wait)
        return known

    def _finds_an_end(self, lane: Lane, without_wait: bool) -> bool:
        todo, seen = [lane.first], set[Node | None]()
        while todo:
            node = todo.pop()
            if node is None:
                return True
            if node in seen or (without_wait and node.step.holds):
                continue
            seen.add(node)
            if not isinstance(node.step, ForkStep):
                todo.extend(node.step.ways(node))
            elif self._comes_together(node.step, without_wait):
                todo.append(node.next)
        return self._is_lost and not without_wait


def _document_order(node: Node) -> tuple[tuple[int, int, str], ...]:
    return tuple((0, part, "") if isinstance(part, int) else (1, 0, part) for part in node.path)


def _loops(nodes: Mapping[str, Node], ways: _Ways) -> list[list[Node]]:
    """Return one loop for each knot of steps on which nothing waits; no more than anybody is told of."""
    found: list[list[Node]] = []
    done: set[Node] = set()
    for start in nodes.values():
        if start in done or start.step.holds or len(found) >= PROBLEMS_MAX:
            continue
        path: list[Node] = []
        on_path: dict[Node, int] = {}
        stack: list[tuple[Node, Iterator[Node | None]]] = [(start, ways.without_wait_after(start))]
        path.append(start)
        on_path[start] = 0
        while stack:
            node, left = stack[-1]
            following = next(left, _DONE)
            if following is _DONE:
                stack.pop()
                path.pop()
                del on_path[node]
                done.add(node)
            elif isinstance(following, Node) and not following.step.holds:
                if following in on_path:
                    if len(found) >= PROBLEMS_MAX:
                        continue
                    found.append(path[on_path[following] :])
                elif following not in done:
                    stack.append((following, ways.without_wait_after(following)))
                    on_path[following] = len(path)
                    path.append(following)
    return found
