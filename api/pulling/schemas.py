"""Items, acknowledgements and the queue, as OpenAPI describes and responses show them."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from api.schemas import ApiModel
from everhook.pulling.leases import Held, LeaseResult, LeaseStatus
from everhook.pulling.queue_store import QueueView
from everhook.storage.tables import now

LEASE = "dlv_01m83prhbfe23sdyzab24cmhbz.1.1"
ITEM: dict[str, Any] = {
    "lease": LEASE,
    "leaseUntil": "2026-01-31T12:01:00.000Z",
    "deliveryGid": "dlv_01m83prhbfe23sdyzab24cmhbz",
    "messageGid": "msg_01m83prhbfe23sdyzab24cmhby",
    "channelName": "orders",
    "type": "order.created",
    "payload": {"orderId": 1042, "amount": 99.5},
    "metadata": {"publishedAt": "2026-01-31T12:00:00.000Z", "round": 1, "attempt": 1},
}
ACKS_EXAMPLE: dict[str, Any] = {"acks": [{"lease": LEASE, "result": {"invoice": "2026-0042"}}]}

ACKS_SCHEMA: dict[str, Any] = {
    "title": "Acknowledgements",
    "type": "object",
    "additionalProperties": False,
    "description": "At most 500 lines in all.",
    "properties": {
        "acks": {
            "type": "array",
            "items": {
                "title": "Ack",
                "type": "object",
                "required": ["lease"],
                "additionalProperties": False,
                "properties": {
                    "lease": {"type": "string"},
                    "result": {"description": "Any JSON, up to 16 KiB, for the sender of the message."},
                },
            },
        },
        "nacks": {
            "type": "array",
            "items": {
                "title": "Nack",
                "type": "object",
                "required": ["lease"],
                "additionalProperties": False,
                "properties": {
                    "lease": {"type": "string"},
                    "reason": {"type": "string", "maxLength": 1_000},
                    "retryAfterSeconds": {
                        "type": "number",
                        "description": "Come back no earlier. Without it the policy's schedule applies.",
                    },
                    "deadLetter": {"type": "boolean", "description": "Do not deliver it again: a dead letter."},
                },
            },
        },
        "extends": {
            "type": "array",
            "items": {
                "title": "Extend",
                "type": "object",
                "required": ["lease", "seconds"],
                "additionalProperties": False,
                "properties": {
                    "lease": {"type": "string"},
                    "seconds": {"type": "integer", "minimum": 5, "maximum": 43_200, "description": "From now."},
                },
            },
        },
    },
    "examples": [ACKS_EXAMPLE],
}


class PulledMetadata(ApiModel):
    published_at: datetime
    round: int
    attempt: int


class PulledItem(ApiModel):
    """A delivery that was handed out until `leaseUntil`."""

    model_config = ConfigDict(json_schema_extra={"examples": [ITEM]})

    lease: str = Field(description="What an acknowledgement names.")
    lease_until: datetime
    delivery_gid: str
    message_gid: str
    channel_name: str
    type: str
    payload: Any
    metadata: PulledMetadata


class PulledItems(ApiModel):
    """What was handed out. `held` says why nothing comes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"data": [ITEM], "more": False}]})

    data: list[PulledItem]
    more: bool = Field(description="Whether there may be more now.")
    held: Held | None = None


class LeaseResultOut(ApiModel):
    """What one line did."""

    lease: str
    status: LeaseStatus
    lease_until: datetime | None = Field(None, description="After an extension.")
    duplicate: bool = Field(False, description="Whether the delivery was acknowledged before.")
    detail: str | None = None

    @classmethod
    def of(cls, result: LeaseResult) -> "LeaseResultOut":
        return cls(
            lease=result.lease,
            status=result.status,
            lease_until=result.lease_until,
            duplicate=result.duplicate,
            detail=result.detail,
        )


class LeaseResults(ApiModel):
    """The results, in the order of the lines: acks, nacks, extends."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"data": [{"lease": LEASE, "status": "acked", "duplicate": False}]}]}
    )

    data: list[LeaseResultOut]


class ConsumerOut(ApiModel):
    name: str
    address: str | None
    since: datetime = Field(description="When the oldest of its open leases was handed out.")
    in_flight: int


class QueueOut(ApiModel):
    """The queue of an endpoint. Each number is counted up to 100,000."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "available": 3,
                    "waiting": 0,
                    "leased": 1,
                    "oldestSeconds": 12.5,
                    "consumers": [
                        {"name": "worker-3", "address": "10.0.0.7", "since": "2026-01-31T12:00:00Z", "inFlight": 1}
                    ],
                }
            ]
        }
    )

    available: int = Field(description="Deliveries that can be handed out now.")
    waiting: int = Field(description="Those that wait for their next attempt.")
    leased: int
    oldest_seconds: float | None = Field(description="The age of the oldest one; null if the queue is empty.")
    consumers: list[ConsumerOut] = Field(description="Those that hold leases.")

    @classmethod
    def of(cls, view: QueueView) -> "QueueOut":
        return cls(
            available=view.available,
            waiting=view.waiting,
            leased=view.leased,
            oldest_seconds=max(0.0, (now() - view.oldest).total_seconds()) if view.oldest is not None else None,
            consumers=[
                ConsumerOut(name=each.name, address=each.address, since=each.since, in_flight=each.in_flight)
                for each in view.consumers
            ],
        )
