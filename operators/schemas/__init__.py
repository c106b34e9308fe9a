"""What `nudge schema` prints: one JSON Schema per name, for editors and tests; a new one is one more entry here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from operators.conditions.arguments import Schema
from operators.schemas.flow import flow_schema, workspace_schema
from operators.schemas.records import (
    action_schema,
    dead_letter_schema,
    event_schema,
    journal_schema,
    membership_schema,
    receipt_schema,
)

SCHEMAS: Final[dict[str, Callable[[], Schema]]] = {
    "flow": flow_schema,
    "workspace": workspace_schema,
    "event": event_schema,
    "receipt": receipt_schema,
    "membership": membership_schema,
    "action": action_schema,
    "journal": journal_schema,
    "dead-letter": dead_letter_schema,
}
