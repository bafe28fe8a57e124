"""Errors as RFC 9457 problem documents, all from here.

`type` is what programs branch on: see `api/problem_types.py`. `errors` names the fields of the request that are wrong,
each with a `code`: `[{"field": "policy.delaysSeconds", "code": "missing", "message": "…"}]`.
"""

import json
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from temporalio.client import RPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from api import patterns, problem_types
from api.problem_types import ProblemType
from api.unknown_fields import unknown_field
from everhook import field_errors
from everhook.errors import DomainError, InvalidField, Quota, RateLimited, TryLater
from everhook.publishing.json_faults import why_not_json
from everhook.storage.engine import DatabaseError, is_unavailable, reason
from everhook.temporal.client import NotConnected

RETRY_AFTER_S = 5
MAX_FIELDS_IN_DETAIL = 5

log = structlog.get_logger()


class FieldError(BaseModel):
    """One field of the request that is wrong."""

    field: str = Field(description="Where it is in the request.", examples=["policy.delaysSeconds[2]"])
    code: str = Field(description="What is wrong, for programs.", examples=["greater_than_equal"])
    message: str = Field(description="What is wrong, for people.")


class ProblemDocument(BaseModel):
    """The response to every call that fails (`application/problem+json`, RFC 9457)."""

    type: str = Field(
        description="What kind of problem it is, for programs.",
        json_schema_extra={"enum": [t.uri for t in problem_types.ALL]},
    )
    title: str
    status: int
    detail: str = Field(description="What happened in this case, for people.")
    errors: list[FieldError] = []


PROBLEM_JSON = "application/problem+json"
_REFERENCE = {"$ref": "#/components/schemas/Problem"}

DOCUMENTED: dict[int | str, dict[str, Any]] = {
    "default": {"description": "A problem document (RFC 9457)", "content": {PROBLEM_JSON: {"schema": _REFERENCE}}}
}
"""For OpenAPI: the response of every operation that fails. FastAPI's own `model` would say `application/json`."""


def schemas() -> dict[str, Any]:
    """For OpenAPI's components: `Problem` and `FieldError`."""
    problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"Problem": {**problem, "title": "Problem"}, **problem.pop("$defs")}


def documents(*kinds: ProblemType) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route: the problems that it can have in addition to those of every route."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        add_documented(found, kind.status.value, kind)
    return found


def add_documented(responses: dict[Any, dict[str, Any]], status: int | str, kind: ProblemType) -> None:
    """Add a problem to the documented responses of an operation, with an example that shows its `type`."""
    response = responses.setdefault(status, {})
    media = response.setdefault("content", {}).setdefault(PROBLEM_JSON, {"schema": _REFERENCE})
    examples = media.setdefault("examples", {})
    examples[kind.slug] = {"summary": kind.title, "value": Problem(kind, kind.meaning).document().model_dump()}
    response["description"] = " ".join(f"`{slug}`: {one['value']['detail']}" for slug, one in examples.items())


class Problem(Exception):
    """Raised anywhere below a route; becomes the response."""

    def __init__(
        self,
        kind: ProblemType,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status = kind.status
        self.detail = detail
        self.errors = list(errors)
        self.headers = headers

    def document(self) -> ProblemDocument:
        return ProblemDocument(
            type=self.kind.uri,
            title=self.kind.title,
            status=self.status.value,
            detail=self.detail,
            errors=self.errors,
        )


def invalid(field: str, message: str, code: str = "invalid") -> Problem:
    """One field of the request is wrong."""
    wrong = FieldError(field=field, code=code, message=message)
    return Problem(problem_types.INVALID_REQUEST, f"{field}: {message}", errors=[wrong])


def refuse_nulls(patch: BaseModel, but: Collection[str] = ()) -> None:
    """In a patch null is not the same as absent: it stands only where it means something."""
    for name in sorted(patch.model_fields_set.difference(but)):
        if getattr(patch, name) is None:
            raise invalid(to_camel(name), "cannot be null", "null")


def malformed(message: str, field: str = "body") -> Problem:
    """The request is not JSON of the expected shape at all."""
    wrong = FieldError(field=field, code="malformed", message=message)
    return Problem(problem_types.MALFORMED_REQUEST, f"{field}: {message}", errors=[wrong])


def conflict(detail: str) -> Problem:
    return Problem(problem_types.CONFLICT, detail)


def unavailable(detail: str) -> Problem:
    return Problem(problem_types.UNAVAILABLE, detail, headers={"retry-after": str(RETRY_AFTER_S)})


def from_error(request: Request, error: Exception) -> Problem:
    """What any error of a route is to its caller."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, DomainError):
        return from_domain(error)
    if isinstance(error, RequestValidationError):
        return _from_validation(request, error.errors())
    if isinstance(error, ClientDisconnect) or isinstance(error.__cause__, ClientDisconnect):
        return malformed("ended before it was whole")
    if isinstance(error, HTTPException):
        if error.status_code == HTTPStatus.BAD_REQUEST and isinstance(error.__cause__, ValueError | RecursionError):
            return malformed(why_not_json(_body_of(request), error.__cause__))
        if isinstance(error.__cause__, Problem):  # FastAPI's "there was an error parsing the body"
            return error.__cause__
        return _from_status(request, error)
    return _from_fault(request, error)


def from_domain(error: DomainError) -> Problem:
    """The problem that a domain error is to an HTTP caller."""
    if isinstance(error, InvalidField):
        fields = [FieldError(field=each.field, code=each.code, message=each.message) for each in (error, *error.others)]
        return Problem(problem_types.type_of(error), _detail_of(fields), errors=fields)
    headers: dict[str, str] | None = None
    if isinstance(error, TryLater):
        headers = {"retry-after": str(math.ceil(error.retry_after.total_seconds()))}
    if isinstance(error, RateLimited):
        headers = rate_headers([error.quota]) | (headers or {})
    return Problem(problem_types.type_of(error), str(error), headers=headers)


def rate_headers(quotas: Sequence[Quota]) -> dict[str, str]:
    """`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11): none without a limit."""
    if not quotas:
        return {}
    return {
        "ratelimit-policy": ", ".join(f'"{each.policy}";q={each.amount};w={each.window_s}' for each in quotas),
        "ratelimit": ", ".join(f'"{each.policy}";r={each.remaining};t={each.reset_s}' for each in quotas),
    }


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def _from_status(request: Request, error: HTTPException) -> Problem:
    """An error that the framework raises with a status alone. Of a path with several routes it knows the methods of one
    of them."""
    kind, detail = _kind_of_status(error.status_code), str(error.detail)
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if kind is problem_types.METHOD_NOT_ALLOWED:
        methods = [method for method in _METHODS if _has_route(request, method)]
        headers["allow"] = ", ".join(methods)
        detail = f"{_path(request)[:200]} has no {request.method[:20]}; it takes {' and '.join(methods)}."
    if kind is problem_types.NOT_FOUND and "endpoint" not in request.scope and _path(request).startswith("/v1"):
        detail = f"There is no {_path(request)[:200]}; /openapi.json lists what there is."
    return Problem(kind, detail, headers=headers)


def _has_route(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)


def _kind_of_status(status: int) -> ProblemType:
    kind = problem_types.OF_STATUSES.get(status)
    return kind or (
        problem_types.CONFLICT if status < HTTPStatus.INTERNAL_SERVER_ERROR else problem_types.INTERNAL_ERROR
    )


def response(request: Request, error: Exception) -> Response:
    """The problem document of any error, for what stands outside of the routes."""
    return _response(from_error(request, error))


Pages = Callable[[Request, Problem], Awaitable[Response | None]]


def install(app: FastAPI, for_browsers: Pages | None = None) -> None:
    """Respond to every error of the application with a problem document, or the page that `for_browsers` renders."""

    async def respond(request: Request, error: Exception) -> Response:
        problem = from_error(request, error)
        page = await for_browsers(request, problem) if for_browsers is not None else None
        return page or _response(problem)

    # Starlette raises what is handled as `Exception` again, for the server to log: fit for bugs, not for outages.
    for kind in (
        Problem,
        DomainError,
        ClientDisconnect,
        RequestValidationError,
        HTTPException,
        DatabaseError,
        RPCError,
        RPCTimeoutOrCancelledError,
        OSError,
        NotConnected,
        Exception,
    ):
        app.add_exception_handler(kind, respond)


def _response(problem: Problem) -> Response:
    """In ASCII, for it may repeat what was sent, and not all that Python takes for text can be written in UTF-8."""
    return Response(
        json.dumps(problem.document().model_dump()),
        status_code=problem.status,
        headers=dict(problem.headers or {}),
        media_type="application/problem+json",
    )


MAX_ERRORS = 100
"""Errors in one response: a body may have 100,000 unknown fields, and each is compared with the known ones."""


def _from_validation(request: Request, errors: Sequence[Any]) -> Problem:
    fields = [_field_error(request, error) for error in errors[:MAX_ERRORS]]
    if any(error["type"] == "json_invalid" for error in errors):
        return malformed(why_not_json(_body_of(request)))
    return Problem(problem_types.INVALID_REQUEST, _detail_of(fields), errors=fields)


def _detail_of(fields: Sequence[FieldError]) -> str:
    return "; ".join(f"{wrong.field}: {wrong.message}" for wrong in fields[:MAX_FIELDS_IN_DETAIL])


def _body_of(request: Request) -> bytes:
    """What was read of the body; nothing is waited for. Starlette keeps it here for those who ask again."""
    body: bytes = getattr(request, "_body", b"")
    return body


def _field(location: Sequence[int | str]) -> str:
    """`("body", "policy", "delaysSeconds", 2)` is `policy.delaysSeconds[2]`. A query parameter is its name alone, also
    where one of several values is wrong. A wrong key of an object has the name of the object."""
    if location[-1:] == ("[key]",):
        location = location[:-2]
    if location[:1] == ("query",):
        return str(location[1])
    name = ""
    for part in location[1:] if location[:1] in (("body",), ("query",), ("path",), ("header",)) else location:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name or "body"


def _field_error(request: Request, error: Mapping[str, Any]) -> FieldError:
    code, message = field_errors.code_of(error), _message(error)
    if code == field_errors.UNKNOWN:
        code, message = unknown_field(request, error["loc"])
    return FieldError(field=_field(error["loc"]), code=code, message=message)


def _message(error: Mapping[str, Any]) -> str:
    if error["loc"] == ("body",) and isinstance(error.get("input"), bytes):
        return "is not JSON; send it with `content-type: application/json`"
    if error["type"] == "string_unicode":
        return "has half of a surrogate pair, which UTF-8 cannot hold"
    pattern = error.get("ctx", {}).get("pattern", "")
    return patterns.WORDS.get(pattern) or field_errors.words_of(error)


def _path(request: Request) -> str:
    """The path of a request for the log, without the secret of a link."""
    path = request.url.path
    for name in ("token", "link"):
        path = path.replace(request.path_params.get(name) or "\0", "…")
    return path


def _from_fault(request: Request, error: Exception) -> Problem:
    """Bugs, and faults of the database and of Temporal: logged once, here."""
    if is_unavailable(error):
        log.error("the database is away", path=_path(request), error=reason(error))
        return unavailable("The database does not respond; nothing was changed. Try again.")
    if isinstance(error, RPCError):
        log.error("temporal refused or is away", path=_path(request), error=str(error))
        if error.status is RPCStatusCode.RESOURCE_EXHAUSTED:
            return Problem(
                problem_types.TEMPORAL_BUSY,
                "Temporal is busy. Try again.",
                headers={"retry-after": str(RETRY_AFTER_S)},
            )
        return unavailable("Temporal does not respond. Publishing works meanwhile; try this again.")
    if isinstance(error, RPCTimeoutOrCancelledError):
        log.error("no worker responded in time", path=_path(request), error=str(error))
        return unavailable("No worker responded in time; the call may still take effect. Check, and try again.")
    if isinstance(error, NotConnected):
        log.error("temporal is away", path=_path(request), error=str(error))
        return unavailable("Temporal does not respond. Publishing works meanwhile; try this again.")
    log.error("unhandled error", path=_path(request), exc_info=error)
    # The error is raised again for the server, which closes the connection: the client must not send on it.
    headers = {"connection": "close"}
    return Problem(problem_types.INTERNAL_ERROR, "A fault of Everhook. It was logged.", headers=headers)
