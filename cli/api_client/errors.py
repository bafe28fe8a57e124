"""Errors of calls to the API, each with its exit status and a hint."""

import re
from collections.abc import Mapping
from typing import Any, Self

from cli.errors import CommandError


class ApiError(CommandError):
    """The API returned a problem document, `document`."""

    def __init__(
        self, status_code: int, document: dict[str, Any], hint: str = "", options: Mapping[str, str] | None = None
    ) -> None:
        self.status_code = status_code
        self.document = document
        self._hint = hint
        super().__init__(_message(status_code, document, options or {}) + (f" ({hint})" if hint else ""))

    def in_options(self, options: Mapping[str, str]) -> Self:
        """The same, with options of the command line in place of the fields of the request that they set."""
        return type(self)(self.status_code, self.document, self._hint, options)


class Unavailable(CommandError):
    """The API cannot be reached, or says to retry later: the same command may succeed then."""

    status = 3


def _message(status_code: int, document: dict[str, Any], options: Mapping[str, str]) -> str:
    """One line, or one line per field if several are wrong."""
    fields = [f"{_named(str(error['field']), options)}: {error['message']}" for error in fields_of(document)]
    if len(fields) > 1:
        return "\n  ".join([f"{document.get('title')} ({status_code})", *fields])
    return f"{fields[0] if fields else document.get('detail')} ({status_code})"


def _named(field: str, options: Mapping[str, str]) -> str:
    """`--policy.timeoutSeconds` for the field `policy.timeoutSeconds`, where the option `--policy` sets `policy`."""
    root = re.split(r"\W", field, maxsplit=1)[0]
    return options.get(root, root) + field.removeprefix(root)


def fields_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The field errors of a problem: each has a `field` and a `message`."""
    errors = document.get("errors")
    found = errors if isinstance(errors, list) else []
    return [error for error in found if isinstance(error, dict) and {"field", "message"} <= error.keys()]
