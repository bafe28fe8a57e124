"""Texts of people that may be blank."""

_BLANK = "\u115f\u1160\u2800\u3164\uffa0"
"""Hangul fillers and the empty Braille pattern: printable characters that show nothing."""


def visible(text: str) -> str:
    """The text, or nothing if it has no character that can be seen."""
    return text if any(char.isprintable() and not char.isspace() and char not in _BLANK for char in text) else ""
