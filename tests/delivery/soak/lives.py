"""`nudge deliver` and `nudge gateway` as processes that start in a tenth of a second.

They are forked from a process that has loaded the program already and has done nothing else. What they run is the
command line; only some patience is shortened, so that a process is missed sooner and leases are over sooner.
"""

from __future__ import annotations

import faulthandler
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.delivery.soak import points

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "dataflow.app", "dataflow.deliver.start", "dataflow.gateway.start", "connectors.ledgers.redis",
        "connectors.channels.webhook", "connectors.channels.http_template", "connectors.channels.alibaba_sms",
        "redis.asyncio", "operators.templates.liquid", "tests.delivery.soak.lives",
    ]
)  # fmt: skip

SESSION_MS: Final = 1_500
HEARTBEAT_MS: Final = 300
SHORT_MARGIN_MS: Final = 2_000
SHORT_CLOCKS_DIFFER_MS: Final = 1_000
SHORT_PROBE_MS: Final = 1_000


@dataclass(frozen=True)
class Plan:
    """What becomes of a process besides what is done to it: where it ends or stands still, and how long leases are."""

    point: str = ""
    stands_still: bool = False
    has_short_leases: bool = False


class Life:
    """One process of `nudge`."""

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        plan: Plan = Plan(),
    ) -> None:
        self.plan = plan
        self._process = _context.Process(target=_live, args=(list(arguments), str(log), dict(environment), plan))
        self._process.start()

    @property
    def status(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit status, None where it still runs after so long."""
        self._process.join(timeout_s)
        return self._process.exitcode

    @property
    def stands_still(self) -> bool:
        """Whether it was stopped and not continued."""
        try:
            text = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return False
        return text.rpartition(")")[2].split()[0] == "T"

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        if self._process.exitcode is None and self._process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def tell_where_it_is(self) -> None:
        """Let it write into its log where each of its threads is."""
        self.send(signal.SIGUSR2)
        self.wait(1)

    def kill(self) -> None:
        """End it at once."""
        self.send(signal.SIGKILL)
        self.wait(30)


def warm_up() -> None:
    """Load the program, which takes some seconds the first time."""
    one = _context.Process(target=sys.exit)
    one.start()
    one.join()


def _live(arguments: list[str], log: str, environment: dict[str, str], plan: Plan) -> None:
    threading.Thread(target=_end_with_the_soak, daemon=True).start()
    stream = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    faulthandler.register(signal.SIGUSR2)
    os.environ.update(environment)
    _shorten(plan)
    if plan.point:
        points.install(plan.point, stands_still=plan.stands_still)
    from dataflow.cli import main

    sys.exit(main(arguments))


def _end_with_the_soak() -> None:
    """Whoever runs the soak may be killed, too: nothing shall be left."""
    soak = multiprocessing.parent_process()
    assert soak is not None
    soak.join()
    os._exit(1)


def _shorten(plan: Plan) -> None:
    from connectors import kafka_group
    from dataflow.deliver import config
    from operators.delivery import machine, policy

    modules: Any = kafka_group, config, machine, policy
    group, made, decides, says = modules
    real = group.Consumer

    def consumer(settings: dict[str, Any], **more: Any) -> Any:
        return real({**settings, "session.timeout.ms": SESSION_MS, "heartbeat.interval.ms": HEARTBEAT_MS}, **more)

    group.Consumer = consumer
    decides.PROBE_MS = SHORT_PROBE_MS
    if plan.has_short_leases:
        says.LEASE_MARGIN_MS = SHORT_MARGIN_MS
        decides.CLOCKS_DIFFER_MS = SHORT_CLOCKS_DIFFER_MS
        made.Policy = functools.partial(says.Policy, ask_after_ms=1_000)
