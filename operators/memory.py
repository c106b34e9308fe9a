"""What is remembered of users for a while only, and when it can go.

Message ids, windows of events and times of entries are of use until a window has passed; after that an idle user would
keep them for ever. So a user without open journeys has a timer, some days after the last record, at which they are
looked through. Days, and not moments, so that the timer moves once a day and not with every record.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from operators.flow import ReentryAfter, ReentryAtMost
from operators.values import DAY
from state.user import NEVER, User

if TYPE_CHECKING:
    from operators.program import Program

REPEAT_MS: Final = DAY  # So long is a message id remembered.


class Memory:
    """How long the flows in force can ask for what.

    `reaches` maps the id of each window or counter to how far it reaches back in ms; None for one without a window.
    """

    def __init__(self, programs: list[Program], entering: dict[str, Program], reaches: dict[str, int | None]) -> None:
        self._entering = entering
        self._reaches = reaches
        horizons = [_horizon(program) for program in programs]
        longest = max([REPEAT_MS, *(reach for reach in [*reaches.values(), *horizons] if reach is not None)])
        self._days = -(-longest // DAY) + 1

    def due(self, user: User) -> int:
        """Return when *user*, who has no open journey, is to be looked through, or `NEVER`."""
        if user.seen or user.windows or user.entries:
            return (user.day + self._days) * DAY if user.day else NEVER
        return NEVER

    def forget(self, user: User, now: int) -> None:
        """Drop what nobody can ask for at *now* or later. What stays has no end, so the user is not looked at again."""
        self.forget_ids(user, now)
        for name, times in list(user.windows.items()):
            reach = self._reaches.get(name.partition("\x1f")[0], 0)  # One that no flow asks for any more goes.
            if reach is None:
                continue
            if isinstance(times, list) and reach:
                del times[: bisect_right(times, now - reach)]
            if not reach or not times:
                del user.windows[name]
        self.forget_entries(user, now)
        user.day = 0

    def forget_ids(self, user: User, now: int) -> None:
        """Drop the message ids that may come again."""
        for message_id in [known for known, at in user.seen.items() if now - at >= REPEAT_MS]:
            del user.seen[message_id]

    def forget_entries(self, user: User, now: int) -> None:
        """Drop the entries per key value that the rule of their flow can no longer ask for.

        Those per flow stay: there are only as many as flows, and a new version may ask for them.
        """
        for name in [name for name in user.entries if "\x1f" in name]:
            program = self._entering.get(name.partition("\x1f")[0])
            horizon = None if program is None else _horizon(program)
            if horizon is not None and user.entries[name][-1] <= now - horizon:
                del user.entries[name]


def _horizon(program: Program) -> int | None:
    """Return how far back a flow's rule on re-entry asks, None for no rule or one without end."""
    rule = program.rules.reentry
    if isinstance(rule, ReentryAfter):
        return rule.after
    return rule.within if isinstance(rule, ReentryAtMost) else None
