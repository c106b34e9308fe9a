"""One channel's deliveries: what is done next for each action, until it has its one outcome.

The machine is told what has happened and says what to do; it neither waits nor talks. Whoever runs it carries out its
commands, in any order and as many at a time as there are, and tells it the result of each.

    take -> Look -> looked      the ledger knows the outcome: it is told again, and nobody is called
                 -> Begin       noted before the call, with a lease
                 -> Call        or Ask, where it may have been sent already
                 -> Free        nothing was sent: a later attempt
                 -> Settle      the outcome, noted against the attempt
                 -> Tell        its receipt
                 -> Done        the record needs not be read again

A user's actions are called one after the other in their order; who waits holds up nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from enum import Enum, auto
from heapq import heappop, heappush
from random import Random
from typing import Final, NamedTuple

from operators.delivery.bucket import TokenBucket
from operators.delivery.policy import (
    BACKOFF_FIRST_MS,
    BACKOFF_MOST_MS,
    CLOCKS_DIFFER_MS,
    LOOK_AGAIN_MS,
    PROBE_MS,
    Policy,
)
from state.delivery import (
    ACCEPTED,
    CONFIG,
    EXPIRED,
    GIVEN_UP,
    OK,
    PERMANENT,
    REJECTED,
    RETRY,
    THROTTLED,
    TOKEN,
    UNKNOWN,
    Answer,
    Entry,
    Outcome,
)

NEVER: Final = 1 << 62


class Place(NamedTuple):
    """Where an action's record stands."""

    partition: str
    offset: int


class Look(NamedTuple):
    """Ask the ledger what it has of an action; answer with `looked`."""

    action_id: str


class Begin(NamedTuple):
    """Note in the ledger that an attempt begins; answer with `begun`."""

    action_id: str
    attempt: int
    lease_ms: int


class Call(NamedTuple):
    """Call the provider, but not after *until_ms*: another process may think by then that it has ended.

    Answer with `answered`; where it was too late, with RETRY.
    """

    action_id: str
    attempt: int
    until_ms: int


class Ask(NamedTuple):
    """Ask the provider what became of an action, *since_ms* being the first attempt; answer with `asked`."""

    action_id: str
    attempt: int
    since_ms: int


class Renew(NamedTuple):
    """Get another credential; answer with `renewed`."""


class Free(NamedTuple):
    """Note in the ledger that an attempt has sent nothing; answer with `freed`."""

    action_id: str
    attempt: int


class Settle(NamedTuple):
    """Note the outcome in the ledger; answer with `settled`."""

    action_id: str
    attempt: int
    outcome: Outcome


class Tell(NamedTuple):
    """Write the receipt of an outcome; answer with `told`."""

    action_id: str
    outcome: Outcome


class Done(NamedTuple):
    """The record needs not be read again."""

    place: Place


Command = Look | Begin | Call | Ask | Renew | Free | Settle | Tell | Done


class _Phase(Enum):
    LOOKING = auto()
    QUEUED = auto()  # Behind another action of its user, or about to be READY.
    READY = auto()
    WAITING = auto()  # For its time, or for a credential.
    BEGINNING = auto()
    CALLING = auto()
    FREEING = auto()
    SETTLING = auto()
    TELLING = auto()


_ON_THE_WAY: Final = frozenset({_Phase.BEGINNING, _Phase.CALLING, _Phase.FREEING, _Phase.SETTLING, _Phase.TELLING})


class _Open:
    """An action that has no outcome yet, or whose receipt is on its way."""

    __slots__ = (
        "action_id", "attempt", "began_ms", "deadline", "expires_ms", "has_renewed", "is_given_back", "may_be_sent",
        "phase", "places", "then", "tries", "until_ms", "user_id",
    )  # fmt: skip

    def __init__(self, action_id: str, user_id: str, expires_ms: int, place: Place) -> None:
        self.action_id, self.user_id, self.expires_ms, self.places = action_id, user_id, expires_ms, [place]
        self.phase = _Phase.LOOKING
        self.attempt = self.tries = 0
        self.began_ms = -1  # The first attempt, by the clock on the wall.
        self.deadline = NEVER  # By the machine's own clock, which stands while the circuit is open.
        self.until_ms = NEVER
        self.may_be_sent = False  # An attempt has shown nothing.
        self.has_renewed = False
        self.is_given_back = False  # Its partition is another process's now.
        self.then: Callable[[_Open], None] | None = None


class Deliveries:
    """The deliveries of one channel.

    Args:
        policy: how it is delivered to.
        now: the time, ms since 1970, as in all methods.
        chance: for the jitter.
    """

    def __init__(self, policy: Policy, now: int, chance: Random) -> None:
        self.policy = policy
        self._chance = chance
        self._commands: list[Command] = []
        self._open: dict[str, _Open] = {}
        self._users: dict[str, deque[_Open]] = {}
        self._ready: deque[_Open] = deque()
        self._timers: list[tuple[int, int, _Open]] = []
        self._count = 0
        self._calls = 0
        self._bucket = None if policy.rate is None else TokenBucket(policy.rate, now)
        self._held_ms = 0
        self._overs: list[tuple[int, int, _Open]] | None = None
        """While the provider has asked to wait: who is ready, by the time at which it is of no use any more."""
        self._new: list[_Open] = []  # Ready, and not among these yet.
        self._why_open: Answer | None = None
        self._opened_ms = 0
        self._stood_ms = 0  # How long the circuit has been open in all, the present time apart.
        self._probe_ms = 0
        self._probe: _Open | None = None
        self._is_renewing = False
        self._for_renewal: list[_Open] = []

    # ---- what can be seen --------------------------------------------------------------------------------------

    def commands(self) -> list[Command]:
        """Return what is to be done, each once."""
        found, self._commands = self._commands, []
        return found

    @property
    def open(self) -> int:
        """How many actions are open."""
        return len(self._open)

    @property
    def is_full(self) -> bool:
        """Whether no more actions should be taken for now."""
        return len(self._open) >= self.policy.open_max

    @property
    def why_open(self) -> Answer | None:
        """What has opened the circuit; None while it is closed."""
        return self._why_open

    @property
    def next_ms(self) -> int | None:
        """When `tick` has something to do again, None where only an answer changes anything."""
        due = [self._timers[0][0]] if self._timers else []
        if self._ready and self._calls < self.policy.concurrency:
            if self._why_open is None:
                due.append(self._held_ms)
            elif self._probe is None:
                due.append(max(self._held_ms, self._probe_ms))
        if self._overs and self._why_open is None:
            due.append(self._overs[0][0])
        return min(due, default=None)

    @property
    def held_ms(self) -> int:
        """Until when nobody is called, as the provider has asked for or the rate wants it."""
        return self._held_ms

    def has(self, action_id: str) -> bool:
        """Tell whether an action is open."""
        return action_id in self._open

    def has_open(self, partition: str) -> bool:
        """Tell whether something of *partition* is open."""
        return any(place.partition == partition for one in self._open.values() for place in one.places)

    # ---- what happens ------------------------------------------------------------------------------------------

    def take(self, action_id: str, user_id: str, expires_ms: int | None, place: Place, now: int) -> None:
        """Take an action that was read."""
        known = self._open.get(action_id)
        if known is not None:
            known.places.append(place)
            known.is_given_back = False
            return
        one = _Open(action_id, user_id, NEVER if expires_ms is None else expires_ms, place)
        self._open[action_id] = one
        self._users.setdefault(user_id, deque()).append(one)
        self._look(one)

    def looked(self, action_id: str, found: Entry | None, now: int) -> None:
        """The ledger has *found* this."""
        one = self._at(action_id, _Phase.LOOKING)
        if one is None:
            return
        if found is not None and found.outcome is not None:
            self._tell(one, found.outcome)
            return
        if found is not None:
            one.attempt = found.attempt
            self._note_begin(one, found.since_ms, now)
            if found.owner and found.lease_ms > now:
                self._wait(one, found.lease_ms, self._look)
                return
            one.may_be_sent = bool(found.owner)
        one.phase = _Phase.QUEUED
        self._proceed(one.user_id)
        self._start(now)

    def begun(self, action_id: str, attempt: int, wait_ms: int | None, now: int) -> None:
        """The attempt is noted.

        Args:
            wait_ms: 0; more where the account's rate asks to wait first; None where it is another process's.
        """
        one = self._at(action_id, _Phase.BEGINNING, attempt)
        if one is None:
            return
        if wait_ms == 0 and not one.is_given_back:
            one.phase = _Phase.CALLING
            if one.may_be_sent and self.policy.can_be_asked and not self._may_call_again(one, now):
                self._commands.append(Ask(action_id, attempt, one.began_ms))
            else:
                self._call(one)
            return
        self._end_call(one)
        if wait_ms == 0:
            self._give_free(one, self._make_ready)  # It goes to nobody here.
        elif wait_ms is None:
            self._wait(one, now + LOOK_AGAIN_MS, self._look)
        else:
            one.attempt -= 1
            self._held_ms = max(self._held_ms, now + wait_ms)
            self._make_ready(one)
        self._start(now)

    def answered(self, action_id: str, attempt: int, answer: Answer, now: int) -> None:
        """The provider was called and this came of it."""
        one = self._at(action_id, _Phase.CALLING, attempt)
        if one is None:
            return
        self._end_call(one, answer, now)
        one.has_renewed = one.has_renewed and answer.kind == TOKEN
        if answer.kind == OK:
            one.may_be_sent = False
            self._settle(one, ACCEPTED, answer, now)
        elif answer.kind == PERMANENT:
            self._settle(one, REJECTED, answer, now)
        elif answer.kind == UNKNOWN:
            one.may_be_sent = True
            self._after_unknown(one, answer, now)
        else:
            self._try_later(one, answer, now)
        self._start(now)

    def asked(self, action_id: str, attempt: int, answer: Answer, now: int) -> None:
        """The provider was asked: OK, it has it; PERMANENT, it refused it; RETRY, it has never seen it."""
        one = self._at(action_id, _Phase.CALLING, attempt)
        if one is None:
            return
        if answer.kind == RETRY and not one.is_given_back:
            one.may_be_sent = False
            self._call(one)
            return
        self._end_call(one, answer, now)
        if answer.kind in (OK, PERMANENT):
            one.may_be_sent = False
            self._settle(one, ACCEPTED if answer.kind == OK else REJECTED, answer, now)
        elif answer.kind in (UNKNOWN, RETRY):
            self._wait(one, now + self._backoff(one), self._make_ready)
        else:
            self._try_later(one, answer, now)
        self._start(now)

    def renewed(self, is_new: bool, now: int) -> None:
        """Another credential was asked for."""
        self._is_renewing = False
        waiting, self._for_renewal = self._for_renewal, []
        if not is_new:
            self._open_circuit(Answer(CONFIG, "token", "no new credential could be had"), now)
        for one in waiting:
            if one.phase is _Phase.WAITING:
                self._make_ready(one)
        self._start(now)

    def freed(self, action_id: str, now: int) -> None:
        """It is noted that an attempt has sent nothing."""
        one = self._at(action_id, _Phase.FREEING)
        if one is None:
            return
        if one.is_given_back:
            self._forget(one)
        else:
            assert one.then is not None
            one.then(one)
        self._start(now)

    def settled(self, action_id: str, outcome: Outcome | None, now: int) -> None:
        """The outcome is noted; None where the attempt was another process's by then."""
        one = self._at(action_id, _Phase.SETTLING)
        if one is None:
            return
        if outcome is None:
            self._look(one)
        else:
            self._tell(one, outcome)

    def told(self, action_id: str, now: int) -> None:
        """The receipt is where it cannot be lost."""
        one = self._at(action_id, _Phase.TELLING)
        if one is None:
            return
        self._commands.extend(map(Done, one.places))
        self._forget(one)
        self._start(now)

    def give_back(self, partitions: Collection[str], now: int) -> None:
        """Begin no new call for actions of *partitions*: others have them. What is open ends; see `has_open`."""
        for one in list(self._open.values()):
            if all(place.partition in partitions for place in one.places):
                one.is_given_back = True
                if one.phase not in _ON_THE_WAY:
                    self._forget(one)
        self._start(now)

    def tick(self, now: int) -> None:
        """Do what is due by *now*."""
        while self._timers and self._timers[0][0] <= now:
            due, _, one = heappop(self._timers)
            if one.phase is _Phase.WAITING and one.until_ms == due:
                assert one.then is not None
                one.then(one)
        self._start(now)

    # ---- steps -------------------------------------------------------------------------------------------------

    def _at(self, action_id: str, phase: _Phase, attempt: int | None = None) -> _Open | None:
        """Return the action, None where what comes is not what is awaited: it was given back meanwhile."""
        one = self._open.get(action_id)
        if one is None or one.phase is not phase or attempt not in (None, one.attempt):
            return None
        return one

    def _look(self, one: _Open) -> None:
        one.phase = _Phase.LOOKING
        self._commands.append(Look(one.action_id))

    def _proceed(self, user_id: str) -> None:
        """Let the first action of a user be ready, if nothing else keeps it."""
        queue = self._users.get(user_id)
        if queue and queue[0].phase is _Phase.QUEUED:
            queue[0].phase = _Phase.READY
            self._ready.append(queue[0])
            self._new.append(queue[0])

    def _make_ready(self, one: _Open) -> None:
        """Let *one* be the next: it has been the first of its user before."""
        if one.is_given_back:
            self._forget(one)
            return
        one.phase = _Phase.READY
        self._ready.appendleft(one)
        self._new.append(one)

    def _wait(self, one: _Open, until_ms: int, then: Callable[[_Open], None]) -> None:
        if one.is_given_back:
            self._forget(one)
            return
        one.phase, one.until_ms, one.then = _Phase.WAITING, until_ms, then
        self._count += 1
        heappush(self._timers, (until_ms, self._count, one))

    def _start(self, now: int) -> None:
        """Begin as many attempts as may be made now."""
        if self._overs is not None and now < self._held_ms:
            self._end_what_is_over(self._overs, now)
        else:
            self._overs = None
        self._new.clear()
        while self._ready and self._calls < self.policy.concurrency and now >= self._held_ms:
            if self._why_open is not None and (self._probe is not None or now < self._probe_ms):
                return
            one = self._ready[0]
            if one.phase is not _Phase.READY:
                self._ready.popleft()
                continue
            over = self._is_over(one, now)
            is_stuck = one.may_be_sent and not self._may_call_again(one, now) and not self.policy.can_be_asked
            if over or is_stuck:
                self._ready.popleft()
                self._settle_uncalled(one, over or "not_told", now)
                continue
            if self._bucket is not None and (wait_ms := self._bucket.take(now)):
                self._held_ms = now + wait_ms
                return
            self._ready.popleft()
            self._begin(one, now)

    def _settle_uncalled(self, one: _Open, code: str, now: int) -> None:
        status = UNKNOWN if one.may_be_sent else REJECTED
        self._settle(one, status, Answer(status, code), now)

    def _end_what_is_over(self, overs: list[tuple[int, int, _Open]], now: int) -> None:
        """Let nobody wait for a provider beyond its time. While the circuit is open that waits, too."""
        for one in self._new:
            self._count += 1
            heappush(overs, (self._over_ms(one, now), self._count, one))
        while self._why_open is None and overs and overs[0][0] <= now:
            one = heappop(overs)[2]
            if one.phase is not _Phase.READY:
                continue
            if code := self._is_over(one, now):
                self._settle_uncalled(one, code, now)
            else:  # The circuit was open meanwhile.
                heappush(overs, (self._over_ms(one, now), self._count, one))

    def _over_ms(self, one: _Open, now: int) -> int:
        return min(one.expires_ms, now + max(0, one.deadline - self._clock(now)))

    def _may_call_again(self, one: _Open, now: int) -> bool:
        return self.policy.may_call_again(one.began_ms, now)

    def _is_over(self, one: _Open, now: int) -> str:
        if one.expires_ms <= now:
            return EXPIRED
        return GIVEN_UP if self._clock(now) >= one.deadline else ""

    def _begin(self, one: _Open, now: int) -> None:
        self._note_begin(one, now, now)
        one.attempt += 1
        one.phase = _Phase.BEGINNING
        self._calls += 1
        if self._why_open is not None:
            self._probe = one
        one.until_ms = now + self.policy.lease_ms
        self._commands.append(Begin(one.action_id, one.attempt, one.until_ms))

    def _call(self, one: _Open) -> None:
        until_ms = one.until_ms - self.policy.call_ms - CLOCKS_DIFFER_MS
        self._commands.append(Call(one.action_id, one.attempt, until_ms))

    def _note_begin(self, one: _Open, since_ms: int, now: int) -> None:
        if one.began_ms < 0:
            one.began_ms = since_ms
            one.deadline = self._clock(now) - (now - since_ms) + self.policy.give_up_after_ms

    def _clock(self, now: int) -> int:
        """Return the time that stands while the circuit is open: nobody is given up for what is not theirs."""
        return (now if self._why_open is None else self._opened_ms) - self._stood_ms

    def _end_call(self, one: _Open, answer: Answer | None = None, now: int = 0) -> None:
        self._calls -= 1
        was_probe = self._probe is one
        if was_probe:
            self._probe = None
            self._probe_ms = max(self._probe_ms, now + PROBE_MS)
        if answer is not None and answer.kind in (OK, PERMANENT) and self._why_open is not None:
            self._stood_ms += now - self._opened_ms
            self._why_open = None

    def _open_circuit(self, answer: Answer, now: int) -> None:
        if self._why_open is None:
            self._opened_ms = now
        self._why_open = answer
        self._probe_ms = now + PROBE_MS

    def _after_unknown(self, one: _Open, answer: Answer, now: int) -> None:
        if self._may_call_again(one, now):
            self._wait(one, now + self._backoff(one), self._make_ready)
        elif self.policy.can_be_asked:
            self._wait(one, now + self.policy.ask_after_ms, self._make_ready)
        else:
            self._settle(one, UNKNOWN, answer, now)

    def _try_later(self, one: _Open, answer: Answer, now: int) -> None:
        """Nothing was sent: say when it is tried again."""
        kind = CONFIG if answer.kind == TOKEN and one.has_renewed else answer.kind
        if kind == CONFIG:
            one.has_renewed = False  # As a probe it may ask for another: the one that is here can have run out by then.
            self._open_circuit(answer, now)
            self._give_free(one, self._make_ready)
        elif kind == TOKEN:
            one.has_renewed = True
            if not self._is_renewing:
                self._is_renewing = True
                self._commands.append(Renew())
            self._give_free(one, self._await_renewal)
        elif kind == THROTTLED and not answer.is_of_recipient:
            self._held_ms = max(self._held_ms, now + self._wait_of(one, answer))
            if self._overs is None:
                self._overs = []
                self._new.extend(self._ready)
            self._give_free(one, self._make_ready)
        else:
            left_ms = max(0, one.deadline - self._clock(now))
            until_ms = min(now + self._wait_of(one, answer), now + left_ms, one.expires_ms)
            self._give_free(one, lambda one: self._wait(one, until_ms, self._make_ready))

    def _wait_of(self, one: _Open, answer: Answer) -> int:
        return self._backoff(one) if answer.wait_ms is None else answer.wait_ms

    def _await_renewal(self, one: _Open) -> None:
        if not self._is_renewing:
            self._make_ready(one)
            return
        one.phase, one.until_ms = _Phase.WAITING, NEVER
        self._for_renewal.append(one)

    def _give_free(self, one: _Open, then: Callable[[_Open], None]) -> None:
        """Note that the attempt has sent nothing, and go on; an earlier one may have, and that stays noted."""
        if one.may_be_sent:
            if one.is_given_back:
                self._forget(one)
            else:
                then(one)
            return
        one.phase = _Phase.FREEING
        one.then = then
        self._commands.append(Free(one.action_id, one.attempt))

    def _backoff(self, one: _Open) -> int:
        most = min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS << min(one.tries, 20))
        one.tries += 1
        return self._chance.randint(0, most)

    def _settle(self, one: _Open, status: str, answer: Answer, now: int) -> None:
        one.phase = _Phase.SETTLING
        outcome = Outcome(status, now, answer.code, answer.detail, answer.provider_id, answer.status)
        self._commands.append(Settle(one.action_id, one.attempt, outcome))

    def _tell(self, one: _Open, outcome: Outcome) -> None:
        one.phase = _Phase.TELLING
        self._commands.append(Tell(one.action_id, outcome))

    def _forget(self, one: _Open) -> None:
        del self._open[one.action_id]
        one.phase = _Phase.TELLING  # Whatever still has it in a list passes it over.
        queue = self._users[one.user_id]
        queue.remove(one)
        if queue:
            self._proceed(one.user_id)
        else:
            del self._users[one.user_id]
