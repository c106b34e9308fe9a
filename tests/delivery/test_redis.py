"""A ledger in a real Redis: one rate for all processes, TLS and users, and a Redis that goes away and comes back."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from connectors.ledgers.base import LedgerAway, ToBegin, ToLook, ToSettle
from connectors.ledgers.redis import RedisLedger
from dataflow.deliver.channel import ChannelAtWork
from dataflow.deliver.config import Delivered
from dataflow.deliver.start import open_ledger, parse_ledger
from operators.delivery.machine import Place
from operators.delivery.policy import Policy
from state.delivery import OK, Answer, Outcome
from state.outgoing import Action
from tests.certificates import certificates
from tests.delivery.actions import action
from tests.redis.fixtures import started
from tests.redis.server import RedisServer

pytestmark = pytest.mark.redis

NOW = 1_800_000_000_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Provider:
    """Takes everything, and notes when."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def call(self, one: Action) -> Answer:
        self.called.append(one.action_id)
        return Answer(OK)

    async def close(self) -> None:
        pass


class Writer:
    """Takes every receipt."""

    async def begin(self, *_: Any) -> dict[int, Exception]:
        return {}


def how(provider: Any, rate: float | None = None) -> Delivered:
    return Delivered("sms", "actions.sms", Policy(drops_repeats=True), provider, "acme", rate)


def begin_for(url: str, name: str, rate: float, seconds: float, results: Any) -> None:
    """Begin as many calls as the rate lets through."""

    async def work() -> int:
        one = RedisLedger(Redis.from_url(url), name, "sms", str(time.perf_counter_ns()), "acme", rate)
        count, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            notes = [ToBegin(f"{time.perf_counter_ns()}-{number}", 1, "u", NOW) for number in range(20)]
            found = await one.note(notes, NOW)
            count += sum(noted.is_taken for noted in found)
            waits = [noted.wait_ms for noted in found if noted.wait_ms]
            assert all(noted.is_taken or noted.wait_ms for noted in found)
            if waits:
                await asyncio.sleep(min(waits) / 1000)
        await one.close()
        return count

    results.put(asyncio.run(work()))


def test_two_processes_share_one_rate_and_meet_it(redis_server: RedisServer, redis_name: str) -> None:
    rate, seconds = 200.0, 4.0
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    some = [
        context.Process(target=begin_for, args=(redis_server.url, redis_name, rate, seconds, results)) for _ in range(2)
    ]
    for one in some:
        one.start()
    counts = [results.get(timeout=60) for _ in some]
    for one in some:
        one.join()
    # They do not start at the same instant, so there are up to some 0.5 s more in all.
    assert all(counts)
    assert rate * seconds * 0.9 <= sum(counts) <= rate * (seconds + 2.0)


def test_the_rate_is_exact_by_the_clock_of_redis(redis_server: RedisServer, redis_name: str) -> None:
    async def check() -> None:
        client = Redis.from_url(redis_server.url)
        one = RedisLedger(client, redis_name, "sms", "one", "acme", 100.0)

        async def clock_s() -> float:
            seconds, micros = await client.time()
            return float(seconds) + micros / 1e6

        taken, began_s = 0, 0.0
        while taken < 200:
            found = await one.note([ToBegin(f"a{taken}-{number}", 1, "u", NOW) for number in range(7)], NOW)
            began_s = began_s or await clock_s()
            taken += sum(noted.is_taken for noted in found)
            wait_ms = max(noted.wait_ms for noted in found)
            await asyncio.sleep(wait_ms / 1000)
        lasted_s = await clock_s() - began_s
        assert taken / lasted_s < 100.0 * 1.02 + 10 / lasted_s, "never more than the rate, and what the bucket holds"
        await one.close()

    asyncio.run(check())


def test_what_waits_for_the_rate_is_not_noted(redis_server: RedisServer, redis_name: str) -> None:
    async def check() -> None:
        one = RedisLedger(Redis.from_url(redis_server.url), redis_name, "sms", "one", "acme", 0.001)
        first, look = await one.note([ToBegin("a", 1, "u", NOW), ToLook("b")], NOW)
        assert (first.entry, first.is_taken) == (None, False)
        assert first.wait_ms > 900_000
        assert look.is_taken
        assert (await one.note([ToLook("a")], NOW))[0].entry is None
        await one.close()

    asyncio.run(check())


def test_a_redis_that_goes_away_stops_calls_and_those_go_on_when_it_is_back(
    breakable_redis: RedisServer, redis_name: str
) -> None:
    """It is killed, and then it hangs; what was noted before is there after."""

    async def check() -> None:
        provider = Provider()
        client = Redis.from_url(breakable_redis.url, socket_timeout=0.3, socket_connect_timeout=0.3)
        made = RedisLedger(client, redis_name, "sms", "one")
        log = structlog.get_logger()
        at_work = ChannelAtWork(
            how(provider), made, Writer(), "events", now_ms, Random(1), lambda _: None, log  # type: ignore[arg-type]
        )  # fmt: skip

        async def send(name: str) -> None:
            at_work.take(action(name), Place("p-0", 0))
            at_work.go()

        async def until(count: int) -> None:
            async with asyncio.timeout(20):
                while len(provider.called) < count or at_work.machine.open:
                    await asyncio.sleep(0.01)

        await send("a")
        await until(1)
        for name, stop, go_on in (
            ("b", breakable_redis.kill, breakable_redis.start),
            ("c", breakable_redis.pause, breakable_redis.resume),
        ):
            before = len(provider.called)
            stop()
            await send(name)
            await asyncio.sleep(1.0)
            assert len(provider.called) == before, "nobody is called while the ledger is away"
            await asyncio.to_thread(go_on)
            await until(before + 1)
        (found,) = await made.note([ToLook(action("a").action_id)], NOW)
        assert found.entry is not None
        assert found.entry.outcome is not None
        assert found.entry.outcome.status == "accepted"
        assert at_work.failure is None
        await send("a")
        await until(3)
        assert len(provider.called) == 3, "and nobody is called twice"
        at_work.how = how(SimpleNamespace(close=provider.close))
        await at_work.close()

    asyncio.run(check())


def test_over_tls_as_a_user_with_no_more_rights_than_the_docs_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "delivery.md").read_text()
    (rights,) = [line.strip() for line in docs.splitlines() if line.startswith("user nudge on ")]
    acl = ["user default off", rights.replace("PASSWORD", "pass-of-nudge")]
    server = RedisServer(tmp_path / "redis", acl=acl, tls=certificates(tmp_path / "tls"))
    started(server)
    monkeypatch.setenv("NUDGE_REDIS_USER", "nudge")
    monkeypatch.setenv("NUDGE_REDIS_PASSWORD", "pass-of-nudge")

    def opened(url: str = server.url) -> RedisLedger:
        made = open_ledger(parse_ledger(url), "nudge-deliver", how(None, 50.0), "one")
        assert isinstance(made, RedisLedger)
        return made

    async def check() -> None:
        one = opened()
        noted: Any = []
        while not (noted and noted[0].is_taken):  # The bucket begins empty.
            noted = await one.note([ToBegin("a", 1, "u", NOW)], NOW)
            await asyncio.sleep(0.03)
        await one.note([ToSettle("a", 1, "u", Outcome("unknown", NOW, provider_id="p-1"))], NOW)
        assert await one.find("p-1") is not None
        assert (await one.unsettled(5))[:2] == (0, 1)
        assert await one.forget(NOW - 1) == 0
        assert await one.concerns() == []
        await one.close()
        bare = opened(server.url.partition("?")[0])
        with pytest.raises(LedgerAway, match="certificate verify failed"):
            await bare.note([ToLook("a")], NOW)
        await bare.close()
        elsewhere = opened(server.url.replace("127.0.0.1", "localhost"))
        with pytest.raises(LedgerAway, match="mismatch"):
            await elsewhere.note([ToLook("a")], NOW)
        await elsewhere.close()
        monkeypatch.setenv("NUDGE_REDIS_PASSWORD", "wrong")
        wrong = opened()
        with pytest.raises(LedgerAway) as failure:
            await wrong.note([ToLook("a")], NOW)
        assert "wrong" not in str(failure.value).replace("invalid username-password pair", "")
        await wrong.close()

    try:
        asyncio.run(check())
    finally:
        server.stop()


def test_settings_of_redis_that_can_lose_notes_are_told(redis_server: RedisServer, redis_name: str) -> None:
    async def check() -> None:
        client = Redis.from_url(redis_server.url)
        one = RedisLedger(client, redis_name, "sms", "one")
        try:
            await client.config_set("maxmemory-policy", "allkeys-lru")
            await client.config_set("appendonly", "no")
            first, second = await one.concerns()
        finally:
            await client.config_set("maxmemory-policy", "noeviction")
            await client.config_set("appendonly", "yes")
        assert "set appendonly yes" in first
        assert "set noeviction" in second
        assert await one.concerns() == []
        await one.close()

    asyncio.run(check())
