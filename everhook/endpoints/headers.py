"""Which headers an endpoint may add to its requests."""

import re
from collections.abc import Mapping

from everhook.egress import header_fault
from everhook.errors import InvalidField

MAX_TOTAL_BYTES = 4_096

# For `fullmatch`: `$` would let a line feed at the end pass.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE = re.compile(r"[\x20-\x7e]*")
_FOLDED = re.compile(r"[^0-9a-z]")

_DENIED = frozenset(
    {
        "accept-encoding", "authorization", "connection", "content-encoding", "content-length", "content-type",
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


def check_custom_headers(headers: Mapping[str, str]) -> None:
    """Raise InvalidField for a header that Everhook sets itself, or that could not be sent safely."""
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_TOTAL_BYTES:
        raise InvalidField("headers", f"take more than {MAX_TOTAL_BYTES} bytes")
    for name, value in headers.items():
        field = f"headers.{name[:100]}"
        if not _NAME.fullmatch(name):
            raise InvalidField("headers", "a name has characters that no header name has")
        folded = _fold(name)
        if folded in _DENIED or folded.startswith(_DENIED_PREFIXES):
            raise InvalidField(field, "is set by Everhook, or by proxies" + _spelt(name, folded))
        if not _VALUE.fullmatch(value):
            raise InvalidField(field, "may have printable ASCII characters only")
        if fault := header_fault(name, value):
            raise InvalidField(field, fault)


def _fold(name: str) -> str:
    """The name as receivers may read it: CGI, WSGI and PHP replace every character that is not a letter or a digit by
    `_`, so `X_Forwarded.For` would pass there for a header of a proxy."""
    return _FOLDED.sub("-", name.lower())


def _spelt(name: str, folded: str) -> str:
    return "" if name.lower() == folded else f": many servers read it as {folded}"
