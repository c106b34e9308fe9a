"""What is remembered of users for a while only, and when it can go.

Message ids, windows of events, times of entries and of messages are of use until a window has passed; after that an
idle user would keep them for ever. So each record notes a day, some days ahead, at which the user is looked through if
no journey is open then. Days, and not moments, so that the timer moves once a day and not with every record. The day
is noted with the user and not reckoned anew, so that a deployment which asks further back leaves every timer where it
is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from operators.language.flow import ReentryAfter, ReentryAtMost
from operators.language.values import DAY
from operators.limits import IDS_MAX
from operators.program.program import Program
from operators.windows import drop
from state.user import NEVER, User

REPEAT_MS: Final = DAY  # So long is a message id remembered.


def forget_oldest_ids(seen: dict[str, int], now: int) -> bool:
    """Drop the ids that may come again, and make room for more; tell whether one went that may not.

    Ids stand in the order in which they were taken, so this looks at those that go, not at all of them: for a user with
    very many events that makes the difference.
    """
    over = IDS_MAX // 8 if len(seen) >= IDS_MAX else 0  # Many at once: going over what is gone takes time, too.
    going: list[str] = []
    too_many = False
    for message_id, at in seen.items():
        if now - at < REPEAT_MS:
            if len(going) >= over:
                break
            too_many = True
        going.append(message_id)
    for message_id in going:
        del seen[message_id]
    return too_many


class Memory:
    """How long the flows in force can ask for what.

    `reaches` maps the id of each window or counter to how far it reaches back in ms; None for one without a window.
    `sends` maps each channel, and all together, to how far back caps ask for messages. `days` is after how many days,
    that of the record included, nothing that has an end is asked for any more.
    """

    def __init__(
        self,
        programs: list[Program],
        entering: dict[str, Program],
        reaches: dict[str, int | None],
        sends: Mapping[str, int],
        goals: Mapping[str, int],
    ) -> None:
        self._entering = entering
        self._reaches = reaches
        self._sends = sends
        self._goals = goals
        horizons = [_horizon(program) for program in programs]
        ends = [*reaches.values(), *sends.values(), *goals.values(), *horizons]
        longest = max([REPEAT_MS, *(reach for reach in ends if reach is not None)])
        self.days = -(-longest // DAY) + 1

    @staticmethod
    def due(user: User) -> int:
        """Return when *user*, who has no open journey, is to be looked through, or `NEVER`."""
        if not user.day:
            return NEVER
        is_left = user.seen or user.windows or user.entries or user.sends or user.trials
        return user.day * DAY if is_left else NEVER

    def forget(self, user: User, now: int) -> None:
        """Drop what nobody can ask for at *now* or later; what stays and has an end is looked at again."""
        self.forget_ids(user, now)
        ends = bool(user.seen)
        for name, times in list(user.windows.items()):
            reach = self._reaches.get(name.partition("\x1f")[0], 0)  # One that no flow asks for any more goes.
            if reach is None:
                continue
            if isinstance(times, list) and reach:
                drop(times, now - reach)
            if not reach or not times:
                del user.windows[name]
            else:
                ends = True
        for counts, times in list(user.sends.items()):
            drop(times, now - self._sends.get(counts, 0))  # One that no cap asks for any more goes.
            if not times:
                del user.sends[counts]
        ends |= bool(user.sends) | self.forget_entries(user, now) | self.forget_trials(user, now)
        user.day = now // DAY + self.days if ends else 0

    def forget_ids(self, user: User, now: int) -> None:
        """Drop the message ids that may come again."""
        for message_id in [known for known, at in user.seen.items() if now - at >= REPEAT_MS]:
            del user.seen[message_id]

    def forget_entries(self, user: User, now: int) -> bool:
        """Drop the entries per key value that the rule of their flow can no longer ask for.

        Those per flow stay: there are only as many as flows, and a new version may ask for them. Returns whether
        entries are left that will be dropped one day.
        """
        ends = False
        for name in [name for name in user.entries if "\x1f" in name]:
            program = self._entering.get(name.partition("\x1f")[0])
            horizon = None if program is None else _horizon(program)
            if horizon is None:
                continue
            if user.entries[name][-1] <= now - horizon:
                del user.entries[name]
            else:
                ends = True
        return ends

    def forget_trials(self, user: User, now: int) -> bool:
        """Keep of a trial in which the user cannot convert any more only that there was one.

        Another passage is not a first one, however late it comes, so that much stays: there are only as many as
        experiments. Returns whether trials are left that are not over.
        """
        ends = False
        for name, trial in user.trials.items():
            if trial.is_over:
                continue
            if now >= trial.begun_ms + self._goals.get(name, 0):
                user.trials[name] = trial.over()
            else:
                ends = True
        return ends


def _horizon(program: Program) -> int | None:
    """Return how far back a flow's rule on re-entry asks, None for no rule or one without end."""
    rule = program.entry_rules.reentry
    if isinstance(rule, ReentryAfter):
        return rule.after
    return rule.within if isinstance(rule, ReentryAtMost) else None
