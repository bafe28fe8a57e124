"""The transactional outbox of operational events: an event is written in the transaction of the change that it
reports."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from everhook.storage.tables import OperationalEvent


def record_event(
    session: AsyncSession,
    kind: str,
    *,
    tenant_gid: str | None = None,
    endpoint_gid: str | None = None,
    delivery_gid: str | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    session.add(
        OperationalEvent(
            kind=kind,
            tenant_gid=tenant_gid,
            endpoint_gid=endpoint_gid,
            delivery_gid=delivery_gid,
            data=data or {},
        )
    )
