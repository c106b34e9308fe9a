"""One channel at work: carries out what its machine wants, and tells the machine what came of it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Final, cast

import msgspec

from connectors.channels.base import Together, Unfit
from connectors.channels.http1 import IS_TOO_LATE
from connectors.kafka_writer import KafkaWriter, Keyed
from connectors.ledgers.base import KEPT_MS, Ledger, LedgerAway, Note, Noted, ToBegin, ToFree, ToLook, ToSettle, ToTold
from dataflow.deliver.config import Delivered
from dataflow.deliver.counts import ChannelLook, Counts
from dataflow.deliver.masking import masked, personal, without
from operators.delivery.machine import (
    Ask,
    Begin,
    Call,
    Deliveries,
    Done,
    Free,
    Look,
    Place,
    Renew,
    Settle,
    Tell,
)
from state.delivery import CONFIG, PERMANENT, RETRY, TOKEN, UNKNOWN, Answer, Outcome
from state.iso import format_ms, parse_iso_ms
from state.outgoing import Action

LEDGER_PAUSE_S: Final = 1.0
SAID_AGAIN_MS: Final = 60_000
LONG_MS: Final = 60_000  # Who asks to wait for so long is told of.
UNTOLD_TOGETHER: Final = 1_000
TOO_LATE: Final = Answer(RETRY, "too_late", "this process stood still before the call")
_dump = msgspec.json.Encoder().encode


class ChannelAtWork:
    """The deliveries of one channel, in the event loop that it is made in.

    Args:
        how: the channel.
        ledger: open, as this process.
        writer: for receipts.
        receipts: their topic.
        now_ms: the time.
        chance: for the jitter.
        done: called with each place that needs not be read again.
        log: for people.
    """

    def __init__(
        self,
        how: Delivered,
        ledger: Ledger,
        writer: KafkaWriter,
        receipts: str,
        now_ms: Callable[[], int],
        chance: Random,
        done: Callable[[Place], None],
        log: Any,
    ) -> None:
        self.how, self._ledger, self._writer, self._receipts = how, ledger, writer, receipts
        self._now_ms, self._done, self._log = now_ms, done, log
        # A class of somebody's own may know nothing of it.
        self._together_max: int = getattr(how.provider, "together_max", 1)
        self.machine = Deliveries(how.policy, now_ms(), chance)
        self.counts = Counts()
        self.is_ledger_away = False
        self.failure: BaseException | None = None
        self.has_changed = asyncio.Event()
        """Something has come to its end."""
        self._actions: dict[str, Action] = {}
        self._notes: list[Note] = []
        self._has_notes = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due_ms: int | None = None
        self._circuit: Answer | None = None
        self._said_held_ms = 0
        self._untold: dict[str, int] = {}  # When it was last said that a provider does not tell, by its code.
        self._late: set[str] = set()  # Actions that the ledger keeps as untold, until their receipts are written.
        self._keeping = asyncio.create_task(self._keep())
        self._keeping.add_done_callback(self._ended)

    # ---- what comes --------------------------------------------------------------------------------------------

    def take(self, action: Action, place: Place) -> None:
        """Take an action that was read."""
        links = self.how.links
        self._actions[action.action_id] = action if links is None else links.put_into(action)
        expires_ms = None if action.expires_at is None else parse_iso_ms(action.expires_at)
        self.machine.take(action.action_id, action.user_id, expires_ms, place, self._now_ms())

    def go(self) -> None:
        """Carry out what is to be done, after something was told."""
        to_tell, together = [], []
        for command in self.machine.commands():
            if type(command) is Tell:
                to_tell.append(command)
            elif type(command) is Call and self._together_max > 1:
                together.append(command)
            else:
                self._carry_out(command)
        if together:
            self._begin_together(together)
        if to_tell:
            self._spawn(self._tell(to_tell))
        self._say_circuit()
        self._set_timer()

    def give_back(self, partitions: Collection[str]) -> None:
        """Begin nothing more for *partitions*."""
        self.machine.give_back(partitions, self._now_ms())
        self._drop()
        self.go()

    def _drop(self) -> None:
        """Keep no action that is not open any more."""
        for action_id in [one for one in self._actions if not self.machine.has(one)]:
            del self._actions[action_id]
        self._late &= self._actions.keys()

    def look(self, partitions: int) -> ChannelLook:
        """Return what can be seen of it."""
        counts, now_ms = self.counts, self._now_ms()
        oldest = min((one.at for one in self._actions.values()), default="")
        oldest_ms = parse_iso_ms(oldest) or now_ms
        return ChannelLook(
            self.how.name, counts.calls, counts.retries, counts.answers.copy(), counts.outcomes.copy(),
            tuple(counts.seconds), counts.seconds_total, counts.dead, self.machine.open,
            max(0.0, (now_ms - oldest_ms) / 1000), partitions,
            self.machine.why_open is not None, self.is_ledger_away,
        )  # fmt: skip

    async def forget(self) -> int:
        """Let the ledger forget what is old, and return how much that was.

        Raises:
            LedgerAway: it cannot now.
        """
        return await self._ledger.forget(self._now_ms() - KEPT_MS)

    async def tell_untold(self) -> int:
        """Write receipts that whoever noted the outcome may not have written, some of them; return how many.

        That a receipt is written twice does no harm: it is the same one.

        Raises:
            LedgerAway: the ledger cannot be read or written now.
            WriteFailed: Kafka has not taken a receipt.
        """
        receipts: list[Keyed] = []
        told: list[ToTold] = []
        for action_id, entry in await self._ledger.untold(UNTOLD_TOGETHER):
            if entry.outcome is not None and not self.machine.has(action_id):
                receipts += receipts_of(action_id, entry.user_id, entry.outcome)
                told.append(ToTold(action_id, entry.outcome))
        if not told:
            return 0
        await self._write(receipts)
        await self._ledger.note(told, self._now_ms())
        for action_id, outcome in told:
            self.counts.outcomes[outcome.status] += 1
            self._log.info(
                "an outcome was noted late, and its receipt is written now", channel=self.how.name,
                action_id=action_id, status=outcome.status,
            )  # fmt: skip
        return len(told)

    async def close(self) -> None:
        """Let go of everything. What is open stays open in the ledger."""
        for task in [*self._tasks, self._keeping]:
            task.cancel()
        await asyncio.gather(*self._tasks, self._keeping, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        await self._ledger.close()
        await self.how.provider.close()

    # ---- commands ----------------------------------------------------------------------------------------------

    def _carry_out(self, command: Any) -> None:
        match command:
            case Look(action_id):
                self._note(ToLook(action_id))
            case Begin(action_id, attempt, lease_ms):
                self._note(ToBegin(action_id, attempt, self._actions[action_id].user_id, lease_ms))
            case Free(action_id, attempt):
                self._note(ToFree(action_id, attempt))
            case Settle(action_id, attempt, outcome):
                self._note(ToSettle(action_id, attempt, self._actions[action_id].user_id, outcome))
            case Call(action_id, attempt, until_ms):
                self._spawn(self._call(action_id, attempt, until_ms))
            case Ask(action_id, attempt, since_ms):
                self._spawn(self._ask(action_id, attempt, since_ms))
            case Renew():
                self._spawn(self._renew())
            case Done(place):
                self._done(place)
                self.has_changed.set()

    def _note(self, note: Note) -> None:
        self._notes.append(note)
        self._has_notes.set()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failure = self.failure or error
            self.has_changed.set()

    async def _call(self, action_id: str, attempt: int, until_ms: int) -> None:
        if self._now_ms() > until_ms:
            answer = TOO_LATE
        else:
            began_s = asyncio.get_running_loop().time()
            over_ms = until_ms + self.how.policy.call_ms
            IS_TOO_LATE.set(lambda: self._now_ms() > over_ms)  # For this task alone.
            answer = await self._answer(action_id)
            answer = without(answer, self._hidden(action_id, is_logged=answer.kind in (CONFIG, TOKEN)))
            self.counts.called(answer.kind, asyncio.get_running_loop().time() - began_s, attempt)
        self.machine.answered(action_id, attempt, answer, self._now_ms())
        self._say_held()
        self.go()

    async def _answer(self, action_id: str) -> Answer:
        try:
            async with asyncio.timeout(self.how.policy.call_ms / 1000):
                return await self.how.provider.call(self._actions[action_id])
        except Unfit as unfit:
            return Answer(PERMANENT, unfit.code, unfit.detail)
        except TimeoutError:
            return Answer(UNKNOWN, "timeout")
        except Exception as error:  # A mistake in a provider is not a reason to stop others, nor to send twice.
            return self._failed(error, action_id)

    def _begin_together(self, calls: Sequence[Call]) -> None:
        """Begin calls that are due at the same time, those together that can go together."""
        groups: dict[Hashable, list[Call]] = {}
        for call in calls:
            if (common := self._common(call.action_id)) is None:
                self._carry_out(call)
                continue
            group = groups.setdefault(common, [])
            group.append(call)
            if len(group) == self._together_max:
                self._spawn(self._call_together(groups.pop(common)))
        for group in groups.values():
            if len(group) == 1:
                self._carry_out(group[0])
            else:
                self._spawn(self._call_together(group))

    def _common(self, action_id: str) -> Hashable:
        try:
            common = cast(Together, self.how.provider).goes_with(self._actions[action_id])
            hash(common)
            return common
        except Unfit:
            return None  # What the call says is what counts.
        except Exception as error:
            self._failed(error, action_id)
            return None

    async def _call_together(self, calls: Sequence[Call]) -> None:
        """Do for each of *calls* what `_call` does for one, with one call to the provider."""
        now_ms = self._now_ms()
        for late in (one for one in calls if now_ms > one.until_ms):
            self.machine.answered(late.action_id, late.attempt, TOO_LATE, now_ms)
            self.go()  # It does not wait for the others.
        calls = [one for one in calls if now_ms <= one.until_ms]
        if calls:
            began_s = asyncio.get_running_loop().time()
            over_ms = min(one.until_ms for one in calls) + self.how.policy.call_ms
            IS_TOO_LATE.set(lambda: self._now_ms() > over_ms)  # For this task alone.
            actions = [self._actions[one.action_id] for one in calls]
            answers = await self._answers(actions)
            lasted_s = asyncio.get_running_loop().time() - began_s
            # What a provider says of one may be about another, and nobody's receipt has what is another user's.
            hidden = self.how.secrets.union(*map(personal, actions))
            cleaned = {}  # Most say the same, and there is much to hide.
            for call, answer in zip(calls, answers, strict=True):
                words = (answer.code, answer.detail)
                if words not in cleaned:
                    found = without(answer, hidden)
                    cleaned[words] = (found.code, found.detail)
                code, detail = cleaned[words]
                said = answer if words == (code, detail) else replace(answer, code=code, detail=detail)
                self.counts.called(answer.kind, lasted_s, call.attempt)
                self.machine.answered(call.action_id, call.attempt, said, self._now_ms())
        self._say_held()
        self.go()

    async def _answers(self, actions: Sequence[Action]) -> Sequence[Answer]:
        provider = cast(Together, self.how.provider)
        try:
            async with asyncio.timeout(self.how.policy.call_ms / 1000):
                answers = await provider.call_together(actions)
            if len(answers) != len(actions) or not all(map(_is_answer, answers)):
                raise TypeError("what came is not an answer for each action")
            return answers
        except TimeoutError:
            return [Answer(UNKNOWN, "timeout")] * len(actions)
        except Exception as error:
            return [self._failed(error, None)] * len(actions)

    def _failed(self, error: Exception, action_id: str | None) -> Answer:
        # Not with its message, which may have the action's data.
        where = "".join(traceback.format_tb(error.__traceback__)[-3:])
        self._log.error(
            "a provider failed", channel=self.how.name, action_id=action_id, error=type(error).__name__, where=where
        )
        return Answer(UNKNOWN, "internal", type(error).__name__)

    def _hidden(self, action_id: str, *, is_logged: bool) -> set[str]:
        """Return what an answer must not say: in a receipt a secret of ours, in a log also what is the user's."""
        return {*self.how.secrets, *(personal(self._actions[action_id]) if is_logged else ())}

    async def _ask(self, action_id: str, attempt: int, since_ms: int) -> None:
        IS_TOO_LATE.set(_never)  # It is known from the call that this comes of.
        try:
            async with asyncio.timeout(self.how.policy.call_ms / 1000):
                answer = await self.how.provider.ask(self._actions[action_id], since_ms)
        except TimeoutError:
            answer = Answer(UNKNOWN, "timeout")
        except Exception as error:
            answer = self._failed(error, action_id)
        answer = without(answer, self._hidden(action_id, is_logged=answer.kind == UNKNOWN))
        if answer.kind == UNKNOWN and self._now_ms() - self._untold.get(answer.code, 0) >= SAID_AGAIN_MS:
            self._untold[answer.code] = self._now_ms()
            self._log.warning(
                "a provider does not tell what it has sent, and is asked again", channel=self.how.name,
                action_id=action_id, code=answer.code, detail=masked(answer.detail),
            )  # fmt: skip
        self.machine.asked(action_id, attempt, answer, self._now_ms())
        self.go()

    async def _renew(self) -> None:
        IS_TOO_LATE.set(_never)
        try:
            async with asyncio.timeout(self.how.policy.call_ms / 1000):
                is_new = await self.how.provider.renew()
        except TimeoutError:
            is_new = False
        except Exception as error:
            self._failed(error, None)
            is_new = False
        self.machine.renewed(is_new, self._now_ms())
        self.go()

    async def _tell(self, all_of_them: Sequence[Tell]) -> None:
        """Write the receipts of outcomes, those that came together with one acknowledgement."""
        records: list[Keyed] = []
        for action_id, outcome in all_of_them:
            records += receipts_of(action_id, self._actions[action_id].user_id, outcome)
        await self._write(records)
        for action_id, outcome in all_of_them:
            if action_id in self._late:
                self._late.discard(action_id)
                self._note(ToTold(action_id, outcome))
            self.counts.outcomes[outcome.status] += 1
            self.machine.told(action_id, self._now_ms())
            if not self.machine.has(action_id):
                self._actions.pop(action_id, None)
        self.go()

    async def _write(self, receipts: Sequence[Keyed]) -> None:
        failures = await self._writer.begin(self._receipts, receipts)
        if failures:
            raise next(iter(failures.values()))

    # ---- the ledger --------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Make notes, as many together as there are; while the ledger is away nothing else is done."""
        while True:
            await self._has_notes.wait()
            self._has_notes.clear()
            notes, self._notes = self._notes, []
            while True:
                try:
                    found = await self._ledger.note(notes, self._now_ms())
                    break
                except LedgerAway as error:
                    if not self.is_ledger_away:
                        self._log.error("the ledger is away: nothing is called until it is back", error=str(error))
                    self.is_ledger_away = True
                    await asyncio.sleep(LEDGER_PAUSE_S)
            if self.is_ledger_away:
                self.is_ledger_away = False
                self._log.info("the ledger is back")
            for note, noted in zip(notes, found, strict=True):
                self._heard(note, noted)
            self.go()

    def _heard(self, note: Note, noted: Noted) -> None:
        machine, now = self.machine, self._now_ms()
        match note:
            case ToLook(action_id):
                if noted.entry is not None and noted.entry.outcome is not None and noted.entry.is_untold:
                    self._late.add(action_id)
                machine.looked(action_id, noted.entry, now)
            case ToBegin(action_id, attempt):
                wait_ms = 0 if noted.is_taken else noted.wait_ms or None
                machine.begun(action_id, attempt, wait_ms, now)
            case ToFree(action_id):
                machine.freed(action_id, now)
                if not machine.has(action_id):
                    self._actions.pop(action_id, None)
            case ToSettle(action_id, _, _, outcome):
                if noted.is_taken and noted.entry is not None and noted.entry.is_untold:
                    self._late.add(action_id)
                machine.settled(action_id, outcome if noted.is_taken else None, now)

    # ---- time --------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        due_ms = self.machine.next_ms
        if due_ms == self._due_ms:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_ms, self._timer = due_ms, None
        if due_ms is not None:
            wait_s = max(0.0, (due_ms - self._now_ms()) / 1000)
            self._timer = asyncio.get_running_loop().call_later(min(wait_s, 3600.0) + 0.0005, self._tick)

    def _tick(self) -> None:
        self._due_ms, self._timer = None, None
        self.machine.tick(self._now_ms())
        self.go()

    def _say_held(self) -> None:
        until_ms = self.machine.held_ms
        if until_ms - self._now_ms() >= LONG_MS and until_ms - self._said_held_ms >= LONG_MS:
            self._said_held_ms = until_ms
            self._log.warning(
                "the provider asks to wait: nobody is called before", channel=self.how.name, until=format_ms(until_ms)
            )

    def _say_circuit(self) -> None:
        now = self.machine.why_open
        if now is not None and self._circuit is None:
            self._log.error(
                "the channel is stopped: every call would fail until somebody mends it; one action is tried each 30 s",
                channel=self.how.name, code=now.code, detail=masked(now.detail),
            )  # fmt: skip
        elif now is None and self._circuit is not None:
            self._log.info("the channel works again", channel=self.how.name)
        self._circuit = now


def _is_answer(one: object) -> bool:
    return isinstance(one, Answer) and isinstance(one.code, str) and isinstance(one.detail, str)


def _never() -> bool:
    return False


def receipts_of(action_id: str, user_id: str, outcome: Outcome) -> list[Keyed]:
    """Return the receipts that tell of *outcome*, as `docs/records.md` has them."""
    statuses = (outcome.status, outcome.further) if outcome.further else (outcome.status,)
    return [(user_id, _receipt(action_id, user_id, status, outcome)) for status in statuses]


def _receipt(action_id: str, user_id: str, status: str, outcome: Outcome) -> bytes:
    return _dump(
        {
            "action_id": action_id,
            "user_id": user_id,
            "status": status,
            "code": outcome.code,
            "detail": outcome.detail,
            "message_id": f"{action_id}/{status}",
            "timestamp": format_ms(outcome.at_ms),
        }
    )
