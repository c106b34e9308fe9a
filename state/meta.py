"""The shard's own record: its commit, its time, whose it is; and how that is written down."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from state.backend import Backend
from state.errors import NewerFormatError, StateRefused
from state.rows import META
from state.user import NEVER

STORE_FORMAT: Final = 3


class Planned(msgspec.Struct, array_like=True):
    """What is known of the runs of one flow version.

    `begin_ms` is its beginning, -1 while it is not known: until every source partition has said when its first record
    came. `heard` are those that have, by their keys; `first_ms` is the earliest so far. All runs planned up to
    `done_ms` are decided. `ran` of them took place, the last one planned for `last_ms`, -1 for none. `updates` has, by
    audience, when it was updated, as far as a decision can ask for it. `is_idle` while another version is the one that
    users enter.
    """

    begin_ms: int = -1
    first_ms: int = NEVER
    heard: list[str] = []
    done_ms: int = -1
    ran: int = 0
    last_ms: int = -1
    updates: dict[str, list[int]] = {}
    is_idle: bool = False


class Run(msgspec.Struct, array_like=True):
    """A run over audiences that is not over: its planned time, its flows by name, and the last user who was looked at.

    The users go in the order of their ids; nobody has been looked at as long as `cursor` is "".
    """

    at_ms: int
    flows: list[str]
    cursor: str = ""


class Meta(msgspec.Struct, array_like=True):
    """The shard's own record.

    `time_ms` is the shard's stream time at the commit, `newest_ms` the newest stream time of a record it has taken,
    `fired_ms` up to where all wake-ups have fired: earlier than `time_ms` while many fall due together.
    `paused` lists the flow versions that were paused; `resumed` those that go on and of which something is still
    parked, with the time of their resume. `held` are the records that wait for their turn, `sources` the keys of the
    source partitions by the numbers that these records name. `owner` is whose shard this is: a directory put together
    from parts is found out by it. `inside` is how many open journeys the users hold, counted as their rows are written
    and so apart from the totals; -1 where nobody counted. `planned` is what is known of runs over audiences, by the
    label of the flow version, `runs` those that are not over, in order of time.

    `totals` is empty but in a store of format 1, which kept there what has a row per version of a flow today.
    """

    format: int = STORE_FORMAT
    commit: int = 0
    time_ms: int = -1
    newest_ms: int = -1
    totals: dict[str, dict[str, int]] = {}
    paused: list[str] = []
    held: list[Any] = []
    owner: str = ""
    inside: int = -1
    fired_ms: int = -1
    resumed: dict[str, int] = {}
    sources: list[str] = []
    planned: dict[str, Planned] = {}
    runs: list[Run] = []


_decode_any = msgspec.msgpack.Decoder().decode
_decode_meta = msgspec.msgpack.Decoder(Meta).decode

dump_meta = msgspec.msgpack.Encoder().encode
"""Return the row of a `Meta`."""


def read_meta(backend: Backend) -> Meta:
    """Return the shard's own record.

    Raises:
        StateRefused: as `load_meta`.
    """
    return load_meta(backend.get_many([META])[0])


def load_meta(row: bytes | None) -> Meta:
    """Return what is written in *row*, that of a new shard without one.

    Raises:
        StateRefused: it is of a newer format or damaged.
    """
    if row is None:
        return Meta(inside=0)
    try:
        written = _decode_any(row)[0]  # First: what a newer format has behind it, nobody knows.
        if written <= STORE_FORMAT:
            return _decode_meta(row)
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError) as error:
        raise StateRefused(
            f"the store's own record is damaged ({error}): restore the whole state directory from one backup"
        ) from None
    raise NewerFormatError(
        f"the state has format {written}, this version of nudge reads up to {STORE_FORMAT}: "
        "use the version that wrote it, or a newer one"
    )
