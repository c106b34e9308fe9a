"""Whether the job lives, and whether it works."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from dataflow.job.processes import JobRunner

SILENT_MAX_S: Final = 30.0  # Processes report twice a second; one that has not for so long is stuck.


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
        states = self._runner.process_states()
        for index, state in enumerate(states):
            if state.exit_status:
                return False, f"process {index} has ended with status {state.exit_status}"
        now = self._monotonic()
        for index, report in self._runner.running.reports.items():
            silent_s = now - report.sent_s
            if silent_s > SILENT_MAX_S and index < len(states) and states[index].exit_status is None:
                return False, f"process {index} has not reported for {silent_s:.0f} s"
        return True, "stopping" if self._runner.stopping.is_set() else "alive"

    def ready(self) -> tuple[bool, str]:
        """Tell whether all processes have reported."""
        processes = self._runner.job.processes
        reported = min(len(self._runner.running.reports), len(self._runner.process_states()))
        return reported >= processes, f"{reported} of {processes} processes have reported"
