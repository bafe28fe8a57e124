"""Why a body is not JSON in UTF-8, in words that name the fault and the place."""

import orjson

_BEGINNINGS = (
    (b"\x1f\x8b", "is compressed with gzip; send it uncompressed"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; send it uncompressed"),
    (b"\xef\xbb\xbf", "begins with a byte order mark (BOM); send UTF-8 without one"),
    (b"\xff\xfe", "is UTF-16 or UTF-32; send UTF-8"),
    (b"\xfe\xff", "is UTF-16; send UTF-8"),
)
_HALF_A_PAIR = "has half of a surrogate pair"
_PARSERS_WORDS = {
    "depth limit exceeded": "is nested too deeply (about 1000 levels are the most)",
    "no low surrogate in string": _HALF_A_PAIR,
    "invalid high surrogate in string": _HALF_A_PAIR,
}
"""What orjson says, where other words say it better."""


def why_not_json(body: bytes, error: BaseException | None = None) -> str:
    """What is wrong with a body that could not be parsed. `error`: what the parser raised."""
    for beginning, what in _BEGINNINGS:
        if body.startswith(beginning):
            return what
    if not body.strip():
        return "is empty; it must be JSON"
    if isinstance(error, RecursionError):
        return _PARSERS_WORDS["depth limit exceeded"]
    return _why_not_utf8(body) or _why_not_parsed(body) or "is not valid JSON"


def _why_not_utf8(body: bytes) -> str | None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        is_surrogate = body[error.start] == 0xED
        what = _HALF_A_PAIR if is_surrogate else f"is not UTF-8: 0x{body[error.start]:02x}"
        return f"{what} at byte {error.start}"
    return None


def _why_not_parsed(body: bytes) -> str | None:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"at line {error.lineno}, column {error.colno}"
        return f"{_PARSERS_WORDS.get(error.msg, f'is not valid JSON: {error.msg}')} {place}"
    return None
