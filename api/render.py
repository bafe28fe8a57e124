"""Database rows as response models."""

from typing import Any

import orjson
from fastapi import Response

from api.channels.schemas import ChannelOut
from api.endpoints.schemas import (
    CircuitOut,
    EndpointCircuitOut,
    EndpointMode,
    EndpointOut,
    PublicKeyOut,
    TlsOut,
    status_of,
)
from api.schemas import ApiModel
from api.subscriptions.schemas import SubscriptionOut
from everhook.contracts import DeliveryMode
from everhook.endpoints.store import EndpointView
from everhook.storage.tables import Channel, Endpoint, Subscription


def channel(row: Channel, tenant_gid: str | None = None) -> ChannelOut:
    """`tenant_gid`: as a tenant sees it. Gates may name inboxes of other tenants."""
    gates = row.gates if tenant_gid is None else None
    return ChannelOut(
        name=row.name,
        policy=row.policy,
        circuit=row.circuit,
        gates=gates,
        validation=row.validation,
        retention_days=row.retention_days,
        created_at=row.created_at,
    )


def endpoint(view: EndpointView) -> EndpointOut:
    row, circuit = view.endpoint, view.circuit
    return EndpointOut(
        endpoint_gid=row.gid,
        tenant=view.tenant,
        mode=EndpointMode(row.mode),
        url=row.url or None,
        options=_options(row),
        description=row.description,
        status=status_of(circuit.hold),
        status_reason=circuit.hold_reason,
        circuit=EndpointCircuitOut(
            **CircuitOut.model_validate(circuit, extra="ignore").model_dump(), settings=row.circuit
        ),
        policy=row.policy,
        alerts=row.alerts,
        rate_limit=row.rate_limit,
        max_in_flight=row.max_in_flight,
        on_group_failure=row.on_group_failure,
        signatures=row.signatures if row.mode.is_signed else None,
        format=row.format,
        headers=dict.fromkeys(row.headers),
        metadata=row.details,
        ed25519=any(key.expires_at is None for key in view.public_keys),
        public_keys=public_keys(view),
        tls=_tls(row),
        auth=row.auth,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _options(row: Endpoint) -> dict[str, Any] | None:
    if row.mode is DeliveryMode.HTTP and not row.options:
        return None
    defaults = {"leaseSeconds": 60, "maxInFlight": 1_000} if row.mode.is_pulled else {}
    return defaults | row.options


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
        include_payload=row.include_payload,
        created_at=row.created_at,
    )


def with_payload(detail: ApiModel, payload: bytes | None) -> Response:
    """`detail` with the very bytes that came as its `payload`: written anew, repeated keys, huge numbers and deep
    nesting would not survive. Null where they were erased."""
    content = orjson.Fragment(payload) if payload is not None else None
    shown = detail.model_dump(mode="json", by_alias=True) | {"payload": content}
    return Response(orjson.dumps(shown), media_type="application/json")
