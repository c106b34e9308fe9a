"""Events and flows with every key of the language: audiences, receipts, message rules, parallel arms, shared facts."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from operators.language.values import HOUR, MINUTE, SECOND
from state.iso import format_ms, parse_iso_ms
from tests.jobs import Emitted, Json, simulated

FLOWS: Final = Path(__file__).parent / "flows"
SHARED: Final = "first-come"  # The flow of which only the numbers are the same in every run.
LIMIT: Final = 100
QUEUE: Final = 250  # Users who want to enter it, and do nothing else: whoever is in has other records behind it.
_STATUSES: Final = ("accepted", "delivered", "delivered", "failed", "opened", "clicked")


def add_everything(flows: Path, events: Path, *, seed: int, until: str) -> None:
    """Put the flows with every key among *flows*, and memberships and receipts among *events*.

    Receipts are of what the flows send when nobody answers: an action's id does not depend on what comes later.
    """
    shutil.copytree(FLOWS, flows, dirs_exist_ok=True)
    chance = random.Random(seed)
    _weave(events, _memberships(events, chance))
    _weave(events, _queue(events, chance))
    sent = simulated(flows, events, events.parent / "unanswered", until=until)
    _weave(events, _receipts(sent, chance))


def without_shared(emitted: Emitted) -> Emitted:
    """Leave out what the flow did that only a certain number may enter."""

    def kept(records: Iterable[Json]) -> list[Json]:
        return [record for record in records if record["flow"] != SHARED]

    return Emitted(kept(emitted.actions), kept(emitted.journal), emitted.dead_letters)


def entered_shared(emitted: Emitted) -> int:
    """Return how many have entered that flow."""
    return sum(record["flow"] == SHARED and record["kind"] == "entered" for record in emitted.journal)


def _memberships(events: Path, chance: random.Random) -> Iterator[Json]:
    """Yield memberships of the users: at the head, and changes on the way."""
    at_of: dict[str, int] = {}
    for line in events.read_bytes().splitlines():
        if (read := _read(line)) is not None:
            at_of.setdefault(read[0], read[1])
    for user, at_ms in sorted(at_of.items()):
        if not user.startswith("u-"):
            continue  # Of the others all are to get what they wait for.
        for audience, share in (("vip", 0.3), ("staff", 0.05), ("do-not-contact", 0.05)):
            if chance.random() < share:
                yield _membership(user, audience, at_ms, {"why": "known"})
                if chance.random() < 0.4:
                    yield _membership(user, audience, at_ms + chance.randrange(8 * MINUTE), None)


def _queue(events: Path, chance: random.Random) -> Iterator[Json]:
    times = [read[1] for line in events.read_bytes().splitlines() if (read := _read(line)) is not None]
    for number in range(QUEUE):
        at = format_ms(chance.randint(min(times), max(times)))
        user = f"queue-{number}"
        yield {"user_id": user, "event": "queue", "message_id": user, "received_at": at, "timestamp": at}


def _membership(user: str, audience: str, at_ms: int, row: Json | None) -> Json:
    is_in = row is not None
    record = {"audience": audience, "member": is_in, "user_id": user, "message_id": f"{audience}/{user}/{is_in}"}
    return {**record, **({"row": row} if row else {}), "received_at": format_ms(at_ms), "timestamp": format_ms(at_ms)}


def _receipts(sent: Emitted, chance: random.Random) -> Iterator[Json]:
    for action in sent.actions:
        if action["channel"] == "webhook":
            continue
        at_ms = parse_iso_ms(action["at"])
        assert at_ms is not None
        for number in range(chance.choice((0, 1, 1, 2))):
            at_ms += chance.choice((SECOND, 20 * SECOND, HOUR)) * chance.randint(1, 3)
            yield {
                "action_id": action["action_id"], "user_id": action["user_id"], "status": chance.choice(_STATUSES),
                "message_id": f"{action['action_id']}/{number}", "received_at": format_ms(at_ms),
                "timestamp": format_ms(at_ms),
            }  # fmt: skip


def _weave(events: Path, more: Iterable[Json]) -> None:
    """Put *more* among the lines of *events*, each before the first line that came later."""
    waiting = sorted(more, key=lambda record: (record["received_at"], record["message_id"]))
    lines: list[bytes] = []
    next_one = 0
    for line in events.read_bytes().splitlines():
        at_ms = received(line)  # Of what is no record, too: where it stands in a topic, its stamp moves time.
        while at_ms is not None and next_one < len(waiting) and waiting[next_one]["received_at"] <= format_ms(at_ms):
            lines.append(json.dumps(waiting[next_one]).encode())
            next_one += 1
        lines.append(line)
    lines += [json.dumps(record).encode() for record in waiting[next_one:]]
    events.write_bytes(b"".join(line + b"\n" for line in lines))


def received(line: bytes) -> int | None:
    """Return when a line came, None where it does not say so."""
    try:
        return parse_iso_ms(json.loads(line)["received_at"])
    except (ValueError, KeyError, TypeError):
        return None


def _read(line: bytes) -> tuple[str, int] | None:
    """Return whose a line is and when it came, None for what is no record."""
    at_ms = received(line)
    user = None if at_ms is None else json.loads(line).get("user_id")
    return (user, at_ms) if isinstance(user, str) and at_ms is not None else None
