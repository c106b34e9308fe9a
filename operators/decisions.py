"""The version of what is decided, as far as it is ours."""

from __future__ import annotations

from typing import Final

DECISIONS: Final = 3
"""Raised with every change after which other actions or journal records can follow from the same records, flows and
state: a rule, the order of checks or of what happens within one instant, an id, a field or a reason of a record. Not
raised for what no flow could say before, nor for anything that leaves the records as they are.

The number tells a run that was interrupted from one that could not finish it. When in doubt, raise it: it costs whoever
upgrades after a crash one start of the version before. Not to raise it costs him the comparison that stops the job.
"""
