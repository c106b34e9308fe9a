"""The fields that all formats have, under whatever names: their bounds, and what is said of one that is wrong."""

from __future__ import annotations

from types import NoneType
from typing import Any, Final

from state.iso import looks_like_seconds, parse_time_value
from state.outgoing import DeadReason
from state.records import Reject

USER_ID_CHARACTERS_MAX: Final = 256
NAME_CHARACTERS_MAX: Final = 128
MESSAGE_ID_CHARACTERS_MAX: Final = 256  # It is remembered for a day, and in every action that it causes.

KINDS_OF_VALUE: Final = {
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    dict: "an object",
    list: "a list",
    NoneType: "null",
}


def bad_name(field: str, value: object, missing: DeadReason, characters_max: int) -> Reject:
    """Return why *value* is no name: *missing*, or `bad_type` where it is no text or too long a one."""
    if value is None or value == "":
        return Reject(missing, f"`{field}` is missing, null or empty")
    if isinstance(value, str):
        return Reject("bad_type", f"`{field}` has {len(value)} characters, {characters_max} are allowed")
    return bad_type(field, value, "a text")


def bad_type(field: str, value: object, wanted: str) -> Reject:
    """Return that *value* is of another type than *wanted*."""
    return Reject("bad_type", f"`{field}` is {KINDS_OF_VALUE[value.__class__]}, not {wanted}")


def bad_time(field: str, value: object) -> Reject:
    """Return that *value* is no time."""
    if looks_like_seconds(value):
        return Reject("bad_time", f"`{field}` looks like seconds since 1970: send ms, or an ISO 8601 time")
    return Reject("bad_time", f"`{field}` is neither an ISO 8601 time nor ms since 1970, from 1970 to 9999")


# For formats that are not read as often as ours, and may take a moment longer.


class Unreadable(Exception):
    """Leaves the reading of a record, with the reason why it is none."""

    def __init__(self, reject: Reject) -> None:
        super().__init__(reject.detail)
        self.reject = reject


def name(field: str, value: Any, missing: DeadReason, characters_max: int = NAME_CHARACTERS_MAX) -> str:
    """Return *value*, a text that has to be there.

    Raises:
        Unreadable: it is not.
    """
    if value.__class__ is str and 0 < len(value) <= characters_max:
        assert isinstance(value, str)
        return value
    raise Unreadable(bad_name(field, value, missing, characters_max))


def user(field: str, value: Any) -> str:
    """Return *value*, the id of a user.

    Raises:
        Unreadable: it is none.
    """
    return name(field, value, "no_user", USER_ID_CHARACTERS_MAX)


def message_id(field: str, value: Any) -> str | None:
    """Return *value*, the id of a record; None where it is null or "".

    Raises:
        Unreadable: it is none.
    """
    if value is None or value == "":
        return None
    return name(field, value, "bad_type", MESSAGE_ID_CHARACTERS_MAX)


def an_object(field: str, value: Any) -> dict[str, Any] | None:
    """Return *value*, an object or null.

    Raises:
        Unreadable: it is neither.
    """
    if value is None or isinstance(value, dict):
        return value
    raise Unreadable(bad_type(field, value, "an object"))


def time_ms(field: str, value: Any) -> int | None:
    """Return *value*, a time as in our own format, in ms; None for null.

    Raises:
        Unreadable: it is neither.
    """
    if value is None:
        return None
    found = parse_time_value(value)
    if found is None:
        raise Unreadable(bad_time(field, value))
    return found


# What a record without a user looks like.

_LOOKS: Final = {
    "userId": ("Segment's", "segment"),
    "anonymousId": ("Segment's", "segment"),
    "batch": ("a batch of Segment's", "segment"),
    "distinct_id": ("PostHog's or Mixpanel's", ""),
    "user_pseudo_id": ("Google Analytics'", ""),
    "client_id": ("Google Analytics'", ""),
    "specversion": ("CloudEvents'", "cloudevents"),
    "customerId": ("Quick Audience's", "quick_audience"),
    "customerIdList": ("Quick Audience's", "quick_audience"),
    "umid": ("Quick Tracking's", "quick_tracking"),
    "puid": ("Quick Tracking's", "quick_tracking"),
    "user_id": ("our own", "native"),
    "subject": ("CloudEvents'", "cloudevents"),
    "customer_id": ("another", ""),
    "uid": ("another", ""),
}
"""Of fields, whose format has them, and how that is called here, "" where it is not read."""


def look_of(value: dict[str, Any], read_as: str) -> str:
    """Return which field of another format than *read_as* is there, and what to do; "" for none."""
    for field, (whose, known_as) in _LOOKS.items():
        if field in value and known_as != read_as:
            if not known_as:
                return f"there is `{field}`, so the format may be {whose}, which is not supported"
            return (
                f"there is `{field}`, so the format may be {whose}: use `--format {known_as}`, at a source "
                f"`?format={known_as}`; it is read as `{read_as}`"
            )
    return ""
