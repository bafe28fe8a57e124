"""Numbers as people write them in fields of forms."""

import math
import re

from api.problems import invalid

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def finite(written: str) -> float:
    """Raises ValueError. Not a number are `nan`, `inf`, `1_000` and digits of other scripts, which Python reads."""
    value = float(written) if _NUMBER.fullmatch(written) else math.nan
    if not math.isfinite(value):
        raise ValueError("is not a number")
    return value


def number(written: str, field: str) -> float:
    """Raises a Problem that names the field."""
    try:
        return finite(written)
    except ValueError as error:
        raise invalid(field, str(error)) from error


def whole(written: str, field: str) -> int:
    """Raises a Problem that names the field."""
    value = number(written, field)
    if not value.is_integer():
        raise invalid(field, "is not a whole number")
    return int(value)
