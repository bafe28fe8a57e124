"""Which headers an endpoint may add to its requests."""

import re
from collections.abc import Collection, Mapping

from everhook.egress import header_fault
from everhook.errors import InvalidField

AUTHORIZATION = "authorization"
MAX_TOTAL_BYTES = 4_096

# For `fullmatch`: `$` would let a line feed at the end pass.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE = re.compile(r"[\x20-\x7e]*")
_FOLDED = re.compile(r"[^0-9a-z]")
_NO_NAME = "has characters that no header name has"

_DENIED = frozenset(
    {
        "accept-encoding", "connection", "content-encoding", "content-length", "content-type",
        "cookie", "date", "expect", "forwarded", "host", "http2-settings", "keep-alive", "origin", "referer",
        "set-cookie", "te", "trailer", "traceparent", "tracestate", "transfer-encoding", "upgrade", "user-agent",
        "via", "x-idempotency-key", "x-npayload-signature", "x-real-ip",
    }
)  # fmt: skip
_DENIED_PREFIXES = (
    "webhook-",
    "svix-",
    "x-webhook-",
    "x-forwarded-",
    "x-everhook-",
    "proxy-",
    "sec-",
    "access-control-",
)


def check_custom_headers(headers: Mapping[str, str], kept: Collection[str] = ()) -> None:
    """Raise InvalidField for a header that Everhook sets itself, or that could not be sent safely. `kept` are those
    that the endpoint has already: they stay usable, even if they would be refused now."""
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_TOTAL_BYTES:
        raise InvalidField("headers", f"take more than {MAX_TOTAL_BYTES} bytes")
    for name, value in headers.items():
        if name in kept:
            continue
        if not _NAME.fullmatch(name):
            raise InvalidField("headers", f"a name {_NO_NAME}")
        if fault := _reserved(name) or name_fault(name) or value_fault(name, value):
            raise InvalidField(f"headers.{name[:100]}", fault)


def name_fault(name: str) -> str | None:
    """Why no endpoint may set this header, as the predicate of a sentence."""
    if not _NAME.fullmatch(name):
        return _NO_NAME
    folded = fold(name)
    if folded in _DENIED or folded.startswith(_DENIED_PREFIXES):
        return "is set by Everhook, or by proxies" + _spelt(name, folded)
    return None


def value_fault(name: str, value: str) -> str | None:
    """Why a header cannot have this value, as the predicate of a sentence."""
    if not _VALUE.fullmatch(value):
        return "may have printable ASCII characters only"
    return header_fault(name, value)


def _reserved(name: str) -> str | None:
    if fold(name) != AUTHORIZATION:
        return None
    return "belongs to `auth`, which has the types bearer, basic, header and oauth2"


def fold(name: str) -> str:
    """The name as receivers may read it: CGI, WSGI and PHP replace every character that is not a letter or a digit by
    `_`, so `X_Forwarded.For` would pass there for a header of a proxy."""
    return _FOLDED.sub("-", name.lower())


def _spelt(name: str, folded: str) -> str:
    return "" if name.lower() == folded else f": many servers read it as {folded}"
