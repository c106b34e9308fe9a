"""Records go out at once when nothing is on its way, else in rounds; none is lost, and none overtakes another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka_outlet import BEHIND_S, OVERDUE_S, ROUND_MAX, Outlet


class Client:
    """A producer that acknowledges when it is told to, and has room for so many."""

    def __init__(self, room: int = 10**6) -> None:
        self.room = room
        self.taken: list[bytes] = []
        self.on_their_way = 0

    def produce(self, topic: str, value: bytes, key: str, *, headers: list[tuple[str, bytes]]) -> None:
        if self.on_their_way == self.room:
            raise BufferError
        self.taken.append(value)
        self.on_their_way += 1

    def acknowledge(self, client: Any = None) -> None:
        self.on_their_way = 0

    def poll(self, timeout_s: float) -> None:
        pass

    def flush(self, timeout_s: float) -> int:
        self.acknowledge()
        return 0

    def __len__(self) -> int:
        return self.on_their_way


def outlet(client: Client, patience_s: float = 0.0) -> tuple[Outlet, Any]:
    clock = SimpleNamespace(s=0.0)
    return Outlet(client, client.acknowledge, patience_s, lambda: clock.s), clock  # type: ignore[arg-type]


def test_a_record_goes_out_at_once_and_those_behind_it_when_it_is_acknowledged() -> None:
    client = Client()
    one, _ = outlet(client)
    one.write("t", "k", b"1", ())
    one.deliver()
    one.write("t", "k", b"2", ())
    one.write("t", "k", b"3", ())
    one.deliver()
    assert client.taken == [b"1"]
    client.acknowledge()
    one.deliver()
    assert client.taken == [b"1", b"2", b"3"]


def test_the_first_of_a_patient_round_waits_for_others() -> None:
    client = Client()
    one, clock = outlet(client, patience_s=0.1)
    one.write("t", "k", b"1", ())
    one.deliver()
    clock.s = 0.09
    one.write("t", "k", b"2", ())
    one.deliver()
    assert client.taken == []
    clock.s = 0.1
    one.deliver()
    assert client.taken == [b"1", b"2"]


def test_what_is_stuck_holds_others_back_for_a_while_only() -> None:
    client = Client()
    one, clock = outlet(client)
    one.write("t", "k", b"stuck", ())
    one.deliver()
    one.write("t", "k", b"2", ())
    clock.s = OVERDUE_S - 0.01
    one.deliver()
    assert client.taken == [b"stuck"]
    clock.s = OVERDUE_S
    one.deliver()
    assert client.taken == [b"stuck", b"2"]


def test_no_more_than_a_round_is_held_in_memory() -> None:
    client = Client()
    one, _ = outlet(client)
    one.write("t", "k", b"0", ())
    one.deliver()
    for _ in range(ROUND_MAX):
        one.write("t", "k", b"1", ())
    assert len(client.taken) == ROUND_MAX + 1


@given(
    st.lists(st.sampled_from(["write", "deliver", "at once", "acknowledged", "time"]), max_size=60), st.integers(1, 3)
)
def test_whatever_happens_all_come_once_and_in_their_order(steps: list[str], room: int) -> None:
    client = Client(room)
    one, clock = outlet(client, patience_s=0.1)
    written: list[bytes] = []
    for step in steps:
        if step == "write":
            written.append(str(len(written)).encode())
            one.write("t", "k", written[-1], ())
        elif step == "acknowledged":
            client.acknowledge()
        elif step == "time":
            clock.s += 0.06
        else:
            one.deliver(at_once=step == "at once")
            assert step == "deliver" or client.taken == written
        assert client.taken == written[: len(client.taken)]
    assert one.flush(1.0) == 0
    assert client.taken == written


def test_an_outlet_is_behind_once_a_round_is_not_acknowledged_for_a_while() -> None:
    client = Client()
    one, clock = outlet(client)
    one.write("t", "k", b"1", ())
    one.deliver()
    clock.s = BEHIND_S
    assert not one.is_behind
    clock.s += 0.001
    assert one.is_behind
    client.acknowledge()
    assert not one.is_behind
