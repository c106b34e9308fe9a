"""The records that go out: actions, journal records and dead letters, each defined here and nowhere else.

`nudge schema` makes their JSON Schemas of these definitions, and a test holds `docs/records.md` to them. In JSON the
fields stand in this order; one that is `UNSET` is left out. Times are ISO 8601 in UTC with milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_args

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.json import Encoder

USER_ID_MAX: Final = 256
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
DIGEST_PATTERN: Final = r"^[0-9a-f]{32}$"
RAW_KEPT_BYTES: Final = 16 * 1024

UserId = Annotated[str, Meta(min_length=1, max_length=USER_ID_MAX)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Digest = Annotated[str, Meta(pattern=DIGEST_PATTERN)]
Time = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$")]
FromOne = Annotated[int, Meta(ge=1)]

EntryReason = Literal[
    "paused", "inactive", "no_key", "condition", "reentry", "already_inside", "limit", "holdout", "error"
]
"""Why entry was refused, in the order of the checks; `error` is a mistake of ours."""

SendReason = Literal[
    "suppressed", "no_consent", "no_address", "missing_variable", "expired", "quiet", "cap", "template_error"
]
"""Why a send was refused."""

JournalKind = Literal[
    "entered",
    "refused",
    "sent",
    "suppressed",
    "postponed",
    "waiting",
    "moved",
    "receipt",
    "set",
    "audience",
    "converted",
    "exited",
    "ended",
    "failed",
    "migrated",
]

DeadReason = Literal[
    "too_large",
    "not_json",
    "too_deep",
    "not_an_object",
    "unknown_format",
    "no_user",
    "no_event",
    "bad_type",
    "bad_time",
]
"""Why a record cannot be read, in the order in which it is looked at."""
DEAD_REASONS: Final[tuple[DeadReason, ...]] = get_args(DeadReason)


class Cause(Struct, frozen=True, gc=False):
    """The event that led here."""

    message_id: Annotated[str, Meta(description="Its id; of an audience run <audience>@<planned time>.")]
    event: Annotated[str | None, Meta(description="Its name; null for an audience run.")]


class Action(Struct, gc=False):
    """What a journey emits to a channel, on the topic actions.<channel>.

    Each action_id is there exactly once.
    """

    action_id: Annotated[Digest, Meta(description="What to drop repeats by.")]
    channel: Annotated[Name, Meta(description="Where it goes.")]
    user_id: Annotated[UserId, Meta(description="Whom it is for; the Kafka key.")]
    to: Annotated[str | None, Meta(description="The address; null where the channel needs none.")]
    flow: Annotated[Name, Meta(description="The flow that sends it.")]
    version: Annotated[FromOne, Meta(description="The version of the flow.")]
    journey_id: Annotated[Digest, Meta(description="The user's passage through the flow.")]
    step: Annotated[str, Meta(description="The step that sends it.")]
    visit: Annotated[FromOne, Meta(description="How often this journey has begun this step.")]
    template: Annotated[str, Meta(description="What the channel knows.")]
    vars: Annotated[dict[str, Any], Meta(description="Its variables, rendered.")]
    category: Annotated[Literal["marketing", "notification"], Meta(description="What kind of message it is.")]
    at: Annotated[Time, Meta(description="The stream time at which it was sent.")]
    expires_at: Annotated[Time | None, Meta(description="Of no use later; null: never.")]
    seq: Annotated[FromOne, Meta(description="The number of the user's journal record `sent` for it.")]
    cause: Cause
    job: Annotated[Digest | UnsetType, Meta(description="On Kafka: the job that wrote it.")] = UNSET


class JournalRecord(Struct, gc=False):
    """Something that a journey did or was refused, on the topic journal.

    Each (user_id, seq) is there exactly once.
    """

    at: Annotated[Time, Meta(description="The stream time at which it happened.")]
    user_id: Annotated[UserId, Meta(description="To whom; the Kafka key.")]
    seq: Annotated[FromOne, Meta(description="Counts the user's records from 1 without gaps.")]
    flow: Annotated[Name, Meta(description="In which flow.")]
    version: Annotated[FromOne, Meta(description="In which version of it.")]
    journey_id: Annotated[str | None, Meta(description="The user's passage through the flow; null: entry was refused.")]
    kind: Annotated[JournalKind, Meta(description="What happened.")]
    step: Annotated[str | UnsetType, Meta(description="At which step.")] = UNSET
    reason: Annotated[str | UnsetType, Meta(description="Why, or which way: a code, a label or a status.")] = UNSET
    detail: Annotated[dict[str, Any] | UnsetType, Meta(description="What was compared, written or waited for.")] = UNSET
    cause: Cause | UnsetType = UNSET
    job: Annotated[Digest | UnsetType, Meta(description="On Kafka: the job that wrote it.")] = UNSET


class DeadLetter(Struct, gc=False):
    """A record that could not be read, on the topic dead-letters: where it was, why, and its first bytes."""

    topic: Annotated[str, Meta(description="The topic it came from; of a file its name.")]
    partition: Annotated[int, Meta(description="Its partition; 0 for a file.")]
    offset: Annotated[int, Meta(description="Its offset; of a file its line.")]
    reason: Annotated[DeadReason, Meta(description="Why it could not be read.")]
    detail: Annotated[str, Meta(description="What exactly is wrong, for people.")]
    raw: Annotated[
        bytes,
        Meta(description=f"The record itself, or what is wrong in it, in base64, cut at {RAW_KEPT_BYTES // 1024} KiB."),
    ]


dump = Encoder().encode
"""Return the JSON of a record that goes out."""
