"""Messages as consumers are handed them. Pure."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from everhook_client.models import PulledItem

_LEASE = re.compile(rb'"lease"\s*:\s*"([^"\\]+)"')
_DATA = re.compile(rb'"data"\s*:\s*\[')
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]')


@dataclass(frozen=True)
class Message:
    """A message that was handed out under a lease.

    `raw` is its JSON as it came: numbers and repeated keys are those that were published.
    """

    item: PulledItem
    raw: bytes
    event_id: str | None = None

    @property
    def lease(self) -> str:
        return self.item["lease"]

    @property
    def gid(self) -> str:
        """The same for each delivery and each attempt: deduplicate by it."""
        return self.item["messageGid"]

    @property
    def delivery_gid(self) -> str:
        return self.item["deliveryGid"]

    @property
    def channel(self) -> str:
        return self.item["channelName"]

    @property
    def type(self) -> str:
        return self.item["type"]

    @property
    def payload(self) -> Any:
        return self.item["payload"]

    @property
    def attempt(self) -> int:
        """Counted from 1; after a replay it starts again."""
        return self.item["metadata"]["attempt"]

    @property
    def published_at(self) -> str:
        return self.item["metadata"]["publishedAt"]


@dataclass(frozen=True)
class Unreadable:
    """A message whose JSON Python cannot parse, for instance because it is nested too deeply."""

    lease: str
    reason: str


def read_message(raw: bytes, event_id: str | None = None) -> Message | Unreadable:
    try:
        return Message(json.loads(raw), raw, event_id)
    except (ValueError, RecursionError) as error:
        lease = _LEASE.search(raw)
        if lease is None:
            raise
        return Unreadable(lease[1].decode(), f"{type(error).__name__}: {error}")


def items_in(page: bytes) -> Iterator[bytes]:
    """The JSON of each item of a response to a poll, as it came."""
    data = _DATA.search(page)
    depth = start = 0
    for token in _TOKEN.finditer(page, data.end() if data is not None else len(page)):
        if token[0] in b"[{":
            start = token.start() if depth == 0 else start
            depth += 1
        elif token[0] in b"]}":
            depth -= 1
            if depth < 0:  # the end of the list
                return
            if depth == 0:
                yield page[start : token.end()]
