"""The command line: what starts first, and the exit status of an error."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dataflow.job.stopping import hold_stop_signals
from state.errors import Failed, Refused, exit_status_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 for success, 2 for wrong use or input, 1 for anything else."""
    from dataflow.app import app  # It takes a moment to load, in which `console` holds signals already.

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(given, prog_name="nudge")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else Failed.exit_status
    except Exception as error:
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    """Print what went wrong where somebody can do something about it, and return the exit status."""
    status = exit_status_of(error)
    if status is None:
        raise error
    said = str(error).encode(errors="replace").decode()  # The name of a file need not be text.
    sys.stderr.write((said if isinstance(error, Refused) else f"nudge: {said}") + "\n")
    return status


def console() -> None:
    """The entry point of the `nudge` command."""
    if sys.argv[1:2] == ["run"]:
        hold_stop_signals()  # `run` listens for them once it is loaded.
    sys.exit(main())


if __name__ == "__main__":
    console()
