"""What `nudge.yaml` says of the door: `gateway:`, and which channels take reports."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
)

from connectors.channels.base import Secret
from connectors.formats import FORMATS, NATIVE
from connectors.formats.decoding import Decode, settings_of
from dataflow.errors import UsageError
from dataflow.refusals import refusal
from state.records import EVENT, IDENTIFY, MEMBERSHIP, RECEIPT, UPDATED

KINDS: Final = {
    "event": (EVENT,), "identify": (IDENTIFY,), "receipt": (RECEIPT,), "membership": (MEMBERSHIP, UPDATED),
}  # fmt: skip
"""The kinds of native records, as a write key names them."""
SECRET_LENGTH_MIN: Final = 16
_PER_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _rate(given: Any) -> float:
    number, _, unit = str(given).strip().partition("/")
    try:
        rate = float(number) / _PER_S.get(unit, 0)
    except (ValueError, ZeroDivisionError):
        rate = 0.0
    if not 0 < rate < 1e7:
        raise ValueError(f"{given!r} is not a rate; write 1000/s or 60000/m")
    return rate


def _format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"there is no format {name}; there are {', '.join(FORMATS)}")
    return name


def _kinds(names: list[str]) -> list[str]:
    for name in names:
        if name not in KINDS:
            raise ValueError(f"{name!r} is no kind of record; there are {', '.join(KINDS)}")
    return names


def _long(secret: Secret) -> Secret:
    if len(secret.reveal()) < SECRET_LENGTH_MIN:
        raise ValueError(f"a secret has {SECRET_LENGTH_MIN} characters at least")
    return secret


def _listed(given: Any) -> Any:
    return given if isinstance(given, list) else [given]


def _base(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is no address; write https://gateway.example.com")
    return text.rstrip("/")


Secrets = Annotated[list[Annotated[Secret, AfterValidator(_long)]], BeforeValidator(_listed), Field(min_length=1)]
"""One secret, or several while one is replaced."""


class KeySettings(_Settings):
    """A write key."""

    key: Secrets
    topic: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")] = "events"
    format: Annotated[str, AfterValidator(_format)] = NATIVE
    user: Annotated[str, Field(pattern="^any$")] | None = None
    kinds: Annotated[list[str], AfterValidator(_kinds)] = list(KINDS)
    rate: Annotated[float, BeforeValidator(_rate)] | None = None

    _decode: Decode = PrivateAttr()

    def model_post_init(self, _: Any) -> None:
        """Make what reads its records."""
        given = {"user": self.user} if self.user is not None and "user" in FORMATS[self.format].settings else {}
        self._decode = FORMATS[self.format].decoder(settings_of(given))

    @property
    def decode(self) -> Decode:
        """What reads its records."""
        return self._decode

    @property
    def taken(self) -> frozenset[int]:
        """The kinds of records that it may send."""
        return frozenset(kind for name in self.kinds for kind in KINDS[name])

    def fits(self, given: bytes) -> bool:
        """Tell whether *given* is the key, in a time that does not depend on how much of it is right."""
        return _is_one_of(self.key, given)


class CallbackSettings(_Settings):
    """Where a provider reports: the secret that its address has."""

    secret: Secrets

    def fits(self, given: bytes) -> bool:
        """Tell whether *given* is the secret."""
        return _is_one_of(self.secret, given)


class GatewaySettings(_Settings):
    """`gateway:` of `nudge.yaml`."""

    keys: dict[str, KeySettings] = {}
    cors: list[str] = []
    url: Annotated[str, AfterValidator(_base)] | None = None
    receipts: dict[str, CallbackSettings] = {}
    link_key: Secrets | None = None

    @field_validator("keys")
    @classmethod
    def _are_different(cls, keys: dict[str, KeySettings]) -> dict[str, KeySettings]:
        seen: dict[str, str] = {}
        for name, one in keys.items():
            for secret in {secret.reveal() for secret in one.key}:
                if (other := seen.setdefault(secret, name)) != name:
                    raise ValueError(f"{other} and {name} have the same key: whose would its records be?")
        return keys


def _is_one_of(secrets: list[Secret], given: bytes) -> bool:
    found = False
    for secret in secrets:
        found |= hmac.compare_digest(secret.reveal().encode(), given)
    return found


def read_gateway(written: Mapping[str, Any], folder: Path) -> GatewaySettings:
    """Return the settings in *written*, in a file of *folder*.

    Raises:
        UsageError: something is wrong with them; the message says where.
    """
    try:
        return GatewaySettings.model_validate(dict(written), context={"folder": folder, "environment": os.environ})
    except ValidationError as error:
        raise UsageError(refusal(error, dict(written), "gateway", GatewaySettings)) from None
