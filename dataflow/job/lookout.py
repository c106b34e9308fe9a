"""The lookout beside a running job: flows that were changed, and partitions that source topics have gained.

It has a thread of its own in the parent, reads and checks what changed, and hands the parent a change that is worth an
exchange of the processes. Nothing that it finds ends the job: what is bad is logged and refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from dataflow.job.lifecycle import Change, Job, what_is_deployed
from dataflow.job.plan import Plan
from dataflow.read.discovery import PartitionPlan
from operators.language.problems import FlowError
from state.errors import Failed, Refused, is_expected

TICK_S: Final = 0.1
WATCH_EVERY_S: Final = 1.0
WATCH_SHARE: Final = 0.02  # Of the time at most: a thousand files take a while to read.
PARTITIONS_EVERY_S: Final = 10.0
AGAIN_S: Final = 10.0  # After a failure that may pass, as of a broker that was away.

DONE: Final = "done"
REFUSED: Final = "refused"


class Reread(NamedTuple):
    """How the flows of a job are read anew.

    `job` returns the job with its flows as they are now. `contents` returns a digest of everything that this would
    read; None if nobody wants it watched.
    """

    job: Callable[[Job], Job]
    contents: Callable[[], bytes] | None = None


class Lookout:
    """Looks, beside a running job, for what should be taken in.

    Args:
        reread: how flows are read anew; None: they never are.
        check: raises what speaks against putting the flows of a job in force.
        added: returns the partitions that the sources have besides those given.
    """

    def __init__(
        self,
        log: structlog.stdlib.BoundLogger,
        reread: Reread | None,
        check: Callable[[Job], None],
        added: Callable[[list[PartitionPlan]], list[PartitionPlan]],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.results = {DONE: 0, REFUSED: 0}
        """How often changed flows were put in force, and how often they were refused."""
        self.is_refusing = False
        """Whether the flows that were read last could not be put in force."""
        self._log = log
        self._reread = reread
        self._check = check
        self._added = added
        self._monotonic_s = monotonic_s
        self._running: tuple[Job, Plan] | None = None
        self._found: Change | None = None
        self._has_new_flows = False  # What was found, and is under way.
        self._asked = False  # No lock: a signal sets it, at any moment.
        self._seen = b""
        self._handled = b""
        self._watch_due_s = 0.0
        self._partitions_due_s = monotonic_s() + PARTITIONS_EVERY_S
        self._again_due_s: float | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    # ---- for the parent ----------------------------------------------------------------------------------------

    def watch(self, job: Job, plan: Plan) -> None:
        """Look for what *plan*, which runs now, and *job* lack."""
        self._running = (job, plan)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)
            self._thread.start()

    def take(self) -> Change | None:
        """Return what was found, if anything. Nothing more is looked for until `watch` is called."""
        found = self._found
        if found is not None:
            self._running, self._found = None, None
        return found

    def settle(self, error: Exception | None = None) -> None:
        """Note what became of the change that was taken; *error* says why it was not made."""
        if error is not None and not self._has_new_flows:
            self._log.error("the partitions cannot be taken in; it is tried again", error=str(error))
        elif error is not None:
            self._refuse(error)
        elif self._has_new_flows:
            self.results[DONE] += 1
            self.is_refusing = False
            self._log.info("the changed flows take over")

    def ask(self) -> None:
        """Have the flows read anew, changed or not. May be called by a signal."""
        self._asked = True

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    # ---- in a thread of its own --------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed.wait(TICK_S):
            running = self._running
            if running is None or self._found is not None:
                continue
            try:
                self._found = self._look(*running)
            except Exception as error:  # A mistake of ours here must not stop anybody.
                self._log.error("the lookout failed", error=f"{type(error).__name__}: {error}", exc_info=True)

    def _look(self, job: Job, plan: Plan) -> Change | None:
        now_s = self._monotonic_s()
        if self._reread is not None:
            asked, self._asked = self._asked, False
            if self._again_due_s is not None and now_s >= self._again_due_s:
                asked, self._again_due_s = True, None
            if asked or self._has_settled(now_s):
                found = self._read_flows(self._reread, job, asked)
                if found is not None:
                    self._has_new_flows = True
                    return Change(found, plan.partitions)
        if now_s >= self._partitions_due_s and not job.stop_at_end:
            self._partitions_due_s = now_s + PARTITIONS_EVERY_S
            try:
                added = self._added(plan.partitions)
            except (Refused, Failed) as error:
                self._log.debug("partitions cannot be looked up", error=str(error))  # The readers say what is wrong.
                return None
            if added:
                self._log.info("source topics have more partitions", partitions=[one.key for one in added])
                self._has_new_flows = False
                both = [*plan.partitions, *added]
                return Change(job, sorted(both, key=lambda one: (one.topic, one.partition)))
        return None

    def _has_settled(self, now_s: float) -> bool:
        """Tell whether the watched files are others than those handled last, and two looks agree on what they say."""
        assert self._reread is not None
        if self._reread.contents is None or now_s < self._watch_due_s:
            return False
        before, self._seen = self._seen, self._reread.contents()
        took_s = self._monotonic_s() - now_s
        self._watch_due_s = now_s + max(WATCH_EVERY_S, took_s / WATCH_SHARE)
        return before == self._seen != self._handled

    def _read_flows(self, reread: Reread, job: Job, asked: bool) -> Job | None:
        """Return *job* with the flows that are there now, None where there is nothing to take over."""
        is_first = not self._handled and not asked  # What was there at the start, we have not seen.
        try:
            found = reread.job(job)
            if reread.contents is not None and not asked and reread.contents() != self._seen:
                return None  # Somebody is writing.
            self._handled = self._seen
            if what_is_deployed(found.loaded) == what_is_deployed(job.loaded):
                self.is_refusing = False
                if not is_first:
                    self._log.info("the flows do what those in force do: nothing changes")
                return None
            self._check(found)
        except Exception as error:  # Whatever is wrong with a file, the job goes on.
            self._handled = self._seen
            self._refuse(error)
            if isinstance(error, Failed) and not isinstance(error, Refused):
                self._again_due_s = self._monotonic_s() + AGAIN_S
            return None
        return found

    def _refuse(self, error: Exception) -> None:
        """Say all that is wrong."""
        self.results[REFUSED] += 1
        self.is_refusing = True
        problems = error.problems if isinstance(error, FlowError) else []
        for one in problems:
            say = self._log.error if one.severity == "error" else self._log.warning
            say("flow refused", file=one.file, line=one.line, path=one.path, code=one.code, problem=one.message,
                hint=one.hint)  # fmt: skip
        self._log.error(
            "the changed flows are refused; those before stay in force",
            error=f"{len(problems)} problems" if problems else f"{type(error).__name__}: {error}",
            exc_info=not is_expected(error),
        )
