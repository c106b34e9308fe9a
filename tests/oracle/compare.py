"""Compare what the oracle expects with what the product wrote."""

import json
from collections.abc import Sequence
from typing import Any

from tests.oracle.engine import Result

Json = dict[str, Any]

# What the specification leaves open is compared only where both sides say it: whether a journal record names
# its cause, and whether one about a whole journey names a step (of an experiment, `converted` does: S16).
OPEN_FIELDS = {"cause"}
STEP_IS_OPEN = {"entered", "refused", "exited", "failed", "converted"}
CONTEXT_RECORDS = 8


def difference(
    expected: Result, actions: Sequence[Json], journal: Sequence[Json], dead_letters: Sequence[Json]
) -> str | None:
    """Say where the product first differs from the oracle, for people to read; None when it does not.

    `detail` is free, but for `detail.until` of `waiting`.
    """
    return (
        first_difference("dead letter", expected.dead_letters, dead_letters)
        or first_difference("journal record", expected.journal, journal)
        or first_difference("action", expected.actions, actions)
    )


def first_difference(what: str, expected: Sequence[Json], actual: Sequence[Json]) -> str | None:
    for position in range(max(len(expected), len(actual))):
        wanted = expected[position] if position < len(expected) else None
        given = actual[position] if position < len(actual) else None
        if wanted is None or given is None or comparable(wanted, given) != comparable(given, wanted):
            return report(what, position, expected, actual, wanted, given)
    return None


def comparable(record: Json, other: Json) -> str:
    """What of *record* counts, as text, so that `1`, `1.0` and `true` are three things."""
    kept = {name: value for name, value in record.items() if name != "detail"}
    for name in OPEN_FIELDS | ({"step"} if record.get("kind") in STEP_IS_OPEN else set()):
        if "kind" in record and name not in other and not (name == "step" and is_of_experiment(record)):
            kept.pop(name, None)
    if record.get("kind") == "waiting":
        kept["detail.until"] = (record.get("detail") or {}).get("until")
    return json.dumps(kept, sort_keys=True, ensure_ascii=False)


def is_of_experiment(record: Json) -> bool:
    return record.get("kind") == "converted" and "step" in record


def report(
    what: str,
    position: int,
    expected: Sequence[Json],
    actual: Sequence[Json],
    wanted: Json | None,
    given: Json | None,
) -> str:
    lines = [f"{what} {position} differs (oracle: {len(expected)} in all, product: {len(actual)})"]
    lines += [f"  oracle:  {told(wanted)}", f"  product: {told(given)}"]
    if wanted is not None and given is not None:
        names = sorted(set(wanted) | set(given))
        for name in names:
            if told(wanted.get(name)) != told(given.get(name)) and name != "detail":
                lines.append(f"    {name}: {wanted.get(name)!r} != {given.get(name)!r}")
    subject = wanted or given or {}
    user_id = subject.get("user_id")
    for side, records in (("oracle", expected), ("product", actual)):
        before = [record for record in records[:position] if record.get("user_id") == user_id]
        lines.append(f"  before it, for {user_id!r}, in the {side}:")
        lines += [f"    {told(record)}" for record in before[-CONTEXT_RECORDS:]]
    return "\n".join(lines)


def told(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
