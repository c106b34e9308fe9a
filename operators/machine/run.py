"""A run over audiences, as it comes to one user: every flow of the run whose audience the user is in takes the user in.

Wake-ups that are due by then have fired, and no record of that time has been handled (`dataflow/runs.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from operators.language.values import DAY
from operators.machine.context import Moment
from operators.machine.deployment import Deployment
from operators.machine.entry import refuse_for_error, try_to_enter
from operators.machine.outbox import Mistake, Outbox
from operators.program.program import Program
from state.iso import format_ms
from state.records import Input
from state.user import User


def on_run(deployment: Deployment, user_id: str, user: User, flows: Iterable[str], at_ms: int, out: Outbox) -> None:
    """Let *user* enter each of *flows*, as they are in force now, at the planned time *at_ms*, if the user is a member.

    The trigger is the row of the first listed audience that the user is in; it has no name, as an event has one.
    """
    for name in flows:
        program = deployment.entering_by_name.get(name)
        audience = None if program is None else audience_of(program, user)
        if program is None or audience is None:
            continue
        message_id = f"{audience}@{format_ms(at_ms)}"
        row = user.audiences[audience]
        trigger = Input(user_id, at_ms, "", message_id, False, at_ms, row, None, (), -1, -1)
        moment = Moment(user_id, user, program, at_ms, out, trigger)
        user.day = max(user.day, at_ms // DAY + deployment.memory.days)
        begun = user.journeys_begun
        try:
            try_to_enter(moment)
        except Exception as error:
            out.mistakes.append(Mistake("entry", program.label, error))
            refuse_for_error(moment, error, begun)


def audience_of(program: Program, user: User) -> str | None:
    """Return the first audience of the flow's trigger that *user* is in, None if the user is in none of them."""
    if program.runs is None:
        return None
    return next((one for one in program.runs.audiences if one in user.audiences), None)
