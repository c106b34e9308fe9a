"""The signature that Alibaba Cloud calls V3, ACS3-HMAC-SHA256: over a request as its gateway sees it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

ALGORITHM: Final = "ACS3-HMAC-SHA256"


def query_of(parameters: Mapping[str, str]) -> str:
    """Return *parameters* as they are signed and sent: in order of their names, percent-encoded as RFC 3986 has it."""
    return "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in sorted(parameters.items()))


def canonical(method: str, path: str, query: str, headers: Mapping[str, str]) -> tuple[str, str]:
    """Return the request in the form that is signed, and the names of the headers in it.

    Args:
        query: as `query_of` makes it.
        headers: with names in lower case, `x-acs-content-sha256` among them.
    """
    kept = {name: value.strip() for name, value in headers.items() if _is_signed(name)}
    names = ";".join(sorted(kept))
    head = "".join(f"{name}:{kept[name]}\n" for name in sorted(kept))
    return f"{method}\n{path}\n{query}\n{head}\n{names}\n{kept['x-acs-content-sha256']}", names


def authorization(request: str, names: str, key_id: str, secret: str) -> str:
    """Return the header `authorization` of a request in its canonical form."""
    to_sign = f"{ALGORITHM}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = hmac.digest(secret.encode(), to_sign.encode(), "sha256").hex()
    return f"{ALGORITHM} Credential={key_id},SignedHeaders={names},Signature={signature}"


def _is_signed(name: str) -> bool:
    return name in ("host", "content-type") or name.startswith("x-acs-")


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")
