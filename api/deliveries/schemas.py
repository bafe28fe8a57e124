"""Deliveries and attempts as they are shown."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field

from api.schemas import ApiModel
from everhook.contracts import DeadLetterReason, DeliveryStatus, Verdict
from everhook.delivery.policy import DeliveryPolicy
from everhook.delivery.service import DeliveryView
from everhook.storage import tables

MAX_ATTEMPTS = 100
"""In one response: with 16 KiB of body each they are a few megabytes."""

DELIVERY_GID, MESSAGE_GID = "dlv_01m83prhbfe23sdyzab24cmhbz", "msg_01m83prhbfe23sdyzab24cmhby"
ENDPOINT_GID = "ep_01m83prhbfe23sdyzab24cmhbx"

DELIVERY_EXAMPLE: dict[str, Any] = {
    "deliveryGid": DELIVERY_GID,
    "messageGid": MESSAGE_GID,
    "endpointGid": ENDPOINT_GID,
    "subscriptionGid": "sub_01m83prhbfe23sdyzab24cmhbw",
    "channel": "orders",
    "type": "order.created",
    "status": "dead_lettered",
    "round": 1,
    "attemptsMade": 1,
    "acceptedAt": "2026-01-31T12:00:00.004Z",
    "nextAttemptAt": None,
    "completedAt": None,
    "deadLetteredAt": "2026-01-31T12:00:00.071Z",
    "deadLetterReason": "rejected",
    "lastStatusCode": 422,
    "lastError": None,
    "resolvedBy": None,
    "resolutionReason": None,
}
ATTEMPT_EXAMPLE: dict[str, Any] = {
    "attemptGid": "att_01m83prhbfe23sdyzab24cmhc0",
    "receiptGid": "rcp_01m83prhbfe23sdyzab24cmhc1",
    "round": 1,
    "number": 1,
    "verdict": "rejected",
    "startedAt": "2026-01-31T12:00:00.010Z",
    "durationMs": 54,
    "statusCode": 422,
    "error": None,
    "errorDetail": None,
    "url": "https://hooks.example.com/orders",
    "requestHeaders": [["content-type", "application/json"], ["webhook-id", MESSAGE_GID]],
    "requestSha256": "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab",
    "responseHeaders": [["content-type", "text/plain"]],
    "responseBody": "no such order",
    "responseSha256": "2f4d7c6d1c1f8a4bd2b61d2a1ff0d38b19f85b4ce1d6f6bfc3f2f5d9e1ad5a10",
    "peerAddress": "203.0.113.7",
    "nextAttemptAt": None,
}
ROUND_EXAMPLE: dict[str, Any] = {
    "round": 1,
    "beganAt": "2026-01-31T12:00:00.004Z",
    "policy": {
        "delaysSeconds": [1, 30, 300, 1800, 7200],
        "jitter": 0.1,
        "timeoutSeconds": 15,
        "maxWindowSeconds": 259200,
        "retryStatuses": [],
    },
}
DETAIL_EXAMPLE: dict[str, Any] = {
    **DELIVERY_EXAMPLE,
    "rounds": [ROUND_EXAMPLE],
    "attempts": [ATTEMPT_EXAMPLE],
    "earlierAttempts": False,
}


class Delivery(ApiModel):
    """One message on its way to one endpoint."""

    model_config = ConfigDict(json_schema_extra={"examples": [DELIVERY_EXAMPLE]})

    delivery_gid: str
    message_gid: str
    endpoint_gid: str
    subscription_gid: str | None = Field(
        description="The oldest subscription that matched. Null for a message to the endpoint itself, and for "
        "deliveries of earlier versions."
    )
    channel: str
    type: str
    status: DeliveryStatus
    round: int
    attempts_made: int = Field(description="In the current round.")
    accepted_at: datetime
    next_attempt_at: datetime | None = Field(
        description="Null unless it waits for its next attempt. One that is pulled can be handed out again then."
    )
    completed_at: datetime | None
    dead_lettered_at: datetime | None
    dead_letter_reason: DeadLetterReason | None
    last_status_code: int | None
    last_error: str | None
    resolved_by: str | None = Field(description="Who asked for the last replay, or for the discard.")
    resolution_reason: str | None = Field(description="The reason that they gave.")

    @classmethod
    def of(cls, row: tables.Delivery, next_attempt_at: datetime | None = None, **more: Any) -> Self:
        """`more` are the further fields of a subclass."""
        return cls(
            delivery_gid=row.gid,
            message_gid=row.message_gid,
            endpoint_gid=row.endpoint_gid,
            subscription_gid=row.subscription_gid,
            channel=row.channel,
            type=row.event_type,
            status=row.status,
            round=row.round,
            attempts_made=row.attempts,
            accepted_at=row.accepted_at,
            next_attempt_at=next_attempt_at,
            completed_at=row.completed_at,
            dead_lettered_at=row.dead_lettered_at,
            dead_letter_reason=row.reason,
            last_status_code=row.last_status_code,
            last_error=row.last_error,
            resolved_by=row.decided_by,
            resolution_reason=row.decided_why,
            **more,
        )


class Attempt(ApiModel):
    """One request to an endpoint, and the response."""

    model_config = ConfigDict(json_schema_extra={"examples": [ATTEMPT_EXAMPLE]})

    attempt_gid: str
    receipt_gid: str | None = Field(description="Its receipt: `GET /v1/receipts/{gid}`.")
    round: int
    number: int
    verdict: Verdict
    started_at: datetime
    duration_ms: int
    status_code: int | None
    error: str | None
    error_detail: str | None
    url: str = Field(description="Where it was sent.")
    request_headers: list[list[str]] | None = Field(description="The values of the endpoint's own headers are hidden.")
    request_sha256: str
    response_headers: list[list[str]] | None
    response_body: str | None = Field(description="Up to 16 KiB, as text; bytes that are not UTF-8 are replaced.")
    response_sha256: str | None
    peer_address: str | None
    next_attempt_at: datetime | None

    @classmethod
    def of(cls, row: tables.Attempt, receipts: Mapping[str, tables.Receipt]) -> "Attempt":
        """`receipts` are by the gids of their attempts."""
        receipt = receipts.get(row.gid)
        return cls(
            attempt_gid=row.gid,
            receipt_gid=receipt.gid if receipt is not None else None,
            round=row.round,
            number=row.number,
            verdict=row.verdict,
            started_at=row.started_at,
            duration_ms=row.duration_ms,
            status_code=row.status_code,
            error=row.error,
            error_detail=row.error_detail,
            url=row.url,
            request_headers=row.request_headers,
            request_sha256=row.request_sha256,
            response_headers=row.response_headers,
            response_body=row.response_body.decode(errors="replace") if row.response_body is not None else None,
            response_sha256=row.response_sha256,
            peer_address=row.peer_address,
            next_attempt_at=row.next_attempt_at,
        )


class RoundPolicy(ApiModel):
    """A policy with its schedule as delays. An attempt that fails is followed by the next after its delay."""

    delays_seconds: list[float] = Field(description="Waits after the first, second, … attempt.")
    jitter: float
    timeout_seconds: float
    max_window_seconds: float
    retry_statuses: list[int]


class Round(ApiModel):
    """The attempts from acceptance, or from a replay, to the end of a policy's schedule."""

    model_config = ConfigDict(json_schema_extra={"examples": [ROUND_EXAMPLE]})

    round: int
    began_at: datetime
    policy: RoundPolicy = Field(description="As it was when the round began; the round keeps it.")


class DeliveryDetail(Delivery):
    """A delivery with its attempts."""

    model_config = ConfigDict(json_schema_extra={"examples": [DETAIL_EXAMPLE]})

    rounds: list[Round] = Field(description="The current round, and those of `attempts`; oldest first.")
    attempts: list[Attempt] = Field(description="Oldest first; of more than 100, the newest 100.")
    earlier_attempts: bool = Field(
        description="Whether there are older ones: `GET /v1/deliveries/{gid}/attempts` lists all of them."
    )

    @classmethod
    def of_view(cls, view: DeliveryView, **more: Any) -> Self:
        """`more` are the further fields of a subclass."""
        return cls.of(
            view.delivery,
            view.next_attempt_at,
            rounds=_rounds(view.rounds),
            attempts=attempts(view.page.attempts[::-1], view.page.receipts),
            earlier_attempts=view.page.next_key is not None,
            **more,
        )


class LiveDelivery(ApiModel):
    """What the delivery's workflow reports."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "retrying",
                    "round": 1,
                    "attempt": 2,
                    "waitingFor": "the next attempt",
                    "nextAttemptAt": "2026-01-31T12:00:31Z",
                    "deadLetterReason": None,
                }
            ]
        }
    )

    status: DeliveryStatus
    round: int
    attempt: int
    waiting_for: str = Field(description="`nothing` once it was delivered or discarded.")
    next_attempt_at: datetime | None
    dead_letter_reason: DeadLetterReason | None


class SignalAccepted(ApiModel):
    """The signal was sent to the delivery's workflow, which acts as soon as it can."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"deliveryGid": DELIVERY_GID, "requested": "attempt_now"}]}
    )

    delivery_gid: str
    requested: Literal["replay", "discard", "attempt_now"]


def attempts(rows: Sequence[tables.Attempt], receipts: Mapping[str, tables.Receipt]) -> list[Attempt]:
    """`receipts` are by the gids of their attempts."""
    return [Attempt.of(row, receipts) for row in rows]


def _rounds(found: Mapping[int, tuple[datetime, DeliveryPolicy]]) -> list[Round]:
    return [
        Round(
            round=number,
            began_at=began_at,
            policy=RoundPolicy(
                delays_seconds=[delay.total_seconds() for delay in policy.delays],
                jitter=policy.jitter,
                timeout_seconds=policy.timeout.total_seconds(),
                max_window_seconds=policy.max_window.total_seconds(),
                retry_statuses=list(policy.retry_statuses),
            ),
        )
        for number, (began_at, policy) in sorted(found.items())
    ]
