"""The model of the workspace file `nudge.yaml`: channels, rules for messages, and the settings of `nudge run`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from operators.language.flowfile import read_document
from operators.language.message_rules import Caps, Consent, Members, Quiet, check_caps, check_quiet, check_whole_day
from operators.language.model import Model, NotYet, checked, sound_part
from operators.language.problems import Path, Problem, Problems
from operators.language.values import Name

FILE: Final = "nudge.yaml"
JOURNAL: Final = "journal"
DEAD_LETTERS: Final = "dead-letters"
OWN_TOPICS: Final = frozenset((JOURNAL, DEAD_LETTERS))
"""The topics that the job itself has, beside those of channels."""
_SETTINGS: Final = ("run", "kafka")  # They say how the job runs, not what it decides, and may hold secrets.


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
    audiences: Annotated[NotYet, Field(description="The audiences that flows may name.")] = None
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
    workspace = checked(Workspace, document.data, (), problems) or _sound_part(document.data)
    for name, channel in workspace.channels.items():
        if channel.topic in OWN_TOPICS:
            message = f"{channel.topic} is a topic of the job's own: a replay could not tell what is in it already"
            problems.add(("channels", name, "topic"), "reserved-topic", message, "choose another name")
    _check_rules(workspace, problems)
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
    return json.dumps({key: value for key, value in data.items() if key not in _SETTINGS}, ensure_ascii=False)
