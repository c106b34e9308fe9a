"""Processes that no longer report: since when, and what the log says of it.

A process that hangs can say nothing of itself, so whatever is told of it must grow old in the parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from dataflow.logs import Log

SILENT_MAX_S: Final = 30.0  # Processes report twice a second; one that has not for so long hangs.


class ProcessState(NamedTuple):
    """One process of the job, as the system and its parent know it.

    `exit_status` is None while it runs. `started_s` is when it was told what to do, `heard_s` when it was last heard
    of, or was started.
    """

    pid: int
    exit_status: int | None
    started_s: float
    heard_s: float

    def silent_s(self, now_s: float) -> float:
        """How long nothing was heard of the process while it runs."""
        return now_s - self.heard_s if self.exit_status is None else 0.0

    def hangs(self, now_s: float) -> bool:
        """Whether it runs, but has not reported for too long."""
        return self.silent_s(now_s) > SILENT_MAX_S


class SilenceLog:
    """Logs that a process hangs, and that it goes on: a line for each."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._hang: set[int] = set()  # The ids of the processes.

    def look(self, states: Sequence[ProcessState], now_s: float) -> None:
        """Log what has changed since the last look."""
        for index, state in enumerate(states):
            if state.hangs(now_s) == (state.pid in self._hang):
                continue
            if state.hangs(now_s):
                self._hang.add(state.pid)
                self._log.error(
                    "a process hangs",
                    process=index,
                    pid=state.pid,
                    silent_s=round(state.silent_s(now_s)),
                    hint="look whether it is stopped or its disk hangs; kill -9 ends the job, and its next start goes "
                    "on from the last checkpoint",
                )
            else:
                self._hang.discard(state.pid)
                if state.exit_status is None:
                    self._log.warning("the process that hung goes on", process=index, pid=state.pid)
