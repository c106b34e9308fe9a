"""Look at many flow files on all cores: what is found is the same, and comes sooner."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Final

from operators.language.workspace import Workspace
from operators.program.doubts import Doubts
from operators.program.flows import Checked, Compilation, Findings, FlowText

BYTES_PER_PROCESS: Final = 100_000  # About 0.2 s of work. With less of it another process does not pay.


def check_texts(
    texts: Sequence[FlowText], workspace: Workspace, doubts: Doubts, *, processes: int | None = None
) -> Checked:
    """Return everything that is wrong with *texts*, as `compile_texts` does, but without the programs.

    Args:
        doubts: new, and noted in from here on.
        processes: at most so many, as many as there are cores by default.
    """
    size = sum(len(text.text) for text in texts)
    cores = _cores() if processes is None else processes
    first, *others = _parts(texts, max(1, min(cores, size // BYTES_PER_PROCESS)))
    gc.freeze()  # So nothing is copied only because a collector in another process has looked at it.
    elsewhere = [(part, _begin(part, workspace, doubts)) for part in others]
    gc.unfreeze()
    compilation = Compilation(workspace, doubts)
    compilation.add(first)
    for part, connection in elsewhere:
        found = _receive(connection)
        if found is None:
            compilation.add(part)  # Whatever it died of shows here, too.
        else:
            compilation.take(found)
    return compilation.checked()


def _cores() -> int:
    """Return how many cores are ours; 1 where that cannot be asked, as where processes should not fork either."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def _parts(texts: Sequence[FlowText], parts: int) -> Iterator[Sequence[FlowText]]:
    """Yield *texts* in as many parts of about the same size, in order."""
    left, begin = sum(len(text.text) for text in texts), 0
    for more in range(parts, 0, -1):
        end, size = begin, 0
        while end < len(texts) and (more == 1 or size < left / more):
            size += len(texts[end].text)
            end += 1
        yield texts[begin:end]
        begin, left = end, left - size


def _begin(part: Sequence[FlowText], workspace: Workspace, doubts: Doubts) -> Connection:
    """Let another process look at *part*; what it finds comes through the connection."""
    context = get_context("fork")
    here, there = context.Pipe(duplex=False)
    context.Process(target=_look, args=(part, workspace, doubts, there), daemon=True).start()
    there.close()
    return here


def _look(part: Sequence[FlowText], workspace: Workspace, doubts: Doubts, there: Connection) -> None:
    compilation = Compilation(workspace, doubts)
    compilation.add(part)
    there.send(compilation.findings())


def _receive(connection: Connection) -> Findings | None:
    """Return what another process has found, None if it died before."""
    with connection:
        try:
            found: Findings = connection.recv()
        except EOFError:
            return None
    return found
