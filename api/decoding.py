"""Bodies that are decoded without a model, so that JSON in them stays the very bytes that came."""

import re
from typing import TypeVar

import msgspec

from api.problems import Problem, invalid, malformed
from api.unknown_fields import names_in
from everhook.errors import MalformedPayload
from everhook.field_errors import MISSING, UNKNOWN, unknown_words, words
from everhook.publishing.json_faults import why_not_json

_PATH = re.compile(r" - at `\$\.?(.*)`$")

_REQUIRED = "missing required"
_ABOUT_A_MEMBER = re.compile(rf"Object ({_REQUIRED}|contains unknown) field `(.*)`", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(\w+)")
_TYPES = {
    "str": "string_type",
    "int": "int_type",
    "float": "float_type",
    "bool": "bool_type",
    "array": "list_type",
    "object": "dict_type",
}

Body = TypeVar("Body")


def decoded(decoder: "msgspec.json.Decoder[Body]", body: bytes) -> Body:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error), decoder.type) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(why_not_json(body, error)) from error


def checked_utf8(member: bytes, field: str) -> bytes:
    """A member that is kept as it came: msgspec does not check that texts in a `Raw` are UTF-8. Raises 400."""
    try:
        member.decode()
    except UnicodeDecodeError as error:
        raise MalformedPayload(field, why_not_json(member, error), "malformed") from error
    return member


def _wrong_shape(complaint: str, struct: type) -> Problem:
    """msgspec names fields in its text alone: ``Expected `str`, got `int` - at `$.messages[1].type` ``."""
    path = _PATH.search(complaint)
    at = path[1] if path else ""
    complaint = _PATH.sub("", complaint)
    about = _ABOUT_A_MEMBER.fullmatch(complaint)
    if about is not None:
        what, member = about.groups()
        field = f"{at}.{member}" if at else member
        if what == _REQUIRED:
            return invalid(field, words(MISSING), MISSING)
        parents = re.sub(r"\[[^]]*\]", "", at).split(".") if at else []
        return invalid(field, unknown_words(member, names_in(struct, parents)), UNKNOWN)
    expected = _EXPECTED.match(complaint)
    code = _TYPES.get(expected[1]) if expected else None
    if code is not None:
        return invalid(at or "body", words(code), code)
    if "datetime" in complaint:
        return invalid(at, "is not a time such as 2026-01-31T12:00:00Z")
    return invalid(at or "body", complaint)
