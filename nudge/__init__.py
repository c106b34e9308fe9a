"""The name under which the command can be run as a module: `python -m nudge`."""
