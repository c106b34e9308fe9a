"""When an action is called, tried again, held or given up."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from operators.delivery.bucket import TokenBucket
from operators.delivery.machine import Begin, Call, Deliveries, Done, Free, Look, Place, Renew, Settle, Tell
from operators.delivery.policy import AGAIN, Policy
from state.delivery import (
    CONFIG,
    OK,
    PERMANENT,
    RETRY,
    THROTTLED,
    TOKEN,
    UNKNOWN,
    Answer,
    Entry,
    Outcome,
)

NOW = 1_800_000_000_000
SECOND = 1_000


class Driver:
    """Runs a machine with a ledger that always agrees; calls are answered by the test."""

    def __init__(self, **policy: Any) -> None:
        self.now = NOW
        self.machine = Deliveries(Policy(**policy), NOW, Random(1))
        self.called: list[str] = []
        self.open_calls: dict[str, int] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.renewals = 0
        self.freed: list[str] = []
        self.done: list[int] = []
        self._offset = 0

    def take(self, *names: str, user: str = "", expires_ms: int | None = None) -> None:
        for name in names:
            self._offset += 1
            self.machine.take(name, user or name, expires_ms, Place("p", self._offset), self.now)
        self.go()

    def go(self) -> None:
        while commands := self.machine.commands():
            for command in commands:
                self._do(command)

    def _do(self, command: Any) -> None:
        machine, now = self.machine, self.now
        match command:
            case Look(name):
                machine.looked(name, None, now)
            case Begin(name, attempt, _):
                machine.begun(name, attempt, 0, now)
            case Call(name, attempt, _):
                self.called.append(name)
                self.open_calls[name] = attempt
            case Free(name, _):
                self.freed.append(name)
                machine.freed(name, now)
            case Settle(name, _, outcome):
                machine.settled(name, outcome, now)
            case Tell(name, outcome):
                self.outcomes[name] = outcome
                machine.told(name, now)
            case Done(place):
                self.done.append(place.offset)
            case Renew():
                self.renewals += 1

    def answer(self, name: str, kind: str, **more: Any) -> None:
        self.machine.answered(name, self.open_calls.pop(name), Answer(kind, f"code-{kind}", **more), self.now)
        self.go()

    def wait(self, ms: int) -> None:
        """Let time pass, ticking whenever the machine wants it."""
        until = self.now + ms
        while (due := self.machine.next_ms) is not None and due <= until:
            self.now = max(self.now, due)
            self.machine.tick(self.now)
            self.go()
            if self.machine.next_ms is not None and self.machine.next_ms <= self.now:
                self.now += 1
        self.now = max(self.now, until)
        self.machine.tick(self.now)
        self.go()


def test_what_is_answered_becomes_the_outcome_and_the_record_is_done() -> None:
    driver = Driver()
    driver.take("a", "b", "c")
    driver.answer("a", OK, provider_id="p-1")
    driver.answer("b", PERMANENT)
    driver.answer("c", UNKNOWN)
    assert {name: one.status for name, one in driver.outcomes.items()} == {
        "a": "accepted", "b": "rejected", "c": "unknown"
    }  # fmt: skip
    assert driver.outcomes["a"].provider_id == "p-1"
    assert driver.done == [1, 2, 3]


def test_while_a_provider_asks_to_wait_nobody_waits_beyond_their_own_time() -> None:
    driver = Driver(give_up_after_ms=6 * SECOND, concurrency=1)
    driver.take("tried")
    driver.take("over", expires_ms=NOW + 12 * SECOND)
    driver.take("endless")
    driver.answer("tried", THROTTLED, wait_ms=3600 * SECOND)
    driver.wait(2 * SECOND)
    driver.take("late", expires_ms=NOW + 4 * SECOND)
    driver.wait(20 * SECOND)
    assert {name: (one.status, one.code, one.at_ms - NOW) for name, one in driver.outcomes.items()} == {
        "late": ("rejected", "expired", 4 * SECOND),
        "tried": ("rejected", "given_up", 6 * SECOND),
        "over": ("rejected", "expired", 12 * SECOND),
    }
    assert driver.called == ["tried"]
    driver.wait(3600 * SECOND)
    assert driver.called == ["tried", "endless"], "whoever was never tried has their time yet"


def test_a_stopped_channel_ends_nobody_even_while_the_provider_has_asked_to_wait() -> None:
    driver = Driver(give_up_after_ms=6 * SECOND, concurrency=2)
    driver.take("a", "b")
    driver.answer("a", THROTTLED, wait_ms=60 * SECOND)
    driver.answer("b", CONFIG)
    driver.wait(55 * SECOND)
    assert driver.outcomes == {}
    driver.wait(10 * SECOND)
    (probe,) = driver.open_calls
    driver.answer(probe, OK)
    driver.wait(20 * SECOND)
    assert driver.outcomes[probe].status == "accepted"
    assert len(driver.called) == 4, "the other one had time left"


def test_a_known_outcome_is_told_again_and_nobody_is_called() -> None:
    machine = Deliveries(Policy(), NOW, Random(1))
    machine.take("a", "u", None, Place("p", 7), NOW)
    assert machine.commands() == [Look("a")]
    outcome = Outcome("accepted", NOW)
    machine.looked("a", Entry(1, NOW, "u", "another", 0, outcome), NOW)
    assert machine.commands() == [Tell("a", outcome)]
    machine.told("a", NOW)
    assert machine.commands() == [Done(Place("p", 7))]
    assert machine.open == 0


def test_one_who_waits_holds_up_their_own_actions_and_nobody_elses() -> None:
    driver = Driver()
    driver.take("a1", "a2", user="ann")
    driver.take("b1", user="bob")
    assert driver.called == ["a1", "b1"]
    driver.answer("a1", RETRY)
    driver.answer("b1", OK)
    assert driver.freed == ["a1"]
    driver.wait(SECOND)
    assert driver.called == ["a1", "b1", "a1"]
    driver.answer("a1", OK)
    assert driver.called[-1] == "a2"


def test_the_waits_between_attempts_double_to_a_minute_and_are_drawn_from_nothing_up() -> None:
    waits = []
    for seed in range(30):
        driver = Driver(give_up_after_ms=10**9)
        driver.machine._chance = Random(seed)
        driver.take("a")
        for number in range(12):
            began = driver.now
            driver.answer("a", RETRY)
            while not driver.open_calls:
                driver.now = max(driver.now, driver.machine.next_ms or 0)
                driver.machine.tick(driver.now)
                driver.go()
            waits.append((number, driver.now - began))
    for number in range(12):
        some = [wait for place, wait in waits if place == number]
        assert max(some) <= min(60_000, 500 << number)
        assert min(some) < max(some) / 4, "some come at once"


def test_an_action_is_given_up_an_hour_after_its_first_attempt_and_not_before_it_was_tried() -> None:
    driver = Driver(concurrency=1)
    driver.take("a", "b")
    driver.wait(2 * 3600 * SECOND)  # It takes that long to answer.
    driver.answer("a", RETRY)
    assert driver.called == ["a", "b"], "b has waited as long, and was never tried"
    driver.answer("b", OK)
    driver.wait(1)
    assert driver.outcomes["a"].code == "given_up"
    assert driver.called == ["a", "b"]


@pytest.mark.parametrize("passes", [0, 59 * SECOND])
def test_an_action_whose_time_is_over_is_rejected_before_the_next_attempt(passes: int) -> None:
    driver = Driver()
    driver.take("late", expires_ms=NOW)
    assert (driver.outcomes["late"].status, driver.outcomes["late"].code) == ("rejected", "expired")
    driver.take("a", expires_ms=NOW + 60 * SECOND)
    driver.wait(passes)
    driver.answer("a", RETRY, wait_ms=3600 * SECOND)
    driver.wait(60 * SECOND)
    assert driver.outcomes["a"].code == "expired"
    assert driver.called == ["a"]


def test_what_may_have_been_sent_is_never_rejected_for_being_late() -> None:
    driver = Driver(drops_repeats=True)
    driver.take("a", expires_ms=NOW + 10 * SECOND)
    driver.wait(9_999)
    driver.answer("a", UNKNOWN)
    driver.wait(60 * SECOND)
    assert (driver.outcomes["a"].status, driver.outcomes["a"].code) in [("unknown", "expired")] or driver.open_calls


def test_told_to_wait_for_the_account_nobody_is_called_and_for_one_recipient_only_that_one_is_not() -> None:
    driver = Driver(concurrency=2)
    driver.take("a", "b", "c", "d")
    driver.answer("a", THROTTLED, wait_ms=10 * SECOND, is_of_recipient=True)
    assert driver.called == ["a", "b", "c"]
    driver.answer("b", THROTTLED, wait_ms=20 * SECOND)
    driver.answer("c", OK)
    assert driver.called == ["a", "b", "c"]
    driver.wait(19_999)
    assert driver.called == ["a", "b", "c"]
    driver.wait(1)
    assert sorted(driver.called[3:]) == ["a", "b"]


def test_a_wrong_key_stops_the_channel_and_one_action_is_tried_each_30_s() -> None:
    driver = Driver()
    driver.take("a", "b", "c")
    for name in "abc":
        driver.answer(name, CONFIG)
    assert driver.machine.why_open == Answer(CONFIG, "code-config")
    assert driver.outcomes == {}
    for _ in range(200):  # For longer than actions are tried: nobody is given up for what is not theirs.
        before = len(driver.called)
        driver.wait(30 * SECOND)
        assert len(driver.called) == before + 1
        (name,) = driver.open_calls
        driver.answer(name, CONFIG)
    driver.wait(30 * SECOND)
    (name,) = driver.open_calls
    driver.answer(name, OK)
    assert driver.machine.why_open is None
    for name in list(driver.open_calls):
        driver.answer(name, OK)
    assert {one.status for one in driver.outcomes.values()} == {"accepted"}
    assert len(driver.outcomes) == 3


def test_a_probe_that_shows_nothing_leaves_the_channel_stopped() -> None:
    driver = Driver()
    driver.take("a", "b")
    driver.answer("a", CONFIG)
    driver.answer("b", OK)
    assert driver.machine.why_open is None, "what got through shows that it works"
    driver.take("c", "d")
    driver.answer("a", CONFIG)
    driver.wait(30 * SECOND)
    name = next(one for one in driver.open_calls if one not in ("c", "d"))
    driver.answer(name, RETRY)
    assert driver.machine.why_open is not None


def test_a_token_is_renewed_once_for_all_and_a_second_time_is_a_wrong_account() -> None:
    driver = Driver()
    driver.take("a", "b", "c")
    for name in "abc":
        driver.answer(name, TOKEN)
    assert (driver.renewals, driver.called) == (1, ["a", "b", "c"])
    driver.machine.renewed(True, driver.now)
    driver.go()
    assert sorted(driver.called[3:]) == ["a", "b", "c"]
    driver.answer("a", TOKEN)
    assert driver.machine.why_open is not None
    assert driver.renewals == 1


def test_a_stopped_channel_gets_a_new_token_with_its_probe_and_goes_on() -> None:
    driver = Driver()
    driver.take("a")
    driver.answer("a", TOKEN)
    driver.machine.renewed(True, driver.now)
    driver.go()
    driver.answer("a", TOKEN)
    assert driver.machine.why_open is not None
    driver.wait(30 * SECOND)
    driver.answer("a", TOKEN)
    assert driver.renewals == 2
    driver.machine.renewed(True, driver.now)
    driver.go()
    driver.wait(30 * SECOND)
    driver.answer("a", OK)
    assert driver.machine.why_open is None
    assert driver.outcomes["a"].status == "accepted"


def test_where_there_is_no_new_token_the_channel_stops() -> None:
    driver = Driver()
    driver.take("a")
    driver.answer("a", TOKEN)
    driver.machine.renewed(False, driver.now)
    driver.go()
    assert driver.machine.why_open is not None
    assert driver.called == ["a"]


def test_what_may_have_been_sent_is_called_again_where_repeats_are_dropped_or_wanted() -> None:
    for policy in ({"drops_repeats": True}, {"on_unknown": AGAIN}):
        driver = Driver(**policy)
        driver.take("a")
        driver.answer("a", UNKNOWN)
        assert driver.freed == [], "it stays begun"
        driver.wait(SECOND)
        assert driver.called == ["a", "a"]


def test_no_more_than_the_rate_is_called_in_any_second() -> None:
    driver = Driver(rate=100.0, concurrency=10_000)
    driver.take(*(f"a{number}" for number in range(1000)))
    times = []
    for _ in range(3000):
        driver.wait(1)
        times += [driver.now - NOW] * (len(driver.called) - len(times))
        if len(times) == 1000:
            break
    for first in range(0, 9000, 100):
        assert sum(first <= at < first + 1000 for at in times) <= 100 + 10
    assert times[-1] <= 10_000 * 1.02


def test_after_a_pause_a_bucket_has_what_a_tenth_of_a_second_brings() -> None:
    bucket = TokenBucket(100.0, NOW)
    assert bucket.take(NOW) > 0, "it begins empty"
    found = sum(bucket.take(NOW + 3_600_000) == 0 for _ in range(100))
    assert found == 10


def test_a_channel_is_full_at_its_bound_and_takes_again_below_it() -> None:
    driver = Driver(open_max=3)
    driver.take("a", "b", "c")
    assert driver.machine.is_full
    driver.answer("a", OK)
    assert not driver.machine.is_full


def test_a_process_that_stood_still_before_a_call_does_not_make_it() -> None:
    machine = Deliveries(Policy(call_ms=1000), NOW, Random(1))
    machine.take("a", "u", None, Place("p", 1), NOW)
    machine.commands()
    machine.looked("a", None, NOW)
    (begin,) = machine.commands()
    assert isinstance(begin, Begin)
    machine.begun("a", 1, 0, NOW + 5)
    (call,) = machine.commands()
    assert isinstance(call, Call)
    assert call.until_ms + 1000 < begin.lease_ms


def test_where_repeats_are_dropped_for_a_while_what_may_have_been_sent_is_called_again_only_for_so_long() -> None:
    driver = Driver(drops_repeats=True, repeats_dropped_for_ms=100 * SECOND)
    driver.take("a")
    while "a" not in driver.outcomes:
        assert driver.now < NOW + 200 * SECOND
        if "a" in driver.open_calls:
            assert driver.now < NOW + 100 * SECOND, "called when a repeat is another message"
            driver.answer("a", UNKNOWN)
        driver.wait(SECOND)
    assert len(driver.called) > 3
    assert (driver.outcomes["a"].status, driver.outcomes["a"].code) == ("unknown", "not_told")


def test_what_an_earlier_process_may_have_sent_long_ago_is_not_called_again_where_repeats_are_no_longer_dropped() -> (
    None
):
    for age_s, is_called in ((50, True), (150, False)):
        machine = Deliveries(Policy(drops_repeats=True, repeats_dropped_for_ms=100 * SECOND), NOW, Random(1))
        machine.take("a", "u", None, Place("p", 7), NOW)
        machine.commands()
        machine.looked("a", Entry(1, NOW - age_s * SECOND, "u", "another", NOW - 1), NOW)
        (command,) = machine.commands()
        assert isinstance(command, Begin if is_called else Settle)
