"""A receipt: what a channel says of an action that was sent to the user.

It is journaled first, for the journey that sent the action, also when that is over. Then it is an event like any other,
`$<channel>_<status>`, whose properties are the fields of the action and what the receipt says.
"""

from __future__ import annotations

from typing import Any, Final

from operators.language.values import DAY
from operators.limits import told
from operators.machine.deployment import Deployment
from operators.machine.event import is_repeat, take_in
from operators.machine.outbox import Outbox
from state.iso import format_ms
from state.outgoing import Cause, JournalRecord
from state.records import Input
from state.user import User

KEPT_MS: Final = 30 * DAY  # So long after its journey has closed an action may get receipts.
_SAYS: Final = ("code", "detail")


def on_receipt(
    deployment: Deployment, user: User, record: Input, journey: int, action: dict[str, Any], out: Outbox
) -> None:
    """Handle the receipt *record* of *action*, which the user's journey number *journey* has sent."""
    if record.id_sent and is_repeat(deployment, user, record, out):
        return
    fields = record.fields
    assert fields is not None, "a receipt has fields"
    status: str = fields["status"]
    says = {name: value for name in _SAYS if (value := fields.get(name)) is not None}
    record.name = f"${action['channel']}_{status}"
    record.body = {**action, "status": status, **says}
    record.fields = {"journey": journey, "step": action["step"], "visit": action["visit"], "status": status}
    user.seq += 1
    out.journal.append(
        JournalRecord(
            format_ms(record.now),
            record.user_id,
            user.seq,
            action["flow"],
            action["version"],
            action["journey_id"],
            "receipt",
            action["step"],
            told(status),
            {"action_id": action["action_id"], "channel": action["channel"]}
            | {name: told(value) for name, value in says.items()},
            Cause(record.message_id, told(record.name)),
        )
    )
    _note_result(deployment, user, record.fields)
    record.hits = deployment.index.match(record.name, record.body)
    take_in(deployment, user, record, out)


def _note_result(deployment: Deployment, user: User, about: dict[str, Any]) -> None:
    """Let the journey that has sent the action know the status, if a step asks for it, now or later."""
    step, status = about["step"], about["status"]
    for journey in user.journeys:
        if journey.number == about["journey"]:
            asked = deployment.program(journey.flow, journey.version).asked.get(step)
            if asked is None or status not in asked or about["visit"] != journey.visits.get(step):
                return
            statuses = journey.results.setdefault(step, [])
            if status not in statuses:
                statuses.append(status)
            return
