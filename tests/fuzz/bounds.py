"""How long and how large one evaluation may be: CPU time, so that a busy machine makes no difference."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cpu_at_most(seconds: float) -> Iterator[None]:
    """Fail if what is inside takes more CPU time.

    The bounds are generous, since a shared machine computes slowly at times: what this must find takes minutes.
    """
    began = time.process_time()
    yield
    took = time.process_time() - began
    assert took <= seconds, f"took {took:.1f} s of CPU time, {seconds} s are allowed"
