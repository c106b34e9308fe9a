"""Which runs over audiences take place: decided once for each planned time, and the same in every shard.

A decision follows from what all shards hear alike: when a flow version began, its schedule, and when its audiences were
updated. So it needs no word between shards, and a replay decides the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from operators.language.schedule import Now
from operators.program.program import Program
from operators.triggers.audience import Runs
from state.meta import Planned, Run
from state.user import NEVER

BY_THE_FIRST_RECORD: Final = -1
"""A version begins with the first record after its deployment, over all source partitions."""


class Planner:
    """Decides which runs take place.

    Args:
        programs: the versions in which users enter by runs, in the order in which they act on one user.
        planned: what is known of the runs of each version, by its label; changed here.
        partitions: the keys of all source partitions.
        begins: when versions begin, by their labels; those that are missing begin by the first record.
        now_ms: the time that has been reached: nothing begins before.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        planned: dict[str, Planned],
        partitions: Sequence[str],
        begins: Mapping[str, int],
        now_ms: int,
    ) -> None:
        self._programs = [(program, program.runs) for program in programs if program.runs is not None]
        self._planned = planned
        self._partitions = frozenset(partitions)
        self._now_ms = now_ms
        self._next: dict[str, int] = {}
        self.has_changed = False
        """Whether something in what is known has changed; set back by whoever writes it down."""
        self.next_ms = NEVER
        """The first planned time that is not decided; -1 while that is not known."""
        self._look_at_the_deployment(begins)

    def _look_at_the_deployment(self, begins: Mapping[str, int]) -> None:
        here = {program.label: runs for program, runs in self._programs}
        for label, one in self._planned.items():
            if label not in here and not one.is_idle:
                one.is_idle = self.has_changed = True
        for label, runs in here.items():
            one = self._planned.get(label) or self._planned.setdefault(label, Planned())
            if one.is_idle:
                # Other versions were in force meanwhile, and what was planned then is past: it begins anew.
                if not isinstance(runs.schedule, Now) or one.begin_ms < 0:
                    one.begin_ms, one.first_ms, one.heard = -1, NEVER, []
                one.is_idle, self.has_changed = False, True
            if one.begin_ms >= 0:
                continue
            begin_ms = begins.get(label, BY_THE_FIRST_RECORD)
            if begin_ms != BY_THE_FIRST_RECORD:
                self._begin(one, begin_ms)
            elif not self._awaits(one) and one.first_ms == NEVER:
                one.heard, self.has_changed = [], True  # There were no records at all.
        self._find_next()

    # ---- what is heard -----------------------------------------------------------------------------------------

    def hear_first(self, partition: str, at_ms: int | None) -> None:
        """Take note that *partition* had its first record since the start at *at_ms*, or will have none."""
        for program, _ in self._programs:
            one = self._planned[program.label]
            if one.begin_ms < 0 and partition not in one.heard:
                one.heard.append(partition)
                self.has_changed = True
                if at_ms is not None:
                    one.first_ms = min(one.first_ms, at_ms)
                if not self._awaits(one) and one.first_ms < NEVER:
                    self._begin(one, max(one.first_ms, self._now_ms))
                self._find_next()

    def _awaits(self, one: Planned) -> bool:
        """Tell whether partitions are still to be heard before the beginning is known."""
        return not self._partitions.issubset(one.heard)

    def hear_updates(self, updates: Iterable[tuple[str, int]]) -> None:
        """Take note that audiences, by their names, were updated at these times (ms)."""
        for audience, at_ms in updates:
            for program, runs in self._programs:
                if runs.skips_unchanged and audience in runs.audiences:
                    known = self._planned[program.label].updates.setdefault(audience, [])
                    if at_ms not in known:
                        known.append(at_ms)
                        self.has_changed = True

    def _begin(self, one: Planned, begin_ms: int) -> None:
        one.begin_ms, one.heard, self.has_changed = begin_ms, [], True

    # ---- what is decided ---------------------------------------------------------------------------------------

    @property
    def is_sure(self) -> bool:
        """Whether nothing that is still to be heard can change what is decided for the next planned time."""
        if self.next_ms < 0:
            return False
        return all(
            not runs.skips_unchanged or self._planned[program.label].last_ms < 0
            for program, runs in self._programs
            if self._next[program.label] == self.next_ms
        )

    def decide(self) -> Run | None:
        """Decide the next planned time: return the run that takes place then, None if none does."""
        at_ms = self.next_ms
        flows = []
        for program, runs in self._programs:
            if self._next[program.label] != at_ms:
                continue
            one = self._planned[program.label]
            one.done_ms = at_ms
            if not _is_skipped(runs, one, at_ms):
                one.ran, one.last_ms = one.ran + 1, at_ms
                flows.append(program.name)
            _forget_updates(one, at_ms)
        self.has_changed = True
        self._find_next()
        return Run(at_ms, flows) if flows else None

    def _find_next(self) -> None:
        for program, runs in self._programs:
            self._next[program.label] = self._next_of(runs, self._planned[program.label])
        self.next_ms = min(self._next.values(), default=NEVER)

    def _next_of(self, runs: Runs, one: Planned) -> int:
        if one.begin_ms < 0:
            return -1 if self._awaits(one) else NEVER
        if runs.at_most is not None and one.ran >= runs.at_most:
            return NEVER
        found = runs.schedule.first_from(max(one.begin_ms, one.done_ms + 1), one.begin_ms)
        return NEVER if found is None else found


def _is_skipped(runs: Runs, one: Planned, at_ms: int) -> bool:
    if not runs.skips_unchanged or one.last_ms < 0:
        return False
    return not all(
        any(one.last_ms <= updated_ms < at_ms for updated_ms in one.updates.get(audience, ()))
        for audience in runs.audiences
    )


def _forget_updates(one: Planned, at_ms: int) -> None:
    """Keep what a later decision can ask for: of what was before, that there was something since the last run."""
    for audience, times in one.updates.items():
        since = [at for at in times if one.last_ms <= at < at_ms]
        one.updates[audience] = [*since[:1], *(at for at in times if at >= at_ms)]
