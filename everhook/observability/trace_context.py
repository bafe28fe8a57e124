"""The trace of a message, as it travels: the header `traceparent` (W3C Trace Context, section 3.2)."""

import re
import secrets
from dataclasses import dataclass, replace

from everhook.ids import trace_id

_HEADER = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
"""Later versions may append to it; the known part stays the same (section 3.2.4)."""


@dataclass(frozen=True)
class TraceParent:
    """`span_id` is the parent span, `flags` whether it is recorded."""

    trace_id: str
    span_id: str
    flags: str = "01"

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    def child(self) -> "TraceParent":
        """A new span of the same trace."""
        return replace(self, span_id=secrets.token_hex(8))


def parse(header: str | None) -> TraceParent | None:
    """Parse the header; None if it is missing or invalid: then a new trace begins here."""
    found = _HEADER.fullmatch(header or "")
    return TraceParent(*found.groups()) if found else None


def of_message(message_gid: str, stored: str | None) -> TraceParent:
    """The trace of the call that published a message, or a new trace derived from the message's gid."""
    return parse(stored) or TraceParent(trace_id(message_gid), secrets.token_hex(8))
