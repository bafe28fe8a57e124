"""Text for terminals: untrusted text without control characters."""


def printable(text: str) -> str:
    """One line of untrusted text. Control characters and direction marks are shown as a replacement character."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def printable_lines(text: str) -> list[str]:
    """The lines of an untrusted text, each made printable."""
    return [printable(line.replace("\t", "    ").removesuffix("\r")) for line in text.split("\n")]
