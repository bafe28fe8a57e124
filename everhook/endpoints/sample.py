"""The message that an endpoint is tried out with."""

import hashlib
from datetime import UTC, datetime

import orjson

from everhook.delivery.body_formats import timestamp
from everhook.ids import Kind, new_gid
from everhook.publishing.store import Publication

TEST = "everhook.test"
"""Its type and its channel. The name is reserved, so no client can publish such a message."""


def sample_message() -> Publication:
    """A new test message. Its payload says when it was sent."""
    moment = datetime.now(UTC)
    content = {"event": TEST, "sentAt": timestamp(moment), "note": "A test message from Everhook. Respond with 2xx."}
    payload = orjson.dumps(content)
    return Publication(
        message_gid=new_gid(Kind.MESSAGE),
        channel=TEST,
        event_type=TEST,
        payload=payload,
        content=content,
        body_sha256=hashlib.sha256(payload).hexdigest(),
        published_at=moment,
    )
