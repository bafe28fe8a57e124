"""Bodies that are decoded without a model, so that JSON in them stays the very bytes that came."""

import re
from typing import TypeVar

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect

from api.problems import Problem, invalid, malformed
from everhook.publishing.json_faults import why_not_json

_PATH = re.compile(r" - at `\$\.?(.*)`$")

_ABOUT_A_MEMBER = {
    "Object missing required field `": "is required",
    "Object contains unknown field `": "is not a known field",
}

Body = TypeVar("Body")


async def read_body(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect as gone:
        raise malformed("ended before it was whole") from gone


def decoded(decoder: "msgspec.json.Decoder[Body]", body: bytes) -> Body:
    try:
        body.decode()  # msgspec does not check that a `Raw` is UTF-8; 0.2 us for 1 KB of ASCII
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(why_not_json(body, error)) from error


def _wrong_shape(complaint: str) -> Problem:
    """msgspec names fields in its text alone: ``Expected `str`, got `int` - at `$.messages[1].type` ``."""
    path = _PATH.search(complaint)
    at = path[1] if path else ""
    complaint = _PATH.sub("", complaint)
    for beginning, message in _ABOUT_A_MEMBER.items():
        if complaint.startswith(beginning):
            member = complaint.removeprefix(beginning).removesuffix("`")
            return invalid(f"{at}.{member}" if at else member, message)
    return invalid(at or "body", complaint)
