"""Readable messages for connection errors of Temporal's SDK. Its core is written in Rust and prints whole values:

Failed client connect: Server connection error: tonic::transport::Error(Transport, ConnectError(ConnectError("tcp
connect error", 127.0.0.1:7233, Os { code: 111, kind: ConnectionRefused, message: "Connection refused" })))
"""

import re

_VALUE = re.compile(r"(?:tonic::\w+(?:::\w+)*|Status) ?[({]")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ADDRESS = re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}:\d+|\[[0-9a-f:.]+\]:\d+")
_NAME = re.compile(r"\w+")
_PREFIX = re.compile(r"Failed client connect: (?:Server connection error: )?")
_KNOWN = {"InvalidContentType": "the server does not speak TLS"}


def in_words(text: str) -> str:
    """The text with each Rust value replaced by its innermost message and by the address.

    `cannot connect to Temporal: 127.0.0.1:7233: Connection refused`
    """
    parts: list[str] = []
    at = 0
    while (found := _VALUE.search(text, at)) is not None:
        end = _end_of_value(text, found.end())
        parts += [text[at : found.start()], _message(text[found.start() : end])]
        at = end
    plain = "".join([*parts, text[at:]])
    return _PREFIX.sub("cannot connect to Temporal: ", plain) if parts else plain


def _message(value: str) -> str:
    quoted = _QUOTED.findall(value)
    name = _NAME.findall(value)[-1]
    message = quoted[-1] if quoted else _KNOWN.get(name, name)
    address = _ADDRESS.search(value)
    return f"{address[0]}: {message}" if address is not None else message


def _end_of_value(text: str, at: int) -> int:
    """The end of the value whose bracket was opened before `at`, or the end of a truncated text."""
    depth, quoted = 1, False
    while at < len(text) and depth:
        char = text[at]
        if char == "\\":
            at += 1
        elif char == '"':
            quoted = not quoted
        elif not quoted:
            depth += (char in "({[") - (char in ")}]")
        at += 1
    return min(at, len(text))
