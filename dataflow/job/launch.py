"""Start a process of the job, which loads what every plan needs while nobody knows yet what there is to do.

This imports next to nothing: the command starts the first process before it loads the rest of itself.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from dataflow.job.stopping import hold_stop_signals


class Launched(NamedTuple):
    """A process that waits for a plan on its standard input, and our end of the channel on which it will report.

    It logs where we do. Its own standard error is a pipe to us: there libraries write, and nobody else.
    """

    process: subprocess.Popen[bytes]
    channel: socket.socket

    def lend_lock(self, lock: int) -> int:
        """Let the process hold the state's lock with us, and return the file descriptor on which it reports."""
        with suppress(OSError):  # It died at once; whoever waits for it says how.
            socket.send_fds(self.channel, [b"\n"], [lock])
        return self.channel.detach()

    def abandon(self) -> None:
        """End the process at once, if it has not ended."""
        self.process.kill()
        self.process.wait()


def launch(index: int) -> Launched:
    """Start process number *index* of the job."""
    ours, theirs = socket.socketpair()
    log = os.dup(sys.stderr.fileno())
    # -P: the folder in which somebody stands may have packages with the names of ours.
    command = [sys.executable, "-P", "-m", "dataflow.job.process"]
    command += [str(number) for number in (index, theirs.fileno(), os.getpid(), log)]
    # Inherited by the child: asked to stop before it listens, it must find that out then, and not die of it.
    mask = hold_stop_signals()
    try:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module.
            command,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(), log),
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        os.close(log)
    return Launched(process, ours)


def take_lock(channel: int) -> None:
    """In the process: take the state's lock from the parent, and hold it until the process ends."""
    with socket.socket(fileno=os.dup(channel)) as parent:
        socket.recv_fds(parent, 1, 1)  # Nobody needs its number: it only has to stay open.


def die_with_parent(parent: int) -> None:
    """In the process: ask the kernel to kill it when its parent dies, however that dies."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def launched(index: int) -> Iterator[Launched]:
    """Start process number *index* ahead of its job; it is ended if no job has come of it."""
    one = launch(index)
    try:
        yield one
    finally:
        one.abandon()
        one.channel.close()
