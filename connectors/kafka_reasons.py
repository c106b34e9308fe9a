"""Why no broker can be reached, as Kafka's client says it in its log, and what to check.

What the client raises is the same whatever the cause: "Broker transport failure". Some causes, as a listener that wants
TLS or a password, it tells only in a line of its log. So the clients that ask at the start log to a `Heard`.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final, NamedTuple

CHECK_ADDRESS: Final = "check the address and that it is up"
FRESH_S: Final = 60.0  # Clients repeat what they have said already only every 30 s.
HANDSHAKE_S: Final = 2.0
AT_ONCE_MS: Final = 2_000  # A listener of another kind hangs up at once; later it may be for any reason.

_FAILURE: Final = re.compile(
    r"(?:\[thrd:[^\]]*\]: )?(?:(?P<scheme>\w+)://)?(?P<broker>\S+)/(?P<which>bootstrap|\d+): (?P<what>.*?)"
    r"(?: \(after (?P<ms>\d+)ms in state (?P<state>\w+).*\))?$",
    re.DOTALL,
)
_MECHANISMS: Final = re.compile(r"broker's supported mechanisms: ?(.*)$")


class Reason(NamedTuple):
    """Why there is no connection to *broker*, in the client's words, and what to check."""

    what: str
    hint: str
    broker: str = ""

    def told(self, ca: str | None) -> str:
        """Return it as a text.

        Kafka's client says of any certificate only that it cannot be verified. So that is tried once more here, with
        the authorities in *ca*, to tell a certificate of another host from one of an authority that nobody trusts.
        """
        if _NOT_VERIFIED in self.what and (fault := _fault_of_certificate(self.broker, ca)):
            is_of_other_host = "mismatch" in fault
            hint = _OTHER_HOST if is_of_other_host else "check ssl.ca.location under kafka:"
            return f"{_NOT_VERIFIED}: {fault.rstrip('.')}; {hint}"
        return f"{self.what}; {self.hint}"


_NOT_VERIFIED: Final = "certificate verify failed"
_OTHER_HOST: Final = (
    "the certificate is for another host: write the host in --source and --sink, and in advertised.listeners of the "
    "broker, as the certificate has it"
)


def _fault_of_certificate(broker: str, ca: str | None) -> str:
    """Return what is wrong with the certificate that *broker* shows, "" where that cannot be told."""
    host, _, port = broker.rpartition(":")
    host = host.strip("[]")
    try:
        context = ssl.create_default_context(cafile=ca)
        with (
            socket.create_connection((host, int(port)), timeout=HANDSHAKE_S) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except (OSError, ValueError):
        return ""


class Heard:
    """Takes the log of a client, and remembers for a while why it could not connect.

    A client hands over its log when it is polled.
    """

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._last: Reason | None = None
        self._heard_s = 0.0

    def log(self, level: int, form: str, *parts: str) -> None:
        """Take a line: of Python's loggers this is all that a client calls."""
        reason = reason_of(parts[-1]) if parts[0] == "FAIL" else None
        if reason is not None:
            self._last, self._heard_s = reason, self._monotonic_s()

    @property
    def reason(self) -> Reason | None:
        """The last reason, None if there was none lately."""
        return self._last if self._monotonic_s() - self._heard_s < FRESH_S else None


def reason_of(line: str) -> Reason | None:
    """Return what a line of the client's log says of a failed connection; None if it says nothing of one."""
    found = _FAILURE.match(line)
    if found is None:
        return None
    return Reason(found["what"], _hint(found), found["broker"])


def _hint(found: re.Match[str]) -> str:
    what, broker, scheme = found["what"], found["broker"], found["scheme"] or ""
    has_tls, has_sasl = scheme.endswith("ssl"), scheme.startswith("sasl")
    state = found["state"]
    is_first_word = state == "APIVERSION_QUERY"
    is_first_question = state == "UP" and int(found["ms"]) < AT_ONCE_MS
    if "Failed to resolve" in what and found["which"] != "bootstrap":
        return (
            f"the cluster answers, but gives {broker} as the address of a broker, which this machine does not know: "
            "change advertised.listeners on the broker, or teach this machine the name"
        )
    if "Failed to resolve" in what:
        return "this machine does not know the host: check the address and the DNS"
    if "Connection refused" in what:
        return "nothing listens there: check host and port, and that the broker is up"
    if "timed out" in what or "unreachable" in what or "No route to host" in what:
        return "nothing answers there: check host and port, and firewalls in between"
    if "mechanism handshake failed" in what:
        supported = _MECHANISMS.search(what)
        if supported is not None and supported[1].strip():
            return f"set sasl.mechanism under kafka: to one of {supported[1].strip()}"
        return (
            "this listener has no SASL: check the port, or set security.protocol under kafka: to "
            f"{'SSL' if has_tls else 'PLAINTEXT'}"
        )
    if "authentication error" in what.lower():
        return "check sasl.username, sasl.password (NUDGE_KAFKA_SASL_PASSWORD) and sasl.mechanism under kafka:"
    if _NOT_VERIFIED in what:
        return (
            "check ssl.ca.location under kafka:, and that the certificate is for the host as it is written in --source "
            "and --sink"
        )
    if has_tls and "SSL connection closed" in what and state == "SSL_HANDSHAKE":
        return (
            "this listener seems to have no TLS: check the port, or set security.protocol under kafka: to "
            f"{'SASL_PLAINTEXT' if has_sasl else 'PLAINTEXT'}"
        )
    if has_tls and state == "SSL_HANDSHAKE":
        return (
            "check the options ssl... under kafka:; some brokers want a certificate of the client, too "
            "(ssl.certificate.location, ssl.key.location)"
        )
    if "Invalid response size" in what:
        return "this is no Kafka, or a listener with TLS: check the port, and security.protocol under kafka:"
    if is_first_word and not has_tls:
        return (
            "this listener seems to have TLS: check the port, or set security.protocol under kafka: to "
            f"{'SASL_SSL' if has_sasl else 'SSL'}"
        )
    if is_first_question and not has_sasl:
        return (
            "this listener seems to want SASL: check the port, or set security.protocol under kafka: to "
            f"{'SASL_SSL' if has_tls else 'SASL_PLAINTEXT'}, with sasl.mechanism, sasl.username and sasl.password"
        )
    return CHECK_ADDRESS
