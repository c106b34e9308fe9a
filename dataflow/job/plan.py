"""What the parent tells its processes to do: one plan for one execution of the job, the same for all of them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from dataflow.read.discovery import PartitionPlan
from dataflow.urls import SinkUrl
from operators.language.workspace import DEAD_LETTERS, JOURNAL, read_workspace
from operators.machine.deployment import Deployment
from operators.program.flows import FlowText, compile_texts


class Plan(msgspec.Struct):
    """One execution of the job.

    `keeps_sent` tells whether it is kept what is sent, for the receipts. `users_in_memory` is how many users a shard
    may keep there between checkpoints. `finishes_a_run` tells whether it is only the rest of a run that was
    interrupted. A draft is there to load and compile what it needs; the plan itself follows when it is this process's
    turn. `begins` says when versions of flows begin whose runs are planned, see `operators/machine/planning.py`.
    """

    state: str
    job: str
    shards: int
    shard_keys: Literal["numbers", "even"]
    processes: int
    addresses: list[str]
    partitions: list[PartitionPlan]
    ordered: bool
    until_ms: int | None
    sink_kind: str
    sink_bootstrap: str
    sink_folder: str
    sink_options: dict[str, str]
    sink_number: int
    create_topics: bool
    kafka: dict[str, Any]
    flows: list[tuple[str, str]]
    workspace: str
    read_back: dict[str, list[int]] | None
    positions: dict[str, int]
    epoch_s: float
    users_in_memory: int
    log_level: str
    log_format: str
    durable: bool = True
    finishes_a_run: bool = False
    is_draft: bool = False
    accept_difference: bool = False
    keeps_sent: bool = False
    begins: dict[str, int] = {}

    @property
    def sink_url(self) -> SinkUrl:
        return SinkUrl(self.sink_kind, self.sink_bootstrap, self.sink_folder, self.sink_options)

    def has_flows_of(self, other: Plan) -> bool:
        """Tell whether the deployment of *other* is that of this plan, too."""
        return (self.flows, self.workspace) == (other.flows, other.workspace)

    def deployment(self) -> Deployment:
        """Return the flows as this plan has them; they were checked when the plan was made."""
        workspace, _ = read_workspace("nudge.yaml", self.workspace.encode())
        checked = compile_texts([FlowText(file, text) for file, text in self.flows], workspace)
        assert not checked.has_errors, checked.problems
        return Deployment(checked.programs)

    def dump(self) -> bytes:
        """Return the plan as it goes to the processes, a line: through a pipe, since it may hold secrets of Kafka."""
        return msgspec.json.encode(self) + b"\n"


def load_plan(data: bytes) -> Plan:
    """Return the plan that the parent sent."""
    return msgspec.json.decode(data, type=Plan)


def topics_of(deployment: Deployment) -> list[str]:
    """Return all topics that flows in force write to."""
    return [*sorted({*deployment.topics.values()}), JOURNAL, DEAD_LETTERS]
