"""What became of a message, as it is shown."""

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from api.deliveries.schemas import DELIVERY_GID, ENDPOINT_GID, MESSAGE_GID
from api.schemas import ApiModel
from everhook.contracts import DeliveryMode, DeliveryStatus
from everhook.lifecycle.events import LifecycleEvent, LifecycleKind
from everhook.lifecycle.service import Outcome

RESULT_EXAMPLE: dict[str, Any] = {
    "messageGid": MESSAGE_GID,
    "state": "settled",
    "outcome": "delivered",
    "deliveries": [
        {
            "deliveryGid": DELIVERY_GID,
            "endpointGid": ENDPOINT_GID,
            "mode": "poll",
            "status": "delivered",
            "result": {"invoice": "2026-0042"},
            "completedAt": "2026-01-31T12:00:03.120Z",
        }
    ],
    "moreDeliveries": False,
}
EVENT_EXAMPLE: dict[str, Any] = {
    "id": f"{DELIVERY_GID}.1.delivered",
    "kind": "delivery.delivered",
    "at": "2026-01-31T12:00:03.120Z",
    "messageGid": MESSAGE_GID,
    "deliveryGid": DELIVERY_GID,
    "endpointGid": ENDPOINT_GID,
    "data": {"round": 1},
}


class DeliveryResultOut(ApiModel):
    """What became of one delivery."""

    delivery_gid: str
    endpoint_gid: str
    mode: DeliveryMode
    status: DeliveryStatus
    outcome: str | None = Field(None, description="What a person decided, such as `approved`. Else absent.")
    result: Any = Field(
        None,
        description="What the receiver responded: the `result` of its acknowledgement, the `outcome`, `comment` and "
        "`data` of a decision, or the body of its 2xx response if that is JSON of less than 16 KiB. Absent without "
        "one.",
    )
    replayable: bool = Field(False, description="True for a dead letter: it may be delivered yet. Else absent.")
    completed_at: datetime | None = Field(description="When it was settled. Null before.")


class MessageResultOut(ApiModel):
    """What became of a message."""

    model_config = ConfigDict(json_schema_extra={"examples": [RESULT_EXAMPLE]})

    message_gid: str
    state: Literal["settled", "pending"] = Field(
        description="`settled`: each delivery is delivered, dead-lettered or discarded."
    )
    outcome: Outcome | None = Field(
        description="Null while the message is pending, and if it went to no endpoint. `partly`: some deliveries are "
        "delivered, the others are dead letters or discarded."
    )
    deliveries: list[DeliveryResultOut] = Field(description="Of more than 100, the first 100.")
    more_deliveries: bool = Field(
        description="Whether there are others: `GET /v1/deliveries?messageGid={gid}` lists all of them."
    )


class LifecycleEventOut(ApiModel):
    """Something that happened to a message, or to one of its deliveries."""

    model_config = ConfigDict(json_schema_extra={"examples": [EVENT_EXAMPLE]})

    id: str = Field(description="Always the same for the same event.")
    kind: LifecycleKind
    at: datetime
    message_gid: str
    delivery_gid: str | None = Field(description="Null for events of the message.")
    endpoint_gid: str | None
    data: dict[str, Any] = Field(description="Depends on the kind, such as `round`, `verdict`, `statusCode`, `reason`.")

    @classmethod
    def of(cls, event: LifecycleEvent) -> "LifecycleEventOut":
        return cls(
            id=event.id,
            kind=event.kind,
            at=event.at,
            message_gid=event.message_gid,
            delivery_gid=event.delivery_gid,
            endpoint_gid=event.endpoint_gid,
            data=dict(event.data),
        )
