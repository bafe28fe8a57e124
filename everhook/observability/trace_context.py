"""The trace that a message belongs to, as it travels: the header `traceparent` (W3C Trace Context, section 3.2)."""

import re
import secrets
from dataclasses import dataclass, replace

from everhook.ids import trace_id

_HEADER = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
"""Versions to come may append to it: what is known of them is what stands here (section 3.2.4)."""


@dataclass(frozen=True)
class TraceParent:
    """`span_id` is whoever did what comes before, `flags` whether that is recorded."""

    trace_id: str
    span_id: str
    flags: str = "01"

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    def child(self) -> "TraceParent":
        """The next span of the same trace."""
        return replace(self, span_id=secrets.token_hex(8))


def parse(header: str | None) -> TraceParent | None:
    """None where there is none, or no valid one: then a trace begins here."""
    found = _HEADER.fullmatch(header or "")
    return TraceParent(*found.groups()) if found else None


def of_message(message_gid: str, stored: str | None) -> TraceParent:
    """The trace of the call that published a message; else one of the message's own, with the number of its gid."""
    return parse(stored) or TraceParent(trace_id(message_gid), secrets.token_hex(8))
