"""Deliveries and attempts as they are shown."""

from datetime import datetime

from pydantic import (
    Field,
)

from api.schemas import ApiModel
from everhook.contracts import DeadLetterReason, DeliveryStatus, Verdict


class DeliveryOut(ApiModel):
    delivery_gid: str
    message_gid: str
    endpoint_gid: str
    channel_name: str
    type: str
    status: DeliveryStatus
    round: int
    attempts_made: int = Field(description="In the current round.")
    accepted_at: datetime
    next_attempt_at: datetime | None
    completed_at: datetime | None
    dead_lettered_at: datetime | None
    dead_letter_reason: DeadLetterReason | None
    last_status_code: int | None
    last_error: str | None
    decided_by: str | None
    decided_why: str | None


class AttemptOut(ApiModel):
    attempt_gid: str
    receipt_gid: str | None = Field(description="Its receipt, to be had at `/v1/receipts/{gid}`.")
    round: int
    number: int
    verdict: Verdict
    started_at: datetime
    duration_ms: int
    status_code: int | None
    error: str | None
    error_detail: str | None
    url: str = Field(description="Where it was sent.")
    request_headers: list[list[str]] | None = Field(description="Of the endpoint's own headers the names alone.")
    request_sha256: str
    response_headers: list[list[str]] | None
    response_body: str | None = Field(description="Up to 16 KiB, as text; bytes that are none are replaced.")
    response_sha256: str | None
    peer_address: str | None
    next_attempt_at: datetime | None


class RoundPolicy(ApiModel):
    """A policy with its schedule as delays. An attempt that fails is followed by the next after its delay."""

    delays_seconds: list[float] = Field(description="Waits after the first, second, … attempt.")
    jitter: float
    timeout_seconds: float
    max_window_seconds: float
    retry_statuses: list[int]


class RoundOut(ApiModel):
    round: int
    began_at: datetime
    policy: RoundPolicy = Field(description="As it was when the round began; the round keeps it.")


class DeliveryDetail(DeliveryOut):
    rounds: list[RoundOut] = Field(description="The current round, and those of `attempts`; oldest first.")
    attempts: list[AttemptOut] = Field(description="Oldest first; of more than 100, the newest 100.")
    earlier_attempts: bool = Field(
        description="Whether there are older ones: `GET /v1/deliveries/{gid}/attempts` lists all of them."
    )


class LiveDelivery(ApiModel):
    """What the delivery's workflow itself says."""

    status: DeliveryStatus
    round: int
    attempt: int
    waiting_for: str = Field(description="`nothing` once it was delivered or discarded.")
    next_attempt_at: datetime | None
    dead_letter_reason: DeadLetterReason | None
