"""Messages as they are shown."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self

from pydantic import ConfigDict, Field

from api.deliveries.schemas import DELIVERY_GID, ENDPOINT_GID, MESSAGE_GID
from api.problems import ProblemDocument
from api.schemas import ApiModel, Gid, Text
from everhook.contracts import DeadLetterReason, DeliveryStatus
from everhook.publishing.gate_progress_store import GateView
from everhook.publishing.gates import StepState
from everhook.publishing.service import MessageDetail as DetailView
from everhook.publishing.service import MessageView
from everhook.redelivery.service import Redelivery, RedeliveryResult
from everhook.storage import tables
from everhook.storage.tables import GateState

SUMMARY_EXAMPLE: dict[str, Any] = {"deliveryGid": DELIVERY_GID, "endpointGid": ENDPOINT_GID, "status": "accepted"}
REDELIVERED_EXAMPLE: dict[str, Any] = {**SUMMARY_EXAMPLE, "round": 2, "result": "round_opened"}
PUBLISHED_EXAMPLE: dict[str, Any] = {
    "messageGid": MESSAGE_GID,
    "channel": "orders",
    "type": "order.created",
    "publishedAt": "2026-01-31T12:00:00.000Z",
    "deliverAt": None,
    "duplicate": False,
    "deliveries": [SUMMARY_EXAMPLE],
}
MESSAGE_EXAMPLE: dict[str, Any] = {
    "messageGid": MESSAGE_GID,
    "channel": "orders",
    "type": "order.created",
    "tenant": "acme",
    "idempotencyKey": "order-1042",
    "publishedAt": "2026-01-31T12:00:00Z",
    "acceptedAt": "2026-01-31T12:00:00.004Z",
    "payloadErasedAt": None,
    "metadata": {"region": "eu"},
    "endpointGid": None,
    "retry": True,
    "groupKey": None,
    "deliverAt": None,
    "cancelledAt": None,
    "unrouted": False,
    "validationError": None,
}


GATE_EXAMPLE: dict[str, Any] = {
    "gateGid": "gat_01m83prhbfe23sdyzab24cmhby",
    "state": "passed",
    "step": 1,
    "steps": [{"inbox": ENDPOINT_GID, "state": "passed", "taskGid": "tsk_01m83prhbfe23sdyzab24cmhby"}],
    "reason": None,
}


class DeliverySummary(ApiModel):
    """A delivery, in the response that names its message."""

    model_config = ConfigDict(json_schema_extra={"examples": [SUMMARY_EXAMPLE]})

    delivery_gid: str
    endpoint_gid: str
    status: DeliveryStatus


class PublishedMessage(ApiModel):
    """A message that was accepted, with one delivery for each matching endpoint."""

    model_config = ConfigDict(json_schema_extra={"examples": [PUBLISHED_EXAMPLE]})

    message_gid: str
    channel: str
    type: str
    published_at: datetime
    deliver_at: datetime | None = Field(
        description="When its deliveries are created, if that is later; `deliveries` is empty until then."
    )
    duplicate: bool = Field(description="Whether its idempotency key was used before; then nothing new was published.")
    deliveries: list[DeliverySummary]
    validation_error: str | None = Field(
        None, description="Where it does not fit the catalogue of event types; absent if it does, or is not checked."
    )


class PublishedMessages(ApiModel):
    """What became of each message of a batch, in their order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"data": [PUBLISHED_EXAMPLE]}]})

    data: list[PublishedMessage | ProblemDocument] = Field(
        description="A problem document stands for a message whose idempotency key was used with another body."
    )


class TransactionalMessages(ApiModel):
    """The messages that were accepted in one transaction, in their order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"data": [PUBLISHED_EXAMPLE]}]})

    data: list[PublishedMessage]


class RedeliveryRequest(ApiModel):
    """To whom a message is sent again, and why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"endpointGid": ENDPOINT_GID, "reason": "they lost it"}]})

    endpoint_gid: Gid | None = Field(
        None, description="To this endpoint only, also if it does not subscribe to the message."
    )
    reason: Text = Field("", description="Recorded with the deliveries and in the audit trail.")


class RedeliveredDelivery(ApiModel):
    """A delivery of a message that is sent again."""

    model_config = ConfigDict(json_schema_extra={"examples": [REDELIVERED_EXAMPLE]})

    delivery_gid: str
    endpoint_gid: str
    status: DeliveryStatus
    round: int
    result: RedeliveryResult = Field(
        description="`round_opened`: its next round begins. `created`: the endpoint had no delivery of the message. "
        "`left_open`: it is in progress, so nothing was changed. `endpoint_deleted`: there is nowhere to send to."
    )


class RedeliveredMessage(ApiModel):
    """What a replay of a message did."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"messageGid": MESSAGE_GID, "deliveries": [REDELIVERED_EXAMPLE]}]}
    )

    message_gid: str
    deliveries: list[RedeliveredDelivery]

    @classmethod
    def of(cls, redelivery: Redelivery) -> "RedeliveredMessage":
        deliveries = [RedeliveredDelivery.model_validate(each) for each in redelivery.deliveries]
        return cls(message_gid=redelivery.message_gid, deliveries=deliveries)


class Message(ApiModel):
    """A message without its payload."""

    model_config = ConfigDict(json_schema_extra={"examples": [MESSAGE_EXAMPLE]})

    message_gid: str
    channel: str
    type: str
    tenant: str | None
    idempotency_key: str | None
    published_at: datetime
    accepted_at: datetime
    payload_erased_at: datetime | None
    metadata: dict[str, str] = Field(description="Its attributes.")
    endpoint_gid: str | None = Field(description="The endpoint that alone gets it. Null: those that match.")
    retry: bool = Field(description="False: each delivery has one attempt.")
    group_key: str | None = Field(description="Endpoints get the messages with this key in order.")
    deliver_at: datetime | None = Field(description="When its deliveries are created, if that is later.")
    cancelled_at: datetime | None = Field(description="When it was cancelled, before it had deliveries.")
    unrouted: bool = Field(description="Whether it was accepted and no endpoint took it.")
    validation_error: str | None = Field(
        description="Where it does not fit the catalogue of event types, if its channel has the validation `warn`."
    )

    @classmethod
    def of(cls, view: MessageView | DetailView, **more: Any) -> Self:
        """`more` are the further fields of a subclass."""
        row = view.message
        return cls(
            message_gid=row.gid,
            channel=row.channel,
            type=row.event_type,
            tenant=view.tenant,
            idempotency_key=row.idempotency_key,
            published_at=row.published_at,
            accepted_at=row.accepted_at,
            payload_erased_at=row.payload_erased_at,
            metadata=row.attributes or {},
            endpoint_gid=row.endpoint_gid,
            retry=not row.single_attempt,
            group_key=row.group_key,
            deliver_at=row.deliver_at,
            cancelled_at=row.cancelled_at,
            unrouted=bool(row.is_unrouted),
            validation_error=row.validation_error,
            **more,
        )


class GateStepState(ApiModel):
    """A step of a gate."""

    inbox: str | None = Field(description="The endpoint that asks. Null for that of another tenant.")
    state: StepState
    task_gid: str | None = Field(description="Null before it is asked.")


class GateOut(ApiModel):
    """The decisions that the deliveries of a message wait for."""

    model_config = ConfigDict(json_schema_extra={"examples": [GATE_EXAMPLE]})

    gate_gid: str
    state: GateState
    step: int = Field(description="The number of the current step, or of the last one that was asked; from 1.")
    steps: list[GateStepState]
    reason: DeadLetterReason | None = Field(description="Why the deliveries were discarded.")

    @classmethod
    def of(cls, view: GateView) -> "GateOut":
        return cls(
            gate_gid=view.gate.gid,
            state=view.gate.state,
            step=view.step,
            steps=[GateStepState.model_validate(step) for step in view.steps],
            reason=view.gate.reason,
        )


class MessageDetail(Message):
    """A message with its payload and its deliveries."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **MESSAGE_EXAMPLE,
                    "payload": {"orderId": 1042, "amount": 99.5},
                    "deliveryCounts": {"delivered": 1},
                    "deliveries": [{**SUMMARY_EXAMPLE, "status": "delivered"}],
                    "moreDeliveries": False,
                    "gate": GATE_EXAMPLE,
                }
            ]
        }
    )

    payload: Any = Field(description="Null once it was erased.")
    delivery_counts: dict[DeliveryStatus, int] = Field(
        description="How many of all its deliveries are in which status.", examples=[{"delivered": 120, "retrying": 2}]
    )
    deliveries: list[DeliverySummary] = Field(description="Newest first; of more than 100, the newest 100.")
    more_deliveries: bool = Field(
        description="Whether there are others: `GET /v1/deliveries?messageGid={gid}` lists all of them."
    )

    gate: GateOut | None = Field(description="What its deliveries waited or wait for. Null without gates.")

    @classmethod
    def of_detail(cls, view: DetailView) -> "MessageDetail":
        """Without the payload, which is not to be parsed and written again."""
        return cls.of(
            view,
            payload=None,
            delivery_counts=view.counts,
            deliveries=summaries(view.deliveries),
            more_deliveries=view.has_more_deliveries,
            gate=GateOut.of(view.gate) if view.gate is not None else None,
        )


def summaries(rows: Sequence[tables.Delivery]) -> list[DeliverySummary]:
    return [DeliverySummary(delivery_gid=row.gid, endpoint_gid=row.endpoint_gid, status=row.status) for row in rows]
