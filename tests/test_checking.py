"""Many flow files are looked at in several processes, and what is told is the same as in one."""

from __future__ import annotations

import os
from typing import Any

import pytest

from dataflow import checking
from operators.language.workspace import read_workspace
from operators.program.doubts import Doubts
from operators.program.flows import Checked, Findings, FlowText, compile_texts

NOW = 1_795_000_000_000

# What only several files show: names that are nearly the same, a version that is there twice, audiences.
FLOWS = [
    "flow: one\ntrigger: {event: cart_updated}\nsteps: [{send: sms, template: t}]\n",
    "flow: two\ntrigger: {event: cart_updatd}\nsteps: [{send: sms, template: t}]\n",
    "flow: three\ntrigger: {event: cart_updated}\nsteps: [{audience: {add: gold}}]\n",
    "flow: one\ntrigger: {event: other}\nsteps: [{send: email, template: t}]\n",
    "flow: four\ntrigger: {event: cart_updated}\nentry: {when: {audience: gold}}\nsteps: [{send: sms, template: t}]\n",
    "flow: five\ntrigger: {event: buy}\nentry: {when: {audience: bronse}}\nsteps: [{send: sms, template: t}]\n",
    "flow: six\ntrigger: {event: Cart_Updated}\nsteps: [{wait: soon}]\n",
    "flow: [",
    "",
    "flow: seven\nversion: 2\ntrigger: {event: buy, where: {zip: 02142}}\nsteps: [{send: sms, template: t}]\n",
]
TEXTS = [FlowText(f"{number}.yaml", text) for number, text in enumerate(FLOWS)]
WORKSPACE, _ = read_workspace("nudge.yaml", b"audiences: [silver, bronze]\n")


def told(checked: Checked) -> tuple[Any, ...]:
    return checked.problems, checked.titles, checked.texts


EXPECTED = told(compile_texts(TEXTS, WORKSPACE, Doubts(NOW)))


def test_what_is_expected_has_what_only_several_files_show() -> None:
    codes = {problem.code for problem in EXPECTED[0]}
    assert {"similar-event", "duplicate-version", "unknown-audience", "leading-zero"} <= codes
    assert not any("'gold'" in problem.message for problem in EXPECTED[0]), "another file adds to it"


@pytest.mark.parametrize("processes", range(1, len(FLOWS) + 2))
def test_as_many_processes_as_there_may_be_tell_the_same(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "BYTES_PER_PROCESS", 1)
    assert told(checking.check_texts(TEXTS, WORKSPACE, Doubts(NOW), processes=processes)) == EXPECTED


def test_what_a_process_that_dies_had_to_look_at_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.getpid()

    def die(_: object) -> Findings:
        assert os.getpid() != here, "only what is sent elsewhere is made ready for that"
        os._exit(9)

    monkeypatch.setattr(checking, "BYTES_PER_PROCESS", 1)
    monkeypatch.setattr(checking.Compilation, "findings", die)
    assert told(checking.check_texts(TEXTS, WORKSPACE, Doubts(NOW), processes=3)) == EXPECTED


def test_a_few_flows_need_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(checking, "_begin")
    assert told(checking.check_texts(TEXTS, WORKSPACE, Doubts(NOW), processes=8)) == EXPECTED
