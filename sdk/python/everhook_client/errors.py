"""Errors of calls.

EverhookError
├── InvalidName                 a gid or a name that cannot be in a path; nothing was sent
├── ConnectionFailed            no response: refused, reset, timed out, TLS
└── ApiError                    a response that is no success, with its problem document (RFC 9457)
    ├── InvalidRequest          400, 413, 422
    ├── AuthenticationFailed    401
    ├── PermissionDenied        403
    ├── NotFound                404
    ├── Conflict                409
    ├── RateLimited             429
    └── ServerError             5xx
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everhook_client.models import FieldError


class EverhookError(Exception):
    """Any error of this package."""


class InvalidName(EverhookError, ValueError):
    """A gid or a name that would change the path of a call. Nothing was sent."""


class ConnectionFailed(EverhookError):
    """There was no response. `was_sent`: the API may have received the request."""

    def __init__(self, detail: str, *, was_sent: bool = True) -> None:
        super().__init__(detail)
        self.was_sent = was_sent


class ApiError(EverhookError):
    """The API responded with a problem.

    `type` is what programs branch on, such as `/problems/not-found`; it is empty if the response is no problem
    document, for instance one of a proxy. `errors` names the fields of the request that are wrong. `retry_after` is in
    seconds. `document` is the JSON object of the response.
    """

    def __init__(
        self, status: int, document: Mapping[str, Any], *, retry_after: float | None = None, location: str = ""
    ) -> None:
        self.status = status
        self.document = dict(document)
        self.is_problem = isinstance(document.get("detail"), str)
        self.type = str(document.get("type", ""))
        self.title = str(document.get("title", ""))
        self.detail = str(document.get("detail", "")) or f"{location or 'The server'} responds, but not like Everhook."
        self.errors: Sequence[FieldError] = _field_errors(document)
        self.retry_after = retry_after
        super().__init__(f"{self.detail} ({status})")

    @property
    def slug(self) -> str:
        """The last part of the type, such as `not-found`."""
        return self.type.rpartition("/")[2]

    @property
    def errors_by_field(self) -> dict[str, str]:
        """What is wrong with each field, for people."""
        found: dict[str, str] = {}
        for error in self.errors:
            found[error["field"]] = "; ".join(filter(None, (found.get(error["field"]), error["message"])))
        return found


class InvalidRequest(ApiError):
    """The request is invalid: the same one fails again."""


class AuthenticationFailed(ApiError):
    """No API key was sent, or one that is unknown, revoked or expired."""


class PermissionDenied(ApiError):
    """The API key lacks the scope."""


class NotFound(ApiError):
    """There is no such thing, or this key may not see it."""


class Conflict(ApiError):
    """The state of the thing does not allow the call."""


class RateLimited(ApiError):
    """Too many calls: try again after `retry_after` seconds."""


class ServerError(ApiError):
    """Everhook, its database or a proxy cannot respond: try again later."""


_KINDS: Mapping[int, type[ApiError]] = {
    400: InvalidRequest,
    413: InvalidRequest,
    422: InvalidRequest,
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
}


def error_of(
    status: int, document: Mapping[str, Any], *, retry_after: float | None = None, location: str = ""
) -> ApiError:
    """The error of a response that is no success."""
    kind = ServerError if status >= 500 else _KINDS.get(status, ApiError)
    return kind(status, document, retry_after=retry_after, location=location)


def _field_errors(document: Mapping[str, Any]) -> Sequence["FieldError"]:
    errors = document.get("errors")
    found = errors if isinstance(errors, list) else []
    return [each for each in found if isinstance(each, dict) and {"field", "message"} <= each.keys()]  # type: ignore[misc]
