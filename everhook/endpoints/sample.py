"""The message that an endpoint is tried out with."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from everhook.delivery.body_formats import timestamp
from everhook.ids import Kind, new_gid
from everhook.publishing.publication import Publication

TEST = "everhook.test"
"""Its channel, and its type unless another is chosen. The name is reserved, so no client can publish to it."""


def sample_message(event_type: str | None = None, example: Any = None) -> Publication:
    """A new test message. Its payload is the example of an event type, or says when it was sent."""
    moment = datetime.now(UTC)
    content = {"event": TEST, "sentAt": timestamp(moment), "note": "A test message from Everhook. Respond with 2xx."}
    if event_type is not None:
        content = example
    payload = json.dumps(content, ensure_ascii=False).encode()
    return Publication(
        message_gid=new_gid(Kind.MESSAGE),
        channel=TEST,
        event_type=event_type or TEST,
        payload=payload,
        content=content,
        body_sha256=hashlib.sha256(payload).hexdigest(),
        published_at=moment,
    )
