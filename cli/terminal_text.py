"""Text for terminals: sanitized untrusted text, and durations for people."""

from datetime import timedelta


def printable(text: str) -> str:
    """One line of untrusted text. Control characters and direction marks are shown as a replacement character."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def printable_lines(text: str) -> list[str]:
    """The lines of an untrusted text, each made printable."""
    return [printable(line.replace("\t", "    ").removesuffix("\r")) for line in text.split("\n")]


def span(length: timedelta) -> str:
    """`12 s`, `4 min`, `2.6 h`, `3 d`."""
    seconds = max(0.0, length.total_seconds())
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} d"
