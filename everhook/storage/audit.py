"""The audit trail: who changed what, when and from where; written with the change."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from everhook.storage.tables import AuditEntry


@dataclass(frozen=True)
class Actor:
    """Who acts: the name of a key, and the address that it was presented from."""

    name: str
    address: str | None = None
    key_gid: str | None = None


def record_audit(
    session: AsyncSession,
    actor: Actor,
    action: str,
    subject: str,
    *,
    tenant_gid: str | None = None,
    detail: dict[str, Any] | None = None,
) -> AuditEntry:
    """Add an entry to the transaction of the change. `detail` names what changed; never a secret, URL or payload."""
    entry = AuditEntry(
        actor=actor.name,
        key_gid=actor.key_gid,
        action=action,
        subject=subject,
        tenant_gid=tenant_gid,
        address=actor.address,
        detail=detail or {},
    )
    session.add(entry)
    return entry
