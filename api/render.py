"""Rows as answers."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from fastapi import Response

from api.channels.schemas import ChannelOut
from api.deliveries.schemas import AttemptOut, DeliveryOut, RoundOut, RoundPolicy
from api.endpoints.schemas import CircuitOut, EndpointOut, PublicKeyOut, TlsOut, status_of
from api.messages.schemas import DeliverySummary, MessageOut
from api.receipts.schemas import CheckpointOut, ReceiptOut
from api.schemas import ApiModel
from api.subscriptions.schemas import SubscriptionOut
from everhook.contracts import DeliveryStatus
from everhook.delivery.policy import DeliveryPolicy
from everhook.endpoints.store import EndpointView
from everhook.receipts.receipt import claims_of
from everhook.receipts.strict_json import encode_base64
from everhook.storage.tables import (
    Attempt,
    Channel,
    Delivery,
    Endpoint,
    Message,
    Receipt,
    ReceiptSeal,
    Subscription,
)


def channel(row: Channel) -> ChannelOut:
    return ChannelOut(name=row.name, policy=row.policy, created_at=row.created_at)


def endpoint(view: EndpointView) -> EndpointOut:
    row, circuit = view.endpoint, view.circuit
    return EndpointOut(
        endpoint_gid=row.gid,
        tenant=view.tenant,
        url=row.url,
        description=row.description,
        status=status_of(circuit.hold),
        status_reason=circuit.hold_reason,
        circuit=CircuitOut.model_validate(circuit, extra="ignore"),
        policy=row.policy,
        rate_limit=row.rate_limit,
        signatures=row.signatures,
        format=row.format,
        headers=row.headers,
        metadata=row.details,
        ed25519=any(key.expires_at is None for key in view.public_keys),
        public_keys=public_keys(view),
        tls=_tls(row),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def public_keys(view: EndpointView) -> list[PublicKeyOut]:
    return [PublicKeyOut.model_validate(key) for key in view.public_keys]


def _tls(row: Endpoint) -> TlsOut | None:
    if row.tls_ca is None and row.tls_certificate is None:
        return None
    return TlsOut(ca=row.tls_ca, client_certificate=row.tls_certificate)


def subscription(row: Subscription) -> SubscriptionOut:
    return SubscriptionOut(
        subscription_gid=row.gid,
        endpoint_gid=row.endpoint_gid,
        channel=row.channel,
        events=row.events,
        filter=row.filter,
        enabled=row.enabled,
        created_at=row.created_at,
    )


def message(row: Message, tenant: str | None) -> dict[str, Any]:
    return MessageOut(
        message_gid=row.gid,
        channel_name=row.channel,
        type=row.event_type,
        tenant=tenant,
        idempotency_key=row.idempotency_key,
        published_at=row.published_at,
        accepted_at=row.accepted_at,
        payload_erased_at=row.payload_erased_at,
    ).model_dump()


def summaries(rows: Sequence[Delivery]) -> list[DeliverySummary]:
    return [DeliverySummary(delivery_gid=row.gid, endpoint_gid=row.endpoint_gid, status=row.status) for row in rows]


def delivery(row: Delivery) -> DeliveryOut:
    return DeliveryOut(
        delivery_gid=row.gid,
        message_gid=row.message_gid,
        endpoint_gid=row.endpoint_gid,
        channel_name=row.channel,
        type=row.event_type,
        status=row.status,
        round=row.round,
        attempts_made=row.attempts,
        accepted_at=row.accepted_at,
        next_attempt_at=row.due_at if row.status is DeliveryStatus.RETRYING else None,
        completed_at=row.completed_at,
        dead_lettered_at=row.dead_lettered_at,
        dead_letter_reason=row.reason,
        last_status_code=row.last_status_code,
        last_error=row.last_error,
        decided_by=row.decided_by,
        decided_why=row.decided_why,
    )


def attempts(rows: Sequence[Attempt], receipts: Mapping[str, Receipt]) -> list[AttemptOut]:
    """`receipts` are by the gids of their attempts."""
    return [_attempt(row, receipts.get(row.gid)) for row in rows]


def rounds(found: Mapping[int, tuple[datetime, DeliveryPolicy]]) -> list[RoundOut]:
    return [
        RoundOut(
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


def _attempt(row: Attempt, receipt: Receipt | None) -> AttemptOut:
    return AttemptOut(
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


def receipt(row: Receipt) -> ReceiptOut:
    return ReceiptOut(
        receipt_gid=row.gid,
        delivery_gid=row.delivery_gid,
        attempt_gid=row.attempt_gid,
        round=row.round,
        number=row.number,
        seq=row.seq,
        receipt=row.jws,
        statement=claims_of(row.jws),
        created_at=row.created_at,
    )


def checkpoint(row: ReceiptSeal) -> CheckpointOut:
    return CheckpointOut(size=row.size, root=encode_base64(row.root), checkpoint=row.note, created_at=row.created_at)


def with_payload(detail: ApiModel, payload: bytes | None) -> Response:
    """`detail` with the very bytes that came as its `payload`: written anew, repeated keys, huge numbers and deep
    nesting would not survive. Null where they were erased."""
    content = orjson.Fragment(payload) if payload is not None else None
    shown = detail.model_dump(mode="json", by_alias=True) | {"payload": content}
    return Response(orjson.dumps(shown), media_type="application/json")
