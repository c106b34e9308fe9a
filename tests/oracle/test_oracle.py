"""The oracle against cases worked out by hand from the specification, rule by rule."""

import hashlib
import json
from typing import Any

import pytest

from tests.oracle.compare import difference
from tests.oracle.engine import Result, simulate
from tests.oracle.generate import Case, random_full_case, statistics
from tests.oracle.shrink import shrink
from tests.oracle.values import duration_ms, next_clock, parse_time, time_of_day, to_iso
from tests.oracle.values import zone_of as zone_of_profile

Json = dict[str, Any]
DAY = "2026-11-23"  # A Monday.
SEND = {"send": "webhook", "template": "t", "id": "s"}


def flow(*steps: Any, **top: Any) -> Json:
    return {"flow": "f", "trigger": {"event": "go"}, "steps": list(steps) or [{"end": None}]} | top


def stamp(text: str) -> str:
    """`08:00` and `08:00:30` are on DAY; longer texts stand for themselves."""
    return f"{DAY}T{text}Z" if len(text) <= 12 else text


def ev(at: str | None, event: str = "go", user: str = "u", **more: Any) -> bytes:
    record: Json = {"user_id": user, "event": event}
    if at is not None:
        record["timestamp"] = stamp(at)
    fields = {name: more.pop(name) for name in ("message_id", "received_at", "traits") if name in more}
    if "received_at" in fields:
        fields["received_at"] = stamp(fields["received_at"])
    return json.dumps(record | fields | {"properties": more}).encode()


def identify(at: str, user: str = "u", **traits: Any) -> bytes:
    record = {"type": "identify", "user_id": user, "timestamp": stamp(at), "traits": traits}
    return json.dumps(record).encode()


def short(at: str) -> str:
    """`2026-11-23T08:00:00.000Z` as `08:00`, and as much more as is not zero or another day."""
    text = at.removeprefix(f"{DAY}T").removesuffix("Z").removesuffix(".000")
    return text.removesuffix(":00") if text.count(":") == 2 else text


def told(result: Result, *, user: str | None = None) -> list[str]:
    """The journal in short: time, kind, step, reason."""
    return [
        " ".join(
            [short(r["at"]), r["kind"]]
            + ([r["step"]] if "step" in r and r["kind"] not in ("ended", "failed") else [])
            + ([r["reason"]] if "reason" in r else [])
            + ([f"until {short(r['detail']['until'])}"] if r["kind"] == "waiting" else [])
        )
        for r in result.journal
        if user is None or r["user_id"] == user
    ]


def sent(result: Result, *fields: str) -> list[Any]:
    fields = fields or ("at",)
    rows = [[short(a[name]) if name == "at" else a[name] for name in fields] for a in result.actions]
    return [row[0] if len(fields) == 1 else tuple(row) for row in rows]


def kinds(result: Result) -> list[str]:
    return [" ".join([r["kind"], *([r["reason"]] if "reason" in r else [])]) for r in result.journal]


# -- X, C: order of the output, ids, files


def test_output_is_in_order_of_time_then_user_by_code_points() -> None:
    lines = [ev("08:00", user="\U0001f600"), ev("08:00", user="\uff5e"), ev("08:00", user="a")]
    result = simulate([flow(SEND)], lines)
    assert sent(result, "user_id") == ["a", "\uff5e", "\U0001f600"]


def test_ids_are_digests_of_what_happened() -> None:
    result = simulate([flow(SEND)], [ev("08:00", message_id="m")])
    journey_id = hashlib.blake2b(b"f\x1fu\x1f\x1fm", digest_size=16).hexdigest()
    action_id = hashlib.blake2b(f"{journey_id}\x1fs\x1f1".encode(), digest_size=16).hexdigest()
    assert result.actions == [
        {
            "action_id": action_id,
            "channel": "webhook",
            "user_id": "u",
            "to": None,
            "flow": "f",
            "version": 1,
            "journey_id": journey_id,
            "step": "s",
            "visit": 1,
            "template": "t",
            "vars": {},
            "category": "marketing",
            "at": f"{DAY}T08:00:00.000Z",
            "expires_at": None,
            "seq": 2,
            "cause": {"message_id": "m", "event": "go"},
        }
    ]


def test_journal_records_have_only_the_fields_that_apply() -> None:
    result = simulate([flow()], [ev("08:00", message_id="m")])
    entered, ended = result.journal
    assert entered.keys() == {"at", "user_id", "seq", "flow", "version", "journey_id", "kind", "cause"}
    assert (entered["seq"], ended["seq"]) == (1, 2)


@pytest.mark.parametrize(
    ("steps", "step", "reason"),
    [
        ([{"end": "cold"}], "steps.0", "cold"),
        ([{"send": "webhook", "template": "t"}, {"set": {"x": 1}}], "steps.1", None),
        ([{"branch": [{"when": {"entry.x": 1}, "steps": []}]}], "steps.0", None),
        ([{"id": "b", "branch": [{"else": [{"set": {"x": 1}}]}]}], "steps.0.branch.0.else.0", None),
        ([{"id": "w", "wait_for": {"x": {"event": "x"}}, "timeout": "1h"}], "w", None),
        ([{"goto": "g"}, {"id": "g", "wait": "1h"}], "g", None),
        ([{"send": "sms", "template": "t", "if_missing": "end"}, {"end": None}], "steps.0", "no_address"),
        ([{"wait": {"until": "{{ entry.x }}", "if_missing": "end"}}, {"end": None}], "steps.0", "missing"),
    ],
)
def test_a_journey_ends_at_the_step_that_ended_it_or_that_began_last(steps: Any, step: str, reason: str | None) -> None:
    ended = simulate([flow(*steps)], [ev("08:00")]).journal[-1]
    assert (ended["kind"], ended["step"], ended.get("reason")) == ("ended", step, reason)


def test_seq_counts_per_user_over_all_flows() -> None:
    flows = [flow(flow="a"), flow(flow="b")]
    result = simulate(flows, [ev("08:00", user="u"), ev("08:01", user="v")])
    assert [(r["user_id"], r["seq"]) for r in result.journal] == [
        *[("u", n) for n in (1, 2, 3, 4)],
        *[("v", n) for n in (1, 2, 3, 4)],
    ]


def test_until_is_included_and_what_is_later_stays_inside() -> None:
    lines = [ev("08:00")]
    until = parse_time(f"{DAY}T09:00Z")
    assert kinds(simulate([flow({"wait": "1h"})], lines, until_ms=until)) == ["entered", "waiting", "ended"]
    assert kinds(simulate([flow({"wait": "61m"})], lines, until_ms=until)) == ["entered", "waiting"]


def test_records_after_until_are_still_read() -> None:
    result = simulate([flow({"wait": "1h"})], [ev("08:00"), ev("10:00", "x")], until_ms=0)
    assert told(result)[-1] == "09:00 ended"


def test_without_until_the_400th_day_is_included() -> None:
    long = {"wait": "366d"}
    assert kinds(simulate([flow(long, {"wait": "34d"})], [ev("08:00")]))[-1] == "ended"
    assert kinds(simulate([flow(long, {"wait": "34d1s"})], [ev("08:00")]))[-1] == "waiting"


def test_an_empty_file_does_nothing() -> None:
    assert simulate([flow()], []) == Result([], [], [])


# -- T: time and records


def test_stream_time_never_goes_back() -> None:
    result = simulate([flow(SEND, entry={"concurrent": 2})], [ev("08:30", "x"), ev("08:00")])
    assert sent(result) == ["08:30"]


def test_received_at_is_the_stream_time_of_a_file_record() -> None:
    assert sent(simulate([flow(SEND)], [ev("08:00", received_at="09:00")])) == ["09:00"]


def test_a_record_without_time_has_that_of_the_one_before() -> None:
    assert sent(simulate([flow(SEND)], [ev("08:00", "x"), ev(None)])) == ["08:00"]


def test_at_the_head_it_has_that_of_the_first_with_a_time() -> None:
    assert sent(simulate([flow(SEND)], [ev(None), ev("08:00", "x")])) == ["08:00"]


def test_a_file_without_times_begins_in_1970() -> None:
    assert sent(simulate([flow(SEND)], [ev(None)])) == ["1970-01-01T00:00"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-11-23", "2026-11-23T00:00:00.000Z"),
        ("2026-11-23T08:00", "2026-11-23T08:00:00.000Z"),
        ("2026-11-23 08:00:01.98765Z", "2026-11-23T08:00:01.987Z"),
        ("2026-11-23T08:00+0530", "2026-11-23T02:30:00.000Z"),
        ("2026-11-23T08:00:00.1-05:00", "2026-11-23T13:00:00.100Z"),
        ("2026-11-23 08:00 +0000", "2026-11-23T08:00:00.000Z"),
        ("2026-11-23T08:00:00 GMT", "2026-11-23T08:00:00.000Z"),
        (100_000_000_001.9, "1973-03-03T09:46:40.001Z"),
        (100_000_000_000, "1973-03-03T09:46:40.000Z"),
        (99_999_999_999, None),  # Surely seconds.
        ("2026-11-23T08", None),
        ("2026-11-23T24:00", None),
        ("2026-02-29", None),
        ("2026-11-23Z", None),
        ("1795420800000", None),
        (True, None),
        (-1, None),
        ("1970-01-01T00:00+01:00", None),
        (253_402_300_800_000, None),
        ("2026-11-23T08:00:00,5Z", None),
        ("２０２６-11-23", None),
    ],
)
def test_times_are_those_of_t2(given: Any, expected: str | None) -> None:
    ms = parse_time(given)
    assert (None if ms is None else to_iso(ms)) == expected


def test_a_duplicate_within_24_h_is_dropped_and_at_24_h_is_new() -> None:
    flows = [flow(SEND)]
    lines = [ev("08:00", message_id="m"), ev("2026-11-24T07:59:59.999Z", message_id="m")]
    lines += [ev("2026-11-24T08:00:00Z", message_id="m")]  # The dropped one did not prolong it.
    assert sent(simulate(flows, lines)) == ["08:00", "2026-11-24T08:00"]


def test_a_duplicate_still_moves_time() -> None:
    again = ev("08:00", message_id="m", received_at="10:00")
    result = simulate([flow({"wait": "1h"}, SEND)], [ev("08:00", message_id="m"), again, ev(None, "x")])
    assert sent(result) == ["09:00"]
    assert sent(
        simulate([flow(SEND, trigger={"event": "x"})], [ev("08:00", message_id="m"), again, ev(None, "x")])
    ) == ["10:00"]


def test_message_ids_are_per_user_and_over_all_kinds_of_records() -> None:
    lines = [ev("08:00", message_id="m"), ev("08:00", user="v", message_id="m")]
    assert len(sent(simulate([flow(SEND)], lines))) == 2
    profile = b'{"type":"identify","user_id":"u","message_id":"m","timestamp":0,"traits":{"a":1}}'
    assert sent(simulate([flow(SEND)], [profile, ev("08:00", message_id="m")])) == ["08:00"]  # After 24 h.
    profile = profile.replace(b"0,", b'"2026-11-23T08:00Z",', 1)
    assert sent(simulate([flow(SEND)], [profile, ev("08:00", message_id="m")])) == []


def test_default_ids_are_no_duplicates_and_count_blank_lines() -> None:
    lines = [b"", ev("08:00"), b"nonsense", ev("08:00")]
    result = simulate([flow(SEND)], lines, name="clicks.jsonl")
    assert [cause["message_id"] for cause in sent(result, "cause")] == ["clicks.jsonl-2", "clicks.jsonl-4"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a":"' + b"x" * 1_048_576 + b'"}', "too_large"),
        (b"{", "not_json"),
        (b'{"user_id":"u","event":"e","x":NaN}', "not_json"),
        (b'{"user_id":"u","event":"e","x":"\\ud800"}', "not_json"),
        (b'{"user_id":"\xff","event":"e"}', "not_json"),
        (b"[" * 65 + b"]" * 65, "too_deep"),
        (b"[" * 64 + b"]" * 64, "not_an_object"),
        (b'{"event":5}', "no_user"),
        (b'{"user_id":"","event":5}', "no_user"),
        (b'{"user_id":17}', "bad_type"),
        (b'{"user_id":"' + b"u" * 257 + b'"}', "bad_type"),
        (b'{"user_id":"u","properties":5}', "no_event"),
        (b'{"user_id":"u","event":null,"timestamp":"x"}', "no_event"),
        (b'{"user_id":"u","event":"e","properties":[],"timestamp":"x"}', "bad_type"),
        (b'{"user_id":"u","event":"e","message_id":5}', "bad_type"),
        (b'{"user_id":"u","type":"identify","traits":"x"}', "bad_type"),
        (b'{"user_id":"u","event":"e","timestamp":"x"}', "bad_time"),
        (b'{"user_id":"u","event":"e","timestamp":0,"received_at":""}', "bad_time"),
    ],
)
def test_dead_letters_have_the_first_reason(line: bytes, reason: str) -> None:
    result = simulate([flow()], [b"", line], name="x.jsonl")
    (letter,) = result.dead_letters
    assert (letter["reason"], letter["offset"], letter["partition"], letter["topic"]) == (
        reason,
        2,
        0,
        "x.jsonl",
    )


def test_64_levels_and_256_characters_pass() -> None:
    user = "用" * 256
    line = ev("08:00", user=user, x="?").replace(b'"?"', b'{"a":' * 62 + b"1" + b"}" * 62)
    assert simulate([flow()], [line]).dead_letters == []


def test_a_dead_letter_does_not_move_time() -> None:
    late = b'{"user_id":"u","event":5,"timestamp":"2026-11-23T20:00Z"}'
    assert sent(simulate([flow(SEND)], [late, ev("08:00"), late, ev(None)])) == ["08:00", "08:00"]


def test_traits_merge_shallowly_and_null_removes() -> None:
    steps = flow({**SEND, "vars": {"a": "{{ profile.a }}", "b": "{{ profile.b }}"}})
    lines = [identify("07:00", a={"x": 1}, b=1), identify("07:30", a={"y": None})]
    assert sent(simulate([steps], [*lines, ev("08:00")]), "vars") == [{"a": {"y": None}, "b": 1}]
    assert kinds(simulate([steps], [*lines, ev("08:00", traits={"b": None})]))[1] == "suppressed missing_variable"


def test_the_last_of_duplicate_keys_wins() -> None:
    line = b'{"user_id":"v","user_id":"u","event":"go","timestamp":1795420800000}'
    assert sent(simulate([flow(SEND)], [line]), "user_id") == ["u"]


# -- W: conditions


@pytest.mark.parametrize(
    ("test", "holds", "fails"),
    [
        (5, [5, 5.0], ["5", True, None, [5]]),
        ({"eq": True}, [True], [1, "true"]),
        ({"ne": 5}, ["5", None, True, [5]], [5, 5.0]),
        ([1, "a"], [1.0, "a"], [True, "b", None]),
        ({"not_in": [1]}, [True, None, 2], [1.0]),
        ({"gt": 5}, [6, 5.1], [5, "6", True, None]),
        ({"lte": "b"}, ["a", "b", ""], ["c", 1]),
        ({"gte": 1, "lt": 3}, [1, 2.9], [3, 0]),
        ({"between": [1, 3]}, [1, 3], [0.9, 3.1, "2"]),
        ({"contains": "b"}, ["abc", ["b"]], ["ac", ["abc"], None, 5]),
        ({"contains": 1}, [[1.0]], [[True], "1", [[1]]]),
        ({"not_contains": "b"}, ["ac", None, 5], ["abc", ["b"]]),
        ({"starts_with": "a"}, ["ab"], ["ba", ["a"]]),
        ({"ends_with": "a"}, ["ba"], ["ab", None]),
        ({"matches": "^a.b"}, ["axbz"], ["a\nb", "Axb", 5]),
        ({"exists": True}, [0, False, "", []], [None]),
        (None, [None], [0, ""]),
        ({"before": f"{DAY}T08:00:00Z"}, [f"{DAY}T07:59", DAY], [f"{DAY}T08:00Z", 0, "soon"]),
        ({"after": f"{DAY}T08:00:00Z"}, [f"{DAY}T08:00:00.001Z"], [f"{DAY}T08:00", "9"]),
        ({"within_last": "1h"}, [f"{DAY}T08:00", f"{DAY}T07:00"], [f"{DAY}T06:59:59", f"{DAY}T08:00:01", 0]),
        ({"within_next": "1h"}, [f"{DAY}T08:00", f"{DAY}T09:00"], [f"{DAY}T07:59:59", f"{DAY}T09:00:01"]),
    ],
)
def test_a_where_holds_for_these_values_and_not_for_those(test: Any, holds: list[Any], fails: list[Any]) -> None:
    flows = [flow(trigger={"event": "go", "where": {"x": test}})]
    for value, expected in [*[(v, True) for v in holds], *[(v, False) for v in fails]]:
        lines = [ev("08:00", x=value)]
        assert bool(simulate(flows, lines).journal) is expected, value


def test_any_all_and_not_stand_beside_paths() -> None:
    where = {"properties.any": 1, "any": [{"a": 1}, {"b.c": 2}], "not": {"d": 1, "e": 2}}
    flows = [flow(trigger={"event": "go", "where": where})]
    assert simulate(flows, [ev("08:00", any=1, b={"c": 2}, d=1)]).journal
    assert not simulate(flows, [ev("08:00", any=1, b={"c": 2}, d=1, e=2)]).journal
    assert not simulate(flows, [ev("08:00", any=1, b=[{"c": 2}])]).journal
    assert not simulate(flows, [ev("08:00", a=1)]).journal


def test_a_missing_template_fails_the_test_and_its_negation_but_not_around_it() -> None:
    def exits(where: Json, **entry: Any) -> bool:
        flows = [flow({"wait": "1h"}, exit=[{"event": "x", "where": where}])]
        return "exited" in kinds(simulate(flows, [ev("08:00", **entry), ev("08:10", "x", sku="A")]))

    assert not exits({"sku": {"ne": "{{ entry.sku }}"}})
    assert exits({"sku": {"ne": "{{ entry.sku }}"}}, sku="B")
    assert exits({"not": {"sku": "{{ entry.sku }}"}})
    assert not exits({"sku": ["A", "{{ entry.sku }}"]})
    assert exits({"sku": "{{ entry.sku }}"}, sku="A")
    assert exits({"n": {"ne": "{{ entry.n }}"}}, n=1)
    assert not exits({"sku": {"ne": "{{ entry.sku | default: '' }}"}})


def test_event_in_a_where_is_the_one_that_moved_the_journey_last() -> None:
    steps = [{"wait_for": {"a": {"event": "x"}}, "timeout": "1h"}, {"wait": "1h"}]
    flows = [flow(*steps, exit=[{"event": "y", "where": {"n": "{{ event.n }}"}}])]
    lines = [ev("08:00", n=1), ev("08:10", "x", n=2), ev("08:20", "y", n=1), ev("08:30", "y", n=2)]
    assert told(simulate(flows, lines))[-1] == "08:30 exited"


@pytest.mark.parametrize(
    ("test", "holds"),
    [
        ({"after": "09:00", "before": "18:00"}, True),
        ({"after": "09:00:01"}, False),
        ({"before": "09:00"}, False),
        ({"after": "18:00", "before": "09:00"}, False),
        ({"after": "18:00", "before": "09:00:01"}, True),
        ({"days": ["mon"]}, True),
        ({"days": ["sun"], "after": "09:00"}, False),
    ],
)
def test_local_time_includes_after_excludes_before_and_crosses_midnight(test: Json, holds: bool) -> None:
    flows = [flow(timezone="Europe/Berlin", entry={"when": {"local_time": test}})]  # 09:00 in Berlin.
    assert ("entered" in kinds(simulate(flows, [ev("08:00")]))) is holds


@pytest.mark.parametrize(
    ("did", "after_n_events"),
    [
        ({}, [False, True, True]),
        ({"at_least": 2}, [False, False, True]),
        ({"at_most": 1}, [False, True, False]),
        ({"at_least": 0, "at_most": 1}, [True, True, False]),
        ({"exactly": 0}, [True, False, False]),
    ],
)
def test_did_counts_since_entry(did: Json, after_n_events: list[bool]) -> None:
    for count, expected in enumerate(after_n_events):
        flows = [flow({"wait": "1h"}, {"branch": [{"when": {"did": {"event": "go"} | did}, "steps": []}]})]
        flows[0]["entry"] = {"reentry": "never"}  # The trigger itself does not count.
        lines = [ev("08:00"), *[ev("08:10")] * count]
        assert ("moved 0" in kinds(simulate(flows, lines))) is expected, count
        flows[0]["steps"][1]["branch"][0]["when"] = {"did_not": {"event": "go"} | did}
        assert ("moved 0" in kinds(simulate(flows, lines))) is not expected, count


def test_a_rolling_did_counts_the_trigger_and_what_was_before_but_not_the_start_of_the_window() -> None:
    def moved(within: str) -> bool:
        when = {"did": {"event": "go", "within": within, "exactly": 2}}
        flows = [flow({"branch": [{"when": when, "steps": []}]}, trigger={"event": "go", "where": {"n": 1}})]
        return "moved 0" in kinds(simulate(flows, [ev("08:00"), ev("09:00", n=1)]))

    assert not moved("1h")  # (08:00, 09:00]
    assert moved("1h1s")


def test_in_a_window_an_event_stands_at_its_own_earlier_time() -> None:
    count = {"at_least": 2, "within": "30m"}
    flows = [flow(trigger={"event": "go", "count": count})]
    assert kinds(simulate(flows, [ev("07:29", received_at="08:00"), ev("08:00")])) == []
    assert kinds(simulate(flows, [ev("07:31", received_at="08:00"), ev("08:00")]))[0] == "entered"
    assert kinds(simulate(flows, [ev("09:00", received_at="08:00"), ev("08:29")]))[0] == "entered"
    assert kinds(simulate(flows, [ev("09:00", received_at="08:00"), ev("08:30")])) == []


def test_a_branch_reached_by_an_event_has_counted_it() -> None:
    steps = [
        {"wait_for": {"a": {"event": "x"}}, "timeout": "1h"},
        {"branch": [{"when": {"did": {"event": "x"}}, "steps": []}]},
    ]
    assert "08:10 moved steps.1 0" in told(simulate([flow(*steps)], [ev("08:00"), ev("08:10", "x")]))


def test_did_lists_are_joined_and_did_not_negates_the_whole() -> None:
    for name, seen, expected in [("any", "x", True), ("all", "x", False), ("any", "z", False)]:
        did = {name: [{"event": "x"}, {"event": "y"}]}
        for kind in ("did", "did_not"):
            flows = [flow({"wait": "1h"}, {"branch": [{"when": {kind: did}, "steps": []}]})]
            moved = "moved 0" in kinds(simulate(flows, [ev("08:00"), ev("08:10", seen)]))
            assert moved is (expected if kind == "did" else not expected)


# -- triggers


def test_firing_uses_the_counted_events_up() -> None:
    flows = [flow(SEND, trigger={"event": "go", "count": {"at_least": 2}})]
    lines = [ev(f"08:0{n}") for n in range(5)]
    assert sent(simulate(flows, lines)) == ["08:01", "08:03"]


def test_a_refused_trigger_has_used_up_its_events() -> None:
    count = {"at_least": 2, "within": "1h"}
    flows = [flow({"wait": "2m"}, SEND, trigger={"event": "go", "count": count})]
    result = simulate(flows, [ev(f"08:0{n}") for n in range(6)])
    assert told(result)[:2] == ["08:01 entered", "08:01 waiting steps.0 until 08:03"]
    assert sent(result) == ["08:03", "08:05", "08:07"]
    flows[0]["steps"][0] = {"wait": "3m"}
    assert kinds(simulate(flows, [ev(f"08:0{n}") for n in range(5)])) == [
        "entered",
        "waiting",
        "refused already_inside",
        "sent",
        "ended",
    ]


def test_alternatives_count_apart_and_give_one_trigger() -> None:
    either = [{"event": "go", "count": {"at_least": 2}}, {"event": "go", "where": {"n": 1}}]
    flows = [flow(SEND, trigger={"any": either})]
    lines = [ev("08:00", n=1), ev("08:01", n=1), ev("08:02"), ev("08:03")]
    assert sent(simulate(flows, lines)) == ["08:00", "08:01", "08:03"]


def test_equal_alternatives_count_apart_too() -> None:
    twice = {"event": "go", "count": {"at_least": 2}}
    flows = [flow(SEND, trigger={"any": [twice, twice]})]
    assert sent(simulate(flows, [ev(f"08:0{n}") for n in range(4)])) == ["08:01", "08:03"]


def test_a_trigger_without_count_fires_however_old_the_event_is() -> None:
    assert sent(simulate([flow(SEND)], [ev("2020-01-01T00:00:00Z", received_at="08:00")])) == ["08:00"]


# -- E: entry and versions


def test_entry_checks_run_in_their_order() -> None:
    base: Json = {
        "state": "paused",
        "active": {"until": "2026-01-01T00:00:00Z"},
        "entry": {"key": "k", "when": {"profile.a": 1}, "reentry": "never", "holdout": "100%", "limit": 1},
    }
    seen = []
    for repair in ("state", "active", None):
        seen += kinds(simulate([flow(**base)], [ev("08:00")]))
        base.pop(repair or "state", None)
    assert seen == ["refused paused", "refused inactive", "refused no_key"]
    assert kinds(simulate([flow(**base)], [ev("08:00", k=1)])) == ["refused condition"]
    assert kinds(simulate([flow(**base)], [ev("08:00", k=1, traits={"a": 1})])) == ["refused holdout"]


def test_limit_is_over_all_users_and_versions_and_before_holdout() -> None:
    flows = [flow(entry={"limit": 1})]
    result = simulate(flows, [ev("08:00", user="b"), ev("08:00", user="a")])
    assert [(r["user_id"], r["kind"]) for r in result.journal if r["kind"] != "ended"] == [
        ("a", "entered"),
        ("b", "refused"),
    ]


def test_refusals_name_no_journey_and_the_entering_version() -> None:
    (refused,) = simulate([flow(version=2, state="paused")], [ev("08:00")]).journal
    assert (refused["journey_id"], refused["version"]) == (None, 2)


def test_active_is_half_open() -> None:
    active = {"from": f"{DAY}T08:00:00Z", "until": f"{DAY}T09:00:00Z"}
    flows = [flow(active=active, entry={"concurrent": 9})]
    got = kinds(simulate(flows, [ev("07:59"), ev("08:00"), ev("08:59"), ev("09:00")]))
    assert [kind for kind in got if kind != "ended"] == [
        "refused inactive",
        "entered",
        "entered",
        "refused inactive",
    ]


@pytest.mark.parametrize(
    ("reentry", "allowed"),
    [
        ("never", ["08:00"]),
        ("always", ["08:00", "08:30", "09:00", "09:30"]),
        ({"after": "1h"}, ["08:00", "09:00"]),
        ({"at_most": 2, "within": "1h"}, ["08:00", "08:30", "09:00", "09:30"]),
        ({"at_most": 2, "within": "61m"}, ["08:00", "08:30", "09:30"]),
    ],
)
def test_reentry(reentry: Any, allowed: list[str]) -> None:
    lines = [ev(at) for at in ("08:00", "08:30", "09:00", "09:30")]
    assert sent(simulate([flow(SEND, entry={"reentry": reentry})], lines)) == allowed


def test_never_comes_before_already_inside() -> None:
    flows = [flow({"wait": "1h"}, entry={"reentry": "never"})]
    assert "refused reentry" in kinds(simulate(flows, [ev("08:00"), ev("08:10")]))


def test_concurrent_counts_open_journeys() -> None:
    flows = [flow({"wait": "15m"}, entry={"concurrent": 2})]
    got = kinds(simulate(flows, [ev("08:00"), ev("08:05"), ev("08:10"), ev("08:15")]))
    assert got.count("entered") == 3
    assert got.count("refused already_inside") == 1


def test_journeys_of_a_key_see_only_events_of_that_key() -> None:
    steps = [{"wait_for": {"a": {"event": "x"}}, "timeout": "1h"}]
    flows = [flow(*steps, entry={"key": "k"}, exit=[{"event": "y"}])]
    lines = [ev("08:00", k=17), ev("08:01", k="17"), ev("08:02", k=17.0), ev("08:03", k=True)]
    lines += [ev("08:10", "x", k=17.0), ev("08:11", "y"), ev("08:12", "y", k="17"), ev("08:13", "y", k=1)]
    result = simulate(flows, lines)
    assert told(result)[4:] == [
        "08:02 refused already_inside",
        "08:03 entered",
        "08:03 waiting steps.0 until 09:03",
        "08:10 moved steps.0 a",
        "08:10 ended",
        "08:12 exited",
        "09:03 moved steps.0 timeout",
        "09:03 ended",
    ]
    ids = [r["journey_id"] for r in result.journal if r["kind"] == "entered"]
    expected = [
        b"f\x1fu\x1f17\x1fevents.jsonl-1",
        b"f\x1fu\x1f17\x1fevents.jsonl-2",
        b"f\x1fu\x1ftrue\x1fevents.jsonl-4",
    ]
    assert ids == [hashlib.blake2b(one, digest_size=16).hexdigest() for one in expected]


@pytest.mark.parametrize("key", [None, "", [1], {"a": 1}])
def test_what_is_no_key_is_refused(key: Any) -> None:
    assert kinds(simulate([flow(entry={"key": "k"})], [ev("08:00", k=key)])) == ["refused no_key"]


def test_counts_are_per_key_and_those_without_are_a_group() -> None:
    flows = [flow(trigger={"event": "go", "count": {"at_least": 2}}, entry={"key": "k"})]
    lines = [ev("08:00", k="a"), ev("08:01"), ev("08:02", k="b"), ev("08:03", k=""), ev("08:04", k="a")]
    assert told(simulate(flows, lines)) == ["08:03 refused no_key", "08:04 entered", "08:04 ended"]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("live", "live"), ["entered 2"]),
        (("live", "draft"), ["entered 1"]),
        (("live", "paused"), ["entered 1"]),
        (("paused", "paused"), ["refused 2"]),
        (("paused", "ended"), ["refused 1"]),
        (("ended", "draft"), []),
    ],
)
def test_the_highest_live_version_enters(states: tuple[str, str], expected: list[str]) -> None:
    flows = [flow(version=number, state=state) for number, state in enumerate(states, start=1)]
    result = simulate(flows, [ev("08:00")])
    assert [f"{r['kind']} {r['version']}" for r in result.journal if r["kind"] != "ended"] == expected


def test_holdout_is_a_stable_share_of_users() -> None:
    users = [f"user-{number}" for number in range(60)]
    result = simulate([flow(entry={"holdout": "50%"})], [ev("08:00", user=user) for user in users])
    held = {r["user_id"] for r in result.journal if r["kind"] == "refused"}
    for user in users:
        digest = hashlib.blake2b(b"f\x1fholdout\x1f" + user.encode(), digest_size=8).digest()
        assert (user in held) is (digest[0] < 128), user


# -- O: order of things


def test_a_wait_that_ends_with_an_event_ends_before_it() -> None:
    flows = [flow({"wait": "1h"}, SEND, exit=[{"event": "x"}])]
    assert sent(simulate(flows, [ev("08:00"), ev("09:00", "x")])) == ["09:00"]
    assert sent(simulate(flows, [ev("08:00"), ev("08:59:59.999", "x")])) == []


def test_an_event_at_the_deadline_comes_after_it() -> None:
    flows = [flow({"wait_for": {"a": {"event": "x"}}, "timeout": "1h"})]
    assert "moved timeout" in kinds(simulate(flows, [ev("08:00"), ev("09:00", "x")]))
    assert "moved a" in kinds(simulate(flows, [ev("08:00"), ev("08:59:59.999", "x")]))


def test_wake_ups_act_as_of_their_due_time() -> None:
    flows = [flow({"wait": "1h"}, {**SEND, "vars": {"at": "{{ now }}"}}, {"wait": "30m"}, SEND)]
    flows[0]["steps"][3] = {**SEND, "id": "s2"}
    result = simulate(flows, [ev("08:00"), ev("20:00", "x")])
    assert sent(result) == ["09:00", "09:30"]
    assert result.actions[0]["vars"] == {"at": f"{DAY}T09:00:00.000Z"}


def test_wake_ups_of_one_instant_go_by_priority_then_entry() -> None:
    flows = [
        flow({"wait": "50m"}, flow="a", trigger={"event": "x"}),
        flow({"wait": "1h"}, flow="b", priority=5),
        flow({"wait": "1h"}, flow="c"),
    ]
    result = simulate(flows, [ev("08:00"), ev("08:10", "x")])
    assert [r["flow"] for r in result.journal if r["kind"] == "ended"] == ["b", "c", "a"]


def test_triggers_go_by_priority_then_name() -> None:
    flows = [flow(flow="b"), flow(flow="a"), flow(flow="c", priority=1)]
    entered = [r["flow"] for r in simulate(flows, [ev("08:00")]).journal if r["kind"] == "entered"]
    assert entered == ["c", "a", "b"]


def test_open_journeys_go_before_triggers_whatever_the_priority() -> None:
    flows = [
        flow({"wait_for": {"a": {"event": "x"}}, "timeout": "1h"}),
        flow(flow="g", trigger={"event": "x"}, priority=9),
    ]
    result = simulate(flows, [ev("08:00"), ev("08:10", "x")])
    assert [r["flow"] for r in result.journal][2:] == ["f", "f", "g", "g"]


def test_a_wait_for_reached_by_an_event_does_not_see_it() -> None:
    one = {"wait_for": {"a": {"event": "x"}}, "timeout": "1h"}
    result = simulate([flow(one, one)], [ev("08:00"), ev("08:10", "x")])
    assert told(result)[2:4] == ["08:10 moved steps.0 a", "08:10 waiting steps.1 until 09:10"]


def test_exit_comes_before_wait_for_and_the_event_may_start_a_new_journey() -> None:
    flows = [flow({"wait_for": {"a": {"event": "go"}}, "timeout": "1h"}, exit=[{"event": "go"}])]
    got = told(simulate(flows, [ev("08:00"), ev("08:10")]))
    assert got[2:5] == ["08:10 exited", "08:10 entered", "08:10 waiting steps.0 until 09:10"]


def test_goals_convert_then_exit_and_the_first_rule_decides() -> None:
    rules = [{"event": "x", "where": {"n": 1}, "goal": True, "label": "won"}, {"event": "x"}]
    flows = [flow({"wait": "1h"}, exit=rules)]
    assert kinds(simulate(flows, [ev("08:00"), ev("08:10", "x", n=1)]))[2:] == ["converted won", "exited won"]
    assert kinds(simulate(flows, [ev("08:00"), ev("08:10", "x")]))[2:] == ["exited"]


def test_what_a_wake_up_sets_is_seen_by_the_event_and_by_later_journeys() -> None:
    setter = flow({"wait": "10m"}, {"set": {"tier": "gold"}})
    reader = flow(flow="g", trigger={"event": "x"}, entry={"when": {"profile.tier": "gold"}})
    assert "refused condition" not in kinds(simulate([setter, reader], [ev("08:00"), ev("08:10", "x")]))
    assert "refused condition" in kinds(simulate([setter, reader], [ev("08:00"), ev("08:09", "x")]))


def test_cause_and_event_change_with_wait_for_only() -> None:
    steps = [
        {"wait_for": {"a": {"event": "x", "at_least": 2}}, "timeout": "1h"},
        {"wait": "5m"},
        {**SEND, "vars": {"n": "{{ event.n }}", "m": "{{ entry.n }}"}},
    ]
    lines = [ev("08:00", n=1), ev("08:01", "x", n=2), ev("08:02", "x", n=3, message_id="m3")]
    (action,) = simulate([flow(*steps)], lines).actions
    assert (action["vars"], action["cause"]) == ({"n": 3, "m": 1}, {"message_id": "m3", "event": "x"})


# -- S: steps


def test_wait_for_counts_every_label_and_the_first_satisfied_as_written_wins() -> None:
    labels = {"b": {"event": "x", "at_least": 2}, "a": {"event": "x", "where": {"n": 1}}}
    flows = [flow({"wait_for": labels, "timeout": "1h"})]
    assert "moved a" in kinds(simulate(flows, [ev("08:00"), ev("08:01", "x", n=1)]))
    assert "moved b" in kinds(simulate(flows, [ev("08:00"), ev("08:01", "x"), ev("08:02", "x", n=1)]))


def test_wait_for_goes_through_the_way_of_its_label_and_rejoins() -> None:
    step = {
        "wait_for": {"a": {"event": "x"}},
        "timeout": "1h",
        "then": {"a": [{**SEND, "id": "yes"}], "timeout": [{**SEND, "id": "no"}]},
    }
    flows = [flow(step, {**SEND, "id": "last"})]
    assert sent(simulate(flows, [ev("08:00"), ev("08:01", "x")]), "step") == ["yes", "last"]
    assert sent(simulate(flows, [ev("08:00")]), "step") == ["no", "last"]


def test_branches_say_which_way_was_taken() -> None:
    arms = [{"when": {"entry.n": 1}, "steps": []}, {"when": {"entry.n": 2}, "label": "two", "steps": []}]
    for n, without, with_else in [(1, "0", "0"), (2, "two", "two"), (3, "none", "else")]:
        assert f"moved {without}" in kinds(simulate([flow({"branch": arms})], [ev("08:00", n=n)]))
        both = [*arms, {"else": [{**SEND, "id": "e"}]}]
        assert f"moved {with_else}" in kinds(simulate([flow({"branch": both})], [ev("08:00", n=n)]))


def test_default_ids_are_paths_and_nested_lists_rejoin() -> None:
    plain = {"send": "webhook", "template": "t"}
    branch = [{"when": {"entry.n": 2}, "steps": []}, {"else": [plain, plain]}]
    nested = {"branch": [{"when": {"entry.n": 1}, "steps": [{"branch": branch}]}]}
    result = simulate([flow(plain, nested, plain)], [ev("08:00", n=1)])
    assert sent(result, "step") == [
        "steps.0",
        "steps.1.branch.0.steps.0.branch.1.else.0",
        "steps.1.branch.0.steps.0.branch.1.else.1",
        "steps.2",
    ]


def test_visits_count_from_one_and_the_1001st_fails() -> None:
    flows = [flow({"id": "w", "wait": "1s"}, SEND, {"goto": "w"})]
    result = simulate(flows, [ev("08:00")])
    assert [a["visit"] for a in result.actions] == list(range(1, 1001))
    assert kinds(result)[-1] == "failed loop"
    assert len({a["action_id"] for a in result.actions}) == 1000


def test_goto_may_lead_to_a_path_in_a_nested_list() -> None:
    arm = {"when": {"entry.n": 1}, "steps": [{"wait": "1m"}, {"send": "webhook", "template": "t"}]}
    steps = [{"wait": "5m"}, {"goto": "steps.2.branch.0.steps.1"}, {"branch": [arm]}]
    result = simulate([flow(*steps)], [ev("08:00")])
    assert told(result)[-2:] == ["08:05 sent steps.2.branch.0.steps.1", "08:05 ended"]


def test_end_has_its_label_and_may_be_a_word() -> None:
    for step in ("end", {"end": None}):
        assert kinds(simulate([flow(step)], [ev("08:00")])) == ["entered", "ended"]
    assert kinds(simulate([flow({"end": "cold"})], [ev("08:00")])) == ["entered", "ended cold"]


@pytest.mark.parametrize(
    ("wait", "until"),
    [
        ("1h30m", "09:30"),
        ({"for": "30m10s"}, "08:30:10"),
        ({"until": f"{DAY}T10:00:00+01:00"}, "09:00"),
        ({"until": f"{DAY}T09:30"}, "08:30"),  # The user's zone.
        ({"until": "2026-11-24"}, "23:00"),
        ({"until": f"{DAY}T07:00:00Z"}, None),
        ({"until": f"{DAY}T08:00:00Z"}, None),
        ({"until": "09:00:01"}, "08:00:01"),
        ({"until": "09:00"}, "2026-11-24T08:00"),  # Strictly later.
        ({"until": "10:00", "days": ["sun", "wed"]}, "2026-11-25T09:00"),
        ({"for": "1h", "at": "10:00"}, "09:00"),  # At or after.
        ({"for": "1d", "at": "08:59"}, "2026-11-25T07:59"),
        ({"for": "1h", "at": "10:00", "days": ["tue"]}, "2026-11-24T09:00"),
        ({"until": "{{ entry.due }}", "if_missing": "end"}, "10:00"),
        ({"until": "{{ entry.due }}", "offset": "-1h30m", "if_missing": "end"}, "08:30"),
        ({"until": "{{ entry.due }}", "offset": "-2h", "if_missing": "end", "if_past": "end"}, None),
        ({"until": f"{DAY}T{{{{ entry.clock }}}}", "if_missing": "end"}, "11:00"),
        ({"until": "{{ entry.ms }}", "if_missing": "end"}, "2030-01-01T00:00"),
    ],
)
def test_waits_end_when_they_say(wait: Any, until: str | None) -> None:
    flows = [flow({"wait": wait}, timezone="Europe/Berlin")]
    line = ev("08:00", due=f"{DAY}T10:00:00Z", clock="12:00", ms=1_893_456_000_000)
    got = told(simulate(flows, [line]))
    expected = [] if until is None else [f"08:00 waiting steps.0 until {until}"]
    assert got[1 : len(expected) + 1] == expected
    assert expected or got == ["08:00 entered", "08:00 ended"]


@pytest.mark.parametrize(
    ("more", "due", "expected"),
    [
        ({"if_missing": "end"}, None, "ended missing"),
        ({"if_missing": "end"}, "tomorrow", "ended missing"),
        ({"if_missing": "end"}, True, "ended missing"),
        ({"if_missing": "end"}, "1893456000000", "ended missing"),
        ({"if_missing": "skip"}, None, "ended"),
        ({"if_missing": "skip"}, DAY, "ended"),
        ({"if_missing": "skip", "if_past": "end"}, DAY, "ended past"),
        ({"if_missing": "skip", "if_past": "end"}, 100_000_000_000, "ended past"),
        ({"if_missing": "end"}, 1_795_420_800, "ended missing"),
    ],
)
def test_dates_that_are_missing_or_past(more: Json, due: Any, expected: str) -> None:
    flows = [flow({"wait": {"until": "{{ entry.due }}"} | more})]
    assert kinds(simulate(flows, [ev("08:00", due=due)])) == ["entered", expected]


@pytest.mark.parametrize(
    ("zone", "now", "clock", "days", "expected"),
    [
        ("Europe/Berlin", "2026-03-28T12:00:00Z", "02:30", None, "2026-03-29T01:00:00.000Z"),  # Skipped.
        ("Europe/Berlin", "2026-03-29T01:00:00Z", "02:30", None, "2026-03-30T00:30:00.000Z"),
        ("Europe/Berlin", "2026-10-24T12:00:00Z", "02:30", None, "2026-10-25T00:30:00.000Z"),  # The first.
        ("Europe/Berlin", "2026-10-25T00:30:00Z", "02:30", None, "2026-10-26T01:30:00.000Z"),
        ("Africa/Cairo", "2026-04-23T12:00:00Z", "00:30", ["fri"], "2026-04-23T22:00:00.000Z"),
        ("Australia/Lord_Howe", "2026-10-03T12:00:00Z", "02:15", None, "2026-10-03T15:30:00.000Z"),
        (
            "Pacific/Apia",
            "2011-12-30T05:00:00Z",
            "09:00",
            ["fri"],
            "2011-12-30T10:00:00.000Z",
        ),  # No such Friday.
    ],
)
def test_clocks_across_dst(zone: str, now: str, clock: str, days: list[str] | None, expected: str) -> None:
    wait = {"until": clock} | ({"days": days} if days else {})
    lines = [ev(now), ev(now[:-1] + ".001Z", "x")]
    result = simulate([flow({"wait": wait}, timezone=zone)], lines)
    assert result.journal[1]["detail"]["until"] == expected
    at = parse_time(now)
    moment = time_of_day(clock)
    assert at is not None
    assert moment is not None
    until = next_clock(moment, zone_of_profile({}, {"timezone": zone}), days, at_or_after_ms=at + 1)
    assert to_iso(until) == expected


def test_the_zone_is_the_users_then_the_flows_then_utc() -> None:
    def until(**traits: Any) -> str:
        flows = [flow({"wait": {"until": "12:00"}}, timezone="Asia/Shanghai")]
        return told(simulate(flows, [ev("00:00", traits=traits)]))[1].split()[-1]

    assert until() == "04:00"
    assert until(timezone="Asia/Tokyo") == "03:00"
    assert until(timezone="asia/tokyo") == "04:00"
    assert until(timezone=9) == "04:00"


def test_set_writes_removes_and_leaves_what_a_template_misses() -> None:
    values = {"a": "{{ now }}", "b": "{{ entry.none }}", "c": None, "d": ["x", 1]}
    show: Json = {
        **SEND,
        "vars": {name: f"{{{{ profile.{name} | default: 'no' }}}}" for name in ("a", "b", "c")},
    }
    show["vars"]["d"] = "{{ profile.d }}"
    result = simulate([flow({"set": values}, show)], [ev("08:00", traits={"b": "old", "c": "old"})])
    assert sent(result, "vars") == [{"a": f"{DAY}T08:00:00.000Z", "b": "old", "c": "no", "d": ["x", 1]}]


def test_addresses_are_non_empty_texts_of_the_profile_or_of_to() -> None:
    def address(send: Json, **traits: Any) -> Any:
        result = simulate([flow({"template": "t", **send})], [ev("08:00", traits=traits)], config=config)
        return result.actions[0]["to"] if result.actions else kinds(result)[1]

    config: Json = {"channels": {"inapp": {"address": "app_id"}, "crm": {}, "push": {"topic": "p"}, "email": None}}
    config["channels"]["wechat"] = {"address": None}
    assert address({"send": "sms"}, phone="+1") == "+1"
    for phone in ("", None, 5, ["+1"]):
        assert address({"send": "sms"}, phone=phone) == "suppressed no_address"
    assert address({"send": "inapp"}, app_id="x") == "x"
    assert address({"send": "push"}, push_token="p") == "p"
    assert address({"send": "email"}, email="e") == "e"
    assert address({"send": "crm"}) is None
    assert address({"send": "wechat"}) is None
    assert address({"send": "webhook"}) is None
    assert address({"send": "sms", "to": "tel:{{ profile.n }}"}, n=5) == "tel:5"
    assert address({"send": "sms", "to": "{{ profile.n }}"}, n=5) == "suppressed no_address"
    assert address({"send": "sms", "to": "{{ 1 | divided_by: profile.n }}"}, n=0) == "suppressed template_error"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ entry.n }}", 5),
        (" {{ entry.n }}", " 5"),
        ("{{ entry.o }}", {"a": 1}),
        ("{{ entry.none }}", "missing_variable"),
        ("a {{ entry.none }}", "missing_variable"),
        ("{{ entry.none | default: 'x' }}", "x"),
        ("{{ entry.no | default: 'x' }}", "x"),
        ("{{ entry.zero | default: 'x' }}", "0"),
        ("{{ entry.none | upcase }}", "missing_variable"),
        ("{{ entry.s | upcase }}", "SKU"),
        ("{{ entry.empty }}", ""),
        ("{% if entry.none %}{{ entry.none }}{% else %}b{% endif %}", "b"),
        ("{% if entry.s == 'sku' %}{{ entry.s }}{% endif %}!", "sku!"),
        ("{% if entry.zero %}yes{% endif %}", "yes"),
        ("{{ 10 | divided_by: entry.zero }}", "template_error"),
        ("{{ entry.yes }}{{ flow }}", "truef"),
        ("plain", "plain"),
        (5, 5),
    ],
)
def test_templates_keep_types_default_and_miss(template: Any, expected: Any) -> None:
    line = ev("08:00", n=5, o={"a": 1}, s="sku", empty="", zero=0, no=False, yes=True, none=None)
    result = simulate([flow({**SEND, "vars": {"v": template}})], [line])
    got = result.actions[0]["vars"]["v"] if result.actions else result.journal[1]["reason"]
    assert got == expected
    assert type(got) is type(expected)


def test_if_missing_end_ends_with_the_reason_but_not_for_template_errors() -> None:
    def after(**send: Any) -> list[str]:
        step = {"template": "t", "if_missing": "end", "send": "sms"} | send
        return kinds(simulate([flow(step, SEND)], [ev("08:00", n=0)]))[1:]

    assert after() == ["suppressed no_address", "ended no_address"]
    missing = {"v": "{{ entry.none }}", "w": "{{ 1 | divided_by: entry.n }}"}
    assert after(to="x", vars=missing) == ["suppressed missing_variable", "ended missing_variable"]
    assert after(to="x", vars={"w": missing["w"]}) == ["suppressed template_error", "sent", "ended"]
    assert after(if_missing="skip") == ["suppressed no_address", "sent", "ended"]


def test_expiry_counts_from_the_beginning_of_the_step() -> None:
    result = simulate([flow({**SEND, "expires": "2h", "category": "notification"})], [ev("08:00")])
    assert sent(result, "expires_at", "category") == [(f"{DAY}T10:00:00.000Z", "notification")]


def test_durations_add_up_in_any_order() -> None:
    assert duration_ms("1d12h") == duration_ms("12h1d") == duration_ms("1d6h6h") == 36 * 3_600_000


# -- J: the journal


def test_every_wait_is_journaled_once_with_its_end() -> None:
    steps = [{"wait": "5m"}, {"wait_for": {"a": {"event": "x"}}, "timeout": "10m"}]
    assert told(simulate([flow(*steps)], [ev("08:00"), ev("08:06", "y"), ev("08:07", "y")])) == [
        "08:00 entered",
        "08:00 waiting steps.0 until 08:05",
        "08:05 waiting steps.1 until 08:15",
        "08:15 moved steps.1 timeout",
        "08:15 ended",
    ]


def test_a_label_without_a_way_is_journaled_all_the_same() -> None:
    step = {"wait_for": {"a": {"event": "x"}}, "timeout": "1h", "then": {}}
    assert kinds(simulate([flow(step)], [ev("08:00"), ev("08:01", "x")]))[2:] == ["moved a", "ended"]


def test_set_is_journaled_also_when_nothing_changes() -> None:
    assert kinds(simulate([flow({"set": {"a": None}})], [ev("08:00")])) == ["entered", "set", "ended"]


def test_goto_and_plain_waits_journal_no_move() -> None:
    flows = [flow({"wait": "1m"}, {"goto": "e"}, {"id": "e", "end": None})]
    assert kinds(simulate(flows, [ev("08:00")])) == ["entered", "waiting", "ended"]


# -- the oracle's own tools


def test_difference_overlooks_details_and_sees_the_rest() -> None:
    expected = simulate([flow({"wait": "1h"}, SEND)], [ev("08:00")])
    actions, journal = json.loads(json.dumps([expected.actions, expected.journal]))
    journal[0]["detail"] = {"anything": 1}
    del journal[0]["cause"]
    assert difference(expected, actions, journal, []) is None
    journal[1]["detail"] = {"until": f"{DAY}T09:00:01.000Z"}
    assert "journal record 1 differs" in str(difference(expected, actions, journal, []))
    journal[1]["detail"] = {"until": f"{DAY}T09:00:00.000Z", "more": 1}
    actions[0]["visit"] = True  # Equal to 1 for Python, not for JSON.
    assert "visit: 1 != True" in str(difference(expected, actions, journal, []))
    assert "product: nothing" in str(difference(expected, [], journal, []))


def test_shrinking_keeps_what_fails_and_little_else() -> None:
    def exits(case: Case) -> bool:
        return "exited" in kinds(case.run())

    case = next(case for case in map(random_full_case, range(50)) if exits(case))
    small = shrink(case, exits)
    assert exits(small)
    assert len(small.flows) == 1
    assert len([line for line in small.lines if line]) <= 3


def test_random_cases_are_repeatable_and_show_every_kind_and_reason() -> None:
    first, second = random_full_case(7), random_full_case(7)
    assert first == second
    counts = statistics(120)
    for name in (
        "refused: limit",
        "refused: holdout",
        "suppressed: template_error",
        "ended: past",
        "converted",
    ):
        assert counts[f"journal {name}"], name
