"""One round: processes that are killed and replaced, faults of all that is around them, and what has come of it."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import httpx
from standardwebhooks import Webhook

from connectors.ledgers.base import ToLook
from dataflow.deliver.start import open_ledger, parse_ledger
from operators.delivery.policy import LEASE_MARGIN_MS
from state.delivery import Entry
from state.iso import format_ms
from state.outgoing import Action
from tests.delivery.actions import action
from tests.delivery.jobs import send
from tests.delivery.soak.lives import SHORT_MARGIN_MS, Life, Plan
from tests.delivery.soak.points import OF_DELIVER, OF_GATEWAY, POINTS
from tests.delivery.soak.promises import Found, broken
from tests.delivery.soak.weather import STORMS, Providers, Weather
from tests.gateway.doors import WRITE_KEY
from tests.kafka.broker import Broker, BrokerError, free_port
from tests.providers.webhook import SECRET
from tests.redis.server import RedisServer

CALL_MS: Final = 2_000
USERS: Final = 40
CLIENTS: Final = 3
REPORTS_AT: Final = "reports-come-here-0001"
DRAIN_LIMIT_S: Final = 300.0
STOP_LIMIT_S: Final = 30.0
POINT_LIMIT_S: Final = 4.0  # For so long nothing else is done to a process that is to end at a point.


@dataclass
class Done:
    """What happened in one round."""

    seed: int
    ledger: str = ""
    has_short_leases: bool = False
    kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    actions: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    called_again: int = 0
    """Actions for which a second attempt had begun."""
    events: int = 0
    seconds: float = 0.0
    of_faults: float = 0.0
    """Seconds in which things were broken; the rest is for the start, and for coming to rest."""
    gave_up: list[str] = field(default_factory=list)
    """Last words of processes that ended by themselves."""
    problems: list[str] = field(default_factory=list)


class Slot:
    """A place in which one process runs after the other."""

    def __init__(self, program: str, number: int) -> None:
        self.program, self.name = program, f"{program}-{number}"
        self.life: Life | None = None
        self.is_killed = self.is_stopping = False
        self.wakes_s: float | None = None
        self.has_peace_until_s = 0.0


class Clients:
    """Post events and reports to the doors, and note what was answered with success."""

    def __init__(self, urls: list[str], seed: int) -> None:
        self._urls, self._chance = urls, random.Random(seed)
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._post, args=(number,)) for number in range(CLIENTS)]
        self._signer = Webhook(SECRET)
        self.known: list[Action] = []
        """Actions whose provider may report."""
        self.sent: set[str] = set()
        self.acknowledged: set[str] = set()
        self.mistakes: list[str] = []

    def start(self) -> None:
        for one in self._threads:
            one.start()

    def stop(self) -> None:
        self._end.set()
        for one in self._threads:
            one.join()

    def _post(self, number: int) -> None:
        count = 0
        with httpx.Client(timeout=8) as client:
            while not self._end.wait(0.01):
                count += 1
                ids, path, content, headers = self._request(f"{number}-{count}")
                self.sent |= ids
                try:
                    answer = client.post(self._chance.choice(self._urls) + path, content=content, headers=headers)
                except httpx.HTTPError:
                    continue  # This door is gone, or stands still.
                if answer.is_success:
                    self.acknowledged |= ids
                elif answer.status_code != 503:
                    self.mistakes.append(f"the door answers {answer.status_code} {answer.text[:200]}")

    def _request(self, name: str) -> tuple[set[str], str, bytes, Mapping[str, str]]:
        if self.known and self._chance.random() < 0.1:
            one = self._chance.choice(self.known)
            status = f"seen-{name}"
            content = json.dumps({"action_id": one.action_id, "status": status}).encode()
            now_s = int(time.time())
            signed = {"webhook-id": name, "webhook-timestamp": str(now_s)}
            signed["webhook-signature"] = self._signer.sign(name, datetime.fromtimestamp(now_s, UTC), content.decode())
            return {f"{one.action_id}/{status}/{name}"}, f"/receipts/webhook/{REPORTS_AT}", content, signed
        ids = [f"m-{name}-{number}" for number in range(self._chance.choice((1, 1, 1, 20)))]
        events = [{"user_id": f"u-{self._chance.randrange(50)}", "event": "x", "message_id": one} for one in ids]
        head = {"authorization": f"Bearer {WRITE_KEY}", "content-type": "application/json"}
        return set(ids), "/v1/events", json.dumps(events).encode(), head


class Round:
    """One round of a seed.

    Args:
        faults: how many there are.
        pause_s: there is at most such a pause between two of them.
        is_shared: the ledger is in Redis, for several processes; else in a file, for one. None: the seed decides.
        has_short_leases: a process is taken for dead after seconds, and not after half a minute. None: likewise.
    """

    def __init__(
        self, broker: Broker, redis: RedisServer, folder: Path, seed: int, *, faults: int, pause_s: float = 1.0,
        is_shared: bool | None = None, has_short_leases: bool | None = None,
    ) -> None:  # fmt: skip
        self.broker, self.redis, self.folder, self.faults, self.pause_s = broker, redis, folder, faults, pause_s
        self.chance = chance = random.Random(seed)
        drawn = chance.random() < 0.75, chance.random() < 0.8
        self.is_shared = drawn[0] if is_shared is None else is_shared
        is_short = drawn[1] if has_short_leases is None else has_short_leases
        self.done = Done(seed, "redis" if self.is_shared else "sqlite", is_short)
        self.prefix = f"soak-{seed}-{time.time_ns() // 1_000_000:x}."
        self.ledger = redis.url if self.is_shared else f"sqlite:{folder / 'ledger.db'}"
        self.weather = Weather(random.Random(seed + 1))
        self.ports = [free_port() for _ in range(chance.choice((1, 2)))]
        count = chance.choice((2, 3)) if self.is_shared else 1
        self.slots = [Slot("deliver", number) for number in range(count)]
        self.slots += [Slot("gateway", number) for number in range(len(self.ports))]
        self.clients = Clients([f"http://127.0.0.1:{port}" for port in self.ports], seed)
        self.actions: list[Action] = []
        self.away: dict[str, tuple[float, Callable[[], None]]] = {}
        """What is away, until when, and how it comes back."""
        self.helper = ThreadPoolExecutor(1)
        self.coming: dict[str, Future[None]] = {}

    def run(self) -> Done:
        """Return what happened; broken promises are among its problems."""
        began_s = time.monotonic()
        with Providers(self.weather) as self.providers:
            try:
                self._prepare()
                self.clients.start()
                faults_s = time.monotonic()
                try:
                    self._break_things()
                finally:
                    self.done.of_faults = round(time.monotonic() - faults_s, 1)
                    self.clients.stop()
                self._come_to_rest()
                self._compare()
            except Exception as error:
                self.done.problems.append(f"{type(error).__name__}: {error}")
            finally:
                self._end()
        self.done.seconds = round(time.monotonic() - began_s, 1)
        return self.done

    # ---- before and after --------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.broker.ensure_ready()
        for name in ("webhook", "sms", "letter"):
            self.broker.create_topic(f"{self.prefix}actions.{name}", 3)
        for name in ("events", "receipts.unmatched", "dead-letters"):
            self.broker.create_topic(self.prefix + name, 3)
        settings = {
            "channels": self.providers.channels(CALL_MS),
            "gateway": {
                "keys": {"web": {"key": {"env": "WRITE_KEY"}}},
                "receipts": {"webhook": {"secret": {"env": "REPORTS"}}},
            },
        }
        (self.folder / "nudge.yaml").write_text(json.dumps(settings))
        for slot in self.slots:
            self._start(slot)

    def _start(self, slot: Slot, point: str = "", *more: str) -> None:
        kafka, common = f"kafka://{self.broker.bootstrap}?prefix={self.prefix}", ["--ledger", self.ledger]
        common += ["--config", str(self.folder / "nudge.yaml"), "--group", f"{self.prefix}deliver"]
        if slot.program == "deliver":
            arguments = ["deliver", "--source", kafka, "--receipts", f"{self.prefix}events", *common, *more]
        else:
            port = self.ports[int(slot.name.rpartition("-")[2])]
            arguments = ["gateway", "--sink", kafka, "--port", str(port), *common]
        environment = {**Providers.environment, "WRITE_KEY": WRITE_KEY, "REPORTS": REPORTS_AT}
        plan = Plan(point, bool(point) and self.chance.random() < 0.3, self.done.has_short_leases)
        slot.life = Life(arguments, self.folder / f"{slot.name}.log", environment, plan)
        slot.is_killed = slot.is_stopping = False
        slot.wakes_s, slot.has_peace_until_s = None, 0.0

    def _come_to_rest(self) -> None:
        """Let everything be well, end all processes in good order, and let a last one do what is left."""
        for name in list(self.away):
            self._back(name)
        for coming in self.coming.values():
            coming.result(120)
        self.broker.ensure_ready()
        self.weather.is_calm = True
        for slot in self.slots:
            assert slot.life is not None
            slot.is_stopping = True
            slot.life.send(signal.SIGTERM)
            self._wait_for(slot)
            self._ended(slot)
        last = self.slots[0]
        deadline_s = time.monotonic() + DRAIN_LIMIT_S
        self._start(last, "", "--stop-at-end")
        assert last.life is not None
        status = last.life.wait(max(0.0, deadline_s - time.monotonic()))
        if status != 0:
            raise RuntimeError(f"the last {last.name} ends with {status}:\n{self._tail(last)}")

    def _wait_for(self, slot: Slot) -> None:
        """Wait until the process of *slot* has ended; one whose point comes only now, and stands still, is woken."""
        life = slot.life
        assert life is not None
        until_s = time.monotonic() + STOP_LIMIT_S
        while life.wait(0.1) is None:
            if time.monotonic() > until_s:
                life.tell_where_it_is()
                raise RuntimeError(f"{slot.name} does not stop:\n{self._tail(slot, 100)}")
            if life.stands_still:
                life.send(signal.SIGCONT)

    def _compare(self) -> None:
        done = self.done
        ledger = asyncio.run(self._ledger())
        records = [record.value or b"" for record in self.broker.read_all(f"{self.prefix}events")]
        for record in self.broker.read_all(f"{self.prefix}receipts.unmatched"):
            report = json.loads(record.value or b"")
            if report.get("action_id"):  # It is tried again later, and is not lost.
                message_id = f"{report['action_id']}/{report['status']}/{report['event_id']}"
                records.append(json.dumps({"message_id": message_id}).encode())
        found = Found(
            self.actions, self.providers.seen(), ledger, records, self.clients.acknowledged, self.clients.sent
        )
        done.actions, done.events = len(self.actions), len(self.clients.acknowledged)
        for entry in ledger.values():
            if entry is not None and entry.outcome is not None:
                done.outcomes[entry.outcome.status] += 1
                done.called_again += entry.attempt > 1
        done.problems += [self._explained(problem, ledger) for problem in broken(found)]
        done.problems += [f"a dead letter: {one.value!r}" for one in self.broker.read_all(f"{self.prefix}dead-letters")]
        done.problems += sorted(set(self.clients.mistakes))
        for log in sorted(self.folder.glob("*.log")):
            if "Traceback" in (text := log.read_text(errors="replace")):
                done.problems.append(f"{log.name}: {text[text.index('Traceback') :][:1500]}")

    def _explained(self, problem: str, ledger: Mapping[str, Entry | None]) -> str:
        """Return *problem* with what the ledger and the provider know of its action."""
        history = self.providers.history
        known = [
            f"of {one.user_id}: {ledger[one.action_id]}\n{history[one.action_id]}\nasked: {history[str(one.to)]}"
            for one in self.actions
            if one.action_id in problem
        ]
        return "\n".join([problem, *known])

    async def _ledger(self) -> dict[str, Entry | None]:
        how: Any = SimpleNamespace(name="webhook", account="webhook", rate=None)
        ledger = open_ledger(parse_ledger(self.ledger), f"{self.prefix}deliver", how, "soak")
        try:
            noted = await ledger.note([ToLook(one.action_id) for one in self.actions], time.time_ns() // 1_000_000)
        finally:
            await ledger.close()
        return {one.action_id: found.entry for one, found in zip(self.actions, noted, strict=True)}

    def _end(self) -> None:
        """Leave nothing behind, and all that is around as it should be."""
        for slot in self.slots:
            if slot.life is not None:
                slot.life.kill()
        try:
            for name in list(self.away):
                self._back(name)
            for coming in self.coming.values():
                coming.result(120)
            self.broker.ensure_ready()
            self.broker.delete_topics(self.broker.topics(self.prefix))
        except Exception as error:
            self.done.problems.append(f"nothing comes to rest: {type(error).__name__}: {error}")
        self.helper.shutdown()

    def _tail(self, slot: Slot, lines: int = 15) -> str:
        text = (self.folder / f"{slot.name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    # ---- the faults --------------------------------------------------------------------------------------------

    def _break_things(self) -> None:
        kinds: dict[Callable[[], None], float] = {
            self._kill: 10, self._at_a_point: 10, self._stand_still: 3, self._terminate: 2, self._storm: 3,
            self._broker_away: 0.4, self._broker_paused: 0.4,
        }  # fmt: skip
        if self.is_shared:
            kinds |= {self._redis_away: 1, self._redis_paused: 1}
        for _ in range(self.faults):
            self._put_actions()
            self._watch_for(self.chance.uniform(0.05, self.pause_s))
            self.chance.choices([*kinds], [*kinds.values()])[0]()
        self._watch_for(self.pause_s)

    def _put_actions(self) -> None:
        if "broker" in self.away or self.coming:
            return
        now_ms, new = time.time_ns() // 1_000_000, list[Action]()
        for channel in ("webhook", "sms", "letter"):
            for _ in range(self.chance.randint(0, 25)):
                user = self.chance.randrange(USERS)
                more: dict[str, Any] = {"to": f"1380000{user:04d}", "vars": {}}
                if self.chance.random() < 0.03:
                    more["expires_at"] = format_ms(now_ms + self.chance.randint(0, 6_000))
                name = f"{self.prefix}{len(self.actions) + len(new)}"
                new.append(action(name, f"u{user}", channel, at=format_ms(now_ms), **more))
        for channel in ("webhook", "sms", "letter"):
            mine = [one for one in new if one.channel == channel]
            send(self.broker, f"{self.prefix}actions.{channel}", mine)
        self.actions += new
        self.clients.known = [one for one in self.actions[-300:] if one.channel == "webhook"]

    def _watch_for(self, seconds: float) -> None:
        """Let time pass: replace what has ended, wake what stands still, bring back what was away."""
        until_s = time.monotonic() + seconds
        while True:
            now_s = time.monotonic()
            for name in [one for one, (due_s, _) in self.away.items() if due_s <= now_s]:
                self._back(name)
            for name in [one for one, coming in self.coming.items() if coming.done()]:
                self.coming.pop(name).result()
            for slot in self.slots:
                self._look_at(slot, now_s)
            if now_s >= until_s:
                return
            time.sleep(0.02)

    def _look_at(self, slot: Slot, now_s: float) -> None:
        life = slot.life
        assert life is not None
        if life.status is not None:
            self._ended(slot)
            self._start(slot)
        elif slot.wakes_s is not None:
            if slot.wakes_s <= now_s:
                slot.wakes_s = None
                life.send(signal.SIGCONT)
        elif life.plan.stands_still and life.stands_still:
            self.done.faults[f"stood still at {life.plan.point.partition(':')[0]}"] += 1
            slot.wakes_s = now_s + self._how_long()

    def _ended(self, slot: Slot) -> None:
        """Say how it has ended, and whether it may."""
        life = slot.life
        assert life is not None
        status = life.status
        if status == -signal.SIGKILL:
            self.done.kills += 1
            at = "" if slot.is_killed else f" at {life.plan.point.partition(':')[0]}"
            self.done.faults[f"{slot.program} killed{at}"] += 1
            if not slot.is_killed and not life.plan.point:
                self.done.problems.append(f"{slot.name} was killed by somebody else")
        elif slot.is_stopping and status in (0, -signal.SIGTERM):  # The latter while it still reads its settings.
            pass
        elif status == 1 and slot.program == "deliver":
            self.done.faults["deliver gave up, and was started again"] += 1
            self.done.gave_up.append(self._tail(slot, 1))
        elif status != 0 or not slot.is_stopping:
            self.done.problems.append(f"{slot.name} ended with {status}:\n{self._tail(slot)}")

    def _how_long(self) -> float:
        """For how long a process stands still: for a moment, or for longer than what it does is its own."""
        margin_ms = SHORT_MARGIN_MS if self.done.has_short_leases else LEASE_MARGIN_MS
        if self.chance.random() < (0.5 if self.done.has_short_leases else 0.1):
            return (CALL_MS + margin_ms) / 1000 + self.chance.uniform(0.2, 3.0)
        return self.chance.uniform(0.1, 2.0)

    def _slot(self) -> Slot:
        """Return some process, rather one to which nothing is being done."""
        now_s = time.monotonic()
        free = [
            one for one in self.slots if one.wakes_s is None and not one.is_stopping and one.has_peace_until_s <= now_s
        ]
        return self.chance.choice(free or self.slots)

    def _kill(self) -> None:
        slot = self._slot()
        assert slot.life is not None
        slot.is_killed = slot.life.status is None
        slot.life.kill()
        self._look_at(slot, time.monotonic())

    def _at_a_point(self) -> None:
        """Another process, which ends or stands still at a point, if it comes so far before anything else happens."""
        slot = self._slot()
        assert slot.life is not None
        slot.is_killed = slot.life.status is None
        slot.life.kill()
        self._ended(slot)
        name = self.chance.choice([*(OF_DELIVER if slot.program == "deliver" else OF_GATEWAY)])
        when = self.chance.choice(("before", "after"))
        self._start(slot, f"{name}:{when}:{self.chance.randint(1, POINTS[name].passes)}")
        slot.has_peace_until_s = time.monotonic() + POINT_LIMIT_S

    def _stand_still(self) -> None:
        slot = self._slot()
        if slot.wakes_s is None and slot.life is not None:
            self.done.faults[f"{slot.program} stopped and continued"] += 1
            slot.life.send(signal.SIGSTOP)
            slot.wakes_s = time.monotonic() + self._how_long()

    def _terminate(self) -> None:
        slot = self._slot()
        if slot.life is not None and slot.wakes_s is None:
            self.done.faults[f"{slot.program} asked to stop"] += 1
            slot.is_stopping = True
            slot.life.send(signal.SIGTERM)

    def _storm(self) -> None:
        channel, mood = self.chance.choice(("webhook", "sms", "letter")), self.chance.choice(STORMS)
        self.done.faults[f"a provider {mood} for a while"] += 1
        self.weather.storm(channel, mood, self.chance.uniform(0.3, 2.5))

    def _broker_away(self) -> None:
        self._goes_away("broker", "killed", self.broker.kill, self.broker.start, self.chance.uniform(0, 3))

    def _broker_paused(self) -> None:
        self._goes_away("broker", "paused", self.broker.pause, self.broker.ensure_ready, self.chance.uniform(0.5, 8))

    def _redis_away(self) -> None:
        self._goes_away("redis", "killed", self.redis.kill, self.redis.start, self.chance.uniform(0, 2.5))

    def _redis_paused(self) -> None:
        self._goes_away("redis", "paused", self.redis.pause, self.redis.resume, self.chance.uniform(0.3, 7))

    def _goes_away(
        self, name: str, how: str, leave: Callable[[], None], come_back: Callable[[], None], seconds: float
    ) -> None:
        if name in self.away or name in self.coming:
            return
        self.done.faults[f"{name} {how}"] += 1
        leave()
        self.away[name] = (time.monotonic() + seconds, come_back)

    def _back(self, name: str) -> None:
        _, come_back = self.away.pop(name)
        self.coming[name] = self.helper.submit(self._come_back, come_back)

    def _come_back(self, come_back: Callable[[], None]) -> None:
        try:
            come_back()
        except BrokerError:  # A machine with much to do gets its time.
            self.broker.ensure_ready()
