"""Message rules: what no scenario shows of caps, quiet times, and the audiences that are exempt or suppressed."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any, Final

import pytest
import yaml

from operators.caps import Cap, against, counter_of
from operators.language.localtime import end_of_daily_span, local_date_and_time, moment_of_local, zone_of
from operators.language.values import DAY, HOUR, MINUTE, duration_text, parse_duration
from operators.language.workspace import read_workspace, without_settings
from operators.machine.deployment import Deployment
from operators.machine.event import on_record
from operators.machine.invariants import UserInvariants
from operators.machine.outbox import Outbox
from operators.machine.wakeup import on_due
from operators.program.flows import FlowText, compile_texts
from operators.quiet import QuietTimes, quiet_of
from state.iso import format_ms, parse_time_value
from state.records import Input
from state.user import NEVER, User, dump_user, load_user
from tests.jobs import REPO

NINE: Final = 1_795_424_400_000  # 2026-11-23T09:00:00Z, a Monday.
SEND: Final = "flow: f\ntrigger: {event: a}\nentry: {concurrent: 9}\nsteps: [{send: webhook, template: t}]\n"


class Run:
    """One user under flows and message rules, in virtual time."""

    def __init__(self, rules: Any, *flows: str, user: User | None = None) -> None:
        self.user = User() if user is None else user
        self.out = Outbox()
        self.deploy(rules, *flows)

    def deploy(self, rules: Any, *flows: str) -> None:
        workspace, problems = read_workspace("nudge.yaml", json.dumps(rules).encode())
        texts = [FlowText(f"{number}.yaml", flow) for number, flow in enumerate(flows or (SEND,))]
        checked = compile_texts(texts, workspace)
        assert [one for one in (*problems, *checked.problems) if one.severity == "error"] == []
        self.deployment = Deployment(checked.programs)

    def feed(self, name: str, at: int) -> None:
        self.advance(at)
        hits = self.deployment.index.match(name, {})
        record = Input("u", at, name, f"{name}-{at}", True, at, {}, None, hits, 0, 0)
        on_record(self.deployment, self.user, record, self.out)

    def advance(self, to: int) -> None:
        while (due := self.deployment.due_of(self.user)) <= to:
            on_due(self.deployment, "u", self.user, due, self.out)

    def told(self, *kinds: str) -> list[tuple[str, str, Any]]:
        return [(one.at[11:16], one.kind, one.reason) for one in self.out.journal if not kinds or one.kind in kinds]

    @property
    def sent(self) -> list[str]:
        return [action.at for action in self.out.actions]


# ---- audiences -----------------------------------------------------------------------------------------------------


def test_the_members_of_an_exempt_audience_are_free_of_caps_and_quiet_times_and_what_they_get_counts() -> None:
    rules = {
        "exempt": {"audience": ["testers", "staff"]},
        "quiet": {"from": "08:00", "until": "10:00"},
        "caps": [{"at_most": 1, "per": "1d"}],
        "consent": {"marketing": "profile.ok"},
    }
    run = Run(rules, user=User(profile={"ok": True}, audiences={"staff": {}}))
    run.feed("a", NINE)
    run.feed("a", NINE + MINUTE)
    assert len(run.sent) == 2
    del run.user.profile["ok"]
    run.feed("a", NINE + 2 * MINUTE)
    run.user.profile["ok"] = True
    del run.user.audiences["staff"]
    run.feed("a", NINE + 2 * HOUR)
    assert run.told("suppressed") == [("09:02", "suppressed", "no_consent"), ("11:00", "suppressed", "cap")]


@pytest.mark.parametrize("category", ["marketing", "notification"])
def test_the_members_of_a_suppressed_audience_get_nothing_of_any_category(category: str) -> None:
    rules = {"suppress": {"audience": "no-contact"}, "exempt": {"audience": "no-contact"}}
    flow = SEND.replace("template: t", f"template: t, category: {category}")
    run = Run(rules, flow, user=User(audiences={"no-contact": {}}))
    run.feed("a", NINE)
    assert run.told("suppressed") == [("09:00", "suppressed", "suppressed")]
    assert run.out.journal[1].detail == {"channel": "webhook", "audience": "no-contact"}
    run.user.audiences.clear()
    run.feed("a", NINE + 1)
    assert len(run.sent) == 1


def test_to_be_suppressed_comes_before_everything_else() -> None:
    rules = {
        "suppress": {"audience": ["x", "y"]},
        "consent": {"marketing": "profile.ok"},
        "quiet": {"from": "08:00", "until": "10:00"},
    }
    run = Run(rules, SEND.replace("webhook", "sms"), user=User(audiences={"y": {}}))
    run.feed("a", NINE)
    run.user.audiences.clear()
    run.feed("a", NINE + 1)
    assert [reason for _, _, reason in run.told("suppressed")] == ["suppressed", "no_consent"]


def test_cap_left_holds_for_an_exempt_user() -> None:
    flow = "flow: f\ntrigger: {event: a}\nsteps: [{branch: [{when: {cap_left: sms}, label: left, steps: []}]}]\n"
    rules = {"exempt": {"audience": "staff"}, "caps": [{"at_most": 1, "per": "1d"}]}
    run = Run(rules, flow, user=User(sends={"": [NINE]}))
    run.feed("a", NINE)
    run.user.audiences["staff"] = {}
    run.feed("a", NINE + 1)
    assert [reason for _, _, reason in run.told("moved")] == ["none", "left"]


# ---- what is kept --------------------------------------------------------------------------------------------------


def test_without_caps_nothing_is_kept_of_what_was_sent() -> None:
    run = Run(
        {"quiet": {"from": "22:00", "until": "08:00"}, "channels": {"sms": {"caps": [{"at_most": 1, "per": "1d"}]}}}
    )
    run.feed("a", NINE)
    assert len(run.sent) == 1
    assert run.user.sends == {}


def test_as_many_times_are_kept_as_the_largest_at_most_of_what_they_count_for() -> None:
    rules = {
        "channels": {"webhook": {"caps": [{"at_most": 1, "per": "1s"}, {"at_most": 3, "per": "1d"}]}},
        "caps": [{"at_most": 5, "per": "1h"}],
        "exempt": {"audience": "staff"},
    }
    run = Run(rules, user=User(audiences={"staff": {}}))
    for number in range(9):
        run.feed("a", NINE + number * MINUTE)
    assert run.user.sends == {
        "webhook": [NINE + n * MINUTE for n in (6, 7, 8)],
        "": [NINE + n * MINUTE for n in range(4, 9)],
    }
    assert load_user(dump_user(run.user)) == run.user


def test_what_was_sent_is_forgotten_when_no_cap_can_ask_for_it_any_more() -> None:
    run = Run({"channels": {"webhook": {"caps": [{"at_most": 2, "per": "30d"}]}}})
    run.feed("a", NINE)
    run.feed("a", NINE + 10 * DAY)
    run.advance(NINE + 39 * DAY)
    assert run.user.sends == {"webhook": [NINE, NINE + 10 * DAY]}
    run.advance(NINE + 43 * DAY)
    assert run.user.sends == {}
    assert run.deployment.due_of(run.user) == NEVER


def test_a_message_at_the_end_of_a_long_wait_is_forgotten_in_time_too() -> None:
    flow = "flow: f\ntrigger: {event: a}\nsteps: [{wait: 200d}, {send: webhook, template: t}]\n"
    run = Run({"caps": [{"at_most": 2, "per": "2d"}]}, flow)
    run.feed("a", NINE)
    run.advance(NINE + 201 * DAY)
    assert run.user.sends == {"": [NINE + 200 * DAY]}
    run.advance(NINE + 210 * DAY)
    assert run.user.sends == {}


def test_caps_that_are_gone_leave_nothing_behind() -> None:
    run = Run({"channels": {"webhook": {"caps": [{"at_most": 1, "per": "1d"}]}}, "caps": [{"at_most": 1, "per": "9d"}]})
    run.feed("a", NINE)
    run.deploy({"caps": [{"at_most": 1, "per": "9d"}]})
    run.advance(NINE + 9 * DAY - 9 * HOUR)
    run.feed("b", NINE + 8 * DAY)
    assert len(run.sent) == 1
    run.deploy({})
    run.advance(NINE + 40 * DAY)
    assert run.user.sends == {}


def test_changed_caps_count_with_what_is_known() -> None:
    run = Run({"caps": [{"at_most": 3, "per": "1d"}]})
    for number in range(3):
        run.feed("a", NINE + number)
    run.deploy({"caps": [{"at_most": 1, "per": "1h"}]})
    run.feed("a", NINE + HOUR + 1)  # The second and the third one count.
    run.feed("a", NINE + HOUR + 2)
    assert len(run.sent) == 4
    run.deploy({"caps": [{"at_most": 2, "per": "30d"}]})
    run.feed("a", NINE + 2 * DAY)
    run.feed("a", NINE + 2 * DAY + 1)
    assert len(run.sent) == 5


def test_a_message_that_is_postponed_when_the_rules_change_asks_the_new_ones_at_the_old_time() -> None:
    run = Run({"quiet": {"from": "08:00", "until": "10:00"}})
    run.feed("a", NINE)
    run.feed("a", NINE + MINUTE)
    run.deploy({"caps": [{"at_most": 1, "per": "1d"}]})
    run.advance(NINE + 2 * HOUR)
    assert run.told("sent", "suppressed") == [
        ("10:00", "sent", run.out.journal[0].reason),
        ("10:00", "suppressed", "cap"),
    ]


def test_rules_are_a_part_of_what_a_state_keeps_and_settings_are_not() -> None:
    text = 'caps: [{at_most: 1, per: 1d}]  # one\nquiet: {from: "22:00", until: "08:00"}\nrun: {processes: 2}\n'
    text += "gateway: {keys: {web: {key: {env: KEY}}}}\n"
    kept = without_settings(text)
    assert json.loads(kept) == {"caps": [{"at_most": 1, "per": "1d"}], "quiet": {"from": "22:00", "until": "08:00"}}
    assert kept != without_settings(text.replace("at_most: 1", "at_most: 2"))
    assert kept == without_settings(text.replace("# one", "").replace("processes: 2", "processes: 3"))
    assert read_workspace("nudge.yaml", kept.encode())[0].caps == read_workspace("nudge.yaml", text.encode())[0].caps


# ---- a postponed message is looked after ----------------------------------------------------------------------------


def test_a_postponed_message_has_exactly_one_wake_up_and_the_audit_sees_when_it_is_lost() -> None:
    run = Run({"quiet": {"from": "08:00", "until": "10:00"}})
    run.feed("a", NINE)
    (branch,) = run.user.journeys[0].branches
    assert (branch.step, branch.wake_ms, branch.begun_ms, branch.memo) == ("steps.0", NINE + HOUR, NINE, None)
    audit = UserInvariants(run.deployment, NINE)
    assert audit.look_at(run.user, run.deployment.due_of(run.user)) == []
    branch.wake_ms = NEVER
    assert [one.code for one in audit.look_at(run.user, NEVER)] == ["wake-up-missing"]


def test_postponed_and_refused_messages_are_counted() -> None:
    run = Run({"quiet": {"from": "08:00", "until": "10:00"}, "caps": [{"at_most": 1, "per": "1d"}]})
    run.feed("a", NINE)
    run.feed("a", NINE + 1)
    run.advance(NINE + HOUR)
    (counts,) = run.out.totals.values()
    assert {kind: counts[kind] for kind in ("postponed:webhook", "sent:webhook", "suppressed:cap")} == {
        "postponed:webhook": 2, "sent:webhook": 1, "suppressed:cap": 1,
    }  # fmt: skip


# ---- by brute force ------------------------------------------------------------------------------------------------


def test_caps_allow_what_a_list_of_all_messages_allows() -> None:
    for seed in range(300):
        chance = Random(seed)
        caps = tuple(
            Cap(counts, chance.randint(1, 4), chance.choice([1, 5, 10, 60]) * MINUTE, f"{counts}.{number}")
            for number, counts in enumerate(chance.choices(["", "sms"], k=chance.randint(1, 4)))
        )
        count = counter_of(caps)
        assert count is not None
        user, sent, now = User(), list[int](), NINE
        for _ in range(40):
            now += chance.choice([0, 1, MINUTE, chance.randint(0, 20 * MINUTE)])
            in_windows = [sum(1 for at in sent if now - cap.per_ms < at <= now) for cap in caps]
            refusing = [cap for cap, number in zip(caps, in_windows, strict=True) if number >= cap.at_most]
            found = against(caps, user.sends, now)
            assert (found is None) == (not refusing), seed
            if found is None:
                sent.append(now)
                count(user, now)
                continue
            assert found["cap"] == refusing[0].place
            possible = parse_time_value(found["next_possible"])
            assert possible is not None
            assert against(caps, user.sends, possible) is None
            assert against(caps, user.sends, possible - 1) is not None


ZONES: Final = ("UTC", "Europe/Berlin", "Asia/Shanghai", "America/Sao_Paulo", "Australia/Lord_Howe", "Africa/Cairo")


def test_a_daily_span_holds_where_it_does_for_somebody_who_looks_at_every_date() -> None:
    """Around clock changes, and in Apia, which skipped a whole date."""
    for seed in range(400):
        chance = Random(seed)
        name = chance.choice([*ZONES, "Pacific/Apia"])
        zone = zone_of(name)
        assert zone is not None
        around = {"America/Sao_Paulo": 1_509_000_000_000, "Pacific/Apia": 1_325_200_000_000}.get(
            name, 1_806_200_000_000
        )
        now = around + chance.randint(-4 * DAY, 4 * DAY) // MINUTE * MINUTE
        from_s, until_s = chance.sample(range(0, 86_400, 900), 2)
        today, _ = local_date_and_time(now, zone)
        spans = [
            (moment_of_local(zone, day, from_s), moment_of_local(zone, day + (until_s <= from_s), until_s))
            for day in range(today - 4, today + 5)
        ]
        ends = [end for begin, end in spans if begin <= now < end]
        found = end_of_daily_span(now, zone, from_s, until_s)
        assert found in ends if ends else found is None, seed


def test_a_quiet_time_ends_at_the_first_minute_at_which_no_rule_holds() -> None:
    for seed in range(60):
        chance = Random(seed)
        hours = [chance.sample(range(24), 2) for _ in range(2)]
        covered = {hour for begin, end in hours for hour in range(begin, end + 24 * (end < begin))}
        if {hour % 24 for hour in covered} == set(range(24)):
            continue
        begins = 1 + chance.randint(0, 3)
        holidays = [{"from": f"2027-03-{27 + begins - 1}", "until": f"2027-03-{min(31, 27 + begins)}"}]
        rules = {
            "channels": {"sms": {"quiet": {"from": f"{hours[0][0]:02}:00", "until": f"{hours[0][1]:02}:00"}}},
            "quiet": {"from": f"{hours[1][0]:02}:00", "until": f"{hours[1][1]:02}:00", "holidays": holidays},
        }
        workspace, problems = read_workspace("nudge.yaml", json.dumps(rules).encode())
        assert problems == []
        zone = zone_of(chance.choice(ZONES))
        assert zone is not None
        quiet = quiet_of(workspace, "sms")
        times = QuietTimes(quiet)
        now = 1_806_100_000_000 // MINUTE * MINUTE + chance.randint(0, 5 * 1440) * MINUTE
        found = times.at(now, zone)
        minute = now
        while any(rule.end_if_in(minute, zone) is not None for rule in quiet):
            minute += MINUTE
        assert (now if found is None else found.until_ms) == minute, seed
        for _ in range(200):  # What is known from before is what somebody finds who knows nothing.
            now += chance.choice([0, 1, MINUTE, HOUR - 1, HOUR, -chance.randint(0, 3 * HOUR)])
            assert times.at(now, zone) == QuietTimes(quiet).at(now, zone), seed


@pytest.mark.parametrize("text", ["1s", "59m", "1d", "1d12h", "30d", "1d1h1m1s"])
def test_a_duration_is_told_as_it_is_written(text: str) -> None:
    assert duration_text(parse_duration(text)) == text


# ---- the page ------------------------------------------------------------------------------------------------------

PAGE: Final = (REPO / "docs" / "message-rules.md").read_text()


def test_the_timeline_of_the_page_is_what_happens() -> None:
    rules = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)[0])
    names = ("cart", "offer", "news", "survey")
    flows = [f"flow: {one}\ntrigger: {{event: {one}}}\nsteps: [{{send: sms, template: {one}}}]\n" for one in names]
    run = Run(rules, *flows, user=User(profile={"phone": "1", "marketing_consent": True}))
    run.feed("cart", NINE)
    run.feed("offer", NINE + 14 * HOUR)
    run.feed("news", NINE + 23 * HOUR + 30 * MINUTE)
    run.feed("survey", NINE + 24 * HOUR)
    assert [(one.flow, one.at[8:16]) for one in run.out.actions] == [
        ("cart", "23T09:00"), ("offer", "24T08:00"), ("survey", "24T09:00"),
    ]  # fmt: skip
    shown = re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S)[0]
    examples = [json.loads("{" + one) for one in re.split(r"^\{", shown, flags=re.M)[1:]]
    held_back = [one for one in run.out.journal if one.kind in ("postponed", "suppressed")]
    assert examples == [
        {"at": one.at, "kind": one.kind, "step": one.step, "reason": one.reason, "detail": one.detail}
        for one in held_back
    ]


def test_the_picture_of_the_page_has_the_same_moments() -> None:
    picture = re.findall(r"^```mermaid\n(.*?)^```$", PAGE, re.M | re.S)[0]
    assert re.findall(r"(sent|refused)[^:]*:.*milestone, (\S+ \S+),", picture) == [
        ("sent", "2026-11-23 09:00"),
        ("sent", "2026-11-24 08:00"),
        ("refused", "2026-11-24 08:30"),
        ("sent", "2026-11-24 09:00"),
    ]
    assert format_ms(NINE) == "2026-11-23T09:00:00.000Z"
