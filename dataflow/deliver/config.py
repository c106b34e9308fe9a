"""What `nudge.yaml` says of delivery: `deliver:` of a channel."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from connectors.channels.base import Content, Provider, Surroundings
from dataflow.deliver.links import Links
from dataflow.deliver.liquid import liquid
from dataflow.errors import UsageError
from dataflow.messages import FOLDER, Messages
from dataflow.refusals import refusal
from operators.delivery.policy import AGAIN, PARK, Policy
from operators.language.problems import BadValue, did_you_mean
from operators.language.values import parse_duration
from operators.templates.body import Given
from state.iso import parse_iso_ms
from state.outgoing import Action

_Model = TypeVar("_Model", bound=BaseModel)

GROUP: Final = "nudge.channels"
"""The group of entry points in which providers are found by their names."""
BUILT_IN: Final = {
    "alibaba_sms": "connectors.channels.alibaba_sms:AlibabaSms",
    "apns": "connectors.channels.apns:Apns",
    "fcm": "connectors.channels.fcm:Fcm",
    "http": "connectors.channels.http_template:Http",
    "sendgrid": "connectors.channels.sendgrid:Sendgrid",
    "smtp": "connectors.channels.smtp:Smtp",
    "twilio": "connectors.channels.twilio:Twilio",
    "umeng": "connectors.channels.umeng:Umeng",
    "kafka": "connectors.channels.kafka:KafkaPush",
    "webhook": "connectors.channels.webhook:Webhook",
    "wechat_template": "connectors.channels.wechat_template:WechatTemplate",
}
HASTE: Final = 0.9
"""So much of the time for a call is the provider's: it says why nothing came, which a time that is over does not."""
_COMMON: Final = ("provider", "rate", "concurrency", "give_up_after", "timeout", "on_unknown", "account", "links")


@dataclass(frozen=True, slots=True)
class Delivered:
    """A channel that is delivered to: its name, its topic, how, and through what.

    `rate` is that of the `account`, in calls per second; `policy` has none where all processes share it. `secrets` are
    those of its settings: nothing that is said has one of them.
    """

    name: str
    topic: str
    policy: Policy
    provider: Provider
    account: str
    rate: float | None
    links: Links | None = None
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


class _Wrong(ValueError):
    pass


def _count(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= 10_000:
        raise _Wrong(f"{given!r} is not a number from 1 to 10000")
    return given


def _rate(given: Any) -> float:
    text = str(given).strip()
    number, _, unit = text.partition("/")
    per_s = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(unit)
    try:
        rate = float(number) / (per_s or 0)
    except (ValueError, ZeroDivisionError):
        rate = 0.0
    if not 0 < rate < 1e6:
        raise _Wrong(f"{given!r} is not a rate; write 100/s, 600/m or 5000/h")
    return rate


def _duration(given: Any) -> int:
    try:
        return parse_duration(given)
    except BadValue as bad:
        raise _Wrong(f"{bad.message}; {bad.hint}") from None


def _on_unknown(given: Any) -> str:
    if given not in (PARK, AGAIN):
        raise _Wrong(f"{given!r} is neither {PARK} nor {AGAIN}")
    return str(given)


def delivered(
    name: str,
    topic: str,
    written: Mapping[str, Any],
    folder: Path,
    now_ms: Callable[[], int],
    nonce: Callable[[], str],
    *,
    shares_rate: bool = False,
    messages: Messages | None = None,
) -> Delivered:
    """Return how the channel *name* is delivered to, as it is *written*.

    Args:
        folder: where relative paths begin.
        shares_rate: the ledger keeps the rate, for all processes together.
        messages: what messages say; default: those in the folder.

    Raises:
        UsageError: something is wrong with it; the message says where.
    """
    where = f"channels.{name}.deliver"
    match written.get("provider"):
        case {**one} if len(one) == 1:  # `provider: {http: {url: ..}}` is the same as `provider: http` and `url: ..`.
            ((kind, inner),) = one.items()
            written = {**(inner if isinstance(inner, dict) else {}), **written, "provider": kind}
    common = {key: value for key, value in written.items() if key in _COMMON}
    provider, links = common.pop("provider", None), common.pop("links", None)
    known = {name: EntryPoint(name, place, GROUP) for name, place in BUILT_IN.items()}
    known |= {one.name: one for one in entry_points(group=GROUP)}
    if not isinstance(provider, str) or provider not in known:
        hint = did_you_mean(str(provider), known) if provider is not None else f"known here: {', '.join(sorted(known))}"
        said = "is missing" if provider is None else f"{provider!r} is not known"
        raise UsageError(f"{where}.provider: {said}; {hint}")
    read: dict[str, Callable[[Any], Any]] = {
        "rate": _rate, "concurrency": _count, "give_up_after": _duration, "timeout": _duration,
        "on_unknown": _on_unknown, "account": str,
    }  # fmt: skip
    found: dict[str, Any] = {}
    for key, value in common.items():
        try:
            found[key] = read[key](value)
        except _Wrong as wrong:
            raise UsageError(f"{where}.{key}: {wrong}") from None
    try:
        loaded = known[provider].load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"{where}.provider: {provider!r} is {known[provider].value}, which is not there: {error}"
        ) from None
    rest = {key: value for key, value in written.items() if key not in _COMMON or key == "provider"}
    secrets = set[str]()
    settings = _read(loaded.settings, rest, where, folder, secrets)
    linked = None if links is None else _read(Links, links, f"{where}.links", folder, secrets)
    call_ms = found.get("timeout", 10_000)
    policy = Policy(
        call_ms=call_ms,
        concurrency=found.get("concurrency", 50),
        rate=None if shares_rate else found.get("rate"),
        give_up_after_ms=found.get("give_up_after", 3_600_000),
        drops_repeats=loaded.drops_repeats,
        repeats_dropped_for_ms=getattr(loaded, "repeats_dropped_for_ms", None),
        can_be_asked=loaded.can_be_asked,
        on_unknown=found.get("on_unknown", PARK),
    )
    content = content_of(Messages(folder / FOLDER) if messages is None else messages)
    try:
        around = Surroundings(
            now_ms, nonce, folder, call_ms / 1000 * HASTE, content, liquid, concurrency=policy.concurrency
        )
        made = loaded(settings, around)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    account, rate = found.get("account", name), found.get("rate")
    return Delivered(name, topic, policy, made, account, rate, linked, frozenset(secrets))


def _read(model: type[_Model], written: Any, where: str, folder: Path, secrets: set[str]) -> _Model:
    context = {"folder": folder, "environment": os.environ, "secrets": secrets}
    try:
        return model.model_validate(written, context=context)
    except ValidationError as error:
        raise UsageError(refusal(error, written, where, model)) from None


def content_of(messages: Messages) -> Callable[[Action, str | None], Content]:
    """Return what tells providers what the message of an action says."""

    def content(action: Action, unsubscribe_url: str | None) -> Content:
        at_ms = parse_iso_ms(action.at) or 0  # It looks like a time and need be none.
        return messages.render(action.template, Given(action.vars, unsubscribe_url, at_ms))

    return content
