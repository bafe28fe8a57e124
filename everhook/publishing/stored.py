"""Messages that were accepted before, as publications."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from everhook.publishing.gates import Step
from everhook.publishing.matching import parse_exactly
from everhook.publishing.publication import Publication
from everhook.publishing.rows import Publisher


def published_before(
    message: Any,
    *,
    tenant_gid: str | None,
    publisher: str | None,
    task: Mapping[str, Any],
    gates: Sequence[Step] | None = None,
) -> Publication:
    """A message as it was published, for further deliveries. `message` has the columns of its row; its payload is not
    erased. `tenant_gid`: whose endpoints may take it. `publisher` is the name of the key that it was published with."""
    return Publication(
        message_gid=message.gid,
        channel=message.channel,
        event_type=message.event_type,
        payload=message.payload,
        content=_content(message.payload),
        body_sha256=message.body_sha256,
        published_at=message.published_at,
        tenant_gid=tenant_gid,
        traceparent=message.traceparent,
        task=task,
        publisher=Publisher(message.published_by, publisher),
        gates=gates,
        accepted_at=message.accepted_at,
        attributes=message.attributes,
        endpoint_gid=message.endpoint_gid,
        single_attempt=bool(message.single_attempt),
        group_key=message.group_key,
    )


def _content(payload: bytes) -> object:
    """Parse for filters, as a publish does."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return parse_exactly(payload)
