"""The rows of a shard: their keys, and how to look through them.

All keys are bytes:

    u <user_id>                 the user's row (state/user.py)
    t <due, 8 bytes> <user_id>  timer: the earliest moment at which the user has to be looked at
    a <length, 2 bytes> <audience> <user_id>
                                the user is in the audience; users in code-point order
    c <flow 0x1F version>       what was counted for a version of a flow (operators/machine/totals.py)
    p <flow 0x1F version> 0x1F <user_id>
                                a wake-up of the user that fell due while the flow was paused, and waits for its resume
    s <user_id> 0x1F <action id, 16 bytes>
                                an action that was sent, as its receipts need it (state/sent.py)
    j <user_id> 0x1F <journey, 8 bytes>
                                when a journey closed that had sent something
    x <time, 8 bytes> <user_id> 0x1F <journey, 8 bytes>
                                what such a journey had sent: forgotten after that time
    z <commit, 8> <part, 4>     undo of one part of one commit (state/undo.py)
    m                           the shard's own record (state/meta.py)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from state.backend import Backend

META: Final = b"m"
USER: Final = b"u"  # Put before the id where it is needed, without a call: it is needed for every user that changes.
_USERS_END: Final = b"v"
_TIMERS_END: Final = b"u"
UNDO_END: Final = b"{"  # Behind every undo row.
_COUNTS: Final = b"c"
_COUNTS_END: Final = b"d"
_SEPARATOR: Final = b"\x1f"
_BEHIND_SEPARATOR: Final = b"\x20"
_BEHIND_USERS: Final = b"\xff"  # Of no text in UTF-8.


def timer_key(due: int, user_id: bytes) -> bytes:
    return b"t" + due.to_bytes(8, "big") + user_id


def undo_key(commit: int, part: int) -> bytes:
    return b"z" + commit.to_bytes(8, "big") + part.to_bytes(4, "big")


def place_of(key: bytes) -> tuple[int, int]:
    """Return (commit, part) of an undo row."""
    return int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:], "big")


def counts_key(label: str) -> bytes:
    return _COUNTS + label.encode()


def counts_rows(backend: Backend) -> Iterator[tuple[str, bytes]]:
    """Yield (label, row) of every version of a flow for which something was counted."""
    for key, row in backend.scan(_COUNTS, _COUNTS_END):
        yield key[1:].decode(), row


def parked_key(label: str, user_id: bytes) -> bytes:
    return b"p" + label.encode() + _SEPARATOR + user_id


def parked_rows(backend: Backend, label: str, user_id: bytes = b"") -> Iterator[bytes]:
    """Yield the id of every user of whom something is parked in the flow *label*, from *user_id* on, in order."""
    prefix = b"p" + label.encode()
    for key, _ in backend.scan(prefix + _SEPARATOR + user_id, prefix + _BEHIND_SEPARATOR):
        yield key[len(prefix) + 1 :]


def sent_key(user_id: bytes, action_id: bytes) -> bytes:
    return b"s" + user_id + _SEPARATOR + action_id


def sent_rows(backend: Backend) -> Iterator[tuple[bytes, bytes]]:
    """Yield (user id, row) of every action that was sent and is not forgotten."""
    for key, row in backend.scan(b"s", b"t"):
        yield key[1:-17], row


def closed_key(user_id: bytes, journey: int) -> bytes:
    return b"j" + user_id + _SEPARATOR + journey.to_bytes(8, "big")


def closed_rows(backend: Backend) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield (user id, number, row) of every journey that has closed and of which something that was sent is known."""
    for key, row in backend.scan(b"j", b"k"):
        yield key[1:-9], int.from_bytes(key[-8:], "big"), row


def forgotten_key(due: int, user_id: bytes, journey: int) -> bytes:
    return b"x" + due.to_bytes(8, "big") + closed_key(user_id, journey)[1:]


def forgotten_rows(backend: Backend, start: bytes = b"x") -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, row) of every journey of which something is to be forgotten, from the key *start* on, in order."""
    return backend.scan(start, b"y")


def of_forgotten_key(key: bytes) -> tuple[int, bytes, int]:
    """Return (due time, user id, number of the journey) of a key of these."""
    return int.from_bytes(key[1:9], "big"), key[9:-9], int.from_bytes(key[-8:], "big")


def member_key(audience: str, user_id: bytes) -> bytes:
    return _members(audience) + user_id


def _members(audience: str) -> bytes:
    name = audience.encode()  # Of any characters, so that no separator could keep it apart from the user.
    return b"a" + len(name).to_bytes(2, "big") + name


def member_rows(backend: Backend, audience: str, user_id: bytes = b"") -> Iterator[bytes]:
    """Yield the id of every user in *audience*, from *user_id* on, in code-point order."""
    prefix = _members(audience)
    for key, _ in backend.scan(prefix + user_id, prefix + _BEHIND_USERS):
        yield key[len(prefix) :]


def membership_rows(backend: Backend) -> Iterator[tuple[bytes, bytes]]:
    """Yield (audience, user id) of every member of every audience."""
    for key, _ in backend.scan(b"a", b"b"):
        end = 3 + int.from_bytes(key[1:3], "big")
        yield key[3:end], key[end:]


def are_there(backend: Backend, keys: list[bytes]) -> list[bool]:
    """Tell for each of *keys* whether there is such a row."""
    return [row is not None for row in backend.get_many(keys)]


def user_rows(backend: Backend) -> Iterator[tuple[bytes, bytes]]:
    """Yield (user id, row) of every user, as they are written."""
    for key, row in backend.scan(USER, _USERS_END):
        yield key[1:], row


def timer_rows(backend: Backend, due: int = 0, user_id: bytes = b"") -> Iterator[tuple[int, bytes]]:
    """Yield (due time, user id) of every timer from that of *due* and *user_id* on, in that order."""
    for key, _ in backend.scan(timer_key(due, user_id), _TIMERS_END):
        yield int.from_bytes(key[1:9], "big"), key[9:]


def users_of(backend: Backend, user_ids: Iterable[bytes]) -> list[bytes | None]:
    """Return the rows of users, None for one who has none."""
    return backend.get_many([USER + user_id for user_id in user_ids])


def has_timers(backend: Backend, timers: Sequence[tuple[int, bytes]]) -> list[bool]:
    """Tell for each (due time, user id) whether there is such a timer."""
    return are_there(backend, [timer_key(due, user_id) for due, user_id in timers])
