"""A channel at work: what it says of what goes wrong, and what providers are given."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from connectors.channels.base import Surroundings, Unfit
from connectors.channels.http1 import IS_TOO_LATE
from connectors.ledgers.base import ToBegin, ToLook, ToSettle
from connectors.ledgers.sqlite import SqliteLedger
from dataflow.deliver import config
from dataflow.deliver.channel import ChannelAtWork
from dataflow.deliver.config import Delivered, delivered
from dataflow.deliver.start import open_ledger, parse_ledger
from dataflow.errors import UsageError
from operators.delivery.machine import Call, Place
from operators.delivery.policy import Policy
from state.delivery import ACCEPTED, CONFIG, OK, PERMANENT, RETRY, UNKNOWN, Answer, Outcome
from state.outgoing import Action
from tests.delivery.actions import action
from tests.delivery.pager import Pager

NOW_MS = 1_795_420_800_123


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def _keep(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    info = warning = error = _keep


class Asked(Pager):
    """Nobody knows what became of a call, and it does not tell either."""

    can_be_asked: ClassVar[bool] = True

    def __init__(self, told: Callable[[], Answer]) -> None:
        self.told = told
        self.asked = 0

    async def call(self, action: Action) -> Answer:
        return Answer(UNKNOWN, "no_answer")

    async def ask(self, action: Action, since_ms: int) -> Answer:
        self.asked += 1
        return self.told()


def told_of(provider: Any, until: Callable[[ChannelAtWork], bool], ledger: Any = None) -> tuple[ChannelAtWork, Log]:
    """Return a channel, and what it has logged, once *until* is so; its time goes a minute with each look."""
    log = Log()

    async def work() -> ChannelAtWork:
        minutes = 0
        how = Delivered("sms", "actions.sms", Policy(can_be_asked=provider.can_be_asked), provider, "acme", None)
        at_work = ChannelAtWork(
            how, ledger or SqliteLedger(Path(":memory:"), "sms", "one"), None, "events",  # type: ignore[arg-type]
            lambda: NOW_MS + minutes * 60_000, Random(1), lambda _: None, log,
        )  # fmt: skip
        at_work.take(action("a", "u-17", to="+8613800138000"), Place("actions.sms-0", 0))
        at_work.go()
        deadline = asyncio.get_running_loop().time() + 20
        while not until(at_work):
            assert asyncio.get_running_loop().time() < deadline, log.lines
            await asyncio.sleep(0.02)
            minutes += 1
            at_work.machine.tick(NOW_MS + minutes * 60_000)
            at_work.go()
        await at_work.close()
        return at_work

    return asyncio.run(work()), log


def test_a_provider_that_does_not_tell_is_logged_with_its_code_and_nothing_of_the_user() -> None:
    provider = Asked(lambda: Answer(UNKNOWN, "isv.RAM_DENIED", "no right to ask for +8613800138000 of u-17"))
    _, log = told_of(provider, lambda _: provider.asked >= 2)
    (_, fields), *_ = [line for line in log.lines if "does not tell" in line[0]]
    assert fields["code"] == "isv.RAM_DENIED"
    assert fields["action_id"] == action("a").action_id
    assert "13800138000" not in str(fields)
    assert "u-17" not in str(fields)


def test_a_provider_that_fails_when_it_is_asked_is_logged_without_what_it_says() -> None:
    number = "".join(["+86138", "00138000"])  # Lines of code are logged, what is in them is not.

    def fails() -> Answer:
        raise ValueError(number)

    provider = Asked(fails)
    _, log = told_of(provider, lambda _: provider.asked >= 1)
    (fields,) = [fields for event, fields in log.lines if event == "a provider failed"]
    assert fields["error"] == "ValueError"
    assert "13800138000" not in str(log.lines)


class BrokenLedger:
    """Has a fault of its own."""

    async def note(self, notes: Any, now: int) -> Any:
        raise KeyError("attempt")

    async def close(self) -> None:
        pass


def test_a_fault_in_a_ledger_ends_delivery_and_does_not_stop_it_silently() -> None:
    at_work, _ = told_of(Pager(None, None), lambda one: one.failure is not None, BrokenLedger())  # type: ignore[arg-type]
    assert isinstance(at_work.failure, KeyError)


class Reporting(Pager):
    """Keeps what it was made with."""

    around: ClassVar[Surroundings | None] = None

    def __init__(self, settings: Any, around: Surroundings) -> None:
        type(self).around = around


def test_a_provider_has_a_little_less_time_than_its_channel_and_knows_how_many_calls_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(config.BUILT_IN, "pager", "tests.delivery.test_channel:Reporting")
    written = {"provider": "pager", "timeout": "20s", "concurrency": 300}
    how = delivered("sms", "t", written, tmp_path, lambda: 0, lambda: "n")
    around = Reporting.around
    assert around is not None
    assert (how.policy.call_ms, around.timeout_s, around.concurrency) == (20_000, 18.0, 300)


def test_as_many_connections_as_calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("S", "x" * 24)
    secret = {"env": "S"}
    some: dict[str, dict[str, Any]] = {
        "webhook": {"url": "https://x.example/"},
        "http": {"url": "https://x.example/"},
        "alibaba_sms": {"key_id": secret, "secret": secret, "sign_name": "A"},
        "twilio": {"account_sid": "AC" + "0" * 32, "auth_token": secret, "from": "+1"},
        "wechat_template": {"app_id": "wx", "secret": secret},
        "sendgrid": {"key": secret, "from": "news@acme.example", "unsubscribe": False},
    }
    for provider, more in some.items():
        how = delivered("c", "t", {"provider": provider, "concurrency": 300, **more}, tmp_path, lambda: 0, lambda: "n")
        made: Any = how.provider
        assert made._client._http1._connections == 300, provider


def test_who_only_looks_into_a_ledger_waits_for_nobody_who_writes(tmp_path: Path) -> None:
    async def check() -> None:
        one = SqliteLedger(tmp_path / "ledger.db", "sms", "one")
        await one.note([ToBegin("a", 1, "u", NOW_MS)], NOW_MS)
        other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        (found,) = await asyncio.wait_for(one.note([ToLook("a")], NOW_MS), 2)
        assert found.entry is not None
        other.execute("ROLLBACK")
        other.close()
        await one.close()

    asyncio.run(check())


@pytest.mark.parametrize(
    "url",
    [
        "redis://nudge:hush@h/0",
        "redis://:hush@h/0",
        "rediss://h/0?password=hush",
        "redis://h/0?username=n&password=hush",
    ],
)
def test_a_password_in_the_address_of_a_ledger_is_refused_and_not_said(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_ledger(url)
    assert "NUDGE_REDIS_PASSWORD" in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis://h/0?ssl_ca_cert=x", "redis://h/0?prefix=crm.", "redis://h:port/0"])
def test_an_option_of_redis_that_is_none_is_told_at_the_start(url: str) -> None:
    how = Delivered("sms", "actions.sms", Policy(), Pager(None, None), "acme", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--ledger: "):
        open_ledger(parse_ledger(url), "nudge-deliver", how, "one")


def test_a_reason_that_stops_the_channel_has_nothing_of_the_user() -> None:
    Pager.answers["+8613800138000"] = Answer(CONFIG, "E1", "bad key for u-17 at +86 138 0013 8000 with name Lina")
    try:
        _, log = told_of(Pager(None, None), lambda one: one.machine.why_open is not None)  # type: ignore[arg-type]
    finally:
        Pager.answers.clear()
        Pager.called.clear()
    (fields,) = [fields for event, fields in log.lines if "is stopped" in event]
    assert fields["code"] == "E1"
    assert fields["detail"] == "bad key for <hidden> at <number ..00> with name <hidden>"


class Written:
    """A writer whose broker takes everything, or keeps it to itself until it is told to."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.records: list[tuple[Any, bytes]] = []

    def begin(self, topic: str, records: Any, headers: Any = ()) -> asyncio.Future[dict[int, Any]]:
        self.records += records
        done: asyncio.Future[dict[int, Any]] = asyncio.get_running_loop().create_future()
        if self.takes:
            done.set_result({})
        return done


class Slow(Pager):
    """Takes everything, when it is let."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def call(self, action: Action) -> Answer:
        await self.may_answer.wait()
        return Answer(OK)


def with_a_late_outcome(path: Path, writer: Written, then: Callable[[ChannelAtWork, SqliteLedger], Any]) -> None:
    """Let a process note what became of an action when another one has told that nobody knows; then look at *then*."""
    action_id = action("a").action_id

    async def work() -> None:
        provider = Slow()
        how = Delivered("sms", "actions.sms", Policy(), provider, "acme", None)  # type: ignore[arg-type]
        slow, other = SqliteLedger(path, "sms", "slow"), SqliteLedger(path, "sms", "other")
        at_work = ChannelAtWork(
            how, slow, writer, "events", lambda: NOW_MS, Random(1), lambda _: None, Log()  # type: ignore[arg-type]
        )  # fmt: skip
        at_work.take(action("a", "u-17"), Place("actions.sms-0", 0))
        at_work.go()
        async with asyncio.timeout(20):
            while (found := (await other.note([ToLook(action_id)], NOW_MS))[0].entry) is None:
                await asyncio.sleep(0)
            unknown = ToSettle(action_id, found.attempt, "u-17", Outcome(UNKNOWN, found.lease_ms, "not_told"))
            assert (await other.note([unknown], found.lease_ms))[0].is_taken
            provider.may_answer.set()
            while not writer.records:
                await asyncio.sleep(0)
            await then(at_work, other)
        await at_work.close()
        await other.close()

    asyncio.run(work())
    (record,) = {value for _, value in writer.records}
    assert json.loads(record)["message_id"] == f"{action_id}/{ACCEPTED}"


def test_a_late_outcome_is_told_by_whoever_noted_it_and_by_nobody_else(tmp_path: Path) -> None:
    writer = Written()

    async def then(at_work: ChannelAtWork, other: SqliteLedger) -> None:
        while await other.untold(10):
            await asyncio.sleep(0)
        assert await at_work.tell_untold() == 0

    with_a_late_outcome(tmp_path / "ledger.db", writer, then)
    assert len(writer.records) == 1


def test_a_late_outcome_of_a_process_that_ends_before_its_receipt_is_told_by_another(tmp_path: Path) -> None:
    writer = Written(takes=False)

    async def then(at_work: ChannelAtWork, other: SqliteLedger) -> None:
        assert await at_work.tell_untold() == 0, "its receipt is on its way here"
        after = Written()
        next_one = ChannelAtWork(
            at_work.how, SqliteLedger(tmp_path / "ledger.db", "sms", "next"), after, "events",  # type: ignore[arg-type]
            lambda: NOW_MS, Random(1), lambda _: None, Log(),
        )  # fmt: skip
        assert [await next_one.tell_untold(), await next_one.tell_untold()] == [1, 0]
        assert after.records == writer.records
        assert (next_one.counts.outcomes[ACCEPTED], await other.untold(10)) == (1, [])
        await next_one.close()

    with_a_late_outcome(tmp_path / "ledger.db", writer, then)


# ---- several actions in one call -----------------------------------------------------------------------------------

LATER_MS = NOW_MS + 20_000
"""Until when a call may begin."""


class Bus(Pager):
    """Takes three with the same template together; what is called `alone` goes alone, and `nowhere` not at all."""

    together_max = 3

    def __init__(self, says: Callable[[Action], Answer] = lambda _: Answer(OK)) -> None:
        self.says = says
        self.rides: list[list[str]] = []

    def goes_with(self, action: Action) -> Hashable:
        if action.template == "nowhere":
            raise Unfit("no_stop", "it stops there no more")
        if action.template == "broken":
            raise KeyError(action.template)
        if action.template == "list":
            return [action.template]  # type: ignore[return-value]
        return None if action.template == "alone" else action.template

    async def call(self, action: Action) -> Answer:
        if action.template == "nowhere":
            raise Unfit("no_stop", "it stops there no more")
        self.rides.append([action.user_id])
        return self.says(action)

    async def call_together(self, actions: Sequence[Action]) -> Sequence[Answer]:
        self.rides.append([one.user_id for one in actions])
        return [self.says(one) for one in actions]


class AllAtOnce:
    """A machine that wants calls for all it has taken, in one round."""

    why_open = next_ms = None
    held_ms = 0

    def __init__(self, until_ms: Callable[[str], int] = lambda _: LATER_MS) -> None:
        self._until_ms = until_ms
        self._wanted: list[Call] = []
        self.answers: dict[str, Answer] = {}

    def take(self, action_id: str, *_: Any) -> None:
        self._wanted.append(Call(action_id, 1, self._until_ms(action_id)))

    def commands(self) -> list[Call]:
        wanted, self._wanted = self._wanted, []
        return wanted

    def answered(self, action_id: str, attempt: int, answer: Answer, now: int) -> None:
        self.answers[action_id] = answer


def ridden(
    provider: Any, *actions: Action, machine: AllAtOnce | None = None, call_ms: int = 10_000
) -> tuple[dict[str, Answer], ChannelAtWork, Log]:
    """Return what came of actions whose calls are due together, by user; the channel, and its log."""
    machine, log = machine or AllAtOnce(), Log()

    async def work() -> ChannelAtWork:
        how = Delivered("bus", "actions.bus", Policy(call_ms=call_ms), provider, "acme", None)
        at_work = ChannelAtWork(
            how, SqliteLedger(Path(":memory:"), "bus", "one"), None, "events",  # type: ignore[arg-type]
            lambda: NOW_MS, Random(1), lambda _: None, log,
        )  # fmt: skip
        at_work.machine = machine  # type: ignore[assignment]
        for offset, one in enumerate(actions):
            at_work.take(one, Place("actions.bus-0", offset))
        at_work.go()
        async with asyncio.timeout(20):
            while len(machine.answers) < len(actions):
                await asyncio.sleep(0)
        await at_work.close()
        return at_work

    at_work = asyncio.run(work())
    return {one.user_id: machine.answers[one.action_id] for one in actions}, at_work, log


def passenger(user: str, template: str = "town", **more: Any) -> Action:
    return action(user, user, channel="bus", template=template, **more)


def test_what_goes_together_goes_in_one_call_and_each_has_an_answer_of_its_own() -> None:
    bus = Bus(lambda one: Answer(PERMANENT, "full") if one.user_id == "b" else Answer(OK, provider_id="ride-1"))
    found, at_work, _ = ridden(bus, passenger("a"), passenger("x", "coast"), passenger("b"))
    assert sorted(bus.rides) == [["a", "b"], ["x"]]
    assert {user: one.kind for user, one in found.items()} == {"a": OK, "x": OK, "b": PERMANENT}
    assert (at_work.counts.calls, at_work.counts.answers) == (3, {OK: 2, PERMANENT: 1})


def test_no_more_go_together_than_the_provider_takes_and_nobody_waits_for_more() -> None:
    bus = Bus()
    ridden(bus, *map(passenger, "abcdefg"))
    assert bus.rides == [["a", "b", "c"], ["d", "e", "f"], ["g"]]


def test_who_goes_with_nobody_or_cannot_be_sent_holds_up_nobody() -> None:
    bus = Bus()
    found, _, log = ridden(
        bus, passenger("a"), passenger("b", "alone"), passenger("c", "nowhere"), passenger("d", "alone"),
        passenger("e", "broken"), passenger("f"), passenger("g", "list"),
    )  # fmt: skip
    assert sorted(bus.rides) == [["a", "f"], ["b"], ["d"], ["e"], ["g"]]
    assert (found["c"].kind, found["c"].code) == (PERMANENT, "no_stop")
    assert {found[user].kind for user in "abdefg"} == {OK}
    failed = [fields["error"] for event, fields in log.lines if event == "a provider failed"]
    assert failed == ["KeyError", "TypeError"]


class Broken(Bus):
    """Fails with all of them: as it is told."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    async def call_together(self, actions: Sequence[Action]) -> Sequence[Answer]:
        if self.how == "hangs":
            await asyncio.Event().wait()
        if self.how == "raises":
            raise ValueError("".join(["+86138", "00138000"]))  # Lines of code are logged, what is in them is not.
        return [Answer(OK)] if self.how == "counts" else [Answer(OK), "ok"]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("how", "code"), [("hangs", "timeout"), ("raises", "internal"), ("counts", "internal"), ("says", "internal")]
)
def test_a_call_for_several_that_fails_may_have_sent_each_of_them(how: str, code: str) -> None:
    found, at_work, log = ridden(Broken(how), passenger("a"), passenger("b"), call_ms=10)
    assert {(one.kind, one.code) for one in found.values()} == {(UNKNOWN, code)}
    assert at_work.counts.answers == {UNKNOWN: 2}
    assert "13800138000" not in str(log.lines)


def test_who_is_too_late_does_not_go_with_the_others_and_the_first_to_be_it_decides_for_all() -> None:
    late = action("late").action_id
    soon = action("soon").action_id
    machine = AllAtOnce(lambda one: NOW_MS - 1 if one == late else NOW_MS if one == soon else LATER_MS)
    asked: list[Callable[[], bool]] = []

    class Watching(Bus):
        async def call_together(self, actions: Sequence[Action]) -> Sequence[Answer]:
            asked.append(IS_TOO_LATE.get())
            return await super().call_together(actions)

    bus = Watching()
    found, at_work, _ = ridden(bus, passenger("a"), passenger("late"), passenger("soon"), machine=machine)
    assert bus.rides == [["a", "soon"]]
    assert (found["late"].kind, found["late"].code) == (RETRY, "too_late")
    assert at_work.counts.calls == 2
    for ms, is_too_late in [(10_000, False), (10_001, True)]:
        at_work._now_ms = lambda ms=ms: NOW_MS + ms  # type: ignore[misc]
        assert asked[0]() is is_too_late


def test_nobodys_receipt_has_what_is_another_users() -> None:
    bus = Bus(lambda one: Answer(PERMANENT, "E1", "one of tok-lina and tok-zhang is none, said Lina"))
    found, _, _ = ridden(bus, passenger("a", to="tok-lina"), passenger("b", to="tok-zhang"))
    assert found["a"].detail == "one of <hidden> and <hidden> is none, said <hidden>"
    assert found["b"].detail == found["a"].detail


def test_actions_that_go_together_have_one_outcome_and_one_receipt_each() -> None:
    bus, writer, done = Bus(lambda one: Answer(OK, provider_id="ride-1")), Written(), set[int]()

    async def work() -> None:
        how = Delivered("bus", "actions.bus", Policy(), bus, "acme", None)  # type: ignore[arg-type]
        ledger = SqliteLedger(Path(":memory:"), "bus", "one")
        at_work = ChannelAtWork(
            how, ledger, writer, "events", lambda: NOW_MS, Random(1),  # type: ignore[arg-type]
            lambda place: done.add(place.offset), Log(),
        )  # fmt: skip
        for offset, user in enumerate("abcab"):
            at_work.take(action(f"{user}{offset}", user, channel="bus"), Place("actions.bus-0", offset))
        at_work.go()
        async with asyncio.timeout(20):
            while len(done) < 5:
                await asyncio.sleep(0)
        found = await ledger.find("ride-1")
        assert found is not None, "one of them, where all have the same id of the provider's"
        await at_work.close()

    asyncio.run(work())
    assert bus.rides == [["a", "b", "c"], ["a", "b"]], "a user's actions follow one another"
    assert len({value for _, value in writer.records}) == len(writer.records) == 5
