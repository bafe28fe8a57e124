"""Message results and events as bytes. Results stay the bytes that the receiver sent."""

from contextlib import suppress
from typing import Any

import orjson

from api.event_stream import KEEP_ALIVE, event
from api.lifecycle.schemas import EVENT_EXAMPLE, LifecycleEventOut
from everhook.contracts import DeliveryStatus
from everhook.delivery.body_formats import timestamp
from everhook.egress import STORED_BODY_BYTES
from everhook.lifecycle.events import LifecycleEvent
from everhook.lifecycle.service import FollowedEvent, Following, MessageResult
from everhook.lifecycle.store import DeliveryResponse
from everhook.streaming.service import Bye


def message_result(found: MessageResult) -> bytes:
    """A `MessageResultOut`."""
    return orjson.dumps(
        {
            "messageGid": found.message_gid,
            "state": "settled" if found.is_settled else "pending",
            "outcome": found.outcome.value if found.outcome is not None else None,
            "deliveries": [_delivery(each) for each in found.deliveries],
            "moreDeliveries": found.has_more_deliveries,
        }
    )


def _delivery(each: DeliveryResponse) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "deliveryGid": each.delivery_gid,
        "endpointGid": each.endpoint_gid,
        "mode": each.mode.value,
        "status": each.status.value,
    }
    if each.outcome is not None:
        shown["outcome"] = each.outcome
    if (result := result_of(each)) is not None:
        shown["result"] = orjson.Fragment(result)
    if each.status is DeliveryStatus.DEAD_LETTERED:
        shown["replayable"] = True
    completed_at = each.completed_at if each.is_settled else None
    return shown | {"completedAt": timestamp(completed_at) if completed_at is not None else None}


def result_of(each: DeliveryResponse) -> bytes | None:
    """What a receiver responded, if it is JSON. The body of a webhook is stored up to a limit; one as long as that may
    have been cut."""
    is_webhook = each.status_code is not None
    if each.body is None or (is_webhook and len(each.body) >= STORED_BODY_BYTES):
        return None
    with suppress(orjson.JSONDecodeError):
        orjson.loads(each.body)
        return each.body
    return None


def rendered(each: FollowedEvent) -> bytes:
    if isinstance(each, LifecycleEvent):
        shown = LifecycleEventOut.of(each)
        return event(shown.model_dump_json(by_alias=True).encode(), name=each.kind.value, id=each.id)
    if isinstance(each, Following):
        data = orjson.dumps({"messageGid": each.message_gid})
        return event(data, name="hello", retry_ms=round(each.retry.total_seconds() * 1_000))
    if isinstance(each, Bye):
        return event(orjson.dumps({"reason": each.reason.value}), name="bye")
    return KEEP_ALIVE


EVENTS_EXAMPLE = b"".join(
    (
        event(orjson.dumps({"messageGid": EVENT_EXAMPLE["messageGid"]}), name="hello", retry_ms=3_120),
        event(orjson.dumps(EVENT_EXAMPLE), name=EVENT_EXAMPLE["kind"], id=EVENT_EXAMPLE["id"]),
        KEEP_ALIVE,
        event(orjson.dumps({"reason": "rotate"}), name="bye"),
    )
).decode()
