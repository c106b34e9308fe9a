"""How long events wait while a run takes in very many members: `python -m benchmarks.audience_runs --users 1000000`.

Everybody is a member of one audience, and a flow takes all of them in at one moment. Before it, events begin to come at
a steady pace, as in `benchmarks.latency`. Measured are how long their actions take amid the run, and how long that
takes. A second job gets SIGTERM amid it: how long it takes to stop, and that after a restart everybody has had one
message.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Final

from benchmarks.mass_wake_ups import MARGIN_S, Many, measure_many
from state.iso import format_ms

RUN: Final = (
    "flow: mass\ntrigger: {{audience: many, schedule: {{at: {at}}}}}\nsteps:\n"
    "  - {{send: email, template: mass, to: somebody@example.com}}\n  - {{wait: 1h}}\n"
)
MARK: Final = "flow: mark\ntrigger: {event: mark}\nsteps: [{send: kafka, template: mark}]\n"
MARKED: Final = "actions.kafka"
MARKS: Final = 200  # Events behind the memberships, so many that each partition has some.


class Members(Many):
    """A job with an audience whose members all enter at one moment."""

    def begin(self) -> None:
        """Let everybody become a member, and return once the job knows all of them."""
        self.moment_s = time.time() + MARGIN_S + self.users / self.entering
        at = format_ms(int(self.moment_s * 1000))
        (self.flows / "mass.yaml").write_text(RUN.format(at=at), "utf-8")
        (self.flows / "mark.yaml").write_text(MARK, "utf-8")
        self.kafka.create_topic(self.prefix + MARKED, 1)
        for first in range(0, self.users, 100_000):
            numbers = range(first, min(self.users, first + 100_000))
            self.kafka.produce(self.events, [_member(f"m-{number}") for number in numbers])
        self.kafka.produce(self.events, [_mark(f"mark-{number}") for number in range(MARKS)])
        self.start()
        self.wait_for(MARKED, MARKS)
        if time.time() > self.moment_s - 1:
            late_s = time.time() - self.moment_s
            raise RuntimeError(f"{late_s:.0f} s too late: they become members slower than --entering {self.entering}")


def main() -> int:
    """Measure, and print one JSON object, which is kept in `benchmarks/results`, too."""
    return measure_many("audience_runs", __doc__, Members, entering=10_000)


def _member(user: str) -> tuple[bytes, bytes, int]:
    text = json.dumps({"audience": "many", "user_id": user, "member": True})
    return user.encode(), text.encode(), int(time.time() * 1000)


def _mark(user: str) -> tuple[bytes, bytes, int]:
    text = json.dumps({"user_id": user, "event": "mark"})
    return user.encode(), text.encode(), int(time.time() * 1000)


if __name__ == "__main__":
    sys.exit(main())
