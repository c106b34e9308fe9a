"""Walk a state and tell what does not hold: conservation per flow, a wake-up for everybody who waits, no orphans.

One shard after the other and one user at a time, so that memory does not grow with the number of users. Timers and the
members of audiences are compared with what the users say by sums of hashes; only where the sums differ are they looked
up one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from dataflow.errors import UsageError
from dataflow.keep.stateview import StateView
from operators.ids import of_label
from operators.machine.deployment import Deployment
from operators.machine.invariants import Balance, UserInvariants, balances, parked_in
from operators.machine.receipt import KEPT_MS
from operators.machine.totals import Totals, add_totals
from state.backend import Backend
from state.errors import NewerFormatError, StateRefused, StoreError
from state.iso import format_ms
from state.meta import Planned, read_meta
from state.records import Input
from state.registerfile import RegisterView, look_at_register
from state.rows import (
    are_there,
    closed_key,
    closed_rows,
    forgotten_key,
    has_timers,
    member_key,
    membership_rows,
    parked_key,
    sent_rows,
    timer_rows,
    user_rows,
    users_of,
)
from state.sent import load_sent
from state.shards import shard_of
from state.store import counts_of
from state.undo import UNDO_KEPT, undo_parts
from state.user import NEVER, User, load_user

AT_ONCE: Final = 1000
TELL_EVERY: Final = 10_000

_RESTORE: Final = "restore the whole state directory from one backup, or begin a new state"
_REPORT: Final = "keep a copy of the state and report it: this is a fault of nudge or of the disk"

NEXT: Final[dict[str, str]] = {
    "branch-misplaced": f"the branch goes on where it stands, and its journey may not end; {_REPORT}",
    "branch-orphan": f"the journey may go on too early, or never end; {_REPORT}",
    "conservation": f"`nudge audit --json` names the users of other findings; {_REPORT}",
    "flow-not-deployed": "start the job with the file of that version, `state: ended` if nobody should enter any more; "
    "nudge.json has the text of every version that was deployed",
    "held-misplaced": _REPORT,
    "held-overdue": f"the record is handled with the next one that moves time; {_REPORT}",
    "held-unreadable": _RESTORE,
    "journey-repeated": _REPORT,
    "member-missing": f"runs over the audience pass the user by; their next membership record mends it; {_REPORT}",
    "member-orphan": f"harmless: whether somebody is a member is read in the user's row; {_REPORT}",
    "places-exceeded": f"more have entered than were given a place; {_REPORT}",
    "recovery-unreadable": _RESTORE,
    "register-outdated": _RESTORE,
    "register-unreadable": _RESTORE,
    "runs-differ": f"some members may have been left out of a run, or taken into one that was skipped; {_REPORT}",
    "sent-orphan": f"what was sent is kept for ever; {_REPORT}",
    "sent-unreadable": _RESTORE,
    "seq-too-low": f"a crash could now repeat records of this user; {_REPORT}",
    "shard-missing": _RESTORE,
    "shard-unknown": "it is not looked at; remove it if it came from elsewhere",
    "shard-unreadable": _RESTORE,
    "step-unknown": "the journey cannot go on and will be journaled as failed; put back the file that it began with",
    "subscription-lost": f"the journey goes on at its timeout; {_REPORT}",
    "timer-orphan": f"harmless: it is dropped when its time comes; {_REPORT}",
    "undo-out-of-range": f"the state may not survive a crash: stop the job with SIGTERM and copy the state; {_REPORT}",
    "user-misplaced": f"the user's new records go to another shard; {_REPORT}",
    "user-unreadable": _RESTORE,
    "wake-up-missing": f"the user goes on only with the next record of theirs; {_REPORT}",
    "wake-up-overdue": f"start the job again, which looks for what is due; {_REPORT}",
}
"""What an operator does next, by the code of a finding; `docs/operations.md` has more."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not hold: a stable code, where, and a sentence on what is wrong."""

    code: str
    shard: int | None
    user: str | None
    problem: str


@dataclass(slots=True)
class Seen:
    """What has been looked at so far."""

    users: int = 0
    timers: int = 0
    memberships: int = 0
    held: int = 0
    sent: int = 0
    shards: int = 0


class Audit:
    """The audit of one state.

    Args:
        tell: called now and then, with what has been looked at.
    """

    def __init__(self, root: Path, tell: Callable[[Seen], None] = lambda _: None) -> None:
        self._root = root
        self._tell = tell
        self.seen = Seen()
        self.balances: dict[str, Balance] = {}
        self.register: RegisterView | None = None
        self.epoch = 0

    def findings(self) -> Iterator[Finding]:
        """Walk the state and yield what does not hold, as it is found.

        Raises:
            UsageError: there is no state, or it was written by a later version of the software.
        """
        try:
            view = StateView(self._root)
        except StoreError as error:
            yield Finding("recovery-unreadable", None, None, str(error))
            return
        try:
            yield from self._of_state(view)
        finally:
            view.close()

    def _of_state(self, view: StateView) -> Iterator[Finding]:
        self.epoch = view.cut.epoch
        deployment, shards = view.deployment(), view.file.shards
        totals: Totals = {}
        planned: dict[int, dict[str, Planned]] = {}
        inside = Counter({program.label: 0 for program in deployment.programs.values()})
        yield from _strange_shards(view)
        for number in range(shards):
            if number in view.broken:
                is_there = view.directory.shard(number).is_dir()
                yield Finding("shard-unreadable" if is_there else "shard-missing", number, None, view.broken[number])
                continue
            yield from _of_undo(number, view.latest(number))
            shard = ShardAudit(view.shard(number), deployment, number, shards, self.seen, self._tell)
            yield from shard.findings()
            add_totals(totals, shard.totals)
            planned[number] = shard.planned
            inside.update(shard.inside)
            self.seen.shards += 1
            self._tell(self.seen)
        yield from runs_that_differ(planned)
        self.balances = balances(totals, inside)
        yield from self._of_register(view, deployment, complete=self.seen.shards == shards)

    def _of_register(self, view: StateView, deployment: Deployment, *, complete: bool) -> Iterator[Finding]:
        """The register must be as new as the checkpoint, and everybody who entered a flow with a limit has a place."""
        needed = max(view.file.register, view.cut.register)
        try:
            self.register = found = look_at_register(view.directory.register)
        except NewerFormatError as error:
            raise UsageError(str(error)) from None
        except StoreError as error:
            yield Finding("register-unreadable", None, None, str(error))
            return
        if (confirmed := 0 if found is None else found.confirmed) < needed:
            text = f"the register was confirmed {confirmed} times, and {needed} times when the checkpoint was made"
            yield Finding("register-outdated", None, None, text)
        if found is None or not complete:
            return
        entered: Counter[str] = Counter()
        for label, balance in self.balances.items():
            entered[of_label(label)[0]] += balance.totals.entered
        for program in deployment.entering:
            taken = found.questions[program.name].taken if program.name in found.questions else 0
            if program.entry_rules.limit is not None and entered[program.name] > taken:
                text = f"{program.name}: {entered[program.name]} have entered, but only {taken} places are taken"
                yield Finding("places-exceeded", None, None, text)


def runs_that_differ(planned: Mapping[int, Mapping[str, Planned]]) -> Iterator[Finding]:
    """Yield the shards that have decided otherwise than others about runs over audiences.

    Args:
        planned: by shard, then by the label of the flow version.
    """
    begins: dict[str, tuple[int, int]] = {}
    decided: dict[tuple[str, int], tuple[int, tuple[int, int]]] = {}
    for number, by_label in planned.items():
        for label, one in by_label.items():
            if one.begin_ms < 0 or one.is_idle:
                continue
            name = " v".join(of_label(label))
            other, begin_ms = begins.setdefault(label, (number, one.begin_ms))
            if begin_ms != one.begin_ms:
                here, there = format_ms(one.begin_ms), format_ms(begin_ms)
                text = f"{name} begins at {here} here, and at {there} in shard {other:02d}"
                yield Finding("runs-differ", number, None, text)
            # A shard may be ahead of another; what both have decided is the same.
            other, found = decided.setdefault((label, one.done_ms), (number, (one.ran, one.last_ms)))
            if found != (one.ran, one.last_ms):
                text = f"{one.ran} runs of {name} have taken place here, and {found[0]} in shard {other:02d}"
                yield Finding("runs-differ", number, None, text)


def _strange_shards(view: StateView) -> Iterator[Finding]:
    shards = view.file.shards
    numbers = view.file.keys.numbers
    for key in view.cut.shards:
        if key not in numbers:
            yield Finding("shard-unknown", None, None, f"the last checkpoint has a shard {key} of only {shards}")
    folder = view.directory.root / "shards"
    known = {view.directory.shard(number).name for number in range(shards)}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name not in known:
            yield Finding("shard-unknown", None, None, f"{path} is none of the {shards} shards")


def _of_undo(number: int, backend: Backend) -> Iterator[Finding]:
    """The undo rows must be those of the last commits, without a hole; the one to come may have parts already."""
    last = read_meta(backend).commit
    parts = undo_parts(backend)
    commits = sorted({commit for commit, _ in parts})
    for commit in commits:
        if not last - UNDO_KEPT < commit <= last + 1:
            text = f"there is undo of commit {commit}, but the last commit is {last}"
            yield Finding("undo-out-of-range", number, None, text)
        of_commit = [part for other, part in parts if other == commit]
        if of_commit != list(range(len(of_commit))):
            text = f"the undo of commit {commit} has the parts {of_commit}: some are missing"
            yield Finding("undo-out-of-range", number, None, text)
    if commits and commits != list(range(commits[0], commits[-1] + 1)):
        text = f"there is undo of the commits {commits}: some between are missing"
        yield Finding("undo-out-of-range", number, None, text)


class ShardAudit:
    """The audit of one shard.

    Args:
        backend: the shard as of a checkpoint.
        number: which of *shards* it is.
        seen: counted up.
    """

    def __init__(
        self,
        backend: Backend,
        deployment: Deployment,
        number: int,
        shards: int,
        seen: Seen,
        tell: Callable[[Seen], None] = lambda _: None,
    ) -> None:
        self._backend = backend
        self._number = number
        self._shards = shards
        self._seen = seen
        self._tell = tell
        meta = self._meta = read_meta(backend)
        self.totals: Totals = counts_of(backend, meta)
        """What the shard has counted."""
        self.planned = meta.planned
        """What it knows of runs over audiences, by the label of the flow version."""
        is_old = meta.format == 1
        self._users = UserInvariants(
            deployment,
            meta.time_ms if is_old else meta.fired_ms,
            parking={*meta.paused, *meta.resumed},
            untimed=meta.paused if is_old else (),
        )

    @property
    def inside(self) -> dict[str, int]:
        """How many open journeys its users hold, by the label of the flow version; complete after `findings`."""
        return self._users.inside

    def findings(self) -> Iterator[Finding]:
        """Yield what does not hold."""
        # Of random numbers the sums agree only if their terms do, for all that can ever happen.
        needed = needed_sum = members = members_sum = 0
        parked: list[tuple[bytes, bytes]] = []
        invariants, seen, number, shards = self._users, self._seen, self._number, self._shards
        for user_id, row in user_rows(self._backend):
            seen.users += 1
            if seen.users % TELL_EVERY == 0:
                self._tell(seen)
            if (belongs := shard_of(user_id, shards)) != number:
                yield self._finding("user-misplaced", user_id, f"belongs into shard {belongs:02d}")
            user = _read(row)
            if not isinstance(user, User):
                yield self._finding("user-unreadable", user_id, user)
                continue
            due = invariants.due(user)
            for code, problem in invariants.look_at(user, due):
                yield self._finding(code, user_id, problem)
            if due < NEVER:
                needed += 1
                needed_sum += hash((due, user_id))
            for audience in user.audiences:
                members += 1
                members_sum += hash((audience.encode(), user_id))
            parked.extend((user_id, parked_key(label, user_id)) for label in parked_in(user))
            if len(parked) >= AT_ONCE:
                yield from self._unparked(parked)
        yield from self._unparked(parked)
        found = found_sum = 0
        for timer in timer_rows(self._backend):
            found += 1
            found_sum += hash(timer)
        seen.timers += found
        if (needed, needed_sum) != (found, found_sum):
            yield from self._missing_timers()
            yield from self._orphaned_timers()
        found = found_sum = 0
        for member in membership_rows(self._backend):
            found += 1
            found_sum += hash(member)
        seen.memberships += found
        if (members, members_sum) != (found, found_sum):
            yield from self._missing_members()
            yield from self._orphaned_members()
        yield from self._of_held()
        yield from self._of_sent()
        counted, held = self._meta.inside, sum(self.inside.values())
        if counted not in (-1, held):
            text = f"the users hold {held} open journeys, but {counted} were counted as they were written"
            yield Finding("conservation", number, None, text)
        for label, balance in balances(self.totals, self.inside).items():
            if not balance.is_kept:
                flow, version = of_label(label)
                yield Finding("conservation", number, None, f"{flow} v{version}: {balance}")

    def _finding(self, code: str, user_id: bytes, problem: str) -> Finding:
        return Finding(code, self._number, user_id.decode(errors="backslashreplace"), problem)

    def _unparked(self, parked: list[tuple[bytes, bytes]]) -> Iterator[Finding]:
        """Look for the rows of what is parked, (user id, key) each, and empty the list."""
        there = are_there(self._backend, [key for _, key in parked])
        for (user_id, _), is_there in zip(parked, there, strict=True):
            if not is_there:
                yield self._finding("wake-up-missing", user_id, "no resume will find what is parked of the user")
        parked.clear()

    def _missing_timers(self) -> Iterator[Finding]:
        for some in _batches(user_rows(self._backend)):
            needed = []
            for user_id, row in some:
                user = _read(row)
                due = self._users.due(user) if isinstance(user, User) else NEVER
                if due < NEVER:
                    needed.append((due, user_id))
            for (due, user_id), there in zip(needed, has_timers(self._backend, needed), strict=True):
                if not there:
                    yield self._finding("wake-up-missing", user_id, f"there is no timer for {format_ms(due)}")

    def _orphaned_timers(self) -> Iterator[Finding]:
        for some in _batches(timer_rows(self._backend)):
            rows = users_of(self._backend, [user_id for _, user_id in some])
            for (due, user_id), row in zip(some, rows, strict=True):
                if row is None:
                    text = f"there is a timer for {format_ms(due)}, but no such user"
                    yield self._finding("timer-orphan", user_id, text)
                    continue
                user = _read(row)
                if isinstance(user, User) and (needed := self._users.due(user)) != due:
                    instead = f"they need one for {format_ms(needed)}" if needed < NEVER else "they need none"
                    text = f"there is a timer for {format_ms(due)}, but {instead}"
                    yield self._finding("timer-orphan", user_id, text)

    def _missing_members(self) -> Iterator[Finding]:
        for some in _batches(user_rows(self._backend)):
            needed = [
                (audience, user_id)
                for user_id, row in some
                if isinstance(user := _read(row), User)
                for audience in user.audiences
            ]
            there = are_there(self._backend, [member_key(audience, user_id) for audience, user_id in needed])
            for (audience, user_id), is_there in zip(needed, there, strict=True):
                if not is_there:
                    text = f"no row says that the user is in the audience '{audience}'"
                    yield self._finding("member-missing", user_id, text)

    def _orphaned_members(self) -> Iterator[Finding]:
        for some in _batches(membership_rows(self._backend)):
            rows = users_of(self._backend, [user_id for _, user_id in some])
            for (audience, user_id), row in zip(some, rows, strict=True):
                user = None if row is None else _read(row)
                name = audience.decode(errors="backslashreplace")
                if user is None or (isinstance(user, User) and name not in user.audiences):
                    text = f"a row says that the user is in the audience '{name}', but the user is not"
                    yield self._finding("member-orphan", user_id, text)

    def _of_held(self) -> Iterator[Finding]:
        for fields in self._meta.held:
            self._seen.held += 1
            try:
                record = msgspec.convert(fields, Input)
            except msgspec.ValidationError as error:
                yield Finding("held-unreadable", self._number, None, f"a record that waits for its turn: {error}")
                continue
            where = f"source partition {record.source}, offset {record.offset}"
            user_id = record.user_id.encode()
            if shard_of(user_id, self._shards) != self._number:
                text = f"a record ({where}) is held for a user of another shard"
                yield self._finding("held-misplaced", user_id, text)
            if record.now < self._meta.time_ms:
                text = f"a record of {format_ms(record.now)} ({where}) is held behind {format_ms(self._meta.time_ms)}"
                yield self._finding("held-overdue", user_id, text)

    def _of_sent(self) -> Iterator[Finding]:
        """What was sent belongs to a journey that is open, or has closed and will be forgotten."""
        backend = self._backend
        for some in _batches(sent_rows(backend)):
            self._seen.sent += len(some)
            owned: list[tuple[bytes, int]] = []
            for user_id, row in some:
                try:
                    owned.append((user_id, load_sent(row).journey))
                except StateRefused as error:
                    yield self._finding("sent-unreadable", user_id, str(error))
            closed = are_there(backend, [closed_key(user_id, journey) for user_id, journey in owned])
            left = [one for one, is_closed in zip(owned, closed, strict=True) if not is_closed]
            rows = users_of(backend, [user_id for user_id, _ in left])
            for (user_id, journey), of_user in zip(left, rows, strict=True):
                user = None if of_user is None else _read(of_user)
                if not isinstance(user, User) or all(one.number != journey for one in user.journeys):
                    text = f"an action of journey {journey} is kept, and that is neither open nor closed"
                    yield self._finding("sent-orphan", user_id, text)
        for some_closed in _batches(closed_rows(backend)):
            dues = [int.from_bytes(row, "big") + KEPT_MS for _, _, row in some_closed]
            keys = [
                forgotten_key(due, user_id, journey)
                for (user_id, journey, _), due in zip(some_closed, dues, strict=True)
            ]
            for (user_id, journey, _), is_there in zip(some_closed, are_there(backend, keys), strict=True):
                if not is_there:
                    text = f"journey {journey} has closed, and nothing lets go of what it has sent"
                    yield self._finding("sent-orphan", user_id, text)


def _read(row: bytes) -> User | str:
    """Return the user in *row*, or why it cannot be read."""
    try:
        return load_user(row)
    except NewerFormatError as error:
        raise UsageError(str(error)) from None
    except StateRefused as error:
        return str(error)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    left = iter(items)
    while some := list(islice(left, AT_ONCE)):
        yield some
