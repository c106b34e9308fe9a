"""What all tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

pytest_plugins = ["tests.kafka.fixtures", "tests.redis.fixtures"]

# A slow, shared machine is not a failed property; a failed one prints how to repeat it.
settings.register_profile("nudge", deadline=None, print_blob=True)
settings.load_profile("nudge")


@pytest.fixture(autouse=True)
def logs_of_its_own() -> Iterator[None]:
    """Let no test log to where a command in an earlier one did: that is closed by now."""
    yield
    if (structlog := sys.modules.get("structlog")) is not None:
        structlog.reset_defaults()
