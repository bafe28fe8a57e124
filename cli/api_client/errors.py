"""Errors of calls to the API, each with its exit status and a hint."""

from typing import Any

from cli.errors import CommandError


class ApiError(CommandError):
    """The API returned a problem document, `document`."""

    def __init__(self, status_code: int, document: dict[str, Any], hint: str = "") -> None:
        self.status_code = status_code
        self.document = document
        super().__init__(_message(status_code, document) + (f" ({hint})" if hint else ""))


class Unavailable(CommandError):
    """The API cannot be reached, or says to retry later: the same command may succeed then."""

    status = 3


def _message(status_code: int, document: dict[str, Any]) -> str:
    """One line, or one line per field if several are wrong."""
    fields = [f"{error['field']}: {error['message']}" for error in fields_of(document)]
    if len(fields) > 1:
        return "\n  ".join([f"{document.get('title')} ({status_code})", *fields])
    return f"{document.get('detail')} ({status_code})"


def fields_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The field errors of a problem: each has a `field` and a `message`."""
    errors = document.get("errors")
    found = errors if isinstance(errors, list) else []
    return [error for error in found if isinstance(error, dict) and {"field", "message"} <= error.keys()]
