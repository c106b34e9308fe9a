"""Metrics and health of a running job over HTTP."""
