"""The model of the workspace file `nudge.yaml`: channels, rules for messages, and the settings of `nudge run`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final

from pydantic import BeforeValidator, Field, PrivateAttr, WithJsonSchema
from pydantic_core import PydanticCustomError

from operators.language.flowfile import read_document
from operators.language.message_rules import Caps, Consent, Members, Quiet, check_caps, check_quiet, check_whole_day
from operators.language.model import Model, checked, sound_part
from operators.language.problems import BadValue, Document, Path, Problem, Problems
from operators.language.values import Name, parse_name, shown
from state.outgoing import NAME_PATTERN

FILE: Final = "nudge.yaml"
JOURNAL: Final = "journal"
DEAD_LETTERS: Final = "dead-letters"
OWN_TOPICS: Final = frozenset((JOURNAL, DEAD_LETTERS))
"""The topics that the job itself has, beside those of channels."""
_SETTINGS: Final = ("run", "kafka", "gateway")  # They say how the job runs, not what it decides, and may hold secrets.


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
_SHAPES: Final = {**Quiet.shapes, "caps": "caps: [{at_most: <n>, per: 1d}]"}


class ChannelModel(Model):
    """Where the actions of a channel go, which attribute is the user's address there, and the channel's own rules."""

    shapes: ClassVar[Mapping[str, str]] = _SHAPES

    topic: Annotated[
        str | None, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="Default: actions.<channel>.")
    ] = None
    address: Annotated[
        str | None,
        Field(min_length=1, description="The attribute of the profile with the user's address; null: none is needed."),
    ] = None
    caps: Annotated[Caps, Field(description="The most marketing messages on this channel.")] = []
    quiet: Annotated[Quiet | None, Field(description="Times without marketing messages on this channel.")] = None
    deliver: Annotated[
        dict[str, Any] | None, Field(description="How nudge deliver carries the actions; null: it does not.")
    ] = None


class Workspace(Model):
    """`nudge.yaml`."""

    shapes: ClassVar[Mapping[str, str]] = {
        **_SHAPES,
        "exempt": "exempt: {audience: staff}",
        "suppress": "suppress: {audience: do-not-contact}",
        "consent": "consent: {marketing: profile.marketing_consent}",
        "templates": "templates: [cart-reminder]",
    }

    channels: Annotated[
        dict[Name, ChannelModel],
        Field(
            description="Where actions go. sms, email, push, wechat, webhook, kafka, coupon and ads are known without."
        ),
    ] = {}
    caps: Annotated[Caps, Field(description="The most marketing messages, over all channels.")] = []
    quiet: Annotated[Quiet | None, Field(description="Times without marketing messages on any channel.")] = None
    exempt: Annotated[Members | None, Field(description="Users for whom caps and quiet times do not hold.")] = None
    suppress: Annotated[Members | None, Field(description="Users who are never sent anything.")] = None
    consent: Annotated[
        Consent, Field(description="Which attribute of the profile must be true, by the category of the message.")
    ] = Consent()
    templates: Annotated[
        list[Annotated[str, Field(min_length=1, strict=True)]] | None,
        Field(description="The templates that flows may name. Without this key they may name any."),
    ] = None
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
    gateway: Annotated[
        dict[str, Any], Field(description="Settings of nudge gateway, such as the write keys that it takes.")
    ] = {}

    _document: Document = PrivateAttr(default_factory=lambda: Document(FILE, {}))

    @property
    def document(self) -> Document:
        """What it was read from, to tell problems that only the flows show."""
        return self._document

    def audiences_of_rules(self) -> Iterator[tuple[str, Path]]:
        """Yield the audiences that message rules name, each with its place."""
        for key, members in (("exempt", self.exempt), ("suppress", self.suppress)):
            if members is not None:
                path: Path = (key, "audience")
                is_list = isinstance(self._document.value_at(path), list)
                for index, name in enumerate(members.audience):
                    yield name, (*path, index) if is_list else path


def read_workspace(file: str, text: bytes) -> tuple[Workspace, list[Problem]]:
    """Return the workspace in *text*, and what is wrong with it."""
    if not text.removeprefix(b"\xef\xbb\xbf").strip():
        return Workspace(), []
    document, problems = read_document(file, text)
    if document.data is None:
        return Workspace(), problems.found
    workspace = checked(Workspace, document.data, (), problems) or _sound_part(document.data)
    for name, channel in workspace.channels.items():
        if channel.topic in OWN_TOPICS:
            message = f"{channel.topic} is a topic of the job's own: a replay could not tell what is in it already"
            problems.add(("channels", name, "topic"), "reserved-topic", message, "choose another name")
    _check_rules(workspace, problems)
    workspace._document = document
    return workspace, problems.found


def _sound_part(raw: object) -> Workspace:
    """Return what is left of *raw* without what is wrong: that has been told, and the rest is looked at all the same.

    A channel stays in any case: that flows send to it is not wrong.
    """
    if not isinstance(raw, dict):
        return Workspace()
    written = raw.get("channels")
    channels = {
        str(name): sound_part(ChannelModel, channel) or ChannelModel()
        for name, channel in (written.items() if isinstance(written, dict) else ())
    }
    rest = sound_part(Workspace, {key: value for key, value in raw.items() if key != "channels"})
    return (rest or Workspace()).model_copy(update={"channels": channels})


def _check_rules(workspace: Workspace, problems: Problems) -> None:
    """Note what is wrong with the message rules, alone and together."""
    check_caps(workspace.caps, (), ("caps",), problems)
    everywhere: list[tuple[Path, Quiet]] = []
    if workspace.quiet is not None:
        everywhere.append((("quiet",), workspace.quiet))
        check_quiet(workspace.quiet, ("quiet",), problems)
    for name, channel in workspace.channels.items():
        check_caps(channel.caps, workspace.caps, ("channels", name, "caps"), problems)
        if channel.quiet is not None:
            path = ("channels", name, "quiet")
            check_quiet(channel.quiet, path, problems)
            check_whole_day([*everywhere, (path, channel.quiet)], problems)


def without_settings(text: str) -> str:
    """Return what a workspace says of channels and messages, as JSON: the part that a state keeps."""
    document, _ = read_document(FILE, text.encode())
    data = document.data if isinstance(document.data, dict) else {}
    kept = {key: value for key, value in data.items() if key not in _SETTINGS}
    channels = kept.get("channels")
    if isinstance(channels, dict):
        kept["channels"] = {name: _without_delivery(channel) for name, channel in channels.items()}
    return json.dumps(kept, ensure_ascii=False)


def _without_delivery(channel: Any) -> Any:
    """Return what the job wants to know of a channel: how its actions are carried is not its business."""
    if not isinstance(channel, dict):
        return channel
    return {key: value for key, value in channel.items() if key != "deliver"}
