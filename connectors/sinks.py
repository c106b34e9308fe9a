"""What every sink offers, and which one a URL names.

A sink is a set of named topics to which records are appended. It makes no decisions: what is written, and what is left
out because it is there already, is decided by whoever writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from state.errors import Failed

Ends = dict[str, list[int]]
"""Per topic the end offset of each of its partitions."""


class SinkError(Failed):
    """A sink did not take what it was given, or did not answer in time; the message says what to look at."""


class Written(NamedTuple):
    """A record that is in a sink topic."""

    topic: str
    value: bytes
    headers: Mapping[str, bytes]


class Sink(Protocol):
    """Topics that records are appended to."""

    remembers: bool
    """Whether what was written can be read back, so that a record is there exactly once after a crash."""
    marks_job: bool
    """Whether several jobs may write to these topics, so that records say which one wrote them."""

    def open_topics(self, topics: Sequence[str]) -> None:
        """Make sure that *topics* are there.

        Raises:
            SinkError: one is missing and may not be created.
        """
        ...

    def ends(self, topics: Sequence[str], *, settled: bool = False) -> Ends:
        """Return the end offsets of *topics*.

        With *settled*, wait until they stand still: a write of a process that has died may still be on its way.
        """
        ...

    def read_back(self, starts: Ends) -> Iterator[Written]:
        """Yield the records from *starts* up to where the topics end now."""
        ...

    def write(self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Queue a record. Never blocks for longer than a full queue takes to drain."""
        ...

    def deliver(self, *, at_once: bool = False) -> None:
        """Send what is queued on its way without waiting for an answer: some of it when `go_on` is called.

        Args:
            at_once: send all of it, since it may be long until somebody calls again.
        """
        ...

    def go_on(self) -> None:
        """Send more of what is queued, if it is time to; called in every turn, whether or not something was written."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether what was sent lately is acknowledged so late that more of it would keep others waiting."""
        ...

    def confirm(self) -> None:
        """Return once everything written so far is acknowledged.

        Raises:
            SinkError: something was refused, or not acknowledged in time.
        """
        ...

    def close(self) -> None: ...
