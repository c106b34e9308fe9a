"""The job's clock: never ahead of the wall clock, never back, and not carried away when that jumps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka_source import GRACE_MAX_MS, KnownEnds
from connectors.sources import Reached
from dataflow.read.clock import SteadyClock

HOUR = 3_600_000


class Clocks:
    def __init__(self) -> None:
        self.wall, self.elapsed = 100 * HOUR, 7
        self.steady = SteadyClock(lambda: self.wall, lambda: self.elapsed)

    def pass_by(self, ms: int) -> int:
        self.wall += ms
        self.elapsed += ms
        return self.steady.tick_ms()


def test_without_jumps_it_is_the_wall_clock() -> None:
    clocks = Clocks()
    assert [clocks.pass_by(ms) for ms in (0, 1, 1000, HOUR)] == [
        100 * HOUR, 100 * HOUR + 1, 100 * HOUR + 1001, 101 * HOUR + 1001,
    ]  # fmt: skip


def test_a_jump_ahead_is_followed_by_a_thousandth_only() -> None:
    clocks = Clocks()
    clocks.wall += HOUR
    assert clocks.pass_by(0) == 100 * HOUR
    assert clocks.pass_by(100_000) == 100 * HOUR + 100_100
    assert clocks.steady.held_back_ms() == HOUR - 100


def test_the_time_since_the_last_look_is_not_added_to_what_a_record_confirms() -> None:
    clocks = Clocks()
    clocks.wall += HOUR  # A jump, which is taken back later.
    clocks.wall += 6_000
    clocks.elapsed += 6_000
    clocks.steady.confirm(100 * HOUR + 6_000)  # A stamp of the truth.
    assert clocks.pass_by(0) == 100 * HOUR + 6_006, "a thousandth faster, and no more"


def test_a_stamp_from_before_holds_nothing_back() -> None:
    clocks = Clocks()
    clocks.wall += 20_000
    clocks.elapsed += 20_000
    clocks.steady.confirm(100 * HOUR + 10_000)
    assert clocks.pass_by(0) == 100 * HOUR + 20_000


def test_many_small_steps_ahead_are_followed() -> None:
    clocks = Clocks()
    for _ in range(1000):
        clocks.wall += 10
        clocks.pass_by(60_000)
    assert clocks.steady.held_back_ms() == 0


def test_a_jump_that_is_taken_back_within_a_minute_leaves_nothing_that_matters() -> None:
    clocks = Clocks()
    clocks.wall += 5 * HOUR
    clocks.pass_by(60_000)
    clocks.wall -= 5 * HOUR
    assert clocks.pass_by(0) - clocks.wall == 60


def test_a_jump_back_lets_it_stand_until_the_wall_clock_is_there_again() -> None:
    clocks = Clocks()
    clocks.wall -= HOUR
    assert clocks.pass_by(HOUR // 2) == 100 * HOUR
    assert clocks.pass_by(HOUR) == 100 * HOUR + HOUR // 2


def test_records_that_are_stamped_later_confirm_a_jump_ahead_and_no_more_than_that() -> None:
    clocks = Clocks()
    clocks.wall += HOUR
    clocks.steady.confirm(100 * HOUR + 600_000)
    assert clocks.pass_by(0) == 100 * HOUR + 600_000
    clocks.steady.confirm(500 * HOUR)
    assert clocks.pass_by(0) == clocks.wall


@given(st.lists(st.tuples(st.integers(-5 * HOUR, 5 * HOUR), st.integers(0, HOUR))))
def test_whatever_the_wall_clock_does_it_never_goes_back_nor_much_faster_than_time(
    steps: list[tuple[int, int]],
) -> None:
    clocks = Clocks()
    before = clocks.pass_by(0)
    for jump, passed in steps:
        clocks.wall += jump
        now = clocks.pass_by(passed)
        assert before <= now <= before + 1.001 * passed + 1
        assert now == before or now <= clocks.wall
        before = now


def test_an_end_counts_only_at_that_very_position() -> None:
    ends = KnownEnds()
    assert ends.reached("t", 0, 0) is None
    ends.note("t", 0, 5, 1000)
    assert ends.reached("t", 0, 5) == Reached(5, 1000)
    assert ends.reached("t", 0, 4) is None
    assert ends.reached("t", 1, 5) is None


def test_after_an_outage_time_waits_as_long_again_for_what_producers_have_kept() -> None:
    ends = KnownEnds()
    ends.note("t", 0, 5, 0)
    ends.note("t", 0, 5, 10_000)
    for asked in range(10_000, 20_000, 100):
        ends.note("t", 0, 5, asked)
        assert ends.reached("t", 0, 5) is None
    ends.note("t", 0, 5, 20_000)
    assert ends.reached("t", 0, 5) == Reached(5, 20_000)


def test_a_broker_that_answers_slowly_for_good_does_not_stop_time_for_good() -> None:
    ends = KnownEnds()
    trusted = [asked for asked in range(0, 200_000, 3_000) if (ends.note("t", 0, 5, asked), ends.reached("t", 0, 5))[1]]
    assert trusted[:2] == [0, 3_000 + GRACE_MAX_MS]
    assert trusted[-1] > 190_000
