"""How a command ends with each exception: with a line and an exit status, or, for a bug, with a traceback."""

from __future__ import annotations

import errno
import importlib
import inspect
import pkgutil

import pytest

import connectors
import dataflow
import operators
import state
from connectors.kafka import KafkaUnavailable
from connectors.sources import SourceError
from dataflow.cli import _failed
from dataflow.errors import UsageError
from operators.language.problems import FlowError, Problem
from state.errors import (
    ExpectedError,
    NewerFormatError,
    StateRefused,
    StoreError,
    exit_status_of,
    in_one_line,
    is_expected,
)

STATUSES = {
    "ExpectedError": None,
    "Refused": 2,
    "UsageError": 2,
    "FlowError": 2,
    "OptionRefused": 2,
    "StateRefused": 2,
    "DecidedOtherwise": 2,
    "NewerFormatError": 2,
    "Failed": 1,
    "DeliveryFailed": 1,
    "DemoFailed": 1,
    "JobFailed": 1,
    "KafkaUnavailable": 1,
    "LedgerAway": 1,
    "LedgerRefuses": 1,
    "SinkError": 1,
    "SourceError": 1,
    "StoreError": 1,
}

CAUGHT_WHERE_THEY_ARISE = {
    "BadValue": "the parser's caller makes a problem or a dead letter of it",
    "TemplateSyntaxError": "compiling a flow makes a problem of it",
    "TemplateFailed": "the journey fails, and goes on record",
    "MissingValue": "the template is missing as a whole",
    "_Broken": "the audit has noted the shard as damaged",
    "NotJson": "the file is read as YAML instead",
    "ForbiddenAddress": "the call is rejected, or its channel stops",
    "_Unwritten": "the call counts as not made",
    "NotTheirs": "the gateway answers with 401",
    "Unfit": "the action is rejected",
    "GroupError": "delivery ends as DeliveryFailed; the gateway reads anew",
    "WriteFailed": "the gateway answers with 503 or 400; delivery ends as DeliveryFailed",
    "_Wrong": "the setting is refused as a UsageError",
    "DeliverFailed": "the command ends as DeliveryFailed",
    "NotTaken": "the gateway answers the request with it",
    "Unreadable": "the record, or the item of a batch, becomes a dead letter",
}
"""What never reaches the end of a command. If it does, that is a bug."""


def test_every_exception_has_its_place_in_the_tree_or_never_gets_far() -> None:
    found = _exceptions()
    expected = {one.__name__: getattr(one, "exit_status", None) for one in found if issubclass(one, ExpectedError)}
    assert expected == STATUSES
    assert {one.__name__ for one in found} - set(expected) == set(CAUGHT_WHERE_THEY_ARISE)


def _exceptions() -> list[type[Exception]]:
    """Return the exception classes that are defined in the packages of the product."""
    found = []
    for package in (state, operators, connectors, dataflow):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            members = inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
            found += [one for _, one in members if issubclass(one, Exception) and one.__module__ == module.name]
    return found


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UsageError("--epoch: no"), 2, "--epoch: no\n"),
        (FlowError([Problem("a.yaml", 1, 2, "steps", "x", "is wrong")]), 2, "a.yaml: 1 problem\n"),
        (StateRefused("is damaged"), 2, "is damaged\n"),
        (NewerFormatError("is newer"), 2, "is newer\n"),
        (StoreError("cannot be read"), 1, "nudge: cannot be read\n"),
        (KafkaUnavailable("is away"), 1, "nudge: is away\n"),
        (SourceError("is gone \udcff"), 1, "nudge: is gone ?\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "nudge: [Errno 28] No space left on device\n"),
    ],
)
def test_what_people_can_mend_is_told_in_a_line(
    error: Exception, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _failed(error) == status
    assert capsys.readouterr().err.startswith(said)
    assert is_expected(error)


@pytest.mark.parametrize("error", [KeyError("x"), PermissionError(errno.EACCES, "Permission denied"), ValueError("x")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    assert exit_status_of(error) is None
    with pytest.raises(type(error)):
        _failed(error)


def test_a_process_of_the_job_logs_what_the_system_says_without_a_traceback() -> None:
    assert is_expected(PermissionError(errno.EACCES, "Permission denied"))
    assert not is_expected(KeyError("x"))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StoreError("cannot write st/shards/03"), "cannot write st/shards/03"),
        (KeyError("x"), "KeyError: 'x'"),
        (TimeoutError(), "TimeoutError: "),
    ],
)
def test_an_error_in_one_line_has_its_kind_where_the_message_alone_may_say_too_little(
    error: Exception, line: str
) -> None:
    assert in_one_line(error) == line
