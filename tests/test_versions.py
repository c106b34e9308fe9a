"""A flow version is known by its content: what was deployed once does not come back meaning something else."""

from __future__ import annotations

import pytest

from operators.language.problems import FlowError
from operators.language.workspace import Workspace
from operators.program.flows import Checked, FlowText, compile_texts, refuse_reused_versions

LABEL = "f\x1f1"
LOCAL = "active: {from: 2026-11-01}"
ABSOLUTE = 'active: {from: "2026-11-01T00:00:00Z"}'
SHANGHAI = "timezone: Asia/Shanghai"


def checked(*lines: str, where: str = "{x: 1}") -> Checked:
    text = "\n".join(["flow: f", *lines, f"trigger: {{event: a, where: {where}}}", "steps: [{wait: 1h}]"])
    found = compile_texts([FlowText("f.yaml", text)], Workspace())
    assert not found.has_errors, found.problems
    return found


def content(*lines: str, where: str = "{x: 1}") -> str:
    return checked(*lines, where=where).programs[0].content


def test_a_moment_without_offset_is_another_content_in_another_zone() -> None:
    zones = ["timezone: UTC", SHANGHAI, "timezone: Asia/Tokyo"]
    assert len({content(zone, LOCAL) for zone in zones}) == 3
    assert len({content(zone, where="{t: {before: 2026-11-01}}") for zone in zones}) == 3


def test_what_a_moment_means_is_part_of_the_content_only_where_the_zone_decides() -> None:
    """So flows that were deployed while such moments were UTC are the same versions as before."""
    for lines in ([LOCAL], [ABSOLUTE], [SHANGHAI, ABSOLUTE], [SHANGHAI], ["timezone: Africa/Abidjan", LOCAL]):
        (program,) = checked(*lines).programs
        assert program.content == program.content_in_utc
    for where in ("{t: {before: 2026-11-01}}", "{not: {any: [{t: {after: 2026-11-01}}]}}"):
        (program,) = checked(SHANGHAI, where=where).programs
        assert program.content != program.content_in_utc


def test_a_template_and_a_local_wait_are_the_same_in_every_version() -> None:
    text = (
        "flow: f\ntimezone: Asia/Shanghai\ntrigger: {event: a}\nsteps:\n- {wait: {until: 2026-12-01}}\n"
        "- {wait_for: {x: {event: x, where: {t: {before: '{{ now }}'}}}}, timeout: 1h}"
    )
    (program,) = compile_texts([FlowText("f.yaml", text)], Workspace()).programs
    assert program.content == program.content_in_utc


def test_the_arms_of_a_split_in_another_order_are_another_content() -> None:
    """The order decides who takes which arm, though a mapping with its keys in another order is the same mapping."""

    def of(split: str) -> str:
        text = f"flow: f\ntrigger: {{event: a}}\nsteps:\n- {{id: s, split: {split}, then: {{}}}}"
        (program,) = compile_texts([FlowText("f.yaml", text)], Workspace()).programs
        assert program.content == program.content_in_utc
        return program.content

    assert of("{a: 50%, b: 50%}") == of("{a:  50%,  b:  50%}")
    assert of("{a: 50%, b: 50%}") != of("{b: 50%, a: 50%}")


def of_labels(*labels: str) -> Checked:
    written = ", ".join(f"{label}: {{event: {label[0]}}}" for label in labels)
    text = f"flow: f\ntrigger: {{event: a}}\nsteps:\n- {{wait_for: {{{written}}}, timeout: 1h}}"
    return compile_texts([FlowText("f.yaml", text)], Workspace())


def test_labels_of_one_event_in_another_order_are_another_content_and_others_are_not() -> None:
    """Of those that one event satisfies the first wins."""
    assert of_labels("x", "y").programs[0].content == of_labels("y", "x").programs[0].content
    deployed = {LABEL: of_labels("x1", "y", "x2").programs[0].content}
    for same in (of_labels("x1", "y", "x2"), of_labels("y", "x1", "x2"), of_labels("x1", "x2", "y")):
        assert refuse_reused_versions(same, deployed) == []
    with pytest.raises(FlowError):
        refuse_reused_versions(of_labels("x2", "y", "x1"), deployed)


def test_a_version_that_was_deployed_before_the_order_of_labels_counted_goes_on() -> None:
    for now in (of_labels("x1", "x2"), of_labels("x2", "x1")):
        assert refuse_reused_versions(now, {LABEL: now.programs[0].content_unordered}) == []


def test_a_version_that_was_deployed_while_its_moments_were_utc_goes_on_and_is_named() -> None:
    now = checked(SHANGHAI, LOCAL)
    assert refuse_reused_versions(now, {LABEL: now.programs[0].content_in_utc}) == now.programs
    assert refuse_reused_versions(now, {LABEL: now.programs[0].content}) == []


def test_a_version_whose_moments_mean_something_else_now_is_refused() -> None:
    deployed = {LABEL: content(SHANGHAI, LOCAL)}
    for changed in (checked(SHANGHAI, ABSOLUTE), checked("timezone: Asia/Tokyo", LOCAL), checked(LOCAL)):
        with pytest.raises(FlowError) as caught:
            refuse_reused_versions(changed, deployed)
        assert [problem.code for problem in caught.value.problems] == ["version-reused"]


def test_an_end_of_the_active_period_may_be_written_as_nothing() -> None:
    (program,) = checked("active: {from: null, until: 2026-11-01}").programs
    assert (program.active_from, program.active_until) == (None, 1_793_491_200_000)
