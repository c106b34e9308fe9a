"""Scenarios of the flow language, one file per topic; see README.md."""
