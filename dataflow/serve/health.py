"""Whether the job lives, and whether it works."""

from __future__ import annotations

import time
from collections.abc import Callable

from dataflow.job.processes import JobRunner


class Health:
    """Tells whether a job lives, and whether it works.

    Args:
        monotonic: seconds of the clock by which processes say when they have reported.
    """

    def __init__(self, runner: JobRunner, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._runner = runner
        self._monotonic = monotonic

    def alive(self) -> tuple[bool, str]:
        """Tell whether all processes live and report, and why not.

        A job that is starting, stopping or between two executions is alive: nobody should kill it.
        """
        for index, state in enumerate(self._runner.process_states()):
            if state.exit_status:
                return False, f"process {index} has ended with status {state.exit_status}"
        hangs = self._hangs()
        if hangs:
            return False, hangs
        return True, "stopping" if self._runner.stopping.is_set() else "alive"

    def ready(self) -> tuple[bool, str]:
        """Tell whether all processes have reported, and still do."""
        processes = self._runner.job.processes
        reported = min(len(self._runner.running.reports), len(self._runner.process_states()))
        hangs = self._hangs()
        return reported >= processes and not hangs, hangs or f"{reported} of {processes} processes have reported"

    def _hangs(self) -> str:
        """Say which process no longer reports, "" if there is none."""
        now_s = self._monotonic()
        for index, state in enumerate(self._runner.process_states()):
            if state.hangs(now_s):
                return f"process {index} has not reported for {state.silent_s(now_s):.0f} s"
        return ""
