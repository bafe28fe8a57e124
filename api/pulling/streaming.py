"""The events of a stream of deliveries, as they are written."""

import json
from collections.abc import Mapping
from typing import Any

from api.event_stream import KEEP_ALIVE, event
from api.pulling.schemas import ITEM
from everhook.streaming.service import Bye, Hello, Messages, StreamEvent


def rendered(each: StreamEvent) -> bytes:
    if isinstance(each, Hello):
        hello = {
            "consumer": each.consumer,
            "prefetch": each.prefetch,
            "leaseSeconds": round(each.lease.total_seconds()),
            "released": each.released,
        }
        retry_ms = round(each.retry.total_seconds() * 1_000)
        # With an id, so that a client whose first message never arrived can name the stream.
        return event(_json(hello), name="hello", id=f"{each.consumer}.0", retry_ms=retry_ms)
    if isinstance(each, Messages):
        return b"".join(
            event(item.body, name="message", id=f"{each.consumer}.{each.position + index}")
            for index, item in enumerate(each.items)
        )
    if isinstance(each, Bye):
        return event(_json({"reason": each.reason.value}), name="bye")
    return KEEP_ALIVE


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


_CONSUMER = "con_01m83prhbfe23sdyzab24cmhbx"
STREAM_EXAMPLE = b"".join(
    (
        event(
            _json({"consumer": _CONSUMER, "prefetch": 16, "leaseSeconds": 60, "released": 0}),
            name="hello",
            id=f"{_CONSUMER}.0",
            retry_ms=3_120,
        ),
        event(_json(ITEM), name="message", id=f"{_CONSUMER}.1"),
        KEEP_ALIVE,
        event(_json({"reason": "rotate"}), name="bye"),
    )
).decode()
