"""Runs over audiences in one shard: every member enters at the planned time, once, whatever happens meanwhile.

A run goes through the shard's members in the order of their ids, some in each turn. How far it has come stands in the
shard's own record, which is committed with the users, so a run that was interrupted goes on where it was. Whoever is
handled for another reason before their turn has come takes part first, and gets a mark that says so. Whoever is no
member at the planned time gets the mark, too: joining later, nobody is taken for one who was there. Marks go when no
run asks for them, and with the last audience of a user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import merge
from typing import Final

from operators.machine.deployment import Deployment
from operators.machine.outbox import Mistake, Outbox
from operators.machine.planning import Planner
from operators.machine.run import on_run
from state.meta import Run
from state.store import ShardStore, Slot
from state.user import User

MEMBERS_AT_ONCE: Final = 1000


class AudienceRuns:
    """The runs of one shard.

    Args:
        fire: fires what is due for a user by a time (ms), all of it as of its own time.
        partitions: the keys of all source partitions.
        begins: when versions of flows begin, see `Planner`.
    """

    def __init__(
        self,
        store: ShardStore,
        deployment: Deployment,
        out: Outbox,
        fire: Callable[[str, User, int], None],
        *,
        partitions: Sequence[str],
        begins: Mapping[str, int],
    ) -> None:
        self._store = store
        self._deployment = deployment
        self._out = out
        self._fire = fire
        meta = store.meta
        self.pending: list[Run] = meta.runs
        """The runs that are decided and not over, in order of time; time may not have come to the last of them yet."""
        self._planner = Planner(deployment.scheduled, meta.planned, partitions, begins, meta.time_ms)
        self._is_begun = False  # Whether the first run's members are looked up.
        self._members: list[str] = []  # The next ones of the first run, the one whose turn it is last.
        self._note_changes()

    @property
    def next_ms(self) -> int:
        """The first planned time that is not decided; -1 while it is not known when a flow begins."""
        return self._planner.next_ms

    @property
    def waits_until_ms(self) -> int:
        """Before its time has come to this, the shard has nothing to do for runs; see `Shard.waits_until_ms`."""
        return min(self.next_ms, self.pending[0].at_ms) if self.pending else self.next_ms

    def under_way(self, time_ms: int) -> Iterator[str]:
        """Yield the names of the flows of which a run has begun by *time_ms* and is not over, once for each run."""
        for run in self.pending:
            if run.at_ms <= time_ms:
                yield from run.flows

    def hear(self, partition: str, first_ms: int | None, is_over: bool, updates: Iterable[tuple[str, int]]) -> None:
        """Take in what a source partition says.

        Args:
            first_ms: when its first record came, or how late it was without one; None: there has been none so far.
            is_over: nothing more comes from there.
            updates: audiences that were updated, and when.
        """
        if first_ms is not None or is_over:
            self._planner.hear_first(partition, first_ms)
        self._planner.hear_updates(updates)
        self._note_changes()

    def decide_before(self, time_ms: int) -> None:
        """Decide what is planned before *time_ms*, as far as nothing is still to be heard of that matters."""
        while self._planner.next_ms < time_ms and self._planner.is_sure:
            self.decide()

    def decide(self) -> None:
        """Decide what is planned next: all that matters has been heard."""
        run = self._planner.decide()
        if run is not None:
            self.pending.append(run)
        self._note_changes()

    # ---- users -------------------------------------------------------------------------------------------------

    def catch_up(self, user_id: str, user: User, now: int) -> None:
        """Let a user who is about to be handled at *now* take part in all runs that were planned by then."""
        for run in self.pending:
            if run.at_ms > now:
                return
            if user_id > run.cursor:
                self._take_part(run, user_id, user, marked=True)

    def forget(self, user: User) -> None:
        """Drop the marks of a user who has been handled, if no run will ask for them."""
        if user.runs and not (self.pending and user.audiences):
            user.runs.clear()

    def next_member(self, time_ms: int, due: int) -> str | None:
        """Return who takes part next in the first run, None when by *time_ms* all have.

        Args:
            due: when the next wake-up falls due. They can make somebody a member, so a run does not begin before all
                earlier ones have fired, and is not over before those of its own time have.
        """
        while self.pending and self.pending[0].at_ms <= time_ms:
            if self._members:
                return self._members[-1]
            run = self.pending[0]
            if due < run.at_ms:
                return None
            if not self._is_begun:
                self._is_begun = True
                self._store.spill()  # Who has joined by now is among the rows then.
            found = self._members_behind(run)
            if found:
                self._store.prefetch(found)
                self._members = found[::-1]
            elif due <= run.at_ms:
                return None
            else:
                del self.pending[0]
                self._is_begun = False
                self._store.meta_changed = True
        return None

    def is_before(self, due: tuple[int, str, Slot]) -> bool:
        """Tell whether the member whose turn it is comes before the wake-up of a user: wake-ups go first in a tie."""
        return (self.pending[0].at_ms, self._members[-1]) < due[:2]

    def enter(self) -> None:
        """Let the member whose turn it is take part."""
        run, user_id = self.pending[0], self._members.pop()
        slot = self._store.slot(user_id)
        try:
            self._take_part(run, user_id, slot.user)
        except Exception as error:
            self._out.mistakes.append(Mistake("run", "", error))
        run.cursor = user_id
        self._store.touch(user_id, slot, self._deployment.due_of(slot.user))
        self._store.meta_changed = True

    def _take_part(self, run: Run, user_id: str, user: User, *, marked: bool = False) -> None:
        flows = [flow for flow in run.flows if user.runs.get(flow, -1) < run.at_ms]
        if flows:
            self._fire(user_id, user, run.at_ms)
            on_run(self._deployment, user_id, user, flows, run.at_ms, self._out)
            if marked:
                user.runs.update(dict.fromkeys(flows, run.at_ms))

    def _members_behind(self, run: Run) -> list[str]:
        """Return the next members of the run's audiences behind its cursor, in order."""
        programs = (self._deployment.entering_by_name.get(flow) for flow in run.flows)
        runs = [program.runs for program in programs if program is not None and program.runs is not None]
        audiences = {audience for one in runs for audience in one.audiences}
        found: list[str] = []
        last = run.cursor
        for user_id in merge(*(self._store.members(audience, run.cursor) for audience in audiences)):
            if user_id > last:
                found.append(user_id)
                last = user_id
                if len(found) == MEMBERS_AT_ONCE:
                    break
        return found

    def _note_changes(self) -> None:
        if self._planner.has_changed:
            self._planner.has_changed = False
            self._store.meta_changed = True


def runs_of(
    store: ShardStore,
    deployment: Deployment,
    out: Outbox,
    fire: Callable[[str, User, int], None],
    *,
    partitions: Sequence[str],
    begins: Mapping[str, int],
) -> AudienceRuns | None:
    """Return the runs of a shard, None where there are none and have been none."""
    meta = store.meta
    if not (deployment.scheduled or meta.planned or meta.runs):
        return None
    return AudienceRuns(store, deployment, out, fire, partitions=partitions, begins=begins)
