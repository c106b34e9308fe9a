"""The oracle against cases worked out by hand: branches, message rules, audiences, receipts, experiments, runs."""

import hashlib
import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.oracle.engine import simulate
from tests.oracle.rules import quiet_until
from tests.oracle.schedules import cron_times
from tests.oracle.test_oracle import DAY, SEND, Json, ev, flow, kinds, sent, stamp, told
from tests.oracle.values import parse_iso, parse_time, to_iso, unit


def send(template: str, channel: str = "webhook", **more: Any) -> Json:
    return {"send": channel, "template": template, **more}


def member(at: str, audience: str = "vip", user: str = "u", *, member: bool = True, **row: Any) -> bytes:
    record: Json = {"audience": audience, "user_id": user, "member": member, "timestamp": stamp(at)}
    return json.dumps(record | ({"row": row} if row else {})).encode()


def receipt(at: str, status: str, began_with: str, step: str = "s", user: str = "u", **more: Any) -> bytes:
    """Of the first visit of *step* in the journey of flow f that the event *began_with* began."""
    journey_id = hashlib.blake2b(f"f\x1f{user}\x1f\x1f{began_with}".encode(), digest_size=16).hexdigest()
    action_id = hashlib.blake2b(f"{journey_id}\x1f{step}\x1f1".encode(), digest_size=16).hexdigest()
    record = {"action_id": action_id, "user_id": user, "status": status, "timestamp": stamp(at)} | more
    return json.dumps(record).encode()


def only(result: Any, kind: str) -> list[str]:
    return [line for line in told(result) if line.split()[1] == kind]


# -- branches


def users_of_arms(shares: dict[str, float], step: str) -> dict[str, str]:
    """A user for each arm, by the formula of the specification."""
    found: dict[str, str] = {}
    for number in range(2000):
        user, low = f"user-{number}", 0.0
        for arm, width in shares.items():
            if low <= unit("f", step, user) < low + width:
                found.setdefault(arm, user)
            low += width
    return found


def test_a_split_takes_the_arm_of_the_users_hash_each_time() -> None:
    users = users_of_arms({"b": 0.2, "a": 0.8}, "s")
    steps = [{"id": "s", "split": {"b": "20%", "a": "80%"}, "then": {"a": [send("in-a")]}}, send("after")]
    for arm, user in users.items():
        result = simulate([flow(*steps)], [ev("08:00", user=user), ev("08:01", user=user)])
        assert only(result, "moved") == [f"08:00 moved s {arm}", f"08:01 moved s {arm}"]
        assert sent(result, "template") == (["in-a", "after"] * 2 if arm == "a" else ["after"] * 2)


def test_an_arm_of_no_share_gets_nobody() -> None:
    step = {"id": "s", "split": {"a": "0%", "b": "100%"}, "then": {}}
    lines = [ev("08:00", user=f"{n}") for n in range(50)]
    assert {line.split()[-1] for line in only(simulate([flow(step)], lines), "moved")} == {"b"}


def test_branches_start_in_written_order_and_rejoin_when_all_have_finished() -> None:
    arms = [[send("a1"), {"wait": "10m"}, send("a2")], [send("b1")], [], [{"wait": "5m"}, send("d")]]
    result = simulate([flow({"parallel": arms}, send("after"))], [ev("08:00")])
    assert sent(result, "at", "template") == [
        ("08:00", "a1"),
        ("08:00", "b1"),
        ("08:05", "d"),
        ("08:10", "a2"),
        ("08:10", "after"),
    ]
    assert only(result, "waiting") == [
        "08:00 waiting steps.0.parallel.0.1 until 08:10",
        "08:00 waiting steps.0.parallel.3.0 until 08:05",
    ]
    assert only(result, "moved") == []


def test_branches_that_all_finish_at_once_go_on_at_once() -> None:
    assert sent(simulate([flow({"parallel": [[], []]}, send("after"))], [ev("08:00")]), "template") == ["after"]


def test_an_end_in_a_branch_keeps_the_later_ones_from_starting() -> None:
    arms: list[Any] = [[{"wait": "1h"}], [{"end": "stop"}], [send("never")]]
    assert told(simulate([flow({"parallel": arms}, send("after"))], [ev("08:00")])) == [
        "08:00 entered",
        "08:00 waiting steps.0.parallel.0.0 until 09:00",
        "08:00 ended stop",
    ]


def test_an_event_moves_each_branch_once_in_written_order_unless_one_ends_the_journey() -> None:
    def arm(name: str, *after: Any) -> list[Any]:
        return [{"id": name, "wait_for": {"x": {"event": "x"}}, "timeout": "1h"}, *after]

    again = {"id": "a2", "wait_for": {"x": {"event": "x"}}, "timeout": "1h"}
    steps = {"parallel": [arm("a", again), arm("b", {"end": None}), arm("c")]}
    assert told(simulate([flow(steps)], [ev("08:00"), ev("08:01", "x")]))[4:] == [
        "08:01 moved a x",
        "08:01 waiting a2 until 09:01",
        "08:01 moved b x",
        "08:01 ended",
    ]


def test_event_in_a_where_is_not_the_one_being_judged_in_a_later_branch_either() -> None:
    first = [{"wait_for": {"x": {"event": "x"}}, "timeout": "1h"}]
    second = [{"id": "b", "wait_for": {"y": {"event": "x", "where": {"n": "{{ event.n }}"}}}, "timeout": "1h"}]
    result = simulate([flow({"parallel": [first, second]})], [ev("08:00", n=1), ev("08:01", "x", n=2)])
    assert "09:00 moved b timeout" in told(result)


def test_branches_due_at_once_go_in_written_order_whoever_waits_longer() -> None:
    arms = [[{"wait": "30m"}, {"wait": "30m"}, send("a")], [{"wait": "1h"}, send("b")]]
    assert sent(simulate([flow({"parallel": arms})], [ev("08:00")]), "template") == ["a", "b"]


def test_nested_forks_rejoin_level_by_level() -> None:
    inner = {"parallel": [[{"wait": "1m"}], [{"wait": "3m"}]]}
    arms = [[inner, send("inner")], [{"wait": "2m"}, send("outer")]]
    result = simulate([flow({"parallel": arms}, send("after"))], [ev("08:00")])
    assert sent(result, "at", "template") == [("08:02", "outer"), ("08:03", "inner"), ("08:03", "after")]


def test_exit_ends_all_branches() -> None:
    arms = [[{"wait": "1h"}, send("a")], [{"wait": "2h"}, send("b")]]
    result = simulate([flow({"parallel": arms}, exit=[{"event": "x"}])], [ev("08:00"), ev("08:30", "x")])
    assert kinds(result) == ["entered", "waiting", "waiting", "exited"]


def test_a_journey_with_branches_ends_at_the_step_that_began_last() -> None:
    arms = [[{"id": "a", "wait": "1h"}], [{"id": "b", "wait": "30m"}, {"id": "c", "set": {"x": 1}}]]
    assert simulate([flow({"parallel": arms})], [ev("08:00")]).journal[-1]["step"] == "c"


def test_times_wait_for_their_own_times_and_past_moments_start_at_once() -> None:
    arms = [
        {"at": "09:00", "steps": [send("a")]},
        {"at": f"{DAY}T08:00:00Z", "steps": [send("b")]},
        {"at": "08:00", "steps": []},
        {"at": f"{DAY}T08:30", "steps": [send("d")]},
    ]
    result = simulate([flow({"id": "t", "times": arms}, send("after"))], [ev("08:00")])
    assert told(result) == [
        "08:00 entered",
        "08:00 waiting t until 09:00",
        "08:00 sent steps.0.times.1.steps.0",
        "08:00 waiting t until 2026-11-24T08:00",
        "08:00 waiting t until 08:30",
        "08:30 sent steps.0.times.3.steps.0",
        "09:00 sent steps.0.times.0.steps.0",
        "2026-11-24T08:00 sent steps.1",
        "2026-11-24T08:00 ended",
    ]


def test_moments_of_times_are_in_the_users_zone() -> None:
    arms = [{"at": f"{DAY}T12:00", "steps": [send("a")]}]
    assert sent(simulate([flow({"times": arms})], [ev("02:00", traits={"timezone": "Asia/Tokyo"})])) == ["03:00"]


def test_the_1001st_visit_in_a_branch_ends_the_journey() -> None:
    arms = [[{"id": "w", "wait": "1m"}, {"goto": "w"}], [{"wait": "300d"}]]
    result = simulate([flow({"parallel": arms})], [ev("08:00")])
    assert kinds(result)[-1] == "failed loop"
    assert kinds(result).count("waiting") == 1001


# -- message rules

CAP = {"at_most": 1, "per": "1h"}


def times_of(config: Json, ats: list[str], *steps: Any, more: list[bytes] | None = None) -> list[str]:
    lines = sorted([*(more or []), *(ev(at) for at in ats)], key=lambda line: str(json.loads(line)["timestamp"]))
    result = simulate([flow(*(steps or [SEND]))], lines, config=config)
    return [line for line in told(result) if line.split()[1] in ("sent", "suppressed", "postponed")]


def test_a_cap_counts_in_a_window_that_is_open_at_its_start() -> None:
    assert times_of({"caps": [CAP]}, ["08:00", "08:59:59.999", "09:00"]) == [
        "08:00 sent s",
        "08:59:59.999 suppressed s cap",
        "09:00 sent s",
    ]


def test_a_refused_send_is_not_counted() -> None:
    got = times_of({"caps": [CAP]}, ["08:00", "08:30", "09:00", "09:30", "10:00"])
    assert [line.split()[1] for line in got] == ["sent", "suppressed", "sent", "suppressed", "sent"]


def test_caps_of_a_channel_count_its_own_sends_and_the_overall_ones_all() -> None:
    steps = [send("a", to="+1"), send("b", "sms", to="+1"), send("c", "sms", to="+1")]
    assert times_of({"channels": {"sms": {"caps": [CAP]}}}, ["08:00"], *steps) == [
        "08:00 sent steps.0",
        "08:00 sent steps.1",
        "08:00 suppressed steps.2 cap",
    ]
    assert [one.split()[1] for one in times_of({"caps": [CAP]}, ["08:00"], *steps)] == ["sent"] + ["suppressed"] * 2


def test_notifications_are_free_and_not_counted() -> None:
    steps = [send("a", category="notification"), send("b"), send("c", category="notification"), send("d")]
    got = times_of({"caps": [CAP]}, ["08:00"], *steps)
    assert [line.split()[1] for line in got] == ["sent", "sent", "sent", "suppressed"]


def test_sends_to_exempt_users_are_free_and_counted() -> None:
    config = {"caps": [CAP], "exempt": {"audience": "staff"}}
    more = [member("07:00", "staff"), member("08:45", "staff", member=False)]
    got = times_of(config, ["08:00", "08:30", "08:50", "09:31"], more=more)
    assert [line.split()[1] for line in got] == ["sent", "sent", "suppressed", "sent"]


def test_suppression_and_consent_hold_for_exempt_users_and_each_category() -> None:
    config: Json = {"suppress": {"audience": ["blocked"]}, "exempt": {"audience": "staff"}}
    config["consent"] = {"marketing": "profile.ok"}
    steps = [send("a"), send("b", category="notification")]
    more = [member("07:00", "staff"), member("09:00", "blocked")]
    lines = [*more, ev("08:00"), ev("09:30"), ev("08:30", traits={"ok": "true"}), ev("08:40", traits={"ok": True})]
    lines.sort(key=lambda line: str(json.loads(line)["timestamp"]))
    result = simulate([flow(*steps)], lines, config=config)
    assert [line for line in told(result) if line.split()[1] in ("sent", "suppressed")] == [
        "08:00 suppressed steps.0 no_consent",
        "08:00 sent steps.1",
        "08:30 suppressed steps.0 no_consent",
        "08:30 sent steps.1",
        "08:40 sent steps.0",
        "08:40 sent steps.1",
        "09:30 suppressed steps.0 suppressed",
        "09:30 suppressed steps.1 suppressed",
    ]


def test_checks_come_in_their_order() -> None:
    config = {"suppress": {"audience": "x"}, "consent": {"marketing": "profile.ok"}, "caps": [CAP]}
    config["quiet"] = {"from": "08:00", "until": "09:00", "postpone": False}
    step = send("t", "sms", vars={"v": "{{ entry.v }}"}, id="s")
    lines = [
        member("07:00", "x"),
        ev("08:00"),
        member("08:01", "x", member=False),
        ev("08:02"),
        ev("08:03", traits={"ok": True}),
        ev("08:04", traits={"phone": "+1"}),
        ev("08:05", v=1),
        ev("09:00", v=1),
        ev("09:01", v=1),
    ]
    result = simulate([flow(step)], lines, config=config)
    assert [r.get("reason", r["kind"]) for r in result.journal if r["kind"] in ("suppressed", "sent")] == [
        "suppressed",
        "no_consent",
        "no_address",
        "missing_variable",
        "quiet",
        "sent",
        "cap",
    ]


QUIET = {"from": "22:00", "until": "08:00"}


def test_quiet_hours_postpone_to_their_end_without_waiting_and_with_new_variables() -> None:
    step = {"id": "s", **send("t", vars={"n": "{{ now }}"})}
    result = simulate([flow(step)], [ev("22:00")], config={"quiet": QUIET})
    assert told(result) == [
        "22:00 entered",
        "22:00 postponed s quiet",
        "2026-11-24T08:00 sent s",
        "2026-11-24T08:00 ended",
    ]
    assert result.actions[0]["vars"] == {"n": "2026-11-24T08:00:00.000Z"}
    assert result.actions[0]["visit"] == 1


def test_quiet_hours_are_in_the_users_zone_and_end_with_their_last_moment() -> None:
    lines = [ev("21:00", traits={"timezone": "Asia/Tokyo"}), ev("23:00")]
    result = simulate([flow(SEND)], lines, config={"quiet": QUIET})
    assert only(result, "sent") == ["23:00 sent s", "23:00 sent s"]


@pytest.mark.parametrize(
    ("own", "channel", "workspace", "expected"),
    [
        (None, {}, QUIET, "postponed"),
        (None, {}, {**QUIET, "postpone": False}, "suppressed"),
        (True, {}, {**QUIET, "postpone": False}, "postponed"),
        (False, {}, QUIET, "suppressed"),
        (None, {**QUIET, "postpone": False}, QUIET, "suppressed"),
        (None, {"from": "01:00", "until": "02:00", "postpone": False}, QUIET, "postponed"),
    ],
)
def test_a_send_is_dropped_by_its_own_word_or_by_any_rule_that_holds(
    own: bool | None, channel: Json, workspace: Json, expected: str
) -> None:
    step = SEND if own is None else {**SEND, "postpone": own}
    config = {"quiet": workspace, "channels": {"webhook": {"quiet": channel}} if channel else {}}
    assert kinds(simulate([flow(step)], [ev("22:30")], config=config))[1] == f"{expected} quiet"


def test_quiet_times_in_a_row_are_one_postponement_and_the_last_holiday_counts() -> None:
    config = {
        "quiet": {**QUIET, "holidays": [{"name": "h", "from": "2026-11-24", "until": "2026-11-25"}]},
        "channels": {"webhook": {"quiet": {"from": "07:00", "until": "09:30"}}},
    }
    assert times_of(config, ["23:00"]) == ["23:00 postponed s quiet", "2026-11-26T09:30 sent s"]


def test_a_postponed_send_can_expire_and_the_journey_can_exit() -> None:
    config = {"quiet": QUIET}
    step = {**SEND, "expires": "10h"}
    assert times_of(config, ["22:00"], step) == ["22:00 postponed s quiet", "2026-11-24T08:00 sent s"]
    got = simulate([flow(step)], [ev("22:00")], config=config).actions[0]
    assert got["expires_at"] == "2026-11-24T08:00:00.000Z"
    step = {**SEND, "expires": "599m"}
    assert times_of(config, ["22:00"], step) == ["22:00 postponed s quiet", "2026-11-24T08:00 suppressed s expired"]
    flows = [flow(SEND, exit=[{"event": "x"}])]
    assert kinds(simulate(flows, [ev("22:00"), ev("23:00", "x")], config=config))[1:] == ["postponed quiet", "exited"]


def test_a_postponed_send_is_counted_when_it_is_sent_and_checked_again() -> None:
    config = {"quiet": QUIET, "caps": [CAP]}
    lines = [ev("22:00"), ev("23:00")]
    result = simulate([flow(SEND, entry={"concurrent": 2})], lines, config=config)
    assert [line for line in told(result) if line.split()[1] in ("sent", "suppressed", "postponed")] == [
        "22:00 postponed s quiet",
        "23:00 postponed s quiet",
        "2026-11-24T08:00 sent s",
        "2026-11-24T08:00 suppressed s cap",
    ]


def test_if_missing_ends_for_address_and_variables_only() -> None:
    step = {**send("t", "sms"), "if_missing": "end"}
    assert kinds(simulate([flow(step, SEND)], [ev("08:00")]))[1:] == ["suppressed no_address", "ended no_address"]
    config = {"consent": {"marketing": "profile.ok"}}
    assert kinds(simulate([flow(step)], [ev("08:00")], config=config))[1:] == ["suppressed no_consent", "ended"]


@pytest.mark.parametrize(
    ("zone", "rule", "at", "until"),
    [
        ("Europe/Berlin", {"from": "02:15", "until": "02:45"}, "2026-03-29T01:00:00Z", "2026-03-29T01:00:00.000Z"),
        ("Europe/Berlin", {"from": "01:30", "until": "02:30"}, "2026-03-29T00:45:00Z", "2026-03-29T01:00:00.000Z"),
        ("Europe/Berlin", {"from": "01:30", "until": "02:30"}, "2026-10-25T00:00:00Z", "2026-10-25T00:30:00.000Z"),
        ("Europe/Berlin", {"from": "02:30", "until": "02:10"}, "2026-10-25T00:40:00Z", "2026-10-26T01:10:00.000Z"),
        ("Pacific/Apia", {"from": "22:00", "until": "08:00"}, "2011-12-30T09:00:00Z", "2011-12-30T18:00:00.000Z"),
    ],
)
def test_quiet_hours_over_changes_of_clocks(zone: str, rule: Json, at: str, until: str) -> None:
    assert to_iso(quiet_until([rule], ZoneInfo(zone), parse_iso(at) or 0)) == until


def test_cap_left_asks_the_caps_only() -> None:
    config = {"channels": {"sms": {"caps": [CAP]}}, "quiet": {"from": "00:00", "until": "23:00"}}
    config["exempt"] = {"audience": "staff"}
    steps = [{"branch": [{"when": {"cap_left": "sms"}, "steps": [send("t", "sms", to="+1", postpone=True)]}]}]
    lines = [ev("23:10"), ev("23:20"), member("23:25", "staff"), ev("23:30")]
    got = only(simulate([flow(*steps)], lines, config=config), "moved")
    assert [line.split()[-1] for line in got] == ["0", "none", "0"]


# -- audiences


def test_membership_is_asked_by_name_and_a_step_changes_it() -> None:
    steps: list[Any] = [
        {"branch": [{"when": {"audience": ["x", "vip"]}, "label": "in", "steps": []}]},
        {"audience": {"add": ["x", "y"], "remove": ["y", "vip"]}},
        {"branch": [{"when": {"audience": "vip"}, "steps": []}, {"when": {"audience": ["y"]}, "steps": []}]},
        {"branch": [{"when": {"audience": "x"}, "steps": []}]},
    ]
    result = simulate([flow(*steps)], [member("07:00"), ev("08:00"), member("08:01", member=False), ev("08:02")])
    assert [r["reason"] for r in result.journal if r["kind"] == "moved"] == ["in", "none", "0", "in", "none", "0"]
    assert kinds(result).count("audience") == 2


def test_membership_takes_part_in_message_ids() -> None:
    line = json.loads(member("07:00")) | {"message_id": "m"}
    event = ev("08:00", message_id="m")
    assert kinds(simulate([flow()], [json.dumps(line).encode(), event])) == []


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"audience": "vip", "member": "yes", "user_id": "u"}, "bad_type"),
        ({"audience": 5, "member": True, "user_id": "u"}, "bad_type"),
        ({"audience": "vip", "member": True}, "no_user"),
        ({"audience": "vip", "member": True, "user_id": "u", "row": []}, "bad_type"),
        ({"audience": "vip", "updated": True}, None),
        ({"audience": "vip", "updated": True, "user_id": 5}, None),
        ({"audience": "vip", "updated": 1}, "no_user"),
        ({"audience": "vip", "member": None, "user_id": "u"}, "no_event"),
        ({"action_id": "a", "status": "s", "audience": 5, "member": True, "user_id": "u"}, None),
        ({"action_id": 5, "status": "s", "user_id": "u"}, "bad_type"),
    ],
)
def test_kinds_of_records(record: Json, reason: str | None) -> None:
    letters = simulate([], [json.dumps(record).encode()]).dead_letters
    assert [letter["reason"] for letter in letters] == ([reason] if reason else [])


# -- receipts


def test_a_receipt_is_journaled_before_what_it_causes_and_is_an_event() -> None:
    flows = [flow(SEND), flow(send("t", vars={"c": "{{ entry.code }}", "v": "{{ entry.visit }}"}), flow="g")]
    flows[1]["trigger"] = {"event": "$webhook_failed", "where": {"step": "s", "code": "x", "cause.event": "go"}}
    lines = [ev("08:00", message_id="m"), receipt("08:01", "failed", "m", code="x", message_id="r")]
    result = simulate(flows, lines)
    assert told(result)[3:] == ["08:01 receipt s failed", "08:01 entered", "08:01 sent steps.0", "08:01 ended"]
    assert result.journal[3]["flow"] == "f"
    assert result.journal[3]["journey_id"] == result.actions[0]["journey_id"]
    assert result.actions[1]["vars"] == {"c": "x", "v": 1}
    assert result.actions[1]["cause"] == {"message_id": "r", "event": "$webhook_failed"}


def test_receipts_of_unknown_actions_of_other_users_and_after_30_days_are_dropped() -> None:
    lines = [
        ev("08:00", message_id="m"),
        json.dumps({**json.loads(receipt("08:01", "opened", "m")), "user_id": "v"}).encode(),
        receipt("08:02", "opened", "unheard-of"),
        receipt("2026-12-23T08:00:00Z", "opened", "m"),
        receipt("2026-12-23T08:00:00.001Z", "clicked", "m"),
    ]
    assert only(simulate([flow(SEND)], lines), "receipt") == ["2026-12-23T08:00 receipt s opened"]


RESULT = {"id": "r", "result_of": "s", "within": "1h", "then": {"failed": [send("f")], "delivered": []}}


def test_result_of_leaves_at_the_first_listed_receipt_of_its_action() -> None:
    lines = [ev("08:00", message_id="m"), receipt("08:01", "accepted", "m"), receipt("08:02", "failed", "m")]
    result = simulate([flow(SEND, RESULT)], [*lines, receipt("08:03", "delivered", "m")])
    assert told(result)[2:] == [
        "08:00 waiting r until 09:00",
        "08:01 receipt s accepted",
        "08:02 receipt s failed",
        "08:02 moved r failed",
        "08:02 sent steps.1.then.failed.0",
        "08:02 ended",
        "08:03 receipt s delivered",
    ]
    assert result.actions[1]["cause"]["event"] == "$webhook_failed"


def test_result_of_ends_through_other_before_a_receipt_at_its_end() -> None:
    lines = [ev("08:00", message_id="m"), receipt("09:00", "failed", "m")]
    assert told(simulate([flow(SEND, RESULT)], lines))[3:5] == ["09:00 moved r other", "09:00 ended"]


def test_result_of_leaves_at_once_by_the_first_receipt_that_has_come() -> None:
    lines = [ev("08:00", message_id="m"), receipt("08:01", "accepted", "m"), receipt("08:02", "delivered", "m")]
    result = simulate([flow(SEND, {"wait": "10m"}, RESULT, send("z"))], [*lines, receipt("08:03", "failed", "m")])
    assert told(result)[-3:] == ["08:10 moved r delivered", "08:10 sent steps.3", "08:10 ended"]
    assert result.actions[-1]["cause"]["event"] == "go"


def test_a_suppressed_send_counts_as_suppressed_where_that_is_listed() -> None:
    listed = {**RESULT, "then": {"suppressed": [send("x")]}}
    first = send("t", "sms", id="s")
    assert kinds(simulate([flow(first, listed)], [ev("08:00")]))[2:] == ["moved suppressed", "sent", "ended"]
    assert kinds(simulate([flow(first, RESULT)], [ev("08:00")]))[2:] == ["waiting", "moved other", "ended"]


def test_a_send_that_has_not_run_gives_other_at_the_end() -> None:
    maybe = {"branch": [{"when": {"entry.n": 1}, "steps": [SEND]}]}
    assert told(simulate([flow(maybe, RESULT)], [ev("08:00")]))[-2:] == ["09:00 moved r other", "09:00 ended"]


def test_a_receipt_that_satisfies_a_wait_for_is_seen_by_the_result_of_behind_it() -> None:
    ask = {"id": "w", "wait_for": {"x": {"event": "$webhook_delivered"}}, "timeout": "1h"}
    lines = [ev("08:00", message_id="m"), receipt("08:01", "delivered", "m")]
    assert told(simulate([flow(SEND, ask, RESULT)], lines))[4:] == [
        "08:01 moved w x",
        "08:01 moved r delivered",
        "08:01 ended",
    ]


def test_journeys_with_a_key_do_not_see_receipts() -> None:
    ask = {"wait_for": {"x": {"event": "$webhook_opened"}}, "timeout": "1h"}
    keyed = flow(SEND, ask, entry={"key": "channel"}, exit=[{"event": "$webhook_opened"}])
    lines = [ev("08:00", message_id="m", channel="webhook")]
    action_id = simulate([keyed], lines).actions[0]["action_id"]
    opened = {"action_id": action_id, "user_id": "u", "status": "opened", "timestamp": stamp("08:01")}
    triggered = flow(flow="g", trigger={"event": "$webhook_opened"}, entry={"key": "channel"})
    result = simulate([keyed, triggered], [*lines, json.dumps(opened).encode()])
    assert kinds(result)[3:] == ["receipt opened", "refused no_key", "moved timeout", "ended"]


# -- experiments


def experiment(**more: Any) -> Json:
    made = {"arms": {"a": "50%", "b": "50%"}, "goal": {"event": "buy", "within": "1h"}, "stop_after": 2}
    return {"id": "x", "experiment": {**made, "winner": "best"} | more, "then": {}}


def users_of(arm: str, count: int) -> list[str]:
    half = [f"user-{n:03}" for n in range(200) if (unit("f", "x", f"user-{n:03}") < 0.5) is (arm == "a")]
    return half[:count]


def test_an_experiment_goes_by_the_split_until_n_users_are_in_then_to_the_winner() -> None:
    a, b, late = users_of("a", 1)[0], users_of("b", 1)[0], users_of("a", 2)[1]
    lines = [ev("08:00", user=a), ev("08:01", user=b), ev("08:02", "buy", user=b), ev("08:03", user=a)]
    lines += [ev("08:04", user=late), ev("08:05", user=a)]
    assert [line.split()[0:4:3] for line in only(simulate([flow(experiment())], lines), "moved")] == [
        ["08:00", "a"],
        ["08:01", "b"],
        ["08:03", "b"],  # All are in: the next one is who comes next, also one of them.
        ["08:04", "b"],
        ["08:05", "b"],
    ]


def test_ties_and_no_conversions_go_to_the_first_arm_and_a_named_winner_wins_always() -> None:
    users = [*users_of("b", 3)]
    lines = [ev(f"08:0{n}", user=user) for n, user in enumerate(users)]
    assert [line.split()[-1] for line in only(simulate([flow(experiment())], lines), "moved")] == ["b", "b", "a"]
    got = simulate([flow(experiment(winner="b"))], [ev(f"08:0{n}", user=u) for n, u in enumerate(users_of("a", 3))])
    assert [line.split()[-1] for line in only(got, "moved")] == ["a", "a", "b"]


def test_the_rate_counts_not_the_number() -> None:
    a, b = users_of("a", 3), users_of("b", 2)
    lines = [ev("08:00", user=user) for user in sorted([*a, b[0]])]
    lines += [ev("08:10", "buy", user=user) for user in sorted([*a[:2], b[0]])] + [ev("08:20", user=b[1])]
    got = simulate([flow(experiment(stop_after=4))], lines)  # 2 of 3 against 1 of 1.
    assert only(got, "moved")[-1] == "08:20 moved x b"


def test_conversions_count_once_after_the_passage_and_before_their_time_is_over() -> None:
    user = users_of("a", 1)[0]
    flows = [flow(experiment(), trigger={"event": "buy"})]
    at = ["08:00", "08:59:59.999", "08:59:59.999"]
    result = simulate(flows, [ev(one, "buy", user=user) for one in at])
    assert only(result, "converted") == ["08:59:59.999 converted x a"]
    flows = [flow(experiment())]
    assert only(simulate(flows, [ev("08:00", user=user), ev("09:00", "buy", user=user)]), "converted") == []


def test_goals_of_journeys_with_a_key_are_scoped_by_it() -> None:
    user = users_of("a", 1)[0]
    lines = [ev("08:00", user=user, o=1), ev("08:01", "buy", user=user, o=2), ev("08:02", "buy", user=user, o=1.0)]
    assert only(simulate([flow(experiment(), entry={"key": "o"})], lines), "converted") == ["08:02 converted x a"]


# -- audience runs


def on_audience(*steps: Any, schedule: Json, audiences: tuple[str, ...] = ("vip",), **more: Any) -> Json:
    trigger = {"audience": list(audiences), "schedule": schedule}
    trigger |= {name: more.pop(name) for name in ("skip_unchanged",) if name in more}
    return flow(*(steps or [SEND]), trigger=trigger, **more)


def test_a_run_now_is_a_millisecond_after_the_first_record() -> None:
    lines = [member("08:00"), member("08:00", user="v", city="x"), member("08:01", user="w")]
    result = simulate([on_audience(send("t", vars={"c": "{{ entry.city }}"}), schedule={"now": True})], lines)
    assert [r["kind"] for r in result.journal if r["user_id"] == "w"] == []
    assert told(result, user="u")[1] == "08:00:00.001 suppressed steps.0 missing_variable"
    action = result.actions[0]
    assert action["cause"] == {"message_id": f"vip@{DAY}T08:00:00.001Z", "event": None}
    fields = f"f\x1fv\x1f\x1fvip@{DAY}T08:00:00.001Z"
    assert action["journey_id"] == hashlib.blake2b(fields.encode(), digest_size=16).hexdigest()
    assert action["vars"] == {"c": "x"}


def test_the_first_listed_audience_gives_row_and_key() -> None:
    lines = [member("08:00", "b", o="1"), member("08:00", "a", o=2.0)]
    flows = [on_audience(schedule={"now": True}, audiences=("a", "b"), entry={"key": "o"})]
    result = simulate(flows, lines)
    fields = f"f\x1fu\x1f2\x1fa@{DAY}T08:00:00.001Z"
    assert result.actions[0]["journey_id"] == hashlib.blake2b(fields.encode(), digest_size=16).hexdigest()


def test_planned_times_before_the_beginning_are_not_run_and_one_at_it_is() -> None:
    lines = [ev("07:00", "x", user="u"), member("07:30"), ev("10:00", "x")]

    def runs(schedule: Json, until: str) -> list[str]:
        result = simulate([on_audience(schedule=schedule)], lines, until_ms=parse_time(stamp(until)))
        return [line.split()[0] for line in only(result, "entered")]

    assert runs({"at": f"{DAY}T06:59:59Z"}, "12:00") == []
    assert runs({"at": f"{DAY}T08:00"}, "12:00") == ["08:00"]
    assert runs({"every": "1h", "from": f"{DAY}T00:00Z"}, "11:30") == ["08:00", "09:00", "10:00", "11:00"]
    assert runs({"every": "1h", "from": f"{DAY}T06:00Z", "runs": 2}, "11:30") == ["08:00"]  # Nobody was in at 07:00.


def test_members_at_a_run_are_those_after_the_wake_ups_and_before_the_records_of_its_instant() -> None:
    other = flow({"wait": "1h"}, {"audience": {"add": ["vip"]}}, flow="g")
    lines = [ev("07:00", "x"), ev("07:00", user="a"), member("08:00", user="b"), member("07:30", user="c")]
    lines.insert(2, lines.pop(3))
    lines.append(member("08:00", user="c", member=False))
    result = simulate([other, on_audience(schedule={"at": f"{DAY}T08:00"})], lines)
    assert sent(result, "user_id") == ["a", "c"]


def test_unchanged_audiences_are_skipped_and_skipped_runs_do_not_count() -> None:
    schedule = {"every": "1h", "from": f"{DAY}T08:00Z", "runs": 3}
    flows = [on_audience(schedule=schedule, audiences=("vip", "x"), skip_unchanged=True)]
    updated = json.dumps({"audience": "x", "updated": True, "timestamp": stamp("10:30")}).encode()
    lines = [
        member("07:00"),  # The first run is at 08:00 whatever has been updated.
        member("08:00"),  # At the instant of the last run: counts for the next.
        updated,
        member("13:15", "x"),
        ev("13:30", "nothing"),
        member("13:59:59.999"),
    ]
    result = simulate(flows, lines)
    assert [line.split()[0] for line in only(result, "entered")] == ["08:00", "11:00", "14:00"]


def test_runs_of_paused_flows_and_outside_the_active_time_refuse_each_member() -> None:
    schedule = {"every": "1h", "from": f"{DAY}T08:00Z", "runs": 2}
    lines = [member("07:00"), member("07:00", user="v")]
    assert kinds(simulate([on_audience(schedule=schedule, state="paused")], lines)) == ["refused paused"] * 4
    active = {"from": f"{DAY}T08:30Z"}
    got = simulate([on_audience(schedule=schedule, active=active)], lines)
    assert kinds(got) == ["refused inactive"] * 2 + ["entered", "sent", "ended"] * 2


def test_in_one_instant_limits_go_by_user_and_runs_come_before_records() -> None:
    runs = on_audience(schedule={"at": f"{DAY}T08:00"}, flow="g", entry={"limit": 2})
    lines = [member("07:00", user="b"), member("07:00", user="c"), ev("08:00", user="a")]
    lines.insert(0, member("07:00", user="a"))
    result = simulate([runs, flow(SEND, entry={"limit": 1})], lines)
    assert [(r["user_id"], r["kind"]) for r in result.journal if r["flow"] == "g" and r["kind"] != "sent"] == [
        ("a", "entered"),
        ("a", "ended"),
        ("b", "entered"),
        ("b", "ended"),
        ("c", "refused"),
    ]


@pytest.mark.parametrize(
    ("cron", "zone", "beginning", "expected"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", ["03-29T01:00", "03-30T00:30"]),
        ("*/30 2 29 3 *", "Europe/Berlin", "2026-03-28T12:00Z", ["03-29T01:00"]),
        ("30 2,3 29 3 *", "Europe/Berlin", "2026-03-28T12:00Z", ["03-29T01:00", "03-29T01:30"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", ["10-25T00:30", "10-26T01:30"]),
        ("0 0 1 * mon", "UTC", "2026-11-28T00:00Z", ["11-30T00:00", "12-01T00:00", "12-07T00:00"]),
        ("0 0 * dec 7", "UTC", "2026-11-23T00:00Z", ["12-06T00:00", "12-13T00:00"]),
        ("0 0 * 12 SUN,fri-sat", "UTC", "2026-11-30T00:00Z", ["12-04T00:00", "12-05T00:00", "12-06T00:00"]),
        ("5/25 8-9/1 * * *", "UTC", "2026-11-23T08:06Z", ["11-23T08:30", "11-23T08:55", "11-23T09:05"]),
        ("0 12 29 2 *", "UTC", "2026-11-23T08:06Z", ["02-29T12:00"]),
        ("0 0 * * *", "Pacific/Apia", "2011-12-29T12:00Z", ["12-30T10:00", "12-31T10:00"]),
    ],
)
def test_cron_by_the_minute(cron: str, zone: str, beginning: str, expected: list[str]) -> None:
    start = parse_iso(beginning) or 0
    found = (at for at in cron_times(cron, ZoneInfo(zone), start) if at >= start)
    assert [to_iso(next(found))[5:16] for _ in expected] == expected
