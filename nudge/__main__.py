"""`python -m nudge`: the same as the command `nudge`."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # The folder in which somebody stands; it may have packages with the names of ours.

from dataflow.cli import console

console()
