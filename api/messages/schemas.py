"""Messages as they are shown."""

from datetime import datetime
from typing import Any

from pydantic import (
    Field,
)

from api.schemas import ApiModel
from everhook.contracts import DeliveryStatus


class DeliverySummary(ApiModel):
    delivery_gid: str
    endpoint_gid: str
    status: DeliveryStatus


class MessageOut(ApiModel):
    message_gid: str
    channel_name: str
    type: str
    tenant: str | None
    idempotency_key: str | None
    published_at: datetime
    accepted_at: datetime
    payload_erased_at: datetime | None


class MessageDetail(MessageOut):
    payload: Any = Field(description="Null once it was erased.")
    delivery_counts: dict[DeliveryStatus, int] = Field(
        description="How many of all its deliveries are in which status.", examples=[{"delivered": 120, "retrying": 2}]
    )
    deliveries: list[DeliverySummary] = Field(description="Newest first; of more than 100, the newest 100.")
    more_deliveries: bool = Field(
        description="Whether there are others: `GET /v1/deliveries?message={gid}` lists all of them."
    )
