"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = ["tests.kafka.fixtures", "tests.redis.fixtures"]

# A slow, shared machine is not a failed property; a failed one prints how to repeat it.
settings.register_profile("nudge", deadline=None, print_blob=True)
settings.load_profile("nudge")
