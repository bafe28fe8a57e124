"""One request as the receiver saw it and as its ledger keeps it, and how the published bytes are found in its body."""

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

# Numbers stay text: only their place matters here, and int() refuses those of more than 4,300 digits.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
_WHITESPACE = " \t\r\n"
_ENVELOPE_KEYS = {"messageGid", "channelName", "payload", "metadata"}
_EVENT_KEYS = {"id", "type", "data"}


@dataclass(frozen=True)
class ArrivalLine:
    """A line of the receiver's ledger: one request that arrived, and the status line of its response.

    `status` is None where no status line was sent (the client went away, or the script said so: see `fault`).
    `run` and `seq` name the arrival: a request with a late response has two lines, of which the last one counts.
    `at` is wall time, `monotonic` the machine's monotonic clock (comparable between processes), both in seconds.
    """

    run: str
    seq: int
    id: str
    host: str
    path: str
    sha256: str
    payload_sha256: str
    status: int | None
    fault: str | None
    at: float
    monotonic: float

    @property
    def place(self) -> str:
        """Where it arrived, comparable with an endpoint's URL by way of `place_of`."""
        return f"{self.host}{self.path}"

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """The receiver's script asked for another attempt, so what follows is a retry and no duplicate."""
        return self.fault is not None or (self.status is not None and not self.accepted)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"


@dataclass
class Arrival:
    """One request, byte for byte. `status` is filled in when the status line is sent."""

    seq: int
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    monotonic: float
    at: datetime
    status: int | None = None
    fault: str | None = None

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def id(self) -> str:
        return self.header("webhook-id") or self.header("x-idempotency-key") or ""

    @functools.cached_property
    def sha256(self) -> str:
        return sha256(self.body)

    @functools.cached_property
    def payload(self) -> bytes:
        """The published payload inside the body, as it was written there."""
        return payload_of(self.body)

    def json(self) -> Any:
        return json.loads(self.body)

    def line(self, run: str) -> ArrivalLine:
        return ArrivalLine(
            run=run,
            seq=self.seq,
            id=self.id,
            host=self.header("host") or "",
            path=self.path,
            sha256=self.sha256,
            payload_sha256=sha256(self.payload),
            status=self.status,
            fault=self.fault,
            at=self.at.timestamp(),
            monotonic=self.monotonic,
        )


def place_of(url: str) -> str:
    """Host, port and path of an endpoint's URL, without the scheme: what a request's Host header and target give."""
    rest = url.partition("://")[2]
    host, slash, path = rest.partition("/")
    return f"{host}{slash}{path}" if slash else f"{host}/"


def read_arrivals(ledger: Path) -> list[ArrivalLine]:
    """All arrivals of a ledger file, oldest first. A torn last line (kill -9 in mid-write) is not an arrival yet."""
    lines: dict[tuple[str, int], ArrivalLine] = {}
    for raw in _whole_lines(ledger):
        line = ArrivalLine(**json.loads(raw))
        lines[line.run, line.seq] = line
    return list(lines.values())


def _whole_lines(ledger: Path) -> Iterator[bytes]:
    if ledger.exists():
        yield from (line for line in ledger.read_bytes().splitlines(keepends=True) if line.endswith(b"\n"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def payload_of(body: bytes) -> bytes:
    """The exact bytes of the published payload inside a request body: envelope, event, CloudEvents, else all of it.

    Found by walking the text, never by parsing and writing again: a payload whose numbers, white space or escapes
    were changed on the way must not look unharmed. Written apart from the product's own code on purpose.
    """
    try:
        members = top_level_members(body.decode())
    except (ValueError, RecursionError):
        return body
    if members.keys() == _ENVELOPE_KEYS:
        return members["payload"].encode()
    if members.keys() == _EVENT_KEYS or {"specversion", "data"} <= members.keys():
        return members["data"].encode()
    return body


def top_level_members(text: str) -> dict[str, str]:
    """The members of a JSON object, each value as it was written. Raises ValueError for anything else."""
    at = _expect(text, 0, "{")
    members: dict[str, str] = {}
    while (at := _skip(text, at)) < len(text) and text[at] != "}":
        key, at = _key(text, at)
        start = _skip(text, _expect(text, at, ":"))
        at = _DECODER.raw_decode(text, start)[1]
        members[key] = text[start:at]
        at = _skip(text, at)
        at = at + 1 if text[at : at + 1] == "," else at
    _expect(text, at, "}")
    return members


def _key(text: str, at: int) -> tuple[str, int]:
    decoded: tuple[Any, int] = _DECODER.raw_decode(text, at)
    key, end = decoded
    if not isinstance(key, str):
        raise ValueError("not a JSON object")
    return key, end


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _WHITESPACE:
        at += 1
    return at


def _expect(text: str, at: int, char: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != char:
        raise ValueError(f"expected {char!r} at {at}")
    return at + 1
