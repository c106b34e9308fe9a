"""Fixtures that give tests a real Redis."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.redis.server import RedisServer, RedisUnavailableError


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Give a Redis with its append-only file: one per test process, so that a test may break its own.

    One that cannot be had is a failure, never a skip: nobody would notice what is no longer tested.
    """
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    started(server)
    yield server
    server.stop()


@pytest.fixture
def redis_name() -> str:
    """Return what keys begin with that no other test uses."""
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def breakable_redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    """Give the Redis to a test that stops, kills or pauses it; afterwards it runs again for the next one."""
    yield redis_server
    redis_server.stop()
    redis_server.start()


def started(server: RedisServer) -> None:
    """Start *server*, or fail and say what is missing."""
    try:
        server.start()
    except (RedisUnavailableError, TimeoutError) as error:
        pytest.fail(f"these tests need a real Redis: {error}", pytrace=False)
