"""What one user may make the job remember and write, whatever that user sends. `docs/guarantees.md` lists it all."""

from __future__ import annotations

from typing import Any, Final

import orjson

KEY_CHARACTERS_MAX: Final = 256  # As a user id. A longer text is no key.
ADDRESS_CHARACTERS_MAX: Final = 8_192  # Push subscriptions are the longest addresses there are, at some 500.
VARIABLES_BYTES_MAX: Final = 524_288  # Of one action. Kafka's clients and brokers take a million by default.
PROFILE_BYTES_MAX: Final = 262_144  # It is written with every commit in which the user changes.
AUDIENCES_MAX: Final = 1_000  # Of one user, who is written with all of them.
ROW_BYTES_MAX: Final = 16_384  # What a member of an audience brings along; all of it is written with the user.
JOURNEYS_MAX: Final = 1_000  # Open ones of one user: each looks at each event.
COUNTERS_MAX: Final = 10_000  # Per key value; beyond it the oldest one is forgotten.
ENTRIES_MAX: Final = 10_000  # As for counters.
IDS_MAX: Final = 51_200  # Message ids of the last day: an event every 1.7 s. With ids of 30 characters 1.8 MB.
TOLD_BYTES_MAX: Final = 65_536  # Of what was found by all the conditions of an entry, in one journal record.
TOLD_CHARACTERS_MAX: Final = 1_000  # Of one value in a journal record.

_SMALL: Final = frozenset((int, float, bool, type(None)))
_FEW: Final = 100
# With names as long, of characters that JSON escapes in six bytes, and twice as many: less than any bound above.
_SMALL_TEXT: Final = 100


def is_small(values: dict[str, Any]) -> bool:
    """Tell whether *values* are few, small and flat, so that nobody has to measure them."""
    if len(values) > _FEW:
        return False
    for name, value in values.items():
        kind = value.__class__
        if len(name) > _SMALL_TEXT or not (kind in _SMALL or (kind is str and len(value) <= _SMALL_TEXT)):
            return False
    return True


def fits(values: dict[str, Any], bytes_max: int) -> bool:
    """Tell whether *values* have at most *bytes_max* bytes as JSON; where they are small this costs nothing."""
    return is_small(values) or len(orjson.dumps(values)) <= bytes_max


def write_profile(profile: dict[str, Any], changes: dict[str, Any]) -> bool:
    """Write *changes* into *profile*, the top level only, null removes; nothing of what would make it too large.

    Returns:
        Whether it was written. What makes a profile smaller always is.
    """
    if not (is_small(changes) and is_small(profile)):
        written = {name: value for name, value in {**profile, **changes}.items() if value is not None}
        size = len(orjson.dumps(written))
        if size > PROFILE_BYTES_MAX and size > len(orjson.dumps(profile)):
            return False
    for name, value in changes.items():
        if value is None:
            profile.pop(name, None)
        else:
            profile[name] = value
    return True


def told(value: Any) -> Any:
    """Return *value* as a journal record tells it: a long text cut, of a large list or object only the size."""
    if value.__class__ is str:
        return value if len(value) <= TOLD_CHARACTERS_MAX else value[: TOLD_CHARACTERS_MAX - 3] + "..."
    if value.__class__ in (list, dict) and len(orjson.dumps(value)) > 4 * TOLD_CHARACTERS_MAX:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return value


def make_room(memories: dict[str, Any], most: int) -> None:
    """Forget the oldest memories per key value, until one more fits. Those without a key are as few as the flows."""
    while len(memories) >= most:
        oldest = next((name for name in memories if "\x1f" in name), None)
        if oldest is None:
            return
        del memories[oldest]
