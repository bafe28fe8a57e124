"""Strict readers for JSON and base64 from untrusted sources: one meaning for each document, errors that name the place.

JSON as in RFC 8259, restricted as in I-JSON (RFC 7493): UTF-8, no duplicate members, no half surrogate pairs, no NaN.
Base64 as in RFC 4648: one alphabet, no white space, no stray bits, so that each value has exactly one encoding.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHOWN = 60
_T = TypeVar("_T")


class InvalidDocument(ValueError):
    """The first fault of a document: `place` is where (`receipt.header.alg`), `what` is a sentence about it."""

    def __init__(self, place: str, what: str) -> None:
        super().__init__(f"{place}: {what}")
        self.place = place
        self.what = what


class NotJson(InvalidDocument):
    """Not JSON at all, as opposed to JSON that was tampered with."""


def load_json(text: str | bytes, place: str) -> object:
    """Parse JSON. Raises NotJson, or InvalidDocument for what parsers interpret differently."""
    try:
        value: object = json.loads(
            text if isinstance(text, str) else text.decode(),
            object_pairs_hook=lambda pairs: _object(pairs, place),
            parse_constant=lambda name: _refuse(place, f"{name} is no JSON number"),
        )
        return value
    except InvalidDocument:
        raise
    except (ValueError, RecursionError) as error:
        raise NotJson(place, f"is not JSON ({_first_line(error)})") from error


class Members:
    """The members of a JSON object, read by name and type. Methods raise InvalidDocument.

    Not pydantic: auditors read the verifier of receipts, so it depends on little except cryptography, and the place of
    each fault is part of the test vectors for other implementations.
    """

    def __init__(self, value: object, place: str) -> None:
        if not isinstance(value, dict):
            raise InvalidDocument(place, f"should be a JSON object, and is {_kind(value)}")
        self.place = place
        self._members = value

    def has(self, name: str) -> bool:
        return name in self._members

    def all(self) -> dict[str, object]:
        return dict(self._members)

    def names(self) -> set[str]:
        return set(self._members)

    def at(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name

    def any(self, name: str) -> object:
        if name not in self._members:
            raise InvalidDocument(self.at(name), "is missing")
        return self._members[name]

    def text(self, name: str) -> str:
        """A non-empty string."""
        value = self.any(name)
        if not isinstance(value, str) or not value:
            raise InvalidDocument(self.at(name), f"should be a text, and is {_kind(value)}")
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise InvalidDocument(self.at(name), f"has half a surrogate pair: {shown(value)}")
        return value

    def integer(self, name: str, least: int = 0) -> int:
        value = self.any(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InvalidDocument(self.at(name), f"should be a whole number from {least}, and is {_kind(value)}")
        return value

    def items(self, name: str) -> list[object]:
        value = self.any(name)
        if not isinstance(value, list):
            raise InvalidDocument(self.at(name), f"should be a list, and is {_kind(value)}")
        return value

    def object(self, name: str) -> "Members":
        return Members(self.any(name), self.at(name))

    def sha256(self, name: str) -> str:
        value = self.text(name)
        if not _SHA256.fullmatch(value):
            raise InvalidDocument(self.at(name), f"should be a SHA-256 in 64 small hex digits, and is {shown(value)}")
        return value

    def time(self, name: str) -> datetime:
        return parse_time(self.text(name), self.at(name))

    def nullable(self, read: Callable[[str], _T], name: str) -> _T | None:
        return None if self.any(name) is None else read(name)


def format_time(moment: datetime) -> str:
    """RFC 3339, in the one format of receipts and checkpoints: UTC, microseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: str, place: str) -> datetime:
    """Inverse of `format_time`. Raises InvalidDocument."""
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    raise InvalidDocument(place, f"should be a time like 2026-01-31T12:00:00.000000Z, and is {shown(text)}")


def decode_base64url(text: str, place: str) -> bytes:
    """RFC 4648 section 5 without padding, as JOSE has it (RFC 7515 section 2). Raises InvalidDocument."""
    if "=" in text:
        raise InvalidDocument(place, f"is not base64url without padding: {shown(text)}")
    return _decoded(text + "=" * (-len(text) % 4), b"-_", place, "base64url without padding")


def decode_base64(text: str, place: str) -> bytes:
    """RFC 4648 section 4, padded. Raises InvalidDocument."""
    return _decoded(text, b"+/", place, "base64")


def encode_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def shown(text: str) -> str:
    """An untrusted text for a message: quoted, with escapes for unprintable characters, truncated if long."""
    return ascii(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


def _decoded(text: str, others: bytes, place: str, form: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), altchars=others, validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InvalidDocument(place, f"is not {form}: {shown(text)}") from error
    if base64.b64encode(data, altchars=others).decode() != text:
        raise InvalidDocument(place, f"is not {form} in its one valid spelling: {shown(text)}")
    return data


def _object(pairs: list[tuple[str, object]], place: str) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidDocument(place, f"has the member {shown(twice)} twice")
    return members


def _refuse(place: str, what: str) -> object:
    raise InvalidDocument(place, what)


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value) if abs(value) < 1e15 else "a very large number"
        case str():
            return shown(value) if value else "empty"
        case list():
            return "a list"
        case _:
            return "an object"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
