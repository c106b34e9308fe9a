"""What must hold of any input, over what hypothesis finds; `make fuzz` looks for as long as it is told."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import main
from tests.fuzz.targets import TARGETS
from tests.records import Choices

# What `make fuzz` has found once, by its seed.
FOUND: list[tuple[str, str]] = []


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_comes_in_what_is_promised_holds(target: str, data: st.DataObject) -> None:
    TARGETS[target](Choices(lambda below: data.draw(st.integers(0, below - 1))))


@pytest.mark.parametrize("target", TARGETS)
def test_the_fuzzer_runs_and_finds_nothing_in_a_second(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "1", "--target", target, "--seed", "7"]) == 0
    assert f"{target}:" in capsys.readouterr().out


def test_the_fuzzer_tells_the_seed_of_what_it_finds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(choices: Choices) -> None:
        assert choices.below(100) != 3

    monkeypatch.setitem(TARGETS, "record", breaks)
    assert main(["--seconds", "5", "--target", "record", "--seed", "1"]) == 1
    said = capsys.readouterr().out
    again = said.split("again with: ")[1].split("\n")[0].split(" -m tests.fuzz ")[1]
    assert main(again.split()) == 1


def test_what_was_found_once_stays_mended() -> None:
    for target, seed in FOUND:
        assert main(["--target", target, "--once", seed]) == 0, (target, seed)
