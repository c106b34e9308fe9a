"""Random valid flows and random events that make a lot happen, from a seed or from hypothesis.

`python -m tests.oracle.generate [SEEDS]` prints how often every kind and reason of the journal occurs.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import reject
from hypothesis import strategies as st

from tests.oracle.engine import RECEIPT_MS, Result, TooManyRuns, simulate
from tests.oracle.program import Flow, Step, take_apart
from tests.oracle.schedules import CRON_DAYS
from tests.oracle.values import duration_ms, ms_to_local, next_clock, parse_iso, time_of_day, to_iso, zone_of

Json = dict[str, Any]

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000

FEATURES = (
    "split",
    "parallel",
    "times",
    "rules",  # Message rules of nudge.yaml, `postpone` and `cap_left`.
    "audience",  # Membership records, the step and the condition.
    "receipts",  # As records and as events, `result_of`.
    "limit",
    "experiment",
    "runs",  # Audience triggers.
)
# Those of FEATURES that the product has; random cases use them by default.
IN_PRODUCT: frozenset[str] = frozenset(
    {"split", "parallel", "times", "rules", "audience", "receipts", "limit", "experiment", "runs"}
)

# A zone, and the moment at which something happens to its clocks, or nothing.
SCENES = [
    ("UTC", "2026-03-02T08:00:00Z"),
    ("Asia/Shanghai", "2026-11-23T08:00:00Z"),
    ("Europe/Berlin", "2026-03-29T01:00:00Z"),
    ("Europe/Berlin", "2026-10-25T01:00:00Z"),
    ("America/New_York", "2026-03-08T07:00:00Z"),
    ("America/New_York", "2026-11-01T06:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),  # Half an hour back.
    ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
    ("Africa/Cairo", "2026-04-23T22:00:00Z"),  # Midnight is skipped.
    ("Pacific/Apia", "2011-12-30T10:00:00Z"),  # A whole day is skipped.
]
USERS = [
    "u1",
    "u2",
    "U1",
    "用户",
    "zoë",
    "\U0001f600",
    "\uff5e",
    "a b\tc",
]  # In UTF-16 the smiley is before "～".
EVENTS = ["view", "cart", "buy", "付款"]
CLOCKS = ["00:00", "00:30", "01:30", "02:00", "02:15", "02:30", "03:00", "09:00", "18:00", "23:59:59"]
NEAR_TURN = [-HOUR, -30 * MINUTE, -15 * MINUTE, 0, 15 * MINUTE, 30 * MINUTE, HOUR]
DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
ZONE_TRAITS = ["Asia/Tokyo", "America/New_York", "Europe/Berlin", "Mars/Olympus", "asia/tokyo", "", 5, None]
SHORT = ["1m", "5m", "10m", "15m", "30m", "1h", "90s", "1h30m"]
LONG = ["1h", "2h", "6h", "12h", "1d", "1d12h", "1w"]
TEMPLATED_VARS: list[Any] = [
    "{{ profile.tier }}",
    "{{ profile.fav }}",
    "{{ profile.seen }}",
    "{{ profile.data }}",
    "{{ profile.fav | default: 'x' }} {{ profile.score | default: 'y' }}",
    "{{ entry.ok | default: 'not' }}",
    "{{ entry.note | default: 'no note' }}",
    "{{ entry.note }}",
    "{{ entry.sku }}",
    "{{ event.sku }}",
    "{{ event.amount }}",
    "{{ entry.tags }}",
    "{{ entry.addr }}",
    "{{ entry.addr.city }}",
    "Hi {{ profile.tier | default: 'friend' }}!",
    "{{ profile.score | default: 0 }}",
    "{{ entry.sku | upcase }}-{{ event.sku | downcase }}",
    "{% if profile.tier %}{{ profile.tier }}{% else %}none{% endif %}",
    "{% if entry.sku == 'A' %}is A{% endif %}",
    "{{ 10 | divided_by: entry.n }}",
    "{{ 10 | divided_by: event.n }}",
    "{{ now }}",
    "{{ flow }}: {{ event.amount }}",
    "plain text",
    5,
    True,
]
FLOW_TRIES = 30

AUDIENCES = ["vip", "staff", "blocked"]
CHANNELS = ["sms", "sms", "email", "push", "webhook"]
STATUSES = ["accepted", "delivered", "failed", "opened", "clicked", "unknown", "bounced-softly"]
ARMS = ["a", "b", "c", "d"]
SHARES = [
    ["50%", "50%"],
    ["12.5%", "87.5%"],
    ["0%", "100%"],
    ["33.3%", "33.3%", "33.4%"],
    ["10%", "20%", "70%"],
    ["25%", "25%", "0%", "50%"],
]
CONSENTS: list[Any] = [True, True, True, False, None, "true", 1]


@dataclass
class Case:
    flows: list[Json]
    lines: list[bytes]
    until_ms: int | None = None
    config: Json = field(default_factory=dict)  # What stands in nudge.yaml.

    def run(self, **options: Any) -> Result:
        return simulate(self.flows, self.lines, config=self.config, **{"until_ms": self.until_ms} | options)


class Maker:
    """Draws one case. Everything random comes from *rng*, so that a seed, or hypothesis, decides all."""

    def __init__(self, rng: Random, features: Collection[str]) -> None:
        self.rng = rng
        # Half of what may be, and now and then much of it.
        share = rng.choice([35, 60, 90]) if features else 0
        self.on = {name for name in FEATURES if name in features and rng.randrange(100) < share}
        self.zone, moment = rng.choice(SCENES)
        turn = parse_iso(moment)
        assert turn is not None
        self.start = turn - rng.choice([1, 2, 3, 7, 30]) * HOUR
        zone = ZoneInfo(self.zone)
        # Local times that the turn skips or repeats: as if it had not happened.
        before = ms_to_local(turn - 1, zone) + timedelta(milliseconds=1)
        self.clocks = [f"{before + timedelta(milliseconds=near):%H:%M}" for near in NEAR_TURN]
        self.clocks = sorted({*self.clocks, *rng.sample(CLOCKS, 3)})
        # Few durations, which are also the gaps between events: so ends of waits and windows meet events.
        # In a tight case there are so few of everything that most things happen at the same instants.
        self.tight = rng.randrange(100) < 45
        self.shorts = rng.sample(SHORT, 1 if self.tight else 3)
        self.longs = rng.sample(LONG, 1 if self.tight else 2)
        if self.tight:
            self.clocks = sorted(rng.sample(self.clocks, 2))
        self.users = rng.sample(USERS, rng.choice([1, 2, 2] if self.tight else [2, 2, 3, 4]))
        self.names = rng.sample(EVENTS, 2 if self.tight else rng.choice([2, 2, 3, 4]))
        self.ids = 0
        self.has_endless_runs = False

    def chance(self, percent: int) -> bool:
        return self.rng.randrange(100) < percent

    def pick(self, *weighted: tuple[int, Callable[[], Any]]) -> Any:
        """Call one of the given, by weight."""
        point = self.rng.randrange(sum(weight for weight, _ in weighted))
        for weight, make in weighted:
            point -= weight
            if point < 0:
                return make()
        raise AssertionError("the weights sum up")

    def short(self) -> str:
        return str(self.rng.choice(self.shorts if self.chance(90) else SHORT))

    def duration(self) -> str:
        return self.short() if self.chance(65) else str(self.rng.choice(self.longs))

    # -- conditions

    def event_name(self) -> str:
        return str(self.rng.choice(self.names))

    def asked_name(self) -> str:
        """An event that a flow may ask for: receipts count as events, too."""
        if "receipts" in self.on and self.chance(15):
            return f"${self.rng.choice(CHANNELS)}_{self.rng.choice(STATUSES[:4])}"
        return self.event_name()

    def asked(self, *, templates: bool, where_percent: int = 40) -> Json:
        """An event with perhaps a `where`."""
        asked: Json = {"event": self.asked_name()}
        if self.chance(where_percent // (3 if self.tight else 1)):
            receipt = asked["event"].startswith("$")
            asked["where"] = self.receipt_test() if receipt else self.where(templates=templates)
        return asked

    def receipt_test(self) -> Json:
        """R2: "all fields of the action record and the receipt's `status`, `code`, `detail`"."""
        tests: list[Json] = [
            {"code": "x"},
            {"code": {"exists": False}},
            {"visit": 1},
            {"visit": {"gt": 1}},
            {"template": "t-1"},
            {"flow": ["flow-0", "flow-1"]},
            {"to": {"exists": True}},
            {"status": {"ne": "failed"}},
            {"cause.event": self.event_name()},
            {"vars.a": {"exists": True}},
            {"category": "marketing", "expires_at": None},
            {"at": {"within_last": self.duration()}},
            {"detail": {"contains": "no"}},
        ]
        return self.rng.choice(tests)

    def where(self, *, templates: bool) -> Json:
        unused = ["sku", "amount", "ok", "tags", "note", "addr.city", "due", "n"]
        self.rng.shuffle(unused)
        if self.chance(20):
            unused = ["sku", "due"]
        return self.combination(lambda: self.property_test(unused, templates=templates))

    def combination(self, one: Callable[[], Json], depth: int = 0) -> Json:
        """A mapping of tests, with `any`, `all` and `not` beside them."""
        made = one()
        if self.chance(25):
            made |= one()
        if "did" in made and made["did"] == made.get("did_not"):
            del made["did_not"]  # Both could never hold.
        if depth < 2 and self.chance(20):
            name = self.rng.choice(["any", "all", "not"])
            if name == "not":
                made = {**(made if self.chance(30) else {}), "not": self.combination(one, depth + 1)}
            else:
                inner = [self.combination(one, depth + 1) for _ in range(self.rng.randint(1, 2))]
                made = {**(made if self.chance(30) else {}), name: inner}
        return made

    def property_test(self, unused: list[str], *, templates: bool) -> Json:
        """A test of a property that the condition does not test yet, so that it cannot contradict itself."""
        if not unused:
            return {self.name("unheard_of"): {"ne": 1}}  # An empty condition would be refused.
        name = unused.pop()
        written = f"properties.{name}" if self.chance(10) else name
        return {written: self.value_test(name, templates=templates)}

    def value_test(self, name: str, *, templates: bool) -> Any:
        choices: dict[str, list[Any]] = {
            "sku": [
                "A",
                {"eq": "B"},
                ["A", "a"],
                {"ne": "A"},
                {"not_in": ["A", "C"]},
                {"exists": True},
                None,
            ],
            "amount": [
                5,
                {"gte": 5},
                {"gt": 2.5, "lt": 10},
                {"lte": 5},
                {"between": [1, 5]},
                {"ne": 5},
                [1, 10, "5"],
                {"exists": False},
                {"gt": "4"},
            ],
            "ok": [True, {"ne": True}, {"eq": 1}, [False, True], {"exists": True}],
            "tags": [{"contains": "x"}, {"not_contains": "x"}, {"contains": 1}, {"eq": "xy"}],
            "note": [
                {"starts_with": "Sale"},
                {"ends_with": "5"},
                {"contains": "le"},
                {"matches": "^[A-Z].*[0-9]$"},
                {"matches": "a.b"},
            ],
            "addr.city": ["Köln", {"ne": "Rome"}, {"gt": "Köln"}, {"between": ["A", "M"]}],
            "due": [
                {"before": self.moment(self.start + 3 * HOUR)},
                {"after": self.moment(self.start + 3 * HOUR)},
                {"within_last": self.duration()},
                {"within_next": self.duration()},
            ],
            "n": [0, {"gt": 0}, {"ne": 1}, {"in": [1, 2]}],
            "tier": ["gold", {"ne": "vip"}, ["gold", "vip"], {"exists": True}, None, {"not_in": ["vip"]}],
            "score": [{"gte": 5}, {"lt": 10}, {"ne": 5}, 5],
            "fav": ["A", {"exists": True}, {"ne": "B"}],
        }
        templated: dict[str, list[Any]] = {
            "sku": [
                "{{ entry.sku }}",
                "{{ event.sku }}",
                {"ne": "{{ event.sku }}"},
                {"in": ["C", "{{ profile.fav }}"]},
                {"not_in": ["{{ profile.fav }}"]},
                {"starts_with": "{{ entry.sku | upcase }}"},
                "{{ profile.fav | default: 'A' }}",
                "{% if profile.tier %}A{% endif %}",
            ],
            "amount": [
                {"gt": "{{ entry.amount }}"},
                {"ne": "{{ event.amount }}"},
                {"between": [0, "{{ profile.score }}"]},
            ],
            "n": ["{{ entry.n }}", "{{ event.n }}", {"lte": "{{ event.n }}"}, {"eq": "{{ entry.n }}0"}],
            "due": [{"after": "{{ now }}"}, {"before": "{{ profile.seen }}"}],
            "tier": ["{{ event.tier }}", {"ne": "{{ entry.sku }}"}],
            "fav": ["{{ entry.sku }}", {"ne": "{{ event.sku }}"}],
            "score": [{"gte": "{{ entry.amount }}"}, {"not_in": ["{{ event.amount }}", 5]}],
        }
        if templates and name in templated and self.chance(60):
            return self.rng.choice(templated[name])
        return self.rng.choice(choices[name])

    def when(self, *, at_entry: bool) -> Json:
        unused = ["tier", "score", "fav", "sku", "amount", "n"]
        self.rng.shuffle(unused)
        unused = ["audience", "cap", *unused]

        def one() -> Json:
            made: Json = self.pick(
                (12 if "audience" in self.on and "audience" in unused else 0, lambda: self.audience_test(unused)),
                (14 if "rules" in self.on and "cap" in unused else 0, lambda: self.cap_test(unused)),
                (32, lambda: self.field_test(unused)),
                (34, lambda: {"did": self.did(at_entry=at_entry)}),
                (14, lambda: {"did_not": self.did(at_entry=at_entry)}),
                (20, lambda: {"local_time": self.local_time()}),
            )
            return made

        return self.combination(one) or {"local_time": self.local_time()}

    def field_test(self, unused: list[str]) -> Json:
        if len(unused) <= 2:
            return {"local_time": self.local_time()}
        name = unused.pop()
        root = "profile" if name in ("tier", "score", "fav") else "entry"
        return {f"{root}.{name}": self.value_test(name, templates=True)}

    def audience_test(self, unused: list[str]) -> Json:
        unused.remove("audience")
        return {"audience": self.rng.choice([*AUDIENCES, ["vip", "staff"], AUDIENCES])}

    def cap_test(self, unused: list[str]) -> Json:
        unused.remove("cap")
        return {"cap_left": self.rng.choice(CHANNELS)}

    def did(self, *, at_entry: bool) -> Json:
        if self.chance(20):
            clauses = [self.did_clause(at_entry=at_entry) for _ in range(self.rng.randint(1, 3))]
            return {self.rng.choice(["any", "all"]): clauses}
        return self.did_clause(at_entry=at_entry)

    def did_clause(self, *, at_entry: bool) -> Json:
        rolling = at_entry or self.chance(40)
        clause = self.asked(templates=not rolling, where_percent=30)
        clause |= self.rng.choice(
            [
                {},
                {},
                {"at_least": 2},
                {"at_most": 2},
                {"exactly": 0},
                {"exactly": 1},
                {"at_least": 0, "at_most": 1},
            ]
        )
        if rolling:
            clause["within"] = self.duration()
        elif self.chance(30):
            clause["since"] = "entry"
        return clause

    def local_time(self) -> Json:
        after, before = self.rng.sample(self.clocks, 2)
        made: Json = self.rng.choice([{"after": after}, {"before": before}, {"after": after, "before": before}, {}])
        made = dict(made)
        if not made or self.chance(25):
            made["days"] = self.rng.sample(DAYS, self.rng.randint(2, 5))
        return made

    # -- steps

    def name(self, prefix: str) -> str:
        self.ids += 1
        return f"{prefix}{self.ids}"

    def steps(self, depth: int, *, least: int, most: int) -> list[Any]:
        """A list of steps; what ends or jumps stands last, so that nothing behind it is out of reach."""
        made: list[Any] = []
        for _ in range(self.rng.randint(least, most)):
            step = self.step(depth)
            if isinstance(step, dict) and self.chance(40):
                step = {"id": self.name("s-"), **step}
            made.append(step)
            if self.goes_away(step):
                return made
            if "set" in step and self.chance(50):  # To see what came of it.
                shown = {name: f"{{{{ profile.{name} }}}}" for name in list(step["set"])[:1]}
                made.append({"send": "webhook", "template": "t-1", "vars": shown})
            if "receipts" in self.on and "send" in step and self.chance(35) and depth < 2:
                made.append(self.result_of(depth))
                if self.goes_away(made[-1]):
                    return made
        if self.chance(25 if depth else 20):
            made.append(self.pick((50, self.end), (50, lambda: {"goto": "?"})))
        return made

    def goes_away(self, step: Any) -> bool:
        """Whether no way leads from the step to the one after it."""
        if not isinstance(step, dict) or "end" in step or "goto" in step:
            return True
        if "branch" in step:
            lists = [arm["else"] if "else" in arm else arm["steps"] for arm in step["branch"]]
            return "else" in step["branch"][-1] and all(self.list_goes_away(one) for one in lists)
        if "wait_for" in step:
            labels = [*step["wait_for"], "timeout"]
            then = step.get("then", {})
            return all(label in then and self.list_goes_away(then[label]) for label in labels)
        if "result_of" in step:
            return "other" in step["then"] and all(self.list_goes_away(one) for one in step["then"].values())
        if "split" in step or "experiment" in step:
            arms, then = step.get("split") or step["experiment"]["arms"], step["then"]
            return all(arm in then and self.list_goes_away(then[arm]) for arm in arms)
        if "parallel" in step:
            return any(self.list_goes_away(one) for one in step["parallel"])
        if "times" in step:
            return any(self.list_goes_away(one["steps"]) for one in step["times"])
        return False

    def list_goes_away(self, steps: list[Any]) -> bool:
        return bool(steps) and self.goes_away(steps[-1])

    def end(self) -> Any:
        return self.rng.choice([{"end": None}, "end", {"end": "cold"}, {"end": "won"}])

    def step(self, depth: int) -> Any:
        nests = depth < 2
        return self.pick(
            (36, self.send),
            (14, self.set_step),
            (18, lambda: {"wait": self.wait()}),
            (20 if nests else 6, lambda: self.wait_for(depth)),
            (24 if nests else 0, lambda: self.branch(depth)),
            (14 if nests and "split" in self.on else 0, lambda: self.split(depth)),
            (20 if nests and "parallel" in self.on else 0, lambda: self.parallel(depth)),
            (16 if nests and "times" in self.on else 0, lambda: self.times(depth)),
            (12 if "audience" in self.on else 0, self.audience_step),
            (12 if nests and "receipts" in self.on else 0, lambda: self.result_of(depth)),
            (20 if nests and "experiment" in self.on else 0, lambda: self.experiment(depth)),
        )

    def send(self) -> Json:
        made: Json = {"send": self.rng.choice(CHANNELS), "template": "t-1"}
        if made["send"] != "webhook" and self.chance(15):
            made["to"] = self.rng.choice(["{{ profile.email }}", "+49 1", "{{ event.sku }}", "tel:{{ entry.n }}"])
        if self.chance(55):
            names = ["a", "b", "c"][: self.rng.randint(1, 3)]
            made["vars"] = {name: self.rng.choice(TEMPLATED_VARS) for name in names}
        if self.chance(20):
            made["category"] = self.rng.choice(["marketing", "notification"])
        if self.chance(30 if "rules" in self.on else 15):
            made["expires"] = self.duration()
        if self.chance(25):
            made["if_missing"] = self.rng.choice(["skip", "end", "end"])
        if "rules" in self.on and self.chance(25):
            made["postpone"] = self.chance(60)
        return made

    def set_step(self) -> Json:
        values: dict[str, list[Any]] = {
            "tier": ["gold", "vip", None, "{{ event.sku }}"],
            "score": [5, 10, "{{ entry.amount }}", "{{ event.n }}"],
            "seen": ["{{ now }}", "at {{ now }}"],
            "fav": ["{{ event.sku }}", "{{ entry.sku | downcase }}", "{{ event.sku | default: 'B' }}"],
            "phone": ["+1", None, ""],
            "renewal": [to_iso(self.start + 9 * HOUR), "{{ entry.due }}", None],
            "timezone": [self.zone, "Asia/Tokyo", "No/Where", None],
            "data": [["x", 1], {"city": "Rome", "zip": None}, "{{ entry.addr }}"],
        }
        chosen = self.rng.sample(sorted(values), self.rng.randint(1, 3))
        return {"set": {name: self.rng.choice(values[name]) for name in chosen}}

    def wait(self) -> Any:
        days = {"days": self.rng.sample(DAYS, self.rng.randint(1, 4))} if self.chance(25) else {}
        return self.pick(
            (30, self.short),
            (6, lambda: self.rng.choice(self.longs)),
            (6, lambda: {"for": self.short()}),
            (20, lambda: {"until": self.rng.choice(self.clocks), **days}),
            (12, lambda: {"for": self.duration(), "at": self.rng.choice(self.clocks), **days}),
            (8, lambda: {"until": self.written_moment()}),
            (16, self.wait_for_date),
            (14, lambda: {"for": self.duration(), "without": self.silence()}),
        )

    def silence(self) -> Json:
        asked = self.asked(templates=True)
        if self.chance(40):
            asked = {"event": self.rng.sample(self.names, self.rng.randint(1, len(self.names)))}
        return asked

    def written_moment(self) -> str:
        moment = to_iso(self.start + self.rng.choice([-2, 1, 2, 6, 24, 60]) * HOUR)
        return str(self.rng.choice([moment, moment[:16], moment[:10], moment[:19] + "+02:00"]))

    def birthday(self) -> str:
        year = self.rng.choice(["0002", "1899", "1948", "1969", "1984", "9996"])
        day = self.rng.choice(["02-29", "03-29", "10-25", "01-01", "12-31"])
        return f"{year}-{day}" + self.rng.choice(["", "", "T02:30", "T23:59:59.5Z", "T00:30:00-09:30"])

    def wait_for_date(self) -> Json:
        until = [*["{{ entry.due }}"] * 3, "{{ event.due }}", "{{ profile.renewal }}", "{{ profile.seen }}"]
        texts = ["{{ entry.due | default: '2026-03-29T02:30' }}", "{{ entry.sku }}T09:00"]
        made: Json = {
            "until": self.rng.choice(until + texts),
            "if_missing": self.rng.choice(["skip", "end"]),
        }
        if self.chance(40):
            made["offset"] = self.rng.choice(["-", "+", ""]) + self.duration()
        if self.chance(40):
            made["at"] = self.rng.choice(self.clocks)
        if self.chance(25):
            return {**made, "yearly": True}
        if self.chance(60):
            made["if_past"] = self.rng.choice(["skip", "end", "end"])
        if "at" in made and self.chance(25):
            made["days"] = self.rng.sample(DAYS, self.rng.randint(1, 4))
        return made

    def wait_for(self, depth: int) -> Json:
        labels = self.rng.sample(["one", "two", "three"], self.rng.choice([1, 1, 2, 3]))
        asked = {}
        for label in labels:
            asked[label] = self.asked(templates=True)
            if self.chance(20):
                asked[label]["at_least"] = self.rng.choice([1, 2, 2, 3])
        made: Json = {"wait_for": asked, "timeout": self.duration()}
        then = {}
        for label in [*labels, "timeout"]:
            if self.chance(65):
                then[label] = self.steps(depth + 1, least=0, most=2)
        if then or self.chance(50):
            made["then"] = then
        return made

    def branch(self, depth: int) -> Json:
        arms: list[Json] = []
        for number in range(self.rng.randint(1, 3)):
            arm: Json = {"when": self.when(at_entry=False)}
            if self.chance(40):
                arm["label"] = f"way-{number}"
            arm["steps"] = self.steps(depth + 1, least=0, most=2)
            arms.append(arm)
        if self.chance(50):
            arms.append({"else": self.steps(depth + 1, least=0, most=2)})
        return {"branch": arms}

    def split(self, depth: int) -> Json:
        arms = self.arms()
        return {"split": arms, "then": self.then_of(arms, depth)}

    def arms(self) -> Json:
        shares = list(self.rng.choice(SHARES))
        self.rng.shuffle(shares)
        return dict(zip(self.rng.sample(ARMS, len(shares)), shares, strict=True))

    def then_of(self, ways: Collection[str], depth: int) -> Json:
        """Steps for some of the ways, for one at least."""
        then = {way: self.steps(depth + 1, least=0, most=2) for way in ways if self.chance(75)}
        return then or {next(iter(ways)): self.steps(depth + 1, least=1, most=2)}

    def parallel(self, depth: int) -> Json:
        return {"parallel": [self.steps(depth + 1, least=0, most=3) for _ in range(self.rng.randint(2, 4))]}

    def times(self, depth: int) -> Json:
        arms = []
        for _ in range(self.rng.randint(1, 4)):
            at = self.rng.choice(self.clocks) if self.chance(60) else self.written_moment()
            arms.append({"at": at, "steps": self.steps(depth + 1, least=0, most=2)})
        return {"times": arms}

    def audience_step(self) -> Json:
        made = {"add": self.some_audiences(), "remove": self.some_audiences()}
        made.pop(self.rng.choice(["add", "remove", "remove", "neither"]), None)
        return {"audience": made}

    def some_audiences(self) -> list[str]:
        return self.rng.sample(AUDIENCES, self.rng.choice([1, 1, 2]))

    def result_of(self, depth: int) -> Json:
        ways = self.rng.sample([*STATUSES[:4], "suppressed", "suppressed", self.rng.choice(STATUSES)], 2)
        ways = sorted({*ways}, key=ways.index)[: self.rng.choice([1, 2])]
        then = {way: self.steps(depth + 1, least=0, most=2) for way in ways}
        if self.chance(60):
            then["other"] = self.steps(depth + 1, least=0, most=2)
        return {"result_of": "?", "within": self.duration(), "then": then}

    def experiment(self, depth: int) -> Json:
        arms = self.arms()
        made = {
            "arms": arms,
            "goal": {
                **self.asked(templates=True, where_percent=20),
                "within": self.duration() if self.chance(40) else self.rng.choice(self.longs),
            },
            "stop_after": self.rng.choice([1, 1, 2, 2, 3]),
            "winner": self.rng.choice(["best", "best", *arms]),
        }
        return {"id": self.name("x-"), "experiment": made, "then": self.then_of(arms, depth)}

    # -- message rules

    def config(self) -> Json:
        """What stands in nudge.yaml."""
        made: Json = {}
        if "rules" not in self.on:
            return made
        if self.chance(60):
            made["caps"] = self.caps()
        if self.chance(50):
            made["quiet"] = self.quiet()
        channels = {}
        for channel in sorted({*CHANNELS}):
            entry: Json = {}
            if self.chance(35):
                entry["caps"] = self.caps()
            if self.chance(30):
                entry["quiet"] = self.quiet()
                if is_never_loud(entry["quiet"], made.get("quiet", {})):
                    del entry["quiet"]
            if self.chance(10):
                entry["address"] = self.rng.choice(["email", None, "fav"])
            if entry or self.chance(20):
                channels[channel] = entry
        if channels:
            made["channels"] = channels
        if self.chance(35):
            made["exempt"] = {"audience": self.rng.choice(["staff", ["staff"], ["vip", "staff"]])}
        if self.chance(35):
            made["suppress"] = {"audience": self.rng.choice(["blocked", ["blocked", "unheard-of"]])}
        if self.chance(30):
            categories = self.rng.choice([["marketing"], ["notification"], ["marketing", "notification"]])
            made["consent"] = dict.fromkeys(categories, "profile.consent")
        return made

    def caps(self) -> list[Json]:
        return [
            {"at_most": self.rng.choice([1, 1, 2, 3]), "per": self.duration()}
            for _ in range(self.rng.choice([1, 1, 2]))
        ]

    def quiet(self) -> Json:
        made: Json = {}
        if self.chance(75):
            made["from"], made["until"] = self.rng.sample(self.clocks, 2)
        if self.chance(35) or not made:
            made["holidays"] = [self.holiday(number) for number in range(self.rng.choice([1, 1, 2]))]
        if self.chance(40):
            made["postpone"] = self.chance(50)
        return made

    def holiday(self, number: int) -> Json:
        first = ms_to_local(self.start + self.rng.choice([-1, 0, 0, 1, 2]) * DAY, ZoneInfo(self.zone)).date()
        last = first + timedelta(days=self.rng.choice([0, 0, 1, 3]))
        return {"name": f"h-{number}", "from": first.isoformat(), "until": last.isoformat()}

    # -- flows

    def flows(self) -> list[Json]:
        made = [
            self.flow(f"flow-{number}")
            for number in range(self.rng.choice([2, 3, 4] if self.tight else [1, 2, 2, 3, 4]))
        ]
        if self.chance(30):
            first = made[0]
            twin = self.flow(first["flow"])
            first["version"], twin["version"] = self.rng.choice([(1, 2), (2, 1), (3, 10)])
            made.append(twin)
            for one in (first, twin):
                if self.chance(60):
                    one["state"] = self.rng.choice(["draft", "ended", "paused", "paused", "live", "live", "live"])
        self.rng.shuffle(made)
        return made

    def flow(self, name: str) -> Json:
        made: Json = {"flow": name}
        if self.chance(30):
            made["version"] = self.rng.randint(1, 3)
        if self.chance(10):
            made["state"] = self.rng.choice(["draft", "paused", "paused", "ended", "live"])
        if self.chance(70):
            made["timezone"] = self.zone
        if self.chance(10):
            unit = duration_ms(self.rng.choice(self.shorts))
            start = self.start + self.rng.choice([0, 1, 2, 4]) * unit
            until = start + self.rng.choice([1, 4, 10, 30]) * unit
            made["active"] = self.active(start, until, zone_of({}, made))
            made["active"].pop(self.rng.choice(["from", "until", "neither"]), None)
        if self.chance(60):
            made["priority"] = self.rng.choice([-1, 0, 1, 2, 10])
        made["trigger"] = self.audience_trigger() if "runs" in self.on and self.chance(40) else self.trigger()
        entry = self.entry()
        if entry:
            made["entry"] = entry
        if self.chance(45):
            made["exit"] = [self.exit_rule() for _ in range(self.rng.randint(1, 2))]
        made["steps"] = self.body(made)
        return made

    def active(self, start: int, until: int, zone: ZoneInfo) -> Json:
        """A period with its ends near these; *zone* is that of the flow."""
        while True:
            first, last = self.moment(start), self.moment(until)
            if (parse_iso(first, zone) or 0) < (parse_iso(last, zone) or 0):  # Else nobody could ever enter.
                return {"from": first, "until": last}

    def moment(self, ms: int) -> str:
        """A moment at *ms*, or near it: one without offset is another where the flow has another zone."""
        local = ms_to_local(ms, ZoneInfo(self.zone))
        return self.rng.choice([to_iso(ms), to_iso(ms), f"{local:%Y-%m-%dT%H:%M}", f"{local:%Y-%m-%d}"])

    def trigger(self) -> Json:
        def one() -> Json:
            asked = self.asked(templates=False, where_percent=30)
            if self.chance(40):
                asked["count"] = {"at_least": self.rng.choice([1, 2, 2, 3])}
                if self.chance(75):
                    asked["count"]["within"] = self.duration()
            return asked

        return {"any": [one() for _ in range(self.rng.randint(1, 3))]} if self.chance(30) else one()

    def audience_trigger(self) -> Json:
        made: Json = {"audience": self.some_audiences(), "schedule": self.schedule()}
        if self.chance(50):
            made["skip_unchanged"] = self.chance(80)
            self.has_endless_runs = True  # One that is skipped does not count, so they may never end.
        return made

    def schedule(self) -> Json:
        near = self.start + self.rng.choice([-2, -1, 0, 0, 1, 2, 4]) * duration_ms(self.short())
        kind = self.rng.choice(["now", "now", "at", "every", "every", "cron", "cron"])
        if kind == "now":
            return {"now": True}
        if kind == "at":
            return {"at": self.moment(near)}
        every = self.duration()
        if duration_ms(every) < 20 * MINUTE:
            every = "20m"  # Days of runs at every minute would take the oracle minutes.
        made: Json = {"cron": self.cron()} if kind == "cron" else {"every": every, "from": self.moment(near)}
        if self.chance(50):
            made["runs"] = self.rng.choice([1, 2, 3])
        else:
            self.has_endless_runs = True
        return made

    def cron(self) -> str:
        clock = self.rng.choice(self.clocks)
        minute, hour = int(clock[3:5]), int(clock[:2])
        minutes = [str(minute), str(minute), "*/30", "0,15,45", f"{minute}/20", "*/15"]
        hours = [str(hour), str(hour), "*", f"{hour},{(hour + 2) % 24}", f"0-{hour}", "*/6"]
        today = ms_to_local(self.start, ZoneInfo(self.zone)).date()
        month = f"{today:%b}".lower()
        days = ["*"] * 5 + [str(today.day), f"{today.day}-31", "*/2", "1,2,3,29,30,31"]
        months = ["*"] * 5 + [month, str(today.month), "*/1"]
        weekday = (today.weekday() + 1) % 7
        weekdays = ["*"] * 5 + ["mon-fri", "0", "7", "sat,sun", "5-7", CRON_DAYS[weekday], CRON_DAYS[weekday].upper()]
        return " ".join(self.rng.choice(some) for some in (minutes, hours, days, months, weekdays))

    def entry(self) -> Json:
        made: Json = {}
        if self.chance(8 if self.tight else 20):
            made["when"] = self.when(at_entry=True)
        if self.chance(40):
            made["reentry"] = self.rng.choice(
                [
                    "never",
                    "always",
                    {"after": self.short()},
                    {"after": "1d"},
                    {"at_most": 2, "within": self.duration()},
                ]
            )
        if self.chance(45):
            made["concurrent"] = self.rng.choice([1, 2, 3, 5])
        if self.chance(15 if self.tight else 25):
            made["key"] = "order"
        if self.chance(10):
            made["holdout"] = self.rng.choice(["10%", "50%", "12.5%", "100%", "0%"])
        if "limit" in self.on and self.chance(25):
            made["limit"] = self.rng.choice([1, 2, 4])
        return made

    def exit_rule(self) -> Json:
        made = self.asked(templates=True, where_percent=55)
        if self.chance(50):
            made["goal"] = self.rng.choice([True, True, False])
        if self.chance(50):
            made["label"] = self.rng.choice(["bought", "gone"])
        return made

    def body(self, flow: Json) -> list[Any]:
        """Steps whose jumps lead somewhere and loop only over waits; plain ones if luck does not find any."""
        if self.chance(2):  # Goes round until it fails.
            loop: Json = {"wait": self.short()}
            if self.chance(50):
                loop = {"wait_for": {"one": self.asked(templates=True)}, "timeout": self.short()}
            made = [self.set_step(), {"id": "loop", **loop}, self.send(), {"goto": "loop"}]
            return made[self.rng.choice([0, 1]) :]
        loops_on_time = self.chance(4)
        for _ in range(FLOW_TRIES):
            steps = self.steps(0, least=1, most=5)
            if '"send"' not in json.dumps(steps):
                steps.insert(0, self.send())
            flow_made = take_apart_with_targets(self, {**flow, "steps": steps})
            if flow_made is not None and is_sound(flow_made, loops_on_time=loops_on_time):
                return steps
        return [self.send(), {"wait": "5m"}, self.send()]

    # -- events

    def properties(self, now: int) -> Json:
        due = now + self.rng.choice([-1, 0, 1, 1]) * duration_ms(self.duration())
        iso = to_iso(due)
        dues: list[Any] = [iso, iso, due, due + 0.5, iso[:16], iso[:10], "10:00", True, 1e15, self.birthday()]
        values: dict[str, tuple[int, list[Any]]] = {
            "sku": (85, ["A", "B", "a", "ß"]),
            "amount": (80, [1, 5, 5.0, 10, 2.5, -1, "5", True, None]),
            "order": (95, ["o1", "o1", "o1", "o2", 17, 17.0, "17", True, 1, 0.5, "", None, [1]]),
            "ok": (40, [True, False, 1, "true"]),
            "tags": (40, [["x", "y"], ["x", 1], [True, 1.0], "xy", []]),
            "note": (40, ["Sale 5", "a\nb", "axb", "sale", ""]),
            "addr": (40, [{"city": "Köln", "zip": None}, {"city": "Rome"}, {}, ["city"], "Rome"]),
            "due": (70, dues),
            "n": (70, [0, 0, 1, 2, 4]),
            "tier": (20, ["gold", "A"]),
        }
        return {name: self.rng.choice(some) for name, (percent, some) in values.items() if self.chance(percent)}

    def traits(self) -> Json:
        values: dict[str, list[Any]] = {
            "phone": ["+86 1", "+86 2", "+86 3", "+86 4", None, "", 5],
            "email": ["a@example.com", "b@example.com", None],
            "push_token": ["p-1", "p-2", None],
            "tier": ["gold", "vip", "A", None],
            "score": [1, 5, 10, 2.5, "5"],
            "fav": ["A", "B", None],
            "timezone": [self.zone, self.zone, *ZONE_TRAITS],
            "renewal": [
                to_iso(self.start + 8 * HOUR),
                self.start + 4 * HOUR,
                "2026-03-29",
                "soon",
                None,
                False,
                self.birthday(),
            ],
            "seen": [to_iso(self.start)[:19], "later"],
            "addr.city": ["a dot in a name"],
        }
        if "rules" in self.on:
            values["consent"] = CONSENTS
        chosen = self.rng.sample(sorted(values), self.rng.randint(1, 4))
        return {name: self.rng.choice(values[name]) for name in chosen}


class Stream:
    """Draws the lines of an events file, and follows the stream time they make."""

    def __init__(self, maker: Maker, flows: list[Json], config: Json) -> None:
        self.maker = maker
        self.flows, self.config = flows, config
        self.seen: tuple[int, Result | None] = (-1, None)  # What became of so many lines.
        self.rng = maker.rng
        self.lines: list[bytes] = []
        self.again: list[tuple[int, Json]] = []  # Sent records with an id, and their stream time.
        self.repeats: list[int] = []  # Which lines have a `message_id` that was there before.
        self.ids: set[tuple[str, str]] = set()
        self.now = maker.start
        if maker.chance(12):  # Nothing at the head says when it was.
            for _ in range(self.rng.randint(1, 3)):
                self.write({"user_id": self.rng.choice(maker.users), "event": maker.event_name()})
        if maker.chance(85):  # So that most users have addresses.
            for user in maker.users:
                traits: Json = {"phone": f"+{len(user)}", "email": "e@example.com", "push_token": "p"}
                if "consent" in config:
                    traits["consent"] = self.rng.choice(CONSENTS)
                record: Json = {"type": "identify", "user_id": user, "traits": traits}
                self.write(record | ({"timestamp": to_iso(self.now)} if maker.chance(60) else {}))
        if maker.on & {"audience", "runs"} and maker.chance(60):
            for user in maker.users:
                self.membership(user)

    def write(self, record: Json) -> None:
        if "message_id" in record:
            name = (record["user_id"], record["message_id"])
            if name in self.ids:
                self.repeats.append(len(self.lines))
            self.ids.add(name)
        self.lines.append(json.dumps(record, ensure_ascii=self.maker.chance(30)).encode())

    def add(self) -> None:
        self.now += self.maker.pick(
            (30, lambda: 0),
            (4, lambda: self.rng.choice([1, -1, SECOND])),
            (50, lambda: duration_ms(self.maker.short())),
            (6, lambda: duration_ms(self.rng.choice(self.maker.longs))),
            (12, self.to_clock),
            (2, lambda: DAY),
        )
        self.maker.pick(
            (78, self.event),
            (6, self.identify),
            (8, self.repeat),
            (7, self.broken),
            (1, lambda: self.lines.append(self.rng.choice([b"", b"  ", b"\t"]))),
            (12 if self.maker.on & {"audience", "runs"} else 0, self.membership),
            (4 if "runs" in self.maker.on else 0, self.completion),
            (25 if "receipts" in self.maker.on else 0, self.receipt),
        )

    def to_clock(self) -> int:
        """How long it is to a time of day that the flows may name."""
        clock = time_of_day(self.rng.choice(self.maker.clocks))
        assert clock is not None
        return next_clock(clock, ZoneInfo(self.maker.zone), None, at_or_after_ms=self.now) - self.now

    def written_time(self, ms: int) -> Any:
        iso = to_iso(ms)
        forms = [iso, iso, iso, ms, ms + 0.7, iso[:-1] + "+00:00", iso[:-1] + "456Z", iso.replace("T", " ")]
        if ms % MINUTE == 0:
            forms += [iso[:16], iso[:16] + "-0000"]
        return self.rng.choice(forms)

    def timed(self, record: Json) -> Json:
        """Give the record its times: mostly now; else late, early, two, or none."""
        late = self.rng.choice([MINUTE, 5 * MINUTE, 10 * MINUTE, HOUR, DAY])
        self.maker.pick(
            (72, lambda: record.update(timestamp=self.written_time(self.now))),
            (8, lambda: record.update(timestamp=self.written_time(self.now - late))),
            (
                10,
                lambda: record.update(
                    timestamp=self.written_time(self.now - late), received_at=self.written_time(self.now)
                ),
            ),
            (
                3,
                lambda: record.update(
                    timestamp=self.written_time(self.now + late), received_at=self.written_time(self.now)
                ),
            ),
            (3, lambda: record.update(received_at=self.written_time(self.now), timestamp=None)),
            (4, lambda: None),
        )
        return record

    def event(self) -> None:
        record: Json = {"user_id": self.rng.choice(self.maker.users), "event": self.maker.event_name()}
        if self.maker.chance(3):
            record["event"] = "nobody asks for this"
        if self.maker.chance(65):
            record["message_id"] = f"m-{len(self.lines)}"
        record["properties"] = self.maker.properties(self.now)
        if self.maker.chance(8):
            record["traits"] = self.maker.traits()
        if self.maker.chance(10):
            record |= self.rng.choice([{"context": {"app": "ios"}}, {"type": "track"}, {"traits": None}, {"x": [1]}])
        self.send(self.timed(record))

    def identify(self) -> None:
        record: Json = {"type": "identify", "user_id": self.rng.choice(self.maker.users)}
        if self.maker.chance(30):
            record["message_id"] = f"m-{len(self.lines)}"
        record["traits"] = self.maker.traits()
        self.send(self.timed(record))

    def membership(self, user: str | None = None) -> None:
        record: Json = {
            "audience": self.rng.choice(AUDIENCES),
            "user_id": user or self.rng.choice(self.maker.users),
            "member": self.maker.chance(80),
        }
        if self.maker.chance(80):
            record["row"] = self.maker.properties(self.now)
        if self.maker.chance(30):
            record["message_id"] = f"m-{len(self.lines)}"
        self.send(self.timed(record))

    def completion(self) -> None:
        record: Json = {"audience": self.rng.choice(AUDIENCES), "updated": True}
        if self.maker.chance(20):  # T7: "a user in it is ignored".
            record["user_id"] = self.rng.choice([self.maker.users[0], 5, ""])
        self.write(self.timed(record))

    def receipt(self) -> None:
        """Of an action that has been sent, mostly; else of one that may still be, of another's, or of none."""
        lines, result = self.seen
        if lines != len(self.lines) or result is None:
            case = Case(self.flows, self.lines, self.now + 2 * DAY, self.config)
            result = case.run()
            self.seen = (len(self.lines), result)
        sent = [action for action in result.actions if (parse_iso(action["at"]) or 0) <= self.now]
        later = result.actions[len(sent) :]
        if not result.actions:
            return self.event()
        action = self.rng.choice(sent[-3:] if sent and self.maker.chance(85) else later or sent)
        record: Json = {
            "action_id": action["action_id"],
            "user_id": action["user_id"],
            "status": self.rng.choice(STATUSES[:4] if self.maker.chance(80) else [*STATUSES, "suppressed", "other"]),
        }
        if self.maker.chance(5):
            record["user_id"] = self.rng.choice(self.maker.users)
        if self.maker.chance(3):
            record["action_id"] = "0" * 32
        if self.maker.chance(40):
            record["code"] = self.rng.choice(["x", "y", ""])
            record["detail"] = self.rng.choice(["no credit", ""])
        if self.maker.chance(50):
            record["message_id"] = f"{record['action_id']}/{record['status']}"
        if self.maker.chance(4):  # R1: "whose journey closed more than 30 days ago".
            over = [r for r in result.journal if r["journey_id"] == action["journey_id"]]
            over = [r for r in over if r["kind"] in ("ended", "exited", "failed")]
            if over:
                closed = parse_iso(over[-1]["at"]) or 0
                self.now = max(self.now, closed + RECEIPT_MS + self.rng.choice([0, 1]))
        return self.send(self.timed(record))

    def send(self, record: Json) -> None:
        if "message_id" in record:
            self.again.append((self.now, record))
        self.write(record)

    def repeat(self) -> None:
        """The same record once more: soon, or around the 24 h after which it is a new one."""
        if not self.again:
            return self.event()
        then, record = self.rng.choice(self.again[-6:])
        record = dict(record)
        if self.maker.chance(50):
            ahead = self.rng.choice([0, 0, MINUTE, DAY - 1, DAY]) if self.maker.chance(50) else 0
            self.now = max(self.now, then + ahead)
            record["received_at"] = to_iso(self.now)
        return self.write(record)

    def broken(self) -> None:
        user = self.rng.choice(self.maker.users)
        good: Json = {"user_id": user, "event": self.maker.names[0], "timestamp": to_iso(self.now + DAY)}
        changes: list[Json] = [
            {"user_id": None},
            {"user_id": ""},
            {"user_id": 5},
            {"user_id": "x" * 257},
            {"event": ""},
            {"event": None, "properties": 5},
            {"event": ["view"]},
            {"event": "e" * 129},
            {"properties": []},
            {"traits": "gold"},
            {"message_id": 5},
            {"action_id": 5, "status": "sent"},
            {"audience": "vip", "member": "yes"},
            {"timestamp": "yesterday"},
            {"timestamp": True},
            {"timestamp": "1763884800000"},
            {"timestamp": -1},
            {"timestamp": 1e18},
            {"received_at": "2026-02-30"},
            {"received_at": "2026-03-01T24:00:00Z"},
            {"type": "identify", "traits": []},
        ]
        text = json.dumps(good)
        deep = json.dumps(good | {"properties": "?"}).replace('"?"', '{"a":' * 63 + "1" + "}" * 63)
        deeper = json.dumps(good | {"properties": "?"}).replace('"?"', '{"a":' * 64 + "1" + "}" * 64)
        texts = [
            text[:-1],
            text + "x",
            "nonsense",
            "[1, 2]",
            '"text"',
            "17",
            "null",
            text.replace(":", ": NaN, ", 1),
            json.dumps(good | {"properties": {"a": "?"}}).replace('"?"', "NaN"),
            json.dumps(good | {"properties": {"a": "?"}}).replace('"?"', "-Infinity"),
            json.dumps(good | {"properties": {"a": "?"}}).replace('"?"', '"\\ud83d"'),
            deeper,
            "[" * 65 + "]" * 65,
        ]
        made: bytes = self.maker.pick(
            (60, lambda: json.dumps(good | self.rng.choice(changes)).encode()),
            (30, lambda: self.rng.choice(texts).encode()),
            (4, lambda: text.replace(user, "?").encode("utf-8") + b"\xff"),
            (4, lambda: deep.replace(to_iso(self.now + DAY), to_iso(self.now)).encode()),  # A good one.
            (1, lambda: b'{"a": "' + b"x" * 1_048_576 + b'"}'),
        )
        self.lines.append(made)


def is_never_loud(*rules: Json) -> bool:
    """Whether the quiet hours of these rules together cover a day, or may where clocks change."""
    minutes: set[int] = set()
    for rule in rules:
        if "from" in rule:
            first, last = (int(rule[name][:2]) * 60 + int(rule[name][3:5]) for name in ("from", "until"))
            minutes |= {minute % 1440 for minute in range(first, last if last > first else last + 1440)}
    return len(minutes) > 1440 - 180


def take_apart_with_targets(maker: Maker, flow: Json) -> Flow | None:
    """Give every `goto` and `result_of` a target among the flow's steps; None when one has nowhere to go."""
    taken_apart = take_apart(flow)
    steps = taken_apart.steps
    for step in jumps_in(flow["steps"]):
        own = next(one for one in steps.values() if one.written is step)
        choices = [one.id for one in steps.values() if one.id != own.id and one.border == own.border]  # S18
        if not choices:
            return None
        step["goto"] = maker.rng.choice(sorted(choices))
    before: list[tuple[Any, Arms]] = []
    for one, arms in in_written_order(flow["steps"]):
        own = next(found for found in steps.values() if found.written is one or one == "end")
        if "send" in one:
            before.append((own.id, arms))
        elif "result_of" in one:
            earlier = [name for name, others in before if may_be_asked(others, arms)]
            if not earlier:
                return None
            one["result_of"] = earlier[-1] if maker.chance(70) else maker.rng.choice(earlier)
    return take_apart(flow)


Arms = list[tuple[int, str]]  # The steps around a step, by identity, each with the arm.


def in_written_order(steps: list[Any], around: Arms | None = None) -> Iterator[tuple[Any, Arms]]:
    around = around or []
    for step in steps:
        yield step, around
        for arm, nested in nested_lists(step):
            yield from in_written_order(nested, [*around, (id(step), arm)])


def nested_lists(step: Any) -> list[tuple[str, list[Any]]]:
    if not isinstance(step, dict):
        return []
    found = [(str(n), arm["else"] if "else" in arm else arm["steps"]) for n, arm in enumerate(step.get("branch", []))]
    found += [(str(n), arm) for n, arm in enumerate(step.get("parallel", []))]
    found += [(str(n), arm["steps"]) for n, arm in enumerate(step.get("times", []))]
    return found + list(step.get("then", {}).items())


def may_be_asked(send: Arms, result: Arms) -> bool:
    """S23: "written before the `result_of`, and not in another arm of the same step"."""
    return not any(step == other and arm != way for step, arm in send for other, way in result)


def jumps_in(value: Any) -> list[Json]:
    if isinstance(value, list):
        return [jump for one in value for jump in jumps_in(one)]
    if isinstance(value, dict):
        return [value] if "goto" in value else [jump for one in value.values() for jump in jumps_in(one)]
    return []


def ways(step: Step, *, events: bool = True, time: bool = True) -> list[str | None]:
    """The steps that may come next, perhaps only those that neither an event nor time has to lead to.

    None: the flow or the arm is over. Those of a fork are the beginnings of its arms.
    """
    if step.kind == "end":
        return []
    if step.kind == "goto":
        return [step.written["goto"]]
    if step.kind == "branch":
        return [*step.first_of.values(), *([] if "else" in step.first_of else [step.after])]
    if step.kind == "wait_for":
        labels = list(step.written["wait_for"]) if events else []
        return [step.first_of.get(label, step.after) for label in [*labels, *(["timeout"] if time else [])]]
    if step.kind == "result_of":
        return [step.first_of.get(label, step.after) for label in [*step.written["then"], "other"]]
    if step.kind in ("split", "experiment"):
        arms = step.written["split"] if step.kind == "split" else step.written["experiment"]["arms"]
        return [step.first_of.get(arm, step.after) for arm in arms]
    if step.kind == "parallel":
        return list(step.first_of.values())
    if step.kind == "times":
        arms = [str(n) for n, arm in enumerate(step.written["times"]) if time or time_of_day(arm["at"]) is None]
        return [step.first_of[arm] for arm in arms]
    if step.kind == "wait":
        form = step.written["wait"] if isinstance(step.written["wait"], dict) else {}
        until = form.get("until", "")
        surely = not until or len(until) <= len("09:00")  # A moment, or a date from the data, may be past.
        surely = surely or (form.get("yearly", False) and form["if_missing"] == "end")
        return [step.after] if time or not surely else []
    return [step.after]


def arm_can_finish(flow: Flow, fork: Step, arm: str) -> bool:
    """Whether a way leads from the beginning of an arm to its end."""
    reached: set[str] = set()
    ahead = [fork.first_of[arm]]
    while ahead:
        step_id = ahead.pop()
        if step_id is None:
            return True
        if step_id not in reached:
            reached.add(step_id)
            ahead += after_fork(flow, flow.steps[step_id]) or []
    return False


def after_fork(flow: Flow, step: Step) -> list[str | None] | None:
    """As `ways` for what stands on the same level as *step*: a fork leads to what comes after it, or nowhere."""
    if step.kind not in ("parallel", "times"):
        return ways(step)
    return [step.after] if all(arm_can_finish(flow, step, arm) for arm in step.first_of) else []


def next_steps(flow: Flow, step: Step, *, events: bool = True, time: bool = True, to_be_sure: bool = True) -> list[str]:
    """The steps that may come next; at the end of an arm, what comes after its fork.

    Args:
        to_be_sure: the latter only where every arm of the fork can finish.
    """
    found = []
    for first in ways(step, events=events, time=time):
        way, around = first, fork_of(flow, step)
        if way is None and step.kind in ("parallel", "times"):
            around = step  # An arm without steps.
        while way is None and around is not None:
            if to_be_sure and not after_fork(flow, around):
                break
            way, around = around.after, fork_of(flow, around)
        if way is not None:
            found.append(way)
    return found


def fork_of(flow: Flow, step: Step) -> Step | None:
    return flow.steps[flow.id_of[step.border[-1][0]]] if step.border else None


def reached_from(flow: Flow, first: str | None) -> set[str]:
    reached: set[str] = set()
    ahead = [first] if first else []
    while ahead:
        step_id = ahead.pop()
        if step_id not in reached:
            reached.add(step_id)
            ahead += next_steps(flow, flow.steps[step_id])
    return reached


def is_sound(flow: Flow, *, loops_on_time: bool) -> bool:
    """Whether `nudge check` takes the steps: all in reach, no loop without a wait (S19).

    Without *loops_on_time* every loop needs an event to go round, so that few journeys go round 1000 times.
    """
    if reached_from(flow, flow.first) != set(flow.steps) or loops(flow, events=False, time=False):
        return False
    for step in flow.steps.values():  # An earlier send that never leads there is no earlier send.
        if step.kind == "result_of" and step.id not in reached_from(flow, step.written["result_of"]):
            return False
    return loops_on_time or not loops(flow, events=False, time=True)


def loops(flow: Flow, *, events: bool, time: bool) -> bool:
    left = set(flow.steps)
    while True:
        leaves = {
            one
            for one in left
            if not left & set(next_steps(flow, flow.steps[one], events=events, time=time, to_be_sure=False))
        }
        if not leaves:
            return bool(left)
        left -= leaves


def build(rng: Random, features: Collection[str] = IN_PRODUCT) -> Case:
    """One case from a source of randomness, with some of *features* in it."""
    maker = Maker(rng, features)
    config = maker.config()
    flows = maker.flows()
    stream = Stream(maker, flows, config)
    for _ in range(rng.randint(15, 70)):
        stream.add()
    if maker.chance(3):
        stream.lines[0] = b"\xef\xbb\xbf" + stream.lines[0]
    later = maker.short() if maker.has_endless_runs else maker.duration()
    ends = [-HOUR, 0, duration_ms(maker.short()), duration_ms(later), 3 * DAY]
    until_ms = stream.now + rng.choice(ends) if maker.chance(25) or maker.has_endless_runs else None
    case = Case(flows, stream.lines, until_ms, config)
    while blank_doubtful_lines(case, stream):
        pass
    return case


def blank_doubtful_lines(case: Case, stream: Stream) -> bool:
    """Put blank lines in the place of what the specification leaves open; say whether there was any."""
    result = case.run()
    doubtful: set[int] = set()
    if result != case.run(forgetful=True):
        doubtful |= set(stream.repeats)  # T16 does not say which of these repeats is dropped.
    # records.md: "promises about ids are per 24 h": a receipt of an id that was made twice may mean either.
    times = Counter(action["action_id"] for action in result.actions)
    for number, line in enumerate(case.lines):
        if any(count > 1 and action_id.encode() in line for action_id, count in times.items()):
            doubtful.add(number)
    doubtful = {number for number in doubtful if case.lines[number]}
    for number in doubtful:
        case.lines[number] = b""
    return bool(doubtful)


def random_full_case(seed: int, features: Collection[str] = IN_PRODUCT) -> Case:
    """The case of a seed. One that takes a naive implementation too long is drawn again."""
    rng = Random(seed)
    while True:
        with suppress(TooManyRuns):
            return build(rng, features)


def random_case(seed: int, features: Collection[str] = IN_PRODUCT) -> tuple[list[Json], list[bytes]]:
    """Flows and lines of an events file, without the rest."""
    case = random_full_case(seed, features)
    return case.flows, case.lines


def cases(features: Collection[str] = IN_PRODUCT) -> st.SearchStrategy[Case]:
    """The same for hypothesis, which shrinks what it draws."""

    def one(rng: Random) -> Case:
        try:
            return build(rng, features)
        except TooManyRuns:
            reject()

    return st.randoms(use_true_random=False).map(one)


def statistics(seeds: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in range(seeds):
        case = random_full_case(seed, FEATURES)
        result = case.run()
        counts["cases"] += 1
        counts["cases with an action"] += bool(result.actions)
        counts["lines"] += len(case.lines)
        counts["actions"] += len(result.actions)
        for record in result.journal:
            counts[f"journal {record['kind']}"] += 1
            step = kinds_of_steps(case).get((record["flow"], record["version"], record.get("step")))
            if record["kind"] in ("waiting", "moved", "converted"):
                counts[f"journal {record['kind']} at {step}"] += 1
            if record["kind"] in ("refused", "suppressed", "failed", "ended", "receipt"):
                counts[f"journal {record['kind']}: {record.get('reason')}"] += 1
        for letter in result.dead_letters:
            counts[f"dead letter: {letter['reason']}"] += 1
    return counts


def kinds_of_steps(case: Case) -> dict[tuple[Any, Any, Any], str]:
    taken_apart = [take_apart(flow) for flow in case.flows]
    return {(flow.name, flow.version, step.id): step.kind for flow in taken_apart for step in flow.steps.values()}


if __name__ == "__main__":
    for name, count in sorted(statistics(int(sys.argv[1]) if len(sys.argv) > 1 else 200).items()):
        print(f"{count:8} {name}")
