"""Text for terminals: untrusted text without control characters."""


def printable(text: str) -> str:
    """One line from strangers. What could steer a terminal or turn its lines about is shown as a mark."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def printable_lines(text: str) -> list[str]:
    """The lines of a text from strangers, each by itself."""
    return [printable(line.replace("\t", "    ").removesuffix("\r")) for line in text.split("\n")]
