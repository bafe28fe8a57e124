"""Bodies that are decoded without a model, so that JSON in them stays the very bytes that came."""

import re
from typing import TypeVar

import msgspec

from api.problems import Problem, invalid, malformed
from everhook.errors import MalformedPayload
from everhook.publishing.json_faults import why_not_json

_PATH = re.compile(r" - at `\$\.?(.*)`$")

_ABOUT_A_MEMBER = {
    "Object missing required field `": "is required",
    "Object contains unknown field `": "is not a known field",
}

Body = TypeVar("Body")


def decoded(decoder: "msgspec.json.Decoder[Body]", body: bytes) -> Body:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(why_not_json(body, error)) from error


def checked_utf8(member: bytes, field: str) -> bytes:
    """A member that is kept as it came: msgspec does not check that texts in a `Raw` are UTF-8. Raises 400."""
    try:
        member.decode()
    except UnicodeDecodeError as error:
        raise MalformedPayload(field, why_not_json(member, error), "malformed") from error
    return member


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
