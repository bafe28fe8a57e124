"""What can go wrong on the way out, split by whose doing it is: the URL's, the endpoint's, or our own."""

from __future__ import annotations

import errno

import httpx

from everhook.contracts import FailureCode

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_LOCAL_PORT = errno.EADDRNOTAVAIL


class OurFault(Exception):
    """We could not even try: no file descriptor, no local port, no resolver thread, no proxy. Never charged."""


class UrlRefused(ValueError):
    """A URL that we do not send to. `rule` says why and never what a name resolved to, so callers may see it."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"URL refused: {rule}")
        self.rule = rule


class TlsRefused(ValueError):
    """A CA, certificate or key of an endpoint that cannot be used. `rule` says why and holds none of them."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"TLS settings refused: {rule}")
        self.rule = rule


class EndpointFailure(httpx.TransportError):
    """The endpoint's doing, or (`BLOCKED`) our policy. Becomes a value before it leaves `everhook.egress`."""

    def __init__(self, code: FailureCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def dial_failure(error: BaseException, *, ipv6: bool) -> EndpointFailure | OurFault:
    """What a failed TCP connect means.

    ENETUNREACH is charged to the endpoint: it is also what a machine without IPv6 says of an endpoint with nothing
    else. EADDRNOTAVAIL is ours (no local port left), except for IPv6, where it too says that the machine has none.
    """
    number = error_number(error)
    if number in _OURS or (number == _NO_LOCAL_PORT and not ipv6):
        return OurFault(f"no socket to be had ({errno.errorcode[number]})")
    match number:
        case errno.ECONNREFUSED:
            return EndpointFailure(FailureCode.REFUSED, "connection refused")
        case errno.ECONNRESET:
            return EndpointFailure(FailureCode.RESET, "connection reset while connecting")
        case errno.ETIMEDOUT:
            return EndpointFailure(FailureCode.TIMEOUT_CONNECT, "no answer to the connection attempt")
        case _:
            name = errno.errorcode.get(number or 0, "no route")
            return EndpointFailure(FailureCode.UNREACHABLE, f"cannot be reached ({name})")


def is_ours(error: OSError) -> bool:
    return error.errno in _OURS


def error_number(error: BaseException | None) -> int | None:
    """The first error number down the chain: anyio and httpcore wrap what the socket said."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__ or error.__context__
    return None
