"""The model of the workspace file `nudge.yaml`: channels, rules for messages, and the settings of `nudge run`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from operators.language.flowfile import read_document
from operators.language.model import Model, NotYet, checked
from operators.language.problems import BadValue, Problem
from operators.language.values import Name, parse_name, shown
from state.outgoing import NAME_PATTERN

FILE: Final = "nudge.yaml"
JOURNAL: Final = "journal"
DEAD_LETTERS: Final = "dead-letters"
OWN_TOPICS: Final = frozenset((JOURNAL, DEAD_LETTERS))
"""The topics that the job itself has, beside those of channels."""
_SETTINGS: Final = ("run", "kafka")  # They say how the job runs, not what it decides, and may hold secrets.


def _audiences(value: Any) -> tuple[str, ...] | None:
    """Return the names in a list of names, or of a mapping from names to what they are."""
    if value is None:
        return None
    if not isinstance(value, list | dict):
        hint = "write audiences: [vip, staff], or audiences: {vip: who bought for 1000 a year}"
        raise PydanticCustomError(
            "wrong-type", "{text}", {"text": f"a list is needed here, not {shown(value)}", "hint": hint}
        )
    for name, description in value.items() if isinstance(value, dict) else ():
        if not isinstance(description, str | None):
            text = f"a text is needed here, not {shown(description)}"
            raise PydanticCustomError("wrong-type", "{text}", {"text": text, "hint": "", "path": (name,)})
    for place, name in enumerate(value):
        try:
            parse_name(name)
        except BadValue as bad:
            at = place if isinstance(value, list) else name
            raise PydanticCustomError(
                "bad-name", "{text}", {"text": bad.message, "hint": bad.hint, "path": (at,)}
            ) from None
    return tuple(value)


_NAME_SCHEMA: Final = {"type": "string", "pattern": NAME_PATTERN}
_AUDIENCES_SCHEMA: Final = {
    "anyOf": [
        {"type": "array", "items": _NAME_SCHEMA},
        {
            "type": "object",
            "patternProperties": {NAME_PATTERN: {"type": ["string", "null"]}},
            "additionalProperties": False,
        },
    ]
}


class ChannelModel(Model):
    """Where the actions of a channel go, and which attribute is the user's address there."""

    topic: Annotated[
        str | None, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="Default: actions.<channel>.")
    ] = None
    address: Annotated[
        str | None,
        Field(min_length=1, description="The attribute of the profile with the user's address; null: none is needed."),
    ] = None
    caps: Annotated[NotYet, Field(description="The most messages on this channel.")] = None
    quiet: Annotated[NotYet, Field(description="Times without messages on this channel.")] = None


class Workspace(Model):
    """`nudge.yaml`."""

    channels: Annotated[
        dict[Name, ChannelModel],
        Field(
            description="Where actions go. sms, email, push, wechat, webhook, kafka, coupon and ads are known without."
        ),
    ] = {}
    caps: Annotated[NotYet, Field(description="The most messages, over all channels.")] = None
    quiet: Annotated[NotYet, Field(description="Times without messages.")] = None
    exempt: Annotated[NotYet, Field(description="Users whom caps and quiet hours do not hold.")] = None
    suppress: Annotated[NotYet, Field(description="Users who are never sent anything.")] = None
    consent: Annotated[NotYet, Field(description="Attributes of the profile that must be true.")] = None
    templates: Annotated[NotYet, Field(description="The templates that flows may name.")] = None
    audiences: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(_audiences),
        WithJsonSchema(_AUDIENCES_SCHEMA),
        Field(
            description="The audiences that flows may name, beside those that they add users to: a list, or each "
            "with what it is. Without this key any may be named."
        ),
    ] = None
    run: Annotated[
        dict[str, Any],
        Field(description="Settings of nudge run, such as processes: 2. Flags and the environment come first."),
    ] = {}
    kafka: Annotated[
        dict[str, Any],
        Field(description="Options of all Kafka clients, as librdkafka names them. Keep passwords out of Git."),
    ] = {}


def read_workspace(file: str, text: bytes) -> tuple[Workspace, list[Problem]]:
    """Return the workspace in *text*, and what is wrong with it."""
    if not text.removeprefix(b"\xef\xbb\xbf").strip():
        return Workspace(), []
    document, problems = read_document(file, text)
    if document.data is None:
        return Workspace(), problems.found
    workspace = checked(Workspace, document.data, (), problems)
    if workspace is None and isinstance(document.data, dict) and isinstance(document.data.get("channels"), dict):
        # What is wrong with a channel is told; that flows send to it is not wrong.
        names = {str(name): ChannelModel() for name in document.data["channels"]}
        workspace = Workspace.model_construct(channels=names)
    for name, channel in workspace.channels.items() if workspace else ():
        if channel.topic in OWN_TOPICS:
            message = f"{channel.topic} is a topic of the job's own: a replay could not tell what is in it already"
            problems.add(("channels", name, "topic"), "reserved-topic", message, "choose another name")
    return workspace or Workspace(), problems.found


def without_settings(text: str) -> str:
    """Return what a workspace says of channels and messages, as JSON: the part that a state keeps."""
    document, _ = read_document(FILE, text.encode())
    data = document.data if isinstance(document.data, dict) else {}
    return json.dumps({key: value for key, value in data.items() if key not in _SETTINGS}, ensure_ascii=False)
