"""What can go wrong on the way out, divided by who is responsible: the URL, the endpoint, or Everhook itself."""

from __future__ import annotations

import errno

from everhook.contracts import FailureCode

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_LOCAL_PORT = errno.EADDRNOTAVAIL


class LocalError(Exception):
    """The request could not even be tried: no file descriptor, local port, resolver thread or proxy. Never charged."""


class UnsendableRequest(LocalError):
    """The client refuses this request before a byte of it was sent, and will refuse it again as long as it is the same.

    Such as a header value that begins with a blank. The message holds no header value and no secret.
    """


class UrlRefused(ValueError):
    """A URL that nothing is sent to. `rule` says why, as the predicate of a sentence about the URL.

    It never says what a name resolved to, so callers may see it. `setting` is the one that would permit the URL, if
    there is one: for operators.
    """

    def __init__(self, rule: str, setting: str | None = None) -> None:
        super().__init__(f"the URL {rule}")
        self.rule = rule
        self.setting = setting


class TlsRefused(ValueError):
    """A CA, certificate or key of an endpoint that cannot be used. `rule` says why and holds none of them."""

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

    ENETUNREACH is charged to the endpoint: a machine without IPv6 reports it too for an endpoint that has nothing
    else. EADDRNOTAVAIL is ours (no local port left), except for IPv6, where it also means that the machine has none.
    """
    number = error_number(error)
    if number in _OURS or (number == _NO_LOCAL_PORT and not ipv6):
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


def is_ours(error: OSError) -> bool:
    return error.errno in _OURS


def error_number(error: BaseException | None) -> int | None:
    """The first error number along the chain of causes: backends wrap the socket's error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def quoted(received: bytes) -> str:
    """Bytes from outside in a message for people: printable ASCII as it is, everything else escaped."""
    return '"' + received.decode("latin-1").encode("unicode_escape").decode("ascii") + '"'
