"""What may go wrong between us and the API, each with its exit status and with what to do."""

from typing import Any

from cli.errors import CommandError


class ApiError(CommandError):
    """The API answered with a problem. `document` is what it said."""

    def __init__(self, status_code: int, document: dict[str, Any], hint: str = "") -> None:
        self.status_code = status_code
        self.document = document
        super().__init__(_told(status_code, document) + (f" ({hint})" if hint else ""))


class Unavailable(CommandError):
    """It cannot be reached, or asks to come again later: the same command may succeed in a while."""

    status = 3


def _told(status_code: int, document: dict[str, Any]) -> str:
    """In one line, or with a line for each field where several are wrong."""
    fields = [f"{error['field']}: {error['message']}" for error in fields_of(document)]
    if len(fields) > 1:
        return "\n  ".join([f"{document.get('title')} ({status_code})", *fields])
    return f"{document.get('detail')} ({status_code})"


def fields_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What a problem says of single fields: each a `field` and a `message`."""
    errors = document.get("errors")
    found = errors if isinstance(errors, list) else []
    return [error for error in found if isinstance(error, dict) and {"field", "message"} <= error.keys()]
