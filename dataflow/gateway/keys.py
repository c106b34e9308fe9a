"""Write keys at work: who asks, and how fast they may."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping

from connectors.formats import NATIVE
from dataflow.gateway.config import KeySettings
from dataflow.gateway.http import Came, NotTaken
from state.records import EVENT

BURST_S = 1.0


class Rate:
    """Lets *rate* records through per second. What is there after a pause is what one second brings.

    Of a batch, all records are taken if one may be; those that follow wait for the difference.
    """

    def __init__(self, rate: float, monotonic_s: Callable[[], float]) -> None:
        self._rate, self._monotonic_s = rate, monotonic_s
        self._left, self._at_s = rate * BURST_S, monotonic_s()

    def wait_s(self) -> float:
        """Return in how many seconds a record may come, 0.0 for now."""
        now_s = self._monotonic_s()
        self._left = min(max(1.0, self._rate * BURST_S), self._left + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        return 0.0 if self._left >= 1.0 else (1.0 - self._left) / self._rate

    def take(self, count: int) -> None:
        """Take what *count* records need."""
        self._left -= count


class Key:
    """A write key at work."""

    def __init__(self, name: str, settings: KeySettings, topic: str, monotonic_s: Callable[[], float]) -> None:
        self.name, self.settings, self.topic = name, settings, topic
        self.taken = settings.taken
        self.takes_plain_events = settings.format == NATIVE and EVENT in settings.taken
        self.rate = None if settings.rate is None else Rate(settings.rate, monotonic_s)

    def must_wait(self) -> None:
        """Refuse what comes faster than the key may.

        Raises:
            NotTaken: so it is.
        """
        if self.rate is not None and (wait_s := self.rate.wait_s()):
            after = {"retry-after": str(max(1, int(wait_s + 0.999)))}
            raise NotTaken(429, "too_fast", "this write key has used up its rate", after)

    def count(self, records: int) -> None:
        """Count what was taken."""
        if self.rate is not None:
            self.rate.take(records)


class Keys:
    """All write keys. *prefix* stands before the names of topics."""

    def __init__(self, settings: Mapping[str, KeySettings], prefix: str, monotonic_s: Callable[[], float]) -> None:
        self._keys = [Key(name, one, prefix + one.topic, monotonic_s) for name, one in settings.items()]

    @property
    def topics(self) -> set[str]:
        """Where they write to."""
        return {one.topic for one in self._keys}

    def of_bearer(self, came: Came) -> Key:
        """Return the key that a request has as its bearer token.

        Raises:
            NotTaken: it has none of ours.
        """
        scheme, _, given = came.header(b"authorization").partition(b" ")
        found = self.found(given.strip()) if scheme.lower() == b"bearer" else None
        if found is None:
            raise NotTaken(401, "no_key", "write Authorization: Bearer <write key>", {"www-authenticate": "Bearer"})
        return found

    def of_basic(self, came: Came) -> Key | None:
        """Return the key that a request has as its user name; None where it has no such header.

        Raises:
            NotTaken: it has none of ours.
        """
        scheme, _, given = came.header(b"authorization").partition(b" ")
        if scheme.lower() != b"basic":
            return None
        try:
            user = base64.b64decode(given.strip()).partition(b":")[0]
        except binascii.Error:
            user = b""
        return self.must_be(user)

    def must_be(self, given: bytes) -> Key:
        """Return the key that *given* is.

        Raises:
            NotTaken: it is none of ours.
        """
        found = self.found(given)
        if found is None:
            head = {"www-authenticate": "Basic"}
            raise NotTaken(401, "invalid_write_key", "the write key is missing or none of ours", head)
        return found

    def found(self, given: bytes) -> Key | None:
        """Return the key that *given* is, None where it is none."""
        found = None
        for one in self._keys:
            if one.settings.fits(given) and given:
                found = one
        return found
