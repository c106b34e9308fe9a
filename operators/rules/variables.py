"""The check for variables of a message: rendered in written order, the first that is missing or fails decides."""

from __future__ import annotations

from operators.limits import VARIABLES_BYTES_MAX, fits
from operators.rules.base import Check, Message, Refusal, Sending
from operators.templates.errors import TemplateFailed
from operators.templates.missing import MISSING
from operators.visit import Visit


def check_of(sending: Sending) -> Check | None:
    """Return the check, None for a message without variables."""
    variables = sending.variables
    if not variables:
        return None

    def check(visit: Visit, message: Message) -> Refusal | None:
        rendered = message.vars
        for name, value in variables:
            try:
                rendered[name] = value.render(visit)
            except TemplateFailed as error:
                return Refusal("template_error", {"variable": name, "error": str(error)})
            if rendered[name] is MISSING:
                return Refusal("missing_variable", {"variable": name})
        if not fits(rendered, VARIABLES_BYTES_MAX):
            said = f"the variables have more than {VARIABLES_BYTES_MAX} bytes"
            return Refusal("template_error", {"error": said})
        return None

    return check
