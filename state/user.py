"""What is remembered of one user, and how it is written down.

The structs are encoded as msgpack arrays: compact, and a field may be added at the end with a default, so older rows
stay readable. `User.format` leads every row; a row of a newer format is refused, never guessed at.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from state.errors import NewerFormatError, StateRefused

USER_FORMAT: Final = 2
NEVER: Final = 2**62  # A due time that no clock reaches; fits a signed 64-bit integer.
PARKED: Final = NEVER + 1  # Of a wake-up that fell due while its flow was paused: it is due at the resume.


class Branch(msgspec.Struct, array_like=True, gc=False):
    """One place where a journey stands: a held step, since when, until when.

    `wake_ms` is when it goes on by itself, `PARKED` where that passed while the flow was paused.
    `number` tells the branches of a journey apart, in written order. `memo` is the step's own memory while it holds
    (`wait_for` keeps its counts there). `scope` names the parallel step that the branch belongs to, "" for none.
    """

    number: int
    step: str
    wake_ms: int
    begun_ms: int
    memo: Any = None
    scope: str = ""


class Trial(msgspec.Struct, array_like=True, gc=False):
    """What a user is in: an experiment, since the first passage.

    `key` is the entry key of the journey that passed, `journey` its id. `entry` and `event` are what it knew, as
    `Journey` has them, where the goal asks for it. Once the user has converted or cannot any more only `is_over` says
    so, and nothing else is kept: another passage begins nothing anew.
    """

    begun_ms: int
    arm: str
    version: int = 0
    is_over: bool = False
    journey: str = ""
    key: str | int | float | bool | None = None
    cause: tuple[str, str | None] | None = None
    entry: dict[str, Any] | None = None
    event: dict[str, Any] | None = None

    def over(self) -> Trial:
        """Return what is kept once nothing can happen any more."""
        return Trial(self.begun_ms, self.arm, self.version, is_over=True)


class Journey(msgspec.Struct, array_like=True, gc=False):
    """One user's passage through one version of one flow.

    `number` orders the journeys of a user by entry. `entry` holds the trigger event's properties; `event` those of
    the event that moved the journey last, None while that is the trigger. `cause` is (message_id, event name).
    `branches` are in order of their numbers. `visits` counts how often each step has begun, the latest one last.
    `tallies` counts the events of each `did .. since: entry` clause, by its number in the program. `results` holds,
    for each send step that a `result_of` asks about, what has become of its latest visit: the statuses in the order in
    which they came.
    """

    flow: str
    version: int
    id: str
    key: str | int | float | bool | None
    number: int
    entered_ms: int
    entry: dict[str, Any]
    event: dict[str, Any] | None
    cause: tuple[str, str | None]
    branches: list[Branch]
    visits: dict[str, int]
    tallies: dict[str, int]
    results: dict[str, list[str]] = {}


class User(msgspec.Struct, array_like=True, gc=False):
    """Everything that is remembered of one user.

    `seq` is the number of the last journal record; `journeys_begun` numbers the journeys. `seen` maps message ids to
    the stream time at which they were taken. `windows` holds, for each counted condition (and key value), the sorted
    times of the latest matching events, or their bare number where there is no window. `entries` holds, per flow
    (and key value), the times of the latest entries. `day` is the day, counted from 1970 UTC, at which what nobody asks
    for any more is dropped, 0 when nothing of it is left.

    `audiences` maps the audiences that the user is in to the member's row. `sends` holds the times of the latest
    marketing messages, per channel and over all (""), as far as caps ask for them. `trials` holds, per experiment, what
    the user is in. `runs` maps a flow to the planned time of its latest run that the user has done.
    """

    format: int = USER_FORMAT
    seq: int = 0
    journeys_begun: int = 0
    profile: dict[str, Any] = {}
    journeys: list[Journey] = []
    seen: dict[str, int] = {}
    windows: dict[str, list[int] | int] = {}
    entries: dict[str, list[int]] = {}
    day: int = 0
    audiences: dict[str, dict[str, Any]] = {}
    sends: dict[str, list[int]] = {}
    trials: dict[str, Trial] = {}
    runs: dict[str, int] = {}

    @property
    def is_blank(self) -> bool:
        """Tell whether nothing at all is remembered, so that the row can go."""
        return not (
            self.seq
            or self.profile
            or self.journeys
            or self.seen
            or self.windows
            or self.entries
            or self.audiences
            or self.sends
            or self.trials
            or self.runs
        )


_encode_user = msgspec.msgpack.Encoder().encode
_decode_user = msgspec.msgpack.Decoder(User).decode
_decode_any = msgspec.msgpack.Decoder().decode


def dump_user(user: User) -> bytes:
    """Return the row of *user*."""
    return _encode_user(user)


def load_user(row: bytes) -> User:
    """Return the user written in *row*.

    Raises:
        NewerFormatError: the row has a later format than this software knows.
        StateRefused: it is damaged.
    """
    try:
        user = _decode_user(row)
        written = user.format
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        written = _format_of(row)
        if written <= USER_FORMAT:
            raise StateRefused(
                f"what is remembered of one user cannot be read ({error}): "
                "restore the whole state directory from one backup"
            ) from None
    if written > USER_FORMAT:
        raise NewerFormatError(
            f"a user's row has format {written}, this version of nudge reads up to {USER_FORMAT}: "
            "use the version that wrote it, or a newer one"
        )
    user.format = USER_FORMAT
    return user


def _format_of(row: bytes) -> int:
    """Return the format that a row says it has, 0 when it says none."""
    try:
        written = _decode_any(row)[0]
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError):
        return 0
    return written if isinstance(written, int) else 0
