"""The kinds of steps, one file each; a new kind is one more file and one entry here."""

from __future__ import annotations

from typing import Final

from operators.steps.audience import AudienceModel
from operators.steps.branch import BranchModel
from operators.steps.build import StepModel
from operators.steps.end import EndModel
from operators.steps.experiment import ExperimentModel
from operators.steps.goto import GotoModel
from operators.steps.parallel import ParallelModel
from operators.steps.result_of import ResultOfModel
from operators.steps.send import SendModel
from operators.steps.set import SetModel
from operators.steps.split import SplitModel
from operators.steps.times import TimesModel
from operators.steps.wait import WaitModel
from operators.steps.wait_for import WaitForModel

KINDS: Final[dict[str, type[StepModel]]] = {
    model.kind: model
    for model in (
        SendModel,
        SetModel,
        AudienceModel,
        WaitModel,
        WaitForModel,
        BranchModel,
        ResultOfModel,
        SplitModel,
        ExperimentModel,
        ParallelModel,
        TimesModel,
        GotoModel,
        EndModel,
    )
}
