"""The check for a missing address: a text that is neither empty nor too long, where the channel needs one."""

from __future__ import annotations

from operators.limits import ADDRESS_CHARACTERS_MAX
from operators.rules.base import Check, Message, Refusal, Sending
from operators.templates.errors import TemplateFailed
from operators.visit import Visit


def check_of(sending: Sending) -> Check | None:
    """Return the check, None where nobody needs an address."""
    template, attribute = sending.to, sending.channel.address
    if template is None and attribute is None:
        return None

    def check(visit: Visit, message: Message) -> Refusal | None:
        try:
            address = visit.profile.get(attribute or "") if template is None else visit.render(template)
        except TemplateFailed as error:
            return Refusal("template_error", {"to": str(error)})
        if not isinstance(address, str) or not 0 < len(address) <= ADDRESS_CHARACTERS_MAX:
            source = f"profile.{attribute}" if template is None else template.source
            return Refusal("no_address", {"address": source})
        message.to = address
        return None

    return check
