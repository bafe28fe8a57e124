"""Server-sent events (HTML Living Standard, section 9.2), parsed. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class Event:
    """One event. `retry_s`: how long to wait before reconnecting, if the event says so."""

    name: str
    data: bytes
    id: str | None = None
    retry_s: float | None = None


class EventParser:
    """Takes a stream in pieces of any size. Comments are left out."""

    def __init__(self) -> None:
        self._partial = b""
        self._fields: dict[bytes, bytes] = {}

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that this piece completes."""
        text = self._partial + chunk
        held = b"\r" if text.endswith(b"\r") else b""  # perhaps half of a line end
        *lines, rest = _LINE_END.split(text.removesuffix(b"\r"))
        self._partial = rest + held
        for line in lines:
            if not line:
                yield from self._dispatched()
                continue
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data" and b"data" in self._fields:
                value = self._fields[b"data"] + b"\n" + value
            self._fields[name] = value

    def _dispatched(self) -> Iterator[Event]:
        fields, self._fields = self._fields, {}
        if b"data" not in fields:
            return
        retry = fields.get(b"retry", b"")
        yield Event(
            fields.get(b"event", b"message").decode(),
            fields[b"data"],
            fields[b"id"].decode() if b"id" in fields else None,
            int(retry) / 1_000 if retry.isdigit() else None,
        )
