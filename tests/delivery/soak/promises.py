"""What delivery and the door promise, as a comparison of what all sides have seen."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from state.delivery import ACCEPTED, REJECTED, UNKNOWN, Entry
from state.outgoing import Action

OUTCOMES = (ACCEPTED, REJECTED, UNKNOWN)


@dataclass
class Seen:
    """What one provider has seen.

    `taken` has the ids of what it has taken, in that order: each once where it drops repeats, else as often as it was.
    """

    drops_repeats: bool
    taken: Sequence[str]
    mistakes: Sequence[str] = ()
    """What it says was wrong: signatures, two different requests under one id."""


@dataclass
class Found:
    """What is there once all is at rest."""

    actions: Sequence[Action]
    seen: Mapping[str, Seen]
    ledger: Mapping[str, Entry | None]
    records: Sequence[bytes]
    """The topic of receipts and events."""
    acknowledged: Collection[str] = field(default_factory=set)
    """Ids of events and reports that the door has answered with success."""
    sent: Collection[str] = field(default_factory=set)
    """Ids of all that was sent to the door."""


def broken(found: Found) -> Iterator[str]:
    """Say which promises are broken, and by what."""
    receipts: defaultdict[str, dict[str, set[bytes]]] = defaultdict(dict)
    there = set()
    for raw in found.records:
        record = json.loads(raw)
        there.add(record["message_id"])
        if record.get("status") in OUTCOMES:
            receipts[record["action_id"]].setdefault(record["status"], set()).add(raw)
    known = {one.action_id for one in found.actions}
    for action_id in sorted(receipts.keys() - known):
        yield f"{action_id}: a receipt of no action"
    for one in found.actions:
        yield from _outcome(one.action_id, found.ledger.get(one.action_id), receipts[one.action_id])
    for channel, seen in found.seen.items():
        mine = [one for one in found.actions if one.channel == channel]
        yield from (f"{channel}: {mistake}" for mistake in seen.mistakes)
        yield from _taken(channel, mine, seen, found.ledger)
        yield from _order(channel, mine, seen.taken, found.ledger)
    for one in sorted(set(found.acknowledged) - there):
        yield f"{one}: acknowledged, and not on the topic"
    for one in sorted(there - set(found.sent) - {f"{one}/{status}" for one in receipts for status in OUTCOMES}):
        yield f"{one}: on the topic, and sent by nobody"


def _outcome(action_id: str, entry: Entry | None, receipts: Mapping[str, set[bytes]]) -> Iterator[str]:
    noted = None if entry is None or entry.outcome is None else entry.outcome.status
    final = receipts.keys() - {UNKNOWN}
    if noted is None:
        yield f"{action_id}: no outcome in the ledger: {entry}"
    elif not receipts:
        yield f"{action_id}: {noted} in the ledger, and no receipt"
    elif len(final) > 1:
        yield f"{action_id}: two final outcomes: {', '.join(sorted(final))}"
    elif (min(final) if final else UNKNOWN) != noted:
        yield f"{action_id}: {noted} in the ledger, and receipts say {', '.join(sorted(receipts))}"
    for status, texts in receipts.items():
        if len(texts) > 1:
            yield f"{action_id}: {len(texts)} different receipts say {status}: {sorted(texts)[:2]}"


def _taken(channel: str, actions: Iterable[Action], seen: Seen, ledger: Mapping[str, Entry | None]) -> Iterator[str]:
    times = Counter(seen.taken)
    for one in actions:
        entry, count = ledger.get(one.action_id), times.pop(one.action_id, 0)
        status = "" if entry is None or entry.outcome is None else entry.outcome.status
        if count > 1 and (seen.drops_repeats or status != UNKNOWN):
            yield f"{channel}: {one.action_id} was taken {count} times, and is {status}"
        if status == ACCEPTED and not count:
            yield f"{channel}: {one.action_id} is accepted, and was never taken"
        if status == REJECTED and count:
            yield f"{channel}: {one.action_id} is rejected, and was taken"
    yield from (f"{channel}: {action_id} was taken, and is no action" for action_id in times)


def _order(
    channel: str, actions: Sequence[Action], taken: Sequence[str], ledger: Mapping[str, Entry | None]
) -> Iterator[str]:
    """Each user has got what is theirs in order, as far as it is known when it was got."""
    place = {one.action_id: number for number, one in enumerate(actions)}
    last: dict[str, int] = {}
    for action_id in dict.fromkeys(taken):
        entry = ledger.get(action_id)
        if action_id not in place or entry is None or entry.outcome is None or entry.outcome.status != ACCEPTED:
            continue
        user, number = actions[place[action_id]].user_id, place[action_id]
        if last.get(user, -1) > number:
            yield f"{channel}: {action_id} of {user} was taken after a later one"
        last[user] = max(last.get(user, -1), number)
