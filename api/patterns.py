"""Patterns of fields, each with the words that a refusal says instead of the regular expression."""

from everhook.tenants.api_keys_store import SCOPE_PATTERN as SCOPE

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
EVENT_TYPE = r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$"
EVENT_PATTERN = r"^(\*\*|(\*|[A-Za-z0-9][A-Za-z0-9_/:-]*)(\.(\*|[A-Za-z0-9_/:-]*))*(\.\*\*)?)$"
GID = r"^[^\x00]{1,100}$"
NO_NUL = r"^[^\x00]*$"
NO_CONTROL = r"^[^\x00-\x1f\x7f]*$"

WORDS = {
    NAME: "takes 1 to 100 letters, digits and . _ -, and begins with a letter or a digit",
    EVENT_TYPE: "takes 1 to 128 letters, digits and . _ / : -, and begins with a letter or a digit",
    EVENT_PATTERN: "takes a type such as order.created, a pattern such as order.* or *.created, in which * stands for "
    "a segment, or * for every type",
    GID: "takes 1 to 100 characters, none of them NUL (U+0000)",
    NO_NUL: "has a NUL character (U+0000)",
    NO_CONTROL: "has a control character, such as a line break",
    SCOPE: "can be admin, publish, read, receive:<endpoint gid>, or tasks:<endpoint gid>",
}
