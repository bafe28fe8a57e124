"""Forms as browsers send them: small, from our own pages, with the session's token."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from api import problem_types
from api.problems import Problem, malformed
from everhook.errors import DomainError, InvalidField
from everhook.field_errors import words_of

MAX_FIELDS = 600
MAX_PARSED_AT_ONCE = 64 * 1024
"""Bytes. Longer forms are parsed in a thread, so that other requests do not wait."""

PLAIN = {
    "string_pattern_mismatch": "has characters that it cannot have, or is too long",
    "datetime_from_date": "is not a date and time",
    "datetime": "is not a date and time",
    "enum": "is none of those",
    "int": "is not a number",
    "int_type": "is not a whole number",
    "finite_number": "is not a number",
    "greater_than": "is too small",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
}
"""Messages for people, by the type of an error of pydantic, in place of its own."""

TOKEN_FIELD = "form_token"  # noqa: S105 - the name of a field


class Form:
    """A submitted form. Text is stripped; fields that were left empty are absent."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = [(name, value.strip().replace("\r\n", "\n")) for name, value in pairs if value.strip()]

    def get(self, name: str, default: str = "") -> str:
        return next((value for key, value in self._pairs if key == name), default)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self._pairs if key == name]

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self._pairs)

    @property
    def values(self) -> dict[str, str]:
        """The first value of each field, to fill a form with that is shown again."""
        return {key: self.get(key) for key, _ in self._pairs if key != TOKEN_FIELD}


async def read_form(request: Request) -> Form:
    body = await request.body()
    return await asyncio.to_thread(_form_of, body) if len(body) > MAX_PARSED_AT_ONCE else _form_of(body)


def _form_of(body: bytes) -> Form:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise malformed("is not a form") from error
    if any("\x00" in value for _, value in pairs):
        raise malformed("has a character that no text has")
    return Form(pairs)


def refuse_foreign(request: Request, *, has_referrer: bool = True) -> None:
    """Raise 403 for a form that another site had sent. Browsers say where a request comes from; the older ones say it
    in `Origin` alone, which a proxy that rewrites `Host` makes hard to compare. From a page with the policy
    `no-referrer` it is always `null`."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        ours = site == "same-origin"
    else:
        ours = (
            origin is None
            or (origin == "null" and not has_referrer)
            or urlsplit(origin).netloc == request.headers.get("host")
        )
    if not ours:
        raise Problem(problem_types.FORBIDDEN, "This form was sent from another site. Nothing was changed.")


FIELDS = {
    "delaysSeconds": "delays",
    "initialSeconds": "initial",
    "capSeconds": "cap",
    "timeoutSeconds": "timeout",
    "maxWindowSeconds": "window",
    "retryStatuses": "statuses",
    "factor": "factor",
    "attempts": "attempts",
    "jitter": "jitter",
    "exponential": "schedule",
    "policy": "schedule",
    "expiresAt": "days",
    "options": "inboxName",
    "leaseSeconds": "leaseSeconds",
    "maxInFlight": "maxInFlight",
    "assignees": "assignees",
    "dueSeconds": "dueHours",
    "handler": "handler",
    "retentionDays": "retention",
    "failureThreshold": "failureThreshold",
    "cooldownSeconds": "cooldown",
    "cooldownMaxSeconds": "cooldownMax",
    "disableAfterHours": "disableAfter",
    "releasePerSecond": "releasePerSecond",
    "releasePerSecondMax": "releasePerSecondMax",
    "successRateBelow": "alertSuccessRate",
    "latencyAboveMs": "alertLatency",
    "overMinutes": "alertOver",
    "minAttempts": "alertAttempts",
    "deadLettersAbove": "alertDeadLetters",
}
"""The fields of forms, by the name of the member in the API whose errors they show."""


FormError = ValidationError | Problem | DomainError
"""What is wrong with a form, or keeps it from being carried out."""

AUTH_FIELDS: Mapping[str, str] = {
    "token": "authSecret",
    "username": "authName",
    "password": "authSecret",
    "name": "authName",
    "value": "authSecret",
    "tokenUrl": "authTokenUrl",
    "clientId": "authName",
    "clientSecret": "authSecret",
    "scope": "authScope",
    "audience": "authAudience",
}
"""Fields of the form for the parts of an endpoint's `auth`, of which each type has one name and one secret at most."""


def wrong_fields(error: FormError) -> Mapping[str, str]:
    """What is wrong, by the field of the form; under the empty name what concerns all of it."""
    if isinstance(error, InvalidField):
        return {_field(re.split(r"[.\[]", error.field)): error.message}
    if isinstance(error, DomainError):
        return {"": str(error)}
    if isinstance(error, Problem):
        return {_field(re.split(r"[.\[]", each.field)): each.message for each in error.errors} or {"": error.detail}
    return {
        _field([to_camel(str(part)) for part in each["loc"]]): PLAIN.get(
            each["type"].partition("_parsing")[0], words_of(each)
        )
        for each in error.errors()
    }


def _field(path: Sequence[str]) -> str:
    """The deepest part that there is a field for."""
    if path and path[0] == "auth":
        return AUTH_FIELDS.get(path[1] if len(path) > 1 else "", "authType")
    return next((FIELDS[part] for part in reversed(path) if part in FIELDS), path[0] if path else "")
