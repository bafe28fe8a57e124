"""Requests as they are sent, and the check whether one can be sent.

`header_fault` uses the rules of the client itself, so that a header that cannot be sent is refused when it is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import h11
import httpx

from everhook.egress.errors import UnsendableRequest

_OWN = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "upgrade", "expect"}
)  # fmt: skip
"""Headers that only the client sets: they define the framing of the message and the connection."""


@dataclass(frozen=True)
class Request:
    """A request that h11 has accepted: it cannot fail before its first byte is sent."""

    url: httpx.URL
    head: h11.Request
    body: bytes


def compose(url: httpx.URL, headers: Sequence[tuple[str, str]], body: bytes) -> Request:
    """Compose a POST with exactly `headers` plus `Host`, `Content-Length` and `Accept-Encoding: identity`.

    Raises `UnsendableRequest`, which names the invalid header.
    """
    try:
        given = [(_name(name), value.encode("ascii")) for name, value in headers]
        length = str(len(body)).encode()
        own = ((b"Host", url.netloc), (b"Accept-Encoding", b"identity"), (b"Content-Length", length))
        return Request(url, h11.Request(method=b"POST", target=url.raw_path, headers=[*own, *given]), body)
    except (ValueError, h11.LocalProtocolError):
        faults = ((name, header_fault(name, value)) for name, value in headers)
        wrong = [f"the header {name[:100]!r} {fault}" for name, fault in faults if fault is not None]
        # Without the cause: h11's message quotes the value, which may be a secret.
        raise UnsendableRequest(wrong[0] if wrong else "the URL cannot be written as a request line") from None


def header_fault(name: str, value: str) -> str | None:
    """Why the client would refuse this header, as the predicate of a sentence; None if it would send it."""
    if name.lower() in _OWN:
        return "is set by Everhook itself"
    if not name.isascii() or not value.isascii():
        return "has characters outside ASCII"
    if not _is_accepted(name, ""):
        return "has a name with characters that no header name may have"
    if not _is_accepted(name, value):
        blank = value != value.strip()
        return "has a value that begins or ends with a blank" if blank else "has a control character in its value"
    return None


def _name(name: str) -> bytes:
    if name.lower() in _OWN:
        raise ValueError
    return name.encode("ascii")


def _is_accepted(name: str, value: str) -> bool:
    try:
        h11.Request(method=b"POST", target=b"/", headers=[("Host", "a"), (name, value)])
    except h11.LocalProtocolError:
        return False
    return True
