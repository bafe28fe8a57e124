"""Errors of egress, divided by who is responsible: the URL, the endpoint, or Everhook itself."""

from __future__ import annotations

import errno

from everhook.contracts import FailureCode

_LOCAL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_LOCAL_PORT = errno.EADDRNOTAVAIL


class LocalError(Exception):
    """The request could not be tried: no file descriptor, local port, resolver thread or proxy. The endpoint is not
    charged."""


class UnsendableRequest(LocalError):
    """The client refuses this request before sending a byte of it, and will refuse it again while it is unchanged:
    for example, a header value begins with a blank. The message contains no header value and no secret."""


class UrlRefused(ValueError):
    """A URL that nothing is sent to. `rule` says why, as the predicate of a sentence about the URL.

    It never says what a name resolved to, so callers may see it. `setting` is the setting that would permit the URL, if
    there is one; it is for operators.
    """

    def __init__(self, rule: str, setting: str | None = None) -> None:
        super().__init__(f"the URL {rule}")
        self.rule = rule
        self.setting = setting


class TlsRefused(ValueError):
    """A CA, certificate or key of an endpoint that cannot be used. `rule` says why and contains none of them."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"TLS settings refused: {rule}")
        self.rule = rule


class EndpointFailure(Exception):
    """A failure of the endpoint, or (`BLOCKED`) a refusal by policy. It does not leave `everhook.egress`."""

    def __init__(self, code: FailureCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def dial_failure(error: BaseException, *, ipv6: bool) -> EndpointFailure | LocalError:
    """What a failed TCP connect means.

    ENETUNREACH is charged to the endpoint: a machine without IPv6 also reports it for an endpoint with IPv6 only.
    EADDRNOTAVAIL is a local error (no port left), except for IPv6, where it also means that the machine has no address.
    """
    number = error_number(error)
    if number in _LOCAL or (number == _NO_LOCAL_PORT and not ipv6):
        return LocalError(f"no socket available ({errno.errorcode[number]})")
    match number:
        case errno.ECONNREFUSED:
            return EndpointFailure(FailureCode.REFUSED, "connection refused")
        case errno.ECONNRESET:
            return EndpointFailure(FailureCode.RESET, "connection reset while connecting")
        case errno.ETIMEDOUT:
            return EndpointFailure(FailureCode.TIMEOUT_CONNECT, "no response to the connection attempt")
        case _:
            name = errno.errorcode.get(number or 0, "no route")
            return EndpointFailure(FailureCode.UNREACHABLE, f"cannot be reached ({name})")


def is_local(error: OSError) -> bool:
    return error.errno in _LOCAL


def error_number(error: BaseException | None) -> int | None:
    """The first error number in the chain of causes: backends wrap the error of the socket."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def quoted(received: bytes) -> str:
    """Received bytes for a message: printable ASCII as it is, everything else escaped."""
    return '"' + received.decode("latin-1").encode("unicode_escape").decode("ascii") + '"'
