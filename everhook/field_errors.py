"""Codes and words for fields that are wrong: the same mistake has the same ones in every call.

Codes are named as pydantic names them. `docs/problems.md` lists them; a code never changes its meaning.
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic.alias_generators import to_camel

INVALID, MISSING, UNKNOWN, UNCHANGEABLE = "invalid", "missing", "extra_forbidden", "read_only"
PATTERN = "string_pattern_mismatch"

MEANINGS: Mapping[str, str] = {
    MISSING: "it is required",
    UNKNOWN: "there is no such field, or no such parameter; the message may say which one is meant",
    UNCHANGEABLE: "responses show it, and it cannot be changed, or not by this call",
    "null": "it can be absent, and not null",
    "string_type": "it must be a string",
    "int_type": "it must be a whole number",
    "float_type": "it must be a number",
    "bool_type": "it must be true or false",
    "list_type": "it must be a list",
    "dict_type": "it must be an object",
    "greater_than": "the number must be above a bound",
    "greater_than_equal": "the number must be a bound or above",
    "less_than": "the number must be below a bound",
    "less_than_equal": "the number must be a bound or below",
    "string_too_short": "the string has too few characters",
    "string_too_long": "the string has too many characters",
    "too_short": "the list or the object has too few entries",
    "too_long": "the list or the object has too many entries",
    "too_large": "it has too many bytes",
    "enum": "it must be one of some values, which the message names",
    PATTERN: "the string has characters that are not allowed here, or another form",
    "malformed": "it is not JSON in UTF-8, or a header that may be sent once was sent twice",
    "schema": "a payload or an example does not fit a schema, or the schema is not valid",
    "unknown_type": "the event type is not in the catalogue",
    "archived_type": "the event type is archived",
    "too_deep": "a schema is nested too deeply",
    "too_slow": "a schema could take too long",
    "remote_reference": "a schema refers to something outside of itself",
    INVALID: "any other rule, which the message says",
}

_SAME: Mapping[str, str] = {
    "model_type": "dict_type",
    "model_attributes_type": "dict_type",
    "int_parsing": "int_type",
    "int_parsing_size": "int_type",
    "int_from_float": "int_type",
    "float_parsing": "float_type",
    "finite_number": "float_type",
    "bool_parsing": "bool_type",
    "literal_error": "enum",
}
"""Codes of pydantic that are the same mistake as another one."""

_WORDS: Mapping[str, str] = {
    MISSING: "is required",
    UNKNOWN: "is not a known field",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or above",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be {le} or below",
    "string_too_short": "has too few characters; the minimum is {min_length}",
    "string_too_long": "has too many characters; the maximum is {max_length}",
    "too_short": "has too few entries; the minimum is {min_length}",
    "too_long": "has too many entries; the maximum is {max_length}",
    "enum": "must be {expected}",
    PATTERN: "must match the pattern {pattern}",
}

LONGEST_NAME = 100
"""Characters of a name that is compared with others."""

_OTHER_NAMES: Mapping[str, str] = {
    "eventType": "type",
    "filterTypes": "events",
    "eventTypes": "events",
    "eventId": "idempotencyKey",
    "application": "tenant",
    "app": "tenant",
}
"""Names that other products have for a field."""


def code_of(error: Mapping[str, Any]) -> str:
    """The code of an error of pydantic."""
    code = _SAME.get(error["type"], error["type"])
    return code if code in MEANINGS else INVALID


def words_of(error: Mapping[str, Any]) -> str:
    """What an error of pydantic says."""
    words = _WORDS.get(code_of(error))
    if words is None:
        return str(error["msg"]).removeprefix("Value error, ")
    return words.format_map({name: _plain(value) for name, value in error.get("ctx", {}).items()})


def words(code: str) -> str:
    """What a code says that has no bounds."""
    return _WORDS[code]


def meant(name: str, known: Collection[str]) -> str | None:
    """The known name that another one probably stands for."""
    if len(name) > LONGEST_NAME:
        return None
    camel = to_camel(name) if "_" in name else name
    for candidate in (camel, _OTHER_NAMES.get(camel)):
        if candidate in known:
            return candidate
    return next(iter(get_close_matches(camel, known, 1)), None)


def beyond(is_below: bool) -> str:
    """The code of a number out of a range with two bounds: below the first, or above the second."""
    return "greater_than_equal" if is_below else "less_than_equal"


def unknown_words(name: str, known: Collection[str]) -> str:
    """What a refusal of an unknown field says."""
    hint = meant(name, known)
    return f"{words(UNKNOWN)}; did you mean {hint}?" if hint else words(UNKNOWN)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
