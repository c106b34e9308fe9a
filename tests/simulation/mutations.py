"""The protocol, broken on purpose: one way at a time, each where it would hurt most.

Each mutation takes pytest's monkeypatch and changes the product's code as it runs; nothing in the product knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import pytest

from connectors.sinks import Ends
from dataflow import readback
from dataflow.emit import Emitter
from dataflow.job import lifecycle
from dataflow.job.lifecycle import Course
from dataflow.job.worker import Worker
from dataflow.keep import recovery
from dataflow.read.partition import Partition
from dataflow.read.progress import ProgressLog
from dataflow.readback import Decided, ReadBack
from dataflow.shard import Shard
from operators.machine import journey
from operators.machine.context import AtStep
from state import store
from state import undo as undoing
from state.registerfile import RegisterFile, ShardRegister
from state.store import ShardStore
from state.user import NEVER, User, dump_user, load_user
from tests.simulation import world
from tests.simulation.broker import SimulatedSink
from tests.simulation.disk import SimulatedBackend
from tests.simulation.engine import Execution
from tests.simulation.scenario import PAUSED, RULED, loaded

SENDS = frozenset(
    id for number in range(RULED + PAUSED) for program in loaded(number).deployment.programs.values()
    for id, node in program.nodes.items() if node.step.kind == "send"
)  # fmt: skip
Patch = pytest.MonkeyPatch
Mutation = Callable[[Patch], None]


def never_wait_for_an_acknowledgement(patch: Patch) -> None:
    patch.setattr(SimulatedSink, "confirm", lambda self: self.deliver())


def do_not_sync_a_commit(patch: Patch) -> None:
    patch.setattr(SimulatedBackend, "sync", lambda self: None)


def do_not_roll_back(patch: Patch) -> None:
    patch.setattr(ShardStore, "roll_back", lambda self, commit: None)


def forget_what_was_spilled_when_rolling_back(patch: Patch) -> None:
    roll_back = ShardStore.roll_back

    def only_commits(self: ShardStore, commit: int) -> None:
        if commit < self.meta.commit:
            roll_back(self, commit)

    patch.setattr(ShardStore, "roll_back", only_commits)


def drop_undo_too_early(patch: Patch) -> None:
    patch.setattr(undoing, "UNDO_KEPT", 1)


def undo_users_without_their_timers(patch: Patch) -> None:
    load = undoing.load_undo

    def without_timers(row: bytes) -> Any:
        return {key: before for key, before in load(row).items() if not (key[:1] == b"t" and before == b"")}

    patch.setattr(undoing, "load_undo", without_timers)


def undo_users_without_their_counts(patch: Patch) -> None:
    load = undoing.load_undo
    patch.setattr(
        undoing, "load_undo", lambda row: {key: before for key, before in load(row).items() if key[:1] != b"c"}
    )


def undo_users_without_their_audiences(patch: Patch) -> None:
    """The list of an audience's members stays as it is."""
    load = undoing.load_undo
    patch.setattr(
        undoing, "load_undo", lambda row: {key: before for key, before in load(row).items() if key[:1] != b"a"}
    )


def spill_without_undo(patch: Patch) -> None:
    put_changes = ShardStore._put_changes

    def put(self: ShardStore, changes: Any, commit: int, before: Any) -> None:
        is_spilled = not before
        put_changes(self, changes, commit, before)
        if is_spilled:
            changes.rows = {key: row for key, row in changes.rows.items() if key[:1] != b"z"}

    patch.setattr(ShardStore, "_put_changes", put)


def forget_who_was_still_to_be_woken(patch: Patch) -> None:
    drain = Shard.drain

    def once(self: Shard, allowance: Any) -> None:
        drain(self, allowance)
        self.is_behind = False

    patch.setattr(Shard, "drain", once)


def forget_held_records_at_a_checkpoint(patch: Patch) -> None:
    settle = Shard.settle

    def without_held(self: Shard) -> None:
        settle(self)
        self.store.meta.held = []

    patch.setattr(Shard, "settle", without_held)


def do_not_note_progress(patch: Patch) -> None:
    patch.setattr(ProgressLog, "note", lambda self, next_offset, stream_ms: None)


def note_progress_after_it_went_out(patch: Patch) -> None:
    note, step, snapshot = Partition._note, Partition.step, Partition.snapshot
    # By the partition itself, not by its address, which the partition of a later life may get.
    late: WeakKeyDictionary[Partition, list[tuple[int, int]]] = WeakKeyDictionary()

    def catch_up(self: Partition) -> None:
        for position, stream_ms in late.pop(self, []):
            note(self, position, stream_ms)

    def later(self: Partition, position: int, stream_ms: int) -> None:
        late.setdefault(self, []).append((position, stream_ms))

    def catch_up_and_step(self: Partition) -> Any:
        catch_up(self)
        return step(self)

    def catch_up_and_snapshot(self: Partition) -> Any:
        catch_up(self)
        return snapshot(self)

    patch.setattr(Partition, "_note", later)
    patch.setattr(Partition, "step", catch_up_and_step)
    patch.setattr(Partition, "snapshot", catch_up_and_snapshot)


def forget_the_time_of_a_partition(patch: Patch) -> None:
    snapshot = Partition.snapshot
    patch.setattr(Partition, "snapshot", lambda self: [snapshot(self)[0], -1])


def resume_sources_behind_the_cut(patch: Patch) -> None:
    open_partition = Worker.open_partition

    def newest(self: Worker, number: int, resumed: list[int] | None) -> Partition:
        noted = worlds_progress(self, number)
        if resumed is not None and noted and noted[-1][0] > resumed[0]:
            resumed = list(noted[-1])
        return open_partition(self, number, resumed)

    patch.setattr(Worker, "open_partition", newest)


def worlds_progress(worker: Worker, number: int) -> list[tuple[int, int]]:
    """Return what the progress log of a partition says."""
    from dataflow.read.progress import read_progress

    return read_progress(worker.outside.progress, worker.plan.partitions[number].key)


def do_not_read_back(patch: Patch) -> None:
    patch.setattr(Emitter, "read_back", lambda self, starts: None)


def read_back_from_the_ends(patch: Patch) -> None:
    def ends(self: Course, file: Any, cut: Any, sink: Any, topics: Sequence[str]) -> Ends:
        return sink.ends(list(topics), settled=True)  # type: ignore[no-any-return]

    patch.setattr(Course, "_read_back_from", ends)


def do_not_wait_until_the_topics_stand_still(patch: Patch) -> None:
    ends = SimulatedSink.ends

    def at_once(self: SimulatedSink, topics: Sequence[str], *, settled: bool = False) -> Ends:
        return ends(self, topics)

    patch.setattr(SimulatedSink, "ends", at_once)


def go_by_the_highest_seq_alone(patch: Patch) -> None:
    """Whatever is at or below the highest `seq` found on its topic counts as written."""
    take, judge = ReadBack.take, ReadBack.judge
    highest: WeakKeyDictionary[ReadBack, dict[tuple[str, str], int]] = WeakKeyDictionary()

    def note(self: ReadBack, *arguments: Any, **options: Any) -> None:
        take(self, *arguments, **options)
        found = self._left.items()
        highest[self] = {(topic, user): max(left)[0] for user, topics in found for topic, left in topics.items()}

    def also_below(self: ReadBack, decided: Sequence[Decided]) -> Any:
        verdict = judge(self, decided)
        for topic, record in decided:
            if record.seq <= highest[self].get((topic, record.user_id), 0):
                verdict.written.add(id(record))
        return verdict

    patch.setattr(ReadBack, "take", note)
    patch.setattr(ReadBack, "judge", also_below)


def keep_one_seq_per_user_for_all_topics(patch: Patch) -> None:
    """A record counts as written once any topic has its `seq`."""
    judge = ReadBack.judge

    def on_any(self: ReadBack, decided: Sequence[Decided]) -> Any:
        found = {
            (user, seq) for user, topics in self._left.items() for left in topics.values() for seq, _ in left
        }  # fmt: skip
        verdict = judge(self, decided)
        for _, record in decided:
            if (record.user_id, record.seq) in found:
                verdict.written.add(id(record))
        return verdict

    patch.setattr(ReadBack, "judge", on_any)


def do_not_compare_what_was_read_back(patch: Patch) -> None:
    patch.setattr(readback, "_is_same", lambda read_back, decided: True)


def take_the_ends_for_decided_amid_a_replay(patch: Patch) -> None:
    patch.setattr(Emitter, "ends", lambda self, shard: self._ends)


def let_other_flows_take_over_at_once(patch: Patch) -> None:
    patch.setattr(Course, "_finish_the_last_run", lambda self, *_: False)


def call_every_stop_clean(patch: Patch) -> None:
    patch.setattr(Course, "_has_caught_up", lambda self, file: True)
    patch.setattr(Worker, "has_due", False)


def ask_the_register_anew_in_a_replay(patch: Patch) -> None:
    patch.setattr(ShardRegister, "_was_told", lambda self, *_: False)


def go_by_what_is_known_before_what_was_said(patch: Patch) -> None:
    """What is full is full, and who has won has won, whatever a user was told before."""
    was_told = RegisterFile.was_told

    def unless_it_is_over(self: RegisterFile, question: str, user_id: str, seq: int) -> bool:
        known = self.questions().get(question)
        is_over = known is not None and (known.winner is not None or known.taken >= 2)
        return not is_over and was_told(self, question, user_id, seq)

    patch.setattr(RegisterFile, "was_told", unless_it_is_over)


def forget_what_was_said_with_the_next_commit(patch: Patch) -> None:
    forget = RegisterFile.forget
    patch.setattr(
        RegisterFile, "forget", lambda self, commits: forget(self, {key: number + 3 for key, number in commits.items()})
    )


def send_before_the_answer_is_on_disk(patch: Patch) -> None:
    patch.setattr(RegisterFile, "confirm", lambda self: self._confirmed)


def let_who_is_held_out_take_a_place(patch: Patch) -> None:
    patch.setattr(ShardRegister, "look", ShardRegister.enter)


def decide_the_winner_anew_in_every_process(patch: Patch) -> None:
    question = RegisterFile._question
    patch.setattr(RegisterFile, "_question", lambda self, name: (question(self, name)[0], None))


def leave_out_processes_that_have_noted_nothing(patch: Patch) -> None:
    def resume_epoch(connections: Any) -> int:
        (connection,) = connections
        last = connection.execute("SELECT ex_num, resume_epoch FROM exs ORDER BY 1 DESC LIMIT 1").fetchone()
        if last is None:
            return 1
        least = connection.execute("SELECT MIN(worker_frontier) FROM fronts WHERE ex_num = ?", last[:1]).fetchone()[0]
        return last[1] if least is None else int(least)

    patch.setattr(recovery, "_resume_epoch", resume_epoch)


def forget_how_far_time_ran_on(patch: Patch) -> None:
    move = Shard._move_time

    def forget(self: Shard) -> None:
        move(self)
        self._ran_on = False

    patch.setattr(Shard, "_move_time", forget)


def leave_what_a_dead_execution_remembered(patch: Patch) -> None:
    patch.setattr(world, "forget_from", lambda connection, epoch: None)


def look_who_is_inside_only_before_the_old_flows_finish(patch: Patch) -> None:
    check, check_state, finish = Course._check_flows, Course._check_state, Course._finish_the_last_run

    def finish_and_look_no_more(self: Course, *arguments: Any) -> bool:
        found = finish(self, *arguments)
        patch.setattr(Course, "_check_flows", lambda *_: None)
        return found

    def check_state_first(self: Course, file: Any, cut: Any) -> None:
        patch.setattr(Course, "_check_flows", check)
        check_state(self, file, cut)

    patch.setattr(Course, "_check_state", check_state_first)
    patch.setattr(Course, "_finish_the_last_run", finish_and_look_no_more)


def do_not_note_what_the_clock_said(patch: Patch) -> None:
    step = Partition.step

    def as_if_noted(self: Partition) -> Any:
        self._noted = (-2, max(self._noted[1], self.time.now_ms))
        return step(self)

    patch.setattr(Partition, "step", as_if_noted)


def let_a_new_partition_begin_before_all_time(patch: Patch) -> None:
    begin = Course._begin_what_was_added

    def without_time(self: Course, file: Any, *arguments: Any) -> None:
        begin(self, file, *arguments)
        file.begins = {key: (offset, -1) for key, (offset, _) in file.begins.items()}

    patch.setattr(Course, "_begin_what_was_added", without_time)


def forget_where_a_new_partition_began(patch: Patch) -> None:
    """Ask anew at each start, as if the one before had not told anybody."""
    write = lifecycle.write_state_file

    def without(folder: Any, file: Any) -> None:
        write(folder, msgspec.structs.replace(file, begins={}))

    patch.setattr(lifecycle, "write_state_file", without)


def do_not_wait_for_the_last_epoch_in_an_exchange(patch: Patch) -> None:
    """The old processes are gone as soon as they are asked to stop, and nobody looks how far they had come."""
    run, step, execute = Execution.run, Execution._step, world.SimulatedWorld.execute
    exchanges: list[bool] = []

    class Gone(Exception):
        pass

    def run_and_vanish(self: Execution) -> None:
        with suppress(Gone):
            run(self)

    def step_or_vanish(self: Execution) -> None:
        if self.is_stopping and exchanges[-1]:
            raise Gone
        step(self)

    def note_exchanges(self: world.SimulatedWorld, plan: Any) -> bool:
        exchanges.append(self._is_exchange_due and not plan.finishes_a_run)
        return execute(self, plan)

    patch.setattr(Execution, "run", run_and_vanish)
    patch.setattr(Execution, "_step", step_or_vanish)
    patch.setattr(world.SimulatedWorld, "execute", note_exchanges)
    patch.setattr(Course, "_has_caught_up", lambda self, file: True)


def lose_what_was_sent_at_a_commit(patch: Patch) -> None:
    put_changes = ShardStore._put_changes

    def put(self: ShardStore, changes: Any, commit: int, before: Any) -> None:
        if before:
            self._rows = {key: row for key, row in self._rows.items() if key[:1] != b"s"}
        put_changes(self, changes, commit, before)

    patch.setattr(ShardStore, "_put_changes", put)


def know_only_of_what_was_sent_before_the_last_commit(patch: Patch) -> None:
    patch.setattr(ShardStore, "get_row", lambda self, key: self._backend.get_many([key])[0])


def forget_what_kind_of_record_is_held(patch: Patch) -> None:
    settle = Shard.settle

    def as_events(self: Shard) -> None:
        settle(self)
        self.store.meta.held = [[*held[:11], 0, None] for held in self.store.meta.held]

    patch.setattr(Shard, "settle", as_events)


OF_RECEIPTS: list[Mutation] = [
    lose_what_was_sent_at_a_commit,
    know_only_of_what_was_sent_before_the_last_commit,
    forget_what_kind_of_record_is_held,
]
"""Those that show only where receipts come."""


def lose_postponed_messages_with_the_user_from_memory(patch: Patch) -> None:
    """Who is written down while a message of theirs is held is read again with nothing that would ever wake them."""

    def without_wake_ups(user: User) -> bytes:
        row = dump_user(user)
        held = load_user(row)
        for one in held.journeys:
            for branch in one.branches:
                if branch.step in SENDS:
                    branch.wake_ms = NEVER
        return dump_user(held)

    patch.setattr(store, "dump_user", without_wake_ups)


def forget_what_caps_have_counted(patch: Patch) -> None:
    """The times of messages live as long as the user stays in memory."""

    def without_times(user: User) -> bytes:
        kept, user.sends = user.sends, {}
        try:
            return dump_user(user)
        finally:
            user.sends = kept

    patch.setattr(store, "dump_user", without_times)


def let_other_message_rules_take_over_at_once(patch: Patch) -> None:
    """What a dead run had begun is finished under the new rules, if only these have changed."""
    finish = Course._finish_the_last_run

    def with_the_new_ones(self: Course, file: Any, *arguments: Any) -> bool:
        file.workspace = self.job.loaded.workspace_text
        return finish(self, file, *arguments)

    patch.setattr(Course, "_finish_the_last_run", with_the_new_ones)


OF_CHANGING_RULES: list[Mutation] = [let_other_message_rules_take_over_at_once]
"""Those that show only where message rules change."""


def let_nobody_go_on_where_branches_rejoin(patch: Patch) -> None:
    """The last branch of a fork vanishes as the others do."""

    def vanish(visit: AtStep) -> None:
        branches = visit.journey.branches
        del branches[branches.index(visit.branch)]

    patch.setattr(journey, "_join", vanish)


OF_TWO_BUILDS: list[Mutation] = [
    do_not_compare_what_was_read_back,
]
"""Those that show only where another build has decided."""


OF_THE_REGISTER: list[Mutation] = [
    ask_the_register_anew_in_a_replay,
    go_by_what_is_known_before_what_was_said,
    forget_what_was_said_with_the_next_commit,
    send_before_the_answer_is_on_disk,
    let_who_is_held_out_take_a_place,
    decide_the_winner_anew_in_every_process,
]

MUTATIONS: list[Mutation] = [
    *OF_TWO_BUILDS,
    *OF_RECEIPTS,
    *OF_THE_REGISTER,
    never_wait_for_an_acknowledgement,
    do_not_sync_a_commit,
    do_not_roll_back,
    forget_what_was_spilled_when_rolling_back,
    drop_undo_too_early,
    undo_users_without_their_timers,
    undo_users_without_their_counts,
    undo_users_without_their_audiences,
    spill_without_undo,
    forget_who_was_still_to_be_woken,
    forget_held_records_at_a_checkpoint,
    do_not_note_progress,
    note_progress_after_it_went_out,
    forget_the_time_of_a_partition,
    resume_sources_behind_the_cut,
    do_not_read_back,
    read_back_from_the_ends,
    do_not_wait_until_the_topics_stand_still,
    keep_one_seq_per_user_for_all_topics,
    go_by_the_highest_seq_alone,
    take_the_ends_for_decided_amid_a_replay,
    let_other_flows_take_over_at_once,
    call_every_stop_clean,
    leave_out_processes_that_have_noted_nothing,
    forget_how_far_time_ran_on,
    leave_what_a_dead_execution_remembered,
    look_who_is_inside_only_before_the_old_flows_finish,
    do_not_note_what_the_clock_said,
    let_a_new_partition_begin_before_all_time,
    forget_where_a_new_partition_began,
    do_not_wait_for_the_last_epoch_in_an_exchange,
    lose_postponed_messages_with_the_user_from_memory,
    forget_what_caps_have_counted,
    *OF_CHANGING_RULES,
    let_nobody_go_on_where_branches_rejoin,
]
