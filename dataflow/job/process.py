"""One process of the job: its start, what it says to its parent, how it stops and how it ends.

Started by the parent (`dataflow/job/launch.py`) as `python -m dataflow.job.process INDEX STATUS_FD PARENT LOG_FD`, with
the plan on its standard input. Everything that can go wrong is logged here, before it reaches the engine, which keeps
no exceptions.
"""

from __future__ import annotations

import errno
import gc
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Final

from dataflow.job.launch import die_with_parent, take_lock
from dataflow.job.outside import Machine
from dataflow.job.plan import load_plan, topics_of
from dataflow.job.status import PREPARED, STARTING, STATUS_EVERY_S, Report, Status
from dataflow.job.stopping import NOT_BEGUN_STATUS, STOP_SIGNALS, hold_stop_signals
from dataflow.job.worker import Worker
from dataflow.logs import Log, configure_logs, get_logger
from dataflow.read.scanner import HOW_TO_COMPILE, WHY_NOT_COMPILED
from state.errors import in_one_line, is_expected

REFUSED: Final = 2
LOST_A_PEER: Final = "thread panic"  # As the engine calls it when another process has gone: Send or Recv thread panic.
DISK_IS_FULL: Final = (os.strerror(errno.ENOSPC), "disk is full")  # As the system says it, and SQLite.
MAKE_ROOM: Final = "make room on the disk"
FREE_BYTES_MIN: Final = 1 << 20  # With less on its disk the engine's own database cannot go on.


def _report(begun: list[Worker], pipe: int, done: threading.Event) -> None:
    """Write the worker's last status to the parent's pipe, now and then and once at the end.

    Args:
        begun: has the worker once there is one; until then the parent hears only that this process lives.
    """
    last = False
    while not last:
        last = done.wait(STATUS_EVERY_S)
        try:
            os.write(pipe, Report(time.monotonic(), begun[0].status).dump() if begun else STARTING)
        except OSError:
            os._exit(1)  # The parent is gone, and a job without its parent has nobody to stop it.


def main(arguments: list[str]) -> int:
    """Run one process of the job; returns its exit status."""
    index, pipe, parent, log_to = map(int, arguments)
    die_with_parent(parent)
    os.umask(0o077)  # What is written down here is personal data, and nobody else's.
    hold_stop_signals()
    # Standard output is the sink's, if anybody's: what libraries print goes to standard error.
    output = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _load_what_every_plan_needs()
    data = sys.stdin.buffer.readline()
    if not data:
        return 0  # There is nothing to do after all.
    take_lock(pipe)
    plan = load_plan(data)
    configure_logs(plan.log_level, plan.log_format, os.fdopen(log_to, "w", buffering=1, errors="replace"))
    log: Log = get_logger().bind(process=index)
    begun: list[Worker] = []
    done = threading.Event()
    reporter = threading.Thread(target=_report, args=(begun, pipe, done), daemon=True)
    threading.Thread(target=_await_stop, args=(log, begun), daemon=True).start()
    try:
        deployment = plan.deployment()
        outside = Machine(plan, log.warning, output)
        if plan.is_draft:
            draft = plan
            outside.sink.open_topics(topics_of(deployment))
            gc.collect()
            gc.freeze()
            os.write(pipe, PREPARED)
            data = sys.stdin.buffer.readline()
            if not data:
                return 0
            plan = load_plan(data)
            outside.plan = plan
            if not plan.has_flows_of(draft):
                deployment = plan.deployment()
        reporter.start()
        worker = Worker(plan, index, log, outside, deployment)
    except Exception as error:
        why = in_one_line(error)
        log.error("cannot start", error=why, exc_info=not is_expected(error))
        with suppress(OSError):
            os.write(pipe, Report(time.monotonic(), Status(index, time.monotonic(), why=why)).dump())
        return 1
    if WHY_NOT_COMPILED and index == 0:
        hint = f"every event takes longer; {HOW_TO_COMPILE}"
        log.warning("the compiled part is missing", error=WHY_NOT_COMPILED, hint=hint)
    begun.append(worker)
    # Nothing made so far will ever be garbage, and nothing on the hot path makes cycles.
    gc.collect()
    gc.freeze()
    gc.disable()
    status = 1
    try:
        from dataflow.job.engine import execute

        execute(worker)
        status = 0
    except BaseException as error:
        # What went wrong in our code is logged where it happened; this is the engine's own word on it.
        reason = f"{type(error).__name__}: {error}"
        if worker.has_said_why or (plan.processes > 1 and LOST_A_PEER in reason):
            log.debug("the engine stopped", error=reason)  # Why, it knows, or whoever was lost first.
        else:
            log.error("the engine stopped", error=reason)
            worker.why = f"the engine stopped: {reason}"
        if any(word in worker.why for word in DISK_IS_FULL):
            worker.first = MAKE_ROOM
        elif shutil.disk_usage(plan.state).free < FREE_BYTES_MIN:
            worker.why, worker.first = f"the disk of {plan.state} is full", MAKE_ROOM
    if worker.refusal:
        status = REFUSED
    try:
        worker.take_stock()  # The engine's threads have ended.
    finally:
        done.set()  # Whatever went wrong, the parent hears of a refusal.
        reporter.join()
    if status == 0:
        worker.close()
    return status


def _load_what_every_plan_needs() -> None:
    """Import what takes long, while the parent finds out what there is to do."""
    import rocksdict  # noqa: F401

    import dataflow.job.engine  # noqa: F401


def _await_stop(log: Log, begun: list[Worker]) -> None:
    """Stop the worker when asked to; while there is none, since it waits for a broker, say, end the process."""
    signal.sigwait(STOP_SIGNALS)
    if not begun:
        os._exit(NOT_BEGUN_STATUS)
    log.debug("the epoch is being finished")
    begun[0].stopping.set()


if __name__ == "__main__":
    exit_status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(exit_status)  # Threads of clients that hang must not keep a finished process alive.
