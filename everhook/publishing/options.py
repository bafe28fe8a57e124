"""Options of a publish: metadata, the time of delivery. Pure."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from everhook.errors import InvalidField
from everhook.field_errors import PATTERN, beyond, words

MAX_ATTRIBUTES = 50
MAX_ATTRIBUTES_BYTES = 4 * 1024
MAX_AHEAD = timedelta(days=30)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""They become names of headers, and the ends of paths in filters."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def parse_attributes(given: Mapping[str, Any], field: str) -> dict[str, str]:
    """The metadata of a message. Raises InvalidField."""
    if len(given) > MAX_ATTRIBUTES:
        raise InvalidField(field, f"takes at most {MAX_ATTRIBUTES} keys", "too_long")
    names: dict[str, str] = {}
    for name, value in given.items():
        if not _NAME.fullmatch(name):
            raise InvalidField(
                field, f"{name[:80]!r} is not a key: 1 to 64 letters, digits, _ and -; begins with no sign", PATTERN
            )
        if (other := names.setdefault(name.lower(), name)) != name:
            raise InvalidField(field, f"{other} and {name} differ in case alone, and would be one header")
        if not isinstance(value, str):
            raise InvalidField(f"{field}.{name}", words("string_type"), "string_type")
        if _CONTROL.search(value):
            raise InvalidField(f"{field}.{name}", "takes a text without control characters", PATTERN)
    try:
        size = len(json.dumps(given, ensure_ascii=False).encode())
    except UnicodeEncodeError as error:
        raise InvalidField(field, "has a text that UTF-8 cannot hold") from error
    if size > MAX_ATTRIBUTES_BYTES:
        raise InvalidField(field, f"has {size} bytes as JSON; at most {MAX_ATTRIBUTES_BYTES} are accepted", "too_large")
    return dict(given)


def delivery_time(
    deliver_at: datetime | None, delay_seconds: float | None, moment: datetime, at: str = ""
) -> datetime | None:
    """When a message is to be delivered; None: at once, as for a time in the past. Raises InvalidField."""
    if deliver_at is None and delay_seconds is None:
        return None
    if deliver_at is not None and delay_seconds is not None:
        raise InvalidField(f"{at}delaySeconds", "cannot be combined with `deliverAt`")
    if delay_seconds is not None:
        field = f"{at}delaySeconds"
        if not 0 <= delay_seconds <= MAX_AHEAD.total_seconds():  # also false for a NaN
            reason = f"takes 0 to {int(MAX_AHEAD.total_seconds())} seconds, which is 30 days"
            raise InvalidField(field, reason, beyond(delay_seconds < 0))
        wanted = moment + timedelta(seconds=delay_seconds)
    else:
        assert deliver_at is not None
        field = f"{at}deliverAt"
        if deliver_at.tzinfo is None:
            raise InvalidField(field, "must name its offset from UTC, such as `Z`")
        try:
            wanted = deliver_at.astimezone(UTC)
        except OverflowError as error:
            raise InvalidField(field, "lies outside the years 1 to 9999 in UTC") from error
        if wanted > moment + MAX_AHEAD:
            raise InvalidField(field, "lies more than 30 days ahead")
    return wanted if wanted > moment else None
