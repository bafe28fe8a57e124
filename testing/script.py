"""The script of a receiver: responses, faults, and the order they come in."""

import asyncio
import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Fault(StrEnum):
    """Ways to misbehave. None of them is a response with a status of the script's choosing: for that, `Response`."""

    HANG = "hang"  # takes the request and never responds
    DRIP_HEADERS = "drip_headers"  # a byte of the response head every DRIP_SECONDS, without end
    DRIP_BODY = "drip_body"  # 200, then a byte of the body every DRIP_SECONDS, without end
    RESET = "reset"  # TCP reset before any byte of the response
    RESET_MIDWAY = "reset_midway"  # 200 and half the body, then a TCP reset
    CLOSE = "close"  # orderly close before any byte of the response
    GARBAGE = "garbage"  # bytes that are not HTTP
    HUGE_BODY = "huge_body"  # 200 and a gigabyte of body, as fast as the client takes it
    HUGE_HEADERS = "huge_headers"  # 200 and two megabytes of response headers
    CLOSE_SILENTLY = "close_silently"  # 200, promises keep-alive, and closes
    CLOSE_ON_REUSE = "close_on_reuse"  # 200, keeps the connection, and resets it (unread) when another request comes


WITH_STATUS = {
    Fault.DRIP_BODY,
    Fault.RESET_MIDWAY,
    Fault.HUGE_BODY,
    Fault.HUGE_HEADERS,
    Fault.CLOSE_SILENTLY,
    Fault.CLOSE_ON_REUSE,
}


@dataclass(frozen=True)
class Response:
    """A response: sent after `delay` seconds, and not before `until` is set, if that is given. With `close`, the
    connection is announced closed, and closed.

    A test in which a request must still be in flight gives `until`: a delay may be over too early on a busy machine.
    """

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    close: bool = False
    until: asyncio.Event | None = None

    @functools.cached_property
    def wire(self) -> bytes:
        """Serialised once: the same object is the response to thousands of requests."""
        headers = [*self.headers, *([("connection", "close")] if self.close else [])]
        if self.status != 204:
            headers.append(("content-length", str(len(self.body))))
        lines = [f"HTTP/1.1 {self.status} Scripted", *(f"{name}: {value}" for name, value in headers), "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body


Step = int | Response | Fault


def redirect(url: str, status: int = 302) -> Response:
    return Response(status, headers=(("location", url),))


@dataclass
class Script:
    """Steps in order, the last of which repeats; counted over all requests, or for each message by itself."""

    steps: tuple[Step, ...]
    each_message: bool = False
    taken: Counter[str] = field(default_factory=Counter)

    def next(self, message: str) -> Step:
        key = message if self.each_message else ""
        index = self.taken[key]
        self.taken[key] += 1
        return self.steps[min(index, len(self.steps) - 1)]


def step_from_json(step: int | str | Mapping[str, Any]) -> Step:
    """`500`, `"hang"`, or `{"status", "body", "headers": {}, "delay_ms", "close"}`."""
    if isinstance(step, int):
        return Response(step)
    if isinstance(step, str):
        return Fault(step)
    return Response(
        int(step.get("status", 200)),
        str(step.get("body", "")).encode(),
        tuple((str(name), str(value)) for name, value in step.get("headers", {}).items()),
        float(step.get("delay_ms", 0)) / 1000,
        bool(step.get("close", False)),
    )


def step_to_json(step: Step) -> int | str | dict[str, Any]:
    """Inverse of `step_from_json`. Bodies must be text."""
    if isinstance(step, Fault):
        return step.value
    if isinstance(step, int):
        return step
    return {
        "status": step.status,
        "body": step.body.decode(),
        "headers": dict(step.headers),
        "delay_ms": step.delay * 1000,
        "close": step.close,
    }
